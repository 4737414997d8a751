"""The functions that an exported page of C is made of, as text.

They are the scalar tier of the kernels in plain C: exp, tanh and others of
src_c/vmath.h, the activations of src_c/activations.h and the outputs of src_c/losses.h,
operation by operation, for both come to the same bits. An installed cbp has no src_c,
so the formulas stand here once more; tests/test_c_code.py demands the same constants
and the same bits. Nothing here knows a model.

`real_t` becomes float or double, `bits_t` the unsigned integer of the same width, R(1)
a constant of the type, and NAME_ the prefix of all that the page defines.
"""

# Numbers of src_c/vmath.h and src_c/kernels.h, for float and for double.
CONSTANTS = {
    "MANTISSA_BITS": ("23", "52"),
    "EXPONENT_BIAS": ("127", "1023"),
    "SIGN_BIT": ("31", "63"),
    "ROUND_TO_INT": ("0x1.8p23f", "0x1.8p52"),
    "LOG2_E": ("0x1.715476p0f", "0x1.71547652b82fep0"),
    "LN2_HI": ("0x1.62e43p-1f", "0x1.62e42fefa39efp-1"),
    "LN2_LO": ("(-0x1.05c61p-29f)", "0x1.abc9e3b39803fp-56"),
    "EXP_UNDERFLOWS": ("(-104.0f)", "(-746.0)"),
    "EXP_OVERFLOWS": ("89.0f", "710.0"),
    "TANH_IS_ONE": ("9.25f", "19.0"),
    "EXP_IS_NOTHING": ("(-18.0f)", "(-40.0)"),
    "NORMAL_T": ("0.3f", "0.25"),
    "NORMAL_MID": ("0.6875f", "0.6875"),
    "NO_SQUARE": ("0x1p-30f", "0x1p-60"),
    "LOG_DUST": ("(-51.0f)", "(-668.0)"),
    "GELU_BENDS": ("10.0f", "37.0"),
    "MISH_BENDS": ("20.0f", "40.0"),
    "LEAKY_SLOPE": ("0.01f", "0.01"),
    "SELU_SCALE": (
        "1.0507009873554804934193349852946f",
        "1.0507009873554804934193349852946",
    ),
    "SELU_BELOW": (
        "1.7580993408473768599402175208123f",
        "1.7580993408473768599402175208123",
    ),
    "SQRT_HALF": ("0x1.6a09e6p-1f", "0x1.6a09e667f3bcdp-1"),
    "REAL_MAX": ("0x1.fffffep127f", "0x1.fffffffffffffp1023"),
    "REAL_MIN_NORMAL": ("0x1p-126f", "0x1p-1022"),
}

