/* Reading ONNX: files composed field by field by an independent writer (wire.h), sound ones and every kind of
 * malformed one. A refusal is one line that names the file, the place, what was found and what was expected.
 */
#include "unit/base/scratch.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "io/onnx.h"
#include "unit/io/graph_check.h"
#include "unit/io/sample.h"
#include "unit/io/wire.h"

static const int64_t image_dims[] = {-1, 2, 4, 4}, row_dims[] = {-1, 3}, weight_dims[] = {3, 2, 1, 1};

/* x -> Conv(w) -> GlobalAveragePool -> Flatten -> y, 24 bytes of weights. */
static void small_graph(wire_message *graph)
{
    wire_text(graph, GRAPH_NAME, "small");
    wire_value(graph, GRAPH_INPUT, "x", 1, 4, image_dims, "batch");
    wire_weights(graph, "w", 4, weight_dims, 24);
    wire_node(graph, "Conv", "first", "x w", "a", NULL);
    wire_node(graph, "GlobalAveragePool", "pool", "a", "b", NULL);
    wire_node(graph, "Flatten", "flat", "b", "y", NULL);
    wire_value(graph, GRAPH_OUTPUT, "y", 1, 2, row_dims, "batch");
}

static esp_graph *parse(const wire_message *model)
{
    esp_error err = {0};
    esp_graph *graph = NULL;

    if (esp_onnx_parse(model->data, model->size, "m.onnx", &graph, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return graph;
}

static void assert_bytes_refused(const void *data, size_t size, esp_status code, const char *word,
                                 const char *word2)
{
    esp_error err = {0};
    esp_graph *graph = NULL;
    esp_status status = esp_onnx_parse(data, size, "m.onnx", &graph, &err);

    if (status != code || !strstr(err.message, word) || !strstr(err.message, word2) ||
        strncmp(err.message, "m.onnx: ", 8) != 0)
        fail_msg("status %s, message \"%s\", expected %s with \"%s\" and \"%s\"", esp_status_word(status),
                 err.message, esp_status_word(code), word, word2);
    assert_null(graph);
    assert_null(strchr(err.message, '\n'));
}

static void assert_refused(const wire_message *graph, esp_status code, const char *word, const char *word2)
{
    wire_message model = {0};

    wire_model(&model, 7, 13, graph);
    assert_bytes_refused(model.data, model.size, code, word, word2);
}

/* ---- sound files ---- */

static void a_small_model_arrives_whole(void **state)
{
    wire_message graph = {0}, model = {0};

    (void)state;
    small_graph(&graph);
    wire_model(&model, 6, 11, &graph);
    esp_graph *read = parse(&model);
    assert_string_equal(esp_graph_name(read), "small");
    assert_int_equal(esp_graph_ir_version(read), 6);
    assert_int_equal(esp_graph_opset(read), 11);
    assert_int_equal(esp_graph_node_count(read), 3);
    assert_string_equal(esp_graph_node(read, 0)->name, "first");
    assert_string_equal(esp_graph_node(read, 0)->op->name, "Conv");
    const esp_value *input = esp_graph_value(read, esp_graph_input(read, 0));
    assert_int_equal(input->shape.dims[0], ESP_DIM_BATCH);
    assert_int_equal(input->shape.dims[3], 4);
    assert_string_equal(input->batch_name, "batch");
    const esp_value *output = esp_graph_value(read, esp_graph_output(read, 0));
    assert_int_equal(output->shape.dims[0], ESP_DIM_BATCH);
    assert_int_equal(output->shape.dims[1], 3);
    assert_int_equal(
        esp_tensor_shape(esp_graph_value(read, esp_graph_find_value(read, "w"))->constant)->dims[0], 3);
    esp_graph_unref(read);
}

static void open_dims_become_batch_and_unknown(void **state)
{
    const int64_t open[] = {0, 2, -1, 0};
    wire_message graph = {0}, model = {0};

    (void)state;
    wire_value(&graph, GRAPH_INPUT, "x", 1, 4, open, "height");
    wire_node(&graph, "Relu", "", "x", "y", NULL);
    wire_value(&graph, GRAPH_OUTPUT, "y", 1, 4, open, "height");
    wire_model(&model, 7, 13, &graph);
    esp_graph *read = parse(&model);
    const esp_value *input = esp_graph_value(read, esp_graph_input(read, 0));
    assert_int_equal(input->shape.dims[0], ESP_DIM_BATCH);
    assert_int_equal(input->shape.dims[1], 2);
    assert_int_equal(input->shape.dims[2], ESP_DIM_UNKNOWN);
    assert_int_equal(input->shape.dims[3], ESP_DIM_UNKNOWN);
    assert_string_equal(input->batch_name, "N");
    esp_graph_unref(read);
}

/* Only an open first dim that has the batch's name, or none, is the batch. */
static void output_batch_is_known_by_its_name(void **state)
{
    const struct {
        int64_t input, output; /* first dims as in wire_value */
        const char *input_name, *output_name;
        int64_t expected;
    } cases[] = {{-1, -1, "B", "B", ESP_DIM_BATCH}, {-1, 0, "B", "", ESP_DIM_BATCH},
                 {0, 0, "", "", ESP_DIM_BATCH},     {-1, -1, "B", "C", ESP_DIM_UNKNOWN},
                 {2, 0, "", "", ESP_DIM_UNKNOWN},   {-1, 3, "B", "", 3}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t input_dims[] = {cases[i].input, 3}, output_dims[] = {cases[i].output, 3};
        wire_message graph = {0}, model = {0};

        wire_value(&graph, GRAPH_INPUT, "x", 1, 2, input_dims, cases[i].input_name);
        wire_node(&graph, "Relu", "relu", "x", "y", NULL);
        wire_value(&graph, GRAPH_OUTPUT, "y", 1, 2, output_dims, cases[i].output_name);
        wire_model(&model, 7, 13, &graph);
        esp_graph *read = parse(&model), *again = NULL;
        assert_int_equal(esp_graph_value(read, esp_graph_output(read, 0))->shape.dims[0], cases[i].expected);
        void *bytes = NULL;
        size_t size = 0;
        REQUIRE(esp_onnx_serialize(read, &bytes, &size, err));
        REQUIRE(esp_onnx_parse(bytes, size, "again", &again, err));
        assert_graphs_equal(read, again);
        esp_free(bytes);
        esp_graph_unref(read);
        esp_graph_unref(again);
    }
}

/* Before IR 4 every initializer is an input too. */
static void constants_listed_as_inputs_are_no_inputs(void **state)
{
    wire_message graph = {0}, model = {0};

    (void)state;
    small_graph(&graph);
    wire_value(&graph, GRAPH_INPUT, "w", 1, 4, weight_dims, NULL);
    wire_model(&model, 3, 9, &graph);
    esp_graph *read = parse(&model);
    assert_int_equal(esp_graph_input_count(read), 1);
    assert_int_equal(esp_graph_ir_version(read), 3);
    esp_graph_unref(read);
}

static void node_names_may_be_empty_or_given_twice(void **state)
{
    wire_message graph = {0}, model = {0};

    (void)state;
    wire_value(&graph, GRAPH_INPUT, "x", 1, 2, row_dims, "N");
    wire_node(&graph, "Relu", "same", "x", "a", NULL);
    wire_node(&graph, "Relu", "same", "a", "b", NULL);
    wire_node(&graph, "Relu", "", "b", "c", NULL);
    wire_node(&graph, "Relu", "", "c", "y", NULL);
    wire_value(&graph, GRAPH_OUTPUT, "y", 1, 2, row_dims, "N");
    wire_model(&model, 7, 13, &graph);
    esp_graph *read = parse(&model);
    assert_int_equal(esp_graph_node_count(read), 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(esp_graph_node(read, i)->name, esp_graph_node(read, j)->name);
    assert_string_equal(esp_graph_node(read, 0)->name, "same");
    esp_graph_unref(read);
}

static void an_empty_name_is_an_absent_input(void **state)
{
    const int64_t bound_dims[] = {1};
    wire_message graph = {0}, model = {0};

    (void)state;
    wire_value(&graph, GRAPH_INPUT, "x", 1, 2, row_dims, "N");
    wire_weights(&graph, "most", 0, bound_dims, 4);
    wire_node(&graph, "Clip", "clip", "x - most", "y", NULL);
    wire_value(&graph, GRAPH_OUTPUT, "y", 1, 2, row_dims, "N");
    wire_model(&model, 7, 13, &graph);
    esp_graph *read = parse(&model);
    const esp_node *node = esp_graph_node(read, 0);
    assert_int_equal(node->input_count, 3);
    assert_int_equal(node->inputs[1], -1);
    assert_string_equal(esp_graph_value(read, node->inputs[2])->name, "most");
    esp_graph_unref(read);
}

static void metadata_and_producer_are_kept(void **state)
{
    wire_message graph = {0}, model = {0}, entry = {0};

    (void)state;
    small_graph(&graph);
    wire_text(&graph, 10, "about the graph");
    wire_model(&model, 7, 13, &graph);
    wire_text(&entry, 1, "colour");
    wire_text(&entry, 2, "green");
    wire_nest(&model, MODEL_METADATA, &entry);
    wire_text(&model, 2, "pytorch");
    wire_text(&model, 3, "1.13");
    wire_int(&model, 5, 42);
    esp_graph *read = parse(&model);
    assert_string_equal(esp_graph_metadata(read, "colour"), "green");
    assert_string_equal(esp_graph_metadata(read, "onnx.producer_name"), "pytorch");
    assert_string_equal(esp_graph_metadata(read, "onnx.producer_version"), "1.13");
    assert_string_equal(esp_graph_metadata(read, "onnx.model_version"), "42");
    assert_string_equal(esp_graph_metadata(read, "onnx.graph.doc_string"), "about the graph");
    assert_null(esp_graph_metadata(read, "onnx.doc_string"));
    esp_graph_unref(read);
}

/* Other domains, operators, types: what no output needs does not matter. */
static void what_nobody_reads_stops_nothing(void **state)
{
    wire_message graph = {0}, model = {0}, import = {0}, node = {0}, words = {0}, phases = {0};

    (void)state;
    small_graph(&graph);
    wire_text(&node, NODE_INPUT, "x");
    wire_text(&node, NODE_OUTPUT, "z");
    wire_text(&node, NODE_NAME, "odd");
    wire_text(&node, NODE_OPERATOR, "FusedConv");
    wire_text(&node, NODE_DOMAIN, "com.microsoft");
    wire_nest(&graph, GRAPH_NODE, &node);
    wire_int(&words, TENSOR_DIM, 1);
    wire_int(&words, TENSOR_TYPE, 8);
    wire_text(&words, 6, "some text");
    wire_text(&words, TENSOR_NAME, "labels");
    wire_nest(&graph, GRAPH_INITIALIZER, &words);
    wire_int(&phases, TENSOR_DIM, 1);
    wire_int(&phases, TENSOR_TYPE, 14);
    wire_bytes(&phases, TENSOR_RAW, "realimag", 8);
    wire_text(&phases, TENSOR_NAME, "complex");
    wire_nest(&graph, GRAPH_INITIALIZER, &phases);
    wire_model(&model, 7, 13, &graph);
    wire_text(&import, 1, "com.microsoft");
    wire_int(&import, 2, 1);
    wire_nest(&model, MODEL_OPSET, &import);
    esp_graph *read = parse(&model);
    assert_int_equal(esp_graph_node_count(read), 3);
    assert_int_equal(esp_graph_find_value(read, "labels"), -1);
    assert_int_equal(esp_graph_find_value(read, "complex"), -1);
    esp_graph_unref(read);
}

/* Two imports of one domain under its two names must agree. */
static void the_default_domain_has_two_names(void **state)
{
    wire_message graph = {0}, model = {0}, import = {0};

    (void)state;
    small_graph(&graph);
    wire_model(&model, 10, 13, &graph);
    wire_text(&import, 1, "ai.onnx");
    wire_int(&import, 2, 13);
    wire_nest(&model, MODEL_OPSET, &import);
    esp_graph_unref(parse(&model));
    import.size = 0;
    wire_text(&import, 1, "ai.onnx");
    wire_int(&import, 2, 14);
    wire_nest(&model, MODEL_OPSET, &import);
    assert_bytes_refused(model.data, model.size, ESP_FORMAT, "two opsets", "13 and 14");
}

/* Constant gives its value as a tensor, a number or a list; all end as constants. */
static void constants_in_every_attribute_form(void **state)
{
    const struct {
        const char *name;
        unsigned field, type;
        int rank;
    } forms[] = {
        {"value_int", 3, 2, 0}, {"value_ints", 8, 7, 1}, {"value_float", 2, 1, 0}, {"value_floats", 7, 6, 1}};

    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        wire_message graph = {0}, model = {0}, attribute = {0};
        const int64_t dims[] = {1};
        bool is_float = forms[i].field == 2 || forms[i].field == 7;

        wire_text(&attribute, ATTRIBUTE_NAME, forms[i].name);
        if (is_float)
            wire_float(&attribute, forms[i].field, 5);
        else
            wire_int(&attribute, forms[i].field, 5);
        wire_int(&attribute, ATTRIBUTE_TYPE, forms[i].type);
        wire_value(&graph, GRAPH_INPUT, "x", is_float ? 1 : 7, 1, dims, NULL);
        wire_node(&graph, "Constant", "c", "", "five", &attribute);
        wire_node(&graph, "Add", "sum", "x five", "y", NULL);
        wire_value(&graph, GRAPH_OUTPUT, "y", is_float ? 1 : 7, 1, dims, NULL);
        wire_model(&model, 7, 13, &graph);
        esp_graph *read = parse(&model);
        const esp_tensor *five = esp_graph_value(read, esp_graph_find_value(read, "five"))->constant;
        assert_non_null(five);
        assert_int_equal(esp_tensor_dtype(five), is_float ? ESP_F32 : ESP_I64);
        assert_int_equal(esp_tensor_shape(five)->rank, forms[i].rank);
        assert_true(esp_tensor_get_f64(five, 0) == 5);
        esp_graph_unref(read);
    }
}

/* float16 and double models become float32 models as a whole: inputs, outputs, casts. */
static void other_floats_become_float32(void **state)
{
    const int types[] = {10, 11, 16};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        wire_message graph = {0}, model = {0}, to = {0};

        wire_text(&to, ATTRIBUTE_NAME, "to");
        wire_int(&to, ATTRIBUTE_INT, types[i]);
        wire_int(&to, ATTRIBUTE_TYPE, 2);
        wire_value(&graph, GRAPH_INPUT, "x", types[i], 2, row_dims, "N");
        wire_node(&graph, "Cast", "cast", "x", "y", &to);
        wire_value(&graph, GRAPH_OUTPUT, "y", types[i], 2, row_dims, "N");
        wire_model(&model, 7, 13, &graph);
        esp_graph *read = parse(&model);
        assert_int_equal(esp_graph_value(read, esp_graph_input(read, 0))->dtype, ESP_F32);
        assert_int_equal(esp_graph_value(read, esp_graph_output(read, 0))->dtype, ESP_F32);
        if (esp_graph_node_count(read) > 0)
            assert_int_equal(esp_node_int(esp_graph_node(read, 0), "to", 0), 1);
        esp_graph_unref(read);
    }
}

/* ---- files that are no models ---- */

static void empty_truncated_and_foreign_files(void **state)
{
    wire_message graph = {0}, model = {0}, bare = {0};
    const char *text = "# a text file\nthat is no model\n";
    const uint8_t png[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13};

    (void)state;
    assert_bytes_refused("", 0, ESP_FORMAT, "empty", "expected an ONNX model");
    assert_bytes_refused(text, strlen(text), ESP_FORMAT, "not an ONNX model", "");
    assert_bytes_refused(png, sizeof png, ESP_FORMAT, "not an ONNX model", "");
    small_graph(&graph);
    wire_model(&model, 7, 13, &graph);
    assert_bytes_refused(model.data, model.size - 5, ESP_FORMAT, "truncated", "field 'graph' of ModelProto");
    wire_int(&bare, MODEL_IR, 7);
    assert_bytes_refused(bare.data, bare.size, ESP_FORMAT, "no graph", "expected an ONNX model");
    wire_int(&bare, 999, 1); /* unknown fields are ignored */
    assert_bytes_refused(bare.data, bare.size, ESP_FORMAT, "no graph", "expected an ONNX model");
}

static void files_that_cannot_be_read(void **state)
{
    char *directory = scratch_make();
    esp_error err = {0};
    esp_graph *graph;

    (void)state;
    assert_int_equal(esp_onnx_load(scratch_path(directory, "absent.onnx"), &graph, &err), ESP_IO);
    assert_non_null(strstr(err.message, "absent.onnx: No such file"));
    assert_int_equal(esp_onnx_load(directory, &graph, &err), ESP_IO);
    assert_non_null(strstr(err.message, directory));
    scratch_write(scratch_path(directory, "empty.onnx"), "", 0);
    assert_int_equal(esp_onnx_load(scratch_path(directory, "empty.onnx"), &graph, &err), ESP_FORMAT);
    assert_non_null(strstr(err.message, "empty.onnx: the file is empty"));
    assert_null(graph);
    scratch_remove(directory);
}

static void versions_outside_of_what_is_understood(void **state)
{
    wire_message graph = {0}, model = {0}, no_import = {0};

    (void)state;
    small_graph(&graph);
    wire_model(&model, 7, 0, &graph);
    assert_bytes_refused(model.data, model.size, ESP_UNSUPPORTED, "opset 0", "expected 7 to 21");
    model.size = 0;
    wire_model(&model, 7, 22, &graph);
    assert_bytes_refused(model.data, model.size, ESP_UNSUPPORTED, "opset 22", "expected 7 to 21");
    model.size = 0;
    wire_model(&model, 2, 9, &graph);
    assert_bytes_refused(model.data, model.size, ESP_FORMAT, "IR version 2", "expected 3");
    wire_int(&no_import, MODEL_IR, 7);
    wire_nest(&no_import, MODEL_GRAPH, &graph);
    assert_bytes_refused(no_import.data, no_import.size, ESP_FORMAT, "no opset", "expected one of 7 to 21");
}

/* Graph in attribute in node in graph ...: protobuf-c would follow it down until the stack is gone. */
static void nesting_is_bounded(void **state)
{
    wire_message inner = {0}, model = {0};

    (void)state;
    small_graph(&inner);
    for (int level = 0; level < 40; level++) {
        wire_message attribute = {0}, node = {0}, graph = {0};

        wire_nest(&attribute, 6, &inner);
        wire_nest(&node, NODE_ATTRIBUTE, &attribute);
        wire_nest(&graph, GRAPH_NODE, &node);
        inner = graph;
    }
    wire_model(&model, 7, 13, &inner);
    assert_bytes_refused(model.data, model.size, ESP_FORMAT, "nest deeper than 100", "");
}

/* ---- models that do not hold together ---- */

static void weights_that_disagree_with_their_dims(void **state)
{
    const int64_t negative[] = {3, -2}, huge[] = {INT64_C(1) << 40, INT64_C(1) << 40};
    wire_message graph = {0};

    (void)state;
    small_graph(&graph);
    size_t size = graph.size;
    wire_weights(&graph, "v", 4, weight_dims, 20);
    assert_refused(&graph, ESP_FORMAT, "initializer 'v': raw_data holds 20 bytes", "expected 24");
    graph.size = size;
    wire_weights(&graph, "v", 2, negative, 24);
    assert_refused(&graph, ESP_FORMAT, "initializer 'v': dim 1 is -2", "expected 0 or more");
    graph.size = size;
    wire_weights(&graph, "v", 2, huge, 24);
    assert_refused(&graph, ESP_FORMAT, "initializer 'v'", "more elements than can be counted");
    graph.size = size;
    wire_value(&graph, GRAPH_INPUT, "w", 1, 2, row_dims, "N");
    assert_refused(&graph, ESP_SHAPE, "initializer 'w' has shape 3x2x1x1", "declares");
}

static void names_that_lead_nowhere_or_to_two_places(void **state)
{
    wire_message graph = {0};

    (void)state;
    small_graph(&graph);
    size_t size = graph.size;
    wire_node(&graph, "Relu", "lost", "nothing", "z", NULL);
    assert_refused(&graph, ESP_FORMAT, "node 'lost'", "'nothing'");
    graph.size = size;
    wire_node(&graph, "Relu", "again", "x", "a", NULL);
    assert_refused(&graph, ESP_FORMAT, "'a' is made twice", "'again'");
    graph.size = size;
    wire_node(&graph, "Add", "one", "x q", "p", NULL);
    wire_node(&graph, "Relu", "two", "p", "q", NULL);
    assert_refused(&graph, ESP_FORMAT, "cycle", "node '");
    graph.size = size;
    wire_weights(&graph, "w", 4, weight_dims, 24);
    assert_refused(&graph, ESP_INVALID, "'w'", "name of another value");
    graph.size = size;
    wire_value(&graph, GRAPH_OUTPUT, "ghost", 1, 2, row_dims, "N");
    assert_refused(&graph, ESP_FORMAT, "output 'ghost'", "made by no node");
}

/* Names go to JSON and to terminals. Descriptions may be anything. */
static void names_that_are_not_utf8(void **state)
{
    const char *bad[] = {"a\xff", "\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc0\xaf"};
    wire_message graph = {0}, model = {0};

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char names[32];

        graph.size = 0;
        small_graph(&graph);
        snprintf(names, sizeof names, "x %s", bad[i]);
        wire_node(&graph, "Add", "sum", names, "z", NULL);
        assert_refused(&graph, ESP_FORMAT, "node 'sum' (Add): input '", "not UTF-8");
        graph.size = 0;
        small_graph(&graph);
        wire_weights(&graph, bad[i], 4, weight_dims, 24);
        assert_refused(&graph, ESP_FORMAT, "initializer '", "not UTF-8");
        graph.size = 0;
        small_graph(&graph);
        wire_node(&graph, "Relu", bad[i], "x", "z", NULL);
        assert_refused(&graph, ESP_FORMAT, "node '", "not UTF-8");
    }
    graph.size = 0;
    small_graph(&graph);
    wire_text(&graph, 10, "gr\xfc\xdf");
    wire_node(&graph, "Relu", "caf\xc3\xa9", "x", "\xf0\x9f\x8c\xb3", NULL);
    wire_model(&model, 7, 13, &graph);
    esp_graph *read = parse(&model);
    assert_string_equal(esp_graph_metadata(read, "onnx.graph.doc_string"), "gr??");
    esp_graph_unref(read);
}

