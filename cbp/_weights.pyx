"""theta <-> panels: the layout of all weights and biases, and the memory they lie in.

`Layout` says how a network's parameters lie as panels (src_c/cbp.h); a gradient and the
vectors of an optimizer lie the same way. `Weights` is such a memory: it is loaded from
theta, trained in place, and stored to theta. Nothing here reads a row of data.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cbp._kernels cimport (
    CBP_KEPT,
    CBP_N_BY_A,
    cbp_flat,
    cbp_n_states,
    cbp_panels,
    writable_address,
)
from cbp._network cimport Dense

from cbp._kernels import OPTIMIZERS

cdef enum:
    # Weights of a first layer that the caches do not hold. Without a mirror a fit of
    # 50,000 x 100 was 7 to 17 % faster, one of 64 x 100 up to 8 % slower.
    WIDE_ITEMS = 500000


cdef class Layout:
    """How the parameters of a network lie as panels: the master layout.

    Parameters
    ----------
    network : Network
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, Network network not None):
        self.network, self.k, self.n_layers = network, network.k, network.n_layers
        self.P, self.size = self.k.panel, self.k.itemsize
        self._layers = np.zeros(self.n_layers * sizeof(cbp_layer), "u1")
        self.layers = <cbp_layer *>writable_address(self._layers)
        self._describe()

    cdef _describe(self):
        cdef int l
        cdef ptrdiff_t P = self.P, w, wt, at = 0
        cdef cbp_layer *y
        cdef const Dense *layer
        for l in range(self.n_layers):
            y, layer = &self.layers[l], &self.network.layers[l]
            y.n_in, y.n_out, y.activation = layer.n_in, layer.n_out, layer.activation
            y.slope = y.activation if y.activation < CBP_N_BY_A else CBP_KEPT
            y.flat = cbp_flat[y.activation]
            w = round_up(y.n_out, P) * y.n_in
            wt = round_up(y.n_in, P) * y.n_out
            # The first layer needs no mirror if W is its master. Beyond the caches, to
            # write one costs a quarter of what Adam moves: W, m and v, both ways.
            y.transposed = wt < w
            if l == 0 and w > WIDE_ITEMS and 4 * wt > 3 * w:
                y.transposed = False
            y.mirrored = y.transposed or l > 0
            y.n_lines = y.n_out if y.transposed else y.n_in
            y.line_patches = round_up(y.n_lines, P) // P
            y.n_panels = round_up(y.n_in if y.transposed else y.n_out, P) // P
            y.n_patches = y.line_patches * y.n_panels
            # One line more than the patches need: an odd number of lines per panel
            # keeps the panels of a wide layer from falling into the same cache sets.
            y.W.stride = (round_up(y.n_in, P) + 1) * P
            y.WT.stride = (round_up(y.n_out, P) + 1) * P
            y.W_at = at
            at += y.n_panels * master_stride(y)
            y.b_at = at
            at += round_up(y.n_out, P)
            self.n_patches += y.n_patches
            if y.mirrored and y.transposed:
                self.mirror_items += round_up(y.n_out, P) // P * y.W.stride
            elif y.mirrored:
                self.mirror_items += round_up(y.n_in, P) // P * y.WT.stride
        self.master_items = at

    cdef ptrdiff_t panels(self, int l) noexcept nogil:
        """Panels of units of layer l."""
        return round_up(self.layers[l].n_out, self.P) // self.P


