/* Snapshots share their parts by reference, so that making one costs no more than copying pointers: a ratio
 * key makes a new preview and a new snapshot, and everything else is what it was. */
#include "study/snapshot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "prune/explain.h"

/* ---- preview box ---- */

static void release_box(esp_shared *shared)
{
    esp_preview_box *box = (esp_preview_box *)shared;

    esp_preview_free(box->preview);
    esp_free(box);
}

esp_status esp_preview_box_new(esp_preview *take_preview, esp_preview_box **out, esp_error *err)
{
    esp_preview_box *box = esp_alloc_zero(1, sizeof *box);

    *out = NULL;
    if (!box) {
        esp_preview_free(take_preview);
        return esp_fail_memory(err, "preview", sizeof *box);
    }
    esp_shared_init(&box->shared, release_box);
    box->preview = take_preview;
    *out = box;
    return ESP_OK;
}

/* ---- reasons ---- */

static void release_reasons(esp_shared *shared)
{
    esp_reasons *reasons = (esp_reasons *)shared;

    esp_ledger_free(&reasons->ledger);
    esp_shared_unref(reasons->box);
    esp_free(reasons);
}

esp_status esp_reasons_new(const esp_preview_box *box, esp_reasons **out, esp_error *err)
{
    esp_reasons *reasons = esp_alloc_zero(1, sizeof *reasons);

    *out = NULL;
    if (!reasons)
        return esp_fail_memory(err, "reasons", sizeof *reasons);
    esp_shared_init(&reasons->shared, release_reasons);
    reasons->box = esp_shared_ref(box);
    esp_status status = esp_ledger_new(box->preview, &reasons->ledger, err);
    if (status != ESP_OK) {
        release_reasons(&reasons->shared);
        return status;
    }
    *out = reasons;
    return ESP_OK;
}

/* ---- explanation ---- */

static void release_explanation(esp_shared *shared)
{
    esp_explanation *explanation = (esp_explanation *)shared;

    esp_shared_unref(explanation->box);
    esp_free(explanation->text);
    esp_free(explanation);
}

static esp_status explain(esp_explanation *it, esp_error *err)
{
    json_t *json = NULL;
    esp_text text = {0};
    esp_status status = esp_preview_explain(it->box->preview, it->layer, it->channel, &json, err);

    if (status == ESP_OK)
        status = esp_explain_print(json, &text, err);
    if (status == ESP_OK) {
        const char *why = json_string_value(json_object_get(json, "why"));
        snprintf(it->why, sizeof it->why, "%s: %s",
                 json_is_true(json_object_get(json, "stays")) ? "stays" : "goes", why ? why : "");
        it->text = esp_text_take(&text);
        status = it->text ? ESP_OK : esp_fail_memory(err, "explanation", 256);
    }
    esp_text_free(&text);
    json_decref(json);
    return status;
}

esp_status esp_explanation_new(const esp_preview_box *box, int layer, int64_t channel, esp_explanation **out,
                               esp_error *err)
{
    esp_explanation *explanation = esp_alloc_zero(1, sizeof *explanation);

    *out = NULL;
    if (!explanation)
        return esp_fail_memory(err, "explanation", sizeof *explanation);
    esp_shared_init(&explanation->shared, release_explanation);
    explanation->box = esp_shared_ref(box);
    explanation->layer = layer;
    explanation->channel = channel;
    esp_status status = explain(explanation, err);
    if (status != ESP_OK) {
        release_explanation(&explanation->shared);
        return status;
    }
    *out = explanation;
    return ESP_OK;
}

/* ---- layer detail ---- */

static void release_detail(esp_shared *shared)
{
    esp_layer_detail *detail = (esp_layer_detail *)shared;

    esp_free(detail->scores);
    esp_free(detail->order);
    esp_free(detail->importance);
    esp_free(detail);
}

static int compare_scores(const void *a, const void *b, void *context)
{
    const double *scores = context;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;

    if (scores[i] < scores[j] || scores[i] > scores[j])
        return scores[i] < scores[j] ? -1 : 1;
    return (i > j) - (i < j);
}

static void sort_order(esp_layer_detail *detail)
{
    for (int32_t f = 0; f < detail->filters; f++)
        detail->order[f] = f;
    qsort_r(detail->order, (size_t)detail->filters, sizeof *detail->order, compare_scores, detail->scores);
}

