/* activations.h - TEMPLATE: hidden activations a = f(z) and what backpropagation needs
 * of them, delta * f'(z). Elementwise; the unfused twins of what products.h does in its
 * tiles. Formulas: docs/backpropagation.md, section 1.
 *
 * Where f' is a function of a, three functions each: activate_<name>, f(z);
 * derive_<name>, delta * f'(z) by a; and saturated_<name>, whether f'(z) is below 1 %
 * of its maximum. Where it is not (or costs more), two: activate_<name>, and
 * slope_<name>, f'(z) by z, which is made with a and kept until it is met by delta. */

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

#define LEAKY_SLOPE ((real)0.01)
INLINE vec FN(activate_leaky_relu)(vec z) {
    return vec_select(vec_gt(z, vec_zero()), z, vec_mul(vec_set1(LEAKY_SLOPE), z));
}
INLINE vec FN(derive_leaky_relu)(vec delta, vec a) {
    const vec leak = vec_mul(delta, vec_set1(LEAKY_SLOPE));
    return vec_select(vec_gt(a, vec_zero()), delta, leak);
}
INLINE int FN(saturated_leaky_relu)(real a) { return (void)a, 0; }

/* e^z - 1 below 0 (Clevert et al., 2016), where f' = a + 1 */
INLINE vec FN(activate_elu)(vec z) {
    const vec below = vec_expm1_nonpos(vec_min(vec_zero(), z));
    return vec_select(vec_gt(z, vec_zero()), z, below);
}
INLINE vec FN(derive_elu)(vec delta, vec a) {
    return vec_select(vec_gt(a, vec_zero()), delta, vec_fma(delta, a, delta));
}
INLINE int FN(saturated_elu)(real a) { return a + 1 < (real)0.01; }

/* lambda z, and lambda alpha (e^z - 1) below 0 (Klambauer et al., 2017): the numbers
 * with which units keep a mean of 0 and a variance of 1. */
#define SELU_SCALE ((real)1.0507009873554804934193349852946)
#define SELU_BELOW ((real)1.7580993408473768599402175208123)
INLINE vec FN(activate_selu)(vec z) {
    const vec below = vec_expm1_nonpos(vec_min(vec_zero(), z));
    return vec_select(vec_gt(z, vec_zero()), vec_mul(vec_set1(SELU_SCALE), z),
                      vec_mul(vec_set1(SELU_BELOW), below));
}
INLINE vec FN(derive_selu)(vec delta, vec a) {
    const vec below = vec_mul(delta, vec_add(a, vec_set1(SELU_BELOW)));
    return vec_select(vec_gt(a, vec_zero()), vec_mul(vec_set1(SELU_SCALE), delta),
                      below);
}
INLINE int FN(saturated_selu)(real a) {
    return a + SELU_BELOW < (real)0.01 * SELU_BELOW;
}

/* z within +-far, NaN kept: beyond, exponentials would be subnormal or infinite. */
INLINE vec FN(bounded)(vec z, real far) {
    return vec_max(vec_set1(-far), vec_min(vec_set1(far), z));
}

/* z p with p = p(z within +-far), and 0 where that is dust. Asked this way round, NaN
 * stays. */
INLINE vec FN(gated)(vec z, vec p, real far) {
    return vec_select(vec_ge(vec_set1(-far), z), vec_zero(), vec_mul(z, p));
}

/* z Phi(z), Phi the normal distribution (Hendrycks and Gimpel, 2016) */
INLINE vec FN(activate_gelu)(vec z) {
    vec bell;
    return FN(gated)(z, vec_normal(FN(bounded)(z, GELU_BENDS), &bell), GELU_BENDS);
}
/* Phi + z phi, phi(z) = e^(-z^2 / 2) / sqrt(2 pi) */
INLINE vec FN(slope_gelu)(vec z) {
    const vec x = FN(bounded)(z, GELU_BENDS), scale = vec_set1(0x1.9884533d43651p-2);
    vec bell;
    const vec normal = vec_normal(x, &bell);
    return vec_fma(vec_mul(x, scale), bell, normal);
}

/* 1 / (1 + e^-x) by a plain division: at most 2.5 units wrong, which is enough here. */
INLINE vec FN(gate)(vec x) {
    const vec one = vec_set1(1), e = vec_exp_nonpos(vec_neg(vec_abs(x)));
    return vec_div(vec_select(vec_ge(x, vec_zero()), one, e), vec_add(one, e));
}

/* log(1 + e^z) */
INLINE vec FN(activate_softplus)(vec z) {
    const vec e = vec_exp_nonpos(vec_neg(vec_abs(z)));
    return vec_add(vec_max(vec_zero(), z), vec_log1p_unit(e));
}
INLINE vec FN(slope_softplus)(vec z) { return FN(gate)(z); }

/* z logistic(z) (Elfwing et al., 2018) */
INLINE vec FN(activate_silu)(vec z) {
    return FN(gated)(z, FN(gate)(FN(bounded)(z, -LOG_DUST)), -LOG_DUST);
}
/* s + z s (1 - s), s = logistic(z) */
INLINE vec FN(slope_silu)(vec z) {
    const vec x = FN(bounded)(z, -LOG_DUST), s = FN(gate)(x);
    return vec_fma(vec_mul(x, s), vec_sub(vec_set1(1), s), s);
}

