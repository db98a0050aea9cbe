/* Graphs are built in any order, checked, sorted, and shared between versions. */
#include "unit/graph/net.h"

#include <string.h>

static int value_named(esp_builder *builder, const char *name)
{
    esp_error err = {0};
    int value;
    must(esp_builder_value(builder, name, &value, &err), &err);
    return value;
}

static esp_status add_named(esp_builder *builder, const char *op, const char *name, int input,
                            const char *output, esp_error *err)
{
    int out = value_named(builder, output);
    return esp_builder_node(builder, op, name, &input, 1, &out, 1, NULL, 0, err);
}

static void nodes_given_in_any_order_come_out_sorted(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4));
    int b = value_named(n.builder, "b");
    must(add_named(n.builder, "Relu", "second", b, "c", &err), &err);
    must(add_named(n.builder, "Neg", "first", x, "b", &err), &err);
    net_output(&n, value_named(n.builder, "c"));
    esp_graph *graph = net_finish(&n);
    assert_int_equal(esp_graph_node_count(graph), 2);
    assert_string_equal(esp_graph_node(graph, 0)->name, "first");
    assert_string_equal(esp_graph_node(graph, 1)->name, "second");
    assert_int_equal(esp_graph_value(graph, esp_graph_find_value(graph, "c"))->producer, 1);
    assert_int_equal(esp_graph_find_node(graph, "second"), 1);
    assert_int_equal(esp_graph_find_value(graph, "nothing"), -1);
    esp_graph_unref(graph);
}

static void a_sorted_list_keeps_its_order(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4));
    int a = net_add(&n, "Relu", IN(x), NULL), b = net_add(&n, "Neg", IN(x), NULL);
    net_add(&n, "Tanh", IN(x), NULL);
    net_output(&n, net_add(&n, "Add", IN(b, a), NULL)); /* reads b first: order must not follow that */
    esp_graph *graph = net_finish(&n);
    const char *const expected[] = {"Relu", "Neg", "Tanh", "Add"};
    for (int i = 0; i < 4; i++)
        assert_string_equal(esp_graph_node(graph, i)->op->name, expected[i]);
    esp_graph_unref(graph);
}

static void a_cycle_is_an_error_that_names_a_node(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    net_input(&n, "x", S2(1, 4));
    int a = value_named(n.builder, "a"), b = value_named(n.builder, "b");
    must(add_named(n.builder, "Relu", "one", a, "b", &err), &err);
    must(add_named(n.builder, "Neg", "two", b, "a", &err), &err);
    net_output(&n, b);
    esp_graph *graph;
    assert_int_equal(esp_builder_finish(n.builder, &graph, &err), ESP_FORMAT);
    assert_null(graph);
    assert_contains(err.message, "cycle");
    assert_true(strstr(err.message, "'one'") != NULL || strstr(err.message, "'two'") != NULL);
}

static void a_value_nobody_makes_is_an_error(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    must(add_named(n.builder, "Relu", "lonely", value_named(n.builder, "ghost"), "b", &err), &err);
    net_output(&n, value_named(n.builder, "b"));
    esp_graph *graph;
    assert_int_equal(esp_builder_finish(n.builder, &graph, &err), ESP_FORMAT);
    assert_contains(err.message, "'lonely'");
    assert_contains(err.message, "'ghost'");
}

static void a_value_made_twice_is_an_error(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4));
    must(add_named(n.builder, "Relu", "one", x, "y", &err), &err);
    assert_int_equal(add_named(n.builder, "Neg", "two", x, "y", &err), ESP_FORMAT);
    assert_contains(err.message, "'y'");
    assert_contains(err.message, "'one'");
    assert_int_equal(add_named(n.builder, "Neg", "three", x, "x", &err), ESP_FORMAT);
    assert_contains(err.message, "graph input");
    esp_builder_free(n.builder);
}

