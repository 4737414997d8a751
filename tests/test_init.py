"""First weights, by the rule that `init` names."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone

from cbp import BPClassifier, BPRegressor
from cbp._init import INITS

rng = np.random.RandomState(0)
X = rng.standard_normal((20, 300))
y = np.arange(20) % 3

# Variance of a weight of a layer with n_in inputs and n_out outputs.
VARIANCES = {
    "glorot": lambda n_in, n_out: 2 / (n_in + n_out),
    "he": lambda n_in, n_out: 2 / n_in,
    "lecun": lambda n_in, n_out: 1 / n_in,
    "orthogonal": lambda n_in, n_out: 1 / max(n_in, n_out),
}


def start(init, activation="relu", **parameters):
    model = BPClassifier(
        (200, 250), activation, init=init, random_state=0, **parameters
    )
    return model.initialize(X, y)


@pytest.mark.parametrize("init", INITS)
def test_weights_have_the_variance_that_the_rule_names(init):
    for W in start(init).coefs_[:2]:
        assert W.var() == pytest.approx(VARIANCES[init](*W.shape), rel=0.03)
        assert abs(W.mean()) < 4 * np.sqrt(W.var() / W.size)


@pytest.mark.parametrize("init", INITS)
def test_only_glorot_draws_biases(init):
    assert all(b.any() == (init == "glorot") for b in start(init).intercepts_)


def test_orthogonal_weights_are_orthonormal():
    for W in start("orthogonal").coefs_:
        small = W.T @ W if W.shape[0] >= W.shape[1] else W @ W.T
        np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


@pytest.mark.parametrize("activation, gain", [("selu", 0.75), ("leaky_relu", 2**0.5)])
def test_glorots_bound_has_pytorchs_gain(activation, gain):
    relu, other = start("glorot"), start("glorot", activation)
    ratio = abs(other.coefs_[1]).max() / abs(relu.coefs_[1]).max()
    assert ratio == pytest.approx(gain, rel=1e-3)


def test_selu_keeps_mean_and_variance_from_layer_to_layer_with_lecun():
    model = BPClassifier((300,) * 20, "selu", init="lecun", random_state=0)
    model.initialize(X, y)
    a = model.hidden_activations(X)
    assert abs(a.mean()) < 0.1
    assert a.var() == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_fits_start_there_in_every_way(init, dtype, solver):
    model = BPRegressor(
        hidden_layer_sizes=(7,), init=init, solver=solver, max_iter=3, random_state=0
    )
    data = X.astype(dtype)
    with pytest.warns() if solver == "lbfgs" else pytest.warns(match="converge"):
        dense = clone(model).fit(data, y)
        sparse = clone(model).fit(csr_matrix(data), y)
    assert dense.loss_curve_ == sparse.loss_curve_
    first, other = (clone(model).initialize(data, y).coefs_ for _ in range(2))
    for W, same in zip(first, other, strict=True):
        assert W.dtype == dtype
        np.testing.assert_array_equal(W, same)
