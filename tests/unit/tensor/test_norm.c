/* Batch normalisation against its definition in double; gradients against finite differences. */
#include "unit/tensor/check.h"

#include "oracle/oracle.h"
#include "tensor/norm.h"

static const float epsilon = 1e-3f, momentum = 0.9f;

typedef struct norm_case {
    int64_t batch, channels, inner;
    pair x, dy, y, dx, scale, bias, mean, variance, dscale, dbias;
    float *saved_mean, *saved_inverse_std, *running_mean, *running_variance;
    bool is_frozen;
} norm_case;

static norm_case case_new(esp_rng *rng, int64_t batch, int64_t channels, int64_t inner)
{
    norm_case test = {.batch = batch, .channels = channels, .inner = inner};
    int64_t count = batch * channels * inner;
    test.x = pair_random(rng, count, -1.0, 2.0);
    test.dy = pair_random(rng, count, -1.0, 1.0);
    test.y = pair_new(count);
    test.dx = pair_new(count);
    test.scale = pair_random(rng, channels, 0.5, 2.0);
    test.bias = pair_random(rng, channels, -1.0, 1.0);
    test.mean = pair_random(rng, channels, -1.0, 1.0);
    test.variance = pair_random(rng, channels, 0.2, 2.0);
    test.dscale = pair_new(channels);
    test.dbias = pair_new(channels);
    test.saved_mean = floats_new(channels);
    test.saved_inverse_std = floats_new(channels);
    test.running_mean = floats_new(channels);
    test.running_variance = floats_new(channels);
    for (int64_t c = 0; c < channels; c++) {
        test.running_mean[c] = 0.25f;
        test.running_variance[c] = 1.5f;
    }
    return test;
}

static void case_free(norm_case *t)
{
    pair all[] = {t->x, t->dy, t->y, t->dx, t->scale, t->bias, t->mean, t->variance, t->dscale, t->dbias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        pair_free(all[i]);
    free(t->saved_mean);
    free(t->saved_inverse_std);
    free(t->running_mean);
    free(t->running_variance);
}

static esp_status train(const esp_compute *compute, norm_case *t)
{
    return esp_batch_norm_train(compute, t->batch, t->channels, t->inner, t->x.f, t->scale.f, t->bias.f,
                                epsilon, momentum, t->running_mean, t->running_variance, t->saved_mean,
                                t->saved_inverse_std, t->y.f);
}

static void evaluation_uses_the_given_statistics(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 40);
    for (int i = 0; i < 60; i++) {
        norm_case t = case_new(&rng, pick(&rng, 1, 5), pick(&rng, 1, 20), pick(&rng, 1, 90));
        oracle_batch_norm(t.batch, t.channels, t.inner, t.x.d, t.scale.d, t.bias.d, t.mean.d, t.variance.d,
                          (double)epsilon, t.y.d);
        assert_int_equal(esp_batch_norm_forward(&all->compute[i % 4], t.batch, t.channels, t.inner, t.x.f,
                                                t.scale.f, t.bias.f, t.mean.f, t.variance.f, epsilon, t.y.f),
                         ESP_OK);
        assert_all_close("y", t.y.f, t.y.d, t.y.count, 1e-5);
        assert_int_equal(esp_batch_norm_forward(&all->compute[2], t.batch, t.channels, t.inner, t.x.f,
                                                t.scale.f, t.bias.f, t.mean.f, t.variance.f, epsilon, t.x.f),
                         ESP_OK);
        assert_same_bits("in place", t.x.f, t.y.f, t.y.count);
        case_free(&t);
    }
}

static void training_normalises_by_the_statistics_of_the_batch(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 41);
    for (int i = 0; i < 60; i++) {
        norm_case t = case_new(&rng, pick(&rng, 1, 9), pick(&rng, 1, 12), pick(&rng, 1, 150));
        double count = (double)(t.batch * t.inner), rest = (double)(1.0f - momentum);
        oracle_channel_statistics(t.batch, t.channels, t.inner, t.x.d, t.mean.d, t.variance.d);
        oracle_batch_norm(t.batch, t.channels, t.inner, t.x.d, t.scale.d, t.bias.d, t.mean.d, t.variance.d,
                          (double)epsilon, t.y.d);
        assert_int_equal(train(&all->compute[i % 4], &t), ESP_OK);
        assert_all_close("y", t.y.f, t.y.d, t.y.count, 2e-5);
        assert_all_close("saved mean", t.saved_mean, t.mean.d, t.channels, 1e-6);
        for (int64_t c = 0; c < t.channels; c++) {
            double unbiased = count > 1.0 ? t.variance.d[c] * count / (count - 1.0) : t.variance.d[c];
            double mean = 0.25 * (double)momentum + t.mean.d[c] * rest;
            double variance = 1.5 * (double)momentum + unbiased * rest;
            double inverse_std = 1.0 / sqrt(t.variance.d[c] + (double)epsilon);
            assert_all_close("running mean", t.running_mean + c, &mean, 1, 1e-6);
            assert_all_close("running variance", t.running_variance + c, &variance, 1, 1e-6);
            assert_all_close("saved 1/std", t.saved_inverse_std + c, &inverse_std, 1, 1e-5);
        }
        case_free(&t);
    }
}

