/* Shape inference in the form simplify.c needs: tolerant of inputs of unknown size, and able to reuse what
 * another inference has folded. */
#ifndef ESP_GRAPH_INFER_INTERNAL_H
#define ESP_GRAPH_INFER_INTERNAL_H

#include "graph/infer.h"

typedef struct esp_infer_request {
    const esp_graph *graph;
    int64_t batch;
    const esp_input_shape *input_shapes;
    int input_shape_count;
    bool allows_unknown;        /* unknown dims make unknown values (rank -1) instead of an error */
    bool trusts_file;           /* likewise, and what the file declares of values behind them is believed */
    const esp_inferred *folded; /* of the same graph: constants that depend on no input are taken from here */
} esp_infer_request;

esp_status esp_infer_run(const esp_infer_request *request, esp_inferred **out, esp_error *err);

/* True when the value's shape or contents follow from what the file declares about an opaque node: good for
 * showing and counting, not for folding into the network. */
bool esp_inferred_is_tainted(const esp_inferred *inferred, int value);

/* Why the node's operator is not supported in its form, or NULL. Only where `allows_unknown` was asked for;
 * else such a node is an error. */
const char *esp_inferred_refusal(const esp_inferred *inferred, int node);

/* True when the value is known and the same whatever the inputs' shapes are. */
bool esp_inferred_is_pure(const esp_inferred *inferred, int value);

#endif
