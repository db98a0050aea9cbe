/* How training ends: the best version, cancel, divergence, failing callbacks, refused options; and what it
 * reports on the way. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/trainer.h"
#include "unit/train/train_fixtures.h"

enum { SIZE = 4, CLASSES = 4, MOST_REPORTS = 16 };

/* Notes what happens, and cancels or fails when told. */
typedef struct watcher {
    esp_cancel cancel;
    int epochs_seen;
    esp_epoch_report reports[MOST_REPORTS];
    esp_graph *best;                                  /* our reference to the newest best version */
    int cancel_in_epoch_report, fail_in_epoch_report; /* -1: never */
    int64_t cancel_in_progress; /* at the first report with this many images or more; -1 */
    int progress_count;
    double last_done;
    bool is_monotonic, is_fuse_test, has_allocated;
    esp_progress last;
    char first_detail[128];
} watcher;

static watcher new_watcher(void)
{
    return (watcher){.cancel_in_epoch_report = -1,
                     .fail_in_epoch_report = -1,
                     .cancel_in_progress = -1,
                     .is_monotonic = true};
}

static esp_status note_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    watcher *w = user;
    assert_true(w->epochs_seen < MOST_REPORTS);
    w->reports[w->epochs_seen++] = *report;
    assert_true((report->graph != NULL) == report->is_best);
    if (report->is_best) {
        esp_graph_unref(w->best);
        w->best = esp_graph_ref(report->graph);
    }
    if (report->epoch == w->cancel_in_epoch_report) {
        esp_cancel_request(&w->cancel);
    }
    return report->epoch == w->fail_in_epoch_report ? esp_fail(err, ESP_IO, "disk full") : ESP_OK;
}

static void note_progress(void *user, const esp_progress *progress)
{
    watcher *w = user;
    if (strcmp(progress->stage, "train") != 0) {
        return;
    }
    if (w->progress_count++ == 0) {
        strncpy(w->first_detail, progress->detail, sizeof(w->first_detail) - 1);
    }
    w->is_monotonic = w->is_monotonic && progress->done > w->last_done;
    w->last_done = progress->done;
    w->last = *progress;
    if (w->cancel_in_progress >= 0 && progress->done >= (double)w->cancel_in_progress) {
        esp_cancel_request(&w->cancel);
    }
    if (w->is_fuse_test && progress->done < progress->total) {
        esp_memory_fuse(1);
    } else if (w->is_fuse_test) {
        w->has_allocated = esp_memory_fuse_burnt() != 0;
        esp_memory_fuse(0);
    }
}

static esp_train_options options_for(watcher *w, double epochs, double lr)
{
    return (esp_train_options){
        .epochs_limit = epochs,
        .batch = 8,
        .schedule = {.kind = ESP_SCHEDULE_CONSTANT, .lr = lr},
        .momentum = 0.9,
        .seed = 3,
        .on_epoch = note_epoch,
        .epoch_user = w,
    };
}

static esp_compute compute_for(watcher *w)
{
    return (esp_compute){.cancel = &w->cancel, .on_progress = note_progress, .progress_user = w};
}

typedef struct fixture {
    esp_dataset *dataset; /* separable */
    esp_graph *start;
    watcher w;
    esp_compute compute;
    esp_graph *out;
    esp_train_result result;
    esp_error err;
} fixture;

static int set_up(void **state)
{
    fixture *f = esp_alloc_zero(1, sizeof(*f));
    f->dataset = quarters_dataset(32, SIZE, 5);
    f->start = random_linear_model(1, SIZE, SIZE, CLASSES, 6);
    f->w = new_watcher();
    f->compute = compute_for(&f->w);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->out);
    esp_graph_unref(f->w.best);
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    esp_free(f);
    return 0;
}

static esp_status train(fixture *f, const esp_dataset *validation, const esp_train_options *options)
{
    return esp_train(&f->compute, f->start, f->dataset, validation, options, &f->out, &f->result, &f->err);
}

