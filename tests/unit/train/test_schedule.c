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
    assert_string_equal(err.hint,
                        "known: cosine, constant, step, multistep, exponential, onecycle, plateau, sequence");
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

/* ---- sequences ---- */

static void parts_follow_one_another_each_over_its_own_epochs(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_schedule parts[3] = {esp_schedule_make(ESP_SCHEDULE_CONSTANT, 0.5),
                             esp_schedule_make(ESP_SCHEDULE_EXPONENTIAL, 0.4),
                             esp_schedule_make(ESP_SCHEDULE_COSINE, 0.2)};
    parts[0].span = 2.0;
    parts[1].span = 3.0;
    parts[1].gamma = 0.5;
    esp_schedule schedule = esp_schedule_make(ESP_SCHEDULE_SEQUENCE, 0.01);
    schedule.parts = parts;
    schedule.part_count = 3;
    expect_ok(esp_schedule_check(&schedule, &err), &err);
    assert_float_equal(esp_schedule_lr(&schedule, 1.99, 9.0), 0.5, 1e-12);
    assert_float_equal(esp_schedule_lr(&schedule, 2.0, 9.0), 0.4, 1e-12);
    assert_float_equal(esp_schedule_lr(&schedule, 4.5, 9.0), 0.1, 1e-12);
    assert_float_equal(esp_schedule_lr(&schedule, 5.0, 9.0), 0.2, 1e-12);
    assert_float_equal(esp_schedule_lr(&schedule, 7.0, 9.0), 0.1, 1e-12); /* half of the four that are left */
    parts[1].span = 0.0;
    expect_failure(esp_schedule_check(&schedule, &err), ESP_INVALID, &err, "part 2 of 3");
}

static void plateau_of_a_sequence_counts_in_its_own_part_only(void **state)
{
    (void)state;
    esp_schedule parts[2] = {esp_schedule_make(ESP_SCHEDULE_PLATEAU, 0.8),
                             esp_schedule_make(ESP_SCHEDULE_PLATEAU, 0.8)};
    parts[0].span = 3.0;
    parts[0].patience = parts[1].patience = 0;
    esp_schedule schedule = esp_schedule_make(ESP_SCHEDULE_SEQUENCE, 0.01);
    schedule.parts = parts;
    schedule.part_count = 2;
    esp_plateau plateau = esp_plateau_start();
    for (int epoch = 1; epoch <= 3; epoch++) {
        esp_schedule_measured(&schedule, &plateau, epoch, 6.0, 1.0);
    }
    assert_float_equal(esp_schedule_lr_after(&schedule, &plateau, 2.9, 6.0), 0.008, 1e-12);
    assert_float_equal(esp_schedule_lr_after(&schedule, &plateau, 3.0, 6.0), 0.8, 1e-12);
    esp_schedule_measured(&schedule, &plateau, 4.0, 6.0, 2.0);
    assert_float_equal(esp_schedule_lr_after(&schedule, &plateau, 4.0, 6.0), 0.8, 1e-12);
    esp_schedule_measured(&schedule, &plateau, 5.0, 6.0, 2.0);
    assert_float_equal(esp_schedule_lr_after(&schedule, &plateau, 5.0, 6.0), 0.08, 1e-12);
}

/* ---- JSON ---- */

static esp_status from_text(const char *text, esp_schedule *out, esp_error *err)
{
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    esp_status status = esp_schedule_from_json(json, 0.25, out, err);
    json_decref(json);
    return status;
}

