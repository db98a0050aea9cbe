/* Arithmetic, comparison and conversion of every element type: what networks compute shapes, masks and
 * indices with. (float32 arithmetic that a network is trained through is in elementwise.h.) */
#ifndef ESP_TENSOR_TYPED_H
#define ESP_TENSOR_TYPED_H

#include "base/compute.h"
#include "tensor/elementwise.h"
#include "tensor/tensor.h"

/* The first are those of esp_binary_kind, in its order. */
typedef enum esp_typed_kind {
#define ESP_BINARY_ROW(name, reads, value, of_a, of_b) ESP_TYPED_##name,
#include "tensor/binary.def"
#undef ESP_BINARY_ROW
    ESP_TYPED_MODULO,    /* the remainder with the sign of b */
    ESP_TYPED_REMAINDER, /* the remainder with the sign of a, as C's fmod */
    ESP_TYPED_EQUAL,     /* from here on the result is bool */
    ESP_TYPED_LESS,
    ESP_TYPED_LESS_OR_EQUAL,
    ESP_TYPED_GREATER,
    ESP_TYPED_GREATER_OR_EQUAL,
    ESP_TYPED_AND,
    ESP_TYPED_OR,
    ESP_TYPED_XOR,
} esp_typed_kind;

/* y = a op b with ONNX broadcasting: shapes in the views, y's is the broadcast shape. a, b and y may be of
 * any types. Integers are computed in 64 bits, two of uint64 without a sign: overflow wraps, division
 * truncates. With a real number on either side it is double. ESP_INVALID when an integer is divided by zero.
 * y may be a or b of the same shape and type. */
esp_status esp_typed_binary(const esp_compute *compute, esp_typed_kind kind, const esp_view *a,
                            const esp_view *b, const esp_view *y);

/* y = condition ? a : b with broadcasting; a, b and y of one type, condition bool. */
esp_status esp_typed_choose(const esp_compute *compute, const esp_view *condition, const esp_view *a,
                            const esp_view *b, const esp_view *y);

/* y = x, as many elements, in y's type. Real numbers lose their fraction and end at the bounds of an integer
 * type (NaN becomes 0); integers that do not fit keep their low bits; what is not 0 is true. */
esp_status esp_typed_cast(const esp_compute *compute, const esp_view *x, const esp_view *y);

#endif