static void taken_and_empty_names_are_errors(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_shape shape = S1(4);
    int value;
    net n = net_new(13);
    net_input(&n, "x", shape);
    assert_int_equal(esp_builder_input(n.builder, "x", ESP_F32, &shape, NULL, &value, &err), ESP_INVALID);
    assert_int_equal(esp_builder_input(n.builder, "", ESP_F32, &shape, NULL, &value, &err), ESP_INVALID);
    assert_int_equal(esp_builder_value(n.builder, NULL, &value, &err), ESP_INVALID);
    assert_int_equal(value, -1);
    esp_builder_free(n.builder);
}

static void nodes_of_one_name_are_told_apart(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4));
    must(add_named(n.builder, "Relu", "same", x, "a", &err), &err);
    must(add_named(n.builder, "Neg", "same", x, "b", &err), &err);
    must(add_named(n.builder, "Neg", "", x, "c", &err), &err);
    net_output(&n, value_named(n.builder, "a"));
    esp_graph *graph = net_finish(&n);
    assert_string_equal(esp_graph_node(graph, 0)->name, "same");
    assert_string_equal(esp_graph_node(graph, 1)->name, "same_2");
    assert_string_equal(esp_graph_node(graph, 2)->name, "Neg_c");
    esp_graph_unref(graph);
}

static void unknown_operators_suggest_a_near_one(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4));
    assert_int_equal(add_named(n.builder, "Rellu", "r", x, "y", &err), ESP_UNSUPPORTED);
    assert_contains(err.message, "'r'");
    assert_contains(err.message, "'Rellu'");
    assert_contains(err.hint, "Relu");
    esp_builder_free(n.builder);
}

static void opsets_outside_7_to_21_are_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_builder *builder;
    assert_int_equal(esp_builder_new("g", 6, 8, &builder, &err), ESP_UNSUPPORTED);
    assert_int_equal(esp_builder_new("g", 22, 8, &builder, &err), ESP_UNSUPPORTED);
    must(esp_builder_new("g", 7, 8, &builder, &err), &err);
    esp_builder_free(builder);
    must(esp_builder_new("g", 21, 8, &builder, &err), &err);
    esp_builder_free(builder);
    esp_builder_free(NULL);
}

static void wrong_arity_is_an_error(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4)), y = value_named(n.builder, "y");
    assert_int_equal(esp_builder_node(n.builder, "Add", "a", &x, 1, &y, 1, NULL, 0, &err), ESP_FORMAT);
    assert_contains(err.message, "1 inputs");
    int missing[2] = {-1, x};
    assert_int_equal(esp_builder_node(n.builder, "Add", "a", missing, 2, &y, 1, NULL, 0, &err), ESP_FORMAT);
    assert_contains(err.message, "input 0");
    int two[2] = {y, value_named(n.builder, "z")};
    assert_int_equal(esp_builder_node(n.builder, "Relu", "a", &x, 1, two, 2, NULL, 0, &err), ESP_FORMAT);
    esp_builder_free(n.builder);
}

static void attributes_are_checked_against_the_table(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4)), y = value_named(n.builder, "y");
    esp_attr wrong_name = esp_attr_int("axes", 1), wrong_type = esp_attr_float("axis", 1.0f);
    assert_int_equal(esp_builder_node(n.builder, "Flatten", "f", &x, 1, &y, 1, &wrong_name, 1, &err),
                     ESP_UNSUPPORTED);
    assert_contains(err.message, "'axes'");
    assert_int_equal(esp_builder_node(n.builder, "Flatten", "f", &x, 1, &y, 1, &wrong_type, 1, &err),
                     ESP_FORMAT);
    assert_contains(err.message, "a float");
    esp_attr twice[2] = {esp_attr_int("axis", 1), esp_attr_int("axis", 0)};
    assert_int_equal(esp_builder_node(n.builder, "Flatten", "f", &x, 1, &y, 1, twice, 2, &err), ESP_FORMAT);
    esp_builder_free(n.builder);
}

