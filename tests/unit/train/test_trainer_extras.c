/* What may be added to a training: averages, clipping, penalties, freezing, teachers, patience, callbacks;
 * and how it says where it broke. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "train/recalibrate.h"
#include "train/trainer.h"
#include "unit/train/train_fixtures.h"

enum { SIZE = 4, CLASSES = 4, WEIGHTS = CLASSES * SIZE * SIZE };

static esp_train_options plain(double epochs, int64_t batch, double lr)
{
    return (esp_train_options){
        .epochs_limit = epochs,
        .batch = batch,
        .schedule = {.kind = ESP_SCHEDULE_CONSTANT, .lr = lr},
        .seed = 3,
        .mean = "0.5",
        .std = "0.25",
    };
}

typedef struct fixture {
    esp_dataset *dataset;
    esp_graph *start, *out;
    esp_train_result result;
    esp_error err;
    float history[32][WEIGHTS]; /* "weight" after each step */
    esp_step_report steps[32];
    int step_count;
    const esp_weight_mask *mask_at_2; /* set after step 2 */
} fixture;

static int set_up(void **state)
{
    fixture *f = esp_alloc_zero(1, sizeof(*f));
    f->dataset = quarters_dataset(32, SIZE, 5);
    f->start = random_linear_model(1, SIZE, SIZE, CLASSES, 6);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->out);
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    esp_free(f);
    return 0;
}

static esp_status train(fixture *f, const esp_dataset *validation, const esp_train_options *options)
{
    esp_graph_unref(f->out);
    f->out = NULL;
    return esp_train(NULL, f->start, f->dataset, validation, options, &f->out, &f->result, &f->err);
}

static const float *weights(const esp_graph *graph)
{
    return esp_tensor_f32(constant_of(graph, "weight"));
}

static esp_status note_step(void *user, esp_trainer *trainer, const esp_step_report *report, esp_error *err)
{
    fixture *f = user;
    esp_graph *graph = NULL;
    expect_ok(esp_trainer_graph(trainer, &graph, err), err);
    memcpy(f->history[f->step_count], weights(graph), sizeof(f->history[0]));
    esp_graph_unref(graph);
    f->steps[f->step_count++] = *report;
    return report->step == 2 && f->mask_at_2 != NULL ? esp_trainer_set_masks(trainer, f->mask_at_2, 1, err)
                                                     : ESP_OK;
}

/* ---- averages, clipping, penalties ---- */

static void average_of_the_weights_is_what_is_kept_and_measured(void **state)
{
    fixture *f = *state;
    esp_train_options options = plain(2.0, 8, 0.5);
    options.ema_decay = 0.8;
    options.on_step = note_step;
    options.step_user = f;
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_int_equal(f->step_count, 8);
    double expected[WEIGHTS];
    for (int i = 0; i < WEIGHTS; i++) {
        expected[i] = (double)weights(f->start)[i];
    }
    int last = f->result.best_epoch * 4;
    for (int step = 0; step < last; step++) {
        for (int i = 0; i < WEIGHTS; i++) {
            expected[i] = 0.8 * expected[i] + 0.2 * (double)f->history[step][i];
        }
    }
    for (int i = 0; i < WEIGHTS; i++) {
        assert_true(fabs((double)weights(f->out)[i] - expected[i]) < 1e-5);
    }
    esp_eval_result measured;
    expect_ok(esp_evaluate(NULL, f->out, f->dataset, NULL, &measured, &f->err), &f->err);
    assert_true(measured.loss == f->result.best.loss);
}

static double distance(const float *a, const float *b, int count)
{
    double sum = 0.0;
    for (int i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    }
    return sqrt(sum);
}

