/* Pruning schedules as data, against tables worked out by hand. Runs are in test_gradual_run.c. */
#include "prune/gradual.h"

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "unit/train/train_fixtures.h"

static esp_gradual schedule_of(esp_gradual_kind kind)
{
    return esp_gradual_defaults(kind);
}

static void expect_ratios(const esp_gradual *schedule, double target, int count, const double *expected)
{
    for (int i = 0; i < count; i++) {
        double found = esp_gradual_ratio(schedule, target, i + 1);
        if (!(fabs(found - expected[i]) < 1e-12))
            fail_msg("step %d: %.15g, expected %.15g", i + 1, found, expected[i]);
    }
}

static void equal_steps_rise_to_the_target_and_stop_there(void **state)
{
    const double to_six[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6};
    const double by_quarters[] = {0.25, 0.5, 0.7};
    esp_gradual schedule = schedule_of(ESP_GRADUAL_LG);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.8);
    (void)state;

    plan.fc_ratio = 0.6; /* Conv-80/FC-60 */
    assert_int_equal(esp_gradual_steps(&schedule, &plan), 8);
    expect_ratios(&schedule, 0.6, 8, to_six);
    assert_true(esp_gradual_ratio(&schedule, 0.6, 6) == 0.6); /* not 0.6000000000000001 */
    plan.conv_ratio = plan.fc_ratio = 0.7;
    schedule.step = 0.25;
    assert_int_equal(esp_gradual_steps(&schedule, &plan), 3);
    expect_ratios(&schedule, 0.7, 3, by_quarters);
    plan.conv_ratio = plan.fc_ratio = 0;
    assert_int_equal(esp_gradual_steps(&schedule, &plan), 1);
}

static void one_shot_is_one_step(void **state)
{
    const double all[] = {0.7};
    esp_gradual schedule = schedule_of(ESP_GRADUAL_ONE_SHOT);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.7);
    (void)state;

    assert_int_equal(esp_gradual_steps(&schedule, &plan), 1);
    expect_ratios(&schedule, 0.7, 1, all);
}

static void agp_follows_the_published_cubic(void **state)
{
    /* s_f + (s_i - s_f)(1 - i/4)^3, s_f = 0.8: from 0 after 1..4 of 4; from 0.32 at 0..4 */
    const double from_zero[] = {0.8 - 0.8 * 27 / 64, 0.8 - 0.8 / 8, 0.8 - 0.8 / 64, 0.8};
    const double from_some[] = {0.32, 0.8 - 0.48 * 27 / 64, 0.8 - 0.48 / 8, 0.8 - 0.48 / 64, 0.8};
    esp_gradual schedule = schedule_of(ESP_GRADUAL_AGP);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.8);
    (void)state;

    schedule.steps = 4;
    assert_int_equal(esp_gradual_steps(&schedule, &plan), 4);
    expect_ratios(&schedule, 0.8, 4, from_zero);
    schedule.initial = 0.32;
    assert_int_equal(esp_gradual_steps(&schedule, &plan), 5);
    expect_ratios(&schedule, 0.8, 5, from_some);
    assert_true(esp_gradual_ratio(&schedule, 0.2, 1) == 0.2); /* never above the target */
}

static void linear_rises_in_a_line(void **state)
{
    const double line[] = {0.12, 0.24, 0.36, 0.48, 0.6};
    esp_gradual schedule = schedule_of(ESP_GRADUAL_LINEAR);
    (void)state;

    schedule.steps = 5;
    expect_ratios(&schedule, 0.6, 5, line);
    assert_true(esp_gradual_ratio(&schedule, 0.6, 5) == 0.6);
}

static void plan_of_a_step_has_every_ratio_at_that_step(void **state)
{
    esp_gradual schedule = schedule_of(ESP_GRADUAL_G);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5), at = {0};
    esp_error err = {0};
    (void)state;

    plan.fc_ratio = 0.15;
    expect_ok(esp_plan_add_rule(&plan, "a", 0.7, 8, false, &err), &err);
    expect_ok(esp_plan_add_rule(&plan, "b", -1, 4, false, &err), &err);
    expect_ok(esp_plan_add_rule(&plan, "c", 0.9, 0, true, &err), &err); /* ignored: asks for no steps */
    assert_int_equal(esp_gradual_steps(&schedule, &plan), 7);
    expect_ok(esp_gradual_plan(&schedule, &plan, 2, &at, &err), &err);
    assert_true(at.conv_ratio == 0.2 && at.fc_ratio == 0.15);
    assert_true(at.rules[0].ratio == 0.2 && at.rules[0].groups == 8);
    assert_true(at.rules[1].ratio < 0 && at.rules[1].groups == 4);
    assert_true(plan.conv_ratio == 0.5 && plan.rules[0].ratio == 0.7);
    esp_plan_free(&at);
    esp_plan_free(&plan);
}

