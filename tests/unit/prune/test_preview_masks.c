/* Masks in a model's metadata: they come back as they were, whatever zeros the weights have of their own. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "unit/prune/prune_nets.h"
#include "unit/prune/surgery_checks.h"

/* Conv1 (3 -> 6) - Relu - Conv3 (6 -> 4), biases, 3x3. In Conv3's weight, which has 24 slices, training has
 * made all of filter 2 zero, and what filter 0 reads of channel 5. */
static esp_graph *net_with_zeros(void)
{
    net_tensor x;
    float values[4 * 6 * 9];
    net n = net_start(3, 6, 6, 51, &x);
    net_output(&n, net_conv3(&n, net_unary(&n, "Relu", net_conv3(&n, x, 6)), 4));
    esp_graph *graph = net_finish(&n);
    for (int i = 0; i < 4 * 6 * 9; i++)
        values[i] = i / 54 == 2 || i / 9 == 5 ? 0.0f : 1.0f + (float)i;
    return net_with_values(graph, net_weight_name(graph, "Conv3"), values);
}

static esp_mask carried(const esp_graph *graph, const char *node)
{
    net_view view = net_look(esp_graph_ref(graph));
    esp_mask mask;
    esp_error err = {0};
    expect_ok(esp_mask_of_layer(graph, &view.layers->items[net_layer(&view, node)], &mask, &err), &err);
    net_forget(&view);
    return mask;
}

static void expect_carried(const esp_graph *graph, const char *node, const char *rows)
{
    esp_mask mask = carried(graph, node);
    assert_string_equal(mask_text(&mask), rows);
    esp_mask_free(&mask);
}

/* Channel 1 of filters 1 and 3 of Conv3 is masked. */
static esp_graph *masked_net(void)
{
    esp_graph *graph = net_with_zeros(), *masked;
    esp_error err = {0};
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_mask_clear(check_mask(preview, "Conv3"), 1, 1);
    esp_mask_clear(check_mask(preview, "Conv3"), 3, 1);
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    esp_preview_free(preview);
    esp_graph_unref(graph);
    return masked;
}

static esp_graph *read_again(esp_graph *take_graph)
{
    esp_error err = {0};
    void *data;
    size_t size;
    esp_graph *again;
    expect_ok(esp_onnx_serialize(take_graph, &data, &size, &err), &err);
    expect_ok(esp_onnx_parse(data, size, "net", &again, &err), &err);
    esp_free(data);
    esp_graph_unref(take_graph);
    return again;
}

static esp_graph *with_bits(esp_graph *take_graph, const char *bits)
{
    esp_error err = {0};
    esp_graph *changed;
    expect_ok(esp_graph_with_metadata(take_graph, ESP_MASK_BITS_KEY, bits, &changed, &err), &err);
    esp_graph_unref(take_graph);
    return changed;
}

static void zeros_of_the_weights_are_no_masks_after_reading(void **state)
{
    esp_held_masks held;
    esp_error err = {0};
    (void)state;

    esp_graph *graph = read_again(masked_net());
    expect_carried(graph, "Conv3", "111111 101111 111111 101111");
    expect_carried(graph, "Conv1", "111 111 111 111 111 111");
    expect_ok(esp_held_masks_of(graph, &held, &err), &err);
    assert_int_equal(held.count, 1);
    for (int i = 0; i < 4 * 6 * 9; i++) /* what is zero by itself may grow again */
        assert_int_equal(held.items[0].keep[i], !(i / 9 == 7 || i / 9 == 19));
    esp_held_masks_free(&held);
    esp_graph_unref(graph);
}

/* 24 slices less 2 under masks: those that are zero by themselves count. */
static void counts_are_the_same_after_reading(void **state)
{
    esp_counts counts;
    esp_error err = {0};
    (void)state;

    esp_graph *graph = read_again(masked_net());
    net_view view = net_look(graph);
    expect_ok(esp_model_count(view.graph, view.inferred, &counts, &err), &err);
    assert_int_equal(counts.params, 6 * 3 * 9 + 6 + 22 * 9 + 4);
    assert_int_equal(counts.macs, 36 * (6 * 3 * 9 + 22 * 9));
    net_forget(&view);
}

static void files_with_names_alone_are_read_by_their_zeros(void **state)
{
    (void)state;
    esp_graph *graph = with_bits(masked_net(), NULL);
    expect_carried(graph, "Conv3", "111110 101111 000000 101111");
    esp_graph_unref(graph);
}

