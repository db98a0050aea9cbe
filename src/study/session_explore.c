/* Jobs of a session that explore what to cut: explanations of single filters, sensitivity scans, and ratios
 * solved for a budget. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "prune/budget.h"
#include "prune/grouping_quality.h"
#include "prune/sensitivity.h"
#include "study/session_internal.h"

/* ---- reasons ---- */

esp_status esp_session_give_reasons(esp_session *session, esp_error *err)
{
    esp_reasons *reasons = NULL;
    esp_status status;

    if (esp_worker_waiting(session->worker, esp_session_run_edit) > 0)
        return ESP_OK;
    status = esp_reasons_new(session->now.box, &reasons, err);
    if (status != ESP_OK)
        return status;
    esp_shared_unref(session->now.reasons);
    session->now.reasons = reasons;
    return esp_session_post(session, err);
}

/* ---- explain ---- */

static esp_status explain_in(esp_session *session, int layer, int64_t channel, esp_error *err)
{
    esp_explanation *explanation = NULL;
    esp_status status = esp_explanation_new(session->now.box, layer, channel, &explanation, err);

    if (status != ESP_OK)
        return status;
    esp_shared_unref(session->now.explanation);
    session->now.explanation = explanation;
    return ESP_OK;
}

void esp_session_explain_again(esp_session *session)
{
    const esp_explanation *before = session->now.explanation;
    esp_error ignored = {0};

    if (!before || explain_in(session, before->layer, before->channel, &ignored) == ESP_OK)
        return;
    esp_shared_unref(session->now.explanation);
    session->now.explanation = NULL;
}

esp_status esp_session_run_explain(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const esp_session_job *wanted = (const esp_session_job *)job;
    esp_status status = esp_session_need_model(session, err);

    (void)compute;
    if (status != ESP_OK || esp_worker_waiting(session->worker, esp_session_run_explain) > 0)
        return status; /* the cursor has moved on */
    status = explain_in(session, wanted->number, wanted->channel, err);
    return status == ESP_OK ? esp_session_post(session, err) : status;
}

/* ---- what criteria look at ---- */

esp_status esp_session_plan_data(esp_session *session, const esp_plan *plan, esp_criterion_data *out,
                                 esp_error *err)
{
    const esp_criterion *criterion = NULL;
    esp_status status = ESP_OK;

    if (plan->method != ESP_METHOD_FILTER)
        return ESP_OK;
    status = esp_criterion_find(plan->criterion, &criterion, err);
    if (status != ESP_OK || !esp_criterion_needs_data(criterion))
        return status;
    status = esp_session_need_training_set(session, err);
    if (status == ESP_OK)
        *out = (esp_criterion_data){
            .dataset = session->training_set, .mean = session->mean, .std = session->std, .seed = plan->seed};
    return status;
}

esp_status esp_session_calibrate(esp_session *session, const esp_plan *plan, esp_grouping_cache *cache,
                                 esp_error *err)
{
    esp_criterion_data data = {0};
    esp_status status = esp_session_plan_data(session, plan, &data, err);

    return status == ESP_OK && data.dataset
               ? esp_preview_calibrate(cache, data.dataset, data.images, data.seed, err)
               : status;
}

/* ---- scan ---- */

/* "wsp sound", "sg faithful", "filter l1": what parts are masked by. */
static void name_masking(const esp_plan *plan, char *text, size_t size)
{
    snprintf(text, size, "%s %s", esp_method_word(plan->method),
             plan->method == ESP_METHOD_FILTER ? plan->criterion : esp_mode_word(plan->mode));
}

typedef struct scan_watch {
    esp_session *session;
    const esp_preview_box *box;
    int version;
    char by[64];
    double posted_s;
} scan_watch;

/* A reader sees no more than this many pictures a second. */
#define PICTURES_PER_S 8.0

static esp_status show_scan(const scan_watch *watch, const esp_sensitivity *so_far, bool is_running,
                            esp_error *err)
{
    esp_scan *scan = NULL;
    esp_status status =
        esp_scan_new(so_far, &watch->box->preview->layers, watch->version, watch->by, is_running, &scan, err);

    if (status != ESP_OK)
        return status;
    esp_shared_unref(watch->session->now.scan);
    watch->session->now.scan = scan;
    return esp_session_post(watch->session, err);
}

