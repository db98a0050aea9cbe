/* What most tests of pruning stand on: a network, a plan, its preview, and images that fit; made in one line
 * and released in one. */
#ifndef ESP_TESTS_PRUNE_CASE_H
#define ESP_TESTS_PRUNE_CASE_H

#include "unit/prune/prune_nets.h"

typedef struct prune_case {
    esp_graph *graph;
    esp_plan plan;
    esp_preview *preview;
    esp_dataset *images; /* NULL until prune_case_images */
} prune_case;

/* Takes the graph and the plan, and previews them. */
prune_case prune_case_new(esp_graph *take_graph, esp_plan take_plan);
/* Noise of the sizes that the network takes, with as many classes as it has outputs. */
esp_dataset *prune_case_images(prune_case *it, int64_t count, uint64_t seed);
void prune_case_free(prune_case *it);

/* The same images for any classifier; the caller's. */
esp_dataset *noise_for(const esp_graph *graph, int64_t count, uint64_t seed);

#endif
