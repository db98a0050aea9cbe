/* Nodes whose operator the op table does not have, or not in the form the node asks for. They let a network
 * that cannot run be looked at, counted, pruned around and written back: such a node takes any number of
 * inputs and outputs, keeps its attributes as they are, cuts no channels (rule BLOCK), and has no kernel. It
 * has a row of its own, in its graph's memory, that is not in the table.
 *
 * A node is opaque when its operator is given as "domain::Operator" to esp_builder_node. */
#ifndef ESP_GRAPH_OPAQUE_H
#define ESP_GRAPH_OPAQUE_H

#include "base/arena.h"
#include "graph/graph.h"

/* What stands before "::" for operators of ONNX itself. */
#define ESP_OPAQUE_ONNX "ai.onnx"

/* Notes on an opaque node, which travel as attributes and are in no file. No attribute of ONNX begins so. */
#define ESP_OPAQUE_NOTE    "::"
#define ESP_OPAQUE_REASON  "::reason"  /* string: why it cannot run */
#define ESP_OPAQUE_OUTPUTS "::outputs" /* ints: per output dtype, rank, dims, as the file declares them */
#define ESP_OPAQUE_INPUTS  "::inputs"  /* int: inputs from there on are read by its subgraphs only */
#define ESP_OPAQUE_TYPE    "::type" /* bytes, with the output's number behind: a type that is no tensor's */
#define ESP_OPAQUE_LOST    "::lost" /* string: why the node cannot be written to a file again */

bool esp_op_is_opaque(const esp_op *op);
bool esp_attr_is_note(const esp_attr *attr);

/* The first opaque node, or -1: a graph that has one cannot run. */
int esp_graph_find_opaque(const esp_graph *graph);

/* ESP_UNSUPPORTED: the node, its operator, and why it cannot run. */
esp_status esp_opaque_fail(const esp_node *node, esp_error *err);

/* The same for the first opaque node of a graph; ESP_OK when there is none. */
esp_status esp_opaque_check(const esp_graph *graph, esp_error *err);

/* Why an operator ("domain::Operator", or plain for ONNX's own) is none that can run: quantised, control
 * flow, or not known. Returns `buffer`. */
char *esp_opaque_reason(const char *name, int64_t opset, char *buffer, size_t size);

/* What the file says about output `index`: from the node's note, else from the value's own declaration. Rank
 * -1 when it says nothing. */
void esp_opaque_declared(const esp_graph *graph, const esp_node *node, int index, esp_dtype *dtype,
                         esp_shape *shape);

/* A row for an operator of this name, which is borrowed. */
esp_op *esp_opaque_row_new(esp_arena *arena, const char *name);

#endif
