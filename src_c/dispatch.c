/* dispatch.c - which tiers this build has and this CPU can run, their tables, and the
 * names of what is in them.
 * cpuid and xgetbv are read by hand: __builtin_cpu_supports is unreliable under some
 * clangs and says nothing of the registers that the operating system saves. */
#include <math.h>

#include "cbp.h"

extern const cbp_kernels *const cbp_scalar[2],
    *const cbp_avx2[2], *const cbp_avx512[2], *const cbp_neon[2];

static const cbp_kernels *const *const tables[CBP_N_TIERS] = {cbp_scalar, cbp_neon,
                                                              cbp_avx2, cbp_avx512};
const char *const cbp_tier_names[CBP_N_TIERS] = {"scalar", "neon", "avx2", "avx512"};

#define NAME(number, name, ...) #name,
#define NAMES(number, output, loss) {#output, #loss},
const char *const cbp_activation_names[] = {CBP_ACTIVATIONS(NAME)};
const char *const cbp_output_names[] = {CBP_OUTPUTS(NAME)};
const char *const cbp_loss_names[][2] = {CBP_LOSSES(NAMES)};
const char *const cbp_optimizer_names[] = {CBP_OPTIMIZERS(NAME)};
#undef NAME
#undef NAMES

#if defined __x86_64__ || defined _M_X64
#include <cpuid.h>

#ifdef CBP_EMULATE_AVX512
enum { PAIRS = 1 }; /* a test build, whose AVX-512 tier needs AVX2 alone */
#else
enum { PAIRS = 0 };
#endif

/* The state components that the operating system saves (XCR0). */
static unsigned saved_state(void) {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int cpu_runs(const char *tier) {
    enum { FMA = 1u << 12, OSXSAVE = 1u << 27 };          /* leaf 1, ecx */
    enum { AVX2 = 1u << 5, F = 1u << 16, DQ = 1u << 17 }; /* leaf 7, ebx */
    const unsigned bw_vl = 1u << 30 | 1u << 31;           /* leaf 7, ebx */
    enum { YMM = 0x6, ZMM = 0xe6 };                       /* XCR0 */
    unsigned a, b, c, d, features;
    if (tier[0] == 's') return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & FMA) || !(c & OSXSAVE)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &features, &c, &d) || !(features & AVX2)) return 0;
    if (tier[3] == '2' || PAIRS) return (saved_state() & YMM) == YMM;
    return (features & F) && (features & DQ) && (features & bw_vl) == bw_vl &&
           (saved_state() & ZMM) == ZMM;
}
#else
static int cpu_runs(const char *tier) {
    (void)tier; /* aarch64 always has NEON; other CPUs have the scalar tier only */
    return 1;
}
#endif

/* vec_root_plus of vec.h rounds as prescribed from whatever estimate a CPU makes, but
 * for these numbers (times powers of 4), whose roots lie next to the middle of two
 * neighbours (tests/test_math.py). */
static int takes_roots(int tier) {
    const float floats[4] = {0x1.f82294p0f, 0x1.000002p0f, 0x1.fffffep1f,
                             0x1.fffffap1f};
    const double doubles[5] = {0x1.d407bb3641da5p0, 0x1.5b95344972fe2p1,
                               0x1.0000000000001p0, 0x1.fffffffffffffp1,
                               0x1.ffffffffffffdp1};
    float x[16], root_x[16];
    double y[8], root_y[8];
    int exact = 1;
    /* No lane may be 0: vec_root_plus would ask the divider for all of them. */
    for (int i = 0; i < 16; i++) x[i] = floats[i % 4];
    for (int i = 0; i < 8; i++) y[i] = doubles[i % 5];
    tables[tier][0]->map(CBP_MAP_ROOT, x, root_x, 16);
    tables[tier][1]->map(CBP_MAP_ROOT, y, root_y, 8);
    for (int i = 0; i < 16; i++) exact &= root_x[i] == sqrtf(x[i]);
    for (int i = 0; i < 8; i++) exact &= root_y[i] == sqrt(y[i]);
    return exact;
}

int cbp_tier_usable(int tier) {
    return tier >= 0 && tier < CBP_N_TIERS && tables[tier][0] != NULL &&
           cpu_runs(cbp_tier_names[tier]) && takes_roots(tier);
}

const cbp_kernels *cbp_table(int tier, int itemsize) {
    return tables[tier][itemsize == 8];
}
