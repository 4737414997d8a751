# Types of what _network.pyx shows to Python.
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

_Floats: TypeAlias = NDArray[np.floating[Any]]

class Network:
    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]
    output: str
    loss: str
    dtype: np.dtype[Any]
    segments: tuple[tuple[str, int, tuple[int, ...], bool], ...]
    n_params: int
    n_outputs: int
    kind: tuple[Any, ...]
    loss_parameters: tuple[float | tuple[float, ...], ...]
    groups: tuple[int, ...]
    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[str],
        output: str,
        loss: str,
        dtype: DTypeLike,
        loss_parameters: Sequence[float | Sequence[float]] = (),
        groups: Sequence[int] = (),
    ) -> None: ...
    def views(
        self, theta: NDArray[Any]
    ) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]: ...
