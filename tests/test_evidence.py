"""What a diagnosis reads: the last fit, and what is refused with the reason why."""

import pickle

import numpy as np
import pytest
from fits import RECORDS, fitted, some_flow
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor
from cbp._solvers import SOLVERS
from cbp.diagnosis import diagnose
from cbp.gradient_flow import FailedFlow, GradientFlow

# ---- which fit is read


def test_a_diverged_fit_comes_before_an_earlier_good_one():
    X, y = load_iris(return_X_y=True)
    model = BPRegressor(solver="sgd", max_iter=20, random_state=0)
    assert "diverge" not in str(diagnose(fitted(model, X / 10, y)))
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(1e100 * X, y)
    assert hasattr(model, "coefs_")
    assert "Training diverged" in str(diagnose(model))
    assert "diverge" not in str(diagnose(fitted(model, X / 10, y)))


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


# ---- errors


def test_what_is_not_fitted_is_told_to_fit():
    with pytest.raises(NotFittedError, match="not fitted.*Call fit"):
        diagnose(BPClassifier())


def test_weights_without_training_are_told_to_fit(moons):
    model = BPClassifier(random_state=0).initialize(*moons)
    with pytest.raises(NotFittedError, match="finished no epoch.*Call fit"):
        diagnose(model)


def test_weights_set_by_hand_are_no_fit(moons):
    X, _ = moons
    model = BPClassifier((4,), warm_start=True)
    model.coefs_ = [np.ones((X.shape[1], 4)), np.ones((4, 1))]
    model.intercepts_ = [np.zeros(4), np.zeros(1)]
    for say in (diagnose, BPClassifier.diagnose):
        with pytest.raises(NotFittedError, match="not fitted.*Call fit"):
            say(model)


def test_without_monitor_the_parameter_is_named(moons):
    model = fitted(BPClassifier(monitor=False, max_iter=3), *moons)
    assert not hasattr(model, "gradient_flow_")
    with pytest.raises(ValueError, match="Set monitor=True and fit it again"):
        diagnose(model)


def test_without_monitor_a_fit_that_made_no_step_is_no_unfitted_one(moons):
    model = BPClassifier(8, "tanh", solver="lbfgs", tol=10.0, monitor=False)
    fitted(model.set_params(random_state=0), *moons)
    with pytest.raises(ValueError, match="Set monitor=True and fit it again"):
        diagnose(model)


def test_what_holds_no_network_is_refused_and_what_holds_one_is_not(moons):
    X, y = moons
    pipeline = make_pipeline(StandardScaler(), BPClassifier(max_iter=3))
    fitted(pipeline, X, y)
    assert diagnose(pipeline).verdict == diagnose(pipeline[-1]).verdict
    with pytest.raises(TypeError, match="got LogisticRegression"):
        diagnose(LogisticRegression().fit(X, y))
    # Others may have the same parameters.
    with pytest.raises(TypeError, match="got MLPClassifier"):
        diagnose(MLPClassifier())
    with pytest.raises(TypeError, match="Pass a fitted BPClassifier"):
        diagnose(BPClassifier)


@pytest.mark.parametrize("solver", ["nonsense", None, ["adam"]])
def test_an_unknown_solver_is_refused_with_the_valid_ones(deep, solver):
    model = pickle.loads(pickle.dumps(deep)).set_params(solver=solver)
    with pytest.raises(ValueError, match="'solver' parameter of BPClass") as error:
        diagnose(model)
    message = str(error.value)
    assert repr(solver) in message and all(name in message for name in SOLVERS)


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


# ---- attributes and records that other code has made


class Behind:
    """An estimator whose attributes are not in its `vars`."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)


def test_a_wrapper_that_only_passes_attributes_on_is_no_network(deep):
    with pytest.raises(TypeError, match="Pass a fitted BPClassifier .* got Behind"):
        diagnose(Behind(deep))


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