/* protobuf would merge them at a cost that grows with the square of their number. */
static void messages_given_twice(void **state)
{
    wire_message graph = {0}, model = {0};

    (void)state;
    small_graph(&graph);
    wire_model(&model, 7, 13, &graph);
    wire_nest(&model, MODEL_GRAPH, &(wire_message){0});
    assert_bytes_refused(model.data, model.size, ESP_FORMAT, "field 'graph' of ModelProto", "twice");
}

/* A file of some bytes that asks for gigabytes gets none: what is too large to fold stays a node. */
static void hostile_constants_are_not_folded(void **state)
{
    static const int64_t huge[] = {1 << 15, 1 << 15}, half[] = {1 << 12, 1 << 12};
    const int64_t open[] = {0, 0};
    size_t before = esp_memory_live();

    (void)state;
    for (int is_chain = 0; is_chain < 2; is_chain++) {
        wire_message graph = {0}, model = {0}, target = {0};

        wire_int(&target, TENSOR_DIM, 2);
        wire_int(&target, TENSOR_TYPE, 7);
        wire_text(&target, TENSOR_NAME, "target");
        wire_bytes(&target, TENSOR_RAW, is_chain ? half : huge, sizeof huge);
        wire_nest(&graph, GRAPH_INITIALIZER, &target);
        wire_value(&graph, GRAPH_INPUT, "x", 1, 1, (const int64_t[]){1}, NULL);
        wire_node(&graph, "ConstantOfShape", "make", "target", "z0", NULL);
        for (int i = 0; i < 20 && is_chain; i++) { /* each twice as large as the one before */
            const int64_t axis[] = {0};
            wire_message attribute = {0};
            char in[32], out[16], name[16];

            snprintf(in, sizeof in, "z%d z%d", i, i);
            snprintf(out, sizeof out, "z%d", i + 1);
            snprintf(name, sizeof name, "cat%d", i);
            wire_text(&attribute, ATTRIBUTE_NAME, "axis");
            wire_int(&attribute, ATTRIBUTE_INT, axis[0]);
            wire_int(&attribute, ATTRIBUTE_TYPE, 2);
            wire_node(&graph, "Concat", name, in, out, &attribute);
        }
        wire_node(&graph, "Add", "sum", is_chain ? "x z20" : "x z0", "y", NULL);
        wire_value(&graph, GRAPH_OUTPUT, "y", 1, 2, open, NULL);
        wire_model(&model, 7, 13, &graph);
        esp_graph *read = NULL;
        esp_error error = {0};
        esp_status status = esp_onnx_parse(model.data, model.size, "m.onnx", &read, &error);
        assert_true(status == ESP_OK || strstr(error.message, "node '"));
        if (read)
            assert_true(esp_graph_find_node(read, "sum") >= 0);
        assert_true(esp_memory_live() - before < (size_t)704 << 20);
        esp_graph_unref(read);
    }
    assert_true(esp_memory_peak() < (size_t)1000 << 20);
}

