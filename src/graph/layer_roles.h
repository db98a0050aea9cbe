/* Which layer plays which part (esp_role): used by esp_layers_list. */
#ifndef ESP_GRAPH_LAYER_ROLES_H
#define ESP_GRAPH_LAYER_ROLES_H

#include "graph/layers.h"

/* Sets the role of every layer. Found from the graph's structure, never from names. */
esp_status esp_layer_roles_find(const esp_graph *graph, esp_layers *layers, esp_error *err);

#endif
