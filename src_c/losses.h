/* losses.h - TEMPLATE: the output layer. z -> its activation (apply_output), and z and
 * targets -> the cost of each row and delta = dl/dz (compute_loss), for many rows and
 * for one. Sums over outputs run ascending. Formulas: docs/backpropagation.md, 2. */

/* Lines of rows: t[j * P + i] = element (r0 + i, j), so that a vector holds one output
 * of VL rows and sums over outputs run j ascending in every lane. */
INLINE void FN(load_transposed)(cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r, real *t) {
    for (ptrdiff_t q = 0; q * P < n_out; q++)
        FN(transpose_patch)((const real *)Z.data + q * Z.stride + r * P, t + q * P * P);
}

/* The way back, for rows r .. r + n_rows - 1 only; padding columns zeroed. */
INLINE void FN(store_transposed)(real *t, ptrdiff_t n_out, ptrdiff_t r,
                                 ptrdiff_t n_rows, cbp_panels Z) {
    for (ptrdiff_t q = 0; q * P < n_out; q++) {
        real patch[P * P];
        const ptrdiff_t used = n_out - q * P < P ? n_out - q * P : P;
        memset(t + (q * P + used) * P, 0, (size_t)((P - used) * P) * sizeof(real));
        FN(transpose_patch)(t + q * P * P, patch);
        memcpy((real *)Z.data + q * Z.stride + r * P, patch,
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

INLINE vec FN(output_identity)(vec z) { return z; }
INLINE vec FN(output_logistic)(vec z) { return vec_logistic(z); }
INLINE vec FN(output_exp)(vec z) { return vec_exp(z); }

/* Rows r0 .. r1 - 1 of Z: z -> output activation. */
static void FN(apply_output)(cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1,
                             int output, const cbp_groups *groups, void *scratch) {
    const ptrdiff_t whole[] = {0, n_out}, *start = groups ? groups->start : whole;
    const ptrdiff_t n_groups = groups ? groups->n : 1;
    real *t = scratch;
    if (output == CBP_OUT_IDENTITY) return;
    for (ptrdiff_t r = r0; r < r1; r += P) {
        vec max[VPP], sum[VPP];
        FN(load_transposed)(Z, n_out, r, t);
#define CASE(number, name)                                                             \
    case CBP_OUT_##number:                                                             \
        for (ptrdiff_t i = 0; i < n_out * P; i += VL)                                  \
            vec_store(t + i, FN(output_##name)(vec_load(t + i)));                      \
        break;
        switch (output) {
            CBP_ELEMENTWISE_OUTPUTS(CASE)
        case CBP_OUT_SOFTMAX:
            for (ptrdiff_t g = 0; g < n_groups; g++)
                FN(softmax_lines)
                (t + start[g] * P, start[g + 1] - start[g], max, sum, 0);
            break;
        }
#undef CASE
        FN(store_transposed)(t, n_out, r, r1 - r < P ? r1 - r : P, Z);
    }
}

/* Losses that are a sum over outputs, named <output>_<loss>: the cost l(z, t) of one
 * output of VL rows, and delta = dl/dz. p: the parameters of that output. */

/* l = max(z, 0) - t z + log(1 + exp(-|z|)) */
INLINE vec FN(logistic_log_loss)(vec z, vec t, const vec *p, vec *delta) {
    (void)p;
    /* Further out the logistic is dust: spare it the subnormals. */
    const vec a = vec_logistic(vec_max(vec_set1(LOG_DUST), z));
    *delta = FN(flush_dust)(vec_sub(a, t));
    return vec_add(vec_fnma(t, z, vec_max(vec_zero(), z)),
                   vec_log1p_unit(vec_exp_nonpos(vec_neg(vec_abs(z)))));
}

/* The focal loss of smoothed labels: l = -T (1 - a)^g log a - (1 - T) a^g log(1 - a)
 * with T = t (1 - s) + s / 2, s and g the parameters. With u = -log a and v = -log(1 -
 * a) the powers are e^-gv and e^-gu, and u' = -(1 - a), v' = a. */
INLINE vec FN(logistic_focal_log_loss)(vec z, vec t, const vec *p, vec *delta) {
    const vec s = p[0], g = p[1], one = vec_set1(1), none = vec_zero();
    const vec T = vec_fma(t, vec_sub(one, s), vec_mul(vec_set1((real)0.5), s));
    const vec both = vec_log1p_unit(vec_exp_nonpos(vec_neg(vec_abs(z))));
    const vec u = vec_add(vec_max(none, vec_neg(z)), both);
    const vec v = vec_add(vec_max(none, z), both);
    const vec a = vec_logistic(z), b = vec_logistic(vec_neg(z));
    const vec right = vec_mul(T, vec_exp_nonpos(vec_neg(vec_mul(g, v))));
    const vec wrong =
        vec_mul(vec_sub(one, T), vec_exp_nonpos(vec_neg(vec_mul(g, u))));
    /* au and bv first: both are small, g may be large. */
    const vec up = vec_fma(g, vec_mul(b, v), a), down = vec_fma(g, vec_mul(a, u), b);
    *delta = FN(flush_dust)(vec_fnma(right, down, vec_mul(wrong, up)));
    return vec_fma(right, u, vec_mul(wrong, v));
}

/* l = (a - t)^2 / 2, delta = (a - t) a (1 - a) */
INLINE vec FN(logistic_squared_error)(vec z, vec t, const vec *p, vec *delta) {
    (void)p;
    const vec a = vec_logistic(z), d = vec_sub(a, t);
    *delta = FN(flush_dust)(FN(derive_logistic)(d, a));
    return vec_mul(vec_set1((real)0.5), vec_mul(d, d));
}

/* l = (z - t)^2 / 2 */
INLINE vec FN(identity_squared_error)(vec z, vec t, const vec *p, vec *delta) {
    (void)p;
    const vec d = vec_sub(z, t);
    *delta = FN(flush_dust)(d);
    return vec_mul(vec_set1((real)0.5), vec_mul(d, d));
}

/* l = t (log t - z - 1) + a, infinite with a */
INLINE vec FN(exp_poisson)(vec z, vec t, const vec *p, vec *delta) {
    (void)p;
    const vec a = vec_exp(z);
    *delta = FN(flush_dust)(vec_sub(a, t));
    vec d = vec_sub(vec_sub(vec_log(t), z), vec_set1(1));
    d = vec_add(vec_keep(vec_gt(t, vec_zero()), vec_mul(t, d)), a);
    return vec_select(vec_gt(a, vec_set1(REAL_MAX)), a, d);
}

/* l = |z - t|, delta = its sign, 0 where both are equal: of all slopes between -1 and
 * 1 that the kink has, the one that moves nothing. A NaN stays. */
INLINE vec FN(identity_absolute_error)(vec z, vec t, const vec *p, vec *delta) {
    (void)p;
    const vec d = vec_sub(z, t);
    *delta = vec_select(vec_gt(d, vec_zero()), vec_set1(1),
                        vec_select(vec_lt(d, vec_zero()), vec_set1(-1), d));
    return vec_mul(d, *delta);
}

/* l = (z - t)^2 / 2 where |z - t| is at most p, else p (|z - t| - p / 2) */
INLINE vec FN(identity_huber)(vec z, vec t, const vec *p, vec *delta) {
    const vec d = vec_sub(z, t);
    const vec c = vec_max(vec_neg(p[0]), vec_min(p[0], d));
    *delta = FN(flush_dust)(c);
    return vec_mul(c, vec_fnma(vec_set1((real)0.5), c, d));
}

/* l = p (t - z) where z is below t, else (1 - p) (z - t); delta 0 where both are equal,
 * as for the absolute error. */
INLINE vec FN(identity_quantile)(vec z, vec t, const vec *p, vec *delta) {
    const vec d = vec_sub(z, t);
    *delta = vec_select(vec_gt(d, vec_zero()), vec_sub(vec_set1(1), p[0]),
                        vec_select(vec_lt(d, vec_zero()), vec_neg(p[0]), d));
    return vec_mul(d, *delta);
}

/* x y with y <= 0, and 0 where y is 0 even if x has overflowed. */
INLINE vec FN(scaled)(vec x, vec y) {
    return vec_select(vec_ge(y, vec_zero()), vec_zero(), vec_mul(x, y));
}

/* l = t / a + log a - log t - 1 with a = e^z: half the deviance. With w = z - log t it
 * is e^-w + w - 1, computed from x = e^-|w| - 1, which is exact near a perfect fit. */
INLINE vec FN(exp_gamma)(vec z, vec t, const vec *p, vec *delta) {
    (void)p;
    const vec w = vec_sub(z, vec_log(t)), x = vec_expm1_nonpos(vec_neg(vec_abs(w)));
    const mask above = vec_gt(w, vec_zero());
    /* Below it e^-w - 1 is -x e^-w. */
    const vec y = FN(scaled)(vec_exp(vec_neg(w)), x);
    *delta = FN(flush_dust)(vec_select(above, vec_neg(x), y));
    return vec_select(above, vec_add(x, w), vec_sub(w, y));
}

/* Half the deviance of the power p, 1 <= p <= 2, of a = e^z. With b = p - 1 and c = 2 -
 * p l = (a^c - t^c) / c + t (a^-b - t^-b) / b,  delta = a^c - t a^-b and limits for b
 * or c = 0. Each difference is computed from the greater of its two powers times e^-x -
 * 1 with x >= 0: exact near a perfect fit and for small b and c, and no infinity meets
 * another or 0. */
INLINE vec FN(exp_tweedie)(vec z, vec t, const vec *p, vec *delta) {
    const vec b = vec_sub(p[0], vec_set1(1)), c = vec_sub(vec_set1(2), p[0]);
    /* The logarithm of t = 0: a number below every z. */
    const vec log_t = vec_select(vec_gt(t, vec_zero()),
                                 vec_min(vec_set1(LOG_MAX), vec_log(t)),
                                 vec_set1(-REAL_MAX));
    const vec high = vec_max(log_t, z), low = vec_min(log_t, z);
    const vec x = vec_min(vec_set1(REAL_MAX), vec_sub(high, low));
    const vec A = vec_exp(vec_mul(c, high)), B = vec_exp(vec_fnma(b, low, log_t));
    /* -|a^c - t^c| and -|t a^-b - t^c|, then the same by c and by b. */
    const vec of_c = FN(scaled)(A, vec_expm1_nonpos(vec_neg(vec_mul(c, x))));
    const vec of_b = FN(scaled)(B, vec_expm1_nonpos(vec_neg(vec_mul(b, x))));
    const vec by_c =
        vec_select(vec_gt(c, vec_zero()), vec_div(of_c, c), vec_neg(x));
    const vec by_b = vec_select(vec_gt(b, vec_zero()), vec_div(of_b, b),
                                FN(scaled)(B, vec_neg(x)));
    const mask above = vec_gt(z, log_t);
    const vec d = vec_add(of_c, of_b), l = vec_sub(by_b, by_c);
    *delta = FN(flush_dust)(vec_select(above, vec_neg(d), d));
    /* Rounding may leave less than 0 where a is nearly t. */
    return vec_select(vec_gt(A, vec_set1(REAL_MAX)), A,
                      vec_max(vec_zero(), vec_select(above, l, vec_neg(l))));
}

/* One of them, whose kind the caller knows when this is compiled; p: its parameters. */
INLINE vec FN(loss_vec)(vec z, vec t, const vec *p, int kind, vec *delta) {
#define CASE(number, output, loss)                                                     \
    case CBP_##number: return FN(output##_##loss)(z, t, p, delta);
    switch (kind) { CBP_SUMMED_LOSSES(CASE) }
#undef CASE
    __builtin_unreachable();
}

/* w x, and 0 where w is 0 even if x has overflowed: such a row does not exist. */
INLINE vec FN(weigh_vec)(vec x, vec w) {
    return vec_keep(vec_gt(w, vec_zero()), vec_mul(x, w));
}

/* t: z of P rows in lines -> delta; line: the cost of each row, outputs ascending. */
INLINE void FN(loss_lines)(real *t, const real *targets, ptrdiff_t n_out,
                           const cbp_loss *loss, int kind, real *line) {
    const real *p0 = loss->parameters[0], *p1 = loss->parameters[1];
    UNROLL for (int v = 0; v < VPP; v++) {
        vec l = vec_zero(), delta;
        for (ptrdiff_t j = 0; j < n_out; j++) {
            real *z = t + j * P + v * VL;
            const vec p[] = {vec_broadcast(p0 + j), vec_broadcast(p1 + j)};
            l = vec_add(l, FN(loss_vec)(vec_load(z), vec_load(targets + j * P + v * VL),
                                        p, kind, &delta));
            vec_store(z, delta);
        }
        vec_store(line + v * VL, l);
    }
}

/* The same for a softmax: l = log(sum exp(z - max)) + max - z_y, delta = softmax - y.
 * Labels of the rows are n_labels apart; sum_up: l is added to the cost of the groups
 * before this one. */
INLINE void FN(softmax_group_lines)(real *t, const int32_t *labels, ptrdiff_t n_labels,
                                    ptrdiff_t n_rows, ptrdiff_t n_out, int sum_up,
                                    real *line) {
    vec max[VPP], sum[VPP];
    real z_y[P];
    for (ptrdiff_t i = 0; i < P; i++)
        z_y[i] = i < n_rows ? t[(ptrdiff_t)labels[i * n_labels] * P + i] : 0;
    FN(softmax_lines)(t, n_out, max, sum, 1);
    for (ptrdiff_t i = 0; i < n_rows; i++)
        t[(ptrdiff_t)labels[i * n_labels] * P + i] -= 1;
    UNROLL for (int v = 0; v < VPP; v++) {
        vec l = vec_add(vec_log(sum[v]), vec_sub(max[v], vec_load(z_y + v * VL)));
        if (sum_up) l = vec_add(vec_load(line + v * VL), l);
        vec_store(line + v * VL, l);
    }
}

/* The focal loss of smoothed labels, s and g the parameters, likewise: l = sum_j T_j (1
 * - p_j)^g (-log p_j),  T_j = [j = y] (1 - s) + s / n_out delta_k = p_k (sum_j h_j -
 * h_k) - h_k (1 - p_k) h_j = T_j ((1 - p_j)^g + g (1 - p_j)^(g - 1) p_j (-log p_j)) 1 -
 * p_j and log p_j of a class that is nearly certain come from the sum of the other
 * exponentials: powers of a rounded 1 - p_j would be wrong. room: as many reals as t.
 */
INLINE void FN(softmax_focal_log_loss_lines)(real *t, real *room, const int32_t *labels,
                                             ptrdiff_t n_labels, ptrdiff_t n_rows,
                                             ptrdiff_t n_out, const cbp_loss *loss,
                                             int sum_up, real *line) {
    const real smoothing = *(const real *)loss->parameters[0];
    const vec g = vec_broadcast((const real *)loss->parameters[1]), one = vec_set1(1);
    const vec spread = vec_set1(smoothing / (real)n_out);
    const vec whole = vec_set1(1 - smoothing);
    real y[P];
    for (ptrdiff_t i = 0; i < P; i++)
        y[i] = i < n_rows ? (real)labels[i * n_labels] : -1;
    UNROLL for (int v = 0; v < VPP; v++) {
        real *e = t + v * VL, *h = room + v * VL;
        const vec label = vec_load(y + v * VL);
        vec max = vec_load(e), rest = vec_zero(), seen = vec_zero(), l = vec_zero();
        for (ptrdiff_t j = 1; j < n_out; j++) max = vec_max(vec_load(e + j * P), max);
        for (ptrdiff_t j = 0; j < n_out; j++) {
            const vec z = vec_load(e + j * P), x = vec_exp_nonpos(vec_sub(z, max));
            const vec first = vec_keep(vec_ge(z, max), vec_sub(one, seen));
            seen = vec_add(seen, first);
            rest = vec_add(rest, vec_select(vec_gt(first, vec_zero()), vec_zero(), x));
            vec_store(e + j * P, x);
            vec_store(h + j * P, vec_min(vec_set1(REAL_MAX), vec_sub(max, z)));
        }
        const vec sum = vec_add(one, rest), inverse = vec_div(one, sum);
        const vec log_sum = vec_select(vec_gt(rest, one), vec_log(sum),
                                       vec_log1p_unit(vec_min(one, rest)));
        vec total = vec_zero();
        for (ptrdiff_t j = 0; j < n_out; j++) {
            const vec x = vec_load(e + j * P), p = vec_mul(x, inverse);
            const vec others = vec_select(vec_ge(x, one), rest, vec_sub(sum, x));
            vec r = vec_min(one, vec_mul(others, inverse));
            r = vec_max(vec_set1(REAL_MIN_NORMAL), r);
            const vec L = vec_add(log_sum, vec_load(h + j * P));
            const vec power = vec_exp_nonpos(vec_mul(g, vec_log(r)));
            const mask own = vec_eq(label, vec_set1((real)j));
            const vec T = vec_add(spread, vec_keep(own, whole));
            const vec rise = vec_div(vec_mul(p, L), r);
            const vec slope = vec_fma(vec_mul(g, power), rise, power);
            l = vec_fma(vec_mul(T, power), L, l);
            vec_store(h + j * P, vec_mul(T, slope));
            total = vec_add(total, vec_mul(T, slope));
        }
        for (ptrdiff_t j = 0; j < n_out; j++) {
            const vec x = vec_load(e + j * P), own = vec_load(h + j * P);
            const vec others = vec_select(vec_ge(x, one), rest, vec_sub(sum, x));
            const vec pull = vec_mul(vec_mul(x, inverse), vec_sub(total, own));
            vec_store(e + j * P, FN(flush_dust)(vec_fnma(
                                     own, vec_mul(others, inverse), pull)));
        }
        if (sum_up) l = vec_add(vec_load(line + v * VL), l);
        vec_store(line + v * VL, l);
    }
}

/* One of these losses, whose kind the caller knows when this is compiled, of all
 * groups, ascending. labels: of the first row. */
INLINE void FN(softmax_loss_lines)(real *t, real *room, const int32_t *labels,
                                   ptrdiff_t n_rows, ptrdiff_t n_out,
                                   const cbp_loss *loss, int kind, real *line) {
    const cbp_groups *groups = loss->groups;
    const ptrdiff_t whole[] = {0, n_out}, *start = groups ? groups->start : whole;
    const ptrdiff_t n = groups ? groups->n : 1;
    for (ptrdiff_t g = 0; g < n; g++) {
        real *z = t + start[g] * P;
        const ptrdiff_t size = start[g + 1] - start[g];
        if (kind == CBP_SOFTMAX_LOG_LOSS)
            FN(softmax_group_lines)(z, labels + g, n, n_rows, size, g > 0, line);
        else
            FN(softmax_focal_log_loss_lines)
            (z, room, labels + g, n, n_rows, size, loss, g > 0, line);
    }
}

/* Rows r0 .. r1 - 1: Z becomes delta^L, times the row's weight if there are weights;
 * row_loss[r] the unweighted cost of the row. T: targets, used by all but softmax,
 * which takes labels, one of each group for a row. */
static void FN(compute_loss)(cbp_panels Z, cbp_panels T, const int32_t *labels,
                             const void *weight, ptrdiff_t n_out, ptrdiff_t r0,
                             ptrdiff_t r1, const cbp_loss *loss, double *row_loss,
                             void *scratch) {
    const int kind = loss->kind;
    const ptrdiff_t n_labels = loss->groups ? loss->groups->n : 1;
    real *t = scratch, *targets = t + (n_out + P - 1) / P * P * P;
    for (ptrdiff_t r = r0; r < r1; r += P) {
        const ptrdiff_t n_rows = r1 - r < P ? r1 - r : P;
        real line[P];
        FN(load_transposed)(Z, n_out, r, t);
        if (kind >= CBP_N_SOFTMAX_LOSSES) FN(load_transposed)(T, n_out, r, targets);
#define CASE(number, ...)                                                              \
    case CBP_##number:                                                                 \
        FN(loss_lines)(t, targets, n_out, loss, CBP_##number, line);                   \
        break;
        switch (kind) {
            CBP_SUMMED_LOSSES(CASE)
#undef CASE
#define CASE(number, ...)                                                              \
    case CBP_##number:                                                                 \
        FN(softmax_loss_lines)                                                         \
        (t, targets, labels + r * n_labels, n_rows, n_out, loss, CBP_##number, line);  \
        break;
            CBP_SOFTMAX_LOSSES(CASE)
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

/* A row of several groups, or of the focal loss: by the lines of many rows, of which
 * all but one are idle. */
static real FN(softmax_row)(real *z, const int32_t *labels, const real *weight,
                            ptrdiff_t n_out, const cbp_loss *loss, real *t) {
    const ptrdiff_t padded = (n_out + P - 1) / P * P;
    real line[P];
    for (ptrdiff_t j = 0; j < n_out; j++)
        UNROLL for (int v = 0; v < VPP; v++)
            vec_store(t + j * P + v * VL, vec_broadcast(z + j));
#define CASE(number, ...)                                                              \
    case CBP_##number:                                                                 \
        FN(softmax_loss_lines)                                                         \
        (t, t + padded * P, labels, 1, n_out, loss, CBP_##number, line);               \
        break;
    switch (loss->kind) { CBP_SOFTMAX_LOSSES(CASE) }
#undef CASE
    for (ptrdiff_t j = 0; j < padded; j++) z[j] = j < n_out ? t[j * P] : 0;
    for (ptrdiff_t j = 0; weight && j < padded; j += VL)
        vec_store(z + j, FN(weigh_vec)(vec_load(z + j), vec_broadcast(weight)));
    return line[0];
}

/* Vector v of a line of delta, weighted, with zeros from column `used` on. */
INLINE void FN(store_row_delta)(real *z, vec delta, const real *weight, ptrdiff_t used,
                                int v) {
    if (weight) delta = FN(weigh_vec)(delta, vec_broadcast(weight));
    vec_store(z + v * VL, FN(keep_columns)(delta, used, v));
}

static real FN(softmax_log_loss_row)(real *z, int32_t label, const real *weight,
                                     ptrdiff_t n_out, real *terms) {
    real max = z[0], sum = 0, line[P];
    for (ptrdiff_t j = 1; j < n_out; j++) max = z[j] > max ? z[j] : max;
    for (ptrdiff_t i = 0; i < n_out; i += VL)
        vec_store(terms + i, vec_exp_nonpos(vec_sub(vec_load(z + i), vec_set1(max))));
    for (ptrdiff_t j = 0; j < n_out; j++) sum += terms[j];
    const vec scale = vec_div(vec_set1(1), vec_set1(sum));
    vec_store(line, vec_log(vec_set1(sum)));
    const real cost = line[0] + (max - z[label]);
    for (ptrdiff_t i = 0; i < n_out; i += P)
        UNROLL for (int v = 0; v < VPP; v++) {
            vec delta = vec_zero();
            if (i + v * VL < n_out)
                delta = vec_sub(
                    FN(flush_dust)(vec_mul(vec_load(terms + i + v * VL), scale)),
                    FN(one_hot_vec)(label - i, v));
            FN(store_row_delta)(z + i, delta, weight, n_out - i, v);
        }
    return cost;
}

/* A loop of its own for each loss: around a choice of all losses, the constants of all
 * of them would be loaded for every row. */
INLINE real FN(summed_loss_row)(real *z, const real *targets, const real *weight,
                                ptrdiff_t n_out, const cbp_loss *loss, int kind,
                                real *terms) {
    const real *p0 = loss->parameters[0], *p1 = loss->parameters[1];
    real sum = 0;
    for (ptrdiff_t i = 0; i < n_out; i += P)
        UNROLL for (int v = 0; v < VPP; v++) {
            const ptrdiff_t at = i + v * VL;
            if (at >= n_out) {
                vec_store(z + at, vec_zero());
                continue;
            }
            const vec p[] = {vec_load(p0 + at), vec_load(p1 + at)};
            vec delta;
            vec_store(terms + at, FN(loss_vec)(vec_load(z + at), vec_load(targets + at),
                                               p, kind, &delta));
            FN(store_row_delta)(z + i, delta, weight, n_out - i, v);
        }
    for (ptrdiff_t j = 0; j < n_out; j++) sum += terms[j];
    return sum;
}

/* compute_loss for a batch of one row, z and targets contiguous lines. The same bits: a
 * lane holds an output here, and the sums over outputs run ascending lane by lane.
 * scratch: as for compute_loss. */
static void FN(compute_loss_row)(void *z, const void *targets, const int32_t *labels,
                                 const void *weight, ptrdiff_t n_out,
                                 const cbp_loss *loss, double *row_loss,
                                 void *scratch) {
    real cost = 0;
#define CASE(number, ...)                                                              \
    case CBP_##number:                                                                 \
        cost = FN(summed_loss_row)(z, targets, weight, n_out, loss, CBP_##number,      \
                                   scratch);                                           \
        break;
    switch (loss->kind) {
        CBP_SUMMED_LOSSES(CASE)
    case CBP_SOFTMAX_LOG_LOSS:
        if (!loss->groups) {
            cost = FN(softmax_log_loss_row)(z, labels[0], weight, n_out, scratch);
            break;
        } /* fall through */
    case CBP_SOFTMAX_FOCAL_LOG_LOSS:
        cost = FN(softmax_row)(z, labels, weight, n_out, loss, scratch);
        break;
    }
#undef CASE
    *row_loss = (double)cost;
}
