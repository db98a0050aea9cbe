/* Element-wise kernels with their gradients: unary functions, broadcasting binary arithmetic, softmax. */
#ifndef ESP_TENSOR_ELEMENTWISE_H
#define ESP_TENSOR_ELEMENTWISE_H

#include <stdint.h>

#include "base/compute.h"
#include "tensor/tensor.h"

/* Unary functions y(x) with parameters a and b. */
typedef enum esp_unary_kind {
    ESP_UNARY_RELU,
    ESP_UNARY_CLIP,         /* min(max(x, a), b) */
    ESP_UNARY_SIGMOID,      /* 1/(1+exp(-x)) */
    ESP_UNARY_HARD_SIGMOID, /* max(0, min(1, a*x + b)) */
    ESP_UNARY_EXP,
    ESP_UNARY_SQRT,
    ESP_UNARY_NEG,
    ESP_UNARY_TANH,
    ESP_UNARY_SCALE, /* a*x + b */
} esp_unary_kind;

/* y = f(x); x and y may be the same. NaN passes through every function. */
esp_status esp_unary_forward(const esp_compute *compute, esp_unary_kind kind, float a, float b, int64_t count,
                             const float *x, float *y);

/* dx = dy * f'(x), overwritten; dx and dy may be the same. RELU, SIGMOID, EXP, SQRT and TANH read y only,
 * CLIP and HARD_SIGMOID x only, NEG and SCALE neither: the other may be NULL. The slope at a kink is 0 for
 * RELU, 1 for CLIP. */
esp_status esp_unary_backward(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                              int64_t count, const float *x, const float *y, const float *dy, float *dx);

typedef enum esp_binary_kind {
    ESP_BINARY_ADD,
    ESP_BINARY_SUB,
    ESP_BINARY_MUL,
    ESP_BINARY_DIV
} esp_binary_kind;

/* y = a op b with ONNX broadcasting, float32; shapes in the views, y's is the broadcast shape. y
 * may be a or b when shapes are equal. */
esp_status esp_binary_forward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                              const esp_view *b, const esp_view *y);

/* Gradients for a and b, summed over broadcast axes (overwritten; either may have NULL data = not wanted). */
esp_status esp_binary_backward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                               const esp_view *b, const esp_view *dy, const esp_view *da, const esp_view *db);

/* y += x. */
esp_status esp_accumulate(const esp_compute *compute, int64_t count, const float *x, float *y);

/* Softmax over the middle axis of [outer, axis, inner] (ONNX Softmax-13; older ones with inner = 1). */
esp_status esp_softmax_forward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                               const float *x, float *y);
esp_status esp_softmax_backward(const esp_compute *compute, int64_t outer, int64_t axis, int64_t inner,
                                const float *y, const float *dy, float *dx);

#endif
