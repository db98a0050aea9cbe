/* Self-grouped convolutions in training: a row that no file names, y = groups(x) as one dense convolution
 * with zeros, in channel blocks. See group_layer.h.
 *
 * Before each pass the groups' weights are spread over a dense weight, which is then packed like any other;
 * the gradient of the dense weight is made in scratch memory, and every group takes out what is its own. The
 * zeros cost time that a grouped kernel would save, but a training step of the dense form runs in the layout
 * of all its neighbours, by Winograd or with registers full of filters, and groups are mostly too narrow for
 * either (fuse_group_price.c has the comparison). Nothing is fused in: in training that is batch-norm's. */
#include "base/memory.h"
#include "graph/group_layer.h"
#include "graph/ops.h"

enum { PACK_WEIGHT, PACK_BIAS, PACK_WEIGHT_BACKWARD };

typedef struct train_plan {
    esp_blocked_conv forward, input_grad, weight_grad;
    bool has_input_grad, has_weight_grad;
} train_plan;

_Static_assert(sizeof(train_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

static bool wants(const esp_op_context *context, int input)
{
    return input >= 0 && context->input_grads != NULL && esp_op_input_grad(context, input) != NULL;
}

static bool wants_weights(const esp_op_context *context)
{
    const esp_group_layer *layer = context->fused->group;
    for (int64_t g = 0; g < layer->count; g++) {
        if (wants(context, layer->sources[g].weight_input) || wants(context, layer->sources[g].bias_input))
            return true;
    }
    return false;
}

/* Plans for all passes that will run; false when a blocked kernel is missing for one of them. */
static bool plan_passes(const esp_op_context *context, bool takes_plain, train_plan *plan)
{
    const esp_conv_geometry *geometry = &context->fused->group->geometry;
    const esp_engine *engine = context->engine;
    *plan =
        (train_plan){.has_input_grad = wants(context, ESP_CONV_X), .has_weight_grad = wants_weights(context)};
    if (engine == NULL || (takes_plain && plan->has_input_grad) ||
        !esp_blocked_conv_plan(engine, geometry, ESP_CONV_FORWARD, takes_plain, &plan->forward))
        return false;
    if (plan->has_input_grad &&
        !esp_blocked_conv_plan(engine, geometry, ESP_CONV_GRAD_INPUT, false, &plan->input_grad))
        return false;
    return !plan->has_weight_grad ||
           esp_blocked_conv_plan(engine, geometry, ESP_CONV_GRAD_WEIGHT, takes_plain, &plan->weight_grad);
}

bool esp_group_layer_trains(const esp_op_context *context)
{
    train_plan plan;
    return plan_passes(context, false, &plan);
}

/* A plain image of few channels, the network's input, is read as it is. */
static bool train_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    train_plan plan;
    bool is_plain = context->inputs[ESP_CONV_X]->layout == ESP_LAYOUT_PLAIN;
    *out = (esp_op_layouts){.blocked_output = true};
    if (is_plain && plan_passes(context, true, &plan))
        return true;
    out->blocked_inputs = 1u << ESP_CONV_X;
    return plan_passes(context, false, &plan);
}

/* esp_group_layer_trains has found that there are plans. */
static void train_prepare(const esp_op_context *context, void *memory)
{
    plan_passes(context, context->inputs[ESP_CONV_X]->layout == ESP_LAYOUT_PLAIN, memory);
}

static const char *train_method(const esp_op_context *context)
{
    const train_plan *plan = context->plan;
    return esp_group_dense_name(esp_blocked_conv_name(&plan->forward));
}

static size_t aligned(size_t bytes)
{
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

static size_t weight_bytes(const esp_conv_geometry *g)
{
    return aligned((size_t)(g->filters * g->channels * g->kernel_h * g->kernel_w) * sizeof(float));
}

static size_t bias_bytes(const esp_conv_geometry *g)
{
    return (size_t)esp_block_channels(g->filters) * sizeof(float);
}

/* For the gradient of the weights: the dense one, that of the bias, and what the kernel needs. */
static size_t train_scratch(const esp_op_context *context, int slots)
{
    const train_plan *plan = context->plan;
    const esp_conv_geometry *g = &context->fused->group->geometry;
    size_t bytes = esp_blocked_conv_scratch(&plan->forward, slots), other = 0;
    if (plan->has_input_grad)
        other = esp_blocked_conv_scratch(&plan->input_grad, slots);
    bytes = other > bytes ? other : bytes;
    if (plan->has_weight_grad)
        other =
            weight_bytes(g) + aligned(bias_bytes(g)) + esp_blocked_conv_scratch(&plan->weight_grad, slots);
    return other > bytes ? other : bytes;
}

/* ---- packing ---- */

/* The dense weight lies behind what is packed of it. */
static void train_packs(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS])
{
    const train_plan *plan = context->plan;
    const esp_group_layer *layer = context->fused->group;
    const size_t dense = weight_bytes(&layer->geometry);
    packs[PACK_WEIGHT] =
        (esp_op_pack){.bytes = aligned(esp_blocked_conv_packed_bytes(&plan->forward)) + dense, .input = -1};
    if (layer->has_bias)
        packs[PACK_BIAS] = (esp_op_pack){.bytes = bias_bytes(&layer->geometry), .input = -1};
    if (plan->has_input_grad)
        packs[PACK_WEIGHT_BACKWARD] =
            (esp_op_pack){.bytes = aligned(esp_blocked_conv_packed_bytes(&plan->input_grad)) + dense,
                          .input = -1,
                          .is_for_backward = true};
}

typedef struct spread_job {
    const esp_op_context *context;
    float *dense, *bias; /* the dense weight, or its gradient */
} spread_job;

static float *floats_of(const esp_view *view, int64_t first_filter)
{
    return esp_view_f32(view) + first_filter * esp_shape_product(&view->shape, 1, view->shape.rank);
}

static void spread_group(void *user, int64_t task, int slot)
{
    const spread_job *job = user;
    const esp_group_layer *layer = job->context->fused->group;
    const esp_group_source *source = &layer->sources[task];
    esp_filter_group group = layer->groups[task];
    (void)slot;
    group.w = floats_of(job->context->inputs[source->weight_input], source->first_filter);
    esp_group_conv_spread(&layer->geometry, &group, source->layer_filter, layer->order, job->dense);
}

static void put_bias(const esp_op_context *context, float *bias)
{
    const esp_group_layer *layer = context->fused->group;
    for (int64_t f = 0; f < esp_block_channels(layer->geometry.filters); f++)
        bias[f] = 0.0f;
    for (int64_t g = 0; g < layer->count; g++) {
        const esp_group_source *source = &layer->sources[g];
        if (source->bias_input < 0)
            continue;
        const float *from = floats_of(context->inputs[source->bias_input], source->first_filter);
        for (int64_t f = 0; f < layer->groups[g].filters; f++) {
            int64_t filter = source->layer_filter + f;
            bias[layer->order == NULL ? filter : layer->order[filter]] = from[f];
        }
    }
}

static esp_status train_pack(const esp_op_context *context, int index, void *target)
{
    const train_plan *plan = context->plan;
    const esp_blocked_conv *pass = index == PACK_WEIGHT ? &plan->forward : &plan->input_grad;
    if (index == PACK_BIAS) {
        put_bias(context, target);
        return ESP_OK;
    }
    float *dense = (float *)(void *)((char *)target + aligned(esp_blocked_conv_packed_bytes(pass)));
    spread_job job = {.context = context, .dense = dense};
    esp_status status = esp_compute_run(context->compute, context->fused->group->count, spread_group, &job);
    return status == ESP_OK ? esp_blocked_conv_pack(context->compute, pass, dense, target) : status;
}

/* ---- runs ---- */

static esp_status train_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const train_plan *plan = context->plan;
    const esp_conv_extras extras = {.shift = context->packed[PACK_BIAS]};
    return esp_blocked_conv_run(context->compute, &plan->forward, context->inputs[ESP_CONV_X],
                                context->packed[PACK_WEIGHT], &extras, context->outputs[0], context->scratch);
}

