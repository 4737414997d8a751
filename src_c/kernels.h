/* kernels.h - TEMPLATE: every kernel, written once in `real` and `vec` (vec.h).
 *
 * Included once per CPU tier and dtype by the thin <tier>.c files; ends with the table
 * of that stamping. The order of operations of every sum is fixed here and is the same
 * on every tier: forward and delta products are one fma chain per output, k ascending,
 * from the bias (delta: from 0); sums over rows follow cbp.h. Not here: which rows, how
 * many threads, when to stop (cbp/_network.pyx). Formulas: docs/backpropagation.md. */
#include <math.h>
#include <string.h>

#include "cbp.h"

#undef FN
#if CBP_DOUBLE
#define FN(name) name##_f64
#else
#define FN(name) name##_f32
#endif

#include "vec.h"
#include "vmath.h"

#undef INLINE
#undef UNROLL
#define INLINE static inline __attribute__((always_inline))
#if defined CBP_TIER_SCALAR && (defined __x86_64__ || defined __aarch64__)
#define UNROLL _Pragma("GCC unroll 1") /* half a megabyte that nobody waits for */
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* A product tile has up to TILE_PANELS panels and TILE_ROWS / panels rows: as many
 * accumulators as the registers hold beside the lines of B and a factor of A (6 x 2 of
 * 16 ymm; 24 x 1, 12 x 2 or 8 x 3 of 32 zmm; 6 x 4 of 32 NEON). Alone, a zmm needs a
 * load for each fma, all that the core can do; panels side by side share the factors.
 * kernels.py, 256 x 256 x 256, float32 forward and float64 dW: 93 and 83 % of the FMA
 * peak with one panel, 100 and 98 with three. Of ymm, 12 x 1 and 8 x 1 reached 84 %
 * where 6 x 2 reached 95. */
#undef TILE_ROWS
#undef TILE_PANELS
#undef FOR_EACH_TILE
#define TILES_1_TO_4(X, panels) X(panels, 1) X(panels, 2) X(panels, 3) X(panels, 4)
#define TILES_1_TO_6(X, panels) TILES_1_TO_4(X, panels) X(panels, 5) X(panels, 6)
#define TILES_1_TO_8(X, panels) TILES_1_TO_6(X, panels) X(panels, 7) X(panels, 8)
#define TILES_9_TO_12(X, panels) X(panels, 9) X(panels, 10) X(panels, 11) X(panels, 12)
#define TILES_1_TO_12(X, panels) TILES_1_TO_8(X, panels) TILES_9_TO_12(X, panels)
#define TILES_13_TO_18(X) X(1, 13) X(1, 14) X(1, 15) X(1, 16) X(1, 17) X(1, 18)
#define TILES_19_TO_24(X) X(1, 19) X(1, 20) X(1, 21) X(1, 22) X(1, 23) X(1, 24)
#define TILES_1_TO_24(X) TILES_1_TO_12(X, 1) TILES_13_TO_18(X) TILES_19_TO_24(X)
#if defined CBP_TIER_AVX512
#define TILE_ROWS 24
#define TILE_PANELS 3
#define FOR_EACH_TILE(X) TILES_1_TO_24(X) TILES_1_TO_12(X, 2) TILES_1_TO_8(X, 3)
#elif defined CBP_TIER_SCALAR
#define TILE_ROWS 1
#define TILE_PANELS 1
#define FOR_EACH_TILE(X) X(1, 1)
#else
#define TILE_ROWS 6
#define TILE_PANELS 1
#define FOR_EACH_TILE(X) TILES_1_TO_6(X, 1)
#endif

/* k per block of a product: 256 lines of a panel of W are 16 KB; three panels stay in
 * the L1 cache or stream from L2 (kernels.py, 256 x 1024 x 1024: 192 is no faster). */
#undef K_BLOCK_PANELS
#define K_BLOCK_PANELS (256 / P)

/* Optimizer state and output errors of at most DUST are rounding dust; flushed so that
 * subnormals, a hundred times slower on many CPUs, do not arise: not in a step, and not
 * where errors meet the weights of a dead unit, which the penalty lowers until the
 * gradient it makes of them is dust (floats: to some 1e-17). */
#undef DUST
#undef LOG_DUST
#undef SQUARE_FLOOR
#if CBP_DOUBLE
#define DUST 1e-290
#define LOG_DUST (-668.0)
#define SQUARE_FLOOR 1e-270
#else
#define DUST 1e-22f
#define LOG_DUST (-51.0f)
#define SQUARE_FLOOR 1e-33f
#endif

INLINE vec FN(flush_dust)(vec x) {
    /* Asked this way round, NaN is no dust. */
    return vec_select(vec_ge(vec_set1(DUST), vec_abs(x)), vec_zero(), x);
}

/* ---- activations: one line each, forward and derivative ------------------------- */

INLINE vec FN(activate_vec)(vec z, int activation) {
    switch (activation) {
    case CBP_LOGISTIC: return vec_logistic(z);
    case CBP_TANH: return vec_tanh(z);
    case CBP_RELU: return vec_max(vec_zero(), z); /* NaN stays NaN */
    default: return z;
    }
}

/* delta * f'(z), with f' expressed in a = f(z). */
INLINE vec FN(derivative_vec)(vec delta, vec a, int activation) {
    switch (activation) {
    case CBP_LOGISTIC: return vec_mul(delta, vec_fnma(a, a, a)); /* a - a^2 */
    case CBP_TANH: return vec_mul(delta, vec_fnma(a, a, vec_set1(1)));
    case CBP_RELU: return vec_keep(vec_gt(a, vec_zero()), delta);
    default: return delta;
    }
}

static void FN(activate)(void *z_, ptrdiff_t n, int activation) {
    real *z = z_;
#define CASE(kind)                                                                     \
    case kind:                                                                         \
        for (ptrdiff_t i = 0; i < n; i += VL)                                          \
            vec_store(z + i, FN(activate_vec)(vec_load(z + i), kind));                 \
        break;
    switch (activation) {
        CASE(CBP_LOGISTIC)
        CASE(CBP_TANH)
        CASE(CBP_RELU)
    default: break;
    }
#undef CASE
}

static void FN(multiply_derivative)(void *delta_, const void *a_, ptrdiff_t n,
                                    int activation) {
    real *delta = delta_;
    const real *a = a_;
#define CASE(kind)                                                                     \
    case kind:                                                                         \
        for (ptrdiff_t i = 0; i < n; i += VL)                                          \
            vec_store(delta + i,                                                       \
                      FN(derivative_vec)(vec_load(delta + i), vec_load(a + i), kind)); \
        break;
    switch (activation) {
        CASE(CBP_LOGISTIC)
        CASE(CBP_TANH)
        CASE(CBP_RELU)
    default: break;
    }
#undef CASE
}

/* Zeros in the columns that pad the last panel: f(0) need not be 0. */
static void FN(clear_padding)(real *last_panel, ptrdiff_t n_lines, ptrdiff_t n_cols) {
    const ptrdiff_t used = n_cols % P;
    if (used)
        for (ptrdiff_t r = 0; r < n_lines; r++)
            memset(last_panel + r * P + used, 0, (size_t)(P - used) * sizeof(real));
}

/* ---- moving data ----------------------------------------------------------------- */

/* Rows between the one that is copied and the one that is asked for, and how much of
 * it: rows in random order come from main memory. benchmarks/growth.py. */
enum { FN(ROWS_AHEAD) = 8, FN(LINES_AHEAD) = 8 };

/* A[r, :] = X[order[r], :] for r < n_rows, padding columns zeroed. check: returns 0 if
 * all items are finite, else NaN, since x * 0 is NaN for every other x. */
INLINE real FN(gather)(const int check, const void *X, ptrdiff_t row_stride,
                       const int64_t *order, ptrdiff_t n_rows, ptrdiff_t n_cols,
                       cbp_panels A) {
    const ptrdiff_t full = n_cols / P, rest = n_cols % P;
    real sum = 0, lanes[VL];
    vec sums = vec_zero();
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const real *x = (const real *)X + (order ? order[r] : r) * row_stride;
        real *a = (real *)A.data + r * P;
        /* One chain per row, so that those of several rows run side by side. */
        vec row_sums = vec_zero();
        if (order && r + FN(ROWS_AHEAD) < n_rows) {
            const real *next = (const real *)X + order[r + FN(ROWS_AHEAD)] * row_stride;
            for (ptrdiff_t c = 0; c < n_cols && c < FN(LINES_AHEAD) * P; c += P)
                __builtin_prefetch(next + c);
        }
        for (ptrdiff_t p = 0; p < full; p++) UNROLL for (int v = 0; v < VPP; v++) {
                const vec items = vec_load(x + p * P + v * VL);
                vec_store(a + p * A.stride + v * VL, items);
                if (check) row_sums = vec_fma(items, vec_zero(), row_sums);
            }
        if (rest) {
            real *line = a + full * A.stride;
            for (ptrdiff_t c = 0; c < P; c++) line[c] = c < rest ? x[full * P + c] : 0;
            for (ptrdiff_t c = 0; check && c < rest; c++) sum += line[c] * 0;
        }
        if (check) sums = vec_add(sums, row_sums);
    }
    vec_store(lanes, sums);
    for (int lane = 0; check && lane < VL; lane++) sum += lanes[lane];
    return sum;
}

