/* Sum, Mean, Min and Max of any number of inputs, with broadcasting. float32 images of one shape may stay in
 * channel blocks; Min and Max take every other type too. */
#include <math.h>
#include <string.h>

#include "graph/ops_arithmetic.h"
#include "tensor/arrange.h"
#include "tensor/blocked.h"
#include "tensor/simd.h"
#include "tensor/strides.h"

typedef struct variadic_plan {
    esp_binary_kind kind;
    bool is_mean;
} variadic_plan;

#define PREPARE(name, of, mean)                                                                              \
    void esp_op_##name##_prepare(const esp_op_context *context, void *plan)                                  \
    {                                                                                                        \
        (void)context;                                                                                       \
        *(variadic_plan *)plan = (variadic_plan){.kind = ESP_BINARY_##of, .is_mean = (mean)};                \
    }

PREPARE(sum, ADD, false)
PREPARE(mean, ADD, true)
PREPARE(min, MIN, false)
PREPARE(max, MAX, false)

esp_status esp_op_sum_infer(esp_infer_context *context, esp_error *err)
{
    esp_status status = esp_op_expect_f32(context, err);
    return status == ESP_OK ? esp_op_binary_infer(context, err) : status;
}

/* ---- forward ---- */

/* y = x broadcast to y's shape. */
static esp_status spread(const esp_compute *compute, const esp_view *x, const esp_view *y)
{
    if (x->data == y->data)
        return ESP_OK;
    int64_t x_strides[ESP_MAX_RANK], y_strides[ESP_MAX_RANK];
    esp_broadcast_strides(&x->shape, y->shape.rank, x_strides);
    esp_shape_strides(&y->shape, y_strides);
    return esp_copy_strided(compute, &y->shape, esp_dtype_size(y->dtype), x->data, x_strides, y->data,
                            y_strides);
}

/* Images of one shape. */
bool esp_op_sum_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    *out = (esp_op_layouts){.blocked_inputs = UINT32_MAX, .blocked_output = true};
    if (!esp_view_is_image(context->outputs[0]) || context->input_count < 2)
        return false;
    for (int i = 0; i < context->input_count; i++) {
        if (!esp_shape_equal(&context->inputs[i]->shape, &context->outputs[0]->shape))
            return false;
    }
    return true;
}

/* Who holds the extreme is found out on plain images only. */
bool esp_op_extreme_blocks(const esp_op_context *context, esp_op_layouts *out)
{
    return !context->has_backward && esp_op_sum_blocks(context, out);
}

static esp_status divide_by_count(const esp_op_context *context, const esp_view *y)
{
    float factor = 1.0f / (float)context->input_count;
    if (y->layout == ESP_LAYOUT_BLOCKED)
        return esp_blocked_unary(context->compute, ESP_UNARY_SCALE, factor, 0.0f, y, y);
    return esp_unary_forward(context->compute, ESP_UNARY_SCALE, factor, 0.0f, esp_shape_elements(&y->shape),
                             esp_view_f32(y), esp_view_f32(y));
}

static esp_status blocked_forward(const esp_op_context *context, esp_binary_kind kind)
{
    const esp_view *y = context->outputs[0];
    esp_status status = esp_op_blocked_binary(context, kind); /* the first two */
    for (int i = 2; status == ESP_OK && i < context->input_count; i++)
        status = esp_blocked_binary(context->compute, kind, y, context->inputs[i], y);
    return status;
}

static esp_status plain_forward(const esp_op_context *context, esp_binary_kind kind)
{
    const esp_view *y = context->outputs[0];
    bool is_float = y->dtype == ESP_F32;
    esp_status status = spread(context->compute, context->inputs[0], y);
    for (int i = 1; status == ESP_OK && i < context->input_count; i++)
        status = is_float
                     ? esp_binary_forward(context->compute, kind, y, context->inputs[i], y)
                     : esp_typed_binary(context->compute, (esp_typed_kind)kind, y, context->inputs[i], y);
    return status;
}

esp_status esp_op_variadic_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    variadic_plan local;
    const variadic_plan *plan = esp_op_plan(context, &local);
    esp_status status = esp_op_is_blocked(context) ? blocked_forward(context, plan->kind)
                                                   : plain_forward(context, plan->kind);
    if (status == ESP_OK && plan->is_mean)
        status = divide_by_count(context, context->outputs[0]);
    return status;
}

