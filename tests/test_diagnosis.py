"""The diagnosis, judged: every planted illness is named, no healthy fit is called ill,
and the first advice helps; after that its form, and its rules one by one.

`python tests/test_diagnosis.py tuning judging` prints every case of both sets of fits
(planted.py), with a number that many odd ones.
"""

import copy
import pickle
import re
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import replace

import numpy as np
import pytest
from fits import RECORDS, fitted, is_call, take, with_records
from planted import (
    ALSO_HEALTHY,
    JUDGING,
    TUNING,
    data_of,
    fit,
    fit_case,
    healthy,
    healthy_in_other_ways,
    planted,
    spoil,
)
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import (
    load_diabetes,
    load_digits,
    make_classification,
    make_friedman1,
)
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

import cbp
from cbp import BPClassifier, BPRegressor
from cbp._advice import against_overfitting
from cbp._evidence import Fit
from cbp.diagnosis import Diagnosis, Finding, diagnose
from cbp.estimators import DivergenceError

# ---- following the advice


def follow(advice, model):
    """A new model, made as a reader of the advice would make it."""
    return take(advice, clone(model))


def quality(model, X, y):
    """Score on the training data, and cost, 1 being that of a constant answer."""
    network = model[-1] if hasattr(model, "steps") else model
    network = getattr(network, "regressor_", network)
    cost = Fit(network).reached
    try:
        return model.score(X, y), cost
    except Exception:  # not fitted, for it diverged; or predictions that overflow
        return -np.inf, cost


def first_advice_helps(case):
    """Whether it raises the score by 0.01 or lowers the cost by a tenth."""
    X, y = data_of(case)
    model = fit_case(case)
    findings = diagnose(model).findings
    if not findings:
        return False
    better = follow(findings[0].advice, model)
    if better.get_params().get("warm_start"):
        spoil(better, case, X, y)  # the wrong weights are still there
    with np.errstate(all="ignore"):
        score, cost = quality(model, X, y)
        new_score, new_cost = quality(fit(better, X, y), X, y)
    return bool(new_score > score + 0.01 or new_cost < 0.9 * cost)


def codes_of(model):
    return [finding.code for finding in diagnose(model).findings]


# ---- the benches


@pytest.mark.parametrize("case", list(planted(JUDGING)), ids=str)
def test_every_planted_illness_is_named(case):
    model = fit_case(case)
    assert case.code in codes_of(model)
    assert not diagnose(model).healthy


SOUND = [*healthy(JUDGING), *healthy_in_other_ways(JUDGING), *healthy(ALSO_HEALTHY)]


@pytest.mark.parametrize("case", SOUND, ids=str)
def test_no_healthy_fit_is_called_ill(case):
    model = fit_case(case)
    # Half of what diabetes shows of itself is noise.
    assert model.score(*data_of(case)) > (0.4 if case.data == "diabetes" else 0.7)
    assert diagnose(model).healthy, str(diagnose(model))


def test_the_first_advice_helps_in_four_of_five_cases():
    helped = [first_advice_helps(case) for case in planted(JUDGING)]
    assert len(helped) >= 40
    assert np.mean(helped) >= 0.8


def test_the_showcase_is_explained_and_cured():
    # scikit-learn's issue 31235: training stops at epoch 15, all probabilities 0.57.
    rng = np.random.RandomState(1)
    X = rng.random_sample((500, 2))
    y = (X[:, 0] + (2 * (X[:, 1] - 0.5)) ** 2 - 0.75 >= 0).astype(int)
    model = fit(BPClassifier((20, 20), "logistic", random_state=42), X, y)
    assert model.n_iter_ < 20
    assert np.ptp(model.predict_proba(X)[:, 1]) < 0.01
    finding = diagnose(model).findings[0]
    assert finding.code == "vanishing-gradient"
    assert finding.advice == "activation='relu'"
    assert finding.evidence["activation_share"] > 0.5
    assert codes_of(model)[1:] == ["stopped-by-tol", "constant-prediction"]
    better = fit(follow(finding.advice, model), X, y)
    assert better.score(X, y) > model.score(X, y) + 0.2
    # Now it learns, and what is left to say is that it needs longer.
    assert diagnose(better).healthy
    assert codes_of(better) == ["not-converged"]
    best = fit(follow(diagnose(better).findings[0].advice, better), X, y)
    assert best.score(X, y) > 0.98
    assert diagnose(best).findings == ()


# ---- its form


def test_a_diagnosis_opens_with_its_verdict(deep):
    diagnosis = diagnose(deep)
    text = str(diagnosis)
    assert " ".join(text.split("\n\n")[0].split()) == diagnosis.verdict
    assert max(map(len, text.splitlines())) <= 79
    for finding in diagnosis.findings:
        assert finding.code in text
        assert finding.advice in text