static void on_scan_point(void *user, const esp_sensitivity *so_far, int curve, int point)
{
    scan_watch *watch = user;
    esp_error ignored = {0};

    (void)curve;
    (void)point;
    if (esp_clock_s() - watch->posted_s < 1.0 / PICTURES_PER_S)
        return;
    watch->posted_s = esp_clock_s();
    (void)show_scan(watch, so_far, true, &ignored); /* the next picture will have this point too */
}

/* Where a study keeps the points of a scan. */
static esp_status scan_path(const esp_session *session, const scan_watch *watch, char **out, esp_error *err)
{
    esp_text path = {0};
    char by[64];

    *out = NULL;
    if (!session->study_directory)
        return ESP_OK;
    snprintf(by, sizeof by, "%s", watch->by);
    for (char *blank = strchr(by, ' '); blank; blank = strchr(by, ' '))
        *blank = '-';
    esp_text_printf(&path, "%s/scan-%04d-%s.jsonl", session->study_directory, watch->version, by);
    *out = esp_text_take(&path);
    return *out ? ESP_OK : esp_fail_memory(err, "the path of a scan", 256);
}

static esp_status run_scan(scan_watch *watch, const esp_compute *compute, esp_sensitivity **out,
                           esp_error *err)
{
    esp_session *session = watch->session;
    esp_sensitivity_options options = {.plan = &watch->box->preview->plan,
                                       .images = session->calibration_images,
                                       .mean = session->mean,
                                       .std = session->std,
                                       .resumes = true,
                                       .on_point = on_scan_point,
                                       .user = watch};
    char *path = NULL;
    esp_status status = scan_path(session, watch, &path, err);

    options.path = path;
    if (status == ESP_OK)
        status = esp_sensitivity_scan(compute, watch->box->preview->graph, session->training_set, &options,
                                      out, err);
    esp_free(path);
    return status;
}

static void say_scan(esp_session *session, const esp_sensitivity *found, bool is_stopped)
{
    int parts = 0;

    for (int c = 0; c < found->curve_count; c++)
        parts += found->curves[c].point_count > 0 ? 1 : 0;
    esp_session_say(session,
                    is_stopped ? "%d parts on %lld training images were begun; S goes on"
                               : "scanned %d parts on %lld training images",
                    parts, (long long)found->images);
}

esp_status esp_session_run_scan(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    scan_watch watch = {.session = session};
    esp_sensitivity *found = NULL;
    esp_error later = {0};
    esp_status status = esp_session_need_training_set(session, err);

    (void)job;
    if (status != ESP_OK)
        return status;
    watch.box = esp_shared_ref(session->now.box);
    watch.version = session->now.current;
    name_masking(&watch.box->preview->plan, watch.by, sizeof watch.by);
    status = run_scan(&watch, compute, &found, err);
    if (found) {
        esp_sensitivity_free(session->sensitivity);
        session->sensitivity = found;
        snprintf(session->sensitivity_by, sizeof session->sensitivity_by, "%s", watch.by);
        say_scan(session, found, status == ESP_CANCELLED);
        esp_session_journal(session, "scan", watch.by);
        (void)show_scan(&watch, found, false, &later);
    }
    esp_shared_unref(watch.box);
    return status;
}

/* ---- solve ---- */

/* "macs=0.5,params=0.6 saliency" in two parts; the second may be missing. */
static esp_status parse_budget(const char *text, esp_budget_options *options, esp_error *err)
{
    char targets[128] = "", word[32] = "", more[2] = "";
    int count = sscanf(text, "%127s %31s %1s", targets, word, more);
    esp_status status;

    if (count < 1 || count > 2)
        return esp_fail(err, ESP_INVALID,
                        "budget '%s', expected targets and how to spread them, as in "
                        "'macs=0.5 saliency'",
                        text);
    status = esp_budget_targets_parse(targets, options->targets, err);
    if (status == ESP_OK && count == 2)
        status = esp_distribution_parse(word, &options->distribution, err);
    return status;
}

static esp_status need_scan(const esp_session *session, const esp_plan *plan, esp_error *err)
{
    char by[64];

    name_masking(plan, by, sizeof by);
    if (session->sensitivity && session->now.scan && session->now.scan->version == session->now.current &&
        strcmp(by, session->sensitivity_by) == 0)
        return ESP_OK;
    esp_fail(err, ESP_STATE, "by sensitivity: this version was not scanned by %s", by);
    esp_error_set_hint(err, "S scans it");
    return ESP_STATE;
}

