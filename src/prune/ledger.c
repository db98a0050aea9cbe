/* The ledger is made from a finished preview when somebody asks for it: a key press that moves a ratio does
 * not pay for it. Every entry is the difference between two numbers in the chain asked -> ranked -> floor ->
 * multiple -> cut -> gone, so the entries add up by construction. */
#include "prune/ledger_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "prune/preview_internal.h"

#define WORD_OF(name, word, title)  word,
#define TITLE_OF(name, word, title) title,
static const char *const reason_words[] = {ESP_REASON_LIST(WORD_OF)};
static const char *const reason_titles[] = {ESP_REASON_LIST(TITLE_OF)};

/* Below this an amount is an error of rounding, not a part of a filter. */
#define NOTHING 1e-9

const char *esp_reason_word(esp_reason reason)
{
    return reason_words[reason];
}

const char *esp_reason_title(esp_reason reason)
{
    return reason_titles[reason];
}

esp_status ledger_add(esp_ledger_layer *layer, esp_reason reason, double amount, esp_error *err,
                      const char *format, ...)
{
    esp_ledger_entry entry = {.reason = reason, .amount = amount}, *entries;
    size_t count = (size_t)layer->entry_count;
    va_list arguments;

    if (fabs(amount) < NOTHING)
        return ESP_OK;
    va_start(arguments, format);
    vsnprintf(entry.text, sizeof entry.text, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < count; i++)
        if (layer->entries[i].reason == reason && strcmp(layer->entries[i].text, entry.text) == 0) {
            layer->entries[i].amount += amount;
            return ESP_OK;
        }
    entries = esp_realloc(layer->entries, count, count + 1, sizeof *entries);
    if (!entries)
        return esp_fail_memory(err, "a ledger", (count + 1) * sizeof *entries);
    entries[count] = entry;
    layer->entries = entries;
    layer->entry_count++;
    return ESP_OK;
}

/* Shares from amounts; entries of several parts of a layer may have cancelled out. */
static void finish(esp_ledger_layer *layer)
{
    int kept = 0;

    for (int i = 0; i < layer->entry_count; i++) {
        esp_ledger_entry *entry = &layer->entries[i];
        if (fabs(entry->amount) < NOTHING)
            continue;
        entry->share = entry->amount / (double)layer->units;
        layer->entries[kept++] = *entry;
    }
    layer->entry_count = kept;
}

esp_status esp_ledger_new(const esp_preview *preview, esp_ledger *out, esp_error *err)
{
    size_t count = (size_t)preview->layers.count;
    esp_ledger ledger = {.counts_filters = preview->plan.method != ESP_METHOD_SG,
                         .count = preview->layers.count,
                         .layers = esp_alloc_zero(count, sizeof *ledger.layers)};
    esp_status status =
        ledger.layers ? ESP_OK : esp_fail_memory(err, "a ledger", count * sizeof *ledger.layers);

    *out = (esp_ledger){0};
    for (int l = 0; status == ESP_OK && l < ledger.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        esp_ledger_layer *line = &ledger.layers[l];
        line->units = layer->filters * (ledger.counts_filters ? 1 : layer->channels);
        line->got = preview->items[l].got;
        if (!ledger.counts_filters)
            status = ledger_groups(preview, l, line, err);
    }
    if (status == ESP_OK && ledger.counts_filters)
        status = ledger_slots(preview, &ledger, err);
    for (int l = 0; status == ESP_OK && l < ledger.count; l++)
        finish(&ledger.layers[l]);
    if (status == ESP_OK)
        *out = ledger;
    else
        esp_ledger_free(&ledger);
    return status;
}

void esp_ledger_free(esp_ledger *ledger)
{
    if (!ledger)
        return;
    for (int l = 0; ledger->layers && l < ledger->count; l++)
        esp_free(ledger->layers[l].entries);
    esp_free(ledger->layers);
    *ledger = (esp_ledger){0};
}

/* ---- as text and JSON ---- */

static const esp_ledger_entry *largest_below(const esp_ledger_layer *layer, const esp_ledger_entry *last)
{
    const esp_ledger_entry *best = NULL;

    for (int i = 0; i < layer->entry_count; i++) {
        const esp_ledger_entry *entry = &layer->entries[i];
        double size = fabs(entry->amount);
        bool is_listed = last && (size > fabs(last->amount) || (size >= fabs(last->amount) && entry <= last));
        if (!is_listed && (!best || size > fabs(best->amount)))
            best = entry;
    }
    return best;
}

/* Reasons that mean nothing without their text. */
static bool says_why(esp_reason reason)
{
    return reason == ESP_REASON_COUPLING || reason == ESP_REASON_METHOD || reason == ESP_REASON_UNCUTTABLE;
}

char *esp_ledger_summary(const esp_ledger_layer *layer, char *buffer, size_t size)
{
    size_t used = 0;

    buffer[0] = '\0';
    for (const esp_ledger_entry *entry = largest_below(layer, NULL); entry && used < size;
         entry = largest_below(layer, entry))
        used += (size_t)snprintf(buffer + used, size - used,
                                 says_why(entry->reason) ? "%s%s %.3g (%s)" : "%s%s %.3g", used ? ", " : "",
                                 reason_words[entry->reason], entry->amount, entry->text);
    return buffer;
}