def test_a_diagnosis_in_a_notebook_is_escaped():
    finding = Finding("a<b", 2, "x < y & z", {}, "alpha=1", "remark")
    page = Diagnosis("1 < 2", (finding,))._repr_html_()
    assert "1 &lt; 2" in page and "x &lt; y &amp; z" in page and "a&lt;b" in page
    assert "<table>" not in Diagnosis("fine")._repr_html_()


def test_findings_as_data_frame(deep):
    diagnosis = diagnose(deep)
    frame = diagnosis.to_frame()
    assert frame.code.tolist() == [finding.code for finding in diagnosis.findings]
    assert frame.layer[0] == 1
    assert frame.layer.isna().any()  # findings of the network as a whole
    assert len(Diagnosis("fine").to_frame()) == 0


def test_remarks_leave_a_fit_healthy():
    remark = Finding("not-converged", None, "", {}, "max_iter=9", "remark")
    illness = Finding("dead-units", 1, "", {}, "activation='tanh'")
    assert Diagnosis("").healthy
    assert Diagnosis("", (remark,)).healthy
    assert not Diagnosis("", (illness, remark)).healthy


def test_diagnosing_changes_nothing(deep):
    before = pickle.dumps(deep)
    str(diagnose(deep))
    assert pickle.dumps(deep) == before


def test_the_estimator_diagnoses_itself(deep):
    assert deep.diagnose() == diagnose(deep)


# ---- rules, one by one


def test_evidence_of_a_vanishing_gradient_adds_up(deep):
    finding = diagnose(deep).findings[0]
    assert (finding.code, finding.layer) == ("vanishing-gradient", 1)
    evidence = finding.evidence
    assert np.isclose(
        evidence["by_activation"] * evidence["by_weights"],
        evidence["relative_error"][0],
    )
    assert np.isclose(evidence["per_layer"] ** 5, evidence["relative_error"][0])
    assert evidence["by_activation"] <= 0.25**5
    assert f"each layer passes on {evidence['per_layer']:.0%}".replace("%", " %") in (
        finding.message
    )
    assert "The slope of logistic lets" in finding.message


def test_a_gradient_that_weights_block_is_not_blamed_on_the_activation(deep):
    flow = deep.gradient_flow_
    delta, back = flow.delta.copy(), flow.back.copy()
    delta[:, :2] = back[:, :2] = 0  # nothing came through the weights of layer 3
    finding = diagnose(with_records(deep, delta=delta, back=back)).findings[0]
    assert finding.code == "vanishing-gradient"
    assert finding.evidence["activation_share"] == 0
    back[:, 1] = 1  # it came through them and ended at the activation of layer 2
    finding = diagnose(with_records(deep, delta=delta, back=back)).findings[0]
    assert finding.evidence["activation_share"] == 1


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan, 1e-45])
@pytest.mark.parametrize("name", RECORDS)
def test_records_of_zero_or_infinity_crash_nothing_and_say_no_nan(deep, name, value):
    array = getattr(deep.gradient_flow_, name)
    for layer in (0, 3, slice(None)):
        changed = array.copy()
        changed[:, layer] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            text = str(diagnose(with_records(deep, **{name: changed})))
        assert "nan" not in text.replace("NaN", "")


def test_not_converged_is_a_remark(moons):
    model = fitted(BPClassifier((20,), max_iter=100, random_state=0), *moons)
    (finding,) = diagnose(model).findings
    assert (finding.code, finding.severity) == ("not-converged", "remark")
    assert finding.advice == "max_iter=500"
    assert finding.evidence["fall"] > 0
    # No word of health: what it has come to, beside a constant answer.
    verdict = diagnose(model).verdict
    assert verdict.startswith(
        "Training was still making progress when max_iter=100 ended it after 100 "
        "epochs."
    )
    right, most = model.score(*moons), np.mean(moons[1] == 0)
    assert f"right on {right:.0%} of the training rows".replace("%", " %") in verdict
    assert f"would be right on {most:.0%}.".replace("%", " %") in verdict


def test_overfitting_is_a_remark():
    X, y = load_digits(return_X_y=True)
    y = np.random.RandomState(0).permutation(y)  # nothing to be learned, only by heart
    X = StandardScaler().fit_transform(X[:400])
    y = np.where(np.arange(400) < 200, y[:400], (X[:, 20] > 0).astype(int))
    model = BPClassifier(
        early_stopping=True,
        validation_fraction=0.5,
        n_iter_no_change=np.inf,
        learning_rate_init=0.01,
        max_iter=150,
        random_state=0,
    )
    fitted(model, X, y)
    findings = {finding.code: finding for finding in diagnose(model).findings}
    assert findings["overfitting"].severity == "remark"
    assert findings["overfitting"].advice.startswith("alpha=")
    evidence = findings["overfitting"].evidence
    assert evidence["end"] < evidence["best"] == max(model.validation_scores_)


