/* Comparing graphs in tests, part by part, so that a failure names what differs. */
#ifndef ESP_TESTS_GRAPH_CHECK_H
#define ESP_TESTS_GRAPH_CHECK_H

#include "graph/graph.h"

/* Names, versions, metadata, nodes in order with inputs, outputs and attributes, declared types, and
 * constants, all to the bit. Value indices may differ. */
void assert_graphs_equal(const esp_graph *left, const esp_graph *right);

#endif
