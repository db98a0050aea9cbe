/* Cutting channels in front of what resizes, pads, repeats and pools: the channels go through, the numbers of
 * the nodes follow, and the cut model computes what the masked one does. */
#include <string.h>

#include "unit/prune/surgery_checks.h"

/* Conv1 (eight filters, no bias, so that nothing is left behind the Relu) - Relu2 - the node - Conv4 (1x1).
 */
typedef struct movement_case {
    const char *op;
    int opset;
    int (*inputs)(net *n, int x, int *inputs);
    const esp_attr *attrs;
    int attr_count;
    int64_t channels, size; /* of what the node makes of 8 channels of 6x6 */
} movement_case;

static int floats(net *n, const float *values, int count)
{
    esp_error err = {0};
    esp_tensor *tensor;
    int value;
    esp_shape shape = {.rank = 1, .dims = {count}};
    expect_ok(esp_tensor_from(ESP_F32, &shape, values, &tensor, &err), &err);
    expect_ok(esp_builder_constant(n->builder, "floats", tensor, &value, &err), &err);
    esp_tensor_unref(tensor);
    return value;
}

static int only_x(net *n, int x, int *inputs)
{
    (void)n;
    inputs[0] = x;
    return 1;
}

static int with_scales(net *n, int x, int *inputs)
{
    const float scales[] = {1.0F, 1.0F, 2.0F, 2.0F};
    inputs[0] = x;
    inputs[1] = -1;
    inputs[2] = floats(n, scales, 4);
    return 3;
}

static int with_spatial_sizes(net *n, int x, int *inputs)
{
    inputs[0] = x;
    inputs[1] = inputs[2] = -1;
    inputs[3] = net_ints(n, "sizes", (const int64_t[]){12, 12}, 2);
    return 4;
}

static int with_old_scales(net *n, int x, int *inputs)
{
    const float scales[] = {1.0F, 1.0F, 2.0F, 2.0F};
    inputs[0] = x;
    inputs[1] = floats(n, scales, 4);
    return 2;
}

static int with_pads(net *n, int x, int *inputs)
{
    inputs[0] = x;
    inputs[1] = net_ints(n, "pads", (const int64_t[]){0, 0, 3, 3, 0, 0, 3, 3}, 8);
    return 2;
}

static int with_repeats(net *n, int x, int *inputs)
{
    inputs[0] = x;
    inputs[1] = net_ints(n, "repeats", (const int64_t[]){1, 2, 2, 2}, 4);
    return 2;
}

static int with_filters(net *n, int x, int *inputs)
{
    inputs[0] = x;
    inputs[1] = net_random(n, "up", 4, (const int64_t[]){8, 6, 2, 2}, 0.3, 0);
    return 2;
}

static esp_preview *mask_two_channels(const movement_case *what, esp_graph **graph)
{
    net_tensor x;
    int inputs[4];
    net n = net_start_opset(what->opset, 3, 6, 6, 31, &x);
    net_tensor a = net_unary(&n, "Relu", net_conv(&n, x, 8, (net_conv_options){.kernel = 3, .pad = 1}));
    int count = what->inputs(&n, a.value, inputs);
    net_tensor moved = {.channels = what->channels, .height = what->size, .width = what->size};
    moved = net_node(&n, what->op, inputs, count, what->attrs, what->attr_count, moved);
    net_output(&n, net_conv1(&n, moved, 2));
    *graph = net_finish(&n);
    esp_preview *preview = check_open(*graph, ESP_METHOD_WSP);
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 0);
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 3);
    return preview;
}

