"""The network: its layers, the flat layout of its parameters, and prediction.

`Network` knows shapes and kinds and holds no weights; training stands in _training.pyx.
All matrices in flight are panels (src_c/cbp.h). What users pass is validated in
estimators.py; here are the checks without which a kernel would leave its buffers, for
any caller. Nothing here knows a dtype (src_c/kernels.h).
"""

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t

from cbp._kernels cimport (
    CBP_CHUNK_ROWS,
    CBP_IDENTITY,
    address,
    cbp_csr,
    cbp_kernels,
    cbp_layer,
    cbp_n_states,
    cbp_panels,
    floats,
    kernels,
    writable_address,
)

from cbp._kernels import ACTIVATIONS, LOSSES, OUTPUTS, OPTIMIZERS

cdef enum:
    # Rows predicted at a time, and the fewest for which packing W pays.
    PREDICT_ROWS = 256
    PACK_ROWS = 6
    # Weights of a first layer that the caches do not hold. Without a mirror a fit of
    # 50,000 x 100 was 7 to 17 % faster, one of 64 x 100 up to 8 % slower.
    WIDE_ITEMS = 500000
    # Bytes of a gradient of which a few copies do not crowd out of the caches what its
    # pieces are there to keep in them.
    DIVIDED_BYTES = 1 << 20

# Floating-point operations of a prediction between two looks for signals: some 10 ms.
cdef double FLOPS_PER_LOOK = 2e8


