"""Rows that are given to a diagnosis, compared with those that a fit has seen.

`Seen` is what a fit keeps of its inputs: the mean and the spread of columns. Given rows
that were scaled otherwise, or not at all, make a good network look bad. Imports nothing
of the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

# Columns that are kept and compared, at most, spread evenly.
COLUMNS = 1024
# Rows that are looked at, at most, spread evenly; but for exact means all rows of some
# columns.
ROWS = 1024
_EXACT_COLUMNS = 64
# Fewer rows tell nothing; fewer than FEW only of all columns together.
_LEAST, _FEW = 5, 20
# A row is far from what training saw in a column if it is so many spreads from the
# mean. By Chebyshev that is so for at most a ninth of the rows of training, whatever
# their distribution; more than half of the given ones say that the column is another.
_FAR = 3.0
# Spread of the given rows over that of training, below which a column has shrunk.
# Without a few outliers a column shrinks, too, but not most columns.
_SHRUNK = 0.05
# With so many rows and columns small differences tell, if nearly all columns have one:
# a spread that is not within a factor of two, a mean that is a spread away. On 30 data
# sets 45 % of the columns had one at most if 50 rows or more were drawn at random, 65 %
# if 20 were. If a scaler was forgotten, 77 % and more had one in 26 of the sets.
_NEARLY_ALL = ((50, 0.75), (20, 0.9))
_SOME_COLUMNS = 4
_WIDER, _AWAY = 2.0, 1.0
# What a mean of 0 and a spread of 1 come to in float64 and float32.
_EXACT, _EXACT_SINGLE = 1e-6, 1e-4
_LISTED = 3

NOT_SCALED = "not-scaled"
REFITTED = "scaler-refitted"
SHIFTED = "columns-shifted"


@dataclass(frozen=True)
class Seen:
    """What a fit keeps of the columns of its inputs.

    Parameters
    ----------
    means, spreads : ndarray of shape (n_kept,), float32
        Mean and standard deviation of the columns `kept_columns(n_features)`.
    n_rows : int
        Rows that were trained on.
    """

    means: NDArray
    spreads: NDArray
    n_rows: int

    @classmethod
    def of(cls, X: Any, n_rows: int | None = None, most: int = ROWS) -> Seen:
        """What is seen of a sample of rows.

        Parameters
        ----------
        X : {ndarray, sparse matrix} of shape (n_samples, n_features)
            As it reaches the network.
        n_rows : int, default=None
            Rows that were trained on, if X is a sample of them.
        most : int, default=1024
            No more rows of X are read.
        """
        rows = _sample(X, most)
        with np.errstate(all="ignore"):
            means = rows.mean(axis=0).astype(np.float32)
            spreads = rows.std(axis=0).astype(np.float32)
        return cls(means, spreads, X.shape[0] if n_rows is None else n_rows)


@dataclass(frozen=True)
class Comparison:
    """How given rows differ from those of training.

    Parameters
    ----------
    kind : {'', 'not-scaled', 'scaler-refitted', 'columns-shifted'}
        Nothing; most columns lie or spread elsewhere, so a scaler was forgotten; each
        column has mean 0 and spread 1, so the rows were scaled by themselves; some
        columns lie elsewhere.
    columns : tuple of int
        At most three of the columns, the farthest first.
    n_columns : int
        How many there are among those that were compared.
    evidence : dict
        Of the first column: its `mean` and `spread` in training (`seen_mean`,
        `seen_spread`) and in the given rows (`mean`, `spread`).
    """

    kind: str = ""
    columns: tuple[int, ...] = ()
    n_columns: int = 0
    evidence: dict[str, float] | None = None


def kept_columns(n_features: int) -> NDArray:
    """The columns that are kept of so many."""
    step = max(-(-n_features // COLUMNS), 1)
    return np.arange(0, n_features, step)


def compare_rows(seen: Seen, X: Any) -> Comparison:
    """Whether given rows lie where those of training lay.

    Parameters
    ----------
    seen : Seen
    X : {ndarray, data frame, sparse matrix} of shape (n_samples, n_features)
        Rows as they reach the network.

    Returns
    -------
    comparison : Comparison
        Nothing if there are fewer than 5 rows.
    """
    if not sparse.issparse(X):
        X = np.asarray(X)
    columns = kept_columns(X.shape[1])
    if X.shape[0] < _LEAST or len(columns) != len(seen.means):
        return Comparison()
    rows = _sample(X)
    with np.errstate(all="ignore"):
        if _is_refitted(seen, X, rows):
            return Comparison(REFITTED, n_columns=len(columns))
        far, shrunk = _differences(seen, rows)
        # Of two values, as of a category, no scale can be told.
        many = _has_many_values(rows)
        other = (far > 0.5) | (shrunk & many)
        n_scaled, n_other = many.sum(), (other & many).sum()
        if n_scaled and n_other > n_scaled / 2:
            chosen = np.flatnonzero(other & many)
            return _comparison(NOT_SCALED, seen, rows, columns, chosen)
        share = next((share for n, share in _NEARLY_ALL if len(rows) >= n), 1.0)
        differ, n_varying = _differ_a_little(seen, rows)
        if n_varying >= _SOME_COLUMNS and len(differ) > share * n_varying:
            return _comparison(NOT_SCALED, seen, rows, columns, differ)
        if len(rows) >= _FEW and (far > 0.5).any():
            chosen = np.flatnonzero(far > 0.5)
            return _comparison(SHIFTED, seen, rows, columns, chosen)
    return Comparison()


def _comparison(
    kind: str,
    seen: Seen,
    rows: NDArray,
    columns: NDArray,
    chosen: NDArray,
) -> Comparison:
    distance = np.abs(np.median(rows[:, chosen], axis=0) - seen.means[chosen])
    order = np.argsort(-distance / np.maximum(seen.spreads[chosen], 1e-30))
    chosen = chosen[order]
    first = chosen[0]
    evidence = {
        "seen_mean": float(seen.means[first]),
        "seen_spread": float(seen.spreads[first]),
        "mean": float(rows[:, first].mean()),
        "spread": float(rows[:, first].std()),
    }
    listed = tuple(int(j) for j in columns[chosen[:_LISTED]])
    return Comparison(kind, listed, len(chosen), evidence)


def _sample(X: Any, most: int = ROWS) -> NDArray:
    """Some rows and columns, dense, in float64."""
    step = max(-(-X.shape[0] // most), 1)
    columns = kept_columns(X.shape[1])
    if sparse.issparse(X):
        return X.tocsr()[::step][:, columns].toarray().astype(np.float64)
    return np.asarray(X[::step, columns], dtype=np.float64)


def _differences(seen: Seen, rows: NDArray) -> tuple[NDArray, NDArray]:
    """The share of rows that are far, and whether the column has shrunk."""
    means, spreads = seen.means.astype(np.float64), seen.spreads.astype(np.float64)
    # A constant column may be known to float32 only.
    rounding = 1e-6 * np.abs(means)
    far = (np.abs(rows - means) > _FAR * spreads + rounding + 1e-30).mean(axis=0)
    spread = rows.std(axis=0)
    shrunk = (spread < _SHRUNK * spreads) & (spread > 0)
    return far, shrunk


def _differ_a_little(seen: Seen, rows: NDArray) -> tuple[NDArray, int]:
    """Columns that lie or spread otherwise, of so many that varied in training.

    One in which the given rows do not vary is of a rare category: it tells nothing.
    """
    spread = rows.std(axis=0)
    vary = seen.spreads > 0
    ratio = spread / seen.spreads
    away = np.abs(rows.mean(axis=0) - seen.means) > _AWAY * seen.spreads
    differ = vary & (spread > 0) & ((ratio < 1 / _WIDER) | (ratio > _WIDER) | away)
    return np.flatnonzero(differ), int(vary.sum())


def _has_many_values(rows: NDArray) -> NDArray:
    """Whether columns have more than two values."""
    least, most = rows.min(axis=0), rows.max(axis=0)
    return ((rows != least) & (rows != most)).any(axis=0)


def _is_refitted(seen: Seen, X: Any, rows: NDArray) -> bool:
    """Whether columns have exactly the mean 0 and the spread 1.

    So have those of training, if a scaler saw no other rows. But if it saw more rows
    than were trained on, and these are given, it is the same scaler.
    """
    if X.shape[0] == seen.n_rows or sparse.issparse(X):
        return False
    many = np.flatnonzero(_has_many_values(rows))
    if not len(many):
        return False
    some = many[:: max(-(-len(many) // _EXACT_COLUMNS), 1)]
    single = X.dtype == np.float32
    columns = kept_columns(X.shape[1])[some]
    values = np.asarray(X[:, columns], dtype=np.float64)
    tolerance = _EXACT_SINGLE if single else _EXACT
    exact = np.abs(values.mean(axis=0)) < tolerance
    exact &= np.abs(values.std(axis=0) - 1) < tolerance
    if exact.mean() <= 0.5:
        return False
    # Sampled columns of training are not exact, but near.
    near = math.sqrt(1 / min(seen.n_rows, ROWS))
    means, spreads = seen.means[some][exact], seen.spreads[some][exact]
    scaled = (np.abs(means) < 5 * near) & (np.abs(spreads - 1) < 0.5)
    return X.shape[0] < seen.n_rows and bool(scaled.mean() > 0.5)
