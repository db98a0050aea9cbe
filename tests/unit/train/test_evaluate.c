/* Evaluation of a model whose answers are known by construction. */
#include <math.h>
#include <string.h>

#include "train/evaluate.h"
#include "unit/train/train_fixtures.h"

enum { CLASSES = 8, IMAGES = 10 };

/* Pixels of 255 and 0 become 1 and 0. */
static const esp_eval_options plain = {.mean = "0", .std = "1"};

/* Image i lights pixel i % CLASSES, half of that in the next one. Of ten labels, seven are the lit pixel, two
 * the next (second place), and one is the last in order (eighth place). */
static esp_dataset *known_answers(void)
{
    esp_error err = {0};
    esp_dataset *dataset = NULL;
    expect_ok(esp_dataset_new("known", "", IMAGES, 1, 2, 4, CLASSES, &dataset, &err), &err);
    for (int i = 0; i < IMAGES; i++) {
        int lit = i % CLASSES, next = (lit + 1) % CLASSES;
        esp_dataset_pixels_mut(dataset, i)[lit] = 255;
        esp_dataset_pixels_mut(dataset, i)[next] = 51;
        esp_dataset_set_label(dataset, i, i == 3 || i == 5 ? next : i == 6 ? 5 : lit);
    }
    return dataset;
}

/* logits = 4 * pixels, minus a little per class, so that dark classes have an order. */
static esp_graph *identity_model(int64_t batch)
{
    float weights[CLASSES * CLASSES] = {0}, bias[CLASSES];
    for (int c = 0; c < CLASSES; c++) {
        weights[c * CLASSES + c] = 4.0f;
        bias[c] = c == 5 ? -1.0f : 0.0f;
    }
    return linear_model(batch, 1, 2, 4, CLASSES, weights, bias);
}

static double expected_loss(const esp_dataset *dataset, int count)
{
    double loss = 0.0;
    for (int i = 0; i < count; i++) {
        double logits[CLASSES], total = 0.0;
        for (int c = 0; c < CLASSES; c++) {
            logits[c] = 4.0 * esp_dataset_pixels(dataset, i)[c] / 255.0 - (c == 5 ? 1.0 : 0.0);
            total += exp(logits[c]);
        }
        loss += log(total) - logits[esp_dataset_label(dataset, i)];
    }
    return loss / count;
}

typedef struct fixture {
    esp_dataset *dataset;
    esp_graph *graph;
} fixture;

static fixture shared;

static int set_up(void **state)
{
    shared = (fixture){known_answers(), identity_model(0)};
    *state = &shared;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    esp_graph_unref(f->graph);
    esp_dataset_unref(f->dataset);
    return 0;
}

static void expect_known(const esp_eval_result *result, const esp_dataset *dataset)
{
    assert_int_equal(result->images, IMAGES);
    assert_true(fabs(result->top1 - 70.0) < 1e-12);
    assert_true(fabs(result->top5 - 90.0) < 1e-12);
    assert_true(fabs(result->loss - expected_loss(dataset, IMAGES)) < 1e-6);
}

static void counts_and_loss_are_the_known_ones(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, f->graph, f->dataset, &plain, &result, &err), &err);
    expect_known(&result, f->dataset);
    assert_int_equal(result.normalization.origin, ESP_NORM_FROM_USER);
}

static void interval_is_wilsons(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, f->graph, f->dataset, &plain, &result, &err), &err);
    /* 7 of 10: from 39.68 % to 89.22 % (any table of Wilson intervals) */
    assert_true(fabs(result.top1_error - (89.22 - 39.68) / 2.0) < 0.01);
}

static void batch_size_and_threads_do_not_matter(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_compute compute = {0};
    expect_ok(esp_pool_new(2, &compute.pool, &err), &err);
    for (int64_t batch = 1; batch <= 12; batch++) {
        esp_eval_options options = plain;
        options.batch = batch;
        esp_eval_result result;
        expect_ok(
            esp_evaluate(batch % 2 == 0 ? &compute : NULL, f->graph, f->dataset, &options, &result, &err),
            &err);
        expect_known(&result, f->dataset);
    }
    esp_pool_free(compute.pool);
}

static void limit_takes_the_first_images(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_eval_options options = plain;
    options.limit = 4;
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, f->graph, f->dataset, &options, &result, &err), &err);
    assert_int_equal(result.images, 4);
    assert_true(fabs(result.top1 - 75.0) < 1e-12);
    assert_true(fabs(result.loss - expected_loss(f->dataset, 4)) < 1e-6);
}

static void model_with_a_fixed_batch_is_fed_in_that(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_graph *fixed = identity_model(4);
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, fixed, f->dataset, &plain, &result, &err), &err);
    expect_known(&result, f->dataset);
    esp_eval_options options = plain;
    options.batch = 3;
    esp_eval_result untouched = {.images = -1};
    expect_failure(esp_evaluate(NULL, fixed, f->dataset, &options, &untouched, &err), ESP_SHAPE, &err, NULL);
    assert_int_equal(untouched.images, -1);
    esp_graph_unref(fixed);
}

