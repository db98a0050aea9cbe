/* Compilation of a graph for one batch size, in this order:
 *   which nodes run (a step each),
 *   which steps are self-grouped layers (fuse_group.c),
 *   which steps keep images in channel blocks (program_choice.c, program_layout.c),
 *   which steps are joined into one (fuse.c),
 *   conversions between layouts (program_layout.c),
 *   where values (program_concat.c, program_memory.c) and gradients (program_grads.c) live,
 *   plans, packed weights (program_pack.c) and scratch memory.
 * An executor whose engine has no channel blocks, or that keeps every value, runs node by node on plain
 * images: layouts, joining and conversions then have nothing to do. */
#include "graph/program.h"

#include <string.h>

#include "base/memory.h"
#include "graph/group_layer.h"
#include "graph/program_internal.h"

void esp_program_free(esp_program *program)
{
    if (program == NULL)
        return;
    esp_free(program->memory);
    esp_free(program->saved);
    esp_free(program->scratch);
    esp_free(program->packed);
    for (esp_group_layer *layer = program->group_layers; layer != NULL; layer = layer->next)
        esp_group_layer_release(layer);
    esp_arena_free(program->arena);
    esp_free(program);
}

/* ---- which nodes run ---- */

/* Shapes of all values, and the data of those known by now. */
static void start_values(esp_compiler *c)
{
    const esp_inferred *inferred = c->request->inferred;
    for (int v = 0; v < c->value_count; v++) {
        const esp_param *param = esp_compiler_param(c, v);
        const esp_tensor *constant = c->is_static[v] ? esp_inferred_constant(inferred, v) : NULL;
        esp_view *view = &c->program->values[v];
        *view =
            (esp_view){.dtype = esp_inferred_dtype(inferred, v), .shape = *esp_inferred_shape(inferred, v)};
        c->program->values[esp_compiler_other(c, v)] = *view;
        if (param != NULL)
            view->data = param->data;
        else if (constant != NULL)
            *view = esp_tensor_view(constant);
    }
}

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

/* Marks what is read, from the outputs back; returns the number of nodes that run. */
static int find_needed(esp_compiler *c)
{
    int count = 0;
    for (int n = esp_graph_node_count(c->graph) - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(c->graph, n);
        bool runs = false;
        for (int i = 0; i < node->output_count; i++)
            runs = runs || (node->outputs[i] >= 0 && c->is_needed[node->outputs[i]] &&
                            !c->is_static[node->outputs[i]]);
        for (int i = 0; runs && i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                c->is_needed[node->inputs[i]] = true;
        }
        c->program->node_steps[n] = runs ? 0 : -1;
        count += runs;
    }
    return count;
}

static bool make_step(esp_compiler *c, int n, esp_step *step)
{
    const esp_node *node = esp_graph_node(c->graph, n);
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    *step = (esp_step){.node = n,
                       .op = node->op,
                       .input_count = node->input_count,
                       .output_count = node->output_count,
                       .inputs = esp_arena_alloc(c->arena, inputs + 1, sizeof *step->inputs),
                       .outputs = esp_arena_alloc(c->arena, outputs + 1, sizeof *step->outputs)};
    if (step->inputs == NULL || step->outputs == NULL)
        return false;
    if (inputs > 0)
        memcpy(step->inputs, node->inputs, inputs * sizeof *step->inputs);
    if (outputs > 0)
        memcpy(step->outputs, node->outputs, outputs * sizeof *step->outputs);
    return true;
}

static esp_status find_steps(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    int nodes = esp_graph_node_count(c->graph);
    int count = find_needed(c);
    program->steps = esp_arena_alloc(c->arena, (size_t)count, sizeof *program->steps);
    if (program->steps == NULL)
        return esp_compiler_no_memory(err);
    for (int n = 0; n < nodes; n++) {
        if (program->node_steps[n] < 0)
            continue;
        program->node_steps[n] = program->step_count;
        if (!make_step(c, n, &program->steps[program->step_count++]))
            return esp_compiler_no_memory(err);
    }
    return ESP_OK;
}

/* Who makes and who reads every value. */
static void find_readers(esp_compiler *c)
{
    for (int v = 0; v < esp_compiler_values(c); v++) {
        c->read_count[v] = c->is_out[v];
        c->last_reader[v] = c->producer[v] = -1;
    }
    for (int s = 0; s < c->program->step_count; s++) {
        const esp_step *step = &c->program->steps[s];
        if (step->is_joined)
            continue;
        for (int i = 0; i < step->input_count; i++) {
            if (step->inputs[i] < 0)
                continue;
            c->read_count[step->inputs[i]]++;
            c->last_reader[step->inputs[i]] = s;
        }
        for (int i = 0; i < step->output_count; i++) {
            if (step->outputs[i] >= 0)
                c->producer[step->outputs[i]] = s;
        }
    }
}

/* ---- contexts and scratch ---- */

