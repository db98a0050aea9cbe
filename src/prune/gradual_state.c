/* The state file of a run by a pruning schedule:
 *
 *   {"version": 1, "model": "run.json.3.onnx", "start": "9c1f...", "steps_done": 3, "plan": {...},
 *    "schedule": {...}, "records": [...]}
 *
 * "start" is a fingerprint of the model the run began with. A model is written under a new name before the
 * file that names it replaces the old one, and the model of before is removed after that: a crash at any
 * moment leaves a file that names a whole model. */
#include "prune/gradual_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#define STATE_VERSION 1

/* ---- in memory ---- */

void gradual_state_clear(gradual_state *state)
{
    esp_graph_unref(state->graph);
    esp_free(state->records);
    *state = (gradual_state){0};
}

esp_status gradual_state_add(gradual_state *state, const esp_gradual_record *record, esp_gradual_record **out,
                             esp_error *err)
{
    if (state->record_count == state->record_capacity) {
        int capacity = 2 * state->record_capacity + 16;
        esp_gradual_record *records = esp_alloc((size_t)capacity, sizeof *records);
        if (!records)
            return esp_fail_memory(err, "records", (size_t)capacity * sizeof *records);
        if (state->record_count)
            memcpy(records, state->records, (size_t)state->record_count * sizeof *records);
        esp_free(state->records);
        state->records = records;
        state->record_capacity = capacity;
    }
    *out = &state->records[state->record_count++];
    **out = *record;
    return ESP_OK;
}

