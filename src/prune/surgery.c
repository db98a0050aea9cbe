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

/* Counts of the cut model: with the zeros that remain as masks, and without them. */
static esp_status count_cut(surgery *self, const esp_graph *cut, esp_surgery_report *report, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_status status = esp_infer(cut, 1, self->input_shapes, self->input_shape_count, &inferred, err);
    if (status == ESP_OK)
        status = esp_model_count(cut, inferred, &report->counts, err);
    if (status == ESP_OK)
        status = esp_graph_count(cut, inferred, &report->stored, err);
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

/* The model whose numbers are written. */
typedef struct masked_model {
    esp_graph *graph;
    esp_inferred *inferred; /* not the subject's: masks change the constants that masked weights go into */
    esp_mask *masks;        /* the preview's words */
} masked_model;

static esp_status make_masked(const esp_preview *preview, masked_model *out, esp_error *err)
{
    size_t layers = (size_t)preview->layers.count;
    *out = (masked_model){.masks = esp_alloc(layers + 1, sizeof *out->masks)};
    if (out->masks == NULL)
        return esp_fail_memory(err, "surgery", layers * sizeof *out->masks);
    for (size_t i = 0; i < layers; i++)
        out->masks[i] = preview->items[i].mask;
    esp_status status = esp_preview_masked_graph(preview, &out->graph, err);
    if (status == ESP_OK)
        status = esp_infer(out->graph, 1, preview->subject->shapes, preview->subject->shape_count,
                           &out->inferred, err);
    return status;
}

static esp_status operate(surgery *self, esp_graph **out, esp_error *err)
{
    esp_graph *cut = NULL;
    esp_status status = surgery_decide(self, err);
    if (status == ESP_OK)
        status = surgery_order(self, err);
    if (status == ESP_OK)
        status = surgery_fill_constants(self, err);
    if (status == ESP_OK)
        status = surgery_rewrite(self, &cut, err);
    if (status == ESP_OK)
        status = check(self, cut, err);
    if (status == ESP_OK)
        status = fill_report(self, cut, err);
    if (status == ESP_OK)
        *out = cut;
    else
        esp_graph_unref(cut);
    return status;
}

esp_status esp_surgery(const esp_compute *compute, const esp_preview *preview,
                       const esp_surgery_options *options, esp_graph **out, esp_surgery_report *report,
                       esp_error *err)
{
    surgery self = {0};
    masked_model masked;
    bool wants_groups =
        preview->plan.method == ESP_METHOD_SG && options->group_form == ESP_GROUP_FORM_GROUPED;
    *out = NULL;
    esp_status status = make_masked(preview, &masked, err);
    if (status == ESP_OK)
        status = preview_subject_couple(preview->subject, err);
    if (status == ESP_OK)
        status = surgery_open(&self, compute, preview->subject, masked.masks, wants_groups, masked.graph,
                              masked.inferred, err);
    self.options = options;
    if (status == ESP_OK)
        status = operate(&self, out, err);
    if (status == ESP_OK && report != NULL)
        *report = self.report;
    surgery_close(&self);
    esp_inferred_free(masked.inferred);
    esp_graph_unref(masked.graph);
    esp_free(masked.masks);
    return status;
}
