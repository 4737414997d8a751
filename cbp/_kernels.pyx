"""The fence to C: chooses the CPU tier once, at import, and hands out its tables.

The only module that knows cbp.h's functions and the dtype of a buffer. No mathematics
(src_c/kernels.h) and no loops over batches (_network.pyx).
"""

import os

cdef extern from "cbp.h" nogil:
    enum:
        CBP_N_TIERS
    const char *cbp_tier_names[]
    int cbp_tier_usable(int tier)
    const cbp_kernels *cbp_table(int tier, int itemsize)

cdef int _tier = 0


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
    return <size_t>cbp_table(_tier_number(tier), dtype.itemsize)


def _tier_number(name):
    """Index of a usable tier; ImportError with the valid names otherwise."""
    for i in range(CBP_N_TIERS):
        if cbp_tier_usable(i) and cbp_tier_names[i].decode() == name:
            return i
    raise ImportError(
        f"CBP_ISA={name!r} is not a tier that this CPU can run; valid: {tiers()}"
    )


cdef _flat(array):
    """The array as one axis; never a copy, whose address would not outlive it."""
    if not array.flags.c_contiguous:
        raise ValueError("the kernels need C-contiguous arrays")
    return array.reshape(-1)


cdef const cbp_kernels *kernels(int itemsize) noexcept nogil:
    return cbp_table(_tier, itemsize)


cdef const void *address(object array) except? NULL:
    cdef const unsigned char[::1] view = _flat(array).view("u1")
    return &view[0] if view.shape[0] else NULL


cdef void *writable_address(object array) except? NULL:
    cdef unsigned char[::1] view = _flat(array).view("u1")
    return &view[0] if view.shape[0] else NULL


_tier = _tier_number(os.environ.get("CBP_ISA") or tiers().pop())
