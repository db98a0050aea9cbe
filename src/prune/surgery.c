/* Surgery: a masked model becomes a smaller one that computes the same. The steps are in surgery_*.c; here
 * they are put together, and the result is proved against the masked model.
 *
 * The masked model is the truth: its weights are written, not the original's, so that a zero slice which
 * nobody can cut out (its channel lives on in a shortcut) stays zero, and its mask is listed in the metadata.
 */
#include "prune/surgery.h"

#include <string.h>

#include "base/memory.h"
#include "prune/counts.h"
#include "prune/preview_internal.h"
#include "prune/surgery_internal.h"

esp_surgery_options esp_surgery_defaults(void)
{
    return (esp_surgery_options){.group_form = ESP_GROUP_FORM_GROUPED, .seed = 1, .tolerance = 1e-4};
}

bool surgery_has_open_sizes(const surgery *self)
{
    return self->input_shape_count > 0;
}

const esp_tensor *surgery_weight(const surgery *self, const esp_layer *layer)
{
    const esp_tensor *constant = esp_graph_value(self->graph, layer->weight)->constant;
    return constant != NULL ? constant : esp_inferred_constant(self->inferred, layer->weight);
}

int surgery_bias_input(const esp_node *node)
{
    esp_layer_form form;
    if (!node->op->layer(node, &form))
        return -1;
    if (form.bias_input >= 0)
        return form.bias_input;
    int next = form.weight_input + 1; /* absent: the trainable input behind the weight */
    return next < node->op->input_max && (node->op->trainable >> next & 1U) != 0 ? next : -1;
}

const esp_tensor *surgery_bias(const surgery *self, const esp_node *node)
{
    int input = surgery_bias_input(node);
    if (input < 0 || input >= node->input_count || node->inputs[input] < 0)
        return NULL;
    return esp_inferred_constant(self->inferred, node->inputs[input]);
}

/* Sizes the preview was made with, for the inputs whose file leaves some open; the batch stays what the file
 * says. */
static esp_status note_open_sizes(surgery *self, esp_error *err)
{
    int count = esp_graph_input_count(self->graph);
    self->input_shapes = esp_arena_alloc(self->arena, (size_t)count + 1, sizeof *self->input_shapes);
    if (self->input_shapes == NULL)
        return esp_fail_memory(err, "surgery", (size_t)count * sizeof *self->input_shapes);
    for (int i = 0; i < count; i++) {
        int index = esp_graph_input(self->graph, i);
        const esp_value *value = esp_graph_value(self->graph, index);
        esp_shape shape = *esp_inferred_shape(self->inferred, index);
        bool is_open = value->shape.rank < 0;
        for (int k = 0; k < value->shape.rank; k++) {
            is_open = is_open || value->shape.dims[k] == ESP_DIM_UNKNOWN;
            if (value->shape.dims[k] == ESP_DIM_BATCH)
                shape.dims[k] = ESP_DIM_BATCH;
        }
        if (is_open)
            self->input_shapes[self->input_shape_count++] = (esp_input_shape){value->name, shape};
    }
    return ESP_OK;
}

static esp_status allocate_lists(surgery *self, esp_error *err)
{
    int64_t longest = 1;
    for (int value = 0; value < esp_graph_value_count(self->graph); value++) {
        int64_t count = esp_coupling_value(self->coupling, value).count;
        self->kept[value] = (channel_list){.is_identity = true};
        if (!surgery_has_channels(self, value))
            continue;
        longest = count > longest ? count : longest;
        self->kept[value].indices = esp_arena_alloc(self->arena, (size_t)count + 1, sizeof(int64_t));
        if (self->kept[value].indices == NULL)
            return esp_fail_memory(err, "surgery", (size_t)count * sizeof(int64_t));
    }
    self->sort_buffer = esp_arena_alloc(self->arena, (size_t)longest, sizeof *self->sort_buffer);
    return self->sort_buffer == NULL ? esp_fail_memory(err, "surgery", (size_t)longest * sizeof(int64_t))
                                     : ESP_OK;
}

