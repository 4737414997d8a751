/* products.h - TEMPLATE: the products of backpropagation, z = a_prev W + b and
 * delta_prev = delta W^T, dense and for CSR rows. One fma chain per output, k rising,
 * from the bias (delta: from 0). sums.h uses the same tiles for sums over rows. */

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

/* k per slice of a product: 256 lines of a panel of W are 16 KB; three panels stay in
 * the L1 cache or stream from L2 (kernels.py, 256 x 1024 x 1024: 192 is no faster). */
#undef K_SLICE_PANELS
#define K_SLICE_PANELS (256 / P)

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
    [1][panels - 1][rows] = rows > P ? NULL : FN(tile_t_##panels##_##rows),
FOR_EACH_TILE(DEFINE_TILE)
static const FN(tile_fn) FN(tiles)[2][TILE_PANELS][TILE_ROWS + 1] = {
    FOR_EACH_TILE(LIST_TILE)};
#undef DEFINE_TILE
#undef LIST_TILE

/* n_rows rows of C in `panels` panels, shared out evenly over the tiles; transposed: P
 * rows at most. */
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

/* C = A B over rows r0 .. r1 - 1 in slices of k; panels are shared out evenly over
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
    const ptrdiff_t n_slices =
        k_panels ? (k_panels + K_SLICE_PANELS - 1) / K_SLICE_PANELS : 1;
    for (ptrdiff_t slice = 0, p = 0; slice < n_slices; slice++) {
        const ptrdiff_t panels = k_panels / n_slices + (slice < k_panels % n_slices);
        const int last = slice == n_slices - 1;
        FN(operands) t = {
            .a = (const real *)A.data + p * A.stride + r0 * P,
            .a_stride = A.stride,
            .n_k = last ? n_k - p * P : panels * P,
            .b_stride = B.stride,
            .c_stride = C.stride,
            .aux_stride = aux ? aux->stride : 0,
            .from = slice ? FN(FROM_C) : from,
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

/* delta_prev = (delta W^T) * f'(z_prev). delta (rows, n_out), WT (n_out, n_in). */
static void FN(multiply_delta)(cbp_panels delta, ptrdiff_t n_out, cbp_panels WT,
                               cbp_panels S, cbp_panels delta_prev, ptrdiff_t n_in,
                               ptrdiff_t r0, ptrdiff_t r1, int slope) {
    const int fused = slope == CBP_RELU;
    FN(product)(delta, n_out, WT, FN(FROM_ZERO), NULL, delta_prev, fused ? &S : NULL,
                n_in, r0, r1, fused ? FN(STORE_DRELU) : FN(STORE));
    if (!fused && slope != CBP_IDENTITY)
        for (ptrdiff_t p = 0; p * P < n_in; p++)
            FN(multiply_derivative)((real *)delta_prev.data + p * delta_prev.stride +
                                        r0 * P,
                                    (const real *)S.data + p * S.stride + r0 * P,
                                    (r1 - r0) * P, slope);
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
