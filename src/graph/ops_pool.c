/* MaxPool, AveragePool, LpPool and their global forms (ONNX, all versions to opset 21). */
#include <inttypes.h>

#include "graph/ops.h"
#include "tensor/blocked.h"
#include "tensor/pool2d.h"
#include "tensor/pool_nd.h"
#include "tensor/typed.h"

typedef struct pool_plan {
    esp_pool2d_geometry images; /* fast forms */
    esp_pool_nd nd;             /* where there is none: `is_nd` */
    bool is_nd;
} pool_plan;

_Static_assert(sizeof(pool_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* ---- MaxPool, AveragePool and LpPool: x [N,C,...] ---- */

static bool is_ceil(const esp_node *node)
{
    return esp_node_int(node, "ceil_mode", 0) != 0;
}

static esp_status infer_pool(esp_infer_context *context, esp_error *err)
{
    const esp_node *node = context->node;
    const esp_shape *x = &context->inputs[0]->shape;
    esp_window window;
    if (esp_node_attr(node, "kernel_shape") == NULL)
        return esp_fail(err, ESP_FORMAT, "attribute 'kernel_shape' is missing");
    if (esp_node_int(node, "p", 2) < 1)
        return esp_fail(err, ESP_SHAPE, "attribute 'p' is %" PRId64 ", expected at least 1",
                        esp_node_int(node, "p", 2));
    esp_status status = esp_op_window(node, x, NULL, is_ceil(node), &window, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = context->inputs[0]->dtype;
    context->outputs[0].shape = esp_window_shape(x, x->dims[1], window.out);
    if (context->output_count > 1) { /* indices of maxima */
        context->outputs[1].dtype = ESP_I64;
        context->outputs[1].shape = context->outputs[0].shape;
    }
    return ESP_OK;
}

static esp_status refuse_type(esp_dtype dtype, esp_error *err)
{
    return esp_fail(err, ESP_UNSUPPORTED, "pooling of %s, expected %s", esp_dtype_name(dtype),
                    esp_dtype_name(ESP_F32));
}

esp_status esp_op_pool_infer(esp_infer_context *context, esp_error *err)
{
    esp_dtype dtype = context->inputs[0]->dtype;
    return dtype == ESP_F32 ? infer_pool(context, err) : refuse_type(dtype, err);
}

/* Maxima of bytes too, as since MaxPool-12. */
static bool is_byte(esp_dtype dtype)
{
    return dtype == ESP_U8 || dtype == ESP_I8;
}

esp_status esp_op_max_pool_infer(esp_infer_context *context, esp_error *err)
{
    esp_dtype dtype = context->inputs[0]->dtype;
    return dtype == ESP_F32 || is_byte(dtype) ? infer_pool(context, err) : refuse_type(dtype, err);
}

static esp_pool2d_geometry image_pool(const esp_window *window, const esp_shape *x, bool counts_padding)
{
    return (esp_pool2d_geometry){.batch = x->dims[0],
                                 .channels = x->dims[1],
                                 .height = window->size[0],
                                 .width = window->size[1],
                                 .kernel_h = window->kernel[0],
                                 .kernel_w = window->kernel[1],
                                 .stride_h = window->stride[0],
                                 .stride_w = window->stride[1],
                                 .dilation_h = window->dilation[0],
                                 .dilation_w = window->dilation[1],
                                 .pad_top = window->pad_begin[0],
                                 .pad_left = window->pad_begin[1],
                                 .pad_bottom = window->pad_end[0],
                                 .pad_right = window->pad_end[1],
                                 .out_height = window->out[0],
                                 .out_width = window->out[1],
                                 .counts_padding = counts_padding};
}

/* Images get an axis of size 1 in front. */
static esp_pool_nd nd_pool(const esp_window *window, const esp_shape *x, bool counts_padding)
{
    esp_pool_nd pool = {.planes = x->dims[0] * x->dims[1], .counts_padding = counts_padding};
    int shift = ESP_POOL_AXES - window->axes;
    for (int i = 0; i < ESP_POOL_AXES; i++) {
        bool is_own = i >= shift;
        int from = is_own ? i - shift : 0;
        pool.size[i] = is_own ? window->size[from] : 1;
        pool.kernel[i] = is_own ? window->kernel[from] : 1;
        pool.stride[i] = is_own ? window->stride[from] : 1;
        pool.dilation[i] = is_own ? window->dilation[from] : 1;
        pool.pad_begin[i] = is_own ? window->pad_begin[from] : 0;
        pool.pad_end[i] = is_own ? window->pad_end[from] : 0;
        pool.out[i] = is_own ? window->out[from] : 1;
    }
    return pool;
}

static bool makes_indices(const esp_op_context *context)
{
    return context->output_count > 1 && context->outputs[1] != NULL;
}

void esp_op_pool_prepare(const esp_op_context *context, void *memory)
{
    pool_plan *plan = memory;
    const esp_shape *x = &context->inputs[0]->shape;
    const esp_node *node = context->node;
    bool counts_padding = esp_node_int(node, "count_include_pad", 0) != 0;
    esp_window window = {0};
    esp_op_window(node, x, NULL, is_ceil(node), &window, NULL); /* infer has accepted it */
    plan->images = image_pool(&window, x, counts_padding);
    plan->nd = nd_pool(&window, x, counts_padding);
    plan->nd.column_major = esp_node_int(node, "storage_order", 0) != 0;
    plan->nd.p = esp_node_int(node, "p", 2);
    plan->is_nd = window.axes > 2 || makes_indices(context);
}

/* Images, unless indices are asked for. */
bool esp_op_pool_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    return !makes_indices(context) && esp_op_image_blocks(context, out);
}

/* Bytes are pooled as float32, which holds them all. */
size_t esp_op_max_pool_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    int64_t elements = esp_shape_elements(&x->shape) + esp_shape_elements(&y->shape);
    return is_byte(x->dtype) ? (size_t)elements * sizeof(float) : 0;
}

static esp_status plain_max_pool(const esp_op_context *context, const pool_plan *plan, const float *x,
                                 float *y)
{
    if (plan->is_nd)
        return esp_pool_nd_max(context->compute, &plan->nd, x, y,
                               makes_indices(context) ? context->outputs[1]->data : NULL);
    return esp_max_pool_forward(context->compute, &plan->images, x, y);
}

static esp_status byte_max_pool(const esp_op_context *context, const pool_plan *plan)
{
    esp_view x = *context->inputs[0], y = *context->outputs[0];
    x.dtype = y.dtype = ESP_F32;
    x.data = context->scratch;
    y.data = (float *)context->scratch + esp_shape_elements(&x.shape);
    esp_status status = esp_typed_cast(context->compute, context->inputs[0], &x);
    if (status == ESP_OK)
        status = plain_max_pool(context, plan, esp_view_f32(&x), esp_view_f32(&y));
    return status == ESP_OK ? esp_typed_cast(context->compute, &y, context->outputs[0]) : status;
}

esp_status esp_op_max_pool_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pool_plan local;
    const pool_plan *plan = esp_op_plan(context, &local);
    if (esp_op_is_blocked(context))
        return esp_blocked_max_pool(context->compute, &plan->images, context->inputs[0], context->outputs[0]);
    if (is_byte(context->inputs[0]->dtype))
        return byte_max_pool(context, plan);
    return plain_max_pool(context, plan, esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

esp_status esp_op_max_pool_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pool_plan local;
    const pool_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    if (esp_op_is_blocked(context))
        return esp_blocked_max_pool_backward(context->compute, &plan->images, x, dy, dx);
    if (plan->is_nd)
        return esp_pool_nd_max_backward(context->compute, &plan->nd, esp_view_f32(x), esp_view_f32(dy),
                                        esp_view_f32(dx));
    return esp_max_pool_backward(context->compute, &plan->images, esp_view_f32(x), esp_view_f32(dy),
                                 esp_view_f32(dx));
}

esp_status esp_op_average_pool_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pool_plan local;
    const pool_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    if (esp_op_is_blocked(context))
        return esp_blocked_average_pool(context->compute, &plan->images, x, y);
    if (plan->is_nd)
        return esp_pool_nd_average(context->compute, &plan->nd, esp_view_f32(x), esp_view_f32(y));
    return esp_average_pool_forward(context->compute, &plan->images, esp_view_f32(x), esp_view_f32(y));
}