cdef class Network:
    """Shapes and kinds of one network, and the flat layout of its parameters.

    Parameters
    ----------
    layer_sizes : sequence of int
        Units per layer: inputs, hidden layers, outputs.
    activations : sequence of str
        One of `ACTIVATIONS` per hidden layer.
    output : str
        One of `OUTPUTS`.
    loss : str
        "log_loss", "squared_error" or "poisson"; (output, loss) is one of `LOSSES`.
    dtype : numpy dtype
        float32 or float64.

    Attributes
    ----------
    segments : tuple of (name, offset, shape, decays)
        theta = [W1 ... WL | b1 ... bL], every W row-major (n_in, n_out).
    n_params : int
    kind : tuple
        The arguments; networks of the same kind do the same.
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, layer_sizes, activations, output, loss, dtype):
        self.layer_sizes = tuple(int(n) for n in layer_sizes)
        self.activations = tuple(activations)
        self.output, self.loss, self.dtype = output, loss, np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        if len(self.layer_sizes) < 2:
            raise ValueError("a network has inputs and outputs, two layer sizes or "
                             f"more, got {self.layer_sizes}")
        if len(self.activations) != len(self.layer_sizes) - 2:
            raise ValueError("one activation per hidden layer is needed")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"activation {name!r}; valid: {sorted(ACTIVATIONS)}"
                )
        if min(self.layer_sizes) < 1:
            raise ValueError(f"layers need at least one unit, got {self.layer_sizes}")
        if (output, loss) not in LOSSES:
            raise ValueError(
                f"output {output!r} with loss {loss!r}; valid: {sorted(LOSSES)}"
            )
        self.kind = (
            self.layer_sizes, self.activations, self.output, self.loss, self.dtype
        )
        self.output_code = OUTPUTS[output]
        self.loss_code = LOSSES[output, loss]
        self.k = kernels(self.dtype.itemsize)
        self._describe_segments()
        self._describe_layers()

    cdef _describe_segments(self):
        pairs = list(zip(self.layer_sizes, self.layer_sizes[1:]))
        segments, offset = [], 0
        for l, shape in enumerate(pairs, 1):
            segments.append((f"W{l}", offset, shape, True))
            offset += shape[0] * shape[1]
        for l, (_, n_out) in enumerate(pairs, 1):
            segments.append((f"b{l}", offset, (n_out,), False))
            offset += n_out
        self.segments, self.n_params = tuple(segments), offset
        if offset * self.dtype.itemsize > 2**46:
            raise MemoryError(f"{offset} parameters are beyond any memory")

    cdef _describe_layers(self):
        cdef int l
        cdef ptrdiff_t P = self.k.panel, w, wt, at = 0, mirror = 0
        cdef cbp_layer *y
        self.n_layers = len(self.layer_sizes) - 1
        self.n_outputs = self.layer_sizes[self.n_layers]
        self.biases_at = self.segments[self.n_layers][1]
        self.widest = round_up(max(self.layer_sizes), P)
        self._layers = np.zeros(self.n_layers * sizeof(cbp_layer), "u1")
        self.layers = <cbp_layer *>writable_address(self._layers)
        for l in range(self.n_layers):
            y = &self.layers[l]
            y.n_in, y.n_out = self.layer_sizes[l], self.layer_sizes[l + 1]
            y.activation = CBP_IDENTITY
            if l < self.n_layers - 1:
                y.activation = ACTIVATIONS[self.activations[l]]
            w = round_up(y.n_out, P) * y.n_in
            wt = round_up(y.n_in, P) * y.n_out
            # The first layer needs no mirror if W is its master. Beyond the caches, to
            # write one costs a quarter of what Adam moves: W, m and v, both ways.
            y.transposed = wt < w
            if l == 0 and w > WIDE_ITEMS and 4 * wt > 3 * w:
                y.transposed = False
            y.mirrored = y.transposed or l > 0
            y.n_lines = y.n_out if y.transposed else y.n_in
            y.line_blocks = round_up(y.n_lines, P) // P
            y.n_panels = round_up(y.n_in if y.transposed else y.n_out, P) // P
            y.n_blocks = y.line_blocks * y.n_panels
            # One line more than the blocks need: an odd number of lines per panel keeps
            # the panels of a wide layer from falling into the same cache sets.
            y.W.stride = (round_up(y.n_in, P) + 1) * P
            y.WT.stride = (round_up(y.n_out, P) + 1) * P
            y.W_at = at
            at += y.n_panels * (y.WT.stride if y.transposed else y.W.stride)
            y.b_at = at
            at += round_up(y.n_out, P)
            if y.mirrored:
                if y.transposed:
                    mirror += round_up(y.n_out, P) // P * y.W.stride
                else:
                    mirror += round_up(y.n_in, P) // P * y.WT.stride
        self.master_items, self.mirror_items = at, mirror

    def divides(self, ptrdiff_t batch_size):
        """Whether gradients of a dense batch are summed PIECE_ROWS rows at a time,
        those just propagated, before they leave the caches. Never changes a bit.

        64-100-10, float64: an evaluation of 1797 rows takes 673 us in place of 825,
        Adam at batch 2000 is 1.18 times as fast; at 500 nothing is gained.
        """
        return batch_size > 2 * PIECE_ROWS and (
            self.master_items * self.dtype.itemsize <= DIVIDED_BYTES
        )

    def fit_bytes(self, batch_size, solver, sparse=False):
        """Bytes that a `Trainer` allocates beside theta and the data.

        Parameters
        ----------
        batch_size : int
        solver : {"sgd", "adam", "lbfgs"}
        sparse : bool, default=False
            Whether X is a CSR matrix.

        Returns
        -------
        int
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if solver not in OPTIMIZERS and solver != "lbfgs":
            raise ValueError(f"solver {solver!r}; valid: {[*OPTIMIZERS, 'lbfgs']}")
        divided = self.divides(batch_size) and not sparse
        rows = min(int(batch_size), PIECE_ROWS if divided else CBP_CHUNK_ROWS) + 17
        per_row = 2 * sum(n + 16 for n in self.layer_sizes[1:])
        per_row += self.layer_sizes[0] + 16 + self.n_outputs + 16
        copies = 1 + (cbp_n_states[OPTIMIZERS[solver]] if solver in OPTIMIZERS else 1)
        if solver in OPTIMIZERS and (batch_size > CBP_CHUNK_ROWS or divided):
            copies += 1
        if divided:
            copies += PIECE_PARTS
        items = copies * self.master_items + self.mirror_items + rows * per_row
        return items * self.dtype.itemsize

    def state_shape(self, solver):
        """Shape of an optimizer's vectors, or None if the solver has none.

        Parameters
        ----------
        solver : {"sgd", "adam"}

        Returns
        -------
        tuple of (n_states, n_items), or None
        """
        if not isinstance(solver, str) or solver not in OPTIMIZERS:
            return None
        return cbp_n_states[OPTIMIZERS[solver]], self.master_items

    def predict(self, theta, X, bint logits=False, bint finite=False, list hidden=None):
        """Output activations (or z of the output layer) for every row of X.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)
        X : C-contiguous ndarray or CSR matrix of shape (n_samples, n_inputs)
        logits : bool, default=False
            z^L in place of a^L.
        finite : bool, default=False
            Whether to look for NaN and infinity in X, an ndarray, on the way.
        hidden : list, default=None
            a of every hidden layer is added to it, (n_samples, n_units) each.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), or None if X was found not to be finite
        """
        cdef ptrdiff_t rows[2]
        cdef ptrdiff_t n_params = self.n_params
        cdef const void *parameters = floats(
            theta, "theta", self.k.itemsize, 1, &n_params
        )
        cdef const void *x = NULL
        cdef CsrData sparse = None
        rows[0], rows[1] = -1, self.layers[0].n_in
        if isinstance(X, np.ndarray):
            x = floats(X, "X", self.k.itemsize, 2, rows)
        else:
            sparse = CsrData(self, X, by_rows=True)
            rows[0] = sparse.n_rows
        out = np.empty((rows[0], self.n_outputs), self.dtype)
        layers = [out]
        if hidden is not None:
            sizes = self.layer_sizes[1 : self.n_layers]
            layers = [np.empty((rows[0], n), self.dtype) for n in sizes]
            hidden += layers
            layers.append(out)
        if rows[0] == 0:
            return out
        if rows[0] < PACK_ROWS and sparse is None and hidden is None:
            return self._predict_rows(parameters, x, rows[0], out, logits, finite)
        return self._predict_packed(
            parameters, x, sparse, rows[0], layers, logits, finite
        )

    cdef _predict_rows(self, const void *theta, const void *x, ptrdiff_t n_rows, out,
                       bint logits, bint finite):
        """Row by row from theta as it is: nothing is packed. The same bits."""
        cdef ptrdiff_t P = self.k.panel, size = self.k.itemsize, widest = self.widest
        cdef ptrdiff_t n_out = self.n_outputs, n_in = self.layers[0].n_in
        cdef ptrdiff_t r, w_at, b_at
        # Two vectors that take turns, room for one more block of lines behind them
        # (apply_output reads P lines), and apply_output's scratch.
        buffer = np.zeros(2 * widest + P * P + 2 * P * round_up(n_out, P), self.dtype)
        cdef char *base = <char *>writable_address(buffer)
        cdef const char *parameters = <const char *>theta
        cdef char *y = <char *>writable_address(out)
        cdef char *a
        cdef char *z
        cdef cbp_layer *layer
        cdef cbp_panels Z
        cdef int l
        cdef double unseen_flops = 0
        if finite and not self.k.all_finite(x, n_rows * n_in):
            return None
        with nogil:
            for r in range(n_rows):
                a = <char *>x + r * n_in * size
                w_at, b_at = 0, self.biases_at
                z = base
                for l in range(self.n_layers):
                    layer = &self.layers[l]
                    z = base + (l & 1) * widest * size
                    self.k.forward_row(
                        a, layer.n_in, parameters + w_at * size, P, layer.n_out,
                        parameters + b_at * size, layer.n_out, z, layer.activation
                    )
                    w_at += layer.n_in * layer.n_out
                    b_at += layer.n_out
                    a = z
                Z.data, Z.stride = z, P
                if not logits:
                    self.k.apply_output(Z, n_out, 0, 1, self.output_code,
                                        base + (2 * widest + P * P) * size)
                self.k.scatter_rows(Z, 1, n_out, y + r * n_out * size, n_out)
                look(&unseen_flops, 2.0 * w_at)
        return out

    cdef _predict_packed(self, const void *theta, const void *x, CsrData sparse,
                         ptrdiff_t n_rows, list shown, bint logits, bint finite):
        """W packed once, then PREDICT_ROWS rows at a time through all layers; shown:
        arrays to be filled with what all layers, or the last, come to."""
        cdef ptrdiff_t P = self.k.panel, size = self.k.itemsize, widest = self.widest
        cdef ptrdiff_t stride = (PREDICT_ROWS + 1) * P, n_out = self.n_outputs
        cdef ptrdiff_t n_in = self.layers[0].n_in
        cdef ptrdiff_t scratch_items = 2 * P * round_up(n_out, P)
        cdef ptrdiff_t r, m
        cdef double unseen_flops = 0
        cdef bint refused = False
        cdef bint show_hidden = len(shown) > 1
        # Where the next row of each goes.
        places = np.array([<size_t>writable_address(out) for out in shown], np.uintp)
        cdef size_t *at = <size_t *>writable_address(places)
        cdef char *y = <char *>at[len(shown) - 1]
        cdef cbp_csr csr
        cdef cbp_panels A, Z
        cdef int l, fault = SOUND
        layers = np.array(self._layers)
        cdef cbp_layer *layer = <cbp_layer *>writable_address(layers)
        weights = aligned_zeros(self._packed_items(), self.dtype)
        pack(self, layer, theta, <char *>writable_address(weights))
        buffer = aligned_zeros(2 * widest // P * stride + scratch_items, self.dtype)
        cdef char *base = <char *>writable_address(buffer)
        cdef char *scratch = base + 2 * widest // P * stride * size
        if sparse is not None:
            csr = sparse.csr
        r = 0
        with nogil:
            while r < n_rows:
                m = min(n_rows - r, <ptrdiff_t>PREDICT_ROWS)
                if sparse is not None:
                    fault = sparse.check(r, r + m)
                    if fault:
                        break
                A.data, A.stride = base + widest // P * stride * size, stride
                Z.data, Z.stride = base, stride
                if sparse is None and not self.k.gather_finite(
                    <const char *>x + r * n_in * size, m, n_in, A
                ) and finite:
                    refused = True
                    break
                for l in range(self.n_layers):
                    Z.data = base + (l & 1) * (widest // P) * stride * size
                    if l == 0 and sparse is not None:
                        csr.indptr = sparse.csr.indptr + r
                        self.k.multiply_forward_csr(
                            &csr, NULL, layer[l].W, layer[l].b, Z, layer[l].n_out,
                            0, m, layer[l].activation
                        )
                    else:
                        self.k.multiply_forward(
                            A, layer[l].n_in, layer[l].W, layer[l].b, Z,
                            layer[l].n_out, 0, m, layer[l].activation
                        )
                    look(&unseen_flops, 2.0 * m * layer[l].n_in * layer[l].n_out)
                    A = Z
                    if show_hidden and l < self.n_layers - 1:
                        self.k.scatter_rows(A, m, layer[l].n_out, <void *>at[l],
                                            layer[l].n_out)
                        at[l] += m * layer[l].n_out * size
                if not logits:
                    self.k.apply_output(Z, n_out, 0, m, self.output_code, scratch)
                self.k.scatter_rows(Z, m, n_out, y + r * n_out * size, n_out)
                r += m
        if fault:
            raise sparse.error(fault)
        return None if refused else shown[len(shown) - 1]

    cdef ptrdiff_t _packed_items(self):
        """Items of W and b alone, as panels."""
        cdef ptrdiff_t P = self.k.panel, items = 0
        cdef int l
        for l in range(self.n_layers):
            items += round_up(self.layers[l].n_out, P) // P * self.layers[l].W.stride
            items += round_up(self.layers[l].n_out, P)
        return items


cdef int look(double *unseen_flops, double flops) except -1 nogil:
    """Counts flops; looks for signals, lest Ctrl-C wait for a long prediction."""
    unseen_flops[0] += flops
    if unseen_flops[0] > FLOPS_PER_LOOK:
        unseen_flops[0] = 0
        with gil:
            PyErr_CheckSignals()
    return 0


cdef aligned_zeros(n_items, dtype):
    """Zeros that begin on a 64-byte line."""
    buffer = np.zeros(n_items * dtype.itemsize + 64, "u1")
    cdef ptrdiff_t start = -<ptrdiff_t>writable_address(buffer) & 63
    return buffer[start : start + n_items * dtype.itemsize].view(dtype)


cdef void pack(Network net, cbp_layer *layers, const void *theta, char *base):
    """W and b of theta as panels from base on (forward only: no transpose)."""
    cdef const cbp_kernels *k = net.k
    cdef ptrdiff_t P = k.panel, size = k.itemsize, w_at = 0
    cdef ptrdiff_t b_at = net.biases_at
    cdef const char *parameters = <const char *>theta
    cdef cbp_panels b
    cdef int l
    cdef cbp_layer *y
    for l in range(net.n_layers):
        y = &layers[l]
        y.W.data = base
        base += round_up(y.n_out, P) // P * y.W.stride * size
        y.b = base
        base += round_up(y.n_out, P) * size
        k.gather_rows(parameters + w_at * size, y.n_out, NULL, y.n_in, y.n_out, y.W)
        b.data, b.stride = y.b, P
        k.gather_rows(parameters + b_at * size, y.n_out, NULL, 1, y.n_out, b)
        w_at += y.n_in * y.n_out
        b_at += y.n_out


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
    """

    def __cinit__(self, Network network not None, X, bint by_rows=False):
        cdef int fault = SOUND
        try:
            form, shape, data, indices, indptr = (
                X.format, X.shape, X.data, X.indices, X.indptr
            )
        except AttributeError:
            form = None
        if form != "csr":
            raise ValueError(
                f"X must be an array or a CSR matrix, got {type(X).__name__}"
            )
        self.n_rows, n_given = shape
        self.n_cols = network.layers[0].n_in
        if n_given != self.n_cols:
            raise ValueError(
                f"X has {n_given} columns, the network {self.n_cols} inputs"
            )
        if self.n_cols > INT32_MAX:
            raise ValueError(f"a sparse X may have {INT32_MAX} columns, not {n_given}")
        self.data = native(data, None, "X.data")
        if self.data.dtype != network.dtype:
            raise ValueError(f"X is {self.data.dtype}, the network {network.dtype}")
        self.csr.data = address(self.data)
        self._take_indptr(indptr, min(len(data), len(indices)))
        self.indices = np.asarray(indices)
        if self.indices.dtype == np.int32:
            self.indices = native(self.indices, None, "X.indices")
        else:
            wide = native(self.indices, np.int64, "X.indices")
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
        self.indptr = native(indptr, np.int64, "X.indptr")
        if len(self.indptr) != self.n_rows + 1:
            raise ValueError(f"X.indptr has {len(self.indptr)} items; want one more "
                             f"than the {self.n_rows} rows")
        self.csr.indptr = starts = <const int64_t *>address(self.indptr)
        for r in range(self.n_rows):
            descends |= starts[r + 1] < starts[r]
        if descends or starts[0] != 0 or starts[self.n_rows] > n_entries:
            raise ValueError("X is a malformed CSR matrix: its indptr is not in order")

    cdef int check(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """What is wrong with rows r0 .. r1 - 1."""
        return check_rows(self.csr.indptr + r0, r1 - r0, self.csr.indices, self.n_cols)

    cdef error(self, int fault):
        return ValueError(f"X is a malformed CSR matrix: {CSR_FAULTS[fault]}")


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
