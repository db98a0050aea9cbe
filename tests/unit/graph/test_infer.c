/* Shape inference, folding, the batch dimension, and simplification. */
#include "unit/graph/net.h"

#include <string.h>

static int net_input_open(net *n, const char *name, esp_shape shape, const char *batch_name)
{
    esp_error err = {0};
    int value;
    must(esp_builder_input(n->builder, name, ESP_F32, &shape, batch_name, &value, &err), &err);
    return value;
}

static esp_inferred *infer_at(const esp_graph *graph, int64_t batch)
{
    esp_error err = {0};
    esp_inferred *inferred;
    must(esp_infer(graph, batch, NULL, 0, &inferred, &err), &err);
    return inferred;
}

/* x.view(x.size(0), -1) and a mean over what is left, as PyTorch 1.x exports it. Returns the reshaped value.
 */
static int add_dynamic_flatten(net *n, int x)
{
    int shape = net_add(n, "Shape", IN(x), NULL);
    int size = net_add(n, "Gather", IN(shape, net_int(n, 0)), AT(esp_attr_int("axis", 0)));
    int rows = net_add(n, "Unsqueeze", IN(size), AT(INTS("axes", 0)));
    int target = net_add(n, "Concat", IN(rows, net_ints(n, 1, -1)), AT(esp_attr_int("axis", 0)));
    return net_add(n, "Reshape", IN(x, target), NULL);
}

static void exporters_reshape_chains_fold_at_any_batch(void **state)
{
    (void)state;
    net n = net_new(11);
    int x = net_input_open(&n, "x", S4(ESP_DIM_BATCH, 3, 2, 2), "batch");
    int y = add_dynamic_flatten(&n, x);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    for (int batch = 1; batch <= 5; batch += 2) {
        esp_inferred *inferred = infer_at(graph, batch);
        assert_shape(esp_inferred_shape(inferred, y), S2(batch, 12));
        assert_null(esp_inferred_constant(inferred, y));
        int target = esp_graph_node(graph, esp_graph_value(graph, y)->producer)->inputs[1];
        assert_int_equal(esp_tensor_get_i64(esp_inferred_constant(inferred, target), 0), batch);
        esp_inferred_free(inferred);
    }
    esp_graph_unref(graph);
}

/* The widths of a Pad computed by ConstantOfShape, Concat, Reshape, Slice, Transpose and Cast, as PyTorch
 * writes it. */
static void exporters_pad_chains_fold(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 2, 3, 3));
    int zeros = net_add(&n, "ConstantOfShape", IN(net_ints(&n, 1, 4)), NULL);
    int whole = net_add(&n, "Cast", IN(zeros), AT(esp_attr_int("to", 7)));
    int joined = net_add(&n, "Concat", IN(net_ints(&n, 4, 0, 1, 2, 0), whole), AT(esp_attr_int("axis", 0)));
    int pairs = net_add(&n, "Reshape", IN(joined, net_ints(&n, 2, -1, 2)), NULL);
    int back = net_add(
        &n, "Slice",
        IN(pairs, net_ints(&n, 1, -1), net_ints(&n, 1, -999), net_ints(&n, 1, 0), net_ints(&n, 1, -1)), NULL);
    int columns = net_add(&n, "Transpose", IN(back), AT(INTS("perm", 1, 0)));
    int pads = net_add(&n, "Reshape", IN(columns, net_ints(&n, 1, -1)), NULL);
    int y = net_add(&n, "Pad", IN(x, pads), NULL);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred = infer_at(graph, 1);
    /* pairs (0,1) (2,0) (0,0) (0,0) reversed, by columns: begins 0 0 2 0, ends 0 0 0 1 */
    assert_shape(esp_inferred_shape(inferred, y), S4(1, 2, 5, 4));
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void errors_name_the_node_and_its_shapes(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_inferred *inferred;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 64, 56, 56));
    int inputs[2] = {x, net_constant(&n, S4(1, 32, 56, 56), NULL)}, y;
    must(esp_builder_add(n.builder, "Add", "layer1.0/Add", inputs, 2, NULL, 0, NULL, &y, &err), &err);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    assert_int_equal(esp_infer(graph, 1, NULL, 0, &inferred, &err), ESP_SHAPE);
    assert_null(inferred);
    assert_contains(err.message, "node 'layer1.0/Add' (Add)");
    assert_contains(err.message, "1x64x56x56");
    assert_contains(err.message, "1x32x56x56");
    esp_graph_unref(graph);
}

