/* Element-wise operators: unary functions, arithmetic with ONNX broadcasting (float32 through the kernels;
 * other types, which exporters use to compute shapes, through a plain loop), Sum, Equal, Where. */
#include <math.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/arrange.h"
#include "tensor/blocked.h"
#include "tensor/elementwise.h"
#include "tensor/strides.h"

/* ---- unary ---- */

typedef struct unary_plan {
    esp_unary_kind kind;
    float a, b;
    int64_t count;
} unary_plan;

esp_status esp_op_unary_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = context->inputs[0]->shape;
    return ESP_OK;
}

static void prepare_unary(const esp_op_context *context, esp_unary_kind kind, float a, float b, void *plan)
{
    *(unary_plan *)plan =
        (unary_plan){.kind = kind, .a = a, .b = b, .count = esp_shape_elements(&context->inputs[0]->shape)};
}

void esp_op_relu_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_RELU, 0, 0, plan);
}

void esp_op_sigmoid_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_SIGMOID, 0, 0, plan);
}

void esp_op_tanh_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_TANH, 0, 0, plan);
}

void esp_op_exp_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_EXP, 0, 0, plan);
}

void esp_op_sqrt_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_SQRT, 0, 0, plan);
}

void esp_op_neg_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_NEG, 0, 0, plan);
}

void esp_op_hard_sigmoid_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_HARD_SIGMOID, esp_node_float(context->node, "alpha", 0.2f),
                  esp_node_float(context->node, "beta", 0.5f), plan);
}

/* Bounds are attributes before opset 11 and scalar inputs since; the inputs are read at every run. */
void esp_op_clip_prepare(const esp_op_context *context, void *plan)
{
    prepare_unary(context, ESP_UNARY_CLIP, esp_node_float(context->node, "min", -INFINITY),
                  esp_node_float(context->node, "max", INFINITY), plan);
}

esp_status esp_op_clip_infer(esp_infer_context *context, esp_error *err)
{
    for (int i = 1; i < context->input_count; i++) {
        const esp_view *bound = context->inputs[i];
        char text[96];
        if (bound != NULL && esp_shape_elements(&bound->shape) != 1)
            return esp_fail(err, ESP_SHAPE, "bound (input %d) is %s, expected a scalar", i,
                            esp_shape_format(&bound->shape, text, sizeof text));
    }
    return esp_op_unary_infer(context, err);
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
    unary_plan plan = unary_now(context);
    *low = plan.kind == ESP_UNARY_RELU ? 0.0f : plan.a;
    *high = plan.kind == ESP_UNARY_RELU ? INFINITY : plan.b;
    return plan.kind == ESP_UNARY_RELU || plan.kind == ESP_UNARY_CLIP;
}

esp_status esp_op_unary_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    unary_plan plan = unary_now(context);
    if (esp_op_is_blocked(context))
        return esp_blocked_unary(context->compute, plan.kind, plan.a, plan.b, context->inputs[0],
                                 context->outputs[0]);
    return esp_unary_forward(context->compute, plan.kind, plan.a, plan.b, plan.count,
                             esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

/* Every function's slope is read from its input or from its output, as the row's `needs` says; the other of
 * the two may be gone by now, so the one that is left stands for both. */
esp_status esp_op_unary_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    unary_plan plan = unary_now(context);
    unsigned needs = context->node->op->needs;
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if ((needs & ESP_NEEDS_INPUTS) == 0)
        x = y;
    else if ((needs & ESP_NEEDS_OUTPUTS) == 0)
        y = x;
    if (esp_op_is_blocked(context))
        return esp_blocked_unary_backward(context->compute, plan.kind, plan.a, plan.b, x, y,
                                          context->output_grads[0], context->input_grads[0]);
    return esp_unary_backward(context->compute, plan.kind, plan.a, plan.b, plan.count, esp_view_f32(x),
                              esp_view_f32(y), esp_view_f32(context->output_grads[0]),
                              esp_view_f32(context->input_grads[0]));
}

