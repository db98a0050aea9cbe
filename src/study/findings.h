/* Something found out that takes more than a line to say: a heading and rows of cells, for a reader to show
 * as a page. Shared and immutable once it is in a snapshot. */
#ifndef ESP_STUDY_FINDINGS_H
#define ESP_STUDY_FINDINGS_H

#include <stdbool.h>

#include "base/status.h"
#include "prune/plan_diff.h"
#include "study/shared.h"

#define ESP_FINDINGS_CELLS 6

typedef enum esp_tone {
    ESP_TONE_PLAIN,
    ESP_TONE_HEADING, /* of a section, or of the columns below it */
    ESP_TONE_STRONG,
    ESP_TONE_GOOD,
    ESP_TONE_WARN,
    ESP_TONE_DIM,
} esp_tone;

/* Neighbouring lines with the same number of cells, two or more, are a table; its last column holds the
 * longest texts. A line without cells is empty. */
typedef struct esp_findings_line {
    esp_tone tone;
    int cell_count;
    char *cells[ESP_FINDINGS_CELLS];
} esp_findings_line;

typedef struct esp_findings {
    esp_shared shared;
    char title[128];
    /* Not 0: this is what taking over the plan of that version would do, and it waits for an answer. */
    int takes_version;
    esp_plan_side side; /* who wins then */
    bool has_sides;     /* both plans ask something, so that it matters who wins */
    int count;
    esp_findings_line *lines;
    bool is_broken; /* a line is missing for want of memory */
} esp_findings;

esp_status esp_findings_new(esp_findings **out, esp_error *err);

/* A line of one text; empty text: an empty line. After a failed allocation nothing is added any more. */
void esp_findings_say(esp_findings *findings, esp_tone tone, const char *format, ...) ESP_PRINTF(3, 4);

/* An empty line and a heading. */
void esp_findings_section(esp_findings *findings, const char *title);

/* A line of cells; NULL cells are "". */
void esp_findings_row(esp_findings *findings, esp_tone tone, const char *const *cells, int count);
#define ESP_FINDINGS_ROW(findings, tone, ...)                                                                \
    esp_findings_row((findings), (tone), (const char *const[]){__VA_ARGS__},                                 \
                     (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

#endif
