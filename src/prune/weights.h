/* A layer's weight as rows of slices, whatever its stored axes, and the L1 sums that both methods rank by. */
#ifndef ESP_PRUNE_WEIGHTS_H
#define ESP_PRUNE_WEIGHTS_H

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

/* ESP_INVALID when a weight is not finite. */
esp_status esp_layer_l1_of(const esp_graph *graph, const esp_layer *layer, const esp_mask *mask,
                           esp_layer_l1 *out, esp_error *err);
void esp_layer_l1_free(esp_layer_l1 *l1);

#endif
