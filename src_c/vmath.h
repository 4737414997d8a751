/* vmath.h: TEMPLATE, exp, expm1, log, log1p, logistic, tanh and the normal
 * distribution, written once in the words of vec.h and stamped after it for each tier
 * and dtype.
 *
 * At most 2 units in the last place (measured: exp, log, log1p, expm1 1.2, logistic
 * 1.5, tanh 1.8; the normal distribution: see vec_normal), rising wherever the function
 * rises (tried on all floats; not that one), one order of operations, hence the same
 * bits on every tier. No tables, hardware estimates or branches. The polynomials were
 * found for this file by Remez exchange in 60 digits: equal ripple of the relative
 * error, then each coefficient rounded to the dtype; the errors stated are those after
 * rounding. */
#define EXP_Q TYPED(EXP_Q)
#define LOG_Q TYPED(LOG_Q)
#define NORMAL_Q TYPED(NORMAL_Q)
#define polynomial TYPED(polynomial)
#define exp_reduce TYPED(exp_reduce)
#define exp_mantissa TYPED(exp_mantissa)
#define divide_by_sum TYPED(divide_by_sum)
#define log1p_reduced TYPED(log1p_reduced)
#define vec_exp TYPED(vec_exp)
#define vec_exp_nonpos TYPED(vec_exp_nonpos)
#define exp_parts TYPED(exp_parts)
#define vec_log TYPED(vec_log)
#define vec_log1p_unit TYPED(vec_log1p_unit)
#define vec_logistic TYPED(vec_logistic)
#define vec_tanh TYPED(vec_tanh)
#define vec_expm1_nonpos TYPED(vec_expm1_nonpos)
#define vec_normal TYPED(vec_normal)

#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUND_TO_INT
#undef LOG2_E
#undef LN2_HI
#undef LN2_LO
#undef EXP_UNDERFLOWS
#undef EXP_OVERFLOWS
#undef TANH_IS_ONE
#undef EXP_IS_NOTHING
#undef NORMAL_T
#undef NORMAL_MID
#undef NO_SQUARE
#if CBP_DOUBLE
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUND_TO_INT 0x1.8p52 /* adding it rounds to integer, kept in the low bits */
#define LOG2_E 0x1.71547652b82fep0
#define LN2_HI 0x1.62e42fefa39efp-1 /* log 2 rounded, and what the rounding lost */
#define LN2_LO 0x1.abc9e3b39803fp-56
#define EXP_UNDERFLOWS (-746.0) /* e^-746 is less than half the least subnormal */
#define EXP_OVERFLOWS 710.0
#define TANH_IS_ONE 19.0       /* from here on tanh rounds to 1 */
#define EXP_IS_NOTHING (-40.0) /* beside 1 */
#define NORMAL_T 0.25
#define NO_SQUARE 0x1p-60 /* x (1 + x) rounds to x; 4th powers are kept normal */
#else
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUND_TO_INT 0x1.8p23f
#define LOG2_E 0x1.715476p0f
#define LN2_HI 0x1.62e43p-1f
#define LN2_LO (-0x1.05c61p-29f)
#define EXP_UNDERFLOWS (-104.0f)
#define EXP_OVERFLOWS 89.0f
#define TANH_IS_ONE 9.25f
#define EXP_IS_NOTHING (-18.0f)
#define NORMAL_T 0.3f
#define NO_SQUARE 0x1p-30f
#endif

/* q(r) = (e^r - 1 - r) / r^2 for |r| <= log(2)/2, weighted so that r + r^2 q has the
 * least error relative to e^r - 1: 2^-28.7 (float), 2^-59.6 (double). With one
 * degree less exp would pass 1 unit and tanh come near 2. */
static const real EXP_Q[] = {
#if CBP_DOUBLE
    0x1p-1,
    0x1.5555555555559p-3,
    0x1.555555555553ep-5,
    0x1.111111110f6c5p-7,
    0x1.6c16c16c1f0e5p-10,
    0x1.a01a01afdd8cdp-13,
    0x1.a01a017bb0462p-16,
    0x1.71ddf863bc6e1p-19,
    0x1.27e53643b6d75p-22,
    0x1.af5ea84c51e61p-26,
    0x1.1ee887d98ea2ep-29
#else
    0x1p-1f,         0x1.555554p-3f, 0x1.5554bp-5f, 0x1.11118ap-7f,
    0x1.6d723ep-10f, 0x1.a032c6p-13f
#endif
};

