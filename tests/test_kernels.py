"""Every kernel of every tier and dtype against its slow twin in reference.py.

Equality means equal bits wherever the order of operations is fixed. All buffers stand
between guard bands; inputs are followed by NaN, which would spoil the result of a
kernel that used it.
"""

import ctypes
import sys
from ctypes import byref
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from child import run_python
from kernel_table import (
    ACTIVATIONS,
    DTYPES,
    LOSSES,
    N_STATES,
    OPTIMIZERS,
    OUTPUTS,
    TABLES,
    TIERS,
    Columns,
    CsrRows,
    Groups,
    Kernels,
    LossOf,
    Matrix,
    Vector,
    assert_same,
    assert_same_bytes,
    cbp_layer,
    cbp_online,
    cbp_step,
    pointers_to,
)
from scipy.sparse import csr_matrix

from cbp._catalog import OPTIMIZERS as OPTIMIZER_ROWS

# Round every vector width.
SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65)
# Every count of rows that a product tile of any tier can have, and beyond.
TILE_SIZES = tuple(sorted({*SIZES, *range(26), 47, 48, 49, 50, 73}))
# Round the blocks of sums over rows; 891, 1664 and 1920 leave three and four sums to be
# joined at the end.
SUM_SIZES = (1, 2, 3, 4, 5, 127, 128, 129, 255, 256, 257, 385, 513, 891)
SUM_SIZES += (1025, 1664, 1920, 1921, 2048)

# (rows, n_in, n_out) of products; two at the end have several blocks of k.
PRODUCTS = sorted(
    {(rows, 5, 17) for rows in TILE_SIZES}
    | {(5, n_in, 17) for n_in in SIZES}
    | {(5, 17, n_out) for n_out in SIZES}
) + [(3, 257, 9), (7, 530, 17)]

IDENTITY_LOSSES = [loss for loss in LOSSES if loss[0] == "identity"]

every_table = pytest.mark.parametrize("kernels", TABLES, ids=repr)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def code(names, name):
    return names.index(name)


def random(*shape, dtype, seed=0, scale=1.0):
    """Normal numbers, different for every shape and seed."""
    rng = np.random.RandomState([seed, *shape])
    return (scale * rng.standard_normal(shape)).astype(dtype)


def scalar_twin(kernels):
    """The scalar table of the same dtype: the oracle of the vector tiers."""
    return Kernels("scalar", kernels.dtype)


# ---- calls with guarded buffers ------------------------------------------------------


def padded(b, P):
    """One or more whole lines: b and zeros."""
    return np.concatenate([b, np.zeros(-len(b) % P, b.dtype)])


def call_forward(kernels, A, W, b, activation, r0=0, r1=None):
    """Rows r0 .. r1 - 1 of f(A W + b)."""
    r1 = len(A) if r1 is None else r1
    n_in, n_out = W.shape
    inputs = [Matrix(kernels.P, A), Matrix(kernels.P, W)]
    bias = None if b is None else Vector(padded(b, kernels.P))
    Z = Matrix.output(kernels.P, len(A), n_out, kernels.dtype)
    kernels.multiply_forward(
        inputs[0].panels,
        n_in,
        inputs[1].panels,
        None if b is None else bias.pointer,
        Z.panels,
        n_out,
        r0,
        r1,
        code(ACTIVATIONS, activation),
    )
    check_rows(Z, inputs, r0, r1)
    return Z.values[r0:r1]


def call_extend(kernels, A, W, start, r0=0, r1=None):
    """Rows r0 .. r1 - 1 of start + A W."""
    r1 = len(A) if r1 is None else r1
    inputs = [Matrix(kernels.P, A), Matrix(kernels.P, W)]
    Z = Matrix(kernels.P, start)
    kernels.extend_forward(
        inputs[0].panels, len(W), inputs[1].panels, Z.panels, W.shape[1], r0, r1
    )
    check_rows(Z, inputs, r0, r1)
    return Z.values[r0:r1]


def slope_code(activation):
    """The number of an activation where S is given: its own if S is a."""
    by_a = reference.ACTIVATIONS[activation].by_a
    return code(ACTIVATIONS, activation) if by_a else len(ACTIVATIONS)


def call_delta(kernels, delta, WT, S, activation, r0=0, r1=None):
    """Rows r0 .. r1 - 1 of (delta W^T) * f', which S says."""
    r1 = len(S) if r1 is None else r1
    n_out, n_in = WT.shape
    inputs = [Matrix(kernels.P, M) for M in (delta, WT, S)]
    D = Matrix.output(kernels.P, len(S), n_in, kernels.dtype)
    kernels.multiply_delta(
        inputs[0].panels,
        n_out,
        inputs[1].panels,
        inputs[2].panels,
        D.panels,
        n_in,
        r0,
        r1,
        slope_code(activation),
    )
    check_rows(D, inputs, r0, r1)
    return D.values[r0:r1]


def check_rows(output, inputs, r0, r1):
    """Only these rows were written, with zeros in the padding columns."""
    output.assert_only_rows(r0, r1)
    assert not output.padding(r0, r1).any()
    for matrix in inputs:
        matrix.assert_unchanged()


def call_loss(kernels, Z, target, weight, loss, r0=0, r1=None, groups=()):
    """delta and row costs of rows r0 .. r1 - 1; target: labels or a matrix."""
    r1 = len(Z) if r1 is None else r1
    P, (rows, n_out) = kernels.P, Z.shape
    are_labels = target.dtype == np.int32
    labels = target if are_labels else np.zeros(rows, np.int32)
    T = Matrix(P, np.zeros_like(Z) if are_labels else target)
    delta, label_items = Matrix(P, Z, fill=0xA5), Vector(labels)
    weight_items = None if weight is None else Vector(weight)
    row_loss = Vector.output(rows, np.float64)
    scratch = Vector.output(2 * P * (n_out + -n_out % P), kernels.dtype)
    before = row_loss.values
    parameters = reference.loss_parameters(*loss, n_out)
    loss_of = LossOf(loss, n_out, kernels, parameters, groups)
    kernels.compute_loss(
        delta.panels,
        T.panels,
        label_items.pointer,
        None if weight is None else weight_items.pointer,
        n_out,
        r0,
        r1,
        loss_of.pointer,
        row_loss.pointer,
        scratch.pointer,
    )
    check_rows(delta, [T, label_items], r0, r1)
    row_loss.assert_guards()
    scratch.assert_guards()
    losses = row_loss.values
    assert_same_bytes(losses[:r0], before[:r0])
    assert_same_bytes(losses[r1:], before[r1:])
    return delta.values[r0:r1], losses[r0:r1]


def call_loss_row(kernels, z, target, weight, loss, groups=()):
    """delta and cost of one row; target: a label, one for each group, or a row of
    targets."""
    P, n_out = kernels.P, len(z)
    are_labels = np.asarray(target).dtype.kind == "i"
    labels = Vector(np.array(target if are_labels else 0, np.int32).ravel())
    targets = Vector(padded(np.zeros_like(z) if are_labels else target, P))
    delta = Vector(padded(z, P), fill=0xA5)
    w = None if weight is None else Vector(np.array([weight], kernels.dtype))
    row_loss = Vector.output(1, np.float64)
    scratch = Vector.output(2 * P * (n_out + -n_out % P), kernels.dtype)
    parameters = reference.loss_parameters(*loss, n_out)
    loss_of = LossOf(loss, n_out, kernels, parameters, groups)
    kernels.compute_loss_row(
        delta.pointer,
        targets.pointer,
        labels.pointer,
        None if weight is None else w.pointer,
        n_out,
        loss_of.pointer,
        row_loss.pointer,
        scratch.pointer,
    )
    for written in (delta, row_loss, scratch):
        written.assert_guards()
    targets.assert_unchanged()
    assert not delta.values[n_out:].any()
    return delta.values[:n_out], row_loss.values[0]


def call_output(kernels, Z, output, r0=0, r1=None, groups=()):
    """Rows r0 .. r1 - 1 of the output activations."""
    r1 = len(Z) if r1 is None else r1
    P, n_out = kernels.P, Z.shape[1]
    A = Matrix(P, Z, fill=0xA5)
    scratch = Vector.output(2 * P * (n_out + -n_out % P), kernels.dtype)
    groups = Groups(groups)
    kernels.apply_output(
        A.panels,
        n_out,
        r0,
        r1,
        code(OUTPUTS, output),
        groups.pointer,
        scratch.pointer,
    )
    check_rows(A, [], r0, r1)
    scratch.assert_guards()
    return A.values[r0:r1]


