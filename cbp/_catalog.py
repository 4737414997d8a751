"""What Python must know of each activation, loss and optimizer: a row for each.

The formulas stand in src_c: activations.h, losses.h and optimizers.h, the numbers in
src_c/cbp.h; tests/test_catalog.py demands that all have the same rows. Imports nothing
of the package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.utils._param_validation import Interval


@dataclass(frozen=True)
class Activation:
    """A hidden activation a = f(z).

    Attributes
    ----------
    init_factor : float
        First weights lie within sqrt(init_factor / (n_in + n_out)), which is Glorot and
        Bengio's bound with scikit-learn's factors.
    lost_units : {"", "saturated", "dead"}
        What a unit is called whose slope is near 0; "" where that cannot be. The
        activation of a dead unit is 0, too.
    kink : bool
        Whether f has no derivative at z = 0.
    """

    init_factor: float
    lost_units: str = ""
    kink: bool = False


# The factor is Glorot and Bengio's 6, for leaky_relu and selu times the square of the
# gain that torch.nn.init.calculate_gain has for them; logistic's is scikit-learn's.
ACTIVATIONS = {
    "identity": Activation(6.0),
    "logistic": Activation(2.0, "saturated"),
    "tanh": Activation(6.0, "saturated"),
    "relu": Activation(6.0, "dead", kink=True),
    "leaky_relu": Activation(12 / (1 + 0.01**2), kink=True),
    "elu": Activation(6.0, "saturated"),
    "selu": Activation(6.0 * 0.75**2, "saturated", kink=True),
    "softplus": Activation(6.0, "dead"),
    "gelu": Activation(6.0, "dead"),
    "silu": Activation(6.0, "dead"),
    "mish": Activation(6.0, "dead"),
}

# Other names that users may give, and the row that each means.
ALIASES = {"sigmoid": "logistic", "swish": "silu"}


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
        Of `Columns` and the parameters, each a number for every column: the cost of the
        best constant answer, and that of weights that are all zero. None: targets are
        labels only.
    label_costs : callable or None
        The same two costs from the shares p of the classes, the number of outputs and
        the parameters. None: a loss for regressors.
    least_cost : callable
        Of the number of classes and the parameters: the cost of perfect answers, which
        is above 0 if labels are smoothed.
    general : str
        The name of the same loss with parameters; it is taken if one of them has not
        its default. Users give the name of the plain one.
    parameters : tuple of str
        The numbers that the formula takes besides z and t, named as those of the
        estimators, in the kernel's order.
    least_target : float
        Numbers below it are refused.
    refuses_least : callable
        Of the parameters: whether that number itself is refused, too.
    unit_targets : bool
        Whether the outputs are linear and best learn targets of a size near 1.
    squared : bool
        Whether the cost grows with the square of a target, which may overflow.
    exponential : bool
        Whether the outputs grow exponentially with the inputs, so that these overflow
        early, and the first gradients are as large as the targets.
    delta_is_error : bool
        Whether delta grows with the output's error, in the units of the targets.
    robust : bool
        Whether far targets pull no more than near ones, so that their variance says
        nothing of the outputs.
    kink : bool
        Whether the cost has no derivative where output and target are equal.
    answers_mean : bool
        Whether the best answer lies in the middle of the targets, so that R2 can score
        it; else it is the quantile that the parameter names.
    """

    column_costs: Callable[..., tuple[float, float]] | None
    label_costs: Callable[..., tuple[float, float]] | None = None
    least_cost: Callable[..., float] = lambda n_classes, *parameters: 0.0
    general: str = ""
    parameters: tuple[str, ...] = ()
    least_target: float = -np.inf
    refuses_least: Callable[..., bool] = lambda *parameters: False
    unit_targets: bool = False
    squared: bool = False
    exponential: bool = False
    delta_is_error: bool = True
    robust: bool = False
    kink: bool = False
    answers_mean: bool = True


def _log_loss_of_labels(p, n_outputs):
    return -np.sum(p[p > 0] * np.log(p[p > 0])), math.log(len(p))


def _log_loss_of_columns(c):
    p = np.clip(c.mean, 0, 1)
    entropy = -np.sum((xlogy(p, p) + xlogy(1 - p, 1 - p))[c.variance > 0])
    return entropy, len(c.mean) * math.log(2)


def _focal_cost(t, p, gamma):
    """Of the answer p to smoothed labels t, whose shares sum to 1."""
    some = t > 0
    t, p = t[some], p[some]
    return np.sum(t * np.maximum(1 - p, 0) ** gamma * -np.log(p))


# Logits of probabilities, for the slopes of the focal loss between them.
_LOGITS = np.linspace(-40, 40, 4001)