static void say_solved(esp_session *session, const esp_budget_report *report)
{
    char text[160];
    int used = 0;

    for (int m = 0; m < ESP_BUDGET_COUNT; m++) {
        const esp_budget_amount *amount = &report->amounts[m];
        if (!amount->is_set || used >= (int)sizeof text)
            continue;
        used += snprintf(text + used, sizeof text - (size_t)used, "%s%s at %.3g of what it was (asked %.3g)",
                         used > 0 ? ", " : "", esp_budget_word((esp_budget_measure)m),
                         amount->after / amount->before, amount->target / amount->before);
    }
    esp_session_say(session, "solved: %s, %d previews", text, report->previews);
}

/* What a budget starts from: the plan as it is, or, when the last budget made it and nobody changed it since,
 * what that one started from: its ratios are answers, not wishes. */
static const esp_plan *plan_to_solve(const esp_session *session, const esp_preview *preview)
{
    const esp_desk *desk = esp_session_desk((esp_session *)session);
    json_t *now = NULL, *solved = NULL;
    esp_error ignored = {0};
    bool is_solved = desk->has_solved && esp_plan_to_json(&preview->plan, &now, &ignored) == ESP_OK &&
                     esp_plan_to_json(&desk->solved, &solved, &ignored) == ESP_OK && json_equal(now, solved);

    json_decref(now);
    json_decref(solved);
    return is_solved ? &desk->asked : &preview->plan;
}

/* Remembers what was solved of what. */
static esp_status remember_solution(esp_desk *desk, const esp_plan *asked, const esp_plan *solved,
                                    esp_error *err)
{
    esp_plan from, to;
    esp_status status = esp_plan_clone(asked, &from, err);

    if (status != ESP_OK)
        return status;
    status = esp_plan_clone(solved, &to, err);
    if (status != ESP_OK) {
        esp_plan_free(&from);
        return status;
    }
    esp_plan_free(&desk->asked);
    esp_plan_free(&desk->solved);
    desk->asked = from;
    desk->solved = to;
    desk->has_solved = true;
    return ESP_OK;
}

/* The desk's plan becomes `*take_plan`, which is freed when that fails. */
static esp_status replace_plan(esp_session *session, const esp_compute *compute, esp_plan *take_plan,
                               esp_error *err)
{
    esp_desk *desk = esp_session_desk(session);
    esp_plan before = desk->plan;
    esp_status status;

    desk->plan = *take_plan;
    status = esp_session_refresh(session, compute, err);
    if (status != ESP_OK) {
        esp_plan_free(&desk->plan);
        desk->plan = before;
        return status;
    }
    esp_plan_free(&before);
    return ESP_OK;
}

static esp_status take_solution(esp_session *session, const esp_compute *compute, const esp_plan *asked,
                                esp_plan *take_solved, esp_error *err)
{
    esp_status status = remember_solution(esp_session_desk(session), asked, take_solved, err);

    if (status == ESP_OK)
        return replace_plan(session, compute, take_solved, err);
    esp_plan_free(take_solved);
    return status;
}

/* With a cache of its own: keys that change the plan meanwhile use the desk's. */
static esp_status solve_with(esp_session *session, const esp_compute *compute, const esp_graph *graph,
                             const esp_plan *plan, const esp_budget_options *options, esp_plan *out,
                             esp_budget_report *report, esp_error *err)
{
    esp_grouping_cache *cache = NULL;
    esp_status status = esp_grouping_cache_new(&cache, err);

    if (status == ESP_OK)
        status = esp_session_calibrate(session, plan, cache, err);
    if (status == ESP_OK)
        status = esp_budget_solve(compute, graph, plan, options, cache, out, report, err);
    esp_grouping_cache_free(cache);
    return status;
}

/* Shapes, and the latency table where one is wanted; `*out_table` is freed by the caller. */
static esp_status complete_options(esp_session *session, const esp_graph *graph, esp_budget_options *options,
                                   esp_input_shape *shapes, char **out_table, esp_error *err)
{
    esp_status status = esp_session_input_shapes(session, session->now.current, graph, shapes,
                                                 &options->input_shape_count, err);

    options->input_shapes = shapes;
    if (status == ESP_OK && options->targets[ESP_BUDGET_LATENCY].is_set)
        status = esp_latency_table_path(out_table, err);
    options->table_path = *out_table;
    return status;
}

