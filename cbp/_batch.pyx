"""One batch of backpropagation: forward, loss, backward, sums, step; shared by threads.

A batch is two phases. `Propagation`: every thread takes its rows forward and backward
through all layers. `Batch` adds what follows once all deltas are known: every thread
sums the gradients of its patches of weights and steps them. With a single hidden layer
threads may share its units instead, in both phases. Nothing here knows an epoch, and no
dtype (src_c/kernels.h). The equations in comments are those of docs/backpropagation.md.
"""

import numpy as np

from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cbp._kernels cimport (
    CBP_CHUNK_ROWS,
    CBP_GROUP_PANELS,
    CBP_IDENTITY,
    CBP_KEPT,
    CBP_RELU,
    address,
    cbp_n_states,
    writable_address,
)
from cbp._sums cimport join, part, piece_at, stands_apart, sum_in_order
from cbp._weights cimport (
    Layout,
    aligned_zeros,
    forward_layer,
    master_stride,
    mirror_patch,
    patch_at,
    patch_lines,
    round_up,
)

from cbp._catalog import SOLVER_NAMES
from cbp._data import most_entries
from cbp._kernels import OPTIMIZERS, isa


cdef extern from "barrier.h" nogil:
    void cbp_barrier_wait(cbp_barrier *barrier, int n_threads)
    void cbp_report(cbp_reached *reached, ptrdiff_t rows)
    void cbp_await(cbp_reached *reached, ptrdiff_t rows)


cdef enum:
    # Rows of a large batch that are propagated and summed before the next ones.
    PIECE_ROWS = 256
    # Partial sums of a gradient kept beside it then: as many as a number below
    # CBP_CHUNK_ROWS / PIECE_ROWS has bits.
    PIECE_PARTS = 3
    # Bytes of a gradient of which a few copies do not crowd out of the caches what its
    # pieces are there to keep in them.
    DIVIDED_BYTES = 1 << 20
    # Rows that one thread takes through all layers before the next ones: their
    # activations stay in the L2 cache.
    MAX_STRETCH_ROWS = 256
    # Rows that go from thread to thread at a time where these share units: 64-100-10 at
    # batch 200 in float32 1.25 times one thread's speed, 24 rows 1.17, 208 rows 1.13.
    UNIT_ROWS = 64
    # The most that all threads' copies of a batch's inputs may take.
    OWN_INPUTS_BYTES = 1 << 23

# Products of a batch (multiply-adds counted twice), in bytes, that occupy one more
# thread which shares rows, or units: with less, to read what the other has written
# costs what the thread saves. Rows: 64-100-10, batch 200, 36e6 in float32: 0.94 times
# one thread's speed; twice that in float64: 1.07 to 1.19. Units: 20-100-2, batch 200,
# 11e6: 1.01 times; 64-64-10, 23e6: 1.14.
cdef double ROWS_PER_THREAD = 2e7
cdef double UNITS_PER_THREAD = 1e7
# Inputs with which a panel of units that one thread has more than another costs as much
# as the weights that are not exchanged: 256-100-10 at batch 200 gains 2 % by units,
# 784-100-10 loses 5.
cdef double UNEVEN_INPUTS = 50
# The most work that one look for signals can be late by.
cdef double FLOPS_PER_STRETCH = 1e9
cdef double FLOPS_PER_STRETCH_SCALAR = 1e7


def divides(Layout layout not None, ptrdiff_t batch_size):
    """Whether gradients of a dense batch are summed PIECE_ROWS rows at a time, those
    just propagated, before they leave the caches. Never changes a bit.

    64-100-10, float64: an evaluation of 1797 rows takes 673 us instead of 825, Adam at
    batch 2000 is 1.18 times as fast; at 500 nothing is gained.
    """
    return batch_size > 2 * PIECE_ROWS and (
        layout.master_items * layout.size <= DIVIDED_BYTES
    )


def fit_bytes(Network network not None, batch_size, solver, sparse=False, clips=False,
              averages=False, drops=False, entries=0, drops_entries=False):
    """Bytes that a `Trainer` allocates beside theta and the data.

    Parameters
    ----------
    network : Network
    batch_size : int
    solver : str
        One of `SOLVER_NAMES`.
    sparse : bool, default=False
        Whether X is a CSR matrix.
    clips, averages, drops : bool, default=False
        Whether the gradient's norm has a limit; whether the weights' mean is kept;
        whether there is dropout.
    entries : int, default=0
        `most_entries` of the rows of a sparse X.
    drops_entries : bool, default=False
        Whether there is dropout of them.

    Returns
    -------
    int
    """
    cdef Layout layout = Layout(network)
    cdef int l
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if solver not in SOLVER_NAMES:
        raise ValueError(f"solver {solver!r}; valid: {[*SOLVER_NAMES]}")
    # Enough for any machine, and not too large for C.
    divided = not sparse and divides(layout, min(batch_size, 2**62))
    rows = min(int(batch_size), PIECE_ROWS if divided else CBP_CHUNK_ROWS) + 17
    sizes = network.layer_sizes
    per_row = 2 * sum([n + 16 for n in sizes[1:]]) + sizes[0] + network.n_outputs + 32
    per_row += network.n_labels
    for l in range(network.n_layers):
        if layout.layers[l].slope == CBP_KEPT or drops:
            per_row += sizes[l + 1] + 16
    copies = 1 + (cbp_n_states[OPTIMIZERS[solver]] if solver in OPTIMIZERS else 1)
    if solver in OPTIMIZERS and (batch_size > CBP_CHUNK_ROWS or divided or clips):
        copies += 1
    copies += averages + (PIECE_PARTS if divided else 0)
    items = copies * layout.master_items + layout.mirror_items + rows * per_row
    n_bytes = items * network.dtype.itemsize
    if sparse:
        n_bytes += 8 * (sizes[0] + 1)
        n_bytes += (1 + drops_entries) * entries * (network.dtype.itemsize + 4)
    return n_bytes


# ---- phase 1: rows ------------------------------------------------------------------

