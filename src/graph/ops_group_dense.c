/* Self-grouped fully connected layers: a row that no file names, at evaluation and in training. See
 * group_layer.h.
 *
 * Per group the channels of its list are put side by side, which is little beside reading the weights, and
 * nothing is packed. Forward and for the weights' gradients a group is a task: its filters are its own. The
 * input's gradient is a sum over all groups that read a channel; there some rows are a task, which adds the
 * groups up in their order. Both cuts depend on the layer only. */
#include <string.h>

#include "graph/group_layer.h"
#include "graph/ops.h"
#include "tensor/blas.h"
#include "tensor/dense.h"

enum {
    PACK_FOLD = 1,  /* where esp_group_row has it */
    TASK_ROWS = 32, /* of the input's gradient */
};

static void dense_packs(const esp_op_context *context, esp_op_pack packs[ESP_OP_PACKS])
{
    const esp_group_layer *layer = context->fused->group;
    if (context->fused->line_count > 0)
        packs[PACK_FOLD] = (esp_op_pack){
            .bytes = 2 * (size_t)esp_block_channels(layer->geometry.filters) * sizeof(float), .input = -1};
}

static esp_status dense_pack(const esp_op_context *context, int index, void *target)
{
    (void)index;
    const int64_t filters = context->fused->group->geometry.filters;
    float *scale = target;
    esp_fold_lines(context, context->fused->lines, context->fused->line_count, filters, scale,
                   scale + esp_block_channels(filters));
    return ESP_OK;
}

/* Floats of the longest list for all rows, and of the most filters, in whole cache lines. */
static void dense_sizes(const esp_group_layer *layer, size_t *x, size_t *y)
{
    int64_t channels = 0, filters = 0;
    for (int64_t g = 0; g < layer->count; g++) {
        const esp_filter_group *group = &layer->groups[g];
        channels = group->channel_count > channels ? group->channel_count : channels;
        filters = group->filters > filters ? group->filters : filters;
    }
    *x = (size_t)esp_block_channels(layer->geometry.batch * channels);
    *y = (size_t)esp_block_channels(layer->geometry.batch * filters);
}

static size_t dense_scratch(const esp_op_context *context, int slots)
{
    size_t x, y;
    dense_sizes(context->fused->group, &x, &y);
    return (size_t)slots * (x + y) * sizeof(float);
}

static const char *dense_method(const esp_op_context *context)
{
    (void)context;
    return "grouped dense";
}

typedef struct dense_job {
    const esp_op_context *context;
    size_t x, y; /* floats of a slot */
} dense_job;

static dense_job job_of(const esp_op_context *context)
{
    dense_job job = {.context = context};
    dense_sizes(context->fused->group, &job.x, &job.y);
    return job;
}

/* A slot's memory: room for channels side by side, and for filters behind it. */
static float *slot_memory(const dense_job *job, int slot, float **filters)
{
    float *memory = (float *)job->context->scratch + (size_t)slot * (job->x + job->y);
    *filters = memory + job->x;
    return memory;
}

/* The layer's channels of a group, side by side: rows [first, end) of x. */
static void take_channels(const esp_group_layer *layer, const esp_filter_group *group, const float *x,
                          int64_t first, int64_t end, float *out)
{
    for (int64_t n = first; n < end; n++, out += group->channel_count)
        for (int64_t i = 0; i < group->channel_count; i++)
            out[i] = x[n * layer->geometry.channels + group->channels[i]];
}

static int64_t output_of(const esp_group_layer *layer, int64_t filter)
{
    return layer->order == NULL ? filter : layer->order[filter];
}

/* ---- forward ---- */

/* y[order[f]] = clip(lines(sum) + residual) of the filters from `first` on; sums [rows, filters]. */
static void put_sums(const esp_op_context *context, int64_t first, int64_t filters, const float *sums)
{
    const esp_fused *fused = context->fused;
    const esp_group_layer *layer = fused->group;
    const int64_t all = layer->geometry.filters;
    const float *scale = fused->line_count == 0 ? NULL : context->packed[PACK_FOLD];
    const esp_view *added = esp_op_input(context, ESP_CONV_RESIDUAL);
    const float *residual = added == NULL ? NULL : esp_view_f32(added);
    float *y = esp_view_f32(context->outputs[0]);
    for (int64_t n = 0; n < layer->geometry.batch; n++) {
        for (int64_t f = 0; f < filters; f++) {
            int64_t c = output_of(layer, first + f), at = n * all + c;
            float value = sums[n * filters + f];
            value = scale == NULL ? value : value * scale[c] + scale[esp_block_channels(all) + c];
            value += residual == NULL ? 0.0f : residual[at];
            if (fused->clips) {
                value = value < fused->low ? fused->low : value;
                value = value > fused->high ? fused->high : value;
            }
            y[at] = value;
        }
    }
}

