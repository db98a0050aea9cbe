/* From the outputs backwards, in the reverse of the nodes' order: a node is kept when a value it makes is
 * needed and neither given nor known. What is kept is then built anew, as simplification does it. */
#include "graph/extract.h"

#include "base/memory.h"
#include "graph/op.h"

typedef struct extract_state {
    const esp_graph *graph;
    const esp_extract *part;
    bool *is_given, *is_needed, *is_output; /* per value */
    bool *node_is_kept;
    int *new_values;           /* builder index per value, -1 before */
    esp_inferred *one, *two;   /* own, for the shapes of what is given; may be NULL */
    const esp_inferred *first; /* `one`, or what the caller knows */
    esp_builder *builder;
} extract_state;

/* ---- what is needed ---- */

static const char *name_of(const extract_state *state, int value)
{
    return esp_graph_value(state->graph, value)->name;
}

static esp_status check_list(const extract_state *state, const int *values, int count, const char *what,
                             bool *is_listed, esp_error *err)
{
    for (int i = 0; i < count; i++) {
        if (values[i] < 0 || values[i] >= esp_graph_value_count(state->graph))
            return esp_fail(err, ESP_INVALID, "part of graph '%s': %s %d is value %d of %d",
                            esp_graph_name(state->graph), what, i, values[i],
                            esp_graph_value_count(state->graph));
        if (is_listed[values[i]])
            return esp_fail(err, ESP_INVALID, "part of graph '%s': %s '%s' twice",
                            esp_graph_name(state->graph), what, name_of(state, values[i]));
        is_listed[values[i]] = true;
    }
    return ESP_OK;
}

/* The contents of a value that the part need not compute, or NULL. */
static const esp_tensor *contents(const extract_state *state, int value)
{
    if (state->is_given[value])
        return NULL;
    const esp_tensor *constant = esp_graph_value(state->graph, value)->constant;
    return constant != NULL || state->part->known == NULL ? constant
                                                          : esp_inferred_constant(state->part->known, value);
}

/* Whether a needed value has to be made by its node. */
static bool is_made(const extract_state *state, int value)
{
    return !state->is_given[value] && contents(state, value) == NULL;
}

/* Marks what one output needs; `*missing` is a network input that it needs and that is not given, or -1. */
static void mark_output(extract_state *state, int output, int *missing)
{
    const esp_graph *graph = state->graph;
    state->is_needed[output] = true;
    for (int n = esp_graph_node_count(graph) - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int i = 0; i < node->output_count; i++) {
            int v = node->outputs[i];
            if (v >= 0 && state->is_needed[v] && is_made(state, v))
                state->node_is_kept[n] = true;
        }
        for (int i = 0; state->node_is_kept[n] && i < node->input_count; i++) {
            if (node->inputs[i] >= 0)
                state->is_needed[node->inputs[i]] = true;
        }
    }
    *missing = -1;
    for (int i = 0; state->part->given_count > 0 && i < esp_graph_input_count(graph); i++) {
        int v = esp_graph_input(graph, i);
        if (state->is_needed[v] && is_made(state, v))
            *missing = v;
    }
}

static esp_status mark(extract_state *state, esp_error *err)
{
    const esp_extract *part = state->part;
    if (part->output_count < 1)
        return esp_fail(err, ESP_INVALID, "part of graph '%s': no output is asked for",
                        esp_graph_name(state->graph));
    esp_status status = check_list(state, part->given, part->given_count, "given", state->is_given, err);
    if (status == ESP_OK)
        status = check_list(state, part->outputs, part->output_count, "output", state->is_output, err);
    for (int i = 0; status == ESP_OK && i < part->output_count; i++) {
        int missing;
        mark_output(state, part->outputs[i], &missing);
        if (missing >= 0)
            status = esp_fail(err, ESP_INVALID,
                              "part of graph '%s': '%s' cannot be computed from what is given: it needs the "
                              "network input '%s'",
                              esp_graph_name(state->graph), name_of(state, part->outputs[i]),
                              name_of(state, missing));
    }
    return status;
}

/* ---- shapes of what is given ---- */

/* The graph's inputs at the sizes the caller's inference has, their batch open; the batch in `*batch`. */
static void sizes_of_inputs(const extract_state *state, esp_input_shape *shapes, int64_t *batch)
{
    const esp_graph *graph = state->graph;
    *batch = 1;
    for (int i = 0; i < esp_graph_input_count(graph); i++) {
        const esp_value *value = esp_graph_value(graph, esp_graph_input(graph, i));
        shapes[i] = (esp_input_shape){value->name,
                                      *esp_inferred_shape(state->part->known, esp_graph_input(graph, i))};
        bool is_open = value->shape.rank > 0 && value->shape.dims[0] == ESP_DIM_BATCH;
        if (is_open && shapes[i].shape.rank > 0) {
            *batch = shapes[i].shape.dims[0];
            shapes[i].shape.dims[0] = ESP_DIM_BATCH;
        }
    }
}

