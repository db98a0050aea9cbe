/* Slice: positions along axes in numbers, as attributes in older opsets and as inputs in newer ones, which
 * must be rewritten when channels are cut. Forward is one strided copy; backward is the same copy the other
 * way. All element types. */
#include <inttypes.h>

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

esp_status esp_op_slice_narrow(esp_narrow_context *context, esp_error *err)
{
    esp_infer_context as_infer = esp_narrow_as_infer(context);
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
        status = esp_narrow_ints(context, "starts", 1, starts, count, err);
    if (status == ESP_OK)
        status = esp_narrow_ints(context, "ends", 2, ends, count, err);
    if (status == ESP_OK && step_count >= 0)
        status = esp_narrow_ints(context, "steps", 4, steps, count, err);
    return status;
}
