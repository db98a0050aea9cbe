/* What depends on the network's inputs: the data that layers pass on, as against weights and numbers computed
 * from shapes. */
#ifndef ESP_GRAPH_FLOW_H
#define ESP_GRAPH_FLOW_H

#include <stdbool.h>

#include "graph/graph.h"

typedef struct esp_flow {
    const esp_graph *graph; /* borrowed */
    bool *is_data;          /* per value */
} esp_flow;

esp_status esp_flow_new(const esp_graph *graph, esp_flow *out, esp_error *err);
void esp_flow_free(esp_flow *flow);

/* False for absent values (-1). */
bool esp_flow_is_data(const esp_flow *flow, int value);

/* How many inputs of a node are data; the first of them, or -1. */
int esp_flow_input_count(const esp_flow *flow, const esp_node *node);
int esp_flow_input(const esp_flow *flow, const esp_node *node);

/* Whether a node makes data from data; shapes of data are not data. */
bool esp_flow_passes(const esp_flow *flow, const esp_node *node);

#endif
