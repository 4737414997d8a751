"""When things go wrong: what is refused, what is said, and what stays as it was."""

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from interrupts import interrupt, needs_timer
from sklearn.datasets import load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV

from cbp import BPClassifier, BPRegressor, _fitting, _memory, _solvers, _verbose
from cbp._catalog import LABEL_LOSSES, OUTPUT_OF
from cbp._network import Network
from cbp._prediction import predict
from cbp.estimators import DivergenceError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
BOTH = pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
SOLVERS = pytest.mark.parametrize("solver", _solvers.SOLVERS)

# ------------------------------------------------------------------------- parameters

BAD_VALUES = {
    "hidden_layer_sizes": [0, -3, 2.5, "10", None, (10, 0), (10, -1), (10, 2.5)]
    + [(10, "x"), ((3, 4), 5), (True,), np.array([[3, 4]])],
    "activation": [
        "rectify",
        "Relu",
        None,
        3,
        ("relu", "sofplus"),
        (3,),
        ("relu", None),
    ],
    "loss": ["hinge", None, 0],
    "solver": ["newton", None, "SGD"],
    "alpha": [-1e-9, np.nan, np.inf, "0", None],
    "batch_size": [0, -5, 2.5, "all", None],
    "learning_rate": ["fast", None, 0.1],
    "learning_rate_init": [0, -1, np.nan, np.inf, None],
    "power_t": [-0.1, np.nan, None],
    "max_iter": [0, -1, 1.5, None, np.inf],
    "shuffle": ["yes", None, 2],
    "random_state": [-1, "seed", 1.5],
    "tol": [-1e-9, np.nan, None],
    "verbose": ["loud", -1, None],
    "warm_start": ["yes", None],
    "momentum": [-0.1, 1.1, np.nan, None],
    "nesterovs_momentum": ["yes", None],
    "early_stopping": ["yes", None],
    "validation_fraction": [-0.1, 1, 1.5, np.nan, None],
    "beta_1": [-0.1, 1, np.nan, None],
    "beta_2": [-0.1, 1, np.nan, None],
    "epsilon": [0, -1e-8, np.nan, np.inf, None],
    "n_iter_no_change": [0, -1, 2.5, None, -np.inf],
    "max_fun": [0, -1, 1.5, None],
    "n_jobs": [0, 1.5, "all"],
    "precision": ["float16", "double", 32, np.float32],
    "monitor": ["yes", None, 2],
    "scoring": [3, "no scorer", ["loss"]],
    "class_weight": ["even", 3, True],
    "weight_decay": [-0.1, None, "no", np.nan],
    "max_grad_norm": [0, -1.0, "no", np.nan],
    "warmup": [-0.1, 1, None, np.nan],
    "average": [-0.1, 1.0, None, np.nan],
    "huber_delta": [0, -1.0, None, np.inf, np.nan],
    "quantile": [0, 1, -0.1, None, np.nan, (), (0.5, 0.5), (0.9, 0.1), (0.1, 1)],
    "power": [0.9, 2.1, None, np.nan],
    "label_smoothing": [-0.1, 1, None, np.nan],
    "focal_gamma": [-0.1, None, np.inf, np.nan],
    "init": ["xavier", None, 1],
    "dropout": [-0.1, 1.0, None, np.nan, "a"],
    "input_dropout": [-0.1, 1.0, None, np.nan, [0.1]],
}


# The loss that has a parameter.
LOSS_WITH = {"quantile": {"loss": "quantile"}}


def test_every_parameter_has_bad_values_here():
    for estimator in (BPClassifier, BPRegressor):
        assert set(BAD_VALUES) >= set(estimator().get_params())
        assert set(estimator().get_params()) == set(estimator._parameter_constraints)
    both = BPClassifier().get_params() | BPRegressor().get_params()
    assert set(BAD_VALUES) == set(both)


@BOTH
@pytest.mark.parametrize(
    "name, value", [(name, value) for name in BAD_VALUES for value in BAD_VALUES[name]]
)
def test_a_bad_value_is_refused_by_a_message_that_names_it(estimator, name, value):
    if name not in estimator().get_params():
        with pytest.raises(TypeError, match=name):
            estimator(**{name: value})
        return
    with pytest.raises(ValueError) as error:
        estimator(**{**LOSS_WITH.get(name, {}), name: value}).fit(X, y)
    message = str(error.value)
    assert name in message
    bad = value[-1] if name == "activation" and isinstance(value, tuple) else value
    assert repr(bad) in message or str(bad) in message
    allowed = ("must be", "must hold", "must lie")
    assert any(word in message for word in allowed), message


