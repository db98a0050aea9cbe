/* Split, Tile, DepthToSpace and SpaceToDepth: every element of the input goes somewhere, once or several
 * times. All element types. */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/arrange.h"
#include "tensor/remap.h"

/* ---- Split: sizes as an attribute (-2, -11), an input (-13), or a number of parts (-18) ---- */

/* At most this many parts: as many as a node can have outputs. */
enum { MOST_PARTS = 64 };

typedef struct split_plan {
    int axis;
    int64_t sizes[MOST_PARTS];
} split_plan;

_Static_assert(sizeof(split_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

/* Sizes that the node gives; `*count` is 0 when it gives none. */
static esp_status read_given_sizes(const esp_infer_context *context, int64_t sizes[MOST_PARTS], int *count,
                                   esp_error *err)
{
    const esp_view *input = esp_infer_input(context, 1);
    if (input != NULL && input->data == NULL)
        return esp_fail(
            err, ESP_UNSUPPORTED,
            "sizes (input 1) are computed from the network's data, expected a constant or a shape");
    int64_t found = input != NULL ? esp_view_ints(input, sizes, MOST_PARTS)
                                  : esp_node_ints(context->node, "split", sizes, MOST_PARTS);
    if (found < 0)
        return esp_fail(err, ESP_SHAPE, "sizes (input 1) are %s, expected %s", esp_dtype_name(input->dtype),
                        esp_dtype_name(ESP_I64));
    *count = found > MOST_PARTS ? MOST_PARTS + 1 : (int)found;
    return ESP_OK;
}

static esp_status read_split(const esp_infer_context *context, split_plan *plan, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int parts = context->node->output_count, count = 0;
    int64_t total = 0, wanted = esp_node_int(context->node, "num_outputs", parts);
    esp_status status = esp_op_axis(esp_node_int(context->node, "axis", 0), x->rank, &plan->axis, err);
    if (status == ESP_OK)
        status = read_given_sizes(context, plan->sizes, &count, err);
    if (status != ESP_OK)
        return status;
    int64_t dim = x->dims[plan->axis];
    bool is_chunked = esp_node_attr(context->node, "num_outputs") != NULL;
    if (parts > MOST_PARTS || wanted != parts || (count != 0 && count != parts))
        return esp_fail(err, ESP_SHAPE, "%d sizes for %d outputs", count != 0 ? count : (int)wanted, parts);
    if (count == 0 && !is_chunked && dim % parts != 0)
        return esp_fail(err, ESP_SHAPE, "dim %d of %" PRId64 " cannot be split into %d equal parts",
                        plan->axis, dim, parts);
    for (int i = 0; i < parts; i++) {
        int64_t equal = (dim + parts - 1) / parts, left = dim - total; /* the last part may be smaller */
        if (count == 0)
            plan->sizes[i] = equal < left ? equal : left;
        if (plan->sizes[i] < 0 || plan->sizes[i] > left)
            return esp_fail(err, ESP_SHAPE, "the sizes of the parts do not add up to dim %d of %" PRId64,
                            plan->axis, dim);
        total += plan->sizes[i];
    }
    if (total != dim)
        return esp_fail(err, ESP_SHAPE, "the sizes of the parts add up to %" PRId64 ", dim %d is %" PRId64,
                        total, plan->axis, dim);
    return ESP_OK;
}

esp_status esp_op_split_infer(esp_infer_context *context, esp_error *err)
{
    split_plan plan;
    esp_status status = read_split(context, &plan, err);
    for (int i = 0; status == ESP_OK && i < context->output_count; i++) {
        context->outputs[i].dtype = context->inputs[0]->dtype;
        context->outputs[i].shape = context->inputs[0]->shape;
        context->outputs[i].shape.dims[plan.axis] = plan.sizes[i];
    }
    return status;
}

void esp_op_split_prepare(const esp_op_context *context, void *plan)
{
    esp_infer_context as_infer = esp_op_as_infer(context);
    read_split(&as_infer, plan, NULL); /* infer has accepted it */
}

/* Equal parts may become unequal ones: then the sizes must be said. */
esp_status esp_op_split_narrow(esp_narrow_context *context, esp_error *err)
{
    esp_infer_context as_infer = esp_narrow_as_infer(context);
    split_plan plan;
    int64_t sizes[MOST_PARTS], total = 0;
    int parts = context->output_count, given = 0;
    as_infer.output_count = parts;
    esp_status status = read_split(&as_infer, &plan, err);
    if (status == ESP_OK)
        status = read_given_sizes(&as_infer, sizes, &given, err);
    if (status != ESP_OK || plan.axis != context->input_axis)
        return status;
    bool is_even = given == 0;
    for (int i = 0; i < parts; i++) {
        total += context->output_kept_counts[i];
        is_even = is_even && context->output_kept_counts[i] == context->output_kept_counts[0];
    }
    if (total != context->input_kept_count)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "the kept channels are not those of its parts, one after another");
    if (is_even)
        return ESP_OK;
    if (context->opset < 13)
        return esp_narrow_ints(context, "split", -1, context->output_kept_counts, parts, err);
    if (esp_node_attr(context->node, "num_outputs") != NULL)
        context->dropped_attr = "num_outputs"; /* it goes with no sizes */
    return esp_op_replace_ints(esp_infer_input(&as_infer, 1), context->output_kept_counts, parts,
                               &context->new_inputs[1], err);
}

/* Copies one part from or to its place in the whole, which begins at `offset` along the axis. */
static esp_status copy_part(const esp_op_context *context, const split_plan *plan, int part, int64_t offset,
                            const esp_view *whole, const esp_view *target, bool is_forward)
{
    esp_shape shape = whole->shape;
    int64_t whole_strides[ESP_MAX_RANK], part_strides[ESP_MAX_RANK];
    size_t size = esp_dtype_size(whole->dtype);
    shape.dims[plan->axis] = plan->sizes[part];
    if (esp_shape_elements(&shape) == 0)
        return ESP_OK;
    esp_shape_strides(&whole->shape, whole_strides);
    esp_shape_strides(&shape, part_strides);
    char *place = (char *)whole->data + (size_t)(offset * whole_strides[plan->axis]) * size;
    if (is_forward)
        return esp_copy_strided(context->compute, &shape, size, place, whole_strides, target->data,
                                part_strides);
    return esp_copy_strided(context->compute, &shape, size, target->data, part_strides, place, whole_strides);
}

esp_status esp_op_split_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    split_plan local;
    const split_plan *plan = esp_op_plan(context, &local);
    int64_t offset = 0;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->output_count; i++) {
        if (context->outputs[i] != NULL)
            status = copy_part(context, plan, i, offset, context->inputs[0], context->outputs[i], true);
        offset += plan->sizes[i];
    }
    return status;
}

