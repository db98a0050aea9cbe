/* Fine-tuning in a session: the job, its curves, and the version it ends in.
 *
 * The best epoch is chosen on a share of the training images that is held back (by seed, of every class), or
 * on the test images when the user says so; the test set is measured afterwards, like that of any version. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "io/dataset.h"
#include "study/session_internal.h"
#include "train/trainer.h"

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

/* A curve gets a point a few dozen times per epoch, but not more than some thousands in all. */
#define LEAST_POINTS     100.0
#define MOST_POINTS      2000.0
#define POINTS_PER_EPOCH 40.0

static double points_apart(double epochs)
{
    return fmax(fmin(epochs / LEAST_POINTS, 1.0 / POINTS_PER_EPOCH), epochs / MOST_POINTS);
}

/* Averages over the steps of about a fiftieth of the training, but a few at least. They go on from epoch to
 * epoch: averages of an epoch begin with the noise of single batches. */
#define LEAST_MEMORY 8.0
#define MEMORY_SHARE 0.02

typedef struct training_watch {
    esp_session *session;
    double epochs, apart, last_epoch;
    double loss, top1;         /* moving averages; NaN before the first step */
    double position, top1_sum; /* of the step before: in epochs, and percent times the share of its epoch */
} training_watch;

static double move_average(double average, double value, double weight)
{
    return isfinite(average) ? average + weight * (value - average) : value;
}

/* The batch's own top-1 is what the average over its epoch changed by. */
static void follow_step(training_watch *watch, const esp_step_report *report)
{
    double share = report->position - (report->epoch - 1), sum = report->epoch_top1 * share;
    bool is_same_epoch = watch->position > report->epoch - 1;
    double step = report->position - (is_same_epoch ? watch->position : report->epoch - 1);
    double weight = fmax(step / fmax(MEMORY_SHARE * watch->epochs, LEAST_MEMORY * step), 1e-6);

    if (!(step > 0))
        return;
    watch->loss = move_average(watch->loss, report->loss, weight);
    watch->top1 = move_average(watch->top1, (sum - (is_same_epoch ? watch->top1_sum : 0.0)) / step, weight);
    watch->position = report->position;
    watch->top1_sum = sum;
}

static esp_status on_step(void *user, esp_trainer *trainer, const esp_step_report *report, esp_error *err)
{
    training_watch *watch = user;

    (void)trainer;
    follow_step(watch, report);
    const esp_training_point point = {.epoch = report->position,
                                      .loss = watch->loss,
                                      .top1 = NAN,
                                      .validation_loss = NAN,
                                      .train_top1 = watch->top1,
                                      .lr = report->lr,
                                      .images_per_s = report->images_per_s,
                                      .eta_s = report->eta_s};

    if (report->position - watch->last_epoch < watch->apart)
        return ESP_OK;
    watch->last_epoch = report->position;
    (void)add_point(watch->session, &point, err); /* a curve with a point less is still a curve */
    return ESP_OK;
}

/* A curve that goes on does so where it ended. */
static training_watch start_watch(esp_session *session, double epochs, const esp_training_log *log)
{
    training_watch watch = {
        .session = session, .epochs = epochs, .apart = points_apart(epochs), .loss = NAN, .top1 = NAN};

    for (int i = 0; i < log->count; i++) {
        const esp_training_point *point = &log->points[i];
        watch.last_epoch = point->epoch;
        watch.loss = point->is_validated ? watch.loss : point->loss;
        watch.top1 = point->is_validated ? watch.top1 : point->train_top1;
    }
    return watch;
}

static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    training_watch *watch = user;
    const esp_training_log *log = watch->session->now.training;
    bool is_validated = report->validation.images > 0;
    const esp_training_point point = {.epoch = report->epoch,
                                      .loss = report->train_loss,
                                      .top1 = is_validated ? report->validation.top1 : (double)NAN,
                                      .validation_loss = is_validated ? report->validation.loss : (double)NAN,
                                      .train_top1 = report->train_top1,
                                      .lr = report->lr,
                                      .images_per_s = report->images_per_s,
                                      .eta_s = log->count > 0 ? log->points[log->count - 1].eta_s : -1.0,
                                      .is_validated = is_validated,
                                      .is_best = report->is_best};

    return add_point(watch->session, &point, err);
}

