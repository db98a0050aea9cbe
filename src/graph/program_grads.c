/* Where gradients live and who writes them.
 *
 * Steps run backward from the last to the first, so a value's gradient gets its contributions in a fixed
 * order. The first overwrites; the others are added: by the step itself where its backward can add
 * (esp_op.adds), else from a scratch gradient. A step that hands its output's gradient on unchanged (a view,
 * an addition, a part of a concatenation) writes nothing: an input without a gradient as yet takes the
 * output's memory over as its own, or the part of it that is its; the others get a copy or add from there.
 * Only one input may take the memory, since what is added to it later is its alone.
 *
 * Frozen parameters have no gradients, and neither have values in front of the first parameter that is
 * trained. That must change no bit of the others: kernels and layouts are chosen as if nothing were frozen
 * (may_want_grad), and only what is run depends on it (wants_grad). */
#include "graph/ops.h"
#include "graph/program_internal.h"

/* ---- which gradients are wanted ---- */

static bool wants_param(const esp_param *param, bool is_frozen_too)
{
    return param != NULL && param->grad != NULL && (is_frozen_too || !param->is_frozen);
}

/* Convolutions make the gradient of a bias along with that of the weight. */
static void want_weights_of_biases(const esp_compiler *c, bool *wants)
{
    for (int s = 0; s < c->program->step_count; s++) {
        const esp_step *step = &c->program->steps[s];
        if (step->op->forward != esp_op_conv_forward || step->input_count <= ESP_CONV_BIAS ||
            step->inputs[ESP_CONV_BIAS] < 0 || !wants[step->inputs[ESP_CONV_BIAS]])
            continue;
        int weight = step->inputs[ESP_CONV_WEIGHT];
        wants[weight] = wants[weight] || wants_param(esp_compiler_param(c, weight), true);
    }
}

/* From parameters and asked-for inputs on to all that is made from them. */
static void spread_wanted(const esp_compiler *c, bool *wants, bool is_frozen_too)
{
    for (int v = 0; v < esp_compiler_values(c); v++)
        wants[v] = wants_param(esp_compiler_param(c, v), is_frozen_too);
    for (int i = 0; i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        wants[v] = c->request->wants_input_grad[i] && c->program->values[v].dtype == ESP_F32;
    }
    want_weights_of_biases(c, wants);
    for (int s = 0; s < c->program->step_count; s++) {
        const esp_step *step = &c->program->steps[s];
        bool is_wanted = false;
        for (int i = 0; step->op->backward != NULL && i < step->input_count; i++)
            is_wanted = is_wanted || (step->inputs[i] >= 0 && wants[step->inputs[i]]);
        for (int i = 0; i < step->output_count; i++) {
            int v = step->outputs[i];
            if (v >= 0)
                wants[v] = is_wanted && c->program->values[v].dtype == ESP_F32;
        }
    }
}

void esp_compiler_find_wanted(esp_compiler *c)
{
    spread_wanted(c, c->wants_grad, false);
    spread_wanted(c, c->may_want_grad, true);
}

/* ---- what the output's gradient gives without a kernel ---- */

/* The part of the gradient of output 0 that is the gradient of input `input`, as a view without data; false
 * when a kernel has to make it. `*offset` in bytes. */
static bool passes_gradient(const esp_compiler *c, const esp_step *step, int input, esp_view *part,
                            size_t *offset)
{
    int v = step->inputs[input], y = step->outputs[0];
    const esp_view *dy = &c->program->grads[y];
    *part = *dy;
    *offset = c->grad_offset[y];
    if (!step->runs_forward && input == 0) {
        part->shape = c->program->values[v].shape;
        part->layout = c->program->values[v].layout;
        return true;
    }
    if (esp_bit(step->op->passes, input) && !step->fused.clips)
        return esp_shape_equal(&dy->shape, &c->program->values[v].shape);
    if (!step->is_blocked || step->op->forward != esp_op_concat_forward)
        return false;
    int64_t channel = 0, channels = c->program->values[v].shape.dims[1];
    for (int i = 0; i < input; i++)
        channel += c->program->values[step->inputs[i]].shape.dims[1];
    /* what is added to a part's gradient later must not touch its neighbour's lanes */
    if (channel % ESP_BLOCK != 0 || (channels % ESP_BLOCK != 0 && input + 1 != step->input_count))
        return false;
    *part = esp_view_channel_range(dy, channel, channels);
    *offset += (size_t)(channel * dy->shape.dims[2] * dy->shape.dims[3]) * sizeof(float);
    return true;
}

