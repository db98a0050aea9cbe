/* Graph to ModelProto. The message is laid out in an arena and points at the graph's own tensors, so weights
 * are never copied; onnx_save.c streams it into a file. Order follows the graph, so equal graphs give equal
 * bytes.
 *
 * What an opaque node has as bytes goes out as a field that protobuf-c does not know: its number and wire
 * type are those of the field it stands for. */
#include "io/onnx_writer.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/infer.h"
#include "graph/op.h"
#include "graph/opaque.h"

/* Fields that are written from bytes. */
enum { FIELD_NODE_ATTRIBUTE = 5, FIELD_VALUE_TYPE = 2, LONGEST_LENGTH = 10 };

typedef struct writer {
    const esp_graph *graph;
    esp_arena *arena;
    const char *batch;             /* name of the open batch */
    esp_onnx_placement *placement; /* NULL: all tensors in the message */
    esp_inferred *one, *two;       /* at batch 1 and 2, where outputs have no declared shape; NULL: unknown */
    bool is_out_of_memory;         /* checked once, at the end */
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

static Onnx__StringStringEntryProto *write_entry(writer *out, const char *key, const char *value)
{
    Onnx__StringStringEntryProto *entry =
        NEW_MESSAGE(out, Onnx__StringStringEntryProto, ONNX__STRING_STRING_ENTRY_PROTO__INIT);

    if (entry) {
        entry->key = borrow(key);
        entry->value = borrow(value);
    }
    return entry;
}

static const char *write_number(writer *out, uint64_t number)
{
    char *text = take(out, 24, 1);

    if (text)
        snprintf(text, 24, "%" PRIu64, number);
    return text;
}

/* Gives the tensor the next place in the data file. */
static void write_place(writer *out, Onnx__TensorProto *proto, const esp_tensor *tensor, size_t bytes)
{
    esp_onnx_placement *placement = out->placement;
    uint64_t offset =
        (placement->size + ESP_ONNX_DATA_ALIGNMENT - 1) / ESP_ONNX_DATA_ALIGNMENT * ESP_ONNX_DATA_ALIGNMENT;

    proto->external_data = take(out, 3, sizeof(void *));
    if (!proto->external_data)
        return;
    proto->has_data_location = true;
    proto->data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    proto->n_external_data = 3;
    proto->external_data[0] = write_entry(out, "location", placement->location);
    proto->external_data[1] = write_entry(out, "offset", write_number(out, offset));
    proto->external_data[2] = write_entry(out, "length", write_number(out, bytes));
    placement->tensors[placement->count] = tensor;
    placement->offsets[placement->count++] = offset;
    placement->size = offset + bytes;
}

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
    if (out->placement && name && bytes >= ESP_ONNX_DATA_LEAST) {
        write_place(out, proto, tensor, bytes);
        return proto;
    }
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

/* A field of any number from the bytes of its message. Room for one more unknown field is there. */
static void write_bytes(writer *out, ProtobufCMessage *message, uint32_t field, const esp_attr *attr)
{
    size_t size = (size_t)attr->count, length = 0;
    uint8_t *data = take(out, size + LONGEST_LENGTH, 1);

    if (!data)
        return;
    for (size_t rest = size; length == 0 || rest > 0; rest >>= 7)
        data[length++] = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    if (size > 0)
        memcpy(data + length, attr->s, size);
    message->unknown_fields[message->n_unknown_fields++] = (ProtobufCMessageUnknownField){
        .tag = field, .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, .len = length + size, .data = data};
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

/* The shape of an output that the graph declares none for: a dim that grows with an open batch is the batch,
 * one that grows otherwise stays open. */
static esp_shape inferred_shape(const writer *out, int value)
{
    const esp_shape unknown = {.rank = -1};
    esp_shape shape = out->one ? *esp_inferred_shape(out->one, value) : unknown;
    const esp_shape *two = out->two ? esp_inferred_shape(out->two, value) : NULL;

    for (int i = 0; two && i < shape.rank && i < two->rank; i++)
        if (two->dims[i] != shape.dims[i])
            shape.dims[i] =
                i == 0 && shape.dims[i] == 1 && two->dims[i] == 2 ? ESP_DIM_BATCH : ESP_DIM_UNKNOWN;
    return shape;
}

static bool lacks_shapes(const esp_graph *graph)
{
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        if (esp_graph_value(graph, esp_graph_output(graph, i))->shape.rank < 0)
            return true;
    return false;
}

/* The checker of ONNX wants a shape for every output. Models whose sizes are open, or that cannot run, are
 * written without. */
static void infer_outputs(writer *out)
{
    const esp_graph *graph = out->graph;
    esp_error ignored = {0};

    if (!lacks_shapes(graph) || esp_graph_input_count(graph) == 0 || esp_graph_find_opaque(graph) >= 0)
        return;
    const esp_shape *input = &esp_graph_value(graph, esp_graph_input(graph, 0))->shape;
    bool is_open = input->rank > 0 && input->dims[0] == ESP_DIM_BATCH;
    int64_t batch = input->rank > 0 && input->dims[0] > 0 ? input->dims[0] : 1;
    if (esp_infer(graph, batch, NULL, 0, &out->one, &ignored) == ESP_OK && is_open)
        (void)esp_infer(graph, 2, NULL, 0, &out->two, &ignored);
}

/* An output: its declared type, or the bytes of one that is no tensor's. */
static Onnx__ValueInfoProto *write_output(writer *out, int value)
{
    const esp_value *output = esp_graph_value(out->graph, value);
    const esp_node *node = output->producer < 0 ? NULL : esp_graph_node(out->graph, output->producer);
    const esp_attr *type = NULL;
    char name[32];

    for (int i = 0; node && esp_op_is_opaque(node->op) && i < node->output_count && !type; i++) {
        snprintf(name, sizeof name, ESP_OPAQUE_TYPE "%d", i);
        if (node->outputs[i] == value)
            type = esp_node_attr(node, name);
    }
    if (!type) {
        esp_value known = *output;
        if (known.shape.rank < 0)
            known.shape = inferred_shape(out, value);
        return write_value(out, &known, out->batch);
    }

    Onnx__ValueInfoProto *info = NEW_MESSAGE(out, Onnx__ValueInfoProto, ONNX__VALUE_INFO_PROTO__INIT);
    if (!info)
        return NULL;
    info->name = borrow(output->name);
    info->base.unknown_fields = take(out, 1, sizeof *info->base.unknown_fields);
    if (info->base.unknown_fields)
        write_bytes(out, &info->base, FIELD_VALUE_TYPE, type);
    return info;
}

/* What the file declared about values that opaque nodes make, since nobody can infer it. */
static void write_declared(writer *out, Onnx__GraphProto *proto)
{
    const esp_graph *graph = out->graph;

    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);

        if (!esp_op_is_opaque(node->op) || strcmp(node->op->name, ESP_OPAQUE_ONNX "::Constant") == 0)
            continue;
        for (int i = 0; i < node->output_count; i++) {
            if (node->outputs[i] < 0 || esp_graph_is_output(graph, node->outputs[i]))
                continue;
            esp_value value = *esp_graph_value(graph, node->outputs[i]);
            esp_opaque_declared(graph, node, i, &value.dtype, &value.shape);
            if (value.shape.rank >= 0)
                proto->value_info[proto->n_value_info++] = write_value(out, &value, out->batch);
        }
    }
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
    case ESP_ATTR_BYTES:
        break; /* write_bytes */
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

/* "domain::Operator" of opaque nodes; ONNX's own domain has no name in files. */
static void write_operator(writer *out, const esp_node *node, Onnx__NodeProto *proto)
{
    const char *separator = esp_op_is_opaque(node->op) ? strstr(node->op->name, "::") : NULL;

    proto->op_type = borrow(separator ? separator + 2 : node->op->name);
    if (!separator)
        return;
    char *domain = esp_arena_strndup(out->arena, node->op->name, (size_t)(separator - node->op->name));
    if (!domain)
        out->is_out_of_memory = true;
    else if (!esp_onnx_is_default_domain(domain))
        proto->domain = domain;
}

static Onnx__NodeProto *write_node(writer *out, const esp_node *node)
{
    Onnx__NodeProto *proto = NEW_MESSAGE(out, Onnx__NodeProto, ONNX__NODE_PROTO__INIT);

    if (!proto)
        return NULL;
    int input_count = (int)esp_node_int(node, ESP_OPAQUE_INPUTS, node->input_count);
    proto->name = borrow(node->name);
    write_operator(out, node, proto);
    proto->input = write_names(out, node->inputs, input_count);
    proto->output = write_names(out, node->outputs, node->output_count);
    proto->attribute = take(out, (size_t)node->attr_count, sizeof(void *));
    proto->base.unknown_fields = take(out, (size_t)node->attr_count, sizeof *proto->base.unknown_fields);
    if (!proto->input || !proto->output || !proto->attribute || !proto->base.unknown_fields)
        return NULL;
    proto->n_input = (size_t)input_count;
    proto->n_output = (size_t)node->output_count;
    for (int i = 0; i < node->attr_count; i++) {
        const esp_attr *attr = &node->attrs[i];

        if (esp_attr_is_note(attr))
            continue;
        if (attr->type == ESP_ATTR_BYTES)
            write_bytes(out, &proto->base, FIELD_NODE_ATTRIBUTE, attr);
        else
            proto->attribute[proto->n_attribute++] = write_attribute(out, attr);
    }
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
    Onnx__GraphProto *proto = NEW_MESSAGE(out, Onnx__GraphProto, ONNX__GRAPH_PROTO__INIT);

    if (!proto)
        return NULL;
    proto->name = borrow(esp_graph_name(graph));
    proto->doc_string = borrow(esp_graph_metadata(graph, ESP_ONNX_GRAPH_DOC_KEY));
    proto->node = take(out, (size_t)esp_graph_node_count(graph), sizeof(void *));
    proto->initializer = take(out, value_count, sizeof(void *));
    proto->value_info = take(out, value_count, sizeof(void *));
    proto->input = take(out, value_count, sizeof(void *));
    proto->output = take(out, (size_t)esp_graph_output_count(graph), sizeof(void *));
    if (out->is_out_of_memory)
        return NULL;
    for (int i = 0; i < esp_graph_node_count(graph); i++)
        proto->node[proto->n_node++] = write_node(out, esp_graph_node(graph, i));
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_value *input = esp_graph_value(graph, esp_graph_input(graph, i));

        proto->input[proto->n_input++] =
            write_value(out, input, input->batch_name ? input->batch_name : out->batch);
    }
    write_constants(out, proto);
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        proto->output[proto->n_output++] = write_output(out, esp_graph_output(graph, i));
    write_declared(out, proto);
    return proto;
}

