/* Graph to ModelProto. The message is laid out in an arena and points at the graph's own tensors, then
 * streams into the file: weights are never copied. Order follows the graph, so equal graphs give equal bytes.
 */
#include "io/onnx_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "graph/op.h"

typedef struct writer {
    const esp_graph *graph;
    esp_arena *arena;
    bool is_out_of_memory; /* checked once, at the end */
} writer;

/* `count` zeroed blocks; never NULL-checked by callers that only store the pointer. */
static void *take(writer *out, size_t count, size_t size)
{
    void *block = esp_arena_alloc(out->arena, count ? count : 1, size);

    if (!block)
        out->is_out_of_memory = true;
    return block;
}

/* A new message of a generated type, initialised; NULL when memory is out. */
#define NEW_MESSAGE(out, type, init) ((type *)new_message(out, sizeof(type), &(const type)init))

static void *new_message(writer *out, size_t size, const void *initial)
{
    void *message = take(out, 1, size);

    if (message)
        memcpy(message, initial, size);
    return message;
}

/* protobuf-c's structures hold plain pointers even to what they only read. */
static char *borrow(const char *text)
{
    return (char *)text;
}

static ProtobufCBinaryData borrow_bytes(const void *data, size_t size)
{
    return (ProtobufCBinaryData){size, (uint8_t *)data};
}

/* ---- tensors and types ---- */

static Onnx__TensorProto *write_tensor(writer *out, const char *name, const esp_tensor *tensor)
{
    Onnx__TensorProto *proto = NEW_MESSAGE(out, Onnx__TensorProto, ONNX__TENSOR_PROTO__INIT);
    const esp_shape *shape = esp_tensor_shape(tensor);
    size_t bytes = (size_t)esp_tensor_elements(tensor) * esp_dtype_size(esp_tensor_dtype(tensor));

    if (!proto)
        return NULL;
    proto->name = borrow(name);
    proto->has_data_type = true;
    proto->data_type = esp_onnx_type_code(esp_tensor_dtype(tensor));
    proto->n_dims = (size_t)shape->rank;
    proto->dims = (int64_t *)shape->dims;
    proto->has_raw_data = true;
    proto->raw_data = borrow_bytes(esp_tensor_data(tensor), bytes);
    return proto;
}

/* The name the batch dim has in the file: that of the first input with an open batch. */
static const char *batch_name(const esp_graph *graph)
{
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, i));

        if (input->shape.rank > 0 && input->shape.dims[0] == ESP_DIM_BATCH && input->batch_name)
            return input->batch_name;
    }
    return ESP_ONNX_BATCH_NAME;
}

/* A dim of this size, or an open one with this name (NULL: none). */
static Onnx__TensorShapeProto__Dimension *write_dim(writer *out, int64_t size, const char *symbol)
{
    Onnx__TensorShapeProto__Dimension *dim =
        NEW_MESSAGE(out, Onnx__TensorShapeProto__Dimension, ONNX__TENSOR_SHAPE_PROTO__DIMENSION__INIT);

    if (dim && size >= 0) {
        dim->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        dim->dim_value = size;
    } else if (dim && symbol) {
        dim->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
        dim->dim_param = borrow(symbol);
    }
    return dim;
}

static const char *dim_symbol(int64_t size, int index, const char *batch)
{
    if (size == ESP_DIM_BATCH)
        return batch;
    return index == 0 ? ESP_ONNX_UNKNOWN_NAME : NULL;
}

static Onnx__TensorShapeProto *write_shape(writer *out, const esp_shape *shape, const char *batch)
{
    Onnx__TensorShapeProto *proto = NEW_MESSAGE(out, Onnx__TensorShapeProto, ONNX__TENSOR_SHAPE_PROTO__INIT);

    if (!proto)
        return NULL;
    proto->dim = take(out, (size_t)shape->rank, sizeof(void *));
    for (int i = 0; i < shape->rank && proto->dim; i++)
        proto->dim[i] = write_dim(out, shape->dims[i], dim_symbol(shape->dims[i], i, batch));
    proto->n_dim = proto->dim ? (size_t)shape->rank : 0;
    return proto;
}

