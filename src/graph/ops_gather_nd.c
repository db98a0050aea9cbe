/* Reading and writing single elements or slices at positions that are data: GatherElements, GatherND,
 * ScatterElements (and Scatter, its old name), ScatterND. All four first turn their indices into offsets of
 * the indexed tensor, a list in scratch memory; what follows is a loop over that list. All element types;
 * gradients where nothing is combined or where it is added. */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/arrange.h"

/* Indices lead to slices of `run` elements of the data. */
typedef struct index_plan {
    int64_t count; /* of slices */
    int64_t run;
} index_plan;

static int64_t read_index(const esp_view *indices, int64_t at)
{
    return indices->dtype == ESP_I64 ? ((const int64_t *)indices->data)[at]
                                     : ((const int32_t *)indices->data)[at];
}

static esp_status expect_indices(const esp_infer_context *context, esp_error *err)
{
    const esp_view *indices = context->inputs[1];
    if (indices->dtype != ESP_I64 && indices->dtype != ESP_I32)
        return esp_fail(err, ESP_SHAPE, "indices (input 1) are %s, expected %s",
                        esp_dtype_name(indices->dtype), esp_dtype_name(ESP_I64));
    return ESP_OK;
}

static esp_status resolve(int64_t index, int64_t dim, int64_t *out, esp_error *err)
{
    if (index < -dim || index >= dim)
        return esp_fail(err, ESP_SHAPE, "index %" PRId64 " of an axis of %" PRId64, index, dim);
    *out = index < 0 ? index + dim : index;
    return ESP_OK;
}

/* ---- offsets ---- */

/* GatherElements and ScatterElements: an index replaces its own position along the axis. */
static esp_status element_offsets(const esp_op_context *context, int64_t *offsets, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *shape = &context->inputs[1]->shape;
    int64_t strides[ESP_MAX_RANK], index[ESP_MAX_RANK] = {0}, count = esp_shape_elements(shape);
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", 0), x->rank, &axis, NULL); /* infer has accepted it */
    esp_shape_strides(x, strides);
    for (int64_t i = 0; i < count; i++, esp_index_next(shape, index)) {
        int64_t place = 0;
        esp_status status = resolve(read_index(context->inputs[1], i), x->dims[axis], &place, err);
        if (status != ESP_OK)
            return status;
        offsets[i] = esp_index_offset(index, strides, x->rank) + (place - index[axis]) * strides[axis];
    }
    return ESP_OK;
}

/* GatherND and ScatterND: the last axis of the indices holds the first coordinates behind the batch dims. */
static esp_status tuple_offsets(const esp_op_context *context, int64_t *offsets, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *shape = &context->inputs[1]->shape;
    int batch = (int)esp_node_int(context->node, "batch_dims", 0);
    int64_t strides[ESP_MAX_RANK], depth = shape->dims[shape->rank - 1];
    int64_t per_batch = esp_shape_product(shape, batch, shape->rank - 1);
    int64_t count = esp_shape_product(shape, 0, shape->rank - 1);
    int64_t batch_stride = esp_shape_product(x, batch, x->rank);
    esp_shape_strides(x, strides);
    for (int64_t i = 0; i < count; i++) {
        offsets[i] = i / per_batch * batch_stride;
        for (int64_t d = 0; d < depth; d++) {
            int64_t place = 0;
            esp_status status =
                resolve(read_index(context->inputs[1], i * depth + d), x->dims[batch + d], &place, err);
            if (status != ESP_OK)
                return status;
            offsets[i] += place * strides[batch + d];
        }
    }
    return ESP_OK;
}

typedef esp_status offsets_fn(const esp_op_context *context, int64_t *offsets, esp_error *err);

static index_plan plan_elements(const esp_op_context *context)
{
    return (index_plan){.count = esp_shape_elements(&context->inputs[1]->shape), .run = 1};
}

static index_plan plan_tuples(const esp_op_context *context)
{
    const esp_shape *x = &context->inputs[0]->shape, *shape = &context->inputs[1]->shape;
    int first = (int)(esp_node_int(context->node, "batch_dims", 0) + shape->dims[shape->rank - 1]);
    return (index_plan){.count = esp_shape_product(shape, 0, shape->rank - 1),
                        .run = esp_shape_product(x, first, x->rank)};
}

