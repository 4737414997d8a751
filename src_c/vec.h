/* vec.h: TEMPLATE, the small vector vocabulary of kernels.h and vmath.h.
 *
 * It has no include guard: a tier file defines one of CBP_TIER_SCALAR, CBP_TIER_AVX2,
 * CBP_TIER_AVX512 (needs avx512f only) or CBP_TIER_NEON (aarch64), then for each dtype
 * sets CBP_DOUBLE to 0 or 1 and includes the templates, all under its target pragma.
 * Each name below means float things while CBP_DOUBLE is 0 and double things while it
 * is 1: TYPED(name) appends _f32 or _f64. `mask`, `vec`, `real`, `P` ... are macros, so
 * system headers come before this file, and no variable may carry these names.
 *
 * Every operation is exact IEEE arithmetic or a move of bits (vec_root_plus comes to
 * the rounded root from an estimate) and gives the same bits on every tier (a NaN may
 * differ in its payload). There is no mathematics here: vmath.h.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(CBP_TIER_AVX2) || defined(CBP_TIER_AVX512)
#include <immintrin.h>
#elif defined(CBP_TIER_NEON)
#include <arm_neon.h>
#elif !defined(CBP_TIER_SCALAR)
#error "vec.h: define one of CBP_TIER_SCALAR, _AVX2, _AVX512, _NEON"
#endif

#undef TYPED
#undef CBP_S
#undef P
#undef REAL_MAX
#undef REAL_MIN_NORMAL
#if CBP_DOUBLE
#define TYPED(name) name##_f64
#define CBP_S(f32, f64) f64
#define P 8
#define REAL_MIN_NORMAL 0x1p-1022
#define REAL_MAX 0x1.fffffffffffffp1023
#else
#define TYPED(name) name##_f32
#define CBP_S(f32, f64) f32 /* the constant or name that belongs to this dtype */
#define P 16                /* columns of a panel: one 64-byte line, on every tier */
#define REAL_MIN_NORMAL 0x1p-126f
#define REAL_MAX 0x1.fffffep127f
#endif

#define CBP_INLINE static inline __attribute__((always_inline, unused))

/* The types, and the functions of more than one instruction, get a name per dtype. */
#define real TYPED(real)
#define integer TYPED(integer)
#define vec TYPED(vec)
#define ivec TYPED(ivec)
#define mask TYPED(mask)
#define real_bits TYPED(real_bits)
#define bits_real TYPED(bits_real)
#define vec_with_sign TYPED(vec_with_sign)
#define ivec_to_vec TYPED(ivec_to_vec)
#define wide TYPED(wide)
#define vec_transpose TYPED(vec_transpose)
#define line_sum TYPED(line_sum)
#define vec_root_plus TYPED(vec_root_plus)

typedef CBP_S(float, double) real;
typedef CBP_S(int32_t, int64_t) integer; /* as wide as real */
#undef real_fma
#define real_fma CBP_S(fmaf, fma) /* one instruction where the tier has it */

CBP_INLINE integer real_bits(real x) {
    integer i;
    memcpy(&i, &x, sizeof i);
    return i;
}

CBP_INLINE real bits_real(integer i) {
    real x;
    memcpy(&x, &i, sizeof x);
    return x;
}

