/* Option tables: every form of writing an option, every way to get one wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/options.h"

typedef struct parsed {
    bool is_json;
    const char *data;
    int64_t limit;
    double ratio;
    esp_option_list ignored;
    char *items[16];
    esp_positionals positionals;
    bool wants_help;
    esp_error err;
} parsed;

static esp_status parse(parsed *it, int argc, const char *const *argv, bool takes_rest)
{
    const esp_option options[] = {
        {"json", 0, ESP_OPTION_FLAG, &it->is_json, NULL, "", 0, 0, false},
        {"data", 'd', ESP_OPTION_TEXT, &it->data, "SPEC", "", 0, 0, false},
        {"limit", 'n', ESP_OPTION_INT, &it->limit, "N", "", 1, 100, false},
        {"ratio", 'r', ESP_OPTION_REAL, &it->ratio, "R", "", 0, 1, true},
        {"ignore", 0, ESP_OPTION_LIST, &it->ignored, "NAME", "", 0, 0, false},
        {0},
    };
    const esp_command_syntax syntax = {"test", "", "MODEL", "", 1, takes_rest ? -1 : 1, options, takes_rest};
    *it = (parsed){.ratio = -1};
    it->positionals.items = it->items;
    return esp_options_parse(&syntax, argc, (char **)argv, &it->positionals, &it->wants_help, &it->err);
}

#define PARSE(it, ...)                                                                                       \
    parse(it, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__},  \
          false)

static void options_may_stand_anywhere_in_every_form(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "--data", "a", "model.onnx", "-n", "7", "--ratio=0.25", "--json"), ESP_OK);
    assert_string_equal(it.data, "a");
    assert_int_equal(it.limit, 7);
    assert_true(it.ratio == 0.25);
    assert_true(it.is_json);
    assert_int_equal(it.positionals.count, 1);
    assert_string_equal(it.positionals.items[0], "model.onnx");
}

static void a_list_option_collects_its_values_in_order(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "m", "--ignore", "a", "--ignore=b"), ESP_OK);
    assert_int_equal(it.ignored.count, 2);
    assert_string_equal(it.ignored.items[1], "b");
}

static void an_unknown_option_names_the_nearest(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "m", "--ration", "0.5"), ESP_INVALID);
    assert_non_null(strstr(it.err.message, "--ration"));
    assert_non_null(strstr(it.err.hint, "--ratio"));
}

static void a_ratio_outside_its_range_says_what_was_found_and_expected(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "m", "--ratio", "1"), ESP_INVALID);
    assert_non_null(strstr(it.err.message, "'1'"));
    assert_non_null(strstr(it.err.message, "[0, 1)"));
    assert_int_equal(PARSE(&it, "m", "--ratio", "-0.1"), ESP_INVALID);
    assert_int_equal(PARSE(&it, "m", "--ratio", "nan"), ESP_INVALID);
    assert_int_equal(PARSE(&it, "m", "--ratio", "0.5x"), ESP_INVALID);
    assert_int_equal(PARSE(&it, "m", "--ratio", "0"), ESP_OK);
}

static void whole_numbers_are_checked(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "m", "-n", "0"), ESP_INVALID);
    assert_int_equal(PARSE(&it, "m", "-n", "1.5"), ESP_INVALID);
    assert_int_equal(PARSE(&it, "m", "-n", "101"), ESP_INVALID);
    assert_int_equal(PARSE(&it, "m", "-n100"), ESP_OK);
}

static void a_missing_value_or_argument_is_told(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "m", "--data"), ESP_INVALID);
    assert_non_null(strstr(it.err.message, "expected SPEC"));
    assert_int_equal(PARSE(&it, "--json"), ESP_INVALID);
    assert_non_null(strstr(it.err.message, "MODEL"));
    assert_int_equal(PARSE(&it, "a", "b"), ESP_INVALID);
    assert_non_null(strstr(it.err.message, "'b'"));
    assert_int_equal(PARSE(&it, "m", "--json=yes"), ESP_INVALID);
}

static void help_wins_over_missing_arguments(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "--help"), ESP_OK);
    assert_true(it.wants_help);
}

static void what_follows_a_script_is_the_scripts_own(void **state)
{
    (void)state;
    parsed it;
    const char *argv[] = {"--json", "script.lua", "--ratio", "7", "-x"};
    assert_int_equal(parse(&it, 5, argv, true), ESP_OK);
    assert_true(it.is_json);
    assert_int_equal(it.positionals.count, 4);
    assert_string_equal(it.positionals.items[3], "-x");
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    parsed it;
    assert_int_equal(PARSE(&it, "--", "--json"), ESP_OK);
    assert_false(it.is_json);
    assert_string_equal(it.positionals.items[0], "--json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_may_stand_anywhere_in_every_form),
        cmocka_unit_test(a_list_option_collects_its_values_in_order),
        cmocka_unit_test(an_unknown_option_names_the_nearest),
        cmocka_unit_test(a_ratio_outside_its_range_says_what_was_found_and_expected),
        cmocka_unit_test(whole_numbers_are_checked),
        cmocka_unit_test(a_missing_value_or_argument_is_told),
        cmocka_unit_test(help_wins_over_missing_arguments),
        cmocka_unit_test(what_follows_a_script_is_the_scripts_own),
        cmocka_unit_test(two_dashes_end_the_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
