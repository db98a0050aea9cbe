/* What kernels over images in channel blocks share: where a plane (one block of one image) lies, how planes
 * are cut into tasks, and the sixteen values of a block out of those per channel. */
#ifndef ESP_TENSOR_BLOCKED_PLANES_H
#define ESP_TENSOR_BLOCKED_PLANES_H

#include "tensor/simd.h"
#include "tensor/tensor.h"

/* A result at least this large (16 MB) is no longer in the cache when it is read: it is better written past
 * the caches, which also saves reading the lines it overwrites. */
enum { BLOCKED_STREAMED_FLOATS = 4 << 20 };

/* A blocked view taken apart: [batch, blocks, pixels, 16]. */
typedef struct blocked_images {
    float *data;
    int64_t batch, channels, blocks, height, width, pixels;
    int64_t stride; /* floats from one image to the next */
} blocked_images;

static inline blocked_images blocked_images_of(const esp_view *view)
{
    const int64_t *dims = view->shape.dims;
    return (blocked_images){
        .data = esp_view_f32(view),
        .batch = dims[0],
        .channels = dims[1],
        .blocks = (dims[1] + ESP_BLOCK - 1) / ESP_BLOCK,
        .height = dims[2],
        .width = dims[3],
        .pixels = dims[2] * dims[3],
        .stride = esp_view_image_stride(view),
    };
}

/* NULL gives the zeroed struct, whose data is NULL. */
static inline blocked_images blocked_images_if(const esp_view *view)
{
    return view != NULL ? blocked_images_of(view) : (blocked_images){0};
}

static inline float *blocked_plane(const blocked_images *images, int64_t n, int64_t block)
{
    return images->data + n * images->stride + block * images->pixels * ESP_BLOCK;
}

/* The same place of a plane in images that may be absent: NULL then. */
static inline float *blocked_place(const blocked_images *images, int64_t n, int64_t block, int64_t pixel)
{
    return images->data == NULL ? NULL : blocked_plane(images, n, block) + pixel * ESP_BLOCK;
}

/* Planes in memory order, cut into tasks of about ESP_FLAT_TILE floats: several small planes, or a piece of a
 * large one. */
typedef struct blocked_tiles {
    int64_t planes, pixels; /* of the images */
    int64_t planes_per_task, pixels_per_task, pieces;
} blocked_tiles;

static inline blocked_tiles blocked_tiles_of(int64_t planes, int64_t pixels)
{
    int64_t most = ESP_FLAT_TILE / ESP_BLOCK;
    return (blocked_tiles){
        .planes = planes,
        .pixels = pixels,
        .planes_per_task = esp_tile_rows(pixels * ESP_BLOCK),
        .pixels_per_task = most,
        .pieces = esp_tile_count(pixels, most),
    };
}

static inline int64_t blocked_tile_tasks(const blocked_tiles *tiles)
{
    return esp_tile_count(tiles->planes, tiles->planes_per_task) * tiles->pieces;
}

/* What a task covers: pixels [first, first + count) of the planes [plane, last_plane). */
typedef struct blocked_tile {
    int64_t plane, last_plane, first, count;
} blocked_tile;

static inline blocked_tile blocked_tile_at(const blocked_tiles *tiles, int64_t task)
{
    blocked_tile tile = {
        .plane = task / tiles->pieces * tiles->planes_per_task,
        .first = task % tiles->pieces * tiles->pixels_per_task,
    };
    tile.last_plane = esp_tile_end(tile.plane, tiles->planes_per_task, tiles->planes);
    tile.count = esp_tile_end(tile.first, tiles->pixels_per_task, tiles->pixels) - tile.first;
    return tile;
}

/* The sixteen values of a block out of values [channels]; the lanes past the last channel get `fallback`, as
 * all do when `values` is NULL. */
static inline void blocked_lanes_load(const float *values, int64_t channels, int64_t block, float fallback,
                                      float lanes[ESP_BLOCK])
{
    for (int lane = 0; lane < ESP_BLOCK; lane++) {
        int64_t c = block * ESP_BLOCK + lane;
        lanes[lane] = values != NULL && c < channels ? values[c] : fallback;
    }
}

#endif
