/* What the files that turn a ModelProto into a graph share: the reader's state. onnx_read.c has the model and
 * its values, onnx_read_node.c the nodes, onnx_read_opaque.c what cannot be understood and is kept. */
#ifndef ESP_IO_ONNX_READER_H
#define ESP_IO_ONNX_READER_H

#include "base/arena.h"
#include "io/onnx_internal.h"

/* Names in messages are cut after so many bytes. */
#define ESP_ONNX_NAME_TEXT 160

typedef struct esp_onnx_reader {
    const esp_onnx_source *source;
    const Onnx__ModelProto *model;
    const Onnx__GraphProto *graph;
    const Onnx__TensorProto **by_name;    /* the initializers, sorted by name */
    const Onnx__ValueInfoProto **outputs; /* the graph's outputs, sorted by name */
    bool *is_type_kept;                   /* per sorted output: the node that makes it has its type */
    const char **outer_names;             /* all names of the graph, sorted: what subgraphs may read */
    size_t outer_count;
    bool has_outer_names;
    bool has_opaque;
    const char *batch_symbol; /* of the first input with an open batch, or NULL */
    int64_t opset;
    esp_arena *arena;
    esp_builder *builder;
    esp_error *err;
} esp_onnx_reader;

/* Attributes that name an element type (`to` of Cast, `dtype` of generators) follow the floats to float32. */
int64_t esp_onnx_adapted_int(const char *name, int64_t value);

esp_status esp_onnx_read_node(esp_onnx_reader *in, const Onnx__NodeProto *proto, size_t index);

/* Keeps a node that cannot be run. `values` are its inputs and outputs. */
esp_status esp_onnx_keep_node(esp_onnx_reader *in, const Onnx__NodeProto *proto, const int *values,
                              const char *reason);

/* Keeps an initializer that cannot be read, when something reads it: as an opaque Constant. */
esp_status esp_onnx_keep_tensor(esp_onnx_reader *in, const Onnx__TensorProto *proto);
esp_status esp_onnx_keep_sparse(esp_onnx_reader *in, const Onnx__SparseTensorProto *proto);

/* The graph's output of this name: its position among the sorted ones, or -1. */
int64_t esp_onnx_find_output(const esp_onnx_reader *in, const char *name);

#endif
