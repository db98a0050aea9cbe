/* A layer's weight as rows of slices, whatever its stored axes, and the L1 sums that both methods rank by. */
#ifndef ESP_PRUNE_WEIGHTS_H
#define ESP_PRUNE_WEIGHTS_H

#include "base/compute.h"
#include "graph/layers.h"
#include "prune/mask.h"

/* data [filters, channels, positions]: the tensor's own memory where the stored order is that one, else a
 * copy. */
typedef struct esp_weight_rows {
    const float *data;
    float *owned;
    int64_t positions; /* kernel_h * kernel_w */
} esp_weight_rows;

/* ESP_UNSUPPORTED when the weight is not stored in the model. */
esp_status esp_weight_rows_of(const esp_graph *graph, const esp_layer *layer, esp_weight_rows *out,
                              esp_error *err);
void esp_weight_rows_free(esp_weight_rows *rows);

/* L1 norms of a layer under a mask, in double: filters[f] = sum |W[f] * M[f]|, channels[c] = sum |W[:,c] *
 * M[:,c]|. */
typedef struct esp_layer_l1 {
    double *filters, *channels;
} esp_layer_l1;

/* The norms of all layers that are wanted (NULL: all), in one pass over each weight, over the pool; out
 * [layers->count] keeps NULL for the others. `masks` has one mask per layer. Filters with equal weights have
 * equal norms to the last bit, and so have channels. ESP_INVALID when a weight is not finite where the mask
 * keeps it, ESP_UNSUPPORTED when one is not stored in the model. */
esp_status esp_layers_l1(const esp_compute *compute, const esp_graph *graph, const esp_layers *layers,
                         const esp_mask *masks, const bool *is_wanted, esp_layer_l1 *out, esp_error *err);

/* Those of one layer. */
esp_status esp_layer_l1_of(const esp_graph *graph, const esp_layer *layer, const esp_mask *mask,
                           esp_layer_l1 *out, esp_error *err);
void esp_layer_l1_free(esp_layer_l1 *l1);

/* The sum of |x|, or of x^2, of `count` floats, in double, in an order that depends on `count` alone. */
double esp_magnitude_sum(int64_t count, const float *values);
double esp_square_sum(int64_t count, const float *values);

#endif
