/* faults.c - faults that tools/sanitize.py must find before it is believed: it calls
 * each of them and looks for a report that names it. No part of cbp. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>

/* No compiler may know it. */
static volatile int one = 1;
static int shared;

/* One element behind the end. */
void write_behind(void) {
    volatile double *x = malloc((size_t)(8 * one) * sizeof *x);
    if (x == NULL) abort();
    x[7 + one] = 1;
    free((void *)x);
}

/* A signed sum beyond its type. */
void overflow(void) {
    volatile int sum = INT_MAX;
    sum = sum + one;
}

static void *count(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++) shared++;
    return NULL;
}

/* Two threads that write without an order. */
void race(void) {
    pthread_t other;
    if (pthread_create(&other, NULL, count, NULL)) abort();
    count(NULL);
    pthread_join(other, NULL);
}

/* Memory of C that nobody knows any more. */
void leak(void) {
    void *volatile lost = malloc(48);
    lost = NULL;
    (void)lost;
}

/* An object of Python that nobody knows any more; needs the GIL. */
void leak_object(void) {
    PyObject *volatile lost = PyBytes_FromStringAndSize(NULL, 4096);
    lost = NULL;
    (void)lost;
}

/* Nothing is wrong. */
void no_fault(void) {
    pthread_t other;
    int *x = malloc(sizeof *x);
    if (x == NULL || pthread_create(&other, NULL, count, NULL)) abort();
    pthread_join(other, NULL);
    free(x);
}