def finding_of(model, code):
    """The finding of that name, None if there is none."""
    found = {finding.code: finding for finding in diagnose(model).findings}
    return found.get(code)


def test_a_validation_cost_that_rises_is_overfitting_and_cured_by_a_penalty():
    X, y = make_friedman1(460, noise=0.5, random_state=1)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    held_out = {"X_val": X[60:], "y_val": y[60:]}
    model = BPRegressor(
        hidden_layer_sizes=100, max_iter=400, learning_rate_init=0.01, random_state=1
    )
    model.set_params(tol=0, n_iter_no_change=np.inf)

    def fitted_anew(advice="", rows=slice(60), **more):
        new = clone(model).set_params(**more)
        return fit(take(advice, new) if advice else new, X[rows], y[rows], **held_out)

    plain = fitted_anew()
    finding = finding_of(plain, "overfitting")
    assert (finding.severity, finding.advice) == ("remark", "alpha=0.06")
    curve = plain.validation_loss_curve_
    assert finding.evidence["best_epoch"] == np.argmin(curve) + 1
    assert finding.evidence["end"] > finding.evidence["least"] + 0.05
    stopped = {"early_stopping": True, "n_iter_no_change": 10}
    for better in fitted_anew(finding.advice), fitted_anew(**stopped):
        # Its curve does not rise; what is left is a gap between the rows.
        finding = finding_of(better, "overfitting")
        assert "epoch" not in finding.message and finding.severity == "remark"
        score = better.score(X[60:], y[60:])
        assert finding.evidence["held_out"] == pytest.approx(score, abs=0.03)
        assert score > plain.score(X[60:], y[60:]) + 0.05
    # With a penalty, or with more rows, there is no overfitting.
    penalised = finding_of(fitted_anew(alpha=1.0), "overfitting")
    assert "epoch" not in penalised.message  # the curve falls, the gap remains
    assert finding_of(fitted_anew(rows=slice(60, None)), "overfitting") is None


def test_advice_against_overfitting_is_what_is_not_in_use_yet(moons):
    X, y = moons
    model = fitted(BPClassifier(30, max_iter=20, random_state=0), X, y)
    few, many = model, copy.deepcopy(model)
    many._fit_summary = replace(model._fit_summary, n_rows=3000)
    changes = [
        (few, {}, "alpha=0.2"),  # 0.001 for each row of a batch
        (few, {"alpha": 1.0}, "dropout=0.2"),
        (few, {"alpha": 1.0, "dropout": 0.2}, "alpha=5.0"),
        # Early stopping takes rows: there must be some to spare.
        (many, {"alpha": 1.0, "dropout": 0.2}, "early_stopping=True"),
        (many, {"alpha": 1.0, "dropout": 0.2, "early_stopping": True}, "alpha=5.0"),
        (few, {"alpha": 1.0, "solver": "lbfgs"}, "alpha=5.0"),
    ]
    for model, changed, advice in changes:
        now = copy.deepcopy(model).set_params(**changed)
        assert against_overfitting(Fit(now)) == advice


def rare_data(n=1500):
    """A class that makes up 4 % and lies in part among the other one."""
    X, y = make_classification(
        n,
        10,
        n_informative=5,
        weights=[0.96],
        flip_y=0.0,
        class_sep=0.4,
        n_clusters_per_class=1,
        random_state=2,
    )
    return StandardScaler().fit_transform(X), y


def test_one_answer_for_nearly_all_rows_is_a_problem_and_cured_by_weights():
    X, y = rare_data()
    y = np.where(y == 1, "rare", "usual")
    model = BPClassifier(20, alpha=0.1, max_iter=60, random_state=0)
    plain = fitted(clone(model), X, y)
    finding = finding_of(plain, "majority-only")
    assert plain.score(X, y) > 0.95
    assert (finding.severity, finding.advice) == ("illness", "class_weight='balanced'")
    assert "Class rare makes up 4 % of the data" in finding.message
    assert finding.evidence["constant"] == pytest.approx(
        np.mean(y == "usual"), abs=0.01
    )
    answers = np.mean(plain.predict(X) == "usual")
    assert finding.evidence["answers"] == pytest.approx(answers, abs=0.01)
    # Of one thing it is told once.
    assert finding_of(plain, "class-imbalance") is None
    assert "always answering class 'usual' would be right on 96 %" in str(
        diagnose(plain)
    ).replace("\n", " ")
    better = fitted(follow(finding.advice, model), X, y)
    recall, before = (
        np.mean(m.predict(X[y == "rare"]) == "rare") for m in (better, plain)
    )
    assert recall > before + 0.5
    # Weights of rows do the same as weights of classes.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weighted = clone(model).fit(X, y, compute_sample_weight("balanced", y))
    for model in better, weighted:
        assert finding_of(model, "majority-only") is None
        assert finding_of(model, "class-imbalance") is None