# Polynomials of src_c/vmath.h, likewise.
TABLES = {
    "EXP_Q": (
        "0x1p-1f 0x1.555554p-3f 0x1.5554bp-5f 0x1.11118ap-7f 0x1.6d723ep-10f "
        "0x1.a032c6p-13f",
        "0x1p-1 0x1.5555555555559p-3 0x1.555555555553ep-5 0x1.111111110f6c5p-7 "
        "0x1.6c16c16c1f0e5p-10 0x1.a01a01afdd8cdp-13 0x1.a01a017bb0462p-16 "
        "0x1.71ddf863bc6e1p-19 0x1.27e53643b6d75p-22 0x1.af5ea84c51e61p-26 "
        "0x1.1ee887d98ea2ep-29",
    ),
    "LOG_Q": (
        "0x1.555558p-1f 0x1.9996bp-2f 0x1.2508bap-2f 0x1.b6e5dcp-3f 0x1.f17718p-3f",
        "0x1.5555555555535p-1 0x1.99999999a06dcp-2 0x1.249249209030bp-2 "
        "0x1.c71c741a7a3c6p-3 0x1.745cb44903233p-3 0x1.3b1dd51f0bb15p-3 "
        "0x1.10681b26125c6p-3 0x1.efd2cf5fd5f32p-4 0x1.55c9ada1f5068p-4 "
        "0x1.5c618995f7355p-3",
    ),
    "NORMAL_Q": (
        "0x1.3079cap-2f 0x1.ee3cecp-2f 0x1.e2f7cep-2f 0x1.b57f0ep-3f -0x1.b6dd1p-5f "
        "-0x1.7728e6p-4f 0x1.3e6dc8p-5f",
        "0x1.0c7bb5e05a983p-2 0x1.fb00a80e974a5p-2 0x1.4d21135e27f58p-1 "
        "0x1.21d22dc6d9d41p-1 0x1.087d2096c83b8p-2 -0x1.1201896aff322p-5 "
        "-0x1.9ec8d6ad9d141p-4 -0x1.1f68145fc1613p-7 0x1.540463590a4d8p-5 "
        "0x1.9dd1d2dec8d74p-9 -0x1.48f3f68c3c26ap-6 0x1.3d91e1403732p-9 "
        "0x1.4031f8cd8393ap-7 -0x1.3d49f22e2574ep-8 -0x1.44d1baeca3071p-9 "
        "0x1.3fcbd4b7bf283p-9",
    ),
}

# How a * b + c is rounded once, for float and for double; both begin the page.
FMA = (
    """\
#if !NAME_HAS_FMA
/* s, rounded to odd: where it lost something, to the neighbour whose last bit is 1. */
static double NAME_to_odd(double s, double lost) {
    const uint64_t some = (uint64_t)((lost > 0) | (lost < 0));
    const uint64_t down = (uint64_t)((lost > 0) ^ (s > 0));
    uint64_t i;
    memcpy(&i, &s, sizeof i);
    i += (some & ~i) * (1 - 2 * down);
    memcpy(&s, &i, sizeof s);
    return s;
}
#endif
/* a b + c, rounded once. */
static float NAME_fma(float a, float b, float c) {
#if NAME_HAS_FMA
    return fmaf(a, b, c);
#else
    /* No instruction for it, and not every C library is exact. The product is exact in
     * double. To round twice is wrong only in the middle of two floats, or where they
     * are subnormal; there the sum is rounded to odd first. */
    const double p = (double)a * (double)b, d = (double)c, s = p + d;
    uint64_t i;
    memcpy(&i, &s, sizeof i);
    if ((i & 0x1fffffff) == 0x10000000 || (i >> 52 & 0x7ff) < 1023 - 126) {
        const double t = s - p;
        return (float)NAME_to_odd(s, (p - (s - t)) + (d - t));
    }
    return (float)s;
#endif
}
""",
    """\
#if !NAME_HAS_FMA && (defined __NEWLIB__ || defined __MINGW32__)
/* s, rounded to odd: where it lost something, to the neighbour whose last bit is 1. */
static double NAME_to_odd(double s, double lost) {
    const uint64_t some = (uint64_t)((lost > 0) | (lost < 0));
    const uint64_t down = (uint64_t)((lost > 0) ^ (s > 0));
    uint64_t i;
    memcpy(&i, &s, sizeof i);
    i += (some & ~i) * (1 - 2 * down);
    memcpy(&s, &i, sizeof s);
    return s;
}
/* Sum of a and b, and what its rounding lost. */
static double NAME_sum(double a, double b, double *lost) {
    const double s = a + b, t = s - a;
    *lost = (a - (s - t)) + (b - t);
    return s;
}
/* Halves of a with few bits each, whose products are exact. */
static double NAME_half(double a) {
    const double t = a * 134217729.0;
    return t - (t - a);
}
#endif
/* a b + c, rounded once. */
static double NAME_fma(double a, double b, double c) {
#if NAME_HAS_FMA || !(defined __NEWLIB__ || defined __MINGW32__)
    return fma(a, b, c);
#else
    /* These C libraries round twice. Boldo and Melquiond, "Emulation of a FMA and
     * correctly rounded sums", 2008: exact, but for products beyond 1e-290 .. 1e290. */
    const double p = a * b, a1 = NAME_half(a), a2 = a - a1;
    const double b1 = NAME_half(b), b2 = b - b1;
    const double low = a2 * b2 - (((p - a1 * b1) - a2 * b1) - a1 * b2);
    double lost_1, lost_2, lost_3, t, v, w;
    t = NAME_sum(c, low, &lost_1);
    v = NAME_sum(p, t, &lost_2);
    w = NAME_sum(lost_1, lost_2, &lost_3);
    v += NAME_to_odd(w, lost_3);
    return p != 0 && v - v == 0 ? v : p + c;
#endif
}
""",
)

