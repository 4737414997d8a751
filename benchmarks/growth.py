"""How the time of an epoch grows with rows, width, depth and batch size; peak memory.

    python benchmarks/growth.py              about eight minutes
    python benchmarks/growth.py --quick      under two minutes: half the points

Writes the section "Growth" of results.md, and growth.png. Compares with scikit-learn,
PyTorch (eager, because compiling takes half a minute per point) and JAX, on one thread
in float32. Runs alternate. The time of an epoch is the time of a run of several epochs,
minus the time of a run of one, per epoch. Work that is done once per run (checks,
labels, copies) would otherwise count more in short runs. The time is CPU time, because
points are minutes apart and other programs would change the curves. If an epoch of a
program takes too long, the program is not timed at that point and at later points of
the series. At the end a separate process measures the peak memory of a fit on
1,000,000 x 54 float32, without the memory for data and libraries.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import measure
import numpy as np
from peers import MARKS, Cbp, prepare
from report import Report, parser
from workloads import Workload

from cbp import _kernels

BASE = Workload("growth", (54, 100, 7), 200, 10_000, "clusters", epochs=1)
NAMES = ["cbp", "scikit-learn", "PyTorch eager", "JAX"]
MEMORY_ROWS, MEMORY_COLUMNS, MEMORY_PROMISE = 1_000_000, 54, 64  # MiB


def axes_of_growth(quick):
    """{label of the x axis: [(x, workload), ...]}, the slowest last in each list."""
    step = 2 if quick else 1
    rows = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    widths = [8, 16, 32, 64, 128, 256, 512, 1024][::step]
    depths = [1, 2, 4, 8, 16, 32][::step]
    batches = [10_000, 4096, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1][::step]
    return {
        "rows (54-100-7, batch 200)": [
            (n, replace(BASE, rows=n)) for n in rows[: 5 if quick else 7 : step]
        ],
        "hidden units n (54-n-n-7, 10,000 rows, batch 200)": [
            (n, replace(BASE, layers=(54, n, n, 7))) for n in widths
        ],
        "hidden layers of 64 units (10,000 rows, batch 200)": [
            (n, replace(BASE, layers=(54, *[64] * n, 7))) for n in depths
        ],
        "batch size (54-100-7, 10,000 rows)": [
            (n, replace(BASE, batch_size=n)) for n in batches
        ],
    }


class Slow(Exception):
    """An epoch takes longer than the limit."""


def ready(workload, X, y, least, limit, program):
    """(train, number of epochs), after a first run that compiles everything."""
    train = program(workload, X, y, n_threads=1).train
    train(1)
    start = time.process_time()
    train(1)
    if (taken := time.process_time() - start) > limit:
        raise Slow(f"{taken:.1f} s per epoch")
    return train, measure.epochs_lasting(train, least)


def seconds_per_epoch(workload, names, settings, left_out):
    """{program: seconds}"""
    X, y = workload.load("float32")
    action = partial(ready, workload, X, y, settings.least, settings.limit)
    programs = prepare(names, action, left_out)
    actions = {}
    for name, (train, epochs) in programs.items():
        actions[name, "one"] = partial(train, 1)
        actions[name, "more"] = partial(train, 1 + epochs)
    taken = measure.alternate(actions, settings.rounds, time.process_time)
    return {
        name: median(np.subtract(taken[name, "more"], taken[name, "one"])) / epochs
        for name, (_, epochs) in programs.items()
    }


def show(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def measure_series(label, workloads, settings, report):
    """[(x, {program: seconds})], one for each table row."""
    points, names, notes = [], list(NAMES), []
    report.head([label, *NAMES])
    for x, workload in workloads:
        left_out = {}
        seconds = seconds_per_epoch(workload, names, settings, left_out)
        points.append((x, seconds))
        names = list(seconds)
        notes += [f"from {x:,} on: {reason}" for reason in left_out.values()]
        cells = [show(seconds[n]) if n in seconds else "–" for n in NAMES]
        report.row([f"{x:,}", *cells])
    report.line()
    for note in notes:
        report.line(f"- {note}")
    return points


def tell_linearity(points, report):
    """Time per row at the most rows, divided by the time at 10,000: 1 is linear."""
    low, first = next(point for point in points if point[0] == BASE.rows)
    for high, last in points[points.index((low, first)) + 1 :]:
        found = [
            f"{name} {last[name] / high / (first[name] / low):.2f}" for name in last
        ]
        report.line(
            f"- time per row at {high:,} rows over that at {low:,}: {', '.join(found)}"
        )


def draw(series, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for ax, (label, points) in zip(axes.flat, series.items(), strict=True):
        for name in reversed(NAMES):
            line = [(x, 1e3 * found[name]) for x, found in points if name in found]
            marker, colour = MARKS[name]
            if line:
                style = dict(marker=marker, mfc=colour, mec="0", color=colour)
                ax.loglog(*zip(*line, strict=True), "-", label=name, **style)
        ax.set_xlabel(label)
        ticks = [x for x, _ in points][:: 1 + len(points) // 7]
        ax.set_xticks(ticks, [f"{x:,}" for x in ticks])
        ax.minorticks_off()
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=4)
    figure.supylabel("milliseconds of CPU time per epoch (float32, one thread)")
    figure.savefig(path, dpi=150)


# ---- memory -----------------------------------------------------------------------


STATUS = Path("/proc/self/status")  # Linux alone


def resident(kind):
    """Bytes of memory that this process has now (VmRSS), or had at most (VmHWM).

    It is not getrusage's ru_maxrss, which begins with the memory of the parent process.
    """
    return 1024 * int(STATUS.read_text().split(f"{kind}:")[1].split()[0])


def measure_memory():
    """Print by how many MiB a fit raises this process's memory at its peak."""
    rng = np.random.default_rng(0)
    X = rng.random((MEMORY_ROWS, MEMORY_COLUMNS), dtype="float32")
    y = rng.integers(0, 7, MEMORY_ROWS)
    Cbp(BASE, X[:1000].copy(), y[:1000], n_threads=1).train(1)  # libraries are loaded
    before = resident("VmRSS")
    Cbp(replace(BASE, rows=len(X)), X, y, n_threads=1).train(2)
    print((resident("VmHWM") - before) / 2**20, X.nbytes / 2**20)


