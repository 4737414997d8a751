"""Mistakes that people make: each is named, its advice is followed, and then the score
of rows that the fit never saw rises.

The mistakes are those of benchmarks/mistakes.py, on small sets. Planted illnesses of
the training itself are judged in test_diagnosis.py.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pytest
from fits import fitted, is_call, take
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    make_classification,
    make_friedman1,
)
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor, diagnose
from cbp.diagnosis import _settings_of


class Rows(NamedTuple):
    """Rows to train on, and others."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def halves(X, y, n):
    return Rows(X[:n], y[:n], X[n:], y[n:])


def numbers(n=300, noise=0.5, seed=0):
    X, y = make_friedman1(n + 300, noise=noise, random_state=seed)
    return halves(StandardScaler().fit_transform(X), (y - y.mean()) / y.std(), n)


def classes(n=400, k=4, seed=0):
    X, y = make_classification(
        n + 300, 12, n_informative=8, n_classes=k, class_sep=1.5, random_state=seed
    )
    return halves(StandardScaler().fit_transform(X), y, n)


def digits(n=900):
    X, y = load_digits(return_X_y=True)
    return halves(X / 16, y, n)


def regressor(**more):
    settings = {"hidden_layer_sizes": 40, "max_iter": 150, "random_state": 0}
    return BPRegressor(**{**settings, "learning_rate_init": 0.005, **more})


def classifier(**more):
    settings = {"hidden_layer_sizes": 40, "max_iter": 150, "random_state": 0}
    return BPClassifier(**{**settings, **more})


# ---- one function for each mistake: the model, the rows, and how far the score rises


def targets_of_another_scale():
    rows = numbers()
    return regressor(), rows._replace(
        y=50 * rows.y + 900, y_test=50 * rows.y_test + 900
    )


def a_rate_too_low():
    return classifier(learning_rate_init=1e-4, max_iter=60), digits()


def a_rate_that_runs_out():
    model = classifier(solver="sgd", learning_rate_init=0.05, batch_size=20)
    return model.set_params(learning_rate="invscaling", power_t=0.7), classes()


def a_penalty_of_ten():
    return classifier(alpha=60.0), classes()


def decay_of_weights():
    return classifier(weight_decay=20.0), classes()


def one_unit():
    return classifier(hidden_layer_sizes=(40, 1), max_iter=300), digits()


def identity_only():
    return regressor(activation="identity", max_iter=300), numbers(noise=0.1)


def impatience():
    rows = classes()
    model = classifier(solver="sgd", learning_rate_init=0.01, n_iter_no_change=1)
    return model.set_params(tol=0.01, max_iter=1000), rows


def one_answer():
    X, y = make_classification(
        2500, 10, n_informative=5, weights=[0.96], flip_y=0, class_sep=0.4,
        n_clusters_per_class=1, random_state=2,
    )  # fmt: skip
    rows = halves(StandardScaler().fit_transform(X), y, 1500)
    return classifier(hidden_layer_sizes=20, alpha=0.1, max_iter=60), rows


def batches_of_all_rows():
    return classifier(batch_size=900, max_iter=20), digits()


def three_epochs():
    return classifier(max_iter=15), classes()


def sorted_rows():
    rows = digits()
    order = np.argsort(rows.y, kind="stable")
    model = classifier(solver="sgd", learning_rate_init=0.05, batch_size=32)
    model.set_params(shuffle=False, max_iter=15)
    return model, rows._replace(X=rows.X[order], y=rows.y[order])


def three_far_rows():
    rows = numbers()
    X = rows.X.copy()
    X[[3, 70, 200], [0, 3, 1]] = [5e3, -3e3, 4e3]
    scaler = StandardScaler().fit(X)
    return regressor(), rows._replace(
        X=scaler.transform(X), X_test=scaler.transform(rows.X_test)
    )


def three_far_targets():
    rows = numbers()
    y = rows.y.copy()
    y[[3, 70, 200]] = [60, 80, -70]
    return regressor(max_iter=300), rows._replace(y=y)


def missing_as_a_number():
    rows = numbers()
    X, X_test = rows.X.copy(), rows.X_test.copy()
    X[::9, 3] = -999
    X_test[::9, 3] = -999
    return regressor(), rows._replace(X=X, X_test=X_test)


def a_long_tail():
    rows = numbers()
    y, y_test = np.exp(2 * rows.y), np.exp(2 * rows.y_test)
    return regressor(), rows._replace(y=y / y.std(), y_test=y_test / y.std())


