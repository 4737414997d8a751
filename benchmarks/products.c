/* products.c - loops that time the three products of backpropagation, through cbp's
 * kernel table and through a Fortran BLAS, without Python in between. Compiled by
 * kernels.py as a shared library; the shapes and the table of results are there.
 * Products: 0 forward Z = A W, 1 gradient dW = A^T D, 2 delta E = D W^T,
 * with A, E (rows, n_in), W, dW (n_in, n_out), Z, D (rows, n_out). */
#include <stdlib.h>
#include <time.h>

#include "cbp.h"

/* CPU time: another process on the core costs its caches, not its seconds. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Small numbers of either sign: no overflow, no subnormals. */
static void *numbers(ptrdiff_t n, int itemsize) {
    const size_t bytes = ((size_t)n * (size_t)itemsize + 63) / 64 * 64;
    void *x = aligned_alloc(64, bytes);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double value = (double)(i * 7919 % 1009) / 1009 - 0.5;
        if (itemsize == 4)
            ((float *)x)[i] = (float)value;
        else
            ((double *)x)[i] = value;
    }
    return x;
}

static ptrdiff_t up(ptrdiff_t n, ptrdiff_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

/* Panels as _network.pyx lays them out: an odd number of lines each. */
static cbp_panels panels(const cbp_kernels *k, ptrdiff_t rows, ptrdiff_t cols) {
    const ptrdiff_t stride = (up(rows, 16) + 1) * k->panel;
    return (cbp_panels){numbers(up(cols, k->panel) / k->panel * stride, k->itemsize),
                        stride};
}

static const char *panel(const cbp_kernels *k, cbp_panels M, ptrdiff_t p) {
    return (const char *)M.data + p * M.stride * k->itemsize;
}

/* dW (or, with the operands exchanged, its transpose) in the groups of blocks that
 * Trainer._update_layer asks for. */
static void sum_blocks(const cbp_kernels *k, cbp_panels A, ptrdiff_t n_in, cbp_panels D,
                       ptrdiff_t n_out, ptrdiff_t rows, void *G) {
    const ptrdiff_t n_panels = up(n_out, k->panel) / k->panel;
    const ptrdiff_t n_groups = up(n_panels, CBP_GROUP_PANELS) / CBP_GROUP_PANELS;
    const cbp_panels to = {G, (ptrdiff_t)k->panel * k->panel};
    for (ptrdiff_t g = 0, q = 0; g < n_groups; g++) {
        const ptrdiff_t width = n_panels / n_groups + (g < n_panels % n_groups);
        const cbp_panels group = {(void *)panel(k, D, q), D.stride};
        for (ptrdiff_t p = 0; p * k->panel < n_in; p++) {
            const ptrdiff_t left = n_in - p * k->panel;
            k->sum_gradient(panel(k, A, p), group, width, rows,
                            left < k->panel ? left : k->panel, to);
        }
        q += width;
    }
}

/* Seconds of one product, the mean over `repeats`. transposed: dW as dW^T. */
double time_kernels(const cbp_kernels *k, int transposed, int rows, int n_in, int n_out,
                    int repeats, int product) {
    cbp_panels A = panels(k, rows, n_in), E = panels(k, rows, n_in);
    cbp_panels D = panels(k, rows, n_out), Z = panels(k, rows, n_out);
    cbp_panels W = panels(k, n_in, n_out), WT = panels(k, n_out, n_in);
    void *b = numbers(up(n_out, k->panel), k->itemsize);
    const ptrdiff_t group = (ptrdiff_t)CBP_GROUP_PANELS * k->panel * k->panel;
    void *G = numbers(group, k->itemsize);
    double start = 0;
    for (int i = -1; i < repeats; i++) {
        if (i == 0) start = now(); /* after one to warm up */
        if (product == 0)
            k->multiply_forward(A, n_in, W, b, Z, n_out, 0, rows, CBP_RELU);
        else if (product == 2)
            k->multiply_delta(D, n_out, WT, A, E, n_in, 0, rows, CBP_RELU);
        else if (transposed)
            sum_blocks(k, D, n_out, A, n_in, rows, G);
        else
            sum_blocks(k, A, n_in, D, n_out, rows, G);
    }
    const double seconds = (now() - start) / repeats;
    void *all[] = {A.data, E.data, D.data, Z.data, W.data, WT.data, b, G};
    for (int i = 0; i < 8; i++) free(all[i]);
    return seconds;
}

typedef void gemm(const char *, const char *, const int *, const int *, const int *,
                  const void *, const void *, const int *, const void *, const int *,
                  const void *, void *, const int *);

/* The same by BLAS's sgemm or dgemm on row-major matrices, which Fortran sees
 * transposed. */
double time_gemm(gemm *f, int itemsize, int rows, int n_in, int n_out, int repeats,
                 int product) {
    void *A = numbers((ptrdiff_t)rows * n_in, itemsize);
    void *D = numbers((ptrdiff_t)rows * n_out, itemsize);
    void *W = numbers((ptrdiff_t)n_in * n_out, itemsize);
    const float one_f = 1, zero_f = 0;
    const double one_d = 1, zero_d = 0;
    const void *one = itemsize == 4 ? (const void *)&one_f : &one_d;
    const void *zero = itemsize == 4 ? (const void *)&zero_f : &zero_d;
    double start = 0;
    for (int i = -1; i < repeats; i++) {
        if (i == 0) start = now();
        if (product == 0)
            f("N", "N", &n_out, &rows, &n_in, one, W, &n_out, A, &n_in, zero, D,
              &n_out);
        else if (product == 1)
            f("N", "T", &n_out, &n_in, &rows, one, D, &n_out, A, &n_in, zero, W,
              &n_out);
        else
            f("T", "N", &n_in, &rows, &n_out, one, W, &n_out, D, &n_out, zero, A,
              &n_in);
    }
    const double seconds = (now() - start) / repeats;
    free(A);
    free(D);
    free(W);
    return seconds;
}
