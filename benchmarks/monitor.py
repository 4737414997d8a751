"""What recording gradient flow costs: paired fits with and without it.

    python benchmarks/monitor.py

Every workload in float32, one thread, pinned to one core; each round fits once with
monitor=True and once without, in turn, and the median of the ratios is printed. The
promise is 2 % at most, 5 % for a batch of one row.
"""

import time
import warnings

import numpy as np
from measure import pin_single, refuse_slowed_peers
from workloads import WORKLOADS

from cbp import BPClassifier

ROUNDS = 9
SECONDS = 0.3  # of one fit, about


def fit_seconds(workload, X, y, epochs, monitor):
    model = BPClassifier(
        workload.hidden,
        workload.activation,
        batch_size=workload.batch_size,
        max_iter=epochs,
        tol=0,
        n_iter_no_change=np.inf,
        random_state=0,
        monitor=monitor,
    )
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start


def main():
    refuse_slowed_peers()
    pin_single()
    warnings.simplefilter("ignore")
    for workload in WORKLOADS.values():
        X, y = workload.load(np.float32)
        once = fit_seconds(workload, X, y, 1, False)
        epochs = max(12, int(SECONDS / once))
        ratios = []
        for _ in range(ROUNDS):
            with_records = fit_seconds(workload, X, y, epochs, True)
            ratios.append(with_records / fit_seconds(workload, X, y, epochs, False))
        low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75]) - 1
        print(
            f"{workload.name}, batch {workload.batch_size}, {epochs} epochs: "
            f"{median:+.1%} (quartiles {low:+.1%}, {high:+.1%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
