/* What training does to weights, exactly: against softmax regression written out in double, by counting which
 * images a step has seen, and bit by bit between runs. How training ends is in test_trainer_end.c. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "train/trainer.h"
#include "unit/train/train_fixtures.h"

/* Plain SGD with pixels as 0..1; nothing random but the order. */
static esp_train_options simple(double epochs, int64_t batch, double lr)
{
    return (esp_train_options){
        .epochs_limit = epochs,
        .batch = batch,
        .schedule = {.kind = ESP_SCHEDULE_CONSTANT, .lr = lr},
        .seed = 7,
        .mean = "0",
        .std = "1",
    };
}

/* ---- the same steps in double ---- */

enum { PIXELS = 6, CLASSES = 3, IMAGES = 12 };

typedef struct regression {
    double w[CLASSES][PIXELS + 1], v[CLASSES][PIXELS + 1]; /* the last column is the bias */
} regression;

/* One full-batch step of softmax regression. */
static void naive_step(regression *r, const esp_dataset *dataset, double lr, double momentum, double decay,
                       bool nesterov, bool decays_bias)
{
    double grad[CLASSES][PIXELS + 1] = {{0}};
    for (int i = 0; i < IMAGES; i++) {
        double x[PIXELS + 1], z[CLASSES], total = 0.0;
        for (int k = 0; k < PIXELS; k++) {
            x[k] = esp_dataset_pixels(dataset, i)[k] / 255.0;
        }
        x[PIXELS] = 1.0;
        for (int c = 0; c < CLASSES; c++) {
            z[c] = 0.0;
            for (int k = 0; k <= PIXELS; k++) {
                z[c] += r->w[c][k] * x[k];
            }
            total += exp(z[c]);
        }
        for (int c = 0; c < CLASSES; c++) {
            double error = exp(z[c]) / total - (c == esp_dataset_label(dataset, i) ? 1.0 : 0.0);
            for (int k = 0; k <= PIXELS; k++) {
                grad[c][k] += error * x[k] / IMAGES;
            }
        }
    }
    for (int c = 0; c < CLASSES; c++) {
        for (int k = 0; k <= PIXELS; k++) {
            double d = grad[c][k] + (k < PIXELS || decays_bias ? decay : 0.0) * r->w[c][k];
            r->v[c][k] = momentum * r->v[c][k] + d;
            r->w[c][k] -= lr * (nesterov ? d + momentum * r->v[c][k] : r->v[c][k]);
        }
    }
}

static void expect_regression(const esp_graph *trained, const regression *r)
{
    const float *weight = esp_tensor_f32(constant_of(trained, "weight"));
    const float *bias = esp_tensor_f32(constant_of(trained, "bias"));
    for (int c = 0; c < CLASSES; c++) {
        for (int k = 0; k < PIXELS; k++) {
            assert_true(fabs((double)weight[c * PIXELS + k] - r->w[c][k]) < 5e-6);
        }
        assert_true(fabs((double)bias[c] - r->w[c][PIXELS]) < 5e-6);
    }
}

static void compare_with_regression(double momentum, double decay, bool nesterov, bool decays_weights_only)
{
    esp_error err = {0};
    esp_dataset *dataset = noise_dataset(IMAGES, 1, 2, 3, CLASSES, 11);
    esp_graph *start = random_linear_model(1, 2, 3, CLASSES, 12), *trained = NULL;
    regression r = {0};
    for (int i = 0; i < CLASSES * PIXELS; i++) {
        r.w[i / PIXELS][i % PIXELS] = (double)esp_tensor_f32(constant_of(start, "weight"))[i];
    }
    esp_train_options options = simple(4.0, IMAGES, 0.5);
    options.schedule = (esp_schedule){
        .kind = ESP_SCHEDULE_STEP, .lr = 0.5, .gamma = 0.5, .milestone_count = 1, .milestones = {2.0}};
    options.momentum = momentum;
    options.weight_decay = decay;
    options.uses_nesterov = nesterov;
    options.decays_weights_only = decays_weights_only;
    esp_train_result result;
    expect_ok(esp_train(NULL, start, dataset, NULL, &options, &trained, &result, &err), &err);
    for (int step = 0; step < 4; step++) {
        naive_step(&r, dataset, step < 2 ? 0.5 : 0.25, momentum, decay, nesterov, !decays_weights_only);
    }
    assert_int_equal(result.steps, 4);
    expect_regression(trained, &r);
    esp_graph_unref(trained);
    esp_graph_unref(start);
    esp_dataset_unref(dataset);
}