static void attributes_are_copied_and_defaults_come_from_the_table(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 2, 4, 4));
    int64_t strides[2] = {2, 3}, read[4] = {0};
    char pad[8] = "VALID";
    int y = net_add(&n, "Conv", IN(x, net_constant(&n, S4(2, 2, 1, 1), NULL)),
                    AT(esp_attr_ints("strides", strides, 2), esp_attr_string("auto_pad", pad)));
    strides[0] = 9;
    pad[0] = 'X';
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    const esp_node *node = esp_graph_node(graph, 0);
    assert_int_equal(esp_node_ints(node, "strides", read, 4), 2);
    assert_int_equal(read[0], 2);
    assert_int_equal(read[1], 3);
    assert_string_equal(esp_node_string(node, "auto_pad", ""), "VALID");
    assert_int_equal(esp_node_int(node, "group", 7), 1);
    assert_int_equal(esp_node_ints(node, "pads", read, 4), 0);
    assert_null(esp_node_attr(node, "pads"));
    assert_int_equal(node->attr_count, 2);
    esp_graph_unref(graph);
}

static void made_up_names_avoid_all_taken_ones(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "w", S2(1, 4));
    assert_string_equal(esp_builder_unique_name(n.builder, "v"), "v");
    assert_string_equal(esp_builder_unique_name(n.builder, "w"), "w_2");
    net_input(&n, "w_2", S1(1));
    assert_string_equal(esp_builder_unique_name(n.builder, "w"), "w_3");
    net_output(&n, net_add(&n, "Relu", IN(x), NULL));
    esp_graph *graph = net_finish(&n);
    assert_string_equal(esp_graph_node(graph, 0)->name, "Relu");
    assert_string_equal(esp_graph_value(graph, esp_graph_output(graph, 0))->name, "Relu_output");
    esp_graph_unref(graph);
}

static void consumers_list_each_reader_once_in_order(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4));
    int a = net_add(&n, "Relu", IN(x), NULL);
    int b = net_add(&n, "Add", IN(a, a), NULL);
    int c = net_add(&n, "Mul", IN(b, a), NULL);
    net_output(&n, c);
    esp_graph *graph = net_finish(&n);
    assert_int_equal(esp_graph_consumer_count(graph, x), 1);
    assert_int_equal(esp_graph_consumer_count(graph, a), 2);
    assert_int_equal(esp_graph_consumer(graph, a, 0), 1);
    assert_int_equal(esp_graph_consumer(graph, a, 1), 2);
    assert_int_equal(esp_graph_consumer_count(graph, c), 0);
    assert_true(esp_graph_is_output(graph, c));
    assert_false(esp_graph_is_output(graph, b));
    esp_graph_unref(graph);
}

static void graphs_without_output_are_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    net_add(&n, "Relu", IN(net_input(&n, "x", S1(2))), NULL);
    esp_graph *graph;
    assert_int_equal(esp_builder_finish(n.builder, &graph, &err), ESP_FORMAT);
    assert_contains(err.message, "no output");
}

static void an_output_given_twice_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int y = net_add(&n, "Relu", IN(net_input(&n, "x", S1(2))), NULL);
    net_output(&n, y);
    assert_int_equal(esp_builder_output(n.builder, y, ESP_F32, NULL, &err), ESP_FORMAT);
    assert_int_equal(esp_builder_output(n.builder, 99, ESP_F32, NULL, &err), ESP_INVALID);
    esp_builder_free(n.builder);
}

