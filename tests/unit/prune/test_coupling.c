/* Coupled sets on networks whose sets are known by hand. */
#include <stdio.h>
#include <string.h>

#include "unit/prune/surgery_nets.h"

static const char *reason_of(const net_view *view, const char *value)
{
    return esp_coupling_pinned_by(view->coupling, net_slots(view, value).slots[0]);
}

static void assert_pinned(const net_view *view, const char *value, const char *part)
{
    esp_value_slots item = net_slots(view, value);
    for (int64_t c = 0; c < item.count; c++) {
        const char *reason = esp_coupling_pinned_by(view->coupling, item.slots[c]);
        if (reason == NULL || strstr(reason, part) == NULL)
            fail_msg("'%s' channel %lld: '%s' does not say '%s'", value, (long long)c,
                     reason == NULL ? "free" : reason, part);
    }
}

static void assert_free(const net_view *view, const char *value)
{
    esp_value_slots item = net_slots(view, value);
    assert_true(item.count > 0);
    for (int64_t c = 0; c < item.count; c++)
        assert_null(esp_coupling_pinned_by(view->coupling, item.slots[c]));
}

/* Channel i of a is channel `map[i]` of b. */
static void assert_mapped(const net_view *view, const char *a, const char *b, const int64_t *map)
{
    esp_value_slots first = net_slots(view, a), second = net_slots(view, b);
    for (int64_t c = 0; c < first.count; c++)
        assert_int_equal(first.slots[c], second.slots[map == NULL ? c : map[c]]);
}

static net_view finish(net *n, net_tensor x)
{
    net_output(n, x);
    return net_look(net_finish(n));
}

static void addition_ties_its_writers(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 6, 6, 1, &x);
    net_tensor a = net_conv3(&n, x, 4);                                  /* Conv1 */
    net_tensor b = net_norm(&n, net_conv3(&n, a, 4));                    /* Conv2, BatchNormalization3 */
    net_tensor sum = net_unary(&n, "Relu", net_binary(&n, "Add", a, b)); /* Add4, Relu5 */
    net_view view = finish(&n, net_conv1(&n, sum, 2));                   /* Conv6 */
    assert_mapped(&view, "Relu5_out", "Conv1_out", NULL);
    assert_mapped(&view, "Relu5_out", "Conv2_out", NULL);
    assert_free(&view, "Add4_out");
    const esp_coupled_set *set = esp_coupling_set(
        view.coupling, esp_coupling_slot_set(view.coupling, net_slots(&view, "Add4_out").slots[2]));
    assert_int_equal(set->slot_count, 4);
    assert_int_equal(set->writer_count, 2);
    assert_int_equal(set->writers[0], net_layer(&view, "Conv1"));
    assert_int_equal(set->writers[1], net_layer(&view, "Conv2"));
    assert_int_equal(set->reader_count, 2);
    assert_int_equal(set->readers[0], net_layer(&view, "Conv2"));
    assert_int_equal(set->readers[1], net_layer(&view, "Conv6"));
    assert_null(set->pinned_by);
    assert_pinned(&view, "x", "network input 'x'");
    assert_pinned(&view, "Conv6_out", "network output 'Conv6_out'");
    net_forget(&view);
}

static void concat_lays_channels_end_to_end(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 2, &x);
    net_tensor a = net_conv3(&n, x, 3), b = net_conv3(&n, x, 2);
    net_view view = finish(&n, net_conv1(&n, net_concat(&n, a, b), 2)); /* Concat3, Conv4 */
    esp_value_slots joined = net_slots(&view, "Concat3_out"), first = net_slots(&view, "Conv1_out");
    esp_value_slots second = net_slots(&view, "Conv2_out");
    assert_int_equal(joined.count, 5);
    for (int c = 0; c < 5; c++)
        assert_int_equal(joined.slots[c], c < 3 ? first.slots[c] : second.slots[c - 3]);
    assert_memory_equal(esp_coupling_reads(view.coupling, net_layer(&view, "Conv4")), joined.slots,
                        5 * sizeof(int32_t));
    assert_int_not_equal(esp_coupling_slot_set(view.coupling, joined.slots[0]),
                         esp_coupling_slot_set(view.coupling, joined.slots[3]));
    net_forget(&view);
}