/* Whether input `input`'s gradient may be the output's memory: the first to arrive there, and nobody else's
 * by then. Parts of a concatenation do not touch each other. */
static bool takes_over(const esp_compiler *c, const esp_step *step, int input, bool is_taken)
{
    int v = step->inputs[input], y = step->outputs[0];
    bool is_part = step->is_blocked && step->op->forward == esp_op_concat_forward;
    return !c->has_grad[v] && c->program->grads[v].data == NULL && c->grad_store[y] != ESP_NO_STORE &&
           (!is_taken || is_part);
}

static void take_over(esp_compiler *c, const esp_step *step, int input, const esp_view *part, size_t offset)
{
    int v = step->inputs[input];
    c->has_grad[v] = true;
    c->grad_store[v] = c->grad_store[step->outputs[0]];
    c->grad_offset[v] = offset;
    c->program->grads[v].image_stride = part->image_stride;
}

/* ---- where steps write ---- */

static esp_view *pending(esp_compiler *c, const esp_view *view, int store, size_t offset)
{
    esp_pending_view *p = &c->temporaries[c->temporary_count++];
    *p = (esp_pending_view){.view = *view, .store = store, .offset = offset};
    return &p->view;
}

static void add_up(esp_step *step, const esp_view *from, const esp_view *into)
{
    step->accumulations[step->accumulation_count++] = (esp_accumulation){.from = from, .into = into};
}

/* From the output's gradient, which another input may have taken over: before anything is added to that. */
static void add_up_first(esp_step *step, const esp_view *from, const esp_view *into)
{
    for (int i = step->accumulation_count++; i > 0; i--)
        step->accumulations[i] = step->accumulations[i - 1];
    step->accumulations[0] = (esp_accumulation){.from = from, .into = into};
}

/* Whether backward may add the gradient of this input where it is: nothing else of the step goes there. */
static bool adds_in_place(const esp_step *step, int input)
{
    for (int i = 0; i < step->input_count; i++) {
        if (i != input && step->inputs[i] == step->inputs[input])
            return false;
    }
    return step->is_blocked && esp_bit(step->op->adds, input);
}

/* Where step `s` puts the gradient of its input; what must be added up afterwards is noted. */
static esp_view *gradient_target(esp_compiler *c, int s, int input)
{
    esp_step *step = &c->program->steps[s];
    int v = step->inputs[input], moment = esp_compiler_backward_moment(c, s);
    esp_view *grad = &c->program->grads[v];
    if (!c->has_grad[v]) {
        c->has_grad[v] = true;
        if (grad->data == NULL && c->grad_store[v] == ESP_NO_STORE)
            c->grad_store[v] = esp_compiler_new_store(c, esp_compiler_value_bytes(c, v), moment, moment);
        esp_compiler_use_store(c, c->grad_store[v], moment);
        return grad;
    }
    esp_compiler_use_store(c, c->grad_store[v], moment);
    if (adds_in_place(step, input)) {
        step->context.adds |= 1u << input;
        return grad;
    }
    esp_view scratch = *grad;
    scratch.image_stride = 0;
    int store = esp_compiler_new_store(c, esp_compiler_value_bytes(c, v), moment, moment);
    esp_view *target = pending(c, &scratch, store, 0);
    add_up(step, target, grad);
    return target;
}

/* The gradient of one input: taken over, added from the output's, or a target for the kernel. */
static esp_view *connect_input(esp_compiler *c, int s, int input, bool *is_taken)
{
    esp_step *step = &c->program->steps[s];
    int v = step->inputs[input], y = step->outputs[0];
    esp_view part;
    size_t offset;
    if (!passes_gradient(c, step, input, &part, &offset))
        return gradient_target(c, s, input);
    if (takes_over(c, step, input, *is_taken)) {
        take_over(c, step, input, &part, offset);
        *is_taken = true;
        return NULL;
    }
    bool is_same = c->grad_store[v] == c->grad_store[y]; /* an input that comes twice */
    if (!c->has_grad[v] || is_same || c->grad_store[y] == ESP_NO_STORE)
        return gradient_target(c, s, input);
    esp_compiler_use_store(c, c->grad_store[v], esp_compiler_backward_moment(c, s));
    add_up_first(step, pending(c, &part, c->grad_store[y], offset), &c->program->grads[v]);
    return NULL;
}

