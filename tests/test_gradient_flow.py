"""The records of a fit, the numbers noted about its data, and the form of a diagnosis.

Whether a diagnosis is right is judged in test_diagnosis.py.
"""

import pickle
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from problem import make_trainer
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from cbp import BPClassifier, BPRegressor
from cbp._network import Network
from cbp.gradient_flow import (
    Diagnosis,
    FailedFlow,
    Finding,
    FitSummary,
    GradientFlow,
    diagnose,
)

RECORDS = ("gradient", "delta", "back", "weight", "update")
RECORDS += ("saturated", "stuck", "floored", "nonfinite")


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y)


@pytest.fixture(scope="module")
def moons():
    return make_moons(300, noise=0.2, random_state=0)


@pytest.fixture(scope="module")
def deep(moons):
    """A network of sigmoid layers that learns nothing."""
    return fitted(BPClassifier((12,) * 5, "logistic", random_state=0), *moons)


@pytest.fixture(scope="module")
def diverged():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="sgd", learning_rate_init=10, random_state=0)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(100 * X, y)
    return model


def some_flow(**changes):
    """Two records of a network 3-4-5-2."""
    rng = np.random.RandomState(0)
    arrays = {name: rng.uniform(0.1, 1, (2, 3)).astype("f4") for name in RECORDS}
    arrays["back"][:, -1] = 0
    return GradientFlow(
        **{
            "epoch": np.array([0, 7]),
            **arrays,
            "layer_sizes": (3, 4, 5, 2),
            "activations": ("relu", "tanh"),
            **changes,
        }
    )


# ---- GradientFlow


def test_a_gain_is_the_product_of_what_weights_and_activation_do(deep):
    flow = deep.gradient_flow_
    product = flow.gain_weights * flow.gain_activation
    np.testing.assert_allclose(product, flow.gain, rtol=1e-5)
    assert (flow.gain_activation <= 0.25).all()  # the derivative of a sigmoid


def test_relative_error_is_the_length_of_delta_over_that_of_the_output_layer():
    flow = some_flow()
    length = flow.delta * np.sqrt([4, 5, 2])
    np.testing.assert_allclose(flow.relative_error, length / length[:, 2:], rtol=1e-6)
    # The gains, corrected for the widths, lead from the output layer to the first.
    gains = flow.gain * np.sqrt([4 / 5, 5 / 2])
    np.testing.assert_allclose(flow.relative_error[:, 0], gains.prod(1), rtol=1e-5)


def test_update_ratio_is_update_over_weight_and_no_warning():
    weight = np.array([[1, 2, 0], [1, 1, 1]], dtype="f4")
    update = np.array([[0.1, 0.1, 0.5], [0, 0, 0]], dtype="f4")
    ratio = some_flow(weight=weight, update=update).update_ratio
    np.testing.assert_allclose(ratio[0], [0.1, 0.05, np.inf])


def test_a_flow_without_hidden_layers(moons):
    model = fitted(BPClassifier((), random_state=0), *moons)
    assert model.gradient_flow_.n_layers == 1
    assert model.gradient_flow_.gain.shape[1] == 0
    assert diagnose(model).healthy


def test_flow_as_data_frame():
    frame = some_flow().to_frame()
    assert list(frame.columns) == ["epoch", "layer", *RECORDS]
    assert frame.epoch.tolist() == [0, 0, 0, 7, 7, 7]
    assert frame.layer.tolist() == [1, 2, 3, 1, 2, 3]
    assert frame.delta[4] == some_flow().delta[1, 1]


def test_without_pandas_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (some_flow(), Diagnosis("fine")):
        with pytest.raises(ImportError, match="pip install pandas"):
            table.to_frame()


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": np.ones((1, 3), "f4")},
        {"stuck": np.ones((2, 2), "f4")},
        {"epoch": np.array([0])},
        {"layer_sizes": (3, 4, 2)},
        {"activations": ("relu",)},
    ],
)
def test_partial_records_are_refused(changes):
    with pytest.raises(ValueError, match="records of|activations for"):
        some_flow(**changes)