static void dense_group(void *user, int64_t task, int slot)
{
    const dense_job *job = user;
    const esp_op_context *context = job->context;
    const esp_group_layer *layer = context->fused->group;
    const esp_filter_group *group = &layer->groups[task];
    const esp_group_source *source = &layer->sources[task];
    float *sums, *chosen = slot_memory(job, slot, &sums);
    esp_dense dense = {
        .rows = layer->geometry.batch, .filters = group->filters, .channels = group->channel_count};
    if (source->bias_input >= 0)
        dense.bias = esp_view_f32(context->inputs[source->bias_input]);
    take_channels(layer, group, esp_view_f32(context->inputs[ESP_CONV_X]), 0, dense.rows, chosen);
    /* In this thread alone, so there is nothing that could fail. */
    (void)esp_dense_forward(NULL, context->engine, &dense, chosen,
                            esp_view_f32(context->inputs[source->weight_input]), sums);
    put_sums(context, source->layer_filter, dense.filters, sums);
}

static esp_status dense_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    dense_job job = job_of(context);
    return esp_compute_run(context->compute, context->fused->group->count, dense_group, &job);
}

/* ---- gradients ---- */

/* The gradient of a group's outputs, side by side: rows [first, end) of dy. */
static void take_outputs(const esp_op_context *context, int64_t task, int64_t first, int64_t end, float *out)
{
    const esp_group_layer *layer = context->fused->group;
    const float *dy = esp_view_f32(context->output_grads[0]);
    const int64_t filters = layer->groups[task].filters, from = layer->sources[task].layer_filter;
    for (int64_t n = first; n < end; n++, out += filters)
        for (int64_t f = 0; f < filters; f++)
            out[f] = dy[n * layer->geometry.filters + output_of(layer, from + f)];
}

/* dw[f,c] = dy[n,f] x[n,c], db[f] = dy[n,f] summed over rows n. */
static void weight_gradient(void *user, int64_t task, int slot)
{
    const dense_job *job = user;
    const esp_op_context *context = job->context;
    const esp_group_layer *layer = context->fused->group;
    const esp_filter_group *group = &layer->groups[task];
    const esp_group_source *source = &layer->sources[task];
    const esp_view *dw = esp_op_input_grad(context, source->weight_input);
    const esp_view *db = source->bias_input < 0 ? NULL : esp_op_input_grad(context, source->bias_input);
    const int64_t rows = layer->geometry.batch, filters = group->filters, channels = group->channel_count;
    float *dy, *x = slot_memory(job, slot, &dy);
    if (dw == NULL && db == NULL)
        return;
    take_outputs(context, task, 0, rows, dy);
    for (int64_t f = 0; db != NULL && f < filters; f++) {
        float sum = 0.0f;
        for (int64_t n = 0; n < rows; n++)
            sum += dy[n * filters + f];
        esp_view_f32(db)[f] = sum;
    }
    if (dw == NULL)
        return;
    take_channels(layer, group, esp_view_f32(context->inputs[ESP_CONV_X]), 0, rows, x);
    esp_blas_gemm(true, false, filters, channels, rows, 1.0f, dy, filters, x, channels, 0.0f,
                  esp_view_f32(dw), channels);
}

/* dx[n, channels[c]] += dy[n,f] w[f,c], group by group. */
static void input_gradient(void *user, int64_t task, int slot)
{
    const dense_job *job = user;
    const esp_op_context *context = job->context;
    const esp_group_layer *layer = context->fused->group;
    const int64_t all = layer->geometry.channels, first = task * TASK_ROWS;
    const int64_t left = layer->geometry.batch - first, rows = left < TASK_ROWS ? left : TASK_ROWS;
    float *dx = esp_view_f32(context->input_grads[ESP_CONV_X]) + first * all;
    float *dy, *part = slot_memory(job, slot, &dy);
    memset(dx, 0, (size_t)(rows * all) * sizeof *dx);
    for (int64_t g = 0; g < layer->count; g++) {
        const esp_filter_group *group = &layer->groups[g];
        const int64_t channels = group->channel_count;
        take_outputs(context, g, first, first + rows, dy);
        esp_blas_gemm(false, false, rows, channels, group->filters, 1.0f, dy, group->filters,
                      esp_view_f32(context->inputs[layer->sources[g].weight_input]), channels, 0.0f, part,
                      channels);
        for (int64_t n = 0; n < rows; n++)
            for (int64_t i = 0; i < channels; i++)
                dx[n * all + group->channels[i]] += part[n * channels + i];
    }
}

static esp_status dense_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    const esp_group_layer *layer = context->fused->group;
    dense_job job = job_of(context);
    esp_status status = esp_compute_run(context->compute, layer->count, weight_gradient, &job);
    if (status != ESP_OK || esp_op_input_grad(context, ESP_CONV_X) == NULL)
        return status;
    int64_t tasks = (layer->geometry.batch + TASK_ROWS - 1) / TASK_ROWS;
    return esp_compute_run(context->compute, tasks, input_gradient, &job);
}

const esp_op esp_group_dense_row = {.name = "Gemm in groups",
                                    .input_min = 2,
                                    .input_max = -1,
                                    .output_min = 1,
                                    .output_max = 1,
                                    .forward = dense_forward,
                                    .backward = dense_backward,
                                    .scratch = dense_scratch,
                                    .needs = ESP_NEEDS_INPUTS,
                                    .packs = dense_packs,
                                    .pack = dense_pack,
                                    .method = dense_method};
