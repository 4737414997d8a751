"""Long fits: the recorder of gradient flow keeps to its room and thins evenly."""

import numpy as np
import pytest
from problem import Problem

from cbp import BPRegressor

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 2)), RNG.normal(size=24)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("batch_size", [1, 2, 4, 8, 24])
@pytest.mark.parametrize("n_hidden", [1, 60])
def test_a_long_fit_stays_in_its_room(batch_size, n_hidden):
    model = BPRegressor(
        hidden_layer_sizes=(2,) * n_hidden,
        activation="tanh",
        solver="sgd",
        batch_size=batch_size,
        learning_rate_init=1e-6,
        max_iter=6000 if n_hidden == 1 else 1500,
        n_iter_no_change=np.inf,
        random_state=0,
    ).fit(X, Y)
    epochs = model.gradient_flow_.epoch
    assert 2 <= len(epochs) <= 512
    assert len(epochs) * (n_hidden + 1) * 9 * 4 <= 65536
    assert epochs[0] == 0 and (np.diff(epochs) > 0).all()
    # Thinned evenly: the second half of the records is spread over half of the fit.
    assert epochs[-1] >= 0.9 * model.n_iter_ - 64 * 24
    assert (model.gradient_flow_.weight > 0).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_lbfgs_records_its_first_iterations_densely_and_later_ones_evenly():
    model = BPRegressor(
        hidden_layer_sizes=(8,) * 30,
        activation="tanh",
        solver="lbfgs",
        tol=0,
        max_iter=200,
        random_state=0,
    ).fit(X, Y)
    epochs = model.gradient_flow_.epoch
    assert model.n_iter_ > 2 * len(epochs)
    assert list(epochs[:5]) == [0, 1, 2, 4, 8]
    assert list(epochs[4:]) == list(range(8, model.n_iter_, 8))


@pytest.mark.parametrize("n_rows", [1, 40, 700])
def test_weights_that_stand_still_are_recorded_alike_in_every_epoch(n_rows):
    problem = Problem(n_rows=n_rows)
    problem.theta *= 10
    trainer, _ = problem.train(
        solver="sgd",
        learning_rate_init=1e-300,
        batch_size=n_rows,
        shuffle=False,
        monitor=True,
        max_iter=5,
    )
    flow = trainer.recorder.flow()
    assert len(flow["epoch"]) > 1
    assert flow["saturated"][0, :2].min() > 0
    for name in ("gradient", "delta", "back", "weight", "saturated", "stuck"):
        assert (flow[name] == flow[name][0]).all(), name
