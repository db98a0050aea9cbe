/* Helpers of the operator files. They know attributes, views and shapes, and no operator in particular. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "graph/ops.h"
#include "tensor/elementwise.h"

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

esp_shape esp_view_kernel_shape(const esp_view *view)
{
    esp_shape shape = view->shape;
    if (view->layout == ESP_LAYOUT_BLOCKED) {
        shape.dims[1] = esp_block_channels(shape.dims[1]) / ESP_BLOCK;
        shape.dims[shape.rank++] = ESP_BLOCK;
    }
    return shape;
}

esp_status esp_op_each_image(const esp_view *from, const esp_view *to, esp_images_fn *run, void *user)
{
    esp_shape from_shape = esp_view_kernel_shape(from), to_shape = esp_view_kernel_shape(to);
    if (from->image_stride == 0 && to->image_stride == 0)
        return run(user, &from_shape, &to_shape, from->data, to->data);
    int64_t images = from_shape.dims[0];
    esp_status status = ESP_OK;
    from_shape.dims[0] = to_shape.dims[0] = 1;
    for (int64_t n = 0; status == ESP_OK && n < images; n++)
        status = run(user, &from_shape, &to_shape, esp_view_f32(from) + n * esp_view_image_stride(from),
                     esp_view_f32(to) + n * esp_view_image_stride(to));
    return status;
}

/* ---- narrowing ---- */

esp_infer_context esp_narrow_as_infer(const esp_narrow_context *context)
{
    return (esp_infer_context){.node = context->node,
                               .opset = context->opset,
                               .input_count = context->node->input_count,
                               .inputs = context->inputs};
}

esp_status esp_narrow_ints(esp_narrow_context *context, const char *attr, int input, const int64_t *values,
                           int count, esp_error *err)
{
    if (input >= 0 && input < context->node->input_count && context->inputs[input] != NULL)
        return esp_op_replace_ints(context->inputs[input], values, count, &context->new_inputs[input], err);
    int64_t *copy = esp_arena_copy(context->arena, values, (size_t)count * sizeof *values);
    if (copy == NULL)
        return esp_fail_memory(err, "attribute values", (size_t)count * sizeof *values);
    context->new_attrs[context->new_attr_count++] = esp_attr_ints(attr, copy, count);
    return ESP_OK;
}

esp_status esp_narrow_repeats(const esp_narrow_context *context, esp_error *err)
{
    int64_t count = context->output_kept_count, inputs = context->input_kept_count;
    int64_t *positions = esp_arena_alloc(context->arena, (size_t)count + 1, sizeof *positions);
    if (positions == NULL)
        return esp_fail_memory(err, "channel positions", (size_t)count * sizeof *positions);
    esp_status status = esp_narrow_positions(context, positions, err);
    bool is_whole = inputs > 0 && count % inputs == 0;
    for (int64_t i = 0; status == ESP_OK && i < count; i++)
        is_whole = is_whole && positions[i] == i % inputs;
    if (status == ESP_OK && !is_whole)
        status = esp_fail(err, ESP_UNSUPPORTED, "the kept channels are not its input's channels repeated");
    return status;
}

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
