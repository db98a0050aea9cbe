/* Versions of a session: which is current, what lies on its desk (plan and clusterings), and how a new one
 * comes in. Every change goes to the study on disk, when there is one, before it is shown. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/memory.h"
#include "study/session_internal.h"

esp_status esp_session_need_model(const esp_session *session, esp_error *err)
{
    if (session->now.current == 0)
        return esp_fail(err, ESP_STATE, "no model is open");
    return ESP_OK;
}

/* Whether a version is in memory only because the study could not take it. */
static bool is_outside(const esp_session *session, int id)
{
    const esp_study_version *version = esp_versions_find(session->now.versions, id);

    return version && version->is_outside;
}

void esp_session_journal(esp_session *session, const char *action, const char *detail)
{
    esp_error err = {0};

    /* The journal is a convenience: an action that succeeded is not undone because it could not be noted. Of
     * a version outside of the study that much was said already. */
    if (session->store && esp_store_journal(session->store, action, detail, &err) != ESP_OK &&
        !is_outside(session, session->now.current))
        esp_session_say(session, "journal: %s", err.message);
}

/* ---- desks ---- */

esp_desk *esp_session_desk(esp_session *session)
{
    for (int i = 0; i < session->desk_count; i++)
        if (session->desks[i].version == session->now.current)
            return &session->desks[i];
    return NULL;
}

/* A fresh desk takes over method, mode and groups from the one in use, with nothing to cut. */
static esp_status first_plan(esp_session *session, esp_plan *out, esp_error *err)
{
    const esp_desk *old = esp_session_desk(session);
    const esp_plan_edit reset = {.kind = ESP_EDIT_RESET};
    esp_status status;

    if (!old) {
        *out = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.0);
        return ESP_OK;
    }
    status = esp_plan_clone(&old->plan, out, err);
    if (status == ESP_OK)
        status = esp_plan_apply_edit(out, NULL, &reset, err);
    return status;
}

/* The desk of `version`, made when it is not there. Desks may move: do not keep the pointer. */
static esp_status open_desk(esp_session *session, int version, esp_error *err)
{
    esp_desk *grown;
    esp_desk desk = {.version = version};
    esp_status status;

    for (int i = 0; i < session->desk_count; i++)
        if (session->desks[i].version == version)
            return ESP_OK;
    grown = esp_realloc(session->desks, (size_t)session->desk_count, (size_t)session->desk_count + 1,
                        sizeof *grown);
    if (!grown)
        return esp_fail_memory(err, "desk", sizeof *grown);
    session->desks = grown;
    status = first_plan(session, &desk.plan, err);
    if (status == ESP_OK)
        status = esp_plan_history_note(&desk.history, &desk.plan, err);
    if (status == ESP_OK)
        status = esp_grouping_cache_new(&desk.cache, err);
    if (status != ESP_OK) {
        esp_plan_history_free(&desk.history);
        esp_plan_free(&desk.plan);
        return status;
    }
    session->desks[session->desk_count++] = desk;
    return ESP_OK;
}

/* ---- the current version ---- */

esp_status esp_session_load_graph(esp_session *session, int id, esp_error *err)
{
    const esp_study_version *version = esp_versions_find(session->now.versions, id);
    esp_versions *next = NULL;
    esp_study_version loaded;
    esp_status status;

    if (!version)
        return esp_fail(err, ESP_INVALID, "there is no version %d", id);
    if (version->graph)
        return ESP_OK;
    loaded = *version;
    status = esp_store_graph(session->store, id, &loaded.graph, err);
    if (status == ESP_OK)
        status = esp_versions_with(session->now.versions, &loaded, &next, err);
    if (status == ESP_OK) {
        esp_shared_unref(session->now.versions);
        session->now.versions = next;
    }
    esp_graph_unref(loaded.graph);
    return status;
}

esp_status esp_session_current_graph(esp_session *session, const esp_study_version **out, esp_error *err)
{
    esp_status status = esp_session_need_model(session, err);

    *out = NULL;
    if (status == ESP_OK)
        status = esp_session_load_graph(session, session->now.current, err);
    if (status == ESP_OK)
        *out = esp_snapshot_current(&session->now);
    return status;
}

esp_status esp_session_input_shapes(const esp_session *session, int id, const esp_graph *graph,
                                    esp_input_shape *shapes, int *out_count, esp_error *err)
{
    const esp_study_version *root = esp_versions_root(session->now.versions, id);
    const char *items[ESP_INPUT_SHAPES_MAX + 1];
    int count = 0;
    json_t *how = NULL, *item;
    size_t i;
    esp_status status;

    *out_count = 0;
    if (!root)
        return ESP_OK;
    status = esp_json_parse(root->how, "how", &how, err);
    if (status != ESP_OK)
        return status;
    json_array_foreach(json_object_get(how, "input"), i, item)
    {
        if (json_is_string(item) && count <= ESP_INPUT_SHAPES_MAX)
            items[count++] = json_string_value(item);
    }
    status = esp_input_shapes_parse(items, count, graph, shapes, out_count, err);
    json_decref(how);
    return status;
}

