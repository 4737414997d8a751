# One batch, declared: what its rows need, and what its weights need.
from libc.stdint cimport int32_t, int64_t, uint64_t

from cbp._data cimport Data
from cbp._kernels cimport (
    CBP_MAX_STATES,
    cbp_columns,
    cbp_csr,
    cbp_drop,
    cbp_kernels,
    cbp_layer,
    cbp_panels,
    cbp_online,
    cbp_step,
)
from cbp._network cimport Network
from cbp._recorder cimport Recorder
from cbp._sums cimport Piece, Stack
from cbp._threads cimport Signals
from cbp._weights cimport Weights


cdef extern from "barrier.h" nogil:
    ctypedef struct cbp_barrier:
        pass
    ctypedef struct cbp_reached:
        pass


# Where the rows of a piece lie while it is in work.
cdef struct Buffers:
    # (piece, n_features) the inputs; one_row: 2 rows. Where every thread needs all of
    # them for its share of dW, each has its own copy, one behind the other: to gather
    # rows again is cheaper than to read them from another core's cache.
    cbp_panels A0
    ptrdiff_t A0_bytes         # from one thread's to the next; 0 if they share it
    cbp_columns columns        # the same rows of a sparse X, by columns
    cbp_panels T               # (piece, n_out) the targets
    int32_t *labels            # (piece, labels of a row)
    char *weight               # (piece,)
    double *row_loss           # (chunk,)
    char *scratch              # per thread
    ptrdiff_t scratch_items


# What is set to 0 at random; of hidden units their layers say it.
cdef struct Drops:
    cbp_drop inputs
    cbp_csr rows               # of the piece, if its rows are sparse; items dropped
    uint64_t first             # the number of the first step of a run
    uint64_t step              # that of the step that the batch leads to
    ptrdiff_t row              # of the batch, where the piece begins


