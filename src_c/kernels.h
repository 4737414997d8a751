/* kernels.h - TEMPLATE: every kernel, written once in `real` and `vec` (vec.h), in the
 * files that are included below, which are read from top to bottom.
 *
 * Included once per CPU tier and dtype by the thin <tier>.c files; ends with the table
 * of that stamping. The order of operations of every sum is fixed here and is the same
 * on every tier: forward and delta products are one fma chain per output, k ascending,
 * from the bias (delta: from 0); sums over rows follow cbp.h. Not here: which rows, how
 * many threads, when to stop (cbp/_network.pyx). Formulas: docs/backpropagation.md. */
#include <math.h>
#include <string.h>

#include "cbp.h"

#undef FN
#if CBP_DOUBLE
#define FN(name) name##_f64
#else
#define FN(name) name##_f32
#endif

#include "vec.h"
#include "vmath.h"

#undef INLINE
#undef UNROLL
#define INLINE static inline __attribute__((always_inline))
#if defined CBP_TIER_SCALAR && (defined __x86_64__ || defined __aarch64__)
#define UNROLL _Pragma("GCC unroll 1") /* half a megabyte that nobody waits for */
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* Optimizer state and output errors of at most DUST are rounding dust; flushed so that
 * subnormals, a hundred times slower on many CPUs, do not arise: not in a step, and not
 * where errors meet the weights of a dead unit, which the penalty lowers until the
 * gradient it makes of them is dust (floats: to some 1e-17). */
#undef DUST
#undef LOG_DUST
#undef SQUARE_FLOOR
#undef LOG_MAX
#undef GELU_BENDS
#undef MISH_BENDS
#if CBP_DOUBLE
#define LOG_MAX 709.78 /* e to this power is finite */
#define DUST 1e-290
#define LOG_DUST (-668.0)
#define SQUARE_FLOOR 1e-270
#define GELU_BENDS 37.0 /* e^(-37^2 / 2) is dust */
#define MISH_BENDS 40.0 /* tanh(log(1 + e^z)) rounds to 1 */
#else
#define LOG_MAX 88.72f
#define DUST 1e-22f
#define LOG_DUST (-51.0f)
#define SQUARE_FLOOR 1e-33f
#define GELU_BENDS 10.0f
#define MISH_BENDS 20.0f
#endif

INLINE vec FN(flush_dust)(vec x) {
    /* Asked this way round, NaN is no dust. */
    return vec_select(vec_ge(vec_set1(DUST), vec_abs(x)), vec_zero(), x);
}

#include "data.h"
#include "activations.h"
#include "dropout.h"
#include "products.h"
#include "sums.h"
#include "losses.h"
#include "optimizers.h"
#include "rows.h"
#include "measures.h"

/* Functions of vmath.h and vec.h by themselves, for their tests. */
INLINE vec FN(normal)(vec x) {
    vec bell;
    return vec_normal(x, &bell);
}
INLINE vec FN(root)(vec x) { return vec_root_plus(x, vec_zero()); }
static void FN(map)(int function, const void *x_, void *y_, ptrdiff_t n) {
    const real *x = x_;
    real *y = y_;
#define CASE(number, f)                                                                \
    case CBP_MAP_##number:                                                             \
        for (ptrdiff_t i = 0; i < n; i += VL) vec_store(y + i, f(vec_load(x + i)));    \
        break;
    switch (function) {
        CASE(EXP, vec_exp)
        CASE(LOG, vec_log)
        CASE(LOG1P, vec_log1p_unit)
        CASE(LOGISTIC, vec_logistic)
        CASE(TANH, vec_tanh)
        CASE(EXPM1, vec_expm1_nonpos)
        CASE(NORMAL, FN(normal))
        CASE(ROOT, FN(root))
    }
#undef CASE
}

#define CBP_STRING_(x) #x
#define CBP_STRING(x) CBP_STRING_(x)
static const cbp_kernels FN(table) = {
    .tier = CBP_TIER_NAME,
    .itemsize = sizeof(real),
    .panel = P,
    .gather_rows = FN(gather_rows),
    .gather_finite = FN(gather_finite),
    .scatter_rows = FN(scatter_rows),
    .fill_targets = FN(fill_targets),
    .transpose_patch = FN(transpose_patch),
    .gather_items = FN(gather_items),
    .item = FN(item),
    .add = FN(add),
    .multiply_forward = FN(multiply_forward),
    .extend_forward = FN(extend_forward),
    .multiply_forward_csr = FN(multiply_forward_csr),
    .multiply_delta = FN(multiply_delta),
    .sum_gradient = FN(sum_gradient),
    .sum_gradient_csr = FN(sum_gradient_csr),
    .sum_columns = FN(sum_columns),
    .transpose_csr = FN(transpose_csr),
    .activate = FN(activate),
    .multiply_derivative = FN(multiply_derivative),
    .keep_slope = FN(keep_slope),
    .drop = FN(drop),
    .drop_items = FN(drop_items),
    .scale = FN(scale),
    .count_dropped = FN(count_dropped),
    .apply_output = FN(apply_output),
    .compute_loss = FN(compute_loss),
    .compute_loss_row = FN(compute_loss_row),
#define STEP(number, name, n_states) [CBP_##number] = FN(step_##name),
    .step = {CBP_OPTIMIZERS(STEP)},
#undef STEP
    .train_rows = FN(train_rows),
    .forward_row = FN(forward_row),
    .all_finite = FN(all_finite),
    .average = FN(average),
    .sum_squares = FN(sum_squares),
    .sum_penalized_squares = FN(sum_penalized_squares),
    .sum_squared_change = FN(sum_squared_change),
    .count_below = FN(count_below),
    .count_saturated = FN(count_saturated),
    .map = FN(map),
};
