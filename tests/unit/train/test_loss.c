/* Cross-entropy against the definition in double, its gradient against finite differences, and the counts. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "train/loss.h"
#include "unit/train/train_fixtures.h"

enum { BATCH = 6, CLASSES = 11 };

static void fill_random(float *logits, int32_t *labels, double scale)
{
    esp_rng rng;
    esp_rng_seed(&rng, 42);
    for (int i = 0; i < BATCH * CLASSES; i++) {
        logits[i] = (float)(scale * esp_rng_normal(&rng));
    }
    for (int n = 0; n < BATCH; n++) {
        labels[n] = (int32_t)esp_rng_below(&rng, CLASSES);
    }
}

/* -log softmax by definition, no tricks: only for moderate logits. */
static double naive_loss(const float *logits, const int32_t *labels)
{
    double loss = 0.0;
    for (int n = 0; n < BATCH; n++) {
        double total = 0.0;
        for (int c = 0; c < CLASSES; c++) {
            total += exp((double)logits[n * CLASSES + c]);
        }
        loss -= log(exp((double)logits[n * CLASSES + labels[n]]) / total);
    }
    return loss;
}

static void loss_equals_the_definition(void **state)
{
    (void)state;
    float logits[BATCH * CLASSES];
    int32_t labels[BATCH];
    fill_random(logits, labels, 2.0);
    esp_loss_sums sums = {0};
    esp_cross_entropy(logits, labels, BATCH, CLASSES, &sums, NULL);
    assert_true(fabs(sums.loss - naive_loss(logits, labels)) < 1e-10);
    assert_int_equal(sums.images, BATCH);
}

static void sums_grow_from_batch_to_batch(void **state)
{
    (void)state;
    float logits[BATCH * CLASSES];
    int32_t labels[BATCH];
    fill_random(logits, labels, 1.0);
    esp_loss_sums whole = {0}, parts = {0};
    esp_cross_entropy(logits, labels, BATCH, CLASSES, &whole, NULL);
    esp_cross_entropy(logits, labels, 2, CLASSES, &parts, NULL);
    esp_cross_entropy(logits + 2 * CLASSES, labels + 2, BATCH - 2, CLASSES, &parts, NULL);
    assert_memory_equal(&whole, &parts, sizeof(whole));
}

static void gradient_of_the_mean_loss_equals_finite_differences(void **state)
{
    (void)state;
    float logits[BATCH * CLASSES], gradient[BATCH * CLASSES];
    int32_t labels[BATCH];
    fill_random(logits, labels, 1.5);
    esp_loss_sums sums = {0};
    esp_cross_entropy(logits, labels, BATCH, CLASSES, &sums, gradient);
    for (int i = 0; i < BATCH * CLASSES; i++) {
        float kept = logits[i];
        float up = kept + 1e-2f, down = kept - 1e-2f;
        logits[i] = up;
        double above = naive_loss(logits, labels);
        logits[i] = down;
        double below = naive_loss(logits, labels);
        logits[i] = kept;
        double expected = (above - below) / ((double)up - (double)down) / BATCH;
        /* the central difference is wrong by h^2/6 times a third derivative below 1 */
        assert_true(fabs((double)gradient[i] - expected) < 2e-5);
    }
}

static void huge_logits_stay_finite(void **state)
{
    (void)state;
    const float logits[6] = {3e38f, -3e38f, 0.0f, -3e38f, -3e38f, -3e38f};
    const int32_t labels[2] = {0, 2};
    float gradient[6];
    esp_loss_sums sums = {0};
    esp_cross_entropy(logits, labels, 2, 3, &sums, gradient);
    assert_true(fabs(sums.loss - log(3.0)) < 1e-12);
    assert_true(gradient[0] == 0.0f && gradient[1] == 0.0f);
    esp_loss_sums wrong = {0};
    esp_cross_entropy(logits, (const int32_t[]){1}, 1, 3, &wrong, gradient);
    assert_true(isfinite(wrong.loss) && wrong.loss > 1e38);
}

static void ties_count_for_the_lower_class(void **state)
{
    (void)state;
    const float logits[3] = {0.5f, 0.5f, 0.1f};
    esp_loss_sums first = {0}, second = {0};
    esp_cross_entropy(logits, (const int32_t[]){0}, 1, 3, &first, NULL);
    esp_cross_entropy(logits, (const int32_t[]){1}, 1, 3, &second, NULL);
    assert_int_equal(first.top1, 1);
    assert_int_equal(second.top1, 0);
}

static void top5_counts_five_places_and_everything_when_there_are_fewer(void **state)
{
    (void)state;
    const float logits[7] = {7, 6, 5, 4, 3, 2, 1};
    for (int32_t label = 0; label < 7; label++) {
        esp_loss_sums sums = {0};
        esp_cross_entropy(logits, &label, 1, 7, &sums, NULL);
        assert_int_equal(sums.top1, label == 0);
        assert_int_equal(sums.top5, label < 5);
    }
    esp_loss_sums sums = {0};
    esp_cross_entropy(logits, (const int32_t[]){2}, 1, 3, &sums, NULL);
    assert_int_equal(sums.top5, 1);
}

static void logits_that_are_not_numbers_are_never_right(void **state)
{
    (void)state;
    const float all[6] = {NAN, NAN, NAN, NAN, NAN, NAN};
    const float other[6] = {1.0f, NAN, 0.0f, 0.0f, 0.0f, 0.0f};
    esp_loss_sums sums = {0};
    esp_cross_entropy(all, (const int32_t[]){0}, 1, 6, &sums, NULL);
    esp_cross_entropy(other, (const int32_t[]){0}, 1, 6, &sums, NULL);
    assert_int_equal(sums.top1, 0);
    bool is_finite = isfinite(sums.loss);
    assert_false(is_finite);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_equals_the_definition),
        cmocka_unit_test(sums_grow_from_batch_to_batch),
        cmocka_unit_test(gradient_of_the_mean_loss_equals_finite_differences),
        cmocka_unit_test(huge_logits_stay_finite),
        cmocka_unit_test(ties_count_for_the_lower_class),
        cmocka_unit_test(top5_counts_five_places_and_everything_when_there_are_fewer),
        cmocka_unit_test(logits_that_are_not_numbers_are_never_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
