/* activations.h - TEMPLATE: hidden activations a = f(z) and what backpropagation needs of
 * them, delta * f'(z) with f' as a function of a. Elementwise; the unfused twins of what
 * products.h does in its tiles. Formulas: docs/backpropagation.md, section 1. */

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
