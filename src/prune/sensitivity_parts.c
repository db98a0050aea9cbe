/* Parts and their points, found by previews: the masks of a point are those a plan gives whose rules set the
 * ratio of the part's layers, and 0 for all others, so partners are cut as they will be. Coupled sets with
 * the same writers are one part, because no plan can tell them apart. What previews say is kept as numbers;
 * the masks themselves are made again when a point is measured. */
#include "prune/preview_internal.h"
#include "prune/sensitivity_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static bool is_by_layer(const esp_plan *plan)
{
    return plan->method == ESP_METHOD_SG ||
           (plan->method == ESP_METHOD_WSP && plan->mode == ESP_MODE_FAITHFUL);
}

/* ---- plans ---- */

/* The caller's plan without ratios. */
static esp_status bare_plan(const esp_plan *asked, esp_plan *out, esp_error *err)
{
    esp_status status = esp_plan_clone(asked, out, err);

    if (status != ESP_OK)
        return status;
    out->conv_ratio = out->fc_ratio = out->border_ratio = 0;
    out->scope = ESP_SCOPE_LAYER;
    for (int i = 0; i < out->rule_count; i++)
        out->rules[i].ratio = -1;
    return ESP_OK;
}

/* Every layer has a rule of its own: the ratio, or 0. Sets that share some writers with the part stay whole,
 * as the smallest ratio of a set's writers is the set's. */
static esp_status part_plan(const scan_parts *parts, const scan_part *part, double ratio, esp_plan *out,
                            esp_error *err)
{
    const esp_layers *layers = &parts->cache->subject->layers;
    esp_status status = esp_plan_clone(&parts->plan, out, err);

    if (status != ESP_OK)
        return status;
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        const esp_layer *layer = &layers->items[l];
        bool is_ignored = esp_plan_resolve(&parts->plan, layer->name, layer->weight_name, 0).is_ignored;
        bool is_member = false;
        for (int i = 0; i < part->layer_count; i++)
            is_member = is_member || part->layers[i] == l;
        status = esp_plan_add_rule(out, layer->name, is_member ? ratio : 0, 0, is_ignored, err);
    }
    if (status != ESP_OK)
        esp_plan_free(out);
    return status;
}

static esp_status part_preview(const scan_parts *parts, const scan_site *site, const scan_part *part,
                               double ratio, esp_preview **out, esp_error *err)
{
    esp_plan plan;
    esp_status status = part_plan(parts, part, ratio, &plan, err);

    *out = NULL;
    if (status != ESP_OK)
        return status;
    status =
        esp_preview_new(site->sweep.compute, parts->graph, &plan, parts->has_shape ? &parts->shape : NULL,
                        parts->has_shape ? 1 : 0, parts->cache, out, err);
    esp_plan_free(&plan);
    return status;
}

esp_status scan_part_graph(const scan_parts *parts, const scan_site *site, int index, double ratio,
                           esp_graph **out, esp_error *err)
{
    esp_preview *preview;
    esp_status status = part_preview(parts, site, &parts->items[index], ratio, &preview, err);

    *out = NULL;
    if (status == ESP_OK)
        status = esp_preview_masked_graph(preview, out, err);
    esp_preview_free(preview);
    return status;
}

/* ---- which parts there are ---- */

static bool is_wanted(const esp_sensitivity_options *options, const esp_layers *layers, const int *members,
                      int count)
{
    if (!options->pattern_count)
        return true;
    for (int p = 0; p < options->pattern_count; p++)
        for (int i = 0; i < count; i++)
            if (esp_layer_matches(&layers->items[members[i]], options->patterns[p]))
                return true;
    return false;
}

static esp_status check_patterns(const esp_sensitivity_options *options, const esp_layers *layers,
                                 esp_error *err)
{
    bool *found = esp_alloc((size_t)layers->count, sizeof *found);
    esp_status status = found ? ESP_OK : esp_fail_memory(err, "layers", (size_t)layers->count);

    for (int p = 0; status == ESP_OK && p < options->pattern_count; p++)
        status = esp_layers_choose(layers, options->patterns[p], found, err);
    esp_free(found);
    return status;
}

/* A part and its curve, still without points. `pinned_by` may be NULL. */
static esp_status append_part(scan_parts *parts, esp_sensitivity *out, const int *members, int count, int set,
                              const char *pinned_by, esp_error *err)
{
    const esp_layers *layers = &parts->cache->subject->layers;
    scan_part *part = &parts->items[parts->count++];
    esp_sensitivity_curve *curve = &out->curves[out->curve_count++];

    part->layers = esp_alloc((size_t)count, sizeof *part->layers);
    curve->layers = esp_alloc_zero((size_t)count, sizeof *curve->layers);
    curve->name = esp_strdup(layers->items[members[0]].name);
    if (!part->layers || !curve->layers || !curve->name)
        return esp_fail_memory(err, "parts", (size_t)count * sizeof *curve->layers);
    part->layer_count = curve->layer_count = count;
    part->first_node = esp_graph_node_count(parts->graph);
    curve->set = set;
    snprintf(curve->note, sizeof curve->note, "%s", pinned_by ? pinned_by : "");
    for (int i = 0; i < count; i++) {
        part->layers[i] = members[i];
        curve->layers[i] = esp_strdup(layers->items[members[i]].name);
        if (!curve->layers[i])
            return esp_fail_memory(err, "parts", sizeof *curve->layers);
    }
    return ESP_OK;
}