cdef class Propagation:
    cdef readonly Recorder recorder
    cdef Network network
    cdef Weights weights
    cdef Data data
    cdef Signals signals
    cdef const cbp_kernels *k
    cdef cbp_layer *layers
    cdef int n_layers
    cdef ptrdiff_t P, size

    # How a batch is cut: chunks of at most CBP_CHUNK_ROWS rows, in pieces that are
    # propagated and summed one at a time, in stretches that go through all layers.
    cdef ptrdiff_t chunk_rows, piece_rows, stretch_rows
    cdef bint one_row
    # How threads share it.
    cdef int n_threads, most_threads  # at work; that can be of use at all
    cdef bint by_units             # the units of the hidden layer, not the rows
    cdef cbp_barrier barrier
    cdef cbp_reached *reached     # per thread, the rows of which others may go on

    # The piece in work.
    cdef Piece piece
    cdef bint watching, watching_rows  # is the batch measured; this piece of it?
    cdef Drops drops

    # Where its rows lie; A and D of the layers have theirs, too.
    cdef object _workspace
    cdef Buffers buffers

    cdef _choose_work(self, ptrdiff_t rows, int64_t n_threads, bint whole)
    cdef _choose_threads(self, int64_t n_threads, double work)
    cdef size_t _lay_out(self, size_t base, order)
    cdef size_t _lay_out_columns(self, size_t at, order)
    cdef void meet(self) noexcept nogil
    cdef void share_rows(self, int thread, ptrdiff_t *r0, ptrdiff_t *r1) noexcept nogil
    cdef void share_panels(self, int thread, int l, ptrdiff_t *q0,
                           ptrdiff_t *q1) noexcept nogil
    cdef _choose_drops(self, rates)
    cdef void set_seed(self, uint64_t seed) noexcept
    cdef void drop_inputs(self, int thread, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil
    cdef void _drop_items(self, const int64_t *order) noexcept nogil
    cdef void finish_layer(self, const cbp_layer *y, ptrdiff_t unit, ptrdiff_t r0,
                           ptrdiff_t r1) noexcept nogil
    cdef void scale_delta(self, const cbp_layer *y, ptrdiff_t r0,
                          ptrdiff_t r1) noexcept nogil
    cdef cbp_panels inputs(self, int thread) noexcept nogil
    cdef char *scratch_of(self, int thread) noexcept nogil
    cdef void gather(self, Data data, int thread, const int64_t *order, ptrdiff_t r0,
                     ptrdiff_t r1) noexcept nogil
    cdef void forward(self, Data data, int thread, const int64_t *order, ptrdiff_t r0,
                      ptrdiff_t r1, bint keeping) noexcept nogil
    cdef void propagate(self, int thread, const int64_t *order) noexcept nogil
    cdef void propagate_units(self, int thread, const int64_t *order) noexcept nogil
    cdef void compute_loss(self, Data data, int thread, ptrdiff_t start, ptrdiff_t r0,
                           ptrdiff_t r1) noexcept nogil
    cdef void backward(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil
    cdef void derive(self, cbp_layer *y, cbp_layer *below, ptrdiff_t r0,
                     ptrdiff_t r1) noexcept nogil
    cdef void _watch_backward(self, int l, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil


# How long a gradient may be, and how many have been shortened to that.
cdef struct Limit:
    double norm
    int64_t n_clipped


cdef class Batch(Propagation):
    cdef int solver                # -1: only sums are made, no step
    cdef cbp_step *steps           # one for each segment of theta: all W, then all b
    cdef bint fused                # the step follows each sum at once
    cdef object _memory, _state    # what the pointers below point to
    cdef Stack gradient
    cdef void *states[CBP_MAX_STATES]
    cdef int n_states
    cdef int second_moment         # the number of that vector; -1: there is none
    cdef double[::1] patch_squares  # sum of W^2 per patch, before the step
    cdef ptrdiff_t work_of_all     # of all panels, as threads share it

    # The batch in work: its rows, the sum of their weights, and of their costs.
    cdef const int64_t *order
    cdef ptrdiff_t rows
    cdef double weight_sum, loss
    cdef Limit limit

    cdef take_states(self, state)
    cdef ptrdiff_t _work_per_panel(self, int l) noexcept nogil
    cdef void begin(self, const int64_t *order, ptrdiff_t rows, double weight_sum,
                    bint watching) noexcept nogil
    cdef void run(self, int thread) noexcept nogil
    cdef double end(self) noexcept nogil
    cdef void run_one_row(self) noexcept nogil
    cdef void run_rows(self, cbp_online *rows) noexcept nogil
    cdef void _clip(self, int thread) noexcept nogil
    cdef void measure_gradient(self, double scale) noexcept nogil
    cdef void _begin_piece(self, ptrdiff_t start) noexcept nogil
    cdef void _run_piece(self, int thread, ptrdiff_t start) noexcept nogil
    cdef void _end_piece(self) noexcept nogil
    cdef double _penalty(self) noexcept nogil
    cdef void _update(self, int thread) noexcept nogil
    cdef void _update_layer(self, int thread, int l, ptrdiff_t first, ptrdiff_t p0,
                            ptrdiff_t p1, ptrdiff_t q0, ptrdiff_t q1, ptrdiff_t work,
                            ptrdiff_t begin, ptrdiff_t end) noexcept nogil
    cdef void _update_group(self, int thread, int l, ptrdiff_t first, ptrdiff_t p,
                            ptrdiff_t q, ptrdiff_t width) noexcept nogil
    cdef void _update_biases(self, int thread) noexcept nogil
    cdef void _sum_group(self, int thread, int l, ptrdiff_t p, ptrdiff_t q,
                         ptrdiff_t width, ptrdiff_t lines, cbp_panels G,
                         void *room) noexcept nogil
    cdef void _sum_sparse_patch(self, cbp_layer *y, ptrdiff_t p, ptrdiff_t q,
                                ptrdiff_t lines, void *G, void *room) noexcept nogil
    cdef void _step_patch(self, cbp_layer *y, ptrdiff_t p, ptrdiff_t q, ptrdiff_t lines,
                          ptrdiff_t number, const void *G, void *room) noexcept nogil
    cdef void _step_bias(self, int l, ptrdiff_t at, const void *g,
                         ptrdiff_t n) noexcept nogil
    cdef void set_rate(self, double eta, double decay, double scale) noexcept nogil
    cdef void _step_all(self, int thread) noexcept nogil
    cdef void _states_at(self, ptrdiff_t at, void **state) noexcept nogil
    cdef void _watch_units(self, int thread) noexcept nogil


cdef backpropagate(Batch batch, const int64_t *order, ptrdiff_t n_rows)
