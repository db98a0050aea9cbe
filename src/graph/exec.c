/* Running a compiled network. All decisions were made when it was compiled (program.c); here are two loops.
 */
#include "graph/exec.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/memory.h"
#include "graph/op.h"
#include "graph/opaque.h"
#include "graph/program.h"
#include "graph/thread_trial.h"
#include "tensor/arrange.h"
#include "tensor/blas.h"
#include "tensor/blocked.h"
#include "tensor/elementwise.h"

struct esp_exec {
    esp_graph *graph;
    esp_inferred *inferred;
    esp_program *program;
    esp_program_request request;
    esp_rng rng;
    esp_engine engine;
    bool *wants_input_grad;
    bool *output_grad_is_asked; /* the caller fills these; the others are taken as zero */
    bool has_run_forward;
    double *node_seconds;
    esp_thread_trial trial;
};

void esp_exec_free(esp_exec *exec)
{
    if (exec == NULL)
        return;
    esp_program_free(exec->program);
    esp_inferred_free(exec->inferred);
    esp_free(exec->wants_input_grad);
    esp_free(exec->output_grad_is_asked);
    esp_graph_unref(exec->graph);
    esp_free(exec);
}

static esp_status check_options(const esp_exec_options *options, esp_error *err)
{
    if (options->is_training && options->params == NULL)
        return esp_fail(err, ESP_INVALID, "an executor for training needs parameters to train");
    if (options->is_training && options->spends_weights)
        return esp_fail(err, ESP_INVALID, "an executor for training needs the weights it was to spend");
    if (options->slots < 0)
        return esp_fail(err, ESP_INVALID, "%d thread slots", options->slots);
    return ESP_OK;
}

/* Another executor may have spent weights of this graph. */
static esp_status check_weights(const esp_graph *graph, esp_error *err)
{
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);
        if (value->constant != NULL && esp_tensor_is_spent(value->constant))
            return esp_fail(err, ESP_STATE,
                            "'%s' exists in packed form only: an executor has spent the weights",
                            value->name);
    }
    return ESP_OK;
}

static esp_status open_exec(esp_exec *exec, const esp_graph *graph, const esp_exec_options *options,
                            esp_error *err)
{
    exec->graph = esp_graph_ref(graph);
    exec->wants_input_grad =
        esp_alloc_zero((size_t)esp_graph_input_count(graph), sizeof *exec->wants_input_grad);
    exec->output_grad_is_asked =
        esp_alloc_zero((size_t)esp_graph_output_count(graph), sizeof *exec->output_grad_is_asked);
    if (exec->wants_input_grad == NULL || exec->output_grad_is_asked == NULL)
        return esp_fail_memory(err, "an executor", sizeof *exec);
    esp_status status = esp_infer(graph, options->batch, options->input_shapes, options->input_shape_count,
                                  &exec->inferred, err);
    if (status != ESP_OK)
        return status;
    esp_rng_seed(&exec->rng, options->seed);
    exec->engine = options->engine == NULL ? *esp_engine_default() : *options->engine;
    exec->request = (esp_program_request){.graph = exec->graph,
                                          .inferred = exec->inferred,
                                          .params = options->params,
                                          .is_training = options->is_training,
                                          .keeps_values = options->keeps_values,
                                          .stops_at_logits = options->stops_at_logits,
                                          .freezes_norm = options->freezes_norm,
                                          .spends_weights = options->spends_weights,
                                          .slots = options->slots == 0 ? 1 : options->slots,
                                          .wants_input_grad = exec->wants_input_grad,
                                          .rng = &exec->rng,
                                          .engine = &exec->engine};
    return esp_program_new(&exec->request, &exec->program, err);
}

esp_status esp_exec_new(const esp_graph *graph, const esp_exec_options *options, esp_exec **out,
                        esp_error *err)
{
    *out = NULL;
    esp_status status = check_options(options, err);
    if (status == ESP_OK)
        status = esp_opaque_check(graph, err);
    if (status == ESP_OK)
        status = check_weights(graph, err);
    if (status != ESP_OK)
        return status;
    esp_blas_start();
    esp_exec *exec = esp_alloc_zero(1, sizeof *exec);
    if (exec == NULL)
        return esp_fail_memory(err, "an executor", sizeof *exec);
    status = open_exec(exec, graph, options, err);
    if (status == ESP_OK)
        *out = exec;
    else
        esp_exec_free(exec);
    return status;
}

