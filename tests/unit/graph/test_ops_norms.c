/* Normalisations as operators, against plain loops over the formulas of the ONNX operator texts. */
#include "unit/graph/net.h"

#include <math.h>
#include <string.h>

enum { N = 2, C = 4, H = 2, W = 3, COUNT = N * C * H * W };

typedef struct trial {
    net n;
    int x;
    float values[COUNT];
} trial;

static trial trial_new(int opset)
{
    trial t = {.n = net_new(opset)};
    t.x = net_input(&t.n, "x", S4(N, C, H, W));
    fill_random(&t.n.rng, t.values, COUNT, -2.0f, 3.0f);
    return t;
}

static void expect(trial *t, int y, const double *expected)
{
    float truth[COUNT];
    net_output(&t->n, y);
    esp_graph *graph = net_finish(&t->n);
    for (int training = 0; training < 2; training++) {
        esp_error err = {0};
        esp_params *params;
        must(esp_params_new(graph, &params, &err), &err);
        esp_exec *exec =
            exec_new(graph, (esp_exec_options){.batch = N, .is_training = training != 0, .params = params});
        memcpy(view_data(esp_exec_input(exec, 0)), t->values, sizeof t->values);
        run_forward(exec);
        for (int i = 0; i < COUNT; i++)
            truth[i] = (float)expected[i];
        assert_close(view_data(esp_exec_output(exec, 0)), truth, COUNT, 1e-5);
        esp_exec_free(exec);
        esp_params_free(params);
    }
    esp_graph_unref(graph);
}

static int channel_of(int i)
{
    return i / (H * W) % C;
}

/* y = (x - mean) / sqrt(variance + epsilon) * scale + bias; elements of one `set` share their statistics, and
 * `parameter` says whose scale and bias they have. */
static void normalise(const float *x, const int *set, const int *parameter, const float *scale,
                      const float *bias, double epsilon, double *y)
{
    for (int i = 0; i < COUNT; i++) {
        double mean = 0, variance = 0;
        int members = 0;
        for (int j = 0; j < COUNT; j++) {
            if (set[j] == set[i])
                mean += (double)x[j], members++;
        }
        mean /= members;
        for (int j = 0; j < COUNT; j++) {
            if (set[j] == set[i])
                variance += ((double)x[j] - mean) * ((double)x[j] - mean) / members;
        }
        y[i] = ((double)x[i] - mean) / sqrt(variance + epsilon) * (double)scale[parameter[i]] +
               (double)bias[parameter[i]];
    }
}

static const float scales[12] = {1.5f, -0.5f, 2.0f, 0.7f, 1.1f, 0.3f, 1.0f, -1.0f, 0.9f, 1.2f, 0.4f, 2.5f};
static const float biases[12] = {0.1f, 0.2f, -0.3f, 0.4f, 0.0f, 1.0f, -1.0f, 0.5f, 0.6f, -0.7f, 0.8f, 0.9f};

static void instances_are_normalised_channel_by_channel(void **state)
{
    (void)state;
    int set[COUNT], parameter[COUNT];
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++)
        set[i] = i / (H * W), parameter[i] = channel_of(i);
    trial t = trial_new(7);
    normalise(t.values, set, parameter, scales, biases, 0.1, expected);
    int y = net_add(&t.n, "InstanceNormalization",
                    IN(t.x, net_constant(&t.n, S1(C), scales), net_constant(&t.n, S1(C), biases)),
                    AT(esp_attr_float("epsilon", 0.1f)));
    expect(&t, y, expected);
}

static void groups_have_a_scale_each_until_opset_20_and_one_per_channel_since(void **state)
{
    (void)state;
    for (int opset = 18; opset <= 21; opset += 3) {
        int set[COUNT], parameter[COUNT], parameters = opset < 21 ? 2 : C;
        double expected[COUNT];
        for (int i = 0; i < COUNT; i++) {
            set[i] = i / (2 * H * W);
            parameter[i] = opset < 21 ? channel_of(i) / 2 : channel_of(i);
        }
        trial t = trial_new(opset);
        normalise(t.values, set, parameter, scales, biases, 1e-5, expected);
        int y = net_add(
            &t.n, "GroupNormalization",
            IN(t.x, net_constant(&t.n, S1(parameters), scales), net_constant(&t.n, S1(parameters), biases)),
            AT(esp_attr_int("num_groups", 2)));
        expect(&t, y, expected);
    }
}

