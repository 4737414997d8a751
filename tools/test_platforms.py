"""Runs cbp on every platform that one Linux machine can run or emulate: a table.

    make test-platforms                              everything, an hour or more
    make test-platforms PLATFORMS="neon wine"        some parts

Parts:
    native   check_tiers for glibc, built by gcc and by clang
    x86      the same programs on emulated CPUs: without FMA, and with AVX2
    musl     check_tiers for musl on x86-64
    arm      check_tiers for musl and glibc on aarch64, emulated
    wine     check_tiers for Windows on x86-64, by wine
    avx512   the AVX-512 tier on pairs of AVX2 registers: check_tiers and tests
    neon     the whole test suite on aarch64, emulated, with a wheel from dist/ if one
             is there and newer than the sources; file by file, hours. Stopped and
             started again, it goes on with the next file
    pythons  the native wheel in every CPython of this machine
    bits     one hash of tools/bits.py for each tier, compiler and architecture

check_tiers is tests/check_tiers.c, which compares tiers and hashes what they compute.
A row whose hash is not that of the first row with such a hash has failed.
clang is that of PyPI's ziglang, which brings the C libraries of all targets. Emulators
are Debian packages, installed if this runs as root, else named. Everything is made in
build/platforms. Exits 1 if anything that could be run failed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "platforms"
C_FLAGS = ["-std=gnu11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno"]
# Where a program of check_tiers is at home.
TARGETS = {
    "glibc": "x86_64-linux-gnu.2.17",
    "musl": "x86_64-linux-musl",
    "windows": "x86_64-windows-gnu",
    "arm-glibc": "aarch64-linux-gnu.2.17",
    "arm-musl": "aarch64-linux-musl",
}
PAIRS = "-DCBP_EMULATE_AVX512"
PACKAGES = {"qemu-aarch64": "qemu-user", "qemu-x86_64": "qemu-user", "wine": "wine"}
# Tests that cannot run under qemu-user, each with its cause.
NOT_UNDER_QEMU = {}
# What an AVX-512 tier on pairs is tested by: all that computes.
KERNEL_TESTS = ["tiers", "kernels", "math", "gradients", "batch", "training"]
KERNEL_TESTS += ["prediction", "bounds", "extremes"]
# The same in every Python: a part that shows that the wheel works there.
PYTHON_TESTS = ["batch", "training", "prediction", "bounds", "threads"]
PYTHON_TESTS += ["fitted", "recorder", "datasets"]
# Under an emulator the whole suite takes hours: what depends on the CPU comes first.
FIRST_TESTS = ["math", "kernels", "gradients", "tiers", "batch", "training"]
FIRST_TESTS += ["prediction", "recorder", "same_run"]
NEVER_RUN = (
    "Only compiled, never run here: macOS (arm64, x86-64) and the Python of Windows; "
    "there is no emulator of the first and no installer of the second. musl: "
    "check_tiers only, as Debian has no Python for it."
)

rows = []
# What the first row of a kind computed: "kernels" (check_tiers) or "bits" (bits.py).
first_bits = {}


def unknown_tests():
    """Test files that a list names and tests/ does not have."""
    names = [*KERNEL_TESTS, *PYTHON_TESTS, *FIRST_TESTS]
    files = {f"test_{name}.py" for name in names}
    files |= {test.partition("::")[0] for test in NOT_UNDER_QEMU}
    return sorted(file for file in files if not (ROOT / "tests" / file).exists())


class NotHereError(Exception):
    """Why something cannot be run on this machine."""


def run(command, log, timeout=3600, **environment):
    """The output of a command, which also goes to a log; CalledProcessError."""
    log = HOME / "logs" / f"{log}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=environment.pop("cwd", ROOT),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    text = log.read_text(errors="replace")
    if done.returncode:
        lines = text.strip().splitlines()[-30:]
        print("\n".join([f"== failed, see {log.relative_to(ROOT)}:", *lines]))
        raise subprocess.CalledProcessError(done.returncode, command, text)
    return text


def row(platform, built, what, body):
    """Adds a line to the table: body returns (result, hash), or raises.

    A hash begins with its kind. All of one kind must be the same.
    """
    print(f"== {platform}, {built}: {what}", flush=True)
    start = time.monotonic()
    try:
        result, bits = body()
    except NotHereError as error:
        result, bits = f"not run: {error}", ""
    except subprocess.TimeoutExpired as error:
        result, bits = f"FAILED: {error.timeout:.0f} s were not enough", ""
    except subprocess.CalledProcessError as error:
        result, bits = f"FAILED: {error.output.strip().splitlines()[-1:]}", ""
    kind = bits.partition(" ")[0]
    if bits and bits != first_bits.setdefault(kind, bits):
        result = f"FAILED: not the bits of the first row ({result})"
    rows.append((platform, built, what, result, bits))
    print(f"   {result} {bits} ({time.monotonic() - start:.0f} s)", flush=True)


def need(program):
    """Sees to it that a program is there."""
    if shutil.which(program):
        return program
    package = PACKAGES[program]
    if os.geteuid() or not shutil.which("apt-get"):
        raise NotHereError(f"needs Debian's package {package}")
    print(f"== apt-get install {package} (this runs as root)", flush=True)
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    try:
        run(["apt-get", "update"], "apt-update")
        run(install, f"apt-{package}", DEBIAN_FRONTEND="noninteractive")
    except subprocess.CalledProcessError:
        raise NotHereError(f"apt-get could not install {package}") from None
    return program


def script(name, *lines):
    """An executable shell script, for whoever takes one program and no arguments."""
    path = HOME / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def zig(target, command="cc"):
    """clang for a target; nothing of it depends on the CPU that compiles."""
    options = f"-target {target} " if command == "cc" else ""
    return script(
        f"{command}-{target}",
        f"export ZIG_GLOBAL_CACHE_DIR={HOME}/zig ZIG_LOCAL_CACHE_DIR={HOME}/zig",
        f'exec {sys.executable} -m ziglang {command} {options}"$@"',
    )


# ---- check_tiers ---------------------------------------------------------------------


def check_tiers(name, compiler, *flags, link=()):
    """The program, compiled anew."""
    folder = HOME / "check" / name
    folder.mkdir(parents=True, exist_ok=True)
    sources = [ROOT / "tests" / "check_tiers.c", *sorted(ROOT.glob("src_c/*.c"))]

    def compile(source):
        made = folder / f"{source.stem}.o"
        command = [compiler, *C_FLAGS, *flags, "-DCBP_PROGRAM", f"-I{ROOT / 'src_c'}"]
        run([*command, "-c", source, "-o", made], f"check-{name}-{source.stem}")
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, sources))
    # Wine wants this ending; the others do not care.
    program = folder / "check_tiers.exe"
    run([compiler, *objects, *link, "-lm", "-o", program], f"check-{name}-link")
    return program


def checked(name, command, timeout=3600, **environment):
    """Runs it: the tiers that it compared, and its hashes."""
    text = run(command, f"check-{name}", timeout, **environment)
    found = re.findall(r"(\w+), (\d) bytes: hash (\w{8})", text)
    powers = re.search(r"powers: hash (\w{8})", text)[1]
    tiers = list(dict.fromkeys(tier for tier, _, _ in found))
    hashes = {size: bits for _, size, bits in found}
    return (
        "passed: " + ", ".join(tiers),
        f"kernels {hashes['4']} {hashes['8']}, powers {powers}",
    )


def check_row(platform, built, name, compiler, *flags, command=(), link=(), **more):
    def body():
        programs = [need(command[0])] if command else []
        program = check_tiers(name, compiler, *flags, link=link)
        return checked(name, [*programs, *command[1:], program], **more)

    row(platform, built, "check_tiers", body)


def part_native():
    check_row("glibc x86-64", "gcc", "gcc", "gcc")
    check_row("glibc 2.17 x86-64", "clang", "glibc", zig(TARGETS["glibc"]))


def part_x86():
    for cpu in ("Nehalem", "Haswell"):
        for name in ("gcc", "glibc"):
            built = {"gcc": "gcc", "glibc": "clang"}[name]
            command = ("qemu-x86_64", "-cpu", cpu)
            compiler = "gcc" if name == "gcc" else zig(TARGETS["glibc"])
            check_row(f"{cpu}, emulated", built, name, compiler, command=command)


def part_musl():
    compiler = zig(TARGETS["musl"])
    check_row("musl x86-64", "clang", "musl", compiler, link=["-static"])


def part_arm():
    emulator = ("qemu-aarch64",)
    compiler = zig(TARGETS["arm-musl"])
    check_row(
        "musl aarch64, emulated", "clang", "arm-musl", compiler, command=emulator,
        link=["-static"],
    )  # fmt: skip
    emulator = ("qemu-aarch64", "-L", HOME / "arm" / "root")
    compiler = zig(TARGETS["arm-glibc"])

    def body():
        need("qemu-aarch64")
        arm_root()
        program = check_tiers("arm-glibc", compiler)
        return checked("arm-glibc", [*emulator, program])

    row("glibc aarch64, emulated", "clang", "check_tiers", body)


def part_wine():
    compiler = zig(TARGETS["windows"])
    environment = {
        "WINEPREFIX": str(HOME / "wine"),
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",  # else it asks for Mono and Gecko
        "DISPLAY": "",
    }
    check_row(
        "Windows x86-64, wine", "clang", "windows", compiler, command=("wine",),
        timeout=3600, **environment,
    )  # fmt: skip


# ---- builds of the whole package -----------------------------------------------------


def sources(name):
    """A copy of the sources, to be built in its own way."""
    folder = HOME / "builds" / name
    for part in ("cbp", "src_c", "tests", "tools", "docs"):
        shutil.rmtree(folder / part, ignore_errors=True)
        built = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
        shutil.copytree(ROOT / part, folder / part, ignore=built)
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, folder)
    return folder


def in_place(name, **environment):
    """The copy `name` with its modules compiled in place, and what cbp looks for."""
    folder = sources(name)
    command = [sys.executable, "setup.py", "-q", "build_ext", "-i", "egg_info"]
    run(command, f"build-{name}", cwd=folder, **environment)
    return folder


def clang_build(target):
    """What makes setuptools compile for a target."""
    compiler = zig(target)
    return {"CC": str(compiler), "LDSHARED": f"{compiler} -shared", "LDFLAGS": "-s"}


def tests(python, folder, names, log, *arguments, **environment):
    """Runs test files; the line that pytest ends with."""
    files = [f"tests/test_{name}.py" for name in names]
    command = [*python, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    text = run([*command, *files], log, 4 * 3600, cwd=folder, **environment)
    return text.strip().splitlines()[-1].strip("= ").split(" in ")[0]


def part_avx512():
    check_row("AVX-512 on pairs", "gcc", "pairs", "gcc", PAIRS)
    compiler = zig(TARGETS["glibc"])
    check_row("AVX-512 on pairs", "clang", "pairs-clang", compiler, PAIRS)

    def body():
        folder = in_place("pairs", CFLAGS=PAIRS)
        python = [sys.executable]
        return tests(python, folder, KERNEL_TESTS, "pairs", CBP_ISA="avx512"), ""

    row("AVX-512 on pairs", "gcc", f"tests of {', '.join(KERNEL_TESTS)}", body)


def wheel(pattern, build):
    """The wheel of dist/ if it is newer than all sources, else what build() makes."""
    files = [*ROOT.glob("cbp/*.p*"), *ROOT.glob("src_c/*"), ROOT / "setup.py"]
    newest = max(file.stat().st_mtime for file in files)
    for found in ROOT.glob(f"dist/{pattern}"):
        if found.stat().st_mtime > newest:
            return found
    return build()


def build_wheel(name, **environment):
    folder = sources(name)
    made = folder / "dist"
    shutil.rmtree(made, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation"]
    command += ["--no-deps", "-w", made, "."]
    run(command, f"wheel-{name}", cwd=folder, **environment)
    (found,) = made.glob("*.whl")
    return found


def arm_wheel():
    target = clang_build(TARGETS["arm-glibc"])
    return build_wheel("arm", _PYTHON_HOST_PLATFORM="linux-aarch64", **target)


# ---- Python on aarch64 ---------------------------------------------------------------


def arm_root():
    """A folder with Debian's Python for aarch64; this machine's apt is left alone."""
    root, apt = HOME / "arm" / "root", HOME / "arm" / "apt"
    if (root / "complete").exists():
        return root
    if not shutil.which("apt-get"):
        raise NotHereError("needs apt-get")
    for path in ("etc/apt.conf.d", "etc/preferences.d", "state/lists/partial"):
        (apt / path).mkdir(parents=True, exist_ok=True)
    (apt / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (apt / "state/status").touch()
    for name in ("sources.list", "sources.list.d", "trusted.gpg.d"):
        target = apt / "etc" / name
        if not target.exists() and Path("/etc/apt", name).exists():
            target.symlink_to(Path("/etc/apt", name))
    (apt / "apt.conf").write_text(
        f'Dir "{apt}"; Dir::Etc "etc"; Dir::State "state"; Dir::Cache "cache";\n'
        f'Dir::State::status "{apt}/state/status"; APT::Architecture "arm64";\n'
        'APT::Architectures {"arm64";}; APT::Sandbox::User "root";\n'
        'Debug::NoLocking "1";\n'
    )
    config = {"APT_CONFIG": str(apt / "apt.conf")}
    run(["apt-get", "-q", "update"], "arm-apt-update", **config)
    command = ["apt-get", "-q", "install", "-y", "--download-only"]
    command += ["--no-install-recommends", "python3", "libstdc++6", "libgomp1"]
    run(command, "arm-apt-download", **config)
    root.mkdir(exist_ok=True)
    for package in apt.glob("cache/archives/*.deb"):
        run(["dpkg-deb", "-x", package, root], "arm-dpkg")
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    (root / "complete").touch()
    return root


def arm_python():
    """An executable that is Python on aarch64, with what cbp and its tests need."""
    need("qemu-aarch64")
    root, site = arm_root(), HOME / "arm" / "site"
    program = max(root.glob("usr/bin/python3.?*[0-9]"))
    version = program.name.removeprefix("python")
    if not (site / "complete").exists():
        command = [sys.executable, ROOT / "tools/requirements.py", "run", "test"]
        needed = run(command, "arm-requirements").split("\n")
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", site]
        for glibc in (17, 24, 26, 27, 28, 31, 34):
            command += ["--platform", f"manylinux_2_{glibc}_aarch64"]
        command += ["--platform", "manylinux2014_aarch64", "--python-version", version]
        command += ["--only-binary", ":all:", *filter(None, needed)]
        run(command, "arm-pip")
        (site / "complete").touch()
    path = HOME / "bin" / "python-arm"
    # The tests start Python anew: by this script, as the kernel knows no such program.
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.executable = sys._base_executable = {str(path)!r}\n"
    )
    return script(
        path.name,
        f'export PYTHONPATH="$PYTHONPATH:{HOME}/arm/cbp:{site}"',
        f'exec qemu-aarch64 -L {root} {program} -B "$@"',
    )


def arm_installed():
    """(Python, what wheel) with cbp's wheel on its path."""
    python = arm_python()
    path = wheel("cbp*-abi3-*aarch64.whl", arm_wheel)
    shutil.rmtree(HOME / "arm" / "cbp", ignore_errors=True)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(HOME / "arm" / "cbp")
    return python, path


