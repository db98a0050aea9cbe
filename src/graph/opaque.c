/* The row of opaque nodes and what is known about their operators. Nothing here knows the file format: what
 * the reader could not make sense of is bytes in attributes, and notes say what the graph needs. */
#include "graph/opaque.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "graph/op.h"

static esp_status opaque_infer(esp_infer_context *context, esp_error *err)
{
    (void)context;
    return esp_fail(err, ESP_UNSUPPORTED, "what it computes is not known");
}

static esp_status opaque_forward(const esp_op_context *context, esp_error *err)
{
    return esp_opaque_fail(context->node, err);
}

esp_op *esp_opaque_row_new(esp_arena *arena, const char *name)
{
    esp_op *row = esp_arena_alloc(arena, 1, sizeof *row);

    if (row)
        *row = (esp_op){.name = name,
                        .opset_until = INT_MAX,
                        .input_max = -1,
                        .output_max = INT_MAX,
                        .rule = ESP_CHANNEL_BLOCK,
                        .infer = opaque_infer,
                        .forward = opaque_forward};
    return row;
}

bool esp_op_is_opaque(const esp_op *op)
{
    return op->infer == opaque_infer;
}

bool esp_attr_is_note(const esp_attr *attr)
{
    return strncmp(attr->name, ESP_OPAQUE_NOTE, strlen(ESP_OPAQUE_NOTE)) == 0;
}

int esp_graph_find_opaque(const esp_graph *graph)
{
    for (int n = 0; n < esp_graph_node_count(graph); n++)
        if (esp_op_is_opaque(esp_graph_node(graph, n)->op))
            return n;
    return -1;
}

/* ONNX's own operators are shown without their domain. */
static const char *shown_name(const char *name)
{
    static const char own[] = ESP_OPAQUE_ONNX "::";

    return strncmp(name, own, sizeof own - 1) == 0 ? name + sizeof own - 1 : name;
}

esp_status esp_opaque_fail(const esp_node *node, esp_error *err)
{
    const char *reason = esp_node_string(node, ESP_OPAQUE_REASON, "its operator is not known");

    return esp_fail(err, ESP_UNSUPPORTED, "node '%.160s' (%.160s) cannot run: %s", node->name,
                    shown_name(node->op->name), reason);
}

esp_status esp_opaque_check(const esp_graph *graph, esp_error *err)
{
    int node = esp_graph_find_opaque(graph);

    return node < 0 ? ESP_OK : esp_opaque_fail(esp_graph_node(graph, node), err);
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);

    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* Operators on integers that stand for real numbers: scales and zero points beside the tensors. */
static bool is_quantised(const char *name)
{
    return ends_with(name, "QuantizeLinear") || ends_with(name, "DequantizeLinear") ||
           strncmp(name, "QLinear", 7) == 0 || strcmp(name, "ConvInteger") == 0 ||
           strcmp(name, "MatMulInteger") == 0;
}

char *esp_opaque_reason(const char *name, int64_t opset, char *buffer, size_t size)
{
    const char *separator = strstr(name, "::");
    const char *own_name = shown_name(name), *bare = separator ? separator + 2 : name;
    bool is_own = own_name != name || !separator;

    if (is_quantised(bare))
        snprintf(buffer, size, "quantised models are not supported, export the float model instead");
    else if (is_own && esp_op_find(own_name, opset, NULL))
        snprintf(buffer, size, "it is not supported in this form");
    else if (is_own)
        snprintf(buffer, size, "operator '%.80s' of opset %lld is not known", own_name, (long long)opset);
    else
        snprintf(buffer, size, "operator '%.80s' is of domain '%.*s', which is not known", bare,
                 (int)(separator - name < 80 ? separator - name : 80), name);
    return buffer;
}

/* The note lists the outputs one after the other. */
static bool read_note(const esp_node *node, int index, esp_dtype *dtype, esp_shape *shape)
{
    const esp_attr *note = esp_node_attr(node, ESP_OPAQUE_OUTPUTS);
    int at = 0;

    if (!note || note->type != ESP_ATTR_INTS)
        return false;
    for (int i = 0; at + 1 < note->count; i++) {
        int64_t rank = note->ints[at + 1];

        if (rank > ESP_MAX_RANK || at + 2 + rank > note->count)
            return false;
        if (i == index && rank >= 0) {
            *dtype = (esp_dtype)note->ints[at];
            *shape = esp_shape_make((int)rank, note->ints + at + 2);
        }
        if (i == index)
            return rank >= 0;
        at += 2 + (rank > 0 ? (int)rank : 0);
    }
    return false;
}

void esp_opaque_declared(const esp_graph *graph, const esp_node *node, int index, esp_dtype *dtype,
                         esp_shape *shape)
{
    const esp_value *value = node->outputs[index] < 0 ? NULL : esp_graph_value(graph, node->outputs[index]);

    *dtype = value ? value->dtype : ESP_F32;
    *shape = (esp_shape){.rank = -1};
    if (!read_note(node, index, dtype, shape) && value)
        *shape = value->shape;
}
