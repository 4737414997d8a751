"""Targets: what users give, the numbers to train on, and back from logits to labels.

`read_numbers` and `read_labels` come before scikit-learn's checks, which cast before
they look: dates become numbers, large whole numbers pass through float64, and a missing
value becomes one that is "too large". `encode_numbers` and `Labels` come after them.
Nothing here knows a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import (
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from cbp._kernels import all_finite, elementwise
from cbp._warn import warn

if TYPE_CHECKING:
    from cbp._fitted import Fitted

    Floats = NDArray[np.floating[Any]]

_CURE = "Drop these rows, or fill the values in."


# ---- as users give them


def read_numbers(y: Any) -> Any:
    """A regressor's targets, or the y that scikit-learn refuses better.

    Parameters
    ----------
    y : array-like, data frame or sparse matrix
        Numbers or booleans.

    Returns
    -------
    y : ndarray or sparse matrix; None is left for scikit-learn

    Raises
    ------
    ValueError
        If y holds no numbers, or a missing value.
    """
    y = _plain(y)
    if not isinstance(y, np.ndarray):
        return y
    if y.dtype.kind in "US":
        raise ValueError(
            f"y must hold numbers, got strings (dtype {y.dtype}). Convert them with "
            "y.astype(float); for labels take BPClassifier."
        )
    if y.dtype.kind == "O":
        strange = {type(v).__name__ for v in y.flat if not isinstance(v, Number)}
        if strange:
            raise ValueError(
                f"y must hold numbers, got values of type {', '.join(sorted(strange))} "
                "(dtype object)."
            )
        try:
            y = y.astype(np.float64)
        except OverflowError:
            raise ValueError("y holds a number too large for float64.") from None
        except TypeError:  # complex numbers are refused later
            return y
    elif y.dtype.kind not in "biufc":  # complex numbers are refused later
        raise ValueError(
            f"y must hold numbers, got dtype {y.dtype}. Convert it first, for example "
            "dates to days, (y - y.min()) / np.timedelta64(1, 'D')."
        )
    return y


def read_labels(y: Any) -> Any:
    """A classifier's labels, or the y that scikit-learn refuses better.

    Parameters
    ----------
    y : array-like, data frame or sparse matrix
        Labels of one type; of several columns each has its own.

    Returns
    -------
    y : ndarray or sparse matrix; None is left for scikit-learn
        Of objects where labels are strings, or columns differ in kind.

    Raises
    ------
    ValueError
        If labels are missing, or if numbers and strings are mixed.
    """
    if isinstance(y, list | tuple):
        # NumPy would make strings of all.
        if len(y) and all(isinstance(row, list | tuple) for row in y):
            y = _rows_of_objects(y)
        else:
            _demand_one_type(y)
    y = _plain(y, _stack_labels)
    if not isinstance(y, np.ndarray) or y.dtype.kind != "O" or not y.size:
        return y
    if y.ndim == 2 and y.shape[1] > 1:
        return _stack_labels([plain_column(y[:, j], j) for j in range(y.shape[1])])
    return plain_column(y)


def _rows_of_objects(rows: Any) -> Any:
    """Rows of one length and of several types as they are; NumPy takes all others."""
    if len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
        return rows
    if len({type(label) for row in rows for label in row}) == 1:
        return rows
    y = np.empty((len(rows), len(rows[0])), object)
    for i, row in enumerate(rows):
        for j, label in enumerate(row):
            y[i, j] = label
    return y


def plain_column(y: NDArray, number: int | None = None) -> NDArray:
    """One column of labels, numbers not as objects; `number` names it in errors."""
    if y.dtype.kind != "O" or not y.size:
        return y
    where = "" if number is None else f" in column {number}"
    _demand_one_type(y.flat, where)
    if isinstance(y.flat[0], Number):
        y = np.array(y.tolist())
        if y.dtype.kind == "O":
            raise ValueError(
                f"y holds whole numbers of more than 64 bits{where}; labels may be "
                "strings."
            )
    return y


def stack_columns(columns: list[NDArray]) -> NDArray:
    """Columns side by side, as objects where a common type would change a label."""
    kinds = {column.dtype.kind for column in columns}
    whole = kinds <= {"i", "u"} and np.result_type(*columns).kind in "iu"
    if len(kinds) > 1 and not whole:
        columns = [column.astype(object) for column in columns]
    return np.column_stack(columns)


def _stack_labels(columns: list[NDArray]) -> NDArray:
    """The same of columns that users give: 0 and 1 of all types are numbers."""
    numbers = all(column.dtype.kind in "biuf" for column in columns)
    if numbers and all(map(zero_or_one, columns)):
        return np.column_stack(columns)
    return stack_columns(columns)


def _demand_one_type(labels: Any, where: str = "") -> None:
    types = {type(v) for v in labels}
    if len(types) > 1 and any(issubclass(t, str | bytes) for t in types):
        if not all(issubclass(t, str) for t in types):
            _refuse_missing(np.array([_is_missing(v) for v in labels]), "object")
            names = ", ".join(sorted(t.__name__ for t in types))
            raise ValueError(
                f"y mixes labels of several types ({names}){where}; make them all "
                "strings, or all numbers."
            )


def _plain(y: Any, stack: Callable[[list[NDArray]], NDArray] = np.column_stack) -> Any:
    """y as an ndarray with the values that it had; sparse matrices and None as is.

    stack: puts the columns of a data frame side by side.
    """
    if y is None or sparse.issparse(y):
        return y
    if hasattr(y, "iloc") and hasattr(y, "isna"):  # pandas
        return _plain_pandas(y, stack)
    if hasattr(y, "null_count") and hasattr(y, "to_numpy"):  # polars, pyarrow
        nulls = y.null_count() if callable(y.null_count) else y.null_count
        nulls = nulls if isinstance(nulls, int) else nulls.to_numpy().sum()
        if nulls:
            raise ValueError(f"y has missing values ({nulls}). {_CURE}")
    if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
        _refuse_missing(np.ma.getmaskarray(y), y.dtype)
    try:
        y = np.asarray(y)
    except ValueError:  # rows of different lengths
        return y
    if y.dtype.kind == "O":
        flags = np.fromiter(map(_is_missing, y.flat), bool, y.size)
        _refuse_missing(flags.reshape(y.shape), y.dtype)
    elif y.dtype.kind in "mM":
        _refuse_missing(np.isnat(y), y.dtype)
    return y


def _plain_pandas(y: Any, stack: Callable[[list[NDArray]], NDArray]) -> NDArray:
    """The values of a series or a frame, whole numbers not by way of float64."""
    if y.ndim == 2:
        columns = [_plain_pandas(y.iloc[:, i], stack) for i in range(y.shape[1])]
        return stack(columns) if columns else np.empty(y.shape)
    missing = np.asarray(y.isna(), dtype=bool)
    # NaN among floats is left for scikit-learn, which names it.
    if not (isinstance(y.dtype, np.dtype) and y.dtype.kind == "f"):
        _refuse_missing(missing, y.dtype)
    dtype = getattr(y.dtype, "numpy_dtype", None)
    if dtype is not None and np.dtype(dtype).kind in "biuf":
        return y.to_numpy(dtype=dtype)
    return np.asarray(y)


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)  # NaN, NaT
    except (TypeError, ValueError):  # pandas.NA does not say whether it is true
        return type(value).__name__ == "NAType"


def _refuse_missing(missing: NDArray, dtype: Any) -> None:
    if missing.any():
        row = int(np.argwhere(missing)[0][0])
        raise ValueError(
            f"y has missing values ({int(missing.sum())}, as None, NaN or NA; dtype "
            f"{dtype}), the first in row {row}. {_CURE}"
        )


def index_of(classes: NDArray, y: NDArray) -> NDArray[np.int32]:
    """Places of labels in `classes`, exactly; -1 for a label that is not there.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Ascending.
    y : ndarray of shape (n_samples,)

    Returns
    -------
    index : int32 ndarray of shape (n_samples,)
    """
    if y.dtype.kind == classes.dtype.kind and y.dtype.kind in "biufU":
        index = np.searchsorted(classes, y)
        np.minimum(index, len(classes) - 1, out=index)
        index[classes[index] != y] = -1
        return index.astype(np.int32)
    # Not by NumPy's common type: that of int64 and uint64 is float64.
    places = {label: place for place, label in enumerate(classes.tolist())}
    if y.dtype.kind == "O":
        return np.array([places.get(label, -1) for label in y.tolist()], np.int32)
    values, inverse = np.unique(y, return_inverse=True)
    found = [places.get(value, -1) for value in values.tolist()]
    return np.array(found, dtype=np.int32)[inverse.reshape(y.shape)]


# ---- numbers to train on


def ready_numbers(y: Any, n_samples: int) -> bool:
    """Whether a regressor's y needs no check by scikit-learn."""
    return (
        type(y) is np.ndarray
        and y.dtype.kind in "biuf"
        and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1))
        and len(y) == n_samples
        and all_finite(y)
    )


