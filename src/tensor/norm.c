/* Batch normalisation. One task is one channel: its batch*inner values are read from memory once and stay in
 * the cache for the passes that follow (mean, deviation from the mean, normalised values). Each run of
 * `inner` neighbouring values is summed in sixteen float lanes, runs are added up in double, in order. */
#include "tensor/norm.h"

#include <math.h>

#include "tensor/simd.h"

/* Runs longer than this are summed in pieces, so that float lanes never add up many terms. */
enum { RUN = 4096 };

typedef struct norm_job {
    int64_t batch, channels, inner;
    const float *x, *dy, *scale, *bias, *mean, *variance;
    float epsilon, momentum;
    float *y, *dx, *dscale, *dbias;
    float *running_mean, *running_variance, *saved_mean, *saved_inverse_std;
    const float *inverse_std; /* given, or NULL: from variance */
    int64_t rows;             /* planes per task of the evaluation form */
} norm_job;

ESP_SIMD_CLONES
static double run_sum(int64_t count, const float *x)
{
    esp_lanes a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * ESP_LANES <= count; i += 2 * ESP_LANES) {
        a += ESP_LANES_FROM(x + i);
        b += ESP_LANES_FROM(x + i + ESP_LANES);
    }
    if (i + ESP_LANES <= count) {
        a += ESP_LANES_FROM(x + i);
        i += ESP_LANES;
    }
    a += b;
    double sum = esp_lanes_sum(&a);
    for (; i < count; i++)
        sum += (double)x[i];
    return sum;
}

/* Sum of (x - mean)^2. */
ESP_SIMD_CLONES
static double run_squares(int64_t count, const float *x, float mean)
{
    esp_lanes a = {0}, b = {0};
    int64_t i = 0;
    for (; i + 2 * ESP_LANES <= count; i += 2 * ESP_LANES) {
        esp_lanes u = ESP_LANES_FROM(x + i) - mean, v = ESP_LANES_FROM(x + i + ESP_LANES) - mean;
        a += u * u;
        b += v * v;
    }
    if (i + ESP_LANES <= count) {
        esp_lanes u = ESP_LANES_FROM(x + i) - mean;
        a += u * u;
        i += ESP_LANES;
    }
    a += b;
    double sum = esp_lanes_sum(&a);
    for (; i < count; i++)
        sum += (double)((x[i] - mean) * (x[i] - mean));
    return sum;
}

/* Adds the sums of dy and of dy*(x - mean). */
ESP_SIMD_CLONES
static void run_gradient_sums(int64_t count, const float *x, const float *dy, float mean, double *sum_dy,
                              double *sum_dy_x)
{
    esp_lanes a = {0}, b = {0}, c = {0}, d = {0};
    int64_t i = 0;
    for (; i + 2 * ESP_LANES <= count; i += 2 * ESP_LANES) {
        esp_lanes u = ESP_LANES_FROM(dy + i), v = ESP_LANES_FROM(dy + i + ESP_LANES);
        a += u;
        b += v;
        c += u * (ESP_LANES_FROM(x + i) - mean);
        d += v * (ESP_LANES_FROM(x + i + ESP_LANES) - mean);
    }
    if (i + ESP_LANES <= count) {
        esp_lanes u = ESP_LANES_FROM(dy + i);
        a += u;
        c += u * (ESP_LANES_FROM(x + i) - mean);
        i += ESP_LANES;
    }
    a += b;
    c += d;
    double plain = esp_lanes_sum(&a), weighted = esp_lanes_sum(&c);
    for (; i < count; i++) {
        plain += (double)dy[i];
        weighted += (double)(dy[i] * (x[i] - mean));
    }
    *sum_dy += plain;
    *sum_dy_x += weighted;
}

/* y = (x - mean)*factor + bias; x and y may be the same. */
ESP_SIMD_CLONES
static void run_normalise(int64_t count, const float *x, float mean, float factor, float bias, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (x[i] - mean) * factor + bias;
}

/* dx = (dy - mean_dy - (x - mean)*slope)*factor; dx and dy may be the same. */
ESP_SIMD_CLONES
static void run_gradient(int64_t count, const float *x, const float *dy, float mean, float mean_dy,
                         float slope, float factor, float *dx)
{
    for (int64_t i = 0; i < count; i++)
        dx[i] = (dy[i] - mean_dy - (x[i] - mean) * slope) * factor;
}

static int64_t offset_of(const norm_job *job, int64_t n, int64_t c)
{
    return (n * job->channels + c) * job->inner;
}

static double channel_sum(const norm_job *job, int64_t c)
{
    double sum = 0.0;
    for (int64_t n = 0; n < job->batch; n++)
        for (int64_t i = 0; i < job->inner; i += RUN)
            sum += run_sum(esp_tile_end(i, RUN, job->inner) - i, job->x + offset_of(job, n, c) + i);
    return sum;
}

static double channel_squares(const norm_job *job, int64_t c, float mean)
{
    double sum = 0.0;
    for (int64_t n = 0; n < job->batch; n++)
        for (int64_t i = 0; i < job->inner; i += RUN)
            sum += run_squares(esp_tile_end(i, RUN, job->inner) - i, job->x + offset_of(job, n, c) + i, mean);
    return sum;
}

static void evaluate_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const norm_job *job = context;
    int64_t last = esp_tile_end(task * job->rows, job->rows, job->batch * job->channels);
    for (int64_t row = task * job->rows; row < last; row++) {
        int64_t c = row % job->channels;
        float factor = job->scale[c] / sqrtf(job->variance[c] + job->epsilon);
        run_normalise(job->inner, job->x + row * job->inner, job->mean[c], factor, job->bias[c],
                      job->y + row * job->inner);
    }
}

