/* Element-wise kernels over blocked images. Operations without parameters per channel see an image as a flat
 * array, lanes past C included (what they hold does no harm and reaches no other lane), and go to the flat
 * kernels; the others work plane by plane. */
#include <string.h>

#include "tensor/binary_math.h"
#include "tensor/blocked.h"
#include "tensor/blocked_passes.h"
#include "tensor/blocked_planes.h"

/* ---- y = clip(x * scale[c] + shift[c] + residual) ---- */

typedef struct affine_job {
    const blocked_passes *passes;
    blocked_images x, y, residual;
    const esp_affine *affine;
    bool streams;
    blocked_tiles tiles;
} affine_job;

static void affine_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const affine_job *job = context;
    const esp_affine *affine = job->affine;
    blocked_rescale rescale = {
        .clips = affine->clips, .low = affine->low, .high = affine->high, .streams = job->streams};
    blocked_tile tile = blocked_tile_at(&job->tiles, task);
    for (int64_t plane = tile.plane; plane < tile.last_plane; plane++) {
        int64_t n = plane / job->x.blocks, block = plane % job->x.blocks;
        blocked_lanes_load(affine->scale, job->x.channels, block, 1.0f, rescale.factor);
        blocked_lanes_load(affine->shift, job->x.channels, block, 0.0f, rescale.shift);
        job->passes->rescale(tile.count, blocked_place(&job->x, n, block, tile.first), &rescale,
                             blocked_place(&job->residual, n, block, tile.first),
                             blocked_place(&job->y, n, block, tile.first));
    }
}

esp_status esp_blocked_affine(const esp_compute *compute, const esp_view *x, const esp_affine *affine,
                              const esp_view *y)
{
    affine_job job = {.passes = esp_blocked_passes(),
                      .x = blocked_images_of(x),
                      .y = blocked_images_of(y),
                      .residual = blocked_images_if(affine->residual),
                      .affine = affine};
    bool is_in_place = y->data == x->data || y->data == job.residual.data;
    job.streams = !is_in_place && esp_view_storage(y) >= BLOCKED_STREAMED_FLOATS;
    job.tiles = blocked_tiles_of(job.x.batch * job.x.blocks, job.x.pixels);
    return esp_compute_run(compute, blocked_tile_tasks(&job.tiles), affine_task, &job);
}

/* ---- flat operations ---- */

/* Up to four views of one shape (the first is always given) as arrays without gaps: all images at once, or,
 * when some view has gaps, each image for itself. */
enum { MOST_VIEWS = 4 };

typedef struct flat_job flat_job;
struct flat_job {
    float *data[MOST_VIEWS]; /* NULL: not given */
    int64_t strides[MOST_VIEWS];
    int64_t arrays, count; /* of so many floats */
    esp_status (*operate)(const esp_compute *compute, const flat_job *job, float *const *data);
    esp_unary_kind unary;
    esp_binary_kind binary;
    float a, b;
};

static void flat_task(void *context, int64_t n, int slot)
{
    (void)slot;
    const flat_job *job = context;
    float *data[MOST_VIEWS];
    for (int i = 0; i < MOST_VIEWS; i++)
        data[i] = job->data[i] == NULL ? NULL : job->data[i] + n * job->strides[i];
    (void)job->operate(NULL, job, data); /* alone in its thread, it cannot be cancelled */
}

static esp_status run_flat(const esp_compute *compute, flat_job *job, const esp_view *const *views)
{
    int64_t all = esp_view_storage(views[0]);
    bool has_gaps = false;
    if (all == 0)
        return ESP_OK;
    job->arrays = views[0]->shape.dims[0];
    job->count = all / job->arrays;
    for (int i = 0; i < MOST_VIEWS; i++) {
        if (views[i] == NULL)
            continue;
        job->data[i] = esp_view_f32(views[i]);
        job->strides[i] = esp_view_image_stride(views[i]);
        has_gaps |= job->arrays > 1 && job->strides[i] != job->count;
    }
    if (has_gaps)
        return esp_compute_run(compute, job->arrays, flat_task, job);
    job->count = all;
    return job->operate(compute, job, job->data);
}

static esp_status unary(const esp_compute *compute, const flat_job *job, float *const *data)
{
    return esp_unary_forward(compute, job->unary, job->a, job->b, job->count, data[0], data[1]);
}

esp_status esp_blocked_unary(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                             const esp_view *x, const esp_view *y)
{
    flat_job job = {.operate = unary, .unary = kind, .a = a, .b = b};
    return run_flat(compute, &job, (const esp_view *const[MOST_VIEWS]){x, y});
}

static esp_status unary_backward(const esp_compute *compute, const flat_job *job, float *const *data)
{
    return esp_unary_backward(compute, job->unary, job->a, job->b, job->count, data[2], data[3], data[0],
                              data[1]);
}

esp_status esp_blocked_unary_backward(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                                      const esp_view *x, const esp_view *y, const esp_view *dy,
                                      const esp_view *dx)
{
    flat_job job = {.operate = unary_backward, .unary = kind, .a = a, .b = b};
    return run_flat(compute, &job, (const esp_view *const[MOST_VIEWS]){dy, dx, x, y});
}

static esp_status accumulate(const esp_compute *compute, const flat_job *job, float *const *data)
{
    return esp_accumulate(compute, job->count, data[0], data[1]);
}

esp_status esp_blocked_accumulate(const esp_compute *compute, const esp_view *x, const esp_view *y)
{
    flat_job job = {.operate = accumulate};
    return run_flat(compute, &job, (const esp_view *const[MOST_VIEWS]){x, y});
}

