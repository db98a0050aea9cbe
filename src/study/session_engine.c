/* The long jobs of a session: estimate, evaluate, bench, cut, fine-tune. Urgent jobs may run in between, so
 * each one holds its own references to what it works on and looks the world up again when it is done. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "io/dataset.h"
#include "prune/reconstruct.h"
#include "prune/surgery.h"
#include "study/session_internal.h"
#include "train/recalibrate.h"

/* ---- accuracy ---- */

esp_status esp_session_need_data(const esp_session *session, esp_error *err)
{
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK && !session->test_set) {
        status = esp_fail(err, ESP_STATE, "no data is open");
        esp_error_set_hint(err, "start with --data SPEC");
    }
    return status;
}

esp_status esp_session_need_training_set(esp_session *session, esp_error *err)
{
    const esp_study_version *current = NULL;
    esp_status status = esp_session_need_data(session, err);

    if (status == ESP_OK && !session->training_set)
        status = esp_session_current_graph(session, &current, err);
    if (status == ESP_OK && !session->training_set)
        status = esp_dataset_open_for(session->data_spec, ESP_SPLIT_TRAIN, current->graph,
                                      &session->training_set, err);
    if (status == ESP_OK)
        session->now.data.train_count = esp_dataset_count(session->training_set);
    return status;
}

static esp_status evaluate_on(esp_session *session, const esp_compute *compute, const esp_graph *graph,
                              bool is_full, esp_eval_result *out, esp_error *err)
{
    esp_eval_options options = {.mean = session->mean, .std = session->std};

    return esp_evaluate(compute, graph, is_full ? session->test_set : session->calibration_set, &options, out,
                        err);
}

/* Evaluates a version unless that is known already; posts what was found. */
static esp_status evaluate_version(esp_session *session, const esp_compute *compute, int id, bool is_full,
                                   esp_error *err)
{
    const esp_study_version *version = esp_versions_find(session->now.versions, id);
    esp_eval_result result;
    esp_graph *graph;
    esp_study_version changed;
    esp_status status;

    if (!version || version->metrics.eval_is_full || (!is_full && version->metrics.eval_images > 0))
        return ESP_OK;
    status = esp_session_load_graph(session, id, err);
    if (status != ESP_OK)
        return status;
    graph = esp_graph_ref(esp_versions_find(session->now.versions, id)->graph);
    status = evaluate_on(session, compute, graph, is_full, &result, err);
    esp_graph_unref(graph);
    if (status != ESP_OK)
        return status;
    changed = *esp_versions_find(session->now.versions, id);
    esp_metrics_set_eval(&changed.metrics, &result, is_full);
    status = esp_session_put_version(session, &changed, false, err);
    return status == ESP_OK ? esp_session_post(session, err) : status;
}

/* The plan's accuracy, masks applied. Nothing is shown when the plan has changed meanwhile. */
static esp_status evaluate_plan(esp_session *session, const esp_compute *compute, bool is_full,
                                esp_error *err)
{
    const esp_preview_box *box;
    esp_graph *masked = NULL;
    esp_eval_result result;
    esp_status status;

    if (!esp_snapshot_has_cut(&session->now) ||
        session->now.estimate.images >= (is_full ? esp_dataset_count(session->test_set) : 1))
        return ESP_OK;
    box = esp_shared_ref(session->now.box);
    status = esp_preview_masked_graph(box->preview, &masked, err);
    if (status == ESP_OK)
        status = evaluate_on(session, compute, masked, is_full, &result, err);
    if (status == ESP_OK && box == session->now.box) {
        session->now.estimate = (esp_estimate){.images = result.images,
                                               .is_full = is_full,
                                               .top1 = result.top1,
                                               .top1_error = result.top1_error};
        status = esp_session_post(session, err);
    }
    esp_graph_unref(masked);
    esp_shared_unref(box);
    return status;
}

static int root_id(const esp_session *session)
{
    const esp_study_version *root = esp_snapshot_baseline(&session->now);

    return root ? root->id : 0;
}

esp_status esp_session_run_estimate(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    esp_status status = esp_session_need_data(session, err);

    (void)job;
    if (status == ESP_OK)
        status = evaluate_version(session, compute, root_id(session), false, err);
    if (status == ESP_OK)
        status = evaluate_version(session, compute, session->now.current, false, err);
    return status == ESP_OK ? evaluate_plan(session, compute, false, err) : status;
}

static bool lacks_eval(const esp_study_version *version)
{
    return version && version->metrics.eval_images == 0;
}

void esp_session_want_estimate(esp_session *session)
{
    const esp_study_version *current = esp_snapshot_current(&session->now);
    esp_session_job *job = NULL;
    esp_error ignored = {0};
    bool is_wanted = lacks_eval(current) || lacks_eval(esp_snapshot_baseline(&session->now)) ||
                     (esp_snapshot_has_cut(&session->now) && session->now.estimate.images == 0);

    /* An estimate that cannot be queued comes with the next change; nobody asked for it. */
    if (session->calibration_set && is_wanted &&
        esp_session_job_new("estimate", ESP_JOB_BACKGROUND, esp_session_run_estimate, NULL, &job, &ignored) ==
            ESP_OK)
        (void)esp_worker_submit(session->worker, &job->job, NULL, &ignored);
}

