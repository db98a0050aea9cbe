/* Local response normalisation across channels (Krizhevsky et al. 2012; ONNX LRN-13), x [batch, channels,
 * inner]. */
#ifndef ESP_TENSOR_CHANNEL_WINDOW_NORM_H
#define ESP_TENSOR_CHANNEL_WINDOW_NORM_H

#include "base/compute.h"
#include "tensor/tensor.h"

typedef struct esp_window_norm {
    int64_t batch, channels, inner;
    int64_t size; /* channels of a window: (size - 1) / 2 in front of the own one, the rest behind */
    float alpha, beta, bias;
} esp_window_norm;

/* y = x / s^beta, s = bias + alpha / size * sum of x^2 over the window. */
esp_status esp_window_norm_forward(const esp_compute *compute, const esp_window_norm *norm, const float *x,
                                   float *y);

/* dx overwritten; it may be dy or x. `scratch`: as many floats as x has elements, twice. */
esp_status esp_window_norm_backward(const esp_compute *compute, const esp_window_norm *norm, const float *x,
                                    const float *dy, float *scratch, float *dx);

#endif
