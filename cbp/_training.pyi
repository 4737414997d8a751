# Types of what _training.pyx shows to Python.
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cbp._network import Network, _Floats
from cbp._recorder import Recorder

SCHEDULES: dict[str, int]
STATUS_NAMES: dict[int, str]

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

class Trainer:
    network: Network
    recorder: Recorder | None
    theta: _Floats
    optimizer: Optimizer | None
    best_theta: _Floats | None
    loss_curve: list[float]
    validation_scores: list[float]
    n_iter: int
    t: int
    best_loss: float
    best_score: float
    learning_rate: float
    no_improvement_count: int
    diverged_epoch: int | None
    n_threads: int
    by_units: bool
    def __init__(
        self,
        network: Network,
        theta: _Floats,
        X: Any,
        target: NDArray[Any],
        *,
        sample_weight: _Floats | None = None,
        rows: NDArray[np.int64] | None = None,
        held_out: NDArray[np.int64] | None = None,
        n_threads: int = 1,
        solver: Literal["sgd", "adam", "lbfgs"] = "adam",
        alpha: float = 0.0,
        batch_size: int = 200,
        shuffle: bool = True,
        random_state: np.random.RandomState | None = None,
        learning_rate: Literal["constant", "invscaling", "adaptive"] = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        tol: float = 1e-4,
        n_iter_no_change: float = 10,
        optimizer: Optimizer | None = None,
        t: int = 0,
        best_loss: float = ...,
        no_improvement_count: int = 0,
        monitor: bool = False,
        exclusive: bool = True,
    ) -> None: ...
    def __enter__(self) -> Trainer: ...
    def __exit__(
        self, kind: object = None, error: object = None, traceback: object = None
    ) -> None: ...
    def run(
        self,
        max_iter: int,
        on_epoch: Callable[[int, float], bool | None] | None = None,
    ) -> Literal["max_iter", "converged", "diverged", "stopped"]: ...
    def loss_gradient(self, theta: _Floats) -> tuple[float, NDArray[np.float64]]: ...
    def judge(self, theta: _Floats, starting: bool = False) -> bool: ...
    def end_iteration(
        self, iteration: int, theta: _Floats, before: _Floats
    ) -> None: ...
    def backpropagate(self, theta: _Floats) -> dict[str, Any]: ...

def sum_squares(x: NDArray[np.float64]) -> float: ...
