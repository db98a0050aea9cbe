/* Version lists are copied on change: they are short (tens of entries), and every snapshot can keep its own.
 */
#include "study/version.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

void esp_metrics_set_eval(esp_metrics *metrics, const esp_eval_result *result, bool is_full)
{
    metrics->eval_images = result->images;
    metrics->eval_is_full = is_full;
    metrics->top1 = result->top1;
    metrics->top1_error = result->top1_error;
    metrics->top5 = result->top5;
    metrics->loss = result->loss;
}

esp_metrics esp_metrics_of_shapes(const esp_metrics *from)
{
    return (esp_metrics){.counts = from->counts,
                         .latency_ms = from->latency_ms,
                         .latency_spread = from->latency_spread,
                         .latency_threads = from->latency_threads};
}

void esp_metrics_set_latency(esp_metrics *metrics, const esp_latency_result *result)
{
    metrics->latency_ms = result->median_ms;
    metrics->latency_spread = result->spread;
    metrics->latency_threads = result->threads;
}

void esp_metrics_set_grouping(esp_metrics *metrics, const esp_grouping_gains *gains)
{
    const esp_grouping_gain total = esp_grouping_total(gains);

    metrics->grouped_layers = gains->count;
    metrics->grouped_slower = 0;
    for (int i = 0; i < gains->count; i++)
        metrics->grouped_slower += esp_grouping_loses(&gains->items[i]) ? 1 : 0;
    metrics->grouping_theory = esp_grouping_theory(&total);
    metrics->grouping_real = esp_grouping_real(&total);
}

/* ---- JSON ---- */

esp_status esp_metrics_to_json(const esp_metrics *metrics, json_t **out, esp_error *err)
{
    json_t *json = json_pack("{s:I, s:I, s:f, s:f}", "params", (json_int_t)metrics->counts.params, "macs",
                             (json_int_t)metrics->counts.macs, "paper_params", metrics->counts.paper_params,
                             "paper_macs", metrics->counts.paper_macs);
    bool is_whole = json != NULL;

    *out = NULL;
    if (is_whole && metrics->eval_images > 0)
        is_whole = json_object_set_new(json, "eval",
                                       json_pack("{s:I, s:b, s:f, s:f, s:f, s:f}", "images",
                                                 (json_int_t)metrics->eval_images, "full",
                                                 metrics->eval_is_full, "top1", metrics->top1, "top1_error",
                                                 metrics->top1_error, "top5", metrics->top5, "loss",
                                                 isfinite(metrics->loss) ? metrics->loss : DBL_MAX)) == 0;
    if (is_whole && metrics->latency_ms >= 0)
        is_whole =
            json_object_set_new(json, "latency",
                                json_pack("{s:f, s:f, s:i}", "median_ms", metrics->latency_ms, "spread",
                                          metrics->latency_spread, "threads", metrics->latency_threads)) == 0;
    if (is_whole && metrics->grouped_layers > 0)
        is_whole =
            json_object_set_new(json, "grouping",
                                json_pack("{s:i, s:i, s:f, s:f}", "layers", metrics->grouped_layers, "slower",
                                          metrics->grouped_slower, "theory", metrics->grouping_theory, "real",
                                          metrics->grouping_real)) == 0;
    if (!is_whole) {
        json_decref(json);
        return esp_fail_memory(err, "metrics", sizeof *metrics);
    }
    *out = json;
    return ESP_OK;
}

esp_status esp_metrics_from_json(const json_t *json, esp_metrics *out, esp_error *err)
{
    esp_metrics metrics = {.latency_ms = -1};
    json_error_t problem;
    json_int_t params = 0, macs = 0, images = 0;
    int is_full = 0;

    if (json_unpack_ex((json_t *)json, &problem, 0,
                       "{s:I, s:I, s:F, s:F, s?{s:I, s:b, s:F, s:F, s:F, s:F}, s?{s:F, s:F, s:i}, "
                       "s?{s:i, s:i, s:F, s:F}}",
                       "params", &params, "macs", &macs, "paper_params", &metrics.counts.paper_params,
                       "paper_macs", &metrics.counts.paper_macs, "eval", "images", &images, "full", &is_full,
                       "top1", &metrics.top1, "top1_error", &metrics.top1_error, "top5", &metrics.top5,
                       "loss", &metrics.loss, "latency", "median_ms", &metrics.latency_ms, "spread",
                       &metrics.latency_spread, "threads", &metrics.latency_threads, "grouping", "layers",
                       &metrics.grouped_layers, "slower", &metrics.grouped_slower, "theory",
                       &metrics.grouping_theory, "real", &metrics.grouping_real) != 0)
        return esp_fail(err, ESP_FORMAT, "metrics: %s", problem.text);
    metrics.counts.params = params;
    metrics.counts.macs = macs;
    metrics.eval_images = images;
    metrics.eval_is_full = is_full != 0;
    *out = metrics;
    return ESP_OK;
}

/* ---- lists ---- */

void esp_version_clear(esp_study_version *version)
{
    esp_free(version->how);
    esp_graph_unref(version->graph);
    version->how = NULL;
    version->graph = NULL;
}

static void release_versions(esp_shared *shared)
{
    esp_versions *versions = (esp_versions *)shared;

    for (int i = 0; i < versions->count; i++)
        esp_version_clear(&versions->items[i]);
    esp_free(versions->items);
    esp_free(versions);
}

static bool copy_version(const esp_study_version *version, esp_study_version *out)
{
    *out = *version;
    out->how = esp_strdup(version->how ? version->how : "{}");
    out->graph = version->graph ? esp_graph_ref(version->graph) : NULL;
    return out->how != NULL;
}

esp_status esp_versions_with(const esp_versions *versions, const esp_study_version *version,
                             esp_versions **out, esp_error *err)
{
    int count = versions ? versions->count : 0;
    bool replaces = esp_versions_find(versions, version->id) != NULL;
    esp_versions *next = esp_alloc_zero(1, sizeof *next);
    bool is_whole = next != NULL;

    *out = NULL;
    if (!next)
        return esp_fail_memory(err, "version list", sizeof *next);
    esp_shared_init(&next->shared, release_versions);
    next->items = esp_alloc_zero((size_t)count + 1, sizeof *next->items);
    is_whole = next->items != NULL;
    for (int i = 0; is_whole && i < count; i++) {
        const esp_study_version *source = &versions->items[i];
        is_whole = copy_version(source->id == version->id ? version : source, &next->items[next->count++]);
    }
    if (is_whole && !replaces)
        is_whole = copy_version(version, &next->items[next->count++]);
    if (!is_whole) {
        esp_shared_unref(next);
        return esp_fail_memory(err, "version list", ((size_t)count + 1) * sizeof *next->items);
    }
    *out = next;
    return ESP_OK;
}

const esp_study_version *esp_versions_find(const esp_versions *versions, int id)
{
    for (int i = 0; versions && i < versions->count; i++)
        if (versions->items[i].id == id)
            return &versions->items[i];
    return NULL;
}

const esp_study_version *esp_versions_root(const esp_versions *versions, int id)
{
    const esp_study_version *version = esp_versions_find(versions, id);

    while (version) {
        const esp_study_version *parent = esp_versions_find(versions, version->parent);
        if (!parent || parent->id >= version->id) /* a damaged file cannot send us in circles */
            return version;
        version = parent;
    }
    return NULL;
}

int esp_versions_next_id(const esp_versions *versions)
{
    int highest = 0;

    for (int i = 0; versions && i < versions->count; i++)
        if (versions->items[i].id > highest)
            highest = versions->items[i].id;
    return highest + 1;
}
