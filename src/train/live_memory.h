/* The least memory an evaluation's values can do with. */
#ifndef ESP_TRAIN_LIVE_MEMORY_H
#define ESP_TRAIN_LIVE_MEMORY_H

#include "graph/graph.h"
#include "graph/infer.h"

/* The most bytes that values in use at the same moment take when nodes run one by one in the graph's order.
 * Constants and what is folded from them do not count; a view, and an output written over an input that dies
 * there (op table), take no memory of their own. Scratch memory of kernels is not in it. */
esp_status esp_live_bytes(const esp_graph *graph, const esp_inferred *inferred, size_t *out, esp_error *err);

#endif
