/* Surgery, counts of what would be written, from the decision alone: the trainable constants that the new
 * graph would have, each once, and the MACs of its nodes (METHODS.md section 4, `true` counter). It follows
 * surgery_rewrite.c and surgery_layers.c constant by constant; the tests hold the two together. */
#include "prune/surgery_internal.h"

#include <string.h>

#include "base/memory.h"
#include "prune/counts.h"

/* A constant that several inputs use in the old graph: in the new one it is one constant for each content. */
typedef struct shared_constant {
    int value;
    const esp_tensor *tensor; /* NULL: a weight, told apart by its lists */
    const channel_list *filters, *channels;
} shared_constant;

typedef struct counting {
    const surgery *self;
    bool *is_needed; /* per old value: in its old form */
    shared_constant *shared;
    esp_tensor **held; /* of `shared`: those made for it */
    int shared_count;
    esp_counts live, stored;
} counting;

static bool same_list(const channel_list *a, const channel_list *b)
{
    if (a->count != b->count || a->is_identity != b->is_identity)
        return false;
    return a->is_identity || memcmp(a->indices, b->indices, (size_t)a->count * sizeof *a->indices) == 0;
}

static bool is_same(const shared_constant *a, const shared_constant *b)
{
    if (a->value != b->value || (a->tensor == NULL) != (b->tensor == NULL))
        return false;
    if (a->tensor != NULL)
        return a->tensor == b->tensor || esp_tensor_equal(a->tensor, b->tensor);
    return same_list(a->filters, b->filters) && same_list(a->channels, b->channels);
}

/* True the first time. */
static bool is_new(counting *it, const shared_constant *item)
{
    if (item->value < 0 || esp_graph_consumer_count(it->self->graph, item->value) < 2)
        return true;
    for (int i = 0; i < it->shared_count; i++) {
        if (is_same(&it->shared[i], item))
            return false;
    }
    it->shared[it->shared_count++] = *item;
    return true;
}

static void add_tensor(counting *it, int value, const esp_tensor *tensor)
{
    const shared_constant item = {.value = value, .tensor = tensor};
    if (tensor == NULL || esp_tensor_dtype(tensor) != ESP_F32 || !is_new(it, &item))
        return;
    it->stored.params += esp_tensor_elements(tensor);
    it->live.params += esp_tensor_elements(tensor);
}

/* ---- layers ---- */

static void add_weight(counting *it, int index)
{
    const surgery *self = it->self;
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const layer_cut *cut = &self->layer_cuts[index];
    int64_t per_weight = esp_layer_macs_per_weight(layer);
    const esp_tensor *weight = surgery_weight(self, layer);
    const shared_constant item = {.value = layer->weight,
                                  .filters = surgery_kept(self, node->outputs[0]),
                                  .channels = surgery_kept(self, node->inputs[0])};
    it->stored.macs += cut->stored * per_weight;
    it->live.macs += cut->live * per_weight;
    if (weight == NULL || esp_tensor_dtype(weight) != ESP_F32 || !is_new(it, &item))
        return;
    it->stored.params += cut->stored;
    it->live.params += cut->live;
}

/* Sets of filters with equal rows over the remaining columns. */
static int64_t count_groups(const surgery *self, int index)
{
    const esp_node *node = esp_graph_node(self->graph, self->layers->items[index].node);
    const channel_list *filters = surgery_kept(self, node->outputs[0]);
    const channel_list *channels = surgery_kept(self, node->inputs[0]);
    const esp_mask *mask = &self->masks[index];
    int64_t groups = 0;
    for (int64_t i = 0; i < filters->count; i++) {
        bool is_first = true;
        for (int64_t k = 0; k < i && is_first; k++) {
            bool agrees = true;
            for (int64_t c = 0; c < channels->count && agrees; c++)
                agrees = esp_mask_get(mask, filters->indices[i], channels->indices[c]) ==
                         esp_mask_get(mask, filters->indices[k], channels->indices[c]);
            is_first = !agrees;
        }
        groups += is_first;
    }
    return groups;
}

static esp_status add_bias(counting *it, int index, esp_error *err)
{
    const surgery *self = it->self;
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const layer_cut *cut = &self->layer_cuts[index];
    const channel_list *filters = surgery_kept(self, node->outputs[0]);
    const esp_tensor *bias = surgery_bias(self, node);
    int place = surgery_bias_input(node);
    int64_t kept = surgery_has_channels(self, node->outputs[0]) ? filters->count : layer->filters;
    if (place < 0 || (bias == NULL && cut->place != CONSTANTS_BIAS) ||
        (bias != NULL && esp_tensor_dtype(bias) != ESP_F32))
        return ESP_OK;
    const esp_shape *shape = bias == NULL ? NULL : esp_tensor_shape(bias);
    bool is_per_filter =
        cut->place == CONSTANTS_BIAS || (shape->rank > 0 && shape->dims[shape->rank - 1] == layer->filters);
    if (cut->is_grouped && !is_per_filter) { /* every part has its own */
        int64_t parts = count_groups(self, index), elements = esp_tensor_elements(bias) * parts;
        it->stored.params += elements;
        it->live.params += elements;
    } else if (cut->place == CONSTANTS_BIAS || cut->is_grouped) { /* new numbers, or new parts */
        int64_t elements =
            cut->place == CONSTANTS_BIAS ? kept : esp_tensor_elements(bias) / layer->filters * kept;
        it->stored.params += elements;
        it->live.params += elements;
    } else if (!is_per_filter || filters->is_identity) {
        add_tensor(it, node->inputs[place], bias);
    } else {
        esp_tensor *narrowed = NULL;
        esp_status status = surgery_select(bias, shape->rank - 1, filters, &narrowed, err);
        if (status != ESP_OK)
            return status;
        int known = it->shared_count;
        add_tensor(it, node->inputs[place], narrowed);
        if (it->shared_count > known)
            it->held[known] = narrowed;
        else
            esp_tensor_unref(narrowed);
    }
    return ESP_OK;
}

