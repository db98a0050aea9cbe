/* What a file has and nobody here understands: kept as bytes, so that it can be written back, with notes on
 * what the graph must know about it (graph/opaque.h). Attributes are packed again from the decoded message,
 * with the weights that were left in the file. Names that a subgraph reads from outside become inputs of its
 * node, behind the real ones, so that nothing cuts or drops what it needs.
 *
 * Tensors that cannot be read (of text, of integers we have no type for, sparse ones) become opaque Constant
 * nodes when something reads them. */
#include "io/onnx_reader.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"
#include "graph/opaque.h"

typedef esp_onnx_reader reader;

/* Attributes and notes of a node under construction. */
typedef struct opaque_node {
    esp_attr *attrs;
    int count, capacity;
    int *inputs;
    int input_count, input_capacity;
} opaque_node;

/* One more place in an array of the arena. The old array is left behind: the arena goes when the model is
 * read. */
static void *grow(const reader *in, void *items, int count, int *capacity, size_t size)
{
    if (count < *capacity)
        return items;
    int larger = *capacity ? 2 * *capacity : 8;
    void *grown = esp_arena_alloc(in->arena, (size_t)larger, size);
    if (grown && count > 0)
        memcpy(grown, items, (size_t)count * size);
    if (grown)
        *capacity = larger;
    return grown;
}

static esp_status add_attr(const reader *in, opaque_node *node, esp_attr attr)
{
    esp_attr *grown = grow(in, node->attrs, node->count, &node->capacity, sizeof *grown);

    if (!grown)
        return esp_fail_memory(in->err, "a node's attributes", (size_t)node->count * sizeof *grown);
    node->attrs = grown;
    node->attrs[node->count++] = attr;
    return ESP_OK;
}

/* ---- bytes ---- */

/* Bytes of a tensor whose elements lie in another file: as many as it says, or as its dims need. */
static esp_status external_size(const reader *in, const Onnx__TensorProto *proto,
                                const esp_onnx_external *where, size_t *out)
{
    const esp_onnx_type *type = esp_onnx_type_find(proto->data_type);
    int64_t bytes = type ? (int64_t)type->bytes : 0;

    for (size_t i = 0; i < proto->n_dims; i++)
        if (proto->dims[i] < 0 || __builtin_mul_overflow(bytes, proto->dims[i], &bytes))
            return esp_fail(in->err, ESP_FORMAT, "its dims are negative or too large");
    *out = where->length >= 0 ? (size_t)where->length : (size_t)bytes;
    return ESP_OK;
}

/* In the arena. */
static esp_status read_external(const reader *in, const Onnx__TensorProto *proto, uint8_t **out, size_t *size)
{
    esp_onnx_external where;
    int descriptor = -1;
    esp_status status = esp_onnx_external_find(proto, in->source->directory, &where, in->err);

    if (status == ESP_OK)
        status = external_size(in, proto, &where, size);
    if (status == ESP_OK)
        status = esp_onnx_external_open(&where, in->source->directory, *size, &descriptor, in->err);
    if (status != ESP_OK)
        return status;
    *out = esp_arena_alloc(in->arena, *size + 1, 1);
    status = *out ? esp_onnx_read_at(descriptor, (uint64_t)where.offset, *out, *size, in->err)
                  : esp_fail_memory(in->err, "a tensor", *size);
    close(descriptor);
    return status;
}

static esp_status read_cut(const reader *in, const esp_onnx_cut *cut, uint8_t **out, size_t *size)
{
    *size = (size_t)cut->size;
    *out = esp_arena_alloc(in->arena, *size + 1, 1);
    return *out ? esp_onnx_source_read(in->source, cut->offset, *out, *size, in->err)
                : esp_fail_memory(in->err, "a tensor", *size);
}

/* A copy of a tensor, in the arena, that holds all its elements: those that were cut out, or lie in another
 * file.
 */
