/* Finishing a graph: the nodes are sorted depth first in the given order, so that a sorted list keeps its
 * order, the whole is checked, and the arena goes over to the graph. Value indices stay what they were in the
 * builder; node indices follow the sorted order. */
#include <string.h>

#include "base/memory.h"
#include "graph/builder_internal.h"
#include "graph/op.h"

static esp_status check_defined(const esp_builder *builder, esp_error *err)
{
    for (int n = 0; n < builder->node_count; n++) {
        const esp_node *node = &builder->nodes[n];
        for (int i = 0; i < node->input_count; i++) {
            const esp_value_draft *draft = node->inputs[i] < 0 ? NULL : &builder->values[node->inputs[i]];
            if (draft != NULL && !draft->is_input && draft->value.constant == NULL &&
                draft->value.producer < 0)
                return esp_fail(err, ESP_FORMAT, "node '%s' (%s) reads '%s', which nothing makes", node->name,
                                node->op->name, draft->value.name);
        }
    }
    for (int v = 0; v < builder->value_count; v++) {
        const esp_value_draft *draft = &builder->values[v];
        if (!draft->is_input && draft->value.constant == NULL && draft->value.producer < 0)
            return esp_fail(err, ESP_FORMAT, "graph '%s': %s '%s' is made by no node", builder->name,
                            draft->is_output ? "output" : "value", draft->value.name);
    }
    if (builder->output_count == 0)
        return esp_fail(err, ESP_FORMAT, "graph '%s' has no output", builder->name);
    return ESP_OK;
}

/* Depth-first order with an explicit stack. `marks`: 0 not met, 1 open, 2 placed. `cursors`: next input to
 * visit. */
typedef struct sort_state {
    const esp_builder *builder;
    unsigned char *marks;
    int *cursors, *stack, *order;
    int depth, placed;
} sort_state;

/* Visits the node on top of the stack: pushes its next unplaced producer or places it. */
static esp_status sort_step(sort_state *state, esp_error *err)
{
    int top = state->stack[state->depth - 1];
    const esp_node *node = &state->builder->nodes[top];
    while (state->cursors[top] < node->input_count) {
        int value = node->inputs[state->cursors[top]++];
        int producer = value < 0 ? -1 : state->builder->values[value].value.producer;
        if (producer < 0 || state->marks[producer] == 2)
            continue;
        if (state->marks[producer] == 1)
            return esp_fail(err, ESP_FORMAT, "node '%s' (%s) is part of a cycle through '%s'", node->name,
                            node->op->name, state->builder->values[value].value.name);
        state->marks[producer] = 1;
        state->stack[state->depth++] = producer;
        return ESP_OK;
    }
    state->marks[top] = 2;
    state->order[state->placed++] = top;
    state->depth--;
    return ESP_OK;
}

/* order[i] = builder index of the i-th node. */
static esp_status sort_nodes(const esp_builder *builder, int *order, esp_error *err)
{
    size_t count = (size_t)builder->node_count;
    sort_state state = {.builder = builder, .order = order};
    state.marks = esp_alloc_zero(count, sizeof *state.marks);
    state.cursors = esp_alloc_zero(count, sizeof *state.cursors);
    state.stack = esp_alloc(count, sizeof *state.stack);
    esp_status status = ESP_OK;
    if (state.marks == NULL || state.cursors == NULL || state.stack == NULL)
        status = esp_builder_no_memory(err);
    for (int n = 0; status == ESP_OK && n < builder->node_count; n++) {
        if (state.marks[n] != 0)
            continue;
        state.marks[n] = 1;
        state.stack[state.depth++] = n;
        while (status == ESP_OK && state.depth > 0)
            status = sort_step(&state, err);
    }
    esp_free(state.marks);
    esp_free(state.cursors);
    esp_free(state.stack);
    return status;
}

