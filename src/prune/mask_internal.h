/* What the files of masks share: where slices lie, and how rows are written as text. */
#ifndef ESP_PRUNE_MASK_INTERNAL_H
#define ESP_PRUNE_MASK_INTERNAL_H

#include <jansson.h>

#include "prune/mask.h"

/* Where the slice (filter, channel) of a weight lies: `length` elements. Groups of a transposed convolution
 * ([channels of all groups, filters of one, kernel]) lie one behind the other: filter f is number f %
 * group_filters of group f / group_filters. */
typedef struct weight_slices {
    int64_t filters, channels;
    int64_t filter_stride, channel_stride, length;
    int64_t group_filters, group_stride;
} weight_slices;

weight_slices mask_slices(const esp_shape *shape, int filter_axis, int channel_axis, int64_t group);
int64_t mask_slice_start(const weight_slices *slices, int64_t filter, int64_t channel);

/* The version of the notes under ESP_MASK_BITS_KEY. */
#define MASK_BITS_VERSION 1

/* One mask of the notes, as the header describes; NULL: no memory. */
json_t *mask_to_json(const esp_mask *mask);

/* Clears in `out` what is masked in such a note. False, and nothing changed, when it is no note of a mask of
 * this size. */
bool mask_clear_noted(const json_t *note, esp_mask *out);

#endif
