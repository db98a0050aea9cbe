/* Batch-norm statistics against PyTorch, and what must not change. */
#include "train/recalibrate.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "unit/train/calibration_net.h"
#include "unit/train/calibration_reference.h"
#include "unit/train/train_fixtures.h"

typedef struct fixture {
    esp_graph *graph;
    esp_dataset *images;
} fixture;

static int open_fixture(void **state)
{
    static fixture it;

    it = (fixture){calibration_net(), calibration_images()};
    *state = &it;
    return 0;
}

static int close_fixture(void **state)
{
    fixture *it = *state;

    esp_graph_unref(it->graph);
    esp_dataset_unref(it->images);
    return 0;
}

static esp_graph *recalibrate(const esp_compute *compute, const fixture *it, int64_t batch)
{
    const esp_recalibrate_options options = {.batch = batch};
    esp_recalibrate_result result = {0};
    esp_graph *out = NULL;
    esp_error err = {0};

    expect_ok(esp_recalibrate(compute, it->graph, it->images, &options, &out, &result, &err), &err);
    assert_int_equal(result.norms, 2);
    assert_int_equal(result.images, 5);
    return out;
}

static void expect_constant(const esp_graph *graph, const char *name, const double *expected)
{
    const esp_tensor *tensor = constant_of(graph, name);
    double found[6];

    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        found[i] = esp_tensor_get_f64(tensor, i);
    /* float32 through at most three layers */
    assert_doubles(found, expected, esp_tensor_elements(tensor), 2e-6);
}

static void one_batch_of_all_images_gives_what_pytorch_gives_without_momentum(void **state)
{
    esp_graph *out = recalibrate(NULL, *state, 5);

    expect_constant(out, "norm1.mean", whole_norm1_mean);
    expect_constant(out, "norm1.variance", whole_norm1_variance);
    expect_constant(out, "norm3.mean", whole_norm3_mean);
    expect_constant(out, "norm3.variance", whole_norm3_variance);
    esp_graph_unref(out);
}

/* A batch of two, and three images for the last one: a single one is no batch. */
static void statistics_are_pooled_over_batches(void **state)
{
    esp_graph *out = recalibrate(NULL, *state, 2);

    expect_constant(out, "norm1.mean", pooled_norm1_mean);
    expect_constant(out, "norm1.variance", pooled_norm1_variance);
    expect_constant(out, "norm3.mean", pooled_norm3_mean);
    expect_constant(out, "norm3.variance", pooled_norm3_variance);
    esp_graph_unref(out);
}

static void nothing_but_running_statistics_changes(void **state)
{
    const fixture *it = *state;
    esp_graph *out = recalibrate(NULL, it, 5);
    int changed = 0;

    for (int v = 0; v < esp_graph_value_count(out); v++) {
        const esp_value *value = esp_graph_value(out, v), *old = esp_graph_value(it->graph, v);
        if (value->constant && !esp_tensor_equal(value->constant, old->constant)) {
            assert_true(strstr(value->name, ".mean") || strstr(value->name, ".variance"));
            changed++;
        }
    }
    assert_int_equal(changed, 4);
    assert_string_equal(esp_graph_metadata(out, ESP_NORMALIZATION_KEY),
                        esp_graph_metadata(it->graph, ESP_NORMALIZATION_KEY));
    esp_graph_unref(out);
}

/* What is measured does not depend on what was measured before. */
static void recalibrating_twice_is_recalibrating_once(void **state)
{
    const fixture *it = *state;
    esp_graph *once = recalibrate(NULL, it, 2);
    fixture again = {once, it->images};
    esp_graph *twice = recalibrate(NULL, &again, 2);

    assert_true(same_constants(once, twice));
    esp_graph_unref(once);
    esp_graph_unref(twice);
}

static void threads_change_no_bit(void **state)
{
    esp_compute compute = {0};
    esp_error err = {0};
    esp_graph *one = recalibrate(NULL, *state, 2), *three;

    expect_ok(esp_pool_new(3, &compute.pool, &err), &err);
    three = recalibrate(&compute, *state, 2);
    assert_true(same_constants(one, three));
    esp_graph_unref(one);
    esp_graph_unref(three);
    esp_pool_free(compute.pool);
}

static void a_model_without_batch_norm_comes_back_as_it_is(void **state)
{
    esp_graph *graph = random_linear_model(2, 6, 6, 3, 1), *out = NULL;
    esp_recalibrate_result result = {.norms = 7};
    esp_error err = {0};
    const fixture *it = *state;

    expect_ok(esp_recalibrate(NULL, graph, it->images, NULL, &out, &result, &err), &err);
    assert_ptr_equal(out, graph);
    assert_int_equal(result.norms, 0);
    esp_graph_unref(out);
    esp_graph_unref(graph);
}

static void what_cannot_be_measured_is_said(void **state)
{
    const fixture *it = *state;
    esp_dataset *one = NULL, *other = noise_dataset(4, 3, 6, 6, 3, 1);
    esp_graph *out = NULL;
    esp_error err = {0};
    const esp_recalibrate_options negative = {.batch = -1};

    expect_ok(esp_dataset_head(it->images, 1, &one, &err), &err);
    expect_failure(esp_recalibrate(NULL, it->graph, one, NULL, &out, NULL, &err), ESP_INVALID, &err,
                   "at least 2");
    expect_failure(esp_recalibrate(NULL, it->graph, it->images, &negative, &out, NULL, &err), ESP_INVALID,
                   &err, "batch -1");
    assert_int_equal(esp_recalibrate(NULL, it->graph, other, NULL, &out, NULL, &err), ESP_SHAPE);
    assert_null(out);
    esp_dataset_unref(one);
    esp_dataset_unref(other);
}

static void every_allocation_may_fail(void **state)
{
    const fixture *it = *state;
    size_t before = esp_memory_live();

    for (int64_t k = 1;; k++) {
        esp_graph *out = NULL;
        esp_error err = {0};
        esp_memory_fuse(k);
        esp_status status = esp_recalibrate(NULL, it->graph, it->images, NULL, &out, NULL, &err);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        esp_graph_unref(out);
        if (!has_burnt)
            break;
        if (status != ESP_OK)
            assert_int_equal(status, ESP_NO_MEMORY);
    }
    assert_true(esp_memory_live() <= before + (1 << 16)); /* the graph may keep packed weights */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_batch_of_all_images_gives_what_pytorch_gives_without_momentum),
        cmocka_unit_test(statistics_are_pooled_over_batches),
        cmocka_unit_test(nothing_but_running_statistics_changes),
        cmocka_unit_test(recalibrating_twice_is_recalibrating_once),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(a_model_without_batch_norm_comes_back_as_it_is),
        cmocka_unit_test(what_cannot_be_measured_is_said),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("recalibrate", tests, open_fixture, close_fixture);
}
