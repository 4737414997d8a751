# The recorder of gradient flow, declared.
from libc.stdint cimport int32_t, int64_t

from cbp._kernels cimport cbp_kernels, cbp_layer, cbp_panels


cdef enum:
    # What is summed per layer over the watched batches of an epoch.
    GRADIENT_SQUARES
    DELTA_SQUARES
    BACK_SQUARES
    WEIGHT_SQUARES
    UPDATE_SQUARES
    SATURATED
    STUCK
    FLOORED
    NONFINITE
    N_SUMS


cdef class Recorder:
    cdef readonly int n_layers
    cdef const cbp_kernels *k
    cdef cbp_layer *layers
    cdef object _layout

    # One slot per piece of work, so that threads never share one and every sum is made
    # in one order: rows in groups of P, patches of weights, panels of units.
    cdef double[:, ::1] group_delta, group_back
    cdef double[::1] patch_gradient, patch_update, patch_floored
    cdef int32_t[::1] saturated_rows  # a unit that is dropped counts as saturated
    cdef int32_t[::1] dropped_rows

    cdef double[:, ::1] sums      # n_layers x N_SUMS, this epoch
    cdef int64_t watched          # batches in them
    cdef int64_t every            # steps from one watched batch to the next
    cdef readonly int64_t stride  # epochs from one record to the next
    cdef int room                 # records that fit
    cdef readonly int n_records
    cdef double[:, :, ::1] records
    cdef int64_t[::1] epochs

    cdef void clear(self) noexcept
    cdef bint due(self, int64_t step, int64_t epoch) noexcept nogil
    cdef void measure_rows(self, int l, bint back, cbp_panels delta, ptrdiff_t r0,
                           ptrdiff_t r1, ptrdiff_t first) noexcept nogil
    cdef void measure_units(self, int l, ptrdiff_t q, ptrdiff_t panel,
                            ptrdiff_t n_rows) noexcept nogil
    cdef void measure_patch(self, ptrdiff_t number, const void *G, const void *before,
                            const void *after, const void *v, ptrdiff_t n,
                            double epsilon) noexcept nogil
    cdef void end_batch(self, ptrdiff_t n_rows, double scale,
                        const double *weight_squares) noexcept nogil
    cdef void end_epoch(self, int64_t epoch) noexcept nogil
    cdef void _thin(self) noexcept nogil
    cdef dict arrays(self)
    cdef take(self, dict arrays, stride)
