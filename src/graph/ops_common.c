/* Helpers of the operator files. They know attributes, views and shapes, and no operator in particular. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "graph/ops.h"
#include "tensor/conv.h"
#include "tensor/elementwise.h"
#include "tensor/pool2d.h"

const void *esp_op_plan(const esp_op_context *context, void *local)
{
    if (context->plan != NULL)
        return context->plan;
    context->node->op->prepare(context, local);
    return local;
}

bool esp_op_is_blocked(const esp_op_context *context)
{
    for (int i = 0; i < context->input_count; i++) {
        if (context->inputs[i] != NULL && context->inputs[i]->layout == ESP_LAYOUT_BLOCKED)
            return true;
    }
    return context->output_count > 0 && context->outputs[0]->layout == ESP_LAYOUT_BLOCKED;
}

bool esp_op_image_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    *out = (esp_op_layouts){.blocked_inputs = 1, .blocked_output = true};
    return esp_view_is_image(context->inputs[0]) && esp_view_is_image(context->outputs[0]);
}

/* One line of one channel applied to x * scale + shift. */
static void apply_line(const esp_op_context *context, const esp_line *line, int64_t channel, double *scale,
                       double *shift)
{
    const esp_view *const *in = &context->inputs[line->input];
    double value = (double)esp_view_f32(in[0])[esp_shape_elements(&in[0]->shape) == 1 ? 0 : channel];
    switch (line->kind) {
    case ESP_LINE_ADD:
        *shift += value;
        return;
    case ESP_LINE_SUB:
        *shift -= value;
        return;
    case ESP_LINE_MUL:
        *scale *= value;
        *shift *= value;
        return;
    case ESP_LINE_DIV:
        *scale /= value;
        *shift /= value;
        return;
    case ESP_LINE_NORM:
        break;
    }
    double bias = (double)esp_view_f32(in[1])[channel], mean = (double)esp_view_f32(in[2])[channel];
    double factor = value / sqrt((double)esp_view_f32(in[3])[channel] + (double)line->epsilon);
    *scale *= factor;
    *shift = (*shift - mean) * factor + bias;
}

void esp_fold_lines(const esp_op_context *context, const esp_line *lines, int line_count, int64_t channels,
                    float *scale, float *shift)
{
    for (int64_t c = 0; c < esp_block_channels(channels); c++) {
        double factor = c < channels ? 1.0 : 0.0, offset = 0.0;
        for (int i = 0; c < channels && i < line_count; i++)
            apply_line(context, &lines[i], c, &factor, &offset);
        scale[c] = (float)factor;
        shift[c] = (float)offset;
    }
}

esp_infer_context esp_op_as_infer(const esp_op_context *context)
{
    return (esp_infer_context){.node = context->node,
                               .opset = context->opset,
                               .input_count = context->input_count,
                               .inputs = context->inputs};
}

esp_status esp_op_expect_f32(const esp_infer_context *context, esp_error *err)
{
    for (int i = 0; i < context->input_count; i++) {
        const esp_view *input = context->inputs[i];
        if (input != NULL && input->dtype != ESP_F32)
            return esp_fail(err, ESP_SHAPE, "input %d is %s, expected %s", i, esp_dtype_name(input->dtype),
                            esp_dtype_name(ESP_F32));
    }
    return ESP_OK;
}

esp_status esp_op_expect_rank(const esp_infer_context *context, int input, int rank, const char *form,
                              esp_error *err)
{
    const esp_shape *shape = &context->inputs[input]->shape;
    char text[96];
    if (shape->rank != rank)
        return esp_fail(err, ESP_SHAPE, "input %d is %s, expected %s (%d dimensions)", input,
                        esp_shape_format(shape, text, sizeof text), form, rank);
    return ESP_OK;
}

int64_t esp_view_ints(const esp_view *view, int64_t *out, int max)
{
    if (view == NULL || view->data == NULL || (view->dtype != ESP_I64 && view->dtype != ESP_I32))
        return -1;
    int64_t count = esp_shape_elements(&view->shape);
    for (int64_t i = 0; i < count && i < max; i++)
        out[i] = view->dtype == ESP_I64 ? ((const int64_t *)view->data)[i] : ((const int32_t *)view->data)[i];
    return count;
}

