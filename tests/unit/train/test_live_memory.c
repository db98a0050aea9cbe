/* The least memory of an evaluation, against sums made by hand. */
#include "train/live_memory.h"
#include "unit/graph/net.h"

static size_t live_bytes(const esp_graph *graph, int64_t batch)
{
    esp_error err = {0};
    esp_inferred *inferred = NULL;
    size_t bytes = 0;
    must(esp_infer(graph, batch, NULL, 0, &inferred, &err), &err);
    must(esp_live_bytes(graph, inferred, &bytes, &err), &err);
    esp_inferred_free(inferred);
    return bytes;
}

static int conv(net *n, int x, int channels, int filters)
{
    return net_add(n, "Conv", IN(x, net_constant(n, S4(filters, channels, 3, 3), NULL)),
                   AT(INTS("pads", 1, 1, 1, 1)));
}

static void what_is_read_later_stays_and_the_rest_is_given_back(void **state)
{
    (void)state;
    /* 4x4 images of floats: 64 bytes a channel. x 2 -> a 4 -> relu over a -> b 8 -> c 1, and a again at the
     * Add */
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 2, 4, 4));
    int a = net_add(&n, "Relu", IN(conv(&n, x, 2, 4)), NULL);
    int b = conv(&n, a, 4, 8);
    int c = conv(&n, b, 8, 4);
    net_output(&n, net_add(&n, "Add", IN(c, a), NULL));
    esp_graph *graph = net_finish(&n);
    /* at c: a, b and c; the Relu and the Add work in place */
    assert_int_equal(live_bytes(graph, 1), 64 * (4 + 8 + 4));
    assert_int_equal(live_bytes(graph, 5), 5 * 64 * (4 + 8 + 4));
    esp_graph_unref(graph);
}

static void views_and_constants_take_nothing(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 2, 4, 4));
    int flat = net_add(&n, "Flatten", IN(x), NULL);
    int doubled =
        net_add(&n, "Mul", IN(net_constant(&n, S2(3, 32), NULL), net_constant(&n, S1(1), NULL)), NULL);
    net_output(&n, net_add(&n, "Gemm", IN(flat, doubled), AT(esp_attr_int("transB", 1))));
    esp_graph *graph = net_finish(&n);
    assert_int_equal(live_bytes(graph, 1), 4 * (32 + 3));
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_read_later_stays_and_the_rest_is_given_back),
        cmocka_unit_test(views_and_constants_take_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