def encode_numbers(
    y: Any, dtype: DTypeLike, loss: str, least: float, refused: bool = False
) -> Floats:
    """A regressor's targets as a matrix of shape (n_samples, n_outputs).

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
    dtype : float type
    loss : str
        What asks for it, for the error.
    least : float
        The least target that this loss allows.
    refused : bool, default=False
        Whether even this one is too small.

    Raises
    ------
    ValueError
        If a target is too large for the type, or too small for the loss.
    """
    y = _one_column(y)
    if y.dtype != dtype:
        with np.errstate(over="ignore"):
            y = y.astype(dtype)
    target = np.ascontiguousarray(y).reshape(len(y), -1)
    if not all_finite(target):
        raise ValueError(f"y holds values too large for {np.dtype(dtype)}.")
    lowest = target.min()
    if lowest < least or (refused and lowest == least):
        raise ValueError(
            f"{loss} needs y {'>' if refused else '>='} {least:g}, but the least y is "
            f"{lowest}."
        )
    return target


def _one_column(y: NDArray) -> NDArray:
    """A matrix of one column as a vector, with scikit-learn's warning."""
    if y.ndim != 2 or y.shape[1] != 1:
        return y
    warn(
        "A column-vector y was passed when a 1d array was expected. Please change the "
        "shape of y to (n_samples, ), for example using ravel().",
        DataConversionWarning,
    )
    return y.ravel()


