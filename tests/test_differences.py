"""Where scikit-learn's MLP is wrong we are right: one test per item of the list.

docs/differences.md explains every item. Where it can be shown, a test also shows what
scikit-learn does, so that the list shrinks when scikit-learn is mended.
"""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris, make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import get_tags

from cbp import BPClassifier, BPRegressor, _fitting
from cbp._solvers import SOLVERS, STOCHASTIC

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_multi_output_squared_error_is_summed_so_that_loss_and_gradient_agree():
    X, Y = make_regression(60, 5, n_targets=4, random_state=0)
    Y /= Y.std()
    eta = 1e-6
    model = BPRegressor(
        hidden_layer_sizes=(6,),
        activation="tanh",
        solver="sgd",
        momentum=0,
        alpha=0,
        learning_rate_init=eta,
        batch_size=60,
        max_iter=2,
        random_state=0,
    ).fit(X, Y)
    # The first loss is the article's: half the squared distance, summed over outputs.
    start = BPRegressor(hidden_layer_sizes=(6,), activation="tanh", random_state=0)
    start.partial_fit(X, Y, sample_weight=np.zeros(60))
    loss = 0.5 * ((start.predict(X) - Y) ** 2).sum(axis=1).mean()
    assert model.loss_curve_[0] == pytest.approx(loss, rel=1e-12)
    # A small step along the gradient g lowers the loss by eta * |g|^2.
    one_step = start.set_params(**model.get_params()).set_params(max_iter=1)
    before = [a.copy() for a in one_step.coefs_ + one_step.intercepts_]
    one_step.partial_fit(X, Y)
    after = one_step.coefs_ + one_step.intercepts_
    squared_gradient = sum(
        (((b - a) / eta) ** 2).sum() for a, b in zip(before, after, strict=True)
    )
    fall = model.loss_curve_[0] - model.loss_curve_[1]
    assert fall == pytest.approx(eta * squared_gradient, rel=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_early_stopping_keeps_a_copy_of_the_weights_that_scored_best(solver):
    X, y = make_classification(200, 10, flip_y=0.3, random_state=0)
    model = BPClassifier(
        hidden_layer_sizes=(50,),
        solver=solver,
        learning_rate_init=0.05,
        early_stopping=True,
        validation_fraction=0.3,
        tol=0,
        n_iter_no_change=40,
        max_iter=100,
        random_state=1,
    ).fit(X, y)
    best = int(np.argmax(model.validation_scores_))
    assert best < len(model.validation_scores_) - 1, "the test needs later epochs"
    again = BPClassifier(**model.get_params()).set_params(max_iter=best + 1).fit(X, y)
    for ours, reached in zip(model.coefs_, again.coefs_, strict=True):
        np.testing.assert_array_equal(ours, reached)
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_partial_fit_after_early_stopping_leaves_the_former_best_weights_alone():
    X, y = load_iris(return_X_y=True)
    model = BPClassifier(early_stopping=True, random_state=0).fit(X, y)
    kept = model.coefs_[0]
    values = kept.copy()
    model.partial_fit(X, y)
    np.testing.assert_array_equal(kept, values)


def held_out_rows(model, X, y, monkeypatch):
    """The rows that the fit of a model held out."""
    seen, split = [], _fitting.split

    def spy(*arguments):
        seen.append(split(*arguments))
        return seen[-1]

    monkeypatch.setattr(_fitting, "split", spy)
    model.fit(X, y)
    ((train, held_out),) = seen
    assert sorted([*train, *held_out]) == list(range(len(y)))
    return train, held_out


def test_the_validation_split_is_stratified_for_multiclass(monkeypatch):
    X, y = load_iris(return_X_y=True)
    model = BPClassifier(early_stopping=True, max_iter=3, random_state=0)
    _, held_out = held_out_rows(model, X, y, monkeypatch)
    np.testing.assert_array_equal(np.bincount(y[held_out]), [5, 5, 5])


@pytest.mark.parametrize(
    "sizes, fraction",
    [((5, 1), 0.1), ((20, 2, 2), 0.1), ((2, 2, 2), 0.5), ((30, 1, 1), 0.2)]
    + [((9, 2, 2), 0.8), ((3, 3), 0.4), ((40, 2), 0.5), ((6, 5, 4, 3, 2, 1), 0.3)],
)
@pytest.mark.parametrize("seed", range(5))
def test_every_class_stays_in_training(sizes, fraction, seed, monkeypatch):
    y = np.repeat(np.arange(len(sizes)), sizes)
    X = np.random.RandomState(seed).normal(size=(len(y), 3))
    model = BPClassifier(
        early_stopping=True, validation_fraction=fraction, max_iter=2, random_state=seed
    )
    train, held_out = held_out_rows(model, X, y, monkeypatch)
    np.testing.assert_array_equal(np.unique(y[train]), np.arange(len(sizes)))
    assert len(held_out) > 0
    alone = np.flatnonzero(np.asarray(sizes)[y] == 1)
    assert set(alone) <= set(train)


def test_at_least_two_rows_and_one_per_class_are_held_out(monkeypatch):
    y = np.repeat(np.arange(8), 10)
    X = np.random.RandomState(0).normal(size=(80, 3))
    model = BPClassifier(early_stopping=True, validation_fraction=0.01, max_iter=2)
    _, held_out = held_out_rows(model, X, y, monkeypatch)
    np.testing.assert_array_equal(np.sort(y[held_out]), np.arange(8))
    model = BPRegressor(early_stopping=True, validation_fraction=0.01, max_iter=2)
    _, held_out = held_out_rows(model, X, y, monkeypatch)
    assert len(held_out) == 2


def test_epoch_loss_is_averaged_by_weight():
    X, y = make_regression(40, 3, random_state=0)
    weight = np.where(np.arange(40) < 20, 1.0, 9.0)
    model = BPRegressor(
        solver="sgd", learning_rate_init=1e-12, shuffle=False, batch_size=20, max_iter=1
    )
    model.set_params(alpha=0, random_state=0).fit(X, y, sample_weight=weight)
    squares = (model.predict(X) - y) ** 2
    expected = 0.5 * np.average(squares, weights=weight)
    assert model.loss_ == pytest.approx(expected, rel=1e-6)
    theirs = MLPRegressor(**{k: getattr(model, k) for k in MLPRegressor().get_params()})
    try:
        theirs.fit(X, y, sample_weight=weight)
    except TypeError:  # scikit-learn 1.6 has no weights here
        return
    assert theirs.loss_ != pytest.approx(expected, rel=1e-2)


def test_epoch_loss_is_averaged_by_weight_with_a_short_last_batch():
    X, y = make_regression(25, 3, random_state=0)
    model = BPRegressor(
        solver="sgd", learning_rate_init=1e-12, batch_size=10, max_iter=1, alpha=0
    ).fit(X, y)
    expected = 0.5 * ((model.predict(X) - y) ** 2).mean()
    assert model.loss_ == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_a_mini_batch_of_weightless_rows_is_a_no_op(solver):
    X, y = make_classification(60, 5, random_state=0)
    weight = np.ones(60)
    weight[20:40] = 0
    options = {
        "solver": solver,
        "batch_size": 20,
        "shuffle": False,
        "max_iter": 3,
        "random_state": 0,
    }
    with_idle = BPClassifier(**options).fit(X, y, sample_weight=weight)
    kept = weight > 0
    without = BPClassifier(**options).fit(X[kept], y[kept])
    for a, b in zip(with_idle.coefs_, without.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert with_idle.t_ == without.t_ == 3 * 40
    assert with_idle.loss_curve_ == without.loss_curve_


def test_partial_fit_on_weightless_rows_changes_nothing():
    X, y = make_classification(60, 5, random_state=0)
    model = BPClassifier(max_iter=3, random_state=0).fit(X, y)
    before = pickle.dumps(model)
    model.partial_fit(X, y, sample_weight=0.0)
    assert pickle.dumps(model) == before


def test_a_regressor_with_lbfgs_has_no_partial_fit():
    assert not hasattr(BPRegressor(solver="lbfgs"), "partial_fit")
    assert not hasattr(BPClassifier(solver="lbfgs"), "partial_fit")
    for estimator in (BPRegressor, BPClassifier):
        assert hasattr(estimator(solver="adam"), "partial_fit")
        assert hasattr(estimator(solver="sgd"), "partial_fit")
        with pytest.raises(AttributeError):
            estimator(solver="lbfgs").partial_fit  # noqa: B018


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}])
def test_one_class_seen_gives_predict_proba_one_column(options):
    X = np.random.RandomState(0).normal(size=(20, 3))
    model = BPClassifier(max_iter=5, **options).fit(X, ["only"] * 20)
    assert len(model.classes_) == 1
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((20, 1)))
    np.testing.assert_array_equal(model.predict_log_proba(X), np.zeros((20, 1)))
    assert set(model.predict(X)) == {"only"}
    assert model.decision_function(X).shape == (20,)
    assert model.score(X, ["only"] * 20) == 1


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_lbfgs_fills_loss_curve(estimator, early_stopping):
    X, y = load_iris(return_X_y=True)
    model = estimator(solver="lbfgs", max_iter=15, random_state=0)
    model.set_params(early_stopping=early_stopping).fit(X, y)
    assert len(model.loss_curve_) == model.n_iter_ > 5
    assert all(np.diff(model.loss_curve_) <= 0)
    assert model.loss_curve_[-1] == pytest.approx(model.loss_)
    if early_stopping:
        assert len(model.validation_scores_) == model.n_iter_
        assert model.best_loss_ is None
    else:
        assert model.best_loss_ == min(model.loss_curve_)


