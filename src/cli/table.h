/* Tables of text for people: columns as wide as their widest cell. */
#ifndef ESP_CLI_TABLE_H
#define ESP_CLI_TABLE_H

#include <stddef.h>

#include "base/status.h"

typedef struct esp_table esp_table;

/* `alignment` has one letter per column, 'l' or 'r'. NULL when memory is out. */
esp_table *esp_table_new(const char *alignment);
void esp_table_free(esp_table *table);

/* Appends a cell to the current row; a full row starts the next. The first row is the heading. */
void esp_table_cell(esp_table *table, const char *format, ...) ESP_PRINTF(2, 3);

/* Columns that a printed line takes at most. */
size_t esp_table_width(const esp_table *table);

/* On standard output. ESP_NO_MEMORY when a cell could not be kept. */
esp_status esp_table_print(const esp_table *table, esp_error *err);

#endif
