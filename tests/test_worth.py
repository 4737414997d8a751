"""What a model is said to be worth: the same numbers as scikit-learn's, at a cost that
is bounded, and no signal where targets were shuffled.
"""

import warnings

import numpy as np
import pytest
from fits import fitted
from planted import load
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    d2_absolute_error_score,
    d2_pinball_score,
    r2_score,
)
from sklearn.model_selection import KFold, cross_val_predict

from cbp import BPClassifier, BPRegressor
from cbp._evidence import SIGNAL_CLEAR
from cbp._fitting import one_batch
from cbp._prediction import predict
from cbp._worth import Worth, by_folds, find_signal, judge, linear_model

PLENTY = 1e12  # nanoseconds
CLASSES = ("iris", "wine", "breast_cancer")
NUMBERS = ("diabetes", "friedman1", "linear")


def parts(model, X, y, sample_weight=None):
    """The network of a short fit, its outputs, and targets as they reach it."""
    network, theta, X, target, weight = one_batch(model, X, y, sample_weight)
    return network, predict(network, theta, X), X, target, weight


def short(X, y, **more):
    kind = BPRegressor if np.asarray(y).dtype.kind == "f" else BPClassifier
    model = kind(hidden_layer_sizes=6, max_iter=8, random_state=0, **more)
    return fitted(model, X, y)


# ---- scores


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_scored_as_scikit_learn_does(name, precision):
    X, y = load(name, 0, False)
    model = short(X, y, precision=precision, learning_rate_init=0.02)
    w = np.random.RandomState(0).uniform(0, 3, len(y))
    for weight in (None, w):
        network, outputs, _, target, held = parts(model, X, y, weight)
        worth, found = judge(network, outputs, target, held), model.predict(X)
        commonest = np.bincount(y, weight).argmax()
        expected = {
            "score": accuracy_score(y, found, sample_weight=weight),
            "balanced": balanced_accuracy_score(y, found, sample_weight=weight),
            "constant": np.average(y == commonest, weights=weight),
            "answers": np.average(found == commonest, weights=weight),
        }
        for number, value in expected.items():
            assert getattr(worth, number) == pytest.approx(value, abs=1e-6), number
        assert (worth.kind, worth.n_rows) == ("accuracy", len(y))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("columns", [1, 2])
def test_numbers_are_scored_by_r2(name, columns):
    X, y = load(name, 0, False)
    y = y if columns == 1 else np.column_stack([y, np.abs(y)])
    model = short(X, y, learning_rate_init=0.02)
    w = np.random.RandomState(0).uniform(0, 3, len(y))
    for weight in (None, w):
        network, outputs, _, target, held = parts(model, X, y, weight)
        worth = judge(network, outputs, target, held)
        expected = r2_score(y, model.predict(X), sample_weight=weight)
        assert worth.score == pytest.approx(expected, abs=1e-6)
        assert (worth.kind, worth.constant) == ("r2", 0.0)


@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_losses_of_medians_are_scored_by_the_cost_of_the_median(loss):
    X, y = load("friedman1", 0, False)
    model = short(X, y, loss=loss, learning_rate_init=0.02)
    network, outputs, _, target, weight = parts(model, X, y)
    worth = judge(network, outputs, target, weight)
    expected = d2_absolute_error_score(y, model.predict(X))
    assert (worth.kind, worth.score) == ("share", pytest.approx(expected, abs=0.01))


def test_quantiles_are_scored_by_their_pinball_costs():
    X, y = load("friedman1", 0, False)
    levels = [0.1, 0.5, 0.8]
    model = short(X, y, loss="quantile", quantile=levels, learning_rate_init=0.02)
    network, outputs, _, target, weight = parts(model, X, y)
    worth = judge(network, outputs, target, weight)
    expected = [
        d2_pinball_score(y, outputs[:, i], alpha=level)
        for i, level in enumerate(levels)
    ]
    assert worth.score == pytest.approx(np.mean(expected), abs=0.01)


def test_labels_are_scored_one_by_one():
    X, y = load("iris", 0, False)
    one_hot = np.eye(3, dtype=int)[y]
    several = np.column_stack([y, y == 1])
    for Y in (one_hot, several, sparse.csr_array(one_hot)):
        dense = Y.toarray() if sparse.issparse(Y) else Y
        model = fitted(BPClassifier(6, max_iter=30, random_state=0), X, Y)
        network, outputs, _, target, weight = parts(model, X, Y)
        found = model.predict(X)
        found = found.toarray() if sparse.issparse(found) else found
        worth = judge(network, outputs, target, weight)
        expected = np.mean(found == dense)
        assert (worth.kind, worth.score) == ("labels", pytest.approx(expected))
        shares = [np.bincount(column).max() / len(y) for column in dense.T]
        assert worth.constant == pytest.approx(np.mean(shares))


