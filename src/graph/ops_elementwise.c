/* Arithmetic of two operands with ONNX broadcasting (Add, Sub, Mul, Div, Pow, Mod, PRelu). float32 goes
 * through the kernels of elementwise.h, plain or in channel blocks; other types, which exporters compute
 * shapes with, through typed.h. */

#include "graph/ops_arithmetic.h"
#include "tensor/blocked.h"

/* ---- arithmetic ---- */

typedef struct binary_plan {
    esp_binary_kind kind;
} binary_plan;

#define PREPARE(name, of)                                                                                    \
    void esp_op_##name##_prepare(const esp_op_context *context, void *plan)                                  \
    {                                                                                                        \
        (void)context;                                                                                       \
        ((binary_plan *)plan)->kind = ESP_BINARY_##of;                                                       \
    }

PREPARE(add, ADD)
PREPARE(sub, SUB)
PREPARE(mul, MUL)
PREPARE(div, DIV)
PREPARE(pow, POW)
PREPARE(p_relu, PRELU)

esp_status esp_op_expect_one_type(const esp_infer_context *context, int first, esp_error *err)
{
    for (int i = first + 1; i < context->input_count; i++) {
        if (context->inputs[i]->dtype != context->inputs[first]->dtype)
            return esp_fail(err, ESP_SHAPE, "inputs are of types %s and %s",
                            esp_dtype_name(context->inputs[first]->dtype),
                            esp_dtype_name(context->inputs[i]->dtype));
    }
    return ESP_OK;
}

esp_status esp_op_broadcast_inputs(const esp_infer_context *context, int first, esp_shape *out,
                                   esp_error *err)
{
    esp_shape shape = context->inputs[first]->shape;
    for (int i = first + 1; i < context->input_count; i++) {
        esp_shape wider;
        esp_status status = esp_shape_broadcast(&shape, &context->inputs[i]->shape, &wider, err);
        if (status != ESP_OK)
            return status;
        shape = wider;
    }
    *out = shape;
    return ESP_OK;
}

/* Output 0: the broadcast shape and the type of all inputs. */
esp_status esp_op_binary_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_one_type(context, 0, err);
    if (status == ESP_OK)
        status = esp_op_broadcast_inputs(context, 0, &context->outputs[0].shape, err);
    context->outputs[0].dtype = context->inputs[0]->dtype;
    return status;
}

/* The exponent may be of another type; the result is of the base's. */
esp_status esp_op_pow_infer(esp_infer_context *context, esp_error *err)
{
    context->outputs[0].dtype = context->inputs[0]->dtype;
    return esp_op_broadcast_inputs(context, 0, &context->outputs[0].shape, err);
}

/* The slope is broadcast to the input, which keeps its shape. */
esp_status esp_op_p_relu_infer(esp_infer_context *context, esp_error *err)
{
    char x[96], slope[96];
    esp_status status = esp_op_binary_infer(context, err);
    if (status == ESP_OK && !esp_shape_equal(&context->outputs[0].shape, &context->inputs[0]->shape))
        return esp_fail(err, ESP_SHAPE, "slope %s does not broadcast to the input %s",
                        esp_shape_format(&context->inputs[1]->shape, slope, sizeof slope),
                        esp_shape_format(&context->inputs[0]->shape, x, sizeof x));
    return status;
}

esp_status esp_op_typed_binary(const esp_op_context *context, esp_typed_kind kind, esp_error *err)
{
    esp_status status =
        esp_typed_binary(context->compute, kind, context->inputs[0], context->inputs[1], context->outputs[0]);
    return status == ESP_INVALID ? esp_fail(err, status, "integer division by zero") : status;
}

bool esp_op_is_all_f32(const esp_op_context *context)
{
    for (int i = 0; i < context->input_count; i++) {
        if (context->inputs[i]->dtype != ESP_F32)
            return false;
    }
    return true;
}

