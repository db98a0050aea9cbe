/* A preview is made in four steps: what the model is (subject, from the cache), what the plan asks of each
 * layer, masks by the method (preview_wsp.c, preview_sg.c), and what that leaves (counts). Nothing here looks
 * at weights once the cache is warm, so a key press that moves a ratio costs selection and counting only. */
#include "prune/preview_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "prune/counts.h"
#include "prune/slots.h"

void preview_note(esp_preview_layer *item, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(item->note, sizeof item->note, format, arguments);
    va_end(arguments);
}

esp_layer_settings preview_settings(const esp_preview *preview, int layer, double otherwise)
{
    const esp_layer *item = &preview->layers.items[layer];

    return esp_plan_resolve(&preview->plan, item->name, item->weight_name, otherwise);
}

/* The last rule that names the layer. */
static const char *ignoring_rule(const esp_preview *preview, const esp_layer *layer)
{
    const char *pattern = "";

    for (int i = 0; i < preview->plan.rule_count; i++)
        if (esp_layer_matches(layer, preview->plan.rules[i].pattern))
            pattern = preview->plan.rules[i].pattern;
    return pattern;
}

bool preview_is_closed(const esp_preview *preview, int layer, esp_reason *reason, char *why, size_t size)
{
    const esp_layer *it = &preview->layers.items[layer];
    int sharer = preview->subject->sharer[layer];

    *reason = ESP_REASON_UNCUTTABLE;
    if (preview_settings(preview, layer, 0).is_ignored) {
        const char *pattern = ignoring_rule(preview, it);
        bool is_own = strcmp(pattern, it->name) == 0 || strcmp(pattern, it->weight_name) == 0;
        *reason = ESP_REASON_IGNORED;
        snprintf(why, size, is_own ? "ignored by the plan" : "ignored by the plan ('%.60s')", pattern);
    } else if (it->role == ESP_ROLE_GROUPED && !esp_plan_ranks_slots(&preview->plan))
        snprintf(why, size, "grouped convolution: its filters have no channels to choose from");
    else if (!preview->subject->is_stored[layer])
        snprintf(why, size, "its weight is not stored in the model as float32");
    else if (esp_layer_weight_elements(it) == 0)
        snprintf(why, size, "its weight is empty");
    else if (sharer >= 0 && !esp_plan_ranks_slots(&preview->plan))
        snprintf(why, size, "shares its weight with '%.60s'", preview->layers.items[sharer].name);
    else
        return false;
    return true;
}

bool preview_may_take_part(esp_preview *preview, int layer)
{
    esp_preview_layer *item = &preview->items[layer];
    esp_reason reason;

    return !preview_is_closed(preview, layer, &reason, item->note, sizeof item->note);
}

/* ---- making ---- */

static esp_status check_rule(const esp_plan_rule *rule, const esp_layers *layers, esp_error *err)
{
    for (int l = 0; l < layers->count; l++)
        if (esp_layer_matches(&layers->items[l], rule->pattern))
            return ESP_OK;
    return esp_layers_fail_unknown(layers, rule->pattern, err);
}

static esp_status check_rules(const esp_plan *plan, const esp_layers *layers, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++)
        status = check_rule(&plan->rules[i], layers, err);
    if (status == ESP_INVALID)
        esp_error_prefix(err, "plan");
    return status;
}

static esp_status start(preview_subject *subject, const esp_plan *plan, esp_preview **out, esp_error *err)
{
    size_t count = (size_t)subject->layers.count;
    esp_preview *preview = esp_alloc_zero(1, sizeof *preview);
    esp_status status;

    *out = preview;
    if (!preview)
        return esp_fail_memory(err, "a preview", sizeof *preview);
    preview->subject = preview_subject_ref(subject);
    preview->graph = subject->graph;
    preview->inferred = subject->inferred;
    preview->layers = subject->layers;
    preview->items = esp_alloc_zero(count, sizeof *preview->items);
    if (!preview->items)
        return esp_fail_memory(err, "a preview", count * sizeof *preview->items);
    status = esp_plan_clone(plan, &preview->plan, err);
    for (size_t l = 0; status == ESP_OK && l < count; l++) {
        preview->items[l].role = subject->layers.items[l].role;
        status = esp_mask_clone(&subject->masks[l], &preview->items[l].mask, err);
    }
    return status;
}

/* Shallow copies of the layers' masks, for functions that take them as an array. */
static void list_masks(const esp_preview *preview, esp_mask *masks)
{
    for (int l = 0; l < preview->layers.count; l++)
        masks[l] = preview->items[l].mask;
}

