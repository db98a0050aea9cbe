/* Schedules at hand-computed points, and what is refused. */
#include <math.h>
#include <string.h>

#include "train/schedule.h"
#include "unit/train/train_fixtures.h"

static void expect_lr(const esp_schedule *schedule, double epoch, double epochs, double expected)
{
    double found = esp_schedule_lr(schedule, epoch, epochs);
    if (fabs(found - expected) > 1e-15 + 1e-12 * expected) {
        fail_msg("epoch %g of %g: %.17g, expected %.17g", epoch, epochs, found, expected);
    }
}

static void constant_stays(void **state)
{
    (void)state;
    esp_schedule schedule = {.kind = ESP_SCHEDULE_CONSTANT, .lr = 0.3};
    expect_lr(&schedule, 0.0, 10.0, 0.3);
    expect_lr(&schedule, 9.99, 10.0, 0.3);
}

static void step_without_milestones_falls_at_the_thirds(void **state)
{
    (void)state;
    esp_schedule schedule = {.kind = ESP_SCHEDULE_STEP, .lr = 1.0, .gamma = 0.1};
    assert_float_equal(esp_schedule_lr(&schedule, 29.9, 90.0), 1.0, 1e-12);
    assert_float_equal(esp_schedule_lr(&schedule, 30.0, 90.0), 0.1, 1e-12);
    assert_float_equal(esp_schedule_lr(&schedule, 60.0, 90.0), 0.01, 1e-12);
}

static void step_falls_at_each_milestone_not_before(void **state)
{
    (void)state;
    esp_schedule schedule = {.kind = ESP_SCHEDULE_STEP,
                             .lr = 0.01,
                             .gamma = 0.1,
                             .milestone_count = 2,
                             .milestones = {30.0, 60.5}};
    expect_lr(&schedule, 0.0, 90.0, 0.01);
    expect_lr(&schedule, 29.999, 90.0, 0.01);
    expect_lr(&schedule, 30.0, 90.0, 0.001);
    expect_lr(&schedule, 60.499, 90.0, 0.001);
    expect_lr(&schedule, 60.5, 90.0, 0.0001);
}

static void cosine_goes_from_the_rate_over_half_to_zero(void **state)
{
    (void)state;
    esp_schedule schedule = {.kind = ESP_SCHEDULE_COSINE, .lr = 0.2};
    expect_lr(&schedule, 0.0, 8.0, 0.2);
    expect_lr(&schedule, 2.0, 8.0, 0.2 * (0.5 + 0.25 * sqrt(2.0)));
    expect_lr(&schedule, 4.0, 8.0, 0.1);
    assert_true(fabs(esp_schedule_lr(&schedule, 8.0, 8.0)) < 1e-15);
}

static void warm_up_is_a_line_from_zero(void **state)
{
    (void)state;
    esp_schedule schedule = {.kind = ESP_SCHEDULE_CONSTANT, .lr = 0.4, .warmup_epochs = 2.0};
    expect_lr(&schedule, 0.0, 10.0, 0.0);
    expect_lr(&schedule, 0.5, 10.0, 0.1);
    expect_lr(&schedule, 2.0, 10.0, 0.4);
    schedule.kind = ESP_SCHEDULE_COSINE;
    expect_lr(&schedule, 1.0, 10.0, 0.2);
    expect_lr(&schedule, 2.0, 10.0, 0.4);
    expect_lr(&schedule, 6.0, 10.0, 0.2);
}

static void kinds_have_words_and_unknown_words_name_the_nearest(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_schedule_kind kind = ESP_SCHEDULE_CONSTANT;
    expect_ok(esp_schedule_parse_kind("cosine", &kind, &err), &err);
    assert_int_equal(kind, ESP_SCHEDULE_COSINE);
    assert_string_equal(esp_schedule_word(ESP_SCHEDULE_STEP), "step");
    esp_status status = esp_schedule_parse_kind("cosin", &kind, &err);
    assert_string_equal(err.hint, "known: constant, step, cosine");
    expect_failure(status, ESP_INVALID, &err, "unknown schedule 'cosin', did you mean 'cosine'?");
    assert_int_equal(kind, ESP_SCHEDULE_COSINE);
}

static void bad_numbers_are_refused(void **state)
{
    (void)state;
    const esp_schedule good = {
        .kind = ESP_SCHEDULE_STEP, .lr = 0.01, .gamma = 0.1, .milestone_count = 2, .milestones = {1.0, 2.0}};
    esp_error err = {0};
    expect_ok(esp_schedule_check(&good, &err), &err);
    esp_schedule bad = good;
    bad.lr = 0.0;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "learning rate 0");
    bad.lr = NAN;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "learning rate");
    bad = good;
    bad.gamma = -1.0;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "gamma -1");
    bad = good;
    bad.milestones[1] = 1.0;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "ascending");
    bad = good;
    bad.milestone_count = ESP_SCHEDULE_MAX_STEPS + 1;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "17 milestones");
    bad = good;
    bad.warmup_epochs = -0.5;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "warm-up");
    bad = good;
    bad.kind = (esp_schedule_kind)17;
    expect_failure(esp_schedule_check(&bad, &err), ESP_INVALID, &err, "kind 17");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(step_falls_at_each_milestone_not_before),
        cmocka_unit_test(step_without_milestones_falls_at_the_thirds),
        cmocka_unit_test(cosine_goes_from_the_rate_over_half_to_zero),
        cmocka_unit_test(warm_up_is_a_line_from_zero),
        cmocka_unit_test(kinds_have_words_and_unknown_words_name_the_nearest),
        cmocka_unit_test(bad_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