/* Compressed lists of the nodes that read each value, each node once. */
static bool list_consumers(esp_arena *arena, esp_graph_body *body)
{
    int *starts = esp_arena_alloc(arena, (size_t)body->value_count + 2, sizeof *starts);
    int *last_reader = esp_alloc_zero((size_t)body->value_count, sizeof *last_reader); /* node + 1 */
    size_t read_count = 0;
    for (int n = 0; n < body->node_count; n++)
        read_count += (size_t)body->nodes[n].input_count;
    int *consumers = esp_arena_alloc(arena, read_count + 1, sizeof *consumers);
    if (starts == NULL || consumers == NULL || last_reader == NULL) {
        esp_free(last_reader);
        return false;
    }
    /* First pass: counts, two places to the right. Second pass: starts[v + 1] moves from start to end of v.
     */
    for (int pass = 0; pass < 2; pass++) {
        for (int n = 0; n < body->node_count; n++) {
            const esp_node *node = &body->nodes[n];
            for (int i = 0; i < node->input_count; i++) {
                int value = node->inputs[i];
                if (value < 0 || last_reader[value] == n + 1)
                    continue;
                last_reader[value] = n + 1;
                if (pass == 0)
                    starts[value + 2]++;
                else
                    consumers[starts[value + 1]++] = n;
            }
        }
        for (int v = 0; pass == 0 && v < body->value_count; v++) {
            starts[v + 2] += starts[v + 1];
            last_reader[v] = 0;
        }
    }
    esp_free(last_reader);
    body->consumer_starts = starts;
    body->consumers = consumers;
    return true;
}

/* Fills the body with copies in the builder's arena, which it does not take yet. */
static bool fill_body(esp_builder *builder, const int *order, esp_graph_body *body, esp_value *values)
{
    esp_arena *arena = builder->arena;
    esp_node *nodes = esp_arena_alloc(arena, (size_t)builder->node_count + 1, sizeof *nodes);
    bool *is_output = esp_arena_alloc(arena, (size_t)builder->value_count + 1, sizeof *is_output);
    body->inputs =
        esp_arena_copy(arena, builder->inputs, (size_t)builder->input_count * sizeof *body->inputs);
    body->outputs =
        esp_arena_copy(arena, builder->outputs, (size_t)builder->output_count * sizeof *body->outputs);
    if (nodes == NULL || is_output == NULL || body->inputs == NULL || body->outputs == NULL)
        return false;
    for (int v = 0; v < builder->value_count; v++) {
        values[v] = builder->values[v].value;
        is_output[v] = builder->values[v].is_output;
    }
    for (int n = 0; n < builder->node_count; n++) {
        nodes[n] = builder->nodes[order[n]];
        for (int i = 0; i < nodes[n].output_count; i++) {
            if (nodes[n].outputs[i] >= 0)
                values[nodes[n].outputs[i]].producer = n;
        }
        if (!esp_name_table_add(&body->node_names, nodes[n].name, n))
            return false;
    }
    body->name = builder->name;
    body->opset = builder->opset;
    body->ir_version = builder->ir_version;
    body->node_count = builder->node_count;
    body->nodes = nodes;
    body->value_count = builder->value_count;
    body->input_count = builder->input_count;
    body->output_count = builder->output_count;
    body->is_output = is_output;
    return list_consumers(arena, body);
}

/* Moves everything that holds references from the builder to the graph. */
static void hand_over(esp_builder *builder, esp_graph *graph)
{
    esp_graph_body *body = graph->body;
    body->arena = builder->arena;
    body->value_names = builder->value_names;
    body->tensors = builder->tensors;
    body->tensor_count = builder->tensor_count;
    graph->metadata = builder->metadata;
    builder->arena = NULL;
    builder->value_names = (esp_name_table){0};
    builder->tensors = NULL;
    builder->tensor_count = 0;
    builder->metadata = (esp_metadata_list){0};
    builder->value_count = 0; /* the constants' references are the graph's now */
}

esp_status esp_builder_finish(esp_builder *take_builder, esp_graph **out, esp_error *err)
{
    esp_builder *builder = take_builder;
    *out = NULL;
    int *order = esp_alloc((size_t)builder->node_count, sizeof *order);
    esp_graph *graph = esp_alloc_zero(1, sizeof *graph);
    esp_graph_body *body = esp_alloc_zero(1, sizeof *body);
    esp_value *values = esp_alloc((size_t)builder->value_count, sizeof *values);
    esp_status status = ESP_OK;
    if (order == NULL || graph == NULL || body == NULL || values == NULL)
        status = esp_builder_no_memory(err);
    if (status == ESP_OK)
        status = check_defined(builder, err);
    if (status == ESP_OK)
        status = sort_nodes(builder, order, err);
    if (status == ESP_OK && !fill_body(builder, order, body, values))
        status = esp_builder_no_memory(err);
    if (status == ESP_OK) {
        atomic_init(&graph->references, 1);
        atomic_init(&body->references, 1);
        graph->body = body;
        graph->values = values;
        hand_over(builder, graph);
        *out = graph;
    } else {
        if (body != NULL)
            esp_name_table_free(&body->node_names);
        esp_free(values);
        esp_free(body);
        esp_free(graph);
    }
    esp_free(order);
    esp_builder_free(builder);
    return status;
}
