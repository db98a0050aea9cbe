/* Plans: rules, ranges, JSON both ways. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "prune/plan.h"
#include "unit/base/scratch.h"

static esp_plan parse(const char *text)
{
    esp_plan plan;
    json_t *json;
    esp_error err = {0};

    assert_int_equal(esp_json_parse(text, "test", &json, &err), ESP_OK);
    if (esp_plan_from_json(json, &plan, &err) != ESP_OK)
        fail_msg("%s", err.message);
    json_decref(json);
    return plan;
}

static void check_refused(const char *text, const char *part)
{
    esp_plan plan;
    json_t *json;
    esp_error err = {0};

    assert_int_equal(esp_json_parse(text, "test", &json, &err), ESP_OK);
    assert_int_equal(esp_plan_from_json(json, &plan, &err), ESP_INVALID);
    if (!strstr(err.message, part))
        fail_msg("'%s' does not say '%s'", err.message, part);
    assert_null(plan.rules);
    json_decref(json);
}

static char *dump(const esp_plan *plan)
{
    json_t *json;
    esp_error err = {0};

    assert_int_equal(esp_plan_to_json(plan, &json, &err), ESP_OK);
    char *text = esp_json_dump(json, 1);
    json_decref(json);
    return text;
}

static void add(esp_plan *plan, const char *pattern, double ratio, int groups, bool is_ignored)
{
    esp_error err = {0};

    assert_int_equal(esp_plan_add_rule(plan, pattern, ratio, groups, is_ignored, &err), ESP_OK);
}

static void plan_starts_with_the_published_constants(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.4);
    (void)state;

    assert_int_equal(plan.groups, 16);
    assert_int_equal(plan.restarts, 10);
    assert_int_equal(plan.max_iterations, 300);
    assert_int_equal(plan.init, ESP_KMEANS_RANDOM);
    assert_true(plan.conv_ratio == 0.4 && plan.fc_ratio == 0.4 && plan.border_ratio == 0.4);
}

static void plan_json_is_stable_and_reads_back(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
    (void)state;

    plan.fc_ratio = 0.25;
    plan.seed = 7;
    add(&plan, "layer3.*", 0.3, 8, false);
    add(&plan, "conv1", -1, 0, true);
    char *text = dump(&plan);
    assert_string_equal(
        text,
        "{\"groups\":16,\"init\":\"random\",\"max_iterations\":300,\"method\":\"sg\",\"mode\":\"faithful\","
        "\"ratio\":{\"border\":0.5,\"conv\":0.5,\"fc\":0.25},\"restarts\":10,"
        "\"rules\":[{\"groups\":8,\"layer\":\"layer3.*\",\"ratio\":0.3},"
        "{\"ignore\":true,\"layer\":\"conv1\"}],\"seed\":7,\"version\":1}");
    esp_plan again = parse(text);
    char *second = dump(&again);
    assert_string_equal(text, second);
    esp_free(text);
    esp_free(second);
    esp_plan_free(&plan);
    esp_plan_free(&again);
}

static void plan_file_reads_back(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "plan.json");
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.2), again;
    esp_error err = {0};
    (void)state;

    add(&plan, "fc?", 0.1, 0, false);
    assert_int_equal(esp_plan_save(&plan, path, &err), ESP_OK);
    assert_int_equal(esp_plan_load(path, &again, &err), ESP_OK);
    assert_int_equal(again.method, ESP_METHOD_WSP);
    assert_int_equal(again.mode, ESP_MODE_SOUND);
    assert_int_equal(again.rule_count, 1);
    assert_string_equal(again.rules[0].pattern, "fc?");
    assert_true(again.rules[0].ratio == 0.1);
    scratch_write(path, "{\"version\":1}", 13);
    esp_plan_free(&plan);
    esp_plan_free(&again);
    assert_int_equal(esp_plan_load(path, &again, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "plan.json"));
    scratch_remove(directory);
}

static void plan_json_fills_in_what_is_left_out(void **state)
{
    esp_plan plan = parse("{\"version\":1,\"method\":\"wsp\",\"ratio\":0.3}");
    (void)state;

    assert_true(plan.conv_ratio == 0.3 && plan.fc_ratio == 0.3 && plan.border_ratio == 0.3);
    assert_int_equal(plan.mode, ESP_MODE_SOUND);
    assert_int_equal(plan.groups, 16);
}

static void plan_json_errors_name_what_is_wrong(void **state)
{
    (void)state;
    check_refused("[]", "object");
    check_refused("{\"method\":\"sg\"}", "version");
    check_refused("{\"version\":2,\"method\":\"sg\"}", "version");
    check_refused("{\"version\":1}", "method");
    check_refused("{\"version\":1,\"method\":\"sgg\"}", "did you mean 'sg'");
    check_refused("{\"version\":1,\"method\":\"sg\",\"gruops\":4}", "did you mean 'groups'");
    check_refused("{\"version\":1,\"method\":\"sg\",\"groups\":0}", "groups");
    check_refused("{\"version\":1,\"method\":\"sg\",\"groups\":1.5}", "groups");
    check_refused("{\"version\":1,\"method\":\"sg\",\"ratio\":1}", "[0, 1)");
    check_refused("{\"version\":1,\"method\":\"sg\",\"ratio\":{\"convv\":0.1}}", "did you mean 'conv'");
    check_refused("{\"version\":1,\"method\":\"sg\",\"ratio\":\"x\"}", "ratio");
    check_refused("{\"version\":1,\"method\":\"sg\",\"mode\":\"fatihful\"}", "did you mean 'faithful'");
    check_refused("{\"version\":1,\"method\":\"sg\",\"rules\":[{\"ratio\":0.1}]}", "layer");
    check_refused("{\"version\":1,\"method\":\"sg\",\"rules\":[{\"layer\":\"a\",\"ratio\":-0.1}]}", "[0, 1)");
    check_refused("{\"version\":1,\"method\":\"sg\",\"rules\":[{\"layer\":\"a\",\"ratoi\":0.1}]}",
                  "did you mean 'ratio'");
    check_refused("{\"version\":1,\"method\":\"sg\",\"rules\":[{\"layer\":\"a\"},3]}", "object");
}

static void plan_check_refuses_numbers_out_of_range(void **state)
{
    esp_error err = {0};
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 1);
    (void)state;

    assert_int_equal(esp_plan_check(&plan, &err), ESP_INVALID);
    plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, NAN);
    assert_int_equal(esp_plan_check(&plan, &err), ESP_INVALID);
    plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.1);
    assert_int_equal(esp_plan_check(&plan, &err), ESP_OK);
    plan.groups = 0;
    assert_int_equal(esp_plan_check(&plan, &err), ESP_INVALID);
    assert_non_null(strstr(err.message, "groups is 0"));
    assert_int_equal(esp_plan_add_rule(&plan, "x", 1.5, 0, false, &err), ESP_INVALID);
    assert_int_equal(esp_plan_add_rule(&plan, "", 0.5, 0, false, &err), ESP_INVALID);
    assert_int_equal(plan.rule_count, 0);
}

static void plan_later_rules_win(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    esp_layer_settings settings;
    (void)state;

    add(&plan, "*", -1, 0, true);
    add(&plan, "layer3.*", 0.3, 0, false);
    add(&plan, "*conv2", -1, 4, false);
    settings = esp_plan_resolve(&plan, "layer3.0.conv2", "w", 0.5);
    assert_true(settings.ratio == 0.3 && settings.has_ratio && settings.groups == 4 && !settings.is_ignored);
    settings = esp_plan_resolve(&plan, "layer1.0.conv1", "w", 0.5);
    assert_true(settings.ratio == 0.5 && !settings.has_ratio && settings.groups == 16 && settings.is_ignored);
    settings = esp_plan_resolve(&plan, "/node_7", "layer3.0.conv1.weight", 0.5);
    assert_true(settings.ratio == 0.3);
    esp_plan_free(&plan);
}

static void plan_merges_rules_of_one_layer(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    (void)state;

    add(&plan, "conv1", 0.3, 0, false);
    add(&plan, "con*", 0.9, 0, false);
    add(&plan, "conv1", -1, 8, true);
    assert_int_equal(plan.rule_count, 2);
    esp_layer_settings settings = esp_plan_resolve(&plan, "conv1", "w", 0.5);
    assert_true(settings.ratio == 0.3 && settings.groups == 8 && settings.is_ignored);
    add(&plan, "con*", 0.1, 0, false);
    assert_int_equal(plan.rule_count, 3);
    esp_plan_free(&plan);
}

static void plan_clone_is_its_own(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5), copy;
    esp_error err = {0};
    (void)state;

    add(&plan, "conv1", 0.3, 0, false);
    assert_int_equal(esp_plan_clone(&plan, &copy, &err), ESP_OK);
    esp_plan_free(&plan);
    assert_string_equal(copy.rules[0].pattern, "conv1");
    assert_true(copy.conv_ratio == 0.5);
    esp_plan_free(&copy);
}

/* ---- what came after the first plans ---- */