/* ---- the best version ---- */

static void best_version_is_returned_not_the_last(void **state)
{
    fixture *f = *state;
    /* a good start, then steps far too large: no version after it is as good */
    esp_train_options options = options_for(&f->w, 5.0, 0.5);
    expect_ok(train(f, f->dataset, &options), &f->err);
    esp_graph *good = f->out;
    f->out = NULL;
    esp_graph_unref(f->start);
    f->start = good;
    f->w.epochs_seen = 0;
    esp_dataset *confusing = noise_dataset(32, 1, SIZE, SIZE, CLASSES, 8), *separable = f->dataset;
    f->dataset = confusing;
    options = options_for(&f->w, 3.0, 20.0);
    options.evaluates_first = true;
    expect_ok(train(f, separable, &options), &f->err);
    f->dataset = separable;
    esp_dataset_unref(confusing);

    assert_int_equal(f->result.best_epoch, 0);
    assert_int_equal(f->result.epochs_done, 3);
    assert_true(same_constants(f->start, f->out));
    assert_true(f->result.best.top1 == f->result.first.top1);
    assert_true(f->result.last.top1 < f->result.first.top1);
    assert_int_equal(f->w.epochs_seen, 4);
    assert_true(f->w.reports[0].is_best && f->w.reports[0].epoch == 0 &&
                isnan(f->w.reports[0].train_loss) != 0);
    assert_false(f->w.reports[3].is_best);
}

static void reports_agree_with_the_result(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 3.0, 0.2);
    options.schedule = (esp_schedule){
        .kind = ESP_SCHEDULE_STEP, .lr = 0.2, .gamma = 0.1, .milestone_count = 1, .milestones = {1.0}};
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_int_equal(f->w.epochs_seen, 3);
    double best = -1.0;
    for (int i = 0; i < 3; i++) {
        const esp_epoch_report *report = &f->w.reports[i];
        assert_int_equal(report->epoch, i + 1);
        assert_int_equal(report->epochs, 3);
        assert_int_equal(report->validation.images, 32);
        assert_true(report->train_loss > 0.0 && report->images_per_s > 0.0);
        assert_true(fabs(report->lr - (i == 0 ? 0.2 : 0.02)) < 1e-12);
        assert_true(report->is_best || report->validation.top1 <= best);
        best = fmax(best, report->validation.top1);
    }
    assert_true(f->result.best.top1 == best);
    assert_true(f->result.last.loss == f->w.reports[2].validation.loss);
    assert_int_equal(f->result.first.images, 0);
    assert_int_equal(f->result.steps, 12);
    assert_true(f->result.images_per_s > 0.0);
    assert_true(same_constants(f->w.best, f->out));
}

static void of_equal_accuracies_the_lower_loss_is_best(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 8.0, 0.2);
    expect_ok(train(f, f->dataset, &options), &f->err);
    const esp_eval_result *before = &f->w.reports[6].validation, *after = &f->w.reports[7].validation;
    assert_true(before->top1 == 100.0 && after->top1 == 100.0);
    assert_true(after->loss < before->loss);
    assert_int_equal(f->result.best_epoch, 8);
}

static void cosine_spans_the_whole_training(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 2.0, 0.2);
    options.schedule = (esp_schedule){.kind = ESP_SCHEDULE_COSINE, .lr = 0.2};
    expect_ok(train(f, f->dataset, &options), &f->err);
    /* the last of 4 steps in each of 2 epochs starts at 3/8 and 7/8 of the way */
    const double pi = 3.14159265358979323846;
    assert_true(fabs(f->w.reports[0].lr - 0.1 * (1.0 + cos(pi * 3.0 / 8.0))) < 1e-12);
    assert_true(fabs(f->w.reports[1].lr - 0.1 * (1.0 + cos(pi * 7.0 / 8.0))) < 1e-12);
}