static void flatten_and_reshape_give_each_channel_its_columns(void **state)
{
    (void)state;
    for (int is_reshape = 0; is_reshape < 2; is_reshape++) {
        net_tensor x;
        net n = net_start(3, 2, 3, 3, &x);
        const int64_t target[2] = {-1, 24};
        net_tensor a = net_conv3(&n, x, 4);
        a = is_reshape ? net_reshape(&n, a, target, 2, (net_tensor){-1, 24, 0, 0}) : net_flatten(&n, a);
        net_view view = finish(&n, net_fc(&n, a, 2, NET_GEMM_TRANSPOSED));
        const int32_t *reads = esp_coupling_reads(view.coupling, net_layer(&view, "Gemm3"));
        esp_value_slots writes = net_slots(&view, "Conv1_out");
        for (int column = 0; column < 24; column++)
            assert_int_equal(reads[column], writes.slots[column / 6]);
        assert_free(&view, "Conv1_out");
        net_forget(&view);
    }
}

static void flatten_after_a_transpose_interleaves_columns(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 2, 3, 4, &x);
    net_tensor a = net_transpose(&n, net_conv3(&n, x, 4), 0, 2, 3, 1); /* NHWC */
    net_view view = finish(&n, net_fc(&n, net_flatten(&n, net_unary(&n, "Relu", a)), 2, NET_MATMUL));
    assert_int_equal(net_slots(&view, "Relu3_out").axis, 3);
    const int32_t *reads = esp_coupling_reads(view.coupling, net_layer(&view, "MatMul5"));
    for (int column = 0; column < 24; column++)
        assert_int_equal(reads[column], net_slots(&view, "Conv1_out").slots[column % 4]);
    net_forget(&view);
}

static void padding_ties_with_what_is_added_to_it(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 6, 6, 5, &x);
    net_tensor a = net_conv3(&n, x, 3);
    net_tensor shortcut = net_pad(&n, net_slice(&n, a, 0, 3, true), 1, 2, 0); /* Slice2, Pad3 */
    net_tensor b = net_conv(&n, a, 6, (net_conv_options){.kernel = 3, .stride = 2, .pad = 1}); /* Conv4 */
    net_view view = finish(&n, net_conv1(&n, net_binary(&n, "Add", b, shortcut), 2));
    esp_value_slots before = net_slots(&view, "Conv1_out"), after = net_slots(&view, "Add5_out");
    for (int c = 0; c < 3; c++)
        assert_int_equal(after.slots[c + 1], before.slots[c]);
    const esp_coupled_set *padded =
        esp_coupling_set(view.coupling, esp_coupling_slot_set(view.coupling, after.slots[0]));
    assert_int_equal(padded->slot_count, 3);
    assert_int_equal(padded->writer_count, 1);
    assert_int_equal(padded->writers[0], net_layer(&view, "Conv4"));
    assert_free(&view, "Add5_out");
    net_forget(&view);
}

static void spatial_padding_keeps_channels(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 6, &x);
    net_view view = finish(&n, net_conv1(&n, net_pad(&n, net_conv3(&n, x, 4), 0, 0, 1), 2));
    assert_mapped(&view, "Pad2_out", "Conv1_out", NULL);
    assert_free(&view, "Pad2_out");
    net_forget(&view);
}

static void gather_may_repeat_and_drop_channels(void **state)
{
    (void)state;
    net_tensor x;
    const int64_t channels[5] = {3, 0, 0, 2, -1};
    const int64_t expected[5] = {3, 0, 0, 2, 3};
    net n = net_start(3, 4, 4, 7, &x);
    net_view view = finish(&n, net_conv1(&n, net_gather(&n, net_conv3(&n, x, 4), channels, 5), 2));
    assert_mapped(&view, "Gather2_out", "Conv1_out", expected);
    assert_free(&view, "Conv1_out");
    net_forget(&view);
}

static void depthwise_layers_follow_their_channels(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 8, &x);
    net_tensor a = net_conv3(&n, x, 3);
    net_tensor b =
        net_conv(&n, a, 6, (net_conv_options){.kernel = 3, .pad = 1, .group = 3}); /* multiplier 2 */
    net_view view = finish(&n, net_conv1(&n, b, 2));
    const int64_t expected[6] = {0, 0, 1, 1, 2, 2};
    assert_mapped(&view, "Conv2_out", "Conv1_out", expected);
    const esp_coupled_set *set = esp_coupling_set(
        view.coupling, esp_coupling_slot_set(view.coupling, net_slots(&view, "Conv2_out").slots[0]));
    assert_int_equal(set->writer_count, 1);
    assert_int_equal(set->reader_count, 1);
    assert_null(esp_coupling_reads(view.coupling, net_layer(&view, "Conv2")));
    net_forget(&view);
}

