/* Masks seen from the coupled sets: which slots nobody needs any more. */
#ifndef ESP_PRUNE_SLOTS_H
#define ESP_PRUNE_SLOTS_H

#include "prune/coupling.h"
#include "prune/mask.h"

/* Slots that surgery can remove: nothing pins them, at least one layer writes them, all writers' filters are
 * masked, and no reader's column is read. is_removable[esp_coupling_slot_limit]. `masks` has one per layer.
 */
esp_status esp_slots_removable(const esp_coupling *coupling, const esp_layers *layers, const esp_mask *masks,
                               bool *is_removable, esp_error *err);

/* A free slot that layers write and read, but of which every column is masked, is dead: its writers' filters
 * are cleared, which may make more slots dead, until nothing changes. Layers with is_frozen keep their masks,
 * and so do those that write the same slots. */
esp_status esp_slots_cascade(const esp_coupling *coupling, const esp_layers *layers, const bool *is_frozen,
                             esp_mask *masks, esp_error *err);

/* Depthwise layers have no choice of their own: their filters of removable slots are cleared. */
void esp_slots_follow(const esp_coupling *coupling, const esp_layers *layers, const bool *is_removable,
                      esp_mask *masks);

#endif
