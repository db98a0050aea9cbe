/* The trainer. Everything is made before the first step: one executor for whole batches, one for what is left
 * of an epoch, one evaluator for validation, all three on the same esp_params; the loop allocates nothing.
 * (Preparing a batch takes about a hundredth of a step and uses every thread, so it is not overlapped
 * with the step.)
 *
 * Every image of an epoch is seen once. The last batch is smaller, except that a single left-over image joins
 * the batch before it: batch statistics of one image mean little, and over one position nothing.
 *
 * What an epoch does depends on (seed, epoch) only, and every kernel is bit-identical for any number of
 * threads, so training is too. */
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/evaluator.h"
#include "train/loss.h"
#include "train/meter.h"
#include "train/optimizer.h"

#define DEFAULT_BATCH 128
#define MOST_EPOCHS   1e6
#define SHUFFLE_SEED                                                                                         \
    UINT64_C(0x9e3779b97f4a7c15) /* keeps the shuffle apart from the augmentation's choices */

typedef struct session {
    const esp_compute *compute;
    const esp_train_options *options;
    const esp_dataset *training;
    esp_graph *graph; /* the start, with its normalisation in the metadata */
    esp_normalization normalization;
    esp_params *params; /* under training */
    esp_optimizer *optimizer;
    esp_exec *exec, *tail_exec; /* for batches of `batch` and of `tail` images; no tail_exec when tail is 0 */
    esp_evaluator *evaluator;   /* NULL: no validation */
    uint32_t *order;            /* image indices in this epoch's order */
    int32_t *labels;
    esp_meter meter;
    int64_t batch, tail;
    int64_t epoch_images, last_images; /* images of an epoch, and of the last one, which may be a fraction */
    int epochs;
    int64_t images_done; /* over all epochs */
    double validation_s; /* of the last validation: for the estimate of time left */
    esp_graph *best;
    esp_train_result result;
} session;

/* What one epoch adds up to. */
typedef struct epoch_state {
    int epoch; /* 1-based */
    int64_t images;
    esp_loss_sums sums;
    double start_s, lr;
} epoch_state;

esp_train_options esp_train_defaults(void)
{
    return (esp_train_options){
        .epochs_limit = 90.0,
        .batch = DEFAULT_BATCH,
        .schedule = {.kind = ESP_SCHEDULE_COSINE, .lr = 0.01, .gamma = 0.1},
        .momentum = 0.9,
        .weight_decay = 1e-4,
    };
}

/* ---- checks ---- */

static esp_status check_range(const char *what, double value, bool is_good, const char *expected,
                              esp_error *err)
{
    return is_good ? ESP_OK
                   : esp_fail(err, ESP_INVALID, "training: %s %g, expected %s", what, value, expected);
}

static esp_status check_options(const esp_train_options *options, esp_error *err)
{
    double epochs = options->epochs_limit, momentum = options->momentum, decay = options->weight_decay;
    esp_status status = check_range("epochs", epochs, epochs > 0.0 && epochs <= MOST_EPOCHS,
                                    "a number > 0, at most a million", err);
    if (status == ESP_OK) {
        status = check_range("batch", (double)options->batch, options->batch >= 0,
                             "at least 1 (0: the default)", err);
    }
    if (status == ESP_OK) {
        status =
            check_range("momentum", momentum, momentum >= 0.0 && momentum < 1.0, "0 <= momentum < 1", err);
    }
    if (status == ESP_OK) {
        status = check_range("weight decay", decay, decay >= 0.0 && isfinite(decay), "a number >= 0", err);
    }
    if (status == ESP_OK) {
        status = check_range("Nesterov's form with momentum", momentum,
                             !options->uses_nesterov || momentum > 0.0, "a momentum > 0", err);
    }
    if (status == ESP_OK) {
        int padding = options->augmentation.crop_padding;
        status = check_range("crop padding", padding, padding >= 0, "at least 0", err);
    }
    if (status == ESP_OK) {
        int64_t least = options->train_limit < options->validation_limit ? options->train_limit
                                                                         : options->validation_limit;
        status = check_range("image limit", (double)least, least >= 0, "at least 1 (0: all)", err);
    }
    return status == ESP_OK ? esp_schedule_check(&options->schedule, err) : status;
}