static Onnx__ValueInfoProto *write_value(writer *out, const esp_value *value, const char *batch)
{
    Onnx__ValueInfoProto *info = NEW_MESSAGE(out, Onnx__ValueInfoProto, ONNX__VALUE_INFO_PROTO__INIT);
    Onnx__TypeProto *type = NEW_MESSAGE(out, Onnx__TypeProto, ONNX__TYPE_PROTO__INIT);
    Onnx__TypeProto__Tensor *tensor =
        NEW_MESSAGE(out, Onnx__TypeProto__Tensor, ONNX__TYPE_PROTO__TENSOR__INIT);

    if (!info || !type || !tensor)
        return NULL;
    tensor->has_elem_type = true;
    tensor->elem_type = esp_onnx_type_code(value->dtype);
    if (value->shape.rank >= 0)
        tensor->shape = write_shape(out, &value->shape, batch);
    type->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    type->tensor_type = tensor;
    info->name = borrow(value->name);
    info->type = type;
    return info;
}

/* ---- nodes ---- */

static ProtobufCBinaryData *write_strings(writer *out, const esp_attr *attr)
{
    ProtobufCBinaryData *strings = take(out, (size_t)attr->count, sizeof *strings);

    for (int i = 0; i < attr->count && strings; i++)
        strings[i] = borrow_bytes(attr->strings[i], strlen(attr->strings[i]));
    return strings;
}

static Onnx__AttributeProto *write_attribute(writer *out, const esp_attr *attr)
{
    Onnx__AttributeProto *proto = NEW_MESSAGE(out, Onnx__AttributeProto, ONNX__ATTRIBUTE_PROTO__INIT);

    if (!proto)
        return NULL;
    proto->name = borrow(attr->name);
    proto->has_type = true;
    switch (attr->type) {
    case ESP_ATTR_INT:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
        proto->has_i = true;
        proto->i = attr->i;
        break;
    case ESP_ATTR_FLOAT:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
        proto->has_f = true;
        proto->f = attr->f;
        break;
    case ESP_ATTR_STRING:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
        proto->has_s = true;
        proto->s = borrow_bytes(attr->s, strlen(attr->s));
        break;
    case ESP_ATTR_TENSOR:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
        proto->t = write_tensor(out, NULL, attr->tensor);
        break;
    case ESP_ATTR_INTS:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
        proto->n_ints = (size_t)attr->count;
        proto->ints = (int64_t *)attr->ints;
        break;
    case ESP_ATTR_FLOATS:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
        proto->n_floats = (size_t)attr->count;
        proto->floats = (float *)attr->floats;
        break;
    case ESP_ATTR_STRINGS:
        proto->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
        proto->strings = write_strings(out, attr);
        proto->n_strings = proto->strings ? (size_t)attr->count : 0;
        break;
    }
    return proto;
}

static char **write_names(writer *out, const int *values, int count)
{
    char **names = take(out, (size_t)count, sizeof *names);

    for (int i = 0; i < count && names; i++)
        names[i] = borrow(values[i] < 0 ? "" : esp_graph_value(out->graph, values[i])->name);
    return names;
}

static Onnx__NodeProto *write_node(writer *out, const esp_node *node)
{
    Onnx__NodeProto *proto = NEW_MESSAGE(out, Onnx__NodeProto, ONNX__NODE_PROTO__INIT);

    if (!proto)
        return NULL;
    proto->name = borrow(node->name);
    proto->op_type = borrow(node->op->name);
    proto->input = write_names(out, node->inputs, node->input_count);
    proto->output = write_names(out, node->outputs, node->output_count);
    proto->attribute = take(out, (size_t)node->attr_count, sizeof(void *));
    if (!proto->input || !proto->output || !proto->attribute)
        return NULL;
    proto->n_input = (size_t)node->input_count;
    proto->n_output = (size_t)node->output_count;
    proto->n_attribute = (size_t)node->attr_count;
    for (int i = 0; i < node->attr_count; i++)
        proto->attribute[i] = write_attribute(out, &node->attrs[i]);
    return proto;
}

