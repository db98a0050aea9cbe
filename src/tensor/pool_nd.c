/* Pooling in plain loops. A task is a plane; every window is cut to the taps that lie in the image, and then
 * visited in row-major order. */
#include "tensor/pool_nd.h"

#include <math.h>
#include <string.h>

#include "tensor/window.h"

typedef struct pool_job {
    const esp_pool_nd *pool;
    const float *x, *dy;
    float *y, *dx;
    const float *norms; /* Lp backward: y */
    int64_t *indices;
    void (*window)(const struct pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES]);
} pool_job;

static int64_t volume(const int64_t size[ESP_POOL_AXES])
{
    return size[0] * size[1] * size[2];
}

static void pool_task(void *context, int64_t plane, int slot)
{
    (void)slot;
    const pool_job *job = context;
    const int64_t *out = job->pool->out;
    int64_t place[ESP_POOL_AXES];
    if (job->dx != NULL)
        memset(job->dx + plane * volume(job->pool->size), 0, (size_t)volume(job->pool->size) * sizeof(float));
    for (place[0] = 0; place[0] < out[0]; place[0]++)
        for (place[1] = 0; place[1] < out[1]; place[1]++)
            for (place[2] = 0; place[2] < out[2]; place[2]++)
                job->window(job, plane, place);
}

static esp_status run_planes(const esp_compute *compute, pool_job *job)
{
    return esp_compute_run(compute, job->pool->planes, pool_task, job);
}

static int64_t output_index(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    const int64_t *out = job->pool->out;
    return ((plane * out[0] + place[0]) * out[1] + place[1]) * out[2] + place[2];
}

/* A walk over the taps of a window that lie in the image: for (taps t = taps_at(...); taps_next(&t);) reads
 * plane[t.at]. */
typedef struct taps {
    const esp_pool_nd *pool;
    int64_t start[ESP_POOL_AXES], first[ESP_POOL_AXES], last[ESP_POOL_AXES], next[ESP_POOL_AXES];
    bool is_over;
    int64_t at;
} taps;

static taps taps_at(const esp_pool_nd *pool, const int64_t place[ESP_POOL_AXES])
{
    taps t = {.pool = pool};
    for (int d = 0; d < ESP_POOL_AXES; d++) {
        t.start[d] = place[d] * pool->stride[d] - pool->pad_begin[d];
        esp_window_taps(t.start[d], pool->kernel[d], pool->dilation[d], pool->size[d], &t.first[d],
                        &t.last[d]);
        t.next[d] = t.first[d];
        t.is_over = t.is_over || t.first[d] >= t.last[d];
    }
    return t;
}

static bool taps_next(taps *t)
{
    const esp_pool_nd *pool = t->pool;
    if (t->is_over)
        return false;
    t->at = 0;
    for (int d = 0; d < ESP_POOL_AXES; d++)
        t->at = t->at * pool->size[d] + t->start[d] + t->next[d] * pool->dilation[d];
    int d = ESP_POOL_AXES - 1;
    while (d >= 0 && ++t->next[d] >= t->last[d]) {
        t->next[d] = t->first[d];
        d--;
    }
    t->is_over = d < 0;
    return true;
}

/* Index in the plane of the first maximum (or NaN) of a window; -1 when it has no tap. */
static int64_t first_maximum(const esp_pool_nd *pool, const float *x, const int64_t place[ESP_POOL_AXES])
{
    int64_t best = -1;
    for (taps t = taps_at(pool, place); taps_next(&t);) {
        if (best < 0 || x[t.at] > x[best] || (isnan(x[t.at]) && !isnan(x[best])))
            best = t.at;
    }
    return best;
}

static int64_t column_major_index(const esp_pool_nd *pool, int64_t at)
{
    const int64_t *size = pool->size;
    int64_t z = at / (size[1] * size[2]), y = at / size[2] % size[1], x = at % size[2];
    return (x * size[1] + y) * size[0] + z;
}

static void max_window(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    const esp_pool_nd *pool = job->pool;
    int64_t size = volume(pool->size), to = output_index(job, plane, place);
    int64_t at = first_maximum(pool, job->x + plane * size, place);
    job->y[to] = at < 0 ? -INFINITY : job->x[plane * size + at];
    if (job->indices != NULL)
        job->indices[to] =
            at < 0 ? -1 : plane * size + (pool->column_major ? column_major_index(pool, at) : at);
}

esp_status esp_pool_nd_max(const esp_compute *compute, const esp_pool_nd *pool, const float *x, float *y,
                           int64_t *indices)
{
    pool_job job = {.pool = pool, .x = x, .y = y, .indices = indices, .window = max_window};
    return run_planes(compute, &job);
}