def test_what_cannot_be_scored_is_not():
    X, y = load("iris", 0, False)
    network, outputs, _, target, _ = parts(short(X, y), X, y)
    assert judge(network, outputs[:0], target[:0]) is None
    assert judge(network, outputs, target, np.zeros(len(y))) is None
    assert judge(network, outputs * np.nan, target) is None


def test_a_share_is_of_what_a_constant_answer_leaves():
    assert Worth("accuracy", 0.9, 0.8, 10).share == pytest.approx(0.5)
    assert Worth("accuracy", 1.0, 1.0, 10).share == 1.0
    assert Worth("accuracy", 0.9, 1.0, 10).share == 0.0
    assert Worth("r2", -2.0, 0.0, 10).share == -2.0


def test_a_fit_judges_its_training_rows_and_those_held_out():
    X, y = load("breast_cancer", 0, False)
    model = BPClassifier(100, max_iter=200, tol=0, random_state=0)
    fitted(model, X[:400], y[:400])
    standing = model._fit_summary.standing
    assert standing.held is None
    assert standing.train.score == pytest.approx(
        model.score(X[:400], y[:400]), abs=0.03
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X[:400], y[:400], X_val=X[400:], y_val=y[400:])
    held = model._fit_summary.standing.held
    assert held.score == pytest.approx(model.score(X[400:], y[400:]))
    assert held.n_rows == len(X) - 400


# ---- a linear model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*CLASSES, "digits", *NUMBERS])
def test_a_linear_model_does_as_well_as_that_of_scikit_learn(name, dtype):
    X, y = load(name, 0, False)
    X = X.astype(dtype) * 3 + 1  # it scales by itself
    classes = y.dtype.kind != "f"
    network, _, rows, target, _ = parts(short(X, y), X, y)
    train, test = slice(0, None, 2), slice(1, None, 2)
    linear = linear_model(network, rows[train], target[train], None, PLENTY)
    worth = judge(network, linear.outputs(rows[test]), target[test])
    theirs = LogisticRegression(C=0.1, max_iter=1000) if classes else Ridge()
    theirs.fit((X[train] - 1) / 3, y[train])
    expected = theirs.score((X[test] - 1) / 3, y[test])
    assert worth.score == pytest.approx(expected, abs=0.05)


def test_sample_weights_count_in_a_linear_model():
    X, y = load("diabetes", 0, False)
    w = np.random.RandomState(0).uniform(0, 3, len(y))
    network, _, rows, target, weight = parts(short(X, y), X, y, w)
    linear = linear_model(network, rows, target, weight, PLENTY)
    expected = Ridge().fit(X, y, w).predict(X)
    np.testing.assert_allclose(linear.outputs(rows)[:, 0], expected, atol=0.03)


def test_a_linear_model_costs_nothing_where_nothing_may_be_spent():
    X, y = load("digits", 0, False)
    network, _, rows, target, _ = parts(short(X, y), X, y)
    assert linear_model(network, rows, target, None, 0.0) is None
    assert linear_model(network, rows, target, None, PLENTY) is not None
    # More columns cost more: the bound is for rows and columns, not a time.
    wide = np.tile(rows, (1, 4))
    cost = 1e7
    assert linear_model(network, rows[:200], target[:200], None, cost) is not None
    assert linear_model(network, wide, target, None, cost) is None


def test_a_short_fit_has_no_linear_model_and_a_long_one_has():
    X, y = load("breast_cancer", 0, False)
    few = fitted(BPClassifier(2, max_iter=1, random_state=0), X, y)
    many = fitted(BPClassifier(100, max_iter=200, tol=0, random_state=0), X, y)
    assert few._fit_summary.standing.linear is None
    assert many._fit_summary.standing.linear_train.score > 0.95


def test_targets_that_no_linear_model_here_can_have_are_left_out():
    X, y = load("iris", 0, False)
    for Y in (np.column_stack([y, y == 1]), np.eye(3, dtype=int)[y]):
        network, _, rows, target, _ = parts(short(X, Y), X, Y)
        found = linear_model(network, rows, target, None, PLENTY)
        assert found is None or np.isfinite(found.outputs(rows)).all()
    X, y = load("friedman1", 0, False)
    network, _, rows, target, _ = parts(short(X, y, loss="absolute_error"), X, y)
    assert linear_model(network, rows, target, None, PLENTY) is None
    rows = sparse.csr_array(rows)
    assert linear_model(network, rows, target, None, PLENTY) is None