/* (2 atanh(s) - 2 s) / s^3 as a polynomial in s^2 for 0 <= s <= 1/3: error relative to
 * 2 atanh(s): 2^-30.8 (float), 2^-58.7 (double). */
static const real LOG_Q[] = {
#if CBP_DOUBLE
    0x1.5555555555535p-1, 0x1.99999999a06dcp-2, 0x1.249249209030bp-2,
    0x1.c71c741a7a3c6p-3, 0x1.745cb44903233p-3, 0x1.3b1dd51f0bb15p-3,
    0x1.10681b26125c6p-3, 0x1.efd2cf5fd5f32p-4, 0x1.55c9ada1f5068p-4,
    0x1.5c618995f7355p-3
#else
    0x1.555558p-1f, 0x1.9996bp-2f, 0x1.2508bap-2f, 0x1.b6e5dcp-3f, 0x1.f17718p-3f
#endif
};

/* e^(x^2 / 2) (1 - Phi(x)) / t as a polynomial in t - NORMAL_MID, t = 1 / (1 + NORMAL_T
 * x), for x >= 0: what its error makes of 1 - Phi(x) is at most 2^-28.6 (float),
 * 2^-59.4 (double). About the middle of t, no term is much larger than the sum. */
#define NORMAL_MID ((real)0.6875)
static const real NORMAL_Q[] = {
#if CBP_DOUBLE
    0x1.0c7bb5e05a983p-2,  0x1.fb00a80e974a5p-2,  0x1.4d21135e27f58p-1,
    0x1.21d22dc6d9d41p-1,  0x1.087d2096c83b8p-2,  -0x1.1201896aff322p-5,
    -0x1.9ec8d6ad9d141p-4, -0x1.1f68145fc1613p-7, 0x1.540463590a4d8p-5,
    0x1.9dd1d2dec8d74p-9,  -0x1.48f3f68c3c26ap-6, 0x1.3d91e1403732p-9,
    0x1.4031f8cd8393ap-7,  -0x1.3d49f22e2574ep-8, -0x1.44d1baeca3071p-9,
    0x1.3fcbd4b7bf283p-9
#else
    0x1.3079cap-2f, 0x1.ee3cecp-2f,  0x1.e2f7cep-2f, 0x1.b57f0ep-3f,
    -0x1.b6dd1p-5f, -0x1.7728e6p-4f, 0x1.3e6dc8p-5f
#endif
};

/* sum_i c[i] x^i, i < n, given z = x^2: even and odd powers are two chains, which
 * halves the latency at no cost. */
CBP_INLINE vec polynomial(vec x, vec z, const real *c, int n) {
    vec a = vec_set1(c[n - 1]), b = vec_set1(c[n - 2]);
    for (int i = n - 3; i >= 0; i--) {
        vec next = vec_fma(a, z, vec_set1(c[i]));
        a = b;
        b = next;
    }
    return vec_fma(a, x, b);
}

#define POLYNOMIAL(x, z, c) polynomial(x, z, c, sizeof(c) / sizeof(c[0]))

/* e^x = 2^n e^r with n = round(x / log 2): returns x - n LN2_HI, which is exact because
 * both are multiples of one power of two and the difference is small; r is n LN2_LO
 * less. The low bits of *k hold the integer n; the bits above them leave in any shift
 * left by MANTISSA_BITS. */
CBP_INLINE vec exp_reduce(vec x, vec *n, ivec *k) {
    vec shifted = vec_fma(x, vec_set1(LOG2_E), vec_set1(ROUND_TO_INT));
    *k = vec_as_int(shifted);
    *n = vec_sub(shifted, vec_set1(ROUND_TO_INT));
    return vec_fnma(*n, vec_set1(LN2_HI), x);
}