/* ---- records ---- */

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *esp_gradual_records_to_json(const esp_gradual_record *records, int count)
{
    json_t *list = json_array();

    for (int i = 0; list && i < count; i++) {
        const esp_gradual_record *it = &records[i];
        json_t *item = json_pack(
            "{s:i, s:f, s:f, s:I, s:I, s:i, s:I, s:o, s:o, s:o, s:o, s:f, s:f}", "step", it->step, "ratio",
            it->ratio, "pruned", it->pruned, "params", (json_int_t)it->params, "macs", (json_int_t)it->macs,
            "layers", it->layers, "executed_groups", (json_int_t)it->executed_groups, "cut_top1",
            real_or_null(it->cut_top1), "cut_loss", real_or_null(it->cut_loss), "trained_top1",
            real_or_null(it->trained_top1), "trained_loss", real_or_null(it->trained_loss), "epochs",
            it->epochs, "seconds", it->seconds);
        if (!item || json_array_append_new(list, item) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static double number_or_nan(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

static bool read_record(const json_t *item, esp_gradual_record *out)
{
    json_int_t params, macs, groups;

    if (json_unpack((json_t *)(uintptr_t)item, "{s:i, s:F, s:F, s:I, s:I, s:i, s:I, s:F, s:F}", "step",
                    &out->step, "ratio", &out->ratio, "pruned", &out->pruned, "params", &params, "macs",
                    &macs, "layers", &out->layers, "executed_groups", &groups, "epochs", &out->epochs,
                    "seconds", &out->seconds) != 0)
        return false;
    out->params = params;
    out->macs = macs;
    out->executed_groups = groups;
    out->cut_top1 = number_or_nan(item, "cut_top1");
    out->cut_loss = number_or_nan(item, "cut_loss");
    out->trained_top1 = number_or_nan(item, "trained_top1");
    out->trained_loss = number_or_nan(item, "trained_loss");
    return true;
}

/* ---- fingerprint ---- */

/* FNV-1a, 64 bits. */
static uint64_t mix(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* Of operators, names, shapes and constants: what training and pruning work on. */
static void find_fingerprint(const esp_graph *graph, char *text, size_t size)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const char *name = esp_graph_node(graph, n)->name;
        hash = mix(hash, name, strlen(name) + 1);
    }
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);
        if (!value->constant)
            continue;
        hash = mix(hash, value->name, strlen(value->name) + 1);
        hash = mix(hash, value->shape.dims, (size_t)value->shape.rank * sizeof *value->shape.dims);
        hash = mix(hash, esp_tensor_data(value->constant),
                   (size_t)esp_tensor_elements(value->constant) *
                       esp_dtype_size(esp_tensor_dtype(value->constant)));
    }
    snprintf(text, size, "%016" PRIx64, hash);
}

/* ---- on disk ---- */

/* The model of a state with so many steps; esp_free it. */
static char *model_path(const char *state_path, int steps)
{
    esp_text text = {0};

    esp_text_printf(&text, "%s.%d.onnx", state_path, steps);
    return esp_text_take(&text);
}

/* The rest of the state as JSON; NULL and `err` filled when it cannot be. */
static json_t *state_to_json(const esp_gradual_options *options, const esp_graph *start,
                             const gradual_state *state, const char *model, esp_error *err)
{
    char fingerprint[32];
    json_t *plan = NULL, *schedule = NULL, *records, *object = NULL;
    esp_status status = esp_plan_to_json(options->plan, &plan, err);

    if (status == ESP_OK)
        status = esp_gradual_to_json(options->schedule, &schedule, err);
    if (status == ESP_OK) {
        find_fingerprint(start, fingerprint, sizeof fingerprint);
        records = esp_gradual_records_to_json(state->records, state->record_count);
        object = json_pack("{s:i, s:s, s:s, s:i, s:O, s:O, s:o}", "version", STATE_VERSION, "model",
                           esp_path_base(model), "start", fingerprint, "steps_done", state->steps_done,
                           "plan", plan, "schedule", schedule, "records", records);
        if (!object)
            esp_fail(err, ESP_INVALID, "'%s': the path is not valid UTF-8", model);
    }
    json_decref(plan);
    json_decref(schedule);
    return object;
}

esp_status gradual_state_save(const esp_gradual_options *options, const esp_graph *start,
                              const gradual_state *state, esp_error *err)
{
    char *model = model_path(options->state_path, state->steps_done);
    char *before = model_path(options->state_path, state->steps_done - 1);
    json_t *json = NULL;
    esp_status status = ESP_OK;

    if (!model || !before)
        status = esp_fail_memory(err, "a path", strlen(options->state_path));
    if (status == ESP_OK) {
        json = state_to_json(options, start, state, model, err);
        status = json ? options->save(state->graph, model, err) : ESP_INVALID;
    }
    if (status == ESP_OK)
        status = esp_json_save(json, options->state_path, err);
    if (status == ESP_OK)
        remove(before);
    json_decref(json);
    esp_free(model);
    esp_free(before);
    return status;
}

static esp_status check_same(const json_t *found, const char *key, json_t *take_expected, esp_error *err)
{
    const json_t *value = json_object_get(found, key);
    char *one = value ? esp_json_dump(value, 1) : NULL, *other = esp_json_dump(take_expected, 1);
    bool is_same = one && other && strcmp(one, other) == 0; /* as text: 3 is 3.0 */

    json_decref(take_expected);
    esp_free(one);
    esp_free(other);
    return is_same ? ESP_OK : esp_fail(err, ESP_MISMATCH, "the state is of a run with another %s", key);
}

/* Is it of this run? */
static esp_status check_state(const json_t *json, const esp_gradual_options *options, const esp_graph *start,
                              esp_error *err)
{
    char fingerprint[32];
    json_t *plan = NULL, *schedule = NULL;
    esp_status status;

    if (json_integer_value(json_object_get(json, "version")) != STATE_VERSION)
        return esp_fail(err, ESP_FORMAT, "'version' is missing or unknown, expected %d", STATE_VERSION);
    find_fingerprint(start, fingerprint, sizeof fingerprint);
    status = esp_plan_to_json(options->plan, &plan, err);
    if (status == ESP_OK)
        status = esp_gradual_to_json(options->schedule, &schedule, err);
    if (status != ESP_OK) {
        json_decref(plan);
        return status;
    }
    status = check_same(json, "plan", plan, err);
    if (status == ESP_OK)
        status = check_same(json, "schedule", schedule, err);
    else
        json_decref(schedule);
    const char *found = json_string_value(json_object_get(json, "start"));
    if (status == ESP_OK && (!found || strcmp(found, fingerprint) != 0))
        status = esp_fail(err, ESP_MISMATCH, "the state is of a run that began with another model");
    return status;
}

static esp_status read_records(const json_t *json, gradual_state *state, esp_error *err)
{
    const json_t *list = json_object_get(json, "records");
    esp_status status = ESP_OK;

    for (size_t i = 0; status == ESP_OK && i < json_array_size(list); i++) {
        esp_gradual_record record, *kept;
        if (!read_record(json_array_get(list, i), &record))
            status = esp_fail(err, ESP_FORMAT, "record %zu is damaged", i + 1);
        else
            status = gradual_state_add(state, &record, &kept, err);
    }
    return status;
}

/* The model lies beside the state file, under the name given there. */
static esp_status read_model(const json_t *json, const esp_gradual_options *options, gradual_state *state,
                             esp_error *err)
{
    const char *name = json_string_value(json_object_get(json, "model"));
    char *directory = esp_path_directory(options->state_path), *path = NULL;
    esp_status status = ESP_OK;

    if (!name || strchr(name, '/'))
        status = esp_fail(err, ESP_FORMAT, "'model' is missing or no file name");
    else if (!directory || !(path = esp_path_join(directory, name)))
        status = esp_fail_memory(err, "a path", strlen(name));
    if (status == ESP_OK)
        status = options->load(path, &state->graph, err);
    esp_free(directory);
    esp_free(path);
    return status;
}

esp_status gradual_state_load(const esp_gradual_options *options, const esp_graph *start,
                              gradual_state *state, esp_error *err)
{
    gradual_state found = {0};
    json_t *json = NULL;
    esp_status status;

    if (!esp_file_exists(options->state_path)) {
        esp_fail(err, ESP_STATE, "no state to resume in %s", options->state_path);
        esp_error_set_hint(err, "a run that came to its end removes it");
        return ESP_STATE;
    }
    status = esp_json_load(options->state_path, &json, err);
    if (status != ESP_OK)
        return status; /* names the file */
    status = check_state(json, options, start, err);
    if (status == ESP_OK)
        status = read_records(json, &found, err);
    if (status == ESP_OK)
        status = read_model(json, options, &found, err);
    found.steps_done = (int)json_integer_value(json_object_get(json, "steps_done"));
    if (status == ESP_OK && (found.steps_done < 1 || found.steps_done != found.record_count))
        status = esp_fail(err, ESP_FORMAT, "%d steps with %d records", found.steps_done, found.record_count);
    json_decref(json);
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s", options->state_path);
        gradual_state_clear(&found);
        return status;
    }
    gradual_state_clear(state);
    *state = found;
    return ESP_OK;
}

void esp_gradual_state_remove(const char *state_path)
{
    json_t *json = NULL;
    char *model = NULL;

    if (esp_json_load(state_path, &json, NULL) == ESP_OK)
        model = model_path(state_path, (int)json_integer_value(json_object_get(json, "steps_done")));
    json_decref(json);
    remove(state_path);
    if (model)
        remove(model);
    esp_free(model);
}
