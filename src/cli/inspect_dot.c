/* The network for Graphviz (the DOT language, https://graphviz.org/doc/info/lang.html). One node of the graph
 * is one box; constants are left out, their elements are counted in the box that reads them. A box whose
 * output's channels all lie in one coupled set has that set's colour. */
#include <math.h>
#include <stdio.h>

#include "base/text.h"
#include "cli/inputs.h"
#include "cli/inspect.h"
#include "graph/op.h"
#include "graph/opaque.h"

/* Inside a quoted string: quotes and backslashes escaped, control characters replaced. */
static void put_text(const char *text)
{
    for (; *text; text++) {
        unsigned char letter = (unsigned char)*text;
        if (letter == '"' || letter == '\\') {
            putchar('\\');
        }
        putchar(letter < 0x20 || letter == 0x7f ? '?' : letter);
    }
}

/* Names need not be UTF-8, DOT must be. */
static void put_name(const char *name)
{
    json_t *text = esp_cli_json_text(name);
    put_text(text ? json_string_value(text) : "?");
    json_decref(text);
}

/* The set that all channels of a value lie in, or -1. */
static int set_of_value(const esp_inspection *it, int value)
{
    int sets[2];
    if (!it->coupling || value < 0) {
        return -1;
    }
    esp_value_slots slots = esp_coupling_value(it->coupling, value);
    if (slots.axis < 0) {
        return -1;
    }
    return esp_inspect_sets(it, slots.slots, slots.count, sets, 2) == 1 ? sets[0] : -1;
}

/* Hues that lie far apart for numbers that lie close together. */
static void put_colour(int set)
{
    double hue = fmod((double)set * 0.6180339887498949, 1.0);
    printf(", fillcolor=\"%.3f 0.30 1.000\", tooltip=\"coupled set %d\"", hue, set);
}

static const esp_layer *layer_at(const esp_inspection *it, int node)
{
    for (int i = 0; i < it->layers.count; i++) {
        if (it->layers.items[i].node == node) {
            return &it->layers.items[i];
        }
    }
    return NULL;
}

/* Elements of the constants that training would change. */
static int64_t params_of(const esp_inspection *it, const esp_node *node)
{
    int64_t total = 0;
    for (int i = 0; i < node->input_count && i < 32; i++) {
        const esp_value *value = node->inputs[i] < 0 ? NULL : esp_graph_value(it->graph, node->inputs[i]);
        bool counts = value && value->constant && (node->op->trainable & (1u << i)) != 0;
        total += counts ? esp_tensor_elements(value->constant) : 0;
    }
    return total;
}

static void put_label(const esp_inspection *it, int index)
{
    const esp_node *node = esp_graph_node(it->graph, index);
    const esp_layer *layer = layer_at(it, index);
    int output = node->output_count > 0 ? node->outputs[0] : -1;
    int64_t params = params_of(it, node);
    char text[128], field[64];
    put_name(node->name);
    printf("\\n");
    put_name(esp_inspect_operator(node));
    if (layer && layer->is_conv) {
        for (int i = 0; i < layer->kernel_rank; i++) {
            printf("%s%lld", i > 0 ? "x" : " ", (long long)layer->kernel[i]);
        }
    }
    if (output >= 0) {
        printf("\\n%s", esp_inspect_shape(it, output, text, sizeof text));
    }
    if (params > 0) {
        printf("\\n%s params", esp_format_count(text, sizeof text, (double)params));
    }
    if (layer && output >= 0 && esp_inspect_has_shape(it, output)) {
        printf("\\n%s MACs", esp_format_count(text, sizeof text, (double)layer->macs));
    }
    if (layer && output >= 0) {
        printf("\\nfield %s", esp_field_format(&it->fields[output], field, sizeof field));
    }
}

static void put_box(const esp_inspection *it, int index)
{
    const esp_node *node = esp_graph_node(it->graph, index);
    int set = node->output_count > 0 ? set_of_value(it, node->outputs[0]) : -1;
    printf("  n%d [label=\"", index);
    put_label(it, index);
    printf("\"");
    if (layer_at(it, index)) {
        printf(", penwidth=2");
    }
    if (esp_op_is_opaque(node->op)) {
        printf(", style=\"filled,dashed\", color=\"red\"");
    }
    if (set >= 0) {
        put_colour(set);
    }
    printf("];\n");
}

static void put_interface(const esp_inspection *it, bool is_output)
{
    int count = is_output ? esp_graph_output_count(it->graph) : esp_graph_input_count(it->graph);
    for (int i = 0; i < count; i++) {
        int value = is_output ? esp_graph_output(it->graph, i) : esp_graph_input(it->graph, i);
        char shape[96];
        printf("  %c%d [shape=ellipse, label=\"", is_output ? 'o' : 'i', i);
        put_name(esp_graph_value(it->graph, value)->name);
        printf("\\n%s\"];\n", esp_inspect_shape(it, value, shape, sizeof shape));
    }
}

/* "n3" for what a node makes, "i0" for an input of the network; false for constants. */
static bool source_name(const esp_inspection *it, int value, char *buffer, size_t size)
{
    int producer = esp_graph_value(it->graph, value)->producer;
    for (int i = 0; producer < 0 && i < esp_graph_input_count(it->graph); i++) {
        if (esp_graph_input(it->graph, i) == value) {
            snprintf(buffer, size, "i%d", i);
            return true;
        }
    }
    snprintf(buffer, size, "n%d", producer);
    return producer >= 0;
}

static void put_edges(const esp_inspection *it)
{
    char source[32];
    for (int n = 0; n < esp_graph_node_count(it->graph); n++) {
        const esp_node *node = esp_graph_node(it->graph, n);
        for (int i = 0; i < node->input_count; i++) {
            if (node->inputs[i] >= 0 && source_name(it, node->inputs[i], source, sizeof source)) {
                printf("  %s -> n%d;\n", source, n);
            }
        }
    }
    for (int i = 0; i < esp_graph_output_count(it->graph); i++) {
        if (source_name(it, esp_graph_output(it->graph, i), source, sizeof source)) {
            printf("  %s -> o%d;\n", source, i);
        }
    }
}

esp_status esp_inspect_print_dot(const esp_inspection *it, esp_error *err)
{
    (void)err; /* what standard output cannot take is found when the command ends */
    printf("digraph \"");
    put_name(esp_graph_name(it->graph));
    printf("\" {\n  node [shape=box, style=filled, fillcolor=\"white\", fontname=\"sans-serif\"];\n");
    put_interface(it, false);
    for (int n = 0; n < esp_graph_node_count(it->graph); n++) {
        put_box(it, n);
    }
    put_interface(it, true);
    put_edges(it);
    printf("}\n");
    return ESP_OK;
}