static void steps_equal_softmax_regression_in_double(void **state)
{
    (void)state;
    compare_with_regression(0.0, 0.0, false, false);
    compare_with_regression(0.9, 0.05, false, false);
    compare_with_regression(0.9, 0.5, false, true);
    compare_with_regression(0.7, 0.05, true, false);
}

/* ---- which images were seen ---- */

/* Image i has pixel i lit alone, so column i of the weights moves only when image i is seen. From zero
 * weights, with the bias masked to 0, all classes are equally likely, and at lr 1 the label's entry moves by
 * (1 - 1/2) / batch. */
static void seen_batches(int count, int train_limit, double epochs, int64_t batch, double *seen,
                         int64_t *steps)
{
    esp_error err = {0};
    esp_dataset *dataset = NULL;
    expect_ok(esp_dataset_new("one-hot", "", count, 1, 1, count, 2, &dataset, &err), &err);
    for (int i = 0; i < count; i++) {
        esp_dataset_pixels_mut(dataset, i)[i] = 255;
        esp_dataset_set_label(dataset, i, 1);
    }
    float *zeros = esp_alloc_zero((size_t)count * 2, sizeof(float));
    esp_graph *start = linear_model(0, 1, 1, count, 2, zeros, zeros), *trained = NULL;
    const uint8_t keep[2] = {0, 0};
    const esp_weight_mask mask = {esp_graph_find_value(start, "bias"), keep};
    esp_train_options options = simple(epochs, batch, 1.0);
    options.masks = &mask;
    options.mask_count = 1;
    options.train_limit = train_limit;
    esp_train_result result;
    expect_ok(esp_train(NULL, start, dataset, NULL, &options, &trained, &result, &err), &err);
    for (int i = 0; i < count; i++) {
        seen[i] = 2.0 * (double)esp_tensor_f32(constant_of(trained, "weight"))[count + i];
    }
    *steps = result.steps;
    esp_graph_unref(trained);
    esp_graph_unref(start);
    esp_free(zeros);
    esp_dataset_unref(dataset);
}

static int count_near(const double *values, int count, double wanted)
{
    int found = 0;
    for (int i = 0; i < count; i++) {
        found += fabs(values[i] - wanted) < 1e-6;
    }
    return found;
}

static void every_image_is_seen_once_in_batches_of_the_size_asked(void **state)
{
    (void)state;
    double seen[16];
    int64_t steps = 0;
    seen_batches(12, 0, 1.0, 4, seen, &steps);
    assert_int_equal(steps, 3);
    assert_int_equal(count_near(seen, 12, 1.0 / 4.0), 12);
    seen_batches(11, 0, 1.0, 4, seen, &steps); /* 4 + 4 + 3 */
    assert_int_equal(steps, 3);
    assert_int_equal(count_near(seen, 11, 1.0 / 4.0), 8);
    assert_int_equal(count_near(seen, 11, 1.0 / 3.0), 3);
    seen_batches(5, 0, 1.0, 100, seen, &steps);
    assert_int_equal(steps, 1);
    assert_int_equal(count_near(seen, 5, 1.0 / 5.0), 5);
    seen_batches(3, 0, 1.0, 1, seen, &steps);
    assert_int_equal(steps, 3);
    assert_int_equal(count_near(seen, 3, 1.0), 3);
}

static void single_left_over_image_joins_the_batch_before_it(void **state)
{
    (void)state;
    double seen[16];
    int64_t steps = 0;
    seen_batches(9, 0, 1.0, 4, seen, &steps); /* 4 + 5 */
    assert_int_equal(steps, 2);
    assert_int_equal(count_near(seen, 9, 1.0 / 4.0), 4);
    assert_int_equal(count_near(seen, 9, 1.0 / 5.0), 5);
}

