/* Copies in which every axis chooses its source positions by itself: y[i, j, ...] = x[m0[i], m1[j], ...].
 * One kernel serves padding of all kinds, repetition and nearest-neighbour resizing. */
#ifndef ESP_TENSOR_REMAP_H
#define ESP_TENSOR_REMAP_H

#include <stddef.h>

#include "base/compute.h"
#include "tensor/tensor.h"

typedef struct esp_remap {
    esp_shape x, y; /* of equal rank */
    /* Per axis: for every position of y the position in x, or -1 for none. NULL: the same position, where x
     * and y have the same dim. */
    const int64_t *maps[ESP_MAX_RANK];
} esp_remap;

/* `fill` is one element for positions without a source; it may be NULL when there are none. Elements of 1, 4
 * or 8 bytes. */
esp_status esp_remap_forward(const esp_compute *compute, const esp_remap *remap, size_t element_size,
                             const void *x, const void *fill, void *y);

/* dx, overwritten: what was taken several times adds up in the order of y. */
esp_status esp_remap_backward(const esp_compute *compute, const esp_remap *remap, const float *dy, float *dx);

#endif
