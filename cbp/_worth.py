"""What the answers of a model are worth: beside a constant answer and a linear model.

`judge` scores outputs on some rows. `linear_model` is made at the end of a fit, which
takes a few milliseconds as a rule: so it solves one system of equations, and imports
nothing. `by_folds` takes scikit-learn's models where a user waits for an answer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cbp._catalog import LOSSES, is_regressors
from cbp._given_rows import Seen
from cbp._network import Network
from cbp._prediction import predict

# Rows that are scored and that a linear model is trained on; its weights that are kept.
MOST_ROWS = 4096
_MOST_WEIGHTS = 8192
# Shares of the time of a fit that a linear model, and a look for a signal, may take.
_FOR_LINEAR, _FOR_SIGNAL = 0.002, 0.005
# In nanoseconds, on one core with AVX2: the calls of a linear model, a floating-point
# operation of it, and what a random feature of a row costs beside its products.
_CALLS_NS, _FLOP_NS, _FEATURE_NS, _RANK_NS = 2e5, 0.06, 40.0, 150.0
# The penalty of scikit-learn's Ridge; the share of their mean variance by which those
# of classes are raised.
_PENALTY, _SHRINK = 1.0, 1e-3


@dataclass(frozen=True)
class Worth:
    """What answers are worth on some rows.

    Parameters
    ----------
    kind : {'accuracy', 'labels', 'r2', 'share'}
        What `score` is: the share of rows, or of labels, that are right; R2; the share
        of the cost of the best constant answer that is saved, where R2 says nothing.
    score : float
    constant : float
        The same of a constant answer: the commonest class of the training rows; 0 for
        'r2' and 'share'.
    n_rows : int
    answers : float
        Share of the rows that get the commonest class of the training rows as their
        answer; 0 without classes.
    balanced : float
        Mean over classes of the share of their rows that are right; `score` without
        classes.
    """

    kind: str
    score: float
    constant: float
    n_rows: int
    answers: float = 0.0
    balanced: float = 0.0

    @property
    def share(self) -> float:
        """The share of what a constant answer leaves to be won, at most 1."""
        if self.constant >= 1:
            return 1.0 if self.score >= 1 else 0.0
        return (self.score - self.constant) / (1 - self.constant)


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model of the same task.

    Parameters
    ----------
    W : ndarray of shape (n_features, n_outputs)
    b : ndarray of shape (n_outputs,)
    """

    W: NDArray
    b: NDArray

    def outputs(self, X: Any) -> NDArray:
        """Answers for rows as they reach the network, shape (n_samples, n_outputs):
        `judge` takes them for outputs of the network."""
        return np.asarray(X @ self.W) + self.b


def judge(
    network: Network,
    outputs: NDArray,
    target: Any,
    weight: NDArray | None = None,
    common: int | None = None,
) -> Worth | None:
    """Scores outputs of a network.

    Parameters
    ----------
    network : Network
    outputs : ndarray of shape (n_samples, n_outputs)
    target : ndarray or CSR matrix
        As `Data` takes it.
    weight : ndarray of shape (n_samples,), default=None
    common : int, default=None
        The number of the commonest class of the training rows. None means of these.

    Returns
    -------
    Worth or None
        None if there is nothing to score: no row has weight, or an output is not
        finite.
    """
    w = np.ones(len(outputs)) if weight is None else np.asarray(weight, np.float64)
    if len(outputs) == 0 or not w.sum() > 0 or not np.isfinite(outputs).all():
        return None
    w = w / w.sum()
    with np.errstate(all="ignore"):
        if target.dtype == np.int32:
            return _judge_classes(network, outputs, target, w, common)
        if not is_regressors(network.output, network.loss):
            y = target.toarray() if sparse.issparse(target) else target
            right = (outputs > 0.5) == (y > 0.5)
            score = float(w @ right.mean(1))
            mean = w @ (y > 0.5)
            constant = float(np.maximum(mean, 1 - mean).mean())
            return Worth("labels", score, constant, len(w), balanced=score)
        y = np.asarray(target, np.float64)
        return _judge_numbers(network, np.asarray(outputs, np.float64), y, w)