esp_rng *esp_exec_rng(esp_exec *exec)
{
    return &exec->rng;
}

const esp_inferred *esp_exec_inferred(const esp_exec *exec)
{
    return exec->inferred;
}

const esp_view *esp_exec_input(esp_exec *exec, int index)
{
    return &exec->program->values[esp_graph_input(exec->graph, index)];
}

const esp_view *esp_exec_output(const esp_exec *exec, int index)
{
    return &exec->program->values[exec->program->outputs[index]];
}

const esp_view *esp_exec_value(const esp_exec *exec, int value)
{
    return exec->request.keeps_values ? &exec->program->values[value] : NULL;
}

const esp_view *esp_exec_output_grad(esp_exec *exec, int index)
{
    if (!exec->request.is_training)
        return NULL;
    exec->output_grad_is_asked[index] = true;
    return &exec->program->grads[exec->program->outputs[index]];
}

esp_status esp_exec_want_input_grad(esp_exec *exec, int index, esp_error *err)
{
    const esp_value *value = esp_graph_value(exec->graph, esp_graph_input(exec->graph, index));
    if (!exec->request.is_training)
        return esp_fail(err, ESP_STATE, "the gradient of input '%s' needs an executor for training",
                        value->name);
    if (exec->wants_input_grad[index])
        return ESP_OK;
    exec->wants_input_grad[index] = true;
    esp_program *program;
    esp_status status = esp_program_new(&exec->request, &program, err);
    if (status != ESP_OK) {
        exec->wants_input_grad[index] = false;
        return status;
    }
    esp_program_free(exec->program);
    exec->program = program;
    exec->has_run_forward = false;
    return ESP_OK;
}

const esp_view *esp_exec_input_grad(const esp_exec *exec, int index)
{
    const esp_view *grad = &exec->program->grads[esp_graph_input(exec->graph, index)];
    return exec->wants_input_grad[index] && grad->data != NULL ? grad : NULL;
}

size_t esp_exec_planned_bytes(const esp_exec *exec)
{
    return exec->program->planned_bytes;
}

size_t esp_exec_unplanned_bytes(const esp_exec *exec)
{
    return exec->program->unplanned_bytes;
}

void esp_exec_time_nodes(esp_exec *exec, double *seconds)
{
    exec->node_seconds = seconds;
}

esp_exec_node_info esp_exec_node(const esp_exec *exec, int node)
{
    const esp_program *program = exec->program;
    esp_exec_node_info info = {.fused_into = node};
    int s = program->node_steps[node];
    if (s < 0)
        return info;
    const esp_step *step = &program->steps[s];
    info.fused_into = step->node;
    info.layout = step->is_blocked && step->layouts.blocked_output ? ESP_LAYOUT_BLOCKED : ESP_LAYOUT_PLAIN;
    const char *layout = step->is_blocked ? "blocked" : "plain";
    if (step->runs_forward)
        snprintf(info.method, sizeof info.method, "%s",
                 step->op->method != NULL ? step->op->method(&step->context) : layout);
    return info;
}

esp_exec_memory esp_exec_memory_use(const esp_exec *exec)
{
    const esp_program *program = exec->program;
    return (esp_exec_memory){.activations = program->planned_bytes,
                             .unshared_activations = program->unplanned_bytes,
                             .scratch = program->scratch_bytes,
                             .saved = program->saved_bytes,
                             .packed = program->packed_bytes,
                             .shared_packed = program->shared_packed_bytes};
}

/* ---- runs ---- */

static esp_status check_run(const esp_exec *exec, const esp_compute *compute, esp_error *err)
{
    int slots = esp_compute_slots(compute);
    if (slots > exec->request.slots)
        return esp_fail(err, ESP_INVALID, "the executor was made for %d threads, asked to run on %d",
                        exec->request.slots, slots);
    return ESP_OK;
}

static esp_status cancelled(esp_error *err)
{
    return esp_fail(err, ESP_CANCELLED, "cancelled");
}

static void clear_times(esp_exec *exec)
{
    for (int n = 0; n < esp_graph_node_count(exec->graph); n++)
        exec->node_seconds[n] = 0.0;
}

static esp_status pack_failed(const esp_step *step, esp_status status, esp_error *err)
{
    return esp_fail(err, status, "node '%s': packing its weights: %s", step->context.node->name,
                    esp_status_word(status));
}

