"""Two builds of cbp on the same fits: do they give the same bits?

    python tools/same_bits.py BEFORE AFTER      two Python programs, one cbp in each

500 configurations of tools/bits.py, drawn by a fixed seed, on every CPU tier that this
machine has. Prints the configurations that differ; exits 1 if there are any. Before a
change of the compiled rooms: install the present package into an environment of its own
(`pip install .` of a clean checkout), and compare after each step.
"""

import os
import subprocess
import sys
from pathlib import Path

BITS = Path(__file__).resolve().with_name("bits.py")
N = 500


def lines(python, tier):
    """What bits.py prints in one of the environments."""
    done = subprocess.run(
        [python, BITS, "-v", "--random", str(N)],
        cwd="/",
        env={**os.environ, "CBP_ISA": tier},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.splitlines()


def main(before, after):
    code = "from cbp import _kernels; print(*_kernels.tiers())"
    tiers = subprocess.check_output([after, "-c", code], text=True, cwd="/").split()
    worst = 0
    for tier in tiers:
        old, new = lines(before, tier), lines(after, tier)
        differing = [b for a, b in zip(old[1:-1], new[1:-1], strict=True) if a != b]
        print(f"{tier:8} {len(new) - 2} fits, {len(differing)} differ", flush=True)
        for line in differing[:20]:
            print(f"    {line}")
        worst = max(worst, len(differing))
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) > 0)
