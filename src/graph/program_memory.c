/* Where a compiled network's values and gradients live.
 *
 * Time is one line: step i of n runs forward at moment i and backward at moment 2n-1-i. Every value lives in
 * a store: memory it has alone, or shares with the values it is a view of, or takes over from an input that
 * dies (in place). A store is in use from the moment it is first written to the last moment anything reads
 * it, in either direction; the plan packs stores into one block accordingly. Gradients are stores of the same
 * kind. Parameters, constants and what was folded from them live elsewhere and are only pointed to. */
#include <string.h>

#include "base/memory.h"
#include "graph/program_internal.h"

static int forward_moment(int step)
{
    return step;
}

static int backward_moment(const esp_compiler *c, int step)
{
    return 2 * c->program->step_count - 1 - step;
}

static int end_of_time(const esp_compiler *c)
{
    return 2 * c->program->step_count;
}

/* ---- stores of values ---- */

/* A new store; the arrays have room for all that can ever be made (see new_compiler). */
static int new_store(esp_compiler *c, size_t bytes, int start, int end)
{
    int index = c->store_count++;
    c->stores[index] = (esp_store){.last_read = -1};
    c->buffers[index] = (esp_plan_buffer){.bytes = bytes, .start = start, .end = end};
    return index;
}

static void use_store(esp_compiler *c, int index, int moment)
{
    if (index == ESP_NO_STORE)
        return;
    esp_plan_buffer *buffer = &c->buffers[index];
    buffer->start = moment < buffer->start ? moment : buffer->start;
    buffer->end = moment > buffer->end ? moment : buffer->end;
}

static void put_value(esp_compiler *c, int value, int index)
{
    c->value_store[value] = index;
    if (index == ESP_NO_STORE)
        return;
    esp_store *s = &c->stores[index];
    s->last_read = c->last_reader[value] > s->last_read ? c->last_reader[value] : s->last_read;
    s->is_pinned = s->is_pinned || c->is_out[value];
    if (c->is_out[value] || c->request->keeps_values)
        use_store(c, index, end_of_time(c));
    if (c->request->keeps_values)
        use_store(c, index, 0);
}

static size_t value_bytes(const esp_compiler *c, int value)
{
    return (size_t)esp_shape_elements(&c->program->values[value].shape) *
           esp_dtype_size(c->program->values[value].dtype);
}

static bool has_one_output(const esp_compiler *c, const esp_node *node)
{
    for (int i = 1; i < node->output_count; i++) {
        if (esp_compiler_writes(c, node, i))
            return false;
    }
    return true;
}

static bool is_view(const esp_compiler *c, const esp_node *node)
{
    unsigned views = ESP_OP_VIEW | (c->request->is_training ? 0u : (unsigned)ESP_OP_EVAL_VIEW);
    return (node->op->flags & views) != 0 && has_one_output(c, node);
}

/* Whether the first output may be written over the first input. */
static bool is_in_place(const esp_compiler *c, const esp_node *node, int step)
{
    if (c->request->is_training || c->request->keeps_values || (node->op->flags & ESP_OP_IN_PLACE) == 0 ||
        !has_one_output(c, node))
        return false;
    int own = c->value_store[node->inputs[0]];
    const esp_view *x = &c->program->values[node->inputs[0]], *y = &c->program->values[node->outputs[0]];
    if (own == ESP_NO_STORE || c->stores[own].is_pinned || c->stores[own].last_read > step ||
        x->dtype != y->dtype || !esp_shape_equal(&x->shape, &y->shape))
        return false;
    for (int i = 1; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && c->value_store[node->inputs[i]] == own)
            return false;
    }
    return true;
}

static void store_step_values(esp_compiler *c, int step_index)
{
    esp_step *step = &c->program->steps[step_index];
    const esp_node *node = esp_graph_node(c->graph, step->node);
    int moment = forward_moment(step_index);
    step->runs_forward = !is_view(c, node);
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] >= 0)
            use_store(c, c->value_store[node->inputs[i]], moment);
    }
    bool is_over_input = step->runs_forward && is_in_place(c, node, step_index);
    if (is_over_input)
        c->in_place_bytes += value_bytes(c, node->outputs[0]);
    if (!step->runs_forward || is_over_input) {
        c->program->values[node->outputs[0]].data = c->program->values[node->inputs[0]].data;
        put_value(c, node->outputs[0], c->value_store[node->inputs[0]]);
        return;
    }
    for (int i = 0; i < node->output_count; i++) {
        if (esp_compiler_writes(c, node, i))
            put_value(c, node->outputs[i], new_store(c, value_bytes(c, node->outputs[i]), moment, moment));
    }
}

