/* What is kept of a run by a pruning schedule, in three files:
 *
 *   run.json            {"version": 2, "run": {...}, "model": "run.json.3.onnx", "steps_done": 3,
 *                       "records": [...]}: the steps that are finished
 *   run.json.3.onnx     the model after them
 *   run.json.training   the training of the phase after them, as io/checkpoint.h has it, with one block more:
 *                       {"run": {...}, "phase": 4, "seconds": 12.5}
 *
 * "run" is what the run was asked for: plan, schedule, and of the training everything that decides its result
 * (train_identity.h), the model it began with included. A model is written under a new name before the file
 * that names it replaces the old one, and the model of before is removed after that. A training belongs to
 * the phase behind the finished steps or to none: that of a step finished meanwhile is left aside. So
 * whenever the program is killed, what lies there belongs together. */
#include "prune/gradual_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "train/train_identity.h"

#define STATE_VERSION 2

/* Beside the trainer's own blocks in the file of a training. */
#define RUN_BLOCK "gradual/run"

/* ---- in memory ---- */

void gradual_state_clear(gradual_state *state)
{
    esp_graph_unref(state->graph);
    esp_graph_unref(state->to_keep);
    esp_train_state_free(&state->training.state);
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

/* ---- what a run is ---- */

esp_status gradual_identity(const gradual_run *run, const esp_graph *start, json_t **out, esp_error *err)
{
    const esp_gradual_options *options = run->options;
    esp_train_options training = *options->training;
    json_t *plan = NULL, *schedule = NULL, *trained = NULL;
    esp_status status = esp_plan_to_json(options->plan, &plan, err);

    training.mask_count = 0; /* each phase has its own */
    if (status == ESP_OK)
        status = esp_gradual_to_json(options->schedule, &schedule, err);
    if (status == ESP_OK)
        status = esp_train_identity(start, &training, run->training, run->validation, &trained, err);
    if (status == ESP_OK) {
        *out = json_pack("{s:O, s:O, s:O, s:I}", "plan", plan, "schedule", schedule, "training", trained,
                         "calibration images", (json_int_t)options->calibration_images);
        status = *out ? ESP_OK : esp_fail_memory(err, "what a run is", 0);
    }
    json_decref(plan);
    json_decref(schedule);
    json_decref(trained);
    return status;
}

/* As text: 3 is 3.0. */
static bool is_same(const json_t *found, const json_t *expected)
{
    char *one = found ? esp_json_dump(found, 1) : NULL, *other = esp_json_dump(expected, 1);
    bool equal = one && other && strcmp(one, other) == 0;

    esp_free(one);
    esp_free(other);
    return equal;
}

/* The training comes first: its seed is the plan's too. */
static esp_status check_identity(const gradual_run *run, const json_t *found, esp_error *err)
{
    static const struct {
        const char *key, *what;
    } parts[] = {{"plan", "plan"}, {"schedule", "pruning schedule"}, {"calibration images", "--calibrate"}};
    const json_t *then = json_object_get(found, "training");
    char *text = then ? esp_json_dump(json_object_get(run->identity, "training"), 1) : NULL;
    json_t *now = text ? json_loads(text, 0, NULL) : NULL; /* numbers as they are read from a file */
    esp_status status = json_is_object(then) && now
                            ? esp_train_identity_check(now, then, "the state", err)
                            : esp_fail(err, ESP_FORMAT, "'run' is missing or has no 'training'");

    json_decref(now);
    esp_free(text);
    for (size_t i = 0; status == ESP_OK && i < sizeof parts / sizeof parts[0]; i++)
        if (!is_same(json_object_get(found, parts[i].key), json_object_get(run->identity, parts[i].key)))
            status = esp_fail(err, ESP_MISMATCH, "the state is of a run with another %s", parts[i].what);
    return status;
}

/* ---- files ---- */

/* The model of a state with so many steps; esp_free it. */
static char *model_path(const char *state_path, int steps)
{
    esp_text text = {0};

    esp_text_printf(&text, "%s.%d.onnx", state_path, steps);
    return esp_text_take(&text);
}

static char *training_path(const char *state_path)
{
    esp_text text = {0};

    esp_text_printf(&text, "%s.training", state_path);
    return esp_text_take(&text);
}

static void remove_file(char *take_path)
{
    if (take_path)
        remove(take_path);
    esp_free(take_path);
}

void esp_gradual_state_remove(const char *state_path)
{
    json_t *json = NULL;

    if (esp_json_load(state_path, &json, NULL) == ESP_OK)
        remove_file(model_path(state_path, (int)json_integer_value(json_object_get(json, "steps_done"))));
    json_decref(json);
    remove(state_path);
    remove_file(training_path(state_path));
}

/* What an earlier run left there would be taken for this one's. */
static void own_files(gradual_run *run)
{
    if (!run->state.owns_files)
        esp_gradual_state_remove(run->options->state_path);
    run->state.owns_files = true;
}

/* ---- keeping ---- */

static void count(gradual_run *run, esp_status status, const esp_error *why)
{
    if (status == ESP_OK) {
        run->checkpoints++;
        return;
    }
    run->checkpoint_failures++;
    run->checkpoint_error = *why;
    if (run->options->on_failure)
        run->options->on_failure(run->options->event_user, why);
}

static esp_status save_state(const gradual_run *run, const char *model, esp_error *err)
{
    const gradual_state *state = &run->state;
    json_t *json = json_pack("{s:i, s:O, s:o, s:i, s:o}", "version", STATE_VERSION, "run", run->identity,
                             "model", esp_json_text(esp_path_base(model)), "steps_done", state->steps_done,
                             "records", esp_gradual_records_to_json(state->records, state->record_count));
    esp_status status = json ? esp_json_save(json, run->options->state_path, err)
                             : esp_fail_memory(err, "the state of a run", 0);

    json_decref(json);
    return status;
}

/* Model, state, and away with what was there before. */
static esp_status keep_step(gradual_run *run, const esp_graph *graph, const char *model, esp_error *err)
{
    const esp_gradual_options *options = run->options;
    gradual_state *state = &run->state;

    own_files(run);
    esp_status status = options->save(graph, model, err);
    if (status == ESP_OK) {
        status = save_state(run, model, err);
        if (status != ESP_OK)
            remove(model);
    }
    if (status != ESP_OK)
        return status;
    if (state->kept_steps > 0)
        remove_file(model_path(options->state_path, state->kept_steps));
    remove_file(training_path(options->state_path));
    state->kept_steps = state->steps_done;
    return ESP_OK;
}

void gradual_keep_step(gradual_run *run)
{
    gradual_state *state = &run->state;
    esp_graph *again = NULL;
    esp_error why = {0};
    char *model = model_path(run->options->state_path, state->steps_done);
    esp_status status =
        model ? keep_step(run, state->graph, model, &why) : esp_fail_memory(&why, "a path", 0);

    esp_graph_unref(state->to_keep);
    state->to_keep = NULL;
    state->is_behind = status != ESP_OK;
    if (status == ESP_OK)
        status = run->options->load(model, &again, &why);
    if (status == ESP_OK) {
        esp_graph_unref(state->graph);
        state->graph = again;
    } else if (state->is_behind) {
        state->to_keep = esp_graph_ref(state->graph);
    }
    esp_free(model);
    count(run, status, &why);
}

/* A training follows the steps on disk: those that could not be written are tried again first. */
static esp_status catch_up(gradual_run *run, esp_error *err)
{
    gradual_state *state = &run->state;
    char *model = state->is_behind ? model_path(run->options->state_path, state->steps_done) : NULL;

    if (!state->is_behind)
        return ESP_OK;
    esp_status status =
        model ? keep_step(run, state->to_keep, model, err) : esp_fail_memory(err, "a path", 0);
    esp_free(model);
    if (status != ESP_OK)
        return status;
    esp_graph_unref(state->to_keep);
    state->to_keep = NULL;
    state->is_behind = false;
    return ESP_OK;
}

static esp_status save_training(const gradual_run *run, int phase, double seconds,
                                const esp_train_state *state, esp_error *err)
{
    esp_train_state extra = {0};
    char *path = training_path(run->options->state_path);
    json_t *json = json_pack("{s:O, s:i, s:f}", "run", run->identity, "phase", phase, "seconds", seconds);
    char *text = json ? esp_json_dump(json, 1) : NULL;
    esp_status status = path && text ? esp_train_state_put(&extra, RUN_BLOCK, text, strlen(text), err)
                                     : esp_fail_memory(err, "the state of a training", 0);

    if (status == ESP_OK)
        status = run->options->save_training(path, state, &extra, err);
    esp_train_state_free(&extra);
    json_decref(json);
    esp_free(text);
    esp_free(path);
    return status;
}

esp_status gradual_keep_training(gradual_run *run, int phase, double seconds, const esp_train_state *state,
                                 esp_error *err)
{
    esp_error why = {0};
    esp_status status = catch_up(run, &why);

    if (status == ESP_OK) {
        own_files(run);
        status = save_training(run, phase, seconds, state, &why);
    }
    count(run, status, &why);
    if (status != ESP_OK && err)
        *err = why;
    return status;
}

/* ---- going on ---- */

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
static esp_status read_model(const json_t *json, const esp_gradual_options *options, esp_graph **out,
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
        status = options->load(path, out, err);
    esp_free(directory);
    esp_free(path);
    return status;
}

static esp_status read_state(gradual_run *run, const json_t *json, gradual_state *found, esp_error *err)
{
    json_int_t steps = json_integer_value(json_object_get(json, "steps_done"));
    esp_status status;

    if (json_integer_value(json_object_get(json, "version")) != STATE_VERSION)
        return esp_fail(err, ESP_FORMAT, "'version' is missing or unknown, expected %d", STATE_VERSION);
    status = check_identity(run, json_object_get(json, "run"), err);
    if (status == ESP_OK)
        status = read_records(json, found, err);
    if (status == ESP_OK && (steps < 1 || steps > run->steps || steps != found->record_count))
        status = esp_fail(err, ESP_FORMAT, "%lld steps with %d records, expected 1 to %d of both",
                          (long long)steps, found->record_count, run->steps);
    if (status == ESP_OK)
        status = read_model(json, run->options, &found->graph, err);
    found->steps_done = found->kept_steps = (int)steps;
    return status;
}

static esp_status load_state(gradual_run *run, esp_error *err)
{
    gradual_state found = {0};
    json_t *json = NULL;
    esp_status status = esp_json_load(run->options->state_path, &json, err);

    if (status != ESP_OK)
        return status; /* names the file */
    status = read_state(run, json, &found, err);
    json_decref(json);
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s", run->options->state_path);
        gradual_state_clear(&found);
        return status;
    }
    gradual_state_clear(&run->state);
    run->state = found;
    return ESP_OK;
}

