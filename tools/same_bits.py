"""Two builds of cbp on the same fits: do they give the same bits?

    python tools/same_bits.py v0.2.0 HEAD       two revisions; each is built once
    python tools/same_bits.py old/bin/python new/bin/python   or two environments

500 configurations of tools/bits.py, drawn by a fixed seed, on every CPU tier that this
machine has. Prints the configurations that differ; exits 1 if there are any. Compare
after each step of a change that is to leave the numbers alone.
"""

import subprocess
import sys
from pathlib import Path

from revision import program

BITS = Path(__file__).resolve().with_name("bits.py")
N = 500


def lines(build, tier):
    """What bits.py prints with one of the builds."""
    python, variables = build
    done = subprocess.run(
        [python, BITS, "-v", "--random", str(N)],
        cwd="/",
        env={**variables, "CBP_ISA": tier},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.splitlines()


def main(before, after):
    before, after = program(before), program(after)
    code = "from cbp import _kernels; print(*_kernels.tiers())"
    python, variables = after
    tiers = subprocess.check_output(
        [python, "-c", code], env=variables, text=True, cwd="/"
    ).split()
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
