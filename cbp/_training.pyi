# Types of what _training.pyx shows to Python.
import threading
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbp._data import Data
from cbp._network import Network, _Floats
from cbp._progress import Progress, Settings
from cbp._recorder import Recorder

STATUS_NAMES: dict[int, str]

class Trainer:
    network: Network
    theta: _Floats
    data: Data
    settings: Settings
    progress: Progress
    @property
    def recorder(self) -> Recorder | None: ...
    @property
    def holds_out(self) -> bool: ...
    @property
    def best_theta(self) -> _Floats | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def n_threads(self) -> int: ...
    @property
    def most_threads(self) -> int: ...
    @property
    def by_units(self) -> bool: ...
    def __init__(
        self,
        network: Network,
        theta: _Floats,
        data: Data,
        settings: Settings,
        progress: Progress | None = None,
        *,
        rows: NDArray[np.int64] | None = None,
        held_out: tuple[Data, NDArray[np.int64]] | None = None,
        random_state: np.random.RandomState | None = None,
    ) -> None: ...
    def __enter__(self) -> Trainer: ...
    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None
    ) -> None: ...
    def run(
        self,
        max_iter: int,
        after_epoch: Callable[[Progress], bool | None] | None = None,
        score: Callable[[Progress], float] | None = None,
    ) -> Literal["max_iter", "converged", "diverged", "stopped"]: ...
    def loss_gradient(self, theta: _Floats) -> tuple[float, NDArray[np.float64]]: ...
    def watch(self, event: threading.Event | None) -> None: ...
    def state(
        self,
    ) -> tuple[dict[str, int | float | str], dict[str, NDArray[Any]]]: ...
    def restore(
        self,
        theta: _Floats,
        numbers: dict[str, int | float | str],
        arrays: dict[str, NDArray[Any]],
    ) -> None: ...
    def let_go(self) -> None: ...
    def renew(
        self,
        theta: _Floats,
        data: Data,
        progress: Progress,
        random_state: np.random.RandomState | None = None,
    ) -> None: ...
    def score_weights(
        self, theta: _Floats, score: float | None = None, starting: bool = False
    ) -> bool: ...
    def end_iteration(
        self, iteration: int, theta: _Floats, before: _Floats
    ) -> None: ...
    def backpropagate(self, theta: _Floats) -> dict[str, Any]: ...
