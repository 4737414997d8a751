"""Losses with parameters, as users meet them: against metrics and models of others.

The formulas in their own right, and their gradients, are tested over the tables, in
test_kernels.py and test_gradients.py.
"""

import copy
import pickle

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.linear_model import (
    GammaRegressor,
    PoissonRegressor,
    QuantileRegressor,
    TweedieRegressor,
)
from sklearn.metrics import (
    d2_absolute_error_score,
    d2_pinball_score,
    d2_tweedie_score,
    mean_absolute_error,
    mean_gamma_deviance,
    mean_pinball_loss,
    mean_poisson_deviance,
    mean_tweedie_deviance,
)
from sklearn.model_selection import GridSearchCV

from cbp import BPClassifier, BPRegressor, _catalog, backpropagate, check_gradient

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N = 300
rng = np.random.RandomState(0)
X = rng.normal(size=(N, 4))
REAL = X[:, 0] + np.exp(0.5 * X[:, 1]) * rng.normal(size=N)
POSITIVE = np.exp(0.4 * X[:, 0]) * rng.gamma(2.0, 0.5, N)
CLAIMS = POSITIVE * (rng.uniform(size=N) < 0.6)
WEIGHT = rng.uniform(0.2, 2.0, N)
LEVELS = (0.1, 0.5, 0.9)


def huber(y, p, sample_weight=None):
    d = np.abs(y - p)
    costs = np.where(d <= 0.7, d * d / 2, 0.7 * (d - 0.35))
    return np.average(costs, weights=sample_weight)


def half(deviance, **parameters):
    def mean(y, p, sample_weight=None):
        return deviance(y, p, sample_weight=sample_weight, **parameters) / 2

    return mean


def pinball(y, p, sample_weight=None):
    return mean_pinball_loss(y, p, sample_weight=sample_weight, alpha=0.8)


# Parameters, targets, and what the loss is according to others.
PROBLEMS = {
    "absolute_error": ({}, REAL, mean_absolute_error),
    "huber": ({"huber_delta": 0.7}, REAL, huber),
    "quantile": ({"quantile": 0.8}, REAL, pinball),
    "poisson": ({}, CLAIMS, half(mean_poisson_deviance)),
    "gamma": ({}, POSITIVE, half(mean_gamma_deviance)),
    "tweedie": ({"power": 1.3}, CLAIMS, half(mean_tweedie_deviance, power=1.3)),
}
every_loss = pytest.mark.parametrize("loss", PROBLEMS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_solver = pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])


def make(loss, **more):
    parameters, y, metric = PROBLEMS[loss]
    options = dict(hidden_layer_sizes=(8,), random_state=0, max_iter=20, alpha=0.0)
    options |= {"learning_rate_init": 0.01, **parameters, **more}
    return BPRegressor(loss, **options), y, metric


def make_quantiles(**more):
    model, y, _ = make("quantile", **{"quantile": LEVELS, **more})
    return model, y


@every_loss
@every_dtype
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("form", [np.asarray, csr_matrix], ids=["dense", "sparse"])
def test_the_loss_is_what_scikit_learns_metric_says(loss, dtype, weight, form):
    model, y, metric = make(loss, max_iter=10, scoring="loss")
    data = form(X.astype(dtype))
    held_out = {"X_val": data, "y_val": y, "sample_weight_val": weight}
    model.fit(data, y, weight, **held_out)
    expected = metric(y, model.predict(data).astype(float), sample_weight=weight)
    close = 1e-12 if dtype == np.float64 else 2e-6
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=close)


@pytest.mark.parametrize(
    "loss, score",
    [
        ("absolute_error", d2_absolute_error_score),
        ("quantile", lambda y, p: d2_pinball_score(y, p, alpha=0.8)),
        ("tweedie", lambda y, p: d2_tweedie_score(y, p, power=1.3)),
    ],
)
def test_d2_is_one_less_the_share_of_a_constants_loss(loss, score):
    model, y, _ = make(loss, max_iter=30, scoring="loss")
    model.fit(X, y, X_val=X, y_val=y)
    constant = model._fit_summary.constant_cost
    d2 = 1 - model.validation_loss_curve_[-1] / constant
    # scikit-learn's quantiles lie between two targets, where many are best.
    assert d2 == pytest.approx(score(y, model.predict(X)), abs=2e-3)


