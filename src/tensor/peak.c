/* Arithmetic: as many independent sums as the registers of the set hold beside the two factors, more than the
 * latency times the width of any processor's units, in a loop that touches no memory. Every thread runs the
 * same number of rounds and the slowest decides, as it does in a convolution.
 *
 * Memory: every thread adds up its own part of a block twice as large as the last cache, so that nothing is
 * left there from the pass before. */
#include "tensor/peak.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "tensor/simd.h"

enum { LEAST_PASSES = 3, ROUNDS = 60000 };

/* A worker that was just woken may share its core with the caller until the system moves it, which takes some
 * ten milliseconds: passes go on for longer than that. */
#define LEAST_SECONDS 0.06

/* Bounds of the block to read: a cache that is not known, and one so large that filling twice its size would
 * be felt. */
#define LEAST_BLOCK ((size_t)64 << 20)
#define MOST_BLOCK  ((size_t)256 << 20)

typedef struct peak_run {
    int64_t (*multiply_add)(int64_t rounds, float *sink); /* returns the operations of one round */
    const float *block;
    int64_t part_length; /* floats of one task's part */
    float *sinks;        /* [tasks * ESP_LANES]: results, so that nothing can be left out */
} peak_run;

/* Sums are registers only when they are named one by one: c0 c1 ... The empty assembly makes the compiler
 * keep every round. */
#define SUMS_8(X)    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define SUMS_12(X)   SUMS_8(X) X(8) X(9) X(10) X(11)
#define SUMS_24(X)   SUMS_12(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#define SUM_START(i) vector c##i = zero + (float)(i);
#define SUM_ROUND(i) c##i = c##i * a + b;
#define SUM_KEEP(i)  KEEP_VECTOR(c##i);
#define SUM_END(i)   zero += c##i;

#if defined(__x86_64__)
#define KEEP_VECTOR(v) __asm__ volatile("" : "+v"(v))
#define KEEP_SSE(v)    __asm__ volatile("" : "+x"(v))
#else
#define KEEP_VECTOR(v) __asm__ volatile("" : "+m"(v))
#define KEEP_SSE(v)    KEEP_VECTOR(v)
#endif

/* The factors pull every sum towards 1: no infinity, no denormal. */
#define MULTIPLY_ADD(name, target, lanes, SUMS, count)                                                       \
    target static int64_t name(int64_t rounds, float *sink)                                                  \
    {                                                                                                        \
        typedef float vector __attribute__((vector_size((lanes) * sizeof(float))));                          \
        vector zero = {0}, a = zero + 0.999f, b = zero + 0.001f;                                             \
        SUMS(SUM_START)                                                                                      \
        for (int64_t r = 0; r < rounds; r++) {                                                               \
            SUMS(SUM_ROUND)                                                                                  \
            SUMS(SUM_KEEP)                                                                                   \
        }                                                                                                    \
        SUMS(SUM_END)                                                                                        \
        *sink = zero[0] + zero[(lanes)-1];                                                                   \
        return 2 * (lanes) * (count);                                                                        \
    }

#if defined(__x86_64__)
MULTIPLY_ADD(multiply_add_avx512, __attribute__((target("avx512f,fma"))), 16, SUMS_24, 24)
MULTIPLY_ADD(multiply_add_avx2, __attribute__((target("avx2,fma"))), 8, SUMS_12, 12)
#undef KEEP_VECTOR
#define KEEP_VECTOR(v) KEEP_SSE(v)
#endif
MULTIPLY_ADD(multiply_add_plain, , 4, SUMS_8, 8)

static int64_t (*kernel_of(esp_isa isa))(int64_t, float *)
{
#if defined(__x86_64__)
    if (isa == ESP_ISA_AVX512)
        return multiply_add_avx512;
    if (isa == ESP_ISA_AVX2)
        return multiply_add_avx2;
#endif
    (void)isa;
    return multiply_add_plain;
}

static void arithmetic_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const peak_run *run = context;
    float sink = 0.0f;
    (void)run->multiply_add(ROUNDS, &sink);
    __asm__ volatile("" : : "m"(sink));
    (void)task;
}

