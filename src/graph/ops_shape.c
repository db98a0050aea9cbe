/* Operators that give the same elements another shape (Identity, Flatten, Reshape, Squeeze, Unsqueeze), or
 * make values from shapes and attributes (Shape, Size, Range, Constant, ConstantOfShape). */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/blocked.h"

/* ---- views: the executor lets the output share the input's memory; these run when it cannot ---- */

static esp_status copy_view(const esp_compute *compute, const esp_view *from, const esp_view *to)
{
    size_t bytes = esp_view_bytes(from);
    if (from->data == to->data || bytes == 0)
        return ESP_OK;
    if (from->layout == ESP_LAYOUT_BLOCKED)
        return esp_layout_copy(compute, from, to);
    memcpy(to->data, from->data, bytes);
    return ESP_OK;
}

esp_status esp_op_view_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return copy_view(context->compute, context->inputs[0], context->outputs[0]);
}

esp_status esp_op_view_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *dx = context->input_grads[0];
    return dx == NULL ? ESP_OK : copy_view(context->compute, context->output_grads[0], dx);
}

esp_status esp_op_identity_infer(esp_infer_context *context, esp_error *err)
{
    (void)err;
    context->outputs[0].dtype = context->inputs[0]->dtype;
    context->outputs[0].shape = context->inputs[0]->shape;
    return ESP_OK;
}

esp_status esp_op_flatten_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int rank = x->shape.rank;
    int64_t axis = esp_node_int(context->node, "axis", 1);
    if (axis < -rank || axis > rank)
        return esp_fail(err, ESP_SHAPE, "axis %" PRId64 " of %d dimensions", axis, rank);
    int split = (int)(axis < 0 ? axis + rank : axis);
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = (esp_shape){
        .rank = 2,
        .dims = {esp_shape_product(&x->shape, 0, split), esp_shape_product(&x->shape, split, rank)}};
    return ESP_OK;
}

/* ---- Reshape (ONNX -5, -13, -14, -19): 0 copies the input's dim (unless allowzero), one -1 takes the rest
 * ---- */

static esp_status resolve_target(const esp_shape *x, bool allows_zero, esp_shape *y, esp_error *err)
{
    int rest = -1;
    int64_t known = 1;
    for (int i = 0; i < y->rank; i++) {
        if (y->dims[i] == 0 && !allows_zero) {
            if (i >= x->rank)
                return esp_fail(err, ESP_SHAPE, "target dim %d copies a dim that the input does not have", i);
            y->dims[i] = x->dims[i];
        }
        if (y->dims[i] < -1 || (y->dims[i] == -1 && rest >= 0))
            return esp_fail(err, ESP_SHAPE, "target dim %d is %" PRId64 "%s", i, y->dims[i],
                            y->dims[i] == -1 ? " for the second time" : "");
        if (y->dims[i] == -1)
            rest = i;
        else if (__builtin_mul_overflow(known, y->dims[i], &known))
            return esp_fail(err, ESP_SHAPE, "target has too many elements");
    }
    int64_t elements = esp_shape_elements(x);
    if (rest >= 0 && known > 0 && elements % known == 0)
        y->dims[rest] = elements / known;
    if (esp_shape_elements(y) == elements)
        return ESP_OK;
    char x_text[96], y_text[96];
    return esp_fail(err, ESP_SHAPE, "cannot reshape %s (%" PRId64 " elements) to %s",
                    esp_shape_format(x, x_text, sizeof x_text), elements,
                    esp_shape_format(y, y_text, sizeof y_text));
}

esp_status esp_op_reshape_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    esp_shape y = {0};
    esp_status status = esp_op_known_ints(context, 1, "shape", y.dims, &y.rank, err);
    if (status == ESP_OK)
        status = resolve_target(&x->shape, esp_node_int(context->node, "allowzero", 0) != 0, &y, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = y;
    return ESP_OK;
}

/* The target says the channel dim in numbers, unless it is copied or inferred. A batch of 1 that was folded
 * into the target becomes "copy", so that the result runs at any batch size. */
