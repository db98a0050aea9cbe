/* The trainer. Everything is made before the first step: one executor for whole batches, one for what is left
 * of an epoch, one evaluator for validation, all three on the same esp_params; the loop allocates nothing.
 *
 * Every image of an epoch is seen once. The last batch is smaller, except that a single left-over image joins
 * the batch before it: batch statistics of one image mean little, and over one position nothing.
 *
 * What an epoch does depends on (seed, epoch) only, and every kernel is bit-identical for any number of
 * threads, so training is too. A position (epoch, images done) with the weights, the optimizer's memory and
 * the random states of dropout is therefore all that a checkpoint has to hold (trainer_state.c).
 *
 * Here: setting up, the sequence of epochs, and what the caller gets. Steps are in trainer_epoch.c. */
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/unknown.h"
#include "train/trainer_internal.h"

#define DEFAULT_BATCH 128

esp_train_options esp_train_defaults(void)
{
    return (esp_train_options){
        .epochs_limit = 90.0,
        .batch = DEFAULT_BATCH,
        .schedule = esp_schedule_make(ESP_SCHEDULE_COSINE, 0.01),
        .momentum = 0.9,
        .weight_decay = 1e-4,
    };
}

/* ---- batch-norm modes ---- */

static const char *const norm_words[] = {
#define ESP_NORM_MODE_WORD(name, word) word,
    ESP_NORM_MODE_LIST(ESP_NORM_MODE_WORD)
#undef ESP_NORM_MODE_WORD
};

#define NORM_COUNT (sizeof(norm_words) / sizeof(norm_words[0]))

esp_status esp_norm_mode_parse(const char *word, esp_norm_mode *out, esp_error *err)
{
    for (size_t i = 0; i < NORM_COUNT; i++) {
        if (strcmp(word, norm_words[i]) == 0) {
            *out = (esp_norm_mode)i;
            return ESP_OK;
        }
    }
    return esp_fail_unknown(err, "batch-norm mode", word, norm_words, NORM_COUNT);
}

const char *esp_norm_mode_word(esp_norm_mode mode)
{
    return (size_t)mode < NORM_COUNT ? norm_words[mode] : "?";
}

/* ---- setting up ---- */

static void plan_epochs(esp_trainer *s)
{
    const esp_train_options *options = s->options;
    int64_t count = esp_dataset_count(s->training);
    s->epoch_images = options->train_limit > 0 && options->train_limit < count ? options->train_limit : count;
    s->batch = options->batch > 0 ? options->batch : DEFAULT_BATCH;
    s->batch = s->batch < s->epoch_images ? s->batch : s->epoch_images;
    s->tail = s->epoch_images % s->batch;
    if (s->tail == 1) {
        s->tail = s->batch + 1;
    }
    /* a fraction of an epoch is rounded up to whole batches; the small numbers forgive decimal fractions */
    s->epochs = (int)ceil(options->epochs_limit - 1e-9);
    s->epochs = s->epochs > 1 ? s->epochs : 1;
    double fraction = options->epochs_limit - (s->epochs - 1);
    int64_t batches = (int64_t)ceil(fraction * (double)s->epoch_images / (double)s->batch - 1e-6);
    batches = batches > 1 ? batches : 1;
    s->last_images = batches * s->batch < s->epoch_images ? batches * s->batch : s->epoch_images;
}

/* An executor that trains on batches of `batch` images. */
static esp_status make_exec(esp_trainer *s, int64_t batch, uint64_t stream, esp_exec **out, esp_error *err)
{
    esp_rng rng;
    esp_rng_seed_stream(&rng, s->options->seed, stream);
    esp_exec_options options = {
        .batch = batch,
        .is_training = true,
        .params = s->params,
        .seed = esp_rng_u64(&rng),
        .freezes_norm = s->options->freezes_norm || s->options->norm == ESP_NORM_MODE_FROZEN,
        .slots = esp_compute_slots(s->compute),
    };
    esp_status status = esp_image_exec_new(s->graph, s->training, options, out, err);
    if (status == ESP_SHAPE) {
        esp_error_prefix(err, "training in batches of %" PRId64, batch);
    }
    return status;
}

static esp_status make_normalization(esp_trainer *s, const esp_graph *graph, esp_error *err)
{
    const esp_train_options *options = s->options;
    esp_status status =
        esp_normalization_of(graph, esp_dataset_channels(s->training), &s->normalization, err);
    if (status == ESP_OK) {
        status = esp_normalization_override(&s->normalization, options->mean, options->std, err);
    }
    return status == ESP_OK ? esp_normalization_store(graph, &s->normalization, &s->graph, err) : status;
}

