/* activations.h - TEMPLATE: hidden activations a = f(z) and what backpropagation needs
 * of them, delta * f'(z) with f' as a function of a. Elementwise; the unfused twins of
 * what products.h does in its tiles. Formulas: docs/backpropagation.md, section 1.
 *
 * Three functions each: activate_<name>, f(z); derive_<name>, delta * f'(z); and
 * saturated_<name>, whether f'(z) is below 1 % of its maximum. */

INLINE vec FN(activate_identity)(vec z) { return z; }
INLINE vec FN(derive_identity)(vec delta, vec a) { return (void)a, delta; }
INLINE int FN(saturated_identity)(real a) { return (void)a, 0; }

INLINE vec FN(activate_logistic)(vec z) { return vec_logistic(z); }
INLINE vec FN(derive_logistic)(vec delta, vec a) {
    return vec_mul(delta, vec_fnma(a, a, a)); /* a - a^2 */
}
INLINE int FN(saturated_logistic)(real a) { return a - a * a < (real)0.0025; }

INLINE vec FN(activate_tanh)(vec z) { return vec_tanh(z); }
INLINE vec FN(derive_tanh)(vec delta, vec a) {
    return vec_mul(delta, vec_fnma(a, a, vec_set1(1)));
}
INLINE int FN(saturated_tanh)(real a) { return 1 - a * a < (real)0.01; }

INLINE vec FN(activate_relu)(vec z) { return vec_max(vec_zero(), z); /* keeps NaN */ }
INLINE vec FN(derive_relu)(vec delta, vec a) {
    return vec_keep(vec_gt(a, vec_zero()), delta);
}
INLINE int FN(saturated_relu)(real a) { return a <= 0; }

/* f(z) of an activation that the caller knows when this is compiled. */
INLINE vec FN(activate_vec)(vec z, int activation) {
#define CASE(number, name)                                                             \
    case CBP_##number: return FN(activate_##name)(z);
    switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
    __builtin_unreachable();
}

/* delta * f'(z) of such an activation. */
INLINE vec FN(derivative_vec)(vec delta, vec a, int activation) {
#define CASE(number, name)                                                             \
    case CBP_##number: return FN(derive_##name)(delta, a);
    switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
    __builtin_unreachable();
}

static void FN(activate)(void *z_, ptrdiff_t n, int activation) {
    real *z = z_;
#define CASE(number, name)                                                             \
    case CBP_##number:                                                                 \
        for (ptrdiff_t i = 0; i < n; i += VL)                                          \
            vec_store(z + i, FN(activate_##name)(vec_load(z + i)));                    \
        break;
    switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
}

static void FN(multiply_derivative)(void *delta_, const void *a_, ptrdiff_t n,
                                    int activation) {
    real *delta = delta_;
    const real *a = a_;
#define CASE(number, name)                                                             \
    case CBP_##number:                                                                 \
        for (ptrdiff_t i = 0; i < n; i += VL)                                          \
            vec_store(delta + i,                                                       \
                      FN(derive_##name)(vec_load(delta + i), vec_load(a + i)));        \
        break;
    switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
}
