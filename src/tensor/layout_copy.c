/* Copies between layouts. Going from plain to blocked, sixteen channel planes become one plane of sixteen
 * lanes: a transposition, done in squares of 4x4 in registers of four floats, which every instruction set has
 * and which keep up with the memory. A task is a stretch of pixels of a few planes. */
#include <string.h>

#include "tensor/blocked.h"
#include "tensor/blocked_planes.h"

typedef float quad __attribute__((vector_size(16)));
typedef float quad_unaligned __attribute__((vector_size(16), aligned(sizeof(float)), may_alias));

#define QUAD_AT(pointer)   (*(quad_unaligned *)(pointer))
#define QUAD_FROM(pointer) (*(const quad_unaligned *)(pointer))

/* columns[i * to_stride ...] = the i-th elements of four rows. */
static inline void transpose_quads(const float *from, int64_t from_stride, float *to, int64_t to_stride)
{
    quad a = QUAD_FROM(from), b = QUAD_FROM(from + from_stride), c = QUAD_FROM(from + 2 * from_stride),
         d = QUAD_FROM(from + 3 * from_stride);
    quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
         ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7),
         cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
         cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    QUAD_AT(to) = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    QUAD_AT(to + to_stride) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    QUAD_AT(to + 2 * to_stride) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    QUAD_AT(to + 3 * to_stride) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

/* Sixteen channel planes are more streams than the processor foresees: for every line of pixels it is told
 * what comes AHEAD pixels later. */
enum { LINE = 16, AHEAD = 64 };

/* One plane: lanes [0, lanes) of `count` pixels from channel planes `pitch` floats apart; the other lanes
 * become 0. */
ESP_SIMD_CLONES
static void to_blocked(int64_t count, int64_t lanes, const float *from, int64_t pitch, float *to)
{
    int64_t quads = lanes / 4 * 4, whole = count / 4 * 4;
    for (int64_t p = 0; p < whole; p += 4) {
        for (int64_t lane = 0; lane < quads && p % LINE == 0; lane++)
            __builtin_prefetch(from + lane * pitch + p + AHEAD);
        for (int64_t lane = 0; lane < quads; lane += 4)
            transpose_quads(from + lane * pitch + p, pitch, to + p * ESP_BLOCK + lane, ESP_BLOCK);
    }
    for (int64_t p = 0; p < count; p++)
        for (int64_t lane = p < whole ? quads : 0; lane < ESP_BLOCK; lane++)
            to[p * ESP_BLOCK + lane] = lane < lanes ? from[lane * pitch + p] : 0.0f;
}

/* Here four planes get a whole line before the next four: planes whose size is a power of two fall on the
 * same places of the cache, and would push each other out. */
ESP_SIMD_CLONES
static void to_plain(int64_t count, int64_t lanes, const float *from, float *to, int64_t pitch)
{
    int64_t quads = lanes / 4 * 4, whole = count / 4 * 4;
    for (int64_t p = 0; p < whole; p += LINE) {
        int64_t end = esp_tile_end(p, LINE, whole);
        for (int64_t lane = 0; lane < quads; lane += 4) {
            for (int i = 0; i < 4; i++)
                __builtin_prefetch(to + (lane + i) * pitch + p + AHEAD, 1);
            for (int64_t i = p; i < end; i += 4)
                transpose_quads(from + i * ESP_BLOCK + lane, ESP_BLOCK, to + lane * pitch + i, pitch);
        }
    }
    for (int64_t lane = 0; lane < lanes; lane++)
        for (int64_t p = lane < quads ? whole : 0; p < count; p++)
            to[lane * pitch + p] = from[p * ESP_BLOCK + lane];
}

typedef struct copy_job {
    blocked_images images; /* the blocked side; only the geometry counts when both have one layout */
    const float *from;
    float *to;
    int64_t from_stride, to_stride; /* of images */
    bool to_blocked;
    blocked_tiles tiles;
    int64_t image_floats; /* of one layout on both sides */
} copy_job;

static void transpose_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const copy_job *job = context;
    const blocked_images *images = &job->images;
    blocked_tile tile = blocked_tile_at(&job->tiles, task);
    for (int64_t plane = tile.plane; plane < tile.last_plane; plane++) {
        int64_t n = plane / images->blocks, block = plane % images->blocks;
        int64_t left = images->channels - block * ESP_BLOCK, lanes = left < ESP_BLOCK ? left : ESP_BLOCK;
        int64_t plain = block * ESP_BLOCK * images->pixels + tile.first;
        int64_t blocked = (block * images->pixels + tile.first) * ESP_BLOCK;
        const float *from = job->from + n * job->from_stride;
        float *to = job->to + n * job->to_stride;
        if (job->to_blocked)
            to_blocked(tile.count, lanes, from + plain, images->pixels, to + blocked);
        else
            to_plain(tile.count, lanes, from + blocked, to + plain, images->pixels);
    }
}

static void same_layout_task(void *context, int64_t task, int slot)
{
    (void)slot;
    const copy_job *job = context;
    int64_t pieces = esp_tile_count(job->image_floats, ESP_FLAT_TILE), n = task / pieces;
    int64_t start = task % pieces * ESP_FLAT_TILE;
    int64_t count = esp_tile_end(start, ESP_FLAT_TILE, job->image_floats) - start;
    memcpy(job->to + n * job->to_stride + start, job->from + n * job->from_stride + start,
           (size_t)count * sizeof(float));
}

esp_status esp_layout_copy(const esp_compute *compute, const esp_view *from, const esp_view *to)
{
    int64_t elements = esp_view_storage(from), batch = from->shape.rank > 0 ? from->shape.dims[0] : 1;
    if (elements == 0)
        return ESP_OK;
    copy_job job = {.from = esp_view_f32(from),
                    .to = esp_view_f32(to),
                    .from_stride = esp_view_image_stride(from),
                    .to_stride = esp_view_image_stride(to),
                    .to_blocked = to->layout == ESP_LAYOUT_BLOCKED,
                    .image_floats = elements / batch};
    if (from->layout == to->layout) {
        bool has_gaps =
            batch > 1 && (job.from_stride != job.image_floats || job.to_stride != job.image_floats);
        if (!has_gaps) {
            job.image_floats = elements;
            batch = 1;
        }
        return esp_compute_run(compute, batch * esp_tile_count(job.image_floats, ESP_FLAT_TILE),
                               same_layout_task, &job);
    }
    job.images = blocked_images_of(from);
    job.tiles = blocked_tiles_of(job.images.batch * job.images.blocks, job.images.pixels);
    return esp_compute_run(compute, blocked_tile_tasks(&job.tiles), transpose_task, &job);
}
