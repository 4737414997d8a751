# Rows of data, declared: what is trained on, scored or predicted.
from libc.stdint cimport int32_t, int64_t

from cbp._kernels cimport cbp_csr, cbp_kernels, cbp_panels
from cbp._network cimport Network


cdef class CsrData:
    cdef object data, indices, indptr
    cdef str name                  # in errors
    cdef ptrdiff_t n_rows, n_cols
    cdef cbp_csr csr
    cdef _take_indptr(self, indptr, ptrdiff_t n_entries)
    cdef int check(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil
    cdef error(self, int fault)


cdef class Data:
    cdef readonly Network network
    cdef const cbp_kernels *k
    cdef ptrdiff_t size, n_rows, n_features, n_outputs
    cdef object _X, _target, _weight  # what the pointers below point to
    cdef const char *X             # (n_rows, n_features), NULL if sparse
    cdef CsrData sparse
    cdef const char *Y             # (n_rows, n_outputs), NULL if labels or sparse
    cdef CsrData sparse_Y          # the same as CSR, else None
    cdef const int32_t *labels     # (n_rows, n_labels), NULL if Y
    cdef ptrdiff_t n_labels        # of a row
    cdef const char *weight        # (n_rows,), NULL if all weigh 1
    cdef bint has_weightless       # whether a row weighs 0
    cdef bint wants_targets        # whether the loss reads a matrix, of labels too
    cdef _take_target(self, target)
    cdef _take_sparse_target(self, target)
    cdef bint _weights_are_sound(self) noexcept nogil
    cdef double row_weight(self, ptrdiff_t row) noexcept nogil
    cdef ptrdiff_t leave_out_weightless(self, const int64_t *rows, ptrdiff_t n,
                                        int64_t *kept) noexcept nogil
    cdef double sum_weights(self, const int64_t *rows, ptrdiff_t n,
                            double *room) noexcept nogil
    cdef void gather_inputs(self, const int64_t *rows, ptrdiff_t r0, ptrdiff_t r1,
                            cbp_panels A) noexcept nogil
    cdef void gather_targets(self, const int64_t *rows, ptrdiff_t r0, ptrdiff_t r1,
                             cbp_panels T, int32_t *labels,
                             char *weight) noexcept nogil
    cdef void _spread_targets(self, const int64_t *rows, ptrdiff_t n,
                              cbp_panels T) noexcept nogil


cdef checked_rows(rows, ptrdiff_t n_samples)