/* e^r, which is e^x 2^-n. */
CBP_INLINE vec exp_mantissa(vec x, ivec *k) {
    vec n, r = exp_reduce(x, &n, k);
    r = vec_fnma(n, vec_set1(LN2_LO), r);
    vec z = vec_mul(r, r);
    vec u = vec_fma(z, POLYNOMIAL(r, z, EXP_Q), r);
    return vec_add(vec_set1(1), u);
}

/* The bits of 2^n, n a small integer constant. */
#define POWER_OF_TWO(n) ivec_set1((integer)(EXPONENT_BIAS + (n)) << MANTISSA_BITS)

/* e^x for every x: 2^k as a product of two powers, so that neither leaves the range and
 * a subnormal result is rounded once. */
CBP_INLINE vec vec_exp(vec x) {
    ivec k;
    x = vec_min(vec_set1(EXP_OVERFLOWS), x); /* this order of operands keeps a NaN */
    x = vec_max(vec_set1(EXP_UNDERFLOWS), x);
    vec p = exp_mantissa(x, &k);
    ivec half = ivec_shr(k, 1), rest = ivec_sub(k, half);
    half = ivec_add(ivec_shl(half, MANTISSA_BITS), POWER_OF_TWO(0));
    rest = ivec_add(ivec_shl(rest, MANTISSA_BITS), POWER_OF_TWO(0));
    return vec_mul(vec_mul(p, int_as_vec(half)), int_as_vec(rest));
}

/* e^x for x <= 0, the bits of vec_exp: 2^(k + 64) 2^-64 needs fewer operations. */
CBP_INLINE vec vec_exp_nonpos(vec x) {
    ivec k;
    x = vec_max(vec_set1(EXP_UNDERFLOWS), x);
    vec p = exp_mantissa(x, &k);
    ivec scale = ivec_add(ivec_shl(k, MANTISSA_BITS), POWER_OF_TWO(64));
    return vec_mul(vec_mul(p, int_as_vec(scale)), vec_set1((real)0x1p-64));
}

/* a / (b + c), b >= c >= 0, rounded once: the rounding error of b + c is carried along.
 * A plain division would make logistic and tanh a third faster, but 2.5 units wrong,
 * and logistic not monotone. */
CBP_INLINE vec divide_by_sum(vec a, vec b, vec c) {
    vec sum = vec_add(b, c);
    vec lost = vec_sub(c, vec_sub(sum, b)); /* b + c = sum + lost exactly */
    vec y = vec_div(vec_set1(1), sum);
    vec error = vec_fnma(lost, y, vec_fnma(sum, y, vec_set1(1)));
    vec z = vec_mul(y, error); /* 1 / (b + c) = y + z */
    /* Below half a unit of y it is dropped: a z, with a = c, must not underflow. */
    z = vec_keep(vec_ge(c, vec_set1(NO_SQUARE)), z);
    return vec_fma(a, y, vec_mul(a, z));
}

/* 1 / (1 + e^-x), from e = e^-|x|, which cannot overflow: 1 or e, over 1 + e. */
CBP_INLINE vec vec_logistic(vec x) {
    vec one = vec_set1(1);
    vec e = vec_exp_nonpos(vec_neg(vec_abs(x)));
    return divide_by_sum(vec_select(vec_ge(x, vec_zero()), one, e), one, e);
}

/* e^x = s (1 + u) with s = 2^n and u = e^r - 1: what is left of small x is in u. */
CBP_INLINE vec exp_parts(vec x, vec *s) {
    ivec k;
    vec n, r = exp_reduce(x, &n, &k);
    /* n LN2_LO joins the small term: rounded into r, it would cost half a unit. */
    vec z = vec_mul(r, r), low = vec_mul(n, vec_set1(-LN2_LO));
    *s = int_as_vec(ivec_add(ivec_shl(k, MANTISSA_BITS), POWER_OF_TWO(0)));
    return vec_add(r, vec_fma(z, POLYNOMIAL(r, z, EXP_Q), low));
}

/* tanh(x) = sign(x) (1 - e) / (1 + e), e = e^(-2|x|) = 2^n (1 + u), u = e^r - 1: with
 * 1 - e as (1 - 2^n) - 2^n u it is accurate relative to a small x, too, where n = 0. */