/* z tanh(log(1 + e^z)) = z w / (w + 2), w = n (n + 2), n = e^z (Misra, 2020); from
 * MISH_BENDS on that is z. Returns w / (w + 2); f' is that and z times *rise,
 * 4 n (n + 1) / (w + 2)^2. */
INLINE vec FN(mish_gate)(vec x, vec *rise) {
    const vec n = vec_exp(vec_min(vec_set1(MISH_BENDS), x)), two = vec_set1(2);
    const vec w = vec_mul(n, vec_add(n, two));
    const vec inverse = vec_div(vec_set1(1), vec_add(w, two));
    *rise = vec_mul(vec_mul(vec_set1(4), vec_fma(n, n, n)), vec_mul(inverse, inverse));
    return vec_mul(w, inverse);
}
INLINE vec FN(activate_mish)(vec z) {
    vec rise;
    return FN(gated)(z, FN(mish_gate)(FN(bounded)(z, -LOG_DUST), &rise), -LOG_DUST);
}
INLINE vec FN(slope_mish)(vec z) {
    const vec x = FN(bounded)(z, -LOG_DUST);
    vec rise;
    const vec gate = FN(mish_gate)(x, &rise);
    return vec_fma(x, rise, gate);
}

/* f(z) of an activation that the caller knows when this is compiled. */
INLINE vec FN(activate_vec)(vec z, int activation) {
#define CASE(number, name, ...)                                                        \
    case CBP_##number: return FN(activate_##name)(z);
    switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
    __builtin_unreachable();
}

/* f'(z) itself in the place of a */
INLINE vec FN(derive_kept)(vec delta, vec s) { return vec_mul(delta, s); }
#define CBP_SLOPES(X) CBP_ACTIVATIONS_BY_A(X) X(KEPT, kept)

/* delta * f'(z) of such an activation. */
INLINE vec FN(derivative_vec)(vec delta, vec s, int slope) {
#define CASE(number, name, ...)                                                        \
    case CBP_##number: return FN(derive_##name)(delta, s);
    switch (slope) { CBP_SLOPES(CASE) }
#undef CASE
    __builtin_unreachable();
}

/* f'(z) of such an activation, a = f(z). */
INLINE vec FN(slope_vec)(vec z, vec a, int activation) {
#define BY_A(number, name, ...)                                                        \
    case CBP_##number: return FN(derive_##name)(vec_set1(1), a);
#define BY_Z(number, name, ...)                                                        \
    case CBP_##number: return FN(slope_##name)(z);
    switch (activation) { CBP_ACTIVATIONS_BY_A(BY_A) CBP_ACTIVATIONS_BY_Z(BY_Z) }
#undef BY_A
#undef BY_Z
    __builtin_unreachable();
}

static void FN(activate)(void *z_, ptrdiff_t n, int activation) {
    real *z = z_;
#define CASE(number, name, ...)                                                        \
    case CBP_##number:                                                                 \
        for (ptrdiff_t i = 0; i < n; i += VL)                                          \
            vec_store(z + i, FN(activate_##name)(vec_load(z + i)));                    \
        break;
    switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
}

static void FN(multiply_derivative)(void *delta_, const void *s_, ptrdiff_t n,
                                    int slope) {
    real *delta = delta_;
    const real *s = s_;
#define CASE(number, name, ...)                                                        \
    case CBP_##number:                                                                 \
        for (ptrdiff_t i = 0; i < n; i += VL)                                          \
            vec_store(delta + i,                                                       \
                      FN(derive_##name)(vec_load(delta + i), vec_load(s + i)));        \
        break;
    switch (slope) { CBP_SLOPES(CASE) }
#undef CASE
}

/* z -> a = f(z), and f'(z) into S; padding columns of both zeroed. */
static void FN(keep_slope)(cbp_panels Z, cbp_panels S, ptrdiff_t n_out, ptrdiff_t r0,
                           ptrdiff_t r1, int activation) {
    for (ptrdiff_t q = 0; q * P < n_out; q++) {
        real *z = (real *)Z.data + q * Z.stride + r0 * P;
        real *s = (real *)S.data + q * S.stride + r0 * P;
#define CASE(number, name, ...)                                                        \
    case CBP_##number:                                                                 \
        for (ptrdiff_t i = 0; i < (r1 - r0) * P; i += VL) {                            \
            const vec x = vec_load(z + i), a = FN(activate_##name)(x);                 \
            vec_store(s + i, FN(slope_vec)(x, a, CBP_##number));                       \
            vec_store(z + i, a);                                                       \
        }                                                                              \
        break;
        switch (activation) { CBP_ACTIVATIONS(CASE) }
#undef CASE
        if ((q + 1) * P > n_out) {
            FN(clear_padding)(z, r1 - r0, n_out);
            FN(clear_padding)(s, r1 - r0, n_out);
        }
    }
}
