"""Estimators in several threads of one process: the gain on two cores.

    python benchmarks/threads.py             two minutes
    python benchmarks/threads.py --quick     half a minute

Eight estimators fit, each in its own thread. First they run one after another, then in
two and in eight threads at once. One model that predicts for all threads does the same.
Fits run without the GIL on every Python. Only a free-threaded Python also runs the rest
at the same time: the checks of parameters and data. Rounds alternate. Two figures next
to each speed-up show whether a lock or a busy machine is the cause of a low one. The
first is the number of cores that the process had: its CPU time divided by the clock
time. The second is the CPU time of all threads, divided by the CPU time of one after
another. It is above 1 if threads slow each other down. The last rows are threads of C
code that share nothing at all (they test the machine, not cbp).
"""

import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import measure
import numpy as np
from report import Report, parser, times
from workloads import WORKLOADS

from cbp import BPClassifier, _kernels

N = 8  # calls in a round, and the most threads
FITS = {
    "fit, Adam": dict(tol=0, n_iter_no_change=np.inf),
    "fit, L-BFGS": dict(solver="lbfgs", tol=0),
    "fit, random_state=None": dict(tol=0, n_iter_no_change=np.inf, random_state=None),
}


def gil():
    """The kind of this Python, for the report."""
    if not hasattr(sys, "_is_gil_enabled"):
        return "with the GIL"
    return "with the GIL" if sys._is_gil_enabled() else "free-threaded, the GIL off"


def fit_times(options, workload, X, y, seconds):
    """A call that fits new estimators for about this many seconds."""

    def fit(epochs):
        options_of_all = {"random_state": 0, "batch_size": workload.batch_size}
        BPClassifier(
            workload.hidden, max_iter=epochs, **(options_of_all | options)
        ).fit(X, y)

    return partial(fit, measure.epochs_lasting(fit, seconds))


def small_fits(seconds):
    """A call that makes many very short fits, which run mostly in Python."""
    X, y = np.random.RandomState(0).normal(size=(60, 4)), np.arange(60) % 3

    def fit(n):
        for _ in range(n):
            BPClassifier((8,), max_iter=5, random_state=0).fit(X, y)

    return partial(fit, measure.epochs_lasting(fit, seconds))


def predictions(n_rows, seconds):
    """A call that predicts this many rows, repeatedly, by one model for all threads."""
    X, y = WORKLOADS["W3"].load("float64")
    model = BPClassifier(max_iter=5, random_state=0).fit(X, y)

    def predict(n):
        for _ in range(n):
            model.predict(X[:n_rows])

    return partial(predict, measure.epochs_lasting(predict, seconds))


def control(seconds):
    """A call that multiplies and adds in registers, in C."""
    peak = measure.Peak(_kernels.isa(), "float32")
    if not peak.known:
        return None

    def spin(rounds):
        peak._peak(1000 * rounds)

    return partial(spin, measure.epochs_lasting(spin, seconds))


def timed(call, threads, pool):
    """Seconds, and CPU seconds of this process, for N calls by this many threads."""
    start, cpu = time.perf_counter(), time.process_time()
    if threads == 1:
        for _ in range(N):
            call()
    else:
        list(pool.map(lambda _: call(), range(N)))
    return time.perf_counter() - start, time.process_time() - cpu


def main():
    args = parser(__doc__).parse_args()
    rounds, seconds = (5, 0.03) if args.quick else (11, 0.1)
    how = f"{measure.pin(2)}, float64, n_jobs=None; {rounds} rounds of {N} calls"
    report = Report(
        "Threads",
        args,
        measure.conditions(_kernels.isa(), f"Python {gil()}; {how}"),
    )
    warnings.simplefilter("ignore")
    workload = WORKLOADS["W3"]
    X, y = workload.load("float64")
    calls = {
        name: fit_times(options, workload, X, y, seconds)
        for name, options in FITS.items()
    }
    calls["many fits of 60 rows"] = small_fits(seconds)
    calls["predict, 1797 rows"] = predictions(1797, seconds)
    calls["predict, one row"] = predictions(1, seconds)
    calls["C that shares nothing"] = control(seconds)
    pools = {n: ThreadPoolExecutor(n) for n in (2, N)}
    report.head(
        ["what", "threads", "one after another, s", "at once, s", "times as fast"]
        + ["cores had", "CPU time"]
    )
    for name, call in calls.items():
        if call is None:
            continue
        taken = {n: [] for n in (1, *pools)}
        for i in range(rounds + 1):
            for n in list(taken)[:: 1 if i % 2 else -1]:
                taken[n].append(timed(call, n, pools.get(n)))
        alone = np.array(taken[1][1:])  # the first round starts the threads
        for n in pools:
            several = np.array(taken[n][1:])
            speed, cpu = np.median(alone / several, axis=0)
            cores = median(several[:, 1] / several[:, 0])
            seconds = [median(rows[:, 0]) for rows in (alone, several)]
            report.row(
                [name, f"{n}", *[f"{s:.3g}" for s in seconds], times(speed)]
                + [f"{cores:.2f}", f"{1 / cpu:.2f}"]
            )
    if hasattr(os, "getloadavg"):
        report.line(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")
    report.write()


if __name__ == "__main__":
    main()
