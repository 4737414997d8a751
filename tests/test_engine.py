"""Training and prediction by cbp._training and cbp._network, without the estimators.

Same bits for any number of threads, tier, format and batch position; the trainings of
the reference network; scikit-learn's shuffles; what happens at divergence, interrupts
and forks; memory.
"""

import os
import pickle
import signal
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from child import run_python
from kernel_table import TIERS
from scipy.sparse import csr_array, csr_matrix
from sklearn.utils import shuffle as sklearn_shuffle

from cbp import _kernels, _training
from cbp._network import LOSSES, Network
from cbp._training import Trainer

SOLVERS = ("adam", "sgd")

every_solver = pytest.mark.parametrize("solver", SOLVERS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_loss = pytest.mark.parametrize("output, loss", sorted(LOSSES))


class Problem:
    """A network with random parameters, and data for it.

    Parameters
    ----------
    zeros : float
        Fraction of X that is zero.
    """

    def __init__(
        self,
        output="softmax",
        loss="log_loss",
        activations=("relu", "tanh"),
        sizes=(12, 17, 9, 3),
        n_rows=150,
        dtype=np.float64,
        zeros=0.0,
        seed=0,
    ):
        rng = np.random.RandomState(seed)
        self.network = Network(sizes, activations, output, loss, dtype)
        self.twin = reference.Network(sizes, activations, output, loss)
        self.theta = rng.uniform(-0.4, 0.4, self.network.n_params).astype(dtype)
        self.X = rng.standard_normal((n_rows, sizes[0])).astype(dtype)
        self.X[rng.uniform(size=self.X.shape) < zeros] = 0
        if output in ("softmax", "logistic"):
            self.target = rng.randint(max(sizes[-1], 2), size=n_rows).astype(np.int32)
            self.T = reference.fill_targets(self.target, sizes[-1], np.float64)
        else:
            self.T = rng.poisson(1.5, (n_rows, sizes[-1])).astype(np.float64)
            self.target = self.T.astype(dtype)
        self.weight = rng.uniform(0.2, 2, n_rows).astype(dtype)

    def trainer(self, X=None, *, theta=None, random_state=3, weighted=False, **settings):
        """A Trainer on a copy of theta."""
        return Trainer(
            self.network,
            self.theta.copy() if theta is None else theta,
            self.X if X is None else X,
            self.target,
            sample_weight=self.weight if weighted else None,
            random_state=np.random.RandomState(random_state),
            **settings,
        )

    def train(self, X=None, max_iter=3, on_epoch=None, **settings):
        """The Trainer after a run; `status` is what run returned."""
        trainer = self.trainer(X, **settings)
        status = trainer.run(max_iter, on_epoch)
        return trainer, status


def outcome(trainer):
    """All that must have the same bits whenever a run is the same."""
    return (
        trainer.theta.tobytes(),
        tuple(trainer.loss_curve),
        trainer.optimizer.state.tobytes(),
        trainer.t,
        trainer.learning_rate,
    )


# ---- one run, one set of bits


BATCHES = {
    "one": dict(batch_size=1, n_rows=37),
    "few": dict(batch_size=32, n_rows=150),
    "blocks": dict(batch_size=333, n_rows=900),
    "chunks": dict(batch_size=2500, n_rows=5100),
}
every_batch = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)


@every_batch
@every_solver
@every_dtype
def test_csr_training_has_the_bits_of_the_dense_one(batch, solver, dtype):
    problem = Problem(n_rows=batch["n_rows"], dtype=dtype, zeros=0.7)
    settings = dict(solver=solver, batch_size=batch["batch_size"], alpha=1e-3)
    dense, _ = problem.train(**settings)
    for X in (csr_matrix(problem.X), csr_array(problem.X)):
        sparse, _ = problem.train(X, **settings)
        assert outcome(sparse) == outcome(dense)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    wide, _ = problem.train(X, **settings)
    assert outcome(wide) == outcome(dense)


