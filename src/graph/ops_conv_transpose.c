/* ConvTranspose (ONNX -1, -11): x [N,C,...], w [C,F/group,kernel...], bias [F] or none, y [N,F,...]. It is
 * the input gradient of a convolution that reads y and makes x with the same weight, so its forward pass is
 * that convolution's gradient for its input, its own gradient for x is that convolution's forward pass, and
 * the weight's gradient is the same with the two sides exchanged. */
#include <inttypes.h>
#include <string.h>

#include "graph/ops.h"
#include "tensor/conv.h"
#include "tensor/conv3d.h"

typedef struct transpose_plan {
    esp_conv_geometry geometry; /* of the convolution from y to x */
    esp_conv3d_geometry volume;
    bool is_volume;
    int64_t filters, positions; /* of y, per image */
} transpose_plan;

_Static_assert(sizeof(transpose_plan) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

static esp_status check_weight(const esp_infer_context *context, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    int64_t group = esp_node_int(context->node, "group", 1);
    char x_text[96], w_text[96];
    esp_shape_format(x, x_text, sizeof x_text);
    esp_shape_format(w, w_text, sizeof w_text);
    if (x->dims[1] != w->dims[0])
        return esp_fail(err, ESP_SHAPE, "input %s has %" PRId64 " channels, weight %s expects %" PRId64,
                        x_text, x->dims[1], w_text, w->dims[0]);
    if (group < 1 || w->dims[0] % group != 0)
        return esp_fail(err, ESP_SHAPE, "weight %s cannot be split into %" PRId64 " groups", w_text, group);
    int64_t kernel[ESP_WINDOW_AXES] = {0};
    int count = esp_node_ints(context->node, "kernel_shape", kernel, ESP_WINDOW_AXES);
    if (count != 0 &&
        (count != w->rank - 2 || memcmp(kernel, &w->dims[2], (size_t)count * sizeof *kernel) != 0))
        return esp_fail(err, ESP_SHAPE, "attribute 'kernel_shape' does not agree with weight %s", w_text);
    const esp_view *bias = esp_infer_input(context, 2);
    int64_t filters;
    if (__builtin_mul_overflow(w->dims[1], group, &filters))
        return esp_fail(err, ESP_SHAPE, "%" PRId64 " groups of weight %s are too many", group, w_text);
    if (bias != NULL && (bias->shape.rank != 1 || bias->shape.dims[0] != filters))
        return esp_fail(err, ESP_SHAPE, "bias is %s, weight %s in %" PRId64 " groups expects %" PRId64,
                        esp_shape_format(&bias->shape, x_text, sizeof x_text), w_text, group, filters);
    return ESP_OK;
}

/* One value per axis of the window: 0 where the attribute is missing, `front` for the axis a signal lacks. */
static esp_status read_sizes(const esp_node *node, const char *name, const esp_shape *x, int64_t front,
                             int64_t sizes[ESP_WINDOW_AXES], bool *is_given, esp_error *err)
{
    int64_t values[ESP_MAX_RANK];
    int axes = x->rank - 2, count = esp_node_ints(node, name, values, ESP_MAX_RANK);
    *is_given = count > 0;
    memset(sizes, 0, ESP_WINDOW_AXES * sizeof *sizes);
    if (count != 0 && count != axes && count != x->rank)
        return esp_fail(err, ESP_SHAPE, "attribute '%s' has %d entries, expected %d", name, count, axes);
    if (x->rank == 3)
        *sizes++ = front;
    for (int i = 0; i < axes && count > 0; i++) {
        sizes[i] = values[i + count - axes]; /* some exporters say batch and channels, too */
        if (sizes[i] < 0 || sizes[i] > INT32_MAX)
            return esp_fail(err, ESP_SHAPE, "attribute '%s' holds %" PRId64, name, sizes[i]);
    }
    return ESP_OK;
}

/* The window as it slides over y, whose sizes are in `size`; x's are in `out`. Padding that is to be found is
 * split in two halves, the odd pixel at the beginning unless auto_pad is SAME_UPPER (as onnxruntime does). */
static esp_status read_window(const esp_node *node, const esp_shape *x, const esp_shape *w, esp_window *out,
                              esp_error *err)
{
    esp_window window;
    bool is_same, is_lower, is_sized, is_extended;
    int64_t extra[ESP_WINDOW_AXES], wanted[ESP_WINDOW_AXES];
    esp_status status = esp_op_window_attrs(node, x, &w->dims[2], &window, &is_same, &is_lower, err);
    if (status == ESP_OK)
        status = read_sizes(node, "output_padding", x, 0, extra, &is_extended, err);
    if (status == ESP_OK)
        status = read_sizes(node, "output_shape", x, 1, wanted, &is_sized, err);
    if (status != ESP_OK)
        return status;
    for (int i = 0; i < window.axes; i++) {
        int64_t reach = window.dilation[i] * (window.kernel[i] - 1) + 1;
        window.out[i] = window.size[i];
        int64_t full;
        if (__builtin_mul_overflow(window.stride[i], window.size[i] - 1, &full) ||
            __builtin_add_overflow(full, extra[i] + reach, &full))
            return esp_fail(err, ESP_SHAPE, "the result would be too large");
        if (is_sized || is_same) {
            int64_t target = is_sized ? wanted[i] : window.size[i] * window.stride[i];
            int64_t total = full > target ? full - target : 0;
            bool is_upper = is_same && !is_lower;
            window.pad_begin[i] = is_upper ? total / 2 : total - total / 2;
            window.pad_end[i] = total - window.pad_begin[i];
            window.size[i] = target;
        } else {
            window.size[i] = full - window.pad_begin[i] - window.pad_end[i];
        }
        char text[96];
        if (window.size[i] < 1)
            return esp_fail(err, ESP_SHAPE, "its padding takes all of the result of input %s",
                            esp_shape_format(x, text, sizeof text));
    }
    *out = window;
    return ESP_OK;
}

esp_status esp_op_conv_transpose_infer(esp_infer_context *context, esp_error *err)
{
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    esp_window window;
    char text[96];
    esp_status status = esp_op_expect_f32(context, err);
    if (status == ESP_OK && (x->rank < 3 || x->rank > 2 + ESP_WINDOW_AXES))
        return esp_fail(err, ESP_SHAPE, "input is %s, expected NxCxL, NxCxHxW or NxCxDxHxW",
                        esp_shape_format(x, text, sizeof text));
    if (status == ESP_OK)
        status = esp_op_expect_rank(context, 1, x->rank, "CxFx(kernel)", err);
    if (status == ESP_OK)
        status = check_weight(context, err);
    if (status == ESP_OK)
        status = read_window(context->node, x, w, &window, err);
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = ESP_F32;
    context->outputs[0].shape =
        esp_window_shape(x, w->dims[1] * esp_node_int(context->node, "group", 1), window.size);
    return ESP_OK;
}

static void image_geometry(const esp_window *window, esp_conv_geometry *geometry)
{
    geometry->height = window->size[0];
    geometry->width = window->size[1];
    geometry->kernel_h = window->kernel[0];
    geometry->kernel_w = window->kernel[1];
    geometry->stride_h = window->stride[0];
    geometry->stride_w = window->stride[1];
    geometry->dilation_h = window->dilation[0];
    geometry->dilation_w = window->dilation[1];
    geometry->pad_top = window->pad_begin[0];
    geometry->pad_left = window->pad_begin[1];
    geometry->pad_bottom = window->pad_end[0];
    geometry->pad_right = window->pad_end[1];
    geometry->out_height = window->out[0];
    geometry->out_width = window->out[1];
}

static void volume_geometry(const esp_window *window, esp_conv3d_geometry *volume)
{
    memcpy(volume->size, window->size, sizeof volume->size);
    memcpy(volume->kernel, window->kernel, sizeof volume->kernel);
    memcpy(volume->stride, window->stride, sizeof volume->stride);
    memcpy(volume->dilation, window->dilation, sizeof volume->dilation);
    memcpy(volume->pad_begin, window->pad_begin, sizeof volume->pad_begin);
    memcpy(volume->out, window->out, sizeof volume->out);
}

void esp_op_conv_transpose_prepare(const esp_op_context *context, void *memory)
{
    transpose_plan *plan = memory;
    const esp_shape *x = &context->inputs[0]->shape, *w = &context->inputs[1]->shape;
    int64_t group = esp_node_int(context->node, "group", 1);
    esp_window window = {0};
    read_window(context->node, x, w, &window, NULL); /* infer has accepted it */
    *plan = (transpose_plan){.filters = w->dims[1] * group, .positions = 1, .is_volume = x->rank == 5};
    for (int i = 0; i < window.axes; i++)
        plan->positions *= window.size[i];
    plan->geometry = (esp_conv_geometry){
        .batch = x->dims[0], .channels = plan->filters, .filters = x->dims[1], .group = group};
    plan->volume = (esp_conv3d_geometry){
        .batch = x->dims[0], .channels = plan->filters, .filters = x->dims[1], .group = group};
    if (plan->is_volume)
        volume_geometry(&window, &plan->volume);
    else
        image_geometry(&window, &plan->geometry);
}

size_t esp_op_conv_transpose_scratch(const esp_op_context *context, int slots)
{
    transpose_plan local;
    const transpose_plan *plan = esp_op_plan(context, &local);
    if (plan->is_volume)
        return 0;
    size_t most = esp_conv_scratch(&plan->geometry, ESP_CONV_GRAD_INPUT, slots);
    for (int pass = ESP_CONV_FORWARD; context->input_grads != NULL && pass <= ESP_CONV_GRAD_WEIGHT; pass++) {
        size_t bytes = esp_conv_scratch(&plan->geometry, (esp_conv_pass)pass, slots);
        most = bytes > most ? bytes : most;
    }
    return most;
}

typedef struct bias_job {
    const float *bias;
    float *y;
    int64_t filters, positions;
} bias_job;

static void bias_task(void *context, int64_t plane, int slot)
{
    (void)slot;
    const bias_job *job = context;
    float *y = job->y + plane * job->positions, bias = job->bias[plane % job->filters];
    for (int64_t i = 0; i < job->positions; i++)
        y[i] += bias;
}

esp_status esp_op_conv_transpose_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    transpose_plan local;
    const transpose_plan *plan = esp_op_plan(context, &local);
    const float *x = esp_view_f32(context->inputs[0]), *w = esp_view_f32(context->inputs[1]);
    const esp_view *bias = esp_op_input(context, 2);
    float *y = esp_view_f32(context->outputs[0]);
    esp_status status =
        plan->is_volume ? esp_conv3d_grad_input(context->compute, &plan->volume, x, w, y)
                        : esp_conv_grad_input(context->compute, &plan->geometry, x, w, y, context->scratch);
    if (status != ESP_OK || bias == NULL)
        return status;
    bias_job job = {esp_view_f32(bias), y, plan->filters, plan->positions};
    return esp_compute_run(context->compute, plan->geometry.batch * plan->filters, bias_task, &job);
}