def test_a_flow_survives_a_pickle(deep):
    again = pickle.loads(pickle.dumps(deep.gradient_flow_))
    for name in RECORDS:
        np.testing.assert_array_equal(
            getattr(again, name), getattr(deep.gradient_flow_, name)
        )


# ---- FitSummary


def summary_of(X, target, output, loss, n_outputs, **more):
    network = Network((X.shape[1], 4, n_outputs), ("relu",), output, loss, np.float64)
    return FitSummary.of_data(network, X, target, **more)


def test_scales_of_inputs_are_those_of_the_columns():
    rng = np.random.RandomState(0)
    X = rng.normal([0, 50, 1], [1, 2, 0.1], (64, 3))
    y = rng.normal(size=(64, 1))
    summary = summary_of(X, y, "identity", "squared_error", 1)
    assert summary.column == 1
    assert np.isclose(summary.column_size, np.sqrt(np.mean(X[:, 1] ** 2)))
    assert np.isclose(summary.column_mean, X[:, 1].mean())
    assert np.isclose(summary.row_length, np.sqrt(X.var(0).sum()))
    csr = summary_of(sparse.csr_array(X), y, "identity", "squared_error", 1)
    assert csr.is_sparse and not summary.is_sparse
    assert np.isclose(csr.row_length, summary.row_length)
    assert np.isclose(csr.column_size, summary.column_size)


def test_only_the_rows_of_training_count():
    X = np.arange(20.0).reshape(10, 2)
    y = np.arange(10.0).reshape(10, 1)
    rows = np.array([8, 2, 5])
    some = summary_of(X, y, "identity", "squared_error", 1, rows=rows)
    alone = summary_of(X[rows], y[rows], "identity", "squared_error", 1)
    assert some == alone
    assert some.n_rows == 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "output, loss, n_outputs",
    [
        ("softmax", "log_loss", 3),
        ("logistic", "log_loss", 1),
        ("logistic", "log_loss", 2),
        ("logistic", "squared_error", 1),
        ("logistic", "squared_error", 3),
        ("identity", "squared_error", 2),
        ("exp", "poisson", 1),
    ],
)
def test_constant_cost_is_the_least_and_zero_cost_the_first(
    output, loss, n_outputs, weighted
):
    """Against networks of biases alone, trained and untrained."""
    rng = np.random.RandomState(0)
    X = np.zeros((200, 1))
    if loss == "poisson":
        y = rng.poisson(3.0, (200, 1)).astype(float)
    elif output == "identity":
        y = rng.normal(2, 1, (200, n_outputs))
    elif (output, loss, n_outputs) == ("logistic", "log_loss", 2):
        y = (rng.uniform(size=(200, 2)) < [0.3, 0.6]).astype(float)
    else:
        y = rng.choice(max(n_outputs, 2), 200).astype(np.int32)
        y[:40] = 0
    weight = rng.uniform(0.5, 2, 200) if weighted else None
    summary = summary_of(X, y, output, loss, n_outputs, sample_weight=weight)

    from scipy.optimize import minimize

    network = Network((1, n_outputs), (), output, loss, np.float64)
    theta = np.zeros(network.n_params)
    trainer = make_trainer(network, theta, X, y, sample_weight=weight, solver="lbfgs")
    start = theta.copy()
    assert np.isclose(summary.zero_cost, trainer.loss_gradient(start)[0])
    best = minimize(trainer.loss_gradient, start, jac=True, method="L-BFGS-B")
    assert np.isclose(summary.constant_cost, best.fun, rtol=1e-4)
    if weighted:
        assert np.isclose(summary.mean_weight, weight.mean())


def test_outputs_are_looked_at_only_if_the_cost_is_high():
    X, y = np.zeros((200, 1)), np.arange(200.0).reshape(200, 1)
    summary = summary_of(X, y, "identity", "squared_error", 1)
    assert summary.at_end("converged", 1.0, pytest.fail).output_variance is None
    sample = []

    def outputs(rows):
        sample.append(rows)
        return y[rows]

    ended = summary.at_end("max_iter", summary.constant_cost, outputs)
    assert ended.outcome == "max_iter"
    assert len(y[sample[0]]) <= 64
    assert np.isclose(ended.output_variance, y.var(), rtol=0.05)
    assert summary.at_end("diverged").output_variance is None


