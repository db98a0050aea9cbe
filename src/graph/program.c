/* Compilation of a graph for one batch size: which nodes run, with which views, plans and scratch memory.
 * program_memory.c decides where values and gradients live. */
#include "graph/program.h"

#include "base/memory.h"
#include "graph/program_internal.h"

void esp_program_free(esp_program *program)
{
    if (program == NULL)
        return;
    esp_free(program->memory);
    esp_free(program->saved);
    esp_free(program->scratch);
    esp_arena_free(program->arena);
    esp_free(program);
}

/* ---- which nodes run ---- */

/* Constants are static unless they are parameters, and so is what was folded from static values. */
static void find_static(esp_compiler *c)
{
    const esp_inferred *inferred = c->request->inferred;
    for (int v = 0; v < c->value_count; v++)
        c->is_static[v] = esp_graph_value(c->graph, v)->constant != NULL && esp_compiler_param(c, v) == NULL;
    for (int n = 0; n < esp_graph_node_count(c->graph); n++) {
        const esp_node *node = esp_graph_node(c->graph, n);
        bool is_static = true;
        for (int i = 0; i < node->input_count; i++) {
            bool is_only_shape = i == 0 && (node->op->flags & ESP_OP_SHAPE_ONLY) != 0;
            is_static = is_static && (node->inputs[i] < 0 || is_only_shape || c->is_static[node->inputs[i]]);
        }
        for (int i = 0; i < node->output_count; i++) {
            int v = node->outputs[i];
            if (v >= 0)
                c->is_static[v] = is_static && esp_inferred_constant(inferred, v) != NULL;
        }
    }
}

/* The program's outputs: the graph's, or the logits behind them. */
static esp_status find_outputs(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    program->output_count = esp_graph_output_count(c->graph);
    program->outputs = esp_arena_alloc(c->arena, (size_t)program->output_count, sizeof *program->outputs);
    if (program->outputs == NULL)
        return esp_compiler_no_memory(err);
    for (int i = 0; i < program->output_count; i++) {
        int v = esp_graph_output(c->graph, i);
        int producer = esp_graph_value(c->graph, v)->producer;
        if (c->request->stops_at_logits && producer >= 0 &&
            (esp_graph_node(c->graph, producer)->op->flags & ESP_OP_LOGITS) != 0)
            v = esp_graph_node(c->graph, producer)->inputs[0];
        program->outputs[i] = v;
        c->is_out[v] = true;
        c->is_needed[v] = true;
    }
    return ESP_OK;
}

static esp_status find_steps(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    int nodes = esp_graph_node_count(c->graph);
    for (int n = nodes - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(c->graph, n);
        bool runs = false;
        for (int i = 0; i < node->output_count; i++)
            runs = runs || (node->outputs[i] >= 0 && c->is_needed[node->outputs[i]] &&
                            !c->is_static[node->outputs[i]]);
        c->step_of_node[n] = runs ? 0 : -1;
        for (int i = 0; runs && i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                c->is_needed[node->inputs[i]] = true;
        }
        program->step_count += runs;
    }
    program->steps = esp_arena_alloc(c->arena, (size_t)program->step_count, sizeof *program->steps);
    if (program->steps == NULL)
        return esp_compiler_no_memory(err);
    for (int n = 0, step = 0; n < nodes; n++) {
        if (c->step_of_node[n] < 0)
            continue;
        const esp_node *node = esp_graph_node(c->graph, n);
        c->step_of_node[n] = step;
        for (int i = 0; i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                c->last_reader[node->inputs[i]] = step;
        }
        program->steps[step++].node = n;
    }
    return ESP_OK;
}

/* ---- contexts and scratch ---- */

static esp_status fill_context(esp_compiler *c, esp_step *step, esp_error *err)
{
    const esp_node *node = esp_graph_node(c->graph, step->node);
    esp_op_context *context = &step->context;
    const esp_view **inputs = esp_arena_alloc(c->arena, (size_t)node->input_count + 1, sizeof *inputs);
    esp_view **outputs = esp_arena_alloc(c->arena, (size_t)node->output_count + 1, sizeof *outputs);
    void *plan = node->op->prepare == NULL ? NULL : esp_arena_alloc(c->arena, 1, ESP_OP_PLAN_MAX);
    if (inputs == NULL || outputs == NULL || (node->op->prepare != NULL && plan == NULL))
        return esp_compiler_no_memory(err);
    for (int i = 0; i < node->input_count; i++)
        inputs[i] = node->inputs[i] < 0 ? NULL : &c->program->values[node->inputs[i]];
    for (int i = 0; i < node->output_count; i++)
        outputs[i] = esp_compiler_writes(c, node, i) ? &c->program->values[node->outputs[i]] : NULL;
    bool is_frozen = c->request->freezes_norm && node->op->running != 0;
    context->node = node;
    context->opset = esp_graph_opset(c->graph);
    context->is_training = c->request->is_training && !is_frozen;
    context->input_count = node->input_count;
    context->output_count = node->output_count;
    context->inputs = inputs;
    context->outputs = outputs;
    context->rng = c->request->rng;
    if (plan != NULL)
        node->op->prepare(context, plan);
    context->plan = plan;
    return ESP_OK;
}

