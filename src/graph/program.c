/* Compilation of a graph for one batch size.
 *
 * Time is one line: step i of n runs forward at moment i and backward at moment 2n-1-i. Every value lives in a store:
 * memory it has alone, or shares with the values it is a view of, or takes over from an input that dies (in place). A
 * store is in use from the moment it is first written to the last moment anything reads it, in either direction; the
 * plan packs stores into one block accordingly. Gradients are stores of the same kind. Parameters, constants and what
 * was folded from them live elsewhere and are only pointed to. */
#include "graph/program.h"

#include <string.h>

#include "base/memory.h"
#include "graph/ops.h"
#include "graph/plan.h"

enum { NO_STORE = -1 };

typedef struct store {
    int last_read;  /* last step that reads it forward, as far as values were added */
    bool is_pinned; /* an input or output of the graph: never written over */
} store;

typedef struct compiler {
    const esp_program_request *request;
    const esp_graph *graph;
    esp_program *program;
    esp_arena *arena;
    int value_count, store_count, store_capacity;
    int *step_of_node;   /* -1 when the node does not run */
    bool *is_static;     /* per value: known before run time, whatever the parameters */
    bool *is_needed;     /* per value: read by a step, or an output */
    bool *is_out;        /* per value: an output of the program */
    bool *wants_grad;    /* per value: it, or something it is made from, is trainable or asked for */
    bool *has_grad;      /* per value: backward has (will have) written its gradient */
    int *last_reader;    /* per value: last step that reads it; -1 none */
    int *value_store;    /* per value */
    int *grad_store;     /* per value */
    store *stores;
    esp_plan_buffer *buffers; /* parallel to stores */
    esp_view *temporaries;    /* views of scratch gradients; their stores are in `temporary_stores` */
    int *temporary_stores;
    int temporary_count;
    size_t in_place_bytes; /* of outputs written over inputs */
} compiler;

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

static esp_status no_memory(esp_error *err)
{
    return esp_fail_memory(err, "a compiled network", 0);
}

static int forward_moment(int step)
{
    return step;
}

static int backward_moment(const compiler *c, int step)
{
    return 2 * c->program->step_count - 1 - step;
}

static int end_of_time(const compiler *c)
{
    return 2 * c->program->step_count;
}

/* ---- which nodes run ---- */

static esp_param *param_of(const compiler *c, int value)
{
    int index = c->request->params == NULL ? -1 : esp_params_find(c->request->params, value);
    return index < 0 ? NULL : esp_params_at(c->request->params, index);
}

/* Constants are static unless they are parameters, and so is what was folded from static values. */
static void find_static(compiler *c)
{
    const esp_inferred *inferred = c->request->inferred;
    for (int v = 0; v < c->value_count; v++)
        c->is_static[v] = esp_graph_value(c->graph, v)->constant != NULL && param_of(c, v) == NULL;
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
static esp_status find_outputs(compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    program->output_count = esp_graph_output_count(c->graph);
    program->outputs = esp_arena_alloc(c->arena, (size_t)program->output_count, sizeof *program->outputs);
    if (program->outputs == NULL)
        return no_memory(err);
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

static esp_status find_steps(compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    int nodes = esp_graph_node_count(c->graph);
    for (int n = nodes - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(c->graph, n);
        bool runs = false;
        for (int i = 0; i < node->output_count; i++)
            runs = runs || (node->outputs[i] >= 0 && c->is_needed[node->outputs[i]] && !c->is_static[node->outputs[i]]);
        c->step_of_node[n] = runs ? 0 : -1;
        for (int i = 0; runs && i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                c->is_needed[node->inputs[i]] = true;
        }
        program->step_count += runs;
    }
    program->steps = esp_arena_alloc(c->arena, (size_t)program->step_count, sizeof *program->steps);
    if (program->steps == NULL)
        return no_memory(err);
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

/* ---- stores of values ---- */

/* A new store; the arrays have room for all that can ever be made (see new_compiler). */
static int new_store(compiler *c, size_t bytes, int start, int end)
{
    int index = c->store_count++;
    c->stores[index] = (store){.last_read = -1};
    c->buffers[index] = (esp_plan_buffer){.bytes = bytes, .start = start, .end = end};
    return index;
}

static void use_store(compiler *c, int index, int moment)
{
    if (index == NO_STORE)
        return;
    esp_plan_buffer *buffer = &c->buffers[index];
    buffer->start = moment < buffer->start ? moment : buffer->start;
    buffer->end = moment > buffer->end ? moment : buffer->end;
}

static void put_value(compiler *c, int value, int index)
{
    c->value_store[value] = index;
    if (index == NO_STORE)
        return;
    store *s = &c->stores[index];
    s->last_read = c->last_reader[value] > s->last_read ? c->last_reader[value] : s->last_read;
    s->is_pinned = s->is_pinned || c->is_out[value];
    if (c->is_out[value] || c->request->keeps_values)
        use_store(c, index, end_of_time(c));
    if (c->request->keeps_values)
        use_store(c, index, 0);
}

static size_t value_bytes(const compiler *c, int value)
{
    return (size_t)esp_shape_elements(&c->program->values[value].shape) *
           esp_dtype_size(c->program->values[value].dtype);
}

static bool is_materialised(const compiler *c, const esp_node *node, int output)
{
    int v = node->outputs[output];
    return v >= 0 && (output == 0 || c->is_needed[v] || c->request->keeps_values);
}

static bool has_one_output(const compiler *c, const esp_node *node)
{
    for (int i = 1; i < node->output_count; i++) {
        if (is_materialised(c, node, i))
            return false;
    }
    return true;
}

static bool is_view(const compiler *c, const esp_node *node)
{
    unsigned views = ESP_OP_VIEW | (c->request->is_training ? 0u : (unsigned)ESP_OP_EVAL_VIEW);
    return (node->op->flags & views) != 0 && has_one_output(c, node);
}

/* Whether the first output may be written over the first input. */
static bool is_in_place(const compiler *c, const esp_node *node, int step)
{
    if (c->request->is_training || c->request->keeps_values || (node->op->flags & ESP_OP_IN_PLACE) == 0 ||
        !has_one_output(c, node))
        return false;
    int own = c->value_store[node->inputs[0]];
    const esp_view *x = &c->program->values[node->inputs[0]], *y = &c->program->values[node->outputs[0]];
    if (own == NO_STORE || c->stores[own].is_pinned || c->stores[own].last_read > step || x->dtype != y->dtype ||
        !esp_shape_equal(&x->shape, &y->shape))
        return false;
    for (int i = 1; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && c->value_store[node->inputs[i]] == own)
            return false;
    }
    return true;
}

static void store_step_values(compiler *c, int step_index)
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
        if (is_materialised(c, node, i))
            put_value(c, node->outputs[i], new_store(c, value_bytes(c, node->outputs[i]), moment, moment));
    }
}

