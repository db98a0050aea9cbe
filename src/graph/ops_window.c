/* Sliding windows: what convolutions and pools say about kernels, strides, dilations and padding, for one to
 * three spatial axes. A signal gets an axis of size 1 in front, so that kernels for images take it. */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/conv.h"
#include "tensor/pool2d.h"

/* Spatial axes of the node's input, as the attributes count them. */
static int own_axes(const esp_shape *input)
{
    return input->rank - 2;
}

/* Where the attributes' first entry goes: behind the axis a signal lacks. */
static int first_axis(const esp_shape *input)
{
    return input->rank == 3 ? 1 : 0;
}

/* One entry per spatial axis, 1 when the attribute is missing. */
static esp_status read_entries(const esp_node *node, const char *name, const esp_shape *input,
                               int64_t entries[ESP_WINDOW_AXES], esp_error *err)
{
    int64_t values[ESP_WINDOW_AXES] = {1, 1, 1};
    int expected = own_axes(input), count = esp_node_ints(node, name, values, ESP_WINDOW_AXES);
    if (count != 0 && count != expected)
        return esp_fail(err, ESP_SHAPE, "attribute '%s' has %d entries, expected %d", name, count, expected);
    for (int i = 0; i < ESP_WINDOW_AXES; i++)
        entries[i] = 1;
    for (int i = 0; i < expected; i++) {
        if (values[i] < 1 || values[i] > INT32_MAX)
            return esp_fail(err, ESP_SHAPE, "attribute '%s' holds %" PRId64 ", expected at least 1", name,
                            values[i]);
        entries[first_axis(input) + i] = values[i];
    }
    return ESP_OK;
}

static esp_status read_pads(const esp_node *node, const esp_shape *input, esp_window *window, esp_error *err)
{
    int64_t pads[2 * ESP_WINDOW_AXES] = {0};
    int axes = own_axes(input), count = esp_node_ints(node, "pads", pads, 2 * ESP_WINDOW_AXES);
    if (count != 0 && count != 2 * axes)
        return esp_fail(err, ESP_SHAPE, "attribute 'pads' has %d entries, expected %d", count, 2 * axes);
    for (int i = 0; i < axes; i++) {
        int64_t begin = pads[i], end = pads[i + axes];
        if (begin < 0 || end < 0 || begin > INT32_MAX || end > INT32_MAX)
            return esp_fail(err, ESP_UNSUPPORTED, "attribute 'pads' is negative or huge");
        window->pad_begin[first_axis(input) + i] = begin;
        window->pad_end[first_axis(input) + i] = end;
    }
    return ESP_OK;
}

esp_status esp_op_window_attrs(const esp_node *node, const esp_shape *input, const int64_t *kernel,
                               esp_window *out, bool *is_same, bool *is_lower, esp_error *err)
{
    char text[96];
    if (input->rank < 3 || input->rank > 2 + ESP_WINDOW_AXES)
        return esp_fail(err, ESP_UNSUPPORTED, "input is %s, expected NxCxL, NxCxHxW or NxCxDxHxW",
                        esp_shape_format(input, text, sizeof text));
    esp_window window = {.axes = input->rank == 5 ? 3 : 2, .size = {1, 1, 1}};
    memcpy(&window.size[first_axis(input)], &input->dims[2], (size_t)own_axes(input) * sizeof(int64_t));
    esp_status status = read_entries(node, "strides", input, window.stride, err);
    if (status == ESP_OK)
        status = read_entries(node, "dilations", input, window.dilation, err);
    if (status == ESP_OK)
        status = read_entries(node, "kernel_shape", input, window.kernel, err);
    if (status != ESP_OK)
        return status;
    if (kernel != NULL)
        memcpy(&window.kernel[first_axis(input)], kernel, (size_t)own_axes(input) * sizeof *kernel);
    for (int i = 0; i < window.axes; i++) {
        if (window.kernel[i] < 1 || window.kernel[i] > INT32_MAX)
            return esp_fail(err, ESP_SHAPE, "a kernel of %" PRId64 ", expected at least 1", window.kernel[i]);
    }
    const char *mode = esp_node_string(node, "auto_pad", "NOTSET");
    *is_lower = strcmp(mode, "SAME_LOWER") == 0;
    *is_same = *is_lower || strcmp(mode, "SAME_UPPER") == 0;
    if (mode[0] == '\0' || strcmp(mode, "NOTSET") == 0)
        status = read_pads(node, input, &window, err);
    else if (!*is_same && strcmp(mode, "VALID") != 0)
        status = esp_fail(err, ESP_UNSUPPORTED, "attribute 'auto_pad' is '%s'", mode);
    if (status == ESP_OK)
        *out = window;
    return status;
}

