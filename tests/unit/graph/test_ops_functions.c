/* Functions, arithmetic and reductions as operators: every row of the table at its oldest and its newest
 * opset, with its attributes and their defaults, against the formulas of the ONNX operator texts. */
#include "unit/graph/net.h"

#include <math.h>
#include <string.h>

enum { COUNT = 48 };

/* Runs the network on x = -3 .. 3 in COUNT steps as [2,3,8]; `expected` of that many elements or fewer. */
static void expect_values(net *n, int y, const double *expected, double tolerance)
{
    net_output(n, y);
    esp_graph *graph = net_finish(n);
    esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 2});
    float *x = view_data(esp_exec_input(exec, 0));
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)(i - COUNT / 2) / 8.0f + 1.0f / 32.0f;
    run_forward(exec);
    const esp_view *found = esp_exec_output(exec, 0);
    float truth[COUNT];
    for (int64_t i = 0; i < view_count(found); i++)
        truth[i] = (float)expected[i];
    assert_close(view_data(found), truth, view_count(found), tolerance);
    esp_exec_free(exec);
    esp_graph_unref(graph);
}

static double x_at(int i)
{
    return (double)(i - COUNT / 2) / 8.0 + 1.0 / 32.0;
}

/* ---- functions of one number ---- */

typedef double formula(double x);

#define FORMULA(name, value)                                                                                 \
    static double name(double x)                                                                             \
    {                                                                                                        \
        return value;                                                                                        \
    }

FORMULA(leaky, x < 0 ? 0.01 * x : x)
FORMULA(leaky_half, x < 0 ? 0.5 * x : x)
FORMULA(elu, x < 0 ? expm1(x) : x)
FORMULA(elu_2, x < 0 ? 2 * expm1(x) : x)
FORMULA(selu, 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * expm1(x)))
FORMULA(selu_23, 3.0 * (x > 0 ? x : 2.0 * expm1(x)))
FORMULA(celu, fmax(0, x) + fmin(0, expm1(x)))
FORMULA(celu_2, fmax(0, x) + fmin(0, 2.0 * expm1(x / 2.0)))
FORMULA(thresholded, x > 1 ? x : 0)
FORMULA(thresholded_2, x > 2 ? x : 0)
FORMULA(hard_sigmoid, fmax(0, fmin(1, 0.2 * x + 0.5)))
FORMULA(hard_swish, x *fmax(0, fmin(1, x / 6 + 0.5)))
FORMULA(mish, x *tanh(log1p(exp(x))))
FORMULA(gelu, 0.5 * x * (1 + erf(x / sqrt(2))))
FORMULA(gelu_by_tanh, 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))))
FORMULA(softplus, log1p(exp(x)))
FORMULA(softsign, x / (1 + fabs(x)))
FORMULA(shrink_hard, fabs(x) > 0.5 ? x : 0)
FORMULA(shrink_soft, x < -1.5 ? x + 1.5 : (x > 1.5 ? x - 1.5 : 0))
FORMULA(sigmoid, 1 / (1 + exp(-x)))
FORMULA(reciprocal, 1 / x)
FORMULA(sign, x > 0 ? 1 : -1)
FORMULA(relu, fmax(x, 0))
FORMULA(negative, -x)

typedef struct function_case {
    const char *op;
    int since;
    formula *of;
    esp_attr attrs[2];
} function_case;