/* A batch whose loss is above this ends a training: rates that are far too high. */
#define MAX_LOSS 1e4

/* What a training works on, held while other jobs may change the session. */
typedef struct training_scene {
    int version;
    esp_finetune wanted;
    esp_graph *start, *teacher;
    esp_dataset *training, *validation;
    esp_held_masks masks;
    esp_train_state resumed;
    char freeze_copy[ESP_FINETUNE_TEXT];
    const char *freeze[ESP_FINETUNE_PATTERNS];
    training_watch watch;
} training_scene;

static void release_scene(training_scene *scene)
{
    esp_held_masks_free(&scene->masks);
    esp_train_state_free(&scene->resumed);
    esp_dataset_unref(scene->training);
    esp_dataset_unref(scene->validation);
    esp_graph_unref(scene->start);
    esp_graph_unref(scene->teacher);
}

static esp_train_options training_options(esp_session *session, training_scene *scene)
{
    const esp_finetune *wanted = &scene->wanted;
    esp_train_options options = esp_train_defaults();

    options.epochs_limit = wanted->epochs;
    options.optimizer = (esp_optimizer_kind)wanted->optimizer;
    options.schedule = esp_schedule_make((esp_schedule_kind)wanted->schedule, esp_finetune_lr(wanted));
    options.schedule.warmup_epochs = wanted->warmup;
    options.batch = wanted->batch;
    options.weight_decay = wanted->weight_decay;
    options.augmentation.crop_padding = (int)wanted->crop;
    options.augmentation.flips = wanted->flips;
    options.label_smoothing = wanted->label_smoothing;
    options.norm = (esp_norm_mode)wanted->norm;
    options.freeze = scene->freeze;
    options.freeze_count = esp_finetune_patterns(wanted, scene->freeze_copy, scene->freeze);
    options.ema_decay = wanted->ema;
    options.patience = (int)wanted->patience;
    options.train_limit = wanted->train_limit;
    options.validation_limit = wanted->validation_limit;
    options.seed = (uint64_t)wanted->seed;
    options.max_loss = MAX_LOSS;
    options.teacher = scene->teacher;
    options.masks = scene->masks.items;
    options.mask_count = scene->masks.count;
    options.evaluates_first = true;
    options.mean = session->mean;
    options.std = session->std;
    options.on_epoch = on_epoch;
    options.epoch_user = &scene->watch;
    options.on_step = on_step;
    options.step_user = &scene->watch;
    options.on_checkpoint = esp_session_keep;
    options.checkpoint_user = session;
    options.checkpoint_seconds = wanted->checkpoint_seconds;
    options.resume = scene->resumed.count > 0 ? &scene->resumed : NULL;
    return options;
}

/* ---- the version it ends in ---- */

/* The options, and what came of them. */
static json_t *how_trained(const esp_finetune *wanted, const esp_train_options *options,
                           const esp_train_result *result)
{
    json_t *how = esp_finetune_to_json(wanted);
    json_t *rest =
        json_pack("{s:f, s:f, s:i, s:f}", "lr", options->schedule.lr, "momentum", options->momentum,
                  "best_epoch", result->best_epoch, "validation_top1", result->best.top1);

    if (how && rest)
        json_object_update(how, rest);
    json_decref(rest);
    return how ? json_pack("{s:o}", "train", how) : NULL;
}

