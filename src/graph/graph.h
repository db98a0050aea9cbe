/* The network: an immutable, reference-counted DAG of operator nodes over named values. Weights are constants
 * of the graph, shared by reference between versions. Every change makes a new graph through a builder. */
#ifndef ESP_GRAPH_GRAPH_H
#define ESP_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "tensor/tensor.h"

typedef struct esp_graph esp_graph;
typedef struct esp_op esp_op; /* a row of the op table: graph/op.h */

/* Dims of declared shapes: known sizes are >= 0. */
#define ESP_DIM_UNKNOWN (-1)
#define ESP_DIM_BATCH   (-2) /* the batch: a symbolic or missing first dim of an input */

typedef enum esp_attr_type {
    ESP_ATTR_INT,
    ESP_ATTR_FLOAT,
    ESP_ATTR_STRING,
    ESP_ATTR_TENSOR,
    ESP_ATTR_INTS,
    ESP_ATTR_FLOATS,
    ESP_ATTR_STRINGS,
    ESP_ATTR_BYTES, /* opaque nodes only (opaque.h): as its file has it, not understood */
} esp_attr_type;

typedef struct esp_attr {
    const char *name;
    esp_attr_type type;
    int64_t i;
    float f;
    const char *s; /* may hold any bytes but zero; of ESP_ATTR_BYTES any, `count` of them */
    const esp_tensor *tensor;
    int count; /* of ints, floats, strings or bytes */
    const int64_t *ints;
    const float *floats;
    const char *const *strings;
} esp_attr;

typedef struct esp_value {
    const char *name; /* unique in the graph, never empty */
    esp_dtype dtype;
    esp_shape shape;            /* declared (inputs, outputs, constants, what the builder was told); rank -1
                                   when nothing was declared */
    const char *batch_name;     /* inputs: name of the batch dimension, "N" when the file gave none */
    int producer;               /* node index, or -1 for inputs and constants */
    const esp_tensor *constant; /* initializer, or NULL */
} esp_value;

typedef struct esp_node {
    const char *name; /* unique, never empty: operator and first output when the file had none */
    const esp_op *op;
    int input_count, output_count;
    const int *inputs;  /* value indices; -1 for an absent optional input */
    const int *outputs; /* value indices; -1 for an unused optional output */
    int attr_count;
    const esp_attr *attrs; /* as given */
    int default_count;
    const esp_attr *defaults; /* the op table's defaults of attributes that were not given */
} esp_node;

esp_graph *esp_graph_ref(const esp_graph *graph);
void esp_graph_unref(esp_graph *graph);

const char *esp_graph_name(const esp_graph *graph);
int64_t esp_graph_opset(const esp_graph *graph);
int64_t esp_graph_ir_version(const esp_graph *graph);

/* Nodes are in topological order. */
int esp_graph_node_count(const esp_graph *graph);
const esp_node *esp_graph_node(const esp_graph *graph, int index);
int esp_graph_value_count(const esp_graph *graph);
const esp_value *esp_graph_value(const esp_graph *graph, int index);
int esp_graph_input_count(const esp_graph *graph); /* without constants */
int esp_graph_input(const esp_graph *graph, int index);
int esp_graph_output_count(const esp_graph *graph);
int esp_graph_output(const esp_graph *graph, int index);

/* -1 when there is none. */
int esp_graph_find_value(const esp_graph *graph, const char *name);
int esp_graph_find_node(const esp_graph *graph, const char *name);

/* Nodes that read a value, in order; a node that reads it twice appears once. */
int esp_graph_consumer_count(const esp_graph *graph, int value);
int esp_graph_consumer(const esp_graph *graph, int value, int index);
bool esp_graph_is_output(const esp_graph *graph, int value);

/* Key-value metadata that travels with the model (ONNX metadata_props). NULL when absent. */
int esp_graph_metadata_count(const esp_graph *graph);
const char *esp_graph_metadata_key(const esp_graph *graph, int index);
const char *esp_graph_metadata_value(const esp_graph *graph, int index);
const char *esp_graph_metadata(const esp_graph *graph, const char *key);

/* A new graph in which some constants have other tensors (same type and shape), and nothing else differs. */
esp_status esp_graph_with_constants(const esp_graph *graph, int count, const int *values,
                                    esp_tensor *const *tensors, esp_graph **out, esp_error *err);

