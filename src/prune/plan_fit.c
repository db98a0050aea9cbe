/* A plan beside a model it was not made for. Rules are kept, moved or dropped one by one; what is left is
 * previewed, so that what takes no part, and why, is the preview's word and not a second opinion. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "prune/plan_diff.h"
#include "prune/plan_internal.h"
#include "prune/preview_internal.h"

#define WORD_OF(name, word) word,
static const char *const misfit_words[] = {ESP_MISFIT_LIST(WORD_OF)};

const char *esp_misfit_word(esp_misfit_kind kind)
{
    return misfit_words[kind];
}

void esp_plan_fit_free(esp_plan_fit *fit)
{
    for (int i = 0; i < fit->count; i++) {
        esp_free(fit->items[i].layer);
        esp_free(fit->items[i].text);
        esp_free(fit->items[i].nearest);
        esp_free(fit->items[i].repair);
    }
    esp_free(fit->items);
    esp_plan_free(&fit->repaired);
    *fit = (esp_plan_fit){0};
}

typedef struct misfit_text {
    const char *nearest; /* or NULL */
    char text[256], repair[200];
} misfit_text;

static esp_status add_misfit(esp_plan_fit *fit, esp_misfit_kind kind, const char *layer,
                             const misfit_text *said, esp_error *err)
{
    size_t count = (size_t)fit->count;
    esp_plan_misfit *items = fit->items, *item;

    if (plan_room(count))
        items = esp_realloc(fit->items, count, plan_room(count), sizeof *items);
    if (!items)
        return esp_fail_memory(err, "what does not fit", (count + 1) * sizeof *items);
    fit->items = items;
    item = &items[count];
    *item = (esp_plan_misfit){kind, esp_strdup(layer), esp_strdup(said->text), esp_strdup(said->nearest),
                              said->repair[0] ? esp_strdup(said->repair) : NULL};
    fit->count++;
    return item->layer && item->text && (!said->nearest || item->nearest) &&
                   (!said->repair[0] || item->repair)
               ? ESP_OK
               : esp_fail_memory(err, "what does not fit", 0);
}

/* ---- rules whose layer is gone ---- */

static int count_matches(const char *pattern, const esp_layers *layers)
{
    int count = 0;

    for (int l = 0; l < layers->count; l++)
        count += esp_layer_matches(&layers->items[l], pattern);
    return count;
}

/* "conv1/" and anything, when the model has such layers: what surgery makes of a layer that it splits. */
static bool find_parts(const char *pattern, const esp_layers *layers, char *out, size_t size)
{
    int length = snprintf(out, size, "%s/*", pattern);

    return length > 0 && (size_t)length < size && count_matches(out, layers) > 0;
}

/* The one layer whose node's or weight's name has the pattern in it, or is in it; NULL when there are
 * several. */
static const char *find_container(const char *pattern, const esp_layers *layers)
{
    const char *found = NULL;

    for (int l = 0; l < layers->count; l++) {
        const esp_layer *layer = &layers->items[l];
        bool is_near = strstr(layer->name, pattern) || strstr(layer->weight_name, pattern) ||
                       (layer->name[0] && strstr(pattern, layer->name));
        if (is_near && found)
            return NULL;
        found = is_near ? layer->name : found;
    }
    return found;
}

/* Among all layers by edit distance. */
static const char *find_nearest(const char *pattern, const esp_layers *layers)
{
    size_t count = (size_t)layers->count;
    const char **names = esp_alloc(2 * count, sizeof *names), *nearest = NULL;
    int layer;

    for (size_t l = 0; names && l < count; l++) {
        names[l] = layers->items[l].name;
        names[count + l] = layers->items[l].weight_name;
    }
    if (names)
        nearest = esp_nearest_word(pattern, names, 2 * count);
    esp_free(names);
    layer = nearest ? esp_layers_find(layers, nearest) : -1;
    return layer >= 0 ? layers->items[layer].name : NULL;
}

static bool has_rule(const plan_rule_index *named, const char *name)
{
    int count;

    plan_rule_index_find(named, name, &count);
    return count > 0;
}

