/* Slice and Pad: the two that say positions along axes in numbers, as attributes in older opsets and as
 * inputs in newer ones, and so must be rewritten when channels are cut. Forward is one strided copy of the
 * part that input and output have in common; backward is the same copy the other way. All element types. */
#include <inttypes.h>
#include <string.h>

#include "base/arena.h"
#include "graph/ops.h"
#include "tensor/arrange.h"

/* ---- Slice: attributes in -1, inputs since -10 ---- */

typedef struct slice_plan {
    int64_t offset; /* of the first element taken */
    int64_t x_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK];
    esp_shape y;
} slice_plan;

_Static_assert(sizeof(slice_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* What the node asks for, per axis: from starts[] by steps[], counts[] times. */
typedef struct slice_bounds {
    int64_t starts[ESP_MAX_RANK], steps[ESP_MAX_RANK];
    esp_shape y;
} slice_bounds;

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* ONNX: negative bounds count from the end; then they are clamped, for negative steps to before the first. */
static void bound_axis(int64_t dim, int64_t start, int64_t end, int64_t step, int axis, slice_bounds *bounds)
{
    step = clamp(step, -dim - 1, dim + 1); /* beyond the axis every step takes one element */
    start = start < 0 ? clamp(start, -dim - 1, 0) + dim : start;
    end = end < 0 ? clamp(end, -dim - 1, 0) + dim : end;
    int64_t count;
    if (step > 0) {
        start = clamp(start, 0, dim);
        end = clamp(end, 0, dim);
        count = (end - start + step - 1) / step;
    } else {
        start = clamp(start, 0, dim - 1);
        end = clamp(end, -1, dim - 1);
        count = (start - end - step - 1) / -step;
    }
    bounds->starts[axis] = start;
    bounds->steps[axis] = step;
    bounds->y.dims[axis] = count < 0 || dim == 0 ? 0 : count;
}

static esp_status read_slice(const esp_infer_context *context, slice_bounds *bounds, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t starts[ESP_MAX_RANK], ends[ESP_MAX_RANK], axes[ESP_MAX_RANK], steps[ESP_MAX_RANK];
    int start_count, end_count, axis_count, step_count;
    esp_status status = esp_op_attr_or_input_ints(context, "starts", 1, starts, &start_count, err);
    if (status == ESP_OK)
        status = esp_op_attr_or_input_ints(context, "ends", 2, ends, &end_count, err);
    if (status == ESP_OK)
        status = esp_op_attr_or_input_ints(context, "axes", 3, axes, &axis_count, err);
    if (status == ESP_OK)
        status = esp_op_attr_or_input_ints(context, "steps", 4, steps, &step_count, err);
    if (status != ESP_OK)
        return status;
    if (start_count < 0 || end_count != start_count || (axis_count >= 0 && axis_count != start_count) ||
        (step_count >= 0 && step_count != start_count) || (axis_count < 0 && start_count > x->rank))
        return esp_fail(err, ESP_SHAPE, "%d starts, %d ends, %d axes, %d steps do not agree", start_count,
                        end_count, axis_count, step_count);
    *bounds = (slice_bounds){.y = *x};
    for (int i = 0; i < x->rank; i++)
        bounds->steps[i] = 1;
    for (int i = 0; i < start_count; i++) {
        int axis = i;
        int64_t step = step_count >= 0 ? steps[i] : 1;
        if (axis_count >= 0)
            status = esp_op_axis(axes[i], x->rank, &axis, err);
        if (status == ESP_OK && step == 0)
            status = esp_fail(err, ESP_SHAPE, "step %d is 0", i);
        if (status != ESP_OK)
            return status;
        bound_axis(x->dims[axis], starts[i], ends[i], step, axis, bounds);
    }
    return ESP_OK;
}

esp_status esp_op_slice_infer(esp_infer_context *context, esp_error *err)
{
    slice_bounds bounds;
    esp_status status = read_slice(context, &bounds, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = context->inputs[0]->dtype;
    context->outputs[0].shape = bounds.y;
    return ESP_OK;
}

void esp_op_slice_prepare(const esp_op_context *context, void *plan_memory)
{
    slice_plan *plan = plan_memory;
    slice_bounds bounds = {0};
    esp_infer_context as_infer = esp_op_as_infer(context);
    read_slice(&as_infer, &bounds, NULL); /* infer has accepted it */
    int64_t strides[ESP_MAX_RANK];
    esp_shape_strides(&context->inputs[0]->shape, strides);
    *plan = (slice_plan){.y = bounds.y};
    for (int i = 0; i < bounds.y.rank; i++) {
        plan->offset += bounds.starts[i] * strides[i];
        plan->x_strides[i] = bounds.steps[i] * strides[i];
    }
    esp_shape_strides(&bounds.y, plan->y_strides);
}

esp_status esp_op_slice_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    slice_plan local;
    const slice_plan *plan = esp_op_plan(context, &local);
    size_t size = esp_dtype_size(context->inputs[0]->dtype);
    if (esp_shape_elements(&plan->y) == 0)
        return ESP_OK;
    return esp_copy_strided(context->compute, &plan->y, size,
                            (const char *)context->inputs[0]->data + plan->offset * (int64_t)size,
                            plan->x_strides, context->outputs[0]->data, plan->y_strides);
}

esp_status esp_op_slice_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    slice_plan local;
    const slice_plan *plan = esp_op_plan(context, &local);
    const esp_view *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    esp_fill_f32(esp_view_f32(dx), esp_shape_elements(&dx->shape), 0.0f);
    if (esp_shape_elements(&plan->y) == 0)
        return ESP_OK;
    return esp_copy_strided(context->compute, &plan->y, sizeof(float), context->output_grads[0]->data,
                            plan->y_strides, esp_view_f32(dx) + plan->offset, plan->x_strides);
}

/* The new bounds along the channel axis: what is kept must still be an even run of the kept input channels.
 */
static esp_status narrow_run(const esp_narrow_context *context, int64_t *start, int64_t *end, int64_t *step,
                             esp_error *err)
{
    int64_t count = context->output_kept_count;
    int64_t *positions = esp_arena_alloc(context->arena, (size_t)count + 1, sizeof *positions);
    if (positions == NULL)
        return esp_fail_memory(err, "channel positions", (size_t)count * sizeof *positions);
    esp_status status = esp_narrow_positions(context, positions, err);
    if (status != ESP_OK)
        return status;
    *start = count > 0 ? positions[0] : 0;
    *step = count > 1 ? positions[1] - positions[0] : 1;
    for (int64_t i = 1; i < count; i++) {
        if (positions[i] - positions[i - 1] != *step || *step == 0)
            return esp_fail(err, ESP_UNSUPPORTED,
                            "the kept channels are no even run of its input's channels");
    }
    *end = count > 0 ? positions[count - 1] + (*step > 0 ? 1 : -1) : 0;
    if (*end < 0)
        *end = -context->input_kept_count - 1; /* before the first: a plain -1 would mean the last */
    return ESP_OK;
}

/* Puts changed ints where the node has them: in a constant input or in an attribute. */
static esp_status narrow_ints(esp_narrow_context *context, const char *attr, int input, const int64_t *values,
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

static esp_infer_context narrow_as_infer(const esp_narrow_context *context)
{
    return (esp_infer_context){.node = context->node,
                               .opset = context->opset,
                               .input_count = context->node->input_count,
                               .inputs = context->inputs};
}

esp_status esp_op_slice_narrow(esp_narrow_context *context, esp_error *err)
{
    esp_infer_context as_infer = narrow_as_infer(context);
    int rank = context->inputs[0]->shape.rank, axis = context->input_axis, entry = -1;
    int64_t starts[ESP_MAX_RANK] = {0}, ends[ESP_MAX_RANK] = {0}, axes[ESP_MAX_RANK] = {0},
            steps[ESP_MAX_RANK] = {0};
    int count, ends_count, axis_count, step_count;
    esp_status status = esp_op_attr_or_input_ints(&as_infer, "starts", 1, starts, &count, err);
    if (status == ESP_OK)
        status = esp_op_attr_or_input_ints(&as_infer, "ends", 2, ends, &ends_count, err);
    if (status == ESP_OK)
        status = esp_op_attr_or_input_ints(&as_infer, "axes", 3, axes, &axis_count, err);
    if (status == ESP_OK)
        status = esp_op_attr_or_input_ints(&as_infer, "steps", 4, steps, &step_count, err);
    if (status != ESP_OK || axis < 0)
        return status;
    for (int i = 0; i < count; i++) {
        int64_t at = axis_count < 0 ? i : axes[i] < 0 ? axes[i] + rank : axes[i];
        if (at == axis)
            entry = i;
    }
    if (entry < 0)
        return ESP_OK; /* it takes all channels, whatever their number */
    status = narrow_run(context, &starts[entry], &ends[entry], &steps[entry], err);
    if (status == ESP_OK && step_count < 0 && steps[entry] != 1)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "the kept channels need a step, which the node has no input for");
    if (status == ESP_OK)
        status = narrow_ints(context, "starts", 1, starts, count, err);
    if (status == ESP_OK)
        status = narrow_ints(context, "ends", 2, ends, count, err);
    if (status == ESP_OK && step_count >= 0)
        status = narrow_ints(context, "steps", 4, steps, count, err);
    return status;
}

/* ---- Pad: attributes in -2, inputs since -11, axes since -18; constant mode ---- */

typedef struct pad_plan {
    /* The part of x that is in y, where it starts in both, and the strides to walk them. */
    esp_shape common;
    int64_t x_offset, y_offset;
    int64_t x_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK];
    bool is_empty;
} pad_plan;

