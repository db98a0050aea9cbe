/* Normalisation of rows and of channel windows, and their gradients, against plain loops in double. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/channel_window_norm.h"
#include "tensor/row_norm.h"

typedef struct row_case {
    esp_row_norm norm;
    pair x, scale, bias, y, mean, inverse_std, dy, dmean, dinverse, dx, dscale, dbias;
} row_case;

/* Every output counts: y, and the statistics. */
static double row_loss(void *context)
{
    row_case *t = context;
    int64_t length = t->norm.parts * t->norm.span;
    for (int64_t row = 0; row < t->norm.rows; row++) {
        const double *x = t->x.d + row * length;
        double mean = 0.0, variance = 0.0;
        for (int64_t i = 0; i < length; i++)
            mean += x[i] / (double)length;
        for (int64_t i = 0; i < length; i++)
            variance += (x[i] - mean) * (x[i] - mean) / (double)length;
        t->mean.d[row] = mean;
        t->inverse_std.d[row] = 1.0 / sqrt(variance + (double)t->norm.epsilon);
        for (int64_t i = 0; i < length; i++) {
            int64_t parameter = row % t->norm.cycles * t->norm.parts + i / t->norm.span;
            t->y.d[row * length + i] =
                (x[i] - mean) * t->inverse_std.d[row] * t->scale.d[parameter] + t->bias.d[parameter];
        }
    }
    return oracle_dot(t->y.count, t->y.d, t->dy.d) + oracle_dot(t->mean.count, t->mean.d, t->dmean.d) +
           oracle_dot(t->mean.count, t->inverse_std.d, t->dinverse.d);
}

static void row_case_new(esp_rng *rng, int64_t largest, row_case *t)
{
    int64_t cycles = pick(rng, 1, 3);
    t->norm = (esp_row_norm){.cycles = cycles,
                             .rows = cycles * pick(rng, 1, 3),
                             .parts = pick(rng, 1, largest),
                             .span = pick(rng, 1, largest),
                             .epsilon = 0.01f};
    int64_t count = t->norm.rows * t->norm.parts * t->norm.span, parameters = cycles * t->norm.parts;
    t->x = pair_random(rng, count, -1.0, 2.0);
    t->dy = pair_random(rng, count, -1.0, 1.0);
    t->y = pair_new(count);
    t->dx = pair_new(count);
    t->scale = pair_random(rng, parameters, 0.5, 1.5);
    t->bias = pair_random(rng, parameters, -1.0, 1.0);
    t->dscale = pair_new(parameters);
    t->dbias = pair_new(parameters);
    t->mean = pair_new(t->norm.rows);
    t->inverse_std = pair_new(t->norm.rows);
    t->dmean = pair_random(rng, t->norm.rows, -1.0, 1.0);
    t->dinverse = pair_random(rng, t->norm.rows, -1.0, 1.0);
}

static void row_case_free(row_case *t)
{
    pair all[] = {t->x,  t->scale, t->bias,     t->y,  t->mean,   t->inverse_std,
                  t->dy, t->dmean, t->dinverse, t->dx, t->dscale, t->dbias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
}

static void check_forward(row_case *t, const esp_compute *compute)
{
    row_loss(t);
    assert_int_equal(esp_row_norm_forward(compute, &t->norm, t->x.f, t->scale.f, t->bias.f, t->mean.f,
                                          t->inverse_std.f, t->y.f),
                     ESP_OK);
    assert_all_close("y", t->y.f, t->y.d, t->y.count, 5e-6);
    assert_all_close("mean", t->mean.f, t->mean.d, t->mean.count, 1e-6);
    assert_all_close("inverse_std", t->inverse_std.f, t->inverse_std.d, t->mean.count, 2e-6);
}

static void rows_are_normalised_as_defined(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    row_case t;
    esp_rng_seed(&rng, 95);
    for (int i = 0; i < 60; i++) {
        const esp_compute *compute = &all->compute[i % 4];
        row_case_new(&rng, 5, &t);
        oracle_gradient(t.x.d, t.x.count, row_loss, &t, t.dx.d);
        oracle_gradient(t.scale.d, t.scale.count, row_loss, &t, t.dscale.d);
        oracle_gradient(t.bias.d, t.bias.count, row_loss, &t, t.dbias.d);
        check_forward(&t, compute);
        esp_row_norm_grads grads = {.dy = t.dy.f, .dmean = t.dmean.f, .dinverse_std = t.dinverse.f};
        assert_int_equal(esp_row_norm_backward(compute, &t.norm, t.x.f, &grads, t.scale.f, t.mean.f,
                                               t.inverse_std.f, t.dx.f, t.dscale.f, t.dbias.f),
                         ESP_OK);
        assert_all_close("dx", t.dx.f, t.dx.d, t.dx.count, 1e-4);
        assert_all_close("dscale", t.dscale.f, t.dscale.d, t.dscale.count, 1e-5);
        assert_all_close("dbias", t.dbias.f, t.dbias.d, t.dbias.count, 1e-5);
        row_case_free(&t);
    }
}

static void long_rows_are_normalised_alike_by_any_number_of_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 96);
    const esp_row_norm norms[] = {{6, 2, 1, 1700, 1e-5f}, {3, 1, 1700, 1, 1e-5f}, {4, 2, 3, 700, 1e-5f}};
    for (int i = 0; i < 3; i++) {
        row_case t = {.norm = norms[i]};
        int64_t count = t.norm.rows * t.norm.parts * t.norm.span, parameters = t.norm.cycles * t.norm.parts;
        t.x = pair_random(&rng, count, -1.0, 2.0), t.dy = pair_random(&rng, count, -1.0, 1.0);
        t.y = pair_new(count), t.dx = pair_new(count);
        t.scale = pair_random(&rng, parameters, 0.5, 1.5), t.bias = pair_random(&rng, parameters, -1.0, 1.0);
        t.dscale = pair_new(parameters), t.dbias = pair_new(parameters);
        t.mean = pair_new(t.norm.rows), t.inverse_std = pair_new(t.norm.rows);
        t.dmean = pair_new(t.norm.rows), t.dinverse = pair_new(t.norm.rows);
        float *first = floats_new(parameters);
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            check_forward(&t, &all->compute[threads]);
            esp_row_norm_grads grads = {.dy = t.dy.f};
            assert_int_equal(esp_row_norm_backward(&all->compute[threads], &t.norm, t.x.f, &grads, t.scale.f,
                                                   t.mean.f, t.inverse_std.f, NULL, t.dscale.f, NULL),
                             ESP_OK);
            if (threads == 1)
                memcpy(first, t.dscale.f, (size_t)parameters * sizeof *first);
            assert_same_bits("dscale", t.dscale.f, first, parameters);
        }
        free(first);
        row_case_free(&t);
    }
}

