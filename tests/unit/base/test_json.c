/* JSON: what is written is the same bytes every time and reads back to the same values; bad text is refused.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"
#include "unit/base/scratch.h"

static void expect_dump(json_t *take_value, int is_compact, const char *expected)
{
    char *text = esp_json_dump(take_value, is_compact);

    assert_non_null(text);
    assert_string_equal(text, expected);
    esp_free(text);
    json_decref(take_value);
}

static void keys_are_sorted_whatever_the_order_they_came_in(void **state)
{
    json_t *one = json_pack("{s:i, s:[i,b], s:{}, s:n}", "ratio", 1, "layers", 2, 1, "empty", "b");
    json_t *two = json_object();

    (void)state;
    json_object_set_new(two, "b", json_null());
    json_object_set_new(two, "empty", json_object());
    json_object_set_new(two, "ratio", json_integer(1));
    json_object_set_new(two, "layers", json_pack("[i,b]", 2, 1));
    expect_dump(json_incref(one), 1, "{\"b\":null,\"empty\":{},\"layers\":[2,true],\"ratio\":1}");
    expect_dump(two, 1, "{\"b\":null,\"empty\":{},\"layers\":[2,true],\"ratio\":1}");
    expect_dump(
        one, 0,
        "{\n  \"b\": null,\n  \"empty\": {},\n  \"layers\": [\n    2,\n    true\n  ],\n  \"ratio\": 1\n}\n");
}

static void reals_have_the_fewest_digits_and_stay_reals(void **state)
{
    (void)state;
    expect_dump(json_real(0.1), 1, "0.1");
    expect_dump(json_real(1.0), 1, "1.0");
    expect_dump(json_real(-0.0), 1, "-0.0");
    expect_dump(json_real(150.0), 1, "150.0");
    expect_dump(json_real(100000.0), 1, "100000.0");
    expect_dump(json_real(1.0 / 3), 1, "0.3333333333333333");
    expect_dump(json_real(1e300), 1, "1e+300");
    expect_dump(json_real(0.1 + 0.2), 1, "0.30000000000000004");
}

static void any_double_reads_back_to_itself(void **state)
{
    esp_rng rng;

    (void)state;
    esp_rng_seed(&rng, 9);
    for (int i = 0; i < 20000; i++) {
        uint64_t bits = esp_rng_u64(&rng);
        double value = i % 2 ? esp_rng_normal(&rng) * pow(10, i % 40 - 20) : 0, back;
        json_t *real;
        char *text;

        if (i % 2 == 0)
            memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        real = json_real(value);
        text = esp_json_dump(real, 1);
        back = strtod(text, NULL);
        assert_memory_equal(&back, &value, sizeof value);
        assert_non_null(strpbrk(text, ".e"));
        esp_free(text);
        json_decref(real);
    }
}

static void strings_are_escaped_and_read_back(void **state)
{
    json_t *parsed;

    (void)state;
    expect_dump(json_string("a\"b\\c\n\t\x01/\xc3\xa9"), 1, "\"a\\\"b\\\\c\\n\\t\\u0001/\xc3\xa9\"");
    assert_int_equal(esp_json_parse("\"a\\\"\\\\\\u0001\\u00e9\"", "here", &parsed, NULL), ESP_OK);
    assert_string_equal(json_string_value(parsed), "a\"\\\x01\xc3\xa9");
    json_decref(parsed);
    expect_dump(json_stringn("a\0b", 3), 1, "\"a\\u0000b\"");
}

static void malformed_text_is_refused_with_its_place(void **state)
{
    static const char *const texts[] = {
        "", "{", "{\"a\":1,}", "[1 2]", "{\"a\":1} x", "nul", "{\"a\":1,\n\"a\":2}"};
    esp_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_t *parsed = (json_t *)1;

        assert_int_equal(esp_json_parse(texts[i], "plan.json", &parsed, &err), ESP_FORMAT);
        assert_null(parsed);
        assert_memory_equal(err.message, "plan.json:", 10);
    }
    /* The last one: a key twice, on line 2. */
    assert_memory_equal(err.message, "plan.json:2:", 12);
    assert_non_null(strstr(err.message, "duplicate"));
}

static void a_saved_document_loads_equal(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "plan.json");
    json_t *value = json_pack("{s:f, s:s, s:[i,i]}", "ratio", 0.4, "method", "wsp", "layers", 1, 2), *back;
    esp_error err = {0};
    char *first, *second;

    (void)state;
    assert_int_equal(esp_json_save(value, path, NULL), ESP_OK);
    first = scratch_read(path, NULL);
    assert_int_equal(esp_json_load(path, &back, NULL), ESP_OK);
    assert_true(json_equal(value, back));
    assert_int_equal(esp_json_save(back, path, NULL), ESP_OK);
    second = scratch_read(path, NULL);
    assert_string_equal(first, second);
    free(first);
    free(second);
    json_decref(value);
    json_decref(back);

    assert_int_equal(esp_json_load(scratch_path(directory, "none.json"), &back, &err), ESP_IO);
    assert_null(back);
    scratch_write(path, "[1]\0[2]", 7);
    assert_int_equal(esp_json_load(path, &back, &err), ESP_FORMAT);
    scratch_remove(directory);
}

static void dumping_survives_every_allocation_failure(void **state)
{
    json_t *value = json_pack("{s:{s:[f,f,f]}, s:s}", "a", "b", 0.5, 1.5, 2.5, "text", "words");
    size_t before = esp_memory_live();
    bool is_done = false;

    (void)state;
    for (int k = 1; !is_done; k++) {
        char *text;

        esp_memory_fuse(k);
        text = esp_json_dump(value, 0);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(text != NULL, is_done);
        esp_free(text);
        assert_int_equal(esp_memory_live(), before);
    }
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_sorted_whatever_the_order_they_came_in),
        cmocka_unit_test(reals_have_the_fewest_digits_and_stay_reals),
        cmocka_unit_test(any_double_reads_back_to_itself),
        cmocka_unit_test(strings_are_escaped_and_read_back),
        cmocka_unit_test(malformed_text_is_refused_with_its_place),
        cmocka_unit_test(a_saved_document_loads_equal),
        cmocka_unit_test(dumping_survives_every_allocation_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
