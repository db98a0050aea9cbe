/* Softmax and sums of equal arrays. Functions of one number are in unary.c, arithmetic in broadcast.c. */
#include "tensor/elementwise.h"

#include <math.h>

#include "tensor/simd.h"
#include "tensor/vector_math.h"

typedef struct flat_job {
    int64_t count;
    const float *x;
    float *y;
} flat_job;

ESP_SIMD_CLONES
static void accumulate_tile(int64_t count, const float *restrict x, float *restrict y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] += x[i];
}

static void accumulate_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const flat_job *job = context;
    int64_t start = task * ESP_FLAT_TILE;
    accumulate_tile(esp_tile_end(start, ESP_FLAT_TILE, job->count) - start, job->x + start, job->y + start);
}

esp_status esp_accumulate(const esp_compute *compute, int64_t count, const float *x, float *y)
{
    flat_job job = {count, x, y};
    return esp_compute_run(compute, esp_tile_count(count, ESP_FLAT_TILE), accumulate_task, &job);
}

/* Rows [outer, inner] of `axis` values each, `inner` apart. */
typedef struct softmax_job {
    int64_t outer, axis, inner, rows_per_task;
    const float *x, *y_in, *dy;
    float *y, *dx;
} softmax_job;

static void softmax_row(int64_t axis, int64_t stride, const float *x, float *y)
{
    float highest = x[0];
    for (int64_t j = 1; j < axis; j++)
        highest = x[j * stride] > highest ? x[j * stride] : highest;
    double sum = 0.0;
    for (int64_t j = 0; j < axis; j++)
        y[j * stride] = esp_exp_f32(x[j * stride] - highest);
    for (int64_t j = 0; j < axis; j++)
        sum += (double)y[j * stride];
    float factor = (float)(1.0 / sum);
    for (int64_t j = 0; j < axis; j++)
        y[j * stride] *= factor;
}

static void softmax_gradient_row(int64_t axis, int64_t stride, const float *y, const float *dy, float *dx)
{
    double dot = 0.0;
    for (int64_t j = 0; j < axis; j++)
        dot += (double)y[j * stride] * (double)dy[j * stride];
    for (int64_t j = 0; j < axis; j++)
        dx[j * stride] = y[j * stride] * (dy[j * stride] - (float)dot);
}

static void softmax_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const softmax_job *job = context;
    int64_t last = esp_tile_end(task * job->rows_per_task, job->rows_per_task, job->outer * job->inner);
    for (int64_t row = task * job->rows_per_task; row < last; row++) {
        int64_t offset = row / job->inner * job->axis * job->inner + row % job->inner;
        if (job->dx != NULL)
            softmax_gradient_row(job->axis, job->inner, job->y_in + offset, job->dy + offset,
                                 job->dx + offset);
        else
            softmax_row(job->axis, job->inner, job->x + offset, job->y + offset);
    }
}

static esp_status run_softmax(const esp_compute *compute, softmax_job *job)
{
    if (job->axis == 0)
        return ESP_OK;
    job->rows_per_task = esp_tile_rows(job->axis);
    return esp_compute_run(compute, esp_tile_count(job->outer * job->inner, job->rows_per_task), softmax_task,
                           job);
}

esp_status esp_softmax_forward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                               const float *x, float *y)
{
    softmax_job job = {.outer = outer, .axis = axis, .inner = inner, .x = x, .y = y};
    return run_softmax(compute, &job);
}

esp_status esp_softmax_backward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                                const float *y, const float *dy, float *dx)
{
    softmax_job job = {.outer = outer, .axis = axis, .inner = inner, .y_in = y, .dy = dy, .dx = dx};
    return run_softmax(compute, &job);
}
