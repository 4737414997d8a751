"""Every tier against the scalar one, as a C program of its own (check_tiers.c).

The program is compiled for this CPU and, where Debian's cross compiler and qemu-user
are installed, for aarch64: the NEON tier runs under the emulator.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-static"]
NEON = ["aarch64-linux-gnu-gcc", "qemu-aarch64"]


@pytest.mark.parametrize(
    ("compiler", "runner"),
    [
        (["cc", "gcc", "clang"], []),
        pytest.param(
            NEON[:1],
            NEON[1:],
            marks=pytest.mark.skipif(
                not all(shutil.which(program) for program in NEON),
                reason="needs gcc-aarch64-linux-gnu and qemu-user",
            ),
        ),
    ],
    ids=["native", "aarch64"],
)
def test_every_tier_gives_the_bits_of_the_scalar_tier(compiler, runner, tmp_path):
    compiler = next(filter(None, map(shutil.which, compiler)))
    program = tmp_path / "check_tiers"
    sources = [ROOT / "tests" / "check_tiers.c", *sorted(ROOT.glob("src_c/*.c"))]
    subprocess.run(
        [compiler, *FLAGS, f"-I{ROOT / 'src_c'}", *sources, "-lm", "-o", program],
        check=True,
    )
    done = subprocess.run([*runner, program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().endswith("0 failures")
