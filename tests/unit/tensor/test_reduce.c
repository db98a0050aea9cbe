/* Reductions over all sets of axes, and their gradients, against plain loops in double. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/reduce.h"

typedef struct reduce_case {
    esp_reduction reduction;
    int64_t results;
    int64_t place[2000]; /* of every element in the result */
    pair x, y, dy, dx;
} reduce_case;

static double finish(esp_reduce_kind kind, double folded, double count)
{
    switch (kind) {
    case ESP_REDUCE_MEAN:
        return folded / count;
    case ESP_REDUCE_L2:
        return sqrt(folded);
    case ESP_REDUCE_LOG_SUM:
    case ESP_REDUCE_LOG_SUM_EXP:
        return log(folded);
    case ESP_REDUCE_SUM:
    case ESP_REDUCE_MAX:
    case ESP_REDUCE_MIN:
    case ESP_REDUCE_PROD:
    case ESP_REDUCE_L1:
    case ESP_REDUCE_SUM_SQUARE:
        break;
    }
    return folded;
}

static double fold(esp_reduce_kind kind, double folded, double x)
{
    switch (kind) {
    case ESP_REDUCE_MAX:
        return fmax(folded, x);
    case ESP_REDUCE_MIN:
        return fmin(folded, x);
    case ESP_REDUCE_PROD:
        return folded * x;
    case ESP_REDUCE_L1:
        return folded + fabs(x);
    case ESP_REDUCE_L2:
    case ESP_REDUCE_SUM_SQUARE:
        return folded + x * x;
    case ESP_REDUCE_LOG_SUM_EXP:
        return folded + exp(x);
    case ESP_REDUCE_SUM:
    case ESP_REDUCE_MEAN:
    case ESP_REDUCE_LOG_SUM:
        break;
    }
    return folded + x;
}

static double reduce_loss(void *context)
{
    reduce_case *t = context;
    esp_reduce_kind kind = t->reduction.kind;
    double first = kind == ESP_REDUCE_PROD ? 1.0 : 0.0;
    first = kind == ESP_REDUCE_MAX ? -INFINITY : (kind == ESP_REDUCE_MIN ? INFINITY : first);
    for (int64_t i = 0; i < t->results; i++)
        t->y.d[i] = first;
    for (int64_t i = 0; i < t->x.count; i++)
        t->y.d[t->place[i]] = fold(kind, t->y.d[t->place[i]], t->x.d[i]);
    for (int64_t i = 0; i < t->results; i++)
        t->y.d[i] = finish(kind, t->y.d[i], (double)(t->x.count / t->results));
    return oracle_dot(t->results, t->y.d, t->dy.d);
}

static void reduce_case_new(esp_rng *rng, esp_reduce_kind kind, int64_t largest, reduce_case *t)
{
    esp_shape *x = &t->reduction.x;
    t->reduction = (esp_reduction){.kind = kind, .x = {.rank = (int)pick(rng, 0, 4)}};
    t->results = 1;
    for (int d = 0; d < x->rank; d++) {
        x->dims[d] = pick(rng, 1, largest);
        t->reduction.is_reduced[d] = pick(rng, 0, 1) == 1;
        t->results *= t->reduction.is_reduced[d] ? 1 : x->dims[d];
    }
    int64_t count = esp_shape_elements(x);
    assert_true(count <= 2000);
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i, stride = 1;
        t->place[i] = 0;
        for (int d = x->rank - 1; d >= 0; rest /= x->dims[d], d--) {
            if (t->reduction.is_reduced[d])
                continue;
            t->place[i] += rest % x->dims[d] * stride;
            stride *= x->dims[d];
        }
    }
    bool is_positive = kind == ESP_REDUCE_LOG_SUM || kind == ESP_REDUCE_PROD || kind == ESP_REDUCE_L1;
    t->x = pair_random(rng, count, is_positive ? 0.7 : -1.5, 1.5);
    t->y = pair_new(t->results);
    t->dy = pair_random(rng, t->results, -1.0, 1.0);
    t->dx = pair_new(count);
}

