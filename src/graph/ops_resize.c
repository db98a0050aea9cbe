/* Resize and Upsample. Nearest positions are a copy by maps (remap.h), of any type. Linear and cubic
 * interpolation goes axis by axis (resample.h): axes that shrink first, those that grow last, so that little
 * is computed twice. Tables are made anew for every run: they are as long as a few rows.
 *
 * In channel blocks an image is [N, blocks, H, W, 16], where H and W are resized as they are. */
#include <string.h>

#include "graph/resize.h"
#include "tensor/arrange.h"
#include "tensor/remap.h"
#include "tensor/resample.h"

_Static_assert(sizeof(esp_resize) <= ESP_OP_PLAN_MAX, "a plan fits its slot");

esp_status esp_op_resize_infer(esp_infer_context *context, esp_error *err)
{
    const esp_view *x = context->inputs[0];
    esp_resize resize;
    esp_status status = esp_resize_read(context, &resize, err);
    if (status == ESP_OK && resize.mode != ESP_RESIZE_NEAREST && x->dtype != ESP_F32)
        status = esp_fail(err, ESP_UNSUPPORTED, "interpolation of %s, expected %s", esp_dtype_name(x->dtype),
                          esp_dtype_name(ESP_F32));
    if (status != ESP_OK)
        return status;
    context->outputs[0].dtype = x->dtype;
    context->outputs[0].shape = x->shape;
    for (int d = 0; d < resize.rank; d++)
        context->outputs[0].shape.dims[d] = resize.axes[d].out;
    return ESP_OK;
}

void esp_op_resize_prepare(const esp_op_context *context, void *plan)
{
    esp_infer_context as_infer = esp_op_as_infer(context);
    esp_resize_read(&as_infer, plan, NULL); /* infer has accepted it */
}

/* Images whose batch and channels stay. */
bool esp_op_resize_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    esp_resize resize;
    esp_op_resize_prepare(context, &resize);
    return esp_op_image_blocks(context, out) && !resize.axes[0].is_resized && !resize.axes[1].is_resized;
}

/* ---- memory ---- */

typedef struct axis_tables {
    int64_t *sources;
    float *weights;
    bool *is_outside;
} axis_tables;

/* What lies in scratch memory. */
typedef struct resize_room {
    axis_tables tables[ESP_MAX_RANK];
    float *between[2]; /* results of all passes but the last */
    float *masked;     /* backward: dy without what was extrapolated */
} resize_room;

/* The resized axes, shrinking ones first. */
static int order_axes(const esp_resize *resize, int order[ESP_MAX_RANK])
{
    int count = 0;
    for (int d = 0; d < resize->rank; d++) {
        if (resize->axes[d].is_resized && resize->axes[d].out < resize->axes[d].in)
            order[count++] = d;
    }
    for (int d = resize->rank - 1; d >= 0; d--) {
        if (resize->axes[d].is_resized && resize->axes[d].out >= resize->axes[d].in)
            order[count++] = d;
    }
    return count;
}

/* The largest result between two passes, in floats. */
static size_t largest_between(const esp_resize *resize, esp_shape shape)
{
    int order[ESP_MAX_RANK], count = order_axes(resize, order);
    int64_t most = 0;
    for (int i = 0; i + 1 < count; i++) {
        shape.dims[order[i]] = resize->axes[order[i]].out;
        int64_t elements = esp_shape_elements(&shape);
        most = elements > most ? elements : most;
    }
    return (size_t)most;
}

static size_t take(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + 63) / 64 * 64;
    return at;
}

