/* Spreads: one number becomes the ratios of a plan, so that the budget's search is one bisection whatever the
 * method.
 *
 * Where the method ranks whole slots (plan.h), the plan itself knows a threshold over all layers: its scope.
 * Where it does not (self-grouping, WSP as published), the ratio of each layer is the share of its scores
 * below the common threshold, in units of the layer's mean, and stands in a rule of its own. Sensitivities
 * always give rules. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "prune/budget_internal.h"

/* ---- scores ---- */

typedef struct weighted {
    double value, weight;
} weighted;

static int compare_weighted(const void *a, const void *b)
{
    double left = ((const weighted *)a)->value, right = ((const weighted *)b)->value;

    return (left > right) - (left < right);
}

/* Sorts, divides by the mean, and adds up what lies below each. */
static esp_status keep_scores(weighted *items, int64_t count, budget_scores *out, esp_error *err)
{
    double sum = 0, weight = 0, below = 0;

    out->values = esp_alloc((size_t)count, sizeof *out->values);
    out->below = esp_alloc((size_t)count, sizeof *out->below);
    if (!out->values || !out->below)
        return esp_fail_memory(err, "scores", (size_t)count * sizeof *out->values);
    out->count = count;
    qsort(items, (size_t)count, sizeof *items, compare_weighted);
    for (int64_t i = 0; i < count; i++) {
        sum += items[i].value * items[i].weight;
        weight += items[i].weight;
    }
    for (int64_t i = 0; i < count; i++) {
        out->values[i] = sum > 0 ? items[i].value * weight / sum : 0;
        out->below[i] = weight > 0 ? below / weight : 0;
        below += items[i].weight;
    }
    return ESP_OK;
}

/* Share of the scores that are strictly below a threshold. */
static double share_below(const budget_scores *scores, double threshold)
{
    int64_t low = 0, high = scores->count;

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (scores->values[middle] < threshold)
            low = middle + 1;
        else
            high = middle;
    }
    return low < scores->count ? scores->below[low] : 1;
}

/* Self-grouping: what its threshold is taken over, each centroid once per member. */
static esp_status scores_of_grouping(const esp_grouping *grouping, const esp_layer *layer, budget_scores *out,
                                     esp_error *err)
{
    int64_t count = grouping->k * layer->channels;
    weighted *items = esp_alloc_zero((size_t)count, sizeof *items);
    esp_status status;

    if (!items)
        return esp_fail_memory(err, layer->name, (size_t)count * sizeof *items);
    for (int64_t i = 0; i < count; i++)
        items[i].value = grouping->centroids[i];
    for (int64_t f = 0; f < layer->filters; f++)
        for (int64_t c = 0; c < layer->channels; c++)
            items[grouping->labels[f] * layer->channels + c].weight += 1;
    status = keep_scores(items, count, out, err);
    esp_free(items);
    return status;
}

/* A pair as published: both norms in units of their means. */
static esp_status scores_of_pair(const esp_wsp_pair *pair, budget_scores *out, esp_error *err)
{
    weighted *items = esp_alloc_zero((size_t)pair->channels, sizeof *items);
    double filters = 0, channels = 0;
    esp_status status;

    if (!items)
        return esp_fail_memory(err, "scores", (size_t)pair->channels * sizeof *items);
    for (int64_t c = 0; c < pair->channels; c++) {
        filters += pair->filter_l1[c];
        channels += pair->channel_l1[c];
    }
    for (int64_t c = 0; c < pair->channels; c++)
        items[c] = (weighted){(filters > 0 ? pair->filter_l1[c] / filters : 0) +
                                  (channels > 0 ? pair->channel_l1[c] / channels : 0),
                              1};
    status = keep_scores(items, pair->channels, out, err);
    esp_free(items);
    return status;
}

/* ---- units ---- */

static bool is_left_alone(const budget_spread *spread, int layer)
{
    const esp_layer *item = &spread->layers->items[layer];
    esp_layer_settings settings = esp_plan_resolve(spread->plan, item->name, item->weight_name, 0);

    return settings.is_ignored || settings.has_ratio;
}

/* Whether the general ratio that a layer would get is one that stays. */
static bool is_kept_kind(const budget_spread *spread, int layer, bool is_border)
{
    const esp_budget_options *options = spread->options;

    if (!spread->layers->items[layer].is_conv)
        return options->keeps_fc;
    return is_border ? options->keeps_border : options->keeps_conv;
}