def call_elementwise(kernels, name, x, *arguments):
    """kernel(x, *arguments) in place, on n reals, n a multiple of P."""
    buffer = Vector(x, fill=0xA5)
    getattr(kernels, name)(buffer.pointer, *arguments)
    buffer.assert_guards()
    return buffer.values


def call_step(kernels, solver, W, G, states, settings):
    """New W and states, and the sum of W^2 before the step; all of shape (lines, P)."""
    W, G = Vector(W, fill=0xA5), Vector(G)
    states = [Vector(state, fill=0xA5) for state in states]
    step = cbp_step(**vars(settings))
    squares = kernels.step[code(OPTIMIZERS, solver)](
        W.pointer, G.pointer, pointers_to(states), W.values.size, byref(step)
    )
    G.assert_unchanged()
    for written in (W, *states):
        written.assert_guards()
    return W.values, [state.values for state in states], squares


def call_row(kernels, x, W, b, activation, layout):
    """f(x W + b) for one row, W in panels or row by row."""
    P, (n_in, n_out) = kernels.P, W.shape
    if layout == "panels":
        weights = Matrix(P, W)
        strides = weights.lines * P, P
    else:
        weights = Vector(W)
        strides = P, n_out
    x, bias = Vector(x), None if b is None else Vector(b)
    z = Vector.output(n_out + -n_out % P, kernels.dtype)
    kernels.forward_row(
        x.pointer,
        n_in,
        weights.pointer,
        *strides,
        None if b is None else bias.pointer,
        n_out,
        z.pointer,
        code(ACTIVATIONS, activation),
    )
    z.assert_guards()
    for read in (x, weights):
        read.assert_unchanged()
    assert not z.values[n_out:].any()
    return z.values[:n_out]


def call_sum_gradient(kernels, A, D):
    """A^T D for one panel of A and every panel of D, which are full."""
    G = Matrix.output(kernels.P, A.shape[1], D.shape[1], kernels.dtype)
    A, D = Matrix(kernels.P, A), Matrix(kernels.P, D)
    n_panels = D.cols // kernels.P
    kernels.sum_gradient(A.panel(0), D.panels, n_panels, A.rows, A.cols, G.panels)
    G.assert_only_rows(0, A.cols)
    A.assert_unchanged()
    D.assert_unchanged()
    return G.values


def sparse(rows, cols, density, dtype, seed=0):
    """A CSR matrix with ascending indices, empty rows among them."""
    X = random(rows, cols, dtype=dtype, seed=seed)
    rng = np.random.RandomState([seed, rows, cols, 1])
    X[rng.uniform(size=X.shape) >= density] = 0
    X[rng.uniform(size=rows) < 0.1] = 0
    return csr_matrix(X)


def call_forward_csr(kernels, X, order, W, b, activation, r0=0, r1=None):
    """Rows r0 .. r1 - 1 of f(X[order] W + b)."""
    n_rows = X.shape[0] if order is None else len(order)
    r1 = n_rows if r1 is None else r1
    X, W, bias = CsrRows(X), Matrix(kernels.P, W), Vector(padded(b, kernels.P))
    rows = None if order is None else Vector(order)
    Z = Matrix.output(kernels.P, n_rows, W.cols, kernels.dtype)
    kernels.multiply_forward_csr(
        X.pointer,
        None if order is None else rows.pointer,
        W.panels,
        bias.pointer,
        Z.panels,
        W.cols,
        r0,
        r1,
        code(ACTIVATIONS, activation),
    )
    check_rows(Z, [W, *X.parts], r0, r1)
    return Z.values[r0:r1]


def call_transpose_csr(kernels, X, order):
    """The rows X[order] as columns."""
    n_rows = X.shape[0] if order is None else len(order)
    columns = Columns(
        X.shape[1], X.nnz if order is None else X[order].nnz, kernels.dtype
    )
    rows, order = CsrRows(X), None if order is None else Vector(order)
    kernels.transpose_csr(
        rows.pointer,
        None if order is None else order.pointer,
        n_rows,
        X.shape[1],
        columns.pointer,
    )
    for written in columns.parts:
        written.assert_guards()
    for read in rows.parts:
        read.assert_unchanged()
    return columns


# ---- the table -----------------------------------------------------------------------


def test_tables_exist_for_the_scalar_tier_and_the_one_in_use():
    from cbp import _kernels

    assert TIERS[0] == "scalar"
    assert _kernels.isa() in TIERS


@every_table
def test_table_says_what_it_is(kernels):
    assert kernels.table.tier.decode() == kernels.tier
    assert kernels.itemsize == kernels.dtype.itemsize
    assert kernels.P * kernels.itemsize == 64


