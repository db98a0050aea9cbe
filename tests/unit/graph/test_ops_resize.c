/* Resize and Upsample. Expected values: the examples of the operator's specification (opset 18 and 19), and
 * PyTorch 1.13's interpolate for what exporters write. */
#include "unit/graph/op_check.h"

#include <stdlib.h>
#include <string.h>

#include "unit/graph/block_nets.h"

#define TOLERANCE 1e-5 /* printed digits of the expected values */

/* 1 to count in a square image. */
static int counting_image(net *n, int height, int width)
{
    float values[16];
    for (int i = 0; i < height * width; i++)
        values[i] = (float)(i + 1);
    return net_constant(n, S4(1, 1, height, width), values);
}

static int sized(net *n, int x, int height, int width, const esp_attr *attrs)
{
    return net_add(n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(n, 4, 1, 1, height, width)), attrs);
}

static int scaled(net *n, int x, float height, float width, const esp_attr *attrs)
{
    int scales = net_constant(n, S1(4), F32S(1.0f, 1.0f, height, width));
    return net_add(n, "Resize", IN(x, NET_NONE, scales), attrs);
}

#define WORD(name, value)  esp_attr_string((name), (value))
#define COORDINATES(value) esp_attr_string("coordinate_transformation_mode", (value))

static void interpolates_as_pytorch(void **state)
{
    (void)state;
    net n = net_new(13);
    expect_f32(&n, sized(&n, op_ramp(&n, S4(1, 1, 4, 5)), 3, 7, AT(WORD("mode", "linear"))), S4(1, 1, 3, 7),
               F32S(-4.66667f, -0.666667f, 1.19048f, -1.66667f, 2.02381f, 2.57143f, 1.33333f, -2, -1.14286f,
                    -0.0714287f, 1, -1.85714f, 0, 4, 0.666667f, -1.61905f, -1.33333f, 3.66667f, 0.809524f,
                    -1.26191f, -2.5f),
               TOLERANCE);
    n = net_new(13);
    expect_f32(&n,
               sized(&n, op_ramp(&n, S4(1, 1, 4, 5)), 3, 7,
                     AT(WORD("mode", "linear"), COORDINATES("align_corners"))),
               S4(1, 1, 3, 7),
               F32S(-5, -0.333333f, 0.666667f, -2, 2.66667f, 3.66667f, 1, -2, -1, 0, 1, -1.66667f, -0.666666f,
                    4, 1, -1.66667f, -0.666666f, 4, 1.33333f, -1.33333f, -4),
               TOLERANCE);
    n = net_new(13);
    expect_f32(&n,
               sized(&n, op_ramp(&n, S4(1, 1, 4, 5)), 5, 3,
                     AT(WORD("mode", "cubic"), COORDINATES("pytorch_half_pixel"))),
               S4(1, 1, 5, 3),
               F32S(-2.69557f, -2.1215f, 2.77415f, -0.903408f, -0.778499f, 0.932241f, -1.61111f, 1, 1.89873f,
                    -2.31881f, 2.7785f, 1.24974f, -0.526647f, 4.1215f, -3.29934f),
               TOLERANCE);
}

static void interpolates_signals_and_volumes(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = op_ramp(&n, shape_of(5, 1, 1, 2, 2, 2));
    expect_f32(&n,
               net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 5, 1, 1, 3, 2, 3)),
                       AT(WORD("mode", "linear"))),
               shape_of(5, 1, 1, 3, 2, 3),
               F32S(-5, -1.5f, 2, -2, 1.5f, 5, -2, -1.25f, -0.5f, 1, 1.75f, 2.5f, 1, -1, -3, 4, 2, 0),
               TOLERANCE);
    n = net_new(13);
    x = op_ramp(&n, S3(1, 2, 3));
    expect_f32(&n,
               net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 3, 1, 2, 5)),
                       AT(WORD("mode", "linear"))),
               S3(1, 2, 5), F32S(-5, -2.2f, 2, -0.4f, -2, 5, 3.4f, 1, -1.4f, -3), TOLERANCE);
}