/* Every name of the vocabulary, so that the next stamping starts afresh:
 *   VL, VPP                   lanes of a vec; vecs of a line
 *   vec_load(p) vec_store(p, v) vec_set1(x) vec_broadcast(p) vec_zero()
 *                             p may have the alignment of a real only
 *   vec_add sub mul div sqrt  one IEEE operation
 *   vec_root_plus(v, c)       vec_add(vec_sqrt(v), c) by another way where that is
 *                             faster
 *   vec_fma(a, b, c)          a b + c in one rounding;  vec_fnma(a, b, c)  c - a b
 *   vec_fma_acc(c, a, b)      statement: c += a b, one fma, c kept in its register
 *   vec_fma_bcast(c, p, b)    statement: c += *p b
 *   real_fma(a, b, c)         vec_fma of single reals
 *   vec_max(a, b)             a > b ? a : b exactly, and vec_min(a, b) a < b ? a : b:
 *                             b when they are equal and when one is NaN
 *   vec_gt ge lt eq           -> mask; false when an operand is NaN
 *   vec_select(m, a, b)       m ? a : b;  vec_keep(m, a)  m ? a : +0
 *   vec_abs(v) vec_neg(v)     the sign bit cleared, flipped
 *   vec_with_sign(a, s)       a >= +0 with the sign bit of s
 *   vec_as_int int_as_vec     the same bits as ivec, as vec
 *   ivec_add sub set1         wrap round; ivec_shl(v, n), ivec_shr(v, n): zeros enter,
 *                             n a constant
 *   wide, WL                  64-bit lanes, unsigned, and how many: wide_load(p)
 *                             wide_store(p, v) wide_set1(x) wide_xor(a, b)
 *                             wide_shr32(v); wide_mul32(a, b), the product of their
 *                             low 32 bits; wide_join(a, b), these side by side
 *   ivec_to_vec(v)            exact for |v| <= 2^24 (float), 2^31 (double)
 *   vec_transpose(r)          in place, r[VL]
 *   line_sum(line)            sum of the reals of line[VPP] in one fixed order */
#undef VL
#undef VPP
#undef vec_load
#undef vec_store
#undef vec_set1
#undef vec_broadcast
#undef vec_zero
#undef vec_add
#undef vec_sub
#undef vec_mul
#undef vec_div
#undef vec_sqrt
#undef vec_fma
#undef vec_fnma
#undef vec_fma_acc
#undef vec_fma_bcast
#undef vec_max
#undef vec_min
#undef vec_gt
#undef vec_ge
#undef vec_lt
#undef vec_eq
#undef vec_select
#undef vec_keep
#undef vec_abs
#undef vec_neg
#undef vec_as_int
#undef int_as_vec
#undef ivec_add
#undef ivec_sub
#undef ivec_set1
#undef ivec_shl
#undef ivec_shr
#undef WL
#undef wide_load
#undef wide_store
#undef wide_set1
#undef wide_xor
#undef wide_shr32
#undef wide_mul32
#undef wide_join

/* ---- scalar: the oracle ---- */
#if defined(CBP_TIER_SCALAR)

typedef real vec;
typedef integer ivec;
typedef int mask;

#define VL 1
#define vec_load(p) (*(const real *)(p))
#define vec_store(p, v) ((void)(*(p) = (v)))
#define vec_set1(x) ((real)(x))
#define vec_broadcast(p) (*(const real *)(p))
#define vec_zero() ((real)0)
#define vec_add(a, b) ((a) + (b))
#define vec_sub(a, b) ((a) - (b))
#define vec_mul(a, b) ((a) * (b))
#define vec_div(a, b) ((a) / (b))
#define vec_sqrt(a) CBP_S(sqrtf, sqrt)(a)
#define vec_fma(a, b, c) CBP_S(fmaf, fma)(a, b, c)
#define vec_fnma(a, b, c) CBP_S(fmaf, fma)(-(a), b, c)
#define vec_fma_acc(c, a, b) ((void)((c) = vec_fma(a, b, c)))
#define vec_fma_bcast(c, p, b) ((void)((c) = vec_fma(*(p), b, c)))
#define vec_max TYPED(vec_max)
#define vec_min TYPED(vec_min)
CBP_INLINE vec vec_max(vec a, vec b) { return a > b ? a : b; }
CBP_INLINE vec vec_min(vec a, vec b) { return a < b ? a : b; }
#define vec_gt(a, b) ((a) > (b))
#define vec_ge(a, b) ((a) >= (b))
#define vec_lt(a, b) ((a) < (b))
#define vec_eq(a, b) ((a) == (b))
#define vec_select(m, a, b) ((m) ? (a) : (b))
#define vec_keep(m, a) ((m) ? (a) : (real)0)
#define vec_abs(v) CBP_S(fabsf, fabs)(v)
#define vec_neg(v) (-(v))
#define vec_as_int(v) real_bits(v)
#define int_as_vec(i) bits_real(i)
#define CBP_U(i) ((CBP_S(uint32_t, uint64_t))(i)) /* unsigned, so that it may wrap */
#define ivec_add(a, b) ((integer)(CBP_U(a) + CBP_U(b)))
#define ivec_sub(a, b) ((integer)(CBP_U(a) - CBP_U(b)))
#define ivec_set1(i) ((integer)(i))
#define ivec_shl(v, n) ((integer)(CBP_U(v) << (n)))
#define ivec_shr(v, n) ((integer)(CBP_U(v) >> (n)))
CBP_INLINE vec ivec_to_vec(ivec v) { return (real)v; }

