"""What a classifier does with labels: partial_fit, targets, predictions.

Its parameters and its docstring stand in estimators.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_sample_weight

from cbp import _fitting
from cbp._base import BaseBP
from cbp._catalog import output_of_labels
from cbp._fitted import Fitted, attribute
from cbp._label_columns import AnyLabels, LabelColumns, encode, labels_of, told
from cbp._solvers import demand_stochastic
from cbp._targets import read_labels, weights_of_classes
from cbp._validation import checked_weight, has_one_column, kernel_ready

if TYPE_CHECKING:
    from typing import Self

    from cbp._base import Floats, Rows


class Classifier(ClassifierMixin, BaseBP):
    """A classifier, but for its parameters."""

    classes_: NDArray | list[NDArray] = attribute()
    _multilabel: bool = attribute()
    _sparse_labels: bool = attribute()

    @available_if(lambda self: demand_stochastic(self.solver))
    def partial_fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | float | None = None,
        classes: ArrayLike | list[ArrayLike] | None = None,
    ) -> Self:
        """Train for one epoch on the rows given, going on from the present weights.

        The optimizer goes on, too, after `fit` as after `partial_fit`. Early stopping
        settings are ignored: there is nothing to stop. Not available with
        ``solver='lbfgs'``.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_columns)
            Labels as in `fit`; some of `classes` may be missing.

        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights >= 0 of the rows. A batch of weights that are all zero changes
            nothing.

        classes : array-like of shape (n_classes,), list of such or None, default=None
            All labels that will ever occur. Needed in the first call, later optional.
            A list of two arrays or more has the labels of each column of y, which then
            is not multilabel, even if it holds 0 and 1 only.

        Returns
        -------
        self : BPClassifier

        Raises
        ------
        ValueError
            As `fit`; also if `classes` is missing, has changed, or lacks a label.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels, which partial_fit does not "
                "know. Give a dict: of sklearn.utils.class_weight.compute_class_weight "
                "for labels that are like those to come."
            )
        with self._trial() as trial:
            trial._check_parameters()
            known = labels_of(trial._fitted)
            if classes is not None or known is None:
                trial._keep_labels(told(classes, known))
            _fitting.fit(trial, X, y, sample_weight, incremental=True)
        return self

    # ------------------------------------------------------------------- targets

    _read_targets = staticmethod(read_labels)

    def _weigh(
        self, sample_weight: Any, X: Any, y: Any, incremental: bool, balance: Any = None
    ) -> Any:
        """The weights of rows times those of their classes.

        balance: the labels by whose numbers classes are balanced; None means y.
        """
        if self.class_weight is None:
            return sample_weight
        classes = labels_of(self._fitted).choices
        weight = weights_of_classes(self.class_weight, y, classes, balance)
        if not incremental and not weight.any():
            raise ValueError("class_weight is zero in every row: nothing to learn.")
        if sample_weight is None:
            return weight
        given, unit = checked_weight(sample_weight, X, incremental=True)
        return given.astype(np.float64) * unit * weight

    def _keep_labels(self, labels: AnyLabels) -> None:
        self._own_fitted().__dict__.update(labels.attributes())

    def _encode(self, y: Any, dtype: np.dtype, incremental: bool) -> NDArray:
        """Targets of the network; the labels that they stand for are kept."""
        if sparse.issparse(y):
            y = kernel_ready(y, "y")
        goes_on = self.warm_start or incremental
        known = labels_of(self._fitted) if goes_on else None
        target, labels = encode(y, dtype, known, incremental)
        self._keep_labels(labels)
        return target

    def _ready_target(self, y: Any, n_samples: int, dtype: np.dtype) -> NDArray | None:
        """Targets if y needs no check by scikit-learn, or None."""
        if type(y) is not np.ndarray or y.shape[:1] != (n_samples,):
            return None
        known = labels_of(self._fitted)
        return None if known is None else known.known_target(y, dtype)

    def _n_outputs(self, target: NDArray) -> int:
        return labels_of(self._fitted).n_outputs

    def _output_groups(self) -> tuple[int, ...]:
        return labels_of(self._fitted).groups

    def _output_activation(self, n_outputs: int) -> str:
        return output_of_labels(self.loss, n_outputs > 1 and not self._multilabel)

    # ------------------------------------------------------------------- predict

    def predict(self, X: Rows) -> NDArray:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs; cast to the type the model computes in.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels out of `classes_`, or for multilabel targets a matrix of 0 and 1, a
            CSR matrix if `fit` was given a sparse one. Of several columns of labels as
            many columns, of objects if they differ in type.

        Raises
        ------
        ValueError
            If X is not allowed, or if a row overflows the network; the rows are named.
        NotFittedError
            If the model is not fitted.
        """
        model = self._model()
        labels = labels_of(model)
        if labels.multilabel and labels.sparse:
            return self._decide_sparse(model, X)
        return labels.decide(self._outputs(model, X, logits=True))

    def _decide_sparse(self, model: Fitted, X: Rows) -> sparse.csr_matrix:
        """Multilabel predictions that are never dense as a whole."""
        pieces = [
            sparse.csr_matrix((logits > 0).astype(int))
            for logits in self._logits_in_pieces(model, X)
        ]
        return pieces[0] if len(pieces) == 1 else sparse.vstack(pieces, "csr")

    def score(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """The share of rows that are predicted right.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_columns)
            True labels. For multilabel targets also a sparse matrix, which is never
            made dense as a whole.

        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            A row of several labels is right if all of its labels are, as
            :class:`sklearn.multioutput.MultiOutputClassifier` has it for columns of
            labels.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        from sklearn.metrics import accuracy_score  # takes a while

        model = self._model()
        labels = labels_of(model)
        if has_one_column(y):
            y = y.toarray().ravel()
        if isinstance(labels, LabelColumns):
            right = labels.are_right(self._outputs(model, X, logits=True), y)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(sample_weight, right)
            return float(np.average(right, weights=sample_weight))
        if not (sparse.issparse(y) and labels.multilabel):
            return super().score(X, y, sample_weight)
        predicted = self._decide_sparse(model, X)
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def decision_function(self, X: Rows) -> Floats:
        """The logits: weighted inputs of the output layer, before its activation.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            One column per class or label; with two classes one number per row, above 0
            for ``classes_[1]``. Of several columns of labels those of all classes, side
            by side.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        logits = self._outputs(self._model(), X, logits=True)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, X: Rows) -> Floats | list[Floats]:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes) or list of such
            Probabilities of the classes in the order of `classes_`, strictly between 0
            and 1. Each row sums to 1, but not for multilabel targets. With
            ``loss='squared_error'`` and more than two classes the logistic outputs are
            divided by their sum. A model that has seen one class has one column of 1.
            Of several columns of labels a list, as trees and forests return it.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        model = self._model()
        labels, network = labels_of(model), model._network
        if network.output != "softmax":
            logits = self._outputs(model, X, logits=True)
            return labels.probabilities(logits, network.output)
        return labels.softmax_probabilities(
            self._outputs(model, X, logits=False),
            network.dtype,
            lambda: self._outputs(model, X, logits=True),
        )

    def predict_log_proba(self, X: Rows) -> Floats | list[Floats]:
        """Predict logarithms of probabilities, computed from the logits.

        Finite inputs never give -inf, however unlikely a class is.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes) or list of such
            Logarithms of what `predict_proba` returns.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        model = self._model()
        logits = self._outputs(model, X, logits=True)
        return labels_of(model).log_probabilities(logits, model._network.output)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        # Not target_tags.multi_output, though several columns of labels are taken: only
        # a check of multilabel targets reads it, which demands that probabilities are
        # in the order of their logits, and near 1 no two floats are left for that.
        return tags
