"""How the time of an epoch grows with rows, width, depth and batch size.

    python benchmarks/growth.py              figures, and growth.png
    python benchmarks/growth.py --quick      half the points, figures only

Beside scikit-learn, one thread, float32, log axes, runs in alternation; a point is the
median time of a fit divided by its epochs. Then the peak memory of a fit on
1,000,000 x 54 float32, in a process of its own.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from functools import partial
from statistics import median

import measure
import numpy as np
from compare import MARKERS, epochs_lasting
from peers import Cbp, Sklearn
from workloads import Workload

from cbp import _kernels

BASE = Workload("growth", (54, 100, 7), 200, 10_000, "clusters", epochs=1)
PROGRAMS = {"cbp": Cbp, "scikit-learn": Sklearn}
MEMORY_ROWS, MEMORY_COLUMNS = 1_000_000, 54


def axes_of_growth(quick):
    """{label of the x axis: [(x, workload), ...]}"""
    step = 2 if quick else 1
    top = 100_000 if quick else 1_000_000
    rows = [
        n for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 10**6) if n <= top
    ]
    widths = [8, 16, 32, 64, 128, 256, 512, 1024][::step]
    depths = [1, 2, 4, 8, 16, 32][::step]
    batches = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 10_000][::step]
    return {
        "rows (54-100-7, batch 200)": [(n, replace(BASE, rows=n)) for n in rows],
        "hidden units (54-n-n-7, 10,000 rows, batch 200)": [
            (n, replace(BASE, layers=(54, n, n, 7))) for n in widths
        ],
        "hidden layers of 64 (10,000 rows, batch 200)": [
            (n, replace(BASE, layers=(54, *[64] * n, 7))) for n in depths
        ],
        "batch size (54-100-7, 10,000 rows)": [
            (n, replace(BASE, batch_size=n)) for n in batches
        ],
    }


def seconds_per_epoch(workload, least, rounds):
    """{program: seconds}"""
    X, y = workload.load("float32")
    programs, epochs = {}, {}
    for name, program in PROGRAMS.items():
        train = program(workload, X, y, n_threads=1).train
        epochs[name] = epochs_lasting(train, least)
        programs[name] = partial(train, epochs[name])
    taken = measure.alternate(programs, rounds)
    return {name: median(taken[name]) / epochs[name] for name in programs}


def draw(series, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for ax, (label, points) in zip(axes.flat, series.items(), strict=True):
        for name in PROGRAMS:
            marker, grey = MARKERS[name]
            line = [(x, seconds[name]) for x, seconds in points if name in seconds]
            ax.loglog(
                *zip(*line, strict=True),
                "-",
                marker=marker,
                mfc=grey,
                mec="0",
                color="0.5",
                label=name,
            )
        ax.set_xlabel(label)
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
    figure.supylabel("seconds per epoch, float32, one thread")
    axes[0, 0].legend()
    figure.savefig(path, dpi=150)


def measure_memory():
    """Print the MiB by which a fit raises this process's peak memory above its data."""
    import resource

    # Made without copies: the peak so far must be what the data need.
    rng = np.random.default_rng(0)
    X = rng.random((MEMORY_ROWS, MEMORY_COLUMNS), dtype="float32")
    y = rng.integers(0, 7, MEMORY_ROWS)
    small = Cbp(BASE, X[:1000].copy(), y[:1000], n_threads=1)
    small.train(1)  # code and libraries are loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Cbp(replace(BASE, rows=len(X)), X, y, n_threads=1).train(2)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(f"{grown / unit:.0f} MiB beside X ({X.nbytes / 2**20:.0f} MiB) and y")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half the points")
    parser.add_argument(
        "--output", help="name.png is written (default growth; quick: none)"
    )
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        measure_memory()
        return
    pinned = measure.pin_single()
    for line in measure.conditions(_kernels.isa()):
        print(line)
    print(f"{pinned}; {'; '.join(measure.blas_kernels())}")
    least, rounds = (0.05, 3) if args.quick else (0.3, 5)
    series = {}
    for label, workloads in axes_of_growth(args.quick).items():
        print(f"\n| {label} | {' | '.join(PROGRAMS)} |")
        print("|" + "---|" * (1 + len(PROGRAMS)))
        series[label] = []
        for x, workload in workloads:
            seconds = seconds_per_epoch(workload, least, rounds)
            series[label].append((x, seconds))
            cells = [
                f"{1e3 * seconds[n]:.4g} ms" if n in seconds else "–" for n in PROGRAMS
            ]
            print(f"| {x} | {' | '.join(cells)} |", flush=True)
    print("\nPeak memory of a fit on 1,000,000 x 54 float32:", end=" ", flush=True)
    subprocess.run([sys.executable, __file__, "--memory"], check=True)
    output = args.output or (None if args.quick else "growth")
    if output:
        draw(series, measure.HERE / f"{output}.png")


if __name__ == "__main__":
    main()
