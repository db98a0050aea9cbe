/* Masks: bits, groups of equal rows, and what a model carries. */
#include <string.h>

#include "base/memory.h"
#include "prune/mask.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

static esp_mask whole(int64_t filters, int64_t channels)
{
    esp_mask mask;
    esp_error err = {0};

    expect_ok(esp_mask_new(filters, channels, &mask, &err), &err);
    return mask;
}

static void mask_starts_whole_at_any_width(void **state)
{
    static const int64_t widths[] = {1, 63, 64, 65, 128, 200};
    (void)state;

    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        esp_mask mask = whole(3, widths[i]);
        assert_int_equal(esp_mask_kept(&mask), 3 * widths[i]);
        assert_int_equal(esp_mask_channels_read(&mask), widths[i]);
        assert_true(esp_mask_get(&mask, 2, widths[i] - 1));
        esp_mask_free(&mask);
    }
}

static void mask_clears_cells_filters_and_channels(void **state)
{
    esp_mask mask = whole(3, 70);
    (void)state;

    esp_mask_clear(&mask, 1, 69);
    assert_false(esp_mask_get(&mask, 1, 69));
    assert_true(esp_mask_get(&mask, 0, 69) && esp_mask_get(&mask, 1, 68));
    esp_mask_clear_filter(&mask, 0);
    assert_int_equal(esp_mask_filter_kept(&mask, 0), 0);
    assert_false(esp_mask_filter_is_live(&mask, 0));
    assert_true(esp_mask_filter_is_live(&mask, 1));
    esp_mask_clear_channel(&mask, 2);
    assert_int_equal(esp_mask_kept(&mask), 70 + 70 - 1 - 2);
    assert_false(esp_mask_channel_is_read(&mask, 2));
    assert_true(esp_mask_channel_is_read(&mask, 69)); /* by filter 2 */
    assert_int_equal(esp_mask_channels_read(&mask), 69);
    esp_mask_free(&mask);
}

static void mask_clone_is_equal_and_its_own(void **state)
{
    esp_mask mask = whole(2, 66), copy;
    esp_error err = {0};
    (void)state;

    esp_mask_clear(&mask, 1, 65);
    expect_ok(esp_mask_clone(&mask, &copy, &err), &err);
    assert_true(esp_mask_equal(&mask, &copy));
    esp_mask_clear(&copy, 0, 0);
    assert_false(esp_mask_equal(&mask, &copy));
    assert_true(esp_mask_get(&mask, 0, 0));
    esp_mask_free(&mask);
    esp_mask_free(&copy);
}

static void executed_groups_are_sets_of_equal_rows(void **state)
{
    esp_mask mask = whole(7, 65);
    int32_t groups[7];
    static const int32_t expected[] = {0, 1, 0, 2, 1, 3, 3};
    (void)state;

    esp_mask_clear(&mask, 1, 64);
    esp_mask_clear(&mask, 4, 64);
    esp_mask_clear(&mask, 3, 63);
    esp_mask_clear_filter(&mask, 5);
    esp_mask_clear_filter(&mask, 6);
    assert_int_equal(esp_mask_executed_groups(&mask, groups), 4);
    assert_memory_equal(groups, expected, sizeof expected);
    esp_mask_free(&mask);
}

/* Applies a mask to the weight of a layer and checks every element against its (filter, channel). */
static void check_apply(const char *node, net_fc_form form)
{
    net_view view = net_look(net_chain(form, 1));
    const esp_layer *layer = &view.layers->items[net_layer(&view, node)];
    const esp_tensor *weight = esp_graph_value(view.graph, layer->weight)->constant;
    int64_t positions = layer->kernel_h * layer->kernel_w, count = esp_tensor_elements(weight);
    float *before = esp_alloc((size_t)count, sizeof *before),
          *after = esp_alloc((size_t)count, sizeof *after);
    esp_mask mask = whole(layer->filters, layer->channels);
    esp_tensor *masked;
    esp_error err = {0};

    esp_mask_clear_filter(&mask, 1);
    esp_mask_clear(&mask, 2, 0);
    expect_ok(esp_mask_apply(&mask, layer, weight, &masked, &err), &err);
    esp_layer_weight_canonical(layer, weight, before);
    esp_layer_weight_canonical(layer, masked, after);
    for (int64_t i = 0; i < count; i++) {
        bool is_kept = esp_mask_get(&mask, i / positions / layer->channels, i / positions % layer->channels);
        assert_true(after[i] == (is_kept ? before[i] : 0));
    }
    esp_free(before);
    esp_free(after);
    esp_mask_free(&mask);
    esp_tensor_unref(masked);
    net_forget(&view);
}

static void mask_applies_along_the_stored_axes(void **state)
{
    (void)state;
    check_apply("Conv3", NET_GEMM_PLAIN);
    check_apply("Gemm7", NET_GEMM_PLAIN);
    check_apply("Gemm7", NET_GEMM_TRANSPOSED);
    check_apply("MatMul7", NET_MATMUL);
}

static void mask_of_another_size_is_refused(void **state)
{
    net_view view = net_look(net_chain(NET_GEMM_PLAIN, 1));
    const esp_layer *layer = &view.layers->items[net_layer(&view, "Conv3")];
    esp_mask mask = whole(layer->filters, layer->channels + 1);
    esp_tensor *masked;
    esp_error err = {0};
    (void)state;

    assert_int_equal(
        esp_mask_apply(&mask, layer, esp_graph_value(view.graph, layer->weight)->constant, &masked, &err),
        ESP_SHAPE);
    assert_non_null(strstr(err.message, "Conv3"));
    assert_null(masked);
    esp_mask_free(&mask);
    net_forget(&view);
}

