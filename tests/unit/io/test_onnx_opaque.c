/* Models that cannot run can still be looked at: operators nobody knows, quantised ones, subgraphs and
 * tensors of foreign types are kept, say why they cannot run, and go back into a file as they came. */
#include "unit/base/scratch.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/exec.h"
#include "graph/layers.h"
#include "graph/op.h"
#include "graph/opaque.h"
#include "io/onnx_internal.h"
#include "unit/io/graph_check.h"
#include "unit/io/sample.h"
#include "unit/io/wire.h"

static const int64_t image[] = {-1, 2, 4, 4}, between[] = {-1, 3, 4, 4}, row[] = {-1, 3};
static const int64_t first_weight[] = {3, 2, 1, 1}, second_weight[] = {5, 3, 1, 1};

enum { GRAPH_VALUE_INFO = 13, VALUE_TYPE = 2, ATTRIBUTE_TENSOR = 5, ATTRIBUTE_GRAPH = 6 };

static void put_node(wire_message *graph, const char *domain, const char *op, const char *name,
                     const char *input, const char *output, const wire_message *attribute)
{
    wire_message node = {0};

    wire_text(&node, NODE_INPUT, input);
    wire_text(&node, NODE_OUTPUT, output);
    wire_text(&node, NODE_NAME, name);
    wire_text(&node, NODE_OPERATOR, op);
    if (attribute)
        wire_nest(&node, NODE_ATTRIBUTE, attribute);
    if (domain[0])
        wire_text(&node, NODE_DOMAIN, domain);
    wire_nest(graph, GRAPH_NODE, &node);
}

/* x -> Conv -> the node in question -> Conv -> Relu -> y. */
static void put_around(wire_message *graph, const char *domain, const char *op, const wire_message *attribute,
                       bool declares)
{
    wire_text(graph, GRAPH_NAME, "around");
    wire_value(graph, GRAPH_INPUT, "x", 1, 4, image, "N");
    wire_weights(graph, "w1", 4, first_weight, 24);
    wire_weights(graph, "w2", 4, second_weight, 60);
    wire_node(graph, "Conv", "c1", "x w1", "a", NULL);
    put_node(graph, domain, op, "odd", "a", "b", attribute);
    wire_node(graph, "Conv", "c2", "b w2", "c", NULL);
    wire_node(graph, "Relu", "r", "c", "y", NULL);
    if (declares)
        wire_value(graph, GRAPH_VALUE_INFO, "b", 1, 4, between, "N");
    wire_value(graph, GRAPH_OUTPUT, "y", 1, 4, (const int64_t[]){-1, 5, 4, 4}, "N");
}

static esp_graph *parse_graph(const wire_message *graph)
{
    wire_message model = {0}, import = {0};
    esp_graph *read = NULL;

    wire_model(&model, 8, 13, graph);
    wire_text(&import, 1, "com.acme");
    wire_int(&import, 2, 4);
    wire_nest(&model, MODEL_OPSET, &import);
    REQUIRE(esp_onnx_parse(model.data, model.size, "m.onnx", &read, err));
    return read;
}

static void assert_cannot_run(const esp_graph *graph, const char *word, const char *word2)
{
    esp_exec_options options = {.batch = 1};
    esp_exec *exec = NULL;
    esp_error err = {0};

    assert_int_equal(esp_exec_new(graph, &options, &exec, &err), ESP_UNSUPPORTED);
    assert_null(exec);
    if (!strstr(err.message, word) || !strstr(err.message, word2))
        fail_msg("message \"%s\", expected \"%s\" and \"%s\"", err.message, word, word2);
}

static esp_graph *through_a_file(const esp_graph *graph)
{
    void *bytes = NULL;
    size_t size = 0;
    esp_graph *again = NULL;

    REQUIRE(esp_onnx_serialize(graph, &bytes, &size, err));
    REQUIRE(esp_onnx_parse(bytes, size, "again", &again, err));
    esp_free(bytes);
    return again;
}

static void layers_and_macs_are_counted_around_an_unknown_operator(void **state)
{
    for (int declares = 0; declares < 2; declares++) {
        wire_message graph = {0};
        esp_inferred *inferred = NULL;
        esp_layers layers = {0};
        esp_counts counts = {0};

        (void)state;
        put_around(&graph, "com.acme", "Magic", NULL, declares);
        esp_graph *read = parse_graph(&graph);
        assert_int_equal(esp_graph_node_count(read), 4);
        REQUIRE(esp_infer(read, 2, NULL, 0, &inferred, err));
        REQUIRE(esp_layers_list(read, inferred, &layers, err));
        REQUIRE(esp_graph_count(read, inferred, &counts, err));
        assert_int_equal(layers.count, 2);
        assert_int_equal(counts.params, 6 + 15);
        assert_int_equal(layers.items[1].filters, 5);
        /* 16 positions, 2 images; the second layer's are known where the file declares them */
        assert_int_equal(counts.macs, 2 * 16 * (6 + (declares ? 15 : 0)));
        assert_cannot_run(read, "node 'odd' (com.acme::Magic)", "domain 'com.acme'");
        esp_layers_free(&layers);
        esp_inferred_free(inferred);
        esp_graph_unref(read);
    }
}