static void layers_are_normalised_from_an_axis_on(void **state)
{
    (void)state;
    int set[COUNT], parameter[COUNT];
    double expected[COUNT];
    const float zeros[12] = {0};
    for (int i = 0; i < COUNT; i++)
        set[i] = i / W, parameter[i] = i % W;
    trial t = trial_new(17);
    normalise(t.values, set, parameter, scales, zeros, 1e-5, expected);
    expect(&t, net_add(&t.n, "LayerNormalization", IN(t.x, net_constant(&t.n, S1(W), scales)), NULL),
           expected);
    for (int i = 0; i < COUNT; i++)
        set[i] = i / (H * W), parameter[i] = i % (H * W);
    t = trial_new(17);
    normalise(t.values, set, parameter, scales, biases, 0.01, expected);
    int y = net_add(&t.n, "LayerNormalization",
                    IN(t.x, net_constant(&t.n, S2(H, W), scales), net_constant(&t.n, S3(1, H, W), biases)),
                    AT(esp_attr_int("axis", 2), esp_attr_float("epsilon", 0.01f)));
    expect(&t, y, expected);
}

static void layer_statistics_are_given_when_asked_for(void **state)
{
    (void)state;
    esp_error err = {0};
    trial t = trial_new(17);
    const int inputs[2] = {t.x, net_constant(&t.n, S1(W), scales)};
    int outputs[3];
    for (int i = 0; i < 3; i++)
        must(esp_builder_value(t.n.builder, i == 0 ? "y" : (i == 1 ? "mean" : "inverse"), &outputs[i], &err),
             &err);
    must(esp_builder_node(t.n.builder, "LayerNormalization", "norm", inputs, 2, outputs, 3, NULL, 0, &err),
         &err);
    net_output(&t.n, outputs[1]);
    net_output(&t.n, outputs[2]);
    esp_graph *graph = net_finish(&t.n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = N});
    memcpy(view_data(esp_exec_input(exec, 0)), t.values, sizeof t.values);
    run_forward(exec);
    assert_shape(&esp_exec_output(exec, 0)->shape, S4(N, C, H, 1));
    for (int row = 0; row < N * C * H; row++) {
        const float *x = t.values + row * W;
        double mean = ((double)x[0] + (double)x[1] + (double)x[2]) / 3, variance = 0;
        for (int i = 0; i < W; i++)
            variance += ((double)x[i] - mean) * ((double)x[i] - mean) / 3;
        const float expected[2] = {(float)mean, (float)(1.0 / sqrt(variance + 1e-5))};
        for (int i = 0; i < 2; i++)
            assert_close(&view_data(esp_exec_output(exec, i))[row], &expected[i], 1, 1e-5);
    }
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static void means_and_variances_are_taken_over_the_named_axes(void **state)
{
    (void)state;
    int set[COUNT], zero[COUNT] = {0};
    const float one = 1.0f, nothing = 0.0f;
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++)
        set[i] = channel_of(i); /* axes 0, 2 and 3 */
    trial t = trial_new(9);
    normalise(t.values, set, zero, &one, &nothing, 0.0, expected);
    expect(&t, net_add(&t.n, "MeanVarianceNormalization", IN(t.x), NULL), expected);
    for (int i = 0; i < COUNT; i++)
        set[i] = i / (C * H * W) * W + i % W;
    t = trial_new(13);
    normalise(t.values, set, zero, &one, &nothing, 0.0, expected);
    expect(&t, net_add(&t.n, "MeanVarianceNormalization", IN(t.x), AT(INTS("axes", 1, 2))), expected);
}