static void a_row_of_equal_numbers_becomes_the_bias(void **state)
{
    (void)state;
    const esp_row_norm norm = {.rows = 1, .cycles = 1, .parts = 1, .span = 4, .epsilon = 1e-5f};
    const float x[] = {3.0f, 3.0f, 3.0f, 3.0f}, scale[] = {2.0f}, bias[] = {0.5f};
    float y[4], mean, inverse_std;
    assert_int_equal(esp_row_norm_forward(NULL, &norm, x, scale, bias, &mean, &inverse_std, y), ESP_OK);
    for (int i = 0; i < 4; i++)
        assert_true(y[i] == 0.5f);
}

typedef struct window_case {
    esp_window_norm norm;
    pair x, y, dy, dx;
} window_case;

static double window_loss(void *context)
{
    window_case *t = context;
    const esp_window_norm *norm = &t->norm;
    for (int64_t i = 0; i < t->x.count; i++) {
        int64_t c = i / norm->inner % norm->channels;
        double sum = 0.0;
        for (int64_t k = 0; k < norm->channels; k++) {
            if (k < c - (norm->size - 1) / 2 || k > c + norm->size / 2)
                continue;
            double x = t->x.d[i + (k - c) * norm->inner];
            sum += x * x;
        }
        double s = (double)norm->bias + (double)norm->alpha / (double)norm->size * sum;
        t->y.d[i] = t->x.d[i] / pow(s, (double)norm->beta);
    }
    return oracle_dot(t->y.count, t->y.d, t->dy.d);
}

static void channel_windows_are_normalised_as_defined(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 97);
    for (int i = 0; i < 60; i++) {
        window_case t = {.norm = {.batch = pick(&rng, 1, 2),
                                  .channels = pick(&rng, 1, 7),
                                  .inner = i % 20 == 19 ? 300 : pick(&rng, 1, 6),
                                  .size = pick(&rng, 1, 9),
                                  .alpha = 0.9f,
                                  .beta = i % 2 == 0 ? 0.75f : 0.4f,
                                  .bias = 1.5f}};
        int64_t count = t.norm.batch * t.norm.channels * t.norm.inner;
        bool is_large = t.norm.inner == 300;
        t.x = pair_random(&rng, count, -1.0, 1.0);
        t.dy = pair_random(&rng, count, -1.0, 1.0);
        t.y = pair_new(count);
        t.dx = pair_new(count);
        float *scratch = floats_new(2 * count);
        const esp_compute *compute = &all->compute[i % 4];
        if (!is_large)
            oracle_gradient(t.x.d, count, window_loss, &t, t.dx.d);
        window_loss(&t);
        assert_int_equal(esp_window_norm_forward(compute, &t.norm, t.x.f, t.y.f), ESP_OK);
        assert_all_close("y", t.y.f, t.y.d, count, 1e-6);
        assert_int_equal(esp_window_norm_backward(compute, &t.norm, t.x.f, t.dy.f, scratch, t.dx.f), ESP_OK);
        if (!is_large)
            assert_all_close("dx", t.dx.f, t.dx.d, count, 5e-6);
        free(scratch);
        pair_free(t.x);
        pair_free(t.dy);
        pair_free(t.y);
        pair_free(t.dx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_normalised_as_defined),
        cmocka_unit_test(long_rows_are_normalised_alike_by_any_number_of_threads),
        cmocka_unit_test(a_row_of_equal_numbers_becomes_the_bias),
        cmocka_unit_test(channel_windows_are_normalised_as_defined),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