static float largest(const float *values, int64_t count)
{
    float most = 0.0f;

    for (int64_t i = 0; i < count; i++)
        if (values[i] > most)
            most = values[i];
    return most;
}

esp_status esp_layer_detail_new(const esp_compute *compute, const esp_preview *preview, int version,
                                int layer_index, int criterion, const double *scores, esp_layer_detail **out,
                                esp_error *err)
{
    const esp_layer *layer = &preview->layers.items[layer_index];
    esp_layer_detail *detail = esp_alloc_zero(1, sizeof *detail);
    esp_status status = ESP_OK;

    *out = NULL;
    if (!detail)
        return esp_fail_memory(err, "layer detail", sizeof *detail);
    esp_shared_init(&detail->shared, release_detail);
    detail->version = version;
    detail->layer = layer_index;
    detail->criterion = criterion;
    detail->set = -1;
    detail->filters = layer->filters;
    detail->channels = layer->channels;
    detail->scores = esp_alloc((size_t)layer->filters, sizeof *detail->scores);
    detail->order = esp_alloc((size_t)layer->filters, sizeof *detail->order);
    if (!detail->scores || !detail->order)
        status = esp_fail_memory(err, "layer detail", (size_t)layer->filters * sizeof *detail->scores);
    if (status == ESP_OK && scores)
        memcpy(detail->scores, scores, (size_t)layer->filters * sizeof *scores);
    else if (status == ESP_OK)
        status = esp_saliency(compute, preview->graph, layer, esp_criterion_at(criterion), preview->plan.seed,
                              detail->scores, err);
    if (status == ESP_OK)
        status = esp_preview_importance(preview, layer_index, &detail->importance, err);
    if (status != ESP_OK) {
        release_detail(&detail->shared);
        return status;
    }
    sort_order(detail);
    detail->importance_max = largest(detail->importance, detail->filters * detail->channels);
    *out = detail;
    return ESP_OK;
}

/* ---- training log ---- */

static void release_log(esp_shared *shared)
{
    esp_training_log *log = (esp_training_log *)shared;

    esp_free(log->points);
    esp_free(log);
}

esp_status esp_training_log_new(int from_version, double epochs, esp_training_log **out, esp_error *err)
{
    esp_training_log *log = esp_alloc_zero(1, sizeof *log);

    *out = NULL;
    if (!log)
        return esp_fail_memory(err, "training log", sizeof *log);
    esp_shared_init(&log->shared, release_log);
    log->is_running = true;
    log->from_version = from_version;
    log->epochs = epochs;
    *out = log;
    return ESP_OK;
}

static esp_status copy_log(const esp_training_log *log, int extra, esp_training_log **out, esp_error *err)
{
    esp_training_log *copy = NULL;
    size_t count = (size_t)log->count + (size_t)extra;
    esp_status status = esp_training_log_new(log->from_version, log->epochs, &copy, err);

    *out = NULL;
    if (status != ESP_OK)
        return status;
    copy->is_running = log->is_running;
    copy->is_on_test = log->is_on_test;
    copy->resumed_at = log->resumed_at;
    copy->points = esp_alloc(count, sizeof *copy->points);
    if (!copy->points) {
        release_log(&copy->shared);
        return esp_fail_memory(err, "training log", count * sizeof *copy->points);
    }
    if (log->count > 0)
        memcpy(copy->points, log->points, (size_t)log->count * sizeof *copy->points);
    copy->count = log->count;
    *out = copy;
    return ESP_OK;
}

esp_status esp_training_log_with(const esp_training_log *log, const esp_training_point *point,
                                 esp_training_log **out, esp_error *err)
{
    esp_status status = copy_log(log, 1, out, err);

    if (status == ESP_OK)
        (*out)->points[(*out)->count++] = *point;
    return status;
}

esp_status esp_training_log_stopped(const esp_training_log *log, esp_training_log **out, esp_error *err)
{
    esp_status status = copy_log(log, 0, out, err);

    if (status == ESP_OK)
        (*out)->is_running = false;
    return status;
}

/* One list of what a point has, for both ways; flags are numbers. */
#define POINT_FIELDS(X)                                                                                      \
    X(epoch) X(loss) X(top1) X(validation_loss) X(train_top1) X(lr) X(images_per_s) X(eta_s)

