/* Weights for the Winograd convolution. A unit of work is one block of filters by ESP_BLOCK channels: their
 * taps are transposed into vectors of ESP_BLOCK filters, which are then transformed one channel after the
 * other. For the gradient filters and channels change places and filters are flipped: only the transposition
 * and the order of the taps differ. */
#include "tensor/winograd_internal.h"

enum { TAPS = 9, MOST_HALVES = 2, UNITS_PER_TASK = 32 };

typedef struct packing {
    const winograd_problem *problem;
    const winograd_transforms *transforms;
    const blocked_kernels *kernels;
    int64_t filter_block, units, chunks;
    const float *w;
    float *packed;
} packing;

int64_t esp_winograd_weight_point(const winograd_problem *problem)
{
    return winograd_odd_lines(problem->channels * problem->filter_blocks);
}

size_t esp_winograd_packed_bytes(const esp_blocked_conv *plan)
{
    winograd_problem problem;
    if (!esp_winograd_problem(plan, &problem))
        return 0;
    return (size_t)(WINOGRAD_POINTS * esp_winograd_weight_point(&problem)) * sizeof(float);
}

/* taps[(channel*TAPS + tap)*ESP_BLOCK + filter] of `count` channels and ESP_BLOCK filters; zeros where there
 * is no filter. */
static void gather_taps(const packing *p, int64_t first_filter, int64_t first_channel, int64_t count,
                        float *taps)
{
    const winograd_problem *problem = p->problem;
    int64_t rows = conv_min(problem->filters - first_filter, ESP_BLOCK);
    if (!problem->is_gradient) {
        int64_t row = problem->channels * TAPS;
        p->kernels->transpose(rows, ESP_BLOCK, count * TAPS, p->w + first_filter * row + first_channel * TAPS,
                              row, taps, ESP_BLOCK);
        return;
    }
    for (int64_t c = 0; c < count; c++)
        p->kernels->transpose(rows, ESP_BLOCK, TAPS,
                              p->w + ((first_channel + c) * problem->filters + first_filter) * TAPS, TAPS,
                              taps + c * TAPS * ESP_BLOCK, ESP_BLOCK);
}

static void pack_unit(const packing *p, int64_t unit)
{
    _Alignas(64) float taps[MOST_HALVES][TAPS * ESP_BLOCK * ESP_BLOCK];
    const winograd_problem *problem = p->problem;
    const int64_t point = esp_winograd_weight_point(problem);
    int64_t filter = unit / p->chunks * p->filter_block, channel = unit % p->chunks * ESP_BLOCK;
    int64_t count = conv_min(problem->channels - channel, ESP_BLOCK);
    int64_t width = conv_min(problem->filter_blocks * ESP_BLOCK - filter, p->filter_block);
    int64_t halves = width / ESP_BLOCK;
    for (int64_t half = 0; half < halves; half++)
        gather_taps(p, filter + half * ESP_BLOCK, channel, count, taps[half]);

    int64_t tap_stride = problem->is_gradient ? -ESP_BLOCK : ESP_BLOCK;
    int64_t first_tap = problem->is_gradient ? (TAPS - 1) * ESP_BLOCK : 0;
    float *u = p->packed + filter * problem->channels + channel * width;
    for (int64_t c = 0; c < count; c++, u += width)
        for (int64_t half = 0; half < halves; half++)
            p->transforms->weights(taps[half] + c * TAPS * ESP_BLOCK + first_tap, tap_stride,
                                   u + half * ESP_BLOCK, point);
}

static void pack_task(void *context, int64_t task, int slot)
{
    const packing *p = context;
    (void)slot;
    int64_t end = conv_min((task + 1) * UNITS_PER_TASK, p->units);
    for (int64_t unit = task * UNITS_PER_TASK; unit < end; unit++)
        pack_unit(p, unit);
}

esp_status esp_winograd_pack(const esp_compute *compute, const esp_blocked_conv *plan, const float *w,
                             void *packed)
{
    winograd_problem problem;
    (void)esp_winograd_problem(plan, &problem);
    packing p = {.problem = &problem,
                 .transforms = esp_winograd_transforms(&plan->engine),
                 .kernels = esp_blocked_kernels(&plan->engine),
                 .chunks = problem.channel_blocks,
                 .w = w,
                 .packed = packed};
    p.filter_block = p.kernels->filter_block;
    p.units = p.chunks * conv_ceil_divide(problem.filters, p.filter_block);
    return esp_compute_run(compute, conv_ceil_divide(p.units, UNITS_PER_TASK), pack_task, &p);
}