static void a_fixed_batch_of_one_grows_when_the_network_allows(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    int y = net_add(&n, "Flatten", IN(x), NULL);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred = infer_at(graph, 4);
    assert_shape(esp_inferred_shape(inferred, y), S2(4, 12));
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void a_network_fixed_to_its_batch_says_so(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_inferred *inferred;
    /* A target that names the batch: refused by its node. A target that swallows it: refused by the output.
     */
    for (int i = 0; i < 2; i++) {
        net n = net_new(13);
        int x = net_input(&n, "x", S4(1, 3, 2, 2));
        net_output(&n, net_add(&n, "Reshape", IN(x, net_ints(&n, 2, 1, i == 0 ? 12 : -1)), NULL));
        esp_graph *graph = net_finish(&n);
        assert_int_equal(esp_infer(graph, 2, NULL, 0, &inferred, &err), ESP_SHAPE);
        assert_contains(err.message, "fixed to a batch of 1");
        esp_inferred_free(infer_at(graph, 1));
        esp_graph_unref(graph);
    }
    net n = net_new(13);
    net_output(&n, net_add(&n, "Relu", IN(net_input(&n, "x", S4(8, 3, 2, 2))), NULL));
    esp_graph *graph = net_finish(&n);
    assert_int_equal(esp_infer(graph, 2, NULL, 0, &inferred, &err), ESP_SHAPE);
    assert_contains(err.message, "fixed to a batch of 8");
    assert_int_equal(esp_infer(graph, 0, NULL, 0, &inferred, &err), ESP_INVALID);
    esp_graph_unref(graph);
}

static void open_sizes_must_be_given(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_inferred *inferred;
    net n = net_new(13);
    int x = net_input_open(&n, "image", S4(ESP_DIM_BATCH, 3, ESP_DIM_UNKNOWN, ESP_DIM_UNKNOWN), NULL);
    int y = net_add(&n, "MaxPool", IN(x), AT(INTS("kernel_shape", 2, 2), INTS("strides", 2, 2)));
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    assert_int_equal(esp_infer(graph, 1, NULL, 0, &inferred, &err), ESP_SHAPE);
    assert_contains(err.message, "'image'");
    assert_contains(err.hint, "image:1x3");
    esp_input_shape given = {.name = "image", .shape = S4(1, 3, 8, 6)};
    must(esp_infer(graph, 5, &given, 1, &inferred, &err), &err);
    assert_shape(esp_inferred_shape(inferred, y), S4(5, 3, 4, 3));
    esp_inferred_free(inferred);
    given.name = "picture";
    assert_int_equal(esp_infer(graph, 1, &given, 1, &inferred, &err), ESP_INVALID);
    assert_contains(err.message, "'picture'");
    esp_graph_unref(graph);
}

static void shapes_print_with_the_name_of_the_batch(void **state)
{
    (void)state;
    char text[64];
    net n = net_new(13);
    int x = net_input_open(&n, "x", S4(ESP_DIM_BATCH, 3, 2, 2), "batch");
    int flat = net_add(&n, "Flatten", IN(x), NULL);
    int rows = net_add(&n, "Reshape", IN(x, net_ints(&n, 2, -1, 2)), NULL);
    net_output(&n, flat);
    net_output(&n, rows);
    esp_graph *graph = net_finish(&n);
    esp_inferred *one = infer_at(graph, 1), *two = infer_at(graph, 2);
    assert_string_equal(esp_shape_format_batch(one, two, x, text, sizeof text), "batchx3x2x2");
    assert_string_equal(esp_shape_format_batch(one, two, flat, text, sizeof text), "batchx12");
    assert_string_equal(esp_shape_format_batch(one, two, rows, text, sizeof text), "6batchx2");
    assert_string_equal(esp_shape_format_batch(one, NULL, flat, text, sizeof text), "1x12");
    char tiny[4];
    esp_shape_format_batch(one, two, x, tiny, sizeof tiny);
    assert_true(strlen(tiny) < sizeof tiny);
    esp_inferred_free(one);
    esp_inferred_free(two);
    esp_graph_unref(graph);
}

/* ---- simplification ---- */

static esp_graph *simplified(esp_graph *take_graph)
{
    esp_error err = {0};
    esp_graph *simple;
    must(esp_graph_simplify(take_graph, &simple, &err), &err);
    esp_graph_unref(take_graph);
    return simple;
}

static void constants_are_folded_and_dead_parts_dropped(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 3));
    int w = net_add(&n, "Transpose", IN(net_constant(&n, S2(4, 3), NULL)), NULL);
    net_constant(&n, S1(9), NULL);                                  /* nobody reads it */
    net_add(&n, "Relu", IN(net_add(&n, "Neg", IN(x), NULL)), NULL); /* leads nowhere */
    int y;
    int inputs[2] = {x, w};
    must(esp_builder_add(n.builder, "MatMul", "head", inputs, 2, NULL, 0, "scores", &y, &err), &err);
    net_output(&n, y);
    must(esp_builder_metadata(n.builder, "key", "value", &err), &err);
    const char *folded_name = "Transpose_output";
    esp_graph *graph = simplified(net_finish(&n));
    assert_int_equal(esp_graph_node_count(graph), 1);
    assert_string_equal(esp_graph_node(graph, 0)->name, "head");
    assert_int_equal(esp_graph_value_count(graph), 3);
    int folded = esp_graph_find_value(graph, folded_name);
    assert_true(folded >= 0);
    assert_non_null(esp_graph_value(graph, folded)->constant);
    assert_shape(esp_tensor_shape(esp_graph_value(graph, folded)->constant), S2(3, 4));
    assert_string_equal(esp_graph_value(graph, esp_graph_output(graph, 0))->name, "scores");
    assert_string_equal(esp_graph_metadata(graph, "key"), "value");
    esp_graph_unref(graph);
}

