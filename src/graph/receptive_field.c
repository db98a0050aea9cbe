/* One pass over the nodes in order. What a node does to fields follows from its row and its shapes, not from
 * its name:
 *   attributes of a window (kernel_shape) make the field grow; with output_padding it is a transposed one;
 *   a fully connected layer, and whatever shrinks images to a point, sees all;
 *   rows that act on positions alone or keep the size of images pass the larger field of their inputs on;
 *   images of another size, by a whole factor, were enlarged or thinned out: the stride follows.
 * The last two dims are the spatial ones (the last of rank 3), whatever stands before them: a channel shuffle
 * takes images apart and puts them together without touching those. */
#include "graph/receptive_field.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "graph/opaque.h"

typedef struct field_pass {
    const esp_graph *graph;
    const esp_inferred *inferred;
    const esp_node *node;
    esp_field *fields; /* per value */
} field_pass;

static const esp_field whole = {.kind = ESP_FIELD_WHOLE}, unknown = {.kind = ESP_FIELD_UNKNOWN};

/* Height and width of an image of this shape; false when it is none. */
static bool image_size(const esp_shape *shape, int64_t *height, int64_t *width)
{
    if (shape->rank < 3)
        return false;
    *height = shape->rank == 3 ? 1 : shape->dims[shape->rank - 2];
    *width = shape->dims[shape->rank - 1];
    return true;
}

static const esp_shape *shape_of(const field_pass *pass, int value)
{
    return esp_inferred_shape(pass->inferred, value);
}

/* Unknown is worse than whole, whole more than any window. */
static esp_field larger(esp_field a, esp_field b)
{
    if (a.kind != ESP_FIELD_WINDOW || b.kind != ESP_FIELD_WINDOW)
        return a.kind >= b.kind ? a : b;
    return (esp_field){.kind = ESP_FIELD_WINDOW,
                       .height = fmax(a.height, b.height),
                       .width = fmax(a.width, b.width),
                       .stride_y = fmax(a.stride_y, b.stride_y),
                       .stride_x = fmax(a.stride_x, b.stride_x)};
}

/* ---- windows ---- */

/* Kernel, stride and dilation of one spatial dim, and whether the window is a transposed one. */
typedef struct window_dim {
    int64_t kernel, stride, dilation;
} window_dim;

static bool has_attribute(const esp_op *op, const char *name)
{
    for (const esp_attr_spec *spec = op->attrs; spec != NULL && spec->name != NULL; spec++) {
        if (strcmp(spec->name, name) == 0)
            return true;
    }
    return false;
}

/* The kernel's sizes: the attribute, or the spatial dims of a layer's weight. Returns how many. */
static int kernel_sizes(const field_pass *pass, int64_t *sizes)
{
    const esp_node *node = pass->node;
    int count = esp_node_ints(node, "kernel_shape", sizes, ESP_MAX_RANK);
    if (count > 0 || node->input_count < 2 || node->inputs[1] < 0)
        return count;
    const esp_shape *weight = shape_of(pass, node->inputs[1]);
    for (int i = 2; i < weight->rank; i++)
        sizes[count++] = weight->dims[i];
    return count;
}

static void spread(double *size, double *stride, window_dim dim, bool is_transposed)
{
    double reach = (double)(dim.kernel - 1) * (double)dim.dilation;
    if (is_transposed) {
        *size += (ceil((reach + 1.0) / (double)dim.stride) - 1.0) * *stride;
        *stride /= (double)dim.stride;
    } else {
        *size += reach * *stride;
        *stride *= (double)dim.stride;
    }
}

static esp_field through_window(const field_pass *pass, esp_field field)
{
    int64_t kernel[ESP_MAX_RANK], strides[ESP_MAX_RANK], dilations[ESP_MAX_RANK];
    int count = kernel_sizes(pass, kernel);
    bool has_strides = esp_node_ints(pass->node, "strides", strides, ESP_MAX_RANK) >= count;
    bool has_dilations = esp_node_ints(pass->node, "dilations", dilations, ESP_MAX_RANK) >= count;
    bool is_transposed = has_attribute(pass->node->op, "output_padding");
    if (count < 1 || field.kind != ESP_FIELD_WINDOW)
        return count < 1 ? unknown : field;
    for (int i = count > 2 ? count - 2 : 0; i < count; i++) {
        window_dim dim = {kernel[i], has_strides ? strides[i] : 1, has_dilations ? dilations[i] : 1};
        bool is_width = i == count - 1;
        if (dim.kernel < 1 || dim.stride < 1 || dim.dilation < 1)
            return unknown;
        spread(is_width ? &field.width : &field.height, is_width ? &field.stride_x : &field.stride_y, dim,
               is_transposed);
    }
    return field;
}

/* ---- everything else ---- */

static bool is_factor(double ratio)
{
    return ratio > 0.0 && (ratio == floor(ratio) || 1.0 / ratio == floor(1.0 / ratio));
}

/* An image that became another image of the same rank. */
static esp_field through_resize(esp_field field, int64_t from_h, int64_t from_w, int64_t to_h, int64_t to_w)
{
    double y = to_h > 0 ? (double)from_h / (double)to_h : 0.0;
    double x = to_w > 0 ? (double)from_w / (double)to_w : 0.0;
    if (field.kind == ESP_FIELD_WINDOW && is_factor(y) && is_factor(x)) {
        field.stride_y *= y;
        field.stride_x *= x;
    }
    return field; /* a crop or a margin by other amounts moves nothing apart */
}