static void vectors_get_the_length_one(void **state)
{
    (void)state;
    for (int p = 1; p <= 2; p++) {
        double expected[COUNT];
        trial t = trial_new(7);
        memset(t.values, 0, W * sizeof *t.values); /* a vector of zeros stays */
        for (int i = 0; i < COUNT; i++) {
            double sum = 0;
            for (int j = i / W * W; j < i / W * W + W; j++)
                sum += p == 1 ? fabs((double)t.values[j]) : (double)t.values[j] * (double)t.values[j];
            double norm = p == 1 ? sum : sqrt(sum);
            expected[i] = norm > 0 ? (double)t.values[i] / norm : 0;
        }
        expect(&t, net_add(&t.n, "LpNormalization", IN(t.x), AT(esp_attr_int("p", p))), expected);
    }
}

static void responses_are_normalised_over_neighbouring_channels(void **state)
{
    (void)state;
    double expected[COUNT];
    trial t = trial_new(7);
    for (int i = 0; i < COUNT; i++) {
        double sum = 0;
        for (int k = -1; k <= 2; k++) { /* four channels: one in front, two behind */
            int c = channel_of(i) + k;
            if (c >= 0 && c < C)
                sum += pow((double)t.values[i + k * H * W], 2);
        }
        expected[i] = (double)t.values[i] / pow(2.0 + 0.5 / 4 * sum, 0.6);
    }
    int y = net_add(&t.n, "LRN", IN(t.x),
                    AT(esp_attr_int("size", 4), esp_attr_float("alpha", 0.5f), esp_attr_float("beta", 0.6f),
                       esp_attr_float("bias", 2.0f)));
    expect(&t, y, expected);
}

static void expect_refused(trial *t, int y, const char *piece)
{
    esp_error err = {0};
    esp_inferred *inferred;
    net_output(&t->n, y);
    esp_graph *graph = net_finish(&t->n);
    assert_int_not_equal(esp_infer(graph, N, NULL, 0, &inferred, &err), ESP_OK);
    assert_contains(err.message, piece);
    esp_graph_unref(graph);
}

static void parameters_of_another_size_are_refused(void **state)
{
    (void)state;
    trial t = trial_new(13);
    int three = net_constant(&t.n, S1(3), NULL);
    expect_refused(&t, net_add(&t.n, "InstanceNormalization", IN(t.x, three, three), NULL), "input 1 is 3");
    t = trial_new(18);
    int four = net_constant(&t.n, S1(4), NULL);
    expect_refused(
        &t, net_add(&t.n, "GroupNormalization", IN(t.x, four, four), AT(esp_attr_int("num_groups", 2))),
        "expects 2");
    t = trial_new(21);
    four = net_constant(&t.n, S1(4), NULL);
    expect_refused(
        &t, net_add(&t.n, "GroupNormalization", IN(t.x, four, four), AT(esp_attr_int("num_groups", 3))),
        "'num_groups' is 3 for 4 channels");
    t = trial_new(17);
    four = net_constant(&t.n, S1(4), NULL);
    expect_refused(&t, net_add(&t.n, "LayerNormalization", IN(t.x, four), NULL), "from axis 3 on");
    t = trial_new(13);
    expect_refused(&t, net_add(&t.n, "LRN", IN(t.x), NULL), "'size' is 0");
    t = trial_new(13);
    expect_refused(&t, net_add(&t.n, "LpNormalization", IN(t.x), AT(esp_attr_int("p", 3))),
                   "expected 1 or 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instances_are_normalised_channel_by_channel),
        cmocka_unit_test(groups_have_a_scale_each_until_opset_20_and_one_per_channel_since),
        cmocka_unit_test(layers_are_normalised_from_an_axis_on),
        cmocka_unit_test(layer_statistics_are_given_when_asked_for),
        cmocka_unit_test(means_and_variances_are_taken_over_the_named_axes),
        cmocka_unit_test(vectors_get_the_length_one),
        cmocka_unit_test(responses_are_normalised_over_neighbouring_channels),
        cmocka_unit_test(parameters_of_another_size_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
