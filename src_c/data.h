/* data.h - TEMPLATE: moves numbers between arrays and panels (cbp.h) and changes none:
 * rows of X into a batch, targets, weights, transposed patches. */

/* Zeros in the columns that pad the last panel: f(0) need not be 0. */
static void FN(clear_padding)(real *last_panel, ptrdiff_t n_lines, ptrdiff_t n_cols) {
    const ptrdiff_t used = n_cols % P;
    if (used)
        for (ptrdiff_t r = 0; r < n_lines; r++)
            memset(last_panel + r * P + used, 0, (size_t)(P - used) * sizeof(real));
}

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

/* T[r, first + label] = 1, of n outputs; a single output is the label itself. */
INLINE void FN(set_target)(cbp_panels T, ptrdiff_t r, ptrdiff_t first, ptrdiff_t n,
                           int32_t label) {
    const ptrdiff_t j = first + (n > 1 ? label : 0);
    ((real *)T.data)[(j / P) * T.stride + r * P + j % P] = n > 1 ? 1 : (real)label;
}

/* T[r, j] = 1 where j is the label of row r in its group, else 0; a group of one
 * output: the label itself. */
static void FN(fill_targets)(const int32_t *labels, ptrdiff_t n_rows, ptrdiff_t n_out,
                             const cbp_groups *groups, cbp_panels T) {
    for (ptrdiff_t p = 0; p * P < n_out; p++)
        memset((real *)T.data + p * T.stride, 0, (size_t)(n_rows * P) * sizeof(real));
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        if (!groups) FN(set_target)(T, r, 0, n_out, labels[r]);
        else
            for (ptrdiff_t g = 0; g < groups->n; g++) {
                const ptrdiff_t first = groups->start[g];
                FN(set_target)
                (T, r, first, groups->start[g + 1] - first, labels[r * groups->n + g]);
            }
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

/* transposed[c, r] = patch[r, c]. */
static void FN(transpose_patch)(const void *patch, void *transposed) {
    for (int i = 0; i < P; i += VL)
        for (int j = 0; j < P; j += VL) {
            vec rows[VL];
            UNROLL for (int k = 0; k < VL; k++)
                rows[k] = vec_load((const real *)patch + (i + k) * P + j);
            vec_transpose(rows);
            UNROLL for (int k = 0; k < VL; k++)
                vec_store((real *)transposed + (j + k) * P + i, rows[k]);
        }
}
