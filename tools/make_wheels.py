"""Builds the wheels of all platforms on one Linux machine.

    python tools/make_wheels.py [TARGET ...]        all targets, or some; into dist/

`make wheels` makes the environment for it: zig, from the Python package index, is the
cross compiler, with the C libraries of all targets. Linux and macOS wheels take the
headers of the Python that runs this, for the stable ABI is the same everywhere; for
Windows a small pyconfig.h is written, and an import library of python3.dll is made
from the list of what the stable ABI holds. zig's own run-time library for Windows is
one object, 30 kB in every module that needs a function of it; what little the modules
need comes from elsewhere. tools/check_wheels.py looks at what came
out. A target that cannot be built does not stop the others; the exit status says that
one failed.

Run by a free-threaded Python, which has no stable ABI, it builds wheels for that Python
alone, and none for Windows.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import abi3info
import check_wheels
import ziglang
import zopfli

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
ZIG = Path(ziglang.__file__).with_name("zig")
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
STABLE_SINCE = (3, 11)

# Name: zig's target, the platform as sysconfig names it, the tag of the wheel, the end
# of a file name that is not for the stable ABI.
LINUX_TAG = "manylinux_2_17_{0}.manylinux2014_{0}"
TARGETS = {
    "manylinux_x86_64": (
        *("x86_64-linux-gnu.2.17", "linux-x86_64"),
        *(LINUX_TAG.format("x86_64"), "x86_64-linux-gnu.so"),
    ),
    "manylinux_aarch64": (
        *("aarch64-linux-gnu.2.17", "linux-aarch64"),
        *(LINUX_TAG.format("aarch64"), "aarch64-linux-gnu.so"),
    ),
    "musllinux_x86_64": (
        *("x86_64-linux-musl", "linux-x86_64"),
        *("musllinux_1_2_x86_64", "x86_64-linux-musl.so"),
    ),
    "musllinux_aarch64": (
        *("aarch64-linux-musl", "linux-aarch64"),
        *("musllinux_1_2_aarch64", "aarch64-linux-musl.so"),
    ),
    "macos_arm64": (
        *("aarch64-macos.11.0", "macosx-11.0-arm64"),
        *("macosx_11_0_arm64", "darwin.so"),
    ),
    "macos_x86_64": (
        *("x86_64-macos.11.0", "macosx-11.0-x86_64"),
        *("macosx_11_0_x86_64", "darwin.so"),
    ),
    "windows_amd64": ("x86_64-windows-gnu", "win-amd64", "win_amd64", None),
    "windows_arm64": ("aarch64-windows-gnu", "win-arm64", "win_arm64", None),
}

# What CPython's headers ask of Windows, as far as the stable ABI needs it.
PYCONFIG = """\
#ifndef Py_CONFIG_H
#define Py_CONFIG_H
#include <stddef.h>
#define MS_WINDOWS
#define MS_WIN32
#define MS_WIN64
#define NT_THREADS
#define WITH_THREAD 1
#define HAVE_DECLSPEC_DLL
#define HAVE_SYS_TYPES_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_STDDEF_H 1
#define HAVE_STDINT_H 1
#define HAVE_LONG_LONG 1
#define HAVE_PY_SSIZE_T 1
#define PY_SSIZE_T_MAX PTRDIFF_MAX
#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_WCHAR_T 2
#define ALIGNOF_SIZE_T 8
#define ALIGNOF_MAX_ALIGN_T 16
#define PLATFORM "win32"
#include <stdint.h>
typedef ptrdiff_t Py_ssize_t;
/* A function of the run-time library otherwise. */
#include <math.h>
#undef isnan
#define isnan(x) __builtin_isnan(x)
#endif
"""

# Functions of the run-time library that Windows has, too (from Windows 10 on).
IN_UCRT = ["memcmp", "memcpy", "memmove", "memset", "strlen", "strncmp", "strrchr"]

# The one that it has not: before rax bytes of stack are taken, each page is touched,
# for Windows adds pages to a stack one by one. No register changes.
STACK_PROBE = """\
    .globl ___chkstk_ms
___chkstk_ms:
    push %rcx
    push %rax
    lea 24(%rsp), %rcx
1:  cmp $0x1000, %rax
    jb 2f
    sub $0x1000, %rcx
    orb $0, (%rcx)
    sub $0x1000, %rax
    jmp 1b
2:  sub %rax, %rcx
    orb $0, (%rcx)
    pop %rax
    pop %rcx
    ret
