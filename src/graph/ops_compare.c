/* Comparisons, logic and selection (ONNX Equal, Less, Greater, And, Or, Xor, Not, IsNaN, Where): masks and
 * parts of the arithmetic on shapes that exporters leave behind. Only Where passes gradients. */
#include <math.h>
#include <string.h>

#include "graph/ops_arithmetic.h"
#include "tensor/simd.h"
#include "tensor/strides.h"

/* ---- comparisons ---- */

esp_status esp_op_compare_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_binary_infer(context, err);
    context->outputs[0].dtype = ESP_BOOL;
    return status;
}

#define COMPARE(name, kind)                                                                                  \
    esp_status esp_op_##name##_forward(const esp_op_context *context, esp_error *err)                        \
    {                                                                                                        \
        return esp_op_typed_binary(context, ESP_TYPED_##kind, err);                                          \
    }

COMPARE(equal, EQUAL)
COMPARE(less, LESS)
COMPARE(less_or_equal, LESS_OR_EQUAL)
COMPARE(greater, GREATER)
COMPARE(greater_or_equal, GREATER_OR_EQUAL)
COMPARE(and, AND)
COMPARE(or, OR)
COMPARE(xor, XOR)

/* ---- logic ---- */

esp_status esp_op_logic_infer(esp_infer_context *context, esp_error *err)
{
    for (int i = 0; i < context->input_count; i++) {
        if (context->inputs[i]->dtype != ESP_BOOL)
            return esp_fail(err, ESP_SHAPE, "input %d is %s, expected %s", i,
                            esp_dtype_name(context->inputs[i]->dtype), esp_dtype_name(ESP_BOOL));
    }
    return esp_op_binary_infer(context, err);
}

esp_status esp_op_not_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const uint8_t *x = context->inputs[0]->data;
    uint8_t *y = context->outputs[0]->data;
    int64_t count = esp_shape_elements(&context->inputs[0]->shape);
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] == 0;
    return ESP_OK;
}

esp_status esp_op_is_nan_infer(esp_infer_context *context, esp_error *err)
{
    esp_dtype dtype = context->inputs[0]->dtype;
    if (dtype != ESP_F32 && dtype != ESP_F64)
        return esp_fail(err, ESP_SHAPE, "input 0 is %s, expected %s", esp_dtype_name(dtype),
                        esp_dtype_name(ESP_F32));
    context->outputs[0].dtype = ESP_BOOL;
    context->outputs[0].shape = context->inputs[0]->shape;
    return ESP_OK;
}

esp_status esp_op_is_nan_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *x = context->inputs[0];
    uint8_t *y = context->outputs[0]->data;
    int64_t count = esp_shape_elements(&x->shape);
    for (int64_t i = 0; i < count; i++)
        y[i] = (uint8_t)(isnan(esp_view_get_f64(x, i)) ? 1 : 0);
    return ESP_OK;
}

/* ---- Where ---- */

esp_status esp_op_where_infer(esp_infer_context *context, esp_error *err)
{
    if (context->inputs[0]->dtype != ESP_BOOL)
        return esp_fail(err, ESP_SHAPE, "condition (input 0) is %s, expected %s",
                        esp_dtype_name(context->inputs[0]->dtype), esp_dtype_name(ESP_BOOL));
    esp_status status = esp_op_expect_one_type(context, 1, err);
    if (status == ESP_OK)
        status = esp_op_broadcast_inputs(context, 0, &context->outputs[0].shape, err);
    context->outputs[0].dtype = context->inputs[1]->dtype;
    return status;
}

esp_status esp_op_where_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return esp_typed_choose(context->compute, context->inputs[0], context->inputs[1], context->inputs[2],
                            context->outputs[0]);
}

/* The output's gradient where the input was taken, 0 elsewhere, before it is summed to the input's shape. */
size_t esp_op_where_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    const esp_view *y = context->outputs[0];
    return context->has_backward && y->dtype == ESP_F32 ? esp_view_bytes(y) : 0;
}

esp_status esp_op_where_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *dy = context->output_grads[0];
    float nothing = 0.0f;
    esp_view zero = {.data = &nothing, .dtype = ESP_F32}, terms = *dy;
    terms.data = context->scratch;
    esp_status status = ESP_OK;
    for (int i = 1; status == ESP_OK && i < 3; i++) {
        if (context->input_grads[i] == NULL)
            continue;
        status = esp_typed_choose(context->compute, context->inputs[0], i == 1 ? dy : &zero,
                                  i == 1 ? &zero : dy, &terms);
        if (status == ESP_OK)
            status = esp_op_reduce_to(context->compute, &terms, context->input_grads[i]);
    }
    return status;
}