static esp_status resolve(esp_session *session, const esp_compute *compute, int version,
                          esp_preview_box **out, esp_error *err)
{
    esp_preview *preview = NULL;
    const esp_study_version *subject = esp_versions_find(session->now.versions, version);
    const esp_desk *desk = NULL;
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    int shape_count = 0;
    esp_status status = esp_session_input_shapes(session, version, subject->graph, shapes, &shape_count, err);

    *out = NULL;
    for (int i = 0; i < session->desk_count; i++)
        if (session->desks[i].version == version)
            desk = &session->desks[i];
    if (status == ESP_OK)
        status = esp_session_calibrate(session, &desk->plan, desk->cache, err);
    if (status == ESP_OK)
        status = esp_preview_new(compute, subject->graph, &desk->plan, shapes, shape_count, desk->cache,
                                 &preview, err);
    return status == ESP_OK ? esp_preview_box_new(preview, out, err) : status;
}

static void show_box(esp_session *session, esp_preview_box *take_box)
{
    esp_shared_unref(session->now.box);
    session->now.box = take_box;
    memset(&session->now.estimate, 0, sizeof session->now.estimate);
}

esp_status esp_session_refresh(esp_session *session, const esp_compute *compute, esp_error *err)
{
    esp_preview_box *box = NULL;
    esp_status status = resolve(session, compute, session->now.current, &box, err);

    if (status == ESP_OK) {
        esp_desk *desk = esp_session_desk(session);
        esp_error ignored = {0};
        show_box(session, box);
        esp_session_explain_again(session);
        (void)esp_plan_history_note(&desk->history, &desk->plan, &ignored); /* a step less to go back */
    }
    return status;
}

/* Coupled sets do not depend on the plan: found once per version, when a layer is looked at. */
static esp_status find_coupling(esp_session *session, esp_desk *desk, esp_error *err)
{
    const esp_preview_box *box = session->now.box;
    esp_status status;

    if (desk->coupling)
        return ESP_OK;
    status = esp_coupling_new(box->preview->graph, box->preview->inferred, &box->preview->layers,
                              &desk->coupling, err);
    if (status == ESP_OK)
        desk->coupled = esp_shared_ref(box);
    return status;
}

void esp_session_forget_scores(esp_desk *desk)
{
    for (int l = 0; l < desk->score_count; l++)
        esp_free(desk->scores[l]);
    esp_free(desk->scores);
    desk->scores = NULL;
    desk->score_count = desk->scored = 0;
}

/* Scores of all layers by a criterion that looks at data, kept for the next layer. */
static esp_status score_on_data(esp_session *session, const esp_compute *compute, esp_desk *desk,
                                esp_error *err)
{
    const esp_preview *preview = session->now.box->preview;
    const esp_criterion *criterion = esp_criterion_at(session->selected_criterion);
    esp_criterion_data data = {.mean = session->mean, .std = session->std, .seed = desk->plan.seed};
    esp_status status;

    if (desk->scored == session->selected_criterion + 1)
        return ESP_OK;
    esp_session_forget_scores(desk);
    status = esp_session_need_training_set(session, err);
    if (status != ESP_OK)
        return status;
    data.dataset = session->training_set;
    desk->scores = esp_alloc_zero((size_t)preview->layers.count, sizeof *desk->scores);
    if (!desk->scores)
        return esp_fail_memory(err, "scores", (size_t)preview->layers.count * sizeof *desk->scores);
    status = esp_saliency_all(compute, preview->graph, &preview->layers, criterion, &data, desk->plan.seed,
                              desk->scores, err);
    if (status != ESP_OK) {
        esp_session_forget_scores(desk);
        return status;
    }
    desk->score_count = preview->layers.count;
    desk->scored = session->selected_criterion + 1;
    return ESP_OK;
}

/* What is known of the selected layer; NULL for criteria that look at weights only. */
static esp_status find_scores(esp_session *session, const esp_compute *compute, esp_desk *desk,
                              const double **out, esp_error *err)
{
    const esp_criterion *criterion = esp_criterion_at(session->selected_criterion);
    esp_status status;

    *out = NULL;
    if (!esp_criterion_needs_data(criterion))
        return ESP_OK;
    status = score_on_data(session, compute, desk, err);
    if (status != ESP_OK)
        return status;
    *out = desk->scores[session->selected_layer];
    return *out ? ESP_OK
                : esp_fail(err, ESP_UNSUPPORTED, "criterion '%s' says nothing of '%s'", criterion->name,
                           session->now.box->preview->layers.items[session->selected_layer].name);
}

