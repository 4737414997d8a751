"""Tools for measurements: pinned threads, alternating runs, the peak of the core.

Timings on shared machines change by a quarter from one minute to the next. So programs
are timed in turn within one process and compared round by round, and medians are
reported. The scripts say what is timed; workloads.py has the networks.
"""

import ctypes
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np
import threadpoolctl

HERE = Path(__file__).parent
PEAK_FLAGS = {
    "avx512": ["-mavx512f", "-DBYTES=64"],
    "avx2": ["-mavx2", "-mfma", "-DBYTES=32"],
    "neon": ["-DBYTES=16"],
}
# Distributions with versions above a table; those not installed are left out.
REFERENCES = ("scikit-learn", "numpy", "scipy")
PEERS = (*REFERENCES, "torch", "jax")
# The cores that this process was given; None where the system does not tell.
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
# Thread pools of the peers. Each is told the number of threads that a run may use.
THREAD_VARIABLES = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
]


def refuse_slowed_peers():
    """Exit if the environment makes the peers' BLAS use kernels of another CPU."""
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if os.environ.get(name):
            sys.exit(f"{name} is set: it would slow the peers down. Unset it.")


def pin(n_threads):
    """Keep this thread, and those it starts from now on, on n_threads cores.

    Returns
    -------
    str
        What it did, for the report.
    """
    if CORES is None:
        return "not pinned (this system cannot)"
    if len(CORES) < n_threads:
        sys.exit(f"{n_threads} threads need as many cores; {len(CORES)} usable")
    cores = CORES[:n_threads]
    os.sched_setaffinity(0, cores)
    return "cores " + ",".join(map(str, cores))


def thread_environment(n_threads):
    """Environment variables that limit a process's thread pools to n_threads.

    XLA uses the cores that the process may use. On one core it must also keep its
    products on the calling thread.
    """
    found = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    if n_threads == 1:
        found["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return found


def pin_single():
    """Use one core and one thread for all. Call this before you import peers."""
    refuse_slowed_peers()
    os.environ.update(thread_environment(1))
    threadpoolctl.threadpool_limits(1)  # the BLAS of NumPy and SciPy, loaded already
    return pin(1)


def alternate(actions, rounds, clock=time.perf_counter):
    """Time callables in turn, forwards and backwards.

    Parameters
    ----------
    actions : dict of str -> callable
    rounds : int
    clock : callable, default=time.perf_counter
        For one thread on a pinned core use time.process_time. It does not count the
        time of other programs on that core.

    Returns
    -------
    dict of str -> list of float
        Seconds, one per round.
    """
    seconds = {name: [] for name in actions}
    for i in range(rounds):
        names = list(actions)
        for name in names if i % 2 == 0 else reversed(names):
            time.sleep(0.05)  # until pools of the last run have stopped spinning
            start = clock()
            actions[name]()
            seconds[name].append(clock() - start)
    return seconds


def epochs_lasting(train, seconds):
    """The number of epochs that take this long, at least one."""
    epochs = 1
    while True:
        start = time.perf_counter()
        train(epochs)
        taken = time.perf_counter() - start
        if taken >= seconds / 2:
            return max(1, round(epochs * seconds / taken))
        epochs = math.ceil(epochs * min(10, seconds / taken))


def ratio(slow, fast):
    """Median of slow/fast over the rounds."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def compile_library(source, flags):
    """A C file of this folder as a loaded shared library."""
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "library.so")
        common = ["-std=gnu11", "-O3", "-shared", "-fPIC", "-Wall"]
        subprocess.run(
            [*compiler, *common, *flags, HERE / source, "-o", library], check=True
        )
        return ctypes.CDLL(str(library))


class Peak:
    """The measured FMA peak of one tier's vectors, in FLOP/s."""

    def __init__(self, tier, dtype):
        self.known = tier in PEAK_FLAGS
        if not self.known:
            return
        real = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
        flags = [*PEAK_FLAGS[tier], "-ffp-contract=fast", f"-Dreal={real}"]
        self._peak = compile_library("peak.c", flags).peak
        self._peak.restype, self._peak.argtypes = ctypes.c_double, [ctypes.c_long]

    def measure(self, n_threads=1, rounds=500_000):
        """FLOP/s of n_threads cores at once, over about 10 ms; NaN if unknown."""
        if not self.known:
            return float("nan")
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(self._peak(rounds)))
            for _ in range(n_threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(found)


def busy(seconds=1.0):
    """A line with a warning if other programs use the cores now, else ''."""

    def ticks():
        """(all, idle) of all cores since the machine started."""
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        return sum(map(int, fields)), int(fields[3]) + int(fields[4])

    try:
        before = ticks()
        time.sleep(seconds)
        total, idle = (b - a for a, b in zip(before, ticks(), strict=True))
    except (OSError, ValueError, IndexError):
        return ""
    used = 1 - idle / max(total, 1)
    if used < 0.1:
        return ""
    return (
        f"**Not a quiet machine:** other programs used {used:.0%} of its cores at the "
        "start. Figures for two threads mean little, rates are low"
    )


def cpu_name():
    """The name of the CPU, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions(names):
    """'name version, ...' of the installed ones among these distributions."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def blas_kernels():
    """Which thread pools and BLAS kernels the loaded peers run."""
    return sorted(
        f"{Path(pool['filepath']).parent.name.removesuffix('.libs')}: "
        f"{pool['internal_api']} {pool['version'] or ''} "
        f"{pool.get('architecture', '')}".strip()
        for pool in threadpoolctl.threadpool_info()
    )


def commit():
    """The commit of the measured sources; nothing if git does not say."""
    run = partial(subprocess.run, cwd=HERE, capture_output=True, check=True, text=True)
    # The reports of one command change while it writes them.
    sources = [":/", ":!results.md", ":!*.png"]
    try:
        found = run(["git", "describe", "--always", "--match", "v*"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "-uno", "--", *sources]).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"commit {found}{', changed' if changed else ''}"


def conditions(tier, *more, names=REFERENCES):
    """Lines for the top of a report: where, when and, in `more`, how."""
    lines = [
        f"{date.today().isoformat()}, {cpu_name()}, "
        f"{os.cpu_count()} cores, cbp tier {tier}",
        f"Python {platform.python_version()}, {versions(['cbp-learn', *names])}",
        commit(),
        *more,
        busy(),
    ]
    return [line for line in lines if line]
