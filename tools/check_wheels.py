"""Checks wheels for whatever platform, and prints a table of them.

    python tools/check_wheels.py [--run] dist/*.whl

Checks: the list of files (as in a wheel that was built from this folder: nothing else,
nothing missing), the size, what each extension module links to and with which versions
of symbols, that the code of every tier is there and vectorized, the stable ABI
(abi3audit), the platform tag of glibc wheels (auditwheel). --run: a wheel for this
machine is installed into a fresh environment, and tools/smoke_test.py and tools/bits.py
run there, away from the sources. `make wheels` calls this; the tools that it needs are
those of the extra "wheels".
"""

import platform
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import capstone
import pefile
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
# Bytes: what the wheels have, and 4 %. Kernels for three tiers are in a wheel for
# x86-64, for two in one for arm. Windows keeps tables to unwind the stack; on x86-64 it
# gets fma() with the rest of zig's run-time library, 30 kB.
LIMITS = {"x86": 1_065_000, "arm": 812_000}
LIMITS_ON_WINDOWS = {"x86": 1_140_000, "arm": 860_000}
GLIBC = (2, 17)

# What a module may need of its platform.
LIBRARIES = {
    "manylinux": r"lib[cm]\.so\.6|ld-linux-.*\.so\.\d",
    "musllinux": r"libc\.so|libc\.musl-.*\.so\.1",
    "macosx": r"/usr/lib/libSystem\.B\.dylib",
    "win": r"python3\.dll|kernel32\.dll|api-ms-win-crt-.*\.dll|ucrtbase\.dll",
}

# Vector instructions that a module of kernels has at least, by what they match: fused
# multiply-adds of every tier on its widest registers. There are thousands of each;
# a compiler that does not vectorize leaves a handful.
TIERS = {
    "x86": {"zmm": r"vf\w+ .*zmm", "ymm": r"vf\w+ .*ymm"},
    "arm": {"neon": r"fml[as] v\d+\.(4s|2d)"},
}
LEAST = 500


