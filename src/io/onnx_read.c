/* ModelProto to graph.
 *
 * Everything goes through the graph builder, in file order: inputs, constants, nodes, outputs. The builder
 * checks what every graph must satisfy (names, arity, attributes, cycles); this file checks what only the
 * file format can get wrong. Each tensor's bytes in the decoded message are released as soon as they are
 * copied, so that a large model is held little more than once. */
#include "io/onnx_internal.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "graph/infer.h"

#define NAME_TEXT 160

typedef struct reader {
    const char *directory; /* where external data may lie, or NULL */
    const Onnx__ModelProto *model;
    const Onnx__GraphProto *graph;
    const Onnx__TensorProto **by_name; /* the initializers, sorted by name */
    const char *batch_symbol;          /* of the first input with an open batch, or NULL */
    esp_arena *arena;
    esp_builder *builder;
    esp_error *err;
} reader;

static const char *text_of(const char *text)
{
    return text ? text : "";
}

static int compare_initializers(const void *a, const void *b)
{
    const Onnx__TensorProto *const *left = a, *const *right = b;

    return strcmp(text_of((*left)->name), text_of((*right)->name));
}

static const Onnx__TensorProto *find_initializer(const reader *in, const char *name)
{
    Onnx__TensorProto wanted = {.name = (char *)name};
    const Onnx__TensorProto *key = &wanted;
    const Onnx__TensorProto **found = NULL;

    if (in->graph->n_initializer > 0)
        found = bsearch(&key, in->by_name, in->graph->n_initializer, sizeof key, compare_initializers);
    return found ? *found : NULL;
}

static esp_status sort_initializers(reader *in)
{
    size_t count = in->graph->n_initializer;

    in->by_name = esp_arena_alloc(in->arena, count + 1, sizeof *in->by_name);
    if (!in->by_name)
        return esp_fail_memory(in->err, "the table of initializers", count * sizeof *in->by_name);
    for (size_t i = 0; i < count; i++)
        in->by_name[i] = in->graph->initializer[i];
    if (count > 1)
        qsort(in->by_name, count, sizeof *in->by_name, compare_initializers);
    return ESP_OK;
}

/* ---- the model as a whole ---- */

static bool is_default_domain(const char *domain)
{
    return !domain || domain[0] == '\0' || strcmp(domain, "ai.onnx") == 0;
}

static esp_status read_opset(const reader *in, int64_t *out)
{
    bool is_found = false;

    for (size_t i = 0; i < in->model->n_opset_import; i++) {
        const Onnx__OperatorSetIdProto *import = in->model->opset_import[i];

        if (!is_default_domain(import->domain))
            continue; /* other domains matter only if a node uses them */
        if (is_found && import->version != *out)
            return esp_fail(in->err, ESP_FORMAT,
                            "imports two opsets of the default domain, %" PRId64 " and %" PRId64, *out,
                            import->version);
        *out = import->version;
        is_found = true;
    }
    if (!is_found)
        return esp_fail(in->err, ESP_FORMAT,
                        "imports no opset of the default domain, expected one of 7 to 21");
    return ESP_OK;
}

static esp_status begin_graph(reader *in)
{
    int64_t opset = 0;

    if (!in->graph)
        return esp_fail(in->err, ESP_FORMAT, "holds no graph, expected an ONNX model");
    if (!in->model->has_ir_version || in->model->ir_version < 3)
        return esp_fail(in->err, ESP_FORMAT, "has IR version %" PRId64 ", expected 3 or later",
                        in->model->has_ir_version ? in->model->ir_version : 0);
    esp_status status = read_opset(in, &opset);
    if (status != ESP_OK)
        return status;
    if (in->graph->n_sparse_initializer > 0)
        return esp_fail(in->err, ESP_UNSUPPORTED, "has %zu sparse initializers, expected dense ones only",
                        in->graph->n_sparse_initializer);
    const char *name = text_of(in->graph->name);
    return esp_builder_new(name[0] ? name : "graph", opset, in->model->ir_version, &in->builder, in->err);
}

static esp_status add_metadata(const reader *in, const char *key, const char *value)
{
    if (!value || !value[0])
        return ESP_OK;
    return esp_builder_metadata(in->builder, key, value, in->err);
}

