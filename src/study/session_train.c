/* Fine-tuning in a session: the job, its curves, and the version it ends in.
 *
 * The best epoch is chosen on a tenth of the training images that is held back (by seed, of every class); the
 * test set is measured afterwards, like that of any version. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "study/session_internal.h"
#include "train/trainer.h"

#define VALIDATION_SHARE 0.1

static esp_status add_point(esp_session *session, const esp_training_point *point, esp_error *err)
{
    esp_training_log *log = NULL;
    esp_status status = esp_training_log_with(session->now.training, point, &log, err);

    if (status != ESP_OK)
        return status;
    esp_shared_unref(session->now.training);
    session->now.training = log;
    return esp_session_post(session, err);
}

/* Progress passes through here on its way to the reader, and leaves a point on the curve a few dozen times
 * per epoch. */
typedef struct training_watch {
    esp_session *session;
    const esp_compute *outer;
    double epochs, last_epoch;
} training_watch;

#define POINTS_PER_EPOCH 40.0

static void on_training_progress(void *user, const esp_progress *progress)
{
    training_watch *watch = user;
    double epoch = progress->total > 0 ? progress->done / progress->total * watch->epochs : 0.0;
    esp_error ignored = {0};

    if (progress->loss > 0 && epoch - watch->last_epoch >= 1.0 / POINTS_PER_EPOCH) {
        const esp_training_point point = {.epoch = epoch,
                                          .loss = progress->loss,
                                          .top1 = NAN,
                                          .train_top1 = 100.0 * progress->share_right,
                                          .images_per_s = progress->rate};
        watch->last_epoch = epoch;
        (void)add_point(watch->session, &point, &ignored); /* a curve with a point less is still a curve */
    }
    esp_compute_report(watch->outer, progress);
}

static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    const esp_training_point point = {.epoch = report->epoch,
                                      .loss = report->train_loss,
                                      .top1 = report->validation.top1,
                                      .train_top1 = report->train_top1,
                                      .lr = report->lr,
                                      .images_per_s = report->images_per_s,
                                      .is_validated = report->validation.images > 0,
                                      .is_best = report->is_best};

    return add_point(user, &point, err);
}

/* A batch whose loss is above this ends a training: rates that are far too high. */
#define MAX_LOSS 1e4

static esp_train_options training_options(const esp_session *session, const esp_finetune *wanted,
                                          const esp_held_masks *masks)
{
    esp_train_options options = esp_train_defaults();

    options.epochs_limit = wanted->epochs;
    options.optimizer = wanted->optimizer;
    options.schedule =
        esp_schedule_make(wanted->has_schedule ? wanted->schedule : options.schedule.kind,
                          wanted->lr > 0 ? wanted->lr : esp_optimizer_default_lr(wanted->optimizer));
    options.max_loss = MAX_LOSS;
    if (wanted->batch > 0)
        options.batch = wanted->batch;
    options.train_limit = wanted->train_limit;
    options.validation_limit = wanted->validation_limit;
    options.masks = masks->items;
    options.mask_count = masks->count;
    options.evaluates_first = true;
    options.mean = session->mean;
    options.std = session->std;
    options.on_epoch = on_epoch;
    return options;
}

/* What a training leaves behind; `status` is its own. */
static esp_status finish_training(esp_session *session, const esp_compute *compute, esp_status status,
                                  int parent, const esp_train_options *options, const esp_graph *graph,
                                  const esp_train_result *result, esp_error *err)
{
    const esp_study_version *from = esp_versions_find(session->now.versions, parent);
    bool is_cancelled = status == ESP_CANCELLED;
    int made = esp_versions_next_id(session->now.versions);
    esp_metrics metrics = esp_metrics_of_shapes(&from->metrics);
    char title[96];
    json_t *how;

    if (!graph || result->best_epoch == 0) {
        esp_session_say(session, is_cancelled ? "no finished epoch was better than the start: no new version"
                                              : "no epoch was better than the start: no new version");
        return status;
    }
    snprintf(title, sizeof title, "%g epoch%s%s", options->epochs_limit,
             options->epochs_limit == 1.0 ? "" : "s", is_cancelled ? " (stopped)" : "");
    how = json_pack("{s:{s:f, s:s, s:f, s:s, s:I, s:f, s:f, s:b, s:i, s:f}}", "train", "epochs",
                    options->epochs_limit, "optimizer", esp_optimizer_word(options->optimizer), "lr",
                    options->schedule.lr, "schedule", esp_schedule_word(options->schedule.kind), "batch",
                    (json_int_t)options->batch, "momentum", options->momentum, "weight_decay",
                    options->weight_decay, "distilled", options->teacher != NULL, "best_epoch",
                    result->best_epoch, "validation_top1", result->best.top1);
    status = esp_session_add_version(session, parent, title, how, graph, &metrics, err);
    if (status == ESP_OK)
        status = esp_session_go_to(session, compute, made, err);
    if (status != ESP_OK)
        return status;
    session->redo_count = 0;
    esp_session_say(session, "fine-tuned: version %d, validation top-1 %.2f %% -> %.2f %% at epoch %d", made,
                    result->first.top1, result->best.top1, result->best_epoch);
    esp_session_journal(session, "train", esp_snapshot_current(&session->now)->how);
    return is_cancelled ? ESP_CANCELLED : ESP_OK;
}