typedef uint64_t wide;
#define WL 1
#define wide_load(p) (*(p))
#define wide_store(p, v) ((void)(*(p) = (v)))
#define wide_set1(x) ((uint64_t)(x))
#define wide_xor(a, b) ((a) ^ (b))
#define wide_shr32(v) ((v) >> 32)
#define wide_mul32(a, b) ((uint64_t)(uint32_t)(a) * (uint32_t)(b))
#define wide_join(a, b) ((uint64_t)(uint32_t)(a) | (uint64_t)(b) << 32)

CBP_INLINE vec vec_with_sign(vec a, vec s) { return CBP_S(copysignf, copysign)(a, s); }

CBP_INLINE void vec_transpose(vec r[VL]) { (void)r; }

/* ---- AVX2 with FMA, and AVX-512F: the same names on 32 and 64 bytes ---- */
#elif defined(CBP_TIER_AVX2) || defined(CBP_TIER_AVX512)

/* MM(op) is the intrinsic of this width and dtype, MMI(op) the one for its integers,
 * MMS(op) one on whole registers of bits. */
#undef MM
#undef MMI
#undef MMS
#undef CBP_SUFFIX
#if defined(CBP_TIER_AVX2)
#define VL CBP_S(8, 4)
#define MM(op) CBP_S(_mm256_##op##_ps, _mm256_##op##_pd)
#define MMI(op) CBP_S(_mm256_##op##_epi32, _mm256_##op##_epi64)
#define MMS(op) _mm256_##op##_si256
#define CBP_ASM_REG "x"
typedef CBP_S(__m256, __m256d) vec;
typedef __m256i ivec;
typedef vec mask; /* all ones or all zeros in each lane */
#else
#define VL CBP_S(16, 8)
#define MM(op) CBP_S(ZMM(op##_ps), ZMM(op##_pd))
#define MMI(op) CBP_S(ZMM(op##_epi32), ZMM(op##_epi64))
#define MMS(op) ZMM(op##_si512)
#define CBP_ASM_REG "v"
#ifdef CBP_PAIRS /* avx512_pairs.h, a test build */
#define ZMM(op) pair_##op
typedef CBP_S(pair_ps, pair_pd) vec;
typedef pair_si512 ivec;
#else
#define ZMM(op) _mm512_##op
typedef CBP_S(__m512, __m512d) vec;
typedef __m512i ivec;
#endif
typedef CBP_S(__mmask16, __mmask8) mask; /* one bit for each lane */
#endif
#define CBP_SUFFIX CBP_S("ps", "pd")

#define vec_load(p) MM(loadu)(p)
#define vec_store(p, v) MM(storeu)(p, v)
#define vec_set1(x) MM(set1)(x)
#define vec_broadcast(p) MM(set1)(*(p))
#define vec_zero() MM(setzero)()
#define vec_add(a, b) MM(add)(a, b)
#define vec_sub(a, b) MM(sub)(a, b)
#define vec_mul(a, b) MM(mul)(a, b)
#define vec_div(a, b) MM(div)(a, b)
#define vec_sqrt(a) MM(sqrt)(a)
#define vec_fma(a, b, c) MM(fmadd)(a, b, c)
#define vec_fnma(a, b, c) MM(fnmadd)(a, b, c)
#define vec_max(a, b) MM(max)(a, b)
#define vec_min(a, b) MM(min)(a, b)

