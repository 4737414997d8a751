/* cbp.h - the C contract: what the kernels are called, what they take, what they give.
 *
 * One table of kernel pointers exists per CPU tier and dtype (cbp_kernels); every table
 * computes the same bits, in the order of operations that kernels.h and the files it
 * includes write down once.
 * C never allocates and never fails: callers own every buffer, and no kernel writes
 * outside the rows and columns it is given. Buffers are void * because one table serves
 * one dtype; `real` below is float or double.
 *
 * Panels. A matrix (rows x cols) in flight lives as [panel of P columns][row][P], with
 * P = 64 / sizeof(real), so that a row of a panel is one 64-byte line, the same on
 * every tier. Element (r, c) is data[(c / P) * stride + r * P + c % P]. Columns that
 * pad the last panel hold zeros. The mathematics stands in docs/backpropagation.md.
 *
 * Words, each for one thing:
 *   panel   P columns of a matrix, the unit of memory
 *   line    one row of a panel: 64 bytes
 *   patch   P lines of a panel of weights: P x P weights, the unit of a step
 *   group   up to CBP_GROUP_PANELS patches side by side, summed together
 *   block   CBP_BLOCK_ROWS rows of a batch: one chain of every sum over rows
 *   piece   the rows of a batch that are propagated and summed before the next ones
 *   chunk   CBP_CHUNK_ROWS rows of a batch: its blocks are joined by a binary tree
 *   item    one number
 *   stretch the rows that one thread takes through all layers at once
 *   master  the copy of the weights that the step changes: W or its transpose
 *   mirror  the other copy, made true after each step
 *   dust    numbers so small that a step is 0 whether they are kept or not: flushed
 *   tier    the code for one kind of CPU */
#ifndef CBP_H
#define CBP_H

#include <stddef.h>
#include <stdint.h>

/* Rows per chain and per chunk of every sum over rows (dW, db, weights): one chain per
 * block, blocks joined by a binary tree within a chunk, chunk sums added ascending. */
enum { CBP_BLOCK_ROWS = 128, CBP_CHUNK_ROWS = 2048 };

/* Panels of dW to ask sum_gradient for at once: what the widest tile takes. */
enum { CBP_GROUP_PANELS = 3 };

/* Activations, outputs, losses and optimizers, each a list of rows X(number, name ...).
 * The lists make the numbers, the names that Python knows and every choice of a kernel:
 * a row without its formula does not compile. How to add one: CONTRIBUTING.md. */

/* Hidden activations a = f(z), each with the greatest |f'|: activations.h. The slope
 * f'(z) of the first ones is a function of a; that of the others is kept beside a. */
#define CBP_ACTIVATIONS_BY_A(X)                                                        \
    X(IDENTITY, identity, 1)                                                           \
    X(LOGISTIC, logistic, 0.25)                                                        \
    X(TANH, tanh, 1)                                                                   \
    X(RELU, relu, 1)                                                                   \
    X(LEAKY_RELU, leaky_relu, 1)                                                       \
    X(ELU, elu, 1)                                                                     \
    X(SELU, selu, 1.758)
#define CBP_ACTIVATIONS_BY_Z(X)                                                        \
    X(SOFTPLUS, softplus, 1)                                                           \
    X(GELU, gelu, 1.129)                                                               \
    X(SILU, silu, 1.1)                                                                 \
    X(MISH, mish, 1.089)
#define CBP_ACTIVATIONS(X) CBP_ACTIVATIONS_BY_A(X) CBP_ACTIVATIONS_BY_Z(X)

/* What an output layer does to z: losses.h. */
#define CBP_ELEMENTWISE_OUTPUTS(X)                                                     \
    X(IDENTITY, identity)                                                              \
    X(LOGISTIC, logistic)                                                              \
    X(EXP, exp)
#define CBP_OUTPUTS(X) CBP_ELEMENTWISE_OUTPUTS(X) X(SOFTMAX, softmax)

/* Losses, each with the output it belongs to: losses.h. Those of softmax take labels
 * and have all outputs in common; the others are a sum of one term per output. */
