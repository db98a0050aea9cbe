/* What the files of the ledger share: one ledger while it is written. */
#ifndef ESP_PRUNE_LEDGER_INTERNAL_H
#define ESP_PRUNE_LEDGER_INTERNAL_H

#include "prune/ledger.h"
#include "prune/preview_internal.h"

/* Adds to the layer's entries; amounts that are nothing are left out, and those of one reason and text are
 * added up. */
esp_status ledger_add(esp_ledger_layer *layer, esp_reason reason, double amount, esp_error *err,
                      const char *format, ...) ESP_PRINTF(5, 6);

/* Connections of one layer under SG (ledger_groups.c). */
esp_status ledger_groups(const esp_preview *preview, int layer, esp_ledger_layer *out, esp_error *err);

/* Filters of all layers under WSP and FILTER (ledger_slots.c). */
esp_status ledger_slots(const esp_preview *preview, esp_ledger *out, esp_error *err);

/* ---- what was chosen of whole slots (ledger_slots.c); explanations read it too ---- */

typedef struct slots_view {
    const esp_preview *preview;
    const esp_coupling *coupling;
    bool is_published; /* pairs, not sets */
    int *entry_of_set; /* per set: index into the pairs or filter sets, -1 when it was not ranked */
    int *obstacles;    /* per set */
    int32_t *place;    /* per slot: its place in its set */
} slots_view;

esp_status slots_view_open(const esp_preview *preview, slots_view *out, esp_error *err);
void slots_view_close(slots_view *view);

/* Of a pair or filter set. */
const esp_slot_choice *slots_choice(const slots_view *self, int entry);
double slots_ratio(const slots_view *self, int entry);

/* What the plan asks of a layer itself. */
double slots_own_ratio(const slots_view *self, int layer, bool reads_conv);

/* Why no pair as published chooses from a layer's filters; returns the layer that would have read them, or
 * -1. */
int slots_why_no_pair(const slots_view *self, int layer, esp_reason *reason, char *why, size_t size);

/* Why nothing of set `index` (-1: of no set) can be chosen for a layer. `pinned_by` as of the slot. */
esp_reason slots_why_not_ranked(const slots_view *self, int layer, int index, const char *pinned_by,
                                char *why, size_t size);

#endif
