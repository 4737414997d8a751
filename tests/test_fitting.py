"""One fit in order: arrays that skip checks, who listens, what is left behind.

What a fit comes to is in test_estimators.py, what it refuses in test_errors.py.
"""

import gc
from contextlib import contextmanager

import numpy as np
import pytest

from cbp import BPClassifier, BPRegressor, _fitting, _validation
from cbp._parameters import generator
from cbp._solvers import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

random = np.random.RandomState(0)
X = random.normal(size=(60, 4))
LABELS = np.arange(60) % 3
TARGETS = {
    "labels": (BPClassifier, LABELS),
    "strings": (BPClassifier, np.array(["b", "c", "a"])[LABELS]),
    "whole floats": (BPClassifier, LABELS.astype(float)),
    "two classes": (BPClassifier, LABELS == 1),
    "multilabel": (BPClassifier, np.eye(3, dtype=int)[LABELS]),
    "numbers": (BPRegressor, random.normal(size=60)),
    "counts": (BPRegressor, LABELS),
    "columns": (BPRegressor, random.normal(size=(60, 2))),
}


def fitted(estimator, y, data=X, **parameters):
    model = estimator(hidden_layer_sizes=5, max_iter=2, random_state=0, **parameters)
    return model.fit(data, y)


@contextmanager
def unchecked(monkeypatch):
    """scikit-learn's checks of the data must not be called."""

    def fail(*_, **__):
        pytest.fail("scikit-learn's checks were called")

    with monkeypatch.context() as patched:
        patched.setattr(_validation, "validate_data", fail)
        patched.setattr(_validation, "check_array", fail)
        yield


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TARGETS)
def test_a_ready_array_trains_as_one_that_is_checked(name, dtype, monkeypatch):
    estimator, y = TARGETS[name]
    data = X.astype(dtype)
    ready, checked = fitted(estimator, y, data), fitted(estimator, y, data)
    weight = np.linspace(0, 2, 60)
    for rows in (slice(7, 8), slice(0, 60)):
        with unchecked(monkeypatch):
            ready.partial_fit(data[rows], y[rows])
            ready.partial_fit(data[rows], y[rows], sample_weight=weight[rows])
        strided = np.asfortranarray(np.repeat(data[rows], 2, axis=0))[::2]
        checked.partial_fit(strided, y[rows].tolist())
        checked.partial_fit(strided, y[rows].tolist(), weight[rows].tolist())
    np.testing.assert_array_equal(ready._theta, checked._theta)
    assert ready.loss_curve_ == checked.loss_curve_


def bad(rows, value):
    changed = np.array(rows, dtype=float)
    changed.flat[3] = value
    return changed


@pytest.mark.parametrize("name", ["labels", "multilabel", "numbers", "columns"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: (bad(X, np.nan), y),
        lambda y: (bad(X, np.inf), y),
        lambda y: (X[:, :3].copy(), y),
        lambda y: (X[:50], y),
        lambda y: (X[:0], y[:0]),
        lambda y: (X[0], y[:1]),
        lambda y: (X, bad(y, np.nan)),
        lambda y: (X, bad(y, 7.5)) if y.dtype.kind == "i" else (X, bad(y, np.inf)),
        lambda y: (X, y.reshape(-1, 1, 1)),
        lambda y: (X, np.column_stack([y, y])),
        lambda y: (X, y, bad(np.ones(60), np.nan)),
        lambda y: (X, y, bad(np.ones(60), -1)),
        lambda y: (X, y, np.ones(59)),
        lambda y: (X, y, np.ones((60, 1))),
    ],
)
def test_what_is_wrong_is_refused_in_the_words_of_the_long_way(
    name, spoil, monkeypatch
):
    estimator, y = TARGETS[name]
    model = fitted(estimator, y)
    theta = model._theta.copy()
    with pytest.raises(ValueError) as short:
        model.partial_fit(*spoil(y))
    monkeypatch.setattr(_fitting, "is_ready", lambda *_: False)
    with pytest.raises(ValueError) as long:
        model.partial_fit(*spoil(y))
    assert str(short.value) == str(long.value)
    np.testing.assert_array_equal(model._theta, theta)


