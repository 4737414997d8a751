# Types of what _data.pyx shows to Python. X and target may also be SciPy CSR matrices.
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cbp._network import Network, _Floats

class CsrData:
    def __init__(
        self, network: Network, X: Any, by_rows: bool = False, targets: bool = False
    ) -> None: ...

class Data:
    network: Network
    def __init__(
        self,
        network: Network,
        X: Any,
        target: Any,
        sample_weight: _Floats | None = None,
    ) -> None: ...

def most_entries(counts: NDArray[np.integer[Any]], rows: int) -> int: ...
