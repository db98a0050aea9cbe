/* CumSum (ONNX -11, -14): sums along an axis, of the element itself and those before it (or without itself:
 * exclusive; or after it: reverse). The gradient is the same sum in the other direction. */
#include "graph/ops.h"

typedef struct sum_plan {
    int64_t outer, count, inner;
    bool is_exclusive, is_reverse;
} sum_plan;

static esp_status read_axis(const esp_infer_context *context, int *axis, esp_error *err)
{
    int64_t given[ESP_MAX_RANK];
    int count;
    esp_status status = esp_op_known_ints(context, 1, "axis", given, &count, err);
    if (status == ESP_OK && count != 1)
        status = esp_fail(err, ESP_SHAPE, "%d axes, expected one", count);
    return status == ESP_OK ? esp_op_axis(given[0], context->inputs[0]->shape.rank, axis, err) : status;
}

esp_status esp_op_cum_sum_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int axis;
    if (esp_dtype_size(x->dtype) < sizeof(int32_t)) /* as ONNX has it */
        return esp_fail(err, ESP_UNSUPPORTED, "sums of %s", esp_dtype_name(x->dtype));
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = x->shape;
    return read_axis(context, &axis, err);
}

void esp_op_cum_sum_prepare(const esp_op_context *context, void *memory)
{
    const esp_shape *x = &context->inputs[0]->shape;
    esp_infer_context as_infer = esp_op_as_infer(context);
    int axis = 0;
    read_axis(&as_infer, &axis, NULL); /* infer has accepted it */
    *(sum_plan *)memory = (sum_plan){.outer = esp_shape_product(x, 0, axis),
                                     .count = x->dims[axis],
                                     .inner = esp_shape_product(x, axis + 1, x->rank),
                                     .is_exclusive = esp_node_int(context->node, "exclusive", 0) != 0,
                                     .is_reverse = esp_node_int(context->node, "reverse", 0) != 0};
}

/* One line of the tensor; `type` holds its elements and `sum_type` their sum. Unsigned sums wrap, and are the
 * same bits for signed and unsigned elements. */
#define SUM_LINE(type, sum_type)                                                                             \
    do {                                                                                                     \
        const type *from = (const type *)x + start;                                                          \
        type *to = (type *)y + start;                                                                        \
        sum_type sum = 0;                                                                                    \
        for (int64_t i = 0; i < p->count; i++) {                                                             \
            int64_t at = (is_reverse ? p->count - 1 - i : i) * p->inner;                                     \
            sum_type before = sum;                                                                           \
            sum += (sum_type)from[at];                                                                       \
            to[at] = (type)(p->is_exclusive ? before : sum);                                                 \
        }                                                                                                    \
    } while (0)

static void sum_lines(const sum_plan *p, esp_dtype dtype, bool is_reverse, const void *x, void *y)
{
    for (int64_t line = 0; line < p->outer * p->inner; line++) {
        int64_t start = line / p->inner * p->count * p->inner + line % p->inner;
        if (dtype == ESP_F32)
            SUM_LINE(float, double);
        else if (dtype == ESP_F64)
            SUM_LINE(double, double);
        else if (esp_dtype_size(dtype) == sizeof(int32_t))
            SUM_LINE(int32_t, uint32_t);
        else
            SUM_LINE(int64_t, uint64_t);
    }
}

esp_status esp_op_cum_sum_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    sum_plan local;
    const sum_plan *plan = esp_op_plan(context, &local);
    sum_lines(plan, context->inputs[0]->dtype, plan->is_reverse, context->inputs[0]->data,
              context->outputs[0]->data);
    return ESP_OK;
}

esp_status esp_op_cum_sum_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    sum_plan local;
    const sum_plan *plan = esp_op_plan(context, &local);
    if (context->input_grads[0] != NULL)
        sum_lines(plan, ESP_F32, !plan->is_reverse, context->output_grads[0]->data,
                  context->input_grads[0]->data);
    return ESP_OK;
}