static void collect_group(void *user, int64_t task, int slot)
{
    const spread_job *job = user;
    const esp_op_context *context = job->context;
    const esp_group_layer *layer = context->fused->group;
    const esp_group_source *source = &layer->sources[task];
    const esp_filter_group *group = &layer->groups[task];
    (void)slot;
    if (wants(context, source->weight_input))
        esp_group_conv_collect(&layer->geometry, group, source->layer_filter, layer->order, job->dense,
                               floats_of(context->input_grads[source->weight_input], source->first_filter));
    if (!wants(context, source->bias_input))
        return;
    float *bias = floats_of(context->input_grads[source->bias_input], source->first_filter);
    for (int64_t f = 0; f < group->filters; f++) {
        int64_t filter = source->layer_filter + f;
        bias[f] = job->bias[layer->order == NULL ? filter : layer->order[filter]];
    }
}

static esp_status weight_gradients(const esp_op_context *context, const train_plan *plan)
{
    const esp_group_layer *layer = context->fused->group;
    char *scratch = context->scratch;
    spread_job job = {.context = context, .dense = context->scratch};
    job.bias = (float *)(void *)(scratch + weight_bytes(&layer->geometry));
    scratch += weight_bytes(&layer->geometry) + aligned(bias_bytes(&layer->geometry));
    esp_status status = esp_blocked_conv_grad_weight(context->compute, &plan->weight_grad,
                                                     context->inputs[ESP_CONV_X], context->output_grads[0],
                                                     job.dense, layer->has_bias ? job.bias : NULL, scratch);
    return status == ESP_OK ? esp_compute_run(context->compute, layer->count, collect_group, &job) : status;
}

static esp_status train_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const train_plan *plan = context->plan;
    esp_status status = plan->has_weight_grad ? weight_gradients(context, plan) : ESP_OK;
    if (status != ESP_OK || !plan->has_input_grad)
        return status;
    const esp_view *dx = context->input_grads[ESP_CONV_X];
    const esp_conv_extras extras = {.residual = (context->adds & 1u << ESP_CONV_X) != 0 ? dx : NULL};
    return esp_blocked_conv_run(context->compute, &plan->input_grad, context->output_grads[0],
                                context->packed[PACK_WEIGHT_BACKWARD], &extras, dx, context->scratch);
}

const esp_op esp_group_train_row = {.name = "Conv in groups",
                                    .input_min = 2,
                                    .input_max = -1,
                                    .output_min = 1,
                                    .output_max = 1,
                                    .forward = train_forward,
                                    .backward = train_backward,
                                    .scratch = train_scratch,
                                    .flags = ESP_OP_PREFERS_BLOCKS,
                                    .needs = ESP_NEEDS_INPUTS,
                                    .adds = 1u << ESP_CONV_X,
                                    .blocks = train_blocks,
                                    .prepare = train_prepare,
                                    .packs = train_packs,
                                    .pack = train_pack,
                                    .method = train_method};
