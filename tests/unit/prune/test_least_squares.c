/* Normal equations against elimination in plain loops. */
#include "prune/least_squares.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "unit/train/train_fixtures.h"

typedef struct samples {
    int64_t rows, unknowns, targets;
    float *x, *y;
} samples;

static samples samples_new(int64_t rows, int64_t unknowns, int64_t targets, uint64_t seed)
{
    samples s = {rows, unknowns, targets, esp_alloc((size_t)(rows * unknowns), sizeof(float)),
                 esp_alloc((size_t)(rows * targets), sizeof(float))};
    esp_rng rng;

    assert_non_null(s.x);
    assert_non_null(s.y);
    esp_rng_seed(&rng, seed);
    for (int64_t i = 0; i < rows * unknowns; i++)
        s.x[i] = (float)(esp_rng_normal(&rng) + 0.5);
    for (int64_t i = 0; i < rows * targets; i++)
        s.y[i] = (float)(esp_rng_normal(&rng) + s.x[i / targets * unknowns]);
    return s;
}

static void samples_free(samples *s)
{
    esp_free(s->x);
    esp_free(s->y);
}

/* sum (y - w'x)^2 of one target. */
static double residual(const esp_normal *normal, int64_t count, const int64_t *columns, int64_t target,
                       const double *w)
{
    esp_error err = {0};
    double out = NAN;

    expect_ok(esp_normal_residuals(NULL, normal, count, columns, 1, &target, w, &out, &err), &err);
    return out;
}

static esp_normal normal_of(const esp_compute *compute, const samples *s)
{
    esp_normal normal;
    esp_error err = {0};
    int64_t first = s->rows / 3;

    expect_ok(esp_normal_new(s->unknowns, s->targets, &normal, &err), &err);
    expect_ok(esp_normal_add(compute, &normal, first, s->x, s->y, &err), &err);
    expect_ok(esp_normal_add(compute, &normal, s->rows - first, s->x + first * s->unknowns,
                             s->y + first * s->targets, &err),
              &err);
    assert_int_equal(normal.samples, s->rows);
    return normal;
}

/* min sum (y - w'x - b)^2 + lambda |w - start|^2 over the columns by Gaussian elimination with pivots; b is
 * the last unknown when there is an intercept. */
static void solve_naively(const samples *s, int64_t n, const int64_t *columns, int64_t target, double lambda,
                          const double *start, bool has_intercept, double *out)
{
    int64_t size = n + has_intercept;
    double *a = esp_alloc_zero((size_t)(size * (size + 1)), sizeof *a);

    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t i = 0; i < size; i++) {
            double xi = i < n ? (double)s->x[r * s->unknowns + columns[i]] : 1;
            for (int64_t j = 0; j < size; j++)
                a[i * (size + 1) + j] += xi * (j < n ? (double)s->x[r * s->unknowns + columns[j]] : 1);
            a[i * (size + 1) + size] += xi * (double)s->y[r * s->targets + target];
        }
    for (int64_t i = 0; i < n; i++) {
        a[i * (size + 1) + i] += lambda;
        a[i * (size + 1) + size] += lambda * start[i];
    }
    for (int64_t k = 0; k < size; k++) {
        int64_t pivot = k;
        for (int64_t i = k; i < size; i++)
            pivot = fabs(a[i * (size + 1) + k]) > fabs(a[pivot * (size + 1) + k]) ? i : pivot;
        for (int64_t j = 0; j <= size; j++) {
            double kept = a[k * (size + 1) + j];
            a[k * (size + 1) + j] = a[pivot * (size + 1) + j];
            a[pivot * (size + 1) + j] = kept;
        }
        for (int64_t i = 0; i < size; i++) {
            double factor = i == k ? 0 : a[i * (size + 1) + k] / a[k * (size + 1) + k];
            for (int64_t j = k; factor != 0 && j <= size; j++)
                a[i * (size + 1) + j] -= factor * a[k * (size + 1) + j];
        }
    }
    for (int64_t i = 0; i < size; i++)
        out[i] = a[i * (size + 1) + size] / a[i * (size + 1) + i];
    esp_free(a);
}

