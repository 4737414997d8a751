# What goes into a run and what comes out, declared.
cimport cython
from libc.math cimport sqrt
from libc.stdint cimport int64_t

from cbp._kernels cimport cbp_pair


cdef enum:
    # Powers of the betas that are kept.
    POWERS = 64


# What Settings.scoring says.
cdef enum:
    ACCURACY_OR_R2
    LOSS
    TOLD


@cython.final
cdef class Settings:
    cdef readonly str solver, scoring
    cdef readonly object learning_rate  # the name of a schedule, or callable
    cdef readonly int64_t batch_size, n_threads
    cdef readonly double alpha, learning_rate_init, power_t, beta_1, beta_2
    cdef readonly double epsilon, tol, n_iter_no_change, weight_decay, warmup
    cdef readonly double max_grad_norm, average
    cdef readonly tuple dropout
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
    cdef public double loss, best_loss, learning_rate
    cdef readonly double best_score, clipped
    cdef readonly list loss_curve, validation_scores, validation_loss_curve
    cdef readonly int64_t best_iter
    cdef public bint scored, goes_on
    cdef readonly object optimizer
    cdef public str outcome
    cdef dict numbers(self)
    cdef take(self, dict numbers, dict arrays)


@cython.final
cdef class Schedule:
    cdef int kind
    cdef bint corrects             # Adam's bias
    cdef bint moves                # within an epoch
    cdef double first, base        # before any epoch, and now
    cdef double power_t, beta_1, beta_2, warmup, weight_decay
    cdef double factor             # of this step, by the place in training
    cdef double learning_rate      # of the last step
    cdef object caller             # callable(progress) -> factor
    cdef double[::1] told          # the factors of this epoch
    cdef double n_batches, n_epochs  # of an epoch; of training
    cdef int64_t first_step        # of this run; steps are counted from 1
    cdef double powers_1[POWERS]   # beta_1^i and beta_2^i
    cdef double powers_2[POWERS]
    cdef cbp_pair power_1, power_2  # beta^t for the last t that POWERS divides
    cdef cbp_pair factor_1, factor_2  # from there to the next: beta^POWERS
    cdef begin(self, Settings settings)
    cdef go_on(self, double learning_rate)
    cdef begin_run(self, int64_t first_step, double n_batches, double n_epochs)
    cdef ask(self, int64_t epoch)
    cdef void move_to(self, int64_t epoch, int64_t batch) noexcept nogil
    cdef double _factor_at(self, double progress) noexcept nogil
    cdef bint rises(self, int64_t epoch) noexcept nogil
    cdef void _find_powers(self, int64_t step) noexcept nogil
    cdef inline double rate(self, int64_t step) noexcept nogil:
        """eta of a step, bias corrections included. One call for each, in order."""
        cdef double correct_1, correct_2, eta = self.base * self.factor
        if self.corrects:
            if step == self.first_step or step % POWERS == 0:
                self._find_powers(step)
            correct_1 = 1 - self.power_1.hi * self.powers_1[step % POWERS]
            correct_2 = 1 - self.power_2.hi * self.powers_2[step % POWERS]
            eta = eta * sqrt(correct_2) / correct_1
        self.learning_rate = eta
        return eta
    cdef inline double decay(self) noexcept nogil:
        """The share of the weights that the step of the last `rate` takes."""
        return self.weight_decay * (self.base * self.factor)
    cdef void end_epoch(self, int64_t t) noexcept nogil
    cdef bint lower(self) noexcept nogil
    cdef dict numbers(self)
    cdef take(self, dict numbers)


cdef double number(x, str name) except? -1
cdef int64_t count(x, str name, int64_t least) except? -1