@every_loss
@pytest.mark.parametrize("n_outputs", [2, 3])
def test_several_outputs_cost_the_sum_of_each(loss, n_outputs):
    model, y, metric = make(loss)
    Y = np.c_[y, y[::-1], y][:, :n_outputs]
    model.fit(X, Y, X_val=X, y_val=Y)
    predicted = model.predict(X).reshape(N, -1)
    expected = sum(metric(Y[:, j], predicted[:, j]) for j in range(n_outputs))
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-12)


@every_loss
@every_solver
def test_every_way_to_train_lowers_the_loss(loss, solver):
    model, y, metric = make(loss, solver=solver, max_iter=60)
    start = metric(y, model.initialize(X, y).predict(X))
    assert metric(y, model.fit(X, y).predict(X)) < start
    model.set_params(early_stopping=True)
    assert metric(y, model.fit(X, y, WEIGHT).predict(X)) < start
    model.set_params(early_stopping=False, warm_start=True, max_iter=5)
    loss_before = model.loss_
    assert model.fit(X, y, WEIGHT).loss_ < 1.5 * loss_before
    if solver != "lbfgs":
        for _ in range(3):
            model.partial_fit(X[:1], y[:1])  # rows one by one
            model.partial_fit(X, y)
        assert metric(y, model.predict(X)) < start


@every_loss
def test_batches_of_one_row_of_csr_and_of_threads_have_the_bits_of_others(loss):
    model, y, _ = make(loss, batch_size=1, max_iter=2)
    one = model.fit(X, y)
    again = clone(model).fit(csr_matrix(X), y)
    np.testing.assert_array_equal(one.coefs_[0], again.coefs_[0])
    model, y, _ = make(loss, batch_size=300, max_iter=2, hidden_layer_sizes=(200, 200))
    many = clone(model).set_params(n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(model.fit(X, y).coefs_[0], many.coefs_[0])


@every_loss
def test_gradients_are_those_of_the_loss(loss):
    model, y, _ = make(loss, activation="tanh")
    assert check_gradient(model.initialize(X, y), X, y, WEIGHT).agrees


@pytest.mark.parametrize("loss", ["absolute_error", "quantile"])
def test_gradients_are_compared_where_the_loss_has_one(loss):
    model, y, _ = make(loss, activation="tanh")
    predicted = model.initialize(X, y).predict(X)
    y = np.where(np.arange(N) % 3, y, predicted)  # at the kink
    assert check_gradient(model, X, y).agrees
    with pytest.raises(ValueError, match="no derivative"):
        check_gradient(model, X, predicted)


# ---- other implementations


@pytest.mark.parametrize("level", [0.5, 0.8])
@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_linear_quantiles_come_near_those_of_a_linear_programme(level, solver):
    theirs = QuantileRegressor(quantile=level, alpha=0.0).fit(X, REAL)
    least = mean_pinball_loss(REAL, theirs.predict(X), alpha=level)
    ours = BPRegressor("quantile", (), quantile=level, alpha=0.0, solver=solver)
    ours.set_params(random_state=0, max_iter=1000, learning_rate_init=0.01)
    ours.set_params(tol=1e-7, n_iter_no_change=50)
    found = mean_pinball_loss(REAL, ours.fit(X, REAL).predict(X), alpha=level)
    assert least <= found * (1 + 1e-9) < 1.003 * least


@pytest.mark.parametrize(
    "theirs, ours, y",
    [
        (PoissonRegressor, {"loss": "tweedie", "power": 1}, CLAIMS),
        (GammaRegressor, {"loss": "gamma"}, POSITIVE),
        (GammaRegressor, {"loss": "tweedie", "power": 2}, POSITIVE),
        (TweedieRegressor, {"loss": "tweedie", "power": 1.6}, CLAIMS),
    ],
)
def test_linear_models_of_a_deviance_are_scikit_learns(theirs, ours, y):
    options = {"power": 1.6, "link": "log"} if theirs is TweedieRegressor else {}
    expected = theirs(alpha=0.0, tol=1e-9, max_iter=5000, **options).fit(X, y, WEIGHT)
    model = BPRegressor(hidden_layer_sizes=(), alpha=0.0, solver="lbfgs", **ours)
    model.set_params(max_iter=5000, tol=1e-9, random_state=0).fit(X, y, WEIGHT)
    np.testing.assert_allclose(model.coefs_[0][:, 0], expected.coef_, atol=1e-3)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=3e-3)