@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_partial_fit_ignores_early_stopping_and_says_so(estimator):
    X, y = load_iris(return_X_y=True)
    runs = []
    for early_stopping in (False, True):
        model = estimator(early_stopping=early_stopping, random_state=0)
        for _ in range(3):
            if estimator is BPClassifier:
                model.partial_fit(X, y, classes=[0, 1, 2])
            else:
                model.partial_fit(X, y)
        runs.append(model)
    for a, b in zip(runs[0].coefs_, runs[1].coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs[1].validation_scores_ is None
    assert runs[1].best_loss_ == runs[0].best_loss_
    assert "arly stopping" in estimator.partial_fit.__doc__


def test_partial_fit_goes_on_after_fit_with_early_stopping():
    X, y = load_iris(return_X_y=True)
    model = BPClassifier(early_stopping=True, max_iter=5, random_state=0).fit(X, y)
    scores = list(model.validation_scores_)
    model.partial_fit(X, y)
    assert model.validation_scores_ == scores
    assert model.best_loss_ == model.loss_
    assert len(model.loss_curve_) == 6


def test_the_regressor_carries_the_multi_output_tag():
    assert get_tags(BPRegressor()).target_tags.multi_output
    assert not get_tags(MLPRegressor()).target_tags.multi_output
    assert get_tags(BPClassifier()).classifier_tags.multi_label


def pickle_limit(model):
    """1.2 times the parameters and 8 KiB, and the records that grow with epochs."""
    grows = [model.loss_curve_, model.validation_scores_, model.gradient_flow_]
    records = len(pickle.dumps(grows))
    assert len(pickle.dumps(model.gradient_flow_)) < 70_000
    parameters = sum(a.nbytes for a in model.coefs_ + model.intercepts_)
    return 1.2 * parameters + 8 * 1024 + records


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sizes", [(3,), (100, 50)])
@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_a_pickle_is_little_larger_than_the_parameters(estimator, sizes, solver):
    X, y = load_iris(return_X_y=True)
    model = estimator(sizes, solver=solver, max_iter=20, early_stopping=True)
    if estimator is BPRegressor:
        model = estimator("squared_error", sizes, solver=solver, max_iter=20)
    model.set_params(random_state=np.random.RandomState(0)).fit(X, y)
    assert len(pickle.dumps(model)) <= pickle_limit(model)


def test_a_pickle_holds_the_optimizer_only_after_partial_fit_or_with_warm_start():
    X, y = load_iris(return_X_y=True)
    model = BPClassifier((100, 50), max_iter=5).fit(X, y)
    small = len(pickle.dumps(model))
    assert pickle.loads(pickle.dumps(model))._optimizer is None
    assert model._optimizer is not None, "the live object keeps it"
    model.partial_fit(X, y)
    assert len(pickle.dumps(model)) > 2.5 * small
    model.fit(X, y)
    assert len(pickle.dumps(model)) < 1.1 * small
    model.set_params(warm_start=True).fit(X, y)
    assert len(pickle.dumps(model)) > 2.5 * small


# Differences that come with the above.


def test_log_probabilities_come_from_logits_and_are_finite():
    X, y = load_iris(return_X_y=True)
    for labels in (y, y == 0, np.eye(3, dtype=int)[y]):
        for loss in ("log_loss", "squared_error"):
            model = BPClassifier(loss=loss, max_iter=50, random_state=0).fit(X, labels)
            huge = 1e6 * X
            log_p = model.predict_log_proba(huge)
            assert np.isfinite(log_p).all()
            assert log_p.min() < -800, "far below the logarithm of the least float"
            moderate = model.predict_log_proba(X)
            np.testing.assert_allclose(
                np.exp(moderate), model.predict_proba(X), rtol=1e-9
            )
    theirs = MLPClassifier(max_iter=50, random_state=0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isneginf(theirs.predict_log_proba(huge)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_probabilities_lie_strictly_between_0_and_1(loss, dtype):
    X, y = load_iris(return_X_y=True)
    X = X.astype(dtype)
    for labels in (y, y == 0, np.eye(3, dtype=int)[y]):
        model = BPClassifier(loss=loss, max_iter=50, random_state=0).fit(X, labels)
        p = model.predict_proba(1000 * X)
        assert p.dtype == dtype
        assert (0 < p).all() and (p < 1).all()
        if labels.ndim == 1:
            np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)


def test_a_diverged_fit_with_early_stopping_warns_and_keeps_the_best_weights():
    X, y = make_regression(100, 5, random_state=0)
    model = BPRegressor(
        solver="sgd", learning_rate_init=10, early_stopping=True, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="diverged in epoch"):
        model.fit(X, y)
    assert np.isnan(model.validation_scores_[-1])
    assert np.isfinite(model.predict(X)).all()


def test_the_score_of_early_stopping_is_scikit_learns(monkeypatch):
    X, y = load_iris(return_X_y=True)
    weight = np.random.RandomState(0).uniform(0.5, 2, len(y))
    for labels in (y, y == 0, np.eye(3, dtype=int)[y]):
        model = BPClassifier(early_stopping=True, max_iter=30, random_state=0)
        with monkeypatch.context() as patch:
            _, rows = held_out_rows(model, X, labels, patch)
        plain = accuracy_score(labels[rows], model.predict(X[rows]))
        assert model.best_validation_score_ == plain
        model.fit(X, labels, sample_weight=weight)
        weighted = accuracy_score(
            labels[rows], model.predict(X[rows]), sample_weight=weight[rows]
        )
        assert model.best_validation_score_ == pytest.approx(weighted, rel=1e-12)
