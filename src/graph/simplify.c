/* Simplification: shapes are inferred at a batch of 1 and of 2. What comes from constants alone, and what is
 * known and equal at both, becomes a constant; then everything no output needs is left out and the rest is
 * built anew. A model that cannot run at a batch of 2 is fixed to its batch, and all that is known at 1 is
 * constant. A node whose operator is not supported in its form becomes an opaque one. */
#include <string.h>

#include "base/arena.h"
#include "base/memory.h"
#include "base/text.h"
#include "graph/infer.h"
#include "graph/infer_internal.h"
#include "graph/op.h"
#include "graph/opaque.h"

typedef struct simplify_state {
    const esp_graph *graph;
    esp_inferred *one, *two; /* at batch 1 and 2; two may be NULL */
    bool *is_needed;         /* per value */
    bool *node_is_kept;
    int *new_values; /* builder index per value, -1 before */
    esp_builder *builder;
    esp_arena *arena; /* of opaque nodes' attributes until the builder has copied them */
} simplify_state;

/* The value's contents when they are the same at any batch, else NULL. */
static const esp_tensor *settled(const simplify_state *state, int value)
{
    const esp_tensor *one = esp_inferred_constant(state->one, value);
    if (esp_inferred_is_tainted(state->one, value))
        return NULL;
    if (one == NULL || esp_inferred_is_pure(state->one, value) || state->two == NULL)
        return one;
    const esp_tensor *two = esp_inferred_constant(state->two, value);
    return two != NULL && esp_tensor_equal(one, two) ? one : NULL;
}

/* From the outputs backwards: a node is kept when a needed value of its is not settled. */
static void mark_needed(simplify_state *state)
{
    const esp_graph *graph = state->graph;
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        state->is_needed[esp_graph_output(graph, i)] = true;
    for (int i = 0; i < esp_graph_input_count(graph); i++)
        state->is_needed[esp_graph_input(graph, i)] = true;
    for (int n = esp_graph_node_count(graph) - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int i = 0; i < node->output_count; i++) {
            int v = node->outputs[i];
            if (v >= 0 && state->is_needed[v] && settled(state, v) == NULL)
                state->node_is_kept[n] = true;
        }
        for (int i = 0; state->node_is_kept[n] && i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                state->is_needed[node->inputs[i]] = true;
        }
    }
}

static bool is_graph_input(const esp_graph *graph, int value)
{
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        if (esp_graph_input(graph, i) == value)
            return true;
    }
    return false;
}

/* Inputs first, then constants in the order of the values; made values are named as their nodes come. */
static esp_status add_values(simplify_state *state, esp_error *err)
{
    const esp_graph *graph = state->graph;
    esp_status status = ESP_OK;
    for (int v = 0; v < esp_graph_value_count(graph); v++)
        state->new_values[v] = -1;
    for (int i = 0; status == ESP_OK && i < esp_graph_input_count(graph); i++) {
        int v = esp_graph_input(graph, i);
        const esp_value *value = esp_graph_value(graph, v);
        status = esp_builder_input(state->builder, value->name, value->dtype, &value->shape,
                                   value->batch_name, &state->new_values[v], err);
    }
    for (int v = 0; status == ESP_OK && v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);
        const esp_tensor *tensor = settled(state, v);
        if (state->is_needed[v] && tensor != NULL && !is_graph_input(graph, v))
            status = esp_builder_constant(state->builder, value->name, tensor, &state->new_values[v], err);
    }
    return status;
}

static int most_values(const esp_graph *graph)
{
    int most = 1;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        int count = node->input_count + node->output_count;
        most = count > most ? count : most;
    }
    return most;
}

/* The note that keeps what the file declares about an opaque node's outputs; false when memory is out. */
static bool note_outputs(simplify_state *state, const esp_node *node, esp_attr *out)
{
    int64_t *ints =
        esp_arena_alloc(state->arena, (size_t)node->output_count * (2 + ESP_MAX_RANK) + 1, sizeof *ints);
    int count = 0;
    for (int i = 0; ints != NULL && i < node->output_count; i++) {
        esp_dtype dtype;
        esp_shape shape;
        esp_opaque_declared(state->graph, node, i, &dtype, &shape);
        ints[count++] = dtype;
        ints[count++] = shape.rank;
        for (int d = 0; d < shape.rank; d++)
            ints[count++] = shape.dims[d];
    }
    *out = esp_attr_ints(ESP_OPAQUE_OUTPUTS, ints, count);
    return ints != NULL;
}

/* A node that stays opaque or, for the reason given, becomes so. */
static esp_status add_opaque(simplify_state *state, const esp_node *node, const char *reason,
                             const int *inputs, const int *outputs, esp_error *err)
{
    bool is_new = !esp_op_is_opaque(node->op);
    esp_attr *attrs = esp_arena_alloc(state->arena, (size_t)node->attr_count + 2, sizeof *attrs);
    int count = 0;
    bool has_note = false;
    esp_text name = {0};
    esp_text_printf(&name, "%s%s", is_new ? ESP_OPAQUE_ONNX "::" : "", node->op->name);
    for (int i = 0; attrs != NULL && i < node->attr_count; i++) {
        attrs[count++] = node->attrs[i];
        has_note = has_note || strcmp(node->attrs[i].name, ESP_OPAQUE_OUTPUTS) == 0;
    }
    esp_status status = ESP_OK;
    if (attrs == NULL || name.is_broken || (!has_note && !note_outputs(state, node, &attrs[count++])))
        status = esp_fail_memory(err, "a graph", (size_t)node->attr_count * sizeof *attrs);
    if (status == ESP_OK && is_new)
        attrs[count++] = esp_attr_string(ESP_OPAQUE_REASON, reason);
    if (status == ESP_OK)
        status = esp_builder_node(state->builder, name.data, node->name, inputs, node->input_count, outputs,
                                  node->output_count, attrs, count, err);
    esp_text_free(&name);
    return status;
}