static esp_status allocate(surgery *self, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(self->graph),
           nodes = (size_t)esp_graph_node_count(self->graph);
    size_t slots = (size_t)esp_coupling_slot_limit(self->coupling), layers = (size_t)self->layers->count;
    self->is_constant = esp_arena_alloc(self->arena, values + 1, sizeof(bool *));
    self->kept = esp_arena_alloc(self->arena, values + 1, sizeof *self->kept);
    self->is_candidate = esp_arena_alloc(self->arena, slots, sizeof(bool));
    self->is_removed = esp_arena_alloc(self->arena, slots, sizeof(bool));
    self->rank = esp_arena_alloc(self->arena, slots, sizeof *self->rank);
    self->layer_cuts = esp_arena_alloc(self->arena, layers + 1, sizeof *self->layer_cuts);
    self->edits = esp_arena_alloc(self->arena, nodes + 1, sizeof *self->edits);
    if (self->is_constant == NULL || self->kept == NULL || self->is_candidate == NULL ||
        self->is_removed == NULL || self->rank == NULL || self->layer_cuts == NULL || self->edits == NULL)
        return esp_fail_memory(err, "surgery", (values + nodes + slots) * sizeof(void *));
    for (size_t i = 0; i < slots; i++)
        self->rank[i] = -1;
    esp_status status = note_open_sizes(self, err);
    return status == ESP_OK ? allocate_lists(self, err) : status;
}

static void surgery_close(surgery *self)
{
    surgery_release_edits(self);
    for (int i = 0; self->layer_cuts != NULL && i < self->layers->count; i++)
        esp_tensor_unref(self->layer_cuts[i].added_map);
    esp_exec_free(self->runs[0]);
    esp_exec_free(self->runs[1]);
    esp_inferred_free(self->inferred_two);
    esp_coupling_free(self->coupling);
    esp_inferred_free(self->inferred);
    esp_arena_free(self->arena);
    esp_graph_unref((esp_graph *)self->graph);
}

static esp_status surgery_open(surgery *self, const esp_compute *compute, const esp_preview *preview,
                               const esp_surgery_options *options, esp_error *err)
{
    esp_graph *masked = NULL;
    *self = (surgery){.compute = compute, .preview = preview, .options = options, .layers = &preview->layers};
    self->arena = esp_arena_new();
    if (self->arena == NULL)
        return esp_fail_memory(err, "surgery", 0);
    esp_status status = esp_preview_masked_graph(preview, &masked, err);
    if (status != ESP_OK)
        return status;
    self->graph = masked;
    /* Not the preview's: masks change the constants that masked weights go into. */
    status =
        esp_infer(masked, 1, preview->subject->shapes, preview->subject->shape_count, &self->inferred, err);
    if (status == ESP_OK)
        status = esp_coupling_new(masked, self->inferred, self->layers, &self->coupling, err);
    return status == ESP_OK ? allocate(self, err) : status;
}

/* Which channels go: as many as can, until no step objects. Every round makes candidates fewer, so this ends.
 */
static esp_status decide(surgery *self, esp_error *err)
{
    esp_status status = surgery_find_constants(self, err);
    bool has_vetoed = true;
    for (int64_t last = -1; status == ESP_OK && has_vetoed;) {
        int64_t candidates = 0;
        for (int32_t slot = 0; slot < esp_coupling_slot_limit(self->coupling); slot++)
            candidates += self->is_candidate[slot];
        if (candidates == last) /* a step objects to what no candidate explains: then nothing is cut */
            memset(self->is_candidate, 0, (size_t)esp_coupling_slot_limit(self->coupling));
        last = candidates;
        surgery_choose(self);
        if (!surgery_lay_out(self))
            return esp_fail(err, ESP_INTERNAL, "surgery: the remaining channels do not fit together");
        status = surgery_edit_nodes(self, &has_vetoed, err);
        if (status == ESP_OK && !has_vetoed)
            status = surgery_fold_constants(self, &has_vetoed, err);
    }
    return status;
}

/* Groups may put channels in another order, which every node in between must follow. */
static esp_status group(surgery *self, esp_error *err)
{
    bool has_vetoed = false;
    esp_status status = surgery_find_groups(self, err);
    if (status == ESP_OK)
        status = surgery_edit_nodes(self, &has_vetoed, err);
    if (status != ESP_OK || !has_vetoed)
        return status;
    /* Only the order goes: what is cut (is_removed) was settled, and folded into its readers, before. */
    for (int32_t slot = 0; slot < esp_coupling_slot_limit(self->coupling); slot++)
        self->rank[slot] = -1;
    surgery_lay_out(self);
    return surgery_edit_nodes(self, &has_vetoed, err);
}

