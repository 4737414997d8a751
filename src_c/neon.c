/* neon.c - stamps the kernels for NEON (aarch64): 4 floats or 2 doubles.
 * Nothing of its own: see kernels.h (the kernels) and vec.h (the vocabulary). */
#if defined __aarch64__ || defined _M_ARM64
#include <arm_neon.h>

#define CBP_TIER_NEON
#define CBP_TIER_NAME "neon"

#define CBP_DOUBLE 0
#include "kernels.h"
#undef CBP_DOUBLE
#define CBP_DOUBLE 1
#include "kernels.h"

const cbp_kernels *const cbp_neon[2] = {&table_f32, &table_f64};
#else
#include "cbp.h"
const cbp_kernels *const cbp_neon[2] = {NULL, NULL};
#endif