def _judge_classes(
    network: Network, outputs: NDArray, target: NDArray, w: NDArray, common: int | None
) -> Worth:
    if target.ndim == 2:  # several columns of labels
        ends = np.cumsum(network.groups)
        parts = np.split(outputs, ends[:-1], axis=1)
        answers = np.column_stack([part.argmax(1) for part in parts])
        score = float(w @ (answers == target).mean(1))
        shares = [np.bincount(column, w).max() for column in target.T]
        return Worth("labels", score, float(np.mean(shares)), len(w), balanced=score)
    single = outputs.shape[1] == 1
    answers = (outputs[:, 0] > 0.5).astype(int) if single else outputs.argmax(1)
    right = answers == target
    shares = np.bincount(target, w)
    if common is None:
        common = int(shares.argmax())
    of_class = np.bincount(target, w * right, len(shares))[shares > 0]
    return Worth(
        "accuracy",
        float(w @ right),
        float(shares[common]) if common < len(shares) else 0.0,
        len(w),
        answers=float(w @ (answers == common)),
        balanced=float((of_class / shares[shares > 0]).mean()),
    )


def _judge_numbers(network: Network, z: NDArray, y: NDArray, w: NDArray) -> Worth:
    loss = LOSSES[network.output, network.loss]
    if y.shape[1] != z.shape[1]:  # one column of targets for several quantiles
        y = np.broadcast_to(y, z.shape)
    w = w[:, np.newaxis]
    if loss.robust:
        level = np.array([0.5])
        if not loss.answers_mean:
            level = np.ravel(network.loss_parameters[0])
        answer = _quantiles(y, w, np.broadcast_to(level, y.shape[1]))
        costs = [(w * _pinball(y - a, level)).sum(0) for a in (z, answer)]
        kind = "share"
    else:
        mean = (w * y).sum(0)
        costs = [(w * (y - a) ** 2).sum(0) for a in (z, mean)]
        kind = "r2"
    some = costs[1] > 1e-24 * (w * y * y).sum(0)
    if not some.any():
        score = 1.0 if costs[0].max() == 0 else 0.0
    else:
        score = float(1 - (costs[0][some] / costs[1][some]).mean())
    return Worth(kind, score, 0.0, len(y), balanced=score)


def _pinball(d: NDArray, level: NDArray) -> NDArray:
    return np.maximum(level * d, (level - 1) * d)


def _quantiles(y: NDArray, w: NDArray, levels: NDArray) -> NDArray:
    order = np.argsort(y, axis=0)
    share = np.cumsum(np.take_along_axis(np.broadcast_to(w, y.shape), order, 0), 0)
    place = np.minimum((share < levels * share[-1]).sum(0), len(y) - 1)
    return np.take_along_axis(y, order, 0)[place, np.arange(y.shape[1])]


# ---- a linear model


def linear_model(
    network: Network, X: Any, target: Any, weight: NDArray | None, budget: float
) -> Linear | None:
    """Ridge regression, or linear discriminants of classes, of some rows.

    Both solve one system of equations: the time of an iterative method would show
    beside that of a fit.

    Parameters
    ----------
    network : Network
    X, target, weight
        Some rows, as `Data` takes them.
    budget : float
        Nanoseconds that it may take.

    Returns
    -------
    Linear or None
        None if it would take more time or memory, overflows, or the targets are
        several columns of labels or judged by quantiles.

    References
    ----------
    .. [1] T. Hastie, R. Tibshirani, J. Friedman, "The Elements of Statistical
       Learning", 2009, sections 3.4.1 and 4.3.
    """
    n_rows, n_columns = X.shape
    n_weights = (n_columns + 1) * network.n_outputs
    cost = _CALLS_NS + _FLOP_NS * n_columns**2 * (2 * n_rows + n_columns)
    labels = target.dtype == np.int32
    known = target.ndim == 1 if labels else not _is_robust(network)
    if cost > budget or n_weights > _MOST_WEIGHTS or not known:
        return None
    if sparse.issparse(X) or sparse.issparse(target):
        return None
    with np.errstate(all="ignore"):
        found = _solve(network, X, target, weight)
    return found if np.isfinite(found.W).all() and np.isfinite(found.b).all() else None


