/* check_tiers.c - the kernels of a tier against those of the scalar tier, byte for
 * byte, on random panels of awkward sizes. A library which takes the tables of any
 * build, and with -DCBP_PROGRAM a program with tables of its own, so that a tier of
 * another architecture can be cross-compiled and run under an emulator;
 * tests/test_tiers.py does both. The program prints one line per tier and dtype, with a
 * hash of all outputs, the same number on every platform (of scalar where there is no
 * other tier), and one of powers; exits 1 if any kernel differs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cbp.h"

enum { ROWS = 160, COLS = 80, ITEMS = (ROWS + 17) * (COLS + 16) };

static uint64_t seed, hash;

static double uniform(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (double)(seed >> 11) * 0x1p-53 * 4 - 2;
}

/* Buffers for the tier under test and for its oracle, filled alike. */
typedef struct {
    _Alignas(64) char data[ITEMS * 8];
} buffer;
static buffer in[6], out[2][4];

static void fill(buffer *b, int size) {
    for (int i = 0; i < ITEMS; i++) {
        const double x = uniform();
        if (size == 8)
            ((double *)b->data)[i] = x;
        else
            ((float *)b->data)[i] = (float)x;
    }
}

/* Some losses take targets above 0 only, and nobody promises the sign of a NaN. */
static void make_targets(buffer *b, int size) {
    for (int i = 0; i < ITEMS; i++)
        if (size == 8)
            ((double *)b->data)[i] = fabs(((double *)b->data)[i]) + 0.0625;
        else
            ((float *)b->data)[i] = fabsf(((float *)b->data)[i]) + 0.0625f;
}

static void fill_outputs(int size) {
    for (int i = 0; i < 4; i++) {
        fill(&out[0][i], size);
        memcpy(&out[1][i], &out[0][i], sizeof(buffer));
    }
}

/* Takes in the words of a buffer of reals; NaNs differ in sign and payload from one
 * architecture to the next and count as one. */
static void hash_reals(const buffer *b, int size) {
    for (int i = 0; i < ITEMS * size; i += 8) {
        uint64_t word;
        uint32_t half[2];
        memcpy(&word, b->data + i, 8);
        if (size == 8) {
            if ((word & ~(UINT64_MAX / 2 + 1)) > 0x7ff0000000000000u) word = 0;
        } else {
            memcpy(half, &word, 8);
            for (int j = 0; j < 2; j++)
                if ((half[j] & 0x7fffffff) > 0x7f800000) half[j] = 0;
            word = half[0] | (uint64_t)half[1] << 32;
        }
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
}

static int failures;

static void compare(const char *tier, int size, const char *kernel, int alone) {
    for (int i = 0; i < 4; i++) hash_reals(&out[0][i], size);
    if (alone) return;
    for (int i = 0; i < 4; i++)
        if (memcmp(&out[0][i], &out[1][i], sizeof(buffer))) {
            printf("%s, %d bytes: %s differs from the scalar tier\n", tier, size,
                   kernel);
            failures++;
            return;
        }
}

static cbp_panels panels(buffer *b, const cbp_kernels *k) {
    return (cbp_panels){b->data, (ptrdiff_t)(ROWS + 17) * k->panel};
}

static void fill_with(buffer *b, int size, double x) {
    for (int i = 0; i < ITEMS; i++)
        if (size == 8)
            ((double *)b->data)[i] = x;
        else
            ((float *)b->data)[i] = (float)x;
}

/* Whether an optimizer takes roots of its first state vector, too: that makes NaN of
 * numbers below 0, and nobody promises the sign of a NaN. */
static int takes_root(const cbp_kernels *k, int solver) {
    const cbp_step s = {1e-2, 1, 0, 0, 0.9, 0.99, 1e-8, 1};
    void *state[2] = {out[0][1].data, out[0][2].data};
    for (int i = 0; i < 3; i++) fill_with(&out[0][i], k->itemsize, i == 1 ? -1 : 1);
    k->step[solver](out[0][0].data, in[0].data, state, k->panel, &s);
    const double w =
        k->itemsize == 8 ? *(double *)out[0][0].data : (double)*(float *)out[0][0].data;
    return w != w;
}

/* Means of squares are never negative: what an optimizer takes roots of. */
static void make_positive(const cbp_kernels *k, void *const *state, int first,
                          ptrdiff_t n) {
    for (int i = first; i < 2; i++) k->map(CBP_MAP_LOGISTIC, state[i], state[i], n);
}

/* Runs BODY for the tier (t = 0) and for scalar (t = 1) on the same data; for scalar
 * alone once, as there is nothing to compare. */
#define BOTH(name, ...)                                                                \
    fill_outputs(size);                                                                \
    for (int t = 0; t < (tested == oracle ? 1 : 2); t++) {                             \
        const cbp_kernels *k = t ? oracle : tested;                                    \
        __VA_ARGS__;                                                                   \
    }                                                                                  \
    compare(tested->tier, size, name, tested == oracle);

/* A loss with parameters at which every formula has finite numbers. */
static cbp_loss loss_of(int kind, const cbp_kernels *k) {
    static const double value[2] = {1.25, 1.5};
    static double parameters[2][80];
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < 80; i++)
            if (k->itemsize == 8)
                parameters[p][i] = value[p];
            else
                ((float *)parameters[p])[i] = (float)value[p];
    return (cbp_loss){kind, {parameters[0], parameters[1]}, NULL};
}

