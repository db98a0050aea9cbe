/* Normalisation through metadata and flags: what is stored comes back, and what is wrong says so. */
#include <string.h>

#include "unit/train/train_fixtures.h"

static esp_graph *with_text(const char *text)
{
    esp_error err = {0};
    esp_graph *graph = random_linear_model(1, 2, 2, 2, 1), *changed = NULL;
    expect_ok(esp_graph_with_metadata(graph, ESP_NORMALIZATION_KEY, text, &changed, &err), &err);
    esp_graph_unref(graph);
    return changed;
}

static void stored_numbers_come_back_bit_for_bit(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(3, 2, 2, 2, 1), *stored = NULL;
    const esp_normalization wanted = {
        .channels = 3, .mean = {0.4914f, 1.0f / 3.0f, -0.0f}, .std = {0.247f, 1e-7f, 12345.678f}};
    expect_ok(esp_normalization_store(graph, &wanted, &stored, &err), &err);
    esp_normalization found;
    expect_ok(esp_normalization_of(stored, 3, &found, &err), &err);
    assert_memory_equal(found.mean, wanted.mean, 3 * sizeof(float));
    assert_memory_equal(found.std, wanted.std, 3 * sizeof(float));
    assert_int_equal(found.origin, ESP_NORM_FROM_MODEL);
    assert_int_equal(found.channels, 3);
    esp_graph_unref(stored);
    esp_graph_unref(graph);
}

static void stored_text_is_short_and_stable(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(3, 2, 2, 2, 1), *stored = NULL;
    esp_normalization normalization;
    expect_ok(esp_normalization_of(graph, 3, &normalization, &err), &err);
    assert_int_equal(normalization.origin, ESP_NORM_DEFAULT);
    expect_ok(esp_normalization_store(graph, &normalization, &stored, &err), &err);
    assert_string_equal(esp_graph_metadata(stored, ESP_NORMALIZATION_KEY),
                        "{\"mean\":[0.485,0.456,0.406],\"scale\":255,\"std\":[0.229,0.224,0.225]}");
    esp_graph_unref(stored);
    esp_graph_unref(graph);
}

static void grey_images_default_to_fashion_mnist(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = random_linear_model(1, 2, 2, 2, 1);
    esp_normalization normalization;
    expect_ok(esp_normalization_of(graph, 1, &normalization, &err), &err);
    assert_true(normalization.mean[0] == 0.2860f && normalization.std[0] == 0.3530f);
    esp_graph_unref(graph);
}

static void another_scale_means_the_same_numbers(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = with_text("{\"mean\":[127.5],\"scale\":1,\"std\":[63.75]}");
    esp_normalization found;
    expect_ok(esp_normalization_of(graph, 1, &found, &err), &err);
    assert_true(found.mean[0] == 0.5f && found.std[0] == 0.25f);
    esp_graph_unref(graph);
}

static void bad_metadata_is_an_error_that_names_the_key(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"mean\":[0.5", ESP_NORMALIZATION_KEY},
        {"[1,2]", "no list 'mean'"},
        {"{\"mean\":[0.5]}", "no list 'std'"},
        {"{\"mean\":0.5,\"std\":[1]}", "no list 'mean'"},
        {"{\"mean\":[0.5,0.5,0.5],\"std\":[1,1,1]}", "'mean' has 3 numbers, but the images have 1 channels"},
        {"{\"mean\":[\"a\"],\"std\":[1]}", "entry 1 of 'mean'"},
        {"{\"mean\":[1e300],\"std\":[1]}", "entry 1 of 'mean'"},
        {"{\"mean\":[0.5],\"std\":[0]}", "expected > 0"},
        {"{\"mean\":[0.5],\"std\":[-1]}", "expected > 0"},
        {"{\"mean\":[0.5],\"scale\":0,\"std\":[1]}", "'scale'"},
        {"{\"mean\":[0.5],\"scale\":\"x\",\"std\":[1]}", "'scale'"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        esp_error err = {0};
        esp_graph *graph = with_text(cases[i][0]);
        esp_normalization found = {.channels = 77};
        esp_status status = esp_normalization_of(graph, 1, &found, &err);
        assert_non_null(strstr(err.message, ESP_NORMALIZATION_KEY));
        expect_failure(status, ESP_FORMAT, &err, cases[i][1]);
        assert_int_equal(found.channels, 77);
        esp_graph_unref(graph);
    }
}

static void flags_override_one_or_all_channels(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_normalization n = {.channels = 3, .mean = {1, 2, 3}, .std = {4, 5, 6}, .origin = ESP_NORM_DEFAULT};
    expect_ok(esp_normalization_override(&n, NULL, NULL, &err), &err);
    assert_int_equal(n.origin, ESP_NORM_DEFAULT);
    expect_ok(esp_normalization_override(&n, "0.25", NULL, &err), &err);
    assert_int_equal(n.origin, ESP_NORM_FROM_USER);
    assert_true(n.mean[0] == 0.25f && n.mean[2] == 0.25f && n.std[1] == 5.0f);
    expect_ok(esp_normalization_override(&n, NULL, "0.5,1,2", &err), &err);
    assert_true(n.std[0] == 0.5f && n.std[1] == 1.0f && n.std[2] == 2.0f && n.mean[0] == 0.25f);
}

static void bad_flags_change_nothing(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"0.5,0.5", NULL, "mean '0.5,0.5': 2 numbers, expected 1 or 3"},
        {"0.5,x,1", NULL, "'x' is not a number"},
        {"", NULL, "'' is not a number"},
        {"1,2,3,4", NULL, "4 numbers"},
        {"1,2,", NULL, "'' is not a number"},
        {"1", "0", "std '0': 0"},
        {NULL, "1,-2,1", "-2 for channel 1"},
        {NULL, "nan", "'nan' is not a number"},
    };
    const esp_normalization before = {.channels = 3, .mean = {1, 2, 3}, .std = {4, 5, 6}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        esp_error err = {0};
        esp_normalization n = before;
        expect_failure(esp_normalization_override(&n, cases[i][0], cases[i][1], &err), ESP_INVALID, &err,
                       cases[i][2]);
        assert_memory_equal(&n, &before, sizeof(n));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stored_numbers_come_back_bit_for_bit),
        cmocka_unit_test(stored_text_is_short_and_stable),
        cmocka_unit_test(grey_images_default_to_fashion_mnist),
        cmocka_unit_test(another_scale_means_the_same_numbers),
        cmocka_unit_test(bad_metadata_is_an_error_that_names_the_key),
        cmocka_unit_test(flags_override_one_or_all_channels),
        cmocka_unit_test(bad_flags_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