"""


class Failure(Exception):
    """A target cannot be built; the message says why."""


def run(command, log, **options):
    """Run a command; Failure, with the end of its output, where it fails."""
    with open(log, "a") as file:
        print("+", *command, file=file, flush=True)
        done = subprocess.run(command, stdout=file, stderr=file, **options)
    if done.returncode:
        end = Path(log).read_text(errors="replace").splitlines()[-15:]
        raise Failure("\n".join([f"{Path(command[0]).name} failed:", *end]))


def unpacked_sdist(scratch):
    """Folder of an unpacked sdist: wheels of it are what a user gets who builds."""
    log = scratch / "sdist.log"
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation"]
    run([*build, "--outdir", str(scratch), str(ROOT)], log)
    (sdist,) = scratch.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "source", filter="data")
    (source,) = (scratch / "source").iterdir()
    return source


def import_library(dll, symbols, machine, folder):
    """An import library of a DLL for Windows."""
    definitions = folder / f"{dll}.def"
    definitions.write_text("\n".join([f"LIBRARY {dll}", "EXPORTS", *symbols]) + "\n")
    library = folder / f"lib{dll.removesuffix('.dll')}.a"
    run(
        [
            *(str(ZIG), "dlltool", "-D", dll),
            *("-m", {"amd64": "i386:x86-64", "arm64": "arm64"}[machine]),
            *("-d", str(definitions), "-l", str(library)),
        ],
        folder / "dlltool.log",
    )
    return str(library)


def windows_python(folder, machine, compile_one):
    """Headers, in folder/include; a list of what is to be linked to."""
    shutil.copytree(sysconfig.get_path("include"), folder / "include")
    (folder / "include" / "pyconfig.h").write_text(PYCONFIG)
    stable = []
    for symbols, kind in (abi3info.FUNCTIONS, ""), (abi3info.DATAS, " DATA"):
        for symbol, what in symbols.items():
            on_windows = what.ifdef is None or what.ifdef.windows
            since = (what.added.major, what.added.minor)
            if on_windows and since <= STABLE_SINCE:
                stable.append(symbol.name + kind)
    linked = [
        import_library("python3.dll", stable, machine, folder),
        import_library("ucrtbase.dll", IN_UCRT, machine, folder),
    ]
    if machine == "amd64":
        probe = folder / "stack_probe.s"
        probe.write_text(STACK_PROBE)
        linked.append(str(probe.with_suffix(".o")))
        run([*compile_one, "-c", str(probe), "-o", linked[-1]], folder / "probe.log")
    return linked


def compilers(target, scratch):
    """The environment variables that make setuptools compile for the target."""
    zig_target, platform, _, suffix = TARGETS[target]
    compile_one = [str(ZIG), "cc", "-target", zig_target]
    link = [*compile_one, "-shared"]
    variables = {"_PYTHON_HOST_PLATFORM": platform, "AR": f"{ZIG} ar"}
    if target.startswith("windows"):
        if FREE_THREADED:
            raise Failure("a Python without the GIL on Windows needs its own headers")
        folder = scratch / target
        machine = platform.partition("-")[2]
        link += windows_python(folder, machine, compile_one)
        compile_one += ["-I" + str(folder / "include")]
        # -Os: the run-time library for the one module that cannot do without it. The
        # import libraries of the modules are no part of a wheel.
        link += ["-Os", f"-Wl,--out-implib={folder / 'unused.lib'}"]
    elif target.startswith("macos"):
        # -bundle, which CPython uses, crashes this linker.
        link += ["-undefined", "dynamic_lookup"]
        variables["MACOSX_DEPLOYMENT_TARGET"] = "11.0"
    variables["CC"] = shlex.join(compile_one)
    variables["LDSHARED"] = shlex.join(link)
    if FREE_THREADED:
        version = "{}{}t".format(*sys.version_info[:2])
        variables["SETUPTOOLS_EXT_SUFFIX"] = f".cpython-{version}-{suffix}"
    return variables


def pack(wheel):
    """Write the wheel anew, without times and as small as deflate can make it: zopfli
    takes 15 seconds for 5 %."""
    with zipfile.ZipFile(wheel) as archive:
        files = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zopfli.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            info = zipfile.ZipInfo(name)  # of 1980
            info.external_attr = (
                0o755 if name.endswith((".so", ".pyd")) else 0o644
            ) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)


def build(target, source, scratch):
    """The wheel of a target, in DIST."""
    log = scratch / f"{target}.log"
    variables = compilers(target, scratch)
    # Cython's C files are the same for all; what was compiled is not.
    for folder in source.glob("build/[!c]*"):
        if folder.is_dir():
            shutil.rmtree(folder)
    out = scratch / "wheels" / target
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    environment = {**os.environ, **variables}
    environment.pop("LDFLAGS", None)
    environment.pop("CFLAGS", None)
    run([*command, "--outdir", str(out), "."], log, cwd=source, env=environment)
    (wheel,) = out.glob("*.whl")
    tag = [sys.executable, "-m", "wheel", "tags", "--remove"]
    run([*tag, "--platform-tag", TARGETS[target][2], str(wheel)], log)
    (wheel,) = out.glob("*.whl")
    pack(wheel)
    DIST.mkdir(exist_ok=True)
    return Path(shutil.move(wheel, DIST / wheel.name))


def main(targets):
    unknown = set(targets) - set(TARGETS)
    if unknown:
        sys.exit(
            f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}"
        )
    targets = targets or list(TARGETS)
    failed, built = [], []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        print("== sdist", flush=True)
        source = unpacked_sdist(scratch)
        for number, target in enumerate(targets, 1):
            print(f"== {target} ({number} of {len(targets)}) ...", end=" ", flush=True)
            begun = time.monotonic()
            try:
                wheel = build(target, source, scratch)
            except Failure as failure:
                failed.append(target)
                print(f"FAILED\n{failure}", flush=True)
                continue
            built.append(str(wheel))
            seconds = time.monotonic() - begun
            print(f"{wheel.stat().st_size / 1000:.0f} kB, {seconds:.0f} s", flush=True)
    wrong = check_wheels.table(built, run=True) if built else []
    if failed or wrong:
        sys.exit(f"could not be built: {failed}; built, but wrong: {wrong}")


if __name__ == "__main__":
    main(sys.argv[1:])
