/* The three transforms of Winograd's F(4x4,3x3) on images in channel blocks, once per instruction set
 * (winograd_transform.c). Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016), points
 * 0, 1, -1, 2, -2, infinity:
 *
 *   V = B' d B   a 6x6 patch d of the input, 36 values        B' = [4  0 -5  0 1 0]
 *                                                                  [0 -4 -4  1 1 0]
 *                                                                  [0  4 -4 -1 1 0]
 *                                                                  [0 -2 -1  2 1 0]
 *                                                                  [0  2 -1 -2 1 0]
 *                                                                  [0  4  0 -5 0 1]
 *   U = G g G'   a 3x3 filter g, 36 values                    G = [ 1/4    0    0 ]
 *                                                                 [-1/6  -1/6 -1/6]
 *                                                                 [-1/6   1/6 -1/6]
 *                                                                 [1/24  1/12  1/6]
 *                                                                 [1/24 -1/12  1/6]
 *                                                                 [  0     0    1 ]
 *   y = A' m A   the 4x4 tile of the output, from the 36      A' = [1 1  1 1  1 0]
 *                sums m over channels of U times V                 [0 1 -1 2 -2 0]
 *                                                                  [0 1  1 4  4 0]
 *                                                                  [0 1 -1 8 -8 1]
 *
 * One value of the 36 is a "point". Every function handles one block of ESP_BLOCK channels or filters; a
 * tile's values are ESP_BLOCK floats, tiles are neighbours, points `point_stride` floats apart. */
#ifndef ESP_TENSOR_WINOGRAD_TRANSFORM_H
#define ESP_TENSOR_WINOGRAD_TRANSFORM_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/blocked_kernels.h"
#include "tensor/engine.h"

enum { WINOGRAD_TILE = 4, WINOGRAD_PATCH = 6, WINOGRAD_POINTS = 36 };

/* How tiles lie on the images. Tiles are numbered image by image, row by row. */
typedef struct winograd_grid {
    int64_t height, width;         /* of the input */
    int64_t top, left;             /* zeros before it; negative: rows and columns left out */
    int64_t out_height, out_width; /* of the output */
    int64_t tile_rows, tile_columns;
} winograd_grid;

/* Where the nine taps of a vector of filters lie: floats from row to row of the filter and from column to
 * column. Negative ones, with `first` at the last tap, flip the filter. */
typedef struct winograd_taps {
    const float *first;
    int64_t row, column;
} winograd_taps;

typedef struct winograd_transforms {
    /* v[point*point_stride + i*ESP_BLOCK + c] for the tiles first+i, i < count. x is the channel block of the
     * first image; `entry` does not touch the zeros around it. */
    void (*input)(const winograd_grid *grid, const blocked_entry *entry, const float *x, int64_t image_stride,
                  int64_t first, int64_t count, float *v, int64_t point_stride);

    /* The tiles first+i, i < count, of the filter block y of the first image; what lies outside the output is
     * not written. store->residual is laid out as y but for its images, `residual_image` floats apart; its
     * strides in `store` are not used. scale and shift must be there. */
    void (*output)(const winograd_grid *grid, const blocked_store *store, int64_t residual_image,
                   const float *m, int64_t point_stride, int64_t first, int64_t count, float *y,
                   int64_t image_stride);

    /* u[point*point_stride + f] from g[tap*tap_stride + f], nine taps in row-major order; a negative stride
     * and g at the last tap flip the filter. */
    void (*weights)(const float *g, int64_t tap_stride, float *u, int64_t point_stride);

    /* The same, bit by bit, for channels that are neighbours in g and in u, `width` filters (a multiple of
     * ESP_BLOCK) of each: u[(point - 6*first_row)*point_stride + c*width + f], rows [first_row, last_row) of
     * points only. `taps` are those of the first channel. */
    void (*weight_rows)(int first_row, int last_row, const winograd_taps *taps, int64_t channels,
                        int64_t width, float *u, int64_t point_stride);
} winograd_transforms;

/* The set for an engine; never NULL. */
const winograd_transforms *esp_winograd_transforms(const esp_engine *engine);

#endif