esp_status esp_session_run_evaluate(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    int root = root_id(session), current = session->now.current;
    esp_status status = esp_session_need_data(session, err);

    (void)job;
    if (status == ESP_OK)
        status = evaluate_version(session, compute, root, true, err);
    if (status == ESP_OK)
        status = evaluate_version(session, compute, current, true, err);
    if (status == ESP_OK)
        status = evaluate_plan(session, compute, true, err);
    if (status != ESP_OK)
        return status;
    esp_session_say(session, "evaluated on %lld test images",
                    (long long)esp_dataset_count(session->test_set));
    esp_session_journal(session, "evaluate", "{}");
    return esp_session_post(session, err);
}

/* ---- latency ---- */

/* Times of nodes for what grouping gains; the medians of a few runs will do. */
enum { GROUPING_REPEATS = 7 };

static esp_status measure_grouping(const esp_compute *compute, const esp_graph *graph,
                                   const esp_latency_options *latency, esp_metrics *metrics, esp_error *err)
{
    esp_latency_options options = *latency;
    esp_latency_result result = {0};
    esp_inferred *inferred = NULL;
    esp_grouping_gains gains = {0};

    options.repeats = GROUPING_REPEATS;
    esp_status status = esp_measure_latency(compute, graph, &options, true, &result, err);
    if (status == ESP_OK)
        status =
            esp_infer(graph, options.batch, options.input_shapes, options.input_shape_count, &inferred, err);
    if (status == ESP_OK)
        status = esp_grouping_gains_measure(compute, graph, inferred, result.node_ms, &gains, err);
    if (status == ESP_OK)
        esp_metrics_set_grouping(metrics, &gains);
    esp_grouping_gains_free(&gains);
    esp_inferred_free(inferred);
    esp_free(result.node_ms);
    esp_free(result.node_info);
    return status;
}

static esp_status measure_version(esp_session *session, const esp_compute *compute, int id, esp_error *err)
{
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    esp_latency_options options = {.batch = 1, .input_shapes = shapes};
    esp_latency_result result = {0};
    esp_graph *graph;
    esp_study_version changed;
    esp_status status = esp_session_load_graph(session, id, err);

    if (status != ESP_OK)
        return status;
    graph = esp_graph_ref(esp_versions_find(session->now.versions, id)->graph);
    status = esp_session_input_shapes(session, id, graph, shapes, &options.input_shape_count, err);
    if (status == ESP_OK)
        status = esp_measure_latency(compute, graph, &options, false, &result, err);
    changed = *esp_versions_find(session->now.versions, id);
    if (status == ESP_OK)
        status = measure_grouping(compute, graph, &options, &changed.metrics, err);
    esp_graph_unref(graph);
    if (status != ESP_OK)
        return status;
    esp_metrics_set_latency(&changed.metrics, &result);
    return esp_session_put_version(session, &changed, false, err);
}

/* "grouped 1.90x of 2.50x, 2 of 5 layers slower than dense", or what the figure is. */
static void describe_latency(const esp_session *session, const esp_metrics *metrics, char *text, size_t size)
{
    int used;

    snprintf(text, size, "median of single images");
    if (metrics->grouped_layers == 0 || session->now.hides_timings)
        return;
    used = snprintf(text, size, "grouping gains %.2fx of %.2fx", metrics->grouping_real,
                    metrics->grouping_theory);
    if (metrics->grouped_slower > 0)
        snprintf(text + used, size - (size_t)used, ", %d of %d layers slower than dense",
                 metrics->grouped_slower, metrics->grouped_layers);
}

esp_status esp_session_run_measure(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    int current = session->now.current;
    int root = root_id(session);
    char text[120];
    esp_status status = esp_session_need_model(session, err);

    (void)job;
    if (status == ESP_OK && root != current &&
        esp_versions_find(session->now.versions, root)->metrics.latency_ms < 0)
        status = measure_version(session, compute, root, err);
    if (status == ESP_OK)
        status = measure_version(session, compute, current, err);
    if (status != ESP_OK)
        return status;
    describe_latency(session, &esp_versions_find(session->now.versions, current)->metrics, text, sizeof text);
    esp_session_say(session, "version %d on %d thread%s: %s", current, session->now.thread_count,
                    session->now.thread_count == 1 ? "" : "s", text);
    esp_session_journal(session, "bench", "{}");
    return esp_session_post(session, err);
}

/* ---- cut ---- */

static void title_of_cut(const esp_plan *plan, bool is_solved, char *title, size_t size)
{
    int used = snprintf(title, size, "%s %.2f", esp_method_word(plan->method), plan->conv_ratio);

    if (plan->method == ESP_METHOD_SG)
        used += snprintf(title + used, size - (size_t)used, " x%d", plan->groups);
    snprintf(title + used, size - (size_t)used, "%s cut%s", plan->rule_count > 0 ? " +rules" : "",
             is_solved ? ", solved" : "");
}

