# Types of what _data.pyx shows to Python. X may also be a SciPy CSR matrix.
from typing import Any

from numpy.typing import NDArray

from cbp._network import Network, _Floats

class CsrData:
    def __init__(self, network: Network, X: Any, by_rows: bool = False) -> None: ...

class Data:
    network: Network
    def __init__(
        self,
        network: Network,
        X: Any,
        target: NDArray[Any],
        sample_weight: _Floats | None = None,
    ) -> None: ...
