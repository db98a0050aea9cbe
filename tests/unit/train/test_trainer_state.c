/* Going on from a checkpoint: bit for bit what an uninterrupted run gives, whatever the step it was cut at
 * and the number of threads; and what is refused. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/trainer.h"
#include "unit/train/train_fixtures.h"

enum { SIZE = 8, CLASSES = 4, IMAGES = 45, BATCH = 8, STEPS_PER_EPOCH = 6 };

/* Keeps the newest state, and stops the training when a step is reached. */
typedef struct keeper {
    esp_cancel cancel;
    esp_train_state state;
    int64_t cut_at;                   /* cancels after this step; 0: never */
    bool cuts_inside;                 /* or within the step after it, when the schedule is asked */
    bool fails;                       /* to write */
    const esp_weight_mask *mask_at_4; /* set after step 4 */
    int stops_in_epoch;               /* the callback cancels after this epoch; 0: never */
    int calls, epochs;
    esp_epoch_report reports[16];
} keeper;

static void copy_state(const esp_train_state *from, esp_train_state *to)
{
    esp_error err = {0};
    esp_train_state_free(to);
    for (int i = 0; i < from->count; i++) {
        expect_ok(
            esp_train_state_put(to, from->blocks[i].name, from->blocks[i].data, from->blocks[i].size, &err),
            &err);
    }
}

static esp_status keep(void *user, const esp_train_state *state, esp_error *err)
{
    keeper *k = user;
    k->calls++;
    if (k->fails) {
        return esp_fail(err, ESP_IO, "no space left");
    }
    copy_state(state, &k->state);
    return ESP_OK;
}

static esp_status on_step(void *user, esp_trainer *trainer, const esp_step_report *report, esp_error *err)
{
    keeper *k = user;
    if (report->step == k->cut_at) {
        esp_cancel_request(&k->cancel);
    }
    return report->step == 4 && k->mask_at_4 != NULL ? esp_trainer_set_masks(trainer, k->mask_at_4, 1, err)
                                                     : ESP_OK;
}

static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    keeper *k = user;
    k->reports[k->epochs++] = *report;
    return k->stops_in_epoch > 0 && report->epoch == k->stops_in_epoch
               ? esp_fail(err, ESP_CANCELLED, "enough")
               : ESP_OK;
}

/* A network with everything that has a state: batch-norm, dropout, a tail, masks, an average, a plateau. */
typedef struct fixture {
    esp_dataset *training, *validation;
    esp_graph *start;
    uint8_t *keep;
    esp_weight_mask mask;
    esp_train_options options;
} fixture;

static int set_up(void **state)
{
    fixture *f = esp_alloc_zero(1, sizeof(*f));
    f->training = quarters_dataset(IMAGES, SIZE, 5);
    f->validation = quarters_dataset(20, SIZE, 6);
    f->start = small_conv_model(SIZE, 3, CLASSES, true, 1);
    size_t count = (size_t)esp_tensor_elements(constant_of(f->start, "conv2"));
    f->keep = esp_alloc(count, 1);
    for (size_t i = 0; i < count; i++) {
        f->keep[i] = i % 5 != 0;
    }
    f->mask = (esp_weight_mask){esp_graph_find_value(f->start, "conv2"), f->keep};
    f->options = (esp_train_options){
        .epochs_limit = 2.5,
        .batch = BATCH,
        .schedule = esp_schedule_make(ESP_SCHEDULE_PLATEAU, 0.05),
        .momentum = 0.9,
        .weight_decay = 1e-3,
        .augmentation = {.crop_padding = 1, .flips = true},
        .seed = 11,
        .masks = &f->mask,
        .mask_count = 1,
        .evaluates_first = true,
        .mean = "0.5",
        .std = "0.25",
        .ema_decay = 0.7,
        .patience = 50,
    };
    f->options.schedule.patience = 0;
    f->options.schedule.threshold = 0.5;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    esp_dataset_unref(f->training);
    esp_dataset_unref(f->validation);
    esp_graph_unref(f->start);
    esp_free(f->keep);
    esp_free(f);
    return 0;
}

/* One training, or a piece of one. */
static esp_status run(const fixture *f, keeper *k, const esp_train_state *resume, int threads,
                      esp_graph **out, esp_train_result *result, esp_error *err)
{
    esp_compute compute = {.cancel = &k->cancel};
    esp_train_options options = f->options;
    expect_ok(esp_pool_new(threads, &compute.pool, err), err);
    options.on_checkpoint = keep;
    options.checkpoint_user = k;
    options.on_step = on_step;
    options.step_user = k;
    options.on_epoch = on_epoch;
    options.epoch_user = k;
    options.resume = resume;
    esp_status status = esp_train(&compute, f->start, f->training, f->validation, &options, out, result, err);
    esp_pool_free(compute.pool);
    return status;
}

