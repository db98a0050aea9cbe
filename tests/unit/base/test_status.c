/* Error records stay one printable line that fits, whatever goes in. */
#include <string.h>

#include "base/status.h"
#include "unit/base/scratch.h"

static void fail_fills_code_and_message_and_returns_the_code(void **state)
{
    esp_error err = {.hint = "left over"};

    (void)state;
    assert_int_equal(esp_fail(&err, ESP_SHAPE, "node '%s': %d", "add", 3), ESP_SHAPE);
    assert_int_equal(err.code, ESP_SHAPE);
    assert_string_equal(err.message, "node 'add': 3");
    assert_string_equal(err.hint, "");
    assert_int_equal(esp_fail(NULL, ESP_IO, "x"), ESP_IO);
}

static void a_long_message_is_cut_with_dots_on_a_whole_character(void **state)
{
    esp_error err = {0};
    char text[2048] = "";

    (void)state;
    for (int i = 0; i < 600; i++)
        strcat(text, "\xc3\xa9"); /* two bytes each */
    esp_fail(&err, ESP_IO, "a%s", text);
    assert_true(strlen(err.message) < sizeof err.message);
    assert_string_equal(err.message + strlen(err.message) - 3, "...");
    assert_int_equal((unsigned char)err.message[strlen(err.message) - 4], 0xA9);
    esp_fail(&err, ESP_IO, "%s", text);
    assert_int_equal((unsigned char)err.message[strlen(err.message) - 4], 0xA9);
}

static void control_characters_become_question_marks(void **state)
{
    esp_error err = {0};

    (void)state;
    esp_fail(&err, ESP_IO, "a\x1b[2Jb\nc\x7f");
    assert_string_equal(err.message, "a?[2Jb?c?");
}

static void a_prefix_goes_in_front_and_keeps_code_and_hint(void **state)
{
    esp_error err = {0};

    (void)state;
    esp_fail(&err, ESP_FORMAT, "truncated");
    esp_error_set_hint(&err, "download it again");
    esp_error_prefix(&err, "%s.onnx", "net");
    assert_int_equal(err.code, ESP_FORMAT);
    assert_string_equal(err.message, "net.onnx: truncated");
    assert_string_equal(err.hint, "download it again");
}

static void a_prefix_that_does_not_fit_keeps_the_start_of_the_cause(void **state)
{
    esp_error err = {0};
    char place[400], cause[400];

    (void)state;
    memset(place, 'p', sizeof place);
    place[sizeof place - 1] = '\0';
    memset(cause, 'c', sizeof cause);
    cause[sizeof cause - 1] = '\0';
    esp_fail(&err, ESP_FORMAT, "%s", cause);
    esp_error_set_hint(&err, "hint");
    esp_error_prefix(&err, "%s", place);
    assert_non_null(strstr(err.message, "ppp: ccc"));
    assert_true(strlen(err.message) < sizeof err.message);
    assert_string_equal(err.hint, "hint");
}

static void a_message_may_quote_the_message_it_replaces(void **state)
{
    esp_error err = {0};

    (void)state;
    esp_fail(&err, ESP_IO, "inner");
    esp_fail(&err, ESP_STATE, "outer (%s)", err.message);
    assert_string_equal(err.message, "outer (inner)");
}

static void every_status_has_its_word(void **state)
{
    (void)state;
    assert_string_equal(esp_status_word(ESP_OK), "ok");
    assert_string_equal(esp_status_word(ESP_NO_MEMORY), "no-memory");
    assert_string_equal(esp_status_word(ESP_INTERNAL), "internal");
    assert_string_equal(esp_status_word((esp_status)999), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_fills_code_and_message_and_returns_the_code),
        cmocka_unit_test(a_long_message_is_cut_with_dots_on_a_whole_character),
        cmocka_unit_test(control_characters_become_question_marks),
        cmocka_unit_test(a_prefix_goes_in_front_and_keeps_code_and_hint),
        cmocka_unit_test(a_prefix_that_does_not_fit_keeps_the_start_of_the_cause),
        cmocka_unit_test(a_message_may_quote_the_message_it_replaces),
        cmocka_unit_test(every_status_has_its_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
