/* Data movement. The index space is simplified first, so that a transposed, sliced or padded copy is a few
 * loops around runs that both sides walk one element at a time (one memcpy) or with fixed strides. */
#include "tensor/arrange.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/simd.h"
#include "tensor/strides.h"

enum { SOURCE, TARGET };

typedef struct move_job {
    esp_walk walk;
    size_t element_size;
    const char *source;
    char *target;
    int64_t length, piece, pieces; /* the innermost dimension, cut into pieces */
    int64_t rows, rows_per_task;
} move_job;

/* One run of `count` elements; `type` has the size of an element. */
#define MOVE_RUN(type)                                                                                       \
    for (int64_t i = 0; i < count; i++)                                                                      \
    ((type *)(void *)target)[i * target_stride] = ((const type *)(const void *)source)[i * source_stride]

static void move_run(size_t element_size, int64_t count, const char *source, int64_t source_stride,
                     char *target, int64_t target_stride)
{
    if (source_stride == 1 && target_stride == 1) {
        memcpy(target, source, (size_t)count * element_size);
        return;
    }
    switch (element_size) {
    case 1:
        MOVE_RUN(uint8_t);
        return;
    case 4:
        MOVE_RUN(uint32_t);
        return;
    default:
        MOVE_RUN(uint64_t);
        return;
    }
}

static void move_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const move_job *job = context;
    const esp_walk *walk = &job->walk;
    int inner = walk->rank - 1;
    int64_t source_stride = walk->strides[SOURCE][inner], target_stride = walk->strides[TARGET][inner];
    int64_t start = task % job->pieces * job->piece;
    int64_t count = esp_tile_end(start, job->piece, job->length) - start;
    int64_t first = task / job->pieces * job->rows_per_task;
    int64_t last = esp_tile_end(first, job->rows_per_task, job->rows), offsets[ESP_MOST_WALKED];
    int64_t size = (int64_t)job->element_size;
    for (int64_t row = first; row < last; row++) {
        esp_walk_locate(walk, inner, row, offsets);
        move_run(job->element_size, count, job->source + (offsets[SOURCE] + start * source_stride) * size,
                 source_stride, job->target + (offsets[TARGET] + start * target_stride) * size,
                 target_stride);
    }
}

static esp_walk walk_of(const esp_shape *shape, const int64_t *source_strides, const int64_t *target_strides)
{
    esp_walk walk = {.rank = shape->rank, .operands = 2};
    for (int d = 0; d < shape->rank; d++) {
        walk.dims[d] = shape->dims[d];
        walk.strides[SOURCE][d] = source_strides[d];
        walk.strides[TARGET][d] = target_strides[d];
    }
    esp_walk_simplify(&walk);
    return walk;
}

esp_status esp_copy_strided(const esp_compute *compute, const esp_shape *shape, size_t element_size,
                            const void *source, const int64_t *source_strides, void *target,
                            const int64_t *target_strides)
{
    if (esp_shape_elements(shape) <= 0)
        return ESP_OK;
    move_job job = {.walk = walk_of(shape, source_strides, target_strides),
                    .element_size = element_size,
                    .source = source,
                    .target = target};
    job.length = job.walk.dims[job.walk.rank - 1];
    job.piece = ESP_FLAT_TILE;
    job.pieces = esp_tile_count(job.length, job.piece);
    job.rows = esp_walk_positions(&job.walk, job.walk.rank - 1);
    job.rows_per_task = esp_tile_rows(job.length);
    return esp_compute_run(compute, esp_tile_count(job.rows, job.rows_per_task) * job.pieces, move_task,
                           &job);
}

typedef struct add_job {
    esp_walk walk; /* of one slice along the dimension that tasks split */
    const float *source;
    float *target;
    int64_t source_step, target_step;
} add_job;

