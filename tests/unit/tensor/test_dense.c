/* Fully connected layers against dot products in double, with every instruction set there is. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/dense.h"

static const esp_isa sets[] = {ESP_ISA_PLAIN, ESP_ISA_AVX2, ESP_ISA_AVX512};

typedef struct dense_case {
    esp_dense dense;
    pair x, w, bias, y;
} dense_case;

static dense_case case_new(esp_rng *rng, int64_t rows, int64_t filters, int64_t channels)
{
    dense_case t = {
        .dense = {.rows = rows, .filters = filters, .channels = channels, .low = -0.5f, .high = 0.75f},
        .x = pair_random(rng, rows * channels, -1.0, 1.0),
        .w = pair_random(rng, filters * channels, -1.0, 1.0),
        .bias = pair_random(rng, filters, -1.0, 1.0),
        .y = pair_new(rows * filters)};
    t.dense.bias = pick(rng, 0, 2) > 0 ? t.bias.f : NULL;
    t.dense.clips = pick(rng, 0, 1) == 1;
    oracle_gemm(false, true, rows, filters, channels, 1.0, t.x.d, channels, t.w.d, channels, 0.0, t.y.d,
                filters);
    for (int64_t i = 0; i < rows * filters; i++) {
        double v = t.y.d[i] + (t.dense.bias != NULL ? t.bias.d[i % filters] : 0.0);
        t.y.d[i] = t.dense.clips ? fmin(fmax(v, -0.5), 0.75) : v;
    }
    return t;
}

static void case_free(dense_case *t)
{
    pair_free(t->x);
    pair_free(t->w);
    pair_free(t->bias);
    pair_free(t->y);
}

static esp_status forward(const esp_compute *compute, esp_isa isa, dense_case *t)
{
    esp_engine engine = {.isa = isa};
    for (int64_t i = 0; i < t->y.count; i++)
        t->y.f[i] = NAN;
    return esp_dense_forward(compute, &engine, &t->dense, t->x.f, t->w.f, t->y.f);
}

static void check_case(const esp_compute *compute, dense_case *t)
{
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (!esp_isa_is_supported(sets[i]))
            continue;
        assert_int_equal(forward(compute, sets[i], t), ESP_OK);
        /* sums of `channels` terms below 1, lane by lane */
        assert_all_close(esp_isa_name(sets[i]), t->y.f, t->y.d, t->y.count,
                         2e-6 * (1.0 + sqrt((double)t->dense.channels)));
    }
}

static void products_bias_and_clip_are_those_of_the_definition(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 80);
    for (int i = 0; i < 300; i++) {
        dense_case t = case_new(&rng, pick(&rng, 1, i % 3 == 0 ? 230 : 14), pick(&rng, 1, 60),
                                pick(&rng, 1, i % 10 == 0 ? 1500 : 90));
        check_case(&all->compute[i % 4], &t);
        case_free(&t);
    }
}

/* More channels than one stretch takes, with and without an end that fills no vector. */
static void long_rows_are_added_up_in_stretches(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 81);
    const int64_t rows[] = {1, 2, 3, 6, 7, 16}, channels[] = {6144, 6150, 13001};
    for (int i = 0; i < 18; i++) {
        dense_case t = case_new(&rng, rows[i % 6], 37, channels[i / 6]);
        check_case(&all->compute[2], &t);
        case_free(&t);
    }
}

static void without_channels_the_bias_is_left(void **state)
{
    contexts *all = *state;
    float bias[] = {0.25f, 2.0f, -3.0f}, y[6];
    const float expected[] = {0.25f, 1.0f, 0.0f, 0.25f, 1.0f, 0.0f};
    esp_engine engine = {.isa = ESP_ISA_PLAIN};
    esp_dense dense = {.rows = 2, .filters = 3, .bias = bias, .clips = true, .high = 1.0f};
    assert_int_equal(esp_dense_forward(&all->compute[2], &engine, &dense, NULL, NULL, y), ESP_OK);
    assert_same_bits("y", y, expected, 6);
    dense.rows = 0;
    assert_int_equal(esp_dense_forward(&all->compute[2], &engine, &dense, NULL, NULL, NULL), ESP_OK);
}

static void nan_passes_the_clip(void **state)
{
    (void)state;
    float x[] = {NAN}, w[] = {1.0f}, y[40];
    esp_dense dense = {.rows = 1, .filters = 1, .channels = 1, .clips = true, .high = 1.0f};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        esp_engine engine = {.isa = sets[i]};
        if (!esp_isa_is_supported(sets[i]))
            continue;
        assert_int_equal(esp_dense_forward(NULL, &engine, &dense, x, w, y), ESP_OK);
        assert_true(isnan(y[0]));
    }
}

static void results_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    const int64_t rows[] = {1, 5, 20, 160};
    for (int i = 0; i < 4; i++) {
        esp_rng rng;
        esp_rng_seed(&rng, 82);
        dense_case t = case_new(&rng, rows[i], 300, 777);
        float *one = floats_new(t.y.count);
        for (size_t j = 0; j < sizeof sets / sizeof *sets; j++) {
            if (!esp_isa_is_supported(sets[j]))
                continue;
            assert_int_equal(forward(&all->compute[1], sets[j], &t), ESP_OK);
            memcpy(one, t.y.f, (size_t)t.y.count * sizeof(float));
            for (int threads = 2; threads <= MOST_THREADS; threads++) {
                assert_int_equal(forward(&all->compute[threads], sets[j], &t), ESP_OK);
                assert_same_bits("y", t.y.f, one, t.y.count);
            }
        }
        free(one);
        case_free(&t);
    }
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    esp_rng rng;
    esp_rng_seed(&rng, 83);
    for (int64_t rows = 1; rows < 100; rows += 60) {
        dense_case t = case_new(&rng, rows, 40, 10);
        assert_int_equal(forward(&compute, ESP_ISA_PLAIN, &t), ESP_CANCELLED);
        case_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_bias_and_clip_are_those_of_the_definition),
        cmocka_unit_test(long_rows_are_added_up_in_stretches),
        cmocka_unit_test(without_channels_the_bias_is_left),
        cmocka_unit_test(nan_passes_the_clip),
        cmocka_unit_test(results_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
