"""What a fit measures of its own gradients, inside the compiled loop.

Watched batches (a few per epoch, fewer when epochs are short, so that measuring costs
one or two percent of a fit of hundreds of batches) fill slots; an epoch with watched
batches makes one record. When the records outgrow their room every second one is
dropped and the stride doubles. What the numbers mean is said in gradient_flow.py.
Nothing here changes the training.
"""

import numpy as np

from libc.math cimport isfinite, sqrt
from libc.stdint cimport int64_t

from cbp._kernels cimport CBP_CHUNK_ROWS, cbp_layer, cbp_panels
from cbp._weights cimport Layout, round_up

cdef enum:
    # A watched batch costs up to a third more: one in 32 is about one percent. A batch
    # of one row costs some ten times more.
    STEPS_APART = 32
    STEPS_APART_ONE_ROW = 256
    BATCHES_PER_EPOCH = 4
    MAX_RECORDS = 512
    MAX_BYTES = 65536

# The names of what is summed, in its order.
COLUMNS = ("gradient", "delta", "back", "weight", "update", "saturated", "stuck",
           "floored", "nonfinite")


cdef class Recorder:
    """Gradient flow of one fit.

    Parameters
    ----------
    layout : Layout
        Whose layers hold the buffers that are measured.
    chunk_rows : int
        Most rows of a batch that are measured.
    batches : int
        Batches per epoch.
    one_row : bool
        Whether batches have one row.
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, Layout layout not None, ptrdiff_t chunk_rows, int64_t batches,
                  bint one_row):
        cdef ptrdiff_t P = layout.P, panels = 0
        cdef int l
        if not 1 <= chunk_rows <= CBP_CHUNK_ROWS or batches < 1:
            raise ValueError(f"{chunk_rows} rows of a batch, {batches} batches")
        self.k, self.n_layers = layout.k, layout.n_layers
        self._layout, self.layers = layout, layout.layers
        for l in range(self.n_layers):
            panels += layout.panels(l)
        groups = round_up(chunk_rows, P) // P
        self.group_delta = np.zeros((self.n_layers, groups))
        self.group_back = np.zeros((self.n_layers, groups))
        self.patch_gradient = np.zeros(layout.n_patches)
        self.patch_update = np.zeros(layout.n_patches)
        self.patch_floored = np.zeros(layout.n_patches)
        self.saturated_rows = np.zeros(panels * P, np.int32)
        self.dropped_rows = np.zeros(panels * P, np.int32)
        self.sums = np.zeros((self.n_layers, N_SUMS))
        self.every = max(STEPS_APART_ONE_ROW if one_row else STEPS_APART,
                         batches // BATCHES_PER_EPOCH)
        self.stride = 1
        # Pickled as float32, with the epoch numbers: at most MAX_BYTES.
        self.room = max(2, min(MAX_RECORDS,
                               MAX_BYTES // (4 * N_SUMS * self.n_layers + 8)))
        self.records = np.zeros((self.room, self.n_layers, N_SUMS))
        self.epochs = np.zeros(self.room, np.int64)

    cdef void clear(self) noexcept:
        """Begins anew, as if nothing had been recorded."""
        self.n_records, self.watched, self.stride = 0, 0, 1
        self.sums[:, :] = 0

    cdef bint due(self, int64_t step, int64_t epoch) noexcept nogil:
        """Whether step number `step` of the optimizer (from 0) is to be watched:
        regularly, and the first ones more densely, where gradients change fastest."""
        if epoch % self.stride:
            return False
        if step < self.every:
            return step & (step - 1) == 0
        return step % self.every == 0

    cdef void measure_rows(self, int l, bint back, cbp_panels delta, ptrdiff_t r0,
                           ptrdiff_t r1, ptrdiff_t first) noexcept nogil:
        """Squares of delta^l, or (back) of (delta^{l+1} W^{l+1}T) before f', in groups
        of P rows. first: the place of row 0 in the chunk."""
        cdef ptrdiff_t P = self.k.panel, size = self.k.itemsize, r = r0, q, rows
        cdef double squares
        while r < r1:
            squares = 0
            rows = min(P, r1 - r)
            for q in range(round_up(self.layers[l].n_out, P) // P):
                squares += self.k.sum_squares(
                    <char *>delta.data + (q * delta.stride + r * P) * size, rows * P
                )
            if back:
                self.group_back[l, (first + r) // P] = squares
            else:
                self.group_delta[l, (first + r) // P] = squares
            r += rows

    cdef void measure_units(self, int l, ptrdiff_t q, ptrdiff_t panel,
                            ptrdiff_t n_rows) noexcept nogil:
        """Adds the rows that saturate units of panel q of layer l, panel `panel` of
        all."""
        cdef cbp_layer *y = &self.layers[l]
        cdef ptrdiff_t P = self.k.panel
        cdef char *S = <char *>y.S.data + q * y.S.stride * self.k.itemsize
        self.k.count_saturated(S, n_rows, y.slope, y.flat,
                               &self.saturated_rows[panel * P])
        if y.drop.below:
            self.k.count_dropped(S, n_rows, &self.dropped_rows[panel * P])

    cdef void measure_patch(self, ptrdiff_t number, const void *G, const void *before,
                            const void *after, const void *v, ptrdiff_t n,
                            double epsilon) noexcept nogil:
        """One patch of weights round its step; v: Adam's second moment or NULL."""
        self.patch_gradient[number] = self.k.sum_squares(G, n)
        self.patch_update[number] = self.k.sum_squared_change(after, before, n)
        self.patch_floored[number] = 0
        if v != NULL:
            self.patch_floored[number] = self.k.count_below(v, n, epsilon * epsilon)

    cdef void end_batch(self, ptrdiff_t n_rows, double scale,
                        const double *weight_squares) noexcept nogil:
        """Adds the slots, in order, to the epoch's means."""
        cdef ptrdiff_t P = self.k.panel, i, patch = 0, unit = 0, groups
        cdef double n_weights, lanes, total, dropped
        cdef int l
        cdef cbp_layer *y
        cdef double *s
        groups = round_up(n_rows, P) // P
        for l in range(self.n_layers):
            y, s = &self.layers[l], &self.sums[l, 0]
            n_weights = <double>y.n_in * y.n_out
            # Padding lanes count as floored: their second moment stays below epsilon.
            lanes = <double>y.n_lines * y.n_panels * P - n_weights
            total = 0
            for i in range(patch, patch + y.n_patches):
                s[GRADIENT_SQUARES] += (self.patch_gradient[i] * scale * scale
                                        / n_weights)
                s[UPDATE_SQUARES] += self.patch_update[i] / n_weights
                s[WEIGHT_SQUARES] += weight_squares[i] / n_weights
                total += self.patch_floored[i]
            s[FLOORED] += max(total - lanes, 0.0) / n_weights
            patch += y.n_patches
            for i in range(groups):
                s[DELTA_SQUARES] += self.group_delta[l, i] / n_rows / y.n_out
                if l < self.n_layers - 1:
                    s[BACK_SQUARES] += self.group_back[l, i] / n_rows / y.n_out
            total = dropped = 0
            for i in range(unit, unit + y.n_out):
                total += self.saturated_rows[i]
                dropped += self.dropped_rows[i]
                if self.dropped_rows[i] < n_rows:  # it took part
                    s[STUCK] += (self.saturated_rows[i] == n_rows) / <double>y.n_out
            # Of the units that took part.
            if dropped < <double>n_rows * y.n_out:
                s[SATURATED] += (total - dropped) / (<double>n_rows * y.n_out - dropped)
            unit += round_up(y.n_out, P)
            if not isfinite(s[GRADIENT_SQUARES] + s[DELTA_SQUARES] + s[WEIGHT_SQUARES]):
                s[NONFINITE] += 1
        self.saturated_rows[:] = 0
        self.dropped_rows[:] = 0
        self.watched += 1

    cdef void end_epoch(self, int64_t epoch) noexcept nogil:
        """Makes the record of an epoch that had watched batches."""
        cdef int l, s
        if self.watched == 0:
            return
        # Often no record is dropped by one doubling: epochs are recorded at intervals.
        while self.n_records == self.room:
            self._thin()
        # Only epochs that ascend can be thinned for ever: a second run begins at 0.
        if epoch % self.stride == 0 and (
            self.n_records == 0 or epoch > self.epochs[self.n_records - 1]
        ):
            self.epochs[self.n_records] = epoch
            for l in range(self.n_layers):
                for s in range(N_SUMS):
                    self.records[self.n_records, l, s] = self.sums[l, s]
                    if s != NONFINITE:
                        self.records[self.n_records, l, s] /= self.watched
            self.n_records += 1
        self.sums[:, :] = 0
        self.watched = 0

    cdef void _thin(self) noexcept nogil:
        """Doubles the stride and drops the records that no longer lie on it."""
        cdef int i, kept = 0
        self.stride *= 2
        for i in range(self.n_records):
            if self.epochs[i] % self.stride == 0:
                self.records[kept] = self.records[i]
                self.epochs[kept] = self.epochs[i]
                kept += 1
        self.n_records = kept

    cdef dict arrays(self):
        """The records between two epochs, for a checkpoint."""
        records = np.array(self.records)[: self.n_records]
        return {
            "records": records.reshape(self.n_records, self.n_layers * N_SUMS),
            "record_epochs": np.array(self.epochs)[: self.n_records],
        }

    cdef take(self, dict arrays, stride):
        """What `arrays` gave, and the stride."""
        records, epochs = arrays["records"], arrays["record_epochs"]
        n = len(epochs)
        fits = (
            records.shape == (n, self.n_layers * N_SUMS)
            and records.dtype == np.float64
            and epochs.shape == (n,) and epochs.dtype == np.int64
            and n <= self.room and (np.diff(epochs) > 0).all()
            and (n == 0 or epochs[0] >= 0)
        )
        if not fits or not 1 <= stride < 2**31:
            raise ValueError("the records of gradient flow are not of this network")
        self.clear()
        np.asarray(self.records)[:n] = records.reshape(n, self.n_layers, N_SUMS)
        np.asarray(self.epochs)[:n] = epochs
        self.n_records, self.stride = n, stride

    def last_gradient(self):
        """The epoch of the last record, counted from 0, and "gradient" of its layers.

        Returns
        -------
        (int, list of float) or None
            None if there is no record.
        """
        cdef int l, i = self.n_records - 1
        if i < 0:
            return None
        return self.epochs[i], [
            sqrt(self.records[i, l, GRADIENT_SQUARES]) for l in range(self.n_layers)
        ]

    def flow(self):
        """The records so far.

        Returns
        -------
        dict of str to ndarray
            "epoch" (n_records,) counted from 0, and float32 arrays (n_records,
            n_layers): root mean squares "gradient", "delta", "back" (delta^{l+1}
            W^{l+1}T before f'; 0 in the output layer), "weight", "update"; shares
            "saturated",
            "stuck", "floored"; and "nonfinite", the batches with a non-finite number.
        """
        # All columns at once: partial_fit pays for every call of NumPy.
        records = np.asarray(self.records)[: self.n_records]
        columns = records.transpose(2, 0, 1).copy()
        with np.errstate(over="ignore", invalid="ignore"):
            np.sqrt(columns[:SATURATED], out=columns[:SATURATED])
            columns = columns.astype(np.float32)
        return {
            "epoch": np.asarray(self.epochs)[: self.n_records].copy(),
            **dict(zip(COLUMNS, columns)),
        }
