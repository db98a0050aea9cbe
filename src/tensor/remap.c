/* Axes behind the last one with a map form runs that are copied whole; that last mapped axis is the inner
 * loop; the axes in front of it are rows. Forward splits rows into tasks. Backward adds, so its tasks are the
 * leading axes without maps, whose slices never meet. */
#include "tensor/remap.h"

#include <string.h>

#include "tensor/arrange.h"
#include "tensor/simd.h"

typedef struct remap_job {
    const esp_remap *remap;
    int axis;         /* the last mapped one; -1: none */
    int first_mapped; /* backward: leading axes without a map */
    int64_t run;      /* elements behind `axis` */
    int64_t rows, rows_per_task;
    size_t size; /* of an element */
    const char *x, *fill;
    char *y;
    const float *dy;
    float *dx;
} remap_job;

/* Where a row of y (a position of the axes in front of the inner one) begins in x, in steps of the inner
 * axis; -1: nowhere. */
static int64_t locate_row(const esp_remap *remap, int axis, int64_t row)
{
    int64_t at = 0, stride = 1;
    for (int d = axis - 1; d >= 0; d--) {
        int64_t index = row % remap->y.dims[d], from = remap->maps[d] == NULL ? index : remap->maps[d][index];
        if (from < 0)
            return -1;
        at += from * stride;
        stride *= remap->x.dims[d];
        row /= remap->y.dims[d];
    }
    return at;
}

static void fill_run(const remap_job *job, char *y, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(y + (size_t)i * job->size, job->fill, job->size);
}

#define PICK_ROW(type)                                                                                       \
    for (int64_t j = 0; j < count; j++)                                                                      \
    ((type *)(void *)y)[j] =                                                                                 \
        ((const type *)(const void *)(map[j] < 0 ? job->fill : x))[map[j] < 0 ? 0 : map[j]]

/* A row of single elements. */
static void pick_row(const remap_job *job, const int64_t *map, int64_t count, const char *x, char *y)
{
    switch (job->size) {
    case 1:
        PICK_ROW(uint8_t);
        return;
    case 4:
        PICK_ROW(uint32_t);
        return;
    default:
        PICK_ROW(uint64_t);
        return;
    }
}

static void copy_row(const remap_job *job, int64_t row)
{
    const esp_remap *remap = job->remap;
    const int64_t *map = remap->maps[job->axis];
    int64_t count = remap->y.dims[job->axis], start = locate_row(remap, job->axis, row);
    size_t run = (size_t)job->run * job->size;
    char *y = job->y + (size_t)(row * count) * run;
    if (start < 0) {
        fill_run(job, y, count * job->run);
        return;
    }
    const char *x = job->x + (size_t)(start * remap->x.dims[job->axis]) * run;
    if (job->run == 1) {
        pick_row(job, map, count, x, y);
        return;
    }
    for (int64_t j = 0; j < count; j++, y += run) {
        if (map[j] < 0)
            fill_run(job, y, job->run);
        else
            memcpy(y, x + (size_t)map[j] * run, run);
    }
}

static void forward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const remap_job *job = context;
    int64_t start = task * job->rows_per_task, end = esp_tile_end(start, job->rows_per_task, job->rows);
    for (int64_t row = start; row < end; row++)
        copy_row(job, row);
}

static int64_t product(const esp_shape *shape, int from, int to)
{
    int64_t result = 1;
    for (int d = from; d < to; d++)
        result *= shape->dims[d];
    return result;
}

static remap_job make_job(const esp_remap *remap)
{
    remap_job job = {.remap = remap, .axis = -1, .first_mapped = remap->y.rank};
    for (int d = 0; d < remap->y.rank; d++) {
        if (remap->maps[d] == NULL)
            continue;
        job.axis = d;
        job.first_mapped = d < job.first_mapped ? d : job.first_mapped;
    }
    job.run = product(&remap->y, job.axis + 1, remap->y.rank);
    job.rows = product(&remap->y, 0, job.axis < 0 ? 0 : job.axis);
    return job;
}

esp_status esp_remap_forward(const esp_compute *compute, const esp_remap *remap, size_t element_size,
                             const void *x, const void *fill, void *y)
{
    remap_job job = make_job(remap);
    if (esp_shape_elements(&remap->y) <= 0)
        return ESP_OK;
    if (job.axis < 0) {
        memcpy(y, x, (size_t)job.run * element_size);
        return ESP_OK;
    }
    job.size = element_size;
    job.x = x;
    job.fill = fill;
    job.y = y;
    job.rows_per_task = esp_tile_rows(remap->y.dims[job.axis] * job.run);
    return esp_compute_run(compute, esp_tile_count(job.rows, job.rows_per_task), forward_task, &job);
}

static void add_row(const remap_job *job, const float *dy, float *dx)
{
    const int64_t *map = job->remap->maps[job->axis];
    int64_t count = job->remap->y.dims[job->axis];
    for (int64_t j = 0; j < count; j++, dy += job->run) {
        float *target = map[j] < 0 ? NULL : dx + map[j] * job->run;
        for (int64_t i = 0; target != NULL && i < job->run; i++)
            target[i] += dy[i];
    }
}

/* One slice along the leading unmapped axes: its rows in order. */
static void backward_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const remap_job *job = context;
    const esp_remap *remap = job->remap;
    int64_t slice = product(&remap->x, job->first_mapped, remap->x.rank);
    int64_t rows = product(&remap->y, job->first_mapped, job->axis);
    esp_fill_f32(job->dx + task * slice, slice, 0.0f);
    for (int64_t row = task * rows; row < (task + 1) * rows; row++) {
        int64_t start = locate_row(remap, job->axis, row);
        if (start >= 0)
            add_row(job, job->dy + row * remap->y.dims[job->axis] * job->run,
                    job->dx + start * remap->x.dims[job->axis] * job->run);
    }
}

esp_status esp_remap_backward(const esp_compute *compute, const esp_remap *remap, const float *dy, float *dx)
{
    remap_job job = make_job(remap);
    if (esp_shape_elements(&remap->x) <= 0)
        return ESP_OK;
    if (job.axis < 0) {
        memcpy(dx, dy, (size_t)job.run * sizeof(float));
        return ESP_OK;
    }
    job.dy = dy;
    job.dx = dx;
    return esp_compute_run(compute, product(&remap->x, 0, job.first_mapped), backward_task, &job);
}