/* Infers at two batch sizes, as far as that goes: a failure but of memory leaves shapes open. */
static esp_status infer_twice(extract_state *state, esp_error *err)
{
    size_t count = (size_t)esp_graph_input_count(state->graph);
    int64_t batch = 1;
    int shape_count = 0;
    esp_error ignored = {0};
    esp_input_shape *shapes = esp_alloc(count, sizeof *shapes);
    if (shapes == NULL)
        return esp_fail_memory(err, "shapes", count * sizeof *shapes);
    esp_status status = ESP_OK;
    if (state->part->known != NULL) {
        sizes_of_inputs(state, shapes, &batch);
        shape_count = (int)count;
        state->first = state->part->known;
    } else {
        if (count > 0) {
            const esp_shape *shape = &esp_graph_value(state->graph, esp_graph_input(state->graph, 0))->shape;
            batch = shape->rank > 0 && shape->dims[0] > 1 ? shape->dims[0] : 1;
        }
        status = esp_infer(state->graph, batch, NULL, 0, &state->one, &ignored);
        state->first = state->one;
    }
    if (status == ESP_OK)
        status = esp_infer(state->graph, 2 * batch, shapes, shape_count, &state->two, &ignored);
    esp_free(shapes);
    if (status == ESP_NO_MEMORY && err != NULL)
        *err = ignored;
    return status == ESP_NO_MEMORY ? status : ESP_OK;
}

static esp_shape open_shape(const extract_state *state, int value)
{
    const esp_shape *two = state->two == NULL ? NULL : esp_inferred_shape(state->two, value);
    if (state->first == NULL)
        return (esp_shape){.rank = -1};
    esp_shape shape = *esp_inferred_shape(state->first, value);
    if (two == NULL || two->rank != shape.rank)
        return shape;
    const esp_shape *first_input =
        esp_inferred_shape(state->first, esp_graph_input(state->graph, 0)); /* it tells the batch */
    for (int i = 0; i < shape.rank; i++) {
        if (shape.dims[i] == two->dims[i])
            continue;
        bool is_batch = i == 0 && first_input->rank > 0 && shape.dims[0] == first_input->dims[0];
        shape.dims[i] = is_batch ? ESP_DIM_BATCH : ESP_DIM_UNKNOWN;
    }
    return shape;
}

/* ---- building ---- */

static esp_status add_given(extract_state *state, int v, esp_error *err)
{
    const esp_graph *graph = state->graph;
    const esp_value *value = esp_graph_value(graph, v);
    bool is_input = value->producer < 0 && value->constant == NULL;
    esp_dtype dtype = is_input || value->constant != NULL ? value->dtype
                      : state->first != NULL              ? esp_inferred_dtype(state->first, v)
                                                          : value->dtype;
    esp_shape shape = value->producer >= 0 ? open_shape(state, v) : value->shape;
    const char *batch = value->batch_name;
    if (batch == NULL && esp_graph_input_count(graph) > 0)
        batch = esp_graph_value(graph, esp_graph_input(graph, 0))->batch_name;
    return esp_builder_input(state->builder, value->name, dtype, &shape, batch, &state->new_values[v], err);
}

static esp_status add_values(extract_state *state, esp_error *err)
{
    const esp_graph *graph = state->graph;
    const esp_extract *part = state->part;
    esp_status status = ESP_OK;
    for (int v = 0; v < esp_graph_value_count(graph); v++)
        state->new_values[v] = -1;
    for (int i = 0; status == ESP_OK && i < part->given_count; i++)
        status = add_given(state, part->given[i], err);
    for (int i = 0; part->given_count == 0 && status == ESP_OK && i < esp_graph_input_count(graph); i++) {
        int v = esp_graph_input(graph, i);
        if (state->is_needed[v])
            status = add_given(state, v, err);
    }
    for (int v = 0; status == ESP_OK && v < esp_graph_value_count(graph); v++) {
        const esp_tensor *tensor =
            state->is_needed[v] && state->new_values[v] < 0 ? contents(state, v) : NULL;
        if (tensor != NULL)
            status =
                esp_builder_constant(state->builder, name_of(state, v), tensor, &state->new_values[v], err);
    }
    return status;
}