static void a_gate_per_channel_ties_and_a_gate_per_place_pins(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 9, &x);
    net_tensor a = net_conv3(&n, x, 4);                                            /* Conv1 */
    net_tensor gate = net_conv1(&n, net_global(&n, a), 4);                         /* Conv3 */
    net_tensor b = net_binary(&n, "Mul", a, gate);                                 /* Mul4 */
    net_tensor place = net_conv1(&n, b, 1);                                        /* Conv5: [N,1,4,4] */
    net_view view = finish(&n, net_conv1(&n, net_binary(&n, "Mul", b, place), 2)); /* Mul6 */
    assert_mapped(&view, "Conv3_out", "Conv1_out", NULL);
    assert_mapped(&view, "Mul6_out", "Conv1_out", NULL);
    assert_free(&view, "Mul6_out");
    assert_pinned(&view, "Conv5_out", "broadcast by node 'Mul6'");
    net_forget(&view);
}

static void constants_tie_nothing(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 10, &x);
    net_view view = finish(&n, net_conv1(&n, net_scale(&n, net_conv3(&n, x, 4)), 2));
    assert_mapped(&view, "Mul2_out", "Conv1_out", NULL);
    esp_value_slots item = net_slots(&view, "Mul2_out");
    for (int64_t c = 1; c < item.count; c++)
        assert_int_not_equal(item.slots[c], item.slots[c - 1]);
    assert_free(&view, "Mul2_out");
    net_forget(&view);
}

static void walls_say_why(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(4, 4, 4, 11, &x);
    const int64_t rows[3] = {0, 16, 5}, image[4] = {0, 5, 4, 4};
    net_tensor a = net_conv3(&n, x, 5); /* Conv1 -> Reshape2: rows of 5 run through channels of 16 */
    a = net_reshape(&n, a, rows, 3, (net_tensor){-1, 16, 5, 1});
    a = net_reshape(&n, a, image, 4, (net_tensor){-1, 5, 4, 4});      /* Reshape3 */
    net_tensor b = net_conv1(&n, net_reshape(&n, a, image, 4, a), 4); /* Reshape4, Conv5 */
    const esp_attr axis = esp_attr_int("axis", 1);
    net_tensor c = net_node(&n, "Softmax", &b.value, 1, &axis, 1, b); /* Softmax6 */
    net_tensor d = net_conv1(&n, c, 3);                               /* Conv7 */
    const int products[2] = {d.value, d.value};
    net_tensor e = net_node(&n, "MatMul", products, 2, NULL, 0, d); /* MatMul8 */
    net_view view = finish(&n, net_conv1(&n, e, 2));
    assert_pinned(&view, "Conv1_out", "reshaped by node 'Reshape2'");
    assert_pinned(&view, "Conv5_out", "'Softmax6' (Softmax) mixes channels");
    assert_pinned(&view, "Softmax6_out", "Softmax6");
    assert_pinned(&view, "Conv7_out", "node 'MatMul8' has computed weights");
    net_forget(&view);
}

static void softmax_over_space_keeps_channels_apart(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 16, &x);
    const esp_attr over_rows = esp_attr_int("axis", 2);
    net_tensor a = net_conv3(&n, x, 5);
    net_view view = finish(&n, net_conv1(&n, net_node(&n, "Softmax", &a.value, 1, &over_rows, 1, a), 2));
    assert_mapped(&view, "Softmax2_out", "Conv1_out", NULL);
    assert_free(&view, "Conv1_out");
    net_forget(&view);
}

/* Which channels of a value are one slot: "0 1 0 1" for four channels in two slots. */
static void assert_pattern(const net_view *view, const char *value, const char *pattern)
{
    esp_value_slots item = net_slots(view, value);
    char text[256] = "";
    for (int64_t c = 0; c < item.count; c++) {
        int64_t first = 0, number = 0;
        while (item.slots[first] != item.slots[c])
            first++;
        for (int64_t k = 0; k < first; k++) { /* distinct slots before it */
            bool is_new = true;
            for (int64_t j = 0; j < k; j++)
                is_new = is_new && item.slots[j] != item.slots[k];
            number += is_new;
        }
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", c > 0 ? " " : "",
                 (long long)number);
    }
    assert_string_equal(text, pattern);
}

