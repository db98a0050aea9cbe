/* Jobs of a session about the plans of versions and files: taking one over, going back and forward, writing.
 *
 * A plan from elsewhere is fitted to the current version and merged by layer; where something does not fit or
 * both plans say different things, that is told, and nothing changes before the reader says so. */
#include "study/session_plans.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

esp_status esp_session_show(esp_session *session, esp_findings *take_findings, esp_error *err)
{
    if (take_findings->is_broken) {
        esp_shared_unref(take_findings);
        return esp_fail_memory(err, "findings", 0);
    }
    esp_shared_unref(session->now.findings);
    session->now.findings = take_findings;
    session->now.findings_serial++;
    return ESP_OK;
}

/* ---- which plan ---- */

static bool asks_something(const esp_plan *plan)
{
    return plan->conv_ratio > 0 || plan->fc_ratio > 0 || plan->border_ratio > 0 || plan->rule_count > 0;
}

void esp_plan_source_free(esp_plan_source *side)
{
    esp_plan_free(&side->plan);
    esp_free(side->how);
}

/* The plan in "cut" of a version's history; `*found` false when it was not cut. */
static esp_status read_cut(const esp_study_version *version, esp_plan *out, bool *found, esp_error *err)
{
    json_t *how = NULL;
    esp_status status = esp_json_parse(version->how, "how", &how, err);
    const json_t *cut = json_object_get(how, "cut");

    *found = status == ESP_OK && cut;
    if (*found)
        status = esp_plan_from_json(cut, out, err);
    json_decref(how);
    return status;
}

static esp_status plan_of_desk(const esp_session *session, int version, esp_plan *out, esp_error *err)
{
    for (int i = 0; i < session->desk_count; i++)
        if (session->desks[i].version == version)
            return esp_plan_clone(&session->desks[i].plan, out, err);
    *out = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.0);
    return ESP_OK;
}

static esp_status plan_that_made(const esp_session *session, int id, esp_plan_source *out, esp_error *err)
{
    const esp_versions *versions = session->now.versions;

    for (const esp_study_version *at = esp_versions_find(versions, id); at;
         at = esp_versions_find(versions, at->parent)) {
        bool found = false;
        esp_status status = read_cut(at, &out->plan, &found, err);
        if (status != ESP_OK)
            return status;
        if (!found)
            continue;
        out->base = at->parent;
        snprintf(out->about, sizeof out->about, "the plan that cut version %d from version %d", at->id,
                 at->parent);
        return ESP_OK;
    }
    out->base = id;
    snprintf(out->about, sizeof out->about, "nothing was cut: the plan last looked at with version %d", id);
    return plan_of_desk(session, id, &out->plan, err);
}

esp_status esp_session_source_of_version(const esp_session *session, int id, esp_plan_source *out,
                                         esp_error *err)
{
    const esp_study_version *version = esp_versions_find(session->now.versions, id);

    if (!version)
        return esp_fail(err, ESP_INVALID, "there is no version %d", id);
    out->version = id;
    out->metrics = version->metrics;
    snprintf(out->title, sizeof out->title, "%d %.90s", id, version->title);
    out->how = esp_strdup(version->how);
    return out->how ? plan_that_made(session, id, out, err) : esp_fail_memory(err, "version", 64);
}

esp_status esp_session_source_of_screen(esp_session *session, esp_plan_source *out, esp_error *err)
{
    const esp_preview *preview = session->now.box->preview;
    const esp_estimate *estimate = &session->now.estimate;

    out->base = session->now.current;
    out->metrics = (esp_metrics){.counts = preview->after, .latency_ms = -1};
    if (estimate->images > 0) {
        out->metrics.eval_images = estimate->images;
        out->metrics.eval_is_full = estimate->is_full;
        out->metrics.top1 = estimate->top1;
        out->metrics.top1_error = estimate->top1_error;
    } else if (!esp_snapshot_has_cut(&session->now)) {
        out->metrics = esp_snapshot_current(&session->now)->metrics;
    }
    snprintf(out->title, sizeof out->title, "plan now");
    snprintf(out->about, sizeof out->about, "the plan on the screen, of version %d", out->base);
    return esp_plan_clone(&preview->plan, &out->plan, err);
}