def _best_focal_cost(t, gamma):
    """Of the best answer to all labels if their smoothed shares are t.

    There the slope t_j f'(p_j) of every class is the same, f(p) = -(1 - p)^gamma log p;
    -f' falls from infinity to 0. That slope is found by bisections.
    """
    log_p, log_q = -np.logaddexp(0, -_LOGITS), -np.logaddexp(0, _LOGITS)
    ratio = gamma * -log_p * np.exp(log_p - log_q) + 1
    slopes = gamma * log_q - log_p + np.log(ratio)  # log -f', falling
    some = t > 0
    low, high = slopes[-1] + np.log(t[some].min()), slopes[0]
    for _ in range(60):
        middle = (low + high) / 2
        logits = np.interp(middle - np.log(t[some]), slopes[::-1], _LOGITS[::-1])
        p = 1 / (1 + np.exp(-logits))
        low, high = (middle, high) if p.sum() > 1 else (low, middle)
    answer = np.zeros(len(t))
    answer[some] = p / p.sum()
    return _focal_cost(t, answer, gamma)


def _smoothed(t, smoothing):
    return t * (1 - smoothing) + smoothing / len(t)


def _first(parameters):
    """Of parameters that all outputs have in common."""
    return [float(np.ravel(p)[0]) for p in parameters]


def _focal_log_loss_of_labels(p, n_outputs, *parameters):
    smoothing, gamma = _first(parameters)
    t, equal = _smoothed(p, smoothing), np.full(len(p), 1 / len(p))
    return _best_focal_cost(t, gamma), _focal_cost(t, equal, gamma)


def _focal_log_loss_of_columns(c, smoothing, gamma):
    """Each output tells two classes apart."""
    costs = np.zeros(2)
    for p, s, g in np.nditer([np.clip(c.mean, 0, 1), smoothing, gamma]):
        shares = np.array([1 - p, p])
        costs += _focal_log_loss_of_labels(shares, 1, s, g)
    return tuple(costs)


def _least_focal_log_loss(n_classes, *parameters):
    return _focal_log_loss_of_labels(np.eye(n_classes)[0], 1, *parameters)[0]


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


def _sum(costs):
    """Costs of two answers, from those of every column."""
    return tuple(np.sum(cost) for cost in costs)


def _quantile_of_columns(c, level):
    def cost(z):
        d = c.y - z
        return np.sum(c.w * np.maximum(level * d, (level - 1) * d), axis=0)

    return _sum((cost(weighted_quantile(c, level)), cost(0.0)))


def weighted_quantile(c, level):
    """Of every column the least target up to which its share of the weight lies."""
    order = np.argsort(c.y, axis=0, kind="stable")
    share = np.cumsum(np.take_along_axis(np.broadcast_to(c.w, c.y.shape), order, 0), 0)
    place = np.minimum((share < level * share[-1]).sum(0), len(c.y) - 1)
    return np.take_along_axis(c.y, order, 0)[place, np.arange(c.y.shape[1])]


def _absolute_error_of_columns(c):
    return tuple(2 * cost for cost in _quantile_of_columns(c, 0.5))


def _huber_of_columns(c, delta):
    def cost(z):
        d = np.abs(c.y - z)
        near = np.minimum(d, delta)
        return np.sum(c.w * near * (d - near / 2), axis=0)

    return _sum((cost(_huber_location(c, delta)), cost(0.0)))


def _huber_location(c, delta):
    """Of every column the zero of the slope, which rises with the answer."""
    deltas = np.broadcast_to(delta, c.y.shape[1])
    columns = zip(c.y.T, deltas, strict=True)
    return np.array([_zero_of_slope(y, c.w[:, 0], float(d)) for y, d in columns])


