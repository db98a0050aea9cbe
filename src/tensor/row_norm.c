/* One row at a time: sums of runs in float lanes, runs in double (simd.h). Gradients of scale and bias are
 * sums over rows, made in the order of the rows, a block of parameters per task. */
#include "tensor/row_norm.h"

#include <math.h>

#include "tensor/simd.h"

enum { BLOCK = 512 };

typedef struct norm_job {
    const esp_row_norm *norm;
    const float *x, *dy, *dmean, *dinverse_std, *scale, *bias;
    float *mean, *inverse_std, *y, *dx, *dscale, *dbias;
    int64_t rows_per_task, part_blocks;
} norm_job;

/* ---- forward ---- */

/* The sum of (x - center)^2. */
ESP_SIMD_CLONES
static double squares(int64_t count, const float *x, float center)
{
    float terms[BLOCK];
    for (int64_t i = 0; i < count; i++)
        terms[i] = (x[i] - center) * (x[i] - center);
    return esp_sum_f32(count, terms);
}

static void find_moments(const norm_job *job, int64_t row)
{
    int64_t length = job->norm->parts * job->norm->span;
    const float *x = job->x + row * length;
    double sum = 0.0, spread = 0.0;
    for (int64_t i = 0; i < length; i += BLOCK)
        sum += esp_sum_f32(esp_tile_end(i, BLOCK, length) - i, x + i);
    double mean = sum / (double)length;
    job->mean[row] = (float)mean;
    for (int64_t i = 0; i < length; i += BLOCK)
        spread += squares(esp_tile_end(i, BLOCK, length) - i, x + i, (float)mean);
    job->inverse_std[row] = (float)(1.0 / sqrt(spread / (double)length + (double)job->norm->epsilon));
}

ESP_SIMD_CLONES
static void rescale(int64_t parts, int64_t span, const float *x, float mean, float inverse_std,
                    const float *scale, const float *bias, float *y)
{
    if (span == 1) {
        for (int64_t p = 0; p < parts; p++)
            y[p] = (x[p] - mean) * inverse_std * scale[p] + (bias == NULL ? 0.0f : bias[p]);
        return;
    }
    for (int64_t p = 0; p < parts; p++) {
        float factor = inverse_std * scale[p], shift = bias == NULL ? 0.0f : bias[p];
        for (int64_t i = 0; i < span; i++)
            y[p * span + i] = (x[p * span + i] - mean) * factor + shift;
    }
}

static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const norm_job *job = context;
    const esp_row_norm *norm = job->norm;
    int64_t length = norm->parts * norm->span;
    int64_t last = esp_tile_end(task * job->rows_per_task, job->rows_per_task, norm->rows);
    for (int64_t row = task * job->rows_per_task; row < last; row++) {
        int64_t parameters = row % norm->cycles * norm->parts;
        find_moments(job, row);
        rescale(norm->parts, norm->span, job->x + row * length, job->mean[row], job->inverse_std[row],
                job->scale + parameters, job->bias == NULL ? NULL : job->bias + parameters,
                job->y + row * length);
    }
}

static esp_status run_rows(const esp_compute *compute, norm_job *job, esp_task_fn *task)
{
    int64_t length = job->norm->parts * job->norm->span;
    if (length <= 0)
        return ESP_OK;
    job->rows_per_task = esp_tile_rows(length);
    return esp_compute_run(compute, esp_tile_count(job->norm->rows, job->rows_per_task), task, job);
}

esp_status esp_row_norm_forward(const esp_compute *compute, const esp_row_norm *norm, const float *x,
                                const float *scale, const float *bias, float *mean, float *inverse_std,
                                float *y)
{
    norm_job job = {
        .norm = norm, .x = x, .scale = scale, .bias = bias, .mean = mean, .inverse_std = inverse_std, .y = y};
    return run_rows(compute, &job, forward_task);
}

/* ---- backward ---- */

/* The sums of g and of g * (x - mean) over `count` elements. */
ESP_SIMD_CLONES
static void gradient_sums(int64_t count, const float *x, const float *dy, float mean, double *sum,
                          double *product)
{
    float terms[BLOCK];
    for (int64_t i = 0; i < count; i++)
        terms[i] = dy[i] * (x[i] - mean);
    *sum += esp_sum_f32(count, dy);
    *product += esp_sum_f32(count, terms);
}

/* The same of a run of any length. */
static void sum_run(int64_t count, const float *x, const float *dy, float mean, double *sum, double *product)
{
    for (int64_t i = 0; i < count; i += BLOCK)
        gradient_sums(esp_tile_end(i, BLOCK, count) - i, x + i, dy + i, mean, sum, product);
}

/* The sums of scale * dy and scale * dy * (x - mean) over a row whose scale changes with every element. */
ESP_SIMD_CLONES
static void scaled_sums(int64_t count, const float *x, const float *dy, const float *scale, float mean,
                        double *sum, double *product)
{
    float scaled[BLOCK], terms[BLOCK];
    for (int64_t i = 0; i < count; i++) {
        scaled[i] = dy[i] * scale[i];
        terms[i] = scaled[i] * (x[i] - mean);
    }
    *sum += esp_sum_f32(count, scaled);
    *product += esp_sum_f32(count, terms);
}

