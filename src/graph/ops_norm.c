/* BatchNormalization (ONNX -7, -9, -14, -15) and Dropout (-7, -10, -12): the two that behave differently in
 * training. x [N,C,...]; scale, bias, mean, variance [C].
 *
 * In channel blocks a batch-norm also does what follows it: y = clip(norm(x) + residual), forward and
 * backward; at evaluation with lines between the two. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/ops.h"
#include "tensor/blocked.h"
#include "tensor/elementwise.h"
#include "tensor/norm.h"

typedef struct norm_plan {
    int64_t batch, channels, inner;
    float epsilon, momentum;
} norm_plan;

esp_status esp_op_batch_norm_infer(esp_infer_context *context, esp_error *err)
{
    const esp_node *node = context->node;
    esp_status status = esp_op_expect_f32(context, err);
    if (status != ESP_OK)
        return status;
    const esp_shape *x = &context->inputs[0]->shape;
    char text[96], x_text[96];
    esp_shape_format(x, x_text, sizeof x_text);
    if (x->rank < 2)
        return esp_fail(err, ESP_SHAPE, "input is %s, expected NxCx...", x_text);
    for (int i = 1; i < 5; i++) {
        const esp_shape *s = &context->inputs[i]->shape;
        if (s->rank != 1 || s->dims[0] != x->dims[1])
            return esp_fail(err, ESP_SHAPE, "input %d is %s, input %s expects %lld", i,
                            esp_shape_format(s, text, sizeof text), x_text, (long long)x->dims[1]);
    }
    if (esp_node_int(node, "spatial", 1) == 0)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "attribute 'spatial' is 0, expected 1 (statistics per channel)");
    if (esp_node_int(node, "training_mode", 0) != 0)
        return esp_fail(
            err, ESP_UNSUPPORTED,
            "attribute 'training_mode' is 1: the model was exported for training, expected evaluation");
    for (int i = 1; i < node->output_count; i++) {
        if (node->outputs[i] >= 0)
            return esp_fail(err, ESP_UNSUPPORTED,
                            "output %d (statistics) is not supported, expected one output", i);
    }
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = *x;
    return ESP_OK;
}

void esp_op_batch_norm_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    *(norm_plan *)plan = (norm_plan){.batch = x->dims[0],
                                     .channels = x->dims[1],
                                     .inner = esp_shape_product(x, 2, x->rank),
                                     .epsilon = esp_node_float(context->node, "epsilon", 1e-5f),
                                     .momentum = esp_node_float(context->node, "momentum", 0.9f)};
}

/* Mean and inverse deviation of the batch, per channel. */
size_t esp_op_batch_norm_saved(const esp_op_context *context)
{
    return 2 * (size_t)context->inputs[0]->shape.dims[1] * sizeof(float);
}

/* In evaluation form: scale and shift. */
void esp_op_batch_norm_packs(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS])
{
    int64_t channels = context->inputs[0]->shape.dims[1];
    if (esp_op_is_blocked(context) && !context->is_training)
        packs[0] =
            (esp_op_pack){.bytes = 2 * (size_t)esp_block_channels(channels) * sizeof(float), .input = -1};
}

esp_status esp_op_batch_norm_pack(const esp_op_context *context, int index, void *target)
{
    (void)index;
    const norm_plan *plan = context->plan;
    const esp_fused *fused = context->fused;
    esp_line lines[ESP_FUSED_LINES + 1] = {{.kind = ESP_LINE_NORM, .input = 1, .epsilon = plan->epsilon}};
    float *scale = target;
    for (int i = 0; i < fused->line_count; i++)
        lines[1 + i] = fused->lines[i];
    esp_fold_lines(context, lines, 1 + fused->line_count, plan->channels, scale,
                   scale + esp_block_channels(plan->channels));
    return ESP_OK;
}

static esp_status blocked_affine(const esp_op_context *context, const norm_plan *plan)
{
    const float *scale = context->packed[0];
    const esp_fused *fused = context->fused;
    esp_affine affine = {.scale = scale,
                         .shift = scale + esp_block_channels(plan->channels),
                         .residual = esp_op_input(context, ESP_NORM_RESIDUAL),
                         .clips = fused->clips,
                         .low = fused->low,
                         .high = fused->high};
    return esp_blocked_affine(context->compute, context->inputs[0], &affine, context->outputs[0]);
}

static esp_norm_train train_form(const esp_op_context *context, const norm_plan *plan)
{
    const esp_view *const *in = context->inputs;
    const esp_fused *fused = context->fused;
    float *saved_mean = context->saved;
    return (esp_norm_train){.scale = esp_view_f32(in[1]),
                            .bias = esp_view_f32(in[2]),
                            .epsilon = plan->epsilon,
                            .momentum = plan->momentum,
                            .saved_mean = saved_mean,
                            .saved_inverse_std = saved_mean + plan->channels,
                            .residual = esp_op_input(context, ESP_NORM_RESIDUAL),
                            .clips = fused->clips,
                            .low = fused->low,
                            .high = fused->high};
}

static esp_status blocked_train(const esp_op_context *context, const norm_plan *plan)
{
    esp_norm_train norm = train_form(context, plan);
    norm.running_mean = esp_view_f32(context->inputs[3]);
    norm.running_variance = esp_view_f32(context->inputs[4]);
    return esp_blocked_norm_train(context->compute, &norm, context->inputs[0], context->outputs[0],
                                  context->scratch);
}

esp_status esp_op_batch_norm_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    norm_plan local;
    const norm_plan *plan = esp_op_plan(context, &local);
    if (esp_op_is_blocked(context))
        return context->is_training ? blocked_train(context, plan) : blocked_affine(context, plan);
    const esp_view *const *in = context->inputs;
    float *y = esp_view_f32(context->outputs[0]);
    if (!context->is_training)
        return esp_batch_norm_forward(context->compute, plan->batch, plan->channels, plan->inner,
                                      esp_view_f32(in[0]), esp_view_f32(in[1]), esp_view_f32(in[2]),
                                      esp_view_f32(in[3]), esp_view_f32(in[4]), plan->epsilon, y);
    float *saved_mean = context->saved;
    return esp_batch_norm_train(context->compute, plan->batch, plan->channels, plan->inner,
                                esp_view_f32(in[0]), esp_view_f32(in[1]), esp_view_f32(in[2]), plan->epsilon,
                                plan->momentum, esp_view_f32(in[3]), esp_view_f32(in[4]), saved_mean,
                                saved_mean + plan->channels, y);
}

static size_t aligned(size_t bytes)
{
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

/* Scratch memory of one call, in this order: the kernel's own; gradients nobody wants (the kernels give all
 * three at once); two lines for the evaluation form in blocks; dx when it goes nowhere else. */
typedef struct norm_scratch {
    size_t lines, own_lines, dx, bytes; /* where each begins; the whole */
} norm_scratch;

static bool is_frozen_in_blocks(const esp_op_context *context)
{
    return !context->is_training && context->has_backward && esp_op_is_blocked(context);
}

static norm_scratch lay_out_scratch(const esp_op_context *context)
{
    const esp_view *x = context->inputs[0];
    size_t line = aligned((size_t)x->shape.dims[1] * sizeof(float));
    bool is_blocked = esp_op_is_blocked(context) && context->has_backward;
    bool needs_dx =
        context->input_grads != NULL && (context->input_grads[0] == NULL || is_frozen_in_blocks(context));
    norm_scratch s = {.lines = is_blocked ? aligned(esp_blocked_norm_scratch(x)) : 0};
    if (context->input_grads == NULL) {
        s.bytes = s.lines;
        return s;
    }
    s.own_lines = s.lines + 2 * line;
    s.dx = s.own_lines + 2 * line;
    s.bytes = s.dx + (needs_dx ? (size_t)esp_view_storage(x) * sizeof(float) : 0);
    return s;
}

size_t esp_op_batch_norm_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return lay_out_scratch(context).bytes;
}

static float *scratch_at(const esp_op_context *context, size_t offset)
{
    return (float *)(void *)((char *)context->scratch + offset);
}

static esp_view spare_gradient(const esp_op_context *context, float *data)
{
    esp_view spare = *context->inputs[0];
    spare.data = data;
    spare.image_stride = 0;
    return spare;
}

static esp_status blocked_backward(const esp_op_context *context, const norm_plan *plan, float *dscale,
                                   float *dbias, float *dx_data)
{
    esp_norm_train norm = train_form(context, plan);
    esp_view spare = spare_gradient(context, dx_data);
    const esp_view *dx = context->input_grads[0] == NULL ? &spare : context->input_grads[0];
    return esp_blocked_norm_backward(context->compute, &norm, context->inputs[0], context->outputs[0],
                                     context->output_grads[0], dx, dscale, dbias,
                                     esp_op_input_grad(context, ESP_NORM_RESIDUAL),
                                     (context->adds & 1u << ESP_NORM_RESIDUAL) != 0, context->scratch);
}

/* With statistics that stay as they are dx is dy times one number per channel; dscale and dbias are what the
 * training form makes of these statistics. */
static esp_status frozen_backward(const esp_op_context *context, const norm_plan *plan, const norm_scratch *s,
                                  float *dscale, float *dbias)
{
    const esp_view *const *in = context->inputs;
    float *inverse_std = scratch_at(context, s->own_lines);
    float *factor = inverse_std + (s->dx - s->own_lines) / 2 / sizeof *factor;
    for (int64_t c = 0; c < plan->channels; c++) {
        double inverse = 1.0 / sqrt((double)esp_view_f32(in[4])[c] + (double)plan->epsilon);
        inverse_std[c] = (float)inverse;
        factor[c] = (float)(inverse * (double)esp_view_f32(in[1])[c]);
    }
    esp_norm_train norm = {.scale = esp_view_f32(in[1]),
                           .bias = esp_view_f32(in[2]),
                           .epsilon = plan->epsilon,
                           .saved_mean = esp_view_f32(in[3]),
                           .saved_inverse_std = inverse_std};
    esp_view spare = spare_gradient(context, scratch_at(context, s->dx));
    esp_status status = esp_blocked_norm_backward(context->compute, &norm, in[0], context->outputs[0],
                                                  context->output_grads[0], &spare, dscale, dbias, NULL,
                                                  false, context->scratch);
    esp_affine affine = {.scale = factor};
    if (status == ESP_OK && context->input_grads[0] != NULL)
        status =
            esp_blocked_affine(context->compute, context->output_grads[0], &affine, context->input_grads[0]);
    return status;
}

esp_status esp_op_batch_norm_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    norm_plan local;
    const norm_plan *plan = esp_op_plan(context, &local);
    const esp_view *const *in = context->inputs;
    esp_view *const *grads = context->input_grads;
    norm_scratch s = lay_out_scratch(context);
    float *dscale = grads[1] == NULL ? scratch_at(context, s.lines) : esp_view_f32(grads[1]);
    float *dbias =
        grads[2] == NULL ? scratch_at(context, (s.lines + s.own_lines) / 2) : esp_view_f32(grads[2]);
    float *dx = grads[0] == NULL ? scratch_at(context, s.dx) : esp_view_f32(grads[0]);
    if (is_frozen_in_blocks(context))
        return frozen_backward(context, plan, &s, dscale, dbias);
    if (esp_op_is_blocked(context))
        return blocked_backward(context, plan, dscale, dbias, dx);
    const float *dy = esp_view_f32(context->output_grads[0]);
    if (!context->is_training)
        return esp_batch_norm_backward_frozen(
            context->compute, plan->batch, plan->channels, plan->inner, esp_view_f32(in[0]), dy,
            esp_view_f32(in[1]), esp_view_f32(in[3]), esp_view_f32(in[4]), plan->epsilon, dx, dscale, dbias);
    const float *saved_mean = context->saved;
    return esp_batch_norm_backward(context->compute, plan->batch, plan->channels, plan->inner,
                                   esp_view_f32(in[0]), dy, esp_view_f32(in[1]), saved_mean,
                                   saved_mean + plan->channels, dx, dscale, dbias);
}

/* ---- Dropout ---- */

typedef struct dropout_plan {
    float ratio;
    int64_t count;
} dropout_plan;

esp_status esp_op_dropout_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0], *ratio = esp_infer_input(context, 1);
    if (x->dtype != ESP_F32)
        return esp_fail(err, ESP_SHAPE, "input 0 is %s, expected %s", esp_dtype_name(x->dtype),
                        esp_dtype_name(ESP_F32));
    if (ratio != NULL &&
        (ratio->dtype != ESP_F32 || esp_shape_elements(&ratio->shape) != 1 || ratio->data == NULL))
        return esp_fail(err, ESP_UNSUPPORTED, "ratio (input 1) must be one constant %s",
                        esp_dtype_name(ESP_F32));
    float value = ratio != NULL ? esp_view_f32(ratio)[0] : esp_node_float(context->node, "ratio", 0.5f);
    if (!(value >= 0.0f && value < 1.0f))
        return esp_fail(err, ESP_INVALID, "ratio is %g, expected 0 to below 1", (double)value);
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape = x->shape;
    if (context->output_count > 1) {
        context->outputs[1].dtype = context->opset < 10 ? ESP_F32 : ESP_BOOL;
        context->outputs[1].shape = x->shape;
    }
    return ESP_OK;
}

void esp_op_dropout_prepare(const esp_op_context *context, void *plan)
{
    const esp_view *ratio = esp_op_input(context, 1);
    *(dropout_plan *)plan = (dropout_plan){
        .ratio = ratio != NULL ? esp_view_f32(ratio)[0] : esp_node_float(context->node, "ratio", 0.5f),
        .count = esp_shape_elements(&context->inputs[0]->shape)};
}

/* The mask, one byte per element, in the order of a plain tensor whatever the layout. */
size_t esp_op_dropout_saved(const esp_op_context *context)
{
    return (size_t)esp_shape_elements(&context->inputs[0]->shape);
}

static void write_mask(const esp_view *target, const uint8_t *mask, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint8_t is_kept = mask == NULL ? 1 : mask[i];
        if (target->dtype == ESP_F32)
            esp_view_f32(target)[i] = (float)is_kept;
        else
            ((uint8_t *)target->data)[i] = is_kept;
    }
}

/* Keeps each element with probability 1 - ratio; 32 random bits decide about one. */
static void draw_mask(esp_rng *rng, float ratio, uint8_t *mask, int64_t count)
{
    uint64_t threshold = (uint64_t)((double)ratio * 4294967296.0);
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; i++) {
        bits = i % 2 == 0 ? esp_rng_u64(rng) : bits >> 32;
        mask[i] = (bits & UINT32_MAX) >= threshold;
    }
}

/* One channel of one image: `count` places, `step` floats apart. */
static void mask_plane(const uint8_t *mask, float scale, int64_t count, int64_t step, const float *x,
                       float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i * step] = mask[i] != 0 ? x[i * step] * scale : 0.0f;
}

static void apply_mask(const uint8_t *mask, float ratio, int64_t count, const esp_view *x, const esp_view *y)
{
    float scale = 1.0f / (1.0f - ratio);
    if (x->layout == ESP_LAYOUT_PLAIN) {
        mask_plane(mask, scale, count, 1, esp_view_f32(x), esp_view_f32(y));
        return;
    }
    int64_t channels = x->shape.dims[1], plane = x->shape.dims[2] * x->shape.dims[3];
    for (int64_t n = 0; n < x->shape.dims[0]; n++) {
        for (int64_t c = 0; c < channels; c++) {
            int64_t at = c / ESP_BLOCK * plane * ESP_BLOCK + c % ESP_BLOCK;
            mask_plane(mask + (n * channels + c) * plane, scale, plane, ESP_BLOCK,
                       esp_view_f32(x) + n * esp_view_image_stride(x) + at,
                       esp_view_f32(y) + n * esp_view_image_stride(y) + at);
        }
    }
}

esp_status esp_op_dropout_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    dropout_plan local;
    const dropout_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    uint8_t *mask = context->is_training ? context->saved : NULL;
    esp_status status = ESP_OK;
    if (mask != NULL) {
        draw_mask(context->rng, plan->ratio, mask, plan->count);
        apply_mask(mask, plan->ratio, plan->count, x, y);
    } else {
        status = esp_op_view_forward(context, err);
    }
    if (context->output_count > 1 && context->outputs[1] != NULL)
        write_mask(context->outputs[1], mask, plan->count);
    return status;
}

/* The same elements that forward dropped get no gradient. */
esp_status esp_op_dropout_backward(const esp_op_context *context, esp_error *err)
{
    dropout_plan local;
    const dropout_plan *plan = esp_op_plan(context, &local);
    if (!context->is_training)
        return esp_op_view_backward(context, err);
    if (context->input_grads[0] != NULL)
        apply_mask(context->saved, plan->ratio, plan->count, context->output_grads[0],
                   context->input_grads[0]);
    return ESP_OK;
}