static bool has_writers(const scan_part *part, const esp_coupled_set *set)
{
    return part->layer_count == set->writer_count &&
           memcmp(part->layers, set->writers, (size_t)set->writer_count * sizeof *set->writers) == 0;
}

/* Sets by their writers; a part can be cut when one of its sets can. */
static esp_status list_sets(scan_parts *parts, const esp_coupling *coupling,
                            const esp_sensitivity_options *options, esp_sensitivity *out, esp_error *err)
{
    esp_status status = ESP_OK;

    for (int s = 0; status == ESP_OK && s < esp_coupling_set_count(coupling); s++) {
        const esp_coupled_set *set = esp_coupling_set(coupling, s);
        int found = 0;
        if (!set->writer_count ||
            !is_wanted(options, &parts->cache->subject->layers, set->writers, set->writer_count))
            continue;
        while (found < parts->count && !has_writers(&parts->items[found], set))
            found++;
        if (found == parts->count)
            status = append_part(parts, out, set->writers, set->writer_count, s, set->pinned_by, err);
        else if (!set->pinned_by)
            out->curves[found].note[0] = '\0';
    }
    return status;
}

static esp_status list_layers(scan_parts *parts, const esp_sensitivity_options *options, esp_sensitivity *out,
                              esp_error *err)
{
    const esp_layers *layers = &parts->cache->subject->layers;
    esp_status status = ESP_OK;

    for (int l = 0; status == ESP_OK && l < layers->count; l++)
        if (is_wanted(options, layers, &l, 1))
            status = append_part(parts, out, &l, 1, -1, NULL, err);
    return status;
}

/* In network order of the first layers: coupled sets come in order of slots. */
static void sort_parts(scan_parts *parts, esp_sensitivity *out)
{
    for (int i = 1; i < parts->count; i++)
        for (int j = i; j > 0 && parts->items[j].layers[0] < parts->items[j - 1].layers[0]; j--) {
            scan_part part = parts->items[j];
            esp_sensitivity_curve curve = out->curves[j];
            parts->items[j] = parts->items[j - 1];
            parts->items[j - 1] = part;
            out->curves[j] = out->curves[j - 1];
            out->curves[j - 1] = curve;
        }
}

static esp_status list_parts(scan_parts *parts, const esp_sensitivity_options *options, esp_sensitivity *out,
                             esp_error *err)
{
    const esp_layers *layers = &parts->cache->subject->layers;
    const esp_coupling *coupling;
    esp_status status = preview_cache_coupling(parts->cache, &coupling, err);
    size_t most = (size_t)layers->count;

    if (status == ESP_OK)
        status = check_patterns(options, layers, err);
    if (status != ESP_OK)
        return status;
    most += (size_t)esp_coupling_set_count(coupling);
    parts->items = esp_alloc_zero(most, sizeof *parts->items);
    out->curves = esp_alloc_zero(most, sizeof *out->curves);
    if (!parts->items || !out->curves)
        return esp_fail_memory(err, "parts", most * sizeof *out->curves);
    status = is_by_layer(&parts->plan) ? list_layers(parts, options, out, err)
                                       : list_sets(parts, coupling, options, out, err);
    if (status == ESP_OK)
        sort_parts(parts, out);
    return status;
}

/* ---- points ---- */

static bool has_masks_of(const esp_preview *a, const esp_preview *b)
{
    for (int l = 0; l < a->layers.count; l++)
        if (!esp_mask_equal(&a->items[l].mask, &b->items[l].mask))
            return false;
    return true;
}

/* The first node that reads a weight which the preview masks; the number of nodes when it masks none. */
static int first_changed(const esp_preview *preview)
{
    int first = esp_graph_node_count(preview->graph);

    for (int l = 0; l < preview->layers.count; l++) {
        int weight = preview->layers.items[l].weight;
        if (esp_mask_equal(&preview->items[l].mask, &preview->subject->masks[l]))
            continue;
        for (int i = 0; i < esp_graph_consumer_count(preview->graph, weight); i++) {
            int node = esp_graph_consumer(preview->graph, weight, i);
            first = node < first ? node : first;
        }
    }
    return first;
}