def test_a_rare_class_of_three_is_named_by_its_label():
    X, y = rare_data()
    y = np.where(y == 1, 7, np.where(X[:, 9] > 0, 30, 20))
    model = fitted(BPClassifier(20, alpha=0.1, max_iter=60, random_state=0), X, y)
    finding = finding_of(model, "class-imbalance")
    assert (finding.evidence["class"], finding.layer) == ("7", None)


def test_of_a_rare_class_that_is_predicted_nothing_is_said():
    X, y = rare_data()
    model = BPClassifier(50, learning_rate_init=0.02, max_iter=200, random_state=0)
    model = fitted(model, X, y)
    assert model._fit_summary.rare_class == 1
    assert model._fit_summary.recall > 0.5
    assert finding_of(model, "class-imbalance") is None


def test_of_labels_in_several_columns_no_class_is_called_rare():
    X, y = rare_data()
    for labels in (
        np.c_[y, 1 - y],
        np.where(np.c_[y, y], "a", "b"),
    ):  # multilabel; two columns
        model = fitted(BPClassifier(9, max_iter=20, random_state=0), X, labels)
        assert model._fit_summary.rare_class is None
        assert finding_of(model, "class-imbalance") is None
    model = BPClassifier(9, random_state=0)
    for _ in range(10):
        model.partial_fit(X, y, classes=[0, 1])
    assert finding_of(model, "class-imbalance") is None


def test_dropout_is_not_taken_for_dead_units():
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    model = BPRegressor(solver="sgd", learning_rate_init=0.05, random_state=101)
    fitted(model.set_params(dropout=0.5, batch_size=16, max_iter=60), X, y)
    units = model.hidden_activations(X, 0)
    assert units.any(axis=0).all()
    assert "dead-units" not in codes_of(model)


def test_starved_inputs_and_single_layers_get_advice_of_their_own(moons):
    X, y = np.repeat(moons[0], 5, axis=1), moons[1]
    model = BPClassifier((30, 3), input_dropout=0.9, max_iter=20, random_state=0)
    finding = finding_of(fitted(model, X, y), "starved-layer")
    assert (finding.layer, finding.advice) == (1, "input_dropout=0.5")
    fitted(model.set_params(input_dropout=0, dropout=[0.1, 0.8]), X, y)
    finding = finding_of(model, "starved-layer")
    assert (finding.layer, finding.advice) == (2, "dropout=[0.1, 0.2]")
    assert finding.evidence["nothing_left"][2] == pytest.approx(0.512)
    with pytest.raises(ValueError, match="'dropout' parameter .* of the last fit"):
        diagnose(model.set_params(dropout=[0.1]))


def friedman(noise=0.5):
    X, y = make_friedman1(400, noise=noise, random_state=0)
    return StandardScaler().fit_transform(X), (y - y.mean()) / y.std()


def squares(progress):
    return (1 - progress) ** 2


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one_cycle", squares])
def test_a_schedule_that_ended_too_early_is_remarked_and_cured_by_epochs(schedule):
    X, y = friedman()
    model = BPRegressor(
        hidden_layer_sizes=20, solver="sgd", learning_rate_init=0.01, random_state=0
    )
    model.set_params(max_iter=20, learning_rate=schedule, tol=0)
    short = fitted(clone(model), X, y)
    finding = finding_of(short, "schedule-ended")
    assert (finding.severity, finding.advice) == ("remark", "max_iter=200")
    assert finding.evidence["last_rate"] < 0.1 * short.learning_rate_init
    longer = fitted(follow(finding.advice, model), X, y)
    assert longer.score(X, y) > short.score(X, y) + 0.1
    # It ends as planned, so that max_iter is not to blame.
    done = fitted(clone(model).set_params(max_iter=500), X, y)
    assert diagnose(done).findings == ()
    assert finding_of(short, "not-converged") is None


def test_a_schedule_of_zeros_is_blamed_and_no_rate_is_proposed():
    for seed in range(3):
        model = BPRegressor(
            hidden_layer_sizes=20, learning_rate=lambda progress: 0, random_state=seed
        )
        finding = finding_of(fitted(model, *friedman()), "update-too-small")
        assert finding.advice == "learning_rate='constant'"


def test_a_step_of_a_schedule_is_not_said_to_be_nothing():
    model = BPRegressor(
        hidden_layer_sizes=20, learning_rate="linear", solver="sgd", random_state=0
    )
    model.set_params(learning_rate_init=1e-5, max_iter=20, batch_size=400)
    finding = finding_of(fitted(model, *friedman()), "update-too-small")
    assert " by 0 of their size" not in finding.message
    assert finding.advice.startswith("learning_rate_init=")