static esp_status check(surgery *self, const esp_graph *cut, esp_error *err)
{
    esp_surgery_report *report = &self->report;
    esp_error at_two = {0};
    esp_status status = esp_compare_outputs(self->compute, self->graph, cut, self->input_shapes,
                                            self->input_shape_count, 2, self->options->seed,
                                            &report->largest_absolute, &report->largest_relative, &at_two);
    if (status == ESP_SHAPE || status == ESP_UNSUPPORTED) /* a model that was exported for one image */
        status = esp_compare_outputs(self->compute, self->graph, cut, self->input_shapes,
                                     self->input_shape_count, 1, self->options->seed,
                                     &report->largest_absolute, &report->largest_relative, err);
    else if (status != ESP_OK && err != NULL)
        *err = at_two;
    if (status != ESP_OK)
        return status;
    if (report->largest_relative <= self->options->tolerance)
        return ESP_OK;
    return esp_fail(
        err, ESP_MISMATCH,
        "surgery: cut and masked model differ by %.3g relative to the largest output, expected at most %.3g",
        report->largest_relative, self->options->tolerance);
}

/* The mask of a layer of the cut model: what is left of the preview's for a dense layer, and nothing at all
 * for a group that reads nothing. Zeros that the weights have by themselves are not masked. */
static esp_status mask_of_cut_layer(const surgery *self, const esp_graph *cut, const esp_layer *layer,
                                    esp_mask *out, esp_error *err)
{
    int index = esp_layers_find(self->layers, layer->weight_name);
    if (index < 0)
        return esp_mask_of_layer(cut, layer, out, err);
    esp_status status = esp_mask_new(layer->filters, layer->channels, out, err);
    if (status != ESP_OK || !self->layer_cuts[index].has_masks)
        return status;
    const esp_layer *old = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, old->node);
    const channel_list *filters = surgery_kept(self, node->outputs[0]);
    channel_list columns = surgery_columns(self, index);
    for (int64_t f = 0; f < layer->filters; f++) {
        for (int64_t c = 0; c < layer->channels; c++) {
            if (!esp_mask_get(&self->preview->items[index].mask, surgery_old_index(filters, f),
                              surgery_old_index(&columns, c)))
                esp_mask_clear(out, f, c);
        }
    }
    return ESP_OK;
}

/* Counts of the cut model: without the zeros that remain as masks, and with them. */
static esp_status count_cut(surgery *self, const esp_graph *cut, esp_surgery_report *report, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    esp_mask *masks = NULL;
    esp_status status = esp_infer(cut, 1, self->input_shapes, self->input_shape_count, &inferred, err);
    if (status == ESP_OK)
        status = esp_layers_list(cut, inferred, &layers, err);
    if (status != ESP_OK)
        goto done;
    masks = esp_alloc_zero((size_t)layers.count, sizeof *masks);
    if (masks == NULL)
        status = esp_fail_memory(err, "counts", (size_t)layers.count * sizeof *masks);
    for (int i = 0; status == ESP_OK && i < layers.count; i++)
        status = mask_of_cut_layer(self, cut, &layers.items[i], &masks[i], err);
    if (status == ESP_OK)
        status = esp_model_count_with(cut, inferred, &layers, masks, &report->counts, err);
    if (status == ESP_OK)
        status = esp_graph_count(cut, inferred, &report->stored, err);
done:
    for (int i = 0; masks != NULL && i < layers.count; i++)
        esp_mask_free(&masks[i]);
    esp_free(masks);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return status;
}

static esp_status fill_report(surgery *self, const esp_graph *cut, esp_error *err)
{
    esp_surgery_report *report = &self->report;
    for (int32_t slot = 1; slot < esp_coupling_slot_limit(self->coupling); slot++)
        report->slots_removed += self->is_removed[slot];
    for (int i = 0; i < self->layers->count; i++) {
        const esp_node *node = esp_graph_node(self->graph, self->layers->items[i].node);
        report->layers_narrowed +=
            surgery_is_narrowed(self, node->inputs[0]) || surgery_is_narrowed(self, node->outputs[0]);
        report->layers_grouped += self->layer_cuts[i].group_count > 0;
        report->layers_with_masks += self->layer_cuts[i].has_masks;
    }
    return count_cut(self, cut, report, err);
}

esp_status esp_surgery(const esp_compute *compute, const esp_preview *preview,
                       const esp_surgery_options *options, esp_graph **out, esp_surgery_report *report,
                       esp_error *err)
{
    surgery self;
    esp_graph *cut = NULL;
    *out = NULL;
    esp_status status = surgery_open(&self, compute, preview, options, err);
    if (status == ESP_OK)
        status = decide(&self, err);
    if (status == ESP_OK)
        status = group(&self, err);
    if (status == ESP_OK)
        status = surgery_rewrite(&self, &cut, err);
    if (status == ESP_OK)
        status = check(&self, cut, err);
    if (status == ESP_OK)
        status = fill_report(&self, cut, err);
    if (status == ESP_OK) {
        *out = cut;
        if (report != NULL)
            *report = self.report;
    } else {
        esp_graph_unref(cut);
    }
    surgery_close(&self);
    return status;
}
