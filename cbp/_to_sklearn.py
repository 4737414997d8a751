"""A fitted estimator of scikit-learn that predicts as one of ours does.

It opens every tool that knows only theirs. What theirs cannot hold is said by name.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin

from cbp._label_columns import labels_of

if TYPE_CHECKING:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    from cbp._fitted import Fitted

# Theirs: the hidden activations, and the losses with their output activations.
_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
_LOSSES = {
    ("softmax", "log_loss"),
    ("logistic", "log_loss"),
    ("identity", "squared_error"),
    ("exp", "poisson"),
}
_SCHEDULES = ("constant", "invscaling", "adaptive")
# Fitted attributes of both.
_SAME = ("n_layers_", "n_outputs_", "out_activation_", "n_iter_", "t_", "loss_")
_SAME += ("best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_")
_SAME += ("n_features_in_", "feature_names_in_", "classes_", "_no_improvement_count")


def to_sklearn(est: Any) -> MLPClassifier | MLPRegressor:
    """What `BPClassifier.to_sklearn` says."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    model = est._model()
    classifies = isinstance(est, ClassifierMixin)
    theirs = MLPClassifier if classifies else MLPRegressor
    known = inspect.signature(theirs).parameters
    refused = _what_it_lacks(est, model, "loss" in known)
    if refused:
        raise ValueError(f"{theirs.__name__} cannot hold {refused}.")
    network = model._network
    names = [*dict.fromkeys(network.activations)]
    given = {
        name: value
        for name, value in est.get_params(deep=False).items()
        if name in known
    }
    given["hidden_layer_sizes"] = network.layer_sizes[1:-1]
    given["activation"] = names[0] if names else "relu"
    given["verbose"] = bool(est.verbose)
    if "loss" in known:
        given["loss"] = network.loss
    if not isinstance(est.learning_rate, str) or est.learning_rate not in _SCHEDULES:
        given["learning_rate"] = "constant"
    twin = theirs(**given)
    W, b = network.views(model.theta().copy())
    twin.coefs_, twin.intercepts_ = list(W), list(b)
    for name in _SAME:
        value = model.get(name)
        if value is not None or name not in ("classes_", "feature_names_in_"):
            setattr(twin, name, value.copy() if hasattr(value, "copy") else value)
    if twin.best_loss_ is None and not twin.early_stopping:
        twin.best_loss_ = math.inf
    if classifies:
        twin._label_binarizer = _binarizer(model)
    return twin


def _what_it_lacks(est: Any, model: Fitted, has_losses: bool) -> str:
    """The first thing of a model that theirs have not; "" if there is none."""
    network = model._network
    names = sorted(set(network.activations))
    foreign = [name for name in names if name not in _ACTIVATIONS]
    if foreign:
        return f"the activation {foreign[0]!r}; it has {', '.join(_ACTIVATIONS)}"
    if len(names) > 1:
        return (
            f"several activations, {', '.join(network.activations)}; it has one for "
            "all hidden layers"
        )
    loss = str(est.loss)
    if (network.output, network.loss) not in _LOSSES:
        if network.loss == f"focal_{loss}":
            return "label_smoothing or focal_gamma"
        return f"loss={loss!r} with {network.output} outputs"
    if network.output == "exp" and not has_losses:
        return "loss='poisson' in this version of scikit-learn"
    if network.groups:
        return "several columns of labels, only one or multilabel targets"
    labels = labels_of(model)
    if labels is not None and not labels.multilabel and len(labels.classes) == 1:
        return "a model of one class: it would give probabilities of two"
    return ""


def _binarizer(model: Fitted) -> Any:
    """Their way from outputs to labels."""
    from sklearn.preprocessing import LabelBinarizer

    labels = labels_of(model)
    if not labels.multilabel:
        return LabelBinarizer().fit(labels.classes)
    n = len(labels.classes)
    y = np.vstack([np.ones((1, n), int), np.zeros((1, n), int)])
    return LabelBinarizer().fit(sparse.csr_matrix(y) if labels.sparse else y)
