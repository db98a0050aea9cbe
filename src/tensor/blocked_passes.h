/* The inner loops of passes over blocked images (element-wise, batch-norm, pooling), one set per instruction
 * set. Lanes never mix: what the lanes past the last channel hold stays there. */
#ifndef ESP_TENSOR_BLOCKED_PASSES_H
#define ESP_TENSOR_BLOCKED_PASSES_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/pool2d.h"
#include "tensor/tensor.h"

/* y = clip((x - center) * factor + shift + residual), per lane. */
typedef struct blocked_rescale {
    float center[ESP_BLOCK], factor[ESP_BLOCK], shift[ESP_BLOCK];
    bool clips;
    float low, high; /* NaN is neither below nor above, and passes */
    bool streams;    /* y goes to memory past the caches: it will not be used soon */
} blocked_rescale;

/* A stretch of one plane in the backward pass of batch-norm. dy' = dy where low < y < high; with no y, where
 * low < what `forward` makes of x < high. */
typedef struct blocked_gradient {
    const float *x, *dy;
    const float *y;                 /* NULL: found from x */
    const blocked_rescale *forward; /* its `clips` false: dy' = dy */
    float *dresidual;               /* gets dy'; NULL: not wanted */
    bool adds_residual;
    bool streams; /* dresidual, when not added to, goes to memory past the caches */
} blocked_gradient;

/* dx = (dy' - mean_dy - (x - forward->center) * slope) * forward->factor, per lane. */
typedef struct blocked_slopes {
    float mean_dy[ESP_BLOCK], slope[ESP_BLOCK];
    bool streams; /* dx goes to memory past the caches */
} blocked_slopes;

/* Pixels are neighbours: `count` of them are 16 * count floats. */
typedef struct blocked_passes {
    /* y may be x or the residual (NULL: none). */
    void (*rescale)(int64_t count, const float *x, const blocked_rescale *rescale, const float *residual,
                    float *y);
    /* center = the mean, rounded; sums of (x - center) and its square. */
    void (*statistics)(int64_t count, const float *x, float *center, float *rest, float *squares);
    /* Sums of dy' and of dy' * (x - forward->center); writes dresidual. */
    void (*gradient_sums)(int64_t count, const blocked_gradient *run, float *sum_dy, float *sum_dy_x);
    /* dx may be dy. */
    void (*gradient)(int64_t count, const blocked_gradient *run, const blocked_slopes *slopes, float *dx);

    /* One row of output pixels y (or dy) of the plane x (or dx). A NaN wins over every number. Backward adds
     * to dx. */
    void (*max_row)(const esp_pool2d_geometry *g, const float *x, int64_t row, float *y);
    void (*average_row)(const esp_pool2d_geometry *g, const float *x, int64_t row, float *y);
    void (*max_backward_row)(const esp_pool2d_geometry *g, const float *x, int64_t row, const float *dy,
                             float *dx);
    void (*average_backward_row)(const esp_pool2d_geometry *g, const float *x, int64_t row, const float *dy,
                                 float *dx); /* x is not read */
} blocked_passes;

/* The set of the default engine. */
const blocked_passes *esp_blocked_passes(void);

/* The taps of one pooling window that lie inside the image. */
typedef struct blocked_window {
    int64_t rows, columns;    /* of taps */
    int64_t last_y;           /* row of the image the last row of taps is in */
    int64_t offset;           /* floats from the plane's beginning to the first tap */
    int64_t row_step, step_x; /* floats from tap to tap */
} blocked_window;

blocked_window esp_blocked_window(const esp_pool2d_geometry *g, int64_t row, int64_t column);

/* The columns [*first, *end) whose windows have all their columns inside the image: each is the one before
 * it, moved by the stride. */
void esp_blocked_whole_columns(const esp_pool2d_geometry *g, int64_t *first, int64_t *end);

#endif
