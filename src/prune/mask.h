/* Masks: one bit per (filter, channel) of a layer, 1 = kept. Both methods speak in them. */
#ifndef ESP_PRUNE_MASK_H
#define ESP_PRUNE_MASK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "graph/layers.h"
#include "train/trainer.h"

/* Row-major bits, each row padded to whole words; padding bits are 0. */
typedef struct esp_mask {
    int64_t filters, channels;
    int64_t row_words;
    uint64_t *words;
} esp_mask;

/* All ones. */
esp_status esp_mask_new(int64_t filters, int64_t channels, esp_mask *out, esp_error *err);
esp_status esp_mask_clone(const esp_mask *mask, esp_mask *out, esp_error *err);
void esp_mask_free(esp_mask *mask);
bool esp_mask_get(const esp_mask *mask, int64_t filter, int64_t channel);
void esp_mask_clear(esp_mask *mask, int64_t filter, int64_t channel);
void esp_mask_clear_filter(esp_mask *mask, int64_t filter);
void esp_mask_clear_channel(esp_mask *mask, int64_t channel);
int64_t esp_mask_kept(const esp_mask *mask);
int64_t esp_mask_filter_kept(const esp_mask *mask, int64_t filter);
bool esp_mask_filter_is_live(const esp_mask *mask, int64_t filter);   /* has a connection */
int64_t esp_mask_channels_read(const esp_mask *mask);                 /* how many, by any filter */
bool esp_mask_channel_is_read(const esp_mask *mask, int64_t channel); /* by any filter */
bool esp_mask_rows_equal(const esp_mask *mask, int64_t a, int64_t b);
bool esp_mask_equal(const esp_mask *a, const esp_mask *b);

/* Sets of filters with equal mask rows, numbered by first appearance: `groups[filters]` receives each
 * filter's number. Returns how many there are ("executed groups"; filters that read nothing form one of
 * them). */
int64_t esp_mask_executed_groups(const esp_mask *mask, int32_t *groups);

/* One 0/1 string of `channels` letters for a filter; `buffer` of channels + 1. Returns it. */
char *esp_mask_row_text(const esp_mask *mask, int64_t filter, char *buffer);

/* ---- masks and weights ---- */

/* A copy of a layer's weight tensor with masked (filter, channel) slices at zero, in the stored axis order.
 */
esp_status esp_mask_apply(const esp_mask *mask, const esp_layer *layer, const esp_tensor *weight,
                          esp_tensor **out, esp_error *err);

/* A model keeps its masks in any ONNX file: masked slices are zeros, the metadata names the layers and notes
 * the bits, so that slices which training made zero are told from masked ones.
 *
 * ESP_MASKS_KEY: JSON array of names of layers (weight initializers) that have masks.
 * ESP_MASK_BITS_KEY: {"version":1,"is_cut":B,"masks":{NAME:{"channels":C,"rows":[ROW,...],"filters":[r,...]},
 * ...}}. `is_cut`: surgery has been here, these masks are what it could not take out.
 * A row is (C + 3) / 4 hexadecimal digits; digit i holds channels 4i to 4i + 3, the first one in its lowest
 * bit; 1 = kept. Filter f has row filters[f].
 *
 * A slice is masked when its layer is named, the note of the layer says so, and it is all zero. Without a
 * note that fits the layer (files of older versions) every slice of a named layer that is all zero is masked.
 */
#define ESP_MASKS_KEY     "espalier.masks"
#define ESP_MASK_BITS_KEY "espalier.mask-bits"

/* The mask a model carries for a layer; all ones when the metadata does not list it. */
esp_status esp_mask_of_layer(const esp_graph *graph, const esp_layer *layer, esp_mask *out, esp_error *err);

/* The same for all layers, reading the metadata once: out[layers->count]. */
esp_status esp_masks_of_layers(const esp_graph *graph, const esp_layers *layers, esp_mask *out,
                               esp_error *err);

/* Whether the masks a model carries are those that surgery left; false when nothing is noted. */
esp_status esp_masks_are_left_over(const esp_graph *graph, bool *out, esp_error *err);

/* What the metadata of a model is to say of its masks. A name that was added before stays as it is. */
typedef struct esp_mask_notes esp_mask_notes;
esp_status esp_mask_notes_new(esp_mask_notes **out, esp_error *err);
void esp_mask_notes_free(esp_mask_notes *notes);
esp_status esp_mask_notes_add(esp_mask_notes *notes, const char *weight_name, const esp_mask *mask,
                              esp_error *err);
/* The texts under both keys, names in the order in which they were added; NULL both when there are none.
 * Caller frees (esp_free). */
esp_status esp_mask_notes_text(const esp_mask_notes *notes, bool is_cut, char **names, char **bits,
                               esp_error *err);

/* Everything training must hold at zero for a model: one entry per listed layer. Free with
 * esp_held_masks_free. */
typedef struct esp_held_masks {
    int count;
    esp_weight_mask *items;
} esp_held_masks;
esp_status esp_held_masks_of(const esp_graph *graph, esp_held_masks *out, esp_error *err);
void esp_held_masks_free(esp_held_masks *masks);

#endif
