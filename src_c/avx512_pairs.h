/* avx512_pairs.h - the AVX-512 intrinsics that vec.h uses, on pairs of AVX2 registers.
 *
 * For test builds with -DCBP_EMULATE_AVX512, never for users: every CPU with AVX2 then
 * runs the AVX-512 tier, with its tiles, its masks and the text of vec.h. It is slow.
 * Each function pair_op returns the bits that _mm512_op returns. Only pair_rsqrt14 is
 * different: its estimate is as coarse as Intel allows. Two things are not tested: the
 * two macros of vec.h that are assembly, and the question which CPU has AVX-512
 * (dispatch.c). */
#ifndef CBP_AVX512_PAIRS_H
#define CBP_AVX512_PAIRS_H
#include <immintrin.h>
#include <stdint.h>

#define CBP_PAIRS
#define PAIR_INLINE static inline __attribute__((always_inline, unused))

typedef struct {
    __m256 lo, hi;
} pair_ps;
typedef struct {
    __m256d lo, hi;
} pair_pd;
typedef struct {
    __m256i lo, hi;
} pair_si512;

/* pair_op(a ...) = (op(a.lo ...), op(a.hi ...)), for floats (ps) and doubles (pd). */
#define PAIR_EACH(type, op, half, from, ...)                                           \
    PAIR_INLINE type pair_##op(__VA_ARGS__) {                                          \
        type r = {half(from(lo)), half(from(hi))};                                     \
        return r;                                                                      \
    }
#define PAIR_A(part) a.part
#define PAIR_AB(part) a.part, b.part
#define PAIR_ABC(part) a.part, b.part, c.part
#define PAIR_AN(part) a.part, n
#define PAIR_1(T, S, op) PAIR_EACH(T, op##S, _mm256_##op##S, PAIR_A, T a)
#define PAIR_2(T, S, op) PAIR_EACH(T, op##S, _mm256_##op##S, PAIR_AB, T a, T b)
#define PAIR_3(T, S, op) PAIR_EACH(T, op##S, _mm256_##op##S, PAIR_ABC, T a, T b, T c)
#define PAIR_SHIFT(S, op)                                                              \
    PAIR_EACH(pair_si512, op##S, _mm256_##op##S, PAIR_AN, pair_si512 a, int n)
#define PAIR_FLOATING(T, S)                                                            \
    PAIR_2(T, S, add)                                                                  \
    PAIR_2(T, S, sub)                                                                  \
    PAIR_2(T, S, mul)                                                                  \
    PAIR_2(T, S, div)                                                                  \
    PAIR_2(T, S, max)                                                                  \
    PAIR_2(T, S, min)                                                                  \
    PAIR_2(T, S, unpacklo)                                                             \
    PAIR_2(T, S, unpackhi)                                                             \
    PAIR_1(T, S, sqrt)                                                                 \
    PAIR_3(T, S, fmadd)                                                                \
    PAIR_3(T, S, fnmadd)
#define PAIR_INTEGER(S)                                                                \
    PAIR_2(pair_si512, S, add)                                                         \
    PAIR_2(pair_si512, S, sub)                                                         \
    PAIR_SHIFT(S, slli)                                                                \
    PAIR_SHIFT(S, srli)
#define PAIR_BITS(op)                                                                  \
    PAIR_EACH(pair_si512, op##_si512, _mm256_##op##_si256, PAIR_AB, pair_si512 a,      \
              pair_si512 b)
#define PAIR_CAST(from, to, name, half) PAIR_EACH(to, name, half, PAIR_A, from a)
#define PAIR_SET1(T, name, half, item)                                                 \
    PAIR_INLINE T pair_##name(item x) {                                                \
        const T r = {half(x), half(x)};                                                \
        return r;                                                                      \
    }

