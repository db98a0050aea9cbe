/* One epoch: batches, steps, progress; and what closes it: validation, the best version, patience. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "train/trainer_internal.h"

#define SHUFFLE_SEED                                                                                         \
    UINT64_C(0x9e3779b97f4a7c15) /* keeps the shuffle apart from the augmentation's choices */

/* ---- where training stands ---- */

void esp_trainer_begin(esp_trainer *s, int epoch)
{
    s->now = (esp_epoch_state){
        .epoch = epoch,
        .images = epoch == s->epochs ? s->last_images : s->epoch_images,
        .seconds_before = s->result.seconds,
    };
}

/* In epochs, of the next step. */
static double position(const esp_trainer *s)
{
    return (s->now.epoch - 1) + (double)s->now.sums.images / (double)s->epoch_images;
}

esp_status esp_trainer_rate(esp_trainer *s, double *lr, esp_error *err)
{
    const esp_train_options *options = s->options;
    double at = position(s), rate = 0.0;
    if (options->lr_fn == NULL) {
        *lr = esp_schedule_lr_after(&options->schedule, &s->plateau, at, options->epochs_limit);
        return ESP_OK;
    }
    esp_status status = options->lr_fn(options->lr_user, at, s->result.steps, &rate, err);
    if (status == ESP_OK && (!isfinite(rate) || rate < 0.0)) {
        status = esp_fail(err, ESP_INVALID,
                          "schedule: learning rate %g at epoch %g, step %" PRId64 ", expected a number >= 0",
                          rate, at, s->result.steps);
    }
    if (status == ESP_OK) {
        *lr = rate;
    }
    return status;
}

static void shuffle(esp_trainer *s, int epoch)
{
    int64_t count = esp_dataset_count(s->training);
    for (int64_t i = 0; i < count; i++) {
        s->order[i] = (uint32_t)i;
    }
    esp_rng rng;
    esp_rng_seed_stream(&rng, s->options->seed ^ SHUFFLE_SEED, (uint64_t)epoch);
    esp_rng_shuffle(&rng, s->order, (size_t)count);
}

/* ---- one step ---- */

static esp_status forward(esp_trainer *s, esp_exec *exec, int64_t count, const float **teacher,
                          esp_error *err)
{
    const esp_batch_labels labels = {s->labels, s->other_labels, s->shares};
    float *x = esp_view_f32(esp_exec_input(exec, 0));
    esp_status status = esp_loader_take(s->loader, s->compute, count, x, &labels, err);
    if (status == ESP_OK) {
        status = esp_trainer_teach(s, x, count, teacher, err);
    }
    return status == ESP_OK ? esp_exec_forward(exec, s->compute, err) : status;
}

static bool needs_clipping(const esp_train_options *options)
{
    return options->clip_norm > 0.0 || options->clip_value > 0.0;
}

/* Forward, loss and backward of the next `count` images; gradients are in the params after it, and `sums` of
 * the epoch have grown. */
static esp_status find_gradients(esp_trainer *s, esp_exec *exec, int64_t count, double *loss, esp_error *err)
{
    const esp_train_options *options = s->options;
    const float *teacher = NULL;
    int64_t first = s->now.sums.images;
    esp_status status = forward(s, exec, count, &teacher, err);
    if (status != ESP_OK) {
        return status;
    }
    const esp_loss_terms terms = {
        .smoothing = options->label_smoothing,
        .other = s->other_labels,
        .share = s->shares,
        .teacher = teacher,
        .temperature = options->temperature > 0.0 ? options->temperature : 4.0,
        .mix = options->distillation > 0.0 ? options->distillation : 0.5,
    };
    const esp_view *logits = esp_exec_output(exec, 0);
    int64_t classes = esp_shape_elements(&logits->shape) / count;
    double before = s->now.sums.loss;
    esp_loss(&terms, esp_view_f32(logits), s->labels, count, classes, &s->now.sums,
             esp_view_f32(esp_exec_output_grad(exec, 0)));
    *loss = (s->now.sums.loss - before) / (double)count;
    bool is_too_high = options->max_loss > 0.0 && *loss > options->max_loss;
    if (!isfinite(s->now.sums.loss) || is_too_high) {
        return esp_trainer_diverged(s, ESP_TROUBLE_LOSS, *loss, first, count, err);
    }
    status = esp_exec_backward(exec, s->compute, err);
    if (status != ESP_OK) {
        return status;
    }
    esp_trainer_penalize(s);
    if (esp_compute_is_cancelled(s->compute)) {
        return ESP_CANCELLED;
    }
    if (!esp_optimizer_gradients_are_finite(s->optimizer, s->compute)) {
        return esp_trainer_diverged(s, ESP_TROUBLE_GRADIENT, *loss, first, count, err);
    }
    if (needs_clipping(options)) {
        esp_optimizer_clip(s->optimizer, s->compute, options->clip_value, options->clip_norm);
    }
    return ESP_OK;
}