/* A list of offsets is never longer than the indices. */
static size_t offsets_bytes(const esp_op_context *context)
{
    return (size_t)esp_shape_elements(&context->inputs[1]->shape) * sizeof(int64_t) + sizeof(int64_t);
}

/* ---- reading ---- */

static esp_status gather(const esp_op_context *context, offsets_fn *find, index_plan plan, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int64_t *offsets = context->scratch;
    size_t size = esp_dtype_size(x->dtype), bytes = (size_t)plan.run * size;
    char *y = context->outputs[0]->data;
    esp_status status = plan.count * plan.run == 0 ? ESP_OK : find(context, offsets, err);
    for (int64_t i = 0; status == ESP_OK && i < plan.count && bytes > 0; i++)
        memcpy(y + (size_t)i * bytes, (const char *)x->data + (size_t)offsets[i] * size, bytes);
    return status;
}

static esp_status gather_backward(const esp_op_context *context, offsets_fn *find, index_plan plan,
                                  esp_error *err)
{
    const esp_view *dx = context->input_grads[0];
    const float *dy = esp_view_f32(context->output_grads[0]);
    int64_t *offsets = context->scratch;
    if (dx == NULL)
        return ESP_OK;
    esp_fill_f32(esp_view_f32(dx), esp_shape_elements(&dx->shape), 0.0f);
    esp_status status = plan.count * plan.run == 0 ? ESP_OK : find(context, offsets, err);
    for (int64_t i = 0; status == ESP_OK && i < plan.count; i++)
        for (int64_t j = 0; j < plan.run; j++)
            esp_view_f32(dx)[offsets[i] + j] += dy[i * plan.run + j];
    return status;
}

esp_status esp_op_gather_elements_infer(esp_infer_context *context, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *indices = &context->inputs[1]->shape;
    char x_text[96], text[96];
    int axis;
    esp_status status = expect_indices(context, err);
    if (status == ESP_OK)
        status = esp_op_axis(esp_node_int(context->node, "axis", 0), x->rank, &axis, err);
    bool fits = x->rank == indices->rank;
    for (int d = 0; status == ESP_OK && fits && d < x->rank; d++)
        fits = d == axis || indices->dims[d] <= x->dims[d];
    if (status == ESP_OK && !fits)
        status =
            esp_fail(err, ESP_SHAPE, "indices %s do not fit %s", esp_shape_format(indices, text, sizeof text),
                     esp_shape_format(x, x_text, sizeof x_text));
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = context->inputs[0]->dtype;
    context->outputs[0].shape = *indices;
    return ESP_OK;
}

size_t esp_op_gather_elements_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return offsets_bytes(context);
}

esp_status esp_op_gather_elements_forward(const esp_op_context *context, esp_error *err)
{
    return gather(context, element_offsets, plan_elements(context), err);
}

esp_status esp_op_gather_elements_backward(const esp_op_context *context, esp_error *err)
{
    return gather_backward(context, element_offsets, plan_elements(context), err);
}

/* Ranks and batch dims of GatherND and ScatterND. */
static esp_status check_tuples(const esp_infer_context *context, int *batch, int64_t *depth, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *indices = &context->inputs[1]->shape;
    char x_text[96], text[96];
    int64_t batch_dims = esp_node_int(context->node, "batch_dims", 0);
    esp_status status = expect_indices(context, err);
    bool fits = x->rank > 0 && indices->rank > 0 && batch_dims >= 0 && batch_dims < indices->rank &&
                batch_dims < x->rank;
    *batch = fits ? (int)batch_dims : 0;
    *depth = fits ? indices->dims[indices->rank - 1] : 0;
    fits = fits && *depth >= 1 && *depth <= x->rank - *batch;
    for (int d = 0; fits && d < *batch; d++)
        fits = x->dims[d] == indices->dims[d];
    if (status == ESP_OK && !fits)
        status =
            esp_fail(err, ESP_SHAPE, "indices %s do not fit %s", esp_shape_format(indices, text, sizeof text),
                     esp_shape_format(x, x_text, sizeof x_text));
    return status;
}

