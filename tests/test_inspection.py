"""Backpropagation as data: the equations hold, and the gradient is proved."""

import math
import warnings

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor, backpropagate, check_gradient, inspection
from cbp._solvers import SOLVERS
from cbp.datasets import make_two_spheres

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N, N_FEATURES = 40, 6
rng = np.random.RandomState(0)
X = rng.standard_normal((N, N_FEATURES))
X[rng.uniform(size=X.shape) < 0.3] = 0  # so that sparse rows differ from dense ones
WEIGHT = rng.uniform(0.1, 3, N)
BINARY = np.array(["no", "yes"])[rng.randint(2, size=N)]
THREE = np.array(["a", "b", "c"])[rng.randint(3, size=N)]
LABELS = rng.randint(2, size=(N, 3))
REAL = rng.standard_normal(N)
REAL_3 = rng.standard_normal((N, 3))
COUNTS = rng.poisson(2.0, (N, 2)).astype(float)

# Every cost with every kind of target it takes.
PROBLEMS = {
    "binary": (BPClassifier, "log_loss", BINARY),
    "binary, quadratic": (BPClassifier, "squared_error", BINARY),
    "three classes": (BPClassifier, "log_loss", THREE),
    "three classes, quadratic": (BPClassifier, "squared_error", THREE),
    "multilabel": (BPClassifier, "log_loss", LABELS),
    "multilabel, quadratic": (BPClassifier, "squared_error", LABELS),
    "regression": (BPRegressor, "squared_error", REAL),
    "regression, 3 outputs": (BPRegressor, "squared_error", REAL_3),
    "poisson": (BPRegressor, "poisson", COUNTS),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS)
# Every problem with some activations, every activation with two problems: one knows
# nothing of the other.
SOME = ["tanh", "gelu", ("tanh", "relu")]
PAIRS = [(problem, f) for problem in PROBLEMS for f in SOME]
PAIRS += [
    (problem, f)
    for problem in ("three classes", "regression, 3 outputs")
    for f in reference.ACTIVATIONS
    if f not in SOME
]
every_pair = pytest.mark.parametrize("problem, activation", PAIRS, ids=str)


def make(problem, activation="tanh", hidden=(5, 4), **parameters):
    estimator, loss, y = PROBLEMS[problem]
    parameters = {"alpha": 0.3, "random_state": 0, **parameters}
    return estimator(
        hidden_layer_sizes=hidden, activation=activation, loss=loss, **parameters
    ), y


def derivative(f, z, a):
    return reference.ACTIVATIONS[f].slope(z, a)


def state(est):
    """Everything an estimator holds, in a form that can be compared."""
    weights = {"W": [W.copy() for W in est.coefs_], "b": est.intercepts_}
    weights["b"] = [b.copy() for b in weights["b"]]
    return weights, {**vars(est), **vars(est._fitted)}


def same_state(est, before):
    (weights, other), (weights_before, other_before) = state(est), before
    for name in weights:
        assert all(map(np.array_equal, weights[name], weights_before[name]))
    assert other.keys() == other_before.keys()
    assert all(other[name] is other_before[name] for name in other)


# --------------------------------------------------------------- the four equations


@every_pair
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_the_four_equations_hold(problem, activation, weight, form):
    est, y = make(problem, activation)
    est.initialize(X, y)
    flow = backpropagate(est, form(X), y, weight)
    w = np.ones(N) if weight is None else weight
    a_prev = X
    for i, (W, b) in enumerate(zip(est.coefs_, est.intercepts_, strict=True)):
        z, a, delta = flow.z[i], flow.a[i], flow.delta[i]
        assert z.shape == a.shape == delta.shape == (N, len(b))
        np.testing.assert_allclose(z, a_prev @ W + b, rtol=0, atol=1e-13)
        if i < 2:
            f = flow.activations[i]
            error = flow.delta[i + 1] @ est.coefs_[i + 1].T * derivative(f, z, a)
            np.testing.assert_allclose(delta, error, rtol=0, atol=1e-13)
        dW = (a_prev.T @ delta + 0.3 * W) / w.sum()
        np.testing.assert_allclose(flow.dW[i], dW, rtol=0, atol=1e-13)
        np.testing.assert_allclose(
            flow.db[i], delta.sum(0) / w.sum(), rtol=0, atol=1e-13
        )
        a_prev = a


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_error_of_the_output_layer_and_cost_are_the_articles(weight):
    est, y = make("binary, quadratic")
    est.initialize(X, y)
    flow = backpropagate(est, X, y, weight)
    w = np.ones(N) if weight is None else weight
    target, a = (y == "yes")[:, None], flow.a[-1]
    delta = w[:, None] * (a - target) * a * (1 - a)
    np.testing.assert_allclose(flow.delta[-1], delta, rtol=0, atol=1e-15)
    penalty = 0.3 / 2 * sum((W**2).sum() for W in est.coefs_)
    cost = (w @ (a - target) ** 2 / 2 + penalty) / w.sum()
    assert flow.cost == pytest.approx(float(cost[0]), rel=1e-14)