static esp_status add_node(simplify_state *state, int index, int *values, esp_error *err)
{
    const esp_node *node = esp_graph_node(state->graph, index);
    const char *refusal = esp_inferred_refusal(state->one, index);
    int *outputs = values + node->input_count;
    for (int i = 0; i < node->input_count; i++)
        values[i] = node->inputs[i] < 0 ? -1 : state->new_values[node->inputs[i]];
    for (int i = 0; i < node->output_count; i++) {
        int v = node->outputs[i];
        outputs[i] = -1;
        /* A settled output of a kept node is a constant already: the node makes it under no name. */
        if (v < 0 || state->new_values[v] >= 0)
            continue;
        esp_status status = esp_builder_value(state->builder, esp_graph_value(state->graph, v)->name,
                                              &state->new_values[v], err);
        if (status != ESP_OK)
            return status;
        outputs[i] = state->new_values[v];
    }
    if (refusal != NULL || esp_op_is_opaque(node->op))
        return add_opaque(state, node, refusal, values, outputs, err);
    return esp_builder_node(state->builder, node->op->name, node->name, values, node->input_count, outputs,
                            node->output_count, node->attrs, node->attr_count, err);
}

static esp_status add_nodes(simplify_state *state, esp_error *err)
{
    int *values = esp_alloc((size_t)most_values(state->graph), sizeof *values);
    if (values == NULL)
        return esp_fail_memory(err, "a graph", 0);
    esp_status status = ESP_OK;
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(state->graph); n++) {
        if (state->node_is_kept[n])
            status = add_node(state, n, values, err);
    }
    esp_free(values);
    return status;
}

static esp_status add_rest(simplify_state *state, esp_error *err)
{
    const esp_graph *graph = state->graph;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_output_count(graph); i++) {
        int v = esp_graph_output(graph, i);
        const esp_value *value = esp_graph_value(graph, v);
        status = esp_builder_output(state->builder, state->new_values[v], value->dtype,
                                    value->shape.rank < 0 ? NULL : &value->shape, err);
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_metadata_count(graph); i++)
        status = esp_builder_metadata(state->builder, esp_graph_metadata_key(graph, i),
                                      esp_graph_metadata_value(graph, i), err);
    return status;
}

static esp_status infer_twice(simplify_state *state, esp_error *err)
{
    esp_infer_request request = {.graph = state->graph, .batch = 1, .allows_unknown = true};
    /* A file may fix any batch: then it is constant whatever batch is asked for. The first input tells it. */
    if (esp_graph_input_count(state->graph) > 0) {
        const esp_shape *shape = &esp_graph_value(state->graph, esp_graph_input(state->graph, 0))->shape;
        if (shape->rank > 0 && shape->dims[0] > 1)
            request.batch = shape->dims[0];
    }
    esp_status status = esp_infer_run(&request, &state->one, err);
    if (status != ESP_OK)
        return status;
    esp_error ignored = {0};
    request.batch *= 2;
    request.folded = state->one;
    status = esp_infer_run(&request, &state->two, &ignored);
    if (status == ESP_NO_MEMORY && err != NULL)
        *err = ignored;
    return status == ESP_NO_MEMORY ? status : ESP_OK;
}

static esp_status rebuild(simplify_state *state, esp_graph **out, esp_error *err)
{
    const esp_graph *graph = state->graph;
    mark_needed(state);
    esp_status status = esp_builder_new(esp_graph_name(graph), esp_graph_opset(graph),
                                        esp_graph_ir_version(graph), &state->builder, err);
    if (status == ESP_OK)
        status = add_values(state, err);
    if (status == ESP_OK)
        status = add_nodes(state, err);
    if (status == ESP_OK)
        status = add_rest(state, err);
    if (status != ESP_OK)
        return status;
    esp_builder *builder = state->builder;
    state->builder = NULL;
    return esp_builder_finish(builder, out, err);
}

esp_status esp_graph_simplify(const esp_graph *graph, esp_graph **out, esp_error *err)
{
    *out = NULL;
    simplify_state state = {.graph = graph};
    size_t values = (size_t)esp_graph_value_count(graph), nodes = (size_t)esp_graph_node_count(graph);
    state.is_needed = esp_alloc_zero(values, sizeof *state.is_needed);
    state.node_is_kept = esp_alloc_zero(nodes, sizeof *state.node_is_kept);
    state.new_values = esp_alloc(values, sizeof *state.new_values);
    state.arena = esp_arena_new();
    esp_status status = ESP_OK;
    if (state.arena == NULL || state.is_needed == NULL || state.node_is_kept == NULL ||
        state.new_values == NULL)
        status = esp_fail_memory(err, "a graph", values * sizeof *state.new_values);
    if (status == ESP_OK)
        status = infer_twice(&state, err);
    if (status == ESP_OK)
        status = rebuild(&state, out, err);
    esp_builder_free(state.builder);
    esp_inferred_free(state.one);
    esp_inferred_free(state.two);
    esp_free(state.is_needed);
    esp_free(state.node_is_kept);
    esp_free(state.new_values);
    esp_arena_free(state.arena);
    return status;
}
