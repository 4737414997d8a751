"""The kernel tables as tests see them: ctypes views of cbp.h, and guarded buffers.

Tests drive the kernels of every tier through these, with no production wrapper between.
No expectations here (tests/reference.py) and no tests (tests/test_kernels.py).
"""

import ctypes
from ctypes import (
    byref,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_ssize_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

import numpy as np

from cbp import _kernels
from cbp._kernels import OPTIMIZERS
from cbp._network import Network
from cbp._weights import state_shape

_NETWORK = Network((1, 1), (), "identity", "squared_error", np.float64)
N_STATES = {name: state_shape(_NETWORK, name)[0] for name in OPTIMIZERS}

# The lists of cbp.h, in their order.
ACTIVATIONS = tuple(_kernels.ACTIVATIONS)
OUTPUTS = tuple(_kernels.OUTPUTS)
LOSSES = tuple(_kernels.LOSSES)
OPTIMIZERS = tuple(_kernels.OPTIMIZERS)
# In the order of the kernel "map"; behind them comes "root".
FUNCTIONS = ("exp", "log", "log1p", "logistic", "tanh", "expm1", "normal")

DTYPES = (np.dtype("float32"), np.dtype("float64"))
TIERS = tuple(_kernels.tiers())

# Bytes of a guard band. As floats, 0xff is NaN, which spoils what is computed from it:
# round inputs. 0xa5 is a number, so that a stray NaN shows, too: round outputs.
GUARD = 256
INPUT_FILL, OUTPUT_FILL = 0xFF, 0xA5


class cbp_panels(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("stride", c_ssize_t)]


class cbp_csr(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("indices", c_void_p), ("indptr", c_void_p)]


class cbp_columns(ctypes.Structure):
    _fields_ = [("start", c_void_p), ("row", c_void_p), ("value", c_void_p)]


class cbp_step(ctypes.Structure):
    _fields_ = [
        ("eta", c_double),
        ("scale", c_double),
        ("alpha", c_double),
        ("decay", c_double),
        ("beta_1", c_double),
        ("beta_2", c_double),
        ("epsilon", c_double),
        ("nesterov", c_int),
    ]


class cbp_drop(ctypes.Structure):
    _fields_ = [
        ("seed", c_uint64),
        ("layer", c_uint32),
        ("below", c_uint32),
        ("scale", c_double),
    ]


class cbp_layer(ctypes.Structure):
    _fields_ = [
        ("n_in", c_ssize_t),
        ("n_out", c_ssize_t),
        ("activation", c_int),
        ("transposed", c_int),
        ("mirrored", c_int),
        ("n_lines", c_ssize_t),
        ("line_patches", c_ssize_t),
        ("n_panels", c_ssize_t),
        ("n_patches", c_ssize_t),
        ("W_at", c_ssize_t),
        ("b_at", c_ssize_t),
        ("W", cbp_panels),
        ("WT", cbp_panels),
        ("b", c_void_p),
        ("A", cbp_panels),
        ("S", cbp_panels),
        ("slope", c_int),
        ("flat", c_double),
        ("drop", cbp_drop),
        ("D", cbp_panels),
    ]


class cbp_loss(ctypes.Structure):
    _fields_ = [
        ("kind", c_int),
        ("parameters", c_void_p * 2),
        ("groups", c_void_p),
    ]


class cbp_groups(ctypes.Structure):
    _fields_ = [("n", c_ssize_t), ("start", c_void_p)]


class cbp_online(ctypes.Structure):
    _fields_ = [
        ("layers", c_void_p),
        ("n_layers", c_int),
        ("solver", c_int),
        ("loss", cbp_loss),
        ("step", cbp_step),
        ("eta", c_void_p),
        ("decay", c_void_p),
        ("master", c_void_p),
        ("state", c_void_p * 2),
        ("X", c_void_p),
        ("Y", c_void_p),
        ("labels", c_void_p),
        ("weight", c_void_p),
        ("order", c_void_p),
        ("n_rows", c_ssize_t),
        ("drop", cbp_drop),
        ("first_step", c_uint64),
        ("T", cbp_panels),
        ("inputs", c_void_p),
        ("scratch", c_void_p),
        ("patch_squares", c_void_p),
        ("mean", c_void_p),
        ("share", c_void_p),
        ("master_items", c_ssize_t),
        ("loss_sum", c_double),
        ("weight_sum", c_double),
        ("last_loss", c_double),
        ("steps", c_ssize_t),
    ]


def _function(arguments, result=None):
    """Type of a kernel pointer.

    p: pointer, n: ptrdiff_t, i: int, l: int32_t, d: double, u: uint64_t,
    M: cbp_panels.
    """
    types = {
        "p": c_void_p,
        "n": c_ssize_t,
        "i": c_int,
        "l": c_int32,
        "d": c_double,
        "u": c_uint64,
        "M": cbp_panels,
    }
    return ctypes.CFUNCTYPE(result, *(types[letter] for letter in arguments))


class cbp_kernels(ctypes.Structure):
    _fields_ = [
        ("tier", c_char_p),
        ("itemsize", c_int),
        ("panel", c_int),
        ("gather_rows", _function("pnpnnM")),
        ("gather_finite", _function("pnnM", c_int)),
        ("scatter_rows", _function("Mnnpn")),
        ("fill_targets", _function("pnnpM")),
        ("transpose_patch", _function("pp")),
        ("gather_items", _function("ppnp")),
        ("item", _function("pn", c_double)),
        ("add", _function("ppn")),
        ("multiply_forward", _function("MnMpMnnni")),
        ("extend_forward", _function("MnMMnnn")),
        ("multiply_forward_csr", _function("ppMpMnnni")),
        ("multiply_delta", _function("MnMMMnnni")),
        ("sum_gradient", _function("pMnnnM")),
        ("sum_gradient_csr", _function("pnnpp")),
        ("sum_columns", _function("pnp")),
        ("transpose_csr", _function("ppnnp")),
        ("activate", _function("pni")),
        ("multiply_derivative", _function("ppni")),
        ("keep_slope", _function("MMnnni")),
        ("drop", _function("MMnnnnnpu")),
        ("drop_items", _function("ppnnpu")),
        ("scale", _function("pnd")),
        ("count_dropped", _function("pnp")),
        ("apply_output", _function("Mnnnipp")),
        ("compute_loss", _function("MMppnnnppp")),
        ("compute_loss_row", _function("ppppnppp")),
        ("step", _function("pppnp", c_double) * len(OPTIMIZERS)),
        ("average", _function("ppnd")),
        ("train_rows", _function("p")),
        ("forward_row", _function("pnpnnpnpi")),
        ("all_finite", _function("pn", c_int)),
        ("sum_squares", _function("pn", c_double)),
        ("sum_penalized_squares", _function("ppnd", c_double)),
        ("sum_squared_change", _function("ppn", c_double)),
        ("count_below", _function("pnd", c_ssize_t)),
        ("count_saturated", _function("pnidp")),
        ("map", _function("ippn")),
    ]


class Kernels:
    """The table of one tier and dtype; every kernel is an attribute.

    Attributes
    ----------
    tier : str
    dtype : numpy dtype
    P : int
        Columns of a panel.
    """

    def __init__(self, tier, dtype):
        self.tier, self.dtype = tier, np.dtype(dtype)
        address = _kernels.table_address(tier, self.dtype)
        self.table = cbp_kernels.from_address(address)
        self.P = self.table.panel

    def __getattr__(self, name):
        return getattr(self.table, name)

    def __repr__(self):
        return f"{self.tier}-{self.dtype}"


TABLES = [Kernels(tier, dtype) for dtype in DTYPES for tier in TIERS]


class _Guarded:
    """Bytes between guard bands, and which of them have changed since the start."""

    def _allocate(self, n_bytes, fill, offset=0):
        """`n_bytes` bytes of `fill` that begin `offset` bytes behind a 64-byte line."""
        self._raw = np.full(n_bytes + 2 * GUARD + 128, fill, np.uint8)
        start = GUARD + -(self._raw.ctypes.data + GUARD) % 64 + offset
        return self._raw[start : start + n_bytes]

    def _freeze(self):
        self._before = self._raw.copy()

    @property
    def pointer(self):
        """Address of the first item; keeps the buffer alive."""
        return self._address(self._data)

    def _address(self, part):
        address = c_void_p(part.ctypes.data)
        address.owner = self
        return address

    def _start(self):
        return self._data.ctypes.data - self._raw.ctypes.data

    def assert_unchanged(self):
        """Nothing at all was written."""
        assert np.array_equal(self._raw, self._before), "an input was written to"


class Vector(_Guarded):
    """A contiguous array of any shape; `misaligned` by one item against 64 bytes."""

    def __init__(self, values, misaligned=True, fill=INPUT_FILL):
        values = np.asarray(values)
        offset = values.itemsize if misaligned else 0
        body = self._allocate(values.nbytes, fill, offset)
        self._data = body.view(values.dtype).reshape(values.shape)
        self._data[...] = values
        self._freeze()

    @classmethod
    def output(cls, shape, dtype):
        """Room for a result."""
        junk = np.full(np.prod(shape, dtype=int) * np.dtype(dtype).itemsize, 0x5A, "u1")
        return cls(junk.view(dtype).reshape(shape), fill=OUTPUT_FILL)

    @property
    def values(self):
        return self._data.copy()

    def assert_guards(self):
        """Nothing was written outside the array."""
        start = self._start()
        end = start + self._data.nbytes
        assert np.array_equal(self._raw[:start], self._before[:start]), "written before"
        assert np.array_equal(self._raw[end:], self._before[end:]), "written behind"


class Matrix(_Guarded):
    """A matrix in panels, with guard lines behind the rows of every panel."""

    def __init__(self, P, values, fill=INPUT_FILL):
        self._lay_out(P, values.shape, values.dtype, fill)
        for column in range(self.cols):
            line = self._data[column // P, : self.rows]
            line[:, column % P] = values[:, column]
        for column in range(self.cols, self._data.shape[0] * P):
            self._data[column // P, : self.rows, column % P] = 0
        self._freeze()

    @classmethod
    def output(cls, P, rows, cols, dtype):
        """Room for a result."""
        matrix = cls.__new__(cls)
        matrix._lay_out(P, (rows, cols), np.dtype(dtype), OUTPUT_FILL)
        matrix._freeze()
        return matrix

    def _lay_out(self, P, shape, dtype, fill):
        self.P, (self.rows, self.cols) = P, shape
        # compute_loss and apply_output read whole blocks of P rows.
        self.lines = self.rows + P + 1
        n_panels = -(-self.cols // P)
        body = self._allocate(n_panels * self.lines * P * dtype.itemsize, fill)
        self._data = body.view(dtype).reshape(n_panels, self.lines, P)

    @property
    def panels(self):
        panels = cbp_panels(self.pointer, self.lines * self.P)
        panels.owner = self
        return panels

    def panel(self, number):
        """Address of one panel."""
        return self._address(self._data[number])

    def _rows(self, r0=0, r1=None):
        lines = self._data[:, r0 : self.rows if r1 is None else r1]
        n_panels, n_rows, P = lines.shape
        return lines.transpose(1, 0, 2).reshape(n_rows, n_panels * P)

    @property
    def values(self):
        return self._rows()[:, : self.cols].copy()

    def padding(self, r0=0, r1=None):
        """What stands in the columns that pad the last panel."""
        return self._rows(r0, r1)[:, self.cols :].copy()

    def assert_only_rows(self, r0, r1):
        """Nothing was written outside rows r0 .. r1 - 1."""
        allowed = np.zeros(self._raw.shape, bool)
        start = self._start()
        body = allowed[start : start + self._data.nbytes]
        line_bytes = self.P * self._data.itemsize
        body.reshape(*self._data.shape[:2], line_bytes)[:, r0:r1] = True
        changed = (self._raw != self._before) & ~allowed
        assert not changed.any(), f"{changed.sum()} bytes written outside the rows"


class CsrRows:
    """A SciPy CSR matrix as kernels take it: `pointer` to a cbp_csr."""

    def __init__(self, X):
        self.parts = (
            Vector(X.data),
            Vector(X.indices.astype(np.int32)),
            Vector(X.indptr.astype(np.int64)),
        )
        self._struct = cbp_csr(*(part.pointer for part in self.parts))
        self.pointer = byref(self._struct)


class Columns:
    """Room for the columns of a sparse batch: `pointer` to a cbp_columns."""

    def __init__(self, n_cols, n_entries, dtype):
        self.parts = (
            Vector.output(n_cols + 1, np.int64),
            Vector.output(n_entries, np.int32),
            Vector.output(n_entries, dtype),
        )
        self._struct = cbp_columns(*(part.pointer for part in self.parts))
        self.pointer = byref(self._struct)


class Groups:
    """Groups of so many outputs each: `pointer` to a cbp_groups, or None for none."""

    def __init__(self, sizes=()):
        self._starts = Vector(np.cumsum([0, *sizes], dtype=np.intp), misaligned=False)
        self._struct = cbp_groups(len(sizes), self._starts.pointer.value)
        self.pointer = byref(self._struct) if sizes else None
        self.address = ctypes.addressof(self._struct) if sizes else None


class LossOf:
    """A loss as kernels take it: `pointer` to a cbp_loss, whose parameters are rows of
    n_out items."""

    def __init__(self, loss, n_out, kernels, parameters=(), groups=()):
        width = -(-n_out // kernels.P) * kernels.P
        rows = np.zeros((2, width), kernels.dtype)
        for row, given in zip(rows, parameters, strict=False):
            row[:n_out] = given
        self.parts = [Vector(row, misaligned=False) for row in rows]
        pointers = (c_void_p * 2)(*(part.pointer.value for part in self.parts))
        self.groups = Groups(groups)
        self._struct = cbp_loss(LOSSES.index(loss), pointers, self.groups.address)
        self.pointer = byref(self._struct)
        self.struct = self._struct


def pointers_to(vectors):
    """The array of pointers to its states that a step takes."""
    return (c_void_p * len(vectors))(*(vector.pointer for vector in vectors))


def assert_same(actual, expected):
    """Equal values of one dtype; NaN equals NaN, +0 equals -0."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def assert_same_bytes(actual, expected):
    """The same bits, except for the payload of a NaN."""
    assert_same(actual, expected)
    finite = ~np.isnan(actual)
    assert np.array_equal(np.signbit(actual[finite]), np.signbit(expected[finite]))