static esp_status restore_tensor(const reader *in, const Onnx__TensorProto *proto, Onnx__TensorProto **out)
{
    const esp_onnx_cut *cut = esp_onnx_tensor_cut(proto, in->source);
    bool is_external = proto->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    Onnx__TensorProto *copy = esp_arena_copy(in->arena, proto, sizeof *proto);
    uint8_t *bytes = NULL;
    size_t size = 0;

    *out = copy;
    if (!copy)
        return esp_fail_memory(in->err, "a tensor", sizeof *copy);
    if (!cut && !is_external)
        return ESP_OK;
    esp_status status =
        is_external ? read_external(in, proto, &bytes, &size) : read_cut(in, cut, &bytes, &size);
    if (status != ESP_OK)
        return status;
    copy->base.n_unknown_fields = 0;
    copy->base.unknown_fields = NULL;
    copy->has_data_location = false;
    copy->n_external_data = 0;
    if (is_external || cut->field == ESP_ONNX_RAW_FIELD) {
        copy->has_raw_data = true;
        copy->raw_data = (ProtobufCBinaryData){size, bytes};
    } else if (cut->field == ESP_ONNX_FLOATS_FIELD) {
        copy->n_float_data = size / sizeof(float);
        copy->float_data = (float *)(void *)bytes;
    } else {
        copy->n_double_data = size / sizeof(double);
        copy->double_data = (double *)(void *)bytes;
    }
    return ESP_OK;
}

/* The packed message, as a bytes attribute. */
static esp_status add_message(const reader *in, opaque_node *node, const char *name,
                              const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = size < INT_MAX ? esp_arena_alloc(in->arena, size + 1, 1) : NULL;

    if (!bytes)
        return esp_fail_memory(in->err, "an attribute", size);
    protobuf_c_message_pack(message, bytes);
    return add_attr(in, node,
                    (esp_attr){.name = name, .type = ESP_ATTR_BYTES, .s = (char *)bytes, .count = (int)size});
}

static esp_status add_attribute(const reader *in, opaque_node *node, const Onnx__AttributeProto *proto)
{
    Onnx__AttributeProto copy = *proto;
    esp_status status = ESP_OK;

    if (!proto->name || !proto->name[0] || strncmp(proto->name, ESP_OPAQUE_NOTE, 2) == 0)
        return esp_fail(in->err, ESP_FORMAT, "an attribute has no name");
    status = esp_onnx_check_name("attribute", proto->name, in->err);
    if (proto->has_i)
        copy.i = esp_onnx_adapted_int(proto->name, proto->i);
    if (status == ESP_OK && proto->t)
        status = restore_tensor(in, proto->t, &copy.t);
    return status == ESP_OK ? add_message(in, node, proto->name, &copy.base) : status;
}

/* ---- subgraphs ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All names the graph itself gives values, sorted: made when the first subgraph is met. */
static esp_status collect_outer_names(reader *in)
{
    const Onnx__GraphProto *graph = in->graph;
    size_t count = graph->n_input + graph->n_initializer;

    if (in->has_outer_names)
        return ESP_OK;
    for (size_t i = 0; i < graph->n_node; i++)
        count += graph->node[i]->n_output;
    in->outer_names = esp_arena_alloc(in->arena, count + 1, sizeof *in->outer_names);
    if (!in->outer_names)
        return esp_fail_memory(in->err, "a table of names", count * sizeof *in->outer_names);
    count = 0;
    for (size_t i = 0; i < graph->n_input; i++)
        in->outer_names[count++] = graph->input[i]->name;
    for (size_t i = 0; i < graph->n_initializer; i++)
        in->outer_names[count++] = graph->initializer[i]->name;
    for (size_t i = 0; i < graph->n_node; i++)
        for (size_t k = 0; k < graph->node[i]->n_output; k++)
            in->outer_names[count++] = graph->node[i]->output[k];
    for (size_t i = 0; i < count; i++)
        in->outer_names[i] = in->outer_names[i] ? in->outer_names[i] : "";
    if (count > 1)
        qsort(in->outer_names, count, sizeof *in->outer_names, compare_names);
    in->outer_count = count;
    in->has_outer_names = true;
    return ESP_OK;
}