esp_status esp_op_reshape_narrow(esp_narrow_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0], *y = context->output;
    int64_t target[ESP_MAX_RANK];
    int64_t count = esp_view_ints(context->inputs[1], target, ESP_MAX_RANK);
    int axis = context->output_axis;
    bool allows_zero = esp_node_int(context->node, "allowzero", 0) != 0;
    if (axis < 0 || count < 0 || target[axis] == -1)
        return ESP_OK;
    if (target[axis] == 0 && !allows_zero && axis == context->input_axis)
        return ESP_OK;
    target[axis] = context->output_kept_count;
    if (axis != 0 && !allows_zero && target[0] > 0 && x->shape.rank > 0 &&
        x->shape.dims[0] == y->shape.dims[0] && context->input_axis != 0)
        target[0] = 0;
    return esp_op_replace_ints(context->inputs[1], target, (int)count, &context->new_inputs[1], err);
}

/* ---- Squeeze and Unsqueeze: axes are an attribute before opset 13, then an input ---- */

esp_status esp_op_squeeze_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int64_t axes[ESP_MAX_RANK];
    int count;
    bool goes[ESP_MAX_RANK] = {false};
    esp_status status = esp_op_attr_or_input_ints(context, "axes", 1, axes, &count, err);
    for (int i = 0; count < 0 && i < x->shape.rank; i++)
        goes[i] = x->shape.dims[i] == 1;
    for (int i = 0; status == ESP_OK && i < count; i++) {
        int axis;
        char text[96];
        status = esp_op_axis(axes[i], x->shape.rank, &axis, err);
        if (status == ESP_OK && x->shape.dims[axis] != 1)
            status = esp_fail(err, ESP_SHAPE, "dim %d of %s is not 1", axis,
                              esp_shape_format(&x->shape, text, sizeof text));
        if (status == ESP_OK)
            goes[axis] = true;
    }
    if (status != ESP_OK)
        return status;
    esp_shape y = {0};
    for (int i = 0; i < x->shape.rank; i++) {
        if (!goes[i])
            y.dims[y.rank++] = x->shape.dims[i];
    }
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = y;
    return ESP_OK;
}

esp_status esp_op_unsqueeze_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    int64_t axes[ESP_MAX_RANK];
    int count;
    bool is_new[ESP_MAX_RANK] = {false};
    esp_status status = esp_op_attr_or_input_ints(context, "axes", 1, axes, &count, err);
    if (status == ESP_OK && count < 0)
        status = esp_fail(err, ESP_FORMAT, "axes are missing");
    if (status == ESP_OK && x->shape.rank + count > ESP_MAX_RANK)
        status = esp_fail(err, ESP_UNSUPPORTED, "the result would have %d dimensions, expected at most %d",
                          x->shape.rank + count, ESP_MAX_RANK);
    for (int i = 0; status == ESP_OK && i < count; i++) {
        int axis;
        status = esp_op_axis(axes[i], x->shape.rank + count, &axis, err);
        if (status == ESP_OK && is_new[axis])
            status = esp_fail(err, ESP_SHAPE, "axis %d is inserted twice", axis);
        if (status == ESP_OK)
            is_new[axis] = true;
    }
    if (status != ESP_OK)
        return status;
    esp_shape y = {.rank = x->shape.rank + count};
    for (int i = 0, next = 0; i < y.rank; i++)
        y.dims[i] = is_new[i] ? 1 : x->shape.dims[next++];
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = y;
    return ESP_OK;
}

/* ---- Shape (-1, -13, -15 with start and end): the dims of the input as int64 ---- */

static void shape_range(const esp_node *node, int rank, int64_t *start, int64_t *end)
{
    *start = esp_node_int(node, "start", 0);
    *end = esp_node_int(node, "end", rank);
    int64_t *bounds[2] = {start, end};
    for (int i = 0; i < 2; i++) {
        if (*bounds[i] < 0)
            *bounds[i] += rank;
        *bounds[i] = *bounds[i] < 0 ? 0 : *bounds[i] > rank ? rank : *bounds[i];
    }
    if (*end < *start)
        *end = *start;
}