static esp_status make_executors(esp_trainer *s, esp_error *err)
{
    esp_status status = make_exec(s, s->batch, 0, &s->exec, err);
    if (status == ESP_OK && s->tail > 0) {
        status = make_exec(s, s->tail, 1, &s->tail_exec, err);
    }
    if (status == ESP_OK) {
        status = esp_trainer_check_norms(s, err);
    }
    if (status == ESP_OK && s->options->teacher != NULL) {
        status = esp_trainer_add_teacher(s, err);
    }
    if (status == ESP_OK && s->validation != NULL) {
        const esp_eval_options options = {.limit = s->options->validation_limit};
        status = esp_evaluator_new(s->graph, s->validation, &s->normalization, s->measured, &options,
                                   esp_compute_slots(s->compute), &s->evaluator, err);
    }
    return status;
}

/* Executors made from here on leave the gradients out that nobody takes a step with. */
static void freeze_params(esp_trainer *s)
{
    for (int p = 0; p < esp_params_count(s->params); p++) {
        esp_params_at(s->params, p)->is_frozen = esp_optimizer_is_frozen(s->optimizer, p);
    }
}

static esp_status make_weights(esp_trainer *s, esp_error *err)
{
    esp_status status = esp_params_new(s->graph, &s->params, err);
    if (status == ESP_OK) {
        status = esp_optimizer_new(s->graph, s->params, s->options, &s->optimizer, err);
    }
    if (status == ESP_OK) {
        freeze_params(s);
    }
    if (status == ESP_OK && s->options->ema_decay > 0.0) {
        status = esp_params_new(s->graph, &s->average, err);
    }
    s->measured = s->average != NULL ? s->average : s->params;
    return status == ESP_OK ? esp_trainer_check_penalties(s, err) : status;
}

/* Batches, their order and their labels. */
static esp_status make_batches(esp_trainer *s, esp_error *err)
{
    const esp_loader_options options = {
        .augmentation = &s->options->augmentation,
        .seed = s->options->seed,
        .batch = s->tail > s->batch ? s->tail : s->batch,
    };
    size_t count = (size_t)esp_dataset_count(s->training), most = (size_t)s->batch + 1;
    s->order = esp_alloc(count, sizeof(*s->order));
    s->labels = esp_alloc(most, sizeof(*s->labels)); /* a tail has at most one image more */
    if (s->options->augmentation.mixup > 0.0) {
        s->other_labels = esp_alloc(most, sizeof(*s->other_labels));
        s->shares = esp_alloc(most, sizeof(*s->shares));
    }
    bool has_mixtures = s->other_labels != NULL && s->shares != NULL;
    if (s->order == NULL || s->labels == NULL || (s->options->augmentation.mixup > 0.0 && !has_mixtures)) {
        return esp_fail_memory(err, "the order of training images", count * sizeof(*s->order));
    }
    return esp_loader_new(s->training, &s->normalization, &options, &s->loader, err);
}

static esp_status set_up(esp_trainer *s, const esp_graph *graph, esp_error *err)
{
    plan_epochs(s);
    esp_status status = make_normalization(s, graph, err);
    if (status == ESP_OK) {
        status = make_weights(s, err);
    }
    if (status == ESP_OK) {
        status = make_executors(s, err);
    }
    if (status == ESP_OK) {
        status = make_batches(s, err);
    }
    return status == ESP_OK ? esp_trainer_prepare_state(s, err) : status;
}

static void tear_down(esp_trainer *s)
{
    esp_loader_free(s->loader);
    esp_free(s->identity);
    esp_free(s->held);
    esp_free(s->shares);
    esp_free(s->other_labels);
    esp_free(s->labels);
    esp_free(s->order);
    esp_evaluator_free(s->evaluator);
    esp_exec_free(s->tail_teacher);
    esp_exec_free(s->teacher);
    esp_exec_free(s->tail_exec);
    esp_exec_free(s->exec);
    esp_optimizer_free(s->optimizer);
    esp_params_free(s->average);
    esp_params_free(s->params);
    esp_graph_unref(s->graph);
    esp_dataset_unref(s->training);
    esp_dataset_unref(s->validation);
}

/* ---- epochs ---- */

static esp_status run_epoch(esp_trainer *s, esp_error *err)
{
    esp_status status = esp_trainer_epoch(s, err);
    if (status != ESP_OK) {
        return status;
    }
    const esp_epoch_state *now = &s->now;
    double images = (double)now->sums.images, seconds = s->result.seconds - now->seconds_before;
    s->result.epochs_done = now->epoch;
    esp_epoch_report report = {
        .epoch = now->epoch,
        .epochs = s->epochs,
        .train_loss = now->sums.loss / images,
        .train_top1 = 100.0 * (double)now->sums.top1 / images,
        .train_top5 = 100.0 * (double)now->sums.top5 / images,
        .lr = now->lr,
        .images_per_s = seconds > 0.0 ? images / seconds : 0.0,
        .seconds = seconds,
    };
    return esp_trainer_close(s, &report, err);
}

static esp_status measure_start(esp_trainer *s, esp_error *err)
{
    esp_epoch_report report = {.epochs = s->epochs, .train_loss = NAN, .train_top1 = NAN, .train_top5 = NAN};
    esp_status status = esp_trainer_rate(s, &report.lr, err);
    if (status == ESP_OK) {
        status = esp_trainer_close(s, &report, err);
    }
    if (status == ESP_OK) {
        s->result.first = report.validation;
        s->first_is_done = true;
    }
    return status;
}

