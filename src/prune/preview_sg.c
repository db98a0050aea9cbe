/* Self-grouping resolved against a model: every layer that takes part is clustered (cache), then stepped to
 * its ratio. In sound mode channels that nobody reads any more take their writers' filters with them
 * (slots.c), unless the plan says otherwise. */
#include "prune/preview_internal.h"

#include <string.h>

#include "base/memory.h"
#include "prune/selfgroup.h"
#include "prune/slots.h"

static esp_kmeans_options options_of(const esp_preview *preview, int groups)
{
    esp_kmeans_options options = esp_kmeans_defaults();

    options.k = groups;
    options.restarts = preview->plan.restarts;
    options.max_iterations = preview->plan.max_iterations;
    options.init = preview->plan.init;
    options.seed = preview->plan.seed;
    return options;
}

/* What the plan asks of each layer, and which layers take part. */
static void ask(esp_preview *preview, bool *takes_part, esp_kmeans_options *options)
{
    const esp_plan *plan = &preview->plan;

    for (int l = 0; l < preview->layers.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        esp_preview_layer *item = &preview->items[l];
        esp_layer_settings settings =
            preview_settings(preview, l, layer->is_conv ? plan->conv_ratio : plan->fc_ratio);
        takes_part[l] = preview_may_take_part(preview, l);
        if (takes_part[l] && (item->role == ESP_ROLE_STEM || item->role == ESP_ROLE_SHORTCUT)) {
            preview_note(item, "%s: left whole, as published", esp_role_word(item->role));
            takes_part[l] = false;
        }
        item->takes_part = takes_part[l];
        item->asked = takes_part[l] ? settings.ratio : 0;
        options[l] = options_of(preview, settings.groups);
    }
}

static esp_status copy_grouping(const esp_kmeans_result *result, const esp_layer *layer, esp_grouping *out,
                                esp_error *err)
{
    size_t filters = (size_t)layer->filters, entries = (size_t)(result->k * layer->channels);

    out->labels = esp_alloc(filters, sizeof *out->labels);
    out->centroids = esp_alloc(entries, sizeof *out->centroids);
    if (!out->labels || !out->centroids)
        return esp_fail_memory(err, layer->name, entries * sizeof *out->centroids);
    memcpy(out->labels, result->labels, filters * sizeof *out->labels);
    memcpy(out->centroids, result->centroids, entries * sizeof *out->centroids);
    out->k = result->k;
    out->inertia = result->inertia;
    return ESP_OK;
}

/* Whether all connections a layer has weigh the same: then a threshold has nothing to tell them apart by. */
static bool is_constant(const esp_grouping *grouping, int64_t channels)
{
    for (int64_t i = 1; i < grouping->k * channels; i++)
        if (grouping->centroids[i] < grouping->centroids[0] ||
            grouping->centroids[i] > grouping->centroids[0])
            return false;
    return true;
}

/* One layer to its ratio. Where every entry ties at the threshold nothing would stay: published rules empty
 * the layer, sound mode leaves it as it was. */
static esp_status step_layer(esp_preview *preview, int l, esp_error *err)
{
    esp_preview_layer *item = &preview->items[l];
    esp_grouping *grouping = &item->grouping;
    esp_mask before;
    esp_status status = esp_mask_clone(&item->mask, &before, err);

    if (status != ESP_OK)
        return status;
    status = esp_selfgroup_step(grouping->labels, grouping->centroids, grouping->k, item->asked,
                                preview->plan.mode, &item->mask, &grouping->threshold, err);
    if (status == ESP_OK && !esp_mask_kept(&item->mask) && esp_mask_kept(&before)) {
        if (preview->plan.mode == ESP_MODE_SOUND) {
            esp_mask swap = item->mask;
            item->mask = before;
            before = swap;
            preview_note(item, "all groups tie at the threshold: left as it was");
        } else {
            preview_note(item, is_constant(grouping, item->mask.channels)
                                   ? "all entries are equal: the threshold takes all of them"
                                   : "all groups tie at the threshold: nothing stays");
        }
    }
    esp_mask_free(&before);
    return status;
}

/* ---- all layers: a task for each ---- */

typedef struct step_run {
    const esp_grouping_cache *cache;
    esp_preview *preview;
    const bool *takes_part;
    const esp_kmeans_options *options;
    esp_status *statuses;
    esp_error *errors;
} step_run;