@pytest.mark.parametrize("batch_size", [1, 50])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_clipped_steps_of_a_run_are_counted(batch_size, n_jobs):
    X, y = friedman()
    model = BPRegressor(
        hidden_layer_sizes=20, solver="sgd", batch_size=batch_size, n_jobs=n_jobs
    )
    model.set_params(max_iter=5, random_state=0)
    for limit, share in ((None, 0), (1e9, 0), (1e-9, 1)):
        fitted(model.set_params(max_grad_norm=limit), X, y)
        assert model._fit_summary.clipped == share
    some = fitted(model.set_params(max_grad_norm=0.7), X, y)._fit_summary.clipped
    assert 0 < some < 1
    fitted(model.set_params(warm_start=True, max_grad_norm=1e9), X, y)
    assert model._fit_summary.clipped == 0
    ours, theirs = model._fit_summary, pickle.loads(pickle.dumps(model))._fit_summary
    assert replace(ours, standing=None) == replace(theirs, standing=None)
    assert ours.standing.train == theirs.standing.train
    np.testing.assert_array_equal(ours.standing.seen.means, theirs.standing.seen.means)


def test_the_limit_in_advice_lies_above_the_gradients_and_lets_steps_pass():
    X, y = friedman()
    model = BPRegressor(
        hidden_layer_sizes=20,
        solver="sgd",
        learning_rate_init=0.05,
        max_iter=50,
        random_state=0,
    )
    held = fitted(clone(model).set_params(max_grad_norm=1e-3), X, y)
    finding = finding_of(held, "clipped-steps")
    assert finding.severity == "illness"
    dW = cbp.backpropagate(held, X, y).dW
    length = np.sqrt(sum(np.sum(np.square(dW_l)) for dW_l in dW))
    assert finding.evidence["gradient_norm"] == pytest.approx(length, rel=0.3)
    better = fitted(follow(finding.advice, held), X, y)
    assert better._fit_summary.clipped < 0.1
    assert better.score(X, y) > held.score(X, y) + 0.5
    assert finding_of(better, "clipped-steps") is None


def test_a_limit_at_every_step_is_a_remark_if_weights_move_and_nothing_for_adam():
    X, y = friedman()
    model = BPRegressor(
        hidden_layer_sizes=20, solver="sgd", learning_rate_init=0.1, random_state=0
    )
    model.set_params(batch_size=5, max_iter=20, max_grad_norm=0.01)
    finding = finding_of(fitted(model, X, y), "clipped-steps")
    assert finding.severity == "remark"
    fitted(model.set_params(solver="adam", learning_rate_init=0.005), X, y)
    assert model._fit_summary.clipped == 1
    assert finding_of(model, "clipped-steps") is None


def test_weights_that_sum_to_one_are_told_to_strengthen_the_penalty(moons):
    X, y = moons
    model = BPClassifier(20, alpha=1.0, solver="lbfgs", random_state=0)
    w = np.full(len(X), 1 / len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y, w)
        codes = {finding.code: finding for finding in diagnose(model).findings}
        finding = codes["small-weights"]
        assert finding.severity == "remark"
        assert "acts as alpha=300 would with weights of mean 1" in finding.message
        assert np.isclose(finding.evidence["alpha_at_mean_1"], 300)
        assert finding.advice == "model.fit(X, y, sample_weight=w / w.mean())"
        better = eval(finding.advice, {"model": clone(model), "X": X, "y": y, "w": w})
    assert better.score(X, y) > model.score(X, y) + 0.1
    assert "small-weights" not in str(diagnose(better))


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 1.0, 100.0])
def test_ordinary_weights_get_no_remark(moons, alpha):
    X, y = moons
    rare = y * (np.arange(len(y)) % 10 == 0)
    weights = compute_sample_weight("balanced", rare)
    for w in (None, weights, 0.2 * weights):
        model = BPClassifier(9, alpha=alpha, max_iter=5, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, rare, w)
        assert "small-weights" not in str(diagnose(model))


@pytest.fixture(scope="module")
def diverged():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="sgd", learning_rate_init=10, random_state=0)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(100 * X, y)
    return model


def test_a_diverged_fit_can_be_diagnosed(diverged):
    assert not hasattr(diverged, "coefs_")
    diagnosis = diagnose(diverged)
    assert "divergence" in [finding.code for finding in diagnosis.findings]
    assert diagnosis.verdict.startswith("Training diverged: ")
    assert "explains" not in diagnosis.verdict  # there is no model
    assert len(diagnosis.to_frame()) == len(diagnosis.findings)


def test_targets_that_are_all_the_same_are_told(moons):
    X, _ = moons
    model = fitted(BPRegressor(max_iter=5, random_state=0), X, np.ones(len(X)))
    assert "all the same" in diagnose(model).verdict


