"""predict_proba of one row and of 10,000 rows, beside scikit-learn, one thread.

    python benchmarks/prediction.py [--quick]

Both are called as a user calls them, with all their validation. Runs alternate;
medians. The two give the same probabilities, which is checked first.
"""

import argparse
import warnings
from functools import partial
from statistics import median

import measure
import numpy as np
from peers import Cbp, Sklearn
from workloads import WORKLOADS

from cbp import _kernels

MANY = 10_000


def fitted(program, workload, X, y):
    """An estimator after one epoch."""
    estimator = program.estimator(
        max_iter=1, **program(workload, X, y, n_threads=1).parameters
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X, y)


def call_often(function, argument, n_calls):
    for _ in range(n_calls):
        function(argument)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    calls, rounds = (200, 5) if parser.parse_args().quick else (2000, 15)
    pinned = measure.pin_single()
    for line in measure.conditions(_kernels.isa()):
        print(line)
    print(f"{pinned}; {'; '.join(measure.blas_kernels())}; {rounds} rounds\n")
    print("| workload | dtype | rows | cbp | scikit-learn | ratio |")
    print("|---|---|---|---|---|---|")
    for name in ("W3", "W4"):
        for dtype in ("float32", "float64"):
            workload = WORKLOADS[name]
            X, y = workload.load(dtype)
            models = {
                "cbp": fitted(Cbp, workload, X, y),
                "scikit-learn": fitted(Sklearn, workload, X, y),
            }
            probabilities = [m.predict_proba(X[:100]) for m in models.values()]
            np.testing.assert_allclose(*probabilities, rtol=1e-3, atol=1e-5)
            many = np.resize(X, (MANY, X.shape[1]))
            for rows, n_calls in [(X[:1], calls), (many, max(1, calls // 100))]:
                actions = {
                    name: partial(call_often, model.predict_proba, rows, n_calls)
                    for name, model in models.items()
                }
                seconds = measure.alternate(actions, rounds)
                cells = [
                    show(median(seconds[name]) / n_calls, len(rows)) for name in models
                ]
                ratio = measure.ratio(seconds["scikit-learn"], seconds["cbp"])
                print(
                    f"| {workload.title} | {dtype} | {len(rows)} | "
                    f"{' | '.join(cells)} | {ratio:.1f}× |",
                    flush=True,
                )


def show(seconds, n_rows):
    if n_rows == 1:
        return f"{1e6 * seconds:.1f} µs"
    return f"{n_rows / seconds / 1e6:.2f} M rows/s"


if __name__ == "__main__":
    main()
