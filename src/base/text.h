/* Text: a growing string, number formats shared by every surface, and "did you mean". */
#ifndef ESP_BASE_TEXT_H
#define ESP_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A growing string. Zero-initialise. After a failed allocation `is_broken` is set and further appends do
 * nothing: check once at the end. */
typedef struct esp_text {
    char *data; /* always terminated once something was appended; NULL before */
    size_t length, capacity;
    bool is_broken;
} esp_text;

void esp_text_append(esp_text *text, const char *piece);
void esp_text_append_n(esp_text *text, const char *piece, size_t length);
void esp_text_printf(esp_text *text, const char *format, ...) ESP_PRINTF(2, 3);
void esp_text_free(esp_text *text);

/* The string, owned by the caller (esp_free); NULL when broken. Empty text gives "". Resets `text`. */
char *esp_text_take(esp_text *text);

/* Counts as people in this field write them: 0, 950, 270.9k, 25.55M, 4.089G. `buffer` of at least 16. Returns
 * it. */
char *esp_format_count(char *buffer, size_t size, double count);

/* Durations: 0.52 ms, 14.1 ms, 3.20 s, 4m05s, 2h10m. */
char *esp_format_duration(char *buffer, size_t size, double seconds);

/* Bytes: 512 B, 4.8 KiB, 13.3 MiB. */
char *esp_format_bytes(char *buffer, size_t size, double bytes);

/* The candidate nearest to `word` by edit distance (Damerau-Levenshtein), or NULL when none is near enough
 * (more than a third of the letters differ, at least 2 allowed). */
const char *esp_nearest_word(const char *word, const char *const *candidates, size_t count);

/* Strict number parsing: the whole text must be a number in range. */
bool esp_parse_i64(const char *text, int64_t *out);
bool esp_parse_f64(const char *text, double *out); /* finite, decimal point whatever the locale */

/* '*' and '?' wildcard match of a whole name, for layer patterns. */
bool esp_glob_match(const char *pattern, const char *name);

#endif
