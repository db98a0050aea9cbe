/* Pad: attributes in -2, inputs since -11, axes since -18, wrapping since -19. All element types. It is a
 * copy in which every axis chooses its source positions (remap.h), backward the sum of what was taken.
 * Negative amounts crop; what they leave is what the other end reflects, repeats or wraps. */
#include <inttypes.h>
#include <string.h>

#include "base/arena.h"
#include "graph/ops.h"
#include "tensor/remap.h"

typedef enum pad_mode { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP, PAD_MODES } pad_mode;

static const char *const mode_words[PAD_MODES] = {"constant", "reflect", "edge", "wrap"};

typedef struct pad_plan {
    pad_mode mode;
    int rank;
    int64_t in[ESP_MAX_RANK], begin[ESP_MAX_RANK], end[ESP_MAX_RANK];
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

static pad_mode read_mode(const esp_node *node)
{
    const char *word = esp_node_string(node, "mode", "constant");
    int mode = 0;
    while (mode < PAD_MODES && strcmp(word, mode_words[mode]) != 0)
        mode++;
    return (pad_mode)mode;
}

/* What is left of an axis when negative amounts were cropped. */
static int64_t cropped(int64_t dim, int64_t begin, int64_t end)
{
    return dim + (begin < 0 ? begin : 0) + (end < 0 ? end : 0);
}

esp_status esp_op_pad_infer(esp_infer_context *context, esp_error *err)
{
    pad_mode mode = read_mode(context->node);
    if (mode == PAD_MODES)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "attribute 'mode' is '%s', expected constant, reflect, edge or wrap",
                        esp_node_string(context->node, "mode", ""));
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
        bool fits = !__builtin_add_overflow(x->shape.dims[i], begin[i], &dim) &&
                    !__builtin_add_overflow(dim, end[i], &dim) && dim >= 0;
        bool has_source =
            !fits || mode == PAD_CONSTANT || dim == 0 || cropped(x->shape.dims[i], begin[i], end[i]) > 0;
        if (!fits || !has_source)
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
    esp_infer_context as_infer = esp_op_as_infer(context);
    *plan = (pad_plan){.mode = read_mode(context->node), .rank = x->rank};
    read_pads(&as_infer, plan->begin, plan->end, NULL); /* infer has accepted it */
    memcpy(plan->in, x->dims, sizeof plan->in);
}

/* Images whose batch and channels stay. */
bool esp_op_pad_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    pad_plan plan;
    esp_op_pad_prepare(context, &plan);
    return esp_op_image_blocks(context, out) && plan.begin[0] == 0 && plan.end[0] == 0 &&
           plan.begin[1] == 0 && plan.end[1] == 0;
}

/* ---- maps ---- */

static bool is_padded(const pad_plan *plan, int axis)
{
    return plan->begin[axis] != 0 || plan->end[axis] != 0;
}

static int64_t out_dim(const pad_plan *plan, int axis)
{
    return plan->in[axis] + plan->begin[axis] + plan->end[axis];
}

/* Position `at` of an endless axis in [0, count), or -1. */
static int64_t fold_position(pad_mode mode, int64_t at, int64_t count)
{
    if (at >= 0 && at < count)
        return at;
    if (mode == PAD_CONSTANT)
        return -1;
    if (mode == PAD_EDGE || count == 1)
        return at < 0 ? 0 : count - 1;
    int64_t period = mode == PAD_WRAP ? count : 2 * (count - 1);
    int64_t place = (at % period + period) % period;
    return place < count ? place : period - place;
}

size_t esp_op_pad_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    pad_plan local;
    const pad_plan *plan = esp_op_plan(context, &local);
    size_t entries = 0;
    for (int d = 0; d < plan->rank; d++)
        entries += is_padded(plan, d) ? (size_t)out_dim(plan, d) : 0;
    return entries * sizeof(int64_t);
}

typedef struct pad_run {
    const esp_compute *compute;
    esp_remap remap;
    size_t element_size;
    unsigned char fill[8];
} pad_run;

static pad_run start_run(const esp_op_context *context)
{
    pad_plan local;
    const pad_plan *plan = esp_op_plan(context, &local);
    pad_run run = {.compute = context->compute, .element_size = esp_dtype_size(context->inputs[0]->dtype)};
    int64_t *map = context->scratch;
    for (int d = 0; d < plan->rank; d++) {
        if (!is_padded(plan, d))
            continue;
        int64_t begin = plan->begin[d], count = cropped(plan->in[d], begin, plan->end[d]);
        run.remap.maps[d] = map;
        for (int64_t i = 0; i < out_dim(plan, d); i++) {
            int64_t place = fold_position(plan->mode, i - (begin > 0 ? begin : 0), count);
            *map++ = place < 0 ? -1 : place - (begin < 0 ? begin : 0);
        }
    }
    return run;
}

/* ---- runs ---- */

/* The padding value: the input's, the attribute's or zero. */
static void read_fill(const esp_op_context *context, pad_run *run)
{
    const esp_view *value = esp_op_input(context, 2);
    float number = esp_node_float(context->node, "value", 0.0f);
    if (value != NULL)
        memcpy(run->fill, value->data, run->element_size);
    else if (context->inputs[0]->dtype == ESP_F32)
        memcpy(run->fill, &number, sizeof number);
}

static esp_status forward_images(void *user, const esp_shape *from, const esp_shape *to, const void *x,
                                 void *y)
{
    pad_run *run = user;
    run->remap.x = *from;
    run->remap.y = *to;
    return esp_remap_forward(run->compute, &run->remap, run->element_size, x, run->fill, y);
}

static esp_status backward_images(void *user, const esp_shape *from, const esp_shape *to, const void *dy,
                                  void *dx)
{
    pad_run *run = user;
    run->remap.x = *to;
    run->remap.y = *from;
    return esp_remap_backward(run->compute, &run->remap, dy, dx);
}

esp_status esp_op_pad_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    pad_run run = start_run(context);
    read_fill(context, &run);
    return esp_op_each_image(context->inputs[0], context->outputs[0], forward_images, &run);
}

esp_status esp_op_pad_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *dx = context->input_grads[0];
    if (dx == NULL)
        return ESP_OK;
    pad_run run = start_run(context);
    return esp_op_each_image(context->output_grads[0], dx, backward_images, &run);
}

/* ---- narrowing ---- */

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
    esp_infer_context as_infer = esp_narrow_as_infer(context);
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
    return esp_narrow_ints(context, "pads", 1, pads, 2 * pairs, err);
}
