"""Interrupts in the midst of a call, decided by what is seen and never by a clock.

Signals rain on the process, one each millisecond: the slower the machine, the more of
them fall on the same work, so that one is there whenever somebody looks. They are
passed over until it is time. How soon a signal is felt is measured in
benchmarks/latency.py.
"""

import operator
import signal
from functools import partial
from itertools import count

import pytest


def needs_timer(test):
    """Marks a test that calls `interrupt`."""
    missing = not hasattr(signal, "setitimer")
    test = pytest.mark.skipif(missing, reason="needs setitimer")(test)
    return pytest.mark.thread_unsafe(reason="signals reach the main thread alone")(test)


def interrupt(
    call, when=lambda: True, handler=signal.default_int_handler, compiled=True
):
    """Calls `call`, and for one signal, once `when()` is true, `handler` meanwhile.

    Parameters
    ----------
    call : callable
    when : callable
    handler : callable(signal number, frame)
        What it raises leaves `call`.
    compiled : bool, default=True
        Whether `call` is compiled code, which has to look for signals itself. The
        interpreter handles them at any bytecode, such as that of NumPy: this is passed
        over, and nothing comes after the call.

    Returns
    -------
    bool
        Whether `handler` was called.

    Raises
    ------
    TimeoutError
        After many minutes of signals: the call hangs.
    """
    handled, over, numbers = [], [], count()

    def handle(number, frame):
        if handled or over:
            return
        if next(numbers) > 600_000:
            raise TimeoutError("the call hangs")
        if (not compiled or frame.f_code is interrupt.__code__) and when():
            handled.append(True)
            handler(number, frame)

    handler_before = signal.signal(signal.SIGALRM, handle)
    # pytest-timeout uses the same timer, and rests meanwhile.
    timer_before = signal.getitimer(signal.ITIMER_REAL)
    start = partial(signal.setitimer, signal.ITIMER_REAL, 0.001, 0.001)
    try:
        # From C: no bytecode of this frame runs between the three calls.
        list(map(operator.call, [start, call, partial(over.append, True)]))
    finally:
        over.append(True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler_before)
        signal.setitimer(signal.ITIMER_REAL, *timer_before)
    return bool(handled)
