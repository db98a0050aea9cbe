/* What the convolution kernels share. Three ways to compute one convolution, chosen by geometry and processor
 * only (conv.c), so that results do not depend on the number of threads:
 *   direct     vector kernels without im2col (conv_direct.c), where the processor has AVX-512 or AVX2;
 *   depthwise  one filter per channel (conv_depthwise.c);
 *   im2col     im2col panels and BLAS (conv_im2col.c): everything else. */
#ifndef ESP_TENSOR_CONV_INTERNAL_H
#define ESP_TENSOR_CONV_INTERNAL_H

#include <stdbool.h>

#include "tensor/conv.h"
#include "tensor/window.h"

/* One way to compute the passes of a convolution. The functions are those of conv.h, for this method. */
typedef struct conv_method conv_method;
struct conv_method {
    const char *name;
    const struct conv_kernels *kernels; /* direct: the instruction set; else NULL */
    bool (*fits)(const conv_method *self, const esp_conv_geometry *geometry, esp_conv_pass pass);
    size_t (*scratch)(const conv_method *self, const esp_conv_geometry *geometry, esp_conv_pass pass,
                      int slots);
    esp_status (*forward)(const conv_method *self, const esp_compute *compute,
                          const esp_conv_geometry *geometry, const float *x, const float *w,
                          const float *bias, float *y, void *scratch);
    esp_status (*grad_input)(const conv_method *self, const esp_compute *compute,
                             const esp_conv_geometry *geometry, const float *dy, const float *w, float *dx,
                             void *scratch);
    esp_status (*grad_weight)(const conv_method *self, const esp_compute *compute,
                              const esp_conv_geometry *geometry, const float *x, const float *dy, float *dw,
                              void *scratch);
};

extern const conv_method esp_conv_depthwise;
extern const conv_method esp_conv_direct_avx512;
extern const conv_method esp_conv_direct_avx2;
extern const conv_method esp_conv_im2col;

/* The ways above, the preferred first; the last one fits everything. Tests run each of them. */
extern const conv_method *const esp_conv_methods[];
enum { CONV_METHOD_COUNT = 4 };

static inline int64_t conv_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t conv_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t conv_ceil_divide(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Bytes rounded up so that the next block starts aligned. */
static inline size_t conv_aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Input channels and filters of one group; weights of one filter; pixels of one output plane. */
static inline int64_t conv_group_channels(const esp_conv_geometry *g)
{
    return g->channels / g->group;
}
static inline int64_t conv_group_filters(const esp_conv_geometry *g)
{
    return g->filters / g->group;
}
static inline int64_t conv_taps(const esp_conv_geometry *g)
{
    return g->kernel_h * g->kernel_w;
}
static inline int64_t conv_depth(const esp_conv_geometry *g)
{
    return conv_group_channels(g) * conv_taps(g);
}
static inline int64_t conv_pixels(const esp_conv_geometry *g)
{
    return g->out_height * g->out_width;
}
static inline int64_t conv_weights(const esp_conv_geometry *g)
{
    return g->filters * conv_depth(g);
}

/* Weight gradients are summed per chunk of images, then over chunks in order: enough chunks to keep a machine
 * busy, few enough that the partial sums stay small. Depends on the problem only. */
int64_t esp_conv_chunk_count(const esp_conv_geometry *geometry);
static inline int64_t conv_chunk_start(const esp_conv_geometry *g, int64_t chunks, int64_t chunk)
{
    return g->batch * chunk / chunks;
}

/* Floats from one chunk's sums to the next. */
static inline int64_t conv_partial_stride(const esp_conv_geometry *g)
{
    return (int64_t)(conv_aligned((size_t)conv_weights(g) * sizeof(float)) / sizeof(float));
}
static inline size_t conv_partials_bytes(const esp_conv_geometry *g)
{
    return (size_t)(esp_conv_chunk_count(g) * conv_partial_stride(g)) * sizeof(float);
}

/* dw[i] = sum over chunks of partial[chunk * stride + i], in order. */
esp_status esp_conv_reduce(const esp_compute *compute, int64_t chunks, int64_t count, int64_t stride,
                           const float *partial, float *dw);

#endif
