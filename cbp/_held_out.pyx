"""Rows that are scored after every epoch, and the weights that scored best.

The batch's own buffers and kernels are used, between its batches, so that a score costs
a forward product only. When to score, and what follows from it, is _training.pyx's.
"""

import numpy as np

cimport cython

from libc.math cimport NAN, isfinite
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cbp._batch cimport Batch, Buffers
from cbp._data cimport Data, checked_rows
from cbp._kernels cimport (
    CBP_N_SOFTMAX_LOSSES,
    address,
    cbp_groups,
    cbp_layer,
    cbp_panels,
    writable_address,
)
from cbp._network cimport Network
from cbp._progress cimport ACCURACY_OR_R2, LOSS, TOLD, Settings
from cbp._weights cimport aligned_zeros

from cbp._catalog import is_regressors


@cython.final
cdef class HeldOut:
    """Rows that are scored after every epoch, and the weights that scored best.

    The score is scikit-learn's accuracy where targets are classes or labels, else its
    R2, or what Settings.scoring asks for.

    Parameters
    ----------
    batch : Batch
        Whose buffers are used, between its batches.
    data : Data
    rows : int64 ndarray
    settings : Settings
    theta : ndarray of shape (n_params,)
        The weights to start from.
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, Batch batch not None, Data data not None, rows,
                  Settings settings not None, theta):
        cdef Network network = batch.network
        cdef cbp_layer *y = &batch.layers[batch.n_layers - 1]
        if data.network.kind != network.kind:
            raise ValueError("held_out: the data are those of another network")
        if data.sparse is None and batch.data.sparse is not None:
            # The batch keeps no place for dense rows.
            raise ValueError("held_out: X must be sparse, as that of training is")
        self.batch, self.data, self.k = batch, data, batch.k
        self.kind = settings.score
        rows = checked_rows(rows, data.n_rows)
        if data.has_weightless:  # such rows do not exist
            weighty = np.asarray(data._weight)[rows] > 0
            rows = rows[weighty] if weighty.any() else rows
        self._rows, self.n_rows = rows, len(rows)
        self.rows = <const int64_t *>address(rows)
        if settings.early_stopping:
            self.best_theta = np.array(theta)
            self.best = <char *>writable_address(self.best_theta)
        # A single class is predicted whatever the network says.
        self.one_class = data.labels != NULL and not data._target.any()
        self.by_r2 = is_regressors(network.output, network.loss)
        self.by_r2 &= self.kind == ACCURACY_OR_R2
        if self.by_r2 and data.Y == NULL:
            raise ValueError("a score of held_out by R2 needs a matrix of targets")
        if self.by_r2 and network.output != "identity":
            self._outputs = aligned_zeros(y.n_panels * y.A.stride, network.dtype)
            self.outputs = <char *>writable_address(self._outputs)
        self.sums = np.zeros(network.n_outputs)
        self.base = np.zeros(network.n_outputs)
        self._measure_base()

    cdef void _measure_base(self) noexcept nogil:
        """The rows' share of their score, which no weights change."""
        cdef ptrdiff_t i, c, n_out = self.data.n_outputs
        cdef double first, mean, t, total = 0
        for i in range(self.n_rows):
            total += self.data.row_weight(self.rows[i])
        self.weight_sum = total
        if not self.by_r2:
            self.base[0] = total
            return
        for c in range(n_out):
            # Less the first target, so that the mean of equal targets is exact.
            first = self.k.item(self.data.Y, self.rows[0] * n_out + c)
            mean = 0
            for i in range(self.n_rows):
                t = self.k.item(self.data.Y, self.rows[i] * n_out + c) - first
                mean += self.data.row_weight(self.rows[i]) * t
            mean /= total
            for i in range(self.n_rows):
                t = self.k.item(self.data.Y, self.rows[i] * n_out + c) - first - mean
                self.base[c] += self.data.row_weight(self.rows[i]) * (t * t)

    cdef double loss(self) noexcept nogil:
        """The mean cost of the last score, no penalty in it."""
        return self.cost / self.weight_sum

    cdef double score(self) noexcept nogil:
        """By the batch's weights; NaN if an output is not finite."""
        cdef ptrdiff_t start = 0, rows, most = self.batch.piece_rows
        most = min(most, self.batch.stretch_rows)
        self.sums[:] = 0
        self.cost = 0
        while start < self.n_rows:
            rows = min(self.n_rows - start, most)
            self.batch.gather(self.data, 0, self.rows + start, 0, rows)
            self.batch.forward(self.data, 0, self.rows + start, 0, rows, False)
            self.batch.signals.poll(2.0 * self.batch.network.n_weights * rows)
            if self.batch.signals.interrupted() or not self._compare(rows):
                self.cost = NAN
                return NAN
            self._add_costs(rows)
            start += rows
        if self.kind == TOLD:
            return NAN
        if self.kind == LOSS:
            return -self.loss()
        return self._r2() if self.by_r2 else self.sums[0] / self.base[0]

    cdef void _add_costs(self, ptrdiff_t n_rows) noexcept nogil:
        """The costs of these rows, one after the other; z becomes delta."""
        cdef ptrdiff_t r
        cdef double w
        self.batch.compute_loss(self.data, 0, 0, 0, n_rows)
        for r in range(n_rows):
            w = 1
            if self.data.weight != NULL:
                w = self.k.item(self.batch.buffers.weight, r)
            if w > 0:  # a row of weight 0 does not exist, even if its cost overflows
                self.cost += w * self.batch.buffers.row_loss[r]

    cdef bint _compare(self, ptrdiff_t n_rows) noexcept nogil:
        """Adds what these rows of the batch score; false if an output is not finite."""
        cdef cbp_panels Z = self.batch.layers[self.batch.n_layers - 1].A
        cdef const Buffers *at = &self.batch.buffers
        cdef ptrdiff_t r, c, n_out = self.data.n_outputs
        cdef cbp_layer *y = &self.batch.layers[self.batch.n_layers - 1]
        cdef double w, error
        if self.outputs != NULL:
            memcpy(self.outputs, Z.data, y.n_panels * Z.stride * self.k.itemsize)
            Z.data = self.outputs
            self.k.apply_output(Z, n_out, 0, n_rows, self.batch.network.output_code,
                                self.batch.network.c_loss.groups,
                                self.batch.buffers.scratch)
        for r in range(n_rows):
            w = 1 if self.data.weight == NULL else self.k.item(at.weight, r)
            for c in range(n_out):
                if not isfinite(self._entry(Z, r, c)):
                    return False
                if self.by_r2:
                    error = self._entry(at.T, r, c) - self._entry(Z, r, c)
                    self.sums[c] += w * (error * error)
            if self.kind == ACCURACY_OR_R2 and not self.by_r2 and self._is_right(Z, r):
                self.sums[0] += w
        return True

    cdef double _entry(self, cbp_panels A, ptrdiff_t r, ptrdiff_t c) noexcept nogil:
        cdef ptrdiff_t P = self.k.panel
        return self.k.item(A.data, c // P * A.stride + r * P + c % P)

    cdef bint _is_right(self, cbp_panels Z, ptrdiff_t r) noexcept nogil:
        """Do the logits of row r decide as the target says, in every label?"""
        cdef const Buffers *at = &self.batch.buffers
        cdef const cbp_groups *groups = self.batch.network.c_loss.groups
        cdef ptrdiff_t c, g, n_out = self.data.n_outputs
        if groups != NULL:
            for g in range(groups.n):
                if (self._largest(Z, r, groups.start[g], groups.start[g + 1])
                        != at.labels[r * groups.n + g]):
                    return False
            return True
        if self.data.labels != NULL and (
            n_out > 1 or self.batch.network.c_loss.kind < CBP_N_SOFTMAX_LOSSES
        ):
            return self._largest(Z, r, 0, n_out) == at.labels[r]
        for c in range(n_out):
            if (self._entry(Z, r, c) > 0) != (self._entry(at.T, r, c) > 0):
                return self.one_class
        return True

    cdef ptrdiff_t _largest(self, cbp_panels Z, ptrdiff_t r, ptrdiff_t first,
                            ptrdiff_t end) noexcept nogil:
        """The first of the largest of these outputs, counted from `first`."""
        cdef ptrdiff_t c, best = first
        for c in range(first + 1, end):
            if self._entry(Z, r, c) > self._entry(Z, r, best):
                best = c
        return best - first

    cdef double _r2(self) noexcept nogil:
        """Mean over outputs; targets that are all alike score 1 if hit, else 0."""
        cdef double total = 0
        cdef ptrdiff_t c, n_out = self.data.n_outputs
        for c in range(n_out):
            if self.base[c] != 0:
                total += 1 - self.sums[c] / self.base[c]
            elif self.sums[c] == 0:
                total += 1
        return total / n_out