def tell_memory(report):
    if not STATUS.exists():
        report.line("\nPeak memory: not measured on this system.")
        return
    done = subprocess.run(
        [sys.executable, __file__, "--memory"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    grown, data = map(float, done.stdout.split())
    kept = "kept" if grown <= MEMORY_PROMISE else "**broken**"
    report.line(
        f"\nPeak memory of a fit on {MEMORY_ROWS:,} x {MEMORY_COLUMNS} float32: "
        f"{grown:.0f} MiB above X ({data:.0f} MiB), y and libraries; promised: at most "
        f"{MEMORY_PROMISE}, {kept}."
    )


def main():
    made = parser(__doc__)
    made.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.memory:
        measure_memory()
        return
    # Seconds of one run at least; of one epoch at most; medians of how many runs.
    args.least, args.limit, args.rounds = (0.03, 0.5, 5) if args.quick else (0.12, 3, 5)
    start = time.time()
    how = (
        f"one thread, {measure.pin_single()}, float32, CPU time; medians of "
        f"{args.rounds} runs; an epoch of over {args.limit} s is not timed"
    )
    report = Report(
        "Growth", args, measure.conditions(_kernels.isa(), how, names=measure.PEERS)
    )
    series = {}
    for label, workloads in axes_of_growth(args.quick).items():
        series[label] = measure_series(label, workloads, args, report)
        if label.startswith("rows"):
            tell_linearity(series[label], report)
    tell_memory(report)
    if picture := report.picture("growth", "Time of an epoch, four growing sizes"):
        draw(series, picture)
    report.line(f"\n{time.time() - start:.0f} s in all.")
    report.write()


if __name__ == "__main__":
    main()
