"""What a fit leaves behind: one object, taken over in one assignment.

So a reader in another thread, a failed call or an interrupt finds the old model whole
or the new one whole, never a part of each. The fitted attributes of the estimators are
windows on that object. Nothing is trained or predicted here, and no rule of
scikit-learn is known.
"""

from __future__ import annotations

import copy
import math
import operator
import os
import threading
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from cbp._catalog import (
    ACTIVATIONS,
    LOSSES,
    OUTPUT_OF,
    is_allowed,
    is_regressors,
    n_answers,
    output_of_labels,
)
from cbp._fit_summary import FitSummary
from cbp._kernels import all_finite
from cbp._network import Network
from cbp._progress import Optimizer
from cbp._records import from_plain, to_plain
from cbp._weights import state_shape
from cbp.gradient_flow import GradientFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]


def _make_exchange() -> None:
    """A lock for who reads a model's `_weights` in order to write it.

    Only who replaces lists of weights does, or takes over those that were replaced. It
    is reentrant because signal handlers may predict, too. Another one is for whoever
    takes a look that was put off, so that it is taken once.
    """
    global _exchange, _looking
    _exchange, _looking = threading.RLock(), threading.RLock()


_make_exchange()
# A fork copies the lock, but not the thread that holds it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_exchange)


def pack(network: Network, coefs: Sequence, intercepts: Sequence) -> Floats:
    """A new theta from separate arrays, whose number and shapes are checked."""
    names = [f"coefs_[{i}]" for i in range(len(coefs))]
    names += [f"intercepts_[{i}]" for i in range(len(intercepts))]
    theta = np.empty(network.n_params, network.dtype)
    W, b = network.views(theta)
    n_layers = len(W)
    if len(coefs) != n_layers or len(intercepts) != n_layers:
        raise ValueError(
            f"coefs_ and intercepts_ must hold {n_layers} arrays each, one per layer "
            f"of weights, got {len(coefs)} and {len(intercepts)}."
        )
    for name, view, given in zip(names, [*W, *b], [*coefs, *intercepts], strict=True):
        given = np.asarray(given)
        if given.shape != view.shape:
            raise ValueError(
                f"{name} has shape {given.shape}, but the network needs {view.shape}."
            )
        view[...] = given
    return _finite(theta)


def _finite(theta: Floats) -> Floats:
    if not all_finite(theta):
        raise ValueError(
            "coefs_ or intercepts_ hold NaN, infinity or too large values."
        )
    return theta


class Weights:
    """A network's theta, and the lists `coefs_` and `intercepts_` that users see.

    The lists hold views of theta. Users may put other arrays into them, or set other
    lists: `made` keeps the views, to tell. The object itself is never changed.
    """

    def __init__(self, network: Network, theta: Floats):
        self.theta = theta
        W, b = network.views(theta)
        self.made = (*W, *b)
        self.coefs: Sequence = W
        self.intercepts: Sequence = b

    def with_list(self, name: str, arrays: Sequence) -> Weights:
        """The same weights with another list `coefs` or `intercepts`."""
        changed = copy.copy(self)
        setattr(changed, name, arrays)
        return changed

    def with_own_lists(self) -> Weights:
        """The same weights, in lists in which others do not see what is replaced."""
        changed = object.__new__(Weights)
        changed.theta, changed.made = self.theta, self.made
        changed.coefs, changed.intercepts = list(self.coefs), list(self.intercepts)
        return changed

    @property
    def replaced(self) -> bool:
        """Whether the lists hold anything but the views of theta."""
        held = [*self.coefs, *self.intercepts]
        return len(held) != len(self.made) or not all(
            map(operator.is_, held, self.made)
        )


