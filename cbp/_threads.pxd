# The threads of one fit, declared, and how they are interrupted.
cimport cython


cdef extern from "barrier.h" nogil:
    ctypedef struct cbp_word:
        pass
    bint cbp_heard(cbp_word *word)


cdef enum:
    # Work between two looks at the clock.
    FLOPS_PER_TICK = 1000000


@cython.final
cdef class Signals:
    cdef bint stop_requested       # to come back to Python when the batch is done
    cdef cbp_word end_at_once      # to come back to Python at once, never within a step
    cdef object error              # what interrupted, to be raised
    cdef object asked              # an event, set by another thread to interrupt
    # Thread 0 writes these time and again: on a line that no other thread reads
    # (64-100-10, batch 200, float32, two threads: 2 % faster).
    cdef char space_before[64]
    cdef double last_poll, unseen_flops
    cdef char space_after[64]
    cdef void begin(self) noexcept
    cdef void look(self) noexcept nogil
    cdef void _check(self) noexcept with gil
    cdef interrupt(self, error)
    cdef look_for_request(self)
    cdef reraise(self)
    cdef inline bint interrupted(self) noexcept nogil:
        """Whether to come back to Python at once. Threads learn it one by one."""
        return cbp_heard(&self.end_at_once)
    cdef inline void count(self, double flops) noexcept nogil:
        """Counts work that nothing may interrupt, for the next poll."""
        self.unseen_flops += flops
    cdef inline void poll(self, double flops) noexcept nogil:
        """Counts work; reads the clock once per megaflop. For thread 0 only."""
        self.unseen_flops += flops
        if self.unseen_flops >= FLOPS_PER_TICK:
            self.look()


cdef class Worker:
    cdef void work(self, int thread) noexcept nogil


@cython.final
cdef class Team:
    cdef Worker worker
    cdef list seats
    cdef long process
    cdef int start(self, int n_threads) except -1
    cdef int work(self) except -1
    cdef void end(self) noexcept