static void measure_layer(esp_preview *preview, const surgery_forecast_layer *forecast, int l)
{
    const esp_layer *layer = &preview->layers.items[l];
    esp_preview_layer *item = &preview->items[l];
    int64_t per_weight = esp_layer_macs_per_weight(layer);
    int64_t slices = layer->filters * layer->channels;

    item->params_before = esp_mask_kept(&preview->subject->masks[l]) * layer->kernel_positions;
    item->params_after = forecast->live;
    item->params_stored = forecast->stored;
    item->macs_before = item->params_before * per_weight;
    item->macs_after = item->params_after * per_weight;
    for (int64_t f = 0; f < layer->filters; f++)
        item->filters_kept += esp_mask_filter_is_live(&item->mask, f);
    /* a layer without weights has lost nothing */
    item->pruned = slices ? 1 - (double)esp_mask_kept(&item->mask) / (double)slices : 0;
    item->got = item->pruned;
    if (preview->plan.method != ESP_METHOD_SG)
        item->got = slices ? (double)(layer->filters - item->filters_kept) / (double)layer->filters : 0;
    item->channels_kept = esp_mask_channels_read(&item->mask);
}

/* Layers that follow lose the channels that nobody writes and nobody reads. */
static esp_status follow(const esp_coupling *coupling, const esp_layers *layers, esp_mask *masks,
                         esp_error *err)
{
    size_t limit = (size_t)esp_coupling_slot_limit(coupling);
    bool *is_removable = esp_alloc_zero(limit, sizeof *is_removable);
    esp_status status = is_removable ? esp_slots_removable(coupling, layers, masks, is_removable, err)
                                     : esp_fail_memory(err, "coupled sets", limit);

    if (status == ESP_OK)
        esp_slots_follow(coupling, layers, is_removable, masks);
    esp_free(is_removable);
    return status;
}

/* What surgery will make of the masks. */
static esp_status forecast_cut(const esp_compute *compute, esp_preview *preview, const esp_mask *masks,
                               esp_error *err)
{
    surgery_forecast forecast;
    esp_status status = surgery_forecast_new(compute, preview->subject, masks,
                                             preview->plan.method == ESP_METHOD_SG, &forecast, err);

    if (status != ESP_OK)
        return status;
    preview->after = forecast.live;
    preview->stored = forecast.stored;
    preview->is_removed = forecast.is_removed;
    forecast.is_removed = NULL;
    for (int l = 0; l < preview->layers.count; l++)
        measure_layer(preview, &forecast.layers[l], l);
    surgery_forecast_free(&forecast);
    return ESP_OK;
}

static esp_status measure(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                          esp_error *err)
{
    const esp_layers *layers = &preview->layers;
    const esp_coupling *coupling;
    esp_mask *masks = esp_alloc((size_t)layers->count, sizeof *masks);
    esp_status status = masks ? preview_cache_coupling(cache, &coupling, err)
                              : esp_fail_memory(err, "counts", (size_t)layers->count * sizeof *masks);

    if (status == ESP_OK)
        status = preview_cache_before(cache, compute, &preview->before, err);
    if (status == ESP_OK) {
        list_masks(preview, masks);
        status = follow(coupling, layers, masks, err);
    }
    if (status == ESP_OK)
        status = forecast_cut(compute, preview, masks, err);
    if (status == ESP_OK)
        esp_paper_counts(layers, masks, &preview->after);
    esp_free(masks);
    return status;
}

typedef esp_status (*method_row)(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                                 esp_error *err);
static const method_row method_rows[] = {
    [ESP_METHOD_WSP] = preview_by_wsp,
    [ESP_METHOD_SG] = preview_by_sg,
    [ESP_METHOD_FILTER] = preview_by_filter,
};

esp_status esp_preview_new(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                           const esp_input_shape *input_shapes, int input_shape_count,
                           esp_grouping_cache *cache, esp_preview **out, esp_error *err)
{
    esp_grouping_cache *own = NULL;
    esp_preview *preview = NULL;
    esp_status status;

    *out = NULL;
    status = esp_plan_check(plan, err);
    if (status == ESP_OK && !cache)
        status = esp_grouping_cache_new(&own, err);
    if (status != ESP_OK)
        return status;
    cache = cache ? cache : own;
    status = preview_cache_use(cache, graph, input_shapes, input_shape_count, err);
    if (status == ESP_OK)
        status = check_rules(plan, &cache->subject->layers, err);
    if (status == ESP_OK)
        status = start(cache->subject, plan, &preview, err);
    if (status == ESP_OK)
        status = method_rows[plan->method](compute, cache, preview, err);
    if (status == ESP_OK)
        status = measure(compute, cache, preview, err);

    esp_grouping_cache_free(own);
    if (status == ESP_OK)
        *out = preview;
    else
        esp_preview_free(preview);
    return status;
}