static void what_cannot_run_says_why(void **state)
{
    const int64_t ones[] = {1, 1};
    wire_message bogus = {0}, branch = {0}, graph = {0};
    const struct {
        const char *op;
        const wire_message *attribute;
        const char *word;
    } cases[] = {
        {"Foo", NULL, "operator 'Foo' of opset 13 is not known"},
        {"Relu", &bogus, "unknown attribute 'bogus'"},
        {"If", &branch, "subgraph"},
        {"QuantizeLinear", NULL, "quantised models are not supported, export the float model"},
        {"QLinearConv", NULL, "quantised models are not supported"},
        {"ConvInteger", NULL, "quantised models are not supported"},
    };

    (void)state;
    wire_ints(&bogus, "bogus", 2, ones);
    wire_text(&branch, ATTRIBUTE_NAME, "then_branch");
    wire_nest(&branch, ATTRIBUTE_GRAPH, &(wire_message){0});
    wire_int(&branch, ATTRIBUTE_TYPE, 5);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        graph.size = 0;
        put_around(&graph, "", cases[i].op, cases[i].attribute, false);
        esp_graph *read = parse_graph(&graph);
        assert_cannot_run(read, "node 'odd' (", cases[i].word);
        esp_graph_unref(read);
    }
}

static void opaque_nodes_go_back_as_they_came(void **state)
{
    wire_message graph = {0}, attribute = {0}, tensor = {0};
    static const uint8_t raw[5000] = {1, 2, 3};

    (void)state;
    wire_int(&tensor, TENSOR_DIM, 5000);
    wire_int(&tensor, TENSOR_TYPE, 3);
    wire_bytes(&tensor, TENSOR_RAW, raw, sizeof raw); /* large enough to be left in the file */
    wire_text(&attribute, ATTRIBUTE_NAME, "table");
    wire_nest(&attribute, ATTRIBUTE_TENSOR, &tensor);
    wire_int(&attribute, ATTRIBUTE_TYPE, 4);
    put_around(&graph, "com.acme", "Magic", &attribute, true);
    esp_graph *read = parse_graph(&graph), *again = through_a_file(read);
    assert_graphs_equal(read, again);
    const esp_node *node = esp_graph_node(again, esp_graph_find_node(again, "odd"));
    assert_string_equal(node->op->name, "com.acme::Magic");
    assert_string_equal(esp_graph_metadata(again, "onnx.opset.com.acme"), "4");
    const esp_attr *kept = esp_node_attr(node, "table");
    assert_int_equal(kept->type, ESP_ATTR_BYTES);
    Onnx__AttributeProto *proto =
        onnx__attribute_proto__unpack(NULL, (size_t)kept->count, (const uint8_t *)kept->s);
    assert_non_null(proto);
    assert_int_equal(proto->t->raw_data.len, sizeof raw);
    assert_memory_equal(proto->t->raw_data.data, raw, sizeof raw);
    onnx__attribute_proto__free_unpacked(proto, NULL);
    esp_graph_unref(read);
    esp_graph_unref(again);
}

/* A subgraph reads by name, so the values it names must stay, and stay what they are. */
static void what_a_subgraph_reads_is_kept(void **state)
{
    wire_message graph = {0}, inner = {0}, branch = {0};
    const int64_t condition[] = {1};

    (void)state;
    wire_node(&inner, "Relu", "inside", "outside", "r", NULL);
    wire_value(&inner, GRAPH_OUTPUT, "r", 1, 2, row, "N");
    wire_text(&branch, ATTRIBUTE_NAME, "then_branch");
    wire_nest(&branch, ATTRIBUTE_GRAPH, &inner);
    wire_int(&branch, ATTRIBUTE_TYPE, 5);
    wire_value(&graph, GRAPH_INPUT, "x", 1, 2, row, "N");
    wire_value(&graph, GRAPH_INPUT, "flag", 9, 1, condition, NULL);
    wire_node(&graph, "Exp", "before", "x", "outside", NULL);
    wire_node(&graph, "If", "choice", "flag", "y", &branch);
    wire_value(&graph, GRAPH_OUTPUT, "y", 1, 2, row, "N");
    esp_graph *read = parse_graph(&graph), *again = through_a_file(read);
    assert_graphs_equal(read, again);
    const esp_node *node = esp_graph_node(read, esp_graph_find_node(read, "choice"));
    assert_int_equal(node->input_count, 2);
    assert_int_equal(node->inputs[1], esp_graph_find_value(read, "outside"));
    assert_true(esp_graph_find_node(read, "before") >= 0);
    esp_graph_unref(read);
    esp_graph_unref(again);
}

