/* Layers whose weights are stored in other ways than [filters, channels, kh, kw]: transposed convolutions, in
 * groups too, signals and volumes. What saliency, masks and counters make of them is compared with plain
 * loops over the stored axes. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/weights.h"
#include "unit/prune/surgery_checks.h"

enum { CHANNELS = 4, FILTERS = 6, GROUPS = 2, PLACES = 3 * 2 };

/* x [N,4,5,5] -> ConvTranspose, weight "up" [4, 3, 3, 2] in two groups -> Conv. */
static net_view transposed_in_groups(void)
{
    net_tensor x;
    net n = net_start(CHANNELS, 5, 5, 3, &x);
    const int64_t dims[4] = {CHANNELS, FILTERS / GROUPS, 3, 2};
    const esp_attr group = esp_attr_int("group", GROUPS);
    net_tensor a = net_conv1(&n, x, CHANNELS);
    const int inputs[2] = {a.value, net_random(&n, "up", 4, dims, 0.5, 0)};
    net_tensor y = net_node(&n, "ConvTranspose", inputs, 2, &group, 1, (net_tensor){-1, FILTERS, 7, 6});
    net_output(&n, net_conv1(&n, y, 2));
    return net_look(net_finish(&n));
}

static const esp_layer *up_layer(const net_view *view)
{
    return &view->layers->items[net_layer(view, "up")];
}

static const float *up_weight(const net_view *view)
{
    return esp_tensor_f32(esp_graph_value(view->graph, esp_graph_find_value(view->graph, "up"))->constant);
}

/* Element `place` of filter f and the c-th channel of its group, by the ONNX specification: W[channel of all,
 * filter of the group, ...]. */
static int64_t stored_at(int f, int c, int place)
{
    int group = f / (FILTERS / GROUPS), row = group * (CHANNELS / GROUPS) + c;
    return ((int64_t)row * (FILTERS / GROUPS) + f % (FILTERS / GROUPS)) * PLACES + place;
}

static void transposed_groups_are_described(void **state)
{
    (void)state;
    net_view view = transposed_in_groups();
    const esp_layer *layer = up_layer(&view);
    assert_int_equal(layer->filters, FILTERS);
    assert_int_equal(layer->channels, CHANNELS / GROUPS);
    assert_int_equal(layer->group, GROUPS);
    assert_int_equal(layer->kernel_rank, 2);
    assert_int_equal(layer->kernel[0], 3);
    assert_int_equal(layer->kernel[1], 2);
    assert_int_equal(layer->kernel_positions, PLACES);
    assert_int_equal(layer->positions, 25);
    assert_int_equal(layer->params, CHANNELS * FILTERS / GROUPS * PLACES);
    assert_int_equal(layer->macs, layer->params * 25);
    net_forget(&view);
}

static void slices_lie_where_the_specification_says(void **state)
{
    (void)state;
    net_view view = transposed_in_groups();
    const esp_layer *layer = up_layer(&view);
    const float *weight = up_weight(&view);
    float canonical[FILTERS * CHANNELS / GROUPS * PLACES], *next = canonical;
    esp_layer_weight_canonical(
        layer, esp_graph_value(view.graph, esp_graph_find_value(view.graph, "up"))->constant, canonical);
    for (int f = 0; f < FILTERS; f++) {
        for (int c = 0; c < CHANNELS / GROUPS; c++) {
            assert_int_equal(esp_layer_slice(layer, f, c), stored_at(f, c, 0));
            for (int p = 0; p < PLACES; p++)
                assert_true(*next++ == weight[stored_at(f, c, p)]);
        }
    }
    net_forget(&view);
}

static void masks_clear_their_slices_and_are_read_back(void **state)
{
    (void)state;
    esp_error err = {0};
    net_view view = transposed_in_groups();
    const esp_layer *layer = up_layer(&view);
    int value = esp_graph_find_value(view.graph, "up");
    const float *weight = up_weight(&view);
    esp_mask mask, again;
    esp_tensor *masked;
    esp_graph *changed, *noted;
    esp_held_masks held;
    expect_ok(esp_mask_new(layer->filters, layer->channels, &mask, &err), &err);
    esp_mask_clear(&mask, 1, 0);
    esp_mask_clear(&mask, 4, 1);
    esp_mask_clear_filter(&mask, 5);
    expect_ok(esp_mask_apply(&mask, layer, esp_graph_value(view.graph, value)->constant, &masked, &err),
              &err);
    for (int f = 0; f < FILTERS; f++) {
        for (int k = 0; k < CHANNELS / GROUPS * PLACES; k++) {
            int64_t at = stored_at(f, k / PLACES, k % PLACES);
            float expected = esp_mask_get(&mask, f, k / PLACES) ? weight[at] : 0.0F;
            assert_true(esp_tensor_f32(masked)[at] == expected);
        }
    }
    expect_ok(esp_graph_with_constants(view.graph, 1, &value, &masked, &changed, &err), &err);
    expect_ok(esp_graph_with_metadata(changed, ESP_MASKS_KEY, "[\"up\"]", &noted, &err), &err);
    expect_ok(esp_mask_of_layer(noted, layer, &again, &err), &err);
    assert_true(esp_mask_equal(&mask, &again));
    expect_ok(esp_held_masks_of(noted, &held, &err), &err);
    assert_int_equal(held.count, 1);
    for (int64_t i = 0; i < CHANNELS * FILTERS / GROUPS * PLACES; i++)
        assert_int_equal(held.items[0].keep[i], esp_tensor_f32(masked)[i] != 0);
    esp_held_masks_free(&held);
    esp_mask_free(&mask);
    esp_mask_free(&again);
    esp_tensor_unref(masked);
    esp_graph_unref(noted);
    esp_graph_unref(changed);
    net_forget(&view);
}

