/* Lines are added one by one and belong to the findings. What cannot be added for want of memory breaks the
 * whole, which is asked once at the end. */
#include "study/findings.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/memory.h"

static void release_findings(esp_shared *shared)
{
    esp_findings *findings = (esp_findings *)shared;

    for (int i = 0; i < findings->count; i++)
        for (int c = 0; c < findings->lines[i].cell_count; c++)
            esp_free(findings->lines[i].cells[c]);
    esp_free(findings->lines);
    esp_free(findings);
}

esp_status esp_findings_new(esp_findings **out, esp_error *err)
{
    *out = esp_alloc_zero(1, sizeof **out);
    if (!*out)
        return esp_fail_memory(err, "findings", sizeof **out);
    esp_shared_init(&(*out)->shared, release_findings);
    return ESP_OK;
}

void esp_findings_row(esp_findings *findings, esp_tone tone, const char *const *cells, int count)
{
    size_t before = (size_t)findings->count;
    esp_findings_line *lines, *line;

    if (findings->is_broken)
        return;
    lines = esp_realloc(findings->lines, before, before + 1, sizeof *lines);
    findings->is_broken = !lines;
    if (!lines)
        return;
    findings->lines = lines;
    line = &lines[findings->count++];
    *line = (esp_findings_line){.tone = tone};
    for (int c = 0; c < count && c < ESP_FINDINGS_CELLS; c++) {
        char *cell = esp_strdup(cells[c] ? cells[c] : "");
        if (cell)
            line->cells[line->cell_count++] = cell;
        else
            findings->is_broken = true;
    }
}

void esp_findings_say(esp_findings *findings, esp_tone tone, const char *format, ...)
{
    char text[512];
    const char *cell = text;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    esp_findings_row(findings, tone, &cell, text[0] ? 1 : 0);
}

void esp_findings_section(esp_findings *findings, const char *title)
{
    esp_findings_row(findings, ESP_TONE_PLAIN, NULL, 0);
    esp_findings_row(findings, ESP_TONE_HEADING, &title, 1);
}