def test_a_wide_huber_is_the_squared_error_and_a_narrow_one_the_absolute_one():
    wide, y, _ = make("huber", huber_delta=1e6)
    squared = BPRegressor(**{**wide.get_params(), "loss": "squared_error"})
    squared.set_params(huber_delta=1.0)
    np.testing.assert_array_equal(wide.fit(X, y).coefs_[0], squared.fit(X, y).coefs_[0])
    first = {"max_iter": 1, "batch_size": N}  # its loss is that of the first weights
    narrow = make("huber", huber_delta=1e-9, **first)[0].fit(X, y)
    absolute = make("absolute_error", **first)[0].fit(X, y)
    assert narrow.loss_ == pytest.approx(1e-9 * absolute.loss_, rel=1e-6)


def test_outliers_move_the_mean_more_than_the_median_and_hubers_answer():
    y = REAL.copy()
    y[::10] += 50
    rest = np.arange(N) % 10 > 0

    def error(loss):
        model = make(loss, max_iter=300)[0] if loss in PROBLEMS else BPRegressor(loss)
        model.set_params(solver="lbfgs", random_state=0, hidden_layer_sizes=())
        return mean_absolute_error(REAL[rest], model.fit(X, y).predict(X)[rest])

    least = error("squared_error") / 2
    assert error("huber") < least and error("absolute_error") < least


# ---- targets and parameters


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("power", [1.0, 1.0001, 1.5, 1.9999, 2.0])
@every_dtype
def test_a_perfect_fit_costs_nothing(power, weight, dtype):
    y = np.full(N, 3.7)
    model = BPRegressor("tweedie", (), power=power, alpha=0.0, random_state=0)
    model.initialize(X.astype(dtype), y)
    model.coefs_[0][:] = 0
    model.intercepts_[0][:] = np.log(3.7)
    model.set_params(warm_start=True, max_iter=1, batch_size=N)
    model.fit(X.astype(dtype), y, weight)
    assert 0 <= model.loss_ <= np.finfo(dtype).eps


def test_gamma_needs_targets_above_0_and_tweedie_only_at_the_power_2():
    y = np.abs(REAL)
    y[3] = 0
    with pytest.raises(ValueError, match="loss='gamma' needs y > 0.*0.0"):
        BPRegressor("gamma").fit(X, y)
    with pytest.raises(
        ValueError, match="'tweedie' with power=2.0 in float64 needs y > 0"
    ):
        BPRegressor("tweedie", power=2).fit(X, y)
    BPRegressor("tweedie", power=1.999, max_iter=2).fit(X, y)
    for loss in ("poisson", "tweedie"):
        with pytest.raises(ValueError, match="needs y >= 0"):
            BPRegressor(loss).fit(X, -y)
    # What rounds to 0 is 0.
    with pytest.raises(ValueError, match="needs y > 0"):
        BPRegressor("gamma", precision="float32").fit(X, np.full(N, 1e-60))


def test_a_power_that_rounds_to_2_needs_targets_above_0():
    y = np.abs(REAL)
    model = BPRegressor("tweedie", power=2 - 1e-12, precision="float32", max_iter=2)
    assert np.isfinite(model.fit(X, y).loss_)
    y[3] = 0
    message = "'tweedie' with power=1.999999999999 in float32 needs y > 0"
    for call in (model.fit, model.partial_fit, clone(model).initialize):
        with pytest.raises(ValueError, match=message):
            call(X, y)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("loss", PROBLEMS)
