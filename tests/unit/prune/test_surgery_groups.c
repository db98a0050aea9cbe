/* Layers whose filters read different channels, in every form they can take. */
#include <string.h>

#include "unit/prune/surgery_checks.h"

/* Filter f of a layer keeps the channels for which keeps(f, c) is true. */
static void mask_by(esp_preview *preview, const char *layer, bool (*keeps)(int64_t filter, int64_t channel))
{
    esp_mask *mask = check_mask(preview, layer);
    for (int64_t f = 0; f < mask->filters; f++) {
        for (int64_t c = 0; c < mask->channels; c++) {
            if (!keeps(f, c))
                esp_mask_clear(mask, f, c);
        }
    }
}

static bool by_parity(int64_t filter, int64_t channel)
{
    return filter % 2 == channel % 2;
}
static bool by_halves(int64_t filter, int64_t channel)
{
    return filter / 3 == channel / 3;
}
static bool overlapping(int64_t filter, int64_t channel)
{
    return filter % 2 == 0 || channel < 2;
}
static bool one_reads_nothing(int64_t filter, int64_t channel)
{
    return filter != 2 && (filter > 3 || channel > 0);
}
static bool all_skip_one(int64_t filter, int64_t channel)
{
    return filter >= 0 && channel != 1;
}

typedef struct chain {
    esp_graph *graph;
    esp_preview *preview;
    esp_surgery_report report;
    esp_graph *cut;
} chain;

/* x -> Conv1 (6) -> Relu2 -> Conv3 (6, 3x3) -> BatchNormalization4 -> Relu5 -> Conv6 (2). Conv3 is masked. */
static chain cut_chain(bool (*keeps)(int64_t, int64_t), esp_group_form form)
{
    chain it = {0};
    net_tensor x;
    net n = net_start(3, 5, 5, 31, &x);
    net_tensor a = net_unary(&n, "Relu", net_conv3(&n, x, 6));
    a = net_unary(&n, "Relu", net_norm(&n, net_conv3(&n, a, 6)));
    net_output(&n, net_conv1(&n, a, 2));
    it.graph = net_finish(&n);
    it.preview = check_open(it.graph, ESP_METHOD_SG);
    mask_by(it.preview, "Conv3", keeps);
    it.cut = check_cut(it.preview, form, &it.report);
    return it;
}

static void release(chain *it)
{
    esp_graph_unref(it->cut);
    esp_preview_free(it->preview);
    esp_graph_unref(it->graph);
}

static int64_t attr_of(const esp_graph *graph, const char *node, const char *attr)
{
    int index = esp_graph_find_node(graph, node);
    if (index < 0)
        fail_msg("there is no node '%s'", node);
    return esp_node_int(esp_graph_node(graph, index), attr, 1);
}

/* Both permutations, of what is read and of what is written, go into the neighbours: not one Gather is left.
 */
static void equal_disjoint_groups_become_one_grouped_convolution(void **state)
{
    (void)state;
    bool (*const masks[])(int64_t, int64_t) = {by_halves, by_parity};
    for (int i = 0; i < 2; i++) {
        chain it = cut_chain(masks[i], ESP_GROUP_FORM_GROUPED);
        assert_int_equal(esp_graph_node_count(it.cut), esp_graph_node_count(it.graph));
        assert_int_equal(attr_of(it.cut, "Conv3", "group"), 2);
        assert_int_equal(check_dim(it.cut, "weight_2", 0), 6);
        assert_int_equal(check_dim(it.cut, "weight_2", 1), 3);
        assert_int_equal(it.report.layers_grouped, 1);
        assert_int_equal(it.report.layers_with_masks, 0);
        assert_null(esp_graph_metadata(it.cut, ESP_MASKS_KEY));
        release(&it);
    }
}

static void overlapping_groups_become_gather_conv_concat(void **state)
{
    (void)state;
    chain it = cut_chain(overlapping, ESP_GROUP_FORM_GROUPED);
    assert_int_equal(check_count_nodes(it.cut, "Concat"), 1);
    assert_int_equal(check_count_nodes(it.cut, "Gather"),
                     1); /* the group that reads all channels needs none */
    assert_int_equal(check_dim(it.cut, "weight_2/group0", 0), 3);
    assert_int_equal(check_dim(it.cut, "weight_2/group0", 1), 6);
    assert_int_equal(check_dim(it.cut, "weight_2/group1", 1), 2);
    assert_true(esp_graph_find_node(it.cut, "Conv3/group0") >= 0);
    assert_true(esp_graph_find_node(it.cut, "BatchNormalization4") >= 0);
    release(&it);
}

