/* A protobuf writer of a dozen lines, independent of the generated code: tests compose ONNX files from it,
 * sound and damaged ones alike. Field numbers are those of onnx.proto. */
#ifndef ESP_TESTS_WIRE_H
#define ESP_TESTS_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { WIRE_CAPACITY = 16384 };

typedef struct wire_message {
    size_t size;
    uint8_t data[WIRE_CAPACITY];
} wire_message;

/* Each appends one field and aborts the test when the message is full. */
void wire_int(wire_message *message, unsigned field, int64_t value);
void wire_float(wire_message *message, unsigned field, float value);
void wire_bytes(wire_message *message, unsigned field, const void *data, size_t size);
void wire_text(wire_message *message, unsigned field, const char *text);
void wire_nest(wire_message *message, unsigned field, const wire_message *inner);

/* ---- pieces of an ONNX model ---- */

enum { MODEL_IR = 1, MODEL_GRAPH = 7, MODEL_OPSET = 8, MODEL_METADATA = 14 };
enum { GRAPH_NODE = 1, GRAPH_NAME = 2, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12 };
enum {
    NODE_INPUT = 1,
    NODE_OUTPUT = 2,
    NODE_NAME = 3,
    NODE_OPERATOR = 4,
    NODE_ATTRIBUTE = 5,
    NODE_DOMAIN = 7
};
enum { ATTRIBUTE_NAME = 1, ATTRIBUTE_INT = 3, ATTRIBUTE_INTS = 8, ATTRIBUTE_TYPE = 20 };
enum { TENSOR_DIM = 1, TENSOR_TYPE = 2, TENSOR_NAME = 8, TENSOR_RAW = 9 };

/* A dim of 0 is left open without a name, -1 carries `symbol`. */
void wire_value(wire_message *graph, unsigned field, const char *name, int element_type, int rank,
                const int64_t *dims, const char *symbol);

/* A float32 initializer with this many zero bytes of raw data. */
void wire_weights(wire_message *graph, const char *name, int rank, const int64_t *dims, size_t raw_size);

/* Names are separated by one blank; an empty list is "". "-" stands for an absent input or output. */
void wire_node(wire_message *graph, const char *op, const char *name, const char *inputs, const char *outputs,
               const wire_message *attribute);

/* An attribute of type INTS. */
void wire_ints(wire_message *attribute, const char *name, int count, const int64_t *values);

/* A whole model: IR version, one opset import of the default domain, the graph. */
void wire_model(wire_message *model, int64_t ir_version, int64_t opset, const wire_message *graph);

#endif