static void store_values(esp_compiler *c)
{
    const esp_inferred *inferred = c->request->inferred;
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = esp_compiler_param(c, v);
        const esp_tensor *constant = c->is_static[v] ? esp_inferred_constant(inferred, v) : NULL;
        c->value_store[v] = ESP_NO_STORE;
        c->grad_store[v] = ESP_NO_STORE;
        c->program->values[v] =
            (esp_view){.dtype = esp_inferred_dtype(inferred, v), .shape = *esp_inferred_shape(inferred, v)};
        c->program->grads[v] = c->program->values[v];
        if (param != NULL)
            c->program->values[v].data = param->data;
        else if (constant != NULL)
            c->program->values[v] = esp_tensor_view(constant);
    }
    for (int i = 0; i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        int index = new_store(c, value_bytes(c, v), 0, end_of_time(c));
        c->stores[index].is_pinned = true;
        put_value(c, v, index);
    }
    for (int s = 0; s < c->program->step_count; s++)
        store_step_values(c, s);
}

/* ---- gradients ---- */

static void find_wanted_gradients(esp_compiler *c)
{
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = esp_compiler_param(c, v);
        c->wants_grad[v] = param != NULL && param->grad != NULL;
    }
    for (int i = 0; i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        c->wants_grad[v] = c->request->wants_input_grad[i] && c->program->values[v].dtype == ESP_F32;
    }
    for (int s = 0; s < c->program->step_count; s++) {
        const esp_node *node = esp_graph_node(c->graph, c->program->steps[s].node);
        bool wants = false;
        for (int i = 0; node->op->backward != NULL && i < node->input_count; i++)
            wants = wants || (node->inputs[i] >= 0 && c->wants_grad[node->inputs[i]]);
        for (int i = 0; i < node->output_count; i++) {
            int v = node->outputs[i];
            if (v >= 0)
                c->wants_grad[v] = wants && c->program->values[v].dtype == ESP_F32;
        }
    }
}

/* A view that a step writes a gradient into before it is added to what is there already. */
static esp_view *add_temporary(esp_compiler *c, int value, int moment)
{
    int index = c->temporary_count++;
    c->temporaries[index] = c->program->grads[value];
    c->temporary_stores[index] = new_store(c, value_bytes(c, value), moment, moment);
    return &c->temporaries[index];
}

/* The gradient of a view's input is its output's, in the same memory, when it is the first to arrive. */
static bool shares_gradient(const esp_compiler *c, const esp_step *step, int value)
{
    return !step->runs_forward && !c->has_grad[value] && c->program->grads[value].data == NULL;
}

/* Where step `s` puts the gradient of its input `value`; adds what must be added up afterwards. */
static esp_view *gradient_target(esp_compiler *c, int s, int value)
{
    esp_step *step = &c->program->steps[s];
    const esp_node *node = esp_graph_node(c->graph, step->node);
    int moment = backward_moment(c, s);
    if (!c->has_grad[value]) {
        c->has_grad[value] = true;
        if (c->program->grads[value].data == NULL && c->grad_store[value] == ESP_NO_STORE)
            c->grad_store[value] = new_store(c, value_bytes(c, value), moment, moment);
        use_store(c, c->grad_store[value], moment);
        return &c->program->grads[value];
    }
    use_store(c, c->grad_store[value], moment);
    /* A view's output gradient is itself what is to be added. */
    esp_view *from =
        step->runs_forward ? add_temporary(c, value, moment) : &c->program->grads[node->outputs[0]];
    step->accumulations[step->accumulation_count++] =
        (esp_accumulation){.from = from, .into = &c->program->grads[value]};
    return step->runs_forward ? from : NULL;
}

/* Sets the step's gradient pointers and the lifetimes that follow. `targets` has an entry per input. */
static void connect_gradients(esp_compiler *c, int s, esp_view **targets, const esp_view **sources)
{
    esp_step *step = &c->program->steps[s];
    const esp_node *node = esp_graph_node(c->graph, step->node);
    int moment = backward_moment(c, s);
    for (int i = 0; i < node->output_count; i++) {
        int v = node->outputs[i];
        bool reaches = v >= 0 && c->has_grad[v] && c->wants_grad[v];
        sources[i] = reaches ? &c->program->grads[v] : NULL;
        step->runs_backward = step->runs_backward || reaches;
        if (reaches)
            use_store(c, c->grad_store[v], moment);
    }
    if (!step->runs_backward)
        return;
    for (int i = 0; i < node->input_count; i++) {
        int v = node->inputs[i];
        if (v < 0 || !c->wants_grad[v])
            continue;
        if (shares_gradient(c, step, v)) {
            c->has_grad[v] = true;
            c->grad_store[v] = c->grad_store[node->outputs[0]];
        } else {
            targets[i] = gradient_target(c, s, v);
        }
    }
    for (int i = 0; (node->op->needs & ESP_NEEDS_INPUTS) != 0 && i < node->input_count; i++) {
        if (node->inputs[i] >= 0)
            use_store(c, c->value_store[node->inputs[i]], moment);
    }
    for (int i = 0; (node->op->needs & ESP_NEEDS_OUTPUTS) != 0 && i < node->output_count; i++) {
        if (node->outputs[i] >= 0)
            use_store(c, c->value_store[node->outputs[i]], moment);
    }
}

