/* What the files of a run by a pruning schedule share: its state between steps, in memory (gradual_run.c) and
 * on disk (gradual_state.c). */
#ifndef ESP_PRUNE_GRADUAL_INTERNAL_H
#define ESP_PRUNE_GRADUAL_INTERNAL_H

#include "prune/gradual.h"

typedef struct gradual_state {
    int steps_done;
    esp_graph *graph; /* masked, as it is after these steps; own reference */
    int record_count, record_capacity;
    esp_gradual_record *records;
} gradual_state;

void gradual_state_clear(gradual_state *state);

/* Appends a record; `*out` points to it until the next one is added. */
esp_status gradual_state_add(gradual_state *state, const esp_gradual_record *record, esp_gradual_record **out,
                             esp_error *err);

/* Writes and reads options->state_path (which is not NULL) for a run that started from `start`. Reading:
 * ESP_STATE when there is no such file. */
esp_status gradual_state_save(const esp_gradual_options *options, const esp_graph *start,
                              const gradual_state *state, esp_error *err);
esp_status gradual_state_load(const esp_gradual_options *options, const esp_graph *start,
                              gradual_state *state, esp_error *err);

#endif
