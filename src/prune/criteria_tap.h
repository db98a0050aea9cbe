/* Where a layer's map is looked at: behind the batch-norm, bias and activation function that follow it. */
#ifndef ESP_PRUNE_CRITERIA_TAP_H
#define ESP_PRUNE_CRITERIA_TAP_H

#include <stdbool.h>

#include "graph/layers.h"

typedef struct esp_tap {
    int value; /* -1: the layer has none of the kind */
    int axis;  /* of its channels, which are the layer's filters */
} esp_tap;

/* The layer's own map: its output, carried on through nodes that act on each position alone, keep the shape,
 * read no other activation and are its only reader (batch-norm, bias, scale), up to and with the first that
 * is not affine: the activation function. */
esp_tap esp_tap_map(const esp_graph *graph, const esp_inferred *inferred, const esp_layer *layer);

/* The same, carried on through sums with other maps of its shape (residual connections) as well, when it ends
 * in an activation function that turns some numbers into 0 and not all (Relu, Clip at 0, ...); none
 * otherwise. */
esp_tap esp_tap_rectified(const esp_graph *graph, const esp_inferred *inferred, const esp_layer *layer);

#endif