/* `values` has room for the node's inputs and outputs. */
static esp_status add_node(extract_state *state, const esp_node *node, int *values, esp_error *err)
{
    int *outputs = values + node->input_count;
    for (int i = 0; i < node->input_count; i++)
        values[i] = node->inputs[i] < 0 ? -1 : state->new_values[node->inputs[i]];
    for (int i = 0; i < node->output_count; i++) {
        int v = node->outputs[i];
        outputs[i] = -1;
        /* What is given or known is there already: the node makes it under no name. */
        if (v < 0 || state->new_values[v] >= 0)
            continue;
        esp_status status = esp_builder_value(state->builder, name_of(state, v), &state->new_values[v], err);
        if (status != ESP_OK)
            return status;
        outputs[i] = state->new_values[v];
    }
    return esp_builder_node(state->builder, node->op->name, node->name, values, node->input_count, outputs,
                            node->output_count, node->attrs, node->attr_count, err);
}

static esp_status add_nodes(extract_state *state, esp_error *err)
{
    const esp_graph *graph = state->graph;
    int most = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        most = node->input_count + node->output_count > most ? node->input_count + node->output_count : most;
    }
    int *values = esp_alloc((size_t)most, sizeof *values);
    esp_status status = values == NULL ? esp_fail_memory(err, "a graph", 0) : ESP_OK;
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(graph); n++) {
        if (state->node_is_kept[n])
            status = add_node(state, esp_graph_node(graph, n), values, err);
    }
    esp_free(values);
    return status;
}

static esp_status add_outputs(extract_state *state, esp_error *err)
{
    const esp_graph *graph = state->graph;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < state->part->output_count; i++) {
        int v = state->part->outputs[i];
        const esp_value *value = esp_graph_value(graph, v);
        bool is_declared = esp_graph_is_output(graph, v) || value->producer < 0 || state->first == NULL;
        esp_dtype dtype = is_declared ? value->dtype : esp_inferred_dtype(state->first, v);
        esp_shape shape = is_declared ? value->shape : open_shape(state, v);
        status = esp_builder_output(state->builder, state->new_values[v], dtype,
                                    shape.rank < 0 ? NULL : &shape, err);
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_metadata_count(graph); i++)
        status = esp_builder_metadata(state->builder, esp_graph_metadata_key(graph, i),
                                      esp_graph_metadata_value(graph, i), err);
    return status;
}

static esp_status build(extract_state *state, esp_graph **out, esp_error *err)
{
    esp_status status = esp_builder_new(esp_graph_name(state->graph), esp_graph_opset(state->graph),
                                        esp_graph_ir_version(state->graph), &state->builder, err);
    if (status == ESP_OK)
        status = add_values(state, err);
    if (status == ESP_OK)
        status = add_nodes(state, err);
    if (status == ESP_OK)
        status = add_outputs(state, err);
    if (status != ESP_OK)
        return status;
    esp_builder *builder = state->builder;
    state->builder = NULL;
    return esp_builder_finish(builder, out, err);
}

esp_status esp_graph_extract(const esp_graph *graph, const esp_extract *part, esp_graph **out, esp_error *err)
{
    *out = NULL;
    extract_state state = {.graph = graph, .part = part};
    size_t values = (size_t)esp_graph_value_count(graph), nodes = (size_t)esp_graph_node_count(graph);
    state.is_given = esp_alloc_zero(values, sizeof *state.is_given);
    state.is_needed = esp_alloc_zero(values, sizeof *state.is_needed);
    state.is_output = esp_alloc_zero(values, sizeof *state.is_output);
    state.node_is_kept = esp_alloc_zero(nodes, sizeof *state.node_is_kept);
    state.new_values = esp_alloc(values, sizeof *state.new_values);
    esp_status status = ESP_OK;
    if (state.is_given == NULL || state.is_needed == NULL || state.is_output == NULL ||
        state.node_is_kept == NULL || state.new_values == NULL)
        status = esp_fail_memory(err, "a graph", values * sizeof *state.new_values);
    if (status == ESP_OK)
        status = mark(&state, err);
    if (status == ESP_OK)
        status = infer_twice(&state, err);
    if (status == ESP_OK)
        status = build(&state, out, err);
    esp_builder_free(state.builder);
    esp_inferred_free(state.one);
    esp_inferred_free(state.two);
    esp_free(state.is_given);
    esp_free(state.is_needed);
    esp_free(state.is_output);
    esp_free(state.node_is_kept);
    esp_free(state.new_values);
    return status;
}