static void expect_cut(const movement_case *what)
{
    esp_graph *graph;
    esp_surgery_report report;
    esp_preview *preview = mask_two_channels(what, &graph);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    if (report.slots_removed != 2)
        fail_msg("%s: %lld slots were removed", what->op, (long long)report.slots_removed);
    assert_int_equal(check_dim(cut, "weight", 0), 6);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void expect_kept(const movement_case *what)
{
    esp_error err = {0};
    esp_graph *graph, *cut;
    esp_surgery_report report;
    esp_preview *preview = mask_two_channels(what, &graph);
    esp_surgery_options options = esp_surgery_defaults();
    expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
    assert_int_equal(report.slots_removed, 0);
    assert_int_equal(check_dim(cut, "weight", 0), 8);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void channels_go_through_what_keeps_them_apart(void **state)
{
    (void)state;
    const esp_attr linear[] = {esp_attr_string("mode", "linear")},
                   cubic[] = {esp_attr_string("mode", "cubic")};
    const esp_attr reflect[] = {esp_attr_string("mode", "reflect")},
                   edge[] = {esp_attr_string("mode", "edge")};
    const esp_attr axes[] = {esp_attr_ints("axes", (const int64_t[]){2, 3}, 2)};
    const esp_attr block[] = {esp_attr_int("blocksize", 2)};
    const esp_attr window[] = {esp_attr_ints("kernel_shape", (const int64_t[]){2, 2}, 2),
                               esp_attr_ints("strides", (const int64_t[]){2, 2}, 2)};
    const esp_attr strides[] = {esp_attr_ints("strides", (const int64_t[]){2, 2}, 2)};
    const movement_case cases[] = {
        {"ConvTranspose", 13, with_filters, strides, 1, 6, 12},
        {"Resize", 13, with_scales, NULL, 0, 8, 12},
        {"Resize", 13, with_scales, linear, 1, 8, 12},
        {"Resize", 13, with_scales, cubic, 1, 8, 12},
        {"Resize", 18, with_spatial_sizes, axes, 1, 8, 12},
        {"Upsample", 9, with_old_scales, NULL, 0, 8, 12},
        {"Pad", 13, with_pads, reflect, 1, 8, 12},
        {"Pad", 13, with_pads, edge, 1, 8, 12},
        {"Tile", 13, with_repeats, NULL, 0, 16, 12},
        {"SpaceToDepth", 13, only_x, block, 1, 32, 3},
        {"LpPool", 13, only_x, window, 2, 8, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_cut(&cases[i]);
}

/* Two of eight channels of DepthToSpace belong to the only two it makes: neither can go. */
static void channels_stay_when_only_some_of_a_merged_one_are_masked(void **state)
{
    (void)state;
    const esp_attr block[] = {esp_attr_int("blocksize", 2)};
    const movement_case space = {"DepthToSpace", 13, only_x, block, 1, 2, 12};
    expect_kept(&space);
}

/* x -> Conv (six filters) -> Split in two equal halves -> Conv each -> Add; one filter of the first half
 * goes. */
static const esp_node *split_after_cut(int64_t opset, esp_graph **out)
{
    net_tensor x;
    esp_error err = {0};
    net n = net_start_opset(opset, 3, 4, 4, 5, &x);
    net_tensor a = net_conv3(&n, x, 6);
    int halves[2];
    const esp_attr attrs[2] = {esp_attr_int("axis", 1), esp_attr_int("num_outputs", 2)};
    expect_ok(esp_builder_value(n.builder, "first", &halves[0], &err), &err);
    expect_ok(esp_builder_value(n.builder, "second", &halves[1], &err), &err);
    expect_ok(esp_builder_node(n.builder, "Split", "split", &a.value, 1, halves, 2, attrs, opset < 18 ? 1 : 2,
                               &err),
              &err);
    net_tensor b = net_conv1(&n, (net_tensor){halves[0], 3, 4, 4}, 2); /* Conv2 */
    net_output(&n, net_binary(&n, "Add", b, net_conv1(&n, (net_tensor){halves[1], 3, 4, 4}, 2)));
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 1);
    esp_mask_clear_channel(check_mask(preview, "Conv2"), 1);
    *out = check_cut(preview, ESP_GROUP_FORM_GROUPED, NULL);
    esp_preview_free(preview);
    esp_graph_unref(graph);
    return esp_graph_node(*out, esp_graph_find_node(*out, "split"));
}

/* Halves that are no longer equal need their sizes said, in the way of each operator set; num_outputs does
 * not go with sizes. */
static void unequal_parts_say_their_sizes(void **state)
{
    (void)state;
    static const int64_t opsets[] = {11, 13, 18};
    for (int i = 0; i < 3; i++) {
        esp_graph *cut;
        int64_t sizes[2] = {0};
        const esp_node *node = split_after_cut(opsets[i], &cut);
        if (opsets[i] < 13) {
            assert_int_equal(node->input_count, 1);
            assert_int_equal(esp_node_ints(node, "split", sizes, 2), 2);
        } else {
            assert_int_equal(node->input_count, 2);
            const esp_tensor *given = esp_graph_value(cut, node->inputs[1])->constant;
            assert_int_equal(esp_tensor_dtype(given), ESP_I64);
            memcpy(sizes, esp_tensor_data(given), sizeof sizes);
            assert_null(esp_node_attr(node, "num_outputs"));
        }
        assert_int_equal(sizes[0], 2);
        assert_int_equal(sizes[1], 3);
        esp_graph_unref(cut);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(channels_go_through_what_keeps_them_apart),
        cmocka_unit_test(unequal_parts_say_their_sizes),
        cmocka_unit_test(channels_stay_when_only_some_of_a_merged_one_are_masked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
