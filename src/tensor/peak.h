/* What this machine can do at most: the yardstick kernels are held against. Measured in some
 * tenths of a second, so on a busy machine it is what was left of
 * it then. */
#ifndef ESP_TENSOR_PEAK_H
#define ESP_TENSOR_PEAK_H

#include "base/compute.h"
#include "tensor/engine.h"

typedef struct esp_peak {
    esp_isa isa;
    int threads;
    double gflops;   /* 1e9 float operations per second, a fused multiply-add counting two */
    double gb_per_s; /* 1e9 bytes per second, read from memory (not from a cache) */
} esp_peak;

/* Multiply-adds on registers with the engine's instruction set, and reads of a block larger than the last
 * cache, on all threads of `compute`. Both are the best of several passes: a busy machine only ever makes
 * them slower. Fails when memory for the block is out, or with ESP_CANCELLED. */
esp_status esp_peak_measure(const esp_compute *compute, const esp_engine *engine, esp_peak *out,
                            esp_error *err);

/* Float operations per second alone (1e9), without the block: nothing is allocated. */
esp_status esp_peak_flops(const esp_compute *compute, const esp_engine *engine, double *gflops,
                          esp_error *err);

#endif
