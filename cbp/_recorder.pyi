# Types of what _recorder.pyx shows to Python.
from typing import Any

from numpy.typing import NDArray

from cbp._weights import Layout

class Recorder:
    n_layers: int
    def __init__(
        self, layout: Layout, chunk_rows: int, batches: int, one_row: bool
    ) -> None: ...
    n_records: int
    stride: int
    def last_gradient(self) -> tuple[int, list[float]] | None: ...
    def flow(self) -> dict[str, NDArray[Any]]: ...
