#include "unit/io/graph_check.h"

#include <string.h>

#include "graph/op.h"
#include "graph/opaque.h"
#include "unit/base/scratch.h"

static const char *value_name(const esp_graph *graph, int value)
{
    return value < 0 ? "" : esp_graph_value(graph, value)->name;
}

static void compare_values(const esp_graph *left, int left_index, const esp_graph *right, int right_index)
{
    const esp_value *a = esp_graph_value(left, left_index), *b = esp_graph_value(right, right_index);

    assert_string_equal(a->name, b->name);
    if (a->dtype != b->dtype || !esp_shape_equal(&a->shape, &b->shape))
        fail_msg("value '%s' differs in type or shape", a->name);
    assert_true((a->batch_name == NULL) == (b->batch_name == NULL));
    if (a->batch_name)
        assert_string_equal(a->batch_name, b->batch_name);
    assert_true((a->constant == NULL) == (b->constant == NULL));
    if (a->constant && !esp_tensor_equal(a->constant, b->constant))
        fail_msg("constant '%s' differs", a->name);
}

static void compare_attributes(const esp_node *node, const esp_attr *a, const esp_attr *b)
{
    size_t count = (size_t)a->count;
    bool is_equal = a->type == b->type && a->count == b->count && strcmp(a->name, b->name) == 0;

    if (is_equal && a->type == ESP_ATTR_INT)
        is_equal = a->i == b->i;
    else if (is_equal && a->type == ESP_ATTR_FLOAT)
        is_equal = memcmp(&a->f, &b->f, sizeof a->f) == 0;
    else if (is_equal && a->type == ESP_ATTR_STRING)
        is_equal = strcmp(a->s, b->s) == 0;
    else if (is_equal && a->type == ESP_ATTR_BYTES)
        is_equal = memcmp(a->s, b->s, count) == 0;
    else if (is_equal && a->type == ESP_ATTR_TENSOR)
        is_equal = esp_tensor_equal(a->tensor, b->tensor);
    else if (is_equal && a->type == ESP_ATTR_INTS)
        is_equal = count == 0 || memcmp(a->ints, b->ints, count * sizeof *a->ints) == 0;
    else if (is_equal && a->type == ESP_ATTR_FLOATS)
        is_equal = count == 0 || memcmp(a->floats, b->floats, count * sizeof *a->floats) == 0;
    for (size_t i = 0; is_equal && a->type == ESP_ATTR_STRINGS && i < count; i++)
        is_equal = strcmp(a->strings[i], b->strings[i]) == 0;
    if (!is_equal)
        fail_msg("node '%s': attribute '%s' differs", node->name, a->name);
}

static void compare_nodes(const esp_graph *left, const esp_graph *right, int index)
{
    const esp_node *a = esp_graph_node(left, index), *b = esp_graph_node(right, index);

    assert_string_equal(a->name, b->name);
    assert_string_equal(a->op->name, b->op->name);
    assert_true(a->op == b->op || esp_op_is_opaque(a->op));
    assert_int_equal(a->input_count, b->input_count);
    assert_int_equal(a->output_count, b->output_count);
    assert_int_equal(a->attr_count, b->attr_count);
    for (int i = 0; i < a->input_count; i++)
        assert_string_equal(value_name(left, a->inputs[i]), value_name(right, b->inputs[i]));
    for (int i = 0; i < a->output_count; i++)
        assert_string_equal(value_name(left, a->outputs[i]), value_name(right, b->outputs[i]));
    for (int i = 0; i < a->attr_count; i++)
        compare_attributes(a, &a->attrs[i], &b->attrs[i]);
}

static int constant_count(const esp_graph *graph)
{
    int count = 0;

    for (int i = 0; i < esp_graph_value_count(graph); i++)
        count += esp_graph_value(graph, i)->constant != NULL;
    return count;
}

static void compare_constants(const esp_graph *left, const esp_graph *right)
{
    assert_int_equal(constant_count(left), constant_count(right));
    for (int i = 0; i < esp_graph_value_count(left); i++) {
        if (!esp_graph_value(left, i)->constant)
            continue;
        int other = esp_graph_find_value(right, esp_graph_value(left, i)->name);
        if (other < 0)
            fail_msg("constant '%s' is missing", esp_graph_value(left, i)->name);
        compare_values(left, i, right, other);
    }
}

void assert_graphs_equal(const esp_graph *left, const esp_graph *right)
{
    assert_string_equal(esp_graph_name(left), esp_graph_name(right));
    assert_int_equal(esp_graph_opset(left), esp_graph_opset(right));
    assert_int_equal(esp_graph_ir_version(left), esp_graph_ir_version(right));
    assert_int_equal(esp_graph_metadata_count(left), esp_graph_metadata_count(right));
    for (int i = 0; i < esp_graph_metadata_count(left); i++) {
        const char *value = esp_graph_metadata(right, esp_graph_metadata_key(left, i));

        assert_non_null(value);
        assert_string_equal(esp_graph_metadata_value(left, i), value);
    }
    assert_int_equal(esp_graph_input_count(left), esp_graph_input_count(right));
    for (int i = 0; i < esp_graph_input_count(left); i++)
        compare_values(left, esp_graph_input(left, i), right, esp_graph_input(right, i));
    assert_int_equal(esp_graph_output_count(left), esp_graph_output_count(right));
    for (int i = 0; i < esp_graph_output_count(left); i++)
        compare_values(left, esp_graph_output(left, i), right, esp_graph_output(right, i));
    assert_int_equal(esp_graph_node_count(left), esp_graph_node_count(right));
    for (int i = 0; i < esp_graph_node_count(left); i++)
        compare_nodes(left, right, i);
    compare_constants(left, right);
}