static esp_graph *run_whole(const fixture *f, keeper *k, esp_train_result *result)
{
    esp_error err = {0};
    esp_graph *out = NULL;
    expect_ok(run(f, k, NULL, 2, &out, result, &err), &err);
    return out;
}

static void expect_same_result(const esp_train_result *a, const esp_train_result *b)
{
    assert_true(a->steps == b->steps && a->epochs_done == b->epochs_done && a->best_epoch == b->best_epoch);
    assert_true(a->best.loss == b->best.loss && a->best.top1 == b->best.top1);
    assert_true(a->first.loss == b->first.loss && a->last.loss == b->last.loss);
}

/* Cut after `cut_at` steps with some threads, gone on with others. */
static void cut_and_go_on(const fixture *f, int64_t cut_at, const esp_graph *expected, const keeper *whole,
                          const esp_train_result *whole_result)
{
    esp_error err = {0};
    esp_graph *piece = NULL, *out = NULL;
    esp_train_result result;
    keeper first = {.cut_at = cut_at}, second = {0};
    expect_failure(run(f, &first, NULL, 1 + (int)(cut_at % 3), &piece, &result, &err), ESP_CANCELLED, &err,
                   NULL);
    esp_graph_unref(piece);
    expect_ok(run(f, &second, &first.state, 1 + (int)((cut_at + 1) % 3), &out, &result, &err), &err);
    assert_int_equal(result.resumed_step, cut_at);
    assert_true(same_constants(out, expected));
    expect_same_result(&result, whole_result);
    for (int i = 0; i < second.epochs; i++) {
        const esp_epoch_report *mine = &second.reports[i];
        const esp_epoch_report *its = &whole->reports[whole->epochs - second.epochs + i];
        assert_true(mine->epoch == its->epoch && mine->train_loss == its->train_loss && mine->lr == its->lr);
        assert_true(mine->validation.loss == its->validation.loss && mine->is_best == its->is_best);
    }
    esp_graph_unref(out);
    esp_train_state_free(&first.state);
    esp_train_state_free(&second.state);
}

static void resumed_training_is_an_uninterrupted_one_to_the_bit(void **state)
{
    fixture *f = *state;
    static const esp_optimizer_kind kinds[] = {ESP_OPTIMIZER_SGD, ESP_OPTIMIZER_ADAMW};
    for (size_t i = 0; i < 2; i++) {
        keeper whole = {0};
        esp_train_result result;
        f->options.optimizer = kinds[i];
        f->options.dampening = i == 0 ? 0.2 : 0.0;
        esp_graph *expected = run_whole(f, &whole, &result);
        assert_int_equal(result.steps, 2 * STEPS_PER_EPOCH + 3);
        assert_true(result.best_epoch > 0);
        assert_true(whole.reports[whole.epochs - 1].lr < 0.05); /* the plateau has come down */
        /* in the first epoch, at its end, at the tail, in the last */
        for (int64_t cut_at = 1; cut_at < result.steps; cut_at += cut_at == 5 || cut_at == 6 ? 1 : 4) {
            cut_and_go_on(f, cut_at, expected, &whole, &result);
        }
        esp_graph_unref(expected);
        esp_train_state_free(&whole.state);
    }
}

static void training_may_be_cut_again_and_again(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    keeper whole = {0};
    esp_train_result expected_result, result;
    esp_graph *expected = run_whole(f, &whole, &expected_result), *out = NULL;
    esp_train_state at = {0};
    esp_status status = ESP_CANCELLED;
    for (int64_t cut_at = 1; status == ESP_CANCELLED; cut_at++) {
        keeper k = {.cut_at = cut_at};
        esp_graph_unref(out);
        status = run(f, &k, at.count > 0 ? &at : NULL, 2, &out, &result, &err);
        copy_state(&k.state, &at);
        esp_train_state_free(&k.state);
    }
    expect_ok(status, &err);
    assert_true(same_constants(out, expected));
    expect_same_result(&result, &expected_result);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_train_state_free(&at);
    esp_train_state_free(&whole.state);
}

