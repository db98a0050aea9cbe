/* Networks with chosen weights, on top of surgery_nets.h, and previews of them that must succeed. */
#ifndef ESP_TESTS_PRUNE_NETS_H
#define ESP_TESTS_PRUNE_NETS_H

#include "prune/preview.h"
#include "unit/prune/surgery_nets.h"

/* A constant of the graph replaced by these values; gives up the old graph. */
esp_graph *net_with_values(esp_graph *take_graph, const char *constant, const float *values);

/* The name of the weight of a node; `buffer` of 64. */
const char *net_weight_name(const esp_graph *graph, const char *node);

/* stem - two residual blocks, the second with a shortcut convolution - pooling - classifier; batch-norm
 * behind every convolution. Nodes in order: Conv1 (stem), Conv4 Conv7 (block), Conv11 Conv14 Conv16 (block;
 * the last is the shortcut), Gemm22. */
esp_graph *net_residual(uint64_t seed);

/* Conv1 - Relu - Conv3 - Relu - MaxPool to 2x2 - Flatten - Gemm7 - Relu - Gemm9, all with biases. */
esp_graph *net_chain(net_fc_form form, uint64_t seed);

esp_preview *preview_of(const esp_graph *graph, const esp_plan *plan, esp_grouping_cache *cache);

/* The layer at a node; fails the test when there is none. */
int preview_layer(const esp_preview *preview, const char *node);

/* "1101 1011 ...": the rows of a mask, in one of four buffers used in turn. */
const char *mask_text(const esp_mask *mask);

#endif
