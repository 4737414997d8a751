"""The data set of the article's experiment: two balls of points in space.

This module downloads nothing. examples/gradient_diffusion.py uses it.
"""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

CENTERS = ((1.0, 1.0, 1.0), (-1.0, 2.0, -7.0))


@validate_params(
    {
        "n_per_class": [Interval(Integral, 1, None, closed="left")],
        "radius": [Interval(Real, 0, None, closed="neither")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_two_spheres(
    n_per_class: int = 100,
    radius: float = 1.0,
    *,
    shuffle: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw points in two balls, around (1, 1, 1) and around (-1, 2, -7).

    The centers are 8.3 apart: with a radius below 4.1 a plane separates the classes.
    The article gives the centers and the number of points, but no radius.

    Parameters
    ----------
    n_per_class : int, default=100
        Points in each ball.

    radius : float, default=1.0
        Radius of both balls, in (0, inf). Points are uniform in the volume of a ball.

    shuffle : bool, default=True
        Whether to mix the rows. If not, the rows of the first ball come first.

    random_state : int, RandomState instance or None, default=None
        Source of the points and of their order. An int gives the same set every time.

    Returns
    -------
    X : float64 ndarray of shape (2 * n_per_class, 3)
        The points.

    y : int64 ndarray of shape (2 * n_per_class,)
        1 for points around (1, 1, 1), 0 for points around (-1, 2, -7).

    Raises
    ------
    ValueError
        If a parameter is not allowed.

    Examples
    --------
    >>> from cbp.datasets import make_two_spheres
    >>> X, y = make_two_spheres(random_state=0)
    >>> X.shape, y.sum()
    ((200, 3), np.int64(100))
    """
    rng = check_random_state(random_state)
    n_samples = 2 * n_per_class
    direction = rng.standard_normal((n_samples, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # The volume within r grows with r^3: its root spreads the points evenly.
    distance = radius * np.cbrt(rng.uniform(size=(n_samples, 1)))
    X = np.repeat(CENTERS, n_per_class, axis=0) + distance * direction
    y = np.repeat(np.array([1, 0], dtype=np.int64), n_per_class)
    if shuffle:
        order = rng.permutation(n_samples)
        X, y = X[order], y[order]
    return X, y