static void store_values(compiler *c)
{
    const esp_inferred *inferred = c->request->inferred;
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = param_of(c, v);
        const esp_tensor *constant = c->is_static[v] ? esp_inferred_constant(inferred, v) : NULL;
        c->value_store[v] = NO_STORE;
        c->grad_store[v] = NO_STORE;
        c->program->values[v] = (esp_view){.dtype = esp_inferred_dtype(inferred, v),
                                           .shape = *esp_inferred_shape(inferred, v)};
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

static void find_wanted_gradients(compiler *c)
{
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = param_of(c, v);
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
static esp_view *add_temporary(compiler *c, int value, int moment)
{
    int index = c->temporary_count++;
    c->temporaries[index] = c->program->grads[value];
    c->temporary_stores[index] = new_store(c, value_bytes(c, value), moment, moment);
    return &c->temporaries[index];
}

/* The gradient of a view's input is its output's, in the same memory, when it is the first to arrive. */
static bool shares_gradient(const compiler *c, const esp_step *step, int value)
{
    return !step->runs_forward && !c->has_grad[value] && c->program->grads[value].data == NULL;
}

/* Where step `s` puts the gradient of its input `value`; adds what must be added up afterwards. */
static esp_view *gradient_target(compiler *c, int s, int value)
{
    esp_step *step = &c->program->steps[s];
    const esp_node *node = esp_graph_node(c->graph, step->node);
    int moment = backward_moment(c, s);
    if (!c->has_grad[value]) {
        c->has_grad[value] = true;
        if (c->program->grads[value].data == NULL && c->grad_store[value] == NO_STORE)
            c->grad_store[value] = new_store(c, value_bytes(c, value), moment, moment);
        use_store(c, c->grad_store[value], moment);
        return &c->program->grads[value];
    }
    use_store(c, c->grad_store[value], moment);
    /* A view's output gradient is itself what is to be added. */
    esp_view *from = step->runs_forward ? add_temporary(c, value, moment) : &c->program->grads[node->outputs[0]];
    step->accumulations[step->accumulation_count++] =
        (esp_accumulation){.from = from, .into = &c->program->grads[value]};
    return step->runs_forward ? from : NULL;
}

/* Sets the step's gradient pointers and the lifetimes that follow. `targets` has an entry per input. */
static void connect_gradients(compiler *c, int s, esp_view **targets, const esp_view **sources)
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
static void start_gradients(compiler *c)
{
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = param_of(c, v);
        if (param != NULL)
            c->program->grads[v].data = param->grad;
    }
    for (int i = 0; i < c->program->output_count; i++) {
        int v = c->program->outputs[i];
        if (c->program->values[v].dtype != ESP_F32 || c->has_grad[v])
            continue;
        c->has_grad[v] = true;
        if (c->program->grads[v].data == NULL)
            c->grad_store[v] = new_store(c, value_bytes(c, v), c->program->step_count, c->program->step_count);
    }
}

static esp_status plan_gradients(compiler *c, esp_error *err)
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
            return no_memory(err);
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
static esp_status find_cleared(compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    int params = c->request->params == NULL ? 0 : esp_params_count(c->request->params);
    program->cleared = esp_arena_alloc(c->arena, (size_t)params + 1, sizeof *program->cleared);
    if (program->cleared == NULL)
        return no_memory(err);
    for (int i = 0; i < params; i++) {
        const esp_param *param = esp_params_at(c->request->params, i);
        if (param->grad != NULL && !c->has_grad[param->value])
            program->cleared[program->cleared_count++] = program->grads[param->value];
    }
    return ESP_OK;
}

/* ---- memory and contexts ---- */

static void *store_pointer(const compiler *c, int index)
{
    return (char *)c->program->memory + c->buffers[index].offset;
}

static esp_status place_stores(compiler *c, esp_error *err)
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
        if (c->value_store[v] != NO_STORE)
            program->values[v].data = store_pointer(c, c->value_store[v]);
        if (c->grad_store[v] != NO_STORE)
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

static esp_status fill_context(compiler *c, esp_step *step, esp_error *err)
{
    const esp_node *node = esp_graph_node(c->graph, step->node);
    esp_op_context *context = &step->context;
    const esp_view **inputs = esp_arena_alloc(c->arena, (size_t)node->input_count + 1, sizeof *inputs);
    esp_view **outputs = esp_arena_alloc(c->arena, (size_t)node->output_count + 1, sizeof *outputs);
    void *plan = node->op->prepare == NULL ? NULL : esp_arena_alloc(c->arena, 1, ESP_OP_PLAN_MAX);
    if (inputs == NULL || outputs == NULL || (node->op->prepare != NULL && plan == NULL))
        return no_memory(err);
    for (int i = 0; i < node->input_count; i++)
        inputs[i] = node->inputs[i] < 0 ? NULL : &c->program->values[node->inputs[i]];
    for (int i = 0; i < node->output_count; i++)
        outputs[i] = is_materialised(c, node, i) ? &c->program->values[node->outputs[i]] : NULL;
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
static esp_status check_running(const compiler *c, const esp_step *step, esp_error *err)
{
    const esp_node *node = step->context.node;
    for (int i = 0; step->context.is_training && i < node->input_count; i++) {
        if (i >= 32 || (node->op->running & (1u << i)) == 0 || param_of(c, node->inputs[i]) != NULL)
            continue;
        esp_fail(err, ESP_UNSUPPORTED, "node '%s' (%s): training updates '%s', which is no constant of the network",
                 node->name, node->op->name, esp_graph_value(c->graph, node->inputs[i])->name);
        esp_error_set_hint(err, "simplify the network first, or freeze its normalisation");
        return ESP_UNSUPPORTED;
    }
    return ESP_OK;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ESP_ALIGNMENT - 1) / ESP_ALIGNMENT * ESP_ALIGNMENT;
}

/* One scratch block, large enough for the greediest step; a private piece of the saved block for each that saves. */
static esp_status add_scratch(compiler *c, esp_error *err)
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
static bool new_compiler(const esp_program_request *request, compiler *c)
{
    const esp_graph *graph = request->graph;
    size_t values = (size_t)esp_graph_value_count(graph), reads = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++)
        reads += (size_t)esp_graph_node(graph, n)->input_count;
    size_t stores = 2 * values + reads;
    *c = (compiler){.request = request, .graph = graph, .value_count = (int)values};
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

static void free_compiler(compiler *c)
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

static esp_status compile(compiler *c, esp_error *err)
{
    for (int v = 0; v < c->value_count; v++)
        c->last_reader[v] = -1;
    find_static(c);
    esp_status status = find_outputs(c, err);
    if (status == ESP_OK)
        status = find_steps(c, err);
    if (status != ESP_OK)
        return status;
    store_values(c);
    if (c->request->is_training) {
        find_wanted_gradients(c);
        status = plan_gradients(c, err);
    }
    if (status == ESP_OK && c->request->is_training)
        status = find_cleared(c, err);
    if (status == ESP_OK)
        status = place_stores(c, err);
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        status = fill_context(c, &c->program->steps[s], err);
        if (status == ESP_OK)
            status = check_running(c, &c->program->steps[s], err);
    }
    return status == ESP_OK ? add_scratch(c, err) : status;
}

esp_status esp_program_new(const esp_program_request *request, esp_program **out, esp_error *err)
{
    compiler c;
    *out = NULL;
    esp_status status = new_compiler(request, &c) ? compile(&c, err) : no_memory(err);
    free_compiler(&c);
    if (status == ESP_OK)
        *out = c.program;
    else
        esp_program_free(c.program);
    return status;
}
