/* Frozen parameters: their gradients are left out, and so is what nobody else needs; everything else is the
 * same, to the bit. */
#include <stdlib.h>
#include <string.h>

#include "unit/graph/block_nets.h"
#include "unit/graph/gradient_check.h"
#include "unit/graph/group_nets.h"

enum { BATCH = 3, MOST_PARAMS = 160 };

typedef struct run {
    esp_params *params;
    float *outputs;
    int64_t count;
    size_t bytes; /* planned */
} run;

/* Random floats; whatever else is an input stays 0. */
static void fill_inputs(const esp_graph *graph, esp_exec *exec, bool is_positive)
{
    esp_rng rng;
    esp_rng_seed(&rng, 8);
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_view *x = esp_exec_input(exec, i);
        if (x->dtype == ESP_F32)
            fill_random(&rng, view_data(x), view_count(x), is_positive ? 0.5f : -1.0f,
                        is_positive ? 1.5f : 1);
    }
}

static void keep_outputs(const esp_graph *graph, esp_exec *exec, run *r)
{
    r->count = 0;
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        r->count += view_count(esp_exec_output(exec, i));
    r->outputs = malloc((size_t)r->count * sizeof(float));
    assert_non_null(r->outputs);
    float *next = r->outputs;
    for (int i = 0; i < esp_graph_output_count(graph); i++) {
        const esp_view *y = esp_exec_output(exec, i);
        memcpy(next, view_data(y), (size_t)view_count(y) * sizeof(float));
        next += view_count(y);
    }
}

/* One step with the parameters frozen for which `frozen` (NULL: none) says so. Gradients begin as NaN, so
 * that what is not written is seen. */
static run run_frozen(const esp_graph *graph, const esp_engine *engine, const bool *frozen, bool is_positive)
{
    esp_error err = {0};
    esp_rng rng;
    run r;
    must(esp_params_new(graph, &r.params, &err), &err);
    assert_true(esp_params_count(r.params) <= MOST_PARAMS);
    for (int p = 0; p < esp_params_count(r.params); p++) {
        esp_param *param = esp_params_at(r.params, p);
        param->is_frozen = frozen != NULL && frozen[p];
        if (param->grad != NULL)
            memset(param->grad, 0xff, (size_t)param->elements * sizeof(float));
    }
    int64_t batch = BATCH;
    if (esp_graph_input_count(graph) > 0) {
        int64_t first = esp_graph_value(graph, esp_graph_input(graph, 0))->shape.dims[0];
        batch = first > 0 ? first : BATCH;
    }
    esp_exec *exec = exec_new(
        graph, (esp_exec_options){
                   .batch = batch, .is_training = true, .params = r.params, .engine = engine, .seed = 4});
    fill_inputs(graph, exec, is_positive);
    run_forward(exec);
    keep_outputs(graph, exec, &r);
    esp_rng_seed(&rng, 9);
    for (int i = 0; i < esp_graph_output_count(graph); i++) {
        const esp_view *dy = esp_exec_output_grad(exec, i);
        fill_random(&rng, view_data(dy), view_count(dy), -1, 1);
    }
    must(esp_exec_backward(exec, NULL, &err), &err);
    r.bytes = esp_exec_planned_bytes(exec);
    esp_exec_free(exec);
    return r;
}

static void run_free(run *r)
{
    esp_params_free(r->params);
    free(r->outputs);
}

static void expect_same_rest(const char *name, const esp_graph *graph, const esp_engine *engine,
                             const run *expected, const bool *frozen, bool is_positive)
{
    run found = run_frozen(graph, engine, frozen, is_positive);
    assert_memory_equal(found.outputs, expected->outputs, (size_t)found.count * sizeof(float));
    for (int p = 0; p < esp_params_count(found.params); p++) {
        const esp_param *a = esp_params_at(found.params, p), *b = esp_params_at(expected->params, p);
        size_t bytes = (size_t)a->elements * sizeof(float);
        if (a->grad == NULL)
            assert_memory_equal(a->data, b->data, bytes);
        else if (!frozen[p] && memcmp(a->grad, b->grad, bytes) != 0)
            fail_msg("%s: the gradient of '%s' is another one", name, a->name);
    }
    run_free(&found);
}

/* Each parameter frozen alone; each trained alone; the first ones frozen up to each. */
static void try_all(const char *name, const esp_graph *graph, const esp_engine *engine, bool is_positive)
{
    bool frozen[MOST_PARAMS];
    run expected = run_frozen(graph, engine, NULL, is_positive);
    int count = esp_params_count(expected.params);
    for (int p = 0; p < count; p++) {
        for (int way = 0; way < 3; way++) {
            for (int q = 0; q < count; q++)
                frozen[q] = way == 0 ? q == p : way == 1 ? q != p : q <= p;
            expect_same_rest(name, graph, engine, &expected, frozen, is_positive);
        }
    }
    run_free(&expected);
}

