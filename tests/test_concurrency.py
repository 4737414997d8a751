"""Estimators in many threads at once: nothing is shared, nothing lost, nobody waits.

What holds with the GIL and without it: fits have the bits of a fit alone, readers see
one model whole, and no lock is held while a fit goes on. Threads within a fit are in
test_threads.py, the swap of the fitted object in test_fitted.py. Speed is measured in
benchmarks/threads.py.
"""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import numpy as np
import pytest
import scipy.sparse as sp
from child import run_python
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale

import cbp
from cbp import BPClassifier, BPRegressor, _fitted, _solvers, _verbose

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
X = scale(X)
CSR = sp.csr_matrix(np.where(X > 0, X, 0))
LABELS = np.eye(3, dtype=int)[y]
WIDE = np.tile(X, (4, 16))  # work for two threads of one fit


def at_once(*calls):
    """What the calls return, each in a thread of its own, all let go together."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, call) for call in calls]
        return [future.result() for future in futures]


def made(estimator=BPClassifier, hidden=(9, 5), **options):
    options = {"random_state": 0, "max_iter": 8} | options
    return estimator(hidden_layer_sizes=hidden, **options)


# (estimator, X, y), one of each kind of fit.
FITS = {
    "adam": (made(), X, y),
    "sgd": (made(solver="sgd", learning_rate="adaptive"), X, y),
    "lbfgs": (made(solver="lbfgs"), X, y),
    "binary": (made(loss="squared_error", activation="tanh"), X, y == 1),
    "multilabel": (made(activation="logistic"), X, LABELS),
    "regression": (made(BPRegressor), X, X[:, :2] * X[:, 2:]),
    "poisson": (made(BPRegressor, loss="poisson"), X, y),
    "float32": (made(precision="float32"), X, y),
    "sparse": (made(), CSR, y),
    "one row": (made(batch_size=1), X, y),
    "early stopping": (made(early_stopping=True, solver="sgd"), X, y),
    "early stopping, lbfgs": (made(early_stopping=True, solver="lbfgs"), X, y),
    "monitor": (made(monitor=True), X, y),
    "monitor, lbfgs": (made(monitor=True, solver="lbfgs"), X, y),
    "two threads": (made(hidden=(100, 60), n_jobs=2), WIDE, np.tile(y, 4)),
    "two threads, units": (made(hidden=(400,), n_jobs=2), WIDE, np.tile(y, 4)),
}


def outcome(model):
    """The bits of what a fit leaves behind; all but the optimizer are pickled."""
    held, flow = model._fitted, model._fitted.get("gradient_flow_")
    columns = [] if flow is None else [flow.gradient, flow.weight, flow.update]
    scores = held.validation_scores_ or []
    return {
        "shape": (held.n_features_in_, *held._network.layer_sizes),
        "arrays": [array.tobytes() for array in [held.theta(), *columns]],
        "numbers": [held.n_iter_, held.t_, held.loss_, *held.loss_curve_, *scores],
    }


def optimizer(model):
    """The bits of the optimizer's state."""
    held = model._optimizer
    return held and (held.steps, held.learning_rate, held.state.tobytes())


def fit(name):
    """The outcome of a new estimator's fit."""
    model, data, target = FITS[name]
    model = clone(model).fit(data, target)
    return outcome(model), optimizer(model)


def test_fits_of_every_kind_at_once_have_the_bits_of_a_fit_alone():
    alone = {name: fit(name) for name in FITS}
    names = [*FITS, *FITS]
    for _ in range(3):
        results = at_once(*[partial(fit, name) for name in names])
        for name, result in zip(names, results, strict=True):
            assert result == alone[name], name


def test_copies_that_share_a_network_train_on_at_once():
    model = made(warm_start=True, monitor=True).partial_fit(X, y, classes=[0, 1, 2])

    def train_on(rows):
        twin = copy.deepcopy(model)
        assert twin._network is model._network
        for _ in range(5):
            twin.partial_fit(X[rows:], y[rows:])
        return outcome(twin), optimizer(twin)

    before = outcome(model)
    alone = [train_on(rows) for rows in range(8)]
    assert at_once(*[partial(train_on, rows) for rows in range(8)]) == alone
    assert outcome(model) == before


def test_fits_of_one_estimator_at_once_leave_the_model_of_one_of_them():
    model, sides = made(max_iter=2), [X[:, :3], X]
    expected = [outcome(clone(model).fit(side, y)) for side in sides]
    for _ in range(10):
        at_once(*[partial(model.fit, side, y) for side in sides * 2])
        assert outcome(model) in expected
        model.predict(sides[expected.index(outcome(model))])
        assert model.n_features_in_ == model.coefs_[0].shape[0]


@pytest.mark.parametrize("random_state", [0, None])
@pytest.mark.parametrize("solver", _solvers.SOLVERS)
def test_whoever_fits_or_predicts_does_not_wait_for_another_fit(
    solver, random_state, monkeypatch
):
    """One fit stands still in its first epoch until the others are done."""
    first, others_done = threading.Event(), threading.Event()

    def stop(*_):
        first.set()
        others_done.wait()

    # A verbose fit says something after each epoch.
    monkeypatch.setattr(_verbose, "print", stop, raising=False)
    options = {"solver": solver, "random_state": random_state}
    model = made(**options).fit(X, y)
    before, seeded = outcome(model), made(solver=solver)
    alone = outcome(clone(seeded).fit(X, y))
    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(model.set_params(verbose=True).fit, X, y)
        try:
            first.wait()
            assert outcome(clone(seeded).fit(X, y)) == alone
            made(**options).fit(X, y)
            made(monitor=True, early_stopping=True, **options).fit(X, y)
            model.predict(X)
            assert outcome(pickle.loads(pickle.dumps(model))) == before
        finally:
            others_done.set()
        assert fit.result() is model


