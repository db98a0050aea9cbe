/* Operators on the types that exporters compute shapes with: what is known when a network is prepared. */
#include "unit/graph/net.h"

#include <string.h>

/* The folded contents of `y`. */
static void expect_known(net *n, int y, esp_dtype dtype, esp_shape shape, const int64_t *expected)
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
        assert_true(esp_tensor_get_i64(tensor, i) == expected[i]);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void expect_refused(net *n, int y, const char *piece)
{
    esp_error err = {0};
    esp_inferred *inferred;
    net_output(n, y);
    esp_graph *graph = net_finish(n);
    assert_int_not_equal(esp_infer(graph, 1, NULL, 0, &inferred, &err), ESP_OK);
    assert_contains(err.message, piece);
    esp_graph_unref(graph);
}

static void integer_operands_give_integers(void **state)
{
    (void)state;
    const struct {
        const char *op;
        esp_dtype dtype;
        int64_t expected[3];
    } cases[] = {
        {"Add", ESP_I64, {-5, 9, 8}},
        {"Sub", ESP_I64, {-9, 5, 4}},
        {"Mul", ESP_I64, {-14, 14, 12}},
        {"Div", ESP_I64, {-3, 3, 3}},
        {"Min", ESP_I64, {-7, 2, 2}},
        {"Max", ESP_I64, {2, 7, 6}},
        {"Mod", ESP_I64, {1, 1, 0}},
        {"Pow", ESP_I64, {49, 49, 36}},
        {"Equal", ESP_BOOL, {0, 0, 0}},
        {"Less", ESP_BOOL, {1, 0, 0}},
        {"Greater", ESP_BOOL, {0, 1, 1}},
        {"LessOrEqual", ESP_BOOL, {1, 0, 0}},
        {"GreaterOrEqual", ESP_BOOL, {0, 1, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        net n = net_new(13);
        int a = net_ints(&n, 3, -7, 7, 6), b = net_int(&n, 2);
        expect_known(&n, net_add(&n, cases[i].op, IN(a, b), NULL), cases[i].dtype, S1(3), cases[i].expected);
    }
}

static void functions_of_integers_are_exact(void **state)
{
    (void)state;
    const struct {
        const char *op;
        int64_t expected[4];
    } cases[] = {
        {"Neg", {7, 0, -5, -1}}, {"Abs", {7, 0, 5, 1}}, {"Sign", {-1, 0, 1, 1}}, {"Relu", {0, 0, 5, 1}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        net n = net_new(14);
        int x = net_ints(&n, 4, -7, 0, 5, 1);
        expect_known(&n, net_add(&n, cases[i].op, IN(x), NULL), ESP_I64, S1(4), cases[i].expected);
    }
    net n = net_new(13);
    int x = net_ints(&n, 4, -7, 0, 5, 1);
    expect_known(&n, net_add(&n, "Clip", IN(x, net_int(&n, -1), net_int(&n, 3)), NULL), ESP_I64, S1(4),
                 (const int64_t[]){-1, 0, 3, 1});
    n = net_new(13);
    x = net_ints(&n, 4, -7, 0, 5, 1);
    expect_known(&n, net_add(&n, "Clip", IN(x, NET_NONE, net_int(&n, 3)), NULL), ESP_I64, S1(4),
                 (const int64_t[]){-7, 0, 3, 1});
}

static void integers_are_reduced(void **state)
{
    (void)state;
    const struct {
        const char *op;
        int64_t expected;
    } cases[] = {{"ReduceProd", 24}, {"ReduceSum", 9}, {"ReduceMax", 4}, {"ReduceMin", 2}, {"ReduceMean", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        net n = net_new(18);
        int y = net_add(&n, cases[i].op, IN(net_ints(&n, 3, 2, 3, 4)), AT(esp_attr_int("keepdims", 0)));
        expect_known(&n, y, ESP_I64, shape_of(0), &cases[i].expected);
    }
    net n = net_new(18);
    expect_refused(&n, net_add(&n, "ReduceL2", IN(net_ints(&n, 2, 3, 4)), NULL), "expected float32");
}

static void selections_keep_the_type(void **state)
{
    (void)state;
    net n = net_new(13);
    int a = net_ints(&n, 3, 1, -1, 3), minus = net_int(&n, -1);
    int mask = net_add(&n, "Equal", IN(a, minus), NULL);
    expect_known(&n, net_add(&n, "Where", IN(mask, net_int(&n, 9), a), NULL), ESP_I64, S1(3),
                 (const int64_t[]){1, 9, 3});
}

static void casts_go_through_every_type(void **state)
{
    (void)state;
    /* float, double, int32, int64, uint8, uint16, int16, uint32, uint64 */
    const int64_t onnx_types[] = {1, 11, 6, 7, 2, 4, 5, 12, 13};
    net n = net_new(19);
    int y = net_ints(&n, 3, 0, 7, 255);
    for (size_t i = 0; i < sizeof onnx_types / sizeof *onnx_types; i++)
        y = net_add(&n, "Cast", IN(y), AT(esp_attr_int("to", onnx_types[i])));
    y = net_add(&n, "CastLike", IN(y, net_int(&n, 0)), NULL);
    expect_known(&n, y, ESP_I64, S1(3), (const int64_t[]){0, 7, 255});
    n = net_new(13);
    y = net_add(&n, "Cast", IN(net_ints(&n, 3, 0, 7, -1)), AT(esp_attr_int("to", 9)));
    expect_known(&n, y, ESP_BOOL, S1(3), (const int64_t[]){0, 1, 1});
    n = net_new(13);
    y = net_add(&n, "Cast", IN(net_ints(&n, 3, 127, 7, -129)), AT(esp_attr_int("to", 3)));
    expect_known(&n, y, ESP_I8, S1(3), (const int64_t[]){127, 7, 127});
    n = net_new(13);
    y = net_add(&n, "Cast", IN(net_ints(&n, 1, 1)), AT(esp_attr_int("to", 8)));
    expect_refused(&n, y, "element type 8");
}

/* ONNX's numbers of the types. */
enum { TO_UINT8 = 2, TO_INT8 = 3, TO_UINT32 = 12, TO_UINT64 = 13 };

static int cast_ints(net *n, int ints, int to)
{
    return net_add(n, "Cast", IN(ints), AT(esp_attr_int("to", to)));
}

static void unsigned_numbers_are_never_below_zero(void **state)
{
    (void)state;
    net n = net_new(14);
    int x = cast_ints(&n, net_ints(&n, 3, 5, -1, 0), TO_UINT64); /* 5, 2^64 - 1, 0 */
    expect_known(&n, net_add(&n, "ArgMax", IN(x), AT(esp_attr_int("keepdims", 0))), ESP_I64, shape_of(0),
                 (const int64_t[]){1});
    n = net_new(14);
    x = cast_ints(&n, net_ints(&n, 3, 5, -1, 0), TO_UINT64);
    expect_known(&n, net_add(&n, "Abs", IN(x), NULL), ESP_U64, S1(3), (const int64_t[]){5, -1, 0});
    n = net_new(14);
    x = cast_ints(&n, net_ints(&n, 3, 5, -1, 0), TO_UINT64);
    expect_known(&n, net_add(&n, "Relu", IN(x), NULL), ESP_U64, S1(3), (const int64_t[]){5, -1, 0});
    n = net_new(14);
    x = cast_ints(&n, net_ints(&n, 3, 5, -1, 0), TO_UINT32);
    expect_known(&n, net_add(&n, "Sign", IN(x), NULL), ESP_U32, S1(3), (const int64_t[]){1, 1, 0});
    n = net_new(14);
    x = cast_ints(&n, net_ints(&n, 3, 5, -1, 2), TO_UINT32);
    expect_known(&n, net_add(&n, "CumSum", IN(x, net_int(&n, 0)), NULL), ESP_U32, S1(3),
                 (const int64_t[]){5, 4, 6});
}

/* A window of 3 that reaches past both ends. */
static void maxima_of_bytes_are_pooled(void **state)
{
    (void)state;
    const struct {
        int to;
        esp_dtype dtype;
        int64_t expected[4];
    } cases[] = {{TO_INT8, ESP_I8, {-3, -3, -2, -2}}, {TO_UINT8, ESP_U8, {253, 253, 254, 254}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        net n = net_new(13);
        int line =
            net_add(&n, "Reshape", IN(net_ints(&n, 4, -7, -3, -9, -2), net_ints(&n, 3, 1, 1, 4)), NULL);
        int y = net_add(&n, "MaxPool", IN(cast_ints(&n, line, cases[i].to)),
                        AT(INTS("kernel_shape", 3), INTS("pads", 1, 1)));
        expect_known(&n, y, cases[i].dtype, S3(1, 1, 4), cases[i].expected);
    }
    net n = net_new(13);
    int line = net_add(&n, "Reshape", IN(net_ints(&n, 4, 1, 2, 3, 4), net_ints(&n, 3, 1, 1, 4)), NULL);
    expect_refused(&n,
                   net_add(&n, "AveragePool", IN(cast_ints(&n, line, TO_UINT8)), AT(INTS("kernel_shape", 3))),
                   "pooling of uint8");
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    net n = net_new(13);
    int floats = net_constant(&n, S1(3), NULL);
    expect_refused(&n, net_add(&n, "Add", IN(floats, net_ints(&n, 3, 1, 2, 3)), NULL),
                   "types float32 and int64");
    n = net_new(13);
    expect_refused(&n, net_add(&n, "And", IN(net_int(&n, 1), net_int(&n, 1)), NULL), "expected bool");
    n = net_new(13);
    floats = net_constant(&n, S1(3), NULL);
    expect_refused(&n, net_add(&n, "Mod", IN(floats, floats), NULL), "fmod");
    n = net_new(13);
    expect_refused(&n, net_add(&n, "Mod", IN(net_int(&n, 1), net_int(&n, 0)), NULL), "division by zero");
    n = net_new(13);
    expect_refused(&n, net_add(&n, "Elu", IN(net_int(&n, 1)), NULL), "expected float32");
    n = net_new(13);
    floats = net_constant(&n, S1(3), NULL);
    expect_refused(&n, net_add(&n, "PRelu", IN(floats, net_constant(&n, S2(2, 3), NULL)), NULL), "slope 2x3");
    n = net_new(20);
    floats = net_constant(&n, S1(3), NULL);
    expect_refused(&n, net_add(&n, "Gelu", IN(floats), AT(esp_attr_string("approximate", "sin"))),
                   "none or tanh");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_operands_give_integers),
        cmocka_unit_test(functions_of_integers_are_exact),
        cmocka_unit_test(integers_are_reduced),
        cmocka_unit_test(selections_keep_the_type),
        cmocka_unit_test(casts_go_through_every_type),
        cmocka_unit_test(unsigned_numbers_are_never_below_zero),
        cmocka_unit_test(maxima_of_bytes_are_pooled),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
