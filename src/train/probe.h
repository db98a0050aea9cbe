/* A copy of a network made to be looked at by an executor for training: gates stand behind values so that
 * their gradients can be read, batch-norms tell what they see, and Dropout is left out. */
#ifndef ESP_TRAIN_PROBE_H
#define ESP_TRAIN_PROBE_H

#include "graph/graph.h"
#include "graph/infer.h"

/* value' = value * gate + shift, with gate and shift new graph inputs [N, 1.., channels, 1..]: at gates of
 * ones and shifts of zeros nothing changes, and their gradients are, per image and channel, sum value *
 * dvalue and sum dvalue over positions. */
typedef struct esp_probe_gate {
    int value;
    int axis;        /* of the channels; not 0 */
    bool is_shifted; /* false: value' = value * gate */
} esp_probe_gate;

typedef struct esp_probe_request {
    const esp_inferred *inferred; /* of the graph at batch 1 */
    int gate_count;
    const esp_probe_gate *gates;
    bool measures_norms; /* after a forward pass of an executor for training, the running statistics in its
                            parameters are those of that batch alone */
} esp_probe_request;

/* Values keep their names, outputs their order. Inputs are the model's, then for each gate its gate and, when
 * it is shifted, its shift. A value has one gate at most. ESP_UNSUPPORTED for a model that cannot run. */
esp_status esp_probe_new(const esp_graph *graph, const esp_probe_request *request, esp_graph **out,
                         esp_error *err);

#endif