static void clipped_gradients_bound_the_step(void **state)
{
    fixture *f = *state;
    esp_train_options options = plain(0.1, 8, 1.0);
    expect_ok(train(f, NULL, &options), &f->err);
    double free_length = distance(weights(f->out), weights(f->start), WEIGHTS);
    options.clip_norm = free_length / 4.0;
    expect_ok(train(f, NULL, &options), &f->err);
    /* the bias has a part of the length too */
    double length = distance(weights(f->out), weights(f->start), WEIGHTS) / options.clip_norm;
    assert_true(length > 0.8 && length < 1.0 + 1e-5);
    options.clip_norm = 0.0;
    options.clip_value = 0.01;
    expect_ok(train(f, NULL, &options), &f->err);
    bool reaches = false;
    for (int i = 0; i < WEIGHTS; i++) {
        float step = fabsf(weights(f->out)[i] - weights(f->start)[i]);
        assert_true(step < 0.0101f);
        reaches = reaches || step > 0.0099f;
    }
    assert_true(reaches);
}

static void add_decay(void *user, int64_t count, const float *weight, float *gradient)
{
    for (int64_t i = 0; i < count; i++) {
        gradient[i] += *(const float *)user * weight[i];
    }
}

static void penalty_is_added_to_the_gradient(void **state)
{
    fixture *f = *state;
    float decay = 0.5f;
    const esp_train_penalty penalty = {esp_graph_find_value(f->start, "weight"), add_decay, &decay};
    esp_train_options options = plain(2.0, 8, 0.1);
    options.momentum = 0.9;
    options.weight_decay = 0.5;
    options.decays_weights_only = true;
    expect_ok(train(f, NULL, &options), &f->err);
    esp_graph *decayed = f->out;
    f->out = NULL;
    options.weight_decay = 0.0;
    options.penalties = &penalty;
    options.penalty_count = 1;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_true(distance(weights(f->out), weights(decayed), WEIGHTS) < 1e-5);
    assert_true(distance(weights(f->out), weights(f->start), WEIGHTS) > 0.1);
    esp_graph_unref(decayed);
    const esp_train_penalty bad = {esp_graph_find_value(f->start, "x"), add_decay, &decay};
    options.penalties = &bad;
    expect_failure(train(f, NULL, &options), ESP_INVALID, &f->err, "penalty on value");
}

/* ---- rates, patience ---- */

typedef struct rate_log {
    int calls;
    double epochs[16];
    int64_t steps[16];
    double answer;
} rate_log;

static esp_status tell_rate(void *user, double epoch, int64_t step, double *lr, esp_error *err)
{
    (void)err;
    rate_log *log = user;
    log->epochs[log->calls] = epoch;
    log->steps[log->calls++] = step;
    *lr = log->answer;
    return ESP_OK;
}

static void function_is_asked_for_every_step(void **state)
{
    fixture *f = *state;
    rate_log log = {.answer = 0.125};
    esp_train_options options = plain(1.5, 8, 1.0);
    options.lr_fn = tell_rate;
    options.lr_user = &log;
    options.on_step = note_step;
    options.step_user = f;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_int_equal(log.calls, 6);
    for (int i = 0; i < 6; i++) {
        assert_true(log.epochs[i] == i / 4.0 && log.steps[i] == i);
        assert_true(f->steps[i].lr == 0.125 && f->steps[i].step == i + 1);
        assert_true(f->steps[i].position == (i + 1) / 4.0);
    }
    const double bad[] = {-0.5, (double)NAN, (double)INFINITY};
    for (int i = 0; i < 3; i++) {
        log = (rate_log){.answer = bad[i]};
        expect_failure(train(f, NULL, &options), ESP_INVALID, &f->err, "expected a number >= 0");
    }
}

static void training_stops_when_patience_ends(void **state)
{
    fixture *f = *state;
    esp_train_options options = plain(10.0, 8, 1e-6);
    options.patience = 2;
    options.min_delta = 0.01;
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_int_equal(f->result.epochs_done, 3); /* the first sets the mark, two do not reach it */
    assert_true(f->result.stopped_early);
    options.schedule.lr = 0.05; /* learns */
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_true(f->result.epochs_done > 3);
    options.patience = 0;
    options.schedule.lr = 1e-6;
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_int_equal(f->result.epochs_done, 10);
    assert_false(f->result.stopped_early);
}