static void groups_lose_the_same_channels_or_go_as_a_whole(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 17, &x);
    net_tensor a = net_conv3(&n, x, 6);                                              /* Conv1 */
    net_tensor b = net_conv(&n, a, 8, (net_conv_options){.kernel = 1, .group = 2});  /* Conv2 */
    net_tensor c = net_conv(&n, b, 12, (net_conv_options){.kernel = 1, .group = 4}); /* Conv3 */
    net_view view = finish(&n, net_conv1(&n, c, 2));
    assert_pattern(&view, "Conv1_out", "0 1 2 0 1 2");
    assert_pattern(&view, "Conv2_out", "0 0 1 1 0 0 1 1"); /* two groups of 4, then four of 2 */
    assert_pattern(&view, "Conv3_out", "0 0 0 1 1 1 0 0 0 1 1 1");
    assert_free(&view, "Conv1_out");
    int inside = net_layer(&view, "Conv2"), whole = net_layer(&view, "Conv3");
    assert_false(esp_coupling_layer_follows(view.coupling, inside));
    assert_memory_equal(esp_coupling_reads(view.coupling, inside), net_slots(&view, "Conv1_out").slots,
                        3 * sizeof(int32_t));
    assert_true(esp_coupling_layer_follows(view.coupling, whole));
    assert_null(esp_coupling_reads(view.coupling, whole));
    net_forget(&view);
}

static void many_small_groups_go_one_by_one(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 18, &x);
    net_tensor a = net_conv3(&n, x, 8);
    net_tensor b = net_conv(&n, a, 12, (net_conv_options){.kernel = 3, .pad = 1, .group = 4});
    net_view view = finish(&n, net_conv1(&n, b, 2));
    assert_pattern(&view, "Conv1_out", "0 0 1 1 2 2 3 3");
    assert_pattern(&view, "Conv2_out", "0 0 0 1 1 1 2 2 2 3 3 3");
    assert_int_equal(net_slots(&view, "Conv2_out").slots[3], net_slots(&view, "Conv1_out").slots[2]);
    net_forget(&view);
}

static void a_shuffle_ties_the_same_channel_of_every_group(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 19, &x);
    const int64_t parted[5] = {0, 2, 3, 4, 4}, image[4] = {0, 6, 4, 4}, perm[5] = {0, 2, 1, 3, 4};
    const esp_attr attr = esp_attr_ints("perm", perm, 5);
    net_tensor a = net_conv3(&n, x, 6);
    net_tensor b = net_reshape(&n, a, parted, 5, a);                               /* Reshape2 */
    b = net_node(&n, "Transpose", &b.value, 1, &attr, 1, a);                       /* Transpose3 */
    net_view view = finish(&n, net_conv1(&n, net_reshape(&n, b, image, 4, a), 2)); /* Reshape4 */
    assert_pattern(&view, "Conv1_out", "0 1 2 0 1 2");
    assert_int_equal(net_slots(&view, "Reshape2_out").axis, 2);
    assert_int_equal(net_slots(&view, "Transpose3_out").axis, 1);
    assert_pattern(&view, "Reshape4_out", "0 0 1 1 2 2");
    assert_free(&view, "Conv1_out");
    net_forget(&view);
}

static void blocks_of_pixels_are_one_channel(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 20, &x);
    const esp_attr size = esp_attr_int("blocksize", 2);
    net_tensor a = net_conv3(&n, x, 8);
    net_tensor b = net_node(&n, "DepthToSpace", &a.value, 1, &size, 1, (net_tensor){-1, 2, 8, 8});
    net_view view = finish(&n, net_conv1(&n, b, 2));
    assert_pattern(&view, "Conv1_out", "0 1 0 1 0 1 0 1");
    assert_mapped(&view, "DepthToSpace2_out", "Conv1_out", NULL);
    assert_free(&view, "Conv1_out");
    net_forget(&view);
}

