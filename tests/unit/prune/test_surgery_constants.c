/* What a cut filter leaves behind: its bias behind batch-norm and activation, and where that goes. */
#include <math.h>
#include <string.h>

#include "unit/prune/surgery_checks.h"

static void add_output(net *n, net_tensor x)
{
    net_output(n, x);
}

/* Writer 1 (3x3) -> batch-norm -> Sigmoid (never 0) -> reader 4 with the given kernel and padding -> 1x1. The
 * first `count` filters of the writer are masked; the reader still reads them. */
static esp_preview *mask_writer(net_conv_options reader, int count, int64_t filters, esp_graph **graph)
{
    net_tensor x;
    net n = net_start(3, 6, 6, 21, &x);
    net_tensor a = net_unary(&n, "Sigmoid", net_norm(&n, net_conv3(&n, x, filters))); /* Conv1 */
    add_output(&n, net_conv1(&n, net_conv(&n, a, 4, reader), 2));                     /* Conv4, Conv5 */
    *graph = net_finish(&n);
    esp_preview *preview = check_open(*graph, ESP_METHOD_WSP);
    for (int f = 0; f < count; f++)
        esp_mask_clear_filter(check_mask(preview, "Conv1"), f);
    return preview;
}

static void a_constant_read_without_padding_goes_into_the_bias(void **state)
{
    (void)state;
    const net_conv_options readers[] = {{.kernel = 1, .has_bias = true},
                                        {.kernel = 1},
                                        {.kernel = 3, .has_bias = true},
                                        {.kernel = 3, .stride = 2}};
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        esp_graph *graph;
        esp_surgery_report report;
        esp_preview *preview = mask_writer(readers[i], 2, 6, &graph);
        esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
        assert_int_equal(report.slots_removed, 2);
        assert_int_equal(report.constants_to_bias, 2);
        assert_int_equal(report.constants_explicit, 0);
        assert_int_equal(check_count_nodes(cut, "Add"), 0);
        assert_int_equal(esp_graph_node(cut, 3)->input_count, 3); /* a bias, new or old */
        assert_int_equal(check_dim(cut, "weight", 0), 4);
        assert_int_equal(check_dim(cut, "weight_2", 1), 4);
        assert_int_equal(check_dim(cut, "scale", 0), 4);
        assert_int_equal(check_dim(cut, "variance", 0), 4);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* Near the border the constant meets fewer weights: one number per filter would be wrong there. */
static void a_constant_read_with_padding_becomes_a_map(void **state)
{
    (void)state;
    esp_graph *graph;
    esp_surgery_report report;
    esp_preview *preview = mask_writer((net_conv_options){.kernel = 3, .pad = 1}, 8, 12, &graph);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 8);
    assert_int_equal(report.constants_explicit, 8);
    assert_int_equal(report.constants_to_bias, 0);
    assert_int_equal(check_count_nodes(cut, "Add"), 1);
    assert_int_equal(check_dim(cut, "weight_2", 1), 4);
    assert_int_equal(check_dim(cut, "Conv4/constant", 3), 6);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* One filter does not pay for a map of the whole output: it stays, as zeros that the metadata names. */
static void a_map_larger_than_what_is_saved_is_not_written(void **state)
{
    (void)state;
    esp_graph *graph;
    esp_surgery_report report;
    esp_preview *preview = mask_writer((net_conv_options){.kernel = 3, .pad = 1}, 1, 12, &graph);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 0);
    assert_int_equal(report.layers_with_masks, 1);
    assert_int_equal(check_dim(cut, "weight", 0), 12);
    assert_string_equal(esp_graph_metadata(cut, ESP_MASKS_KEY), "[\"weight\"]");
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void a_constant_of_zero_leaves_nothing(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 6, 6, 22, &x);
    net_tensor a = net_conv(&n, x, 6, (net_conv_options){.kernel = 3, .pad = 1}); /* no bias: 0 behind Relu */
    add_output(&n, net_conv3(&n, net_unary(&n, "Relu", a), 2));
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_surgery_report report;
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 4);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 1);
    assert_int_equal(report.constants_to_bias + report.constants_explicit, 0);
    assert_int_equal(esp_graph_node_count(cut), esp_graph_node_count(graph));
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Every way of writing a fully connected layer takes the constant: bias divided by beta, or an addition for
 * MatMul. */
