/* The jobs of a session that open, look, edit, move and save: all quick. Long ones are in session_engine.c.
 */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "io/dataset.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "study/session_internal.h"

#define DATA_SETTING "data"

/* ---- open ---- */

/* File name without directory and ending. */
static void title_of_path(const char *path, char *title, size_t size)
{
    const char *base = esp_path_base(path);
    const char *dot = strrchr(base, '.');

    snprintf(title, size, "%.*s", (int)(dot && dot > base ? dot - base : (long)strlen(base)), base);
}

/* Counts of a model, from a preview that cuts nothing. */
static esp_status count_graph(const esp_session *session, const esp_graph *graph, esp_metrics *out,
                              esp_error *err)
{
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    int shape_count = 0;
    esp_inferred *inferred = NULL;
    esp_status status = esp_input_shapes_parse((const char *const *)session->inputs, session->input_count,
                                               graph, shapes, &shape_count, err);

    memset(out, 0, sizeof *out);
    out->latency_ms = -1;
    if (status == ESP_OK)
        status = esp_infer(graph, 1, shapes, shape_count, &inferred, err);
    if (status == ESP_OK)
        status = esp_model_count(graph, inferred, &out->counts, err);
    esp_inferred_free(inferred);
    return status;
}

static json_t *inputs_json(const esp_session *session)
{
    json_t *list = json_array();

    for (int i = 0; i < session->input_count; i++)
        json_array_append_new(list, json_string(session->inputs[i]));
    return list;
}

/* {"open": path}, with the sizes it was opened with if any were given. */
static json_t *how_opened(const esp_session *session, const char *path)
{
    json_t *how = json_pack("{s:s}", "open", path);

    if (session->input_count > 0)
        json_object_set_new(how, "input", inputs_json(session));
    return how;
}

static esp_status add_root(esp_session *session, const char *path, int *out_id, esp_error *err)
{
    esp_graph *graph = NULL;
    esp_metrics metrics;
    char title[96];
    esp_status status = esp_onnx_load(path, &graph, err);

    if (status == ESP_OK) {
        status = count_graph(session, graph, &metrics, err);
        if (status != ESP_OK)
            esp_error_prefix(err, "%s", path);
    }
    if (status == ESP_OK) {
        *out_id = esp_versions_next_id(session->now.versions);
        title_of_path(path, title, sizeof title);
        status = esp_session_add_version(session, 0, title, how_opened(session, path), graph, &metrics, err);
    }
    esp_graph_unref(graph);
    return status;
}

/* The root of the study that was opened from `path`, with the sizes given now if some are; 0 when there is
 * none. */
static int find_root(const esp_session *session, const char *path)
{
    const esp_versions *versions = session->now.versions;
    json_t *inputs = session->input_count > 0 ? inputs_json(session) : NULL;
    int found = 0;

    for (int i = 0; versions && i < versions->count && !found; i++) {
        const esp_study_version *version = &versions->items[i];
        json_t *how = NULL;
        esp_error ignored = {0};
        if (version->parent != 0 || esp_json_parse(version->how, "how", &how, &ignored) != ESP_OK)
            continue;
        const char *origin = json_string_value(json_object_get(how, "open"));
        if (origin && strcmp(origin, path) == 0 &&
            (!inputs || json_equal(inputs, json_object_get(how, "input"))))
            found = version->id;
        json_decref(how);
    }
    json_decref(inputs);
    return found;
}

static esp_status open_study(esp_session *session, esp_error *err)
{
    esp_versions *versions = NULL;
    esp_status status = ESP_OK;

    if (!session->study_directory || session->store)
        return ESP_OK;
    status = esp_store_open(session->study_directory, &session->store, err);
    if (status == ESP_OK)
        status = esp_store_versions(session->store, &versions, err);
    if (status == ESP_OK) {
        esp_shared_unref(session->now.versions);
        session->now.versions = versions;
        esp_session_recall_training(session);
    }
    return status;
}

/* Where to start: at the model named, else where the study was left. */
static esp_status choose_start(esp_session *session, const char *path, int *out_id, esp_error *err)
{
    int current = session->store ? esp_store_current(session->store) : 0;
    int root = path ? find_root(session, path) : 0;
    const esp_study_version *current_root = esp_versions_root(session->now.versions, current);

    if (!path && session->input_count > 0)
        return esp_fail(err, ESP_INVALID, "--input: no model was named; a study knows its sizes");
    if (path && !root)
        return add_root(session, path, out_id, err);
    *out_id = current_root && (!path || current_root->id == root) ? current : root;
    if (*out_id == 0 && session->now.versions)
        *out_id = session->now.versions->items[0].id;
    if (*out_id == 0)
        return esp_fail(err, ESP_INVALID, "the study has no versions yet, and no model was named");
    return ESP_OK;
}