static void fraction_of_an_epoch_is_rounded_up_to_whole_batches(void **state)
{
    (void)state;
    double seen[16];
    int64_t steps = 0;
    seen_batches(16, 0, 0.5, 2, seen, &steps);
    assert_int_equal(steps, 4);
    assert_int_equal(count_near(seen, 16, 1.0 / 2.0), 8);
    assert_int_equal(count_near(seen, 16, 0.0), 8);
    seen_batches(15, 0, 0.1, 4, seen, &steps);
    assert_int_equal(steps, 1);
    assert_int_equal(count_near(seen, 15, 1.0 / 4.0), 4);
    seen_batches(10, 0, 0.95, 4, seen, &steps); /* 9.5 images: the whole epoch, 4 + 4 + 2 */
    assert_int_equal(steps, 3);
    seen_batches(16, 0, 2.25, 4, seen, &steps);
    assert_int_equal(steps, 4 + 4 + 1);
}

static void limit_uses_some_of_the_shuffled_images(void **state)
{
    (void)state;
    double seen[16];
    int64_t steps = 0;
    seen_batches(16, 6, 1.0, 4, seen, &steps);
    assert_int_equal(steps, 2);
    assert_int_equal(count_near(seen, 16, 0.0), 10);
    seen_batches(16, 6, 8.0, 6, seen, &steps); /* others in other epochs */
    assert_int_equal(steps, 8);
    assert_true(count_near(seen, 16, 0.0) < 6);
}

/* ---- determinism ---- */

static esp_graph *train_conv(int threads, uint64_t seed, int crop_padding, bool flips)
{
    esp_error err = {0};
    esp_compute compute = {0};
    expect_ok(esp_pool_new(threads, &compute.pool, &err), &err);
    esp_dataset *dataset = noise_dataset(50, 1, 12, 12, 4, 3);
    esp_graph *start = small_conv_model(12, 6, 4, true, 4), *trained = NULL;
    esp_train_options options = esp_train_defaults();
    options.epochs_limit = 2.0;
    options.batch = 32;
    options.augmentation = (esp_augmentation){.crop_padding = crop_padding, .flips = flips};
    options.seed = seed;
    expect_ok(esp_train(&compute, start, dataset, dataset, &options, &trained, NULL, &err), &err);
    assert_false(same_constants(start, trained));
    esp_graph_unref(start);
    esp_dataset_unref(dataset);
    esp_pool_free(compute.pool);
    return trained;
}

static void same_seed_gives_the_same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    esp_graph *one = train_conv(1, 5, 2, true);
    for (int threads = 2; threads <= 4; threads++) {
        esp_graph *several = train_conv(threads, 5, 2, true);
        assert_true(same_constants(one, several));
        esp_graph_unref(several);
    }
    esp_graph_unref(one);
}

static void seed_crops_and_flips_each_make_a_difference(void **state)
{
    (void)state;
    esp_graph *made[4] = {train_conv(2, 5, 0, false), train_conv(2, 6, 0, false), train_conv(2, 5, 2, false),
                          train_conv(2, 5, 0, true)};
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < i; k++) {
            assert_false(same_constants(made[i], made[k]));
        }
    }
    for (int i = 0; i < 4; i++) {
        esp_graph_unref(made[i]);
    }
}

/* ---- masks, running statistics, learning ---- */