/* Assembly, because gcc 12 spills the accumulators of a tile made of intrinsics. */
#ifdef CBP_PAIRS /* no one instruction */
#define vec_fma_acc(c, a, b) ((void)((c) = vec_fma(a, b, c)))
#else
#define vec_fma_acc(c, a, b)                                                           \
    __asm__("vfmadd231" CBP_SUFFIX " %2, %1, %0"                                       \
            : "+" CBP_ASM_REG(c)                                                       \
            : CBP_ASM_REG(a), CBP_ASM_REG(b))
#endif

#define vec_as_int(v) CBP_CAST_INT(v)
#define int_as_vec(i) CBP_CAST_VEC(i)
#define ivec_add(a, b) MMI(add)(a, b)
#define ivec_sub(a, b) MMI(sub)(a, b)
#define ivec_shl(v, n) MMI(slli)(v, n)
#define ivec_shr(v, n) MMI(srli)(v, n)

#if defined(CBP_TIER_AVX2)

#define CBP_CAST_INT(v) CBP_S(_mm256_castps_si256, _mm256_castpd_si256)(v)
#define CBP_CAST_VEC(i) CBP_S(_mm256_castsi256_ps, _mm256_castsi256_pd)(i)
#define vec_fma_bcast(c, p, b)                                                         \
    do {                                                                               \
        vec bcast_ = vec_broadcast(p);                                                 \
        vec_fma_acc(c, bcast_, b);                                                     \
    } while (0)
#define vec_gt(a, b) MM(cmp)(a, b, _CMP_GT_OQ)
#define vec_ge(a, b) MM(cmp)(a, b, _CMP_GE_OQ)
#define vec_lt(a, b) MM(cmp)(a, b, _CMP_LT_OQ)
#define vec_eq(a, b) MM(cmp)(a, b, _CMP_EQ_OQ)
#define vec_select(m, a, b) MM(blendv)(b, a, m)
#define vec_keep(m, a) MM(and)(m, a)
#define vec_abs(v) MM(andnot)(vec_set1((real) - 0.0), v)
#define vec_neg(v) MM(xor)(vec_set1((real) - 0.0), v)
#define ivec_set1(i) CBP_S(_mm256_set1_epi32, _mm256_set1_epi64x)(i)

typedef __m256i wide;
#define WL 4
#define wide_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define wide_store(p, v) _mm256_storeu_si256((__m256i *)(p), v)
#define wide_set1(x) _mm256_set1_epi64x((int64_t)(x))
#define wide_xor(a, b) _mm256_xor_si256(a, b)
#define wide_shr32(v) _mm256_srli_epi64(v, 32)
#define wide_mul32(a, b) _mm256_mul_epu32(a, b)
#define wide_join(a, b) _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xAA)

CBP_INLINE vec vec_with_sign(vec a, vec s) {
    return MM(or)(a, MM(and)(vec_set1((real)-0.0), s));
}

CBP_INLINE vec ivec_to_vec(ivec v) {
#if CBP_DOUBLE /* v in the low mantissa bits of 1.5 * 2^52 */
    ivec sum = _mm256_add_epi64(v, _mm256_set1_epi64x(0x4338000000000000));
    return _mm256_sub_pd(_mm256_castsi256_pd(sum), _mm256_set1_pd(0x1.8p52));
#else
    return _mm256_cvtepi32_ps(v);
#endif
}

