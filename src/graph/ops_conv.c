/* Conv (ONNX Conv-1, -11): x [N,C,H,W], w [F,C/group,kh,kw], bias [F] or none, y [N,F,H',W']. Signals NxCxL
 * run as images of height 1, volumes NxCxDxHxW by plain loops (conv3d.h).
 *
 * In channel blocks a convolution also does what stands around it at evaluation (ops.h names the inputs):
 * y = clip(lines(conv(clip(in_lines(x)), w) + bias) + residual). */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/blocked_conv.h"
#include "tensor/conv.h"
#include "tensor/conv3d.h"

typedef struct conv_plan {
    esp_conv_geometry geometry;
    esp_conv3d_geometry volume;
    bool is_blocked, is_volume;
    esp_blocked_conv forward, input_grad, weight_grad; /* where blocked; gradients where wanted */
} conv_plan;

_Static_assert(sizeof(conv_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* What esp_op_conv_packs packs. */
enum { PACK_WEIGHT, PACK_FOLD, PACK_IN_FOLD, PACK_WEIGHT_BACKWARD };

/* Blocks of 16 channels may make at most this much more work than the channels there are. */
#define MOST_PADDING 2.0

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
    int64_t kernel[ESP_WINDOW_AXES] = {0};
    int count = esp_node_ints(context->node, "kernel_shape", kernel, ESP_WINDOW_AXES);
    if (count != 0 &&
        (count != w->rank - 2 || memcmp(kernel, &w->dims[2], (size_t)count * sizeof *kernel) != 0))
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
    esp_window window;
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    char text[96];
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK && (x->rank < 3 || x->rank > 2 + ESP_WINDOW_AXES))
        return esp_fail(err, ESP_SHAPE, "input is %s, expected NxCxL, NxCxHxW or NxCxDxHxW",
                        esp_shape_format(x, text, sizeof text));
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 1, x->rank, "FxCx(kernel)", err);
    if (status == ESP_OK)
        status = check_weight(context, err);
    if (status == ESP_OK)
        status = esp_op_window(context->node, x, &w->dims[2], false, &window, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = esp_window_shape(x, w->dims[0], window.out);
    return ESP_OK;
}

static esp_window window_of(const esp_op_context *context)
{
    esp_window window = {0};
    esp_op_window(context->node, &context->inputs[0]->shape, &context->inputs[1]->shape.dims[2], false,
                  &window, NULL); /* infer has accepted it */
    return window;
}

void esp_op_conv_geometry(const esp_op_context *context, esp_conv_geometry *geometry)
{
    esp_window window = window_of(context);
    const int64_t *x = context->inputs[0]->shape.dims;
    *geometry = esp_window_geometry(&window, x[0], x[1], context->inputs[1]->shape.dims[0],
                                    esp_node_int(context->node, "group", 1));
}

static void volume_geometry(const esp_op_context *context, esp_conv3d_geometry *volume)
{
    esp_window window = window_of(context);
    *volume = (esp_conv3d_geometry){.batch = context->inputs[0]->shape.dims[0],
                                    .channels = context->inputs[0]->shape.dims[1],
                                    .filters = context->inputs[1]->shape.dims[0],
                                    .group = esp_node_int(context->node, "group", 1)};
    memcpy(volume->size, window.size, sizeof volume->size);
    memcpy(volume->kernel, window.kernel, sizeof volume->kernel);
    memcpy(volume->stride, window.stride, sizeof volume->stride);
    memcpy(volume->dilation, window.dilation, sizeof volume->dilation);
    memcpy(volume->pad_begin, window.pad_begin, sizeof volume->pad_begin);
    memcpy(volume->out, window.out, sizeof volume->out);
}

static bool wants_grad(const esp_op_context *context, int input)
{
    return context->has_backward && context->input_grads != NULL && esp_op_input_grad(context, input) != NULL;
}

