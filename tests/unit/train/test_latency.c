/* Latency: not how fast, but that the figures hang together. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "train/evaluate.h"
#include "train/runner.h"
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
    assert_int_equal(result.node_info[0].fused_into, 0);
    esp_free(result.node_ms);
    esp_free(result.node_info);
    esp_pool_free(compute.pool);
    esp_graph_unref(graph);
}

static void networks_measured_in_turns_each_get_their_repeats(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *small = random_linear_model(1, 4, 4, 3, 1), *large = small_conv_model(8, 3, 4, false, 1);
    const esp_latency_subject subjects[] = {
        {.graph = small, .options = {.repeats = 11}},
        {.graph = large, .options = {.batch = 2, .repeats = 5}, .wants_nodes = true},
    };
    esp_latency_result results[2];
    expect_ok(esp_measure_latencies(NULL, subjects, 2, results, &err), &err);
    assert_int_equal(results[0].repeats, 11);
    assert_int_equal(results[1].repeats, 5);
    assert_int_equal(results[1].batch, 2);
    for (int i = 0; i < 2; i++) {
        assert_true(results[i].min_ms > 0.0 && results[i].min_ms <= results[i].median_ms);
    }
    assert_int_equal(results[0].node_count, 0);
    assert_int_equal(results[1].node_count, esp_graph_node_count(large));
    esp_free(results[1].node_ms);
    esp_free(results[1].node_info);
    assert_int_equal(esp_measure_latencies(NULL, subjects, 0, results, &err), ESP_INVALID);
    esp_graph_unref(small);
    esp_graph_unref(large);
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

static void memory_counts_weights_and_what_a_run_allocates(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(1, 4, 4, 3, 1);
    const esp_latency_options options = {.batch = 2, .repeats = 1};
    esp_latency_result result;
    expect_ok(esp_measure_latency(NULL, graph, &options, false, &result, &err), &err);
    assert_int_equal(result.memory.weights, (3 * 16 + 3) * sizeof(float));
    assert_int_equal(result.memory.live, 2 * (16 + 3) * sizeof(float));
    assert_true(result.memory.planned >= result.memory.live);
    assert_true(result.memory.peak >= result.memory.weights + result.memory.planned);
    esp_graph_unref(graph);
}

static void parts_of_a_training_step_lie_within_it(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = small_conv_model(8, 3, 4, true, 1);
    const esp_latency_options options = {.batch = 4, .is_training = true};
    esp_runner *runner;
    esp_run_time time;
    expect_ok(esp_runner_new(NULL, graph, &options, false, &runner, &err), &err);
    expect_ok(esp_runner_run(runner, &time, &err), &err);
    assert_true(time.forward_s > 0.0 && time.backward_s > 0.0 && time.update_s >= 0.0);
    assert_true(fabs(time.forward_s + time.backward_s + time.update_s - time.total_s) < 1e-9);
    esp_runner_free(runner);
    esp_graph_unref(graph);
}

/* y = x weights^T is known by hand, and a step changes the weights it is made with. */
static void a_runner_runs_what_it_was_given_and_training_learns(void **state)
{
    (void)state;
    esp_error err = {0};
    const float weights[6] = {1, 2, 3, -1, 0, 1}, bias[2] = {0.5f, 0};
    esp_graph *graph = linear_model(0, 1, 1, 3, 2, weights, bias);
    esp_latency_options options = {.batch = 1};
    const float x[3] = {1, -1, 2};
    esp_runner *runner;
    esp_run_time time;
    size_t bytes = 0;
    expect_ok(esp_runner_new(NULL, graph, &options, false, &runner, &err), &err);
    void *input = esp_runner_input(runner, 0, &bytes);
    assert_int_equal(bytes, sizeof x);
    memcpy(input, x, bytes);
    for (int run = 0; run < 2; run++) {
        expect_ok(esp_runner_run(runner, &time, &err), &err);
        const float *y = esp_view_f32(esp_runner_output(runner, 0));
        assert_true(fabsf(y[0] - 5.5f) < 1e-5f && fabsf(y[1] - 1.0f) < 1e-5f);
    }
    esp_runner_free(runner);
    options.is_training = true;
    expect_ok(esp_runner_new(NULL, graph, &options, false, &runner, &err), &err);
    memcpy(esp_runner_input(runner, 0, &bytes), x, sizeof x);
    expect_ok(esp_runner_run(runner, &time, &err), &err);
    float before = esp_view_f32(esp_runner_output(runner, 0))[0];
    expect_ok(esp_runner_run(runner, &time, &err), &err);
    assert_true(esp_view_f32(esp_runner_output(runner, 0))[0] != before);
    esp_runner_free(runner);
    esp_graph_unref(graph);
}

static void a_runner_that_cannot_be_made_leaves_nothing_behind(void **state)
{
    (void)state;
    esp_graph *graph = small_conv_model(8, 3, 4, false, 1);
    const esp_latency_options options = {.batch = 2, .is_training = true};
    esp_status status = ESP_NO_MEMORY;
    esp_memory_fuse(0);
    for (int k = 1; status == ESP_NO_MEMORY; k++) {
        esp_error err = {0};
        esp_runner *runner;
        size_t before = esp_memory_live();
        esp_memory_fuse(k);
        status = esp_runner_new(NULL, graph, &options, true, &runner, &err);
        esp_memory_fuse(0);
        assert_true((status == ESP_OK) == (runner != NULL));
        esp_runner_free(runner);
        assert_true(status == ESP_OK || esp_memory_live() == before);
    }
    assert_int_equal(status, ESP_OK);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_are_ordered_and_count_what_was_run),
        cmocka_unit_test(networks_measured_in_turns_each_get_their_repeats),
        cmocka_unit_test(defaults_are_one_image_and_at_least_ten_runs),
        cmocka_unit_test(cancel_and_bad_options_are_refused),
        cmocka_unit_test(memory_counts_weights_and_what_a_run_allocates),
        cmocka_unit_test(parts_of_a_training_step_lie_within_it),
        cmocka_unit_test(a_runner_runs_what_it_was_given_and_training_learns),
        cmocka_unit_test(a_runner_that_cannot_be_made_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
