/* Roles come from the shape of the graph. A stem is a convolution that no other layer lies before. A shortcut
 * is a 1x1 convolution whose result meets, at an element-wise node, a branch that starts from the same value
 * and passes more layers. Between layers lie operators that carry channels on (normalisation, activation,
 * pooling); a way may pass any of them. */
#include "graph/layer_roles.h"

#include <limits.h>
#include <string.h>

#include "base/memory.h"
#include "graph/flow.h"
#include "graph/op.h"

#define UNREACHED INT_MAX

const char *esp_role_word(esp_role role)
{
    static const char *const words[] = {"body", "stem", "shortcut", "grouped"};

    return words[role];
}

/* The search through the graph, with a scratch number per value. */
typedef struct search {
    const esp_graph *graph;
    esp_flow flow;
    int *layers_from; /* per value: least number of layers on a way from the source */
    bool *is_source;  /* per value */
    bool *is_reached; /* per value: the layer's result, carried on by passages */
} search;

static bool is_layer(const esp_node *node)
{
    return node->op->rule == ESP_CHANNEL_CUT;
}

static bool is_meeting(const search *find, const esp_node *node)
{
    return node->op->rule == ESP_CHANNEL_TIE && esp_flow_input_count(&find->flow, node) > 1;
}

/* A node on the way between layers: one input that is data, channels stay what they are. */
static bool is_passage(const search *find, const esp_node *node)
{
    return (node->op->rule == ESP_CHANNEL_COPY || node->op->rule == ESP_CHANNEL_TIE) &&
           esp_flow_input_count(&find->flow, node) == 1;
}

/* Least number of layers on the ways from the source values to every value; ways through node `avoided` do
 * not count. */
static void count_layers(search *find, int avoided)
{
    const esp_graph *graph = find->graph;

    for (int v = 0; v < esp_graph_value_count(graph); v++)
        find->layers_from[v] = find->is_source[v] ? 0 : UNREACHED;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        int least = UNREACHED;
        for (int i = 0; i < node->input_count; i++)
            if (esp_flow_is_data(&find->flow, node->inputs[i]) && find->layers_from[node->inputs[i]] < least)
                least = find->layers_from[node->inputs[i]];
        if (n == avoided)
            least = UNREACHED;
        else if (least != UNREACHED)
            least += is_layer(node);
        for (int i = 0; i < node->output_count; i++)
            if (node->outputs[i] >= 0 && !find->is_source[node->outputs[i]])
                find->layers_from[node->outputs[i]] = least;
    }
}

/* The values a layer starts from: its input, and those before it up to the next layer or meeting point. */
static void mark_sources(search *find, const esp_node *layer)
{
    memset(find->is_source, 0, (size_t)esp_graph_value_count(find->graph) * sizeof *find->is_source);
    for (int value = esp_flow_input(&find->flow, layer); value >= 0;) {
        int producer = esp_graph_value(find->graph, value)->producer;
        const esp_node *node = producer >= 0 ? esp_graph_node(find->graph, producer) : NULL;
        find->is_source[value] = true;
        value = node && is_passage(find, node) ? esp_flow_input(&find->flow, node) : -1;
    }
}

/* Whether a branch that the layer's result does not come by has passed more layers since the sources than the
 * one. */
static bool meets_longer_branch(const search *find, const esp_node *meeting)
{
    for (int i = 0; i < meeting->input_count; i++) {
        int value = meeting->inputs[i];
        if (esp_flow_is_data(&find->flow, value) && !find->is_reached[value] &&
            find->layers_from[value] != UNREACHED && find->layers_from[value] > 1)
            return true;
    }
    return false;
}

/* Follows a value through passages to the meeting points behind it. */
static bool leads_to_longer_branch(search *find, int value)
{
    const esp_graph *graph = find->graph;

    memset(find->is_reached, 0, (size_t)esp_graph_value_count(graph) * sizeof *find->is_reached);
    find->is_reached[value] = true;
    for (int n = esp_graph_value(graph, value)->producer + 1; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        bool is_behind = false;
        for (int i = 0; i < node->input_count; i++)
            is_behind = is_behind ||
                        (esp_flow_is_data(&find->flow, node->inputs[i]) && find->is_reached[node->inputs[i]]);
        if (is_behind && is_meeting(find, node) && meets_longer_branch(find, node))
            return true;
        if (is_behind && is_passage(find, node))
            find->is_reached[node->outputs[0]] = true;
    }
    return false;
}

static bool is_shortcut(search *find, const esp_layer *layer)
{
    const esp_node *node = esp_graph_node(find->graph, layer->node);

    if (!layer->is_conv || layer->group > 1 || layer->kernel_h != 1 || layer->kernel_w != 1)
        return false;
    mark_sources(find, node);
    count_layers(find, layer->node);
    return leads_to_longer_branch(find, node->outputs[0]);
}

/* Convolutions that no layer lies before are stems; grouped ones stay grouped; all others are body for now.
 */
static void mark_stems(search *find, esp_layers *layers)
{
    const esp_graph *graph = find->graph;

    for (int i = 0; i < esp_graph_input_count(graph); i++)
        find->is_source[esp_graph_input(graph, i)] = true;
    count_layers(find, -1);
    for (int l = 0; l < layers->count; l++) {
        esp_layer *layer = &layers->items[l];
        int value = esp_flow_input(&find->flow, esp_graph_node(graph, layer->node));
        bool is_first = layer->is_conv && value >= 0 && find->layers_from[value] == 0;
        layer->role = layer->group > 1 ? ESP_ROLE_GROUPED : is_first ? ESP_ROLE_STEM : ESP_ROLE_BODY;
    }
}

esp_status esp_layer_roles_find(const esp_graph *graph, esp_layers *layers, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(graph);
    search find = {.graph = graph};
    esp_status status = esp_flow_new(graph, &find.flow, err);

    if (status != ESP_OK)
        return status;
    find.layers_from = esp_alloc(values, sizeof *find.layers_from);
    find.is_source = esp_alloc_zero(values, sizeof *find.is_source);
    find.is_reached = esp_alloc_zero(values, sizeof *find.is_reached);
    if (!find.layers_from || !find.is_source || !find.is_reached) {
        status = esp_fail_memory(err, "the layers' roles", values * sizeof *find.layers_from);
        goto done;
    }
    mark_stems(&find, layers);
    for (int l = 0; l < layers->count; l++)
        if (is_shortcut(&find, &layers->items[l]))
            layers->items[l].role = ESP_ROLE_SHORTCUT;

done:
    esp_flow_free(&find.flow);
    esp_free(find.layers_from);
    esp_free(find.is_source);
    esp_free(find.is_reached);
    return status;
}
