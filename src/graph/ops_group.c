/* Self-grouped layers as steps at evaluation: a row that no file names. y = clip(lines(groups(x)) +
 * residual), group by group on plain images, as one dense convolution with zeros in channel blocks. See
 * group_layer.h.
 *
 * Biases of the groups are packed with their weights on plain images; in blocks they go into the folded
 * scale and shift.
 *
 * Training has a row of its own (ops_group_train.c), and so have fully connected layers (ops_group_dense.c).
 */
#include <string.h>

#include "base/memory.h"
#include "graph/group_layer.h"
#include "graph/ops.h"

enum { PACK_WEIGHT, PACK_FOLD };

static bool reads_all(const esp_group_layer *layer)
{
    return layer->count == 1 && layer->groups[0].channel_count == layer->geometry.channels;
}

esp_status esp_group_layer_plan(esp_group_layer *layer, const esp_engine *engine, esp_error *err)
{
    esp_status status = esp_group_conv_plan(engine, &layer->geometry, layer->groups, layer->count,
                                            layer->order, &layer->plan, err);
    if (status != ESP_OK)
        return status;
    layer->has_dense =
        esp_blocked_conv_plan(engine, &layer->geometry, ESP_CONV_FORWARD, false, &layer->dense);
    return ESP_OK;
}

void esp_group_layer_release(esp_group_layer *layer)
{
    esp_group_conv_free(layer->plan);
    layer->plan = NULL;
}

static bool group_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    *out = (esp_op_layouts){.blocked_inputs = 1u << ESP_CONV_X, .blocked_output = true};
    return context->engine != NULL && context->fused->group->has_dense;
}

/* Names outlive the executor, so they are these. */
static const char *name_of(const char *const names[][2], const char *method, const char *otherwise)
{
    for (int i = 0; names[i][0] != NULL; i++) {
        if (strcmp(names[i][0], method) == 0)
            return names[i][1];
    }
    return otherwise;
}

const char *esp_group_dense_name(const char *method)
{
    static const char *const dense[][2] = {{"winograd", "dense winograd"},
                                           {"direct", "dense direct"},
                                           {"pointwise", "dense pointwise"},
                                           {NULL, NULL}};
    return name_of(dense, method, "dense");
}

static const char *group_method(const esp_op_context *context)
{
    static const char *const grouped[][2] = {
        {"rows", "grouped rows"}, {"winograd", "grouped winograd"}, {NULL, NULL}};
    static const char *const plain[][2] = {
        {"rows", "plain rows"}, {"winograd", "plain winograd"}, {NULL, NULL}};
    const esp_group_layer *layer = context->fused->group;
    if (esp_op_is_blocked(context))
        return esp_group_dense_name(esp_blocked_conv_name(&layer->dense));
    return reads_all(layer) ? name_of(plain, esp_group_conv_name(layer->plan), "plain")
                            : name_of(grouped, esp_group_conv_name(layer->plan), "grouped");
}

static size_t group_scratch(const esp_op_context *context, int slots)
{
    const esp_group_layer *layer = context->fused->group;
    return esp_op_is_blocked(context) ? esp_blocked_conv_scratch(&layer->dense, slots)
                                      : esp_group_conv_scratch(layer->plan, slots);
}

/* ---- packing ---- */

static void group_packs(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS])
{
    const esp_group_layer *layer = context->fused->group;
    bool is_dense = esp_op_is_blocked(context);
    size_t bytes =
        is_dense ? esp_blocked_conv_packed_bytes(&layer->dense) : esp_group_conv_packed_bytes(layer->plan);
    uint64_t form =
        is_dense ? esp_blocked_conv_pack_key(&layer->dense) * 31 : esp_group_conv_pack_key(layer->plan);
    packs[PACK_WEIGHT] = (esp_op_pack){.bytes = bytes, .input = -1};
    if (layer->key != 0) {
        packs[PACK_WEIGHT].input = ESP_CONV_WEIGHT;
        packs[PACK_WEIGHT].key = (layer->key ^ form) == 0 ? 1 : layer->key ^ form;
    }
    if (context->fused->line_count > 0 || (is_dense && layer->has_bias))
        packs[PACK_FOLD] = (esp_op_pack){
            .bytes = 2 * (size_t)esp_block_channels(layer->geometry.filters) * sizeof(float), .input = -1};
}

