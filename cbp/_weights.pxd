# Parameters as panels, declared: their layout, and the memory they lie in.
from libc.stdint cimport int64_t

from cbp._kernels cimport cbp_csr, cbp_kernels, cbp_layer, cbp_panels
from cbp._network cimport Network


cdef class Layout:
    cdef readonly Network network
    cdef const cbp_kernels *k
    cdef ptrdiff_t P, size         # columns of a panel, bytes of an item
    cdef object _layers            # array of cbp_layer, as bytes
    cdef cbp_layer *layers
    cdef object _memory            # that the layers point to
    cdef int n_layers
    cdef ptrdiff_t master_items, mirror_items
    cdef ptrdiff_t n_patches       # of all layers
    cdef _describe(self)
    cdef ptrdiff_t panels(self, int l) noexcept nogil


cdef class Weights(Layout):
    cdef char *master
    # The mean of master over steps, which then is what is stored and scored, or NULL.
    cdef char *mean
    cdef double mean_share         # of the next step in it
    cdef char *patch               # room for one
    cdef start_mean(self)
    cdef void average(self, int part, int n_parts) noexcept nogil
    cdef void swap_mean(self) noexcept nogil
    cdef void load(self, const void *theta) noexcept nogil
    cdef void store(self, void *theta) noexcept nogil
    cdef void flatten(self, const char *G, char *out, void *scratch) noexcept nogil
    cdef void _mirror(self, cbp_layer *y) noexcept nogil


cdef load_forward(Layout layout, const void *theta)


cdef aligned_zeros(n_items, dtype)


cdef aligned_empty(n_items, dtype)


cdef inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple


cdef inline ptrdiff_t master_stride(const cbp_layer *y) noexcept nogil:
    """Items from one panel of the master copy to the next."""
    return y.WT.stride if y.transposed else y.W.stride


cdef inline ptrdiff_t patch_at(const cbp_layer *y, ptrdiff_t P, ptrdiff_t p,
                               ptrdiff_t q) noexcept nogil:
    """Where patch p of master panel q of a layer lies in the master layout."""
    return y.W_at + q * master_stride(y) + p * P * P


cdef inline ptrdiff_t patch_lines(const cbp_layer *y, ptrdiff_t P,
                                  ptrdiff_t p) noexcept nogil:
    """Lines of patch p that hold weights."""
    return min(P, y.n_lines - p * P)


cdef inline void mirror_patch(const cbp_kernels *k, const cbp_layer *y, ptrdiff_t p,
                              ptrdiff_t q) noexcept nogil:
    """Patch (p, q) of the master copy, transposed into patch (q, p) of the mirror."""
    cdef ptrdiff_t P = k.panel, size = k.itemsize
    cdef const char *master = <const char *>(y.WT.data if y.transposed else y.W.data)
    cdef char *mirror = <char *>(y.W.data if y.transposed else y.WT.data)
    cdef ptrdiff_t stride = y.W.stride if y.transposed else y.WT.stride
    k.transpose_patch(master + (q * master_stride(y) + p * P * P) * size,
                      mirror + (p * stride + q * P * P) * size)


cdef inline void forward_layer(const cbp_kernels *k, const cbp_layer *y,
                               const cbp_csr *csr, const int64_t *rows, cbp_panels A,
                               cbp_panels Z, ptrdiff_t r0, ptrdiff_t r1,
                               int activation) noexcept nogil:
    """(1.1), (1.2) for rows r0 .. r1 - 1: Z = f(A W + b). A first layer whose input is
    sparse reads those rows of csr, not A; csr is NULL for all others."""
    if csr != NULL:
        k.multiply_forward_csr(csr, rows, y.W, y.b, Z, y.n_out, r0, r1, activation)
    else:
        k.multiply_forward(A, y.n_in, y.W, y.b, Z, y.n_out, r0, r1, activation)