static void norms_add_up_what_each_filter_and_channel_has(void **state)
{
    (void)state;
    esp_error err = {0};
    net_view view = transposed_in_groups();
    const esp_layer *layer = up_layer(&view);
    const float *weight = up_weight(&view);
    esp_mask mask;
    esp_layer_l1 norms;
    expect_ok(esp_mask_new(layer->filters, layer->channels, &mask, &err), &err);
    esp_mask_clear(&mask, 4, 1);
    expect_ok(esp_layer_l1_of(view.graph, layer, &mask, &norms, &err), &err);
    double channels[CHANNELS / GROUPS] = {0};
    for (int f = 0; f < FILTERS; f++) {
        double sum = 0;
        for (int k = 0; k < CHANNELS / GROUPS * PLACES; k++) {
            double part =
                f == 4 && k / PLACES == 1 ? 0 : fabs((double)weight[stored_at(f, k / PLACES, k % PLACES)]);
            sum += part;
            channels[k / PLACES] += part;
        }
        assert_true(fabs(norms.filters[f] - sum) <= 1e-12 * sum);
    }
    for (int c = 0; c < CHANNELS / GROUPS; c++)
        assert_true(fabs(norms.channels[c] - channels[c]) <= 1e-12 * channels[c]);
    esp_layer_l1_free(&norms);
    esp_mask_free(&mask);
    net_forget(&view);
}

/* Conv of a signal [N,3,8] and of a volume [N,3,4,4,4]. */
static void signals_and_volumes_have_layers(void **state)
{
    (void)state;
    for (int rank = 1; rank <= 3; rank += 2) {
        esp_error err = {0};
        net n = {0};
        int x, y = -1, inputs[2];
        esp_shape shape = {.rank = rank + 2, .dims = {ESP_DIM_BATCH, 3, rank == 1 ? 8 : 4, 4, 4}};
        const int64_t dims[5] = {5, 3, 3, 2, 2};
        esp_rng_seed(&n.rng, 4);
        expect_ok(esp_builder_new("net", 13, 8, &n.builder, &err), &err);
        expect_ok(esp_builder_input(n.builder, "x", ESP_F32, &shape, "N", &x, &err), &err);
        inputs[0] = x;
        inputs[1] = net_random(&n, "weight", rank + 2, dims, 0.5, 0);
        expect_ok(esp_builder_add(n.builder, "Conv", "conv", inputs, 2, NULL, 0, "y", &y, &err), &err);
        expect_ok(esp_builder_output(n.builder, y, ESP_F32, NULL, &err), &err);
        net_view view = net_look(net_finish(&n));
        const esp_layer *layer = &view.layers->items[net_layer(&view, "conv")];
        int64_t places = rank == 1 ? 3 : 12, outputs = rank == 1 ? 6 : 2 * 3 * 3;
        assert_int_equal(layer->kernel_rank, rank);
        assert_int_equal(layer->kernel_positions, places);
        assert_int_equal(layer->kernel_h * layer->kernel_w, places);
        assert_int_equal(layer->positions, outputs);
        assert_int_equal(layer->macs, 5 * 3 * places * outputs);
        esp_counts counts;
        expect_ok(esp_graph_count(view.graph, view.inferred, &counts, &err), &err);
        assert_int_equal(counts.macs, layer->macs);
        assert_int_equal(counts.params, 5 * 3 * places);
        net_forget(&view);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transposed_groups_are_described),
        cmocka_unit_test(slices_lie_where_the_specification_says),
        cmocka_unit_test(masks_clear_their_slices_and_are_read_back),
        cmocka_unit_test(norms_add_up_what_each_filter_and_channel_has),
        cmocka_unit_test(signals_and_volumes_have_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
