/* MeanVarianceNormalization (ONNX -9, -13), LpNormalization (-1) and LRN (-1, -13): normalisations without
 * parameters. The first two are put together from reductions and broadcasting arithmetic. */
#include <inttypes.h>
#include <math.h>

#include "graph/ops.h"
#include "tensor/channel_window_norm.h"
#include "tensor/elementwise.h"
#include "tensor/reduce.h"

/* Numbers per position that is left when the reduced axes are gone: `lines` of them in scratch memory, then
 * `wholes` arrays like x. */
typedef struct axes_plan {
    esp_reduction reduction; /* kind L1 or L2: LpNormalization */
    esp_shape line;          /* x with 1 for the reduced axes */
    int64_t lines, elements;
} axes_plan;

_Static_assert(sizeof(axes_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

static void finish_plan(const esp_op_context *context, axes_plan *plan)
{
    plan->line = plan->reduction.x = context->inputs[0]->shape;
    for (int i = 0; i < plan->line.rank; i++) {
        if (plan->reduction.is_reduced[i])
            plan->line.dims[i] = 1;
    }
    plan->lines = esp_shape_elements(&plan->line);
    plan->elements = esp_shape_elements(&plan->reduction.x);
}

/* Line `index`, and array `index` behind all lines. */
static esp_view line_view(const esp_op_context *context, const axes_plan *plan, int index)
{
    return (esp_view){
        .data = (float *)context->scratch + index * plan->lines, .dtype = ESP_F32, .shape = plan->line};
}

enum { LINES = 2 };

static esp_view whole_view(const esp_op_context *context, const axes_plan *plan)
{
    return (esp_view){.data = (float *)context->scratch + LINES * plan->lines,
                      .dtype = ESP_F32,
                      .shape = plan->reduction.x};
}

/* line = the reduction of x, y = a op b: shorter words for the kernels. */
static esp_status reduce(const esp_op_context *context, const axes_plan *plan, esp_reduce_kind kind,
                         const esp_view *x, const esp_view *line)
{
    esp_reduction reduction = plan->reduction;
    reduction.kind = kind;
    return esp_reduce_forward(context->compute, &reduction, esp_view_f32(x), esp_view_f32(line));
}

static esp_status operate(const esp_op_context *context, esp_binary_kind kind, const esp_view *a,
                          const esp_view *b, const esp_view *y)
{
    return esp_binary_forward(context->compute, kind, a, b, y);
}

static size_t scratch_bytes(const esp_op_context *context, const axes_plan *plan)
{
    int64_t wholes = context->has_backward ? 1 : 0;
    return (size_t)(LINES * plan->lines + wholes * plan->elements) * sizeof(float);
}

/* ---- MeanVarianceNormalization: y = (x - mean) / (sqrt(variance) + 1e-9) ---- */

/* Axes 0, 2 and 3 when the node names none. */
static esp_status read_axes(const esp_infer_context *context, bool is_reduced[ESP_MAX_RANK], esp_error *err)
{
    int64_t axes[ESP_MAX_RANK] = {0, 2, 3};
    int rank = context->inputs[0]->shape.rank;
    int count = esp_node_attr(context->node, "axes") == NULL
                    ? 3
                    : esp_node_ints(context->node, "axes", axes, ESP_MAX_RANK);
    if (count > ESP_MAX_RANK)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'axes' has %d entries, expected at most %d", count,
                        ESP_MAX_RANK);
    for (int i = 0; i < count; i++) {
        int axis;
        esp_status status = esp_op_axis(axes[i], rank, &axis, err);
        if (status != ESP_OK)
            return status;
        is_reduced[axis] = true;
    }
    return ESP_OK;
}

esp_status esp_op_mean_variance_infer(esp_infer_context *context, esp_error *err)
{
    bool is_reduced[ESP_MAX_RANK] = {false};
    esp_status status = esp_op_unary_infer(context, err);
    return status == ESP_OK ? read_axes(context, is_reduced, err) : status;
}

void esp_op_mean_variance_prepare(const esp_op_context *context, void *memory)
{
    axes_plan *plan = memory;
    esp_infer_context as_infer = esp_op_as_infer(context);
    *plan = (axes_plan){0};
    read_axes(&as_infer, plan->reduction.is_reduced, NULL); /* infer has accepted it */
    finish_plan(context, plan);
}

size_t esp_op_axes_norm_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    axes_plan local;
    return scratch_bytes(context, esp_op_plan(context, &local));
}