def test_labels_that_are_no_ready_array_may_still_be_known():
    model = fitted(BPClassifier, LABELS)
    for y in (LABELS.tolist(), LABELS.astype(float), LABELS[:, np.newaxis].ravel()):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="classes not in"):
        model.partial_fit(X, LABELS + 1)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_generator_draws_as_scikit_learns_does(seed):
    ours, theirs = generator(seed), np.random.RandomState(seed)
    for mine, its in zip(ours.get_state(), theirs.get_state(), strict=True):
        np.testing.assert_array_equal(mine, its)
    np.testing.assert_array_equal(ours.normal(size=9), theirs.normal(size=9))


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(3)])
def test_one_row_draws_nothing(random_state):
    model = fitted(BPRegressor, LABELS).set_params(random_state=random_state)
    theirs = np.random if random_state is None else random_state
    before = theirs.get_state()[1:]
    model.partial_fit(X[:1], LABELS[:1])
    for now, then in zip(theirs.get_state()[1:], before, strict=True):
        np.testing.assert_array_equal(now, then)


# --------------------------------------------------------------------- who listens


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_whoever_listens_sees_every_epoch_and_may_stop(
    solver, early_stopping, monkeypatch
):
    """`after_epoch(progress) -> stop`, the same for all solvers."""
    seen = []

    def after_epoch(progress):
        scores = list(progress.validation_scores)
        seen.append((progress.n_iter, progress.loss, len(progress.loss_curve), scores))
        return progress.n_iter == 3

    monkeypatch.setattr(_fitting, "print_loss", after_epoch)
    options = dict(solver=solver, early_stopping=early_stopping, random_state=0)
    model = BPClassifier(verbose=True, **options).fit(X, LABELS)
    assert model.n_iter_ == 3 and len(model.loss_curve_) == 3
    assert [(n, loss) for n, loss, *_ in seen] == [*enumerate(model.loss_curve_, 1)]
    assert [length for _, _, length, _ in seen] == [1, 2, 3]
    scores = model.validation_scores_ or []
    assert [its for *_, its in seen] == [scores[:n] for n in (1, 2, 3)]
    silent = BPClassifier(max_iter=3, **options).fit(X, LABELS)
    assert silent.loss_curve_ == model.loss_curve_


def test_batch_size_is_resolved_by_the_solver():
    assert SOLVERS["adam"].batch_size("auto", 150) == 150
    assert SOLVERS["sgd"].batch_size("auto", 1000) == 200
    assert SOLVERS["sgd"].batch_size(32, 20) == 20
    assert SOLVERS["lbfgs"].batch_size(32, 1000) == 1000
    clipped = [solver.clips(32, 20) for solver in SOLVERS.values()]
    assert clipped == [solver.stochastic for solver in SOLVERS.values()]


# ------------------------------------------------------------------- what is left


@pytest.mark.thread_unsafe(reason="looks at all objects of the process")
@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_buffers_of_a_fit_do_not_wait_for_the_garbage_collector(solver, monitor):
    model = BPClassifier(
        solver=solver, monitor=monitor, early_stopping=True, max_iter=2
    )
    gc.collect()
    gc.disable()
    try:
        model.fit(X, LABELS)
        if SOLVERS[solver].stochastic:
            model.partial_fit(X, LABELS)
        left = [type(o) for o in gc.get_objects() if isinstance(o, _fitting.Run)]
    finally:
        gc.enable()
    assert left == []


def test_an_interrupt_after_an_overflow_leaves_the_model_as_it_was(monkeypatch):
    model = fitted(BPClassifier, LABELS)
    before = model._theta.copy()

    def overflow(est, run, incremental, session):
        run.theta[:] = np.nan
        raise KeyboardInterrupt

    monkeypatch.setattr(_fitting, "_train", overflow)
    for call in (model.fit, model.partial_fit):
        with pytest.raises(KeyboardInterrupt):
            call(X, LABELS)
        np.testing.assert_array_equal(model._theta, before)
