"""A network on random data, for the engine and for the reference: one class."""

import numpy as np
import reference

from cbp._network import Network
from cbp._training import Trainer


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

    def trainer(
        self, X=None, *, theta=None, random_state=3, weighted=False, **settings
    ):
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
        """The Trainer after a run, and what `run` returned."""
        trainer = self.trainer(X, **settings)
        status = trainer.run(max_iter, on_epoch)
        return trainer, status
