"""Targets as users give them: read exactly, or refused by what is wrong with them.

scikit-learn's checks come after these. They cast before they look: dates become
numbers, large whole numbers pass through float64, and a missing value becomes one that
is "too large". Nothing here knows a network.
"""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_CURE = "Drop these rows, or fill the values in."


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
        Labels of one type.

    Returns
    -------
    y : ndarray or sparse matrix; None is left for scikit-learn

    Raises
    ------
    ValueError
        If labels are missing, or if numbers and strings are mixed.
    """
    if isinstance(y, list | tuple):
        _demand_one_type(y)  # NumPy would make strings of all
    y = _plain(y)
    if isinstance(y, np.ndarray) and y.dtype.kind == "O" and y.size:
        _demand_one_type(y.flat)
        if isinstance(y.flat[0], Number):
            y = np.array(y.tolist())
            if y.dtype.kind == "O":
                raise ValueError(
                    "y holds whole numbers of more than 64 bits; labels may be strings."
                )
    return y


def _demand_one_type(labels: Any) -> None:
    types = {type(v) for v in labels}
    if len(types) > 1 and any(issubclass(t, str | bytes) for t in types):
        if not all(issubclass(t, str) for t in types):
            _refuse_missing(np.array([_is_missing(v) for v in labels]), "object")
            names = ", ".join(sorted(t.__name__ for t in types))
            raise ValueError(
                f"y mixes labels of several types ({names}); make them all strings, "
                "or all numbers."
            )


def _plain(y: Any) -> Any:
    """y as an ndarray with the values that it had; sparse matrices and None as is."""
    if y is None or sparse.issparse(y):
        return y
    if hasattr(y, "iloc") and hasattr(y, "isna"):  # pandas
        return _plain_pandas(y)
    if hasattr(y, "null_count") and hasattr(y, "to_numpy"):  # polars, pyarrow
        nulls = y.null_count() if callable(y.null_count) else y.null_count
        nulls = nulls if isinstance(nulls, int) else nulls.to_numpy().sum()
        if nulls:
            raise ValueError(f"y has missing values ({nulls}). {_CURE}")
        y = y.to_numpy()
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


def _plain_pandas(y: Any) -> NDArray:
    """The values of a series or a frame, whole numbers not by way of float64."""
    if y.ndim == 2:
        columns = [_plain_pandas(y.iloc[:, i]) for i in range(y.shape[1])]
        return np.column_stack(columns) if columns else np.empty(y.shape)
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
