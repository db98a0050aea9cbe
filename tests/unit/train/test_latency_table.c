/* The latency table: what it remembers, for whom, and what it does with files that are not its own. No test
 * looks at how long anything took. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "train/latency_table.h"
#include "unit/train/train_fixtures.h"

static esp_latency_case conv_case(int64_t filters, int64_t channels)
{
    return (esp_latency_case){.geometry = {.batch = 1,
                                           .channels = channels,
                                           .height = 6,
                                           .width = 6,
                                           .filters = filters,
                                           .group = 1,
                                           .kernel_h = 3,
                                           .kernel_w = 3,
                                           .stride_h = 1,
                                           .stride_w = 1,
                                           .dilation_h = 1,
                                           .dilation_w = 1,
                                           .pad_top = 1,
                                           .pad_left = 1,
                                           .pad_bottom = 1,
                                           .pad_right = 1,
                                           .out_height = 6,
                                           .out_width = 6}};
}

#define CONV_KEY "conv 1x8x6x6 f16 k3x3 s1x1 d1x1 p1,1,1,1 g1"

static esp_latency_table *open_table(const char *path)
{
    esp_error err = {0};
    esp_latency_table *table = NULL;

    expect_ok(esp_latency_table_open(NULL, path, &table, &err), &err);
    return table;
}

static double seconds_of(esp_latency_table *table, const esp_latency_case *item)
{
    esp_error err = {0};
    double seconds = 0;

    expect_ok(esp_latency_table_seconds(table, item, &seconds, &err), &err);
    assert_true(seconds > 0 && isfinite(seconds));
    return seconds;
}

static void a_layer_is_measured_once_and_remembered_in_the_file(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "deeper/latency.json"); /* the directory is made */
    esp_latency_case item = conv_case(16, 8);
    esp_error err = {0};
    esp_latency_table *table = open_table(path);
    (void)state;

    double first = seconds_of(table, &item);
    assert_true(seconds_of(table, &item) == first);
    assert_int_equal(esp_latency_table_measured(table), 1);
    expect_ok(esp_latency_table_save(table, &err), &err);
    esp_latency_table_free(table);

    table = open_table(path);
    assert_int_equal(esp_latency_table_known(table), 1);
    assert_true(seconds_of(table, &item) == first); /* to the last bit */
    assert_int_equal(esp_latency_table_measured(table), 0);
    esp_latency_table_free(table);
    scratch_remove(directory);
}

static void a_file_by_hand_is_believed_and_other_machines_are_kept(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "latency.json");
    esp_latency_case known = conv_case(16, 8), other = conv_case(8, 8);
    esp_error err = {0};
    esp_latency_table *table = open_table(path);
    json_t *root = json_pack("{s:i, s:{s:{s:f}, s:{s:f}}}", "version", 1, "machines", "an abacus", CONV_KEY,
                             7.0, esp_latency_table_machine(table), CONV_KEY, 0.125);
    (void)state;

    esp_latency_table_free(table);
    expect_ok(esp_json_save(root, path, &err), &err);
    json_decref(root);
    table = open_table(path);
    assert_true(seconds_of(table, &known) == 0.125);
    assert_int_equal(esp_latency_table_measured(table), 0);
    seconds_of(table, &other);
    expect_ok(esp_latency_table_save(table, &err), &err);
    esp_latency_table_free(table);
    expect_ok(esp_json_load(path, &root, &err), &err);
    json_t *machines = json_object_get(root, "machines");
    assert_int_equal(json_object_size(machines), 2);
    assert_true(json_number_value(json_object_get(json_object_get(machines, "an abacus"), CONV_KEY)) == 7.0);
    json_decref(root);
    scratch_remove(directory);
}

static void two_that_measure_at_once_lose_nothing(void **state)
{
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "latency.json");
    esp_latency_case first = conv_case(16, 8), second = conv_case(8, 8);
    esp_error err = {0};
    esp_latency_table *a = open_table(path), *b = open_table(path);
    (void)state;

    seconds_of(a, &first);
    seconds_of(b, &second);
    expect_ok(esp_latency_table_save(a, &err), &err);
    expect_ok(esp_latency_table_save(b, &err), &err);
    esp_latency_table_free(a);
    esp_latency_table_free(b);
    a = open_table(path);
    assert_int_equal(esp_latency_table_known(a), 2);
    esp_latency_table_free(a);
    scratch_remove(directory);
}

static void a_file_that_is_none_of_ours_counts_as_empty(void **state)
{
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{\"version\": 2, \"machines\": {}}",
                                        "{\"version\": 1, \"machines\": []}",
                                        "{\"version\": 1}"};
    char *directory = scratch_make();
    const char *path = scratch_path(directory, "latency.json");
    esp_latency_case item = conv_case(16, 8);
    esp_error err = {0};
    (void)state;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        scratch_write(path, texts[i], strlen(texts[i]));
        esp_latency_table *table = open_table(path);
        assert_int_equal(esp_latency_table_known(table), 0);
        seconds_of(table, &item);
        expect_ok(esp_latency_table_save(table, &err), &err);
        esp_latency_table_free(table);
        table = open_table(path);
        assert_int_equal(esp_latency_table_known(table), 1);
        esp_latency_table_free(table);
    }
    scratch_remove(directory);
}

static void nothing_measured_writes_no_file(void **state)
{
    char *directory = scratch_make();
    esp_error err = {0};
    esp_latency_table *table = open_table(scratch_path(directory, "latency.json"));
    (void)state;

    expect_ok(esp_latency_table_save(table, &err), &err);
    esp_latency_table_free(table);
    assert_int_equal(scratch_count(directory), 0);
    scratch_remove(directory);
}

