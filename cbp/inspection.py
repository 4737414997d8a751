"""Backpropagation as data, and its proof by central differences.

`backpropagate` shows what one pass through a network computes, equation by equation.
`check_gradient` compares the gradient with differences of the cost. Training computes
the same things with the same kernels. docs/backpropagation.md explains the equations,
with the same numbers. docs/worked_example.md has a worked network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from cbp._catalog import ACTIVATIONS, LOSSES
from cbp._data import Data
from cbp._fitting import one_batch
from cbp._network import Network
from cbp._parameters import n_threads, number
from cbp._progress import Settings
from cbp._training import Trainer

if TYPE_CHECKING:
    from cbp._base import Floats, Rows
    from cbp.estimators import BPClassifier, BPRegressor

EPS = float(np.finfo(np.float64).eps)

# How far a step moves a weighted input z. The difference (C(w + h) - C(w - h)) / 2h has
# an error of about h^2 from the curve of C, and of EPS |C| / h from its rounding. Over
# 32 networks the median error was 2e-8 with 6e-6, 7e-9 with 6e-5 and 2e-8 with 2e-4. A
# smaller step leaves out fewer rows.
STEP = 3e-5

# A ReLU unit has no derivative at z = 0. Rows in which a unit comes this close are left
# out. It is ten steps, because a step may move later layers further than its own layer.
KINK = 10 * STEP

# An error counts as rounding up to AGREEMENT times the layer's largest derivative plus
# NOISE times the noise floor. Right gradients of the same networks used an eighth of
# this limit.
AGREEMENT = 1e-6
NOISE = 10


@dataclass(frozen=True, eq=False, repr=False)
class Backpropagation:
    """The four equations for n rows, as data; layer l is at index l - 1.

    n_0 is the number of inputs, n_l is the number of units of layer l, and L is the
    last layer. The equations are written for the arrays below; a row of an array is a
    sample. f is the activation of the layer. w_i is the weight of row i (1 if no
    weights are given). A product in square brackets is element by element.

    Attributes
    ----------
    x : ndarray or CSR matrix of shape (n, n_0)
        a^0, the inputs as the network takes them.

    z : list of L ndarrays of shape (n, n_l)
        (1.1) Weighted inputs, ``z[l] = a[l - 1] @ W[l] + b[l]``.

    a : list of L ndarrays of shape (n, n_l)
        (1.2) Activations, ``a[l] = f(z[l])``; the last array has the outputs.

    delta : list of L ndarrays of shape (n, n_l)
        Errors: derivatives of the cost of one row, times its weight, by its z.
        (2.5) is for the last layer, ``delta[L] = w_i [dC/da f'(z[L])]``.
        (3.7) is for the others, ``delta[l] = [(delta[l + 1] @ W[l + 1].T) f'(z[l])]``.

    dW : list of L ndarrays of shape (n_{l-1}, n_l)
        (4.1) Derivatives of the cost by the weights,
        ``dW[l] = (a[l - 1].T @ delta[l] + alpha W[l]) / sum(w_i)``.

    db : list of L ndarrays of shape (n_l,)
        (5.1) Derivatives by the biases, ``db[l] = sum(delta[l]) / sum(w_i)``.

    cost : float
        C, the weighted mean of the rows' costs, with the penalty,
        ``(sum(w_i C_i) + alpha / 2 sum(W ** 2)) / sum(w_i)``.

    activations : tuple of L str
        f of every layer; the last is the output's.
    """

    x: Any
    z: list[Floats]
    a: list[Floats]
    delta: list[Floats]
    dW: list[Floats]
    db: list[Floats]
    cost: float
    activations: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            ["layer", "f", "W", "rms z", "rms a", "rms delta", "/ next", "rms dW"]
            + ["rms db"]
        ]
        sizes = [_rms(delta) for delta in self.delta]
        for i, f in enumerate(self.activations):
            ratio = ""
            if i + 1 < len(sizes):
                ratio = f"{sizes[i] / sizes[i + 1]:.3g}" if sizes[i + 1] else "-"
            numbers = [_rms(self.z[i]), _rms(self.a[i]), sizes[i]]
            rows.append(
                [str(i + 1), f, "{} x {}".format(*self.dW[i].shape)]
                + [f"{number:.2e}" for number in numbers]
                + [ratio, f"{_rms(self.dW[i]):.2e}", f"{_rms(self.db[i]):.2e}"]
            )
        n_rows = len(self.z[0])
        return f"Backpropagation of {n_rows} rows, cost C = {self.cost:.6g}\n" + (
            _table(rows)
        )

    __repr__ = __str__


@dataclass(frozen=True)
class LayerCheck:
    """What `check_gradient` found in one layer.

    Attributes
    ----------
    layer : int
        1 to L.

    relative_error : float
        Largest difference between the two gradients, divided by `largest_gradient`.

    where : str
        The parameter with this difference, as ``"W1[0, 2]"`` for
        ``coefs_[0][0, 2]`` or ``"b1[2]"`` for ``intercepts_[0][2]``.

    largest_gradient : float
        Largest absolute derivative in the layer.

    noise_floor : float
        How large a difference quotient can become by rounding alone. It has two parts:
        the rounding of the cost, divided by the step, and the rounding of the outputs
        (this matters if they are almost equal to the targets).

    n_checked, n_params : int
        Number of parameters compared, and of all parameters of the layer.

    below_floor : bool
        Whether the layer's gradient is no larger than `noise_floor`. Then the
        differences show noise, and the relative error says nothing.

    agrees : bool
        Whether both gradients are equal up to rounding.
    """

    layer: int
    relative_error: float
    where: str
    largest_gradient: float
    noise_floor: float
    n_checked: int
    n_params: int
    below_floor: bool
    agrees: bool


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """Backpropagation against central differences, layer by layer.

    Attributes
    ----------
    largest_error : float
        Largest relative error of all layers that are not below the noise floor. NaN if
        all layers are below it.

    where : str or None
        The parameter with this error, as ``"W1[0, 2]"``; None if there is none.

    layers : tuple of LayerCheck
        The layers, first to last.

    n_rows, n_left_out : int
        Number of rows compared, and of rows left out. In a row left out, a ReLU unit is
        so close to its kink that a step could cross it.

    agrees : bool
        Whether all layers agree.
    """

    largest_error: float
    where: str | None
    layers: tuple[LayerCheck, ...]
    n_rows: int
    n_left_out: int

    @property
    def agrees(self) -> bool:
        return all(layer.agrees for layer in self.layers)

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else "DISAGREE"
        text = f"Backpropagation and central differences {verdict}"
        if self.where is None:
            text += ", but every layer lies below the noise floor"
        else:
            text += f": largest relative error {self.largest_error:.1e} at {self.where}"
            if self.agrees and self.largest_error > AGREEMENT:
                text += ", no more than rounding may make"
        rows = [
            ["layer", "checked", "largest |gradient|", "noise floor"]
            + ["relative error", "at"]
        ]
        for check in self.layers:
            error = f"{check.relative_error:.1e}"
            rows.append(
                [str(check.layer), f"{check.n_checked} of {check.n_params}"]
                + [f"{check.largest_gradient:.1e}", f"{check.noise_floor:.1e}"]
                + ["below the floor" if check.below_floor else error, check.where]
            )
        text += f" ({self.n_rows} rows).\n{_table(rows)}"
        if self.n_left_out:
            text += (
                f"\n{self.n_left_out} more rows are left out: in them a ReLU unit has "
                f"|z| < {KINK:.0e}, or an output is as near to y and the loss has a "
                "kink there, which a step can cross."
            )
        return text

    __repr__ = __str__


def backpropagate(
    est: BPClassifier | BPRegressor,
    X: Rows,
    y: ArrayLike,
    sample_weight: ArrayLike | float | None = None,
) -> Backpropagation:
    """Backpropagate through a fitted or initialized model, and show everything.

    All rows make one batch, as for one step of gradient descent on them. The numbers
    come from the same kernels as in training.

    Parameters
    ----------
    est : BPClassifier or BPRegressor
        A fitted model, or one with initial weights, ``est.initialize(X, y)``. It is not
        changed.

    X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        Inputs.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels or targets. Some classes may be missing.

    sample_weight : array-like of shape (n_samples,), float or None, default=None
        Weights >= 0 of the rows. None gives all rows the same weight.

    Returns
    -------
    result : Backpropagation
        Lists `z`, `a`, `delta`, `dW`, `db` with one array per layer, and the `cost`,
        with the model's penalty. If you print it, you see a table of their sizes.

    Raises
    ------
    TypeError
        If `est` is not one of the two estimators.
    NotFittedError
        If it has no weights yet.
    ValueError
        If X, y or sample_weight are not allowed.

    See Also
    --------
    check_gradient : Is the gradient right?

    Examples
    --------
    >>> from cbp import BPClassifier, backpropagate
    >>> from cbp.datasets import make_two_spheres
    >>> X, y = make_two_spheres(random_state=0)
    >>> est = BPClassifier((3, 2), "sigmoid", random_state=0).initialize(X, y)
    >>> flow = backpropagate(est, X, y)
    >>> [delta.shape for delta in flow.delta]
    [(200, 3), (200, 2), (200, 1)]
    """
    network, theta, X, target, weight = _problem(est, X, y, sample_weight)
    flow = _trainer(est, network, theta, X, target, weight).backpropagate(theta)
    W, b = _places(network)
    return Backpropagation(
        x=X,
        z=flow["z"],
        a=flow["a"],
        delta=flow["delta"],
        dW=[flow["gradient"][places] for places in W],
        db=[flow["gradient"][places] for places in b],
        cost=flow["loss"],
        activations=(*network.activations, network.output),
    )


@validate_params(
    {
        "max_checks": [None, Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def check_gradient(
    est: BPClassifier | BPRegressor,
    X: Rows,
    y: ArrayLike,
    sample_weight: ArrayLike | float | None = None,
    *,
    max_checks: int | None = 200,
    random_state: int | np.random.RandomState | None = 0,
) -> GradientCheck:
    """Compare backpropagation with central differences of the cost, layer by layer.

    Gradient and differences are computed in float64, even for a float32 model, because
    the difference of two float32 costs would be too inexact. A step moves a weighted
    input z by at most 3e-5. The step of a weight is divided by its largest input, so
    the scale of X does not matter. Rows in which a ReLU unit has ``abs(z)`` below ten
    steps are left out, because the derivative may jump there; likewise, with the losses
    'absolute_error' and 'quantile', those in which an output is as near to y.

    Parameters
    ----------
    est : BPClassifier or BPRegressor
        A fitted model, or one with initial weights, ``est.initialize(X, y)``. It is not
        changed.

    X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        Inputs; a few hundred rows are enough.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels or targets. Some classes may be missing.

    sample_weight : array-like of shape (n_samples,), float or None, default=None
        Weights >= 0 of the rows. None gives all rows the same weight.

    max_checks : int or None, default=200
        At most this many parameters of a layer are compared. They are chosen at random,
        but the parameter with the largest derivative is always one of them. None
        compares all parameters. Each one takes two passes over X.

    random_state : int, RandomState instance or None, default=0
        Source of this choice.

    Returns
    -------
    check : GradientCheck
        The largest relative error and its place, and the same for every layer. An error
        is relative to the layer's largest absolute derivative. If you print it, you see
        a table.

    Raises
    ------
    TypeError
        If `est` is not one of the two estimators.
    NotFittedError
        If it has no weights yet.
    ValueError
        If X, y, sample_weight or a parameter is not allowed; if no row is left; if the
        cost is not finite.

    See Also
    --------
    backpropagate : What is compared.

    Examples
    --------
    >>> from cbp import BPClassifier, check_gradient
    >>> from cbp.datasets import make_two_spheres
    >>> X, y = make_two_spheres(random_state=0)
    >>> est = BPClassifier((3, 2), "sigmoid", random_state=0).initialize(X, y)
    >>> check = check_gradient(est, X, y)
    >>> check.agrees, check.largest_error < 1e-7
    (True, True)
    """
    network, theta, X, target, weight = _problem(est, X, y, sample_weight)
    if network.dtype != np.float64:
        network, theta, X, target, weight = _widened(network, theta, X, target, weight)
    if weight is not None and not weight.all():  # such rows do not exist
        X, target, weight = (part[weight > 0] for part in (X, target, weight))
    flow = _trainer(est, network, theta, X, target, weight).backpropagate(theta)
    rows = _rows_off_kinks(network, flow["z"], target, weight)
    trainer = _trainer(est, network, theta, X, target, weight, rows)
    cost, gradient = trainer.loss_gradient(theta)
    if not (math.isfinite(cost) and np.isfinite(gradient).all()):
        raise ValueError(
            f"The cost of these rows, {cost}, or its gradient is not finite: scale X, "
            "or give the model smaller weights."
        )
    rng = check_random_state(random_state)
    output = np.abs(flow["z"][-1]).max()
    layers = []
    a_prev = [X, *flow["a"][:-1]]
    every = zip(a_prev, *_places(network), strict=True)
    for layer, (a, W, b) in enumerate(every, start=1):
        inputs = _largest(a)
        # Steps of the weights and the biases: each moves z by at most STEP.
        h = np.repeat(STEP / np.maximum(1, [*inputs, 1]), b.size)
        places = np.concatenate([W.ravel(), b])
        chosen = _choose(np.abs(gradient[places]), max_checks, rng)
        slopes = [_slope(trainer, theta, places[i], h[i]) for i in chosen]
        floor = EPS * (abs(cost) / h[chosen].min() + inputs.max() * output)
        layers.append(
            _compare(layer, W.shape, gradient[places], np.array(slopes), chosen, floor)
        )
    heard = [check for check in layers if not check.below_floor]
    worst = max(heard, key=lambda check: check.relative_error, default=None)
    return GradientCheck(
        largest_error=math.nan if worst is None else worst.relative_error,
        where=None if worst is None else worst.where,
        layers=tuple(layers),
        n_rows=len(rows),
        n_left_out=X.shape[0] - len(rows),
    )


def _choose(
    sizes: Floats, max_checks: int | None, rng: np.random.RandomState
) -> NDArray[np.integer[Any]]:
    """Indices of the derivatives to check; the largest is one of them."""
    if max_checks is None or max_checks >= sizes.size:
        return np.arange(sizes.size)
    chosen = rng.choice(sizes.size, max_checks, replace=False)
    if sizes.argmax() not in chosen:
        chosen[0] = sizes.argmax()
    return np.sort(chosen)


def _compare(
    layer: int,
    shape: tuple[int, int],
    gradient: Floats,
    slopes: Floats,
    chosen: NDArray[np.integer[Any]],
    floor: float,
) -> LayerCheck:
    """The gradient of a layer, weights of `shape` first, and the slopes of `chosen`."""
    largest = max(np.abs(gradient).max(), np.abs(slopes).max())
    errors = np.abs(slopes - gradient[chosen])
    k, j = divmod(int(chosen[errors.argmax()]), shape[1])
    return LayerCheck(
        layer=layer,
        relative_error=float(errors.max() / largest) if largest else 0.0,
        where=f"W{layer}[{k}, {j}]" if k < shape[0] else f"b{layer}[{j}]",
        largest_gradient=float(largest),
        noise_floor=float(floor),
        n_checked=chosen.size,
        n_params=gradient.size,
        below_floor=bool(largest <= floor),
        agrees=bool(errors.max() <= AGREEMENT * largest + NOISE * floor),
    )


def _slope(trainer: Trainer, theta: Floats, place: int, h: float) -> float:
    """(C(w + h) - C(w - h)) / 2h for the parameter at `place` of theta."""
    moved = theta.copy()
    moved[place] = theta[place] + h
    above, high = moved[place], trainer.loss_gradient(moved)[0]
    moved[place] = theta[place] - h
    below, low = moved[place], trainer.loss_gradient(moved)[0]
    return (high - low) / (above - below)  # 2h as it was rounded


def _problem(est, X, y, sample_weight):
    """Network, theta, X, targets and weights of one batch, as training takes them."""
    from cbp.estimators import BPClassifier, BPRegressor

    if not isinstance(est, BPClassifier | BPRegressor):
        raise TypeError(
            f"est must be a BPClassifier or BPRegressor, got {type(est).__name__}. Of "
            "a pipeline give the last step, and X as the steps before transform it."
        )
    if not est.__sklearn_is_fitted__():
        raise NotFittedError(
            f"This {type(est).__name__} has no weights yet. Call fit(X, y), or "
            "initialize(X, y), which draws weights but does not train."
        )
    network, theta, X, target, weight = one_batch(est, X, y, sample_weight)
    if weight is not None and not weight.any():
        raise ValueError("sample_weight is zero in every row: there is no cost.")
    return network, theta, X, target, weight


def _trainer(est, network, theta, X, target, weight, rows=None) -> Trainer:
    """A trainer that takes all rows at once; theta stays as it is."""
    return Trainer(
        network,
        theta.copy(),
        Data(network, X, target, weight),
        Settings(
            solver="lbfgs",
            alpha=number(est, "alpha"),
            n_threads=n_threads(est.n_jobs),
        ),
        rows=rows,
    )


def _widened(network, theta, X, target, weight):
    """The same problem in float64."""
    network = Network(
        network.layer_sizes,
        network.activations,
        network.output,
        network.loss,
        np.float64,
        network.loss_parameters,
        network.groups,
    )
    if target.dtype == np.float32:
        target = target.astype(np.float64)
    if weight is not None:
        weight = weight.astype(np.float64)
    return network, theta.astype(np.float64), X.astype(np.float64), target, weight


def _places(network: Network) -> tuple[list[NDArray], list[NDArray]]:
    """The places in theta of every W and of every b, as arrays shaped like them."""
    return network.views(np.arange(network.n_params))


def _rows_off_kinks(
    network: Network, z: list[Floats], target: NDArray, weight
) -> NDArray[np.int64]:
    """The rows in which no unit could cross the kink of its activation, and no output
    that of the loss."""
    near = np.zeros(len(z[0]), dtype=bool)
    for f, z_l in zip(network.activations, z[:-1], strict=True):
        if ACTIVATIONS[f].kink:
            near |= (np.abs(z_l) < KINK).any(axis=1)
    if LOSSES[network.output, network.loss].kink:
        near |= (np.abs(z[-1] - target) < KINK).any(axis=1)
    rows = np.flatnonzero(~near).astype(np.int64)
    if len(rows) == 0 or not (weight is None or weight[rows].any()):
        raise ValueError(
            "Nothing can be compared: in every row of X (with a weight) some ReLU unit "
            f"has |z| < {KINK:.0e}, and at z = 0 it has no derivative, or an output is "
            "as near to y, where the loss has none. Give other rows or other weights."
        )
    return rows


def _largest(a) -> Floats:
    """Largest |a| of every column; a may be sparse."""
    largest = abs(a).max(axis=0)
    return largest.toarray().ravel() if sparse.issparse(largest) else largest


def _rms(values: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _table(rows: list[list[str]]) -> str:
    """Columns of text, flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
