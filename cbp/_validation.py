"""X and sample_weight: checked as scikit-learn does, in the form that kernels read.

An array that is ready as it stands skips scikit-learn's checks, which take longer than
predicting or training a few rows. All else goes through them, so that errors are the
same. Targets are read in _targets.py, parameters in _parameters.py.
"""

from __future__ import annotations

import math
from numbers import Number
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import RegressorMixin
from sklearn.utils import check_array
from sklearn.utils.validation import _get_feature_names, validate_data

from cbp._fitted import Fitted
from cbp._kernels import all_finite
from cbp._parameters import named_overflow
from cbp._warn import warn

if TYPE_CHECKING:
    Floats = NDArray[np.floating[Any]]

# The largest sample weight lies between two to the minus this and two to this, or the
# weights are scaled.
_WEIGHT_EXPONENT = 32
# Smaller weights than 2 to the least exponent of the dtype plus this become 0: where
# they are a batch's only ones, its errors times weights would lose their digits, or
# what they are divided by would overflow.
_LEAST_WEIGHT_EXPONENT = 24

FLOATS = (np.dtype(np.float64), np.dtype(np.float32))


class Checked(NamedTuple):
    """What users pass, checked, as the kernels take it.

    X is an array or a CSR matrix; `target` int32 class numbers or a matrix; `weight`
    None or counted in `unit`, a power of two. `y` is what the target was made of.
    """

    X: Any
    target: NDArray
    weight: Floats | None
    unit: float
    n_outputs: int
    y: Any

    @property
    def weighs_nothing(self) -> bool:
        return self.weight is not None and not self.weight.any()


# ---- X


def allowed_dtypes(est: Any, fresh: bool) -> list[np.dtype]:
    """The float types X may keep; anything else becomes the first of them."""
    if est.precision is not None:
        return [np.dtype(str(est.precision))]
    if not fresh and est._fitted.is_model:
        return [est._fitted._network.dtype]
    return list(FLOATS)


def is_ready(model: Fitted, X: Any, dtype: np.dtype) -> bool:
    """Whether X, if its entries are finite, needs no other check."""
    return (
        type(X) is np.ndarray
        and X.dtype == dtype
        and X.ndim == 2
        and X.flags.c_contiguous
        and X.flags.aligned
        and X.shape[0] > 0
        and X.shape[1] == model.get("n_features_in_")
        and model.get("feature_names_in_") is None
    )


def checked_rows(est: Any, X: Any, dtype: np.dtype) -> tuple[Any, np.dtype]:
    """X of a prediction, in `dtype`, and the float type that X came in."""
    with named_overflow("X"):
        X = validate_data(
            _with_names_of(est, X),
            X,
            accept_sparse="csr",
            dtype=list(FLOATS),
            order="C",
            reset=False,
        )
    given = X.dtype
    if given != dtype:  # again, for numbers too large for float32
        with np.errstate(over="ignore"):
            X = check_array(
                X, accept_sparse="csr", dtype=dtype, order="C", input_name="X"
            )
    return kernel_ready(X), given


def checked_rows_and_targets(
    est: Any, X: Any, y: Any, dtypes: list[np.dtype], reset: bool
) -> tuple[Any, Any]:
    """X and y of a fit; with `reset` the estimator takes over the columns of X.

    Only a sparse y of several columns of labels stays sparse.
    """
    with named_overflow("X"):
        X, y = validate_data(
            est if reset else _with_names_of(est, X),
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=isinstance(est, RegressorMixin),
            dtype=dtypes,
            order="C",
            reset=reset,
        )
    if has_one_column(y) or (sparse.issparse(y) and isinstance(est, RegressorMixin)):
        y = (y if y.ndim == 1 else kernel_ready(y, "y")).toarray()
    return kernel_ready(X), y


def has_one_column(y: Any) -> bool:
    """Whether y is sparse, but no matrix of labels."""
    return sparse.issparse(y) and (y.ndim == 1 or y.shape[1] == 1)


def _with_names_of(est: Any, X: Any) -> Any:
    """An estimator to check X with that warns of no column names.

    scikit-learn's warning points at its own code. This one points at the user's.
    """
    names = None if type(X) is np.ndarray else _get_feature_names(X)
    fitted_names = est._fitted.get("feature_names_in_")
    if (names is None) == (fitted_names is None):
        return est
    name = type(est).__name__
    if names is None:
        warn(
            f"X does not have valid feature names, but {name} was fitted with feature "
            "names"
        )
        return est._with(est._fitted.changed(drop=["feature_names_in_"]))
    warn(f"X has feature names, but {name} was fitted without feature names")
    return est._with(est._fitted.changed(feature_names_in_=names))


