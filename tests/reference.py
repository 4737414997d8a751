"""The slow twin of every kernel, and of a whole network, in plain NumPy.

First half: the kernels of src_c/cbp.h under their own names, on ordinary (rows,
columns) arrays instead of panels. Where the numerical contract fixes the order of
operations they return the same bits, thanks to `fma`; outputs and costs, which need exp
or log, are computed in a wider type and agree to rounding.
Second half: `Network` and `train`, the article's equations and scikit-learn's schedules
in float64 with NumPy's own products. Of the first half it uses the tables only.
The tables also say with what the tests try each row: ACTIVATIONS, LOSSES, OPTIMIZERS.
The mathematics stands in docs/backpropagation.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from scipy import optimize, special
from sklearn.utils import shuffle as sklearn_shuffle

BLOCK_ROWS = 128
CHUNK_ROWS = 2048


# ---- one rounding --------------------------------------------------------------------


def two_sum(a, b):
    """a + b rounded, and what the rounding lost (Knuth)."""
    s = a + b
    b_in_s = s - a
    return s, (a - (s - b_in_s)) + (b - b_in_s)


def two_product(a, b):
    """a b rounded, and what the rounding lost (Veltkamp, Dekker), in float64."""

    def halves(x):
        big = x * (2.0**27 + 1)
        high = big - (big - x)
        return high, x - high

    p = a * b
    (a1, a0), (b1, b0) = halves(a), halves(b)
    return p, a0 * b0 - (((p - a1 * b1) - a0 * b1) - a1 * b0)


def add_to_odd(a, b):
    """a + b in float64 if that is exact, else its neighbour with an odd last bit.

    Rounding such a sum once more gives what rounding the exact sum would give (Boldo
    and Melquiond, Emulation of a FMA and correctly rounded sums, 2008).
    """
    s, lost = two_sum(a, b)
    even = s.view(np.int64) % 2 == 0
    neighbour = np.nextafter(s, np.copysign(np.inf, lost))
    return np.where(np.isfinite(lost) & (lost != 0) & even, neighbour, s)


@np.errstate(all="ignore")
def fma(a, b, c):
    """a b + c in one rounding, for float32 and float64.

    In float64 nothing on the way may overflow or fall below 1e-290. The sign of a zero
    is not kept.
    """
    dtype = np.result_type(a, b, c)
    a, b, c = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (a, b, c)))
    if dtype == np.float32:  # a b is exact in float64
        return add_to_odd(a * b, c).astype(np.float32)
    p, p_lost = two_product(a, b)
    low, low_lost = two_sum(c, p_lost)
    high, high_lost = two_sum(p, low)
    exact = high + add_to_odd(high_lost, low_lost)
    return np.where(np.isfinite(exact), exact, a * b + c)


def wider(dtype):
    """The type in which exp and log leave no error that this dtype could see."""
    return np.float64 if dtype == np.float32 else np.longdouble


# ---- elementwise functions -----------------------------------------------------------


def exp(x):
    return np.exp(x)


def log(x):
    return np.log(x)


def log1p(x):
    return np.log1p(x)


def logistic(x):
    e = np.exp(-abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def tanh(x):
    return np.tanh(x)


def expm1(x):
    return np.expm1(x)


def normal(x):
    """Phi(x), of SciPy for float32; in long double, which it does not have, the series
    of erf and the continued fraction of 1 - erf (Abramowitz and Stegun 7.1.6, 7.1.14).
    """
    if x.dtype == np.float64:
        return special.ndtr(x)
    two, y = x.dtype.type(2), abs(x) / np.sqrt(x.dtype.type(2))
    root_pi = np.sqrt(x.dtype.type(4) * np.arctan(x.dtype.type(1)))
    small, large = np.minimum(y, 3), np.clip(y, 3, 100)
    term = total = small.copy()
    for n in range(1, 100):
        term = term * two * small**2 / (2 * n + 1)
        total = total + term
    erf = two / root_pi * np.exp(-(small**2)) * total
    fraction = large.copy()
    for n in range(100, 0, -1):
        fraction = large + n / two / fraction
    tail = np.where(y < 3, 1 - erf, np.exp(-(large**2)) / (root_pi * fraction)) / 2
    return np.where(x > 0, 1 - tail, tail)


# Klambauer et al., 2017, equation 14.
SELU_SCALE = np.longdouble("1.0507009873554804934193349852946")
SELU_ALPHA = np.longdouble("1.6732632423543772848170429916717")


class Activation(NamedTuple):
    """A row of the twin of activations.h."""

    f: Callable  # of z in a wider type
    slope: Callable  # f'(z) of z and a = f(z), in any
    # Where f' is a function of a, in the kernel's operations: delta * f'(z) of delta
    # and a; and of a, whether f'(z) is below 1 % of its maximum. Else f'(z) is kept.
    derive: Callable = lambda delta, s: delta * s
    saturated: Callable = lambda s: abs(s) < s.dtype.type(0.011)
    by_a: bool = True


ACTIVATIONS = {
    "identity": Activation(
        lambda z: z,
        lambda z, a: np.ones_like(a),
        lambda delta, a: delta.copy(),
        lambda a: np.zeros(a.shape, bool),
    ),
    "logistic": Activation(
        logistic,
        lambda z, a: a * (1 - a),
        lambda delta, a: delta * fma(-a, a, a),
        lambda a: a - a * a < a.dtype.type(0.0025),
    ),
    "tanh": Activation(
        np.tanh,
        lambda z, a: 1 - a**2,
        lambda delta, a: delta * fma(-a, a, a.dtype.type(1)),
        lambda a: 1 - a * a < a.dtype.type(0.01),
    ),
    "relu": Activation(
        lambda z: np.where(z < 0, 0, z),  # NaN stays NaN
        lambda z, a: (a > 0).astype(a.dtype),
        lambda delta, a: np.where(a > 0, delta, a.dtype.type(0)),
        lambda a: a <= 0,
    ),
    "leaky_relu": Activation(
        lambda z: np.where(z > 0, z, 0.01 * z),
        lambda z, a: np.where(z > 0, 1.0, 0.01).astype(a.dtype),
        lambda delta, a: np.where(a > 0, delta, delta * a.dtype.type(0.01)),
        lambda a: np.zeros(a.shape, bool),
    ),
    "elu": Activation(
        lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
        lambda z, a: np.where(z > 0, 1, np.exp(np.minimum(z, 0))).astype(a.dtype),
        lambda delta, a: np.where(a > 0, delta, fma(delta, a, delta)),
        lambda a: a + 1 < a.dtype.type(0.01),
    ),
    "selu": Activation(
        lambda z: (
            SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0)))
        ),
        lambda z, a: (
            SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, 0)))
        ).astype(a.dtype),
        lambda delta, a: np.where(
            a > 0,
            a.dtype.type(SELU_SCALE) * delta,
            delta * (a + a.dtype.type(SELU_SCALE * SELU_ALPHA)),
        ),
        lambda a: (
            a + a.dtype.type(SELU_SCALE * SELU_ALPHA)
            < a.dtype.type(0.01) * a.dtype.type(SELU_SCALE * SELU_ALPHA)
        ),
    ),
    "softplus": Activation(
        lambda z: np.logaddexp(0, z), lambda z, a: logistic(z), by_a=False
    ),
    "gelu": Activation(
        lambda z: z * normal(z),
        lambda z, a: (
            normal(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * z.dtype.type(np.pi))
        ),
        by_a=False,
    ),
    "silu": Activation(
        lambda z: z * logistic(z),
        lambda z, a: logistic(z) * (1 + z * logistic(-z)),
        by_a=False,
    ),
    "mish": Activation(
        lambda z: z * np.tanh(np.logaddexp(0, z)),
        lambda z, a: (
            np.tanh(np.logaddexp(0, z))
            + z * logistic(z) / np.cosh(np.logaddexp(0, z)) ** 2
        ),
        by_a=False,
    ),
}


@np.errstate(over="ignore")
def activate(z, activation):
    """a = f(z)"""
    return ACTIVATIONS[activation].f(z.astype(wider(z.dtype))).astype(z.dtype)


@np.errstate(over="ignore")
def keep_slope(z, activation):
    """a = f(z), and f'(z)"""
    row, wide = ACTIVATIONS[activation], z.astype(wider(z.dtype))
    a = row.f(wide)
    return a.astype(z.dtype), row.slope(wide, a).astype(z.dtype)