static void json_makes_the_schedule_and_the_schedule_the_json(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"kind\":\"constant\",\"lr\":0.5}",
        "{\"kind\":\"step\",\"lr\":0.5,\"gamma\":0.5,\"every\":0.0,\"milestones\":[1.5,2.5]}",
        "{\"kind\":\"cosine\",\"lr\":0.5,\"min_lr\":0.125,\"warmup\":2.0}",
        "{\"kind\":\"plateau\",\"lr\":0.5,\"gamma\":0.5,\"min_lr\":0.0,\"patience\":3,\"threshold\":0.0,"
        "\"cooldown\":2}",
        "{\"kind\":\"onecycle\",\"lr\":0.5,\"rise\":0.25,\"start_divisor\":10.0,\"end_divisor\":100.0}",
        "{\"kind\":\"sequence\",\"lr\":0.5,\"parts\":[{\"kind\":\"constant\",\"lr\":0.5,\"epochs\":2.0},"
        "{\"kind\":\"sequence\",\"lr\":0.5,\"parts\":[{\"kind\":\"cosine\",\"lr\":0.25,\"min_lr\":0.0}]}]}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        esp_error err = {0};
        esp_schedule schedule, copy;
        expect_ok(from_text(texts[i], &schedule, &err), &err);
        expect_ok(esp_schedule_copy(&schedule, &copy, &err), &err);
        esp_schedule_free(&schedule);
        json_t *expected = json_loads(texts[i], 0, NULL), *found = esp_schedule_to_json(&copy);
        assert_true(json_equal(expected, found));
        json_decref(expected);
        json_decref(found);
        esp_schedule_free(&copy);
    }
}

static void json_fills_in_what_is_missing(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_schedule schedule;
    expect_ok(from_text("{\"parts\":[{\"kind\":\"exponential\"}]}", &schedule, &err), &err);
    assert_int_equal(schedule.kind, ESP_SCHEDULE_SEQUENCE);
    assert_true(schedule.parts[0].lr == 0.25 && schedule.parts[0].gamma == 0.95);
    esp_schedule_free(&schedule);
    expect_ok(from_text("{\"kind\":\"plateau\"}", &schedule, &err), &err);
    assert_true(schedule.patience == 10 && schedule.threshold == 1e-4 && schedule.gamma == 0.1);
}

static void bad_json_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"[]", "expected an object"},
        {"{}", "'kind' is missing"},
        {"{\"kind\":3}", "'kind' is no text"},
        {"{\"kind\":\"cosin\"}", "did you mean 'cosine'"},
        {"{\"kind\":\"cosine\",\"warmupp\":1}", "did you mean 'warmup'"},
        {"{\"kind\":\"cosine\",\"lr\":\"x\"}", "'lr' is no number"},
        {"{\"kind\":\"cosine\",\"lr\":-1}", "learning rate -1"},
        {"{\"kind\":\"cosine\",\"patience\":1}", "'patience' means nothing to 'cosine'"},
        {"{\"kind\":\"cosine\",\"milestones\":[1]}", "'milestones' means nothing to 'cosine'"},
        {"{\"kind\":\"plateau\",\"patience\":1.5}", "'patience' is no whole number"},
        {"{\"kind\":\"plateau\",\"patience\":-1}", "patience -1"},
        {"{\"kind\":\"multistep\"}", "without milestones"},
        {"{\"kind\":\"step\",\"milestones\":[2,\"x\"]}", "milestone 2 is no number"},
        {"{\"kind\":\"step\",\"milestones\":[2,-1]}", "milestone 2 is -1"},
        {"{\"kind\":\"cosine\",\"min_lr\":3}", "min_lr 3"},
        {"{\"kind\":\"onecycle\",\"rise\":1}", "rise 1"},
        {"{\"kind\":\"sequence\",\"parts\":[]}", "0 parts"},
        {"{\"kind\":\"cosine\",\"parts\":[]}", "'parts' expects a sequence"},
        {"{\"parts\":[{\"kind\":\"cosine\",\"epochs\":1},{\"kind\":\"cosin\"}]}", "part 2 of 2"},
        {"{\"parts\":[{\"parts\":[{\"parts\":[{\"parts\":[{\"parts\":[{\"kind\":\"cosine\"}]}]}]}]}]}",
         "deep"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        esp_error err = {0};
        esp_schedule schedule;
        expect_failure(from_text(cases[i].text, &schedule, &err), ESP_INVALID, &err, cases[i].part);
    }
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
        cmocka_unit_test(parts_follow_one_another_each_over_its_own_epochs),
        cmocka_unit_test(plateau_of_a_sequence_counts_in_its_own_part_only),
        cmocka_unit_test(json_makes_the_schedule_and_the_schedule_the_json),
        cmocka_unit_test(json_fills_in_what_is_missing),
        cmocka_unit_test(bad_json_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
