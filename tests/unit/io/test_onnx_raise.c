/* Models of opset 6 compute what opset 6 says. */
#include "unit/base/scratch.h"

#include <string.h>

#include "graph/exec.h"
#include "io/onnx.h"
#include "unit/io/sample.h"
#include "unit/io/wire.h"

enum { ATTRIBUTE_INT_TYPE = 2 };

static void add_int(wire_message *node, const char *name, int64_t value)
{
    wire_message attribute = {0};

    wire_text(&attribute, ATTRIBUTE_NAME, name);
    wire_int(&attribute, ATTRIBUTE_INT, value);
    wire_int(&attribute, ATTRIBUTE_TYPE, ATTRIBUTE_INT_TYPE);
    wire_nest(node, NODE_ATTRIBUTE, &attribute);
}

/* "y = op(x, v)"; the caller adds attributes and nests it. */
static void start_node(wire_message *node, const char *op, const char *second)
{
    wire_text(node, NODE_INPUT, "x");
    if (second)
        wire_text(node, NODE_INPUT, second);
    wire_text(node, NODE_OUTPUT, "y");
    wire_text(node, NODE_NAME, "old");
    wire_text(node, NODE_OPERATOR, op);
}

static esp_status parse_old(const wire_message *node, int rank, int second_rank, int64_t opset,
                            esp_graph **out, esp_error *err)
{
    static const int64_t dims[] = {2, 3, 2, 2}, second[] = {3, 2};
    wire_message graph = {0}, model = {0};

    wire_text(&graph, GRAPH_NAME, "old");
    wire_value(&graph, GRAPH_INPUT, "x", 1, rank, dims, NULL);
    if (second_rank > 0)
        wire_value(&graph, GRAPH_INPUT, "v", 1, second_rank, second, NULL);
    wire_nest(&graph, GRAPH_NODE, node);
    wire_value(&graph, GRAPH_OUTPUT, "y", 1, rank, dims, NULL);
    wire_model(&model, 3, opset, &graph);
    return esp_onnx_parse(model.data, model.size, "old.onnx", out, err);
}

/* Runs y = op(x, v) with x = -1, -2, ... and v = 10, 20, ... */
static void run_old(const wire_message *node, int second_rank, float *y)
{
    esp_graph *graph = NULL;
    esp_exec *exec = NULL;

    REQUIRE(parse_old(node, 4, second_rank, 6, &graph, err));
    assert_int_equal(esp_graph_opset(graph), 7);
    REQUIRE(esp_exec_new(graph, &(esp_exec_options){.batch = 2}, &exec, err));
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_view *view = esp_exec_input(exec, i);
        for (int64_t k = 0; k < esp_shape_elements(&view->shape); k++)
            esp_view_f32(view)[k] = i == 0 ? -1.0f - (float)k : 10.0f * (float)(k + 1);
    }
    REQUIRE(esp_exec_forward(exec, NULL, err));
    memcpy(y, esp_exec_output(exec, 0)->data, 24 * sizeof *y);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

/* x is [2,3,2,2]. */
static void an_operand_begins_at_its_axis(void **state)
{
    float y[24];

    (void)state;
    for (int rank = 1; rank <= 2; rank++) {
        wire_message node = {0};
        start_node(&node, "Add", "v");
        add_int(&node, "axis", 1);
        add_int(&node, "broadcast", 1);
        run_old(&node, rank, y);
        for (int i = 0; i < 24; i++) {
            int channel = i / 4 % 3, row = i / 2 % 2;
            float v = 10.0f * (float)(rank == 1 ? channel + 1 : 2 * channel + row + 1);
            assert_true(y[i] == -1.0f - (float)i + v);
        }
    }
}

static void slopes_belong_to_channels(void **state)
{
    wire_message node = {0};
    float y[24];

    (void)state;
    start_node(&node, "PRelu", "v");
    run_old(&node, 1, y);
    for (int i = 0; i < 24; i++)
        assert_true(y[i] == (-1.0f - (float)i) * 10.0f * (float)(i / 4 % 3 + 1));
}

static void attributes_that_are_gone_are_dropped(void **state)
{
    wire_message node = {0};
    float y[24];

    (void)state;
    start_node(&node, "Dropout", NULL);
    add_int(&node, "is_test", 1);
    run_old(&node, 0, y);
    for (int i = 0; i < 24; i++)
        assert_true(y[i] == -1.0f - (float)i);
}

static void an_operand_that_does_not_fit_is_refused(void **state)
{
    wire_message node = {0};
    esp_error err = {0};
    esp_graph *graph = NULL;

    (void)state;
    start_node(&node, "Add", "v");
    add_int(&node, "axis", 3);
    add_int(&node, "broadcast", 1);
    assert_int_equal(parse_old(&node, 4, 2, 6, &graph, &err), ESP_SHAPE);
    assert_non_null(strstr(err.message, "node 'old' (Add)"));
    assert_null(graph);
}

static void an_operand_nobody_declares_is_refused(void **state)
{
    wire_message node = {0};
    esp_error err = {0};
    esp_graph *graph = NULL;

    (void)state;
    start_node(&node, "Add", "z");
    add_int(&node, "axis", 1);
    add_int(&node, "broadcast", 1);
    assert_int_equal(parse_old(&node, 4, 0, 6, &graph, &err), ESP_UNSUPPORTED);
    assert_non_null(strstr(err.message, "'z'"));
    assert_null(graph);
}

/* The same attribute means nothing in opset 7, and is said so. */
static void newer_models_stay_as_they_are(void **state)
{
    wire_message node = {0};
    esp_error err = {0};
    esp_graph *graph = NULL;
    esp_exec *exec = NULL;

    (void)state;
    start_node(&node, "Add", "v");
    add_int(&node, "axis", 1);
    if (parse_old(&node, 4, 1, 7, &graph, &err) == ESP_OK)
        assert_int_not_equal(esp_exec_new(graph, &(esp_exec_options){.batch = 2}, &exec, &err), ESP_OK);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_operand_begins_at_its_axis),
        cmocka_unit_test(slopes_belong_to_channels),
        cmocka_unit_test(attributes_that_are_gone_are_dropped),
        cmocka_unit_test(an_operand_that_does_not_fit_is_refused),
        cmocka_unit_test(an_operand_nobody_declares_is_refused),
        cmocka_unit_test(newer_models_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
