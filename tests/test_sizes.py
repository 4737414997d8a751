"""Sizes beyond 2^31: computed as small ones are, or refused before any memory is taken.

    python tests/test_sizes.py      also trains on all of 2^31 entries, two minutes

X of 2^31 entries costs no memory: the system has one page of zeros for all of it.
"""

import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
from child import run_python

from cbp import BPClassifier, BPRegressor, from_weights

resource = pytest.importorskip("resource")  # not on Windows

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs pages of zeros"),
    pytest.mark.thread_unsafe(reason="measures the memory of the process"),
]

BATCH, N_IN = 50, 4096
N_ROWS = 524_500  # whole batches, and more than 2^31 entries


def beyond():
    """X of more than 2^31 entries, y, and the few rows that are not 0, at both ends."""
    try:
        X = np.zeros((N_ROWS, N_IN), np.float32)
    except MemoryError:
        pytest.skip("the system promises no memory that it has not got")
    rows = np.r_[: 2 * BATCH, N_ROWS - 3 * BATCH : N_ROWS]
    X[rows] = np.random.RandomState(0).normal(size=(len(rows), N_IN))
    return X, np.arange(N_ROWS) % 3, rows


def network(estimator=BPClassifier, **options):
    options = {"batch_size": BATCH, "shuffle": False, "random_state": 0} | options
    return estimator(2, max_iter=1, **options)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rows_beyond_2_31_entries_are_trained_and_predicted_as_alone():
    """Batches that weigh nothing are passed over: so this takes seconds."""
    X, y, rows = beyond()
    before = peak()
    weight = np.zeros(N_ROWS, np.float32)
    weight[rows] = 1
    model = network().fit(X, y, weight)
    assert X.size > 2**31 and model.coefs_[0].dtype == np.float32
    alone = network().fit(X[rows], y[rows])
    assert model._theta.tobytes() == alone._theta.tobytes()
    logits = model.predict_proba(X)
    assert logits[rows].tobytes() == model.predict_proba(X[rows]).tobytes()
    zeros = np.delete(logits, rows, axis=0)
    assert (zeros == model.predict_proba(X[2 * BATCH : 2 * BATCH + 1])).all()
    assert peak() - before < 300  # X has 8192


def peak():
    """The most MiB that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- sizes that nobody has

X, y = np.random.RandomState(0).normal(size=(60, 4)), np.arange(60) % 3
ENDS_SOON = {"tol": 1e9, "n_iter_no_change": 1}


def zeros(*shape):
    """Of any shape, in 4 bytes."""
    return np.broadcast_to(np.float32(0), shape)


def fit(X=X, y=y, estimator=BPClassifier, **options):
    estimator(**{"hidden_layer_sizes": 5, "max_iter": 2} | options).fit(X, y)


def predict(X):
    BPClassifier(5, max_iter=2).fit(np.ones((60, 4)), y).predict(X)


def stream(X=X, y=(0, 1), **options):
    BPClassifier(5).partial_fit(X, y, **{"classes": [0, 1]} | options)


N = 2**62
# Calls that are refused.
REFUSED = {
    f"{estimator.__name__}, {solver}, {sizes}": partial(
        fit, estimator=estimator, solver=solver, hidden_layer_sizes=sizes
    )
    for estimator in (BPClassifier, BPRegressor)
    for solver in ("adam", "lbfgs")
    for sizes in [(N,), (2 * N,), (2**36, 5), (2**31, 2**31), (4, N), (2**40,) * 9]
}
REFUSED |= {
    "initialize": lambda: BPClassifier((N,)).initialize(X, y),
    "fit, 2^61 columns": lambda: fit(zeros(2, 2**61), [0, 1]),
    "fit, 2^40 columns": lambda: fit(zeros(2, 2**40), [0, 1]),
    "fit, 2^60 rows": lambda: fit(zeros(2**60, 4), zeros(2**60)),
    "fit, 2^60 rows, y of two": lambda: fit(zeros(2**60, 4), [0, 1]),
    "fit, 2^60 targets": lambda: fit(X[:2], zeros(2, 2**60), BPRegressor),
    "partial_fit, 2^60 columns": lambda: stream(zeros(2, 2**60)),
    "partial_fit, 2^62 classes": lambda: stream(X, y, classes=range(N)),
    "predict, 2^60 rows": lambda: predict(zeros(2**60, 4)),
    "predict, 2^40 rows": lambda: predict(zeros(2**40, 4)),
    "predict, 2^61 columns": lambda: predict(zeros(2, 2**61)),
    "from_weights, 2^60 units": lambda: from_weights(
        [zeros(4, 2**60), zeros(2**60, 1)], [zeros(2**60), zeros(1)]
    ),
    "from_weights, 2^40 units": lambda: from_weights(
        [zeros(4, 2**40), zeros(2**40, 1)], [zeros(2**40), zeros(1)]
    ),
    "from_weights, 2^61 weights": lambda: from_weights(
        [zeros(2**30, 2**31)], [zeros(2**31)]
    ),
}
# Numbers that only say where to end at the latest.
ALLOWED = {
    "batch_size": lambda: fit(batch_size=N),
    "max_iter": lambda: fit(max_iter=N, **ENDS_SOON),
    "max_fun": lambda: fit(solver="lbfgs", max_fun=N),
    "n_iter_no_change": lambda: fit(n_iter_no_change=N),
    "n_jobs": lambda: fit(n_jobs=N),
    "-n_jobs": lambda: fit(n_jobs=-N),
}


def try_all():
    """For each call a line: its name, MiB, seconds and how it ended. In a process whose
    peak is what it has now."""
    warnings.simplefilter("ignore")
    fit(), fit(solver="lbfgs"), predict(X)  # what is imported then
    for name, call in (ALLOWED | REFUSED).items():
        before, start, said = peak(), time.perf_counter(), "passed"
        try:
            call()
        except Exception as error:
            said = type(error).__name__
        seconds = time.perf_counter() - start
        print(name, f"{peak() - before:.1f}", f"{seconds:.3f}", said, sep="|")


def test_sizes_up_to_2_62_are_refused_before_memory_is_taken():
    printed = run_python("from test_sizes import try_all; try_all()")
    lines = [line.split("|") for line in printed.splitlines()]
    assert [name for name, *_ in lines] == [*ALLOWED, *REFUSED]
    for name, mebibytes, _, said in lines:
        allowed = ["passed"] if name in ALLOWED else ["MemoryError", "ValueError"]
        assert said in allowed and float(mebibytes) < 50, (name, mebibytes, said)


# ---- by hand: all rows


def train_in_chunks():
    """One epoch over all of X, and the same rows in chunks."""
    X, y, _ = beyond()
    for solver in ("adam", "sgd"):
        whole, parts = (network(solver=solver) for _ in range(2))
        start = time.perf_counter()
        whole.partial_fit(X, y, classes=[0, 1, 2])
        middle = time.perf_counter()
        for at in range(0, N_ROWS, 1000 * BATCH):
            part = slice(at, at + 1000 * BATCH)
            parts.partial_fit(X[part], y[part], classes=[0, 1, 2])
        same = whole._theta.tobytes() == parts._theta.tobytes()
        print(
            f"{X.size:,} entries, {solver}: {middle - start:.1f} s, in chunks "
            f"{time.perf_counter() - middle:.1f} s, peak {peak():.0f} MiB, "
            f"{'the same bits' if same else 'OTHER BITS'}",
            flush=True,
        )


if __name__ == "__main__":
    try_all()
    train_in_chunks()
