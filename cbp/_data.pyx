"""Rows of data: X dense or CSR, targets, sample weights; and how kernels get them.

`Data` is what a fit trains on or scores. It checks once, then hands out rows in panels.
Its two gather methods are the only readers of X and y in training; _prediction.pyx
reads X itself. Which rows come when is decided in _training.pyx.
"""

import numpy as np

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from cbp._kernels cimport (
    CBP_CHUNK_ROWS,
    CBP_N_SOFTMAX_LOSSES,
    address,
    cbp_csr,
    cbp_panels,
    floats,
)
from cbp._network cimport Network
from cbp._sums cimport sum_in_order


cdef class Data:
    """Rows that a network of one kind is trained on, or scored by.

    Parameters
    ----------
    network : Network
    X : C-contiguous ndarray or CSR matrix of shape (n_samples, n_inputs)
        CSR rows with ascending indices. What X is made of must not be changed as long
        as the data are in use; the same is true of sample_weight.
    target : ndarray or CSR matrix
        int32 class numbers, which are copied, of shape (n_samples,), or (n_samples,
        n_labels) where the network has groups of outputs; or (n_samples, n_outputs) of
        dtype. A CSR matrix as X; its rows become dense in a batch only.
    sample_weight : ndarray of shape (n_samples,), default=None

    Raises
    ------
    ValueError
        Something does not fit the network, or a weight is negative or not finite.
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, Network network not None, X, target, sample_weight=None):
        cdef ptrdiff_t shape[2]
        self.network, self.k, self.size = network, network.k, network.k.itemsize
        self.n_features, self.n_outputs = network.layers[0].n_in, network.n_outputs
        self.n_labels = network.n_labels
        self.wants_targets = network.c_loss.kind >= CBP_N_SOFTMAX_LOSSES
        shape[0], shape[1] = -1, self.n_features
        if isinstance(X, np.ndarray):
            self.X = <const char *>floats(X, "X", self.size, 2, shape)
            self._X, self.sparse = X, None
        else:
            self.sparse = CsrData(network, X)
            shape[0] = self.sparse.n_rows
        self.n_rows = shape[0]
        if hasattr(target, "indptr"):
            self._take_sparse_target(target)
        else:
            self._take_target(np.asarray(target))
        if sample_weight is not None:
            self.weight = <const char *>floats(sample_weight, "sample_weight",
                                               self.size, 1, shape)
            self._weight = sample_weight
            if not self._weights_are_sound():
                raise ValueError("sample_weight must be finite and not negative")

    cdef _take_target(self, target):
        cdef ptrdiff_t shape[2]
        shape[0], shape[1] = self.n_rows, self.n_outputs
        groups = self.network.groups
        if target.dtype == np.int32 and target.ndim == 1 + bool(groups):
            # Labels are places in a row of outputs: nobody may change them any more.
            target = np.array(target, order="C")
            highest = np.array(groups or [self.n_outputs]) - 1
            if self.wants_targets and not groups:
                highest = np.maximum(highest, 1)
            columns = target.reshape(len(target), -1)
            if columns.shape[1] != len(highest) and len(target):
                raise ValueError(f"a row has {len(highest)} labels, not "
                                 f"{columns.shape[1]}")
            if ((columns < 0) | (columns > highest)).any():
                raise ValueError(f"labels must lie in 0 .. {highest}")
            self.labels, self.Y = <const int32_t *>address(target), NULL
        elif target.ndim != 2 or not self.wants_targets:
            raise ValueError(f"target of shape {target.shape} and {target.dtype}")
        else:
            self.Y = <const char *>floats(target, "target", self.size, 2, shape)
            self.labels = NULL
        self._target = target
        if target.shape[0] != self.n_rows:
            raise ValueError("target and X differ in length")

    cdef _take_sparse_target(self, target):
        if not self.wants_targets:
            raise ValueError("this loss takes class numbers, not a matrix of targets")
        self.sparse_Y = CsrData(self.network, target, targets=True)
        if self.sparse_Y.n_rows != self.n_rows:
            raise ValueError("target and X differ in length")
        self.Y, self.labels = NULL, NULL

    cdef bint _weights_are_sound(self) noexcept nogil:
        cdef ptrdiff_t i
        cdef double weight
        for i in range(self.n_rows):
            weight = self.k.item(self.weight, i)
            if not 0 <= weight < INFINITY:
                return False
            self.has_weightless |= weight == 0
        return True

    cdef double row_weight(self, ptrdiff_t row) noexcept nogil:
        return 1 if self.weight == NULL else self.k.item(self.weight, row)

    cdef ptrdiff_t leave_out_weightless(self, const int64_t *rows, ptrdiff_t n,
                                        int64_t *kept) noexcept nogil:
        """Those of n rows that weigh something, in their order; how many.

        A row of weight 0 does not exist. Were it propagated, its activations could
        overflow, and infinity times 0 is no 0.
        """
        cdef ptrdiff_t i, n_kept = 0
        for i in range(n):
            kept[n_kept] = rows[i]
            n_kept += self.row_weight(rows[i]) > 0
        return n_kept

    cdef double sum_weights(self, const int64_t *rows, ptrdiff_t n,
                            double *room) noexcept nogil:
        """Sum of the weights of these rows, chunk by chunk; room: for one chunk."""
        cdef double total = 0
        cdef ptrdiff_t start = 0, i, m
        if self.weight == NULL:
            return n
        while start < n:
            m = min(n - start, <ptrdiff_t>CBP_CHUNK_ROWS)
            for i in range(m):
                room[i] = self.k.item(self.weight, rows[start + i])
            total += sum_in_order(room, m)
            start += m
        return total

    cdef void gather_inputs(self, const int64_t *rows, ptrdiff_t r0, ptrdiff_t r1,
                            cbp_panels A) noexcept nogil:
        """rows[r0] .. rows[r1 - 1] of a dense X into rows r0 .. r1 - 1 of panels A. The
        kernels read a sparse X where it lies."""
        if self.sparse is None and r0 < r1:
            A.data = <char *>A.data + r0 * self.k.panel * self.size
            self.k.gather_rows(self.X, self.n_features, rows + r0, r1 - r0,
                               self.n_features, A)

    cdef void gather_targets(self, const int64_t *rows, ptrdiff_t r0, ptrdiff_t r1,
                             cbp_panels T, int32_t *labels,
                             char *weight) noexcept nogil:
        """Targets and weights of the same rows, in the same places of T, labels and
        weight; only those that there are, and that the loss reads."""
        cdef ptrdiff_t r, c
        T.data = <char *>T.data + r0 * self.k.panel * self.size
        if self.sparse_Y is not None:
            self._spread_targets(rows + r0, r1 - r0, T)
        elif self.labels == NULL:
            self.k.gather_rows(self.Y, self.n_outputs, rows + r0, r1 - r0,
                               self.n_outputs, T)
        else:
            for r in range(r0, r1):
                for c in range(self.n_labels):
                    labels[r * self.n_labels + c] = (
                        self.labels[rows[r] * self.n_labels + c]
                    )
            if self.wants_targets:
                self.k.fill_targets(labels + r0 * self.n_labels, r1 - r0,
                                    self.n_outputs, self.network.c_loss.groups, T)
        if self.weight != NULL:
            self.k.gather_items(self.weight, rows + r0, r1 - r0,
                                weight + r0 * self.size)

    cdef void _spread_targets(self, const int64_t *rows, ptrdiff_t n,
                              cbp_panels T) noexcept nogil:
        """n rows of a sparse Y into the first rows of T."""
        cdef ptrdiff_t P = self.k.panel, size = self.size, r, p, c
        cdef int64_t e
        cdef const cbp_csr *Y = &self.sparse_Y.csr
        for p in range((self.n_outputs + P - 1) // P):
            memset(<char *>T.data + p * T.stride * size, 0, n * P * size)
        for r in range(n):
            for e in range(Y.indptr[rows[r]], Y.indptr[rows[r] + 1]):
                c = Y.indices[e]
                memcpy(<char *>T.data + (c // P * T.stride + r * P + c % P) * size,
                       <const char *>Y.data + e * size, size)


cdef checked_rows(rows, ptrdiff_t n_samples):
    """Row numbers of X as an array of one's own."""
    rows = np.asarray(rows)
    if rows.size == 0:
        raise ValueError("no rows to train on, or to score")
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"rows: want one axis of integers, got {rows.dtype} of shape "
                         f"{rows.shape}")
    rows = np.array(rows, dtype=np.int64)
    if not 0 <= rows.min() <= rows.max() < n_samples:
        raise ValueError("rows beyond X")
    return rows