/* Lays out the room behind `base` and returns how much it takes; `base` NULL: only that. */
static size_t lay_out(const esp_op_context *context, const esp_resize *resize, char *base, resize_room *room)
{
    size_t used = 0;
    esp_shape x = esp_view_kernel_shape(context->inputs[0]), y = esp_view_kernel_shape(context->outputs[0]);
    resize_room offsets = {0};
#define PLACE(member, bytes)                                                                                 \
    do {                                                                                                     \
        size_t at = take(&used, (bytes));                                                                    \
        if (base != NULL)                                                                                    \
            (member) = (void *)(base + at);                                                                  \
    } while (0)
    for (int d = 0; d < resize->rank; d++) {
        size_t out = (size_t)resize->axes[d].out, taps = (size_t)esp_resize_taps(resize, d);
        if (!resize->axes[d].is_resized)
            continue;
        PLACE(offsets.tables[d].sources, out * taps * sizeof(int64_t));
        PLACE(offsets.tables[d].weights, out * taps * sizeof(float));
        PLACE(offsets.tables[d].is_outside, out);
    }
    if (resize->mode != ESP_RESIZE_NEAREST) {
        size_t between = largest_between(resize, x) * sizeof(float);
        PLACE(offsets.between[0], between);
        PLACE(offsets.between[1], between);
        if (context->input_grads != NULL && resize->coordinate == ESP_COORDINATE_TF_CROP_AND_RESIZE)
            PLACE(offsets.masked, (size_t)esp_shape_elements(&y) * sizeof(float));
    }
#undef PLACE
    if (room != NULL)
        *room = offsets;
    return used;
}

size_t esp_op_resize_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    esp_resize local;
    return lay_out(context, esp_op_plan(context, &local), NULL, NULL);
}

static void make_tables(const esp_op_context *context, const esp_resize *resize, resize_room *room)
{
    lay_out(context, resize, context->scratch, room);
    for (int d = 0; d < resize->rank; d++) {
        if (resize->axes[d].is_resized)
            esp_resize_tables(resize, d, room->tables[d].sources, room->tables[d].weights,
                              room->tables[d].is_outside);
    }
}

/* ---- one run over contiguous memory ---- */

typedef struct resize_run {
    const esp_op_context *context;
    const esp_resize *resize;
    const resize_room *room;
    esp_shape x, y;
} resize_run;

static esp_remap as_remap(const resize_run *run)
{
    esp_remap remap = {.x = run->x, .y = run->y};
    for (int d = 0; d < run->resize->rank; d++)
        remap.maps[d] = run->resize->axes[d].is_resized ? run->room->tables[d].sources : NULL;
    return remap;
}

static esp_resample as_pass(const resize_run *run, const esp_shape *shape, int axis)
{
    return (esp_resample){.outer = esp_shape_product(shape, 0, axis),
                          .in = run->resize->axes[axis].in,
                          .out = run->resize->axes[axis].out,
                          .inner = esp_shape_product(shape, axis + 1, shape->rank),
                          .taps = esp_resize_taps(run->resize, axis),
                          .sources = run->room->tables[axis].sources,
                          .weights = run->room->tables[axis].weights};
}

/* Gives `value` to all of y that lies outside the crop. */
static void fill_outside(const resize_run *run, float value, float *y)
{
    for (int d = 0; d < run->resize->rank; d++) {
        int64_t outer = esp_shape_product(&run->y, 0, d), out = run->y.dims[d];
        int64_t inner = esp_shape_product(&run->y, d + 1, run->y.rank);
        for (int64_t row = 0; run->resize->axes[d].is_resized && row < outer * out; row++) {
            if (run->room->tables[d].is_outside[row % out])
                esp_fill_f32(y + row * inner, inner, value);
        }
    }
}

static esp_status interpolate(const resize_run *run, const float *x, float *y)
{
    int order[ESP_MAX_RANK], count = order_axes(run->resize, order);
    esp_shape shape = run->x;
    esp_status status = ESP_OK;
    if (count == 0)
        memcpy(y, x, (size_t)esp_shape_elements(&run->x) * sizeof *x);
    for (int i = 0; status == ESP_OK && i < count; i++) {
        esp_resample pass = as_pass(run, &shape, order[i]);
        float *target = i + 1 == count ? y : run->room->between[i % 2];
        status = esp_resample_forward(run->context->compute, &pass, x, target);
        shape.dims[order[i]] = run->resize->axes[order[i]].out;
        x = target;
    }
    if (run->resize->coordinate == ESP_COORDINATE_TF_CROP_AND_RESIZE)
        fill_outside(run, run->resize->extrapolation, y);
    return status;
}