static void without_validation_the_newest_version_counts(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 2.0, 0.1);
    options.evaluates_first = true;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_int_equal(f->result.best_epoch, 2);
    assert_int_equal(f->w.epochs_seen, 2);
    assert_int_equal(f->result.best.images, 0);
    assert_true(same_constants(f->w.best, f->out));
}

/* ---- cancel ---- */

static void cancel_returns_the_best_version_so_far(void **state)
{
    fixture *f = *state;
    f->w.cancel_in_epoch_report = 2;
    esp_train_options options = options_for(&f->w, 50.0, 0.1);
    expect_failure(train(f, f->dataset, &options), ESP_CANCELLED, &f->err,
                   "training stopped in epoch 3 of 50");
    assert_int_equal(f->result.epochs_done, 2);
    assert_int_equal(f->w.epochs_seen, 2);
    assert_true(same_constants(f->w.best, f->out));
    assert_int_equal(f->result.best.images, 32);
}

static void cancel_before_any_validation_returns_the_weights_as_they_are(void **state)
{
    fixture *f = *state;
    f->w.cancel_in_progress = 8;
    esp_train_options options = options_for(&f->w, 50.0, 0.1);
    expect_failure(train(f, f->dataset, &options), ESP_CANCELLED, &f->err, "after 1 steps");
    assert_int_equal(f->result.steps, 1);
    assert_non_null(f->out);
    assert_false(same_constants(f->start, f->out));
    assert_int_equal(f->w.epochs_seen, 0);

    /* they are those of a training that was meant to be this short */
    watcher other = new_watcher();
    esp_compute quiet = {0};
    esp_graph *shorter = NULL;
    options = options_for(&other, 0.25, 0.1);
    expect_ok(esp_train(&quiet, f->start, f->dataset, NULL, &options, &shorter, NULL, &f->err), &f->err);
    assert_true(same_constants(shorter, f->out));
    esp_graph_unref(other.best);
    esp_graph_unref(shorter);
}

static void cancel_before_the_first_step_returns_the_start(void **state)
{
    fixture *f = *state;
    esp_cancel_request(&f->w.cancel);
    esp_train_options options = options_for(&f->w, 2.0, 0.1);
    options.evaluates_first = true;
    expect_failure(train(f, f->dataset, &options), ESP_CANCELLED, &f->err, NULL);
    assert_int_equal(f->result.steps, 0);
    assert_true(same_constants(f->start, f->out));
}

static void masks_hold_before_the_first_step(void **state)
{
    fixture *f = *state;
    uint8_t keep[SIZE * SIZE * CLASSES];
    memset(keep, 1, sizeof(keep));
    keep[5] = 0;
    const esp_weight_mask mask = {esp_graph_find_value(f->start, "weight"), keep};
    esp_cancel_request(&f->w.cancel);
    esp_train_options options = options_for(&f->w, 2.0, 0.1);
    options.masks = &mask;
    options.mask_count = 1;
    expect_failure(train(f, f->dataset, &options), ESP_CANCELLED, &f->err, NULL);
    const float *before = esp_tensor_f32(constant_of(f->start, "weight"));
    const float *after = esp_tensor_f32(constant_of(f->out, "weight"));
    assert_true(before[5] != 0.0f && after[5] == 0.0f && after[6] == before[6]);
}

/* ---- failures ---- */

static void divergence_names_the_step_and_keeps_the_best(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 3.0, 1e38);
    options.evaluates_first = true;
    esp_status status = train(f, f->dataset, &options);
    assert_true(f->err.hint[0] != '\0');
    expect_failure(status, ESP_DIVERGED, &f->err, "step ");
    assert_true(same_constants(f->start, f->out));
    assert_int_equal(f->result.first.images, 32);
    esp_graph_unref(f->out);
    options.evaluates_first = false;
    expect_failure(train(f, f->dataset, &options), ESP_DIVERGED, &f->err, "learning rate 1e+38");
    assert_null(f->out);
}

