"""`save` and `load`: a trained model in a file that is safe to open from anyone.

The file is a safetensors file (_safetensors.py) with arrays and a description of the
model (_model_config.py); docs/model_files.md has the format byte by byte, and what is
promised. What of a file is believed is decided in _fitted.py, as for pickles.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from cbp._base import defaults_of
from cbp._catalog import n_answers
from cbp._fitted import PICKLED_ONLY, attribute_names, pickled, restored
from cbp._model_config import Reader, Writer
from cbp._records import from_plain, to_plain
from cbp._safetensors import (
    MOST_HEADER,
    MOST_TENSORS,
    Container,
    ModelFileError,
    demand,
    names_of,
    pack,
    parse,
    read,
)
from cbp._version import VERSION
from cbp._whole_file import write_whole
from cbp.estimators import BPClassifier, BPRegressor
from cbp.features import NetworkFeatures

if TYPE_CHECKING:
    from cbp._base import BaseBP

__all__ = ["ModelFileError", "load", "save"]

# The only names of classes that a file may hold. (That of a NetworkFeatures has a part
# of its own.)
ESTIMATORS: dict[str, type[BaseBP]] = {
    "BPClassifier": BPClassifier,
    "BPRegressor": BPRegressor,
}

_PARTS = {"estimator", "parameters", "network", "state"}
_FEATURES = {"layer", "frozen", "parameters"}
# What stands elsewhere in the file, and what `restored` counts for itself.
_NOT_IN_STATE = PICKLED_ONLY | {
    "_network",
    "_weights",
    "coefs_",
    "intercepts_",
    "_kept",
    "_look_later",
}
# The records of training, which predictions do not need.
_FLOWS = ("gradient_flow_", "_fit_summary", "_failed_flow")
_CURVES = ("validation_scores_", "validation_loss_curve_")


def save(
    model: BaseBP | NetworkFeatures,
    path: str | os.PathLike,
    *,
    records: bool = True,
    optimizer: bool = False,
) -> None:
    """Save a fitted model in a file, which `load` reads.

    The file holds numbers and text, no code: see docs/model_files.md. It is a valid
    safetensors file. It is written whole or not at all: while `save` runs, and if it
    fails, the file that was there stays as it was.

    Parameters
    ----------
    model : BPClassifier, BPRegressor or NetworkFeatures
        A fitted model. Kept are its parameters, weights, classes, names of columns and
        what `records` and `optimizer` ask for; not kept are callbacks, metadata
        requests and attributes of your own.

    path : str or path-like
        The file, by custom named ``*.cbp``.

    records : bool, default=True
        Whether to keep what training recorded: `gradient_flow_`, what `diagnose` reads,
        and the curves of losses and scores.

    optimizer : bool, default=False
        Whether to keep the optimizer's state, with which `partial_fit` goes on. With
        Adam it makes the file three times as large.

    Raises
    ------
    TypeError
        If `model` is none of these estimators themselves, or if a parameter is a
        function: a file holds no code. Set another value first,
        ``model.set_params(scoring=None)``.
    NotFittedError
        If the model is not fitted.
    ValueError
        If the model cannot be loaded again: weights that are not finite, parameters
        that are not valid, or more of them than a header holds. Also if the optimizer's
        state is asked for, but there is none, or it is not finite.
    OSError
        If the file cannot be written: the disk is full, `path` is a folder.

    See Also
    --------
    load : The other way.

    Examples
    --------
    >>> import os, tempfile
    >>> import cbp
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = cbp.BPClassifier(8, solver="lbfgs", random_state=0).fit(X, y)
    >>> path = os.path.join(tempfile.mkdtemp(), "iris.cbp")
    >>> cbp.save(model, path)
    >>> bool((cbp.load(path).predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    write_whole(path, _packed(model, records, optimizer))


def load(
    path: str | os.PathLike, mmap_mode: Literal["r"] | None = None
) -> BaseBP | NetworkFeatures:
    """Load a model that `save` has written.

    Safe with a file from anyone: nothing in it is run or looked up as a name of code,
    and all of it is checked before memory is taken.

    Parameters
    ----------
    path : str or path-like
        The file.

    mmap_mode : {None, 'r'}, default=None
        None reads the file into memory and checks its hash. 'r' maps it instead, which
        takes no time and no memory however large it is; weights are then read-only and
        come from the file when they are used. Their hash is not checked, nor whether
        they are finite (predictions are). Only for files that nobody changes: to cut a
        mapped file short ends every program that reads on.

    Returns
    -------
    model : BPClassifier, BPRegressor or NetworkFeatures
        It predicts the same bits as the model that was saved.

    Raises
    ------
    ModelFileError
        If the file is no model file, is damaged, or was written by a newer version; a
        ValueError.
    OSError
        If the file cannot be read.

    See Also
    --------
    save : The other way, with an example.
    """
    if mmap_mode not in (None, "r"):
        raise ValueError(f"mmap_mode must be None or 'r', got {mmap_mode!r}.")
    mapped, path = mmap_mode == "r", os.fsdecode(path)
    try:
        return _unpacked(read(path, mapped), mapped)
    except ModelFileError as error:
        raise ModelFileError(f"{path!r}: {error}.") from None


def loads(content: bytes) -> BaseBP | NetworkFeatures:
    """`load` of a file that is in memory already, for tests.

    Raises
    ------
    ModelFileError
    """
    return _unpacked(parse(content), mapped=False)


# ---- writing


def _packed(model: Any, records: bool, optimizer: bool) -> tuple[bytes, Any]:
    """The header and the data of a model's file, which are known to load."""
    network, features = model, None
    if type(model) is NetworkFeatures:
        check_is_fitted(model)
        features, network = model, model.estimator_
        if isinstance(network, FrozenEstimator):
            network = network.estimator
    name = type(network).__name__
    if ESTIMATORS.get(name) is not type(network):
        hint = ""
        if isinstance(model, BaseEstimator):
            hint = (
                " Save it whole with skops.io.dump (docs/model_files.md), or save the "
                "network in it alone: its rows must then be transformed as before."
            )
        raise TypeError(
            f"save takes a BPClassifier or a BPRegressor itself, got {name}.{hint}"
        )
    fitted = network._model()
    state = pickled(fitted, keep_optimizer=optimizer)
    if optimizer and state["_optimizer"] is None:
        lacks = fitted.get("_optimizer") is None
        why = "has no optimizer's state" if lacks else "has one that is not finite"
        raise ValueError(f"The model {why}; save it with optimizer=False.")
    if not records:
        for key in _FLOWS:
            state.pop(key, None)
        state |= dict.fromkeys(_CURVES) | {"loss_curve_": []}
    try:
        content = _described(network, state, features)
        # Whatever is saved can be loaded.
        _check(*content)
    except (TypeError, ValueError) as error:
        # Parameters that are not valid are both.
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"This {name} cannot be saved: {error}.") from None
    return content


def _described(
    model: BaseBP, state: dict[str, Any], features: NetworkFeatures | None
) -> tuple[bytes, Any]:
    writer = Writer()
    W, b = model._model()._network.views(state["_theta"])
    for key, arrays in (("coefs", W), ("intercepts", b)):
        writer.tensors |= {f"{key}.{i}": array for i, array in enumerate(arrays)}
    if len(writer.tensors) > MOST_TENSORS // 2:
        raise ValueError(f"it has more than {MOST_TENSORS // 4} layers")
    config = {
        "estimator": type(model).__name__,
        "parameters": _parameters_of(model, writer, ""),
        "network": {
            key: writer.value(value, f"network.{key}")
            for key, value in state["_network_arguments"].items()
        },
        "state": {
            key: writer.value(_plain(state[key]), key.lstrip("_"))
            for key in sorted(state.keys() - _NOT_IN_STATE)
        },
    }
    if features is not None:
        config["features"] = _features_of(features, model, writer)
    metadata = {
        "format": "cbp",
        "format_version": "1",
        "kind": "model",
        "cbp_version": VERSION,
        "config": writer.text(config),
    }
    return pack(metadata, writer.tensors)


def _parameters_of(model: BaseBP, writer: Writer, prefix: str) -> dict[str, Any]:
    return {
        key: writer.value(to_plain(value), prefix + key)
        for key, value in model.get_params(deep=False).items()
    }


def _features_of(
    features: NetworkFeatures, model: BaseBP, writer: Writer
) -> dict[str, Any]:
    """The part of a file that makes a NetworkFeatures of a network."""
    given = features.estimator
    frozen = isinstance(given, FrozenEstimator)
    if not frozen and type(given) is not type(model):
        raise ValueError("its estimator was replaced after it was fitted")
    return {
        "layer": writer.value(to_plain(features.layer), "layer"),
        "frozen": frozen,
        "parameters": {} if frozen else _parameters_of(given, writer, "features."),
    }


def _plain(value: Any) -> Any:
    """Of the state: its records are plain already."""
    return value if isinstance(value, dict) else to_plain(value)


def _check(header: bytes, data: Any) -> None:
    if len(header) - 8 > MOST_HEADER:
        raise ValueError(f"its description needs {len(header)} bytes of a header")
    _unpacked(parse(header, data), mapped=False)


# ---- reading


def _unpacked(container: Container, mapped: bool) -> BaseBP | NetworkFeatures:
    try:
        return _model_of(container, mapped)
    except ModelFileError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(f"it is damaged or was changed: {error}") from None


def _model_of(container: Container, mapped: bool) -> BaseBP | NetworkFeatures:
    kind = container.metadata.get("kind")
    demand(kind == "model", f"it holds no model, but {kind!r:.20}")
    reader = Reader(container)
    config = reader.parse(container.metadata.get("config", ""))
    given = config.pop("features", None)
    demand(config.keys() == _PARTS, f"it describes {list(config)[:9]}")
    parts = [config[part] for part in ("parameters", "network", "state")]
    demand(all(isinstance(part, dict) for part in parts), "it describes no model")
    name = config["estimator"]
    demand(isinstance(name, str) and name in ESTIMATORS, f"its model is a {name!r:.40}")
    estimator = ESTIMATORS[name]
    theta = _theta(reader)
    parameters, network, state = (
        {key: reader.value(part[key]) for key in part} for part in parts
    )
    features = None if given is None else _read_features(reader, given, estimator)
    demand(not reader.left, f"it has tensors without a use, {sorted(reader.left)[:3]}")
    model = _with_parameters(estimator, parameters)
    known = attribute_names(estimator) - _NOT_IN_STATE
    unknown = sorted(state.keys() - known)
    demand(not unknown, f"it says of the model {unknown[:3]}, which is not known here")
    demand(
        ("classes_" in state) == (estimator is BPClassifier),
        "its classes are missing, or there should be none",
    )
    state |= {"_theta": theta, "_network_arguments": network}
    of_loss = network.get("loss_parameters", ())
    state["_answers"] = n_answers(of_loss if isinstance(of_loss, tuple) else ())
    _demand_shapes(container, network.get("layer_sizes"))
    model._fitted = restored(state, look_at_weights=not mapped)
    if features is None:
        return model
    if features.estimator is None:
        features.estimator = model = FrozenEstimator(model)
    return features._take(model)


def _read_features(
    reader: Reader, given: Any, estimator: type[BaseBP]
) -> NetworkFeatures:
    """A NetworkFeatures without a network; with none at all if it was frozen."""
    right = isinstance(given, dict) and given.keys() == _FEATURES
    demand(right, "its features are not described")
    parameters, frozen = given["parameters"], given["frozen"]
    demand(
        isinstance(parameters, dict) and isinstance(frozen, bool),
        "its features have no network",
    )
    parameters = {key: reader.value(parameters[key]) for key in parameters}
    network = None if frozen else _with_parameters(estimator, parameters)
    return NetworkFeatures(network, reader.value(given["layer"]))


def _theta(reader: Reader) -> Any:
    """All weights and then all biases, which lie one after the other in the file."""
    tensors = reader.container.tensors
    names = [*names_of(tensors, "coefs"), *names_of(tensors, "intercepts")]
    demand(names, "it has no weights")
    held = [tensors[name] for name in names]
    dtype = held[0].dtype
    demand(all(each.dtype == dtype for each in held), "its weights differ in type")
    ends = [each.end for each in held]
    right = [each.start for each in held[1:]] == ends[:-1]
    demand(right, "its weights do not lie one after the other")
    reader.left.difference_update(names)
    return reader.container.vector(dtype, held[0].start, ends[-1])


def _demand_shapes(container: Container, sizes: Any) -> None:
    demand(
        isinstance(sizes, tuple) and all(type(n) is int for n in sizes),
        "its layers have no sizes",
    )
    n_layers = len(sizes) - 1
    tensors = container.tensors
    W = [tensors[name].shape for name in names_of(tensors, "coefs")]
    b = [tensors[name].shape for name in names_of(tensors, "intercepts")]
    right = [(sizes[i], sizes[i + 1]) for i in range(n_layers)]
    demand(W == right, f"its weights do not fit layers of {list(sizes)[:9]} units")
    right = [(n,) for n in sizes[1:]]
    demand(b == right, f"its biases do not fit layers of {list(sizes)[:9]} units")


def _with_parameters(estimator: type[BaseBP], parameters: dict[str, Any]) -> BaseBP:
    """An estimator that is not fitted; parameters that a file lacks have defaults."""
    unknown = sorted(parameters.keys() - defaults_of(estimator).keys())
    demand(
        not unknown,
        f"its model has the parameters {unknown[:3]}, which this version of cbp does "
        "not know. Update cbp to load it",
    )
    model = estimator(**{key: from_plain(parameters[key]) for key in parameters})
    model._check_parameters()
    return model