# ---- findings


def test_a_diagnosis_opens_with_its_verdict(deep):
    diagnosis = diagnose(deep)
    text = str(diagnosis)
    assert " ".join(text.split("\n\n")[0].split()) == diagnosis.verdict
    assert max(map(len, text.splitlines())) <= 79
    for finding in diagnosis.findings:
        assert finding.code in text
        assert finding.advice in text


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
    assert f"{evidence['per_layer']:.2g} per layer" in finding.message


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


def test_not_converged_is_a_remark(moons):
    model = fitted(BPClassifier((20,), max_iter=100, random_state=0), *moons)
    (finding,) = diagnose(model).findings
    assert (finding.code, finding.severity) == ("not-converged", "remark")
    assert finding.advice == "max_iter=500"
    assert finding.evidence["fall"] > 0
    assert diagnose(model).verdict.startswith("Healthy")


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


def test_a_diverged_fit_can_be_diagnosed(diverged):
    assert not hasattr(diverged, "coefs_")
    diagnosis = diagnose(diverged)
    assert "divergence" in [finding.code for finding in diagnosis.findings]
    assert diagnosis.verdict.startswith("It diverges")
    assert len(diagnosis.to_frame()) == len(diagnosis.findings)


def test_a_diverged_fit_comes_before_an_earlier_good_one():
    X, y = load_iris(return_X_y=True)
    model = BPRegressor(solver="sgd", max_iter=20, random_state=0)
    assert "diverge" not in str(diagnose(fitted(model, X / 10, y)))
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(1e100 * X, y)
    assert hasattr(model, "coefs_")
    assert "It diverges" in str(diagnose(model))
    assert "diverge" not in str(diagnose(fitted(model, X / 10, y)))


def test_lbfgs_that_diverges_at_once_can_be_diagnosed():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="lbfgs", random_state=0)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(1e200 * X, y)
    codes = [finding.code for finding in diagnose(model).findings]
    assert codes == ["unscaled-input", "divergence"]


def test_scaling_of_sparse_inputs_keeps_them_sparse(moons):
    X, y = moons
    model = fitted(BPClassifier(random_state=0), sparse.csr_array(1000 * X), y)
    assert diagnose(model).findings[0].advice == "make_pipeline(MaxAbsScaler(), model)"


def test_short_calls_of_partial_fit_keep_the_last_records(moons):
    """Of the optimizer's steps, here one per call, few are watched."""
    X, y = moons
    model, watched, flow = BPClassifier(random_state=0), [], None
    for step in range(40):
        model.partial_fit(X[:20], y[:20], classes=[0, 1])
        if model.gradient_flow_ is not flow:
            watched.append(step)
        flow = model.gradient_flow_
        assert model.diagnose().verdict
    assert watched == [0, 1, 2, 4, 8, 16, 32]
    model.set_params(monitor=False).partial_fit(X[:20], y[:20])
    assert not hasattr(model, "gradient_flow_")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_records_of_a_fit_are_diagnosed_after_a_short_partial_fit(moons):
    model = BPClassifier(random_state=0, max_iter=11).fit(*moons)
    flow, n_epochs = model.gradient_flow_, len(model.loss_curve_)
    model.partial_fit(*moons)
    assert model.gradient_flow_ is flow
    assert model._fit_summary.outcome == "partial"
    assert len(model.loss_curve_) == n_epochs + 1
    assert model.diagnose().verdict


def test_partial_fit_is_diagnosed_over_all_calls(moons):
    X, y = moons
    model = BPClassifier((30,), learning_rate_init=0.01, random_state=0)
    for _ in range(100):
        model.partial_fit(X, y, classes=[0, 1])
    assert diagnose(model).healthy
    assert diagnose(model).findings == ()


def test_targets_that_are_all_the_same_are_told(moons):
    X, _ = moons
    model = fitted(BPRegressor(max_iter=5, random_state=0), X, np.ones(len(X)))
    assert "all the same" in diagnose(model).verdict