static void step_task(void *context, int64_t task, int slot)
{
    const step_run *run = context;
    int l = (int)task;

    (void)slot;
    if (!run->takes_part[l])
        return;
    run->statuses[l] =
        copy_grouping(preview_cache_grouping(run->cache, l, &run->options[l]), &run->preview->layers.items[l],
                      &run->preview->items[l].grouping, &run->errors[l]);
    if (run->statuses[l] == ESP_OK)
        run->statuses[l] = step_layer(run->preview, l, &run->errors[l]);
}

static esp_status step_layers(const esp_compute *compute, step_run *run, esp_error *err)
{
    size_t count = (size_t)run->preview->layers.count;
    esp_status status = ESP_OK;

    run->statuses = esp_alloc_zero(count, sizeof *run->statuses);
    run->errors = esp_alloc_zero(count, sizeof *run->errors);
    if (!run->statuses || !run->errors)
        status = esp_fail_memory(err, "layers", count * sizeof *run->errors);
    else if (esp_compute_run(compute, (int64_t)count, step_task, run) != ESP_OK)
        status = esp_fail(err, ESP_CANCELLED, "preview: cancelled");
    for (size_t l = 0; status == ESP_OK && l < count; l++) {
        status = run->statuses[l];
        if (status != ESP_OK && err)
            *err = run->errors[l];
    }
    esp_free(run->statuses);
    esp_free(run->errors);
    return status;
}

static esp_status cascade(esp_grouping_cache *cache, esp_preview *preview, esp_error *err)
{
    const esp_layers *layers = &preview->layers;
    size_t count = (size_t)layers->count;
    const esp_coupling *coupling;
    esp_mask *masks = esp_alloc(count, sizeof *masks);
    int64_t *kept = esp_alloc(count, sizeof *kept);
    bool *is_frozen = esp_alloc(count, sizeof *is_frozen);
    esp_status status = preview_cache_coupling(cache, &coupling, err);

    if (status == ESP_OK && (!masks || !kept || !is_frozen))
        status = esp_fail_memory(err, "masks", count * sizeof *masks);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        masks[l] = preview->items[l].mask; /* the same words */
        kept[l] = esp_mask_kept(&masks[l]);
        /* Stem and shortcuts choose nothing, but what nobody reads of them may go. */
        is_frozen[l] = preview_settings(preview, l, 0).is_ignored || !preview->subject->is_stored[l] ||
                       preview->subject->sharer[l] >= 0;
    }
    if (status == ESP_OK)
        status = esp_slots_cascade(coupling, layers, is_frozen, masks, err);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        int64_t lost = kept[l] - esp_mask_kept(&masks[l]);
        preview->items[l].cascaded = lost;
        if (lost)
            preview_note(&preview->items[l], "%lld connections into channels that nobody reads were cut too",
                         (long long)lost);
    }
    esp_free(masks);
    esp_free(kept);
    esp_free(is_frozen);
    return status;
}

/* Executed groups of every layer that was clustered. */
static esp_status count_groups(esp_preview *preview, esp_error *err)
{
    for (int l = 0; l < preview->layers.count; l++) {
        esp_preview_layer *item = &preview->items[l];
        int32_t *groups;
        if (!item->grouping.labels)
            continue;
        groups = esp_alloc((size_t)item->mask.filters, sizeof *groups);
        if (!groups)
            return esp_fail_memory(err, "groups", (size_t)item->mask.filters * sizeof *groups);
        item->grouping.executed_groups = esp_mask_executed_groups(&item->mask, groups);
        esp_free(groups);
    }
    return ESP_OK;
}

esp_status preview_by_sg(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                         esp_error *err)
{
    size_t count = (size_t)preview->layers.count;
    bool *takes_part = esp_alloc_zero(count, sizeof *takes_part);
    esp_kmeans_options *options = esp_alloc_zero(count, sizeof *options);
    const esp_layer_l1 *norms;
    esp_status status;

    if (!takes_part || !options) {
        status = esp_fail_memory(err, "layers", count * sizeof *options);
        goto done;
    }
    ask(preview, takes_part, options);
    /* layers that are left whole are not clustered, but one that is not finite spoils the network as well */
    status = preview_cache_norms(cache, compute, &norms, err);
    if (status == ESP_OK)
        status = preview_cache_cluster(cache, compute, takes_part, options, err);
    if (status == ESP_OK) {
        step_run run = {.cache = cache, .preview = preview, .takes_part = takes_part, .options = options};
        status = step_layers(compute, &run, err);
    }
    if (status == ESP_OK && preview->plan.mode == ESP_MODE_SOUND && preview->plan.cascades)
        status = cascade(cache, preview, err);
    if (status == ESP_OK)
        status = count_groups(preview, err);

done:
    esp_free(takes_part);
    esp_free(options);
    return status;
}