esp_status esp_session_run_open(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const char *path = ((esp_session_job *)job)->text;
    int start = 0;
    esp_status status = open_study(session, err);

    if (status == ESP_OK)
        status = choose_start(session, path, &start, err);
    if (status == ESP_OK)
        status = esp_session_go_to(session, compute, start, err);
    if (status != ESP_OK)
        return status;
    session->redo_count = 0;
    esp_session_recall_data(session);
    if (session->now.unfinished.version)
        esp_session_say(session, "a training of version %d stopped at epoch %.3g of %g: T goes on with it",
                        session->now.unfinished.version, session->now.unfinished.position,
                        session->now.unfinished.epochs);
    esp_session_journal(session, "open", path ? path : session->study_directory);
    esp_session_want_estimate(session);
    status = esp_session_post(session, err);
    return status == ESP_OK ? esp_session_give_reasons(session, err) : status;
}

/* ---- data ---- */

static void forget_data(esp_session *session)
{
    esp_dataset_unref(session->test_set);
    esp_dataset_unref(session->validation_set);
    esp_dataset_unref(session->training_set);
    esp_dataset_unref(session->calibration_set);
    session->test_set = session->training_set = session->calibration_set = session->validation_set = NULL;
    memset(&session->now.data, 0, sizeof session->now.data);
}

static esp_status open_test_set(esp_session *session, const char *spec, esp_error *err)
{
    const esp_study_version *current = NULL;
    esp_status status = esp_session_current_graph(session, &current, err);

    if (status == ESP_OK)
        status = esp_dataset_open_for(spec, ESP_SPLIT_TEST, current->graph, &session->test_set, err);
    if (status == ESP_OK)
        status = esp_dataset_check_model(session->test_set, current->graph, err);
    if (status == ESP_OK)
        status = esp_dataset_subset(session->test_set, session->calibration_images, 0,
                                    &session->calibration_set, err);
    return status;
}

/* Most data have none of their own; that is no error. */
static void open_validation_set(esp_session *session, const char *spec)
{
    const esp_study_version *current = NULL;
    esp_error ignored = {0};

    if (esp_session_current_graph(session, &current, &ignored) == ESP_OK)
        (void)esp_dataset_open_for(spec, ESP_SPLIT_VALIDATION, current->graph, &session->validation_set,
                                   &ignored);
    session->now.data.validation_count =
        session->validation_set ? esp_dataset_count(session->validation_set) : 0;
}

static esp_status use_data(esp_session *session, const char *spec, esp_error *err)
{
    esp_data_state *data = &session->now.data;
    esp_error ignored = {0};
    esp_status status;

    forget_data(session);
    esp_free(session->data_spec);
    session->data_spec = esp_strdup(spec);
    status = session->data_spec ? open_test_set(session, spec, err) : esp_fail_memory(err, "data", 64);
    if (status != ESP_OK) {
        forget_data(session);
        (void)esp_session_post(session, &ignored);
        return status;
    }
    data->is_open = true;
    snprintf(data->name, sizeof data->name, "%s", esp_dataset_name(session->test_set));
    snprintf(data->note, sizeof data->note, "%s", esp_dataset_note(session->test_set));
    data->test_count = esp_dataset_count(session->test_set);
    open_validation_set(session, spec);
    if (session->store)
        (void)esp_store_set_setting(session->store, DATA_SETTING, spec, &ignored);
    esp_session_want_estimate(session);
    return esp_session_post(session, err);
}

esp_status esp_session_run_data(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    (void)compute;
    return use_data(user, ((esp_session_job *)job)->text, err);
}

esp_status esp_session_use_data(esp_session *session, const char *spec, esp_error *err)
{
    return session->test_set ? ESP_OK : use_data(session, spec, err);
}

/* Data that are gone are said, and no reason not to open the study. */
void esp_session_recall_data(esp_session *session)
{
    char *spec = NULL;
    esp_error err = {0};

    if (!session->recalls_data || !session->store)
        return;
    if (esp_store_setting(session->store, DATA_SETTING, &spec, &err) == ESP_OK && spec &&
        esp_session_use_data(session, spec, &err) != ESP_OK)
        esp_session_say(session, "the study's data: %.120s", err.message);
    esp_free(spec);
}

/* ---- look and edit ---- */