/* ---- backward of Sum and Mean ---- */

esp_status esp_op_sum_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    variadic_plan local;
    const variadic_plan *plan = esp_op_plan(context, &local);
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        const esp_view *target = context->input_grads[i];
        if (target != NULL && target->layout == ESP_LAYOUT_BLOCKED)
            status = esp_layout_copy(context->compute, context->output_grads[0], target);
        else if (target != NULL)
            status = esp_op_reduce_to(context->compute, context->output_grads[0], target);
        if (status == ESP_OK && target != NULL && plan->is_mean)
            status = divide_by_count(context, target);
    }
    return status;
}

/* ---- backward of Min and Max: the first input that holds the extreme gets its gradient ---- */

enum { X, Y };

typedef struct owner_job {
    esp_walk walk;
    const float *x, *y, *dy;
    int32_t *owner; /* per output element: the input, or -1 */
    float *terms;
    int32_t input;
    int64_t count;
} owner_job;

/* Elements the input holds, unless one before it does. */
static void claim_row(void *context, int64_t row, int slot)
{
    (void)slot;
    const owner_job *job = context;
    int inner = job->walk.rank - 1;
    int64_t at[ESP_MOST_WALKED], stride = job->walk.strides[X][inner];
    esp_walk_locate(&job->walk, inner, row, at);
    for (int64_t i = 0; i < job->walk.dims[inner]; i++) {
        float x = job->x[at[X] + i * stride], y = job->y[at[Y] + i];
        if (job->owner[at[Y] + i] < 0 && x <= y && x >= y)
            job->owner[at[Y] + i] = job->input;
    }
}

static esp_status claim(const esp_compute *compute, owner_job *job, const esp_view *x, const esp_view *y)
{
    job->x = esp_view_f32(x);
    job->walk = (esp_walk){.rank = y->shape.rank, .operands = 2};
    for (int d = 0; d < y->shape.rank; d++)
        job->walk.dims[d] = y->shape.dims[d];
    esp_broadcast_strides(&x->shape, y->shape.rank, job->walk.strides[X]);
    esp_shape_strides(&y->shape, job->walk.strides[Y]);
    esp_walk_simplify(&job->walk);
    return esp_compute_run(compute, esp_walk_positions(&job->walk, job->walk.rank - 1), claim_row, job);
}

static void select_tile(void *context, int64_t task, int slot)
{
    (void)slot;
    const owner_job *job = context;
    int64_t end = esp_tile_end(task * ESP_FLAT_TILE, ESP_FLAT_TILE, job->count);
    for (int64_t i = task * ESP_FLAT_TILE; i < end; i++)
        job->terms[i] = job->owner[i] == job->input ? job->dy[i] : 0.0f;
}

size_t esp_op_extreme_scratch(const esp_op_context *context, int slots)
{
    (void)slots;
    size_t elements = (size_t)esp_shape_elements(&context->outputs[0]->shape);
    return context->has_backward ? elements * (sizeof(int32_t) + sizeof(float)) : 0;
}

esp_status esp_op_extreme_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_view *y = context->outputs[0];
    owner_job job = {.y = esp_view_f32(y),
                     .dy = esp_view_f32(context->output_grads[0]),
                     .owner = context->scratch,
                     .count = esp_shape_elements(&y->shape)};
    job.terms = (float *)(void *)(job.owner + job.count);
    esp_view terms = *y;
    terms.data = job.terms;
    esp_status status = ESP_OK;
    memset(job.owner, 0xff, (size_t)job.count * sizeof *job.owner);
    for (int i = 0; status == ESP_OK && i < context->input_count; i++) {
        job.input = i;
        status = claim(context->compute, &job, context->inputs[i], y);
        if (status != ESP_OK || context->input_grads[i] == NULL)
            continue;
        status =
            esp_compute_run(context->compute, esp_tile_count(job.count, ESP_FLAT_TILE), select_tile, &job);
        if (status == ESP_OK)
            status = esp_op_reduce_to(context->compute, &terms, context->input_grads[i]);
    }
    return status;
}
