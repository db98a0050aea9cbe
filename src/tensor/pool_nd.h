/* Pooling over up to three spatial axes in plain loops: what pool2d.h has no fast form for. That is volumes,
 * maxima with their indices, and Lp norms (ONNX MaxPool-12, AveragePool-19, LpPool-18). */
#ifndef ESP_TENSOR_POOL_ND_H
#define ESP_TENSOR_POOL_ND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compute.h"

enum { ESP_POOL_AXES = 3 };

/* x [planes, size...] -> y [planes, out...]. Images have an axis of size 1 in front. */
typedef struct esp_pool_nd {
    int64_t planes;
    int64_t size[ESP_POOL_AXES], kernel[ESP_POOL_AXES], stride[ESP_POOL_AXES], dilation[ESP_POOL_AXES];
    int64_t pad_begin[ESP_POOL_AXES], pad_end[ESP_POOL_AXES], out[ESP_POOL_AXES];
    bool counts_padding; /* average: as in esp_pool2d_geometry */
    bool column_major;   /* maxima: indices count the first spatial axis fastest (storage_order 1) */
    int64_t p;           /* Lp: the norm */
} esp_pool_nd;

/* `indices` may be NULL: for every maximum its index in x as a whole (with planes). -1 where a window lies
 * outside. */
esp_status esp_pool_nd_max(const esp_compute *compute, const esp_pool_nd *pool, const float *x, float *y,
                           int64_t *indices);
esp_status esp_pool_nd_average(const esp_compute *compute, const esp_pool_nd *pool, const float *x, float *y);
esp_status esp_pool_nd_lp(const esp_compute *compute, const esp_pool_nd *pool, const float *x, float *y);

/* dx is overwritten. The slope of an Lp norm of 0 is taken as 0. */
esp_status esp_pool_nd_max_backward(const esp_compute *compute, const esp_pool_nd *pool, const float *x,
                                    const float *dy, float *dx);
esp_status esp_pool_nd_average_backward(const esp_compute *compute, const esp_pool_nd *pool, const float *dy,
                                        float *dx);
esp_status esp_pool_nd_lp_backward(const esp_compute *compute, const esp_pool_nd *pool, const float *x,
                                   const float *y, const float *dy, float *dx);

#endif
