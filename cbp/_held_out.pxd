# Rows that are scored after every epoch, declared.
from libc.stdint cimport int64_t

from cbp._batch cimport Batch
from cbp._data cimport Data
from cbp._kernels cimport cbp_kernels, cbp_panels


cdef class HeldOut:
    cdef Batch batch
    cdef Data data
    cdef const cbp_kernels *k
    cdef object _rows
    cdef const int64_t *rows
    cdef ptrdiff_t n_rows
    cdef object best_theta
    cdef char *best                # the data of best_theta
    cdef int kind                  # of the score
    cdef bint by_r2, one_class
    # a^L, where z^L must stay for the cost; NULL where they are the same.
    cdef object _outputs
    cdef char *outputs
    cdef double weight_sum         # of all rows
    cdef double cost               # the weighted sum of their costs
    # Per output the squares of errors and of targets less their mean; for accuracy, in
    # the first item, the weights of the rows that are right and of all.
    cdef double[::1] sums, base

    cdef void _measure_base(self) noexcept nogil
    cdef double loss(self) noexcept nogil
    cdef double score(self) noexcept nogil
    cdef void _add_costs(self, ptrdiff_t n_rows) noexcept nogil
    cdef bint _compare(self, ptrdiff_t n_rows) noexcept nogil
    cdef double _entry(self, cbp_panels A, ptrdiff_t r, ptrdiff_t c) noexcept nogil
    cdef bint _is_right(self, cbp_panels Z, ptrdiff_t r) noexcept nogil
    cdef ptrdiff_t _largest(self, cbp_panels Z, ptrdiff_t r, ptrdiff_t first,
                            ptrdiff_t end) noexcept nogil
    cdef double _r2(self) noexcept nogil
