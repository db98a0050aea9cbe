/* Training of self-grouped layers: as one step where that is cheaper, with the gradients of the nodes one by
 * one, which are slopes, and with equal bits for any number of threads. */
#include <stdlib.h>
#include <string.h>

#include "graph/ops.h"
#include "unit/graph/block_nets.h"
#include "unit/graph/gradient_check.h"
#include "unit/graph/group_nets.h"

/* Sums of some hundred products in another order, and Winograd's transforms, forward and back. */
#define TOLERANCE 1e-4

enum { CHANNELS = 24, SIZE = 9 };

/* Builds on the layer's image; returns what the layer makes. */
typedef int layer_fn(group_layer *at);

typedef struct trained {
    esp_params *params;
    float *outputs, *input_grad;
    int64_t count;
} trained;

static trained train(const esp_graph *graph, const esp_engine *engine, int threads)
{
    esp_error err = {0};
    trained t;
    must(esp_params_new(graph, &t.params, &err), &err);
    t.outputs = train_under(graph, engine, t.params, threads, false, &t.input_grad, &t.count);
    return t;
}

static void trained_free(trained *t)
{
    esp_params_free(t->params);
    free(t->outputs);
    free(t->input_grad);
}

static int64_t input_elements(const esp_graph *graph)
{
    const esp_shape *shape = &esp_graph_value(graph, esp_graph_input(graph, 0))->shape;
    return 3 * esp_shape_product(shape, 1, shape->rank); /* train_under's batch */
}

/* Every layer is made of filters of its own: no gradient is nothing but rounding. */
static void expect_near(const char *what, const esp_engine *engine, const float *found, const float *expected,
                        int64_t count)
{
    double error = relative_error(found, expected, count);
    if (!(error <= TOLERANCE))
        fail_msg("%s under %s: relative error %g", what, engine_text(engine), error);
}

static void expect_same_training(const esp_graph *graph)
{
    esp_engine engines[6];
    trained expected = train(graph, &plain_images, 1);
    for (int e = block_engines(engines) - 1; e >= 0; e--) {
        trained found = train(graph, &engines[e], 1);
        expect_near("outputs", &engines[e], found.outputs, expected.outputs, expected.count);
        expect_near("the input's gradient", &engines[e], found.input_grad, expected.input_grad,
                    input_elements(graph));
        for (int threads = 2; threads <= 3; threads++) {
            trained more = train(graph, &engines[e], threads);
            assert_memory_equal(more.outputs, found.outputs, (size_t)found.count * sizeof(float));
            for (int p = 0; p < esp_params_count(found.params); p++) {
                const esp_param *a = esp_params_at(found.params, p), *b = esp_params_at(more.params, p);
                if (a->grad != NULL)
                    assert_memory_equal(b->grad, a->grad, (size_t)a->elements * sizeof(float));
            }
            trained_free(&more);
        }
        for (int p = 0; p < esp_params_count(found.params); p++) {
            const esp_param *a = esp_params_at(found.params, p), *b = esp_params_at(expected.params, p);
            if (a->grad != NULL)
                expect_near(a->name, &engines[e], a->grad, b->grad, a->elements);
        }
        trained_free(&found);
    }
    trained_free(&expected);
}

static group_layer start(net *n)
{
    *n = net_new(13);
    int x = net_input(n, "x", S4(ESP_DIM_BATCH, CHANNELS, SIZE, SIZE));
    return (group_layer){.n = n,
                         .x = net_add(n, "Tanh", IN(x), NULL),
                         .channels = CHANNELS,
                         .kernel = 3,
                         .stride = 1,
                         .has_bias = true};
}

/* The method of the step that does the work of the graph's last node but `behind`. */
static void expect_method(const esp_graph *graph, const esp_engine *engine, int behind, const char *begins)
{
    esp_error err = {0};
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(
        graph, (esp_exec_options){.batch = 3, .is_training = true, .params = params, .engine = engine});
    esp_exec_node_info info = esp_exec_node(exec, esp_graph_node_count(graph) - 1 - behind);
    if (strncmp(info.method, begins, strlen(begins)) != 0)
        fail_msg("method '%s', expected '%s'", info.method, begins);
    esp_exec_free(exec);
    esp_params_free(params);
}

/* The layer trains as one step whose method begins so, and right; something is done with its output. */
static void expect_trained_layer(layer_fn *build, group_layer at, const char *method)
{
    int y = net_add(at.n, "Tanh", IN(build(&at)), NULL);
    net_output(at.n, y);
    esp_graph *graph = net_finish(at.n);
    expect_method(graph, NULL, 1, method);
    expect_same_training(graph);
    esp_graph_unref(graph);
}

