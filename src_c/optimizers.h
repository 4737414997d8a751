/* optimizers.h - TEMPLATE: one step of SGD with momentum or of Adam on W, given the sum
 * of the gradient over the rows of a batch. */

/* The constants of one step as vectors. */
typedef struct {
    vec alpha, keep, rate, beta_1, beta_2, gain_1, root_2, epsilon;
    int nesterov, decays;
} FN(step_vecs);

/* What a step multiplies by: the scale of the gradient is in Adam's gains already. */
INLINE vec FN(step_rate)(const cbp_step *s, double eta, int solver) {
    return vec_set1((real)(solver == CBP_ADAM ? eta : eta * s->scale));
}

/* What a step leaves of W before it moves it. */
INLINE vec FN(step_keep)(double decay) { return vec_set1((real)(1 - decay)); }

INLINE FN(step_vecs) FN(step_constants)(const cbp_step *s, int solver) {
    FN(step_vecs) k;
    k.alpha = vec_set1((real)s->alpha);
    k.keep = FN(step_keep)(s->decay);
    k.decays = s->decay != 0;
    k.rate = FN(step_rate)(s, s->eta, solver);
    k.beta_1 = vec_set1((real)s->beta_1);
    k.beta_2 = vec_set1((real)s->beta_2);
    k.gain_1 = vec_set1((real)((1 - s->beta_1) * s->scale));
    /* Its square is the gain, but leaves the range of float for small scales. */
    k.root_2 = vec_set1((real)(sqrt(1 - s->beta_2) * s->scale));
    k.epsilon = vec_set1((real)s->epsilon);
    k.nesterov = s->nesterov;
    return k;
}

/* Kingma and Ba, Adam, algorithm 1, in scikit-learn's form:
 * w = keep w - eta m / (sqrt v + eps), the bias corrections folded into eta. keep: 1,
 * or less by Loshchilov and Hutter's decay, which is no part of the gradient. g:
 * gradient sum of VL weights, before scale. */
INLINE vec FN(adam_vec)(vec w, vec g, real *m_, real *v_, const FN(step_vecs) * k) {
    g = vec_fma(k->alpha, w, g);
    const vec m =
        FN(flush_dust)(vec_fma(k->beta_1, vec_load(m_), vec_mul(k->gain_1, g)));
    const vec t = vec_mul(k->root_2, g);
    const vec v =
        vec_fma(k->beta_2, vec_load(v_), vec_fma(t, t, vec_set1(SQUARE_FLOOR)));
    vec_store(m_, m);
    vec_store(v_, v);
    /* A branch, for it is never mispredicted; one more product costs 1 % of a step. */
    if (k->decays) w = vec_mul(k->keep, w);
    return vec_fnma(k->rate, vec_div(m, vec_root_plus(v, k->epsilon)), w);
}

/* (6.1), (6.2) with momentum: u = momentum u - eta g, w = keep w + u; Nesterov looks
 * one momentum step ahead. */
INLINE vec FN(sgd_vec)(vec w, vec g, real *u_, real *unused, const FN(step_vecs) * k) {
    (void)unused;
    g = vec_fma(k->alpha, w, g);
    vec u = FN(flush_dust)(vec_fnma(k->rate, g, vec_mul(k->beta_1, vec_load(u_))));
    vec_store(u_, u);
    if (k->nesterov) u = vec_fnma(k->rate, g, vec_mul(k->beta_1, u));
    return vec_fma(k->keep, w, u);
}

/* A step of VL weights with the first and the last of the optimizer's state vectors;
 * the caller knows the optimizer when this is compiled. */
INLINE vec FN(step_vec)(vec w, vec g, real *first, real *last, const FN(step_vecs) * k,
                        int solver) {
#define CASE(number, name, n_states)                                                   \
    case CBP_##number: return FN(name##_vec)(w, g, first, last, k);
    switch (solver) { CBP_OPTIMIZERS(CASE) }
#undef CASE
    __builtin_unreachable();
}

/* What a sum of W^2 begins with: the squares of weights that a penalty has all but
 * removed would be subnormal if added to 0. */
INLINE vec FN(no_squares)(void) { return vec_set1(REAL_MIN_NORMAL); }

/* A step over n_lines lines of gradients G; returns the sum of W^2 before. */
INLINE double FN(step_lines)(real *w, const real *g, real *m, real *m2,
                             ptrdiff_t n_lines, const cbp_step *s, int solver) {
    const FN(step_vecs) k = FN(step_constants)(s, solver);
    vec squares[VPP];
    UNROLL for (int v = 0; v < VPP; v++) squares[v] = FN(no_squares)();
    for (ptrdiff_t i = 0; i < n_lines; i++)
        UNROLL for (int v = 0; v < VPP; v++) {
            const ptrdiff_t at = i * P + v * VL;
            const vec x = vec_load(w + at);
            squares[v] = vec_fma(x, x, squares[v]);
            vec_store(w + at,
                      FN(step_vec)(x, vec_load(g + at), m + at, m2 + at, &k, solver));
        }
    return (double)line_sum(squares);
}

#define DEFINE_STEP(number, name, n_states)                                            \
    static double FN(step_##name)(void *W, const void *G, void *const *state,          \
                                  ptrdiff_t n, const cbp_step *s) {                    \
        return FN(step_lines)(W, G, state[0], state[(n_states) - 1], n / P, s,         \
                              CBP_##number);                                           \
    }
CBP_OPTIMIZERS(DEFINE_STEP)
#undef DEFINE_STEP

/* The exponential mean of weights over steps: mean += share (w - mean). */
static void FN(average)(void *mean_, const void *x_, ptrdiff_t n, double share) {
    real *mean = mean_;
    const real *x = x_;
    const vec part = vec_set1((real)share);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const vec old = vec_load(mean + i);
        vec_store(mean + i, vec_fma(part, vec_sub(vec_load(x + i), old), old));
    }
}
