/* Weak sub-networks: selection by hand, scores against naive sums, pairs and coupled sets of small networks.
 */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/wsp.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

#define MOST_LAYERS 16

/* A graph's pairs, with masks all ones. */
typedef struct wsp_case {
    net_view view;
    esp_mask masks[MOST_LAYERS];
    esp_wsp wsp;
} wsp_case;

static void whole_masks(wsp_case *test)
{
    esp_error err = {0};

    for (int l = 0; l < test->view.layers->count; l++)
        expect_ok(esp_mask_new(test->view.layers->items[l].filters, test->view.layers->items[l].channels,
                               &test->masks[l], &err),
                  &err);
}

static wsp_case pairs_of(esp_graph *take_graph)
{
    wsp_case test = {.view = net_look(take_graph)};
    esp_error err = {0};

    whole_masks(&test);
    expect_ok(esp_wsp_pairs(test.view.graph, test.view.layers, test.masks, &test.wsp, &err), &err);
    return test;
}

static wsp_case sets_of(esp_graph *take_graph)
{
    wsp_case test = {.view = net_look(take_graph)};
    esp_layer_l1 norms[MOST_LAYERS] = {0};
    esp_error err = {0};

    whole_masks(&test);
    for (int l = 0; l < test.view.layers->count; l++)
        expect_ok(
            esp_layer_l1_of(test.view.graph, &test.view.layers->items[l], &test.masks[l], &norms[l], &err),
            &err);
    expect_ok(esp_wsp_sets(test.view.coupling, test.view.layers, norms, &test.wsp, &err), &err);
    for (int l = 0; l < test.view.layers->count; l++)
        esp_layer_l1_free(&norms[l]);
    return test;
}

static void done_with(wsp_case *test)
{
    esp_wsp_free(&test->wsp);
    for (int l = 0; l < test->view.layers->count; l++)
        esp_mask_free(&test->masks[l]);
    net_forget(&test->view);
}

static const esp_wsp_pair *find_pair(const wsp_case *test, const char *writer)
{
    for (int i = 0; i < test->wsp.pair_count; i++)
        if (strcmp(test->view.layers->items[test->wsp.pairs[i].writer].name, writer) == 0)
            return &test->wsp.pairs[i];
    return NULL;
}

static const char *why_left_out(const wsp_case *test, const char *writer)
{
    for (int i = 0; i < test->wsp.left_out_count; i++)
        if (strcmp(test->view.layers->items[test->wsp.left_out[i].writer].name, writer) == 0)
            return test->wsp.left_out[i].why;
    return "";
}

/* ---- selection ---- */

/* Selects over at most 8 channels. Returns "-w-w": w is weak. */
static const char *select_weak(double ratio, int64_t channels, const double *filter, const double *channel)
{
    static char text[16];
    int32_t weak[8];
    esp_error err = {0};
    esp_wsp_pair pair = {.channels = channels,
                         .ratio = ratio,
                         .filter_l1 = (double *)(uintptr_t)filter,
                         .channel_l1 = (double *)(uintptr_t)channel,
                         .weak = weak};

    expect_ok(esp_wsp_select(&pair, &err), &err);
    memset(text, '-', (size_t)channels);
    text[channels] = '\0';
    for (int64_t i = 0; i < pair.weak_count; i++)
        text[weak[i]] = 'w';
    return text;
}

static void wsp_takes_only_what_is_weak_by_both_norms(void **state)
{
    static const double rising[] = {1, 2, 3, 4, 5}, falling[] = {5, 4, 3, 2, 1}, mixed[] = {1, 9, 2, 8, 7};
    (void)state;

    assert_string_equal(select_weak(0.5, 5, rising, rising), "ww---");
    assert_string_equal(select_weak(0.5, 5, rising, falling), "-----");
    assert_string_equal(select_weak(0.75, 5, rising, mixed), "w-w--");
}

static void wsp_keeps_ties_at_the_threshold(void **state)
{
    static const double ties[] = {2, 2, 2, 3}, one_below[] = {1, 2, 2, 2, 3}, rising[] = {1, 2, 3, 4};
    (void)state;

    assert_string_equal(select_weak(0.5, 4, ties, ties), "----");
    assert_string_equal(select_weak(0.5, 5, one_below, one_below), "w----");
    /* channel 0 is weak by one norm and ties with the threshold by the other */
    assert_string_equal(select_weak(0.5, 4, ties, rising), "----");
    assert_string_equal(select_weak(0.5, 4, rising, ties), "----");
}

