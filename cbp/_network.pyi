# Types of what _network.pyx shows to Python. X may also be a SciPy CSR matrix.
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

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
    kind: tuple[tuple[int, ...], tuple[str, ...], str, str, np.dtype[Any]]
    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[str],
        output: str,
        loss: str,
        dtype: DTypeLike,
    ) -> None: ...
    def divides(self, batch_size: int) -> bool: ...
    def fit_bytes(
        self,
        batch_size: int,
        solver: Literal["sgd", "adam", "lbfgs"],
        sparse: bool = False,
    ) -> int: ...
    def state_shape(self, solver: str) -> tuple[int, int] | None: ...
    @overload
    def predict(
        self,
        theta: _Floats,
        X: Any,
        logits: bool = False,
        finite: Literal[False] = False,
        hidden: list[_Floats] | None = None,
    ) -> _Floats: ...
    @overload
    def predict(
        self,
        theta: _Floats,
        X: Any,
        logits: bool,
        finite: bool,
        hidden: list[_Floats] | None = None,
    ) -> _Floats | None: ...
