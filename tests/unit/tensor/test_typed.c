/* Arithmetic, selection and conversion of every element type. */
#include "unit/tensor/check.h"

#include "tensor/typed.h"

static esp_view view_of(esp_dtype dtype, void *data, int64_t count)
{
    return (esp_view){.data = data, .dtype = dtype, .shape = esp_shape_make(1, &count)};
}

static void expect_i64(esp_typed_kind kind, int64_t a, int64_t b, int64_t expected)
{
    int64_t y = 77;
    esp_view va = view_of(ESP_I64, &a, 1), vb = view_of(ESP_I64, &b, 1), vy = view_of(ESP_I64, &y, 1);
    assert_int_equal(esp_typed_binary(NULL, kind, &va, &vb, &vy), ESP_OK);
    assert_true(y == expected);
}

static void integers_wrap_and_their_division_truncates(void **state)
{
    (void)state;
    expect_i64(ESP_TYPED_ADD, INT64_MAX, 1, INT64_MIN);
    expect_i64(ESP_TYPED_SUB, INT64_MIN, 1, INT64_MAX);
    expect_i64(ESP_TYPED_MUL, INT64_MAX, 2, -2);
    expect_i64(ESP_TYPED_DIV, -7, 2, -3);
    expect_i64(ESP_TYPED_DIV, 7, -2, -3);
    expect_i64(ESP_TYPED_DIV, INT64_MIN, -1, INT64_MIN);
    expect_i64(ESP_TYPED_MIN, INT64_MIN, 3, INT64_MIN);
    expect_i64(ESP_TYPED_MAX, INT64_MIN, 3, 3);
    /* neighbours that are one number in double */
    expect_i64(ESP_TYPED_MAX, INT64_C(9007199254740993), INT64_C(9007199254740992),
               INT64_C(9007199254740993));
}

static void remainders_have_the_sign_of_the_divisor_or_of_the_dividend(void **state)
{
    (void)state;
    expect_i64(ESP_TYPED_MODULO, -7, 3, 2);
    expect_i64(ESP_TYPED_MODULO, 7, -3, -2);
    expect_i64(ESP_TYPED_MODULO, -6, 3, 0);
    expect_i64(ESP_TYPED_MODULO, INT64_MIN, -1, 0);
    expect_i64(ESP_TYPED_REMAINDER, -7, 3, -1);
    expect_i64(ESP_TYPED_REMAINDER, 7, -3, 1);
    expect_i64(ESP_TYPED_REMAINDER, INT64_MIN, -1, 0);
}

static void powers_of_integers_are_integers(void **state)
{
    (void)state;
    expect_i64(ESP_TYPED_POW, 3, 5, 243);
    expect_i64(ESP_TYPED_POW, -2, 3, -8);
    expect_i64(ESP_TYPED_POW, 7, 0, 1);
    expect_i64(ESP_TYPED_POW, 2, 64, 0);
    expect_i64(ESP_TYPED_POW, 2, -1, 0);
    expect_i64(ESP_TYPED_POW, -1, -3, -1);
}

static void a_division_by_zero_is_refused(void **state)
{
    (void)state;
    int64_t a[600], b[600], y[600];
    for (int i = 0; i < 600; i++)
        a[i] = b[i] = i + 1;
    b[599] = 0;
    esp_view va = view_of(ESP_I64, a, 600), vb = view_of(ESP_I64, b, 600), vy = view_of(ESP_I64, y, 600);
    const esp_typed_kind kinds[] = {ESP_TYPED_DIV, ESP_TYPED_MODULO, ESP_TYPED_REMAINDER};
    for (int i = 0; i < 3; i++)
        assert_int_equal(esp_typed_binary(NULL, kinds[i], &va, &vb, &vy), ESP_INVALID);
    float x = 1.0f, zero = 0.0f, quotient;
    esp_view vx = view_of(ESP_F32, &x, 1), vz = view_of(ESP_F32, &zero, 1),
             vq = view_of(ESP_F32, &quotient, 1);
    assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_DIV, &vx, &vz, &vq), ESP_OK);
    assert_true(isinf(quotient));
}