_Static_assert(sizeof(pad_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* Amounts at both ends of every axis; negative ones crop. */
static esp_status read_pads(const esp_infer_context *context, int64_t begin[ESP_MAX_RANK],
                            int64_t end[ESP_MAX_RANK], esp_error *err)
{
    int rank = context->inputs[0]->shape.rank, count, axis_count = -1;
    int64_t pads[2 * ESP_MAX_RANK], axes[ESP_MAX_RANK];
    const esp_view *input = esp_infer_input(context, 1);
    if (input != NULL && input->data == NULL)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "pads (input 1) are computed from the network's data, expected a "
                        "constant or a shape");
    if (input != NULL)
        count = (int)esp_view_ints(input, pads, 2 * ESP_MAX_RANK);
    else
        count = esp_node_ints(context->node, "pads", pads, 2 * ESP_MAX_RANK);
    if (esp_infer_input(context, 3) != NULL) {
        esp_status status = esp_op_known_ints(context, 3, "axes", axes, &axis_count, err);
        if (status != ESP_OK)
            return status;
    }
    int pairs = axis_count >= 0 ? axis_count : rank;
    if (count != 2 * pairs)
        return esp_fail(err, ESP_SHAPE, "%d pads, expected %d", count, 2 * pairs);
    memset(begin, 0, ESP_MAX_RANK * sizeof *begin);
    memset(end, 0, ESP_MAX_RANK * sizeof *end);
    for (int i = 0; i < pairs; i++) {
        int axis = i;
        esp_status status = axis_count >= 0 ? esp_op_axis(axes[i], rank, &axis, err) : ESP_OK;
        if (status != ESP_OK)
            return status;
        begin[axis] = pads[i];
        end[axis] = pads[i + pairs];
    }
    return ESP_OK;
}

esp_status esp_op_pad_infer(esp_infer_context *context, esp_error *err)
{
    const char *mode = esp_node_string(context->node, "mode", "constant");
    if (strcmp(mode, "constant") != 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'mode' is '%s', expected 'constant'", mode);
    const esp_view *x = context->inputs[0], *value = esp_infer_input(context, 2);
    if (value != NULL && (value->dtype != x->dtype || esp_shape_elements(&value->shape) != 1))
        return esp_fail(
            err, ESP_SHAPE, "constant value (input 2) is %s with %" PRId64 " elements, expected one %s",
            esp_dtype_name(value->dtype), esp_shape_elements(&value->shape), esp_dtype_name(x->dtype));
    int64_t begin[ESP_MAX_RANK], end[ESP_MAX_RANK];
    esp_status status = read_pads(context, begin, end, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = x->shape;
    for (int i = 0; i < x->shape.rank; i++) {
        int64_t dim;
        char text[96];
        if (__builtin_add_overflow(x->shape.dims[i], begin[i], &dim) ||
            __builtin_add_overflow(dim, end[i], &dim) || dim < 0)
            return esp_fail(err, ESP_SHAPE, "pads %" PRId64 " and %" PRId64 " of dim %d do not fit %s",
                            begin[i], end[i], i, esp_shape_format(&x->shape, text, sizeof text));
        context->outputs[0].shape.dims[i] = dim;
    }
    return ESP_OK;
}

void esp_op_pad_prepare(const esp_op_context *context, void *plan_memory)
{
    pad_plan *plan = plan_memory;
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t begin[ESP_MAX_RANK] = {0}, end[ESP_MAX_RANK] = {0};
    esp_infer_context as_infer = esp_op_as_infer(context);
    read_pads(&as_infer, begin, end, NULL); /* infer has accepted it */
    *plan = (pad_plan){.common = *x};
    esp_shape y = *x;
    for (int i = 0; i < x->rank; i++)
        y.dims[i] += begin[i] + end[i];
    esp_shape_strides(x, plan->x_strides);
    esp_shape_strides(&y, plan->y_strides);
    for (int i = 0; i < x->rank; i++) {
        int64_t cropped = (begin[i] < 0 ? -begin[i] : 0) + (end[i] < 0 ? -end[i] : 0);
        plan->common.dims[i] -= cropped;
        plan->is_empty = plan->is_empty || plan->common.dims[i] <= 0;
        plan->x_offset += (begin[i] < 0 ? -begin[i] : 0) * plan->x_strides[i];
        plan->y_offset += (begin[i] > 0 ? begin[i] : 0) * plan->y_strides[i];
    }
}

/* All elements of y become the padding value: the input's, the attribute's or zero. */
static void fill_padding(const esp_op_context *context)
{
    const esp_view *y = context->outputs[0], *value = esp_op_input(context, 2);
    size_t size = esp_dtype_size(y->dtype);
    int64_t count = esp_shape_elements(&y->shape);
    if (y->dtype == ESP_F32) {
        float number = value != NULL ? esp_view_f32(value)[0] : esp_node_float(context->node, "value", 0.0f);
        esp_fill_f32(esp_view_f32(y), count, number);
    } else if (value == NULL) {
        memset(y->data, 0, (size_t)count * size);
    } else {
        for (int64_t i = 0; i < count; i++)
            memcpy((char *)y->data + (size_t)i * size, value->data, size);
    }
}

esp_status esp_op_pad_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pad_plan local;
    const pad_plan *plan = esp_op_plan(context, &local);
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    size_t size = esp_dtype_size(x->dtype);
    fill_padding(context);
    if (plan->is_empty)
        return ESP_OK;
    return esp_copy_strided(context->compute, &plan->common, size,
                            (const char *)x->data + plan->x_offset * (int64_t)size, plan->x_strides,
                            (char *)y->data + plan->y_offset * (int64_t)size, plan->y_strides);
}

esp_status esp_op_pad_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pad_plan local;
    const pad_plan *plan = esp_op_plan(context, &local);
    const esp_view *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    esp_fill_f32(esp_view_f32(dx), esp_shape_elements(&dx->shape), 0.0f);
    if (plan->is_empty)
        return ESP_OK;
    return esp_copy_strided(context->compute, &plan->common, sizeof(float),
                            esp_view_f32(context->output_grads[0]) + plan->y_offset, plan->y_strides,
                            esp_view_f32(dx) + plan->x_offset, plan->x_strides);
}

/* Kept output channels must be padding, then all kept input channels in order, then padding. */
static esp_status narrow_padding(const esp_narrow_context *context, int64_t *begin, int64_t *end,
                                 esp_error *err)
{
    int64_t count = context->output_kept_count, inputs = context->input_kept_count;
    int64_t *positions = esp_arena_alloc(context->arena, (size_t)count + 1, sizeof *positions);
    if (positions == NULL)
        return esp_fail_memory(err, "channel positions", (size_t)count * sizeof *positions);
    esp_status status = esp_narrow_positions(context, positions, err);
    if (status != ESP_OK)
        return status;
    int64_t at = 0;
    while (at < count && positions[at] < 0)
        at++;
    *begin = at;
    for (int64_t i = 0; i < inputs; i++, at++) {
        if (at >= count || positions[at] != i)
            return esp_fail(err, ESP_UNSUPPORTED, "the kept channels are not its input's channels in order");
    }
    *end = count - at;
    for (; at < count; at++) {
        if (positions[at] >= 0)
            return esp_fail(err, ESP_UNSUPPORTED, "the kept channels are not its input's channels in order");
    }
    return ESP_OK;
}

esp_status esp_op_pad_narrow(esp_narrow_context *context, esp_error *err)
{
    esp_infer_context as_infer = narrow_as_infer(context);
    int rank = context->inputs[0]->shape.rank, axis = context->input_axis, pairs = rank, entry = axis;
    int64_t pads[2 * ESP_MAX_RANK], begin[ESP_MAX_RANK], end[ESP_MAX_RANK], axes[ESP_MAX_RANK];
    if (axis < 0)
        return ESP_OK;
    esp_status status = read_pads(&as_infer, begin, end, err);
    if (status != ESP_OK)
        return status;
    if (esp_infer_input(&as_infer, 3) != NULL) {
        pairs = (int)esp_view_ints(context->inputs[3], axes, ESP_MAX_RANK);
        entry = -1;
        for (int i = 0; i < pairs; i++) {
            if ((axes[i] < 0 ? axes[i] + rank : axes[i]) == axis)
                entry = i;
        }
    } else {
        for (int i = 0; i < rank; i++)
            axes[i] = i;
    }
    if (entry < 0)
        return ESP_OK; /* channels are not padded, whatever their number */
    status = narrow_padding(context, &begin[axis], &end[axis], err);
    if (status != ESP_OK)
        return status;
    for (int i = 0; i < pairs; i++) {
        int64_t at = axes[i] < 0 ? axes[i] + rank : axes[i];
        pads[i] = begin[at];
        pads[i + pairs] = end[at];
    }
    return narrow_ints(context, "pads", 1, pads, 2 * pairs, err);
}