static bool same(const esp_gradual *a, const esp_gradual *b)
{
    return a->kind == b->kind && a->step == b->step && a->steps == b->steps && a->initial == b->initial &&
           a->local_epochs == b->local_epochs && a->local_lr == b->local_lr && a->epochs == b->epochs &&
           a->group_lasso == b->group_lasso;
}

static void schedules_survive_json_of_every_kind(void **state)
{
    static const esp_gradual_kind kinds[] = {ESP_GRADUAL_ONE_SHOT, ESP_GRADUAL_LG,     ESP_GRADUAL_G,
                                             ESP_GRADUAL_L,        ESP_GRADUAL_LINEAR, ESP_GRADUAL_AGP};
    (void)state;

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        esp_gradual schedule = schedule_of(kinds[i]), again;
        json_t *json = NULL;
        esp_error err = {0};
        bool is_risen = kinds[i] == ESP_GRADUAL_LINEAR || kinds[i] == ESP_GRADUAL_AGP;
        schedule.epochs = 12;
        schedule.group_lasso = 0.001;
        if (is_risen) {
            schedule.steps = 7;
            schedule.initial = 0.2;
            schedule.local_epochs = 0.5;
        } else if (kinds[i] != ESP_GRADUAL_ONE_SHOT) {
            schedule.step = 0.05;
        }
        if (kinds[i] == ESP_GRADUAL_LG || kinds[i] == ESP_GRADUAL_L)
            schedule.local_lr = 0.002;
        expect_ok(esp_gradual_to_json(&schedule, &json, &err), &err);
        expect_ok(esp_gradual_from_json(json, &again, &err), &err);
        assert_true(same(&schedule, &again));
        json_decref(json);
    }
}

static esp_status read_text(const char *text, esp_gradual *out, esp_error *err)
{
    json_t *json = NULL;
    esp_status status = esp_json_parse(text, "test", &json, err);

    if (status == ESP_OK)
        status = esp_gradual_from_json(json, out, err);
    json_decref(json);
    return status;
}

static void what_is_missing_in_json_has_its_default(void **state)
{
    esp_gradual schedule, expected = schedule_of(ESP_GRADUAL_LG);
    esp_error err = {0};
    (void)state;

    expect_ok(read_text("{\"schedule\": \"lg\"}", &schedule, &err), &err);
    assert_true(same(&schedule, &expected));
    assert_true(schedule.step == 0.1 && schedule.epochs == 90);
}

static void bad_schedules_are_refused_with_what_is_wrong(void **state)
{
    static const char *const cases[][2] = {
        {"[]", "not a JSON object"},
        {"{\"step\": 0.1}", "'schedule' is missing"},
        {"{\"schedule\": \"lgg\"}", "lgg"},
        {"{\"schedule\": \"lg\", \"stepp\": 0.1}", "did you mean 'step'"},
        {"{\"schedule\": \"lg\", \"version\": 2}", "version"},
        {"{\"schedule\": \"lg\", \"step\": 0}", "step is 0"},
        {"{\"schedule\": \"lg\", \"step\": -0.1}", "step is -0.1"},
        {"{\"schedule\": \"lg\", \"step\": \"x\"}", "'step' is not a number"},
        {"{\"schedule\": \"agp\", \"steps\": 0}", "steps is 0"},
        {"{\"schedule\": \"agp\", \"steps\": 2.5}", "steps is 2.5"},
        {"{\"schedule\": \"agp\", \"initial\": 1}", "initial is 1"},
        {"{\"schedule\": \"l\", \"local_epochs\": -1}", "local_epochs is -1"},
        {"{\"schedule\": \"g\", \"epochs\": -3}", "epochs is -3"},
        {"{\"schedule\": \"g\", \"group_lasso\": -1}", "group_lasso is -1"},
        {"{\"schedule\": \"lg\", \"local_lr\": -1}", "local_lr is -1"},
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_gradual schedule;
        esp_error err = {0};
        esp_status status = read_text(cases[i][0], &schedule, &err);
        char whole[1024];
        snprintf(whole, sizeof whole, "%s %s", err.message, err.hint);
        if (status != ESP_INVALID || !strstr(whole, cases[i][1]))
            fail_msg("%s: '%s', expected '%s' in it", cases[i][0], whole, cases[i][1]);
    }
}

