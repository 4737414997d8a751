"""Advice, piece by piece: that it suits how a fit was made and how it ended.

Whether following it helps is judged in test_diagnosis.py.
"""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import reference
from fits import fitted, with_records
from scipy import sparse
from sklearn.datasets import load_iris

from cbp import BPClassifier, BPRegressor
from cbp._catalog import OPTIMIZERS
from cbp.diagnosis import diagnose


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
    assert advice_of(ended(model, "max_iter"), code) == "max_iter=200"
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


def test_scaling_of_sparse_inputs_keeps_them_sparse(moons):
    X, y = moons
    model = fitted(BPClassifier(random_state=0), sparse.csr_array(1000 * X), y)
    assert diagnose(model).findings[0].advice == "make_pipeline(MaxAbsScaler(), model)"


@pytest.mark.parametrize("solver", OPTIMIZERS)
def test_after_an_absurd_rate_the_advice_is_a_usual_one(solver):
    X, y = load_iris(return_X_y=True)
    model = BPClassifier(
        20, "identity", solver=solver, learning_rate_init=1e150, random_state=0
    )
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X * 1e10, y)
    advice = [finding.advice for finding in model.diagnose().findings]
    rates = [float(text.split("=")[1]) for text in advice if "learning_rate" in text]
    assert rates
    assert max(rates) <= OPTIMIZERS[solver].highest_rate
    assert OPTIMIZERS[solver].highest_rate <= 3 * reference.OPTIMIZERS[solver].rate