static void FN(gather_rows)(const void *X, ptrdiff_t row_stride, const int64_t *order,
                            ptrdiff_t n_rows, ptrdiff_t n_cols, cbp_panels A) {
    FN(gather)(0, X, row_stride, order, n_rows, n_cols, A);
}

/* gather_rows of rows that follow each other; returns 1 if all items are finite. */
static int FN(gather_finite)(const void *X, ptrdiff_t n_rows, ptrdiff_t n_cols,
                             cbp_panels A) {
    return FN(gather)(1, X, n_cols, NULL, n_rows, n_cols, A) == 0;
}

/* X[r, :] = A[r, :] for r < n_rows, without the padding. */
static void FN(scatter_rows)(cbp_panels A, ptrdiff_t n_rows, ptrdiff_t n_cols, void *X,
                             ptrdiff_t row_stride) {
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const real *a = (const real *)A.data + r * P;
        real *x = (real *)X + r * row_stride;
        for (ptrdiff_t c = 0; c < n_cols; c += P) {
            const ptrdiff_t used = n_cols - c < P ? n_cols - c : P;
            memcpy(x + c, a + (c / P) * A.stride, (size_t)used * sizeof(real));
        }
    }
}

/* T[r, j] = 1 where j is the label of row r, else 0; one output: the label itself. */
static void FN(fill_targets)(const int32_t *labels, ptrdiff_t n_rows, ptrdiff_t n_out,
                             cbp_panels T) {
    for (ptrdiff_t p = 0; p * P < n_out; p++)
        memset((real *)T.data + p * T.stride, 0, (size_t)(n_rows * P) * sizeof(real));
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const ptrdiff_t j = n_out > 1 ? labels[r] : 0;
        ((real *)T.data)[(j / P) * T.stride + r * P + j % P] =
            n_out > 1 ? 1 : (real)labels[r];
    }
}

/* out[i] = x[order[i]] */
static void FN(gather_items)(const void *x, const int64_t *order, ptrdiff_t n,
                             void *out) {
    for (ptrdiff_t i = 0; i < n; i++) ((real *)out)[i] = ((const real *)x)[order[i]];
}

static double FN(item)(const void *x, ptrdiff_t i) {
    return (double)((const real *)x)[i];
}

/* x += y, n a multiple of P. */
static void FN(add)(void *x_, const void *y_, ptrdiff_t n) {
    real *x = x_;
    const real *y = y_;
    for (ptrdiff_t i = 0; i < n; i += VL)
        vec_store(x + i, vec_add(vec_load(x + i), vec_load(y + i)));
}

/* transposed[c, r] = block[r, c] of a block of P lines. */
static void FN(transpose_block)(const void *block, void *transposed) {
    for (int i = 0; i < P; i += VL)
        for (int j = 0; j < P; j += VL) {
            vec rows[VL];
            UNROLL for (int k = 0; k < VL; k++)
                rows[k] = vec_load((const real *)block + (i + k) * P + j);
            vec_transpose(rows);
            UNROLL for (int k = 0; k < VL; k++)
                vec_store((real *)transposed + (j + k) * P + i, rows[k]);
        }
}

/* ---- products: z = a_prev W + b and delta_prev = delta W^T ----------------------- */

/* How the accumulators of a tile begin, and what becomes of them in the end. */
enum { FN(FROM_ZERO), FN(FROM_LINE), FN(FROM_C) };
enum { FN(STORE), FN(STORE_RELU), FN(STORE_DRELU), FN(STORE_SUM) };

/* What a tile works on. Strides lead from one panel to the next. */
typedef struct {
    const real *a; /* panels of P values of k; transposed: lines */
    ptrdiff_t a_stride;
    ptrdiff_t n_k;
    const real *b; /* n_k lines */
    ptrdiff_t b_stride;
    real *c;
    ptrdiff_t c_stride;
    const real *bias;
    const real *aux; /* the activations beside C, for relu's derivative */
    ptrdiff_t aux_stride;
    int from, epilogue;
} FN(operands);

/* C[r, :] = sum of A[r, k] * B[k, :] over k < n_k, k ascending, r < rows, C and B being
 * `panels` panels. transposed: the lines at `a` are those of A^T. */
INLINE void FN(tile)(const int transposed, const int panels, const int rows,
                     const FN(operands) * t) {
    vec acc[TILE_ROWS][TILE_PANELS * VPP];
    const int vecs = panels * VPP, epilogue = t->epilogue;
    const int from = transposed ? FN(FROM_ZERO) : t->from;
    const ptrdiff_t row = transposed ? 1 : P, step = transposed ? P : 1;
    const ptrdiff_t a_turn = transposed ? 0 : t->a_stride - P;
    const ptrdiff_t b_stride = t->b_stride, c_stride = t->c_stride;
    const real *a = t->a, *b = t->b, *aux = t->aux;
    real *c = t->c;
#define AT(v, stride) ((v) / VPP * (stride) + (v) % VPP * VL)
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++)
            acc[r][v] = from == FN(FROM_ZERO)   ? vec_zero()
                        : from == FN(FROM_LINE) ? vec_load(t->bias + v * VL)
                                                : vec_load(c + r * P + AT(v, c_stride));
#define MULTIPLY(k)                                                                    \
    {                                                                                  \
        vec w[TILE_PANELS * VPP];                                                      \
        UNROLL for (int v = 0; v < vecs; v++)                                          \
            w[v] = vec_load(b + (k)*P + AT(v, b_stride));                              \
        UNROLL for (int r = 0; r < rows; r++) {                                        \
            const real *factor = a + r * row + (k)*step;                               \
            FMA_LINES(acc[r], factor, w)                                               \
        }                                                                              \
    }
#define FMA_LINES(acc_row, factor, w)                                                  \
    if (vecs == 1) {                                                                   \
        vec_fma_bcast((acc_row)[0], factor, (w)[0]);                                   \
    } else {                                                                           \
        const vec x = vec_broadcast(factor);                                           \
        UNROLL for (int v = 0; v < vecs; v++) vec_fma_acc((acc_row)[v], x, (w)[v]);    \
    }
    for (ptrdiff_t left = t->n_k / P; left > 0; left--) {
        for (int k = 0; k < P; k += 4) {
            MULTIPLY(0) MULTIPLY(1) MULTIPLY(2) MULTIPLY(3)
            a += 4 * step;
            b += 4 * P;
        }
        a += a_turn;
    }
    for (ptrdiff_t left = t->n_k % P; left > 0; left--) {
        MULTIPLY(0)
        a += step;
        b += P;
    }
    UNROLL for (int v = 0; v < vecs; v++)
        UNROLL for (int r = 0; r < rows; r++) {
            real *out = c + r * P + AT(v, c_stride);
            vec x = acc[r][v];
            if (!transposed && epilogue == FN(STORE_RELU))
                x = FN(activate_vec)(x, CBP_RELU);
            if (!transposed && epilogue == FN(STORE_DRELU))
                x = FN(derivative_vec)(
                    x, vec_load(aux + r * P + AT(v, t->aux_stride)), CBP_RELU);
            if (transposed && epilogue == FN(STORE_SUM)) x = vec_add(vec_load(out), x);
            vec_store(out, x);
        }
}
#undef FMA_LINES
#undef MULTIPLY
#undef AT

typedef void (*FN(tile_fn))(const FN(operands) *);
#define DEFINE_TILE(panels, rows)                                                      \
    static void FN(tile_##panels##_##rows)(const FN(operands) * t) {                   \
        FN(tile)(0, panels, rows, t);                                                  \
    }                                                                                  \
    static void FN(tile_t_##panels##_##rows)(const FN(operands) * t) {                 \
        FN(tile)(1, panels, rows, t);                                                  \
    }
