/* Operators that choose by value: ArgMax, ArgMin, TopK; and OneHot, which undoes ArgMax. They end classifiers
 * and detectors; no gradient passes.
 *
 * Elements are compared through integer keys that keep their order, so one piece of code serves all types. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ops.h"

/* The place of an axis in memory: [outer, count, inner]. */
typedef struct axis_place {
    int axis;
    int64_t outer, count, inner;
} axis_place;

static axis_place place_of(const esp_shape *shape, int axis)
{
    return (axis_place){.axis = axis,
                        .outer = esp_shape_product(shape, 0, axis),
                        .count = shape->dims[axis],
                        .inner = esp_shape_product(shape, axis + 1, shape->rank)};
}

/* An integer that orders like the element. Both zeros are one; a NaN is above all numbers. */
static int64_t order_key(esp_dtype dtype, const void *data, int64_t at)
{
    double value = 0.0;
    int64_t bits;
    switch (dtype) {
    case ESP_F32:
        value = (double)((const float *)data)[at];
        break;
    case ESP_F64:
        value = ((const double *)data)[at];
        break;
    case ESP_U64:
        return (int64_t)(((const uint64_t *)data)[at] ^ 0x8000000000000000u);
    case ESP_U32:
        return ((const uint32_t *)data)[at];
    case ESP_U16:
        return ((const uint16_t *)data)[at];
    case ESP_U8:
    case ESP_BOOL:
        return ((const uint8_t *)data)[at];
    case ESP_I64:
        return ((const int64_t *)data)[at];
    case ESP_I32:
        return ((const int32_t *)data)[at];
    case ESP_I16:
        return ((const int16_t *)data)[at];
    case ESP_I8:
        return ((const int8_t *)data)[at];
    }
    if (value != value)
        return INT64_MAX;
    value += 0.0;
    memcpy(&bits, &value, sizeof bits);
    return bits < 0 ? (int64_t)(0x8000000000000000u - (uint64_t)bits) : bits;
}

/* ---- ArgMax and ArgMin (-1, -11, -12, -13) ---- */

esp_status esp_op_arg_infer(esp_infer_context *context, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape;
    esp_shape *y = &context->outputs[0].shape;
    bool keeps = esp_node_int(context->node, "keepdims", 1) != 0;
    int axis;
    esp_status status = esp_op_axis(esp_node_int(context->node, "axis", 0), x->rank, &axis, err);
    if (status == ESP_OK && x->dims[axis] == 0)
        status = esp_fail(err, ESP_SHAPE, "axis %d is empty", axis);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = ESP_I64;
    *y = (esp_shape){0};
    for (int d = 0; d < x->rank; d++) {
        if (d != axis || keeps)
            y->dims[y->rank++] = d == axis ? 1 : x->dims[d];
    }
    return ESP_OK;
}

static esp_status find_extreme(const esp_op_context *context, bool is_max)
{
    const esp_view *x = context->inputs[0];
    bool takes_last = esp_node_int(context->node, "select_last_index", 0) != 0;
    int64_t *y = context->outputs[0]->data;
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", 0), x->shape.rank, &axis, NULL); /* infer accepted it */
    axis_place p = place_of(&x->shape, axis);
    for (int64_t row = 0; row < p.outer * p.inner; row++) {
        int64_t start = row / p.inner * p.count * p.inner + row % p.inner, best = 0, best_key = 0;
        for (int64_t j = 0; j < p.count; j++) {
            int64_t key = order_key(x->dtype, x->data, start + j * p.inner);
            bool is_better = is_max ? key > best_key : key < best_key;
            if (j > 0 && !is_better && !(takes_last && key == best_key))
                continue;
            best = j;
            best_key = key;
        }
        y[row] = best;
    }
    return ESP_OK;
}

esp_status esp_op_arg_max_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return find_extreme(context, true);
}

esp_status esp_op_arg_min_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return find_extreme(context, false);
}

/* ---- TopK (-1 with k as an attribute, -10, -11) ---- */

static esp_status read_k(const esp_infer_context *context, int64_t *k, esp_error *err)
{
    int64_t given[ESP_MAX_RANK] = {0};
    int count;
    esp_status status = esp_op_attr_or_input_ints(context, "K", 1, given, &count, err);
    if (status != ESP_OK)
        return status;
    if (count < 0)
        given[0] = esp_node_int(context->node, "k", -1);
    if (count == 0 || count > 1 || given[0] < 0)
        return esp_fail(err, ESP_FORMAT, "k is missing or negative");
    *k = given[0];
    return ESP_OK;
}

