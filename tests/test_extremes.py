"""Numbers near the ends of the float types: legal, or refused by the cause."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from cbp import BPClassifier, BPRegressor, _solvers, backpropagate, check_gradient

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
BOTH = pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
SOLVERS = pytest.mark.parametrize("solver", _solvers.SOLVERS)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make(estimator, **options):
    usual = {"hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "alpha": 0.0}
    return estimator(**(usual | options))


# ----------------------------------------------------------------------- sample weights


@BOTH
@SOLVERS
@DTYPES
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_common_power_of_two_in_the_weights_changes_no_bit(
    estimator, solver, dtype, early_stopping
):
    options = {"solver": solver, "early_stopping": early_stopping}
    rows, weight = X.astype(dtype), np.random.RandomState(0).uniform(0.5, 1, len(y))
    weight = weight.astype(np.float32).astype(float)
    one = make(estimator, **options).fit(rows, y, sample_weight=weight)
    for exponent in (-1000, -149, -126, -40, -20, 20, 40, 127, 1023):
        scaled = np.ldexp(weight, exponent)
        other = make(estimator, **options).fit(rows, y, sample_weight=scaled)
        np.testing.assert_array_equal(other._theta, one._theta)
        assert other.loss_curve_ == one.loss_curve_
        assert other.validation_scores_ == one.validation_scores_
        assert str(other.diagnose()) == str(one.diagnose())


@BOTH
@pytest.mark.parametrize("solver", _solvers.STOCHASTIC)
def test_partial_fit_goes_on_with_weights_of_another_size(estimator, solver):
    one, two = make(estimator, solver=solver), make(estimator, solver=solver)
    more = {"classes": [0, 1, 2]} if estimator is BPClassifier else {}
    for exponent in (0, 900, -900):
        one.partial_fit(X, y, **more)
        two.partial_fit(X, y, sample_weight=math.ldexp(1.0, exponent), **more)
        np.testing.assert_array_equal(two._theta, one._theta)


def test_the_penalty_is_divided_by_the_sum_of_weights_of_any_size():
    """alpha c and weights c: the same problem."""
    one = make(BPClassifier, alpha=0.01).fit(X, y, sample_weight=1.0)
    for exponent in (-60, 60, 300):
        c = math.ldexp(1.0, exponent)
        other = make(BPClassifier, alpha=0.01 * c).fit(X, y, sample_weight=c)
        np.testing.assert_array_equal(other._theta, one._theta)


def test_gradient_flow_counts_weights_in_their_unit():
    one = make(BPClassifier).fit(X, y)
    other = make(BPClassifier).fit(X, y, sample_weight=2.0**600)
    for name, records in vars(one.gradient_flow_).items():
        np.testing.assert_array_equal(getattr(other.gradient_flow_, name), records)
    assert other._fit_summary.weight_unit == 2.0**600
    assert other._fit_summary.mean_weight == 1


def test_divergence_by_tiny_weights_names_them():
    model = make(BPClassifier, alpha=1e-4, solver="sgd", max_iter=100)
    with pytest.raises(ValueError, match=r"mean sample_weight is 1e-30.*weight with a"):
        model.fit(X, y, sample_weight=1e-30)


@pytest.mark.parametrize("batch_size", [1, 50])
@pytest.mark.parametrize("weight", [1e-25, 1e-38, 1e-60, 1e-300])
def test_adam_bears_any_penalty_in_float32_as_in_float64(weight, batch_size):
    """Where v overflowed no weight moved, and the inputs were blamed."""
    fits = [
        make(BPClassifier, alpha=1e-4, batch_size=batch_size).fit(
            X.astype(dtype), y, sample_weight=weight
        )
        for dtype in (np.float32, np.float64)
    ]
    np.testing.assert_allclose(fits[0]._theta, fits[1]._theta, atol=1e-3)
    for model in fits:
        assert "small-weights" in [f.code for f in model.diagnose().findings]
        assert np.isfinite(model.loss_curve_).all()


@DTYPES
def test_adam_bears_any_alpha(dtype):
    rows, high = X.astype(dtype), float(np.finfo(dtype).max)
    one = make(BPRegressor, alpha=high / 1e20).fit(rows, y)
    other = make(BPRegressor, alpha=high).fit(rows, y)
    np.testing.assert_array_equal(other._theta, one._theta)
    assert (
        np.abs(one.coefs_[0]).max()
        < np.abs(make(BPRegressor).fit(rows, y).coefs_[0]).max()
    )


@BOTH
@DTYPES
@pytest.mark.parametrize("solver", _solvers.STOCHASTIC)
def test_weights_too_small_for_the_type_count_as_zero(estimator, solver, dtype):
    """What they are divided by, in a batch of their own, would overflow."""
    options = {"solver": solver, "batch_size": 1}
    weight = np.ones(len(y))
    weight[::2] = 0
    one = make(estimator, **options).fit(X.astype(dtype), y, sample_weight=weight)
    weight[::2] = np.finfo(dtype).tiny / 4
    other = make(estimator, **options).fit(X.astype(dtype), y, sample_weight=weight)
    np.testing.assert_array_equal(other._theta, one._theta)


@BOTH
@DTYPES
@pytest.mark.parametrize("solver", _solvers.SOLVERS)
@pytest.mark.parametrize("activation", ["relu", "gelu", "identity"])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_a_row_of_weight_zero_may_overflow(estimator, solver, dtype, activation, kind):
    weight = np.random.RandomState(0).uniform(0.5, 1, len(y))
    weight[::4] = 0
    rows = X.astype(dtype)
    rows[::4] = np.finfo(dtype).max * np.array([1, 1, -1, 1], dtype)
    options = {"solver": solver, "activation": activation, "early_stopping": True}
    if solver != "lbfgs":
        options["batch_size"] = 20
    model = make(estimator, **options).fit(kind(rows), y, sample_weight=weight)
    assert np.isfinite(model._theta).all()
    assert np.isfinite(model.loss_curve_).all()
    assert np.isfinite(model.validation_scores_).all()
    assert np.isfinite(model.gradient_flow_.gradient).all()


@BOTH
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_a_gradient_is_checked_beside_a_row_of_weight_zero_that_overflows(
    estimator, kind
):
    rows, weight = X.copy(), np.ones(len(y))
    rows[3], weight[3] = 1e308, 0
    model = make(estimator, activation="tanh").initialize(X, y)
    check = check_gradient(model, kind(rows), y, weight)
    assert check.agrees and check.largest_error < 1e-6
    assert check.n_rows == len(y) - 1
    flow = backpropagate(model, kind(rows), y, weight)
    assert all(np.isfinite(part).all() for part in flow.dW + flow.db)


@BOTH
@SOLVERS
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_rows_of_weight_zero_are_not_there(estimator, solver, n_jobs):
    """In one batch no bit tells whether they were passed."""
    some, weight = np.arange(len(y)) % 3 > 0, np.linspace(0.5, 1, len(y))
    options = {"solver": solver, "shuffle": False, "n_jobs": n_jobs, "batch_size": 150}
    if solver == "lbfgs":
        del options["batch_size"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the batch is clipped
        one = make(estimator, **options).fit(
            X[some], y[some], sample_weight=weight[some]
        )
    other = make(estimator, **options).fit(X, y, sample_weight=weight * some)
    np.testing.assert_array_equal(other._theta, one._theta)
    assert other.loss_curve_ == one.loss_curve_


# ------------------------------------------------------------------------------ targets


@DTYPES
def test_lbfgs_learns_targets_that_a_first_step_cannot_move(dtype):
    target = X[:, 0] + np.sin(X[:, 1])
    for size in (1, 1e9, 1e12, 1e15) + (1e30,) * (dtype == np.float64):
        model = make(BPRegressor, solver="lbfgs", max_iter=200)
        model.fit(X.astype(dtype), target * size)
        assert model.score(X.astype(dtype), target * size) > 0.95, size


@SOLVERS
@pytest.mark.parametrize("size", [1e19, 1e37])
def test_targets_whose_squares_overflow_are_named(solver, size):
    with pytest.raises(
        ValueError, match=r"targets reach .e\+.*overflow float32.*unit v"
    ):
        make(BPRegressor, solver=solver).fit(X.astype(np.float32), (y + 1) * size)


def test_divergence_of_counts_does_not_ask_for_negative_targets():
    model = make(BPRegressor, loss="poisson", solver="sgd", activation="identity")
    model.set_params(learning_rate_init=1e6, max_iter=100)
    with pytest.raises(ValueError, match="targets divided by their mean") as error:
        model.fit(X, y)
    assert "unit variance" not in str(error.value)


# ------------------------------------------------------------------ what nobody checked


@BOTH
@pytest.mark.parametrize("form", [np.array, sp.csr_matrix])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_that_assume_finite_lets_pass_is_named(estimator, form, bad):
    spoilt = X.copy()
    spoilt[3, 1] = bad
    model = make(estimator, activation="tanh").fit(X, y)
    with sklearn.config_context(assume_finite=True):
        with pytest.raises(ValueError, match="X holds NaN or infinity"):
            make(estimator, activation="identity").fit(form(spoilt), y)
        if np.isnan(bad):
            with pytest.raises(ValueError, match="X holds NaN or infinity.*rows?"):
                model.predict(form(spoilt))


# --------------------------------------------------------------------------- parameters


@BOTH
@SOLVERS
@pytest.mark.parametrize("name", BPClassifier().get_params())
def test_a_number_of_hundreds_of_digits_is_an_error_that_names_it_or_works(
    estimator, solver, name, capsys
):
    if name not in estimator().get_params():
        pytest.skip("a parameter of the classifier only")
    options = {"solver": solver, "max_iter": 1, "early_stopping": True}
    for number in (10**400, -(10**400)):
        try:
            make(estimator, **(options | {name: number})).fit(X, y)
        except ValueError as error:
            assert repr(name) in str(error) and "must be" in str(error)
        except MemoryError as error:
            assert name == "hidden_layer_sizes" and name in str(error)
        else:
            assert name in ("max_iter", "max_fun", "n_iter_no_change", "n_jobs") + (
                ("verbose", "batch_size")
            )


@BOTH
def test_strings_of_numpy_are_strings(estimator):
    options = {
        "loss": {BPClassifier: "squared_error", BPRegressor: "poisson"}[estimator],
        "activation": "tanh",
        "solver": "sgd",
        "learning_rate": "adaptive",
        "precision": "float32",
        "batch_size": "auto",
    }
    expected = make(estimator, **options).fit(X, y)
    given = {name: np.str_(value) for name, value in options.items()}
    model = make(estimator, **given).fit(X, y)
    np.testing.assert_array_equal(model._theta, expected._theta)
    assert str(model.diagnose()) == str(expected.diagnose())
    for other in (BPClassifier, BPRegressor):
        make(other, activation=np.array(["relu"])).fit(X, y)


# ---------------------------------------------------------------------- sparse matrices


@BOTH
@SOLVERS
def test_csr_of_strided_arrays_is_like_any_other(estimator, solver):
    matrix = sp.csr_matrix(np.where(X > 2, X, 0))
    strided = matrix.copy()
    for name in ("data", "indices"):
        array = getattr(matrix, name)
        spread = np.zeros((len(array), 3), array.dtype)
        spread[:, 1] = array
        setattr(strided, name, spread[:, 1])
    one = make(estimator, solver=solver).fit(matrix, y)
    two = make(estimator, solver=solver).fit(strided, y)
    np.testing.assert_array_equal(one._theta, two._theta)
    np.testing.assert_array_equal(one.predict(matrix), two.predict(strided))
    np.testing.assert_array_equal(one.predict(matrix[:2]), two.predict(strided)[:2])


def changed(matrix, **arrays):
    """A CSR matrix with other arrays, past SciPy's checks."""
    other = matrix.copy()
    for name, array in arrays.items():
        setattr(other, name, array)
    return other