static void reduce_case_free(reduce_case *t)
{
    pair all[] = {t->x, t->y, t->dy, t->dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
}

static void reductions_and_their_gradients_are_those_of_plain_loops(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    reduce_case t;
    esp_rng_seed(&rng, 90);
    for (int i = 0; i < 300; i++) {
        const esp_compute *compute = &all->compute[i % 4];
        bool is_large = i % 15 == 14;
        reduce_case_new(&rng, (esp_reduce_kind)(i % (ESP_REDUCE_LOG_SUM_EXP + 1)), is_large ? 6 : 4, &t);
        oracle_gradient(t.x.d, t.x.count, reduce_loss, &t, t.dx.d);
        reduce_loss(&t);
        assert_int_equal(esp_reduce_forward(compute, &t.reduction, t.x.f, t.y.f), ESP_OK);
        assert_all_close("y", t.y.f, t.y.d, t.results, 2e-6);
        assert_int_equal(esp_reduce_backward(compute, &t.reduction, t.x.f, t.y.f, t.dy.f, t.dx.f), ESP_OK);
        assert_all_close("dx", t.dx.f, t.dx.d, t.x.count, 2e-5);
        assert_int_equal(esp_reduce_backward(compute, &t.reduction, t.x.f, t.y.f, t.dy.f, t.x.f), ESP_OK);
        assert_same_bits("in place", t.x.f, t.dx.f, t.x.count);
        reduce_case_free(&t);
    }
}

/* Longer than any block, both ways; the sum is exact in double and must be so to float's last digits. */
static void long_sums_keep_their_digits(void **state)
{
    contexts *all = *state;
    enum { ROWS = 700, COLUMNS = 3001 };
    esp_rng rng;
    esp_rng_seed(&rng, 91);
    pair x = pair_random(&rng, (int64_t)ROWS * COLUMNS, 0.0, 1.0), rows = pair_new(ROWS),
         columns = pair_new(COLUMNS);
    float *first = floats_new(COLUMNS);
    for (int64_t i = 0; i < x.count; i++) {
        rows.d[i / COLUMNS] += x.d[i];
        columns.d[i % COLUMNS] += x.d[i];
    }
    esp_reduction last = {
        .kind = ESP_REDUCE_SUM, .x = {.rank = 2, .dims = {ROWS, COLUMNS}}, .is_reduced = {0, 1}};
    esp_reduction leading = {.kind = ESP_REDUCE_SUM, .x = last.x, .is_reduced = {1, 0}};
    for (int threads = 1; threads <= MOST_THREADS; threads++) {
        assert_int_equal(esp_reduce_forward(&all->compute[threads], &last, x.f, rows.f), ESP_OK);
        assert_int_equal(esp_reduce_forward(&all->compute[threads], &leading, x.f, columns.f), ESP_OK);
        assert_all_close("rows", rows.f, rows.d, ROWS, 1e-7);
        assert_all_close("columns", columns.f, columns.d, COLUMNS, 1e-7);
        if (threads == 1)
            memcpy(first, columns.f, COLUMNS * sizeof *first);
        assert_same_bits("columns", columns.f, first, COLUMNS);
    }
    free(first);
    pair_free(x);
    pair_free(rows);
    pair_free(columns);
}

static float reduce_three(esp_reduce_kind kind, float a, float b, float c)
{
    const float x[] = {a, b, c};
    float y;
    esp_reduction reduction = {.kind = kind, .x = {.rank = 1, .dims = {3}}, .is_reduced = {true}};
    assert_int_equal(esp_reduce_forward(NULL, &reduction, x, &y), ESP_OK);
    return y;
}

static void exponentials_are_summed_without_overflow(void **state)
{
    (void)state;
    assert_float_equal(reduce_three(ESP_REDUCE_LOG_SUM_EXP, 1000.0f, 1000.0f, -1000.0f), 1000.6931f, 1e-3f);
    assert_true(reduce_three(ESP_REDUCE_LOG_SUM_EXP, INFINITY, 0.0f, 1.0f) == INFINITY);
    assert_true(reduce_three(ESP_REDUCE_LOG_SUM_EXP, -INFINITY, -INFINITY, -INFINITY) == -INFINITY);
    assert_true(isnan(reduce_three(ESP_REDUCE_MAX, 1.0f, NAN, 3.0f)));
    assert_true(isnan(reduce_three(ESP_REDUCE_MIN, NAN, 1.0f, 3.0f)));
}

static void elements_that_share_the_maximum_share_its_gradient(void **state)
{
    (void)state;
    const float x[] = {2.0f, 1.0f, 2.0f, 2.0f}, y[] = {2.0f}, dy[] = {3.0f},
                expected[] = {1.0f, 0.0f, 1.0f, 1.0f};
    float dx[4];
    esp_reduction reduction = {.kind = ESP_REDUCE_MAX, .x = {.rank = 1, .dims = {4}}, .is_reduced = {true}};
    assert_int_equal(esp_reduce_backward(NULL, &reduction, x, y, dy, dx), ESP_OK);
    assert_same_bits("dx", dx, expected, 4);
}

static void the_gradient_of_a_product_is_the_product_of_the_others(void **state)
{
    (void)state;
    const float x[] = {2.0f, 0.0f, 3.0f, 0.0f, 0.0f, 5.0f, 2.0f, 3.0f, 4.0f}, y[] = {0.0f, 0.0f, 24.0f};
    const float dy[] = {1.0f, 1.0f, 1.0f};
    float dx[9];
    esp_reduction reduction = {
        .kind = ESP_REDUCE_PROD, .x = {.rank = 2, .dims = {3, 3}}, .is_reduced = {0, 1}};
    assert_int_equal(esp_reduce_backward(NULL, &reduction, x, y, dy, dx), ESP_OK);
    assert_all_close("dx", dx, (const double[]){0, 6, 0, 0, 0, 0, 12, 8, 6}, 9, 1e-6);
}

static void nothing_reduces_to_the_neutral_element(void **state)
{
    (void)state;
    const struct {
        esp_reduce_kind kind;
        float expected;
    } cases[] = {{ESP_REDUCE_SUM, 0.0f},         {ESP_REDUCE_PROD, 1.0f},    {ESP_REDUCE_L2, 0.0f},
                 {ESP_REDUCE_MAX, -INFINITY},    {ESP_REDUCE_MIN, INFINITY}, {ESP_REDUCE_SUM_SQUARE, 0.0f},
                 {ESP_REDUCE_LOG_SUM, -INFINITY}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float y[2] = {7.0f, 7.0f};
        esp_reduction reduction = {
            .kind = cases[i].kind, .x = {.rank = 2, .dims = {2, 0}}, .is_reduced = {0, 1}};
        assert_int_equal(esp_reduce_forward(NULL, &reduction, y, y), ESP_OK);
        assert_true(y[0] == cases[i].expected && y[1] == cases[i].expected);
    }
}

static void integers_are_reduced_exactly(void **state)
{
    (void)state;
    int64_t x[] = {INT64_C(9007199254740993), -2, 4, 3, 5, -6}, y[3];
    const struct {
        esp_reduce_kind kind;
        int64_t expected[3];
    } cases[] = {
        {ESP_REDUCE_SUM, {INT64_C(9007199254740996), 3, -2}},
        {ESP_REDUCE_PROD, {INT64_C(27021597764222979), -10, -24}},
        {ESP_REDUCE_MAX, {INT64_C(9007199254740993), 5, 4}},
        {ESP_REDUCE_MIN, {3, -2, -6}},
        {ESP_REDUCE_MEAN, {INT64_C(4503599627370498), 1, -1}},
        {ESP_REDUCE_L1, {INT64_C(9007199254740996), 7, 10}},
    };
    esp_view vx = {.data = x, .dtype = ESP_I64, .shape = {.rank = 2, .dims = {2, 3}}};
    esp_view vy = {.data = y, .dtype = ESP_I64, .shape = {.rank = 1, .dims = {3}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_reduction reduction = {.kind = cases[i].kind, .x = vx.shape, .is_reduced = {true, false}};
        assert_true(esp_reduce_takes_integers(cases[i].kind));
        assert_int_equal(esp_reduce_integers(&reduction, &vx, &vy), ESP_OK);
        assert_memory_equal(y, cases[i].expected, sizeof y);
    }
}

#define EXPECT_REDUCED(reduction, element, type, p, q, result)                                               \
    do {                                                                                                     \
        type x[] = {(type)(p), (type)(q)}, y = 77;                                                           \
        esp_view vx = {.data = x, .dtype = element, .shape = {.rank = 1, .dims = {2}}};                      \
        esp_view vy = {.data = &y, .dtype = element};                                                        \
        esp_reduction of = {.kind = ESP_REDUCE_##reduction, .x = vx.shape, .is_reduced = {true}};            \
        assert_int_equal(esp_reduce_integers(&of, &vx, &vy), ESP_OK);                                        \
        assert_true(y == (type)(result));                                                                    \
    } while (0)

static void integers_of_every_width_are_reduced_within_their_bounds(void **state)
{
    (void)state;
    EXPECT_REDUCED(MAX, ESP_I8, int8_t, INT8_MIN, INT8_MIN, INT8_MIN);
    EXPECT_REDUCED(MIN, ESP_I8, int8_t, INT8_MAX, INT8_MAX, INT8_MAX);
    EXPECT_REDUCED(SUM, ESP_I8, int8_t, 100, 100, -56);
    EXPECT_REDUCED(MAX, ESP_I16, int16_t, INT16_MIN, -5, -5);
    EXPECT_REDUCED(MIN, ESP_I16, int16_t, INT16_MAX, INT16_MAX, INT16_MAX);
    EXPECT_REDUCED(L1, ESP_I16, int16_t, -300, -5, 305);
    EXPECT_REDUCED(MAX, ESP_U16, uint16_t, 0, 40000, 40000);
    EXPECT_REDUCED(MIN, ESP_U16, uint16_t, UINT16_MAX, UINT16_MAX, UINT16_MAX);
    EXPECT_REDUCED(MEAN, ESP_U32, uint32_t, 3000000000, 7, 1500000003);
    EXPECT_REDUCED(MIN, ESP_U32, uint32_t, UINT32_MAX, UINT32_MAX, UINT32_MAX);
    EXPECT_REDUCED(MAX, ESP_U64, uint64_t, 3, UINT64_MAX, UINT64_MAX);
    EXPECT_REDUCED(MIN, ESP_U64, uint64_t, UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - 1);
    EXPECT_REDUCED(MEAN, ESP_U64, uint64_t, UINT64_MAX - 4, 0, UINT64_MAX / 2 - 2);
    EXPECT_REDUCED(L1, ESP_U64, uint64_t, UINT64_MAX - 4, 1, UINT64_MAX - 3);
    EXPECT_REDUCED(MIN, ESP_BOOL, uint8_t, 1, 1, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reductions_and_their_gradients_are_those_of_plain_loops),
        cmocka_unit_test(long_sums_keep_their_digits),
        cmocka_unit_test(exponentials_are_summed_without_overflow),
        cmocka_unit_test(elements_that_share_the_maximum_share_its_gradient),
        cmocka_unit_test(the_gradient_of_a_product_is_the_product_of_the_others),
        cmocka_unit_test(nothing_reduces_to_the_neutral_element),
        cmocka_unit_test(integers_are_reduced_exactly),
        cmocka_unit_test(integers_of_every_width_are_reduced_within_their_bounds),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