def _zero_of_slope(y, w, delta):
    """By bisections, on sums over the sorted targets, less one of them."""
    order = np.argsort(y)
    middle = y[order[len(y) // 2]]
    y, w = y[order] - middle, w[order]
    weights = np.concatenate(([0.0], np.cumsum(w)))
    sums = np.concatenate(([0.0], np.cumsum(w * y)))
    low, high = y[0], y[-1]
    for _ in range(60):
        z = low + (high - low) / 2
        i, j = np.searchsorted(y, (z - delta, z + delta))
        near = z * (weights[j] - weights[i]) - (sums[j] - sums[i])
        far = weights[i] - (weights[-1] - weights[j])
        low, high = (low, z) if near + delta * far > 0 else (z, high)
    return middle + low + (high - low) / 2


def _tweedie_of_columns(c, power):
    """Half the deviance of the mean, which is the best answer, and of 1."""

    def cost(z):
        b, a = power - 1, 2 - power
        positive = c.y > 0
        y = np.where(positive, c.y, 1)
        w = z - np.log(y)
        up = np.where(a > 0, np.expm1(a * w) / np.where(a > 0, a, 1), w)
        down = np.where(b > 0, np.expm1(-b * w) / np.where(b > 0, b, 1), -w)
        of_zero = np.exp(a * z) / np.where(a > 0, a, 1)
        return np.sum(c.w * np.where(positive, y**a * (up + down), of_zero), axis=0)

    mean = np.where(c.mean > 0, c.mean, 1)
    constant = np.where(c.variance > 0, cost(np.log(mean)), 0)
    return _sum((constant, cost(np.zeros_like(mean))))


# By the names of the output activation and of the loss.
LOSSES = {
    ("softmax", "log_loss"): Loss(None, _log_loss_of_labels, general="focal_log_loss"),
    ("softmax", "focal_log_loss"): Loss(
        None,
        _focal_log_loss_of_labels,
        _least_focal_log_loss,
        parameters=("label_smoothing", "focal_gamma"),
        delta_is_error=False,
    ),
    ("logistic", "log_loss"): Loss(
        _log_loss_of_columns, _log_loss_of_labels, general="focal_log_loss"
    ),
    ("logistic", "focal_log_loss"): Loss(
        _focal_log_loss_of_columns,
        _focal_log_loss_of_labels,
        _least_focal_log_loss,
        parameters=("label_smoothing", "focal_gamma"),
        delta_is_error=False,
    ),
    ("logistic", "squared_error"): Loss(
        _squared_error_from(0.5), _squared_error_of_labels
    ),
    ("identity", "squared_error"): Loss(
        _squared_error_from(0.0), unit_targets=True, squared=True
    ),
    ("identity", "absolute_error"): Loss(
        _absolute_error_of_columns,
        unit_targets=True,
        delta_is_error=False,
        robust=True,
        kink=True,
    ),
    ("identity", "huber"): Loss(
        _huber_of_columns,
        parameters=("huber_delta",),
        unit_targets=True,
        delta_is_error=False,
        robust=True,
    ),
    ("identity", "quantile"): Loss(
        _quantile_of_columns,
        parameters=("quantile",),
        unit_targets=True,
        delta_is_error=False,
        robust=True,
        kink=True,
        answers_mean=False,
    ),
    ("exp", "poisson"): Loss(_poisson_of_columns, least_target=0.0, exponential=True),
    ("exp", "gamma"): Loss(
        lambda c: _tweedie_of_columns(c, np.float64(2)),
        least_target=0.0,
        refuses_least=lambda *parameters: True,
        exponential=True,
        delta_is_error=False,
    ),
    ("exp", "tweedie"): Loss(
        _tweedie_of_columns,
        parameters=("power",),
        least_target=0.0,
        refuses_least=lambda power: power == 2,
        exponential=True,
        delta_is_error=False,
    ),
}

# What a parameter is where nobody asks for anything else.
LOSS_PARAMETERS = {
    "huber_delta": 1.0,
    "quantile": 0.5,
    "power": 1.5,
    "label_smoothing": 0.0,
    "focal_gamma": 0.0,
}

# What it may be, each number of it.
LOSS_INTERVALS = {
    "huber_delta": Interval(Real, 0, None, closed="neither"),
    "quantile": Interval(Real, 0, 1, closed="neither"),
    "power": Interval(Real, 1, 2, closed="both"),
    "label_smoothing": Interval(Real, 0, 1, closed="left"),
    "focal_gamma": Interval(Real, 0, None, closed="left"),
}

# Those that may be a sequence, which increases: one number for each output.
SEQUENCES = ("quantile",)


def is_allowed(name: str, given: object) -> bool:
    """Whether users may give this number, or tuple of numbers, for a parameter."""
    numbers = given if isinstance(given, tuple) else (given,)
    inside = [
        isinstance(x, Real) and not isinstance(x, bool) and x in LOSS_INTERVALS[name]
        for x in numbers
    ]
    if not inside or not all(inside):
        return False
    if not isinstance(given, tuple):
        return True
    return name in SEQUENCES and all(a < b for a, b in pairwise(numbers))


def n_answers(parameters: tuple[float | tuple[float, ...], ...]) -> int | None:
    """Outputs for one column of targets, if a parameter has a number for each."""
    return next((len(p) for p in parameters if isinstance(p, tuple)), None)


def is_regressors(output: str, loss: str) -> bool:
    """Whether a loss is for targets that are numbers, not labels."""
    return LOSSES[output, loss].label_costs is None


# The losses that users may give a classifier.
LABEL_LOSSES = {loss for output, loss in LOSSES if not is_regressors(output, loss)}
LABEL_LOSSES -= {row.general for row in LOSSES.values()}

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
    rise : float
        The share of training in which it rises, if `warmup` names none.
    """

    over_training: bool = False
    rise: float = 0.0


SCHEDULES = {
    "constant": Schedule(),
    "invscaling": Schedule(),
    "adaptive": Schedule(),
    "cosine": Schedule(over_training=True),
    "linear": Schedule(over_training=True),
    "exponential": Schedule(over_training=True),
    "one_cycle": Schedule(over_training=True, rise=0.3),
}

# Solvers of _solvers.py that are not compiled: they ask for losses and gradients only,
# and make their steps themselves.
WITHOUT_STEPS = ("lbfgs",)

SOLVER_NAMES = (*OPTIMIZERS, *WITHOUT_STEPS)
