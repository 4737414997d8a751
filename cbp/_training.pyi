# Types of what _training.pyx shows to Python.
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbp._data import Data
from cbp._network import Network, _Floats
from cbp._recorder import Recorder

SCHEDULES: dict[str, int]
STATUS_NAMES: dict[int, str]

class Settings:
    solver: str
    learning_rate: str
    batch_size: int
    n_threads: int
    alpha: float
    learning_rate_init: float
    power_t: float
    momentum: float
    beta_1: float
    beta_2: float
    epsilon: float
    tol: float
    n_iter_no_change: float
    nesterovs_momentum: bool
    shuffle: bool
    exclusive: bool
    monitor: bool
    def __init__(
        self,
        *,
        solver: str = "adam",
        alpha: float = 0.0,
        batch_size: int = 200,
        shuffle: bool = True,
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        tol: float = 1e-4,
        n_iter_no_change: float = 10,
        n_threads: int = 1,
        exclusive: bool = True,
        monitor: bool = False,
    ) -> None: ...

class Optimizer:
    solver: Literal["sgd", "adam"]
    learning_rate: float
    steps: int
    state: _Floats
    def __init__(
        self,
        solver: Literal["sgd", "adam"],
        learning_rate: float,
        steps: int,
        state: _Floats,
    ) -> None: ...

class Progress:
    n_iter: int
    t: int
    no_improvement_count: int
    loss: float
    best_loss: float
    best_score: float
    loss_curve: list[float]
    validation_scores: list[float]
    scored: bool
    optimizer: Optimizer | None
    outcome: str
    def __init__(
        self,
        *,
        t: int = 0,
        best_loss: float = ...,
        no_improvement_count: int = 0,
        loss_curve: Sequence[float] = (),
        validation_scores: Sequence[float] = (),
        optimizer: Optimizer | None = None,
    ) -> None: ...

class Trainer:
    network: Network
    theta: _Floats
    data: Data
    settings: Settings
    progress: Progress
    @property
    def recorder(self) -> Recorder | None: ...
    @property
    def best_theta(self) -> _Floats | None: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def n_threads(self) -> int: ...
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
    ) -> Literal["max_iter", "converged", "diverged", "stopped"]: ...
    def loss_gradient(self, theta: _Floats) -> tuple[float, NDArray[np.float64]]: ...
    def score_weights(self, theta: _Floats, starting: bool = False) -> bool: ...
    def end_iteration(
        self, iteration: int, theta: _Floats, before: _Floats
    ) -> None: ...
    def backpropagate(self, theta: _Floats) -> dict[str, Any]: ...