def state_of_sources():
    """A hash of all that decides whether a test passes."""
    patterns = ["cbp/*.p*", "src_c/*", "tests/**/*", "docs/*", "tools/*", "*.py"]
    files = {file for pattern in patterns for file in ROOT.glob(pattern)}
    state = hashlib.sha256()
    for file in sorted(files | {ROOT / "pyproject.toml", ROOT / "README.md"}):
        if file.is_file() and file.suffix != ".pyc":
            state.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode())
            state.update(file.read_bytes())
    return state.hexdigest()[:16]


def file_by_file(run_file, record):
    """Every test file by itself; what all of them come to.

    A line of `record` is a file that passed. It is not run again from the same sources,
    so a run that was stopped goes on with the next file.
    """
    state = state_of_sources()
    lines = record.read_text().splitlines() if record.exists() else []
    passed = dict(line.split(": ")[1:] for line in lines if line.startswith(state))
    failed, numbers = [], {}
    names = [file.stem[len("test_") :] for file in ROOT.glob("tests/test_*.py")]
    for name in dict.fromkeys([*FIRST_TESTS, *sorted(names)]):
        start, when = time.monotonic(), "before"
        if name not in passed:
            try:
                passed[name] = run_file(name)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                failed.append(name)
            else:
                with record.open("a") as file:
                    file.write(f"{state}: {name}: {passed[name]}\n")
            when = f"{time.monotonic() - start:.0f} s"
        print(f"   {name}: {passed.get(name, 'FAILED')} ({when})", flush=True)
        for number, word in re.findall(r"(\d+) (\w+)", passed.get(name, "")):
            numbers[word] = numbers.get(word, 0) + int(number)
    if failed:
        raise subprocess.CalledProcessError(1, "pytest", ", ".join(failed))
    return ", ".join(f"{number} {word}" for word, number in numbers.items())