static void filter_plans_write_what_is_theirs_and_read_back(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    (void)state;

    char *text = dump(&plan);
    assert_string_equal(text,
                        "{\"criterion\":\"l1\",\"floor\":0.1,\"method\":\"filter\","
                        "\"ratio\":{\"border\":0.5,\"conv\":0.5,\"fc\":0.5},\"round_to\":1,\"rules\":[],"
                        "\"scope\":\"layer\",\"seed\":0,\"version\":1}");
    esp_free(text);
    plan.scope = ESP_SCOPE_GLOBAL;
    plan.floor = 0.25;
    plan.round_to = 16;
    plan.seed = 3;
    snprintf(plan.criterion, sizeof plan.criterion, "fpgm");
    text = dump(&plan);
    esp_plan again = parse(text);
    assert_int_equal(again.method, ESP_METHOD_FILTER);
    assert_int_equal(again.scope, ESP_SCOPE_GLOBAL);
    assert_true(again.floor == 0.25 && again.round_to == 16 && again.seed == 3);
    assert_string_equal(again.criterion, "fpgm");
    esp_free(text);
}

/* Files of before have the meaning they had: the bytes of a plan without new fields have not changed. */
static void wsp_and_sg_plans_write_new_fields_only_when_they_say_something(void **state)
{
    esp_plan wsp = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
    esp_plan sg = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    (void)state;

    for (int i = 0; i < 2; i++) {
        char *first = dump(&wsp), *second = dump(&sg);
        assert_int_equal(strstr(first, "\"scope\":\"global\"") != NULL, i);
        assert_int_equal(strstr(first, "\"floor\":0.2") != NULL, i);
        assert_int_equal(strstr(first, "\"round_to\":8") != NULL, i);
        assert_int_equal(strstr(second, "\"cascade\":false") != NULL, i);
        assert_null(strstr(first, "criterion"));
        assert_null(strstr(second, "scope"));
        assert_null(strstr(second, "floor"));
        esp_plan again = parse(second);
        assert_int_equal(again.cascades, !i);
        esp_free(first);
        esp_free(second);
        wsp.scope = ESP_SCOPE_GLOBAL;
        wsp.floor = 0.2;
        wsp.round_to = 8;
        sg.cascades = false;
    }
}

