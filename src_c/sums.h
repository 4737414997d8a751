/* sums.h - TEMPLATE: sums over the rows of a chunk, dW = a_prev^T delta and db = column
 * sums of delta. One chain per block of 128 rows, blocks joined by a binary tree, as a
 * binary counter does (cbp.h). Of a sparse block without entries only its place is
 * kept. */

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