static void a_constant_goes_into_every_form_of_fully_connected_layer(void **state)
{
    (void)state;
    for (int form = NET_GEMM_TRANSPOSED; form <= NET_MATMUL; form++) {
        net_tensor x;
        net n = net_start(3, 4, 4, 23, &x);
        net_tensor a = net_unary(&n, "Sigmoid", net_norm(&n, net_conv3(&n, x, 5)));
        add_output(&n, net_fc(&n, net_flatten(&n, a), 3, (net_fc_form)form));
        esp_graph *graph = net_finish(&n);
        esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
        esp_surgery_report report;
        esp_mask_clear_filter(check_mask(preview, "Conv1"), 1);
        esp_mask_clear_filter(check_mask(preview, "Conv1"), 3);
        esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
        assert_int_equal(report.slots_removed, 2);
        assert_int_equal(report.constants_to_bias, form == NET_MATMUL ? 0 : 2);
        assert_int_equal(report.constants_explicit, form == NET_MATMUL ? 2 : 0);
        assert_int_equal(check_dim(cut, "weight_2", form == NET_GEMM_TRANSPOSED ? 1 : 0), 3 * 16);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* A gate that differs from place to place makes something of a constant that depends on the input: even one
 * that happens to be shut for any input a check would try. */
static void what_a_gate_makes_of_a_constant_is_not_constant(void **state)
{
    (void)state;
    for (int is_shut = 0; is_shut < 2; is_shut++) {
        const int64_t scalar[3] = {1, 1, 1};
        net_tensor x;
        net n = net_start(3, 5, 5, 24, &x);
        net_tensor a = net_conv3(&n, x, 5);    /* Conv1 */
        net_tensor gate = net_conv1(&n, x, 1); /* Conv2 */
        if (is_shut) {
            const int inputs[2] = {gate.value, net_random(&n, "far", 3, scalar, 0, -1000)};
            gate = net_node(&n, "Add", inputs, 2, NULL, 0, gate);
        }
        gate = net_unary(&n, "Relu", gate);
        add_output(&n, net_conv1(&n, net_binary(&n, "Mul", a, gate), 2));
        esp_graph *graph = net_finish(&n);
        esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
        esp_surgery_report report;
        esp_mask_clear_filter(check_mask(preview, "Conv1"), 2);
        esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
        assert_int_equal(report.slots_removed, 0);
        assert_int_equal(report.layers_with_masks, 1);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void a_constant_passes_a_depthwise_layer(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 29, &x);
    net_tensor a = net_unary(&n, "Sigmoid", net_conv3(&n, x, 4));                          /* Conv1 */
    a = net_conv(&n, a, 8, (net_conv_options){.kernel = 3, .group = 4, .has_bias = true}); /* Conv3 */
    add_output(&n, net_conv1(&n, net_unary(&n, "Tanh", a), 2));                            /* Conv5 */
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_surgery_report report;
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 1);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 1);
    assert_int_equal(report.constants_to_bias, 1);
    assert_int_equal(check_dim(cut, "weight_2", 0), 6);
    assert_int_equal(check_dim(cut, "weight_3", 1), 6);
    assert_int_equal(esp_node_int(esp_graph_node(cut, esp_graph_find_node(cut, "Conv3")), "group", 1), 3);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* A filter that reads nothing but constants is a constant, and goes too. */
static void constants_cascade(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 25, &x);
    net_tensor a = net_unary(&n, "Sigmoid", net_conv3(&n, x, 4)); /* Conv1 */
    net_tensor b = net_unary(&n, "Tanh", net_conv1(&n, a, 3));    /* Conv3 */
    add_output(&n, net_conv1(&n, b, 2));                          /* Conv5 */
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_surgery_report report;
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 0);
    for (int c = 1; c < 4; c++) /* filter 2 reads channel 0 only */
        esp_mask_clear(check_mask(preview, "Conv3"), 2, c);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 2);
    assert_int_equal(check_dim(cut, "weight_2", 0), 2);
    assert_int_equal(check_dim(cut, "weight_3", 1), 2);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void a_layer_keeps_at_least_one_filter(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 26, &x);
    add_output(&n, net_conv1(&n, net_unary(&n, "Relu", net_conv3(&n, x, 4)), 2));
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    for (int f = 0; f < 4; f++) {
        esp_mask_clear_filter(check_mask(preview, "Conv1"), f);
        esp_mask_clear_channel(check_mask(preview, "Conv3"), f);
    }
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, NULL);
    assert_int_equal(check_dim(cut, "weight", 0), 1);
    assert_int_equal(check_dim(cut, "weight_2", 1), 1);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Channel 0 lives on in the shortcut: the masks stay as zeros, listed for the trainer. */