#define LIST_TILE(panels, rows)                                                        \
    [0][panels - 1][rows] = FN(tile_##panels##_##rows),                                \
    [1][panels - 1][rows] = FN(tile_t_##panels##_##rows),
FOR_EACH_TILE(DEFINE_TILE)
static const FN(tile_fn) FN(tiles)[2][TILE_PANELS][TILE_ROWS + 1] = {
    FOR_EACH_TILE(LIST_TILE)};
#undef DEFINE_TILE
#undef LIST_TILE

/* n_rows rows of C in `panels` panels, shared out evenly over the tiles. */
INLINE void FN(run_tiles)(const int transposed, ptrdiff_t panels, ptrdiff_t n_rows,
                          FN(operands) t) {
    const ptrdiff_t most = TILE_ROWS / panels, n_tiles = (n_rows + most - 1) / most;
    for (ptrdiff_t i = 0; i < n_tiles; i++) {
        const ptrdiff_t rows = n_rows / n_tiles + (i < n_rows % n_tiles);
        FN(tiles)[transposed][panels - 1][rows](&t);
        t.a += transposed ? rows : rows * P;
        t.c += rows * P;
        if (t.aux) t.aux += rows * P;
    }
}

/* C = A B over rows r0 .. r1 - 1 in blocks of k; panels are shared out evenly over
 * groups as wide as a tile. */
static void FN(product)(cbp_panels A, ptrdiff_t n_k, cbp_panels B, int from,
                        const real *bias, cbp_panels C, const cbp_panels *aux,
                        ptrdiff_t n_cols, ptrdiff_t r0, ptrdiff_t r1, int epilogue) {
    /* Short sums wait for memory, which likes one long run of lines best (kernels.py,
     * delta of 256 x 256 x 7 in float32: 60 % of peak, with three panels 55). */
    const ptrdiff_t most = n_k < P ? 1 : TILE_PANELS;
    const ptrdiff_t n_panels = (n_cols + P - 1) / P;
    const ptrdiff_t n_groups = (n_panels + most - 1) / most;
    const ptrdiff_t k_panels = (n_k + P - 1) / P;
    const ptrdiff_t n_blocks =
        k_panels ? (k_panels + K_BLOCK_PANELS - 1) / K_BLOCK_PANELS : 1;
    for (ptrdiff_t block = 0, p = 0; block < n_blocks; block++) {
        const ptrdiff_t panels = k_panels / n_blocks + (block < k_panels % n_blocks);
        const int last = block == n_blocks - 1;
        FN(operands) t = {
            .a = (const real *)A.data + p * A.stride + r0 * P,
            .a_stride = A.stride,
            .n_k = last ? n_k - p * P : panels * P,
            .b_stride = B.stride,
            .c_stride = C.stride,
            .aux_stride = aux ? aux->stride : 0,
            .from = block ? FN(FROM_C) : from,
            .epilogue = last ? epilogue : FN(STORE),
        };
        for (ptrdiff_t g = 0, q = 0; g < n_groups; g++) {
            const ptrdiff_t width = n_panels / n_groups + (g < n_panels % n_groups);
            t.b = (const real *)B.data + q * B.stride + p * P * P;
            t.c = (real *)C.data + q * C.stride + r0 * P;
            t.bias = bias ? bias + q * P : NULL;
            t.aux = aux ? (const real *)aux->data + q * aux->stride + r0 * P : NULL;
            FN(run_tiles)(0, width, r1 - r0, t);
            q += width;
        }
        p += panels;
    }
}

/* Elementwise part of a forward product that was not done in its tiles. */
static void FN(activate_rows)(cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1,
                              int activation) {
    if (activation == CBP_IDENTITY) return;
    for (ptrdiff_t q = 0; q * P < n_out; q++) {
        real *z = (real *)Z.data + q * Z.stride + r0 * P;
        FN(activate)(z, (r1 - r0) * P, activation);
        if ((q + 1) * P > n_out) FN(clear_padding)(z, r1 - r0, n_out);
    }
}

/* a = f(A W + b). A (rows, n_in), W (n_in, n_out), b padded to lines, Z (rows,
 * n_out). */
static void FN(multiply_forward)(cbp_panels A, ptrdiff_t n_in, cbp_panels W,
                                 const void *b, cbp_panels Z, ptrdiff_t n_out,
                                 ptrdiff_t r0, ptrdiff_t r1, int activation) {
    const int fused = activation == CBP_RELU;
    FN(product)(A, n_in, W, b ? FN(FROM_LINE) : FN(FROM_ZERO), b, Z, NULL, n_out, r0,
                r1, fused ? FN(STORE_RELU) : FN(STORE));
    if (!fused) FN(activate_rows)(Z, n_out, r0, r1, activation);
}

/* z += A W: the chains of multiply_forward go on over the next n_in inputs. */
static void FN(extend_forward)(cbp_panels A, ptrdiff_t n_in, cbp_panels W, cbp_panels Z,
                               ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1) {
    FN(product)(A, n_in, W, FN(FROM_C), NULL, Z, NULL, n_out, r0, r1, FN(STORE));
}

/* delta_prev = (delta W^T) * f'(a_prev). delta (rows, n_out), WT (n_out, n_in). */
static void FN(multiply_delta)(cbp_panels delta, ptrdiff_t n_out, cbp_panels WT,
                               cbp_panels A, cbp_panels delta_prev, ptrdiff_t n_in,
                               ptrdiff_t r0, ptrdiff_t r1, int activation) {
    const int fused = activation == CBP_RELU;
    FN(product)(delta, n_out, WT, FN(FROM_ZERO), NULL, delta_prev, fused ? &A : NULL,
                n_in, r0, r1, fused ? FN(STORE_DRELU) : FN(STORE));
    if (!fused && activation != CBP_IDENTITY)
        for (ptrdiff_t p = 0; p * P < n_in; p++)
            FN(multiply_derivative)((real *)delta_prev.data + p * delta_prev.stride +
                                        r0 * P,
                                    (const real *)A.data + p * A.stride + r0 * P,
                                    (r1 - r0) * P, activation);
}

/* The same product for CSR rows: the zeros that are skipped would change no bit. */
static void FN(multiply_forward_csr)(const cbp_csr *X, const int64_t *order,
                                     cbp_panels W, const void *b, cbp_panels Z,
                                     ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1,
                                     int activation) {
    const real *data = X->data, *bias = b;
    for (ptrdiff_t r = r0; r < r1; r++) {
        const int64_t row = order ? order[r] : r;
        for (ptrdiff_t q = 0; q * P < n_out; q++) {
            const real *w = (const real *)W.data + q * W.stride;
            real *z = (real *)Z.data + q * Z.stride + r * P;
            vec acc[VPP];
            UNROLL for (int v = 0; v < VPP; v++)
                acc[v] = bias ? vec_load(bias + q * P + v * VL) : vec_zero();
            for (int64_t i = X->indptr[row]; i < X->indptr[row + 1]; i++) {
                const vec x = vec_broadcast(data + i);
                const real *line = w + (ptrdiff_t)X->indices[i] * P;
                UNROLL for (int v = 0; v < VPP; v++)
                    acc[v] = vec_fma(x, vec_load(line + v * VL), acc[v]);
            }
            UNROLL for (int v = 0; v < VPP; v++) vec_store(z + v * VL, acc[v]);
        }
    }
    FN(activate_rows)(Z, n_out, r0, r1, activation);
}

/* ---- sums over rows: dW = a_prev^T delta, db = column sums of delta -------------- */

/* Joins the newest partial sum of n reals to those before it, as a binary counter does;
 * `parts` is the stack of partial sums, `done` how many blocks are in it already.
 * Returns the new height of the stack. */
INLINE int FN(join_block)(real *parts, ptrdiff_t n, ptrdiff_t done, int height) {
    for (; done & 1; done >>= 1, height--) {
        real *low = parts + (height - 2) * n, *high = low + n;
        for (ptrdiff_t i = 0; i < n; i += VL)
            vec_store(low + i, vec_add(vec_load(low + i), vec_load(high + i)));
    }
    return height;
}

/* Joins what is left of the stack, smallest first, into parts[0]. */
INLINE void FN(join_rest)(real *parts, ptrdiff_t n, int height) {
    for (; height > 1; height--) {
        real *low = parts + (height - 2) * n, *high = low + n;
        for (ptrdiff_t i = 0; i < n; i += VL)
            vec_store(low + i, vec_add(vec_load(low + i), vec_load(high + i)));
    }
}

/* Height the stack can reach: one level per bit of the block count, and the newest. */
enum { FN(MAX_PARTS) = 6 };

/* Part i of the stack of partial sums of a gradient; the bottom one is G itself. */
typedef real FN(gradient_part)[TILE_PANELS * P * P];
INLINE cbp_panels FN(part)(cbp_panels G, FN(gradient_part) * parts, int i) {
    return i ? (cbp_panels){parts[i - 1], P * P} : G;
}

/* Joins the top of that stack, n_panels panels of n reals, to the part below it. */
INLINE void FN(join_parts)(cbp_panels G, FN(gradient_part) * parts, int height,
                           ptrdiff_t n_panels, ptrdiff_t n) {
    const cbp_panels low = FN(part)(G, parts, height - 2);
    const cbp_panels high = FN(part)(G, parts, height - 1);
    for (ptrdiff_t q = 0; q < n_panels; q++)
        FN(add)((real *)low.data + q * low.stride, (real *)high.data + q * high.stride,
                n);
}

/* sum_gradient for at most TILE_PANELS panels. Every other block joins the one before
 * it straight from the registers, so the stack is one part lower than join_block's. */
INLINE void FN(sum_group)(const real *a, cbp_panels D, ptrdiff_t n_panels,
                          ptrdiff_t n_rows, ptrdiff_t n_lines, cbp_panels G) {
    FN(gradient_part) parts[FN(MAX_PARTS) - 2];
    int height = 0;
    for (ptrdiff_t r = 0, done = 0; r < n_rows; r += CBP_BLOCK_ROWS, done++) {
        const ptrdiff_t left = n_rows - r;
        const int joins = done & 1;
        height += !joins;
        const cbp_panels top = FN(part)(G, parts, height - 1);
        const FN(operands) t = {
            .a = a + r * P,
            .n_k = left < CBP_BLOCK_ROWS ? left : CBP_BLOCK_ROWS,
            .b = (const real *)D.data + r * P,
            .b_stride = D.stride,
            .c = top.data,
            .c_stride = top.stride,
            .epilogue = joins ? FN(STORE_SUM) : FN(STORE),
        };
        FN(run_tiles)(1, n_panels, n_lines, t);
        for (ptrdiff_t bits = done; (bits & 3) == 3; bits >>= 1, height--)
            FN(join_parts)(G, parts, height, n_panels, n_lines * P);
    }
    for (; height > 1; height--)
        FN(join_parts)(G, parts, height, n_panels, n_lines * P);
}

/* G = A_panel^T D, n_lines <= P lines in n_panels panels, summed over n_rows <=
 * CBP_CHUNK_ROWS rows. */
static void FN(sum_gradient)(const void *A_panel, cbp_panels D, ptrdiff_t n_panels,
                             ptrdiff_t n_rows, ptrdiff_t n_lines, cbp_panels G) {
    const ptrdiff_t n_groups = (n_panels + TILE_PANELS - 1) / TILE_PANELS;
    for (ptrdiff_t g = 0; g < n_groups; g++) {
        const ptrdiff_t width = n_panels / n_groups + (g < n_panels % n_groups);
        FN(sum_group)(A_panel, D, width, n_rows, n_lines, G);
        D.data = (real *)D.data + width * D.stride;
        G.data = (real *)G.data + width * G.stride;
    }
}

/* g (one line) = column sums of one panel of delta, n_rows <= CBP_CHUNK_ROWS. */
static void FN(sum_columns)(const void *D_panel, ptrdiff_t n_rows, void *g) {
    const real *d = D_panel;
    real parts[FN(MAX_PARTS) * P];
    int height = 0;
    for (ptrdiff_t r = 0, done = 0; r < n_rows; r += CBP_BLOCK_ROWS, done++) {
        const ptrdiff_t end = n_rows - r < CBP_BLOCK_ROWS ? n_rows : r + CBP_BLOCK_ROWS;
        vec acc[VPP];
        UNROLL for (int v = 0; v < VPP; v++) acc[v] = vec_zero();
        for (ptrdiff_t k = r; k < end; k++)
            UNROLL for (int v = 0; v < VPP; v++)
                acc[v] = vec_add(acc[v], vec_load(d + k * P + v * VL));
        UNROLL for (int v = 0; v < VPP; v++)
            vec_store(parts + height * P + v * VL, acc[v]);
        height = FN(join_block)(parts, P, done, height + 1);
    }
    FN(join_rest)(parts, P, height);
    memcpy(g, parts, P * sizeof(real));
}

/* Turns the rows `order` of a CSR matrix into columns, rows ascending in each. */
static void FN(transpose_csr)(const cbp_csr *X, const int64_t *order, ptrdiff_t n_rows,
                              ptrdiff_t n_cols, const cbp_columns *out) {
    const real *data = X->data;
    real *value = out->value;
    memset(out->start, 0, (size_t)(n_cols + 1) * sizeof(int64_t));
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const int64_t row = order ? order[r] : r;
        for (int64_t i = X->indptr[row]; i < X->indptr[row + 1]; i++)
            out->start[X->indices[i] + 1]++;
    }
    for (ptrdiff_t k = 0; k < n_cols; k++) out->start[k + 1] += out->start[k];
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const int64_t row = order ? order[r] : r;
        for (int64_t i = X->indptr[row]; i < X->indptr[row + 1]; i++) {
            const int64_t at = out->start[X->indices[i]]++;
            out->row[at] = (int32_t)r;
            value[at] = data[i];
        }
    }
    /* Every start has moved to its column's end, the next one's start: shift back. */
    memmove(out->start + 1, out->start, (size_t)n_cols * sizeof(int64_t));
    out->start[0] = 0;
}

