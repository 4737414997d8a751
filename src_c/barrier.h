/* barrier.h - where the threads of one fit meet: C11 atomics, no lock, no OpenMP.
 * A waiting thread spins for a microsecond or so, then yields its core, so that more
 * threads than cores are slow but never stuck. Who waits here cannot be called off: no
 * thread may come here that could fail before the others are through. */
#ifndef CBP_BARRIER_H
#define CBP_BARRIER_H

#include <stdatomic.h>

#if defined _WIN32
#include <windows.h>
#define cbp_yield() SwitchToThread()
#define cbp_process() ((long)GetCurrentProcessId())
#else
#include <sched.h>
#include <unistd.h>
#define cbp_yield() sched_yield()
#define cbp_process() ((long)getpid())
#endif

#if defined __x86_64__ || defined _M_X64
#define cbp_pause() __builtin_ia32_pause()
#elif defined __aarch64__
#define cbp_pause() __asm__ volatile("yield")
#else
#define cbp_pause() ((void)0)
#endif

typedef struct {
    _Atomic int arrived;
    _Atomic int generation;
} cbp_barrier;

/* Spins before the first yield: about 1 microsecond of pauses. A pure spin with more
 * threads than cores cost 4 to 12 ms a meeting, with yield 7 to 21 microseconds. */
enum { CBP_SPINS = 64 };

/* Returns when n_threads threads have called it. */
static inline void cbp_barrier_wait(cbp_barrier *barrier, int n_threads) {
    if (n_threads == 1) return;
    const int generation =
        atomic_load_explicit(&barrier->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) ==
        n_threads - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->generation, generation + 1,
                              memory_order_release);
        return;
    }
    for (int spins = 0;
         atomic_load_explicit(&barrier->generation, memory_order_acquire) == generation;
         spins++) {
        if (spins < CBP_SPINS)
            cbp_pause();
        else
            cbp_yield();
    }
}

/* Whether something is in use by one thread, which need not hold the GIL: there may be
 * none. Zeroed memory is unclaimed. */
typedef struct {
    _Atomic int by_one;
} cbp_claimed;

/* Claims it; 0 if it is claimed already. */
static inline int cbp_claim(cbp_claimed *claimed) {
    return !atomic_exchange_explicit(&claimed->by_one, 1, memory_order_acquire);
}

/* What was written before is seen by who claims it next. */
static inline void cbp_unclaim(cbp_claimed *claimed) {
    atomic_store_explicit(&claimed->by_one, 0, memory_order_release);
}

/* A flag that one thread sets while others work. They may see it late. Zeroed memory
 * says no. */
typedef struct {
    _Atomic int said;
} cbp_word;

static inline void cbp_say(cbp_word *word, int yes) {
    atomic_store_explicit(&word->said, yes, memory_order_relaxed);
}

static inline int cbp_heard(cbp_word *word) {
    return atomic_load_explicit(&word->said, memory_order_relaxed);
}

/* How many rows of a batch one thread has done; alone on its cache line. */
typedef struct {
    _Alignas(64) _Atomic ptrdiff_t rows;
} cbp_reached;

/* Sets the rows that are done: what was written before is seen by who awaits them. */
static inline void cbp_report(cbp_reached *reached, ptrdiff_t rows) {
    atomic_store_explicit(&reached->rows, rows, memory_order_release);
}

/* Returns when at least that many rows are done. */
static inline void cbp_await(cbp_reached *reached, ptrdiff_t rows) {
    for (int spins = 0;
         atomic_load_explicit(&reached->rows, memory_order_acquire) < rows; spins++) {
        if (spins < CBP_SPINS)
            cbp_pause();
        else
            cbp_yield();
    }
}

#endif