CBP_INLINE void vec_transpose(vec r[VL]) {
#if CBP_DOUBLE /* pairs inside 128-bit lanes, then the lanes */
    __m256d a0 = _mm256_unpacklo_pd(r[0], r[1]), a1 = _mm256_unpackhi_pd(r[0], r[1]);
    __m256d a2 = _mm256_unpacklo_pd(r[2], r[3]), a3 = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a0, a2, 0x20);
    r[1] = _mm256_permute2f128_pd(a1, a3, 0x20);
    r[2] = _mm256_permute2f128_pd(a0, a2, 0x31);
    r[3] = _mm256_permute2f128_pd(a1, a3, 0x31);
#else          /* 2 x 2 and 4 x 4 blocks inside 128-bit lanes, then the lanes */
    __m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]);
    __m256 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]);
    __m256 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]);
    __m256 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
    __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee);
    __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee);
    __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee);
    __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
    r[0] = _mm256_permute2f128_ps(b0, b4, 0x20);
    r[1] = _mm256_permute2f128_ps(b1, b5, 0x20);
    r[2] = _mm256_permute2f128_ps(b2, b6, 0x20);
    r[3] = _mm256_permute2f128_ps(b3, b7, 0x20);
    r[4] = _mm256_permute2f128_ps(b0, b4, 0x31);
    r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
    r[6] = _mm256_permute2f128_ps(b2, b6, 0x31);
    r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
#endif
}

#else /* CBP_TIER_AVX512 */

#define CBP_CAST_INT(v) CBP_S(ZMM(castps_si512), ZMM(castpd_si512))(v)
#define CBP_CAST_VEC(i) CBP_S(ZMM(castsi512_ps), ZMM(castsi512_pd))(i)
#define CBP_EMBEDDED CBP_S("%{1to16%}", "%{1to8%}")
#ifdef CBP_PAIRS
#define vec_fma_bcast(c, p, b) vec_fma_acc(c, vec_broadcast(p), b)
#else
#define vec_fma_bcast(c, p, b)                                                         \
    __asm__("vfmadd231" CBP_SUFFIX " %2" CBP_EMBEDDED ", %1, %0"                       \
            : "+v"(c)                                                                  \
            : "v"(b), "m"(*(const real *)(p)))
#endif
#define vec_gt(a, b) MM_CMP(a, b, _CMP_GT_OQ)
#define vec_ge(a, b) MM_CMP(a, b, _CMP_GE_OQ)
#define vec_lt(a, b) MM_CMP(a, b, _CMP_LT_OQ)
#define vec_eq(a, b) MM_CMP(a, b, _CMP_EQ_OQ)
#define MM_CMP(a, b, how) CBP_S(ZMM(cmp_ps_mask), ZMM(cmp_pd_mask))(a, b, how)
#define vec_select(m, a, b) MM(mask_blend)(m, b, a)
#define vec_keep(m, a) MM(maskz_mov)(m, a)
/* Bitwise operations on floating vectors need avx512dq; those on integers do not. */
#define CBP_SIGN_BITS vec_as_int(vec_set1((real) - 0.0))
#define vec_abs(v) int_as_vec(MMS(andnot)(CBP_SIGN_BITS, vec_as_int(v)))
#define vec_neg(v) int_as_vec(MMS(xor)(CBP_SIGN_BITS, vec_as_int(v)))
#define ivec_set1(i) MMI(set1)(i)

typedef ivec wide;
#define WL 8
#define wide_load(p) ZMM(loadu_si512)(p)
#define wide_store(p, v) ZMM(storeu_si512)(p, v)
#define wide_set1(x) ZMM(set1_epi64)((int64_t)(x))
#define wide_xor(a, b) ZMM(xor_si512)(a, b)
#define wide_shr32(v) ZMM(srli_epi64)(v, 32)
#define wide_mul32(a, b) ZMM(mul_epu32)(a, b)
#define wide_join(a, b)                                                                \
    ZMM(or_si512)(ZMM(and_si512)(a, wide_set1(0xFFFFFFFF)), ZMM(slli_epi64)(b, 32))

CBP_INLINE vec vec_with_sign(vec a, vec s) {
    return int_as_vec(MMS(or)(vec_as_int(a), MMS(and)(CBP_SIGN_BITS, vec_as_int(s))));
}

