/* JSON, through jansson: reading with errors in our form, and byte-stable writing (sorted keys). */
#ifndef ESP_BASE_JSON_H
#define ESP_BASE_JSON_H

#include <jansson.h>

#include "base/status.h"

/* The document in a file or text. `*out` is a new reference. Errors name file, line and column. Duplicate
 * keys are an error. */
esp_status esp_json_load(const char *path, json_t **out, esp_error *err);
esp_status esp_json_parse(const char *text, const char *where, json_t **out, esp_error *err);

/* Sorted keys, 2-space indentation (or one line when `is_compact`), shortest digits that read back to the
 * same double, a final newline in the indented form. Caller frees the string with esp_free; NULL when memory
 * is out. */
char *esp_json_dump(const json_t *value, int is_compact);

/* A string of any bytes: those of a text that is no UTF-8 become question marks. NULL when memory is out. */
json_t *esp_json_text(const char *text);

/* Writes esp_json_dump's text atomically. */
esp_status esp_json_save(const json_t *value, const char *path, esp_error *err);

#endif