#define CBP_SOFTMAX_LOSSES(X)                                                          \
    X(SOFTMAX_LOG_LOSS, softmax, log_loss)                                             \
    X(SOFTMAX_FOCAL_LOG_LOSS, softmax, focal_log_loss)
#define CBP_SUMMED_LOSSES(X)                                                           \
    X(LOGISTIC_LOG_LOSS, logistic, log_loss)                                           \
    X(LOGISTIC_FOCAL_LOG_LOSS, logistic, focal_log_loss)                               \
    X(LOGISTIC_SQUARED_ERROR, logistic, squared_error)                                 \
    X(IDENTITY_SQUARED_ERROR, identity, squared_error)                                 \
    X(IDENTITY_ABSOLUTE_ERROR, identity, absolute_error)                               \
    X(IDENTITY_HUBER, identity, huber)                                                 \
    X(IDENTITY_QUANTILE, identity, quantile)                                           \
    X(EXP_POISSON, exp, poisson)                                                       \
    X(EXP_GAMMA, exp, gamma)                                                           \
    X(EXP_TWEEDIE, exp, tweedie)
#define CBP_LOSSES(X) CBP_SOFTMAX_LOSSES(X) CBP_SUMMED_LOSSES(X)

/* Optimizers, each with its count of state vectors: optimizers.h. */
#define CBP_OPTIMIZERS(X)                                                              \
    X(SGD, sgd, 1)                                                                     \
    X(ADAM, adam, 2)