static esp_status add_unit(budget_spread *spread, const int *layers, int count, budget_unit **out,
                           esp_error *err)
{
    size_t units = (size_t)spread->unit_count;
    budget_unit *grown = esp_realloc(spread->units, units, units + 1, sizeof *grown);
    budget_unit *unit;

    if (!grown)
        return esp_fail_memory(err, "parts of a network", (units + 1) * sizeof *grown);
    spread->units = grown;
    unit = &grown[units];
    *unit = (budget_unit){.curve = -1, .layers = esp_alloc((size_t)count, sizeof *unit->layers)};
    if (!unit->layers)
        return esp_fail_memory(err, "parts of a network", (size_t)count * sizeof *unit->layers);
    memcpy(unit->layers, layers, (size_t)count * sizeof *layers);
    unit->layer_count = count;
    spread->unit_count++;
    *out = unit;
    return ESP_OK;
}

static void widen_scale(budget_spread *spread, const budget_scores *scores)
{
    if (scores->count && scores->values[scores->count - 1] > spread->scale)
        spread->scale = scores->values[scores->count - 1];
}

static esp_status add_groupings(budget_spread *spread, const esp_preview *whole, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int l = 0; status == ESP_OK && l < whole->layers.count; l++) {
        const esp_preview_layer *item = &whole->items[l];
        budget_unit *unit;
        if (!item->takes_part || !item->grouping.labels || is_left_alone(spread, l) ||
            is_kept_kind(spread, l, false))
            continue;
        status = add_unit(spread, &l, 1, &unit, err);
        if (status == ESP_OK)
            status = scores_of_grouping(&item->grouping, &whole->layers.items[l], &unit->scores, err);
        if (status == ESP_OK)
            widen_scale(spread, &unit->scores);
    }
    return status;
}

static esp_status add_pairs(budget_spread *spread, const esp_preview *whole, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < whole->wsp.pair_count; i++) {
        const esp_wsp_pair *pair = &whole->wsp.pairs[i];
        bool is_border = !whole->layers.items[pair->reader].is_conv;
        budget_unit *unit;
        if (is_left_alone(spread, pair->writer) || is_kept_kind(spread, pair->writer, is_border))
            continue;
        status = add_unit(spread, &pair->writer, 1, &unit, err);
        if (status == ESP_OK)
            status = scores_of_pair(pair, &unit->scores, err);
        if (status == ESP_OK)
            widen_scale(spread, &unit->scores);
    }
    return status;
}

/* The layers of a curve that may get a ratio. */
static esp_status layers_of_curve(const budget_spread *spread, const esp_sensitivity_curve *curve,
                                  int *layers, int *count, esp_error *err)
{
    *count = 0;
    for (int i = 0; i < curve->layer_count; i++) {
        int layer = esp_layers_find(spread->layers, curve->layers[i]);
        if (layer < 0) {
            esp_fail(err, ESP_INVALID,
                     "budget: the sensitivities are of another network: it has no layer '%s'",
                     curve->layers[i]);
            esp_error_set_hint(err, "scan this network: espalier sensitivity");
            return ESP_INVALID;
        }
        if (is_left_alone(spread, layer)) { /* a ratio of its own counts for all that are coupled with it */
            *count = 0;
            return ESP_OK;
        }
        if (!is_kept_kind(spread, layer, false))
            layers[(*count)++] = layer;
    }
    return ESP_OK;
}

static esp_status add_curves(budget_spread *spread, esp_error *err)
{
    const esp_sensitivity *sensitivity = spread->options->sensitivity;
    esp_status status = ESP_OK;

    for (int c = 0; status == ESP_OK && c < sensitivity->curve_count; c++) {
        const esp_sensitivity_curve *curve = &sensitivity->curves[c];
        int *layers = esp_alloc((size_t)curve->layer_count, sizeof *layers), count = 0;
        budget_unit *unit = NULL;
        status = layers ? layers_of_curve(spread, curve, layers, &count, err)
                        : esp_fail_memory(err, curve->name, (size_t)curve->layer_count * sizeof *layers);
        if (status == ESP_OK && count && curve->point_count) {
            status = add_unit(spread, layers, count, &unit, err);
        }
        esp_free(layers);
        if (!unit)
            continue;
        unit->curve = c;
        for (int p = 0; p < curve->point_count; p++)
            if (curve->points[p].is_done)
                spread->scale =
                    fmax(spread->scale, esp_sensitivity_cost(&curve->points[p], spread->options->cost));
    }
    return status;
}