/* The groups with their weights and biases; free with esp_free. */
static esp_filter_group *groups_of(const esp_op_context *context)
{
    const esp_group_layer *layer = context->fused->group;
    esp_filter_group *groups = esp_alloc((size_t)layer->count, sizeof *groups);
    for (int64_t g = 0; groups != NULL && g < layer->count; g++) {
        const esp_group_source *source = &layer->sources[g];
        const esp_view *w = context->inputs[source->weight_input];
        groups[g] = layer->groups[g];
        groups[g].w = esp_view_f32(w) + source->first_filter * esp_shape_product(&w->shape, 1, w->shape.rank);
        if (source->bias_input >= 0)
            groups[g].bias = esp_view_f32(context->inputs[source->bias_input]) + source->first_filter;
    }
    return groups;
}

static esp_status pack_dense(const esp_op_context *context, const esp_filter_group *groups, void *target)
{
    const esp_group_layer *layer = context->fused->group;
    const esp_conv_geometry *g = &layer->geometry;
    float *w = esp_alloc((size_t)(g->filters * g->channels * g->kernel_h * g->kernel_w), sizeof *w);
    if (w == NULL)
        return ESP_NO_MEMORY;
    esp_group_conv_densify(g, groups, layer->count, layer->order, w, NULL);
    esp_status status = esp_blocked_conv_pack(context->compute, &layer->dense, w, target);
    esp_free(w);
    return status;
}

/* lines(sum + bias) as sum * scale + shift; the groups' biases count here in blocks only. */
static void fold(const esp_op_context *context, const esp_filter_group *groups, float *scale)
{
    const esp_group_layer *layer = context->fused->group;
    int64_t filters = layer->geometry.filters, filter = 0;
    float *shift = scale + esp_block_channels(filters);
    esp_fold_lines(context, context->fused->lines, context->fused->line_count, filters, scale, shift);
    for (int64_t g = 0; esp_op_is_blocked(context) && g < layer->count; g++) {
        for (int64_t f = 0; f < groups[g].filters; f++, filter++) {
            int64_t y = layer->order == NULL ? filter : layer->order[filter];
            shift[y] += groups[g].bias == NULL ? 0.0f : groups[g].bias[f] * scale[y];
        }
    }
}

static esp_status group_pack(const esp_op_context *context, int index, void *target)
{
    const esp_group_layer *layer = context->fused->group;
    esp_status status = ESP_OK;
    esp_filter_group *groups = groups_of(context);
    if (groups == NULL)
        return ESP_NO_MEMORY;
    if (index == PACK_FOLD)
        fold(context, groups, target);
    else if (esp_op_is_blocked(context))
        status = pack_dense(context, groups, target);
    else
        status = esp_group_conv_pack(context->compute, layer->plan, groups, target);
    esp_free(groups);
    return status;
}

/* ---- run ---- */

static esp_status group_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_fused *fused = context->fused;
    const esp_group_layer *layer = fused->group;
    const float *folded = context->packed[PACK_FOLD];
    esp_conv_extras extras = {.residual = esp_op_input(context, ESP_CONV_RESIDUAL),
                              .clips = fused->clips,
                              .low = fused->low,
                              .high = fused->high};
    if (folded != NULL) {
        extras.scale = fused->line_count == 0 ? NULL : folded;
        extras.shift = folded + esp_block_channels(layer->geometry.filters);
    }
    const esp_view *x = context->inputs[ESP_CONV_X], *y = context->outputs[0];
    const void *packed = context->packed[PACK_WEIGHT];
    return esp_op_is_blocked(context)
               ? esp_blocked_conv_run(context->compute, &layer->dense, x, packed, &extras, y,
                                      context->scratch)
               : esp_group_conv_run(context->compute, layer->plan, x, packed, &extras, y, context->scratch);
}

const esp_op esp_group_row = {.name = "Conv in groups",
                              .input_min = 2,
                              .input_max = -1,
                              .output_min = 1,
                              .output_max = 1,
                              .forward = group_forward,
                              .scratch = group_scratch,
                              .over = 1u << ESP_CONV_RESIDUAL,
                              .blocks = group_blocks,
                              .packs = group_packs,
                              .pack = group_pack,
                              .method = group_method};