/* ---- arithmetic ---- */

typedef struct binary_plan {
    esp_binary_kind kind;
} binary_plan;

void esp_op_add_prepare(const esp_op_context *context, void *plan)
{
    (void)context;
    ((binary_plan *)plan)->kind = ESP_BINARY_ADD;
}

void esp_op_sub_prepare(const esp_op_context *context, void *plan)
{
    (void)context;
    ((binary_plan *)plan)->kind = ESP_BINARY_SUB;
}

void esp_op_mul_prepare(const esp_op_context *context, void *plan)
{
    (void)context;
    ((binary_plan *)plan)->kind = ESP_BINARY_MUL;
}

void esp_op_div_prepare(const esp_op_context *context, void *plan)
{
    (void)context;
    ((binary_plan *)plan)->kind = ESP_BINARY_DIV;
}

static esp_status same_types(const esp_infer_context *context, int first, esp_error *err)
{
    for (int i = first + 1; i < context->input_count; i++) {
        if (context->inputs[i]->dtype != context->inputs[first]->dtype)
            return esp_fail(err, ESP_SHAPE, "inputs are of types %s and %s",
                            esp_dtype_name(context->inputs[first]->dtype),
                            esp_dtype_name(context->inputs[i]->dtype));
    }
    return ESP_OK;
}

/* Output 0: the broadcast shape and the type of all inputs. */
esp_status esp_op_binary_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = same_types(context, 0, err);
    esp_shape shape = context->inputs[0]->shape;
    for (int i = 1; status == ESP_OK && i < context->input_count; i++) {
        esp_shape wider;
        status = esp_shape_broadcast(&shape, &context->inputs[i]->shape, &wider, err);
        shape = wider;
    }
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = context->inputs[0]->dtype;
    context->outputs[0].shape = shape;
    return ESP_OK;
}

static bool apply_integer(esp_binary_kind kind, int64_t a, int64_t b, int64_t *out)
{
    uint64_t ua = (uint64_t)a, ub = (uint64_t)b; /* wraps where a signed overflow would be undefined */
    switch (kind) {
    case ESP_BINARY_ADD:
        *out = (int64_t)(ua + ub);
        return true;
    case ESP_BINARY_SUB:
        *out = (int64_t)(ua - ub);
        return true;
    case ESP_BINARY_MUL:
        *out = (int64_t)(ua * ub);
        return true;
    case ESP_BINARY_DIV:
        if (b == 0 || (a == INT64_MIN && b == -1))
            return false;
        *out = a / b;
        return true;
    }
    return false;
}

static double apply_double(esp_binary_kind kind, double a, double b)
{
    switch (kind) {
    case ESP_BINARY_ADD:
        return a + b;
    case ESP_BINARY_SUB:
        return a - b;
    case ESP_BINARY_MUL:
        return a * b;
    case ESP_BINARY_DIV:
        break;
    }
    return a / b;
}

static int64_t read_integer(const esp_view *view, int64_t at)
{
    switch (view->dtype) {
    case ESP_I64:
        return ((const int64_t *)view->data)[at];
    case ESP_I32:
        return ((const int32_t *)view->data)[at];
    case ESP_F32:
    case ESP_F64:
    case ESP_U8:
    case ESP_BOOL:
        break;
    }
    return ((const uint8_t *)view->data)[at];
}

static void write_integer(const esp_view *view, int64_t at, int64_t value)
{
    if (view->dtype == ESP_I64)
        ((int64_t *)view->data)[at] = value;
    else if (view->dtype == ESP_I32)
        ((int32_t *)view->data)[at] = (int32_t)value;
    else
        ((uint8_t *)view->data)[at] = (uint8_t)value;
}

