/* The C library's allocators and pthread_create, which fail when they are told to.
   starve.py builds this and puts it before glibc (LD_PRELOAD). It is no part of cbp. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

/* Read and written by starve.py. Of the requests for memory since it has set `asked` to
   0, those with the numbers begin .. end - 1 fail. */
_Atomic long starve_asked, starve_begin = LONG_MAX, starve_end = LONG_MAX;
/* Blocks that are in use. */
_Atomic long starve_live;
/* Who asked for what was refused last. */
enum { FRAMES = 40 };
static void *starve_frames[FRAMES];
static int starve_n_frames;
/* Likewise for threads. */
_Atomic long starve_threads, starve_begin_threads = LONG_MAX;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static int refused(void) {
    long number = starve_asked++;
    if (number < starve_begin || number >= starve_end) return 0;
    starve_n_frames = backtrace(starve_frames, FRAMES);
    return 1;
}

static void *counted(void *block) {
    if (block)
        starve_live++;
    else
        errno = ENOMEM;
    return block;
}

void *malloc(size_t size) { return counted(refused() ? NULL : __libc_malloc(size)); }

void *calloc(size_t n, size_t size) {
    return counted(refused() ? NULL : __libc_calloc(n, size));
}

void *memalign(size_t alignment, size_t size) {
    return counted(refused() ? NULL : __libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    void *got = memalign(alignment, size);
    if (!got) return ENOMEM;
    *block = got;
    return 0;
}

void free(void *block) {
    if (block) starve_live--;
    __libc_free(block);
}

void *realloc(void *block, size_t size) {
    void *got;
    if (!block) return malloc(size);
    if (!size) {
        free(block);
        return NULL;
    }
    got = refused() ? NULL : __libc_realloc(block, size);
    if (!got) errno = ENOMEM;
    return got;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *),
                   void *with) {
    static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *),
                         void *);
    if (starve_threads++ >= starve_begin_threads) return EAGAIN;
    if (!create) create = dlsym(RTLD_NEXT, "pthread_create");
    return create(thread, how, run, with);
}

/* To a file: who asked for what was refused last. */
void starve_tell(int file) {
    backtrace_symbols_fd(starve_frames, starve_n_frames, file);
}

/* To stderr: the same, an empty line, and whose code has crashed. */
static void tell(int number) {
    void *frames[FRAMES];
    signal(number, SIG_DFL);
    starve_tell(2);
    (void)!write(2, "\n", 1);
    backtrace_symbols_fd(frames, backtrace(frames, FRAMES), 2);
    raise(number);
}

/* From now on a crash is told. */
void starve_watch(void) {
    void *frames[1];
    backtrace(frames, 1); /* the first call takes memory */
    signal(SIGSEGV, tell);
    signal(SIGABRT, tell);
    signal(SIGBUS, tell);
    signal(SIGFPE, tell);
}
