/* Differences are found in the JSON form of plans: it has every field that counts, so a field that plans
 * learn is compared without a line here. Rules are known by their pattern; where a pattern stands twice, by
 * its turn too. */
#include "prune/plan_diff.h"
#include "prune/plan_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "prune/mask.h"
#include "prune/preview.h"

/* ---- the list ---- */

void esp_plan_changes_free(esp_plan_changes *changes)
{
    for (int i = 0; i < changes->count; i++) {
        esp_free(changes->items[i].where);
        esp_free(changes->items[i].a);
        esp_free(changes->items[i].b);
    }
    esp_free(changes->items);
    *changes = (esp_plan_changes){0};
}

/* A JSON value as people write it: texts without quotes. NULL when memory is out; "" for NULL. */
static char *value_text(const json_t *value)
{
    char *text, *end;

    if (json_is_string(value))
        return esp_strdup(json_string_value(value));
    text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    end = esp_strdup(text);
    free(text);
    return end;
}

static esp_status add_change(esp_plan_changes *changes, const char *where, const json_t *a, const json_t *b,
                             bool is_rule, esp_error *err)
{
    size_t count = (size_t)changes->count;
    esp_plan_change *items = changes->items, *item;

    if (plan_room(count))
        items = esp_realloc(changes->items, count, plan_room(count), sizeof *items);
    if (!items)
        return esp_fail_memory(err, "differences of plans", (count + 1) * sizeof *items);
    changes->items = items;
    item = &items[count];
    *item = (esp_plan_change){.where = esp_strdup(where),
                              .a = a ? value_text(a) : NULL,
                              .b = b ? value_text(b) : NULL,
                              .is_rule = is_rule};
    changes->count++;
    return item->where && (!a || item->a) && (!b || item->b)
               ? ESP_OK
               : esp_fail_memory(err, "differences of plans", 0);
}

/* ---- fields ---- */

static esp_status diff_objects(const json_t *a, const json_t *b, const char *prefix, bool is_rule,
                               esp_plan_changes *out, esp_error *err);

static esp_status diff_field(const char *key, const json_t *a, const json_t *b, const char *prefix,
                             bool is_rule, esp_plan_changes *out, esp_error *err)
{
    char where[512];

    snprintf(where, sizeof where, "%s%s", prefix, key);
    if ((a && b && json_equal(a, b)) || strcmp(where, "rules") == 0)
        return ESP_OK;
    if (json_is_object(a) || json_is_object(b)) {
        char deeper[520];
        snprintf(deeper, sizeof deeper, "%s.", where);
        return diff_objects(a, b, deeper, is_rule, out, err);
    }
    return add_change(out, where, a, b, is_rule, err);
}

/* All keys of both, those of a first. Either may be NULL. */
static esp_status diff_objects(const json_t *a, const json_t *b, const char *prefix, bool is_rule,
                               esp_plan_changes *out, esp_error *err)
{
    const char *key;
    json_t *value;
    esp_status status = ESP_OK;

    json_object_foreach((json_t *)(uintptr_t)a, key, value)
    {
        if (status == ESP_OK && !(is_rule && strcmp(key, "layer") == 0))
            status = diff_field(key, value, json_object_get(b, key), prefix, is_rule, out, err);
    }
    json_object_foreach((json_t *)(uintptr_t)b, key, value)
    {
        if (status == ESP_OK && !json_object_get(a, key) && !(is_rule && strcmp(key, "layer") == 0))
            status = diff_field(key, NULL, value, prefix, is_rule, out, err);
    }
    return status;
}

/* ---- rules ---- */

/* Both plans' rules, as JSON and by pattern. */
typedef struct rule_lists {
    const esp_plan *plans[2];
    const json_t *rules[2];
    plan_rule_index index[2];
} rule_lists;

/* The rule of the other plan with the pattern of this one's rule `place`, the same one of several (*turn,
 * from 0); -1 when there is none. */
static int other_rule(const rule_lists *lists, int side, int place, int *turn)
{
    const char *pattern = lists->plans[side]->rules[place].pattern;
    int own, others;
    const plan_rule_place *same = plan_rule_index_find(&lists->index[side], pattern, &own);
    const plan_rule_place *found = plan_rule_index_find(&lists->index[!side], pattern, &others);

    for (*turn = 0; same[*turn].place != place;)
        ++*turn;
    return *turn < others ? found[*turn].place : -1;
}