# ---- CSR ----------------------------------------------------------------------------

ctypedef fused index_type:
    int32_t
    int64_t

cdef enum:
    # What is wrong with the rows of a CSR matrix.
    SOUND
    BEYOND_COLUMNS
    NOT_ASCENDING

CSR_FAULTS = {
    BEYOND_COLUMNS: "an index lies outside its columns",
    NOT_ASCENDING: "in a row the indices do not ascend, or one comes twice",
}

cdef int32_t INT32_MAX = 2**31 - 1

cdef enum:
    # Rows whose indices are looked at twice while they are in the first cache.
    CHECKED_ROWS = 64
    # Ascents that a 32-bit number counts for certain: lanes as wide as the indices.
    COUNTED = 1 << 20


cdef ptrdiff_t ascents(const index_type *x, ptrdiff_t n) noexcept nogil:
    """How many of n items are above the one before them, which of the first is x[-1].
    """
    cdef ptrdiff_t start = 0, i, m, total = 0
    cdef int found
    while start < n:
        m = min(n - start, <ptrdiff_t>COUNTED)
        found = 0
        for i in range(m):
            found += x[i] > x[i - 1]
        total += found
        x += m
        start += m
    return total


cdef int check_rows(const int64_t *indptr, ptrdiff_t n_rows, const index_type *indices,
                    ptrdiff_t n_cols) noexcept nogil:
    """What is wrong with the indices of these rows, if anything.

    No branch per entry: if all rows ascend, an index is above the one before it but
    where some rows begin, and no index of a row is below its first or above its last.
    """
    cdef ptrdiff_t r = 0, end, start, fewer, n
    cdef int64_t i, last = 0
    cdef bint beyond = False
    while r < n_rows:
        end, fewer, start = min(r + CHECKED_ROWS, n_rows), 0, indptr[r]
        while r < end:
            i, last = indptr[r], indptr[r + 1]
            r += 1
            if i == last:
                continue
            beyond |= (indices[i] < 0) | (indices[last - 1] >= n_cols)
            if i > start:
                fewer += indices[i] <= indices[i - 1]
        if beyond:
            return BEYOND_COLUMNS
        n = last - start - 1
        if n > 0 and ascents(indices + start + 1, n) != n - fewer:
            return NOT_ASCENDING
    return SOUND