def rows_numbered():
    rows = classes()
    number = np.random.RandomState(0).permutation(len(rows.X)) + 1000.0
    later = np.arange(len(rows.X_test)) + 5000.0
    return classifier(), rows._replace(
        X=np.column_stack([rows.X, number]),
        X_test=np.column_stack([rows.X_test, later]),
    )


def fifty_constant_columns():
    rows = numbers()
    ones = 30 * np.ones((1, 50))
    X, X_test = (
        np.column_stack([X, np.repeat(ones, len(X), 0)]) for X in (rows.X, rows.X_test)
    )
    return regressor(), rows._replace(X=X, X_test=X_test)


def learned_by_heart():
    rows = numbers(n=60)
    model = regressor(hidden_layer_sizes=(100, 100), solver="lbfgs", alpha=0)
    return model.set_params(max_iter=200), rows


def smooth_labels():
    return classifier(label_smoothing=0.95), classes()


def dropped_units():
    return classifier(hidden_layer_sizes=20, dropout=0.9), classes()


def less_than_a_line():
    X = np.random.RandomState(0).randn(1300, 20)
    y = X @ np.linspace(-1, 1, 20)
    rows = halves(X, (y - y.mean()) / y.std(), 1000)
    # So long a fit may judge a linear model at its end.
    return regressor(hidden_layer_sizes=300, learning_rate_init=2e-5, max_iter=80), rows


def worse_than_a_line():
    rng = np.random.RandomState(0)
    X = rng.randn(900, 30)
    y = X[:, 0] + X[:, 1] + rng.randn(900)
    rows = halves(X, (y - y.mean()) / y.std(), 150)
    return regressor(hidden_layer_sizes=100, max_iter=400), rows


MISTAKES = {
    "unscaled-target": [targets_of_another_scale],
    "learning-rate-too-low": [a_rate_too_low, a_rate_that_runs_out],
    "penalty-too-large": [a_penalty_of_ten, decay_of_weights],
    "network-too-small": [one_unit, identity_only],
    "plateau": [impatience],
    "majority-only": [one_answer],
    "too-few-steps": [batches_of_all_rows, three_epochs],
    "row-order": [sorted_rows],
    "outliers": [three_far_rows],
    "outliers-in-target": [three_far_targets],
    "sentinel-values": [missing_as_a_number],
    "skewed-target": [a_long_tail],
    "id-column": [rows_numbered],
    "constant-columns": [fifty_constant_columns],
    "overfitting": [learned_by_heart],
    "label-smoothing": [smooth_labels],
    "starved-layer": [dropped_units],
    "underfitting": [less_than_a_line],
    "worse-than-linear": [worse_than_a_line],
}
CASES = [(code, plant) for code in MISTAKES for plant in MISTAKES[code]]


def score(model, rows, code):
    if code == "majority-only":
        return balanced_accuracy_score(rows.y_test, model.predict(rows.X_test))
    found = model.predict(rows.X_test)
    if code == "skewed-target":  # by the squares a single row decides
        return 1 - np.abs(np.log1p(np.abs(found)) - np.log1p(rows.y_test)).mean()
    return model.score(rows.X_test, rows.y_test)


def findings(model, rows=None):
    given = () if rows is None else (rows.X_test, rows.y_test)
    return {finding.code: finding for finding in diagnose(model, *given).findings}


def followed(advice, model, rows):
    better = take(advice, clone(model), X=rows.X, y=rows.y)
    fits = is_call(advice) and ".fit(" in advice
    return better if fits else fitted(better, rows.X, rows.y)


@pytest.mark.parametrize("code, plant", CASES, ids=[p.__name__ for _, p in CASES])
def test_a_mistake_is_named_and_its_advice_helps_on_other_rows(code, plant):
    model, rows = plant()
    fitted(model, rows.X, rows.y)
    needs_rows = code in ("overfitting", "worse-than-linear")
    found = findings(model, rows if needs_rows else None)
    assert code in found, list(found)
    better = followed(found[code].advice, model, rows)
    before, after = score(model, rows, code), score(better, rows, code)
    assert after > before + 0.01, (found[code].advice, before, after)


# ---- mistakes that have no better score: what they cost shows later


def test_shuffled_targets_are_named_and_not_learned_by_heart():
    rows = numbers()
    rows = rows._replace(y=np.random.RandomState(0).permutation(rows.y))
    model = fitted(regressor(max_iter=300), rows.X, rows.y)
    finding = findings(model)["no-signal"]
    assert "shuffled" in finding.message
    better = followed(finding.advice, model, rows)
    assert better.score(rows.X_test, rows.y_test) > model.score(
        rows.X_test, rows.y_test
    )