def test_targets_of_any_size_give_numbers_or_an_error(loss, size):
    model, y, _ = make(loss, max_iter=2)
    try:
        model.fit(X, y * size)
    except ValueError as error:
        assert "diverged" in str(error)
    else:
        assert np.isfinite(model.loss_) and model.loss_ >= 0
        model.diagnose()


@pytest.mark.parametrize(
    "name, value, loss",
    [
        ("huber_delta", 2.0, "squared_error"),
        ("quantile", 0.9, "huber"),
        ("quantile", LEVELS, "absolute_error"),
        ("power", 1.0, "poisson"),
    ],
)
def test_a_parameter_that_the_loss_does_not_use_is_refused(name, value, loss):
    model = BPRegressor(loss, max_iter=2, **{name: value})
    assert clone(model).get_params()[name] == value
    for call in (model.fit, model.partial_fit, model.initialize):
        with pytest.raises(ValueError, match=f"'{name}' parameter.*loss='{loss}'"):
            call(X, CLAIMS)
    assert not model.__sklearn_is_fitted__()


@pytest.mark.parametrize("name, value", [("huber_delta", 1e-60), ("huber_delta", 1e60)])
def test_a_parameter_that_float32_cannot_hold_is_refused(name, value):
    model, y, _ = make("huber", **{name: value})
    model.fit(X, y)
    with pytest.raises(ValueError, match=name):
        model.set_params(precision="float32").fit(X, y)


@pytest.mark.parametrize(
    "name, value",
    [
        ("quantile", 1 - 1e-12),
        ("quantile", [0.5, 1 - 1e-12]),
        ("quantile", [0.5, 0.5 + 1e-12]),
        ("quantile", [1e-60, 0.5]),
        ("label_smoothing", 1 - 1e-12),
        ("label_smoothing", 1e-60),
        ("focal_gamma", 1e60),
    ],
)
def test_a_parameter_that_float32_rounds_to_what_is_not_allowed_is_refused(name, value):
    if name == "quantile":
        model, y = make_quantiles(**{name: value})
    else:
        model, y = classifier().set_params(**{name: value}), BINARY
    if name != "focal_gamma":  # whose cost is beyond all floats
        assert np.isfinite(model.fit(X, y).loss_)
    model = clone(model).set_params(precision="float32")
    calls = [model.fit, model.initialize, lambda X, y: model.fit(X.astype("f"), y)]
    for call in calls:
        with pytest.raises(ValueError, match=f"^{name}=.*not valid in float32"):
            call(X, y)
    assert not model.__sklearn_is_fitted__()


def test_a_search_goes_over_losses_and_their_parameters():
    grid = [
        {"loss": ["huber"], "huber_delta": [0.5, 2.0]},
        {"loss": ["quantile"], "quantile": [0.4, 0.6]},
        {"loss": ["squared_error"]},
    ]
    search = GridSearchCV(BPRegressor(max_iter=3, random_state=0), grid, cv=2)
    assert np.isfinite(search.fit(X, REAL).cv_results_["mean_test_score"]).all()


@every_loss
def test_a_pickle_keeps_the_parameters_that_it_was_fitted_with(loss):
    model, y, _ = make(loss)
    model.fit(X, y).set_params(huber_delta=3.0, quantile=0.3, power=1.9)
    again = pickle.loads(pickle.dumps(model))
    assert again._network.kind == model._network.kind
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def demand_refused(state, **changes):
    damaged = copy.deepcopy(state)
    damaged["_network_arguments"] |= changes
    with pytest.raises(ValueError, match="damaged"):
        BPRegressor().__setstate__(damaged)
        pytest.fail(f"accepted: {changes}")


def test_a_pickle_with_other_parameters_is_refused():
    model, y = make_quantiles()
    state = model.fit(X, y).__getstate__()
    BPRegressor().__setstate__(copy.deepcopy(state))
    for wrong in (
        *((), (0.5, 0.5), ((0.1, 0.5),), ("0.5",), ((0.1, 0.5, np.inf),), None),
        *(((0.9, 0.5, 0.1),), ((0.1, 0.1, 0.9),), ((0.1, 0.5, 2.0),), ((),)),
        *((0.5,), (0.0,), (True,), ([0.1, 0.5, 0.9],)),
    ):
        demand_refused(state, loss_parameters=wrong)