static void max_window_backward(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    int64_t size = volume(job->pool->size);
    int64_t at = first_maximum(job->pool, job->x + plane * size, place);
    if (at >= 0)
        job->dx[plane * size + at] += job->dy[output_index(job, plane, place)];
}

esp_status esp_pool_nd_max_backward(const esp_compute *compute, const esp_pool_nd *pool, const float *x,
                                    const float *dy, float *dx)
{
    pool_job job = {.pool = pool, .x = x, .dy = dy, .dx = dx, .window = max_window_backward};
    return run_planes(compute, &job);
}

/* One over the taps that count; 0 when there are none. */
static float average_weight(const esp_pool_nd *pool, const int64_t place[ESP_POOL_AXES])
{
    int64_t count = 1;
    for (int d = 0; d < ESP_POOL_AXES; d++) {
        int64_t begin = pool->counts_padding ? pool->pad_begin[d] : 0;
        int64_t end = pool->counts_padding ? pool->pad_end[d] : 0, first, last;
        esp_window_taps(place[d] * pool->stride[d] - pool->pad_begin[d] + begin, pool->kernel[d],
                        pool->dilation[d], pool->size[d] + begin + end, &first, &last);
        count *= last - first;
    }
    return count > 0 ? 1.0f / (float)count : 0.0f;
}

static void average_window(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    const esp_pool_nd *pool = job->pool;
    const float *x = job->x + plane * volume(pool->size);
    float sum = 0.0f;
    for (taps t = taps_at(pool, place); taps_next(&t);)
        sum += x[t.at];
    job->y[output_index(job, plane, place)] = sum * average_weight(pool, place);
}

esp_status esp_pool_nd_average(const esp_compute *compute, const esp_pool_nd *pool, const float *x, float *y)
{
    pool_job job = {.pool = pool, .x = x, .y = y, .window = average_window};
    return run_planes(compute, &job);
}

static void average_window_backward(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    const esp_pool_nd *pool = job->pool;
    float *dx = job->dx + plane * volume(pool->size);
    float share = job->dy[output_index(job, plane, place)] * average_weight(pool, place);
    for (taps t = taps_at(pool, place); taps_next(&t);)
        dx[t.at] += share;
}

esp_status esp_pool_nd_average_backward(const esp_compute *compute, const esp_pool_nd *pool, const float *dy,
                                        float *dx)
{
    pool_job job = {.pool = pool, .dy = dy, .dx = dx, .window = average_window_backward};
    return run_planes(compute, &job);
}

/* |x|^p; p of 1 and 2, the usual ones, without pow. */
static double power(double x, int64_t p)
{
    return p == 1 ? fabs(x) : p == 2 ? x * x : pow(fabs(x), (double)p);
}

static void lp_window(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    const esp_pool_nd *pool = job->pool;
    const float *x = job->x + plane * volume(pool->size);
    double sum = 0.0;
    for (taps t = taps_at(pool, place); taps_next(&t);)
        sum += power((double)x[t.at], pool->p);
    job->y[output_index(job, plane, place)] = (float)pow(sum, 1.0 / (double)pool->p);
}

esp_status esp_pool_nd_lp(const esp_compute *compute, const esp_pool_nd *pool, const float *x, float *y)
{
    pool_job job = {.pool = pool, .x = x, .y = y, .window = lp_window};
    return run_planes(compute, &job);
}

/* dy/dx = sign(x) * (|x| / y)^(p - 1). */
static void lp_window_backward(const pool_job *job, int64_t plane, const int64_t place[ESP_POOL_AXES])
{
    const esp_pool_nd *pool = job->pool;
    const float *x = job->x + plane * volume(pool->size);
    float *dx = job->dx + plane * volume(pool->size);
    int64_t from = output_index(job, plane, place);
    double norm = (double)job->norms[from], dy = (double)job->dy[from];
    if (!(norm > 0.0))
        return;
    for (taps t = taps_at(pool, place); taps_next(&t);) {
        double slope = power(fabs((double)x[t.at]) / norm, pool->p - 1);
        if (pool->p == 1)
            slope = x[t.at] > 0.0f || x[t.at] < 0.0f ? 1.0 : 0.0;
        dx[t.at] += (float)(x[t.at] < 0.0f ? -slope * dy : slope * dy);
    }
}

esp_status esp_pool_nd_lp_backward(const esp_compute *compute, const esp_pool_nd *pool, const float *x,
                                   const float *y, const float *dy, float *dx)
{
    pool_job job = {.pool = pool, .x = x, .norms = y, .dy = dy, .dx = dx, .window = lp_window_backward};
    return run_planes(compute, &job);
}
