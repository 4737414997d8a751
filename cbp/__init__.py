"""Multilayer perceptrons trained by compiled backpropagation, for scikit-learn."""

import importlib as _importlib
import importlib.metadata as _metadata

try:
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

try:
    __version__ = _metadata.version("cbp-learn")
except _metadata.PackageNotFoundError:  # built in place, not installed
    __version__ = "unknown"

__all__ = [
    "BPClassifier",
    "BPRegressor",
    "NetworkFeatures",
    "__version__",
    "backpropagate",
    "check_gradient",
    "diagnose",
]

# Modules for users, imported on first use.
_MODULES = ("callbacks", "datasets", "plotting")


def __getattr__(name):
    if name in _MODULES:
        return _importlib.import_module(f"cbp.{name}")
    raise AttributeError(f"module 'cbp' has no attribute {name!r}")


def __dir__():
    return [*globals(), *_MODULES]