#define CBP_NUMBER(number, ...) CBP_##number,
#define CBP_OUT_NUMBER(number, ...) CBP_OUT_##number,
enum { CBP_ACTIVATIONS(CBP_NUMBER) CBP_N_ACTIVATIONS };
/* Numbers below this are of those by a. */
#define CBP_ONE(...) +1
enum { CBP_N_BY_A = 0 CBP_ACTIVATIONS_BY_A(CBP_ONE) };
#undef CBP_ONE
/* In the place of an activation: f'(z) itself is given, not a. */
enum { CBP_KEPT = CBP_N_ACTIVATIONS };
enum { CBP_OUTPUTS(CBP_OUT_NUMBER) CBP_N_OUTPUTS };
enum { CBP_LOSSES(CBP_NUMBER) CBP_N_LOSSES };
enum { CBP_OPTIMIZERS(CBP_NUMBER) CBP_N_OPTIMIZERS };
/* The kinds below this number are those of softmax. */
#define CBP_ONE(...) +1
enum { CBP_N_SOFTMAX_LOSSES = CBP_SOFTMAX_LOSSES(CBP_ONE) };
#undef CBP_ONE
#undef CBP_NUMBER
#undef CBP_OUT_NUMBER
enum { CBP_MAX_STATES = 2 };
/* Parameters that a loss may have. */
enum { CBP_MAX_PARAMETERS = 2 };
#define CBP_CHECK(number, name, n_states)                                              \
    _Static_assert((n_states) >= 1 && (n_states) <= CBP_MAX_STATES, #name);
CBP_OPTIMIZERS(CBP_CHECK)
#undef CBP_CHECK

typedef struct {
    void *data;
    ptrdiff_t stride; /* items from one panel to the next */
} cbp_panels;

/* A CSR matrix: row r holds data[indptr[r] .. indptr[r + 1]) at those indices, which
 * ascend. */
typedef struct {
    const void *data;
    const int32_t *indices;
    const int64_t *indptr;
} cbp_csr;

/* The CSR rows of one batch, turned into columns: column k holds entries
 * start[k] .. start[k + 1), rows ascending. */
typedef struct {
    int64_t *start; /* n_cols + 1 */
    int32_t *row;
    void *value;
} cbp_columns;

/* One optimizer step. The gradient is (G + alpha W) * scale, with G the sum over rows
 * and scale = 1 / sum of sample weights. */
typedef struct {
    double eta;    /* learning rate of this step */
    double scale;  /* 1 / sum of sample weights */
    double alpha;  /* L2 penalty; 0 for biases */
    double decay;  /* the share of W that a step removes besides; 0 for biases */
    double beta_1; /* adam: decay of m; sgd: momentum */
    double beta_2; /* adam: decay of v */
    double epsilon;
    int nesterov;
} cbp_step;

/* What is dropped of a layer's units: those whose 16 random bits are below `below`. */
typedef struct {
    uint64_t seed;
    uint32_t layer; /* 0: the inputs */
    uint32_t below; /* 0: nothing is dropped */
    double scale;   /* of those that stay: 65536 / (65536 - below) */
} cbp_drop;

/* One layer: how its weights lie, and the buffers of one batch. The master copy of the
 * weights, which the step changes, is W or its transpose, whichever wastes fewer
 * columns on padding; the mirror is the other one. */
typedef struct {
    ptrdiff_t n_in, n_out;
    int activation;         /* the output layer keeps z: identity */
    int transposed;         /* the master copy is WT */
    int mirrored;           /* the mirror exists */
    ptrdiff_t n_lines;      /* lines of a master panel: n_in, transposed: n_out */
    ptrdiff_t line_patches; /* patches in a master panel */
    ptrdiff_t n_panels;     /* master panels */
    ptrdiff_t n_patches;    /* of the master copy: line_patches * n_panels */
    ptrdiff_t W_at, b_at;   /* place in the master layout, in items */
    cbp_panels W;           /* (n_in, n_out) */
    cbp_panels WT;          /* (n_out, n_in) */
    void *b;                /* n_out, padded */
    cbp_panels A;           /* (batch, n_out) z, then a; output layer: z, then delta */
    cbp_panels S;           /* (batch, n_out) what says f'(z): A, or f'(z) itself */
    int slope;              /* how: the activation, or CBP_KEPT */
    double flat;            /* below this a slope that is kept counts as saturated */
    cbp_drop drop;          /* of a */
    cbp_panels D;           /* (batch, n_out) delta */
} cbp_layer;

/* Outputs that belong to one column of labels each: group g has the outputs start[g] ..
 * start[g + 1] - 1, and a row has n labels, each counted from 0 in its group. NULL
 * where a pointer is asked for: all outputs are one group. */
typedef struct {
    ptrdiff_t n;
    const ptrdiff_t *start; /* n + 1 */
} cbp_groups;

/* A loss and its parameters, each a real for every output, padded as a row of targets
 * is. Those that the loss does not have are never read. */
typedef struct {
    int kind;
    const void *parameters[CBP_MAX_PARAMETERS];
    const cbp_groups *groups;
} cbp_loss;

/* Rows to be trained on one after the other, each a batch of its own. */
typedef struct {
    const cbp_layer *layers; /* A and D: contiguous rows; mirrors true */
    int n_layers, solver;
    cbp_loss loss;
    cbp_step step;       /* eta and decay apart */
    const double *eta;   /* of each step made */
    const double *decay; /* likewise, or NULL */
    void *master;        /* W and b of all layers */
    void *state[CBP_MAX_STATES];
    const void *X, *Y;     /* (samples, n_in), (samples, n_out) or NULL */
    const int32_t *labels; /* (samples, groups) or NULL */
    const void *weight;    /* per sample, or NULL; a row of weight 0 makes no step */
    const int64_t *order;  /* n_rows samples */
    ptrdiff_t n_rows;
    cbp_drop drop;         /* of X */
    uint64_t first_step;   /* number of the first row's step */
    cbp_panels T;          /* room for one row of targets */
    void *inputs;          /* room for two padded rows of X, zeros behind n_in */
    void *scratch;         /* as for compute_loss_row */
    double *patch_squares; /* the sum of W^2 of every patch goes here */
    void *mean;            /* of master after every step, or NULL */
    const double *share;   /* of every step in it */
    ptrdiff_t master_items;
    /* What was made: sums over rows (loss with penalty, before each step), the cost of
     * the last row, steps. */
    double loss_sum, weight_sum, last_loss;
    ptrdiff_t steps;
} cbp_online;

/* What map computes: log1p on [0, 1], expm1 up to 0. */
enum {
    CBP_MAP_EXP,
    CBP_MAP_LOG,
    CBP_MAP_LOG1P,
    CBP_MAP_LOGISTIC,
    CBP_MAP_TANH,
    CBP_MAP_EXPM1,
    CBP_MAP_NORMAL,
    CBP_MAP_ROOT,
    CBP_N_MAPS
};

typedef struct {
    const char *tier;
    int itemsize;
    int panel; /* P */

    /* Moving data. order: row numbers of X, or NULL for rows 0, 1, ... in order. */
    void (*gather_rows)(const void *X, ptrdiff_t row_stride, const int64_t *order,
                        ptrdiff_t n_rows, ptrdiff_t n_cols, cbp_panels A);
    int (*gather_finite)(const void *X, ptrdiff_t n_rows, ptrdiff_t n_cols,
                         cbp_panels A); /* 1 if all items are */
    void (*scatter_rows)(cbp_panels A, ptrdiff_t n_rows, ptrdiff_t n_cols, void *X,
                         ptrdiff_t row_stride);
    void (*fill_targets)(const int32_t *labels, ptrdiff_t n_rows, ptrdiff_t n_out,
                         const cbp_groups *groups, cbp_panels T);
    void (*transpose_patch)(const void *patch, void *transposed);
    void (*gather_items)(const void *x, const int64_t *order, ptrdiff_t n, void *out);
    double (*item)(const void *x, ptrdiff_t i);
    void (*add)(void *x, const void *y, ptrdiff_t n); /* n a multiple of P */

    /* The products of backpropagation, on rows r0 .. r1 - 1. */
    void (*multiply_forward)(cbp_panels A, ptrdiff_t n_in, cbp_panels W, const void *b,
                             cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1,
                             int activation);
    void (*extend_forward)(cbp_panels A, ptrdiff_t n_in, cbp_panels W, cbp_panels Z,
                           ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1);
    void (*multiply_forward_csr)(const cbp_csr *X, const int64_t *order, cbp_panels W,
                                 const void *b, cbp_panels Z, ptrdiff_t n_out,
                                 ptrdiff_t r0, ptrdiff_t r1, int activation);
    void (*multiply_delta)(cbp_panels delta, ptrdiff_t n_out, cbp_panels WT,
                           cbp_panels S, cbp_panels delta_prev, ptrdiff_t n_in,
                           ptrdiff_t r0, ptrdiff_t r1, int slope);
    void (*sum_gradient)(const void *A_panel, cbp_panels D, ptrdiff_t n_panels,
                         ptrdiff_t n_rows, ptrdiff_t n_lines, cbp_panels G);
    void (*sum_gradient_csr)(const cbp_columns *X, ptrdiff_t k0, ptrdiff_t n_lines,
                             const void *D_panel, void *G);
    void (*sum_columns)(const void *D_panel, ptrdiff_t n_rows, void *g);
    void (*transpose_csr)(const cbp_csr *X, const int64_t *order, ptrdiff_t n_rows,
                          ptrdiff_t n_cols, const cbp_columns *out);

    /* Elementwise twins of the fused epilogues, on n reals, n a multiple of P. */
    void (*activate)(void *z, ptrdiff_t n, int activation);
    void (*multiply_derivative)(void *delta, const void *s, ptrdiff_t n, int slope);

    /* z -> a = f(z), and f'(z) into S, on rows r0 .. r1 - 1. */
    void (*keep_slope)(cbp_panels Z, cbp_panels S, ptrdiff_t n_out, ptrdiff_t r0,
                       ptrdiff_t r1, int activation);

    /* Dropout: dropout.h. */
    void (*drop)(cbp_panels A, cbp_panels S, ptrdiff_t n_cols, ptrdiff_t unit,
                 ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t row, const cbp_drop *d,
                 uint64_t step);
    void (*drop_items)(void *x, const int32_t *columns, ptrdiff_t n, ptrdiff_t row,
                       const cbp_drop *d, uint64_t step);
    void (*scale)(void *x, ptrdiff_t n, double factor);
    void (*count_dropped)(const void *s, ptrdiff_t n_rows, int32_t *counts);

    /* Output layer, rows r0 .. r1 - 1, r0 a multiple of P.
     * scratch, of compute_loss_row, too: 2 * P * (n_out rounded up to P) reals. */
    void (*apply_output)(cbp_panels Z, ptrdiff_t n_out, ptrdiff_t r0, ptrdiff_t r1,
                         int output, const cbp_groups *groups, void *scratch);
    void (*compute_loss)(cbp_panels Z, cbp_panels T, const int32_t *labels,
                         const void *weight, ptrdiff_t n_out, ptrdiff_t r0,
                         ptrdiff_t r1, const cbp_loss *loss, double *row_loss,
                         void *scratch);
    void (*compute_loss_row)(void *z, const void *targets, const int32_t *labels,
                             const void *weight, ptrdiff_t n_out, const cbp_loss *loss,
                             double *row_loss, void *scratch);

    /* Optimizers on n reals (a multiple of P); both return the sum of W^2 before. */
    double (*step[CBP_N_OPTIMIZERS])(void *W, const void *G, void *const *state,
                                     ptrdiff_t n, const cbp_step *s);

    /* mean += share * (x - mean) on n reals, n a multiple of P. */
    void (*average)(void *mean, const void *x, ptrdiff_t n, double share);

    /* Batches of one row. train_rows ends behind a row whose cost is not finite. */
    void (*train_rows)(cbp_online *rows);
    void (*forward_row)(const void *x, ptrdiff_t n_in, const void *W,
                        ptrdiff_t panel_stride, ptrdiff_t row_stride, const void *b,
                        ptrdiff_t n_out, void *z, int activation);

    /* 1 if all n reals are finite. */
    int (*all_finite)(const void *x, ptrdiff_t n);

    /* What gradient flow is measured with (n a multiple of P). */
    double (*sum_squares)(const void *x, ptrdiff_t n);
    double (*sum_penalized_squares)(const void *G, const void *W, ptrdiff_t n,
                                    double alpha); /* of G + alpha W */
    double (*sum_squared_change)(const void *now, const void *before, ptrdiff_t n);
    ptrdiff_t (*count_below)(const void *x, ptrdiff_t n, double limit);
    void (*count_saturated)(const void *s, ptrdiff_t n_rows, int slope, double flat,
                            int32_t *counts);

    /* Elementwise functions by themselves, for their tests. n a multiple of P. */
    void (*map)(int function, const void *x, void *y, ptrdiff_t n);
} cbp_kernels;

/* State vectors that each optimizer keeps. */
#define CBP_N_STATES(number, name, n_states) n_states,
static const int cbp_n_states[CBP_N_OPTIMIZERS] = {CBP_OPTIMIZERS(CBP_N_STATES)};
#undef CBP_N_STATES

/* Of an activation: below this a slope counts as saturated. A little less than 1 % of
 * the greatest, for leaky_relu has just that. */
#define CBP_FLAT(number, name, greatest) 0.0099 * (greatest),
static const double cbp_flat[CBP_N_ACTIVATIONS] = {CBP_ACTIVATIONS(CBP_FLAT)};
#undef CBP_FLAT

/* The names of the lists above; of losses first the output's, then their own. */
extern const char *const cbp_activation_names[CBP_N_ACTIVATIONS];
extern const char *const cbp_output_names[CBP_N_OUTPUTS];
extern const char *const cbp_loss_names[CBP_N_LOSSES][2];
extern const char *const cbp_optimizer_names[CBP_N_OPTIMIZERS];

/* The tiers in rising order, "scalar" first. */
enum { CBP_N_TIERS = 4 };
extern const char *const cbp_tier_names[CBP_N_TIERS];

/* 1 if this build has the tier and this CPU and operating system can run it. */
int cbp_tier_usable(int tier);

/* The table of a usable tier for items of 4 or 8 bytes. */
const cbp_kernels *cbp_table(int tier, int itemsize);

/* A number as the sum of two doubles, hi being the nearest double to the sum. */
typedef struct {
    double hi, lo;
} cbp_pair;

/* x^y, x and y >= 0, x finite. hi is the double nearest to it, except for ties and for
 * results below the normal range, which are the same on every platform, too. */
cbp_pair cbp_power(double x, double y);

cbp_pair cbp_product(cbp_pair a, cbp_pair b);

/* cos(pi x) for 0 <= x <= 1, within some units of the last place; the same bits on
 * every platform. */
double cbp_cosine(double x);

/* x^0 ... x^(n - 1), likewise; 0 <= x <= 1. */
void cbp_powers(double x, ptrdiff_t n, double *powers);

#endif