static void wsp_ratio_zero_takes_nothing_and_none_is_ever_all(void **state)
{
    static const double values[] = {3, 1, 2};
    (void)state;

    assert_string_equal(select_weak(0, 3, values, values), "---");
    assert_string_equal(select_weak(0.999, 3, values, values), "-ww");
}

static void wsp_refuses_ratios_out_of_range(void **state)
{
    esp_error err = {0};
    esp_wsp_pair pair = {.channels = 1, .ratio = 1};
    (void)state;

    assert_int_equal(esp_wsp_select(&pair, &err), ESP_INVALID);
    pair.ratio = NAN;
    assert_int_equal(esp_wsp_select(&pair, &err), ESP_INVALID);
}

/* ---- pairs as published ---- */

static void pairs_follow_the_order_of_layers_without_shortcuts(void **state)
{
    static const char *const order[] = {"Conv1", "Conv4", "Conv7", "Conv11", "Conv14", "Gemm22"};
    wsp_case test = pairs_of(net_residual(1));
    (void)state;

    assert_int_equal(test.wsp.pair_count, 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(test.view.layers->items[test.wsp.pairs[i].writer].name, order[i]);
        assert_string_equal(test.view.layers->items[test.wsp.pairs[i].reader].name, order[i + 1]);
        /* inside the blocks only */
        assert_int_equal(test.wsp.pairs[i].is_sound, i == 1 || i == 3);
    }
    assert_string_equal(why_left_out(&test, "Gemm22"), "network output: its filters stay");
    done_with(&test);
}

static float weight_at(const wsp_case *test, int layer, int64_t f, int64_t c, int64_t p)
{
    const esp_layer *item = &test->view.layers->items[layer];
    int64_t positions = item->kernel_h * item->kernel_w, count = item->filters * item->channels * positions;
    float *data = esp_alloc((size_t)count, sizeof *data), found;

    esp_layer_weight_canonical(item, esp_graph_value(test->view.graph, item->weight)->constant, data);
    found = data[(f * item->channels + c) * positions + p];
    esp_free(data);
    return found;
}

/* What a pair's norms must be, element by element. */
static void check_norms(const wsp_case *test, const esp_wsp_pair *pair)
{
    const esp_layer *writer = &test->view.layers->items[pair->writer],
                    *reader = &test->view.layers->items[pair->reader];

    for (int64_t c = 0; c < pair->channels; c++) {
        double written = 0, read = 0;
        for (int64_t i = 0; i < writer->channels; i++)
            for (int64_t p = 0; p < writer->kernel_h * writer->kernel_w; p++)
                written += fabs((double)weight_at(test, pair->writer, c, i, p));
        for (int64_t f = 0; f < reader->filters; f++)
            for (int64_t column = c * pair->span; column < (c + 1) * pair->span; column++)
                for (int64_t p = 0; p < reader->kernel_h * reader->kernel_w; p++)
                    read += fabs((double)weight_at(test, pair->reader, f, column, p));
        assert_true(fabs(pair->filter_l1[c] - written) < 1e-9);
        assert_true(fabs(pair->channel_l1[c] - read) < 1e-9);
    }
}

static void pair_norms_agree_with_naive_sums_on_every_kind_of_pair(void **state)
{
    (void)state;
    for (int form = 0; form < 2; form++) {
        wsp_case test = pairs_of(net_chain(form ? NET_GEMM_PLAIN : NET_GEMM_TRANSPOSED, 2));
        static const int64_t spans[] = {1, 4, 1}; /* conv-conv, conv-fc over 2x2 maps, fc-fc */
        assert_int_equal(test.wsp.pair_count, 3);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(test.wsp.pairs[i].span, spans[i]);
            assert_true(test.wsp.pairs[i].is_sound);
            check_norms(&test, &test.wsp.pairs[i]);
        }
        done_with(&test);
    }
}

static void pair_norms_do_not_see_masked_weights(void **state)
{
    wsp_case test = pairs_of(net_chain(NET_GEMM_PLAIN, 3));
    esp_wsp masked;
    esp_error err = {0};
    (void)state;

    esp_mask_clear_filter(&test.masks[0], 1);
    esp_mask_clear_channel(&test.masks[1], 2);
    expect_ok(esp_wsp_pairs(test.view.graph, test.view.layers, test.masks, &masked, &err), &err);
    assert_true(masked.pairs[0].filter_l1[1] == 0 && masked.pairs[0].channel_l1[2] == 0);
    assert_true(masked.pairs[0].filter_l1[2] == test.wsp.pairs[0].filter_l1[2]);
    assert_true(masked.pairs[1].filter_l1[0] < test.wsp.pairs[1].filter_l1[0]);
    esp_wsp_free(&masked);
    done_with(&test);
}

