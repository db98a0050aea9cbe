/* Layouts: which steps keep images in channel blocks, and conversions where a step needs the other layout.
 *
 * The op table tells which inputs a row takes in blocks (esp_op.blocks). Convolutions run in blocks wherever
 * they can; every other operator follows its inputs: it runs in blocks when it can and one of the images it
 * would read is in blocks already. Walking in topological order every value gets one layout that way, that of
 * its producer; inputs, constants and outputs of the network are plain. A step that wants the other layout of
 * a value reads a copy (value + value_count) that one conversion step makes for all who want it, in front of
 * the first. In a network with self-grouped layers program_choice.c has the choice instead. Where both
 * layouts are the same memory the conversion is a view. */
#include "base/memory.h"
#include "graph/program_internal.h"
#include "tensor/blocked.h"

/* ---- choice ---- */

esp_status esp_compiler_mark_wanted(esp_compiler *c, esp_step *step, esp_error *err)
{
    if (!c->request->is_training)
        return ESP_OK;
    esp_view **wanted = esp_arena_alloc(c->arena, (size_t)step->input_count + 1, sizeof *wanted);
    if (wanted == NULL)
        return esp_compiler_no_memory(err);
    for (int i = 0; i < step->input_count; i++) {
        int v = step->inputs[i];
        wanted[i] = v >= 0 && c->may_want_grad[v] ? &c->program->grads[v] : NULL;
    }
    step->context.input_grads = wanted;
    return ESP_OK;
}

static bool reads_blocks(const esp_compiler *c, const esp_step *step)
{
    for (int i = 0; i < step->input_count; i++) {
        if (esp_bit(step->layouts.blocked_inputs, i) && step->inputs[i] >= 0 &&
            c->program->values[step->inputs[i]].layout == ESP_LAYOUT_BLOCKED)
            return true;
    }
    return false;
}

static esp_status choose(esp_compiler *c, esp_step *step, esp_error *err)
{
    if (step->is_joined)
        return ESP_OK;
    esp_status status = esp_compiler_fill_context(c, step, err);
    if (status == ESP_OK)
        status = esp_compiler_mark_wanted(c, step, err);
    if (status != ESP_OK || step->op->blocks == NULL)
        return status;
    bool fits = step->op->blocks(&step->context, &step->layouts);
    bool prefers = (step->op->flags & ESP_OP_PREFERS_BLOCKS) != 0 || reads_blocks(c, step);
    step->is_blocked = fits && (c->program->group_layers != NULL ? step->prefers_blocks : prefers);
    if (!step->is_blocked)
        step->layouts = (esp_op_layouts){0};
    else if (step->layouts.blocked_output)
        c->program->values[step->outputs[0]].layout = ESP_LAYOUT_BLOCKED;
    return ESP_OK;
}

esp_status esp_compiler_choose_layouts(esp_compiler *c, esp_error *err)
{
    esp_status status = c->program->group_layers != NULL ? esp_compiler_weigh_layouts(c, err) : ESP_OK;
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        status = choose(c, &c->program->steps[s], err);
        c->program->steps[s].context.input_grads = NULL;
    }
    return status;
}

/* ---- conversions ---- */

static esp_status convert_forward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    return esp_layout_copy(context->compute, context->inputs[0], context->outputs[0]);
}

static esp_status convert_backward(const esp_op_context *context, esp_error *err)
{
    (void)err;
    if (context->input_grads[0] == NULL)
        return ESP_OK;
    return esp_layout_copy(context->compute, context->output_grads[0], context->input_grads[0]);
}

/* A row that no file names: the same values in the other layout. */
static const esp_op conversion_row = {.name = "layout",
                                      .input_min = 1,
                                      .input_max = 1,
                                      .output_min = 1,
                                      .output_max = 1,
                                      .forward = convert_forward,
                                      .backward = convert_backward};

typedef struct converter {
    esp_compiler *c;
    esp_step *steps; /* the new list */
    int step_count;
} converter;

static bool is_image(const esp_view *view)
{
    return view->dtype == ESP_F32 && view->shape.rank == 4;
}

/* The value in the layout wanted; makes the conversion, on account of `node`, when it is the first to ask. */
static esp_status in_layout(converter *k, int node, int value, esp_layout wanted, int *out, esp_error *err)
{
    esp_compiler *c = k->c;
    const esp_view *view = &c->program->values[value];
    *out = value;
    if (!is_image(view) || view->layout == wanted)
        return ESP_OK;
    int other = esp_compiler_other(c, value);
    *out = other;
    if (c->is_needed[other])
        return ESP_OK;
    c->is_needed[other] = true;
    c->program->values[other].shape = view->shape;
    c->program->values[other].layout = wanted;
    esp_step *step = &k->steps[k->step_count++];
    *step = (esp_step){.node = node,
                       .op = &conversion_row,
                       .input_count = 1,
                       .output_count = 1,
                       .inputs = esp_arena_alloc(c->arena, 1, sizeof *step->inputs),
                       .outputs = esp_arena_alloc(c->arena, 1, sizeof *step->outputs),
                       .is_conversion = true};
    if (step->inputs == NULL || step->outputs == NULL)
        return esp_compiler_no_memory(err);
    step->inputs[0] = value;
    step->outputs[0] = other;
    return ESP_OK;
}

static esp_status convert_inputs(converter *k, esp_step *step, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < step->input_count; i++) {
        bool is_blocked = step->is_blocked && esp_bit(step->layouts.blocked_inputs, i);
        esp_layout wanted = is_blocked ? ESP_LAYOUT_BLOCKED : ESP_LAYOUT_PLAIN;
        if (step->inputs[i] >= 0)
            status = in_layout(k, step->node, step->inputs[i], wanted, &step->inputs[i], err);
    }
    return status;
}

static esp_status convert_outputs(converter *k, esp_error *err)
{
    esp_compiler *c = k->c;
    esp_program *program = c->program;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < program->output_count; i++) {
        int v = program->outputs[i], producer = esp_graph_value(c->graph, v)->producer;
        status = in_layout(k, producer < 0 ? 0 : producer, v, ESP_LAYOUT_PLAIN, &program->outputs[i], err);
    }
    for (int v = 0; v < esp_compiler_values(c); v++)
        c->is_out[v] = false;
    for (int i = 0; i < program->output_count; i++)
        c->is_out[program->outputs[i]] = true;
    return status;
}

/* Also leaves out the steps that were joined to others. */
esp_status esp_compiler_convert(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    size_t most = (size_t)program->step_count + (size_t)c->value_count;
    converter k = {.c = c, .steps = esp_arena_alloc(c->arena, most, sizeof *k.steps)};
    if (k.steps == NULL)
        return esp_compiler_no_memory(err);
    esp_status status = ESP_OK;
    for (int s = 0; status == ESP_OK && s < program->step_count; s++) {
        esp_step *step = &program->steps[s];
        if (step->is_joined)
            continue;
        status = convert_inputs(&k, step, err);
        for (int n = 0; n < esp_graph_node_count(c->graph); n++)
            program->node_steps[n] = program->node_steps[n] == s ? -2 - k.step_count : program->node_steps[n];
        k.steps[k.step_count++] = *step;
    }
    if (status == ESP_OK)
        status = convert_outputs(&k, err);
    for (int n = 0; n < esp_graph_node_count(c->graph); n++)
        program->node_steps[n] = program->node_steps[n] < -1 ? -2 - program->node_steps[n] : -1;
    program->steps = k.steps;
    program->step_count = k.step_count;
    return status;
}