# Each with its text and what it calls; every one stands behind those that it calls.
FUNCTIONS = {
    "of_bits": (
        """\
static real_t NAME_of_bits(bits_t i) {
    real_t x;
    memcpy(&x, &i, sizeof x);
    return x;
}
""",
        "",
    ),
    "to_bits": (
        """\
static bits_t NAME_to_bits(real_t x) {
    bits_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}
""",
        "",
    ),
    "polynomial": (
        """\
/* sum_i c[i] x^i, i < n, given z = x^2. */
static real_t NAME_polynomial(real_t x, real_t z, const real_t *c, int n) {
    real_t a = c[n - 1], b = c[n - 2];
    int i;
    for (i = n - 3; i >= 0; i--) {
        const real_t next = NAME_fma(a, z, c[i]);
        a = b;
        b = next;
    }
    return NAME_fma(a, x, b);
}
""",
        "",
    ),
    "reduce": (
        """\
/* e^x = 2^n e^r: returns x - n LN2_HI; the low bits of *k hold n. */
static real_t NAME_reduce(real_t x, real_t *n, bits_t *k) {
    const real_t shifted = NAME_fma(x, LOG2_E, ROUND_TO_INT);
    *k = NAME_to_bits(shifted);
    *n = shifted - ROUND_TO_INT;
    return NAME_fma(-*n, LN2_HI, x);
}
""",
        "to_bits",
    ),
    "mantissa": (
        """\
/* e^r, which is e^x 2^-n. */
static real_t NAME_mantissa(real_t x, bits_t *k) {
    real_t n, r = NAME_reduce(x, &n, k), z;
    r = NAME_fma(-n, LN2_LO, r);
    z = r * r;
    return R(1) + NAME_fma(z, NAME_polynomial(r, z, EXP_Q, EXP_Q_LENGTH), r);
}
""",
        "reduce polynomial EXP_Q",
    ),
    "exp": (
        """\
/* e^x. */
static real_t NAME_exp(real_t x) {
    bits_t k, half, rest;
    real_t p;
    x = EXP_OVERFLOWS < x ? EXP_OVERFLOWS : x;
    x = EXP_UNDERFLOWS > x ? EXP_UNDERFLOWS : x;
    p = NAME_mantissa(x, &k);
    half = k >> 1;
    rest = k - half;
    half = (half << MANTISSA_BITS) + ((bits_t)EXPONENT_BIAS << MANTISSA_BITS);
    rest = (rest << MANTISSA_BITS) + ((bits_t)EXPONENT_BIAS << MANTISSA_BITS);
    return p * NAME_of_bits(half) * NAME_of_bits(rest);
}
""",
        "mantissa of_bits",
    ),
    "exp_nonpos": (
        """\
/* e^x for x <= 0. */
static real_t NAME_exp_nonpos(real_t x) {
    bits_t k;
    real_t p;
    x = EXP_UNDERFLOWS > x ? EXP_UNDERFLOWS : x;
    p = NAME_mantissa(x, &k);
    k = (k << MANTISSA_BITS) + ((bits_t)(EXPONENT_BIAS + 64) << MANTISSA_BITS);
    return p * NAME_of_bits(k) * R(0x1p-64);
}
""",
        "mantissa of_bits",
    ),
    "divide_by_sum": (
        """\
/* a / (b + c), b >= c >= 0, rounded once. */
static real_t NAME_divide_by_sum(real_t a, real_t b, real_t c) {
    const real_t sum = b + c, lost = c - (sum - b), y = R(1) / sum;
    const real_t error = NAME_fma(-lost, y, NAME_fma(-sum, y, R(1)));
    const real_t z = c >= NO_SQUARE ? y * error : R(0);
    return NAME_fma(a, y, a * z);
}
""",
        "",
    ),
    "parts": (
        """\
/* e^x = s (1 + u): returns u. */
static real_t NAME_parts(real_t x, real_t *s) {
    bits_t k;
    real_t n;
    const real_t r = NAME_reduce(x, &n, &k), z = r * r, low = n * -LN2_LO;
    k = (k << MANTISSA_BITS) + ((bits_t)EXPONENT_BIAS << MANTISSA_BITS);
    *s = NAME_of_bits(k);
    return r + NAME_fma(z, NAME_polynomial(r, z, EXP_Q, EXP_Q_LENGTH), low);
}
""",
        "reduce of_bits polynomial EXP_Q",
    ),
    "expm1_nonpos": (
        """\
/* e^x - 1 for x <= 0. */
static real_t NAME_expm1_nonpos(real_t x) {
    real_t s, u;
    u = NAME_parts(EXP_IS_NOTHING > x ? EXP_IS_NOTHING : x, &s);
    return NAME_fma(s, u, s - R(1));
}
""",
        "parts",
    ),
    "log1p_reduced": (
        """\
/* log(1 + f) for -0.3 <= f <= 1. */
static real_t NAME_log1p_reduced(real_t f) {
    const real_t s = f / (R(2) + f), z = s * s;
    const real_t r = z * NAME_polynomial(z, z * z, LOG_Q, LOG_Q_LENGTH);
    return NAME_fma(-s, f - r, f);
}
""",
        "polynomial LOG_Q",
    ),
    "log1p_unit": (
        """\
/* log(1 + e) for 0 <= e <= 1. */
static real_t NAME_log1p_unit(real_t e) {
    return e < NO_SQUARE ? e : NAME_log1p_reduced(e);
}
""",
        "log1p_reduced",
    ),
    "log": (
        """\
/* log(x) for x of 1 and more, but infinity. */
static real_t NAME_log(real_t x) {
    const bits_t i = NAME_to_bits(x), one = (bits_t)EXPONENT_BIAS << MANTISSA_BITS;
    const bits_t k = (i + (one - NAME_to_bits(SQRT_HALF))) >> MANTISSA_BITS;
    const real_t m = NAME_of_bits(i - (k << MANTISSA_BITS) + one);
    const real_t n = (real_t)k - (real_t)EXPONENT_BIAS;
    const real_t y = NAME_log1p_reduced(m - R(1));
    return NAME_fma(n, LN2_HI, NAME_fma(n, LN2_LO, y));
}
""",
        "to_bits of_bits log1p_reduced",
    ),
    "normal": (
        """\
/* The normal distribution. */
static real_t NAME_normal(real_t x) {
    const real_t t = R(1) / NAME_fma(x < R(0) ? -x : x, NORMAL_T, R(1));
    const real_t bell = NAME_exp_nonpos(x * x * R(-0.5)), u = t - NORMAL_MID;
    const real_t q = NAME_polynomial(u, u * u, NORMAL_Q, NORMAL_Q_LENGTH);
    const real_t tail = bell * (t * q);
    return x > R(0) ? R(1) - tail : tail;
}
""",
        "exp_nonpos polynomial NORMAL_Q",
    ),
    "gate": (
        """\
/* 1 / (1 + e^-x) by a plain division. */
static real_t NAME_gate(real_t x) {
    const real_t e = NAME_exp_nonpos(x < R(0) ? x : -x);
    return (x >= R(0) ? R(1) : e) / (R(1) + e);
}
""",
        "exp_nonpos",
    ),
    "mish_gate": (
        """\
static real_t NAME_mish_gate(real_t x) {
    const real_t n = NAME_exp(MISH_BENDS < x ? MISH_BENDS : x), w = n * (n + R(2));
    return w * (R(1) / (w + R(2)));
}
""",
        "exp",
    ),
    "bounded": (
        """\
/* z within +-limit. */
static real_t NAME_bounded(real_t z, real_t limit) {
    z = limit < z ? limit : z;
    return -limit > z ? -limit : z;
}
""",
        "",
    ),
    # ---- activations
    "logistic": (
        """\
/* 1 / (1 + e^-x). */
static real_t NAME_logistic(real_t x) {
    const real_t e = NAME_exp_nonpos(x < R(0) ? x : -x);
    return NAME_divide_by_sum(x >= R(0) ? R(1) : e, R(1), e);
}
""",
        "exp_nonpos divide_by_sum",
    ),
    "tanh": (
        """\
static real_t NAME_tanh(real_t x) {
    real_t y = (x < R(0) ? -x : x) * R(-2), s, u;
    u = NAME_parts(R(-2) * TANH_IS_ONE > y ? R(-2) * TANH_IS_ONE : y, &s);
    y = NAME_divide_by_sum(NAME_fma(-s, u, R(1) - s), R(1), NAME_fma(s, u, s));
    return NAME_of_bits(NAME_to_bits(y) | (NAME_to_bits(x) >> SIGN_BIT << SIGN_BIT));
}
""",
        "parts divide_by_sum to_bits of_bits",
    ),
    "relu": (
        """\
static real_t NAME_relu(real_t z) { return R(0) > z ? R(0) : z; }
""",
        "",
    ),
    "leaky_relu": (
        """\
static real_t NAME_leaky_relu(real_t z) { return z > R(0) ? z : LEAKY_SLOPE * z; }
""",
        "",
    ),
    "elu": (
        """\
static real_t NAME_elu(real_t z) { return z > R(0) ? z : NAME_expm1_nonpos(z); }
""",
        "expm1_nonpos",
    ),
    "selu": (
        """\
static real_t NAME_selu(real_t z) {
    return z > R(0) ? SELU_SCALE * z : SELU_BELOW * NAME_expm1_nonpos(z);
}
""",
        "expm1_nonpos",
    ),
    "softplus": (
        """\
/* log(1 + e^z). */
static real_t NAME_softplus(real_t z) {
    const real_t e = NAME_exp_nonpos(z < R(0) ? z : -z);
    return (R(0) > z ? R(0) : z) + NAME_log1p_unit(e);
}
""",
        "exp_nonpos log1p_unit",
    ),
    "gelu": (
        """\
static real_t NAME_gelu(real_t z) {
    return -GELU_BENDS >= z ? R(0) : z * NAME_normal(NAME_bounded(z, GELU_BENDS));
}
""",
        "normal bounded",
    ),
    "silu": (
        """\
static real_t NAME_silu(real_t z) {
    return LOG_DUST >= z ? R(0) : z * NAME_gate(NAME_bounded(z, -LOG_DUST));
}
""",
        "gate bounded",
    ),
    "mish": (
        """\
static real_t NAME_mish(real_t z) {
    return LOG_DUST >= z ? R(0) : z * NAME_mish_gate(NAME_bounded(z, -LOG_DUST));
}
""",
        "mish_gate bounded",
    ),
    # ---- outputs
    "inside": (
        """\
/* A probability p strictly between 0 and 1; log_p takes the place of one that is too
 * small for the type. */
static real_t NAME_inside(real_t p, real_t log_p) {
    if (p < REAL_MIN_NORMAL) {
        p = REAL_MIN_NORMAL * (LOG_OF_MIN_NORMAL / log_p);
        p = p > SMALLEST ? p : SMALLEST;
    }
    return p < ALMOST_ONE ? p : ALMOST_ONE;
}
""",
        "",
    ),
    "log_probability": (
        """\
/* log(logistic(z)). */
static real_t NAME_log_probability(real_t z) {
    const real_t e = NAME_exp_nonpos(z < R(0) ? z : -z);
    return -((-z > R(0) ? -z : R(0)) + NAME_log1p_unit(e));
}
""",
        "exp_nonpos log1p_unit",
    ),
    "probability": (
        """\
/* logistic(z), strictly between 0 and 1. */
static real_t NAME_probability(real_t z) {
    const real_t p = NAME_logistic(z);
    /* Where p is too small for the type its logarithm is z. */
    return NAME_inside(p, z);
}
""",
        "logistic inside",
    ),
    "largest": (
        """\
/* The place of the first largest number. */
static int NAME_largest(const real_t *z, int n) {
    int j, at = 0;
    for (j = 1; j < n; j++)
        if (z[j] > z[at]) at = j;
    return at;
}
""",
        "",
    ),
    "log_sum": (
        """\
/* z less the largest of them; returns log(sum of e^z). */
static real_t NAME_log_sum(real_t *z, int n) {
    const int first = NAME_largest(z, n);
    const real_t max = z[first];
    real_t rest = R(0);
    int j;
    for (j = 0; j < n; j++) {
        z[j] -= max;
        if (j != first) rest += NAME_exp_nonpos(z[j]);
    }
    return rest > R(1) ? NAME_log(R(1) + rest) : NAME_log1p_unit(rest);
}
""",
        "largest exp_nonpos log log1p_unit",
    ),
    "softmax": (
        """\
/* z -> softmax(z), strictly between 0 and 1. */
static void NAME_softmax(real_t *z, int n) {
    const real_t log_sum = NAME_log_sum(z, n);
    real_t sum = R(0), inverse;
    int j;
    for (j = 0; j < n; j++) sum += NAME_exp_nonpos(z[j]);
    inverse = R(1) / sum;
    for (j = 0; j < n; j++)
        z[j] = NAME_inside(NAME_exp_nonpos(z[j]) * inverse, z[j] - log_sum);
}
""",
        "log_sum exp_nonpos inside",
    ),
    "shares": (
        """\
/* z -> logistic outputs divided by their sum, strictly between 0 and 1. */
static void NAME_shares(real_t *z, int n) {
    real_t log_sum;
    int j;
    for (j = 0; j < n; j++) z[j] = NAME_log_probability(z[j]);
    log_sum = NAME_log_sum(z, n);
    for (j = 0; j < n; j++) {
        const real_t log_p = z[j] - log_sum;
        z[j] = NAME_inside(NAME_exp_nonpos(log_p), log_p);
    }
}
""",
        "log_probability log_sum exp_nonpos inside",
    ),
    "sort": (
        """\
/* Ascending. */
static void NAME_sort(real_t *z, int n) {
    int i, j;
    for (i = 1; i < n; i++) {
        const real_t x = z[i];
        for (j = i; j > 0 && z[j - 1] > x; j--) z[j] = z[j - 1];
        z[j] = x;
    }
}
""",
        "",
    ),
    "layer": (
        """\
/* z = x W + b: one chain for each output, the inputs ascending, from the bias. */
static void NAME_layer(const real_t *x, int n_in, const real_t *W, const real_t *b,
                       int n_out, real_t *restrict z) {
    int j, k;
    for (j = 0; j < n_out; j++) z[j] = b[j];
    for (k = 0; k < n_in; k++, W += n_out)
        for (j = 0; j < n_out; j++) z[j] = NAME_fma(x[k], W[j], z[j]);
}
""",
        "",
    ),
}