esp_status esp_session_run_select(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const esp_session_job *select = (const esp_session_job *)job;
    esp_layer_detail *detail = NULL;
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK &&
        (select->number < 0 || select->number >= session->now.box->preview->layers.count ||
         select->other_number < 0 || select->other_number >= esp_criterion_count()))
        status = esp_fail(err, ESP_INVALID, "there is no layer %d or no criterion %d", select->number,
                          select->other_number);
    if (status != ESP_OK)
        return status;
    session->selected_layer = select->number;
    session->selected_criterion = select->other_number;
    if (esp_worker_waiting(session->worker, esp_session_run_select) > 0)
        return ESP_OK; /* the cursor has moved on */
    status = esp_session_look(session, compute, &detail, err);
    if (status != ESP_OK)
        return status;
    esp_shared_unref(session->now.detail);
    session->now.detail = detail;
    esp_session_want_estimate(session);
    return esp_session_post(session, err);
}

void esp_session_restore_plan(esp_session *session, esp_desk *desk)
{
    esp_plan shown;
    esp_error ignored = {0};

    if (esp_plan_clone(&session->now.box->preview->plan, &shown, &ignored) != ESP_OK)
        return;
    esp_plan_free(&desk->plan);
    desk->plan = shown;
}

esp_status esp_session_run_edit(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const esp_session_job *edit = (const esp_session_job *)job;
    esp_status status = esp_session_need_model(session, err);
    esp_desk *desk = esp_session_desk(session);

    if (status == ESP_OK)
        status = esp_plan_apply_edit(&desk->plan, &session->now.box->preview->layers, &edit->edit, err);
    if (status != ESP_OK)
        return status;
    if (esp_worker_waiting(session->worker, esp_session_run_edit) > 0)
        return ESP_OK; /* the last of several resolves them all */
    status = esp_session_refresh(session, compute, err);
    if (status != ESP_OK) {
        esp_session_restore_plan(session, desk);
        return status;
    }
    esp_session_want_estimate(session);
    status = esp_session_post(session, err);
    return status == ESP_OK ? esp_session_give_reasons(session, err) : status;
}

/* ---- undo, redo, go ---- */

static esp_status move_to(esp_session *session, const esp_compute *compute, int version, const char *verb,
                          esp_error *err)
{
    esp_status status = esp_session_go_to(session, compute, version, err);

    if (status != ESP_OK)
        return status;
    esp_session_say(session, "%s: version %d, %s", verb, version, esp_snapshot_current(&session->now)->title);
    esp_session_journal(session, verb, session->now.message);
    esp_session_want_estimate(session);
    status = esp_session_post(session, err);
    return status == ESP_OK ? esp_session_give_reasons(session, err) : status;
}

esp_status esp_session_run_undo(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    int from = session->now.current;
    const esp_study_version *current = esp_snapshot_current(&session->now);
    bool is_pushed = false;
    esp_status status;

    (void)job;
    if (!current || current->parent == 0)
        return esp_fail(err, ESP_STATE, "nothing to undo: this is the version that was opened");
    if (session->redo_count < ESP_SESSION_REDO_MAX) {
        session->redo[session->redo_count++] = from;
        is_pushed = true;
    }
    status = move_to(session, compute, current->parent, "undo", err);
    if (status != ESP_OK && is_pushed)
        session->redo_count--;
    return status;
}

esp_status esp_session_run_redo(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    esp_status status;

    (void)job;
    if (session->redo_count == 0)
        return esp_fail(err, ESP_STATE, "nothing to redo");
    session->redo_count--;
    status = move_to(session, compute, session->redo[session->redo_count], "redo", err);
    if (status != ESP_OK)
        session->redo_count++;
    return status;
}

esp_status esp_session_run_go(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    esp_status status = esp_session_need_model(session, err);

    if (status != ESP_OK)
        return status;
    session->redo_count = 0;
    return move_to(session, compute, ((esp_session_job *)job)->number, "go", err);
}

/* ---- save ---- */

esp_status esp_session_run_save(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const char *path = ((esp_session_job *)job)->text;
    const esp_study_version *current = NULL;
    esp_versions *next = NULL;
    esp_study_version saved;
    esp_status status = esp_session_current_graph(session, &current, err);

    (void)compute;
    if (status == ESP_OK)
        status = esp_onnx_save(current->graph, path, err);
    if (status != ESP_OK)
        return status;
    saved = *current;
    saved.is_saved = true;
    status = esp_versions_with(session->now.versions, &saved, &next, err);
    if (status != ESP_OK)
        return status;
    esp_shared_unref(session->now.versions);
    session->now.versions = next;
    esp_session_say(session, "saved version %d as %s", saved.id, path);
    esp_session_journal(session, "save", path);
    return esp_session_post(session, err);
}
