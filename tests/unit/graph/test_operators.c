/* Forward results and shapes of every operator, in all versions that differ: against values worked out by
 * hand from the ONNX operator texts, or plain loops. */
#include "unit/graph/net.h"

#include <math.h>
#include <string.h>

/* A network whose input is x; filled by the test, then checked. */
typedef struct trial {
    net n;
    int x;
    esp_shape shape;
    float values[512];
} trial;

static trial trial_new(int opset, esp_shape shape)
{
    trial t = {.n = net_new(opset), .shape = shape};
    t.x = net_input(&t.n, "x", shape);
    int64_t count = esp_shape_elements(&shape);
    assert_true(count <= 512);
    for (int64_t i = 0; i < count; i++)
        t.values[i] = (float)i;
    return t;
}

/* Runs the network to `y` and compares shape and values. */
static void expect_output(trial *t, int y, esp_shape shape, const float *expected)
{
    net_output(&t->n, y);
    esp_graph *graph = net_finish(&t->n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = t->shape.dims[0]});
    memcpy(view_data(esp_exec_input(exec, 0)), t->values,
           (size_t)esp_shape_elements(&t->shape) * sizeof(float));
    run_forward(exec);
    assert_shape(&esp_exec_output(exec, 0)->shape, shape);
    assert_close(view_data(esp_exec_output(exec, 0)), expected, esp_shape_elements(&shape), 1e-5);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}
#define expect(t, y, shape, ...) expect_output((t), (y), (shape), (const float[]){__VA_ARGS__})

/* The network must be refused with a message that contains `piece`. */
static void expect_error(trial *t, int y, esp_status code, const char *piece)
{
    esp_error err = {0};
    esp_inferred *inferred;
    net_output(&t->n, y);
    esp_graph *graph = net_finish(&t->n);
    assert_int_equal(esp_infer(graph, t->shape.dims[0], NULL, 0, &inferred, &err), code);
    assert_contains(err.message, piece);
    assert_contains(err.message, "node '");
    esp_graph_unref(graph);
}