/* Parts that no gradient reaches give zeros. */
esp_status esp_op_split_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    split_plan local;
    const split_plan *plan = esp_op_plan(context, &local);
    const esp_view *dx = context->input_grads[0];
    bool is_complete = true;
    int64_t offset = 0;
    esp_status status = ESP_OK;
    if (dx == NULL)
        return ESP_OK;
    for (int i = 0; i < context->output_count; i++)
        is_complete = is_complete && context->output_grads[i] != NULL;
    if (!is_complete)
        esp_fill_f32(esp_view_f32(dx), esp_shape_elements(&dx->shape), 0.0f);
    for (int i = 0; status == ESP_OK && i < context->output_count; i++) {
        if (context->output_grads[i] != NULL)
            status = copy_part(context, plan, i, offset, dx, context->output_grads[i], false);
        offset += plan->sizes[i];
    }
    return status;
}

/* ---- Tile (-6, -13) ---- */

static esp_status read_repeats(const esp_infer_context *context, int64_t repeats[ESP_MAX_RANK],
                               esp_error *err)
{
    int count, rank = context->inputs[0]->shape.rank;
    esp_status status = esp_op_known_ints(context, 1, "repeats", repeats, &count, err);
    if (status == ESP_OK && count != rank)
        status = esp_fail(err, ESP_SHAPE, "%d repeats, input has %d dimensions", count, rank);
    return status;
}

esp_status esp_op_tile_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int64_t repeats[ESP_MAX_RANK];
    esp_status status = read_repeats(context, repeats, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = x->shape;
    for (int d = 0; d < x->shape.rank; d++) {
        if (repeats[d] < 0 ||
            __builtin_mul_overflow(x->shape.dims[d], repeats[d], &context->outputs[0].shape.dims[d]))
            return esp_fail(err, ESP_SHAPE, "dim %d of %" PRId64 " cannot be repeated %" PRId64 " times", d,
                            x->shape.dims[d], repeats[d]);
    }
    return ESP_OK;
}

size_t esp_op_tile_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    const esp_shape *y = &context->outputs[0]->shape;
    size_t entries = 0;
    for (int d = 0; d < y->rank; d++)
        entries += (size_t)y->dims[d];
    return entries * sizeof(int64_t);
}

/* Maps of the axes that are repeated. */
static esp_remap tile_maps(const esp_op_context *context, const esp_shape *x, const esp_shape *y)
{
    esp_remap remap = {.x = *x, .y = *y};
    int64_t *map = context->scratch;
    for (int d = 0; d < x->rank; d++) {
        if (x->dims[d] == y->dims[d])
            continue;
        remap.maps[d] = map;
        for (int64_t i = 0; i < y->dims[d]; i++)
            *map++ = i % x->dims[d];
    }
    return remap;
}

esp_status esp_op_tile_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    esp_remap remap = tile_maps(context, &x->shape, &y->shape);
    return esp_remap_forward(context->compute, &remap, esp_dtype_size(x->dtype), x->data, NULL, y->data);
}

esp_status esp_op_tile_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *dy = context->output_grads[0], *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    esp_remap remap = tile_maps(context, &dx->shape, &dy->shape);
    return esp_remap_backward(context->compute, &remap, esp_view_f32(dy), esp_view_f32(dx));
}