/* sum_gradient for inputs k0 .. k0 + n_lines - 1 of a sparse batch. Blocks without an
 * entry would add zeros, so only their place in the binary counter is kept. */
static void FN(sum_gradient_csr)(const cbp_columns *X, ptrdiff_t k0, ptrdiff_t n_lines,
                                 const void *D_panel, void *G) {
    const real *d = D_panel, *value = X->value;
    for (ptrdiff_t k = 0; k < n_lines; k++) {
        real *g = (real *)G + k * P;
        int64_t i = X->start[k0 + k];
        const int64_t end = X->start[k0 + k + 1];
        real parts[FN(MAX_PARTS) * P];
        ptrdiff_t blocks = 0; /* blocks in the stack so far */
        int height = 0;
        memset(g, 0, P * sizeof(real));
        while (i < end) {
            const ptrdiff_t block = X->row[i] / CBP_BLOCK_ROWS;
            for (; blocks < block; blocks++) {
                memset(parts + height * P, 0, P * sizeof(real));
                height = FN(join_block)(parts, P, blocks, height + 1);
            }
            vec acc[VPP];
            UNROLL for (int v = 0; v < VPP; v++) acc[v] = vec_zero();
            for (; i < end && X->row[i] / CBP_BLOCK_ROWS == block; i++) {
                const vec x = vec_broadcast(value + i);
                const real *line = d + (ptrdiff_t)X->row[i] * P;
                UNROLL for (int v = 0; v < VPP; v++)
                    acc[v] = vec_fma(x, vec_load(line + v * VL), acc[v]);
            }
            UNROLL for (int v = 0; v < VPP; v++)
                vec_store(parts + height * P + v * VL, acc[v]);
            height = FN(join_block)(parts, P, blocks, height + 1);
            blocks++;
        }
        if (height) {
            FN(join_rest)(parts, P, height);
            memcpy(g, parts, P * sizeof(real));
        }
    }
}

/* ---- output layer and costs ------------------------------------------------------ */

/* Lines of rows: t[j * P + i] = element (r0 + i, j), so that a vector holds one output
 * of VL rows and sums over outputs run j ascending in every lane. */
INLINE void FN(load_transposed)(cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r, real *t) {
    for (ptrdiff_t q = 0; q * P < n_out; q++)
        FN(transpose_block)((const real *)Z.data + q * Z.stride + r * P, t + q * P * P);
}

/* The way back, for rows r .. r + n_rows - 1 only; padding columns zeroed. */
INLINE void FN(store_transposed)(real *t, ptrdiff_t n_out, ptrdiff_t r,
                                 ptrdiff_t n_rows, cbp_panels Z) {
    for (ptrdiff_t q = 0; q * P < n_out; q++) {
        real block[P * P];
        const ptrdiff_t used = n_out - q * P < P ? n_out - q * P : P;
        memset(t + (q * P + used) * P, 0, (size_t)((P - used) * P) * sizeof(real));
        FN(transpose_block)(t + q * P * P, block);
        memcpy((real *)Z.data + q * Z.stride + r * P, block,
               (size_t)(n_rows * P) * sizeof(real));
    }
}

/* z -> softmax(z) in lines of rows; returns max and sum of exp(z - max) per row.
 * flush: probabilities that are dust become 0. */
INLINE void FN(softmax_lines)(real *t, ptrdiff_t n_out, vec *max, vec *sum, int flush) {
    UNROLL for (int v = 0; v < VPP; v++) {
        real *z = t + v * VL;
        vec m = vec_load(z), s = vec_zero();
        for (ptrdiff_t j = 1; j < n_out; j++) m = vec_max(vec_load(z + j * P), m);
        for (ptrdiff_t j = 0; j < n_out; j++) {
            const vec e = vec_exp_nonpos(vec_sub(vec_load(z + j * P), m));
            vec_store(z + j * P, e);
            s = vec_add(s, e);
        }
        const vec inverse = vec_div(vec_set1(1), s);
        for (ptrdiff_t j = 0; j < n_out; j++) {
            const vec p = vec_mul(vec_load(z + j * P), inverse);
            vec_store(z + j * P, flush ? FN(flush_dust)(p) : p);
        }
        max[v] = m;
        sum[v] = s;
    }
}

