"""Several columns of labels in one y: each column has classes and outputs of its own.

Every class of every column has an output; the outputs of one column lie side by side
and make a group of the network. A column alone, and all that is common to it and to a y
of one column, stands in _targets.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse
from sklearn.utils.multiclass import unique_labels

from cbp._targets import (
    Labels,
    encode_labels,
    index_of,
    labels_of_column,
    plain_column,
    read_labels,
    stack_columns,
    told_labels,
    zero_or_one,
)

if TYPE_CHECKING:
    from cbp._fitted import Fitted

    Floats = NDArray[np.floating[Any]]


# Not frozen, as Labels.
@dataclass(eq=False)
class LabelColumns:
    """What a classifier knows of its labels if y has several columns of them.

    Attributes
    ----------
    columns : list of Labels
    """

    columns: list[Labels]

    multilabel = False
    sparse = False

    @classmethod
    def of_classes(cls, classes: list[NDArray]) -> LabelColumns:
        """The labels of columns with these classes, each ascending."""
        return cls([Labels(each, False, False) for each in classes])

    def attributes(self) -> dict[str, Any]:
        """The fitted attributes that say the same."""
        return {"classes_": self.choices, "_multilabel": False, "_sparse_labels": False}

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of outputs of each column: one for each class."""
        return tuple([len(column.classes) for column in self.columns])

    @property
    def choices(self) -> list[NDArray]:
        """The labels that each column of y may have."""
        return [column.classes for column in self.columns]

    @property
    def n_outputs(self) -> int:
        return sum(self.groups)

    # -------------------------------------------------------- from y to the target

    def known_target(self, y: NDArray, dtype: DTypeLike) -> NDArray | None:
        """The target if y is plainly of these labels, or None: take a closer look."""
        if y.ndim != 2 or y.shape[1] != len(self.columns):
            return None
        target = np.empty(y.shape, np.int32)
        for j, column in enumerate(self.columns):
            places = column.known_target(np.ascontiguousarray(y[:, j]), dtype)
            if places is None:
                return None
            target[:, j] = places
        return target

    # ------------------------------------------------- from logits back to labels

    def _each(self, outputs: Floats) -> Iterator[tuple[Labels, Floats]]:
        """The columns, each with its outputs."""
        ends = np.cumsum([0, *self.groups])
        for column, (start, end) in zip(self.columns, pairwise(ends), strict=True):
            yield column, outputs[:, start:end]

    def decide(self, logits: Floats) -> NDArray:
        """Labels, shape (n_samples, n_columns); objects if columns differ in kind."""
        places = [z.argmax(axis=1) for _, z in self._each(logits)]
        return stack_columns(
            [
                column.classes[place]
                for column, place in zip(self.columns, places, strict=True)
            ]
        )

    def are_right(self, logits: Floats, y: Any) -> NDArray[np.bool_]:
        """Whether a row's labels are decided right in every column."""
        y = read_labels(y)
        if not isinstance(y, np.ndarray) or y.shape != (len(logits), len(self.columns)):
            raise ValueError(
                f"y must have {len(self.columns)} columns of labels, and as many rows "
                f"as X, {len(logits)}; got {_named(y)}."
            )
        right = np.ones(len(logits), dtype=bool)
        for j, (column, z) in enumerate(self._each(logits)):
            labels = plain_column(y[:, j])
            place = index_of(column.classes, labels)
            if place.max() < 0:
                raise ValueError(
                    f"Column {j} of y holds no label that the model knows: got "
                    f"{labels.tolist()[0]!r}, known are {column.classes.tolist()}."
                )
            right &= place == z.argmax(axis=1)
        return right

    def probabilities(self, logits: Floats, output: str) -> list[Floats]:
        """As those of `Labels`, an array for each column."""
        return [column.probabilities(z, output) for column, z in self._each(logits)]

    def softmax_probabilities(
        self, p: Floats, dtype: DTypeLike, logits: Callable[[], Floats]
    ) -> list[Floats]:
        """As those of `Labels`, an array for each column."""
        logits = functools.cache(logits)
        return [
            np.ones_like(shares)
            if len(column.classes) == 1
            else column.softmax_probabilities(
                shares.copy(), dtype, lambda j=j: self._logits_of(logits(), j)
            )
            for j, (column, shares) in enumerate(self._each(p))
        ]

    def _logits_of(self, logits: Floats, j: int) -> Floats:
        return [z for _, z in self._each(logits)][j]

    def log_probabilities(self, logits: Floats, output: str) -> list[Floats]:
        """As those of `Labels`, an array for each column."""
        return [column.log_probabilities(z, output) for column, z in self._each(logits)]


