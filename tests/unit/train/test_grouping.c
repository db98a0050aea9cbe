/* Grouped layers: which parts of a network are one, and what is counted and added up for it. */
#include "train/grouping.h"

#include <stdio.h>

#include "base/memory.h"
#include "train/dense_form.h"
#include "unit/graph/net.h"

static int gather(net *n, int x, int channel_a, int channel_b)
{
    return net_add(n, "Gather", IN(x, net_ints(n, 2, channel_a, channel_b)), AT(esp_attr_int("axis", 1)));
}

static int conv(net *n, int x, int channels, int filters)
{
    return net_add(n, "Conv", IN(x, net_constant(n, S4(filters, channels, 3, 3), NULL)),
                   AT(INTS("pads", 1, 1, 1, 1), INTS("strides", 2, 2)));
}

/* x [N,4,8,8]; two groups of 3 and 5 filters that read 2 channels each, put back in order. */
static esp_graph *grouped_conv(void)
{
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 4, 8, 8));
    int first = conv(&n, gather(&n, x, 0, 2), 2, 3);
    int second = conv(&n, gather(&n, x, 2, 3), 2, 5);
    int all = net_add(&n, "Concat", IN(first, second), AT(esp_attr_int("axis", 1)));
    int order = net_ints(&n, 8, 0, 7, 1, 6, 2, 5, 3, 4);
    net_output(&n, net_add(&n, "Gather", IN(all, order), AT(esp_attr_int("axis", 1))));
    return net_finish(&n);
}

/* Node i took 2^i ms, so that a sum tells its parts. */
static esp_grouping_gains measure(const esp_graph *graph, int64_t batch)
{
    esp_error err = {0};
    esp_inferred *inferred = NULL;
    esp_grouping_gains found = {0};
    double node_ms[16];
    for (int i = 0; i < 16; i++)
        node_ms[i] = (double)(1 << i);
    must(esp_infer(graph, batch, NULL, 0, &inferred, &err), &err);
    must(esp_grouping_gains_measure(NULL, graph, inferred, node_ms, &found, &err), &err);
    esp_inferred_free(inferred);
    return found;
}

static void groups_of_one_layer_are_found_and_counted(void **state)
{
    (void)state;
    esp_graph *graph = grouped_conv();
    size_t before = esp_memory_live();
    esp_grouping_gains found = measure(graph, 3);
    assert_int_equal(found.count, 1);
    assert_int_equal(found.items[0].groups, 2);
    assert_int_equal(found.items[0].macs, 3 * 8 * 2 * 9 * 16);
    assert_int_equal(found.items[0].dense_macs, 3 * 8 * 4 * 9 * 16);
    /* six nodes: two Gathers, two convolutions, the Concat, the Gather behind it */
    assert_true(found.items[0].ms == 63.0);
    assert_true(found.items[0].dense_ms > 0.0);
    esp_grouping_gains_free(&found);
    assert_int_equal(esp_memory_live(), before);
    esp_graph_unref(graph);
}

static void fully_connected_layers_count_too(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(ESP_DIM_BATCH, 6));
    const esp_attr transposed = esp_attr_int("transB", 1);
    int first =
        net_add(&n, "Gemm", IN(gather(&n, x, 1, 4), net_constant(&n, S2(3, 2), NULL)), AT(transposed));
    int second = net_add(&n, "Gemm", IN(x, net_constant(&n, S2(2, 6), NULL)), AT(transposed));
    net_output(&n, net_add(&n, "Concat", IN(first, second), AT(esp_attr_int("axis", 1))));
    esp_graph *graph = net_finish(&n);
    esp_grouping_gains found = measure(graph, 1);
    assert_int_equal(found.count, 1);
    assert_int_equal(found.items[0].macs, 3 * 2 + 2 * 6);
    assert_int_equal(found.items[0].dense_macs, 5 * 6);
    esp_grouping_gains_free(&found);
    esp_graph_unref(graph);
}

static void branches_of_an_ordinary_network_are_no_groups(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 4, 8, 8));
    int both = net_add(&n, "Concat", IN(conv(&n, x, 4, 3), conv(&n, x, 4, 5)), AT(esp_attr_int("axis", 1)));
    int pooled =
        net_add(&n, "Concat", IN(both, net_add(&n, "Relu", IN(both), NULL)), AT(esp_attr_int("axis", 1)));
    net_output(&n, pooled);
    esp_graph *graph = net_finish(&n);
    esp_grouping_gains found = measure(graph, 1);
    assert_int_equal(found.count, 0);
    esp_grouping_gains_free(&found);
    esp_graph_unref(graph);
}

/* Shapes of every method: blocked, fully connected, and one that only the plain path takes. */
static void any_layer_has_a_dense_form(void **state)
{
    (void)state;
    esp_error err = {0};
    const esp_conv_geometry shapes[] = {
        {.batch = 1,
         .channels = 32,
         .height = 9,
         .width = 7,
         .filters = 24,
         .group = 1,
         .kernel_h = 3,
         .kernel_w = 3,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .pad_top = 1,
         .pad_left = 1,
         .pad_bottom = 1,
         .pad_right = 1,
         .out_height = 9,
         .out_width = 7},
        {.batch = 2,
         .channels = 5,
         .height = 1,
         .width = 1,
         .filters = 3,
         .group = 1,
         .kernel_h = 1,
         .kernel_w = 1,
         .stride_h = 1,
         .stride_w = 1,
         .dilation_h = 1,
         .dilation_w = 1,
         .out_height = 1,
         .out_width = 1},
        {.batch = 1,
         .channels = 2,
         .height = 12,
         .width = 12,
         .filters = 1,
         .group = 1,
         .kernel_h = 5,
         .kernel_w = 1,
         .stride_h = 3,
         .stride_w = 2,
         .dilation_h = 2,
         .dilation_w = 1,
         .out_height = 2,
         .out_width = 6},
    };
    size_t before = esp_memory_live();
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        double seconds = 0.0;
        must(esp_dense_form_seconds(NULL, &shapes[i], &seconds, &err), &err);
        assert_true(seconds > 0.0);
        assert_int_equal(esp_memory_live(), before);
    }
}

static void running_out_of_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    esp_graph *graph = grouped_conv();
    esp_error err = {0};
    esp_inferred *inferred = NULL;
    const double node_ms[16] = {0};
    must(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    size_t before = esp_memory_live();
    esp_status status = ESP_NO_MEMORY;
    for (int k = 1; status == ESP_NO_MEMORY; k++) {
        esp_grouping_gains found = {.count = -1};
        esp_memory_fuse(k);
        status = esp_grouping_gains_measure(NULL, graph, inferred, node_ms, &found, &err);
        esp_memory_fuse(0);
        assert_true(status == ESP_OK || found.count == -1);
        if (status == ESP_OK)
            esp_grouping_gains_free(&found);
        assert_int_equal(esp_memory_live(), before);
    }
    assert_int_equal(status, ESP_OK);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_of_one_layer_are_found_and_counted),
        cmocka_unit_test(fully_connected_layers_count_too),
        cmocka_unit_test(branches_of_an_ordinary_network_are_no_groups),
        cmocka_unit_test(any_layer_has_a_dense_form),
        cmocka_unit_test(running_out_of_memory_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