/* Rows r0 .. r1 - 1 of Z: z -> output activation. */
static void FN(apply_output)(cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1,
                             int output, void *scratch) {
    real *t = scratch;
    if (output == CBP_OUT_IDENTITY) return;
    for (ptrdiff_t r = r0; r < r1; r += P) {
        vec max[VPP], sum[VPP];
        FN(load_transposed)(Z, n_out, r, t);
        if (output == CBP_OUT_SOFTMAX)
            FN(softmax_lines)(t, n_out, max, sum, 0);
        else
            for (ptrdiff_t i = 0; i < n_out * P; i += VL)
                vec_store(t + i, output == CBP_OUT_LOGISTIC
                                     ? vec_logistic(vec_load(t + i))
                                     : vec_exp(vec_load(t + i)));
        FN(store_transposed)(t, n_out, r, r1 - r < P ? r1 - r : P, Z);
    }
}

/* One output of VL rows: cost l(z, t) and delta = dl/dz. Costs whose outputs meet only
 * in their sum are one case here. */
INLINE vec FN(loss_vec)(vec z, vec t, int loss, vec *delta) {
    const vec zero = vec_zero(), half = vec_set1((real)0.5);
    vec a, d;
    switch (loss) {
    case CBP_LOGISTIC_LOG_LOSS: /* l = max(z, 0) - t z + log(1 + exp(-|z|)) */
        /* Further out the logistic is dust: spare it the subnormals. */
        a = vec_logistic(vec_max(vec_set1(LOG_DUST), z));
        *delta = FN(flush_dust)(vec_sub(a, t));
        return vec_add(vec_fnma(t, z, vec_max(zero, z)),
                       vec_log1p_unit(vec_exp_nonpos(vec_neg(vec_abs(z)))));
    case CBP_LOGISTIC_SQUARED_ERROR: /* l = (a - t)^2 / 2, delta = (a - t) a (1 - a) */
        a = vec_logistic(z);
        d = vec_sub(a, t);
        *delta = FN(flush_dust)(FN(derivative_vec)(d, a, CBP_LOGISTIC));
        return vec_mul(half, vec_mul(d, d));
    case CBP_EXP_POISSON: /* l = t (log t - z - 1) + a, infinite with a */
        a = vec_exp(z);
        *delta = FN(flush_dust)(vec_sub(a, t));
        d = vec_sub(vec_sub(vec_log(t), z), vec_set1(1));
        d = vec_add(vec_keep(vec_gt(t, zero), vec_mul(t, d)), a);
        return vec_select(vec_gt(a, vec_set1(REAL_MAX)), a, d);
    default: /* CBP_IDENTITY_SQUARED_ERROR: l = (z - t)^2 / 2 */
        d = vec_sub(z, t);
        *delta = FN(flush_dust)(d);
        return vec_mul(half, vec_mul(d, d));
    }
}

/* w x, and 0 where w is 0 even if x has overflowed: such a row does not exist. */
INLINE vec FN(weigh_vec)(vec x, vec w) {
    return vec_keep(vec_gt(w, vec_zero()), vec_mul(x, w));
}

/* t: z of P rows in lines -> delta; line: the cost of each row, outputs ascending. */
INLINE void FN(loss_lines)(real *t, const real *targets, ptrdiff_t n_out, int loss,
                           real *line) {
    UNROLL for (int v = 0; v < VPP; v++) {
        vec l = vec_zero(), delta;
        for (ptrdiff_t j = 0; j < n_out; j++) {
            real *z = t + j * P + v * VL;
            l = vec_add(l, FN(loss_vec)(vec_load(z), vec_load(targets + j * P + v * VL),
                                        loss, &delta));
            vec_store(z, delta);
        }
        vec_store(line + v * VL, l);
    }
}

/* The same for softmax: l = log(sum exp(z - max)) + max - z_y, delta = softmax - y. */
INLINE void FN(softmax_loss_lines)(real *t, const int32_t *labels, ptrdiff_t n_rows,
                                   ptrdiff_t n_out, real *line) {
    vec max[VPP], sum[VPP];
    real z_y[P];
    for (ptrdiff_t i = 0; i < P; i++)
        z_y[i] = i < n_rows ? t[(ptrdiff_t)labels[i] * P + i] : 0;
    FN(softmax_lines)(t, n_out, max, sum, 1);
    for (ptrdiff_t i = 0; i < n_rows; i++) t[(ptrdiff_t)labels[i] * P + i] -= 1;
    UNROLL for (int v = 0; v < VPP; v++)
        vec_store(line + v * VL,
                  vec_add(vec_log(sum[v]), vec_sub(max[v], vec_load(z_y + v * VL))));
}

/* Rows r0 .. r1 - 1: Z becomes delta^L, times the row's weight if there are weights;
 * row_loss[r] the unweighted cost of the row. T: targets, used by all but softmax,
 * which takes labels. */
static void FN(compute_loss)(cbp_panels Z, cbp_panels T, const int32_t *labels,
                             const void *weight, ptrdiff_t n_out, ptrdiff_t r0,
                             ptrdiff_t r1, int loss, double *row_loss, void *scratch) {
    real *t = scratch, *targets = t + (n_out + P - 1) / P * P * P;
    for (ptrdiff_t r = r0; r < r1; r += P) {
        const ptrdiff_t n_rows = r1 - r < P ? r1 - r : P;
        real line[P];
        FN(load_transposed)(Z, n_out, r, t);
        if (loss != CBP_SOFTMAX_LOG_LOSS) FN(load_transposed)(T, n_out, r, targets);
#define CASE(kind)                                                                     \
    case kind: FN(loss_lines)(t, targets, n_out, kind, line); break;
        switch (loss) {
            CASE(CBP_LOGISTIC_LOG_LOSS)
            CASE(CBP_LOGISTIC_SQUARED_ERROR)
            CASE(CBP_IDENTITY_SQUARED_ERROR)
            CASE(CBP_EXP_POISSON)
        default: FN(softmax_loss_lines)(t, labels + r, n_rows, n_out, line); break;
        }
#undef CASE
        if (weight) {
            real w[P];
            for (ptrdiff_t i = 0; i < P; i++)
                w[i] = i < n_rows ? ((const real *)weight)[r + i] : 0;
            for (ptrdiff_t j = 0; j < n_out; j++)
                UNROLL for (int v = 0; v < VPP; v++) {
                    real *delta = t + j * P + v * VL;
                    vec_store(delta,
                              FN(weigh_vec)(vec_load(delta), vec_load(w + v * VL)));
                }
        }
        FN(store_transposed)(t, n_out, r, n_rows, Z);
        for (ptrdiff_t i = 0; i < n_rows; i++) row_loss[r + i] = (double)line[i];
    }
}

/* Tables of lines for a single row, read from where the wanted line begins. A row is
 * written by whole vectors only: a vector that is loaded after scalars were stored into
 * it waits until they have left the store buffer, behind all weights just stepped. */
static const real FN(one_hot)[2 * P] = {[P] = 1};
#define ONES4(i) [i] = 1, [i + 1] = 1, [i + 2] = 1, [i + 3] = 1
static const real FN(ones)[2 * P] = {
    ONES4(0),
    ONES4(4),
#if !CBP_DOUBLE
    ONES4(8),
    ONES4(12),
#endif
};
#undef ONES4

/* Vector v of a line: 1 in column j, else 0; any j. */
INLINE vec FN(one_hot_vec)(ptrdiff_t j, int v) {
    return j < 0 || j >= P ? vec_zero() : vec_load(FN(one_hot) + P - j + v * VL);
}

/* x, vector v of a line, with zeros in the columns from `used` on; used > 0. */
INLINE vec FN(keep_columns)(vec x, ptrdiff_t used, int v) {
    const real *kept = FN(ones) + (used < P ? P - used : 0) + v * VL;
    return vec_keep(vec_gt(vec_load(kept), vec_zero()), x);
}

/* compute_loss for a batch of one row, z and targets contiguous lines. The same bits: a
 * lane holds an output here, and the sums over outputs run ascending lane by lane.
 * scratch: n_out rounded up to P reals. */