/* The specification's own filter repeats the border; PyTorch leaves out what lies outside. */
static void antialiasing_stretches_the_filter(void **state)
{
    (void)state;
    net n = net_new(18);
    esp_attr antialias = esp_attr_int("antialias", 1);
    expect_f32(&n, scaled(&n, counting_image(&n, 4, 4), 0.6f, 0.6f, AT(WORD("mode", "linear"), antialias)),
               S4(1, 1, 2, 2), F32S(2.875f, 4.5f, 9.375f, 11.0f), TOLERANCE);
    n = net_new(18);
    expect_f32(&n, sized(&n, counting_image(&n, 4, 4), 3, 3, AT(WORD("mode", "cubic"), antialias)),
               S4(1, 1, 3, 3),
               F32S(1.7750092f, 3.1200073f, 4.4650054f, 7.1550016f, 8.5f, 9.844998f, 12.534994f, 13.8799925f,
                    15.224991f),
               TOLERANCE);
    n = net_new(18);
    expect_f32(&n,
               sized(&n, op_ramp(&n, S4(1, 1, 4, 5)), 2, 3,
                     AT(WORD("mode", "cubic"), antialias, esp_attr_float("cubic_coeff_a", -0.5f),
                        esp_attr_int("exclude_outside", 1))),
               S4(1, 1, 2, 3), F32S(-1.23344f, 0.177993f, 1.53789f, -1.50922f, 0.425812f, -0.149079f),
               TOLERANCE);
    n = net_new(18);
    expect_f32(&n,
               sized(&n, op_ramp(&n, S4(1, 1, 4, 5)), 2, 3,
                     AT(WORD("mode", "linear"), antialias, esp_attr_int("exclude_outside", 1))),
               S4(1, 1, 2, 3), F32S(-1.2449f, 0.126984f, 1.44898f, -1.46939f, 0.476191f, -0.122449f),
               TOLERANCE);
}

static void axes_say_what_is_resized(void **state)
{
    (void)state;
    net n = net_new(18);
    int x = counting_image(&n, 4, 4), sizes = net_ints(&n, 2, 3, 3);
    int roi = net_constant(&n, S1(4), F32S(0.6f, 0.4f, 0.8f, 0.6f));
    expect_f32(&n,
               net_add(&n, "Resize", IN(x, roi, NET_NONE, sizes),
                       AT(WORD("mode", "linear"), COORDINATES("tf_crop_and_resize"), INTS("axes", -1, 2))),
               S4(1, 1, 3, 3), F32S(7.6000004f, 7.9f, 8.2f, 8.8f, 9.1f, 9.400001f, 10.0f, 10.3f, 10.6f),
               TOLERANCE);
    n = net_new(18);
    x = counting_image(&n, 2, 2);
    int scales = net_constant(&n, S1(2), F32S(3.0f, 2.0f));
    expect_f32(&n, net_add(&n, "Resize", IN(x, NET_NONE, scales), AT(INTS("axes", 3, 2))), S4(1, 1, 4, 6),
               F32S(1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 3, 3, 3, 4, 4, 4), 0);
}

static void one_scale_keeps_the_aspect_ratio(void **state)
{
    (void)state;
    esp_attr axes = INTS("axes", 2, 3);
    net n = net_new(18);
    int x = counting_image(&n, 2, 4);
    expect_f32(&n,
               net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 2, 1, 3)),
                       AT(axes, WORD("keep_aspect_ratio_policy", "not_larger"))),
               S4(1, 1, 1, 2), F32S(1, 3), 0);
    n = net_new(18);
    x = counting_image(&n, 2, 2);
    int y = net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 2, 7, 8)),
                    AT(axes, WORD("keep_aspect_ratio_policy", "not_smaller")));
    op_results results = op_run(&n, &y, 1);
    assert_shape(esp_inferred_shape(results.inferred, esp_graph_output(results.graph, 0)), S4(1, 1, 8, 8));
    op_results_free(&results);
}

