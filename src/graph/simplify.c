/* Simplification: shapes are inferred at a batch of 1 and of 2. What comes from constants alone, and what is
 * known and equal at both, becomes a constant; then everything no output needs is left out and the rest is
 * built anew. A model that cannot run at a batch of 2 is fixed to its batch, and all that is known at 1 is
 * constant. */
#include <string.h>

#include "base/memory.h"
#include "graph/infer.h"
#include "graph/infer_internal.h"
#include "graph/op.h"

typedef struct simplify_state {
    const esp_graph *graph;
    esp_inferred *one, *two; /* at batch 1 and 2; two may be NULL */
    bool *is_needed;         /* per value */
    bool *node_is_kept;
    int *new_values; /* builder index per value, -1 before */
    esp_builder *builder;
} simplify_state;

/* The value's contents when they are the same at any batch, else NULL. */
static const esp_tensor *settled(const simplify_state *state, int value)
{
    const esp_tensor *one = esp_inferred_constant(state->one, value);
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

static esp_status add_node(simplify_state *state, const esp_node *node, int *values, esp_error *err)
{
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
            status = add_node(state, esp_graph_node(state->graph, n), values, err);
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
    /* A file may fix any batch: then it is constant whatever batch is asked for. */
    for (int i = 0; i < esp_graph_input_count(state->graph); i++) {
        const esp_shape *shape = &esp_graph_value(state->graph, esp_graph_input(state->graph, i))->shape;
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
    esp_status status = ESP_OK;
    if (state.is_needed == NULL || state.node_is_kept == NULL || state.new_values == NULL)
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
    return status;
}
