/* Functions of one number (ONNX Relu, Clip, Sigmoid, Elu, Gelu, Exp, Round and so on): float32 through the
 * kernels of elementwise.h, plain or in channel blocks; the few that exporters use on shapes in every type.
 */
#include <math.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/blocked.h"
#include "tensor/elementwise.h"
#include "tensor/typed.h"

typedef struct unary_plan {
    esp_unary_kind kind;
    float a, b;
    int64_t count;
} unary_plan;

static void same_as_input(esp_infer_context *context)
{
    context->outputs[0].dtype = context->inputs[0]->dtype;
    context->outputs[0].shape = context->inputs[0]->shape;
}

esp_status esp_op_unary_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK)
        same_as_input(context);
    return status;
}

/* Any number. */
esp_status esp_op_numeric_infer(esp_infer_context *context, esp_error *err)
{
    if (context->inputs[0]->dtype == ESP_BOOL)
        return esp_fail(err, ESP_SHAPE, "input 0 is %s, expected numbers", esp_dtype_name(ESP_BOOL));
    same_as_input(context);
    return ESP_OK;
}

/* float32 and integers. */
esp_status esp_op_sign_infer(esp_infer_context *context, esp_error *err)
{
    return context->inputs[0]->dtype == ESP_F64 ? esp_op_unary_infer(context, err)
                                                : esp_op_numeric_infer(context, err);
}

/* ---- which function: attributes and their defaults are in the table ---- */

static void prepare_unary(const esp_op_context *context, esp_unary_kind kind, float a, float b, void *plan)
{
    *(unary_plan *)plan =
        (unary_plan){.kind = kind, .a = a, .b = b, .count = esp_shape_elements(&context->inputs[0]->shape)};
}

#define PREPARE(name, kind, a, b)                                                                            \
    void esp_op_##name##_prepare(const esp_op_context *context, void *plan)                                  \
    {                                                                                                        \
        prepare_unary(context, ESP_UNARY_##kind, a, b, plan);                                                \
    }
#define FLOAT(name, otherwise) esp_node_float(context->node, name, otherwise)

PREPARE(relu, RELU, 0, 0)
PREPARE(sigmoid, SIGMOID, 0, 0)
PREPARE(hard_sigmoid, HARD_SIGMOID, FLOAT("alpha", 0.2f), FLOAT("beta", 0.5f))
PREPARE(hard_swish, HARD_SWISH, 0, 0)
PREPARE(tanh, TANH, 0, 0)
PREPARE(leaky_relu, LEAKY_RELU, FLOAT("alpha", 0.01f), 0)
PREPARE(elu, ELU, FLOAT("alpha", 1.0f), 0)
PREPARE(selu, SELU, FLOAT("alpha", 1.67326319f), FLOAT("gamma", 1.05070102f))
PREPARE(celu, CELU, FLOAT("alpha", 1.0f), 0)
PREPARE(thresholded_relu, THRESHOLDED_RELU, FLOAT("alpha", 1.0f), 0)
PREPARE(softplus, SOFTPLUS, 0, 0)
PREPARE(softsign, SOFTSIGN, 0, 0)
PREPARE(mish, MISH, 0, 0)
PREPARE(erf, ERF, 0, 0)
PREPARE(shrink, SHRINK, FLOAT("bias", 0.0f), FLOAT("lambd", 0.5f))
PREPARE(exp, EXP, 0, 0)
PREPARE(log, LOG, 0, 0)
PREPARE(sqrt, SQRT, 0, 0)
PREPARE(neg, NEG, 0, 0)
PREPARE(abs, ABS, 0, 0)
PREPARE(reciprocal, RECIPROCAL, 0, 0)
PREPARE(floor, FLOOR, 0, 0)
PREPARE(ceil, CEIL, 0, 0)
PREPARE(round, ROUND, 0, 0)
PREPARE(sign, SIGN, 0, 0)
PREPARE(sin, SIN, 0, 0)
PREPARE(cos, COS, 0, 0)
/* Bounds are attributes before opset 11 and scalar inputs since; the inputs are read at every run. */
PREPARE(clip, CLIP, FLOAT("min", -INFINITY), FLOAT("max", INFINITY))

static bool is_tanh_form(const esp_node *node)
{
    return strcmp(esp_node_string(node, "approximate", "none"), "tanh") == 0;
}

void esp_op_gelu_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, is_tanh_form(context->node) ? ESP_UNARY_GELU_TANH : ESP_UNARY_GELU, 0, 0, plan);
}