esp_status esp_op_top_k_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int axis = 0;
    int64_t k = 0;
    esp_status status = esp_op_axis(esp_node_int(context->node, "axis", -1), x->shape.rank, &axis, err);
    if (status == ESP_OK)
        status = read_k(context, &k, err);
    if (status == ESP_OK && k > x->shape.dims[axis])
        status = esp_fail(err, ESP_SHAPE, "k is %" PRId64 ", axis %d has %" PRId64 " elements", k, axis,
                          x->shape.dims[axis]);
    for (int i = 0; status == ESP_OK && i < context->output_count; i++) {
        context->outputs[i].dtype = i == 0 ? x->dtype : ESP_I64;
        context->outputs[i].shape = x->shape;
        context->outputs[i].shape.dims[axis] = k;
    }
    return status;
}

typedef struct candidate {
    int64_t key, index;
} candidate;

/* Larger keys first, equal ones in the order they came. */
static int compare_candidates(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->key != b->key)
        return a->key > b->key ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

size_t esp_op_top_k_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    const esp_shape *x = &context->inputs[0]->shape;
    int64_t most = 1;
    for (int d = 0; d < x->rank; d++)
        most = x->dims[d] > most ? x->dims[d] : most;
    return (size_t)most * sizeof(candidate);
}

esp_status esp_op_top_k_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *x = context->inputs[0], *y = context->outputs[0];
    const esp_view *indices = context->output_count > 1 ? context->outputs[1] : NULL;
    bool is_largest = esp_node_int(context->node, "largest", 1) != 0;
    candidate *row = context->scratch;
    size_t size = esp_dtype_size(x->dtype);
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", -1), x->shape.rank, &axis, NULL); /* infer accepted it */
    axis_place p = place_of(&x->shape, axis);
    int64_t k = y->shape.dims[axis];
    for (int64_t r = 0; r < p.outer * p.inner; r++) {
        int64_t start = r / p.inner * p.count * p.inner + r % p.inner;
        int64_t target = r / p.inner * k * p.inner + r % p.inner;
        for (int64_t j = 0; j < p.count; j++) {
            int64_t key = order_key(x->dtype, x->data, start + j * p.inner);
            row[j] = (candidate){is_largest ? key : ~key, j};
        }
        qsort(row, (size_t)p.count, sizeof *row, compare_candidates);
        for (int64_t j = 0; j < k; j++, target += p.inner) {
            memcpy((char *)y->data + (size_t)target * size,
                   (const char *)x->data + (size_t)(start + row[j].index * p.inner) * size, size);
            if (indices != NULL)
                ((int64_t *)indices->data)[target] = row[j].index;
        }
    }
    return ESP_OK;
}

/* ---- OneHot (-9, -11) ---- */

/* A number of any type as an integer. */
static int64_t whole_number(const esp_view *view, int64_t at)
{
    if (view->dtype == ESP_I64)
        return ((const int64_t *)view->data)[at];
    double number = esp_view_get_f64(view, at);
    return number > -9e18 && number < 9e18 ? (int64_t)number : INT64_MIN;
}

esp_status esp_op_one_hot_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *indices = context->inputs[0], *depth = context->inputs[1], *values = context->inputs[2];
    int rank = indices->shape.rank, axis;
    if (rank >= ESP_MAX_RANK)
        return esp_fail(err, ESP_UNSUPPORTED, "the result would have %d dimensions, expected at most %d",
                        rank + 1, ESP_MAX_RANK);
    if (depth->data == NULL)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "depth (input 1) is computed from the network's data, expected a constant");
    if (esp_shape_elements(&depth->shape) != 1 || esp_shape_elements(&values->shape) != 2)
        return esp_fail(err, ESP_SHAPE, "%" PRId64 " depths and %" PRId64 " values, expected 1 and 2",
                        esp_shape_elements(&depth->shape), esp_shape_elements(&values->shape));
    int64_t count = whole_number(depth, 0);
    if (count < 1)
        return esp_fail(err, ESP_SHAPE, "depth is %" PRId64, count);
    esp_status status = esp_op_axis(esp_node_int(context->node, "axis", -1), rank + 1, &axis, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = values->dtype;
    context->outputs[0].shape = (esp_shape){.rank = rank + 1};
    for (int d = 0; d <= rank; d++)
        context->outputs[0].shape.dims[d] = d == axis  ? count
                                            : d < axis ? indices->shape.dims[d]
                                                       : indices->shape.dims[d - 1];
    return ESP_OK;
}

esp_status esp_op_one_hot_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *indices = context->inputs[0], *values = context->inputs[2], *y = context->outputs[0];
    size_t size = esp_dtype_size(y->dtype);
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", -1), y->shape.rank, &axis, NULL); /* infer accepted it */
    axis_place p = place_of(&y->shape, axis);
    for (int64_t at = 0; at < p.outer * p.count * p.inner; at++) {
        int64_t from = at / (p.count * p.inner) * p.inner + at % p.inner, place = at / p.inner % p.count;
        int64_t index = whole_number(indices, from);
        bool is_hot = (index < 0 ? index + p.count : index) == place;
        memcpy((char *)y->data + (size_t)at * size, (const char *)values->data + (is_hot ? size : 0), size);
    }
    return ESP_OK;
}
