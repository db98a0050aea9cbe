/* NodeProto to node: attributes in their types, inputs and outputs by name. What the op table does not have,
 * or not in this form, goes to onnx_read_opaque.c: a model that cannot run can still be looked at. */
#include "io/onnx_reader.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "graph/op.h"
#include "graph/opaque.h"

typedef esp_onnx_reader reader;

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

int64_t esp_onnx_adapted_int(const char *name, int64_t value)
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
        *out = esp_attr_int(proto->name, esp_onnx_adapted_int(proto->name, proto->i));
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
        status = esp_onnx_tensor_load(proto->t, in->source, &tensor, in->err);
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
    esp_status status = esp_onnx_check_name("attribute", proto->name, in->err);
    if (status != ESP_OK)
        return status;
    if (proto->ref_attr_name && proto->ref_attr_name[0])
        return esp_fail(in->err, ESP_UNSUPPORTED,
                        "attribute '%s' refers to '%s' of a function, which is not supported", proto->name,
                        proto->ref_attr_name);
    *out = (esp_attr){.name = proto->name};
    status = read_attribute_value(in, proto, out);
    if (status != ESP_OK)
        esp_error_prefix(in->err, "attribute '%.*s'", ESP_ONNX_NAME_TEXT, proto->name);
    return status;
}

/* ---- nodes ---- */

static esp_status read_names(const reader *in, const char *what, char *const *names, size_t count, int *out)
{
    for (size_t i = 0; i < count; i++) {
        esp_status status = ESP_OK;

        out[i] = -1; /* an empty name is an absent optional input or output */
        if (names[i][0])
            status = esp_onnx_check_name(what, names[i], in->err);
        if (names[i][0] && status == ESP_OK)
            status = esp_builder_value(in->builder, names[i], &out[i], in->err);
        if (status != ESP_OK)
            return status;
    }
    return ESP_OK;
}

static esp_status read_values(const reader *in, const Onnx__NodeProto *proto, int *values)
{
    if (!proto->op_type || !proto->op_type[0])
        return esp_fail(in->err, ESP_FORMAT, "it has no operator");
    esp_status status = esp_onnx_check_name("operator", proto->op_type, in->err);
    if (status == ESP_OK)
        status = esp_onnx_check_name("domain", proto->domain, in->err);
    if (status == ESP_OK)
        status = read_names(in, "input", proto->input, proto->n_input, values);
    if (status == ESP_OK)
        status = read_names(in, "output", proto->output, proto->n_output, values + proto->n_input);
    return status;
}

static void prefix_node(const reader *in, const Onnx__NodeProto *proto, size_t index)
{
    const char *op_type = proto->op_type ? proto->op_type : "";

    if (proto->name && proto->name[0] && esp_onnx_is_utf8(proto->name))
        esp_error_prefix(in->err, "node '%.*s' (%.*s)", ESP_ONNX_NAME_TEXT, proto->name, ESP_ONNX_NAME_TEXT,
                         op_type);
    else
        esp_error_prefix(in->err, "node %zu (%.*s)", index, ESP_ONNX_NAME_TEXT, op_type);
}

/* A node of the op table. ESP_UNSUPPORTED: not in this form. */
static esp_status read_known(const reader *in, const Onnx__NodeProto *proto, size_t index, const int *values)
{
    esp_attr *attrs = esp_arena_alloc(in->arena, proto->n_attribute + 1, sizeof *attrs);
    esp_status status = ESP_OK;

    if (!attrs)
        return esp_fail_memory(in->err, "a node", proto->n_attribute * sizeof *attrs);
    for (size_t i = 0; i < proto->n_attribute && status == ESP_OK; i++)
        status = read_attribute(in, proto->attribute[i], &attrs[i]);
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

/* What is left of a message once its node's name, which a prefix said, is taken away. */
static const char *without_prefix(const char *message)
{
    const char *end = strncmp(message, "node ", 5) == 0 ? strstr(message, "): ") : NULL;

    return end ? end + 3 : message;
}

static esp_status read_any(reader *in, const Onnx__NodeProto *proto, size_t index, const int *values)
{
    esp_error why = {0}, *err = in->err;
    bool is_known = esp_onnx_is_default_domain(proto->domain) && !strstr(proto->op_type, "::") &&
                    esp_op_find(proto->op_type, in->opset, NULL);

    if (!is_known)
        return esp_onnx_keep_node(in, proto, values, NULL);
    in->err = &why;
    esp_status status = read_known(in, proto, index, values);
    in->err = err;
    if (status == ESP_UNSUPPORTED)
        return esp_onnx_keep_node(in, proto, values, without_prefix(why.message));
    if (status != ESP_OK && err)
        *err = why;
    return status;
}

esp_status esp_onnx_read_node(esp_onnx_reader *in, const Onnx__NodeProto *proto, size_t index)
{
    if (proto->n_input > INT_MAX || proto->n_output > INT_MAX || proto->n_attribute > INT_MAX)
        return esp_fail(in->err, ESP_UNSUPPORTED, "node %zu has too many inputs or outputs", index);
    int *values = esp_arena_alloc(in->arena, proto->n_input + proto->n_output + 1, sizeof *values);
    if (!values)
        return esp_fail_memory(in->err, "a node", (proto->n_input + proto->n_output) * sizeof *values);
    esp_status status = esp_onnx_check_name("node", proto->name, in->err);
    if (status == ESP_OK)
        status = read_values(in, proto, values);
    if (status == ESP_OK)
        return read_any(in, proto, index, values);
    prefix_node(in, proto, index);
    return status;
}