esp_status esp_op_gelu_infer(esp_infer_context *context, esp_error *err)
{
    const char *form = esp_node_string(context->node, "approximate", "none");
    if (!is_tanh_form(context->node) && strcmp(form, "none") != 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'approximate' is '%s', expected none or tanh", form);
    return esp_op_unary_infer(context, err);
}

esp_status esp_op_celu_infer(esp_infer_context *context, esp_error *err)
{
    if (!(fabsf(esp_node_float(context->node, "alpha", 1.0f)) > 0.0f))
        return esp_fail(err, ESP_INVALID, "attribute 'alpha' is 0, it divides the input");
    return esp_op_unary_infer(context, err);
}

esp_status esp_op_clip_infer(esp_infer_context *context, esp_error *err)
{
    for (int i = 1; i < context->input_count; i++) {
        const esp_view *bound = context->inputs[i];
        char text[96];
        if (bound != NULL && esp_shape_elements(&bound->shape) != 1)
            return esp_fail(err, ESP_SHAPE, "bound (input %d) is %s, expected a scalar", i,
                            esp_shape_format(&bound->shape, text, sizeof text));
        if (bound != NULL && bound->dtype != context->inputs[0]->dtype)
            return esp_fail(err, ESP_SHAPE, "bound (input %d) is %s, expected the input's type %s", i,
                            esp_dtype_name(bound->dtype), esp_dtype_name(context->inputs[0]->dtype));
    }
    return esp_op_numeric_infer(context, err);
}

/* The plan with Clip's bounds as they are now. */
static unary_plan unary_now(const esp_op_context *context)
{
    unary_plan local;
    unary_plan plan = *(const unary_plan *)esp_op_plan(context, &local);
    const esp_view *low = esp_op_input(context, 1), *high = esp_op_input(context, 2);
    if (low != NULL)
        plan.a = esp_view_f32(low)[0];
    if (high != NULL)
        plan.b = esp_view_f32(high)[0];
    return plan;
}

bool esp_op_clip_range(const esp_op_context *context, float *low, float *high)
{
    if (context->inputs[0]->dtype != ESP_F32)
        return false;
    unary_plan plan = unary_now(context);
    *low = plan.kind == ESP_UNARY_RELU ? 0.0f : plan.a;
    *high = plan.kind == ESP_UNARY_RELU ? INFINITY : plan.b;
    return plan.kind == ESP_UNARY_RELU || plan.kind == ESP_UNARY_CLIP;
}

/* ---- other types: by arithmetic with numbers of the input's type ---- */

/* y = x op number; the number is second. */
static esp_status with_number(const esp_op_context *context, esp_typed_kind kind, const esp_view *x,
                              int64_t number, const esp_view *y)
{
    int64_t room = 0; /* for any type */
    esp_view wide = {.data = &number, .dtype = ESP_I64}, own = {.data = &room, .dtype = x->dtype};
    esp_status status = esp_typed_cast(NULL, &wide, &own);
    return status == ESP_OK ? esp_typed_binary(context->compute, kind, x, &own, y) : status;
}

static esp_status typed_clip(const esp_op_context *context)
{
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    const esp_view *low = esp_op_input(context, 1), *high = esp_op_input(context, 2);
    esp_status status = low != NULL ? esp_typed_binary(context->compute, ESP_TYPED_MAX, x, low, y)
                                    : esp_typed_cast(context->compute, x, y);
    if (status == ESP_OK && high != NULL)
        status = esp_typed_binary(context->compute, ESP_TYPED_MIN, y, high, y);
    return status;
}

/* The sign is x between -1 and 1; |x| has the slope -1 below 0. */
static esp_status typed_unary(const esp_op_context *context, esp_unary_kind kind)
{
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (kind == ESP_UNARY_CLIP)
        return typed_clip(context);
    if (kind == ESP_UNARY_RELU)
        return with_number(context, ESP_TYPED_MAX, x, 0, y);
    if (kind == ESP_UNARY_ABS)
        return with_number(context, ESP_TYPED_PRELU, x, -1, y);
    if (kind == ESP_UNARY_NEG)
        return with_number(context, ESP_TYPED_MUL, x, -1, y);
    esp_status status = with_number(context, ESP_TYPED_MIN, x, 1, y);
    return status == ESP_OK && esp_dtype_is_signed(x->dtype) ? with_number(context, ESP_TYPED_MAX, y, -1, y)
                                                             : status;
}

/* ---- runs ---- */

esp_status esp_op_unary_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    if (context->inputs[0]->dtype != ESP_F32) {
        unary_plan local;
        return typed_unary(context, ((const unary_plan *)esp_op_plan(context, &local))->kind);
    }
    unary_plan plan = unary_now(context);
    if (esp_op_is_blocked(context))
        return esp_blocked_unary(context->compute, plan.kind, plan.a, plan.b, context->inputs[0],
                                 context->outputs[0]);
    return esp_unary_forward(context->compute, plan.kind, plan.a, plan.b, plan.count,
                             esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

/* The kernel reads the input or the output, as the row's `needs` says; the other may be gone by now. */
esp_status esp_op_unary_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    unary_plan plan = unary_now(context);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (esp_op_is_blocked(context))
        return esp_blocked_unary_backward(context->compute, plan.kind, plan.a, plan.b, x, y,
                                          context->output_grads[0], context->input_grads[0]);
    return esp_unary_backward(context->compute, plan.kind, plan.a, plan.b, plan.count, esp_view_f32(x),
                              esp_view_f32(y), esp_view_f32(context->output_grads[0]),
                              esp_view_f32(context->input_grads[0]));
}
