/* MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool (ONNX, all versions to opset 21) and ReduceMean,
 * which exporters write for global average pooling. */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/arrange.h"
#include "tensor/blocked.h"
#include "tensor/elementwise.h"
#include "tensor/pool2d.h"

_Static_assert(sizeof(esp_pool2d_geometry) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* ---- MaxPool and AveragePool: x [N,C,H,W] ---- */

static bool is_ceil(const esp_node *node)
{
    return esp_node_int(node, "ceil_mode", 0) != 0;
}

esp_status esp_op_pool_infer(esp_infer_context *context, esp_error *err)
{
    const esp_node *node = context->node;
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 0, 4, "NxCxHxW", err);
    if (status != ESP_OK)
        return status;
    if (node->output_count > 1 && node->outputs[1] >= 0)
        return esp_fail(err, ESP_UNSUPPORTED, "the second output (indices of the maxima) is not supported");
    if (esp_node_attr(node, "kernel_shape") == NULL)
        return esp_fail(err, ESP_FORMAT, "attribute 'kernel_shape' is missing");
    esp_window window;
    const esp_shape *x = &context->inputs[0]->shape;
    status = esp_op_window(node, x, NULL, is_ceil(node), &window, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape =
        (esp_shape){.rank = 4, .dims = {x->dims[0], x->dims[1], window.out[0], window.out[1]}};
    return ESP_OK;
}

void esp_op_pool_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    esp_window window = {0};
    esp_op_window(context->node, x, NULL, is_ceil(context->node), &window, NULL); /* infer has accepted it */
    *(esp_pool2d_geometry *)plan = (esp_pool2d_geometry){
        .batch = x->dims[0],
        .channels = x->dims[1],
        .height = x->dims[2],
        .width = x->dims[3],
        .kernel_h = window.kernel[0],
        .kernel_w = window.kernel[1],
        .stride_h = window.stride[0],
        .stride_w = window.stride[1],
        .dilation_h = window.dilation[0],
        .dilation_w = window.dilation[1],
        .pad_top = window.pad_begin[0],
        .pad_left = window.pad_begin[1],
        .pad_bottom = window.pad_end[0],
        .pad_right = window.pad_end[1],
        .out_height = window.out[0],
        .out_width = window.out[1],
        .counts_padding = esp_node_int(context->node, "count_include_pad", 0) != 0,
    };
}

esp_status esp_op_max_pool_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_pool2d_geometry local;
    if (esp_op_is_blocked(context))
        return esp_blocked_max_pool(context->compute, esp_op_plan(context, &local), context->inputs[0],
                                    context->outputs[0]);
    return esp_max_pool_forward(context->compute, esp_op_plan(context, &local),
                                esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

esp_status esp_op_max_pool_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_pool2d_geometry local;
    if (esp_op_is_blocked(context))
        return esp_blocked_max_pool_backward(context->compute, esp_op_plan(context, &local),
                                             context->inputs[0], context->output_grads[0],
                                             context->input_grads[0]);
    return esp_max_pool_backward(context->compute, esp_op_plan(context, &local),
                                 esp_view_f32(context->inputs[0]), esp_view_f32(context->output_grads[0]),
                                 esp_view_f32(context->input_grads[0]));
}

esp_status esp_op_average_pool_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_pool2d_geometry local;
    if (esp_op_is_blocked(context))
        return esp_blocked_average_pool(context->compute, esp_op_plan(context, &local), context->inputs[0],
                                        context->outputs[0]);
    return esp_average_pool_forward(context->compute, esp_op_plan(context, &local),
                                    esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

esp_status esp_op_average_pool_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_pool2d_geometry local;
    if (esp_op_is_blocked(context))
        return esp_blocked_average_pool_backward(context->compute, esp_op_plan(context, &local),
                                                 context->output_grads[0], context->input_grads[0]);
    return esp_average_pool_backward(context->compute, esp_op_plan(context, &local),
                                     esp_view_f32(context->output_grads[0]),
                                     esp_view_f32(context->input_grads[0]));
}

/* ---- global pools: one window over everything after the channels ---- */

