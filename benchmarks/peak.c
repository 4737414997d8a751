/* peak.c - the floating-point peak of one core: independent chains of fused
 * multiply-adds that never leave the registers. Compiled by measure.py, once per vector
 * width (BYTES) and dtype (real), as a shared library. Not part of cbp. */
#include <time.h>

typedef real vec __attribute__((vector_size(BYTES)));

/* More chains than latency x units (4 x 2), no more than the registers hold. */
enum { CHAINS = BYTES == 32 ? 12 : 24, LANES = BYTES / sizeof(real) };

/* CPU time: what another process takes of the core does not lower its peak. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* FLOP/s over n rounds. x <- x/2 + 1/2 tends to 1: no overflow, no subnormals. */
double peak(long n) {
    volatile real half = (real)0.5;
    const vec h = half - (vec){0};
    vec x[CHAINS];
    for (int i = 0; i < CHAINS; i++) x[i] = h;
    const double start = now();
    for (long k = 0; k < n; k++) {
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++) x[i] = x[i] * h + h;
    }
    const double seconds = now() - start;
    volatile real sink = 0;
    for (int i = 0; i < CHAINS; i++) sink += x[i][0];
    return 2.0 * CHAINS * LANES * (double)n / seconds;
}
