/* A mutable working copy of a graph's trainable tensors and running statistics, with gradients: what training
 * changes. Executors made with the same params see every change at once. */
#ifndef ESP_GRAPH_PARAMS_H
#define ESP_GRAPH_PARAMS_H

#include <stdbool.h>

#include "graph/graph.h"

typedef struct esp_params esp_params;

typedef struct esp_param {
    int value; /* the constant it comes from */
    const char *name;
    bool is_running; /* running statistic: no gradient, no decay */
    bool is_weight;  /* weight of a layer (Conv, Gemm, MatMul), as against bias or normalisation */
    int64_t elements;
    const esp_shape *shape;
    float *data;
    float *grad; /* NULL for running statistics */
    /* Nobody wants its gradient: executors made after this was set leave out what they can of it. `grad` is
     * then zero after backward, or whatever fell off beside a gradient that is wanted. All other results are
     * the same bits. Starts as false. */
    bool is_frozen;
} esp_param;

/* Every constant that some node takes as a trainable or running input (op table), once. */
esp_status esp_params_new(const esp_graph *graph, esp_params **out, esp_error *err);
void esp_params_free(esp_params *params);
int esp_params_count(const esp_params *params);
esp_param *esp_params_at(esp_params *params, int index);
int esp_params_find(const esp_params *params, int value); /* index of a value's parameter, or -1 */

/* Whoever writes into `data` says so afterwards: executors for evaluation keep what they have made of it
 * (packed weights, folded normalisation) until the generation changes. The optimizer, esp_params_copy and
 * training runs of an executor do. */
void esp_params_touch(esp_params *params);
uint64_t esp_params_generation(const esp_params *params);

/* Copies data (not gradients) between two params of the same graph. */
void esp_params_copy(esp_params *target, const esp_params *source);

/* The graph these params were made from, with the present data as constants. */
esp_status esp_params_to_graph(const esp_params *params, esp_graph **out, esp_error *err);

#endif
