/* Life of a session, its commands (each makes a job), and the snapshots it posts.
 *
 * `now` is the snapshot being composed: only the worker thread touches it, and posting copies its pointers
 * into a new immutable snapshot. So an operation sets the parts it changed and posts; a failure before that
 * changes nothing. */
#include "study/session.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "study/session_internal.h"

#define JOB_CAPACITY               64
#define DEFAULT_CALIBRATION_IMAGES 500

/* ---- life ---- */

static esp_status copy_options(esp_session *session, const esp_session_options *options, esp_error *err)
{
    session->study_directory = esp_strdup(options->study_directory);
    session->mean = esp_strdup(options->mean);
    session->std = esp_strdup(options->std);
    session->calibration_images =
        options->calibration_images > 0 ? options->calibration_images : DEFAULT_CALIBRATION_IMAGES;
    if (options->input_count > ESP_INPUT_SHAPES_MAX)
        return esp_fail(err, ESP_INVALID, "--input: given more than %d times", ESP_INPUT_SHAPES_MAX);
    for (int i = 0; i < options->input_count; i++) {
        session->inputs[i] = esp_strdup(options->inputs[i]);
        if (!session->inputs[i])
            return esp_fail_memory(err, "session", sizeof *session);
        session->input_count++;
    }
    session->now.hides_timings = options->hides_timings;
    session->recalls_data = options->recalls_data;
    session->now.finetune = esp_finetune_defaults();
    session->now.has_study = options->study_directory != NULL;
    if ((options->study_directory && !session->study_directory) || (options->mean && !session->mean) ||
        (options->std && !session->std))
        return esp_fail_memory(err, "session", sizeof *session);
    return ESP_OK;
}

esp_status esp_session_new(const esp_session_options *options, esp_session **out, esp_error *err)
{
    esp_session *session = esp_alloc_zero(1, sizeof *session);
    esp_status status;

    *out = NULL;
    if (!session)
        return esp_fail_memory(err, "session", sizeof *session);
    pthread_mutex_init(&session->mutex, NULL);
    status = copy_options(session, options, err);
    if (status == ESP_OK)
        status = esp_worker_new(JOB_CAPACITY, options->thread_count, session, &session->worker, err);
    if (status == ESP_OK) {
        session->now.thread_count = esp_worker_thread_count(session->worker);
        status = esp_snapshot_new(&session->now, &session->latest, err);
    }
    if (status != ESP_OK) {
        esp_session_free(session);
        return status;
    }
    *out = session;
    return ESP_OK;
}

static void free_desks(esp_session *session)
{
    for (int i = 0; i < session->desk_count; i++) {
        esp_plan_free(&session->desks[i].plan);
        esp_session_forget_scores(&session->desks[i]);
        esp_plan_history_free(&session->desks[i].history);
        esp_plan_free(&session->desks[i].asked);
        esp_plan_free(&session->desks[i].solved);
        esp_grouping_cache_free(session->desks[i].cache);
        esp_coupling_free(session->desks[i].coupling);
        esp_shared_unref(session->desks[i].coupled);
    }
    esp_free(session->desks);
}

void esp_session_free(esp_session *session)
{
    if (!session)
        return;
    esp_worker_free(session->worker);
    esp_shared_unref(session->latest);
    esp_shared_unref(session->now.versions);
    esp_shared_unref(session->now.box);
    esp_shared_unref(session->now.detail);
    esp_shared_unref(session->now.reasons);
    esp_shared_unref(session->now.explanation);
    esp_shared_unref(session->now.training);
    esp_shared_unref(session->now.scan);
    esp_shared_unref(session->now.findings);
    esp_session_keep_free(session);
    esp_sensitivity_free(session->sensitivity);
    esp_store_close(session->store);
    esp_dataset_unref(session->training_set);
    esp_dataset_unref(session->test_set);
    esp_dataset_unref(session->validation_set);
    esp_dataset_unref(session->calibration_set);
    free_desks(session);
    pthread_mutex_destroy(&session->mutex);
    esp_free(session->study_directory);
    for (int i = 0; i < session->input_count; i++)
        esp_free(session->inputs[i]);
    esp_free(session->mean);
    esp_free(session->std);
    esp_free(session->data_spec);
    esp_free(session);
}

/* ---- snapshots and messages ---- */

int esp_session_fd(const esp_session *session)
{
    return esp_worker_fd(session->worker);
}

bool esp_session_next_event(esp_session *session, esp_event *out)
{
    return esp_worker_next_event(session->worker, out);
}

