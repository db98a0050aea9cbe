/* Self-grouped layers as one step: what becomes one, what must not, and that results stay those of the nodes
 * one by one, whatever the layout, the engine and the number of threads. */
#include "unit/graph/block_nets.h"
#include "unit/graph/group_nets.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ops.h"

/* Winograd's error on a few layers in a row; exact forms are far below. */
#define TOLERANCE 3e-5

enum { CHANNELS = 20, SIZE = 11 };

typedef struct grouped_net {
    net n;
    group_layer at; /* a 3x3 layer that reads a Relu of CHANNELS channels */
} grouped_net;

static grouped_net *start(void)
{
    grouped_net *g = calloc(1, sizeof *g);
    assert_non_null(g);
    g->n = net_new(13);
    int x = net_input(&g->n, "x", S4(ESP_DIM_BATCH, CHANNELS, SIZE, SIZE));
    g->at = (group_layer){.n = &g->n,
                          .x = block_relu(&g->n, x),
                          .channels = CHANNELS,
                          .kernel = 3,
                          .stride = 1,
                          .has_bias = true};
    return g;
}

/* Under every engine with blocks the graph gives what it gives node by node, with equal bits for 1, 2 and 3
 * threads. */
static void expect_same_results(const esp_graph *graph)
{
    esp_engine engines[6];
    int64_t count;
    float *expected = evaluate_under(graph, &plain_images, NULL, 1, &count);
    for (int e = block_engines(engines) - 1; e >= 0; e--) {
        float *found = evaluate_under(graph, &engines[e], NULL, 1, &count);
        double error = relative_error(found, expected, count);
        if (!(error < TOLERANCE))
            fail_msg("%s: relative error %g", engine_text(&engines[e]), error);
        for (int threads = 2; threads <= 3; threads++) {
            float *other = evaluate_under(graph, &engines[e], NULL, threads, &count);
            assert_memory_equal(other, found, (size_t)count * sizeof *found);
            free(other);
        }
        free(found);
    }
    free(expected);
}

static esp_exec *executor(const esp_graph *graph, esp_params *params, bool is_training)
{
    static const esp_engine blocks = {.isa = ESP_ISA_PLAIN, .has_blocked = true};
    return exec_new(graph, (esp_exec_options){
                               .batch = 2, .engine = &blocks, .params = params, .is_training = is_training});
}

/* Checks results, then which node's step does each node's work: one letter per node, 'a' the first's. Frees
 * the net. */
static void expect_steps(grouped_net *g, int y, const char *expected)
{
    char found[64] = "";
    net_output(&g->n, y);
    esp_graph *graph = net_finish(&g->n);
    expect_same_results(graph);
    esp_exec *exec = executor(graph, NULL, false);
    for (int n = 0; n < esp_graph_node_count(graph); n++)
        found[n] = (char)('a' + esp_exec_node(exec, n).fused_into);
    assert_string_equal(found, expected);
    esp_exec_free(exec);
    esp_graph_unref(graph);
    free(g);
}

/* ---- what becomes one step ---- */

static void uneven_groups_become_one_step_of_the_concat(void **state)
{
    (void)state;
    grouped_net *g = start();
    expect_steps(g, group_uneven(&g->at), "ahhhhhhh");
}

static void strided_pointwise_groups_without_bias_become_one_step(void **state)
{
    (void)state;
    grouped_net *g = start();
    g->at.kernel = 1;
    g->at.stride = 2;
    g->at.has_bias = false;
    expect_steps(g, group_uneven(&g->at), "ahhhhhhh");
}

static void the_gather_that_restores_the_order_of_filters_is_taken_in(void **state)
{
    (void)state;
    grouped_net *g = start();
    expect_steps(g, group_reorder(&g->at, group_uneven(&g->at), 20), "ahhhhhhhh");
}

static void a_gather_behind_the_layer_that_drops_filters_stays(void **state)
{
    (void)state;
    grouped_net *g = start();
    group_layer behind = g->at;
    int count;
    behind.x = group_uneven(&g->at);
    expect_steps(g, group_gather(&behind, 1, 2, &count), "ahhhhhhhi");
}