/* Curves say which network they were measured on; those made up by hand may say nothing. */
static esp_status check_network(const esp_sensitivity *sensitivity, const esp_graph *graph, esp_error *err)
{
    char own[17];

    if (!sensitivity->model ||
        strcmp(sensitivity->model, esp_sensitivity_fingerprint(graph, own, sizeof own)) == 0)
        return ESP_OK;
    esp_fail(err, ESP_INVALID, "budget: the sensitivities are of another network (%s, this one is %s)",
             sensitivity->graph_name ? sensitivity->graph_name : sensitivity->model, own);
    esp_error_set_hint(err, "scan this network: espalier sensitivity");
    return ESP_INVALID;
}

static bool has_general_ratios(const budget_spread *spread)
{
    return spread->options->distribution == ESP_DISTRIBUTION_UNIFORM ||
           (spread->options->distribution == ESP_DISTRIBUTION_SALIENCY && esp_plan_ranks_slots(spread->plan));
}

esp_status budget_spread_new(const esp_plan *plan, const esp_budget_options *options,
                             const esp_preview *whole, budget_spread *out, esp_error *err)
{
    budget_spread spread = {.plan = plan, .options = options, .layers = &whole->layers};
    esp_status status = ESP_OK;

    *out = (budget_spread){0};
    if (options->distribution == ESP_DISTRIBUTION_SENSITIVITY && !options->sensitivity)
        return esp_fail(err, ESP_INVALID, "budget: the distribution by sensitivity needs measured curves");
    if (has_general_ratios(&spread))
        spread.scale = ESP_BUDGET_MOST;
    else if (options->distribution == ESP_DISTRIBUTION_SENSITIVITY) {
        status = check_network(options->sensitivity, whole->graph, err);
        if (status == ESP_OK)
            status = add_curves(&spread, err);
    } else if (plan->method == ESP_METHOD_SG)
        status = add_groupings(&spread, whole, err);
    else
        status = add_pairs(&spread, whole, err);
    if (status == ESP_OK)
        *out = spread;
    else
        budget_spread_free(&spread);
    return status;
}

void budget_spread_free(budget_spread *spread)
{
    for (int i = 0; i < spread->unit_count; i++) {
        esp_free(spread->units[i].layers);
        esp_free(spread->units[i].scores.values);
        esp_free(spread->units[i].scores.below);
    }
    esp_free(spread->units);
    *spread = (budget_spread){0};
}

/* ---- plans ---- */

static void set_general_ratios(const budget_spread *spread, double ratio, esp_plan *plan)
{
    if (!spread->options->keeps_conv)
        plan->conv_ratio = ratio;
    if (!spread->options->keeps_fc)
        plan->fc_ratio = ratio;
    if (!spread->options->keeps_border)
        plan->border_ratio = ratio;
}

/* Costs of parts lie orders of magnitude apart; the cube gives the small ones most of the levels. */
static double scaled(const budget_spread *spread, double level)
{
    bool is_cost = spread->options->distribution == ESP_DISTRIBUTION_SENSITIVITY;

    return spread->scale * (is_cost ? level * level * level : level);
}

static double unit_ratio(const budget_spread *spread, const budget_unit *unit, double threshold)
{
    double ratio = unit->curve >= 0
                       ? esp_sensitivity_ratio(&spread->options->sensitivity->curves[unit->curve],
                                               spread->options->cost, threshold)
                       : share_below(&unit->scores, threshold);

    return fmax(0, fmin(ratio, ESP_BUDGET_MOST));
}

static esp_status add_rules(const budget_spread *spread, const budget_unit *unit, double ratio,
                            esp_plan *plan, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < unit->layer_count; i++)
        status = esp_plan_add_rule(plan, spread->layers->items[unit->layers[i]].name, ratio, 0, false, err);
    return status;
}

esp_status budget_spread_plan(const budget_spread *spread, double level, esp_plan *out, double *shown,
                              esp_error *err)
{
    double threshold = scaled(spread, level);
    esp_plan plan = {0};
    esp_status status = esp_plan_clone(spread->plan, &plan, err);

    *out = (esp_plan){0};
    if (status != ESP_OK)
        return status;
    if (spread->options->distribution == ESP_DISTRIBUTION_SALIENCY && has_general_ratios(spread))
        plan.scope = ESP_SCOPE_GLOBAL;
    set_general_ratios(spread, has_general_ratios(spread) ? threshold : 0, &plan);
    for (int i = 0; status == ESP_OK && i < spread->unit_count; i++)
        status = add_rules(spread, &spread->units[i], unit_ratio(spread, &spread->units[i], threshold), &plan,
                           err);
    if (status == ESP_OK) {
        *out = plan;
        *shown = threshold;
    } else {
        esp_plan_free(&plan);
    }
    return status;
}