static void every_part_of_a_split_has_its_channels(void **state)
{
    (void)state;
    net_tensor x, y = {0};
    net n = net_start(3, 4, 4, 21, &x);
    esp_error err = {0};
    const int64_t sizes[2] = {2, 3};
    const esp_attr axis = esp_attr_int("axis", 1);
    net_tensor a = net_conv3(&n, x, 5);
    int inputs[2] = {a.value, net_ints(&n, "sizes", sizes, 2)}, outputs[2];
    expect_ok(esp_builder_value(n.builder, "first", &outputs[0], &err), &err);
    expect_ok(esp_builder_value(n.builder, "second", &outputs[1], &err), &err);
    expect_ok(esp_builder_node(n.builder, "Split", "split", inputs, 2, outputs, 2, &axis, 1, &err), &err);
    y = net_conv1(&n, (net_tensor){outputs[0], 2, 4, 4}, 2);
    net_view view = finish(&n, net_binary(&n, "Add", y, net_conv1(&n, (net_tensor){outputs[1], 3, 4, 4}, 2)));
    const int64_t second[3] = {2, 3, 4};
    assert_mapped(&view, "first", "Conv1_out", NULL);
    assert_mapped(&view, "second", "Conv1_out", second);
    assert_free(&view, "Conv1_out");
    int split = esp_graph_find_node(view.graph, "split");
    const esp_channel_moves *moves = esp_coupling_moves_of(view.coupling, split, 1);
    assert_int_equal(moves->count, 3);
    for (int c = 0; c < 3; c++)
        assert_int_equal(moves->source[c], 2 + c);
    net_forget(&view);
}

static void normalised_groups_go_together(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start_opset(18, 3, 4, 4, 22, &x);
    const esp_attr groups = esp_attr_int("num_groups", 3);
    const int64_t count = 3;
    net_tensor a = net_conv3(&n, x, 6);
    const int inputs[3] = {a.value, net_random(&n, "scale", 1, &count, 0.1, 1),
                           net_random(&n, "shift", 1, &count, 0.1, 0)};
    net_view view =
        finish(&n, net_conv1(&n, net_node(&n, "GroupNormalization", inputs, 3, &groups, 1, a), 2));
    assert_pattern(&view, "Conv1_out", "0 0 1 1 2 2");
    assert_mapped(&view, "GroupNormalization2_out", "Conv1_out", NULL);
    assert_free(&view, "Conv1_out");
    net_forget(&view);
}

static void transposed_convolutions_write_and_read(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 23, &x);
    const int64_t dims[4] = {5, 4, 2, 2}, strides[2] = {2, 2};
    const esp_attr attr = esp_attr_ints("strides", strides, 2);
    net_tensor a = net_conv3(&n, x, 5);
    const int inputs[2] = {a.value, net_random(&n, "up", 4, dims, 0.3, 0)};
    net_tensor b = net_node(&n, "ConvTranspose", inputs, 2, &attr, 1, (net_tensor){-1, 4, 8, 8});
    net_view view = finish(&n, net_conv1(&n, b, 2));
    int up = net_layer(&view, "ConvTranspose2");
    assert_int_equal(view.layers->items[up].filters, 4);
    assert_int_equal(view.layers->items[up].channels, 5);
    assert_int_equal(view.layers->items[up].macs, 5 * 4 * 4 * 16); /* met once per place of its input */
    assert_memory_equal(esp_coupling_reads(view.coupling, up), net_slots(&view, "Conv1_out").slots,
                        5 * sizeof(int32_t));
    assert_memory_equal(esp_coupling_writes(view.coupling, up), net_slots(&view, "ConvTranspose2_out").slots,
                        4 * sizeof(int32_t));
    assert_free(&view, "Conv1_out");
    assert_free(&view, "ConvTranspose2_out");
    net_forget(&view);
}