/* Which input is the image of the output's shape when the other is repeated over it; -1 for equal shapes. */
static int wide_input(const esp_op_context *context)
{
    const esp_shape *a = &context->inputs[0]->shape, *y = &context->outputs[0]->shape;
    if (esp_shape_equal(a, &context->inputs[1]->shape))
        return -1;
    return esp_shape_equal(a, y) ? 0 : 1;
}

static bool is_commutative(esp_binary_kind kind)
{
    return kind == ESP_BINARY_ADD || kind == ESP_BINARY_MUL || kind == ESP_BINARY_MIN ||
           kind == ESP_BINARY_MAX;
}

/* A number or a line of channels: [1,C,1,1], [C,1,1] or one element. */
static bool is_line(const esp_shape *shape)
{
    int64_t elements = esp_shape_elements(shape);
    return elements == 1 || (shape->rank >= 3 && elements == shape->dims[shape->rank - 3]);
}

bool esp_op_binary_line(const esp_op_context *context, esp_line *line, int *wide)
{
    static const esp_line_kind kinds[] = {[ESP_BINARY_ADD] = ESP_LINE_ADD,
                                          [ESP_BINARY_SUB] = ESP_LINE_SUB,
                                          [ESP_BINARY_MUL] = ESP_LINE_MUL,
                                          [ESP_BINARY_DIV] = ESP_LINE_DIV};
    binary_plan plan;
    if (context->node->op->forward != esp_op_binary_forward || !esp_view_is_image(context->outputs[0]))
        return false;
    context->node->op->prepare(context, &plan);
    *wide = wide_input(context);
    if (plan.kind >= sizeof kinds / sizeof *kinds || *wide < 0 ||
        (*wide == 1 && !is_commutative(plan.kind)) || !is_line(&context->inputs[1 - *wide]->shape))
        return false;
    *line = (esp_line){.kind = kinds[plan.kind], .input = 1 - *wide};
    return true;
}

/* Images of equal shape, or an image and something per channel. The gradient of what is repeated is made in
 * plain form only. */
bool esp_op_binary_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    binary_plan plan;
    context->node->op->prepare(context, &plan);
    *out = (esp_op_layouts){.blocked_inputs = 3, .blocked_output = true};
    if (!esp_view_is_image(context->outputs[0]) || !esp_op_is_all_f32(context))
        return false;
    int wide = wide_input(context);
    if (wide < 0)
        return true;
    if (context->has_backward && plan.kind > ESP_BINARY_DIV)
        return false; /* what is passed on to the image is more than a product */
    const esp_shape *line = &context->inputs[1 - wide]->shape;
    bool wants_line = context->has_backward && esp_op_input_grad(context, 1 - wide) != NULL;
    if (wants_line || (wide == 1 && !is_commutative(plan.kind)) ||
        !esp_shape_equal(&context->inputs[wide]->shape, &context->outputs[0]->shape) ||
        !esp_blocked_binary_fits(&context->inputs[wide]->shape, line))
        return false;
    out->blocked_inputs = is_line(line) ? 1u << wide : 3;
    return true;
}

/* y = a op b; clip(a + b) is an affine pass without a line. */
esp_status esp_op_blocked_binary(const esp_op_context *context, esp_binary_kind kind)
{
    const esp_fused *fused = context->fused;
    const esp_view *a = context->inputs[0], *b = context->inputs[1], *y = context->outputs[0];
    esp_affine affine = {.residual = b, .clips = fused->clips, .low = fused->low, .high = fused->high};
    if (fused->clips)
        return esp_blocked_affine(context->compute, a, &affine, y);
    if (wide_input(context) == 1)
        return esp_blocked_binary(context->compute, kind, b, a, y);
    return esp_blocked_binary(context->compute, kind, a, b, y);
}

