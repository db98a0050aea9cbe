/* Data movement and selection: every operator's result on small tensors, of more than one element type.
 * Values are the operators' definitions worked out by hand; numpy's take, pad, tile and transpose give the
 * same. */
#include "unit/graph/op_check.h"

#include <string.h>

static int int_tensor(net *n, esp_shape shape, const int64_t *values)
{
    esp_error err = {0};
    esp_tensor *tensor;
    must(esp_tensor_from(ESP_I64, &shape, values, &tensor, &err), &err);
    return net_tensor(n, tensor);
}

#define WORD(name, value) esp_attr_string((name), (value))

static void pads_in_every_mode(void **state)
{
    (void)state;
    const char *const modes[] = {"constant", "reflect", "edge", "wrap"};
    const float expected[][10] = {{9, 9, 9, 9, 1, 2, 3, 9, 9, 9},
                                  {1, 2, 3, 2, 1, 2, 3, 2, 1, 2},
                                  {1, 1, 1, 1, 1, 2, 3, 3, 3, 3},
                                  {3, 1, 2, 3, 1, 2, 3, 1, 2, 3}};
    for (int i = 0; i < 4; i++) {
        net n = net_new(19);
        esp_shape scalar = {0};
        int x = net_constant(&n, S1(3), F32S(1, 2, 3)), value = net_tensor(&n, tensor_f32(scalar, F32S(9)));
        expect_f32(&n, net_add(&n, "Pad", IN(x, net_ints(&n, 2, 4, 3), value), AT(WORD("mode", modes[i]))),
                   S1(10), expected[i], 0);
    }
}

static void negative_pads_crop_before_the_rest_is_reflected(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_constant(&n, S1(4), F32S(1, 2, 3, 4));
    expect_f32(&n, net_add(&n, "Pad", IN(x, net_ints(&n, 2, -1, 2)), AT(WORD("mode", "reflect"))), S1(5),
               F32S(2, 3, 4, 3, 2), 0);
    n = net_new(13);
    expect_i64(&n, net_add(&n, "Pad", IN(net_ints(&n, 3, 1, 2, 3), net_ints(&n, 2, 2, -2)), NULL), S1(3),
               I64S(0, 0, 1));
    n = net_new(13);
    x = net_constant(&n, S1(2), F32S(1, 2));
    expect_refused(&n, net_add(&n, "Pad", IN(x, net_ints(&n, 2, -2, 1)), AT(WORD("mode", "edge"))), ESP_SHAPE,
                   "do not fit");
}

static void expect_split(net *n, const int *inputs, const esp_attr *attrs, int parts, const int64_t *sizes)
{
    int outputs[4];
    int64_t next = 0;
    op_node(n, "Split", inputs, attrs, outputs, parts);
    op_results results = op_run(n, outputs, parts);
    for (int i = 0; i < parts; i++) {
        int64_t expected[8];
        for (int64_t j = 0; j < sizes[i]; j++)
            expected[j] = next++;
        expect_value_i64(&results, i, S1((int)sizes[i]), expected);
    }
    op_results_free(&results);
}

static void splits_by_every_version_of_sizes(void **state)
{
    (void)state;
    net n = net_new(9);
    expect_split(&n, IN(net_ints(&n, 6, 0, 1, 2, 3, 4, 5)), AT(INTS("split", 1, 2, 3)), 3, I64S(1, 2, 3));
    n = net_new(11);
    expect_split(&n, IN(net_ints(&n, 6, 0, 1, 2, 3, 4, 5)), NULL, 3, I64S(2, 2, 2));
    n = net_new(13);
    expect_split(&n, IN(net_ints(&n, 4, 0, 1, 2, 3), net_ints(&n, 3, 1, 0, 3)), NULL, 3, I64S(1, 0, 3));
    n = net_new(18);
    expect_split(&n, IN(net_ints(&n, 7, 0, 1, 2, 3, 4, 5, 6)), AT(esp_attr_int("num_outputs", 4)), 4,
                 I64S(2, 2, 2, 1));
}

static void splits_along_inner_axes(void **state)
{
    (void)state;
    net n = net_new(13);
    int outputs[2];
    op_node(&n, "Split", IN(net_constant(&n, S2(2, 3), F32S(1, 2, 3, 4, 5, 6)), net_ints(&n, 2, 1, 2)),
            AT(esp_attr_int("axis", -1)), outputs, 2);
    op_results results = op_run(&n, outputs, 2);
    expect_value_f32(&results, 0, S2(2, 1), F32S(1, 4), 0);
    expect_value_f32(&results, 1, S2(2, 2), F32S(2, 3, 5, 6), 0);
    op_results_free(&results);
}