static void symmetric_coordinates_keep_the_centre(void **state)
{
    (void)state;
    net n = net_new(19);
    expect_f32(&n,
               scaled(&n, counting_image(&n, 1, 4), 1.0f, 0.6f,
                      AT(WORD("mode", "linear"), COORDINATES("half_pixel_symmetric"))),
               S4(1, 1, 1, 2), F32S(1.6666667f, 3.3333333f), TOLERANCE);
}

/* Positions 0, 0.5, 1, 1.5, ... of 1 2 3 4. */
static void nearest_positions_round_as_asked(void **state)
{
    (void)state;
    static const char *const modes[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"};
    static const float expected[][8] = {{1, 1, 2, 2, 3, 3, 4, 4},
                                        {1, 2, 2, 3, 3, 4, 4, 4},
                                        {1, 1, 2, 2, 3, 3, 4, 4},
                                        {1, 2, 2, 3, 3, 4, 4, 4}};
    for (int i = 0; i < 4; i++) {
        net n = net_new(13);
        expect_f32(&n,
                   scaled(&n, counting_image(&n, 1, 4), 1.0f, 2.0f,
                          AT(WORD("nearest_mode", modes[i]), COORDINATES("asymmetric"))),
                   S4(1, 1, 1, 8), expected[i], 0);
    }
    net n = net_new(13); /* positions 0.25, 0.75, ... of which ceil and floor differ from rounding */
    expect_f32(&n,
               scaled(&n, counting_image(&n, 1, 4), 1.0f, 2.0f,
                      AT(WORD("nearest_mode", "ceil"), COORDINATES("tf_half_pixel_for_nn"))),
               S4(1, 1, 1, 8), F32S(2, 2, 3, 3, 4, 4, 4, 4), 0);
}

static void what_lies_outside_a_crop_is_extrapolated(void **state)
{
    (void)state;
    const float roi[] = {0, 0, 0, -0.5f, 1, 1, 1, 0.5f};
    const char *const modes[] = {"nearest", "linear"};
    for (int i = 0; i < 2; i++) {
        net n = net_new(13);
        int x = counting_image(&n, 1, 3), corners = net_constant(&n, S1(8), roi);
        expect_f32(&n,
                   net_add(&n, "Resize", IN(x, corners, NET_NONE, net_ints(&n, 4, 1, 1, 1, 3)),
                           AT(WORD("mode", modes[i]), COORDINATES("tf_crop_and_resize"),
                              esp_attr_float("extrapolation_value", 9.0f))),
                   S4(1, 1, 1, 3), F32S(9, 1, 2), TOLERANCE);
    }
}

static void integers_are_resized_to_the_nearest(void **state)
{
    (void)state;
    net n = net_new(13);
    int scales = net_constant(&n, S1(1), F32S(2.0f));
    expect_i64(&n, net_add(&n, "Resize", IN(net_ints(&n, 2, 7, -3), NET_NONE, scales), NULL), S1(4),
               I64S(7, 7, -3, -3));
    n = net_new(13);
    scales = net_constant(&n, S1(1), F32S(2.0f));
    int y = net_add(&n, "Resize", IN(net_ints(&n, 2, 7, -3), NET_NONE, scales), AT(WORD("mode", "linear")));
    expect_refused(&n, y, ESP_UNSUPPORTED, "interpolation of int64");
}

static void old_versions_round_down(void **state)
{
    (void)state;
    const float scales[] = {1.0f, 1.0f, 1.0f, 1.5f};
    esp_attr attr = {.name = "scales", .type = ESP_ATTR_FLOATS, .count = 4, .floats = scales};
    net n = net_new(7);
    expect_f32(&n, net_add(&n, "Upsample", IN(counting_image(&n, 1, 4)), AT(attr)), S4(1, 1, 1, 6),
               F32S(1, 1, 2, 3, 3, 4), 0);
    const int opsets[] = {9, 10};
    const char *const operators[] = {"Upsample", "Resize"};
    for (int i = 0; i < 2; i++) {
        n = net_new(opsets[i]);
        int x = counting_image(&n, 1, 4);
        expect_f32(&n, net_add(&n, operators[i], IN(x, net_constant(&n, S1(4), scales)), NULL),
                   S4(1, 1, 1, 6), F32S(1, 1, 2, 3, 3, 4), 0);
    }
}

static void impossible_sizes_are_refused(void **state)
{
    (void)state;
    net n = net_new(13);
    expect_refused(&n, scaled(&n, counting_image(&n, 2, 2), 1e12f, 1.0f, NULL), ESP_SHAPE,
                   "cannot be scaled");
    n = net_new(13);
    expect_refused(&n, scaled(&n, counting_image(&n, 2, 2), -1.0f, 1.0f, NULL), ESP_SHAPE,
                   "cannot be scaled");
    n = net_new(13);
    int x = counting_image(&n, 2, 2);
    expect_refused(&n, net_add(&n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(&n, 2, 4, 4)), NULL),
                   ESP_SHAPE, "2 sizes, expected 4");
    n = net_new(13);
    expect_refused(&n, net_add(&n, "Resize", IN(counting_image(&n, 2, 2)), NULL), ESP_FORMAT,
                   "neither scales nor sizes");
}

