/* See https://protobuf.dev/programming-guides/encoding for the format. */
#include "unit/io/wire.h"

#include <string.h>

#include "unit/base/scratch.h"

static void put(wire_message *message, const void *data, size_t size)
{
    assert_true(message->size + size <= WIRE_CAPACITY);
    memcpy(message->data + message->size, data, size);
    message->size += size;
}

static void put_varint(wire_message *message, uint64_t value)
{
    do {
        uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));

        put(message, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

void wire_int(wire_message *message, unsigned field, int64_t value)
{
    put_varint(message, field << 3 | 0);
    put_varint(message, (uint64_t)value);
}

void wire_float(wire_message *message, unsigned field, float value)
{
    put_varint(message, field << 3 | 5);
    put(message, &value, sizeof value);
}

void wire_bytes(wire_message *message, unsigned field, const void *data, size_t size)
{
    put_varint(message, field << 3 | 2);
    put_varint(message, size);
    put(message, data, size);
}

void wire_text(wire_message *message, unsigned field, const char *text)
{
    wire_bytes(message, field, text, strlen(text));
}

void wire_nest(wire_message *message, unsigned field, const wire_message *inner)
{
    wire_bytes(message, field, inner->data, inner->size);
}

void wire_value(wire_message *graph, unsigned field, const char *name, int element_type, int rank,
                const int64_t *dims, const char *symbol)
{
    wire_message shape = {0}, tensor = {0}, type = {0}, value = {0};

    for (int i = 0; i < rank; i++) {
        wire_message dim = {0};

        if (dims[i] > 0)
            wire_int(&dim, 1, dims[i]);
        else if (dims[i] < 0)
            wire_text(&dim, 2, symbol);
        wire_nest(&shape, 1, &dim);
    }
    wire_int(&tensor, 1, element_type);
    wire_nest(&tensor, 2, &shape);
    wire_nest(&type, 1, &tensor);
    wire_text(&value, 1, name);
    wire_nest(&value, 2, &type);
    wire_nest(graph, field, &value);
}

void wire_weights(wire_message *graph, const char *name, int rank, const int64_t *dims, size_t raw_size)
{
    static const uint8_t zeros[4096];
    wire_message tensor = {0};

    assert_true(raw_size <= sizeof zeros);
    for (int i = 0; i < rank; i++)
        wire_int(&tensor, TENSOR_DIM, dims[i]);
    wire_int(&tensor, TENSOR_TYPE, 1);
    wire_text(&tensor, TENSOR_NAME, name);
    wire_bytes(&tensor, TENSOR_RAW, zeros, raw_size);
    wire_nest(graph, GRAPH_INITIALIZER, &tensor);
}

static void put_names(wire_message *node, unsigned field, const char *names)
{
    while (*names) {
        size_t length = strcspn(names, " ");
        bool is_absent = length == 1 && *names == '-';

        wire_bytes(node, field, names, is_absent ? 0 : length);
        names += length;
        names += *names == ' ';
    }
}

void wire_node(wire_message *graph, const char *op, const char *name, const char *inputs, const char *outputs,
               const wire_message *attribute)
{
    wire_message node = {0};

    put_names(&node, NODE_INPUT, inputs);
    put_names(&node, NODE_OUTPUT, outputs);
    wire_text(&node, NODE_NAME, name);
    wire_text(&node, NODE_OPERATOR, op);
    if (attribute)
        wire_nest(&node, NODE_ATTRIBUTE, attribute);
    wire_nest(graph, GRAPH_NODE, &node);
}

void wire_ints(wire_message *attribute, const char *name, int count, const int64_t *values)
{
    wire_text(attribute, ATTRIBUTE_NAME, name);
    for (int i = 0; i < count; i++)
        wire_int(attribute, ATTRIBUTE_INTS, values[i]);
    wire_int(attribute, ATTRIBUTE_TYPE, 7);
}

void wire_model(wire_message *model, int64_t ir_version, int64_t opset, const wire_message *graph)
{
    wire_message import = {0};

    wire_text(&import, 1, "");
    wire_int(&import, 2, opset);
    wire_int(model, MODEL_IR, ir_version);
    wire_nest(model, MODEL_OPSET, &import);
    wire_nest(model, MODEL_GRAPH, graph);
}
