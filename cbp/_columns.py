"""What is wrong with the data of a fit: one bounded look when the fit has ended.

`look_at` returns numbers only, and no rows. Columns and targets are judged by rows that
are spread evenly over all, extremes and copies by all rows, if the fit was long enough
for that. What the kinds mean to a reader is said elsewhere.

| kind | what its evidence counts |
|---|---|
| constant-columns | columns with one value; those with one value but for 1 % of rows |
| id-column | all values differ although there is room for few more of them |
| target-in-features | what is left to be told when one column is known |
| duplicate-rows | the share of rows that are a copy of another, targets included |
| sentinel-values | one value in many rows, far from all others of its column |
| outliers, outliers-in-target | few values, how far from the rest |
| skewed-target | a long tail to the right that a logarithm makes symmetric |
| counts-as-targets, classes-as-targets | whole numbers: what they look like |
| row-order | how much more batches differ than those of shuffled rows |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import gammaln

Floats: TypeAlias = NDArray[np.floating[Any]]

# Rows, columns and outputs that are looked at; of a sparse X the fullest columns.
LEAST_ROWS, MOST_ROWS = 64, 4096
# Entries of the sample, or of X, that cost next to nothing beside the calls themselves.
LEAST_ENTRIES, LEAST_OF_ALL = 8192, 65536
MOST_COLUMNS, MOST_SPARSE_COLUMNS, MOST_OUTPUTS = 1024, 64, 4
# Entries that are made float64 at a time: 0.5 MB, which stay in a core's own cache.
_BLOCK = 65536
# Columns that are looked at once more, of each kind.
_CANDIDATES = 8

# The look may take one part in three hundred of the fit, but for what its calls take.
# In nanoseconds, measured on one core with AVX2: of training in float32 or float64 for
# a row and a weight, no less; of the look for its calls; for an entry of the sample;
# for an entry and for a row where all rows are looked at, with that part of the time.
_SHARE, _FOR_ALL = 0.003, 0.7
TRAIN_NS, CALLS_NS = {4: 0.1, 8: 0.15}, 5e5
SAMPLE_NS, ALL_NS, ROW_NS = 60.0, 3.0, 20.0


class Fault(NamedTuple):
    """One thing that is wrong with the data.

    `column` is the worst column of X (of the targets if the kind is about targets);
    None if the kind is not about columns. `evidence` holds numbers by name.
    """

    kind: str
    column: int | None
    evidence: dict[str, float]


@dataclass(frozen=True)
class DataFaults:
    """All that the look has found.

    Parameters
    ----------
    faults : tuple of Fault
        One of each kind at most.
    n_rows, n_all_rows : int
        Rows of the sample, and rows whose extremes and copies are known: all or 0.
    """

    faults: tuple[Fault, ...] = ()
    n_rows: int = 0
    n_all_rows: int = 0

    def of(self, kind: str) -> Fault | None:
        """The fault of a kind, None if there is none."""
        return next((fault for fault in self.faults if fault.kind == kind), None)


NOTHING_SEEN = DataFaults()


def spread(n: int, most: int) -> slice:
    """At most `most` of n places, evenly spread."""
    return slice(0, n, max(-(-n // most), 1))


def _drawn(n: int) -> NDArray[np.float64]:
    """Numbers from 0.5 to 1.5 without a pattern, the same ones every time."""
    return np.sin(1e4 * np.arange(1, n + 1) ** 1.5) % 1 + 0.5


def look_at(
    X: Any,
    target: Any,
    rows: NDArray | None = None,
    sample_weight: NDArray | None = None,
    *,
    work: float,
    output: str = "",
    batch_size: int | None = None,
) -> DataFaults:
    """Looks for what is wrong with the data of a fit.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    target : ndarray or CSR matrix
        As `Data` takes it: class numbers (int32) or a matrix.
    rows : int ndarray, default=None
        The rows that were trained on; None means all.
    sample_weight : ndarray of shape (n_samples,), default=None
        Rows without weight are passed over.
    work : float
        What the fit has done: rows times epochs times weights.
    output : str, default=""
        The activation of the output layer: amounts are expected of "identity" and
        "exp", which is made for counts and long tails.
    batch_size : int or None, default=None
        Rows of a batch, if batches were made in the order of the rows.

    Returns
    -------
    DataFaults
    """
    places = _trained(X.shape[0], rows, sample_weight)
    if X.shape[1] == 0 or len(places) < 2:
        return NOTHING_SEEN
    with np.errstate(all="ignore"):  # numbers near the largest float are no error
        return _look(X, target, places, work, output, batch_size)


def _trained(
    n: int, rows: NDArray | None, sample_weight: NDArray | None
) -> NDArray[np.int64]:
    """The rows that were trained on, in the order of training without shuffling."""
    places = np.arange(n) if rows is None else np.asarray(rows)
    if sample_weight is not None:
        places = places[sample_weight[places] > 0]
    return places


def _look(
    X: Any,
    target: Any,
    places: NDArray,
    work: float,
    output: str,
    batch_size: int | None,
) -> DataFaults:
    budget = _SHARE * TRAIN_NS[X.dtype.itemsize] * work - CALLS_NS
    n_entries = X.nnz if sparse.issparse(X) else X.size
    cost = ALL_NS * n_entries + ROW_NS * len(places)
    look_at_all = cost <= _FOR_ALL * budget or n_entries <= LEAST_OF_ALL
    budget -= cost if look_at_all else 0
    looks = _Sparse if sparse.issparse(X) else _Dense
    look = looks(X, places, int(max(budget / SAMPLE_NS, LEAST_ENTRIES)))
    answers = _Answers(target, look.rows)
    told = _Told(answers)
    facts = [_facts_of(block, told) for block in look.blocks()]
    fact = {name: np.concatenate([f[name] for f in facts]) for name in facts[0]}
    if look_at_all:
        low, high = look.extremes()
        fact["low_of_all"] = np.minimum(fact["low"], low)
        fact["high_of_all"] = np.maximum(fact["high"], high)
    else:
        fact["low_of_all"], fact["high_of_all"] = fact["low"], fact["high"]
    faults = [
        _constant_columns(look, fact, look_at_all),
        _id_column(look, fact, answers),
        told.fault(look, fact),
        _sentinel_values(look, fact),
        _outliers(look, fact, look_at_all),
        _duplicate_rows(X, target, places)
        if look_at_all and _may_differ(fact, len(places))
        else None,
        *_faults_of_amounts(target, places, output, look_at_all),
        _row_order(target, places, batch_size) if batch_size else None,
    ]
    return DataFaults(
        tuple(_plain(fault) for fault in faults if fault is not None),
        len(look.rows),
        len(places) if look_at_all else 0,
    )


def _plain(fault: Fault) -> Fault:
    """The fault with evidence in Python's numbers, all of them finite."""
    evidence = {
        name: x if isinstance(x, int) else float(np.nan_to_num(x))
        for name, x in fault.evidence.items()
    }
    return fault._replace(evidence=evidence)


