"""Rows held out: a validation set of one's own, and what early stopping looks at.

Which rows are split off is in test_estimators.py, compiled scores in test_training.py.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn import set_config
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_digits
from sklearn.metrics import (
    get_scorer,
    log_loss,
    mean_poisson_deviance,
    mean_squared_error,
    r2_score,
)
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor
from cbp._solvers import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

random = np.random.RandomState(0)
X, LABELS = load_digits(return_X_y=True)
X = X[:400] / 16
LABELS = LABELS[:400] % 4
NUMBERS = X[:, 20:22] @ [[1.0, 2.0], [0.5, -1.0]] + random.normal(size=(400, 2)) / 5
TRAIN, VAL = slice(0, 250), slice(250, 400)
WEIGHT = random.uniform(0, 2, 400)
WEIGHT[250:260] = 0

every_solver = pytest.mark.parametrize("solver", SOLVERS)
both = pytest.mark.parametrize("early_stopping", [False, True])


def classifier(**parameters):
    return BPClassifier(
        **{"hidden_layer_sizes": 9, "max_iter": 8, "random_state": 0, **parameters}
    )


def regressor(**parameters):
    return BPRegressor(
        **{"hidden_layer_sizes": 9, "max_iter": 8, "random_state": 0, **parameters}
    )


def fit(model, y=LABELS, data=X, weight=None):
    w, w_val = (None, None) if weight is None else (weight[TRAIN], weight[VAL])
    return model.fit(
        data[TRAIN], y[TRAIN], w, X_val=data[VAL], y_val=y[VAL], sample_weight_val=w_val
    )


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


# ---- what is recorded


@every_solver
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_a_classifiers_scores_are_those_of_sklearn(solver, weight, loss):
    model = fit(classifier(solver=solver, loss=loss), weight=weight)
    w = None if weight is None else weight[VAL]
    close(model.validation_scores_[-1], model.score(X[VAL], LABELS[VAL], w))
    P = model.predict_proba(X[VAL])
    expected = log_loss(LABELS[VAL], P, sample_weight=w)
    if loss == "squared_error":
        outputs = model._outputs(model._fitted, X[VAL], logits=False)
        rows = ((outputs - np.eye(4)[LABELS[VAL]]) ** 2).sum(1) / 2
        expected = np.average(rows, weights=w)
    close(model.validation_loss_curve_[-1], expected)
    n = model.n_iter_
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == n


@every_solver
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("batch_size", [1, 40])
def test_a_regressors_scores_are_those_of_sklearn(solver, loss, batch_size):
    y = np.abs(NUMBERS) if loss == "poisson" else NUMBERS
    model = regressor(solver=solver, loss=loss, batch_size=batch_size)
    fit(model, y, weight=WEIGHT)
    predicted, w = model.predict(X[VAL]), WEIGHT[VAL]
    close(model.validation_scores_[-1], r2_score(y[VAL], predicted, sample_weight=w))
    if loss == "squared_error":
        # Half the squares, summed over the outputs.
        expected = mean_squared_error(y[VAL], predicted, sample_weight=w)
        close(model.validation_loss_curve_[-1], expected)
    else:
        # Half the deviance, summed over the outputs.
        costs = [
            mean_poisson_deviance(y[VAL, i], predicted[:, i], sample_weight=w)
            for i in range(2)
        ]
        close(model.validation_loss_curve_[-1], sum(costs) / 2)


@every_solver
def test_the_split_records_its_loss_too(solver):
    model = classifier(solver=solver, early_stopping=True).fit(X, LABELS)
    assert len(model.validation_loss_curve_) == len(model.validation_scores_)
    assert model.validation_scores_[model.best_iter_ - 1] == max(
        model.validation_scores_
    )


@pytest.mark.parametrize("form", ["dense", "csr", "val csr", "val dense"])
def test_every_form_of_the_set_gives_the_same(form):
    forms = {
        "dense": (X, X),
        "csr": (csr_matrix(X), csr_matrix(X)),
        "val csr": (X, csr_matrix(X)),
        "val dense": (csr_matrix(X), X),
    }
    A, B = forms[form]
    model, plain = classifier(), fit(classifier())
    model.fit(A[TRAIN], LABELS[TRAIN], X_val=B[VAL], y_val=LABELS[VAL])
    assert model.validation_loss_curve_ == plain.validation_loss_curve_
    assert model.validation_scores_ == plain.validation_scores_


@pytest.mark.parametrize("batch_size", [1, 7, 200])
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_bits_depend_on_no_thread_and_rows_on_no_batch(batch_size, n_jobs):
    plain = fit(classifier(batch_size=batch_size))
    model = fit(classifier(batch_size=batch_size, n_jobs=n_jobs))
    assert model.validation_loss_curve_ == plain.validation_loss_curve_
    assert model.validation_scores_ == plain.validation_scores_


# ---- what it changes


@every_solver
def test_a_set_that_only_is_recorded_changes_no_bit(solver):
    model = fit(classifier(solver=solver, tol=1e-2, max_iter=100))
    plain = classifier(solver=solver, tol=1e-2, max_iter=100)
    plain.fit(X[TRAIN], LABELS[TRAIN])
    np.testing.assert_array_equal(model._theta, plain._theta)
    assert model.loss_curve_ == plain.loss_curve_
    assert model.best_loss_ == plain.best_loss_
    assert plain.validation_scores_ is plain.validation_loss_curve_ is None
    assert plain.best_iter_ is plain.best_validation_score_ is None


@every_solver
def test_the_weights_of_the_best_score_stay(solver):
    rate = {"learning_rate_init": 0.05, "max_iter": 40, "n_iter_no_change": 5}
    model = fit(classifier(solver=solver, early_stopping=True, **rate))
    best = max(model.validation_scores_)
    assert best == model.best_validation_score_ == model.score(X[VAL], LABELS[VAL])
    assert model.best_iter_ == model.validation_scores_.index(best) + 1
    assert model.best_loss_ is None


def test_a_set_of_ones_own_is_what_the_split_would_be():
    """The same rows, held out by the split and given: the same run."""
    split = classifier(early_stopping=True, shuffle=False).fit(X, LABELS)
    from cbp._split import split as rows_of

    rng = np.random.RandomState(0)
    for W in split.coefs_:  # draws come in the order: weights, split
        rng.uniform(size=W.size + W.shape[1])
    rows, held_out = rows_of(400, LABELS.astype(np.int32), 0.1, rng)
    given = classifier(early_stopping=True, shuffle=False)
    given.fit(X[rows], LABELS[rows], X_val=X[held_out], y_val=LABELS[held_out])
    np.testing.assert_array_equal(given._theta, split._theta)
    assert given.validation_scores_ == split.validation_scores_


def test_warm_start_goes_on_from_the_best_so_far():
    model = classifier(early_stopping=True, warm_start=True, max_iter=3)
    fit(model)
    reached = model.best_validation_score_
    model.set_params(learning_rate_init=1e-12)
    fit(model)
    assert model.best_validation_score_ >= reached
    assert len(model.validation_loss_curve_) == len(model.validation_scores_) == 6


def test_partial_fit_leaves_the_record_of_an_earlier_fit():
    model = fit(classifier())
    curve = list(model.validation_loss_curve_)
    model.partial_fit(X, LABELS)
    assert model.validation_loss_curve_ == curve
    assert len(model.validation_scores_) == len(curve)


# ---- scoring


def own(estimator, data, y, sample_weight=None):
    return -log_loss(y, estimator.predict_proba(data), sample_weight=sample_weight)


@every_solver
@both
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_the_loss_and_a_scorer_that_computes_it_are_the_same_run(
    solver, early_stopping, weight
):
    # Few epochs: log_loss clips probabilities, of which L-BFGS soon has tiny ones.
    options = {"solver": solver, "early_stopping": early_stopping, "max_iter": 12}
    models = [
        fit(classifier(scoring=scoring, **options), weight=weight)
        for scoring in ("loss", own, "neg_log_loss")
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model._theta, models[0]._theta)
        close(model.validation_scores_, models[0].validation_scores_)
        assert model.best_iter_ == models[0].best_iter_
    losses = models[0].validation_loss_curve_
    assert models[0].validation_scores_ == [-loss for loss in losses]


@every_solver
@both
def test_a_scorer_by_name_is_called_after_every_epoch(solver, early_stopping):
    options = {"solver": solver, "early_stopping": early_stopping, "max_iter": 12}
    model = fit(classifier(scoring="balanced_accuracy", **options))
    scorer = get_scorer("balanced_accuracy")
    last = -1 if not early_stopping else model.best_iter_ - 1
    close(model.validation_scores_[last], scorer(model, X[VAL], LABELS[VAL]))
    assert len(model.validation_scores_) == model.n_iter_


def test_a_scorer_sees_labels_as_they_were_given_and_the_split_of_X():
    names = np.array(["zero", "one", "two", "three"])[LABELS]
    seen = []

    def scorer(estimator, data, y):
        seen.append((data.shape, set(y), estimator.predict(data[:3]).dtype))
        return len(seen)

    model = classifier(early_stopping=True, scoring=scorer, max_iter=3)
    model.fit(X, names)
    assert seen == [((40, 64), set(names), names.dtype)] * 3
    assert model.validation_scores_ == [1, 2, 3] and model.best_iter_ == 3


def test_a_frame_is_scored_without_a_warning():
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(64)])
    model = classifier(scoring=own)
    model.fit(
        frame[:250], LABELS[TRAIN], X_val=frame[250:], y_val=pd.Series(LABELS[VAL])
    )
    assert list(model.feature_names_in_) == list(frame.columns)
    plain = fit(classifier(scoring=own))
    assert model.validation_scores_ == plain.validation_scores_


def test_a_score_that_is_nan_is_no_progress():
    model = classifier(
        early_stopping=True, scoring=lambda *_: np.nan, n_iter_no_change=2, max_iter=50
    )
    fit(model)
    assert model.n_iter_ == 3 and model.best_iter_ == 0
    assert np.isnan(model.validation_scores_).all()


def test_verbose_tells_the_score(capsys):
    model = fit(classifier(scoring="loss", verbose=True, max_iter=2))
    assert f"Validation score: {model.validation_scores_[-1]:f}" in (
        capsys.readouterr().out
    )


# ---- what is refused


@pytest.mark.parametrize(
    "change, message",
    [
        ({"y_val": None}, "y_val is missing"),
        ({"X_val": None}, "X_val is missing"),
        ({"X_val": X[VAL, :5]}, "validation set.*5 features"),
        ({"X_val": X[VAL] * np.nan}, "validation set.*NaN"),
        ({"X_val": X[:0], "y_val": LABELS[:0]}, "validation set.*0 sample"),
        ({"y_val": LABELS[:3]}, "validation set.*inconsistent"),
        ({"y_val": LABELS[VAL] + 2}, "validation set"),
        ({"y_val": np.eye(4)[LABELS[VAL]]}, "validation set"),
        ({"sample_weight_val": -np.ones(150)}, "validation set.*negative"),
        ({"sample_weight_val": np.zeros(150)}, "validation set.*zero"),
        ({"sample_weight_val": np.ones(3)}, "validation set.*shape"),
    ],
)
def test_a_set_that_does_not_fit_is_named_and_changes_nothing(change, message):
    model = fit(classifier())
    before = model._theta.copy()
    given = {"X_val": X[VAL], "y_val": LABELS[VAL], **change}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        model.fit(X[TRAIN], LABELS[TRAIN], **given)
    np.testing.assert_array_equal(model._theta, before)


def test_weights_alone_are_no_validation_set():
    with pytest.raises(ValueError, match="needs X_val and y_val"):
        classifier().fit(X, LABELS, sample_weight_val=np.ones(3))


def test_a_regressors_set_has_as_many_columns():
    with pytest.raises(ValueError, match="y_val has 1 column"):
        regressor().fit(X, NUMBERS, X_val=X, y_val=NUMBERS[:, 0])


@both
def test_the_name_of_no_scorer_is_refused_with_those_that_there_are(early_stopping):
    model = classifier(scoring="acuracy", early_stopping=early_stopping)
    with pytest.raises(ValueError, match="'loss'.*'accuracy'.*'acuracy'"):
        model.fit(X, LABELS)
    with pytest.raises(ValueError, match="scoring"):
        classifier(scoring=3).fit(X, LABELS)


COLUMNS = np.column_stack([LABELS, LABELS > 1, LABELS % 3])


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize(
    "model, y, names, what",
    [
        (classifier(), COLUMNS, ("accuracy", "r2"), "several columns of labels"),
        (
            regressor(loss="quantile", quantile=[0.1, 0.9]),
            NUMBERS[:, 0],
            ("r2", "neg_mean_absolute_error"),
            "several quantiles",
        ),
    ],
)
def test_a_scorer_by_name_is_refused_for_answers_that_it_cannot_score(
    model, y, names, what, splits
):
    def train():
        return model.fit(X, y) if splits else fit(model, y)

    model = clone(model).set_params(early_stopping=splits)
    for name in names:
        message = f"scoring='{name}'.*{what}.*None, 'loss' or a callable"
        with pytest.raises(ValueError, match=message):
            model.set_params(scoring=name)
            train()
        assert not model.__sklearn_is_fitted__()
    for scoring in (None, "loss", type(model).score):
        model.set_params(scoring=scoring)
        assert np.isfinite(train().validation_scores_).all()


def test_a_scorer_by_name_scores_a_sequence_of_one_quantile():
    model = regressor(loss="quantile", quantile=[0.4], scoring="r2")
    assert np.isfinite(fit(model, NUMBERS[:, 0]).validation_scores_).all()


@every_solver
def test_what_a_scorer_raises_comes_through_and_changes_nothing(solver):
    model = fit(classifier(solver=solver))
    before = model._theta.copy()

    def scorer(*_):
        raise KeyError("mine")

    for scoring, error in ((scorer, KeyError), (lambda *_: "high", ValueError)):
        model.set_params(scoring=scoring)
        with pytest.raises(error, match="mine|must return a number, got 'high'"):
            fit(model)
        np.testing.assert_array_equal(model._theta, before)


# ---- in the company of others


def test_a_pipeline_transforms_the_set_by_metadata_routing():
    set_config(enable_metadata_routing=True)
    try:
        model = make_pipeline(
            StandardScaler(),
            classifier(early_stopping=True).set_fit_request(X_val=True, y_val=True),
            transform_input=["X_val"],
        )
        model.fit(X[TRAIN], LABELS[TRAIN], X_val=X[VAL], y_val=LABELS[VAL])
    finally:
        set_config(enable_metadata_routing=False)
    assert model[-1].best_validation_score_ == model.score(X[VAL], LABELS[VAL])


def test_searches_and_cross_validation_pass_it_on():
    given = {"X_val": X[VAL], "y_val": LABELS[VAL]}
    search = GridSearchCV(
        classifier(scoring="loss", max_iter=3), {"alpha": [1e-4, 1]}, cv=2
    )
    search.fit(X[TRAIN], LABELS[TRAIN], **given)
    assert len(search.best_estimator_.validation_loss_curve_) == 3
    cross_validate(
        classifier(max_iter=2), X[TRAIN], LABELS[TRAIN], cv=2, params=given,
        error_score="raise",
    )  # fmt: skip
    model = TransformedTargetRegressor(regressor(max_iter=2), transformer=None)
    model.fit(X[TRAIN], NUMBERS[TRAIN], X_val=X[VAL], y_val=NUMBERS[VAL])
    assert len(model.regressor_.validation_loss_curve_) == 2


def test_what_was_recorded_is_pickled():
    model = fit(classifier(scoring="loss"))
    twin = pickle.loads(pickle.dumps(model))
    for name in ("validation_loss_curve_", "validation_scores_", "best_iter_"):
        assert getattr(twin, name) == getattr(model, name)


@every_solver
def test_a_diagnosis_goes_by_what_ended_training(solver):
    """Scores that are only recorded change neither finding nor advice."""
    options = {"solver": solver, "tol": 0.5, "n_iter_no_change": 2, "max_iter": 60}
    model = fit(classifier(**options))
    plain = classifier(**options).fit(X[TRAIN], LABELS[TRAIN])
    said, plainly = model.diagnose(), plain.diagnose()
    assert said.findings[:1] == plainly.findings[:1]
    # The verdict tells what the held-out rows say, too.
    assert said.verdict.split(". ")[0] == plainly.verdict.split(". ")[0]
