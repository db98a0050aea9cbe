/* The inner loops of convolution in channel blocks, one set per instruction set (blocked_kernels.c). All work
 * on ESP_BLOCK channels at a time whatever the width of the processor's registers, so the layout of data and
 * packed weights does not depend on the processor; only `filter_block` and `tile_pixels` do. */
#ifndef ESP_TENSOR_BLOCKED_KERNELS_H
#define ESP_TENSOR_BLOCKED_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/engine.h"

/* What happens to pixels on their way in: clip(x * scale + shift), channel by channel. */
typedef struct blocked_entry {
    const float *scale, *shift; /* [ESP_BLOCK]; both NULL: pixels stay as they are, and nothing is clipped */
    bool clips;                 /* as in blocked_store */
    float low, high;
} blocked_entry;

/* What a tile has to do to pixels before it can multiply them. One run after the other is done while the one
 * before it is multiplied, which costs much less than passing over them first: memory is waited for while
 * there is something to multiply. The tiles that come after it find the pixels done. */
typedef struct blocked_intake {
    const float *source;        /* the pixels of run 0, neighbours; those of the next tile follow */
    int64_t source_run;         /* floats from run to run */
    float *target;              /* x of the tile */
    const float *scale, *shift; /* [ESP_BLOCK * runs] */
    float low, high;            /* infinite: does not clip */
} blocked_intake;

/* What happens to a sum on its way to memory, in this order: *scale + shift, + residual, clip. */
typedef struct blocked_store {
    const float *scale;     /* [ESP_BLOCK * blocks], or NULL: 1 */
    const float *shift;     /* [ESP_BLOCK * blocks], or NULL: 0 */
    const float *residual;  /* laid out as the target, with its own strides; NULL: none */
    int64_t residual_block; /* floats from one block of 16 filters to the next */
    int64_t residual_pixel; /* floats from pixel to pixel: 16 when they are neighbours */
    bool clips;             /* result = min(max(v, low), high); NaN stays NaN */
    float low, high;

    /* What will be needed soon is fetched into the caches; it need not exist. */
    const float *fetch;  /* from here on, some cache lines with each run */
    int64_t fetch_lines; /* how many */
    int64_t ahead;       /* floats from the pixels of each run to others of x; 0: none */

    const blocked_intake *intake; /* x is still to be filled; NULL: it is. Pitch 16, runs of whole blocks */
} blocked_store;

/* `length` neighbouring floats at x[offset ...], each multiplied by a row of packed weights. */
typedef struct blocked_run {
    int32_t offset; /* floats */
    int32_t length;
} blocked_run;

/* A tile: P pixels by B blocks of 16 filters (both fixed for each function), all sums in registers.
 *   y[b*y_block + p*y_pixel + f] = store(sum over runs r, over i < r.length of
 *                                        x[r.offset + p*PITCH + i] * w[(row++)*16*B + b*16 + f])
 * PITCH, the distance of neighbouring pixels in x, is fixed for each table. `store` NULL stores sums as they
 * are. w is aligned to 64 bytes; x and y need not be. */
typedef void blocked_tile_fn(const float *x, const blocked_run *runs, int64_t run_count, const float *w,
                             float *y, int64_t y_block, int64_t y_pixel, const blocked_store *store);

typedef struct blocked_kernels {
    esp_isa isa;
    int filter_block; /* filters of the widest tile: 32 (AVX-512) or 16; weights are packed for it */
    int tile_pixels;  /* pixels of the largest tile with filter_block filters */

    /* The functions for 1..tile_pixels pixels (index 0 unused) and `blocks` (1..filter_block/16) blocks, with
     * the given pitch; NULL when there is no table for the pitch. Pitches there are: 1, 2, 4 (plain rows at
     * stride 1, 2, 4), 16, 32 (blocked rows at stride 1, 2). Any other pitch: copy pixels together first. */
    blocked_tile_fn *const *(*tiles)(int64_t pitch, int blocks);

    /* Copies pixels of 16 channels, `x_pixel` floats apart in x, side by side into y. */
    void (*pixels)(int64_t count, const float *x, int64_t x_pixel, const blocked_entry *entry, float *y);

    /* target[column*target_stride + row] = source[row*source_stride + column] for row < rows, 0 for rows up
     * to padded_rows. Packs weights. */
    void (*transpose)(int64_t rows, int64_t padded_rows, int64_t columns, const float *source,
                      int64_t source_stride, float *target, int64_t target_stride);
} blocked_kernels;

/* The set for an engine; never NULL. */
const blocked_kernels *esp_blocked_kernels(const esp_engine *engine);

#endif
