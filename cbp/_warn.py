"""Warnings that point at the line of the user who called the package.

A stack level written as a number would point into the package, or into scikit-learn,
as soon as a call goes through one function more. Imports nothing of the package.
"""

import os
import sys
import warnings

import joblib
import sklearn

_PACKAGE = os.path.dirname(__file__) + os.sep
# Pipelines and searches, between the user's line and the package.
_BETWEEN = (
    _PACKAGE,
    os.path.dirname(sklearn.__file__) + os.sep,
    os.path.dirname(joblib.__file__) + os.sep,
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the nearest line that is neither the package's nor scikit-learn's.

    In a worker process of a search there is none; then at the line that called the
    package.

    Parameters
    ----------
    message : str
    category : type, default=UserWarning
    """
    names, frame = [], sys._getframe()
    while frame is not None:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    for passed in (_BETWEEN, _PACKAGE):
        levels = [i for i, name in enumerate(names, 1) if not name.startswith(passed)]
        # The first lines of a process (runpy, threading) are nobody's.
        if levels and not _is_start(names[levels[0] - 1]):
            break
    warnings.warn(message, category, stacklevel=levels[0] if levels else 1)


def _is_start(name: str) -> bool:
    """Whether a file is Python's own, or a frozen module."""
    return name.startswith(("<frozen", os.path.dirname(os.__file__) + os.sep))
