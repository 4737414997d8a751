"""Prediction: rows of X forward through a network, without the GIL.

A few rows are computed from theta as it is, more from weights packed once as panels;
both ways give the bits of a training's forward pass. Nothing here trains.
"""

import numpy as np

from cpython.exc cimport PyErr_CheckSignals

from cbp._data cimport CsrData
from cbp._kernels cimport (
    CBP_IDENTITY,
    cbp_csr,
    cbp_kernels,
    cbp_layer,
    cbp_panels,
    floats,
    writable_address,
)
from cbp._network cimport Dense, Network
from cbp._weights cimport (
    Layout,
    aligned_zeros,
    forward_layer,
    load_forward,
    round_up,
)

cdef enum:
    # Rows predicted at a time, and the fewest for which packing W pays.
    PREDICT_ROWS = 256
    PACK_ROWS = 6

# Floating-point operations of a prediction between two looks for signals: about 10 ms.
cdef double FLOPS_PER_LOOK = 2e8


def predict(Network network not None, theta, X, bint logits=False, bint finite=False,
            list hidden=None, list slopes=None):
    """Output activations (or z of the output layer) for every row of X.

    Parameters
    ----------
    network : Network
    theta : ndarray of shape (n_params,)
    X : C-contiguous ndarray or CSR matrix of shape (n_samples, n_inputs)
    logits : bool, default=False
        z^L instead of a^L.
    finite : bool, default=False
        Whether to look for NaN and infinity in X, an ndarray, on the way.
    hidden : list, default=None
        a of every hidden layer is added to it, (n_samples, n_units) each.
    slopes : list, default=None
        f'(z) likewise, if a is asked for, too.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs), or None if X was found not to be finite
    """
    cdef ptrdiff_t rows[2]
    cdef ptrdiff_t n_params = network.n_params
    cdef const void *parameters = floats(
        theta, "theta", network.k.itemsize, 1, &n_params
    )
    cdef const void *x = NULL
    cdef CsrData sparse = None
    rows[0], rows[1] = -1, network.layers[0].n_in
    if isinstance(X, np.ndarray):
        x = floats(X, "X", network.k.itemsize, 2, rows)
    else:
        sparse = CsrData(network, X, by_rows=True)
        rows[0] = sparse.n_rows
    out = np.empty((rows[0], network.n_outputs), network.dtype)
    layers = [out]
    if hidden is not None:
        sizes = network.layer_sizes[1 : network.n_layers]
        layers = [np.empty((rows[0], n), network.dtype) for n in sizes]
        hidden += layers
        layers.append(out)
        if slopes is not None:
            slopes += [np.empty_like(a) for a in hidden]
    if rows[0] == 0:
        return out
    if rows[0] < PACK_ROWS and sparse is None and hidden is None:
        return predict_rows(network, parameters, x, rows[0], out, logits, finite)
    return predict_packed(
        network, parameters, x, sparse, rows[0], layers, slopes or [], logits, finite
    )


cdef predict_rows(Network network, const void *theta, const void *x, ptrdiff_t n_rows,
                  out, bint logits, bint finite):
    """Row by row from theta as it is: nothing is packed. The same bits."""
    cdef const cbp_kernels *k = network.k
    cdef ptrdiff_t P = k.panel, size = k.itemsize, n_out = network.n_outputs
    cdef ptrdiff_t widest = round_up(network.widest, P)
    cdef ptrdiff_t n_in = network.layers[0].n_in, r
    # Two vectors that take turns, one more patch behind them (apply_output reads P
    # lines), and apply_output's scratch.
    buffer = np.zeros(2 * widest + P * P + 2 * P * round_up(n_out, P), network.dtype)
    cdef char *base = <char *>writable_address(buffer)
    cdef const char *parameters = <const char *>theta
    cdef char *y = <char *>writable_address(out)
    cdef char *a
    cdef char *z
    cdef const Dense *layer
    cdef cbp_panels Z
    cdef int l
    cdef double unseen_flops = 0
    if finite and not k.all_finite(x, n_rows * n_in):
        return None
    with nogil:
        for r in range(n_rows):
            a = <char *>x + r * n_in * size
            z = base
            for l in range(network.n_layers):
                layer = &network.layers[l]
                z = base + (l & 1) * widest * size
                k.forward_row(
                    a, layer.n_in, parameters + layer.W * size, P, layer.n_out,
                    parameters + layer.b * size, layer.n_out, z, layer.activation
                )
                a = z
            Z.data, Z.stride = z, P
            if not logits:
                k.apply_output(Z, n_out, 0, 1, network.output_code,
                               network.c_loss.groups,
                               base + (2 * widest + P * P) * size)
            k.scatter_rows(Z, 1, n_out, y + r * n_out * size, n_out)
            look(&unseen_flops, 2.0 * network.n_weights)
    return out


