/* The inner loops of group convolution, once per instruction set (group_conv_kernels.c). Vectors hold
 * neighbouring pixels (or Winograd tiles) of one channel; a tile is some filters by some vectors, all sums in
 * registers. */
#ifndef ESP_TENSOR_GROUP_CONV_KERNELS_H
#define ESP_TENSOR_GROUP_CONV_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/engine.h"

/* What happens to a sum on its way to memory: *scale + shift, + residual, clip. By channel of y. */
typedef struct group_store {
    const float *scale, *shift; /* [filters] */
    const float *residual;      /* of what y points to; NULL: none */
    bool clips;                 /* NaN stays NaN */
    float low, high;
    bool streams; /* STORED: y is aligned, and too long to stay in a cache: past it */
} group_store;

/* What a tile asks for on the way, so that its successors find it in a near cache: x, so many floats behind
 * what it reads itself (RAW: nothing), and weights, `w_step` bytes further with each row of its own. */
typedef struct group_ahead {
    int64_t x;
    const char *w;
    int64_t w_step;
} group_ahead;

/* For f < F and the pixels p of V vectors, both fixed for each function:
 *   sum = sum over r < depth of w[r*F + f] * x[offsets[r] + p]
 * RAW: y[f*y_plane + p] = sum, for whole vectors. STORED: y[channels[f]*y_plane + p] = store(sum), for the
 * first (V-1)*lanes + tail pixels; others are not read; y may be store->residual. ODD: as STORED, for V
 * whole vectors and one more pixel; FEW: and tail - lanes more pixels, 1 to 4. */
typedef enum group_tile_kind {
    GROUP_TILE_RAW,
    GROUP_TILE_STORED,
    GROUP_TILE_ODD,
    GROUP_TILE_FEW,
    GROUP_TILE_KINDS
} group_tile_kind;
typedef void group_tile_fn(int64_t depth, const int32_t *offsets, const float *x, const float *w, int tail,
                           float *y, int64_t y_plane, const group_ahead *ahead, const int32_t *channels,
                           const group_store *store);
enum { GROUP_FEW = 4 };

/* Writes one vector to to[to]: lane i is from[from + i*step] for begin <= i < end, others are zero and not
 * read. `end` above the number of lanes: that lane could be read as well. Copies are in the order of `to`,
 * where one may hide the end of the one before. */
typedef struct group_copy {
    int32_t to, from;
    int16_t begin, end;
    uint32_t mask; /* the same in bits, `step` apart when that is 1 or 2 */
} group_copy;

/* `length` neighbouring results at sums[from], and where they go. */
typedef struct group_segment {
    int32_t from, length;
    int64_t to;
} group_segment;

/* The widest tile: entry [F*GROUP_VECTORS + V - 1] of the table, F >= 1. */
enum { GROUP_FILTERS = 12, GROUP_VECTORS = 4 };

typedef struct group_kernels {
    esp_isa isa;
    int lanes;
    int filters;                                   /* of the tallest tile */
    signed char vectors[GROUP_FILTERS + 1];        /* the most vectors of a tile, by filters */
    group_tile_fn *const *tiles[GROUP_TILE_KINDS]; /* ODD and FEW may be NULL */

    void (*copy)(const group_copy *copies, int64_t count, int64_t step, const float *from, float *to);

    /* y[segment.to ...] = store(sums[segment.from ...]) for all segments, with the scale and shift of
     * `channel`; the residual goes with y. */
    void (*finish)(const group_segment *segments, int64_t count, const float *sums, float *y, int64_t channel,
                   const group_store *store);

    /* Winograd F(4x4,3x3), lanes are tiles. Column 4*s + j of row i of tile t's patch is
     * lines[(2*i + s)*line + 4*t + j] for i < 4, lines[(2*(i - 4) + s)*line + below + 4*t + j] for the other
     * two (of s = 1 only two columns are read); v[point*point_stride + t]. */
    void (*winograd_input)(const float *lines, int64_t line, int64_t below, int64_t vectors, float *v,
                           int64_t point_stride);

    /* rows[i*row + 4*t + j] = row i, column j of tile t's 4x4 results from its 36 sums m[point*point_stride +
     * t]. */
    void (*winograd_output)(const float *m, int64_t point_stride, int64_t vectors, float *rows, int64_t row);
} group_kernels;

/* The set for an engine; never NULL. */
const group_kernels *esp_group_kernels(const esp_engine *engine);

#endif