static void old_plans_read_with_the_defaults_of_new_fields(void **state)
{
    esp_plan plan =
        parse("{\"version\":1,\"method\":\"wsp\",\"mode\":\"sound\",\"ratio\":0.4,\"groups\":16,"
              "\"init\":\"random\",\"restarts\":10,\"max_iterations\":300,\"seed\":0,\"rules\":[]}");
    (void)state;

    assert_int_equal(plan.scope, ESP_SCOPE_LAYER);
    assert_true(plan.floor == 0.1 && plan.round_to == 1 && plan.cascades);
    assert_string_equal(plan.criterion, "l1");
}

static void new_fields_are_refused_with_what_was_expected(void **state)
{
    (void)state;
    check_refused("{\"version\":1,\"method\":\"filter\",\"criterion\":\"taylr\"}", "did you mean 'taylor'");
    check_refused("{\"version\":1,\"method\":\"filter\",\"criterion\":7}", "not a string");
    check_refused("{\"version\":1,\"method\":\"filter\",\"scope\":\"globl\"}", "did you mean 'global'");
    check_refused("{\"version\":1,\"method\":\"filter\",\"floor\":1.5}", "expected a number in [0, 1]");
    check_refused("{\"version\":1,\"method\":\"filter\",\"round_to\":0}", "round_to");
    check_refused("{\"version\":1,\"method\":\"sg\",\"cascade\":1}", "neither true nor false");
    check_refused("{\"version\":1,\"method\":\"wsp\",\"mode\":\"faithful\",\"scope\":\"global\"}",
                  "reproduces as published");
    check_refused("{\"version\":1,\"method\":\"wsp\",\"mode\":\"faithful\",\"round_to\":8}", "round_to 8");
    check_refused("{\"version\":1,\"method\":\"sg\",\"round_to\":8}", "whole filters");
    check_refused("{\"version\":1,\"method\":\"filter\",\"critrion\":\"l1\"}", "criterion");
}

static void another_method_forgets_what_it_has_no_use_for(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_error err = {0};
    (void)state;

    plan.scope = ESP_SCOPE_GLOBAL;
    plan.round_to = 8;
    esp_plan_set_method(&plan, ESP_METHOD_WSP, ESP_MODE_SOUND);
    assert_true(plan.scope == ESP_SCOPE_GLOBAL && plan.round_to == 8);
    esp_plan_set_method(&plan, ESP_METHOD_SG, ESP_MODE_SOUND);
    assert_true(plan.scope == ESP_SCOPE_LAYER && plan.round_to == 1);
    assert_int_equal(esp_plan_check(&plan, &err), ESP_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_starts_with_the_published_constants),
        cmocka_unit_test(plan_json_is_stable_and_reads_back),
        cmocka_unit_test(plan_file_reads_back),
        cmocka_unit_test(plan_json_fills_in_what_is_left_out),
        cmocka_unit_test(plan_json_errors_name_what_is_wrong),
        cmocka_unit_test(plan_check_refuses_numbers_out_of_range),
        cmocka_unit_test(plan_later_rules_win),
        cmocka_unit_test(plan_merges_rules_of_one_layer),
        cmocka_unit_test(plan_clone_is_its_own),
        cmocka_unit_test(filter_plans_write_what_is_theirs_and_read_back),
        cmocka_unit_test(wsp_and_sg_plans_write_new_fields_only_when_they_say_something),
        cmocka_unit_test(old_plans_read_with_the_defaults_of_new_fields),
        cmocka_unit_test(new_fields_are_refused_with_what_was_expected),
        cmocka_unit_test(another_method_forgets_what_it_has_no_use_for),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
