# The order of every sum above the kernels, as cbp.h lays it down: for numbers of rows
# (costs, weights), and for gradients that are summed in pieces.
# Sums within a piece are the kernels' (src_c/sums.h). Inline only: there is no module.
from libc.string cimport memset

from cbp._kernels cimport CBP_BLOCK_ROWS, CBP_CHUNK_ROWS, cbp_kernels


cdef inline double sum_in_order(const double *x, ptrdiff_t n) noexcept nogil:
    """Sum of one chunk: chains of CBP_BLOCK_ROWS items, joined by a binary tree."""
    cdef double parts[16]  # CBP_CHUNK_ROWS / CBP_BLOCK_ROWS
    cdef ptrdiff_t full = n // CBP_BLOCK_ROWS, n_parts = full, i, j, step = 1
    memset(parts, 0, 16 * sizeof(double))
    # Chains side by side: one alone waits four cycles for each sum.
    for i in range(CBP_BLOCK_ROWS if full else 0):
        for j in range(full):
            parts[j] += x[j * CBP_BLOCK_ROWS + i]
    if n > full * CBP_BLOCK_ROWS:
        n_parts += 1
        for i in range(full * CBP_BLOCK_ROWS, n):
            parts[full] += x[i]
    while step < n_parts:
        for j from 0 <= j < n_parts - step by 2 * step:
            parts[j] += parts[j + step]
        step *= 2
    return parts[0]


cdef inline double sum_squares(const double *x, ptrdiff_t n) noexcept nogil:
    """Sum of x^2: chunks are added ascending."""
    cdef double squares[CBP_CHUNK_ROWS]
    cdef double total = 0
    cdef ptrdiff_t start = 0, i, m
    while start < n:
        m = min(n - start, <ptrdiff_t>CBP_CHUNK_ROWS)
        for i in range(m):
            squares[i] = x[start + i] * x[start + i]
        total += sum_in_order(squares, m)
        start += m
    return total


cdef inline void add_penalty(double *gradient, ptrdiff_t n, const double *W,
                             ptrdiff_t n_weights, double alpha,
                             double scale) noexcept nogil:
    """gradient = (gradient + alpha W) * scale; biases have no penalty."""
    cdef ptrdiff_t i
    for i in range(n_weights):
        gradient[i] += alpha * W[i]
    for i in range(n):
        gradient[i] *= scale


# Rows of a batch that are propagated and summed before the next ones.
cdef struct Piece:
    ptrdiff_t start    # its first row, counted in its chunk
    ptrdiff_t rows
    int number         # its number in its chunk
    int height         # partial sums of the chunk that have not joined yet
    bint first_chunk   # is it in the first chunk of the batch?
    bint last          # is it the last piece of its chunk?


# A gradient that grows piece by piece, and the partial sums that wait to join it.
cdef struct Stack:
    char *total        # NULL if the optimizer steps as soon as a piece is summed
    char *parts        # NULL if a chunk is one piece
    ptrdiff_t bytes    # of each


cdef inline Piece piece_at(ptrdiff_t start, ptrdiff_t n_rows,
                           ptrdiff_t most) noexcept nogil:
    """The piece of at most `most` rows that begins at row `start` of n_rows."""
    cdef Piece piece
    cdef ptrdiff_t chunk = start // CBP_CHUNK_ROWS * CBP_CHUNK_ROWS
    cdef int number
    piece.rows = min(n_rows - start, most)
    piece.start = start - chunk
    piece.number = number = <int>(piece.start // most)
    piece.height = (number & 1) + (number >> 1 & 1) + (number >> 2)
    piece.first_chunk = chunk == 0
    piece.last = start + piece.rows == min(chunk + CBP_CHUNK_ROWS, n_rows)
    return piece


cdef inline char *part(const Stack *stack, const Piece *piece, int i) noexcept nogil:
    """Partial sum i; at the bottom of those of the first chunk is the total itself."""
    if piece.first_chunk:
        i -= 1
    if i < 0:
        return stack.total
    return stack.parts + i * stack.bytes


cdef inline bint stands_apart(const Piece *piece) noexcept nogil:
    """Is the sum of this piece to be added to an older one, and no new part?"""
    return piece.number & 1 or (
        piece.number == 0 and piece.last and not piece.first_chunk
    )


cdef inline void join(const cbp_kernels *k, const Stack *stack, const Piece *piece,
                      const void *G, ptrdiff_t offset, ptrdiff_t n) noexcept nogil:
    """Joins n items G of a piece's sum to those before it, as a binary counter does:
    the tree that sum_gradient builds of the blocks in a piece. offset: where these
    items lie in each sum, in bytes."""
    cdef int height = piece.height, bits = piece.number
    if bits & 1:
        k.add(part(stack, piece, height - 1) + offset, G, n)
        bits >>= 1
        while bits & 1:
            height -= 1
            k.add(part(stack, piece, height - 1) + offset,
                  part(stack, piece, height) + offset, n)
            bits >>= 1
    elif stands_apart(piece):
        k.add(stack.total + offset, G, n)
        return
    else:
        height += 1
    if not piece.last:
        return
    while height > 1:
        height -= 1
        k.add(part(stack, piece, height - 1) + offset,
              part(stack, piece, height) + offset, n)
    if not piece.first_chunk:
        k.add(stack.total + offset, part(stack, piece, 0) + offset, n)
