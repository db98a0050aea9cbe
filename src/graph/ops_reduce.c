/* Reduce* (ONNX -1 to -20): axes are an attribute in older versions and an input in newer ones. Exporters
 * write ReduceMean for global average pooling: over H and W it stays in channel blocks. Integers, which
 * shapes are computed with, are reduced too where that makes sense. */
#include <string.h>

#include "graph/ops.h"
#include "tensor/blocked.h"
#include "tensor/reduce.h"

typedef struct reduce_plan {
    esp_reduction reduction;
    esp_pool2d_geometry images; /* in channel blocks: one window per image and channel */
} reduce_plan;

_Static_assert(sizeof(reduce_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* No axes mean all, or none with noop_with_empty_axes. */
static esp_status read_axes(const esp_infer_context *context, bool is_reduced[ESP_MAX_RANK], esp_error *err)
{
    int rank = context->inputs[0]->shape.rank;
    int64_t axes[ESP_MAX_RANK];
    int count;
    memset(is_reduced, 0, ESP_MAX_RANK * sizeof *is_reduced);
    esp_status status = esp_op_attr_or_input_ints(context, "axes", 1, axes, &count, err);
    if (status != ESP_OK)
        return status;
    bool is_all = count <= 0 && esp_node_int(context->node, "noop_with_empty_axes", 0) == 0;
    for (int i = 0; is_all && i < rank; i++)
        is_reduced[i] = true;
    for (int i = 0; i < count; i++) {
        int axis;
        status = esp_op_axis(axes[i], rank, &axis, err);
        if (status != ESP_OK)
            return status;
        is_reduced[axis] = true;
    }
    return ESP_OK;
}

static esp_status infer_shape(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    bool is_reduced[ESP_MAX_RANK], keeps = esp_node_int(context->node, "keepdims", 1) != 0;
    esp_status status = read_axes(context, is_reduced, err);
    if (status != ESP_OK)
        return status;
    esp_shape y = {0};
    for (int i = 0; i < x->shape.rank; i++) {
        if (!is_reduced[i] || keeps)
            y.dims[y.rank++] = is_reduced[i] ? 1 : x->shape.dims[i];
    }
    context->outputs[0].shape = y;
    context->outputs[0].dtype = x->dtype;
    return ESP_OK;
}

/* Roots and logarithms: float32 alone. */
esp_status esp_op_reduce_infer(esp_infer_context *context, esp_error *err)
{
    esp_dtype dtype = context->inputs[0]->dtype;
    if (dtype != ESP_F32)
        return esp_fail(err, ESP_SHAPE, "input 0 is %s, expected %s", esp_dtype_name(dtype),
                        esp_dtype_name(ESP_F32));
    return infer_shape(context, err);
}

esp_status esp_op_reduce_numbers_infer(esp_infer_context *context, esp_error *err)
{
    esp_dtype dtype = context->inputs[0]->dtype;
    if (dtype == ESP_F64 || dtype == ESP_BOOL)
        return esp_fail(err, ESP_SHAPE, "input 0 is %s, expected %s or integers", esp_dtype_name(dtype),
                        esp_dtype_name(ESP_F32));
    return infer_shape(context, err);
}

/* The extremes of bool are All and Any. */
esp_status esp_op_reduce_extreme_infer(esp_infer_context *context, esp_error *err)
{
    return context->inputs[0]->dtype == ESP_BOOL ? infer_shape(context, err)
                                                 : esp_op_reduce_numbers_infer(context, err);
}

static void prepare_reduce(const esp_op_context *context, esp_reduce_kind kind, void *plan_memory)
{
    reduce_plan *plan = plan_memory;
    const esp_shape *x = &context->inputs[0]->shape;
    esp_infer_context as_infer = esp_op_as_infer(context);
    *plan = (reduce_plan){.reduction = {.kind = kind, .x = *x}};
    read_axes(&as_infer, plan->reduction.is_reduced, NULL); /* infer has accepted it */
    if (x->rank == 4)
        plan->images = (esp_pool2d_geometry){.batch = x->dims[0],
                                             .channels = x->dims[1],
                                             .height = x->dims[2],
                                             .width = x->dims[3],
                                             .kernel_h = x->dims[2],
                                             .kernel_w = x->dims[3],
                                             .stride_h = 1,
                                             .stride_w = 1,
                                             .dilation_h = 1,
                                             .dilation_w = 1,
                                             .out_height = 1,
                                             .out_width = 1};
}

#define PREPARE(name, kind)                                                                                  \
    void esp_op_reduce_##name##_prepare(const esp_op_context *context, void *plan)                           \
    {                                                                                                        \
        prepare_reduce(context, ESP_REDUCE_##kind, plan);                                                    \
    }

PREPARE(sum, SUM)
PREPARE(mean, MEAN)
PREPARE(max, MAX)
PREPARE(min, MIN)
PREPARE(prod, PROD)
PREPARE(l1, L1)
PREPARE(l2, L2)
PREPARE(sum_square, SUM_SQUARE)
PREPARE(log_sum, LOG_SUM)
PREPARE(log_sum_exp, LOG_SUM_EXP)

/* ---- means of images in channel blocks ---- */

/* Without keepdims the result [N,C] is plain. */
bool esp_op_reduce_mean_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    reduce_plan plan;
    if (!esp_view_is_image(context->inputs[0]))
        return false;
    esp_op_reduce_mean_prepare(context, &plan);
    const bool *is_reduced = plan.reduction.is_reduced;
    *out = (esp_op_layouts){.blocked_inputs = 1, .blocked_output = context->outputs[0]->shape.rank == 4};
    return is_reduced[2] && is_reduced[3] && !is_reduced[1] && !is_reduced[0];
}

/* The result [N,C] or its gradient as blocks of [N,C,1,1], in scratch memory. */
static esp_view mean_blocks(const esp_op_context *context, const esp_view *plain)
{
    const int64_t *dims = plain->shape.dims;
    return (esp_view){.data = context->scratch,
                      .dtype = ESP_F32,
                      .layout = ESP_LAYOUT_BLOCKED,
                      .shape = {.rank = 4, .dims = {dims[0], dims[1], 1, 1}}};
}

static esp_view as_image(const esp_view *plain)
{
    esp_view image = *plain;
    image.shape = (esp_shape){.rank = 4, .dims = {plain->shape.dims[0], plain->shape.dims[1], 1, 1}};
    return image;
}

size_t esp_op_reduce_mean_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    const esp_view *y = context->outputs[0];
    if (!esp_op_is_blocked(context) || y->layout == ESP_LAYOUT_BLOCKED)
        return 0;
    esp_view blocks = mean_blocks(context, y);
    return (size_t)esp_view_storage(&blocks) * sizeof(float);
}

static esp_status blocked_mean(const esp_op_context *context, const reduce_plan *plan)
{
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (y->layout == ESP_LAYOUT_BLOCKED)
        return esp_blocked_average_pool(context->compute, &plan->images, x, y);
    esp_view blocks = mean_blocks(context, y), image = as_image(y);
    esp_status status = esp_blocked_average_pool(context->compute, &plan->images, x, &blocks);
    return status == ESP_OK ? esp_layout_copy(context->compute, &blocks, &image) : status;
}

static esp_status blocked_mean_backward(const esp_op_context *context, const reduce_plan *plan)
{
    const esp_view *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dy->layout == ESP_LAYOUT_BLOCKED)
        return esp_blocked_average_pool_backward(context->compute, &plan->images, dy, dx);
    esp_view blocks = mean_blocks(context, dy), image = as_image(dy);
    esp_status status = esp_layout_copy(context->compute, &image, &blocks);
    if (status == ESP_OK)
        status = esp_blocked_average_pool_backward(context->compute, &plan->images, &blocks, dx);
    return status;
}

/* ---- runs ---- */

esp_status esp_op_reduce_forward(const esp_op_context *context, esp_error *err)
{
    reduce_plan local;
    const reduce_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (esp_op_is_blocked(context))
        return blocked_mean(context, plan);
    if (x->dtype == ESP_F32)
        return esp_reduce_forward(context->compute, &plan->reduction, esp_view_f32(x), esp_view_f32(y));
    esp_status status = esp_reduce_integers(&plan->reduction, x, y);
    return status == ESP_INVALID ? esp_fail(err, status, "a mean over no elements") : status;
}

esp_status esp_op_reduce_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    reduce_plan local;
    const reduce_plan *plan = esp_op_plan(context, &local);
    const esp_view *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    if (esp_op_is_blocked(context))
        return blocked_mean_backward(context, plan);
    return esp_reduce_backward(context->compute, &plan->reduction, esp_view_f32(context->inputs[0]),
                               esp_view_f32(context->outputs[0]), esp_view_f32(context->output_grads[0]),
                               esp_view_f32(dx));
}