# ---- fits that ended, or diverged, before they had records


def lbfgs(**more):
    return BPClassifier(8, "tanh", solver="lbfgs", random_state=0, **more)


def test_a_refit_at_the_optimum_is_told_that_it_made_no_step(moons):
    model = fitted(lbfgs(tol=1e-3, max_iter=1000), *moons)
    fitted(model.set_params(warm_start=True), *moons)
    assert model.n_iter_ == 0
    assert len(model.gradient_flow_.epoch) == 0
    diagnosis = diagnose(model)
    assert diagnosis.healthy
    assert diagnosis.verdict.startswith(
        "Training ended before its first step: no entry of the gradient was above "
        "tol=0.001."
    )


def test_a_first_gradient_below_tol_is_stopped_by_tol(moons):
    model = fitted(lbfgs(tol=10.0), *moons)
    assert model.n_iter_ == 0
    (finding,) = diagnose(model).findings
    assert finding.code == "stopped-by-tol"
    assert "before its first step" in finding.message
    assert finding.advice == "tol=0.0"
    assert fitted(lbfgs(tol=0.0), *moons).n_iter_ > 0


def test_small_targets_are_named_if_they_are_why_no_gradient_is_above_tol():
    X, y = load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std() * 1e-6
    zero = BPRegressor(solver="lbfgs", random_state=0).initialize(X, y)
    for W in (*zero.coefs_, *zero.intercepts_):
        W *= 0
    model = fitted(zero.set_params(warm_start=True), X, y)
    assert model.n_iter_ == 0
    cause, finding = diagnose(model).findings
    assert (cause.code, finding.code) == ("unscaled-target", "stopped-by-tol")
    assert cause.advice.startswith("TransformedTargetRegressor")


def test_max_fun_is_named_if_it_ended_training(moons):
    model = fitted(lbfgs(max_fun=20), *moons)
    assert 0 < model.n_iter_ < model.max_iter
    finding = diagnose(model).findings[-1]
    assert finding.code == "not-converged"
    assert finding.message.startswith("max_fun=20 ended training")
    assert finding.advice == "max_fun=15000"


def test_lbfgs_that_diverges_at_once_can_be_diagnosed():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="lbfgs", random_state=0)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(1e200 * X, y)
    codes = [finding.code for finding in diagnose(model).findings]
    assert codes == ["unscaled-input", "unscaled-target", "divergence"]


def test_divergence_in_the_first_epoch_is_a_finding_with_early_stopping_too():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="sgd", early_stopping=True, random_state=0)
    with pytest.raises(ValueError, match="diverged in epoch 1"):
        model.fit(1e100 * X, y)
    flow = model._failed_flow
    assert flow.loss_curve == () and flow.n_iter == 0
    diagnosis = diagnose(model)
    assert diagnosis.verdict.startswith("Training diverged: ")
    messages = {finding.code: finding.message for finding in diagnosis.findings}
    assert "in epoch 1." in messages["divergence"]
    # Whatever of the fit is left to look at.
    for name, value in vars(flow).items():
        if isinstance(value, np.ndarray):
            object.__setattr__(flow, name, value[:0])
    assert "divergence" in [finding.code for finding in diagnose(model).findings]


# ---- a scan of odd fits


def zero(progress):
    return 0.0


USUAL_OR_ODD = {
    # The usual value stands first and is taken half of the time.
    "kind": (BPClassifier, BPRegressor),
    "other_loss": (False, True),
    "solver": ("adam", "sgd", "lbfgs"),
    "activation": ("relu", "logistic", "tanh", "identity", "mixed"),
    "depth": (1, 0, 2, 3, 4, 6, 8, 10, 24),
    "batch_size": ("auto", 1, 2),
    "alpha": (1e-4, 0, 1.0, 100),
    "learning_rate_init": (1e-3, 1e-5, 0.3, 10.0, 1e3, 1e6),
    "learning_rate": ("constant", "invscaling", "adaptive"),
    "max_iter": (5, 1, 2, 3, 60),
    "max_fun": (15000, 1, 3),
    "tol": (1e-4, 0.0, 1e-9, 10.0),
    "n_iter_no_change": (10, 1, np.inf),
    "epsilon": (1e-8, 1e-30, 10.0),
    "early_stopping": (False, True),
    "precision": (None, "float32"),
    "n_rows": (30, 1, 2, 100),
    "X": (1.0, 1e-6, 0.0, 1e6, 1e150),
    "sparse": (False, True),
    "y": ("usual", "constant", "zero", "tiny", "1e12", "two columns"),
    "weight": (None, "some zero", "1/n", 1e-30, 1e30),
    "first_weights": (1.0, 0.0, 1e-9, 50.0),
    "way": ("fit", "first warm", "warm", "initialize", "partial", "fit, partial")
    + ("interrupted",),
    # Of solvers that make steps.
    "dropout": (0.0, 0.3, 0.9),
    "max_grad_norm": (None, 1.0, 1e-6),
    "schedule": (None, "cosine", "one_cycle", zero),
}
TRAINING = ("solver", "batch_size", "alpha", "learning_rate_init", "learning_rate")
TRAINING += ("max_iter", "max_fun", "tol", "n_iter_no_change", "epsilon", "precision")