/* What is repeated over the image has no gradient here (esp_op_binary_blocks). */
static esp_status blocked_backward(const esp_op_context *context, esp_binary_kind kind)
{
    const esp_view *a = context->inputs[0], *b = context->inputs[1], *dy = context->output_grads[0];
    int wide = wide_input(context);
    if (wide < 0)
        return esp_blocked_binary_backward(context->compute, kind, a, b, dy, context->input_grads[0],
                                           context->input_grads[1]);
    const esp_view *target = context->input_grads[wide];
    if (target == NULL)
        return ESP_OK;
    if (kind == ESP_BINARY_MUL || kind == ESP_BINARY_DIV)
        return esp_blocked_binary(context->compute, kind, dy, context->inputs[1 - wide], target);
    return esp_layout_copy(context->compute, dy, target);
}

esp_status esp_op_binary_forward(const esp_op_context *context, esp_error *err)
{
    binary_plan local;
    const binary_plan *plan = esp_op_plan(context, &local);
    if (!esp_op_is_all_f32(context))
        return esp_op_typed_binary(context, (esp_typed_kind)plan->kind, err);
    if (esp_op_is_blocked(context))
        return esp_op_blocked_binary(context, plan->kind);
    return esp_binary_forward(context->compute, plan->kind, context->inputs[0], context->inputs[1],
                              context->outputs[0]);
}

/* The gradient's view, or one without data when it is not wanted. */
static esp_view wanted(const esp_op_context *context, int input)
{
    if (context->input_grads[input] != NULL)
        return *context->input_grads[input];
    esp_view none = *context->inputs[input];
    none.data = NULL;
    return none;
}

static esp_status plain_backward(const esp_op_context *context, esp_binary_kind kind, const esp_view *b)
{
    esp_view da = wanted(context, 0), db = wanted(context, 1);
    return esp_binary_backward(context->compute, kind, context->inputs[0], b, context->output_grads[0], &da,
                               &db);
}

esp_status esp_op_binary_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    binary_plan local;
    const binary_plan *plan = esp_op_plan(context, &local);
    if (esp_op_is_blocked(context))
        return blocked_backward(context, plan->kind);
    return plain_backward(context, plan->kind, context->inputs[1]);
}

/* An exponent of another type is needed as float32 for the base's gradient. */
size_t esp_op_pow_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    const esp_view *exponent = context->inputs[1];
    bool is_converted = context->has_backward && exponent->dtype != ESP_F32;
    return is_converted ? (size_t)esp_shape_elements(&exponent->shape) * sizeof(float) : 0;
}

esp_status esp_op_pow_backward(const esp_op_context *context, esp_error *err)
{
    if (context->inputs[1]->dtype == ESP_F32)
        return esp_op_binary_backward(context, err);
    esp_view exponent = *context->inputs[1];
    exponent.dtype = ESP_F32;
    exponent.data = context->scratch;
    esp_status status = esp_typed_cast(context->compute, context->inputs[1], &exponent);
    return status == ESP_OK ? plain_backward(context, ESP_BINARY_POW, &exponent) : status;
}

/* ---- Mod (-10, -13): the sign of the divisor, or with fmod that of the dividend ---- */

esp_status esp_op_mod_infer(esp_infer_context *context, esp_error *err)
{
    esp_dtype dtype = context->inputs[0]->dtype;
    if ((dtype == ESP_F32 || dtype == ESP_F64) && esp_node_int(context->node, "fmod", 0) == 0)
        return esp_fail(err, ESP_INVALID, "attribute 'fmod' is 0 for inputs of type %s, expected 1",
                        esp_dtype_name(dtype));
    return esp_op_binary_infer(context, err);
}

esp_status esp_op_mod_forward(const esp_op_context *context, esp_error *err)
{
    bool is_fmod = esp_node_int(context->node, "fmod", 0) != 0;
    return esp_op_typed_binary(context, is_fmod ? ESP_TYPED_REMAINDER : ESP_TYPED_MODULO, err);
}