static esp_view flat_view(float *data, int64_t count)
{
    return (esp_view){.data = data, .dtype = ESP_F32, .shape = esp_shape_make(1, &count)};
}

static esp_status binary(const esp_compute *compute, const flat_job *job, float *const *data)
{
    esp_view a = flat_view(data[0], job->count), b = flat_view(data[1], job->count),
             y = flat_view(data[2], job->count);
    return esp_binary_forward(compute, job->binary, &a, &b, &y);
}

/* b [N or 1, C or 1, 1, 1]: its lanes for a plane of a. */
static void broadcast_lanes(const esp_view *b, int64_t n, int64_t block, float lanes[ESP_BLOCK])
{
    const esp_shape *shape = &b->shape;
    int rank = shape->rank;
    /* [C,1,1] and [N,C,1,1]; anything else is a single number */
    int64_t channels = rank >= 3 ? shape->dims[rank - 3] : 1;
    const float *values = esp_view_f32(b);
    if (rank == 4 && shape->dims[0] > 1)
        values += n * esp_view_image_stride(b);
    if (channels > 1)
        blocked_lanes_load(values, channels, block, 0.0f, lanes);
    else
        blocked_lanes_load(NULL, 0, block, values[0], lanes);
}

typedef struct broadcast_job {
    esp_binary_kind kind;
    blocked_images a, y;
    const esp_view *b;
    blocked_tiles tiles;
} broadcast_job;

#define ESP_BINARY_ROW(name, reads, value, of_a, of_b)                                                       \
    case ESP_BINARY_##name:                                                                                  \
        for (int64_t pixel = 0; pixel < count; pixel++)                                                      \
            for (int lane = 0; lane < ESP_BLOCK; lane++) {                                                   \
                float p = a[pixel * ESP_BLOCK + lane], q = lanes[lane];                                      \
                y[pixel * ESP_BLOCK + lane] = (value);                                                       \
            }                                                                                                \
        return;

ESP_SIMD_CLONES
static void broadcast_run(esp_binary_kind kind, int64_t count, const float *a, const float *b, float *y)
{
    float lanes[ESP_BLOCK]; /* y cannot be these */
    memcpy(lanes, b, sizeof lanes);
    switch (kind) {
#include "tensor/binary.def"
    }
}
#undef ESP_BINARY_ROW

static void broadcast_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const broadcast_job *job = context;
    blocked_tile tile = blocked_tile_at(&job->tiles, task);
    for (int64_t plane = tile.plane; plane < tile.last_plane; plane++) {
        int64_t n = plane / job->a.blocks, block = plane % job->a.blocks;
        float lanes[ESP_BLOCK];
        broadcast_lanes(job->b, n, block, lanes);
        broadcast_run(job->kind, tile.count, blocked_place(&job->a, n, block, tile.first), lanes,
                      blocked_place(&job->y, n, block, tile.first));
    }
}

bool esp_blocked_binary_fits(const esp_shape *a, const esp_shape *b)
{
    if (a->rank != 4 || b->rank > 4)
        return false;
    if (esp_shape_equal(a, b) || esp_shape_elements(b) == 1)
        return true;
    if (b->rank < 3 || b->dims[b->rank - 1] != 1 || b->dims[b->rank - 2] != 1)
        return false;
    int64_t channels = b->dims[b->rank - 3], batch = b->rank == 4 ? b->dims[0] : 1;
    return (channels == 1 || channels == a->dims[1]) && (batch == 1 || batch == a->dims[0]);
}

esp_status esp_blocked_binary(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                              const esp_view *b, const esp_view *y)
{
    if (b->layout == ESP_LAYOUT_BLOCKED && esp_shape_equal(&a->shape, &b->shape)) {
        flat_job flat = {.operate = binary, .binary = kind};
        return run_flat(compute, &flat, (const esp_view *const[MOST_VIEWS]){a, b, y});
    }
    broadcast_job job = {.kind = kind, .a = blocked_images_of(a), .y = blocked_images_of(y), .b = b};
    job.tiles = blocked_tiles_of(job.a.batch * job.a.blocks, job.a.pixels);
    return esp_compute_run(compute, blocked_tile_tasks(&job.tiles), broadcast_task, &job);
}

static esp_status gradient_of_a(const esp_compute *compute, const flat_job *job, float *const *data)
{
    esp_view dy = flat_view(data[0], job->count), da = flat_view(data[1], job->count),
             a = flat_view(data[2], job->count), b = flat_view(data[3], job->count),
             none = flat_view(NULL, job->count);
    return esp_binary_backward(compute, job->binary, &a, &b, &dy, &da, &none);
}

static esp_status gradient_of_b(const esp_compute *compute, const flat_job *job, float *const *data)
{
    esp_view dy = flat_view(data[0], job->count), db = flat_view(data[1], job->count),
             a = flat_view(data[2], job->count), b = flat_view(data[3], job->count),
             none = flat_view(NULL, job->count);
    return esp_binary_backward(compute, job->binary, &a, &b, &dy, &none, &db);
}

esp_status esp_blocked_binary_backward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                                       const esp_view *b, const esp_view *dy, const esp_view *da,
                                       const esp_view *db)
{
    flat_job of_a = {.operate = gradient_of_a, .binary = kind},
             of_b = {.operate = gradient_of_b, .binary = kind};
    esp_status status = ESP_OK;
    if (da != NULL)
        status = run_flat(compute, &of_a, (const esp_view *const[MOST_VIEWS]){dy, da, a, b});
    if (status == ESP_OK && db != NULL)
        status = run_flat(compute, &of_b, (const esp_view *const[MOST_VIEWS]){dy, db, a, b});
    return status;
}