/* A value that is known at compile time: int64 results are read from there. */
static void expect_folded(net *n, int y, esp_dtype dtype, esp_shape shape, const double *expected)
{
    esp_error err = {0};
    esp_inferred *inferred;
    net_output(n, y);
    esp_graph *graph = net_finish(n);
    must(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    const esp_tensor *tensor = esp_inferred_constant(inferred, y);
    assert_non_null(tensor);
    assert_int_equal(esp_tensor_dtype(tensor), dtype);
    assert_shape(esp_tensor_shape(tensor), shape);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        assert_float_equal(esp_tensor_get_f64(tensor, i), expected[i], 1e-6);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}
#define expect_known(n, y, dtype, shape, ...)                                                                \
    expect_folded((n), (y), (dtype), (shape), (const double[]){__VA_ARGS__})

static int scalar(net *n, float value)
{
    esp_shape shape = {0};
    return net_tensor(n, tensor_f32(shape, &value));
}

/* ---- convolution and matrix products ---- */

static void conv_follows_the_definition(void **state)
{
    (void)state;
    enum { C = 4, F = 6, H = 5, W = 6, KH = 3, KW = 2, G = 2, OH = 4, OW = 5 };
    trial t = trial_new(11, S4(1, C, H, W));
    fill_random(&t.n.rng, t.values, C * H * W, -1, 1);
    int w = net_constant(&t.n, S4(F, C / G, KH, KW), NULL), b = net_constant(&t.n, S1(F), NULL);
    int y = net_add(&t.n, "Conv", IN(t.x, w, b),
                    AT(INTS("strides", 2, 1), INTS("pads", 2, 1, 2, 0), INTS("dilations", 1, 2),
                       esp_attr_int("group", G), INTS("kernel_shape", KH, KW)));
    net_output(&t.n, y);
    esp_graph *graph = net_finish(&t.n);
    const float *wd = esp_tensor_f32(esp_graph_value(graph, w)->constant);
    const float *bd = esp_tensor_f32(esp_graph_value(graph, b)->constant);
    float expected[F * OH * OW];
    for (int f = 0; f < F; f++)
        for (int i = 0; i < OH; i++)
            for (int j = 0; j < OW; j++) {
                double sum = (double)bd[f];
                for (int c = 0; c < C / G; c++)
                    for (int k = 0; k < KH * KW; k++) {
                        int row = 2 * i - 2 + k / KW, column = j - 1 + 2 * (k % KW);
                        int channel = f / (F / G) * (C / G) + c;
                        if (row >= 0 && row < H && column >= 0 && column < W)
                            sum += (double)t.values[(channel * H + row) * W + column] *
                                   (double)wd[(f * (C / G) + c) * KH * KW + k];
                    }
                expected[(f * OH + i) * OW + j] = (float)sum;
            }
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
    memcpy(view_data(esp_exec_input(exec, 0)), t.values, sizeof(float) * C * H * W);
    run_forward(exec);
    assert_shape(&esp_exec_output(exec, 0)->shape, S4(1, F, OH, OW));
    assert_close(view_data(esp_exec_output(exec, 0)), expected, F * OH * OW, 1e-5);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

/* A row 0 1 2 3 under the kernel 1 10: stride 2 gives two outputs with no padding needed; kernel 3 needs one.
 */
static void automatic_padding_puts_the_odd_pixel_where_asked(void **state)
{
    (void)state;
    const float kernel[3] = {1, 10, 100};
    trial upper = trial_new(11, S4(1, 1, 1, 4));
    int y = net_add(&upper.n, "Conv", IN(upper.x, net_constant(&upper.n, S4(1, 1, 1, 3), kernel)),
                    AT(esp_attr_string("auto_pad", "SAME_UPPER"), INTS("strides", 1, 2)));
    expect(&upper, y, S4(1, 1, 1, 2), 0 + 10 + 200, 2 + 30);
    trial lower = trial_new(11, S4(1, 1, 1, 4));
    y = net_add(&lower.n, "Conv", IN(lower.x, net_constant(&lower.n, S4(1, 1, 1, 3), kernel)),
                AT(esp_attr_string("auto_pad", "SAME_LOWER"), INTS("strides", 1, 2)));
    expect(&lower, y, S4(1, 1, 1, 2), 0 + 100, 1 + 20 + 300);
    trial valid = trial_new(11, S4(1, 1, 1, 4));
    y = net_add(&valid.n, "Conv", IN(valid.x, net_constant(&valid.n, S4(1, 1, 1, 3), kernel)),
                AT(esp_attr_string("auto_pad", "VALID")));
    expect(&valid, y, S4(1, 1, 1, 2), 0 + 10 + 200, 1 + 20 + 300);
}

static void conv_says_what_does_not_fit(void **state)
{
    (void)state;
    trial t = trial_new(13, S4(1, 3, 4, 4));
    expect_error(&t, net_add(&t.n, "Conv", IN(t.x, net_constant(&t.n, S4(2, 4, 3, 3), NULL)), NULL),
                 ESP_SHAPE, "input 1x3x4x4 has 3 channels, weight 2x4x3x3 in 1 groups expects 4");
    t = trial_new(13, S4(1, 3, 2, 4));
    expect_error(&t, net_add(&t.n, "Conv", IN(t.x, net_constant(&t.n, S4(2, 3, 3, 3), NULL)), NULL),
                 ESP_SHAPE, "3x3 window does not fit");
    t = trial_new(13, S4(1, 3, 4, 4));
    expect_error(&t,
                 net_add(&t.n, "Conv",
                         IN(t.x, net_constant(&t.n, S4(2, 3, 3, 3), NULL), net_constant(&t.n, S1(3), NULL)),
                         NULL),
                 ESP_SHAPE, "bias is 3");
    t = trial_new(13, S2(1, 3));
    expect_error(&t, net_add(&t.n, "Conv", IN(t.x, net_constant(&t.n, S2(2, 3), NULL)), NULL), ESP_SHAPE,
                 "expected NxCxL, NxCxHxW or NxCxDxHxW");
}

static void gemm_multiplies_scales_and_adds(void **state)
{
    (void)state;
    trial t = trial_new(13, S2(2, 3)); /* 0 1 2 / 3 4 5 */
    int b = net_constant(&t.n, S2(2, 3), (const float[]){1, 0, 1, 0, 2, 0});
    int c = net_constant(&t.n, S2(2, 1), (const float[]){100, 200});
    int y = net_add(&t.n, "Gemm", IN(t.x, b, c),
                    AT(esp_attr_int("transB", 1), esp_attr_float("alpha", 2), esp_attr_float("beta", 0.5f)));
    expect(&t, y, S2(2, 2), 54, 54, 116, 116);
    t = trial_new(11, S2(2, 3));
    b = net_constant(&t.n, S2(2, 1), (const float[]){1, 10});
    expect(&t, net_add(&t.n, "Gemm", IN(t.x, b), AT(esp_attr_int("transA", 1))), S2(3, 1), 30, 41, 52);
    t = trial_new(13, S2(2, 3));
    expect_error(&t, net_add(&t.n, "Gemm", IN(t.x, net_constant(&t.n, S2(2, 3), NULL)), NULL), ESP_SHAPE,
                 "2x3 times 2x3 does not fit");
}

static void gemm_needs_its_bias_before_opset_11(void **state)
{
    (void)state;
    esp_error err = {0};
    trial t = trial_new(10, S2(2, 3));
    int inputs[2] = {t.x, net_constant(&t.n, S2(3, 1), NULL)}, y;
    assert_int_equal(esp_builder_add(t.n.builder, "Gemm", NULL, inputs, 2, NULL, 0, NULL, &y, &err),
                     ESP_FORMAT);
    esp_builder_free(t.n.builder);
}

static void matmul_broadcasts_batches_and_takes_vectors(void **state)
{
    (void)state;
    trial t = trial_new(13, S3(2, 1, 2)); /* [0 1], [2 3] */
    int b = net_constant(&t.n, S2(2, 2), (const float[]){1, 2, 3, 4});
    expect(&t, net_add(&t.n, "MatMul", IN(t.x, b), NULL), S3(2, 1, 2), 3, 4, 11, 16);
    t = trial_new(13, S3(2, 1, 2));
    b = net_constant(&t.n, S3(2, 2, 1), (const float[]){1, 2, 3, 4});
    expect(&t, net_add(&t.n, "MatMul", IN(t.x, b), NULL), S3(2, 1, 1), 2, 18);
    t = trial_new(13, S3(2, 2, 1)); /* columns [0 1], [2 3] times one row, over 1x.. and 2x.. */
    b = net_constant(&t.n, S3(1, 1, 2), (const float[]){1, 10});
    expect(&t, net_add(&t.n, "MatMul", IN(t.x, b), NULL), S3(2, 2, 2), 0, 0, 1, 10, 2, 20, 3, 30);
    t = trial_new(13, S1(2));
    b = net_constant(&t.n, S2(2, 2), (const float[]){1, 2, 3, 4});
    expect(&t, net_add(&t.n, "MatMul", IN(t.x, b), NULL), S1(2), 3, 4);
    t = trial_new(13, S2(2, 2));
    b = net_constant(&t.n, S1(2), (const float[]){1, 10});
    expect(&t, net_add(&t.n, "MatMul", IN(t.x, b), NULL), S1(2), 10, 32);
    t = trial_new(13, S2(2, 3));
    expect_error(&t, net_add(&t.n, "MatMul", IN(t.x, net_constant(&t.n, S2(2, 2), NULL)), NULL), ESP_SHAPE,
                 "2x3 times 2x2 does not fit");
}

/* ---- pooling ---- */

static void pools_take_windows(void **state)
{
    (void)state;
    trial t = trial_new(13, S4(1, 1, 3, 3)); /* 0..8 */
    expect(&t, net_add(&t.n, "MaxPool", IN(t.x), AT(INTS("kernel_shape", 2, 2))), S4(1, 1, 2, 2), 4, 5, 7, 8);
    t = trial_new(13, S4(1, 1, 3, 3));
    expect(&t, net_add(&t.n, "AveragePool", IN(t.x), AT(INTS("kernel_shape", 2, 2))), S4(1, 1, 2, 2), 2, 3, 5,
           6);
}

static void ceil_mode_adds_a_window_that_starts_inside(void **state)
{
    (void)state;
    const esp_attr ceil = esp_attr_int("ceil_mode", 1);
    trial t = trial_new(13, S4(1, 1, 1, 4));
    expect(&t, net_add(&t.n, "MaxPool", IN(t.x), AT(INTS("kernel_shape", 1, 3), INTS("strides", 1, 2))),
           S4(1, 1, 1, 1), 2);
    t = trial_new(13, S4(1, 1, 1, 4));
    expect(&t, net_add(&t.n, "MaxPool", IN(t.x), AT(INTS("kernel_shape", 1, 3), INTS("strides", 1, 2), ceil)),
           S4(1, 1, 1, 2), 2, 3);
    t = trial_new(13, S4(1, 1, 1, 4));
    expect(&t,
           net_add(&t.n, "AveragePool", IN(t.x), AT(INTS("kernel_shape", 1, 3), INTS("strides", 1, 2), ceil)),
           S4(1, 1, 1, 2), 1, 2.5f);
}

static void average_pool_counts_padding_when_asked(void **state)
{
    (void)state;
    const esp_attr pads = INTS("pads", 0, 1, 0, 1), kernel = INTS("kernel_shape", 1, 2);
    trial t = trial_new(13, S4(1, 1, 1, 2));
    expect(&t, net_add(&t.n, "AveragePool", IN(t.x), AT(kernel, pads)), S4(1, 1, 1, 3), 0, 0.5f, 1);
    t = trial_new(13, S4(1, 1, 1, 2));
    expect(&t, net_add(&t.n, "AveragePool", IN(t.x), AT(kernel, pads, esp_attr_int("count_include_pad", 1))),
           S4(1, 1, 1, 3), 0, 0.5f, 0.5f);
}

static void max_pool_looks_past_padding_and_with_dilation(void **state)
{
    (void)state;
    trial t = trial_new(13, S4(1, 1, 1, 4));
    for (int i = 0; i < 4; i++)
        t.values[i] = (float)(-1 - i);
    expect(&t, net_add(&t.n, "MaxPool", IN(t.x), AT(INTS("kernel_shape", 1, 2), INTS("pads", 0, 1, 0, 0))),
           S4(1, 1, 1, 4), -1, -1, -2, -3);
    t = trial_new(13, S4(1, 1, 1, 5));
    expect(&t, net_add(&t.n, "MaxPool", IN(t.x), AT(INTS("kernel_shape", 1, 2), INTS("dilations", 1, 3))),
           S4(1, 1, 1, 2), 3, 4);
}

static void global_pools_and_means_agree_with_hand_sums(void **state)
{
    (void)state;
    trial t = trial_new(13, S4(1, 2, 2, 2));
    expect(&t, net_add(&t.n, "GlobalAveragePool", IN(t.x), NULL), S4(1, 2, 1, 1), 1.5f, 5.5f);
    t = trial_new(13, S4(1, 2, 2, 2));
    expect(&t, net_add(&t.n, "GlobalMaxPool", IN(t.x), NULL), S4(1, 2, 1, 1), 3, 7);
    t = trial_new(13, S4(1, 2, 2, 2));
    expect(&t, net_add(&t.n, "ReduceMean", IN(t.x), AT(INTS("axes", 2, -1), esp_attr_int("keepdims", 0))),
           S2(1, 2), 1.5f, 5.5f);
    t = trial_new(13, S4(1, 2, 2, 2));
    expect(&t, net_add(&t.n, "ReduceMean", IN(t.x), AT(INTS("axes", 1))), S4(1, 1, 2, 2), 2, 3, 4, 5);
    t = trial_new(18, S4(1, 2, 2, 2));
    expect(&t, net_add(&t.n, "ReduceMean", IN(t.x, net_ints(&t.n, 1, 2)), AT(esp_attr_int("keepdims", 0))),
           S3(1, 2, 2), 1, 2, 5, 6);
    t = trial_new(18, S4(1, 2, 2, 2));
    expect(&t, net_add(&t.n, "ReduceMean", IN(t.x), AT(esp_attr_int("keepdims", 0))), (esp_shape){0}, 3.5f);
    t = trial_new(18, S2(1, 2));
    expect(&t, net_add(&t.n, "ReduceMean", IN(t.x), AT(esp_attr_int("noop_with_empty_axes", 1))), S2(1, 2), 0,
           1);
}

/* ---- normalisation, activations ---- */

static void batch_norm_uses_stored_statistics_at_evaluation(void **state)
{
    (void)state;
    trial t = trial_new(9, S3(1, 2, 2)); /* 0 1 / 2 3 */
    int y = net_add(&t.n, "BatchNormalization",
                    IN(t.x, net_constant(&t.n, S1(2), (const float[]){2, 1}),
                       net_constant(&t.n, S1(2), (const float[]){10, 20}),
                       net_constant(&t.n, S1(2), (const float[]){1, 2}),
                       net_constant(&t.n, S1(2), (const float[]){3.75f, 0})),
                    AT(esp_attr_float("epsilon", 0.25f)));
    expect(&t, y, S3(1, 2, 2), 9, 10, 20, 22);
}

static void batch_norm_refuses_what_it_cannot_do(void **state)
{
    (void)state;
    trial t = trial_new(8, S3(1, 2, 2));
    int p = net_positive(&t.n, S1(2));
    expect_error(&t, net_add(&t.n, "BatchNormalization", IN(t.x, p, p, p, p), AT(esp_attr_int("spatial", 0))),
                 ESP_UNSUPPORTED, "spatial");
    t = trial_new(15, S3(1, 2, 2));
    p = net_positive(&t.n, S1(2));
    expect_error(
        &t, net_add(&t.n, "BatchNormalization", IN(t.x, p, p, p, p), AT(esp_attr_int("training_mode", 1))),
        ESP_UNSUPPORTED, "training_mode");
    t = trial_new(15, S3(1, 2, 2));
    p = net_positive(&t.n, S1(3));
    expect_error(&t, net_add(&t.n, "BatchNormalization", IN(t.x, p, p, p, p), NULL), ESP_SHAPE, "expects 2");
}

static void activations_follow_their_formulas(void **state)
{
    (void)state;
    struct {
        const char *op;
        float expected[5];
    } const simple[] = {
        {"Relu", {0, 0, 0, 1, 2}},
        {"Neg", {2, 1, 0, -1, -2}},
        {"Sigmoid", {0.11920292f, 0.26894142f, 0.5f, 0.73105858f, 0.88079708f}},
        {"Tanh", {-0.96402758f, -0.76159416f, 0, 0.76159416f, 0.96402758f}},
        {"Exp", {0.13533528f, 0.36787944f, 1, 2.71828183f, 7.3890561f}},
        {"HardSigmoid", {0.1f, 0.3f, 0.5f, 0.7f, 0.9f}},
        {"Identity", {-2, -1, 0, 1, 2}},
        {"Dropout", {-2, -1, 0, 1, 2}},
    };
    for (size_t i = 0; i < sizeof simple / sizeof *simple; i++) {
        trial t = trial_new(13, S2(1, 5));
        for (int j = 0; j < 5; j++)
            t.values[j] = (float)(j - 2);
        expect_output(&t, net_add(&t.n, simple[i].op, IN(t.x), NULL), S2(1, 5), simple[i].expected);
    }
    trial t = trial_new(13, S2(1, 3));
    t.values[2] = 4;
    expect(&t, net_add(&t.n, "Sqrt", IN(t.x), NULL), S2(1, 3), 0, 1, 2);
    t = trial_new(13, S2(1, 3));
    expect(&t,
           net_add(&t.n, "HardSigmoid", IN(t.x),
                   AT(esp_attr_float("alpha", 0.3f), esp_attr_float("beta", 0.1f))),
           S2(1, 3), 0.1f, 0.4f, 0.7f);
}

static void clip_takes_bounds_as_attributes_then_as_inputs(void **state)
{
    (void)state;
    trial t = trial_new(10, S2(1, 4));
    expect(&t, net_add(&t.n, "Clip", IN(t.x), AT(esp_attr_float("min", 1), esp_attr_float("max", 2))),
           S2(1, 4), 1, 1, 2, 2);
    t = trial_new(10, S2(1, 4));
    expect(&t, net_add(&t.n, "Clip", IN(t.x), NULL), S2(1, 4), 0, 1, 2, 3);
    t = trial_new(11, S2(1, 4));
    expect(&t, net_add(&t.n, "Clip", IN(t.x, NET_NONE, scalar(&t.n, 1)), NULL), S2(1, 4), 0, 1, 1, 1);
    t = trial_new(13, S2(1, 4));
    expect(&t, net_add(&t.n, "Clip", IN(t.x, scalar(&t.n, 2)), NULL), S2(1, 4), 2, 2, 2, 3);
    t = trial_new(13, S2(1, 4));
    expect_error(&t, net_add(&t.n, "Clip", IN(t.x, net_constant(&t.n, S1(2), NULL)), NULL), ESP_SHAPE,
                 "expected a scalar");
}

static void arithmetic_broadcasts(void **state)
{
    (void)state;
    trial t = trial_new(13, S2(2, 3));
    int column = net_constant(&t.n, S2(2, 1), (const float[]){10, 20});
    expect(&t, net_add(&t.n, "Add", IN(t.x, column), NULL), S2(2, 3), 10, 11, 12, 23, 24, 25);
    t = trial_new(13, S2(2, 3));
    column = net_constant(&t.n, S2(2, 1), (const float[]){10, 20});
    expect(&t, net_add(&t.n, "Sub", IN(column, t.x), NULL), S2(2, 3), 10, 9, 8, 17, 16, 15);
    t = trial_new(13, S2(2, 1));
    int row = net_constant(&t.n, S1(3), (const float[]){1, 2, 4});
    expect(&t, net_add(&t.n, "Mul", IN(row, t.x), NULL), S2(2, 3), 0, 0, 0, 1, 2, 4);
    t = trial_new(13, S2(2, 1));
    row = net_constant(&t.n, S1(3), (const float[]){1, 2, 4});
    expect(&t, net_add(&t.n, "Div", IN(t.x, row), NULL), S2(2, 3), 0, 0, 0, 1, 0.5f, 0.25f);
    t = trial_new(13, S2(2, 2));
    row = net_constant(&t.n, S1(2), (const float[]){10, 20});
    expect(&t, net_add(&t.n, "Sum", IN(row, t.x, t.x), NULL), S2(2, 2), 10, 22, 14, 26);
    t = trial_new(13, S2(2, 3));
    expect_error(&t, net_add(&t.n, "Add", IN(t.x, net_constant(&t.n, S1(2), NULL)), NULL), ESP_SHAPE, "2x3");
    t = trial_new(13, S2(2, 3));
    expect_error(&t, net_add(&t.n, "Add", IN(t.x, net_ints(&t.n, 1, 1)), NULL), ESP_SHAPE,
                 "float32 and int64");
}

static void softmax_before_13_flattens_from_its_axis(void **state)
{
    (void)state;
    const float third = 1.0f / 3.0f, low = 0.26894142f, high = 0.73105858f;
    trial t = trial_new(13, S3(1, 3, 2));
    for (int i = 0; i < 6; i++)
        t.values[i] = (float)(i % 2);
    expect(&t, net_add(&t.n, "Softmax", IN(t.x), NULL), S3(1, 3, 2), low, high, low, high, low, high);
    t = trial_new(11, S3(1, 3, 2));
    for (int i = 0; i < 6; i++)
        t.values[i] = (float)(i % 2);
    expect(&t, net_add(&t.n, "Softmax", IN(t.x), NULL), S3(1, 3, 2), low * third, high * third, low * third,
           high * third, low * third, high * third);
    t = trial_new(13, S3(1, 3, 2));
    for (int i = 0; i < 6; i++)
        t.values[i] = (float)(i % 2);
    expect(&t, net_add(&t.n, "Softmax", IN(t.x), AT(esp_attr_int("axis", 1))), S3(1, 3, 2), third, third,
           third, third, third, third);
    t = trial_new(13, S2(1, 2));
    expect(&t, net_add(&t.n, "LogSoftmax", IN(t.x), NULL), S2(1, 2), logf(low), logf(high));
}

/* ---- shapes ---- */

static void reshape_copies_infers_and_allows_zero(void **state)
{
    (void)state;
    trial t = trial_new(13, S3(2, 3, 4));
    expect_output(&t, net_add(&t.n, "Reshape", IN(t.x, net_ints(&t.n, 3, 0, -1, 2)), NULL), S3(2, 6, 2),
                  t.values);
    t = trial_new(13, S3(2, 3, 4));
    expect_error(&t, net_add(&t.n, "Reshape", IN(t.x, net_ints(&t.n, 2, 5, -1)), NULL), ESP_SHAPE,
                 "cannot reshape 2x3x4 (24 elements)");
    t = trial_new(13, S3(2, 3, 4));
    expect_error(&t, net_add(&t.n, "Reshape", IN(t.x, net_ints(&t.n, 2, -1, -1)), NULL), ESP_SHAPE,
                 "for the second time");
    t = trial_new(14, S3(2, 3, 4));
    expect_error(
        &t, net_add(&t.n, "Reshape", IN(t.x, net_ints(&t.n, 2, 0, 24)), AT(esp_attr_int("allowzero", 1))),
        ESP_SHAPE, "cannot reshape");
    t = trial_new(13, S2(2, 3));
    int data = net_add(&t.n, "Cast", IN(t.x), AT(esp_attr_int("to", 7)));
    expect_error(&t, net_add(&t.n, "Reshape", IN(t.x, data), NULL), ESP_UNSUPPORTED,
                 "computed from the network's data");
}

static void flatten_squeeze_and_unsqueeze_keep_the_elements(void **state)
{
    (void)state;
    trial t = trial_new(13, S4(2, 1, 3, 1));
    expect_output(&t, net_add(&t.n, "Flatten", IN(t.x), NULL), S2(2, 3), t.values);
    t = trial_new(13, S4(2, 1, 3, 1));
    expect_output(&t, net_add(&t.n, "Flatten", IN(t.x), AT(esp_attr_int("axis", 0))), S2(1, 6), t.values);
    t = trial_new(13, S4(2, 1, 3, 1));
    expect_output(&t, net_add(&t.n, "Flatten", IN(t.x), AT(esp_attr_int("axis", -1))), S2(6, 1), t.values);
    t = trial_new(11, S4(2, 1, 3, 1));
    expect_output(&t, net_add(&t.n, "Squeeze", IN(t.x), AT(INTS("axes", -1))), S3(2, 1, 3), t.values);
    t = trial_new(13, S4(2, 1, 3, 1));
    expect_output(&t, net_add(&t.n, "Squeeze", IN(t.x), NULL), S2(2, 3), t.values);
    t = trial_new(13, S4(2, 1, 3, 1));
    expect_output(&t, net_add(&t.n, "Squeeze", IN(t.x, net_ints(&t.n, 1, 1)), NULL), S3(2, 3, 1), t.values);
    t = trial_new(13, S4(2, 1, 3, 1));
    expect_error(&t, net_add(&t.n, "Squeeze", IN(t.x, net_ints(&t.n, 1, 2)), NULL), ESP_SHAPE, "is not 1");
    t = trial_new(11, S2(2, 3));
    expect_output(&t, net_add(&t.n, "Unsqueeze", IN(t.x), AT(INTS("axes", 3, 0))), S4(1, 2, 3, 1), t.values);
    t = trial_new(13, S2(2, 3));
    expect_output(&t, net_add(&t.n, "Unsqueeze", IN(t.x, net_ints(&t.n, 1, -1)), NULL), S3(2, 3, 1),
                  t.values);
    t = trial_new(13, S2(2, 3));
    expect_error(&t, net_add(&t.n, "Unsqueeze", IN(t.x, net_ints(&t.n, 2, 1, 1)), NULL), ESP_SHAPE, "twice");
}

static void shape_operators_are_known_at_compile_time(void **state)
{
    (void)state;
    net n = net_new(15);
    int x = net_input(&n, "x", S3(1, 5, 7));
    expect_known(&n, net_add(&n, "Shape", IN(x), NULL), ESP_I64, S1(3), 1, 5, 7);
    n = net_new(15);
    x = net_input(&n, "x", S3(1, 5, 7));
    expect_known(&n, net_add(&n, "Shape", IN(x), AT(esp_attr_int("start", -2))), ESP_I64, S1(2), 5, 7);
    n = net_new(15);
    x = net_input(&n, "x", S3(1, 5, 7));
    expect_known(&n, net_add(&n, "Shape", IN(x), AT(esp_attr_int("start", 1), esp_attr_int("end", -1))),
                 ESP_I64, S1(1), 5);
    n = net_new(12);
    expect_known(&n, net_add(&n, "Constant", NULL, AT(INTS("value_ints", 3, 4))), ESP_I64, S1(2), 3, 4);
    n = net_new(12);
    expect_known(&n, net_add(&n, "Constant", NULL, AT(esp_attr_float("value_float", 2.5f))), ESP_F32,
                 (esp_shape){0}, 2.5);
    n = net_new(13);
    esp_tensor *seven = tensor_f32(S1(1), (const float[]){7});
    esp_attr value = {.name = "value", .type = ESP_ATTR_TENSOR, .tensor = seven};
    expect_known(&n, net_add(&n, "ConstantOfShape", IN(net_ints(&n, 2, 2, 3)), AT(value)), ESP_F32, S2(2, 3),
                 7, 7, 7, 7, 7, 7);
    n = net_new(13);
    expect_known(&n, net_add(&n, "Constant", NULL, AT(value)), ESP_F32, S1(1), 7);
    esp_tensor_unref(seven);
}

static void integer_arithmetic_folds(void **state)
{
    (void)state;
    const struct {
        const char *op;
        double expected[2];
    } simple[] = {{"Add", {4, -4}}, {"Sub", {10, -10}}, {"Mul", {-21, -21}}, {"Div", {-2, -2}}};
    for (size_t i = 0; i < 4; i++) {
        net n = net_new(13);
        int y = net_add(&n, simple[i].op, IN(net_ints(&n, 2, 7, -7), net_ints(&n, 2, -3, 3)), NULL);
        expect_folded(&n, y, ESP_I64, S1(2), simple[i].expected);
    }
    net n = net_new(13);
    expect_known(&n, net_add(&n, "Div", IN(net_ints(&n, 2, 7, -7), net_int(&n, 3)), NULL), ESP_I64, S1(2), 2,
                 -2);
    n = net_new(13);
    expect_known(&n, net_add(&n, "Equal", IN(net_ints(&n, 3, 1, -1, 2), net_int(&n, -1)), NULL), ESP_BOOL,
                 S1(3), 0, 1, 0);
    n = net_new(13);
    int given = net_ints(&n, 3, 4, -1, 6);
    int is_open = net_add(&n, "Equal", IN(given, net_int(&n, -1)), NULL);
    expect_known(&n, net_add(&n, "Where", IN(is_open, net_int(&n, 9), given), NULL), ESP_I64, S1(3), 4, 9, 6);
    n = net_new(13);
    int real = net_add(&n, "Cast", IN(net_ints(&n, 2, 7, 2)), AT(esp_attr_int("to", 1)));
    int half = net_add(&n, "Div", IN(real, scalar(&n, 2)), NULL);
    expect_known(&n, net_add(&n, "Cast", IN(half), AT(esp_attr_int("to", 7))), ESP_I64, S1(2), 3, 1);
    n = net_new(13);
    int flags = net_add(&n, "Cast", IN(net_ints(&n, 3, 0, 5, -1)), AT(esp_attr_int("to", 9)));
    expect_known(&n, net_add(&n, "Cast", IN(flags), AT(esp_attr_int("to", 11))), ESP_F64, S1(3), 0, 1, 1);
}

static void integer_division_by_zero_is_an_error(void **state)
{
    (void)state;
    trial t = trial_new(13, S1(1));
    expect_error(&t, net_add(&t.n, "Div", IN(net_int(&t.n, 1), net_int(&t.n, 0)), NULL), ESP_INVALID,
                 "division by zero");
}

/* ---- data movement ---- */

static void concat_joins_along_an_axis(void **state)
{
    (void)state;
    trial t = trial_new(13, S2(2, 2));
    int b = net_constant(&t.n, S2(2, 1), (const float[]){10, 20});
    expect(&t, net_add(&t.n, "Concat", IN(t.x, b), AT(esp_attr_int("axis", -1))), S2(2, 3), 0, 1, 10, 2, 3,
           20);
    t = trial_new(13, S2(1, 2));
    expect(&t, net_add(&t.n, "Concat", IN(t.x, t.x), AT(esp_attr_int("axis", 0))), S2(2, 2), 0, 1, 0, 1);
    t = trial_new(13, S2(2, 2));
    expect_error(
        &t, net_add(&t.n, "Concat", IN(t.x, net_constant(&t.n, S2(3, 1), NULL)), AT(esp_attr_int("axis", 1))),
        ESP_SHAPE, "differ beside axis 1");
    net n = net_new(13);
    expect_known(
        &n, net_add(&n, "Concat", IN(net_ints(&n, 1, 4), net_ints(&n, 2, 5, 6)), AT(esp_attr_int("axis", 0))),
        ESP_I64, S1(3), 4, 5, 6);
}

static void transpose_permutes(void **state)
{
    (void)state;
    trial t = trial_new(13, S3(1, 2, 3));
    expect(&t, net_add(&t.n, "Transpose", IN(t.x), NULL), S3(3, 2, 1), 0, 3, 1, 4, 2, 5);
    t = trial_new(13, S3(1, 2, 3));
    expect(&t, net_add(&t.n, "Transpose", IN(t.x), AT(INTS("perm", 0, 2, 1))), S3(1, 3, 2), 0, 3, 1, 4, 2, 5);
    t = trial_new(13, S3(1, 2, 3));
    expect_error(&t, net_add(&t.n, "Transpose", IN(t.x), AT(INTS("perm", 0, 1, 1))), ESP_SHAPE,
                 "permutation");
}

static void slice_clamps_and_steps_back(void **state)
{
    (void)state;
    trial t = trial_new(9, S2(2, 4));
    expect(&t, net_add(&t.n, "Slice", IN(t.x), AT(INTS("starts", 1), INTS("ends", 1000), INTS("axes", 1))),
           S2(2, 3), 1, 2, 3, 5, 6, 7);
    t = trial_new(9, S2(2, 4));
    expect(&t, net_add(&t.n, "Slice", IN(t.x), AT(INTS("starts", 0, -3), INTS("ends", 1, -1))), S2(1, 2), 1,
           2);
    t = trial_new(13, S2(2, 4));
    expect(&t,
           net_add(&t.n, "Slice",
                   IN(t.x, net_ints(&t.n, 1, -1), net_ints(&t.n, 1, -1000), net_ints(&t.n, 1, -1),
                      net_ints(&t.n, 1, -2)),
                   NULL),
           S2(2, 2), 3, 1, 7, 5);
    t = trial_new(13, S2(1, 4));
    expect(
        &t,
        net_add(&t.n, "Slice",
                IN(t.x, net_ints(&t.n, 2, 0, 3), net_ints(&t.n, 2, 9, 0), NET_NONE, net_ints(&t.n, 2, 1, -1)),
                NULL),
        S2(1, 3), 3, 2, 1);
    t = trial_new(13, S2(1, 4));
    expect_error(&t, net_add(&t.n, "Slice", IN(t.x, net_ints(&t.n, 1, 0), net_ints(&t.n, 2, 9, 0)), NULL),
                 ESP_SHAPE, "do not agree");
    t = trial_new(13, S2(1, 4));
    expect_error(&t,
                 net_add(&t.n, "Slice",
                         IN(t.x, net_ints(&t.n, 1, 0), net_ints(&t.n, 1, 3), net_ints(&t.n, 1, 1),
                            net_ints(&t.n, 1, 0)),
                         NULL),
                 ESP_SHAPE, "step 0 is 0");
}

static void slices_with_extreme_bounds_do_not_overflow(void **state)
{
    (void)state;
    esp_error err = {0};
    trial t = trial_new(13, S2(1, 4));
    int inputs[5] = {t.x};
    const int64_t values[4] = {INT64_MAX, INT64_MIN, 1, INT64_MIN};
    esp_shape one = S1(1);
    for (int i = 0; i < 4; i++) {
        esp_tensor *tensor;
        must(esp_tensor_from(ESP_I64, &one, &values[i], &tensor, &err), &err);
        inputs[i + 1] = net_tensor(&t.n, tensor);
    }
    expect(&t, net_add(&t.n, "Slice", IN(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]), NULL),
           S2(1, 1), 3);
}

static void pad_adds_and_crops(void **state)
{
    (void)state;
    trial t = trial_new(9, S2(2, 2));
    expect(&t, net_add(&t.n, "Pad", IN(t.x), AT(INTS("pads", 0, 1, 1, 0), esp_attr_float("value", 9))),
           S2(3, 3), 9, 0, 1, 9, 2, 3, 9, 9, 9);
    t = trial_new(13, S2(2, 2));
    expect(&t, net_add(&t.n, "Pad", IN(t.x, net_ints(&t.n, 4, 0, -1, 0, 2)), NULL), S2(2, 3), 1, 0, 0, 3, 0,
           0);
    t = trial_new(13, S2(1, 2));
    expect(&t, net_add(&t.n, "Pad", IN(t.x, net_ints(&t.n, 4, 0, 0, 0, 1), scalar(&t.n, 5)), NULL), S2(1, 3),
           0, 1, 5);
    t = trial_new(18, S3(1, 2, 2));
    expect(&t, net_add(&t.n, "Pad", IN(t.x, net_ints(&t.n, 2, 1, 0), NET_NONE, net_ints(&t.n, 1, -1)), NULL),
           S3(1, 2, 3), 0, 0, 1, 0, 2, 3);
    t = trial_new(13, S2(2, 2));
    expect_error(
        &t,
        net_add(&t.n, "Pad", IN(t.x, net_ints(&t.n, 4, 0, 1, 0, 1)), AT(esp_attr_string("mode", "mirror"))),
        ESP_UNSUPPORTED, "'mirror'");
    t = trial_new(13, S2(2, 2));
    expect_error(&t, net_add(&t.n, "Pad", IN(t.x, net_ints(&t.n, 2, 0, 1)), NULL), ESP_SHAPE,
                 "2 pads, expected 4");
    t = trial_new(13, S2(2, 2));
    expect_error(&t, net_add(&t.n, "Pad", IN(t.x, net_ints(&t.n, 4, 0, -2, 0, -1)), NULL), ESP_SHAPE,
                 "do not fit");
    net n = net_new(13);
    int padded = net_add(&n, "Pad", IN(net_ints(&n, 2, 3, 4), net_ints(&n, 2, 1, 1), net_int(&n, 7)), NULL);
    expect_known(&n, padded, ESP_I64, S1(4), 7, 3, 4, 7);
}

static void gather_takes_indices_of_any_rank(void **state)
{
    (void)state;
    trial t = trial_new(13, S2(2, 3));
    expect(&t, net_add(&t.n, "Gather", IN(t.x, net_ints(&t.n, 3, 2, 0, -1)), AT(esp_attr_int("axis", 1))),
           S2(2, 3), 2, 0, 2, 5, 3, 5);
    t = trial_new(13, S2(2, 3));
    expect(&t, net_add(&t.n, "Gather", IN(t.x, net_int(&t.n, 1)), NULL), S1(3), 3, 4, 5);
    t = trial_new(13, S2(2, 3));
    int table = net_add(&t.n, "Reshape", IN(net_ints(&t.n, 4, 0, 1, 1, 0), net_ints(&t.n, 2, 2, 2)), NULL);
    expect(&t, net_add(&t.n, "Gather", IN(t.x, table), AT(esp_attr_int("axis", -1))), S3(2, 2, 2), 0, 1, 1, 0,
           3, 4, 4, 3);
    net n = net_new(13);
    int y = net_add(&n, "Gather", IN(net_ints(&n, 3, 5, 6, 7), net_int(&n, -1)), NULL);
    expect_known(&n, y, ESP_I64, (esp_shape){0}, 7);
    t = trial_new(13, S1(1));
    expect_error(&t, net_add(&t.n, "Gather", IN(net_ints(&t.n, 3, 5, 6, 7), net_int(&t.n, 3)), NULL),
                 ESP_SHAPE, "index 3 of an axis of 3");
}

static void expand_repeats(void **state)
{
    (void)state;
    trial t = trial_new(13, S3(1, 2, 1));
    expect(&t, net_add(&t.n, "Expand", IN(t.x, net_ints(&t.n, 2, 1, 3)), NULL), S3(1, 2, 3), 0, 0, 0, 1, 1,
           1);
    t = trial_new(13, S3(1, 2, 1));
    expect_error(&t, net_add(&t.n, "Expand", IN(t.x, net_ints(&t.n, 2, 3, 1)), NULL), ESP_SHAPE, "1x2x1");
}

/* ---- training forms ---- */

static void dropout_drops_and_scales_in_training_only(void **state)
{
    (void)state;
    esp_error err = {0};
    enum { COUNT = 4000 };
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, COUNT));
    net_output(&n, net_add(&n, "Dropout", IN(x, scalar(&n, 0.25f)), NULL));
    esp_graph *graph = net_finish(&n);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    esp_exec *exec =
        exec_new(graph, (esp_exec_options){.batch = 1, .is_training = true, .params = params, .seed = 1});
    must(esp_exec_want_input_grad(exec, 0, &err), &err);
    float *in = view_data(esp_exec_input(exec, 0)), first[COUNT];
    for (int i = 0; i < COUNT; i++)
        in[i] = 3.0f;
    run_forward(exec);
    memcpy(first, view_data(esp_exec_output(exec, 0)), sizeof first);
    int dropped = 0;
    for (int i = 0; i < COUNT; i++) {
        dropped += first[i] < 1.0f;
        assert_true(first[i] < 1.0f ? first[i] > -1e-9f : fabsf(first[i] - 4.0f) < 1e-5f);
    }
    assert_in_range(dropped, COUNT / 4 - 120, COUNT / 4 + 120); /* four standard deviations */
    float *dy = view_data(esp_exec_output_grad(exec, 0));
    for (int i = 0; i < COUNT; i++)
        dy[i] = 3.0f;
    must(esp_exec_backward(exec, NULL, &err), &err);
    assert_memory_equal(view_data(esp_exec_input_grad(exec, 0)), first, sizeof first);
    run_forward(exec);
    assert_memory_not_equal(view_data(esp_exec_output(exec, 0)), first, sizeof first);
    esp_exec_free(exec);
    esp_params_free(params);
    esp_graph_unref(graph);
}

