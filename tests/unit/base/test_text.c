/* Number formats, parsing, "did you mean", wildcards and the growing string. */
#include <locale.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "unit/base/scratch.h"

typedef struct format_case {
    double value;
    const char *expected;
} format_case;

static void check_formats(char *format(char *, size_t, double), const format_case *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char buffer[16];
        assert_ptr_equal(format(buffer, sizeof buffer, cases[i].value), buffer);
        assert_string_equal(buffer, cases[i].expected);
    }
}

static void counts_read_as_people_write_them(void **state)
{
    static const format_case cases[] = {
        {0, "0"},           {950, "950"},         {999, "999"},
        {1000, "1.000k"},   {270900, "270.9k"},   {999949, "999.9k"},
        {999960, "1.000M"}, {25550000, "25.55M"}, {4.089e9, "4.089G"},
        {0.5, "0.5"},       {-270900, "-270.9k"}, {9.9999e6, "10.00M"},
        {NAN, "nan"},       {-INFINITY, "-inf"},  {1.5e19, "15000P"},
    };

    (void)state;
    check_formats(esp_format_count, cases, sizeof cases / sizeof *cases);
}

static void durations_read_as_people_write_them(void **state)
{
    static const format_case cases[] = {
        {0, "0 ms"},       {0.00052, "0.52 ms"}, {0.0141, "14.1 ms"}, {0.9996, "1.00 s"},
        {3.2, "3.20 s"},   {59.9, "59.9 s"},     {59.99, "1m00s"},    {245, "4m05s"},
        {3599.7, "1h00m"}, {7800, "2h10m"},      {360000, "100h00m"}, {INFINITY, "?"},
    };

    (void)state;
    check_formats(esp_format_duration, cases, sizeof cases / sizeof *cases);
}

