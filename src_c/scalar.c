/* scalar.c - stamps the kernels for portable C: one lane, fma() from
 * libm. The oracle of the others.
 * Nothing of its own: see kernels.h (the kernels) and vec.h (the vocabulary). */

#define CBP_TIER_SCALAR
#define CBP_TIER_NAME "scalar"

#define CBP_DOUBLE 0
#include "kernels.h"
#undef CBP_DOUBLE
#define CBP_DOUBLE 1
#include "kernels.h"

const cbp_kernels *const cbp_scalar[2] = {&table_f32, &table_f64};