static void FN(compute_loss_row)(void *z_, const void *targets_, int32_t label,
                                 const void *weight, ptrdiff_t n_out, int loss,
                                 double *row_loss, void *scratch) {
    const real *targets = targets_;
    real *z = z_, *terms = scratch, sum = 0;
    vec scale = vec_zero();
    if (loss == CBP_SOFTMAX_LOG_LOSS) {
        real max = z[0], line[P];
        for (ptrdiff_t j = 1; j < n_out; j++) max = z[j] > max ? z[j] : max;
        for (ptrdiff_t i = 0; i < n_out; i += VL)
            vec_store(terms + i,
                      vec_exp_nonpos(vec_sub(vec_load(z + i), vec_set1(max))));
        for (ptrdiff_t j = 0; j < n_out; j++) sum += terms[j];
        scale = vec_div(vec_set1(1), vec_set1(sum));
        vec_store(line, vec_log(vec_set1(sum)));
        sum = line[0] + (max - z[label]);
    }
    for (ptrdiff_t i = 0; i < n_out; i += P)
        UNROLL for (int v = 0; v < VPP; v++) {
            vec x = vec_load(z + i + v * VL), delta = vec_zero(), term;
            if (i + v * VL >= n_out) {
                vec_store(z + i + v * VL, delta);
                continue;
            }
            const vec t = loss == CBP_SOFTMAX_LOG_LOSS
                              ? FN(one_hot_vec)(label - i, v)
                              : vec_load(targets + i + v * VL);
#define CASE(kind)                                                                     \
    case kind: term = FN(loss_vec)(x, t, kind, &delta); break;
            switch (loss) {
                CASE(CBP_LOGISTIC_LOG_LOSS)
                CASE(CBP_LOGISTIC_SQUARED_ERROR)
                CASE(CBP_IDENTITY_SQUARED_ERROR)
                CASE(CBP_EXP_POISSON)
            default:
                term = vec_load(terms + i + v * VL);
                delta = vec_sub(FN(flush_dust)(vec_mul(term, scale)), t);
                break;
            }
#undef CASE
            vec_store(terms + i + v * VL, term);
            if (weight)
                delta = FN(weigh_vec)(delta, vec_broadcast((const real *)weight));
            vec_store(z + i + v * VL, FN(keep_columns)(delta, n_out - i, v));
        }
    if (loss != CBP_SOFTMAX_LOG_LOSS)
        for (ptrdiff_t j = 0; j < n_out; j++) sum += terms[j];
    *row_loss = (double)sum;
}

/* ---- optimizers ------------------------------------------------------------------ */

/* The constants of one step as vectors. */
typedef struct {
    vec alpha, rate, beta_1, beta_2, gain_1, root_2, epsilon;
    int nesterov;
} FN(step_vecs);

INLINE FN(step_vecs) FN(step_constants)(const cbp_step *s, int solver) {
    FN(step_vecs) k;
    k.alpha = vec_set1((real)s->alpha);
    k.rate = vec_set1((real)(solver == CBP_ADAM ? s->eta : s->eta * s->scale));
    k.beta_1 = vec_set1((real)s->beta_1);
    k.beta_2 = vec_set1((real)s->beta_2);
    k.gain_1 = vec_set1((real)((1 - s->beta_1) * s->scale));
    /* Its square is the gain, but leaves the range of float for small scales. */
    k.root_2 = vec_set1((real)(sqrt(1 - s->beta_2) * s->scale));
    k.epsilon = vec_set1((real)s->epsilon);
    k.nesterov = s->nesterov;
    return k;
}

/* Kingma and Ba, Adam, algorithm 1, in scikit-learn's form:
 * w -= eta m / (sqrt v + eps), the bias corrections folded into eta. g: gradient sum of
 * VL weights, before scale. */
INLINE vec FN(adam_vec)(vec w, vec g, real *m_, real *v_, const FN(step_vecs) * k) {
    g = vec_fma(k->alpha, w, g);
    const vec m = FN(flush_dust)(
        vec_fma(k->beta_1, vec_load(m_), vec_mul(k->gain_1, g)));
    const vec t = vec_mul(k->root_2, g);
    const vec v = vec_fma(k->beta_2, vec_load(v_),
                          vec_fma(t, t, vec_set1(SQUARE_FLOOR)));
    vec_store(m_, m);
    vec_store(v_, v);
    return vec_fnma(k->rate, vec_div(m, vec_root_plus(v, k->epsilon)), w);
}

/* (6.1), (6.2) with momentum: u = momentum u - eta g, w += u; Nesterov looks one
 * momentum step ahead. */
INLINE vec FN(sgd_vec)(vec w, vec g, real *u_, const FN(step_vecs) * k) {
    g = vec_fma(k->alpha, w, g);
    vec u = FN(flush_dust)(
        vec_fnma(k->rate, g, vec_mul(k->beta_1, vec_load(u_))));
    vec_store(u_, u);
    if (k->nesterov) u = vec_fnma(k->rate, g, vec_mul(k->beta_1, u));
    return vec_add(w, u);
}

INLINE vec FN(step_vec)(vec w, vec g, real *m, real *v, const FN(step_vecs) * k,
                        int solver) {
    return solver == CBP_ADAM ? FN(adam_vec)(w, g, m, v, k) : FN(sgd_vec)(w, g, m, k);
}

/* What a sum of W^2 begins with: the squares of weights that a penalty has all but
 * removed would be subnormal if added to 0. */
INLINE vec FN(no_squares)(void) { return vec_set1(REAL_MIN_NORMAL); }

/* A step over n_lines lines of gradients G; returns the sum of W^2 before. */
INLINE double FN(step_lines)(real *w, const real *g, real *m, real *m2,
                             ptrdiff_t n_lines, const cbp_step *s, int solver) {
    const FN(step_vecs) k = FN(step_constants)(s, solver);
    vec squares[VPP];
    UNROLL for (int v = 0; v < VPP; v++) squares[v] = FN(no_squares)();
    for (ptrdiff_t i = 0; i < n_lines; i++)
        UNROLL for (int v = 0; v < VPP; v++) {
            const ptrdiff_t at = i * P + v * VL;
            const vec x = vec_load(w + at);
            squares[v] = vec_fma(x, x, squares[v]);
            vec_store(w + at,
                      FN(step_vec)(x, vec_load(g + at), m + at, m2 + at, &k, solver));
        }
    return (double)line_sum(squares);
}

static double FN(step_adam)(void *W, const void *G, void *const *state, ptrdiff_t n,
                            const cbp_step *s) {
    return FN(step_lines)(W, G, state[0], state[1], n / P, s, CBP_ADAM);
}

static double FN(step_sgd)(void *W, const void *G, void *const *state, ptrdiff_t n,
                           const cbp_step *s) {
    return FN(step_lines)(W, G, state[0], state[0], n / P, s, CBP_SGD);
}

/* ---- one row --------------------------------------------------------------------- */

/* Panels that forward_row computes side by side, to hide the latency of fma chains. */
enum { FN(ROW_PANELS) = 4 };

/* A line of which only the first `used` items exist. */
INLINE void FN(copy_line)(const real *from, ptrdiff_t used, real *line) {
    for (ptrdiff_t c = 0; c < P; c++) line[c] = c < used ? from[c] : 0;
}

/* One group of `panels` panels of z = x W + b, first column j0. */
INLINE void FN(forward_row_panels)(const int panels, const real *x, ptrdiff_t n_in,
                                   const real *w, ptrdiff_t panel_stride,
                                   ptrdiff_t row_stride, const real *b, ptrdiff_t j0,
                                   ptrdiff_t n_out, real *z) {
    /* Lines that start at or behind `last` reach past the end of a row-major W. */
    const ptrdiff_t used = n_out - j0 < panels * P ? n_out - j0 - (panels - 1) * P : P;
    const ptrdiff_t end = (n_in - 1) * row_stride + used;
    vec acc[FN(ROW_PANELS)][VPP];
    real line[P];
    UNROLL for (int q = 0; q < panels; q++) {
        const ptrdiff_t exist = !b ? 0 : q < panels - 1 ? P : used;
        FN(copy_line)(b ? b + j0 + q * P : line, exist, line);
        UNROLL for (int v = 0; v < VPP; v++) acc[q][v] = vec_load(line + v * VL);
    }
    for (ptrdiff_t k = 0; k < n_in; k++) {
        const vec xk = vec_broadcast(x + k);
        const real *row = w + k * row_stride;
        UNROLL for (int q = 0; q < panels; q++) {
            const real *from = row + q * panel_stride;
            if (q == panels - 1 && row_stride != P && k * row_stride + P > end) {
                FN(copy_line)(from, used, line);
                from = line;
            }
            UNROLL for (int v = 0; v < VPP; v++)
                acc[q][v] = vec_fma(xk, vec_load(from + v * VL), acc[q][v]);
        }
    }
    UNROLL for (int q = 0; q < panels; q++)
        UNROLL for (int v = 0; v < VPP; v++)
            vec_store(z + j0 + q * P + v * VL, acc[q][v]);
}

/* z -> f(z) for one row, its padding zeroed. */
static void FN(activate_row)(real *z, ptrdiff_t n_out, int activation) {
#define CASE(kind)                                                                     \
    case kind:                                                                         \
        for (ptrdiff_t i = 0; i < n_out; i += P)                                       \
            UNROLL for (int v = 0; v < VPP; v++) {                                     \
                const vec a = FN(activate_vec)(vec_load(z + i + v * VL), kind);        \
                vec_store(z + i + v * VL, FN(keep_columns)(a, n_out - i, v));          \
            }                                                                          \
        break;
    switch (activation) {
        CASE(CBP_IDENTITY)
        CASE(CBP_LOGISTIC)
        CASE(CBP_TANH)
        CASE(CBP_RELU)
    }
#undef CASE
}