static esp_status make_cut_version(esp_session *session, const esp_preview *preview, int parent,
                                   const esp_graph *graph, const esp_surgery_report *report, bool is_solved,
                                   esp_error *err)
{
    esp_metrics metrics = {.counts = report->counts, .latency_ms = -1};
    json_t *plan = NULL;
    char title[96];
    esp_status status = esp_plan_to_json(&preview->plan, &plan, err);

    if (status != ESP_OK)
        return status;
    title_of_cut(&preview->plan, is_solved, title, sizeof title);
    return esp_session_add_version(session, parent, title,
                                   json_pack(is_solved ? "{s:o, s:b}" : "{s:o}", "cut", plan, "solved", 1),
                                   graph, &metrics, err);
}

/* Surgery, after the weights of layers that lose input were solved anew if that is wanted. */
static esp_status operate(esp_session *session, const esp_compute *compute, const esp_preview *preview,
                          bool is_solved, esp_graph **out, esp_surgery_report *report, esp_error *err)
{
    const esp_surgery_options surgery = esp_surgery_defaults();
    esp_reconstruct_options options = {
        .mean = session->mean, .std = session->std, .seed = preview->plan.seed};
    esp_graph *masked = NULL;
    esp_status status;

    if (!is_solved)
        return esp_surgery(compute, preview, &surgery, out, report, err);
    status = esp_session_need_training_set(session, err);
    options.dataset = session->training_set;
    if (status == ESP_OK)
        status = esp_reconstruct(compute, preview, &options, &masked, NULL, err);
    if (status == ESP_OK)
        status = esp_reconstruct_cut(compute, preview, masked, &surgery, out, report, err);
    esp_graph_unref(masked);
    return status;
}

esp_status esp_session_run_cut(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    bool is_solved = ((const esp_session_job *)job)->number == 1;
    esp_surgery_report report = {0};
    const esp_preview_box *box = NULL;
    esp_graph *graph = NULL;
    int parent = session->now.current;
    int made = esp_versions_next_id(session->now.versions);
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK && !esp_snapshot_has_cut(&session->now)) {
        status = esp_fail(err, ESP_STATE, "nothing to cut: the plan keeps every weight");
        esp_error_set_hint(err, "raise a ratio first");
    }
    if (status != ESP_OK)
        return status;
    box = esp_shared_ref(session->now.box);
    status = operate(session, compute, box->preview, is_solved, &graph, &report, err);
    if (status == ESP_OK)
        status = make_cut_version(session, box->preview, parent, graph, &report, is_solved, err);
    if (status == ESP_OK)
        status = esp_session_go_to(session, compute, made, err);
    if (status == ESP_OK) {
        session->redo_count = 0;
        esp_session_say(session, "cut: version %d, %lld slots removed, largest relative difference %.1e",
                        made, (long long)report.slots_removed, report.largest_relative);
        esp_session_journal(session, "cut", esp_snapshot_current(&session->now)->how);
        esp_session_want_estimate(session);
        status = esp_session_post(session, err);
    }
    esp_graph_unref(graph);
    esp_shared_unref(box);
    return status;
}

/* ---- recalibrate ---- */

esp_status esp_session_run_recalibrate(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    esp_recalibrate_options options = {
        .images = 2 * session->calibration_images, .mean = session->mean, .std = session->std};
    esp_recalibrate_result result = {0};
    esp_graph *graph = NULL, *better = NULL;
    const esp_study_version *from = NULL;
    int parent, made;
    esp_status status = esp_session_need_training_set(session, err);

    (void)job;
    if (status == ESP_OK)
        status = esp_session_current_graph(session, &from, err);
    if (status != ESP_OK)
        return status;
    parent = from->id;
    esp_metrics metrics = esp_metrics_of_shapes(&from->metrics);
    graph = esp_graph_ref(from->graph);
    status = esp_recalibrate(compute, graph, session->training_set, &options, &better, &result, err);
    esp_graph_unref(graph);
    if (status == ESP_OK && result.norms == 0)
        status = esp_fail(err, ESP_STATE, "nothing to recalibrate: this version has no batch-norm");
    made = esp_versions_next_id(session->now.versions);
    if (status == ESP_OK)
        status = esp_session_add_version(
            session, parent, "recalibrated",
            json_pack("{s:{s:I}}", "recalibrate", "images", (json_int_t)result.images), better, &metrics,
            err);
    esp_graph_unref(better);
    if (status == ESP_OK)
        status = esp_session_go_to(session, compute, made, err);
    if (status != ESP_OK)
        return status;
    session->redo_count = 0;
    esp_session_say(session, "recalibrated %d batch-norms on %lld training images: version %d", result.norms,
                    (long long)result.images, made);
    esp_session_journal(session, "recalibrate", esp_snapshot_current(&session->now)->how);
    esp_session_want_estimate(session);
    return esp_session_post(session, err);
}