/* The chain with one filter and one slice of Conv3 at zero, and metadata. */
static esp_graph *masked_chain(const char *names)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 2), *marked;
    const char *weight = net_weight_name(graph, "Conv3");
    float values[3 * 4 * 9];
    esp_error err = {0};

    for (int i = 0; i < 108; i++)
        values[i] = i < 36 || (i >= 63 && i < 72) ? 0 : 1; /* filter 0, and channel 3 of filter 1 */
    graph = net_with_values(graph, weight, values);
    expect_ok(esp_graph_with_metadata(graph, ESP_MASKS_KEY, names, &marked, &err), &err);
    esp_graph_unref(graph);
    return marked;
}

static esp_mask carried(const net_view *view, const char *node)
{
    esp_mask mask;
    esp_error err = {0};

    expect_ok(esp_mask_of_layer(view->graph, &view->layers->items[net_layer(view, node)], &mask, &err), &err);
    return mask;
}

static void model_carries_masks_of_listed_layers_only(void **state)
{
    esp_graph *plain = net_chain(NET_GEMM_PLAIN, 2);
    char names[80];
    (void)state;

    snprintf(names, sizeof names, "[\"%s\"]", net_weight_name(plain, "Conv3"));
    esp_graph_unref(plain);
    net_view view = net_look(masked_chain(names)), unlisted = net_look(masked_chain("[\"other\"]"));
    esp_mask mask = carried(&view, "Conv3");
    assert_string_equal(mask_text(&mask), "0000 1110 1111");
    esp_mask_free(&mask);
    mask = carried(&unlisted, "Conv3");
    assert_string_equal(mask_text(&mask), "1111 1111 1111");
    esp_mask_free(&mask);
    net_forget(&view);
    net_forget(&unlisted);
}

static void held_masks_keep_zero_slices_of_listed_layers(void **state)
{
    esp_graph *plain = net_chain(NET_GEMM_PLAIN, 2);
    char names[80];
    esp_held_masks held;
    esp_error err = {0};
    (void)state;

    snprintf(names, sizeof names, "[\"gone\",\"%s\"]", net_weight_name(plain, "Conv3"));
    esp_graph *graph = masked_chain(names);
    expect_ok(esp_held_masks_of(graph, &held, &err), &err);
    assert_int_equal(held.count, 1);
    assert_string_equal(esp_graph_value(graph, held.items[0].value)->name, net_weight_name(plain, "Conv3"));
    for (int i = 0; i < 108; i++)
        assert_int_equal(held.items[0].keep[i], !(i < 36 || (i >= 63 && i < 72)));
    esp_held_masks_free(&held);
    esp_graph_unref(graph);
    expect_ok(esp_held_masks_of(plain, &held, &err), &err);
    assert_int_equal(held.count, 0);
    esp_held_masks_free(&held);
    esp_graph_unref(plain);
}

/* MatMul takes weights that are no matrix; a name in the metadata does not make layers of them. */
static void names_of_what_is_no_layers_weight_hold_nothing(void **state)
{
    net_tensor x;
    net n = net_start(3, 1, 1, 1, &x);
    esp_held_masks held;
    esp_error err = {0};
    (void)state;

    net_tensor flat = net_flatten(&n, x);
    int inputs[2] = {flat.value, net_random(&n, "vector", 1, (int64_t[]){3}, 0, 0)};
    net_output(&n, net_node(&n, "MatMul", inputs, 2, NULL, 0, (net_tensor){0}));
    esp_graph *plain = net_finish(&n), *graph;
    expect_ok(esp_graph_with_metadata(plain, ESP_MASKS_KEY, "[\"vector\"]", &graph, &err), &err);
    expect_ok(esp_held_masks_of(graph, &held, &err), &err);
    assert_int_equal(held.count, 0);
    esp_held_masks_free(&held);
    esp_graph_unref(graph);
    esp_graph_unref(plain);
}

static void malformed_mask_metadata_is_named(void **state)
{
    static const char *const texts[] = {"[", "{}", "[3]"};
    (void)state;

    for (int i = 0; i < 3; i++) {
        esp_graph *graph = masked_chain(texts[i]);
        esp_held_masks held;
        esp_error err = {0};
        assert_int_equal(esp_held_masks_of(graph, &held, &err), ESP_FORMAT);
        assert_non_null(strstr(err.message, ESP_MASKS_KEY));
        esp_graph_unref(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mask_starts_whole_at_any_width),
        cmocka_unit_test(mask_clears_cells_filters_and_channels),
        cmocka_unit_test(mask_clone_is_equal_and_its_own),
        cmocka_unit_test(executed_groups_are_sets_of_equal_rows),
        cmocka_unit_test(mask_applies_along_the_stored_axes),
        cmocka_unit_test(mask_of_another_size_is_refused),
        cmocka_unit_test(model_carries_masks_of_listed_layers_only),
        cmocka_unit_test(held_masks_keep_zero_slices_of_listed_layers),
        cmocka_unit_test(names_of_what_is_no_layers_weight_hold_nothing),
        cmocka_unit_test(malformed_mask_metadata_is_named),
    };
    return cmocka_run_group_tests_name("mask", tests, NULL, NULL);
}
