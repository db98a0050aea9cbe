/* What every cut model must satisfy, whatever was cut. */
#ifndef ESP_TESTS_SURGERY_CHECKS_H
#define ESP_TESTS_SURGERY_CHECKS_H

#include "prune/surgery.h"
#include "unit/prune/surgery_nets.h"

/* A preview by a plan; one that masks nothing, as if it came from a method, for tests to clear bits in. Frees
 * nothing. */
esp_preview *check_plan(const esp_graph *graph, esp_method method, esp_mode mode, double ratio, int groups);
esp_preview *check_open(const esp_graph *graph, esp_method method);

/* The index of a layer by its node's name, its mask. */
int check_layer(const esp_preview *preview, const char *name);
esp_mask *check_mask(const esp_preview *preview, const char *name);

/* Random masks: connections, whole filters and whole channels of most layers. */
void check_mask_at_random(esp_preview *preview, esp_rng *rng);

/* Cuts, and checks: outputs equal the masked model's at batch 3; no slot is left that nobody writes and
 * nobody reads; inputs, outputs and their names stay; the counts agree with what the masks leave. Returns the
 * cut model. */
esp_graph *check_cut(const esp_preview *preview, esp_group_form form, esp_surgery_report *report);

/* Slots that the masks alone, at both ends, say nobody needs. */
int64_t check_count_removable(const esp_preview *preview);

/* Largest |a - b| over all outputs relative to the largest |a|, on the same seeded noise. */
double check_difference(const esp_graph *a, const esp_graph *b, int64_t batch);

/* Nodes of one operator. */
int check_count_nodes(const esp_graph *graph, const char *op);

/* Dim `axis` of a constant. */
int64_t check_dim(const esp_graph *graph, const char *constant, int axis);

#endif
