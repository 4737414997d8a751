"""Fits under way, and how another thread ends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# By the identity of each event: the identity of the estimator that fits, and the event.
# One entry is put or removed at a time, so that no lock is needed.
_running: dict[int, tuple[int, threading.Event]] = {}


@contextmanager
def under_way(estimator: Any) -> Iterator[threading.Event]:
    """For the time of a fit: the event that `request` sets."""
    event = threading.Event()
    try:  # an interrupt may come at any line
        _running[id(event)] = id(estimator), event
        yield event
    finally:
        _running.pop(id(event), None)


def request(estimator: Any) -> bool:
    """Ask all fits of an estimator to end; whether there were any."""
    events = [event for owner, event in [*_running.values()] if owner == id(estimator)]
    for event in events:
        event.set()
    return bool(events)
