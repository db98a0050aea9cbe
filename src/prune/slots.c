/* Everything here is a sweep over layers that marks slots. A depthwise layer writes the slots it reads and is
 * no user of them, nor is another layer whose whole groups are cut: it goes where they go. */
#include "prune/slots.h"

#include <string.h>

#include "base/memory.h"

/* A layer with filters and channels of its own for its slots. */
static bool is_user(const esp_coupling *coupling, const esp_layers *layers, int layer)
{
    (void)layers;
    return !esp_coupling_layer_follows(coupling, layer);
}

/* marks[slot] = true for every slot of which some column is read by some filter. */
static esp_status mark_read(const esp_coupling *coupling, const esp_layers *layers, const esp_mask *masks,
                            bool *marks, esp_error *err)
{
    for (int l = 0; l < layers->count; l++) {
        const int32_t *reads = esp_coupling_reads(coupling, l);
        esp_mask joined; /* one row: the channels any filter reads */
        esp_status status;
        if (!reads)
            continue;
        status = esp_mask_new(1, masks[l].channels, &joined, err);
        if (status != ESP_OK)
            return status;
        memset(joined.words, 0, (size_t)joined.row_words * sizeof *joined.words);
        for (int64_t f = 0; f < masks[l].filters; f++)
            for (int64_t w = 0; w < joined.row_words; w++)
                joined.words[w] |= masks[l].words[f * masks[l].row_words + w];
        for (int64_t c = 0; c < masks[l].channels; c++)
            if (esp_mask_get(&joined, 0, c))
                marks[reads[c]] = true;
        esp_mask_free(&joined);
    }
    return ESP_OK;
}

esp_status esp_slots_removable(const esp_coupling *coupling, const esp_layers *layers, const esp_mask *masks,
                               bool *is_removable, esp_error *err)
{
    size_t limit = (size_t)esp_coupling_slot_limit(coupling);
    bool *is_alive = esp_alloc_zero(limit, sizeof *is_alive);
    bool *is_written = esp_alloc_zero(limit, sizeof *is_written);
    esp_status status = ESP_OK;

    if (!is_alive || !is_written)
        status = esp_fail_memory(err, "coupled sets", limit * sizeof *is_alive);
    if (status == ESP_OK)
        status = mark_read(coupling, layers, masks, is_alive, err);
    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        const int32_t *writes = esp_coupling_writes(coupling, l);
        for (int64_t f = 0; writes && is_user(coupling, layers, l) && f < masks[l].filters; f++) {
            is_written[writes[f]] = true;
            if (esp_mask_filter_is_live(&masks[l], f))
                is_alive[writes[f]] = true;
        }
    }
    for (size_t s = 0; status == ESP_OK && s < limit; s++)
        is_removable[s] = s != ESP_SLOT_ZERO && is_written[s] && !is_alive[s] &&
                          !esp_coupling_pinned_by(coupling, (int32_t)s);
    esp_free(is_alive);
    esp_free(is_written);
    return status;
}

/* Slots that may be cleared when nobody reads them. */
static void mark_free(const esp_coupling *coupling, const esp_layers *layers, const bool *is_frozen,
                      bool *is_free)
{
    for (int32_t s = 1; s < esp_coupling_slot_limit(coupling); s++) {
        int set = esp_coupling_slot_set(coupling, s);
        is_free[s] = set >= 0 && esp_coupling_set(coupling, set)->reader_count > 0 &&
                     !esp_coupling_pinned_by(coupling, s);
    }
    for (int l = 0; l < layers->count; l++) {
        const int32_t *writes = esp_coupling_writes(coupling, l);
        for (int64_t f = 0; writes && is_frozen[l] && f < layers->items[l].filters; f++)
            is_free[writes[f]] = false;
    }
}

/* Clears the filters that write dead slots; returns whether one still had connections. */
static bool clear_writers(const esp_coupling *coupling, const esp_layers *layers, const bool *is_free,
                          const bool *is_read, esp_mask *masks)
{
    bool is_changed = false;

    for (int l = 0; l < layers->count; l++) {
        const int32_t *writes = esp_coupling_writes(coupling, l);
        for (int64_t f = 0; writes && is_user(coupling, layers, l) && f < masks[l].filters; f++) {
            if (!is_free[writes[f]] || is_read[writes[f]] || !esp_mask_filter_is_live(&masks[l], f))
                continue;
            esp_mask_clear_filter(&masks[l], f);
            is_changed = true;
        }
    }
    return is_changed;
}

esp_status esp_slots_cascade(const esp_coupling *coupling, const esp_layers *layers, const bool *is_frozen,
                             esp_mask *masks, esp_error *err)
{
    size_t limit = (size_t)esp_coupling_slot_limit(coupling);
    bool *is_free = esp_alloc_zero(limit, sizeof *is_free);
    bool *is_read = esp_alloc_zero(limit, sizeof *is_read);
    bool is_changed = true;
    esp_status status = ESP_OK;

    if (!is_free || !is_read)
        status = esp_fail_memory(err, "coupled sets", limit * sizeof *is_free);
    else
        mark_free(coupling, layers, is_frozen, is_free);
    while (status == ESP_OK && is_changed) {
        memset(is_read, 0, limit * sizeof *is_read);
        status = mark_read(coupling, layers, masks, is_read, err);
        if (status == ESP_OK)
            is_changed = clear_writers(coupling, layers, is_free, is_read, masks);
    }
    esp_free(is_free);
    esp_free(is_read);
    return status;
}

void esp_slots_follow(const esp_coupling *coupling, const esp_layers *layers, const bool *is_removable,
                      esp_mask *masks)
{
    for (int l = 0; l < layers->count; l++) {
        const int32_t *writes = esp_coupling_writes(coupling, l);
        for (int64_t f = 0; writes && !is_user(coupling, layers, l) && f < masks[l].filters; f++)
            if (is_removable[writes[f]])
                esp_mask_clear_filter(&masks[l], f);
    }
}
