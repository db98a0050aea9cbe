/* Points and curves as JSON, for the file and for machines; and the fingerprint of a network. */
#include "prune/sensitivity_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "graph/fingerprint.h"
#include "graph/op.h"

/* ---- writing ---- */

json_t *scan_text_to_json(const char *text)
{
    json_t *json = json_string(text);
    char *copy;

    if (json || !text)
        return json;
    copy = esp_strdup(text);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    json = copy ? json_string(copy) : NULL;
    esp_free(copy);
    return json;
}

/* JSON has no NaN and no infinity: null, which reads back as NaN. */
static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* json_object_set_new that remembers failure: a NULL value or no memory. */
static void set(json_t *object, const char *key, json_t *take_value, bool *is_whole)
{
    if (!take_value || json_object_set_new(object, key, take_value) != 0)
        *is_whole = false;
}

static json_t *share_to_json(const esp_sensitivity_share *share)
{
    return json_pack("{s:I, s:f, s:f, s:f}", "right", (json_int_t)share->right, "percent", share->percent,
                     "low", share->low, "high", share->high);
}

static json_t *change_to_json(const esp_sensitivity_change *change)
{
    return json_pack("{s:o, s:o}", "value", real(change->value), "error", real(change->error));
}

json_t *scan_point_to_json(const esp_sensitivity_curve *curve, const esp_sensitivity_point *point)
{
    json_t *object = json_object();
    bool is_whole = object != NULL;

    if (!object)
        return NULL;
    set(object, "params", json_integer(point->params), &is_whole);
    set(object, "macs", json_integer(point->macs), &is_whole);
    set(object, "loss", real(point->loss), &is_whole);
    set(object, "top1", share_to_json(&point->top1), &is_whole);
    set(object, "top5", share_to_json(&point->top5), &is_whole);
    if (curve) {
        set(object, "ratio", json_real(point->ratio), &is_whole);
        set(object, "got", real(point->got), &is_whole);
        set(object, "loss_change", change_to_json(&point->loss_change), &is_whole);
        set(object, "top1_change", change_to_json(&point->top1_change), &is_whole);
        set(object, "top5_change", change_to_json(&point->top5_change), &is_whole);
        if (point->same_as != ESP_SENSITIVITY_OWN)
            set(object, "same_as", json_real(point->same_as < 0 ? 0 : curve->points[point->same_as].ratio),
                &is_whole);
    }
    if (is_whole)
        return object;
    json_decref(object);
    return NULL;
}