def test_diagnosing_changes_nothing(deep):
    before = pickle.dumps(deep)
    str(diagnose(deep))
    assert pickle.dumps(deep) == before


def test_the_estimator_diagnoses_itself(deep):
    assert deep.diagnose() == diagnose(deep)


# ---- errors


def test_what_is_not_fitted_is_told_to_fit():
    with pytest.raises(NotFittedError, match="not fitted.*Call fit"):
        diagnose(BPClassifier())


def test_weights_without_training_are_told_to_fit(moons):
    model = BPClassifier(random_state=0).initialize(*moons)
    with pytest.raises(NotFittedError, match="finished no epoch.*Call fit"):
        diagnose(model)


def test_without_monitor_the_parameter_is_named(moons):
    model = fitted(BPClassifier(monitor=False, max_iter=3), *moons)
    assert not hasattr(model, "gradient_flow_")
    with pytest.raises(ValueError, match="Set monitor=True and fit it again"):
        diagnose(model)


def test_other_estimators_are_told_where_the_network_is(moons):
    X, y = moons
    pipeline = make_pipeline(StandardScaler(), BPClassifier(max_iter=3))
    fitted(pipeline, X, y)
    with pytest.raises(TypeError, match=r"got Pipeline.*model\[-1\]"):
        diagnose(pipeline)
    assert diagnose(pipeline[-1]).verdict
    with pytest.raises(TypeError, match="got LogisticRegression"):
        diagnose(LogisticRegression().fit(X, y))


def test_a_damaged_attribute_is_named(deep):
    model = pickle.loads(pickle.dumps(deep))
    model.gradient_flow_ = {"delta": 1}
    with pytest.raises(TypeError, match="gradient_flow_ must be a GradientFlow"):
        diagnose(model)
    empty = {name: np.zeros((0, 6), "f4") for name in RECORDS}
    model.gradient_flow_ = GradientFlow(
        epoch=np.zeros(0, int),
        **empty,
        layer_sizes=deep.gradient_flow_.layer_sizes,
        activations=deep.gradient_flow_.activations,
    )
    with pytest.raises(ValueError, match="no records"):
        diagnose(model)


def test_a_clone_has_nothing_to_diagnose(deep):
    with pytest.raises(NotFittedError):
        diagnose(clone(deep))


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
    (finding,) = diagnose(model).findings
    assert finding.code == "stopped-by-tol"
    assert finding.advice.startswith("TransformedTargetRegressor")


def test_without_monitor_a_fit_that_made_no_step_is_no_unfitted_one(moons):
    model = fitted(lbfgs(tol=10.0, monitor=False), *moons)
    with pytest.raises(ValueError, match="Set monitor=True and fit it again"):
        diagnose(model)


def test_max_fun_is_named_if_it_ended_training(moons):
    model = fitted(lbfgs(max_fun=20), *moons)
    assert 0 < model.n_iter_ < model.max_iter
    finding = diagnose(model).findings[-1]
    assert finding.code == "not-converged"
    assert finding.message.startswith("max_fun=20 ended training")
    assert finding.advice == "max_fun=15000"


def test_divergence_in_the_first_epoch_is_a_finding_with_early_stopping_too():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="sgd", early_stopping=True, random_state=0)
    with pytest.raises(ValueError, match="diverged in epoch 1"):
        model.fit(1e100 * X, y)
    flow = model._failed_flow
    assert flow.loss_curve == () and flow.n_iter == 0
    diagnosis = diagnose(model)
    assert diagnosis.verdict.startswith("It diverges")
    messages = {finding.code: finding.message for finding in diagnosis.findings}
    assert "in epoch 1." in messages["divergence"]
    # Whatever of the fit is left to look at.
    for name, value in vars(flow).items():
        if isinstance(value, np.ndarray):
            object.__setattr__(flow, name, value[:0])
    assert "divergence" in [finding.code for finding in diagnose(model).findings]


def test_a_fit_that_diverged_unrecorded_is_not_explained_by_another_one():
    X, y = load_diabetes(return_X_y=True)
    model = BPRegressor(solver="sgd", random_state=0)
    for monitor in (True, False):
        with pytest.raises(ValueError, match="diverged"):
            model.set_params(monitor=monitor).fit(1e100 * X, y)
    with pytest.raises(ValueError, match="monitor=True"):
        diagnose(model)