static esp_status capture_name(reader *in, opaque_node *node, const char *name)
{
    int value, *grown;

    if (!name || !name[0] || in->outer_count == 0 ||
        !bsearch(&name, in->outer_names, in->outer_count, sizeof name, compare_names))
        return ESP_OK;
    esp_status status = esp_builder_value(in->builder, name, &value, in->err);
    if (status != ESP_OK)
        return status;
    grown = grow(in, node->inputs, node->input_count, &node->input_capacity, sizeof *grown);
    if (!grown)
        return esp_fail_memory(in->err, "a node's inputs", (size_t)node->input_count * sizeof *grown);
    node->inputs = grown;
    node->inputs[node->input_count++] = value;
    return ESP_OK;
}

/* The wire check has bounded the nesting. */
static esp_status capture_graph(reader *in, opaque_node *node, const Onnx__GraphProto *graph)
{
    esp_status status = collect_outer_names(in);

    for (size_t n = 0; status == ESP_OK && n < graph->n_node; n++) {
        const Onnx__NodeProto *inner = graph->node[n];

        for (size_t i = 0; status == ESP_OK && i < inner->n_input; i++)
            status = capture_name(in, node, inner->input[i]);
        for (size_t a = 0; status == ESP_OK && a < inner->n_attribute; a++) {
            const Onnx__AttributeProto *attr = inner->attribute[a];

            if (attr->g)
                status = capture_graph(in, node, attr->g);
            for (size_t g = 0; status == ESP_OK && g < attr->n_graphs; g++)
                status = capture_graph(in, node, attr->graphs[g]);
        }
    }
    for (size_t i = 0; status == ESP_OK && i < graph->n_output; i++)
        status = capture_name(in, node, graph->output[i]->name);
    return status;
}

static esp_status capture_attribute(reader *in, opaque_node *node, const Onnx__AttributeProto *attr,
                                    bool *has_subgraph)
{
    esp_status status = ESP_OK;

    *has_subgraph = *has_subgraph || attr->g || attr->n_graphs > 0;
    if (attr->g)
        status = capture_graph(in, node, attr->g);
    for (size_t g = 0; status == ESP_OK && g < attr->n_graphs; g++)
        status = capture_graph(in, node, attr->graphs[g]);
    return status;
}

/* ---- nodes ---- */

static bool is_own_function(const reader *in, const Onnx__NodeProto *proto)
{
    const char *domain = proto->domain ? proto->domain : "";

    for (size_t i = 0; i < in->model->n_functions; i++) {
        const Onnx__FunctionProto *function = in->model->functions[i];

        if (function->name && strcmp(function->name, proto->op_type) == 0 &&
            strcmp(function->domain ? function->domain : "", domain) == 0)
            return true;
    }
    return false;
}

/* Outputs of the graph whose type is not that of a tensor we know are written back with the node's. */
static esp_status note_types(reader *in, opaque_node *node, const Onnx__NodeProto *proto)
{
    esp_status status = ESP_OK;

    for (size_t i = 0; i < proto->n_output && status == ESP_OK; i++) {
        int64_t at = proto->output[i][0] ? esp_onnx_find_output(in, proto->output[i]) : -1;
        const Onnx__TypeProto *type = at < 0 ? NULL : in->outputs[at]->type;
        const esp_onnx_type *element = type && type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE
                                           ? esp_onnx_type_find(type->tensor_type->elem_type)
                                           : NULL;
        char name[32];

        if (!type || (element && element->is_supported))
            continue;
        snprintf(name, sizeof name, ESP_OPAQUE_TYPE "%zu", i);
        const char *copy = esp_arena_strdup(in->arena, name);
        status =
            copy ? add_message(in, node, copy, &type->base) : esp_fail_memory(in->err, "a name", sizeof name);
        in->is_type_kept[at] = true;
    }
    return status;
}