static void bytes_read_as_people_write_them(void **state)
{
    static const format_case cases[] = {
        {0, "0 B"},
        {512, "512 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {4915.2, "4.8 KiB"},
        {13.3 * 1024 * 1024, "13.3 MiB"},
        {1023.99 * 1024, "1.0 MiB"},
    };

    (void)state;
    check_formats(esp_format_bytes, cases, sizeof cases / sizeof *cases);
}

static void the_nearest_word_is_found_and_far_ones_are_not(void **state)
{
    static const char *const words[] = {"ratio", "rate", "method", "groups", "criterion", "limit"};
    size_t count = sizeof words / sizeof *words;

    (void)state;
    assert_string_equal(esp_nearest_word("ratoi", words, count), "ratio");
    /* Swapped letters are one step, two changed ones are two. */
    assert_string_equal(esp_nearest_word("abdc", (const char *const[]){"abxx", "abcd"}, 2), "abcd");
    assert_string_equal(esp_nearest_word("methd", words, count), "method");
    assert_string_equal(esp_nearest_word("METHOD", words, count), "method");
    assert_string_equal(esp_nearest_word("critereon", words, count), "criterion");
    assert_string_equal(esp_nearest_word("group", words, count), "groups");
    assert_null(esp_nearest_word("xyzzy", words, count));
    assert_null(esp_nearest_word("", words, count));
    assert_null(esp_nearest_word("ab", (const char *const[]){"cd"}, 1));
    assert_null(esp_nearest_word("anything", NULL, 0));
}

static void parsing_takes_whole_numbers_in_range_only(void **state)
{
    static const char *const bad_integers[] = {"",  " 1", "1 ", "1.0", "0x10", "9223372036854775808",
                                               "-", "1e3"};
    static const char *const bad_reals[] = {"",      " 1", "1 ",  "nan", "inf", "0x1p3",
                                            "1e999", ".",  "1,5", "1e",  "--1"};
    int64_t integer = 77;
    double real = 77;

    (void)state;
    for (size_t i = 0; i < sizeof bad_integers / sizeof *bad_integers; i++)
        assert_false(esp_parse_i64(bad_integers[i], &integer));
    for (size_t i = 0; i < sizeof bad_reals / sizeof *bad_reals; i++)
        assert_false(esp_parse_f64(bad_reals[i], &real));
    assert_false(esp_parse_i64(NULL, &integer));
    assert_false(esp_parse_f64(NULL, &real));
    assert_int_equal(integer, 77);
    assert_true(real == 77);
    assert_true(esp_parse_i64("-9223372036854775808", &integer) && integer == INT64_MIN);
    assert_true(esp_parse_i64("+5", &integer) && integer == 5);
    assert_true(esp_parse_f64("-1.5e-3", &real) && real == -1.5e-3);
    assert_true(esp_parse_f64(".5", &real) && real == 0.5);
    assert_true(esp_parse_f64("3", &real) && real == 3);
}

static void wildcards_match_whole_names(void **state)
{
    (void)state;
    assert_true(esp_glob_match("layer1.*.conv?", "layer1.0.conv2"));
    assert_true(esp_glob_match("*", ""));
    assert_true(esp_glob_match("a*b*c", "axxbyybzc"));
    assert_true(esp_glob_match("**x", "x"));
    assert_false(esp_glob_match("layer1", "layer1.0"));
    assert_false(esp_glob_match("?", ""));
    assert_false(esp_glob_match("a*b", "ac"));
    assert_false(esp_glob_match("", "a"));
}

static void text_grows_and_is_taken(void **state)
{
    esp_text text = {0};
    char *taken;

    (void)state;
    for (int i = 0; i < 1000; i++)
        esp_text_printf(&text, "%d,", i % 10);
    esp_text_append(&text, "end");
    esp_text_append_n(&text, "!!!", 1);
    assert_int_equal(text.length, 2004);
    assert_int_equal(strlen(text.data), 2004);
    taken = esp_text_take(&text);
    assert_memory_equal(taken, "0,1,2,3,", 8);
    assert_string_equal(taken + 2000, "end!");
    assert_null(text.data);
    esp_free(taken);
    taken = esp_text_take(&text);
    assert_string_equal(taken, "");
    esp_free(taken);
}

static void text_that_ran_out_of_memory_stays_broken(void **state)
{
    size_t before = esp_memory_live();
    esp_text text = {0};

    (void)state;
    esp_text_append(&text, "start");
    esp_memory_fuse(1);
    for (int i = 0; i < 100; i++)
        esp_text_append(&text, "more and more ");
    assert_true(esp_memory_fuse_burnt());
    esp_memory_fuse(0);
    assert_true(text.is_broken);
    assert_null(esp_text_take(&text));
    assert_int_equal(esp_memory_live(), before);
}

typedef struct kept_line {
    esp_log_level level;
    char text[1100];
    int count;
} kept_line;

static void keep_line(void *user, esp_log_level level, const char *line)
{
    kept_line *kept = user;

    kept->level = level;
    kept->count++;
    strcpy(kept->text, line);
}

static void log_lines_below_the_level_are_dropped_and_stay_one_line(void **state)
{
    kept_line kept = {0};
    esp_log log = {.sink = keep_line, .user = &kept, .least = ESP_LOG_INFO};

    (void)state;
    esp_log_write(&log, ESP_LOG_DEBUG, "no");
    assert_int_equal(kept.count, 0);
    esp_log_write(&log, ESP_LOG_WARNING, "two\nlines %d", 2);
    assert_string_equal(kept.text, "two lines 2");
    assert_int_equal(kept.level, ESP_LOG_WARNING);
    esp_log_write(&log, ESP_LOG_INFO, "%2000d", 1);
    assert_int_equal(strlen(kept.text), 1023);
    esp_log_write(NULL, ESP_LOG_INFO, "nobody");
    assert_int_equal(kept.count, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_read_as_people_write_them),
        cmocka_unit_test(durations_read_as_people_write_them),
        cmocka_unit_test(bytes_read_as_people_write_them),
        cmocka_unit_test(the_nearest_word_is_found_and_far_ones_are_not),
        cmocka_unit_test(parsing_takes_whole_numbers_in_range_only),
        cmocka_unit_test(wildcards_match_whole_names),
        cmocka_unit_test(text_grows_and_is_taken),
        cmocka_unit_test(text_that_ran_out_of_memory_stays_broken),
        cmocka_unit_test(log_lines_below_the_level_are_dropped_and_stay_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