/* ---- layers ---- */

/* 24 filters in eight groups of three. */
static int narrow(group_layer *at)
{
    int parts[9];
    for (int g = 0; g < 8; g++)
        parts[g] = group_branch(at, g % 5, 2 + g % 3, 3);
    parts[8] = NET_END;
    return block_concat(at->n, parts);
}

static int narrow_in_another_order(group_layer *at)
{
    return group_reorder(at, narrow(at), 24);
}

/* A channel that a group reads twice, and one that no group reads. */
static int repeated(group_layer *at)
{
    int parts[9];
    for (int g = 0; g < 8; g++) {
        int list = net_ints(at->n, 4, g, g + 3, g, 20);
        int chosen = net_add(at->n, "Gather", IN(at->x, list), AT(esp_attr_int("axis", 1)));
        parts[g] = group_convolve(at, chosen, 4, 2);
    }
    parts[8] = NET_END;
    return block_concat(at->n, parts);
}

/* All groups have one weight, every other one a bias. */
static int shared(group_layer *at)
{
    int parts[9], w = net_constant(at->n, S4(2, 4, 3, 3), NULL), b = net_constant(at->n, S1(2), NULL);
    for (int g = 0; g < 8; g++) {
        int list = net_ints(at->n, 4, g, g + 7, 23 - g, 11);
        int chosen = net_add(at->n, "Gather", IN(at->x, list), AT(esp_attr_int("axis", 1)));
        parts[g] =
            net_add(at->n, "Conv", IN(chosen, w, g % 2 == 0 ? b : NET_NONE), AT(INTS("pads", 1, 1, 1, 1)));
    }
    parts[8] = NET_END;
    return block_concat(at->n, parts);
}

static int regular(group_layer *at)
{
    int w = net_constant(at->n, S4(24, 3, 3, 3), NULL), b = net_constant(at->n, S1(24), NULL);
    int y = net_add(at->n, "Conv", IN(at->x, w, b), AT(INTS("pads", 1, 1, 1, 1), esp_attr_int("group", 8)));
    return group_reorder(at, y, 24);
}

/* One convolution alone that leaves out a channel. */
static int alone(group_layer *at)
{
    return group_reorder(at, group_branch(at, 1, 1, 16), 16);
}

/* Their image, in channel blocks, is read beside them, too, before and after: its gradient is a sum of three.
 */
static int beside_others(group_layer *at)
{
    at->x = net_add(at->n, "Tanh", IN(block_conv(at->n, at->x, CHANNELS, CHANNELS, 3, 1)), NULL);
    int before = net_add(at->n, "Sigmoid", IN(at->x), NULL), y = narrow(at);
    int sum = net_add(at->n, "Add", IN(y, at->x), NULL);
    return net_add(at->n, "Mul", IN(before, sum), NULL);
}

static void narrow_groups_train_as_one_dense_step(void **state)
{
    (void)state;
    net n;
    for (int has_bias = 0; has_bias <= 1; has_bias++) {
        group_layer at = start(&n);
        at.has_bias = has_bias;
        expect_trained_layer(narrow, at, "dense");
    }
}

static void strided_and_pointwise_layers_train_alike(void **state)
{
    (void)state;
    net n;
    for (int stride = 1; stride <= 2; stride++) {
        for (int kernel = 1; kernel <= 5; kernel += 4) {
            group_layer at = start(&n);
            at.kernel = kernel;
            at.stride = stride;
            expect_trained_layer(narrow, at, "dense");
        }
    }
}

static void the_gather_behind_a_layer_is_taken_in(void **state)
{
    (void)state;
    net n;
    expect_trained_layer(narrow_in_another_order, start(&n), "dense");
}

static void channels_may_come_twice_or_never(void **state)
{
    (void)state;
    net n;
    expect_trained_layer(repeated, start(&n), "dense");
}

static void gradients_of_a_weight_that_groups_share_add_up(void **state)
{
    (void)state;
    net n;
    expect_trained_layer(shared, start(&n), "dense");
}

static void equal_groups_train_alike_in_either_form(void **state)
{
    (void)state;
    net n;
    expect_trained_layer(regular, start(&n), "");
}

static void a_convolution_alone_takes_in_its_gathers(void **state)
{
    (void)state;
    net n;
    expect_trained_layer(alone, start(&n), "dense");
}