size_t esp_session_busy(esp_session *session)
{
    return esp_worker_busy(session->worker);
}

size_t esp_session_demanded(esp_session *session)
{
    return esp_worker_demanded(session->worker);
}

const esp_snapshot *esp_session_snapshot(esp_session *session)
{
    const esp_snapshot *snapshot;

    pthread_mutex_lock(&session->mutex);
    snapshot = esp_shared_ref(session->latest);
    pthread_mutex_unlock(&session->mutex);
    return snapshot;
}

static int parent_to_undo(const esp_session *session)
{
    const esp_study_version *current = esp_snapshot_current(&session->now);

    return current && esp_versions_find(session->now.versions, current->parent) ? current->parent : 0;
}

esp_status esp_session_post(esp_session *session, esp_error *err)
{
    esp_snapshot *next = NULL;
    esp_snapshot *previous;
    const esp_desk *desk = esp_session_desk(session);
    esp_status status;

    session->now.serial++;
    session->now.undo_to = parent_to_undo(session);
    session->now.can_take_back = desk && esp_plan_history_has(&desk->history, -1);
    session->now.can_go_forward = desk && esp_plan_history_has(&desk->history, 1);
    session->now.redo_to = session->redo_count > 0 ? session->redo[session->redo_count - 1] : 0;
    status = esp_snapshot_new(&session->now, &next, err);
    if (status != ESP_OK)
        return status;
    pthread_mutex_lock(&session->mutex);
    previous = session->latest;
    session->latest = next;
    pthread_mutex_unlock(&session->mutex);
    esp_shared_unref(previous);
    esp_worker_notice(session->worker);
    return ESP_OK;
}

void esp_session_say(esp_session *session, const char *format, ...)
{
    char *text = session->now.message;
    size_t size = sizeof session->now.message, used = 0;
    va_list arguments;

    if (session->untold[0])
        used = (size_t)snprintf(text, size, "%s; ", session->untold);
    session->untold[0] = '\0';
    va_start(arguments, format);
    vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
    session->now.message_serial++;
}

/* ---- commands ---- */

static void release_job(esp_job *take_job)
{
    esp_session_job *job = (esp_session_job *)take_job;

    esp_free(job->text);
    esp_free(job);
}

esp_status esp_session_job_new(const char *title, unsigned flags, esp_job_run_fn *run, const char *text,
                               esp_session_job **out, esp_error *err)
{
    esp_session_job *job = esp_alloc_zero(1, sizeof *job);

    *out = NULL;
    if (job)
        job->text = esp_strdup(text);
    if (!job || (text && !job->text)) {
        esp_free(job);
        return esp_fail_memory(err, "job", sizeof *job);
    }
    job->job.title = title;
    job->job.flags = flags;
    job->job.run = run;
    job->job.release = release_job;
    *out = job;
    return ESP_OK;
}

static esp_status submit_plain(esp_session *session, const char *title, unsigned flags, esp_job_run_fn *run,
                               const char *text, int number, esp_error *err)
{
    esp_session_job *job = NULL;
    esp_status status = esp_session_job_new(title, flags, run, text, &job, err);

    if (status != ESP_OK)
        return status;
    job->number = number;
    return esp_worker_submit(session->worker, &job->job, NULL, err);
}

esp_status esp_session_open(esp_session *session, const char *path, esp_error *err)
{
    return submit_plain(session, "open", 0, esp_session_run_open, path, 0, err);
}

esp_status esp_session_open_data(esp_session *session, const char *spec, esp_error *err)
{
    return submit_plain(session, "read data", 0, esp_session_run_data, spec, 0, err);
}

esp_status esp_session_edit_plan(esp_session *session, const esp_plan_edit *edit, esp_error *err)
{
    esp_session_job *job = NULL;
    esp_status status = esp_session_job_new("plan", ESP_JOB_URGENT, esp_session_run_edit, NULL, &job, err);

    if (status != ESP_OK)
        return status;
    job->edit = *edit;
    return esp_worker_submit(session->worker, &job->job, NULL, err);
}

/* An urgent job about two numbers. */
static esp_status submit_pair(esp_session *session, const char *title, esp_job_run_fn *run, int number,
                              int other, esp_error *err)
{
    esp_session_job *job = NULL;
    esp_status status = esp_session_job_new(title, ESP_JOB_URGENT, run, NULL, &job, err);

    if (status != ESP_OK)
        return status;
    job->number = number;
    job->other_number = other;
    return esp_worker_submit(session->worker, &job->job, NULL, err);
}

