"""A fitted estimator of weights that were trained elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cbp._catalog import n_answers
from cbp._fitted import restored
from cbp._label_columns import told
from cbp._parameters import chosen_loss, hidden_layers
from cbp.estimators import BPClassifier, BPRegressor


def from_weights(
    coefs: Sequence[ArrayLike],
    intercepts: Sequence[ArrayLike],
    *,
    activation: str | Sequence[str] = "relu",
    classes: ArrayLike | Sequence[ArrayLike] | None = None,
    multilabel: bool = False,
    loss: str | None = None,
    **parameters: Any,
) -> BPClassifier | BPRegressor:
    """Make a fitted estimator without data, of weights that were trained elsewhere.

    It predicts, is saved, exported and trained further like any other. The arrays are
    copied.

    Parameters
    ----------
    coefs : sequence of array-like
        The weights of every layer, ``coefs[i]`` of shape (units of layer i, units of
        layer i + 1), as in `coefs_`. PyTorch has them the other way round:
        ``[layer.weight.detach().numpy().T for layer in layers]``.

    intercepts : sequence of array-like
        The biases, ``intercepts[i]`` of shape (units of layer i + 1,).

    activation : str or sequence of str, default='relu'
        Activation of all hidden layers, or one per hidden layer.

    classes : array-like of shape (n_classes,), list of such or None, default=None
        None makes a regressor. Otherwise the labels, in the order of the outputs; these
        are sorted with their labels. Two classes have one output, the logit of the
        second, or two. A list of arrays has the labels of each of several columns.

    multilabel : bool, default=False
        Whether each of `classes`, the numbers 0, 1, ... of the columns, is told for
        itself.

    loss : str or None, default=None
        What the network was trained by; it decides what the outputs mean. None is
        'log_loss' of a classifier and 'squared_error' of a regressor.

    **parameters : dict
        Other parameters of the estimator, such as ``precision='float32'``. Without that
        one, arrays that all are float32 stay float32, and all else becomes float64.

    Returns
    -------
    model : BPClassifier or BPRegressor

    Raises
    ------
    ValueError
        If arrays do not fit each other, the activations or the classes, if they hold
        anything but finite numbers, or if a parameter is not valid.

    Examples
    --------
    >>> import cbp
    >>> model = cbp.from_weights([[[2.0], [-1.0]]], [[0.5]], classes=["no", "yes"])
    >>> model.predict([[1, 0], [0, 1]]).tolist()
    ['yes', 'no']
    """
    W = [_numbers(f"coefs[{i}]", each, 2) for i, each in enumerate(coefs)]
    b = [_numbers(f"intercepts[{i}]", each, 1) for i, each in enumerate(intercepts)]
    _demand_chain(W, b)
    parameters = {
        "hidden_layer_sizes": tuple([each.shape[1] for each in W[:-1]]),
        "activation": activation,
        "loss": loss or ("squared_error" if classes is None else "log_loss"),
        **parameters,
    }
    estimator = BPRegressor if classes is None else BPClassifier
    model = estimator(**parameters)
    model._check_parameters()
    labels: dict[str, Any] = {}
    if classes is not None:
        W[-1], b[-1], labels = _sorted(W[-1], b[-1], classes, multilabel, model.loss)
        model._own_fitted().__dict__.update(labels)
    model._fitted = restored(_state(model, W, b) | labels)
    return model


def _state(model: Any, W: list[NDArray], b: list[NDArray]) -> dict[str, Any]:
    """What there is of a model that was not trained: as `initialize` leaves it."""
    hidden, activations = hidden_layers(model)
    sizes = (len(W[0]), *hidden, len(b[-1]))
    given = tuple([len(W[0]), *map(len, b)])
    if sizes != given:
        raise ValueError(
            f"The arrays are of layers of {list(given)} units, but hidden_layer_sizes "
            f"asks for {hidden}."
        )
    single = all(each.dtype == np.float32 for each in [*W, *b])
    dtype = model.precision or ("float32" if single else "float64")
    with np.errstate(over="ignore"):
        theta = np.concatenate([each.ravel() for each in [*W, *b]]).astype(dtype)
    if not np.isfinite(theta).all():
        raise ValueError(f"The arrays hold NaN, infinity or too large for {dtype}.")
    output = model._output_activation(sizes[-1])
    loss, of_loss = chosen_loss(model, output)
    n = n_answers(of_loss)
    if n is not None and n != sizes[-1]:
        raise ValueError(f"{n} quantiles need as many outputs, got {sizes[-1]}.")
    return {
        "_theta": theta,
        "_network_arguments": {
            "layer_sizes": sizes,
            "activations": tuple(activations),
            "output": output,
            "loss": loss,
            "loss_parameters": of_loss,
        },
        "_answers": n,
        "n_layers_": len(sizes),
        "n_outputs_": sizes[-1],
        "out_activation_": output,
        "n_features_in_": sizes[0],
        "n_iter_": 0,
        "t_": 0,
        "loss_": math.inf,
        "best_loss_": math.inf,
        "loss_curve_": [],
        **dict.fromkeys(("validation_scores_", "validation_loss_curve_")),
        **dict.fromkeys(("best_validation_score_", "best_iter_", "_optimizer")),
        "_no_improvement_count": 0,
        "_partially_fitted": False,
    }


def _numbers(name: str, given: ArrayLike, ndim: int) -> NDArray:
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {array.dtype}.")
    if array.ndim != ndim or not array.size:
        raise ValueError(
            f"{name} must have {ndim} dimension{'s' * (ndim > 1)} and not be empty, "
            f"got the shape {array.shape}."
        )
    return array


def _demand_chain(W: list[NDArray], b: list[NDArray]) -> None:
    if not W or len(W) != len(b):
        raise ValueError(
            "coefs and intercepts must hold one array for each layer of weights, got "
            f"{len(W)} and {len(b)}."
        )
    for i, (each, bias) in enumerate(zip(W, b, strict=True)):
        n_in = each.shape[0] if i == 0 else len(b[i - 1])
        if each.shape == (n_in, len(bias)):
            continue
        turned = all(w.shape[0] == len(v) for w, v in zip(W, b, strict=True))
        hint = " They seem to be PyTorch's; give each of them as W.T." if turned else ""
        raise ValueError(
            f"coefs[{i}] has the shape {each.shape}, but the layers before it and "
            f"intercepts[{i}] need {(n_in, len(bias))}.{hint}"
        )


def _sorted(
    W: NDArray, b: NDArray, classes: Any, multilabel: bool, loss: str
) -> tuple[NDArray, NDArray, dict[str, Any]]:
    """The last layer with its outputs in the order of sorted labels, and the labels."""
    known = told(classes, None)
    attributes = known.attributes() | {"_sparse_labels": False}
    attributes["_multilabel"] = bool(multilabel)
    held = attributes["classes_"]
    columns = held if isinstance(held, list) else [held]
    given = list(classes) if isinstance(held, list) else [classes]
    n = len(b)
    if multilabel:
        if isinstance(held, list) or held.tolist() != list(range(n)):
            raise ValueError(
                f"Of multilabel targets with {n} outputs classes are the numbers of "
                f"their columns, 0 to {n - 1}; got {classes!r}."
            )
        return W, b, attributes
    if isinstance(held, list) or len(held) > 2:
        order, end = [], 0
        for column, each in zip(columns, given, strict=True):
            places = [list(each).index(label) for label in column.tolist()]
            if len(each) != len(column):
                raise ValueError(f"classes has a label twice: {each!r}.")
            order += [end + place for place in places]
            end += len(column)
        if end != n:
            raise ValueError(f"{end} classes need as many outputs, got {n}.")
        return W[:, order], b[order], attributes
    if n > 2 or (n == 2 and (len(held) < 2 or loss != "log_loss")):
        raise ValueError(f"{len(held)} classes need one output, got {n}.")
    sign = 1 if list(given[0]) == held.tolist() else -1
    if n == 2:  # softmax of two is the logistic function of their difference
        W, b = W[:, 1:] - W[:, :1], b[1:] - b[:1]
    return (W, b, attributes) if sign == 1 else (-W, -b, attributes)