@pytest.mark.parametrize(
    "loss, wrong",
    [
        ("quantile", [(1.0,), (0.0,), (np.nan,), ((0.1, 0.9),)]),
        ("huber", [(0.0,), (-1.0,), (np.inf,), ((1.0, 2.0),), ()]),
        ("tweedie", [(0.9,), (2.1,), ((1.2, 1.4),), (1.5, 1.5)]),
        ("squared_error", [(0.5,)]),
    ],
)
def test_a_pickle_with_parameters_that_no_estimator_takes_is_refused(loss, wrong):
    model = BPRegressor(loss, (3,), max_iter=2)
    state = model.fit(X, np.c_[POSITIVE, CLAIMS]).__getstate__()
    BPRegressor().__setstate__(copy.deepcopy(state))
    for parameters in wrong:
        demand_refused(state, loss_parameters=parameters)


# ---- several quantiles


@every_dtype
@every_solver
def test_quantiles_never_cross(dtype, solver):
    levels = tuple(np.linspace(0.02, 0.98, 49))
    model, y = make_quantiles(quantile=levels, solver=solver)
    model.fit(X.astype(dtype), y)
    for data in (X, 100 * X, rng.normal(size=(500, 4)) ** 5, X[:1], X[:3]):
        data = data.astype(dtype)
        predicted = model.predict(data)
        assert predicted.shape == (len(data), 49) and predicted.dtype == dtype
        assert (np.diff(predicted, axis=1) >= 0).all()
        outputs = model._outputs(model._model(), data, logits=False)
        np.testing.assert_array_equal(np.sort(outputs, axis=1), predicted)
    # They did before they were sorted.
    assert (np.diff(outputs, axis=1) < 0).any()


def test_sorting_quantiles_never_raises_the_loss():
    model, y = make_quantiles(quantile=(0.4, 0.45, 0.5, 0.55, 0.6), max_iter=3)
    model.fit(X, y, X_val=X, y_val=y)
    predicted = model.predict(X)
    losses = [
        mean_pinball_loss(y, column, alpha=level)
        for column, level in zip(predicted.T, model.quantile, strict=True)
    ]
    assert sum(losses) < model.validation_loss_curve_[-1]


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("levels", [0.8, (0.8,), LEVELS, [0.2, 0.7], np.array(LEVELS)])
def test_quantiles_are_scored_by_the_mean_of_their_d2(levels, weight):
    model, y = make_quantiles(quantile=levels, early_stopping=True, max_iter=6)
    model.fit(X, y, X_val=X, y_val=y, sample_weight_val=weight)
    predicted = model.predict(X)
    assert predicted.shape == ((N,) if np.ndim(levels) == 0 else (N, len(levels)))
    scores = [
        d2_pinball_score(y, column, alpha=level, sample_weight=weight)
        for column, level in zip(
            predicted.reshape(N, -1).T, np.atleast_1d(levels), strict=True
        )
    ]
    assert model.score(X, y, weight) == pytest.approx(np.mean(scores))
    assert model.best_validation_score_ == model.score(X, y, weight)
    assert len(model.validation_scores_) == model.n_iter_


def test_the_levels_of_a_fitted_model_are_those_of_its_fit():
    model, y = make_quantiles()
    score = model.fit(X, y).score(X, y)
    model.set_params(quantile=0.5)
    assert model.predict(X).shape == (N, 3)
    assert model.score(X, y) == score


def test_each_quantile_has_its_share_of_targets_below_it():
    model, y = make_quantiles(solver="lbfgs", max_iter=2000, tol=1e-6)
    below = (y[:, None] <= model.fit(X, y).predict(X)).mean(axis=0)
    np.testing.assert_allclose(below, LEVELS, atol=0.04)