/* ---- what does not move ---- */

static void frozen_layers_stay_as_they_are(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    f->start = small_conv_model(8, 3, CLASSES, false, 1);
    f->dataset = quarters_dataset(32, 8, 5);
    static const char *const names[] = {"conv1",    "scale", "shift",  "mean",
                                        "variance", "conv2", "weight", "bias"};
    static const char *const patterns[] = {"conv1", "s*", "mean", "varianc?"};
    esp_train_options options = plain(2.0, 8, 0.1);
    options.momentum = 0.9;
    options.weight_decay = 0.1;
    options.freeze = patterns;
    options.freeze_count = 4;
    expect_ok(train(f, NULL, &options), &f->err);
    for (int i = 0; i < 8; i++) {
        bool is_same = esp_tensor_equal(constant_of(f->start, names[i]), constant_of(f->out, names[i]));
        assert_int_equal(is_same, i < 5);
    }
    static const char *const wrong[] = {"conv1", "cnov2*"};
    options.freeze = wrong;
    options.freeze_count = 2;
    expect_failure(train(f, NULL, &options), ESP_INVALID, &f->err, "'cnov2', did you mean 'conv2'?");
    static const char *const all[] = {"*"};
    options.freeze = all;
    options.freeze_count = 1;
    expect_failure(train(f, NULL, &options), ESP_INVALID, &f->err, "everything is frozen");
}

static void node_stands_for_all_its_constants(void **state)
{
    fixture *f = *state;
    const char *name = NULL;
    for (int n = 0; n < esp_graph_node_count(f->start); n++) {
        const esp_node *node = esp_graph_node(f->start, n);
        name = node->input_count > 1 ? node->name : name;
    }
    static const char *patterns[1];
    patterns[0] = name;
    esp_train_options options = plain(1.0, 8, 0.1);
    options.freeze = patterns;
    options.freeze_count = 1;
    expect_failure(train(f, NULL, &options), ESP_INVALID, &f->err, "everything is frozen");
}

static void masks_set_on_the_way_hold_and_forget_the_best(void **state)
{
    fixture *f = *state;
    uint8_t keep[WEIGHTS];
    for (int i = 0; i < WEIGHTS; i++) {
        keep[i] = i % 16 == 0;
    }
    const esp_weight_mask mask = {esp_graph_find_value(f->start, "weight"), keep};
    esp_train_options options = plain(2.0, 8, 0.3);
    options.momentum = 0.9;
    expect_ok(train(f, f->dataset, &options), &f->err);
    esp_graph_unref(f->start); /* good, and so much better than what masks leave of it */
    f->start = esp_graph_ref(f->out);
    f->mask_at_2 = &mask;
    options.ema_decay = 0.5;
    options.evaluates_first = true;
    options.on_step = note_step;
    options.step_user = f;
    expect_ok(train(f, f->dataset, &options), &f->err);
    assert_true(f->result.first.top1 > f->result.best.top1 && f->result.best_epoch > 0);
    for (int i = 0; i < WEIGHTS; i++) {
        assert_true(keep[i] ? weights(f->out)[i] != 0.0f : weights(f->out)[i] == 0.0f);
        assert_true(f->history[1][i] != 0.0f && (keep[i] || f->history[2][i] == 0.0f));
    }
}

/* ---- teachers ---- */

static void student_equal_to_its_teacher_stays(void **state)
{
    fixture *f = *state;
    esp_train_options options = plain(1.0, 8, 1.0);
    options.teacher = f->start;
    options.distillation = 1.0;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_true(distance(weights(f->out), weights(f->start), WEIGHTS) < 1e-6);
    options.distillation = 0.5;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_true(distance(weights(f->out), weights(f->start), WEIGHTS) > 0.01);
}

