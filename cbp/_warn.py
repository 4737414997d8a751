"""Warnings that point at the line of the user who called the package.

A stack level written as a number would point into the package, or into scikit-learn,
as soon as a call goes through one function more. Imports nothing of the package.
"""

import os
import sys
import warnings

_PACKAGE = os.path.dirname(__file__) + os.sep


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the nearest line outside the package.

    That line may stand in another library that called the package, as a pipeline of
    scikit-learn does. warnings.warn finds it by itself from Python 3.12 on.

    Parameters
    ----------
    message : str
    category : type, default=UserWarning
    """
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
