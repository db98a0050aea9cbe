/* What the gradients of convolution in channel blocks share: the phases of a stride, and the bias gradient.
 */
#ifndef ESP_TENSOR_BLOCKED_GRAD_H
#define ESP_TENSOR_BLOCKED_GRAD_H

#include "tensor/blocked_conv_internal.h"

/* db[f] = sum of dy over images and pixels, in a fixed order; scratch of esp_grad_bias_bytes. */
size_t esp_grad_bias_bytes(const esp_conv_geometry *geometry);
esp_status esp_grad_bias(const esp_compute *compute, const esp_conv_geometry *geometry, const esp_view *dy,
                         float *db, void *scratch);

/* A phase along one axis: places phase, phase + stride, ... of dx. Tap first + t*step of the kernel meets
 * place number i at i + offset - t*retreat of dy. */
typedef struct grad_phase {
    int64_t first, step, count; /* taps */
    int64_t offset, retreat;
    int64_t size; /* places */
} grad_phase;

typedef struct grad_axis {
    int64_t size, out_size, kernel, stride, dilation, pad;
} grad_axis;

static inline grad_axis grad_axis_y(const esp_conv_geometry *g)
{
    return (grad_axis){g->height, g->out_height, g->kernel_h, g->stride_h, g->dilation_h, g->pad_top};
}

static inline grad_axis grad_axis_x(const esp_conv_geometry *g)
{
    return (grad_axis){g->width, g->out_width, g->kernel_w, g->stride_w, g->dilation_w, g->pad_left};
}

static inline int64_t greatest_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static inline grad_phase grad_phase_of(const grad_axis *axis, int64_t phase)
{
    int64_t divisor = greatest_divisor(axis->dilation, axis->stride);
    grad_phase found = {.step = axis->stride / divisor, .retreat = axis->dilation / divisor};
    found.size = phase < axis->size ? (axis->size - 1 - phase) / axis->stride + 1 : 0;
    int64_t most = conv_min(found.step, axis->kernel);
    while (found.first < most && (phase + axis->pad - found.first * axis->dilation) % axis->stride != 0)
        found.first++;
    if (found.first == most)
        return found;
    found.count = (axis->kernel - 1 - found.first) / found.step + 1;
    found.offset = (phase + axis->pad - found.first * axis->dilation) / axis->stride;
    return found;
}

/* Taps of the phases in front of this one. */
static inline int64_t grad_taps_before(const grad_axis *axis, int64_t phase)
{
    int64_t taps = 0;
    for (int64_t p = 0; p < phase; p++)
        taps += grad_phase_of(axis, p).count;
    return taps;
}

/* The places of dy that phases reach beside their own number: from lowest to highest, both included. */
static inline void grad_reach_of(const grad_axis *axis, int64_t *lowest, int64_t *highest)
{
    *lowest = INT64_MAX;
    *highest = INT64_MIN;
    for (int64_t p = 0; p < axis->stride; p++) {
        grad_phase phase = grad_phase_of(axis, p);
        if (phase.count == 0 || phase.size == 0)
            continue;
        *lowest = conv_min(*lowest, phase.offset - (phase.count - 1) * phase.retreat);
        *highest = conv_max(*highest, phase.offset);
    }
    if (*lowest > *highest)
        *lowest = *highest = 0;
}

/* The taps [*start, *end) of a phase that meet a place of dy from place `i`. */
static inline void grad_taps_inside(const grad_phase *phase, int64_t i, int64_t out_size, int64_t *start,
                                    int64_t *end)
{
    int64_t first = i + phase->offset; /* of tap 0; later ones lie before it */
    *start = first < out_size ? 0 : (first - out_size) / phase->retreat + 1;
    *end = first < 0 ? 0 : conv_min(first / phase->retreat + 1, phase->count);
}

#endif
