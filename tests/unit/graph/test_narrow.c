/* How data-moving operators rewrite their numbers when channels were cut: the narrowed node, given the kept
 * input channels, must produce exactly the kept output channels. */
#include "unit/graph/net.h"

#include <string.h>

#include "base/arena.h"

typedef struct narrowing {
    esp_graph *graph;
    esp_inferred *inferred;
    esp_arena *arena;
    esp_view inputs[8], outputs[1];
    const esp_view *pointers[8];
    esp_narrow_context context;
} narrowing;

/* The last node of the network, with channel axis `in` before and `out` after. */
static void open_narrowing(narrowing *t, net *n, int y, int in, int out)
{
    esp_error err = {0};
    memset(t, 0, sizeof *t);
    net_output(n, y);
    t->graph = net_finish(n);
    must(esp_infer(t->graph, 1, NULL, 0, &t->inferred, &err), &err);
    t->arena = esp_arena_new();
    assert_non_null(t->arena);
    int node = esp_graph_node_count(t->graph) - 1;
    esp_inferred_views(t->inferred, t->graph, node, t->inputs, t->pointers, t->outputs);
    t->context = (esp_narrow_context){.node = esp_graph_node(t->graph, node),
                                      .opset = esp_graph_opset(t->graph),
                                      .inputs = t->pointers,
                                      .output = &t->outputs[0],
                                      .input_axis = in,
                                      .output_axis = out,
                                      .arena = t->arena};
}

static void keep(narrowing *t, const int64_t *input, int input_count, const int64_t *output, int output_count,
                 const int64_t *source)
{
    t->context.input_kept = input;
    t->context.input_kept_count = input_count;
    t->context.output_kept = output;
    t->context.output_kept_count = output_count;
    t->context.output_source = source;
}

static void close_narrowing(narrowing *t)
{
    for (int i = 0; i < 8; i++)
        esp_tensor_unref(t->context.new_inputs[i]);
    esp_arena_free(t->arena);
    esp_inferred_free(t->inferred);
    esp_graph_unref(t->graph);
}

static void narrow(narrowing *t)
{
    esp_error err = {0};
    must(t->context.node->op->narrow(&t->context, &err), &err);
}

static void assert_ints(const esp_tensor *tensor, int count, const int64_t *expected)
{
    assert_non_null(tensor);
    assert_int_equal(esp_tensor_elements(tensor), count);
    for (int i = 0; i < count; i++)
        assert_int_equal(esp_tensor_get_i64(tensor, i), expected[i]);
}
#define I64S(...) ((const int64_t[]){__VA_ARGS__})

static void reshape_takes_the_new_count_and_frees_the_batch(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    open_narrowing(&t, &n, net_add(&n, "Reshape", IN(x, net_ints(&n, 2, 1, 12)), NULL), 1, 1);
    keep(&t, I64S(0, 2), 2, I64S(0, 1, 2, 3, 8, 9, 10, 11), 8, NULL);
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 2, I64S(0, 8));
    close_narrowing(&t);
}

static void reshape_that_infers_its_channels_stays(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    open_narrowing(&t, &n, net_add(&n, "Reshape", IN(x, net_ints(&n, 2, 0, -1)), NULL), 1, 1);
    keep(&t, I64S(0), 1, I64S(0, 1, 2, 3), 4, NULL);
    narrow(&t);
    assert_null(t.context.new_inputs[1]);
    close_narrowing(&t);
    n = net_new(13);
    x = net_input(&n, "x", S4(1, 3, 2, 2));
    open_narrowing(&t, &n, net_add(&n, "Reshape", IN(x, net_ints(&n, 3, 0, 0, 4)), NULL), 1, 1);
    keep(&t, I64S(0), 1, I64S(0), 1, NULL);
    narrow(&t);
    assert_null(t.context.new_inputs[1]);
    close_narrowing(&t);
}

static void slice_bounds_follow_the_kept_channels(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 6, 2, 2));
    int y = net_add(&n, "Slice", IN(x, net_ints(&n, 2, 0, 2), net_ints(&n, 2, 2, 6), net_ints(&n, 2, 3, 1)),
                    NULL);
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(0, 1, 3, 4), 4, I64S(1, 2), 2, I64S(2, 3, 4, 5)); /* outputs 3 and 4 are now at 2 and 3 */
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 2, I64S(0, 2));
    assert_ints(t.context.new_inputs[2], 2, I64S(2, 4));
    close_narrowing(&t);
}

static void slice_backwards_to_the_first_channel(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 4, 1, 1));
    int y = net_add(&n, "Slice",
                    IN(x, net_ints(&n, 1, -1), net_ints(&n, 1, -9), net_ints(&n, 1, 1), net_ints(&n, 1, -1)),
                    NULL);
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(0, 1, 3), 3, I64S(0, 2, 3), 3, I64S(3, 2, 1, 0));
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 1, I64S(2));
    assert_ints(t.context.new_inputs[2], 1, I64S(-4)); /* -1 would mean the last channel */
    assert_ints(t.context.new_inputs[4], 1, I64S(-1));
    close_narrowing(&t);
}