/* d = x - mean, and the deviations. */
static esp_status find_deviations(const esp_op_context *context, const axes_plan *plan, const esp_view *d,
                                  const esp_view *deviation)
{
    double share = plan->elements == 0 ? 0.0 : (double)plan->lines / (double)plan->elements;
    esp_status status = reduce(context, plan, ESP_REDUCE_MEAN, context->inputs[0], deviation);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_SUB, context->inputs[0], deviation, d);
    if (status == ESP_OK)
        status = reduce(context, plan, ESP_REDUCE_SUM_SQUARE, d, deviation);
    float *values = esp_view_f32(deviation);
    for (int64_t i = 0; status == ESP_OK && i < plan->lines; i++)
        values[i] = (float)(sqrt((double)values[i] * share) + 1e-9);
    return status;
}

esp_status esp_op_mean_variance_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    axes_plan local;
    const axes_plan *plan = esp_op_plan(context, &local);
    const esp_view *y = context->outputs[0];
    esp_view deviation = line_view(context, plan, 0);
    esp_status status = find_deviations(context, plan, y, &deviation);
    return status == ESP_OK ? operate(context, ESP_BINARY_DIV, y, &deviation, y) : status;
}

/* dx = (dy - mean(dy) - y mean(dy y)) / deviation */
esp_status esp_op_mean_variance_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    axes_plan local;
    const axes_plan *plan = esp_op_plan(context, &local);
    const esp_view *y = context->outputs[0], *dy = context->output_grads[0], *dx = context->input_grads[0];
    esp_view deviation = line_view(context, plan, 0), mean = line_view(context, plan, 1);
    esp_view whole = whole_view(context, plan);
    esp_status status = find_deviations(context, plan, &whole, &deviation);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_MUL, dy, y, &whole);
    if (status == ESP_OK)
        status = reduce(context, plan, ESP_REDUCE_MEAN, &whole, &mean);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_MUL, y, &mean, &whole);
    if (status == ESP_OK)
        status = reduce(context, plan, ESP_REDUCE_MEAN, dy, &mean);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_SUB, dy, &whole, &whole);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_SUB, &whole, &mean, &whole);
    return status == ESP_OK ? operate(context, ESP_BINARY_DIV, &whole, &deviation, dx) : status;
}

/* ---- LpNormalization: y = x / |x|, 0 where the norm is 0 ---- */

esp_status esp_op_lp_norm_infer(esp_infer_context *context, esp_error *err)
{
    int axis;
    int64_t p = esp_node_int(context->node, "p", 2);
    if (p != 1 && p != 2)
        return esp_fail(err, ESP_INVALID, "attribute 'p' is %" PRId64 ", expected 1 or 2", p);
    esp_status status = esp_op_unary_infer(context, err);
    if (status == ESP_OK)
        status =
            esp_op_axis(esp_node_int(context->node, "axis", -1), context->inputs[0]->shape.rank, &axis, err);
    return status;
}

void esp_op_lp_norm_prepare(const esp_op_context *context, void *memory)
{
    axes_plan *plan = memory;
    int axis = 0;
    *plan = (axes_plan){0};
    esp_op_axis(esp_node_int(context->node, "axis", -1), context->inputs[0]->shape.rank, &axis, NULL);
    plan->reduction.kind = esp_node_int(context->node, "p", 2) == 1 ? ESP_REDUCE_L1 : ESP_REDUCE_L2;
    plan->reduction.is_reduced[axis] = true;
    finish_plan(context, plan);
}