/* ---- a version's model, held ---- */

esp_status esp_session_hold_model(esp_session *session, int id, esp_held_model *out, esp_error *err)
{
    esp_status status = esp_session_load_graph(session, id, err);

    if (status != ESP_OK)
        return status;
    out->graph = esp_graph_ref(esp_versions_find(session->now.versions, id)->graph);
    return esp_session_input_shapes(session, id, out->graph, out->shapes, &out->shape_count, err);
}

static void tell_misfit(esp_findings *page, const esp_plan_misfit *item)
{
    bool is_note = item->kind == ESP_MISFIT_NEW || item->kind == ESP_MISFIT_ROUNDING;
    esp_text text = {0};

    esp_text_printf(&text, "%s%s%s", item->text, item->repair ? ": " : "", item->repair ? item->repair : "");
    ESP_FINDINGS_ROW(page, is_note ? ESP_TONE_PLAIN : ESP_TONE_WARN, esp_misfit_word(item->kind), item->layer,
                     text.data);
    page->is_broken = page->is_broken || text.is_broken;
    esp_text_free(&text);
}

static int count_misfits(const esp_plan_fit *fit, esp_misfit_kind kind)
{
    int count = 0;

    for (int i = 0; i < fit->count; i++)
        count += fit->items[i].kind == kind ? 1 : 0;
    return count;
}

/* Layers that a split made come by the hundred. */
#define MOST_NEW_ROWS 4

/* Kind by kind: what was lost comes before what is new. */
void esp_findings_misfits(esp_findings *page, const esp_plan_fit *fit)
{
    static const esp_misfit_kind kinds[] = {
#define KIND_OF(name, word) ESP_MISFIT_##name,
        ESP_MISFIT_LIST(KIND_OF)
#undef KIND_OF
    };

    ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "what", "layer", "why, and what becomes of it");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        int count = count_misfits(fit, kinds[k]), shown = 0;
        int most = kinds[k] == ESP_MISFIT_NEW && count > MOST_NEW_ROWS + 1 ? MOST_NEW_ROWS : count;
        char rest[48];
        for (int i = 0; i < fit->count && shown < most; i++)
            if (fit->items[i].kind == kinds[k]) {
                tell_misfit(page, &fit->items[i]);
                shown++;
            }
        snprintf(rest, sizeof rest, "and %d more", count - shown);
        if (shown < count)
            ESP_FINDINGS_ROW(page, ESP_TONE_DIM, esp_misfit_word(kinds[k]), rest, "");
    }
}

/* ---- taking over ---- */

/* A plan from elsewhere on its way into the present one. */
typedef struct taking {
    esp_plan_source from;
    const char *path; /* the file it is from, or NULL */
    esp_plan_side side;
    esp_plan_fit fit;
    esp_plan merged;
    esp_plan_conflicts conflicts;
    esp_preview *preview; /* of `merged` */
    bool has_ours;        /* the present plan asks something itself */
} taking;

static void free_taking(taking *it)
{
    esp_plan_source_free(&it->from);
    esp_plan_fit_free(&it->fit);
    esp_plan_free(&it->merged);
    esp_plan_conflicts_free(&it->conflicts);
    esp_preview_free(it->preview);
}

static esp_status read_other(esp_session *session, int version, taking *it, esp_error *err)
{
    if (!it->path) {
        esp_status status = esp_session_source_of_version(session, version, &it->from, err);
        return status == ESP_OK && !asks_something(&it->from.plan)
                   ? esp_fail(err, ESP_STATE, "version %d was not cut, and its plan asks nothing", version)
                   : status;
    }
    snprintf(it->from.title, sizeof it->from.title, "%.110s", esp_path_base(it->path));
    return esp_plan_load(it->path, &it->from.plan, err);
}

