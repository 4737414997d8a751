"""The cost of callbacks: paired fits with an empty one, our own, and none.

    python benchmarks/callbacks.py           two minutes
    python benchmarks/callbacks.py --quick   half a minute

Digits, 64-100-10, batches of 200 rows, float32, one thread, pinned to one core. The
clock is the CPU time of the process. Each round fits once without and once with each
callback, in turn. The script prints the median of the ratios. The promise is 2 % at
most for the empty one.
"""

import warnings
from functools import partial

import measure
import numpy as np
from report import Report, parser
from workloads import WORKLOADS

from cbp import BPClassifier, _kernels
from cbp.callbacks import GradientAlarm, History

EPOCHS = 100


class Empty:
    """Follows the protocol, and does nothing."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


def fit(X, y, *callbacks):
    BPClassifier(
        batch_size=200,
        max_iter=EPOCHS,
        tol=0,
        n_iter_no_change=np.inf,
        random_state=0,
    ).set_callbacks(*(make() for make in callbacks)).fit(X, y)


def main():
    args = parser(__doc__).parse_args()
    rounds = 15 if args.quick else 101
    how = f"one thread, {measure.pin_single()}, float32; medians of {rounds} pairs"
    report = Report(
        "What callbacks cost",
        args,
        measure.conditions(_kernels.isa(), how, names=measure.REFERENCES),
    )
    warnings.simplefilter("ignore")
    X, y = WORKLOADS["W3"].load("float32")
    fits = {
        "none": partial(fit, X, y),
        "an empty one": partial(fit, X, y, Empty),
        "History": partial(fit, X, y, History),
        "GradientAlarm": partial(fit, X, y, GradientAlarm),
    }
    for one in fits.values():  # what is imported on first use
        one()
    taken = measure.alternate(fits, rounds, clock=measure.time.process_time)
    report.head(["callback", "time of an epoch", "cost", "quartiles"])
    for name, seconds in taken.items():
        ratios = np.divide(seconds, taken["none"])
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]) - 1
        report.row(
            [
                name,
                f"{np.median(seconds) / EPOCHS * 1e3:.3f} ms",
                f"{median:+.1%}",
                f"{low:+.1%} … {high:+.1%}",
            ]
        )
    report.write()


if __name__ == "__main__":
    main()