static void failing_callback_stops_with_its_status(void **state)
{
    fixture *f = *state;
    f->w.fail_in_epoch_report = 1;
    esp_train_options options = options_for(&f->w, 3.0, 0.1);
    expect_failure(train(f, f->dataset, &options), ESP_IO, &f->err, "disk full");
    assert_null(f->out);
    assert_int_equal(f->w.epochs_seen, 1);
}

static void model_fixed_to_its_batch_is_refused(void **state)
{
    fixture *f = *state;
    const float zeros[SIZE * SIZE * CLASSES] = {0};
    esp_graph_unref(f->start);
    f->start = linear_model(3, 1, SIZE, SIZE, CLASSES, zeros, zeros);
    esp_train_options options = options_for(&f->w, 1.0, 0.1);
    expect_failure(train(f, f->dataset, &options), ESP_SHAPE, &f->err, "training in batches of 8");
    assert_null(f->out);
}

static void model_without_weights_is_refused(void **state)
{
    fixture *f = *state;
    esp_builder *builder = NULL;
    const int64_t dims[4] = {ESP_DIM_BATCH, 1, SIZE, SIZE};
    esp_shape shape = esp_shape_make(4, dims);
    int value = -1, flat = -1;
    expect_ok(esp_builder_new("empty", 13, 7, &builder, &f->err), &f->err);
    expect_ok(esp_builder_input(builder, "x", ESP_F32, &shape, "N", &value, &f->err), &f->err);
    expect_ok(esp_builder_add(builder, "Flatten", "flat", &value, 1, NULL, 0, "y", &flat, &f->err), &f->err);
    expect_ok(esp_builder_output(builder, flat, ESP_F32, NULL, &f->err), &f->err);
    esp_graph_unref(f->start);
    f->start = NULL;
    expect_ok(esp_builder_finish(builder, &f->start, &f->err), &f->err);
    esp_train_options options = options_for(&f->w, 1.0, 0.1);
    expect_failure(train(f, f->dataset, &options), ESP_INVALID, &f->err, "nothing to train");
}

static void bad_options_are_refused(void **state)
{
    fixture *f = *state;
    const esp_train_options good = options_for(&f->w, 1.0, 0.1);
    esp_train_options bad = good;
#define EXPECT_BAD(field, value, part)                                                                       \
    bad = good;                                                                                              \
    bad.field = (value);                                                                                     \
    expect_failure(train(f, f->dataset, &bad), ESP_INVALID, &f->err, part);                                  \
    assert_null(f->out)
    EXPECT_BAD(epochs_limit, 0.0, "epochs 0");
    EXPECT_BAD(epochs_limit, (double)NAN, "epochs");
    EXPECT_BAD(epochs_limit, 1e9, "epochs");
    EXPECT_BAD(batch, -1, "batch -1");
    EXPECT_BAD(momentum, 1.0, "momentum 1");
    EXPECT_BAD(momentum, -0.1, "momentum -0.1");
    EXPECT_BAD(weight_decay, -1.0, "weight decay -1");
    EXPECT_BAD(train_limit, -2, "limit -2");
    EXPECT_BAD(validation_limit, -3, "limit -3");
    EXPECT_BAD(augmentation.crop_padding, -4, "padding -4");
    EXPECT_BAD(schedule.lr, -1.0, "learning rate");
    EXPECT_BAD(std, "0", "std '0'");
#undef EXPECT_BAD
    bad = good;
    bad.uses_nesterov = true;
    bad.momentum = 0.0;
    expect_failure(train(f, f->dataset, &bad), ESP_INVALID, &f->err, "Nesterov");
}

static void data_that_does_not_fit_is_refused(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 1.0, 0.1);
    esp_dataset *other = noise_dataset(8, 3, SIZE, SIZE, CLASSES, 1);
    expect_failure(train(f, other, &options), ESP_SHAPE, &f->err, "3x4x4");
    esp_dataset_unref(other);
}