cdef predict_packed(Network network, const void *theta, const void *x, CsrData sparse,
                    ptrdiff_t n_rows, list shown, list slopes, bint logits,
                    bint finite):
    """W packed once, then PREDICT_ROWS rows at a time through all layers; shown: arrays
    that are filled with the activations of all layers, or of the last; slopes: of all
    hidden layers, or of none."""
    cdef const cbp_kernels *k = network.k
    cdef ptrdiff_t P = k.panel, size = k.itemsize, n_out = network.n_outputs
    cdef ptrdiff_t panels = round_up(network.widest, P) // P
    cdef ptrdiff_t stride = (PREDICT_ROWS + 1) * P, n_in = network.layers[0].n_in
    cdef ptrdiff_t scratch_items = 2 * P * round_up(n_out, P), r, m
    cdef double unseen_flops = 0
    cdef bint refused = False
    cdef bint show_hidden = len(shown) > 1, show_slopes = len(slopes) > 0, shows
    # Where the next row of each goes.
    places = np.array([<size_t>writable_address(out) for out in shown + slopes],
                      np.uintp)
    cdef size_t *at = <size_t *>writable_address(places)
    cdef char *y = <char *>at[len(shown) - 1]
    cdef size_t *slopes_at = at + len(shown)
    cdef cbp_csr csr
    cdef cbp_panels A, Z, S
    cdef int l, fault = 0
    cdef Layout layout = Layout(network)
    cdef cbp_layer *layer
    load_forward(layout, theta)
    buffer = aligned_zeros((2 + show_slopes) * panels * stride + scratch_items,
                           network.dtype)
    cdef char *base = <char *>writable_address(buffer)
    cdef char *scratch = base + (2 + show_slopes) * panels * stride * size
    S.data, S.stride = base + 2 * panels * stride * size, stride
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
            A.data, A.stride = base + panels * stride * size, stride
            Z.data, Z.stride = base, stride
            if sparse is None and not k.gather_finite(
                <const char *>x + r * n_in * size, m, n_in, A
            ) and finite:
                refused = True
                break
            for l in range(network.n_layers):
                layer = &layout.layers[l]
                Z.data = base + (l & 1) * panels * stride * size
                if sparse is not None:
                    csr.indptr = sparse.csr.indptr + r
                shows = show_slopes and l < network.n_layers - 1
                forward_layer(k, layer, &csr if l == 0 and sparse is not None else NULL,
                              NULL, A, Z, 0, m,
                              CBP_IDENTITY if shows else layer.activation)
                if shows:
                    k.keep_slope(Z, S, layer.n_out, 0, m, layer.activation)
                    k.scatter_rows(S, m, layer.n_out, <void *>slopes_at[l],
                                   layer.n_out)
                    slopes_at[l] += m * layer.n_out * size
                look(&unseen_flops, 2.0 * m * layer.n_in * layer.n_out)
                A = Z
                if show_hidden and l < network.n_layers - 1:
                    k.scatter_rows(A, m, layer.n_out, <void *>at[l], layer.n_out)
                    at[l] += m * layer.n_out * size
            if not logits:
                k.apply_output(Z, n_out, 0, m, network.output_code,
                               network.c_loss.groups, scratch)
            k.scatter_rows(Z, m, n_out, y + r * n_out * size, n_out)
            r += m
    if fault:
        raise sparse.error(fault)
    return None if refused else shown[len(shown) - 1]


cdef int look(double *unseen_flops, double flops) except -1 nogil:
    """Counts flops; looks for signals, so that Ctrl-C need not wait for the end."""
    unseen_flops[0] += flops
    if unseen_flops[0] > FLOPS_PER_LOOK:
        unseen_flops[0] = 0
        with gil:
            PyErr_CheckSignals()
    return 0
