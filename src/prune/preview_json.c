/* The preview as JSON, for `--json` and scripts. Masks are one string of 0/1 per filter. */
#include "prune/ledger.h"
#include "prune/preview_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

static json_t *counts_to_json(const esp_counts *counts)
{
    return json_pack("{s:I, s:I, s:f, s:f}", "params", (json_int_t)counts->params, "macs",
                     (json_int_t)counts->macs, "paper_params", counts->paper_params, "paper_macs",
                     counts->paper_macs);
}

json_t *preview_json_text(const char *text)
{
    json_t *string = json_string(text);
    size_t length = strlen(text);
    char *plain = string ? NULL : esp_alloc(length + 1, 1);

    for (size_t i = 0; plain && i <= length; i++)
        plain[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
    if (plain)
        string = json_string(plain);
    esp_free(plain);
    return string;
}

/* json_object_set_new that remembers failure: a NULL value or no memory. */
static void set(json_t *object, const char *key, json_t *take_value, bool *is_whole)
{
    if (!take_value || json_object_set_new(object, key, take_value) != 0)
        *is_whole = false;
}

static json_t *mask_to_json(const esp_mask *mask, bool *is_whole)
{
    char *text = esp_alloc((size_t)mask->channels + 1, 1);
    json_t *rows = json_array();

    for (int64_t f = 0; text && f < mask->filters; f++)
        if (json_array_append_new(rows, json_string(esp_mask_row_text(mask, f, text))) != 0)
            *is_whole = false;
    if (!text)
        *is_whole = false;
    esp_free(text);
    return rows;
}

static json_t *integers_to_json(const int32_t *items, int64_t count, bool *is_whole)
{
    json_t *list = json_array();

    for (int64_t i = 0; i < count; i++)
        if (json_array_append_new(list, json_integer(items[i])) != 0)
            *is_whole = false;
    return list;
}

static json_t *layer_to_json(const esp_preview *preview, const esp_ledger *ledger, int l, bool with_masks,
                             bool *is_whole)
{
    const esp_layer *layer = &preview->layers.items[l];
    const esp_preview_layer *item = &preview->items[l];
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:b, s:o, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name",
        layer->name, "weight", layer->weight_name, "role", esp_role_word(item->role), "takes_part",
        (int)item->takes_part, "note", preview_json_text(item->note), "asked", ledger->layers[l].asked, "got",
        item->got, "pruned", item->pruned, "params_before", (json_int_t)item->params_before, "params_after",
        (json_int_t)item->params_after, "params_stored", (json_int_t)item->params_stored, "macs_before",
        (json_int_t)item->macs_before, "macs_after", (json_int_t)item->macs_after, "filters",
        (json_int_t)layer->filters, "filters_kept", (json_int_t)item->filters_kept, "channels",
        (json_int_t)layer->channels, "channels_kept", (json_int_t)item->channels_kept);

    if (!object) {
        *is_whole = false;
        return NULL;
    }
    if (item->grouping.labels) {
        const esp_grouping *grouping = &item->grouping;
        set(object, "groups", json_integer((json_int_t)grouping->k), is_whole);
        set(object, "executed_groups", json_integer((json_int_t)grouping->executed_groups), is_whole);
        set(object, "inertia", json_real(grouping->inertia), is_whole);
        set(object, "threshold", json_real(grouping->threshold), is_whole);
        set(object, "labels", integers_to_json(grouping->labels, layer->filters, is_whole), is_whole);
    }
    set(object, "ledger", esp_ledger_layer_to_json(&ledger->layers[l]), is_whole);
    if (with_masks)
        set(object, "mask", mask_to_json(&item->mask, is_whole), is_whole);
    return object;
}