def _is_robust(network: Network) -> bool:
    return LOSSES[network.output, network.loss].robust


def _solve(network: Network, X: Any, target: Any, weight: NDArray | None) -> Linear:
    mean, scale = _scale_of(X)
    # In float32, which halves the time; the penalty is far above its rounding.
    Z = ((X - mean) / scale).astype(np.float32)
    w = np.ones(len(Z)) if weight is None else np.asarray(weight, np.float64)
    w = (w / w.mean()).astype(np.float32)[:, np.newaxis]
    gram = (w * Z).T @ Z + _PENALTY * np.eye(Z.shape[1], dtype=np.float32)
    if target.dtype != np.int32:
        y = np.asarray(target, np.float64)
        middle = (w * y).mean(0)
        W = np.linalg.solve(gram, Z.T @ (w * (y - middle)))
        b = middle - (w * Z).mean(0) @ W
    else:
        shares, centers = _classes_of(Z, target, w, max(network.n_outputs, 2))
        within = gram - len(Z) * (centers.T * shares) @ centers
        # Of few rows the covariance is rounding in some directions.
        within += _SHRINK * np.trace(within) / len(within) * np.eye(len(within))
        W = np.linalg.solve(within / len(Z), centers.T)
        b = np.log(np.maximum(shares, 1e-300)) - (centers.T * W).sum(0) / 2
        if network.n_outputs == 1:  # its answer is the second class above 1/2
            W, b = W[:, 1:] - W[:, :1], b[1:] - b[:1] + 0.5
    W = W / scale[:, np.newaxis]
    return Linear(W.astype(np.float32), (b - mean @ W).astype(np.float64))


def _classes_of(
    Z: NDArray, target: NDArray, w: NDArray, n_classes: int
) -> tuple[NDArray, NDArray]:
    """Share and mean of the rows of each class; the mean is 0 where there are none."""
    one_hot = np.zeros((len(Z), n_classes), np.float32)
    one_hot[np.arange(len(Z)), target] = w[:, 0]
    sums = one_hot.sum(0)
    centers = (one_hot.T @ Z) / np.maximum(sums, 1e-30)[:, np.newaxis]
    return sums / len(Z), centers


# Rows that are needed to train on four fifths of them and judge by the others.
_LEAST_FOLDED = 100
_MOST_ENTRIES = 2**23


