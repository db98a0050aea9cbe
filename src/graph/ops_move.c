/* Operators that move whole slices: Concat, Transpose, Gather, Expand. Forward is a strided copy of the input
 * into the output; backward is the same copy the other way, or its sum where an element was repeated. All
 * element types. */
#include <inttypes.h>

#include "base/arena.h"
#include "graph/ops.h"
#include "tensor/arrange.h"
#include "tensor/channel_copy.h"
#include "tensor/strides.h"

/* ---- Concat (-4, -11, -13) ---- */

esp_status esp_op_concat_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *first = context->inputs[0];
    esp_shape y = first->shape;
    int axis;
    if (esp_node_attr(context->node, "axis") == NULL)
        return esp_fail(err, ESP_FORMAT, "attribute 'axis' is missing");
    esp_status status = esp_op_axis(esp_node_int(context->node, "axis", 1), y.rank, &axis, err);
    for (int i = 1; status == ESP_OK && i < context->input_count; i++) {
        const esp_view *x = context->inputs[i];
        if (x == NULL)
            return esp_fail(err, ESP_FORMAT, "input %d is missing", i);
        if (x->dtype != first->dtype)
            return esp_fail(err, ESP_SHAPE, "input %d is %s, input 0 is %s", i, esp_dtype_name(x->dtype),
                            esp_dtype_name(first->dtype));
        esp_shape expected = first->shape;
        if (axis < x->shape.rank)
            expected.dims[axis] = x->shape.dims[axis];
        char x_text[96], first_text[96];
        if (!esp_shape_equal(&x->shape, &expected))
            return esp_fail(err, ESP_SHAPE, "input %d is %s, input 0 is %s: they differ beside axis %d", i,
                            esp_shape_format(&x->shape, x_text, sizeof x_text),
                            esp_shape_format(&first->shape, first_text, sizeof first_text), axis);
        y.dims[axis] += x->shape.dims[axis];
    }
    context->outputs[0].dtype = first->dtype;
    context->outputs[0].shape = y;
    return status;
}

typedef struct concat_plan {
    int axis;
} concat_plan;

void esp_op_concat_prepare(const esp_op_context *context, void *plan)
{
    esp_op_axis(esp_node_int(context->node, "axis", 1), context->inputs[0]->shape.rank,
                &((concat_plan *)plan)->axis, NULL);
}

/* Copies one part to or from its place in the joined tensor. */
static esp_status concat_copy(const esp_op_context *context, const esp_view *part, const esp_view *whole,
                              int64_t offset, int axis, bool is_into_whole)
{
    int64_t part_strides[ESP_MAX_RANK], whole_strides[ESP_MAX_RANK];
    esp_shape_strides(&part->shape, part_strides);
    esp_shape_strides(&whole->shape, whole_strides);
    size_t size = esp_dtype_size(part->dtype);
    char *place = (char *)whole->data + (size_t)(offset * whole_strides[axis]) * size;
    if (is_into_whole)
        return esp_copy_strided(context->compute, &part->shape, size, part->data, part_strides, place,
                                whole_strides);
    return esp_copy_strided(context->compute, &part->shape, size, place, whole_strides, part->data,
                            part_strides);
}

/* Along channels. */
bool esp_op_concat_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    concat_plan plan;
    esp_op_concat_prepare(context, &plan);
    *out = (esp_op_layouts){.blocked_inputs = UINT32_MAX, .blocked_output = true};
    if (!esp_view_is_image(context->outputs[0]) || plan.axis != 1)
        return false;
    for (int i = 0; i < context->input_count; i++) {
        if (!esp_view_is_image(context->inputs[i]))
            return false;
    }
    return true;
}

esp_view esp_view_channel_range(const esp_view *view, int64_t channel, int64_t channels)
{
    esp_view range = *view;
    range.image_stride = esp_view_image_stride(view);
    range.shape.dims[1] = channels;
    if (view->data != NULL)
        range.data = esp_view_f32(view) + channel * view->shape.dims[2] * view->shape.dims[3];
    return range;
}

/* Parts that were written in their place need no copy. */
static esp_status blocked_concat(const esp_op_context *context)
{
    int64_t channel = 0;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        const esp_view *part = context->inputs[i], *whole = context->outputs[0];
        int64_t channels = part->shape.dims[1];
        bool is_whole_block = channel % ESP_BLOCK == 0;
        bool is_there =
            i < context->fused->present_inputs ||
            (is_whole_block && part->data == esp_view_channel_range(whole, channel, channels).data);
        if (!is_there)
            status = esp_channel_copy(context->compute, part, 0, whole, channel, channels);
        channel += channels;
    }
    return status;
}

static esp_status blocked_concat_backward(const esp_op_context *context)
{
    int64_t channel = 0;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        int64_t channels = context->inputs[i]->shape.dims[1];
        if (context->input_grads[i] != NULL)
            status = esp_channel_copy(context->compute, context->output_grads[0], channel,
                                      context->input_grads[i], 0, channels);
        channel += channels;
    }
    return status;
}