static void a_ratio_outside_0_to_1_is_refused(void **state)
{
    (void)state;
    trial t = trial_new(13, S2(1, 4));
    expect_error(&t, net_add(&t.n, "Dropout", IN(t.x, scalar(&t.n, 1.0f)), NULL), ESP_INVALID, "ratio is 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv_follows_the_definition),
        cmocka_unit_test(automatic_padding_puts_the_odd_pixel_where_asked),
        cmocka_unit_test(conv_says_what_does_not_fit),
        cmocka_unit_test(gemm_multiplies_scales_and_adds),
        cmocka_unit_test(gemm_needs_its_bias_before_opset_11),
        cmocka_unit_test(matmul_broadcasts_batches_and_takes_vectors),
        cmocka_unit_test(pools_take_windows),
        cmocka_unit_test(ceil_mode_adds_a_window_that_starts_inside),
        cmocka_unit_test(average_pool_counts_padding_when_asked),
        cmocka_unit_test(max_pool_looks_past_padding_and_with_dilation),
        cmocka_unit_test(global_pools_and_means_agree_with_hand_sums),
        cmocka_unit_test(batch_norm_uses_stored_statistics_at_evaluation),
        cmocka_unit_test(batch_norm_refuses_what_it_cannot_do),
        cmocka_unit_test(activations_follow_their_formulas),
        cmocka_unit_test(clip_takes_bounds_as_attributes_then_as_inputs),
        cmocka_unit_test(arithmetic_broadcasts),
        cmocka_unit_test(softmax_before_13_flattens_from_its_axis),
        cmocka_unit_test(reshape_copies_infers_and_allows_zero),
        cmocka_unit_test(flatten_squeeze_and_unsqueeze_keep_the_elements),
        cmocka_unit_test(shape_operators_are_known_at_compile_time),
        cmocka_unit_test(integer_arithmetic_folds),
        cmocka_unit_test(integer_division_by_zero_is_an_error),
        cmocka_unit_test(concat_joins_along_an_axis),
        cmocka_unit_test(transpose_permutes),
        cmocka_unit_test(slice_clamps_and_steps_back),
        cmocka_unit_test(slices_with_extreme_bounds_do_not_overflow),
        cmocka_unit_test(pad_adds_and_crops),
        cmocka_unit_test(gather_takes_indices_of_any_rank),
        cmocka_unit_test(expand_repeats),
        cmocka_unit_test(dropout_drops_and_scales_in_training_only),
        cmocka_unit_test(a_ratio_outside_0_to_1_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
