/* Channels through functions, arithmetic, reductions and normalisations: where each channel is computed alone
 * it can be cut, its parameters follow, and the cut network still gives what the masked one gave; where
 * channels are mixed none may go. */
#include <string.h>

#include "unit/prune/surgery_checks.h"

enum { CHANNELS = 6, SIZE = 4, REMOVED = 2 };

/* What stands between the layers. */
typedef net_tensor between_fn(net *n, net_tensor x);

static net_tensor parameters_per_channel(net *n, const char *op, net_tensor x, const esp_attr *attrs,
                                         int count, int64_t parameters)
{
    const int inputs[3] = {x.value, net_random(n, "gain", 1, &parameters, 0.1, 1),
                           net_random(n, "offset", 1, &parameters, 0.3, 0.1)};
    return net_node(n, op, inputs, 3, attrs, count, x);
}

static net_tensor instance_norm(net *n, net_tensor x)
{
    return parameters_per_channel(n, "InstanceNormalization", x, NULL, 0, x.channels);
}

static net_tensor group_norm(net *n, net_tensor x)
{
    const esp_attr groups = esp_attr_int("num_groups", 3);
    return parameters_per_channel(n, "GroupNormalization", x, &groups, 1, x.channels);
}

static net_tensor layer_norm(net *n, net_tensor x)
{
    const esp_attr axis = esp_attr_int("axis", 1);
    const int64_t dims[3] = {x.channels, x.height, x.width};
    const int inputs[2] = {x.value, net_random(n, "gain", 3, dims, 0.1, 1)};
    return net_node(n, "LayerNormalization", inputs, 2, &axis, 1, x);
}

static net_tensor window_norm(net *n, net_tensor x)
{
    const esp_attr size = esp_attr_int("size", 3);
    return net_node(n, "LRN", &x.value, 1, &size, 1, x);
}

static net_tensor p_relu(net *n, net_tensor x)
{
    const int64_t dims[3] = {x.channels, 1, 1};
    const int inputs[2] = {x.value, net_random(n, "slope", 3, dims, 0.1, 0.2)};
    return net_node(n, "PRelu", inputs, 2, NULL, 0, x);
}

/* One slope per column: as many as channels, and yet none of theirs. */
static net_tensor p_relu_of_columns(net *n, net_tensor x)
{
    const int inputs[2] = {x.value, net_random(n, "slope", 1, &x.width, 0.1, 0.2)};
    return net_node(n, "PRelu", inputs, 2, NULL, 0, x);
}

static net_tensor functions(net *n, net_tensor x)
{
    const char *const ops[] = {"LeakyRelu", "Elu", "HardSwish", "Mish", "Gelu", "Softplus", "Erf", "Abs"};
    for (int i = 0; i < 8; i++)
        x = net_unary(n, ops[i], x);
    return x;
}

static net_tensor arithmetic(net *n, net_tensor x)
{
    const int64_t dims[3] = {x.channels, 1, 1};
    int line = net_random(n, "line", 3, dims, 0.1, 0.5);
    const char *const ops[] = {"Min", "Max", "Mean", "Sum"};
    for (int i = 0; i < 4; i++) {
        const int inputs[3] = {x.value, line, x.value};
        x = net_node(n, ops[i], inputs, 3, NULL, 0, x);
    }
    const int inputs[2] = {net_unary(n, "Abs", x).value, line};
    return net_node(n, "Pow", inputs, 2, NULL, 0, x);
}

static net_tensor selection(net *n, net_tensor x)
{
    const int64_t dims[3] = {x.channels, 1, 1};
    int line = net_random(n, "line", 3, dims, 0.1, 0.0);
    const int compared[2] = {x.value, line};
    net_tensor mask = net_node(n, "GreaterOrEqual", compared, 2, NULL, 0, x);
    const int inputs[3] = {net_unary(n, "Not", mask).value, x.value, line};
    return net_node(n, "Where", inputs, 3, NULL, 0, x);
}

static net_tensor reduced(net *n, const char *op, net_tensor x, const int64_t *axes, int count,
                          int64_t channels)
{
    const int inputs[2] = {x.value, net_ints(n, "axes", axes, count)};
    net_tensor y = {-1, channels, x.height, count == 2 ? 1 : x.width};
    y.height = count == 2 ? 1 : x.height;
    return net_node(n, op, inputs, 2, NULL, 0, y);
}

/* Over space a channel stays one; the results scale the image. */
static net_tensor over_space(net *n, net_tensor x)
{
    const int64_t axes[2] = {2, 3};
    const char *const ops[] = {"ReduceMax", "ReduceSum", "ReduceL2", "ReduceLogSumExp", "ReduceMean"};
    for (int i = 0; i < 5; i++)
        x = net_binary(n, "Add", x, reduced(n, ops[i], x, axes, 2, x.channels));
    return x;
}

static net_tensor over_channels(net *n, net_tensor x)
{
    const int64_t axes[1] = {1};
    return net_binary(n, "Mul", x, reduced(n, "ReduceMean", x, axes, 1, 1));
}

static net_tensor unit_length(net *n, net_tensor x)
{
    const esp_attr axis = esp_attr_int("axis", 1);
    return net_node(n, "LpNormalization", &x.value, 1, &axis, 1, x);
}

/* Two filters of the first layer and all that reads them are masked: how many channels surgery removes. */
static int64_t removed_around(between_fn *between, int64_t width)
{
    net_tensor x;
    net n = net_start_opset(21, 2, SIZE, width, 11, &x);
    net_output(&n, net_conv1(&n, between(&n, net_conv3(&n, x, CHANNELS)), 3));
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    char reader[32];
    snprintf(reader, sizeof reader, "Conv%d", n.counter);
    for (int i = 0; i < REMOVED; i++) {
        esp_mask_clear_filter(check_mask(preview, "Conv1"), 3 * i + 1);
        esp_mask_clear_channel(check_mask(preview, reader), 3 * i + 1);
    }
    esp_surgery_report report;
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    for (int v = 0; v < esp_graph_value_count(cut); v++) {
        const esp_value *value = esp_graph_value(cut, v);
        bool is_line = value->constant != NULL &&
                       (strncmp(value->name, "gain", 4) == 0 || strncmp(value->name, "line", 4) == 0);
        if (is_line && report.slots_removed > 0)
            assert_int_equal(value->shape.dims[0], CHANNELS - REMOVED);
    }
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
    return report.slots_removed;
}

static void channels_computed_alone_can_be_cut(void **state)
{
    (void)state;
    between_fn *const all[] = {instance_norm, p_relu, functions, arithmetic, selection, over_space};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_int_equal(removed_around(all[i], SIZE), REMOVED);
    assert_int_equal(removed_around(p_relu_of_columns, CHANNELS), REMOVED);
}

static void channels_that_are_mixed_stay(void **state)
{
    (void)state;
    between_fn *const all[] = {group_norm, layer_norm, window_norm, over_channels, unit_length};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_int_equal(removed_around(all[i], SIZE), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(channels_computed_alone_can_be_cut),
        cmocka_unit_test(channels_that_are_mixed_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