CBP_INLINE vec vec_tanh(vec x) {
    vec y = vec_mul(vec_abs(x), vec_set1(-2));
    vec s, u = exp_parts(vec_max(vec_set1(-2 * TANH_IS_ONE), y), &s);
    vec one = vec_set1(1), top = vec_fnma(s, u, vec_sub(one, s));
    return vec_with_sign(divide_by_sum(top, one, vec_fma(s, u, s)), x);
}

/* e^x - 1 for x <= 0, as (2^n - 1) + 2^n u. */
CBP_INLINE vec vec_expm1_nonpos(vec x) {
    vec s, u = exp_parts(vec_max(vec_set1(EXP_IS_NOTHING), x), &s);
    return vec_fma(s, u, vec_sub(s, vec_set1(1)));
}

/* The normal distribution Phi(x) and *bell = e^(-x^2 / 2), from which both tails come:
 * 1 - Phi(x) = Phi(-x) = bell t q(t) for x >= 0. At most 3.3 units of a number in [1/2,
 * 1) wrong; a polynomial for small x besides would halve that, but gelu would be
 * slower. */
CBP_INLINE vec vec_normal(vec x, vec *bell) {
    const vec one = vec_set1(1);
    vec t = vec_div(one, vec_fma(vec_abs(x), vec_set1(NORMAL_T), one));
    *bell = vec_exp_nonpos(vec_mul(vec_mul(x, x), vec_set1((real)-0.5)));
    vec u = vec_sub(t, vec_set1(NORMAL_MID));
    vec tail = vec_mul(*bell, vec_mul(t, POLYNOMIAL(u, vec_mul(u, u), NORMAL_Q)));
    return vec_select(vec_gt(x, vec_zero()), vec_sub(one, tail), tail);
}

/* log(1 + f) for -0.3 <= f <= 1: with s = f / (2 + f) it is 2 atanh(s)
 * = 2 s + s R(s^2) = f - s (f - R), whose first term is exact. */
CBP_INLINE vec log1p_reduced(vec f) {
    vec s = vec_div(f, vec_add(vec_set1(2), f));
    vec z = vec_mul(s, s);
    vec R = vec_mul(z, POLYNOMIAL(z, vec_mul(z, z), LOG_Q));
    return vec_fnma(s, vec_sub(f, R), f);
}

/* log(1 + e) for 0 <= e <= 1, accurate relative to a tiny e, too: that is e itself. */
CBP_INLINE vec vec_log1p_unit(vec e) {
    vec least = vec_set1(NO_SQUARE);
    return vec_select(vec_lt(e, least), e, log1p_reduced(vec_max(least, e)));
}

/* log(x): x = 2^k m with sqrt(1/2) <= m < sqrt(2), log(x) = k log 2 + log(m). */
CBP_INLINE vec vec_log(vec x) {
    vec inf = vec_set1((real)INFINITY), bias = vec_set1(EXPONENT_BIAS);
    mask tiny = vec_lt(x, vec_set1(REAL_MIN_NORMAL)); /* take 2^64 x in its place */
    vec scaled = vec_select(tiny, vec_mul(x, vec_set1((real)0x1p64)), x);
    ivec bits = vec_as_int(scaled);
    ivec one = POWER_OF_TWO(0);
    ivec sqrt_half = vec_as_int(vec_set1((real)0x1.6a09e667f3bcdp-1));
    /* k + bias: the exponent field after a move that puts sqrt(1/2) on 1 */
    ivec k = ivec_shr(ivec_add(bits, ivec_sub(one, sqrt_half)), MANTISSA_BITS);
    vec m = int_as_vec(ivec_add(ivec_sub(bits, ivec_shl(k, MANTISSA_BITS)), one));
    vec n = vec_sub(ivec_to_vec(k), bias);
    n = vec_sub(n, vec_keep(tiny, vec_set1(64)));
    vec y = log1p_reduced(vec_sub(m, vec_set1(1)));
    y = vec_fma(n, vec_set1(LN2_HI), vec_fma(n, vec_set1(LN2_LO), y));
    y = vec_select(vec_lt(x, inf), y, x); /* +inf and NaN are their own logarithms */
    y = vec_select(vec_lt(x, vec_zero()), vec_set1((real)NAN), y);
    return vec_select(vec_eq(x, vec_zero()), vec_neg(inf), y);
}