static esp_status note_reason(reader *in, opaque_node *node, const char *operator_name, const char *reason,
                              bool has_subgraph, bool is_function)
{
    char text[512];

    if (has_subgraph)
        reason = "it holds a subgraph, and control flow is not supported";
    else if (is_function)
        reason = "it calls a function defined in the file, which is not supported; export the model with its "
                 "functions inlined";
    else if (!reason)
        reason = esp_opaque_reason(operator_name, in->opset, text, sizeof text);
    const char *copy = esp_arena_strdup(in->arena, reason);
    esp_status status = copy ? add_attr(in, node, esp_attr_string(ESP_OPAQUE_REASON, copy))
                             : esp_fail_memory(in->err, "a message", strlen(reason));
    if (status == ESP_OK && is_function)
        status = add_attr(in, node,
                          esp_attr_string(ESP_OPAQUE_LOST,
                                          "it calls a function of the file it came from, which is not kept"));
    return status;
}

static const char *operator_name(const reader *in, const char *domain, const char *op_type)
{
    esp_text text = {0};

    esp_text_printf(&text, "%s::%s", esp_onnx_is_default_domain(domain) ? ESP_OPAQUE_ONNX : domain, op_type);
    const char *name = text.is_broken ? NULL : esp_arena_strdup(in->arena, text.data);
    esp_text_free(&text);
    return name;
}

/* What a tensor that is not read would have been, as far as shapes go. */
static void declare_constant(const reader *in, int value, size_t rank, const int64_t *dims)
{
    if (value < 0 || rank > ESP_MAX_RANK)
        return;
    esp_shape shape = esp_shape_make((int)rank, dims);
    if (esp_shape_elements(&shape) >= 0)
        esp_builder_declare(in->builder, value, ESP_F32, &shape);
}

static esp_status keep_node(reader *in, const Onnx__NodeProto *proto, const int *values, const char *reason,
                            const char *name)
{
    opaque_node node = {0};
    bool has_subgraph = false, is_function = is_own_function(in, proto);
    esp_status status = ESP_OK;

    node.inputs = esp_arena_copy(in->arena, values, proto->n_input * sizeof *values);
    if (!node.inputs)
        return esp_fail_memory(in->err, "a node", proto->n_input * sizeof *values);
    node.input_count = node.input_capacity = (int)proto->n_input;
    for (size_t i = 0; i < proto->n_attribute && status == ESP_OK; i++)
        status = add_attribute(in, &node, proto->attribute[i]);
    for (size_t i = 0; i < proto->n_attribute && status == ESP_OK; i++)
        status = capture_attribute(in, &node, proto->attribute[i], &has_subgraph);
    if (status == ESP_OK && has_subgraph)
        status = add_attr(in, &node, esp_attr_int(ESP_OPAQUE_INPUTS, (int64_t)proto->n_input));
    if (status == ESP_OK)
        status = note_types(in, &node, proto);
    if (status == ESP_OK)
        status = note_reason(in, &node, name, reason, has_subgraph, is_function);
    if (status != ESP_OK)
        return status;
    in->has_opaque = true;
    status = esp_builder_node(in->builder, name, proto->name, node.inputs, node.input_count,
                              values + proto->n_input, (int)proto->n_output, node.attrs, node.count, in->err);
    bool is_constant = strcmp(name, ESP_OPAQUE_ONNX "::Constant") == 0 && proto->n_output == 1;
    const Onnx__AttributeProto *held = is_constant && proto->n_attribute == 1 ? proto->attribute[0] : NULL;
    if (status == ESP_OK && held && held->t)
        declare_constant(in, values[proto->n_input], held->t->n_dims, held->t->dims);
    else if (status == ESP_OK && held && held->sparse_tensor)
        declare_constant(in, values[proto->n_input], held->sparse_tensor->n_dims, held->sparse_tensor->dims);
    return status;
}