static void metadata_is_kept_changed_and_removed(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    net_output(&n, net_add(&n, "Relu", IN(net_input(&n, "x", S1(2))), NULL));
    must(esp_builder_metadata(n.builder, "mean", "0.5", &err), &err);
    must(esp_builder_metadata(n.builder, "std", "0.2", &err), &err);
    esp_graph *graph = net_finish(&n), *changed, *removed;
    must(esp_graph_with_metadata(graph, "mean", "0.4", &changed, &err), &err);
    must(esp_graph_with_metadata(changed, "std", NULL, &removed, &err), &err);
    assert_string_equal(esp_graph_metadata(graph, "mean"), "0.5");
    assert_string_equal(esp_graph_metadata(changed, "mean"), "0.4");
    assert_int_equal(esp_graph_metadata_count(removed), 1);
    assert_string_equal(esp_graph_metadata_key(removed, 0), "mean");
    assert_string_equal(esp_graph_metadata_value(removed, 0), "0.4");
    assert_null(esp_graph_metadata(removed, "std"));
    esp_graph *nothing;
    assert_int_equal(esp_graph_with_metadata(graph, "", "x", &nothing, &err), ESP_INVALID);
    assert_null(nothing);
    esp_graph_unref(graph);
    esp_graph_unref(changed);
    esp_graph_unref(removed);
}

static void versions_share_what_did_not_change(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S1(2));
    int a = net_constant(&n, S1(2), NULL), b = net_constant(&n, S1(2), NULL);
    net_output(&n, net_add(&n, "Sum", IN(x, a, b), NULL));
    esp_graph *graph = net_finish(&n), *version;
    esp_tensor *fresh = tensor_f32(S1(2), (const float[]){1, 2});
    must(esp_graph_with_constants(graph, 1, &a, &fresh, &version, &err), &err);
    assert_ptr_equal(esp_graph_value(version, b)->constant, esp_graph_value(graph, b)->constant);
    assert_ptr_equal(esp_graph_value(version, a)->constant, fresh);
    assert_ptr_not_equal(esp_graph_value(graph, a)->constant, fresh);
    assert_ptr_equal(esp_graph_node(version, 0), esp_graph_node(graph, 0));
    esp_tensor_unref(fresh);
    esp_graph_unref(graph); /* the version must live on its own */
    assert_float_equal(esp_tensor_f32(esp_graph_value(version, a)->constant)[1], 2.0f, 0.0f);
    assert_string_equal(esp_graph_value(version, x)->name, "x");
    esp_graph_unref(version);
}

static void constants_of_another_shape_are_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S1(2)), a = net_constant(&n, S1(2), NULL);
    net_output(&n, net_add(&n, "Add", IN(x, a), NULL));
    esp_graph *graph = net_finish(&n), *version;
    esp_tensor *wide = tensor_f32(S1(3), NULL);
    assert_int_equal(esp_graph_with_constants(graph, 1, &a, &wide, &version, &err), ESP_SHAPE);
    assert_null(version);
    assert_int_equal(esp_graph_with_constants(graph, 1, &x, &wide, &version, &err), ESP_INVALID);
    esp_tensor_unref(wide);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_given_in_any_order_come_out_sorted),
        cmocka_unit_test(a_sorted_list_keeps_its_order),
        cmocka_unit_test(a_cycle_is_an_error_that_names_a_node),
        cmocka_unit_test(a_value_nobody_makes_is_an_error),
        cmocka_unit_test(a_value_made_twice_is_an_error),
        cmocka_unit_test(taken_and_empty_names_are_errors),
        cmocka_unit_test(nodes_of_one_name_are_told_apart),
        cmocka_unit_test(unknown_operators_suggest_a_near_one),
        cmocka_unit_test(opsets_outside_7_to_21_are_refused),
        cmocka_unit_test(wrong_arity_is_an_error),
        cmocka_unit_test(attributes_are_checked_against_the_table),
        cmocka_unit_test(attributes_are_copied_and_defaults_come_from_the_table),
        cmocka_unit_test(made_up_names_avoid_all_taken_ones),
        cmocka_unit_test(consumers_list_each_reader_once_in_order),
        cmocka_unit_test(graphs_without_output_are_refused),
        cmocka_unit_test(an_output_given_twice_is_refused),
        cmocka_unit_test(metadata_is_kept_changed_and_removed),
        cmocka_unit_test(versions_share_what_did_not_change),
        cmocka_unit_test(constants_of_another_shape_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
