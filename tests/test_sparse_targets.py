"""Sparse multilabel targets: the bits of dense ones, and never dense as a whole."""

import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from problem import Problem, make_trainer
from sklearn.datasets import make_multilabel_classification
from sklearn.preprocessing import scale

from cbp import BPClassifier, BPRegressor, backpropagate, check_gradient
from cbp._data import Data

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = make_multilabel_classification(
    90, n_features=10, n_classes=19, n_labels=3, random_state=0
)
X = scale(X)
W = np.linspace(0.5, 1.5, len(X))
W[::7] = 0
FORMS = [sp.csr_matrix, sp.csc_matrix, sp.coo_array, sp.csr_array, sp.lil_matrix]


def classifier(**options):
    options = {"max_iter": 6, "random_state": 0, "monitor": True} | options
    return BPClassifier((7,), **options)


def same(a, b):
    """Both models have the same bits, and noted the same."""
    np.testing.assert_array_equal(a._theta, b._theta)
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        assert getattr(a, name) == getattr(b, name)
    assert a._fit_summary == b._fit_summary
    assert str(a.diagnose()) == str(b.diagnose())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_sparse_targets_train_the_bits_of_dense_ones(solver, loss, form):
    options = {"solver": solver, "loss": loss, "batch_size": 32}
    same(
        classifier(**options).fit(X, form(Y), W),
        classifier(**options).fit(X, Y, W),
    )


