/* cortex_m.c: starts a Cortex-M of qemu-system-arm (machines mps2-*) without a C
 * library's own start, runs one exported network on ROWS, and prints the bits of its
 * probabilities by semihosting. tests/test_c_code.py makes case.h. */
#include <stdint.h>
#include <string.h>

#include "case.h" /* real, ROWS, N_ROWS, N_IN, N_OUT */

extern const int cbp_same_bits;
void cbp_predict_proba(const real *x, real *out);
int cbp_predict(const real *x);

static int call(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(const unsigned char *bytes, int n, char end) {
    char text[20];
    int i;
    for (i = 0; i < n; i++) {
        text[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    text[2 * n] = end;
    text[2 * n + 1] = 0;
    call(4, text); /* SYS_WRITE0 */
}

static void start(void) {
    static const unsigned char rows[] = ROWS;
    real x[N_IN], p[N_OUT];
    int i, j;
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* the floating-point unit on */
    __asm__ volatile("dsb\n isb");
    for (i = 0; i < N_ROWS; i++) {
        unsigned char class;
        memcpy(x, rows + i * sizeof x, sizeof x);
        cbp_predict_proba(x, p);
        for (j = 0; j < N_OUT; j++) print((unsigned char *)(p + j), sizeof(real), ' ');
        class = (unsigned char)cbp_predict(x);
        print(&class, 1, '\n');
    }
    if (!cbp_same_bits) call(4, "other bits\n");
    call(0x18, (const void *)0x20026); /* SYS_EXIT, the application is done */
    for (;;) {
    }
}

__attribute__((section(".vectors"), used))
const void *const vectors[2] = {(const void *)0x20010000, (const void *)start};
