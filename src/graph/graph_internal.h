/* What graph.c and builder.c share: the layout of a graph. Other files of the layer use graph/graph.h. */
#ifndef ESP_GRAPH_GRAPH_INTERNAL_H
#define ESP_GRAPH_GRAPH_INTERNAL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "graph/graph.h"

/* Name -> index, open addressing. Names are borrowed. Zero-initialise. */
typedef struct esp_name_entry {
    const char *name;
    int index;
} esp_name_entry;

typedef struct esp_name_table {
    esp_name_entry *entries;
    int capacity, count;
} esp_name_table;

int esp_name_table_find(const esp_name_table *table, const char *name); /* -1 when absent */
/* `name` must not be in the table. False when memory is out. */
bool esp_name_table_add(esp_name_table *table, const char *name, int index);
void esp_name_table_free(esp_name_table *table);

/* Key-value pairs that own their strings. */
typedef struct esp_metadata {
    char *key, *value;
} esp_metadata;

typedef struct esp_metadata_list {
    int count;
    esp_metadata *items;
} esp_metadata_list;

const char *esp_metadata_find(const esp_metadata_list *list, const char *key);
/* Adds or replaces; a NULL value removes. False when memory is out (the list is then unchanged). */
bool esp_metadata_set(esp_metadata_list *list, const char *key, const char *value);
bool esp_metadata_copy(esp_metadata_list *target, const esp_metadata_list *source);
void esp_metadata_free(esp_metadata_list *list);

/* Everything but the constants' contents and the metadata: shared by all graphs that differ only in those. */
typedef struct esp_graph_body {
    atomic_int references;
    esp_arena *arena; /* holds names, nodes, attributes and all arrays below but the tables */
    const char *name;
    int64_t opset, ir_version;
    int node_count;
    const esp_node *nodes;
    int value_count;
    int input_count, output_count;
    const int *inputs, *outputs;
    const int *consumer_starts; /* value_count + 1 offsets into `consumers` */
    const int *consumers;
    const bool *is_output; /* per value */
    esp_name_table value_names, node_names;
    int tensor_count;
    esp_tensor **tensors; /* references held for attributes; block of esp_alloc */
} esp_graph_body;

void esp_graph_body_unref(esp_graph_body *body);

struct esp_graph {
    atomic_int references;
    esp_graph_body *body;
    esp_value *values; /* own block: holds a reference to every constant */
    esp_metadata_list metadata;
};

#endif