class Fitted:
    """Fitted attributes under the names that the estimators show them by.

    A model has `_network` and `_weights`, and the rest with them. Without these it is
    what an estimator holds before its first fit: nothing, `_failed_flow`, or lists of
    weights that were set by hand for training to begin with. `_kept` is the next
    `partial_fit`'s (_stream.py) and goes into no deep copy and no pickle, nor does
    `_look_later`, which completes `_fit_summary` when somebody asks for it.
    """

    def __init__(self, **attributes: Any):
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"The model has no {name!r}: it was deleted.")

    def __copy__(self) -> Fitted:
        twin = object.__new__(Fitted)
        twin.__dict__.update(self.__dict__)
        if "_weights" in twin.__dict__:
            twin._weights = twin._weights.with_own_lists()
        return twin

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default` where there is none."""
        return self.__dict__.get(name, default)

    @property
    def is_model(self) -> bool:
        """Whether there are weights to predict with."""
        return "_network" in self.__dict__

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to go on from, be it some that were set by hand."""
        return self.is_model or "coefs_" in self.__dict__

    def changed(self, drop: Sequence[str] = (), **attributes: Any) -> Fitted:
        """A new object with other attributes, and without those named in `drop`."""
        twin = object.__new__(Fitted)
        own = twin.__dict__
        own.update(self.__dict__)
        for name in drop:
            own.pop(name, None)
        own.update(attributes)
        return twin

    def complete(self) -> None:
        """Take the look at a fit's data that was put off, if there is one.

        If it fails, whoever asks next takes it.
        """
        if "_look_later" in self.__dict__:
            with _looking:  # others wait for what is found
                later = self.__dict__.get("_look_later")
                if later is not None:
                    self._fit_summary = later(self._fit_summary)
                    self.__dict__.pop("_look_later", None)

    def theta(self) -> Floats:
        """The parameters, with what the user put into the lists."""
        weights = self._weights
        if weights.replaced:
            theta = pack(self._network, weights.coefs, weights.intercepts)
            taken_over = Weights(self._network, theta)
            with _exchange:
                # Other threads may do the same, or have set other lists meanwhile.
                if self._weights is weights:
                    self._weights = taken_over
            weights = taken_over
        return weights.theta

    def copy_theta(self, network: Network) -> Floats:
        """The parameters as a new theta of `network`, for training to go on from."""
        weights = self.get("_weights")
        if weights is None:
            return pack(network, self.coefs_, self.intercepts_)
        if weights.replaced or weights.theta.dtype != network.dtype:
            return pack(network, weights.coefs, weights.intercepts)
        return _finite(weights.theta.copy())

    def __deepcopy__(self, memo: dict) -> Fitted:
        self.complete()
        attributes = dict(self.__dict__)
        attributes.pop("_kept", None)
        own = {}
        if self.is_model:  # the network never changes, so that copies share it
            own["_network"] = network = attributes.pop("_network")
            own["_weights"] = Weights(network, self.theta().copy())
            del attributes["_weights"]
        return Fitted(**copy.deepcopy(attributes, memo), **own)


class attribute:
    """A fitted attribute of an estimator: its place in the estimator's `Fitted`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        if estimator is None:
            return self
        try:
            return estimator._fitted.__dict__[self.name]
        except KeyError:
            raise AttributeError(
                f"{type(estimator).__name__!r} object has no attribute {self.name!r}"
            ) from None

    def __set__(self, estimator: Any, value: Any) -> None:
        estimator._own_fitted().__dict__[self.name] = value

    def __delete__(self, estimator: Any) -> None:
        try:
            del estimator._own_fitted().__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None


class completed(attribute):
    """An attribute that a look, which was put off, completes when somebody reads it."""

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        if estimator is not None:
            estimator._fitted.complete()
        return super().__get__(estimator, owner)

    def __set__(self, estimator: Any, value: Any) -> None:
        estimator._own_fitted().__dict__.pop("_look_later", None)
        super().__set__(estimator, value)

    def __delete__(self, estimator: Any) -> None:
        estimator._own_fitted().__dict__.pop("_look_later", None)
        super().__delete__(estimator)


class weight_list(attribute):
    """`coefs_` or `intercepts_`: a list in the estimator's `Weights`, if there are any.

    Before the first fit it is an attribute like others, for training to begin with.
    """

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        weights = None if estimator is None else estimator._fitted.get("_weights")
        if weights is None:
            return super().__get__(estimator, owner)
        return getattr(weights, self.name.rstrip("_"))

    def __set__(self, estimator: Any, value: Any) -> None:
        fitted = estimator._own_fitted()
        if fitted.get("_weights") is None:
            super().__set__(estimator, value)
            return
        with _exchange:
            fitted._weights = fitted._weights.with_list(self.name.rstrip("_"), value)


def attribute_names(estimator: type) -> set[str]:
    """The names of an estimator's fitted attributes."""
    return {
        name
        for base in estimator.__mro__
        for name, value in vars(base).items()
        if isinstance(value, attribute)
    }


# ---- what a pickle holds, and whether it can be believed


# What only a pickle has, instead of the network and the weights.
PICKLED_ONLY = {"_theta", "_network_arguments", "_labels", "_answers"}
# What a pickle holds as plain values; a pickle of format 1 has the objects themselves.
_RECORDS = ("gradient_flow_", "_fit_summary", "_failed_flow", "_optimizer")


def pickled(fitted: Fitted, keep_optimizer: bool) -> dict[str, Any]:
    """The attributes of a fitted object in the form that pickles hold.

    Nothing in it is of a class of this package, so that whoever trusts the estimators
    only can load it.
    """
    fitted.complete()
    if not fitted.is_model:
        return _made_plain(fitted.__dict__)
    theta = fitted.theta()
    state = dict(fitted.__dict__)
    network = state.pop("_network")
    del state["_weights"]
    state.pop("_kept", None)
    optimizer = state.get("_optimizer")
    # Moments can overflow where weights do not; nothing could go on with them.
    if optimizer and not (keep_optimizer and all_finite(optimizer.state)):
        state["_optimizer"] = None
    if "classes_" in state:  # said twice, so that a change of one is noticed
        state["_labels"] = (_counts(state["classes_"]), state["_multilabel"])
    if (n := n_answers(network.loss_parameters)) is not None:  # likewise
        state["_answers"] = n
    return _made_plain(state) | {
        "_theta": theta,
        "_network_arguments": {
            "layer_sizes": network.layer_sizes,
            "activations": network.activations,
            "output": network.output,
            "loss": network.loss,
            "loss_parameters": network.loss_parameters,
        },
    }


def _made_plain(state: dict[str, Any]) -> dict[str, Any]:
    plain = {name: to_plain(state[name]) for name in _RECORDS if name in state}
    return state | plain


def restored(state: dict[str, Any], look_at_weights: bool = True) -> Fitted:
    """The fitted object of a pickle, every part of which agrees with the others.

    look_at_weights: whether they must be finite; to know it, all are read.

    Raises
    ------
    ValueError
        With the first thing that is wrong; a pickle that was damaged or changed must
        not predict something else.
    """
    made = {name: from_plain(state[name]) for name in _RECORDS if name in state}
    state = state | made
    if not state.keys() & PICKLED_ONLY:
        return Fitted(**state)
    labels, answers = state.pop("_labels", None), state.pop("_answers", None)
    classes = state.get("classes_")
    if classes is not None:
        # The first version did not note it where partial_fit was told the classes.
        state.setdefault("_sparse_labels", False)
    columns = _columns(classes)
    if labels is not None and all(np.ndim(column) == 1 for column in columns):
        held = (_counts(classes), state.get("_multilabel"))
        _demand(labels == held, f"its classes are {held}, but were {labels}")
    arguments, theta = state.pop("_network_arguments", None), state.pop("_theta", None)
    theta = _native(theta)
    groups = _counts(classes) if isinstance(classes, list) else ()
    network = _restored_network(arguments, theta, groups)
    _demand(
        not look_at_weights or all_finite(theta),
        "some weights are not finite",
    )
    held = n_answers(network.loss_parameters)
    _demand(held == answers, f"its answers to a y are {held}, but were {answers}")
    _check_numbers(state)
    _check_columns(state, network)
    _check_outputs(state, network)
    if state.get("_optimizer") is not None:
        state["_optimizer"] = _restored_optimizer(state["_optimizer"], network)
    return Fitted(_network=network, _weights=Weights(network, theta), **state)


def _columns(classes: Any) -> list[Any]:
    """The classes of every column of y that has classes of its own."""
    return classes if isinstance(classes, list) else [classes]


def _counts(classes: Any) -> int | tuple[int, ...]:
    """The number of classes, in every column if there are several."""
    if isinstance(classes, list):
        return tuple([np.size(column) for column in classes])
    return len(classes)


def _demand(condition: Any, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _native(array: Any) -> NDArray:
    """The array in this machine's byte order, another one's being turned round."""
    _demand(isinstance(array, np.ndarray), "an array is missing")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _restored_network(
    arguments: Any, theta: NDArray, groups: tuple[int, ...]
) -> Network:
    names = {"layer_sizes", "activations", "output", "loss", "loss_parameters"}
    _demand(isinstance(arguments, dict), "its network is not described")
    # Older versions had losses without parameters only.
    arguments = {"loss_parameters": (), **arguments}
    _demand(arguments.keys() == names, f"the network must have {sorted(names)}")
    sizes, activations, output, loss = (
        arguments[name] for name in ("layer_sizes", "activations", "output", "loss")
    )
    whole = isinstance(sizes, tuple) and all(_is_whole(n, 1) for n in sizes)
    _demand(whole and len(sizes) > 1, f"no network has the layers {sizes!r}")
    known = isinstance(activations, tuple) and all(
        isinstance(name, str) and name in ACTIVATIONS for name in activations
    )
    _demand(
        known and len(activations) == len(sizes) - 2,
        f"{len(sizes) - 2} hidden layers cannot have the activations {activations!r}",
    )
    known = isinstance(output, str) and isinstance(loss, str)
    _demand(
        known and (output, loss) in LOSSES, f"no loss {loss!r} goes with {output!r}"
    )
    n_params = sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    _demand(
        theta.shape == (n_params,) and theta.dtype in (np.float32, np.float64),
        f"layers {sizes} need {n_params} parameters in float32 or float64, but there "
        f"are {theta.shape} in {theta.dtype}",
    )
    parameters, names = arguments["loss_parameters"], LOSSES[output, loss].parameters
    _demand(
        isinstance(parameters, tuple)
        and len(parameters) == len(names)
        and all(map(is_allowed, names, parameters)),
        f"loss {loss!r} cannot have the parameters {parameters!r}",
    )
    return Network(sizes, activations, output, loss, theta.dtype, parameters, groups)


def _is_whole(x: Any, least: int) -> bool:
    return isinstance(x, Integral) and not isinstance(x, bool) and x >= least


def _is_real(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def _check_numbers(state: dict[str, Any]) -> None:
    """Counters, losses and scores."""
    for name in ("n_iter_", "t_", "_no_improvement_count"):
        x = state.get(name)
        _demand(_is_whole(x, 0) and x < 2**62, f"{name} is {x!r}")
    _demand(_is_real(state.get("loss_")), f"loss_ is {state.get('loss_')!r}")
    # The first version knew neither.
    for name in ("validation_loss_curve_", "best_iter_"):
        state.setdefault(name, None)
    x = state["best_iter_"]
    _demand(x is None or _is_whole(x, 0), f"best_iter_ is {x!r}")
    for name in ("best_loss_", "best_validation_score_"):
        x = state.get(name)
        _demand(x is None or _is_real(x), f"{name} is {x!r}")
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        x = state.get(name)
        numbers = isinstance(x, list) and all(map(_is_real, x))
        may_miss = name != "loss_curve_" and x is None
        _demand(numbers or may_miss, f"{name} is no list of numbers")
    for name, kind in (("gradient_flow_", GradientFlow), ("_fit_summary", FitSummary)):
        _demand(
            isinstance(state.get(name), kind | None), f"{name} is no {kind.__name__}"
        )
    flag = state.get("_partially_fitted")
    _demand(isinstance(flag, bool), f"_partially_fitted is {flag!r}")


def _check_columns(state: dict[str, Any], network: Network) -> None:
    """The columns of X."""
    n = network.layer_sizes[0]
    x = state.get("n_features_in_")
    _demand(_is_whole(x, 1) and x == n, f"n_features_in_ is {x!r}, the inputs are {n}")
    names = state.get("feature_names_in_")
    if names is not None:
        _demand(
            isinstance(names, np.ndarray)
            and names.shape == (n,)
            and all(isinstance(name, str) for name in names),
            f"feature_names_in_ does not hold {n} names",
        )


def _check_outputs(state: dict[str, Any], network: Network) -> None:
    """Classes, and what else is said of the output layer."""
    said = [state.get(name) for name in ("n_layers_", "n_outputs_", "out_activation_")]
    true = [len(network.layer_sizes), network.layer_sizes[-1], network.output]
    _demand(
        said == true,
        f"layers, outputs and output activation are {said}, the network's are {true}",
    )
    kind = (network.output, network.loss)
    if "classes_" not in state:
        _demand(
            kind == (OUTPUT_OF.get(network.loss), network.loss),
            f"a regressor cannot have the output and loss {kind}",
        )
        return
    classes, multilabel = state["classes_"], state.get("_multilabel")
    _demand(
        isinstance(multilabel, bool) and isinstance(state.get("_sparse_labels"), bool),
        "it is not said whether the targets are multilabel, or sparse",
    )
    for column in _columns(classes):
        listed = isinstance(column, np.ndarray) and column.ndim == 1
        _demand(
            listed and len(column) > 0 and _ascends(column),
            "classes_ must hold labels that ascend, none twice",
        )
    if network.groups:
        right = output_of_labels(network.loss, exclusive=True)
        _demand(
            network.output == right and not multilabel and not is_regressors(*kind),
            f"columns of labels do not fit the output and loss {kind}",
        )
        return
    n = len(classes)
    n_outputs = n if multilabel or n > 2 else 1
    _demand(
        n_outputs == network.layer_sizes[-1] and not (multilabel and n == 1),
        f"{n} {'labels' if multilabel else 'classes'} do not fit "
        f"{network.layer_sizes[-1]} outputs",
    )
    right = output_of_labels(network.loss, n_outputs > 1 and not multilabel)
    _demand(
        network.output == right and not is_regressors(*kind),
        f"these classes do not fit the output and loss {kind}",
    )


def _ascends(classes: NDArray) -> bool:
    try:
        return all(a < b for a, b in zip(classes[:-1], classes[1:], strict=True))
    except TypeError:
        return False


def _restored_optimizer(optimizer: Any, network: Network) -> Optimizer:
    _demand(isinstance(optimizer, Optimizer), f"its optimizer is {optimizer!r}")
    held = vars(optimizer)
    steps, rate = held.get("steps"), held.get("learning_rate")
    _demand(_is_whole(steps, 0) and steps < 2**62, f"its optimizer made {steps} steps")
    right = _is_real(rate) and 0 <= rate < math.inf
    _demand(right, f"its optimizer has the learning rate {rate!r}")
    state = _native(held.get("state"))
    shape = state_shape(network, held.get("solver"))
    _demand(
        shape is not None and state.shape == shape and state.dtype == network.dtype,
        f"its optimizer's state, {held.get('solver')!r}, does not fit the network",
    )
    _demand(all_finite(state), "its optimizer's state is not finite")
    return Optimizer(optimizer.solver, rate, steps, state)
