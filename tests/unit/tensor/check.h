/* What the kernel tests share: random arrays (each its own exact-size block, so that the address sanitizer
 * sees a read past the end), comparison with the oracle, and pools of 1, 2 and 3 threads. */
#ifndef ESP_TESTS_TENSOR_CHECK_H
#define ESP_TESTS_TENSOR_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/compute.h"
#include "base/memory.h"
#include "base/rng.h"

/* A value in float for the kernel and in double for the oracle. */
typedef struct pair {
    float *f;
    double *d;
    int64_t count;
} pair;

static inline float *floats_new(int64_t count)
{
    float *values = malloc((size_t)(count > 0 ? count : 1) * sizeof(float));
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++)
        values[i] = NAN; /* a kernel that leaves an output unwritten shows */
    return values;
}

static inline double *doubles_new(int64_t count)
{
    double *values = calloc((size_t)(count > 0 ? count : 1), sizeof(double));
    assert_non_null(values);
    return values;
}

static inline pair pair_new(int64_t count)
{
    return (pair){floats_new(count), doubles_new(count), count};
}

/* Uniform in [low, high), the same in float and double. */
static inline pair pair_random(esp_rng *rng, int64_t count, double low, double high)
{
    pair p = pair_new(count);
    for (int64_t i = 0; i < count; i++) {
        p.f[i] = (float)(low + (high - low) * esp_rng_uniform(rng));
        p.d[i] = (double)p.f[i];
    }
    return p;
}

static inline void pair_free(pair p)
{
    free(p.f);
    free(p.d);
}

static inline int64_t pick(esp_rng *rng, int64_t low, int64_t high)
{
    return low + (int64_t)esp_rng_below(rng, (uint64_t)(high - low + 1));
}

/* |found - expected| <= tolerance * (1 + |expected|) for all elements. */
static inline void assert_all_close(const char *what, const float *found, const double *expected,
                                    int64_t count, double tolerance)
{
    for (int64_t i = 0; i < count; i++) {
        double limit = tolerance * (1.0 + fabs(expected[i]));
        bool is_same = (double)found[i] == expected[i] || fabs((double)found[i] - expected[i]) <= limit;
        if (!is_same)
            fail_msg("%s: element %lld of %lld is %.9g, expected %.9g", what, (long long)i, (long long)count,
                     (double)found[i], expected[i]);
    }
}

static inline void assert_same_bits(const char *what, const float *found, const float *expected,
                                    int64_t count)
{
    if (count > 0 && memcmp(found, expected, (size_t)count * sizeof(float)) != 0)
        fail_msg("%s: bits differ between numbers of threads", what);
}

enum { MOST_THREADS = 3 };

/* Contexts of 1, 2 and 3 threads; [0] has no pool. */
typedef struct contexts {
    esp_pool *pools[MOST_THREADS + 1];
    esp_compute compute[MOST_THREADS + 1];
} contexts;

static inline int contexts_setup(void **state)
{
    contexts *all = calloc(1, sizeof *all);
    if (all == NULL)
        return -1;
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        esp_error err = {0};
        if (esp_pool_new(threads, &all->pools[threads], &err) != ESP_OK)
            return -1;
        all->compute[threads].pool = all->pools[threads];
    }
    *state = all;
    return 0;
}

static inline int contexts_teardown(void **state)
{
    contexts *all = *state;
    for (int threads = 1; threads <= MOST_THREADS; threads++)
        esp_pool_free(all->pools[threads]);
    free(all);
    return 0;
}

/* A context whose cancel token is already set. */
static inline esp_compute cancelled_compute(const contexts *all, esp_cancel *cancel)
{
    atomic_init(&cancel->requested, true);
    return (esp_compute){.pool = all->pools[2], .cancel = cancel};
}

#endif