/* All nodes that read "x" or what comes of it are images that can be in blocks. */
static void assert_runs_in_blocks(const esp_graph *graph)
{
    esp_engine engine = {.isa = ESP_ISA_PLAIN, .has_blocked = true};
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 2, .engine = &engine});
    for (int i = 0; i < esp_graph_node_count(graph); i++)
        assert_int_equal(esp_exec_node(exec, i).layout, ESP_LAYOUT_BLOCKED);
    esp_exec_free(exec);
}

/* In channel blocks the same comes out; parts of a concatenation lie with gaps between images. */
static void blocked_images_are_resized_and_padded_alike(void **state)
{
    (void)state;
    const char *const modes[] = {"nearest", "linear", "cubic"}, *const pads[] = {"constant", "reflect",
                                                                                 "edge"};
    for (int i = 0; i < 3; i++) {
        esp_engine engines[6];
        net n = net_new(13);
        int64_t count;
        int x = net_input(&n, "x", shape_of(4, ESP_DIM_BATCH, 3, 6, 5));
        int wide = block_conv(&n, x, 3, 32, 3, 1), other = block_conv(&n, x, 3, 20, 3, 1);
        int pad =
            net_add(&n, "Pad", IN(wide, net_ints(&n, 8, 0, 0, 2, 1, 0, 0, 1, -1)), AT(WORD("mode", pads[i])));
        int up = scaled(&n, pad, 1.5f, 2.0f, AT(WORD("mode", modes[i])));
        int joined = block_concat(&n, IN(up, scaled(&n, other, 2.25f, 2.0f, AT(WORD("mode", modes[i])))));
        net_output(&n, block_conv(&n, joined, 52, 16, 1, 1));
        esp_graph *graph = net_finish(&n);
        assert_runs_in_blocks(graph);
        float *expected = evaluate_under(graph, &plain_images, NULL, 1, &count);
        for (int e = 0; e < block_engines(engines); e++) {
            float *found = evaluate_under(graph, &engines[e], NULL, 1, &count);
            assert_true(relative_error(found, expected, count) < 2e-5);
            free(found);
        }
        free(expected);
        esp_graph_unref(graph);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interpolates_as_pytorch),
        cmocka_unit_test(interpolates_signals_and_volumes),
        cmocka_unit_test(antialiasing_stretches_the_filter),
        cmocka_unit_test(axes_say_what_is_resized),
        cmocka_unit_test(one_scale_keeps_the_aspect_ratio),
        cmocka_unit_test(symmetric_coordinates_keep_the_centre),
        cmocka_unit_test(nearest_positions_round_as_asked),
        cmocka_unit_test(what_lies_outside_a_crop_is_extrapolated),
        cmocka_unit_test(integers_are_resized_to_the_nearest),
        cmocka_unit_test(old_versions_round_down),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(blocked_images_are_resized_and_padded_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
