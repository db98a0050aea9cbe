/* Nodes are copied in order into a builder; `index_of` says which value of the new graph stands for a value
 * of the old one, so what reads a gated value or a left-out Dropout's output reads the right thing by itself.
 */
#include "train/probe.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "graph/opaque.h"

enum { MOST_ATTRS = 64 };

typedef struct copier {
    const esp_graph *graph;
    const esp_probe_request *request;
    esp_builder *builder;
    int *index_of; /* per old value: builder index, or -1 */
    int *gate_at;  /* per old value: index of its gate, or -1 */
} copier;

static esp_status allocate(copier *c, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(c->graph);
    c->index_of = esp_alloc(values, sizeof *c->index_of);
    c->gate_at = esp_alloc(values, sizeof *c->gate_at);
    if (c->index_of == NULL || c->gate_at == NULL)
        return esp_fail_memory(err, "a copy of the network", values * sizeof *c->index_of);
    for (size_t v = 0; v < values; v++)
        c->index_of[v] = c->gate_at[v] = -1;
    for (int i = 0; i < c->request->gate_count; i++)
        c->gate_at[c->request->gates[i].value] = i;
    return ESP_OK;
}

/* ---- values ---- */

/* Evaluation hands its input on, so the node can be left out, unless its other output is read. */
static bool is_left_out(const copier *c, const esp_node *node)
{
    if ((node->op->flags & ESP_OP_EVAL_VIEW) == 0 || node->outputs[0] < 0 ||
        esp_graph_is_output(c->graph, node->outputs[0]) || c->gate_at[node->outputs[0]] >= 0)
        return false;
    for (int i = 1; i < node->output_count; i++) {
        int v = node->outputs[i];
        if (v >= 0 && (esp_graph_consumer_count(c->graph, v) > 0 || esp_graph_is_output(c->graph, v)))
            return false;
    }
    return true;
}

/* Every value that a node makes gets its name before gates look for free ones. */
static esp_status name_values(copier *c, const esp_node *node, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        int v = node->outputs[i];
        if (v >= 0)
            status = esp_builder_value(c->builder, esp_graph_value(c->graph, v)->name, &c->index_of[v], err);
    }
    return status;
}

static esp_status copy_values(copier *c, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_input_count(c->graph); i++) {
        int v = esp_graph_input(c->graph, i);
        const esp_value *value = esp_graph_value(c->graph, v);
        status = esp_builder_input(c->builder, value->name, value->dtype, &value->shape, value->batch_name,
                                   &c->index_of[v], err);
    }
    for (int v = 0; status == ESP_OK && v < esp_graph_value_count(c->graph); v++) {
        const esp_value *value = esp_graph_value(c->graph, v);
        if (value->constant != NULL)
            status = esp_builder_constant(c->builder, value->name, value->constant, &c->index_of[v], err);
    }
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(c->graph); n++) {
        const esp_node *node = esp_graph_node(c->graph, n);
        if (!is_left_out(c, node))
            status = name_values(c, node, err);
    }
    return status;
}

/* The inputs are made before any node, in the order the header promises. */
static esp_status make_gate_input(copier *c, const esp_probe_gate *gate, const char *what, int *out,
                                  esp_error *err)
{
    const char *base = esp_graph_value(c->graph, gate->value)->name;
    const esp_shape *shape = esp_inferred_shape(c->request->inferred, gate->value);
    esp_shape own = {.rank = shape->rank};
    char wanted[256];
    for (int i = 0; i < own.rank; i++)
        own.dims[i] = i == 0 ? ESP_DIM_BATCH : i == gate->axis ? shape->dims[i] : 1;
    snprintf(wanted, sizeof wanted, "%.200s/%s", base, what);
    const char *name = esp_builder_unique_name(c->builder, wanted);
    if (name == NULL)
        return esp_fail_memory(err, "a copy of the network", 0);
    return esp_builder_input(c->builder, name, ESP_F32, &own, NULL, out, err);
}

static esp_status make_gate_inputs(copier *c, int *inputs, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < c->request->gate_count; i++) {
        const esp_probe_gate *gate = &c->request->gates[i];
        status = make_gate_input(c, gate, "gate", &inputs[2 * i], err);
        if (status == ESP_OK && gate->is_shifted)
            status = make_gate_input(c, gate, "shift", &inputs[2 * i + 1], err);
    }
    return status;
}

/* ---- nodes ---- */

