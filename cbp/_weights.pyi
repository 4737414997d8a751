# Types of what _weights.pyx shows to Python.
from cbp._network import Network

class Layout:
    network: Network
    def __init__(self, network: Network) -> None: ...

class Weights(Layout): ...

def state_shape(network: Network, solver: str) -> tuple[int, int] | None: ...
