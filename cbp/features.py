"""NetworkFeatures: a network's hidden units as features, for pipelines.

A transformer round an estimator. The units themselves come from its method
`hidden_activations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from cbp._base import hidden_layer

if TYPE_CHECKING:
    from typing import Self

    from cbp._base import BaseBP, Rows


class NetworkFeatures(
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    BaseEstimator,
):
    """The activations of a trained network's hidden layer as features.

    `fit` trains a copy of the network; `transform` gives the units of one of its hidden
    layers. A network that is trained already is wrapped in scikit-learn's
    ``FrozenEstimator``.

    Parameters
    ----------
    estimator : BPClassifier or BPRegressor
        The network, with one hidden layer or more.

    layer : int, default=-1
        The index of the hidden layer, as in `coefs_`: 0 is the first one, which
        `diagnose` calls layer 1, and -1 the last.

    Attributes
    ----------
    estimator_ : BPClassifier or BPRegressor
        The trained network.

    n_features_in_ : int
        Columns of X seen in `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of these columns; only if X had names that all are strings.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from cbp import BPClassifier, NetworkFeatures
    >>> X, y = load_digits(return_X_y=True)
    >>> network = BPClassifier((32, 16), max_iter=30, random_state=0)
    >>> model = make_pipeline(NetworkFeatures(network, layer=0), LogisticRegression())
    >>> bool(model.fit(X / 16, y).score(X / 16, y) > 0.95)
    True
    >>> model[0].transform(X / 16).shape
    (1797, 32)
    """

    def __init__(self, estimator: BaseBP, layer: int = -1) -> None:
        self.estimator = estimator
        self.layer = layer

    def fit(self, X: Rows, y: ArrayLike | None = None, **fit_params: Any) -> Self:
        """Train a copy of the network.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets of the network.

        **fit_params : dict
            Passed to the network's `fit`.

        Returns
        -------
        self : NetworkFeatures

        Raises
        ------
        TypeError
            If `estimator` is no network of cbp.
        ValueError
            As the network's `fit`; if there is no such layer.
        """
        if not hasattr(self.estimator, "hidden_activations"):
            raise TypeError(
                "NetworkFeatures needs a BPClassifier or BPRegressor, got "
                f"{type(self.estimator).__name__}."
            )
        return self._take(clone(self.estimator).fit(X, y, **fit_params))

    def _take(self, estimator: BaseBP) -> Self:
        """Have a trained network, which `transform` then uses."""
        W = estimator.coefs_
        layer = hidden_layer(len(W) - 1, self.layer)
        self.estimator_, self._n_features_out = estimator, W[layer].shape[1]
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
            if hasattr(estimator, name):
                setattr(self, name, getattr(estimator, name))
        return self

    def transform(self, X: Rows) -> NDArray:
        """The units of the layer for every row.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            Inputs.

        Returns
        -------
        A : ndarray of shape (n_samples, n_units)
            In the network's type.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If X is not allowed.
        """
        check_is_fitted(self)
        return self.estimator_.hidden_activations(X, self.layer)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.sparse = get_tags(self.estimator).input_tags.sparse
        return tags