def test_divergence_is_told_with_the_epoch_of_the_last_fit():
    X, y = load_iris(return_X_y=True)
    model = BPRegressor(solver="sgd", max_iter=20, random_state=0, warm_start=True)
    fitted(model, X / 10, y)
    with pytest.raises(ValueError, match="Training diverged in epoch 1 "):
        model.fit(1e200 * X, y)
    codes = {finding.code: finding for finding in diagnose(model).findings}
    assert codes["divergence"].evidence == {"epoch": 1}


# ---- attributes and records that other code has made


class Behind:
    """An estimator whose attributes are not in its `vars`."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)


def test_attributes_may_stand_behind_properties(deep, moons):
    assert diagnose(Behind(deep)) == diagnose(deep)
    with pytest.raises(NotFittedError):
        diagnose(Behind(BPClassifier()))
    with pytest.raises(ValueError, match="Set monitor=True"):
        diagnose(Behind(fitted(BPClassifier(monitor=False, max_iter=3), *moons)))


def test_a_flow_of_another_network_is_refused(deep):
    model = pickle.loads(pickle.dumps(deep))
    model.gradient_flow_ = some_flow()
    with pytest.raises(ValueError, match="layers have .3, 4, 5, 2. units"):
        diagnose(model)


def test_a_failed_flow_without_summary_is_refused(deep):
    model = pickle.loads(pickle.dumps(deep))
    model._failed_flow = FailedFlow(**vars(some_flow()))
    with pytest.raises(ValueError, match="no summary of its data"):
        diagnose(model)


def with_records(model, **records):
    """The model with other numbers in its records."""
    model = pickle.loads(pickle.dumps(model))
    model.gradient_flow_ = replace(model.gradient_flow_, **records)
    return model


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


# ---- what is noted about unusual data


def test_rows_that_weigh_something_are_found_wherever_they_are():
    X, y = np.zeros((10000, 1)), np.arange(10000.0).reshape(-1, 1)
    weight = np.zeros(10000)
    weight[[1, 4]] = 2
    summary = summary_of(
        X, y, "identity", "squared_error", 1, sample_weight=weight, rows=None
    )
    assert np.isclose(summary.mean_weight, 4e-4)
    assert np.isclose(summary.constant_cost, 1.5**2 / 2)


@pytest.mark.parametrize("size", [1e-300, 1e30, 1e305])
def test_the_size_of_sample_weights_does_not_matter_to_scales(size):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(50, 2)), rng.normal(size=(50, 1))
    kind = ("identity", "squared_error", 1)
    plain = summary_of(X, y, *kind)
    weighed = summary_of(X, y, *kind, sample_weight=np.full(50, size))
    assert np.isclose(weighed.constant_cost, plain.constant_cost)
    assert np.isclose(weighed.mean_weight, size)


@pytest.mark.parametrize("value", [0.1, 1.0, 1e12])
def test_equal_targets_leave_nothing_to_learn_whatever_the_loss(value):
    X, weight = np.zeros((77, 1)), np.random.RandomState(0).uniform(size=77)
    y = np.full((77, 1), value)
    for output, loss in [("identity", "squared_error"), ("exp", "poisson")]:
        summary = summary_of(X, y, output, loss, 1, sample_weight=weight)
        assert summary.constant_cost == 0
    labels = np.ones((77, 2))
    assert summary_of(X, labels, "logistic", "log_loss", 2).constant_cost == 0
    one = np.zeros(77, np.int32)
    summary = summary_of(X, one, "softmax", "log_loss", 3, sample_weight=weight)
    assert summary.constant_cost == 0


def test_scales_of_the_largest_inputs_are_finite():
    X = np.array([[1e200, 1], [-3e200, 2]])
    y = np.zeros((2, 1))
    summary = summary_of(X, y, "identity", "squared_error", 1)
    assert np.isclose(summary.column_size, np.sqrt(5) * 1e200)
    assert np.isclose(summary.row_length, 2e200)


# ---- advice


def advice_of(model, code):
    return {finding.code: finding.advice for finding in diagnose(model).findings}[code]


def ended(model, outcome, **parameters):
    """The model, as if its training had ended otherwise."""
    model = pickle.loads(pickle.dumps(model)).set_params(**parameters)
    model._fit_summary = replace(model._fit_summary, outcome=outcome)
    return model


def test_more_steps_are_proposed_by_what_ended_them(moons):
    model = BPClassifier(
        (12,) * 2, "relu", solver="sgd", learning_rate_init=0.3, random_state=0
    )
    model = fitted(model.set_params(alpha=0, max_iter=20), *moons)
    model._fit_summary = replace(model._fit_summary, output_variance=0.0)
    flow = replace(model.gradient_flow_, update=model.gradient_flow_.update * 1e-9)
    model.gradient_flow_ = flow
    model.loss_curve_ = [1 - 1e-6 * epoch for epoch in range(20)]
    code = "update-too-small"
    assert advice_of(ended(model, "max_iter"), code) == "max_iter=100"
    patient = ended(model, "converged", max_iter=500)
    assert advice_of(patient, code) == "n_iter_no_change=100"
    both = "n_iter_no_change=100, max_iter=100"
    assert advice_of(ended(model, "converged"), code) == both
    assert advice_of(ended(model, "partial"), code) == "model.partial_fit(X, y)"
    assert advice_of(ended(model, "interrupted"), code) == "model.fit(X, y)"
    # tol is proposed such that an epoch of the patience counts as progress.
    tol = advice_of(ended(model, "converged", max_iter=500), "stopped-by-tol")
    assert 0 < float(tol.removeprefix("tol=")) < 1e-6
    assert advice_of(
        ended(model, "converged", max_iter=500, tol=0.0), "stopped-by-tol"
    ) == ("n_iter_no_change=100")


def test_first_weights_are_blamed_only_if_they_were_given(moons):
    X, y = moons
    model = BPClassifier(20, "tanh", warm_start=True, max_iter=5, random_state=0)
    fitted(model, 1e3 * X, y)
    advice = {finding.advice for finding in diagnose(model).findings}
    assert "warm_start=False" not in advice
    for W in fitted(model, X, y).coefs_:
        W *= 1000
    assert advice_of(fitted(model, X, y), "saturated-units") == "warm_start=False"


def vanishing(depth, activation, **more):
    """Of a fit with hardly any error in its first layer."""
    X, y = load_iris(return_X_y=True)
    model = BPClassifier((7,) * depth, activation, max_iter=4, random_state=0, **more)
    model = fitted(model, X, y)
    delta = model.gradient_flow_.delta.copy()
    delta[:, 0] *= 1e-9
    return model, advice_of(with_records(model, delta=delta), "vanishing-gradient")


def test_fewer_layers_are_fewer_and_can_be_set():
    assert vanishing(6, "tanh")[1] == "hidden_layer_sizes=(7, 7, 7)"
    for depth in (1, 2, 3):
        assert vanishing(depth, "tanh")[1] == "activation='relu'"
    names = ["tanh", "identity"] * 2
    model, advice = vanishing(4, names, warm_start=True)
    assert advice == (
        "hidden_layer_sizes=(7, 7, 7), activation=['tanh', 'identity', 'tanh'], "
        "warm_start=False"
    )
    changed = model.set_params(**eval(f"dict({advice})"))
    assert fitted(changed, *load_iris(return_X_y=True)).n_layers_ == 5


def test_counts_are_never_made_negative():
    X, _ = load_iris(return_X_y=True)
    y = np.random.RandomState(0).poisson(3000, 150)
    model = BPRegressor("poisson", 9, solver="sgd", random_state=0)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y)
    advice = advice_of(model, "divergence")
    assert advice == "TransformedTargetRegressor(model, transformer=MaxAbsScaler())"
    with pytest.raises(ValueError, match="diverged"):
        model.set_params(learning_rate_init=10).fit(X, y / 3000)
    assert advice_of(model, "divergence").startswith("learning_rate_init=")


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
        assert "acts as alpha=3e+02 would with weights of mean 1" in finding.message
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
