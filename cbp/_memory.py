"""Whether this machine has the memory that a fit needs, asked before it is taken."""

from __future__ import annotations

import math
import os
from typing import Any


def demand_memory(est: Any, n_bytes: int, n_params: int) -> None:
    """MemoryError if training needs more bytes than the machine has."""
    available = _physical_memory()
    if available is None or n_bytes <= available:
        return
    sizes_text = repr(est.hidden_layer_sizes)
    if len(sizes_text) > 60:
        sizes_text = f"{sizes_text[:30]}...{sizes_text[-5:]}"
    count = f"{n_params:,}" if n_params < 10**30 else "far too many"
    raise MemoryError(
        f"A network with hidden_layer_sizes={sizes_text} has "
        f"{count} parameters; training it with solver={str(est.solver)!r} "
        f"needs {_gib(n_bytes)}, but this machine has {_gib(available)}. "
        "Reduce hidden_layer_sizes."
    )


def _physical_memory() -> int | None:
    """Bytes of memory in this machine; None where the system does not tell."""
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return n_bytes if n_bytes > 0 else None


def _gib(n_bytes: int) -> str:
    """Bytes as text; numbers of hundreds of digits by their size."""
    if n_bytes.bit_length() < 1000:
        return f"{n_bytes / 2**30:,.1f} GiB"
    return f"some 10**{int((n_bytes.bit_length() - 30) * math.log10(2))} GiB"