/* A step that cannot be finished leaves the sums as they were, and, where a checkpoint may follow, running
 * statistics and random states too: then training stands between two steps again. */
static esp_status step(esp_trainer *s, double *loss, int64_t *count, esp_error *err)
{
    /* a tail is never a multiple of the batch, so only the end of a whole epoch is one */
    bool is_tail = s->now.images - s->now.sums.images == s->tail;
    esp_loss_sums before = s->now.sums;
    *count = is_tail ? s->tail : s->batch;
    esp_trainer_hold_step(s);
    esp_status status = esp_compute_is_cancelled(s->compute)
                            ? ESP_CANCELLED
                            : find_gradients(s, is_tail ? s->tail_exec : s->exec, *count, loss, err);
    if (status != ESP_OK) {
        s->now.sums = before;
        esp_trainer_take_back(s);
        return status;
    }
    esp_optimizer_step(s->optimizer, s->compute, s->now.lr);
    esp_trainer_keep_frozen(s);
    esp_trainer_average(s);
    s->result.steps++;
    s->images_done += *count;
    return ESP_OK;
}

/* ---- progress ---- */

static double training_seconds(const esp_trainer *s)
{
    return s->result.seconds + (esp_clock_s() - s->now.start_s);
}

static double total_images(const esp_trainer *s)
{
    return (double)s->epoch_images * (s->epochs - 1) + (double)s->last_images;
}

/* Images per second so far, and seconds left at that rate (negative when unknown). */
static double find_rate(const esp_trainer *s, double *eta_s)
{
    double seconds = training_seconds(s), done = (double)s->images_done;
    double rate = seconds > 0.0 ? done / seconds : 0.0;
    double validations_s = s->validation_s * (s->epochs - s->now.epoch + 1);
    *eta_s = rate > 0.0 ? (total_images(s) - done) / rate + validations_s : -1.0;
    return rate;
}

static double percent(int64_t part, int64_t whole)
{
    return 100.0 * (double)part / (double)whole;
}

static void report_progress(const esp_trainer *s)
{
    const esp_loss_sums *sums = &s->now.sums;
    double eta_s = -1.0, rate = find_rate(s, &eta_s);
    char detail[160];
    snprintf(detail, sizeof(detail),
             "epoch %d/%d  step %" PRId64 "  loss %.3f  top-1 %.1f %%  top-5 %.1f %%  lr %.4g", s->now.epoch,
             s->epochs, s->result.steps, sums->loss / (double)sums->images, percent(sums->top1, sums->images),
             percent(sums->top5, sums->images), s->now.lr);
    esp_progress progress = {
        .stage = "train",
        .done = (double)s->images_done,
        .total = total_images(s),
        .unit = "images",
        .rate = rate,
        .eta_s = eta_s,
        .detail = detail,
        .loss = sums->loss / (double)sums->images,
        .share_right = (double)sums->top1 / (double)sums->images,
    };
    esp_compute_report(s->compute, &progress);
}

static esp_status call_on_step(esp_trainer *s, double loss, esp_error *err)
{
    const esp_loss_sums *sums = &s->now.sums;
    esp_step_report report = {
        .epoch = s->now.epoch,
        .epochs = s->epochs,
        .step = s->result.steps,
        .position = position(s),
        .loss = loss,
        .epoch_loss = sums->loss / (double)sums->images,
        .epoch_top1 = percent(sums->top1, sums->images),
        .epoch_top5 = percent(sums->top5, sums->images),
        .lr = s->now.lr,
    };
    report.images_per_s = find_rate(s, &report.eta_s);
    return s->options->on_step(s->options->step_user, s, &report, err);
}

/* ---- the epoch ---- */