static void masks_are_held_in_every_version(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *dataset = quarters_dataset(64, 8, 3);
    esp_graph *start = small_conv_model(8, 4, 4, false, 4), *trained = NULL;
    const esp_tensor *weight = constant_of(start, "conv2");
    size_t count = (size_t)esp_tensor_elements(weight);
    uint8_t *keep = esp_alloc(count, 1);
    for (size_t i = 0; i < count; i++) {
        keep[i] = i % 4 == 1;
    }
    const esp_weight_mask mask = {esp_graph_find_value(start, "conv2"), keep};
    esp_train_options options = esp_train_defaults();
    options.epochs_limit = 3.0;
    options.batch = 16;
    options.weight_decay = 0.1;
    options.masks = &mask;
    options.mask_count = 1;
    expect_ok(esp_train(NULL, start, dataset, dataset, &options, &trained, NULL, &err), &err);
    const float *after = esp_tensor_f32(constant_of(trained, "conv2"));
    for (size_t i = 0; i < count; i++) {
        assert_true(keep[i] ? after[i] != 0.0f && after[i] != esp_tensor_f32(weight)[i] : after[i] == 0.0f);
    }
    assert_true(esp_tensor_f32(weight)[0] != 0.0f); /* the start is not touched */
    esp_graph_unref(trained);
    esp_graph_unref(start);
    esp_free(keep);
    esp_dataset_unref(dataset);
}

static void running_statistics_move_unless_frozen(void **state)
{
    (void)state;
    for (int is_frozen = 0; is_frozen < 2; is_frozen++) {
        esp_error err = {0};
        esp_dataset *dataset = quarters_dataset(64, 8, 3);
        esp_graph *start = small_conv_model(8, 4, 4, false, 4), *trained = NULL;
        esp_train_options options = esp_train_defaults();
        options.epochs_limit = 1.0;
        options.batch = 16;
        options.freezes_norm = is_frozen != 0;
        expect_ok(esp_train(NULL, start, dataset, NULL, &options, &trained, NULL, &err), &err);
        bool is_same = esp_tensor_equal(constant_of(start, "mean"), constant_of(trained, "mean")) &&
                       esp_tensor_equal(constant_of(start, "variance"), constant_of(trained, "variance"));
        assert_int_equal(is_same, is_frozen);
        assert_false(esp_tensor_equal(constant_of(start, "conv1"), constant_of(trained, "conv1")));
        esp_graph_unref(trained);
        esp_graph_unref(start);
        esp_dataset_unref(dataset);
    }
}

static void small_conv_net_learns_a_separable_set(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *training = quarters_dataset(800, 12, 3), *validation = quarters_dataset(200, 12, 99);
    esp_graph *start = small_conv_model(12, 6, 4, false, 4), *trained = NULL;
    esp_train_options options = esp_train_defaults();
    options.epochs_limit = 3.0;
    options.batch = 32;
    options.schedule = (esp_schedule){.kind = ESP_SCHEDULE_COSINE, .lr = 0.05};
    options.evaluates_first = true;
    options.mean = "0.5";
    options.std = "0.25";
    esp_train_result result;
    expect_ok(esp_train(NULL, start, training, validation, &options, &trained, &result, &err), &err);
    assert_true(result.first.top1 < 60.0);
    assert_true(result.best.top1 > 95.0);

    /* what was validated during training is what the returned model does, with the normalisation it carries
     */
    esp_eval_result measured;
    expect_ok(esp_evaluate(NULL, trained, validation, NULL, &measured, &err), &err);
    assert_true(measured.top1 == result.best.top1);
    assert_true(measured.loss == result.best.loss);
    assert_int_equal(measured.normalization.origin, ESP_NORM_FROM_MODEL);
    assert_true(measured.normalization.mean[0] == 0.5f && measured.normalization.std[0] == 0.25f);
    esp_graph_unref(trained);
    esp_graph_unref(start);
    esp_dataset_unref(validation);
    esp_dataset_unref(training);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_equal_softmax_regression_in_double),
        cmocka_unit_test(every_image_is_seen_once_in_batches_of_the_size_asked),
        cmocka_unit_test(single_left_over_image_joins_the_batch_before_it),
        cmocka_unit_test(fraction_of_an_epoch_is_rounded_up_to_whole_batches),
        cmocka_unit_test(limit_uses_some_of_the_shuffled_images),
        cmocka_unit_test(same_seed_gives_the_same_bits_for_any_number_of_threads),
        cmocka_unit_test(seed_crops_and_flips_each_make_a_difference),
        cmocka_unit_test(masks_are_held_in_every_version),
        cmocka_unit_test(running_statistics_move_unless_frozen),
        cmocka_unit_test(small_conv_net_learns_a_separable_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