def test_quantiles_train_on_like_one():
    model, y = make_quantiles(warm_start=True, max_iter=3)
    first = model.fit(X, y).loss_
    for _ in range(5):
        model.partial_fit(X, y)
    assert model.fit(X, y).loss_ < first
    # A list may have been changed since.
    model.set_params(quantile=[0.1, 0.5, 0.9]).partial_fit(X, y)
    model.quantile[1] = 0.05
    with pytest.raises(ValueError, match="increase"):
        model.partial_fit(X, y)
    model.quantile[:] = [0.1, 0.9]
    with pytest.raises(ValueError, match="another shape|asks for"):
        model.partial_fit(X, y)


def test_several_quantiles_of_several_columns_are_refused():
    model, y = make_quantiles()
    with pytest.raises(ValueError, match="quantile.*one column of y"):
        model.fit(X, np.c_[y, y])
    model.set_params(quantile=0.7).fit(X, np.c_[y, y])
    assert model.predict(X).shape == (N, 2)


def test_a_quantile_is_not_stopped_by_r2():
    model, y, _ = make("quantile", quantile=0.95, max_iter=300, early_stopping=True)
    model.fit(X, y)
    assert model.score(X, y) > 0
    assert abs((y <= model.predict(X)).mean() - 0.95) < 0.1


# ---- diagnosis


@every_loss
@every_solver
def test_a_good_fit_is_found_healthy_and_an_untrained_one_not(loss, solver):
    model, y, _ = make(loss, solver=solver, max_iter=300, alpha=1e-4)
    assert model.fit(X, y).diagnose().healthy, model.diagnose()
    if solver == "sgd":
        model.set_params(learning_rate_init=1e-7, max_iter=20)
        assert not model.fit(X, y).diagnose().healthy


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "quantile"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_outliers_do_not_make_a_fit_look_constant(loss, solver):
    model, y, _ = make(loss, solver=solver, max_iter=300)
    y = y.copy()
    y[::15] += rng.choice([-100, 100], size=len(y[::15]))
    diagnosis = model.fit(X, y).diagnose()
    assert "constant-prediction" not in [finding.code for finding in diagnosis.findings]


def test_quantiles_are_diagnosed_by_their_own_constants():
    model, y = make_quantiles(max_iter=200)
    model.fit(X, y)
    constants = [
        mean_pinball_loss(y, np.full(N, np.quantile(y, level)), alpha=level)
        for level in LEVELS
    ]
    assert model._fit_summary.constant_cost == pytest.approx(sum(constants), rel=1e-2)
    assert model.diagnose().healthy


# ---- classifiers

CLASSES = rng.randint(3, size=N) * (X[:, 0] > -0.5)
BINARY = (X[:, 0] + 0.5 * rng.normal(size=N) > 1).astype(int)
LABELS = np.c_[BINARY, X[:, 1] > 0].astype(int)
TARGETS = {"binary": BINARY, "three classes": CLASSES, "multilabel": LABELS}
SHAPED = [(0.2, 0.0), (0.0, 2.0), (0.0, 0.3), (0.1, 1.5), (0.0, 7.0)]
every_target = pytest.mark.parametrize("kind", TARGETS)
every_shape = pytest.mark.parametrize("smoothing, gamma", SHAPED)


def classifier(smoothing=0.0, gamma=0.0, **more):
    options = dict(hidden_layer_sizes=(8,), random_state=0, max_iter=20, alpha=0.0)
    options |= {"learning_rate_init": 0.01, **more}
    return BPClassifier(label_smoothing=smoothing, focal_gamma=gamma, **options)


def plain_loss(model, X, y, smoothing, gamma, weight=None):
    """Focal loss of smoothed labels from probabilities, row by row."""
    p = model.predict_proba(X).astype(np.longdouble)
    if y.ndim == 2:  # two classes for each column
        p, t = np.stack([1 - p, p], axis=2), np.stack([1 - y, y], axis=2)
    else:
        t = (y[:, None] == np.arange(p.shape[1])).astype(float)
    t = t * (1 - smoothing) + smoothing / t.shape[-1]
    costs = (t * (1 - p) ** gamma * -np.log(p)).reshape(len(X), -1).sum(axis=1)
    return float(np.average(costs, weights=weight))