static void state_of_a_finished_training_gives_its_result_again(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    keeper whole = {0}, again = {0};
    esp_train_result expected_result, result;
    esp_graph *expected = run_whole(f, &whole, &expected_result), *out = NULL;
    expect_ok(run(f, &again, &whole.state, 1, &out, &result, &err), &err);
    assert_true(same_constants(out, expected));
    expect_same_result(&result, &expected_result);
    assert_int_equal(again.epochs, 0);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_train_state_free(&whole.state);
    esp_train_state_free(&again.state);
}

/* A progress callback of validation cancels: the epoch has been trained, and is not closed. */
static void cancel_in_validation(void *user, const esp_progress *progress)
{
    keeper *k = user;
    if (k->epochs == 2 && strcmp(progress->stage, "train") == 0 && progress->done == (double)(2 * IMAGES)) {
        esp_cancel_request(&k->cancel);
    }
}

static void training_cut_in_validation_validates_first(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    keeper whole = {0}, first = {0}, second = {0};
    esp_train_result expected_result, result;
    esp_graph *expected = run_whole(f, &whole, &expected_result), *out = NULL;
    esp_compute compute = {
        .cancel = &first.cancel, .on_progress = cancel_in_validation, .progress_user = &first};
    esp_train_options options = f->options;
    options.on_checkpoint = keep;
    options.checkpoint_user = &first;
    options.on_epoch = on_epoch;
    options.epoch_user = &first;
    expect_failure(esp_train(&compute, f->start, f->training, f->validation, &options, &out, &result, &err),
                   ESP_CANCELLED, &err, NULL);
    assert_int_equal(first.epochs, 2); /* the start, and the first epoch */
    assert_int_equal(result.steps, 2 * STEPS_PER_EPOCH);
    esp_graph_unref(out);
    expect_ok(run(f, &second, &first.state, 2, &out, &result, &err), &err);
    assert_true(same_constants(out, expected));
    expect_same_result(&result, &expected_result);
    assert_int_equal(second.reports[0].epoch, 2);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_train_state_free(&whole.state);
    esp_train_state_free(&first.state);
    esp_train_state_free(&second.state);
}

/* The schedule's question comes before every step. */
static esp_status cancelling_rate(void *user, double epoch, int64_t step, double *lr, esp_error *err)
{
    (void)epoch;
    (void)err;
    keeper *k = user;
    *lr = 0.02;
    if (k->cuts_inside && step == k->cut_at) {
        esp_cancel_request(&k->cancel);
    }
    return ESP_OK;
}

static void step_that_is_cancelled_before_it_begins_is_not_counted(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    keeper whole = {0}, first = {.cut_at = 3, .cuts_inside = true}, second = {0};
    esp_train_result expected_result, result;
    f->options.lr_fn = cancelling_rate;
    f->options.lr_user = &whole;
    esp_graph *expected = run_whole(f, &whole, &expected_result), *out = NULL;
    f->options.lr_user = &first;
    expect_failure(run(f, &first, NULL, 2, &out, &result, &err), ESP_CANCELLED, &err, NULL);
    assert_int_equal(result.steps, 3);
    esp_graph_unref(out);
    f->options.lr_user = &second;
    expect_ok(run(f, &second, &first.state, 2, &out, &result, &err), &err);
    assert_true(same_constants(out, expected));
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_train_state_free(&whole.state);
    esp_train_state_free(&first.state);
    esp_train_state_free(&second.state);
}

/* A penalty is asked within a step, behind forward and backward: running statistics, dropout and sums have
 * moved by then. */
typedef struct interrupter {
    keeper *k; /* NULL: nobody is interrupted */
    int64_t step, calls;
} interrupter;

static void interrupt(void *user, int64_t count, const float *weight, float *gradient)
{
    (void)count;
    (void)weight;
    (void)gradient;
    interrupter *it = user;
    if (it->calls++ == it->step && it->k != NULL) {
        esp_cancel_request(&it->k->cancel);
    }
}