json_t *scan_curve_to_json(const esp_sensitivity_curve *curve)
{
    json_t *object = json_object(), *layers = json_array();
    bool is_whole = object && layers;

    for (int l = 0; is_whole && l < curve->layer_count; l++)
        is_whole = json_array_append_new(layers, scan_text_to_json(curve->layers[l])) == 0;
    if (is_whole) {
        set(object, "name", scan_text_to_json(curve->name), &is_whole);
        set(object, "layers", json_incref(layers), &is_whole);
        set(object, "set", json_integer(curve->set), &is_whole);
        set(object, "note", scan_text_to_json(curve->note), &is_whole);
    }
    json_decref(layers);
    if (is_whole)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *points_to_json(const esp_sensitivity_curve *curve)
{
    json_t *points = json_array();
    bool is_whole = points != NULL;

    for (int p = 0; is_whole && p < curve->point_count; p++)
        if (curve->points[p].is_done)
            is_whole = json_array_append_new(points, scan_point_to_json(curve, &curve->points[p])) == 0;
    if (is_whole)
        return points;
    json_decref(points);
    return NULL;
}

esp_status esp_sensitivity_to_json(const esp_sensitivity *sensitivity, json_t **out, esp_error *err)
{
    json_t *object = json_object(), *curves = json_array();
    bool is_whole = object && curves;

    *out = NULL;
    for (int c = 0; is_whole && c < sensitivity->curve_count; c++) {
        json_t *curve = scan_curve_to_json(&sensitivity->curves[c]);
        is_whole = curve != NULL;
        if (curve)
            set(curve, "points", points_to_json(&sensitivity->curves[c]), &is_whole);
        is_whole = json_array_append_new(curves, curve) == 0 && is_whole;
    }
    if (is_whole) {
        set(object, "model", json_string(sensitivity->model), &is_whole);
        set(object, "graph", scan_text_to_json(sensitivity->graph_name), &is_whole);
        set(object, "data", scan_text_to_json(sensitivity->data), &is_whole);
        set(object, "images", json_integer(sensitivity->images), &is_whole);
        set(object, "seed", json_integer((json_int_t)sensitivity->seed), &is_whole);
        set(object, "plan", json_incref(sensitivity->plan), &is_whole);
        set(object, "baseline", scan_point_to_json(NULL, &sensitivity->baseline), &is_whole);
        set(object, "complete", json_boolean(sensitivity->is_complete), &is_whole);
        set(object, "measured", json_integer(sensitivity->measured), &is_whole);
        set(object, "reused", json_integer(sensitivity->reused), &is_whole);
        set(object, "resumed", json_integer(sensitivity->resumed), &is_whole);
        set(object, "seconds", json_real(sensitivity->seconds), &is_whole);
        set(object, "baseline_seconds", json_real(sensitivity->baseline_seconds), &is_whole);
        set(object, "kept_bytes", json_integer((json_int_t)sensitivity->held_bytes), &is_whole);
        set(object, "curves", json_incref(curves), &is_whole);
    }
    json_decref(curves);
    if (is_whole) {
        *out = object;
        return ESP_OK;
    }
    json_decref(object);
    return esp_fail_memory(err, "the scan as JSON", 0);
}

/* ---- reading ---- */

static bool read_real(const json_t *object, const char *key, double *out)
{
    const json_t *value = json_object_get(object, key);

    *out = json_is_number(value) ? json_number_value(value) : (double)NAN;
    return json_is_number(value) || json_is_null(value);
}

static bool read_integer(const json_t *object, const char *key, int64_t *out)
{
    const json_t *value = json_object_get(object, key);

    *out = json_integer_value(value);
    return json_is_integer(value);
}

static bool read_share(const json_t *object, const char *key, esp_sensitivity_share *out)
{
    const json_t *share = json_object_get(object, key);

    return read_integer(share, "right", &out->right) && read_real(share, "percent", &out->percent) &&
           read_real(share, "low", &out->low) && read_real(share, "high", &out->high);
}

static bool read_change(const json_t *object, const char *key, esp_sensitivity_change *out)
{
    const json_t *change = json_object_get(object, key);

    return read_real(change, "value", &out->value) && read_real(change, "error", &out->error);
}

bool scan_point_from_json(const json_t *json, esp_sensitivity_point *out, double *same_ratio)
{
    esp_sensitivity_point point = {.is_done = true, .same_as = ESP_SENSITIVITY_OWN};
    bool is_ours = read_integer(json, "params", &point.params) && read_integer(json, "macs", &point.macs) &&
                   read_real(json, "loss", &point.loss) && read_share(json, "top1", &point.top1) &&
                   read_share(json, "top5", &point.top5);

    *same_ratio = -1;
    if (is_ours && json_object_get(json, "ratio"))
        is_ours = read_real(json, "ratio", &point.ratio) && read_real(json, "got", &point.got) &&
                  read_change(json, "loss_change", &point.loss_change) &&
                  read_change(json, "top1_change", &point.top1_change) &&
                  read_change(json, "top5_change", &point.top5_change);
    if (is_ours && json_object_get(json, "same_as"))
        is_ours = read_real(json, "same_as", same_ratio);
    if (is_ours)
        *out = point;
    return is_ours;
}

/* ---- fingerprint ---- */

char *esp_sensitivity_fingerprint(const esp_graph *graph, char *buffer, size_t size)
{
    uint64_t hash = esp_graph_fingerprint(graph);

    for (int i = 0; i < esp_graph_metadata_count(graph); i++) {
        hash = esp_hash_text(hash, esp_graph_metadata_key(graph, i));
        hash = esp_hash_text(hash, esp_graph_metadata_value(graph, i));
    }
    snprintf(buffer, size, "%016" PRIx64, hash);
    return buffer;
}