static esp_status run_forward(esp_exec *exec, const esp_compute *compute, esp_error *err)
{
    esp_program *program = exec->program;
    esp_status status = ESP_OK;

    for (int s = 0; status == ESP_OK && s < program->step_count; s++) {
        esp_step *step = &program->steps[s];
        if (!step->runs_forward)
            continue;
        if (esp_compute_is_cancelled(compute))
            return cancelled(err);
        double start = exec->node_seconds == NULL ? 0.0 : esp_clock_s();
        step->context.compute = compute;
        status = esp_step_pack(step, false);
        status = status == ESP_OK ? esp_op_forward(&step->context, err) : pack_failed(step, status, err);
        if (exec->node_seconds != NULL)
            exec->node_seconds[step->node] += esp_clock_s() - start;
    }
    return status;
}

/* Small networks on all threads or on this one, as the trial has it. */
static esp_status run_on_threads(esp_exec *exec, const esp_compute *compute, esp_error *err)
{
    if (esp_compute_slots(compute) == 1)
        return run_forward(exec, compute, err);

    esp_compute alone = *compute;
    alone.pool = NULL;
    double start = esp_clock_s();
    esp_status status = run_forward(exec, esp_thread_trial_next(&exec->trial) ? &alone : compute, err);
    esp_thread_trial_record(&exec->trial, esp_clock_s() - start);
    return status;
}

esp_status esp_exec_forward(esp_exec *exec, const esp_compute *compute, esp_error *err)
{
    esp_program *program = exec->program;
    esp_status status = check_run(exec, compute, err);
    exec->has_run_forward = false;
    if (exec->node_seconds != NULL)
        clear_times(exec);
    if (status == ESP_OK)
        status = esp_program_refresh(program, exec->request.params, compute, err);
    if (status == ESP_OK)
        status = run_on_threads(exec, compute, err);
    if (program->updates_params)
        esp_params_touch(exec->request.params);
    exec->has_run_forward = status == ESP_OK;
    return status;
}

/* The two may be the same memory in different layouts (see esp_compiler_is_view): then element by element. */
static esp_status add_gradient(const esp_compute *compute, const esp_accumulation *sum)
{
    int64_t count = esp_view_storage(sum->into);
    if (sum->from->image_stride == 0 && sum->into->image_stride == 0 && esp_view_storage(sum->from) == count)
        return esp_accumulate(compute, count, esp_view_f32(sum->from), esp_view_f32(sum->into));
    return esp_blocked_accumulate(compute, sum->from, sum->into);
}

static esp_status run_backward_step(esp_step *step, const esp_compute *compute, esp_error *err)
{
    esp_status status = ESP_OK;
    step->context.compute = compute;
    if (step->has_targets) {
        status = esp_step_pack(step, true);
        status = status == ESP_OK ? esp_op_backward(&step->context, err) : pack_failed(step, status, err);
    }
    for (int i = 0; status == ESP_OK && i < step->accumulation_count; i++) {
        status = add_gradient(compute, &step->accumulations[i]);
        if (status == ESP_CANCELLED)
            return cancelled(err);
    }
    return status;
}

/* Outputs nobody gave a gradient for, and parameters none reaches, get zeros. */
static void clear_gradients(const esp_exec *exec)
{
    const esp_program *program = exec->program;
    for (int i = 0; i < program->output_count; i++) {
        const esp_view *grad = &program->grads[program->outputs[i]];
        if (!exec->output_grad_is_asked[i] && grad->data != NULL)
            esp_fill_f32(esp_view_f32(grad), esp_shape_elements(&grad->shape), 0.0f);
    }
    for (int i = 0; i < program->cleared_count; i++)
        esp_fill_f32(esp_view_f32(&program->cleared[i]), esp_shape_elements(&program->cleared[i].shape),
                     0.0f);
}

esp_status esp_exec_backward(esp_exec *exec, const esp_compute *compute, esp_error *err)
{
    const esp_program *program = exec->program;
    esp_status status = check_run(exec, compute, err);
    if (status != ESP_OK)
        return status;
    if (!exec->request.is_training || !exec->has_run_forward)
        return esp_fail(err, ESP_STATE, "backward needs a forward run of an executor for training");
    clear_gradients(exec);
    for (int s = program->step_count - 1; status == ESP_OK && s >= 0; s--) {
        esp_step *step = &program->steps[s];
        if (!step->runs_backward)
            continue;
        if (esp_compute_is_cancelled(compute))
            return cancelled(err);
        status = run_backward_step(step, compute, err);
    }
    return status;
}
