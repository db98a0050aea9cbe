/* Cast (ONNX -6, -9, -13, -19, -21) and CastLike (-15, -19, -21) between all element types. A gradient passes
 * only from float32 to float32, where it is a copy. */
#include <inttypes.h>

#include "graph/ops.h"
#include "tensor/typed.h"

/* TensorProto.DataType of each element type, in the order of esp_dtype. */
static const int64_t onnx_types[] = {
    [ESP_F32] = 1, [ESP_F64] = 11, [ESP_I32] = 6,  [ESP_I64] = 7,  [ESP_U8] = 2,  [ESP_I8] = 3,
    [ESP_I16] = 5, [ESP_U16] = 4,  [ESP_U32] = 12, [ESP_U64] = 13, [ESP_BOOL] = 9};
_Static_assert(sizeof onnx_types / sizeof *onnx_types == ESP_BOOL + 1, "every type has its number");

esp_status esp_op_cast_infer(esp_infer_context *context, esp_error *err)
{
    int64_t to = esp_node_int(context->node, "to", 0);
    context->outputs[0].shape = context->inputs[0]->shape;
    for (size_t i = 0; i < sizeof onnx_types / sizeof *onnx_types; i++) {
        if (onnx_types[i] == to) {
            context->outputs[0].dtype = (esp_dtype)i;
            return ESP_OK;
        }
    }
    return esp_fail(err, ESP_UNSUPPORTED, "attribute 'to': element type %" PRId64, to);
}

/* The second input gives its type, nothing else. */
esp_status esp_op_cast_like_infer(esp_infer_context *context, esp_error *err)
{
    (void)err;
    context->outputs[0].shape = context->inputs[0]->shape;
    context->outputs[0].dtype = context->inputs[1]->dtype;
    return ESP_OK;
}

esp_status esp_op_cast_forward(const esp_op_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (x->dtype == y->dtype)
        return esp_op_view_forward(context, err);
    return esp_typed_cast(context->compute, x, y);
}
