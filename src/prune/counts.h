/* Both counters of METHODS.md section 4 for a model under masks. */
#ifndef ESP_PRUNE_COUNTS_H
#define ESP_PRUNE_COUNTS_H

#include "prune/coupling.h"
#include "prune/mask.h"

/* `whole` are the counts of the model without masks (esp_graph_count). `true`: less the weights that are
 * masked, and the biases and normalisation of removable slots (prune/slots.h). `paper`: esp_layer_paper
 * of surviving weights and live filters; a filter is live while it has
 * a connection. */
esp_status esp_masked_counts(const esp_graph *graph, const esp_coupling *coupling, const esp_layers *layers,
                             const esp_mask *masks, const bool *is_removable, const esp_counts *whole,
                             esp_counts *out, esp_error *err);

/* Both counters for a model as it is: whole, less what the masks it carries take away. `inferred` at batch 1.
 * What every surface shows as the size of a model; a masked model and what surgery makes of it count the
 * same. */
esp_status esp_model_count(const esp_graph *graph, const esp_inferred *inferred, esp_counts *out,
                           esp_error *err);

/* The same with one mask per layer given by the caller. */
esp_status esp_model_count_with(const esp_graph *graph, const esp_inferred *inferred,
                                const esp_layers *layers, const esp_mask *masks, esp_counts *out,
                                esp_error *err);

/* Elements of a layer's weight, and MACs of each. */
int64_t esp_layer_weight_elements(const esp_layer *layer);
int64_t esp_layer_macs_per_weight(const esp_layer *layer);

#endif