@pytest.mark.parametrize("n_threads", [2, 3, 4, 8])
@pytest.mark.parametrize("batch_size", [200, 333, 2500])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@every_solver
def test_any_number_of_threads_gives_the_same_bits(
    n_threads, batch_size, sparse, solver
):
    problem = Problem(
        sizes=(64, 100, 100, 10), n_rows=2 * batch_size + 17, zeros=0.5
    )
    X = csr_matrix(problem.X) if sparse else problem.X
    settings = dict(
        solver=solver, batch_size=batch_size, alpha=1e-3, weighted=True, max_iter=2
    )
    alone, _ = problem.train(X, **settings)
    at_work = []
    team, _ = problem.train(
        X,
        n_threads=n_threads,
        on_epoch=lambda *_: at_work.append(threading.active_count()),
        **settings,
    )
    assert max(at_work) - threading.active_count() == n_threads - 1
    assert outcome(team) == outcome(alone)


@pytest.mark.parametrize("n_threads", [2, 3, 4])
def test_any_number_of_threads_gives_the_same_gradient(n_threads):
    problem = Problem(sizes=(64, 100, 100, 10), n_rows=2500, dtype=np.float32)
    settings = dict(solver="lbfgs", alpha=0.1, weighted=True)
    value, gradient = problem.trainer(**settings).loss_gradient(problem.theta)
    team = problem.trainer(n_threads=n_threads, **settings)
    other_value, other = team.loss_gradient(problem.theta)
    assert value == other_value
    assert np.array_equal(gradient, other)


@every_batch
@every_solver
def test_recording_gradient_flow_changes_no_bit(batch, solver):
    problem = Problem(n_rows=batch["n_rows"], zeros=0.5)
    settings = dict(solver=solver, batch_size=batch["batch_size"], weighted=True)
    for X in (problem.X, csr_matrix(problem.X)):
        plain, _ = problem.train(X, **settings)
        monitored, _ = problem.train(X, monitor=True, **settings)
        assert outcome(monitored) == outcome(plain)


def test_callbacks_change_no_bit_and_see_the_weights_of_their_epoch():
    problem = Problem()
    seen = []
    trainer = problem.trainer(batch_size=40)
    trainer.run(4, lambda epoch, loss: seen.append((loss, trainer.theta.copy())))
    for epoch, (loss, theta) in enumerate(seen, 1):
        plain, _ = problem.train(batch_size=40, max_iter=epoch)
        assert plain.theta.tobytes() == theta.tobytes()
        assert plain.loss_curve[-1] == loss
    assert len(seen) == 4


TRAININGS_ON_THIS_TIER = """
import hashlib
import numpy as np
from scipy.sparse import csr_matrix
from test_engine import LOSSES, Problem, outcome
from cbp import _kernels
print(_kernels.isa())
for dtype in (np.float32, np.float64):
    for number, (output, loss) in enumerate(sorted(LOSSES)):
        for activation in ("tanh", "logistic", "relu"):
            problem = Problem(
                output, loss, (activation, "relu"), (9, 18, 7, 3), 150, dtype, 0.5
            )
            for solver, batch_size, X in (
                ("adam", 1, problem.X[:40]),
                ("sgd", 1, problem.X[:40]),
                ("adam", 131, problem.X),
                ("sgd", 64, csr_matrix(problem.X)),
            ):
                rows = np.arange(X.shape[0])
                problem.target, problem.weight = (
                    problem.target[rows], problem.weight[rows]
                ) if X.shape[0] < 150 else (problem.target, problem.weight)
                run, _ = problem.train(
                    problem.X, rows=rows, solver=solver, batch_size=batch_size,
                    alpha=1e-3, max_iter=2,
                )
                digest = hashlib.sha256(repr(outcome(run)).encode())
                digest.update(problem.network.predict(run.theta, problem.X))
                print(digest.hexdigest())
"""