@every_target
@every_shape
@every_dtype
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_smoothed_and_focal_losses_are_what_plain_formulas_say(
    kind, smoothing, gamma, dtype, weight
):
    y, data = TARGETS[kind], X.astype(dtype)
    model = classifier(smoothing, gamma)
    model.fit(data, y, weight, X_val=data, y_val=y, sample_weight_val=weight)
    expected = plain_loss(model, data, y, smoothing, gamma, weight)
    close = 1e-11 if dtype == np.float64 else 1e-5
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=close)


@every_target
def test_without_smoothing_and_focus_the_loss_is_the_log_loss(kind):
    """By another kernel: both go to the same numbers as either parameter goes to 0."""
    y = TARGETS[kind]
    plain = classifier().fit(X, y)
    for small in ({"smoothing": 1e-12}, {"gamma": 1e-12}):
        model = classifier(**small).fit(X, y)
        assert model._network.loss != plain._network.loss == "log_loss"
        np.testing.assert_allclose(model.coefs_[0], plain.coefs_[0], atol=1e-6)
        assert model.loss_ == pytest.approx(plain.loss_, rel=1e-8)


@every_target
@every_shape
def test_gradients_of_smoothed_and_focal_losses_are_right(kind, smoothing, gamma):
    model = classifier(smoothing, gamma, activation="tanh")
    model.initialize(X, TARGETS[kind])
    for scale in (1, 30):  # with probabilities near 0 and 1, too
        model.coefs_[1] = scale * model.coefs_[1]
        assert check_gradient(model, X, TARGETS[kind], WEIGHT).agrees


@every_dtype
@pytest.mark.parametrize("gamma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_gradient_of_a_class_that_is_nearly_certain_is_exact(
    dtype, gamma, n_classes
):
    """(1 - p)^gamma has no slope at p = 1 that a rounded 1 - p could tell."""
    z = np.array([30.0 if dtype == np.float64 else 14.0, 0.0, -1.0])[:n_classes]
    model = classifier(gamma=gamma, hidden_layer_sizes=(), batch_size=1)
    y = np.arange(n_classes)
    model.initialize(np.ones((n_classes, 1), dtype), y)
    bias = z if n_classes > 2 else z[:1]
    model.coefs_[0][:] = 0
    model.intercepts_[0][:] = bias
    label = 0 if n_classes > 2 else 1
    rest = np.exp(z - z[0])[1:].astype(np.longdouble)
    if n_classes == 2:
        rest = np.exp(-z[:1]).astype(np.longdouble)
    p, r, u = 1 / (1 + rest.sum()), rest.sum() / (1 + rest.sum()), np.log1p(rest.sum())
    slope = r**gamma + gamma * r ** (gamma - 1) * p * u
    flow = backpropagate(model, np.ones((1, 1), dtype), np.array([label]))
    close = 1e-10 if dtype == np.float64 else 1e-4
    assert abs(flow.delta[-1][0, 0]) == pytest.approx(float(slope * r), rel=close)


@every_target
@every_solver
@every_shape
def test_every_way_to_train_lowers_smoothed_and_focal_losses(
    kind, solver, smoothing, gamma
):
    y = TARGETS[kind]
    model = classifier(smoothing, gamma, solver=solver, max_iter=60)
    start = plain_loss(model.initialize(X, y), X, y, smoothing, gamma)
    model.fit(X, y)
    assert plain_loss(model, X, y, smoothing, gamma) < start
    model.set_params(early_stopping=True).fit(csr_matrix(X), y, WEIGHT)
    assert plain_loss(model, X, y, smoothing, gamma) < start
    model.set_params(early_stopping=False, warm_start=True, max_iter=3).fit(X, y)
    if solver != "lbfgs":
        for _ in range(3):
            model.partial_fit(X[:1], y[:1]).partial_fit(X, y)
    assert plain_loss(model, X, y, smoothing, gamma) < start