/* x -> Reshape to a constant shape -> Gemm [-> Softmax]. */
static esp_graph *reshaping_model(int64_t rows, bool ends_in_softmax)
{
    esp_error err = {0};
    esp_builder *builder = NULL;
    esp_graph *graph = NULL, *plain_model = identity_model(0);
    const int64_t dims[4] = {rows > 0 ? 1 : ESP_DIM_BATCH, 1, 2, 4},
                  target[2] = {rows > 0 ? rows : -1, CLASSES};
    const int64_t two = 2;
    esp_shape shape = esp_shape_make(4, dims), target_shape = esp_shape_make(1, &two);
    esp_tensor *tensor = NULL;
    int inputs[3], made = -1;
    expect_ok(esp_builder_new("reshaping", 13, 7, &builder, &err), &err);
    expect_ok(esp_builder_input(builder, "x", ESP_F32, &shape, "N", &inputs[0], &err), &err);
    expect_ok(esp_tensor_from(ESP_I64, &target_shape, target, &tensor, &err), &err);
    expect_ok(esp_builder_constant(builder, "target", tensor, &inputs[1], &err), &err);
    esp_tensor_unref(tensor);
    expect_ok(esp_builder_add(builder, "Reshape", "reshape", inputs, 2, NULL, 0, "flat", &made, &err), &err);
    inputs[0] = made;
    expect_ok(esp_builder_constant(builder, "weight", constant_of(plain_model, "weight"), &inputs[1], &err),
              &err);
    expect_ok(esp_builder_constant(builder, "bias", constant_of(plain_model, "bias"), &inputs[2], &err),
              &err);
    const esp_attr transposed = esp_attr_int("transB", 1);
    expect_ok(esp_builder_add(builder, "Gemm", "gemm", inputs, 3, &transposed, 1, "scores", &made, &err),
              &err);
    inputs[0] = made;
    if (ends_in_softmax) {
        expect_ok(esp_builder_add(builder, "Softmax", "softmax", inputs, 1, NULL, 0, "prob", &made, &err),
                  &err);
    }
    expect_ok(esp_builder_output(builder, made, ESP_F32, NULL, &err), &err);
    expect_ok(esp_builder_finish(builder, &graph, &err), &err);
    esp_graph_unref(plain_model);
    return graph;
}

static void batch_of_one_baked_into_a_reshape_is_fed_image_by_image(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_graph *fixed = reshaping_model(1, false);
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, fixed, f->dataset, &plain, &result, &err), &err);
    expect_known(&result, f->dataset);
    esp_graph_unref(fixed);
}

static void model_that_ends_in_softmax_is_read_before_it(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_graph *graph = reshaping_model(0, true);
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, graph, f->dataset, &plain, &result, &err), &err);
    expect_known(&result, f->dataset);
    esp_graph_unref(graph);
}

static void normalisation_of_the_model_is_used(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    const esp_normalization normalization = {.channels = 1, .mean = {0.0f}, .std = {1.0f}};
    esp_graph *stored = NULL;
    expect_ok(esp_normalization_store(f->graph, &normalization, &stored, &err), &err);
    esp_eval_result result;
    expect_ok(esp_evaluate(NULL, stored, f->dataset, NULL, &result, &err), &err);
    expect_known(&result, f->dataset);
    assert_int_equal(result.normalization.origin, ESP_NORM_FROM_MODEL);
    esp_graph_unref(stored);
}

static void cancelled_evaluation_says_so(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_cancel cancel = {false};
    esp_cancel_request(&cancel);
    esp_compute compute = {.cancel = &cancel};
    esp_eval_result result = {.images = -1};
    expect_failure(esp_evaluate(&compute, f->graph, f->dataset, &plain, &result, &err), ESP_CANCELLED, &err,
                   NULL);
    assert_int_equal(result.images, -1);
}

static void note_last(void *user, const esp_progress *progress)
{
    esp_progress *last = user;
    *last = *progress;
    last->detail = strstr(progress->detail, "top-1 70.0 %") != NULL ? "good" : "bad";
}

static void progress_ends_with_all_images(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_progress last = {0};
    esp_compute compute = {.on_progress = note_last, .progress_user = &last};
    esp_eval_options options = plain;
    options.batch = 3;
    esp_eval_result result;
    expect_ok(esp_evaluate(&compute, f->graph, f->dataset, &options, &result, &err), &err);
    assert_string_equal(last.stage, "evaluate");
    assert_string_equal(last.unit, "images");
    assert_true(last.done == IMAGES && last.total == IMAGES && last.eta_s <= 0.0);
    assert_string_equal(last.detail, "good");
}

static void bad_options_and_data_are_refused(void **state)
{
    fixture *f = *state;
    esp_error err = {0};
    esp_eval_result result;
    esp_eval_options options = plain;
    options.batch = -1;
    expect_failure(esp_evaluate(NULL, f->graph, f->dataset, &options, &result, &err), ESP_INVALID, &err,
                   "batch -1");
    options = plain;
    options.limit = -5;
    expect_failure(esp_evaluate(NULL, f->graph, f->dataset, &options, &result, &err), ESP_INVALID, &err,
                   "limit -5");
    options = plain;
    options.std = "zero";
    expect_failure(esp_evaluate(NULL, f->graph, f->dataset, &options, &result, &err), ESP_INVALID, &err,
                   "zero");
    esp_dataset *other = noise_dataset(2, 3, 2, 4, CLASSES, 1);
    expect_failure(esp_evaluate(NULL, f->graph, other, &plain, &result, &err), ESP_SHAPE, &err, "3x2x4");
    esp_dataset_unref(other);
}

int main(void)
{
#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_FIXTURE(counts_and_loss_are_the_known_ones),
        WITH_FIXTURE(interval_is_wilsons),
        WITH_FIXTURE(batch_size_and_threads_do_not_matter),
        WITH_FIXTURE(limit_takes_the_first_images),
        WITH_FIXTURE(model_with_a_fixed_batch_is_fed_in_that),
        WITH_FIXTURE(batch_of_one_baked_into_a_reshape_is_fed_image_by_image),
        WITH_FIXTURE(model_that_ends_in_softmax_is_read_before_it),
        WITH_FIXTURE(normalisation_of_the_model_is_used),
        WITH_FIXTURE(cancelled_evaluation_says_so),
        WITH_FIXTURE(progress_ends_with_all_images),
        WITH_FIXTURE(bad_options_and_data_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