esp_status esp_op_global_pool_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    if (status != ESP_OK)
        return status;
    const esp_shape *x = &context->inputs[0]->shape;
    char text[96];
    if (x->rank < 3)
        return esp_fail(err, ESP_SHAPE, "input is %s, expected NxCxHxW",
                        esp_shape_format(x, text, sizeof text));
    if (esp_shape_product(x, 2, x->rank) == 0)
        return esp_fail(err, ESP_SHAPE, "input %s is empty", esp_shape_format(x, text, sizeof text));
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = *x;
    for (int i = 2; i < x->rank; i++)
        context->outputs[0].shape.dims[i] = 1;
    return ESP_OK;
}

/* [planes, inner] with one window per plane. */
static esp_pool2d_geometry plane_geometry(int64_t planes, int64_t inner)
{
    return (esp_pool2d_geometry){.batch = 1,
                                 .channels = planes,
                                 .height = 1,
                                 .width = inner,
                                 .kernel_h = 1,
                                 .kernel_w = inner,
                                 .stride_h = 1,
                                 .stride_w = 1,
                                 .dilation_h = 1,
                                 .dilation_w = 1,
                                 .out_height = 1,
                                 .out_width = 1};
}

/* [N,C,H,W] with one window per image and channel. */
static esp_pool2d_geometry image_geometry(const esp_shape *x)
{
    return (esp_pool2d_geometry){.batch = x->dims[0],
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

void esp_op_global_pool_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    if (esp_op_is_blocked(context))
        *(esp_pool2d_geometry *)plan = image_geometry(x);
    else
        *(esp_pool2d_geometry *)plan =
            plane_geometry(x->dims[0] * x->dims[1], esp_shape_product(x, 2, x->rank));
}

/* ---- ReduceMean ---- */

typedef struct mean_plan {
    bool is_reduced[ESP_MAX_RANK];
    bool is_trailing; /* the reduced axes are the last ones: a plane pool does it */
    int64_t reduced_count;
    esp_pool2d_geometry planes; /* in channel blocks: images */
} mean_plan;

_Static_assert(sizeof(mean_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* Which axes go. Newer versions take the axes as input 1; none means all, or nothing with
 * noop_with_empty_axes. */
static esp_status read_mean_axes(const esp_infer_context *context, bool is_reduced[ESP_MAX_RANK],
                                 esp_error *err)
{
    int rank = context->inputs[0]->shape.rank;
    int64_t axes[ESP_MAX_RANK];
    int count;
    memset(is_reduced, 0, ESP_MAX_RANK * sizeof *is_reduced);
    esp_status status = esp_op_attr_or_input_ints(context, "axes", 1, axes, &count, err);
    if (status != ESP_OK)
        return status;
    if (count <= 0 && esp_node_int(context->node, "noop_with_empty_axes", 0) != 0)
        return ESP_OK;
    for (int i = 0; count <= 0 && i < rank; i++)
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

esp_status esp_op_reduce_mean_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    if (x->dtype != ESP_F32)
        return esp_fail(err, ESP_SHAPE, "input 0 is %s, expected %s", esp_dtype_name(x->dtype),
                        esp_dtype_name(ESP_F32));
    bool is_reduced[ESP_MAX_RANK];
    esp_status status = read_mean_axes(context, is_reduced, err);
    if (status != ESP_OK)
        return status;
    bool keeps = esp_node_int(context->node, "keepdims", 1) != 0;
    esp_shape *y = &context->outputs[0].shape;
    *y = (esp_shape){0};
    for (int i = 0; i < x->shape.rank; i++) {
        if (is_reduced[i] && x->shape.dims[i] == 0)
            return esp_fail(err, ESP_SHAPE, "axis %d is empty", i);
        if (!is_reduced[i] || keeps)
            y->dims[y->rank++] = is_reduced[i] ? 1 : x->shape.dims[i];
    }
    context->outputs[0].dtype = ESP_F32;
    return ESP_OK;
}

void esp_op_reduce_mean_prepare(const esp_op_context *context, void *plan_memory)
{
    mean_plan *plan = plan_memory;
    const esp_shape *x = &context->inputs[0]->shape;
    esp_infer_context as_infer = esp_op_as_infer(context);
    read_mean_axes(&as_infer, plan->is_reduced, NULL); /* infer has accepted it */
    plan->is_trailing = true;
    plan->reduced_count = 1;
    for (int i = 0; i < x->rank; i++) {
        if (plan->is_reduced[i])
            plan->reduced_count *= x->dims[i];
        else if (i > 0 && plan->is_reduced[i - 1])
            plan->is_trailing = false;
    }
    if (esp_op_is_blocked(context))
        plan->planes = image_geometry(x);
    else
        plan->planes = plane_geometry(esp_shape_elements(x) / plan->reduced_count, plan->reduced_count);
}

/* A mean over space: global average pooling. Without keepdims the result [N,C] is plain. */
bool esp_op_reduce_mean_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    mean_plan plan;
    if (!esp_view_is_image(context->inputs[0]))
        return false;
    esp_op_reduce_mean_prepare(context, &plan);
    *out = (esp_op_layouts){.blocked_inputs = 1, .blocked_output = context->outputs[0]->shape.rank == 4};
    return plan.is_trailing && plan.is_reduced[2] && !plan.is_reduced[1] && !plan.is_reduced[0];
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

static esp_status blocked_mean(const esp_op_context *context, const mean_plan *plan)
{
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (y->layout == ESP_LAYOUT_BLOCKED)
        return esp_blocked_average_pool(context->compute, &plan->planes, x, y);
    esp_view blocks = mean_blocks(context, y), image = as_image(y);
    esp_status status = esp_blocked_average_pool(context->compute, &plan->planes, x, &blocks);
    return status == ESP_OK ? esp_layout_copy(context->compute, &blocks, &image) : status;
}

static esp_status blocked_mean_backward(const esp_op_context *context, const mean_plan *plan)
{
    const esp_view *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dy->layout == ESP_LAYOUT_BLOCKED)
        return esp_blocked_average_pool_backward(context->compute, &plan->planes, dy, dx);
    esp_view blocks = mean_blocks(context, dy), image = as_image(dy);
    esp_status status = esp_layout_copy(context->compute, &image, &blocks);
    if (status == ESP_OK)
        status = esp_blocked_average_pool_backward(context->compute, &plan->planes, &blocks, dx);
    return status;
}

/* Strides over x's shape that lead to the element of y each element goes to. */
static void mean_strides(const mean_plan *plan, const esp_shape *x, int64_t strides[ESP_MAX_RANK])
{
    int64_t stride = 1;
    for (int i = x->rank - 1; i >= 0; i--) {
        strides[i] = plan->is_reduced[i] ? 0 : stride;
        if (!plan->is_reduced[i])
            stride *= x->dims[i];
    }
}

esp_status esp_op_reduce_mean_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    mean_plan local;
    const mean_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (esp_op_is_blocked(context))
        return blocked_mean(context, plan);
    if (plan->is_trailing)
        return esp_average_pool_forward(context->compute, &plan->planes, esp_view_f32(x), esp_view_f32(y));
    int64_t x_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK], count = esp_shape_elements(&y->shape);
    esp_shape_strides(&x->shape, x_strides);
    mean_strides(plan, &x->shape, y_strides);
    esp_fill_f32(esp_view_f32(y), count, 0.0f);
    esp_status status =
        esp_add_strided(context->compute, &x->shape, esp_view_f32(x), x_strides, esp_view_f32(y), y_strides);
    if (status == ESP_OK)
        status = esp_unary_forward(context->compute, ESP_UNARY_SCALE, 1.0f / (float)plan->reduced_count, 0.0f,
                                   count, esp_view_f32(y), esp_view_f32(y));
    return status;
}

esp_status esp_op_reduce_mean_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    mean_plan local;
    const mean_plan *plan = esp_op_plan(context, &local);
    const esp_view *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    if (esp_op_is_blocked(context))
        return blocked_mean_backward(context, plan);
    if (plan->is_trailing)
        return esp_average_pool_backward(context->compute, &plan->planes, esp_view_f32(dy), esp_view_f32(dx));
    int64_t dx_strides[ESP_MAX_RANK], dy_strides[ESP_MAX_RANK];
    esp_shape_strides(&dx->shape, dx_strides);
    mean_strides(plan, &dx->shape, dy_strides);
    esp_status status = esp_copy_strided(context->compute, &dx->shape, sizeof(float), dy->data, dy_strides,
                                         dx->data, dx_strides);
    if (status == ESP_OK)
        status = esp_unary_forward(context->compute, ESP_UNARY_SCALE, 1.0f / (float)plan->reduced_count, 0.0f,
                                   esp_shape_elements(&dx->shape), esp_view_f32(dx), esp_view_f32(dx));
    return status;
}
