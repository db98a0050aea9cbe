/* Parts of graphs: run one after the other they compute what the whole does. */
#include "unit/graph/net.h"

#include <string.h>

#include "graph/extract.h"

/* x - Conv "a" - Relu "b" - Conv "c" - Add "d" (with b) - Relu "e" - MatMul of the flattened "f". */
typedef struct sample {
    esp_graph *graph;
    int x, a, b, c, d, e, f;
} sample;

static sample make_sample(void)
{
    esp_error err = {0};
    net n = net_new(13);
    const esp_attr pads[] = {INTS("pads", 1, 1, 1, 1), {0}};
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 2, 4, 4));
    int a = net_add(&n, "Conv", IN(x, net_constant(&n, S4(3, 2, 3, 3), NULL)), pads);
    int b = net_add(&n, "Relu", IN(a), NULL);
    int c = net_add(&n, "Conv", IN(b, net_constant(&n, S4(3, 3, 3, 3), NULL)), pads);
    int d = net_add(&n, "Add", IN(b, c), NULL);
    int e = net_add(&n, "Relu", IN(d), NULL);
    int flat = net_add(&n, "Flatten", IN(e), NULL);
    int f = net_add(&n, "MatMul", IN(flat, net_constant(&n, S2(48, 5), NULL)), NULL);
    net_output(&n, f);
    must(esp_builder_metadata(n.builder, "key", "text", &err), &err);
    /* value indices stay what they were in the builder */
    return (sample){net_finish(&n), x, a, b, c, d, e, f};
}

static esp_graph *extract(const esp_graph *graph, esp_extract part)
{
    esp_error err = {0};
    esp_graph *out = NULL;
    must(esp_graph_extract(graph, &part, &out, &err), &err);
    return out;
}

static void check_refused(const esp_graph *graph, esp_extract part, const char *piece)
{
    esp_error err = {0};
    esp_graph *out = NULL;
    assert_int_equal(esp_graph_extract(graph, &part, &out, &err), ESP_INVALID);
    assert_null(out);
    assert_contains(err.message, piece);
}

static esp_exec *at_batch(const esp_graph *graph, int64_t batch)
{
    return exec_new(graph, (esp_exec_options){.batch = batch});
}

static void copy_input(esp_exec *to, int input, const esp_view *from)
{
    const esp_view *view = esp_exec_input(to, input);
    assert_true(esp_shape_equal(&view->shape, &from->shape));
    memcpy(view->data, from->data, (size_t)view_count(from) * sizeof(float));
}

static void parts_in_a_row_compute_what_the_whole_does(void **state)
{
    (void)state;
    sample s = make_sample();
    /* the cut lies behind Relu "b", which both c and d read, and behind "c" */
    esp_graph *front = extract(s.graph, (esp_extract){.outputs = (int[]){s.c, s.b}, .output_count = 2});
    esp_graph *back = extract(
        s.graph,
        (esp_extract){.given = (int[]){s.c, s.b}, .given_count = 2, .outputs = &s.f, .output_count = 1});
    for (int64_t batch = 1; batch <= 3; batch += 2) {
        esp_exec *whole = at_batch(s.graph, batch), *first = at_batch(front, batch),
                 *second = at_batch(back, batch);
        esp_rng rng;
        esp_rng_seed(&rng, (uint64_t)batch);
        const esp_view *x = esp_exec_input(whole, 0);
        fill_random(&rng, view_data(x), view_count(x), -1, 1);
        copy_input(first, 0, x);
        run_forward(first);
        copy_input(second, 0, esp_exec_output(first, 0));
        copy_input(second, 1, esp_exec_output(first, 1));
        run_forward(second);
        run_forward(whole);
        assert_close(view_data(esp_exec_output(second, 0)), view_data(esp_exec_output(whole, 0)), 5 * batch,
                     1e-6);
        esp_exec_free(whole);
        esp_exec_free(first);
        esp_exec_free(second);
    }
    esp_graph_unref(front);
    esp_graph_unref(back);
    esp_graph_unref(s.graph);
}