# ---- the sample


def _some(places: NDArray, n: int) -> NDArray:
    """About n of the rows, in the order in which they were given."""
    return np.sort(places[spread(len(places), min(max(n, LEAST_ROWS), MOST_ROWS))])


class _Dense:
    """Some rows and columns of an array."""

    is_sparse = False

    def __init__(self, X: NDArray, places: NDArray, most_entries: int):
        self.X, self.places = X, places
        self.n_features = X.shape[1]
        self.columns = np.arange(X.shape[1])[spread(X.shape[1], MOST_COLUMNS)]
        self.rows = _some(places, most_entries // len(self.columns))

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        """The sample, some columns at a time: one of them in a row of the block."""
        X = self.X[:, spread(self.n_features, MOST_COLUMNS)]
        n = max(_BLOCK // len(self.rows), 1)
        for start in range(0, len(self.columns), n):
            block = X[self.rows, start : start + n]
            yield np.array(block.T, np.float64, order="C")

    def values(self, i: int, rows: NDArray) -> NDArray[np.float64]:
        """The values of the column at place i in some rows."""
        return self.X[rows, self.columns[i]].astype(np.float64)

    def extremes(self) -> tuple[NDArray, NDArray]:
        """Of all rows, those held out included, for each column of the sample."""
        X, p = self.X, self.n_features
        k = max(min(512 // p, len(X)), 1)  # rows in one: NumPy is slow on short ones
        whole = len(X) - len(X) % k
        wide, rest = X[:whole].reshape(-1, k * p), X[whole - k * bool(whole) :]
        low, high = (
            np.minimum(wide.min(0).reshape(k, p).min(0), rest.min(0)),
            np.maximum(wide.max(0).reshape(k, p).max(0), rest.max(0)),
        )
        return low[self.columns].astype(float), high[self.columns].astype(float)


class _Sparse(_Dense):
    """Some rows of a CSR matrix and their fullest columns, which are made dense."""

    is_sparse = True

    def __init__(self, X: Any, places: NDArray, most_entries: int):
        self.X, self.places = X, places
        self.n_features = X.shape[1]
        n_columns = min(X.shape[1], MOST_SPARSE_COLUMNS)
        self.rows = _some(places, most_entries // n_columns)
        self.some = X[self.rows]
        filled = np.bincount(self.some.indices, minlength=X.shape[1])
        self.columns = np.sort(np.argsort(-filled, kind="stable")[:n_columns])
        if X.nnz:  # the column of the largest entry, which the sample may not have
            largest = X.indices[np.abs(X.data).argmax()]
            self.columns = np.union1d(self.columns, [largest])

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        part = self.some[:, self.columns].toarray()
        yield np.array(part.T, np.float64, order="C")

    def values(self, i: int, rows: NDArray) -> NDArray[np.float64]:
        column = self.X[:, [int(self.columns[i])]].toarray().ravel()
        return column[rows].astype(np.float64)

    def extremes(self) -> tuple[NDArray, NDArray]:
        """Of the sample, but for the column of the largest entry."""
        low = np.full(len(self.columns), np.inf)
        high = -low
        if self.X.nnz:
            place = np.abs(self.X.data).argmax()
            i = np.searchsorted(self.columns, self.X.indices[place])
            column = self.values(int(i), self.places)
            low[i], high[i] = column.min(), column.max()
        return low, high


def _tail(m: int) -> int:
    """How many of m rows may be outliers: 1 %, of few rows up to 3."""
    return max(m // 100, min(3, m // 20))


def _facts_of(block: NDArray[np.float64], told: _Told) -> dict[str, NDArray]:
    """Numbers of each column of a block."""
    S = np.sort(block, axis=1)
    c, m = S.shape
    low, high, middle = S[:, 0], S[:, -1], S[:, m // 2]
    steps = S[:, 1:] - S[:, :-1]
    n_low, n_high, n_middle = (
        np.count_nonzero(S == value[:, None], axis=1) for value in (low, high, middle)
    )
    tail, each = _tail(m), np.arange(c)
    # If one value lies at an end: how far the next is, how wide the rest without its
    # outer twentieths.
    next_low, next_high = np.minimum(n_low, m - 1), np.maximum(m - 1 - n_high, 0)
    cut_low, cut_high = (m - n_low) // 20, (m - n_high) // 20
    return {
        "mean": block.mean(1),
        "spread": block.std(1),
        "low": low,
        "high": high,
        "middle": middle,
        "n_values": np.count_nonzero(steps, axis=1) + 1,
        "least_step": steps.min(1),
        "n_low": n_low,
        "n_high": n_high,
        "n_middle": n_middle,
        "reach": np.maximum(S[:, m - 1 - tail] - middle, middle - S[:, tail]),
        "gap_low": S[each, next_low] - low,
        "gap_high": high - S[each, next_high],
        "width_low": S[each, m - 1 - cut_low] - S[each, next_low + cut_low],
        "width_high": S[each, next_high - cut_high] - S[each, cut_high],
        **told.facts_of(block, S),
    }


# ---- the targets of the sample


class _Answers:
    """The targets of the sample: class numbers and amounts, a column each."""

    def __init__(self, target: Any, rows: NDArray):
        self.classes = target.dtype == np.int32
        self.n_outputs = 1 if target.ndim == 1 else target.shape[1]
        self.columns = _target_columns(target, rows)

    def differ(self, order: NDArray, n_parts: int = 16) -> float:
        """How much more the targets differ between parts of an order than by chance."""
        size = max(len(order) // n_parts, 1)
        return max(_between(y[order], size, self.classes) for y in self.columns)


def _target_columns(target: Any, rows: NDArray | slice) -> list[NDArray]:
    """The first columns of the targets, in some rows."""
    if sparse.issparse(target):
        some = target[:, :MOST_OUTPUTS][rows].toarray()
    else:
        some = target.reshape(len(target), -1)[:, :MOST_OUTPUTS][rows]
    if some.dtype != np.int32:
        some = some.astype(np.float64)
    return list(some.T)


def _between(y: NDArray, size: int, classes: bool) -> float:
    """Variance of the means of parts of so many rows, over what chance makes of it."""
    n = len(y) // size
    if n < 2:
        return 1.0
    y = y[: n * size]
    if classes:
        k = int(y.max()) + 1
        part = np.repeat(np.arange(n), size)
        share = np.bincount(part * k + y, minlength=n * k).reshape(n, k) / size
        p = share.mean(0)
        variance, means = float((p * (1 - p)).sum()), share
    else:
        y = y - y.mean()
        variance, means = float(np.mean(y * y)), y.reshape(n, size).mean(1)[:, None]
    if not (variance > 0 and np.isfinite(variance)):
        return 1.0
    # The mean of n * size values is taken off, which leaves n - 1 of n.
    free = variance / size * (1 - (size - 1) / (n * size - 1))
    return float(means.var(0).sum() * n / (n - 1) / free) if free > 0 else 1.0


# ---- kinds of faults of columns

# Constant columns are of note if they are many; those that are not 0 act as further
# biases. A column is nearly constant if all but one part in a hundred is one value.
_MANY_CONSTANT, _LEAST_CONSTANT, _NEARLY, _ROUNDING = 0.1, 3, 0.99, 1e-5


def _constant_columns(
    look: _Dense, fact: dict[str, NDArray], look_at_all: bool
) -> Fault | None:
    # A sample may miss rare values, of one-hot columns most of all.
    if look.is_sparse or not (look_at_all or len(look.rows) == len(look.places)):
        return None
    width = fact["high_of_all"] - fact["low_of_all"]
    # But for rounding, or for noise that rounding would drown.
    one_value = width <= _ROUNDING * np.abs(fact["middle"])
    n = int(one_value.sum())
    size = np.abs(fact["middle"][one_value])
    n_nonzero = int((size > 0).sum())
    many = n >= max(_MANY_CONSTANT * len(one_value), _LEAST_CONSTANT)
    if not (many or n_nonzero >= _LEAST_CONSTANT):
        return None
    near = (fact["n_middle"] >= _NEARLY * len(look.rows)) & ~one_value
    worst = np.flatnonzero(one_value)[int(size.argmax())]
    return Fault(
        "constant-columns",
        int(look.columns[worst]),
        {
            "n_constant": n,
            "n_nonzero": n_nonzero,
            "n_nearly_constant": int(near.sum()),
            "n_columns": len(one_value),
            # Lengths of a row: of its constant part, and of what varies in it.
            "constant_length": float(np.sqrt(np.sum(size**2))),
            "varying_length": float(np.sqrt(np.sum(fact["spread"] ** 2))),
        },
    )


# So many repeats would be expected if the values were drawn at random from the places
# between the least and the greatest: chance leaves none with a probability of exp(-8).
_EXPECTED_REPEATS = 8.0
# Rounding to float32 moves numbers by less than that part of a step.
_OFF_PLACE = 0.05
# Targets that differ so much along a column say that it is a time, or tells something.
_TELLS = 3.0


def _id_column(
    look: _Dense, fact: dict[str, NDArray], answers: _Answers
) -> Fault | None:
    m = len(look.rows)
    if m < LEAST_ROWS // 2:
        return None
    n_places = (fact["high"] - fact["low"]) / fact["least_step"]
    dense = m * m > 2 * _EXPECTED_REPEATS * n_places
    whole = (fact["low"] % 1 == 0) & (fact["high"] - fact["low"] >= m - 1)
    different = (fact["n_values"] == m) & (dense | whole)
    found = []
    for i in np.flatnonzero(different):
        x = look.values(i, look.rows)
        order = np.argsort(x)
        n_places = _places(x[order])
        repeats = m * m / (2 * n_places) if n_places else 0.0
        differ = answers.differ(order)
        # Rows of the sample are in the order in which they were given.
        in_order = bool((np.diff(x) > 0).all() or (np.diff(x) < 0).all())
        drawn = bool((x % 1 == 0).all()) and (in_order or _is_uniform(x[order]))
        if (repeats >= _EXPECTED_REPEATS or drawn) and differ < _TELLS:
            found.append((i, repeats, in_order, differ))
    if not found:
        return None
    i, repeats, in_order, differ = found[0]
    return Fault(
        "id-column",
        int(look.columns[i]),
        {
            "n_columns": len(found),
            "n_rows": m,
            "expected_repeats": float(repeats),
            "in_row_order": float(in_order),
            "targets_differ": differ,
            "whole_numbers": float(bool((look.values(i, look.rows) % 1 == 0).all())),
            "low": float(fact["low"][i]),
            "high": float(fact["high"][i]),
        },
    )


def _is_uniform(S: NDArray) -> bool:
    """Whether S, which ascends, may be drawn at random between its ends, as the test of
    Kolmogorov and Smirnov says at a level of 0.1."""
    share = (S - S[0]) / (S[-1] - S[0])
    return bool(np.abs(share - np.linspace(0, 1, len(S))).max() < 1.22 / len(S) ** 0.5)


def _places(S: NDArray) -> int:
    """How many equally spaced places S lies on; 0 if it does not. S ascends."""
    steps = np.diff(S)
    unit = steps.min()
    for most in (16, 256, np.inf):  # the least step is rounded, too
        some = steps[steps <= most * unit]
        unit = some.sum() / np.rint(some / unit).sum()
    place = (S - S[0]) / unit
    if not np.abs(place - np.rint(place)).max() <= _OFF_PLACE:
        return 0
    return int(np.rint(place[-1])) + 1


# One value in that share of the rows at least, and of the rest enough rows and values;
# so far from the rest as the middle nine tenths of it are wide, times this.
_SENTINEL_SHARE, _LEAST_REST, _REST_VALUES, _SENTINEL_FAR = 0.015, 0.02, 4, 3.0


def _sentinel_values(look: _Dense, fact: dict[str, NDArray]) -> Fault | None:
    m = len(look.rows)
    limit = _SENTINEL_FAR * max(512 / m, 1.0)  # few rows may miss what lies between
    found = []
    for end in ("low", "high"):
        n = fact[f"n_{end}"]
        far = fact[f"gap_{end}"] / fact[f"width_{end}"]
        is_one = (n >= max(_SENTINEL_SHARE * m, 4)) & (m - n >= _LEAST_REST * m)
        is_one &= (fact["n_values"] - 1 >= _REST_VALUES) & (far > limit)
        is_one &= fact[f"width_{end}"] > 0
        found += [(float(far[i]), int(i), end) for i in np.flatnonzero(is_one)]
    if not found:
        return None
    far, i, end = max(found)
    return Fault(
        "sentinel-values",
        int(look.columns[i]),
        {
            "n_columns": len({i for _, i, _ in found}),
            "value": float(fact[end][i]),
            "share": float(fact[f"n_{end}"][i] / m),
            "times_width": far,
        },
    )


# An outlier is so much farther from the median than 99 % of the values are (of normal
# numbers: 25 standard deviations), or twice that if it changes the standard deviation
# by less than a tenth. Of fewer than 200 rows more is asked. No more than this share of
# rows are outliers, and a step leads to them that is larger than chance makes of a
# heavy tail in one of exp(7) columns.
_OUTLYING, _SQUEEZED, _FEW, _STEP, _CHANCE = 10.0, 0.9, 0.001, 2.0, 7.0
# So many rows of a sample show what a column is like without outliers.
_ROWS_FOR_OUTLIERS = 256


def _outliers(
    look: _Dense, fact: dict[str, NDArray], look_at_all: bool
) -> Fault | None:
    low, high, middle = fact["low_of_all"], fact["high_of_all"], fact["middle"]
    rows = look.places if look_at_all else look.rows
    if len(look.rows) < min(_ROWS_FOR_OUTLIERS, len(look.places)):
        return None
    reach = fact["reach"]
    far = np.maximum(high - middle, middle - low) / reach
    far[~(reach > 0)] = 0
    found = []
    for i in np.argsort(-far, kind="stable")[:_CANDIDATES]:
        if far[i] > _OUTLYING:
            evidence = _beyond(look.values(i, rows), middle[i], reach[i])
            found += [(evidence, i)] if evidence else []
    if not found:
        return None
    evidence, i = found[0]
    n_columns = len(found)
    return Fault("outliers", int(look.columns[i]), {"n_columns": n_columns, **evidence})


def _beyond(x: NDArray, middle: float, reach: float) -> dict[str, float]:
    """Numbers of the outliers of a column; none if it has none."""
    distance = np.abs(x - middle)
    order = np.argsort(distance, kind="stable")
    sizes = np.maximum(distance[order] / reach, 1.0)
    steps = np.log(sizes[1:] / sizes[:-1])
    start = len(x) - 1 - max(int(_FEW * len(x)), _tail(min(len(x), 300)))
    if start >= len(steps):  # the far value is of a row that was not trained on
        return {}
    step = start + int(steps[start:].argmax())
    n = len(x) - 1 - step
    # How heavy the tail is before the step (Hill's estimate). The k-th step before the
    # end of such a tail is that long, divided by k.
    base = step - max(len(x) // 50, min(10, step))
    tail = np.log(distance[order[base + 1 : step + 1]] / distance[order[base]])
    if not n * steps[step] >= _CHANCE * max(tail.mean(), 0.1):
        return {}
    if steps[step] < np.log(_STEP):
        return {}
    spread_all, spread_rest = x.std(), x[order[: step + 1]].std()
    rest_spread = float(spread_rest / spread_all) if spread_all > 0 else 0.0
    limit = _OUTLYING * max(200 / len(x), 1.0)
    if not sizes[-1] > (limit if rest_spread < _SQUEEZED else 2 * limit):
        return {}
    return {
        "n_outliers": n,
        "n_rows": len(x),
        "value": float(x[order[-1]]),
        "median": float(middle),
        "times_reach": float(sizes[-1]),
        # Dividing by the standard deviation leaves the rest with this spread.
        "rest_spread": rest_spread,
    }


# ---- a column that tells the target

# Of amounts: how far a column in the order of the targets is from being sorted, and
# then correlations. Of classes: wrong rows among those that are not of the commonest.
_UNSORTED, _CORRELATED, _LOOSELY = 0.15, 0.999, 0.9
_TOLD_WRONG, _NEXT_WRONG, _LEAST_TOLD = 0.02, 0.05, 10
# Rows that decide which columns are looked at once more.
_FIRST_ROWS = 256


class _Told:
    """Looks for columns that alone tell the target."""

    def __init__(self, answers: _Answers):
        self.answers = answers
        # A target that varies; an input that is learned by itself is no mistake.
        first = self._first_of_each if answers.classes else self._in_order
        self.outputs = [
            (k, y, first(y)) for k, y in enumerate(answers.columns) if (y != y[0]).any()
        ]

    @staticmethod
    def _in_order(y: NDArray) -> NDArray:
        """Some rows, so that their targets ascend."""
        some = np.arange(len(y))[spread(len(y), _FIRST_ROWS)]
        return some[np.argsort(y[some], kind="stable")]

    @staticmethod
    def _first_of_each(y: NDArray) -> NDArray:
        """Some rows of each class, the same number of each if they can be had."""
        order = np.argsort(y, kind="stable")
        counts = np.bincount(y)
        starts = np.cumsum(counts) - counts
        each = max(_FIRST_ROWS // max(int((counts > 0).sum()), 1), 2)
        first = order[np.arange(len(y)) - np.repeat(starts, counts) < each]
        # Equal values of a column may keep this order, which must say nothing.
        return first[np.argsort(_drawn(len(first)))]

    def facts_of(self, block: NDArray, S: NDArray) -> dict[str, NDArray]:
        """For each output the share of a column that the target leaves open."""
        measure = self._changes if self.answers.classes else self._unsorted
        return {
            f"open_{k}": np.where(S[:, 0] < S[:, -1], measure(block, y, first), np.inf)
            for k, y, first in self.outputs
        }

    @staticmethod
    def _unsorted(block: NDArray, y: NDArray, order: NDArray) -> NDArray:
        Z = block[:, order]
        S = np.sort(Z, axis=1)
        size = np.abs(S - S[:, [S.shape[1] // 2]]).mean(1)
        up, down = (np.abs(Z - T).mean(1) for T in (S, S[:, ::-1]))
        return np.where(size > 0, np.minimum(up, down) / size, np.inf)

    @staticmethod
    def _changes(block: NDArray, y: NDArray, first: NDArray) -> NDArray:
        y = y[first]
        ordered = y[np.argsort(block[:, first], axis=1)]
        changes = (np.diff(ordered, axis=1) != 0).sum(1)
        # One row at a wrong place makes two more.
        wrong = np.maximum(changes - (len(np.unique(y)) - 1), 0) / 2
        return wrong / len(y)

    def fault(self, look: _Dense, fact: dict[str, NDArray]) -> Fault | None:
        n_features = look.n_features
        if n_features == 1 or (self.answers.n_outputs == n_features):
            return None
        for k, y, _ in self.outputs:
            share = fact[f"open_{k}"]
            best = np.argsort(share, kind="stable")
            judge = self._class_told if self.answers.classes else self._amount_told
            limit = _NEXT_WRONG if self.answers.classes else _UNSORTED
            told = [
                (i, evidence)
                for i in best[:_CANDIDATES]
                if share[i] <= limit
                and (evidence := judge(look.values(i, look.rows), y))
            ]
            if told and (not self.answers.classes or self._others_fail(share, told)):
                i, evidence = told[0]
                evidence |= {"n_columns": len(told), "output": k, "n_rows": len(y)}
                return Fault("target-in-features", int(look.columns[i]), evidence)
        return None

    @staticmethod
    def _others_fail(share: NDArray, told: list) -> bool:
        """Whether the classes are not easy to tell by many columns."""
        rest = np.delete(share, [i for i, _ in told])
        return len(told) <= 2 and bool((rest > _NEXT_WRONG).all())

    @staticmethod
    def _amount_told(x: NDArray, y: NDArray) -> dict[str, float]:
        linear = _correlation(x, y)
        ranks = _correlation(_ranks(x), _ranks(y))
        told = abs(ranks) > _CORRELATED
        told |= abs(linear) > _CORRELATED and abs(ranks) > _LOOSELY
        if not told or len(y) < LEAST_ROWS // 2:
            return {}
        return {"correlation": linear, "rank_correlation": ranks}

    @staticmethod
    def _class_told(x: NDArray, y: NDArray) -> dict[str, float]:
        """Errors of a guess from the neighbours in x; equal x have one guess."""
        values, group = np.unique(x, return_inverse=True)
        k = int(y.max()) + 1
        count = np.zeros((len(values), k), np.int32)
        np.add.at(count, (group, y), 1)
        guess = count.argmax(1)
        wrong = len(y) - count.max(1).sum()
        changes = np.count_nonzero(np.diff(guess)) - (len(np.unique(y)) - 1)
        wrong += max(changes, 0) / 2
        others = len(y) - np.bincount(y).max()
        if others < _LEAST_TOLD or wrong > _TOLD_WRONG * others:
            return {}
        # How far apart the classes lie: a copy of y has gaps, a feature that y was made
        # from by a limit has none.
        steps, changing = np.diff(values), np.diff(guess) != 0
        gap = steps[changing].min(initial=np.inf) / (values[-1] - values[0])
        return {
            "wrong": float(wrong / len(y)),
            "others": float(others / len(y)),
            "gap": float(gap * max(np.count_nonzero(changing), 1)),
        }


def _correlation(x: NDArray, y: NDArray) -> float:
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt(x @ x) * np.sqrt(y @ y)
    return float(x @ y / size) if size > 0 else 0.0


def _ranks(x: NDArray) -> NDArray:
    """Places in ascending order, equal numbers at their mean place."""
    _, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]


# ---- rows

# The share of rows that are copies of an earlier one. In 24 ordinary sets it is 0.19 at
# most (ratings of wines); twice the same rows have 0.5, rows drawn with return 0.37.
_COPIES = 0.3
# So many different rows for each row must be possible.
_POSSIBLE = 10.0


def _sizes(A: Any) -> NDArray:
    """The largest number of each column, 1 where all are 0."""
    if sparse.issparse(A):
        size = abs(A).max(axis=0).toarray().ravel().astype(float)
    else:
        size = np.maximum(A.max(0, initial=0), -A.min(0, initial=0)).astype(float)
    return np.where(size > 0, size, 1.0)


def _may_differ(fact: dict[str, NDArray], n_rows: int) -> bool:
    """Whether there are many more different rows than rows were drawn."""
    n_possible = np.log(np.maximum(fact["n_values"], 1)).sum()
    return bool(n_possible > np.log(_POSSIBLE * n_rows))


def _duplicate_rows(X: Any, target: Any, places: NDArray) -> Fault | None:
    # Equal rows have equal sums: each is added up in the same order, without BLAS.
    key = np.zeros(X.shape[0])
    w = _drawn(X.shape[1] + (1 if target.ndim == 1 else target.shape[1]))
    for A in (X, target if target.ndim == 2 else target[:, None]):
        some, w = w[: A.shape[1]], w[A.shape[1] :]
        some = some / _sizes(A)  # a large column would drown the others
        key += A @ some if sparse.issparse(A) else np.einsum("ij,j->i", A, some)
    key = np.sort(key[places])
    if not np.isfinite(key[[0, -1]]).all():
        return None
    is_copy = key[1:] == key[:-1]
    share = float(is_copy.sum() / len(key))
    if share < _COPIES:
        return None
    # Those of which a copy is there, the first of each group included.
    n_firsts = np.count_nonzero(is_copy & ~np.append(False, is_copy[:-1]))
    n_twice = int(is_copy.sum() + n_firsts)
    return Fault(
        "duplicate-rows",
        None,
        {
            "share": share,
            "share_in_groups": n_twice / len(key),
            "n_rows": len(key),
        },
    )


# Batches that differ so much more than those of shuffled rows, and more than chance
# makes of so few batches in one of 100,000 fits (so far from the mean of the cube root
# of chi squared).
_ORDERED, _SIGMAS = 3.0, 4.3


def _row_order(target: Any, places: NDArray, batch_size: int) -> Fault | None:
    # Of small batches some together, and of very many classes.
    n_classes = int(target.max()) + 1 if target.dtype == np.int32 else 1
    size = max(batch_size, 16, len(places) * n_classes >> 20)
    n = len(places) // size
    if n < 2:
        return None
    classes = target.dtype == np.int32
    columns = _target_columns(target, places[: n * size])
    ratio = max(_between(y, size, classes) for y in columns)
    part = 2 / (9 * (n - 1))
    if ratio < max(_ORDERED, (1 - part + _SIGMAS * np.sqrt(part)) ** 3):
        return None
    evidence = {"times_chance": ratio, "n_batches": n, "batch_size": size}
    return Fault("row-order", None, evidence)


# ---- targets that are amounts

# They are one column or few, so more rows are looked at than of X in a short fit.
_ROWS_OF_AMOUNTS = 2048


def _faults_of_amounts(
    target: Any, places: NDArray, output: str, look_at_all: bool
) -> Iterator[Fault | None]:
    """Of each kind for the first output that has it."""
    if target.dtype == np.int32 or output not in ("identity", "exp"):
        return
    some = _target_columns(target, places[spread(len(places), _ROWS_OF_AMOUNTS)])
    outputs = [(k, y) for k, y in enumerate(some) if y.min() < y.max()]
    whole = _target_columns(target, places) if outputs and look_at_all else some
    kinds = {
        "outliers-in-target": lambda k, y: _outliers_of(whole[k], np.sort(y)),
        "skewed-target": lambda k, y: _skew_of(np.sort(y)),
        "counts-as-targets": lambda k, y: _counts_of(y),
        "classes-as-targets": lambda k, y: {} if _counts_of(y) else _classes_of(y),
    }
    for kind, judge in list(kinds.items())[: 1 if output == "exp" else None]:
        found = [(k, e) for k, y in outputs if (e := judge(k, y))]
        if found:
            k, evidence = found[0]
            yield Fault(kind, k, {"n_columns": len(found), **evidence})


def _outliers_of(y: NDArray, some: NDArray) -> dict[str, float]:
    m = len(some)
    tail = _tail(m)
    middle = some[m // 2]
    reach = max(some[m - 1 - tail] - middle, middle - some[tail])
    if not max(y.max() - middle, middle - y.min()) > _OUTLYING * reach > 0:
        return {}
    return _beyond(y, middle, reach)


# The upper part of the middle 98 % over the lower one: 1 if symmetric, 5.8 if
# exponential, 10 for the exponential of normal numbers. Of positive targets less will
# do if they go over two powers of ten; their logarithm must be nearly symmetric.
_LONG_TAIL, _LONG_TAIL_POSITIVE, _POWERS, _SYMMETRIC = 10.0, 5.0, 2.0, 3.0


def _skew_of(S: NDArray) -> dict[str, float]:
    m = len(S)
    if m < LEAST_ROWS // 2:
        return {}
    tail = max(m // 100, 1)
    low, middle, high = S[tail], S[m // 2], S[m - 1 - tail]
    ratio = float((high - middle) / (middle - low)) if middle > low else np.inf
    positive, powers, log_ratio = bool(S[0] > 0), 0.0, np.inf
    if positive:
        powers = float(np.log10(high / low))
        log_ratio = float(np.log(high / middle) / np.log(middle / low))
    by_log = (
        ratio > _LONG_TAIL_POSITIVE
        and powers >= _POWERS
        and 1 / _SYMMETRIC < log_ratio < _SYMMETRIC
    )
    if not (by_log or _LONG_TAIL < ratio < np.inf):
        return {}
    return {
        "tail_ratio": ratio,
        "positive": float(positive),
        "not_negative": float(S[0] >= 0),
        "powers_of_ten": powers,
        "log_tail_ratio": log_ratio if log_ratio < np.inf else 0.0,
        "low": float(low),
        "median": float(middle),
        "high": float(high),
    }


# Counts: whole numbers from near 0 on, of such a mean at most, distributed nearly as
# Poisson's (or a negative binomial of the same variance): this share of them differs,
# and what chance makes of few rows.
_MEAN_COUNT, _COUNT_VALUES, _UNLIKE_COUNTS = 50.0, 5, 0.15
_DISPERSED = (0.5, 5.0)


def _counts_of(y: NDArray) -> dict[str, float]:
    if not (y.min() >= 0 and y.max() < 1000 and (y % 1 == 0).all()):
        return {}
    mean, variance = float(y.mean()), float(y.var())
    share = np.bincount(y.astype(np.int64)) / len(y)
    n_values = int((share > 0).sum())
    if n_values < _COUNT_VALUES or not 0 < mean <= _MEAN_COUNT:
        return {}
    if not _DISPERSED[0] <= variance / mean <= _DISPERSED[1]:
        return {}
    n = np.arange(len(share))
    if variance > 1.01 * mean:
        r = mean * mean / (variance - mean)
        log_p = gammaln(n + r) - gammaln(r) - gammaln(n + 1)
        log_p += r * np.log(r / (r + mean)) + n * np.log(mean / (r + mean))
    else:
        log_p = n * np.log(mean) - mean - gammaln(n + 1)
    unlike = float(np.abs(share - np.exp(log_p)).sum() / 2)
    # Classes are rather about equally frequent, from the least to the greatest.
    present = share[int(y.min()) :]
    if np.abs(present - 1 / len(present)).sum() / 2 < unlike:
        return {}
    if unlike > _UNLIKE_COUNTS + 0.4 * np.sqrt(n_values / len(y)):
        return {}
    return {
        "mean": mean,
        "variance": variance,
        "unlike": unlike,
        "n_values": n_values,
        "high": float(y.max()),
    }


# Few whole numbers, many rows of each.
_CLASS_VALUES, _ROWS_OF_EACH = 30, 5


def _classes_of(y: NDArray) -> dict[str, float]:
    low, high = float(y.min()), float(y.max())
    if high - low >= 100 or not (y % 1 == 0).all():
        return {}
    n_values = int(np.count_nonzero(np.bincount((y - low).astype(np.int64))))
    if n_values > _CLASS_VALUES or len(y) < _ROWS_OF_EACH * n_values:
        return {}
    return {"n_values": n_values, "low": low, "high": high}