/* Parameters' gradients live with the parameters; outputs' are the caller's to fill between the passes. */
static void start_gradients(esp_compiler *c)
{
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = esp_compiler_param(c, v);
        if (param != NULL)
            c->program->grads[v].data = param->grad;
    }
    for (int i = 0; i < c->program->output_count; i++) {
        int v = c->program->outputs[i];
        if (c->program->values[v].dtype != ESP_F32 || c->has_grad[v])
            continue;
        c->has_grad[v] = true;
        if (c->program->grads[v].data == NULL)
            c->grad_store[v] =
                new_store(c, value_bytes(c, v), c->program->step_count, c->program->step_count);
    }
}

static esp_status plan_gradients(esp_compiler *c, esp_error *err)
{
    start_gradients(c);
    for (int s = c->program->step_count - 1; s >= 0; s--) {
        esp_step *step = &c->program->steps[s];
        const esp_node *node = esp_graph_node(c->graph, step->node);
        size_t inputs = (size_t)node->input_count;
        esp_view **targets = esp_arena_alloc(c->arena, inputs + 1, sizeof *targets);
        const esp_view **sources = esp_arena_alloc(c->arena, (size_t)node->output_count + 1, sizeof *sources);
        step->accumulations = esp_arena_alloc(c->arena, inputs + 1, sizeof *step->accumulations);
        if (targets == NULL || sources == NULL || step->accumulations == NULL)
            return esp_compiler_no_memory(err);
        connect_gradients(c, s, targets, sources);
        if (step->runs_backward) {
            step->context.input_grads = targets;
            step->context.output_grads = sources;
        }
    }
    for (int i = 0; i < esp_graph_input_count(c->graph); i++)
        use_store(c, c->grad_store[esp_graph_input(c->graph, i)], end_of_time(c));
    return ESP_OK;
}

/* Trainable parameters that no output depends on: their gradient is zero. */
static esp_status find_cleared(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    int params = c->request->params == NULL ? 0 : esp_params_count(c->request->params);
    program->cleared = esp_arena_alloc(c->arena, (size_t)params + 1, sizeof *program->cleared);
    if (program->cleared == NULL)
        return esp_compiler_no_memory(err);
    for (int i = 0; i < params; i++) {
        const esp_param *param = esp_params_at(c->request->params, i);
        if (param->grad != NULL && !c->has_grad[param->value])
            program->cleared[program->cleared_count++] = program->grads[param->value];
    }
    return ESP_OK;
}

esp_status esp_compiler_plan(esp_compiler *c, esp_error *err)
{
    store_values(c);
    if (!c->request->is_training)
        return ESP_OK;
    find_wanted_gradients(c);
    esp_status status = plan_gradients(c, err);
    return status == ESP_OK ? find_cleared(c, err) : status;
}

/* ---- memory ---- */

static void *store_pointer(const esp_compiler *c, int index)
{
    return (char *)c->program->memory + c->buffers[index].offset;
}

esp_status esp_compiler_place(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    esp_status status = esp_plan_offsets(c->buffers, c->store_count, &program->planned_bytes, err);
    if (status != ESP_OK)
        return status;
    program->unplanned_bytes = esp_plan_unshared(c->buffers, c->store_count) + c->in_place_bytes;
    program->memory = esp_alloc(program->planned_bytes, 1);
    if (program->memory == NULL)
        return esp_fail_memory(err, "activations", program->planned_bytes);
    for (int v = 0; v < c->value_count; v++) {
        if (c->value_store[v] != ESP_NO_STORE)
            program->values[v].data = store_pointer(c, c->value_store[v]);
        if (c->grad_store[v] != ESP_NO_STORE)
            program->grads[v].data = store_pointer(c, c->grad_store[v]);
    }
    for (int i = 0; i < c->temporary_count; i++)
        c->temporaries[i].data = store_pointer(c, c->temporary_stores[i]);
    for (int i = 0; i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        memset(program->values[v].data, 0, value_bytes(c, v));
    }
    return ESP_OK;
}