static void a_place_that_cannot_be_written_is_an_error(void **state)
{
    char *directory = scratch_make();
    const char *file = scratch_path(directory, "file");
    esp_latency_case item = conv_case(16, 8);
    esp_error err = {0};
    (void)state;

    scratch_write(file, "x", 1);
    esp_latency_table *table = open_table(scratch_path(directory, "file/latency.json"));
    seconds_of(table, &item);
    expect_failure(esp_latency_table_save(table, &err), ESP_IO, &err, "file");
    esp_latency_table_free(table);
    scratch_remove(directory);
}

static void grouped_depthwise_and_fully_connected_layers_are_measured(void **state)
{
    esp_latency_table *table = open_table(NULL);
    esp_latency_case grouped = conv_case(16, 8), depthwise = conv_case(16, 16),
                     row = {.geometry = {.batch = 3,
                                         .channels = 40,
                                         .height = 1,
                                         .width = 1,
                                         .filters = 10,
                                         .group = 1,
                                         .kernel_h = 1,
                                         .kernel_w = 1,
                                         .stride_h = 1,
                                         .stride_w = 1,
                                         .dilation_h = 1,
                                         .dilation_w = 1,
                                         .out_height = 1,
                                         .out_width = 1}};
    (void)state;

    depthwise.geometry.group = 16;
    for (grouped.groups = 1; grouped.groups <= 16; grouped.groups *= 4)
        for (grouped.read = 1; grouped.read <= ESP_LATENCY_READ_STEPS; grouped.read++)
            seconds_of(table, &grouped);
    seconds_of(table, &depthwise);
    seconds_of(table, &row);
    assert_int_equal(esp_latency_table_known(table),
                     3 * ESP_LATENCY_READ_STEPS + 2); /* all different entries */
    esp_latency_table_free(table);
}

static void what_is_no_layer_is_refused(void **state)
{
    esp_latency_table *table = open_table(NULL);
    esp_latency_case item = conv_case(0, 8);
    esp_error err = {0};
    double seconds = -1;
    (void)state;

    expect_failure(esp_latency_table_seconds(table, &item, &seconds, &err), ESP_INVALID, &err, "no layer");
    item = conv_case(4, 8);
    item.groups = 5;
    item.read = 1;
    expect_failure(esp_latency_table_seconds(table, &item, &seconds, &err), ESP_INVALID, &err,
                   "5 groups of 4");
    item.groups = 2;
    item.read = ESP_LATENCY_READ_STEPS + 1;
    expect_failure(esp_latency_table_seconds(table, &item, &seconds, &err), ESP_INVALID, &err, NULL);
    assert_true(seconds == -1);
    esp_latency_table_free(table);
}

static void a_cancelled_table_measures_nothing_but_still_tells(void **state)
{
    esp_cancel cancel = {0};
    const esp_compute compute = {.cancel = &cancel};
    esp_latency_case known = conv_case(16, 8), other = conv_case(8, 8);
    esp_latency_table *table = NULL;
    esp_error err = {0};
    double seconds;
    (void)state;

    expect_ok(esp_latency_table_open(&compute, NULL, &table, &err), &err);
    seconds_of(table, &known);
    esp_cancel_request(&cancel);
    seconds_of(table, &known);
    expect_failure(esp_latency_table_seconds(table, &other, &seconds, &err), ESP_CANCELLED, &err, NULL);
    esp_latency_table_free(table);
}

static void widths_go_up_to_the_next_that_is_measured(void **state)
{
    (void)state;
    assert_int_equal(esp_latency_width(1, 64), 4);
    assert_int_equal(esp_latency_width(57, 64), 60);
    assert_int_equal(esp_latency_width(64, 64), 64);
    assert_int_equal(esp_latency_width(65, 512), 72);
    assert_int_equal(esp_latency_width(257, 512), 272);
    assert_int_equal(esp_latency_width(3, 3), 3); /* the full width is as it is */
    assert_int_equal(esp_latency_width(510, 510), 510);
}

static void the_place_of_the_file_follows_the_environment(void **state)
{
    char *path = NULL;
    esp_error err = {0};
    (void)state;

    setenv("XDG_CACHE_HOME", "/somewhere/cache", 1);
    expect_ok(esp_latency_table_path(&path, &err), &err);
    assert_string_equal(path, "/somewhere/cache/espalier/latency.json");
    esp_free(path);
    setenv("XDG_CACHE_HOME", "relative", 1); /* the base directory specification: to be ignored */
    setenv("HOME", "/home/one", 1);
    expect_ok(esp_latency_table_path(&path, &err), &err);
    assert_string_equal(path, "/home/one/.cache/espalier/latency.json");
    esp_free(path);
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    expect_failure(esp_latency_table_path(&path, &err), ESP_IO, &err, "HOME");
    assert_null(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_is_measured_once_and_remembered_in_the_file),
        cmocka_unit_test(a_file_by_hand_is_believed_and_other_machines_are_kept),
        cmocka_unit_test(two_that_measure_at_once_lose_nothing),
        cmocka_unit_test(a_file_that_is_none_of_ours_counts_as_empty),
        cmocka_unit_test(nothing_measured_writes_no_file),
        cmocka_unit_test(a_place_that_cannot_be_written_is_an_error),
        cmocka_unit_test(grouped_depthwise_and_fully_connected_layers_are_measured),
        cmocka_unit_test(what_is_no_layer_is_refused),
        cmocka_unit_test(a_cancelled_table_measures_nothing_but_still_tells),
        cmocka_unit_test(widths_go_up_to_the_next_that_is_measured),
        cmocka_unit_test(the_place_of_the_file_follows_the_environment),
    };
    return cmocka_run_group_tests_name("latency_table", tests, NULL, NULL);
}