esp_status esp_batch_norm_forward(const esp_compute *compute, int64_t batch, int64_t channels, int64_t inner,
                                  const float *x, const float *scale, const float *bias, const float *mean,
                                  const float *variance, float epsilon, float *y)
{
    norm_job job = {.batch = batch,
                    .channels = channels,
                    .inner = inner,
                    .x = x,
                    .scale = scale,
                    .bias = bias,
                    .mean = mean,
                    .variance = variance,
                    .epsilon = epsilon,
                    .y = y,
                    .rows = esp_tile_rows(inner)};
    return esp_compute_run(compute, esp_tile_count(batch * channels, job.rows), evaluate_task, &job);
}

static void train_task(void *context, int64_t c, int slot)
{
    (void)slot;
    const norm_job *job = context;
    double count = (double)job->batch * (double)job->inner;

    /* Deviations are from the mean itself: sums of plain squares would lose them under a large common offset.
     */
    float mean = (float)(channel_sum(job, c) / count);
    double squares = channel_squares(job, c, mean);
    double variance = squares / count;
    float inverse_std = (float)(1.0 / sqrt(variance + (double)job->epsilon));

    job->saved_mean[c] = mean;
    job->saved_inverse_std[c] = inverse_std;
    float keep = job->momentum;
    double unbiased = count > 1.0 ? squares / (count - 1.0) : variance;
    job->running_mean[c] = job->running_mean[c] * keep + mean * (1.0f - keep);
    job->running_variance[c] = job->running_variance[c] * keep + (float)unbiased * (1.0f - keep);

    for (int64_t n = 0; n < job->batch; n++)
        run_normalise(job->inner, job->x + offset_of(job, n, c), mean, job->scale[c] * inverse_std,
                      job->bias[c], job->y + offset_of(job, n, c));
}

esp_status esp_batch_norm_train(const esp_compute *compute, int64_t batch, int64_t channels, int64_t inner,
                                const float *x, const float *scale, const float *bias, float epsilon,
                                float momentum, float *running_mean, float *running_variance,
                                float *saved_mean, float *saved_inverse_std, float *y)
{
    norm_job job = {.batch = batch,
                    .channels = channels,
                    .inner = inner,
                    .x = x,
                    .scale = scale,
                    .bias = bias,
                    .epsilon = epsilon,
                    .momentum = momentum,
                    .y = y,
                    .running_mean = running_mean,
                    .running_variance = running_variance,
                    .saved_mean = saved_mean,
                    .saved_inverse_std = saved_inverse_std};
    if (batch * inner == 0)
        return ESP_OK;
    return esp_compute_run(compute, channels, train_task, &job);
}

/* Both backward forms; in the frozen one the statistics are constants and carry no gradient. */
static void backward_task(void *context, int64_t c, int slot)
{
    (void)slot;
    const norm_job *job = context;
    bool is_frozen = job->inverse_std == NULL;
    float mean = job->mean[c];
    float inverse_std = is_frozen ? 1.0f / sqrtf(job->variance[c] + job->epsilon) : job->inverse_std[c];
    double count = (double)job->batch * (double)job->inner, sum_dy = 0.0, sum_dy_x = 0.0;

    for (int64_t n = 0; n < job->batch; n++)
        for (int64_t i = 0; i < job->inner; i += RUN)
            run_gradient_sums(esp_tile_end(i, RUN, job->inner) - i, job->x + offset_of(job, n, c) + i,
                              job->dy + offset_of(job, n, c) + i, mean, &sum_dy, &sum_dy_x);
    double spread = (double)inverse_std;
    job->dbias[c] = (float)sum_dy;
    job->dscale[c] = (float)(sum_dy_x * spread);

    float mean_dy = is_frozen ? 0.0f : (float)(sum_dy / count);
    float slope = is_frozen ? 0.0f : (float)(sum_dy_x * spread * spread / count);
    for (int64_t n = 0; n < job->batch; n++)
        run_gradient(job->inner, job->x + offset_of(job, n, c), job->dy + offset_of(job, n, c), mean, mean_dy,
                     slope, job->scale[c] * inverse_std, job->dx + offset_of(job, n, c));
}

esp_status esp_batch_norm_backward(const esp_compute *compute, int64_t batch, int64_t channels, int64_t inner,
                                   const float *x, const float *dy, const float *scale,
                                   const float *saved_mean, const float *saved_inverse_std, float *dx,
                                   float *dscale, float *dbias)
{
    norm_job job = {.batch = batch,
                    .channels = channels,
                    .inner = inner,
                    .x = x,
                    .dy = dy,
                    .scale = scale,
                    .mean = saved_mean,
                    .inverse_std = saved_inverse_std,
                    .dx = dx,
                    .dscale = dscale,
                    .dbias = dbias};
    return esp_compute_run(compute, channels, backward_task, &job);
}

esp_status esp_batch_norm_backward_frozen(const esp_compute *compute, int64_t batch, int64_t channels,
                                          int64_t inner, const float *x, const float *dy, const float *scale,
                                          const float *mean, const float *variance, float epsilon, float *dx,
                                          float *dscale, float *dbias)
{
    norm_job job = {.batch = batch,
                    .channels = channels,
                    .inner = inner,
                    .x = x,
                    .dy = dy,
                    .scale = scale,
                    .mean = mean,
                    .variance = variance,
                    .epsilon = epsilon,
                    .dx = dx,
                    .dscale = dscale,
                    .dbias = dbias};
    return esp_compute_run(compute, channels, backward_task, &job);
}