static void refuse_split(int opset, const esp_attr *attrs, int parts, const char *piece)
{
    net n = net_new(opset);
    int outputs[4];
    op_node(&n, "Split", IN(net_ints(&n, 5, 0, 1, 2, 3, 4)), attrs, outputs, parts);
    expect_refused(&n, outputs[0], ESP_SHAPE, piece);
}

static void sizes_that_do_not_add_up_are_refused(void **state)
{
    (void)state;
    refuse_split(11, NULL, 2, "cannot be split into 2 equal parts");
    refuse_split(11, AT(INTS("split", 1, 3)), 2, "add up to 4");
    refuse_split(11, AT(INTS("split", 3, 3)), 2, "do not add up");
    refuse_split(11, AT(INTS("split", 2, 2, 1)), 2, "3 sizes for 2 outputs");
    refuse_split(18, AT(esp_attr_int("num_outputs", 3)), 2, "3 sizes for 2 outputs");
}

static void tiles(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_constant(&n, S2(2, 2), F32S(1, 2, 3, 4));
    expect_f32(&n, net_add(&n, "Tile", IN(x, net_ints(&n, 2, 2, 2)), NULL), S2(4, 4),
               F32S(1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4), 0);
    n = net_new(13);
    expect_i64(&n, net_add(&n, "Tile", IN(net_ints(&n, 2, 5, 6), net_ints(&n, 1, 3)), NULL), S1(6),
               I64S(5, 6, 5, 6, 5, 6));
    n = net_new(13);
    expect_i64(&n, net_add(&n, "Tile", IN(net_ints(&n, 2, 5, 6), net_ints(&n, 1, 0)), NULL), S1(0), I64S(0));
}

/* Depth 4 of one position becomes a 2x2 square; with two channels the two orders differ. */
static void moves_depth_to_space_and_back(void **state)
{
    (void)state;
    const float deep[] = {0, 1, 2, 3, 4, 5, 6, 7};
    const char *const modes[] = {"DCR", "CRD"};
    const float expected[][8] = {{0, 2, 4, 6, 1, 3, 5, 7}, {0, 1, 2, 3, 4, 5, 6, 7}};
    for (int i = 0; i < 2; i++) {
        net n = net_new(13);
        int x = net_constant(&n, S4(1, 8, 1, 1), deep);
        expect_f32(
            &n, net_add(&n, "DepthToSpace", IN(x), AT(esp_attr_int("blocksize", 2), WORD("mode", modes[i]))),
            S4(1, 2, 2, 2), expected[i], 0);
    }
    net n = net_new(13);
    int wide = net_add(&n, "DepthToSpace", IN(op_ramp(&n, S4(1, 8, 2, 3))), AT(esp_attr_int("blocksize", 2)));
    int back = net_add(&n, "SpaceToDepth", IN(wide), AT(esp_attr_int("blocksize", 2)));
    float ramp[48];
    for (int i = 0; i < 48; i++)
        ramp[i] = (float)(i * 7 % 11 - 5);
    expect_f32(&n, back, S4(1, 8, 2, 3), ramp, 0);
    n = net_new(13);
    int x = op_ramp(&n, S4(1, 6, 2, 2));
    expect_refused(&n, net_add(&n, "DepthToSpace", IN(x), AT(esp_attr_int("blocksize", 2))), ESP_SHAPE,
                   "do not fit");
}

static void gathers_single_elements(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_constant(&n, S2(2, 2), F32S(1, 2, 3, 4)), at = int_tensor(&n, S2(2, 2), I64S(0, 0, -1, 0));
    expect_f32(&n, net_add(&n, "GatherElements", IN(x, at), AT(esp_attr_int("axis", 1))), S2(2, 2),
               F32S(1, 1, 4, 3), 0);
    n = net_new(13);
    at = int_tensor(&n, S1(1), I64S(2));
    expect_refused(&n, net_add(&n, "GatherElements", IN(net_ints(&n, 2, 1, 2), at), NULL), ESP_SHAPE,
                   "index 2 of an axis of 2");
}