static void a_layer_on_the_networks_input_trains_alike(void **state)
{
    (void)state;
    net n = net_new(13);
    group_layer at = {.n = &n, .channels = CHANNELS, .kernel = 3, .stride = 1, .has_bias = true};
    at.x = net_input(&n, "x", S4(ESP_DIM_BATCH, CHANNELS, SIZE, SIZE));
    expect_trained_layer(narrow, at, "dense");
}

static void an_image_that_others_read_gets_all_gradients(void **state)
{
    (void)state;
    net n;
    group_layer at = start(&n);
    net_output(&n, net_add(&n, "Tanh", IN(beside_others(&at)), NULL));
    esp_graph *graph = net_finish(&n);
    expect_same_training(graph);
    esp_graph_unref(graph);
}

/* Each group reads an eighth of the channels and fills vectors by itself. */
static void wide_groups_of_few_channels_train_as_they_are_written(void **state)
{
    (void)state;
    net n = net_new(13);
    group_layer at = {.n = &n, .channels = 256, .kernel = 5, .stride = 1};
    at.x = net_add(&n, "Tanh", IN(net_input(&n, "x", S4(ESP_DIM_BATCH, 256, 16, 16))), NULL);
    int parts[5];
    for (int g = 0; g < 4; g++)
        parts[g] = group_branch(&at, g, 16, 64);
    parts[4] = NET_END;
    net_output(&n, block_concat(&n, parts));
    esp_graph *graph = net_finish(&n);
    esp_error err = {0};
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 3, .is_training = true, .params = params});
    for (int k = 0; k < esp_graph_node_count(graph); k++)
        assert_int_equal(esp_exec_node(exec, k).fused_into, k);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

/* ---- fully connected ---- */

static int dense_groups(group_layer *at)
{
    group_flatten(at);
    int a = group_dense_branch(at, 0, 2, 5, true), b = group_dense_branch(at, 1, 7, 14, true);
    int c = group_dense_branch(at, 3, 1, 1, true);
    return group_reorder(at, block_concat(at->n, IN(a, b, c)), 20);
}

static void groups_of_a_fully_connected_layer_train_as_one_step(void **state)
{
    (void)state;
    net n;
    for (int has_bias = 0; has_bias <= 1; has_bias++) {
        group_layer at = start(&n);
        at.has_bias = has_bias;
        expect_trained_layer(dense_groups, at, "grouped dense");
    }
}

/* ---- slopes ---- */

static void build_narrow(net *n)
{
    group_layer at = {.n = n, .channels = 16, .kernel = 3, .stride = 1, .has_bias = true};
    int parts[9];
    at.x = net_input(n, "x", S4(1, 16, 5, 5));
    for (int g = 0; g < 8; g++)
        parts[g] = group_branch(&at, g, 5, 2);
    parts[8] = NET_END;
    net_output(n, group_reorder(&at, block_concat(n, parts), 16));
}

static void build_dense(net *n)
{
    group_layer at = {.n = n, .x = net_input(n, "x", S2(40, 12)), .channels = 12, .has_bias = true};
    int a = group_dense_branch(&at, 0, 2, 3, true), b = group_dense_branch(&at, 1, 3, 5, true);
    net_output(n, block_concat(n, IN(a, b)));
}

static void gradients_are_slopes(void **state)
{
    (void)state;
    check_gradients(&(gradient_case){.name = "Conv in groups", .opset = 13, .build = build_narrow});
    check_gradients(&(gradient_case){.name = "Gemm in groups", .opset = 13, .build = build_dense});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(narrow_groups_train_as_one_dense_step),
        cmocka_unit_test(strided_and_pointwise_layers_train_alike),
        cmocka_unit_test(the_gather_behind_a_layer_is_taken_in),
        cmocka_unit_test(channels_may_come_twice_or_never),
        cmocka_unit_test(gradients_of_a_weight_that_groups_share_add_up),
        cmocka_unit_test(equal_groups_train_alike_in_either_form),
        cmocka_unit_test(a_convolution_alone_takes_in_its_gathers),
        cmocka_unit_test(a_layer_on_the_networks_input_trains_alike),
        cmocka_unit_test(an_image_that_others_read_gets_all_gradients),
        cmocka_unit_test(wide_groups_of_few_channels_train_as_they_are_written),
        cmocka_unit_test(groups_of_a_fully_connected_layer_train_as_one_step),
        cmocka_unit_test(gradients_are_slopes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
