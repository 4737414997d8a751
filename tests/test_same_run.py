"""The same random_state gives scikit-learn's run: weights, shuffles, steps.

Ours and theirs are trained for 20 epochs in float64 and may differ by 1e-7 of the
largest weight of each array. A configuration proves something only if rounding is not
amplified on the way; so scikit-learn is also trained with noise of 8 units in the last
place in its products, which must move its weights by less than 1e-9.
"""

import warnings

import numpy as np
import pytest
import sklearn
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.datasets import (
    load_diabetes,
    load_iris,
    make_classification,
    make_multilabel_classification,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor, _multilayer_perceptron
from sklearn.preprocessing import scale
from sklearn.utils.fixes import parse_version

from cbp import BPClassifier, BPRegressor

N_EPOCHS = 20
TOLERANCE = 1e-7
NOISE_ULPS = 8
NOISE_TOLERANCE = 1e-9

# sample_weight and the Poisson loss came to their estimators in 1.7.
HAS_WEIGHTS = parse_version(sklearn.__version__) >= parse_version("1.7")


def binary():
    X, y = make_classification(120, 8, random_state=0)
    return scale(X), y


def multiclass():
    X, y = load_iris(return_X_y=True)
    return scale(X), np.array(["setosa", "versicolor", "virginica"])[y]


def multilabel():
    X, Y = make_multilabel_classification(100, 10, n_classes=4, random_state=0)
    return scale(X), Y


def regression():
    X, y = load_diabetes(return_X_y=True)
    return scale(X)[:150], scale(y)[:150]


def counts():
    X, y = regression()
    rng = np.random.RandomState(0)
    return X, rng.poisson(np.exp(0.5 * y)).astype(float)


def weights(n):
    weight = np.random.RandomState(1).uniform(0.1, 3, n)
    weight[::7] = 0
    return weight


SGD = {"solver": "sgd", "learning_rate_init": 0.02}
ADAM = {"solver": "adam", "learning_rate_init": 0.003}

# name: (data, parameters). Small layers, several batches, a last batch that is short.
FIT = {
    **{
        f"{solver['solver']}-{activation}-{data.__name__}": (
            data,
            {**solver, "activation": activation},
        )
        for solver in (SGD, ADAM)
        for activation in ("identity", "logistic", "tanh", "relu")
        for data in (binary, multiclass, multilabel, regression)
    },
    **{
        f"sgd-{schedule}-momentum{momentum}-nesterov{nesterov}": (
            multiclass,
            {
                **SGD,
                "learning_rate": schedule,
                "momentum": momentum,
                "nesterovs_momentum": nesterov,
                "power_t": 0.2,
            },
        )
        for schedule in ("constant", "invscaling", "adaptive")
        for momentum in (0.0, 0.9)
        for nesterov in (False, True)
    },
    "sgd-adaptive-that-divides-the-rate": (
        binary,
        {**SGD, "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 2},
    ),
    "sgd-stops-for-want-of-progress": (
        binary,
        {**SGD, "tol": 0.05, "n_iter_no_change": 2},
    ),
    "adam-betas-epsilon-alpha": (
        multiclass,
        {**ADAM, "beta_1": 0.8, "beta_2": 0.98, "epsilon": 1e-5, "alpha": 0.5},
    ),
    "adam-three-hidden-layers": (multiclass, {**ADAM, "hidden_layer_sizes": (9, 8, 7)}),
    "adam-no-hidden-layer": (multiclass, {**ADAM, "hidden_layer_sizes": ()}),
    "adam-batch-of-one": (
        binary,
        {**ADAM, "activation": "tanh", "batch_size": 1, "learning_rate_init": 1e-3},
    ),
    "sgd-batch-of-one": (
        regression,
        {**SGD, "activation": "tanh", "batch_size": 1, "learning_rate_init": 1e-3},
    ),
    "adam-batch-auto": (multiclass, {**ADAM, "batch_size": "auto"}),
    "adam-without-shuffle": (multiclass, {**ADAM, "shuffle": False}),
    "adam-early-stopping-binary": (binary, {**ADAM, "early_stopping": True}),
    "sgd-early-stopping-binary": (
        binary,
        {**SGD, "early_stopping": True, "validation_fraction": 0.3, "tol": 0.02},
    ),
    "adam-early-stopping-regression": (regression, {**ADAM, "early_stopping": True}),
    "adam-early-stopping-multilabel": (multilabel, {**ADAM, "early_stopping": True}),
}
REGRESSIONS = (regression, counts)


def estimators(data, parameters):
    """Theirs and ours, made alike."""
    settings = {
        "hidden_layer_sizes": (11,),
        "batch_size": 32,
        "max_iter": N_EPOCHS,
        "random_state": 7,
        **parameters,
    }
    if data in REGRESSIONS:
        return MLPRegressor(**settings), BPRegressor(**settings)
    return MLPClassifier(**settings), BPClassifier(**settings)


def deviation(one, other):
    """The largest max|dW| / max|W| of all arrays."""
    pairs = zip(
        one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True
    )
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)


def compare(monkeypatch, data, parameters, train):
    """Train theirs, theirs with noise, and ours by `train`; compare all they record."""
    theirs, ours = estimators(data, parameters)
    noisy, _ = estimators(data, parameters)
    rng = np.random.RandomState(0)
    exact_dot = _multilayer_perceptron.safe_sparse_dot

    def noisy_dot(a, b, **options):
        product = exact_dot(a, b, **options)
        noise = NOISE_ULPS * np.finfo(float).eps * rng.uniform(-1, 1, product.shape)
        return product * (1 + noise)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(theirs)
        train(ours)
        with monkeypatch.context() as patch:
            patch.setattr(_multilayer_perceptron, "safe_sparse_dot", noisy_dot)
            train(noisy)
    assert deviation(theirs, noisy) < NOISE_TOLERANCE, "the test amplifies rounding"
    assert deviation(theirs, ours) <= TOLERANCE
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert ours._no_improvement_count == theirs._no_improvement_count
    assert ours.out_activation_ == theirs.out_activation_
    return theirs, ours


@pytest.mark.parametrize("name", FIT)
def test_fit_runs_as_scikit_learns(name, monkeypatch):
    data, parameters = FIT[name]
    X, y = data()
    theirs, ours = compare(monkeypatch, data, parameters, lambda m: m.fit(X, y))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-7)
    assert ours._optimizer.learning_rate == pytest.approx(
        theirs._optimizer.learning_rate, rel=1e-12
    )
    if parameters.get("early_stopping"):
        np.testing.assert_allclose(
            ours.validation_scores_, theirs.validation_scores_, rtol=1e-7
        )
        assert ours.best_loss_ is None
    else:
        assert ours.best_loss_ == pytest.approx(theirs.best_loss_, rel=1e-7)
    np.testing.assert_array_equal(ours.predict(X).shape, theirs.predict(X).shape)


