/* The inner loops of direct convolution, once per instruction set (conv_kernels.c). Vectors hold `lanes`
 * floats; a tile is what fits in the registers. Sizes of tiles are found in the tables, not known to the
 * callers. */
#ifndef ESP_TENSOR_CONV_KERNELS_H
#define ESP_TENSOR_CONV_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

/* A tile of several filters by tile_vectors*lanes neighbouring pixels:
 * out[f*out_stride + p] = sum over r of w[r*filters + f] * base[offsets[r] + p]. Overwrites whole tiles. */
typedef void conv_rows_fn(int64_t depth, const int32_t *offsets, const float *base, const float *w,
                          float *out, int64_t out_stride);

/* What a weight-gradient tile walks over: pixels of several images, in x and in dy. Strides in floats. */
typedef struct conv_sweep {
    int64_t images, rows, columns;
    int64_t x_image, x_row, x_column;
    int64_t dy_image, dy_row, dy_column;
} conv_sweep;

/* A tile of several weights by one or two vectors of filters:
 * target[r*target_stride + f] += sum over pixels of x[pixel + r] * dy[pixel + f]. */
typedef void conv_outer_fn(const conv_sweep *sweep, const float *x, const float *dy, float *target,
                           int64_t target_stride);

typedef struct conv_kernels {
    const char *name;
    bool (*is_supported)(void);
    int lanes;

    int tile_filters, tile_vectors;
    conv_rows_fn *const *rows; /* by number of filters, 1..tile_filters */

    int outer_depth[3];             /* most weights of a tile of 1 or 2 vectors */
    conv_outer_fn *const *outer[3]; /* by number of vectors, then of weights */

    /* Copies rows of `width` floats, `step` apart in the source, into rows of `pitch` with zeros left and
     * right. May write up to a vector past the last row. */
    void (*pack)(int64_t rows, int64_t left, int64_t width, int64_t pitch, const float *source,
                 int64_t source_row, int64_t step, float *target);

    /* target[row*target_row + i*step] = flat[row*pitch + i] + bias, for `width` values of each row. */
    void (*unpack)(int64_t rows, int64_t width, int64_t pitch, float bias, const float *flat,
                   int64_t target_row, int64_t step, float *target);

    /* target[column*target_stride + row] = source[row*source_stride + column] for row < rows, 0 for rows up
     * to padded_rows. */
    void (*transpose)(int64_t rows, int64_t padded_rows, int64_t columns, const float *source,
                      int64_t source_stride, float *target, int64_t target_stride);
} conv_kernels;

/* Sets for AVX-512 and AVX2 with FMA; not supported on other processors. */
extern const conv_kernels esp_conv_avx512;
extern const conv_kernels esp_conv_avx2;

#endif