enum { POINT_NUMBERS = 10 }; /* the fields, and two flags */

/* JSON has no NaN: null. */
static json_t *number_or_null(double number)
{
    return isfinite(number) ? json_real(number) : json_null();
}

json_t *esp_training_log_to_json(const esp_training_log *log)
{
    json_t *list = json_array();

    for (int i = 0; i < log->count; i++) {
        const esp_training_point *point = &log->points[i];
        json_t *numbers = json_array();
#define ADD_FIELD(field) json_array_append_new(numbers, number_or_null(point->field));
        POINT_FIELDS(ADD_FIELD)
#undef ADD_FIELD
        json_array_append_new(numbers, json_integer(point->is_validated));
        json_array_append_new(numbers, json_integer(point->is_best));
        json_array_append_new(list, numbers);
    }
    if (json_array_size(list) == (size_t)log->count)
        return list;
    json_decref(list);
    return NULL;
}

static double number_at(const json_t *numbers, size_t place)
{
    const json_t *value = json_array_get(numbers, place);

    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static esp_training_point read_point(const json_t *numbers)
{
    esp_training_point point = {0};
    size_t place = 0;

#define READ_FIELD(field) point.field = number_at(numbers, place++);
    POINT_FIELDS(READ_FIELD)
#undef READ_FIELD
    point.is_validated = number_at(numbers, place++) > 0;
    point.is_best = number_at(numbers, place) > 0;
    return point;
}

esp_status esp_training_log_fill(esp_training_log *log, const json_t *json, esp_error *err)
{
    size_t count = json_array_size(json);

    for (size_t i = 0; i < count; i++)
        if (json_array_size(json_array_get(json, i)) != POINT_NUMBERS)
            return esp_fail(err, ESP_FORMAT, "curve of a training: point %zu has %zu numbers, expected %d", i,
                            json_array_size(json_array_get(json, i)), POINT_NUMBERS);
    log->points = esp_alloc(count + 1, sizeof *log->points);
    if (!log->points)
        return esp_fail_memory(err, "training log", count * sizeof *log->points);
    for (size_t i = 0; i < count; i++)
        log->points[i] = read_point(json_array_get(json, i));
    log->count = (int)count;
    return ESP_OK;
}

/* ---- snapshot ---- */

const esp_study_version *esp_snapshot_current(const esp_snapshot *snapshot)
{
    return snapshot ? esp_versions_find(snapshot->versions, snapshot->current) : NULL;
}

const esp_study_version *esp_snapshot_baseline(const esp_snapshot *snapshot)
{
    return snapshot ? esp_versions_root(snapshot->versions, snapshot->current) : NULL;
}

bool esp_snapshot_has_cut(const esp_snapshot *snapshot)
{
    const esp_preview *preview = esp_snapshot_preview(snapshot);

    return preview && preview->after.params < preview->before.params;
}

static void release_snapshot(esp_shared *shared)
{
    esp_snapshot *snapshot = (esp_snapshot *)shared;

    esp_shared_unref(snapshot->versions);
    esp_shared_unref(snapshot->box);
    esp_shared_unref(snapshot->detail);
    esp_shared_unref(snapshot->reasons);
    esp_shared_unref(snapshot->explanation);
    esp_shared_unref(snapshot->training);
    esp_shared_unref(snapshot->scan);
    esp_shared_unref(snapshot->findings);
    esp_free(snapshot);
}

esp_status esp_snapshot_new(const esp_snapshot *fields, esp_snapshot **out, esp_error *err)
{
    esp_snapshot *snapshot = esp_alloc(1, sizeof *snapshot);

    *out = NULL;
    if (!snapshot)
        return esp_fail_memory(err, "snapshot", sizeof *snapshot);
    *snapshot = *fields;
    esp_shared_init(&snapshot->shared, release_snapshot);
    esp_shared_ref(snapshot->versions);
    esp_shared_ref(snapshot->box);
    esp_shared_ref(snapshot->detail);
    esp_shared_ref(snapshot->reasons);
    esp_shared_ref(snapshot->explanation);
    esp_shared_ref(snapshot->training);
    esp_shared_ref(snapshot->scan);
    esp_shared_ref(snapshot->findings);
    *out = snapshot;
    return ESP_OK;
}