PAIR_FLOATING(pair_ps, _ps)
PAIR_FLOATING(pair_pd, _pd)
PAIR_INTEGER(_epi32)
PAIR_INTEGER(_epi64)
PAIR_2(pair_si512, _epu32, mul)
PAIR_BITS(and)
PAIR_BITS(or)
PAIR_BITS(xor)
PAIR_BITS(andnot)
PAIR_CAST(pair_ps, pair_si512, castps_si512, _mm256_castps_si256)
PAIR_CAST(pair_pd, pair_si512, castpd_si512, _mm256_castpd_si256)
PAIR_CAST(pair_si512, pair_ps, castsi512_ps, _mm256_castsi256_ps)
PAIR_CAST(pair_si512, pair_pd, castsi512_pd, _mm256_castsi256_pd)
PAIR_CAST(pair_si512, pair_ps, cvtepi32_ps, _mm256_cvtepi32_ps)
PAIR_SET1(pair_ps, set1_ps, _mm256_set1_ps, float)
PAIR_SET1(pair_pd, set1_pd, _mm256_set1_pd, double)
PAIR_SET1(pair_si512, set1_epi32, _mm256_set1_epi32, int32_t)
PAIR_SET1(pair_si512, set1_epi64, _mm256_set1_epi64x, int64_t)

PAIR_INLINE pair_ps pair_setzero_ps(void) { return pair_set1_ps(0); }
PAIR_INLINE pair_pd pair_setzero_pd(void) { return pair_set1_pd(0); }

PAIR_INLINE pair_ps pair_loadu_ps(const float *p) {
    const pair_ps r = {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
    return r;
}

PAIR_INLINE pair_si512 pair_loadu_si512(const void *p) {
    const __m256i *halves = p;
    const pair_si512 r = {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
    return r;
}

PAIR_INLINE void pair_storeu_si512(void *p, pair_si512 a) {
    __m256i *halves = p;
    _mm256_storeu_si256(halves, a.lo);
    _mm256_storeu_si256(halves + 1, a.hi);
}

PAIR_INLINE pair_pd pair_loadu_pd(const double *p) {
    const pair_pd r = {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)};
    return r;
}

PAIR_INLINE void pair_storeu_ps(float *p, pair_ps a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

PAIR_INLINE void pair_storeu_pd(double *p, pair_pd a) {
    _mm256_storeu_pd(p, a.lo);
    _mm256_storeu_pd(p + 4, a.hi);
}

/* Bit i of a mask is the sign of lane i; macros, as `how` must be a literal. */
#define pair_cmp_ps_mask(a, b, how)                                                    \
    pair_signs_ps(_mm256_cmp_ps((a).lo, (b).lo, how),                                  \
                  _mm256_cmp_ps((a).hi, (b).hi, how))
#define pair_cmp_pd_mask(a, b, how)                                                    \
    pair_signs_pd(_mm256_cmp_pd((a).lo, (b).lo, how),                                  \
                  _mm256_cmp_pd((a).hi, (b).hi, how))

PAIR_INLINE __mmask16 pair_signs_ps(__m256 lo, __m256 hi) {
    return (__mmask16)(_mm256_movemask_ps(lo) | _mm256_movemask_ps(hi) << 8);
}

PAIR_INLINE __mmask8 pair_signs_pd(__m256d lo, __m256d hi) {
    return (__mmask8)(_mm256_movemask_pd(lo) | _mm256_movemask_pd(hi) << 4);
}

/* Lane i all ones where bit i of m is set. */
PAIR_INLINE __m256 pair_lanes_ps(int m) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(m), bits);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits));
}

PAIR_INLINE __m256d pair_lanes_pd(int m) {
    const __m256i bits = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi64x(m), bits);
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(set, bits));
}

/* Lane i of b where bit i of m is set, else of a. */
PAIR_INLINE pair_ps pair_mask_blend_ps(__mmask16 m, pair_ps a, pair_ps b) {
    const pair_ps r = {_mm256_blendv_ps(a.lo, b.lo, pair_lanes_ps(m)),
                       _mm256_blendv_ps(a.hi, b.hi, pair_lanes_ps(m >> 8))};
    return r;
}