static void schedules_open_by_word_and_by_file(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "slow.json"), *text = "{\"schedule\": \"agp\", \"steps\": 3}";
    esp_gradual schedule;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_gradual_open("linear", &schedule, &err), &err);
    assert_int_equal(schedule.kind, ESP_GRADUAL_LINEAR);
    scratch_write(path, text, strlen(text));
    expect_ok(esp_gradual_open(path, &schedule, &err), &err);
    assert_true(schedule.kind == ESP_GRADUAL_AGP && schedule.steps == 3);
    expect_failure(esp_gradual_open("agq", &schedule, &err), ESP_INVALID, &err, "agq");
    expect_failure(esp_gradual_open(scratch_path(directory, "none.json"), &schedule, &err), ESP_IO, &err,
                   "none.json");
    scratch_remove(directory);
}

static void presets_are_what_was_published(void **state)
{
    esp_train_options training = esp_train_defaults();
    esp_gradual schedule;
    esp_plan plan;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_gradual_preset("sg-cnn", 0.8, &schedule, &plan, &training, &err), &err);
    assert_true(plan.method == ESP_METHOD_SG && plan.mode == ESP_MODE_FAITHFUL && plan.groups == 16);
    assert_true(plan.conv_ratio == 0.8 && plan.fc_ratio == 0.6);
    assert_true(schedule.kind == ESP_GRADUAL_LG && schedule.step == 0.1 && schedule.epochs == 90);
    assert_true(training.batch == 128 && training.momentum == 0.9 && training.weight_decay == 1e-4);
    /* 0.01, divided by 10 at epochs 30 and 60 of 90 */
    assert_true(esp_schedule_lr(&training.schedule, 29.9, 90) == 0.01);
    assert_true(fabs(esp_schedule_lr(&training.schedule, 30.1, 90) - 0.001) < 1e-15);
    assert_true(fabs(esp_schedule_lr(&training.schedule, 60.1, 90) - 0.0001) < 1e-15);

    expect_ok(esp_gradual_preset("sg-cnn", 0.5, &schedule, &plan, NULL, &err), &err);
    assert_true(plan.fc_ratio == 0.5);
    expect_ok(esp_gradual_preset("wsp", 0.4, &schedule, &plan, &training, &err), &err);
    assert_true(plan.method == ESP_METHOD_WSP && plan.mode == ESP_MODE_FAITHFUL && plan.fc_ratio == 0.4);
    assert_true(schedule.kind == ESP_GRADUAL_ONE_SHOT && training.batch == 256);
    expect_ok(esp_gradual_preset("cub", 0, &schedule, &plan, &training, &err), &err);
    assert_true(training.batch == 32 && training.weight_decay == 5e-4 && training.schedule.lr == 0.001);
    expect_failure(esp_gradual_preset("sgcnn", 0.5, &schedule, &plan, NULL, &err), ESP_INVALID, &err,
                   "sg-cnn");
    expect_failure(esp_gradual_preset("wsp", 1, &schedule, &plan, NULL, &err), ESP_INVALID, &err,
                   "ratio is 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_steps_rise_to_the_target_and_stop_there),
        cmocka_unit_test(one_shot_is_one_step),
        cmocka_unit_test(agp_follows_the_published_cubic),
        cmocka_unit_test(linear_rises_in_a_line),
        cmocka_unit_test(plan_of_a_step_has_every_ratio_at_that_step),
        cmocka_unit_test(schedules_survive_json_of_every_kind),
        cmocka_unit_test(what_is_missing_in_json_has_its_default),
        cmocka_unit_test(bad_schedules_are_refused_with_what_is_wrong),
        cmocka_unit_test(schedules_open_by_word_and_by_file),
        cmocka_unit_test(presets_are_what_was_published),
    };
    return cmocka_run_group_tests_name("pruning schedules", tests, NULL, NULL);
}