static void a_part_has_the_nodes_on_the_way_only_under_their_names(void **state)
{
    (void)state;
    sample s = make_sample();
    esp_graph *part =
        extract(s.graph, (esp_extract){.given = &s.b, .given_count = 1, .outputs = &s.d, .output_count = 1});
    assert_int_equal(esp_graph_node_count(part), 2);
    for (int i = 0; i < 2; i++) {
        const char *name = esp_graph_node(part, i)->name;
        int old = esp_graph_find_node(s.graph, name);
        assert_true(old >= 0);
        assert_ptr_equal(esp_graph_node(s.graph, old)->op, esp_graph_node(part, i)->op);
    }
    assert_string_equal(esp_graph_value(part, esp_graph_input(part, 0))->name,
                        esp_graph_value(s.graph, s.b)->name);
    assert_string_equal(esp_graph_value(part, esp_graph_output(part, 0))->name,
                        esp_graph_value(s.graph, s.d)->name);
    assert_string_equal(esp_graph_metadata(part, "key"), "text");
    assert_int_equal(esp_graph_opset(part), 13);
    esp_graph_unref(part);
    esp_graph_unref(s.graph);
}

static void constants_are_shared_and_those_nobody_reads_are_left_out(void **state)
{
    (void)state;
    sample s = make_sample();
    esp_graph *part = extract(s.graph, (esp_extract){.outputs = &s.a, .output_count = 1});
    int constants = 0;
    for (int v = 0; v < esp_graph_value_count(part); v++) {
        const esp_value *value = esp_graph_value(part, v);
        if (value->constant == NULL)
            continue;
        int old = esp_graph_find_value(s.graph, value->name);
        assert_ptr_equal(value->constant, esp_graph_value(s.graph, old)->constant);
        constants++;
    }
    assert_int_equal(constants, 1);
    esp_graph_unref(part);
    esp_graph_unref(s.graph);
}

static void what_is_given_keeps_its_batch_open(void **state)
{
    (void)state;
    sample s = make_sample();
    esp_graph *part =
        extract(s.graph, (esp_extract){.given = &s.e, .given_count = 1, .outputs = &s.f, .output_count = 1});
    assert_shape(&esp_graph_value(part, esp_graph_input(part, 0))->shape, S4(ESP_DIM_BATCH, 3, 4, 4));
    esp_graph_unref(part);
    esp_graph_unref(s.graph);
}

static void an_output_that_needs_what_is_not_given_is_refused_by_name(void **state)
{
    (void)state;
    sample s = make_sample();
    esp_extract part = {.given = &s.c, .given_count = 1, .outputs = &s.d, .output_count = 1};
    check_refused(s.graph, part, esp_graph_value(s.graph, s.d)->name);
    check_refused(s.graph, part, "needs the network input 'x'");
    esp_graph_unref(s.graph);
}

static void lists_with_errors_are_refused(void **state)
{
    (void)state;
    sample s = make_sample();
    int far = 1000, twice[] = {s.b, s.b};
    check_refused(s.graph, (esp_extract){.outputs = &far, .output_count = 1}, "value 1000");
    check_refused(s.graph, (esp_extract){.outputs = twice, .output_count = 2}, "twice");
    check_refused(s.graph,
                  (esp_extract){.given = twice, .given_count = 2, .outputs = &s.d, .output_count = 1},
                  "twice");
    check_refused(s.graph, (esp_extract){0}, "no output");
    esp_graph_unref(s.graph);
}

