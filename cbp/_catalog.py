"""What Python must know of each activation, loss and optimizer: a row for each.

The formulas stand in src_c: activations.h, losses.h and optimizers.h, the numbers in
src_c/cbp.h; tests/test_catalog.py demands that all have the same rows. Imports nothing
of the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy


@dataclass(frozen=True)
class Activation:
    """A hidden activation a = f(z).

    Attributes
    ----------
    init_factor : float
        First weights lie within sqrt(init_factor / (n_in + n_out)), which is Glorot and
        Bengio's bound with scikit-learn's factors.
    slope : callable
        f'(z) of an array a = f(z), for pictures.
    lost_units : {"", "saturated", "dead"}
        What a unit is called whose slope is near 0; "" where that cannot be. The
        activation of a dead unit is 0, too.
    kink : bool
        Whether f has no derivative at z = 0.
    """

    init_factor: float
    slope: Callable[[NDArray], NDArray]
    lost_units: str = ""
    kink: bool = False


ACTIVATIONS = {
    "identity": Activation(6.0, np.ones_like),
    "logistic": Activation(2.0, lambda a: a * (1 - a), "saturated"),
    "tanh": Activation(6.0, lambda a: 1 - a * a, "saturated"),
    "relu": Activation(6.0, lambda a: (a > 0).astype(a.dtype), "dead", kink=True),
}

# Other names that users may give, and the row that each means.
ALIASES = {"sigmoid": "logistic"}


@dataclass(frozen=True)
class Columns:
    """Targets that are numbers, one column for each output, weighted by rows.

    Attributes
    ----------
    y : ndarray of shape (n_samples, n_outputs)
    w : ndarray of shape (n_samples, 1)
        Weights whose sum is 1.
    mean, variance : ndarray of shape (n_outputs,)
        The variance is 0 where a column is constant up to rounding.
    """

    y: NDArray
    w: NDArray
    mean: NDArray
    variance: NDArray


@dataclass(frozen=True)
class Loss:
    """A loss with the output activation that it belongs to.

    Attributes
    ----------
    column_costs : callable or None
        Of `Columns`: the cost of the best constant answer, and that of weights that are
        all zero. None: targets are labels only.
    label_costs : callable or None
        The same two costs from the shares p of the classes and the number of outputs.
        None: a loss for regressors.
    parameters : tuple of str
        The numbers that the formula takes besides z and t, named as those of the
        estimators, in the kernel's order.
    least_target : float
        Numbers below it are refused.
    unit_targets : bool
        Whether the outputs are linear and best learn targets of a size near 1.
    squared : bool
        Whether the cost grows with the square of a target, which may overflow.
    exponential : bool
        Whether the outputs grow exponentially with the inputs, so that these overflow
        early, and the first gradients are as large as the targets.
    """

    column_costs: Callable[[Columns], tuple[float, float]] | None
    label_costs: Callable[[NDArray, int], tuple[float, float]] | None = None
    parameters: tuple[str, ...] = ()
    least_target: float = -np.inf
    unit_targets: bool = False
    squared: bool = False
    exponential: bool = False


def _log_loss_of_labels(p, n_outputs):
    return -np.sum(p[p > 0] * np.log(p[p > 0])), math.log(len(p))


def _log_loss_of_columns(c):
    p = np.clip(c.mean, 0, 1)
    entropy = -np.sum((xlogy(p, p) + xlogy(1 - p, 1 - p))[c.variance > 0])
    return entropy, len(c.mean) * math.log(2)


def _squared_error_of_labels(p, n_outputs):
    # One output for two classes, else one for each class.
    return np.sum(p * (1 - p)) / (4 if n_outputs == 1 else 2), n_outputs / 8


def _squared_error_from(start):
    def costs(c):
        return c.variance.sum() / 2, (c.w * (c.y - start) ** 2).sum() / 2

    return costs


def _poisson_of_columns(c):
    # Not as a difference of sums: that is rounding if y is large and nearly equal.
    costs = xlogy(c.y, c.y / np.where(c.mean > 0, c.mean, 1)) - c.y + c.mean
    constant = np.sum((c.w * costs).sum(0)[c.variance > 0])
    return constant, np.sum(c.w * (xlogy(c.y, c.y) - c.y + 1))


# By the names of the output activation and of the loss.
LOSSES = {
    ("softmax", "log_loss"): Loss(None, _log_loss_of_labels),
    ("logistic", "log_loss"): Loss(_log_loss_of_columns, _log_loss_of_labels),
    ("logistic", "squared_error"): Loss(
        _squared_error_from(0.5), _squared_error_of_labels
    ),
    ("identity", "squared_error"): Loss(
        _squared_error_from(0.0), unit_targets=True, squared=True
    ),
    ("exp", "poisson"): Loss(_poisson_of_columns, least_target=0.0, exponential=True),
}


def is_regressors(output: str, loss: str) -> bool:
    """Whether a loss is for targets that are numbers, not labels."""
    return LOSSES[output, loss].label_costs is None


# The output activation of each loss of a regressor. Of a classifier: output_of_labels.
OUTPUT_OF = {loss: output for output, loss in LOSSES if is_regressors(output, loss)}


def output_of_labels(loss: str, exclusive: bool) -> str:
    """The output activation of a classifier's loss; exclusive: one label of several for
    each row, and an output for each."""
    return "softmax" if exclusive and ("softmax", loss) in LOSSES else "logistic"


@dataclass(frozen=True)
class Optimizer:
    """An optimizer that steps after every batch.

    Attributes
    ----------
    title : str
        Its name in a sentence.
    highest_rate : float
        The highest learning rate that is worth a try without further knowledge.
    beta_1, beta_2 : str
        The names of the parameters that its step reads as k->beta_1 and k->beta_2; ""
        where it reads none.
    second_moment : int or None
        The number of the vector that holds a mean of squared gradients: a gradient far
        below epsilon moves nothing, which is recorded. None where there is none.
    corrects_bias : bool
        Whether the learning rate of each step corrects vectors that began at zero.
    scheduled : bool
        Whether the parameter learning_rate names a schedule.
    """

    title: str
    highest_rate: float
    beta_1: str
    beta_2: str = ""
    second_moment: int | None = None
    corrects_bias: bool = False
    scheduled: bool = False


OPTIMIZERS = {
    "sgd": Optimizer("SGD", 0.3, "momentum", scheduled=True),
    "adam": Optimizer(
        "Adam", 0.01, "beta_1", "beta_2", second_moment=1, corrects_bias=True
    ),
}


@dataclass(frozen=True)
class Schedule:
    """What the learning rate follows; the formulas stand in _progress.pyx.

    Attributes
    ----------
    over_training : bool
        Whether it depends on how much of training is done, and so on its length. Those
        that do not are SGD's only, as in scikit-learn.
    """

    over_training: bool = False


SCHEDULES = {
    "constant": Schedule(),
    "invscaling": Schedule(),
    "adaptive": Schedule(),
    "cosine": Schedule(over_training=True),
    "linear": Schedule(over_training=True),
    "exponential": Schedule(over_training=True),
    "one_cycle": Schedule(over_training=True),
}

# Solvers of _solvers.py that are not compiled: they ask for losses and gradients only,
# and make their steps themselves.
WITHOUT_STEPS = ("lbfgs",)

SOLVER_NAMES = (*OPTIMIZERS, *WITHOUT_STEPS)