@pytest.mark.parametrize("form", [set, frozenset, dict.fromkeys])
def test_what_has_no_order_is_refused_where_the_order_counts(form):
    for options in (
        {"hidden_layer_sizes": form([7, 5])},
        {"activation": form(["relu"])},
        {"dropout": form([0.1])},
        {"loss": "quantile", "quantile": form([0.1, 0.9])},
    ):
        *_, name = options
        with pytest.raises(ValueError, match=f"{name} must be .* has no order"):
            BPRegressor(**options).fit(X, y)


@BOTH
@pytest.mark.parametrize("name", ["solver", "loss", "activation", "learning_rate"])
def test_the_message_for_an_unknown_option_lists_the_valid_ones(estimator, name):
    options = {
        "solver": [*reference.OPTIMIZERS, "lbfgs"],
        "loss": sorted(LABEL_LOSSES if estimator is BPClassifier else OUTPUT_OF),
        "activation": [*reference.ACTIVATIONS, "sigmoid"],
        "learning_rate": ["constant", "invscaling", "adaptive"],
    }[name]
    values = ["nonsense"] + [("nonsense",)] * (name == "activation")
    for value in values:
        with pytest.raises(ValueError) as error:
            estimator(**{name: value}).fit(X, y)
        assert all(option in str(error.value) for option in options)


@BOTH
def test_the_valid_options_are_listed_in_the_order_of_the_alphabet(estimator):
    for name in ("solver", "loss", "activation", "learning_rate", "init", "precision"):
        with pytest.raises(ValueError) as error:
            estimator(**{name: "nonsense"}).fit(X, y)
        listed = re.search(r"\{(.*)\}", str(error.value)).group(1).split(", ")
        assert len(listed) > 1 and listed == sorted(listed)


@pytest.mark.parametrize("sizes", [20, (20,), [20, 10]])
def test_sizes_in_the_place_of_a_regressors_loss_are_refused_with_advice(sizes):
    with pytest.raises(ValueError, match="'loss' parameter") as caught:
        BPRegressor(sizes).fit(X, y)
    assert f"hidden_layer_sizes={sizes!r}" in str(caught.value)
    with pytest.raises(ValueError) as caught:
        BPRegressor(sizes, alpha=-1).fit(X, y)
    assert "hidden_layer_sizes" not in str(caught.value)


@BOTH
def test_an_unknown_parameter_is_refused(estimator):
    with pytest.raises(TypeError, match="hidden_layers"):
        estimator(hidden_layers=3)
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        estimator().set_params(hidden_layers=3)


@BOTH
def test_parameters_after_the_positional_ones_are_keyword_only(estimator):
    positional = 2 if estimator is BPClassifier else 3
    arguments = [(5,), "tanh", "x"]
    if estimator is BPRegressor:
        arguments = ["poisson", (5,), "tanh", "x"]
    with pytest.raises(TypeError):
        estimator(*arguments)
    made = estimator(*arguments[:positional])
    assert made.hidden_layer_sizes == (5,) and made.activation == "tanh"


@BOTH
@pytest.mark.parametrize("activation", [("relu",), ("relu", "tanh", "relu"), ()])
def test_an_activation_sequence_must_fit_the_hidden_layers(estimator, activation):
    model = estimator(hidden_layer_sizes=(5, 4), activation=activation)
    with pytest.raises(ValueError, match=r"activation .*hidden_layer_sizes=\(5, 4\)"):
        model.fit(X, y)


@BOTH
def test_validation_fraction_0_is_refused_with_early_stopping_only(estimator):
    model = estimator(validation_fraction=0, max_iter=2)
    model.fit(X, y)
    with pytest.raises(ValueError, match="validation_fraction"):
        model.set_params(early_stopping=True).fit(X, y)


@BOTH
def test_defaults_are_allowed_values(estimator):
    """So that no call needs to check them."""
    estimator()._validate_params()

    class Strict(estimator):
        def __init__(self, alpha=-1):
            super().__init__(alpha=alpha)

    with pytest.raises(ValueError, match="'alpha' parameter of Strict"):
        Strict().fit(X, y)


@BOTH
def test_partial_fit_refuses_bad_values_on_a_fitted_model_too(estimator):
    model = estimator(max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="alpha"):
        model.set_params(alpha=-1).partial_fit(X, y)