static void gathers_by_tuples(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = int_tensor(&n, S3(2, 2, 2), I64S(0, 1, 2, 3, 4, 5, 6, 7)),
        at = int_tensor(&n, S2(2, 1), I64S(1, 0));
    expect_i64(&n, net_add(&n, "GatherND", IN(x, at), AT(esp_attr_int("batch_dims", 1))), S2(2, 2),
               I64S(2, 3, 4, 5));
    n = net_new(13);
    x = int_tensor(&n, S3(2, 2, 2), I64S(0, 1, 2, 3, 4, 5, 6, 7));
    at = int_tensor(&n, S2(2, 2), I64S(0, 1, -1, 0));
    expect_i64(&n, net_add(&n, "GatherND", IN(x, at), NULL), S2(2, 2), I64S(2, 3, 4, 5));
}

static void scatters_updates(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_constant(&n, S1(5), F32S(1, 2, 3, 4, 5)), at = net_ints(&n, 2, 1, -1);
    expect_f32(&n, net_add(&n, "ScatterElements", IN(x, at, net_constant(&n, S1(2), F32S(8, 9))), NULL),
               S1(5), F32S(1, 8, 3, 4, 9), 0);
    static const char *const words[] = {"add", "mul", "max", "min"};
    const float expected[][3] = {{1, 9, 3}, {1, 24, 3}, {1, 4, 3}, {1, 2, 3}};
    for (int i = 0; i < 4; i++) {
        n = net_new(18);
        x = net_constant(&n, S1(3), F32S(1, 2, 3));
        at = int_tensor(&n, S2(2, 1), I64S(1, 1));
        int y = net_add(&n, "ScatterND", IN(x, at, net_constant(&n, S1(2), F32S(3, 4))),
                        AT(WORD("reduction", words[i])));
        expect_f32(&n, y, S1(3), expected[i], 0);
    }
}

