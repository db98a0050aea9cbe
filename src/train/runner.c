/* See runner.h. Inputs are kept beside the executor and copied in before every run, because a run may reuse
 * the memory of its inputs. */
#include "train/runner.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "graph/op.h"
#include "train/live_memory.h"
#include "train/loss.h"
#include "train/optimizer.h"

#define LEARNING_RATE 1e-4

struct esp_runner {
    const esp_compute *compute;
    esp_graph *graph;
    esp_exec *exec;
    int input_count;
    void **inputs;
    double *node_seconds;
    size_t live_before; /* bytes allocated when the runner was begun */
    size_t live_bytes;  /* see esp_latency_memory.live */
    esp_params *params; /* this and what follows: training only */
    esp_optimizer *optimizer;
    int64_t batch, classes;
    int32_t *labels;
};

static size_t view_bytes(const esp_view *view)
{
    return (size_t)esp_shape_elements(&view->shape) * esp_dtype_size(view->dtype);
}

void esp_runner_free(esp_runner *runner)
{
    if (runner == NULL)
        return;
    for (int i = 0; runner->inputs != NULL && i < runner->input_count; i++)
        esp_free(runner->inputs[i]);
    esp_free(runner->inputs);
    esp_free(runner->node_seconds);
    esp_free(runner->labels);
    esp_exec_free(runner->exec);
    esp_optimizer_free(runner->optimizer);
    esp_params_free(runner->params);
    esp_graph_unref(runner->graph);
    esp_free(runner);
}

static esp_status make_inputs(esp_runner *runner, esp_error *err)
{
    size_t count = (size_t)runner->input_count;
    runner->inputs = esp_alloc_zero(count, sizeof(*runner->inputs));
    if (runner->inputs == NULL)
        return esp_fail_memory(err, "model inputs", count * sizeof(*runner->inputs));
    esp_rng rng;
    esp_rng_seed(&rng, 1);
    for (int i = 0; i < runner->input_count; i++) {
        const esp_view *view = esp_exec_input(runner->exec, i);
        runner->inputs[i] = esp_alloc_zero(view_bytes(view), 1);
        if (runner->inputs[i] == NULL)
            return esp_fail_memory(err, "a model input", view_bytes(view));
        int64_t floats = view->dtype == ESP_F32 ? esp_shape_elements(&view->shape) : 0;
        float *values = runner->inputs[i];
        for (int64_t k = 0; k < floats; k++)
            values[k] = (float)esp_rng_normal(&rng);
    }
    return ESP_OK;
}

/* The first output must be numbers per image. */
static esp_status make_labels(esp_runner *runner, esp_error *err)
{
    const esp_view *logits = esp_exec_output(runner->exec, 0);
    char shape[64];
    if (logits->dtype != ESP_F32 || logits->shape.rank < 2 || logits->shape.dims[0] != runner->batch ||
        esp_shape_elements(&logits->shape) < 1) {
        return esp_fail(
            err, ESP_SHAPE,
            "training steps: the first output is %s of %s, expected float32 of %lld images x classes",
            esp_dtype_name(logits->dtype), esp_shape_format(&logits->shape, shape, sizeof shape),
            (long long)runner->batch);
    }
    runner->classes = esp_shape_elements(&logits->shape) / runner->batch;
    runner->labels = esp_alloc((size_t)runner->batch, sizeof(*runner->labels));
    if (runner->labels == NULL)
        return esp_fail_memory(err, "labels", (size_t)runner->batch * sizeof(*runner->labels));
    esp_rng rng;
    esp_rng_seed(&rng, 2);
    for (int64_t n = 0; n < runner->batch; n++)
        runner->labels[n] = (int32_t)esp_rng_below(&rng, (uint64_t)runner->classes);
    return ESP_OK;
}

static esp_status make_training(esp_runner *runner, esp_error *err)
{
    const esp_train_options options = esp_train_defaults();
    esp_status status = esp_params_new(runner->graph, &runner->params, err);
    if (status == ESP_OK)
        status = esp_optimizer_new(runner->graph, runner->params, &options, &runner->optimizer, err);
    return status;
}

static esp_status open_runner(esp_runner *runner, const esp_latency_options *options, bool times_nodes,
                              esp_error *err)
{
    esp_status status = options->is_training ? make_training(runner, err) : ESP_OK;
    const esp_exec_options exec_options = {
        .batch = runner->batch,
        .is_training = options->is_training,
        .params = runner->params,
        .stops_at_logits = options->is_training,
        .spends_weights = options->spends_weights,
        .input_shapes = options->input_shapes,
        .input_shape_count = options->input_shape_count,
        .slots = esp_compute_slots(runner->compute),
    };
    if (status == ESP_OK)
        status = esp_exec_new(runner->graph, &exec_options, &runner->exec, err);
    if (status == ESP_OK)
        status = make_inputs(runner, err);
    if (status == ESP_OK && options->is_training)
        status = make_labels(runner, err);
    else if (status == ESP_OK)
        status = esp_live_bytes(runner->graph, esp_exec_inferred(runner->exec), &runner->live_bytes, err);
    if (status != ESP_OK || !times_nodes)
        return status;
    size_t nodes = (size_t)esp_graph_node_count(runner->graph);
    runner->node_seconds = esp_alloc_zero(nodes, sizeof(double));
    if (runner->node_seconds == NULL)
        return esp_fail_memory(err, "times of nodes", nodes * sizeof(double));
    esp_exec_time_nodes(runner->exec, runner->node_seconds);
    return ESP_OK;
}