static esp_status solve(esp_session *session, const esp_compute *compute, esp_budget_options *options,
                        esp_budget_report *report, esp_error *err)
{
    const esp_preview_box *box = esp_shared_ref(session->now.box);
    const esp_graph *graph = box->preview->graph;
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    int version = session->now.current;
    esp_plan asked = {0}, solved;
    char *table = NULL;
    esp_status status = esp_plan_clone(plan_to_solve(session, box->preview), &asked, err);

    if (status == ESP_OK)
        status = complete_options(session, graph, options, shapes, &table, err);
    if (status == ESP_OK)
        status = solve_with(session, compute, graph, &asked, options, &solved, report, err);
    if (status == ESP_OK && session->now.current != version) {
        esp_plan_free(&solved);
        status = esp_fail(err, ESP_STATE, "another version became current while the budget was solved");
    }
    if (status == ESP_OK)
        status = take_solution(session, compute, &asked, &solved, err);
    esp_free(table);
    esp_plan_free(&asked);
    esp_shared_unref(box);
    return status;
}

esp_status esp_session_run_solve(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const char *text = ((esp_session_job *)job)->text;
    esp_budget_options options = {0};
    esp_budget_report report = {0};
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK)
        status = parse_budget(text, &options, err);
    if (status == ESP_OK && options.distribution == ESP_DISTRIBUTION_SENSITIVITY) {
        status = need_scan(session, &session->now.box->preview->plan, err);
        options.sensitivity = session->sensitivity;
    }
    if (status != ESP_OK)
        return status;
    status = solve(session, compute, &options, &report, err);
    if (status != ESP_OK)
        return status;
    say_solved(session, &report);
    esp_session_journal(session, "solve", text);
    esp_session_want_estimate(session);
    status = esp_session_post(session, err);
    return status == ESP_OK ? esp_session_give_reasons(session, err) : status;
}

/* ---- groups ---- */

/* Figures of one layer of a preview by self-grouping, with a suggestion. */
static esp_status report_layer(const esp_compute *compute, const esp_preview *preview, int layer,
                               esp_groups_report *out, esp_error *err)
{
    esp_groups_options options = esp_groups_defaults();
    bool *only = esp_alloc_zero((size_t)preview->layers.count, sizeof *only);
    esp_status status;

    if (!only)
        return esp_fail_memory(err, "groups", (size_t)preview->layers.count);
    only[layer] = true;
    options.only = only;
    options.suggests = true;
    status = esp_groups_report_new(compute, preview, &options, out, err);
    esp_free(only);
    if (status == ESP_OK && out->count == 0) {
        esp_groups_report_free(out);
        status = esp_fail(err, ESP_STATE, "'%s' is not grouped: %s", preview->layers.items[layer].name,
                          preview->items[layer].note);
    }
    return status;
}

/* The plan with the suggestion in it becomes the desk's. */
static esp_status follow_suggestion(esp_session *session, const esp_compute *compute,
                                    const esp_preview *preview, const esp_groups_report *report,
                                    esp_error *err)
{
    esp_plan plan;
    esp_status status = esp_plan_clone(&esp_session_desk(session)->plan, &plan, err);

    if (status != ESP_OK)
        return status;
    status = esp_groups_suggest_rules(preview, report, &plan, err);
    if (status != ESP_OK) {
        esp_plan_free(&plan);
        return status;
    }
    return replace_plan(session, compute, &plan, err);
}

esp_status esp_session_run_suggest(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    int layer = ((const esp_session_job *)job)->number;
    esp_groups_report report = {0};
    const esp_preview_box *box;
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK && (layer < 0 || layer >= session->now.box->preview->layers.count))
        status = esp_fail(err, ESP_INVALID, "there is no layer %d", layer);
    if (status != ESP_OK)
        return status;
    box = esp_shared_ref(session->now.box);
    status = report_layer(compute, box->preview, layer, &report, err);
    if (status == ESP_OK && session->now.current != 0)
        status = follow_suggestion(session, compute, box->preview, &report, err);
    if (status == ESP_OK) {
        const esp_layer_groups *found = &report.items[0];
        esp_session_say(session, "%lld groups had silhouette %.2f; %lld suggested (bend %.2f of 1)",
                        (long long)found->k, found->silhouette, (long long)found->suggested, found->bend);
        status = esp_session_post(session, err);
    }
    esp_groups_report_free(&report);
    esp_shared_unref(box);
    return status;
}