void esp_preview_free(esp_preview *preview)
{
    if (!preview)
        return;
    for (int l = 0; preview->items && l < preview->layers.count; l++) {
        esp_mask_free(&preview->items[l].mask);
        esp_free(preview->items[l].grouping.labels);
        esp_free(preview->items[l].grouping.centroids);
    }
    esp_free(preview->items);
    for (int i = 0; i < preview->filter_set_count; i++) {
        esp_free(preview->filter_sets[i].scores);
        esp_slot_choice_free(&preview->filter_sets[i].choice);
    }
    for (int l = 0; preview->filter_scores && l < preview->layers.count; l++)
        esp_free(preview->filter_scores[l]);
    esp_free(preview->is_removed);
    esp_free(preview->filter_sets);
    esp_free(preview->filter_scores);
    esp_wsp_free(&preview->wsp);
    esp_plan_free(&preview->plan);
    preview_subject_unref(preview->subject);
    esp_free(preview);
}

esp_status esp_preview_importance(const esp_preview *preview, int layer, float **out, esp_error *err)
{
    return preview_importance(preview->subject, layer, out, err);
}

/* ---- the masked model ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The metadata: all layers whose mask is not whole, sorted by name. */
static esp_status note_masked(const esp_preview *preview, char **out_names, char **out_bits, esp_error *err)
{
    size_t layers = (size_t)preview->layers.count, count = 0;
    const char **names = esp_alloc(layers, sizeof *names);
    esp_mask_notes *notes = NULL;
    esp_status status = names ? esp_mask_notes_new(&notes, err)
                              : esp_fail_memory(err, "the list of masked layers", layers * sizeof *names);

    for (size_t l = 0; status == ESP_OK && l < layers; l++) {
        const esp_mask *mask = &preview->items[l].mask;
        if (esp_mask_kept(mask) < mask->filters * mask->channels)
            names[count++] = preview->layers.items[l].weight_name;
    }
    if (status == ESP_OK && count)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; status == ESP_OK && i < count; i++)
        status = esp_mask_notes_add(notes, names[i],
                                    &preview->items[esp_layers_find(&preview->layers, names[i])].mask, err);
    if (status == ESP_OK)
        status = esp_mask_notes_text(notes, false, out_names, out_bits, err);
    esp_mask_notes_free(notes);
    esp_free(names);
    return status;
}

static bool is_listed(const int *values, int count, int value)
{
    for (int i = 0; i < count; i++)
        if (values[i] == value)
            return true;
    return false;
}

/* Replacements for the weights that lose connections; returns through `count` how many there are. Layers that
 * share a weight have equal masks. */
static esp_status mask_weights(const esp_preview *preview, int *values, esp_tensor **tensors, int *out_count,
                               esp_error *err)
{
    esp_status status = ESP_OK;

    *out_count = 0;
    for (int l = 0; status == ESP_OK && l < preview->layers.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        const esp_mask *mask = &preview->items[l].mask;
        if (esp_mask_equal(mask, &preview->subject->masks[l]) || is_listed(values, *out_count, layer->weight))
            continue;
        status = esp_mask_apply(mask, layer, esp_graph_value(preview->graph, layer->weight)->constant,
                                &tensors[*out_count], err);
        if (status == ESP_OK)
            values[(*out_count)++] = layer->weight;
    }
    return status;
}

esp_status esp_preview_masked_graph(const esp_preview *preview, esp_graph **out, esp_error *err)
{
    size_t layers = (size_t)preview->layers.count;
    int *values = esp_alloc(layers, sizeof *values), replaced = 0;
    esp_tensor **tensors = esp_alloc_zero(layers, sizeof *tensors);
    esp_graph *masked = NULL, *named = NULL;
    char *names = NULL, *bits = NULL;
    esp_status status = ESP_OK;

    *out = NULL;
    if (!values || !tensors)
        status = esp_fail_memory(err, "masked weights", layers * sizeof *tensors);
    if (status == ESP_OK)
        status = mask_weights(preview, values, tensors, &replaced, err);
    if (status == ESP_OK && !replaced) {
        *out = esp_graph_ref(preview->graph);
        goto done;
    }
    if (status == ESP_OK)
        status = note_masked(preview, &names, &bits, err);
    if (status == ESP_OK)
        status = esp_graph_with_constants(preview->graph, replaced, values, tensors, &masked, err);
    if (status == ESP_OK)
        status = esp_graph_with_metadata(masked, ESP_MASKS_KEY, names, &named, err);
    if (status == ESP_OK)
        status = esp_graph_with_metadata(named, ESP_MASK_BITS_KEY, bits, out, err);

done:
    for (int i = 0; i < replaced; i++)
        esp_tensor_unref(tensors[i]);
    esp_free(tensors);
    esp_free(values);
    esp_free(names);
    esp_free(bits);
    esp_graph_unref(named);
    esp_graph_unref(masked);
    return status;
}