static void functions_are_those_of_the_operator_texts(void **state)
{
    (void)state;
    const function_case cases[] = {
        {"Relu", 7, relu, {{0}}},
        {"LeakyRelu", 7, leaky, {{0}}},
        {"LeakyRelu", 16, leaky_half, {esp_attr_float("alpha", 0.5f)}},
        {"Elu", 7, elu, {{0}}},
        {"Elu", 7, elu_2, {esp_attr_float("alpha", 2.0f)}},
        {"Selu", 7, selu, {{0}}},
        {"Selu", 7, selu_23, {esp_attr_float("alpha", 2.0f), esp_attr_float("gamma", 3.0f)}},
        {"Celu", 12, celu, {{0}}},
        {"Celu", 12, celu_2, {esp_attr_float("alpha", 2.0f)}},
        {"ThresholdedRelu", 10, thresholded, {{0}}},
        {"ThresholdedRelu", 10, thresholded_2, {esp_attr_float("alpha", 2.0f)}},
        {"HardSigmoid", 7, hard_sigmoid, {{0}}},
        {"HardSwish", 14, hard_swish, {{0}}},
        {"Mish", 18, mish, {{0}}},
        {"Gelu", 20, gelu, {{0}}},
        {"Gelu", 20, gelu_by_tanh, {esp_attr_string("approximate", "tanh")}},
        {"Softplus", 7, softplus, {{0}}},
        {"Softsign", 7, softsign, {{0}}},
        {"Shrink", 9, shrink_hard, {{0}}},
        {"Shrink", 9, shrink_soft, {esp_attr_float("bias", 1.5f), esp_attr_float("lambd", 1.5f)}},
        {"Sigmoid", 7, sigmoid, {{0}}},
        {"Tanh", 7, tanh, {{0}}},
        {"Erf", 9, erf, {{0}}},
        {"Exp", 7, exp, {{0}}},
        {"Reciprocal", 7, reciprocal, {{0}}},
        {"Neg", 7, negative, {{0}}},
        {"Abs", 7, fabs, {{0}}},
        {"Sign", 9, sign, {{0}}},
        {"Floor", 7, floor, {{0}}},
        {"Ceil", 7, ceil, {{0}}},
        {"Round", 11, nearbyint, {{0}}},
        {"Sin", 7, sin, {{0}}},
        {"Cos", 7, cos, {{0}}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        for (int opset = cases[c].since; opset <= 21;
             opset += 21 - cases[c].since > 0 ? 21 - cases[c].since : 1) {
            double expected[COUNT];
            const esp_attr attrs[3] = {cases[c].attrs[0], cases[c].attrs[1], {0}};
            net n = net_new(opset);
            int x = net_input(&n, "x", S3(2, 3, 8));
            for (int i = 0; i < COUNT; i++)
                expected[i] = cases[c].of(x_at(i));
            expect_values(&n, net_add(&n, cases[c].op, IN(x), attrs), expected, 2e-6);
        }
    }
}

static void logarithms_and_roots_undo_their_powers(void **state)
{
    (void)state;
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++)
        expected[i] = x_at(i);
    net n = net_new(13);
    int x = net_input(&n, "x", S3(2, 3, 8));
    expect_values(&n, net_add(&n, "Log", IN(net_add(&n, "Exp", IN(x), NULL)), NULL), expected, 1e-6);
    for (int i = 0; i < COUNT; i++)
        expected[i] = fabs(x_at(i));
    n = net_new(13);
    x = net_input(&n, "x", S3(2, 3, 8));
    expect_values(&n, net_add(&n, "Sqrt", IN(net_add(&n, "Mul", IN(x, x), NULL)), NULL), expected, 1e-6);
}

/* min above max: everything becomes max. */
static void clip_prefers_its_upper_bound(void **state)
{
    (void)state;
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++)
        expected[i] = -1.0;
    net n = net_new(13);
    int x = net_input(&n, "x", S3(2, 3, 8));
    int low = net_constant(&n, S1(1), (const float[]){1.0f}),
        high = net_constant(&n, S1(1), (const float[]){-1.0f});
    expect_values(&n, net_add(&n, "Clip", IN(x, low, high), NULL), expected, 0.0);
}

/* ---- two and more operands ---- */

static void arithmetic_is_that_of_the_operator_texts(void **state)
{
    (void)state;
    const float numbers[3] = {2.0f, -0.5f, 3.0f}; /* per row of eight */
    const char *const ops[] = {"Min", "Max", "Mean", "Sum", "PRelu", "Mod"};
    for (int c = 0; c < 6; c++) {
        double expected[COUNT];
        net n = net_new(c == 5 ? 10 : 8);
        int x = net_input(&n, "x", S3(2, 3, 8)), b = net_constant(&n, S2(3, 1), numbers);
        for (int i = 0; i < COUNT; i++) {
            double p = x_at(i), q = (double)numbers[i / 8 % 3];
            const double values[] = {fmin(p, q), fmax(p, q),        (p + q) / 2,
                                     p + q,      p < 0 ? p * q : p, fmod(p, q)};
            expected[i] = values[c];
        }
        const esp_attr attrs[2] = {c == 5 ? esp_attr_int("fmod", 1) : (esp_attr){0}};
        expect_values(&n, net_add(&n, ops[c], IN(x, b), attrs), expected, 1e-6);
    }
}

static void powers_take_exponents_of_any_type(void **state)
{
    (void)state;
    for (int c = 0; c < 3; c++) {
        double expected[COUNT];
        net n = net_new(c == 0 ? 7 : 15);
        int x = net_input(&n, "x", S3(2, 3, 8));
        int exponent = c == 0   ? net_constant(&n, S1(1), (const float[]){2.0f})
                       : c == 1 ? net_int(&n, 3)
                                : net_constant(&n, S1(1), (const float[]){-1.0f});
        for (int i = 0; i < COUNT; i++)
            expected[i] = pow(x_at(i), c == 0 ? 2 : (c == 1 ? 3 : -1));
        expect_values(&n, net_add(&n, "Pow", IN(x, exponent), NULL), expected, 1e-6);
    }
}