static void slice_attributes_are_rewritten_in_old_opsets(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(9);
    int x = net_input(&n, "x", S4(1, 6, 2, 2));
    int y = net_add(&n, "Slice", IN(x), AT(INTS("starts", 2), INTS("ends", 6), INTS("axes", 1)));
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(1, 2, 5), 3, I64S(0, 3), 2, I64S(2, 3, 4, 5));
    narrow(&t);
    assert_int_equal(t.context.new_attr_count, 2);
    assert_string_equal(t.context.new_attrs[0].name, "starts");
    assert_int_equal(t.context.new_attrs[0].ints[0], 1);
    assert_string_equal(t.context.new_attrs[1].name, "ends");
    assert_int_equal(t.context.new_attrs[1].ints[0], 3);
    close_narrowing(&t);
}

static void slice_of_other_axes_stays(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 6, 4, 4));
    int y = net_add(
        &n, "Slice",
        IN(x, net_ints(&n, 2, 0, 0), net_ints(&n, 2, 4, 4), net_ints(&n, 2, 2, 3), net_ints(&n, 2, 2, 2)),
        NULL);
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(1, 5), 2, I64S(1, 5), 2, I64S(0, 1, 2, 3, 4, 5));
    narrow(&t);
    for (int i = 0; i < 5; i++)
        assert_null(t.context.new_inputs[i]);
    close_narrowing(&t);
}

static void a_slice_of_scattered_channels_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 6, 2, 2));
    int y = net_add(&n, "Slice", IN(x, net_ints(&n, 1, 0), net_ints(&n, 1, 6), net_ints(&n, 1, 1)), NULL);
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(0, 1, 2, 3), 4, I64S(0, 1, 3), 3, I64S(0, 1, 2, 3, 4, 5));
    assert_int_equal(t.context.node->op->narrow(&t.context, &err), ESP_UNSUPPORTED);
    close_narrowing(&t);
}

static void pad_keeps_as_much_padding_as_was_kept(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    int y = net_add(&n, "Pad", IN(x, net_ints(&n, 8, 0, 2, 1, 0, 0, 2, 0, 1)), NULL);
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(0, 2), 2, I64S(1, 2, 4), 3, I64S(-1, -1, 0, 1, 2, -1, -1));
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 8, I64S(0, 1, 1, 0, 0, 0, 0, 1));
    close_narrowing(&t);
    n = net_new(18);
    x = net_input(&n, "x", S4(1, 3, 2, 2));
    y = net_add(&n, "Pad", IN(x, net_ints(&n, 4, 1, 2, 1, 2), NET_NONE, net_ints(&n, 2, 3, -3)), NULL);
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(1), 1, I64S(3, 6), 2, I64S(-1, -1, 0, 1, 2, -1, -1));
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 4, I64S(1, 0, 1, 1));
    close_narrowing(&t);
}

static void pad_attributes_are_rewritten_in_old_opsets(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(9);
    int x = net_input(&n, "x", S4(1, 2, 2, 2));
    int y = net_add(&n, "Pad", IN(x), AT(INTS("pads", 0, 1, 0, 0, 0, 1, 0, 0)));
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(1), 1, I64S(2, 3), 2, I64S(-1, 0, 1, -1));
    narrow(&t);
    assert_int_equal(t.context.new_attr_count, 1);
    assert_memory_equal(t.context.new_attrs[0].ints, I64S(0, 0, 0, 0, 0, 1, 0, 0), 8 * sizeof(int64_t));
    close_narrowing(&t);
}

static void gather_indices_point_at_the_new_places(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 5, 2, 2));
    int y = net_add(&n, "Gather", IN(x, net_ints(&n, 4, 4, 0, -2, 4)), AT(esp_attr_int("axis", 1)));
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(4, 3, 1), 3, I64S(0, 2, 3), 3, I64S(4, 0, 3, 4));
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 3, I64S(0, 1, 0));
    close_narrowing(&t);
}

static void a_kept_channel_whose_source_is_cut_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    int y = net_add(&n, "Gather", IN(x, net_ints(&n, 2, 0, 1)), AT(esp_attr_int("axis", 1)));
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(0, 2), 2, I64S(0, 1), 2, I64S(0, 1));
    assert_int_equal(t.context.node->op->narrow(&t.context, &err), ESP_INVALID);
    close_narrowing(&t);
}

static void expand_takes_the_new_count(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 1, 1));
    open_narrowing(&t, &n, net_add(&n, "Expand", IN(x, net_ints(&n, 3, 3, 2, 2)), NULL), 1, 1);
    keep(&t, I64S(0, 2), 2, I64S(0, 2), 2, I64S(0, 1, 2));
    narrow(&t);
    assert_ints(t.context.new_inputs[1], 3, I64S(2, 2, 2));
    close_narrowing(&t);
}

