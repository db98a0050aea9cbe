/* The one wording for names that are in no table. */
#include "base/unknown.h"
#include "unit/base/scratch.h"

static const char *const known[] = {"l1", "l2", "fpgm"};

static void the_nearest_name_is_in_the_message_and_all_are_in_the_hint(void **state)
{
    esp_error err = {0};

    (void)state;
    assert_int_equal(esp_fail_unknown(&err, "criterion", "fpmg", known, 3), ESP_INVALID);
    assert_string_equal(err.message, "unknown criterion 'fpmg', did you mean 'fpgm'?");
    assert_string_equal(err.hint, "known: fpgm, l1, l2");
}

static void a_word_like_none_of_them_gets_no_suggestion(void **state)
{
    esp_error err = {0};

    (void)state;
    esp_fail_unknown(&err, "criterion", "magnitude", known, 3);
    assert_string_equal(err.message, "unknown criterion 'magnitude'");
    assert_string_equal(err.hint, "known: l1, l2, fpgm");
}

static void components_of_a_path_name_it_whichever_divider_they_have(void **state)
{
    static const char *const layers[] = {"/conv1/Conv", "/layer2/layer2.0/conv11/Conv",
                                         "/layer2/layer2.0/conv1/Conv", "layer3.0.conv1.weight"};
    esp_error err = {0};

    (void)state;
    esp_fail_unknown(&err, "layer", "layer2.0.conv1", layers, 4);
    assert_string_equal(err.message,
                        "unknown layer 'layer2.0.conv1', did you mean '/layer2/layer2.0/conv1/Conv'?");
    assert_string_equal(err.hint, "known: /layer2/layer2.0/conv1/Conv, /conv1/Conv, "
                                  "/layer2/layer2.0/conv11/Conv, layer3.0.conv1.weight");
    esp_fail_unknown(&err, "layer", "conv1", layers, 4);
    assert_string_equal(err.message, "unknown layer 'conv1', did you mean '/conv1/Conv'?");
    esp_fail_unknown(&err, "layer", "layer3.0.conv1", layers, 4);
    assert_string_equal(err.message, "unknown layer 'layer3.0.conv1', did you mean 'layer3.0.conv1.weight'?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_name_is_in_the_message_and_all_are_in_the_hint),
        cmocka_unit_test(a_word_like_none_of_them_gets_no_suggestion),
        cmocka_unit_test(components_of_a_path_name_it_whichever_divider_they_have),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