static void wsp_cuts_filters_and_the_readers_columns_of_all_pairs(void **state)
{
    wsp_case test = pairs_of(net_chain(NET_GEMM_PLAIN, 4));
    (void)state;

    test.wsp.pairs[0].weak[0] = 2; /* of Conv1 */
    test.wsp.pairs[0].weak_count = 1;
    test.wsp.pairs[1].weak[0] = 1; /* of Conv3: columns 4 to 7 of the first Gemm */
    test.wsp.pairs[1].weak_count = 1;
    esp_wsp_apply(&test.wsp, test.masks);
    assert_string_equal(mask_text(&test.masks[0]), "11 11 00 11");
    assert_string_equal(mask_text(&test.masks[1]), "1101 0000 1101");
    for (int64_t c = 0; c < 12; c++)
        assert_int_equal(esp_mask_channel_is_read(&test.masks[2], c), c < 4 || c > 7);
    assert_int_equal(esp_mask_kept(&test.masks[3]), 6 * 5);
    done_with(&test);
}

static void pairs_whose_sizes_do_not_fit_are_left_out_with_a_reason(void **state)
{
    net_tensor x, y;
    net n = net_start(2, 6, 6, 1, &x);
    (void)state;

    x = net_conv3(&n, x, 4);                                /* Conv1 */
    y = net_conv3(&n, x, 3);                                /* Conv2 */
    net_output(&n, net_conv3(&n, net_concat(&n, x, y), 2)); /* Concat3, Conv4 */
    wsp_case test = pairs_of(net_finish(&n));
    assert_int_equal(test.wsp.pair_count, 1);
    assert_non_null(find_pair(&test, "Conv1"));
    assert_string_equal(why_left_out(&test, "Conv2"), "3 filters, but 'Conv4' reads 7 channels");
    done_with(&test);
}

static void writers_of_outputs_inside_the_network_are_left_out(void **state)
{
    net_tensor x, head;
    net n = net_start(2, 6, 6, 1, &x);
    (void)state;

    x = net_conv3(&n, x, 4);                              /* Conv1 */
    head = net_unary(&n, "Sigmoid", net_conv3(&n, x, 4)); /* Conv2: an output */
    x = net_conv3(&n, x, 4);                              /* Conv4 */
    net_output(&n, head);
    net_output(&n, net_conv3(&n, x, 2)); /* Conv5 */
    wsp_case test = pairs_of(net_finish(&n));
    assert_null(find_pair(&test, "Conv2"));
    assert_string_equal(why_left_out(&test, "Conv2"), "network output: its filters stay");
    assert_non_null(find_pair(&test, "Conv4"));
    done_with(&test);
}

/* ---- coupled sets ---- */

static double mean(const double *values, int64_t count)
{
    double total = 0;

    for (int64_t i = 0; i < count; i++)
        total += values[i];
    return total / (double)count;
}

static void set_scores_add_up_writers_and_readers_in_units_of_their_means(void **state)
{
    wsp_case test = sets_of(net_residual(7));
    const esp_layers *layers = test.view.layers;
    /* the first residual stream: written by the stem and Conv7, read by Conv4, Conv11 and the shortcut */
    static const char *const writers[] = {"Conv1", "Conv7"}, *const readers[] = {"Conv4", "Conv11", "Conv16"};
    double filter[6] = {0}, channel[6] = {0};
    const esp_wsp_pair *pair = find_pair(&test, "Conv1");
    esp_error err = {0};
    (void)state;

    for (int i = 0; i < 5; i++) {
        int l = net_layer(&test.view, i < 2 ? writers[i] : readers[i - 2]);
        esp_layer_l1 norms;
        expect_ok(esp_layer_l1_of(test.view.graph, &layers->items[l], &test.masks[l], &norms, &err), &err);
        for (int c = 0; c < 6; c++) {
            if (i < 2)
                filter[c] += norms.filters[c] / mean(norms.filters, 6);
            else
                channel[c] += norms.channels[c] / mean(norms.channels, 6);
        }
        esp_layer_l1_free(&norms);
    }
    assert_non_null(pair);
    assert_int_equal(pair->channels, 6);
    for (int c = 0; c < 6; c++) {
        assert_int_equal(pair->filters[c], c);
        assert_true(fabs(pair->filter_l1[c] - filter[c]) < 1e-9);
        assert_true(fabs(pair->channel_l1[c] - channel[c]) < 1e-9);
    }
    done_with(&test);
}