static void narrow_integers_keep_their_low_bits(void **state)
{
    (void)state;
    int32_t a[] = {INT32_MAX, INT32_MIN, 5}, b[] = {1, -1, 7}, y[3];
    esp_view va = view_of(ESP_I32, a, 3), vb = view_of(ESP_I32, b, 3), vy = view_of(ESP_I32, y, 3);
    assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_ADD, &va, &vb, &vy), ESP_OK);
    assert_true(y[0] == INT32_MIN && y[1] == INT32_MAX && y[2] == 12);
    uint8_t c[] = {3, 250}, d[] = {5, 10}, z[2];
    esp_view vc = view_of(ESP_U8, c, 2), vd = view_of(ESP_U8, d, 2), vz = view_of(ESP_U8, z, 2);
    assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_SUB, &vc, &vd, &vz), ESP_OK);
    assert_true(z[0] == 254 && z[1] == 240);
}

/* The truth is C's own arithmetic in each type. */
#define EXPECT_SUM(dtype, type, p, q)                                                                        \
    do {                                                                                                     \
        type a = (type)(p), b = (type)(q), y = 77, expected = (type)((uint64_t)a + (uint64_t)b);             \
        esp_view va = view_of(dtype, &a, 1), vb = view_of(dtype, &b, 1), vy = view_of(dtype, &y, 1);         \
        assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_ADD, &va, &vb, &vy), ESP_OK);                      \
        assert_true(y == expected);                                                                          \
    } while (0)

static void sums_wrap_in_every_integer_type(void **state)
{
    (void)state;
    EXPECT_SUM(ESP_I8, int8_t, INT8_MAX, 2);
    EXPECT_SUM(ESP_I8, int8_t, INT8_MIN, -1);
    EXPECT_SUM(ESP_I16, int16_t, INT16_MAX, 2);
    EXPECT_SUM(ESP_I16, int16_t, -3, -4);
    EXPECT_SUM(ESP_U8, uint8_t, UINT8_MAX, 2);
    EXPECT_SUM(ESP_U16, uint16_t, UINT16_MAX, 2);
    EXPECT_SUM(ESP_I32, int32_t, INT32_MAX, 2);
    EXPECT_SUM(ESP_U32, uint32_t, UINT32_MAX, 2);
    EXPECT_SUM(ESP_U64, uint64_t, UINT64_MAX, 2);
}

static void uint64_past_int64_is_no_negative_number(void **state)
{
    (void)state;
    const struct {
        esp_typed_kind kind;
        uint64_t a, b, expected;
    } cases[] = {
        {ESP_TYPED_MIN, UINT64_MAX, 3, 3},
        {ESP_TYPED_MAX, UINT64_MAX, 3, UINT64_MAX},
        {ESP_TYPED_DIV, UINT64_MAX, 3, UINT64_MAX / 3},
        {ESP_TYPED_DIV, 7, UINT64_MAX, 0},
        {ESP_TYPED_MODULO, UINT64_MAX, 10, 5},
        {ESP_TYPED_REMAINDER, UINT64_MAX, 10, 5},
        {ESP_TYPED_PRELU, UINT64_MAX, 3, UINT64_MAX},
        {ESP_TYPED_MUL, UINT64_C(1) << 63, 3, UINT64_C(1) << 63},
        {ESP_TYPED_POW, 3, 40, UINT64_C(12157665459056928801)},
        {ESP_TYPED_POW, UINT64_MAX, UINT64_MAX, UINT64_MAX},
        {ESP_TYPED_EQUAL, UINT64_MAX, UINT64_MAX, 1},
        {ESP_TYPED_LESS, UINT64_MAX, 3, 0},
        {ESP_TYPED_LESS_OR_EQUAL, 3, UINT64_MAX, 1},
        {ESP_TYPED_GREATER, UINT64_MAX, 3, 1},
        {ESP_TYPED_GREATER_OR_EQUAL, 3, UINT64_MAX, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t a = cases[i].a, b = cases[i].b, y = 77;
        uint8_t truth = 77;
        bool compares = cases[i].kind >= ESP_TYPED_EQUAL;
        esp_view va = view_of(ESP_U64, &a, 1), vb = view_of(ESP_U64, &b, 1),
                 vy = compares ? view_of(ESP_BOOL, &truth, 1) : view_of(ESP_U64, &y, 1);
        assert_int_equal(esp_typed_binary(NULL, cases[i].kind, &va, &vb, &vy), ESP_OK);
        assert_true((compares ? truth : y) == cases[i].expected);
    }
}

/* 2^(2^63 + 1) of int64 wraps to 0, it is no power of a negative number. */
static void exponents_may_be_of_another_type(void **state)
{
    (void)state;
    int64_t base[] = {2, -1, 3}, y[3];
    uint64_t exponent[] = {(UINT64_C(1) << 63) + 1, (UINT64_C(1) << 63) + 1, 4};
    esp_view va = view_of(ESP_I64, base, 3), vb = view_of(ESP_U64, exponent, 3), vy = view_of(ESP_I64, y, 3);
    assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_POW, &va, &vb, &vy), ESP_OK);
    assert_true(y[0] == 0 && y[1] == -1 && y[2] == 81);
    float x[] = {1.5f, 2.0f, 3.0f}, z[3];
    uint32_t small[] = {2, 3, 4};
    esp_view vx = view_of(ESP_F32, x, 3), vs = view_of(ESP_U32, small, 3), vz = view_of(ESP_F32, z, 3);
    assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_POW, &vx, &vs, &vz), ESP_OK);
    assert_true(z[0] == 2.25f && z[1] == 8.0f && z[2] == 81.0f);
}