/* Shape arithmetic: few elements, so a plain walk. */
static esp_status binary_plain(const esp_op_context *context, esp_binary_kind kind, esp_error *err)
{
    const esp_view *a = context->inputs[0], *b = context->inputs[1], *y = context->outputs[0];
    int64_t a_strides[ESP_MAX_RANK], b_strides[ESP_MAX_RANK], index[ESP_MAX_RANK] = {0};
    esp_broadcast_strides(&a->shape, y->shape.rank, a_strides);
    esp_broadcast_strides(&b->shape, y->shape.rank, b_strides);
    int64_t count = esp_shape_elements(&y->shape);
    for (int64_t i = 0; i < count; i++, esp_index_next(&y->shape, index)) {
        int64_t a_at = esp_index_offset(index, a_strides, y->shape.rank);
        int64_t b_at = esp_index_offset(index, b_strides, y->shape.rank);
        int64_t value = 0;
        if (y->dtype == ESP_F64)
            ((double *)y->data)[i] =
                apply_double(kind, ((const double *)a->data)[a_at], ((const double *)b->data)[b_at]);
        else if (!apply_integer(kind, read_integer(a, a_at), read_integer(b, b_at), &value))
            return esp_fail(err, ESP_INVALID, "integer division by zero");
        else
            write_integer(y, i, value);
    }
    return ESP_OK;
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
    return kind == ESP_BINARY_ADD || kind == ESP_BINARY_MUL;
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
    if (*wide < 0 || (*wide == 1 && !is_commutative(plan.kind)) ||
        !is_line(&context->inputs[1 - *wide]->shape))
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
    if (!esp_view_is_image(context->outputs[0]))
        return false;
    int wide = wide_input(context);
    if (wide < 0)
        return true;
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
static esp_status blocked_binary(const esp_op_context *context, esp_binary_kind kind)
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
    if (context->outputs[0]->dtype != ESP_F32)
        return binary_plain(context, plan->kind, err);
    if (esp_op_is_blocked(context))
        return blocked_binary(context, plan->kind);
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

esp_status esp_op_binary_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    binary_plan local;
    const binary_plan *plan = esp_op_plan(context, &local);
    if (esp_op_is_blocked(context))
        return blocked_backward(context, plan->kind);
    esp_view da = wanted(context, 0), db = wanted(context, 1);
    return esp_binary_backward(context->compute, plan->kind, context->inputs[0], context->inputs[1],
                               context->output_grads[0], &da, &db);
}

/* ---- Sum: any number of inputs ---- */

esp_status esp_op_sum_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    return status == ESP_OK ? esp_op_binary_infer(context, err) : status;
}

/* y = x broadcast to y's shape. */
static esp_status spread(const esp_compute *compute, const esp_view *x, const esp_view *y)
{
    if (x->data == y->data)
        return ESP_OK;
    int64_t x_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK];
    esp_broadcast_strides(&x->shape, y->shape.rank, x_strides);
    esp_shape_strides(&y->shape, y_strides);
    return esp_copy_strided(compute, &y->shape, esp_dtype_size(y->dtype), x->data, x_strides, y->data,
                            y_strides);
}

/* Images of one shape. */
bool esp_op_sum_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    *out = (esp_op_layouts){.blocked_inputs = UINT32_MAX, .blocked_output = true};
    if (!esp_view_is_image(context->outputs[0]) || context->input_count < 2)
        return false;
    for (int i = 0; i < context->input_count; i++) {
        if (!esp_shape_equal(&context->inputs[i]->shape, &context->outputs[0]->shape))
            return false;
    }
    return true;
}

static esp_status blocked_sum(const esp_op_context *context)
{
    const esp_view *y = context->outputs[0];
    esp_status status = blocked_binary(context, ESP_BINARY_ADD); /* the first two */
    for (int i = 2; status == ESP_OK && i < context->input_count; i++)
        status = esp_blocked_accumulate(context->compute, context->inputs[i], y);
    return status;
}

esp_status esp_op_sum_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *y = context->outputs[0];
    if (esp_op_is_blocked(context))
        return blocked_sum(context);
    esp_status status = spread(context->compute, context->inputs[0], y);
    for (int i = 1; status == ESP_OK && i < context->input_count; i++)
        status = esp_binary_forward(context->compute, ESP_BINARY_ADD, y, context->inputs[i], y);
    return status;
}