static void check(const cbp_kernels *tested, const cbp_kernels *oracle) {
    static const int sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 64, 80};
    const int size = tested->itemsize, P = tested->panel;
    int32_t labels[ROWS], columns[ROWS];
    double loss[2][ROWS] = {{0}};
    const cbp_step s = {1e-2, 1.0 / 37, 1e-3, 0, 0.9, 0.99, 1e-8, 1};
    for (int i = 0; i < 6; i++) fill(&in[i], size);
    make_targets(&in[4], size);
    for (int i = 0; i < ROWS; i++) columns[i] = i;
    for (int f = 0; f < CBP_MAP_ROOT; f++) {
        BOTH("map", k->map(f, in[0].data, out[t][0].data, 1024))
    }
    for (int a = 0; a < CBP_N_ACTIVATIONS; a++) {
        BOTH("activate", k->activate(out[t][0].data, 1024, a))
        const cbp_drop d = {0x123456789abcdefull, 2, 20000, 65536.0 / 45536};
        BOTH("drop", k->drop(panels(&out[t][0], k), panels(&out[t][1], k), 33, 16 * a,
                             1, 40, 1 + a, &d, 1ull << 40 | a))
        BOTH("drop_items", k->drop_items(out[t][0].data, columns, ROWS, 9 + a, &d, a))
        const int slope = a < CBP_N_BY_A ? a : CBP_KEPT;
        BOTH("keep_slope",
             k->keep_slope(panels(&out[t][0], k), panels(&out[t][1], k), 33, 1, 17, a))
        BOTH("multiply_derivative",
             k->multiply_derivative(out[t][0].data, in[0].data, 1024, slope))
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (unsigned j = 0; j < sizeof sizes / sizeof *sizes; j++) {
                const int n_in = sizes[i], n_out = sizes[j], rows = sizes[(i + j) % 11];
                BOTH("multiply_forward",
                     k->multiply_forward(panels(&in[0], k), n_in, panels(&in[1], k),
                                         in[2].data, panels(&out[t][0], k), n_out, 1,
                                         1 + rows, a))
                BOTH("extend_forward",
                     k->extend_forward(panels(&in[0], k), n_in, panels(&in[1], k),
                                       panels(&out[t][0], k), n_out, 1, 1 + rows))
                BOTH("multiply_delta",
                     k->multiply_delta(panels(&in[0], k), n_in, panels(&in[1], k),
                                       panels(&in[2], k), panels(&out[t][0], k), n_out,
                                       1, 1 + rows, slope))
                BOTH("forward_row",
                     k->forward_row(in[0].data, n_in, in[1].data, P, n_out, in[2].data,
                                    n_out, out[t][0].data, a))
            }
    }
    /* The last ones have several blocks to join, and are one panel wide. */
    static const int many[] = {1, 54, 107, 160, 300, 700, 1000};
    for (unsigned i = 0; i < sizeof many / sizeof *many; i++) {
        const int rows = many[i];
        for (int n_panels = 1; n_panels <= (rows > ROWS ? 1 : 5); n_panels++) {
            BOTH("sum_gradient",
                 k->sum_gradient(in[0].data, panels(&in[1], k), n_panels, rows,
                                 1 + rows % P, panels(&out[t][0], k)))
        }
        BOTH("sum_columns", k->sum_columns(in[0].data, rows, out[t][0].data))
    }
    BOTH("transpose_patch", k->transpose_patch(in[0].data, out[t][0].data))
    BOTH("add", k->add(out[t][0].data, in[0].data, 512))
    for (unsigned j = 0; j < sizeof sizes / sizeof *sizes; j++) {
        const int n_out = sizes[j];
        for (int r = 0; r < ROWS; r++) labels[r] = r % (n_out > 1 ? n_out : 2);
        /* Groups of one, of some and of the other outputs. */
        const ptrdiff_t start[] = {0, 1, 1 + n_out / 2, n_out};
        const cbp_groups grouped = {3, start};
        static const int32_t zeros[3 * ROWS] = {0};
        BOTH("fill_targets",
             k->fill_targets(labels, 33, n_out, NULL, panels(&out[t][0], k)))
        BOTH("gather_finite",
             k->gather_finite(in[0].data, 33, n_out, panels(&out[t][0], k)))
        BOTH("gather_rows",
             k->gather_rows(in[0].data, n_out, NULL, 33, n_out, panels(&out[t][0], k)))
        BOTH("scatter_rows",
             k->scatter_rows(panels(&in[0], k), 33, n_out, out[t][0].data, n_out))
        for (int o = 0; o < CBP_N_OUTPUTS; o++) {
            BOTH("apply_output", k->apply_output(panels(&out[t][0], k), n_out, P,
                                                 P + 21, o, NULL, out[0][3].data);
                 memset(out[t][3].data, 0, sizeof(buffer));
                 memset(out[0][3].data, 0, sizeof(buffer)))
        }
        if (n_out > 3) {
            cbp_loss priced = loss_of(CBP_SOFTMAX_LOG_LOSS, tested);
            priced.groups = &grouped;
            BOTH("fill_targets",
                 k->fill_targets(zeros, 33, n_out, &grouped, panels(&out[t][0], k)))
            BOTH("apply_output",
                 k->apply_output(panels(&out[t][0], k), n_out, P, P + 21,
                                 CBP_OUT_SOFTMAX, &grouped, out[0][3].data);
                 memset(out[t][3].data, 0, sizeof(buffer));
                 memset(out[0][3].data, 0, sizeof(buffer)))
            BOTH("compute_loss_row",
                 k->compute_loss_row(out[t][0].data, NULL, zeros, in[5].data, n_out,
                                     &priced, loss[t], out[0][3].data);
                 memset(out[t][3].data, 0, sizeof(buffer));
                 memset(out[0][3].data, 0, sizeof(buffer));
                 memcpy(out[t][2].data, loss[t], sizeof loss[t]))
            BOTH("compute_loss",
                 k->compute_loss(panels(&out[t][0], k), panels(&in[4], k), zeros,
                                 in[5].data, n_out, P, P + 21, &priced, loss[t],
                                 out[0][3].data);
                 memset(out[t][3].data, 0, sizeof(buffer));
                 memset(out[0][3].data, 0, sizeof(buffer));
                 memcpy(out[t][2].data, loss[t], sizeof loss[t]))
        }
        for (int l = 0; l < CBP_N_LOSSES; l++) {
            const cbp_loss priced = loss_of(l, tested);
            BOTH("compute_loss_row",
                 k->compute_loss_row(out[t][0].data, in[4].data, labels + 1, in[5].data,
                                     n_out, &priced, loss[t], out[0][3].data);
                 memset(out[t][3].data, 0, sizeof(buffer));
                 memset(out[0][3].data, 0, sizeof(buffer));
                 memcpy(out[t][2].data, loss[t], sizeof loss[t]))
            BOTH("compute_loss",
                 k->compute_loss(panels(&out[t][0], k), panels(&in[4], k), labels,
                                 in[5].data, n_out, P, P + 21, &priced, loss[t],
                                 out[0][3].data);
                 memset(out[t][3].data, 0, sizeof(buffer));
                 memset(out[0][3].data, 0, sizeof(buffer));
                 memcpy(out[t][2].data, loss[t], sizeof loss[t]))
        }
    }
    for (int solver = 0; solver < CBP_N_OPTIMIZERS; solver++) {
        double squares[2];
        const int first = takes_root(oracle, solver) ? 0 : 1;
        BOTH("step", void *state[2] = {out[t][1].data, out[t][2].data};
             make_positive(k, state, first, 1024);
             squares[t] = k->step[solver](out[t][0].data, in[0].data, state, 1024, &s);
             memcpy(out[t][3].data, &squares[t], sizeof(double)))
    }
}

