"""The threads of one fit, and how they are interrupted.

A `Team` keeps threads that sleep in C while Python runs and `work` together in between;
how they share a batch stands in _batch.pyx. `Signals` is what one run and its threads
know of Ctrl-C. Nothing here knows what is computed.
"""

import _thread

cimport cython

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
    NOWAIT_LOCK,
    WAIT_LOCK,
)


cdef extern from "barrier.h" nogil:
    ctypedef struct cbp_claimed:
        pass
    bint cbp_claim(cbp_claimed *claimed)
    long cbp_process()
    void cbp_yield()
    void cbp_say(cbp_word *word, bint yes)


# Of the stable ABI, but not in Cython's declarations.
cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds,
                                    int interruptible)


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        TIME_UTC
    int timespec_get(timespec *ts, int base)


cdef enum:
    # How often a worker yields its core before it sleeps: about 50 microseconds, within
    # which the first call comes. One that was woken at once shared its caller's core
    # for the whole of a short run wherever other programs were at work.
    YIELDS = 100
    # Between two looks whether a thread died before it sat: 10 milliseconds.
    MICROSECONDS_PER_LOOK = 10000

# Seconds between two looks for signals; Ctrl-C is felt within twice this and the end of
# a step, which is not interrupted.
cdef double POLL_SECONDS = 0.04


cdef double now() noexcept nogil:
    cdef timespec t
    timespec_get(&t, TIME_UTC)
    return t.tv_sec + 1e-9 * t.tv_nsec


@cython.final
cdef class Signals:
    """Whether a run is to stop, or was interrupted, and by what."""

    cdef void begin(self) noexcept:
        self.error, self.stop_requested = None, False
        cbp_say(&self.end_at_once, False)
        self.last_poll = now()

    cdef void look(self) noexcept nogil:
        """Looks for signals when it is time."""
        cdef double time = now()
        self.unseen_flops = 0
        # Not "later than": a clock that was set back must not silence the looks.
        if -POLL_SECONDS < time - self.last_poll < POLL_SECONDS:
            return
        self.last_poll = time
        self._check()

    cdef void _check(self) noexcept with gil:
        try:
            PyErr_CheckSignals()
            self.look_for_request()
        except BaseException as error:
            self.interrupt(error)

    cdef interrupt(self, error):
        """Ends the run with an exception, at the next place where threads meet."""
        self.error, self.stop_requested = error, True
        cbp_say(&self.end_at_once, True)

    cdef look_for_request(self):
        """KeyboardInterrupt if another thread has asked for it."""
        if self.asked is not None and self.asked.is_set():
            raise KeyboardInterrupt("request_stop was called")

    cdef reraise(self):
        """Raises what interrupted the compiled loop, if anything."""
        error, self.error = self.error, None
        if error is not None:
            raise error


cdef class Worker:
    """Something whose `work` a team does together."""

    cdef void work(self, int thread) noexcept nogil:
        """What thread number `thread` has to do; 0 is the caller's."""


# ---- the team -----------------------------------------------------------------------

# Without the GIL an object that another thread drops last ends when the thread that
# made it next runs Python's own code, which waiting for a lock is not.
_run_python = eval("lambda: None")