ESP_SIMD_CLONES
static void read_part(const float *part, int64_t length, float *sink)
{
    esp_lanes sums[4] = {{0}};
    for (int64_t i = 0; i + 4 * ESP_LANES <= length; i += 4 * ESP_LANES) {
        for (int k = 0; k < 4; k++)
            sums[k] += ESP_LANES_FROM(part + i + (int64_t)k * ESP_LANES);
    }
    ESP_LANES_AT(sink) = sums[0] + sums[1] + sums[2] + sums[3];
}

static void memory_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const peak_run *run = context;
    read_part(run->block + task * run->part_length, run->part_length, run->sinks + task * ESP_LANES);
}

/* Seconds of the fastest of several runs of one task per thread. */
static esp_status fastest_pass(const esp_compute *compute, esp_task_fn *task, peak_run *run, double *seconds)
{
    double fastest = 0.0, total = 0.0;
    for (int pass = 0; pass < LEAST_PASSES || total < LEAST_SECONDS; pass++) {
        double start = esp_clock_s();
        esp_status status = esp_compute_run(compute, esp_compute_slots(compute), task, run);
        double elapsed = esp_clock_s() - start;
        if (status != ESP_OK)
            return status;
        fastest = pass == 0 || elapsed < fastest ? elapsed : fastest;
        total += elapsed + 1e-6; /* ends even where the clock is coarse */
    }
    *seconds = fastest > 0.0 ? fastest : 1e-9;
    return ESP_OK;
}

esp_status esp_peak_flops(const esp_compute *compute, const esp_engine *engine, double *gflops,
                          esp_error *err)
{
    peak_run run = {.multiply_add = kernel_of(engine->isa)};
    float sink;
    double seconds = 0.0, operations = (double)run.multiply_add(0, &sink);
    if (fastest_pass(compute, arithmetic_task, &run, &seconds) != ESP_OK)
        return esp_fail(err, ESP_CANCELLED, "cancelled");
    *gflops = operations * ROUNDS * esp_compute_slots(compute) / seconds * 1e-9;
    return ESP_OK;
}

static size_t block_bytes(void)
{
    size_t bytes = LEAST_BLOCK;
#if defined(_SC_LEVEL3_CACHE_SIZE)
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache > 0 && 2 * (size_t)cache > bytes)
        bytes = 2 * (size_t)cache;
#endif
    return bytes < MOST_BLOCK ? bytes : MOST_BLOCK;
}

static esp_status measure_memory(const esp_compute *compute, double *gb_per_s, esp_error *err)
{
    int tasks = esp_compute_slots(compute);
    size_t bytes = block_bytes();
    int64_t floats = (int64_t)(bytes / sizeof(float));
    float *block = esp_alloc(bytes, 1);
    float *sinks = esp_alloc_zero((size_t)tasks * ESP_LANES, sizeof(float));
    esp_status status =
        block != NULL && sinks != NULL ? ESP_OK : esp_fail_memory(err, "a block to read", bytes);
    if (status == ESP_OK) {
        /* pages that were never written are all one page of zeros, which stays in a cache */
        for (int64_t i = 0; i < floats; i += 16)
            block[i] = 1.0f;
        peak_run run = {.block = block, .part_length = floats / tasks, .sinks = sinks};
        double seconds = 0.0;
        status = fastest_pass(compute, memory_task, &run, &seconds);
        if (status == ESP_OK)
            *gb_per_s = (double)(run.part_length * tasks) * sizeof(float) / seconds * 1e-9;
        else
            (void)esp_fail(err, status, "cancelled");
    }
    esp_free(sinks);
    esp_free(block);
    return status;
}

esp_status esp_peak_measure(const esp_compute *compute, const esp_engine *engine, esp_peak *out,
                            esp_error *err)
{
    esp_peak peak = {.isa = engine->isa, .threads = esp_compute_slots(compute)};
    esp_status status = measure_memory(compute, &peak.gb_per_s, err);
    if (status == ESP_OK)
        status = esp_peak_flops(compute, engine, &peak.gflops, err);
    if (status == ESP_OK)
        *out = peak;
    return status;
}