esp_status esp_op_shape_infer(esp_infer_context *context, esp_error *err)
{
    (void)err;
    int64_t start, end;
    shape_range(context->node, context->inputs[0]->shape.rank, &start, &end);
    context->outputs[0].dtype = ESP_I64;
    context->outputs[0].shape = (esp_shape){.rank = 1, .dims = {end - start}};
    return ESP_OK;
}

esp_status esp_op_shape_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    int64_t start, end, *y = context->outputs[0]->data;
    shape_range(context->node, context->inputs[0]->shape.rank, &start, &end);
    for (int64_t i = start; i < end; i++)
        y[i - start] = context->inputs[0]->shape.dims[i];
    return ESP_OK;
}

/* ---- Size (-1, -13, -19, -21): the number of elements ---- */

esp_status esp_op_size_infer(esp_infer_context *context, esp_error *err)
{
    (void)err;
    context->outputs[0].dtype = ESP_I64;
    context->outputs[0].shape = (esp_shape){0};
    return ESP_OK;
}

esp_status esp_op_size_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    *(int64_t *)context->outputs[0]->data = esp_shape_elements(&context->inputs[0]->shape);
    return ESP_OK;
}

/* ---- Range (-11): start, start + delta, ... before limit ---- */

/* Elements of a range of whole numbers; what does not fit an int64 cannot be a dim. */
static int64_t whole_range(int64_t start, int64_t limit, int64_t delta)
{
    uint64_t reach = delta > 0 ? (uint64_t)limit - (uint64_t)start : (uint64_t)start - (uint64_t)limit;
    uint64_t step = delta > 0 ? (uint64_t)delta : 0u - (uint64_t)delta;
    if (delta > 0 ? start >= limit : start <= limit)
        return 0;
    uint64_t count = reach / step + (reach % step != 0);
    return count > INT64_MAX ? -1 : (int64_t)count;
}

esp_status esp_op_range_infer(esp_infer_context *context, esp_error *err)
{
    double bounds[3];
    int64_t whole[3];
    esp_dtype dtype = context->inputs[0]->dtype;
    for (int i = 0; i < 3; i++) {
        const esp_view *input = context->inputs[i];
        if (input->data == NULL)
            return esp_fail(err, ESP_UNSUPPORTED,
                            "input %d is computed from the network's data, expected a constant or a shape",
                            i);
        if (input->dtype != dtype || esp_shape_elements(&input->shape) != 1)
            return esp_fail(err, ESP_SHAPE, "input %d is no single %s", i, esp_dtype_name(dtype));
        bounds[i] = esp_view_get_f64(input, 0);
        if (esp_view_ints(input, &whole[i], 1) < 0)
            whole[i] = 0;
    }
    bool is_whole = dtype == ESP_I64 || dtype == ESP_I32;
    if (!is_whole && dtype != ESP_F32)
        return esp_fail(err, ESP_UNSUPPORTED, "a range of %s", esp_dtype_name(dtype));
    double count = is_whole ? 0 : ceil((bounds[1] - bounds[0]) / bounds[2]);
    if ((is_whole && whole[2] == 0) || !(count < (double)INT32_MAX))
        return esp_fail(err, ESP_SHAPE, "a range from %g to %g in steps of %g", bounds[0], bounds[1],
                        bounds[2]);
    int64_t dim = is_whole ? whole_range(whole[0], whole[1], whole[2]) : count > 0 ? (int64_t)count : 0;
    context->outputs[0].dtype = dtype;
    context->outputs[0].shape = (esp_shape){.rank = 1, .dims = {dim}};
    return dim < 0 ? esp_fail(err, ESP_SHAPE, "the range is too long") : ESP_OK;
}

esp_status esp_op_range_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *y = context->outputs[0];
    int64_t start = 0, delta = 0;
    double first = esp_view_get_f64(context->inputs[0], 0), step = esp_view_get_f64(context->inputs[2], 0);
    esp_view_ints(context->inputs[0], &start, 1);
    esp_view_ints(context->inputs[2], &delta, 1);
    for (int64_t i = 0; i < y->shape.dims[0]; i++) {
        if (y->dtype == ESP_I64)
            ((int64_t *)y->data)[i] = start + i * delta;
        else if (y->dtype == ESP_I32)
            ((int32_t *)y->data)[i] = (int32_t)(start + i * delta);
        else
            ((float *)y->data)[i] = (float)(first + (double)i * step);
    }
    return ESP_OK;
}