static void teacher_sees_the_picture_by_its_own_normalisation(void **state)
{
    fixture *f = *state;
    float scaled[WEIGHTS], shift[CLASSES] = {0};
    for (int i = 0; i < WEIGHTS; i++) {
        scaled[i] = weights(f->start)[i] / 0.25f;
        shift[i / (SIZE * SIZE)] -= weights(f->start)[i] * 2.0f;
    }
    const esp_normalization bytes = {
        .channels = 1, .mean = {0.0f}, .std = {1.0f}, .origin = ESP_NORM_FROM_USER};
    esp_graph *bare = linear_model(0, 1, SIZE, SIZE, CLASSES, scaled, shift), *teacher = NULL;
    expect_ok(esp_normalization_store(bare, &bytes, &teacher, &f->err), &f->err);
    esp_train_options options = plain(1.0, 8, 1.0);
    options.teacher = teacher;
    options.distillation = 1.0;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_true(distance(weights(f->out), weights(f->start), WEIGHTS) < 1e-4);
    esp_graph_unref(bare);
    esp_graph_unref(teacher);
    teacher = random_linear_model(1, SIZE, SIZE, CLASSES + 2, 1);
    options.teacher = teacher;
    expect_failure(train(f, NULL, &options), ESP_SHAPE, &f->err, "6 classes, the model 4");
    esp_graph_unref(teacher);
}

static void student_comes_nearer_to_another_teacher(void **state)
{
    fixture *f = *state;
    esp_graph *teacher = random_linear_model(1, SIZE, SIZE, CLASSES, 77);
    esp_train_options options = plain(30.0, 8, 0.5);
    options.teacher = teacher;
    options.distillation = 1.0;
    options.temperature = 2.0;
    expect_ok(train(f, NULL, &options), &f->err);
    /* the same pictures give the same answers */
    esp_eval_result taught, student, before;
    esp_eval_options normal = {.mean = "0.5", .std = "0.25"};
    expect_ok(esp_evaluate(NULL, teacher, f->dataset, &normal, &taught, &f->err), &f->err);
    expect_ok(esp_evaluate(NULL, f->out, f->dataset, &normal, &student, &f->err), &f->err);
    expect_ok(esp_evaluate(NULL, f->start, f->dataset, &normal, &before, &f->err), &f->err);
    assert_true(fabs(student.loss - taught.loss) < 0.2 * fabs(before.loss - taught.loss));
    esp_graph_unref(teacher);
}

/* ---- batch-norm ---- */

static void recalibrated_statistics_are_those_of_the_training_images(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    f->start = small_conv_model(8, 3, CLASSES, false, 1);
    f->dataset = quarters_dataset(32, 8, 5);
    esp_train_options options = plain(1.0, 8, 0.1);
    options.norm = ESP_NORM_MODE_RECALIBRATE;
    expect_ok(train(f, NULL, &options), &f->err);
    esp_graph *measured = NULL;
    const esp_recalibrate_options all = {.images = 1024, .seed = options.seed};
    expect_ok(esp_recalibrate(NULL, f->out, f->dataset, &all, &measured, NULL, &f->err), &f->err);
    assert_true(same_constants(measured, f->out));
    esp_graph_unref(measured);
    options.norm = ESP_NORM_MODE_TRAIN;
    expect_ok(train(f, NULL, &options), &f->err);
    expect_ok(esp_recalibrate(NULL, f->out, f->dataset, &all, &measured, NULL, &f->err), &f->err);
    assert_false(same_constants(measured, f->out));
    esp_graph_unref(measured);
}

