# Types of what _kernels.pyx shows to Python.
from typing import Any

import numpy as np

ACTIVATIONS: dict[str, int]
OUTPUTS: dict[str, int]
LOSSES: dict[tuple[str, str], int]
OPTIMIZERS: dict[str, int]

def tiers() -> list[str]: ...
def isa() -> str: ...
def power(x: float, y: float) -> float: ...
def table_address(tier: str, dtype: np.dtype[Any]) -> int: ...