esp_status esp_op_known_ints(const esp_infer_context *context, int input, const char *what,
                             int64_t out[ESP_MAX_RANK], int *count, esp_error *err)
{
    const esp_view *view = context->inputs[input];
    if (view->dtype != ESP_I64 && view->dtype != ESP_I32)
        return esp_fail(err, ESP_SHAPE, "%s (input %d) is %s, expected %s", what, input,
                        esp_dtype_name(view->dtype), esp_dtype_name(ESP_I64));
    if (view->data == NULL)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "%s (input %d) is computed from the network's data, expected a constant or a shape",
                        what, input);
    int64_t found = esp_view_ints(view, out, ESP_MAX_RANK);
    if (found > ESP_MAX_RANK)
        return esp_fail(err, ESP_UNSUPPORTED, "%s (input %d) has %" PRId64 " entries, expected at most %d",
                        what, input, found, ESP_MAX_RANK);
    *count = (int)found;
    return ESP_OK;
}

esp_status esp_op_attr_or_input_ints(const esp_infer_context *context, const char *attr, int input,
                                     int64_t out[ESP_MAX_RANK], int *count, esp_error *err)
{
    *count = -1;
    if (esp_infer_input(context, input) != NULL)
        return esp_op_known_ints(context, input, attr, out, count, err);
    if (esp_node_attr(context->node, attr) == NULL)
        return ESP_OK;
    *count = esp_node_ints(context->node, attr, out, ESP_MAX_RANK);
    if (*count > ESP_MAX_RANK)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute '%s' has %d entries, expected at most %d", attr,
                        *count, ESP_MAX_RANK);
    return ESP_OK;
}

esp_status esp_op_axis(int64_t axis, int rank, int *out, esp_error *err)
{
    if (axis < -rank || axis >= rank)
        return esp_fail(err, ESP_SHAPE, "axis %" PRId64 " of %d dimensions, expected %d to %d", axis, rank,
                        -rank, rank - 1);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return ESP_OK;
}

int64_t esp_shape_product(const esp_shape *shape, int from, int to)
{
    int64_t product = 1;
    for (int i = from; i < to; i++)
        product *= shape->dims[i];
    return product;
}

esp_status esp_op_reduce_to(const esp_compute *compute, const esp_view *dy, const esp_view *target)
{
    /* An addition's gradient for its second operand is just this sum; it reads no operand. */
    esp_view wide = *dy, none = *dy, operand = *target;
    none.data = NULL;
    return esp_binary_backward(compute, ESP_BINARY_ADD, &wide, &operand, dy, &none, target);
}

bool esp_index_next(const esp_shape *shape, int64_t index[ESP_MAX_RANK])
{
    for (int i = shape->rank - 1; i >= 0; i--) {
        if (++index[i] < shape->dims[i])
            return true;
        index[i] = 0;
    }
    return false;
}

int64_t esp_index_offset(const int64_t index[ESP_MAX_RANK], const int64_t strides[ESP_MAX_RANK], int rank)
{
    int64_t offset = 0;
    for (int i = 0; i < rank; i++)
        offset += index[i] * strides[i];
    return offset;
}

size_t esp_view_bytes(const esp_view *view)
{
    return (size_t)esp_shape_elements(&view->shape) * esp_dtype_size(view->dtype);
}

/* ---- narrowing ---- */

esp_status esp_op_replace_ints(const esp_view *old, const int64_t *values, int count, esp_tensor **out,
                               esp_error *err)
{
    esp_dtype dtype = old == NULL ? ESP_I64 : old->dtype;
    esp_shape shape = {.rank = 1, .dims = {count}};
    if (old != NULL && esp_shape_elements(&old->shape) == count)
        shape = old->shape;
    esp_status status = esp_tensor_new(dtype, &shape, out, err);
    if (status != ESP_OK)
        return status;
    for (int i = 0; i < count; i++) {
        if (dtype == ESP_I32)
            ((int32_t *)esp_tensor_data_mut(*out))[i] = (int32_t)values[i];
        else
            ((int64_t *)esp_tensor_data_mut(*out))[i] = values[i];
    }
    return ESP_OK;
}

esp_status esp_narrow_positions(const esp_narrow_context *context, int64_t *positions, esp_error *err)
{
    int64_t channels = context->inputs[0]->shape.dims[context->input_axis];
    int64_t *place = esp_alloc((size_t)channels, sizeof *place);
    if (place == NULL)
        return esp_fail_memory(err, "channel positions", (size_t)channels * sizeof *place);
    for (int64_t c = 0; c < channels; c++)
        place[c] = -1;
    for (int64_t i = 0; i < context->input_kept_count; i++)
        place[context->input_kept[i]] = i;
    esp_status status = ESP_OK;
    for (int64_t i = 0; status == ESP_OK && i < context->output_kept_count; i++) {
        int64_t source = context->output_source[context->output_kept[i]];
        positions[i] = source < 0 ? -1 : place[source];
        if (source >= 0 && positions[i] < 0)
            status = esp_fail(err, ESP_INVALID,
                              "output channel %" PRId64 " is kept but its source %" PRId64 " is cut",
                              context->output_kept[i], source);
    }
    esp_free(place);
    return status;
}