OPTIONS = {
    "early stopping": {"early_stopping": True},
    "by the loss": {"early_stopping": True, "scoring": "loss"},
    "by a scorer": {"early_stopping": True, "scoring": "f1_micro"},
    "one row": {"batch_size": 1},
    "one row, no records": {"batch_size": 1, "solver": "sgd"},
    "one row, decay and mean": {"batch_size": 1, "weight_decay": 0.1, "average": 0.9},
    "clipped": {"batch_size": 1, "max_grad_norm": 0.1},
    "threads": {"n_jobs": 2, "hidden_layer_sizes": (200,)},
    "balanced": {"class_weight": "balanced"},
    "weights of labels": {"class_weight": [{0: 1, 1: 1 + i} for i in range(19)]},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_to_train_has_the_bits_of_dense_targets(name, rows, dtype):
    data = rows(X.astype(dtype))
    a = classifier().set_params(**OPTIONS[name]).fit(data, sp.csr_matrix(Y), W)
    b = classifier().set_params(**OPTIONS[name]).fit(data, Y, W)
    same(a, b)
    assert sp.issparse(a.predict(data)) and not sp.issparse(b.predict(data))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_validation_set_may_be_sparse_where_the_data_are_dense(class_weight):
    fits = [
        classifier(class_weight=class_weight).fit(
            X, form(Y), X_val=X[:30], y_val=form_val(Y[:30])
        )
        for form in (np.asarray, sp.csr_matrix)
        for form_val in (np.asarray, sp.csr_matrix)
    ]
    for other in fits[1:]:
        same(fits[0], other)
    assert len(fits[0].validation_scores_) == 6


@pytest.mark.parametrize("size", [1, 13])
def test_partial_fit_takes_sparse_and_dense_targets_in_turn(size):
    mixed, dense = classifier(), classifier()
    for i, start in enumerate(range(0, 52, size)):
        some = slice(start, start + size)
        form = sp.csr_array if i % 2 else np.asarray
        mixed.partial_fit(X[some], form(Y[some]), classes=range(19))
        dense.partial_fit(X[some], Y[some], classes=range(19))
    np.testing.assert_array_equal(mixed._theta, dense._theta)
    with pytest.raises(ValueError, match="18 columns"):
        mixed.partial_fit(X, sp.csr_matrix(Y[:, :18]))


def test_warm_start_goes_on_with_sparse_targets():
    models = [classifier(warm_start=True) for _ in range(2)]
    for _ in range(2):
        same(models[0].fit(X, sp.csr_matrix(Y)), models[1].fit(X, Y))


def test_inspection_takes_sparse_targets():
    model = classifier().fit(X, Y)
    one = backpropagate(model, X, sp.csr_matrix(Y))
    two = backpropagate(model, X, Y)
    np.testing.assert_array_equal(one.delta[-1], two.delta[-1])
    model = classifier(precision="float32").initialize(X, sp.csr_matrix(Y))
    assert check_gradient(model, X, sp.csr_matrix(Y)).agrees


def test_scores_and_predictions_are_those_of_dense_targets():
    sparse, dense = classifier().fit(X, sp.csr_matrix(Y)), classifier().fit(X, Y)
    np.testing.assert_array_equal(sparse.predict(X).toarray(), dense.predict(X))
    expected = dense.score(X, Y, W)
    for model in (sparse, dense, pickle.loads(pickle.dumps(sparse))):
        for form in (np.asarray, *FORMS):
            assert model.score(X, form(Y), W) == expected


# ----------------------------------------------------------------- what a matrix holds


def test_what_is_stored_does_not_matter_but_what_it_adds_up_to():
    expected = classifier().fit(X, Y)
    plain = sp.csr_matrix(Y)
    stored = plain.copy()
    full = sp.csr_matrix(np.ones_like(Y))
    stored = (
        np.r_[Y.ravel(), np.zeros(5, int)],
        (
            np.r_[full.nonzero()[0], np.arange(5)],
            np.r_[full.nonzero()[1], np.arange(5)],
        ),
    )
    zeros = sp.coo_matrix(stored, shape=Y.shape)  # explicit zeros, some places twice
    halves = sp.csr_matrix(
        (
            np.full(2 * plain.nnz, 0.5),
            np.repeat(plain.indices, 2),
            plain.indptr * 2,
        ),
        shape=Y.shape,
    )
    reverse = plain.copy()
    for r in range(len(Y)):
        part = slice(*reverse.indptr[r : r + 2])
        reverse.indices[part] = reverse.indices[part][::-1]
    reverse.has_sorted_indices = False
    wide = plain.copy()
    wide.indices, wide.indptr = wide.indices.astype("i8"), wide.indptr.astype("i8")
    matrices = [zeros, halves, reverse, wide]
    matrices += [plain.astype(t) for t in ("bool", "u1", "i8", "f4", "f8")]
    for given in matrices:
        kept = given.copy()
        same(classifier().fit(X, given), expected)
        assert abs(given - kept).nnz == 0 and given.nnz == kept.nnz


def spoiled(**changes):
    matrix = sp.csr_matrix(Y.astype(float))
    for name, (place, value) in changes.items():
        getattr(matrix, name)[place] = value
    return matrix


BAD = {
    "a two": (spoiled(data=(3, 2.0)), r"0 and 1 only, got values \[1. 2.\]"),
    "a half": (spoiled(data=(3, 0.5)), r"0 and 1 only, got values \[0.5 1. \]"),
    "a one twice": (
        sp.csr_matrix(
            (np.ones(2), np.array([4, 4]), np.r_[0, np.full(len(Y), 2)]), shape=Y.shape
        ),
        r"0 and 1 only, got values \[2.\].*stored twice",
    ),
    "NaN": (spoiled(data=(3, np.nan)), "Input y contains NaN"),
    "a column beyond": (spoiled(indices=(3, 19)), "y is a malformed sparse matrix"),
    "a negative column": (spoiled(indices=(0, -1)), "y is a malformed sparse matrix"),
    "rows out of order": (spoiled(indptr=(3, 99999)), "y is a malformed sparse matrix"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_matrix_of_labels_is_refused(name):
    matrix, message = BAD[name]
    model = classifier().fit(X, Y)
    kept = model._theta.copy()
    with pytest.raises(ValueError, match=message):
        model.fit(X, matrix)
    with pytest.raises(ValueError, match=message):
        classifier().fit(X, Y, X_val=X, y_val=matrix)
    np.testing.assert_array_equal(model._theta, kept)


def test_a_sparse_column_is_one_label_per_row_as_a_dense_one_is():
    with pytest.warns(UserWarning, match="column-vector"):
        model = classifier().fit(X, sp.csr_matrix(Y[:, :1] * 5))
    assert model.classes_.tolist() == [0, 5]
    same(model, classifier().fit(X, Y[:, 0] * 5))


def test_a_regressor_makes_sparse_targets_dense():
    one = BPRegressor(max_iter=3, random_state=0).fit(X, sp.csr_matrix(Y))
    two = BPRegressor(max_iter=3, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(one._theta, two._theta)
    assert not sp.issparse(one.predict(X))


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_array, sp.coo_array])
@pytest.mark.parametrize(
    "estimator, scoring, options",
    [
        (BPClassifier, "accuracy", {"class_weight": {0: 2.0}}),
        (BPClassifier, "accuracy", {"class_weight": "balanced"}),
        (BPRegressor, "r2", {}),
        (BPRegressor, "r2", {"loss": "quantile"}),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_a_sparse_column_is_scored_as_it_is_trained(estimator, scoring, options, form):
    y = Y[:, 0]
    options = dict(max_iter=3, random_state=0, early_stopping=True, **options)
    dense = estimator(scoring=scoring, **options).fit(X, y, X_val=X, y_val=y)
    columns = [form(y[:, None])]
    if form is sp.coo_array:
        columns.append(form(y))
    for column in columns:
        model = estimator(scoring=scoring, **options)
        model.fit(X, column, X_val=X, y_val=column)
        np.testing.assert_array_equal(model._theta, dense._theta)
        assert model.validation_scores_ == dense.validation_scores_
        assert model.score(X, column) == dense.score(X, y)


def test_a_regressor_scores_sparse_targets():
    model = BPRegressor(max_iter=3, random_state=0).fit(X, Y)
    assert model.score(X, sp.csr_matrix(Y)) == model.score(X, Y)


def test_weights_of_classes_for_one_column_are_refused_for_several():
    for class_weight in ({0: 1, 1: 2}, [{0: 1, 1: 2}] * 3, [1] * 19):
        for form in (np.asarray, sp.csr_matrix):
            with pytest.raises(ValueError, match="class_weight must be 'balanced' or"):
                classifier(class_weight=class_weight).fit(X, form(Y))


# ------------------------------------------------------------------------------ memory

N, K = 20_000, 2_000
DENSE = N * K  # bytes, if an entry were a single byte


@pytest.fixture(scope="module")
def many():
    """A handful of very many labels per row."""
    rng = np.random.RandomState(0)
    labels = rng.randint(K, size=(N, 3))
    target = sp.csr_matrix(
        (np.ones(3 * N), labels.ravel(), np.arange(0, 3 * N + 1, 3)), shape=(N, K)
    )
    target.sum_duplicates()
    target.data[:] = 1
    return rng.standard_normal((N, 4)), target


@pytest.mark.thread_unsafe(reason="tracemalloc counts what all threads allocate")
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "sgd"},
        {"solver": "lbfgs"},
        {"early_stopping": True},
        {"class_weight": [{0: 1, 1: 2}] * K, "monitor": True},
    ],
    ids=lambda o: "-".join(o),
)
def test_nothing_that_a_fit_or_a_score_makes_is_as_large_as_the_dense_targets(
    many, options
):
    rows, target = many
    model = BPClassifier((2,), max_iter=1, random_state=0, **options)
    tracemalloc.start()
    try:
        model.fit(rows, target)
        model.score(rows, target)
        assert model.predict(rows).shape == target.shape
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Dense, a fit of float64 would hold eight times DENSE, and a score as much.
    assert peak < 1.2 * DENSE if options.get("solver") == "lbfgs" else peak < DENSE


def test_rows_that_overflow_are_named_by_their_places_in_all_rows(many):
    rows, target = many
    model = BPClassifier((2,), max_iter=1, activation="identity", random_state=0)
    model.fit(rows[:500], target[:500])
    rows = rows.copy()
    rows[[7, 15_000]] = 1e300
    model.coefs_[0][:] = 1e20
    with pytest.raises(ValueError, match=r"in 2 of 20000 rows of X: 7, 15000\."):
        model.predict(rows)


def test_data_refuses_sparse_targets_that_do_not_fit_the_network():
    problem = Problem("logistic", sizes=(12, 17, 9, 3))
    good = sp.csr_matrix(problem.T)
    Data(problem.network, problem.X, good)
    bad = {
        "columns": sp.csr_matrix(problem.T[:, :2]),
        "length": good[:-1],
        "float32": good.astype(np.float32),
        "CSR": good.tocsc(),
        "outside": sp.csr_matrix(
            (good.data, good.indices + 1, good.indptr), shape=good.shape
        ),
    }
    for message, target in bad.items():
        with pytest.raises(ValueError, match=message):
            Data(problem.network, problem.X, target)
    softmax = Problem("softmax")
    with pytest.raises(ValueError, match="class numbers"):
        make_trainer(softmax.network, softmax.theta, softmax.X, good)