/* ---- graph and model ---- */

static void write_constants(writer *out, Onnx__GraphProto *proto)
{
    const esp_graph *graph = out->graph;
    int count = esp_graph_value_count(graph);
    bool are_listed = esp_graph_ir_version(graph) < ESP_ONNX_IR_FREE_CONSTANTS;

    for (int i = 0; i < count; i++) {
        const esp_value *value = esp_graph_value(graph, i);

        if (!value->constant)
            continue;
        proto->initializer[proto->n_initializer++] = write_tensor(out, value->name, value->constant);
        if (are_listed)
            proto->input[proto->n_input++] = write_value(out, value, NULL);
    }
}

static Onnx__GraphProto *write_graph(writer *out)
{
    const esp_graph *graph = out->graph;
    size_t value_count = (size_t)esp_graph_value_count(graph);
    const char *batch = batch_name(graph);
    Onnx__GraphProto *proto = NEW_MESSAGE(out, Onnx__GraphProto, ONNX__GRAPH_PROTO__INIT);

    if (!proto)
        return NULL;
    proto->name = borrow(esp_graph_name(graph));
    proto->doc_string = borrow(esp_graph_metadata(graph, ESP_ONNX_GRAPH_DOC_KEY));
    proto->node = take(out, (size_t)esp_graph_node_count(graph), sizeof(void *));
    proto->initializer = take(out, value_count, sizeof(void *));
    proto->input = take(out, value_count, sizeof(void *));
    proto->output = take(out, (size_t)esp_graph_output_count(graph), sizeof(void *));
    if (out->is_out_of_memory)
        return NULL;
    for (int i = 0; i < esp_graph_node_count(graph); i++)
        proto->node[proto->n_node++] = write_node(out, esp_graph_node(graph, i));
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, i));

        proto->input[proto->n_input++] =
            write_value(out, input, input->batch_name ? input->batch_name : batch);
    }
    write_constants(out, proto);
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        proto->output[proto->n_output++] =
            write_value(out, esp_graph_value(graph, esp_graph_output(graph, i)), batch);
    return proto;
}

static void write_entry(writer *out, Onnx__ModelProto *model, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *entry =
        NEW_MESSAGE(out, Onnx__StringStringEntryProto, ONNX__STRING_STRING_ENTRY_PROTO__INIT);

    if (!entry)
        return;
    entry->key = borrow(key);
    entry->value = borrow(value);
    model->metadata_props[model->n_metadata_props++] = entry;
}