/* Sums of plain squares would lose the variance below an offset of 1000 standard deviations. */
static void a_large_common_offset_does_not_hurt_the_variance(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 42);
    norm_case t = case_new(&rng, 8, 2, 1000);
    for (int64_t i = 0; i < t.x.count; i++) {
        t.x.f[i] = 1000.0f + t.x.f[i];
        t.x.d[i] = (double)t.x.f[i];
    }
    oracle_channel_statistics(t.batch, t.channels, t.inner, t.x.d, t.mean.d, t.variance.d);
    assert_int_equal(train(&all->compute[2], &t), ESP_OK);
    for (int64_t c = 0; c < t.channels; c++) {
        double inverse_std = 1.0 / sqrt(t.variance.d[c] + (double)epsilon);
        assert_all_close("saved 1/std", t.saved_inverse_std + c, &inverse_std, 1, 1e-4);
    }
    case_free(&t);
}

static double norm_loss(void *context)
{
    norm_case *t = context;
    if (!t->is_frozen)
        oracle_channel_statistics(t->batch, t->channels, t->inner, t->x.d, t->mean.d, t->variance.d);
    oracle_batch_norm(t->batch, t->channels, t->inner, t->x.d, t->scale.d, t->bias.d, t->mean.d,
                      t->variance.d, (double)epsilon, t->y.d);
    return oracle_dot(t->y.count, t->y.d, t->dy.d);
}

static void check_gradients(const esp_compute *compute, norm_case *t)
{
    oracle_gradient(t->x.d, t->x.count, norm_loss, t, t->dx.d);
    oracle_gradient(t->scale.d, t->channels, norm_loss, t, t->dscale.d);
    oracle_gradient(t->bias.d, t->channels, norm_loss, t, t->dbias.d);
    if (t->is_frozen) {
        assert_int_equal(esp_batch_norm_backward_frozen(compute, t->batch, t->channels, t->inner, t->x.f,
                                                        t->dy.f, t->scale.f, t->mean.f, t->variance.f,
                                                        epsilon, t->dx.f, t->dscale.f, t->dbias.f),
                         ESP_OK);
    } else {
        assert_int_equal(train(compute, t), ESP_OK);
        assert_int_equal(esp_batch_norm_backward(compute, t->batch, t->channels, t->inner, t->x.f, t->dy.f,
                                                 t->scale.f, t->saved_mean, t->saved_inverse_std, t->dx.f,
                                                 t->dscale.f, t->dbias.f),
                         ESP_OK);
    }
    assert_all_close("dx", t->dx.f, t->dx.d, t->dx.count, 2e-5);
    assert_all_close("dscale", t->dscale.f, t->dscale.d, t->channels, 2e-5);
    assert_all_close("dbias", t->dbias.f, t->dbias.d, t->channels, 2e-5);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 43);
    for (int i = 0; i < 40; i++) {
        norm_case t = case_new(&rng, pick(&rng, 2, 5), pick(&rng, 1, 4), pick(&rng, 1, 40));
        t.is_frozen = i % 2 == 1;
        check_gradients(&all->compute[i % 4], &t);
        case_free(&t);
    }
}

static void results_have_the_same_bits_for_one_two_and_three_threads(void **state)
{
    contexts *all = *state;
    esp_rng rng;
    esp_rng_seed(&rng, 44);
    norm_case one = case_new(&rng, 20, 7, 333);
    assert_int_equal(train(&all->compute[1], &one), ESP_OK);
    for (int threads = 2; threads <= MOST_THREADS; threads++) {
        esp_rng_seed(&rng, 44);
        norm_case many = case_new(&rng, 20, 7, 333);
        assert_int_equal(train(&all->compute[threads], &many), ESP_OK);
        assert_same_bits("y", many.y.f, one.y.f, one.y.count);
        assert_same_bits("running variance", many.running_variance, one.running_variance, one.channels);
        case_free(&many);
    }
    case_free(&one);
}

static void a_cancelled_run_says_so(void **state)
{
    esp_cancel cancel;
    esp_compute compute = cancelled_compute(*state, &cancel);
    esp_rng rng;
    esp_rng_seed(&rng, 45);
    norm_case t = case_new(&rng, 1, 1, 1);
    assert_int_equal(train(&compute, &t), ESP_CANCELLED);
    assert_int_equal(esp_batch_norm_forward(&compute, 1, 1, 1, t.x.f, t.scale.f, t.bias.f, t.mean.f,
                                            t.variance.f, epsilon, t.y.f),
                     ESP_CANCELLED);
    assert_int_equal(esp_batch_norm_backward(&compute, 1, 1, 1, t.x.f, t.dy.f, t.scale.f, t.mean.f,
                                             t.variance.f, t.dx.f, t.dscale.f, t.dbias.f),
                     ESP_CANCELLED);
    case_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evaluation_uses_the_given_statistics),
        cmocka_unit_test(training_normalises_by_the_statistics_of_the_batch),
        cmocka_unit_test(a_large_common_offset_does_not_hurt_the_variance),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(results_have_the_same_bits_for_one_two_and_three_threads),
        cmocka_unit_test(a_cancelled_run_says_so),
    };
    return cmocka_run_group_tests(tests, contexts_setup, contexts_teardown);
}
