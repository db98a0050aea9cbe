/* A part of a graph as a graph of its own: what computes some values from some others. */
#ifndef ESP_GRAPH_EXTRACT_H
#define ESP_GRAPH_EXTRACT_H

#include "graph/graph.h"
#include "graph/infer.h"

/* What is taken out of a graph. All values are indices into it. */
typedef struct esp_extract {
    const int *given;   /* inputs of the part, in this order; each once. A value may be given whether it is a
                           network input, made by a node, or a constant */
    int given_count;    /* 0 and `given` NULL: the network inputs that are needed, in the graph's order */
    const int *outputs; /* of the part, in this order; each once, at least one */
    int output_count;
    const esp_inferred *known; /* NULL, or the graph at the batch (and sizes) the part will run at: values
                                  known before run time then become constants instead of being computed, so
                                  that arithmetic on shapes does not cross the border. The part is then good
                                  for that batch only if such arithmetic depends on it */
} esp_extract;

/* The nodes on the way from what is given to the outputs, in the order they have. Names of values and nodes,
 * the graph's name, opset and metadata are kept; constants are shared by reference. An output may be given or
 * constant itself: it is then what it was.
 *
 * Inputs of the part are declared as they are in the graph when they are network inputs; others with the type
 * and shape found by inference at two batch sizes: a first dim that is the batch stays open
 * (ESP_DIM_BATCH), dims that change otherwise are unknown, as are all dims when inference is not possible
 * (open sizes without `known`): then the executor has to be told (esp_exec_options.input_shapes).
 *
 * ESP_INVALID names the output, and the network input that it would need and that is not given; also for an
 * index out of range, a value given or wanted twice, and no output. */
esp_status esp_graph_extract(const esp_graph *graph, const esp_extract *part, esp_graph **out,
                             esp_error *err);

#endif
