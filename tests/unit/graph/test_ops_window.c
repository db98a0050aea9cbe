/* Convolutions and pools of signals, images and volumes. Expected values: PyTorch 1.13 on the same data,
 * where nothing else is said. */
#include "unit/graph/op_check.h"

#define TOLERANCE 1e-5

static int bias(net *n)
{
    return net_constant(n, S1(2), F32S(1.0f, -2.0f));
}

static void convolves_signals(void **state)
{
    (void)state;
    net n = net_new(13);
    int y = net_add(&n, "Conv", IN(op_ramp(&n, S3(1, 4, 6)), op_weights(&n, S3(2, 2, 3)), bias(&n)),
                    AT(INTS("strides", 2), INTS("pads", 1, 1), esp_attr_int("group", 2)));
    expect_f32(&n, y, S3(1, 2, 3), F32S(3, -18, -26, -24, -22, 30), TOLERANCE);
}

static void convolves_volumes(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = op_ramp(&n, shape_of(5, 1, 1, 3, 3, 4)), w = op_weights(&n, shape_of(5, 2, 1, 2, 2, 3));
    int y =
        net_add(&n, "Conv", IN(x, w, bias(&n)), AT(INTS("strides", 1, 1, 2), INTS("pads", 0, 1, 1, 0, 1, 1)));
    expect_f32(&n, y, shape_of(5, 1, 2, 2, 4, 2),
               F32S(-22, -11, -1, -14, 2, 8, -18, 10, 24, 10, 8, 8, -22, -14, 0, -11, -2, 8, 1, -33, -1, 16,
                    -3, 7, -2, -21, -5, 15, -7, 20, 2, -15),
               TOLERANCE);
}

/* ceil(size / stride) outputs; the odd pixel of padding at the end or at the beginning. */
static void same_padding_puts_the_odd_pixel_where_asked(void **state)
{
    (void)state;
    const char *const modes[] = {"SAME_UPPER", "SAME_LOWER", "VALID"};
    const float expected[][3] = {{3, 7, 5}, {1, 5, 9}, {3, 7, 0}};
    for (int i = 0; i < 3; i++) {
        net n = net_new(13);
        int x = net_constant(&n, S3(1, 1, 5), F32S(1, 2, 3, 4, 5)),
            w = net_constant(&n, S3(1, 1, 2), F32S(1, 1));
        int y = net_add(&n, "Conv", IN(x, w), AT(esp_attr_string("auto_pad", modes[i]), INTS("strides", 2)));
        expect_f32(&n, y, S3(1, 1, i == 2 ? 2 : 3), expected[i], 0);
    }
}

static void transposed_convolution_of_signals(void **state)
{
    (void)state;
    net n = net_new(13);
    int y = net_add(&n, "ConvTranspose", IN(op_ramp(&n, S3(1, 2, 3)), op_weights(&n, S3(2, 2, 3)), bias(&n)),
                    AT(INTS("strides", 2), INTS("pads", 1, 1), INTS("output_padding", 1)));
    expect_f32(&n, y, S3(1, 2, 6), F32S(-24, 4, 2, 12, 6, -5, -27, 4, 2, 7, -2, -13), TOLERANCE);
}

static void transposed_convolution_of_images(void **state)
{
    (void)state;
    net n = net_new(13);
    int y = net_add(&n, "ConvTranspose", IN(op_ramp(&n, S4(1, 4, 2, 2)), op_weights(&n, S4(4, 1, 2, 3))),
                    AT(INTS("strides", 2, 1), INTS("pads", 1, 0, 1, 0), INTS("output_padding", 1, 0),
                       INTS("dilations", 1, 2), esp_attr_int("group", 2)));
    expect_f32(&n, y, S4(1, 2, 3, 6),
               F32S(10, -4, -17, 12, -2, -7, 2, -15, -16, 10, 8, 0, 4, -10, -14, 15, 10, 5, -14, 12, 4, -4, 8,
                    -6, 14, -2, 6, 6, -2, 14, -17, -13, 10, 2, 2, 10),
               TOLERANCE);
}

static void transposed_convolution_of_volumes(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = op_ramp(&n, shape_of(5, 1, 1, 2, 2, 2)), w = op_weights(&n, shape_of(5, 1, 1, 2, 2, 2));
    int y = net_add(&n, "ConvTranspose", IN(x, w, net_constant(&n, S1(1), F32S(0.5f))),
                    AT(INTS("strides", 1, 2, 1)));
    expect_f32(&n, y, shape_of(5, 1, 1, 3, 4, 3),
               F32S(15.5f, -15.5f, 4.5f, 0.5f, 10.5f, -3.5f, 6.5f, -18.5f, 10.5f, 0.5f, 4.5f, -9.5f, -17.5f,
                    12.5f, -3.5f, 5.5f, 11.5f, 0.5f, -17.5f, 21.5f, 5.5f, 2.5f, -6.5f, -14.5f, 3.5f, -7.5f,
                    -2.5f, -0.5f, 0.5f, 9.5f, 12.5f, 4.5f, 0.5f, -3.5f, -11.5f, 0.5f),
               TOLERANCE);
}