static void comparisons_of_reals_are_false_for_nan(void **state)
{
    (void)state;
    float a[] = {1.0f, 2.0f, NAN, 2.0f}, b[] = {2.0f, 2.0f, 2.0f, NAN};
    const struct {
        esp_typed_kind kind;
        uint8_t expected[4];
    } cases[] = {
        {ESP_TYPED_EQUAL, {0, 1, 0, 0}},
        {ESP_TYPED_LESS, {1, 0, 0, 0}},
        {ESP_TYPED_GREATER, {0, 0, 0, 0}},
        {ESP_TYPED_LESS_OR_EQUAL, {1, 1, 0, 0}},
        {ESP_TYPED_GREATER_OR_EQUAL, {0, 1, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t y[4] = {9, 9, 9, 9};
        esp_view va = view_of(ESP_F32, a, 4), vb = view_of(ESP_F32, b, 4), vy = view_of(ESP_BOOL, y, 4);
        assert_int_equal(esp_typed_binary(NULL, cases[i].kind, &va, &vb, &vy), ESP_OK);
        assert_memory_equal(y, cases[i].expected, 4);
    }
}

static void logic_is_that_of_truth_tables(void **state)
{
    (void)state;
    uint8_t a[] = {0, 0, 1, 1}, b[] = {0, 1, 0, 1};
    const uint8_t expected[3][4] = {{0, 0, 0, 1}, {0, 1, 1, 1}, {0, 1, 1, 0}};
    for (int i = 0; i < 3; i++) {
        uint8_t y[4];
        esp_view va = view_of(ESP_BOOL, a, 4), vb = view_of(ESP_BOOL, b, 4), vy = view_of(ESP_BOOL, y, 4);
        assert_int_equal(esp_typed_binary(NULL, (esp_typed_kind)(ESP_TYPED_AND + i), &va, &vb, &vy), ESP_OK);
        assert_memory_equal(y, expected[i], 4);
    }
}

static void operands_are_broadcast(void **state)
{
    (void)state;
    int64_t a[] = {1, 2, 3}, y[6];
    int32_t b[] = {10, 20};
    esp_view va = view_of(ESP_I64, a, 3),
             vb = {.data = b, .dtype = ESP_I32, .shape = {.rank = 2, .dims = {2, 1}}};
    esp_view vy = {.data = y, .dtype = ESP_I64, .shape = {.rank = 2, .dims = {2, 3}}};
    const int64_t sums[] = {11, 12, 13, 21, 22, 23}, chosen[] = {1, 2, 3, 7, 7, 7};
    assert_int_equal(esp_typed_binary(NULL, ESP_TYPED_ADD, &va, &vb, &vy), ESP_OK);
    assert_memory_equal(y, sums, sizeof sums);
    uint8_t condition[] = {1, 0};
    int64_t seven = 7;
    esp_view vc = {.data = condition, .dtype = ESP_BOOL, .shape = {.rank = 2, .dims = {2, 1}}};
    esp_view vs = {.data = &seven, .dtype = ESP_I64};
    assert_int_equal(esp_typed_choose(NULL, &vc, &va, &vs, &vy), ESP_OK);
    assert_memory_equal(y, chosen, sizeof chosen);
}

static void a_choice_keeps_every_bit_of_every_type(void **state)
{
    (void)state;
    const uint64_t a = UINT64_C(0x7ff4000000000123), b = UINT64_C(0x0102030405060708);
    uint8_t condition = 1;
    for (int dtype = ESP_F32; dtype <= ESP_BOOL; dtype++) {
        uint64_t y = 0;
        size_t size = esp_dtype_size((esp_dtype)dtype);
        esp_view va = view_of((esp_dtype)dtype, (void *)(uintptr_t)&a, 1), vb = va, vy = va;
        esp_view vc = view_of(ESP_BOOL, &condition, 1);
        vb.data = (void *)(uintptr_t)&b;
        vy.data = &y;
        assert_int_equal(esp_typed_choose(NULL, &vc, &va, &vb, &vy), ESP_OK);
        assert_memory_equal(&y, &a, size);
    }
}

static void reals_end_at_the_bounds_of_integers(void **state)
{
    (void)state;
    double x[] = {2.9, -2.9, 1e30, -1e30, NAN, INFINITY, -INFINITY, 255.5, 0.0};
    const int64_t longs[] = {2, -2, INT64_MAX, INT64_MIN, 0, INT64_MAX, INT64_MIN, 255, 0};
    const int32_t ints[] = {2, -2, INT32_MAX, INT32_MIN, 0, INT32_MAX, INT32_MIN, 255, 0};
    const uint8_t bytes[] = {2, 0, 255, 0, 0, 255, 0, 255, 0}, bools[] = {1, 1, 1, 1, 1, 1, 1, 1, 0};
    int64_t l[9];
    int32_t i[9];
    uint8_t u[9];
    float f[9];
    esp_view vx = view_of(ESP_F64, x, 9), vl = view_of(ESP_I64, l, 9), vi = view_of(ESP_I32, i, 9),
             vu = view_of(ESP_U8, u, 9), vb = view_of(ESP_BOOL, u, 9), vf = view_of(ESP_F32, f, 9);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vl), ESP_OK);
    assert_memory_equal(l, longs, sizeof longs);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vi), ESP_OK);
    assert_memory_equal(i, ints, sizeof ints);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vu), ESP_OK);
    assert_memory_equal(u, bytes, sizeof bytes);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vf), ESP_OK);
    assert_true(f[0] == 2.9f && isnan(f[4]) && f[5] == INFINITY);
    assert_int_equal(esp_typed_cast(NULL, &vf, &vb), ESP_OK);
    assert_memory_equal(u, bools, sizeof bools);
}

