"""The look at the data of a fit when it has ended: what `diagnose` must know of them.

The look takes a few milliseconds, and a fit on few data does not last much longer. So
where the data are few, copies of them are kept, and the look is taken when somebody
asks for what it finds. It is taken at once where they are many.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from cbp._columns import TRAIN_NS, look_at
from cbp._fit_summary import FitSummary
from cbp._kernels import all_finite
from cbp._network import Network
from cbp._prediction import predict
from cbp._validation import Checked, kernel_ready
from cbp._worth import MOST_ROWS, SIGNAL_ROWS, Standing, stand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

# Bytes that are kept beside a model at most.
_KEPT_BYTES = 2**20
# How much more than a fit's own share a look may take for which somebody waits.
_WAITED_FOR = 10
# Work for which a look at columns takes 10 ms: all that is kept.
_ENOUGH = 2e10
# Rows that are scored at least, and the share of a fit's work that scores of more of
# them may take.
_LEAST_ROWS, _FOR_SCORES = 256, 0.0015
# Entries of X that are copied for them at most, where that leaves `_LEAST_ROWS` rows.
_MOST_ENTRIES = 2**22

# Tests set this to False, so that they see errors of a look.
GUARDED = True


@contextmanager
def harmless(waited_for: bool = False) -> Iterator[None]:
    """What is noted for a diagnosis never costs a trained model.

    Whoever waits for it is told if there is no memory, and may ask again.
    """
    try:
        yield
    except Exception as error:
        if not GUARDED or (waited_for and isinstance(error, MemoryError)):
            raise


class HeldOut(NamedTuple):
    """Rows of some data that are scored after every epoch."""

    data: Checked
    rows: NDArray


@dataclass(frozen=True, eq=False)
class Look:
    """What is looked at.

    Parameters
    ----------
    network : Network
    data : Checked
    rows : ndarray or None
        Those trained on; None means all.
    held_out : HeldOut or None
    went_on : bool
        Whether the weights to begin with were those of an earlier fit.
    batch_size : int or None
        None if rows are shuffled.
    weighted : bool
        Whether weights of rows count in scores. Weights of classes do not: they are
        for training.
    """

    network: Network
    data: Checked
    rows: NDArray | None
    held_out: HeldOut | None
    went_on: bool
    batch_size: int | None
    weighted: bool

    @property
    def n_rows(self) -> int:
        """The number of rows trained on."""
        return self.data.X.shape[0] if self.rows is None else len(self.rows)

    @functools.cached_property
    def of_data(self) -> FitSummary:
        """What the data are like."""
        data = self.data
        summary = FitSummary.of_data(
            self.network, data.X, data.target, data.weight, self.rows
        )
        return replace(summary, weight_unit=data.unit, given_weights=self.went_on)

    def at_end(self, theta: Floats, outcome: str, loss: float) -> FitSummary:
        """The same, and what training has made of the outputs."""
        data, rows = self.data, self.rows

        def outputs(part: slice | NDArray) -> Floats:
            some = kernel_ready(data.X[part] if rows is None else data.X[rows[part]])
            return predict(self.network, theta, some)

        def labels(part: NDArray) -> NDArray:
            return data.target[part if rows is None else rows[part]]

        return self.of_data.at_end(outcome, loss, outputs, labels)

    def with_faults(
        self, summary: FitSummary, work: float, waited_for: bool = False
    ) -> FitSummary:
        """A summary with what is wrong with the data."""
        with harmless(waited_for):
            faults = look_at(
                self.data.X,
                self.data.target,
                self.rows,
                self.data.weight,
                work=work,
                output=self.network.output,
                batch_size=self.batch_size,
            )
            summary = replace(summary, faults=faults)
        return summary

    def closely(
        self,
        theta: Floats,
        work: float,
        summary: FitSummary,
        waited_for: bool = False,
    ) -> FitSummary:
        """A summary with what is wrong with the data, and what the model is worth."""
        for_columns = work
        if waited_for:
            work *= _WAITED_FOR
            for_columns = max(work, _ENOUGH)
        summary = self.with_faults(summary, for_columns, waited_for)
        with harmless(waited_for):
            summary = replace(summary, standing=self._stand(theta, work))
        return summary

    def work(self, n_epochs: int) -> float:
        """Epochs times rows times parameters."""
        return float(n_epochs) * self.n_rows * self.network.n_params

    def later(
        self, theta: Floats, work: float
    ) -> Callable[[FitSummary], FitSummary] | None:
        """`closely` for whoever asks for it later; None if too much would be kept."""
        held_out = self.held_out
        n_bytes = _bytes_of(self.data) + theta.nbytes
        n_bytes += 0 if self.rows is None else self.rows.nbytes
        if held_out is not None:
            n_bytes += held_out.rows.nbytes
            if held_out.data is not self.data:
                n_bytes += _bytes_of(held_out.data)
        if n_bytes > _KEPT_BYTES:
            return None
        data = _copy_of(self.data)
        if held_out is not None:
            same = held_out.data is self.data
            held_out = HeldOut(data if same else _copy_of(held_out.data), held_out.rows)
        kept = replace(self, data=data, held_out=held_out)
        return functools.partial(kept.closely, theta.copy(), work, waited_for=True)

    def _stand(self, theta: Floats, work: float) -> Standing | None:
        """What the model is worth, on rows trained on and rows held out."""
        if not all_finite(theta):
            return None
        network, held_out = self.network, None
        # Of a pass over a row forwards and backwards a third is the pass forwards.
        share = 3 * _FOR_SCORES * work / network.n_params
        at_most = int(min(MOST_ROWS, max(_LEAST_ROWS, share)))
        most = max(_MOST_ENTRIES // max(network.layer_sizes), _LEAST_ROWS)
        at_most = min(at_most, most)
        if self.held_out is not None:
            held_out = _some(*self.held_out, at_most)
        trained = _some(self.data, self.rows, min(max(at_most, SIGNAL_ROWS), most))
        if not self.weighted:
            trained = (*trained[:2], None)
            held_out = None if held_out is None else (*held_out[:2], None)
        constant, target = None, self.data.target
        if target.dtype == np.int32 and target.ndim == 1:
            shares = np.bincount(target if self.rows is None else target[self.rows])
            constant = float(shares.max() / self.n_rows)
        spent = TRAIN_NS[self.data.X.dtype.itemsize] * work
        return stand(
            network, theta, trained, held_out, at_most, spent, self.n_rows, constant
        )


def _bytes_of(data: Checked) -> int:
    n_bytes = 0
    for part in (data.X, data.target, data.weight):
        if sparse.issparse(part):
            n_bytes += part.data.nbytes + part.indices.nbytes + part.indptr.nbytes
        elif part is not None:
            n_bytes += part.nbytes
    return n_bytes


def _copy_of(data: Checked) -> Checked:
    weight = None if data.weight is None else data.weight.copy()
    target = data.target.copy()
    return data._replace(X=data.X.copy(), target=target, weight=weight, y=None)


def _some(data: Checked, rows: NDArray | None, at_most: int) -> tuple[Any, Any, Any]:
    """X, target and weights of rows that are spread evenly."""
    weight = data.weight
    if weight is not None and not weight.all():  # rows without weight do not count
        rows = np.arange(len(weight)) if rows is None else rows
        rows = rows[weight[rows] > 0] if weight[rows].any() else rows
    n_rows = data.X.shape[0] if rows is None else len(rows)
    some: Any = slice(0, n_rows, -(-n_rows // at_most))
    if rows is not None:
        some = rows[some]
    target = data.target[some]
    if not sparse.issparse(target):
        target = np.ascontiguousarray(target)
    return (
        kernel_ready(data.X[some]),
        target,
        None if weight is None else np.ascontiguousarray(weight[some]),
    )
