/* Both counters of METHODS.md section 4 for a model under masks. */
#ifndef ESP_PRUNE_COUNTS_H
#define ESP_PRUNE_COUNTS_H

#include "base/compute.h"
#include "prune/coupling.h"
#include "prune/mask.h"

struct preview_subject;

/* The `paper` counter into `counts`: esp_layer_paper of surviving weights and live filters; a filter is live
 * while it has a connection. */
void esp_paper_counts(const esp_layers *layers, const esp_mask *masks, esp_counts *counts);

/* Both counters for a model as it is. `true`: its trainable constants and MACs less the zeros under masks. Of
 * a masked model that no surgery has cut it is what surgery would leave (prune/surgery_decision.h), so that a
 * masked model and what surgery makes of it count the same. `inferred` at batch 1. What every surface shows
 * as the size of a model. */
esp_status esp_model_count(const esp_graph *graph, const esp_inferred *inferred, esp_counts *out,
                           esp_error *err);

/* The same of a preview's subject under the masks it carries; its coupling exists. */
esp_status esp_subject_count(const esp_compute *compute, const struct preview_subject *subject,
                             esp_counts *out, esp_error *err);

/* Elements of a layer's weight, and MACs of each. */
int64_t esp_layer_weight_elements(const esp_layer *layer);
int64_t esp_layer_macs_per_weight(const esp_layer *layer);

#endif
