/* rows.h - TEMPLATE: a network for one row, and train_rows, which trains on one row
 * after another: forward, backward, step. The bits of a batch of one row made of the
 * kernels of the other files; much faster, for nothing is packed and a step meets the
 * next forward product. */

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
#define CASE(number, name, ...)                                                        \
    case CBP_##number:                                                                 \
        for (ptrdiff_t i = 0; i < n_out; i += P)                                       \
            UNROLL for (int v = 0; v < VPP; v++) {                                     \
                const vec a = FN(activate_##name)(vec_load(z + i + v * VL));           \
                vec_store(z + i + v * VL, FN(keep_columns)(a, n_out - i, v));          \
            }                                                                          \
        break;
    switch (activation) { CBP_ACTIVATIONS(CASE) }
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

/* (1.2): a, and f'(z) where it is kept, from z. step: of this row, for dropout. */
INLINE void FN(finish_row)(const cbp_layer *y, uint64_t step) {
    if (y->slope == CBP_KEPT)
        FN(keep_slope)(y->A, y->S, y->n_out, 0, 1, y->activation);
    else
        FN(activate_row)(y->A.data, y->n_out, y->activation);
    if (y->drop.below) FN(drop)(y->A, y->S, y->n_out, 0, 0, 1, 0, &y->drop, step);
}

/* (1.1) and (1.2) of one layer for one row. */
INLINE void FN(forward_layer)(const cbp_layer *y, const real *a, uint64_t step) {
    real *z = y->A.data;
    if (FN(reads_master)(y)) {
        FN(forward_narrow)(y, a, z);
        FN(finish_row)(y, step);
    } else {
        const int apart = y->slope == CBP_KEPT || y->drop.below;
        FN(forward_row)(a, y->n_in, y->W.data, y->W.stride, P, y->b, y->n_out, z,
                        apart ? CBP_IDENTITY : y->activation);
        if (apart) FN(finish_row)(y, step);
    }
}

/* n_lines lines of one master panel, whose gradient is factor[i] * line, and in the
 * same breath (if fused) z += x[i] * the new line i: the next row's forward product.
 * squares: the sum of W^2 before, patch by patch. */
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
        for (ptrdiff_t p = 0; p < y->line_patches; p++)
            FN(transpose_patch)
            ((const real *)master.data + q * master.stride + p * P * P,
             (real *)mirror.data + p * mirror.stride + q * P * P);
}

/* The constants of a row's step, for weights and for biases. */
typedef struct {
    FN(step_vecs) W, b;
} FN(row_step);

INLINE FN(row_step) FN(row_step_constants)(const cbp_online *rows, int solver) {
    FN(row_step) s;
    s.W = s.b = FN(step_constants)(&rows->step, solver);
    s.b.alpha = vec_zero(); /* biases bear no penalty, and do not decay */
    s.W.decays = s.b.decays = 0;
    s.W.keep = s.b.keep = vec_set1(1);
    return s;
}

/* (6.1) and (6.2) of one layer for one row, a: its inputs. x: the next row's inputs,
 * whose product with the new weights is left in A, or NULL. */
INLINE void FN(step_layer)(const cbp_online *rows, const cbp_layer *y, const real *a,
                           const real *x, double *squares, const FN(row_step) * s,
                           int solver) {
    real *master = rows->master, *z = y->A.data;
    real *m = rows->state[0], *m2 = rows->state[cbp_n_states[solver] - 1];
    const ptrdiff_t stride = y->transposed ? y->WT.stride : y->W.stride;
    const real *delta = y->D.data;
    const real *factor = y->transposed ? delta : a, *line = y->transposed ? a : delta;
    for (ptrdiff_t i = 0; i < (y->n_out + P - 1) / P * P; i += VL) {
        const ptrdiff_t at = y->b_at + i;
        const vec b = FN(step_vec)(vec_load(master + at), vec_load(delta + i), m + at,
                                   m2 + at, &s->b, solver);
        vec_store(master + at, b);
        if (x) vec_store(z + i, b);
    }
    for (ptrdiff_t q = 0; q < y->n_panels; q++) {
        const ptrdiff_t at = y->W_at + q * stride;
#define STEP(fused)                                                                    \
    FN(step_panel)(master + at, m + at, m2 + at, factor, y->n_lines, line + q * P, x,  \
                   z + q * P, squares + q * y->line_patches, &s->W, solver, fused)
        if (x)
            STEP(1);
        else
            STEP(0);
#undef STEP
    }
}

/* Inputs of row i, padded where vectors run along them, for step number `step` of those
 * made here. */
INLINE const real *FN(row_inputs)(const cbp_online *rows, ptrdiff_t i, ptrdiff_t step) {
    const ptrdiff_t n_in = rows->layers[0].n_in, padded = (n_in + P - 1) / P * P;
    const real *x = (const real *)rows->X + rows->order[i] * n_in;
    if (!rows->layers[0].transposed && !rows->drop.below) return x;
    const cbp_panels room = {(real *)rows->inputs + (step & 1) * padded, P};
    memcpy(room.data, x, (size_t)n_in * sizeof(real));
    if (rows->drop.below)
        FN(drop)(room, (cbp_panels){NULL, 0}, n_in, 0, 0, 1, 0, &rows->drop,
                 rows->first_step + (uint64_t)step);
    return room.data;
}

/* The first row from i on whose weight is not 0. */
INLINE ptrdiff_t FN(next_row)(const cbp_online *rows, ptrdiff_t i) {
    const real *weight = rows->weight;
    if (weight)
        while (i < rows->n_rows && !(weight[rows->order[i]] > 0)) i++;
    return i;
}