# ---- labels


# Not frozen: that would take a microsecond of each prediction.
@dataclass(eq=False)
class Labels:
    """What a classifier knows of its labels.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        Ascending; for multilabel targets the numbers of the columns.
    multilabel : bool or None
        Whether a row may have several labels. None: partial_fit was told the classes,
        and no y has come yet.
    sparse : bool or None
        Whether multilabel targets came as a sparse matrix, as predictions then are.
    """

    classes: NDArray
    multilabel: bool | None = None
    sparse: bool | None = None

    @classmethod
    def of_fitted(cls, fitted: Fitted) -> Labels | None:
        """The labels of a fitted object, or None if it has none."""
        classes = fitted.get("classes_")
        if classes is None:
            return None
        return cls(classes, fitted.get("_multilabel"), fitted.get("_sparse_labels"))

    def attributes(self) -> dict[str, Any]:
        """The fitted attributes that say the same."""
        named = {
            "classes_": self.classes,
            "_multilabel": self.multilabel,
            "_sparse_labels": self.sparse,
        }
        return {name: value for name, value in named.items() if value is not None}

    groups = ()  # of outputs: only several columns of labels have more than one

    @property
    def choices(self) -> list[NDArray]:
        """The labels that each column of y may have."""
        if self.multilabel:
            return [np.arange(2)] * len(self.classes)
        return [self.classes]

    @property
    def n_outputs(self) -> int:
        """Outputs of a network for these labels: one for two classes."""
        several = self.multilabel or len(self.classes) > 2
        return len(self.classes) if several else 1

    # -------------------------------------------------------- from y to the target

    def known_target(self, y: NDArray, dtype: DTypeLike) -> NDArray | None:
        """The target if y is plainly of these labels, or None: take a closer look.

        Such a y needs no other check; scikit-learn's take 350 us of a `partial_fit`.
        """
        classes = self.classes
        if self.multilabel:
            right = y.ndim == 2 and y.shape[1] == len(classes) and len(y) > 0
            if not right or y.dtype.kind not in "biuf" or not zero_or_one(y):
                return None
            return np.ascontiguousarray(y, dtype=dtype)
        kind = y.dtype.kind
        right = y.ndim == 1 and len(y) > 0 and kind == classes.dtype.kind
        if self.multilabel is None or not right or kind not in "biufU":
            return None
        index = classes.searchsorted(y)
        found = classes.take(index, mode="clip") == y
        return index.astype(np.int32) if found.all() else None

    def demand_same(self, labels: NDArray, multilabel: bool, incremental: bool) -> None:
        """Refuse labels other than those the model was made for."""
        if self.multilabel not in (None, multilabel):
            raise ValueError(
                "y must stay multilabel, or stay one label per row, while training "
                "goes on."
            )
        if multilabel and len(labels) != len(self.classes):
            raise ValueError(
                f"y has {len(labels)} columns of labels, but classes names "
                f"{len(self.classes)}."
            )
        if incremental:
            if index_of(self.classes, labels).min() < 0:
                raise ValueError(
                    "`y` has classes not in `self.classes_`. "
                    f"`self.classes_` has {self.classes}. 'y' has {labels}."
                )
        elif labels.tolist() != self.classes.tolist():
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the "
                f"previous call to fit. Previously got {self.classes}, `y` has "
                f"{labels}"
            )

    # ------------------------------------------------- from logits back to labels

    def decide(self, logits: Floats) -> NDArray:
        """Labels, or for multilabel targets a matrix of 0 and 1."""
        if self.multilabel:
            return (logits > 0).astype(int)
        if len(self.classes) == 1:
            index = np.zeros(len(logits), dtype=int)
        elif logits.shape[1] == 1:
            index = (logits[:, 0] > 0).astype(int)
        else:
            index = logits.argmax(axis=1)
        return self.classes[index]

    def probabilities(self, logits: Floats, output: str) -> Floats:
        """Probabilities of the labels, for all outputs but softmax's.

        Parameters
        ----------
        logits : ndarray of shape (n_samples, n_outputs)
        output : str
            The activation of the outputs, which says what logits mean.
        """
        if self.multilabel:
            return _probability(logits)
        if len(self.classes) == 1:
            return np.ones_like(logits)
        if logits.shape[1] == 1:
            return _probability(np.hstack([-logits, logits]))
        # Logistic outputs divided by their sum. All of them may be 0, so that
        # logarithms are divided.
        log_p = _log_shares(logits, output)
        return _inside(elementwise("exp", log_p), logits.dtype, lambda: log_p)

    def softmax_probabilities(
        self, p: Floats, dtype: DTypeLike, logits: Callable[[], Floats]
    ) -> Floats:
        """Softmax outputs strictly between 0 and 1.

        Parameters
        ----------
        p : ndarray of shape (n_samples, n_classes)
        dtype : float type
            In which they were computed.
        logits : callable
            Returns the logits; called where outputs are too small for the type.
        """
        return _inside(p, dtype, lambda: _log_shares(logits(), "softmax"))

    def log_probabilities(self, logits: Floats, output: str) -> Floats:
        """Logarithms of the probabilities, never -inf."""
        if self.multilabel:
            # Above 1/2 from the probability: both order the labels alike.
            p = _probability(logits)
            return np.where(p > 0.5, np.log(p), _log_probability(logits))
        if len(self.classes) == 1:
            return np.zeros_like(logits)
        if logits.shape[1] == 1:
            return _log_probability(np.hstack([-logits, logits]))
        return _log_shares(logits, output)