def part_neon():
    def body():
        python, path = arm_installed()
        print(f"   {path.name}", flush=True)
        folder = HOME / "arm" / "tests"
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("tests", "docs", "src_c", "tools"):
            shutil.copytree(ROOT / part, folder / part)
        for file in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / file, folder)
        options = ["-n", "auto", "-v", "-o", "timeout=7200"]
        options += [f"--deselect=tests/{test}" for test in NOT_UNDER_QEMU]
        compiler = str(zig(TARGETS["arm-glibc"]))

        def run_file(name):
            log = f"neon-{name}"
            return tests([python], folder, [name], log, *options, CC=compiler)

        return file_by_file(run_file, HOME / "arm" / "passed.txt"), ""

    row("glibc aarch64, emulated", "clang", "wheel, the whole test suite (NEON)", body)


# ---- every Python, every tier --------------------------------------------------------


def pythons():
    """(version, program) of each CPython that the wheel is for."""
    found = {}
    candidates = list(Path.home().glob(".pyenv/versions/*/bin/python3"))
    names = (f"python3.{minor}" for minor in range(11, 30))
    candidates += filter(None, map(shutil.which, names))
    ask = (
        "import sys, sysconfig; v = sys.version_info; print(v.major, v.minor, "
        "sys.implementation.name, sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    )
    for program in candidates:
        done = subprocess.run([program, "-c", ask], capture_output=True, text=True)
        if done.returncode or done.stdout.split()[2:] != ["cpython", "0"]:
            continue
        version = tuple(map(int, done.stdout.split()[:2]))
        if version >= (3, 11):
            found.setdefault(version, program)
    return sorted(found.items())


def part_pythons():
    path = wheel("cbp*-abi3-*x86_64.whl", lambda: build_wheel("native"))
    for version, program in pythons():
        name = "{}.{}".format(*version)

        def body(program=program, name=name):
            place = HOME / f"python{name}"
            shutil.rmtree(place, ignore_errors=True)
            run([program, "-m", "venv", place / "venv"], f"venv-{name}")
            python = place / "venv/bin/python"
            command = [python, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
            command += [path, "pytest>=8", "pytest-timeout"]
            try:
                run(command, f"pip-{name}")
            except subprocess.CalledProcessError:
                raise NotHereError("no binary wheels of what cbp needs") from None
            shutil.copytree(ROOT / "tests", place / "tests")
            shutil.copy2(ROOT / "pyproject.toml", place)
            smoke = [python, ROOT / "tools/smoke_test.py"]
            run(smoke, f"smoke-{name}", cwd=place)
            done = tests([python], place, PYTHON_TESTS, f"python-{name}")
            bits = run([python, ROOT / "tools/bits.py"], f"bits-{name}", cwd=place)
            return f"smoke test; {done}", common_hash(bits)

        row(f"CPython {name}", "gcc", "wheel, part of the tests", body)


def common_hash(text):
    """What must be the same everywhere: not L-BFGS, whose BLAS is the machine's."""
    (line,) = [line for line in text.splitlines() if line.endswith("  all")]
    return f"bits {line[:16]}"


def part_bits():
    def bits(name, command, folder, **environment):
        command = [*command, ROOT / "tools" / "bits.py"]
        path = {"PYTHONPATH": str(folder)} if folder else {}
        text = run(command, f"bits-{name}", cwd=HOME, **path, **environment)
        return "done", common_hash(text)

    builds = {
        "gcc": lambda: in_place("gcc"),
        "clang": lambda: in_place("clang", **clang_build(TARGETS["glibc"])),
        "pairs": lambda: in_place("pairs", CFLAGS=PAIRS),
    }
    for name, build in builds.items():
        folder = build()
        ask = "import cbp._kernels as k; print(*k.tiers())"
        tiers = run([sys.executable, "-c", ask], "tiers", cwd=folder).split()
        for tier in tiers if name != "pairs" else ["avx512"]:

            def body(name=name, folder=folder, tier=tier):
                return bits(f"{name}-{tier}", [sys.executable], folder, CBP_ISA=tier)

            what = "AVX-512 on pairs" if name == "pairs" else tier
            row("glibc x86-64", name.replace("pairs", "gcc"), f"bits: {what}", body)
    for tier in ("scalar", "neon"):

        def body(tier=tier):
            python, _ = arm_installed()
            return bits(f"arm-{tier}", [python], None, CBP_ISA=tier)

        row("glibc aarch64, emulated", "clang", f"bits: {tier}", body)

    def body():
        command = [need("qemu-x86_64"), "-cpu", "Nehalem", sys.executable]
        return bits("nehalem", command, HOME / "builds" / "gcc")

    row("no FMA, emulated", "gcc", "bits: scalar", body)


PARTS = {
    name.removeprefix("part_"): function
    for name, function in list(globals().items())
    if name.startswith("part_")
}


def main(names):
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"no parts of these names: {sorted(unknown)}; there are {list(PARTS)}")
    if unknown := unknown_tests():
        sys.exit(f"this program lists tests that do not exist: {', '.join(unknown)}")
    for name in names or PARTS:
        PARTS[name]()
    heads = ("platform", "built with", "what was run", "result", "hash")
    table = [heads, *rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    table.insert(1, tuple("-" * width for width in widths))
    print()
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("| " + " | ".join(cells) + " |")
    print("\n" + NEVER_RUN)
    return any(line[3].startswith("FAILED") for line in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