/* ---- nodes in between ---- */

static void add_parameters(counting *it, int index)
{
    const surgery *self = it->self;
    const esp_node *node = esp_graph_node(self->graph, index);
    const node_edit *edit = &self->edits[index];
    for (int i = 0; i < 32 && (i < node->input_count || i < edit->input_count); i++) {
        int value = i < node->input_count ? node->inputs[i] : -1;
        const esp_tensor *tensor = i < edit->input_count ? edit->inputs[i] : NULL;
        if (tensor == NULL && value >= 0)
            tensor = esp_graph_value(self->graph, value)->constant;
        if ((node->op->trainable >> i & 1U) != 0)
            add_tensor(it, value, tensor);
    }
}

/* MACs of a node that is no layer, with the shapes it will have. */
static esp_status add_macs(counting *it, int index, esp_error *err)
{
    const surgery *self = it->self;
    const esp_node *node = esp_graph_node(self->graph, index);
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    if (node->op->macs == NULL)
        return ESP_OK;
    esp_view *views = esp_alloc_zero(inputs + outputs + 1, sizeof *views);
    const esp_view **pointers = esp_alloc_zero(inputs + 1, sizeof *pointers);
    esp_status status = views != NULL && pointers != NULL
                            ? ESP_OK
                            : esp_fail_memory(err, "a count", (inputs + outputs) * sizeof *views);
    bool is_known = status == ESP_OK;
    if (status == ESP_OK)
        esp_inferred_views(self->inferred, self->graph, index, views, pointers, views + inputs);
    for (size_t i = 0; i < inputs + outputs && is_known; i++) {
        int value = i < inputs ? node->inputs[i] : node->outputs[i - inputs];
        if (value < 0)
            continue;
        views[i].shape = surgery_new_shape(self, self->inferred, value);
        is_known = views[i].shape.rank >= 0;
    }
    if (is_known) {
        esp_infer_context context = {.node = node,
                                     .opset = esp_graph_opset(self->graph),
                                     .input_count = node->input_count,
                                     .inputs = pointers,
                                     .output_count = node->output_count,
                                     .outputs = views + inputs};
        int64_t macs = node->op->macs(&context);
        it->stored.macs += macs;
        it->live.macs += macs;
    }
    esp_free(views);
    esp_free(pointers);
    return status;
}

/* ---- the whole ---- */

static esp_status count_node(counting *it, int index, esp_error *err)
{
    int layer = esp_coupling_layer_at(it->self->coupling, index);
    if (layer < 0) {
        add_parameters(it, index);
        return add_macs(it, index, err);
    }
    add_weight(it, layer);
    return add_bias(it, layer, err);
}

/* Inputs that use a constant others use too, at most. */
static size_t count_uses(const surgery *self)
{
    size_t uses = 1;
    for (int i = 0; i < esp_graph_node_count(self->graph); i++)
        uses += (size_t)esp_graph_node(self->graph, i)->input_count;
    return uses;
}

esp_status surgery_count(const surgery *self, esp_counts *live, esp_counts *stored, esp_error *err)
{
    size_t uses = count_uses(self);
    counting it = {.self = self,
                   .is_needed = esp_alloc_zero((size_t)esp_graph_value_count(self->graph) + 1, sizeof(bool)),
                   .shared = esp_alloc_zero(uses, sizeof *it.shared),
                   .held = esp_alloc_zero(uses, sizeof *it.held)};
    esp_status status = it.is_needed != NULL && it.shared != NULL && it.held != NULL
                            ? ESP_OK
                            : esp_fail_memory(err, "a count", uses * sizeof *it.shared);
    if (status == ESP_OK)
        surgery_mark_needed(self, it.is_needed);
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(self->graph); i++) {
        if (surgery_is_node_needed(it.is_needed, esp_graph_node(self->graph, i)))
            status = count_node(&it, i, err);
    }
    for (int i = 0; i < it.shared_count; i++)
        esp_tensor_unref(it.held[i]);
    esp_free(it.is_needed);
    esp_free(it.shared);
    esp_free(it.held);
    if (status == ESP_OK) {
        *live = it.live;
        *stored = it.stored;
    }
    return status;
}