/* a = f(x W + b) for one row. W[k, j] is W[(j / P) * panel_stride + k * row_stride +
 * j % P]: panels (row_stride = P) or row-major (panel_stride = P, row_stride = n_out).
 * b may be NULL; z has room for n_out rounded up to P, its padding is zeroed. */
static void FN(forward_row)(const void *x, ptrdiff_t n_in, const void *W,
                            ptrdiff_t panel_stride, ptrdiff_t row_stride, const void *b,
                            ptrdiff_t n_out, void *z_, int activation) {
    const ptrdiff_t n_panels = (n_out + P - 1) / P;
    real *z = z_;
    for (ptrdiff_t q = 0; q < n_panels;) {
        const real *w = (const real *)W + q * panel_stride;
        const ptrdiff_t left = n_panels - q;
#define GROUP(n)                                                                       \
    FN(forward_row_panels)(n, x, n_in, w, panel_stride, row_stride, b, q *P, n_out, z)
        if (left >= 4) GROUP(4);
        else if (left == 3) GROUP(3);
        else if (left == 2) GROUP(2);
        else GROUP(1);
#undef GROUP
        q += left < 4 ? left : 4;
    }
    FN(activate_row)(z, n_out, activation);
}

/* ---- batches of one row ---------------------------------------------------------- */

/* Outputs up to which a layer's forward product reads the transposed master copy, one
 * scalar chain per output, which saves making its mirror true after every row. */
enum { FN(NARROW) = 4 };

INLINE int FN(reads_master)(const cbp_layer *y) {
    return y->transposed && y->n_out <= FN(NARROW);
}

/* z = a W + b from W^T, the chains of forward_row. */
INLINE void FN(forward_narrow)(const cbp_layer *y, const real *a, real *z) {
    vec line[VPP];
    UNROLL for (int v = 0; v < VPP; v++) line[v] = vec_zero();
    for (ptrdiff_t j = 0; j < y->n_out; j++) {
        real sum = ((const real *)y->b)[j];
        for (ptrdiff_t k = 0; k < y->n_in; k += P) {
            const real *w =
                (const real *)y->WT.data + (k / P) * y->WT.stride + j * P;
            const ptrdiff_t used = y->n_in - k < P ? y->n_in - k : P;
            for (ptrdiff_t i = 0; i < used; i++)
                sum = real_fma(a[k + i], w[i], sum);
        }
        UNROLL for (int v = 0; v < VPP; v++)
            line[v] = vec_select(vec_gt(FN(one_hot_vec)(j, v), vec_zero()),
                                 vec_set1(sum), line[v]);
    }
    UNROLL for (int v = 0; v < VPP; v++) vec_store(z + v * VL, line[v]);
}

/* (1.1) and (1.2) of one layer for one row. */
INLINE void FN(forward_layer)(const cbp_layer *y, const real *a) {
    real *z = y->A.data;
    if (FN(reads_master)(y)) {
        FN(forward_narrow)(y, a, z);
        FN(activate_row)(z, y->n_out, y->activation);
    } else {
        FN(forward_row)(a, y->n_in, y->W.data, y->W.stride, P, y->b, y->n_out, z,
                        y->activation);
    }
}

/* n_lines lines of one master panel, whose gradient is factor[i] * line, and in the
 * same breath (if fused) z += x[i] * the new line i: the next row's forward product.
 * squares: the sum of W^2 before, block by block. */
INLINE void FN(step_panel)(real *w, real *m, real *m2, const real *factor,
                           ptrdiff_t n_lines, const real *line, const real *x, real *z,
                           double *squares, const FN(step_vecs) * k, int solver,
                           int fused) {
    vec d[VPP], sum[VPP], total[VPP];
    UNROLL for (int v = 0; v < VPP; v++) {
        d[v] = vec_load(line + v * VL);
        if (fused) sum[v] = vec_load(z + v * VL);
    }
    for (ptrdiff_t i = 0; i < n_lines;) {
        const ptrdiff_t end = n_lines - i < P ? n_lines : i + P;
        UNROLL for (int v = 0; v < VPP; v++) total[v] = FN(no_squares)();
        for (; i < end; i++) {
            const vec f = vec_broadcast(factor + i);
            UNROLL for (int v = 0; v < VPP; v++) {
                const ptrdiff_t at = i * P + v * VL;
                const vec old = vec_load(w + at);
                const vec new = FN(step_vec)(old, vec_mul(f, d[v]), m + at, m2 + at, k,
                                             solver);
                total[v] = vec_fma(old, old, total[v]);
                vec_store(w + at, new);
                if (fused) sum[v] = vec_fma(vec_broadcast(x + i), new, sum[v]);
            }
        }
        *squares++ = (double)line_sum(total);
    }
    if (fused)
        UNROLL for (int v = 0; v < VPP; v++) vec_store(z + v * VL, sum[v]);
}

/* The other copy of a layer's weights, made true again. */
static void FN(mirror_layer)(const cbp_layer *y) {
    const cbp_panels master = y->transposed ? y->WT : y->W;
    const cbp_panels mirror = y->transposed ? y->W : y->WT;
    for (ptrdiff_t q = 0; q < y->n_panels; q++)
        for (ptrdiff_t p = 0; p < y->line_blocks; p++)
            FN(transpose_block)
            ((const real *)master.data + q * master.stride + p * P * P,
             (real *)mirror.data + p * mirror.stride + q * P * P);
}

/* (6.1) and (6.2) of one layer for one row, a: its inputs. x: the next row's inputs,
 * whose product with the new weights is left in A, or NULL. */
INLINE void FN(step_layer)(const cbp_rows *rows, const cbp_layer *y, const real *a,
                           const real *x, double *squares, const FN(step_vecs) * k,
                           int solver) {
    real *master = rows->master, *z = y->A.data;
    real *m = rows->state[0], *m2 = rows->state[solver == CBP_ADAM];
    const ptrdiff_t stride = y->transposed ? y->WT.stride : y->W.stride;
    const real *delta = y->D.data;
    const real *factor = y->transposed ? delta : a, *line = y->transposed ? a : delta;
    FN(step_vecs) k_bias = *k;
    k_bias.alpha = vec_zero(); /* biases bear no penalty */
    for (ptrdiff_t i = 0; i < (y->n_out + P - 1) / P * P; i += VL) {
        const ptrdiff_t at = y->b_at + i;
        const vec b = FN(step_vec)(vec_load(master + at), vec_load(delta + i), m + at,
                                   m2 + at, &k_bias, solver);
        vec_store(master + at, b);
        if (x) vec_store(z + i, b);
    }
    for (ptrdiff_t q = 0; q < y->n_panels; q++) {
        const ptrdiff_t at = y->W_at + q * stride;
#define STEP(fused)                                                                    \
    FN(step_panel)(master + at, m + at, m2 + at, factor, y->n_lines, line + q * P, x,  \
                   z + q * P, squares + q * y->line_blocks, k, solver, fused)
        if (x)
            STEP(1);
        else
            STEP(0);
#undef STEP
    }
}

/* Inputs of row i, padded where vectors run along them. turn: which room to use. */
INLINE const real *FN(row_inputs)(const cbp_rows *rows, ptrdiff_t i, int turn) {
    const ptrdiff_t n_in = rows->layers[0].n_in;
    const real *x = (const real *)rows->X + rows->order[i] * n_in;
    if (!rows->layers[0].transposed) return x;
    real *room = (real *)rows->inputs + turn * ((n_in + P - 1) / P * P);
    memcpy(room, x, (size_t)n_in * sizeof(real));
    return room;
}

/* The first row from i on whose weight is not 0. */
INLINE ptrdiff_t FN(next_row)(const cbp_rows *rows, ptrdiff_t i) {
    const real *weight = rows->weight;
    if (weight)
        while (i < rows->n_rows && !(weight[rows->order[i]] > 0)) i++;
    return i;
}

/* Cost of row i, and delta^L in the place of z^L. */
INLINE double FN(row_loss)(const cbp_rows *rows, ptrdiff_t i) {
    const cbp_layer *y = &rows->layers[rows->n_layers - 1];
    const int64_t sample = rows->order[i];
    const int32_t label = rows->labels ? rows->labels[sample] : 0;
    const real *weight = rows->weight, *w = weight ? weight + sample : NULL;
    double loss;
    if (!rows->labels)
        memcpy(rows->T.data, (const real *)rows->Y + sample * y->n_out,
               (size_t)y->n_out * sizeof(real));
    else if (rows->loss_kind != CBP_SOFTMAX_LOG_LOSS)
        FN(fill_targets)(&label, 1, y->n_out, rows->T);
    FN(compute_loss_row)(y->A.data, rows->T.data, label, w, y->n_out, rows->loss_kind,
                         &loss, rows->scratch);
    return w ? loss * (double)*w : loss;
}