/* Four rows through two layers, 9-(P+1)-2, the second one transposed and so narrow that
 * its forward product reads the master copy. Everything lies in the outputs of t. */
static void train_rows(const cbp_kernels *k, int t, int solver, int loss, int first) {
    static const int64_t order[] = {3, 0, 2, 1};
    static const int32_t labels[] = {1, 0, 1, 1};
    static const double eta[] = {1e-2, 2e-2, 1e-3, 5e-3};
    static const double decay[4] = {0, 1e-3, 1e-2, 0}, share[4] = {0.5, 0.25, 0.5, 1};
    static const double weights[4] = {1, 0.5, 2, 0};
    static const float float_weights[4] = {1, 0.5f, 2, 0};
    const int P = k->panel, line = P * k->itemsize;
    char *master = out[t][0].data, *room = out[t][3].data;
    double squares[8] = {0};
    cbp_layer layers[2] = {{.n_in = 9, .n_out = P + 1, .activation = CBP_TANH},
                           {.n_in = P + 1, .n_out = 2, .transposed = 1}};
    for (int l = 0; l < 2; l++) {
        cbp_layer *y = &layers[l];
        y->mirrored = y->transposed;
        y->n_lines = y->transposed ? y->n_out : y->n_in;
        y->line_patches = (y->n_lines + P - 1) / P;
        y->n_panels = 2;
        y->n_patches = y->line_patches * y->n_panels;
        y->W_at = l * 40 * P;
        y->b_at = y->W_at + 34 * P;
        y->W.stride = y->WT.stride = 17 * P;
        y->W.data = y->WT.data = master + l * 40 * line;
        y->b = master + (l * 40 + 34) * line;
        y->A.data = y->D.data = room + (60 + 4 * l) * line;
        y->S = y->A;
        y->slope = y->activation;
    }
    layers[0].D.data = room + 62 * line;
    layers[1].W.data = room;
    /* Small weights, so that exp cannot overflow: nobody promises the sign of a NaN. */
    for (int i = 0; i < 80 * P; i++)
        if (k->itemsize == 8)
            ((double *)master)[i] *= 0.125;
        else
            ((float *)master)[i] *= 0.125f;
    void *state[2] = {out[t][1].data, out[t][2].data};
    make_positive(k, state, first, 2048);
    cbp_online rows = {.layers = layers,
                       .n_layers = 2,
                       .solver = solver,
                       .loss = loss_of(loss, k),
                       .step = {0, 1, 1e-3, 0, 0.9, 0.99, 1e-8, 1},
                       .eta = eta,
                       .decay = decay,
                       .master = master,
                       .state = {state[0], state[1]},
                       .X = in[0].data,
                       .labels = labels,
                       .weight = loss & 1           ? NULL
                                 : k->itemsize == 8 ? (const void *)weights
                                                    : (const void *)float_weights,
                       .mean = loss & 2 ? NULL : room + 100 * line,
                       .share = share,
                       .master_items = 34 * P,
                       .order = order,
                       .n_rows = 4,
                       .T = {room + 66 * line, P},
                       .inputs = room + 68 * line,
                       .scratch = room + 72 * line,
                       .patch_squares = squares};
    k->train_rows(&rows);
    memcpy(room + 80 * line, squares, sizeof squares);
    memcpy(room + 90 * line, &rows.loss_sum, sizeof rows.loss_sum);
    memset(rows.scratch, 0, (size_t)line); /* behind the outputs it is anything */
}

