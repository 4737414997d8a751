# The order of rows in an epoch: NumPy's shuffle, without the GIL.
from libc.stdint cimport int64_t, uint32_t, uint64_t


# NumPy's public interface to a bit generator (numpy/random/bitgen.h).
ctypedef struct bitgen_t:
    void *state
    uint64_t (*next_uint64)(void *) noexcept nogil
    uint32_t (*next_uint32)(void *) noexcept nogil
    double (*next_double)(void *) noexcept nogil
    uint64_t (*next_raw)(void *) noexcept nogil


cdef inline void shuffle(int64_t *x, ptrdiff_t n, bitgen_t *bits) noexcept nogil:
    """Fisher and Yates as numpy's RandomState.shuffle draws: the same permutation."""
    cdef uint64_t i = n - 1, mask = i, j
    cdef bint taken
    cdef int64_t kept
    mask |= mask >> 1
    mask |= mask >> 2
    mask |= mask >> 4
    mask |= mask >> 8
    mask |= mask >> 16
    mask |= mask >> 32
    while i > 0:
        if mask >> 1 >= i:
            mask >>= 1
        if i <= 0xFFFFFFFFULL:
            j = bits.next_uint32(bits.state) & mask
        else:
            j = bits.next_uint64(bits.state) & mask
        # A draw beyond i is void. Without a branch, which no CPU could predict, it
        # exchanges x[i] with itself.
        taken = j <= i
        j = j if taken else i
        kept = x[j]
        x[j] = x[i]
        x[i] = kept
        i -= taken