@pytest.mark.thread_unsafe(reason="measures the memory of the process")
@BOTH
@SOLVERS
@pytest.mark.parametrize("sizes", [10**6, (10**5, 10**6), 10**18, (10**9, 10**9)])
def test_sizes_beyond_memory_are_refused_before_any_work(
    estimator, sizes, solver, monkeypatch
):
    wide = np.ones((4, 10**6 if sizes == 10**6 else 3))
    model = estimator(hidden_layer_sizes=sizes, solver=solver)
    for work in ("draw_weights", "_make_trainer"):
        monkeypatch.setattr(_fitting, work, lambda *_: pytest.fail("it works"))
    tracemalloc.start()
    try:
        with pytest.raises(MemoryError, match=r"hidden_layer_sizes") as error:
            model.fit(wide, [0, 1, 0, 1])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * wide.nbytes + (1 << 20)  # nothing is as large as the network
    assert "GiB" in str(error.value)


def test_memory_is_counted_beyond_the_parameters_themselves(monkeypatch):
    model = BPRegressor(hidden_layer_sizes=1000, max_iter=1).fit(X, y)
    parameters = model._theta.nbytes
    monkeypatch.setattr(_memory, "_physical_memory", lambda: 3 * parameters)
    with pytest.raises(MemoryError):
        model.fit(X, y)
    monkeypatch.setattr(_memory, "_physical_memory", lambda: 100 * parameters)
    model.fit(X, y)
    monkeypatch.setattr(_memory, "_physical_memory", lambda: None)
    model.fit(X, y)