/* y = x > 0 and not x > 1 ? x : -7, in floats and masks. */
static void masks_select(void **state)
{
    (void)state;
    double expected[COUNT];
    net n = net_new(16);
    int x = net_input(&n, "x", S3(2, 3, 8));
    int zero = net_constant(&n, S1(1), (const float[]){0.0f}),
        one = net_constant(&n, S1(1), (const float[]){1.0f});
    int above = net_add(&n, "Greater", IN(x, zero), NULL), far = net_add(&n, "Less", IN(one, x), NULL);
    int inside = net_add(&n, "And", IN(above, net_add(&n, "Not", IN(far), NULL)), NULL);
    int same = net_add(&n, "Equal", IN(x, x), NULL);
    int again = net_add(&n, "Or", IN(inside, net_add(&n, "Xor", IN(same, same), NULL)), NULL);
    int odd = net_add(&n, "IsNaN", IN(x), NULL);
    int mask = net_add(&n, "Xor", IN(again, odd), NULL);
    for (int i = 0; i < COUNT; i++)
        expected[i] = x_at(i) > 0 && x_at(i) <= 1 ? x_at(i) : -7.0;
    int seven = net_constant(&n, S1(1), (const float[]){-7.0f});
    expect_values(&n, net_add(&n, "Where", IN(mask, x, seven), NULL), expected, 1e-7);
}

static void comparisons_with_equality_hold_for_equals(void **state)
{
    (void)state;
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++)
        expected[i] = 1.0;
    for (int c = 0; c < 2; c++) {
        net n = net_new(12);
        int x = net_input(&n, "x", S3(2, 3, 8));
        int mask = net_add(&n, c == 0 ? "LessOrEqual" : "GreaterOrEqual", IN(x, x), NULL);
        expect_values(&n, net_add(&n, "Cast", IN(mask), AT(esp_attr_int("to", 1))), expected, 0.0);
    }
}

/* ---- reductions ---- */

/* Over the last axis of [2,3,8]. */
static void reductions_are_those_of_the_operator_texts(void **state)
{
    (void)state;
    const char *const ops[] = {"ReduceSum",    "ReduceMean",     "ReduceMax", "ReduceMin",
                               "ReduceProd",   "ReduceL1",       "ReduceL2",  "ReduceSumSquare",
                               "ReduceLogSum", "ReduceLogSumExp"};
    for (int c = 0; c < 10; c++) {
        double expected[6];
        for (int row = 0; row < 6; row++) {
            double sum = 0, most = -99, least = 99, product = 1, ones = 0, squares = 0, powers = 0;
            for (int i = 0; i < 8; i++) {
                double v = c == 8 ? fabs(x_at(row * 8 + i)) : x_at(row * 8 + i);
                sum += v, product *= v, ones += fabs(v), squares += v * v, powers += exp(v);
                most = fmax(most, v), least = fmin(least, v);
            }
            const double values[] = {sum,  sum / 8,       most,    least,    product,
                                     ones, sqrt(squares), squares, log(sum), log(powers)};
            expected[row] = values[c];
        }
        for (int form = 0; form < 3; form++) { /* attribute; input; input, keeping the axis */
            net n = net_new(form == 0 ? 7 : 18);
            int x = net_input(&n, "x", S3(2, 3, 8));
            int from = c == 8 ? net_add(&n, "Abs", IN(x), NULL) : x;
            esp_attr keeps = esp_attr_int("keepdims", form == 2);
            int y = form == 0 ? net_add(&n, ops[c], IN(from), AT(INTS("axes", -1), keeps))
                              : net_add(&n, ops[c], IN(from, net_ints(&n, 1, 2)), AT(keeps));
            expect_values(&n, y, expected, 1e-5);
        }
    }
}

static void no_axes_mean_all_or_none(void **state)
{
    (void)state;
    double expected[COUNT], sum = 0;
    for (int i = 0; i < COUNT; i++)
        sum += expected[i] = x_at(i);
    net n = net_new(13);
    int x = net_input(&n, "x", S3(2, 3, 8));
    expect_values(
        &n, net_add(&n, "ReduceSum", IN(x, net_ints(&n, 0)), AT(esp_attr_int("noop_with_empty_axes", 1))),
        expected, 1e-7);
    n = net_new(13);
    x = net_input(&n, "x", S3(2, 3, 8));
    expect_values(&n, net_add(&n, "ReduceSum", IN(x), AT(esp_attr_int("keepdims", 0))), &sum, 1e-5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_those_of_the_operator_texts),
        cmocka_unit_test(logarithms_and_roots_undo_their_powers),
        cmocka_unit_test(clip_prefers_its_upper_bound),
        cmocka_unit_test(arithmetic_is_that_of_the_operator_texts),
        cmocka_unit_test(powers_take_exponents_of_any_type),
        cmocka_unit_test(masks_select),
        cmocka_unit_test(comparisons_with_equality_hold_for_equals),
        cmocka_unit_test(reductions_are_those_of_the_operator_texts),
        cmocka_unit_test(no_axes_mean_all_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
