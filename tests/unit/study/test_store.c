/* The study on disk: what was written comes back, and no order of events leaves a row without its model. */
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "study/store.h"
#include "unit/train/train_fixtures.h"

static esp_study_version version_of(int id, int parent, const char *title, esp_graph *graph)
{
    esp_study_version version = {
        .id = id, .parent = parent, .graph = graph, .how = (char *)"{\"open\":\"x\"}"};

    snprintf(version.title, sizeof version.title, "%s", title);
    snprintf(version.created, sizeof version.created, "2024-05-06T07:08:09Z");
    version.metrics.counts.params = 1000 + id;
    version.metrics.counts.macs = 5000 + id;
    version.metrics.latency_ms = -1;
    return version;
}

static void a_study_comes_back_as_it_was_left(void **state)
{
    char *directory = scratch_make();
    esp_graph *graph = small_conv_model(8, 4, 4, false, 3), *loaded = NULL;
    esp_store *store = NULL;
    esp_versions *versions = NULL;
    esp_error err = {0};
    esp_study_version root = version_of(1, 0, "root", graph), child = version_of(2, 1, "child", graph);

    (void)state;
    expect_ok(esp_store_open(directory, &store, &err), &err);
    expect_ok(esp_store_versions(store, &versions, &err), &err);
    assert_null(versions);
    expect_ok(esp_store_add(store, &root, &err), &err);
    expect_ok(esp_store_add(store, &child, &err), &err);
    child.metrics.eval_images = 10;
    child.metrics.top1 = 62.5;
    child.metrics.latency_ms = 1.25;
    child.metrics.grouped_layers = 5;
    child.metrics.grouped_slower = 2;
    child.metrics.grouping_theory = 2.5;
    child.metrics.grouping_real = 1.75;
    expect_ok(esp_store_set_metrics(store, 2, &child.metrics, &err), &err);
    expect_ok(esp_store_set_current(store, 2, &err), &err);
    expect_ok(esp_store_journal(store, "cut", "{}", &err), &err);
    esp_store_close(store);

    expect_ok(esp_store_open(directory, &store, &err), &err);
    expect_ok(esp_store_versions(store, &versions, &err), &err);
    assert_int_equal(versions->count, 2);
    assert_string_equal(versions->items[0].title, "root");
    assert_int_equal(versions->items[0].parent, 0);
    assert_true(versions->items[0].metrics.latency_ms < 0);
    assert_int_equal(versions->items[1].parent, 1);
    assert_string_equal(versions->items[1].created, "2024-05-06T07:08:09Z");
    assert_int_equal(versions->items[1].metrics.counts.params, 1002);
    assert_float_equal(versions->items[1].metrics.top1, 62.5, 0);
    assert_float_equal(versions->items[1].metrics.latency_ms, 1.25, 0);
    assert_int_equal(versions->items[0].metrics.grouped_layers, 0);
    assert_int_equal(versions->items[1].metrics.grouped_layers, 5);
    assert_int_equal(versions->items[1].metrics.grouped_slower, 2);
    assert_float_equal(versions->items[1].metrics.grouping_theory, 2.5, 0);
    assert_float_equal(versions->items[1].metrics.grouping_real, 1.75, 0);
    assert_int_equal(esp_store_current(store), 2);
    assert_int_equal(esp_store_journal_count(store), 1);
    expect_ok(esp_store_graph(store, 2, &loaded, &err), &err);
    assert_true(same_constants(graph, loaded));
    esp_graph_unref(loaded);
    esp_graph_unref(graph);
    esp_shared_unref(versions);
    esp_store_close(store);
    scratch_remove(directory);
}

static void no_row_is_written_when_the_model_cannot_be(void **state)
{
    char *directory = scratch_make();
    char path[512];
    esp_graph *graph = small_conv_model(8, 4, 4, false, 3);
    esp_store *store = NULL;
    esp_versions *versions = NULL;
    esp_error err = {0};
    esp_study_version root = version_of(1, 0, "root", graph);

    (void)state;
    expect_ok(esp_store_open(directory, &store, &err), &err);
    snprintf(path, sizeof path, "%s/versions", directory);
    assert_int_equal(rmdir(path), 0);
    expect_failure(esp_store_add(store, &root, &err), ESP_IO, &err, "versions");
    expect_ok(esp_store_versions(store, &versions, &err), &err);
    assert_null(versions);
    esp_graph_unref(graph);
    esp_store_close(store);
    scratch_remove(directory);
}

static void a_model_left_by_a_crash_is_replaced(void **state)
{
    char *directory = scratch_make();
    char path[512];
    esp_graph *graph = small_conv_model(8, 4, 4, false, 3), *loaded = NULL;
    esp_store *store = NULL;
    esp_versions *versions = NULL;
    esp_error err = {0};
    esp_study_version root = version_of(1, 0, "root", graph);

    (void)state;
    expect_ok(esp_store_open(directory, &store, &err), &err);
    snprintf(path, sizeof path, "%s/versions/0001.onnx", directory);
    scratch_write(path, "half", 4);
    expect_ok(esp_store_versions(store, &versions, &err), &err);
    assert_null(versions); /* a file without a row is nothing */
    expect_ok(esp_store_add(store, &root, &err), &err);
    expect_ok(esp_store_graph(store, 1, &loaded, &err), &err);
    esp_graph_unref(loaded);
    esp_graph_unref(graph);
    esp_store_close(store);
    scratch_remove(directory);
}

static void a_version_is_never_written_twice(void **state)
{
    char *directory = scratch_make();
    esp_graph *graph = small_conv_model(8, 4, 4, false, 3), *other = small_conv_model(8, 6, 4, false, 4),
              *loaded = NULL;
    esp_store *store = NULL;
    esp_error err = {0};
    esp_study_version root = version_of(1, 0, "root", graph), again = version_of(1, 0, "again", other);

    (void)state;
    expect_ok(esp_store_open(directory, &store, &err), &err);
    expect_ok(esp_store_add(store, &root, &err), &err);
    expect_failure(esp_store_add(store, &again, &err), ESP_STATE, &err, "version 1");
    expect_ok(esp_store_graph(store, 1, &loaded, &err), &err);
    assert_true(same_constants(graph, loaded));
    expect_failure(esp_store_set_metrics(store, 9, &root.metrics, &err), ESP_INVALID, &err, "version 9");
    esp_graph_unref(loaded);
    esp_graph_unref(other);
    esp_graph_unref(graph);
    esp_store_close(store);
    scratch_remove(directory);
}

static void a_file_that_is_no_study_and_a_later_format_are_refused(void **state)
{
    char *directory = scratch_make();
    char path[512];
    esp_store *store = NULL;
    esp_error err = {0};
    sqlite3 *db = NULL;

    (void)state;
    snprintf(path, sizeof path, "%s/study.db", directory);
    scratch_write(path,
                  "this is a text file, longer than a header of one hundred bytes; it has nothing of a "
                  "database in it, nothing",
                  108);
    expect_failure(esp_store_open(directory, &store, &err), ESP_FORMAT, &err, "study.db");
    assert_null(store);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    expect_failure(esp_store_open(directory, &store, &err), ESP_UNSUPPORTED, &err, "99");
    assert_null(store);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_study_comes_back_as_it_was_left),
        cmocka_unit_test(no_row_is_written_when_the_model_cannot_be),
        cmocka_unit_test(a_model_left_by_a_crash_is_replaced),
        cmocka_unit_test(a_version_is_never_written_twice),
        cmocka_unit_test(a_file_that_is_no_study_and_a_later_format_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