/* dx = inverse_std * (scale * dy - part - (x - mean) * slope) */
ESP_SIMD_CLONES
static void gradient_run(int64_t count, const float *x, const float *dy, const float *scale,
                         int64_t scale_step, const float values[4], float *dx)
{
    float mean = values[0], inverse_std = values[1], part = values[2], slope = values[3];
    for (int64_t i = 0; i < count; i++)
        dx[i] = inverse_std * (scale[i * scale_step] * dy[i] - part - (x[i] - mean) * slope);
}

/* With g = scale * dy and xhat = (x - mean) * inverse_std: dx = inverse_std (g - mean(g) - xhat mean(g
 * xhat)). The mean itself has the slope 1 / length, inverse_std -inverse_std^2 xhat / length. */
static void input_gradient(const norm_job *job, int64_t row)
{
    int64_t parts = job->norm->parts, span = job->norm->span, length = parts * span;
    const float *x = job->x + row * length, *dy = job->dy + row * length;
    const float *scale = job->scale + row % job->norm->cycles * parts;
    float mean = job->mean[row], inverse_std = job->inverse_std[row], *dx = job->dx + row * length;
    double sum = 0.0, product = 0.0;
    for (int64_t p = 0; span == 1 && p < parts; p += BLOCK)
        scaled_sums(esp_tile_end(p, BLOCK, parts) - p, x + p, dy + p, scale + p, mean, &sum, &product);
    for (int64_t p = 0; span > 1 && p < parts; p++) {
        double part_sum = 0.0, part_product = 0.0;
        sum_run(span, x + p * span, dy + p * span, mean, &part_sum, &part_product);
        sum += part_sum * (double)scale[p];
        product += part_product * (double)scale[p];
    }
    double inverse = (double)inverse_std, dmean = job->dmean == NULL ? 0.0 : (double)job->dmean[row];
    double dinverse = job->dinverse_std == NULL ? 0.0 : (double)job->dinverse_std[row];
    const float values[4] = {mean, inverse_std, (float)((sum - dmean / inverse) / (double)length),
                             (float)((product + dinverse) / (double)length * inverse * inverse)};
    if (span == 1)
        gradient_run(length, x, dy, scale, 1, values, dx);
    for (int64_t p = 0; span > 1 && p < parts; p++)
        gradient_run(span, x + p * span, dy + p * span, scale + p, 0, values, dx + p * span);
}

static void input_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const norm_job *job = context;
    int64_t last = esp_tile_end(task * job->rows_per_task, job->rows_per_task, job->norm->rows);
    for (int64_t row = task * job->rows_per_task; row < last; row++)
        input_gradient(job, row);
}

/* What a row adds to the gradients of `count` parameters. */
static void add_row(const norm_job *job, int64_t row, int64_t first, int64_t count, double *sums,
                    double *products)
{
    int64_t span = job->norm->span, at = (row * job->norm->parts + first) * span;
    float mean = job->mean[row];
    double inverse_std = (double)job->inverse_std[row];
    for (int64_t p = 0; p < count; p++) {
        const float *x = job->x + at + p * span, *dy = job->dy + at + p * span;
        double sum = 0.0, product = 0.0;
        if (span == 1) {
            sum = (double)dy[0];
            product = sum * (double)(x[0] - mean);
        } else {
            sum_run(span, x, dy, mean, &sum, &product);
        }
        sums[p] += sum;
        products[p] += product * inverse_std;
    }
}

static void parameter_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const norm_job *job = context;
    const esp_row_norm *norm = job->norm;
    int64_t cycle = task / job->part_blocks, first = task % job->part_blocks * BLOCK;
    int64_t count = esp_tile_end(first, BLOCK, norm->parts) - first;
    double sums[BLOCK] = {0}, products[BLOCK] = {0};
    for (int64_t row = cycle; row < norm->rows; row += norm->cycles)
        add_row(job, row, first, count, sums, products);
    for (int64_t p = 0; p < count; p++) {
        if (job->dscale != NULL)
            job->dscale[cycle * norm->parts + first + p] = (float)products[p];
        if (job->dbias != NULL)
            job->dbias[cycle * norm->parts + first + p] = (float)sums[p];
    }
}

esp_status esp_row_norm_backward(const esp_compute *compute, const esp_row_norm *norm, const float *x,
                                 const esp_row_norm_grads *grads, const float *scale, const float *mean,
                                 const float *inverse_std, float *dx, float *dscale, float *dbias)
{
    norm_job job = {.norm = norm,
                    .x = x,
                    .dy = grads->dy,
                    .dmean = grads->dmean,
                    .dinverse_std = grads->dinverse_std,
                    .scale = scale,
                    .mean = (float *)mean, /* read only */
                    .inverse_std = (float *)inverse_std,
                    .dx = dx,
                    .dscale = dscale,
                    .dbias = dbias,
                    .part_blocks = esp_tile_count(norm->parts, BLOCK)};
    esp_status status = ESP_OK;
    if (dscale != NULL || dbias != NULL)
        status = esp_compute_run(compute, norm->cycles * job.part_blocks, parameter_task, &job);
    if (status == ESP_OK && dx != NULL)
        status = run_rows(compute, &job, input_task);
    return status;
}