def test_targets_that_a_column_tells_are_named_and_the_column_is_dropped():
    rows = numbers()
    leak = (rows.y * 3 + 1)[:, np.newaxis]
    X = np.hstack([rows.X, leak])
    model = fitted(regressor(), X, rows.y)
    finding = findings(model)["target-in-features"]
    assert (finding.evidence["column"], finding.severity) == (10, "illness")
    # New rows do not know it: there the mean stands for it.
    unknown = np.hstack([rows.X_test, np.full((len(rows.X_test), 1), leak.mean())])
    better = fitted(take(finding.advice, clone(model)), X, rows.y)
    assert better.score(unknown, rows.y_test) > model.score(unknown, rows.y_test) + 0.2


def test_copies_of_rows_are_named_and_one_of_each_is_kept():
    rows = classes(300)
    twice = rows._replace(X=np.tile(rows.X, (2, 1)), y=np.tile(rows.y, 2))
    model = fitted(classifier(), twice.X, twice.y)
    finding = findings(model)["duplicate-rows"]
    assert finding.evidence["share"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once = take(finding.advice, clone(model), X=twice.X, y=twice.y)
    assert once._fit_summary.n_rows == 300
    assert "duplicate-rows" not in findings(once)


def test_counts_are_noted_and_a_loss_for_counts_predicts_none_below_zero():
    rng = np.random.RandomState(0)
    X = rng.randn(900, 4)
    y = rng.poisson(np.exp(0.5 * X[:, 0] + 0.5 * X[:, 1] + 0.5)).astype(float)
    rows = halves(X, y, 600)
    model = fitted(regressor(), rows.X, rows.y)
    finding = findings(model)["counts-as-targets"]
    assert (finding.severity, finding.advice) == ("remark", "loss='poisson'")
    better = followed(finding.advice, model, rows)

    def deviance(model):
        found = np.maximum(model.predict(rows.X_test), 1e-3)
        y = rows.y_test
        return np.mean(
            np.where(y > 0, y * np.log(np.maximum(y, 1) / found), 0) - y + found
        )

    # Somewhat farther out a square error knows of no zero.
    assert (model.predict(2 * rows.X_test) < 0).any()
    assert (better.predict(2 * rows.X_test) > 0).all()
    assert deviance(better) < deviance(model) + 0.02


def test_class_numbers_as_targets_are_named_and_a_classifier_is_right_more_often():
    X, y = load_digits(return_X_y=True)
    rows = halves(X / 16, y.astype(float), 900)
    model = fitted(regressor(max_iter=20), rows.X, rows.y)
    finding = findings(model)["classes-as-targets"]
    better = fitted(take(finding.advice, clone(model)), rows.X, rows.y.astype(int))
    right = np.mean(np.rint(model.predict(rows.X_test)) == rows.y_test)
    assert better.score(rows.X_test, rows.y_test) > right + 0.2


def test_rows_that_were_scaled_otherwise_are_named_and_not_the_model():
    X, y = load_breast_cancer(return_X_y=True)
    scaler = StandardScaler().fit(X[:400])
    model = fitted(classifier(max_iter=100), scaler.transform(X[:400]), y[:400])
    right = diagnose(model, scaler.transform(X[400:]), y[400:])
    assert "held-out-scale" not in str(right)
    forgotten = diagnose(model, X[400:], y[400:])
    refitted = diagnose(model, StandardScaler().fit_transform(X[400:]), y[400:])
    for diagnosis in forgotten, refitted:
        assert diagnosis.findings[0].code == "held-out-scale"
        others = {finding.code for finding in diagnosis.findings[1:]}
        assert not others & {"overfitting", "worse-than-linear", "no-signal"}
    # As a part of the model the scaler cannot be forgotten.
    better = take(forgotten.findings[0].advice, clone(model))
    fitted(better, X[:400], y[:400])
    assert better.score(X[400:], y[400:]) > model.score(X[400:], y[400:]) + 0.1
    assert "held-out-scale" not in str(diagnose(better, X[400:], y[400:]))


# ---- two advices


def settings(finding):
    return _settings_of(finding.advice) or {}


def test_no_advice_of_a_report_contradicts_another():
    for _, plant in CASES:
        model, rows = plant()
        diagnosis = diagnose(fitted(model, rows.X, rows.y), rows.X_test, rows.y_test)
        said = {}
        for finding in diagnosis.findings:
            for name, value in settings(finding).items():
                assert said.setdefault(name, value) == value, str(diagnosis)


def test_more_training_is_no_cure_where_the_rate_is_too_high():
    X = np.random.RandomState(0).randn(500, 4)
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    model = BPClassifier(
        solver="adam", learning_rate_init=0.1, max_iter=30, random_state=0
    )
    found = findings(fitted(model, X, y))
    assert found["not-converged"].advice == found["learning-rate-too-high"].advice


def test_the_first_finding_is_the_mistake_in_nine_of_ten_cases():
    first = []
    for code, plant in CASES:
        model, rows = plant()
        found = list(findings(fitted(model, rows.X, rows.y), rows))
        first.append(code in found[:2])
    assert np.mean(first) >= 0.8


# ---- verdicts of typical fits


def verdict(model, *rows):
    return diagnose(model, *rows).verdict


def percent(share):
    return f"{share:.0%}".replace("%", " %")


def test_a_verdict_has_two_statements_and_asks_for_rows():
    rows = classes()
    model = fitted(classifier(learning_rate_init=0.01), rows.X, rows.y)
    text = verdict(model)
    assert text.startswith("Training went well. It is right on ")
    assert "always answering class" in text
    assert text.endswith("pass some: diagnose(X_val, y_val).")
    text = verdict(model, rows.X_test, rows.y_test)
    right = percent(model.score(rows.X_test, rows.y_test))
    assert f"and {right} of the held-out rows" in text
    assert "pass some" not in text


def test_a_verdict_of_numbers_speaks_of_variance():
    rows = numbers()
    model = fitted(regressor(max_iter=300), rows.X, rows.y)
    right = percent(model.score(rows.X_test, rows.y_test))
    text = verdict(model, rows.X_test, rows.y_test)
    assert "of the variance of the training targets" in text
    assert f", {right} on held-out rows." in text
    # Worse than the mean: R2 is said, and that the targets lie elsewhere.
    far = verdict(model, rows.X_test, rows.y_test + 100)
    assert "0 % (R\u00b2 = -" in far and "are not scaled as the training" in far


def test_a_verdict_of_quantiles_speaks_of_what_there_is_to_explain():
    rows = numbers()
    model = regressor(loss="quantile", quantile=[0.1, 0.9], max_iter=200)
    text = verdict(fitted(model, rows.X, rows.y), rows.X_test, rows.y_test)
    assert "of what there is to explain in the training targets, " in text


def test_a_verdict_of_many_labels_speaks_of_labels():
    rows = classes()
    model = fitted(classifier(), rows.X, np.eye(4, dtype=int)[rows.y])
    text = verdict(model, rows.X_test, np.eye(4, dtype=int)[rows.y_test])
    assert "of a training row's labels and" in text and "held-out row's" in text


def test_a_verdict_of_calls_of_partial_fit_claims_no_score():
    rows = classes()
    model = classifier(learning_rate_init=0.01)
    for _ in range(60):
        model.partial_fit(rows.X, rows.y, classes=range(4))
    text = verdict(model)
    assert "of what there is to explain." in text and "pass some" not in text


@pytest.mark.parametrize("given", [False, True])
def test_a_verdict_knows_the_rows_that_early_stopping_held_out(given):
    rows = classes()
    model = classifier(early_stopping=True, max_iter=300, n_iter_no_change=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if given:
            model.fit(rows.X, rows.y, X_val=rows.X_test, y_val=rows.y_test)
        else:
            model.fit(rows.X, rows.y)
    text = verdict(model)
    assert "of the held-out rows" in text and "pass some" not in text
    if given:
        right = percent(model.score(rows.X_test, rows.y_test))
        assert f"{right} of the held-out rows" in text


def test_a_verdict_of_a_bad_model_never_says_that_it_went_well_and_no_more():
    for code, plant in CASES:
        model, rows = plant()
        model = fitted(model, rows.X, rows.y)
        text = verdict(model, rows.X_test, rows.y_test)
        assert not text.startswith("Training went well. "), (code, text)
        assert "healthy" not in text.lower()


# ---- models that hold a network, and rows that are given


def test_advice_for_a_pipeline_or_a_search_can_be_pasted_and_helps():
    rows = numbers()
    low, high = 50 * rows.y + 900, 50 * rows.y_test + 900
    network = regressor(hidden_layer_sizes=20)
    grid = {"bpregressor__alpha": [1e-4, 1e-3]}
    pipeline = make_pipeline(StandardScaler(), network)
    for model in (pipeline, GridSearchCV(pipeline, grid, cv=2)):
        fitted(model, rows.X, low)
        diagnosis = diagnose(model, rows.X_test, high)
        finding = diagnosis.findings[0]
        assert finding.code == "unscaled-target"
        names = {}
        for line in finding.imports:
            exec(line, names)
        better = eval(finding.advice, names | {"model": clone(model)})
        fitted(better, rows.X, low)
        assert better.score(rows.X_test, high) > model.score(rows.X_test, high) + 0.3
        assert "unscaled-target" not in findings(better)


def test_parameters_in_advice_have_the_prefix_of_the_model():
    rows = digits()
    network = classifier(learning_rate_init=1e-4, max_iter=60)
    model = fitted(make_pipeline(StandardScaler(), network), rows.X, rows.y)
    model.set_params(bpclassifier__learning_rate_init=1e-4)
    advice = diagnose(model).findings[0].advice
    assert advice.startswith("bpclassifier__")
    eval(f"model.set_params({advice})", {"model": model})


def test_rows_may_be_frames_and_go_the_way_of_the_pipeline():
    pd = pytest.importorskip("pandas")
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    y = pd.Series(np.where(y, "benign", "malignant"), name="kind")
    model = make_pipeline(StandardScaler(), classifier(max_iter=60))
    fitted(model, X[:400], y[:400])
    text = verdict(model, X[400:], y[400:])
    right = percent(model.score(X[400:], y[400:]))
    assert f"{right} of the held-out rows; always answering class 'benign'" in text


def test_rows_that_do_not_fit_are_refused_with_the_reason():
    rows = classes()
    model = fitted(classifier(max_iter=20), rows.X, rows.y)
    X, y = rows.X_test, rows.y_test
    for given in ((X,), (None, y), (None, None, np.ones(len(X)))):
        with pytest.raises(ValueError, match="X_val and y_val must be given both"):
            diagnose(model, *given)
    with pytest.raises(ValueError, match="11 features, but .* 12 features"):
        diagnose(model, X[:, :11], y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        diagnose(model, X, y[:-1])
    with pytest.raises(ValueError, match="NaN"):
        diagnose(model, np.where(X > 2, np.nan, X), y)
    with pytest.raises(ValueError, match="classes|labels"):
        diagnose(model, X, y + 4)
    with pytest.raises(ValueError, match="sample_weight"):
        diagnose(model, X, y, np.ones(3))
    assert diagnose(model, X, y, np.arange(len(X))).verdict


def test_rows_of_unknown_classes_are_wrong_whatever_the_answer_is():
    rows = classes()
    model = fitted(classifier(), rows.X, rows.y)
    unknown = rows.y_test.copy()
    unknown[::3] = 9
    right = percent(np.mean(model.predict(rows.X_test) == unknown))
    diagnosis = diagnose(model, rows.X_test, unknown)
    assert f"and {right} of the held-out rows" in diagnosis.verdict
    # Nor does a linear model know them.
    assert "worse-than-linear" not in str(diagnosis)


def test_weights_of_given_rows_count():
    rows = classes()
    model = fitted(classifier(max_iter=20), rows.X, rows.y)
    right = model.predict(rows.X_test) == rows.y_test
    text = verdict(model, rows.X_test, rows.y_test, right.astype(float))
    assert "and 100 % of the held-out rows" in text


def test_a_target_transformer_is_gone_through():
    rows = numbers()
    model = TransformedTargetRegressor(regressor(), transformer=StandardScaler())
    fitted(model, rows.X, 50 * rows.y + 900)
    text = verdict(model, rows.X_test, 50 * rows.y_test + 900)
    right = percent(model.score(rows.X_test, 50 * rows.y_test + 900))
    assert f", {right} on held-out rows." in text


def test_given_rows_change_nothing_in_a_model_or_in_them():
    rows = classes()
    model = fitted(classifier(max_iter=20), rows.X, rows.y)
    X, y = rows.X_test.copy(), rows.y_test.copy()
    first = str(diagnose(model, X, y))
    assert str(diagnose(model, X, y)) == first
    assert str(model.diagnose(X, y)) == first
    np.testing.assert_array_equal(X, rows.X_test)
    np.testing.assert_array_equal(y, rows.y_test)