/* A new graph with one metadata entry set (NULL value removes it). */
esp_status esp_graph_with_metadata(const esp_graph *graph, const char *key, const char *value,
                                   esp_graph **out, esp_error *err);

/* ---- node attributes: the node's own, else the op table's default ---- */
const esp_attr *esp_node_attr(const esp_node *node, const char *name); /* NULL when neither exists */
int64_t esp_node_int(const esp_node *node, const char *name, int64_t otherwise);
float esp_node_float(const esp_node *node, const char *name, float otherwise);
const char *esp_node_string(const esp_node *node, const char *name, const char *otherwise);
/* Copies up to `max` ints; returns how many the attribute has, 0 when absent. */
int esp_node_ints(const esp_node *node, const char *name, int64_t *out, int max);

/* ---- building ---- */
typedef struct esp_builder esp_builder;

/* Opsets of ONNX whose operators are known. */
enum { ESP_OPSET_FIRST = 7, ESP_OPSET_LAST = 21 };

/* Opset 7 to 21. */
esp_status esp_builder_new(const char *graph_name, int64_t opset, int64_t ir_version, esp_builder **out,
                           esp_error *err);
void esp_builder_free(esp_builder *builder); /* NULL is allowed */

/* Values. Returned through `*out` as builder value indices. A name that is taken or empty is an error. */
esp_status esp_builder_input(esp_builder *builder, const char *name, esp_dtype dtype, const esp_shape *shape,
                             const char *batch_name, int *out, esp_error *err);
esp_status esp_builder_constant(esp_builder *builder, const char *name, const esp_tensor *tensor, int *out,
                                esp_error *err); /* takes its own reference */

/* A value that a later node will make: import meets uses before definitions. Naming it again gives the same
 * index. */
esp_status esp_builder_value(esp_builder *builder, const char *name, int *out, esp_error *err);

/* The index of a value that has been named before, or -1. */
int esp_builder_find(const esp_builder *builder, const char *name);

/* What a file declares about a value that a node makes: a hint for nodes nobody can infer (opaque.h). Open
 * dims as in inputs. */
void esp_builder_declare(esp_builder *builder, int value, esp_dtype dtype, const esp_shape *shape);

/* A node. Its operator must be in the op table for this opset. Attributes are copied. `name` may be NULL or
 * empty. `outputs` are value indices from esp_builder_value. Unknown operators: ESP_UNSUPPORTED naming node
 * and operator; but "domain::Operator" makes an opaque node of any operator (opaque.h). After ESP_UNSUPPORTED
 * the builder is as it was before. */
esp_status esp_builder_node(esp_builder *builder, const char *op_type, const char *name, const int *inputs,
                            int input_count, const int *outputs, int output_count, const esp_attr *attrs,
                            int attr_count, esp_error *err);

/* The common case: one output, named `output_name` (made up from the node's name when NULL), index in `*out`.
 */
esp_status esp_builder_add(esp_builder *builder, const char *op_type, const char *name, const int *inputs,
                           int input_count, const esp_attr *attrs, int attr_count, const char *output_name,
                           int *out, esp_error *err);

/* Graph outputs in order; `shape` may be NULL. */
esp_status esp_builder_output(esp_builder *builder, int value, esp_dtype dtype, const esp_shape *shape,
                              esp_error *err);
esp_status esp_builder_metadata(esp_builder *builder, const char *key, const char *value, esp_error *err);

/* A name not yet taken: `wanted`, or `wanted_2`, `wanted_3`, ... Valid as long as the builder. NULL: no
 * memory. */
const char *esp_builder_unique_name(esp_builder *builder, const char *wanted);

/* Sorts, checks (cycles, undefined values, double definitions, arity, attribute names and types) and makes
 * the graph. The builder is used up, whatever happens. */
esp_status esp_builder_finish(esp_builder *take_builder, esp_graph **out, esp_error *err);

/* Attribute makers for call sites. */
esp_attr esp_attr_int(const char *name, int64_t value);
esp_attr esp_attr_float(const char *name, float value);
esp_attr esp_attr_string(const char *name, const char *value);
esp_attr esp_attr_ints(const char *name, const int64_t *values, int count); /* borrowed until copied */

#endif
