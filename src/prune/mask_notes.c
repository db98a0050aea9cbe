/* Masks as text in a model's metadata (the format is in mask.h). Filters of a layer share few rows, so rows
 * are written once and filters name them: 13 million bits of ResNet-50 are some hundred kilobytes. */
#include "prune/mask.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "prune/mask_internal.h"

struct esp_mask_notes {
    json_t *names, *masks;
};

/* ---- one mask ---- */

static json_t *row_to_json(const esp_mask *mask, int64_t filter)
{
    static const char digits[] = "0123456789abcdef";
    const uint64_t *words = mask->words + filter * mask->row_words;
    size_t length = (size_t)((mask->channels + 3) / 4);
    char *text = esp_alloc(length + 1, 1);
    json_t *row;

    if (!text)
        return NULL;
    for (size_t i = 0; i < length; i++)
        text[i] = digits[words[i / 16] >> (i % 16 * 4) & 0xf];
    text[length] = '\0';
    row = json_string(text);
    esp_free(text);
    return row;
}

json_t *mask_to_json(const esp_mask *mask)
{
    json_t *rows = json_array(), *order = json_array(), *note = NULL;
    int32_t *groups = esp_alloc((size_t)mask->filters + 1, sizeof *groups);
    bool is_good = rows && order && groups;
    int32_t known = 0;

    if (is_good)
        esp_mask_executed_groups(mask, groups);
    for (int64_t f = 0; is_good && f < mask->filters; f++) {
        if (groups[f] == known) {
            is_good = json_array_append_new(rows, row_to_json(mask, f)) == 0;
            known++;
        }
        is_good = is_good && json_array_append_new(order, json_integer(groups[f])) == 0;
    }
    if (is_good)
        note = json_pack("{s:I, s:O, s:O}", "channels", (json_int_t)mask->channels, "rows", rows, "filters",
                         order);
    json_decref(rows);
    json_decref(order);
    esp_free(groups);
    return note;
}

/* The value of a hexadecimal digit, or -1. */
static int digit_of(char letter)
{
    if (letter >= '0' && letter <= '9')
        return letter - '0';
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

static bool is_row(const json_t *row, int64_t channels)
{
    const char *text = json_string_value(row);
    size_t length = (size_t)((channels + 3) / 4);

    if (!text || strlen(text) != length)
        return false;
    for (size_t i = 0; i < length; i++)
        if (digit_of(text[i]) < 0)
            return false;
    return true;
}

static bool is_note_of(const json_t *note, const esp_mask *mask)
{
    const json_t *rows = json_object_get(note, "rows"), *order = json_object_get(note, "filters");
    size_t index;
    json_t *item;

    if (json_integer_value(json_object_get(note, "channels")) != mask->channels || !json_is_array(rows) ||
        json_array_size(order) != (size_t)mask->filters)
        return false;
    json_array_foreach((json_t *)(uintptr_t)rows, index,
                       item) if (!is_row(item, mask->channels)) return false;
    json_array_foreach((json_t *)(uintptr_t)order, index,
                       item) if (!json_is_integer(item) || json_integer_value(item) < 0 ||
                                 (size_t)json_integer_value(item) >= json_array_size(rows)) return false;
    return true;
}

bool mask_clear_noted(const json_t *note, esp_mask *out)
{
    const json_t *rows = json_object_get(note, "rows"), *order = json_object_get(note, "filters");

    if (!is_note_of(note, out))
        return false;
    for (int64_t f = 0; f < out->filters; f++) {
        size_t row = (size_t)json_integer_value(json_array_get(order, (size_t)f));
        const char *text = json_string_value(json_array_get(rows, row));
        for (int64_t c = 0; c < out->channels; c++)
            if ((digit_of(text[c / 4]) >> c % 4 & 1) == 0)
                esp_mask_clear(out, f, c);
    }
    return true;
}

/* ---- a model's ---- */

esp_status esp_mask_notes_new(esp_mask_notes **out, esp_error *err)
{
    esp_mask_notes *notes = esp_alloc_zero(1, sizeof *notes);

    *out = NULL;
    if (!notes)
        return esp_fail_memory(err, "notes of masks", sizeof *notes);
    notes->names = json_array();
    notes->masks = json_object();
    if (notes->names && notes->masks) {
        *out = notes;
        return ESP_OK;
    }
    esp_mask_notes_free(notes);
    return esp_fail_memory(err, "notes of masks", 0);
}

void esp_mask_notes_free(esp_mask_notes *notes)
{
    if (!notes)
        return;
    json_decref(notes->names);
    json_decref(notes->masks);
    esp_free(notes);
}

esp_status esp_mask_notes_add(esp_mask_notes *notes, const char *weight_name, const esp_mask *mask,
                              esp_error *err)
{
    if (json_object_get(notes->masks, weight_name))
        return ESP_OK;
    if (json_array_append_new(notes->names, json_string(weight_name)) != 0 ||
        json_object_set_new(notes->masks, weight_name, mask_to_json(mask)) != 0)
        return esp_fail_memory(err, "notes of masks", strlen(weight_name));
    return ESP_OK;
}

esp_status esp_mask_notes_text(const esp_mask_notes *notes, bool is_cut, char **names, char **bits,
                               esp_error *err)
{
    json_t *root =
        json_pack("{s:i, s:b, s:O}", "version", MASK_BITS_VERSION, "is_cut", is_cut, "masks", notes->masks);

    *names = json_array_size(notes->names) ? esp_json_dump(notes->names, 1) : NULL;
    *bits = root && *names ? esp_json_dump(root, 1) : NULL;
    json_decref(root);
    if (!json_array_size(notes->names) || *bits)
        return ESP_OK;
    esp_free(*names);
    *names = NULL;
    return esp_fail_memory(err, "notes of masks", 0);
}