static void training_cancelled_within_a_step_goes_on_from_before_it(void **state)
{
    fixture *f = *state;
    interrupter it = {0};
    const esp_train_penalty penalty = {f->mask.value, interrupt, &it};
    keeper whole = {0};
    esp_train_result expected_result, result;
    f->options.penalties = &penalty;
    f->options.penalty_count = 1;
    esp_graph *expected = run_whole(f, &whole, &expected_result);
    for (int64_t step = 0; step < expected_result.steps; step += 3) {
        esp_error err = {0};
        esp_graph *piece = NULL, *out = NULL;
        keeper first = {0}, second = {0};
        it = (interrupter){.k = &first, .step = step};
        expect_failure(run(f, &first, NULL, 2, &piece, &result, &err), ESP_CANCELLED, &err, NULL);
        assert_int_equal(result.steps, step);
        it.k = NULL;
        expect_ok(run(f, &second, &first.state, 2, &out, &result, &err), &err);
        assert_true(same_constants(out, expected));
        expect_same_result(&result, &expected_result);
        assert_true(second.reports[second.epochs - 1].train_loss ==
                    whole.reports[whole.epochs - 1].train_loss);
        esp_graph_unref(piece);
        esp_graph_unref(out);
        esp_train_state_free(&first.state);
        esp_train_state_free(&second.state);
    }
    esp_graph_unref(expected);
    esp_train_state_free(&whole.state);
}

static void epoch_whose_callback_cancels_is_closed_once(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    keeper whole = {0}, first = {.stops_in_epoch = 1}, second = {0};
    esp_train_result expected_result, result;
    esp_graph *expected = run_whole(f, &whole, &expected_result), *out = NULL;
    expect_failure(run(f, &first, NULL, 2, &out, &result, &err), ESP_CANCELLED, &err, NULL);
    esp_graph_unref(out);
    expect_ok(run(f, &second, &first.state, 2, &out, &result, &err), &err);
    assert_true(same_constants(out, expected));
    expect_same_result(&result, &expected_result);
    assert_int_equal(second.reports[0].epoch, 2);
    assert_true(second.reports[0].lr == whole.reports[2].lr);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_train_state_free(&whole.state);
    esp_train_state_free(&first.state);
    esp_train_state_free(&second.state);
}

static void patience_is_part_of_the_state(void **state)
{
    fixture *f = *state;
    f->options.epochs_limit = 9.0;
    f->options.patience = 3;
    f->options.min_delta = 100.0; /* never reached: the first validation sets the mark, three wait */
    for (int64_t cut_at = 3; cut_at < 18; cut_at += 5) {
        esp_error err = {0};
        esp_graph *out = NULL;
        esp_train_result result;
        keeper first = {.cut_at = cut_at}, second = {0}, third = {0};
        expect_failure(run(f, &first, NULL, 2, &out, &result, &err), ESP_CANCELLED, &err, NULL);
        esp_graph_unref(out);
        expect_ok(run(f, &second, &first.state, 2, &out, &result, &err), &err);
        assert_true(result.stopped_early);
        assert_int_equal(result.epochs_done, 3);
        esp_graph_unref(out);
        expect_ok(run(f, &third, &second.state, 2, &out, &result, &err), &err);
        assert_true(result.stopped_early && third.epochs == 0);
        esp_graph_unref(out);
        esp_train_state_free(&first.state);
        esp_train_state_free(&second.state);
        esp_train_state_free(&third.state);
    }
}

static void masks_set_on_the_way_are_part_of_the_state(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    size_t count = (size_t)esp_tensor_elements(constant_of(f->start, "conv2"));
    uint8_t *other = esp_alloc(count, 1);
    for (size_t i = 0; i < count; i++) {
        other[i] = i % 2 != 0;
    }
    const esp_weight_mask mask = {f->mask.value, other};
    keeper whole = {.mask_at_4 = &mask}, first = {.mask_at_4 = &mask, .cut_at = 7}, second = {0};
    esp_train_result expected_result, result;
    esp_graph *expected = run_whole(f, &whole, &expected_result), *out = NULL;
    expect_failure(run(f, &first, NULL, 2, &out, &result, &err), ESP_CANCELLED, &err, NULL);
    esp_graph_unref(out);
    expect_ok(run(f, &second, &first.state, 2, &out, &result, &err), &err);
    assert_true(same_constants(out, expected));
    const float *conv2 = esp_tensor_f32(constant_of(out, "conv2"));
    assert_true(conv2[0] == 0.0f && conv2[2] == 0.0f && conv2[5] != 0.0f);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_free(other);
    esp_train_state_free(&whole.state);
    esp_train_state_free(&first.state);
    esp_train_state_free(&second.state);
}

/* ---- when ---- */

static void checkpoints_come_every_n_steps_and_after_every_epoch(void **state)
{
    fixture *f = *state;
    keeper k = {0};
    esp_train_result result;
    f->options.checkpoint_steps = 4;
    esp_graph_unref(run_whole(f, &k, &result)); /* steps 4, 6 (epoch), 10, 12 (epoch), 15 (end) */
    assert_int_equal(k.calls, 5);
    assert_int_equal(result.checkpoints, 5);
    esp_train_state_free(&k.state);
    f->options.checkpoint_steps = 0;
    f->options.checkpoint_seconds = 1e-9;
    k = (keeper){0};
    esp_graph_unref(run_whole(f, &k, &result));
    assert_int_equal(k.calls, 2 * STEPS_PER_EPOCH + 3);
    esp_train_state_free(&k.state);
}