/* Puts one metadata entry where it belongs: a field of the model, or the list of properties. */
static void write_metadata(writer *out, Onnx__ModelProto *model, const char *key, const char *value)
{
#define TAKE_TEXT(field)                                                                                     \
    if (strcmp(key, ESP_ONNX_FIELD_PREFIX #field) == 0) {                                                    \
        model->field = borrow(value);                                                                        \
        return;                                                                                              \
    }
    ESP_ONNX_MODEL_TEXTS(TAKE_TEXT)
#undef TAKE_TEXT
    if (strcmp(key, ESP_ONNX_GRAPH_DOC_KEY) == 0)
        return; /* write_graph's */
    if (strcmp(key, ESP_ONNX_MODEL_VERSION_KEY) == 0 && esp_parse_i64(value, &model->model_version))
        model->has_model_version = true;
    else
        write_entry(out, model, key, value);
}

static Onnx__ModelProto *write_model(writer *out)
{
    const esp_graph *graph = out->graph;
    Onnx__ModelProto *model = NEW_MESSAGE(out, Onnx__ModelProto, ONNX__MODEL_PROTO__INIT);
    Onnx__OperatorSetIdProto *opset =
        NEW_MESSAGE(out, Onnx__OperatorSetIdProto, ONNX__OPERATOR_SET_ID_PROTO__INIT);
    Onnx__OperatorSetIdProto **imports = take(out, 1, sizeof(void *));
    Onnx__StringStringEntryProto **entries =
        take(out, (size_t)esp_graph_metadata_count(graph), sizeof(void *));

    if (!model || !opset || !imports || !entries)
        return NULL;
    model->has_ir_version = true;
    model->ir_version = esp_graph_ir_version(graph);
    opset->domain = borrow("");
    opset->has_version = true;
    opset->version = esp_graph_opset(graph);
    imports[0] = opset;
    model->opset_import = imports;
    model->n_opset_import = 1;
    model->metadata_props = entries;
    for (int i = 0; i < esp_graph_metadata_count(graph); i++)
        write_metadata(out, model, esp_graph_metadata_key(graph, i), esp_graph_metadata_value(graph, i));
    model->graph = write_graph(out);
    return model;
}

/* The whole message and its packed size. Everything in it lives in the arena or in the graph. */
static esp_status build_model(const esp_graph *graph, esp_arena **out_arena, Onnx__ModelProto **out,
                              size_t *out_size, esp_error *err)
{
    writer state = {.graph = graph, .arena = esp_arena_new()};

    *out_arena = state.arena;
    *out = state.arena ? write_model(&state) : NULL;
    if (!*out || state.is_out_of_memory)
        return esp_fail_memory(err, "writing a model", (size_t)esp_graph_node_count(graph));
    *out_size = onnx__model_proto__get_packed_size(*out);
    if (*out_size > INT32_MAX) {
        char text[32];

        return esp_fail(err, ESP_UNSUPPORTED,
                        "the model takes %s, expected at most 2 GiB (a limit of protobuf)",
                        esp_format_bytes(text, sizeof text, (double)*out_size));
    }
    return ESP_OK;
}

/* A protobuf-c sink that writes to a stream. Failures show in the stream's error flag. */
typedef struct stream_sink {
    ProtobufCBuffer base;
    FILE *stream;
} stream_sink;

static void sink_append(ProtobufCBuffer *buffer, size_t size, const uint8_t *data)
{
    stream_sink *sink = (stream_sink *)buffer;

    if (size > 0 && !ferror(sink->stream))
        (void)!fwrite(data, 1, size, sink->stream);
}

esp_status esp_onnx_save(const esp_graph *graph, const char *path, esp_error *err)
{
    esp_arena *arena;
    Onnx__ModelProto *model;
    esp_file_writer *file;
    size_t size;
    esp_status status = build_model(graph, &arena, &model, &size, err);

    if (status != ESP_OK)
        esp_error_prefix(err, "%s", path);
    else
        status = esp_file_writer_open(path, &file, err);
    if (status == ESP_OK) {
        stream_sink sink = {{sink_append}, esp_file_writer_stream(file)};

        onnx__model_proto__pack_to_buffer(model, &sink.base);
        status = esp_file_writer_commit(file, err); /* sees what the stream could not write */
    }
    esp_arena_free(arena);
    return status;
}

esp_status esp_onnx_serialize(const esp_graph *graph, void **out_data, size_t *out_size, esp_error *err)
{
    esp_arena *arena;
    Onnx__ModelProto *model;
    size_t size;
    esp_status status = build_model(graph, &arena, &model, &size, err);

    *out_data = NULL;
    if (status == ESP_OK) {
        *out_data = esp_alloc(size, 1);
        if (!*out_data)
            status = esp_fail_memory(err, "a model in memory", size);
    }
    if (status == ESP_OK)
        *out_size = onnx__model_proto__pack(model, *out_data);
    esp_arena_free(arena);
    return status;
}