cdef class Propagation:
    """Rows of data forward and backward through a network, by several threads.

    Parameters
    ----------
    weights : Weights
    data : Data
    signals : Signals
    order : int64 ndarray
        All rows that batches are made of.
    batch_size : int
    n_threads : int
        Fewer are used when a batch has no work for them.
    solver : int
        An optimizer's number, or -1 where only sums are made.
    max_norm : float
        What the gradient's norm is at most where weights are stepped; infinite where
        nothing limits it. To know it, a step waits for all sums.
    rates : sequence of float
        Dropout: of the inputs and of every hidden layer, or empty.
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, Weights weights not None, Data data not None,
                  Signals signals not None, order, ptrdiff_t batch_size,
                  int64_t n_threads, int solver, double max_norm, rates):
        self.weights, self.data, self.signals = weights, data, signals
        self.network, self.k, self.layers = weights.network, weights.k, weights.layers
        self.n_layers, self.P, self.size = weights.n_layers, weights.P, weights.size
        self._choose_work(batch_size, n_threads, solver < 0 or max_norm < INFINITY)
        self._choose_drops(rates)
        # Measured first with no base, then laid out.
        self._workspace = np.zeros(self._lay_out(0, order) + 64, "u1")
        self._lay_out(<size_t>writable_address(self._workspace), order)

    cdef _choose_work(self, ptrdiff_t rows, int64_t n_threads, bint whole):
        cdef double limit = FLOPS_PER_STRETCH, weights = self.network.n_weights
        self.chunk_rows = self.piece_rows = min(rows, <ptrdiff_t>CBP_CHUNK_ROWS)
        if self.data.sparse is None and divides(self.weights, rows):
            self.piece_rows = PIECE_ROWS
        self.one_row = rows == 1 and self.data.sparse is None and not whole
        self._choose_threads(n_threads, 6.0 * weights * self.chunk_rows * self.size)
        if isa() == "scalar":
            limit = FLOPS_PER_STRETCH_SCALAR
        lines = min(limit / (4.0 * weights) / self.P, MAX_STRETCH_ROWS / self.P)
        self.stretch_rows = max(1, int(lines)) * self.P

    cdef _choose_threads(self, int64_t n_threads, double work):
        """How many threads are of use, and whether they share units or rows."""
        panels = self.weights.panels(0)
        by_units = min(panels, int(work / UNITS_PER_THREAD))
        # P rows of a piece are the least that a thread takes.
        by_rows = min(self.piece_rows // self.P, int(work / ROWS_PER_THREAD))
        self.most_threads = max(1, by_units, by_rows)
        most = min(n_threads, by_units)
        n_features = self.data.n_features
        if most > 1 and self.n_layers == 2 and not self.one_row:
            size = round_up(n_features, self.P) * self.size
            size *= round_up(self.piece_rows, 16) + 1
            self.by_units = (
                2 * self.weights.panels(1) <= panels
                and (most - panels % most) % most * n_features <= UNEVEN_INPUTS * panels
                and (self.data.sparse is not None or most * size <= OWN_INPUTS_BYTES)
            )
        if not self.by_units:
            most = min(n_threads, by_rows)
        self.n_threads = max(1, most)

    cdef _choose_drops(self, rates):
        """Units are dropped by 16 random bits each; those that stay are scaled by what
        this comes to, not by the rate."""
        cdef cbp_layer *y
        cdef int l
        if not len(rates):
            return
        if len(rates) != self.n_layers or not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"{self.n_layers} rates of dropout in [0, 1) are needed, "
                             f"got {rates!r}")
        drops = [max(rate > 0, min(65535, round(rate * 65536))) for rate in rates]
        self.drops.inputs.below = drops[0]
        self.drops.inputs.scale = 65536.0 / (65536 - drops[0])
        for l in range(self.n_layers - 1):
            y = &self.layers[l]
            y.drop.below, y.drop.layer = drops[l + 1], l + 1
            y.drop.scale = 65536.0 / (65536 - drops[l + 1])
            # What is left of a says the slope of ReLU as it did before; it is fused.
            if y.drop.below and y.activation != CBP_RELU:
                y.slope = CBP_KEPT
                y.flat *= y.drop.scale

    cdef void set_seed(self, uint64_t seed) noexcept:
        cdef int l
        self.drops.inputs.seed = seed
        for l in range(self.n_layers):
            self.layers[l].drop.seed = seed

    cdef size_t _lay_out(self, size_t base, order):
        """Places every buffer of one batch from base on; returns the bytes needed."""
        cdef size_t at = round_up(base, 64), start = base
        cdef ptrdiff_t P = self.P, lines, n_out = self.network.n_outputs
        cdef int l
        cdef cbp_layer *y
        # An odd number of lines per panel, see Layout; a single row lies contiguous.
        lines = 1 if self.one_row else round_up(self.piece_rows, 16) + 1

        self.buffers.A0.stride = lines * P
        self.buffers.A0.data = <void *>at
        if self.data.sparse is None:
            size = round_up(self.data.n_features, P) * lines * self.size
            size *= 1 + self.one_row
            y = &self.layers[0]
            own = y.n_panels > CBP_GROUP_PANELS and not y.transposed
            own = self.by_units or own and self.n_threads * size <= OWN_INPUTS_BYTES
            self.buffers.A0_bytes = size if own else 0
            at += self.n_threads * size if own else size
        for l in range(self.n_layers):
            y = &self.layers[l]
            y.A.stride = y.D.stride = lines * P
            y.A.data = y.D.data = <void *>at
            at += round_up(y.n_out, P) * lines * self.size
            if l < self.n_layers - 1:
                y.D.data = <void *>at
                at += round_up(y.n_out, P) * lines * self.size
            y.S = y.A
            if y.slope == CBP_KEPT:
                y.S.data = <void *>at
                at += round_up(y.n_out, P) * lines * self.size
        self.reached = <cbp_reached *>at
        at += self.n_threads * sizeof(cbp_reached)
        self.buffers.T.stride = lines * P
        self.buffers.T.data = <void *>at
        if self.data.wants_targets:
            at += round_up(n_out, P) * lines * self.size
        at += P * P * self.size  # compute_loss reads whole patches of P rows
        # compute_loss needs the former, a group of gradients and a patch the latter.
        self.buffers.scratch_items = P * max(2 * round_up(n_out, P),
                                             (CBP_GROUP_PANELS + 1) * P)
        self.buffers.scratch = <char *>at
        at += self.n_threads * self.buffers.scratch_items * self.size
        self.buffers.weight = <char *>at
        at += round_up(self.piece_rows, P) * self.size
        self.buffers.labels = <int32_t *>at
        at += round_up(self.piece_rows, 16) * self.network.n_labels * sizeof(int32_t)
        self.buffers.row_loss = <double *>at
        at += round_up(self.chunk_rows, 16) * sizeof(double)
        if self.data.sparse is not None:
            at = self._lay_out_columns(at, order)
        return at - start

    cdef size_t _lay_out_columns(self, size_t at, order):
        """The columns of a sparse batch, as large as the fullest rows could make it."""
        entries = most_entries(np.diff(self.data.sparse.indptr)[order], self.chunk_rows)
        at = round_up(at, 64)
        self.buffers.columns.start = <int64_t *>at
        at += (self.data.n_features + 1) * sizeof(int64_t)
        at = round_up(at, 64)
        self.buffers.columns.value = <void *>at
        at += entries * self.size
        self.buffers.columns.row = <int32_t *>at
        at += entries * sizeof(int32_t)
        if self.drops.inputs.below:
            at = round_up(at, 64)
            self.drops.rows.indptr = <const int64_t *>at
            at += (self.chunk_rows + 1) * sizeof(int64_t)
            self.drops.rows.data = <const void *>at
            at += entries * self.size
            self.drops.rows.indices = <const int32_t *>at
            at += entries * sizeof(int32_t)
        return at

    cdef void meet(self) noexcept nogil:
        """Returns when all threads are here."""
        cbp_barrier_wait(&self.barrier, self.n_threads)

    cdef void share_rows(self, int thread, ptrdiff_t *r0,
                         ptrdiff_t *r1) noexcept nogil:
        """A thread's rows of the piece: whole groups of P, no line is shared."""
        cdef ptrdiff_t rows = self.piece.rows, groups = round_up(rows, self.P) // self.P
        r0[0] = min(groups * thread // self.n_threads * self.P, rows)
        r1[0] = min(groups * (thread + 1) // self.n_threads * self.P, rows)

    cdef void share_panels(self, int thread, int l, ptrdiff_t *q0,
                           ptrdiff_t *q1) noexcept nogil:
        """A thread's panels of units of layer l; the last thread has no more than any
        other."""
        cdef ptrdiff_t n = self.weights.panels(l), T = self.n_threads
        q0[0], q1[0] = (n * thread + T - 1) // T, (n * (thread + 1) + T - 1) // T

    cdef cbp_panels inputs(self, int thread) noexcept nogil:
        """Where a thread finds the inputs of the piece."""
        cdef cbp_panels A = self.buffers.A0
        A.data = <char *>A.data + thread * self.buffers.A0_bytes
        return A

    cdef char *scratch_of(self, int thread) noexcept nogil:
        return self.buffers.scratch + thread * self.buffers.scratch_items * self.size

    cdef void gather(self, Data data, int thread, const int64_t *order, ptrdiff_t r0,
                     ptrdiff_t r1) noexcept nogil:
        """The rows of X, y and the weights that `order` names."""
        data.gather_inputs(order, r0, r1, self.inputs(thread))
        data.gather_targets(order, r0, r1, self.buffers.T, self.buffers.labels,
                            self.buffers.weight)

    cdef void drop_inputs(self, int thread, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """Dropout of rows of the piece just gathered."""
        cdef cbp_panels none
        none.data, none.stride = NULL, 0
        if self.drops.inputs.below and self.data.sparse is None and r0 < r1:
            self.k.drop(self.inputs(thread), none, self.data.n_features, 0, r0, r1,
                        self.drops.row + r0, &self.drops.inputs, self.drops.step)

    cdef void _drop_items(self, const int64_t *order) noexcept nogil:
        """The sparse rows of the piece one after the other, items dropped."""
        cdef const cbp_csr *X = &self.data.sparse.csr
        cdef int64_t *indptr = <int64_t *>self.drops.rows.indptr
        cdef int32_t *indices = <int32_t *>self.drops.rows.indices
        cdef char *values = <char *>self.drops.rows.data
        cdef int64_t first
        cdef ptrdiff_t r, n
        indptr[0] = 0
        for r in range(self.piece.rows):
            first = X.indptr[order[r]]
            n = X.indptr[order[r] + 1] - first
            memcpy(indices, X.indices + first, n * sizeof(int32_t))
            memcpy(values, <char *>X.data + first * self.size, n * self.size)
            # After an interrupt nobody uses them; but places must be right.
            if not self.signals.interrupted():
                self.k.drop_items(values, indices, n, self.drops.row + r,
                                  &self.drops.inputs, self.drops.step)
                self.signals.poll(200.0 * n)
            indptr[r + 1] = indptr[r] + n
            indices += n
            values += n * self.size

    cdef void finish_layer(self, const cbp_layer *y, ptrdiff_t unit, ptrdiff_t r0,
                           ptrdiff_t r1) noexcept nogil:
        """What is left of (1.2) in training: where slopes are kept z -> a and f'(z);
        dropout of both. unit: the number of the first one."""
        if y.slope == CBP_KEPT:
            self.k.keep_slope(y.A, y.S, y.n_out, r0, r1, y.activation)
        if y.drop.below:
            self.k.drop(y.A, y.S, y.n_out, unit, r0, r1, self.drops.row + r0, &y.drop,
                        self.drops.step)

    cdef void forward(self, Data data, int thread, const int64_t *order, ptrdiff_t r0,
                      ptrdiff_t r1, bint training) noexcept nogil:
        """(1.1), (1.2): a^l = f(a^{l-1} W^l + b^l); the output layer keeps z. training:
        with dropout, and slopes that `backward` cannot read from a are kept."""
        cdef int l, activation
        cdef cbp_layer *y
        cdef cbp_panels A = self.inputs(thread)
        cdef const cbp_csr *csr = NULL
        if data.sparse is not None:
            csr = &data.sparse.csr
        if training and self.drops.inputs.below:
            if csr == NULL:
                self.drop_inputs(thread, r0, r1)
            else:
                csr, order = &self.drops.rows, NULL
        for l in range(self.n_layers):
            y = &self.layers[l]
            activation = y.activation
            if training and y.slope == CBP_KEPT:
                activation = CBP_IDENTITY
            if self.one_row and csr == NULL:
                self.k.forward_row(A.data, y.n_in, y.W.data, y.W.stride, self.P, y.b,
                                   y.n_out, y.A.data, activation)
            else:
                forward_layer(self.k, y, csr, order, A, y.A, r0, r1, activation)
            if training:
                self.finish_layer(y, 0, r0, r1)
            csr, A = NULL, y.A

    cdef void propagate(self, int thread, const int64_t *order) noexcept nogil:
        """Forward and backward for this thread's rows, through all layers."""
        cdef ptrdiff_t r0, r, r1, end
        self.share_rows(thread, &r0, &r1)
        r = r0
        while r < r1 and not self.signals.interrupted():
            end = min(r + self.stretch_rows, r1)
            self.gather(self.data, thread, order, r, end)
            self.forward(self.data, thread, order, r, end, True)
            self.compute_loss(self.data, thread, self.piece.start, r, end)
            self.backward(r, end)
            if thread == 0:
                self.signals.poll(4.0 * self.network.n_weights * (end - r))
            r = end
        if self.buffers.A0_bytes:
            self.data.gather_inputs(order, 0, r0, self.inputs(thread))
            self.data.gather_inputs(order, r1, self.piece.rows, self.inputs(thread))
            self.drop_inputs(thread, 0, r0)
            self.drop_inputs(thread, r1, self.piece.rows)

    cdef void propagate_units(self, int thread, const int64_t *order) noexcept nogil:
        """Forward and backward of all rows for this thread's hidden units.

        The chains of the output layer's z go from thread to thread, some rows at a
        time; the last thread computes the cost. A thread reads what others have written
        only in the output layer: z, then delta.
        """
        cdef cbp_layer y = self.layers[0], above = self.layers[1]
        cdef cbp_panels A0 = self.inputs(thread)
        cdef const cbp_csr *csr = NULL
        cdef ptrdiff_t q0, q1, r, end, P = self.P, last = self.n_threads - 1
        cdef ptrdiff_t rows = min(<ptrdiff_t>UNIT_ROWS, self.stretch_rows)
        cdef double flops = 2.0 * self.network.n_weights / self.n_threads
        cdef const int64_t *rows_of = order
        if self.data.sparse is not None:
            csr = &self.data.sparse.csr
        if csr != NULL and self.drops.inputs.below:
            csr, rows_of = &self.drops.rows, NULL
        # Both layers as if there were no other hidden units.
        self.share_panels(thread, 0, &q0, &q1)
        y.n_out = above.n_in = min(q1 * P, y.n_out) - q0 * P
        y.W.data = <char *>y.W.data + q0 * y.W.stride * self.size
        y.b = <char *>y.b + q0 * P * self.size
        y.A.data = <char *>y.A.data + q0 * y.A.stride * self.size
        y.D.data = <char *>y.D.data + q0 * y.D.stride * self.size
        y.S.data = <char *>y.S.data + q0 * y.S.stride * self.size
        above.W.data = <char *>above.W.data + q0 * P * P * self.size
        above.WT.data = <char *>above.WT.data + q0 * above.WT.stride * self.size
        r = 0
        while r < self.piece.rows and not self.signals.interrupted():
            end = min(r + rows, self.piece.rows)
            if thread == last:
                self.gather(self.data, thread, order, r, end)
            else:
                self.data.gather_inputs(order, r, end, A0)
            self.drop_inputs(thread, r, end)
            forward_layer(self.k, &y, csr, rows_of, A0, y.A, r, end,
                          CBP_IDENTITY if y.slope == CBP_KEPT else y.activation)
            self.finish_layer(&y, q0 * P, r, end)
            if thread == 0:
                forward_layer(self.k, &above, NULL, order, y.A, above.A, r, end,
                              CBP_IDENTITY)
            else:
                cbp_await(&self.reached[thread - 1], end)
                # After an interrupt a thread reports all rows without having waited, so
                # its sums must not be read. The word comes with the report.
                if self.signals.interrupted():
                    break
                self.k.extend_forward(y.A, above.n_in, above.W, above.A, above.n_out,
                                      r, end)
            if thread == last:
                self.compute_loss(self.data, thread, self.piece.start, r, end)
            # Before the report: nobody steps until thread 0 has reported all rows, and
            # then all know whether it was interrupted.
            if thread == 0:
                self.signals.poll(flops * (end - r))
            cbp_report(&self.reached[thread], end)
            r = end
        r = 0
        while r < self.piece.rows and not self.signals.interrupted():
            end = min(r + rows, self.piece.rows)
            cbp_await(&self.reached[last], end)
            self.k.multiply_delta(above.D, above.n_out, above.WT, y.S, y.D, y.n_out, r,
                                  end, y.slope)
            self.scale_delta(&y, r, end)
            if thread == 0:
                self.signals.count(flops * (end - r))
            r = end
        # Nobody must wait for a thread that was interrupted.
        cbp_report(&self.reached[thread], self.piece.rows)

    cdef void compute_loss(self, Data data, int thread, ptrdiff_t start, ptrdiff_t r0,
                           ptrdiff_t r1) noexcept nogil:
        """(2.5): the cost of each row, and delta^L where z^L was. start: the place of
        row 0 in the chunk."""
        cdef cbp_layer *y = &self.layers[self.n_layers - 1]
        cdef void *weight = self.buffers.weight if data.weight != NULL else NULL
        if self.one_row:
            self.k.compute_loss_row(
                y.D.data, self.buffers.T.data, self.buffers.labels, weight, y.n_out,
                &self.network.c_loss, self.buffers.row_loss, self.scratch_of(thread)
            )
        else:
            self.k.compute_loss(
                y.D, self.buffers.T, self.buffers.labels, weight, y.n_out, r0, r1,
                &self.network.c_loss, self.buffers.row_loss + start,
                self.scratch_of(thread)
            )

    cdef void backward(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """(3.7): delta^l = (delta^{l+1} W^{l+1}T) * f'(z^l), last layer first."""
        cdef int l
        cdef cbp_layer *y
        cdef cbp_layer *below
        for l in range(self.n_layers - 1, 0, -1):
            y, below = &self.layers[l], &self.layers[l - 1]
            if self.watching_rows:
                self._watch_backward(l, r0, r1)
            else:
                self.k.multiply_delta(y.D, y.n_out, y.WT, below.S, below.D, y.n_in,
                                      r0, r1, below.slope)
                self.scale_delta(below, r0, r1)
        if self.watching_rows:
            self.recorder.measure_rows(0, False, self.layers[0].D, r0, r1,
                                       self.piece.start)

    cdef void scale_delta(self, const cbp_layer *y, ptrdiff_t r0,
                          ptrdiff_t r1) noexcept nogil:
        """Dropout's factor of delta, where no slope is kept that has it in it."""
        cdef ptrdiff_t p
        if y.drop.below and y.slope != CBP_KEPT:
            for p in range(round_up(y.n_out, self.P) // self.P):
                self.k.scale(<char *>y.D.data
                             + (p * y.D.stride + r0 * self.P) * self.size,
                             (r1 - r0) * self.P, y.drop.scale)

    cdef void derive(self, cbp_layer *y, cbp_layer *below, ptrdiff_t r0,
                     ptrdiff_t r1) noexcept nogil:
        """The other factor of (3.7), apart: delta^l *= f'(z^l)."""
        cdef ptrdiff_t p, at
        for p in range(round_up(y.n_in, self.P) // self.P):
            at = (p * below.D.stride + r0 * self.P) * self.size
            self.k.multiply_derivative(<char *>below.D.data + at,
                                       <char *>below.S.data + at,
                                       (r1 - r0) * self.P, below.slope)
        self.scale_delta(below, r0, r1)

    cdef void _watch_backward(self, int l, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """(3.7), both factors apart so that each can be measured. The same bits."""
        cdef cbp_layer *y = &self.layers[l]
        cdef cbp_layer *below = &self.layers[l - 1]
        self.recorder.measure_rows(l, False, y.D, r0, r1, self.piece.start)
        if self.one_row:
            # delta^{l+1} W^{l+1}T is a forward product with W^T.
            self.k.forward_row(y.D.data, y.n_out, y.WT.data, y.WT.stride, self.P, NULL,
                               y.n_in, below.D.data, CBP_IDENTITY)
        else:
            self.k.multiply_delta(y.D, y.n_out, y.WT, below.S, below.D, y.n_in, r0, r1,
                                  CBP_IDENTITY)
        self.recorder.measure_rows(l - 1, True, below.D, r0, r1, self.piece.start)
        self.derive(y, below, r0, r1)


# ---- phase 2: weights ---------------------------------------------------------------

cdef class Batch(Propagation):
    """A batch: rows propagated, gradients summed, weights stepped.

    Parameters are those of `Propagation`.
    """

    def __cinit__(self, Weights weights not None, Data data not None,
                  Signals signals not None, order, ptrdiff_t batch_size,
                  int64_t n_threads, int solver, double max_norm, rates):
        cdef ptrdiff_t items = weights.master_items
        cdef int l
        self.solver, self.limit.norm = solver, max_norm
        self.fused = solver >= 0 and batch_size == self.piece_rows
        self.fused &= max_norm == INFINITY
        for l in range(self.n_layers):
            self.work_of_all += self.layers[l].n_panels * self._work_per_panel(l)
        self.patch_squares = np.zeros(weights.n_patches)
        gradient = parts = None
        self.gradient.bytes = items * self.size
        if not self.fused:
            gradient = aligned_zeros(items, self.network.dtype)
            self.gradient.total = <char *>writable_address(gradient)
        if self.piece_rows < self.chunk_rows:
            parts = aligned_zeros(PIECE_PARTS * items, self.network.dtype)
            self.gradient.parts = <char *>writable_address(parts)
        steps = np.zeros(2 * self.n_layers * sizeof(cbp_step), "u1")
        self.steps = <cbp_step *>writable_address(steps)
        self._memory = (gradient, parts, steps)

    cdef take_states(self, state):
        """The optimizer's vectors, (n_states, master_items)."""
        cdef int i
        self._state = state
        self.n_states = cbp_n_states[self.solver]
        for i in range(self.n_states):
            self.states[i] = (<char *>writable_address(state)
                              + i * self.weights.master_items * self.size)

    cdef ptrdiff_t _work_per_panel(self, int l) noexcept nogil:
        """What a panel of weights costs to update, for threads to share; layers above
        the first also read activations from other cores' caches (a layer of 64 x 64,
        batch 64: 0.40 us a patch, in the first layer 0.31)."""
        return self.layers[l].n_lines * (4 if l == 0 else 5)

    # ---- from begin to end; thread 0 alone calls begin, end and what has no `thread`

    cdef void begin(self, const int64_t *order, ptrdiff_t rows, double weight_sum,
                    bint watching) noexcept nogil:
        self.order, self.rows, self.weight_sum = order, rows, weight_sum
        self.loss, self.watching = 0, watching
        self._begin_piece(0)

    cdef void set_rate(self, double eta, double decay, double scale) noexcept nogil:
        """The learning rate of the batch, the decay of its weights, and what its sums
        are multiplied by. All W come before all b, which do not decay."""
        cdef int i
        for i in range(2 * self.n_layers):
            self.steps[i].eta, self.steps[i].scale = eta, scale
            self.steps[i].decay = decay if i < self.n_layers else 0

    cdef void run(self, int thread) noexcept nogil:
        """All of it, by every thread in step; `begin` and a meeting come before."""
        cdef ptrdiff_t start = 0, rows = self.rows
        while True:
            self._run_piece(thread, start)
            start += self.piece_rows
            if start >= rows or self.signals.interrupted():
                break
            if thread == 0:
                self._begin_piece(start)
            self.meet()
        if self.solver >= 0 and not self.fused and not self.signals.interrupted():
            if self.limit.norm < INFINITY:
                self._clip(thread)
            self._step_all(thread)
            self.meet()
        if self.weights.mean != NULL and not self.signals.interrupted():
            self.weights.average(thread, self.n_threads)
            self.meet()

    cdef double end(self) noexcept nogil:
        """The cost of the batch, with the penalty as it was before the step."""
        self.loss += self._penalty()
        if self.watching:
            # Not the scale of the step, which may be shorter.
            self.recorder.end_batch(min(self.rows, <ptrdiff_t>CBP_CHUNK_ROWS),
                                    1 / self.weight_sum, &self.patch_squares[0])
        return self.loss

    cdef void run_one_row(self) noexcept nogil:
        """A watched batch of one row, like any other batch."""
        self.gather(self.data, 0, self.order, 0, 1)
        self.forward(self.data, 0, self.order, 0, 1, True)
        self.compute_loss(self.data, 0, 0, 0, 1)
        self.backward(0, 1)
        self._update(0)
        self._end_piece()
        if self.weights.mean != NULL:
            self.weights.average(0, 1)

    cdef void run_rows(self, cbp_online *rows) noexcept nogil:
        """Batches of one row, one after the other: rows.order, n_rows, eta, and sums
        that grow are the caller's."""
        cdef int i
        rows.layers, rows.n_layers = self.layers, self.n_layers
        rows.solver, rows.loss = self.solver, self.network.c_loss
        rows.step, rows.master = self.steps[0], self.weights.master
        for i in range(self.n_states):
            rows.state[i] = self.states[i]
        rows.X, rows.Y, rows.labels = self.data.X, self.data.Y, self.data.labels
        rows.weight = self.data.weight
        rows.drop = self.drops.inputs
        rows.T, rows.inputs = self.buffers.T, self.buffers.A0.data
        rows.scratch = self.buffers.scratch
        rows.patch_squares = &self.patch_squares[0]
        rows.mean, rows.master_items = self.weights.mean, self.weights.master_items
        self.k.train_rows(rows)

    cdef void _begin_piece(self, ptrdiff_t start) noexcept nogil:
        """The piece that begins at row `start` of the batch."""
        cdef int t
        self.piece = piece_at(start, self.rows, self.piece_rows)
        self.drops.row = start
        if self.drops.inputs.below and self.data.sparse is not None:
            self._drop_items(self.order + start)
        self.watching_rows = self.watching and self.piece.first_chunk
        if self.by_units:
            for t in range(self.n_threads):
                cbp_report(&self.reached[t], 0)

    cdef void _run_piece(self, int thread, ptrdiff_t start) noexcept nogil:
        """One piece of the batch: propagate, meet, sum and perhaps step, meet."""
        cdef const int64_t *order = self.order + start
        # Gradient flow is recorded row by row, over all units.
        cdef bint by_units = self.by_units and not self.watching
        cdef bint sparse = self.data.sparse is not None
        if sparse and thread == 0 and self.drops.inputs.below:
            self.k.transpose_csr(&self.drops.rows, NULL, self.piece.rows,
                                 self.data.n_features, &self.buffers.columns)
        elif sparse and thread == 0:
            self.k.transpose_csr(&self.data.sparse.csr, order, self.piece.rows,
                                 self.data.n_features, &self.buffers.columns)
        if by_units:
            self.propagate_units(thread, order)
        else:
            self.propagate(thread, order)
        # A thread sums for its own units what it has made itself, and reads delta of
        # the output layer, which it has awaited; but thread 0 makes CSR's columns.
        if not by_units or sparse:
            self.meet()
        if not self.signals.interrupted():
            if thread == self.n_threads - 1:  # by units, it has the costs at hand
                self._end_piece()
            self._update(thread)
        self.meet()

    cdef void _end_piece(self) noexcept nogil:
        """Weighs the costs of its rows, and adds those of a chunk to the batch's."""
        cdef double *loss = self.buffers.row_loss + self.piece.start
        cdef ptrdiff_t i
        cdef double w
        if self.data.weight != NULL:
            for i in range(self.piece.rows):
                # A row of weight 0 does not exist, even if its cost has overflowed.
                w = self.k.item(self.buffers.weight, i)
                loss[i] = loss[i] * w if w > 0 else 0
        if self.piece.last:
            self.loss += sum_in_order(self.buffers.row_loss,
                                      self.piece.start + self.piece.rows)

    cdef double _penalty(self) noexcept nogil:
        """alpha / 2 times the sum of squared weights, as they were before the step."""
        cdef double squares = 0
        cdef ptrdiff_t i
        if self.steps[0].alpha == 0:
            return 0
        for i in range(self.weights.n_patches):
            squares += self.patch_squares[i]
        return 0.5 * self.steps[0].alpha * squares

    # ---- sums and steps, by every thread

    cdef void _update(self, int thread) noexcept nogil:
        """This thread's share of the weights, group by group: (4.1) and at once (6.1),
        or, when a batch has several pieces, the sum of (4.1) over them."""
        cdef ptrdiff_t first = 0, done = 0, work, begin, end, p0, p1, q0, q1
        cdef int l
        cdef cbp_layer *y
        begin = self.work_of_all * thread // self.n_threads
        end = self.work_of_all * (thread + 1) // self.n_threads
        for l in range(self.n_layers):
            y = &self.layers[l]
            work = self._work_per_panel(l)
            p0, p1, q0, q1 = 0, y.line_patches, 0, y.n_panels
            if self.by_units:
                # The lines or the panels of the only hidden layer's units, all of them.
                if y.transposed == (l == 0):
                    self.share_panels(thread, 0, &p0, &p1)
                else:
                    self.share_panels(thread, 0, &q0, &q1)
                begin, end = done, done + work * y.n_panels
            self._update_layer(thread, l, first, p0, p1, q0, q1, work, begin - done,
                               end - done)
            if self.signals.interrupted():
                return
            first += y.n_patches
            done += work * y.n_panels
        self._update_biases(thread)
        if self.watching_rows:
            self._watch_units(thread)

    cdef void _update_layer(self, int thread, int l, ptrdiff_t first, ptrdiff_t p0,
                            ptrdiff_t p1, ptrdiff_t q0, ptrdiff_t q1, ptrdiff_t work,
                            ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
        """Of patches p0 .. p1 - 1 in panels q0 .. q1 - 1 of layer l the groups before
        which `begin` to `end` - 1 of the layer's work is done; first: the patches of
        the layers below, work: that of a panel."""
        cdef cbp_layer *y = &self.layers[l]
        cdef ptrdiff_t n_groups, width, p, q = q0, g, n_panels = q1 - q0
        n_groups = round_up(n_panels, CBP_GROUP_PANELS) // CBP_GROUP_PANELS
        for g in range(n_groups):
            width = n_panels // n_groups + (g < n_panels % n_groups)
            for p in range(p0, p1):
                if begin <= q * work + p * width * work // y.line_patches < end:
                    self._update_group(thread, l, first, p, q, width)
                    if thread == 0:
                        self.signals.count(2.0 * width * self.P**2 * self.piece.rows)
                        if not self.fused:  # a step is made whole
                            self.signals.poll(0)
                    if self.signals.interrupted():
                        return
            q += width

    cdef void _update_group(self, int thread, int l, ptrdiff_t first, ptrdiff_t p,
                            ptrdiff_t q, ptrdiff_t width) noexcept nogil:
        """Patches (p, q) to (p, q + width - 1) of layer l."""
        cdef cbp_layer *y = &self.layers[l]
        cdef ptrdiff_t P = self.P, lines = patch_lines(y, P, p), i, number
        cdef ptrdiff_t stride = master_stride(y), at = patch_at(y, P, p, q)
        cdef cbp_panels G
        # compute_loss is done with the thread's scratch, for a group and a patch now.
        cdef char *scratch = self.scratch_of(thread)
        cdef char *room = scratch + CBP_GROUP_PANELS * P * P * self.size
        G.data, G.stride = scratch, P * P
        if not self.fused and not stands_apart(&self.piece):
            G.data = (part(&self.gradient, &self.piece, self.piece.height)
                      + at * self.size)
            G.stride = stride
        self._sum_group(thread, l, p, q, width, lines, G, room)
        for i in range(width):
            if self.fused:
                number = first + (q + i) * y.line_patches + p
                self._step_patch(y, p, q + i, lines, number,
                                 <char *>G.data + i * G.stride * self.size, room)
            else:
                join(self.k, &self.gradient, &self.piece,
                     <char *>G.data + i * G.stride * self.size,
                     (at + i * stride) * self.size, lines * P)

    cdef void _update_biases(self, int thread) noexcept nogil:
        """(5.1), (6.2) for this thread's panels of every layer."""
        cdef ptrdiff_t q, q0, q1, at
        cdef int l
        cdef cbp_layer *y
        cdef char *g
        for l in range(self.n_layers):
            y = &self.layers[l]
            self.share_panels(thread, l, &q0, &q1)
            for q in range(q0, q1):
                at = y.b_at + q * self.P
                g = self.scratch_of(thread)
                if not self.fused and not stands_apart(&self.piece):
                    g = (part(&self.gradient, &self.piece, self.piece.height)
                         + at * self.size)
                self.k.sum_columns(<char *>y.D.data + q * y.D.stride * self.size,
                                   self.piece.rows, g)
                if self.fused:
                    self._step_bias(l, at, g, self.P)
                else:
                    join(self.k, &self.gradient, &self.piece, g, at * self.size, self.P)

    cdef void _sum_group(self, int thread, int l, ptrdiff_t p, ptrdiff_t q,
                         ptrdiff_t width, ptrdiff_t lines, cbp_panels G,
                         void *room) noexcept nogil:
        """(4.1): dW = a_prev^T delta (its transpose where that is the master copy)."""
        cdef cbp_layer *y = &self.layers[l]
        cdef cbp_panels A = self.inputs(thread) if l == 0 else self.layers[l - 1].A
        cdef cbp_panels D = y.D
        cdef ptrdiff_t i
        if l == 0 and self.data.sparse is not None:
            for i in range(width):
                self._sum_sparse_patch(y, p, q + i, lines,
                                       <char *>G.data + i * G.stride * self.size, room)
            return
        if y.transposed:
            A, D = D, A
        D.data = <char *>D.data + q * D.stride * self.size
        self.k.sum_gradient(<char *>A.data + p * A.stride * self.size, D, width,
                            self.piece.rows, lines, G)

    cdef void _sum_sparse_patch(self, cbp_layer *y, ptrdiff_t p, ptrdiff_t q,
                                ptrdiff_t lines, void *G, void *room) noexcept nogil:
        """(4.1) for one patch of a first layer whose input is sparse."""
        cdef ptrdiff_t P = self.P
        if not y.transposed:
            self.k.sum_gradient_csr(&self.buffers.columns, p * P, lines,
                                    <char *>y.D.data + q * y.D.stride * self.size, G)
            return
        memset(room, 0, P * P * self.size)
        self.k.sum_gradient_csr(
            &self.buffers.columns, q * P, min(P, y.n_in - q * P),
            <char *>y.D.data + p * y.D.stride * self.size, room
        )
        self.k.transpose_patch(room, G)

    cdef void _step_patch(self, cbp_layer *y, ptrdiff_t p, ptrdiff_t q, ptrdiff_t lines,
                          ptrdiff_t number, const void *G, void *room) noexcept nogil:
        """(6.1) for one patch of weights, and its mirror made true again."""
        cdef ptrdiff_t at = patch_at(y, self.P, p, q)
        cdef char *W = self.weights.master + at * self.size
        cdef void *state[CBP_MAX_STATES]
        cdef void *second_moment = NULL
        self._states_at(at, state)
        if self.watching:
            memcpy(room, W, lines * self.P * self.size)
        self.patch_squares[number] = self.k.step[self.solver](
            W, G, state, lines * self.P, &self.steps[y - self.layers]
        )
        if self.watching:
            if self.second_moment >= 0:
                second_moment = state[self.second_moment]
            self.recorder.measure_patch(
                number, G, room, W, second_moment,
                lines * self.P, self.steps[0].epsilon
            )
        if y.mirrored:
            mirror_patch(self.k, y, p, q)

    cdef void _step_bias(self, int l, ptrdiff_t at, const void *g,
                         ptrdiff_t n) noexcept nogil:
        """(6.2) for n biases of layer l."""
        cdef void *state[CBP_MAX_STATES]
        self._states_at(at, state)
        self.k.step[self.solver](self.weights.master + at * self.size, g, state, n,
                                 &self.steps[self.n_layers + l])

    cdef void _clip(self, int thread) noexcept nogil:
        """Shortens the gradient, penalty included, to the limit over all layers. Slots
        of patches are added in their order, whichever thread has filled them."""
        cdef ptrdiff_t begin = self.weights.n_patches * thread // self.n_threads
        cdef ptrdiff_t end = self.weights.n_patches * (thread + 1) // self.n_threads
        cdef ptrdiff_t first = 0, i, p, at
        cdef double squares = 0, norm
        cdef int l
        cdef cbp_layer *y
        for l in range(self.n_layers):
            y = &self.layers[l]
            for i in range(max(begin, first) - first, min(end - first, y.n_patches)):
                p = i % y.line_patches
                at = patch_at(y, self.P, p, i // y.line_patches) * self.size
                self.patch_squares[first + i] = self.k.sum_penalized_squares(
                    self.gradient.total + at, self.weights.master + at,
                    patch_lines(y, self.P, p) * self.P, self.steps[l].alpha
                )
            first += y.n_patches
        self.meet()
        if thread == 0:
            for i in range(self.weights.n_patches):
                squares += self.patch_squares[i]
            for l in range(self.n_layers):
                y = &self.layers[l]
                squares += self.k.sum_squares(
                    self.gradient.total + y.b_at * self.size, round_up(y.n_out, self.P)
                )
            norm = sqrt(squares) / self.weight_sum
            if norm > self.limit.norm:
                self.limit.n_clipped += 1
                for l in range(2 * self.n_layers):
                    self.steps[l].scale *= self.limit.norm / norm
        self.meet()

    cdef void _step_all(self, int thread) noexcept nogil:
        """(6.1), (6.2) from gradients summed over several pieces."""
        cdef ptrdiff_t begin = self.weights.n_patches * thread // self.n_threads
        cdef ptrdiff_t end = self.weights.n_patches * (thread + 1) // self.n_threads
        cdef ptrdiff_t first = 0, i, p, q
        cdef int l
        cdef cbp_layer *y
        cdef char *room = self.scratch_of(thread)
        for l in range(self.n_layers):
            y = &self.layers[l]
            for i in range(max(begin, first) - first, min(end - first, y.n_patches)):
                q, p = i // y.line_patches, i % y.line_patches
                self._step_patch(
                    y, p, q, patch_lines(y, self.P, p), first + i,
                    self.gradient.total + patch_at(y, self.P, p, q) * self.size, room
                )
            first += y.n_patches
            if thread == 0:
                self._step_bias(l, y.b_at, self.gradient.total + y.b_at * self.size,
                                round_up(y.n_out, self.P))

    cdef void _states_at(self, ptrdiff_t at, void **state) noexcept nogil:
        """The optimizer's vectors from item `at` of the master layout on."""
        cdef int i
        for i in range(self.n_states):
            state[i] = <char *>self.states[i] + at * self.size

    # ---- what is measured

    cdef void _watch_units(self, int thread) noexcept nogil:
        cdef ptrdiff_t q, panel = 0
        cdef int l
        for l in range(self.n_layers):
            for q in range(self.weights.panels(l)):
                if panel % self.n_threads == thread and l < self.n_layers - 1:
                    self.recorder.measure_units(l, q, panel, self.piece.rows)
                panel += 1

    cdef void measure_gradient(self, double scale) noexcept nogil:
        """Fills the recorder from a gradient of all rows; only the last one is kept."""
        cdef ptrdiff_t number = 0, i, p, at, n
        cdef int l
        cdef cbp_layer *y
        for l in range(self.n_layers):
            y = &self.layers[l]
            for i in range(y.n_patches):
                p = i % y.line_patches
                at = patch_at(y, self.P, p, i // y.line_patches) * self.size
                n = patch_lines(y, self.P, p) * self.P
                self.recorder.patch_gradient[number] = self.k.sum_squares(
                    self.gradient.total + at, n
                )
                self.patch_squares[number] = self.k.sum_squares(
                    self.weights.master + at, n
                )
                number += 1
        self.recorder.sums[:, :] = 0
        self.recorder.watched = 0
        self.recorder.end_batch(self.chunk_rows, scale, &self.patch_squares[0])


# ---- the four equations as data -----------------------------------------------------

cdef backpropagate(Batch batch, const int64_t *order, ptrdiff_t n_rows):
    """z, a and delta of these rows by the unfused twins of the kernels: three lists of
    arrays (n_rows, n_out), one for each layer."""
    cdef ptrdiff_t start = 0, rows
    cdef cbp_layer *y
    cdef cbp_layer *below
    cdef int l
    sizes, dtype = batch.network.layer_sizes[1:], batch.network.dtype
    z = [np.empty((n_rows, n), dtype) for n in sizes]
    a = [np.empty_like(x) for x in z]
    delta = [np.empty_like(x) for x in z]
    batch.piece.start = 0
    while start < n_rows:
        rows = min(n_rows - start, batch.piece_rows)
        batch.gather(batch.data, 0, order + start, 0, rows)
        show_forward(batch, order + start, start, rows, z, a)
        batch.compute_loss(batch.data, 0, 0, 0, rows)
        l = batch.n_layers - 1
        show(batch, batch.layers[l].D, start, rows, delta[l])
        for l in range(batch.n_layers - 1, 0, -1):
            y, below = &batch.layers[l], &batch.layers[l - 1]
            batch.k.multiply_delta(y.D, y.n_out, y.WT, below.S, below.D, y.n_in, 0,
                                   rows, CBP_IDENTITY)
            batch.derive(y, below, 0, rows)
            show(batch, below.D, start, rows, delta[l - 1])
        start += rows
    return z, a, delta


cdef show_forward(Batch batch, const int64_t *order, ptrdiff_t start, ptrdiff_t rows,
                  z, a):
    """(1.1) and (1.2) apart, each copied out; the output layer is left with z."""
    cdef int l, last = batch.n_layers - 1
    cdef ptrdiff_t q
    cdef cbp_layer *y
    cdef cbp_panels A = batch.buffers.A0
    cdef const cbp_csr *csr = NULL
    if batch.data.sparse is not None:
        csr = &batch.data.sparse.csr
    for l in range(batch.n_layers):
        y = &batch.layers[l]
        forward_layer(batch.k, y, csr, order, A, y.A, 0, rows, CBP_IDENTITY)
        show(batch, y.A, start, rows, z[l])
        if l < last and y.slope == CBP_KEPT:
            batch.k.keep_slope(y.A, y.S, y.n_out, 0, rows, y.activation)
        elif l == last:
            batch.k.apply_output(y.A, y.n_out, 0, rows, batch.network.output_code,
                                 batch.network.c_loss.groups, batch.buffers.scratch)
        else:
            for q in range(round_up(y.n_out, batch.P) // batch.P):
                batch.k.activate(<char *>y.A.data + q * y.A.stride * batch.size,
                                 rows * batch.P, y.activation)
        show(batch, y.A, start, rows, a[l])
        # Back from the copy: the output layer's z, or zeros in the padding columns.
        kept = z[l] if l == last else a[l]
        batch.k.gather_rows(
            <const char *>address(kept) + start * y.n_out * batch.size, y.n_out, NULL,
            rows, y.n_out, y.A
        )
        csr, A = NULL, y.A


cdef show(Batch batch, cbp_panels panels, ptrdiff_t start, ptrdiff_t rows, out):
    """Rows of a piece into their place in an array (n_rows, columns)."""
    cdef ptrdiff_t columns = out.shape[1]
    batch.k.scatter_rows(
        panels, rows, columns,
        <char *>writable_address(out) + start * columns * batch.size, columns
    )