static void tensors_of_foreign_types_stay_when_they_are_read(void **state)
{
    wire_message graph = {0}, weights = {0};
    const int64_t three[] = {3};

    (void)state;
    wire_int(&weights, TENSOR_DIM, 3);
    wire_int(&weights, TENSOR_TYPE, 14); /* complex64 */
    wire_bytes(&weights, TENSOR_RAW, "realimagrealimagrealimag", 24);
    wire_text(&weights, TENSOR_NAME, "q");
    wire_nest(&graph, GRAPH_INITIALIZER, &weights);
    wire_value(&graph, GRAPH_INPUT, "x", 1, 1, three, NULL);
    wire_weights(&graph, "scale", 0, three, 4);
    wire_node(&graph, "Magnitude", "magnitude", "q scale", "w", NULL);
    wire_node(&graph, "Mul", "mul", "x w", "y", NULL);
    wire_value(&graph, GRAPH_OUTPUT, "y", 1, 1, three, NULL);
    esp_graph *read = parse_graph(&graph), *again = through_a_file(read);
    assert_graphs_equal(read, again);
    const esp_node *node = esp_graph_node(again, esp_graph_find_node(again, "q"));
    assert_string_equal(node->op->name, "ai.onnx::Constant");
    assert_true(esp_graph_find_value(again, "q") == node->outputs[0]);
    assert_cannot_run(read, "cannot run", "not supported");
    esp_graph_unref(read);
    esp_graph_unref(again);
}

/* A classifier's labels and scores as a sequence of maps. */
static void outputs_of_other_types_are_kept(void **state)
{
    wire_message graph = {0}, value = {0}, type = {0}, sequence = {0}, element = {0}, tensor = {0};

    (void)state;
    wire_int(&tensor, 1, 1);
    wire_nest(&element, 1, &tensor);
    wire_nest(&sequence, 1, &element);
    wire_nest(&type, 4, &sequence);
    wire_text(&value, 1, "scores");
    wire_nest(&value, VALUE_TYPE, &type);
    wire_value(&graph, GRAPH_INPUT, "x", 1, 2, row, "N");
    put_node(&graph, "ai.onnx.ml", "ZipMap", "zip", "x", "scores", NULL);
    wire_nest(&graph, GRAPH_OUTPUT, &value);
    esp_graph *read = parse_graph(&graph), *again = through_a_file(read);
    assert_graphs_equal(read, again);
    const esp_node *node = esp_graph_node(again, 0);
    assert_non_null(esp_node_attr(node, "::type0"));
    assert_cannot_run(again, "node 'zip' (ai.onnx.ml::ZipMap)", "domain 'ai.onnx.ml'");
    esp_graph_unref(read);
    esp_graph_unref(again);
}

static void functions_of_the_file_are_named_and_not_lost_silently(void **state)
{
    wire_message graph = {0}, model = {0}, function = {0};
    esp_graph *read = NULL;
    esp_error refusal = {0};
    void *bytes;
    size_t size;

    (void)state;
    put_around(&graph, "local", "Block", NULL, false);
    wire_model(&model, 8, 13, &graph);
    wire_text(&function, 1, "Block");
    wire_text(&function, 10, "local");
    wire_nest(&model, 25, &function);
    REQUIRE(esp_onnx_parse(model.data, model.size, "m.onnx", &read, err));
    assert_cannot_run(read, "node 'odd' (local::Block)", "function");
    assert_int_equal(esp_onnx_serialize(read, &bytes, &size, &refusal), ESP_UNSUPPORTED);
    assert_non_null(strstr(refusal.message, "node 'odd' (local::Block) cannot be written"));
    esp_graph_unref(read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_and_macs_are_counted_around_an_unknown_operator),
        cmocka_unit_test(what_cannot_run_says_why),
        cmocka_unit_test(opaque_nodes_go_back_as_they_came),
        cmocka_unit_test(what_a_subgraph_reads_is_kept),
        cmocka_unit_test(tensors_of_foreign_types_stay_when_they_are_read),
        cmocka_unit_test(outputs_of_other_types_are_kept),
        cmocka_unit_test(functions_of_the_file_are_named_and_not_lost_silently),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
