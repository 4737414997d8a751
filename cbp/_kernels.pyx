"""The fence to C: chooses the CPU tier once, at import, and hands out its tables.

The only module that knows cbp.h's functions and the dtype of a buffer. No mathematics
(src_c/kernels.h) and no loops over batches (_training.pyx).
"""

import os

import numpy as np

from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_ND,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)


cdef extern from "cbp.h" nogil:
    enum:
        CBP_N_TIERS
        CBP_N_ACTIVATIONS
        CBP_N_OUTPUTS
        CBP_N_LOSSES
        CBP_N_OPTIMIZERS
        CBP_MAP_EXP
        CBP_MAP_LOG
        CBP_MAP_LOG1P
        CBP_MAP_LOGISTIC
    const char *cbp_tier_names[]
    const char *cbp_activation_names[]
    const char *cbp_output_names[]
    const char *cbp_loss_names[][2]
    const char *cbp_optimizer_names[]
    int cbp_tier_usable(int tier)
    const cbp_kernels *cbp_table(int tier, int itemsize)
    cbp_pair cbp_power(double x, double y)
    cbp_pair cbp_product(cbp_pair a, cbp_pair b)
    double cbp_cosine(double x)
    void cbp_powers(double x, ptrdiff_t n, double *powers)

cdef int _tier = 0

# Names of the field and their numbers in cbp.h; a loss has two: (output, loss).
ACTIVATIONS = {cbp_activation_names[i].decode(): i for i in range(CBP_N_ACTIVATIONS)}
OUTPUTS = {cbp_output_names[i].decode(): i for i in range(CBP_N_OUTPUTS)}
LOSSES = {
    (cbp_loss_names[i][0].decode(), cbp_loss_names[i][1].decode()): i
    for i in range(CBP_N_LOSSES)
}
OPTIMIZERS = {cbp_optimizer_names[i].decode(): i for i in range(CBP_N_OPTIMIZERS)}


def tiers():
    """Names of the tiers that this CPU can run, the fastest last."""
    return [cbp_tier_names[i].decode() for i in range(CBP_N_TIERS)
            if cbp_tier_usable(i)]


def isa():
    """Name of the tier in use."""
    return cbp_tier_names[_tier].decode()


def table_address(tier, dtype):
    """Address of the kernel table of a tier and dtype, for tests that drive kernels.

    Parameters
    ----------
    tier : str
        One of `tiers()`.
    dtype : numpy dtype
        float32 or float64.

    Returns
    -------
    int
    """
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    return <size_t>cbp_table(_tier_number(tier), np.dtype(dtype).itemsize)


def _tier_number(name):
    """Index of a usable tier; ImportError with the valid names otherwise."""
    for i in range(CBP_N_TIERS):
        if cbp_tier_usable(i) and cbp_tier_names[i].decode() == name:
            return i
    raise ImportError(
        f"CBP_ISA={name!r} is not a tier that this CPU can run; valid: {tiers()}"
    )


cdef const cbp_kernels *kernels(int itemsize) noexcept nogil:
    return cbp_table(_tier, itemsize)


cpdef double power(double x, double y) noexcept nogil:
    """x^y of src_c/power.c, for x and y >= 0."""
    return cbp_power(x, y).hi


cpdef double cosine(double x) noexcept nogil:
    """cos(pi x) of src_c/power.c, for x in [0, 1]."""
    return cbp_cosine(x)


cdef cbp_pair power_pair(double x, double y) noexcept nogil:
    return cbp_power(x, y)


cdef cbp_pair product(cbp_pair a, cbp_pair b) noexcept nogil:
    return cbp_product(a, b)


cdef void powers(double x, ptrdiff_t n, double *out) noexcept nogil:
    cbp_powers(x, n, out)


cdef const void *address(object array) except? NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef const void *start = view.buf
    PyBuffer_Release(&view)
    return start


cdef void *writable_address(object array) except? NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
    cdef void *start = view.buf
    PyBuffer_Release(&view)
    return start


cdef const void *floats(object array, str name, int itemsize, int ndim,
                        ptrdiff_t *shape) except? NULL:
    return _floats(array, name, itemsize, ndim, shape, PyBUF_FORMAT | PyBUF_ND)