static esp_status diff_rule(const char *pattern, size_t turn, const json_t *a, const json_t *b,
                            esp_plan_changes *out, esp_error *err)
{
    char where[400];
    int count = out->count;
    esp_status status;

    if (turn)
        snprintf(where, sizeof where, "rule '%.300s' (%zu): ", pattern, turn + 1);
    else
        snprintf(where, sizeof where, "rule '%.300s': ", pattern);
    status = diff_objects(a, b, where, true, out, err);
    if (status == ESP_OK && out->count == count && (!a || !b)) { /* a rule that sets nothing */
        json_t *nothing = json_string("");
        where[strlen(where) - 2] = '\0';
        status = nothing ? add_change(out, where, a ? nothing : NULL, b ? nothing : NULL, true, err)
                         : esp_fail_memory(err, "differences of plans", 0);
        json_decref(nothing);
    }
    return status;
}

static const json_t *rule_at(const rule_lists *lists, int side, int place)
{
    return place >= 0 ? json_array_get(lists->rules[side], (size_t)place) : NULL;
}

static esp_status diff_rules(const rule_lists *lists, esp_plan_changes *out, esp_error *err)
{
    const esp_plan *a = lists->plans[0], *b = lists->plans[1];
    int last = -1, turn;
    bool is_reordered = false;
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < a->rule_count; i++) {
        int other = other_rule(lists, 0, i, &turn);
        is_reordered = is_reordered || (other >= 0 && other < last);
        last = other > last ? other : last;
        status = diff_rule(a->rules[i].pattern, (size_t)turn, rule_at(lists, 0, i), rule_at(lists, 1, other),
                           out, err);
    }
    for (int i = 0; status == ESP_OK && i < b->rule_count; i++)
        if (other_rule(lists, 1, i, &turn) < 0)
            status = diff_rule(b->rules[i].pattern, (size_t)turn, NULL, rule_at(lists, 1, i), out, err);
    if (status == ESP_OK && is_reordered) {
        json_t *first = json_string("as here"), *second = json_string("another: later rules win");
        status = first && second ? add_change(out, "order of rules", first, second, true, err)
                                 : esp_fail_memory(err, "differences of plans", 0);
        json_decref(first);
        json_decref(second);
    }
    return status;
}

esp_status esp_plan_diff(const esp_plan *a, const esp_plan *b, esp_plan_changes *out, esp_error *err)
{
    json_t *left = NULL, *right = NULL;
    rule_lists lists = {.plans = {a, b}};
    esp_plan_changes changes = {0};
    esp_status status = esp_plan_to_json(a, &left, err);

    *out = (esp_plan_changes){0};
    if (status == ESP_OK)
        status = esp_plan_to_json(b, &right, err);
    for (int side = 0; status == ESP_OK && side < 2; side++) {
        const esp_plan *plan = lists.plans[side];
        lists.rules[side] = json_object_get(side ? right : left, "rules");
        status = plan_rule_index_new(plan->rules, plan->rule_count, &lists.index[side], err);
    }
    if (status == ESP_OK)
        status = diff_objects(left, right, "", false, &changes, err);
    if (status == ESP_OK)
        status = diff_rules(&lists, &changes, err);
    plan_rule_index_free(&lists.index[0]);
    plan_rule_index_free(&lists.index[1]);
    json_decref(left);
    json_decref(right);
    if (status == ESP_OK)
        *out = changes;
    else
        esp_plan_changes_free(&changes);
    return status;
}

/* ---- effects ---- */

void esp_plan_effects_free(esp_plan_effects *effects)
{
    for (int i = 0; i < effects->count; i++)
        esp_free(effects->items[i].layer);
    esp_free(effects->items);
    *effects = (esp_plan_effects){0};
}

static esp_status list_effects(esp_preview *const previews[2], esp_plan_effects *out, esp_error *err)
{
    const esp_layers *layers = &previews[0]->layers;

    out->items = esp_alloc_zero((size_t)layers->count, sizeof *out->items);
    if (!out->items)
        return esp_fail_memory(err, "effects of plans", (size_t)layers->count * sizeof *out->items);
    out->layer_count = layers->count;
    out->before = previews[0]->before;
    for (int l = 0; l < layers->count; l++) {
        const esp_preview_layer *items[2] = {&previews[0]->items[l], &previews[1]->items[l]};
        esp_plan_effect *effect = &out->items[out->count];
        if (esp_mask_equal(&items[0]->mask, &items[1]->mask))
            continue;
        *effect = (esp_plan_effect){.layer = esp_strdup(layers->items[l].name),
                                    .filters = layers->items[l].filters,
                                    .params = items[0]->params_before};
        if (!effect->layer)
            return esp_fail_memory(err, "effects of plans", 0);
        out->count++;
        for (int p = 0; p < 2; p++) {
            effect->asked[p] = items[p]->asked;
            effect->got[p] = items[p]->got;
            effect->filters_kept[p] = items[p]->filters_kept;
            effect->params_after[p] = items[p]->params_after;
            effect->macs_after[p] = items[p]->macs_after;
        }
    }
    for (int p = 0; p < 2; p++)
        out->after[p] = previews[p]->after;
    return ESP_OK;
}

