/* Fully connected layers: y [rows, filters] = clip(x [rows, channels] * w^T + bias), w [filters, channels],
 * all plain and row-major (ONNX Gemm-13 with transB = 1). Few rows are bound by reading w once from memory;
 * many go to the BLAS. Sums are made in the same order for any number of threads. */
#ifndef ESP_TENSOR_DENSE_H
#define ESP_TENSOR_DENSE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compute.h"
#include "tensor/engine.h"

typedef struct esp_dense {
    int64_t rows, filters, channels;
    const float *bias; /* [filters] or NULL */
    bool clips;        /* min(max(v, low), high) */
    float low, high;
} esp_dense;

esp_status esp_dense_forward(const esp_compute *compute, const esp_engine *engine, const esp_dense *dense,
                             const float *x, const float *w, float *y);

#endif