static esp_status check_data(const esp_graph *graph, const esp_dataset *training,
                             const esp_dataset *validation, esp_error *err)
{
    esp_status status = esp_dataset_check_model(training, graph, err);
    if (status == ESP_OK && validation != NULL) {
        status = esp_dataset_check_model(validation, graph, err);
    }
    if (status == ESP_OK && validation != NULL &&
        esp_dataset_channels(validation) != esp_dataset_channels(training)) {
        status = esp_fail(err, ESP_SHAPE, "validation images have %d channels, training images %d",
                          esp_dataset_channels(validation), esp_dataset_channels(training));
    }
    return status;
}

/* ---- setting up ---- */

static void plan_epochs(session *s)
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
static esp_status make_exec(session *s, int64_t batch, uint64_t stream, esp_exec **out, esp_error *err)
{
    esp_rng rng;
    esp_rng_seed_stream(&rng, s->options->seed, stream);
    esp_exec_options options = {
        .batch = batch,
        .is_training = true,
        .params = s->params,
        .seed = esp_rng_u64(&rng),
        .freezes_norm = s->options->freezes_norm,
        .slots = esp_compute_slots(s->compute),
    };
    esp_status status = esp_image_exec_new(s->graph, s->training, options, out, err);
    if (status == ESP_SHAPE) {
        esp_error_prefix(err, "training in batches of %" PRId64, batch);
    }
    return status;
}

static esp_status make_normalization(session *s, const esp_graph *graph, esp_error *err)
{
    const esp_train_options *options = s->options;
    esp_status status =
        esp_normalization_of(graph, esp_dataset_channels(s->training), &s->normalization, err);
    if (status == ESP_OK) {
        status = esp_normalization_override(&s->normalization, options->mean, options->std, err);
    }
    return status == ESP_OK ? esp_normalization_store(graph, &s->normalization, &s->graph, err) : status;
}