esp_status esp_op_average_pool_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pool_plan local;
    const pool_plan *plan = esp_op_plan(context, &local);
    const esp_view *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    if (esp_op_is_blocked(context))
        return esp_blocked_average_pool_backward(context->compute, &plan->images, dy, dx);
    if (plan->is_nd)
        return esp_pool_nd_average_backward(context->compute, &plan->nd, esp_view_f32(dy), esp_view_f32(dx));
    return esp_average_pool_backward(context->compute, &plan->images, esp_view_f32(dy), esp_view_f32(dx));
}

esp_status esp_op_lp_pool_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pool_plan local;
    const pool_plan *plan = esp_op_plan(context, &local);
    return esp_pool_nd_lp(context->compute, &plan->nd, esp_view_f32(context->inputs[0]),
                          esp_view_f32(context->outputs[0]));
}

esp_status esp_op_lp_pool_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pool_plan local;
    const pool_plan *plan = esp_op_plan(context, &local);
    const esp_view *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    return esp_pool_nd_lp_backward(context->compute, &plan->nd, esp_view_f32(context->inputs[0]),
                                   esp_view_f32(context->outputs[0]), esp_view_f32(context->output_grads[0]),
                                   esp_view_f32(dx));
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
    if (esp_node_int(context->node, "p", 2) < 1)
        return esp_fail(err, ESP_SHAPE, "attribute 'p' is %" PRId64 ", expected at least 1",
                        esp_node_int(context->node, "p", 2));
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

void esp_op_global_pool_prepare(const esp_op_context *context, void *memory)
{
    pool_plan *plan = memory;
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t planes = x->dims[0] * x->dims[1], inner = esp_shape_product(x, 2, x->rank);
    *plan = (pool_plan){.nd = {.planes = planes,
                               .size = {1, 1, inner},
                               .kernel = {1, 1, inner},
                               .stride = {1, 1, 1},
                               .dilation = {1, 1, 1},
                               .out = {1, 1, 1},
                               .p = esp_node_int(context->node, "p", 2)}};
    plan->images = esp_op_is_blocked(context) ? image_geometry(x) : plane_geometry(planes, inner);
}
