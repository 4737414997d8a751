/* measures.h - TEMPLATE: looks at numbers and changes none: are all finite, and what
 * gradient flow is measured with (cbp/_recorder.pyx). */

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

/* Plain C in double, lane by lane: the gradients of a deep sigmoid network have squares
 * far below the smallest float. */

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

static double FN(sum_penalized_squares)(const void *G_, const void *W_, ptrdiff_t n,
                                        double alpha) {
    const real *G = G_, *W = W_;
    double lanes[P] = {0};
    for (ptrdiff_t i = 0; i < n; i += P)
        for (int c = 0; c < P; c++) {
            const double g = (double)G[i + c] + alpha * (double)W[i + c];
            lanes[c] += g * g;
        }
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
static void FN(count_saturated)(const void *s_, ptrdiff_t n_rows, int slope,
                                double flat, int32_t *counts) {
    const real *s = s_;
#define CASE(number, name, ...)                                                        \
    case CBP_##number:                                                                 \
        for (ptrdiff_t r = 0; r < n_rows; r++)                                         \
            for (int c = 0; c < P; c++)                                                \
                counts[c] += FN(saturated_##name)(s[r * P + c]);                       \
        break;
    switch (slope) {
        CBP_ACTIVATIONS_BY_A(CASE)
    case CBP_KEPT:
        for (ptrdiff_t r = 0; r < n_rows; r++)
            for (int c = 0; c < P; c++) counts[c] += fabs((double)s[r * P + c]) < flat;
        break;
    }
#undef CASE
}
