/* 2-D pooling, NCHW: max and average (ONNX MaxPool-12, AveragePool-11, GlobalAveragePool-1, GlobalMaxPool-1).
 */
#ifndef ESP_TENSOR_POOL2D_H
#define ESP_TENSOR_POOL2D_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compute.h"

typedef struct esp_pool2d_geometry {
    int64_t batch, channels, height, width;
    int64_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t pad_top, pad_left, pad_bottom, pad_right;
    int64_t out_height, out_width;
    bool counts_padding; /* average: divide by the whole window (count_include_pad); ceil-mode overhang never
                            counts */
} esp_pool2d_geometry;

/* Output size, 0 when the kernel does not fit; ceil_mode as ONNX defines it (the last window must start
 * inside input or left padding). */
int64_t esp_pool2d_output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad_begin,
                               int64_t pad_end, int64_t dilation, bool ceil_mode);

/* One over the number of taps an average is over; 0 for a window with none. */
float esp_pool2d_weight(const esp_pool2d_geometry *geometry, int64_t row, int64_t column);

esp_status esp_max_pool_forward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                const float *x, float *y);
/* dx overwritten. The gradient goes to the first maximum of each window, found again from x. */
esp_status esp_max_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                 const float *x, const float *dy, float *dx);
esp_status esp_average_pool_forward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                    const float *x, float *y);
esp_status esp_average_pool_backward(const esp_compute *compute, const esp_pool2d_geometry *geometry,
                                     const float *dy, float *dx);

#endif