/* Plans for all passes that will run; false when a blocked kernel is missing for one of them. */
static bool plan_blocked(const esp_op_context *context, bool takes_plain, conv_plan *plan)
{
    const esp_conv_geometry *geometry = &plan->geometry;
    const esp_engine *engine = context->engine;
    if (!esp_blocked_conv_plan(engine, geometry, ESP_CONV_FORWARD, takes_plain, &plan->forward))
        return false;
    if (wants_grad(context, ESP_CONV_X) &&
        (takes_plain ||
         !esp_blocked_conv_plan(engine, geometry, ESP_CONV_GRAD_INPUT, false, &plan->input_grad)))
        return false;
    if (wants_grad(context, ESP_CONV_BIAS) && !wants_grad(context, ESP_CONV_WEIGHT))
        return false; /* gradients of biases come with those of weights */
    return !wants_grad(context, ESP_CONV_WEIGHT) ||
           esp_blocked_conv_plan(engine, geometry, ESP_CONV_GRAD_WEIGHT, takes_plain, &plan->weight_grad);
}

/* Work in whole blocks over the work there is. */
static double padding_factor(const esp_conv_geometry *geometry, bool takes_plain)
{
    double factor = (double)esp_block_channels(geometry->filters) / (double)geometry->filters;
    if (geometry->group == 1 && !takes_plain)
        factor *= (double)esp_block_channels(geometry->channels) / (double)geometry->channels;
    return factor;
}

/* A plain image of few channels, the network's input, is read as it is. Padding beyond MOST_PADDING does not
 * pay, unless the image is in blocks already. */
bool esp_op_conv_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    conv_plan plan;
    if (context->engine == NULL || !esp_view_is_image(context->outputs[0]))
        return false;
    esp_op_conv_geometry(context, &plan.geometry);
    bool is_plain = context->inputs[0]->layout == ESP_LAYOUT_PLAIN;
    if (is_plain && padding_factor(&plan.geometry, true) <= MOST_PADDING &&
        plan_blocked(context, true, &plan)) {
        *out = (esp_op_layouts){.blocked_output = true};
        return true;
    }
    if (is_plain && padding_factor(&plan.geometry, false) > MOST_PADDING)
        return false;
    *out = (esp_op_layouts){.blocked_inputs = 1u << ESP_CONV_X, .blocked_output = true};
    return plan_blocked(context, false, &plan);
}

void esp_op_conv_prepare(const esp_op_context *context, void *memory)
{
    conv_plan *plan = memory;
    plan->is_volume = context->inputs[0]->shape.rank == 5;
    if (plan->is_volume)
        volume_geometry(context, &plan->volume);
    else
        esp_op_conv_geometry(context, &plan->geometry);
    plan->is_blocked = esp_op_is_blocked(context);
    if (plan->is_blocked) /* esp_op_conv_blocks has found that there is one */
        plan_blocked(context, context->inputs[0]->layout == ESP_LAYOUT_PLAIN, plan);
}

const char *esp_op_conv_method(const esp_op_context *context)
{
    const conv_plan *plan = context->plan;
    return plan->is_blocked ? esp_blocked_conv_name(&plan->forward) : "plain";
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t blocked_scratch(const esp_op_context *context, const conv_plan *plan, int slots)
{
    size_t bytes = esp_blocked_conv_scratch(&plan->forward, slots);
    if (wants_grad(context, ESP_CONV_X))
        bytes = larger(bytes, esp_blocked_conv_scratch(&plan->input_grad, slots));
    if (wants_grad(context, ESP_CONV_WEIGHT))
        bytes = larger(bytes, esp_blocked_conv_scratch(&plan->weight_grad, slots));
    return bytes;
}

size_t esp_op_conv_scratch(const esp_op_context *context, int slots)
{
    conv_plan local;
    const conv_plan *plan = esp_op_plan(context, &local);
    if (plan->is_blocked)
        return blocked_scratch(context, plan, slots);
    if (plan->is_volume)
        return 0;
    size_t bytes = esp_conv_scratch(&plan->geometry, ESP_CONV_FORWARD, slots);
    if (context->input_grads == NULL)
        return bytes;
    if (context->input_grads[0] != NULL)
        bytes = larger(bytes, esp_conv_scratch(&plan->geometry, ESP_CONV_GRAD_INPUT, slots));
    if (context->input_grads[1] != NULL)
        bytes = larger(bytes, esp_conv_scratch(&plan->geometry, ESP_CONV_GRAD_WEIGHT, slots));
    return bytes;
}

/* ---- packing ---- */

static size_t fold_bytes(int64_t channels)
{
    return 2 * (size_t)esp_block_channels(channels) * sizeof(float);
}

void esp_op_conv_packs(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS])
{
    const conv_plan *plan = context->plan;
    if (!plan->is_blocked)
        return;
    packs[PACK_WEIGHT] = (esp_op_pack){.bytes = esp_blocked_conv_packed_bytes(&plan->forward),
                                       .input = ESP_CONV_WEIGHT,
                                       .key = esp_blocked_conv_pack_key(&plan->forward),
                                       .replaces = 1u << ESP_CONV_WEIGHT};
    if (esp_op_input(context, ESP_CONV_BIAS) != NULL || context->fused->line_count > 0)
        packs[PACK_FOLD] = (esp_op_pack){.bytes = fold_bytes(plan->geometry.filters), .input = -1};
    if (context->fused->in_line_count > 0)
        packs[PACK_IN_FOLD] = (esp_op_pack){.bytes = fold_bytes(plan->geometry.channels), .input = -1};
    if (wants_grad(context, ESP_CONV_X))
        packs[PACK_WEIGHT_BACKWARD] = (esp_op_pack){.bytes = esp_blocked_conv_packed_bytes(&plan->input_grad),
                                                    .input = ESP_CONV_WEIGHT,
                                                    .key = esp_blocked_conv_pack_key(&plan->input_grad),
                                                    .is_for_backward = true};
}