def kernel_ready(X: Any, name: str = "X") -> Any:
    """X as the kernels read it; the caller's own array or matrix is left alone.

    A plain array, C-contiguous and aligned, or CSR with sorted indices, none twice.
    """
    if not sparse.issparse(X):
        return np.require(X, requirements="CA")
    # A matrix of our own: what SciPy has noted of the order of indices may be untrue by
    # now, and data or indices may be strided.
    X = sparse.csr_matrix(_checked_csr(X, name), shape=X.shape)
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def _checked_csr(X: Any, matrix: str) -> tuple[Floats, NDArray, NDArray]:
    """Data, indices and row starts of X, contiguous.

    What would lead SciPy out of these arrays is refused; its constructors let it pass.
    Indices beyond the columns are found by the network.
    """
    given = {"data": X.data, "indices": X.indices, "indptr": X.indptr}
    for name, array in given.items():
        whole = name == "data" or array.dtype.kind in "iu"
        if array.ndim != 1 or not whole:
            raise ValueError(
                f"{matrix} is a malformed sparse matrix: its {name} must be "
                f"one-dimensional{'' if name == 'data' else ' and hold whole numbers'}"
                f", got shape {array.shape} and dtype {array.dtype}."
            )
    data, indices, starts = map(np.ascontiguousarray, given.values())
    # One by one: differences of unsigned numbers are never negative.
    if (
        len(starts) != X.shape[0] + 1
        or starts[0] != 0
        or starts[-1] > min(len(indices), len(data))
        or (starts[1:] < starts[:-1]).any()
    ):
        raise ValueError(
            f"{matrix} is a malformed sparse matrix: its indptr is not in order."
        )
    return data[: starts[-1]], indices[: starts[-1]], starts


def refuse_overflow(finite: NDArray[np.bool_], X: Any, dtype: np.dtype) -> None:
    """Name the rows of X whose outputs are not finite."""
    rows = np.flatnonzero(~finite)
    named = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
    entries = X.data if sparse.issparse(X) else X
    if not np.isfinite(entries).all():  # only where checks were turned off
        raise ValueError(
            "X holds NaN or infinity, which nothing looks for under "
            f"assume_finite=True. The outputs of {len(rows)} rows are not "
            f"finite: {named}."
        )
    raise ValueError(
        f"The network overflows {dtype} in {len(rows)} of "
        f"{len(finite)} rows of X: {named}. Their values, or the weights, are "
        "too large; scale X as it was scaled for training."
    )


# ---- sample_weight


def checked_weight(
    sample_weight: Any, X: Any, incremental: bool
) -> tuple[Floats | None, float]:
    """sample_weight in units of a power of two, in X's dtype, or None; the unit.

    All weights zero are an error in fit; in partial_fit such a batch does nothing.
    The unit is 1 unless sums of weights, or of errors times weights, could leave
    the range of the dtype; with alpha in the same unit no other bit changes.
    """
    if sample_weight is None:
        return None, 1.0
    n_samples = X.shape[0]
    if isinstance(sample_weight, Number):
        sample_weight = np.full(n_samples, sample_weight)
    weight = _float_weights(sample_weight)
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must be one number or of shape ({n_samples},), one "
            f"weight per row of X; got shape {weight.shape}."
        )
    if weight.min() < 0:
        raise ValueError(
            f"sample_weight must not be negative, got {weight.min()} "
            f"in row {weight.argmin()}."
        )
    if not incremental and not weight.any():
        raise ValueError("sample_weight is zero in every row: nothing to learn.")
    exponent = math.frexp(weight.max())[1] - 1
    if abs(exponent) <= _WEIGHT_EXPONENT:
        exponent = 0
    if exponent:
        weight = np.ldexp(weight, -exponent)
    weight = weight.astype(X.dtype, copy=False)
    least = math.ldexp(1.0, np.finfo(X.dtype).minexp + _LEAST_WEIGHT_EXPONENT)
    if weight.min() < least and (weight[weight < least] > 0).any():
        weight = np.where(weight < least, weight.dtype.type(0), weight)
    return kernel_ready(weight), math.ldexp(1.0, exponent)


def _float_weights(given: Any) -> Floats:
    if (
        type(given) is np.ndarray
        and given.ndim == 1
        and given.dtype in FLOATS
        and given.flags.c_contiguous
        and len(given) > 0
        and all_finite(given)
    ):
        return given
    with named_overflow("sample_weight"):
        return check_array(
            given,
            dtype=list(FLOATS),
            order="C",
            ensure_2d=False,
            input_name="sample_weight",
        )
