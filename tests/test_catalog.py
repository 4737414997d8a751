"""Every activation and loss has its rows: in C, in cbp/_catalog.py, in the slow twin.

C's rows come from the lists of cbp.h; one without its formula does not compile. The
kernel tests run over these lists, so a twin that is missing would fail there, too.
"""

import numpy as np
import pytest
import reference

from cbp import BPClassifier, BPRegressor, _catalog, _kernels


def test_activations_have_the_same_rows_everywhere():
    assert (
        set(_kernels.ACTIVATIONS)
        == set(_catalog.ACTIVATIONS)
        == set(reference.ACTIVATIONS)
    )
    assert set(_catalog.ALIASES.values()) <= set(_catalog.ACTIVATIONS)


def test_losses_have_the_same_rows_everywhere():
    assert set(_kernels.LOSSES) == set(_catalog.LOSSES) == set(reference.LOSSES)
    outputs = {output for output, _ in _kernels.LOSSES}
    assert outputs == set(_kernels.OUTPUTS) == set(reference.OUTPUTS)


@pytest.mark.parametrize("name", [*_catalog.ACTIVATIONS, *_catalog.ALIASES])
@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_estimators_take_every_activation(name, estimator):
    X, y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
    model = estimator(hidden_layer_sizes=(3,), activation=name, max_iter=2)
    network = model.initialize(X, y)._network
    assert network.activations == (_catalog.ALIASES.get(name, name),)


@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_estimators_take_every_loss(estimator):
    regressor = estimator is BPRegressor
    names = {
        loss
        for (_, loss), row in _catalog.LOSSES.items()
        if (row.label_costs is None) == regressor
    }
    (options,) = estimator._parameter_constraints["loss"]
    assert options.options == names


@pytest.mark.parametrize("name", _catalog.ACTIVATIONS)
def test_slopes_match_central_differences(name):
    f, slope = reference.ACTIVATIONS[name].f, _catalog.ACTIVATIONS[name].slope
    z, h = np.linspace(-3, 3, 100), 1e-6
    expected = (f(z + h) - f(z - h)) / (2 * h)
    np.testing.assert_allclose(slope(f(z)), expected, atol=1e-8)


@pytest.mark.parametrize("output, loss", _catalog.LOSSES)
def test_costs_of_constant_answers_are_those_of_the_twin(output, loss):
    """The best constant z against a search, and the cost of z = 0."""
    row = _catalog.LOSSES[output, loss]
    rng = np.random.RandomState(0)
    if row.label_costs is not None:
        n_outputs = 3 if output == "softmax" else 1
        n_classes = max(n_outputs, 2)
        labels = rng.randint(n_classes, size=60)
        t = (
            labels[:, None] == np.arange(n_classes)
            if n_outputs > 1
            else labels[:, None]
        )
        costs = row.label_costs(np.bincount(labels) / 60, n_outputs)
    else:
        t = rng.poisson(3.0, (60, 1)).astype(float)
        w = np.full((60, 1), 1 / 60)
        costs = row.column_costs(_catalog.Columns(t, w, t.mean(0), t.var(0)))
    t = t.astype(float)

    def mean_cost(z):
        return reference.cost(np.tile(z, (60, 1)), t, output, loss).mean()

    # The best constant answer is the mean, whatever the loss.
    share = t.mean(0)
    best = {
        "softmax": np.log,
        "logistic": lambda p: np.log(p / (1 - p)),
        "identity": lambda p: p,
        "exp": np.log,
    }[output](share)
    np.testing.assert_allclose(costs, [mean_cost(best), mean_cost(0 * best)])
