/* Softmax and LogSoftmax (ONNX -1, -11, -13): probabilities along an axis. */
#include <math.h>

#include "graph/ops.h"
#include "tensor/elementwise.h"

typedef struct softmax_plan {
    int64_t outer, axis, inner;
} softmax_plan;

esp_status esp_op_softmax_infer(esp_infer_context *context, esp_error *err)
{
    int axis;
    int rank = context->inputs[0]->shape.rank;
    esp_status status = esp_op_unary_infer(context, err);
    if (status == ESP_OK)
        status = esp_op_axis(esp_node_int(context->node, "axis", -1), rank == 0 ? 1 : rank, &axis, err);
    return status;
}

/* Before opset 13 everything from the axis on is one axis (the default axis, 1, is in the table). */
void esp_op_softmax_prepare(const esp_op_context *context, void *plan)
{
    const esp_shape *x = &context->inputs[0]->shape;
    int axis = 0;
    esp_op_axis(esp_node_int(context->node, "axis", -1), x->rank == 0 ? 1 : x->rank, &axis, NULL);
    int end = context->opset < 13 ? x->rank : axis + 1;
    if (end > x->rank)
        end = x->rank;
    *(softmax_plan *)plan = (softmax_plan){.outer = esp_shape_product(x, 0, axis),
                                           .axis = esp_shape_product(x, axis, end),
                                           .inner = esp_shape_product(x, end, x->rank)};
}

esp_status esp_op_softmax_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    softmax_plan local;
    const softmax_plan *plan = esp_op_plan(context, &local);
    return esp_softmax_forward(context->compute, plan->outer, plan->axis, plan->inner,
                               esp_view_f32(context->inputs[0]), esp_view_f32(context->outputs[0]));
}

esp_status esp_op_softmax_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    softmax_plan local;
    const softmax_plan *plan = esp_op_plan(context, &local);
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    return esp_softmax_backward(context->compute, plan->outer, plan->axis, plan->inner,
                                esp_view_f32(context->outputs[0]), esp_view_f32(context->output_grads[0]),
                                esp_view_f32(context->input_grads[0]));
}

typedef struct log_softmax_job {
    const softmax_plan *plan;
    const float *x, *y, *dy;
    float *out;
} log_softmax_job;

/* y[a] = x[a] - max - log(sum(exp(x - max))), one outer row per task. */
static void log_softmax_row(void *context, int64_t task, int slot)
{
    (void)slot;
    const log_softmax_job *job = context;
    int64_t axis = job->plan->axis, inner = job->plan->inner;
    for (int64_t i = 0; i < inner; i++) {
        const float *x = job->x + task * axis * inner + i;
        float *y = job->out + task * axis * inner + i;
        float most = -INFINITY;
        double sum = 0;
        for (int64_t a = 0; a < axis; a++)
            most = x[a * inner] > most ? x[a * inner] : most;
        for (int64_t a = 0; a < axis; a++)
            sum += exp((double)x[a * inner] - (double)most);
        double shift = (double)most + log(sum);
        for (int64_t a = 0; a < axis; a++)
            y[a * inner] = (float)((double)x[a * inner] - shift);
    }
}

/* dx[a] = dy[a] - exp(y[a]) * sum(dy) */
static void log_softmax_row_backward(void *context, int64_t task, int slot)
{
    (void)slot;
    const log_softmax_job *job = context;
    int64_t axis = job->plan->axis, inner = job->plan->inner;
    for (int64_t i = 0; i < inner; i++) {
        int64_t at = task * axis * inner + i;
        double sum = 0;
        for (int64_t a = 0; a < axis; a++)
            sum += (double)job->dy[at + a * inner];
        for (int64_t a = 0; a < axis; a++)
            job->out[at + a * inner] =
                (float)((double)job->dy[at + a * inner] - exp((double)job->y[at + a * inner]) * sum);
    }
}

esp_status esp_op_log_softmax_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    softmax_plan local;
    log_softmax_job job = {.plan = esp_op_plan(context, &local),
                           .x = esp_view_f32(context->inputs[0]),
                           .out = esp_view_f32(context->outputs[0])};
    return esp_compute_run(context->compute, job.plan->outer, log_softmax_row, &job);
}

esp_status esp_op_log_softmax_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    softmax_plan local;
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    log_softmax_job job = {.plan = esp_op_plan(context, &local),
                           .y = esp_view_f32(context->outputs[0]),
                           .dy = esp_view_f32(context->output_grads[0]),
                           .out = esp_view_f32(context->input_grads[0])};
    return esp_compute_run(context->compute, job.plan->outer, log_softmax_row_backward, &job);
}