/* x [N,1,2,2] -> GlobalAveragePool -> BatchNormalization "norm" -> Flatten -> Gemm */
static esp_graph *pooled_norm_model(void)
{
    esp_error err = {0};
    esp_builder *builder = NULL;
    esp_graph *graph = NULL;
    const int64_t image[4] = {ESP_DIM_BATCH, 1, 2, 2}, one = 1, matrix[2] = {2, 1};
    const float ones[2] = {1.0f, 1.0f};
    const esp_shape input = esp_shape_make(4, image), vector = esp_shape_make(1, &one),
                    weight = esp_shape_make(2, matrix);
    static const char *const names[] = {"scale", "shift", "mean", "variance"};
    const esp_attr transposed = esp_attr_int("transB", 1);
    int x = -1, inputs[5], value = -1, gemm[2];
    expect_ok(esp_builder_new("pooled", 13, 7, &builder, &err), &err);
    expect_ok(esp_builder_input(builder, "x", ESP_F32, &input, "N", &x, &err), &err);
    expect_ok(esp_builder_add(builder, "GlobalAveragePool", "pool", &x, 1, NULL, 0, NULL, &inputs[0], &err),
              &err);
    for (int i = 0; i < 4; i++) {
        esp_tensor *tensor = NULL;
        expect_ok(esp_tensor_from(ESP_F32, &vector, ones, &tensor, &err), &err);
        expect_ok(esp_builder_constant(builder, names[i], tensor, &inputs[1 + i], &err), &err);
        esp_tensor_unref(tensor);
    }
    expect_ok(esp_builder_add(builder, "BatchNormalization", "norm", inputs, 5, NULL, 0, NULL, &value, &err),
              &err);
    expect_ok(esp_builder_add(builder, "Flatten", "flat", &value, 1, NULL, 0, NULL, &gemm[0], &err), &err);
    esp_tensor *tensor = NULL;
    expect_ok(esp_tensor_from(ESP_F32, &weight, ones, &tensor, &err), &err);
    expect_ok(esp_builder_constant(builder, "weight", tensor, &gemm[1], &err), &err);
    esp_tensor_unref(tensor);
    expect_ok(esp_builder_add(builder, "Gemm", "fc", gemm, 2, &transposed, 1, "y", &value, &err), &err);
    expect_ok(esp_builder_output(builder, value, ESP_F32, NULL, &err), &err);
    expect_ok(esp_builder_finish(builder, &graph, &err), &err);
    return graph;
}

static void statistics_of_one_number_are_refused(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    f->start = pooled_norm_model();
    f->dataset = noise_dataset(5, 1, 2, 2, 2, 1);
    esp_train_options options = plain(1.0, 1, 0.1);
    esp_status status = train(f, NULL, &options);
    assert_string_equal(f->err.hint, "or freeze the normalisation");
    expect_failure(status, ESP_INVALID, &f->err, "'norm' would normalise by one value per channel");
    options.norm = ESP_NORM_MODE_FROZEN;
    expect_ok(train(f, NULL, &options), &f->err);
    options.norm = ESP_NORM_MODE_TRAIN;
    options.batch = 2; /* 2 + 3 */
    expect_ok(train(f, NULL, &options), &f->err);
    /* images with several positions have statistics of their own */
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    f->start = small_conv_model(8, 3, CLASSES, false, 1);
    f->dataset = quarters_dataset(3, 8, 5);
    options.batch = 1;
    expect_ok(train(f, NULL, &options), &f->err);
}

/* ---- where it broke ---- */

static void overwrite(fixture *f, const char *name, float value)
{
    esp_tensor *tensor = NULL;
    esp_graph *changed = NULL;
    int index = esp_graph_find_value(f->start, name);
    expect_ok(esp_tensor_clone(constant_of(f->start, name), &tensor, &f->err), &f->err);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++) {
        esp_tensor_f32_mut(tensor)[i] = value;
    }
    expect_ok(esp_graph_with_constants(f->start, 1, &index, &tensor, &changed, &f->err), &f->err);
    esp_tensor_unref(tensor);
    esp_graph_unref(f->start);
    f->start = changed;
}

static const char *reader_of(const esp_graph *graph, const char *constant)
{
    int value = esp_graph_find_value(graph, constant);
    return esp_graph_node(graph, esp_graph_consumer(graph, value, 0))->name;
}