static void training_goes_on_when_a_checkpoint_cannot_be_written(void **state)
{
    fixture *f = *state;
    keeper good = {0}, bad = {.fails = true};
    esp_train_result expected_result, result;
    esp_graph *expected = run_whole(f, &good, &expected_result), *out = run_whole(f, &bad, &result);
    assert_true(same_constants(out, expected));
    assert_int_equal(result.checkpoints, 0);
    assert_int_equal(result.checkpoint_failures, 3);
    assert_string_equal(result.checkpoint_error.message, "no space left");
    esp_graph_unref(expected);
    esp_graph_unref(out);
    esp_train_state_free(&good.state);
}

/* ---- what is refused ---- */

static void expect_mismatch(const fixture *f, const esp_train_state *resume, const char *part)
{
    esp_error err = {0};
    keeper k = {0};
    esp_graph *out = NULL;
    expect_failure(run(f, &k, resume, 1, &out, NULL, &err), ESP_MISMATCH, &err, part);
    assert_null(out);
    esp_train_state_free(&k.state);
}

static void state_of_another_training_is_refused(void **state)
{
    fixture *f = *state;
    keeper k = {0};
    esp_train_result result;
    esp_graph_unref(run_whole(f, &k, &result));
    const esp_train_options good = f->options;
    f->options.batch = 9;
    expect_mismatch(f, &k.state, "its batch is 8");
    f->options = good;
    f->options.seed = 12;
    expect_mismatch(f, &k.state, "its seed is \"11\", found \"12\"");
    f->options = good;
    f->options.schedule.lr = 0.04;
    expect_mismatch(f, &k.state, "its schedule is");
    f->options = good;
    f->options.optimizer = ESP_OPTIMIZER_ADAM;
    expect_mismatch(f, &k.state, "its optimizer is \"sgd\", found \"adam\"");
    f->options = good;
    f->options.mask_count = 0;
    expect_mismatch(f, &k.state, "its masks");
    f->options = good;
    f->options.std = "0.5";
    expect_mismatch(f, &k.state, "normalisation");
    f->options = good;
    esp_graph *start = f->start;
    f->start = small_conv_model(SIZE, 3, CLASSES, true, 2);
    expect_mismatch(f, &k.state, "its model is");
    esp_graph_unref(f->start);
    f->start = start;
    esp_dataset *training = f->training;
    f->training = quarters_dataset(IMAGES + 1, SIZE, 5);
    expect_mismatch(f, &k.state, "its training data is \"45 images");
    esp_dataset_unref(f->training);
    f->training = quarters_dataset(IMAGES, SIZE, 6); /* the same labels, other pictures */
    expect_mismatch(f, &k.state, "its training data is \"45 images");
    esp_dataset_unref(f->training);
    f->training = training;
    esp_train_state_free(&k.state);
}

/* A state with one block left out, cut short or overwritten. */
static esp_train_state changed(const esp_train_state *from, const char *name, size_t size, uint64_t value)
{
    esp_error err = {0};
    esp_train_state to = {0};
    for (int i = 0; i < from->count; i++) {
        const esp_state_block *block = &from->blocks[i];
        bool is_it = strcmp(block->name, name) == 0;
        if (is_it && size == SIZE_MAX) {
            continue;
        }
        size_t bytes = is_it && size > 0 ? size : block->size;
        expect_ok(esp_train_state_put(&to, block->name,
                                      is_it && size == 0 ? (const void *)&value : block->data, bytes, &err),
                  &err);
    }
    return to;
}

static void expect_bad(const fixture *f, esp_train_state take_state, esp_status expected, const char *part)
{
    esp_error err = {0};
    keeper k = {0};
    esp_graph *out = NULL;
    expect_failure(run(f, &k, &take_state, 1, &out, NULL, &err), expected, &err, part);
    assert_null(out);
    esp_train_state_free(&k.state);
    esp_train_state_free(&take_state);
}

