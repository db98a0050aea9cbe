/* What grouping a layer brought: its groups found in a graph, theory beside real time. */
#ifndef ESP_TRAIN_GROUPING_H
#define ESP_TRAIN_GROUPING_H

#include "base/compute.h"
#include "graph/graph.h"
#include "graph/infer.h"

typedef struct esp_grouping_gain {
    char *name;     /* the layer's */
    int join;       /* the Concat that puts the groups together: what every node of the layer leads to */
    int64_t groups; /* that have channels of their own */
    int64_t macs,
        dense_macs;  /* per batch: of the groups, of the layer with every filter reading every channel */
    double ms;       /* of all nodes of the layer, what was computed together with them included */
    double dense_ms; /* of the layer's dense form alone */
} esp_grouping_gain;

typedef struct esp_grouping_gains {
    int count;
    esp_grouping_gain *items;
} esp_grouping_gains;

/* Finds layers that were split into groups: a Concat along the channels whose inputs are convolutions (or
 * fully connected layers) alike in all but their filters, each reading some channels of one value through a
 * Gather (or all of them). `node_ms` holds the time of every node of the graph; the dense forms are measured
 * here, on random numbers, with the kernels the engine prefers for them. `inferred` at the batch node_ms was
 * measured at. */
esp_status esp_grouping_gains_measure(const esp_compute *compute, const esp_graph *graph,
                                      const esp_inferred *inferred, const double *node_ms,
                                      esp_grouping_gains *out, esp_error *err);
/* Speed-up that the arithmetic promises, 1 / share of MACs left, and the one that was measured. */
double esp_grouping_theory(const esp_grouping_gain *gain);
double esp_grouping_real(const esp_grouping_gain *gain);

/* Whether the layer would be faster dense, by more than the clock's noise. */
bool esp_grouping_loses(const esp_grouping_gain *gain);

/* All layers as one; it has no name. */
esp_grouping_gain esp_grouping_total(const esp_grouping_gains *gains);

void esp_grouping_gains_free(esp_grouping_gains *groupings);

#endif
