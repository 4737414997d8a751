/* power.c - the powers that enter a fit: beta^t of Adam's corrections, and what
 * learning rates follow: t^power_t of "invscaling", the cosine.
 *
 * C libraries round pow() each in its own way, and one of them differently on CPUs with
 * and without fma. Here a power is the exponential of y log x, both as the sum of two
 * doubles: some 95 bits, the same on every platform. A call takes about a microsecond;
 * it is made once per epoch, and where a run begins; from there on Adam multiplies. */
#include <math.h>

#include "cbp.h"

typedef cbp_pair pair;

/* a + b, exactly; |a| >= |b|, or both of one exponent. */
static pair normalized(double a, double b) {
    const double sum = a + b;
    return (pair){sum, b - (sum - a)};
}

static pair sum(pair a, pair b) {
    const double hi = a.hi + b.hi, part = hi - a.hi;
    const double error = (a.hi - (hi - part)) + (b.hi - part);
    return normalized(hi, error + (a.lo + b.lo));
}

static pair product(pair a, pair b) {
    const double hi = a.hi * b.hi;
    return normalized(hi, fma(a.hi, b.hi, -hi) + (a.hi * b.lo + a.lo * b.hi));
}

static pair quotient(pair a, pair b) {
    const double first = a.hi / b.hi;
    const pair rest = sum(a, product((pair){-first, 0}, b));
    return normalized(first, (rest.hi + rest.lo) / b.hi);
}

static const pair ONE = {1, 0}, LN2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};

/* log x = e ln 2 + 2 artanh s with s = (m - 1) / (m + 1) and x = 2^e m; the series of
 * artanh ends where s^2 <= 0.03 has fallen below 2^-110. */
static pair logarithm(double x) {
    int e;
    double m = frexp(x, &e);
    if (m < 0x1.6a09e667f3bcdp-1) m *= 2, e--; /* sqrt(1/2) */
    const pair s = quotient((pair){m - 1, 0}, normalized(1, m));
    const pair square = product(s, s);
    pair series = {0, 0};
    for (int n = 45; n > 0; n -= 2)
        series = sum(quotient(ONE, (pair){n, 0}), product(square, series));
    series = product(s, series);
    return sum(product((pair){e, 0}, LN2), (pair){2 * series.hi, 2 * series.lo});
}

/* e^x = 2^k e^r, |r| <= ln 2 / 2, by the series of e^r. */
static pair exponential(pair x) {
    if (isnan(x.hi)) return x;
    const double k = floor(x.hi / LN2.hi + 0.5);
    const pair r = sum(x, product((pair){-k, 0}, LN2));
    pair series = ONE;
    for (int n = 25; n > 0; n--)
        series = sum(ONE, quotient(product(r, series), (pair){n, 0}));
    return (pair){ldexp(series.hi, (int)k), ldexp(series.lo, (int)k)};
}

cbp_pair cbp_power(double x, double y) {
    if (y == 0) return ONE;
    if (x == 0) return (pair){0, 0};
    if (y > 0x1p70) y = 0x1p70; /* has left the range of a double for every x but 1 */
    const pair exponent = product((pair){y, 0}, logarithm(x));
    if (exponent.hi > 710) return (pair){INFINITY, 0};
    if (exponent.hi < -750) return (pair){0, 0};
    return exponential(exponent);
}

double cbp_cosine(double x) {
    /* sin(pi (1/2 - x)) by its series, whose rest is below 2^-62. */
    const double s = 0x1.921fb54442d18p1 * (0.5 - x), square = s * s;
    double series = 1;
    for (int n = 22; n > 0; n -= 2) series = 1 - square * series / (n * (n + 1));
    return s * series;
}

cbp_pair cbp_product(cbp_pair a, cbp_pair b) { return product(a, b); }

void cbp_powers(double x, ptrdiff_t n, double *powers) {
    pair power = ONE;
    for (ptrdiff_t i = 0; i < n; i++) {
        powers[i] = power.hi;
        power = product(power, (pair){x, 0});
    }
}