/* `previews` of all ratios of a part. */
static void fill_points(const scan_parts *parts, esp_preview *const *previews, scan_part *part,
                        esp_sensitivity_curve *curve)
{
    const esp_layers *layers = &parts->cache->subject->layers;
    bool is_masked = false;

    for (int p = 0; p < curve->point_count; p++) {
        esp_sensitivity_point *point = &curve->points[p];
        int first = first_changed(previews[p]);
        point->got = previews[p]->items[part->layers[0]].got;
        point->params = previews[p]->after.params;
        point->macs = previews[p]->after.macs;
        point->same_as = ESP_SENSITIVITY_OWN;
        if (first == esp_graph_node_count(parts->graph))
            point->same_as = ESP_SENSITIVITY_WHOLE;
        else
            is_masked = true;
        for (int q = 0; q < p && point->same_as == ESP_SENSITIVITY_OWN; q++)
            if (curve->points[q].same_as == ESP_SENSITIVITY_OWN && has_masks_of(previews[p], previews[q]))
                point->same_as = q;
        part->first_node = first < part->first_node ? first : part->first_node;
    }
    for (int l = 0; l < layers->count; l++)
        part->work += layers->items[l].node >= part->first_node ? (double)layers->items[l].macs : 0;
    if (is_masked)
        return;
    const char *note = previews[curve->point_count - 1]->items[part->layers[0]].note;
    snprintf(curve->note, sizeof curve->note, "%s", note[0] ? note : "nothing is masked at any ratio");
    curve->point_count = 0;
}

static esp_status find_points(scan_parts *parts, const scan_site *site, const double *ratios, int count,
                              scan_part *part, esp_sensitivity_curve *curve, esp_error *err)
{
    esp_preview **previews = esp_alloc_zero((size_t)count, sizeof *previews);
    esp_status status = ESP_OK;

    curve->points = esp_alloc_zero((size_t)count, sizeof *curve->points);
    if (!previews || !curve->points)
        status = esp_fail_memory(err, "points", (size_t)count * sizeof *curve->points);
    for (int p = 0; status == ESP_OK && p < count; p++) {
        curve->points[p].ratio = ratios[p];
        status = esp_compute_is_cancelled(site->sweep.compute)
                     ? esp_fail(err, ESP_CANCELLED, "sensitivity: stopped")
                     : part_preview(parts, site, part, ratios[p], &previews[p], err);
    }
    if (status == ESP_OK) {
        curve->point_count = count;
        fill_points(parts, previews, part, curve);
    }
    for (int p = 0; previews && p < count; p++)
        esp_preview_free(previews[p]);
    esp_free(previews);
    return status;
}

/* All parts. Large networks take a while: say how far it is. */
static esp_status find_all_points(scan_parts *parts, const scan_site *site,
                                  const esp_sensitivity_options *options, esp_sensitivity *out,
                                  esp_error *err)
{
    esp_meter meter = esp_meter_make(site->sweep.compute);
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < parts->count; i++) {
        const esp_progress progress = {.stage = "sensitivity",
                                       .done = i,
                                       .total = parts->count,
                                       .unit = "parts",
                                       .eta_s = -1,
                                       .detail = "what each ratio masks"};
        if (esp_meter_is_due(&meter, false))
            esp_compute_report(site->sweep.compute, &progress);
        if (!out->curves[i].note[0])
            status = find_points(parts, site, options->ratios, options->ratio_count, &parts->items[i],
                                 &out->curves[i], err);
    }
    return status;
}

/* The whole network's own preview: its counts, and the cache's facts about it. */
static esp_status look_at_whole(scan_parts *parts, const scan_site *site, esp_sensitivity *out,
                                esp_error *err)
{
    esp_preview *preview = NULL;
    esp_status status = esp_preview_new(site->sweep.compute, parts->graph, &parts->plan,
                                        parts->has_shape ? &parts->shape : NULL, parts->has_shape ? 1 : 0,
                                        parts->cache, &preview, err);

    if (status == ESP_OK) {
        out->baseline.params = preview->before.params;
        out->baseline.macs = preview->before.macs;
        out->baseline.same_as = ESP_SENSITIVITY_WHOLE;
        status = esp_plan_to_json(&parts->plan, &out->plan, err);
    }
    esp_preview_free(preview);
    return status;
}

esp_status scan_parts_open(const scan_site *site, const esp_sensitivity_options *options, scan_parts *parts,
                           esp_sensitivity *out, esp_error *err)
{
    esp_status status;

    *parts = (scan_parts){.graph = site->sweep.graph};
    status = bare_plan(options->plan, &parts->plan, err);
    if (status != ESP_OK)
        return status;
    parts->has_shape = esp_dataset_input_shape(site->sweep.dataset, site->sweep.graph, 1, &parts->shape);
    status = esp_grouping_cache_new(&parts->cache, err);
    if (status == ESP_OK)
        status = esp_preview_calibrate_with(parts->cache,
                                            &(esp_criterion_data){.dataset = site->sweep.dataset,
                                                                  .seed = options->seed,
                                                                  .mean = options->mean,
                                                                  .std = options->std},
                                            err);
    if (status == ESP_OK)
        status = look_at_whole(parts, site, out, err);
    if (status == ESP_OK)
        status = list_parts(parts, options, out, err);
    if (status == ESP_OK)
        status = find_all_points(parts, site, options, out, err);
    return status;
}

void scan_parts_close(scan_parts *parts)
{
    for (int i = 0; i < parts->count; i++)
        esp_free(parts->items[i].layers);
    esp_free(parts->items);
    esp_grouping_cache_free(parts->cache);
    esp_plan_free(&parts->plan);
    *parts = (scan_parts){0};
}