/* The sums of a 3-tap kernel of ones at stride 2 over 1 2: 1 1 3 2 2, of which 4 are wanted. */
static void an_output_shape_decides_the_padding(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_constant(&n, S3(1, 1, 2), F32S(1, 2)), w = net_constant(&n, S3(1, 1, 3), F32S(1, 1, 1));
    expect_f32(&n, net_add(&n, "ConvTranspose", IN(x, w), AT(INTS("strides", 2), INTS("output_shape", 4))),
               S3(1, 1, 4), F32S(1, 3, 2, 2), 0);
    n = net_new(13);
    x = net_constant(&n, S3(1, 1, 2), F32S(1, 2));
    w = net_constant(&n, S3(1, 1, 3), F32S(1, 1, 1));
    expect_f32(&n,
               net_add(&n, "ConvTranspose", IN(x, w),
                       AT(INTS("strides", 2), esp_attr_string("auto_pad", "SAME_UPPER"))),
               S3(1, 1, 4), F32S(1, 1, 3, 2), 0);
}

static void a_transposed_convolution_counts_per_input_position(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_inferred *inferred;
    esp_counts counts;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 3, 5, 4));
    net_output(&n, net_add(&n, "ConvTranspose", IN(x, net_constant(&n, S4(3, 2, 3, 3), NULL)),
                           AT(INTS("strides", 2, 2))));
    esp_graph *graph = net_finish(&n);
    must(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    must(esp_graph_count(graph, inferred, &counts, &err), &err);
    assert_int_equal(counts.macs, 5 * 4 * 3 * 2 * 3 * 3);
    assert_int_equal(counts.params, 3 * 2 * 3 * 3);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void max_pools_tell_where_the_maxima_are(void **state)
{
    (void)state;
    net n = net_new(13);
    int outputs[2];
    esp_shape shape = S4(1, 2, 3, 3);
    op_node(&n, "MaxPool", IN(op_ramp(&n, S4(1, 2, 5, 5))),
            AT(INTS("kernel_shape", 3, 3), INTS("strides", 2, 2), INTS("pads", 1, 1, 1, 1),
               esp_attr_int("ceil_mode", 1)),
            outputs, 2);
    op_results results = op_run(&n, outputs, 2);
    expect_value_f32(&results, 0, shape, F32S(4, 5, 5, 4, 4, 5, 3, 4, 2, 5, 4, 4, 5, 5, 4, 2, 5, 1), 0);
    expect_value_i64(&results, 1, shape,
                     I64S(6, 3, 3, 6, 6, 14, 20, 17, 23, 25, 28, 28, 36, 36, 39, 45, 47, 48));
    op_results_free(&results);
    n = net_new(13); /* columns first: 3 is at row 1, column 0 of 2x3 */
    op_node(&n, "MaxPool", IN(net_constant(&n, S4(1, 1, 2, 3), F32S(0, 1, 2, 3, 0, 0))),
            AT(INTS("kernel_shape", 2, 3), esp_attr_int("storage_order", 1)), outputs, 2);
    results = op_run(&n, outputs, 2);
    expect_value_i64(&results, 1, S4(1, 1, 1, 1), I64S(1));
    op_results_free(&results);
}

static void max_pools_of_signals_and_volumes(void **state)
{
    (void)state;
    net n = net_new(13);
    expect_f32(
        &n,
        net_add(&n, "MaxPool", IN(op_ramp(&n, S3(1, 2, 7))),
                AT(INTS("kernel_shape", 3), INTS("strides", 2), INTS("pads", 1, 1), INTS("dilations", 2))),
        S3(1, 2, 3), F32S(5, 5, 5, -1, 2, 2), 0);
    n = net_new(13);
    expect_f32(&n,
               net_add(&n, "MaxPool", IN(op_ramp(&n, shape_of(5, 1, 1, 3, 4, 4))),
                       AT(INTS("kernel_shape", 2, 3, 2), INTS("strides", 1, 2, 3),
                          INTS("pads", 1, 1, 0, 1, 1, 0), esp_attr_int("ceil_mode", 1))),
               shape_of(5, 1, 1, 4, 3, 2),
               F32S(2, 5, 3, 1, 2, 1, 4, 5, 5, 3, 4, 3, 5, 4, 5, 5, 4, 5, 5, 4, 5, 5, 2, 5), 0);
}

static void averages_count_padding_when_asked(void **state)
{
    (void)state;
    net n = net_new(13);
    esp_attr counts = esp_attr_int("count_include_pad", 1), ceil = esp_attr_int("ceil_mode", 1);
    expect_f32(&n,
               net_add(&n, "AveragePool", IN(op_ramp(&n, S3(1, 2, 7))),
                       AT(INTS("kernel_shape", 3), INTS("strides", 2), INTS("pads", 1, 1), counts, ceil)),
               S3(1, 2, 4), F32S(-1, 1.66667f, 1, 0.333333f, -1.33333f, -0.666667f, -1.33333f, 0), TOLERANCE);
    n = net_new(13);
    expect_f32(&n,
               net_add(&n, "AveragePool", IN(op_ramp(&n, S4(1, 1, 6, 5))),
                       AT(INTS("kernel_shape", 3, 2), INTS("strides", 2, 2), INTS("pads", 1, 1, 1, 1), counts,
                          ceil)),
               S4(1, 1, 4, 3),
               F32S(-1.33333f, 0.666667f, 0.833333f, -0.5f, 0.333333f, -0.333333f, 1.5f, -1.16667f, 0, 1.25f,
                    -0.5f, 1),
               TOLERANCE);
    n = net_new(13);
    expect_f32(&n,
               net_add(&n, "AveragePool", IN(op_ramp(&n, shape_of(5, 1, 1, 3, 4, 4))),
                       AT(INTS("kernel_shape", 2, 3, 2), INTS("strides", 2, 2, 2),
                          INTS("pads", 1, 1, 0, 1, 1, 0), ceil)),
               shape_of(5, 1, 1, 2, 3, 2),
               F32S(-1.25f, 1.75f, -0.5f, 0.666667f, 0, 3, 0.375f, -0.75f, 0.666667f, 0, 0.25f, 0.5f),
               TOLERANCE);
}

static void norms_of_windows(void **state)
{
    (void)state;
    net n = net_new(13);
    expect_f32(&n,
               net_add(&n, "LpPool", IN(op_ramp(&n, S4(1, 1, 4, 5))),
                       AT(INTS("kernel_shape", 2, 2), INTS("strides", 2, 1), esp_attr_int("p", 3))),
               S4(1, 1, 2, 4),
               F32S(6.07318f, 4.30887f, 5.81865f, 6.00924f, 5.36011f, 6.07318f, 4.30887f, 5.81865f),
               TOLERANCE);
    n = net_new(13); /* 3 4 and 5 12: Pythagoras */
    expect_f32(&n, net_add(&n, "GlobalLpPool", IN(net_constant(&n, S3(1, 2, 2), F32S(3, -4, -5, 12))), NULL),
               S3(1, 2, 1), F32S(5, 13), TOLERANCE);
    n = net_new(13);
    expect_f32(&n,
               net_add(&n, "GlobalLpPool", IN(net_constant(&n, S3(1, 1, 3), F32S(3, -4, 1))),
                       AT(esp_attr_int("p", 1))),
               S3(1, 1, 1), F32S(8), TOLERANCE);
}

static void global_pools_take_any_rank(void **state)
{
    (void)state;
    const char *const operators[] = {"GlobalMaxPool", "GlobalAveragePool"};
    const float expected[][2] = {{4, 8}, {2.5f, 6.5f}};
    for (int i = 0; i < 2; i++) {
        net n = net_new(13);
        int x = net_constant(&n, shape_of(5, 1, 2, 1, 2, 2), F32S(1, 2, 3, 4, 5, 6, 7, 8));
        expect_f32(&n, net_add(&n, operators[i], IN(x), NULL), shape_of(5, 1, 2, 1, 1, 1), expected[i], 0);
    }
}

static void windows_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    net n = net_new(13);
    expect_refused(&n, net_add(&n, "MaxPool", IN(op_ramp(&n, S3(1, 1, 4))), AT(INTS("kernel_shape", 5))),
                   ESP_SHAPE, "does not fit");
    n = net_new(13);
    expect_refused(&n, net_add(&n, "MaxPool", IN(op_ramp(&n, S3(1, 1, 4))), AT(INTS("kernel_shape", 2, 2))),
                   ESP_SHAPE, "'kernel_shape' has 2 entries, expected 1");
    n = net_new(13);
    int x = op_ramp(&n, S4(1, 2, 3, 3)), w = op_weights(&n, S4(3, 2, 2, 2));
    expect_refused(&n, net_add(&n, "ConvTranspose", IN(x, w), NULL), ESP_SHAPE, "has 2 channels");
    n = net_new(13);
    x = op_ramp(&n, S4(1, 1, 3, 3));
    w = op_weights(&n, S4(1, 1, 2, 2));
    expect_refused(&n, net_add(&n, "ConvTranspose", IN(x, w), AT(INTS("pads", 3, 3, 3, 3))), ESP_SHAPE,
                   "takes all of the result");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolves_signals),
        cmocka_unit_test(convolves_volumes),
        cmocka_unit_test(same_padding_puts_the_odd_pixel_where_asked),
        cmocka_unit_test(transposed_convolution_of_signals),
        cmocka_unit_test(transposed_convolution_of_images),
        cmocka_unit_test(transposed_convolution_of_volumes),
        cmocka_unit_test(an_output_shape_decides_the_padding),
        cmocka_unit_test(a_transposed_convolution_counts_per_input_position),
        cmocka_unit_test(max_pools_tell_where_the_maxima_are),
        cmocka_unit_test(max_pools_of_signals_and_volumes),
        cmocka_unit_test(averages_count_padding_when_asked),
        cmocka_unit_test(norms_of_windows),
        cmocka_unit_test(global_pools_take_any_rank),
        cmocka_unit_test(windows_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