AnyLabels: TypeAlias = Labels | LabelColumns


def labels_of(fitted: Fitted) -> AnyLabels | None:
    """The labels of a fitted object, or None if it has none."""
    classes = fitted.get("classes_")
    if isinstance(classes, list):
        return LabelColumns.of_classes(classes)
    return Labels.of_fitted(fitted)


def told(classes: Any, known: AnyLabels | None) -> AnyLabels:
    """The labels that partial_fit is told of: as `told_labels`, or a list of several
    arrays, one for each column of y."""
    listed = isinstance(classes, list | tuple) and len(classes) > 1
    if not listed or not all(np.ndim(each) == 1 for each in classes):
        if isinstance(known, LabelColumns):
            raise ValueError(
                "classes must be a list of arrays, one for each of the "
                f"{len(known.columns)} columns of y, as on the first call to "
                "partial_fit."
            )
        return told_labels(classes, known)
    each = [unique_labels(read_labels(column)) for column in classes]
    if known is None:
        return LabelColumns.of_classes(each)
    same = isinstance(known, LabelColumns) and [c.tolist() for c in each] == [
        column.classes.tolist() for column in known.columns
    ]
    if not same:
        raise ValueError(
            f"`classes={classes!r}` is not the same as on last call to partial_fit, "
            f"was: {known.attributes()['classes_']!r}"
        )
    return known


def encode(
    y: Any, dtype: DTypeLike, known: AnyLabels | None, incremental: bool
) -> tuple[Any, AnyLabels]:
    """Targets to train on, and the labels that they stand for.

    As `encode_labels`; several columns of labels become an int32 matrix of indices into
    the classes of each column, shape (n_samples, n_columns).
    """
    if isinstance(known, LabelColumns):
        if sparse.issparse(y) or y.ndim != 2 or y.shape[1] != len(known.columns):
            raise ValueError(
                f"y must keep its {len(known.columns)} columns of labels while "
                f"training goes on; got {_named(y)}."
            )
    elif not _has_columns(y):
        return encode_labels(y, dtype, known, incremental)
    elif known is not None:
        raise ValueError(
            f"y has {y.shape[1]} columns of labels, but training goes on with "
            + ("a matrix of 0 and 1." if known.multilabel else "one label per row.")
        )
    target, columns = np.empty(y.shape, np.int32), []
    for j in range(y.shape[1]):
        with _in_column(j):
            column = plain_column(y[:, j])
            labels = labels_of_column(column)
            if known is not None:
                known.columns[j].demand_same(labels, False, incremental)
                labels = known.columns[j].classes
            target[:, j] = index_of(labels, column)
            columns.append(labels)
    return target, LabelColumns.of_classes(columns)


def _has_columns(y: Any) -> bool:
    """Whether y is a matrix of labels, and not of 0 and 1 for them."""
    if sparse.issparse(y) or y.ndim != 2 or y.shape[1] < 2:
        return False
    if y.dtype.kind not in "biuf":
        # Objects are left only where columns differ in kind, or hold strings.
        return y.dtype.kind in "OU"
    if zero_or_one(y) or (y.dtype.kind == "f" and (y != np.floor(y)).any()):
        return False
    # scikit-learn takes two numbers for a matrix of labels, whatever they are.
    return len(np.unique(y)) > 2


@contextmanager
def _in_column(j: int) -> Iterator[None]:
    """Errors say of which column they speak."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"In column {j} of y: {error}") from error


def _named(y: Any) -> str:
    shape = getattr(y, "shape", None)
    if shape is None:
        return f"a y of type {type(y).__name__}"
    return f"{'a sparse ' if sparse.issparse(y) else ''}y of shape {shape}"
