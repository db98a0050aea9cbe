/* InstanceNormalization (ONNX -6), LayerNormalization (-17) and GroupNormalization (-18: scale and bias per
 * group, -21: per channel): rows normalised by their own statistics, the same in training and evaluation.
 * Only the first keeps channels apart, so only that one lets channels be cut. */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/row_norm.h"

typedef struct row_plan {
    esp_row_norm norm;
} row_plan;

enum { SCALE = 1, BIAS = 2, MEAN = 1, INVERSE_STD = 2 };

/* ---- shapes ---- */

/* Whether a parameter is a list of so many. */
static esp_status expect_list(const esp_infer_context *context, int input, int64_t count, esp_error *err)
{
    const esp_shape *shape = &context->inputs[input]->shape;
    char text[96], x[96];
    if (shape->rank == 1 && shape->dims[0] == count)
        return ESP_OK;
    return esp_fail(err, ESP_SHAPE, "input %d is %s, input %s expects %" PRId64, input,
                    esp_shape_format(shape, text, sizeof text),
                    esp_shape_format(&context->inputs[0]->shape, x, sizeof x), count);
}

static esp_status infer_image(esp_infer_context *context, int64_t parameters, esp_error *err)
{
    esp_status status = expect_list(context, SCALE, parameters, err);
    if (status == ESP_OK)
        status = expect_list(context, BIAS, parameters, err);
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = context->inputs[0]->shape;
    return status;
}

static esp_status expect_channels(const esp_infer_context *context, int least_rank, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape;
    char text[96];
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK && x->rank < least_rank)
        return esp_fail(err, ESP_SHAPE, "input is %s, expected NxCx...",
                        esp_shape_format(x, text, sizeof text));
    return status;
}

esp_status esp_op_instance_norm_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = expect_channels(context, 2, err);
    return status == ESP_OK ? infer_image(context, context->inputs[0]->shape.dims[1], err) : status;
}

/* Until opset 20 scale and bias are per group. */
static int64_t group_parameters(int64_t opset, int64_t groups, int64_t channels)
{
    return opset < 21 ? groups : channels;
}

esp_status esp_op_group_norm_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = expect_channels(context, 2, err);
    if (status != ESP_OK)
        return status;
    int64_t groups = esp_node_int(context->node, "num_groups", 0),
            channels = context->inputs[0]->shape.dims[1];
    if (groups < 1 || channels % groups != 0)
        return esp_fail(err, ESP_SHAPE, "attribute 'num_groups' is %" PRId64 " for %" PRId64 " channels",
                        groups, channels);
    return infer_image(context, group_parameters(context->opset, groups, channels), err);
}

/* The first normalised axis; the axis has been checked. */
static int first_axis(const esp_node *node, const esp_shape *x)
{
    int axis = 0;
    esp_op_axis(esp_node_int(node, "axis", -1), x->rank, &axis, NULL);
    return axis;
}

/* Scale and bias have the shape of the normalised axes, with or without 1s in front. */
static bool is_normalised_shape(const esp_shape *shape, const esp_shape *x, int axis)
{
    int own = x->rank - axis;
    if (shape->rank < own)
        return false;
    for (int i = 0; i < shape->rank; i++) {
        int from = i - (shape->rank - own);
        if (shape->dims[i] != (from < 0 ? 1 : x->dims[axis + from]))
            return false;
    }
    return true;
}

esp_status esp_op_layer_norm_infer(esp_infer_context *context, esp_error *err)
{
    int axis;
    const esp_shape *x = &context->inputs[0]->shape;
    char text[96], x_text[96];
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK)
        status = esp_op_axis(esp_node_int(context->node, "axis", -1), x->rank, &axis, err);
    if (status != ESP_OK)
        return status;
    for (int i = SCALE; i < context->input_count; i++) {
        if (context->inputs[i] != NULL && !is_normalised_shape(&context->inputs[i]->shape, x, axis))
            return esp_fail(err, ESP_SHAPE, "input %d is %s, expected the dimensions of %s from axis %d on",
                            i, esp_shape_format(&context->inputs[i]->shape, text, sizeof text),
                            esp_shape_format(x, x_text, sizeof x_text), axis);
    }
    for (int i = 0; i < context->output_count; i++) {
        context->outputs[i].dtype = ESP_F32;
        context->outputs[i].shape = *x;
        for (int d = axis; i > 0 && d < x->rank; d++)
            context->outputs[i].shape.dims[d] = 1;
    }
    return ESP_OK;
}

