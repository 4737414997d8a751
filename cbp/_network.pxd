# The network, declared: what its layers are, and where their parameters lie in theta.
from cbp._kernels cimport cbp_groups, cbp_kernels, cbp_loss


# One layer, a = f(a_prev W + b).
cdef struct Dense:
    ptrdiff_t n_in
    ptrdiff_t n_out
    int activation     # the output layer keeps z: identity
    ptrdiff_t W        # where W, then b, begin in theta, in items
    ptrdiff_t b


cdef class Network:
    cdef readonly tuple layer_sizes, activations, segments, kind, loss_parameters
    cdef readonly tuple groups
    cdef readonly str output, loss
    cdef readonly object dtype
    cdef readonly object n_params
    cdef readonly ptrdiff_t n_outputs
    cdef ptrdiff_t widest          # units of the widest layer
    cdef object _layers            # array of Dense, as bytes
    cdef Dense *layers
    cdef int n_layers, output_code
    cdef object _parameters        # of the loss, as kernels read them
    cdef cbp_loss c_loss
    cdef object _starts            # of the groups of outputs
    cdef cbp_groups c_groups
    cdef ptrdiff_t n_labels        # of a row: one for each group
    cdef ptrdiff_t n_weights       # items of all W; in theta the biases begin there
    cdef const cbp_kernels *k
    cdef _describe(self)
    cdef _describe_loss(self)
    cdef _describe_groups(self)