/* `lowest` and `highest` are the bounds of the type. */
#define EXPECT_BOUNDS(dtype, type, lowest, highest)                                                          \
    do {                                                                                                     \
        const type expected[] = {2, 0, highest, lowest, 0, highest, lowest, highest, lowest};                \
        type y[9] = {77, 77, 77, 77, 77, 77, 77, 77, 77};                                                    \
        double x[] = {2.9, -0.9, 1e30, -1e30, NAN, INFINITY, -INFINITY, 0, 0};                               \
        x[7] = (double)(highest) + 0.5;                                                                      \
        x[8] = (double)(lowest)-0.5;                                                                         \
        esp_view vx = view_of(ESP_F64, x, 9), vy = view_of(dtype, y, 9);                                     \
        assert_int_equal(esp_typed_cast(NULL, &vx, &vy), ESP_OK);                                            \
        assert_memory_equal(y, expected, sizeof y);                                                          \
    } while (0)

static void reals_end_at_the_bounds_of_every_integer_type(void **state)
{
    (void)state;
    EXPECT_BOUNDS(ESP_I8, int8_t, INT8_MIN, INT8_MAX);
    EXPECT_BOUNDS(ESP_I16, int16_t, INT16_MIN, INT16_MAX);
    EXPECT_BOUNDS(ESP_I32, int32_t, INT32_MIN, INT32_MAX);
    EXPECT_BOUNDS(ESP_I64, int64_t, INT64_MIN, INT64_MAX);
    EXPECT_BOUNDS(ESP_U8, uint8_t, 0, UINT8_MAX);
    EXPECT_BOUNDS(ESP_U16, uint16_t, 0, UINT16_MAX);
    EXPECT_BOUNDS(ESP_U32, uint32_t, 0, UINT32_MAX);
    EXPECT_BOUNDS(ESP_U64, uint64_t, 0, UINT64_MAX);
}

#define EXPECT_LOW_BITS(dtype, type)                                                                         \
    do {                                                                                                     \
        type y[5];                                                                                           \
        esp_view vx = view_of(ESP_I64, x, 5), vy = view_of(dtype, y, 5);                                     \
        assert_int_equal(esp_typed_cast(NULL, &vx, &vy), ESP_OK);                                            \
        for (int i = 0; i < 5; i++)                                                                          \
            assert_true(y[i] == (type)x[i]);                                                                 \
    } while (0)