static void divergence_names_the_layer_where_values_overflow(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->start);
    esp_dataset_unref(f->dataset);
    f->start = small_conv_model(8, 20, CLASSES, true, 1); /* 20 filters: not whole blocks */
    f->dataset = quarters_dataset(32, 8, 5);
    esp_train_options options = plain(1.0, 8, 0.1);
    expect_ok(train(f, NULL, &options), &f->err);
    overwrite(f, "conv2", 3e38f);
    const char *layer = reader_of(f->start, "conv2");
    char part[160];
    snprintf(part, sizeof(part),
             "at step 1 (epoch 1, learning rate 0.1): the loss is not finite, first in the "
             "output of '%.20s'",
             layer);
    expect_failure(train(f, NULL, &options), ESP_DIVERGED, &f->err, part);
    assert_string_equal(f->result.diverged_at, layer);
    assert_null(f->out);
    overwrite(f, "conv2", NAN);
    expect_failure(train(f, NULL, &options), ESP_DIVERGED, &f->err, "first in the weights 'conv2'");
}

static void spoil(void *user, int64_t count, const float *weight, float *gradient)
{
    (void)weight;
    gradient[count - 1] = *(const float *)user;
}

static void divergence_names_the_layer_whose_gradient_is_bad(void **state)
{
    fixture *f = *state;
    float infinite = INFINITY;
    const esp_train_penalty penalty = {esp_graph_find_value(f->start, "weight"), spoil, &infinite};
    esp_train_options options = plain(2.0, 8, 0.1);
    options.evaluates_first = true;
    options.penalties = &penalty;
    options.penalty_count = 1;
    char part[96];
    snprintf(part, sizeof(part), "the gradient is not finite, first in the gradient of '%.40s'",
             reader_of(f->start, "weight"));
    expect_failure(train(f, f->dataset, &options), ESP_DIVERGED, &f->err, part);
    assert_true(same_constants(f->start, f->out)); /* the step was not taken */
    assert_int_equal(f->result.steps, 0);
}

static void exploding_loss_is_divergence_when_asked(void **state)
{
    fixture *f = *state;
    esp_train_options options = plain(1.0, 8, 1e4);
    options.max_loss = 50.0;
    expect_failure(train(f, NULL, &options), ESP_DIVERGED, &f->err, "is above 50");
    options.max_loss = 0.0;
    expect_ok(train(f, NULL, &options), &f->err);
}

/* ---- the rest ---- */

static void smoothing_changes_what_is_learnt(void **state)
{
    fixture *f = *state;
    esp_train_options options = plain(1.0, 8, 0.5);
    expect_ok(train(f, NULL, &options), &f->err);
    esp_graph *bare = esp_graph_ref(f->out);
    options.label_smoothing = 0.2;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_false(same_constants(bare, f->out));
    esp_graph_unref(bare);
}

/* Of black images alone a mixture is the same image: only what its label is can differ. */
static void labels_of_mixtures_are_mixed(void **state)
{
    fixture *f = *state;
    esp_dataset_unref(f->dataset);
    expect_ok(esp_dataset_new("black", "", 32, 1, SIZE, SIZE, CLASSES, &f->dataset, &f->err), &f->err);
    for (int i = 0; i < 32; i++) {
        esp_dataset_set_label(f->dataset, i, i % CLASSES);
    }
    esp_train_options options = plain(1.0, 8, 0.5);
    expect_ok(train(f, NULL, &options), &f->err);
    esp_graph *bare = esp_graph_ref(f->out);
    options.augmentation.mixup = 0.4;
    expect_ok(train(f, NULL, &options), &f->err);
    assert_false(same_constants(bare, f->out));
    esp_graph_unref(bare);
}