class Module:
    """An extension module: machine, libraries, versions of symbols, machine code."""

    def __init__(self, path):
        data = path.read_bytes()
        self.versions = set()
        if data[:4] == b"\x7fELF":
            self._read_elf(path)
        elif data[:2] == b"MZ":
            self._read_pe(data)
        else:
            self._read_macho(data)

    def _read_elf(self, path):
        with path.open("rb") as file:
            elf = ELFFile(file)
            self.machine = {"x64": "x86", "AArch64": "arm"}[elf.get_machine_arch()]
            tags = list(elf.get_section_by_name(".dynamic").iter_tags())
            self.libraries = [t.needed for t in tags if t.entry.d_tag == "DT_NEEDED"]
            paths = [t for t in tags if t.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")]
            assert not paths, f"{path.name} has a path of libraries"
            assert elf.get_section_by_name(".symtab") is None, f"{path.name}: -s?"
            needed = elf.get_section_by_name(".gnu.version_r")
            for _, versions in needed.iter_versions() if needed else ():
                self.versions |= {version.name for version in versions}
            self.code = elf.get_section_by_name(".text").data()

    def _read_pe(self, data):
        pe = pefile.PE(data=data)
        self.machine = {0x8664: "x86", 0xAA64: "arm"}[pe.FILE_HEADER.Machine]
        imports = pe.DIRECTORY_ENTRY_IMPORT
        self.libraries = [entry.dll.decode() for entry in imports]
        (text,) = [s for s in pe.sections if s.Name.rstrip(b"\0") == b".text"]
        self.code = text.get_data()

    def _read_macho(self, data):
        magic, cpu, _, _, n_commands = struct.unpack_from("<5I", data)
        assert magic == 0xFEEDFACF, hex(magic)
        self.machine = {0x01000007: "x86", 0x0100000C: "arm"}[cpu]
        self.libraries = []
        at = 32
        for _ in range(n_commands):
            command, size = struct.unpack_from("<2I", data, at)
            if command in (0xC, 0x80000018):  # a library, a weak one
                (name,) = struct.unpack_from("<I", data, at + 8)
                text = data[at + name : at + size]
                self.libraries.append(text.rstrip(b"\0").decode())
            elif command == 0x32:  # the oldest system
                (oldest,) = struct.unpack_from("<I", data, at + 12)
                self.versions.add(f"macOS_{oldest >> 16}.{oldest >> 8 & 255}")
            elif command == 0x19:  # a segment of sections
                (n_sections,) = struct.unpack_from("<I", data, at + 64)
                for k in range(n_sections):
                    section = at + 72 + 80 * k
                    if data[section : section + 16].rstrip(b"\0") == b"__text":
                        length, begin = struct.unpack_from("<QI", data, section + 40)
                        self.code = data[begin : begin + length]
            at += size

    def vector_instructions(self):
        """Counts of TIERS' instructions, disassembled from the whole code."""
        if self.machine == "x86":
            reader = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        else:
            reader = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
        reader.skipdata = True
        found = Counter()
        kinds = {k: re.compile(v) for k, v in TIERS[self.machine].items()}
        for _, _, mnemonic, operands in reader.disasm_lite(self.code, 0):
            if mnemonic.startswith(("vf", "fml")):
                text = f"{mnemonic} {operands}"
                found.update(k for k, pattern in kinds.items() if pattern.match(text))
        return found


def check_files(names):
    """Every Python file of the source tree is in, and nothing that it does not know."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.pyi", "py.typed")
        for path in ROOT.glob(f"cbp/{pattern}")
    }
    modules = {f"cbp/{path.stem}" for path in ROOT.glob("cbp/*.pyx")}
    modules.add("cbp/_cyutility")
    extensions = {name for name in names if name.endswith((".so", ".pyd"))}
    assert {name.partition(".")[0] for name in extensions} == modules, extensions
    others = {n for n in names - extensions if ".dist-info/" not in n}
    assert others == expected, sorted(others ^ expected)


def check_module(name, module, system):
    """Libraries and versions."""
    allowed = re.compile(LIBRARIES[system], re.IGNORECASE)
    wrong = [text for text in module.libraries if not allowed.fullmatch(text)]
    assert not wrong, f"{name} needs {wrong}"
    for version in module.versions:
        family, _, numbers = version.partition("_")
        limit = {"GLIBC": GLIBC, "macOS": (11, 0)}[family]
        assert tuple(map(int, numbers.split("."))) <= limit, f"{name} needs {version}"
    if system == "win":
        assert "python3.dll" in module.libraries, module.libraries


def call(*command, **options):
    """Output of a command; AssertionError where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_for_this_machine(wheel):
    system = {"manylinux": "glibc", "musllinux": ""}.get(system_of(wheel), "none")
    machine = wheel.stem.endswith(platform.machine())
    return machine and system == platform.libc_ver()[0]


def system_of(wheel):
    return re.match("[a-z]+", wheel.stem.split("-")[-1])[0]


def run_wheel(wheel):
    """Install it into a fresh environment and use it; the hash of tools/bits.py."""
    with tempfile.TemporaryDirectory() as folder:
        python = f"{folder}/fresh/bin/python"
        call(sys.executable, "-m", "venv", f"{folder}/fresh")
        call(python, "-m", "pip", "install", "--quiet", str(wheel))
        for name in "smoke_test.py", "bits.py":
            shutil.copy(ROOT / "tools" / name, folder)
        call(python, "smoke_test.py", cwd=folder)
        lines = call(python, "bits.py", cwd=folder).splitlines()
    return next(line.split()[0][:12] for line in lines if line.endswith(" all"))


def check(wheel, run):
    """What the table says of a wheel.

    Raises
    ------
    AssertionError
        Something is wrong with it.
    """
    system = system_of(wheel)
    checked = []
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = {name for name in archive.namelist() if not name.endswith("/")}
        check_files(names)
        checked.append("files")
        counts = Counter()
        for name in sorted(names):
            if name.endswith((".so", ".pyd")):
                module = Module(Path(archive.extract(name, folder)))
                check_module(name, module, system)
                if "_kernels" in name:
                    counts = module.vector_instructions()
    lacking = [kind for kind in TIERS[module.machine] if counts[kind] < LEAST]
    assert not lacking, f"no code for {lacking}: {counts}"
    checked += ["libraries", *(f"{n} {k}" for k, n in sorted(counts.items()))]
    if "-abi3-" in wheel.name:
        call(str(TOOLS / "abi3audit"), "--strict", str(wheel))
        checked.append("abi3audit")
    if system == "manylinux":
        shown = " ".join(call(str(TOOLS / "auditwheel"), "show", str(wheel)).split())
        assert re.search(r'platform tag: "manylinux_2_(5|12|17)_', shown), shown
        checked.append("auditwheel")
    limit = (LIMITS_ON_WINDOWS if system == "win" else LIMITS)[module.machine]
    size = wheel.stat().st_size
    assert size <= limit, f"{size} bytes, at most {limit}"
    ran = "-"
    if run and is_for_this_machine(wheel):
        ran = f"import, smoke test, bits {run_wheel(wheel)}"
    return ", ".join(checked), ran


def table(paths, run):
    """Check wheels and print the table; the names of those that are wrong."""
    failed, rows = [], []
    for wheel in sorted(map(Path, paths)):
        print(f"== checking {wheel.name}", flush=True)
        try:
            checked, ran = check(wheel, run)
        except AssertionError as error:
            failed.append(wheel.name)
            print(f"FAILED: {error}", flush=True)
            checked, ran = "FAILED", "-"
        tag = wheel.stem.split("-", 2)[2]
        rows.append([tag, f"{wheel.stat().st_size / 1000:.0f} kB", checked, ran])
    print("\n| wheel | size | checked | run here |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print("\nRun elsewhere: make test-platforms. Free-threaded wheels: only by CI.")
    return failed


if __name__ == "__main__":
    if not (paths := [name for name in sys.argv[1:] if name != "--run"]):
        sys.exit(__doc__)
    if wrong := table(paths, "--run" in sys.argv):
        sys.exit(f"wrong: {', '.join(wrong)}")