static void a_mean_over_channels_is_no_copy_even_when_sizes_agree(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 4, 4, 12, &x);
    const int64_t over_channels[1] = {1}, over_space[2] = {2, 3};
    const esp_attr attrs[2] = {esp_attr_ints("axes", over_channels, 1), esp_attr_int("keepdims", 0)};
    const esp_attr spatial[2] = {esp_attr_ints("axes", over_space, 2), esp_attr_int("keepdims", 0)};
    net_tensor a = net_conv3(&n, x, 4), b = net_conv3(&n, x, 4);
    net_tensor mean =
        net_node(&n, "ReduceMean", &a.value, 1, attrs, 2, (net_tensor){-1, 4, 0, 0}); /* [N,4,4] */
    net_tensor pooled = net_node(&n, "ReduceMean", &b.value, 1, spatial, 2, (net_tensor){-1, 4, 0, 0});
    net_output(&n, mean);
    net_view view = finish(&n, net_fc(&n, pooled, 2, NET_GEMM_PLAIN));
    assert_pinned(&view, "Conv1_out", "'ReduceMean3' (ReduceMean) mixes channels");
    assert_mapped(&view, "ReduceMean4_out", "Conv2_out", NULL);
    assert_free(&view, "Conv2_out");
    net_forget(&view);
}

static void a_layer_that_does_not_see_the_input_is_pinned_and_ties_nothing(void **state)
{
    net_tensor x;
    net n = net_start(2, 4, 4, 1, &x);
    (void)state;

    net_tensor flat = net_flatten(&n, x), blind = net_fc(&n, net_ones(&n, x, 5), 3, NET_GEMM_PLAIN);
    net_output(
        &n, net_fc(&n, net_binary(&n, "Add", net_fc(&n, flat, 3, NET_GEMM_PLAIN), blind), 2, NET_GEMM_PLAIN));
    net_view view = net_look(net_finish(&n));
    assert_int_equal(view.layers->count, 3);
    for (int l = 0; l < 3; l++) {
        const int32_t *writes = esp_coupling_writes(view.coupling, l);
        const char *reason = esp_coupling_pinned_by(view.coupling, writes[0]);
        bool is_blind = view.layers->items[l].channels == 5;
        assert_int_equal(reason != NULL && strstr(reason, "does not depend") != NULL, is_blind);
        assert_int_equal(esp_coupling_reads(view.coupling, l) == NULL, is_blind);
    }
    net_forget(&view);
}

static void layers_that_share_a_weight_share_its_rows_and_columns(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(4, 4, 4, 13, &x);
    const int64_t dims[4] = {3, 4, 1, 1};
    net_tensor a = net_conv3(&n, x, 4), b = net_conv3(&n, x, 4), y = {-1, 3, 4, 4};
    int weight = net_random(&n, "shared", 4, dims, 0.5, 0);
    net_tensor c = net_node(&n, "Conv", (int[]){a.value, weight}, 2, NULL, 0, y);
    net_tensor d = net_node(&n, "Conv", (int[]){b.value, weight}, 2, NULL, 0, y);
    net_view view = finish(&n, net_conv1(&n, net_concat(&n, c, d), 2));
    assert_mapped(&view, "Conv1_out", "Conv2_out", NULL);
    assert_mapped(&view, "Conv3_out", "Conv4_out", NULL);
    assert_free(&view, "Conv1_out");
    assert_free(&view, "Conv3_out");
    net_forget(&view);
}

static void a_weight_with_another_use_pins_its_layer(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(4, 4, 4, 13, &x);
    const int64_t dims[4] = {4, 4, 1, 1};
    net_tensor a = net_conv3(&n, x, 4);
    int weight = net_random(&n, "shared", 4, dims, 0.5, 0);
    net_tensor b = net_node(&n, "Conv", (int[]){a.value, weight}, 2, NULL, 0, a);
    net_tensor c = net_node(&n, "Mul", (int[]){b.value, weight}, 2, NULL, 0, b);
    net_view view = finish(&n, net_conv1(&n, c, 2));
    assert_pinned(&view, "Conv1_out", "weight 'shared' has several uses");
    assert_pinned(&view, "Conv2_out", "'shared'");
    net_forget(&view);
}

static void every_slot_is_in_one_set_with_its_layers(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        net_view view = net_look(net_random_classifier(seed));
        int64_t total = 0;
        for (int i = 0; i < esp_coupling_set_count(view.coupling); i++) {
            const esp_coupled_set *set = esp_coupling_set(view.coupling, i);
            total += set->slot_count;
            for (int64_t k = 0; k < set->slot_count; k++) {
                assert_int_equal(esp_coupling_slot_set(view.coupling, set->slots[k]), i);
                assert_true(k == 0 || set->slots[k] > set->slots[k - 1]);
            }
        }
        assert_int_equal(total, esp_coupling_slot_limit(view.coupling) - 1);
        for (int layer = 0; layer < view.layers->count; layer++) {
            const int32_t *reads = esp_coupling_reads(view.coupling, layer);
            for (int64_t c = 0; reads != NULL && c < view.layers->items[layer].channels; c++) {
                const esp_coupled_set *set =
                    esp_coupling_set(view.coupling, esp_coupling_slot_set(view.coupling, reads[c]));
                bool is_listed = false;
                for (int r = 0; r < set->reader_count; r++)
                    is_listed = is_listed || set->readers[r] == layer;
                assert_true(is_listed);
            }
        }
        net_forget(&view);
    }
}