static void outputs_that_are_given_or_constant_are_what_they_were(void **state)
{
    (void)state;
    sample s = make_sample();
    int weight = esp_graph_node(s.graph, esp_graph_value(s.graph, s.c)->producer)->inputs[1];
    esp_graph *part = extract(s.graph, (esp_extract){.given = &s.b,
                                                     .given_count = 1,
                                                     .outputs = (int[]){s.b, s.d, weight},
                                                     .output_count = 3});
    esp_exec *exec = at_batch(part, 2);
    const esp_view *b = esp_exec_input(exec, 0);
    float kept[2 * 3 * 16];
    for (int i = 0; i < 2 * 3 * 16; i++)
        view_data(b)[i] = kept[i] = (float)i;
    run_forward(exec);
    assert_close(view_data(esp_exec_output(exec, 0)), kept, 2 * 3 * 16, 0);
    assert_close(view_data(esp_exec_output(exec, 2)),
                 esp_tensor_f32(esp_graph_value(s.graph, weight)->constant), 81, 0);
    esp_exec_free(exec);
    esp_graph_unref(part);
    esp_graph_unref(s.graph);
}

/* Of the halves of a Split one is given, the other is made. */
static void a_node_makes_only_what_is_not_given(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(ESP_DIM_BATCH, 4)), halves[2], y;
    esp_error err = {0};
    must(esp_builder_value(n.builder, "low", &halves[0], &err), &err);
    must(esp_builder_value(n.builder, "high", &halves[1], &err), &err);
    must(
        esp_builder_node(n.builder, "Split", "split", &x, 1, halves, 2, AT(esp_attr_int("axis", 1)), 1, &err),
        &err);
    y = net_add(&n, "Sub", IN(halves[0], halves[1]), NULL);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    esp_graph *part = extract(
        graph,
        (esp_extract){.given = (int[]){x, halves[1]}, .given_count = 2, .outputs = &y, .output_count = 1});
    esp_exec *exec = at_batch(part, 1);
    const float whole[] = {5, 6, 7, 8}, high[] = {1, 2}, expected[] = {4, 4};
    memcpy(view_data(esp_exec_input(exec, 0)), whole, sizeof whole);
    memcpy(view_data(esp_exec_input(exec, 1)), high, sizeof high);
    run_forward(exec);
    assert_close(view_data(esp_exec_output(exec, 0)), expected, 2, 0);
    esp_exec_free(exec);
    esp_graph_unref(part);
    esp_graph_unref(graph);
}

/* Reshape to [batch, -1] whose batch comes from Shape - Gather - Concat of the input. */
static void arithmetic_on_shapes_does_not_cross_the_border_when_it_is_known(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 2, 2, 2));
    int shape = net_add(&n, "Shape", IN(x), NULL);
    int batch = net_add(&n, "Gather", IN(shape, net_ints(&n, 1, 0)), NULL);
    int target = net_add(&n, "Concat", IN(batch, net_ints(&n, 1, -1)), AT(esp_attr_int("axis", 0)));
    int relu = net_add(&n, "Relu", IN(x), NULL);
    int y = net_add(&n, "Reshape", IN(relu, target), NULL);
    net_output(&n, y);
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred = NULL;
    must(esp_infer(graph, 3, NULL, 0, &inferred, &err), &err);
    esp_extract part = {.given = &relu, .given_count = 1, .outputs = &y, .output_count = 1};
    check_refused(graph, part, "needs the network input 'x'");
    part.known = inferred;
    esp_graph *back = extract(graph, part);
    assert_int_equal(esp_graph_node_count(back), 1);
    esp_exec *exec = at_batch(back, 3);
    assert_shape(&esp_exec_output(exec, 0)->shape, S2(3, 8));
    esp_exec_free(exec);
    esp_graph_unref(back);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_in_a_row_compute_what_the_whole_does),
        cmocka_unit_test(a_part_has_the_nodes_on_the_way_only_under_their_names),
        cmocka_unit_test(constants_are_shared_and_those_nobody_reads_are_left_out),
        cmocka_unit_test(what_is_given_keeps_its_batch_open),
        cmocka_unit_test(an_output_that_needs_what_is_not_given_is_refused_by_name),
        cmocka_unit_test(lists_with_errors_are_refused),
        cmocka_unit_test(outputs_that_are_given_or_constant_are_what_they_were),
        cmocka_unit_test(a_node_makes_only_what_is_not_given),
        cmocka_unit_test(arithmetic_on_shapes_does_not_cross_the_border_when_it_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