/* ---- sliding windows ---- */

static esp_status read_pair(const esp_node *node, const char *name, int64_t least, int64_t pair[2],
                            esp_error *err)
{
    int64_t values[2] = {1, 1};
    int count = esp_node_ints(node, name, values, 2);
    if (count != 0 && count != 2)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute '%s' has %d entries, expected 2", name, count);
    for (int i = 0; i < 2; i++) {
        if (values[i] < least || values[i] > INT32_MAX)
            return esp_fail(err, ESP_SHAPE, "attribute '%s' holds %" PRId64 ", expected at least %" PRId64,
                            name, values[i], least);
        pair[i] = values[i];
    }
    return ESP_OK;
}

static esp_status read_pads(const esp_node *node, esp_window *window, esp_error *err)
{
    int64_t pads[4] = {0};
    int count = esp_node_ints(node, "pads", pads, 4);
    if (count != 0 && count != 4)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'pads' has %d entries, expected 4", count);
    for (int i = 0; i < 2; i++) {
        if (pads[i] < 0 || pads[i + 2] < 0 || pads[i] > INT32_MAX || pads[i + 2] > INT32_MAX)
            return esp_fail(err, ESP_UNSUPPORTED, "attribute 'pads' is negative or huge");
        window->pad_begin[i] = pads[i];
        window->pad_end[i] = pads[i + 2];
    }
    return ESP_OK;
}

/* SAME_*: as many outputs as ceil(size / stride), the odd pixel at the end (UPPER) or at the beginning
 * (LOWER). */
static void pad_same(esp_window *window, const int64_t size[2], bool is_lower)
{
    for (int i = 0; i < 2; i++) {
        int64_t out = (size[i] + window->stride[i] - 1) / window->stride[i];
        int64_t reach = window->dilation[i] * (window->kernel[i] - 1) + 1;
        int64_t total = (out - 1) * window->stride[i] + reach - size[i];
        if (total < 0)
            total = 0;
        window->pad_begin[i] = is_lower ? total - total / 2 : total / 2;
        window->pad_end[i] = total - window->pad_begin[i];
    }
}

static esp_status resolve_padding(const esp_node *node, const int64_t size[2], esp_window *window,
                                  esp_error *err)
{
    const char *mode = esp_node_string(node, "auto_pad", "NOTSET");
    if (mode[0] == '\0' || strcmp(mode, "NOTSET") == 0)
        return read_pads(node, window, err);
    bool is_lower = strcmp(mode, "SAME_LOWER") == 0;
    if (is_lower || strcmp(mode, "SAME_UPPER") == 0) {
        pad_same(window, size, is_lower);
        return ESP_OK;
    }
    if (strcmp(mode, "VALID") != 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'auto_pad' is '%s'", mode);
    return ESP_OK;
}

esp_status esp_op_window(const esp_node *node, const esp_shape *input, const int64_t *kernel, bool ceil_mode,
                         esp_window *out, esp_error *err)
{
    esp_window window = {0};
    const int64_t size[2] = {input->dims[2], input->dims[3]};
    esp_status status = read_pair(node, "strides", 1, window.stride, err);
    if (status == ESP_OK)
        status = read_pair(node, "dilations", 1, window.dilation, err);
    if (status == ESP_OK && kernel == NULL)
        status = read_pair(node, "kernel_shape", 1, window.kernel, err);
    if (kernel != NULL)
        memcpy(window.kernel, kernel, sizeof window.kernel);
    if (status == ESP_OK)
        status = resolve_padding(node, size, &window, err);
    if (status != ESP_OK)
        return status;
    for (int i = 0; i < 2; i++) {
        window.out[i] =
            ceil_mode
                ? esp_pool2d_output_size(size[i], window.kernel[i], window.stride[i], window.pad_begin[i],
                                         window.pad_end[i], window.dilation[i], true)
                : esp_conv_output_size(size[i], window.kernel[i], window.stride[i], window.pad_begin[i],
                                       window.pad_end[i], window.dilation[i]);
    }
    if (window.out[0] <= 0 || window.out[1] <= 0) {
        char text[96];
        return esp_fail(err, ESP_SHAPE, "a %" PRId64 "x%" PRId64 " window does not fit into input %s",
                        window.kernel[0], window.kernel[1], esp_shape_format(input, text, sizeof text));
    }
    *out = window;
    return ESP_OK;
}