cdef void *writable_floats(object array, str name, int itemsize, int ndim,
                           ptrdiff_t *shape) except? NULL:
    return _floats(array, name, itemsize, ndim, shape,
                   PyBUF_FORMAT | PyBUF_ND | PyBUF_WRITABLE)


cdef void *_floats(object array, str name, int itemsize, int ndim, ptrdiff_t *shape,
                   int flags) except? NULL:
    cdef Py_buffer view
    cdef char kind = b"d" if itemsize == 8 else b"f"
    cdef void *start
    cdef bint fits
    cdef int i
    try:
        PyObject_GetBuffer(array, &view, flags)
    except (BufferError, TypeError, ValueError):
        raise _misfit(array, name, itemsize, ndim, shape) from None
    start = view.buf
    # NumPy writes a prefix if items are misaligned or of the other byte order.
    fits = (view.ndim == ndim and view.format != NULL and view.format[0] == kind
            and view.format[1] == 0)
    for i in range(ndim):
        if not fits:
            break
        if shape[i] < 0:
            shape[i] = view.shape[i]
        fits = view.shape[i] == shape[i]
    PyBuffer_Release(&view)
    if not fits:
        raise _misfit(array, name, itemsize, ndim, shape)
    return start


def all_finite(array):
    """Whether an array of numbers has neither NaN nor infinity.

    For few numbers this takes a tenth of the time of np.isfinite(array).all().
    """
    cdef Py_buffer view
    cdef bint known = True, finite = False
    cdef int size
    try:
        PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_ND)
    except (BufferError, TypeError, ValueError):  # not contiguous, or objects
        return bool(np.isfinite(array).all())
    if view.format == NULL or view.format[0] == 0 or view.format[1] != 0:
        known = False
    elif view.format[0] == b"d" or view.format[0] == b"f":
        size = 8 if view.format[0] == b"d" else 4
        with nogil:
            finite = kernels(size).all_finite(view.buf, view.len // size)
    else:
        known = False
    PyBuffer_Release(&view)
    return finite if known else bool(np.isfinite(array).all())


_MAPS = {"exp": CBP_MAP_EXP, "log": CBP_MAP_LOG, "log1p": CBP_MAP_LOG1P,
         "logistic": CBP_MAP_LOGISTIC}


def elementwise(function, x):
    """A function of the kernels, number by number: the same bits on every platform.

    Parameters
    ----------
    function : {"exp", "log", "log1p", "logistic"}
        "log1p" is for numbers from 0 to 1.
    x : ndarray of float32 or float64

    Returns
    -------
    ndarray of the same shape and dtype
    """
    cdef const cbp_kernels *k = kernels(x.itemsize)
    # Kernels take whole lines.
    cdef ptrdiff_t n = x.size, whole = (n + k.panel - 1) // k.panel * k.panel
    cdef int number = _MAPS[function]
    y = np.zeros(whole, x.dtype)
    y[:n] = x.reshape(-1)
    cdef void *items = writable_floats(y, "x", k.itemsize, 1, &whole)
    with nogil:
        k.map(number, items, items, whole)
    return y[:n].reshape(x.shape)


cdef _misfit(array, name, int itemsize, int ndim, ptrdiff_t *shape):
    """The error that says what was wanted and what came."""
    wanted = ", ".join([str(shape[i]) if shape[i] >= 0 else "n" for i in range(ndim)])
    wanted = f"({wanted},)" if ndim == 1 else f"({wanted})"
    got = type(array).__name__
    if isinstance(array, np.ndarray):
        flags = array.flags
        faults = ["" if flags.c_contiguous else ", not C-contiguous",
                  "" if flags.aligned else ", misaligned",
                  "" if flags.writeable else ", read-only"]
        got = f"{array.shape}, {array.dtype}{''.join(faults)}"
    return ValueError(f"{name}: want a C-contiguous array of shape {wanted} and "
                      f"float{8 * itemsize}, got {got}")


_tier = _tier_number(os.environ.get("CBP_ISA") or tiers().pop())