static void try_cases(const gradient_cases *list)
{
    for (int i = 0; i < list->count; i++) {
        net n = net_new(list->cases[i].opset);
        list->cases[i].build(&n);
        esp_graph *graph = net_finish(&n);
        try_all(list->cases[i].name, graph, NULL, list->cases[i].inputs == POSITIVE);
        esp_graph_unref(graph);
    }
}

static void freezing_changes_no_bit_of_any_operators_other_gradients(void **state)
{
    (void)state;
    try_cases(&gradient_cases_of_space);
    try_cases(&gradient_cases_of_math);
}

static void freezing_changes_no_bit_of_a_networks_other_gradients(void **state)
{
    (void)state;
    static const esp_engine blocks = {.isa = ESP_ISA_PLAIN, .has_blocked = true};
    for (int i = 0; i < block_net_count; i++) {
        esp_graph *graph = block_nets[i](false);
        try_all("a network in the default way", graph, NULL, false);
        try_all("a network in blocks", graph, &blocks, false);
        try_all("a network on plain images", graph, &plain_images, false);
        esp_graph_unref(graph);
    }
}

/* Ten groups of two filters, then a fully connected layer in two groups. */
static esp_graph *grouped_net(void)
{
    net n = net_new(13);
    group_layer at = {.n = &n, .channels = 16, .kernel = 3, .stride = 1, .has_bias = true};
    int parts[11];
    at.x = net_input(&n, "x", S4(ESP_DIM_BATCH, 3, 7, 7));
    at.x = block_relu(&n, block_norm(&n, block_conv(&n, at.x, 3, 16, 3, 1), 16));
    for (int g = 0; g < 10; g++)
        parts[g] = group_branch(&at, g, 5, 2);
    parts[10] = NET_END;
    at.x = block_relu(&n, block_norm(&n, block_concat(&n, parts), 20));
    at.channels = 20;
    group_flatten(&at);
    int a = group_dense_branch(&at, 0, 2, 3, true), b = group_dense_branch(&at, 1, 3, 5, true);
    net_output(&n, block_concat(&n, IN(a, b)));
    return net_finish(&n);
}

static void freezing_changes_no_bit_of_a_grouped_networks_other_gradients(void **state)
{
    (void)state;
    esp_graph *graph = grouped_net();
    try_all("self-grouped layers", graph, NULL, false);
    esp_graph_unref(graph);
}

/* ---- what is left out ---- */

static bool is_zero(const esp_param *param)
{
    for (int64_t i = 0; i < param->elements; i++) {
        if (param->grad[i] < 0.0f || param->grad[i] > 0.0f || param->grad[i] != param->grad[i])
            return false;
    }
    return true;
}

static int find_param(const esp_graph *graph, const char *op, int input)
{
    esp_error err = {0};
    esp_params *params;
    int found = -1;
    must(esp_params_new(graph, &params, &err), &err);
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        if (strcmp(node->op->name, op) == 0)
            found = esp_params_find(params, node->inputs[input]);
    }
    esp_params_free(params);
    assert_true(found >= 0);
    return found;
}

static void frozen_weights_get_no_gradient(void **state)
{
    (void)state;
    esp_graph *graph = block_nets[0](false);
    bool frozen[MOST_PARAMS];
    int weight = find_param(graph, "Gemm", 1);
    for (int p = 0; p < MOST_PARAMS; p++)
        frozen[p] = p != weight;
    run all = run_frozen(graph, NULL, NULL, false), one = run_frozen(graph, NULL, frozen, false);
    for (int p = 0; p < esp_params_count(one.params); p++) {
        const esp_param *param = esp_params_at(one.params, p);
        if (param->grad != NULL)
            assert_int_equal(is_zero(param), p != weight);
    }
    /* nothing waits for a backward pass, and no gradient of an image has a place */
    assert_true(2 * one.bytes < all.bytes);
    run_free(&all);
    run_free(&one);
    esp_graph_unref(graph);
}

/* Nothing in front of the first trained parameter, but all that leads to it from behind. */
static void gradients_end_at_the_first_trained_layer(void **state)
{
    (void)state;
    esp_graph *graph = block_nets[0](false);
    bool frozen[MOST_PARAMS];
    int weight = find_param(graph, "Conv", 1); /* the last one's */
    for (int p = 0; p < MOST_PARAMS; p++)
        frozen[p] = p < weight;
    run all = run_frozen(graph, NULL, NULL, false), some = run_frozen(graph, NULL, frozen, false);
    for (int p = 0; p < esp_params_count(some.params); p++) {
        const esp_param *param = esp_params_at(some.params, p);
        if (param->grad != NULL)
            assert_int_equal(is_zero(param), p < weight);
    }
    assert_true(some.bytes < all.bytes);
    run_free(&all);
    run_free(&some);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(freezing_changes_no_bit_of_any_operators_other_gradients),
        cmocka_unit_test(freezing_changes_no_bit_of_a_networks_other_gradients),
        cmocka_unit_test(freezing_changes_no_bit_of_a_grouped_networks_other_gradients),
        cmocka_unit_test(frozen_weights_get_no_gradient),
        cmocka_unit_test(gradients_end_at_the_first_trained_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