static void untouched_constants_stay_shared(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 3)), w = net_constant(&n, S2(3, 4), NULL);
    net_output(&n, net_add(&n, "MatMul", IN(x, w), NULL));
    esp_graph *graph = net_finish(&n);
    const esp_tensor *before = esp_graph_value(graph, w)->constant;
    esp_graph *simple = simplified(esp_graph_ref(graph));
    assert_ptr_equal(esp_graph_value(simple, esp_graph_find_value(simple, "c0"))->constant, before);
    esp_graph_unref(simple);
    esp_graph_unref(graph);
}

static void what_follows_the_batch_is_not_folded(void **state)
{
    (void)state;
    net n = net_new(11);
    int x = net_input_open(&n, "x", S4(ESP_DIM_BATCH, 3, 2, 2), "N");
    int y = add_dynamic_flatten(&n, x);
    net_output(&n, y);
    esp_graph *graph = simplified(net_finish(&n));
    esp_inferred *inferred = infer_at(graph, 7);
    assert_shape(esp_inferred_shape(inferred, esp_graph_output(graph, 0)), S2(7, 12));
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void what_depends_on_fixed_sizes_is_folded(void **state)
{
    (void)state;
    net n = net_new(11);
    int x = net_input_open(&n, "x", S4(ESP_DIM_BATCH, 3, 2, 2), "N");
    int channels = net_add(&n, "Gather", IN(net_add(&n, "Shape", IN(x), NULL), net_ints(&n, 1, 1)), NULL);
    int target = net_add(&n, "Concat", IN(net_ints(&n, 1, 0), channels, net_ints(&n, 1, -1)),
                         AT(esp_attr_int("axis", 0)));
    net_output(&n, net_add(&n, "Reshape", IN(x, target), NULL));
    esp_graph *graph = simplified(net_finish(&n));
    assert_int_equal(esp_graph_node_count(graph), 1);
    const esp_tensor *folded = esp_graph_value(graph, esp_graph_node(graph, 0)->inputs[1])->constant;
    assert_non_null(folded);
    assert_int_equal(esp_tensor_get_i64(folded, 1), 3);
    esp_graph_unref(graph);
}

static void simplification_works_with_open_sizes(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input_open(&n, "x", S4(ESP_DIM_BATCH, 3, ESP_DIM_UNKNOWN, ESP_DIM_UNKNOWN), "N");
    int two = net_add(
        &n, "Add",
        IN(net_constant(&n, S1(1), (const float[]){1}), net_constant(&n, S1(1), (const float[]){1})), NULL);
    int shape = net_add(&n, "Shape", IN(x), NULL);
    int same = net_add(&n, "Reshape", IN(net_add(&n, "Mul", IN(x, two), NULL), shape), NULL);
    net_output(&n, same);
    esp_graph *graph = simplified(net_finish(&n));
    assert_int_equal(esp_graph_node_count(graph), 3);
    assert_int_equal(esp_graph_find_node(graph, "Add"), -1);
    esp_graph_unref(graph);
}

static void an_output_that_is_constant_stays_an_output(void **state)
{
    (void)state;
    net n = net_new(13);
    net_input(&n, "x", S2(1, 3));
    net_output(&n, net_add(&n, "Neg", IN(net_constant(&n, S1(2), (const float[]){1, 2})), NULL));
    esp_graph *graph = simplified(net_finish(&n));
    assert_int_equal(esp_graph_node_count(graph), 0);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    run_forward(exec);
    assert_close(view_data(esp_exec_output(exec, 0)), (const float[]){-1, -2}, 2, 0);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void a_broken_network_is_reported(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 3));
    net_output(&n, net_add(&n, "MatMul", IN(x, net_constant(&n, S2(4, 2), NULL)), NULL));
    esp_graph *graph = net_finish(&n), *simple;
    assert_int_equal(esp_graph_simplify(graph, &simple, &err), ESP_SHAPE);
    assert_null(simple);
    assert_contains(err.message, "(MatMul)");
    esp_graph_unref(graph);
}