static void a_branch_may_read_all_channels_without_a_gather(void **state)
{
    (void)state;
    grouped_net *g = start();
    int a = group_branch(&g->at, 0, 2, 3), all = group_convolve(&g->at, g->at.x, CHANNELS, 4);
    expect_steps(g, block_concat(&g->n, IN(a, all)), "aeeee");
}

static void branches_may_share_a_gather(void **state)
{
    (void)state;
    grouped_net *g = start();
    int count, chosen = group_gather(&g->at, 1, 2, &count);
    int a = group_convolve(&g->at, chosen, count, 3), b = group_convolve(&g->at, chosen, count, 5);
    expect_steps(g, block_concat(&g->n, IN(a, b)), "aeeee");
}

static void a_gather_that_others_read_stays(void **state)
{
    (void)state;
    grouped_net *g = start();
    int count, chosen = group_gather(&g->at, 1, 2, &count);
    int a = group_convolve(&g->at, chosen, count, 3), b = group_branch(&g->at, 0, 3, 4);
    int y = block_concat(&g->n, IN(a, b));
    net_output(&g->n, net_add(&g->n, "Tanh", IN(chosen), NULL));
    expect_steps(g, y, "abffffg");
}

static void a_group_alone_takes_in_its_gather(void **state)
{
    (void)state;
    grouped_net *g = start();
    expect_steps(g, group_branch(&g->at, 1, 2, 9), "acc");
}

static void groups_that_have_no_blocked_form_are_a_layer(void **state)
{
    (void)state;
    grouped_net *g = start();
    int w = net_constant(&g->n, S4(15, 4, 3, 3), NULL);
    int y = net_add(&g->n, "Conv", IN(g->at.x, w), AT(INTS("pads", 1, 1, 1, 1), esp_attr_int("group", 5)));
    net_output(&g->n, block_relu(&g->n, block_norm(&g->n, y, 15)));
    esp_graph *graph = net_finish(&g->n);
    expect_same_results(graph);
    esp_exec *exec = executor(graph, NULL, false);
    assert_string_not_equal(esp_exec_node(exec, 1).method, "plain"); /* grouped or dense, as is cheaper */
    assert_int_equal(esp_exec_node(exec, 3).fused_into, 1);
    esp_exec_free(exec);
    esp_graph_unref(graph);
    free(g);
}

static void norm_addition_and_relu_are_taken_in(void **state)
{
    (void)state;
    grouped_net *g = start();
    int y = block_norm(&g->n, group_reorder(&g->at, group_uneven(&g->at), 20), 20);
    y = block_relu(&g->n, net_add(&g->n, "Add", IN(g->at.x, y), NULL));
    expect_steps(g, y, "ahhhhhhhhhhh");
}

static void layers_in_a_row_agree_with_dense_ones_between(void **state)
{
    (void)state;
    grouped_net *g = start();
    int y = block_relu(&g->n, block_norm(&g->n, group_uneven(&g->at), 20));
    g->at.x = block_relu(&g->n, block_conv(&g->n, y, 20, 20, 3, 1));
    int shortcut = g->at.x;
    y = block_norm(&g->n, group_uneven(&g->at), 20);
    g->at.x = block_relu(&g->n, net_add(&g->n, "Add", IN(y, shortcut), NULL));
    int front = group_uneven(&g->at);
    y = block_relu(&g->n, block_concat(&g->n, IN(front, g->at.x)));
    y = net_add(&g->n, "MaxPool", IN(y), AT(INTS("kernel_shape", 3, 3), INTS("strides", 2, 2)));
    net_output(&g->n, block_classifier(&g->n, y, 40));
    esp_graph *graph = net_finish(&g->n);
    expect_same_results(graph);
    esp_graph_unref(graph);
    free(g);
}