static esp_status weight_gradient(const esp_op_context *context, const transpose_plan *plan, float *dw)
{
    const float *x = esp_view_f32(context->inputs[0]), *dy = esp_view_f32(context->output_grads[0]);
    if (plan->is_volume)
        return esp_conv3d_grad_weight(context->compute, &plan->volume, dy, x, dw);
    return esp_conv_grad_weight(context->compute, &plan->geometry, dy, x, dw, NULL, context->scratch);
}

static esp_status input_gradient(const esp_op_context *context, const transpose_plan *plan, float *dx)
{
    const float *w = esp_view_f32(context->inputs[1]), *dy = esp_view_f32(context->output_grads[0]);
    if (plan->is_volume)
        return esp_conv3d_forward(context->compute, &plan->volume, dy, w, NULL, dx);
    return esp_conv_forward(context->compute, &plan->geometry, dy, w, NULL, dx, context->scratch);
}

esp_status esp_op_conv_transpose_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    transpose_plan local;
    const transpose_plan *plan = esp_op_plan(context, &local);
    const esp_view *dx = esp_op_input_grad(context, 0), *dw = esp_op_input_grad(context, 1);
    const esp_view *db = esp_op_input_grad(context, 2);
    esp_status status = ESP_OK;
    if (dw != NULL)
        status = weight_gradient(context, plan, esp_view_f32(dw));
    if (status == ESP_OK && db != NULL)
        status = esp_op_bias_gradient(context, db);
    if (status == ESP_OK && dx != NULL)
        status = input_gradient(context, plan, esp_view_f32(dx));
    return status;
}

/* One multiply-accumulate per weight and input position and image. */
int64_t esp_op_conv_transpose_macs(const esp_infer_context *context)
{
    const esp_shape *x = &context->inputs[0]->shape;
    return x->dims[0] * esp_shape_product(x, 2, x->rank) * esp_shape_elements(&context->inputs[1]->shape);
}

bool esp_op_conv_transpose_layer(const esp_node *node, esp_layer_form *form)
{
    *form = (esp_layer_form){.weight_input = 1,
                             .bias_input = node->input_count > 2 && node->inputs[2] >= 0 ? 2 : -1,
                             .filter_axis = 1,
                             .channel_axis = 0,
                             .is_conv = true};
    return true;
}