static void check_rows(const cbp_kernels *tested, const cbp_kernels *oracle) {
    const int size = tested->itemsize;
    for (int solver = 0; solver < CBP_N_OPTIMIZERS; solver++) {
        const int first = takes_root(oracle, solver) ? 0 : 1;
        for (int loss = 0; loss < CBP_N_LOSSES; loss++) {
            BOTH("train_rows", train_rows(k, t, solver, loss, first))
        }
    }
}

/* Products of a CSR matrix whose row r has r % 5 entries. */
static void check_sparse(const cbp_kernels *tested, const cbp_kernels *oracle) {
    enum { COLUMNS = 40, ENTRIES = 2 * ROWS };
    static int32_t indices[ENTRIES], places[2][ENTRIES];
    static int64_t indptr[ROWS + 1], order[ROWS], start[2][COLUMNS + 1];
    const int size = tested->itemsize;
    for (int r = 0; r < ROWS; r++) {
        indptr[r + 1] = indptr[r] + r % 5;
        for (int i = 0; i < r % 5; i++) indices[indptr[r] + i] = r % 8 + 7 * i;
        order[r] = (r * 49) % ROWS;
    }
    const cbp_csr X = {in[0].data, indices, indptr};
    for (int picked = 0; picked < 2; picked++) {
        const int64_t *rows = picked ? order : NULL;
        BOTH("multiply_forward_csr",
             k->multiply_forward_csr(&X, rows, panels(&in[1], k), in[2].data,
                                     panels(&out[t][0], k), 33, 1, ROWS - 1, picked))
        BOTH("transpose_csr",
             const cbp_columns c = {start[t], places[t], out[t][0].data};
             k->transpose_csr(&X, rows, ROWS, COLUMNS, &c);
             k->sum_gradient_csr(&c, 3, COLUMNS - 3, in[3].data, out[t][1].data);
             memcpy(out[t][2].data, start[t], sizeof start[t]);
             memcpy(out[t][3].data, places[t], sizeof places[t]))
    }
    BOTH("gather_items", k->gather_items(in[0].data, order, ROWS, out[t][0].data))
    BOTH("gather_rows", k->gather_rows(in[0].data, COLUMNS, order, ROWS, COLUMNS,
                                       panels(&out[t][0], k)))
}

