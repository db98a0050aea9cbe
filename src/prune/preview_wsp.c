/* WSP resolved against a model. The ratio of a pair or set is that of its kind (conv, fc, or the border
 * between them), and rules speak of the filters of a layer: of the writers. A layer the plan ignores stays as
 * it is, so a pair or set that would touch it, as writer or reader, is left out. */
#include "prune/preview_internal.h"

#include <stdio.h>

#include "base/memory.h"

/* The ratio for what conv or fully connected layers write and what reads it. */
static double ratio_of_kind(const esp_plan *plan, bool writes_conv, bool reads_conv)
{
    if (!writes_conv)
        return plan->fc_ratio;
    return reads_conv ? plan->conv_ratio : plan->border_ratio;
}

/* A set's readers may be of both kinds: it is a border only where no convolution reads. The smallest ratio
 * that a rule gives one of the writers wins over the kind's. */
static double ratio_of_set(const esp_preview *preview, const esp_coupled_set *set)
{
    bool reads_conv = false, has_rule = false;
    double ratio = 0;

    for (int i = 0; i < set->reader_count; i++)
        reads_conv = reads_conv || preview->layers.items[set->readers[i]].is_conv;
    for (int i = 0; i < set->writer_count; i++) {
        esp_layer_settings settings = preview_settings(preview, set->writers[i], 0);
        if (!settings.has_ratio)
            continue;
        ratio = has_rule && ratio < settings.ratio ? ratio : settings.ratio;
        has_rule = true;
    }
    return has_rule
               ? ratio
               : ratio_of_kind(&preview->plan, preview->layers.items[set->writers[0]].is_conv, reads_conv);
}

static double ratio_of_pair(const esp_preview *preview, const esp_wsp_pair *pair)
{
    const esp_layer *items = preview->layers.items;
    double kind = ratio_of_kind(&preview->plan, items[pair->writer].is_conv, items[pair->reader].is_conv);

    return preview_settings(preview, pair->writer, kind).ratio;
}

/* The first layer that keeps a pair or set from being cut, or -1. Depthwise layers are not among them: they
 * follow. */
static int find_obstacle(const bool *is_open, const int *writers, int writer_count, const int *readers,
                         int reader_count)
{
    for (int i = 0; i < writer_count; i++)
        if (!is_open[writers[i]])
            return writers[i];
    for (int i = 0; i < reader_count; i++)
        if (!is_open[readers[i]])
            return readers[i];
    return -1;
}

/* Sets ratios, and leaves out what touches a layer that takes no part. */
static esp_status open_pairs(esp_preview *preview, const esp_coupling *coupling, const bool *is_open,
                             esp_error *err)
{
    esp_wsp *wsp = &preview->wsp;
    esp_status status = ESP_OK;

    for (int i = wsp->pair_count - 1; status == ESP_OK && i >= 0; i--) {
        esp_wsp_pair *pair = &wsp->pairs[i];
        const esp_coupled_set *set = coupling ? esp_coupling_set(coupling, pair->set) : NULL;
        int obstacle =
            set ? find_obstacle(is_open, set->writers, set->writer_count, set->readers, set->reader_count)
                : find_obstacle(is_open, &pair->writer, 1, &pair->reader, 1);
        char why[sizeof wsp->left_out->why];
        pair->ratio = set ? ratio_of_set(preview, set) : ratio_of_pair(preview, pair);
        if (obstacle < 0)
            continue;
        snprintf(why, sizeof why, "coupled with '%.50s', which takes no part",
                 preview->layers.items[obstacle].name);
        status = esp_wsp_leave_out(wsp, i, why, err);
    }
    return status;
}

static void note_layer_takes_part(esp_preview *preview, int layer, double ratio)
{
    preview->items[layer].takes_part = true;
    if (ratio > preview->items[layer].asked)
        preview->items[layer].asked = ratio;
}

static void note_pairs(esp_preview *preview, const esp_coupling *coupling)
{
    const esp_wsp *wsp = &preview->wsp;

    for (int i = 0; i < wsp->left_out_count; i++) {
        esp_preview_layer *item = &preview->items[wsp->left_out[i].writer];
        if (!item->note[0])
            preview_note(item, "filters stay: %s", wsp->left_out[i].why);
    }
    for (int i = 0; i < wsp->pair_count; i++) {
        const esp_wsp_pair *pair = &wsp->pairs[i];
        const esp_coupled_set *set = coupling ? esp_coupling_set(coupling, pair->set) : NULL;
        const int *writers = set ? set->writers : &pair->writer,
                  *readers = set ? set->readers : &pair->reader;
        for (int w = 0; w < (set ? set->writer_count : 1); w++) {
            note_layer_takes_part(preview, writers[w], pair->ratio);
            preview_note(&preview->items[writers[w]], "%lld of %lld channels are weak by both norms",
                         (long long)pair->weak_count, (long long)pair->channels);
        }
        for (int r = 0; r < (set ? set->reader_count : 1); r++)
            note_layer_takes_part(preview, readers[r], 0);
    }
}

static esp_status apply(esp_preview *preview, const esp_coupling *coupling, esp_error *err)
{
    esp_mask *masks = esp_alloc((size_t)preview->layers.count, sizeof *masks);
    esp_status status = ESP_OK;

    if (!masks)
        return esp_fail_memory(err, "masks", (size_t)preview->layers.count * sizeof *masks);
    for (int l = 0; l < preview->layers.count; l++)
        masks[l] = preview->items[l].mask; /* the same words */
    if (coupling)
        status = esp_wsp_apply_sets(&preview->wsp, coupling, &preview->layers, masks, err);
    else
        esp_wsp_apply(&preview->wsp, masks);
    esp_free(masks);
    return status;
}

esp_status preview_by_wsp(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                          esp_error *err)
{
    const preview_subject *subject = preview->subject;
    bool is_sound = preview->plan.mode == ESP_MODE_SOUND;
    const esp_coupling *coupling = NULL;
    const esp_layer_l1 *norms;
    bool *is_open = esp_alloc((size_t)subject->layers.count, sizeof *is_open);
    esp_status status = is_open ? preview_cache_norms(cache, compute, &norms, err)
                                : esp_fail_memory(err, "layers", (size_t)subject->layers.count);

    if (status == ESP_OK && is_sound)
        status = preview_cache_coupling(cache, &coupling, err);
    if (status != ESP_OK)
        goto done;
    for (int l = 0; l < subject->layers.count; l++) {
        is_open[l] = preview_may_take_part(preview, l);
        if (!is_sound && is_open[l] && subject->layers.items[l].role == ESP_ROLE_SHORTCUT)
            preview_note(&preview->items[l], "shortcut: left out, as published");
    }
    status = is_sound ? esp_wsp_sets(coupling, &subject->layers, norms, &preview->wsp, err)
                      : esp_wsp_pairs_from(subject->graph, &subject->layers, norms, &preview->wsp, err);
    if (status == ESP_OK)
        status = open_pairs(preview, coupling, is_open, err);
    for (int i = 0; status == ESP_OK && i < preview->wsp.pair_count; i++)
        status = esp_wsp_select(&preview->wsp.pairs[i], err);
    if (status == ESP_OK)
        status = apply(preview, coupling, err);
    if (status == ESP_OK)
        note_pairs(preview, coupling);

done:
    esp_free(is_open);
    return status;
}