CBP_INLINE vec ivec_to_vec(ivec v) {
#if CBP_DOUBLE /* as above: the conversion needs avx512dq */
    ivec sum = ZMM(add_epi64)(v, ZMM(set1_epi64)(0x4338000000000000));
    return ZMM(sub_pd)(ZMM(castsi512_pd)(sum), ZMM(set1_pd)(0x1.8p52));
#else
    return ZMM(cvtepi32_ps)(v);
#endif
}

/* For a step of Adam the divider owes a root and a quotient: 24 and 16 cycles for 8
 * doubles, 20 and 16 for 16 floats. These FMAs take the root from it and run beside.
 * g = sqrt(x) and h = 1 / (2 sqrt x) by Goldschmidt's iteration from an estimate of 14
 * bits; the last line corrects g, then off by a unit at most, by the exact remainder
 * x - g g, which rounds as prescribed (Markstein, IBM J. Res. Dev. 34, 1990;
 * tests/test_math.py looks at every x for which that is not plain, dispatch.c at those
 * for which it hangs on the estimate). Floats are scaled up, so that the remainder is
 * not subnormal, and down again, exactly, in the sum. Outside the range, and for
 * infinity and NaN, the divider is asked. */
CBP_INLINE vec vec_root_plus(vec x, vec c) {
    const vec half = vec_set1((real)0.5);
    const mask safe = vec_ge(x, vec_set1(CBP_S(0x1p-119f, 0x1p-916))) &
                      vec_lt(x, vec_set1(CBP_S(0x1p80f, INFINITY)));
    if (__builtin_expect(safe != (mask)-1, 0)) return vec_add(vec_sqrt(x), c);
    x = vec_mul(x, vec_set1(CBP_S(0x1p40f, 1)));
    vec h = CBP_S(ZMM(rsqrt14_ps), ZMM(rsqrt14_pd))(x);
    vec g = vec_mul(x, h);
    h = vec_mul(h, half);
    for (int i = 0; i < CBP_S(1, 2); i++) {
        const vec r = vec_fnma(g, h, half);
        g = vec_fma(g, r, g);
        h = vec_fma(h, r, h);
    }
    g = vec_fma(vec_fnma(g, g, x), h, g);
#if CBP_DOUBLE
    return vec_add(g, c);
#else
    return vec_fma(g, vec_set1(0x1p-20f), c);
#endif
}

/* 2 x 2 or 4 x 4 blocks inside 128-bit lanes, then the 4 x 4 matrix of lanes. */
CBP_INLINE void vec_transpose(vec r[VL]) {
    vec a[VL];
#if CBP_DOUBLE
    for (int i = 0; i < 8; i += 2) {
        a[i] = ZMM(unpacklo_pd)(r[i], r[i + 1]);
        a[i + 1] = ZMM(unpackhi_pd)(r[i], r[i + 1]);
    }
#define CBP_LANES(x, y, how) ZMM(shuffle_f64x2)(x, y, how)
#define CBP_STEP 2
#else
    for (int i = 0; i < 16; i += 4) {
        const vec b0 = ZMM(unpacklo_ps)(r[i], r[i + 1]);
        const vec b1 = ZMM(unpackhi_ps)(r[i], r[i + 1]);
        const vec b2 = ZMM(unpacklo_ps)(r[i + 2], r[i + 3]);
        const vec b3 = ZMM(unpackhi_ps)(r[i + 2], r[i + 3]);
        a[i] = ZMM(shuffle_ps)(b0, b2, 0x44);
        a[i + 1] = ZMM(shuffle_ps)(b0, b2, 0xee);
        a[i + 2] = ZMM(shuffle_ps)(b1, b3, 0x44);
        a[i + 3] = ZMM(shuffle_ps)(b1, b3, 0xee);
    }
#define CBP_LANES(x, y, how) ZMM(shuffle_f32x4)(x, y, how)
#define CBP_STEP 4
#endif
    for (int i = 0; i < CBP_STEP; i++) {
        vec c0 = CBP_LANES(a[i], a[i + CBP_STEP], 0x88);
        vec c1 = CBP_LANES(a[i], a[i + CBP_STEP], 0xdd);
        vec c2 = CBP_LANES(a[i + 2 * CBP_STEP], a[i + 3 * CBP_STEP], 0x88);
        vec c3 = CBP_LANES(a[i + 2 * CBP_STEP], a[i + 3 * CBP_STEP], 0xdd);
        r[i] = CBP_LANES(c0, c2, 0x88);
        r[i + CBP_STEP] = CBP_LANES(c1, c3, 0x88);
        r[i + 2 * CBP_STEP] = CBP_LANES(c0, c2, 0xdd);
        r[i + 3 * CBP_STEP] = CBP_LANES(c1, c3, 0xdd);
    }
#undef CBP_LANES
#undef CBP_STEP
}
#endif