static esp_status interpolate_backward(const resize_run *run, const float *dy, float *dx)
{
    int order[ESP_MAX_RANK], count = order_axes(run->resize, order);
    esp_shape shape = run->y;
    esp_status status = ESP_OK;
    if (count == 0)
        memcpy(dx, dy, (size_t)esp_shape_elements(&run->x) * sizeof *dx);
    if (run->room->masked != NULL) {
        memcpy(run->room->masked, dy, (size_t)esp_shape_elements(&run->y) * sizeof *dy);
        fill_outside(run, 0.0f, run->room->masked);
        dy = run->room->masked;
    }
    for (int i = count - 1; status == ESP_OK && i >= 0; i--) {
        esp_resample pass = as_pass(run, &shape, order[i]);
        float *target = i == 0 ? dx : run->room->between[i % 2];
        status = esp_resample_backward(run->context->compute, &pass, dy, target);
        shape.dims[order[i]] = run->resize->axes[order[i]].in;
        dy = target;
    }
    return status;
}

static esp_status run_forward(const resize_run *run, const void *x, void *y)
{
    const esp_view *view = run->context->inputs[0];
    if (run->resize->mode != ESP_RESIZE_NEAREST)
        return interpolate(run, x, y);
    esp_remap remap = as_remap(run);
    unsigned char fill[8] = {0};
    if (view->dtype == ESP_F32)
        memcpy(fill, &run->resize->extrapolation, sizeof run->resize->extrapolation);
    return esp_remap_forward(run->context->compute, &remap, esp_dtype_size(view->dtype), x, fill, y);
}

static esp_status run_backward(const resize_run *run, const void *dy, void *dx)
{
    if (run->resize->mode != ESP_RESIZE_NEAREST)
        return interpolate_backward(run, dy, dx);
    esp_remap remap = as_remap(run);
    return esp_remap_backward(run->context->compute, &remap, dy, dx);
}

static resize_run start_run(const esp_op_context *context, esp_resize *local, resize_room *room)
{
    resize_run run = {.context = context, .resize = esp_op_plan(context, local), .room = room};
    make_tables(context, run.resize, room);
    return run;
}

static esp_status forward_images(void *user, const esp_shape *from, const esp_shape *to, const void *x,
                                 void *y)
{
    resize_run *run = user;
    run->x = *from;
    run->y = *to;
    return run_forward(run, x, y);
}

static esp_status backward_images(void *user, const esp_shape *from, const esp_shape *to, const void *dy,
                                  void *dx)
{
    resize_run *run = user;
    run->x = *to;
    run->y = *from;
    return run_backward(run, dy, dx);
}

esp_status esp_op_resize_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_resize local;
    resize_room room;
    resize_run run = start_run(context, &local, &room);
    return esp_op_each_image(context->inputs[0], context->outputs[0], forward_images, &run);
}

esp_status esp_op_resize_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    esp_resize local;
    resize_room room;
    const esp_view *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    resize_run run = start_run(context, &local, &room);
    return esp_op_each_image(context->output_grads[0], dx, backward_images, &run);
}

/* ---- narrowing ---- */

/* Sizes say how many channels there are; scales need not change, since channels are not scaled. */
esp_status esp_op_resize_narrow(esp_narrow_context *context, esp_error *err)
{
    int64_t sizes[ESP_MAX_RANK], axes[ESP_MAX_RANK];
    int rank = context->inputs[0]->shape.rank, axis = context->output_axis;
    const esp_view *input = context->node->input_count > 3 ? context->inputs[3] : NULL;
    int axis_count = esp_node_ints(context->node, "axes", axes, ESP_MAX_RANK);
    int entry = axis_count > 0 ? -1 : axis;
    if (axis < 0 || axis != context->input_axis)
        return axis < 0 ? ESP_OK : esp_fail(err, ESP_UNSUPPORTED, "it resizes channels");
    if (context->inputs[0]->shape.dims[axis] != context->output->shape.dims[axis])
        return esp_fail(err, ESP_UNSUPPORTED, "it resizes channels");
    int64_t count = esp_view_ints(input, sizes, ESP_MAX_RANK);
    for (int i = 0; i < axis_count; i++) {
        if ((axes[i] < 0 ? axes[i] + rank : axes[i]) == axis)
            entry = i;
    }
    if (count <= 0 || entry < 0 || entry >= count)
        return ESP_OK;
    sizes[entry] = context->output_kept_count;
    return esp_op_replace_ints(input, sizes, (int)count, &context->new_inputs[3], err);
}
