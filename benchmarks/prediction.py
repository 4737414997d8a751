"""predict_proba of one row and of 10,000 rows, with all peers, one thread, float32.

    python benchmarks/prediction.py             about two minutes
    python benchmarks/prediction.py --quick     half a minute

All programs have the same weights. The script first checks that they give the same
probabilities. It calls cbp and scikit-learn as a user does, with all their validation.
PyTorch (in inference mode) and JAX take and return their own tensors. Calls of one row
are timed in a loop. Compiling is not timed. Runs alternate, and times are medians.
"""

from functools import partial
from statistics import median

import measure
import numpy as np
from peers import PROGRAMS, initial_weights, prepare
from report import Report, parser, times
from workloads import WORKLOADS

from cbp import _kernels

MANY = 10_000
NAMES = [name for name in PROGRAMS if name != "cbp, one thread"]


def call_often(function, argument, n_calls):
    for _ in range(n_calls):
        function(argument)


def ready(workload, X, y, program):
    """(predict, X of one row, X of many) of a program, compiled and checked."""
    weights = initial_weights(workload, X.dtype)
    predict, given = program(workload, X, y, n_threads=1).predictor(weights)
    one, many = given(X[:1]), given(np.resize(X, (MANY, X.shape[1])))
    predict(one)
    return predict, one, many, np.asarray(predict(many))


def show(seconds, n_rows):
    if n_rows == 1:
        return f"{1e6 * seconds:.1f} µs"
    return f"{n_rows / seconds / 1e6:.2f} M rows/s"


def main():
    args = parser(__doc__).parse_args()
    calls, rounds = (300, 5) if args.quick else (2000, 15)
    pinned = measure.pin_single()
    how = f"one thread, {pinned}, float32; medians of {rounds} rounds"
    report = Report(
        "Prediction",
        args,
        measure.conditions(_kernels.isa(), how, names=measure.PEERS),
    )
    left_out, lines = {}, []
    for workload in (WORKLOADS["W3"], WORKLOADS["W4"]):
        X, y = workload.load("float32")
        programs = prepare(NAMES, partial(ready, workload, X, y), left_out)
        for name, (*_, found) in programs.items():
            np.testing.assert_allclose(
                found, programs["cbp"][-1], rtol=1e-3, atol=1e-5, err_msg=name
            )
        for i, n_rows, n_calls in [(1, 1, calls), (2, MANY, max(1, calls // 100))]:
            actions = {
                name: partial(call_often, program[0], program[i], n_calls)
                for name, program in programs.items()
            }
            seconds = measure.alternate(actions, rounds)
            network = "-".join(map(str, workload.layers))
            cells = [network, f"{n_rows:,}"]
            for name in NAMES:
                cells.append("–")
                if name in programs:
                    cells[-1] = show(median(seconds[name]) / n_calls, n_rows)
                if name in programs and name != "cbp":
                    ratio = measure.ratio(seconds[name], seconds["cbp"])
                    cells[-1] += f" / **{times(ratio)}**"
            lines.append(cells)
    for line in [*measure.blas_kernels(), *left_out.values()]:
        report.line(f"- {line}")
    report.head(["network", "rows", *NAMES])
    for cells in lines:
        report.row(cells)
    report.line("\nPeers: time or rate / **cbp is how many times as fast**.")
    report.write()


if __name__ == "__main__":
    main()