def what_says_slope(z, activation):
    """What backpropagation keeps of z: a, or f'(z)."""
    a, slope = keep_slope(z, activation)
    return a if ACTIVATIONS[activation].by_a else slope


def multiply_derivative(delta, s, activation):
    """delta f'(z), f' expressed in a = f(z), as a - a^2, or given"""
    return ACTIVATIONS[activation].derive(delta, s)


# ---- dropout -------------------------------------------------------------------------


def philox(counter, key):
    """Philox4x32-7 (Salmon et al., 2011): four words of 32 bits for each counter.

    counter: uint64 array of shape (4, ...), each word below 2^32; key: two such words.
    """
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c = [np.asarray(word, np.uint64) for word in counter]
    k = [np.uint64(word) for word in key]
    for _ in range(7):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> half) ^ c[1] ^ k[0], b & low, (a >> half) ^ c[3] ^ k[1], a & low]
        k[0] = (k[0] + np.uint64(0x9E3779B9)) & low
        k[1] = (k[1] + np.uint64(0xBB67AE85)) & low
    return np.stack(np.broadcast_arrays(*c))


def drop_bits(n_rows, n_units, seed, step, layer):
    """The 16 random bits of every unit for every row of a batch."""
    rows, units = np.arange(n_rows)[:, None], np.arange(n_units)[None]
    key = seed & 0xFFFFFFFF, (seed >> 32) ^ (step >> 32)
    words = philox((units, rows // 8, step & 0xFFFFFFFF, layer), key)
    word = np.take_along_axis(words, (rows % 8 // 2)[None] + 0 * units, axis=0)[0]
    return word >> (16 * (rows % 2)).astype(np.uint64) & np.uint64(0xFFFF)


def drop_factors(n_rows, n_units, rate, seed, step, layer):
    """What each a is multiplied by: 0, or as much as keeps the mean."""
    below = max(1, min(65535, round(rate * 65536))) if rate else 0
    kept = drop_bits(n_rows, n_units, seed, step, layer) >= below
    return np.where(kept, 65536 / (65536 - below), 0.0)


def drop(a, below, seed, step, layer):
    """a with dropout, in its own type"""
    bits = drop_bits(*a.shape, seed, step, layer)
    scale = a.dtype.type(65536 / (65536 - below))
    return np.where(bits >= below, a * scale, a.dtype.type(0))


# ---- moving data ---------------------------------------------------------------------


def gather_rows(X, order):
    return X[order]


def scatter_rows(A):
    return A.copy()


def fill_targets(labels, n_out, dtype):
    """T[r, j] = [j is the label of row r]; one output: the label itself."""
    if n_out == 1:
        return labels[:, None].astype(dtype)
    return (labels[:, None] == np.arange(n_out)).astype(dtype)


def transpose_patch(block):
    return block.T.copy()


def gather_items(x, order):
    return x[order]


def item(x, i):
    return float(x[i])


def add(x, y):
    return x + y


# ---- products ------------------------------------------------------------------------


def product(A, B, start):
    """start + A B: for every element one chain of fma, k ascending."""
    C = np.array(np.broadcast_to(start, (A.shape[0], B.shape[1])))
    for k in range(A.shape[1]):
        C = fma(A[:, k, None], B[k], C)
    return C


def multiply_forward(A, W, b, activation):
    """a = f(A W + b)"""
    start = np.zeros(W.shape[1], W.dtype) if b is None else b
    return activate(product(A, W, start), activation)


def extend_forward(A, W, Z):
    """Z + A W, the chains of multiply_forward gone on with"""
    return product(A, W, Z)


def multiply_forward_csr(X, W, b, activation):
    """a = f(X W + b) for a CSR matrix X"""
    return multiply_forward(X.toarray(), W, b, activation)


def multiply_delta(delta, WT, S, activation):
    """delta_prev = (delta W^T) * f'(z_prev)"""
    start = np.zeros(WT.shape[1], WT.dtype)
    return multiply_derivative(product(delta, WT, start), S, activation)


def forward_row(x, W, b, activation):
    """a = f(x W + b) for one row"""
    return multiply_forward(x[None], W, b, activation)[0]


# ---- sums over rows ------------------------------------------------------------------


def join(parts):
    """The sum of the parts in the order of a binary counter.

    Two sums of as many parts are joined as soon as both are there; what is left at the
    end is joined from the newest to the oldest.
    """
    sums = []  # (number of parts, their sum), oldest first
    for part in parts:
        count = 1
        while sums and sums[-1][0] == count:
            part = sums.pop()[1] + part
            count *= 2
        sums.append((count, part))
    total = sums.pop()[1]
    while sums:
        total = sums.pop()[1] + total
    return total


def sum_gradient(A, D):
    """A^T D for at most CHUNK_ROWS rows"""
    blocks = []
    for start in range(0, len(A), BLOCK_ROWS):
        G = np.zeros((A.shape[1], D.shape[1]), D.dtype)
        for r in range(start, min(start + BLOCK_ROWS, len(A))):
            G = fma(A[r, :, None], D[r], G)
        blocks.append(G)
    return join(blocks)


def sum_gradient_csr(columns, n_rows, D):
    """The same for the columns (start, row, value) of a sparse batch"""
    start, row, value = columns
    A = np.zeros((n_rows, len(start) - 1), D.dtype)
    for k in range(len(start) - 1):
        here = slice(start[k], start[k + 1])
        A[row[here], k] = value[here]
    return sum_gradient(A, D)


def sum_columns(D):
    """Column sums for at most CHUNK_ROWS rows"""
    blocks = []
    for start in range(0, len(D), BLOCK_ROWS):
        g = np.zeros(D.shape[1], D.dtype)
        for r in range(start, min(start + BLOCK_ROWS, len(D))):
            g = g + D[r]
        blocks.append(g)
    return join(blocks)


def sum_in_order(x):
    """Sum of costs or weights in float64, however many there are"""
    total = 0.0
    for chunk in range(0, len(x), CHUNK_ROWS):
        rows = x[chunk : chunk + CHUNK_ROWS].astype(np.float64).tolist()
        starts = range(0, len(rows), BLOCK_ROWS)
        # Not sum(): from Python 3.12 on it compensates rounding errors.
        total += join(
            [reduce(add, rows[start : start + BLOCK_ROWS], 0.0) for start in starts]
        )
    return total


def transpose_csr(X):
    """CSR -> (start, row, value) by columns, rows ascending in each"""
    columns = X.tocsc()
    columns.sort_indices()
    return columns.indptr, columns.indices, columns.data


# ---- output layer and costs ----------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


OUTPUTS = {
    "identity": lambda z: z,
    "logistic": logistic,
    "softmax": softmax,
    "exp": np.exp,
}


@np.errstate(over="ignore")
def apply_output(Z, output):
    """z^L -> a^L"""
    return OUTPUTS[output](Z.astype(wider(Z.dtype))).astype(Z.dtype)


def softmax_log_loss(z, t):
    high = z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(z - high).sum(axis=1)) + high[:, 0]
    return (log_sum - (t * z).sum(axis=1))[:, None]


def logistic_log_loss(z, t):
    return np.maximum(z, 0) - t * z + np.log1p(np.exp(-abs(z)))


def exp_poisson(z, t):
    return t * np.log(np.where(t > 0, t, 1)) - t * z - t + np.exp(z)


def exp_gamma(z, t):
    return z - np.log(t) + t * np.exp(-z) - 1


def exp_tweedie(z, t, p):
    """Its three terms as they are, and the limits for p = 1 and p = 2."""
    inner = np.where((p > 1) & (p < 2), p, 1.5)
    terms = t ** (2 - inner) / ((1 - inner) * (2 - inner))
    terms = terms - t * np.exp((1 - inner) * z) / (1 - inner)
    terms = terms + np.exp((2 - inner) * z) / (2 - inner)
    gamma = exp_gamma(z, np.where(p == 2, t, 1))
    return np.where(p == 1, exp_poisson(z, t), np.where(p == 2, gamma, terms))


def identity_huber(z, t, p):
    d = abs(z - t)
    return np.where(d <= p, d**2 / 2, p * (d - p / 2))


def identity_quantile(z, t, p):
    return np.maximum(p * (t - z), (p - 1) * (t - z))


def quantile_delta(a, t, p):
    return np.where(a == t, 0, np.where(a > t, 1 - p, -p)).astype(a.dtype)


def logistic_focal_log_loss(z, t, s, g):
    a, t = logistic(z), t * (1 - s) + s / 2
    u, v = np.logaddexp(0, -z), np.logaddexp(0, z)
    return t * logistic(-z) ** g * u + (1 - t) * a**g * v


def logistic_focal_delta(a, z, t, s, g):
    b, t = logistic(-z), t * (1 - s) + s / 2
    u, v = np.logaddexp(0, -z), np.logaddexp(0, z)
    return (1 - t) * a**g * (a + g * b * v) - t * b**g * (b + g * a * u)


def log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True)


def softmax_rest(p):
    """1 - p of every class, as the sum of the others."""
    return np.stack([np.delete(p, j, axis=1).sum(1) for j in range(p.shape[1])], 1)


def softmax_focal_log_loss(z, t, s, g):
    t, p = t * (1 - s) + s / z.shape[1], softmax(z)
    return (t * softmax_rest(p) ** g * -log_softmax(z)).sum(axis=1)[:, None]


def softmax_focal_delta(p, z, t, s, g):
    t, r, u = t * (1 - s) + s / z.shape[1], softmax_rest(p), -log_softmax(z)
    h = t * (r**g + g * r ** (g - 1) * p * u)
    return p * (h.sum(axis=1, keepdims=True) - h) - h * r


class Loss(NamedTuple):
    """A row of the twin of losses.h, and the targets that tests take."""

    # Each function also takes the parameters, one row of each.
    cost: Callable  # of z and t, for every output, but in softmax for every row
    delta: Callable  # of a, z and t: (2.5), dl/dz; for most the output's slope cancels
    targets: tuple  # the least and the greatest that is allowed
    draw: Callable  # of a RandomState and a shape: some of them
    # Of a and t: delta in the kernel's operations; None if it needs exp or the like.
    exact_delta: Callable | None = lambda a, t: a - t
    # Of each parameter, values to be tried, which outputs take in turn.
    parameters: tuple = ()
    least_is_refused: bool = False


NUMBERS, COUNTS, SHARES = (-np.inf, np.inf), (0.0, np.inf), (0.0, 1.0)


def draw_numbers(rng, shape):
    return rng.standard_normal(shape)


def draw_counts(rng, shape):
    return rng.poisson(1.5, shape)


def draw_positive(rng, shape):
    return rng.gamma(2.0, 0.7, shape)


def draw_claims(rng, shape):
    """Counts of claims, whose costs add up."""
    return rng.poisson(1.0, shape) * rng.gamma(2.0, 0.7, shape)


def draw_labels(rng, shape):
    return rng.randint(2, size=shape)


LOSSES = {
    ("softmax", "log_loss"): Loss(
        softmax_log_loss, lambda a, z, t: a - t, SHARES, draw_labels
    ),
    ("logistic", "log_loss"): Loss(
        logistic_log_loss, lambda a, z, t: a - t, SHARES, draw_labels
    ),
    ("softmax", "focal_log_loss"): Loss(
        softmax_focal_log_loss,
        softmax_focal_delta,
        SHARES,
        draw_labels,
        None,
        parameters=((0.1,), (1.5,)),
    ),
    ("logistic", "focal_log_loss"): Loss(
        logistic_focal_log_loss,
        logistic_focal_delta,
        SHARES,
        draw_labels,
        None,
        parameters=((0.1, 0.0, 0.2), (2.0, 0.5)),
    ),
    ("logistic", "squared_error"): Loss(
        lambda z, t: (logistic(z) - t) ** 2 / 2,
        lambda a, z, t: (a - t) * a * (1 - a),
        SHARES,
        lambda rng, shape: rng.uniform(size=shape),
        lambda a, t: multiply_derivative(a - t, a, "logistic"),
    ),
    ("identity", "squared_error"): Loss(
        lambda z, t: (z - t) ** 2 / 2, lambda a, z, t: a - t, NUMBERS, draw_numbers
    ),
    ("identity", "absolute_error"): Loss(
        lambda z, t: abs(z - t),
        lambda a, z, t: np.sign(z - t),
        NUMBERS,
        draw_numbers,
        lambda a, t: np.sign(a - t),
    ),
    ("identity", "huber"): Loss(
        identity_huber,
        lambda a, z, t, p: np.clip(z - t, -p, p),
        NUMBERS,
        draw_numbers,
        lambda a, t, p: np.clip(a - t, -p, p),
        parameters=((1.0, 0.3, 2.5),),
    ),
    ("identity", "quantile"): Loss(
        identity_quantile,
        lambda a, z, t, p: quantile_delta(a, t, p),
        NUMBERS,
        draw_numbers,
        quantile_delta,
        parameters=((0.5, 0.1, 0.9, 0.3),),
    ),
    ("exp", "poisson"): Loss(exp_poisson, lambda a, z, t: a - t, COUNTS, draw_counts),
    ("exp", "gamma"): Loss(
        exp_gamma,
        lambda a, z, t: 1 - t * np.exp(-z),
        COUNTS,
        draw_positive,
        None,
        least_is_refused=True,
    ),
    ("exp", "tweedie"): Loss(
        exp_tweedie,
        lambda a, z, t, p: np.exp((2 - p) * z) - t * np.exp((1 - p) * z),
        COUNTS,
        draw_claims,
        None,
        parameters=((1.5, 1.0, 1.9, 1.01),),
    ),
}


def loss_parameters(output, loss, n_out):
    """Of each parameter of a loss, those that its outputs are tried with."""
    rows = LOSSES[output, loss].parameters
    return tuple(tuple(row[j % len(row)] for j in range(n_out)) for row in rows)


def parameter_rows(output, loss, n_out, dtype=np.float64):
    """The same as arrays, as rounded as a kernel of this dtype has them."""
    rows = loss_parameters(output, loss, n_out)
    return [np.array(row, dtype).astype(wider(dtype)) for row in rows]


def cost(z, t, output, loss, parameters=None):
    """l(z, t) summed over the outputs of each row, from z^L: nothing is clipped."""
    if parameters is None:
        parameters = parameter_rows(output, loss, z.shape[1])
    return LOSSES[output, loss].cost(z, t, *parameters).sum(axis=1)


def cost_delta(z, t, output, loss, parameters=None):
    """(2.5): dl/dz"""
    if parameters is None:
        parameters = parameter_rows(output, loss, z.shape[1])
    return LOSSES[output, loss].delta(OUTPUTS[output](z), z, t, *parameters)


def compute_loss(Z, T, weight, output, loss):
    """delta^L, weighted, and the unweighted cost of every row"""
    z, t = Z.astype(wider(Z.dtype)), T.astype(wider(Z.dtype))
    rows = parameter_rows(output, loss, Z.shape[1], Z.dtype)
    delta = cost_delta(z, t, output, loss, rows).astype(Z.dtype)
    if weight is not None:
        delta = delta * weight[:, None]
    row_loss = cost(z, t, output, loss, rows)
    return delta, row_loss.astype(Z.dtype).astype(np.float64)


def compute_loss_row(z, t, weight, output, loss):
    """The same for one row"""
    weight = None if weight is None else np.array([weight], z.dtype)
    delta, row_loss = compute_loss(z[None], t[None], weight, output, loss)
    return delta[0], row_loss[0]


# ---- optimizers ----------------------------------------------------------------------

# Below these, optimizer state and output errors become zero; squares are held up.
DUST = {4: 1e-22, 8: 1e-290}
SQUARE_FLOOR = {4: 1e-33, 8: 1e-270}


def flush_dust(x):
    dust = x.dtype.type(DUST[x.itemsize])
    return np.where(abs(x) <= dust, x.dtype.type(0), x)


def sum_weights(W):
    """Sum of W^2 over lines (n_lines, P): chains down the columns, then by halves."""
    chain = np.full(W.shape[1], np.finfo(W.dtype).tiny)
    for line in W:
        chain = fma(line, line, chain)
    while len(chain) > 1:
        half = len(chain) // 2
        chain = chain[:half] + chain[half:]
    return float(chain[0])


class Optimizer(NamedTuple):
    """A row of the twin of optimizers.h, and how tests try it.

    Every row is also tried with the usual settings; see `cases`.
    """

    step: Callable  # of W, G, state and s: new W and state, in the kernel's operations
    update: Callable  # of a Run, its gradient and parameters: what theta moves by
    steps: dict  # settings of `step` that matter to it, by name
    trainings: dict  # parameters of `train` likewise
    rate: float  # at which small networks learn
    scheduled: bool = False  # whether it knows learning_rate


def step_adam(W, G, state, s):
    """Kingma and Ba, algorithm 1; s: eta, scale, alpha, decay, beta_1, beta_2, epsilon.

    The gradient is (G + alpha W) scale, scale moved into gain and root. Returns the new
    W and state.
    """
    real = W.dtype.type
    m, v = state
    gain_1 = real((1 - s.beta_1) * s.scale)
    root_2 = real(np.sqrt(1 - s.beta_2) * s.scale)
    g = fma(real(s.alpha), W, G)
    m = flush_dust(fma(real(s.beta_1), m, gain_1 * g))
    t = root_2 * g
    square = fma(t, t, real(SQUARE_FLOOR[W.itemsize]))
    v = fma(real(s.beta_2), v, square)
    W = real(1 - s.decay) * W
    return fma(-real(s.eta), m / (np.sqrt(v) + real(s.epsilon)), W), (m, v)


def step_sgd(W, G, state, s):
    """u = momentum u - eta g, W = (1 - decay) W + u; Nesterov looks one step ahead."""
    real = W.dtype.type
    (u,) = state
    rate, momentum = real(s.eta * s.scale), real(s.beta_1)
    g = fma(real(s.alpha), W, G)
    u = flush_dust(fma(-rate, g, momentum * u))
    move = fma(-rate, g, momentum * u) if s.nesterov else u
    return fma(real(1 - s.decay), W, move), (u,)


def update_adam(run, gradient, p):
    m, v = run.state
    m[:] = p.beta_1 * m + (1 - p.beta_1) * gradient
    v[:] = p.beta_2 * v + (1 - p.beta_2) * gradient**2
    correction = np.sqrt(1 - p.beta_2**run.steps) / (1 - p.beta_1**run.steps)
    run.learning_rate = run.eta * correction
    return -run.learning_rate * m / (np.sqrt(v) + p.epsilon)


def update_sgd(run, gradient, p):
    u = run.state[0]
    run.learning_rate = run.eta
    u[:] = p.momentum * u - run.learning_rate * gradient
    if p.nesterovs_momentum:
        return p.momentum * u - run.learning_rate * gradient
    return u


OPTIMIZERS = {
    "sgd": Optimizer(
        step_sgd,
        update_sgd,
        {
            "momentum": {"nesterov": 0},
            "plain": {"nesterov": 0, "beta_1": 0.0, "alpha": 0.0},
        },
        {
            "plain": {"momentum": 0.0, "nesterovs_momentum": False},
            "momentum": {"nesterovs_momentum": False},
            "invscaling": {"learning_rate": "invscaling", "power_t": 0.3},
            "adaptive": {
                "learning_rate": "adaptive",
                "tol": 10.0,
                "n_iter_no_change": 1,
            },
        },
        rate=0.1,
        scheduled=True,
    ),
    "adam": Optimizer(
        step_adam,
        update_adam,
        {"without memory": {"beta_1": 0.0, "beta_2": 0.0}},
        {
            "with other betas": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
            "without memory": {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 1e-2},
        },
        rate=0.02,
    ),
}


def cases(field, usual):
    """By name: an optimizer, and settings for it to be tried with.

    Those of its row's `steps` or `trainings`, and `usual` ones that all are tried with.
    """
    return {
        f"{name} {case}".strip(): (name, settings)
        for name, row in OPTIMIZERS.items()
        for case, settings in {**usual, **getattr(row, field)}.items()
    }


def all_finite(x):
    return bool(np.isfinite(x).all())


# ---- what gradient flow is measured with


def average(mean, x, share):
    return fma(mean.dtype.type(share), x - mean, mean)


def sum_penalized_squares(G, W, alpha):
    return sum_squares(G.astype(np.float64) + alpha * W.astype(np.float64))


def sum_squares(x):
    """Sum of x^2 over lines (n_lines, P) in float64: down the columns, then across."""
    lanes = np.zeros(x.shape[1])
    for line in x.astype(np.float64):
        lanes += line * line
    total = 0.0
    for lane in lanes:
        total += lane
    return float(total)


def sum_squared_change(now, before):
    return sum_squares(now.astype(np.float64) - before.astype(np.float64))


def count_below(x, limit):
    return int((x < limit).sum())


def count_saturated(s, activation):
    """Per unit, the rows in which f'(z) lies below 1 % of its maximum."""
    return ACTIVATIONS[activation].saturated(s).sum(axis=0)


# ---- a network, independent of the kernels above -------------------------------------


@dataclass
class Network:
    """Shapes and kinds of a network; theta = [W1 ... WL | b1 ... bL].

    Targets are (n_samples, n_outputs) matrices, labels turned into ones by
    `fill_targets`. groups: the numbers of outputs of several labels, each of which has
    a softmax and a cost of its own. parameters: of the loss, one row of each; None
    means those that kernels are tried with.
    """

    layer_sizes: tuple
    activations: tuple
    output: str
    loss: str
    groups: tuple = ()
    parameters: tuple | None = None

    def parts(self):
        """The outputs of every label."""
        ends = np.cumsum([0, *(self.groups or self.layer_sizes[-1:])])
        return [slice(*pair) for pair in zip(ends[:-1], ends[1:], strict=True)]

    def over_parts(self, function, z, target):
        """What `cost` or `cost_delta` gives for the outputs of every label."""
        given = self.parameters
        return [
            function(
                z[:, p],
                target[:, p],
                self.output,
                self.loss,
                None if given is None else [np.asarray(row)[p] for row in given],
            )
            for p in self.parts()
        ]

    def unpack(self, theta):
        """W and b of every layer, as views."""
        shapes = list(zip(self.layer_sizes, self.layer_sizes[1:], strict=False))
        W, b, at = [], [], 0
        for n_in, n_out in shapes:
            W.append(theta[at : at + n_in * n_out].reshape(n_in, n_out))
            at += n_in * n_out
        for _, n_out in shapes:
            b.append(theta[at : at + n_out])
            at += n_out
        assert at == theta.size
        return W, b

    def forward(self, theta, X, factors=None):
        """(1.1), (1.2): z of every layer, and a of every layer but the last; factors:
        of dropout, of the inputs and of every hidden layer."""
        W, b = self.unpack(theta)
        z, a = [], [X if factors is None else X * factors[0]]
        for layer in range(len(W)):
            z.append(a[-1] @ W[layer] + b[layer])
            if layer < len(W) - 1:
                a.append(activate(z[-1], self.activations[layer]))
                if factors is not None:
                    a[-1] = a[-1] * factors[layer + 1]
        return z, a

    def predict(self, theta, X):
        z = self.forward(theta, X)[0][-1]
        return np.hstack([apply_output(z[:, p], self.output) for p in self.parts()])

    def deltas(self, theta, X, target, factors=None):
        """(2.5), (3.7): dC/dz of every layer for every row, C the cost of that row."""
        W, _ = self.unpack(theta)
        z, a = self.forward(theta, X, factors)
        delta = [np.hstack(self.over_parts(cost_delta, z[-1], target))]
        for layer in range(len(W) - 1, 0, -1):
            f = self.activations[layer - 1]
            slope = ACTIVATIONS[f].slope(z[layer - 1], activate(z[layer - 1], f))
            if factors is not None:
                slope = slope * factors[layer]
            delta.insert(0, (delta[0] @ W[layer].T) * slope)
        return delta, a

    def loss_gradient(self, theta, X, target, weight=None, alpha=0.0, factors=None):
        """Mean cost with penalty and its gradient, (4.1) and (5.1).

        C = (sum_i w_i l_i + alpha / 2 sum W^2) / sum_i w_i
        """
        if weight is None:
            weight = np.ones(len(X))
        W, _ = self.unpack(theta)
        z, _ = self.forward(theta, X, factors)
        rows = sum(self.over_parts(cost, z[-1], target))
        squares = sum((w**2).sum() for w in W)
        delta, a = self.deltas(theta, X, target, factors)
        dW = [
            a[layer].T @ (weight[:, None] * delta[layer]) + alpha * W[layer]
            for layer in range(len(W))
        ]
        db = [weight @ d for d in delta]
        gradient = np.concatenate([g.ravel() for g in dW + db])
        value = weight @ rows + alpha / 2 * squares
        return value / weight.sum(), gradient / weight.sum()


@dataclass
class Run:
    """One training: where it stands, and what it leaves behind."""

    theta: np.ndarray
    learning_rate: float
    state: list  # the optimizer's vectors, as many as any needs
    t: int = 0  # samples seen
    steps: int = 0
    base: float = 0.0  # the rate before the factor of a step
    eta: float = 0.0  # with it, before Adam's corrections
    mean: np.ndarray | None = None  # of theta over steps
    norms: list = field(default_factory=list)  # of gradients, before they are clipped
    best_loss: float = np.inf
    scores: list = field(default_factory=list)
    best_score: float = -np.inf
    best_theta: np.ndarray | None = None
    no_improvement_count: int = 0
    loss_curve: list = field(default_factory=list)
    status: str = "max_iter"


def train(
    network,
    theta,
    X,
    target,
    *,
    sample_weight=None,
    solver="adam",
    alpha=0.0,
    batch_size=200,
    shuffle=True,
    random_state=None,
    learning_rate="constant",
    learning_rate_init=1e-3,
    power_t=0.5,
    momentum=0.9,
    nesterovs_momentum=True,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
    tol=1e-4,
    n_iter_no_change=10,
    warmup=0.0,
    weight_decay=0.0,
    max_grad_norm=np.inf,
    average=0.0,
    dropout=(),
    max_iter=5,
    score=None,
):
    """scikit-learn's stochastic training, its parameters under the same names.

    As in the engine, the loss of an epoch is averaged by weight, and a batch without
    weight changes nothing, nor does a row. score: of a theta, for early stopping.
    """
    row = OPTIMIZERS[solver]
    run = Run(
        theta.copy(), learning_rate_init, [np.zeros_like(theta) for _ in range(2)]
    )
    run.base, run.mean = learning_rate_init, theta.copy()
    sizes = network.layer_sizes
    n_weights = sum(m * n for m, n in zip(sizes[:-1], sizes[1:], strict=True))
    n_batches = -(-len(X) // batch_size)
    parameters = SimpleNamespace(
        momentum=momentum,
        nesterovs_momentum=nesterovs_momentum,
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
    )
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    order = np.arange(len(X))
    seed = int(random_state.randint(2**63, dtype=np.int64)) if dropout else 0

    def patience_is_out():
        """Once patience has run out, `adaptive` goes on with a fifth of the rate."""
        if run.no_improvement_count <= n_iter_no_change:
            return False
        adaptive = row.scheduled and learning_rate == "adaptive"
        if not adaptive or run.base <= 1e-6:
            return True
        run.base /= 5
        run.learning_rate = run.base
        run.no_improvement_count = 0
        return False

    for epoch in range(max_iter):
        if shuffle:
            order = sklearn_shuffle(order, random_state=random_state)
        sum_loss = sum_weight = 0.0
        for batch, start in enumerate(range(0, len(X), batch_size)):
            rows = order[start : start + batch_size]
            n_taken, rows = len(rows), rows[weight[rows] > 0]
            w = weight[rows]
            if len(rows) == 0:
                continue
            factors = [
                drop_factors(len(rows), n, rate, seed, run.steps, layer)
                for layer, (n, rate) in enumerate(zip(sizes, dropout, strict=False))
            ]
            loss, gradient = network.loss_gradient(
                run.theta, X[rows], target[rows], w, alpha, factors or None
            )
            run.steps += 1
            run.t += n_taken
            place = (epoch + batch / n_batches) / max_iter
            done = (epoch + (batch + 1) / n_batches) / max_iter
            run.eta = run.base * rate_factor(learning_rate, place, done, warmup)
            norm = np.sqrt(gradient @ gradient)
            run.norms.append(norm)
            if norm > max_grad_norm:
                gradient = gradient * (max_grad_norm / norm)
            kept = np.ones_like(theta)
            kept[:n_weights] -= weight_decay * run.eta
            run.theta = kept * run.theta + row.update(run, gradient, parameters)
            share = 1 - min(average, run.steps / (run.steps + 9))
            run.mean += share * (run.theta - run.mean)
            sum_loss += loss * w.sum()
            sum_weight += w.sum()
        loss = sum_loss / sum_weight
        run.loss_curve.append(loss)
        improved = loss <= run.best_loss - tol
        if score is not None:
            improved = keep_best(
                run, run.mean if average > 0 else run.theta, score, tol
            )
        run.no_improvement_count = 0 if improved else run.no_improvement_count + 1
        run.best_loss = min(run.best_loss, loss)
        if row.scheduled and learning_rate == "invscaling":
            run.base = learning_rate_init / (run.t + 1) ** power_t
            run.learning_rate = run.base
        if patience_is_out():
            run.status = "converged"
            break
    if average > 0:
        run.theta = run.mean
    if score is not None:
        run.theta = run.best_theta
    return run


def keep_best(run, theta, score, tol):
    """Whether theta scores better than all before; the best is kept."""
    run.scores.append(score(theta))
    improved = run.scores[-1] >= run.best_score + tol
    if run.scores[-1] > run.best_score:
        run.best_score, run.best_theta = run.scores[-1], theta.copy()
    return improved


def train_lbfgs(
    network, theta, X, target, *, sample_weight=None, alpha=0.0, tol=1e-4, max_iter=5
):
    """The same by SciPy's L-BFGS-B on all rows."""
    run = Run(theta.copy(), 0.0, [])

    def note(intermediate_result):
        run.loss_curve.append(intermediate_result.fun)

    result = optimize.minimize(
        network.loss_gradient,
        theta,
        (X, target, sample_weight, alpha),
        "L-BFGS-B",
        jac=True,
        callback=note,
        options={"maxfun": 15000, "maxiter": max_iter, "gtol": tol},
    )
    run.theta = result.x
    run.status = "max_iter" if result.status == 1 else "converged"
    return run


def rate_factor(learning_rate, place, done, warmup):
    """What a learning rate is multiplied by; place: share of training done before the
    step, done: behind it."""

    def down(start, end, p):
        return end + (start - end) * (1 + np.cos(np.pi * p)) / 2

    if learning_rate == "one_cycle":
        rise = warmup or 0.3
        if place < rise:
            return down(1 / 25, 1, place / rise)
        return down(1, 1 / 25e4, (place - rise) / (1 - rise))
    factors = {
        "cosine": lambda p: down(1, 0, p),
        "linear": lambda p: 1 - p,
        "exponential": lambda p: 0.01**p,
    }
    if not callable(learning_rate):
        learning_rate = factors.get(learning_rate, lambda p: 1.0)
    return learning_rate(place) * (done / warmup if done < warmup else 1)