static bool is_untouched(const esp_field *field)
{
    return field->kind == ESP_FIELD_WINDOW && field->height == 1.0 && field->width == 1.0 &&
           field->stride_y == 1.0 && field->stride_x == 1.0;
}

/* The field of input `value` as the node's output 0 has it, for nodes that are neither windows nor layers. */
static esp_field through_shapes(const field_pass *pass, int value)
{
    const esp_shape *from = shape_of(pass, value), *to = shape_of(pass, pass->node->outputs[0]);
    esp_field field = pass->fields[value];
    int64_t from_h, from_w, to_h, to_w;
    bool moves = pass->node->op->rule == ESP_CHANNEL_MOVE;
    if (field.kind != ESP_FIELD_WINDOW || to->rank < 0)
        return field.kind == ESP_FIELD_WINDOW ? unknown : field;
    if (!image_size(from, &from_h, &from_w) || is_untouched(&field))
        return field;
    bool keeps_all = esp_shape_elements(from) == esp_shape_elements(to);
    if (!image_size(to, &to_h, &to_w))
        return moves && keeps_all ? field : whole; /* flattened, or reduced to a vector */
    if (from_h == to_h && from_w == to_w)
        return field;
    if (!moves && to_h == 1 && to_w == 1)
        return whole;
    /* A broadcast partner of other size: what is small is spread over the image. */
    if ((from_h == 1 && from_w == 1) || from->rank == to->rank)
        return from_h == 1 && from_w == 1 ? field : through_resize(field, from_h, from_w, to_h, to_w);
    return unknown;
}

static bool is_linear_layer(const esp_op *op, const esp_node *node)
{
    esp_layer_form form;
    return op->layer != NULL && op->layer(node, &form) && !form.is_conv;
}

static esp_field through_layer(const field_pass *pass, int value)
{
    const esp_shape *from = shape_of(pass, value);
    esp_field field = pass->fields[value];
    if (from->rank > 2) /* one product per position: a MatMul over the last dim */
        return field.kind == ESP_FIELD_WINDOW && !is_untouched(&field) ? unknown : field;
    return field.kind == ESP_FIELD_WINDOW ? whole : field;
}

/* An operator nobody can look into, or a product of two images. */
static bool is_blind(const esp_op *op, bool is_window, bool is_linear)
{
    return esp_op_is_opaque(op) || (op->rule == ESP_CHANNEL_CUT && !is_window && !is_linear);
}

static esp_field node_field(const field_pass *pass)
{
    const esp_op *op = pass->node->op;
    bool is_window = has_attribute(op, "kernel_shape"), is_linear = is_linear_layer(op, pass->node);
    bool sees_unknown = is_blind(op, is_window, is_linear);
    esp_field field = {.kind = ESP_FIELD_NONE};
    if ((op->flags & ESP_OP_SHAPE_ONLY) != 0)
        return field;
    for (int i = 0; i < pass->node->input_count; i++) {
        int value = pass->node->inputs[i];
        if (value < 0 || pass->fields[value].kind == ESP_FIELD_NONE)
            continue;
        esp_field part = sees_unknown ? unknown
                         : is_window  ? through_window(pass, pass->fields[value])
                         : is_linear  ? through_layer(pass, value)
                                      : through_shapes(pass, value);
        field = larger(field, part);
    }
    return field;
}

void esp_receptive_fields(const esp_graph *graph, const esp_inferred *inferred, esp_field *out)
{
    field_pass pass = {.graph = graph, .inferred = inferred, .fields = out};
    for (int v = 0; v < esp_graph_value_count(graph); v++)
        out[v] = (esp_field){.kind = ESP_FIELD_NONE};
    for (int i = 0; i < esp_graph_input_count(graph); i++)
        out[esp_graph_input(graph, i)] = (esp_field){ESP_FIELD_WINDOW, 1.0, 1.0, 1.0, 1.0};
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        pass.node = esp_graph_node(graph, n);
        esp_field field = node_field(&pass);
        for (int i = 0; i < pass.node->output_count; i++) {
            int v = pass.node->outputs[i];
            if (v >= 0 && esp_inferred_constant(inferred, v) == NULL)
                out[v] = field;
        }
    }
}

/* ---- for people ---- */

static const char *word_of(const esp_field *field)
{
    static const char *const words[] = {
        [ESP_FIELD_NONE] = "-", [ESP_FIELD_WHOLE] = "whole", [ESP_FIELD_UNKNOWN] = "?"};
    return words[field->kind];
}

char *esp_field_format(const esp_field *field, char *buffer, size_t size)
{
    if (field->kind == ESP_FIELD_WINDOW)
        snprintf(buffer, size, "%gx%g", field->height, field->width);
    else
        snprintf(buffer, size, "%s", word_of(field));
    return buffer;
}

char *esp_field_stride_format(const esp_field *field, char *buffer, size_t size)
{
    if (field->kind != ESP_FIELD_WINDOW)
        snprintf(buffer, size, "-");
    else if (field->stride_y == field->stride_x)
        snprintf(buffer, size, "%g", field->stride_y);
    else
        snprintf(buffer, size, "%gx%g", field->stride_y, field->stride_x);
    return buffer;
}