/* The shape of the slices that the indices lead to: indices without the last axis, then the rest of x. */
static esp_status slices_shape(const esp_infer_context *context, esp_shape *out, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *indices = &context->inputs[1]->shape;
    int batch;
    int64_t depth;
    esp_status status = check_tuples(context, &batch, &depth, err);
    int first = batch + (int)depth, rank = indices->rank - 1 + x->rank - first;
    if (status == ESP_OK && rank > ESP_MAX_RANK)
        status = esp_fail(err, ESP_UNSUPPORTED, "the slices would have %d dimensions, expected at most %d",
                          rank, ESP_MAX_RANK);
    if (status != ESP_OK)
        return status;
    *out = (esp_shape){0};
    for (int d = 0; d < indices->rank - 1; d++)
        out->dims[out->rank++] = indices->dims[d];
    for (int d = first; d < x->rank; d++)
        out->dims[out->rank++] = x->dims[d];
    return ESP_OK;
}

esp_status esp_op_gather_nd_infer(esp_infer_context *context, esp_error *err)
{
    context->outputs[0].dtype = context->inputs[0]->dtype;
    return slices_shape(context, &context->outputs[0].shape, err);
}

size_t esp_op_gather_nd_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return offsets_bytes(context);
}

esp_status esp_op_gather_nd_forward(const esp_op_context *context, esp_error *err)
{
    return gather(context, tuple_offsets, plan_tuples(context), err);
}

esp_status esp_op_gather_nd_backward(const esp_op_context *context, esp_error *err)
{
    return gather_backward(context, tuple_offsets, plan_tuples(context), err);
}

/* ---- writing ---- */

typedef enum reduction { REPLACE, ADD, MULTIPLY, MINIMUM, MAXIMUM, REDUCTIONS } reduction;

static reduction read_reduction(const esp_node *node)
{
    static const char *const words[REDUCTIONS] = {"none", "add", "mul", "min", "max"};
    const char *word = esp_node_string(node, "reduction", "none");
    int what = 0;
    while (what < REDUCTIONS && strcmp(word, words[what]) != 0)
        what++;
    return (reduction)what;
}

static esp_status check_scatter(esp_infer_context *context, const esp_shape *expected, esp_error *err)
{
    const esp_view *x = context->inputs[0], *updates = context->inputs[2];
    char text[96], expected_text[96];
    reduction what = read_reduction(context->node);
    if (what == REDUCTIONS)
        return esp_fail(err, ESP_UNSUPPORTED, "attribute 'reduction' is '%s'",
                        esp_node_string(context->node, "reduction", ""));
    if (what != REPLACE && x->dtype != ESP_F32)
        return esp_fail(err, ESP_UNSUPPORTED, "reduction of %s, expected %s", esp_dtype_name(x->dtype),
                        esp_dtype_name(ESP_F32));
    if (updates->dtype != x->dtype || !esp_shape_equal(&updates->shape, expected))
        return esp_fail(err, ESP_SHAPE, "updates (input 2) are %s %s, expected %s %s",
                        esp_dtype_name(updates->dtype), esp_shape_format(&updates->shape, text, sizeof text),
                        esp_dtype_name(x->dtype),
                        esp_shape_format(expected, expected_text, sizeof expected_text));
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = x->shape;
    return ESP_OK;
}

static float combine(reduction what, float old, float update)
{
    switch (what) {
    case ADD:
        return old + update;
    case MULTIPLY:
        return old * update;
    case MINIMUM:
        return update < old || update != update ? update : old;
    case MAXIMUM:
        return update > old || update != update ? update : old;
    case REPLACE:
    case REDUCTIONS:
        break;
    }
    return update;
}