static esp_status take_steps(esp_trainer *s, esp_error *err)
{
    esp_status status = ESP_OK;
    while (status == ESP_OK && s->now.sums.images < s->now.images) {
        double loss = 0.0;
        int64_t count = 0;
        status = esp_trainer_rate(s, &s->now.lr, err);
        if (status == ESP_OK) {
            status = step(s, &loss, &count, err);
        }
        if (status == ESP_OK && s->options->on_step != NULL) {
            status = call_on_step(s, loss, err);
        }
        if (status == ESP_OK && esp_meter_is_due(&s->meter, s->now.sums.images == s->now.images)) {
            report_progress(s);
        }
        /* the end of an epoch is kept when it is closed */
        if (status == ESP_OK && s->now.sums.images < s->now.images && esp_trainer_checkpoint_is_due(s)) {
            s->result.seconds = training_seconds(s);
            s->now.start_s = esp_clock_s();
            esp_trainer_checkpoint(s);
        }
    }
    return status;
}

esp_status esp_trainer_epoch(esp_trainer *s, esp_error *err)
{
    int64_t done = s->now.sums.images;
    esp_status status = ESP_OK;
    shuffle(s, s->now.epoch);
    s->now.start_s = esp_clock_s();
    if (done < s->now.images) {
        status =
            esp_loader_begin(s->loader, (uint64_t)s->now.epoch, s->order + done, s->now.images - done, err);
    }
    if (status == ESP_OK) {
        status = take_steps(s, err);
    }
    s->result.seconds = training_seconds(s);
    s->result.images_per_s = s->result.seconds > 0.0 ? (double)s->images_done / s->result.seconds : 0.0;
    return status;
}

/* ---- validation and the best version ---- */

static bool is_better(const esp_trainer *s, const esp_eval_result *now)
{
    const esp_eval_result *best = &s->result.best;
    return s->best == NULL || s->evaluator == NULL || now->top1 > best->top1 ||
           (now->top1 == best->top1 && now->loss < best->loss);
}

static esp_status keep_best(esp_trainer *s, int epoch, const esp_eval_result *now, esp_error *err)
{
    esp_graph *graph = NULL;
    esp_status status = esp_params_to_graph(s->measured, &graph, err);
    if (status == ESP_OK) {
        esp_graph_unref(s->best);
        s->best = graph;
        s->result.best = *now;
        s->result.best_epoch = epoch;
    }
    return status;
}

static esp_status validate(esp_trainer *s, const esp_epoch_report *report, esp_eval_result *out,
                           esp_error *err)
{
    esp_status status = report->epoch > 0 ? esp_trainer_recalibrate(s, err) : ESP_OK;
    if (status == ESP_OK && s->evaluator != NULL) {
        status = esp_evaluator_run(s->evaluator, s->compute, "validate", out, err);
    }
    if (status == ESP_OK && s->evaluator != NULL && !isfinite(out->loss)) {
        status = esp_trainer_diverged(s, ESP_TROUBLE_VALIDATION, out->loss, 0, 0, err);
    }
    return status;
}

/* What the schedule and patience learn from an epoch; without validation its training loss has to do. */
static void note_loss(esp_trainer *s, const esp_epoch_report *report)
{
    double loss = s->evaluator != NULL ? report->validation.loss : report->train_loss;
    if (report->epoch > 0) {
        double at = fmin((double)report->epoch, s->options->epochs_limit);
        esp_schedule_measured(&s->options->schedule, &s->plateau, at, s->options->epochs_limit, loss);
    }
    bool is_lower = isinf(s->lowest_loss) || loss < s->lowest_loss - s->options->min_delta;
    s->waited = is_lower || report->epoch == 0 ? 0 : s->waited + 1;
    if (is_lower && isfinite(loss)) {
        s->lowest_loss = loss;
    }
}

/* Measures the present weights, keeps them when they are the best, and tells the caller. `report` has what is
 * known of the epoch's training. Without validation data the newest weights count as the best. */
esp_status esp_trainer_close(esp_trainer *s, esp_epoch_report *report, esp_error *err)
{
    esp_status status = validate(s, report, &report->validation, err);
    if (status != ESP_OK) {
        return status;
    }
    s->validation_s = report->validation.seconds;
    s->result.last = report->validation;
    note_loss(s, report);
    report->is_best = is_better(s, &report->validation);
    if (report->is_best) {
        status = keep_best(s, report->epoch, &report->validation, err);
    }
    s->now.is_closed = status == ESP_OK && report->epoch > 0;
    if (status == ESP_OK && s->options->on_epoch != NULL) {
        report->graph = report->is_best ? s->best : NULL;
        status = s->options->on_epoch(s->options->epoch_user, report, err);
    }
    return status;
}