/* ---- nothing at all ---- */

enum { NOTHING_REASONS = 3, KIND_SIZE = 72 };

/* Layers whose main reason is the same but for the names in it. */
typedef struct reason_kind {
    char text[KIND_SIZE];
    int layers;
} reason_kind;

/* The entry's text with dots for the names. */
static void kind_of(const esp_ledger_entry *entry, char *out)
{
    size_t used = 0;
    bool is_inside = false;

    for (const char *p = entry->text[0] ? entry->text : esp_reason_title(entry->reason);
         *p && used + 4 < KIND_SIZE; p++) {
        if (*p == '\'' && !is_inside)
            used += (size_t)snprintf(out + used, KIND_SIZE - used, "...");
        else if (*p != '\'' && !is_inside)
            out[used++] = *p;
        is_inside = is_inside != (*p == '\'');
    }
    out[used] = '\0';
}

static void count_kind(reason_kind *kinds, int *count, const esp_ledger_entry *entry)
{
    char text[KIND_SIZE];
    int i = 0;

    kind_of(entry, text);
    while (i < *count && strcmp(kinds[i].text, text) != 0)
        i++;
    if (i == *count)
        snprintf(kinds[(*count)++].text, KIND_SIZE, "%s", text);
    kinds[i].layers++;
}

/* Parts of layers that surgery split carry its suffix. */
static bool is_split_part(const char *name)
{
    const char *end = strrchr(name, '/');

    return end && strncmp(end, "/group", 6) == 0 && end[6] >= '0' && end[6] <= '9';
}

static bool gets_something(const esp_ledger *ledger, const esp_preview *preview)
{
    bool is_asked = false;

    for (int l = 0; l < ledger->count; l++) {
        const esp_mask *mask = &preview->items[l].mask;
        is_asked = is_asked || ledger->layers[l].asked > 0;
        if (!esp_mask_equal(mask, &preview->subject->masks[l]))
            return true;
    }
    return !is_asked;
}

bool esp_ledger_nothing(const esp_ledger *ledger, const esp_preview *preview, char *buffer, size_t size)
{
    reason_kind *kinds = esp_alloc_zero((size_t)ledger->count + 1, sizeof *kinds);
    int count = 0, parts = 0;
    size_t used = 0;

    buffer[0] = '\0';
    if (!kinds || gets_something(ledger, preview)) {
        esp_free(kinds);
        return false;
    }
    for (int l = 0; l < ledger->count; l++) {
        const esp_ledger_entry *main_reason = largest_below(&ledger->layers[l], NULL);
        if (main_reason && ledger->layers[l].asked > 0)
            count_kind(kinds, &count, main_reason);
        parts += is_split_part(preview->layers.items[l].name);
    }
    for (int said = 0; said < NOTHING_REASONS && used < size; said++) {
        int most = 0;
        for (int i = 1; i < count; i++)
            most = kinds[i].layers > kinds[most].layers ? i : most;
        if (!count || !kinds[most].layers)
            break;
        used += (size_t)snprintf(buffer + used, size - used, "%s%s (%d layer%s)", said ? "; " : "",
                                 kinds[most].text, kinds[most].layers, kinds[most].layers == 1 ? "" : "s");
        kinds[most].layers = 0;
    }
    if (2 * parts > ledger->count && used < size)
        snprintf(buffer + used, size - used,
                 "%smost layers are groups that self-grouping made: sg can cut them further",
                 used ? "; " : "");
    esp_free(kinds);
    return true;
}

json_t *esp_ledger_layer_to_json(const esp_ledger_layer *layer)
{
    json_t *entries = json_array(), *object;
    bool is_whole = entries != NULL;

    for (int i = 0; i < layer->entry_count; i++) {
        const esp_ledger_entry *entry = &layer->entries[i];
        json_t *item =
            json_pack("{s:s, s:f, s:f, s:o}", "reason", reason_words[entry->reason], "amount", entry->amount,
                      "share", entry->share, "text", preview_json_text(entry->text));
        if (!item || json_array_append_new(entries, item) != 0)
            is_whole = false;
    }
    object = is_whole ? json_pack("{s:f, s:f, s:I, s:O}", "asked", layer->asked, "got", layer->got, "units",
                                  (json_int_t)layer->units, "entries", entries)
                      : NULL;
    json_decref(entries);
    return object;
}

esp_status esp_ledger_to_json(const esp_ledger *ledger, const esp_layers *layers, json_t **out,
                              esp_error *err)
{
    json_t *list = json_array();
    bool is_whole = list != NULL;

    for (int l = 0; l < ledger->count; l++) {
        json_t *item = esp_ledger_layer_to_json(&ledger->layers[l]);
        if (!item || json_object_set_new(item, "name", json_string(layers->items[l].name)) != 0 ||
            json_array_append(list, item) != 0)
            is_whole = false;
        json_decref(item);
    }
    *out = is_whole ? json_pack("{s:s, s:O}", "unit", ledger->counts_filters ? "filters" : "connections",
                                "layers", list)
                    : NULL;
    json_decref(list);
    return *out ? ESP_OK : esp_fail(err, ESP_INVALID, "ledger: a layer's name is not valid UTF-8");
}