def test_outputs_are_those_of_predict():
    est, y = make("three classes")
    est.fit(X, y)
    flow = backpropagate(est, X, y)
    assert np.array_equal(flow.a[-1], est.predict_proba(X))
    assert np.array_equal(flow.z[-1], est.decision_function(X))


def test_a_step_of_gradient_descent_subtracts_eta_dW():
    est, y = make("binary", solver="sgd", momentum=0, learning_rate_init=0.5)
    est.set_params(batch_size=N)
    est.initialize(X, y)
    flow, before = backpropagate(est, X, y), [W.copy() for W in est.coefs_]
    est.partial_fit(X, y)
    for W, W_before, dW in zip(est.coefs_, before, flow.dW, strict=True):
        np.testing.assert_allclose(W, W_before - 0.5 * dW, rtol=0, atol=1e-14)


def test_replaced_weights_are_used():
    est, y = make("regression")
    est.initialize(X, y)
    est.coefs_ = [2 * W for W in est.coefs_]
    np.testing.assert_allclose(
        backpropagate(est, X, y).z[0], X @ est.coefs_[0] + est.intercepts_[0]
    )


def test_a_float32_model_shows_float32_numbers():
    est, y = make("three classes", precision="float32")
    flow = backpropagate(est.initialize(X, y), X, y)
    assert flow.x.dtype == np.float32
    assert all(a.dtype == np.float32 for a in [*flow.z, *flow.a, *flow.delta])


def test_no_hidden_layer_and_one_row_are_enough():
    est, y = make("three classes", hidden=())
    est.fit(X, y)
    flow = backpropagate(est, X[:1], y[:1])
    assert [d.shape for d in flow.delta] == [(1, 3)]
    assert check_gradient(est, X[:1], y[:1]).agrees


def test_more_rows_than_a_chunk_are_one_batch():
    est, y = make("three classes")
    est.initialize(X, y)
    many, few = backpropagate(est, np.tile(X, (60, 1)), np.tile(y, 60)), N
    assert np.array_equal(many.z[1][-few:], backpropagate(est, X, y).z[1])
    assert check_gradient(est, np.tile(X, (60, 1)), np.tile(y, 60), max_checks=5).agrees


def test_printed_it_is_a_table_of_the_layers():
    points, y = make_two_spheres(random_state=0)
    est = BPClassifier((3, 2), "sigmoid", random_state=0).initialize(points, y)
    flow = backpropagate(est, points, y)
    head, names, *layers = str(flow).splitlines()
    assert head.startswith(f"Backpropagation of 200 rows, cost C = {flow.cost:.6g}")
    assert names.split()[:3] == ["layer", "f", "W"]
    assert [line.split()[:5] for line in layers] == [
        [str(number), "logistic", str(n_in), "x", str(n_out)]
        for number, n_in, n_out in [(1, 3, 3), (2, 3, 2), (3, 2, 1)]
    ]
    assert repr(flow) == str(flow)


# ------------------------------------------------------------------- the gradient