/* In training form the running statistics are written: they must be parameters. */
static esp_status check_running(const esp_compiler *c, const esp_step *step, esp_error *err)
{
    const esp_node *node = step->context.node;
    for (int i = 0; step->context.is_training && i < node->input_count; i++) {
        if (i >= 32 || (node->op->running & (1u << i)) == 0 || esp_compiler_param(c, node->inputs[i]) != NULL)
            continue;
        esp_fail(err, ESP_UNSUPPORTED,
                 "node '%s' (%s): training updates '%s', which is no constant of the network", node->name,
                 node->op->name, esp_graph_value(c->graph, node->inputs[i])->name);
        esp_error_set_hint(err, "simplify the network first, or freeze its normalisation");
        return ESP_UNSUPPORTED;
    }
    return ESP_OK;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

/* One scratch block, large enough for the greediest step; a private piece of the saved block for each that
 * saves. */
static esp_status add_scratch(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    size_t scratch = 0, saved = 0;
    for (int s = 0; s < program->step_count; s++) {
        const esp_op_context *context = &program->steps[s].context;
        const esp_op *op = context->node->op;
        size_t wanted = op->scratch == NULL ? 0 : op->scratch(context, c->request->slots);
        scratch = wanted > scratch ? wanted : scratch;
        if (op->saved != NULL && context->is_training)
            saved += aligned(op->saved(context));
    }
    program->scratch = esp_alloc(scratch, 1);
    program->saved = esp_alloc(saved, 1);
    if (program->scratch == NULL || program->saved == NULL)
        return esp_fail_memory(err, "scratch memory", scratch + saved);
    char *next = program->saved;
    for (int s = 0; s < program->step_count; s++) {
        esp_op_context *context = &program->steps[s].context;
        context->scratch = program->scratch;
        if (context->node->op->saved == NULL || !context->is_training)
            continue;
        context->saved = next;
        next += aligned(context->node->op->saved(context));
    }
    return ESP_OK;
}

/* ---- the whole ---- */

/* Stores there can be: one per value, one per gradient, one temporary per input of a node. */
static bool new_compiler(const esp_program_request *request, esp_compiler *c)
{
    const esp_graph *graph = request->graph;
    size_t values = (size_t)esp_graph_value_count(graph), reads = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++)
        reads += (size_t)esp_graph_node(graph, n)->input_count;
    size_t stores = 2 * values + reads;
    *c = (esp_compiler){.request = request, .graph = graph, .value_count = (int)values};
    c->program = esp_alloc_zero(1, sizeof *c->program);
    if (c->program != NULL)
        c->program->arena = c->arena = esp_arena_new();
    if (c->arena == NULL)
        return false;
    c->program->values = esp_arena_alloc(c->arena, values, sizeof *c->program->values);
    c->program->grads = esp_arena_alloc(c->arena, values, sizeof *c->program->grads);
    c->temporaries = esp_arena_alloc(c->arena, request->is_training ? reads : 0, sizeof *c->temporaries);
    c->step_of_node = esp_alloc((size_t)esp_graph_node_count(graph), sizeof *c->step_of_node);
    c->is_static = esp_alloc_zero(values, sizeof *c->is_static);
    c->is_needed = esp_alloc_zero(values, sizeof *c->is_needed);
    c->is_out = esp_alloc_zero(values, sizeof *c->is_out);
    c->wants_grad = esp_alloc_zero(values, sizeof *c->wants_grad);
    c->has_grad = esp_alloc_zero(values, sizeof *c->has_grad);
    c->last_reader = esp_alloc(values, sizeof *c->last_reader);
    c->value_store = esp_alloc(values, sizeof *c->value_store);
    c->grad_store = esp_alloc(values, sizeof *c->grad_store);
    c->stores = esp_alloc(stores, sizeof *c->stores);
    c->buffers = esp_alloc(stores, sizeof *c->buffers);
    c->temporary_stores = esp_alloc(reads, sizeof *c->temporary_stores);
    return c->program->values != NULL && c->program->grads != NULL && c->temporaries != NULL &&
           c->step_of_node != NULL && c->is_static != NULL && c->is_needed != NULL && c->is_out != NULL &&
           c->wants_grad != NULL && c->has_grad != NULL && c->last_reader != NULL && c->value_store != NULL &&
           c->grad_store != NULL && c->stores != NULL && c->buffers != NULL && c->temporary_stores != NULL;
}

static void free_compiler(esp_compiler *c)
{
    esp_free(c->step_of_node);
    esp_free(c->is_static);
    esp_free(c->is_needed);
    esp_free(c->is_out);
    esp_free(c->wants_grad);
    esp_free(c->has_grad);
    esp_free(c->last_reader);
    esp_free(c->value_store);
    esp_free(c->grad_store);
    esp_free(c->stores);
    esp_free(c->buffers);
    esp_free(c->temporary_stores);
}

static esp_status compile(esp_compiler *c, esp_error *err)
{
    for (int v = 0; v < c->value_count; v++)
        c->last_reader[v] = -1;
    find_static(c);
    esp_status status = find_outputs(c, err);
    if (status == ESP_OK)
        status = find_steps(c, err);
    if (status != ESP_OK)
        return status;
    status = esp_compiler_plan(c, err);
    if (status == ESP_OK)
        status = esp_compiler_place(c, err);
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        status = fill_context(c, &c->program->steps[s], err);
        if (status == ESP_OK)
            status = check_running(c, &c->program->steps[s], err);
    }
    return status == ESP_OK ? add_scratch(c, err) : status;
}

esp_status esp_program_new(const esp_program_request *request, esp_program **out, esp_error *err)
{
    esp_compiler c;
    *out = NULL;
    esp_status status = new_compiler(request, &c) ? compile(&c, err) : esp_compiler_no_memory(err);
    free_compiler(&c);
    if (status == ESP_OK)
        *out = c.program;
    else
        esp_program_free(c.program);
    return status;
}