def told_labels(classes: Any, known: Labels | None) -> Labels:
    """The labels that partial_fit is told of, as scikit-learn checks them.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
    known : Labels or None
        Those of the model; the first call must be told of them.
    """
    if classes is None:
        raise ValueError("classes must be passed on the first call to partial_fit.")
    labels = unique_labels(read_labels(classes))
    if known is None:
        return Labels(labels)
    if labels.tolist() != known.classes.tolist():
        raise ValueError(
            f"`classes={classes!r}` is not the same as on last call to "
            f"partial_fit, was: {known.classes!r}"
        )
    return known


def encode_labels(
    y: Any, dtype: DTypeLike, known: Labels | None, incremental: bool
) -> tuple[NDArray, Labels]:
    """Targets to train on, and the labels that they stand for.

    One label per row becomes an int32 index into the classes, shape (n_samples,);
    multilabel targets become a matrix of 0 and 1, shape (n_samples, n_outputs).

    Parameters
    ----------
    y : ndarray or CSR matrix
        As scikit-learn's checks leave it; the matrix as kernels read one, of several
        columns. It stays sparse.
    dtype : float type
        Of the matrix.
    known : Labels or None
        Those of the model that training goes on with.
    incremental : bool
        Whether some labels may be missing in y.
    """
    is_sparse = sparse.issparse(y)
    if is_sparse:
        y = _indicators(y, dtype)
        multilabel = True
    else:
        y = _one_column(y)
        if incremental and known is not None:
            target = known.known_target(y, dtype)
            if target is not None:
                return target, known
        multilabel = _is_multilabel(y)
    if multilabel:
        labels = np.arange(y.shape[1])
    else:
        labels = _unique(y)
    if known is not None:
        known.demand_same(labels, multilabel, incremental)
        labels = known.classes
        is_sparse = is_sparse if known.sparse is None else known.sparse
    if not multilabel:
        target = index_of(labels, y)
    elif sparse.issparse(y):
        target = y
    else:
        target = np.ascontiguousarray(y, dtype=dtype)
    return target, Labels(labels, multilabel, is_sparse)