@every_pair
@pytest.mark.parametrize("alpha", [0.0, 0.3], ids="alpha={}".format)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_backpropagation_agrees_with_central_differences(
    problem, activation, alpha, weight, form
):
    est, y = make(problem, activation, alpha=alpha)
    check = check_gradient(est.initialize(X, y), form(X), y, weight)
    assert check.agrees
    assert check.largest_error < 1e-7
    assert [layer.layer for layer in check.layers] == [1, 2, 3]
    assert check.n_rows + check.n_left_out == N
    assert not any(layer.below_floor for layer in check.layers)


# Not read by a test, which may be run time and again with one monkeypatch.
TRAINER = inspection._trainer


class Altered:
    """A trainer whose gradient is wrong in one place."""

    def __init__(self, trainer, place, factor):
        self.trainer, self.place, self.factor = trainer, place, factor
        self.network = trainer.network

    def backpropagate(self, theta):
        return self.trainer.backpropagate(theta)

    def loss_gradient(self, theta):
        loss, gradient = self.trainer.loss_gradient(theta)
        gradient[self.place] *= self.factor
        return loss, gradient


@pytest.mark.parametrize("factor", [0.0, 0.999, -1.0, 2.0])
@pytest.mark.parametrize("layer, part", [(1, "W"), (2, "W"), (2, "b"), (3, "b")])
def test_a_wrong_derivative_is_found_and_named(monkeypatch, layer, part, factor):
    est, y = make("three classes")
    est.initialize(X, y)
    # The largest derivative of the part: others may be small against the layer's.
    flow = backpropagate(est, X, y)
    wrong = np.abs((flow.dW if part == "W" else flow.db)[layer - 1]).argmax()
    segments = {name: (start, shape) for name, start, shape, _ in est._network.segments}
    start, shape = segments[f"{part}{layer}"]
    monkeypatch.setattr(
        inspection,
        "_trainer",
        lambda *arguments: Altered(TRAINER(*arguments), start + wrong, factor),
    )
    check = check_gradient(est, X, y)
    place = ", ".join(str(int(i)) for i in np.unravel_index(wrong, shape))
    assert check.where == f"{part}{layer}[{place}]"
    assert [part.agrees for part in check.layers] == [n != layer for n in (1, 2, 3)]
    assert not check.agrees and check.largest_error > 1e-4
    assert "DISAGREE" in str(check) and check.where in str(check)


def test_a_missing_gradient_is_not_mistaken_for_a_small_one(monkeypatch):
    est, y = make("three classes")
    est.initialize(X, y)
    monkeypatch.setattr(
        inspection,
        "_trainer",
        lambda *arguments: Altered(TRAINER(*arguments), slice(0, 30), 0.0),
    )
    check = check_gradient(est, X, y)
    assert not check.layers[0].agrees and not check.layers[0].below_floor


def test_a_layer_below_the_noise_floor_is_said_to_be_so():
    est, y = make("binary", "logistic", hidden=(4,) * 3, alpha=0.0)
    est.initialize(X, y)
    # No difference of a float64 cost can show the errors behind such weights.
    est.coefs_[2][:] *= 1e-9
    est.coefs_[3][:] *= 1e-9
    check = check_gradient(est, X, y)
    assert [layer.below_floor for layer in check.layers] == [True, True, False, False]
    assert check.agrees and check.where[1] in "34"
    assert str(check).count("below the floor") == 2


def test_if_every_layer_lies_below_the_floor_no_error_is_claimed():
    # The only target is met exactly: no cost, no gradient.
    est, y = make("regression", "identity", hidden=(), alpha=0.0)
    est.initialize(X, y)
    check = check_gradient(est, X, X @ est.coefs_[0][:, 0] + est.intercepts_[0])
    assert check.layers[0].below_floor and check.agrees
    assert math.isnan(check.largest_error) and check.where is None
    assert "every layer lies below" in str(check)


def test_rows_at_a_kink_of_relu_are_left_out_and_counted():
    est, y = make("binary", "relu")
    est.initialize(X, y)
    at_kink = X.copy()
    # z of unit 0 is exactly 0 in row 0, and nearly so in row 1.
    W, b = est.coefs_[0][:, 0], est.intercepts_[0][0]
    at_kink[0] = -b * W / (W @ W)
    at_kink[1] = (1e-5 - b) * W / (W @ W)
    near = np.zeros(N, dtype=bool)
    for z in backpropagate(est, at_kink, y).z[:2]:
        near |= (abs(z) < inspection.KINK).any(axis=1)
    assert near[:2].all()
    check = check_gradient(est, at_kink, y)
    assert check.n_left_out == near.sum() and check.n_rows == N - near.sum()
    assert check.agrees and check.largest_error < 1e-7
    assert "left out" in str(check)


