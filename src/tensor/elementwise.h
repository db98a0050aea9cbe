/* Element-wise kernels with their gradients: unary functions, broadcasting binary arithmetic, softmax. */
#ifndef ESP_TENSOR_ELEMENTWISE_H
#define ESP_TENSOR_ELEMENTWISE_H

#include <stdint.h>

#include "base/compute.h"
#include "tensor/tensor.h"

/* Functions y(x) with parameters a and b: the rows of unary.def. */
typedef enum esp_unary_kind {
#define ESP_UNARY_ROW(name, reads, value, gradient) ESP_UNARY_##name,
#include "tensor/unary.def"
#undef ESP_UNARY_ROW
} esp_unary_kind;

enum {
    ESP_UNARY_KINDS = 0
#define ESP_UNARY_ROW(name, reads, value, gradient) +1
#include "tensor/unary.def"
#undef ESP_UNARY_ROW
};

/* What the gradient of a function is computed from, beside dy. */
typedef enum esp_unary_reads { ESP_READS_INPUT, ESP_READS_OUTPUT, ESP_READS_NEITHER } esp_unary_reads;
esp_unary_reads esp_unary_gradient_reads(esp_unary_kind kind);

/* y = f(x); x and y may be the same. NaN passes through every function. */
esp_status esp_unary_forward(const esp_compute *compute, esp_unary_kind kind, float a, float b, int64_t count,
                             const float *x, float *y);

/* dx = dy * f'(x), overwritten; dx and dy may be the same. Only what esp_unary_gradient_reads says is read:
 * the others of x and y may be NULL. The slope at a kink is 0 for RELU, ABS, SHRINK and at the ends of
 * HARD_SIGMOID, 1 for CLIP, LEAKY_RELU and ELU. */
esp_status esp_unary_backward(const esp_compute *compute, esp_unary_kind kind, float a, float b,
                              int64_t count, const float *x, const float *y, const float *dy, float *dx);

/* Arithmetic: the rows of binary.def. */
typedef enum esp_binary_kind {
#define ESP_BINARY_ROW(name, reads, value, of_a, of_b) ESP_BINARY_##name,
#include "tensor/binary.def"
#undef ESP_BINARY_ROW
} esp_binary_kind;

enum {
    ESP_BINARY_KINDS = 0
#define ESP_BINARY_ROW(name, reads, value, of_a, of_b) +1
#include "tensor/binary.def"
#undef ESP_BINARY_ROW
};

/* y = a op b with ONNX broadcasting, float32; shapes in the views, y's is the broadcast shape. y
 * may be a or b when shapes are equal. */
esp_status esp_binary_forward(const esp_compute *compute, esp_binary_kind kind, const esp_view *a,
                              const esp_view *b, const esp_view *y);

/* Gradients for a and b, summed over broadcast axes (overwritten; either may have NULL data = not wanted).
 * ADD and SUB read neither a nor b. */
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