cdef class CsrData:
    """A CSR matrix as the kernels read it: int32 indices, int64 row starts.

    Copies what comes in another form, and refuses what would lead a kernel out of the
    matrix or the network. The arrays must stay as they are while it is in use.

    Parameters
    ----------
    network : Network
    X : CSR matrix
    by_rows : bool, default=False
        Whether who uses it calls `check` for the rows that he is to use next: their
        indices are then in the caches when a kernel comes.
    targets : bool, default=False
        Whether its columns are the network's outputs, not its inputs.
    """

    def __cinit__(self, Network network not None, X, bint by_rows=False,
                  bint targets=False):
        cdef int fault = SOUND
        self.name = "target" if targets else "X"
        try:
            form, shape, data, indices, indptr = (
                X.format, X.shape, X.data, X.indices, X.indptr
            )
        except AttributeError:
            form = None
        if form != "csr":
            raise ValueError(f"{self.name} must be an array or a CSR matrix, got "
                             f"{type(X).__name__}")
        self.n_rows, n_given = shape
        self.n_cols = network.n_outputs if targets else network.layers[0].n_in
        if n_given != self.n_cols:
            raise ValueError(f"{self.name} has {n_given} columns, the network "
                             f"{self.n_cols} {'outputs' if targets else 'inputs'}")
        if self.n_cols > INT32_MAX:
            raise ValueError(f"a sparse {self.name} may have {INT32_MAX} columns, not "
                             f"{n_given}")
        self.data = native(data, None, f"{self.name}.data")
        if self.data.dtype != network.dtype:
            raise ValueError(f"{self.name} is {self.data.dtype}, the network "
                             f"{network.dtype}")
        self.csr.data = address(self.data)
        self._take_indptr(indptr, min(len(data), len(indices)))
        self.indices = np.asarray(indices)
        if self.indices.dtype == np.int32:
            self.indices = native(self.indices, None, f"{self.name}.indices")
        else:
            wide = native(self.indices, np.int64, f"{self.name}.indices")
            fault = check_rows(self.csr.indptr, self.n_rows,
                               <const int64_t *>address(wide), self.n_cols)
            self.indices = wide.astype(np.int32)
            by_rows = True
        self.csr.indices = <const int32_t *>address(self.indices)
        if not by_rows:
            with nogil:
                fault = self.check(0, self.n_rows)
        if fault:
            raise self.error(fault)

    cdef _take_indptr(self, indptr, ptrdiff_t n_entries):
        cdef const int64_t *starts
        cdef ptrdiff_t r
        cdef bint descends = False
        self.indptr = native(indptr, np.int64, f"{self.name}.indptr")
        if len(self.indptr) != self.n_rows + 1:
            raise ValueError(f"{self.name}.indptr has {len(self.indptr)} items; want "
                             f"one more than the {self.n_rows} rows")
        self.csr.indptr = starts = <const int64_t *>address(self.indptr)
        for r in range(self.n_rows):
            descends |= starts[r + 1] < starts[r]
        if descends or starts[0] != 0 or starts[self.n_rows] > n_entries:
            raise ValueError(f"{self.name} is a malformed CSR matrix: its indptr is "
                             "not in order")

    cdef int check(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """What is wrong with rows r0 .. r1 - 1."""
        return check_rows(self.csr.indptr + r0, r1 - r0, self.csr.indices, self.n_cols)

    cdef error(self, int fault):
        return ValueError(f"{self.name} is a malformed CSR matrix: "
                          f"{CSR_FAULTS[fault]}")


def most_entries(counts, rows):
    """The most entries of so many rows of a batch, of rows with these counts."""
    others = counts.size - min(int(rows), counts.size, CBP_CHUNK_ROWS)
    return int(np.partition(counts, others)[others:].sum())


cdef native(array, dtype, str name):
    """One axis of numbers as C reads them: contiguous, aligned, in native byte order.

    dtype: np.int64 for integers of any kind (those beyond it wrap to negative numbers),
    None for what it is.
    """
    array = np.asarray(array)
    if array.ndim != 1 or (dtype is not None and array.dtype.kind not in "iu"):
        raise ValueError(f"{name}: want one axis of "
                         f"{'numbers' if dtype is None else 'integers'}, got "
                         f"{array.dtype} of shape {array.shape}")
    array = array.astype(dtype or array.dtype, order="C", copy=False)
    return array if array.flags.aligned else array.copy()