@every_dtype
def test_reference_fma_rounds_once(dtype):
    rng = np.random.RandomState(0)
    a, b, c = rng.standard_normal((3, 500)).astype(dtype)
    c[::2] = -(a * b)[::2]  # what is left is the rounding error of the product
    c[1::4] *= dtype.type(1e-6)
    c[5] = 0
    for x, y, z, got in zip(a, b, c, reference.fma(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        for neighbour in (np.nextafter(got, -np.inf), np.nextafter(got, np.inf)):
            error = abs(Fraction(float(got)) - exact)
            assert error <= abs(Fraction(float(neighbour)) - exact)


# ---- moving data ---------------------------------------------------------------------


@every_table
@pytest.mark.parametrize("cols", SIZES)
def test_gather_rows_fills_panels_and_pads_with_zeros(kernels, cols):
    X = random(40, cols, dtype=kernels.dtype)
    order = np.random.RandomState(cols).permutation(40)
    for rows in (0, 1, 5, 17):
        for chosen in (order[:rows], None):
            A = Matrix.output(kernels.P, rows, cols, kernels.dtype)
            from_X = Vector(X)
            numbers = None if chosen is None else Vector(chosen)
            kernels.gather_rows(
                from_X.pointer,
                cols,
                None if chosen is None else numbers.pointer,
                rows,
                cols,
                A.panels,
            )
            check_rows(A, [from_X], 0, rows)
            rows_of_X = np.arange(rows) if chosen is None else chosen
            assert_same_bytes(A.values, reference.gather_rows(X, rows_of_X))


@every_table
@pytest.mark.parametrize("cols", SIZES)
def test_scatter_rows_writes_rows_without_padding(kernels, cols):
    A = random(9, cols, dtype=kernels.dtype)
    for rows in (0, 1, 9):
        X = Vector.output((9, cols), kernels.dtype)
        before = X.values
        kernels.scatter_rows(Matrix(kernels.P, A).panels, rows, cols, X.pointer, cols)
        X.assert_guards()
        assert_same_bytes(X.values[:rows], reference.scatter_rows(A)[:rows])
        assert_same_bytes(X.values[rows:], before[rows:])


@every_table
@pytest.mark.parametrize("n_out", SIZES[1:])
def test_fill_targets_writes_ones_at_labels(kernels, n_out):
    labels = np.random.RandomState(n_out).randint(max(n_out, 2), size=33)
    labels = labels.astype(np.int32)
    T = Matrix.output(kernels.P, 33, n_out, kernels.dtype)
    kernels.fill_targets(Vector(labels).pointer, 33, n_out, None, T.panels)
    check_rows(T, [], 0, 33)
    assert_same(T.values, reference.fill_targets(labels, n_out, kernels.dtype))


# Outputs of several labels: of one, two and many classes, across panels.
GROUPS = [(1, 1), (2, 3), (3, 1, 2, 11), (17, 16, 2), (5,) * 9]


def group_labels(groups, rows):
    rng = np.random.RandomState(len(groups))
    columns = [rng.randint(n, size=rows) for n in groups]
    return np.column_stack(columns).astype(np.int32)


@every_table
@pytest.mark.parametrize("groups", GROUPS)
def test_fill_targets_writes_ones_at_the_labels_of_every_group(kernels, groups):
    labels, given = Vector(group_labels(groups, 33)), Groups(groups)
    T = Matrix.output(kernels.P, 33, sum(groups), kernels.dtype)
    kernels.fill_targets(labels.pointer, 33, sum(groups), given.pointer, T.panels)
    check_rows(T, [labels], 0, 33)
    parts = [
        reference.fill_targets(column, n, kernels.dtype)
        for column, n in zip(labels.values.T, groups, strict=True)
    ]
    assert_same(T.values, np.hstack(parts))


@every_table
def test_transpose_patch_transposes(kernels):
    block = random(kernels.P, kernels.P, dtype=kernels.dtype)
    source, out = Vector(block), Vector.output(block.shape, kernels.dtype)
    kernels.transpose_patch(source.pointer, out.pointer)
    out.assert_guards()
    source.assert_unchanged()
    assert_same_bytes(out.values, reference.transpose_patch(block))


@every_table
@pytest.mark.parametrize("cols", [1, 15, 16, 17, 33])
def test_gather_finite_fills_panels_and_finds_every_bad_item(kernels, cols):
    X = random(3, cols, dtype=kernels.dtype) * kernels.dtype.type(1e30)
    places = [(None, 0), *((r, c) for r in range(3) for c in range(cols))]
    for row, column in places:
        for bad in (np.nan, np.inf, -np.inf):
            rows = X.copy()
            if row is not None:
                rows[row, column] = bad
            A = Matrix.output(kernels.P, 3, cols, kernels.dtype)
            # Bad items before and behind do not count.
            items = Vector(np.concatenate([[bad], rows.ravel(), [bad]]).astype(X.dtype))
            start = items.pointer.value + X.itemsize
            finite = kernels.gather_finite(start, 3, cols, A.panels)
            assert finite == reference.all_finite(rows)
            check_rows(A, [], 0, 3)
            assert_same_bytes(A.values, rows)


@every_table
@pytest.mark.parametrize("n", SIZES)
def test_gather_items_and_item_pick_items(kernels, n):
    x = random(70, dtype=kernels.dtype)
    order = np.random.RandomState(n).permutation(70)[:n]
    out = Vector.output(n, kernels.dtype)
    kernels.gather_items(Vector(x).pointer, Vector(order).pointer, n, out.pointer)
    out.assert_guards()
    assert_same_bytes(out.values, reference.gather_items(x, order))
    for i in order[:3]:
        assert kernels.item(Vector(x).pointer, i) == reference.item(x, i)


@every_table
@pytest.mark.parametrize("lines", [0, 1, 2, 5])
def test_add_adds(kernels, lines):
    x, y = random(2, lines * kernels.P, dtype=kernels.dtype)
    other = Vector(y)
    got = call_elementwise(kernels, "add", x, other.pointer, len(x))
    other.assert_unchanged()
    assert_same_bytes(got, reference.add(x, y))


@every_table
def test_all_finite_sees_every_place_and_no_further(kernels):
    for n in SIZES:
        x = random(n, dtype=kernels.dtype) * kernels.dtype.type(1e30)
        assert kernels.all_finite(Vector(x).pointer, n)
        for place in range(n):
            for bad in (np.nan, np.inf, -np.inf):
                y = x.copy()
                y[place] = bad
                assert not kernels.all_finite(Vector(y).pointer, n), (n, place, bad)
                assert reference.all_finite(y) is False


# ---- products ------------------------------------------------------------------------


@cache
def product_case(dtype, rows, n_in, n_out):
    """Operands of a product and its bits."""
    A = random(rows, n_in, dtype=dtype, seed=1)
    W = random(n_in, n_out, dtype=dtype, seed=2)
    b = random(n_out, dtype=dtype, seed=3)
    forward = reference.multiply_forward(A, W, b, "identity")
    without_bias = reference.multiply_delta(A, W, forward, "identity")
    return A, W, b, forward, without_bias


@every_table
def test_products_are_one_fma_chain_per_element_from_the_bias(kernels):
    for sizes in PRODUCTS:
        A, W, b, forward, _ = product_case(kernels.dtype, *sizes)
        assert_same(call_forward(kernels, A, W, b, "identity"), forward)
        relu = reference.activate(forward, "relu")
        assert_same(call_forward(kernels, A, W, b, "relu"), relu)


@every_table
def test_products_without_bias_begin_from_zero(kernels):
    for sizes in PRODUCTS:
        A, W, _, forward, from_zero = product_case(kernels.dtype, *sizes)
        assert_same(call_forward(kernels, A, W, None, "identity"), from_zero)
        assert_same(call_delta(kernels, A, W, forward, "identity"), from_zero)


@every_table
def test_a_forward_product_may_be_computed_in_parts(kernels):
    for sizes in [*PRODUCTS, (5, 3 * kernels.P + 5, 10), (70, 2 * kernels.P, 4)]:
        A, W, b, forward, _ = product_case(kernels.dtype, *sizes)
        first = len(W) // 2
        start = reference.multiply_forward(A[:, :first], W[:first], b, "identity")
        twin = reference.extend_forward(A[:, first:], W[first:], start)
        assert_same(call_extend(kernels, A[:, first:], W[first:], start), twin)
        assert_same(twin, forward)
    r0, r1 = 7, 61
    start = call_extend(kernels, A[:, first:], W[first:], start, r0, r1)
    assert_same(start, forward[r0:r1])


@every_table
def test_products_keep_subnormals(kernels):
    tiny = np.finfo(kernels.dtype).smallest_subnormal
    A = np.full((7, 3), 5 * tiny, kernels.dtype)
    W, b = np.ones((3, 17), kernels.dtype), np.full(17, -tiny, kernels.dtype)
    expected = np.full((7, 17), 14 * tiny, kernels.dtype)
    assert_same(call_forward(kernels, A, W, b, "relu"), expected)
    assert_same(call_delta(kernels, A, W, expected, "relu"), expected + tiny)
    assert_same(call_row(kernels, A[0], W, b, "relu", "rows"), expected[0])


@every_table
@every_activation
def test_delta_is_the_product_times_the_derivative(kernels, activation):
    for sizes in PRODUCTS:
        delta, WT, _, z, from_zero = product_case(kernels.dtype, *sizes)
        s = reference.what_says_slope(z, activation)
        expected = reference.multiply_derivative(from_zero, s, activation)
        assert_same(call_delta(kernels, delta, WT, s, activation), expected)


@every_table
@every_activation
def test_products_write_only_the_rows_they_are_given(kernels, activation):
    A, W, b, z, from_zero = product_case(kernels.dtype, 50, 5, 17)
    s = reference.what_says_slope(z, activation)
    forward = call_forward(kernels, A, W, b, activation)
    delta = call_delta(kernels, A, W, s, activation)
    for r0, r1 in ((0, 0), (0, 1), (1, 2), (7, 40), (16, 48), (49, 50), (50, 50)):
        part = call_forward(kernels, A, W, b, activation, r0, r1)
        assert_same_bytes(part, forward[r0:r1])
        part = call_delta(kernels, A, W, s, activation, r0, r1)
        assert_same_bytes(part, delta[r0:r1])


@every_table
@every_activation
def test_fused_epilogues_equal_their_unfused_twins(kernels, activation):
    number, P = code(ACTIVATIONS, activation), kernels.P
    A, W, b, _, _ = product_case(kernels.dtype, 31, 17, P * 3)
    z = call_forward(kernels, A, W, b, "identity")
    fused = call_forward(kernels, A, W, b, activation)
    unfused = call_elementwise(kernels, "activate", z, z.size, number)
    assert_same_bytes(fused, unfused)
    delta = call_delta(kernels, A, W, fused, "identity")
    a = Vector(fused)
    unfused = call_elementwise(
        kernels,
        "multiply_derivative",
        delta,
        a.pointer,
        delta.size,
        slope_code(activation),
    )
    a.assert_unchanged()
    assert_same_bytes(call_delta(kernels, A, W, fused, activation), unfused)


@every_table
@every_activation
def test_activate_is_close_to_its_function_and_keeps_to_its_items(kernels, activation):
    for lines in (0, 1, 3):
        z = random(lines * kernels.P, dtype=kernels.dtype, scale=4.0)
        got = call_elementwise(
            kernels, "activate", z, z.size, code(ACTIVATIONS, activation)
        )
        assert_close(got, reference.activate(z, activation), z)


def assert_close(got, expected, z):
    """Within 3 units in the last place; of z, where a is a small part of it."""
    unit = np.spacing(np.maximum(abs(expected), abs(z)))
    assert (abs(got.astype("g") - expected) <= 3 * unit.astype("g")).all()


@every_table
@every_activation
def test_slopes_are_kept_beside_activations(kernels, activation):
    number, P = code(ACTIVATIONS, activation), kernels.P
    for n_out in (1, P, P + 3):
        z = random(50, n_out, dtype=kernels.dtype, scale=4.0)
        a, slope = reference.keep_slope(z, activation)
        for r0, r1 in ((0, 50), (7, 8), (50, 50)):
            Z, S = Matrix(P, z), Matrix.output(P, *z.shape, z.dtype)
            kernels.keep_slope(Z.panels, S.panels, n_out, r0, r1, number)
            got = Z.values
            alone = call_forward(
                kernels,
                z,
                np.eye(n_out, dtype=z.dtype),
                np.zeros(n_out, z.dtype),
                activation,
            )
            assert_same_bytes(got[r0:r1], alone[r0:r1])
            assert_same_bytes(got[:r0], z[:r0])
            assert_same_bytes(got[r1:], z[r1:])
            check_rows(S, [], r0, r1)
            assert_close(got[r0:r1], a[r0:r1], z[r0:r1])
            assert_close(S.values[r0:r1], slope[r0:r1], np.maximum(1, abs(z[r0:r1])))


@every_table
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", ["panels", "rows"])
def test_one_row_has_the_bits_of_its_row_in_a_batch(kernels, layout, activation):
    for n_in, n_out in (
        [(17, n) for n in SIZES]
        + [(n, 17) for n in SIZES]
        + [
            (5, 80),
            (5, 97),
            (300, 33),
            (40, 1),
        ]
    ):
        A, W, b, z, from_zero = product_case(kernels.dtype, 5, n_in, n_out)
        batch = call_forward(kernels, A, W, b, activation)
        for r in (0, 3):
            row = call_row(kernels, A[r], W, b, activation, layout)
            assert_same_bytes(row, batch[r])
        bare = call_row(kernels, A[1], W, None, "identity", layout)
        assert_same(bare, from_zero[1])
        assert_same(reference.forward_row(A[1], W, b, "identity"), z[1])


FORWARD_ROW_AT_THE_END_OF_MEMORY = """
import ctypes, mmap, sys
import numpy as np
from kernel_table import TABLES
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None)
def at_the_end(x):
    \"\"\"x, its last byte followed by a page that must not be touched.\"\"\"
    pages = -(-x.nbytes // PAGE) + 1
    memory = mmap.mmap(-1, pages * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = (pages - 1) * PAGE
    whole[start - x.nbytes : start] = x.view(np.uint8).ravel()
    last = ctypes.c_void_p(whole.ctypes.data + start)
    assert libc.mprotect(last, PAGE, 0) == 0
    return memory, whole, whole.ctypes.data + start - x.nbytes
for kernels in TABLES:
    P = kernels.P
    for n_in, n_out in [(3, 1), (40, 1), (5, 7), (9, 17), (4, 33), (2, 64), (3, 70)]:
        x, W, b = (
            np.ones(shape, kernels.dtype) for shape in (n_in, (n_in, n_out), n_out)
        )
        kept = [at_the_end(part) for part in (x, W, b)]
        (x_at, W_at, b_at) = (place for _, _, place in kept)
        z = np.zeros(n_out + P, kernels.dtype)
        kernels.forward_row(
            x_at, n_in, W_at, P, n_out, b_at, n_out, z.ctypes.data, 0
        )
        assert (z[:n_out] == n_in + 1).all(), (kernels, n_in, n_out)
print("ok")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_one_row_reads_nothing_behind_a_row_major_theta():
    assert run_python(FORWARD_ROW_AT_THE_END_OF_MEMORY) == "ok\n"


@every_table
@every_activation
def test_csr_product_has_the_bits_of_the_dense_one(kernels, activation):
    for rows, n_in, n_out in [(9, n, 17) for n in SIZES] + [(9, 20, n) for n in SIZES]:
        X = sparse(rows, n_in, 0.3, kernels.dtype)
        W = random(n_in, n_out, dtype=kernels.dtype, seed=2)
        b = random(n_out, dtype=kernels.dtype, seed=3)
        order = np.random.RandomState(0).permutation(rows)[:7]
        for chosen in (order, None):
            dense = X.toarray() if chosen is None else X.toarray()[chosen]
            expected = call_forward(kernels, dense, W, b, activation)
            got = call_forward_csr(kernels, X, chosen, W, b, activation)
            assert_same(got, expected)
        part = call_forward_csr(kernels, X, order, W, b, activation, 2, 5)
        assert_same(part, call_forward(kernels, dense[order], W, b, activation)[2:5])
    twin = reference.multiply_forward_csr(X[order], W, b, "identity")
    assert_same(call_forward_csr(kernels, X, order, W, b, "identity"), twin)


# ---- sums over rows ------------------------------------------------------------------


@cache
def gradient_case(dtype, n_rows, n_lines, n_panels=1):
    """A panel of activations, panels of deltas and the bits of A^T D."""
    A = random(n_rows, n_lines, dtype=dtype, seed=4)
    D = random(n_rows, n_panels * 64 // dtype.itemsize, dtype=dtype, seed=5)
    return A, D, reference.sum_gradient(A, D)


@every_table
def test_gradient_sums_join_blocks_as_a_binary_counter(kernels):
    sizes = [(rows, 3) for rows in SUM_SIZES]
    sizes += [(rows, lines + 1) for lines in range(kernels.P) for rows in (6, 131)]
    for n_rows, n_lines in sizes:
        A, D, expected = gradient_case(kernels.dtype, n_rows, n_lines)
        assert_same(call_sum_gradient(kernels, A, D), expected)


@every_table
@pytest.mark.parametrize("n_panels", [2, 3, 4, 7])
def test_gradient_sums_of_several_panels_are_those_of_each(kernels, n_panels):
    for n_rows in (6, 131, 385):
        A, D, expected = gradient_case(kernels.dtype, n_rows, 5, n_panels)
        assert_same(call_sum_gradient(kernels, A, D), expected)


@every_table
def test_column_sums_join_blocks_as_a_binary_counter(kernels):
    for n_rows in SUM_SIZES:
        D = random(n_rows, kernels.P, dtype=kernels.dtype, seed=6)
        panel, g = Matrix(kernels.P, D), Vector.output(kernels.P, kernels.dtype)
        kernels.sum_columns(panel.panel(0), n_rows, g.pointer)
        g.assert_guards()
        panel.assert_unchanged()
        assert_same_bytes(g.values, reference.sum_columns(D))


@every_dtype
def test_order_of_the_sum_matters_in_these_cases(dtype):
    """Else the tests above would prove nothing about the order."""
    A, D, expected = gradient_case(dtype, 385, 3)
    chain = np.zeros_like(expected)
    for a, d in zip(A, D, strict=True):
        chain = reference.fma(a[:, None], d, chain)
    assert (chain != expected).mean() > 0.2
    blocks = [
        reference.sum_gradient(A[r : r + 128], D[r : r + 128])
        for r in range(0, 385, 128)
    ]
    ascending = ((blocks[0] + blocks[1]) + blocks[2]) + blocks[3]
    assert (ascending != expected).any()


@every_table
def test_csr_becomes_columns_with_ascending_rows(kernels):
    for rows, cols in ((1, 1), (33, 7), (300, 20), (5, 65)):
        X = sparse(rows, cols, 0.2, kernels.dtype)
        order = np.random.RandomState(1).permutation(rows)[: rows // 2 + 1]
        for chosen in (order, None):
            columns = call_transpose_csr(kernels, X, chosen)
            twin = reference.transpose_csr(X if chosen is None else X[chosen])
            for part, expected in zip(columns.parts, twin, strict=True):
                assert np.array_equal(part.values, expected)


@every_table
@pytest.mark.parametrize("n_rows", [1, 127, 128, 129, 300, 700, 1100, 2048])
@pytest.mark.parametrize("density", [0.004, 0.3])
def test_csr_gradient_has_the_bits_of_the_dense_one(kernels, n_rows, density):
    X = sparse(n_rows, 21, density, kernels.dtype, seed=n_rows)
    D = random(n_rows, kernels.P, dtype=kernels.dtype, seed=5)
    columns = call_transpose_csr(kernels, X, None)
    panel = Matrix(kernels.P, D)
    parts = [part.values for part in columns.parts]
    twin = reference.sum_gradient_csr(parts, n_rows, D) if n_rows < 400 else None
    for k0, n_lines in ((0, 8), (8, 8), (16, 5), (20, 1), (3, 0)):
        G = Vector.output((n_lines, kernels.P), kernels.dtype)
        kernels.sum_gradient_csr(
            columns.pointer, k0, n_lines, panel.panel(0), G.pointer
        )
        G.assert_guards()
        lines = slice(k0, k0 + n_lines)
        if n_lines:
            dense = call_sum_gradient(kernels, X.toarray()[:, lines], D)
            assert_same(G.values, dense)
        if twin is not None:
            assert_same(G.values, twin[lines])
    panel.assert_unchanged()
    for part, before in zip(columns.parts, parts, strict=True):
        assert np.array_equal(part.values, before)


# ---- output layer and costs ----------------------------------------------------------


def tolerance(dtype, z, t, loss, n_out):
    """Rounding that outputs and costs may carry: terms of this size are added."""
    wide = z.astype(np.float64)
    slopes = reference.cost_delta(wide, t.astype(np.float64), *loss)
    sizes = (z, reference.apply_output(z, loss[0]), slopes)
    largest = max(abs(size).max() for size in sizes)
    size = (1 + largest) * (1 + abs(t).max()) * (n_out + 4)
    return 2 * np.finfo(dtype).eps * float(size)


@cache
def loss_case(dtype, loss, rows, n_out):
    """z, what compute_loss takes as target, the same as a matrix, weights."""
    z = random(rows, n_out, dtype=dtype, seed=7, scale=3.0)
    rng = np.random.RandomState([8, rows, n_out])
    if loss[0] == "softmax":
        target = rng.randint(n_out, size=rows).astype(np.int32)
        T = (target[:, None] == np.arange(n_out)).astype(dtype)
    else:
        T = target = reference.LOSSES[loss].draw(rng, (rows, n_out)).astype(dtype)
    weight = rng.uniform(0, 2, size=rows).astype(dtype)
    weight[::5] = 0
    return z, target, T, weight


@every_table
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("n_out", SIZES[1:])
def test_apply_output_is_the_output_function(kernels, output, n_out):
    z = random(40, n_out, dtype=kernels.dtype, scale=3.0)
    whole = call_output(kernels, z, output)
    expected = reference.apply_output(z, output)
    rounding = (n_out + 40) * np.finfo(kernels.dtype).eps
    np.testing.assert_allclose(whole, expected, rtol=rounding)
    assert_same_bytes(whole, call_output(scalar_twin(kernels), z, output))
    P = kernels.P
    for r0, r1 in ((0, 0), (0, 1), (P, P + 3), (P, 40), (2 * P, 2 * P + 1)):
        assert_same_bytes(call_output(kernels, z, output, r0, r1), whole[r0:r1])


@every_table
@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
@pytest.mark.parametrize("n_out", SIZES[1:])
def test_cost_and_delta_are_those_of_the_formulas(kernels, loss, n_out):
    z, target, T, weight = loss_case(kernels.dtype, loss, 40, n_out)
    for w in (None, weight):
        delta, cost = call_loss(kernels, z, target, w, loss)
        twin_delta, twin_cost = reference.compute_loss(z, T, w, *loss)
        close = tolerance(kernels.dtype, z, T, loss, n_out)
        np.testing.assert_allclose(delta, twin_delta, rtol=0, atol=close)
        np.testing.assert_allclose(cost, twin_cost, rtol=0, atol=close)
        oracle = call_loss(scalar_twin(kernels), z, target, w, loss)
        assert_same_bytes(delta, oracle[0])
        assert_same_bytes(cost, oracle[1])


@every_table
@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
def test_cost_writes_only_the_rows_it_is_given(kernels, loss):
    P = kernels.P
    z, target, _, weight = loss_case(kernels.dtype, loss, 40, 17)
    delta, cost = call_loss(kernels, z, target, weight, loss)
    for r0, r1 in ((0, 0), (0, 1), (0, P), (P, P + 3), (P, 40), (2 * P, 2 * P + 1)):
        part_delta, part_cost = call_loss(kernels, z, target, weight, loss, r0, r1)
        assert_same_bytes(part_delta, delta[r0:r1])
        assert_same_bytes(part_cost, cost[r0:r1])


@every_table
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("loss", [x for x in LOSSES if x[0] == "softmax"], ids="-".join)
def test_groups_are_softmaxes_side_by_side_whose_costs_are_added(kernels, groups, loss):
    z = random(40, sum(groups), dtype=kernels.dtype, seed=7, scale=3.0)
    labels, ends = group_labels(groups, 40), np.cumsum([0, *groups])
    _, _, _, weight = loss_case(kernels.dtype, loss, 40, 2)
    parts = [slice(*pair) for pair in zip(ends[:-1], ends[1:], strict=True)]
    a = call_output(kernels, z, "softmax", groups=groups)
    for part in parts:
        assert_same_bytes(a[:, part], call_output(kernels, z[:, part], "softmax"))
    for w in (None, weight):
        delta, cost = call_loss(kernels, z, labels, w, loss, groups=groups)
        total = 0
        for part, column in zip(parts, labels.T.copy(), strict=True):
            one = call_loss(kernels, z[:, part], column, w, loss)
            assert_same_bytes(delta[:, part], one[0])
            total = one[1].astype(kernels.dtype) + total
        assert_same_bytes(cost, total.astype(np.float64))
        some = call_loss(kernels, z, labels, w, loss, kernels.P, 37, groups)
        assert_same_bytes(some[0], delta[kernels.P : 37])
        assert_same_bytes(some[1], cost[kernels.P : 37])
        for r in (0, 1, 7):
            one_weight = None if w is None else w[r]
            row = call_loss_row(kernels, z[r], labels[r], one_weight, loss, groups)
            assert_same_bytes(row[0], delta[r])
            assert row[1] == cost[r]


EXACT = [loss for loss in LOSSES if reference.LOSSES[loss].exact_delta]


@every_table
@pytest.mark.parametrize("loss", EXACT, ids="-".join)
def test_delta_has_the_bits_of_its_formula(kernels, loss):
    z, target, T, weight = loss_case(kernels.dtype, loss, 33, 9)
    a = call_output(kernels, z, loss[0])
    rows = [np.array(p, z.dtype) for p in reference.loss_parameters(*loss, 9)]
    expected = reference.LOSSES[loss].exact_delta(a, T, *rows)
    assert_same(call_loss(kernels, z, target, None, loss)[0], expected)
    expected = expected * weight[:, None]
    assert_same(call_loss(kernels, z, target, weight, loss)[0], expected)


@every_table
@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
@pytest.mark.parametrize("n_out", SIZES[1:])
def test_cost_of_one_row_has_the_bits_of_its_row_in_a_batch(kernels, loss, n_out):
    z, target, T, weight = loss_case(kernels.dtype, loss, 12, n_out)
    for w in (None, weight):
        delta, cost = call_loss(kernels, z, target, w, loss)
        for r in (0, 1, 7):
            one_weight = None if w is None else w[r]
            row = call_loss_row(kernels, z[r], target[r], one_weight, loss)
            assert_same_bytes(row[0], delta[r])
            assert row[1] == cost[r]
    twin = reference.compute_loss_row(z[7], T[7], weight[7], *loss)
    close = tolerance(kernels.dtype, z, T, loss, n_out)
    np.testing.assert_allclose(row[0], twin[0], rtol=0, atol=close)
    np.testing.assert_allclose(row[1], twin[1], rtol=0, atol=close)


# ---- optimizers ----------------------------------------------------------------------


def settings(**changes):
    usual = dict(
        eta=0.01,
        scale=1 / 7,
        alpha=0.1,
        decay=0.0,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        nesterov=1,
    )
    return SimpleNamespace(**{**usual, **changes})


USUAL_STEPS = {
    "": {},
    "without penalty": {"alpha": 0.0},
    "with decay": {"decay": 0.03},
}
STEPS = {
    case: (solver, settings(**changes))
    for case, (solver, changes) in reference.cases("steps", USUAL_STEPS).items()
}
every_step = pytest.mark.parametrize("solver, s", STEPS.values(), ids=STEPS)


def step_case(dtype, solver, lines):
    """W, G and states of shape (lines, P), zeros and dust among them."""
    P = 64 // dtype.itemsize
    W, G, m, v = (random(lines, P, dtype=dtype, seed=seed) for seed in range(10, 14))
    dust = dtype.type(reference.DUST[dtype.itemsize])
    if lines:
        G[0, ::3] = 0
        W[-1, 1] = 0
        m[0, :6] = [0, dust, -dust, dust * 1.2, -dust * 2, dust / 100]
        G[0, :6] = W[0, :6] = 0
    second = OPTIMIZER_ROWS[solver].second_moment
    states = [m, v][: N_STATES[solver]]
    return W, G, [abs(x) if i == second else x for i, x in enumerate(states)]


@every_table
@every_step
@pytest.mark.parametrize("lines", [0, 1, 2, 3, 7, 16])
def test_steps_have_the_bits_of_their_formulas(kernels, solver, s, lines):
    W, G, states = step_case(kernels.dtype, solver, lines)
    got, got_states, squares = call_step(kernels, solver, W, G, states, s)
    expected, expected_states = reference.OPTIMIZERS[solver].step(W, G, states, s)
    assert_same(got, expected)
    for mine, theirs in zip(got_states, expected_states, strict=True):
        assert_same(mine, theirs)
    assert squares == reference.sum_weights(W)


@every_table
@every_step
def test_state_is_never_subnormal(kernels, solver, s):
    dtype = kernels.dtype
    W, G, states = step_case(dtype, solver, 2)
    W[:], G[:] = 0, 0
    for state in states:
        state[:] = np.finfo(dtype).tiny * dtype.type(64)
    for _ in range(60):
        W, states, _ = call_step(kernels, solver, W, G, states, s)
    for state in states:
        assert ((state == 0) | (abs(state) >= np.finfo(dtype).tiny)).all()


@every_table
@every_step
def test_nan_gradient_shows_in_the_weights(kernels, solver, s):
    W, G, states = step_case(kernels.dtype, solver, 2)
    G[1, 3] = np.nan
    W, _, _ = call_step(kernels, solver, W, G, states, s)
    assert np.isnan(W[1, 3])
    assert np.isnan(W).sum() == 1


@every_table
@pytest.mark.parametrize("lines", [0, 1, 2, 7])
@pytest.mark.parametrize("share", [1.0, 0.1, 1e-3])
def test_a_mean_has_the_bits_of_its_formula(kernels, lines, share):
    P, dtype = kernels.P, kernels.dtype
    mean, x = (Vector(random(lines, P, dtype=dtype, seed=seed)) for seed in (30, 31))
    expected = reference.average(mean.values, x.values, share)
    kernels.average(mean.pointer, x.pointer, lines * P, share)
    assert_same(mean.values, expected)
    x.assert_unchanged()
    mean.assert_guards()


@every_table
@pytest.mark.parametrize("lines", [0, 1, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_squares_of_a_gradient_are_summed_with_its_penalty(kernels, lines, alpha):
    G, W = (flow_case(kernels.dtype, lines, seed) for seed in (20, 21))
    got = kernels.sum_penalized_squares(
        Vector(G).pointer, Vector(W).pointer, G.size, alpha
    )
    assert got == reference.sum_penalized_squares(G, W, alpha)


# ---- gradient flow


def flow_case(dtype, lines, seed):
    """Numbers whose squares leave the range of float32, in lines of P."""
    x = random(lines, 64 // dtype.itemsize, dtype=dtype, seed=seed)
    return x * dtype.type(10.0) ** random(*x.shape, dtype=dtype, seed=seed, scale=10)


@every_table
@pytest.mark.parametrize("lines", [0, 1, 2, 5, 17])
def test_flow_is_summed_in_float64_in_one_order(kernels, lines):
    x, y = (flow_case(kernels.dtype, lines, seed) for seed in (20, 21))
    now, before = Vector(x), Vector(y)
    squares = kernels.sum_squares(now.pointer, x.size)
    assert squares == reference.sum_squares(x)
    change = kernels.sum_squared_change(now.pointer, before.pointer, x.size)
    assert change == reference.sum_squared_change(x, y)


@every_table
@pytest.mark.parametrize("lines", [0, 1, 5])
def test_count_below_counts_what_is_smaller(kernels, lines):
    x = random(lines * kernels.P, dtype=kernels.dtype)
    if lines:
        x[3] = 0.25
    for limit in (-10.0, 0.25, 10.0):
        got = kernels.count_below(Vector(x).pointer, x.size, limit)
        assert got == reference.count_below(x, limit)


@every_table
@every_activation
def test_saturated_units_are_counted_by_row(kernels, activation):
    for n_rows in (1, 5, 40, 129):
        z = random(n_rows, kernels.P, dtype=kernels.dtype, scale=4.0)
        z[:, 0] = -9
        s = reference.what_says_slope(z, activation)
        counts = Vector(np.arange(kernels.P, dtype=np.int32))
        kernels.count_saturated(
            Matrix(kernels.P, s).panel(0),
            n_rows,
            slope_code(activation),
            0.011,
            counts.pointer,
        )
        counts.assert_guards()
        expected = reference.count_saturated(s, activation)
        assert_same(counts.values - np.arange(kernels.P), expected)


# ---- NaN and extremes ----------------------------------------------------------------


@every_table
@every_activation
def test_nan_passes_through_every_activation(kernels, activation):
    # Whole panels: in padding columns NaN meets the zeros of W and makes NaN, too.
    A, W, b, _, _ = product_case(kernels.dtype, 5, 17, 32)
    A = A.copy()
    A[2, 3] = np.nan
    bad = np.arange(5) == 2
    X = csr_matrix(A)
    for z in (
        call_forward(kernels, A, W, b, activation),
        call_forward_csr(kernels, X, None, W, b, activation),
        np.array([call_row(kernels, a, W, b, activation, "panels") for a in A]),
    ):
        assert (np.isnan(z) == bad[:, None]).all()


@every_table
@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
def test_nan_stays_in_its_row_of_outputs_and_costs(kernels, loss):
    z, target, _, weight = loss_case(kernels.dtype, loss, 33, 9)
    z = z.copy()
    z[5, 7] = np.nan
    bad = np.arange(33) == 5
    delta, cost = call_loss(kernels, z, target, weight + 1, loss)
    assert (np.isnan(delta).any(axis=1) == bad).all()
    assert (np.isnan(cost) == bad).all()
    a = call_output(kernels, z, loss[0])
    assert (np.isnan(a).any(axis=1) == bad).all()


@every_table
@pytest.mark.parametrize("loss", IDENTITY_LOSSES, ids="-".join)
def test_an_output_that_equals_its_target_costs_and_moves_nothing(kernels, loss):
    z = random(kernels.P, 9, dtype=kernels.dtype, seed=9)
    delta, cost = call_loss(kernels, z, z.copy(), None, loss)
    assert not delta.any() and not cost.any()


def extremes(dtype):
    """Finite numbers at the ends of the range, and round the ends of exp's."""
    info = np.finfo(dtype)
    ends = [0.0, info.smallest_subnormal, info.tiny, info.eps, 1.0, 1e30, info.max]
    ends += [17.0, 37.0, 88.0, 89.0, 104.0, 709.0, 710.0, 746.0]
    return np.array([*ends, *(-x for x in ends)], dtype)


@every_table
@every_activation
def test_activations_make_no_nan_from_finite_input(kernels, activation):
    z = extremes(kernels.dtype)
    z = np.concatenate([z, np.zeros(-len(z) % kernels.P, kernels.dtype)])
    number = code(ACTIVATIONS, activation)
    z = np.concatenate([z, np.full(kernels.P, np.inf, kernels.dtype)])
    z = np.concatenate([z, -z[-kernels.P :]])
    Z = Matrix(kernels.P, z.reshape(-1, kernels.P))
    S = Matrix.output(kernels.P, *Z.values.shape, kernels.dtype)
    kernels.keep_slope(Z.panels, S.panels, kernels.P, 0, len(Z.values), number)
    a = call_elementwise(kernels, "activate", z, len(z), number)
    assert_same_bytes(a.reshape(-1, kernels.P), Z.values)
    assert not np.isnan(a).any()
    assert np.isfinite(S.values).all()
    by_a = reference.ACTIVATIONS[activation].by_a
    kept = Vector(a if by_a else S.values.ravel())
    ones = np.ones_like(z)
    slopes = call_elementwise(
        kernels,
        "multiply_derivative",
        ones,
        kept.pointer,
        len(z),
        slope_code(activation),
    )
    assert_same_bytes(slopes, S.values.ravel())


@every_table
@pytest.mark.parametrize("output", OUTPUTS)
def test_outputs_make_no_nan_from_finite_input(kernels, output):
    ends = extremes(kernels.dtype)
    z = np.array(np.meshgrid(ends, ends)).reshape(2, -1).T.copy()
    a = call_output(kernels, z, output)
    assert not np.isnan(a).any()
    if output == "softmax":
        assert np.allclose(a.sum(axis=1), 1)


def extreme_targets(loss, dtype):
    """Targets that a cost allows, up to the ends of their range."""
    least, greatest = reference.LOSSES[loss].targets
    if np.isfinite([least, greatest]).all():
        return np.array([least, greatest], dtype)
    ends = extremes(dtype)
    if reference.LOSSES[loss].least_is_refused:
        ends = ends[ends > least]
    return ends[(least <= ends) & (ends <= greatest)]


@every_table
@pytest.mark.parametrize("weight", [None, 0.0, 1e-30, 1.0])
@pytest.mark.parametrize("loss", LOSSES, ids="-".join)
def test_costs_make_no_nan_from_finite_input(kernels, loss, weight):
    dtype, ends = kernels.dtype, extremes(kernels.dtype)
    if loss[0] == "softmax":
        z = np.array(np.meshgrid(ends, ends, [0, 1])).reshape(3, -1).T
        z, target = z[:, :2].astype(dtype), z[:, 2].astype(np.int32)
    else:
        pairs = np.array(np.meshgrid(ends, extreme_targets(loss, dtype)))
        z, target = pairs.reshape(2, -1, 1).astype(dtype)
    w = None if weight is None else np.full(len(z), weight, dtype)
    delta, cost = call_loss(kernels, z, target, w, loss)
    inputs = np.hstack([z, target.reshape(len(z), -1)])
    for r in range(0, len(z), 7):
        row = call_loss_row(kernels, z[r], target[r], weight, loss)
        assert_same_bytes(row[0], delta[r])
        assert_same(row[1], cost[r])
    for bad in (np.isnan(delta).any(axis=1), np.isnan(cost)):
        assert not bad.any(), f"z and target that made NaN:\n{inputs[bad][:5]}"


# ---- batches of one row --------------------------------------------------------------


class RowNetwork:
    """A network as train_rows takes it, W and b given, all buffers guarded."""

    def __init__(self, kernels, W, b, activation, solver, transposed):
        P, dtype = kernels.P, kernels.dtype
        self.kernels, self.solver, self.parts = kernels, solver, []
        self.layers = (cbp_layer * len(W))()
        master, at = [], 0
        for l, y in enumerate(self.layers):
            y.n_in, y.n_out = W[l].shape
            y.transposed = transposed[l]
            y.mirrored = y.transposed or l > 0
            last = l == len(W) - 1
            y.activation = code(ACTIVATIONS, "identity" if last else activation)
            M = W[l].T if y.transposed else W[l]
            y.n_lines = len(M)
            y.line_patches = -(-y.n_lines // P)
            y.n_panels = -(-M.shape[1] // P)
            y.n_patches = y.line_patches * y.n_panels
            lines = np.zeros((y.n_panels, y.line_patches * P, P), dtype)
            padded_M = np.zeros((len(M), y.n_panels * P), dtype)
            padded_M[:, : M.shape[1]] = M
            lines[:, : len(M)] = padded_M.reshape(len(M), -1, P).transpose(1, 0, 2)
            y.W_at, at = at, at + lines.size
            y.b_at = at
            bias = padded(b[l], P)
            at += bias.size
            master += [lines.ravel(), bias]
        self.master = Vector(np.concatenate(master), misaligned=False)
        n_states = N_STATES[solver]
        zeros = np.zeros(at, dtype)
        self.states = [Vector(zeros, misaligned=False) for _ in range(n_states)]
        for y, weights in zip(self.layers, W, strict=True):
            self._place(y, weights)
        n_patches = sum(y.n_patches for y in self.layers)
        self.squares = Vector.output(n_patches, np.float64)

    def _place(self, y, weights):
        P, dtype, size = self.kernels.P, self.kernels.dtype, self.kernels.dtype.itemsize
        base = self.master.pointer.value
        n_lines = y.line_patches * P
        other = weights if y.transposed else weights.T
        mirror = np.zeros((-(-other.shape[1] // P), -(-len(other) // P) * P, P), dtype)
        for c in range(other.shape[1]):
            mirror[c // P, : len(other), c % P] = other[:, c]
        mirror = self._keep(mirror.ravel())
        master = y.WT if y.transposed else y.W
        copy = y.W if y.transposed else y.WT
        master.data, master.stride = base + y.W_at * size, n_lines * P
        copy.data, copy.stride = mirror, -(-len(other) // P) * P * P
        y.b = base + y.b_at * size
        width = -(-y.n_out // P) * P
        y.A.data = self._keep(np.zeros(width, dtype))
        y.A.stride = y.D.stride = P
        y.D.data = y.A.data
        y.S, y.slope = y.A, y.activation
        if y.b_at != self.layers[-1].b_at:
            y.D.data = self._keep(np.zeros(width, dtype))
            y.slope = slope_code(ACTIVATIONS[y.activation])
        if y.slope == len(ACTIVATIONS):
            y.S.data = self._keep(np.zeros(width, dtype))

    def _keep(self, values):
        """Address of a guarded copy."""
        self.parts.append(Vector(values, misaligned=False, fill=0xA5))
        return self.parts[-1].pointer.value

    def train(self, X, target, weight, order, loss, s, eta):
        """What train_rows reports of the rows."""
        P, dtype = self.kernels.P, self.kernels.dtype
        n_out = self.layers[-1].n_out
        width = -(-max(n_out, X.shape[1]) // P) * P
        labels = target.dtype == np.int32
        inputs = [Vector(X), Vector(target), Vector(np.asarray(order, np.int64))]
        inputs.append(Vector(eta * np.arange(1, len(order) + 1)))
        decay = Vector(s.decay * np.arange(1, len(order) + 1))
        share = Vector(1 / np.arange(2, len(order) + 2))
        self.mean = Vector(self.master.values)
        if weight is not None:
            inputs.append(Vector(weight))
        step = cbp_step(**vars(s))
        step.scale = 1.0
        parameters = reference.loss_parameters(*loss, n_out)
        loss_of = LossOf(loss, n_out, self.kernels, parameters)
        rows = cbp_online(
            layers=ctypes.addressof(self.layers),
            n_layers=len(self.layers),
            solver=code(OPTIMIZERS, self.solver),
            loss=loss_of.struct,
            step=step,
            eta=inputs[3].pointer.value,
            decay=decay.pointer.value,
            mean=self.mean.pointer.value,
            share=share.pointer.value,
            master_items=self.mean.values.size,
            master=self.master.pointer.value,
            state=(ctypes.c_void_p * 2)(*(x.pointer.value for x in self.states)),
            X=inputs[0].pointer.value,
            Y=None if labels else inputs[1].pointer.value,
            labels=inputs[1].pointer.value if labels else None,
            weight=None if weight is None else inputs[4].pointer.value,
            order=inputs[2].pointer.value,
            n_rows=len(order),
            inputs=self._keep(np.zeros(2 * width, dtype)),
            scratch=self._keep(np.zeros(2 * P * (n_out + -n_out % P), dtype)),
            patch_squares=self.squares.pointer.value,
        )
        rows.T.data, rows.T.stride = self._keep(np.zeros(width, dtype)), P
        self.kernels.train_rows(byref(rows))
        for read in inputs:
            read.assert_unchanged()
        outputs = (self.master, self.mean, self.squares, *self.states, *self.parts)
        for written in outputs:
            written.assert_guards()
        return rows

    def weights(self):
        """W and b of every layer, W from both copies."""
        master = self.master.values
        both, biases = [], []
        P, dtype = self.kernels.P, self.kernels.dtype
        for y in self.layers:
            copies = []
            described = [(y.W, y.n_in, y.n_out), (y.WT, y.n_out, y.n_in)]
            for panels, n_rows, n_cols in described[: 1 + y.mirrored]:
                n_panels = -(-n_cols // P)
                n_items = (n_panels - 1) * panels.stride + n_rows * P
                raw = (ctypes.c_char * (n_items * dtype.itemsize)).from_address(
                    panels.data
                )
                flat = np.frombuffer(raw, dtype)
                columns = [
                    flat[(c // P) * panels.stride + c % P :: P][:n_rows]
                    for c in range(n_cols)
                ]
                copies.append(np.stack(columns, axis=1))
            both.append([copies[0], *(copy.T for copy in copies[1:])])
            biases.append(master[y.b_at : y.b_at + y.n_out])
        return both, biases


def slope_of(kernels, z, activation):
    """f'(z) of a row."""
    Z = Matrix(kernels.P, z[None])
    S = Matrix.output(kernels.P, 1, len(z), z.dtype)
    number = code(ACTIVATIONS, activation)
    kernels.keep_slope(Z.panels, S.panels, len(z), 0, 1, number)
    return S.values[0]


def slow_rows(kernels, W, b, activation, solver, transposed, case, s, eta):
    """The same from one-row kernels that have their own tests and from reference.py."""
    X, target, T, weight, order, loss = case
    real, P = kernels.dtype.type, kernels.P
    W, b = [w.copy() for w in W], [x.copy() for x in b]
    zeros = [np.zeros_like(w) for w in W], [np.zeros_like(x) for x in b]
    n_states = N_STATES[solver]
    states = [
        [[z[l].copy() for _ in range(n_states)] for z in zeros] for l in range(len(W))
    ]
    total = weights = 0.0
    step, steps = reference.OPTIMIZERS[solver].step, 0
    for r in order:
        w_row = 1.0 if weight is None else float(weight[r])
        if not w_row > 0:
            continue
        a, s_of = [X[r]], [None]
        for l in range(len(W)):
            f = "identity" if l == len(W) - 1 else activation
            z_l = call_row(kernels, a[-1], W[l], b[l], "identity", "panels")
            a.append(call_row(kernels, a[-1], W[l], b[l], f, "panels"))
            by_a = reference.ACTIVATIONS[f].by_a
            s_of.append(a[-1] if by_a else slope_of(kernels, z_l, f))
        one_weight = None if weight is None else real(w_row)
        delta, cost = call_loss_row(kernels, a[-1], target[r], one_weight, loss)
        cost = cost * w_row if weight is not None else cost
        deltas = [delta]
        for l in range(len(W) - 1, 0, -1):
            none = np.zeros(W[l].shape[0], kernels.dtype)
            back = reference.forward_row(deltas[0], W[l].T, none, "identity")
            deltas.insert(0, reference.multiply_derivative(back, s_of[l], activation))
        steps += 1
        changed = {"eta": eta * steps, "scale": 1 / w_row, "decay": s.decay * steps}
        settings_W = SimpleNamespace(**{**vars(s), **changed})
        of_biases = {"alpha": 0.0, "decay": 0.0}
        settings_b = SimpleNamespace(**{**vars(settings_W), **of_biases})
        squares = 0.0
        for l in range(len(W)):
            for part in sum_of_blocks(W[l].T if transposed[l] else W[l], P):
                squares += part
            G = a[l][:, None] * deltas[l]
            W[l], states[l][0] = step(W[l], G, states[l][0], settings_W)
            b[l], states[l][1] = step(b[l], deltas[l], states[l][1], settings_b)
        total += cost + (0.5 * s.alpha * squares if s.alpha else 0.0)
        weights += w_row
    return W, b, total, weights


def sum_of_blocks(M, P):
    """Sum of W^2 as _training.pyx has it: blocks of P x P, panel by panel."""
    blocks = []
    for c in range(0, M.shape[1], P):
        panel = np.zeros((len(M), P), M.dtype)
        panel[:, : M[:, c : c + P].shape[1]] = M[:, c : c + P]
        blocks += [reference.sum_weights(panel[i : i + P]) for i in range(0, len(M), P)]
    return blocks


ROW_NETWORKS = {
    "one layer": ((5, 3), (False,), "relu"),
    "one layer, transposed": ((17, 9), (True,), "relu"),
    "narrow output": ((30, 16, 1), (False, True), "relu"),
    "two panels": ((9, 33, 5), (False, False), "tanh"),
    "transposed first": ((31, 7, 3), (True, True), "logistic"),
    "deep": ((3, 18, 17, 2), (False, True, False), "identity"),
}


ROW_NETWORKS |= {
    f"hidden {activation}": ((5, 18, 3), (False, True), activation)
    for activation in ACTIVATIONS
}
# Every network with every cost (those of an activation with some), and one with every
# kind of step.
ROW_CASES = [
    (n, loss, "adam")
    for n in ROW_NETWORKS
    for loss in (LOSSES[:3] if n.startswith("hidden ") else LOSSES)
]
ROW_CASES += [("narrow output", LOSSES[1], step) for step in STEPS if step != "adam"]


@every_table
@pytest.mark.parametrize("network, loss, step", ROW_CASES)
def test_rows_are_trained_as_the_equations_say(kernels, network, loss, step):
    sizes, transposed, activation = ROW_NETWORKS[network]
    solver, s = STEPS[step]
    dtype = kernels.dtype
    shapes = list(zip(sizes, sizes[1:], strict=False))
    W = [random(*shape, dtype=dtype, seed=31, scale=0.4) for shape in shapes]
    b = [random(n, dtype=dtype, seed=32, scale=0.1) for n in sizes[1:]]
    X = random(6, sizes[0], dtype=dtype, seed=33)
    _, target, T, weight = loss_case(dtype, loss, 6, sizes[-1])
    order = [3, 0, 1, 4, 2, 5, 1]  # rows 0 and 5 have no weight
    for w in (None, weight):
        case = X, target, T, w, order, loss
        rows = RowNetwork(kernels, W, b, activation, solver, transposed)
        got = rows.train(X, target, w, order, loss, s, eta=1e-2)
        expected = slow_rows(
            kernels, W, b, activation, solver, transposed, case, s, eta=1e-2
        )
        both, biases = rows.weights()
        for l in range(len(W)):
            for copy in both[l]:
                assert_same(copy, expected[0][l])
            assert_same(biases[l], expected[1][l])
        assert got.loss_sum == expected[2]
        assert got.weight_sum == expected[3]
        assert got.steps == (7 if w is None else 5)


@every_table
def test_rows_end_behind_a_cost_that_is_not_finite(kernels):
    dtype = kernels.dtype
    W, b = [np.ones((2, 1), dtype)], [np.zeros(1, dtype)]
    X = np.array([[1, 1], [np.finfo(dtype).max, 1], [1, 1]], dtype)
    rows = RowNetwork(kernels, W, b, "relu", "sgd", (True,))
    target = np.zeros((3, 1), dtype)
    loss = ("identity", "squared_error")
    got = rows.train(X, target, None, [0, 1, 2], loss, settings(), 1e-3)
    assert got.steps == 2 and not np.isfinite(got.last_loss)


# ---- tiers ---------------------------------------------------------------------------


@every_table
@every_activation
def test_tiers_agree_on_every_bit_of_forward_and_delta(kernels, activation):
    for sizes in ((65, 31, 33), (17, 65, 7), (3, 530, 17)):
        A, W, b, _, _ = product_case(kernels.dtype, *sizes)
        oracle = scalar_twin(kernels)
        a = call_forward(kernels, A, W, b, activation)
        assert_same_bytes(a, call_forward(oracle, A, W, b, activation))
        delta = call_delta(kernels, A, W, a, activation)
        assert_same_bytes(delta, call_delta(oracle, A, W, a, activation))


@every_table
@every_step
def test_tiers_agree_on_every_bit_of_sums_and_steps(kernels, solver, s):
    A, D, _ = gradient_case(kernels.dtype, 385, 3)
    W, _, states = step_case(kernels.dtype, solver, 3)
    results = []
    for table in (kernels, scalar_twin(kernels)):
        G = call_sum_gradient(table, A, D)
        W_after, states_after, squares = call_step(table, solver, W, G, states, s)
        results.append([G, W_after, *states_after, np.array(squares)])
    for mine, theirs in zip(*results, strict=True):
        assert_same_bytes(mine, theirs)
