"""Multilayer perceptrons trained by compiled backpropagation, for scikit-learn."""

import importlib as _importlib
import typing as _typing

try:
    from cbp._version import VERSION as __version__
    from cbp.diagnosis import diagnose
    from cbp.estimators import BPClassifier, BPRegressor
    from cbp.features import NetworkFeatures
    from cbp.inspection import backpropagate, check_gradient
except ModuleNotFoundError as error:
    if (error.name or "").startswith("cbp."):
        raise ImportError(
            f"The compiled modules of cbp are not in {__path__[0]}. If this is the "
            "folder of its sources, start Python in another folder, where an installed "
            "cbp is found, or compile here with `make build`."
        ) from error
    raise

if _typing.TYPE_CHECKING:
    from cbp._from_weights import from_weights
    from cbp.model_file import ModelFileError, load, save

__all__ = [
    "BPClassifier",
    "BPRegressor",
    "ModelFileError",
    "NetworkFeatures",
    "__version__",
    "backpropagate",
    "check_gradient",
    "diagnose",
    "from_weights",
    "load",
    "save",
]

# Modules for users, imported on first use, and what else stands in such a module.
_MODULES = ("callbacks", "datasets", "plotting")
_LATE = {
    "ModelFileError": "model_file",
    "from_weights": "_from_weights",
    "load": "model_file",
    "save": "model_file",
}


def __getattr__(name):
    if name in _MODULES:
        return _importlib.import_module(f"cbp.{name}")
    if name in _LATE:
        return getattr(_importlib.import_module(f"cbp.{_LATE[name]}"), name)
    raise AttributeError(f"module 'cbp' has no attribute {name!r}")


def __dir__():
    return [*globals(), *_MODULES, *_LATE]
