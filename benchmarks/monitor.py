"""The cost of recording gradient flow: paired fits with and without it.

    python benchmarks/monitor.py             a minute and a half
    python benchmarks/monitor.py --quick     half a minute

Every workload runs in float32 on one thread, pinned to one core. Each round fits once
with monitor=True and once without, in turn. The script prints the median of the ratios.
The promise is 2 % at most, and 5 % for a batch of one row.
"""

import warnings
from functools import partial

import measure
import numpy as np
from report import Report, parser
from workloads import WORKLOADS

from cbp import BPClassifier, _kernels

MIN_EPOCHS = 12  # shorter fits watch a larger share of their steps


def fit(workload, X, y, epochs, monitor):
    BPClassifier(
        workload.hidden,
        workload.activation,
        batch_size=workload.batch_size,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=np.inf,
        random_state=0,
        monitor=monitor,
    ).fit(X, y)


def main():
    args = parser(__doc__).parse_args()
    rounds, seconds = (5, 0.1) if args.quick else (15, 0.3)
    how = f"one thread, {measure.pin_single()}, float32; medians of {rounds} pairs"
    report = Report(
        "What recording costs",
        args,
        measure.conditions(_kernels.isa(), how, names=measure.REFERENCES),
    )
    warnings.simplefilter("ignore")
    report.head(["workload", "epochs of a fit", "cost", "quartiles"])
    for workload in WORKLOADS.values():
        X, y = workload.load("float32")
        plain = partial(fit, workload, X, y, monitor=False)
        epochs = max(MIN_EPOCHS, measure.epochs_lasting(plain, seconds))
        taken = measure.alternate(
            {
                "with": partial(fit, workload, X, y, epochs, monitor=True),
                "without": partial(plain, epochs),
            },
            rounds,
        )
        ratios = np.divide(taken["with"], taken["without"])
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]) - 1
        report.row(
            [workload.title, f"{epochs}", f"{median:+.1%}", f"{low:+.1%} … {high:+.1%}"]
        )
    report.write()


if __name__ == "__main__":
    main()