/* ---- on the way ---- */

static void progress_counts_images_over_all_epochs(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 2.5, 0.01);
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_true(f->w.is_monotonic);
    assert_true(f->w.progress_count >=
                4); /* the first step and the end of each epoch, whatever the clock says */
    assert_true(f->w.last.done == 80.0 && f->w.last.total == 80.0);
    assert_true(f->w.last.rate > 0.0 && f->w.last.eta_s >= 0.0);
    float loss = 0.0f, top1 = 0.0f, top5 = 0.0f;
    char tail[32] = "";
    assert_int_equal(sscanf(f->w.first_detail,
                            "epoch 1/3  step 1  loss %f  top-1 %f %%  top-5 %f %% %31[^\n]", &loss, &top1,
                            &top5, tail),
                     4);
    assert_string_equal(tail, "lr 0.01");
    assert_true(top5 == 100.0f); /* of four classes */
    assert_true(loss > 0.0f);
}

static void steps_allocate_nothing(void **state)
{
    fixture *f = *state;
    f->w.is_fuse_test =
        true; /* any allocation between the first progress report and the last one is refused */
    esp_train_options options = options_for(&f->w, 1.0, 0.1);
    esp_graph_unref(f->start);
    f->start = small_conv_model(8, 3, CLASSES, true, 1);
    esp_dataset_unref(f->dataset);
    f->dataset = quarters_dataset(45, 8, 5);
    options.augmentation = (esp_augmentation){.crop_padding = 1, .flips = true};
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_int_equal(f->result.steps, 6);
    assert_true(f->w.progress_count >= 2);
    assert_false(f->w.has_allocated);
}

static void running_out_of_memory_is_a_status_and_leaks_nothing(void **state)
{
    fixture *f = *state;
    esp_train_options options = options_for(&f->w, 1.0, 0.1);
    options.on_epoch = NULL;
    f->compute.on_progress = NULL;
    bool is_done = false;
    for (int64_t k = 1; !is_done; k++) {
        size_t before = esp_memory_live();
        esp_error err = {0};
        esp_graph *out = NULL;
        esp_memory_fuse(k);
        esp_status status =
            esp_train(&f->compute, f->start, f->dataset, f->dataset, &options, &out, NULL, &err);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        if (status != (is_done ? ESP_OK : ESP_NO_MEMORY)) {
            fail_msg("allocation %d: %s: %s", (int)k, esp_status_word(status), err.message);
        }
        assert_true((out != NULL) == is_done);
        esp_graph_unref(out);
        assert_int_equal(esp_memory_live(), before);
    }
}

int main(void)
{
#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(best_version_is_returned_not_the_last),
        WITH_FIXTURE(reports_agree_with_the_result),
        WITH_FIXTURE(of_equal_accuracies_the_lower_loss_is_best),
        WITH_FIXTURE(cosine_spans_the_whole_training),
        WITH_FIXTURE(without_validation_the_newest_version_counts),
        WITH_FIXTURE(cancel_returns_the_best_version_so_far),
        WITH_FIXTURE(cancel_before_any_validation_returns_the_weights_as_they_are),
        WITH_FIXTURE(cancel_before_the_first_step_returns_the_start),
        WITH_FIXTURE(masks_hold_before_the_first_step),
        WITH_FIXTURE(divergence_names_the_step_and_keeps_the_best),
        WITH_FIXTURE(failing_callback_stops_with_its_status),
        WITH_FIXTURE(model_fixed_to_its_batch_is_refused),
        WITH_FIXTURE(model_without_weights_is_refused),
        WITH_FIXTURE(bad_options_are_refused),
        WITH_FIXTURE(data_that_does_not_fit_is_refused),
        WITH_FIXTURE(progress_counts_images_over_all_epochs),
        WITH_FIXTURE(steps_allocate_nothing),
        WITH_FIXTURE(running_out_of_memory_is_a_status_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