esp_status esp_op_sum_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        const esp_view *target = context->input_grads[i];
        if (target != NULL && target->layout == ESP_LAYOUT_BLOCKED)
            status = esp_layout_copy(context->compute, context->output_grads[0], target);
        else if (target != NULL)
            status = esp_op_reduce_to(context->compute, context->output_grads[0], target);
    }
    return status;
}

/* ---- Equal, Where: parts of exporters' shape arithmetic ---- */

esp_status esp_op_equal_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_binary_infer(context, err);
    if (status == ESP_OK)
        context->outputs[0].dtype = ESP_BOOL;
    return status;
}

static bool equal_at(const esp_view *a, int64_t a_at, const esp_view *b, int64_t b_at)
{
    if (a->dtype == ESP_F32) {
        float x = ((const float *)a->data)[a_at], y = ((const float *)b->data)[b_at];
        return x <= y && x >= y; /* NaN equals nothing */
    }
    if (a->dtype == ESP_F64) {
        double x = ((const double *)a->data)[a_at], y = ((const double *)b->data)[b_at];
        return x <= y && x >= y;
    }
    return read_integer(a, a_at) == read_integer(b, b_at);
}

esp_status esp_op_equal_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *a = context->inputs[0], *b = context->inputs[1], *y = context->outputs[0];
    int64_t a_strides[ESP_MAX_RANK], b_strides[ESP_MAX_RANK], index[ESP_MAX_RANK] = {0};
    esp_broadcast_strides(&a->shape, y->shape.rank, a_strides);
    esp_broadcast_strides(&b->shape, y->shape.rank, b_strides);
    int64_t count = esp_shape_elements(&y->shape);
    for (int64_t i = 0; i < count; i++, esp_index_next(&y->shape, index))
        ((uint8_t *)y->data)[i] = equal_at(a, esp_index_offset(index, a_strides, y->shape.rank), b,
                                           esp_index_offset(index, b_strides, y->shape.rank));
    return ESP_OK;
}

esp_status esp_op_where_infer(esp_infer_context *context, esp_error *err)
{
    if (context->inputs[0]->dtype != ESP_BOOL)
        return esp_fail(err, ESP_SHAPE, "condition (input 0) is %s, expected %s",
                        esp_dtype_name(context->inputs[0]->dtype), esp_dtype_name(ESP_BOOL));
    esp_shape chosen;
    esp_status status = same_types(context, 1, err);
    if (status == ESP_OK)
        status = esp_shape_broadcast(&context->inputs[1]->shape, &context->inputs[2]->shape, &chosen, err);
    if (status == ESP_OK)
        status = esp_shape_broadcast(&context->inputs[0]->shape, &chosen, &context->outputs[0].shape, err);
    context->outputs[0].dtype = context->inputs[1]->dtype;
    return status;
}

esp_status esp_op_where_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *y = context->outputs[0];
    size_t size = esp_dtype_size(y->dtype);
    int64_t strides[3][ESP_MAX_RANK], index[ESP_MAX_RANK] = {0};
    for (int i = 0; i < 3; i++)
        esp_broadcast_strides(&context->inputs[i]->shape, y->shape.rank, strides[i]);
    int64_t count = esp_shape_elements(&y->shape);
    const uint8_t *condition = context->inputs[0]->data;
    for (int64_t i = 0; i < count; i++, esp_index_next(&y->shape, index)) {
        int chosen = condition[esp_index_offset(index, strides[0], y->shape.rank)] != 0 ? 1 : 2;
        size_t at = (size_t)esp_index_offset(index, strides[chosen], y->shape.rank);
        memcpy((char *)y->data + (size_t)i * size, (const char *)context->inputs[chosen]->data + at * size,
               size);
    }
    return ESP_OK;
}
