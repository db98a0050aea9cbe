/* Reductions over any set of axes (ONNX Reduce*-1 to -20), with their gradients. */
#ifndef ESP_TENSOR_REDUCE_H
#define ESP_TENSOR_REDUCE_H

#include "base/compute.h"
#include "tensor/tensor.h"

typedef enum esp_reduce_kind {
    ESP_REDUCE_SUM,
    ESP_REDUCE_MEAN,
    ESP_REDUCE_MAX,
    ESP_REDUCE_MIN,
    ESP_REDUCE_PROD,
    ESP_REDUCE_L1, /* sum |x| */
    ESP_REDUCE_L2, /* sqrt(sum x^2) */
    ESP_REDUCE_SUM_SQUARE,
    ESP_REDUCE_LOG_SUM,
    ESP_REDUCE_LOG_SUM_EXP,
} esp_reduce_kind;

typedef struct esp_reduction {
    esp_reduce_kind kind;
    esp_shape x;
    bool is_reduced[ESP_MAX_RANK];
} esp_reduction;

/* y[the kept axes, in order] = the reduction of x over the others. Sums are made in a fixed order, runs of
 * float in double. Over no elements: 0, or 1 for PROD, NaN for MEAN, infinities for MAX, MIN and logarithms.
 */
esp_status esp_reduce_forward(const esp_compute *compute, const esp_reduction *reduction, const float *x,
                              float *y);

/* dx overwritten; it may be x. SUM and MEAN read neither x nor y, which may be NULL. Elements that share the
 * maximum or minimum share its gradient evenly. */
esp_status esp_reduce_backward(const esp_compute *compute, const esp_reduction *reduction, const float *x,
                               const float *y, const float *dy, float *dx);

/* The same for integers and bool, which shapes are computed with: all kinds but roots and logarithms. Sums
 * wrap, the mean is truncated (ESP_INVALID over no elements). Views have x's and y's types, which are the
 * same. */
bool esp_reduce_takes_integers(esp_reduce_kind kind);
esp_status esp_reduce_integers(const esp_reduction *reduction, const esp_view *x, const esp_view *y);

#endif