esp_status esp_session_select_layer(esp_session *session, int layer, int criterion, esp_error *err)
{
    return submit_pair(session, "look", esp_session_run_select, layer, criterion, err);
}

esp_status esp_session_explain(esp_session *session, int layer, int64_t channel, esp_error *err)
{
    esp_session_job *job = NULL;
    esp_status status =
        esp_session_job_new("explain", ESP_JOB_URGENT, esp_session_run_explain, NULL, &job, err);

    if (status != ESP_OK)
        return status;
    job->number = layer;
    job->channel = channel;
    return esp_worker_submit(session->worker, &job->job, NULL, err);
}

esp_status esp_session_scan(esp_session *session, esp_error *err)
{
    return submit_plain(session, "scan", 0, esp_session_run_scan, NULL, 0, err);
}

esp_status esp_session_suggest_groups(esp_session *session, int layer, esp_error *err)
{
    return submit_plain(session, "suggest groups", 0, esp_session_run_suggest, NULL, layer, err);
}

esp_status esp_session_solve(esp_session *session, const char *text, esp_error *err)
{
    return submit_plain(session, "solve", 0, esp_session_run_solve, text, 0, err);
}

esp_status esp_session_evaluate(esp_session *session, esp_error *err)
{
    return submit_plain(session, "evaluate", 0, esp_session_run_evaluate, NULL, 0, err);
}

esp_status esp_session_measure(esp_session *session, esp_error *err)
{
    return submit_plain(session, "bench", 0, esp_session_run_measure, NULL, 0, err);
}

esp_status esp_session_cut(esp_session *session, esp_error *err)
{
    return submit_plain(session, "cut", 0, esp_session_run_cut, NULL, 0, err);
}

esp_status esp_session_cut_reconstructed(esp_session *session, esp_error *err)
{
    return submit_plain(session, "cut", 0, esp_session_run_cut, NULL, 1, err);
}

esp_status esp_session_recalibrate(esp_session *session, esp_error *err)
{
    return submit_plain(session, "recalibrate", 0, esp_session_run_recalibrate, NULL, 0, err);
}

esp_status esp_session_finetune(esp_session *session, const esp_finetune *options, esp_error *err)
{
    esp_session_job *job = NULL;
    esp_status status = esp_session_job_new("fine-tune", 0, esp_session_run_finetune, NULL, &job, err);

    if (status != ESP_OK)
        return status;
    job->finetune = *options;
    return esp_worker_submit(session->worker, &job->job, NULL, err);
}

esp_status esp_session_resume(esp_session *session, esp_error *err)
{
    return submit_plain(session, "fine-tune", 0, esp_session_run_resume, NULL, 0, err);
}

esp_status esp_session_compare(esp_session *session, int a, int b, esp_error *err)
{
    return submit_pair(session, "compare", esp_session_run_compare, a, b, err);
}

esp_status esp_session_take_plan(esp_session *session, int version, const char *path, esp_plan_side side,
                                 bool applies, esp_error *err)
{
    esp_session_job *job = NULL;
    esp_status status =
        esp_session_job_new("take plan", ESP_JOB_URGENT, esp_session_run_take, path, &job, err);

    if (status != ESP_OK)
        return status;
    job->number = version;
    job->other_number = (int)side;
    job->applies = applies;
    return esp_worker_submit(session->worker, &job->job, NULL, err);
}

esp_status esp_session_step_plan(esp_session *session, int direction, esp_error *err)
{
    return submit_plain(session, "plan", ESP_JOB_URGENT, esp_session_run_step_plan, NULL, direction, err);
}

esp_status esp_session_save_plan(esp_session *session, const char *path, esp_error *err)
{
    return submit_plain(session, "write plan", ESP_JOB_URGENT, esp_session_run_save_plan, path, 0, err);
}

esp_status esp_session_save(esp_session *session, const char *path, esp_error *err)
{
    return submit_plain(session, "save", 0, esp_session_run_save, path, 0, err);
}

esp_status esp_session_undo(esp_session *session, esp_error *err)
{
    return submit_plain(session, "undo", ESP_JOB_URGENT, esp_session_run_undo, NULL, 0, err);
}

esp_status esp_session_redo(esp_session *session, esp_error *err)
{
    return submit_plain(session, "redo", ESP_JOB_URGENT, esp_session_run_redo, NULL, 0, err);
}

esp_status esp_session_go(esp_session *session, int version, esp_error *err)
{
    return submit_plain(session, "go", ESP_JOB_URGENT, esp_session_run_go, NULL, version, err);
}

void esp_session_cancel(esp_session *session)
{
    esp_worker_cancel_all(session->worker);
}