static void inputs_of_other_types(void **state)
{
    wire_message graph = {0}, value = {0}, type = {0};

    (void)state;
    small_graph(&graph);
    size_t size = graph.size;
    wire_value(&graph, GRAPH_INPUT, "words", 8, 2, row_dims, "N");
    assert_refused(&graph, ESP_UNSUPPORTED, "input 'words': elements of string", "expected float");
    graph.size = size;
    wire_text(&value, 1, "bare");
    wire_nest(&graph, GRAPH_INPUT, &value);
    assert_refused(&graph, ESP_FORMAT, "input 'bare' has no type", "");
    graph.size = size;
    wire_nest(&type, 4, &(wire_message){0}); /* a sequence */
    wire_nest(&value, 2, &type);
    wire_nest(&graph, GRAPH_INPUT, &value);
    assert_refused(&graph, ESP_UNSUPPORTED, "input 'bare' is no tensor", "expected a dense tensor");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_model_arrives_whole),
        cmocka_unit_test(open_dims_become_batch_and_unknown),
        cmocka_unit_test(output_batch_is_known_by_its_name),
        cmocka_unit_test(constants_listed_as_inputs_are_no_inputs),
        cmocka_unit_test(node_names_may_be_empty_or_given_twice),
        cmocka_unit_test(an_empty_name_is_an_absent_input),
        cmocka_unit_test(metadata_and_producer_are_kept),
        cmocka_unit_test(what_nobody_reads_stops_nothing),
        cmocka_unit_test(the_default_domain_has_two_names),
        cmocka_unit_test(constants_in_every_attribute_form),
        cmocka_unit_test(other_floats_become_float32),
        cmocka_unit_test(empty_truncated_and_foreign_files),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(versions_outside_of_what_is_understood),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(weights_that_disagree_with_their_dims),
        cmocka_unit_test(names_that_lead_nowhere_or_to_two_places),
        cmocka_unit_test(names_that_are_not_utf8),
        cmocka_unit_test(messages_given_twice),
        cmocka_unit_test(hostile_constants_are_not_folded),
        cmocka_unit_test(inputs_of_other_types),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