/* Copies one rule to the repaired plan, or says why not. */
static esp_status fit_rule(const plan_rule_index *named, const esp_plan_rule *rule, const esp_layers *layers,
                           bool renames, esp_plan_fit *fit, esp_error *err)
{
    char parts[300];
    misfit_text said = {0};
    esp_status status;

    if (count_matches(rule->pattern, layers))
        return esp_plan_add_rule(&fit->repaired, rule->pattern, rule->ratio, rule->groups, rule->is_ignored,
                                 err);
    bool is_split = find_parts(rule->pattern, layers, parts, sizeof parts);
    if (is_split)
        said.nearest = parts;
    else if (!(said.nearest = find_container(rule->pattern, layers)))
        said.nearest = find_nearest(rule->pattern, layers);
    bool is_free = said.nearest && !has_rule(named, said.nearest);
    if (is_split)
        snprintf(said.text, sizeof said.text, "the layer was split: its parts are %.180s", parts);
    else if (said.nearest)
        snprintf(said.text, sizeof said.text, "no layer has this name; the nearest is '%.180s'",
                 said.nearest);
    else
        snprintf(said.text, sizeof said.text, "no layer has this name");
    if (renames && is_free) {
        snprintf(said.repair, sizeof said.repair, "the rule goes to '%.160s'", said.nearest);
        status =
            esp_plan_add_rule(&fit->repaired, said.nearest, rule->ratio, rule->groups, rule->is_ignored, err);
        if (status != ESP_OK)
            return status;
    } else {
        snprintf(said.repair, sizeof said.repair, "the rule is dropped");
    }
    return add_misfit(fit, ESP_MISFIT_GONE, rule->pattern, &said, err);
}

/* ---- what rules ask of the layers that are there ---- */

/* The last rule that says a layer's ratio (wanted: groups); -1: none does. */
static int speaking_rule(const esp_plan *plan, const esp_layer *layer, bool of_groups)
{
    for (int i = plan->rule_count - 1; i >= 0; i--) {
        const esp_plan_rule *rule = &plan->rules[i];
        if (esp_layer_matches(layer, rule->pattern) && (of_groups ? rule->groups > 0 : rule->ratio >= 0))
            return i;
    }
    return -1;
}

/* A rule for this layer alone: the one there is, changed, or a new one behind it. */
static esp_status set_rule(esp_plan *plan, const esp_layer *layer, double ratio, int groups, esp_error *err)
{
    return esp_plan_add_rule(plan, layer->name, ratio, groups, false, err);
}

/* What the sets that a layer writes make of its ratio. Sets of one layer may have any number of slots; the
 * ratio is too large when it is for all of them. */
typedef struct ratio_fit {
    bool is_short;        /* no set gives what its ranking takes */
    int64_t taken, slots; /* of the set that can give most */
    int64_t most;         /* slots of it that can go */
    double ratio;         /* largest that takes no more */
} ratio_fit;

/* One more set: `ratio` is the largest that takes at most `most` of its slots. */
static void add_set(const esp_plan *plan, const esp_slot_choice *choice, double ratio, ratio_fit *out)
{
    int64_t most = esp_slot_choice_most(choice, plan->floor, plan->round_to);
    bool is_short = choice->ranked > most, is_first = out->slots == 0;

    out->is_short = is_short && (is_first || out->is_short);
    if (is_first || ratio > out->ratio)
        *out = (ratio_fit){out->is_short, choice->ranked, choice->count, most, ratio};
}

static bool writes(const esp_preview *preview, int set, int layer)
{
    const esp_coupled_set *coupled = esp_coupling_set(preview->subject->coupling, set);

    for (int w = 0; w < coupled->writer_count; w++)
        if (coupled->writers[w] == layer)
            return true;
    return false;
}

static esp_status judge_ratio(const esp_preview *preview, int layer, ratio_fit *out, esp_error *err)
{
    const esp_plan *plan = &preview->plan;
    esp_status status = ESP_OK;

    *out = (ratio_fit){0};
    for (int i = 0; i < preview->filter_set_count; i++) {
        const esp_slot_choice *choice = &preview->filter_sets[i].choice;
        int64_t most = esp_slot_choice_most(choice, plan->floor, plan->round_to);
        if (writes(preview, preview->filter_sets[i].set, layer))
            add_set(plan, choice, (double)most / (double)choice->count, out);
    }
    for (int i = 0; status == ESP_OK && i < preview->wsp.pair_count; i++) {
        const esp_wsp_pair *pair = &preview->wsp.pairs[i];
        double ratio = 1;
        if (pair->set < 0 || !writes(preview, pair->set, layer)) /* as published: nothing must stay */
            continue;
        status = esp_wsp_largest_ratio(pair, esp_slot_choice_most(&pair->choice, plan->floor, plan->round_to),
                                       &ratio, err);
        if (status == ESP_OK)
            add_set(plan, &pair->choice, ratio, out);
    }
    return status;
}