bool esp_compiler_has_one_output(const esp_compiler *c, const esp_step *step)
{
    for (int i = 1; i < step->output_count; i++) {
        if (esp_compiler_writes(c, step, i))
            return false;
    }
    return true;
}

/* A blocked [N,C,1,1] in whole blocks lies in memory as the plain one does. */
static bool is_same_memory(const esp_view *view)
{
    const int64_t *dims = view->shape.dims;
    return dims[1] % ESP_BLOCK == 0 && dims[2] == 1 && dims[3] == 1 && view->image_stride == 0;
}

bool esp_compiler_is_view(const esp_compiler *c, const esp_step *step)
{
    if (step->is_conversion)
        return is_same_memory(&c->program->values[step->inputs[0]]);
    unsigned views = ESP_OP_VIEW | (c->request->is_training ? 0u : (unsigned)ESP_OP_EVAL_VIEW);
    return (step->op->flags & views) != 0 && esp_compiler_has_one_output(c, step);
}

esp_status esp_compiler_fill_context(esp_compiler *c, esp_step *step, esp_error *err)
{
    const esp_node *node = esp_graph_node(c->graph, step->node);
    esp_op_context *context = &step->context;
    const esp_view **inputs = esp_arena_alloc(c->arena, (size_t)step->input_count + 1, sizeof *inputs);
    esp_view **outputs = esp_arena_alloc(c->arena, (size_t)step->output_count + 1, sizeof *outputs);
    if (inputs == NULL || outputs == NULL)
        return esp_compiler_no_memory(err);
    for (int i = 0; i < step->input_count; i++)
        inputs[i] = step->inputs[i] < 0 ? NULL : &c->program->values[step->inputs[i]];
    for (int i = 0; i < step->output_count; i++)
        outputs[i] = esp_compiler_writes(c, step, i) ? &c->program->values[step->outputs[i]] : NULL;
    bool is_frozen = c->request->freezes_norm && step->op->running != 0;
    context->node = node;
    context->op = step->op;
    context->engine = c->uses_blocks ? c->request->engine : NULL;
    context->fused = &step->fused;
    context->opset = esp_graph_opset(c->graph);
    context->is_training = c->request->is_training && !is_frozen;
    context->has_backward = c->request->is_training;
    context->input_count = step->input_count;
    context->output_count = step->output_count;
    context->inputs = inputs;
    context->outputs = outputs;
    context->rng = c->request->rng;
    return ESP_OK;
}

static esp_status prepare(esp_compiler *c, esp_step *step, esp_error *err)
{
    esp_status status = esp_compiler_fill_context(c, step, err);
    if (status != ESP_OK || step->op->prepare == NULL)
        return status;
    void *plan = esp_arena_alloc(c->arena, 1, ESP_OP_PLAN_MAX);
    if (plan == NULL)
        return esp_compiler_no_memory(err);
    step->op->prepare(&step->context, plan);
    step->context.plan = plan;
    return ESP_OK;
}

