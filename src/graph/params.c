/* Trainable tensors and running statistics in one list, in the order in which the network's nodes read them.
 * Data and gradients are separate blocks per tensor, so that pointers stay where they are for executors to
 * hold. */
#include "graph/params.h"

#include <string.h>

#include "base/memory.h"
#include "graph/op.h"

struct esp_params {
    esp_graph *graph;
    int count;
    esp_param *items;
    int *index_of_value; /* per value of the graph, -1 when it is no parameter */
    uint64_t generation;
};

void esp_params_free(esp_params *params)
{
    if (params == NULL)
        return;
    for (int i = 0; i < params->count; i++) {
        esp_free(params->items[i].data);
        esp_free(params->items[i].grad);
    }
    esp_free(params->items);
    esp_free(params->index_of_value);
    esp_graph_unref(params->graph);
    esp_free(params);
}

int esp_params_count(const esp_params *params)
{
    return params->count;
}

esp_param *esp_params_at(esp_params *params, int index)
{
    return &params->items[index];
}

int esp_params_find(const esp_params *params, int value)
{
    return params->index_of_value[value];
}

/* Input position of a node's layer weight, or -1. */
static int weight_input(const esp_node *node)
{
    esp_layer_form form;
    if (node->op->layer == NULL || !node->op->layer(node, &form))
        return -1;
    return form.weight_input;
}

static bool is_param(const esp_graph *graph, const esp_node *node, int input, bool *is_running)
{
    unsigned bit = input < 32 ? 1u << input : 0u;
    *is_running = (node->op->running & bit) != 0;
    if (((node->op->trainable | node->op->running) & bit) == 0 || node->inputs[input] < 0)
        return false;
    const esp_value *value = esp_graph_value(graph, node->inputs[input]);
    return value->constant != NULL && value->dtype == ESP_F32;
}

static esp_status add_param(esp_params *params, int v, bool is_running, bool is_weight, esp_error *err)
{
    const esp_value *value = esp_graph_value(params->graph, v);
    int64_t elements = esp_tensor_elements(value->constant);
    size_t bytes = (size_t)elements * sizeof(float);
    esp_param *param = &params->items[params->count];
    *param = (esp_param){.value = v,
                         .name = value->name,
                         .is_running = is_running,
                         .is_weight = is_weight,
                         .elements = elements,
                         .shape = &value->shape};
    params->index_of_value[v] = params->count++;
    param->data = esp_alloc((size_t)elements, sizeof(float));
    if (!is_running)
        param->grad = esp_alloc_zero((size_t)elements, sizeof(float));
    if (param->data == NULL || (!is_running && param->grad == NULL))
        return esp_fail_memory(err, value->name, bytes);
    memcpy(param->data, esp_tensor_f32(value->constant), bytes);
    return ESP_OK;
}

/* A value that several nodes share keeps the role of the first; a weight anywhere is a weight. */
static esp_status add_node_params(esp_params *params, const esp_node *node, esp_error *err)
{
    int weight = weight_input(node);
    for (int i = 0; i < node->input_count; i++) {
        bool is_running;
        if (!is_param(params->graph, node, i, &is_running))
            continue;
        int at = params->index_of_value[node->inputs[i]];
        if (at >= 0) {
            params->items[at].is_weight = params->items[at].is_weight || (i == weight && !is_running);
            continue;
        }
        esp_status status = add_param(params, node->inputs[i], is_running, i == weight, err);
        if (status != ESP_OK)
            return status;
    }
    return ESP_OK;
}

esp_status esp_params_new(const esp_graph *graph, esp_params **out, esp_error *err)
{
    *out = NULL;
    int values = esp_graph_value_count(graph), constants = 0;
    for (int v = 0; v < values; v++)
        constants += esp_graph_value(graph, v)->constant != NULL;
    esp_params *params = esp_alloc_zero(1, sizeof *params);
    if (params == NULL)
        return esp_fail_memory(err, "parameters", sizeof *params);
    params->graph = esp_graph_ref(graph);
    params->generation = 1;
    params->items = esp_alloc_zero((size_t)constants, sizeof *params->items);
    params->index_of_value = esp_alloc((size_t)values, sizeof *params->index_of_value);
    esp_status status = ESP_OK;
    if (params->items == NULL || params->index_of_value == NULL)
        status = esp_fail_memory(err, "parameters", (size_t)constants * sizeof *params->items);
    for (int v = 0; status == ESP_OK && v < values; v++)
        params->index_of_value[v] = -1;
    for (int n = 0; status == ESP_OK && n < esp_graph_node_count(graph); n++)
        status = add_node_params(params, esp_graph_node(graph, n), err);
    if (status == ESP_OK)
        *out = params;
    else
        esp_params_free(params);
    return status;
}

void esp_params_touch(esp_params *params)
{
    params->generation++;
}

uint64_t esp_params_generation(const esp_params *params)
{
    return params->generation;
}

void esp_params_copy(esp_params *target, const esp_params *source)
{
    esp_params_touch(target);
    for (int i = 0; i < target->count; i++)
        memcpy(target->items[i].data, source->items[i].data,
               (size_t)target->items[i].elements * sizeof(float));
}

esp_status esp_params_to_graph(const esp_params *params, esp_graph **out, esp_error *err)
{
    *out = NULL;
    size_t count = (size_t)params->count;
    int *values = esp_alloc(count, sizeof *values);
    esp_tensor **tensors = esp_alloc_zero(count, sizeof *tensors);
    esp_status status = ESP_OK;
    int changed = 0;
    if (values == NULL || tensors == NULL)
        status = esp_fail_memory(err, "a graph", count * sizeof *tensors);
    for (int i = 0; status == ESP_OK && i < params->count; i++) {
        const esp_param *param = &params->items[i];
        const esp_tensor *old = esp_graph_value(params->graph, param->value)->constant;
        if (memcmp(esp_tensor_data(old), param->data, (size_t)param->elements * sizeof(float)) == 0)
            continue; /* untouched tensors stay shared */
        status = esp_tensor_from(ESP_F32, param->shape, param->data, &tensors[changed], err);
        values[changed] = param->value;
        changed += status == ESP_OK;
    }
    if (status == ESP_OK)
        status = esp_graph_with_constants(params->graph, changed, values, tensors, out, err);
    for (int i = 0; i < changed; i++)
        esp_tensor_unref(tensors[i]);
    esp_free(values);
    esp_free(tensors);
    return status;
}