static esp_status fit_ratio(const esp_preview *preview, int l, esp_plan_fit *fit, esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[l];
    const esp_preview_layer *item = &preview->items[l];
    int index = speaking_rule(&fit->repaired, layer, false);
    misfit_text said = {0};
    ratio_fit found;
    double asked;

    if (index < 0 || !(fit->repaired.rules[index].ratio > 0) ||
        esp_plan_resolve(&fit->repaired, layer->name, layer->weight_name, 0).is_ignored)
        return ESP_OK;
    asked = fit->repaired.rules[index].ratio;
    if (!item->takes_part ||
        !(item->asked > 0)) { /* a layer that only reads takes part, and is asked nothing */
        snprintf(said.text, sizeof said.text, "asked %.3g, but none of its filters can be cut: %.128s", asked,
                 item->note[0] ? item->note : "what it is coupled with stays");
        return add_misfit(fit, ESP_MISFIT_UNCUTTABLE, layer->name, &said, err);
    }
    esp_status status = judge_ratio(preview, l, &found, err);
    if (status != ESP_OK || !found.is_short)
        return status;
    snprintf(said.text, sizeof said.text,
             "asked %.3g takes %lld of %lld slots, at most %lld can go (floor %g, rounded to %d)", asked,
             (long long)found.taken, (long long)found.slots, (long long)found.most, preview->plan.floor,
             preview->plan.round_to);
    snprintf(said.repair, sizeof said.repair, "its ratio becomes %.4g", found.ratio);
    status = set_rule(&fit->repaired, layer, found.ratio, 0, err);
    return status == ESP_OK ? add_misfit(fit, ESP_MISFIT_RATIO, layer->name, &said, err) : status;
}

static esp_status fit_groups(const esp_preview *preview, int l, esp_plan_fit *fit, esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[l];
    int index = preview->plan.method == ESP_METHOD_SG ? speaking_rule(&fit->repaired, layer, true) : -1;
    misfit_text said = {0};

    if (index < 0 || fit->repaired.rules[index].groups <= layer->filters || !preview->items[l].takes_part)
        return ESP_OK;
    snprintf(said.text, sizeof said.text, "asked %d groups of %lld filters",
             fit->repaired.rules[index].groups, (long long)layer->filters);
    snprintf(said.repair, sizeof said.repair, "%lld groups", (long long)layer->filters);
    esp_status status = set_rule(&fit->repaired, layer, -1, (int)layer->filters, err);
    return status == ESP_OK ? add_misfit(fit, ESP_MISFIT_GROUPS, layer->name, &said, err) : status;
}

/* ---- beside the old model ---- */

/* The plan without rules that match nothing there. */
static esp_status plan_for(const esp_plan *plan, const esp_layers *layers, esp_plan *out, esp_error *err)
{
    esp_plan fitting = *plan;
    esp_status status = ESP_OK;

    fitting.rules = NULL;
    fitting.rule_count = 0;
    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++)
        if (count_matches(plan->rules[i].pattern, layers))
            status = esp_plan_add_rule(&fitting, plan->rules[i].pattern, plan->rules[i].ratio,
                                       plan->rules[i].groups, plan->rules[i].is_ignored, err);
    if (status == ESP_OK)
        *out = fitting;
    else
        esp_plan_free(&fitting);
    return status;
}

static esp_status say_rounding(const esp_preview *old, int before, const esp_preview *preview, int l,
                               esp_plan_fit *fit, esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[l], *old_layer = &old->layers.items[before];
    const esp_preview_layer *item = &preview->items[l], *old_item = &old->items[before];
    double share = layer->filters ? (double)item->filters_kept / (double)layer->filters : 1;
    double old_share = old_layer->filters ? (double)old_item->filters_kept / (double)old_layer->filters : 1;
    misfit_text said = {0};

    if (layer->filters == old_layer->filters || !item->takes_part || fabs(share - old_share) < 1e-9)
        return ESP_OK;
    snprintf(said.text, sizeof said.text,
             "%lld filters, not %lld: %.3g asked keeps %lld (%.1f %%), it kept %lld (%.1f %%)",
             (long long)layer->filters, (long long)old_layer->filters, item->asked,
             (long long)item->filters_kept, 100 * share, (long long)old_item->filters_kept, 100 * old_share);
    return add_misfit(fit, ESP_MISFIT_ROUNDING, layer->name, &said, err);
}

static esp_status say_new(const esp_preview *preview, int l, esp_plan_fit *fit, esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[l];
    misfit_text said = {0};

    if (!preview->items[l].takes_part || !(preview->items[l].asked > 0) ||
        speaking_rule(&preview->plan, layer, false) >= 0)
        return ESP_OK;
    snprintf(said.text, sizeof said.text, "not in the old model: gets the general ratio, %.3g",
             preview->items[l].asked);
    return add_misfit(fit, ESP_MISFIT_NEW, layer->name, &said, err);
}