/* In training form the running statistics are written: they must be parameters. */
static esp_status check_running(esp_compiler *c, const esp_step *step, esp_error *err)
{
    const esp_node *node = step->context.node;
    for (int i = 0; step->context.is_training && i < node->input_count; i++) {
        if (!esp_bit(step->op->running, i))
            continue;
        c->program->updates_params = true;
        if (esp_compiler_param(c, node->inputs[i]) != NULL)
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

static size_t packs_in_scratch(const esp_step *step)
{
    size_t bytes = 0;
    for (int i = 0; i < ESP_OP_PACKS; i++) {
        if (step->pack_times[i] == ESP_PACK_ALWAYS)
            bytes += aligned(step->packs[i].bytes);
    }
    return bytes;
}

/* What a step packs for every run lies in front of its scratch memory. */
static void point_scratch(esp_program *program, esp_step *step)
{
    char *next = program->scratch;
    for (int i = 0; i < ESP_OP_PACKS; i++) {
        if (step->packs[i].bytes == 0 || step->pack_times[i] != ESP_PACK_ALWAYS)
            continue;
        step->context.packed[i] = next;
        next += aligned(step->packs[i].bytes);
    }
    step->context.scratch = next;
}

/* One scratch block, large enough for the greediest step; a private piece of the saved block for each that
 * saves. */
static esp_status add_scratch(esp_compiler *c, esp_error *err)
{
    esp_program *program = c->program;
    for (int s = 0; s < program->step_count; s++) {
        const esp_step *step = &program->steps[s];
        size_t wanted = packs_in_scratch(step);
        wanted += step->op->scratch == NULL ? 0 : step->op->scratch(&step->context, c->request->slots);
        program->scratch_bytes = wanted > program->scratch_bytes ? wanted : program->scratch_bytes;
        if (step->op->saved != NULL && step->context.is_training)
            program->saved_bytes += aligned(step->op->saved(&step->context));
    }
    program->scratch = esp_alloc(program->scratch_bytes, 1);
    program->saved = esp_alloc(program->saved_bytes, 1);
    if (program->scratch == NULL || program->saved == NULL)
        return esp_fail_memory(err, "scratch memory", program->scratch_bytes + program->saved_bytes);
    char *next = program->saved;
    for (int s = 0; s < program->step_count; s++) {
        esp_step *step = &program->steps[s];
        point_scratch(program, step);
        if (step->op->saved == NULL || !step->context.is_training)
            continue;
        step->context.saved = next;
        next += aligned(step->op->saved(&step->context));
    }
    return ESP_OK;
}

/* ---- the whole ---- */

/* Stores there can be: one per value and layout, one per gradient of such, one per input of a step. */
static bool new_compiler(const esp_program_request *request, esp_compiler *c)
{
    const esp_graph *graph = request->graph;
    size_t values = 2 * (size_t)esp_graph_value_count(graph), nodes = (size_t)esp_graph_node_count(graph);
    size_t reads = values;
    for (size_t n = 0; n < nodes; n++)
        reads += (size_t)esp_graph_node(graph, (int)n)->input_count;
    size_t stores = 2 * values + reads;
    *c = (esp_compiler){.request = request, .graph = graph, .value_count = (int)(values / 2)};
    c->uses_blocks = request->engine->has_blocked && !request->keeps_values;
    c->program = esp_alloc_zero(1, sizeof *c->program);
    if (c->program != NULL)
        c->program->arena = c->arena = esp_arena_new();
    if (c->arena == NULL)
        return false;
    esp_program *program = c->program;
    bool is_whole = true;
#define TAKE(target, count)                                                                                  \
    is_whole = ((target) = esp_arena_alloc(program->arena, (count), sizeof *(target))) != NULL && is_whole
#define BORROW(target, count)                                                                                \
    is_whole = ((target) = esp_alloc_zero((count), sizeof *(target))) != NULL && is_whole
    TAKE(program->values, values);
    TAKE(program->grads, values);
    TAKE(program->node_steps, nodes);
    TAKE(c->temporaries, request->is_training ? reads : 0);
    BORROW(c->is_static, values);
    BORROW(c->is_needed, values);
    BORROW(c->is_out, values);
    BORROW(c->wants_grad, values);
    BORROW(c->may_want_grad, values);
    BORROW(c->has_grad, values);
    BORROW(c->read_count, values);
    BORROW(c->last_reader, values);
    BORROW(c->producer, values);
    BORROW(c->value_store, values);
    BORROW(c->value_offset, values);
    BORROW(c->places, values);
    BORROW(c->root_store, values);
    BORROW(c->grad_store, values);
    BORROW(c->grad_offset, values);
    BORROW(c->stores, stores);
    BORROW(c->buffers, stores);
#undef TAKE
#undef BORROW
    return is_whole;
}

static void free_compiler(esp_compiler *c)
{
    esp_free(c->is_static);
    esp_free(c->is_needed);
    esp_free(c->is_out);
    esp_free(c->wants_grad);
    esp_free(c->may_want_grad);
    esp_free(c->has_grad);
    esp_free(c->read_count);
    esp_free(c->last_reader);
    esp_free(c->producer);
    esp_free(c->value_store);
    esp_free(c->value_offset);
    esp_free(c->places);
    esp_free(c->root_store);
    esp_free(c->grad_store);
    esp_free(c->grad_offset);
    esp_free(c->stores);
    esp_free(c->buffers);
}

/* Layouts, joined steps and conversions. */
static esp_status arrange_steps(esp_compiler *c, esp_error *err)
{
    find_readers(c);
    esp_compiler_find_wanted(c);
    if (!c->uses_blocks)
        return ESP_OK;
    esp_status status = esp_compiler_join_groups(c, err);
    if (status != ESP_OK)
        return status;
    find_readers(c);
    status = esp_compiler_choose_layouts(c, err);
    if (status == ESP_OK)
        status = esp_compiler_fuse(c, err);
    if (status == ESP_OK)
        status = esp_compiler_convert(c, err);
    if (status != ESP_OK)
        return status;
    find_readers(c);
    esp_compiler_find_wanted(c);
    return ESP_OK;
}

static esp_status compile(esp_compiler *c, esp_error *err)
{
    find_static(c);
    start_values(c);
    esp_status status = find_outputs(c, err);
    if (status == ESP_OK)
        status = find_steps(c, err);
    if (status == ESP_OK)
        status = arrange_steps(c, err);
    if (status != ESP_OK)
        return status;
    esp_compiler_place_parts(c);
    esp_compiler_store_values(c);
    if (c->request->is_training)
        status = esp_compiler_plan_gradients(c, err);
    if (status == ESP_OK)
        status = esp_compiler_place(c, err);
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        status = prepare(c, &c->program->steps[s], err);
        if (status == ESP_OK)
            status = check_running(c, &c->program->steps[s], err);
    }
    if (status == ESP_OK)
        status = esp_compiler_pack(c, err);
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