static bool is_out_of_patience(const esp_trainer *s)
{
    return s->options->patience > 0 && s->waited >= s->options->patience;
}

static esp_status run(esp_trainer *s, esp_error *err)
{
    esp_status status = ESP_OK;
    esp_optimizer_hold_masks(s->optimizer);
    if (s->average != NULL) {
        esp_params_copy(s->average, s->params);
    }
    s->plateau = esp_plateau_start();
    s->lowest_loss = INFINITY;
    esp_trainer_begin(s, 1);
    if (s->options->resume != NULL) {
        status = esp_trainer_resume(s, err);
    }
    if (status == ESP_OK && s->options->evaluates_first && s->evaluator != NULL && !s->first_is_done) {
        status = measure_start(s, err);
    }
    while (status == ESP_OK && s->now.epoch <= s->epochs && !is_out_of_patience(s)) {
        status = run_epoch(s, err);
        if (status == ESP_OK) {
            esp_trainer_begin(s, s->now.epoch + 1);
            esp_trainer_checkpoint(s);
        }
    }
    if (status == ESP_CANCELLED) {
        if (s->now.is_closed) { /* a callback stopped it: the epoch must not be closed a second time */
            esp_trainer_begin(s, s->now.epoch + 1);
        }
        esp_trainer_checkpoint(s);
    }
    s->result.stopped_early = status == ESP_OK && is_out_of_patience(s) && s->now.epoch <= s->epochs;
    return status;
}

/* ---- for callbacks ---- */

esp_status esp_trainer_graph(const esp_trainer *trainer, esp_graph **out, esp_error *err)
{
    return esp_params_to_graph(trainer->params, out, err);
}

esp_status esp_trainer_set_masks(esp_trainer *trainer, const esp_weight_mask *masks, int count,
                                 esp_error *err)
{
    esp_status status = esp_optimizer_set_masks(trainer->optimizer, trainer->graph, masks, count, err);
    if (status != ESP_OK) {
        return status;
    }
    for (int p = 0; trainer->average != NULL && p < esp_params_count(trainer->params); p++) {
        const uint8_t *keep = esp_optimizer_mask(trainer->optimizer, p);
        esp_param *average = esp_params_at(trainer->average, p);
        for (int64_t i = 0; keep != NULL && i < average->elements; i++) {
            average->data[i] = keep[i] ? average->data[i] : 0.0f;
        }
    }
    esp_params_touch(trainer->measured);
    esp_graph_unref(trainer->best);
    trainer->best = NULL;
    trainer->waited = 0;
    trainer->lowest_loss = INFINITY;
    return ESP_OK;
}

/* ---- the whole ---- */

/* Decides what the caller gets when training ended with `status`; returns the final status. */
static esp_status hand_out(esp_trainer *s, esp_status status, esp_graph **out, esp_error *err)
{
    if (status == ESP_CANCELLED) {
        esp_fail(err, ESP_CANCELLED, "training stopped in epoch %d of %d after %" PRId64 " steps",
                 s->result.epochs_done < s->epochs ? s->result.epochs_done + 1 : s->epochs, s->epochs,
                 s->result.steps);
        if (s->best == NULL) {
            esp_status copied = esp_params_to_graph(s->measured, &s->best, err);
            status = copied == ESP_OK ? status : copied;
        }
    }
    bool keeps_work = status == ESP_OK || status == ESP_CANCELLED || status == ESP_DIVERGED;
    if (keeps_work) {
        *out = s->best;
        s->best = NULL;
    }
    esp_graph_unref(s->best);
    return status;
}

static esp_status fit_data(esp_trainer *s, const esp_graph *graph, const esp_dataset *training,
                           const esp_dataset *validation, esp_error *err)
{
    esp_status status = esp_dataset_fit(training, graph, &s->training, err);
    if (status == ESP_OK && validation != NULL) {
        status = esp_dataset_fit(validation, graph, &s->validation, err);
    }
    return status == ESP_OK ? esp_trainer_check_data(graph, s->training, s->validation, err) : status;
}

esp_status esp_train(const esp_compute *compute, const esp_graph *graph, const esp_dataset *training,
                     const esp_dataset *validation, const esp_train_options *options, esp_graph **out,
                     esp_train_result *result, esp_error *err)
{
    *out = NULL;
    esp_trainer s = {.compute = compute, .options = options, .meter = esp_meter_make(compute)};
    esp_status status = esp_trainer_check(options, err);
    if (status == ESP_OK) {
        status = fit_data(&s, graph, training, validation, err);
    }
    if (status == ESP_OK) {
        status = set_up(&s, graph, err);
    }
    if (status == ESP_OK) {
        status = hand_out(&s, run(&s, err), out, err);
        if (result != NULL) {
            *result = s.result;
        }
    }
    tear_down(&s);
    return status;
}