/* ---- NEON (aarch64) ---- */
#elif defined(CBP_TIER_NEON)

/* NE(op) is the intrinsic on reals, NS and NU those on signed and unsigned integers. */
#undef NE
#undef NS
#undef NU
#define NE(op) CBP_S(op##q_f32, op##q_f64)
#define NS(op) CBP_S(op##q_s32, op##q_s64)
#define NU(op) CBP_S(op##q_u32, op##q_u64)
#define CBP_U_FROM_F(v) CBP_S(vreinterpretq_u32_f32, vreinterpretq_u64_f64)(v)
#define CBP_F_FROM_U(v) CBP_S(vreinterpretq_f32_u32, vreinterpretq_f64_u64)(v)
#define CBP_U_FROM_S(v) CBP_S(vreinterpretq_u32_s32, vreinterpretq_u64_s64)(v)
#define CBP_S_FROM_U(v) CBP_S(vreinterpretq_s32_u32, vreinterpretq_s64_u64)(v)

typedef CBP_S(float32x4_t, float64x2_t) vec;
typedef CBP_S(int32x4_t, int64x2_t) ivec;
typedef CBP_S(uint32x4_t, uint64x2_t) mask; /* all ones or all zeros in each lane */

#define VL CBP_S(4, 2)
#define vec_load(p) NE(vld1)(p)
#define vec_store(p, v) NE(vst1)(p, v)
#define vec_set1(x) CBP_S(vdupq_n_f32, vdupq_n_f64)(x)
#define vec_broadcast(p) CBP_S(vld1q_dup_f32, vld1q_dup_f64)(p)
#define vec_zero() vec_set1(0)
#define vec_add(a, b) NE(vadd)(a, b)
#define vec_sub(a, b) NE(vsub)(a, b)
#define vec_mul(a, b) NE(vmul)(a, b)
#define vec_div(a, b) NE(vdiv)(a, b)
#define vec_sqrt(a) NE(vsqrt)(a)
#define vec_fma(a, b, c) NE(vfma)(c, a, b)
#define vec_fnma(a, b, c) NE(vfms)(c, a, b)
#define vec_fma_acc(c, a, b) ((void)((c) = NE(vfma)(c, a, b)))
#define vec_fma_bcast(c, p, b) ((void)((c) = NE(vfma)(c, vec_broadcast(p), b)))
/* fmax and fmin treat NaN and zeros in another way than "a > b ? a : b". */
#define vec_max TYPED(vec_max)
#define vec_min TYPED(vec_min)
CBP_INLINE vec vec_max(vec a, vec b) { return NE(vbsl)(NE(vcgt)(a, b), a, b); }
CBP_INLINE vec vec_min(vec a, vec b) { return NE(vbsl)(NE(vclt)(a, b), a, b); }
#define vec_gt(a, b) NE(vcgt)(a, b)
#define vec_ge(a, b) NE(vcge)(a, b)
#define vec_lt(a, b) NE(vclt)(a, b)
#define vec_eq(a, b) NE(vceq)(a, b)
#define vec_select(m, a, b) NE(vbsl)(m, a, b)
#define vec_keep(m, a) CBP_F_FROM_U(NU(vand)(m, CBP_U_FROM_F(a)))
#define vec_abs(v) NE(vabs)(v)
#define vec_neg(v) NE(vneg)(v)
#define vec_as_int(v) CBP_S(vreinterpretq_s32_f32, vreinterpretq_s64_f64)(v)
#define int_as_vec(i) CBP_S(vreinterpretq_f32_s32, vreinterpretq_f64_s64)(i)
#define ivec_add(a, b) NS(vadd)(a, b)
#define ivec_sub(a, b) NS(vsub)(a, b)
#define ivec_set1(i) CBP_S(vdupq_n_s32, vdupq_n_s64)(i)
#define ivec_shl(v, n) CBP_S(vshlq_n_s32, vshlq_n_s64)(v, n)
#define ivec_shr(v, n) CBP_S_FROM_U(CBP_S(vshrq_n_u32, vshrq_n_u64)(CBP_U_FROM_S(v), n))
CBP_INLINE vec ivec_to_vec(ivec v) { return CBP_S(vcvtq_f32_s32, vcvtq_f64_s64)(v); }

