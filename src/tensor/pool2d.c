/* Pooling. A task is a block of planes. Forward passes go tap by tap over whole output rows, so that the
 * inner loop runs along a row; every tap of every window is visited in the order a naive loop would. */
#include "tensor/pool2d.h"

#include <math.h>
#include <string.h>

#include "tensor/simd.h"
#include "tensor/window.h"

int64_t esp_pool2d_output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad_begin,
                               int64_t pad_end, int64_t dilation, bool ceil_mode)
{
    int64_t padded = size + pad_begin + pad_end, whole = esp_window_count(padded, kernel, stride, dilation);
    if (whole == 0 || !ceil_mode)
        return whole;
    int64_t count = esp_window_count(padded + stride - 1, kernel, stride, dilation);
    return (count - 1) * stride >= size + pad_begin ? count - 1 : count;
}

typedef struct pool_job {
    const esp_pool2d_geometry *g;
    const float *x, *dy;
    float *y, *dx;
    int64_t planes_per_task;
    void (*plane)(const struct pool_job *job, int64_t plane);
} pool_job;

static void pool_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const pool_job *job = context;
    int64_t start = task * job->planes_per_task;
    int64_t end = esp_tile_end(start, job->planes_per_task, job->g->batch * job->g->channels);
    for (int64_t plane = start; plane < end; plane++)
        job->plane(job, plane);
}

static esp_status run_planes(const esp_compute *compute, pool_job *job)
{
    const esp_pool2d_geometry *g = job->g;
    job->planes_per_task = esp_tile_rows(g->height * g->width);
    return esp_compute_run(compute, esp_tile_count(g->batch * g->channels, job->planes_per_task), pool_task,
                           job);
}

/* A NaN wins over every number, as in the framework the networks come from. */
ESP_SIMD_CLONES
static void row_max(int64_t count, const float *x, int64_t stride, float *y)
{
    if (stride == 1)
        for (int64_t i = 0; i < count; i++)
            y[i] = x[i] > y[i] || x[i] != x[i] ? x[i] : y[i];
    else
        for (int64_t i = 0; i < count; i++)
            y[i] = x[i * stride] > y[i] || x[i * stride] != x[i * stride] ? x[i * stride] : y[i];
}

ESP_SIMD_CLONES
static void row_add(int64_t count, const float *x, int64_t stride, float *y)
{
    if (stride == 1)
        for (int64_t i = 0; i < count; i++)
            y[i] += x[i];
    else
        for (int64_t i = 0; i < count; i++)
            y[i] += x[i * stride];
}

/* y[row] = fold of the window rows of x, one tap at a time, starting from `initial`. */
static void fold_row(const esp_pool2d_geometry *g, const float *x, int64_t row, float initial,
                     void (*fold)(int64_t, const float *, int64_t, float *), float *y)
{
    for (int64_t i = 0; i < g->out_width; i++)
        y[i] = initial;
    int64_t start = row * g->stride_h - g->pad_top, first_y, last_y;
    esp_window_taps(start, g->kernel_h, g->dilation_h, g->height, &first_y, &last_y);
    for (int64_t tap_y = first_y; tap_y < last_y; tap_y++)
        for (int64_t tap_x = 0; tap_x < g->kernel_w; tap_x++) {
            int64_t first, last;
            esp_window_outputs(g->width, g->out_width, g->stride_w, g->pad_left, tap_x * g->dilation_w,
                               &first, &last);
            const float *source = x + (start + tap_y * g->dilation_h) * g->width + first * g->stride_w +
                                  tap_x * g->dilation_w - g->pad_left;
            if (first < last)
                fold(last - first, source, g->stride_w, y + first);
        }
}

static void max_plane(const pool_job *job, int64_t plane)
{
    const esp_pool2d_geometry *g = job->g;
    const float *x = job->x + plane * g->height * g->width;
    float *y = job->y + plane * g->out_height * g->out_width;
    for (int64_t row = 0; row < g->out_height; row++)
        fold_row(g, x, row, -INFINITY, row_max, y + row * g->out_width);
}

esp_status esp_max_pool_forward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                const float *x, float *y)
{
    pool_job job = {.g = geometry, .x = x, .y = y, .plane = max_plane};
    return run_planes(compute, &job);
}

/* Index in x of the first maximum (or NaN) of a window; -1 when the window lies outside the image. */
static int64_t first_maximum(const esp_pool2d_geometry *g, const float *x, int64_t row, int64_t column)
{
    int64_t y0 = row * g->stride_h - g->pad_top, x0 = column * g->stride_w - g->pad_left;
    int64_t first_y, last_y, first_x, last_x, best = -1;
    esp_window_taps(y0, g->kernel_h, g->dilation_h, g->height, &first_y, &last_y);
    esp_window_taps(x0, g->kernel_w, g->dilation_w, g->width, &first_x, &last_x);
    for (int64_t tap_y = first_y; tap_y < last_y; tap_y++)
        for (int64_t tap_x = first_x; tap_x < last_x; tap_x++) {
            int64_t at = (y0 + tap_y * g->dilation_h) * g->width + x0 + tap_x * g->dilation_w;
            if (best >= 0 && isnan(x[best]))
                return best;
            if (best < 0 || x[at] > x[best] || isnan(x[at]))
                best = at;
        }
    return best;
}

