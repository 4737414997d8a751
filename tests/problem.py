"""A network on random data, for the engine and for the reference; and what tests of
the compiled rooms have in common."""

import os
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import reference

from cbp._data import Data
from cbp._kernels import LOSSES, OPTIMIZERS
from cbp._network import Network
from cbp._progress import Progress, Settings
from cbp._training import Trainer

every_solver = pytest.mark.parametrize("solver", OPTIMIZERS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_loss = pytest.mark.parametrize("output, loss", sorted(LOSSES))

PROGRESS = ("optimizer", "t", "best_loss", "no_improvement_count")


def make_trainer(
    network,
    theta,
    X,
    target,
    *,
    sample_weight=None,
    rows=None,
    held_out=None,
    random_state=None,
    **numbers,
):
    """A Trainer; numbers are those of its Settings and of its Progress."""
    data = Data(network, X, target, sample_weight)
    progress = {name: numbers.pop(name) for name in PROGRESS if name in numbers}
    return Trainer(
        network,
        theta,
        data,
        Settings(**numbers),
        Progress(**progress),
        rows=rows,
        held_out=None if held_out is None else (data, held_out),
        random_state=random_state,
    )


def outcome(trainer):
    """All that must have the same bits whenever a run is the same."""
    return (
        trainer.theta.tobytes(),
        tuple(trainer.progress.loss_curve),
        trainer.progress.optimizer.state.tobytes(),
        trainer.progress.t,
        trainer.learning_rate,
    )


class Problem:
    """Random parameters, data and sample weights for one network.

    Parameters
    ----------
    zeros : float
        Fraction of X that is zero.

    Attributes
    ----------
    network, twin : the engine's Network and the reference's
    theta, X, weight : ndarray of dtype
    target : ndarray
        As a Trainer takes it: labels where the output is a probability.
    T : float64 ndarray of shape (n_rows, n_outputs)
        The same as a matrix.
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
        parameters = reference.loss_parameters(output, loss, sizes[-1])
        self.network = Network(sizes, activations, output, loss, dtype, parameters)
        self.twin = reference.Network(sizes, activations, output, loss)
        self.theta = rng.uniform(-0.4, 0.4, self.network.n_params).astype(dtype)
        self.X = rng.standard_normal((n_rows, sizes[0])).astype(dtype)
        self.X[rng.uniform(size=self.X.shape) < zeros] = 0
        if output in ("softmax", "logistic"):
            self.target = rng.randint(max(sizes[-1], 2), size=n_rows).astype(np.int32)
            self.T = reference.fill_targets(self.target, sizes[-1], np.float64)
        else:
            draw = reference.LOSSES[output, loss].draw
            self.T = draw(rng, (n_rows, sizes[-1])).astype(np.float64)
            self.target = self.T.astype(dtype)
        self.weight = rng.uniform(0.2, 2, n_rows).astype(dtype)

    def trainer(
        self, X=None, *, theta=None, random_state=3, weighted=False, **settings
    ):
        """A Trainer on a copy of theta."""
        return make_trainer(
            self.network,
            self.theta.copy() if theta is None else theta,
            self.X if X is None else X,
            self.target,
            sample_weight=self.weight if weighted else None,
            random_state=np.random.RandomState(random_state),
            **settings,
        )

    def train(self, X=None, max_iter=3, after_epoch=None, **settings):
        """The Trainer after a run, and what `run` returned."""
        trainer = self.trainer(X, **settings)
        status = trainer.run(max_iter, after_epoch)
        return trainer, status


def threads():
    """Threads of this process, as the operating system counts them if it says."""
    if os.path.isdir("/proc/self/task"):
        return len(os.listdir("/proc/self/task"))
    return threading.active_count()


@contextmanager
def no_thread_outlives():
    """Fails if more threads are left than there were.

    Python calls a thread ended a moment before the operating system does.
    """
    before, known = threads(), set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= known
    for _ in range(30_000):  # five minutes at least
        if threads() <= before:
            return
        time.sleep(0.01)
    pytest.fail("a thread is left that Python does not know")


def wide_problem(n_rows=400):
    """Enough work for four threads."""
    return Problem(sizes=(64, 100, 100, 10), n_rows=n_rows)
