# Types of what _progress.pyx shows to Python.
from collections.abc import Sequence
from typing import Literal

from cbp._network import _Floats

SCHEDULES: dict[str, int]

class Settings:
    solver: str
    learning_rate: str
    batch_size: int
    n_threads: int
    alpha: float
    learning_rate_init: float
    power_t: float
    beta_1: float
    beta_2: float
    epsilon: float
    tol: float
    n_iter_no_change: float
    nesterovs_momentum: bool
    shuffle: bool
    exclusive: bool
    monitor: bool
    early_stopping: bool
    scoring: str
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
        early_stopping: bool = True,
        scoring: str = "accuracy_or_r2",
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
    validation_loss_curve: list[float]
    best_iter: int
    scored: bool
    learning_rate: float
    clipped: float
    goes_on: bool
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
        validation_loss_curve: Sequence[float] = (),
        optimizer: Optimizer | None = None,
    ) -> None: ...
    def accept(self, theta: _Floats, new: _Floats, loss: float) -> None: ...
