/* WSP resolved against a model: pairs as published in faithful mode, coupled sets in sound mode. Sets of a
 * kind are ranked each on its own, or all together in scope `global`; those with a ratio of their own always
 * are on their own. A layer the plan ignores stays as it is, so a pair or set that would touch it is left
 * out. */
#include "prune/preview_internal.h"

#include <stdio.h>

#include "base/memory.h"

static double ratio_of_pair(const esp_preview *preview, const esp_wsp_pair *pair)
{
    const esp_layer *items = preview->layers.items;
    int kind = preview_kind(items[pair->writer].is_conv, items[pair->reader].is_conv);

    return preview_settings(preview, pair->writer, preview_kind_ratio(&preview->plan, kind)).ratio;
}

/* The layer that keeps a pair as published from being cut, or -1. */
static int obstacle_of_pair(const esp_wsp_pair *pair, const bool *is_open)
{
    if (!is_open[pair->writer])
        return pair->writer;
    return is_open[pair->reader] ? -1 : pair->reader;
}

/* Sets ratios, and leaves out what touches a layer that takes no part. `obstacles` of sets: NULL for pairs as
 * published. */
static esp_status open_pairs(esp_preview *preview, const esp_coupling *coupling, const bool *is_open,
                             const int *obstacles, esp_error *err)
{
    esp_wsp *wsp = &preview->wsp;
    esp_status status = ESP_OK;

    for (int i = wsp->pair_count - 1; status == ESP_OK && i >= 0; i--) {
        esp_wsp_pair *pair = &wsp->pairs[i];
        int obstacle = obstacles ? obstacles[pair->set] : obstacle_of_pair(pair, is_open);
        char why[sizeof wsp->left_out->why];
        if (obstacles)
            pair->ratio = preview_set_ratio(preview, esp_coupling_set(coupling, pair->set), NULL);
        else
            pair->ratio = ratio_of_pair(preview, pair);
        if (obstacle < 0)
            continue;
        snprintf(why, sizeof why, "coupled with '%.50s', which takes no part",
                 preview->layers.items[obstacle].name);
        status = esp_wsp_leave_out(wsp, i, why, err);
    }
    return status;
}

/* ---- selection ---- */

/* Whether a set is ranked with others of its kind, and that kind. */
static bool is_ranked_together(const esp_preview *preview, const esp_coupling *coupling,
                               const esp_wsp_pair *pair, int *kind)
{
    const esp_coupled_set *set = pair->set >= 0 ? esp_coupling_set(coupling, pair->set) : NULL;

    if (!set || !preview_set_ranks_globally(preview, set))
        return false;
    *kind = preview_set_kind(preview, set);
    return true;
}

static esp_status select_together(esp_preview *preview, const esp_coupling *coupling, int kind,
                                  esp_error *err)
{
    esp_wsp *wsp = &preview->wsp;
    esp_wsp_pair **pairs = esp_alloc((size_t)wsp->pair_count, sizeof *pairs);
    int count = 0, own;
    esp_status status;

    if (!pairs)
        return esp_fail_memory(err, "coupled sets", (size_t)wsp->pair_count * sizeof *pairs);
    for (int i = 0; i < wsp->pair_count; i++)
        if (is_ranked_together(preview, coupling, &wsp->pairs[i], &own) && own == kind)
            pairs[count++] = &wsp->pairs[i];
    status = esp_wsp_select_together(pairs, count, preview_kind_ratio(&preview->plan, kind), err);
    if (status == ESP_OK)
        status = esp_wsp_put_back(pairs, count, preview->plan.floor, preview->plan.round_to, err);
    esp_free(pairs);
    return status;
}

static esp_status select_weak(esp_preview *preview, const esp_coupling *coupling, esp_error *err)
{
    esp_wsp *wsp = &preview->wsp;
    esp_status status = ESP_OK;
    int kind;

    for (int i = 0; status == ESP_OK && i < wsp->pair_count; i++) {
        esp_wsp_pair *pair = &wsp->pairs[i];
        if (coupling)
            esp_slot_choice_carry(&pair->choice, coupling, esp_coupling_set(coupling, pair->set),
                                  preview->subject->masks);
        if (is_ranked_together(preview, coupling, pair, &kind))
            continue;
        status = esp_wsp_select(pair, err);
        if (status == ESP_OK && coupling)
            status = esp_wsp_put_back(&pair, 1, preview->plan.floor, preview->plan.round_to, err);
    }
    if (preview->plan.scope == ESP_SCOPE_GLOBAL)
        for (kind = 0; status == ESP_OK && kind < PREVIEW_KINDS; kind++)
            status = select_together(preview, coupling, kind, err);
    return status;
}

/* ---- masks and notes ---- */

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
        esp_coupled_set published = {
            .writer_count = 1, .writers = &pair->writer, .reader_count = 1, .readers = &pair->reader};
        const esp_coupled_set *set = coupling ? esp_coupling_set(coupling, pair->set) : &published;
        const esp_slot_choice *choice = &pair->choice;
        preview_takes_part(preview, set, pair->ratio);
        for (int w = 0; w < set->writer_count; w++)
            preview_note(&preview->items[set->writers[w]], "%lld of %lld channels are weak by both norms%s%s",
                         (long long)choice->ranked, (long long)pair->channels,
                         choice->floored ? ", the floor keeps some" : "",
                         choice->rounded ? ", some stay to fill a multiple" : "");
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

static void note_shortcuts(esp_preview *preview, const bool *is_open)
{
    for (int l = 0; l < preview->layers.count; l++)
        if (is_open[l] && preview->layers.items[l].role == ESP_ROLE_SHORTCUT)
            preview_note(&preview->items[l], "shortcut: left out, as published");
}

esp_status preview_by_wsp(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                          esp_error *err)
{
    const preview_subject *subject = preview->subject;
    bool is_sound = preview->plan.mode == ESP_MODE_SOUND, *is_open = NULL;
    int *obstacles = NULL;
    const esp_coupling *coupling = NULL;
    const esp_layer_l1 *norms;
    esp_status status = preview_cache_norms(cache, compute, &norms, err);

    if (status == ESP_OK)
        status = preview_open_layers(preview, &is_open, err);
    if (status == ESP_OK && is_sound)
        status = preview_cache_coupling(cache, &coupling, err);
    if (status == ESP_OK && is_sound)
        status = preview_obstacles(preview, coupling, is_open, &obstacles, err);
    if (status != ESP_OK)
        goto done;
    if (!is_sound)
        note_shortcuts(preview, is_open);
    status = is_sound ? esp_wsp_sets(coupling, &subject->layers, norms, &preview->wsp, err)
                      : esp_wsp_pairs_from(subject->graph, &subject->layers, norms, &preview->wsp, err);
    if (status == ESP_OK)
        status = open_pairs(preview, coupling, is_open, obstacles, err);
    if (status == ESP_OK)
        status = select_weak(preview, coupling, err);
    if (status == ESP_OK)
        status = apply(preview, coupling, err);
    if (status == ESP_OK)
        note_pairs(preview, coupling);
    if (status == ESP_OK && is_sound)
        preview_note_followers(preview, coupling);

done:
    esp_free(is_open);
    esp_free(obstacles);
    return status;
}