def test_if_all_rows_lie_at_a_kink_it_says_what_to_do():
    est, y = make("binary", "relu")
    est.initialize(X, y)
    est.intercepts_[0][:] = 0
    with pytest.raises(ValueError, match="every row of X .* ReLU .* Give other rows"):
        check_gradient(est, np.zeros_like(X), y)


def test_the_scale_of_the_inputs_does_not_matter():
    est, y = make("three classes", "tanh", alpha=0.0)
    est.initialize(X, y)
    scale = np.array([1e-6, 1e-3, 1, 1e3, 1e6, 1])
    est.coefs_[0][:] /= scale[:, None]
    check = check_gradient(est, X * scale, y)
    assert check.agrees and check.largest_error < 1e-6


def test_a_float32_model_is_checked_in_float64():
    est, y = make("three classes", "relu", precision="float32")
    est.fit(X, y)
    check = check_gradient(est, sp.csr_array(X), y, WEIGHT)
    assert check.agrees and check.largest_error < 1e-7


def test_at_most_max_checks_parameters_of_a_layer_are_compared():
    digits, y = load_digits(return_X_y=True)
    est = BPClassifier(10, random_state=0).initialize(digits, y)
    check = check_gradient(est, digits[:50], y[:50], max_checks=20)
    assert [layer.n_checked for layer in check.layers] == [20, 20]
    assert [layer.n_params for layer in check.layers] == [650, 110]
    full = check_gradient(est, digits[:50], y[:50], max_checks=None)
    assert [layer.n_checked for layer in full.layers] == [650, 110]
    # The largest derivative is always among them.
    for some, whole in zip(check.layers, full.layers, strict=True):
        assert some.largest_gradient == pytest.approx(whole.largest_gradient, rel=1e-6)


def test_after_training_on_real_data_it_still_agrees():
    digits, y = load_digits(return_X_y=True)
    for activation in ["logistic", "tanh", "relu"]:
        est = BPClassifier((30, 20), activation, max_iter=20, random_state=0)
        est.fit(digits, y)
        assert check_gradient(est, digits[:200], y[:200], max_checks=50).agrees


# ------------------------------------------------------------ fitted or initialized


@every_problem
def test_inspection_changes_nothing(problem):
    est, y = make(problem, max_iter=3)
    est.fit(X, y)
    before = state(est)
    backpropagate(est, X, y)
    check_gradient(est, X, y, WEIGHT, max_checks=3)
    same_state(est, before)


@every_problem
def test_initialize_draws_the_weights_that_fit_starts_from(problem):
    est, y = make(problem, solver="sgd", learning_rate_init=1e-300, max_iter=1)
    est.initialize(X, y)
    fitted = make(problem, solver="sgd", learning_rate_init=1e-300, max_iter=1)[0]
    fitted.fit(X, y)
    assert all(map(np.array_equal, est.coefs_, fitted.coefs_))
    assert all(map(np.array_equal, est.intercepts_, fitted.intercepts_))
    assert np.array_equal(est.predict(X), fitted.predict(X))
    assert (est.n_iter_, est.t_, est.loss_curve_) == (0, 0, [])


@pytest.mark.parametrize("solver", SOLVERS)
def test_training_goes_on_from_initialized_weights(solver):
    est, y = make("three classes", solver=solver, warm_start=True, max_iter=5)
    est.initialize(X, y)
    cost = backpropagate(est, X, y).cost
    start = [W.copy() for W in est.coefs_]
    est.fit(X, y)
    assert len(est.loss_curve_) == 5
    assert backpropagate(est, X, y).cost < cost
    cold = make("three classes", solver=solver, max_iter=5)[0].fit(X, y)
    if solver == "lbfgs":  # draws nothing after the weights
        assert all(map(np.array_equal, est.coefs_, cold.coefs_))
    assert not any(map(np.array_equal, est.coefs_, start))