static void add_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const add_job *job = context;
    const esp_walk *walk = &job->walk;
    int inner = walk->rank - 1;
    int64_t source_stride = walk->strides[SOURCE][inner], target_stride = walk->strides[TARGET][inner];
    int64_t rows = esp_walk_positions(walk, inner), offsets[ESP_MOST_WALKED];
    for (int64_t row = 0; row < rows; row++) {
        esp_walk_locate(walk, inner, row, offsets);
        const float *source = job->source + task * job->source_step + offsets[SOURCE];
        float *target = job->target + task * job->target_step + offsets[TARGET];
        for (int64_t i = 0; i < walk->dims[inner]; i++)
            target[i * target_stride] += source[i * source_stride];
    }
}

/* True when slices along dimension `d` never meet in one target element: its step is longer than a slice. */
static bool slices_are_apart(const esp_walk *walk, int d)
{
    int64_t span = 0;
    for (int other = 0; other < walk->rank; other++)
        if (other != d)
            span += llabs(walk->strides[TARGET][other]) * (walk->dims[other] - 1);
    return llabs(walk->strides[TARGET][d]) > span;
}

esp_status esp_add_strided(const esp_compute *compute, const esp_shape *shape, const float *source,
                           const int64_t *source_strides, float *target, const int64_t *target_strides)
{
    if (esp_shape_elements(shape) <= 0)
        return ESP_OK;
    add_job job = {
        .walk = walk_of(shape, source_strides, target_strides), .source = source, .target = target};
    int64_t tasks = 1;
    for (int d = 0; d < job.walk.rank - 1; d++)
        if (slices_are_apart(&job.walk, d)) {
            tasks = job.walk.dims[d];
            job.source_step = job.walk.strides[SOURCE][d];
            job.target_step = job.walk.strides[TARGET][d];
            job.walk.dims[d] = 1;
            esp_walk_simplify(&job.walk);
            break;
        }
    return esp_compute_run(compute, tasks, add_task, &job);
}

typedef struct gather_job {
    int64_t outer, axis, count, per_task;
    size_t run; /* bytes of one inner run */
    int64_t inner;
    const int64_t *indices;
    const char *x;
    char *y;
    const float *dy;
    float *dx;
} gather_job;

static void gather_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const gather_job *job = context;
    int64_t last = esp_tile_end(task * job->per_task, job->per_task, job->outer * job->count);
    for (int64_t row = task * job->per_task; row < last; row++) {
        int64_t from = row / job->count * job->axis + job->indices[row % job->count];
        memcpy(job->y + (size_t)row * job->run, job->x + (size_t)from * job->run, job->run);
    }
}

esp_status esp_gather_forward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                              const int64_t *indices, int64_t count, size_t element_size, const void *x,
                              void *y)
{
    gather_job job = {.outer = outer,
                      .axis = axis,
                      .count = count,
                      .per_task = esp_tile_rows(inner),
                      .run = (size_t)inner * element_size,
                      .indices = indices,
                      .x = x,
                      .y = y};
    if (outer * count * inner == 0)
        return ESP_OK;
    return esp_compute_run(compute, esp_tile_count(outer * count, job.per_task), gather_task, &job);
}

static void gather_backward_task(void *context, int64_t o, int slot)
{
    (void)slot;
    const gather_job *job = context;
    float *dx = job->dx + o * job->axis * job->inner;
    const float *dy = job->dy + o * job->count * job->inner;
    esp_fill_f32(dx, job->axis * job->inner, 0.0f);
    for (int64_t j = 0; j < job->count; j++)
        for (int64_t i = 0; i < job->inner; i++)
            dx[job->indices[j] * job->inner + i] += dy[j * job->inner + i];
}

esp_status esp_gather_backward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                               const int64_t *indices, int64_t count, const float *dy, float *dx)
{
    gather_job job = {
        .outer = outer, .axis = axis, .count = count, .inner = inner, .indices = indices, .dy = dy, .dx = dx};
    return esp_compute_run(compute, outer, gather_backward_task, &job);
}

void esp_fill_f32(float *target, int64_t count, float value)
{
    for (int64_t i = 0; i < count; i++)
        target[i] = value;
}