def _unique(y: NDArray) -> NDArray:
    """The labels that occur, ascending."""
    # Without the type of y: strings come as short as they are.
    labels = np.asarray(list(np.unique(y)))
    if len(y) > 20 and 2 < len(labels) > round(0.5 * len(y)):
        warn(
            "The number of unique classes is greater than 50% of the number of "
            "samples. `y` could represent a regression problem, not a "
            "classification problem."
        )
    return labels


def labels_of_column(y: NDArray) -> NDArray:
    """The labels that occur in one column of several, ascending."""
    _is_multilabel(y)  # refuses what holds no labels
    return _unique(y)


def _indicators(y: Any, dtype: DTypeLike) -> sparse.csr_matrix:
    """A sparse multilabel y in `dtype`, with no entry but ones."""
    if y.indices.size and not 0 <= y.indices.min() <= y.indices.max() < y.shape[1]:
        raise ValueError(
            "y is a malformed sparse matrix: an index lies outside its columns."
        )
    if y.dtype.kind not in "biuf" or not zero_or_one(y.data):
        raise ValueError(
            "A sparse y of several columns is multilabel and must hold 0 and 1 only, "
            f"got values {np.unique(y.data)} (dtype {y.dtype}). Numbers stored twice "
            "are added. Several columns of labels must be dense."
        )
    if not y.data.all():
        y = y.copy()
        y.eliminate_zeros()
    ones = np.ones(len(y.data), dtype)
    return sparse.csr_matrix((ones, y.indices, y.indptr), shape=y.shape)


def _is_multilabel(y: NDArray) -> bool:
    """Whether y is a matrix of labels; refuses what holds no labels.

    Numbers that are whole and strings, one for each row, are labels at first sight:
    scikit-learn's look at them takes 150 us.
    """
    if y.ndim == 1 and y.dtype.kind in "biuU":
        return False
    kind = type_of_target(y, input_name="y")
    if kind not in ("binary", "multiclass", "multilabel-indicator"):
        check_classification_targets(y)  # raises
    if kind == "multilabel-indicator" and not zero_or_one(y):
        raise ValueError(
            f"A multilabel y must hold 0 and 1 only, got values {np.unique(y)}. If "
            "these are classes of several columns, give them as strings, or tell them "
            "to partial_fit: classes=[...], an array for each column."
        )
    return kind == "multilabel-indicator"


def zero_or_one(y: NDArray) -> bool:
    return bool(((y == 0) | (y == 1)).all())


# ---- probabilities


def _inside(p: Floats, dtype: DTypeLike, log_p: Callable[[], Floats]) -> Floats:
    """Probabilities computed in `dtype`, put strictly between 0 and 1 in place.

    Those that are too small for the type get a number below its least normal one, in
    the order of their logarithms, so that both order classes alike.
    """
    limits = np.finfo(dtype)
    small = p < limits.tiny
    if small.any():
        logs = log_p()[small]
        ordered = limits.tiny * (np.log(limits.tiny) / logs)
        p[small] = np.maximum(ordered, limits.smallest_subnormal)
    return np.minimum(p, limits.dtype.type(1) - limits.epsneg, out=p)


# Not by SciPy's expit and NumPy's logaddexp, which call the C library: here, too, a
# model has the same bits everywhere, and those of the C code that to_c writes.


def _probability(logits: Floats) -> Floats:
    """Logistic function of the logits, strictly between 0 and 1."""
    p = elementwise("logistic", logits)
    return _inside(p, logits.dtype, lambda: _log_probability(logits))


def _log_probability(logits: Floats) -> Floats:
    """Logarithm of the logistic function: finite for every finite logit."""
    e = elementwise("exp", -np.abs(logits))
    return -(np.maximum(-logits, 0) + elementwise("log1p", e))