/* (3.7): delta of every layer from delta^L. */
INLINE void FN(backward_row)(const cbp_rows *rows) {
    for (int l = rows->n_layers - 1; l > 0; l--) {
        const cbp_layer *y = &rows->layers[l], *below = y - 1;
        FN(forward_row)(y->D.data, y->n_out, y->WT.data, y->WT.stride, P, NULL, y->n_in,
                        below->D.data, CBP_IDENTITY);
        FN(multiply_derivative)(below->D.data, below->A.data, (y->n_in + P - 1) / P * P,
                                below->activation);
    }
}

/* Steps of all layers, the first one last: its new weights meet the next row then. */
INLINE void FN(step_layers)(const cbp_rows *rows, const real *inputs, const real *x,
                            const FN(step_vecs) * k, int solver) {
    double *squares = rows->block_squares;
    for (int l = 0; l < rows->n_layers; l++) squares += rows->layers[l].n_blocks;
    for (int l = rows->n_layers - 1; l >= 0; l--) {
        const cbp_layer *y = &rows->layers[l];
        squares -= y->n_blocks;
        FN(step_layer)(rows, y, l ? y[-1].A.data : inputs, l ? NULL : x, squares, k,
                       solver);
        if (y->mirrored && !FN(reads_master)(y)) FN(mirror_layer)(y);
    }
}

INLINE void FN(train_rows_with)(cbp_rows *rows, int solver) {
    const cbp_layer *first = rows->layers;
    /* Without hidden layers z and delta share their place. */
    const int fusable = !first->transposed && rows->n_layers > 1;
    ptrdiff_t n_blocks = 0, i = FN(next_row)(rows, 0), next;
    const real *x = NULL, *next_x;
    FN(step_vecs) k = FN(step_constants)(&rows->step, solver);
    for (int l = 0; l < rows->n_layers; l++) n_blocks += first[l].n_blocks;
    if (i < rows->n_rows) x = FN(row_inputs)(rows, i, 0);
    for (int fresh = 1; i < rows->n_rows; i = next, x = next_x, fresh = !fusable) {
        double weight = 1;
        next = FN(next_row)(rows, i + 1);
        next_x = NULL;
        if (next < rows->n_rows) next_x = FN(row_inputs)(rows, next, ~rows->steps & 1);
        if (rows->weight) {
            weight = (double)((const real *)rows->weight)[rows->order[i]];
            rows->step.scale = 1 / weight;
            k = FN(step_constants)(&rows->step, solver);
        }
        const double eta = rows->eta[rows->steps];
        k.rate = vec_set1((real)(solver == CBP_ADAM ? eta : eta * rows->step.scale));
        if (fresh)
            FN(forward_layer)(first, x);
        else
            FN(activate_row)(first->A.data, first->n_out, first->activation);
        for (int l = 1; l < rows->n_layers; l++)
            FN(forward_layer)(first + l, first[l - 1].A.data);
        double loss = FN(row_loss)(rows, i);
        FN(backward_row)(rows);
        FN(step_layers)(rows, x, fusable ? next_x : NULL, &k, solver);
        if (rows->step.alpha != 0) {
            double squares = 0;
            for (ptrdiff_t block = 0; block < n_blocks; block++)
                squares += rows->block_squares[block];
            loss += 0.5 * rows->step.alpha * squares;
        }
        rows->loss += loss;
        rows->last_loss = loss;
        rows->weights += weight;
        rows->steps++;
        if (!isfinite(loss)) break;
    }
    for (const cbp_layer *y = first; y < first + rows->n_layers; y++)
        if (y->mirrored && FN(reads_master)(y)) FN(mirror_layer)(y);
}

/* See cbp_rows. Every sum in the order of a batch of one row. */
static void FN(train_rows)(cbp_rows *rows) {
    if (rows->solver == CBP_ADAM)
        FN(train_rows_with)(rows, CBP_ADAM);
    else
        FN(train_rows_with)(rows, CBP_SGD);
}

/* ---- checks ---------------------------------------------------------------------- */

static int FN(all_finite)(const void *x, ptrdiff_t n) {
    /* x * 0 is 0 for every finite x and NaN for every other; NaN stays in the sum. */
    const real *p = x;
    vec acc = vec_zero();
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) acc = vec_fma(vec_load(p + i), vec_zero(), acc);
    real lanes[VL], sum = 0;
    vec_store(lanes, acc);
    for (int lane = 0; lane < VL; lane++) sum += lanes[lane];
    for (; i < n; i++) sum += p[i] * 0;
    return sum == 0;
}

/* What gradient flow is measured with. Plain C in double, lane by lane: the gradients
 * of a deep sigmoid network have squares far below the smallest float. */

static double FN(sum_lanes)(const double *lanes) {
    double sum = 0;
    for (int c = 0; c < P; c++) sum += lanes[c];
    return sum;
}

static double FN(sum_squares)(const void *x_, ptrdiff_t n) {
    const real *x = x_;
    double lanes[P] = {0};
    for (ptrdiff_t i = 0; i < n; i += P)
        for (int c = 0; c < P; c++) lanes[c] += (double)x[i + c] * (double)x[i + c];
    return FN(sum_lanes)(lanes);
}

static double FN(sum_squared_change)(const void *now_, const void *before_,
                                     ptrdiff_t n) {
    const real *now = now_, *before = before_;
    double lanes[P] = {0};
    for (ptrdiff_t i = 0; i < n; i += P)
        for (int c = 0; c < P; c++) {
            const double change = (double)now[i + c] - (double)before[i + c];
            lanes[c] += change * change;
        }
    return FN(sum_lanes)(lanes);
}

static ptrdiff_t FN(count_below)(const void *x_, ptrdiff_t n, double limit) {
    const real *x = x_;
    ptrdiff_t count = 0;
    for (ptrdiff_t i = 0; i < n; i++) count += (double)x[i] < limit;
    return count;
}

/* Adds to counts[c] the rows in which f'(z) of unit c of a panel is below 1 % of its
 * maximum. */
static void FN(count_saturated)(const void *a_, ptrdiff_t n_rows, int activation,
                                int32_t *counts) {
    const real *a = a_;
    if (activation == CBP_IDENTITY) return;
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (int c = 0; c < P; c++) {
            const real x = a[r * P + c];
            counts[c] += activation == CBP_LOGISTIC ? x - x * x < (real)0.0025
                         : activation == CBP_TANH   ? 1 - x * x < (real)0.01
                                                    : x <= 0;
        }
}

static void FN(map)(int function, const void *x_, void *y_, ptrdiff_t n) {
    const real *x = x_;
    real *y = y_;
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const vec v = vec_load(x + i);
        vec_store(y + i, function == 0   ? vec_exp(v)
                         : function == 1 ? vec_log(v)
                         : function == 2 ? vec_log1p_unit(v)
                         : function == 3 ? vec_logistic(v)
                         : function == 4 ? vec_tanh(v)
                                         : vec_root_plus(v, vec_zero()));
    }
}

#define CBP_STRING_(x) #x
#define CBP_STRING(x) CBP_STRING_(x)
static const cbp_kernels FN(table) = {
    .tier = CBP_TIER_NAME,
    .itemsize = sizeof(real),
    .panel = P,
    .gather_rows = FN(gather_rows),
    .gather_finite = FN(gather_finite),
    .scatter_rows = FN(scatter_rows),
    .fill_targets = FN(fill_targets),
    .transpose_block = FN(transpose_block),
    .gather_items = FN(gather_items),
    .item = FN(item),
    .add = FN(add),
    .multiply_forward = FN(multiply_forward),
    .extend_forward = FN(extend_forward),
    .multiply_forward_csr = FN(multiply_forward_csr),
    .multiply_delta = FN(multiply_delta),
    .sum_gradient = FN(sum_gradient),
    .sum_gradient_csr = FN(sum_gradient_csr),
    .sum_columns = FN(sum_columns),
    .transpose_csr = FN(transpose_csr),
    .activate = FN(activate),
    .multiply_derivative = FN(multiply_derivative),
    .apply_output = FN(apply_output),
    .compute_loss = FN(compute_loss),
    .compute_loss_row = FN(compute_loss_row),
    .step = {[CBP_SGD] = FN(step_sgd), [CBP_ADAM] = FN(step_adam)},
    .train_rows = FN(train_rows),
    .forward_row = FN(forward_row),
    .all_finite = FN(all_finite),
    .sum_squares = FN(sum_squares),
    .sum_squared_change = FN(sum_squared_change),
    .count_below = FN(count_below),
    .count_saturated = FN(count_saturated),
    .map = FN(map),
};
