/* What constant channels carry. */
#ifndef ESP_PRUNE_SURGERY_VALUES_H
#define ESP_PRUNE_SURGERY_VALUES_H

#include "tensor/tensor.h"

/* Of one value that a layer reads, at batch 1: per channel the lowest and the highest number it holds. `map`
 * is the value itself when that is needed: some channel differs from place to place. */
typedef struct channel_values {
    float *low, *high; /* [channels]; NULL: nobody asked */
    esp_tensor *map;
} channel_values;

/* Per value of a graph. */
typedef struct surgery_values {
    int count;
    channel_values *items;
} surgery_values;

void surgery_values_free(surgery_values *values);

#endif
