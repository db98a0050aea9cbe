/* One walk in topological order. */
#include "graph/flow.h"

#include "base/memory.h"
#include "graph/op.h"

esp_status esp_flow_new(const esp_graph *graph, esp_flow *out, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(graph);
    esp_flow flow = {graph, esp_alloc_zero(values, sizeof *flow.is_data)};

    *out = (esp_flow){0};
    if (!flow.is_data)
        return esp_fail_memory(err, "the data flow", values);
    for (int i = 0; i < esp_graph_input_count(graph); i++)
        flow.is_data[esp_graph_input(graph, i)] = true;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        bool is_data = esp_flow_passes(&flow, node);
        for (int i = 0; i < node->output_count; i++)
            if (node->outputs[i] >= 0)
                flow.is_data[node->outputs[i]] = is_data;
    }
    *out = flow;
    return ESP_OK;
}

void esp_flow_free(esp_flow *flow)
{
    if (!flow)
        return;
    esp_free(flow->is_data);
    *flow = (esp_flow){0};
}

bool esp_flow_is_data(const esp_flow *flow, int value)
{
    return value >= 0 && flow->is_data[value];
}

int esp_flow_input_count(const esp_flow *flow, const esp_node *node)
{
    int count = 0;

    for (int i = 0; i < node->input_count; i++)
        count += esp_flow_is_data(flow, node->inputs[i]);
    return count;
}

int esp_flow_input(const esp_flow *flow, const esp_node *node)
{
    for (int i = 0; i < node->input_count; i++)
        if (esp_flow_is_data(flow, node->inputs[i]))
            return node->inputs[i];
    return -1;
}

bool esp_flow_passes(const esp_flow *flow, const esp_node *node)
{
    return !(node->op->flags & ESP_OP_SHAPE_ONLY) && esp_flow_input_count(flow, node) > 0;
}
