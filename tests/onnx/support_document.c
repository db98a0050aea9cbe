/* The document is read whole, the piece in question is replaced in memory, and the result is compared with
 * the file or written over it. */
#include "onnx/support_document.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "graph/op_facts.h"

#define DOCUMENT_PATH ESP_SOURCE_DIR "/docs/onnx-support.md"

double support_percent(int part, int whole)
{
    return whole == 0 ? 0.0 : 100.0 * part / whole;
}

/* Puts `piece` in place of [begin, end) of the document. */
static bool replace(const char *document, const char *begin, const char *end, const esp_text *piece,
                    const char *what, bool writes)
{
    esp_error err = {0};
    size_t length = (size_t)(end - begin);
    if (piece->is_broken || piece->data == NULL)
        return false;
    if (piece->length == length && memcmp(piece->data, begin, length) == 0)
        return true;
    if (!writes) {
        printf("WRONG docs/onnx-support.md: %s changed; run this test's program with --write\n", what);
        return false;
    }
    esp_text text = {0};
    esp_text_append_n(&text, document, (size_t)(begin - document));
    esp_text_append_n(&text, piece->data, piece->length);
    esp_text_append(&text, end);
    bool is_written =
        !text.is_broken && esp_file_write(DOCUMENT_PATH, text.data, text.length, &err) == ESP_OK;
    if (!is_written)
        printf("WRONG docs/onnx-support.md: %s\n", err.message);
    esp_text_free(&text);
    return is_written;
}

static char *read_document(void)
{
    char *document = NULL;
    size_t size;
    esp_error err = {0};
    if (esp_file_read(DOCUMENT_PATH, &document, &size, &err) != ESP_OK) {
        printf("WRONG %s\n", err.message);
        return NULL;
    }
    return document;
}

bool support_document_totals(const char *group, const support_totals *totals, bool writes)
{
    char start[96];
    esp_text row = {0};
    bool is_right = false;
    char *document = read_document();
    snprintf(start, sizeof start, "\n| `%s` |", group);
    char *begin = document == NULL ? NULL : strstr(document, start);
    char *end = begin == NULL ? NULL : strchr(begin + 1, '\n');
    esp_text_printf(&row, "\n| `%s` | %d | %d | %d | %d | %d | %d of %d (%.1f %%) | %d of %d (%.1f %%) |",
                    group, totals->cases, totals->passed, totals->bound, totals->failed, totals->unsupported,
                    totals->table_passed, totals->table_cases,
                    support_percent(totals->table_passed, totals->table_cases), totals->network_passed,
                    totals->network_cases, support_percent(totals->network_passed, totals->network_cases));
    if (end != NULL)
        is_right = replace(document, begin, end, &row, group, writes);
    else if (document != NULL)
        printf("WRONG docs/onnx-support.md has no row for '%s'\n", group);
    esp_text_free(&row);
    esp_free(document);
    return is_right;
}

static void append_operators(esp_text *text)
{
    esp_op_facts facts;
    char opsets[96];
    esp_text_append(text, "| operator | opsets | gradient | layouts | channels |\n"
                          "|---|---|---|---|---|\n");
    for (int i = 0; esp_op_facts_at(i, &facts); i++)
        esp_text_printf(text, "| %s | %s | %s | %s | %s |\n", facts.name,
                        esp_op_opsets(&facts, opsets, sizeof opsets), facts.has_gradient ? "yes" : "no",
                        facts.takes_blocks ? "plain, blocked" : "plain", facts.channels);
    esp_text_append(text, "\n");
    for (int rule = ESP_CHANNEL_COPY; rule <= ESP_CHANNEL_BLOCK; rule++)
        esp_text_printf(text, "- *%s*: %s.\n", esp_channel_word((esp_channel_rule)rule),
                        esp_channel_meaning((esp_channel_rule)rule));
}

bool support_document_operators(bool writes)
{
    static const char begin_mark[] = "<!-- operators: begin -->\n", end_mark[] = "<!-- operators: end -->";
    esp_text table = {0};
    bool is_right = false;
    char *document = read_document();
    char *begin = document == NULL ? NULL : strstr(document, begin_mark);
    char *end = begin == NULL ? NULL : strstr(begin, end_mark);
    append_operators(&table);
    if (end != NULL)
        is_right =
            replace(document, begin + sizeof begin_mark - 1, end, &table, "the table of operators", writes);
    else if (document != NULL)
        printf("WRONG docs/onnx-support.md has no marks around its table of operators\n");
    esp_text_free(&table);
    esp_free(document);
    return is_right;
}