@BOTH
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_csr_that_was_put_together_by_hand_is_right_or_refused(estimator, method):
    matrix = sp.csr_matrix(np.where(X > 2, X, 0))
    model = make(estimator).fit(matrix, y)
    expected = model.predict(matrix)
    starts, indices = matrix.indptr, matrix.indices

    def call(other):
        if method == "fit":
            return make(estimator).fit(other, y)
        return model.predict(other)

    for dtype in (np.uint32, np.uint64, np.int16, np.int64):
        same = changed(matrix, indptr=starts.astype(dtype))
        result = call(same)
        if method == "predict":
            np.testing.assert_array_equal(result, expected)
    reversed_starts = starts.copy()
    reversed_starts[1:-1] = starts[1:-1][::-1]
    far = indices.copy()
    far[5] = 4
    for arrays in (
        {"indptr": reversed_starts.astype(np.uint64)},
        {"indptr": starts.astype(np.uint64) * 2},
        {"indptr": np.append(starts[:-1], 2**31).astype(np.uint32)},
        {"indptr": starts[:, None]},
        {"indptr": starts.astype(float)},
        {"indptr": starts[:-1]},
        {"indices": far},
        {"indices": far.astype(np.uint64) - np.uint64(9)},
        {"indices": indices[:, None]},
        {"indices": indices[:3]},
        {"data": matrix.data[:3]},
    ):
        with pytest.raises(ValueError):
            call(changed(matrix, **arrays))


