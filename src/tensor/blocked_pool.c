/* Pooling of blocked images: a window is folded pixel by pixel, sixteen channels at once. Forward, a task is
 * a band of output rows of one plane, or several small planes; backward a task has whole planes, so that what
 * windows share is added up in order. */
#include <string.h>

#include "tensor/blocked.h"
#include "tensor/blocked_passes.h"
#include "tensor/blocked_planes.h"

typedef struct pool_job {
    const esp_pool2d_geometry *g;
    blocked_images x, y; /* y: dy when backward */
    blocked_images dx;
    void (*forward)(const esp_pool2d_geometry *g, const float *x, int64_t row, float *y);
    void (*backward)(const esp_pool2d_geometry *g, const float *x, int64_t row, const float *dy, float *dx);
    int64_t planes, planes_per_task, rows_per_task, bands;
} pool_job;

static void forward_rows(const pool_job *job, int64_t plane, int64_t first_row, int64_t last_row)
{
    int64_t n = plane / job->y.blocks, block = plane % job->y.blocks;
    for (int64_t row = first_row; row < last_row; row++)
        job->forward(job->g, blocked_place(&job->x, n, block, 0), row,
                     blocked_place(&job->y, n, block, row * job->g->out_width));
}

/* Clears rows of an image just before they are first added to, while they come into the cache anyway. */
static void clear_rows(float *image, int64_t row_floats, int64_t end, int64_t *cleared)
{
    if (end <= *cleared)
        return;
    memset(image + *cleared * row_floats, 0, (size_t)((end - *cleared) * row_floats) * sizeof(float));
    *cleared = end;
}

static void backward_plane(const pool_job *job, int64_t plane)
{
    const esp_pool2d_geometry *g = job->g;
    int64_t n = plane / job->y.blocks, block = plane % job->y.blocks, cleared = 0;
    float *dx = blocked_place(&job->dx, n, block, 0);
    for (int64_t row = 0; row < g->out_height; row++) {
        blocked_window w = esp_blocked_window(g, row, 0);
        if (w.rows > 0)
            clear_rows(dx, g->width * ESP_BLOCK, w.last_y + 1, &cleared);
        job->backward(g, blocked_place(&job->x, n, block, 0), row,
                      blocked_place(&job->y, n, block, row * g->out_width), dx);
    }
    clear_rows(dx, g->width * ESP_BLOCK, g->height, &cleared);
}

static void pool_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const pool_job *job = context;
    int64_t plane = task / job->bands * job->planes_per_task;
    int64_t last_plane = esp_tile_end(plane, job->planes_per_task, job->planes);
    int64_t first_row = task % job->bands * job->rows_per_task;
    int64_t last_row = esp_tile_end(first_row, job->rows_per_task, job->g->out_height);
    for (; plane < last_plane; plane++) {
        if (job->backward != NULL)
            backward_plane(job, plane);
        else
            forward_rows(job, plane, first_row, last_row);
    }
}

static esp_status run_pool(const esp_compute *compute, pool_job *job)
{
    const esp_pool2d_geometry *g = job->g;
    int64_t in_floats = g->height * g->width * ESP_BLOCK,
            out_floats = g->out_height * g->out_width * ESP_BLOCK;
    int64_t floats = in_floats > out_floats ? in_floats : out_floats;
    job->planes = job->y.batch * job->y.blocks;
    job->planes_per_task = esp_tile_rows(floats);
    job->rows_per_task = g->out_height;
    if (job->backward == NULL && floats > 2 * ESP_FLAT_TILE)
        job->rows_per_task = esp_tile_count(g->out_height, floats / ESP_FLAT_TILE);
    job->bands = job->rows_per_task > 0 ? esp_tile_count(g->out_height, job->rows_per_task) : 0;
    if (job->backward != NULL)
        job->bands = 1; /* an empty output still has a gradient to clear */
    return esp_compute_run(compute, esp_tile_count(job->planes, job->planes_per_task) * job->bands, pool_task,
                           job);
}

esp_status esp_blocked_max_pool(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                const esp_view *x, const esp_view *y)
{
    pool_job job = {.g = geometry,
                    .x = blocked_images_of(x),
                    .y = blocked_images_of(y),
                    .forward = esp_blocked_passes()->max_row};
    return run_pool(compute, &job);
}

esp_status esp_blocked_max_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                         const esp_view *x, const esp_view *dy, const esp_view *dx)
{
    pool_job job = {.g = geometry,
                    .x = blocked_images_of(x),
                    .y = blocked_images_of(dy),
                    .dx = blocked_images_of(dx),
                    .backward = esp_blocked_passes()->max_backward_row};
    return run_pool(compute, &job);
}

esp_status esp_blocked_average_pool(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                    const esp_view *x, const esp_view *y)
{
    pool_job job = {.g = geometry,
                    .x = blocked_images_of(x),
                    .y = blocked_images_of(y),
                    .forward = esp_blocked_passes()->average_row};
    return run_pool(compute, &job);
}

esp_status esp_blocked_average_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                             const esp_view *dy, const esp_view *dx)
{
    pool_job job = {.g = geometry,
                    .y = blocked_images_of(dy),
                    .dx = blocked_images_of(dx),
                    .backward = esp_blocked_passes()->average_backward_row};
    return run_pool(compute, &job);
}