def test_the_adaptive_schedule_is_tested_where_it_divides_the_rate():
    data, parameters = FIT["sgd-adaptive-that-divides-the-rate"]
    _, ours = estimators(data, parameters)
    ours.set_params(learning_rate_init=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.fit(*data())
    assert ours._optimizer.learning_rate < 0.02 / 5 + 1e-12


@pytest.mark.skipif(not HAS_WEIGHTS, reason="scikit-learn 1.6 has no such option")
@pytest.mark.parametrize("solver", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("data", [binary, multiclass, multilabel, regression, counts])
def test_sample_weight_runs_as_scikit_learns(data, solver, monkeypatch):
    X, y = data()
    weight = weights(len(X))
    extra = {"loss": "poisson"} if data is counts else {}
    compare(
        monkeypatch,
        data,
        {**solver, **extra, "activation": "tanh", "learning_rate_init": 0.002},
        lambda m: m.fit(X, y, sample_weight=weight),
    )


@pytest.mark.skipif(not HAS_WEIGHTS, reason="scikit-learn 1.6 has no such option")
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("solver", [SGD, ADAM], ids=["sgd", "adam"])
def test_poisson_runs_as_scikit_learns(activation, solver, monkeypatch):
    X, y = counts()
    parameters = {**solver, "loss": "poisson", "activation": activation}
    if activation == "identity":  # else SGD's first steps amplify rounding
        parameters["learning_rate_init"] = 0.002
    compare(monkeypatch, counts, parameters, lambda m: m.fit(X, y))


@pytest.mark.parametrize("make_sparse", [csr_matrix, csc_matrix])
@pytest.mark.parametrize("data", [binary, multiclass, multilabel, regression])
def test_sparse_input_runs_as_scikit_learns(data, make_sparse, monkeypatch):
    X, y = data()
    X = np.where(np.abs(X) < 0.7, 0, X)
    X = make_sparse(X)
    compare(monkeypatch, data, {**ADAM, "activation": "tanh"}, lambda m: m.fit(X, y))


@pytest.mark.parametrize("solver", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("data", [binary, multiclass, multilabel, regression])
def test_warm_start_runs_as_scikit_learns(data, solver, monkeypatch):
    X, y = data()

    def train(model):
        model.set_params(warm_start=True, max_iter=8).fit(X, y)
        model.set_params(max_iter=12).fit(X, y)

    theirs, ours = compare(monkeypatch, data, {**solver, "activation": "tanh"}, train)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive"])
@pytest.mark.parametrize("data", [binary, multiclass, multilabel, regression])
def test_partial_fit_runs_as_scikit_learns(data, schedule, monkeypatch):
    X, y = data()
    classes = {} if data in REGRESSIONS else {"classes": np.unique(y)}
    if data is multilabel:
        classes = {"classes": np.arange(y.shape[1])}

    def train(model):
        for _ in range(N_EPOCHS):
            model.partial_fit(X[:70], y[:70], **classes)
            model.partial_fit(X[70:], y[70:])

    parameters = {**SGD, "learning_rate": schedule, "activation": "tanh"}
    compare(monkeypatch, data, parameters, train)


@pytest.mark.parametrize("solver", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("data", [binary, multiclass, regression])
def test_partial_fit_after_fit_keeps_the_optimizer_as_scikit_learn_does(
    data, solver, monkeypatch
):
    X, y = data()

    def train(model):
        model.set_params(max_iter=10).fit(X, y)
        for _ in range(10):
            model.partial_fit(X, y)

    compare(monkeypatch, data, {**solver, "activation": "tanh"}, train)


@pytest.mark.parametrize("data", [binary, multiclass, regression])
def test_an_own_random_state_object_ends_in_the_same_state(data):
    X, y = data()
    theirs, ours = estimators(data, ADAM)
    theirs.set_params(random_state=np.random.RandomState(3))
    ours.set_params(random_state=np.random.RandomState(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(X, y)
        ours.fit(X, y)
    assert theirs.random_state.randint(1 << 30) == ours.random_state.randint(1 << 30)
