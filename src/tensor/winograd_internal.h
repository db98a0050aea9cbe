/* What the files of the Winograd convolution share: the problem, as both passes see it. */
#ifndef ESP_TENSOR_WINOGRAD_INTERNAL_H
#define ESP_TENSOR_WINOGRAD_INTERNAL_H

#include "tensor/blocked_conv_internal.h"
#include "tensor/winograd_transform.h"

/* The convolution that is computed. For the gradient, its input is dy, its channels are the filters of the
 * geometry, its filters the channels. */
typedef struct winograd_problem {
    winograd_grid grid;
    int64_t batch, channels, filters;
    int64_t channel_blocks, filter_blocks; /* of ESP_BLOCK, rounded up */
    int64_t tiles;                         /* of all images */
    bool is_gradient;
} winograd_problem;

/* False where F(4x4,3x3) cannot compute the plan's pass. */
bool esp_winograd_problem(const esp_blocked_conv *plan, winograd_problem *out);

/* Packed weights: [36 points][filters, in blocks of kernels->filter_block][channels][filters of the block];
 * the last block is as wide as its filters rounded up to ESP_BLOCK. Points are this many floats apart: an odd
 * number of cache lines, so that a filter's points lie in different sets of the caches. */
int64_t esp_winograd_weight_point(const winograd_problem *problem);

size_t esp_winograd_packed_bytes(const esp_blocked_conv *plan);
esp_status esp_winograd_pack(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                             void *packed);

/* Floats of `lines` cache lines, one more if they are even in number. */
static inline int64_t winograd_odd_lines(int64_t lines)
{
    return (lines | 1) * ESP_BLOCK;
}

#endif