esp_status esp_onnx_keep_node(esp_onnx_reader *in, const Onnx__NodeProto *proto, const int *values,
                              const char *reason)
{
    const char *name = operator_name(in, proto->domain, proto->op_type);
    esp_status status = name ? keep_node(in, proto, values, reason, name)
                             : esp_fail_memory(in->err, "a node", strlen(proto->op_type));

    if (status == ESP_FORMAT && in->err && strncmp(in->err->message, "node '", 6) != 0)
        esp_error_prefix(in->err, "node '%.*s' (%.*s)", ESP_ONNX_NAME_TEXT, proto->name ? proto->name : "",
                         ESP_ONNX_NAME_TEXT, proto->op_type);
    return status;
}

/* ---- tensors ---- */

/* A Constant node with this attribute, when `name` is read by something. */
static esp_status add_constant(reader *in, const char *name, Onnx__AttributeProto *attribute, size_t rank,
                               const int64_t *dims, const char *reason)
{
    int value = esp_builder_find(in->builder, name);
    opaque_node node = {0};

    if (value < 0)
        return ESP_OK;
    esp_status status = add_message(in, &node, attribute->name, &attribute->base);
    if (status == ESP_OK)
        status = add_attr(in, &node, esp_attr_string(ESP_OPAQUE_REASON, reason));
    if (status == ESP_OK)
        status = esp_builder_node(in->builder, ESP_OPAQUE_ONNX "::Constant", name, NULL, 0, &value, 1,
                                  node.attrs, node.count, in->err);
    if (status != ESP_OK)
        return status;
    in->has_opaque = true;
    declare_constant(in, value, rank, dims);
    return ESP_OK;
}

esp_status esp_onnx_keep_tensor(esp_onnx_reader *in, const Onnx__TensorProto *proto)
{
    Onnx__AttributeProto attribute = ONNX__ATTRIBUTE_PROTO__INIT;
    esp_error why = {0};
    esp_tensor *none = NULL;

    if (esp_builder_find(in->builder, proto->name) < 0)
        return ESP_OK;
    /* The reason, in the words a Constant node gives when the file is read again. */
    if (esp_onnx_tensor_load(proto, in->source, &none, &why) == ESP_OK)
        esp_tensor_unref(none);
    esp_error_prefix(&why, "attribute 'value'");
    attribute.name = (char *)"value";
    attribute.has_type = true;
    attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
    esp_status status = restore_tensor(in, proto, &attribute.t);
    if (status != ESP_OK) {
        esp_error_prefix(in->err, "initializer '%.*s'", ESP_ONNX_NAME_TEXT, proto->name);
        return status;
    }
    const char *reason = esp_arena_strdup(in->arena, why.message);
    if (!reason)
        return esp_fail_memory(in->err, "a message", sizeof why);
    return add_constant(in, proto->name, &attribute, proto->n_dims, proto->dims, reason);
}

esp_status esp_onnx_keep_sparse(esp_onnx_reader *in, const Onnx__SparseTensorProto *proto)
{
    Onnx__AttributeProto attribute = ONNX__ATTRIBUTE_PROTO__INIT;
    const char *name = proto->values ? proto->values->name : NULL;

    if (!name || !name[0])
        return esp_fail(in->err, ESP_FORMAT, "a sparse initializer has no name");
    esp_status status = esp_onnx_check_name("sparse initializer", name, in->err);
    if (status != ESP_OK)
        return status;
    attribute.name = (char *)"sparse_value";
    attribute.has_type = true;
    attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__SPARSE_TENSOR;
    attribute.sparse_tensor = (Onnx__SparseTensorProto *)proto;
    return add_constant(in, name, &attribute, proto->n_dims, proto->dims, "sparse tensors are not supported");
}
