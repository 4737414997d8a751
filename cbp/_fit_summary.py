"""What a fit notes of its data: a few numbers, so that a diagnosis needs no data.

`FitSummary.of_data` looks at some rows before training, `FitSummary.at_end` at some
outputs after it. What the numbers mean is said in diagnosis.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cbp._catalog import LOSSES, Columns, weighted_quantile
from cbp._columns import NOTHING_SEEN, DataFaults, spread

if TYPE_CHECKING:
    from cbp._network import Network
    from cbp._worth import Standing

# Rows that are looked at: enough for a scale, few enough to cost nothing.
_SAMPLE_ROWS = 64
_SAMPLE_TARGETS = 4096
# A class is rare if its share is below this part of the commonest one's; so many of its
# rows are needed to say whether it is predicted.
_RARE = 0.25
_LEAST_RARE_ROWS = 5
# Columns of sparse targets that are made dense at a time: 2 MB.
_SPARSE_COLUMNS = 64


@dataclass(frozen=True)
class FitSummary:
    """What `diagnose` must know of the data and of the end of a fit, in few numbers.

    `of_data` makes it before training, `at_end` completes it. Scales are those of a
    sample of rows, spread evenly: at most 64 of X, 4096 of the targets.

    Parameters
    ----------
    n_rows : int
        Rows that were trained on.
    mean_weight : float
        Mean sample weight of a row.
    is_sparse : bool
        Whether X is a sparse matrix.
    column : int
        The column of X with the largest root mean square.
    column_size, column_mean : float
        That root mean square, and the column's mean.
    row_length : float
        Root mean square length of a row of X after the columns' means are subtracted.
    target_size : float
        Root mean square of the targets; of several outputs the largest.
    target_variance : float
        Variance of the targets (of classes: as 0 and 1), the mean over outputs. Of a
        robust loss that of normal numbers with the same quartiles, if that is less.
    constant_cost : float
        The least cost that a constant answer can have, without penalty, less
        `least_cost`.
    zero_cost : float
        The cost of a network whose weights are all zero, likewise.
    outcome : {'', 'converged', 'max_iter', 'stuck', 'diverged', 'interrupted', \
            'stopped', 'partial'}
        How training ended: its patience or tolerance, max_iter (or max_fun), a line
        search of L-BFGS that found no lower cost, non-finite numbers, an interrupt ('',
        too), a callback; 'partial' is one call of `partial_fit`.
    output_variance : float or None
        Variance of the outputs at the end, in the sampled rows, the mean over outputs.
        None if the cost shows well enough that they are not constant.
    weight_unit : float
        The power of two in which sample weights are counted, here and in the records;
        1 unless they are very large or very small.
    given_weights : bool or None
        Whether training went on from weights that were there before. None if that was
        not noted; then it is guessed.
    least_cost : float
        The cost of perfect answers, which is above 0 where labels are smoothed.
    rare_class : int or None
        The number of the rarest class, if its share of the rows' weight is less than a
        quarter of the commonest one's. None if there is no such class, or several
        columns of labels.
    rare_share : float
        That share.
    recall : float or None
        The share of the rarest class's rows, of 64 at most, for which it is predicted
        at the end. None if there is no such class, or fewer than 5 rows were met.
    clipped : float
        The share of the steps that `max_grad_norm` has shortened.
    last_rate : float or None
        The learning rate of the last step; None if the solver has none.
    standing : Standing or None
        What the model is worth at the end, None if there is none or after
        `partial_fit`.
    faults : DataFaults
        What is wrong with the data, seen at the end; empty if nobody looked.
    """

    n_rows: int
    mean_weight: float
    is_sparse: bool
    column: int
    column_size: float
    column_mean: float
    row_length: float
    target_size: float
    target_variance: float
    constant_cost: float
    zero_cost: float
    outcome: str = ""
    output_variance: float | None = None
    weight_unit: float = 1.0
    given_weights: bool | None = None
    least_cost: float = 0.0
    rare_class: int | None = None
    rare_share: float = 0.0
    recall: float | None = None
    clipped: float = 0.0
    last_rate: float | None = None
    # Arrays are not compared: what is equal before it is equal in it, too.
    standing: Standing | None = field(default=None, compare=False)
    faults: DataFaults = NOTHING_SEEN

    @classmethod
    def of_data(
        cls,
        network: Network,
        X: Any,
        target: NDArray,
        sample_weight: NDArray | None = None,
        rows: NDArray | None = None,
        given_weights: bool | None = None,
    ) -> FitSummary:
        """Looks at the data before training.

        Parameters
        ----------
        network : Network
        X : ndarray or CSR matrix of shape (n_samples, n_features)
        target : ndarray or CSR matrix
            As `Data` takes it: class numbers or a matrix.
        sample_weight : ndarray of shape (n_samples,), default=None
        rows : int ndarray, default=None
            The rows to train on; None means all.
        given_weights : bool, default=None
            Whether training goes on from weights that were there before.

        Returns
        -------
        FitSummary
        """
        n_rows = X.shape[0] if rows is None else len(rows)
        with np.errstate(all="ignore"):  # numbers near the largest float are no error
            some, weight, mean_weight = _weighed(n_rows, sample_weight, rows)
            return cls(
                n_rows=n_rows,
                mean_weight=mean_weight,
                is_sparse=sparse.issparse(X),
                given_weights=given_weights,
                **_summarize_inputs(X, rows),
                **_summarize_targets(network, target[some], weight),
            )

    def at_end(
        self,
        outcome: str,
        loss: float = math.inf,
        outputs: Callable[[slice | NDArray], NDArray] | None = None,
        labels: Callable[[NDArray], NDArray] | None = None,
    ) -> FitSummary:
        """The summary of a fit that has ended.

        Parameters
        ----------
        outcome : str
        loss : float
            Cost of the last epoch.
        outputs : callable, default=None
            Maps some rows of X to the outputs of the trained network. Called only if
            the loss is so high that they may be constant, or if a class is rare; None
            if training diverged.
        labels : callable, default=None
            Maps places of rows to their class numbers. Called only if a class is rare.

        Returns
        -------
        FitSummary
        """
        variance = None
        if outputs is not None and loss - self.least_cost >= 0.5 * self.constant_cost:
            some = spread(self.n_rows, _SAMPLE_ROWS)
            with np.errstate(all="ignore"):
                variance = float(outputs(some).var(0).mean())
        recall = None
        if outputs is not None and labels is not None and self.rare_class is not None:
            recall = self._recall(outputs, labels)
        return replace(self, outcome=outcome, output_variance=variance, recall=recall)

    def _recall(self, outputs: Callable, labels: Callable) -> float | None:
        """The share of some rows of the rarest class for which it is predicted."""
        some = np.arange(self.n_rows)[spread(self.n_rows, _SAMPLE_TARGETS)]
        rare = some[labels(some) == self.rare_class]
        if len(rare) < _LEAST_RARE_ROWS:
            return None
        answers = outputs(rare[spread(len(rare), _SAMPLE_ROWS)])
        # A single output stands for two classes.
        single = answers.shape[1] == 1
        predicted = answers[:, 0] > 0.5 if single else answers.argmax(1)
        return float(np.mean(predicted == self.rare_class))


def _weighed(
    n_rows: int, sample_weight: NDArray | None, rows: NDArray | None
) -> tuple[slice | NDArray, NDArray, float]:
    """Rows whose targets are looked at, their weights (1 the largest), the mean weight.

    Rows without weight are passed over if no other was met.
    """
    some = spread(n_rows, _SAMPLE_TARGETS)
    chosen = some if rows is None else rows[some]
    if sample_weight is None:
        return chosen, np.ones(len(range(*some.indices(n_rows)))), 1.0
    weight = sample_weight[chosen].astype(np.float64)
    mean = weight.mean()
    if not weight.any():
        weight = (sample_weight if rows is None else sample_weight[rows]).astype(float)
        mean = weight.mean()
        heavy = np.flatnonzero(weight)
        if len(heavy) == 0:  # nothing was trained
            return chosen, np.ones(len(sample_weight[chosen])), 0.0
        heavy = heavy[spread(len(heavy), _SAMPLE_TARGETS)]
        chosen, weight = heavy if rows is None else rows[heavy], weight[heavy]
    return chosen, weight / weight.max(), float(mean)


def _summarize_inputs(X: Any, rows: NDArray | None) -> dict[str, Any]:
    n_rows = X.shape[0] if rows is None else len(rows)
    some = spread(n_rows, _SAMPLE_ROWS)
    X = X[some] if rows is None else X[rows[some]]
    values = (X.data if sparse.issparse(X) else X).astype(np.float64)
    # Squares of the largest numbers would overflow.
    unit = max(float(np.abs(values).max(initial=0)) / 1e100, 1.0)
    values /= unit
    if sparse.issparse(X):
        sums = np.bincount(X.indices, values, X.shape[1])
        squares = np.bincount(X.indices, np.square(values), X.shape[1])
    else:
        sums, squares = values.sum(0), np.einsum("ij,ij->j", values, values)
    mean, mean_square = sums / X.shape[0], squares / X.shape[0]
    column = int(mean_square.argmax())
    # Rounding can make the least variances negative.
    variance = np.maximum(mean_square - mean * mean, 0).sum()
    return {
        "column": column,
        "column_size": float(np.sqrt(mean_square[column]) * unit),
        "column_mean": float(mean[column] * unit),
        "row_length": float(np.sqrt(variance) * unit),
    }


def _summarize_targets(
    network: Network, target: NDArray, weight: NDArray
) -> dict[str, Any]:
    """Scales of the targets, and the costs of two answers that need no network."""
    loss = LOSSES[network.output, network.loss]
    parameters = [np.array(p) for p in network.loss_parameters]
    if target.dtype == np.int32:  # class numbers, in one column or several
        groups = network.groups or (network.layer_sizes[-1],)
        costs, variances, least = [], [], 0.0
        for n, column in zip(groups, target.reshape(len(target), -1).T, strict=True):
            # A single logistic output stands for two classes.
            n_classes = n if network.output == "softmax" else max(n, 2)
            p = np.bincount(column, weight, n_classes)
            p /= p.sum()  # exactly 1 if there is one class
            variances.append(p * (1 - p))
            costs.append(loss.label_costs(p, n, *parameters))
            least += loss.least_cost(n_classes, *parameters)
        return {
            "target_size": 1.0,
            "target_variance": float(np.concatenate(variances).mean()),
            **(_rarest(p) if len(groups) == 1 else {}),
            **_above(least, *map(sum, zip(*costs, strict=True))),
        }
    w = weight[:, np.newaxis] / weight.sum()
    sizes, variances, costs, least = [], [], [], 0
    for y in _dense_columns(target):
        mean = (w * y).sum(0)
        variance = (w * (y - mean) ** 2).sum(0)
        size = (w * y * y).sum(0)
        variance[variance < 1e-24 * size] = 0  # constant except for rounding
        each = np.broadcast_arrays(mean, *parameters)[1:]
        least += sum(loss.least_cost(2, *column) for column in zip(*each, strict=True))
        sizes.append(size.max())
        columns = Columns(y, w, mean, variance)
        variances.append(_spread_of(columns) if loss.robust else variance)
        costs.append(loss.column_costs(columns, *parameters))
    return {
        "target_size": float(np.sqrt(max(sizes))),
        "target_variance": float(np.concatenate(variances).mean()),
        **_above(least, *map(sum, zip(*costs, strict=True))),
    }


def _rarest(p: NDArray) -> dict[str, Any]:
    """The class with the least share, if that is far below the greatest one."""
    share = np.where(p > 0, p, np.inf)
    rarest = int(share.argmin())
    if not share[rarest] < _RARE * p.max():
        return {}
    return {"rare_class": rarest, "rare_share": float(share[rarest])}


def _spread_of(c: Columns) -> NDArray:
    """The variance of every column, as outliers do not change it."""
    low, high = (weighted_quantile(c, level) for level in (0.25, 0.75))
    between = np.square((high - low) / 1.349)  # 1 for normal numbers
    return np.where(between > 0, np.minimum(between, c.variance), c.variance)


def _above(least: float, constant: float, zero: float) -> dict[str, float]:
    # Less than that is rounding: nothing was there to learn.
    constant = constant - least if constant - least > 1e-12 * least else 0.0
    return {
        "constant_cost": float(constant),
        "zero_cost": float(zero - least),
        "least_cost": float(least),
    }


def _dense_columns(target: Any) -> Iterator[NDArray]:
    """The targets in float64; of a sparse matrix some columns at a time."""
    if not sparse.issparse(target):
        yield target.astype(np.float64)
        return
    target = target.tocsc()
    for start in range(0, target.shape[1], _SPARSE_COLUMNS):
        some = target[:, start : start + _SPARSE_COLUMNS]
        yield some.toarray(order="C").astype(np.float64)