cdef class Weights(Layout):
    """W and b of a network as panels, the master copy and its mirror.

    Parameters
    ----------
    network : Network
    """

    def __cinit__(self, Network network not None):
        cdef cbp_layer *y
        cdef char *mirror
        cdef int l
        master = aligned_zeros(self.master_items, network.dtype)
        mirrors = aligned_zeros(self.mirror_items, network.dtype)
        self._memory = [master, mirrors]
        self.master = <char *>writable_address(master)
        mirror = <char *>writable_address(mirrors)
        for l in range(self.n_layers):
            y = &self.layers[l]
            y.b = self.master + y.b_at * self.size
            if y.transposed:
                y.WT.data = self.master + y.W_at * self.size
                y.W.data = mirror
                mirror += round_up(y.n_out, self.P) // self.P * y.W.stride * self.size
            else:
                y.W.data = self.master + y.W_at * self.size
                if y.mirrored:
                    y.WT.data = mirror
                    mirror += (round_up(y.n_in, self.P) // self.P * y.WT.stride
                               * self.size)

    cdef void load(self, const void *theta) noexcept nogil:
        """Both copies from theta."""
        cdef int l
        for l in range(self.n_layers):
            load_layer(self.k, &self.network.layers[l], &self.layers[l], theta)
            if self.layers[l].mirrored:
                self._mirror(&self.layers[l])
        if self.mean != NULL:
            memcpy(self.mean, self.master, self.master_items * self.size)

    cdef start_mean(self):
        """From now on the mean over steps is kept, too, and stored."""
        mean = aligned_zeros(self.master_items, self.network.dtype)
        patch = aligned_zeros(self.P * self.P, self.network.dtype)
        self._memory += [mean, patch]
        self.patch = <char *>writable_address(patch)
        self.mean = <char *>writable_address(mean)

    cdef void average(self, int part, int n_parts) noexcept nogil:
        """A step in the mean; its parts may be made side by side."""
        cdef ptrdiff_t lines = self.master_items // self.P
        cdef ptrdiff_t first = lines * part // n_parts
        cdef ptrdiff_t end = lines * (part + 1) // n_parts
        cdef ptrdiff_t at = first * self.P * self.size
        self.k.average(self.mean + at, self.master + at, (end - first) * self.P,
                       self.mean_share)

    cdef void swap_mean(self) noexcept nogil:
        """Exchanges master and mean, so that batches see the other one."""
        cdef ptrdiff_t i, p, q, n = self.master_items * self.size // sizeof(int64_t)
        cdef int64_t *a = <int64_t *>self.master
        cdef int64_t *b = <int64_t *>self.mean
        cdef int64_t kept
        cdef int l
        cdef cbp_layer *y
        for i in range(n):
            kept = a[i]
            a[i] = b[i]
            b[i] = kept
        for l in range(self.n_layers):
            y = &self.layers[l]
            if y.mirrored:
                for q in range(y.n_panels):
                    for p in range(y.line_patches):
                        mirror_patch(self.k, y, p, q)

    cdef void _mirror(self, cbp_layer *y) noexcept nogil:
        """WT from W, all patches, whichever of them is the master."""
        cdef ptrdiff_t p, q, P = self.P, size = self.size
        for q in range(round_up(y.n_out, P) // P):
            for p in range(round_up(y.n_in, P) // P):
                self.k.transpose_patch(
                    <char *>y.W.data + (q * y.W.stride + p * P * P) * size,
                    <char *>y.WT.data + (p * y.WT.stride + q * P * P) * size,
                )

    cdef void store(self, void *theta) noexcept nogil:
        """theta from the panels, or from their mean."""
        cdef char *out = <char *>theta
        cdef int l
        cdef cbp_layer *y
        cdef const Dense *layer
        cdef cbp_panels b
        if self.mean != NULL:
            self.flatten(self.mean, out, self.patch)
            return
        for l in range(self.n_layers):
            y, layer = &self.layers[l], &self.network.layers[l]
            self.k.scatter_rows(y.W, y.n_in, y.n_out, out + layer.W * self.size,
                                y.n_out)
            b.data, b.stride = y.b, self.P
            self.k.scatter_rows(b, 1, y.n_out, out + layer.b * self.size, y.n_out)

    cdef void flatten(self, const char *G, char *out, void *scratch) noexcept nogil:
        """What lies at G in the master layout, in theta's; scratch: one patch."""
        cdef ptrdiff_t P = self.P, i, p, q
        cdef int l
        cdef cbp_layer *y
        cdef const Dense *layer
        cdef cbp_panels patch
        for l in range(self.n_layers):
            y, layer = &self.layers[l], &self.network.layers[l]
            patch.stride = 0
            for i in range(y.n_patches):
                q, p = i // y.line_patches, i % y.line_patches
                patch.data = <void *>(G + patch_at(y, P, p, q) * self.size)
                if y.transposed:
                    self.k.transpose_patch(patch.data, scratch)
                    patch.data = scratch
                    p, q = q, p
                self.k.scatter_rows(
                    patch, min(P, y.n_in - p * P), min(P, y.n_out - q * P),
                    out + (layer.W + p * P * y.n_out + q * P) * self.size, y.n_out
                )
            patch.data, patch.stride = <void *>(G + y.b_at * self.size), P
            self.k.scatter_rows(patch, 1, y.n_out, out + layer.b * self.size, y.n_out)


cdef void load_layer(const cbp_kernels *k, const Dense *layer, const cbp_layer *y,
                     const void *theta) noexcept nogil:
    """W and b of one layer from theta."""
    cdef const char *given = <const char *>theta
    cdef cbp_panels b
    k.gather_rows(given + layer.W * k.itemsize, y.n_out, NULL, y.n_in, y.n_out, y.W)
    b.data, b.stride = y.b, k.panel
    k.gather_rows(given + layer.b * k.itemsize, y.n_out, NULL, 1, y.n_out, b)


cdef load_forward(Layout layout, const void *theta):
    """Gives a layout memory for W and b alone, for forward products, and loads it."""
    cdef ptrdiff_t items = 0
    cdef char *at
    cdef int l
    cdef cbp_layer *y
    for l in range(layout.n_layers):
        y = &layout.layers[l]
        items += layout.panels(l) * (y.W.stride + layout.P)
    layout._memory = aligned_zeros(items, layout.network.dtype)
    at = <char *>writable_address(layout._memory)
    for l in range(layout.n_layers):
        y = &layout.layers[l]
        y.W.data = at
        at += layout.panels(l) * y.W.stride * layout.size
        y.b = at
        at += layout.panels(l) * layout.P * layout.size
        load_layer(layout.k, &layout.network.layers[l], y, theta)


def state_shape(Network network not None, solver):
    """Shape of an optimizer's vectors, or None if the solver has none.

    Parameters
    ----------
    network : Network
    solver : str

    Returns
    -------
    tuple of (n_states, n_items), or None
    """
    if not isinstance(solver, str) or solver not in OPTIMIZERS:
        return None
    return cbp_n_states[OPTIMIZERS[solver]], Layout(network).master_items


cdef aligned_zeros(n_items, dtype):
    """Zeros that begin on a 64-byte line."""
    return _aligned(np.zeros(n_items * dtype.itemsize + 64, "u1"), dtype)


cdef aligned_empty(n_items, dtype):
    """As aligned_zeros, but not filled."""
    return _aligned(np.empty(n_items * dtype.itemsize + 64, "u1"), dtype)


cdef _aligned(buffer, dtype):
    cdef ptrdiff_t start = -<ptrdiff_t>writable_address(buffer) & 63
    return buffer[start : start + len(buffer) - 64].view(dtype)