/* Nearly everything is read: the dense form is cheaper, and must be what is chosen and right. */
static void a_layer_that_grouping_does_not_speed_up_runs_dense(void **state)
{
    (void)state;
    esp_engine engine = *esp_engine_default();
    grouped_net *g = start();
    int a = block_relu(&g->n, block_conv(&g->n, g->at.x, CHANNELS, 64, 3, 1));
    g->at.x = block_relu(&g->n, block_conv(&g->n, a, 64, 64, 3, 1));
    g->at.channels = 64;
    int few = group_branch(&g->at, 1, 1, 2), many = group_branch(&g->at, 0, 1, 62);
    int y = group_reorder(&g->at, block_concat(&g->n, IN(few, many)), 64);
    y = block_norm(&g->n, y, 64);
    net_output(&g->n, block_conv(&g->n, block_relu(&g->n, y), 64, 64, 3, 1));
    esp_graph *graph = net_finish(&g->n);
    expect_same_results(graph);
    engine.has_blocked = true;
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 2, .engine = &engine});
    const int concat = 9;
    assert_string_equal(esp_graph_node(graph, concat)->op->name, "Concat");
    assert_memory_equal(esp_exec_node(exec, concat).method, "dense", 5);
    esp_exec_free(exec);
    esp_graph_unref(graph);
    free(g);
}

/* ---- fully connected layers ---- */

static void groups_of_a_fully_connected_layer_become_one_step(void **state)
{
    (void)state;
    for (int has_bias = 0; has_bias <= 1; has_bias++) {
        grouped_net *g = start();
        g->at.has_bias = has_bias;
        group_flatten(&g->at);
        int a = group_dense_branch(&g->at, 0, 2, 5, true), b = group_dense_branch(&g->at, 1, 7, 15, true);
        expect_steps(g, block_concat(&g->n, IN(a, b)), "abchhhhh");
    }
}

static void what_follows_a_fully_connected_layer_is_taken_in(void **state)
{
    (void)state;
    grouped_net *g = start();
    group_flatten(&g->at);
    int a = group_dense_branch(&g->at, 0, 1, 13, true), b = group_dense_branch(&g->at, 3, 4, 7, true);
    int y = block_norm(&g->n, group_reorder(&g->at, block_concat(&g->n, IN(a, b)), 20), 20);
    y = block_relu(&g->n, net_add(&g->n, "Add", IN(y, g->at.x), NULL));
    expect_steps(g, y, "abchhhhhhhhh");
}

static void products_that_are_no_layers_stay_apart(void **state)
{
    (void)state;
    grouped_net *g = start();
    group_flatten(&g->at);
    int a = group_dense_branch(&g->at, 0, 2, 5, true), b = group_dense_branch(&g->at, 1, 7, 15, false);
    expect_steps(g, block_concat(&g->n, IN(a, b)), "abcdefgh");
}

/* ---- what stays apart ---- */

static void a_group_that_somebody_else_reads_keeps_the_layer_apart(void **state)
{
    (void)state;
    grouped_net *g = start();
    int a = group_branch(&g->at, 0, 2, 3), b = group_branch(&g->at, 1, 3, 12);
    int y = block_concat(&g->n, IN(a, b));
    net_output(&g->n, net_add(&g->n, "Tanh", IN(a), NULL));
    expect_steps(g, y, "acceefg");
}

static void groups_of_different_strides_stay_apart(void **state)
{
    (void)state;
    grouped_net *g = start();
    group_layer other = g->at;
    int a = group_branch(&g->at, 0, 2, 3);
    other.kernel = 1; /* the same image from another kernel */
    int b = group_branch(&other, 1, 3, 12);
    expect_steps(g, block_concat(&g->n, IN(a, b)), "acceef");
}

static void groups_of_different_images_stay_apart(void **state)
{
    (void)state;
    grouped_net *g = start();
    int a = group_branch(&g->at, 0, 2, 3);
    g->at.x = net_add(&g->n, "Tanh", IN(g->at.x), NULL);
    int b = group_branch(&g->at, 1, 3, 12);
    expect_steps(g, block_concat(&g->n, IN(a, b)), "accdffg");
}

/* ---- packed weights ---- */

