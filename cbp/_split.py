"""Which rows early stopping holds out, and which are trained on: indices, never X.

The draws are scikit-learn's. Sizes and rules that differ from its own are explained in
docs/differences.md. The held-out rows are scored in _training.pyx.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    Indices = NDArray[np.int64]


def demand_fraction(fraction: float) -> None:
    """Refuse a validation_fraction that holds nothing out."""
    if fraction == 0:
        raise ValueError(
            "validation_fraction must lie in (0, 1) with early_stopping=True, "
            f"got {fraction!r}."
        )


def split(
    n_samples: int, labels: NDArray | None, fraction: float, rng: Any
) -> tuple[Indices, Indices]:
    """Indices of the rows to train on and of those held out.

    At least two rows, and one per class, are held out; every class stays in training.

    Parameters
    ----------
    n_samples : int
    labels : int32 ndarray of shape (n_samples,) or None
        Class indices, by which the split is stratified; None does not stratify.
    fraction : float
    rng : RandomState

    Returns
    -------
    rows, held_out : int64 ndarrays
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(n_samples, dtype=np.int64)
    n_held_out = max(math.ceil(fraction * n_samples), 2)
    divisible = rows
    if labels is not None:
        class_sizes = np.bincount(labels)
        # The only row of a class is needed for training.
        divisible = rows[class_sizes[labels] > 1]
        n_classes = np.count_nonzero(class_sizes > 1)
        n_held_out = max(n_held_out, n_classes)
    if n_held_out >= n_samples or len(divisible) == 0:
        raise ValueError(
            "The validation set is too small, or leaves no rows to train on: with "
            f"early_stopping=True, validation_fraction={fraction} "
            f"and these targets {n_held_out} rows are held out, but "
            f"n_samples={n_samples}, of which {len(divisible)} may be held out."
        )
    if labels is None:
        return train_test_split(rows, test_size=n_held_out, random_state=rng)
    n_held_out = min(n_held_out, len(divisible) - n_classes)
    train, held_out = train_test_split(
        divisible,
        test_size=n_held_out,
        random_state=rng,
        stratify=labels[divisible],
    )
    # A stratified split may still put a small class wholly on one side.
    present, first = np.unique(labels[held_out], return_index=True)
    moved = first[~np.isin(present, labels[train])]
    train = np.concatenate(
        [train, held_out[moved], np.setdiff1d(rows, divisible, assume_unique=True)]
    )
    return train, np.delete(held_out, moved)


def demand_weight(weight: NDArray | None, held_out: NDArray) -> None:
    """Refuse a split that leaves one of its two sides without weight."""
    if weight is None:
        return
    if np.count_nonzero(weight[held_out]) in (0, np.count_nonzero(weight)):
        raise ValueError(
            "sample_weight is zero in all rows held out for early stopping or in "
            "all others; another random_state or validation_fraction may help."
        )
