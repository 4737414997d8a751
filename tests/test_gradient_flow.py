"""The records of a fit, the numbers noted about its data, and the form of a diagnosis.

Whether a diagnosis is right is judged in test_diagnosis.py.
"""

import pickle
import sys
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor
from cbp._network import Network
from cbp.gradient_flow import (
    Diagnosis,
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

    from cbp._training import Trainer

    network = Network((1, n_outputs), (), output, loss, np.float64)
    theta = np.zeros(network.n_params)
    trainer = Trainer(network, theta, X, y, sample_weight=weight, solver="lbfgs")
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