/* ---- plans ---- */

static float epsilon_of(const esp_op_context *context)
{
    return esp_node_float(context->node, "epsilon", 1e-5f);
}

void esp_op_instance_norm_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    *(row_plan *)plan = (row_plan){.norm = {.rows = x->dims[0] * x->dims[1],
                                            .cycles = x->dims[1],
                                            .parts = 1,
                                            .span = esp_shape_product(x, 2, x->rank),
                                            .epsilon = epsilon_of(context)}};
}

void esp_op_group_norm_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t groups = esp_node_int(context->node, "num_groups", 1), channels = x->dims[1];
    int64_t parts = group_parameters(context->opset, groups, channels) / groups;
    *(row_plan *)plan =
        (row_plan){.norm = {.rows = x->dims[0] * groups,
                            .cycles = groups,
                            .parts = parts,
                            .span = channels / groups / parts * esp_shape_product(x, 2, x->rank),
                            .epsilon = epsilon_of(context)}};
}

void esp_op_layer_norm_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int axis = first_axis(context->node, x);
    *(row_plan *)plan = (row_plan){.norm = {.rows = esp_shape_product(x, 0, axis),
                                            .cycles = 1,
                                            .parts = esp_shape_product(x, axis, x->rank),
                                            .span = 1,
                                            .epsilon = epsilon_of(context)}};
}

/* ---- runs ---- */

/* Mean and inverse deviation per row: from forward to backward in training, outputs where they are asked for,
 * else scratch memory. */
size_t esp_op_row_norm_saved(const esp_op_context *context)
{
    row_plan local;
    const row_plan *plan = esp_op_plan(context, &local);
    return 2 * (size_t)plan->norm.rows * sizeof(float);
}

size_t esp_op_row_norm_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return context->is_training ? 0 : esp_op_row_norm_saved(context);
}

static void give(const esp_op_context *context, int output, const float *values, int64_t count)
{
    if (output < context->output_count && context->outputs[output] != NULL)
        memcpy(context->outputs[output]->data, values, (size_t)count * sizeof *values);
}

esp_status esp_op_row_norm_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    row_plan local;
    const row_plan *plan = esp_op_plan(context, &local);
    const esp_view *bias = esp_op_input(context, BIAS);
    float *mean = context->is_training ? context->saved : context->scratch;
    esp_status status =
        esp_row_norm_forward(context->compute, &plan->norm, esp_view_f32(context->inputs[0]),
                             esp_view_f32(context->inputs[SCALE]), bias == NULL ? NULL : esp_view_f32(bias),
                             mean, mean + plan->norm.rows, esp_view_f32(context->outputs[0]));
    if (status == ESP_OK) {
        give(context, MEAN, mean, plan->norm.rows);
        give(context, INVERSE_STD, mean + plan->norm.rows, plan->norm.rows);
    }
    return status;
}

static float *target_of(const esp_op_context *context, int input)
{
    const esp_view *grad = esp_op_input_grad(context, input);
    return grad == NULL ? NULL : esp_view_f32(grad);
}

static const float *gradient_of(const esp_op_context *context, int output)
{
    const esp_view *grad = output < context->output_count ? context->output_grads[output] : NULL;
    return grad == NULL ? NULL : esp_view_f32(grad);
}

esp_status esp_op_row_norm_backward(const esp_op_context *context, esp_error *err)
{
    row_plan local;
    const row_plan *plan = esp_op_plan(context, &local);
    const float *mean = context->saved;
    esp_row_norm_grads grads = {.dy = gradient_of(context, 0),
                                .dmean = gradient_of(context, MEAN),
                                .dinverse_std = gradient_of(context, INVERSE_STD)};
    if (grads.dy == NULL)
        return esp_fail(err, ESP_UNSUPPORTED, "a gradient of the statistics alone (outputs 1 and 2)");
    return esp_row_norm_backward(context->compute, &plan->norm, esp_view_f32(context->inputs[0]), &grads,
                                 esp_view_f32(context->inputs[SCALE]), mean, mean + plan->norm.rows,
                                 target_of(context, 0), target_of(context, SCALE), target_of(context, BIAS));
}