esp_status esp_op_concat_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    concat_plan local;
    const concat_plan *plan = esp_op_plan(context, &local);
    if (esp_op_is_blocked(context))
        return blocked_concat(context);
    int64_t offset = 0;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        status = concat_copy(context, context->inputs[i], context->outputs[0], offset, plan->axis, true);
        offset += context->inputs[i]->shape.dims[plan->axis];
    }
    return status;
}

esp_status esp_op_concat_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    concat_plan local;
    const concat_plan *plan = esp_op_plan(context, &local);
    if (esp_op_is_blocked(context))
        return blocked_concat_backward(context);
    int64_t offset = 0;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        if (context->input_grads[i] != NULL)
            status = concat_copy(context, context->input_grads[i], context->output_grads[0], offset,
                                 plan->axis, false);
        offset += context->inputs[i]->shape.dims[plan->axis];
    }
    return status;
}

/* ---- Transpose (-1, -13) ---- */

typedef struct transpose_plan {
    int64_t x_strides[ESP_MAX_RANK]; /* of x, in the order of y's dims */
    int64_t y_strides[ESP_MAX_RANK];
    esp_shape y;
} transpose_plan;

_Static_assert(sizeof(transpose_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

static esp_status read_permutation(const esp_node *node, int rank, int64_t perm[ESP_MAX_RANK], esp_error *err)
{
    bool is_used[ESP_MAX_RANK] = {false};
    int count = esp_node_ints(node, "perm", perm, ESP_MAX_RANK);
    for (int i = 0; count == 0 && i < rank; i++)
        perm[i] = rank - 1 - i;
    if (count != 0 && count != rank)
        return esp_fail(err, ESP_SHAPE, "attribute 'perm' has %d entries, input has %d dimensions", count,
                        rank);
    for (int i = 0; i < rank; i++) {
        if (perm[i] < 0 || perm[i] >= rank || is_used[perm[i]])
            return esp_fail(err, ESP_SHAPE, "attribute 'perm' is not a permutation of 0 to %d", rank - 1);
        is_used[perm[i]] = true;
    }
    return ESP_OK;
}

esp_status esp_op_transpose_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int64_t perm[ESP_MAX_RANK];
    esp_status status = read_permutation(context->node, x->shape.rank, perm, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape.rank = x->shape.rank;
    for (int i = 0; i < x->shape.rank; i++)
        context->outputs[0].shape.dims[i] = x->shape.dims[perm[i]];
    return ESP_OK;
}

void esp_op_transpose_prepare(const esp_op_context *context, void *plan_memory)
{
    transpose_plan *plan = plan_memory;
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t perm[ESP_MAX_RANK] = {0}, strides[ESP_MAX_RANK];
    read_permutation(context->node, x->rank, perm, NULL); /* infer has accepted it */
    esp_shape_strides(x, strides);
    plan->y = (esp_shape){.rank = x->rank};
    for (int i = 0; i < x->rank; i++) {
        plan->y.dims[i] = x->dims[perm[i]];
        plan->x_strides[i] = strides[perm[i]];
    }
    esp_shape_strides(&plan->y, plan->y_strides);
}

esp_status esp_op_transpose_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    transpose_plan local;
    const transpose_plan *plan = esp_op_plan(context, &local);
    return esp_copy_strided(context->compute, &plan->y, esp_dtype_size(context->inputs[0]->dtype),
                            context->inputs[0]->data, plan->x_strides, context->outputs[0]->data,
                            plan->y_strides);
}

esp_status esp_op_transpose_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    transpose_plan local;
    const transpose_plan *plan = esp_op_plan(context, &local);
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    return esp_copy_strided(context->compute, &plan->y, sizeof(float), context->output_grads[0]->data,
                            plan->y_strides, context->input_grads[0]->data, plan->x_strides);
}

/* ---- Gather (-1, -11, -13): x along an axis at `indices` of any shape ---- */

typedef struct gather_plan {
    int64_t outer, axis, inner, count;
} gather_plan;

esp_status esp_op_gather_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0], *indices = context->inputs[1];
    int axis;
    if (indices->dtype != ESP_I64 && indices->dtype != ESP_I32)
        return esp_fail(err, ESP_SHAPE, "indices (input 1) are %s, expected %s",
                        esp_dtype_name(indices->dtype), esp_dtype_name(ESP_I64));
    esp_status status = esp_op_axis(esp_node_int(context->node, "axis", 0), x->shape.rank, &axis, err);
    if (status != ESP_OK)
        return status;
    if (x->shape.rank - 1 + indices->shape.rank > ESP_MAX_RANK)
        return esp_fail(err, ESP_UNSUPPORTED, "the result would have %d dimensions, expected at most %d",
                        x->shape.rank - 1 + indices->shape.rank, ESP_MAX_RANK);
    esp_shape y = {0};
    for (int i = 0; i < axis; i++)
        y.dims[y.rank++] = x->shape.dims[i];
    for (int i = 0; i < indices->shape.rank; i++)
        y.dims[y.rank++] = indices->shape.dims[i];
    for (int i = axis + 1; i < x->shape.rank; i++)
        y.dims[y.rank++] = x->shape.dims[i];
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = y;
    return ESP_OK;
}

