/* Convolution of volumes. One walk serves all passes: for a pair of channel and filter it visits every tap of
 * the kernel and every row of outputs that reads inside the volume through that tap, and hands the pass a
 * piece of a row of x, the matching piece of a row of y, and the weight. Tasks are the planes that are
 * written, so that nothing is written twice at a time and sums keep their order. */
#include "tensor/conv3d.h"

#include <string.h>

#include "tensor/arrange.h"
#include "tensor/simd.h"
#include "tensor/window.h"

typedef struct conv3d_job {
    const esp_conv3d_geometry *g;
    const float *x, *w, *y, *bias;
    float *target;
} conv3d_job;

static int64_t volume(const int64_t size[ESP_VOLUME_AXES])
{
    return size[0] * size[1] * size[2];
}

/* y += w * x */
ESP_SIMD_CLONES
static void add_scaled(int64_t count, const float *x, int64_t stride, float w, float *restrict y)
{
    if (stride == 1)
        for (int64_t i = 0; i < count; i++)
            y[i] += w * x[i];
    else
        for (int64_t i = 0; i < count; i++)
            y[i] += w * x[i * stride];
}

/* x += w * y */
ESP_SIMD_CLONES
static void spread_scaled(int64_t count, float *restrict x, int64_t stride, float w, const float *y)
{
    if (stride == 1)
        for (int64_t i = 0; i < count; i++)
            x[i] += w * y[i];
    else
        for (int64_t i = 0; i < count; i++)
            x[i * stride] += w * y[i];
}

static double dot(int64_t count, const float *x, int64_t stride, const float *y)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)x[i * stride] * (double)y[i];
    return sum;
}

typedef enum pass { FORWARD, GRAD_INPUT, GRAD_WEIGHT } pass;

/* One plane of x and one of y through one tap; the plane that is written depends on the pass. `*w` is the
 * tap's weight, or its gradient. */
static void walk_tap(const esp_conv3d_geometry *g, const int64_t tap[ESP_VOLUME_AXES], pass what, float *x,
                     float *y, float *w)
{
    int64_t first[ESP_VOLUME_AXES], last[ESP_VOLUME_AXES];
    double sum = 0.0;
    for (int d = 0; d < ESP_VOLUME_AXES; d++)
        esp_window_outputs(g->size[d], g->out[d], g->stride[d], g->pad_begin[d], tap[d] * g->dilation[d],
                           &first[d], &last[d]);
    int64_t count = last[2] - first[2];
    for (int64_t z = first[0]; z < last[0] && count > 0; z++)
        for (int64_t row = first[1]; row < last[1]; row++) {
            int64_t from[ESP_VOLUME_AXES] = {z, row, first[2]};
            for (int d = 0; d < ESP_VOLUME_AXES; d++)
                from[d] = from[d] * g->stride[d] - g->pad_begin[d] + tap[d] * g->dilation[d];
            float *x_row = x + (from[0] * g->size[1] + from[1]) * g->size[2] + from[2];
            float *y_row = y + (z * g->out[1] + row) * g->out[2] + first[2];
            if (what == FORWARD)
                add_scaled(count, x_row, g->stride[2], *w, y_row);
            else if (what == GRAD_INPUT)
                spread_scaled(count, x_row, g->stride[2], *w, y_row);
            else
                sum += dot(count, x_row, g->stride[2], y_row);
        }
    if (what == GRAD_WEIGHT)
        *w += (float)sum;
}

/* All taps of one filter and one of its channels. */
static void walk_pair(const esp_conv3d_geometry *g, pass what, float *x, float *y, float *w)
{
    int64_t tap[ESP_VOLUME_AXES];
    for (tap[0] = 0; tap[0] < g->kernel[0]; tap[0]++)
        for (tap[1] = 0; tap[1] < g->kernel[1]; tap[1]++)
            for (tap[2] = 0; tap[2] < g->kernel[2]; tap[2]++)
                walk_tap(g, tap, what, x, y, w++);
}

static void forward_task(void *context, int64_t plane, int slot)
{
    (void)slot;
    const conv3d_job *job = context;
    const esp_conv3d_geometry *g = job->g;
    int64_t f = plane % g->filters, n = plane / g->filters, channels = g->channels / g->group;
    int64_t first_channel = f / (g->filters / g->group) * channels;
    float *y = job->target + plane * volume(g->out);
    esp_fill_f32(y, volume(g->out), job->bias == NULL ? 0.0f : job->bias[f]);
    for (int64_t c = 0; c < channels; c++)
        walk_pair(g, FORWARD, (float *)job->x + (n * g->channels + first_channel + c) * volume(g->size), y,
                  (float *)job->w + (f * channels + c) * volume(g->kernel));
}

esp_status esp_conv3d_forward(const esp_compute *compute, const esp_conv3d_geometry *geometry, const float *x,
                              const float *w, const float *bias, float *y)
{
    conv3d_job job = {.g = geometry, .x = x, .w = w, .bias = bias, .target = y};
    return esp_compute_run(compute, geometry->batch * geometry->filters, forward_task, &job);
}

static void grad_input_task(void *context, int64_t plane, int slot)
{
    (void)slot;
    const conv3d_job *job = context;
    const esp_conv3d_geometry *g = job->g;
    int64_t c = plane % g->channels, n = plane / g->channels, channels = g->channels / g->group;
    int64_t filters = g->filters / g->group, first_filter = c / channels * filters;
    float *dx = job->target + plane * volume(g->size);
    esp_fill_f32(dx, volume(g->size), 0.0f);
    for (int64_t f = first_filter; f < first_filter + filters; f++)
        walk_pair(g, GRAD_INPUT, dx, (float *)job->y + (n * g->filters + f) * volume(g->out),
                  (float *)job->w + (f * channels + c % channels) * volume(g->kernel));
}

esp_status esp_conv3d_grad_input(const esp_compute *compute, const esp_conv3d_geometry *geometry,
                                 const float *dy, const float *w, float *dx)
{
    conv3d_job job = {.g = geometry, .y = dy, .w = w, .target = dx};
    return esp_compute_run(compute, geometry->batch * geometry->channels, grad_input_task, &job);
}

static void grad_weight_task(void *context, int64_t pair, int slot)
{
    (void)slot;
    const conv3d_job *job = context;
    const esp_conv3d_geometry *g = job->g;
    int64_t channels = g->channels / g->group, f = pair / channels;
    int64_t c = f / (g->filters / g->group) * channels + pair % channels;
    float *dw = job->target + pair * volume(g->kernel);
    esp_fill_f32(dw, volume(g->kernel), 0.0f);
    for (int64_t n = 0; n < g->batch; n++)
        walk_pair(g, GRAD_WEIGHT, (float *)job->x + (n * g->channels + c) * volume(g->size),
                  (float *)job->y + (n * g->filters + f) * volume(g->out), dw);
}

esp_status esp_conv3d_grad_weight(const esp_compute *compute, const esp_conv3d_geometry *geometry,
                                  const float *x, const float *dy, float *dw)
{
    conv3d_job job = {.g = geometry, .x = x, .y = dy, .target = dw};
    return esp_compute_run(compute, geometry->filters * (geometry->channels / geometry->group),
                           grad_weight_task, &job);
}
