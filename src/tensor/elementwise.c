/* Element-wise kernels: unary functions and softmax (broadcast.c has the binary ones). Loops are over flat
 * tiles; the switch over functions is outside of them. */
#include "tensor/elementwise.h"

#include <math.h>

#include "tensor/simd.h"

typedef struct unary_job {
    esp_unary_kind kind;
    float a, b;
    int64_t count;
    const float *x, *y_in, *dy;
    float *y, *dx;
} unary_job;

#define EACH(expression)                                                                                     \
    for (int64_t i = 0; i < count; i++)                                                                      \
        y[i] = (expression);                                                                                 \
    return

/* Comparisons are written so that a NaN is neither below nor above a bound, and passes. */
ESP_SIMD_CLONES
static void unary_tile(esp_unary_kind kind, float a, float b, int64_t count, const float *x, float *y)
{
    switch (kind) {
    case ESP_UNARY_RELU:
        EACH(x[i] < 0.0f ? 0.0f : x[i]);
    case ESP_UNARY_CLIP:
        for (int64_t i = 0; i < count; i++) {
            float raised = x[i] < a ? a : x[i];
            y[i] = raised > b ? b : raised;
        }
        return;
    case ESP_UNARY_SIGMOID:
        EACH(1.0f / (1.0f + expf(-x[i])));
    case ESP_UNARY_HARD_SIGMOID:
        for (int64_t i = 0; i < count; i++) {
            float line = a * x[i] + b, raised = line < 0.0f ? 0.0f : line;
            y[i] = raised > 1.0f ? 1.0f : raised;
        }
        return;
    case ESP_UNARY_EXP:
        EACH(expf(x[i]));
    case ESP_UNARY_SQRT:
        EACH(sqrtf(x[i]));
    case ESP_UNARY_NEG:
        EACH(-x[i]);
    case ESP_UNARY_TANH:
        EACH(tanhf(x[i]));
    case ESP_UNARY_SCALE:
        EACH(a * x[i] + b);
    }
}
#undef EACH

#define EACH(expression)                                                                                     \
    for (int64_t i = 0; i < count; i++)                                                                      \
        dx[i] = (expression);                                                                                \
    return

ESP_SIMD_CLONES
static void unary_gradient_tile(esp_unary_kind kind, float a, float b, int64_t count, const float *x,
                                const float *y, const float *dy, float *dx)
{
    switch (kind) {
    case ESP_UNARY_RELU:
        EACH(y[i] <= 0.0f ? 0.0f : dy[i]);
    case ESP_UNARY_CLIP:
        EACH(x[i] < a || x[i] > b ? 0.0f : dy[i]);
    case ESP_UNARY_SIGMOID:
        EACH(dy[i] * y[i] * (1.0f - y[i]));
    case ESP_UNARY_HARD_SIGMOID:
        EACH(a * x[i] + b <= 0.0f || a * x[i] + b >= 1.0f ? 0.0f : a * dy[i]);
    case ESP_UNARY_EXP:
        EACH(dy[i] * y[i]);
    case ESP_UNARY_SQRT:
        EACH(dy[i] * 0.5f / y[i]);
    case ESP_UNARY_NEG:
        EACH(-dy[i]);
    case ESP_UNARY_TANH:
        EACH(dy[i] * (1.0f - y[i] * y[i]));
    case ESP_UNARY_SCALE:
        EACH(a * dy[i]);
    }
}
#undef EACH

static void unary_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const unary_job *job = context;
    int64_t start = task * ESP_FLAT_TILE;
    unary_tile(job->kind, job->a, job->b, esp_tile_end(start, ESP_FLAT_TILE, job->count) - start,
               job->x + start, job->y + start);
}

esp_status esp_unary_forward(const esp_compute *compute, esp_unary_kind kind, float a, float b, int64_t count,
                             const float *x, float *y)
{
    unary_job job = {.kind = kind, .a = a, .b = b, .count = count, .x = x, .y = y};
    return esp_compute_run(compute, esp_tile_count(count, ESP_FLAT_TILE), unary_task, &job);
}

/* x or y is NULL when the function's gradient does not need it. */
static const float *from(const float *values, int64_t start)
{
    return values == NULL ? NULL : values + start;
}

static void unary_gradient_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const unary_job *job = context;
    int64_t start = task * ESP_FLAT_TILE;
    unary_gradient_tile(job->kind, job->a, job->b, esp_tile_end(start, ESP_FLAT_TILE, job->count) - start,
                        from(job->x, start), from(job->y_in, start), job->dy + start, job->dx + start);
}

esp_status esp_unary_backward(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                              int64_t count, const float *x, const float *y, const float *dy, float *dx)
{
    unary_job job = {.kind = kind, .a = a, .b = b, .count = count, .x = x, .y_in = y, .dy = dy, .dx = dx};
    return esp_compute_run(compute, esp_tile_count(count, ESP_FLAT_TILE), unary_gradient_task, &job);
}

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
    for (int64_t j = 0; j < axis; j++) {
        float power = expf(x[j * stride] - highest);
        y[j * stride] = power;
        sum += (double)power;
    }
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
