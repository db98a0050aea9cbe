/* Resampling along an axis. Where something lies behind the axis, whole rows are scaled and added; along the
 * last axis, the taps of one output are summed up at once. */
#include "tensor/resample.h"

#include "tensor/arrange.h"
#include "tensor/simd.h"

typedef struct resample_job {
    const esp_resample *r;
    int64_t rows_per_task;
    const float *x, *dy;
    float *y, *dx;
} resample_job;

ESP_SIMD_CLONES
static void scale_row(int64_t count, float weight, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = weight * x[i];
}

ESP_SIMD_CLONES
static void add_row(int64_t count, float weight, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] += weight * x[i];
}

static void resample_element(const esp_resample *r, const float *x, int64_t j, float *y)
{
    const int64_t *sources = r->sources + j * r->taps;
    const float *weights = r->weights + j * r->taps;
    float sum = 0.0f;
    for (int64_t k = 0; k < r->taps; k++)
        sum += weights[k] * x[sources[k]];
    *y = sum;
}

/* Rows of y: [outer, out]. */
static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const resample_job *job = context;
    const esp_resample *r = job->r;
    int64_t start = task * job->rows_per_task;
    int64_t end = esp_tile_end(start, job->rows_per_task, r->outer * r->out);
    for (int64_t row = start; row < end; row++) {
        int64_t j = row % r->out;
        const float *x = job->x + row / r->out * r->in * r->inner;
        float *y = job->y + row * r->inner;
        if (r->inner == 1) {
            resample_element(r, x, j, y);
            continue;
        }
        scale_row(r->inner, r->weights[j * r->taps], x + r->sources[j * r->taps] * r->inner, y);
        for (int64_t k = j * r->taps + 1; k < (j + 1) * r->taps; k++)
            add_row(r->inner, r->weights[k], x + r->sources[k] * r->inner, y);
    }
}

esp_status esp_resample_forward(const esp_compute *compute, const esp_resample *resample, const float *x,
                                float *y)
{
    resample_job job = {.r = resample, .x = x, .y = y, .rows_per_task = esp_tile_rows(resample->inner)};
    if (resample->outer * resample->out * resample->inner == 0)
        return ESP_OK;
    return esp_compute_run(compute, esp_tile_count(resample->outer * resample->out, job.rows_per_task),
                           forward_task, &job);
}

static void backward_task(void *context, int64_t o, int slot)
{
    (void)slot;
    const resample_job *job = context;
    const esp_resample *r = job->r;
    float *dx = job->dx + o * r->in * r->inner;
    const float *dy = job->dy + o * r->out * r->inner;
    esp_fill_f32(dx, r->in * r->inner, 0.0f);
    for (int64_t k = 0; k < r->out * r->taps; k++) {
        const float *from = dy + k / r->taps * r->inner;
        float *to = dx + r->sources[k] * r->inner;
        if (r->inner == 1)
            *to += r->weights[k] * *from;
        else
            add_row(r->inner, r->weights[k], from, to);
    }
}

esp_status esp_resample_backward(const esp_compute *compute, const esp_resample *resample, const float *dy,
                                 float *dx)
{
    resample_job job = {.r = resample, .dy = dy, .dx = dx};
    return esp_compute_run(compute, resample->outer, backward_task, &job);
}
