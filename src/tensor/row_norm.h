/* Normalisation of rows by their own mean and variance: the common form of InstanceNormalization (Ulyanov et
 * al. 2016), LayerNormalization (Ba et al. 2016) and GroupNormalization (Wu and He 2018). */
#ifndef ESP_TENSOR_ROW_NORM_H
#define ESP_TENSOR_ROW_NORM_H

#include "base/compute.h"
#include "tensor/tensor.h"

/* x [rows, parts, span]: every row is normalised over its parts*span elements; scale and bias are
 * [cycles, parts], where row r uses cycle r % cycles.
 *   instances      rows N*C, cycles C, parts 1, span H*W
 *   groups         rows N*G, cycles G, parts C/G, span H*W; with one scale per group parts 1, span C/G*H*W
 *   layers         rows of the outer axes, cycles 1, parts of the normalised ones, span 1 */
typedef struct esp_row_norm {
    int64_t rows, cycles, parts, span;
    float epsilon;
} esp_row_norm;

/* y = (x - mean) * inverse_std * scale + bias, inverse_std = 1 / sqrt(variance + epsilon), biased variance.
 * bias may be NULL (0). mean, inverse_std [rows] are written. y may be x. */
esp_status esp_row_norm_forward(const esp_compute *compute, const esp_row_norm *norm, const float *x,
                                const float *scale, const float *bias, float *mean, float *inverse_std,
                                float *y);

/* dy, and the gradients of mean and inverse_std [rows] where something reads them, else NULL. */
typedef struct esp_row_norm_grads {
    const float *dy, *dmean, *dinverse_std;
} esp_row_norm_grads;

/* Gradients, overwritten, each may be NULL. mean and inverse_std are those of forward. */
esp_status esp_row_norm_backward(const esp_compute *compute, const esp_row_norm *norm, const float *x,
                                 const esp_row_norm_grads *grads, const float *scale, const float *mean,
                                 const float *inverse_std, float *dx, float *dscale, float *dbias);

#endif