/* What looks at numbers, and what is done to all of a vector. */
static void check_measures(const cbp_kernels *tested, const cbp_kernels *oracle) {
    const int size = tested->itemsize, n = 64 * tested->panel;
    BOTH("scale", k->scale(out[t][0].data, n, 1.25))
    BOTH("average", k->average(out[t][0].data, in[0].data, n, 0.125))
    BOTH("all_finite", *out[t][0].data = (char)k->all_finite(in[0].data, n + 1))
    BOTH("sums of squares",
         const double sums[] = {k->sum_squares(in[0].data, n),
                                k->sum_penalized_squares(in[0].data, in[1].data, n, 2),
                                k->sum_squared_change(in[0].data, in[1].data, n),
                                (double)k->count_below(in[0].data, n, 0.5),
                                k->item(in[0].data, 5)};
         memcpy(out[t][0].data, sums, sizeof sums))
    for (int slope = 0; slope <= CBP_N_BY_A; slope++) {
        const int kept = slope < CBP_N_BY_A ? slope : CBP_KEPT;
        int32_t counts[2][16] = {{0}};
        BOTH("count_saturated",
             k->count_saturated(in[0].data, 33, kept, 0.25, counts[t]);
             k->count_dropped(in[0].data, 33, counts[t]);
             memcpy(out[t][0].data, counts[t], sizeof counts[t]))
    }
}

/* How many of the comparisons failed; they are printed. */
int check_table(const cbp_kernels *tested, const cbp_kernels *oracle) {
    const int before = failures;
    seed = 88172645463325252u;
    hash = 0;
    check(tested, oracle);
    check_rows(tested, oracle);
    check_sparse(tested, oracle);
    check_measures(tested, oracle);
    printf("%s, %d bytes: hash %016llx\n", tested->tier, tested->itemsize,
           (unsigned long long)hash);
    fflush(stdout);
    return failures - before;
}

#ifdef CBP_PROGRAM
static void hash_power(double power) {
    uint64_t word;
    memcpy(&word, &power, 8);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
}

/* beta^t of Adam and t^y of invscaling, as _training.pyx asks for them. */
static uint64_t hash_powers(void) {
    const double betas[] = {0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999};
    const double roots[] = {0.25, 0.5, 0.75, 1};
    hash = 0;
    for (int i = 0; i < 8; i++) {
        double low[64];
        cbp_powers(betas[i], 64, low);
        for (int t = 0; t < 64; t++) hash_power(low[t]);
        for (int t = 0; t < 300; t++) hash_power(cbp_power(betas[i], 64 * t).hi);
    }
    for (int i = 0; i < 4; i++)
        for (int t = 1; t < 2000; t++) hash_power(cbp_power(t * t, roots[i]).hi);
    return hash ^ hash >> 29;
}

int main(void) {
    int tables = 0;
    for (int tier = 1; tier < CBP_N_TIERS; tier++)
        for (int size = 4; size <= 8; size += 4)
            if (cbp_tier_usable(tier)) {
                check_table(cbp_table(tier, size), cbp_table(0, size));
                tables++;
            }
    for (int size = 4; size <= 8 && !tables; size += 4)
        check_table(cbp_table(0, size), cbp_table(0, size));
    printf("powers: hash %016llx\n", (unsigned long long)hash_powers());
    printf("%d tables compared with scalar, %d failures\n", tables, failures);
    return failures != 0;
}
#endif