@every_target
@every_shape
def test_bits_of_smoothed_and_focal_losses_do_not_depend_on_rows_or_threads(
    kind, smoothing, gamma
):
    y = TARGETS[kind]
    one = classifier(smoothing, gamma, batch_size=1, max_iter=2)
    sparse = clone(one).fit(csr_matrix(X), y)
    np.testing.assert_array_equal(one.fit(X, y).coefs_[0], sparse.coefs_[0])
    model = classifier(smoothing, gamma, batch_size=N, max_iter=2)
    model.set_params(hidden_layer_sizes=(200, 200))
    threads = clone(model).set_params(n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(model.fit(X, y).coefs_[0], threads.coefs_[0])


def test_smoothed_labels_hold_probabilities_back():
    separable = (X[:, 0] > 0).astype(int) + (X[:, 0] > 1)
    model = classifier(0.3, solver="lbfgs", max_iter=3000, tol=1e-9)
    p = model.fit(X, separable).predict_proba(X)
    right = p[np.arange(N), separable]
    assert np.median(right) == pytest.approx(0.8, abs=0.01)  # 1 - 0.3 + 0.3 / 3
    least = model._fit_summary.least_cost
    assert least == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.1))


def test_the_focus_is_on_rows_of_a_rare_class():
    y = BINARY
    assert y.mean() < 0.3
    plain, focal = (classifier(gamma=g, max_iter=100).fit(X, y) for g in (0.0, 3.0))

    def share(model):
        """Of the gradient, the part of the rare class."""
        z = np.abs(backpropagate(model, X, y).delta[-1][:, 0])
        return z[y == 1].sum() / z.sum()

    start = plain.initialize(X, y), focal.initialize(X, y)
    for model in start:
        model.intercepts_[-1] = np.full(1, -2.0)
    assert share(focal) > share(plain)


@pytest.mark.parametrize("name", ["label_smoothing", "focal_gamma"])
def test_the_squared_error_of_a_classifier_refuses_both(name):
    model = BPClassifier(loss="squared_error", **{name: 0.5})
    for call in (model.fit, model.initialize):
        with pytest.raises(ValueError, match=f"'{name}' parameter.*squared_error"):
            call(X, BINARY)
    with pytest.raises(ValueError, match=name):
        model.partial_fit(X, BINARY, classes=[0, 1])
    with pytest.raises(ValueError, match="loss"):
        BPClassifier(loss="focal_log_loss").fit(X, BINARY)


@every_target
@every_shape
@every_solver
def test_fits_of_smoothed_and_focal_losses_are_diagnosed_by_what_can_be_learned(
    kind, smoothing, gamma, solver
):
    y = TARGETS[kind]
    if kind == "three classes":  # that can be learned
        y = (X[:, 0] > -0.5).astype(int) + (X[:, 1] > 0)
    model = classifier(smoothing, gamma, solver=solver, max_iter=400, alpha=1e-4)
    model.set_params(hidden_layer_sizes=(20,), tol=1e-5)
    diagnosis = model.fit(X, y).diagnose()
    assert diagnosis.healthy, diagnosis
    pickled = pickle.loads(pickle.dumps(model))
    assert str(pickled.diagnose()) == str(diagnosis)
    assert pickled._network.kind == model._network.kind
    np.testing.assert_array_equal(pickled.predict(X), model.predict(X))


@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [(0.5, 0.5), (0.9, 0.1), (0.2, 0.3, 0.5)])
def test_the_best_constant_of_a_focal_loss_is_the_least(gamma, smoothing, share):
    shares = np.array(share)
    costs = _catalog.LOSSES["softmax", "focal_log_loss"].label_costs
    best, zero = costs(shares, len(share), smoothing, gamma)
    t = shares * (1 - smoothing) + smoothing / len(share)

    def cost(z):
        p = np.exp(z - np.logaddexp.reduce(z))
        return (t * (1 - p) ** gamma * -np.log(p)).sum()

    found = minimize(cost, np.log(t), method="Nelder-Mead", options={"fatol": 1e-13})
    assert best == pytest.approx(found.fun, rel=1e-6)
    assert zero == pytest.approx(cost(np.zeros(len(share))))