static esp_status read_metadata(const reader *in)
{
    esp_status status = ESP_OK;
    char number[32];

    for (size_t i = 0; i < in->model->n_metadata_props && status == ESP_OK; i++) {
        const Onnx__StringStringEntryProto *entry = in->model->metadata_props[i];

        if (entry->key && entry->key[0])
            status = esp_builder_metadata(in->builder, entry->key, text_of(entry->value), in->err);
    }
#define ADD_TEXT(field)                                                                                      \
    if (status == ESP_OK)                                                                                    \
        status = add_metadata(in, ESP_ONNX_FIELD_PREFIX #field, in->model->field);
    ESP_ONNX_MODEL_TEXTS(ADD_TEXT)
#undef ADD_TEXT
    if (status == ESP_OK)
        status = add_metadata(in, ESP_ONNX_GRAPH_DOC_KEY, in->graph->doc_string);
    if (status != ESP_OK || !in->model->has_model_version)
        return status;
    snprintf(number, sizeof number, "%" PRId64, in->model->model_version);
    return add_metadata(in, ESP_ONNX_MODEL_VERSION_KEY, number);
}

/* ---- values ---- */

/* A dim of a declared type: a size, or -1 when the file leaves it open. Exporters write 0 and -1 for that
 * too. */
static int64_t declared_dim(const Onnx__TensorShapeProto__Dimension *dim, const char **symbol)
{
    *symbol = NULL;
    if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM && dim->dim_param[0])
        *symbol = dim->dim_param;
    if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE && dim->dim_value > 0)
        return dim->dim_value;
    return ESP_DIM_UNKNOWN;
}

typedef struct declared {
    esp_dtype dtype;
    esp_shape shape;   /* open dims are ESP_DIM_UNKNOWN; rank -1: no shape */
    const char *first; /* symbol of the first dim, or NULL */
} declared;

static esp_status read_type(const reader *in, const char *what, const Onnx__ValueInfoProto *info,
                            declared *out)
{
    char text[32];
    const char *name = text_of(info->name);
    const Onnx__TypeProto *type = info->type;

    if (name[0] == '\0')
        return esp_fail(in->err, ESP_FORMAT, "a graph %s has no name", what);
    if (!type || type->value_case == ONNX__TYPE_PROTO__VALUE__NOT_SET)
        return esp_fail(in->err, ESP_FORMAT, "graph %s '%s' has no type", what, name);
    if (type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE)
        return esp_fail(in->err, ESP_UNSUPPORTED, "graph %s '%s' is no tensor, expected a dense tensor", what,
                        name);
    const esp_onnx_type *element = esp_onnx_type_find(type->tensor_type->elem_type);
    if (!element || !element->is_supported)
        return esp_fail(
            in->err, ESP_UNSUPPORTED,
            "graph %s '%s': elements of %s are not supported, expected float, double, int32, int64, "
            "uint8 or bool",
            what, name, esp_onnx_type_name(type->tensor_type->elem_type, text, sizeof text));

    const Onnx__TensorShapeProto *shape = type->tensor_type->shape;
    *out = (declared){.dtype = element->dtype, .shape = {.rank = shape ? (int)shape->n_dim : -1}};
    if (shape && shape->n_dim > ESP_MAX_RANK)
        return esp_fail(in->err, ESP_UNSUPPORTED, "graph %s '%s' has %zu dims, expected at most %d", what,
                        name, shape->n_dim, ESP_MAX_RANK);
    for (int i = 0; i < out->shape.rank; i++) {
        const char *symbol;

        out->shape.dims[i] = declared_dim(shape->dim[i], &symbol);
        if (i == 0)
            out->first = symbol;
    }
    return ESP_OK;
}

/* A constant that is listed as an input too (always so before IR 4) must be declared as what it is. */
static esp_status check_listed_constant(const reader *in, const Onnx__ValueInfoProto *info,
                                        const Onnx__TensorProto *tensor)
{
    declared type;
    char found[128], expected[128];
    esp_status status = read_type(in, "input", info, &type);

    if (status != ESP_OK || type.shape.rank < 0)
        return status;
    esp_shape shape = {.rank = (int)(tensor->n_dims < ESP_MAX_RANK ? tensor->n_dims : ESP_MAX_RANK)};
    bool is_equal = (size_t)type.shape.rank == tensor->n_dims;
    for (int i = 0; i < shape.rank; i++) {
        shape.dims[i] = tensor->dims[i];
        is_equal = is_equal && (type.shape.dims[i] < 0 || type.shape.dims[i] == tensor->dims[i]);
    }
    if (is_equal)
        return ESP_OK;
    return esp_fail(in->err, ESP_SHAPE, "initializer '%s' has shape %s, its input declares %s", info->name,
                    esp_shape_format(&shape, found, sizeof found),
                    esp_shape_format(&type.shape, expected, sizeof expected));
}

static esp_status read_input(reader *in, const Onnx__ValueInfoProto *info)
{
    declared type;
    int value;
    const Onnx__TensorProto *tensor = find_initializer(in, text_of(info->name));

    if (tensor)
        return check_listed_constant(in, info, tensor);
    esp_status status = read_type(in, "input", info, &type);
    if (status != ESP_OK)
        return status;
    if (type.shape.rank > 0 && type.shape.dims[0] == ESP_DIM_UNKNOWN) {
        type.shape.dims[0] = ESP_DIM_BATCH;
        type.first = type.first ? type.first : ESP_ONNX_BATCH_NAME;
        in->batch_symbol = in->batch_symbol ? in->batch_symbol : type.first;
    }
    return esp_builder_input(in->builder, info->name, type.dtype, &type.shape, type.first, &value, in->err);
}

/* An output's open first dim is the batch when it has the name of the inputs' batch, or no name. */
static bool is_batch_symbol(const reader *in, const char *symbol)
{
    return in->batch_symbol && (!symbol || strcmp(symbol, in->batch_symbol) == 0);
}

static esp_status read_output(const reader *in, const Onnx__ValueInfoProto *info)
{
    declared type;
    int value;
    esp_status status = read_type(in, "output", info, &type);

    if (status != ESP_OK)
        return status;
    if (type.shape.rank > 0 && type.shape.dims[0] == ESP_DIM_UNKNOWN && is_batch_symbol(in, type.first))
        type.shape.dims[0] = ESP_DIM_BATCH;
    status = esp_builder_value(in->builder, info->name, &value, in->err);
    if (status != ESP_OK)
        return status;
    return esp_builder_output(in->builder, value, type.dtype, type.shape.rank < 0 ? NULL : &type.shape,
                              in->err);
}

/* Reads a tensor and lets go of its bytes in the message. */
static esp_status take_tensor(const reader *in, Onnx__TensorProto *proto, esp_tensor **out)
{
    esp_status status = esp_onnx_tensor_read(proto, in->directory, out, in->err);

    esp_onnx_tensor_release_raw(proto);
    return status;
}

static esp_status read_initializer(const reader *in, Onnx__TensorProto *proto)
{
    esp_tensor *tensor;
    int value;

    if (!proto->name || !proto->name[0])
        return esp_fail(in->err, ESP_FORMAT, "an initializer has no name");
    esp_status status = take_tensor(in, proto, &tensor);
    if (status != ESP_OK) {
        esp_error_prefix(in->err, "initializer '%.*s'", NAME_TEXT, proto->name);
        return status;
    }
    status = esp_builder_constant(in->builder, proto->name, tensor, &value, in->err);
    esp_tensor_unref(tensor);
    return status;
}

/* ---- attributes ---- */

/* Files of IR 1 leave the type out: then the field that is set tells it. */
static int attribute_type(const Onnx__AttributeProto *proto)
{
    if (proto->has_type && proto->type != ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED)
        return (int)proto->type;
    if (proto->has_i)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
    if (proto->has_f)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
    if (proto->has_s)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
    if (proto->t)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
    if (proto->n_ints > 0)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
    if (proto->n_floats > 0)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
    if (proto->n_strings > 0)
        return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS;
    return ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED;
}

/* Attributes that name an element type (`to` of Cast, `dtype` of generators) follow the floats to float32. */
static int64_t adapted_int(const char *name, int64_t value)
{
    if (strcmp(name, "to") != 0 && strcmp(name, "dtype") != 0)
        return value;
    const esp_onnx_type *type = value > 0 && value < INT_MAX ? esp_onnx_type_find((int)value) : NULL;
    return type && type->is_supported ? esp_onnx_type_code(type->dtype) : value;
}

static esp_status copy_string(const reader *in, const ProtobufCBinaryData *bytes, const char **out)
{
    if (bytes->len > 0 && memchr(bytes->data, 0, bytes->len))
        return esp_fail(in->err, ESP_FORMAT, "a string holds a zero byte");
    *out = bytes->len > 0 ? esp_arena_strndup(in->arena, (const char *)bytes->data, bytes->len) : "";
    return *out ? ESP_OK : esp_fail_memory(in->err, "a string attribute", bytes->len);
}

static esp_status copy_strings(const reader *in, const Onnx__AttributeProto *proto, esp_attr *out)
{
    const char **strings = esp_arena_alloc(in->arena, proto->n_strings + 1, sizeof *strings);

    if (!strings)
        return esp_fail_memory(in->err, "string attributes", proto->n_strings * sizeof *strings);
    for (size_t i = 0; i < proto->n_strings; i++) {
        esp_status status = copy_string(in, &proto->strings[i], &strings[i]);

        if (status != ESP_OK)
            return status;
    }
    out->strings = strings;
    return ESP_OK;
}

static esp_status set_count(const reader *in, size_t count, esp_attr *out)
{
    if (count > INT_MAX)
        return esp_fail(in->err, ESP_UNSUPPORTED, "has %zu elements, expected at most %d", count, INT_MAX);
    out->count = (int)count;
    return ESP_OK;
}

/* `out->tensor`, when set, is a reference of the caller's. */
static esp_status read_attribute_value(const reader *in, const Onnx__AttributeProto *proto, esp_attr *out)
{
    esp_tensor *tensor = NULL;
    esp_status status;

    switch (attribute_type(proto)) {
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT:
        *out = esp_attr_int(proto->name, adapted_int(proto->name, proto->i));
        return ESP_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT:
        *out = esp_attr_float(proto->name, proto->f);
        return ESP_OK;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING:
        out->type = ESP_ATTR_STRING;
        return copy_string(in, &proto->s, &out->s);
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR:
        if (!proto->t)
            return esp_fail(in->err, ESP_FORMAT, "holds no tensor, expected one");
        out->type = ESP_ATTR_TENSOR;
        status = take_tensor(in, proto->t, &tensor);
        out->tensor = tensor;
        return status;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS:
        out->type = ESP_ATTR_INTS;
        out->ints = proto->ints;
        return set_count(in, proto->n_ints, out);
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS:
        out->type = ESP_ATTR_FLOATS;
        out->floats = proto->floats;
        return set_count(in, proto->n_floats, out);
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS:
        out->type = ESP_ATTR_STRINGS;
        status = set_count(in, proto->n_strings, out);
        return status == ESP_OK ? copy_strings(in, proto, out) : status;
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH:
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPHS:
        return esp_fail(in->err, ESP_UNSUPPORTED, "holds a subgraph, which is not supported");
    case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__UNDEFINED:
        return esp_fail(in->err, ESP_FORMAT, "has neither type nor value");
    default:
        return esp_fail(
            in->err, ESP_UNSUPPORTED,
            "has attribute type %d, expected a number, a string, a dense tensor or a list of those",
            attribute_type(proto));
    }
}

static esp_status read_attribute(const reader *in, const Onnx__AttributeProto *proto, esp_attr *out)
{
    if (!proto->name || !proto->name[0])
        return esp_fail(in->err, ESP_FORMAT, "an attribute has no name");
    if (proto->ref_attr_name && proto->ref_attr_name[0])
        return esp_fail(in->err, ESP_UNSUPPORTED,
                        "attribute '%s' refers to '%s' of a function, which is not supported", proto->name,
                        proto->ref_attr_name);
    *out = (esp_attr){.name = proto->name};
    esp_status status = read_attribute_value(in, proto, out);
    if (status != ESP_OK)
        esp_error_prefix(in->err, "attribute '%.*s'", NAME_TEXT, proto->name);
    return status;
}

/* ---- nodes ---- */

static esp_status read_names(const reader *in, char *const *names, size_t count, int *out)
{
    for (size_t i = 0; i < count; i++) {
        esp_status status = ESP_OK;

        out[i] = -1; /* an empty name is an absent optional input or output */
        if (names[i][0])
            status = esp_builder_value(in->builder, names[i], &out[i], in->err);
        if (status != ESP_OK)
            return status;
    }
    return ESP_OK;
}

/* Fills `attrs`, zeroed before: whatever happens, the tensors in it are the caller's. */
static esp_status read_node_parts(const reader *in, const Onnx__NodeProto *proto, int *values,
                                  esp_attr *attrs)
{
    if (!proto->op_type || !proto->op_type[0])
        return esp_fail(in->err, ESP_FORMAT, "it has no operator");
    if (!is_default_domain(proto->domain))
        return esp_fail(in->err, ESP_UNSUPPORTED,
                        "operator '%s' is of domain '%s', expected the default domain (ai.onnx)",
                        proto->op_type, proto->domain);
    esp_status status = read_names(in, proto->input, proto->n_input, values);
    if (status == ESP_OK)
        status = read_names(in, proto->output, proto->n_output, values + proto->n_input);
    for (size_t i = 0; i < proto->n_attribute && status == ESP_OK; i++)
        status = read_attribute(in, proto->attribute[i], &attrs[i]);
    return status;
}

static void prefix_node(const reader *in, const Onnx__NodeProto *proto, size_t index)
{
    const char *op_type = text_of(proto->op_type);

    if (proto->name && proto->name[0])
        esp_error_prefix(in->err, "node '%.*s' (%.*s)", NAME_TEXT, proto->name, NAME_TEXT, op_type);
    else
        esp_error_prefix(in->err, "node %zu (%.*s)", index, NAME_TEXT, op_type);
}

static esp_status read_node(const reader *in, const Onnx__NodeProto *proto, size_t index)
{
    int *values = esp_arena_alloc(in->arena, proto->n_input + proto->n_output + 1, sizeof *values);
    esp_attr *attrs = esp_arena_alloc(in->arena, proto->n_attribute + 1, sizeof *attrs);

    if (!values || !attrs)
        return esp_fail_memory(in->err, "a node", proto->n_attribute * sizeof *attrs);
    if (proto->n_input > INT_MAX || proto->n_output > INT_MAX || proto->n_attribute > INT_MAX)
        return esp_fail(in->err, ESP_UNSUPPORTED, "node %zu has too many inputs or outputs", index);
    esp_status status = read_node_parts(in, proto, values, attrs);
    if (status != ESP_OK)
        prefix_node(in, proto, index);
    else
        status = esp_builder_node(in->builder, proto->op_type, proto->name, values, (int)proto->n_input,
                                  values + proto->n_input, (int)proto->n_output, attrs,
                                  (int)proto->n_attribute, in->err);
    for (size_t i = 0; i < proto->n_attribute; i++)
        esp_tensor_unref((esp_tensor *)attrs[i].tensor);
    return status;
}

static esp_status read_graph(reader *in)
{
    esp_status status = begin_graph(in);
    const Onnx__GraphProto *graph = in->graph;

    if (status == ESP_OK)
        status = sort_initializers(in);
    for (size_t i = 0; status == ESP_OK && i < graph->n_input; i++)
        status = read_input(in, graph->input[i]);
    for (size_t i = 0; status == ESP_OK && i < graph->n_initializer; i++)
        status = read_initializer(in, graph->initializer[i]);
    for (size_t i = 0; status == ESP_OK && i < graph->n_node; i++)
        status = read_node(in, graph->node[i], i);
    for (size_t i = 0; status == ESP_OK && i < graph->n_output; i++)
        status = read_output(in, graph->output[i]);
    return status == ESP_OK ? read_metadata(in) : status;
}

esp_status esp_onnx_graph_read(const Onnx__ModelProto *model, const char *directory, esp_graph **out,
                               esp_error *err)
{
    reader in = {.directory = directory, .model = model, .graph = model->graph, .err = err};
    esp_status status;

    *out = NULL;
    in.arena = esp_arena_new();
    status = in.arena ? read_graph(&in) : esp_fail_memory(err, "reading a model", sizeof in);
    if (status == ESP_OK)
        status = esp_builder_finish(in.builder, out, err);
    else
        esp_builder_free(in.builder);
    esp_arena_free(in.arena);
    return status;
}

/* Takes the model apart; it is released before the graph is simplified, when memory peaks. */
static esp_status finish_model(Onnx__ModelProto *take_model, const char *directory, esp_graph **out,
                               esp_error *err)
{
    esp_graph *as_stored = NULL;
    esp_status status = esp_onnx_graph_read(take_model, directory, &as_stored, err);

    esp_onnx_model_free(take_model);
    if (status == ESP_OK)
        status = esp_graph_simplify(as_stored, out, err);
    esp_graph_unref(as_stored);
    return status;
}

esp_status esp_onnx_parse(const void *data, size_t size, const char *name, esp_graph **out, esp_error *err)
{
    Onnx__ModelProto *model;

    *out = NULL;
    esp_status status = esp_onnx_model_decode(data, size, &model, err);
    if (status == ESP_OK)
        status = finish_model(model, NULL, out, err);
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", name);
    return status;
}

esp_status esp_onnx_load(const char *path, esp_graph **out, esp_error *err)
{
    Onnx__ModelProto *model = NULL;
    char *data, *directory;
    size_t size;

    *out = NULL;
    esp_status status = esp_file_read(path, &data, &size, err);
    if (status != ESP_OK)
        return status;
    directory = esp_path_directory(path);
    status = directory ? esp_onnx_model_decode((const uint8_t *)data, size, &model, err)
                       : esp_fail_memory(err, "reading a model", strlen(path));
    esp_free(data);
    if (status == ESP_OK)
        status = finish_model(model, directory, out, err);
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", path);
    esp_free(directory);
    return status;
}
