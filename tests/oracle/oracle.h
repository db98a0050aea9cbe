/* The truth that kernels are compared with: the definitions, written as plain loops over every dimension, in
 * double, one name per index: n batch, f filter, c channel, y x space. Slow on purpose; nothing here is
 * shared with the code under test but the descriptions of geometry. Header only, so that any layer's tests
 * can use it. */
#ifndef ESP_TESTS_ORACLE_H
#define ESP_TESTS_ORACLE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/conv.h"
#include "tensor/pool2d.h"
#include "tensor/tensor.h"

/* C[m,n] = alpha * op(A) op(B) + beta * C */
static inline void oracle_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                               double alpha, const double *a, int64_t lda, const double *b, int64_t ldb,
                               double beta, double *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0.0;
            for (int64_t p = 0; p < k; p++)
                sum += (transpose_a ? a[p * lda + i] : a[i * lda + p]) *
                       (transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
            c[i * ldc + j] = alpha * sum + beta * c[i * ldc + j];
        }
}

/* Calls `visit` for every multiply-add of a convolution: y[yi] += w[wi] * x[xi]. */
typedef void oracle_conv_visit(void *context, int64_t yi, int64_t wi, int64_t xi);
static inline void oracle_conv_walk(const esp_conv_geometry *g, oracle_conv_visit *visit, void *context)
{
    int64_t group_channels = g->channels / g->group, group_filters = g->filters / g->group;
    for (int64_t n = 0; n < g->batch; n++)
        for (int64_t f = 0; f < g->filters; f++)
            for (int64_t y = 0; y < g->out_height; y++)
                for (int64_t x = 0; x < g->out_width; x++)
                    for (int64_t c = 0; c < group_channels; c++)
                        for (int64_t ky = 0; ky < g->kernel_h; ky++)
                            for (int64_t kx = 0; kx < g->kernel_w; kx++) {
                                int64_t in_y = y * g->stride_h + ky * g->dilation_h - g->pad_top;
                                int64_t in_x = x * g->stride_w + kx * g->dilation_w - g->pad_left;
                                if (in_y < 0 || in_y >= g->height || in_x < 0 || in_x >= g->width)
                                    continue;
                                int64_t channel = f / group_filters * group_channels + c;
                                visit(context, ((n * g->filters + f) * g->out_height + y) * g->out_width + x,
                                      ((f * group_channels + c) * g->kernel_h + ky) * g->kernel_w + kx,
                                      ((n * g->channels + channel) * g->height + in_y) * g->width + in_x);
                            }
}

typedef struct oracle_conv {
    const double *x, *w, *dy;
    double *y, *dx, *dw;
} oracle_conv;

static inline void oracle_conv_visit_forward(void *context, int64_t yi, int64_t wi, int64_t xi)
{
    const oracle_conv *o = context;
    o->y[yi] += o->w[wi] * o->x[xi];
}

static inline void oracle_conv_visit_backward(void *context, int64_t yi, int64_t wi, int64_t xi)
{
    const oracle_conv *o = context;
    o->dx[xi] += o->w[wi] * o->dy[yi];
    o->dw[wi] += o->x[xi] * o->dy[yi];
}

/* y [n,f,y,x] = conv(x, w) + bias; bias may be NULL */
static inline void oracle_conv_forward(const esp_conv_geometry *g, const double *x, const double *w,
                                       const double *bias, double *y)
{
    int64_t pixels = g->out_height * g->out_width;
    for (int64_t i = 0; i < g->batch * g->filters * pixels; i++)
        y[i] = bias != NULL ? bias[i / pixels % g->filters] : 0.0;
    oracle_conv o = {.x = x, .w = w, .y = y};
    oracle_conv_walk(g, oracle_conv_visit_forward, &o);
}

static inline void oracle_conv_backward(const esp_conv_geometry *g, const double *x, const double *w,
                                        const double *dy, double *dx, double *dw, double *db)
{
    int64_t pixels = g->out_height * g->out_width;
    memset(dx, 0, (size_t)(g->batch * g->channels * g->height * g->width) * sizeof *dx);
    memset(dw, 0, (size_t)(g->filters * g->channels / g->group * g->kernel_h * g->kernel_w) * sizeof *dw);
    memset(db, 0, (size_t)g->filters * sizeof *db);
    for (int64_t i = 0; i < g->batch * g->filters * pixels; i++)
        db[i / pixels % g->filters] += dy[i];
    oracle_conv o = {.x = x, .w = w, .dy = dy, .dx = dx, .dw = dw};
    oracle_conv_walk(g, oracle_conv_visit_backward, &o);
}

static inline bool oracle_is_inside(int64_t y, int64_t x, int64_t top, int64_t left, int64_t bottom,
                                    int64_t right)
{
    return y >= top && y < bottom && x >= left && x < right;
}

/* Pools one window of one plane. Max: the largest value inside the image (-inf if none). Average: the sum
 * over the number of taps that count. */
