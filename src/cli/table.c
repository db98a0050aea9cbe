/* Cells are kept as one growing list of strings; widths are measured in displayed columns, so UTF-8 lines up.
 */
#include "cli/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

struct esp_table {
    const char *alignment;
    size_t columns, count, capacity;
    char **cells;
    bool is_broken;
};

esp_table *esp_table_new(const char *alignment)
{
    esp_table *table = esp_alloc_zero(1, sizeof *table);
    if (table) {
        table->alignment = alignment;
        table->columns = strlen(alignment);
    }
    return table;
}

void esp_table_free(esp_table *table)
{
    if (!table) {
        return;
    }
    for (size_t i = 0; i < table->count; i++) {
        esp_free(table->cells[i]);
    }
    esp_free(table->cells);
    esp_free(table);
}

void esp_table_cell(esp_table *table, const char *format, ...)
{
    char text[512];
    va_list arguments;
    if (!table) {
        return;
    }
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (table->count == table->capacity) {
        size_t capacity = table->capacity ? table->capacity * 2 : 64;
        char **cells = esp_realloc(table->cells, table->count, capacity, sizeof *cells);
        if (!cells) {
            table->is_broken = true;
            return;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    char *copy = esp_strdup(text);
    table->is_broken = table->is_broken || !copy;
    if (copy) {
        table->cells[table->count++] = copy;
    }
}

/* Bytes that begin a character; continuation bytes take no column. */
static size_t display_width(const char *text)
{
    size_t width = 0;
    for (; *text; text++) {
        width += ((unsigned char)*text & 0xC0) != 0x80;
    }
    return width;
}

static void print_row(const esp_table *table, size_t row, const size_t *widths)
{
    for (size_t column = 0; column < table->columns; column++) {
        size_t index = row * table->columns + column;
        const char *cell = index < table->count ? table->cells[index] : "";
        int padding = (int)(widths[column] - display_width(cell));
        bool is_last = column + 1 == table->columns;
        if (table->alignment[column] == 'r') {
            printf("%*s%s", padding, "", cell);
        } else if (is_last) {
            fputs(cell, stdout);
        } else {
            printf("%s%*s", cell, padding, "");
        }
        fputs(is_last ? "\n" : "  ", stdout);
    }
}

enum { COLUMNS_MAX = 32 };

static void measure(const esp_table *table, size_t *widths)
{
    for (size_t i = 0; i < table->count; i++) {
        size_t width = display_width(table->cells[i]);
        size_t *widest = &widths[i % table->columns];
        *widest = width > *widest ? width : *widest;
    }
}

size_t esp_table_width(const esp_table *table)
{
    size_t widths[COLUMNS_MAX] = {0}, total = 0;
    if (!table || table->columns > COLUMNS_MAX) {
        return 0;
    }
    measure(table, widths);
    for (size_t column = 0; column < table->columns; column++) {
        total += widths[column] + (column > 0 ? 2 : 0);
    }
    return total;
}

esp_status esp_table_print(const esp_table *table, esp_error *err)
{
    size_t widths[COLUMNS_MAX] = {0};
    if (!table || table->is_broken || table->columns > COLUMNS_MAX) {
        return esp_fail_memory(err, "a table", 0);
    }
    measure(table, widths);
    size_t rows = (table->count + table->columns - 1) / table->columns;
    for (size_t row = 0; row < rows; row++) {
        print_row(table, row, widths);
        if (row == 0) {
            for (size_t column = 0; column < table->columns; column++) {
                for (size_t i = 0; i < widths[column]; i++) {
                    putchar('-');
                }
                fputs(column + 1 == table->columns ? "\n" : "  ", stdout);
            }
        }
    }
    return ESP_OK;
}