/* Values that backward reads again live until then. */
static void keep_values(esp_compiler *c, int s)
{
    const esp_step *step = &c->program->steps[s];
    unsigned needs = step->op->needs;
    if (step->fused.clips && esp_graph_node(c->graph, step->node)->input_count < step->input_count)
        needs |= ESP_NEEDS_OUTPUTS; /* where a batch-norm was clipped is found from x, unless something was
                                       added */
    int moment = esp_compiler_backward_moment(c, s);
    int own_inputs = esp_graph_node(c->graph, step->node)->input_count; /* joined steps' are not read again */
    for (int i = 0; (needs & ESP_NEEDS_INPUTS) != 0 && i < own_inputs; i++) {
        if (step->inputs[i] >= 0)
            esp_compiler_use_store(c, c->value_store[step->inputs[i]], moment);
    }
    for (int i = 0; (needs & ESP_NEEDS_OUTPUTS) != 0 && i < step->output_count; i++) {
        if (step->outputs[i] >= 0)
            esp_compiler_use_store(c, c->value_store[step->outputs[i]], moment);
    }
}

/* Sets the step's gradient pointers and the lifetimes that follow. `targets` has an entry per input. */
static void connect_gradients(esp_compiler *c, int s, esp_view **targets, const esp_view **sources)
{
    esp_step *step = &c->program->steps[s];
    bool is_taken = false;
    for (int i = 0; i < step->output_count; i++) {
        int v = step->outputs[i];
        bool reaches = v >= 0 && c->has_grad[v] && c->wants_grad[v];
        sources[i] = reaches ? &c->program->grads[v] : NULL;
        step->runs_backward = step->runs_backward || reaches;
        if (reaches)
            esp_compiler_use_store(c, c->grad_store[v], esp_compiler_backward_moment(c, s));
    }
    if (!step->runs_backward)
        return;
    for (int i = 0; i < step->input_count; i++) {
        if (step->inputs[i] < 0 || !c->wants_grad[step->inputs[i]])
            continue;
        targets[i] = connect_input(c, s, i, &is_taken);
        step->has_targets = step->has_targets || targets[i] != NULL;
    }
    keep_values(c, s);
}

/* ---- the whole ---- */

/* Parameters' gradients live with the parameters; outputs' are the caller's to fill between the passes. */
static void start_gradients(esp_compiler *c)
{
    for (int v = 0; v < esp_compiler_values(c); v++) {
        const esp_param *param = esp_compiler_param(c, v);
        c->program->grads[v] = c->program->values[v];
        c->program->grads[v].data = param == NULL ? NULL : param->grad;
        c->program->grads[v].image_stride = 0;
    }
    for (int i = 0; i < c->program->output_count; i++) {
        int v = c->program->outputs[i], turn = c->program->step_count;
        if (c->program->values[v].dtype != ESP_F32 || c->has_grad[v])
            continue;
        c->has_grad[v] = true;
        if (c->program->grads[v].data == NULL)
            c->grad_store[v] = esp_compiler_new_store(c, esp_compiler_value_bytes(c, v), turn, turn);
    }
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

esp_status esp_compiler_plan_gradients(esp_compiler *c, esp_error *err)
{
    start_gradients(c);
    for (int s = c->program->step_count - 1; s >= 0; s--) {
        esp_step *step = &c->program->steps[s];
        size_t inputs = (size_t)step->input_count;
        esp_view **targets = esp_arena_alloc(c->arena, inputs + 1, sizeof *targets);
        const esp_view **sources = esp_arena_alloc(c->arena, (size_t)step->output_count + 1, sizeof *sources);
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
        esp_compiler_use_store(c, c->grad_store[esp_graph_input(c->graph, i)], esp_compiler_end_of_time(c));
    return find_cleared(c, err);
}
