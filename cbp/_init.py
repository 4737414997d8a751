"""First weights and biases of a network, by the name of a rule that all layers follow.

Of a layer with n_in inputs and n_out outputs. The draws, their order and the bounds of
"glorot" are scikit-learn's, so that the same seed gives the same network.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cbp._network import Network

Floats: TypeAlias = NDArray[np.floating[Any]]


def _glorot(W: Floats, b: Floats, factor: float, rng: Any) -> None:
    """Within sqrt(factor / (n_in + n_out)) (Glorot and Bengio, 2010); biases, too."""
    bound = math.sqrt(factor / sum(W.shape))
    W[...] = rng.uniform(-bound, bound, W.shape)
    b[...] = rng.uniform(-bound, bound, b.shape)


def _he(W: Floats, b: Floats, factor: float, rng: Any) -> None:
    """Variance 2 / n_in (He et al., 2015)."""
    _uniform(W, math.sqrt(6 / len(W)), rng)
    b[...] = 0


def _lecun(W: Floats, b: Floats, factor: float, rng: Any) -> None:
    """Variance 1 / n_in (LeCun et al., 1998; Klambauer et al., 2017)."""
    _uniform(W, math.sqrt(3 / len(W)), rng)
    b[...] = 0


def _uniform(W: Floats, bound: float, rng: Any) -> None:
    W[...] = rng.uniform(-bound, bound, W.shape)


def _orthogonal(W: Floats, b: Floats, factor: float, rng: Any) -> None:
    """Orthonormal columns, or rows if there are fewer (Saxe et al., 2014)."""
    normal = rng.standard_normal((max(W.shape), min(W.shape)))
    Q, R = np.linalg.qr(normal)
    # With the signs of R's diagonal every such matrix is equally likely.
    Q *= np.where(np.diag(R) < 0, -1.0, 1.0)
    W[...] = Q if W.shape[0] >= W.shape[1] else Q.T
    b[...] = 0


INITS = {
    "glorot": _glorot,
    "he": _he,
    "lecun": _lecun,
    "orthogonal": _orthogonal,
}


def draw_weights(network: Network, init: str, factors: list[float], rng: Any) -> Floats:
    """theta to start from.

    Parameters
    ----------
    network : Network
    init : str
        A name of `INITS`.
    factors : list of float
        Of the bound of "glorot", one for each layer.
    rng : RandomState

    Returns
    -------
    theta : ndarray of shape (n_params,)
        Drawn in float64; float32 weights are these rounded.
    """
    theta = np.empty(network.n_params, network.dtype)
    for W, b, factor in zip(*network.views(theta), factors, strict=True):
        INITS[init](W, b, factor, rng)
    return theta