class Odd:
    """A small fit with settings that few people mean, drawn with seed `seed`."""

    def __init__(self, seed):
        rng = np.random.RandomState(seed)
        self.options = {
            name: values[rng.randint(len(values)) * rng.randint(2)]
            for name, values in USUAL_OR_ODD.items()
        }
        self.seed, self.way = seed, self.options["way"]

    def __str__(self):
        odd = {k: v for k, v in self.options.items() if v != USUAL_OR_ODD[k][0]}
        return f"odd {self.seed} {odd}"

    def new_model(self):
        o = self.options
        names = ("relu", "tanh", "logistic", "identity")
        mixed = [names[i % 4] for i in range(o["depth"])]
        regression = o["kind"] is BPRegressor
        losses = ("squared_error", "poisson" if regression else "log_loss")
        return o["kind"](
            hidden_layer_sizes=(3,) * o["depth"],
            activation=mixed if o["activation"] == "mixed" else o["activation"],
            loss=losses[o["other_loss"] == regression],
            random_state=self.seed,
            early_stopping=o["early_stopping"] and "partial" not in o["way"],
            **{name: o[name] for name in TRAINING} | self.steps(),
        )

    def steps(self):
        """Parameters that not every solver has, nor partial_fit."""
        o = self.options
        if o["solver"] == "lbfgs":
            return {}
        steps = {name: o[name] for name in ("dropout", "max_grad_norm")}
        if o["schedule"] is not None and "partial" not in o["way"]:
            steps["learning_rate"] = o["schedule"]
        return steps

    def data(self):
        o, rng = self.options, np.random.RandomState(self.seed)
        X = rng.normal(size=(o["n_rows"], 3)) * o["X"]
        y = rng.uniform(0, 3, (len(X), 2 if o["y"] == "two columns" else 1))
        if o["y"] in ("constant", "zero"):
            y = np.full(y.shape, float(o["y"] == "constant"))
        if o["kind"] is BPClassifier:
            y = np.minimum(y, 1 if o["y"] == "two columns" else 2).astype(int)
        else:
            y *= {"tiny": 1e-6, "1e12": 1e12}.get(o["y"], 1)
        data = {"X": csr_array(X) if o["sparse"] else X}
        data["y"] = y if y.shape[1] > 1 else y[:, 0]
        if o["weight"] is not None:
            w = {"some zero": 1.0, "1/n": 1 / len(X)}.get(o["weight"], o["weight"])
            data["w"] = np.full(len(X), w)
            if o["weight"] == "some zero":
                data["w"][len(X) // 2 + 1 :] = 0
        return data

    def prepare(self, model, data):
        """Everything before the last call."""
        if self.way in ("warm", "fit, partial"):
            attempt(model, "fit", data)
        elif self.way == "initialize":
            model.initialize(data["X"], data["y"])
        elif self.way == "partial":
            for _ in range(self.options["max_iter"] - 1):
                attempt(model, "partial_fit", data)
        if self.way in ("warm", "initialize", "first warm"):
            model.set_params(warm_start=True)
        for W in model.coefs_ if model.warm_start and hasattr(model, "coefs_") else ():
            W *= self.options["first_weights"]
        return model

    def train(self, model, data):
        """The last call."""
        call = "partial_fit" if "partial" in self.way else "fit"
        return attempt(model, call, data, self.way == "interrupted")


class Interrupting:
    """Where to print what ends in an interrupt after one line."""

    n_lines = 0

    def write(self, text):
        self.n_lines += "\n" in text
        if self.n_lines > 1:
            raise KeyboardInterrupt

    def flush(self):
        pass


def attempt(model, call, data, interrupted=False):
    """Trains, perhaps to infinity; raises ValueError if the data are refused."""
    arguments = {"sample_weight": data.get("w")}
    if call == "partial_fit" and isinstance(model, BPClassifier):
        arguments["classes"] = np.unique(data["y"])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if interrupted:
            model.set_params(verbose=True)
        try:
            with redirect_stdout(Interrupting() if interrupted else sys.stdout):
                getattr(model, call)(data["X"], data["y"], **arguments)
        except (DivergenceError, KeyboardInterrupt):
            pass
        if interrupted:
            model.set_params(verbose=False)
    return model


def traces(model):
    """What a fit left behind, to tell whether another one went otherwise."""
    failed = getattr(model, "_failed_flow", None)
    flow = model.gradient_flow_ if failed is None else failed
    curve = model.loss_curve_ if failed is None else failed.loss_curve
    arrays = [flow.gradient, flow.delta, flow.weight, flow.update, curve]
    if failed is None:
        arrays += [*model.coefs_, *model.intercepts_, model._fit_summary.outcome]
    return b" ".join(np.asarray(array).tobytes() for array in arrays).strip()


def complaints(odd):
    """What is wrong with the diagnosis of an odd fit; None if there was no fit."""
    data = odd.data()
    try:
        before = odd.prepare(odd.new_model(), data)
        model = odd.train(copy.deepcopy(before), data)
    except (ValueError, AttributeError):
        return None  # refused, as too few rows for early stopping are
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            diagnosis = diagnose(model)
        except NotFittedError as error:
            return [] if "first epoch" in str(error) else [repr(error)]
    text = str(diagnosis)
    found = [f"says {word}" for word in re.findall(r"\b(?:nan|inf)\b|-0 %", text)]
    said = [diagnosis.verdict, *(finding.message for finding in diagnosis.findings)]
    found += [
        f"says {text}" for text in said if re.search(r"(?<![=\d.])[\d.]+e[+-]?\d", text)
    ]
    for finding in diagnosis.findings:
        found += useless(odd, finding.advice, before, model, data)
    return found


def useless(odd, advice, before, model, data):
    """What is wrong with advice: it cannot be taken, or it changes nothing."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            better = retrained(odd, advice, before, model, data)
        except DivergenceError:
            return []
        except Exception as error:
            return [f"{advice}: {error!r}"]
    if better is None:
        return []
    if str(better.get_params()) == str(model.get_params()):
        return [f"{advice}: so it is"]
    # Of what diverged at once nothing is left to compare.
    same = traces(better) == traces(model) != b""
    return [f"{advice}: changes nothing"] if same else []


def retrained(odd, advice, before, model, data):
    """The model after the same training, except for the advice.

    None if that was to train otherwise or to scale the data, which is never the same.
    """
    if not is_call(advice):
        if "partial" not in odd.way:
            return odd.train(take(advice, copy.deepcopy(before)), data)
        # The advice is for all calls.
        better = take(advice, odd.new_model())
        return odd.train(odd.prepare(better, data), data)
    if advice.startswith("model."):
        take(advice, copy.deepcopy(model), **data)
        return None
    scaled = take(advice, copy.deepcopy(before))
    prefix = "" if not hasattr(scaled, "steps") else f"{scaled.steps[-1][0]}__"
    weight = {} if "w" not in data else {f"{prefix}sample_weight": data["w"]}
    scaled.fit(data["X"], data["y"], **weight)
    return None


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_odd_fits_are_diagnosed_in_numbers_and_advice_that_changes_something(first):
    odd_fits = [Odd(seed) for seed in range(first, first + 40)]
    wrong = {str(odd): complaints(odd) for odd in odd_fits}
    assert {odd: found for odd, found in wrong.items() if found} == {}
    assert sum(found is not None for found in wrong.values()) > 20


# ---- the same as a table


def report(sets, also_healthy):
    cases = list(planted(sets))
    named = helped = clean = 0
    for case in cases:
        model = fit_case(case)
        found, helps = codes_of(model), first_advice_helps(case)
        named, helped = named + (case.code in found), helped + helps
        marks = ["MISSED"] * (case.code not in found) + ["USELESS"] * (not helps)
        print(*marks, case, f"cost {Fit(model).reached:.2g}", *found)
        print("    ", [finding.advice for finding in diagnose(model).findings][:1])
    sound = [*healthy(sets), *healthy_in_other_ways(sets), *also_healthy]
    for case in sound:
        diagnosis = diagnose(fit_case(case))
        clean += diagnosis.healthy
        if not diagnosis.healthy:
            print("ILL", case, diagnosis, sep="\n")
    print(f"planted illnesses named: {named} of {len(cases)}")
    print(f"first advice helps: {helped} of {len(cases)}")
    print(f"healthy fits called healthy: {clean} of {len(sound)}")


def report_scan(n):
    refused = wrong = 0
    for seed in range(n):
        odd = Odd(seed)
        try:
            found = complaints(odd)
        except Exception as error:
            found = [repr(error)]
        refused += found is None
        wrong += bool(found)
        if found:
            print(odd, *found, sep="\n    ")
    print(f"odd fits: {n - refused}, diagnosed wrongly: {wrong}, refused: {refused}")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["judging"]:
        if name == "tuning":
            report(TUNING, [])
        elif name.isdigit():
            report_scan(int(name))
        else:
            report(JUDGING, healthy(ALSO_HEALTHY))
