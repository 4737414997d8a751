"""What a regressor does with numbers: partial_fit, targets, predictions.

Its parameters and its docstring stand in estimators.py.
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from cbp import _fitting
from cbp._base import BaseBP
from cbp._catalog import LOSSES, OUTPUT_OF, n_answers
from cbp._parameters import chosen_loss, rounded
from cbp._solvers import demand_stochastic
from cbp._targets import encode_numbers, read_numbers, ready_numbers

if TYPE_CHECKING:
    from typing import Self

    from cbp._base import Floats, Rows


class Regressor(RegressorMixin, BaseBP):
    """A regressor, but for its parameters."""

    def _check_parameters(self) -> None:
        try:
            super()._check_parameters()
        except ValueError as error:
            sizes = isinstance(self.loss, Integral | list | tuple)
            if not sizes or "'loss' parameter" not in str(error):
                raise
            raise type(error)(
                f"{error} In a regressor's arguments loss comes before "
                "hidden_layer_sizes, as in MLPRegressor; give the sizes by name: "
                f"hidden_layer_sizes={self.loss!r}."
            ) from None

    @available_if(lambda self: demand_stochastic(self.solver))
    def partial_fit(
        self, X: Rows, y: ArrayLike, sample_weight: ArrayLike | float | None = None
    ) -> Self:
        """Train for one epoch on the rows given, going on from the present weights.

        The optimizer goes on, too, after `fit` as after `partial_fit`. Early stopping
        settings are ignored: there is nothing to stop. Not available with
        ``solver='lbfgs'``.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        sample_weight : array-like of shape (n_samples,), float or None, default=None
            Weights >= 0 of the rows. A batch of weights that are all zero changes
            nothing.

        Returns
        -------
        self : BPRegressor

        Raises
        ------
        ValueError
            As `fit`.
        """
        with self._trial() as trial:
            trial._check_parameters()
            _fitting.fit(trial, X, y, sample_weight, incremental=True)
        return self

    # ------------------------------------------------------------------- targets

    _read_targets = staticmethod(read_numbers)

    def _encode(self, y: Any, dtype: np.dtype, incremental: bool) -> NDArray:
        """Targets of the network, shape (n_samples, n_outputs)."""
        output = OUTPUT_OF[self.loss]
        loss, parameters = chosen_loss(self, output)
        row = LOSSES[output, loss]
        refused = row.refuses_least(*rounded(parameters, dtype))
        asks = f"loss={loss!r}"
        if refused and row.parameters:
            given = zip(row.parameters, parameters, strict=True)
            asks += f" with {', '.join(f'{name}={p}' for name, p in given)} in {dtype}"
        target = encode_numbers(y, dtype, asks, row.least_target, refused)
        n = n_answers(parameters)
        if n is None:
            return target
        if target.shape[1] != 1:
            raise ValueError(
                f"{', '.join(row.parameters)} may be a sequence for one column of y "
                f"only, which gets an output for each; y has {target.shape[1]}. Give a "
                "number, or fit a model for each column "
                "(sklearn.multioutput.MultiOutputRegressor)."
            )
        return np.repeat(target, n, axis=1)

    def _ready_target(self, y: Any, n_samples: int, dtype: np.dtype) -> NDArray | None:
        """Targets if y needs no check by scikit-learn, or None."""
        return self._encode(y, dtype, True) if ready_numbers(y, n_samples) else None

    def _n_outputs(self, target: NDArray) -> int:
        return target.shape[1]

    def _output_groups(self) -> tuple[int, ...]:
        return ()

    def _output_activation(self, n_outputs: int) -> str:
        return OUTPUT_OF[self.loss]

    # ------------------------------------------------------------------- predict

    def predict(self, X: Rows) -> Floats:
        """Predict targets.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs; cast to the type the model computes in.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, in that type, or in float64 if X is. If `quantile` was a
            sequence: of shape (n_samples, n_quantiles), no column above the next.

        Raises
        ------
        ValueError
            If X is not allowed, or if a row overflows the network; the rows are named.
        NotFittedError
            If the model is not fitted.
        """
        model = self._model()
        outputs = self._outputs(model, X, logits=False)
        if n_answers(model._network.loss_parameters) is not None:
            # Sorted, quantiles cannot cross, whatever X is and however outputs were
            # rounded; and for every y this lowers their pinball losses, or leaves
            # their sum as it is: to exchange a pair in the wrong order, z1 > z2 for
            # q1 < q2, takes (q2 - q1) (z1 - z2) from it. (Chernozhukov, Fernandez-Val,
            # Galichon, "Quantile and probability curves without crossing", 2010.)
            return np.sort(outputs, axis=1)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _engine_scores(self) -> bool:
        return LOSSES[OUTPUT_OF[self.loss], self.loss].answers_mean

    def score(
        self, X: Rows, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """R2 of the predictions; with ``loss='quantile'`` their D2.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the rows.

        Returns
        -------
        score : float
            At most 1: :func:`sklearn.metrics.r2_score`. R2 would prefer the mean to
            any quantile; so quantiles have :func:`sklearn.metrics.d2_pinball_score`,
            several of them its mean.

        Raises
        ------
        ValueError, NotFittedError
            As `predict`.
        """
        network = self._model()._network
        y = y.toarray() if sparse.issparse(y) else y
        if LOSSES[network.output, network.loss].answers_mean:
            return super().score(X, y, sample_weight)
        from sklearn.metrics import d2_pinball_score  # takes a while

        (levels,) = network.loss_parameters
        predicted = [self.predict(X)]
        if isinstance(levels, tuple):
            predicted = predicted[0].T
        scores = [
            d2_pinball_score(y, part, sample_weight=sample_weight, alpha=level)
            for part, level in zip(predicted, np.atleast_1d(levels), strict=True)
        ]
        return float(np.mean(scores))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
