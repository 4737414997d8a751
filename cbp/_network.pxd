# Backpropagation's network, declared: its layers, and what training shares.
from libc.stdint cimport int32_t, int64_t

from cbp._kernels cimport cbp_csr, cbp_kernels, cbp_layer


cdef enum:
    # Rows of a large batch that are propagated and summed before the next ones.
    PIECE_ROWS = 256
    # Partial sums of a gradient kept beside it then: as many as a number below
    # CBP_CHUNK_ROWS / PIECE_ROWS has bits.
    PIECE_PARTS = 3


cdef class CsrData


cdef class Network:
    cdef readonly tuple layer_sizes, activations, segments, kind
    cdef readonly str output, loss
    cdef readonly object dtype
    cdef readonly object n_params
    cdef object _layers            # array of cbp_layer, as bytes
    cdef cbp_layer *layers
    cdef int n_layers, output_code, loss_code
    cdef readonly ptrdiff_t n_outputs
    cdef ptrdiff_t master_items    # of W and b in the master layout
    cdef ptrdiff_t mirror_items
    cdef ptrdiff_t biases_at       # where they begin in theta
    cdef ptrdiff_t widest          # items of the widest layer, padded
    cdef const cbp_kernels *k
    cdef _describe_segments(self)
    cdef _describe_layers(self)
    cdef _predict_rows(self, const void *theta, const void *x, ptrdiff_t n_rows, out,
                       bint logits, bint finite)
    cdef _predict_packed(self, const void *theta, const void *x, CsrData sparse,
                         ptrdiff_t n_rows, list shown, bint logits, bint finite)
    cdef ptrdiff_t _packed_items(self)


cdef class CsrData:
    cdef object data, indices, indptr
    cdef ptrdiff_t n_rows, n_cols
    cdef cbp_csr csr
    cdef _take_indptr(self, indptr, ptrdiff_t n_entries)
    cdef int check(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil
    cdef error(self, int fault)


cdef aligned_zeros(n_items, dtype)


cdef inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple
