/* ModelProto to graph.
 *
 * Everything goes through the graph builder, in file order: inputs, constants, nodes, outputs. The builder
 * checks what every graph must satisfy (names, arity, attributes, cycles); this file checks what only the
 * file format can get wrong. Weights go from the file straight into their tensors, so that a large model is
 * held once. */
#include "io/onnx_reader.h"

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
#include "io/onnx_raise.h"

/* More entries than any exporter writes: each costs a search. */
#define METADATA_MAX 4096

typedef esp_onnx_reader reader;

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

static int compare_values(const void *a, const void *b)
{
    const Onnx__ValueInfoProto *const *left = a, *const *right = b;

    return strcmp(text_of((*left)->name), text_of((*right)->name));
}

int64_t esp_onnx_find_output(const esp_onnx_reader *in, const char *name)
{
    Onnx__ValueInfoProto wanted = {.name = (char *)name};
    const Onnx__ValueInfoProto *key = &wanted;
    const Onnx__ValueInfoProto **found = NULL;

    if (in->graph->n_output > 0)
        found = bsearch(&key, in->outputs, in->graph->n_output, sizeof key, compare_values);
    return found ? found - in->outputs : -1;
}

static esp_status sort_outputs(reader *in)
{
    size_t count = in->graph->n_output;

    in->outputs = esp_arena_alloc(in->arena, count + 1, sizeof *in->outputs);
    in->is_type_kept = esp_arena_alloc(in->arena, count + 1, sizeof *in->is_type_kept);
    if (!in->outputs || !in->is_type_kept)
        return esp_fail_memory(in->err, "the table of outputs", count * sizeof *in->outputs);
    for (size_t i = 0; i < count; i++)
        in->outputs[i] = in->graph->output[i];
    if (count > 1)
        qsort(in->outputs, count, sizeof *in->outputs, compare_values);
    return ESP_OK;
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

static esp_status read_opset(const reader *in, int64_t *out)
{
    bool is_found = false;

    for (size_t i = 0; i < in->model->n_opset_import; i++) {
        const Onnx__OperatorSetIdProto *import = in->model->opset_import[i];

        if (!esp_onnx_is_default_domain(import->domain))
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

static esp_status check_opset(const reader *in)
{
    if (in->opset >= ESP_OPSET_FIRST && in->opset <= ESP_OPSET_LAST)
        return ESP_OK;
    esp_fail(in->err, ESP_UNSUPPORTED, "opset %" PRId64 ", expected %d to %d", in->opset, ESP_OPSET_FIRST,
             ESP_OPSET_LAST);
    esp_error_set_hint(in->err, "export it with opset 13 to 21, or convert it with onnx.version_converter");
    return ESP_UNSUPPORTED;
}

static esp_status begin_graph(reader *in)
{
    if (!in->graph)
        return esp_fail(in->err, ESP_FORMAT, "holds no graph, expected an ONNX model");
    if (!in->model->has_ir_version || in->model->ir_version < 3)
        return esp_fail(in->err, ESP_FORMAT, "has IR version %" PRId64 ", expected 3 or later",
                        in->model->has_ir_version ? in->model->ir_version : 0);
    esp_status status = read_opset(in, &in->opset);
    if (status == ESP_OK)
        status = check_opset(in);
    if (status == ESP_OK)
        status = esp_onnx_check_name("graph", in->graph->name, in->err);
    if (status != ESP_OK)
        return status;
    const char *name = text_of(in->graph->name);
    return esp_builder_new(name[0] ? name : "graph", in->opset, in->model->ir_version, &in->builder, in->err);
}

/* Descriptions are for people: where one is in another encoding, what is not ASCII becomes '?'. */
static esp_status add_metadata(const reader *in, const char *key, const char *value)
{
    char *copy = NULL;

    if (!value || !value[0])
        return ESP_OK;
    if (esp_onnx_is_utf8(value))
        return esp_builder_metadata(in->builder, key, value, in->err);
    copy = esp_arena_strdup(in->arena, value);
    if (!copy)
        return esp_fail_memory(in->err, "metadata", strlen(value));
    for (char *at = copy; *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    return esp_builder_metadata(in->builder, key, copy, in->err);
}

/* Opsets of other domains are needed again where their nodes are written back. */
static esp_status read_imports(const reader *in)
{
    esp_status status = ESP_OK;

    for (size_t i = 0; i < in->model->n_opset_import && status == ESP_OK && in->has_opaque; i++) {
        const Onnx__OperatorSetIdProto *import = in->model->opset_import[i];
        char key[256], version[32];

        if (esp_onnx_is_default_domain(import->domain) || i > METADATA_MAX)
            continue;
        status = esp_onnx_check_name("domain", import->domain, in->err);
        if (status != ESP_OK)
            continue;
        snprintf(key, sizeof key, ESP_ONNX_OPSET_PREFIX "%s", import->domain);
        snprintf(version, sizeof version, "%" PRId64, import->version);
        status = esp_builder_metadata(in->builder, key, version, in->err);
    }
    return status;
}

static esp_status read_metadata(const reader *in)
{
    esp_status status = ESP_OK;
    char number[32];

    if (in->model->n_metadata_props > METADATA_MAX)
        return esp_fail(in->err, ESP_UNSUPPORTED, "has %zu metadata entries, expected at most %d",
                        in->model->n_metadata_props, METADATA_MAX);
    for (size_t i = 0; i < in->model->n_metadata_props && status == ESP_OK; i++) {
        const Onnx__StringStringEntryProto *entry = in->model->metadata_props[i];

        if (!entry->key || !entry->key[0])
            continue;
        status = esp_onnx_check_name("metadata key", entry->key, in->err);
        if (status == ESP_OK && text_of(entry->value)[0])
            status = add_metadata(in, entry->key, entry->value);
        else if (status == ESP_OK)
            status = esp_builder_metadata(in->builder, entry->key, "", in->err);
    }
    if (status == ESP_OK)
        status = read_imports(in);
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
    if (dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM && dim->dim_param[0] &&
        esp_onnx_is_utf8(dim->dim_param))
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
    esp_status status = esp_onnx_check_name(what, name, in->err);
    if (status != ESP_OK)
        return status;
    if (!type || type->value_case == ONNX__TYPE_PROTO__VALUE__NOT_SET)
        return esp_fail(in->err, ESP_FORMAT, "graph %s '%s' has no type", what, name);
    if (type->value_case != ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE)
        return esp_fail(in->err, ESP_UNSUPPORTED, "graph %s '%s' is no tensor, expected a dense tensor", what,
                        name);
    const esp_onnx_type *element = esp_onnx_type_find(type->tensor_type->elem_type);
    if (!element || !element->is_supported)
        return esp_fail(in->err, ESP_UNSUPPORTED,
                        "graph %s '%s': elements of %s are not supported, expected floats, integers or bool",
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

/* What the file says about values between the nodes: hints for nodes nobody can infer. Never an error. */
static void read_declared(const reader *in, const Onnx__ValueInfoProto *info)
{
    esp_onnx_reader quiet = *in;
    esp_error ignored;
    declared type;
    int value = info->name ? esp_builder_find(in->builder, info->name) : -1;

    quiet.err = &ignored;
    if (value < 0 || read_type(&quiet, "value", info, &type) != ESP_OK || type.shape.rank < 0)
        return;
    if (type.shape.rank > 0 && type.shape.dims[0] == ESP_DIM_UNKNOWN && type.first && in->batch_symbol &&
        strcmp(type.first, in->batch_symbol) == 0)
        type.shape.dims[0] = ESP_DIM_BATCH;
    esp_builder_declare(in->builder, value, type.dtype, &type.shape);
}

/* An output's open first dim is the batch when it has the name of the inputs' batch, or no name. */
static bool is_batch_symbol(const reader *in, const char *symbol)
{
    return in->batch_symbol && (!symbol || strcmp(symbol, in->batch_symbol) == 0);
}

static esp_status read_output(const reader *in, const Onnx__ValueInfoProto *info)
{
    declared type = {.dtype = ESP_F32, .shape = {.rank = -1}};
    int value;
    int64_t at = esp_onnx_find_output(in, text_of(info->name));
    esp_status status = ESP_OK;

    if (at < 0 || !in->is_type_kept[at])
        status = read_type(in, "output", info, &type);
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

/* One of a type or form that is not supported stays for keep_rest: perhaps nothing reads it. */
static esp_status read_initializer(const reader *in, const Onnx__TensorProto *proto, bool *is_left)
{
    esp_tensor *tensor;
    int value;

    if (!proto->name || !proto->name[0])
        return esp_fail(in->err, ESP_FORMAT, "an initializer has no name");
    esp_status status = esp_onnx_check_name("initializer", proto->name, in->err);
    if (status != ESP_OK)
        return status;
    status = esp_onnx_tensor_load(proto, in->source, &tensor, in->err);
    *is_left = status == ESP_UNSUPPORTED;
    if (*is_left)
        return ESP_OK;
    if (status != ESP_OK) {
        esp_error_prefix(in->err, "initializer '%.*s'", ESP_ONNX_NAME_TEXT, proto->name);
        return status;
    }
    status = esp_builder_constant(in->builder, proto->name, tensor, &value, in->err);
    esp_tensor_unref(tensor);
    return status;
}

/* Initializers that could not be read, where something reads them. */
static esp_status keep_rest(reader *in, const bool *is_left)
{
    const Onnx__GraphProto *graph = in->graph;
    esp_status status = ESP_OK;

    for (size_t i = 0; status == ESP_OK && i < graph->n_initializer; i++)
        if (is_left[i])
            status = esp_onnx_keep_tensor(in, graph->initializer[i]);
    for (size_t i = 0; status == ESP_OK && i < graph->n_sparse_initializer; i++)
        status = esp_onnx_keep_sparse(in, graph->sparse_initializer[i]);
    return status;
}

static esp_status read_graph(reader *in)
{
    esp_status status = begin_graph(in);
    const Onnx__GraphProto *graph = in->graph;
    bool *is_left = NULL;

    if (status == ESP_OK)
        status = sort_initializers(in);
    if (status == ESP_OK)
        status = sort_outputs(in);
    if (status == ESP_OK)
        is_left = esp_arena_alloc(in->arena, graph->n_initializer + 1, sizeof *is_left);
    if (status == ESP_OK && !is_left)
        status = esp_fail_memory(in->err, "reading a model", graph->n_initializer);
    for (size_t i = 0; status == ESP_OK && i < graph->n_input; i++)
        status = read_input(in, graph->input[i]);
    for (size_t i = 0; status == ESP_OK && i < graph->n_initializer; i++)
        status = read_initializer(in, graph->initializer[i], &is_left[i]);
    for (size_t i = 0; status == ESP_OK && i < graph->n_node; i++)
        status = esp_onnx_read_node(in, graph->node[i], i);
    if (status == ESP_OK)
        status = keep_rest(in, is_left);
    for (size_t i = 0; status == ESP_OK && i < graph->n_value_info; i++)
        read_declared(in, graph->value_info[i]);
    for (size_t i = 0; status == ESP_OK && i < graph->n_output; i++)
        status = read_output(in, graph->output[i]);
    return status == ESP_OK ? read_metadata(in) : status;
}

esp_status esp_onnx_graph_read(const Onnx__ModelProto *model, const esp_onnx_source *source, esp_graph **out,
                               esp_error *err)
{
    reader in = {.source = source, .model = model, .graph = model->graph, .err = err};
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

/* The messages are released before the graph is simplified, when memory peaks. */
static esp_status read_source(esp_onnx_source *source, esp_graph **out, esp_error *err)
{
    Onnx__ModelProto *model = NULL;
    esp_graph *as_stored = NULL;
    esp_status status = esp_onnx_source_decode(source, &model, err);

    if (status == ESP_OK)
        status = esp_onnx_raise(model, err);
    if (status == ESP_OK)
        status = esp_onnx_graph_read(model, source, &as_stored, err);
    esp_onnx_model_free(model);
    esp_onnx_source_close(source);
    if (status == ESP_OK)
        status = esp_graph_simplify(as_stored, out, err);
    esp_graph_unref(as_stored);
    return status;
}

esp_status esp_onnx_parse(const void *data, size_t size, const char *name, esp_graph **out, esp_error *err)
{
    esp_onnx_source source;

    *out = NULL;
    esp_onnx_source_memory(data, size, &source);
    esp_status status = read_source(&source, out, err);
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", name);
    return status;
}

esp_status esp_onnx_load(const char *path, esp_graph **out, esp_error *err)
{
    esp_onnx_source source;
    char *directory;

    *out = NULL;
    esp_status status = esp_onnx_source_open(path, &source, err);
    if (status != ESP_OK) {
        esp_onnx_source_close(&source);
        return status;
    }
    directory = esp_path_directory(path);
    source.directory = directory;
    if (directory)
        status = read_source(&source, out, err);
    else
        status = esp_fail_memory(err, "reading a model", strlen(path));
    esp_onnx_source_close(&source);
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", path);
    esp_free(directory);
    return status;
}
