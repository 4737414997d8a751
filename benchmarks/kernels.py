"""The three products of backpropagation, in GFLOP/s and as share of the FMA peak.

    python benchmarks/kernels.py             about two minutes
    python benchmarks/kernels.py --quick     a quarter of a minute

Calls cbp's kernel table on every tier that this CPU can run. Compares with the OpenBLAS
of scipy (also called from C) and with numpy's `@` (with the Python call, as in
scikit-learn). cbp's forward includes bias and relu, and its delta includes relu's
derivative. Times are medians of CPU time on one core, with operands in cache. Needs the
sources (src_c/cbp.h).
"""

import ctypes
import math
from functools import partial
from statistics import median
from time import thread_time

import measure
import numpy as np
from report import Report, parser
from scipy.linalg import cython_blas

from cbp import _kernels

# rows, n_in, n_out
SHAPES = [
    (32, 64, 32),
    (64, 64, 64),
    (200, 64, 100),
    (200, 784, 100),
    (64, 784, 64),
    (256, 1024, 1024),
    (256, 54, 256),
    (256, 256, 256),
    (200, 100, 10),
    (256, 1024, 10),
]
PRODUCTS = ["forward", "dW", "delta"]


def load_loops():
    """products.c, with the types of its two functions."""
    flags = ["-I", str(measure.HERE.parent / "src_c")]
    loops = measure.compile_library("products.c", flags)
    number, pointer = ctypes.c_int, ctypes.c_void_p
    loops.time_kernels.restype = loops.time_gemm.restype = ctypes.c_double
    loops.time_kernels.argtypes = [pointer, *[number] * 6]
    loops.time_gemm.argtypes = [pointer, *[number] * 6]
    return loops


def blas_address(dtype):
    """scipy's sgemm or dgemm, from the table that scipy publishes for Cython."""
    name = {"float32": "sgemm", "float64": "dgemm"}[dtype]
    capsule = cython_blas.__pyx_capi__[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule))


def is_transposed(shape, panel):
    """Whether cbp keeps this layer's gradient as dW^T (Network._describe_layers)."""
    _, n_in, n_out = shape
    return -(-n_in // panel) * n_out < -(-n_out // panel) * n_in


def time_numpy(shape, dtype, repeats, product):
    """Mean seconds of one product by numpy, over `repeats`."""
    rows, n_in, n_out = shape
    rng = np.random.default_rng(0)
    A, D, W = (
        rng.normal(size=size).astype(dtype)
        for size in [(rows, n_in), (rows, n_out), (n_in, n_out)]
    )
    left, right = [(A, W), (A.T, D), (D, W.T)][product]
    out = left @ right
    start = thread_time()
    for _ in range(repeats):
        np.matmul(left, right, out=out)
    return (thread_time() - start) / repeats


def main():
    made = parser(__doc__)
    made.add_argument("--dtype", default="float32,float64")
    args = made.parse_args()
    pinned = measure.pin_single()
    loops = load_loops()
    how = f"one thread, {pinned}, CPU time; medians"
    report = Report(
        "Matrix products",
        args,
        measure.conditions(_kernels.isa(), how, *measure.blas_kernels()),
    )
    tiers = [tier for tier in _kernels.tiers() if tier != "scalar"]
    for dtype in args.dtype.split(","):
        table(dtype, tiers, loops, args.quick, report)
    report.write()


def table(dtype, tiers, loops, quick, report):
    """The table of one dtype: forward/dW/delta per program and shape."""
    seconds, rounds = (0.001, 7) if quick else (0.005, 25)
    itemsize = np.dtype(dtype).itemsize
    tables = {tier: _kernels.table_address(tier, np.dtype(dtype)) for tier in tiers}
    peaks = {tier: measure.Peak(tier, dtype) for tier in tiers}
    head = [*[f"cbp {tier} (% of peak)" for tier in tiers], "scipy", "numpy"]
    head += [f"peak {tier}" for tier in tiers]
    report.line(f"\n{dtype}, GFLOP/s, forward/dW/delta; * dW computed as its transpose")
    report.head(["rows×n_in×n_out", *head])
    for shape in SHAPES:
        flop = 2 * math.prod(shape)
        repeats = max(1, int(seconds * 50e9 / flop))
        transposed = is_transposed(shape, 64 // itemsize)
        programs = {
            tier: partial(loops.time_kernels, tables[tier], transposed, *shape, repeats)
            for tier in tiers
        }
        programs["scipy"] = partial(
            loops.time_gemm, blas_address(dtype), itemsize, *shape, repeats
        )
        programs["numpy"] = partial(time_numpy, shape, dtype, repeats)
        rates = {name: [[], [], []] for name in programs}
        peak = {tier: [] for tier in tiers}
        for _ in range(rounds):
            for tier in tiers:
                peak[tier].append(peaks[tier].measure(rounds=50_000) / 1e9)
            for product in range(len(PRODUCTS)):
                for name, run in programs.items():
                    rates[name][product].append(flop / run(product) / 1e9)
        cells = ["×".join(map(str, shape)) + " *" * transposed]
        for name in programs:
            found = [median(values) for values in rates[name]]
            cells.append("/".join(f"{rate:.0f}" for rate in found))
            if name in tiers:
                share = [f"{100 * rate / median(peak[name]):.0f}" for rate in found]
                cells[-1] += f" ({'/'.join(share)})"
        cells += [f"{median(peak[tier]):.0f}" for tier in tiers]
        report.row(cells)


if __name__ == "__main__":
    main()