# ------------------------------------------------------------------------------ readers


def unpickled(model):
    return pickle.loads(pickle.dumps(model))


# Each makes a second estimator of one that is being fitted.
READERS = [copy.copy, copy.deepcopy, unpickled]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_copies_made_while_a_fit_goes_on_hold_one_model_whole(estimator, read):
    model, done = made(estimator, max_iter=2, monitor=True), []
    sides = {side.shape[1]: side for side in (X, X[:, :2])}
    expected = {n: outcome(clone(model).fit(side, y)) for n, side in sides.items()}
    model.fit(X, y)

    def look():
        for looks in count():
            if looks and done:
                return
            twin = read(model)
            assert outcome(twin) == expected[twin.n_features_in_]
            twin.predict(sides[twin.n_features_in_])
            assert str(twin.diagnose())

    def train():
        for _ in range(20):
            for side in reversed(sides.values()):
                model.fit(side, y)
        done.append(True)

    at_once(train, look, look)


def test_a_copy_of_an_estimator_in_the_midst_of_which_it_is_fitted():
    class Fits:
        def __deepcopy__(self, memo):
            thread = threading.Thread(target=model.fit, args=(X, y))
            thread.start()
            thread.join()
            return self

    model = made(max_iter=2)
    model.note = Fits()
    twin = copy.deepcopy(model)
    assert model.n_iter_ == 2
    assert not hasattr(twin, "n_iter_")
    assert twin.get_params() == model.get_params()


def test_models_predict_as_ever_while_another_is_fitted():
    """Models that share a network with the one that trains, and one that does not."""
    model, done = made().fit(X, y), []
    models = [copy.deepcopy(model), copy.copy(model), made(hidden=(4,)).fit(X, y)]
    rows = [slice(0, 1), slice(0, 5), slice(0, 150)]
    expected = [[m.predict_proba(X[some]) for some in rows] for m in models]
    gradient = cbp.backpropagate(models[0], X, y).dW[0]

    def predict(one, probabilities):
        for looks in count():
            if looks and done:
                return
            for some, p in zip(rows, probabilities, strict=True):
                np.testing.assert_array_equal(one.predict_proba(X[some]), p)
            dW = cbp.backpropagate(models[0], X, y).dW[0]
            np.testing.assert_array_equal(dW, gradient)

    def train():
        for solver in [*_solvers.SOLVERS] * 5:
            model.set_params(solver=solver, warm_start=solver != "sgd").fit(X, y)
        done.append(True)

    readers = [partial(predict, *pair) for pair in zip(models, expected, strict=True)]
    at_once(train, *readers, *readers)


# ----------------------------------------------------------------- weights set by hand


def test_weights_that_are_set_while_others_predict_are_never_lost():
    model, done = made().fit(X, y), []
    sides = []
    for i in range(2):
        twin = copy.deepcopy(model)
        twin.coefs_ = [W + 0.1 * i for W in model.coefs_]
        sides.append((twin.coefs_, twin.predict_proba(X)))

    def predict():
        for looks in count():
            if looks and done:
                return
            result = model.predict_proba(X)
            assert any(np.array_equal(result, expected) for _, expected in sides)

    def assign():
        for i in range(200):
            coefs, expected = sides[i % 2]
            model.coefs_ = list(coefs)
            np.testing.assert_array_equal(model.predict_proba(X), expected)
        done.append(True)

    at_once(assign, predict, predict, predict)


@pytest.mark.parametrize("name", ["coefs_", "intercepts_"])
def test_weights_that_are_set_in_the_midst_of_a_prediction_are_kept(name, monkeypatch):
    model, pack = made().fit(X, y), _fitted.pack
    before = model.predict_proba(X)
    new = [array + 1 for array in getattr(model, name)]
    expected = copy.deepcopy(model)
    setattr(expected, name, new)
    expected = expected.predict_proba(X)

    def interrupted_pack(*arguments):
        monkeypatch.setattr(_fitted, "pack", pack)
        thread = threading.Thread(target=setattr, args=(model, name, new))
        thread.start()
        thread.join()
        return pack(*arguments)

    model.coefs_ = [W.copy() for W in model.coefs_]  # for the prediction to take over
    monkeypatch.setattr(_fitted, "pack", interrupted_pack)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


# -------------------------------------------------------------------------- the process

GIL_BEFORE_AND_AFTER = """
import sys, warnings
import numpy, scipy.optimize, sklearn.neural_network

def gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()

before = gil()
with warnings.catch_warnings():
    warnings.simplefilter("error", RuntimeWarning)
    import cbp
    from cbp import datasets, estimators, gradient_flow, inspection
cbp.BPClassifier((3,), max_iter=1).fit([[0.0], [1.0]], [0, 1])
print(before == gil())
"""


def test_import_leaves_the_gil_as_it_was_and_warns_of_nothing():
    """On a free-threaded Python one module that does not declare itself turns it on,
    with a RuntimeWarning, unless the environment decides."""
    assert run_python(GIL_BEFORE_AND_AFTER, PYTHON_GIL="") == "True\n"
