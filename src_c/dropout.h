/* dropout.h - TEMPLATE: units set to 0 at random (Srivastava et al., 2014), the others
 * scaled so that their mean stays. Which ones is a function of seed, step, layer, row
 * of the batch and unit alone: no order of threads, no tier and no stop has a say in
 * it.
 *
 * The bits are those of Philox4x32 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", 2011) with 7 rounds, the fewest that pass all of their tests. One counter
 * (unit, row / DROP_ROWS, step, layer) gives 16 bits for each of DROP_ROWS rows of a
 * unit, so that a line of units needs no shuffle. Words are stored as little-endian
 * machines do. */

enum { FN(DROP_ROWS) = 8, FN(ROUNDS) = 7 };
/* Units drawn at a time: a line, or what the registers hold if that is more. */
enum { FN(DRAWN) = P > 2 * WL ? P : 2 * WL };

/* One round; the upper halves of lanes are rubbish that no product reads. */
INLINE void FN(philox_round)(wide c[4], wide k0, wide k1) {
    const wide a = wide_mul32(c[0], wide_set1(0xD2511F53));
    const wide b = wide_mul32(c[2], wide_set1(0xCD9E8D57));
    c[0] = wide_xor(wide_xor(wide_shr32(b), c[1]), k0);
    c[2] = wide_xor(wide_xor(wide_shr32(a), c[3]), k1);
    c[1] = b;
    c[3] = a;
}

/* Of the units u, u + 1, ... of a line for one group of rows: words[i] holds rows 2 i
 * (low bits) and 2 i + 1. */
INLINE void FN(draw_line)(const cbp_drop *d, uint64_t step, ptrdiff_t unit,
                          ptrdiff_t group, uint32_t words[4][FN(DRAWN)]) {
    const wide rows = wide_set1((uint64_t)group), number = wide_set1(step);
    const wide layer = wide_set1(d->layer);
    uint64_t lanes[2][FN(DRAWN) / 2];
    for (int i = 0; i < FN(DRAWN) / 2; i++) {
        lanes[0][i] = (uint64_t)(unit + 2 * i);
        lanes[1][i] = (uint64_t)(unit + 2 * i + 1);
    }
    /* Units with even and with odd numbers: two chains side by side. */
    for (int i = 0; i < FN(DRAWN) / 2; i += WL) {
        wide even[4] = {wide_load(lanes[0] + i), rows, number, layer};
        wide odd[4] = {wide_load(lanes[1] + i), rows, number, layer};
        uint32_t k0 = (uint32_t)d->seed, k1 = (uint32_t)(d->seed >> 32 ^ step >> 32);
    UNROLL for (int round = 0; round < FN(ROUNDS); round++) {
            const wide key_0 = wide_set1(k0), key_1 = wide_set1(k1);
            FN(philox_round)(even, key_0, key_1);
            FN(philox_round)(odd, key_0, key_1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        UNROLL for (int w = 0; w < 4; w++) {
            uint64_t pairs[WL];
            wide_store(pairs, wide_join(even[w], odd[w]));
            memcpy(words[w] + 2 * i, pairs, sizeof pairs);
        }
    }
}

/* Is the 16 bit number of row j of the group one that drops? */
INLINE int FN(drops)(const cbp_drop *d, uint32_t word, ptrdiff_t j) {
    return (j & 1 ? word >> 16 : word & 0xFFFF) < d->below;
}

/* What the units of a line are multiplied by in each row of a group: 0 or the scale. */
INLINE void FN(draw_factors)(const cbp_drop *d, uint64_t step, ptrdiff_t unit,
                             ptrdiff_t group, real factors[FN(DROP_ROWS)][P]) {
    const real scale = (real)d->scale;
    const uint32_t below = d->below;
    uint32_t words[4][FN(DRAWN)];
    FN(draw_line)(d, step, unit, group, words);
    for (int w = 0; w < 4; w++)
        for (int c = 0; c < P; c++) {
            factors[2 * w][c] = (words[w][c] & 0xFFFF) < below ? 0 : scale;
            factors[2 * w + 1][c] = words[w][c] >> 16 < below ? 0 : scale;
        }
}

/* Rows r0 .. r1 - 1 of A, the first of which is row `row` of the batch, from unit
 * `unit` on: a -> a scale, or 0 where it is dropped. S: slopes likewise, -0 where they
 * are dropped, which no other slope is; A again, which then is marked so itself; or
 * nothing (data is NULL). */
static void FN(drop)(cbp_panels A, cbp_panels S, ptrdiff_t n_cols, ptrdiff_t unit,
                     ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t row, const cbp_drop *d,
                     uint64_t step) {
    const vec scale = vec_set1((real)d->scale), gone = vec_set1((real)-0.0);
    const int marked = S.data == A.data, kept = S.data && !marked;
    const vec zero = marked ? gone : vec_zero();
    real factors[FN(DROP_ROWS)][P];
    for (ptrdiff_t q = 0; q * P < n_cols; q++)
        for (ptrdiff_t r = r0, group = -1; r < r1; r++) {
            const ptrdiff_t at = row + r - r0;
            const real *factor = factors[at % FN(DROP_ROWS)];
            real *a = (real *)A.data + q * A.stride + r * P;
            real *s = kept ? (real *)S.data + q * S.stride + r * P : NULL;
            if (at / FN(DROP_ROWS) != group) {
                group = at / FN(DROP_ROWS);
                FN(draw_factors)(d, step, unit + q * P, group, factors);
            }
            UNROLL for (int v = 0; v < VPP; v++) {
                const mask stays = vec_gt(vec_load(factor + v * VL), vec_zero());
                const vec x = vec_mul(vec_load(a + v * VL), scale);
                vec_store(a + v * VL, vec_select(stays, x, zero));
                if (!s) continue;
                const vec slope = vec_mul(vec_load(s + v * VL), scale);
                vec_store(s + v * VL, vec_select(stays, slope, gone));
            }
            if (marked && (q + 1) * P > n_cols) FN(clear_padding)(a, 1, n_cols);
            if (s && (q + 1) * P > n_cols) FN(clear_padding)(s, 1, n_cols);
        }
}

/* The same for the n items of one CSR row, `row` of the batch; in place. */
static void FN(drop_items)(void *x_, const int32_t *columns, ptrdiff_t n, ptrdiff_t row,
                           const cbp_drop *d, uint64_t step) {
    const real scale = (real)d->scale;
    const ptrdiff_t j = row % FN(DROP_ROWS);
    real *x = x_;
    uint32_t words[4][FN(DRAWN)];
    for (ptrdiff_t i = 0, line = -1; i < n; i++) {
        if (columns[i] / P != line) {
            line = columns[i] / P;
            FN(draw_line)(d, step, line * P, row / FN(DROP_ROWS), words);
        }
        x[i] = FN(drops)(d, words[j / 2][columns[i] % P], j) ? 0 : x[i] * scale;
    }
}

/* x -> x factor, n a multiple of P. */
static void FN(scale)(void *x_, ptrdiff_t n, double factor) {
    real *x = x_;
    for (ptrdiff_t i = 0; i < n; i += VL)
        vec_store(x + i, vec_mul(vec_load(x + i), vec_set1((real)factor)));
}

/* Adds to counts[c] the rows in which unit c of a panel was dropped: -0 in S. */
static void FN(count_dropped)(const void *s_, ptrdiff_t n_rows, int32_t *counts) {
    const real *s = s_;
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (int c = 0; c < P; c++)
            counts[c] += s[r * P + c] == 0 && signbit(s[r * P + c]);
}