/* What a training leaves behind; `status` is its own. */
static esp_status finish_training(esp_session *session, const esp_compute *compute, esp_status status,
                                  const training_scene *scene, const esp_train_options *options,
                                  const esp_graph *graph, const esp_train_result *result, esp_error *err)
{
    const esp_study_version *from = esp_versions_find(session->now.versions, scene->version);
    bool is_cancelled = status == ESP_CANCELLED;
    bool has_measured_test = esp_finetune_is_on_test(&scene->wanted) && options->validation_limit == 0;
    int made = esp_versions_next_id(session->now.versions);
    esp_metrics metrics = esp_metrics_of_shapes(&from->metrics);
    char title[96];

    if (!graph || result->best_epoch == 0) {
        esp_session_say(session,
                        is_cancelled ? "no epoch was better than the start yet%s"
                                     : "no epoch was better than the start: no new version%s",
                        session->now.unfinished.version ? "; T goes on with it" : "");
        return status;
    }
    if (has_measured_test)
        esp_metrics_set_eval(&metrics, &result->best, true);
    snprintf(title, sizeof title, "%g epoch%s%s", options->epochs_limit,
             options->epochs_limit == 1.0 ? "" : "s", is_cancelled ? " (stopped)" : "");
    status = esp_session_add_version(session, scene->version, title,
                                     how_trained(&scene->wanted, options, result), graph, &metrics, err);
    if (status == ESP_OK)
        status = esp_session_go_to(session, compute, made, err);
    if (status != ESP_OK)
        return status;
    session->redo_count = 0;
    esp_session_say(session, "%sversion %d, %s top-1 %.2f %% -> %.2f %% at epoch %d%s%s",
                    is_cancelled ? "" : "fine-tuned: ", made,
                    esp_finetune_is_on_test(&scene->wanted) ? "test" : "validation", result->first.top1,
                    result->best.top1, result->best_epoch, result->stopped_early ? ", stopped early" : "",
                    session->now.unfinished.version ? "; T goes on" : "");
    esp_session_journal(session, "train", esp_snapshot_current(&session->now)->how);
    return is_cancelled ? ESP_CANCELLED : ESP_OK;
}

/* ---- the scene ---- */

/* The version that the trained one descends from teaches. */
static esp_status find_teacher(esp_session *session, training_scene *scene, esp_error *err)
{
    int root = esp_versions_root(session->now.versions, scene->version)->id;
    esp_status status = esp_session_load_graph(session, root, err);

    if (status == ESP_OK)
        scene->teacher = esp_graph_ref(esp_versions_find(session->now.versions, root)->graph);
    return status;
}

/* The data's own validation images, when they have some. What is there and cannot be read is not replaced by
 * other images behind the user's back. */
static esp_status find_own_images(esp_session *session, const training_scene *scene, esp_error *err)
{
    esp_error why = {0};
    esp_status status = ESP_OK;

    if (!session->validation_set)
        status = esp_dataset_open_for(session->data_spec, ESP_SPLIT_VALIDATION, scene->start,
                                      &session->validation_set, &why);
    if (status != ESP_OK && status != ESP_STATE && err)
        *err = why;
    return status == ESP_STATE ? ESP_OK : status;
}

/* The data's own validation images are used when nobody asks for others, as the command line does. */
static esp_status choose_images(esp_session *session, training_scene *scene, esp_error *err)
{
    bool is_usual = scene->wanted.validation == ESP_VALIDATION_USUAL;
    bool is_on_test = esp_finetune_is_on_test(&scene->wanted);
    esp_status status = is_usual ? find_own_images(session, scene, err) : ESP_OK;

    if (status != ESP_OK)
        return status;
    if (!is_on_test && !(is_usual && session->validation_set))
        return esp_dataset_split(session->training_set, esp_finetune_share(&scene->wanted),
                                 (uint64_t)scene->wanted.seed, &scene->training, &scene->validation, err);
    scene->training = esp_dataset_ref(session->training_set);
    scene->validation = esp_dataset_ref(is_on_test ? session->test_set : session->validation_set);
    return ESP_OK;
}