static esp_status fit_other(esp_session *session, const esp_compute *compute, const esp_held_model *now,
                            taking *it, esp_error *err)
{
    esp_held_model from = {0};
    esp_plan_fit_options options = {
        .renames = true, .input_shapes = now->shapes, .input_shape_count = now->shape_count};
    esp_criterion_data data = {0};
    esp_status status = esp_session_plan_data(session, &it->from.plan, &data, err);

    options.data = data.dataset ? &data : NULL;
    if (status == ESP_OK && it->from.base != 0 && it->from.base != session->now.current) {
        status = esp_session_hold_model(session, it->from.base, &from, err);
        options.from = from.graph;
    }
    if (status == ESP_OK)
        status = esp_plan_fit_new(compute, now->graph, &it->from.plan, &options, &it->fit, err);
    esp_graph_unref(from.graph);
    return status;
}

static esp_status merge_other(esp_session *session, const esp_compute *compute, const esp_held_model *now,
                              taking *it, esp_error *err)
{
    esp_desk *desk = esp_session_desk(session);
    esp_status status;

    it->has_ours = asks_something(&desk->plan);
    if (it->has_ours)
        status = esp_plan_merge(&desk->plan, &it->fit.repaired, it->side, &session->now.box->preview->layers,
                                &it->merged, &it->conflicts, err);
    else
        status = esp_plan_clone(&it->fit.repaired, &it->merged, err);
    if (status == ESP_OK)
        status = esp_session_calibrate(session, &it->merged, desk->cache, err);
    if (status == ESP_OK)
        status = esp_preview_new(compute, now->graph, &it->merged, now->shapes, now->shape_count, desk->cache,
                                 &it->preview, err);
    return status;
}

static const char *side_words(esp_plan_side side)
{
    return side == ESP_PLAN_THEIRS ? "the plan taken over wins"
           : side == ESP_PLAN_OURS ? "the present plan wins"
                                   : "rules of the plan taken over win, other settings stay";
}

static void tell_conflicts(esp_findings *page, const taking *it)
{
    esp_findings_section(page, "Where both plans say something");
    if (it->conflicts.count == 0) {
        esp_findings_say(page, ESP_TONE_GOOD, "no conflicts: rules go side by side");
        return;
    }
    esp_findings_say(page, ESP_TONE_DIM, "%s; o changes that", side_words(it->side));
    ESP_FINDINGS_ROW(page, ESP_TONE_HEADING, "setting", "present", "other", "taken");
    for (int i = 0; i < it->conflicts.count; i++) {
        const esp_plan_conflict *item = &it->conflicts.items[i];
        ESP_FINDINGS_ROW(page, ESP_TONE_PLAIN, item->where, item->a, item->b,
                         item->took_b ? "other" : "present");
    }
}

static esp_status tell_taking(esp_session *session, const taking *it, int version, esp_error *err)
{
    const esp_preview *preview = it->preview;
    esp_findings *page = NULL;
    char before[2][16], after[2][16];
    esp_status status = esp_findings_new(&page, err);

    if (status != ESP_OK)
        return status;
    snprintf(page->title, sizeof page->title, "%.60s onto version %d", it->from.title, session->now.current);
    page->takes_version = it->path ? -1 : version;
    page->side = it->side;
    page->has_sides = it->has_ours;
    if (it->from.about[0])
        esp_findings_say(page, ESP_TONE_DIM, "%s", it->from.about);
    esp_findings_say(page, ESP_TONE_STRONG, "params %s to %s   MACs %s to %s   %d rule%s",
                     esp_format_count(before[0], sizeof before[0], (double)preview->before.params),
                     esp_format_count(after[0], sizeof after[0], (double)preview->after.params),
                     esp_format_count(before[1], sizeof before[1], (double)preview->before.macs),
                     esp_format_count(after[1], sizeof after[1], (double)preview->after.macs),
                     it->merged.rule_count, it->merged.rule_count == 1 ? "" : "s");
    if (preview->stored.params > preview->after.params || preview->stored.macs > preview->after.macs)
        esp_findings_say(page, ESP_TONE_WARN, "stored %s params, %s MACs with the zeros that stay",
                         esp_format_count(after[0], sizeof after[0], (double)preview->stored.params),
                         esp_format_count(after[1], sizeof after[1], (double)preview->stored.macs));
    esp_findings_section(page, "What no longer fits");
    if (it->fit.count > 0)
        esp_findings_misfits(page, &it->fit);
    else
        esp_findings_say(page, ESP_TONE_GOOD, "everything fits");
    if (it->has_ours)
        tell_conflicts(page, it);
    status = esp_session_show(session, page, err);
    return status == ESP_OK ? esp_session_post(session, err) : status;
}