static void finds_extremes(void **state)
{
    (void)state;
    const float values[] = {1, 7, 7, -2, -5, -5};
    const struct {
        const char *op;
        int keeps, last;
        int64_t expected[2];
    } cases[] = {{"ArgMax", 1, 0, {1, 0}},
                 {"ArgMax", 0, 1, {2, 0}},
                 {"ArgMin", 1, 0, {0, 1}},
                 {"ArgMin", 0, 1, {0, 2}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        net n = net_new(13);
        int y = net_add(&n, cases[i].op, IN(net_constant(&n, S2(2, 3), values)),
                        AT(esp_attr_int("axis", -1), esp_attr_int("keepdims", cases[i].keeps),
                           esp_attr_int("select_last_index", cases[i].last)));
        expect_i64(&n, y, cases[i].keeps ? S2(2, 1) : S1(2), cases[i].expected);
    }
}

static void expect_top(net *n, const int *inputs, const esp_attr *attrs, const float *values,
                       const int64_t *places)
{
    int outputs[2];
    op_node(n, "TopK", inputs, attrs, outputs, 2);
    op_results results = op_run(n, outputs, 2);
    expect_value_f32(&results, 0, S1(3), values, 0);
    expect_value_i64(&results, 1, S1(3), places);
    op_results_free(&results);
}

/* Equal elements in the order of their indices. */
static void finds_the_largest_and_the_smallest(void **state)
{
    (void)state;
    const float values[] = {-0.5f, 4, -3, 4, 0.25f};
    net n = net_new(13);
    expect_top(&n, IN(net_constant(&n, S1(5), values), net_ints(&n, 1, 3)), NULL, F32S(4, 4, 0.25f),
               I64S(1, 3, 4));
    n = net_new(13);
    expect_top(&n, IN(net_constant(&n, S1(5), values), net_ints(&n, 1, 3)), AT(esp_attr_int("largest", 0)),
               F32S(-3, -0.5f, 0.25f), I64S(2, 0, 4));
    n = net_new(9);
    expect_top(&n, IN(net_constant(&n, S1(5), values)), AT(esp_attr_int("k", 3)), F32S(4, 4, 0.25f),
               I64S(1, 3, 4));
    n = net_new(13);
    int outputs[2];
    op_node(&n, "TopK", IN(net_constant(&n, S1(5), values), net_ints(&n, 1, 6)), NULL, outputs, 2);
    expect_refused(&n, outputs[0], ESP_SHAPE, "k is 6");
}

static void makes_one_hot_vectors(void **state)
{
    (void)state;
    net n = net_new(13);
    int at = net_ints(&n, 3, 1, -1, 5), values = net_constant(&n, S1(2), F32S(0, 2));
    expect_f32(&n, net_add(&n, "OneHot", IN(at, net_int(&n, 3), values), AT(esp_attr_int("axis", 0))),
               S2(3, 3), F32S(0, 0, 0, 2, 0, 0, 0, 2, 0), 0);
}

static void sums_up_along_an_axis(void **state)
{
    (void)state;
    const int flags[][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
    const float expected[][3] = {{1, 3, 6}, {0, 1, 3}, {6, 5, 3}, {5, 3, 0}};
    for (int i = 0; i < 4; i++) {
        net n = net_new(13);
        int y = net_add(&n, "CumSum", IN(net_constant(&n, S1(3), F32S(1, 2, 3)), net_int(&n, 0)),
                        AT(esp_attr_int("exclusive", flags[i][0]), esp_attr_int("reverse", flags[i][1])));
        expect_f32(&n, y, S1(3), expected[i], 0);
    }
    net n = net_new(13);
    expect_i64(&n, net_add(&n, "CumSum", IN(net_ints(&n, 3, 1, 2, 3), net_int(&n, 0)), NULL), S1(3),
               I64S(1, 3, 6));
}

static void counts_elements_and_makes_ranges(void **state)
{
    (void)state;
    esp_shape scalar = {0};
    net n = net_new(13);
    expect_i64(&n, net_add(&n, "Size", IN(op_ramp(&n, S3(2, 3, 4))), NULL), scalar, I64S(24));
    n = net_new(13);
    expect_i64(&n, net_add(&n, "Range", IN(net_int(&n, 10), net_int(&n, 3), net_int(&n, -3)), NULL), S1(3),
               I64S(10, 7, 4));
    n = net_new(13);
    int bounds[3];
    for (int i = 0; i < 3; i++)
        bounds[i] = net_tensor(&n, tensor_f32(scalar, F32S(i == 0 ? 1.0f : i == 1 ? 2.0f : 0.4f)));
    expect_f32(&n, net_add(&n, "Range", IN(bounds[0], bounds[1], bounds[2]), NULL), S1(3),
               F32S(1, 1.4f, 1.8f), 1e-6);
    n = net_new(13);
    expect_refused(&n, net_add(&n, "Range", IN(net_int(&n, 0), net_int(&n, 3), net_int(&n, 0)), NULL),
                   ESP_SHAPE, "in steps of 0");
}

/* Bytes, int32 and bool go the same way as numbers. */
static void movement_carries_every_type(void **state)
{
    (void)state;
    const uint8_t bytes[] = {1, 0, 1};
    const esp_dtype dtypes[] = {ESP_U8, ESP_BOOL};
    for (int i = 0; i < 2; i++) {
        esp_error err = {0};
        esp_shape shape = S1(3);
        esp_tensor *tensor;
        net n = net_new(13);
        must(esp_tensor_from(dtypes[i], &shape, bytes, &tensor, &err), &err);
        int x = net_tensor(&n, tensor);
        int y = net_add(&n, "Concat",
                        IN(net_add(&n, "Tile", IN(x, net_ints(&n, 1, 2)), NULL),
                           net_add(&n, "Slice",
                                   IN(x, net_ints(&n, 1, -1), net_ints(&n, 1, -9), net_ints(&n, 1, 0),
                                      net_ints(&n, 1, -1)),
                                   NULL)),
                        AT(esp_attr_int("axis", 0)));
        op_results results = op_run(&n, &y, 1);
        const esp_tensor *found = esp_inferred_constant(results.inferred, esp_graph_output(results.graph, 0));
        assert_int_equal(esp_tensor_dtype(found), dtypes[i]);
        assert_memory_equal(esp_tensor_data(found), ((const uint8_t[]){1, 0, 1, 1, 0, 1, 1, 0, 1}), 9);
        op_results_free(&results);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pads_in_every_mode),
        cmocka_unit_test(negative_pads_crop_before_the_rest_is_reflected),
        cmocka_unit_test(splits_by_every_version_of_sizes),
        cmocka_unit_test(splits_along_inner_axes),
        cmocka_unit_test(sizes_that_do_not_add_up_are_refused),
        cmocka_unit_test(tiles),
        cmocka_unit_test(moves_depth_to_space_and_back),
        cmocka_unit_test(gathers_single_elements),
        cmocka_unit_test(gathers_by_tuples),
        cmocka_unit_test(scatters_updates),
        cmocka_unit_test(finds_extremes),
        cmocka_unit_test(finds_the_largest_and_the_smallest),
        cmocka_unit_test(makes_one_hot_vectors),
        cmocka_unit_test(sums_up_along_an_axis),
        cmocka_unit_test(counts_elements_and_makes_ranges),
        cmocka_unit_test(movement_carries_every_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