static esp_status read_training(const gradual_run *run, gradual_training *found, esp_error *err)
{
    const esp_state_block *block = esp_train_state_find(&found->state, RUN_BLOCK);
    json_t *json = block ? json_loadb(block->data, block->size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    esp_status status = json ? check_identity(run, json_object_get(json, "run"), err)
                             : esp_fail(err, ESP_FORMAT, "it is of no pruning schedule");
    json_int_t phase = json_integer_value(json_object_get(json, "phase"));

    if (status == ESP_OK && (phase < 1 || phase > run->steps + 1))
        status = esp_fail(err, ESP_FORMAT, "phase %lld, expected 1 to %d", (long long)phase, run->steps + 1);
    found->phase = (int)phase;
    found->seconds = json_number_value(json_object_get(json, "seconds"));
    json_decref(json);
    return status;
}

static esp_status load_training(gradual_run *run, const char *path, esp_error *err)
{
    gradual_training found = {0};
    esp_status status = run->options->load_training(path, &found.state, err);

    if (status != ESP_OK) {
        esp_error_set_hint(err, "without this file the run goes on after its last finished step");
        return status; /* names the file */
    }
    status = read_training(run, &found, err);
    if (status == ESP_OK && found.phase == run->state.steps_done + 1) {
        run->state.training = found;
        return ESP_OK;
    }
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", path);
    esp_train_state_free(&found.state);
    return status;
}

esp_status gradual_resume(gradual_run *run, esp_error *err)
{
    const char *state_path = run->options->state_path;
    char *path = training_path(state_path);
    esp_status status = ESP_OK;

    if (!path)
        return esp_fail_memory(err, "a path", strlen(state_path));
    bool has_steps = esp_file_exists(state_path);
    bool has_training = run->options->load_training && esp_file_exists(path);
    if (!has_steps && !has_training) {
        status = esp_fail(err, ESP_STATE, "no state to resume in %s", state_path);
        esp_error_set_hint(err, "a run that came to its end removes it");
    }
    if (status == ESP_OK && has_steps)
        status = load_state(run, err);
    if (status == ESP_OK && has_training)
        status = load_training(run, path, err);
    run->state.owns_files = status == ESP_OK;
    esp_free(path);
    return status;
}