static void a_model_of_open_sizes_can_be_looked_at(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input_open(&n, "x", S4(ESP_DIM_BATCH, 3, ESP_DIM_UNKNOWN, ESP_DIM_UNKNOWN), "batch");
    int y = net_add(&n, "Relu", IN(x), NULL);
    int z = net_add(&n, "MaxPool", IN(y), AT(INTS("kernel_shape", 2, 2)));
    net_output(&n, z);
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred = NULL;
    esp_error err = {0};
    assert_int_equal(esp_infer(graph, 1, NULL, 0, &inferred, &err), ESP_SHAPE);
    must(esp_infer_declared(graph, 1, &inferred, &err), &err);
    assert_int_equal(esp_inferred_shape(inferred, x)->rank, -1);
    assert_int_equal(esp_inferred_shape(inferred, z)->rank, -1);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_of_open_sizes_can_be_looked_at),
        cmocka_unit_test(exporters_reshape_chains_fold_at_any_batch),
        cmocka_unit_test(exporters_pad_chains_fold),
        cmocka_unit_test(errors_name_the_node_and_its_shapes),
        cmocka_unit_test(a_fixed_batch_of_one_grows_when_the_network_allows),
        cmocka_unit_test(a_network_fixed_to_its_batch_says_so),
        cmocka_unit_test(open_sizes_must_be_given),
        cmocka_unit_test(shapes_print_with_the_name_of_the_batch),
        cmocka_unit_test(constants_are_folded_and_dead_parts_dropped),
        cmocka_unit_test(untouched_constants_stay_shared),
        cmocka_unit_test(what_follows_the_batch_is_not_folded),
        cmocka_unit_test(what_depends_on_fixed_sizes_is_folded),
        cmocka_unit_test(simplification_works_with_open_sizes),
        cmocka_unit_test(an_output_that_is_constant_stays_an_output),
        cmocka_unit_test(a_broken_network_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
