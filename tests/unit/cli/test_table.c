/* Tables as they are printed: widths, alignment, and what happens to a cell that cannot be kept. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "cli/table.h"
#include "unit/base/scratch.h"

/* What printing the table writes to standard output, which is sent to a file meanwhile; free() it. */
static char *printed(const char *directory, const esp_table *table)
{
    const char *path = scratch_path(directory, "out.txt");
    esp_error err = {0};
    size_t size = 0;
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    esp_status status = esp_table_print(table, &err);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    fclose(file);
    assert_int_equal(status, ESP_OK);
    return scratch_read(path, &size);
}

static void assert_printed(const char *directory, const esp_table *table, const char *expected)
{
    char *text = printed(directory, table);
    assert_string_equal(text, expected);
    free(text);
}

static int make_directory(void **state)
{
    *state = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
    esp_table *table = esp_table_new("lrl");
    static const char *const cells[] = {"name", "count",  "note",    "a",        "1",
                                        "",     "longer", "1234567", "two words"};
    for (size_t i = 0; i < 9; i++) {
        esp_table_cell(table, "%s", cells[i]);
    }
    assert_int_equal(esp_table_width(table), strlen("longer  1234567  two words"));
    assert_printed(*state, table,
                   "name      count  note\n"
                   "------  -------  ---------\n"
                   "a             1  \n"
                   "longer  1234567  two words\n");
    esp_table_free(table);
}

static void widths_count_letters_not_bytes(void **state)
{
    esp_table *table = esp_table_new("rl");
    static const char *const cells[] = {"±", "x", "12", "y"};
    for (size_t i = 0; i < 4; i++) {
        esp_table_cell(table, "%s", cells[i]);
    }
    assert_printed(*state, table, " ±  x\n--  -\n12  y\n");
    esp_table_free(table);
}

static void an_unfinished_row_ends_empty(void **state)
{
    esp_table *table = esp_table_new("ll");
    esp_table_cell(table, "a");
    esp_table_cell(table, "b");
    esp_table_cell(table, "%d", 7);
    assert_printed(*state, table, "a  b\n-  -\n7  \n");
    esp_table_free(table);
}

static void a_table_grows_past_its_first_room(void **state)
{
    esp_table *table = esp_table_new("l");
    for (int i = 0; i < 300; i++) {
        esp_table_cell(table, "%d", i);
    }
    char *text = printed(*state, table);
    size_t lines = 0;
    for (const char *at = text; *at; at++) {
        lines += *at == '\n';
    }
    assert_int_equal(lines, 301); /* and the rule below the heading */
    assert_non_null(strstr(text, "\n299\n"));
    free(text);
    esp_table_free(table);
}

/* One of the cells, the list or the table is missing: said when it is printed, never printed in part. */
static void a_lost_cell_is_an_error_when_printing(void **state)
{
    (void)state;
    for (int64_t k = 1;; k++) {
        size_t before = esp_memory_live();
        esp_error err = {0};
        esp_memory_fuse(k);
        esp_table *table = esp_table_new("ll");
        esp_table_cell(table, "a");
        esp_table_cell(table, "b");
        int has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        if (!has_burnt) {
            esp_table_free(table);
            assert_int_equal(k, 5); /* the table, the list, two cells */
            return;
        }
        assert_int_equal(esp_table_print(table, &err), ESP_NO_MEMORY);
        esp_table_free(table);
        assert_int_equal(esp_memory_live(), before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(columns_are_as_wide_as_their_widest_cell, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(widths_count_letters_not_bytes, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(an_unfinished_row_ends_empty, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(a_table_grows_past_its_first_room, make_directory, remove_directory),
        cmocka_unit_test(a_lost_cell_is_an_error_when_printing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