def by_folds(
    network: Network,
    X: Any,
    target: Any,
    weight: NDArray | None,
    common: int | None,
) -> Worth | None:
    """What a linear model of scikit-learn is worth on rows that are given.

    Each fifth is judged by a model of the others: for fits that were too short for a
    linear model of their own. Called by a user who waits, not in a fit.

    Parameters
    ----------
    network : Network
    X, target, weight
        As `Data` takes them.
    common : int or None
        The number of the commonest class of the training rows.

    Returns
    -------
    Worth or None
        None if there are too few rows, or too few of a class, or more numbers than
        should be made dense.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold

    some = slice(0, None, -(-X.shape[0] // MOST_ROWS))
    X, target = X[some], target[some]
    weight = None if weight is None else weight[some]
    one_label = target.dtype == np.int32 and target.ndim == 1
    numbers = not sparse.issparse(target) and target.dtype != np.int32
    if X.shape[0] < _LEAST_FOLDED or not (one_label or numbers):
        return None
    if not one_label and _is_robust(network):
        return None
    if X.shape[0] * X.shape[1] > _MOST_ENTRIES:  # they would be made dense
        return None
    mean, scale = _scale_of(X)
    Z = ((X.toarray() if sparse.issparse(X) else X) - mean) / scale
    outputs = np.zeros((len(Z), network.n_outputs))
    model = LogisticRegression(max_iter=100) if one_label else Ridge()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for train, test in KFold(5, shuffle=True, random_state=0).split(Z):
            if one_label and len(np.unique(target[train])) < 2:
                return None
            w = None if weight is None else weight[train]
            model.fit(Z[train], target[train], w)
            if not one_label:
                found = model.predict(Z[test]).reshape(len(test), -1)
                outputs[test] = found
            elif network.n_outputs == 1:
                outputs[test, 0] = model.predict_proba(Z[test])[:, 1]
            else:
                outputs[np.ix_(test, model.classes_)] = model.predict_proba(Z[test])
    return judge(network, outputs, target, weight, common)


def _scale_of(X: Any) -> tuple[NDArray, NDArray]:
    n_rows = X.shape[0]
    if sparse.issparse(X):
        mean = np.asarray(X.mean(0), np.float64).ravel()
        square = np.asarray(X.multiply(X).mean(0), np.float64).ravel()
        spread = np.sqrt(np.maximum(square - mean * mean, 0))
    else:
        mean, spread = X.mean(0, dtype=np.float64), X.std(0, dtype=np.float64)
    # Constant up to rounding.
    constant = spread <= 1e-6 * np.abs(mean) / max(n_rows, 1) ** 0.5
    return mean, np.where(constant | (spread == 0), 1.0, spread)


# ---- a signal


@dataclass(frozen=True)
class Signal:
    """Whether X says anything about y.

    Parameters
    ----------
    score : float
        What X says: the square of the largest correlation of a column with a target if
        that is beyond chance; else the share of the targets' variance that a quick
        model of random features explains in rows that it was not trained on.
    noise : float
        The same of targets that were shuffled.
    n_features : int
        Random features; 0 if a column was enough.
    n_rows : int
    """

    score: float
    noise: float
    n_features: int
    n_rows: int


# Standard errors of a correlation that is beyond chance for any number of columns.
_BEYOND_CHANCE = 5.0
# Random features, rows for them, and how often targets are shuffled for comparison.
_FEATURES, SIGNAL_ROWS, _LEAST_ROWS, _SHUFFLES = 48, 1024, 128, 9
_MOST_COLUMNS = 4  # of targets
# Columns of X that are looked at one by one, and together.
_ONE_BY_ONE, _TOGETHER = 1024, 32
# What an entry costs, in nanoseconds, where columns are looked at one by one, and where
# their means are taken; the share of a fit that means of many rows may take.
_ENTRY_NS, _MEAN_NS, _FOR_MEANS = 13.0, 6.0, 0.002
# Few fits come so far; of them it may take that long, or a third of the fit.
_SUSPICIOUS_NS = 1e6


def find_signal(network: Network, X: Any, target: Any, budget: float) -> Signal | None:
    """Looks for a column that tells of a target, and if there is none at many at once.

    Parameters
    ----------
    network : Network
    X, target
        Some rows, as `Data` takes them.
    budget : float
        Nanoseconds that this may take, if at least 128 rows are looked at.

    Returns
    -------
    Signal or None
        None if nothing can be said: too few rows, or too little time.
    """
    if X.shape[0] < 16 or sparse.issparse(X):
        return None
    # Drawn, as rows may be sorted, and the first of them are looked at.
    wide = min(X.shape[1], _ONE_BY_ONE)
    most = min(max(int(budget / (_ENTRY_NS * wide)), _LEAST_ROWS), SIGNAL_ROWS)
    some = np.random.default_rng(0).permutation(X.shape[0])[:most]
    X = X[np.ix_(some, range(0, X.shape[1], -(-X.shape[1] // _ONE_BY_ONE)))]
    with np.errstate(all="ignore"):
        y = _columns_of(target[some])
        mean, scale = _scale_of(X)
        Z = np.clip((X - mean) / scale, -5, 5)
        spread = np.maximum(y.std(0), 1e-300)
        correlations = Z.T @ ((y - y.mean(0)) / spread) / len(y)
        largest, n_rows = float(np.abs(correlations).max(initial=0)), len(y)
        if largest * n_rows**0.5 > _BEYOND_CHANCE:
            return Signal(largest**2, _BEYOND_CHANCE**2 / n_rows, 0, n_rows)
        # All columns were looked at one by one, some are looked at together.
        together = X[:, :: -(-X.shape[1] // _TOGETHER)]
        cost = _FEATURES * (0.2 * together.shape[1] + _FEATURE_NS)  # of a row
        cost += _RANK_NS * together.shape[1]
        most = max(int((budget - _CALLS_NS) / cost), 0)
        together, y = together[:most], y[:most]
        if len(y) < _LEAST_ROWS:
            return None
        # Ranks, as a few far values may hide all others.
        Z = np.argsort(np.argsort(together, axis=0), axis=0) / len(y) - 0.5
        return _signal_of(Z * 12**0.5, y)


def _columns_of(target: Any) -> NDArray:
    """Targets as numbers that far ones do not rule: labels as 0 and 1, else ranks."""
    if target.dtype == np.int32:
        labels = target.reshape(len(target), -1)
        columns = [
            labels[:, i] == c
            for i in range(labels.shape[1])
            for c in np.unique(labels[:, i])
        ]
        y = np.column_stack(columns).astype(np.float64)
    else:
        # Those that vary most, before any is made dense or sorted.
        mean = np.asarray(target.mean(0)).ravel()
        square = target.multiply(target) if sparse.issparse(target) else target * target
        variance = np.asarray(square.mean(0)).ravel() - mean * mean
        y = target[:, np.argsort(-variance, kind="stable")[:_MOST_COLUMNS]]
        y = y.toarray() if sparse.issparse(y) else y
        y = np.argsort(np.argsort(y, axis=0), axis=0).astype(np.float64)
    common = np.argsort(-y.var(0), kind="stable")[:_MOST_COLUMNS]
    return y[:, common]


def _signal_of(Z: NDArray, y: NDArray) -> Signal | None:
    """Ridge regression of random features, on each half of the rows in turn."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((Z.shape[1], _FEATURES)) / Z.shape[1] ** 0.5
    # Half of the features are nearly linear.
    directions *= np.where(np.arange(_FEATURES) % 2, 0.3, 1.5)
    H = np.tanh(Z @ directions + rng.standard_normal(_FEATURES) * 0.5)
    if not np.isfinite(H).all():
        return None
    order = rng.permutation(len(y))
    shuffled = [order, *(rng.permutation(len(y)) for _ in range(_SHUFFLES))]
    H, Y = H[order], np.concatenate([y[places] for places in shuffled], axis=1)
    halves = slice(len(y) // 2), slice(len(y) // 2, None)
    left, total = np.zeros(Y.shape[1]), np.zeros(Y.shape[1])
    for train, test in (halves, halves[::-1]):
        center, middle = H[train].mean(0), Y[train].mean(0)
        A = H[train] - center
        gram = A.T @ A + len(A) * max(0.03 * A.var(), 1e-12) * np.eye(_FEATURES)
        weights = np.linalg.solve(gram, A.T @ (Y[train] - middle))
        missed = Y[test] - middle - (H[test] - center) @ weights
        left += (missed**2).sum(0)
        total += ((Y[test] - middle) ** 2).sum(0)
    left, total = (x.reshape(len(shuffled), -1).sum(1) for x in (left, total))
    explained = 1 - left / np.maximum(total, 1e-300)
    noise = float(explained[1:].max())
    return Signal(float(explained[0]), noise, _FEATURES, len(y))


# ---- all of it, at the end of a fit


@dataclass(frozen=True, eq=False)
class Standing:
    """What the model of a fit is worth at its end.

    Parameters
    ----------
    common : int or None
        The number of the commonest class of the training rows.
    train, held : Worth or None
        Of at most 4,096 rows that were trained on, and that the fit held out.
    linear_train, linear_held : Worth or None
        The same of a linear model.
    linear : Linear or None
        That model, for rows that are given later.
    signal : Signal or None
    seen : Seen or None
        Where the columns of the training rows lie.
    target_mean, target_spread : float or None
        Mean and standard deviation of a single column of numbers.
    """

    common: int | None = None
    train: Worth | None = None
    held: Worth | None = None
    linear_train: Worth | None = None
    linear_held: Worth | None = None
    linear: Linear | None = None
    signal: Signal | None = None
    seen: Seen | None = None
    target_mean: float | None = None
    target_spread: float | None = None


def _with_constant(worth: Worth | None, constant: float | None) -> Worth | None:
    """With the share of the commonest class in all rows, not in those scored."""
    if worth is None or constant is None:
        return worth
    return replace(worth, constant=constant)


def stand(
    network: Network,
    theta: NDArray,
    trained: tuple[Any, Any, NDArray | None],
    held_out: tuple[Any, Any, NDArray | None] | None,
    n_scored: int,
    spent: float,
    n_rows: int,
    constant: float | None = None,
) -> Standing:
    """Judges the model that a fit ends with.

    Parameters
    ----------
    network : Network
    theta : ndarray of shape (n_params,)
    trained, held_out : tuple (X, target, sample_weight or None)
        Some rows that were trained on and some that were held out, as `Data` takes
        them.
    n_scored : int
        How many of the rows that were trained on may be scored.
    spent : float
        Nanoseconds that the fit took, as its size tells: no clock decides.
    n_rows : int
        Rows that were trained on.
    constant : float, default=None
        The share of the commonest class in all rows. None if there are no classes.

    Returns
    -------
    Standing
    """
    X, target, weight = trained
    some = slice(0, None, -(-X.shape[0] // n_scored))
    rows = X[some] if sparse.issparse(X) else np.ascontiguousarray(X[some])
    scored = rows, target[some], None if weight is None else weight[some]
    common = None
    if target.dtype == np.int32 and target.ndim == 1 and len(target):
        common = int(np.bincount(target, weight).argmax())

    def score(outputs: Any, X: Any, target: Any, weight: Any) -> Worth | None:
        with np.errstate(all="ignore"):
            return judge(network, outputs(X), target, weight, common)

    def of_network(X: Any) -> NDArray:
        return predict(network, theta, X)

    most = int(_FOR_MEANS * spent / (_MEAN_NS * X.shape[1]))
    seen = Seen.of(X, n_rows, min(max(most, 2 * _LEAST_ROWS), SIGNAL_ROWS))
    found: dict[str, Any] = {"common": common, "seen": seen}
    if target.dtype != np.int32 and not sparse.issparse(target):
        if target.shape[1] == 1:
            found["target_mean"] = float(target.mean(dtype=np.float64))
            found["target_spread"] = float(target.std(dtype=np.float64))
    found["train"] = _with_constant(score(of_network, *scored), constant)
    linear = linear_model(network, X, target, weight, _FOR_LINEAR * spent)
    if linear is not None:
        found["linear"] = linear
        of_linear = score(linear.outputs, *scored)
        found["linear_train"] = _with_constant(of_linear, constant)
    if held_out is not None:
        found["held"] = score(of_network, *held_out)
        if linear is not None:
            found["linear_held"] = score(linear.outputs, *held_out)
    budget = max(_FOR_SIGNAL * spent, min(_SUSPICIOUS_NS, 0.3 * spent))
    found["signal"] = find_signal(network, X, target, budget)
    return Standing(**found)
