/* Products of all pairs of rows: the distances that follow from them against naive sums, over shapes around
 * the edges of tiles and panels. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "prune/row_products.h"
#include "unit/base/scratch.h"

/* Owns rows and values. */
static esp_row_products make(int64_t count, int64_t columns, uint64_t seed)
{
    float *rows = esp_alloc((size_t)(count * columns), sizeof *rows);
    esp_row_products made = {rows, count, columns, 1, NULL, esp_row_products_stride(count)};
    esp_rng rng;

    esp_rng_seed(&rng, seed);
    for (int64_t i = 0; i < count * columns; i++)
        rows[i] = (float)esp_rng_normal(&rng) + 3;
    made.values = esp_alloc((size_t)(count * made.stride), sizeof *made.values);
    assert_non_null(made.values);
    memset(made.values, 0xff, (size_t)(count * made.stride) * sizeof *made.values); /* not numbers */
    return made;
}

static void forget(esp_row_products *made)
{
    esp_free((float *)(uintptr_t)made->rows);
    esp_free(made->values);
}

static double naive_distance(const esp_row_products *made, int64_t a, int64_t b)
{
    double square = 0;

    for (int64_t i = 0; i < made->columns; i++)
        square +=
            pow((double)made->rows[a * made->columns + i] - (double)made->rows[b * made->columns + i], 2);
    return square;
}

static float at(const esp_row_products *made, int64_t a, int64_t b)
{
    return made->values[a * made->stride + b];
}

/* All pairs of small matrices, some of large ones. */
static void check(const esp_row_products *made, uint64_t seed)
{
    esp_rng rng;

    esp_rng_seed(&rng, seed);
    for (int64_t pair = 0; pair < 20000; pair++) {
        int64_t a = pair / made->count, b = pair % made->count;
        if (made->count * made->count > 20000) {
            a = (int64_t)esp_rng_below(&rng, (uint64_t)made->count);
            b = (int64_t)esp_rng_below(&rng, (uint64_t)made->count);
        } else if (a >= made->count) {
            break;
        }
        double found = (double)at(made, a, a) + (double)at(made, b, b) - 2 * (double)at(made, a, b);
        /* float32 sums of numbers about 1 in size, one per column */
        if (fabs(found - naive_distance(made, a, b)) > 2e-5 * (double)(made->columns + 4))
            fail_msg("%lld rows of %lld: |x_%lld - x_%lld|^2 is %g, expected %g", (long long)made->count,
                     (long long)made->columns, (long long)a, (long long)b, found, naive_distance(made, a, b));
        assert_true(at(made, a, b) == at(made, b, a));
    }
    for (int64_t row = 0; row < made->count; row++)
        for (int64_t column = made->count; column < made->stride; column++)
            assert_true(at(made, row, column) == 0);
}

static void distances_agree_with_naive_sums_for_any_shape(void **state)
{
    static const int64_t shapes[][2] = {{1, 1},    {2, 3},   {9, 16},   {16, 17},    {31, 511},  {32, 512},
                                        {33, 513}, {223, 5}, {224, 64}, {225, 1030}, {449, 100}, {700, 33}};
    (void)state;

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        esp_row_products made = make(shapes[i][0], shapes[i][1], i);
        assert_int_equal(esp_row_products_fill(NULL, &made, 1), ESP_OK);
        check(&made, i);
        forget(&made);
    }
}

static void several_matrices_over_a_pool_get_what_each_gets_alone(void **state)
{
    esp_row_products items[] = {make(300, 20, 1), make(5, 1100, 2), make(230, 600, 3)};
    esp_pool *pool;
    esp_error err = {0};
    (void)state;

    assert_int_equal(esp_pool_new(3, &pool, &err), ESP_OK);
    esp_compute compute = {.pool = pool};
    assert_int_equal(esp_row_products_fill(&compute, items, 3), ESP_OK);
    for (int i = 0; i < 3; i++) {
        esp_row_products alone = items[i];
        size_t size = (size_t)(alone.count * alone.stride) * sizeof *alone.values;
        alone.values = esp_alloc(size, 1);
        assert_int_equal(esp_row_products_fill(NULL, &alone, 1), ESP_OK);
        assert_memory_equal(alone.values, items[i].values, size);
        esp_free(alone.values);
        forget(&items[i]);
    }
    esp_pool_free(pool);
}

static void equal_rows_lie_at_distance_zero(void **state)
{
    esp_row_products made = make(237, 70, 4);
    float *rows = (float *)(uintptr_t)made.rows;
    (void)state;

    for (int64_t row = 100; row < 237; row++)
        memcpy(rows + row * 70, rows + (row - 100) * 70, 70 * sizeof *rows);
    assert_int_equal(esp_row_products_fill(NULL, &made, 1), ESP_OK);
    for (int64_t row = 100; row < 237; row++) {
        assert_true(at(&made, row, row) == at(&made, row, row - 100));
        assert_true(at(&made, row, row) == at(&made, row - 100, row - 100));
        for (int64_t other = 0; other < 237; other++)
            assert_true(at(&made, row, other) == at(&made, row - 100, other));
    }
    forget(&made);
}

static void cancelled_products_say_so(void **state)
{
    esp_row_products made = make(40, 10, 5);
    esp_cancel cancel = {false};
    esp_compute compute = {.cancel = &cancel};
    (void)state;

    esp_cancel_request(&cancel);
    assert_int_equal(esp_row_products_fill(&compute, &made, 1), ESP_CANCELLED);
    forget(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distances_agree_with_naive_sums_for_any_shape),
        cmocka_unit_test(several_matrices_over_a_pool_get_what_each_gets_alone),
        cmocka_unit_test(equal_rows_lie_at_distance_zero),
        cmocka_unit_test(cancelled_products_say_so),
    };
    return cmocka_run_group_tests_name("row products", tests, NULL, NULL);
}
