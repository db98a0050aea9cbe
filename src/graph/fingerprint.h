/* Is it the same network? */
#ifndef ESP_GRAPH_FINGERPRINT_H
#define ESP_GRAPH_FINGERPRINT_H

#include "graph/graph.h"

/* Of operators, names, attributes, connections and contents of constants: everything that computes, not the
 * metadata. Goes through all weights. */
uint64_t esp_graph_fingerprint(const esp_graph *graph);

#endif
