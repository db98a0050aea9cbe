/* Conv (ONNX Conv-1, -11): x [N,C,H,W], w [F,C/group,kh,kw], bias [F] or none, y [N,F,H',W']. */
#include <inttypes.h>

#include "graph/ops.h"
#include "tensor/conv.h"

_Static_assert(sizeof(esp_conv_geometry) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

static esp_status check_weight(const esp_infer_context *context, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    int64_t group = esp_node_int(context->node, "group", 1);
    char x_text[96], w_text[96];
    esp_shape_format(x, x_text, sizeof x_text);
    esp_shape_format(w, w_text, sizeof w_text);
    if (group < 1 || w->dims[0] % group != 0)
        return esp_fail(err, ESP_SHAPE, "weight %s cannot be split into %" PRId64 " groups", w_text, group);
    if (x->dims[1] != w->dims[1] * group)
        return esp_fail(err, ESP_SHAPE,
                        "input %s has %" PRId64 " channels, weight %s in %" PRId64 " groups expects %" PRId64,
                        x_text, x->dims[1], w_text, group, w->dims[1] * group);
    int64_t kernel[2];
    int count = esp_node_ints(context->node, "kernel_shape", kernel, 2);
    if (count != 0 && (count != 2 || kernel[0] != w->dims[2] || kernel[1] != w->dims[3]))
        return esp_fail(err, ESP_SHAPE, "attribute 'kernel_shape' does not agree with weight %s", w_text);
    const esp_view *bias = esp_infer_input(context, 2);
    if (bias != NULL && (bias->shape.rank != 1 || bias->shape.dims[0] != w->dims[0])) {
        char bias_text[96];
        return esp_fail(err, ESP_SHAPE, "bias is %s, weight %s expects %" PRId64,
                        esp_shape_format(&bias->shape, bias_text, sizeof bias_text), w_text, w->dims[0]);
    }
    return ESP_OK;
}

esp_status esp_op_conv_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 0, 4, "NxCxHxW", err);
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 1, 4, "FxCxHxW", err);
    if (status == ESP_OK)
        status = check_weight(context, err);
    esp_window window;
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    if (status == ESP_OK)
        status = esp_op_window(context->node, x, &w->dims[2], false, &window, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape =
        (esp_shape){.rank = 4, .dims = {x->dims[0], w->dims[0], window.out[0], window.out[1]}};
    return ESP_OK;
}

void esp_op_conv_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    esp_window window = {0};
    esp_op_window(context->node, x, &w->dims[2], false, &window, NULL); /* infer has accepted it */
    *(esp_conv_geometry *)plan = (esp_conv_geometry){
        .batch = x->dims[0],
        .channels = x->dims[1],
        .height = x->dims[2],
        .width = x->dims[3],
        .filters = w->dims[0],
        .group = esp_node_int(context->node, "group", 1),
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
    };
}

size_t esp_op_conv_scratch(const esp_op_context *context, int slots)
{
    esp_conv_geometry local;
    const esp_conv_geometry *geometry = esp_op_plan(context, &local);
    size_t bytes = esp_conv_scratch(geometry, ESP_CONV_FORWARD, slots);
    if (context->input_grads == NULL)
        return bytes;
    size_t input =
        context->input_grads[0] == NULL ? 0 : esp_conv_scratch(geometry, ESP_CONV_GRAD_INPUT, slots);
    size_t weight =
        context->input_grads[1] == NULL ? 0 : esp_conv_scratch(geometry, ESP_CONV_GRAD_WEIGHT, slots);
    bytes = input > bytes ? input : bytes;
    return weight > bytes ? weight : bytes;
}

esp_status esp_op_conv_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_conv_geometry local;
    const esp_view *bias = esp_op_input(context, 2);
    return esp_conv_forward(context->compute, esp_op_plan(context, &local), esp_view_f32(context->inputs[0]),
                            esp_view_f32(context->inputs[1]), bias == NULL ? NULL : esp_view_f32(bias),
                            esp_view_f32(context->outputs[0]), context->scratch);
}

/* db alone: dy [N,F,H',W'] summed over all but f. */
static esp_status bias_gradient(const esp_op_context *context, const esp_view *bias_grad)
{
    esp_view target = *bias_grad;
    target.shape = (esp_shape){.rank = 4, .dims = {1, bias_grad->shape.dims[0], 1, 1}};
    return esp_op_reduce_to(context->compute, context->output_grads[0], &target);
}

esp_status esp_op_conv_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_conv_geometry local;
    const esp_conv_geometry *geometry = esp_op_plan(context, &local);
    const float *x = esp_view_f32(context->inputs[0]), *w = esp_view_f32(context->inputs[1]);
    const float *dy = esp_view_f32(context->output_grads[0]);
    const esp_view *dx = esp_op_input_grad(context, 0), *dw = esp_op_input_grad(context, 1);
    const esp_view *db = esp_op_input_grad(context, 2);
    esp_status status = ESP_OK;
    if (dw != NULL)
        status = esp_conv_grad_weight(context->compute, geometry, x, dy, esp_view_f32(dw),
                                      db == NULL ? NULL : esp_view_f32(db), context->scratch);
    else if (db != NULL)
        status = bias_gradient(context, db);
    if (status == ESP_OK && dx != NULL)
        status = esp_conv_grad_input(context->compute, geometry, dy, w, esp_view_f32(dx), context->scratch);
    return status;
}

/* One multiply-accumulate per weight and output position and image. */
int64_t esp_op_conv_macs(const esp_infer_context *context)
{
    const esp_shape *w = &context->inputs[1]->shape, *y = &context->outputs[0].shape;
    return y->dims[0] * y->dims[2] * y->dims[3] * esp_shape_elements(w);
}

bool esp_op_conv_layer(const esp_node *node, esp_layer_form *form)
{
    *form = (esp_layer_form){.weight_input = 1,
                             .bias_input = node->input_count > 2 && node->inputs[2] >= 0 ? 2 : -1,
                             .filter_axis = 0,
                             .channel_axis = 1,
                             .is_conv = true};
    return true;
}
