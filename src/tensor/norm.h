/* Batch normalisation (ONNX BatchNormalization-15; Ioffe and Szegedy 2015), x [batch, channels, inner]. */
#ifndef ESP_TENSOR_NORM_H
#define ESP_TENSOR_NORM_H

#include <stdint.h>

#include "base/compute.h"

/* Evaluation: y = (x - mean) * scale / sqrt(variance + epsilon) + bias. x and y may be the same. */
esp_status esp_batch_norm_forward(const esp_compute *compute, int64_t batch, int64_t channels, int64_t inner,
                                  const float *x, const float *scale, const float *bias, const float *mean,
                                  const float *variance, float epsilon, float *y);

/* Training: statistics of this batch (biased variance); saves mean and 1/sqrt(variance+epsilon) per channel
 * for backward; updates running = running*momentum + batch*(1-momentum). The running variance gets the
 * unbiased batch variance, as PyTorch does, so that networks trained here and there agree. Sums are
 * made in a fixed order: float lanes over short runs, runs in double. */
esp_status esp_batch_norm_train(const esp_compute *compute, int64_t batch, int64_t channels, int64_t inner,
                                const float *x, const float *scale, const float *bias, float epsilon,
                                float momentum, float *running_mean, float *running_variance,
                                float *saved_mean, float *saved_inverse_std, float *y);

/* Gradients (overwritten) of the training form. */
esp_status esp_batch_norm_backward(const esp_compute *compute, int64_t batch, int64_t channels, int64_t inner,
                                   const float *x, const float *dy, const float *scale,
                                   const float *saved_mean, const float *saved_inverse_std, float *dx,
                                   float *dscale, float *dbias);

/* Gradients of the evaluation form (frozen statistics). */
esp_status esp_batch_norm_backward_frozen(const esp_compute *compute, int64_t batch, int64_t channels,
                                          int64_t inner, const float *x, const float *dy, const float *scale,
                                          const float *mean, const float *variance, float epsilon, float *dx,
                                          float *dscale, float *dbias);

#endif