static void trained_weights_are_packed_again(void **state)
{
    (void)state;
    esp_params *params;
    esp_error err = {0};
    int64_t count;
    grouped_net *g = start();
    net_output(&g->n, block_norm(&g->n, group_uneven(&g->at), 20));
    esp_graph *graph = net_finish(&g->n);
    must(esp_params_new(graph, &params, &err), &err);
    float *before = evaluate_under(graph, esp_engine_default(), params, 1, &count);
    for (int p = 0; p < esp_params_count(params); p++) {
        esp_param *param = esp_params_at(params, p);
        for (int64_t i = 0; i < param->elements; i++)
            param->data[i] *= 0.5f;
    }
    esp_params_touch(params);
    float *expected = evaluate_under(graph, &plain_images, params, 1, &count);
    float *found = evaluate_under(graph, esp_engine_default(), params, 1, &count);
    assert_true(relative_error(found, expected, count) < TOLERANCE);
    assert_true(relative_error(before, expected, count) > 0.01);
    free(before);
    free(expected);
    free(found);
    esp_params_free(params);
    esp_graph_unref(graph);
    free(g);
}

/* Two layers of the same first weight: the second weights, the channels or the order tell them apart. */
static void layers_that_share_a_weight_do_not_share_what_is_packed(void **state)
{
    (void)state;
    grouped_net *g = start();
    const group_layer *at = &g->at;
    int shared = net_constant(&g->n, S4(8, 10, 1, 1), NULL), count;
    int parts[4];
    for (int i = 0; i < 3; i++) {
        int own = net_constant(&g->n, S4(8, 10, 1, 1), NULL);
        int left = group_gather(at, i == 2, 2, &count), right = group_gather(at, 1, 2, &count);
        int a = net_add(&g->n, "Conv", IN(left, shared), NULL);
        int b = net_add(&g->n, "Conv", IN(right, i == 2 ? shared : own), NULL);
        parts[i] = block_concat(&g->n, IN(a, b));
    }
    parts[3] = NET_END;
    net_output(&g->n, net_add(&g->n, "Sum", parts, NULL));
    esp_graph *graph = net_finish(&g->n);
    expect_same_results(graph);
    esp_graph_unref(graph);
    free(g);
}

static void executors_share_packed_groups(void **state)
{
    (void)state;
    grouped_net *g = start();
    net_output(&g->n, group_uneven(&g->at));
    esp_graph *graph = net_finish(&g->n);
    esp_exec *a = executor(graph, NULL, false), *b = executor(graph, NULL, false);
    assert_int_equal(esp_exec_memory_use(a).packed, 0);
    assert_true(esp_exec_memory_use(a).shared_packed > 0);
    size_t derived = 0;
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);
        derived += value->constant == NULL ? 0 : esp_tensor_derived_bytes(value->constant);
    }
    assert_int_equal(derived, esp_exec_memory_use(b).shared_packed);
    esp_exec_free(a);
    esp_exec_free(b);
    esp_graph_unref(graph);
    free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uneven_groups_become_one_step_of_the_concat),
        cmocka_unit_test(strided_pointwise_groups_without_bias_become_one_step),
        cmocka_unit_test(the_gather_that_restores_the_order_of_filters_is_taken_in),
        cmocka_unit_test(a_gather_behind_the_layer_that_drops_filters_stays),
        cmocka_unit_test(a_branch_may_read_all_channels_without_a_gather),
        cmocka_unit_test(branches_may_share_a_gather),
        cmocka_unit_test(a_gather_that_others_read_stays),
        cmocka_unit_test(a_group_alone_takes_in_its_gather),
        cmocka_unit_test(groups_that_have_no_blocked_form_are_a_layer),
        cmocka_unit_test(norm_addition_and_relu_are_taken_in),
        cmocka_unit_test(layers_in_a_row_agree_with_dense_ones_between),
        cmocka_unit_test(a_layer_that_grouping_does_not_speed_up_runs_dense),
        cmocka_unit_test(groups_of_a_fully_connected_layer_become_one_step),
        cmocka_unit_test(what_follows_a_fully_connected_layer_is_taken_in),
        cmocka_unit_test(products_that_are_no_layers_stay_apart),
        cmocka_unit_test(a_group_that_somebody_else_reads_keeps_the_layer_apart),
        cmocka_unit_test(groups_of_different_strides_stay_apart),
        cmocka_unit_test(groups_of_different_images_stay_apart),
        cmocka_unit_test(trained_weights_are_packed_again),
        cmocka_unit_test(layers_that_share_a_weight_do_not_share_what_is_packed),
        cmocka_unit_test(executors_share_packed_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
