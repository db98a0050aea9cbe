/* The sizes people give for what a file leaves open. */
#include <string.h>

#include "graph/infer.h"
#include "unit/graph/net.h"

static esp_graph *two_inputs(net *n)
{
    *n = net_new(13);
    int a = net_input(n, "image", S4(1, 3, 8, 8)), b = net_input(n, "mask:0", S4(1, 3, 8, 8));
    net_output(n, net_add(n, "Add", IN(a, b), NULL));
    return net_finish(n);
}

static esp_status parse(const esp_graph *graph, const char *item, esp_input_shape *shape, int *count,
                        esp_error *err)
{
    esp_input_shape shapes[ESP_INPUT_SHAPES_MAX];
    esp_status status = esp_input_shapes_parse(&item, 1, graph, shapes, count, err);
    *shape = shapes[0];
    return status;
}

static void a_shape_is_for_the_named_input_or_the_first(void **state)
{
    (void)state;
    net n;
    esp_graph *graph = two_inputs(&n);
    esp_error err = {0};
    esp_input_shape shape;
    int count;
    must(parse(graph, "1x3x48x192", &shape, &count, &err), &err);
    assert_int_equal(count, 1);
    assert_string_equal(shape.name, "image");
    assert_int_equal(shape.shape.rank, 4);
    assert_int_equal(shape.shape.dims[3], 192);
    must(parse(graph, "mask:0:2x5", &shape, &count, &err), &err);
    assert_string_equal(shape.name, "mask:0");
    assert_int_equal(shape.shape.rank, 2);
    esp_graph_unref(graph);
}

static void what_is_no_shape_or_no_input_is_refused_with_a_hint(void **state)
{
    (void)state;
    net n;
    esp_graph *graph = two_inputs(&n);
    esp_input_shape shape;
    int count;
    static const char *const wrong[] = {"image:",      "image:1x", "image:0x3",
                                        "image:1x3xa", "image:-1", "imag:1x3"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        esp_error err = {0};
        assert_int_equal(parse(graph, wrong[i], &shape, &count, &err), ESP_INVALID);
        assert_int_equal(count, 0);
    }
    esp_error err = {0};
    parse(graph, "imag:1x3", &shape, &count, &err);
    assert_non_null(strstr(err.hint, "image"));
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shape_is_for_the_named_input_or_the_first),
        cmocka_unit_test(what_is_no_shape_or_no_input_is_refused_with_a_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