esp_status esp_session_look(esp_session *session, const esp_compute *compute, esp_layer_detail **out,
                            esp_error *err)
{
    const esp_preview *preview = session->now.box->preview;
    esp_desk *desk = esp_session_desk(session);
    const int32_t *slots;
    const double *scores = NULL;
    esp_status status = find_coupling(session, desk, err);

    *out = NULL;
    if (status == ESP_OK)
        status = find_scores(session, compute, desk, &scores, err);
    if (status == ESP_OK)
        status = esp_layer_detail_new(compute, preview, session->now.current, session->selected_layer,
                                      session->selected_criterion, scores, out, err);
    if (status != ESP_OK)
        return status;
    slots = esp_coupling_writes(desk->coupling, session->selected_layer);
    if (slots)
        (*out)->set = esp_coupling_slot_set(desk->coupling, slots[0]);
    return ESP_OK;
}

/* The layer looked at, again for the version that is current now; it may have fewer layers. */
static void refresh_detail(esp_session *session, const esp_compute *compute)
{
    esp_layer_detail *detail = NULL;
    esp_error ignored = {0};

    if (session->now.detail && session->selected_layer < session->now.box->preview->layers.count)
        (void)esp_session_look(session, compute, &detail, &ignored);
    esp_shared_unref(session->now.detail);
    session->now.detail = detail;
}

esp_status esp_session_go_to(esp_session *session, const esp_compute *compute, int version, esp_error *err)
{
    esp_preview_box *box = NULL;
    esp_status status = esp_session_load_graph(session, version, err);

    if (status == ESP_OK)
        status = open_desk(session, version, err);
    if (status == ESP_OK)
        status = resolve(session, compute, version, &box, err);
    if (status == ESP_OK && session->store && !is_outside(session, version))
        status = esp_store_set_current(session->store, version, err);
    if (status != ESP_OK) {
        esp_shared_unref(box);
        return status;
    }
    session->now.current = version;
    show_box(session, box);
    esp_session_explain_again(session);
    refresh_detail(session, compute);
    return ESP_OK;
}

/* ---- changes of the list ---- */

esp_status esp_session_put_version(esp_session *session, const esp_study_version *version, bool is_new,
                                   esp_error *err)
{
    esp_versions *next = NULL;
    esp_status status = esp_versions_with(session->now.versions, version, &next, err);

    if (status == ESP_OK && session->store && !version->is_outside)
        status = is_new ? esp_store_add(session->store, version, err)
                        : esp_store_set_metrics(session->store, version->id, &version->metrics, err);
    if (status != ESP_OK) {
        esp_shared_unref(next);
        return status;
    }
    esp_shared_unref(session->now.versions);
    session->now.versions = next;
    return ESP_OK;
}

static void stamp_time(char *target, size_t size)
{
    time_t now = time(NULL);
    struct tm parts;

    target[0] = '\0';
    if (gmtime_r(&now, &parts))
        strftime(target, size, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

/* What was worked for long is not given up because the disk is full: the version stays in memory, the user is
 * told with the next message, and can write it to a file. */
static esp_status add_outside(esp_session *session, esp_study_version *version, esp_error *err)
{
    version->is_outside = true;
    version->is_saved = false;
    snprintf(session->untold, sizeof session->untold,
             "the study cannot take version %d (disk full?), s writes it", version->id);
    return esp_session_put_version(session, version, true, err);
}

esp_status esp_session_add_version(esp_session *session, int parent, const char *title, json_t *take_how,
                                   const esp_graph *graph, const esp_metrics *metrics, esp_error *err)
{
    esp_study_version version = {
        .id = esp_versions_next_id(session->now.versions), .parent = parent, .metrics = *metrics};
    esp_status status;

    version.graph = esp_graph_ref(graph);
    version.how = take_how ? esp_json_dump(take_how, 1) : NULL;
    version.is_saved = session->store != NULL || parent == 0;
    snprintf(version.title, sizeof version.title, "%s", title);
    stamp_time(version.created, sizeof version.created);
    if (!version.how)
        status = esp_fail_memory(err, "version", sizeof version);
    else if (is_outside(session, parent))
        status = add_outside(session, &version, err);
    else
        status = esp_session_put_version(session, &version, true, err);
    if (status == ESP_IO && parent > 0 && session->store)
        status = add_outside(session, &version, err);
    json_decref(take_how);
    esp_version_clear(&version);
    return status;
}