static esp_status set_up(session *s, const esp_graph *graph, const esp_dataset *validation, esp_error *err)
{
    plan_epochs(s);
    esp_status status = make_normalization(s, graph, err);
    if (status == ESP_OK) {
        status = esp_params_new(s->graph, &s->params, err);
    }
    if (status == ESP_OK) {
        status = esp_optimizer_new(s->graph, s->params, s->options, &s->optimizer, err);
    }
    if (status == ESP_OK) {
        status = make_exec(s, s->batch, 0, &s->exec, err);
    }
    if (status == ESP_OK && s->tail > 0) {
        status = make_exec(s, s->tail, 1, &s->tail_exec, err);
    }
    if (status == ESP_OK && validation != NULL) {
        const esp_eval_options options = {.limit = s->options->validation_limit};
        status = esp_evaluator_new(s->graph, validation, &s->normalization, s->params, &options,
                                   esp_compute_slots(s->compute), &s->evaluator, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    size_t count = (size_t)esp_dataset_count(s->training);
    s->order = esp_alloc(count, sizeof(*s->order));
    s->labels = esp_alloc((size_t)s->batch + 1, sizeof(*s->labels)); /* a tail has at most one image more */
    if (s->order == NULL || s->labels == NULL) {
        return esp_fail_memory(err, "the order of training images", count * sizeof(*s->order));
    }
    return ESP_OK;
}

static void tear_down(session *s)
{
    esp_free(s->labels);
    esp_free(s->order);
    esp_evaluator_free(s->evaluator);
    esp_exec_free(s->tail_exec);
    esp_exec_free(s->exec);
    esp_optimizer_free(s->optimizer);
    esp_params_free(s->params);
    esp_graph_unref(s->graph);
}

/* ---- one epoch ---- */

static void shuffle(session *s, int epoch)
{
    int64_t count = esp_dataset_count(s->training);
    for (int64_t i = 0; i < count; i++) {
        s->order[i] = (uint32_t)i;
    }
    esp_rng rng;
    esp_rng_seed_stream(&rng, s->options->seed ^ SHUFFLE_SEED, (uint64_t)epoch);
    esp_rng_shuffle(&rng, s->order, (size_t)count);
}

/* Forward, loss and backward of images order[state->sums.images ...]; gradients are in the params after it.
 */
static esp_status find_gradients(session *s, epoch_state *state, esp_exec *exec, int64_t count,
                                 esp_error *err)
{
    esp_status status =
        esp_batch_fill(s->compute, s->training, &s->normalization, &s->options->augmentation,
                       s->options->seed, (uint64_t)state->epoch, s->order + state->sums.images, count,
                       esp_view_f32(esp_exec_input(exec, 0)), s->labels);
    if (status == ESP_OK) {
        status = esp_exec_forward(exec, s->compute, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    const esp_view *logits = esp_exec_output(exec, 0);
    int64_t classes = esp_shape_elements(&logits->shape) / count;
    double before = state->sums.loss;
    esp_cross_entropy(esp_view_f32(logits), s->labels, count, classes, &state->sums,
                      esp_view_f32(esp_exec_output_grad(exec, 0)));
    if (!isfinite(state->sums.loss)) {
        status = esp_fail(err, ESP_DIVERGED,
                          "training diverged at step %" PRId64
                          " (epoch %d, learning rate %g): the loss is not finite",
                          s->result.steps + 1, state->epoch, state->lr);
        esp_error_set_hint(err, "try a lower learning rate");
        state->sums.loss = before;
        return status;
    }
    return esp_exec_backward(exec, s->compute, err);
}

static double training_seconds(const session *s, const epoch_state *state)
{
    return s->result.seconds + (esp_clock_s() - state->start_s);
}

static void report_progress(const session *s, const epoch_state *state)
{
    double total = (double)s->epoch_images * (s->epochs - 1) + (double)s->last_images;
    double done = (double)s->images_done;
    double seconds = training_seconds(s, state);
    double rate = seconds > 0.0 ? done / seconds : 0.0;
    double validations_s = s->validation_s * (s->epochs - state->epoch + 1);
    char detail[128];
    snprintf(detail, sizeof(detail), "epoch %d/%d  loss %.3f  top-1 %.1f %%  lr %.4g", state->epoch,
             s->epochs, state->sums.loss / (double)state->sums.images,
             100.0 * (double)state->sums.top1 / (double)state->sums.images, state->lr);
    esp_progress progress = {
        .stage = "train",
        .done = done,
        .total = total,
        .unit = "images",
        .rate = rate,
        .eta_s = rate > 0.0 ? (total - done) / rate + validations_s : -1.0,
        .detail = detail,
        .loss = state->sums.loss / (double)state->sums.images,
        .share_right = (double)state->sums.top1 / (double)state->sums.images,
    };
    esp_compute_report(s->compute, &progress);
}

static esp_status train_epoch(session *s, epoch_state *state, esp_error *err)
{
    shuffle(s, state->epoch);
    state->start_s = esp_clock_s();
    esp_status status = ESP_OK;
    while (status == ESP_OK && state->sums.images < state->images) {
        int64_t left = state->images - state->sums.images;
        /* a tail is never a multiple of the batch, so only the end of a whole epoch is one */
        bool is_tail = left == s->tail;
        int64_t count = is_tail ? s->tail : s->batch;
        double position = (state->epoch - 1) + (double)state->sums.images / (double)s->epoch_images;
        state->lr = esp_schedule_lr(&s->options->schedule, position, s->options->epochs_limit);
        status = esp_compute_is_cancelled(s->compute)
                     ? ESP_CANCELLED
                     : find_gradients(s, state, is_tail ? s->tail_exec : s->exec, count, err);
        if (status != ESP_OK) {
            break;
        }
        esp_optimizer_step(s->optimizer, s->compute, state->lr);
        s->result.steps++;
        s->images_done += count;
        if (esp_meter_is_due(&s->meter, state->sums.images == state->images)) {
            report_progress(s, state);
        }
    }
    s->result.seconds = training_seconds(s, state);
    s->result.images_per_s = s->result.seconds > 0.0 ? (double)s->images_done / s->result.seconds : 0.0;
    return status;
}

/* ---- validation and the best version ---- */

static bool is_better(const session *s, const esp_eval_result *now)
{
    const esp_eval_result *best = &s->result.best;
    return s->best == NULL || s->evaluator == NULL || now->top1 > best->top1 ||
           (now->top1 == best->top1 && now->loss < best->loss);
}

static esp_status keep_best(session *s, int epoch, const esp_eval_result *now, esp_error *err)
{
    esp_graph *graph = NULL;
    esp_status status = esp_params_to_graph(s->params, &graph, err);
    if (status == ESP_OK) {
        esp_graph_unref(s->best);
        s->best = graph;
        s->result.best = *now;
        s->result.best_epoch = epoch;
    }
    return status;
}

/* Measures the present weights, keeps them when they are the best, and tells the caller. `report` has what is
 * known of the epoch's training. Without validation data the newest weights count as the best. */
static esp_status close_epoch(session *s, esp_epoch_report *report, esp_error *err)
{
    esp_status status = ESP_OK;
    if (s->evaluator != NULL) {
        status = esp_evaluator_run(s->evaluator, s->compute, "validate", &report->validation, err);
    }
    if (status == ESP_OK && s->evaluator != NULL && !isfinite(report->validation.loss)) {
        status =
            esp_fail(err, ESP_DIVERGED, "training diverged: the validation loss after epoch %d is not finite",
                     report->epoch);
        esp_error_set_hint(err,
                           report->epoch > 0 ? "try a lower learning rate" : "the model itself is broken");
    }
    if (status != ESP_OK) {
        return status;
    }
    s->validation_s = report->validation.seconds;
    s->result.last = report->validation;
    report->is_best = is_better(s, &report->validation);
    if (report->is_best) {
        status = keep_best(s, report->epoch, &report->validation, err);
    }
    if (status == ESP_OK && s->options->on_epoch != NULL) {
        report->graph = report->is_best ? s->best : NULL;
        status = s->options->on_epoch(s->options->epoch_user, report, err);
    }
    return status;
}

static esp_status run_epoch(session *s, int epoch, esp_error *err)
{
    epoch_state state = {.epoch = epoch, .images = epoch == s->epochs ? s->last_images : s->epoch_images};
    double before_s = s->result.seconds;
    esp_status status = train_epoch(s, &state, err);
    if (status != ESP_OK) {
        return status;
    }
    s->result.epochs_done = epoch;
    double images = (double)state.sums.images;
    double seconds = s->result.seconds - before_s;
    esp_epoch_report report = {
        .epoch = epoch,
        .epochs = s->epochs,
        .train_loss = state.sums.loss / images,
        .train_top1 = 100.0 * (double)state.sums.top1 / images,
        .lr = state.lr,
        .images_per_s = seconds > 0.0 ? images / seconds : 0.0,
        .seconds = seconds,
    };
    return close_epoch(s, &report, err);
}

static esp_status run(session *s, esp_error *err)
{
    esp_status status = ESP_OK;
    esp_optimizer_hold_masks(s->optimizer);
    if (s->options->evaluates_first && s->evaluator != NULL) {
        esp_epoch_report report = {
            .epochs = s->epochs,
            .train_loss = NAN,
            .train_top1 = NAN,
            .lr = esp_schedule_lr(&s->options->schedule, 0.0, s->options->epochs_limit),
        };
        status = close_epoch(s, &report, err);
        if (status == ESP_OK) {
            s->result.first = report.validation;
        }
    }
    for (int epoch = 1; status == ESP_OK && epoch <= s->epochs; epoch++) {
        status = run_epoch(s, epoch, err);
    }
    return status;
}

/* ---- the whole ---- */

/* Decides what the caller gets when training ended with `status`; returns the final status. */
static esp_status hand_out(session *s, esp_status status, esp_graph **out, esp_error *err)
{
    if (status == ESP_CANCELLED) {
        esp_fail(err, ESP_CANCELLED, "training stopped in epoch %d of %d after %" PRId64 " steps",
                 s->result.epochs_done < s->epochs ? s->result.epochs_done + 1 : s->epochs, s->epochs,
                 s->result.steps);
        if (s->best == NULL) {
            esp_status copied = esp_params_to_graph(s->params, &s->best, err);
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

esp_status esp_train(const esp_compute *compute, const esp_graph *graph, const esp_dataset *training,
                     const esp_dataset *validation, const esp_train_options *options, esp_graph **out,
                     esp_train_result *result, esp_error *err)
{
    *out = NULL;
    session s = {
        .compute = compute, .options = options, .training = training, .meter = esp_meter_make(compute)};
    esp_status status = check_options(options, err);
    if (status == ESP_OK) {
        status = check_data(graph, training, validation, err);
    }
    if (status == ESP_OK) {
        status = set_up(&s, graph, validation, err);
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
