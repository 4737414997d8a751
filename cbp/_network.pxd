# Backpropagation's network, declared: layers, their layout, and what training shares.
from libc.stdint cimport int32_t, int64_t

from cbp._kernels cimport cbp_csr, cbp_kernels, cbp_panels


cdef struct Layer:
    ptrdiff_t n_in
    ptrdiff_t n_out
    int activation         # of this layer; the output layer keeps z: identity
    # The master copy of the weights, which the step changes, is W or its transpose,
    # whichever wastes fewer columns on padding; the mirror is the other one.
    bint transposed
    bint mirrored
    ptrdiff_t n_lines      # lines of a master panel: n_in, transposed: n_out
    ptrdiff_t line_blocks  # blocks of P lines in them
    ptrdiff_t n_panels     # master panels
    ptrdiff_t n_blocks     # blocks of P x P weights: line_blocks * n_panels
    ptrdiff_t W_at         # place in the master layout, in items
    ptrdiff_t b_at
    cbp_panels W           # (n_in, n_out)
    cbp_panels WT          # (n_out, n_in)
    void *b                # n_out, padded
    cbp_panels A           # (batch, n_out) z, then a; output layer: z, then delta
    cbp_panels D           # (batch, n_out) delta


cdef class Network:
    cdef readonly tuple layer_sizes, activations, segments
    cdef readonly str output, loss
    cdef readonly object dtype
    cdef readonly object n_params
    cdef object _layers            # array of Layer, as bytes
    cdef Layer *layers
    cdef int n_layers, output_code, loss_code
    cdef readonly ptrdiff_t n_outputs
    cdef ptrdiff_t master_items    # of W and b in the master layout
    cdef ptrdiff_t mirror_items
    cdef const cbp_kernels *k
    cdef _predict_rows(self, theta, X, out, bint logits, bint finite)
    cdef _predict_packed(self, theta, X, out, bint logits, bint finite)
    cdef ptrdiff_t _packed_items(self)


cdef class CsrData:
    cdef object data, indices, indptr
    cdef cbp_csr csr


cdef aligned_zeros(n_items, dtype)


cdef inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple
