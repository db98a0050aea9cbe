/* BatchNormalization (ONNX -7, -9, -14, -15) and Dropout (-7, -10, -12): the two that behave differently in
 * training. x [N,C,...]; scale, bias, mean, variance [C]. */
#include <string.h>

#include "graph/ops.h"
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

esp_status esp_op_batch_norm_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    norm_plan local;
    const norm_plan *plan = esp_op_plan(context, &local);
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

/* The kernels give all three gradients at once; those nobody wants go to scratch: dscale, dbias, then dx. */
size_t esp_op_batch_norm_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    if (context->input_grads == NULL)
        return 0;
    size_t channels = (size_t)context->inputs[0]->shape.dims[1];
    size_t dx = context->input_grads[0] == NULL ? esp_view_bytes(context->inputs[0]) : 0;
    return 2 * channels * sizeof(float) + dx;
}

esp_status esp_op_batch_norm_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    norm_plan local;
    const norm_plan *plan = esp_op_plan(context, &local);
    const esp_view *const *in = context->inputs;
    esp_view *const *grads = context->input_grads;
    float *spare = context->scratch;
    float *dscale = grads[1] == NULL ? spare : esp_view_f32(grads[1]);
    float *dbias = grads[2] == NULL ? spare + plan->channels : esp_view_f32(grads[2]);
    float *dx = grads[0] == NULL ? spare + 2 * plan->channels : esp_view_f32(grads[0]);
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

/* The mask, one byte per element. */
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

static void apply_mask(const uint8_t *mask, float ratio, int64_t count, const float *x, float *y)
{
    float scale = 1.0f / (1.0f - ratio);
    for (int64_t i = 0; i < count; i++)
        y[i] = mask[i] != 0 ? x[i] * scale : 0.0f;
}

esp_status esp_op_dropout_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    dropout_plan local;
    const dropout_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    uint8_t *mask = context->is_training ? context->saved : NULL;
    if (mask != NULL) {
        draw_mask(context->rng, plan->ratio, mask, plan->count);
        apply_mask(mask, plan->ratio, plan->count, esp_view_f32(x), esp_view_f32(y));
    } else if (x->data != y->data) {
        memcpy(y->data, x->data, esp_view_bytes(x));
    }
    if (context->output_count > 1 && context->outputs[1] != NULL)
        write_mask(context->outputs[1], mask, plan->count);
    return ESP_OK;
}

/* The same elements that forward dropped get no gradient. */
esp_status esp_op_dropout_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    dropout_plan local;
    const dropout_plan *plan = esp_op_plan(context, &local);
    const esp_view *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dx == NULL || dy->data == dx->data)
        return ESP_OK;
    if (context->is_training)
        apply_mask(context->saved, plan->ratio, plan->count, esp_view_f32(dy), esp_view_f32(dx));
    else
        memcpy(dx->data, dy->data, esp_view_bytes(dx));
    return ESP_OK;
}
