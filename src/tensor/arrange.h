/* Data movement: one strided copy serves Transpose, Slice, Pad, Concat, Expand and Gather, and its adding
 * form their gradients. */
#ifndef ESP_TENSOR_ARRANGE_H
#define ESP_TENSOR_ARRANGE_H

#include <stdint.h>

#include "base/compute.h"
#include "tensor/tensor.h"

/* target[i] = source[i] over all multi-indices i of `shape`; strides in elements, may be 0 (repeat) or
 * negative. Elements of `element_size` 1, 4 or 8 bytes. Contiguous inner runs are copied as blocks. */
esp_status esp_copy_strided(const esp_compute *compute, const esp_shape *shape, size_t element_size,
                            const void *source, const int64_t *source_strides, void *target,
                            const int64_t *target_strides);

/* target[i] += source[i], float32, single order of addition; several i may meet in one target (stride 0). */
esp_status esp_add_strided(const esp_compute *compute, const esp_shape *shape, const float *source,
                           const int64_t *source_strides, float *target, const int64_t *target_strides);

/* Gather along the middle axis: y[o, j, i] = x[o, indices[j], i], x [outer, axis, inner], y [outer, count,
 * inner]. Indices are in [0, axis). dx is overwritten; what meets in one place adds in the order of j. */
esp_status esp_gather_forward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                              const int64_t *indices, int64_t count, size_t element_size, const void *x,
                              void *y);
esp_status esp_gather_backward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                               const int64_t *indices, int64_t count, const float *dy, float *dx);

/* Fills `count` floats. */
void esp_fill_f32(float *target, int64_t count, float value);

#endif