# ---- rows that are given: folds


def test_folds_have_the_scores_of_cross_validation():
    folds = KFold(5, shuffle=True, random_state=0)
    for name in ("diabetes", "breast_cancer", "iris"):
        X, y = load(name, 0, False)
        network, _, rows, target, _ = parts(short(X, y), X, y)
        worth = by_folds(network, rows, target, None, None)
        classes = y.dtype.kind != "f"
        theirs = LogisticRegression() if classes else Ridge()
        found = cross_val_predict(theirs, X, y, cv=folds)
        score = accuracy_score if classes else r2_score
        assert worth.score == pytest.approx(score(y, found), abs=0.01)
        assert worth.n_rows == len(y)


def test_folds_of_few_rows_or_of_many_labels_say_nothing():
    X, y = load("iris", 0, False)
    network, _, rows, target, _ = parts(short(X, y), X, y)
    assert by_folds(network, rows[:60], target[:60], None, None) is None
    # Only one class in some fold.
    alone = np.zeros_like(target)
    alone[0] = 1
    assert by_folds(network, rows, alone, None, None) is None
    several = np.column_stack([y, y == 1])
    network, _, rows, target, _ = parts(short(X, several), X, several)
    assert by_folds(network, rows, target, None, None) is None


def test_folds_take_sparse_rows():
    X, y = load("breast_cancer", 0, False)
    network, _, rows, target, _ = parts(short(X, y), X, y)
    dense = by_folds(network, rows, target, None, 1)
    some = by_folds(network, sparse.csr_array(rows), target, None, 1)
    assert some.score == pytest.approx(dense.score, abs=0.01)


# ---- a signal


def as_target(y):
    """As `Data` takes it."""
    return y.reshape(-1, 1).astype(float) if y.dtype.kind == "f" else y.astype("i4")


@pytest.mark.parametrize("name", [*CLASSES, "quantiles", "diabetes", "friedman1"])
def test_a_signal_is_found_in_real_targets_and_hardly_ever_in_shuffled_ones(name):
    X, y = load(name, 0, False)
    target, missed, invented = as_target(y), 0, 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(X))
        signal = find_signal(None, X[rows], target[rows], PLENTY)
        missed += signal.score <= signal.noise + SIGNAL_CLEAR
        signal = find_signal(None, X, target[rows], PLENTY)
        noise = max(signal.noise, 0) if signal.n_rows >= 400 else signal.noise
        invented += signal.score > noise + SIGNAL_CLEAR
    assert missed == 0  # or a good model would be told that X says nothing
    assert invented <= 8  # of 10 times that targets are shuffled one may be the best


def test_a_fit_of_shuffled_targets_is_told_so_and_one_of_real_ones_is_not():
    for name in ("friedman1", "quantiles"):
        X, y = load(name, 0, False)
        codes = []
        for seed in range(3):
            shuffled = np.random.RandomState(seed).permutation(y)
            kind = BPRegressor if y.dtype.kind == "f" else BPClassifier
            for target in (y, shuffled):
                model = kind(hidden_layer_sizes=60, max_iter=60, random_state=seed)
                found = fitted(model, X, target).diagnose().findings
                codes.append("no-signal" in [finding.code for finding in found])
        assert not any(codes[::2]), name
        assert sum(codes[1::2]) >= 2, name


def test_a_signal_is_not_looked_for_in_few_rows_or_sparse_ones():
    X, y = load("quantiles", 0, False)
    target = as_target(y)
    assert find_signal(None, X[:15], target[:15], PLENTY) is None
    assert find_signal(None, X[:120], target[:120], PLENTY) is None
    assert find_signal(None, sparse.csr_array(X), target, PLENTY) is None
    # Of many rows some are taken: their number bounds what it costs.
    many = np.tile(X, (40, 1))
    assert find_signal(None, many, np.tile(target, 40), PLENTY).n_rows <= 1024


def test_signals_of_labels_and_far_targets_are_found():
    X, y = load("iris", 0, False)
    for Y in (np.column_stack([y, y == 1]).astype("i4"), np.eye(3)[y]):
        assert find_signal(None, X, Y, PLENTY).score > 0.3
    X, y = load("diabetes", 0, False)
    far = y.copy()
    far[:3] = 1e9  # ranks do not know how far
    assert find_signal(None, X, as_target(far), PLENTY).score > 0.2
