/* 2-D convolution (ONNX Conv-11: cross-correlation), forward and both gradients, NCHW, any stride, pad,
 * dilation and group. Direct vector kernels where the processor has AVX-512 or AVX2, im2col + BLAS elsewhere;
 * depthwise layers have their own kernel. Which one runs depends on geometry and processor only. */
#ifndef ESP_TENSOR_CONV_H
#define ESP_TENSOR_CONV_H

#include <stddef.h>
#include <stdint.h>

#include "base/compute.h"

typedef struct esp_conv_geometry {
    int64_t batch, channels, height, width; /* x [batch, channels, height, width] */
    int64_t filters, group;                 /* w [filters, channels/group, kernel_h, kernel_w] */
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t pad_top, pad_left, pad_bottom, pad_right;
    int64_t out_height, out_width; /* y [batch, filters, out_height, out_width] */
} esp_conv_geometry;

/* floor((size + pad_begin + pad_end - dilation*(kernel-1) - 1) / stride) + 1; 0 when the kernel does not
 * fit. */
int64_t esp_conv_output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad_begin, int64_t pad_end,
                             int64_t dilation);

typedef enum esp_conv_pass { ESP_CONV_FORWARD, ESP_CONV_GRAD_INPUT, ESP_CONV_GRAD_WEIGHT } esp_conv_pass;

/* Bytes of scratch memory a pass needs when up to `slots` threads run it. Scratch blocks given to the passes
 * must be aligned to ESP_ALIGNMENT. */
size_t esp_conv_scratch(const esp_conv_geometry *geometry, esp_conv_pass pass, int slots);

/* y = conv(x, w) + bias; bias [filters] or NULL. */
esp_status esp_conv_forward(const esp_compute *compute, const esp_conv_geometry *geometry, const float *x,
                            const float *w, const float *bias, float *y, void *scratch);

/* dx = gradient for the input (overwritten). */
esp_status esp_conv_grad_input(const esp_compute *compute, const esp_conv_geometry *geometry, const float *dy,
                               const float *w, float *dx, void *scratch);

/* dw and db (overwritten; db may be NULL). Summed over images in a fixed order for any thread count. */
esp_status esp_conv_grad_weight(const esp_compute *compute, const esp_conv_geometry *geometry, const float *x,
                                const float *dy, float *dw, float *db, void *scratch);

#endif