static void broken_state_is_refused(void **state)
{
    fixture *f = *state;
    keeper k = {0};
    esp_train_result result;
    esp_graph_unref(run_whole(f, &k, &result));
    static const char *const needed[] = {"version", "identity",  "epoch",   "steps",       "random",
                                         "weights", "optimizer", "average", "plateau.best"};
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        expect_bad(f, changed(&k.state, needed[i], SIZE_MAX, 0), ESP_FORMAT, "cannot resume: '");
    }
    static const char *const sized[] = {"version", "epoch", "random", "weights", "average", "best"};
    for (size_t i = 0; i < sizeof(sized) / sizeof(sized[0]); i++) {
        expect_bad(f, changed(&k.state, sized[i], 7, 0), ESP_FORMAT, sized[i]);
    }
    expect_bad(f, changed(&k.state, "optimizer", 100, 0), ESP_FORMAT, "optimizer's memory");
    esp_error err = {0};
    esp_train_state longer = changed(&k.state, "optimizer", SIZE_MAX, 0);
    const esp_state_block *memory = esp_train_state_find(&k.state, "optimizer");
    void *bytes = NULL;
    expect_ok(esp_train_state_add(&longer, "optimizer", memory->size + 8, &bytes, &err), &err);
    memset(bytes, 0, memory->size + 8);
    memcpy(bytes, memory->data, memory->size);
    expect_bad(f, longer, ESP_FORMAT, "optimizer's memory");
    expect_bad(f, changed(&k.state, "identity", 20, 0), ESP_FORMAT, "no JSON object");
    expect_bad(f, changed(&k.state, "version", 0, 77), ESP_UNSUPPORTED, "version 77");
    expect_bad(f, changed(&k.state, "epoch", 0, 99), ESP_FORMAT, "epoch 99");
    expect_bad(f, changed(&k.state, "epoch.images", 0, 3), ESP_FORMAT, "image 3");
    expect_bad(f, changed(&k.state, "epoch.images", 0, UINT64_MAX), ESP_FORMAT, "'epoch.images' is -1");
    esp_train_state_free(&k.state);
}

/* ---- memory ---- */

static void refuse_each_allocation(const fixture *f, const esp_train_state *resume)
{
    bool is_done = false;
    for (int64_t k = 1; !is_done; k += 1 + k / 40) {
        size_t before = esp_memory_live();
        esp_error err = {0};
        esp_graph *out = NULL;
        esp_train_options options = f->options;
        keeper silent = {.fails = true};
        options.on_checkpoint = keep;
        options.checkpoint_user = &silent;
        options.resume = resume;
        esp_memory_fuse(k);
        esp_status status = esp_train(NULL, f->start, f->training, f->validation, &options, &out, NULL, &err);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_true(status == ESP_OK || (status == ESP_NO_MEMORY && !is_done));
        assert_true((out != NULL) == (status == ESP_OK));
        esp_graph_unref(out);
        assert_true(esp_memory_live() == before);
    }
}

/* Everything at once, with every allocation refused in turn: training fails with a status, or, where it was a
 * checkpoint's, goes on; nothing is lost. */
static void running_out_of_memory_is_a_status_and_leaks_nothing(void **state)
{
    fixture *f = *state;
    keeper whole = {0};
    static const char *const frozen[] = {"conv1"};
    f->options.optimizer = ESP_OPTIMIZER_ADAMW;
    f->options.teacher = f->start;
    f->options.freeze = frozen;
    f->options.freeze_count = 1;
    f->options.norm = ESP_NORM_MODE_RECALIBRATE;
    f->options.augmentation.mixup = 0.2;
    f->options.epochs_limit = 0.3;
    esp_train_result result;
    esp_graph_unref(run_whole(f, &whole, &result));
    refuse_each_allocation(f, NULL);
    refuse_each_allocation(f, &whole.state);
    esp_train_state_free(&whole.state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(resumed_training_is_an_uninterrupted_one_to_the_bit),
        TEST(training_may_be_cut_again_and_again),
        TEST(state_of_a_finished_training_gives_its_result_again),
        TEST(training_cut_in_validation_validates_first),
        TEST(step_that_is_cancelled_before_it_begins_is_not_counted),
        TEST(training_cancelled_within_a_step_goes_on_from_before_it),
        TEST(epoch_whose_callback_cancels_is_closed_once),
        TEST(patience_is_part_of_the_state),
        TEST(masks_set_on_the_way_are_part_of_the_state),
        TEST(checkpoints_come_every_n_steps_and_after_every_epoch),
        TEST(training_goes_on_when_a_checkpoint_cannot_be_written),
        TEST(state_of_another_training_is_refused),
        TEST(broken_state_is_refused),
        TEST(running_out_of_memory_is_a_status_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