static void write_import(writer *out, Onnx__ModelProto *model, const char *domain, int64_t version)
{
    Onnx__OperatorSetIdProto *opset =
        NEW_MESSAGE(out, Onnx__OperatorSetIdProto, ONNX__OPERATOR_SET_ID_PROTO__INIT);

    if (!opset)
        return;
    opset->domain = borrow(domain);
    opset->has_version = true;
    opset->version = version;
    model->opset_import[model->n_opset_import++] = opset;
}

/* Puts one metadata entry where it belongs: a field of the model, or the list of properties. */
static void write_metadata(writer *out, Onnx__ModelProto *model, const char *key, const char *value)
{
    int64_t version;
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
    else if (strncmp(key, ESP_ONNX_OPSET_PREFIX, strlen(ESP_ONNX_OPSET_PREFIX)) == 0 &&
             esp_parse_i64(value, &version))
        write_import(out, model, key + strlen(ESP_ONNX_OPSET_PREFIX), version);
    else
        model->metadata_props[model->n_metadata_props++] = write_entry(out, key, value);
}

static Onnx__ModelProto *write_model(writer *out)
{
    const esp_graph *graph = out->graph;
    Onnx__ModelProto *model = NEW_MESSAGE(out, Onnx__ModelProto, ONNX__MODEL_PROTO__INIT);
    size_t metadata_count = (size_t)esp_graph_metadata_count(graph);

    if (!model)
        return NULL;
    model->has_ir_version = true;
    model->ir_version = esp_graph_ir_version(graph);
    model->opset_import = take(out, 1 + metadata_count, sizeof(void *));
    model->metadata_props = take(out, metadata_count, sizeof(void *));
    if (!model->opset_import || !model->metadata_props)
        return NULL;
    write_import(out, model, "", esp_graph_opset(graph));
    for (int i = 0; i < esp_graph_metadata_count(graph); i++)
        write_metadata(out, model, esp_graph_metadata_key(graph, i), esp_graph_metadata_value(graph, i));
    model->graph = write_graph(out);
    return model;
}

static esp_status check_constants(const esp_graph *graph, esp_error *err)
{
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);

        if (value->constant && esp_tensor_is_spent(value->constant))
            return esp_fail(err, ESP_STATE,
                            "'%s' exists in packed form only: an executor has spent the weights",
                            value->name);
    }
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        const char *lost = esp_node_string(node, ESP_OPAQUE_LOST, NULL);

        if (lost)
            return esp_fail(err, ESP_UNSUPPORTED, "node '%s' (%s) cannot be written: %s", node->name,
                            node->op->name, lost);
    }
    return ESP_OK;
}

static bool make_placement(writer *out, const char *location, esp_onnx_placement *placement)
{
    size_t values = (size_t)esp_graph_value_count(out->graph);

    *placement = (esp_onnx_placement){.location = location};
    placement->tensors = take(out, values, sizeof *placement->tensors);
    placement->offsets = take(out, values, sizeof *placement->offsets);
    out->placement = placement;
    return placement->tensors && placement->offsets;
}

esp_status esp_onnx_message_build(const esp_graph *graph, const char *location, esp_onnx_message *out,
                                  esp_error *err)
{
    writer state = {.graph = graph, .arena = esp_arena_new(), .batch = batch_name(graph)};

    *out = (esp_onnx_message){.arena = state.arena};
    esp_status status = check_constants(graph, err);
    if (status != ESP_OK)
        return status;
    infer_outputs(&state);
    if (state.arena && (!location || make_placement(&state, location, &out->placement)))
        out->model = write_model(&state);
    esp_inferred_free(state.one);
    esp_inferred_free(state.two);
    if (!out->model || state.is_out_of_memory)
        return esp_fail_memory(err, "writing a model", (size_t)esp_graph_node_count(graph));
    out->size = onnx__model_proto__get_packed_size(out->model);
    return ESP_OK;
}

void esp_onnx_message_free(esp_onnx_message *message)
{
    esp_arena_free(message->arena);
    *message = (esp_onnx_message){0};
}