static inline double oracle_pool_window(const esp_pool2d_geometry *g, bool is_max, const double *plane,
                                        int64_t y, int64_t x)
{
    double largest = -INFINITY, sum = 0.0;
    int64_t counted = 0;
    for (int64_t ky = 0; ky < g->kernel_h; ky++)
        for (int64_t kx = 0; kx < g->kernel_w; kx++) {
            int64_t in_y = y * g->stride_h + ky * g->dilation_h - g->pad_top;
            int64_t in_x = x * g->stride_w + kx * g->dilation_w - g->pad_left;
            bool is_image = oracle_is_inside(in_y, in_x, 0, 0, g->height, g->width);
            bool is_padded = oracle_is_inside(in_y, in_x, -g->pad_top, -g->pad_left,
                                              g->height + g->pad_bottom, g->width + g->pad_right);
            counted += g->counts_padding ? is_padded : is_image;
            if (!is_image)
                continue;
            double value = plane[in_y * g->width + in_x];
            sum += value;
            largest = value > largest ? value : largest;
        }
    return is_max ? largest : counted > 0 ? sum / (double)counted : 0.0;
}

static inline void oracle_pool(const esp_pool2d_geometry *g, bool is_max, const double *x, double *y)
{
    for (int64_t plane = 0; plane < g->batch * g->channels; plane++)
        for (int64_t row = 0; row < g->out_height; row++)
            for (int64_t column = 0; column < g->out_width; column++)
                *y++ = oracle_pool_window(g, is_max, x + plane * g->height * g->width, row, column);
}

/* x [batch, channels, inner]; mean and (biased) variance per channel */
static inline void oracle_channel_statistics(int64_t batch, int64_t channels, int64_t inner, const double *x,
                                             double *mean, double *variance)
{
    double count = (double)(batch * inner);
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t n = 0; n < batch; n++)
            for (int64_t i = 0; i < inner; i++)
                sum += x[(n * channels + c) * inner + i];
        mean[c] = sum / count;
        for (int64_t n = 0; n < batch; n++)
            for (int64_t i = 0; i < inner; i++)
                squares += pow(x[(n * channels + c) * inner + i] - mean[c], 2.0);
        variance[c] = squares / count;
    }
}

/* y = (x - mean) / sqrt(variance + epsilon) * scale + bias */
static inline void oracle_batch_norm(int64_t batch, int64_t channels, int64_t inner, const double *x,
                                     const double *scale, const double *bias, const double *mean,
                                     const double *variance, double epsilon, double *y)
{
    for (int64_t n = 0; n < batch; n++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < inner; i++) {
                int64_t at = (n * channels + c) * inner + i;
                y[at] = (x[at] - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] + bias[c];
            }
}

/* x [outer, axis, inner] */
static inline void oracle_softmax(int64_t outer, int64_t axis, int64_t inner, const double *x, double *y)
{
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            double largest = -INFINITY, sum = 0.0;
            for (int64_t j = 0; j < axis; j++)
                largest = fmax(largest, x[(o * axis + j) * inner + i]);
            for (int64_t j = 0; j < axis; j++)
                sum += exp(x[(o * axis + j) * inner + i] - largest);
            for (int64_t j = 0; j < axis; j++)
                y[(o * axis + j) * inner + i] = exp(x[(o * axis + j) * inner + i] - largest) / sum;
        }
}

/* Offset into a tensor of shape `shape` of the element that position `index` of `space` broadcasts from. */
static inline int64_t oracle_broadcast_offset(const esp_shape *space, const esp_shape *shape, int64_t index)
{
    int64_t offset = 0, stride = 1;
    for (int d = space->rank - 1, own = shape->rank - 1; d >= 0; d--, own--) {
        int64_t at = index % space->dims[d];
        index /= space->dims[d];
        if (own < 0)
            continue;
        offset += (shape->dims[own] == 1 ? 0 : at) * stride;
        stride *= shape->dims[own];
    }
    return offset;
}

/* Offset of position `index` (row-major over `shape`) under arbitrary strides. */
static inline int64_t oracle_strided_offset(const esp_shape *shape, const int64_t *strides, int64_t index)
{
    int64_t offset = 0;
    for (int d = shape->rank - 1; d >= 0; d--) {
        offset += index % shape->dims[d] * strides[d];
        index /= shape->dims[d];
    }
    return offset;
}

/* gradient[i] = d loss / d values[i] by central differences. `loss` reads `values` through its context. */
typedef double oracle_loss(void *context);
static inline void oracle_gradient(double *values, int64_t count, oracle_loss *loss, void *context,
                                   double *gradient)
{
    const double step = 1e-5;
    for (int64_t i = 0; i < count; i++) {
        double value = values[i];
        values[i] = value + step;
        double above = loss(context);
        values[i] = value - step;
        double below = loss(context);
        values[i] = value;
        gradient[i] = (above - below) / (2.0 * step);
    }
}

/* sum of a[i] * b[i] */
static inline double oracle_dot(int64_t count, const double *a, const double *b)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

#endif