static esp_status set_scene(esp_session *session, training_scene *scene, esp_error *err)
{
    esp_status status = esp_session_load_graph(session, scene->version, err);

    if (status == ESP_OK) {
        scene->start = esp_graph_ref(esp_versions_find(session->now.versions, scene->version)->graph);
        status = esp_held_masks_of(scene->start, &scene->masks, err);
    }
    if (status == ESP_OK)
        status = choose_images(session, scene, err);
    if (status == ESP_OK && scene->wanted.distils)
        status = find_teacher(session, scene, err);
    return status;
}

/* ---- the job ---- */

/* Whether a training that ended so may be gone on with. What diverged would diverge again; a checkpoint that
 * does not fit is nothing to lose. */
static bool can_go_on(esp_status status)
{
    return status != ESP_OK && status != ESP_DIVERGED;
}

static esp_status train(esp_session *session, const esp_compute *compute, training_scene *scene,
                        esp_error *err)
{
    /* The token of a training that was cancelled would stop what follows it too. */
    const esp_compute afterwards = {.pool = compute->pool};
    const esp_train_options options = training_options(session, scene);
    esp_graph *best = NULL;
    esp_train_result result = {0};
    esp_status status =
        esp_train(compute, scene->start, scene->training, scene->validation, &options, &best, &result, err);

    esp_session_keep_end(session, can_go_on(status));
    if (status == ESP_OK || status == ESP_CANCELLED)
        status = finish_training(session, &afterwards, status, scene, &options, best, &result, err);
    esp_graph_unref(best);
    return status;
}

/* Runs what the scene is about, with its curve in `log`. */
static esp_status run_scene(esp_session *session, const esp_compute *compute, training_scene *scene,
                            esp_training_log *take_log, esp_error *err)
{
    esp_training_log *stopped = NULL;
    esp_error later = {0};
    esp_status status;

    scene->watch = start_watch(session, scene->wanted.epochs, take_log);
    esp_shared_unref(session->now.training);
    session->now.training = take_log;
    status = set_scene(session, scene, err);
    if (status == ESP_OK) {
        esp_session_keep_begin(session, scene->version, &scene->wanted, scene->resumed.count > 0);
        status = esp_session_post(session, err);
    }
    if (status == ESP_OK)
        status = train(session, compute, scene, err);
    if (esp_training_log_stopped(session->now.training, &stopped, &later) == ESP_OK) {
        esp_shared_unref(session->now.training);
        session->now.training = stopped;
    }
    esp_session_want_estimate(session);
    (void)esp_session_post(session, &later);
    return status;
}

esp_status esp_session_run_finetune(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    training_scene scene = {.wanted = ((esp_session_job *)job)->finetune, .version = session->now.current};
    esp_training_log *log = NULL;
    esp_status status = esp_session_need_model(session, err);

    if (status == ESP_OK)
        status = esp_session_need_training_set(session, err);
    if (status == ESP_OK)
        status = esp_training_log_new(scene.version, scene.wanted.epochs, &log, err);
    if (status == ESP_OK) {
        log->is_on_test = esp_finetune_is_on_test(&scene.wanted);
        status = run_scene(session, compute, &scene, log, err);
    }
    release_scene(&scene);
    return status;
}

esp_status esp_session_run_resume(void *user, esp_job *job, const esp_compute *compute, esp_error *err)
{
    esp_session *session = user;
    training_scene scene = {.version = session->now.unfinished.version};
    esp_training_log *log = NULL;
    char *spec = NULL;
    esp_status status = esp_session_need_model(session, err);

    (void)job;
    if (status == ESP_OK)
        status = esp_session_kept(session, &scene.wanted, &spec, &scene.resumed, &log, err);
    if (status == ESP_OK && spec[0])
        status = esp_session_use_data(session, spec, err);
    if (status == ESP_OK)
        status = esp_session_need_training_set(session, err);
    if (status == ESP_OK) {
        log->resumed_at = session->now.unfinished.position;
        status = run_scene(session, compute, &scene, log, err);
    } else {
        esp_shared_unref(log);
    }
    esp_free(spec);
    release_scene(&scene);
    return status;
}
