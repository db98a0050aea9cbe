/* What builder.c and builder_finish.c share: the builder's own lists. */
#ifndef ESP_GRAPH_BUILDER_INTERNAL_H
#define ESP_GRAPH_BUILDER_INTERNAL_H

#include "graph/graph_internal.h"

typedef struct esp_value_draft {
    esp_value value; /* holds a reference to its constant */
    bool is_input, is_output;
} esp_value_draft;

struct esp_builder {
    esp_arena *arena;
    const char *name;
    int64_t opset, ir_version;
    esp_value_draft *values;
    int value_count, value_capacity;
    esp_node *nodes;
    int node_count, node_capacity;
    int *inputs, *outputs;
    int input_count, input_capacity, output_count, output_capacity;
    esp_tensor **tensors; /* held for attributes */
    int tensor_count, tensor_capacity;
    esp_name_table value_names, node_names;
    esp_metadata_list metadata;
    int suffix; /* of the last made-up name that needed many tries */
};

static inline esp_status esp_builder_no_memory(esp_error *err)
{
    return esp_fail_memory(err, "a graph under construction", 0);
}

#endif