static void max_backward_plane(const pool_job *job, int64_t plane)
{
    const esp_pool2d_geometry *g = job->g;
    const float *x = job->x + plane * g->height * g->width;
    const float *dy = job->dy + plane * g->out_height * g->out_width;
    float *dx = job->dx + plane * g->height * g->width;
    memset(dx, 0, (size_t)(g->height * g->width) * sizeof(float));
    for (int64_t row = 0; row < g->out_height; row++)
        for (int64_t column = 0; column < g->out_width; column++) {
            int64_t at = first_maximum(g, x, row, column);
            if (at >= 0)
                dx[at] += dy[row * g->out_width + column];
        }
}

esp_status esp_max_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                 const float *x, const float *dy, float *dx)
{
    pool_job job = {.g = geometry, .x = x, .dy = dy, .dx = dx, .plane = max_backward_plane};
    return run_planes(compute, &job);
}

/* Number of taps that count along one axis: inside the image, or inside image and padding. */
static int64_t counted_taps(int64_t start, int64_t kernel, int64_t dilation, int64_t size, int64_t pad_begin,
                            int64_t pad_end, bool counts_padding)
{
    int64_t first, last;
    if (counts_padding)
        esp_window_taps(start + pad_begin, kernel, dilation, size + pad_begin + pad_end, &first, &last);
    else
        esp_window_taps(start, kernel, dilation, size, &first, &last);
    return last - first;
}

float esp_pool2d_weight(const esp_pool2d_geometry *g, int64_t row, int64_t column)
{
    int64_t rows = counted_taps(row * g->stride_h - g->pad_top, g->kernel_h, g->dilation_h, g->height,
                                g->pad_top, g->pad_bottom, g->counts_padding);
    int64_t columns = counted_taps(column * g->stride_w - g->pad_left, g->kernel_w, g->dilation_w, g->width,
                                   g->pad_left, g->pad_right, g->counts_padding);
    int64_t taps = rows * columns;
    return taps > 0 ? 1.0f / (float)taps : 0.0f;
}

/* A window over the whole plane is a plain sum. */
static bool is_global(const esp_pool2d_geometry *g)
{
    return g->out_height == 1 && g->out_width == 1 && g->kernel_h == g->height && g->kernel_w == g->width &&
           g->dilation_h == 1 && g->dilation_w == 1 && g->pad_top == 0 && g->pad_left == 0;
}

static void average_plane(const pool_job *job, int64_t plane)
{
    const esp_pool2d_geometry *g = job->g;
    const float *x = job->x + plane * g->height * g->width;
    float *y = job->y + plane * g->out_height * g->out_width;
    if (is_global(g)) {
        y[0] = (float)(esp_sum_f32(g->height * g->width, x) * (double)esp_pool2d_weight(g, 0, 0));
        return;
    }
    for (int64_t row = 0; row < g->out_height; row++, y += g->out_width) {
        fold_row(g, x, row, 0.0f, row_add, y);
        for (int64_t column = 0; column < g->out_width; column++)
            y[column] *= esp_pool2d_weight(g, row, column);
    }
}

esp_status esp_average_pool_forward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                    const float *x, float *y)
{
    pool_job job = {.g = geometry, .x = x, .y = y, .plane = average_plane};
    return run_planes(compute, &job);
}

static void spread_window(const esp_pool2d_geometry *g, int64_t row, int64_t column, float value, float *dx)
{
    int64_t y0 = row * g->stride_h - g->pad_top, x0 = column * g->stride_w - g->pad_left;
    int64_t first_y, last_y, first_x, last_x;
    esp_window_taps(y0, g->kernel_h, g->dilation_h, g->height, &first_y, &last_y);
    esp_window_taps(x0, g->kernel_w, g->dilation_w, g->width, &first_x, &last_x);
    for (int64_t tap_y = first_y; tap_y < last_y; tap_y++)
        for (int64_t tap_x = first_x; tap_x < last_x; tap_x++)
            dx[(y0 + tap_y * g->dilation_h) * g->width + x0 + tap_x * g->dilation_w] += value;
}

static void average_backward_plane(const pool_job *job, int64_t plane)
{
    const esp_pool2d_geometry *g = job->g;
    const float *dy = job->dy + plane * g->out_height * g->out_width;
    float *dx = job->dx + plane * g->height * g->width;
    memset(dx, 0, (size_t)(g->height * g->width) * sizeof(float));
    for (int64_t row = 0; row < g->out_height; row++)
        for (int64_t column = 0; column < g->out_width; column++)
            spread_window(g, row, column, dy[row * g->out_width + column] * esp_pool2d_weight(g, row, column),
                          dx);
}

esp_status esp_average_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                     const float *dy, float *dx)
{
    pool_job job = {.g = geometry, .dy = dy, .dx = dx, .plane = average_backward_plane};
    return run_planes(compute, &job);
}