@BOTH
def test_a_batch_larger_than_the_data_is_clipped_with_a_warning(estimator):
    with pytest.warns(UserWarning, match="batch_size.*clipped"):
        clipped = estimator(batch_size=1000, max_iter=3, random_state=0).fit(X, y)
    whole = estimator(batch_size=150, max_iter=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(clipped.coefs_[0], whole.coefs_[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator(max_iter=3).fit(X, y)
        estimator(max_iter=3, batch_size=150).fit(X, y)


# ------------------------------------------------------------------------------- data


def with_entry(value):
    bad = X.copy()
    bad[7, 2] = value
    return bad


BAD_X = {
    "NaN": (with_entry(np.nan), "NaN"),
    "infinity": (with_entry(np.inf), "infinity"),
    "one dimension": (X[:, 0], "2D array"),
    "three dimensions": (X[:, :, None], "dim"),
    "no rows": (X[:0], "0 sample"),
    "no columns": (X[:, :0], "0 feature"),
    "complex": (X + 1j, "[Cc]omplex"),
    "strings": (np.full((150, 1), "x"), "could not convert|[Uu]nable"),
    "sparse NaN": (sp.csr_matrix(with_entry(np.nan)), "NaN"),
    "other length": (X[:-1], "inconsistent"),
    "a scalar": (3.0, "2D array|[Ee]xpected"),
}


@BOTH
@pytest.mark.parametrize("name", BAD_X)
def test_bad_X_is_refused_in_fit_and_partial_fit(estimator, name):
    bad, match = BAD_X[name]
    classes = {"classes": [0, 1, 2]} if estimator is BPClassifier else {}
    labels = y[: len(bad)] if name in ("no rows", "no columns") else y
    with pytest.raises((ValueError, TypeError), match=match):
        estimator().fit(bad, labels)
    with pytest.raises((ValueError, TypeError), match=match):
        estimator().partial_fit(bad, labels, **classes)


@BOTH
@pytest.mark.parametrize("name", [name for name in BAD_X if name != "other length"])
def test_bad_X_is_refused_in_every_prediction(estimator, name):
    model = estimator(max_iter=3).fit(X, y)
    methods = ["predict"]
    if estimator is BPClassifier:
        methods += ["predict_proba", "predict_log_proba", "decision_function"]
    for method in methods:
        with pytest.raises((ValueError, TypeError)):
            getattr(model, method)(BAD_X[name][0])
        with pytest.raises(ValueError, match="3 features.*expecting 4"):
            getattr(model, method)(X[:, :3])
        with pytest.raises(ValueError, match="3 features.*expecting 4"):
            getattr(model, method)(np.ascontiguousarray(X[:, :3]))


@BOTH
def test_fast_and_slow_checks_of_predict_raise_the_same_errors(estimator):
    model = estimator(max_iter=3).fit(X, y)
    for bad in (with_entry(np.nan), with_entry(-np.inf), X[:0], np.zeros((3, 5))):
        messages = []
        for form in (bad, bad.tolist() if len(bad) else bad.astype(int)):
            with pytest.raises(ValueError) as error:
                model.predict(form)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@BOTH
def test_finite_rows_whose_sum_overflows_are_accepted(estimator):
    model = estimator(max_iter=3, activation="tanh").fit(X, y)
    huge = np.full((3, 4), np.finfo(float).max / 2)
    huge *= [[1e-10], [1], [1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            model.predict(huge)
        except ValueError as error:
            assert "overflows" in str(error)


@BOTH
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_is_too_large_for_float32_is_refused(estimator):
    large = with_entry(1e39)
    with pytest.raises(ValueError, match="too large for dtype"):
        estimator(precision="float32").fit(large, y)
    model = estimator(precision="float32", max_iter=3).fit(X, y)
    for form in (large, sp.csr_matrix(large), sp.csc_matrix(large)):
        with pytest.raises(ValueError, match="too large for dtype"):
            model.predict(form)
    if estimator is BPRegressor:
        with pytest.raises(ValueError, match="y .*too large for float32"):
            model.fit(X, y * 1e39)


def test_bad_y_of_a_classifier_is_refused():
    model = BPClassifier()
    cases = [
        (X[:, 0], "Unknown label type"),
        (np.where(y == 1, np.nan, y), "NaN"),
        (y[:-1], "inconsistent"),
        (None, "requires y|y cannot be None"),
        (X[:, :2], "Unknown label type"),
        (np.where(np.eye(3)[y] > 0, 1, -1), "0 and 1 only"),
        (np.array([None] * 150, dtype=object), "label|NaN|None"),
        (np.array(["a", 1, "b"] * 50, dtype=object), "."),
        (y[:, None, None], "dim"),
    ]
    for bad, match in cases:
        with pytest.raises((ValueError, TypeError), match=match):
            model.fit(X, bad)
        assert not hasattr(model, "classes_")


def test_bad_y_of_a_regressor_is_refused():
    cases = [
        (np.where(y == 1, np.nan, y), "NaN"),
        (np.where(y == 1, np.inf, y), "infinity"),
        (y[:-1], "inconsistent"),
        (None, "requires y|y cannot be None"),
        (np.array(["a", "b", "c"])[y], "."),
        (y + 1j, "[Cc]omplex"),
    ]
    for bad, match in cases:
        with pytest.raises((ValueError, TypeError), match=match):
            BPRegressor().fit(X, bad)
    with pytest.raises(ValueError, match="loss='poisson'.*-1"):
        BPRegressor(loss="poisson").fit(X, y - 1.0)


@BOTH
def test_bad_sample_weights_are_refused(estimator):
    ones = np.ones(len(y))
    cases = [
        (ones[:-1], "sample_weight.*shape"),
        (np.ones((len(y), 2)), "sample_weight.*shape|dim"),
        (np.where(y == 1, np.nan, ones), "NaN"),
        (np.where(y == 1, np.inf, ones), "infinity"),
        (np.where(y == 1, -1, ones), "must not be negative.*-1"),
        (-1.0, "must not be negative"),
        (0 * ones, "zero in every row"),
        (0, "zero in every row"),
        (["x"] * len(y), "."),
        (ones + 1j, "[Cc]omplex"),
    ]
    for bad, match in cases:
        with pytest.raises((ValueError, TypeError), match=match):
            estimator().fit(X, y, sample_weight=bad)


@BOTH
def test_weightless_validation_or_training_rows_are_refused(estimator):
    weight = np.zeros(len(y))
    weight[3] = 1
    model = estimator(early_stopping=True, random_state=0)
    with pytest.raises(ValueError, match="sample_weight is zero in all rows held out"):
        model.fit(X, y, sample_weight=weight)


@BOTH
@pytest.mark.parametrize("n", [1, 2])
def test_early_stopping_needs_rows_to_train_on(estimator, n):
    with pytest.raises(
        ValueError, match=rf"validation set is too small.*n_samples={n}"
    ):
        estimator(early_stopping=True).fit(X[:n], [0, 1][:n])


@BOTH
def test_early_stopping_that_would_hold_out_every_row_is_refused(estimator):
    model = estimator(early_stopping=True, validation_fraction=0.99)
    with pytest.raises(ValueError, match="validation_fraction=0.99"):
        model.fit(X[:10], y[:10])
    if estimator is BPClassifier:
        with pytest.raises(ValueError, match="0 may be held out"):
            model.set_params(validation_fraction=0.1).fit(X[:5], list("abcde"))


def test_partial_fit_refuses_missing_changed_or_unknown_classes():
    with pytest.raises(ValueError, match="classes must be passed"):
        BPClassifier().partial_fit(X, y)
    model = BPClassifier().partial_fit(X, y, classes=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="not the same as on last call"):
        model.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="classes not in `self.classes_`"):
        model.partial_fit(X, y + 2)
    with pytest.raises(ValueError, match="multilabel"):
        model.partial_fit(X, np.eye(4, dtype=int)[y])
    with pytest.raises(ValueError, match="3 columns of labels.*5"):
        BPClassifier().partial_fit(X, np.eye(3, dtype=int)[y], classes=range(5))


@BOTH
def test_training_cannot_go_on_with_other_layers(estimator):
    model = estimator(hidden_layer_sizes=5, warm_start=True, max_iter=2).fit(X, y)
    model.set_params(hidden_layer_sizes=6)
    with pytest.raises(ValueError, match="another shape.*5.*6.*warm_start=False"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="another shape"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match="3 features.*expecting 4"):
        model.fit(X[:, :3], y)
    model.set_params(warm_start=False).fit(X[:, :3], y)


def test_warm_start_needs_the_same_classes_and_outputs():
    model = BPClassifier(warm_start=True, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="same classes"):
        model.fit(X, y == 0)
    model = BPRegressor(warm_start=True, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="another shape"):
        model.fit(X, np.c_[y, y])


@BOTH
def test_an_unfitted_model_says_so(estimator):
    methods = ["predict"]
    if estimator is BPClassifier:
        methods += ["predict_proba", "predict_log_proba", "decision_function"]
    for method in methods:
        with pytest.raises(NotFittedError):
            getattr(estimator(), method)(X)


@BOTH
def test_weights_that_do_not_fit_are_refused(estimator):
    model = estimator(hidden_layer_sizes=5, max_iter=2).fit(X, y)
    good = [a.copy() for a in model.coefs_]
    cases = [
        ([good[0][:, :4], good[1]], r"coefs_\[0\] has shape \(4, 4\).*\(4, 5\)"),
        ([good[0]], "2 arrays each.*got 1 and 2"),
        ([good[0] * np.nan, good[1]], "NaN"),
    ]
    for bad, match in cases:
        model.coefs_ = bad
        for call in (
            lambda: model.predict(X),
            lambda: model.partial_fit(X, y),
            lambda: pickle.dumps(model),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    model.coefs_ = good
    model.predict(X)


# ------------------------------------------------------------------------- divergence


@BOTH
@pytest.mark.parametrize("solver", _solvers.STOCHASTIC)
def test_divergence_names_epoch_learning_rate_and_cures(estimator, solver):
    model = estimator(solver=solver, learning_rate_init=1e300, activation="identity")
    model.set_params(batch_size=50)
    with pytest.raises(ValueError) as error:
        model.fit(X, y)
    message = str(error.value)
    assert message.startswith(
        "Solver produced non-finite parameter weights. The input data may contain "
        "large values and need to be preprocessed."
    )
    for word in ("epoch 1 ", "learning_rate_init=1e+300", "StandardScaler"):
        assert word in message
    assert "an alpha below 0.0001" in message  # 1e296 times the weights are too much
    assert not hasattr(model, "coefs_")


def test_divergence_ends_the_fit_within_its_epoch():
    data, target = make_regression(200, 5, random_state=0)
    model = BPRegressor(solver="sgd", learning_rate_init=5e-3, activation="identity")
    model.set_params(batch_size=100, max_iter=10**9, random_state=0)
    with pytest.raises(ValueError, match=r"epoch \d+ ") as error:
        model.fit(data, target)
    epoch = int(re.search(r"epoch (\d+) ", str(error.value))[1])
    assert epoch > 1
    model.set_params(max_iter=epoch - 1).fit(data, target)
    with pytest.raises(ValueError, match=f"epoch {epoch} "):
        model.set_params(max_iter=epoch).fit(data, target)


@BOTH
def test_lbfgs_on_data_that_overflow_names_the_iteration(estimator):
    with pytest.raises(ValueError, match="non-finite.*iteration 1.*lbfgs"):
        estimator(solver="lbfgs", activation="identity").fit(X * 1e307, y)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}])
def test_partial_fit_that_diverges_is_an_error(options):
    model = BPRegressor(solver="sgd", learning_rate_init=1e300, **options)
    with pytest.raises(ValueError, match="diverged in epoch 1"):
        model.partial_fit(X, y).partial_fit(X, y)


@BOTH
@SOLVERS
def test_divergence_with_early_stopping_keeps_finite_weights(estimator, solver):
    model = estimator(
        solver=solver,
        learning_rate_init=1e300,
        activation="identity",
        early_stopping=True,
        random_state=0,
    )
    data = X * (1e307 if solver == "lbfgs" else 1)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(data, y)  # there is nothing to go back to
    assert not model.diagnose().healthy
    with pytest.raises(NotFittedError):
        model.predict(X)
    if solver == "lbfgs":
        return  # where its first loss overflows, scores do, too
    good = estimator(max_iter=5, activation="identity", random_state=0).fit(X, y)
    good.set_params(**{**model.get_params(), "warm_start": True})
    before = good.coefs_[0].copy()
    with pytest.warns(ConvergenceWarning, match="diverged.*best validation score"):
        good.fit(data, y)
    assert np.isnan(good.validation_scores_[-1])
    np.testing.assert_array_equal(good.coefs_[0], before)
    good.predict(X)


def test_a_prediction_that_overflows_names_its_rows():
    model = BPRegressor(activation="relu", random_state=0, max_iter=5).fit(X, y)
    for W in model.coefs_:
        W *= 1e100
    data = X.copy()
    data[[3, 8]] *= 1e300
    with pytest.raises(ValueError, match=r"overflows float64 in 2 of 150 rows.*: 3, 8"):
        model.predict(data)
    classifier = BPClassifier(random_state=0, max_iter=5).fit(X, y)
    for W in classifier.coefs_:
        W *= 1e100
    for method in (
        "predict",
        "predict_proba",
        "predict_log_proba",
        "decision_function",
    ):
        with pytest.raises(ValueError, match=r"2 of 150 rows.*: 3, 8"):
            getattr(classifier, method)(data)


def test_a_poisson_prediction_that_overflows_names_its_rows():
    model = BPRegressor(loss="poisson", max_iter=5, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="overflows float64 in 1 of 2 rows of X: 1"):
        model.predict(
            np.stack([X[0], 1e5 * np.sign(model.coefs_[0][:, 0])]) * [[1], [1]]
        )


# --------------------------------------------------------------- what stays as it was


def snapshot(model):
    """Everything a model knows, by value and, for the lists, by identity."""
    model._fitted.complete()
    known = vars(model) | vars(model._fitted)
    known |= {"coefs_": model.coefs_, "intercepts_": model.intercepts_}
    return {
        name: (id(value), pickle.dumps(value))
        for name, value in known.items()
        if name not in ("_network", "_fitted", "_optimizer", "_failed_flow")
    } | {"optimizer": pickle.dumps(model._optimizer)}


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_failed_call_leaves_a_fitted_model_as_it_was(estimator, method, warm_start):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = estimator(solver="sgd", max_iter=5, batch_size=50, random_state=0)
    model.set_params(warm_start=warm_start).fit(frame, y)
    before, predicted = snapshot(model), model.predict(frame)
    other = pd.DataFrame(X[:, :3], columns=list("xyz"))
    failures = [
        lambda: getattr(model, method)(other, y[:-1]),
        lambda: getattr(model, method)(frame * np.nan, y),
        lambda: getattr(model, method)(frame, y, sample_weight=-np.ones(len(y))),
    ]
    if estimator is BPClassifier:
        failures.append(lambda: getattr(model, method)(frame, X[:, 0]))
    for failure in failures:
        with pytest.raises(ValueError):
            failure()
        assert snapshot(model) == before
    # Training that diverges, after the columns of the data were taken in.
    goes_on = method == "partial_fit" or warm_start
    with pytest.raises(ValueError, match="diverged"):
        getattr(model, method)((frame if goes_on else other) * 1e300, y)
    assert snapshot(model) == before
    np.testing.assert_array_equal(model.predict(frame), predicted)
    assert list(model.feature_names_in_) == list("abcd")


@BOTH
def test_a_failed_first_fit_leaves_the_model_unfitted(estimator):
    model = estimator(solver="sgd", learning_rate_init=1e300, activation="identity")
    before = dict(vars(model))
    with pytest.raises(ValueError):
        model.fit(X, y)
    # For diagnose, and nothing else.
    assert set(vars(model._fitted)) == {"_failed_flow"}
    assert {**vars(model), "_fitted": None} == {**before, "_fitted": None}
    assert not model.diagnose().healthy


@BOTH
def test_a_failed_predict_leaves_the_model_as_it_was(estimator):
    model = estimator(max_iter=5).fit(X, y)
    before = snapshot(model)
    for bad in (X[:, :2], with_entry(np.nan), with_entry(np.inf)):
        with pytest.raises(ValueError):
            model.predict(bad)
    assert snapshot(model) == before


@BOTH
@pytest.mark.parametrize("n_rows", [1, 5, 6, 255, 256, 257, 1000])
def test_nan_and_infinity_are_found_in_every_row(estimator, n_rows):
    model = estimator(max_iter=2, activation="tanh").fit(X, y)
    rows = np.resize(X, (n_rows, 4))
    for place in {0, n_rows // 2, n_rows - 1}:
        for bad, named in ((np.nan, "NaN"), (np.inf, "infinity")):
            spoilt = rows.copy()
            spoilt[place, 3] = bad
            with pytest.raises(ValueError, match=f"Input X contains {named}"):
                model.predict(spoilt)
    model.predict(np.full((n_rows, 4), 1e307))  # their sum overflows, they do not


@BOTH
def test_a_parameter_that_has_become_bad_is_refused_by_every_call(estimator):
    sizes = [5, 5]
    model = estimator(hidden_layer_sizes=sizes, max_iter=5).fit(X, y)
    sizes[1] = "five"
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        model.partial_fit(X, y)
    sizes[1] = 5
    model.partial_fit(X, y).set_params(alpha=-1)
    for _ in range(2):
        with pytest.raises(ValueError, match="alpha"):
            model.partial_fit(X, y)
    model.alpha = 1e-4
    model.partial_fit(X, y).momentum = "high"
    with pytest.raises(ValueError, match="momentum"):
        model.fit(X, y)


@BOTH
def test_a_refused_parameter_leaves_the_model_as_it_was(estimator):
    model = estimator(max_iter=5).fit(X, y)
    model.set_params(hidden_layer_sizes=(10**6, 10**6))
    before = snapshot(model)
    with pytest.raises(MemoryError):
        model.fit(X, y)
    assert snapshot(model) == before


# --------------------------------------------------------------------------- interrupt


@pytest.fixture
def begun(monkeypatch):
    """Whether an epoch, or an iteration of L-BFGS, was ended in some fit."""
    runs, make_run = [], _fitting.Run

    def keep_run(*arguments, **more):
        runs.append(make_run(*arguments, **more))
        return runs[-1]

    monkeypatch.setattr(_fitting, "Run", keep_run)
    return lambda: any(run.progress.n_iter for run in runs)


def long_fit(solver, early_stopping, n_jobs):
    rng = np.random.RandomState(0)
    data, labels = rng.normal(size=(6000, 60)), rng.randint(3, size=6000)
    model = BPClassifier(
        (200, 200),
        solver=solver,
        early_stopping=early_stopping,
        n_jobs=n_jobs,
        max_iter=10**6,
        max_fun=10**6,
        n_iter_no_change=np.inf,
        tol=0,
        random_state=0,
    )
    return model, data, labels


@needs_timer
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("n_jobs", [1, 2])
@SOLVERS
def test_an_interrupt_is_raised_and_leaves_the_weights_reached(
    solver, n_jobs, early_stopping, begun
):
    model, data, labels = long_fit(solver, early_stopping, n_jobs)
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial(model.fit, data, labels), begun, compiled=False)
    assert len(model.loss_curve_) == model.n_iter_ > 0
    assert all(np.isfinite(a).all() for a in model.coefs_)
    fresh = BPClassifier(**model.get_params())
    fresh.set_params(solver="sgd").partial_fit(
        data, labels, classes=[0, 1, 2], sample_weight=0
    )
    assert not np.array_equal(model.coefs_[0], fresh.coefs_[0])
    model.predict(data[:10])
    model.set_params(solver="adam").partial_fit(data[:50], labels[:50])


@needs_timer
@pytest.mark.parametrize("sizes, n_rows", [((8000, 8000), 5), ((1000, 1000), 6000)])
def test_an_interrupt_is_felt_within_a_long_prediction(sizes, n_rows):
    """Row by row or packed: 640 million flops or more, some looks for signals."""
    network = Network(
        (4, *sizes, 1), ("relu", "relu"), "identity", "squared_error", np.float32
    )
    theta = np.zeros(network.n_params, np.float32)
    rows = np.resize(X.astype(np.float32), (n_rows, 4))
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial(predict, network, theta, rows))


def test_diagnose_says_so_if_the_first_epoch_was_interrupted(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_fitting, "_train", interrupted)
    model = BPClassifier()
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    with pytest.raises(NotFittedError, match="interrupted in its first epoch"):
        model.diagnose()


@needs_timer
def test_an_interrupt_stops_a_grid_search(begun):
    model, data, labels = long_fit("adam", False, 1)
    search = GridSearchCV(model, {"alpha": [1e-4, 1e-3, 1e-2]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial(search.fit, data, labels), begun, compiled=False)


@SOLVERS
def test_an_interrupt_before_training_leaves_a_fitted_model_as_it_was(
    solver, monkeypatch
):
    model = BPClassifier(solver=solver, max_iter=5, random_state=0).fit(X, y)
    before = snapshot(model)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_fitting, "draw_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:, :2], y == 1)
    assert snapshot(model) == before


def test_an_interrupt_during_early_stopping_keeps_the_best_weights(monkeypatch):
    options = dict(early_stopping=True, random_state=0, learning_rate_init=0.05)
    whole = BPClassifier(max_iter=40, n_iter_no_change=40, **options).fit(X, y)
    scores = whole.validation_scores_
    falls = [i for i in range(1, 40) if scores[i] < max(scores[:i])]
    reached = falls[0] + 1  # an epoch after a better one

    def interrupted(line):
        printed.append(line)
        if len(printed) == 2 * reached:
            raise KeyboardInterrupt

    printed = []
    monkeypatch.setattr(_verbose, "print", interrupted, raising=False)
    model = BPClassifier(verbose=True, **options)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    best = int(np.argmax(scores[:reached]))
    kept = BPClassifier(max_iter=best + 1, **options).fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], kept.coefs_[0])
    assert model.validation_scores_ == scores[:reached]
    assert model.best_validation_score_ == scores[best]


