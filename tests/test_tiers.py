"""Every tier against the scalar one, by C code of its own (check_tiers.c).

The tiers of this CPU are tested as they stand in the built extension: the code that
users run. Where qemu-user and a compiler for aarch64 are installed (Debian's cross
compiler, or PyPI's ziglang), all of src_c is compiled for aarch64, too, and the NEON
tier runs under the emulator. More platforms: tools/test_platforms.py.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from kernel_table import DTYPES, TIERS

from cbp import _kernels

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", f"-I{ROOT / 'src_c'}"]
CHECK = ROOT / "tests" / "check_tiers.c"
EMULATOR = shutil.which("qemu-aarch64")


def arm_compiler():
    """The command of a compiler for aarch64, or None."""
    if shutil.which("aarch64-linux-gnu-gcc"):
        return ["aarch64-linux-gnu-gcc"]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    return None


@pytest.fixture(scope="module")
def check_table(tmp_path_factory):
    """The function of check_tiers.c; it computes nothing that -O3 would make faster."""
    compilers = [os.environ.get("CC", "cc"), "cc", "gcc", "clang"]
    compiler = next(filter(None, map(shutil.which, compilers)))
    library = tmp_path_factory.mktemp("check") / "check_tiers.so"
    subprocess.run(
        [compiler, *FLAGS, "-O1", "-shared", "-fPIC", CHECK, "-o", library], check=True
    )
    function = ctypes.CDLL(str(library)).check_table
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return function


@pytest.mark.thread_unsafe(reason="check_tiers.c has one generator")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tier", TIERS[1:])
def test_every_tier_gives_the_bits_of_the_scalar_tier(check_table, tier, dtype):
    tested, oracle = (_kernels.table_address(name, dtype) for name in (tier, "scalar"))
    assert check_table(tested, oracle) == 0


@pytest.mark.skipif(
    not (EMULATOR and arm_compiler()),
    reason="needs qemu-user, and gcc-aarch64-linux-gnu or ziglang",
)
def test_the_neon_tier_gives_the_bits_of_the_scalar_tier(tmp_path):
    compiler = arm_compiler()
    program = tmp_path / "check_tiers"
    sources = [CHECK, *ROOT.glob("src_c/*.c")]

    def compile(source):
        made = tmp_path / f"{source.stem}.o"
        flags = [*FLAGS, "-O3", "-DCBP_PROGRAM"]  # -O3 as in setup.py
        subprocess.run([*compiler, *flags, "-c", source, "-o", made], check=True)
        return made

    # Two files take nearly all of the time: those of the scalar and the NEON tier.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, sources))
    subprocess.run([*compiler, "-static", *objects, "-lm", "-o", program], check=True)
    done = subprocess.run([EMULATOR, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "neon, 8 bytes" in done.stdout
    assert done.stdout.rstrip().endswith(" 0 failures")
