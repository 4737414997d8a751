# Types of what _batch.pyx shows to Python.
from cbp._network import Network
from cbp._weights import Layout

def divides(layout: Layout, batch_size: int) -> bool: ...
def fit_bytes(
    network: Network,
    batch_size: int,
    solver: str,
    sparse: bool = False,
    clips: bool = False,
    averages: bool = False,
) -> int: ...
