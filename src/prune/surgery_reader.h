/* A layer that still reads constants of cut channels, as the files that fold constants see it. */
#ifndef ESP_PRUNE_SURGERY_READER_H
#define ESP_PRUNE_SURGERY_READER_H

#include "prune/surgery_internal.h"

/* Rounding of float32 sums, relative to the largest term. */
#define SURGERY_SAME_TOLERANCE 1e-5

typedef struct reader {
    const esp_layer *layer;
    const esp_node *node;
    esp_layer_form form;
    int index;
    const esp_mask *mask;
    const channel_list *filters;         /* those that remain */
    const channel_values *values;        /* of its input */
    bool *is_needed, *is_zero, *is_flat; /* per channel of the input value (of all groups) */
    uint64_t *words;                     /* per group: columns that remaining filters read */
    esp_value_slots input;
    esp_shape input_shape, output_shape;
} reader;

/* Whether what the needed channels contribute differs from place to place, found by looking at few places and
 * weights. `*is_decided` false: it takes a run of the layer to know. */
esp_status surgery_reader_varies(const surgery *self, const reader *item, bool is_any_uneven, bool *varies,
                                 bool *is_decided, esp_error *err);

#endif