@cython.internal
@cython.final
cdef class Seat:
    """The place of one worker: it sits there in C, asleep between calls.

    Who sits cannot fail: until it is dismissed it needs neither Python nor memory. So
    no thread ever waits at the barrier for one that does not come.
    """

    cdef Worker worker
    cdef int number
    cdef PyThread_type_lock call   # opened to wake the worker
    cdef PyThread_type_lock done   # opened by it: it sits, has worked, has left
    cdef cbp_claimed taken         # by who sits down, or by who lets nobody sit down
    # Written by the worker before it opens `done`.
    cdef bint sits
    # Written by who waits for it, and read by it after `call` was opened.
    cdef bint asked                # a thread was started that is to sit here
    cdef bint seen                 # it is known whether it sits
    cdef bint closed               # to leave
    cdef object error              # raised by a signal handler in the meantime

    def __cinit__(self, Worker worker not None):
        self.worker = worker
        self.call, self.done = PyThread_allocate_lock(), PyThread_allocate_lock()
        if self.call == NULL or self.done == NULL:
            raise MemoryError("no memory for the locks of a thread")
        PyThread_acquire_lock(self.call, WAIT_LOCK)
        PyThread_acquire_lock(self.done, WAIT_LOCK)

    def __dealloc__(self):
        if self.call != NULL:
            PyThread_free_lock(self.call)
        if self.done != NULL:
            PyThread_free_lock(self.done)

    cdef void serve(self) noexcept nogil:
        """All that a worker does."""
        cdef int yields
        PyThread_release_lock(self.done)
        while True:
            yields = 0
            while not PyThread_acquire_lock(
                self.call, WAIT_LOCK if yields == YIELDS else NOWAIT_LOCK
            ):
                cbp_yield()
                yields += 1
            if self.closed:
                return
            self.worker.work(self.number)
            PyThread_release_lock(self.done)

    cdef void wait(self) noexcept:
        with nogil:
            PyThread_acquire_lock(self.done, WAIT_LOCK)

    cdef void look(self) noexcept:
        """Waits until it is known whether the worker sits. If it is not known whether a
        thread was started, one that comes later will not sit down."""
        if not self.seen and (self.asked or not cbp_claim(&self.taken)):
            self.wait_for_word()
        self.seen = True

    cdef void wait_for_word(self) noexcept:
        """Waits for the worker or, if that died, for its ticket to open `done`."""
        cdef bint opened = False
        while not opened:
            with nogil:
                opened = PY_LOCK_ACQUIRED == PyThread_acquire_lock_timed(
                    self.done, MICROSECONDS_PER_LOOK, 0
                )
            if not opened:
                try:
                    _run_python()
                except BaseException as error:
                    self.error = error

    cdef void dismiss(self) noexcept:
        """Returns when the worker has left, or can no longer sit down."""
        self.look()
        if self.sits and not self.closed:
            self.closed = True
            PyThread_release_lock(self.call)
            self.wait()
        self.closed = True


@cython.internal
@cython.final
cdef class Ticket:
    """What a new thread comes with. If it dies before it sits, Python tells nobody;
    but then the ticket dies too, and tells. (Without the GIL it may die late, in the
    thread that waits: see `_run_python`.)"""

    cdef Seat seat

    def __cinit__(self, Seat seat not None):
        self.seat = seat

    def __dealloc__(self):
        if self.seat is not None and not self.seat.sits:
            PyThread_release_lock(self.seat.done)


def _sit(Ticket ticket not None):
    """All that a new thread does."""
    cdef Seat seat = ticket.seat
    if not cbp_claim(&seat.taken):
        return
    seat.sits = True
    with nogil:
        seat.serve()
    # The GIL is given up only when Python has forgotten the thread.
    PyThread_release_lock(seat.done)


@cython.final
cdef class Team:
    """The threads of a `with trainer` block: asleep while Python runs.

    Parameters
    ----------
    worker : Worker
    """

    def __cinit__(self, Worker worker not None):
        self.worker, self.seats = worker, []
        self.process = cbp_process()

    cdef int start(self, int n_threads) except -1:
        """Seats them all, or as many as are to be had, or none if that is interrupted.
        How many threads there are then, the caller's included."""
        cdef Seat seat
        asked = []
        try:
            for _ in range(1, n_threads):
                seat = Seat(self.worker)
                asked.append(seat)
                try:
                    _thread.start_new_thread(_sit, (Ticket(seat),))
                    seat.asked = True
                except RuntimeError:  # no more threads to be had: go on with fewer
                    seat.dismiss()
                    break
            for seat in asked:
                seat.look()
                if seat.error is not None:
                    raise seat.error
                if seat.sits and not seat.closed:
                    self.seats.append(seat)
                    seat.number = len(self.seats)
        except BaseException:
            for seat in asked:
                seat.dismiss()
            for seat in asked:
                if seat.error is not None:
                    raise seat.error
            raise
        return 1 + len(self.seats)

    cdef int work(self) except -1:
        """All threads work until the epochs halt."""
        cdef Seat seat
        if cbp_process() != self.process:
            raise RuntimeError("this process was forked while the Trainer was at work: "
                               "its threads are in the other one")
        for seat in self.seats:
            PyThread_release_lock(seat.call)
        with nogil:
            self.worker.work(0)
        for seat in self.seats:
            seat.wait()
        return 0

    cdef void end(self) noexcept:
        """Returns when no thread is left."""
        cdef Seat seat
        if cbp_process() == self.process:
            for seat in self.seats:
                seat.closed = True
                PyThread_release_lock(seat.call)
            for seat in self.seats:
                seat.wait()
        self.seats = None