static esp_status scatter(const esp_op_context *context, offsets_fn *find, index_plan plan, esp_error *err)
{
    const esp_view *x = context->inputs[0], *updates = context->inputs[2], *y = context->outputs[0];
    int64_t *offsets = context->scratch;
    size_t size = esp_dtype_size(x->dtype), bytes = (size_t)plan.run * size;
    reduction what = read_reduction(context->node);
    if (esp_view_bytes(x) > 0)
        memcpy(y->data, x->data, esp_view_bytes(x));
    esp_status status = plan.count * plan.run == 0 ? ESP_OK : find(context, offsets, err);
    for (int64_t i = 0; status == ESP_OK && i < plan.count && bytes > 0; i++) {
        if (what == REPLACE) {
            memcpy((char *)y->data + (size_t)offsets[i] * size,
                   (const char *)updates->data + (size_t)i * bytes, bytes);
            continue;
        }
        float *target = esp_view_f32(y) + offsets[i];
        for (int64_t j = 0; j < plan.run; j++)
            target[j] = combine(what, target[j], esp_view_f32(updates)[i * plan.run + j]);
    }
    return status;
}

/* Replacing: what was overwritten gets nothing, each update what stands in its place. Where several updates
 * meet, only the last one stands, which is found by writing their numbers. */
static esp_status scatter_backward(const esp_op_context *context, offsets_fn *find, index_plan plan,
                                   esp_error *err)
{
    const esp_view *dx = esp_op_input_grad(context, 0), *du = esp_op_input_grad(context, 2);
    const esp_view *dy = context->output_grads[0];
    reduction what = read_reduction(context->node);
    int64_t *offsets = context->scratch, *winner = offsets + plan.count + 1;
    if (what != REPLACE && what != ADD)
        return esp_fail(err, ESP_UNSUPPORTED, "no gradient passes through reduction '%s'",
                        esp_node_string(context->node, "reduction", ""));
    esp_status status = plan.count * plan.run == 0 ? ESP_OK : find(context, offsets, err);
    if (status != ESP_OK)
        return status;
    if (dx != NULL)
        memcpy(dx->data, dy->data, esp_view_bytes(dy));
    for (int64_t i = 0; what == REPLACE && plan.run > 0 && i < plan.count; i++) {
        winner[offsets[i] / plan.run] = i;
        if (dx != NULL)
            esp_fill_f32(esp_view_f32(dx) + offsets[i], plan.run, 0.0f);
    }
    for (int64_t i = 0; du != NULL && i < plan.count; i++) {
        bool stands = what == ADD || plan.run == 0 || winner[offsets[i] / plan.run] == i;
        for (int64_t j = 0; j < plan.run; j++)
            esp_view_f32(du)[i * plan.run + j] = stands ? esp_view_f32(dy)[offsets[i] + j] : 0.0f;
    }
    return ESP_OK;
}

/* Offsets, and for backward one number per slice of x. */
static size_t scatter_bytes(const esp_op_context *context)
{
    size_t winners =
        context->input_grads == NULL ? 0 : (size_t)esp_shape_elements(&context->inputs[0]->shape);
    return offsets_bytes(context) + winners * sizeof(int64_t);
}

esp_status esp_op_scatter_elements_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_gather_elements_infer(context, err);
    return status == ESP_OK ? check_scatter(context, &context->inputs[1]->shape, err) : status;
}

size_t esp_op_scatter_elements_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return scatter_bytes(context);
}

esp_status esp_op_scatter_elements_forward(const esp_op_context *context, esp_error *err)
{
    return scatter(context, element_offsets, plan_elements(context), err);
}

esp_status esp_op_scatter_elements_backward(const esp_op_context *context, esp_error *err)
{
    return scatter_backward(context, element_offsets, plan_elements(context), err);
}

esp_status esp_op_scatter_nd_infer(esp_infer_context *context, esp_error *err)
{
    esp_shape slices;
    esp_status status = slices_shape(context, &slices, err);
    return status == ESP_OK ? check_scatter(context, &slices, err) : status;
}

size_t esp_op_scatter_nd_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    return scatter_bytes(context);
}

esp_status esp_op_scatter_nd_forward(const esp_op_context *context, esp_error *err)
{
    return scatter(context, tuple_offsets, plan_tuples(context), err);
}

esp_status esp_op_scatter_nd_backward(const esp_op_context *context, esp_error *err)
{
    return scatter_backward(context, tuple_offsets, plan_tuples(context), err);
}