/* A later version, another size, rows that are not there: as if nothing was noted. */
static void notes_that_do_not_fit_are_passed_over(void **state)
{
    static const char *const notes[] = {
        "{\"version\":2,\"masks\":7}",
        "{\"version\":1,\"masks\":{}}",
        "{\"version\":1,\"masks\":{\"%s\":{\"channels\":5,\"rows\":[\"ff\"],\"filters\":[0,0,0,0]}}}",
        "{\"version\":1,\"masks\":{\"%s\":{\"channels\":6,\"rows\":[\"ff\"],\"filters\":[0,0,0]}}}",
        "{\"version\":1,\"masks\":{\"%s\":{\"channels\":6,\"rows\":[\"ff\"],\"filters\":[0,0,1,0]}}}",
        "{\"version\":1,\"masks\":{\"%s\":{\"channels\":6,\"rows\":[\"fg\"],\"filters\":[0,0,0,0]}}}",
        "{\"version\":1,\"masks\":{\"%s\":{\"channels\":6,\"rows\":[],\"filters\":[0,0,0,0]}}}",
        "{\"version\":1,\"masks\":{\"%s\":[]}}",
    };
    (void)state;

    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        char text[256];
        esp_graph *graph = masked_net();
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, notes[i], net_weight_name(graph, "Conv3"));
#pragma GCC diagnostic pop
        graph = with_bits(graph, text);
        expect_carried(graph, "Conv3", "111110 101111 000000 101111");
        esp_graph_unref(graph);
    }
}

static void notes_that_are_no_notes_are_refused_by_name(void **state)
{
    static const char *const texts[] = {"[", "[]", "{}", "{\"version\":\"1\"}"};
    (void)state;

    for (int i = 0; i < 4; i++) {
        esp_graph *graph = with_bits(masked_net(), texts[i]);
        esp_held_masks held;
        esp_error err = {0};
        assert_int_equal(esp_held_masks_of(graph, &held, &err), ESP_FORMAT);
        assert_non_null(strstr(err.message, ESP_MASK_BITS_KEY));
        esp_graph_unref(graph);
    }
}

/* Somebody gave numbers to a slice that was masked: the note is out of date there. */
static void a_slice_with_numbers_is_not_masked(void **state)
{
    float values[4 * 6 * 9];
    (void)state;

    for (int i = 0; i < 4 * 6 * 9; i++)
        values[i] = i / 9 == 7 ? 0.0f : 1.0f; /* the other one, 19, has grown */
    esp_graph *graph = masked_net();
    graph = net_with_values(graph, net_weight_name(graph, "Conv3"), values);
    expect_carried(graph, "Conv3", "111111 101111 111111 111111");
    esp_graph_unref(graph);
}

/* Rows of more than 64 channels, filters that share rows, and what surgery leaves of them. */
static void wide_masks_survive_surgery_and_reading(void **state)
{
    esp_error err = {0};
    net_tensor x;
    esp_graph *cut;
    esp_surgery_options options = esp_surgery_defaults();
    (void)state;

    net n = net_start(3, 2, 2, 52, &x);
    net_output(&n, net_conv1(&n, net_conv1(&n, x, 130), 9));
    esp_graph *graph = net_finish(&n);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    esp_mask *mask = check_mask(preview, "Conv2");
    for (int64_t f = 0; f < 9; f++)
        for (int64_t c = 0; c < 130; c++)
            if (f % 3 != 0 && (c * 7 + f % 3) % 5 == 0)
                esp_mask_clear(mask, f, c);
    expect_ok(esp_surgery(NULL, preview, &options, &cut, NULL, &err), &err);
    cut = read_again(cut);
    esp_mask again = carried(cut, "Conv2");
    assert_true(esp_mask_equal(mask, &again));
    esp_mask_free(&again);
    esp_preview_free(preview);
    esp_graph_unref(cut);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeros_of_the_weights_are_no_masks_after_reading),
        cmocka_unit_test(counts_are_the_same_after_reading),
        cmocka_unit_test(files_with_names_alone_are_read_by_their_zeros),
        cmocka_unit_test(notes_that_do_not_fit_are_passed_over),
        cmocka_unit_test(notes_that_are_no_notes_are_refused_by_name),
        cmocka_unit_test(a_slice_with_numbers_is_not_masked),
        cmocka_unit_test(wide_masks_survive_surgery_and_reading),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