esp_status esp_runner_new(const esp_compute *compute, const esp_graph *graph,
                          const esp_latency_options *options, bool times_nodes, esp_runner **out,
                          esp_error *err)
{
    *out = NULL;
    if (options->batch < 0 || options->repeats < 0) {
        return esp_fail(err, ESP_INVALID, "latency: batch %lld and %d repeats, expected numbers >= 0",
                        (long long)options->batch, options->repeats);
    }
    size_t live_before = esp_memory_live();
    esp_memory_reset_peak();
    esp_runner *runner = esp_alloc_zero(1, sizeof(*runner));
    if (runner == NULL)
        return esp_fail_memory(err, "a network to run", sizeof(*runner));
    runner->compute = compute;
    runner->graph = esp_graph_ref(graph);
    runner->input_count = esp_graph_input_count(graph);
    runner->batch = options->batch == 0 ? 1 : options->batch;
    runner->live_before = live_before;
    esp_status status = open_runner(runner, options, times_nodes, err);
    if (status == ESP_OK)
        *out = runner;
    else
        esp_runner_free(runner);
    return status;
}

/* ---- runs ---- */

static esp_status finish_step(esp_runner *runner, double start, double forwarded, esp_run_time *out,
                              esp_error *err)
{
    esp_status status = esp_exec_backward(runner->exec, runner->compute, err);
    if (status != ESP_OK)
        return status;
    double backwarded = esp_clock_s();
    esp_optimizer_step(runner->optimizer, runner->compute, LEARNING_RATE);
    double updated = esp_clock_s();
    *out = (esp_run_time){.total_s = updated - start,
                          .forward_s = forwarded - start,
                          .backward_s = backwarded - forwarded,
                          .update_s = updated - backwarded};
    return ESP_OK;
}

esp_status esp_runner_run(esp_runner *runner, esp_run_time *out, esp_error *err)
{
    for (int i = 0; i < runner->input_count; i++) {
        const esp_view *view = esp_exec_input(runner->exec, i);
        memcpy(view->data, runner->inputs[i], view_bytes(view));
    }
    double start = esp_clock_s();
    esp_status status = esp_exec_forward(runner->exec, runner->compute, err);
    if (status != ESP_OK)
        return status;
    if (runner->params == NULL) {
        *out = (esp_run_time){.total_s = esp_clock_s() - start};
        return ESP_OK;
    }
    esp_loss_sums sums = {0};
    esp_cross_entropy(esp_view_f32(esp_exec_output(runner->exec, 0)), runner->labels, runner->batch,
                      runner->classes, &sums, esp_view_f32(esp_exec_output_grad(runner->exec, 0)));
    return finish_step(runner, start, esp_clock_s(), out, err);
}

const esp_exec *esp_runner_exec(const esp_runner *runner)
{
    return runner->exec;
}

void *esp_runner_input(esp_runner *runner, int index, size_t *bytes)
{
    *bytes = view_bytes(esp_exec_input(runner->exec, index));
    return runner->inputs[index];
}

const esp_view *esp_runner_output(const esp_runner *runner, int index)
{
    return esp_exec_output(runner->exec, index);
}

const double *esp_runner_node_seconds(const esp_runner *runner)
{
    return runner->node_seconds;
}

/* ---- memory ---- */

static size_t weight_bytes(const esp_graph *graph)
{
    size_t bytes = 0;
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_tensor *constant = esp_graph_value(graph, v)->constant;
        if (constant != NULL)
            bytes += (size_t)esp_tensor_elements(constant) * esp_dtype_size(esp_tensor_dtype(constant));
    }
    return bytes;
}

esp_latency_memory esp_runner_memory(const esp_runner *runner)
{
    const esp_exec_memory use = esp_exec_memory_use(runner->exec);
    size_t weights = weight_bytes(runner->graph), peak = esp_memory_peak();
    return (esp_latency_memory){
        .weights = weights,
        .live = runner->live_bytes,
        .planned = use.activations,
        .packed = use.packed + use.shared_packed,
        .scratch = use.scratch + use.saved,
        .peak = weights + (peak > runner->live_before ? peak - runner->live_before : 0),
    };
}