static void a_group_that_reads_nothing_writes_its_bias(void **state)
{
    (void)state;
    chain it = cut_chain(one_reads_nothing, ESP_GROUP_FORM_GROUPED);
    /* filter 2 is a constant behind Relu, read by a 1x1 layer: cut, its constant in the bias */
    assert_int_equal(it.report.slots_removed, 1);
    assert_true(it.report.constants_to_bias <= 1);
    release(&it);

    net_tensor x;
    net n = net_start(3, 5, 5, 32, &x);
    net_output(&n,
               net_conv3(&n, net_conv3(&n, x, 6), 6)); /* here the filter is a network output: it must stay */
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_SG);
    mask_by(preview, "Conv2", one_reads_nothing);
    esp_surgery_report report;
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
    assert_int_equal(report.slots_removed, 0);
    assert_int_equal(check_dim(cut, "weight_2/group1", 1), 1);
    assert_string_equal(esp_graph_metadata(cut, ESP_MASKS_KEY), "[\"weight_2/group1\"]");
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void a_channel_nobody_reads_is_gathered_away(void **state)
{
    (void)state;
    chain it = cut_chain(all_skip_one, ESP_GROUP_FORM_GROUPED);
    assert_int_equal(check_count_nodes(it.cut, "Gather"), 1);
    assert_int_equal(check_count_nodes(it.cut, "Concat"), 0);
    assert_true(esp_graph_find_node(it.cut, "Conv3") >= 0);
    assert_int_equal(check_dim(it.cut, "weight_2", 1), 5);
    release(&it);
}

static void the_dense_form_keeps_zeros(void **state)
{
    (void)state;
    chain it = cut_chain(overlapping, ESP_GROUP_FORM_DENSE);
    assert_int_equal(esp_graph_node_count(it.cut), esp_graph_node_count(it.graph));
    assert_int_equal(it.report.layers_grouped, 0);
    assert_int_equal(it.report.layers_with_masks, 1);
    assert_string_equal(esp_graph_metadata(it.cut, ESP_MASKS_KEY), "[\"weight_2\"]");
    release(&it);
}

/* The network's output is pinned: the old order comes back through a Gather. */
static void a_pinned_order_is_restored(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(4, 5, 5, 33, &x);
    net_output(&n, net_conv3(&n, x, 6));
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_SG);
    mask_by(preview, "Conv1", by_parity);
    esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, NULL);
    assert_int_equal(check_count_nodes(cut, "Conv"), 1);
    assert_int_equal(attr_of(cut, "Conv1", "group"), 2);
    assert_int_equal(check_count_nodes(cut, "Gather"), 2); /* the network's input is pinned as well */
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static bool by_thirds(int64_t filter, int64_t channel)
{
    return (filter + channel) % 3 != 0;
}

/* Two grouped layers meet in an addition: one sets the order, the other follows with a Gather. A slice behind
 * it fixes the order altogether. */