/* ---- Constant (-1, -11, -12, -13): one of several attributes holds the value ---- */

esp_status esp_op_constant_infer(esp_infer_context *context, esp_error *err)
{
    const esp_node *node = context->node;
    if (node->attr_count != 1)
        return esp_fail(err, ESP_FORMAT, "%d values, expected one", node->attr_count);
    const esp_attr *attr = &node->attrs[0];
    esp_view *y = &context->outputs[0];
    y->shape = (esp_shape){0};
    switch (attr->type) {
    case ESP_ATTR_TENSOR:
        y->dtype = esp_tensor_dtype(attr->tensor);
        y->shape = *esp_tensor_shape(attr->tensor);
        return ESP_OK;
    case ESP_ATTR_FLOAT:
    case ESP_ATTR_FLOATS:
        y->dtype = ESP_F32;
        break;
    case ESP_ATTR_INT:
    case ESP_ATTR_INTS:
        y->dtype = ESP_I64;
        break;
    case ESP_ATTR_STRING:
    case ESP_ATTR_STRINGS:
    case ESP_ATTR_BYTES:
        return esp_fail(err, ESP_UNSUPPORTED, "attribute '%s': a value of text", attr->name);
    }
    if (attr->type == ESP_ATTR_INTS || attr->type == ESP_ATTR_FLOATS)
        y->shape = (esp_shape){.rank = 1, .dims = {attr->count}};
    return ESP_OK;
}

esp_status esp_op_constant_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_attr *attr = &context->node->attrs[0];
    const esp_view *y = context->outputs[0];
    const void *source = attr->type == ESP_ATTR_TENSOR   ? esp_tensor_data(attr->tensor)
                         : attr->type == ESP_ATTR_FLOAT  ? (const void *)&attr->f
                         : attr->type == ESP_ATTR_FLOATS ? (const void *)attr->floats
                         : attr->type == ESP_ATTR_INT    ? (const void *)&attr->i
                                                         : (const void *)attr->ints;
    if (esp_view_bytes(y) > 0)
        memcpy(y->data, source, esp_view_bytes(y));
    return ESP_OK;
}

/* ---- ConstantOfShape (-9, -20, -21) ---- */

esp_status esp_op_constant_of_shape_infer(esp_infer_context *context, esp_error *err)
{
    esp_shape y = {0};
    esp_status status = esp_op_known_ints(context, 0, "shape", y.dims, &y.rank, err);
    if (status != ESP_OK)
        return status;
    const esp_attr *value = esp_node_attr(context->node, "value");
    if (value != NULL && esp_tensor_elements(value->tensor) != 1)
        return esp_fail(err, ESP_FORMAT, "attribute 'value' has %" PRId64 " elements, expected 1",
                        esp_tensor_elements(value->tensor));
    char text[96];
    if (esp_shape_elements(&y) < 0)
        return esp_fail(err, ESP_SHAPE, "shape %s is not possible", esp_shape_format(&y, text, sizeof text));
    context->outputs[0].dtype = value == NULL ? ESP_F32 : esp_tensor_dtype(value->tensor);
    context->outputs[0].shape = y;
    return ESP_OK;
}

esp_status esp_op_constant_of_shape_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_attr *value = esp_node_attr(context->node, "value");
    const esp_view *y = context->outputs[0];
    size_t size = esp_dtype_size(y->dtype), total = esp_view_bytes(y);
    char *target = y->data;
    if (total == 0)
        return ESP_OK;
    if (value == NULL)
        memset(target, 0, size);
    else
        memcpy(target, esp_tensor_data(value->tensor), size);
    for (size_t done = size; done < total;) {
        size_t piece = done < total - done ? done : total - done;
        memcpy(target + done, target, piece);
        done += piece;
    }
    return ESP_OK;
}