esp_status esp_op_tile_narrow(esp_narrow_context *context, esp_error *err)
{
    return context->input_axis < 0 ? ESP_OK : esp_narrow_repeats(context, err);
}

/* ---- DepthToSpace (-1, -11, -13) and SpaceToDepth (-1, -13) ---- */

/* Both are one copy of the deep image seen as [N, b, b, C, H, W] (DCR) or [N, C, b, b, H, W] (CRD) from or to
 * the wide one [N, C, H, b, W, b]; `deep` holds the deep image's dims and `strides` the wide one's strides in
 * their order. */
typedef struct space_plan {
    esp_shape deep;
    int64_t deep_strides[ESP_MAX_RANK], wide_strides[ESP_MAX_RANK];
} space_plan;

static space_plan make_space_plan(const esp_node *node, const esp_shape *wide)
{
    int64_t b = esp_node_int(node, "blocksize", 1);
    bool is_crd = strcmp(esp_node_string(node, "mode", "DCR"), "CRD") == 0;
    int64_t n = wide->dims[0], c = wide->dims[1], h = wide->dims[2] / b, w = wide->dims[3] / b;
    int64_t row = wide->dims[3], plane = wide->dims[2] * row;
    space_plan plan = {0};
    if (is_crd)
        plan = (space_plan){.deep = {.rank = 6, .dims = {n, c, b, b, h, w}},
                            .wide_strides = {c * plane, plane, row, 1, b * row, b}};
    else
        plan = (space_plan){.deep = {.rank = 6, .dims = {n, b, b, c, h, w}},
                            .wide_strides = {c * plane, row, 1, plane, b * row, b}};
    esp_shape_strides(&plan.deep, plan.deep_strides);
    return plan;
}

static esp_status space_infer(esp_infer_context *context, bool is_to_space, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    const esp_node *node = context->node;
    int64_t b = esp_node_int(node, "blocksize", 0);
    const char *mode = esp_node_string(node, "mode", "DCR");
    char text[96];
    esp_status status = esp_op_expect_rank(context, 0, 4, "NxCxHxW", err);
    if (status != ESP_OK)
        return status;
    if (strcmp(mode, "DCR") != 0 && strcmp(mode, "CRD") != 0)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'mode' is '%s', expected DCR or CRD", mode);
    const int64_t *dims = x->shape.dims;
    bool fits =
        b >= 1 && b <= 32768 && (is_to_space ? dims[1] % (b * b) == 0 : dims[2] % b == 0 && dims[3] % b == 0);
    if (!fits)
        return esp_fail(err, ESP_SHAPE, "blocks of %" PRId64 " do not fit %s", b,
                        esp_shape_format(&x->shape, text, sizeof text));
    esp_view *y = &context->outputs[0];
    y->dtype = x->dtype;
    y->shape = is_to_space
                   ? (esp_shape){.rank = 4, .dims = {dims[0], dims[1] / (b * b), dims[2] * b, dims[3] * b}}
                   : (esp_shape){.rank = 4, .dims = {dims[0], dims[1] * b * b, dims[2] / b, dims[3] / b}};
    return ESP_OK;
}

static esp_status to_space(const esp_op_context *context, const esp_view *deep, const esp_view *wide)
{
    space_plan plan = make_space_plan(context->node, &wide->shape);
    return esp_copy_strided(context->compute, &plan.deep, esp_dtype_size(deep->dtype), deep->data,
                            plan.deep_strides, wide->data, plan.wide_strides);
}

static esp_status to_depth(const esp_op_context *context, const esp_view *wide, const esp_view *deep)
{
    space_plan plan = make_space_plan(context->node, &wide->shape);
    return esp_copy_strided(context->compute, &plan.deep, esp_dtype_size(deep->dtype), wide->data,
                            plan.wide_strides, deep->data, plan.deep_strides);
}

esp_status esp_op_depth_to_space_infer(esp_infer_context *context, esp_error *err)
{
    return space_infer(context, true, err);
}

esp_status esp_op_depth_to_space_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return to_space(context, context->inputs[0], context->outputs[0]);
}

esp_status esp_op_depth_to_space_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *dx = context->input_grads[0];
    return dx == NULL ? ESP_OK : to_depth(context, context->output_grads[0], dx);
}

esp_status esp_op_space_to_depth_infer(esp_infer_context *context, esp_error *err)
{
    return space_infer(context, false, err);
}

esp_status esp_op_space_to_depth_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return to_depth(context, context->inputs[0], context->outputs[0]);
}

esp_status esp_op_space_to_depth_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *dx = context->input_grads[0];
    return dx == NULL ? ESP_OK : to_space(context, context->output_grads[0], dx);
}

esp_status esp_op_space_to_depth_narrow(esp_narrow_context *context, esp_error *err)
{
    return context->input_axis != 1 ? ESP_OK : esp_narrow_repeats(context, err);
}