static esp_status fit_to_old(const esp_compute *compute, const esp_plan *plan,
                             const esp_plan_fit_options *options, esp_grouping_cache *cache,
                             const esp_preview *preview, esp_plan_fit *fit, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    esp_plan old_plan = {0};
    esp_preview *old = NULL;
    esp_status status =
        esp_infer(options->from, 1, options->input_shapes, options->input_shape_count, &inferred, err);

    if (status == ESP_OK)
        status = esp_layers_list(options->from, inferred, &layers, err);
    if (status == ESP_OK)
        status = plan_for(plan, &layers, &old_plan, err);
    if (status == ESP_OK)
        status = esp_preview_new(compute, options->from, &old_plan, options->input_shapes,
                                 options->input_shape_count, cache, &old, err);
    for (int l = 0; status == ESP_OK && l < preview->layers.count; l++) {
        int before = esp_layers_find(&old->layers, preview->layers.items[l].name);
        status =
            before >= 0 ? say_rounding(old, before, preview, l, fit, err) : say_new(preview, l, fit, err);
    }
    if (status != ESP_OK)
        esp_error_prefix(err, "the old model");
    esp_preview_free(old);
    esp_plan_free(&old_plan);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return status;
}

/* ---- all of it ---- */

static esp_status fit_rules(const esp_graph *graph, const esp_plan *plan, const esp_plan_fit_options *options,
                            esp_plan_fit *fit, esp_error *err)
{
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    plan_rule_index named = {0};
    esp_status status =
        esp_infer(graph, 1, options->input_shapes, options->input_shape_count, &inferred, err);

    if (status == ESP_OK)
        status = esp_layers_list(graph, inferred, &layers, err);
    if (status == ESP_OK)
        status = plan_rule_index_new(plan->rules, plan->rule_count, &named, err);
    for (int i = 0; status == ESP_OK && i < plan->rule_count; i++)
        status = fit_rule(&named, &plan->rules[i], &layers, options->renames, fit, err);
    plan_rule_index_free(&named);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return status;
}

esp_status esp_plan_fit_new(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                            const esp_plan_fit_options *options, esp_plan_fit *out, esp_error *err)
{
    const esp_plan_fit_options nothing = {0};
    esp_plan_fit fit = {.repaired = *plan};
    esp_preview *preview = NULL;
    esp_grouping_cache *cache = NULL;
    esp_status status = esp_plan_check(plan, err);

    *out = (esp_plan_fit){0};
    options = options ? options : &nothing;
    fit.repaired.rules = NULL;
    fit.repaired.rule_count = 0;
    if (status == ESP_OK)
        status = fit_rules(graph, plan, options, &fit, err);
    if (status == ESP_OK)
        status = esp_grouping_cache_new(&cache, err);
    if (status == ESP_OK && options->data)
        status = esp_preview_calibrate_with(cache, options->data, err);
    if (status == ESP_OK)
        status = esp_preview_new(compute, graph, &fit.repaired, options->input_shapes,
                                 options->input_shape_count, cache, &preview, err);
    for (int l = 0; status == ESP_OK && l < preview->layers.count; l++) {
        status = fit_ratio(preview, l, &fit, err);
        if (status == ESP_OK)
            status = fit_groups(preview, l, &fit, err);
    }
    if (status == ESP_OK && options->from)
        status = fit_to_old(compute, plan, options, cache, preview, &fit, err);
    esp_preview_free(preview);
    esp_grouping_cache_free(cache);
    if (status == ESP_OK)
        *out = fit;
    else
        esp_plan_fit_free(&fit);
    return status;
}

esp_status esp_plan_fit_to_json(const esp_plan_fit *fit, json_t **out, esp_error *err)
{
    json_t *plan = NULL, *list = json_array();
    esp_status status = esp_plan_to_json(&fit->repaired, &plan, err);

    *out = NULL;
    for (int i = 0; i < fit->count; i++) {
        const esp_plan_misfit *item = &fit->items[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s?, s:s?}", "kind", misfit_words[item->kind],
                                              "layer", item->layer, "text", item->text, "nearest",
                                              item->nearest, "repair", item->repair));
    }
    if (status == ESP_OK && json_array_size(list) == (size_t)fit->count)
        *out = json_pack("{s:b, s:O, s:O}", "fits", fit->count == 0, "misfits", list, "plan", plan);
    json_decref(plan);
    json_decref(list);
    if (status == ESP_OK && !*out)
        status = esp_fail(err, ESP_INVALID, "plan: a layer's name is not valid UTF-8");
    return status;
}