static void bad_additions_are_refused(void **state)
{
    fixture *f = *state;
    const esp_train_options good = plain(1.0, 8, 0.1);
    esp_train_options bad = good;
#define EXPECT_BAD(field, value, part)                                                                       \
    bad = good;                                                                                              \
    bad.field = (value);                                                                                     \
    expect_failure(train(f, f->dataset, &bad), ESP_INVALID, &f->err, part)
    EXPECT_BAD(optimizer, (esp_optimizer_kind)9, "optimizer 9");
    EXPECT_BAD(dampening, 1.0, "dampening 1");
    EXPECT_BAD(beta1, -0.5, "beta1 -0.5");
    EXPECT_BAD(beta2, 1.0, "beta2 1");
    EXPECT_BAD(epsilon, (double)NAN, "epsilon");
    EXPECT_BAD(label_smoothing, 1.0, "label smoothing 1");
    EXPECT_BAD(temperature, -1.0, "temperature -1");
    EXPECT_BAD(distillation, 0.5, "without a teacher");
    EXPECT_BAD(clip_norm, -1.0, "norm limit -1");
    EXPECT_BAD(clip_value, (double)NAN, "value limit");
    EXPECT_BAD(ema_decay, 1.0, "EMA decay 1");
    EXPECT_BAD(patience, -1, "patience -1");
    EXPECT_BAD(min_delta, -1.0, "min_delta -1");
    EXPECT_BAD(norm, (esp_norm_mode)5, "norm mode 5");
    EXPECT_BAD(recalibrate_images, -1, "recalibration -1");
    EXPECT_BAD(max_loss, -1.0, "loss limit -1");
    EXPECT_BAD(checkpoint_steps, -1, "checkpoint steps -1");
    EXPECT_BAD(checkpoint_seconds, (double)INFINITY, "checkpoint seconds inf");
#undef EXPECT_BAD
    bad = good;
    bad.uses_nesterov = true;
    bad.momentum = 0.9;
    bad.dampening = 0.5;
    expect_failure(train(f, f->dataset, &bad), ESP_INVALID, &f->err, "dampening");
}

static void modes_and_optimizers_have_words(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_norm_mode mode = ESP_NORM_MODE_TRAIN;
    esp_optimizer_kind kind = ESP_OPTIMIZER_SGD;
    expect_ok(esp_norm_mode_parse("recalibrate", &mode, &err), &err);
    assert_int_equal(mode, ESP_NORM_MODE_RECALIBRATE);
    assert_string_equal(esp_norm_mode_word(ESP_NORM_MODE_FROZEN), "frozen");
    expect_failure(esp_norm_mode_parse("frozn", &mode, &err), ESP_INVALID, &err, "did you mean 'frozen'?");
    expect_ok(esp_optimizer_parse_kind("adamw", &kind, &err), &err);
    assert_int_equal(kind, ESP_OPTIMIZER_ADAMW);
    assert_string_equal(esp_optimizer_word(ESP_OPTIMIZER_ADAM), "adam");
    expect_failure(esp_optimizer_parse_kind("sdg", &kind, &err), ESP_INVALID, &err, "did you mean 'sgd'?");
    assert_true(esp_optimizer_default_lr(ESP_OPTIMIZER_ADAM) == 1e-3);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(average_of_the_weights_is_what_is_kept_and_measured),
        TEST(clipped_gradients_bound_the_step),
        TEST(penalty_is_added_to_the_gradient),
        TEST(function_is_asked_for_every_step),
        TEST(training_stops_when_patience_ends),
        TEST(frozen_layers_stay_as_they_are),
        TEST(node_stands_for_all_its_constants),
        TEST(masks_set_on_the_way_hold_and_forget_the_best),
        TEST(student_equal_to_its_teacher_stays),
        TEST(teacher_sees_the_picture_by_its_own_normalisation),
        TEST(student_comes_nearer_to_another_teacher),
        TEST(recalibrated_statistics_are_those_of_the_training_images),
        TEST(statistics_of_one_number_are_refused),
        TEST(divergence_names_the_layer_where_values_overflow),
        TEST(divergence_names_the_layer_whose_gradient_is_bad),
        TEST(exploding_loss_is_divergence_when_asked),
        TEST(smoothing_changes_what_is_learnt),
        TEST(labels_of_mixtures_are_mixed),
        TEST(bad_additions_are_refused),
        TEST(modes_and_optimizers_have_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