void esp_op_gather_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", 0), x->rank, &axis, NULL); /* infer has accepted it */
    *(gather_plan *)plan = (gather_plan){.outer = esp_shape_product(x, 0, axis),
                                         .axis = x->dims[axis],
                                         .inner = esp_shape_product(x, axis + 1, x->rank),
                                         .count = esp_shape_elements(&context->inputs[1]->shape)};
}

/* The indices as int64, counted from the front. */
size_t esp_op_gather_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return (size_t)esp_shape_elements(&context->inputs[1]->shape) * sizeof(int64_t);
}

static esp_status resolve_indices(const esp_op_context *context, const gather_plan *plan, esp_error *err)
{
    int64_t *indices = context->scratch;
    const esp_view *given = context->inputs[1];
    for (int64_t i = 0; i < plan->count; i++) {
        int64_t index =
            given->dtype == ESP_I64 ? ((const int64_t *)given->data)[i] : ((const int32_t *)given->data)[i];
        if (index < -plan->axis || index >= plan->axis)
            return esp_fail(err, ESP_SHAPE, "index %" PRId64 " of an axis of %" PRId64, index, plan->axis);
        indices[i] = index < 0 ? index + plan->axis : index;
    }
    return ESP_OK;
}

esp_status esp_op_gather_forward(const esp_op_context *context, esp_error *err)
{
    gather_plan local;
    const gather_plan *plan = esp_op_plan(context, &local);
    esp_status status = resolve_indices(context, plan, err);
    if (status != ESP_OK)
        return status;
    return esp_gather_forward(context->compute, plan->outer, plan->axis, plan->inner, context->scratch,
                              plan->count, esp_dtype_size(context->inputs[0]->dtype),
                              context->inputs[0]->data, context->outputs[0]->data);
}

esp_status esp_op_gather_backward(const esp_op_context *context, esp_error *err)
{
    gather_plan local;
    const gather_plan *plan = esp_op_plan(context, &local);
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    esp_status status = resolve_indices(context, plan, err);
    if (status != ESP_OK)
        return status;
    return esp_gather_backward(context->compute, plan->outer, plan->axis, plan->inner, context->scratch,
                               plan->count, esp_view_f32(context->output_grads[0]),
                               esp_view_f32(context->input_grads[0]));
}

esp_status esp_op_gather_narrow(esp_narrow_context *context, esp_error *err)
{
    const esp_view *indices = context->inputs[1];
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", 0), context->inputs[0]->shape.rank, &axis, NULL);
    if (axis != context->input_axis)
        return ESP_OK; /* it takes all channels, whatever their number */
    if (indices->shape.rank != 1)
        return esp_fail(err, ESP_UNSUPPORTED, "channels are gathered by indices of %d dimensions, expected 1",
                        indices->shape.rank);
    int64_t count = context->output_kept_count;
    int64_t *positions = esp_arena_alloc(context->arena, (size_t)count + 1, sizeof *positions);
    if (positions == NULL)
        return esp_fail_memory(err, "channel positions", (size_t)count * sizeof *positions);
    esp_status status = esp_narrow_positions(context, positions, err);
    if (status == ESP_OK)
        status = esp_op_replace_ints(indices, positions, (int)count, &context->new_inputs[1], err);
    return status;
}

/* ---- Expand (-8, -13): broadcasting made real ---- */

esp_status esp_op_expand_infer(esp_infer_context *context, esp_error *err)
{
    esp_shape target = {0};
    esp_status status = esp_op_known_ints(context, 1, "shape", target.dims, &target.rank, err);
    for (int i = 0; status == ESP_OK && i < target.rank; i++) {
        if (target.dims[i] < 0)
            status = esp_fail(err, ESP_SHAPE, "target dim %d is %" PRId64, i, target.dims[i]);
    }
    if (status == ESP_OK)
        status = esp_shape_broadcast(&context->inputs[0]->shape, &target, &context->outputs[0].shape, err);
    context->outputs[0].dtype = context->inputs[0]->dtype;
    return status;
}

esp_status esp_op_expand_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    int64_t x_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK];
    esp_broadcast_strides(&x->shape, y->shape.rank, x_strides);
    esp_shape_strides(&y->shape, y_strides);
    return esp_copy_strided(context->compute, &y->shape, esp_dtype_size(y->dtype), x->data, x_strides,
                            y->data, y_strides);
}

esp_status esp_op_expand_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    return esp_op_reduce_to(context->compute, context->output_grads[0], context->input_grads[0]);
}

/* The target's channel dim, when it is said in numbers above 1. */
esp_status esp_op_expand_narrow(esp_narrow_context *context, esp_error *err)
{
    int64_t target[ESP_MAX_RANK];
    int64_t count = esp_view_ints(context->inputs[1], target, ESP_MAX_RANK);
    int64_t at = context->output_axis - (context->output->shape.rank - count);
    if (context->output_axis < 0 || count < 0 || at < 0 || target[at] <= 1)
        return ESP_OK;
    target[at] = context->output_kept_count;
    return esp_op_replace_ints(context->inputs[1], target, (int)count, &context->new_inputs[1], err);
}
