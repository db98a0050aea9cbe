/* Latency: not how fast, but that the figures hang together. */
#include <string.h>

#include "base/memory.h"
#include "train/evaluate.h"
#include "unit/train/train_fixtures.h"

static void figures_are_ordered_and_count_what_was_run(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = small_conv_model(8, 3, 4, false, 1);
    esp_compute compute = {0};
    expect_ok(esp_pool_new(2, &compute.pool, &err), &err);
    esp_latency_options options = {.batch = 4, .repeats = 7};
    esp_latency_result result;
    expect_ok(esp_measure_latency(&compute, graph, &options, true, &result, &err), &err);
    assert_int_equal(result.batch, 4);
    assert_int_equal(result.threads, 2);
    assert_int_equal(result.repeats, 7);
    assert_true(result.min_ms > 0.0);
    assert_true(result.min_ms <= result.median_ms && result.median_ms <= result.p90_ms);
    assert_true(result.spread >= 0.0);
    assert_int_equal(result.node_count, esp_graph_node_count(graph));
    double total = 0.0;
    for (int i = 0; i < result.node_count; i++) {
        assert_true(result.node_ms[i] >= 0.0);
        total += result.node_ms[i];
    }
    /* Every node's time lies within its run, so medians add up to no more than the slowest run; a sum of
     * nothing would mean that nobody measured. */
    assert_true(total > 0.0);
    esp_free(result.node_ms);
    esp_pool_free(compute.pool);
    esp_graph_unref(graph);
}

static void defaults_are_one_image_and_at_least_ten_runs(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(1, 4, 4, 3, 1);
    esp_latency_result result;
    expect_ok(esp_measure_latency(NULL, graph, NULL, false, &result, &err), &err);
    assert_int_equal(result.batch, 1);
    assert_int_equal(result.threads, 1);
    assert_true(result.repeats >= 10);
    assert_null(result.node_ms);
    assert_int_equal(result.node_count, 0);
    esp_graph_unref(graph);
}

static void cancel_and_bad_options_are_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(1, 4, 4, 3, 1);
    esp_cancel cancel = {false};
    esp_cancel_request(&cancel);
    esp_compute compute = {.cancel = &cancel};
    esp_latency_result result = {.repeats = -1};
    size_t before = esp_memory_live();
    expect_failure(esp_measure_latency(&compute, graph, NULL, true, &result, &err), ESP_CANCELLED, &err,
                   NULL);
    esp_latency_options options = {.repeats = -2};
    expect_failure(esp_measure_latency(NULL, graph, &options, true, &result, &err), ESP_INVALID, &err,
                   "-2 repeats");
    assert_int_equal(result.repeats, -1);
    assert_int_equal(esp_memory_live(), before);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_are_ordered_and_count_what_was_run),
        cmocka_unit_test(defaults_are_one_image_and_at_least_ten_runs),
        cmocka_unit_test(cancel_and_bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