/* More unknowns than a panel, some left out, two of five targets. */
static void check_solution(bool has_intercept, double lambda)
{
    enum { UNKNOWNS = 150, COLUMNS = 141, CHOSEN = 2 };
    static const int64_t targets[CHOSEN] = {1, 4};
    samples s = samples_new(700, UNKNOWNS, 5, 3);
    esp_normal normal = normal_of(NULL, &s);
    int64_t columns[COLUMNS];
    double start[CHOSEN * COLUMNS], out[CHOSEN * COLUMNS], expected[COLUMNS + 1];
    esp_error err = {0};

    for (int64_t i = 0; i < COLUMNS; i++)
        columns[i] = i + (i > 20) + (i > 64) * 3 + (i > 100) * 5;
    assert_int_equal(columns[COLUMNS - 1], UNKNOWNS - 1);
    for (int64_t i = 0; i < CHOSEN * COLUMNS; i++)
        start[i] = sin((double)i);
    if (has_intercept)
        esp_normal_center(&normal);
    expect_ok(esp_normal_solve(NULL, &normal, COLUMNS, columns, CHOSEN, targets, lambda, start, out, &err),
              &err);
    for (int64_t t = 0; t < CHOSEN; t++) {
        double left = 0;
        solve_naively(&s, COLUMNS, columns, targets[t], lambda, start + t * COLUMNS, has_intercept, expected);
        for (int64_t i = 0; i < COLUMNS; i++)
            assert_true(fabs(out[t * COLUMNS + i] - expected[i]) < 1e-8);
        for (int64_t r = 0; r < s.rows; r++) {
            double y = (double)s.y[r * s.targets + targets[t]] - (has_intercept ? expected[COLUMNS] : 0);
            for (int64_t i = 0; i < COLUMNS; i++)
                y -= expected[i] * (double)s.x[r * UNKNOWNS + columns[i]];
            left += y * y;
        }
        if (lambda == 0) /* the intercept of the naive solution is the best for its slope */
            assert_true(fabs(residual(&normal, COLUMNS, columns, targets[t], out + t * COLUMNS) - left) <
                        1e-6 * left);
    }
    esp_normal_free(&normal);
    samples_free(&s);
}

static void solutions_agree_with_elimination(void **state)
{
    (void)state;
    check_solution(false, 0);
}

static void solutions_with_an_intercept_agree_with_elimination(void **state)
{
    (void)state;
    check_solution(true, 0);
}

static void the_ridge_pulls_towards_the_start(void **state)
{
    (void)state;
    check_solution(false, 300);
    check_solution(true, 300);
}

/* More targets than are looked at together, of any weights, against the samples themselves. */
static void residuals_are_those_of_the_samples_on_any_number_of_threads(void **state)
{
    enum { UNKNOWNS = 23, TARGETS = 21, COLUMNS = 11 };
    samples s = samples_new(150, UNKNOWNS, TARGETS, 8);
    esp_normal normal = normal_of(NULL, &s);
    int64_t columns[COLUMNS], targets[TARGETS];
    double w[TARGETS * COLUMNS], out[TARGETS], again[TARGETS];
    esp_error err = {0};
    (void)state;

    for (int64_t i = 0; i < COLUMNS; i++)
        columns[i] = 2 * i + i / 6;
    for (int64_t t = 0; t < TARGETS; t++)
        targets[t] = TARGETS - 1 - t;
    for (int64_t i = 0; i < TARGETS * COLUMNS; i++)
        w[i] = sin(1.7 * (double)i);
    expect_ok(esp_normal_residuals(NULL, &normal, COLUMNS, columns, TARGETS, targets, w, out, &err), &err);
    for (int64_t t = 0; t < TARGETS; t++) {
        double left = 0;
        for (int64_t r = 0; r < s.rows; r++) {
            double y = (double)s.y[r * TARGETS + targets[t]];
            for (int64_t i = 0; i < COLUMNS; i++)
                y -= w[t * COLUMNS + i] * (double)s.x[r * UNKNOWNS + columns[i]];
            left += y * y;
        }
        assert_true(fabs(out[t] - left) < 1e-9 * left);
    }
    esp_pool *pool = NULL;
    expect_ok(esp_pool_new(3, &pool, &err), &err);
    const esp_compute compute = {.pool = pool};
    expect_ok(esp_normal_residuals(&compute, &normal, COLUMNS, columns, TARGETS, targets, w, again, &err),
              &err);
    assert_memory_equal(out, again, sizeof out);
    esp_pool_free(pool);
    esp_normal_free(&normal);
    samples_free(&s);
}