/* lines(sum + bias) as sum * scale + shift; the bias is the first line. */
static void fold(const esp_op_context *context, int64_t filters, float *scale)
{
    esp_line lines[ESP_FUSED_LINES + 1];
    int count = 0;
    if (esp_op_input(context, ESP_CONV_BIAS) != NULL)
        lines[count++] = (esp_line){.kind = ESP_LINE_ADD, .input = ESP_CONV_BIAS};
    for (int i = 0; i < context->fused->line_count; i++)
        lines[count++] = context->fused->lines[i];
    esp_fold_lines(context, lines, count, filters, scale, scale + esp_block_channels(filters));
}

esp_status esp_op_conv_pack(const esp_op_context *context, int index, void *target)
{
    const conv_plan *plan = context->plan;
    float *floats = target;
    if (index == PACK_FOLD) {
        fold(context, plan->geometry.filters, floats);
    } else if (index == PACK_IN_FOLD) {
        int64_t channels = plan->geometry.channels;
        esp_fold_lines(context, context->fused->in_lines, context->fused->in_line_count, channels, floats,
                       floats + esp_block_channels(channels));
    } else {
        const esp_blocked_conv *pass = index == PACK_WEIGHT ? &plan->forward : &plan->input_grad;
        return esp_blocked_conv_pack(context->compute, pass, esp_view_f32(context->inputs[ESP_CONV_WEIGHT]),
                                     target);
    }
    return ESP_OK;
}

/* ---- runs ---- */

static esp_status blocked_forward(const esp_op_context *context, const conv_plan *plan)
{
    const esp_fused *fused = context->fused;
    const float *folded = context->packed[PACK_FOLD], *in_folded = context->packed[PACK_IN_FOLD];
    esp_conv_extras extras = {.in_clips = fused->in_clips,
                              .in_low = fused->in_low,
                              .in_high = fused->in_high,
                              .residual = esp_op_input(context, ESP_CONV_RESIDUAL),
                              .clips = fused->clips,
                              .low = fused->low,
                              .high = fused->high};
    if (folded != NULL) {
        extras.scale = fused->line_count == 0 ? NULL : folded;
        extras.shift = folded + esp_block_channels(plan->geometry.filters);
    }
    if (in_folded != NULL) {
        extras.in_scale = in_folded;
        extras.in_shift = in_folded + esp_block_channels(plan->geometry.channels);
    }
    return esp_blocked_conv_run(context->compute, &plan->forward, context->inputs[ESP_CONV_X],
                                context->packed[PACK_WEIGHT], &extras, context->outputs[0], context->scratch);
}

esp_status esp_op_conv_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    conv_plan local;
    const conv_plan *plan = esp_op_plan(context, &local);
    if (plan->is_blocked)
        return blocked_forward(context, plan);
    const esp_view *bias = esp_op_input(context, ESP_CONV_BIAS);
    if (plan->is_volume)
        return esp_conv3d_forward(context->compute, &plan->volume, esp_view_f32(context->inputs[0]),
                                  esp_view_f32(context->inputs[1]), bias == NULL ? NULL : esp_view_f32(bias),
                                  esp_view_f32(context->outputs[0]));
    return esp_conv_forward(context->compute, &plan->geometry, esp_view_f32(context->inputs[0]),
                            esp_view_f32(context->inputs[1]), bias == NULL ? NULL : esp_view_f32(bias),
                            esp_view_f32(context->outputs[0]), context->scratch);
}

