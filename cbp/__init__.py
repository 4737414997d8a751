"""Multilayer perceptrons trained by compiled backpropagation, for scikit-learn."""

import importlib as _importlib
import importlib.metadata as _metadata

from cbp.estimators import BPClassifier, BPRegressor
from cbp.inspection import backpropagate, check_gradient

try:
    __version__ = _metadata.version("cbp-learn")
except _metadata.PackageNotFoundError:  # built in place, not installed
    __version__ = "unknown"

__all__ = [
    "BPClassifier",
    "BPRegressor",
    "__version__",
    "backpropagate",
    "check_gradient",
]

# Modules for users, imported on first use.
_MODULES = ("datasets", "plotting")


def __getattr__(name):
    if name in _MODULES:
        return _importlib.import_module(f"cbp.{name}")
    raise AttributeError(f"module 'cbp' has no attribute {name!r}")


def __dir__():
    return [*globals(), *_MODULES]