/* Fewer samples than unknowns: without a ridge there are many solutions. */
static void too_few_samples_are_solved_with_a_ridge(void **state)
{
    enum { UNKNOWNS = 20 };
    samples s = samples_new(6, UNKNOWNS, 1, 5);
    esp_normal normal = normal_of(NULL, &s);
    int64_t columns[UNKNOWNS], target = 0;
    double start[UNKNOWNS] = {0}, out[UNKNOWNS];
    esp_error err = {0};
    (void)state;

    for (int64_t i = 0; i < UNKNOWNS; i++)
        columns[i] = i;
    expect_ok(esp_normal_solve(NULL, &normal, UNKNOWNS, columns, 1, &target, 0, start, out, &err), &err);
    for (int64_t i = 0; i < UNKNOWNS; i++)
        assert_true(isfinite(out[i]) && fabs(out[i]) < 100);
    assert_true(residual(&normal, UNKNOWNS, columns, 0, out) < 1e-3 * normal.squares[0]);
    esp_normal_free(&normal);
    samples_free(&s);
}

static void numbers_that_are_not_finite_are_an_error(void **state)
{
    samples s = samples_new(9, 2, 1, 5);
    int64_t columns[2] = {0, 1}, target = 0;
    double start[2] = {0}, out[2];
    esp_normal normal;
    esp_error err = {0};
    (void)state;

    s.x[3] = NAN;
    normal = normal_of(NULL, &s);
    expect_failure(esp_normal_solve(NULL, &normal, 2, columns, 1, &target, 1, start, out, &err), ESP_INVALID,
                   &err, "no solution");
    esp_normal_free(&normal);
    samples_free(&s);
}

static void threads_change_no_bit(void **state)
{
    enum { UNKNOWNS = 200, TARGETS = 130 };
    samples s = samples_new(900, UNKNOWNS, TARGETS, 9);
    static double start[UNKNOWNS * TARGETS], one[UNKNOWNS * TARGETS], three[UNKNOWNS * TARGETS];
    int64_t columns[UNKNOWNS], targets[TARGETS];
    esp_compute compute = {0};
    esp_error err = {0};
    (void)state;

    for (int64_t i = 0; i < UNKNOWNS; i++)
        columns[i] = i;
    for (int64_t i = 0; i < TARGETS; i++)
        targets[i] = i;
    expect_ok(esp_pool_new(3, &compute.pool, &err), &err);
    esp_normal first = normal_of(NULL, &s), second = normal_of(&compute, &s);
    assert_memory_equal(first.cross, second.cross, UNKNOWNS * TARGETS * sizeof(double));
    expect_ok(esp_normal_solve(NULL, &first, UNKNOWNS, columns, TARGETS, targets, 1, start, one, &err), &err);
    expect_ok(esp_normal_solve(&compute, &second, UNKNOWNS, columns, TARGETS, targets, 1, start, three, &err),
              &err);
    assert_memory_equal(one, three, sizeof one);
    esp_normal_free(&first);
    esp_normal_free(&second);
    samples_free(&s);
    esp_pool_free(compute.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(solutions_agree_with_elimination),
        cmocka_unit_test(solutions_with_an_intercept_agree_with_elimination),
        cmocka_unit_test(the_ridge_pulls_towards_the_start),
        cmocka_unit_test(residuals_are_those_of_the_samples_on_any_number_of_threads),
        cmocka_unit_test(too_few_samples_are_solved_with_a_ridge),
        cmocka_unit_test(numbers_that_are_not_finite_are_an_error),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests_name("least squares", tests, NULL, NULL);
}