# -------------------------------------------------------------------------------- fork


def fit_in_child(queue):
    rng = np.random.RandomState(0)
    model = BPClassifier((100,), max_iter=5, n_jobs=2, random_state=0)
    model.fit(rng.normal(size=(2000, 50)), rng.randint(2, size=2000))
    queue.put(model.coefs_[0].sum())


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork here"
)
def test_a_fit_in_a_forked_child_does_not_hang():
    code = """
        import multiprocessing
        import warnings
        warnings.simplefilter("ignore")
        from test_errors import fit_in_child

        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        fit_in_child(queue)
        child = context.Process(target=fit_in_child, args=(queue,), daemon=True)
        child.start()
        assert queue.get(timeout=300) == queue.get(timeout=300)
        child.join(300)
        assert child.exitcode == 0
    """
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        timeout=800,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize("solver", _solvers.STOCHASTIC)
def test_a_warm_start_that_diverges_at_once_keeps_the_weights_it_started_from(solver):
    data, target = make_regression(60, 4, random_state=0)
    model = BPRegressor(
        hidden_layer_sizes=5,
        solver=solver,
        early_stopping=True,
        warm_start=True,
        random_state=0,
        max_iter=5,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data, target / 100)
    kept = model._theta.copy()
    model.set_params(learning_rate_init=1e300, batch_size=10)
    with pytest.warns(ConvergenceWarning, match="best validation score are kept"):
        model.fit(data, target / 100)
    assert model._theta.tobytes() == kept.tobytes()


def test_the_error_of_a_diverged_fit_can_be_sent_to_another_process():
    with pytest.raises(ValueError, match="diverged") as caught:
        BPRegressor(solver="sgd", learning_rate_init=1e300).fit(X, y)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) is DivergenceError
    assert str(again) == str(caught.value)
    assert again.flow.layer_sizes == caught.value.flow.layer_sizes


class KeepsAlphaElsewhere(BPClassifier):
    @property
    def alpha(self):
        return self._a

    @alpha.setter
    def alpha(self, value):
        self._a = value


def test_parameters_that_a_users_class_keeps_elsewhere_are_checked_too():
    model = KeepsAlphaElsewhere(max_iter=1)
    model.alpha = -5
    with pytest.raises(ValueError, match="'alpha' parameter"):
        model.fit(X, y)