static void several_writers_agree_on_one_order(void **state)
{
    (void)state;
    for (int has_slice = 0; has_slice < 2; has_slice++) {
        net_tensor x;
        net n = net_start(3, 5, 5, 34, &x);
        net_tensor a = net_conv3(&n, x, 6);                                               /* Conv1 */
        net_tensor sum = net_binary(&n, "Add", net_conv3(&n, a, 6), net_conv3(&n, a, 6)); /* Conv2, Conv3 */
        if (has_slice)
            sum = net_slice(&n, sum, 1, 5, false);
        net_output(&n, net_fc(&n, net_flatten(&n, sum), 3, NET_GEMM_TRANSPOSED));
        esp_graph *graph = net_finish(&n);
        esp_preview *preview = check_open(graph, ESP_METHOD_SG);
        mask_by(preview, "Conv2", by_parity);
        mask_by(preview, "Conv3", by_thirds);
        esp_surgery_report report;
        esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
        assert_int_equal(report.layers_grouped, 2);
        assert_int_equal(esp_graph_find_node(cut, "Conv2/order") >= 0, has_slice);
        assert_true(esp_graph_find_node(cut, "Conv3/order") >= 0);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void fully_connected_layers_are_grouped_in_every_form(void **state)
{
    (void)state;
    for (int form = NET_GEMM_TRANSPOSED; form <= NET_MATMUL; form++) {
        net_tensor x;
        net n = net_start(3, 2, 2, 35, &x);
        net_tensor a =
            net_unary(&n, "Relu", net_fc(&n, net_flatten(&n, x), 6, (net_fc_form)form)); /* Flatten1, 2 */
        net_output(&n, net_fc(&n, a, 3, (net_fc_form)form));
        esp_graph *graph = net_finish(&n);
        esp_preview *preview = check_open(graph, ESP_METHOD_SG);
        mask_by(preview, form == NET_MATMUL ? "MatMul2" : "Gemm2", by_thirds);
        mask_by(preview, form == NET_MATMUL ? "MatMul4" : "Gemm4", overlapping);
        esp_surgery_report report;
        esp_graph *cut = check_cut(preview, ESP_GROUP_FORM_GROUPED, &report);
        assert_int_equal(report.layers_grouped, 2);
        assert_int_equal(check_count_nodes(cut, form == NET_MATMUL ? "MatMul" : "Gemm"), 5);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* Weak sub-networks leave zeros in shortcuts; they are no groups. */
/* Its output is a constant, and what is a constant goes into the order of what it is added to. */
static void a_layer_that_does_not_see_the_input_keeps_its_zeros(void **state)
{
    (void)state;
    for (int is_reordered = 0; is_reordered < 2; is_reordered++) {
        net_tensor x;
        net n = net_start(3, 2, 2, 37, &x);
        net_tensor blind = net_fc(&n, net_ones(&n, x, 5), 6, NET_GEMM_PLAIN); /* Gemm5 */
        net_tensor seen = net_fc(&n, net_flatten(&n, x), 6, NET_GEMM_PLAIN);  /* Gemm7 */
        net_output(&n, net_fc(&n, net_binary(&n, "Add", seen, blind), 3, NET_GEMM_PLAIN));
        esp_graph *graph = net_finish(&n), *cut = NULL;
        esp_preview *preview = check_open(graph, ESP_METHOD_SG);
        esp_surgery_options options = esp_surgery_defaults();
        esp_surgery_report report;
        esp_error err = {0};
        mask_by(preview, "Gemm5", by_thirds);
        if (is_reordered)
            mask_by(preview, "Gemm7", by_thirds);
        expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
        assert_int_equal(report.layers_grouped, is_reordered);
        assert_int_equal(report.layers_with_masks, 1);
        assert_int_equal(esp_graph_find_node(cut, "Gemm5") < 0, is_reordered);
        assert_int_equal(esp_graph_metadata(cut, ESP_MASKS_KEY) == NULL, is_reordered);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void only_self_grouping_makes_groups(void **state)
{
    (void)state;
    chain it = cut_chain(overlapping, ESP_GROUP_FORM_GROUPED);
    esp_graph_unref(it.cut);
    it.preview->plan.method = ESP_METHOD_WSP;
    it.cut = check_cut(it.preview, ESP_GROUP_FORM_GROUPED, &it.report);
    assert_int_equal(it.report.layers_grouped, 0);
    assert_int_equal(it.report.layers_with_masks, 1);
    release(&it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_disjoint_groups_become_one_grouped_convolution),
        cmocka_unit_test(overlapping_groups_become_gather_conv_concat),
        cmocka_unit_test(a_group_that_reads_nothing_writes_its_bias),
        cmocka_unit_test(a_channel_nobody_reads_is_gathered_away),
        cmocka_unit_test(the_dense_form_keeps_zeros),
        cmocka_unit_test(a_pinned_order_is_restored),
        cmocka_unit_test(several_writers_agree_on_one_order),
        cmocka_unit_test(fully_connected_layers_are_grouped_in_every_form),
        cmocka_unit_test(a_layer_that_does_not_see_the_input_keeps_its_zeros),
        cmocka_unit_test(only_self_grouping_makes_groups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