static void resize_sizes_take_the_new_count(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    open_narrowing(&t, &n,
                   net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 4, 1, 3, 4, 4)), NULL), 1, 1);
    keep(&t, I64S(0, 2), 2, I64S(0, 2), 2, I64S(0, 1, 2));
    narrow(&t);
    assert_ints(t.context.new_inputs[3], 4, I64S(1, 2, 4, 4));
    close_narrowing(&t);
    n = net_new(18);
    x = net_input(&n, "x", S4(1, 3, 2, 2));
    open_narrowing(&t, &n,
                   net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 3, 4, 3, 5)),
                           AT(INTS("axes", 2, -3, 3))),
                   1, 1);
    keep(&t, I64S(0, 2), 2, I64S(0, 2), 2, I64S(0, 1, 2));
    narrow(&t);
    assert_ints(t.context.new_inputs[3], 3, I64S(4, 2, 5));
    close_narrowing(&t);
}

static void resize_sizes_of_other_axes_stay(void **state)
{
    (void)state;
    narrowing t;
    net n = net_new(18);
    int x = net_input(&n, "x", S4(1, 3, 2, 2));
    open_narrowing(
        &t, &n,
        net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 2, 4, 4)), AT(INTS("axes", 2, 3))), 1,
        1);
    keep(&t, I64S(1), 1, I64S(1), 1, I64S(0, 1, 2));
    narrow(&t);
    assert_null(t.context.new_inputs[3]);
    close_narrowing(&t);
}

static void a_resize_of_channels_is_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 2, 2, 2));
    open_narrowing(&t, &n,
                   net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 4, 1, 4, 2, 2)), NULL), 1, 1);
    keep(&t, I64S(1), 1, I64S(2, 3), 2, I64S(0, 0, 1, 1));
    assert_int_equal(t.context.node->op->narrow(&t.context, &err), ESP_UNSUPPORTED);
    close_narrowing(&t);
}

/* Whole rounds of the kept channels need no new number; anything else has none. */
static void repeated_channels_stay_whole_rounds(void **state)
{
    (void)state;
    esp_error err = {0};
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 1, 1));
    open_narrowing(&t, &n, net_add(&n, "Tile", IN(x, net_ints(&n, 4, 1, 2, 1, 1)), NULL), 1, 1);
    keep(&t, I64S(0, 2), 2, I64S(0, 2, 3, 5), 4, I64S(0, 1, 2, 0, 1, 2));
    narrow(&t);
    assert_null(t.context.new_inputs[1]);
    keep(&t, I64S(0, 2), 2, I64S(0, 2, 3), 3, I64S(0, 1, 2, 0, 1, 2));
    assert_int_equal(t.context.node->op->narrow(&t.context, &err), ESP_UNSUPPORTED);
    close_narrowing(&t);
    n = net_new(13);
    x = net_input(&n, "x", S4(1, 2, 2, 2));
    open_narrowing(&t, &n, net_add(&n, "SpaceToDepth", IN(x), AT(esp_attr_int("blocksize", 2))), 1, 1);
    keep(&t, I64S(1), 1, I64S(1, 3, 5, 7), 4, I64S(0, 1, 0, 1, 0, 1, 0, 1));
    narrow(&t);
    keep(&t, I64S(0, 1), 2, I64S(0, 2, 1, 3), 4, I64S(0, 1, 0, 1, 0, 1, 0, 1));
    assert_int_equal(t.context.node->op->narrow(&t.context, &err), ESP_UNSUPPORTED);
    close_narrowing(&t);
}

static void reflected_channels_are_refused(void **state)
{
    (void)state;
    esp_error err = {0};
    narrowing t;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 1, 1));
    int y = net_add(&n, "Pad", IN(x, net_ints(&n, 8, 0, 1, 0, 0, 0, 0, 0, 0)),
                    AT(esp_attr_string("mode", "reflect")));
    open_narrowing(&t, &n, y, 1, 1);
    keep(&t, I64S(0, 1), 2, I64S(0, 1, 2), 3, I64S(1, 0, 1, 2));
    assert_int_equal(t.context.node->op->narrow(&t.context, &err), ESP_UNSUPPORTED);
    close_narrowing(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reshape_takes_the_new_count_and_frees_the_batch),
        cmocka_unit_test(reshape_that_infers_its_channels_stays),
        cmocka_unit_test(slice_bounds_follow_the_kept_channels),
        cmocka_unit_test(slice_backwards_to_the_first_channel),
        cmocka_unit_test(slice_attributes_are_rewritten_in_old_opsets),
        cmocka_unit_test(slice_of_other_axes_stays),
        cmocka_unit_test(a_slice_of_scattered_channels_is_refused),
        cmocka_unit_test(pad_keeps_as_much_padding_as_was_kept),
        cmocka_unit_test(pad_attributes_are_rewritten_in_old_opsets),
        cmocka_unit_test(gather_indices_point_at_the_new_places),
        cmocka_unit_test(a_kept_channel_whose_source_is_cut_is_refused),
        cmocka_unit_test(expand_takes_the_new_count),
        cmocka_unit_test(resize_sizes_take_the_new_count),
        cmocka_unit_test(resize_sizes_of_other_axes_stay),
        cmocka_unit_test(a_resize_of_channels_is_refused),
        cmocka_unit_test(repeated_channels_stay_whole_rounds),
        cmocka_unit_test(reflected_channels_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