static esp_status blocked_backward(const esp_op_context *context, const conv_plan *plan)
{
    const esp_view *dy = context->output_grads[0];
    const esp_view *dx = esp_op_input_grad(context, ESP_CONV_X);
    const esp_view *dw = esp_op_input_grad(context, ESP_CONV_WEIGHT);
    const esp_view *db = esp_op_input_grad(context, ESP_CONV_BIAS);
    esp_status status = ESP_OK;
    if (dw != NULL)
        status = esp_blocked_conv_grad_weight(context->compute, &plan->weight_grad, context->inputs[0], dy,
                                              esp_view_f32(dw), db == NULL ? NULL : esp_view_f32(db),
                                              context->scratch);
    if (status != ESP_OK || dx == NULL)
        return status;
    esp_conv_extras extras = {.residual = (context->adds & 1u << ESP_CONV_X) != 0 ? dx : NULL};
    return esp_blocked_conv_run(context->compute, &plan->input_grad, dy,
                                context->packed[PACK_WEIGHT_BACKWARD], &extras, dx, context->scratch);
}

esp_status esp_op_bias_gradient(const esp_op_context *context, const esp_view *bias_grad)
{
    const esp_view *dy = context->output_grads[0];
    esp_view target = *bias_grad;
    target.shape = (esp_shape){.rank = dy->shape.rank, .dims = {1, bias_grad->shape.dims[0]}};
    for (int i = 2; i < dy->shape.rank; i++)
        target.shape.dims[i] = 1;
    return esp_op_reduce_to(context->compute, dy, &target);
}

static esp_status volume_backward(const esp_op_context *context, const esp_conv3d_geometry *volume)
{
    const float *x = esp_view_f32(context->inputs[0]), *w = esp_view_f32(context->inputs[1]);
    const float *dy = esp_view_f32(context->output_grads[0]);
    const esp_view *dx = esp_op_input_grad(context, 0), *dw = esp_op_input_grad(context, 1);
    const esp_view *db = esp_op_input_grad(context, 2);
    esp_status status = ESP_OK;
    if (dw != NULL)
        status = esp_conv3d_grad_weight(context->compute, volume, x, dy, esp_view_f32(dw));
    if (status == ESP_OK && db != NULL)
        status = esp_op_bias_gradient(context, db);
    if (status == ESP_OK && dx != NULL)
        status = esp_conv3d_grad_input(context->compute, volume, dy, w, esp_view_f32(dx));
    return status;
}

esp_status esp_op_conv_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    conv_plan local;
    const conv_plan *plan = esp_op_plan(context, &local);
    const esp_conv_geometry *geometry = &plan->geometry;
    if (plan->is_blocked)
        return blocked_backward(context, plan);
    if (plan->is_volume)
        return volume_backward(context, &plan->volume);
    const float *x = esp_view_f32(context->inputs[0]), *w = esp_view_f32(context->inputs[1]);
    const float *dy = esp_view_f32(context->output_grads[0]);
    const esp_view *dx = esp_op_input_grad(context, 0), *dw = esp_op_input_grad(context, 1);
    const esp_view *db = esp_op_input_grad(context, 2);
    esp_status status = ESP_OK;
    if (dw != NULL)
        status = esp_conv_grad_weight(context->compute, geometry, x, dy, esp_view_f32(dw),
                                      db == NULL ? NULL : esp_view_f32(db), context->scratch);
    else if (db != NULL)
        status = esp_op_bias_gradient(context, db);
    if (status == ESP_OK && dx != NULL)
        status = esp_conv_grad_input(context->compute, geometry, dy, w, esp_view_f32(dx), context->scratch);
    return status;
}

/* One multiply-accumulate per weight and output position and image. */
int64_t esp_op_conv_macs(const esp_infer_context *context)
{
    const esp_shape *w = &context->inputs[1]->shape, *y = &context->outputs[0].shape;
    return y->dims[0] * esp_shape_product(y, 2, y->rank) * esp_shape_elements(w);
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
