"""Every activation, loss and optimizer has its rows: in C, in Python, in the twin.

C's rows come from the lists of cbp.h; one without its formula does not compile. The
kernel tests run over these lists, so a twin that is missing would fail there, too.
"""

import pickle

import numpy as np
import pytest
import reference
from sklearn.metrics import accuracy_score, r2_score

from cbp import BPClassifier, BPRegressor, _catalog, _kernels, _solvers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_activations_have_the_same_rows_everywhere():
    assert (
        set(_kernels.ACTIVATIONS)
        == set(_catalog.ACTIVATIONS)
        == set(reference.ACTIVATIONS)
    )
    assert set(_catalog.ALIASES.values()) <= set(_catalog.ACTIVATIONS)


def test_losses_have_the_same_rows_everywhere():
    assert set(_kernels.LOSSES) == set(_catalog.LOSSES) == set(reference.LOSSES)
    for pair, row in _catalog.LOSSES.items():
        least, greatest = reference.LOSSES[pair].targets
        assert row.least_target == least or row.label_costs
        assert row.refuses_least(1.0) == reference.LOSSES[pair].least_is_refused
        assert len(row.parameters) == len(reference.LOSSES[pair].parameters)
        assert set(row.parameters) <= set(_catalog.LOSS_PARAMETERS)
        assert bool(row.label_costs) == (greatest == 1)
    defaults = BPRegressor().get_params() | BPClassifier().get_params()
    assert _catalog.LOSS_PARAMETERS.items() <= defaults.items()
    outputs = {output for output, _ in _kernels.LOSSES}
    assert outputs == set(_kernels.OUTPUTS) == set(reference.OUTPUTS)


@pytest.mark.parametrize("name", [*_catalog.ACTIVATIONS, *_catalog.ALIASES])
@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
def test_estimators_take_every_activation(name, estimator):
    X, y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
    model = estimator(hidden_layer_sizes=(3,), activation=name, max_iter=2)
    network = model.initialize(X, y)._network
    assert network.activations == (_catalog.ALIASES.get(name, name),)


def test_regressors_have_one_output_for_each_loss():
    regressors = [pair for pair in _catalog.LOSSES if _catalog.is_regressors(*pair)]
    assert len(regressors) == len({loss for _, loss in regressors}) > 1


@pytest.mark.parametrize("output, loss", _catalog.LOSSES)
def test_an_estimator_trains_every_loss_scores_it_and_is_pickled(output, loss):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 2))
    plain = {row.general: name for (_, name), row in _catalog.LOSSES.items()}
    parameters = dict(
        hidden_layer_sizes=(3,),
        loss=plain.get(loss, loss),
        early_stopping=True,
        max_iter=2,
    )
    if _catalog.is_regressors(output, loss):
        target = reference.LOSSES[output, loss].draw(rng, 60)
        model = BPRegressor(**parameters).fit(X, target)
        score = r2_score
    else:
        if loss in plain:
            parameters[_catalog.LOSSES[output, loss].parameters[0]] = 0.1
        n_classes = 3 if output == "softmax" else 2
        model = BPClassifier(**parameters).fit(X, rng.randint(n_classes, size=60))
        score = accuracy_score
    assert (model._network.output, model._network.loss) == (output, loss)
    assert len(model.validation_scores_) == 2
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    # R2 may be negative, accuracy not; the score is the estimator's own.
    y = model.predict(X)
    assert model.score(X, y) == score(y, y) == 1


def test_optimizers_have_the_same_rows_everywhere():
    names = set(_kernels.OPTIMIZERS)
    for name, row in _catalog.OPTIMIZERS.items():
        assert row.scheduled == reference.OPTIMIZERS[name].scheduled
    assert names == set(_catalog.OPTIMIZERS)
    assert names == set(reference.OPTIMIZERS)
    assert names == set(_solvers.STOCHASTIC)
    assert set(_catalog.SOLVER_NAMES) == set(_solvers.SOLVERS)


@pytest.mark.parametrize("name, row", _solvers.SOLVERS.items())
def test_another_solver_is_one_that_goes_another_way(name, row):
    other = _solvers.SOLVERS[row.instead]
    assert other.chooses_its_steps != row.chooses_its_steps
    assert (name in _catalog.WITHOUT_STEPS) == (row.optimizer is None)


@pytest.mark.parametrize("name", _catalog.ACTIVATIONS)
def test_units_can_be_lost_where_their_slope_can_vanish(name):
    row, z = _catalog.ACTIVATIONS[name], np.array([-600.0, -50.0, 50.0, 600.0])
    a, slope = reference.keep_slope(z, name)
    assert np.isfinite(a).all() and row.init_factor > 0
    assert bool(row.lost_units) == (slope < 0.0099).any()


@pytest.mark.parametrize("name", _catalog.ACTIVATIONS)
def test_slopes_match_central_differences(name):
    f, slope, *_ = reference.ACTIVATIONS[name]
    z, h = np.linspace(-3, 3, 100), 1e-6
    expected = (f(z + h) - f(z - h)) / (2 * h)
    np.testing.assert_allclose(slope(z, f(z)), expected, atol=1e-8)


@pytest.mark.parametrize(
    "empty", [(), [], np.array([])], ids=["tuple", "list", "array"]
)
def test_without_hidden_layers_no_activation_is_needed(empty):
    X, y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
    models = [
        BPClassifier(hidden_layer_sizes=(), activation=activation, random_state=0)
        for activation in (empty, "identity")
    ]
    given, named = (model.initialize(X, y).coefs_[0] for model in models)
    np.testing.assert_array_equal(given, named)