/* Cost of row i, and delta^L in the place of z^L. */
INLINE double FN(row_loss)(const cbp_online *rows, ptrdiff_t i) {
    const cbp_layer *y = &rows->layers[rows->n_layers - 1];
    const int64_t sample = rows->order[i];
    const cbp_groups *groups = rows->loss.groups;
    const int32_t *labels =
        rows->labels ? rows->labels + sample * (groups ? groups->n : 1) : NULL;
    const real *weight = rows->weight, *w = weight ? weight + sample : NULL;
    double loss;
    if (!labels)
        memcpy(rows->T.data, (const real *)rows->Y + sample * y->n_out,
               (size_t)y->n_out * sizeof(real));
    else if (rows->loss.kind >= CBP_N_SOFTMAX_LOSSES) {
        if (y->n_out == 1)
            *(real *)rows->T.data = (real)*labels;
        else
            FN(fill_targets)(labels, 1, y->n_out, groups, rows->T);
    }
    FN(compute_loss_row)(y->A.data, rows->T.data, labels, w, y->n_out, &rows->loss,
                         &loss, rows->scratch);
    return w ? loss * (double)*w : loss;
}

/* (3.7): delta of every layer from delta^L. */
INLINE void FN(backward_row)(const cbp_online *rows) {
    for (int l = rows->n_layers - 1; l > 0; l--) {
        const cbp_layer *y = &rows->layers[l], *below = y - 1;
        FN(forward_row)(y->D.data, y->n_out, y->WT.data, y->WT.stride, P, NULL, y->n_in,
                        below->D.data, CBP_IDENTITY);
        FN(multiply_derivative)(below->D.data, below->S.data, (y->n_in + P - 1) / P * P,
                                below->slope);
        if (below->drop.below && below->slope != CBP_KEPT)
            FN(scale)(below->D.data, (y->n_in + P - 1) / P * P, below->drop.scale);
    }
}

/* Steps of all layers, the first one last: its new weights meet the next row then. */
INLINE void FN(step_layers)(const cbp_online *rows, const real *inputs, const real *x,
                            const FN(row_step) * s, int solver) {
    double *squares = rows->patch_squares;
    for (int l = 0; l < rows->n_layers; l++) squares += rows->layers[l].n_patches;
    for (int l = rows->n_layers - 1; l >= 0; l--) {
        const cbp_layer *y = &rows->layers[l];
        squares -= y->n_patches;
        FN(step_layer)(rows, y, l ? y[-1].A.data : inputs, l ? NULL : x, squares, s,
                       solver);
        if (y->mirrored && !FN(reads_master)(y)) FN(mirror_layer)(y);
    }
}

INLINE void FN(train_rows_with)(cbp_online *rows, int solver) {
    const cbp_layer *first = rows->layers;
    /* Without hidden layers z and delta share their place. */
    const int fusable = !first->transposed && rows->n_layers > 1;
    ptrdiff_t n_patches = 0, i = FN(next_row)(rows, 0), next;
    const real *x = NULL, *next_x;
    FN(row_step) s = FN(row_step_constants)(rows, solver);
    for (int l = 0; l < rows->n_layers; l++) n_patches += first[l].n_patches;
    if (i < rows->n_rows) x = FN(row_inputs)(rows, i, rows->steps);
    for (int fresh = 1; i < rows->n_rows; i = next, x = next_x, fresh = !fusable) {
        double weight = 1;
        next = FN(next_row)(rows, i + 1);
        next_x = NULL;
        if (next < rows->n_rows) next_x = FN(row_inputs)(rows, next, rows->steps + 1);
        if (rows->weight) {
            weight = (double)((const real *)rows->weight)[rows->order[i]];
            rows->step.scale = 1 / weight;
            s = FN(row_step_constants)(rows, solver);
        }
        const double eta = rows->eta[rows->steps];
        s.W.rate = s.b.rate = FN(step_rate)(&rows->step, eta, solver);
        if (rows->decay) {
            s.W.keep = FN(step_keep)(rows->decay[rows->steps]);
            s.W.decays = 1;
        }
        const uint64_t step = rows->first_step + (uint64_t)rows->steps;
        if (fresh)
            FN(forward_layer)(first, x, step);
        else
            FN(finish_row)(first, step);
        for (int l = 1; l < rows->n_layers; l++)
            FN(forward_layer)(first + l, first[l - 1].A.data, step);
        double loss = FN(row_loss)(rows, i);
        FN(backward_row)(rows);
        FN(step_layers)(rows, x, fusable ? next_x : NULL, &s, solver);
        if (rows->mean)
            FN(average)
            (rows->mean, rows->master, rows->master_items, rows->share[rows->steps]);
        if (rows->step.alpha != 0) {
            double squares = 0;
            for (ptrdiff_t i = 0; i < n_patches; i++)
                squares += rows->patch_squares[i];
            loss += 0.5 * rows->step.alpha * squares;
        }
        rows->loss_sum += loss;
        rows->last_loss = loss;
        rows->weight_sum += weight;
        rows->steps++;
        if (!isfinite(loss)) break;
    }
    for (const cbp_layer *y = first; y < first + rows->n_layers; y++)
        if (y->mirrored && FN(reads_master)(y)) FN(mirror_layer)(y);
}

/* See cbp_online. Every sum in the order of a batch of one row. */
static void FN(train_rows)(cbp_online *rows) {
#define CASE(number, ...)                                                              \
    case CBP_##number: FN(train_rows_with)(rows, CBP_##number); break;
    switch (rows->solver) { CBP_OPTIMIZERS(CASE) }
#undef CASE
}
