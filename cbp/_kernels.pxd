# The fence to C, declared: the kernel table of cbp.h and how to get it.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "cbp.h" nogil:
    enum:
        CBP_BLOCK_ROWS
        CBP_CHUNK_ROWS
        CBP_GROUP_PANELS
        CBP_IDENTITY
        CBP_KEPT
        CBP_RELU
        CBP_N_BY_A
        CBP_N_SOFTMAX_LOSSES
        CBP_MAX_STATES
        CBP_MAX_PARAMETERS

    ctypedef struct cbp_pair:
        double hi
        double lo

    ctypedef struct cbp_panels:
        void *data
        ptrdiff_t stride

    ctypedef struct cbp_csr:
        const void *data
        const int32_t *indices
        const int64_t *indptr

    ctypedef struct cbp_columns:
        int64_t *start
        int32_t *row
        void *value

    ctypedef struct cbp_step:
        double eta
        double scale
        double alpha
        double decay
        double beta_1
        double beta_2
        double epsilon
        int nesterov

    ctypedef struct cbp_drop:
        uint64_t seed
        uint32_t layer
        uint32_t below
        double scale

    ctypedef struct cbp_layer:
        ptrdiff_t n_in
        ptrdiff_t n_out
        int activation
        bint transposed
        bint mirrored
        ptrdiff_t n_lines
        ptrdiff_t line_patches
        ptrdiff_t n_panels
        ptrdiff_t n_patches
        ptrdiff_t W_at
        ptrdiff_t b_at
        cbp_panels W
        cbp_panels WT
        void *b
        cbp_panels A
        cbp_panels S
        int slope
        double flat
        cbp_drop drop
        cbp_panels D

    ctypedef struct cbp_groups:
        ptrdiff_t n
        const ptrdiff_t *start

    ctypedef struct cbp_loss:
        int kind
        const void *parameters[2]
        const cbp_groups *groups

    ctypedef struct cbp_online:
        const cbp_layer *layers
        int n_layers
        int solver
        cbp_loss loss
        cbp_step step
        const double *eta
        const double *decay
        void *master
        void *state[2]
        const void *X
        const void *Y
        const int32_t *labels
        const void *weight
        const int64_t *order
        ptrdiff_t n_rows
        cbp_drop drop
        uint64_t first_step
        cbp_panels T
        void *inputs
        void *scratch
        double *patch_squares
        void *mean
        const double *share
        ptrdiff_t master_items
        double loss_sum
        double weight_sum
        double last_loss
        ptrdiff_t steps

    ctypedef struct cbp_kernels:
        const char *tier
        int itemsize
        int panel
        void (*gather_rows)(const void *, ptrdiff_t, const int64_t *, ptrdiff_t,
                            ptrdiff_t, cbp_panels) noexcept nogil
        int (*gather_finite)(const void *, ptrdiff_t, ptrdiff_t,
                             cbp_panels) noexcept nogil
        void (*scatter_rows)(cbp_panels, ptrdiff_t, ptrdiff_t, void *,
                             ptrdiff_t) noexcept nogil
        void (*fill_targets)(const int32_t *, ptrdiff_t, ptrdiff_t, const cbp_groups *,
                             cbp_panels) noexcept nogil
        void (*transpose_patch)(const void *, void *) noexcept nogil
        void (*gather_items)(const void *, const int64_t *, ptrdiff_t,
                             void *) noexcept nogil
        double (*item)(const void *, ptrdiff_t) noexcept nogil
        void (*add)(void *, const void *, ptrdiff_t) noexcept nogil
        void (*multiply_forward)(cbp_panels, ptrdiff_t, cbp_panels, const void *,
                                 cbp_panels, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                                 int) noexcept nogil
        void (*extend_forward)(cbp_panels, ptrdiff_t, cbp_panels, cbp_panels, ptrdiff_t,
                               ptrdiff_t, ptrdiff_t) noexcept nogil
        void (*multiply_forward_csr)(const cbp_csr *, const int64_t *, cbp_panels,
                                     const void *, cbp_panels, ptrdiff_t, ptrdiff_t,
                                     ptrdiff_t, int) noexcept nogil
        void (*multiply_delta)(cbp_panels, ptrdiff_t, cbp_panels, cbp_panels,
                               cbp_panels, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                               int) noexcept nogil
        void (*sum_gradient)(const void *, cbp_panels, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                             cbp_panels) noexcept nogil
        void (*sum_gradient_csr)(const cbp_columns *, ptrdiff_t, ptrdiff_t,
                                 const void *, void *) noexcept nogil
        void (*sum_columns)(const void *, ptrdiff_t, void *) noexcept nogil
        void (*transpose_csr)(const cbp_csr *, const int64_t *, ptrdiff_t, ptrdiff_t,
                              const cbp_columns *) noexcept nogil
        void (*activate)(void *, ptrdiff_t, int) noexcept nogil
        void (*multiply_derivative)(void *, const void *, ptrdiff_t, int) noexcept nogil
        void (*keep_slope)(cbp_panels, cbp_panels, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                           int) noexcept nogil
        void (*drop)(cbp_panels, cbp_panels, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                     ptrdiff_t, const cbp_drop *, uint64_t) noexcept nogil
        void (*drop_items)(void *, const int32_t *, ptrdiff_t, ptrdiff_t,
                           const cbp_drop *, uint64_t) noexcept nogil
        void (*scale)(void *, ptrdiff_t, double) noexcept nogil
        void (*count_dropped)(const void *, ptrdiff_t, int32_t *) noexcept nogil
        void (*apply_output)(cbp_panels, ptrdiff_t, ptrdiff_t, ptrdiff_t, int,
                             const cbp_groups *, void *) noexcept nogil
        void (*compute_loss)(cbp_panels, cbp_panels, const int32_t *, const void *,
                             ptrdiff_t, ptrdiff_t, ptrdiff_t, const cbp_loss *,
                             double *, void *) noexcept nogil
        void (*compute_loss_row)(void *, const void *, const int32_t *, const void *,
                                 ptrdiff_t, const cbp_loss *, double *,
                                 void *) noexcept nogil
        double (*step[2])(void *, const void *, void **, ptrdiff_t,
                          const cbp_step *) noexcept nogil
        void (*average)(void *, const void *, ptrdiff_t, double) noexcept nogil
        void (*train_rows)(cbp_online *) noexcept nogil
        void (*forward_row)(const void *, ptrdiff_t, const void *, ptrdiff_t,
                            ptrdiff_t, const void *, ptrdiff_t, void *,
                            int) noexcept nogil
        int (*all_finite)(const void *, ptrdiff_t) noexcept nogil
        void (*map)(int, const void *, void *, ptrdiff_t) noexcept nogil
        double (*sum_squares)(const void *, ptrdiff_t) noexcept nogil
        double (*sum_penalized_squares)(const void *, const void *, ptrdiff_t,
                                        double) noexcept nogil
        double (*sum_squared_change)(const void *, const void *,
                                     ptrdiff_t) noexcept nogil
        ptrdiff_t (*count_below)(const void *, ptrdiff_t, double) noexcept nogil
        void (*count_saturated)(const void *, ptrdiff_t, int, double,
                                int32_t *) noexcept nogil

    const int cbp_n_states[2]
    const double cbp_flat[]


# The table of the tier in use for items of 4 or 8 bytes.
cdef const cbp_kernels *kernels(int itemsize) noexcept nogil

# x^y, products of such, and x^0 ... x^(n - 1): the same bits on every platform.
cdef cbp_pair power_pair(double x, double y) noexcept nogil
cdef cbp_pair product(cbp_pair a, cbp_pair b) noexcept nogil
cpdef double cosine(double x) noexcept nogil
cpdef double power(double x, double y) noexcept nogil
cdef void powers(double x, ptrdiff_t n, double *out) noexcept nogil

# The first byte of a C-contiguous array that this package has made. The caller keeps
# the array alive.
cdef const void *address(object array) except? NULL
cdef void *writable_address(object array) except? NULL

# The same for an array that came from outside, or a ValueError that calls it `name`: it
# must be C-contiguous, aligned, of floats of `itemsize` bytes in native byte order,
# with `ndim` axes of these lengths; a negative length is any, and is filled in.
cdef const void *floats(object array, str name, int itemsize, int ndim,
                        ptrdiff_t *shape) except? NULL
cdef void *writable_floats(object array, str name, int itemsize, int ndim,
                           ptrdiff_t *shape) except? NULL
