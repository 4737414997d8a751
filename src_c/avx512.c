/* avx512.c - stamps the kernels for AVX-512 (F, DQ, BW, VL):
 * 16 floats or 8 doubles, a whole line.
 * Nothing of its own: see kernels.h (the kernels) and vec.h (the vocabulary).
 * With CBP_EMULATE_AVX512, for tests only, AVX2 is enough (avx512_pairs.h). */
#if defined __x86_64__ || defined _M_X64
/* The standard headers come first: nothing of them may be compiled for this target. */
#include <math.h>
#include <string.h>

#include "cbp.h"

#if defined CBP_EMULATE_AVX512 && defined __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined CBP_EMULATE_AVX512
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#elif defined __clang__
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))),            \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif
#include <immintrin.h>
#ifdef CBP_EMULATE_AVX512
#include "avx512_pairs.h"
#endif

#define CBP_TIER_AVX512
#define CBP_TIER_NAME "avx512"

#define CBP_DOUBLE 0
#include "kernels.h"
#undef CBP_DOUBLE
#define CBP_DOUBLE 1
#include "kernels.h"

#if defined __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const cbp_kernels *const cbp_avx512[2] = {&table_f32, &table_f64};
#else
#include "cbp.h"
const cbp_kernels *const cbp_avx512[2] = {NULL, NULL};
#endif