def _log_shares(logits: Floats, output: str) -> Floats:
    """Logarithms of probabilities that sum to 1, for more than two classes."""
    if output == "logistic":
        logits = _log_probability(logits)
    # Less the largest first, and what the others add to it apart: else the logarithm of
    # a p near 1 would be rounded off.
    first = logits.argmax(axis=1)[:, np.newaxis]
    with np.errstate(over="ignore"):
        logits = logits - np.take_along_axis(logits, first, axis=1)
    e = elementwise("exp", logits)
    np.put_along_axis(e, first, 0, axis=1)
    rest = np.cumsum(e, axis=1)[:, -1:]  # the classes ascending
    few = elementwise("log1p", np.minimum(rest, 1))
    log_p = logits - np.where(rest > 1, elementwise("log", 1 + rest), few)
    return np.maximum(log_p, np.finfo(log_p.dtype).min)


def weights_of_classes(
    class_weight: Any, y: Any, classes: list[NDArray], balance: Any = None
) -> Floats:
    """A weight for each row, by the classes of its labels.

    Parameters
    ----------
    class_weight : dict, list of dicts or "balanced"
    y : array or CSR matrix of shape (n_samples,) or (n_samples, n_labels)
    classes : list of ndarrays
        The labels that each column of y may have, ascending; y may lack some.
    balance : as y, default=None
        The labels by whose numbers classes are balanced; None means y.

    Returns
    -------
    weight : float64 ndarray of shape (n_samples,)
    """
    n = len(classes)
    if n == 1 and isinstance(class_weight, list | tuple):
        raise ValueError(
            "y has one column, so that class_weight must be 'balanced' or a dict; got "
            f"{class_weight!r}."
        )
    if n > 1 and class_weight != "balanced":
        one_each = isinstance(class_weight, list | tuple) and len(class_weight) == n
        if not one_each or not all(isinstance(w, dict) for w in class_weight):
            raise ValueError(
                f"y has {n} columns, so that class_weight must be 'balanced' or a list "
                f"of {n} dicts, one for each column; got {class_weight!r}."
            )
    # One after the other, so that a sparse y is never dense as a whole.
    y, balance = (x.tocsc() if sparse.issparse(x) else x for x in (y, balance))
    weight = np.ones(y.shape[0])
    for j, known in enumerate(classes):
        labels = _column(y, j)
        if class_weight == "balanced":
            others = None if balance is None else _column(balance, j)
            weight *= _balanced(labels, others)
            continue
        if n == 1:
            of_classes = _told_weights(class_weight, known)
        else:
            of_classes = _told_weights(class_weight[j], known, f" for column {j} of y")
        weight *= of_classes[index_of(known, labels)]
    return weight


def _balanced(labels: NDArray, balance: NDArray | None) -> Floats:
    """Weights that give each class the same weight in sum."""
    from sklearn.utils.class_weight import compute_sample_weight

    if balance is None:
        return compute_sample_weight("balanced", labels)
    n = len(balance)
    both = np.concatenate([balance, labels])
    return compute_sample_weight("balanced", both, indices=np.arange(n))[n:]


def _told_weights(given: dict, classes: NDArray, where: str = "") -> Floats:
    """The weight of each class; `where` names the column in errors."""
    weight, unused = np.ones(len(classes)), set(given)
    for place, label in enumerate(classes.tolist()):
        key = label
        if key not in given and isinstance(label, str) and label.isdecimal():
            key = int(label)  # as scikit-learn has it
        if key in given:
            weight[place] = _weight_of_class(given[key], label, where)
            unused.discard(key)
    # As in scikit-learn more is allowed where every class has a weight.
    if unused and len(given) - len(unused) < len(classes):
        strange = ", ".join(sorted(map(repr, unused)))
        raise ValueError(
            f"class_weight{where} has a weight for {strange}, but the classes are "
            f"{', '.join(map(repr, classes.tolist()))}."
        )
    return weight


def _weight_of_class(given: Any, label: Any, where: str) -> float:
    try:
        weight = np.nan if isinstance(given, str | bytes) else float(given)
    except (TypeError, ValueError, OverflowError):
        weight = np.nan
    if not 0 <= weight < np.inf:
        raise ValueError(
            f"class_weight{where} must hold finite numbers >= 0, got {given!r} for "
            f"class {label!r}."
        )
    return weight


def _column(y: Any, j: int) -> NDArray:
    if sparse.issparse(y):
        return y[:, [j]].toarray().ravel()
    return plain_column(y if y.ndim == 1 else y[:, j])