static void sets_are_cut_in_all_writers_and_readers(void **state)
{
    wsp_case test = sets_of(net_residual(8));
    static const char *const writers[] = {"Conv1", "Conv7"}, *const readers[] = {"Conv4", "Conv11", "Conv16"};
    esp_error err = {0};
    (void)state;

    for (int i = 0; i < test.wsp.pair_count; i++)
        if (test.wsp.pairs[i].writer == net_layer(&test.view, "Conv1")) {
            test.wsp.pairs[i].weak[0] = 3;
            test.wsp.pairs[i].weak_count = 1;
        }
    expect_ok(esp_wsp_apply_sets(&test.wsp, test.view.coupling, test.view.layers, test.masks, &err), &err);
    for (int i = 0; i < 2; i++)
        assert_false(esp_mask_filter_is_live(&test.masks[net_layer(&test.view, writers[i])], 3));
    for (int i = 0; i < 3; i++)
        assert_false(esp_mask_channel_is_read(&test.masks[net_layer(&test.view, readers[i])], 3));
    assert_true(esp_mask_filter_is_live(&test.masks[net_layer(&test.view, "Conv4")], 3));
    assert_int_equal(esp_mask_kept(&test.masks[net_layer(&test.view, "Conv14")]), 64);
    done_with(&test);
}

static void border_sets_sum_a_channels_columns(void **state)
{
    wsp_case pairs = pairs_of(net_chain(NET_GEMM_PLAIN, 9)), sets = sets_of(net_chain(NET_GEMM_PLAIN, 9));
    const esp_wsp_pair *pair = find_pair(&pairs, "Conv3"), *set = find_pair(&sets, "Conv3");
    (void)state;

    assert_int_equal(set->span, 4);
    for (int c = 0; c < 3; c++) {
        assert_true(fabs(set->channel_l1[c] - pair->channel_l1[c] / mean(pair->channel_l1, 3)) < 1e-9);
        assert_true(fabs(set->filter_l1[c] - pair->filter_l1[c] / mean(pair->filter_l1, 3)) < 1e-9);
    }
    done_with(&pairs);
    done_with(&sets);
}

static void pinned_sets_are_left_out_with_what_pins_them(void **state)
{
    wsp_case test = sets_of(net_residual(10));
    (void)state;

    assert_null(find_pair(&test, "Gemm22"));
    assert_non_null(strstr(why_left_out(&test, "Gemm22"), "network output"));
    done_with(&test);
}

static void weights_that_are_not_finite_are_named(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 1);
    float values[4 * 2 * 9] = {0};
    esp_error err = {0};
    esp_mask masks[4];
    esp_wsp wsp;
    (void)state;

    values[20] = INFINITY; /* filter 1 of Conv1 */
    net_view view = net_look(net_with_values(graph, net_weight_name(graph, "Conv1"), values));
    for (int l = 0; l < 4; l++)
        expect_ok(
            esp_mask_new(view.layers->items[l].filters, view.layers->items[l].channels, &masks[l], &err),
            &err);
    assert_int_equal(esp_wsp_pairs(view.graph, view.layers, masks, &wsp, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "layer 'Conv1': filter 1"));
    for (int l = 0; l < 4; l++)
        esp_mask_free(&masks[l]);
    net_forget(&view);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wsp_takes_only_what_is_weak_by_both_norms),
        cmocka_unit_test(wsp_keeps_ties_at_the_threshold),
        cmocka_unit_test(wsp_ratio_zero_takes_nothing_and_none_is_ever_all),
        cmocka_unit_test(wsp_refuses_ratios_out_of_range),
        cmocka_unit_test(pairs_follow_the_order_of_layers_without_shortcuts),
        cmocka_unit_test(pair_norms_agree_with_naive_sums_on_every_kind_of_pair),
        cmocka_unit_test(pair_norms_do_not_see_masked_weights),
        cmocka_unit_test(wsp_cuts_filters_and_the_readers_columns_of_all_pairs),
        cmocka_unit_test(pairs_whose_sizes_do_not_fit_are_left_out_with_a_reason),
        cmocka_unit_test(writers_of_outputs_inside_the_network_are_left_out),
        cmocka_unit_test(set_scores_add_up_writers_and_readers_in_units_of_their_means),
        cmocka_unit_test(sets_are_cut_in_all_writers_and_readers),
        cmocka_unit_test(border_sets_sum_a_channels_columns),
        cmocka_unit_test(pinned_sets_are_left_out_with_what_pins_them),
        cmocka_unit_test(weights_that_are_not_finite_are_named),
    };
    return cmocka_run_group_tests_name("wsp", tests, NULL, NULL);
}