esp_status esp_plan_compare(const esp_compute *compute, const esp_graph *graph, const esp_plan *a,
                            const esp_plan *b, const esp_input_shape *input_shapes, int input_shape_count,
                            esp_plan_effects *out, esp_error *err)
{
    return esp_plan_compare_on(compute, graph, a, b, input_shapes, input_shape_count, NULL, out, err);
}

esp_status esp_plan_compare_on(const esp_compute *compute, const esp_graph *graph, const esp_plan *a,
                               const esp_plan *b, const esp_input_shape *input_shapes, int input_shape_count,
                               const esp_criterion_data *data, esp_plan_effects *out, esp_error *err)
{
    const esp_plan *plans[2] = {a, b};
    esp_preview *previews[2] = {NULL, NULL};
    esp_grouping_cache *cache = NULL;
    esp_plan_effects effects = {0};
    esp_status status = esp_grouping_cache_new(&cache, err);

    *out = (esp_plan_effects){0};
    if (status == ESP_OK && data)
        status = esp_preview_calibrate_with(cache, data, err);
    for (int p = 0; status == ESP_OK && p < 2; p++) {
        status = esp_preview_new(compute, graph, plans[p], input_shapes, input_shape_count, cache,
                                 &previews[p], err);
        if (status != ESP_OK)
            esp_error_prefix(err, "plan %c", "ab"[p]);
    }
    if (status == ESP_OK)
        status = list_effects(previews, &effects, err);
    esp_preview_free(previews[0]);
    esp_preview_free(previews[1]);
    esp_grouping_cache_free(cache);
    if (status == ESP_OK)
        *out = effects;
    else
        esp_plan_effects_free(&effects);
    return status;
}

/* ---- JSON ---- */

static json_t *changes_to_json(const esp_plan_changes *changes)
{
    json_t *list = json_array();

    for (int i = 0; i < changes->count; i++) {
        const esp_plan_change *item = &changes->items[i];
        json_array_append_new(
            list, json_pack("{s:s, s:s?, s:s?}", "where", item->where, "a", item->a, "b", item->b));
    }
    return list;
}

static json_t *counts_to_json(const esp_counts *counts)
{
    return json_pack("{s:I, s:I}", "params", (json_int_t)counts->params, "macs", (json_int_t)counts->macs);
}

static json_t *effects_to_json(const esp_plan_effects *effects)
{
    json_t *list = json_array();

    for (int i = 0; i < effects->count; i++) {
        const esp_plan_effect *it = &effects->items[i];
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:[f, f], s:[f, f], s:[I, I], s:[I, I], s:[I, I]}", "layer",
                            it->layer, "filters", (json_int_t)it->filters, "params", (json_int_t)it->params,
                            "asked", it->asked[0], it->asked[1], "got", it->got[0], it->got[1],
                            "filters_kept", (json_int_t)it->filters_kept[0], (json_int_t)it->filters_kept[1],
                            "params_after", (json_int_t)it->params_after[0], (json_int_t)it->params_after[1],
                            "macs_after", (json_int_t)it->macs_after[0], (json_int_t)it->macs_after[1]));
    }
    return list;
}

esp_status esp_plan_diff_to_json(const esp_plan_changes *changes, const esp_plan_effects *effects,
                                 json_t **out, esp_error *err)
{
    json_t *list = changes_to_json(changes), *layers = effects ? effects_to_json(effects) : NULL;
    json_t *object = json_pack("{s:b, s:O}", "same", changes->count == 0, "changes", list);

    *out = NULL;
    if (object && effects)
        json_object_update_new(object, json_pack("{s:O, s:o, s:[o, o]}", "layers", layers, "before",
                                                 counts_to_json(&effects->before), "after",
                                                 counts_to_json(&effects->after[0]),
                                                 counts_to_json(&effects->after[1])));
    if (object && (json_array_size(list) != (size_t)changes->count ||
                   (effects && json_array_size(layers) != (size_t)effects->count))) {
        json_decref(object); /* a name that is no UTF-8, or no memory */
        object = NULL;
    }
    json_decref(list);
    json_decref(layers);
    *out = object;
    return object ? ESP_OK : esp_fail(err, ESP_INVALID, "plan: a layer's name is not valid UTF-8");
}