def test_initialize_forgets_what_was_fitted():
    est, y = make("three classes", warm_start=True, max_iter=3)
    est.fit(X, y)
    est.initialize(X[:, :4], BINARY)
    assert est.classes_.tolist() == ["no", "yes"] and est.n_features_in_ == 4
    assert est.loss_curve_ == []


def test_a_failed_initialize_leaves_the_model_as_it_was():
    est, y = make("three classes", max_iter=3)
    est.fit(X, y)
    before = state(est)
    with pytest.raises(ValueError):
        est.initialize(X, y[:-1])
    same_state(est, before)


def test_initialize_warns_of_nothing_and_holds_nothing_out():
    est, y = make("binary", early_stopping=True, batch_size=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.initialize(X[:2], ["no", "yes"])  # too few rows to hold any out
    assert est.predict(X).shape == (N,)


# ------------------------------------------------------------------------ bad input

both = pytest.mark.parametrize("function", [backpropagate, check_gradient])


@both
def test_a_model_without_weights_is_told_about_initialize(function):
    est, y = make("binary")
    with pytest.raises(NotFittedError, match=r"BPClassifier .* fit\(X, y\), or\s+init"):
        function(est, X, y)


@both
@pytest.mark.parametrize(
    "other",
    [
        make_pipeline(StandardScaler(), BPClassifier()),
        MLPClassifier(),
        BPClassifier,
        None,
    ],
    ids=["pipeline", "MLPClassifier", "class", "None"],
)
def test_other_objects_are_refused(function, other):
    with pytest.raises(TypeError, match="est must be a BPClassifier or BPRegressor"):
        function(other, X, BINARY)


@both
@pytest.mark.parametrize(
    "problem, rows, y, weight, message",
    [
        ("binary", X[:, :3], BINARY, None, "3 features, but .* 6 features"),
        ("binary", X, BINARY[:-1], None, "inconsistent numbers of samples"),
        ("binary", X, THREE, None, "classes not in"),
        ("binary", X, LABELS, None, "multilabel"),
        ("multilabel", X, BINARY, None, "multilabel"),
        ("multilabel", X, LABELS[:, :2], None, "2 columns of labels"),
        ("regression", X, REAL_3, None, "asks? for"),
        ("regression", X, BINARY, None, "could not convert|dtype"),
        ("poisson", X, -COUNTS - 1, None, "y >= 0"),
        ("binary", np.full_like(X, np.nan), BINARY, None, "NaN"),
        ("binary", X, BINARY, WEIGHT[:-1], "sample_weight"),
        ("binary", X, BINARY, -WEIGHT, "negative"),
        ("binary", X, BINARY, np.zeros(N), "zero in every row"),
        ("binary", X[:0], BINARY[:0], None, "0 sample"),
    ],
)
def test_wrong_data_are_refused(function, problem, rows, y, weight, message):
    est, good = make(problem, max_iter=2)
    est.fit(X, good)
    before = state(est)
    with pytest.raises(ValueError, match=message):
        function(est, rows, y, weight)
    same_state(est, before)


@both
def test_some_of_the_classes_are_enough(function):
    est, y = make("three classes", max_iter=2)
    est.fit(X, y)
    function(est, X[y == "b"], y[y == "b"])


@pytest.mark.parametrize(
    "name, value",
    [("max_checks", 0), ("max_checks", 1.5), ("max_checks", "all")]
    + [("random_state", -1), ("random_state", "seed")],
)
def test_bad_parameters_are_refused_by_name(name, value):
    est, y = make("binary", max_iter=2)
    est.fit(X, y)
    with pytest.raises(ValueError, match=f"'{name}' parameter of check_gradient"):
        check_gradient(est, X, y, **{name: value})


def test_a_cost_that_overflows_is_named():
    est, y = make("poisson", "identity")
    est.initialize(X, y)
    est.coefs_[0][:] *= 1e4
    with pytest.raises(ValueError, match="not finite"), np.errstate(all="ignore"):
        check_gradient(est, X * 1e4, y)
