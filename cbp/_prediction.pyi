# Types of what _prediction.pyx shows to Python. X may also be a SciPy CSR matrix.
from typing import Any, Literal, overload

from cbp._network import Network, _Floats

@overload
def predict(
    network: Network,
    theta: _Floats,
    X: Any,
    logits: bool = False,
    finite: Literal[False] = False,
    hidden: list[_Floats] | None = None,
) -> _Floats: ...
@overload
def predict(
    network: Network,
    theta: _Floats,
    X: Any,
    logits: bool,
    finite: bool,
    hidden: list[_Floats] | None = None,
) -> _Floats | None: ...