static esp_status add_gate(copier *c, int value, const int *inputs, esp_error *err)
{
    int index = c->gate_at[value];
    const esp_probe_gate *gate = &c->request->gates[index];
    const int factors[2] = {c->index_of[value], inputs[2 * index]};
    int made = -1;
    esp_status status = esp_builder_add(c->builder, "Mul", NULL, factors, 2, NULL, 0, NULL, &made, err);
    if (status == ESP_OK && gate->is_shifted) {
        const int terms[2] = {made, inputs[2 * index + 1]};
        status = esp_builder_add(c->builder, "Add", NULL, terms, 2, NULL, 0, NULL, &made, err);
    }
    if (status == ESP_OK)
        c->index_of[value] = made;
    return status;
}

/* The node's attributes, and momentum 0 for a batch-norm that is to tell what it sees: running = running * 0
 * + batch * 1. */
static int list_attrs(const copier *c, const esp_node *node, esp_attr *attrs)
{
    int count = 0;
    bool measures = c->request->measures_norms && node->op->running != 0;
    for (int i = 0; i < node->attr_count && count < MOST_ATTRS - 1; i++) {
        if (!measures || strcmp(node->attrs[i].name, "momentum") != 0)
            attrs[count++] = node->attrs[i];
    }
    if (measures)
        attrs[count++] = esp_attr_float("momentum", 0.0f);
    return count;
}

static esp_status copy_node(copier *c, const esp_node *node, int *places, const int *gate_inputs,
                            esp_error *err)
{
    esp_attr attrs[MOST_ATTRS];
    int *outputs = places + node->input_count;
    if (is_left_out(c, node)) {
        c->index_of[node->outputs[0]] = c->index_of[node->inputs[0]];
        return ESP_OK;
    }
    for (int i = 0; i < node->input_count; i++)
        places[i] = node->inputs[i] < 0 ? -1 : c->index_of[node->inputs[i]];
    for (int i = 0; i < node->output_count; i++)
        outputs[i] = node->outputs[i] < 0 ? -1 : c->index_of[node->outputs[i]];
    esp_status status = esp_builder_node(c->builder, node->op->name, node->name, places, node->input_count,
                                         outputs, node->output_count, attrs, list_attrs(c, node, attrs), err);
    for (int i = 0; status == ESP_OK && i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && c->gate_at[node->outputs[i]] >= 0)
            status = add_gate(c, node->outputs[i], gate_inputs, err);
    }
    return status;
}

static int most_places(const esp_graph *graph)
{
    int most = 1;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        int count = node->input_count + node->output_count;
        most = count > most ? count : most;
    }
    return most;
}

static esp_status copy_nodes(copier *c, const int *gate_inputs, esp_error *err)
{
    esp_status status = ESP_OK;
    int *places = esp_alloc((size_t)most_places(c->graph), sizeof *places);
    if (places == NULL)
        return esp_fail_memory(err, "a copy of the network", sizeof *places);
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(c->graph); n++)
        status = copy_node(c, esp_graph_node(c->graph, n), places, gate_inputs, err);
    esp_free(places);
    return status;
}

/* ---- the whole ---- */

static esp_status add_outputs(copier *c, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_output_count(c->graph); i++) {
        int v = esp_graph_output(c->graph, i);
        status =
            esp_builder_output(c->builder, c->index_of[v], esp_graph_value(c->graph, v)->dtype, NULL, err);
    }
    return status;
}

static esp_status copy_graph(copier *c, esp_error *err)
{
    int *gate_inputs = esp_alloc(2 * (size_t)c->request->gate_count, sizeof *gate_inputs);
    esp_status status =
        gate_inputs == NULL ? esp_fail_memory(err, "a copy of the network", sizeof *gate_inputs) : ESP_OK;
    if (status == ESP_OK)
        status = esp_builder_new(esp_graph_name(c->graph), esp_graph_opset(c->graph),
                                 esp_graph_ir_version(c->graph), &c->builder, err);
    if (status == ESP_OK)
        status = copy_values(c, err);
    if (status == ESP_OK)
        status = make_gate_inputs(c, gate_inputs, err);
    if (status == ESP_OK)
        status = copy_nodes(c, gate_inputs, err);
    if (status == ESP_OK)
        status = add_outputs(c, err);
    esp_free(gate_inputs);
    return status;
}

esp_status esp_probe_new(const esp_graph *graph, const esp_probe_request *request, esp_graph **out,
                         esp_error *err)
{
    copier c = {.graph = graph, .request = request};
    *out = NULL;
    esp_status status = esp_opaque_check(graph, err);
    if (status == ESP_OK)
        status = allocate(&c, err);
    if (status == ESP_OK)
        status = copy_graph(&c, err);
    if (status == ESP_OK)
        status = esp_builder_finish(c.builder, out, err);
    else
        esp_builder_free(c.builder);
    esp_free(c.index_of);
    esp_free(c.gate_at);
    return status;
}
