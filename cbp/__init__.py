"""Multilayer perceptrons trained by compiled backpropagation, for scikit-learn."""

from importlib.metadata import PackageNotFoundError, version

from cbp.estimators import BPClassifier, BPRegressor
from cbp.inspection import backpropagate, check_gradient

try:
    __version__ = version("cbp-learn")
except PackageNotFoundError:  # built in place, not installed
    __version__ = "unknown"

__all__ = [
    "BPClassifier",
    "BPRegressor",
    "__version__",
    "backpropagate",
    "check_gradient",
]