static void integers_that_do_not_fit_keep_their_low_bits(void **state)
{
    (void)state;
    int64_t x[] = {-1, 300, INT64_MIN + 200, INT64_C(0x123456789abcdef0), 40000};
    EXPECT_LOW_BITS(ESP_I8, int8_t);
    EXPECT_LOW_BITS(ESP_U8, uint8_t);
    EXPECT_LOW_BITS(ESP_I16, int16_t);
    EXPECT_LOW_BITS(ESP_U16, uint16_t);
    EXPECT_LOW_BITS(ESP_I32, int32_t);
    EXPECT_LOW_BITS(ESP_U32, uint32_t);
    EXPECT_LOW_BITS(ESP_U64, uint64_t);
}

/* 2^63 + 2^39 + 1 lies just above the middle of two floats: through a double it would be rounded twice, down.
 */
static void uint64_becomes_the_nearest_real_number(void **state)
{
    (void)state;
    uint64_t x[] = {(UINT64_C(1) << 63) + (UINT64_C(1) << 39) + 1, UINT64_MAX, 5};
    float y[3];
    double z[3];
    esp_view vx = view_of(ESP_U64, x, 3), vy = view_of(ESP_F32, y, 3), vz = view_of(ESP_F64, z, 3);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vy), ESP_OK);
    assert_true(y[0] == 0x1.000002p63f && y[1] == 0x1p64f && y[2] == 5.0f);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vz), ESP_OK);
    assert_true(z[0] == 0x1.000001p63 && z[1] == 0x1p64 && z[2] == 5.0);
}

static void integers_are_cast_without_a_detour(void **state)
{
    (void)state;
    int64_t x[] = {INT64_C(9007199254740993), -1, 300}, y[3];
    int32_t narrow[3];
    uint8_t bytes[3];
    esp_view vx = view_of(ESP_I64, x, 3), vn = view_of(ESP_I32, narrow, 3), vu = view_of(ESP_U8, bytes, 3),
             vy = view_of(ESP_I64, y, 3);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vy), ESP_OK);
    assert_memory_equal(x, y, sizeof x);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vn), ESP_OK);
    assert_true(narrow[0] == 1 && narrow[1] == -1 && narrow[2] == 300);
    assert_int_equal(esp_typed_cast(NULL, &vx, &vu), ESP_OK);
    assert_true(bytes[0] == 1 && bytes[1] == 255 && bytes[2] == 44);
}

static void long_arrays_are_done_to_the_last_element(void **state)
{
    contexts *all = *state;
    enum { LONG = 40001 };
    int32_t *a = malloc(LONG * sizeof *a);
    float *y = floats_new(LONG);
    for (int i = 0; i < LONG; i++)
        a[i] = i - 20000;
    esp_view va = view_of(ESP_I32, a, LONG), vy = view_of(ESP_F32, y, LONG);
    assert_int_equal(esp_typed_binary(&all->compute[2], ESP_TYPED_ADD, &va, &va, &vy), ESP_OK);
    for (int i = 0; i < LONG; i++)
        assert_true(y[i] == (float)(2 * (i - 20000)));
    assert_int_equal(esp_typed_cast(&all->compute[2], &va, &vy), ESP_OK);
    for (int i = 0; i < LONG; i++)
        assert_true(y[i] == (float)(i - 20000));
    free(a);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_wrap_and_their_division_truncates),
        cmocka_unit_test(remainders_have_the_sign_of_the_divisor_or_of_the_dividend),
        cmocka_unit_test(powers_of_integers_are_integers),
        cmocka_unit_test(a_division_by_zero_is_refused),
        cmocka_unit_test(narrow_integers_keep_their_low_bits),
        cmocka_unit_test(sums_wrap_in_every_integer_type),
        cmocka_unit_test(uint64_past_int64_is_no_negative_number),
        cmocka_unit_test(exponents_may_be_of_another_type),
        cmocka_unit_test(comparisons_of_reals_are_false_for_nan),
        cmocka_unit_test(logic_is_that_of_truth_tables),
        cmocka_unit_test(operands_are_broadcast),
        cmocka_unit_test(a_choice_keeps_every_bit_of_every_type),
        cmocka_unit_test(reals_end_at_the_bounds_of_integers),
        cmocka_unit_test(reals_end_at_the_bounds_of_every_integer_type),
        cmocka_unit_test(integers_that_do_not_fit_keep_their_low_bits),
        cmocka_unit_test(uint64_becomes_the_nearest_real_number),
        cmocka_unit_test(integers_are_cast_without_a_detour),
        cmocka_unit_test(long_arrays_are_done_to_the_last_element),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