static void the_list_names_layers_nodes_tensors_and_reasons(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(3, 5, 5, 14, &x);
    net_tensor a = net_conv3(&n, x, 4);
    net_tensor b = net_binary(&n, "Add", a, net_conv3(&n, a, 4));
    net_view view = finish(&n, net_conv1(&n, b, 2));
    esp_text text = {0};
    esp_error err = {0};
    expect_ok(esp_coupling_print(view.coupling, &text, &err), &err);
    const char *const parts[] = {"pinned: network input 'x'",
                                 "4 channels, free",
                                 "written by Conv1, Conv2",
                                 "read by Conv2, Conv4",
                                 "tied by Add3 (Add)",
                                 "Add3_out[0-3]",
                                 "pinned: network output 'Conv4_out'"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (strstr(text.data, parts[i]) == NULL)
            fail_msg("the list does not say '%s':\n%s", parts[i], text.data);
    }
    esp_text_free(&text);
    assert_non_null(reason_of(&view, "x"));
    net_forget(&view);
}

/* Nothing is known of what it gives, and so of what stands behind it: no bias is to blame. */
static void layers_behind_an_operator_that_is_not_known_say_so(void **state)
{
    net_tensor x;
    net n = net_start(2, 4, 4, 1, &x);
    (void)state;

    net_tensor odd = net_unary(&n, "acme::MyOp", net_conv3(&n, x, 4));
    net_output(&n, net_conv(&n, odd, 3, (net_conv_options){.kernel = 1}));
    net_view view = net_look(net_finish(&n));
    assert_int_equal(view.layers->count, 2);
    assert_string_equal(esp_coupling_pinned_by(view.coupling, esp_coupling_writes(view.coupling, 1)[0]),
                        "the shape of what node 'Conv3' reads is not known");
    net_forget(&view);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addition_ties_its_writers),
        cmocka_unit_test(concat_lays_channels_end_to_end),
        cmocka_unit_test(flatten_and_reshape_give_each_channel_its_columns),
        cmocka_unit_test(flatten_after_a_transpose_interleaves_columns),
        cmocka_unit_test(padding_ties_with_what_is_added_to_it),
        cmocka_unit_test(spatial_padding_keeps_channels),
        cmocka_unit_test(gather_may_repeat_and_drop_channels),
        cmocka_unit_test(depthwise_layers_follow_their_channels),
        cmocka_unit_test(a_gate_per_channel_ties_and_a_gate_per_place_pins),
        cmocka_unit_test(constants_tie_nothing),
        cmocka_unit_test(walls_say_why),
        cmocka_unit_test(softmax_over_space_keeps_channels_apart),
        cmocka_unit_test(groups_lose_the_same_channels_or_go_as_a_whole),
        cmocka_unit_test(many_small_groups_go_one_by_one),
        cmocka_unit_test(a_shuffle_ties_the_same_channel_of_every_group),
        cmocka_unit_test(blocks_of_pixels_are_one_channel),
        cmocka_unit_test(every_part_of_a_split_has_its_channels),
        cmocka_unit_test(normalised_groups_go_together),
        cmocka_unit_test(transposed_convolutions_write_and_read),
        cmocka_unit_test(a_mean_over_channels_is_no_copy_even_when_sizes_agree),
        cmocka_unit_test(a_layer_that_does_not_see_the_input_is_pinned_and_ties_nothing),
        cmocka_unit_test(layers_that_share_a_weight_share_its_rows_and_columns),
        cmocka_unit_test(a_weight_with_another_use_pins_its_layer),
        cmocka_unit_test(layers_behind_an_operator_that_is_not_known_say_so),
        cmocka_unit_test(every_slot_is_in_one_set_with_its_layers),
        cmocka_unit_test(the_list_names_layers_nodes_tensors_and_reasons),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
