/* Functions, arithmetic and selection between convolutions: in channel blocks they give what they give on
 * plain images, forward and backward. */
#include "unit/graph/block_nets.h"

#include <stdlib.h>
#include <string.h>

/* As for whole networks (test_blocks.c). */
#define VALUE_TOLERANCE    2e-5
#define GRADIENT_TOLERANCE 2e-4

enum { CHANNELS = 20 };

typedef struct middle {
    const char *op;
    int operands; /* 1; 2: an image too; 3: a line of channels in place of that; 4: any number of images */
} middle;

static const middle middles[] = {
    {"LeakyRelu", 1}, {"Elu", 1},   {"Selu", 1}, {"Celu", 1},     {"ThresholdedRelu", 1},
    {"HardSwish", 1}, {"Mish", 1},  {"Gelu", 1}, {"Softplus", 1}, {"Softsign", 1},
    {"Shrink", 1},    {"Erf", 1},   {"Abs", 1},  {"Sin", 1},      {"Cos", 1},
    {"PRelu", 2},     {"PRelu", 3}, {"Pow", 3},  {"Max", 4},      {"Min", 4},
    {"Mean", 4},      {"Sum", 4},   {"Mul", 2},  {"Div", 3},      {"Where", 2},
    {"LRN", 1},       {"Floor", 1},
};
enum { MIDDLE_COUNT = sizeof middles / sizeof *middles };

static int add_middle(net *n, const middle *what, int x, int other)
{
    const esp_attr size = strcmp(what->op, "LRN") == 0 ? esp_attr_int("size", 3) : (esp_attr){0};
    const esp_attr attrs[2] = {size};
    if (strcmp(what->op, "Where") == 0)
        return net_add(n, "Where", IN(net_add(n, "Less", IN(x, other), NULL), x, other), NULL);
    if (strcmp(what->op, "Pow") == 0)
        return net_add(n, "Pow", IN(net_add(n, "Exp", IN(x), NULL), net_positive(n, S3(CHANNELS, 1, 1))),
                       NULL);
    if (what->operands == 1)
        return net_add(n, what->op, IN(x), attrs);
    if (what->operands == 3)
        return net_add(n, what->op, IN(x, net_positive(n, S3(CHANNELS, 1, 1))), NULL);
    if (what->operands == 4)
        return net_add(n, what->op, IN(x, other, x), NULL);
    return net_add(n, what->op, IN(x, other), NULL);
}

static esp_graph *net_around(const middle *what)
{
    net n = net_new(21);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 3, 7, 6));
    int a = block_conv(&n, x, 3, CHANNELS, 3, 1), b = block_conv(&n, x, 3, CHANNELS, 3, 1);
    net_output(&n, block_conv(&n, add_middle(&n, what, a, b), CHANNELS, 5, 3, 1));
    return net_finish(&n);
}

static void expect_near(const char *what, const char *op, const float *found, const float *expected,
                        int64_t count, double tolerance)
{
    double error = relative_error(found, expected, count);
    if (error <= tolerance)
        return;
    print_error("%s: %s differs by %g, expected at most %g\n", op, what, error, tolerance);
    fail();
}

/* The layout of the node in the middle: the one in front of the last. */
static esp_layout middle_layout(const esp_graph *graph)
{
    esp_engine engine = {.isa = ESP_ISA_PLAIN, .has_blocked = true};
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 2, .engine = &engine});
    esp_layout layout = esp_exec_node(exec, esp_graph_node_count(graph) - 2).layout;
    esp_exec_free(exec);
    return layout;
}

static void operators_give_the_same_in_channel_blocks(void **state)
{
    (void)state;
    esp_engine engines[6];
    int engine_count = block_engines(engines);
    for (int i = 0; i < MIDDLE_COUNT; i++) {
        esp_graph *graph = net_around(&middles[i]);
        int64_t count;
        float *expected = evaluate_under(graph, &plain_images, NULL, 1, &count);
        for (int e = 0; e < engine_count; e++) {
            float *found = evaluate_under(graph, &engines[e], NULL, 1, &count);
            expect_near("the output", middles[i].op, found, expected, count, VALUE_TOLERANCE);
            free(found);
        }
        free(expected);
        bool is_plain_only = strcmp(middles[i].op, "LRN") == 0 || strcmp(middles[i].op, "Where") == 0;
        assert_int_equal(middle_layout(graph), is_plain_only ? ESP_LAYOUT_PLAIN : ESP_LAYOUT_BLOCKED);
        esp_graph_unref(graph);
    }
}

static esp_params *params_of(const esp_graph *graph)
{
    esp_error err = {0};
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    return params;
}

/* Kinks are where no random number falls. */
static void gradients_are_the_same_in_channel_blocks(void **state)
{
    (void)state;
    esp_engine engine = {.isa = ESP_ISA_PLAIN, .has_blocked = true};
    for (int i = 0; i < MIDDLE_COUNT; i++) {
        esp_graph *graph = net_around(&middles[i]);
        esp_params *plain = params_of(graph), *blocked = params_of(graph);
        float *plain_dx, *blocked_dx;
        int64_t count;
        float *expected = train_under(graph, &plain_images, plain, 1, false, &plain_dx, &count);
        float *found = train_under(graph, &engine, blocked, 1, false, &blocked_dx, &count);
        expect_near("the output", middles[i].op, found, expected, count, VALUE_TOLERANCE);
        for (int p = 0; p < esp_params_count(plain); p++) {
            const esp_param *a = esp_params_at(blocked, p), *b = esp_params_at(plain, p);
            bool is_step = strcmp(middles[i].op, "Floor") == 0;
            if (a->grad != NULL && !is_step)
                expect_near(a->name, middles[i].op, a->grad, b->grad, a->elements, GRADIENT_TOLERANCE);
        }
        free(expected);
        free(found);
        free(plain_dx);
        free(blocked_dx);
        esp_params_free(plain);
        esp_params_free(blocked);
        esp_graph_unref(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operators_give_the_same_in_channel_blocks),
        cmocka_unit_test(gradients_are_the_same_in_channel_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