PAIR_INLINE pair_pd pair_mask_blend_pd(__mmask8 m, pair_pd a, pair_pd b) {
    const pair_pd r = {_mm256_blendv_pd(a.lo, b.lo, pair_lanes_pd(m)),
                       _mm256_blendv_pd(a.hi, b.hi, pair_lanes_pd(m >> 4))};
    return r;
}

PAIR_INLINE pair_ps pair_maskz_mov_ps(__mmask16 m, pair_ps a) {
    return pair_mask_blend_ps(m, pair_setzero_ps(), a);
}

PAIR_INLINE pair_pd pair_maskz_mov_pd(__mmask8 m, pair_pd a) {
    return pair_mask_blend_pd(m, pair_setzero_pd(), a);
}

/* 1 / sqrt(a), a > 0 and normal, with 14 bits behind the point and the rest cut off: an
 * error of up to 2^-14, the largest that the instruction may have. */
PAIR_INLINE pair_ps pair_rsqrt14_ps(pair_ps a) {
    const pair_ps r = pair_div_ps(pair_set1_ps(1), pair_sqrt_ps(a));
    const pair_si512 kept = pair_set1_epi32(~0x1ff);
    return pair_castsi512_ps(pair_and_si512(kept, pair_castps_si512(r)));
}

PAIR_INLINE pair_pd pair_rsqrt14_pd(pair_pd a) {
    const pair_pd r = pair_div_pd(pair_set1_pd(1), pair_sqrt_pd(a));
    const pair_si512 kept = pair_set1_epi64(~0x3fffffffffLL);
    return pair_castsi512_pd(pair_and_si512(kept, pair_castpd_si512(r)));
}

/* Inside 128-bit lanes; a macro, as `how` must be a literal. */
#define pair_shuffle_ps(a, b, how)                                                     \
    ((pair_ps){_mm256_shuffle_ps((a).lo, (b).lo, how),                                 \
               _mm256_shuffle_ps((a).hi, (b).hi, how)})

/* 128-bit lane i, 0 to 3. */
PAIR_INLINE __m128 pair_lane_ps(pair_ps a, int i) {
    const __m256 half = i & 2 ? a.hi : a.lo;
    return i & 1 ? _mm256_extractf128_ps(half, 1) : _mm256_castps256_ps128(half);
}

PAIR_INLINE __m256 pair_two_lanes_ps(pair_ps a, int i, int j) {
    const __m256 low = _mm256_castps128_ps256(pair_lane_ps(a, i));
    return _mm256_insertf128_ps(low, pair_lane_ps(a, j), 1);
}

/* Two 128-bit lanes of a, then two of b, two bits of `how` for each. */
PAIR_INLINE pair_ps pair_shuffle_f32x4(pair_ps a, pair_ps b, int how) {
    const pair_ps r = {pair_two_lanes_ps(a, how & 3, how >> 2 & 3),
                       pair_two_lanes_ps(b, how >> 4 & 3, how >> 6 & 3)};
    return r;
}

PAIR_INLINE pair_pd pair_shuffle_f64x2(pair_pd a, pair_pd b, int how) {
    const pair_ps x = pair_castsi512_ps(pair_castpd_si512(a));
    const pair_ps y = pair_castsi512_ps(pair_castpd_si512(b));
    return pair_castsi512_pd(pair_castps_si512(pair_shuffle_f32x4(x, y, how)));
}

PAIR_INLINE __m256 pair_castps512_ps256(pair_ps a) { return a.lo; }
PAIR_INLINE __m256d pair_castpd512_pd256(pair_pd a) { return a.lo; }
PAIR_INLINE __m256 pair_extractf32x8_ps(pair_ps a, int i) { return i ? a.hi : a.lo; }
PAIR_INLINE __m256d pair_extractf64x4_pd(pair_pd a, int i) { return i ? a.hi : a.lo; }

#endif