/* What a training works on, held while other jobs may change the session. */
typedef struct training_scene {
    esp_graph *start, *teacher;
    esp_dataset *training, *validation;
    esp_held_masks masks;
} training_scene;

static void release_scene(training_scene *scene)
{
    esp_held_masks_free(&scene->masks);
    esp_dataset_unref(scene->training);
    esp_dataset_unref(scene->validation);
    esp_graph_unref(scene->start);
    esp_graph_unref(scene->teacher);
}

/* The version that the current one descends from teaches. */
static esp_status find_teacher(esp_session *session, training_scene *scene, esp_error *err)
{
    int root = esp_snapshot_baseline(&session->now)->id;
    esp_status status = esp_session_load_graph(session, root, err);

    if (status == ESP_OK)
        scene->teacher = esp_graph_ref(esp_versions_find(session->now.versions, root)->graph);
    return status;
}

static esp_status set_scene(esp_session *session, const esp_finetune *wanted, esp_graph *start,
                            training_scene *scene, esp_error *err)
{
    esp_status status;

    *scene = (training_scene){.start = esp_graph_ref(start)};
    status = esp_held_masks_of(start, &scene->masks, err);
    if (status == ESP_OK)
        status = esp_dataset_split(session->training_set, VALIDATION_SHARE, 0, &scene->training,
                                   &scene->validation, err);
    if (status == ESP_OK && wanted->distils)
        status = find_teacher(session, scene, err);
    if (status != ESP_OK)
        release_scene(scene);
    return status;
}

static esp_status train(esp_session *session, const esp_compute *compute, const esp_finetune *wanted,
                        const esp_study_version *from, esp_error *err)
{
    /* The token of a training that was cancelled would stop what follows it too. */
    const esp_compute afterwards = {.pool = compute->pool};
    training_watch watch = {.session = session, .outer = compute, .epochs = wanted->epochs};
    esp_compute watched = *compute;
    training_scene scene;
    esp_graph *best = NULL;
    esp_train_result result = {0};
    int parent = from->id;
    esp_status status = set_scene(session, wanted, from->graph, &scene, err);

    if (status != ESP_OK)
        return status;
    esp_train_options options = training_options(session, wanted, &scene.masks);
    options.teacher = scene.teacher;
    options.epoch_user = session;
    watched.on_progress = on_training_progress;
    watched.progress_user = &watch;
    status =
        esp_train(&watched, scene.start, scene.training, scene.validation, &options, &best, &result, err);
    if (status == ESP_OK || status == ESP_CANCELLED)
        status = finish_training(session, &afterwards, status, parent, &options, best, &result, err);
    esp_graph_unref(best);
    release_scene(&scene);
    return status;
}

esp_status esp_session_run_finetune(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    const esp_finetune *wanted = &((esp_session_job *)job)->finetune;
    const esp_study_version *from = NULL;
    esp_training_log *log = NULL, *stopped = NULL;
    esp_error later = {0};
    esp_status status = esp_session_current_graph(session, &from, err);

    if (status == ESP_OK)
        status = esp_session_need_training_set(session, err);
    if (status == ESP_OK)
        status = esp_training_log_new(from->id, wanted->epochs, &log, err);
    if (status != ESP_OK)
        return status;
    esp_shared_unref(session->now.training);
    session->now.training = log;
    status = esp_session_post(session, err);
    if (status == ESP_OK)
        status = train(session, compute, wanted, from, err);
    if (esp_training_log_stopped(session->now.training, &stopped, &later) == ESP_OK) {
        esp_shared_unref(session->now.training);
        session->now.training = stopped;
    }
    esp_session_want_estimate(session);
    (void)esp_session_post(session, &later);
    return status;
}