typedef uint64x2_t wide;
#define WL 2
#define wide_load(p) vld1q_u64(p)
#define wide_store(p, v) vst1q_u64(p, v)
#define wide_set1(x) vdupq_n_u64(x)
#define wide_xor(a, b) veorq_u64(a, b)
#define wide_shr32(v) vshrq_n_u64(v, 32)
#define wide_mul32(a, b) vmull_u32(vmovn_u64(a), vmovn_u64(b))
#define wide_join(a, b) vsliq_n_u64(a, b, 32)

CBP_INLINE vec vec_with_sign(vec a, vec s) {
    return NE(vbsl)(CBP_U_FROM_F(vec_set1((real)-0.0)), s, a);
}

CBP_INLINE void vec_transpose(vec r[VL]) {
#if CBP_DOUBLE
    float64x2_t a = vzip1q_f64(r[0], r[1]);
    r[1] = vzip2q_f64(r[0], r[1]);
    r[0] = a;
#else
    float32x4_t a0 = vzip1q_f32(r[0], r[2]), a1 = vzip2q_f32(r[0], r[2]);
    float32x4_t b0 = vzip1q_f32(r[1], r[3]), b1 = vzip2q_f32(r[1], r[3]);
    r[0] = vzip1q_f32(a0, b0);
    r[1] = vzip2q_f32(a0, b0);
    r[2] = vzip1q_f32(a1, b1);
    r[3] = vzip2q_f32(a1, b1);
#endif
}
#endif

#define VPP (P / VL)

#if !defined(CBP_TIER_AVX512)
CBP_INLINE vec vec_root_plus(vec x, vec c) { return vec_add(vec_sqrt(x), c); }
#endif

/* Sum of the P reals of a line: halves are added, lane i to lane i + P/2, until one is
 * left; the same bits on every tier. */
CBP_INLINE real line_sum(const vec line[VPP]) {
#if defined(CBP_TIER_AVX2) || defined(CBP_TIER_AVX512)
#if defined(CBP_TIER_AVX2)
    const CBP_S(__m256, __m256d) s = vec_add(line[0], line[1]);
#elif CBP_DOUBLE
    const __m256d s =
        _mm256_add_pd(ZMM(castpd512_pd256)(line[0]), ZMM(extractf64x4_pd)(line[0], 1));
#else
    const __m256 s =
        _mm256_add_ps(ZMM(castps512_ps256)(line[0]), ZMM(extractf32x8_ps)(line[0], 1));
#endif
#if CBP_DOUBLE
    const __m128d t =
        _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(t, _mm_unpackhi_pd(t, t)));
#else
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
#endif
#else
    real s[P];
    for (int v = 0; v < VPP; v++) vec_store(s + v * VL, line[v]);
    for (int half = P / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
#endif
}