/* SAME_*: as many outputs as ceil(size / stride), the odd pixel at the end (UPPER) or at the beginning
 * (LOWER). */
static void pad_same(esp_window *window, bool is_lower)
{
    for (int i = 0; i < window->axes; i++) {
        int64_t out = (window->size[i] + window->stride[i] - 1) / window->stride[i];
        int64_t reach = window->dilation[i] * (window->kernel[i] - 1) + 1;
        int64_t total = (out - 1) * window->stride[i] + reach - window->size[i];
        if (total < 0)
            total = 0;
        window->pad_begin[i] = is_lower ? total - total / 2 : total / 2;
        window->pad_end[i] = total - window->pad_begin[i];
    }
}

esp_status esp_op_window(const esp_node *node, const esp_shape *input, const int64_t *kernel, bool ceil_mode,
                         esp_window *out, esp_error *err)
{
    esp_window window;
    bool is_same, is_lower;
    esp_status status = esp_op_window_attrs(node, input, kernel, &window, &is_same, &is_lower, err);
    if (status != ESP_OK)
        return status;
    if (is_same)
        pad_same(&window, is_lower);
    for (int i = 0; i < window.axes; i++) {
        window.out[i] =
            ceil_mode
                ? esp_pool2d_output_size(window.size[i], window.kernel[i], window.stride[i],
                                         window.pad_begin[i], window.pad_end[i], window.dilation[i], true)
                : esp_conv_output_size(window.size[i], window.kernel[i], window.stride[i],
                                       window.pad_begin[i], window.pad_end[i], window.dilation[i]);
        char text[96], kernel_text[96];
        if (window.out[i] > 0)
            continue;
        esp_shape kernel_shape = esp_shape_make(own_axes(input), &window.kernel[first_axis(input)]);
        return esp_fail(err, ESP_SHAPE, "a %s window does not fit into input %s",
                        esp_shape_format(&kernel_shape, kernel_text, sizeof kernel_text),
                        esp_shape_format(input, text, sizeof text));
    }
    *out = window;
    return ESP_OK;
}

esp_shape esp_window_shape(const esp_shape *input, int64_t channels, const int64_t *sizes)
{
    esp_shape shape = {.rank = input->rank, .dims = {input->dims[0], channels}};
    for (int i = 0; i < own_axes(input); i++)
        shape.dims[2 + i] = sizes[first_axis(input) + i];
    return shape;
}

esp_conv_geometry esp_window_geometry(const esp_window *window, int64_t batch, int64_t channels,
                                      int64_t filters, int64_t group)
{
    return (esp_conv_geometry){.batch = batch,
                               .channels = channels,
                               .height = window->size[0],
                               .width = window->size[1],
                               .filters = filters,
                               .group = group,
                               .kernel_h = window->kernel[0],
                               .kernel_w = window->kernel[1],
                               .stride_h = window->stride[0],
                               .stride_w = window->stride[1],
                               .dilation_h = window->dilation[0],
                               .dilation_w = window->dilation[1],
                               .pad_top = window->pad_begin[0],
                               .pad_left = window->pad_begin[1],
                               .pad_bottom = window->pad_end[0],
                               .pad_right = window->pad_end[1],
                               .out_height = window->out[0],
                               .out_width = window->out[1]};
}
