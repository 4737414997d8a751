# What goes into a run and what comes out, declared.
cimport cython
from libc.math cimport sqrt
from libc.stdint cimport int64_t

from cbp._kernels cimport cbp_pair


cdef enum:
    # Powers of the betas that are kept.
    POWERS = 64


cdef enum:
    ACCURACY_OR_R2
    LOSS
    TOLD


@cython.final
cdef class Settings:
    cdef readonly str solver, learning_rate, scoring
    cdef readonly int64_t batch_size, n_threads
    cdef readonly double alpha, learning_rate_init, power_t, beta_1, beta_2
    cdef readonly double epsilon, tol, n_iter_no_change
    cdef readonly bint nesterovs_momentum, shuffle, exclusive, monitor, early_stopping
    cdef int optimizer             # its number in cbp.h; -1: L-BFGS
    cdef int score                 # what held-out rows are scored by
    cdef int schedule              # constant if the optimizer has none
    cdef bint corrects_bias
    cdef int second_moment         # number of that vector; -1: there is none


@cython.final
cdef class Progress:
    cdef public int64_t n_iter
    cdef readonly int64_t t, no_improvement_count
    cdef public double loss, best_loss
    cdef readonly double best_score
    cdef readonly list loss_curve, validation_scores, validation_loss_curve
    cdef readonly int64_t best_iter
    cdef public bint scored
    cdef readonly object optimizer
    cdef public str outcome


@cython.final
cdef class Schedule:
    cdef int kind
    cdef bint corrects
    cdef double learning_rate, eta_init, power_t, beta_1, beta_2
    cdef int64_t first_step        # of this run; steps are counted from 1
    cdef double powers_1[POWERS]   # beta_1^i and beta_2^i
    cdef double powers_2[POWERS]
    cdef cbp_pair power_1, power_2  # beta^t for the last t that POWERS divides
    cdef cbp_pair factor_1, factor_2  # from there to the next: beta^POWERS
    cdef void begin(self) noexcept
    cdef void _find_powers(self, int64_t step) noexcept nogil
    cdef inline double rate(self, int64_t step) noexcept nogil:
        """eta of a step, bias corrections included. One call for each, in order."""
        cdef double correct_1, correct_2
        if self.corrects:
            if step == self.first_step or step % POWERS == 0:
                self._find_powers(step)
            correct_1 = 1 - self.power_1.hi * self.powers_1[step % POWERS]
            correct_2 = 1 - self.power_2.hi * self.powers_2[step % POWERS]
            self.learning_rate = self.eta_init * sqrt(correct_2) / correct_1
        return self.learning_rate
    cdef void end_epoch(self, int64_t t) noexcept nogil
    cdef bint lower(self) noexcept nogil


cdef double number(x, str name) except? -1
cdef int64_t count(x, str name, int64_t least) except? -1