/* A norm of 0 is of zeros alone, which anything leaves as they are. */
static esp_status find_norms(const esp_op_context *context, const axes_plan *plan, const esp_view *norm)
{
    esp_status status = reduce(context, plan, plan->reduction.kind, context->inputs[0], norm);
    float *values = esp_view_f32(norm);
    for (int64_t i = 0; status == ESP_OK && i < plan->lines; i++)
        values[i] = values[i] <= 0.0f ? 1.0f : values[i];
    return status;
}

esp_status esp_op_lp_norm_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    axes_plan local;
    const axes_plan *plan = esp_op_plan(context, &local);
    esp_view norm = line_view(context, plan, 0);
    esp_status status = find_norms(context, plan, &norm);
    return status == ESP_OK ? operate(context, ESP_BINARY_DIV, context->inputs[0], &norm, context->outputs[0])
                            : status;
}

/* dx = (dy - slope * sum(dy y)) / norm; the slope of the norm is y for p 2, the sign of x for p 1. */
esp_status esp_op_lp_norm_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    axes_plan local;
    const axes_plan *plan = esp_op_plan(context, &local);
    const esp_view *y = context->outputs[0], *dy = context->output_grads[0], *dx = context->input_grads[0];
    esp_view norm = line_view(context, plan, 0), sum = line_view(context, plan, 1);
    esp_view whole = whole_view(context, plan);
    esp_status status = find_norms(context, plan, &norm);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_MUL, dy, y, &whole);
    if (status == ESP_OK)
        status = reduce(context, plan, ESP_REDUCE_SUM, &whole, &sum);
    if (status == ESP_OK && plan->reduction.kind == ESP_REDUCE_L1)
        status = esp_unary_forward(context->compute, ESP_UNARY_SIGN, 0, 0, plan->elements, esp_view_f32(y),
                                   esp_view_f32(&whole));
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_MUL, plan->reduction.kind == ESP_REDUCE_L1 ? &whole : y, &sum,
                         &whole);
    if (status == ESP_OK)
        status = operate(context, ESP_BINARY_SUB, dy, &whole, &whole);
    return status == ESP_OK ? operate(context, ESP_BINARY_DIV, &whole, &norm, dx) : status;
}

/* ---- LRN ---- */

esp_status esp_op_lrn_infer(esp_infer_context *context, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t size = esp_node_int(context->node, "size", 0);
    char text[96];
    if (x->rank < 2)
        return esp_fail(err, ESP_SHAPE, "input is %s, expected NxCx...",
                        esp_shape_format(x, text, sizeof text));
    if (size < 1 || size > INT32_MAX)
        return esp_fail(err, ESP_INVALID, "attribute 'size' is %" PRId64 ", expected at least 1", size);
    return esp_op_unary_infer(context, err);
}

void esp_op_lrn_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    const esp_node *node = context->node;
    *(esp_window_norm *)plan = (esp_window_norm){.batch = x->dims[0],
                                                 .channels = x->dims[1],
                                                 .inner = esp_shape_product(x, 2, x->rank),
                                                 .size = esp_node_int(node, "size", 1),
                                                 .alpha = esp_node_float(node, "alpha", 1e-4f),
                                                 .beta = esp_node_float(node, "beta", 0.75f),
                                                 .bias = esp_node_float(node, "bias", 1.0f)};
}

esp_status esp_op_lrn_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_window_norm local;
    return esp_window_norm_forward(context->compute, esp_op_plan(context, &local),
                                   esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

size_t esp_op_lrn_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return context->has_backward ? 2 * esp_view_bytes(context->inputs[0]) : 0;
}

esp_status esp_op_lrn_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_window_norm local;
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    return esp_window_norm_backward(context->compute, esp_op_plan(context, &local),
                                    esp_view_f32(context->inputs[0]), esp_view_f32(context->output_grads[0]),
                                    context->scratch, esp_view_f32(context->input_grads[0]));
}