static json_t *pair_to_json(const esp_preview *preview, const esp_wsp_pair *pair, bool *is_whole)
{
    const esp_layer *items = preview->layers.items;
    json_t *object =
        json_pack("{s:s, s:s, s:b, s:I, s:I, s:f, s:f, s:f}", "writer", items[pair->writer].weight_name,
                  "reader", items[pair->reader].weight_name, "is_sound", (int)pair->is_sound, "channels",
                  (json_int_t)pair->channels, "span", (json_int_t)pair->span, "asked", pair->ratio,
                  "filter_threshold", pair->filter_threshold, "channel_threshold", pair->channel_threshold);

    if (!object) {
        *is_whole = false;
        return NULL;
    }
    if (pair->set >= 0)
        set(object, "set", json_integer(pair->set), is_whole);
    set(object, "weak", integers_to_json(pair->weak, pair->weak_count, is_whole), is_whole);
    return object;
}

static json_t *filter_set_to_json(const esp_preview *preview, const esp_filter_set *filter_set)
{
    const esp_coupled_set *set = esp_coupling_set(preview->subject->coupling, filter_set->set);
    const esp_slot_choice *choice = &filter_set->choice;

    return json_pack("{s:i, s:s, s:I, s:f, s:o, s:I, s:I, s:I, s:I}", "set", filter_set->set, "writer",
                     preview->layers.items[set->writers[0]].weight_name, "slots", (json_int_t)choice->count,
                     "asked", filter_set->ratio, "threshold",
                     isfinite(filter_set->threshold) ? json_real(filter_set->threshold) : json_null(),
                     "ranked", (json_int_t)choice->ranked, "kept_by_floor", (json_int_t)choice->floored,
                     "kept_by_multiple", (json_int_t)choice->rounded, "carried", (json_int_t)choice->carried);
}

esp_status esp_preview_to_json(const esp_preview *preview, bool with_masks, json_t **out, esp_error *err)
{
    json_t *object = json_object(), *layers = json_array(), *pairs = json_array(), *plan = NULL;
    json_t *sets = json_array();
    char nothing[ESP_LEDGER_NOTHING_SIZE];
    bool is_whole = true;
    esp_ledger ledger = {0};
    esp_status status = esp_plan_to_json(&preview->plan, &plan, err);

    *out = NULL;
    if (status == ESP_OK)
        status = esp_ledger_new(preview, &ledger, err);
    if (status != ESP_OK)
        goto done;
    for (int l = 0; l < preview->layers.count; l++)
        if (json_array_append_new(layers, layer_to_json(preview, &ledger, l, with_masks, &is_whole)) != 0)
            is_whole = false;
    for (int i = 0; i < preview->wsp.pair_count; i++)
        if (json_array_append_new(pairs, pair_to_json(preview, &preview->wsp.pairs[i], &is_whole)) != 0)
            is_whole = false;
    for (int i = 0; i < preview->filter_set_count; i++)
        if (json_array_append_new(sets, filter_set_to_json(preview, &preview->filter_sets[i])) != 0)
            is_whole = false;
    set(object, "layers", json_incref(layers), &is_whole);
    set(object, "pairs", json_incref(pairs), &is_whole);
    set(object, "sets", json_incref(sets), &is_whole);
    set(object, "before", counts_to_json(&preview->before), &is_whole);
    set(object, "after", counts_to_json(&preview->after), &is_whole);
    set(object, "stored",
        json_pack("{s:I, s:I}", "params", (json_int_t)preview->stored.params, "macs",
                  (json_int_t)preview->stored.macs),
        &is_whole);
    if (esp_ledger_nothing(&ledger, preview, nothing, sizeof nothing))
        set(object, "nothing", preview_json_text(nothing), &is_whole);
    set(object, "plan", json_incref(plan), &is_whole);
    if (!is_whole)
        status = esp_fail(err, ESP_INVALID, "preview: a layer's name is not valid UTF-8");
    else
        *out = json_incref(object);

done:
    esp_ledger_free(&ledger);
    json_decref(layers);
    json_decref(pairs);
    json_decref(sets);
    json_decref(plan);
    json_decref(object);
    return status;
}