static void a_channel_that_lives_on_in_a_shortcut_stays_as_zeros(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 27, &x);
    net_tensor a = net_conv3(&n, x, 4);                             /* Conv1 */
    net_tensor sum = net_binary(&n, "Add", a, net_conv3(&n, a, 4)); /* Conv2 */
    add_output(&n, net_conv1(&n, sum, 2));                          /* Conv4 */
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_surgery_report report;
    esp_mask_clear_filter(check_mask(preview, "Conv2"), 0);
    esp_mask_clear_channel(check_mask(preview, "Conv4"), 0);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 0);
    assert_int_equal(report.layers_with_masks, 2);
    assert_string_equal(esp_graph_metadata(cut, ESP_MASKS_KEY), "[\"weight_2\",\"weight_3\"]");
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void the_padding_of_a_shortcut_goes_with_the_channels_added_to_it(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 6, 6, 28, &x);
    net_tensor a = net_conv3(&n, x, 3);                                       /* Conv1 */
    net_tensor shortcut = net_pad(&n, net_slice(&n, a, 0, 3, true), 1, 2, 0); /* Slice2, Pad3 */
    net_tensor b = net_conv(&n, a, 6, (net_conv_options){.kernel = 3, .stride = 2, .pad = 1}); /* Conv4 */
    add_output(&n, net_conv1(&n, net_binary(&n, "Add", b, shortcut), 2));                      /* Conv6 */
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    const int gone[3] = {0, 2, 5}; /* padding before, Conv1's channel 1, padding after */
    for (int i = 0; i < 3; i++) {
        esp_mask_clear_filter(check_mask(preview, "Conv4"), gone[i]);
        esp_mask_clear_channel(check_mask(preview, "Conv6"), gone[i]);
    }
    esp_mask_clear_filter(check_mask(preview, "Conv1"), 1);
    esp_mask_clear_channel(check_mask(preview, "Conv4"), 1);
    esp_surgery_report report;
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 3);
    const int64_t expected[8] = {0, 0, 0, 0, 0, 1, 0, 0};
    const esp_tensor *pads = esp_graph_value(cut, esp_graph_find_value(cut, "pads"))->constant;
    assert_memory_equal(esp_tensor_data(pads), expected, sizeof expected);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void a_tampered_tolerance_is_a_mismatch_and_gives_no_graph(void **state)
{
    (void)state;
    esp_graph *graph, *cut = (esp_graph *)&graph;
    esp_error err = {0};
    esp_preview *preview = mask_writer((net_conv_options){.kernel = 1}, 2, 6, &graph);
    esp_surgery_options options = esp_surgery_defaults();
    options.tolerance = -1;
    expect_failure(esp_surgery(NULL, preview, &options, &cut, NULL, &err), ESP_MISMATCH, &err, "differ");
    assert_null(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void an_output_that_is_not_a_number_in_one_model_only_is_infinitely_far(void **state)
{
    (void)state;
    esp_graph *a = net_random_classifier(3), *b = NULL;
    esp_error err = {0};
    double absolute = -1, relative = -1;
    int layer_weight = esp_graph_find_value(a, "weight");
    esp_tensor *changed = NULL;
    expect_ok(esp_tensor_clone(esp_graph_value(a, layer_weight)->constant, &changed, &err), &err);
    esp_tensor_f32_mut(changed)[0] = NAN;
    expect_ok(esp_graph_with_constants(a, 1, &layer_weight, &changed, &b, &err), &err);
    expect_ok(esp_compare_outputs(NULL, a, b, NULL, 0, 2, 5, &absolute, &relative, &err), &err);
    assert_true(isinf(absolute) && isinf(relative));
    expect_ok(esp_compare_outputs(NULL, b, a, NULL, 0, 2, 5, &absolute, &relative, &err), &err);
    assert_true(isinf(absolute) && isinf(relative));
    esp_tensor_unref(changed);
    esp_graph_unref(a);
    esp_graph_unref(b);
}

static void different_models_are_told_apart(void **state)
{
    (void)state;
    esp_graph *a = net_random_classifier(3), *b = NULL;
    esp_error err = {0};
    double absolute = -1, relative = -1;
    int layer_weight = esp_graph_find_value(a, "weight");
    esp_tensor *changed = NULL;
    expect_ok(esp_tensor_clone(esp_graph_value(a, layer_weight)->constant, &changed, &err), &err);
    esp_tensor_f32_mut(changed)[0] += 1.0F;
    expect_ok(esp_graph_with_constants(a, 1, &layer_weight, &changed, &b, &err), &err);
    expect_ok(esp_compare_outputs(NULL, a, a, NULL, 0, 2, 5, &absolute, &relative, &err), &err);
    assert_true(absolute == 0 && relative == 0);
    expect_ok(esp_compare_outputs(NULL, a, b, NULL, 0, 2, 5, &absolute, &relative, &err), &err);
    assert_true(absolute > 1e-3 && relative > 1e-3);
    esp_tensor_unref(changed);
    esp_graph_unref(a);
    esp_graph_unref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_constant_read_without_padding_goes_into_the_bias),
        cmocka_unit_test(a_constant_read_with_padding_becomes_a_map),
        cmocka_unit_test(a_map_larger_than_what_is_saved_is_not_written),
        cmocka_unit_test(a_constant_of_zero_leaves_nothing),
        cmocka_unit_test(a_constant_goes_into_every_form_of_fully_connected_layer),
        cmocka_unit_test(what_a_gate_makes_of_a_constant_is_not_constant),
        cmocka_unit_test(a_constant_passes_a_depthwise_layer),
        cmocka_unit_test(constants_cascade),
        cmocka_unit_test(a_layer_keeps_at_least_one_filter),
        cmocka_unit_test(a_channel_that_lives_on_in_a_shortcut_stays_as_zeros),
        cmocka_unit_test(the_padding_of_a_shortcut_goes_with_the_channels_added_to_it),
        cmocka_unit_test(a_tampered_tolerance_is_a_mismatch_and_gives_no_graph),
        cmocka_unit_test(different_models_are_told_apart),
        cmocka_unit_test(an_output_that_is_not_a_number_in_one_model_only_is_infinitely_far),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