@BOTH
def test_indices_out_of_order_behind_a_flag_that_says_otherwise_are_sorted(estimator):
    matrix = sp.csr_matrix(X)
    shuffled = matrix.copy()
    assert shuffled.has_canonical_format
    shuffled.indices.reshape(-1, 4)[:] = [3, 2, 1, 0]
    shuffled.data.reshape(-1, 4)[:] = X[:, ::-1]
    one, two = (make(estimator).fit(form, y) for form in (matrix, shuffled))
    np.testing.assert_array_equal(one._theta, two._theta)


# ------------------------------------------------------------------------ probabilities


@DTYPES
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_probabilities_and_logarithms_order_classes_alike(kind, loss, dtype):
    """Whatever the logits are, also where probabilities leave the type's range."""
    labels = {"binary": y > 0, "multiclass": y, "multilabel": np.eye(3, dtype=int)[y]}
    model = BPClassifier((), loss=loss, max_iter=1, random_state=0)
    model.fit(X.astype(dtype), labels[kind])
    n = len(model.intercepts_[0])
    model.coefs_[0][...] = 0
    rows = X[:1].astype(dtype)
    sizes = [-2000, -1999, -800, -110, -95, -50, -1, 0, 1, 50, 95, 110, 800, 2000]
    for z in np.random.RandomState(0).choice(sizes, (300, n)):
        model.intercepts_[0][...] = z
        p, log_p = model.predict_proba(rows)[0], model.predict_log_proba(rows)[0]
        assert (0 < p).all() and (p < 1).all()
        assert np.isfinite(log_p).all()
        np.testing.assert_array_equal(np.argsort(p), np.argsort(log_p), str(z))
        for i in range(len(p)):
            for j in range(i):
                assert np.sign(p[i] - p[j]) == np.sign(log_p[i] - log_p[j]), z


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_estimator_checks_pass_with_lbfgs(activation):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", category=sklearn.exceptions.SkipTestWarning)
        check_estimator(BPClassifier(solver="lbfgs", activation=activation))


def test_the_html_shows_parameters_docs_and_a_link_to_more():
    for estimator in (BPClassifier, BPRegressor):
        page = estimator().fit(X, y)._repr_html_()
        assert f"cbp.{estimator.__name__}.html" in page
        if sklearn.utils.fixes.parse_version(sklearn.__version__).release >= (1, 9):
            assert "Units of every hidden layer" in page