static void say_taken(esp_session *session, const taking *it)
{
    char fits[48] = "it fits", conflicts[48] = "";

    if (it->fit.count > 0)
        snprintf(fits, sizeof fits, "%d thing%s did not fit", it->fit.count, it->fit.count == 1 ? "" : "s");
    if (it->conflicts.count > 0)
        snprintf(conflicts, sizeof conflicts, ", %d conflict%s", it->conflicts.count,
                 it->conflicts.count == 1 ? "" : "s");
    esp_session_say(session, "took over the plan of %s%.80s: %s%s", it->path ? "" : "version ",
                    it->from.title, fits, conflicts);
}

/* The merged plan becomes the present one. */
static esp_status apply_taking(esp_session *session, const esp_compute *compute, taking *it, esp_error *err)
{
    esp_desk *desk = esp_session_desk(session);
    esp_status status;

    esp_plan_free(&desk->plan);
    desk->plan = it->merged;
    it->merged = (esp_plan){0};
    status = esp_session_refresh(session, compute, err);
    if (status != ESP_OK) {
        esp_session_restore_plan(session, desk);
        return status;
    }
    say_taken(session, it);
    esp_session_journal(session, "take plan", it->from.title);
    esp_session_want_estimate(session);
    status = esp_session_post(session, err);
    return status == ESP_OK ? esp_session_give_reasons(session, err) : status;
}

esp_status esp_session_run_take(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const esp_session_job *wanted = (const esp_session_job *)job;
    taking it = {.path = wanted->text, .side = (esp_plan_side)wanted->other_number};
    esp_held_model now = {0};
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK)
        status = esp_session_hold_model(session, session->now.current, &now, err);
    if (status == ESP_OK)
        status = read_other(session, wanted->number, &it, err);
    if (status == ESP_OK)
        status = fit_other(session, compute, &now, &it, err);
    if (status == ESP_OK)
        status = merge_other(session, compute, &now, &it, err);
    if (status == ESP_OK && (wanted->applies || (it.fit.count == 0 && it.conflicts.count == 0)))
        status = apply_taking(session, compute, &it, err);
    else if (status == ESP_OK)
        status = tell_taking(session, &it, wanted->number, err);
    free_taking(&it);
    esp_graph_unref(now.graph);
    return status;
}

/* ---- back and forward ---- */

esp_status esp_session_run_step_plan(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    int direction = ((const esp_session_job *)job)->number;
    esp_desk *desk;
    esp_plan plan;
    esp_error ignored = {0};
    esp_status status = esp_session_need_model(session, err);

    desk = esp_session_desk(session);
    if (status == ESP_OK)
        status = esp_plan_history_step(&desk->history, direction, &plan, err);
    if (status != ESP_OK)
        return status;
    esp_plan_free(&desk->plan);
    desk->plan = plan;
    status = esp_session_refresh(session, compute, err);
    if (status != ESP_OK) {
        if (esp_plan_history_step(&desk->history, -direction, &plan, &ignored) == ESP_OK)
            esp_plan_free(&plan);
        esp_session_restore_plan(session, desk);
        return status;
    }
    esp_session_want_estimate(session);
    status = esp_session_post(session, err);
    return status == ESP_OK ? esp_session_give_reasons(session, err) : status;
}

/* ---- files ---- */

esp_status esp_session_run_save_plan(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const char *path = ((esp_session_job *)job)->text;
    esp_status status = esp_session_need_model(session, err);

    (void)compute;
    if (status == ESP_OK)
        status = esp_plan_save(&session->now.box->preview->plan, path, err);
    if (status != ESP_OK)
        return status;
    esp_session_say(session, "wrote the plan to %s", path);
    esp_session_journal(session, "write plan", path);
    return esp_session_post(session, err);
}
