/* A graph is a body (names, nodes, edges: never changes once built) plus what may differ between versions of
 * the same network: which tensors the constants are, and the metadata. Versions share the body and every
 * unchanged tensor by reference, so a new version costs one array of values. */
#include "graph/graph.h"

#include <string.h>

#include "base/memory.h"
#include "graph/graph_internal.h"
#include "graph/op.h"

void esp_graph_body_unref(esp_graph_body *body)
{
    if (body == NULL || atomic_fetch_sub(&body->references, 1) != 1)
        return;
    for (int i = 0; i < body->tensor_count; i++)
        esp_tensor_unref(body->tensors[i]);
    esp_free(body->tensors);
    esp_name_table_free(&body->value_names);
    esp_name_table_free(&body->node_names);
    esp_arena_free(body->arena);
    esp_free(body);
}

esp_graph *esp_graph_ref(const esp_graph *graph)
{
    esp_graph *shared = (esp_graph *)graph; /* the count is not part of what is immutable */
    if (shared != NULL)
        atomic_fetch_add(&shared->references, 1);
    return shared;
}

void esp_graph_unref(esp_graph *graph)
{
    if (graph == NULL || atomic_fetch_sub(&graph->references, 1) != 1)
        return;
    for (int i = 0; graph->values != NULL && i < graph->body->value_count; i++)
        esp_tensor_unref((esp_tensor *)graph->values[i].constant);
    esp_free(graph->values);
    esp_metadata_free(&graph->metadata);
    esp_graph_body_unref(graph->body);
    esp_free(graph);
}

const char *esp_graph_name(const esp_graph *graph)
{
    return graph->body->name;
}

int64_t esp_graph_opset(const esp_graph *graph)
{
    return graph->body->opset;
}

int64_t esp_graph_ir_version(const esp_graph *graph)
{
    return graph->body->ir_version;
}

int esp_graph_node_count(const esp_graph *graph)
{
    return graph->body->node_count;
}

const esp_node *esp_graph_node(const esp_graph *graph, int index)
{
    return &graph->body->nodes[index];
}

int esp_graph_value_count(const esp_graph *graph)
{
    return graph->body->value_count;
}

const esp_value *esp_graph_value(const esp_graph *graph, int index)
{
    return &graph->values[index];
}

int esp_graph_input_count(const esp_graph *graph)
{
    return graph->body->input_count;
}

int esp_graph_input(const esp_graph *graph, int index)
{
    return graph->body->inputs[index];
}

int esp_graph_output_count(const esp_graph *graph)
{
    return graph->body->output_count;
}

int esp_graph_output(const esp_graph *graph, int index)
{
    return graph->body->outputs[index];
}

int esp_graph_find_value(const esp_graph *graph, const char *name)
{
    return esp_name_table_find(&graph->body->value_names, name);
}

int esp_graph_find_node(const esp_graph *graph, const char *name)
{
    return esp_name_table_find(&graph->body->node_names, name);
}

int esp_graph_consumer_count(const esp_graph *graph, int value)
{
    const int *starts = graph->body->consumer_starts;
    return starts[value + 1] - starts[value];
}

int esp_graph_consumer(const esp_graph *graph, int value, int index)
{
    return graph->body->consumers[graph->body->consumer_starts[value] + index];
}

bool esp_graph_is_output(const esp_graph *graph, int value)
{
    return graph->body->is_output[value];
}

int esp_graph_metadata_count(const esp_graph *graph)
{
    return graph->metadata.count;
}

const char *esp_graph_metadata_key(const esp_graph *graph, int index)
{
    return graph->metadata.items[index].key;
}

const char *esp_graph_metadata_value(const esp_graph *graph, int index)
{
    return graph->metadata.items[index].value;
}

const char *esp_graph_metadata(const esp_graph *graph, const char *key)
{
    return esp_metadata_find(&graph->metadata, key);
}

/* ---- versions ---- */

/* A graph with the same body, constants and metadata, and one reference. */
static esp_status graph_copy(const esp_graph *graph, esp_graph **out, esp_error *err)
{
    size_t value_count = (size_t)graph->body->value_count;
    esp_graph *copy = esp_alloc_zero(1, sizeof *copy);
    esp_value *values = esp_alloc(value_count, sizeof *values);
    if (copy == NULL || values == NULL || !esp_metadata_copy(&copy->metadata, &graph->metadata)) {
        esp_free(copy);
        esp_free(values);
        return esp_fail_memory(err, "a graph", value_count * sizeof *values);
    }
    atomic_init(&copy->references, 1);
    memcpy(values, graph->values, value_count * sizeof *values);
    for (size_t i = 0; i < value_count; i++)
        esp_tensor_ref(values[i].constant);
    copy->values = values;
    copy->body = graph->body;
    atomic_fetch_add(&copy->body->references, 1);
    *out = copy;
    return ESP_OK;
}

static esp_status check_constant(const esp_graph *graph, int value, const esp_tensor *tensor, esp_error *err)
{
    if (value < 0 || value >= graph->body->value_count || graph->values[value].constant == NULL)
        return esp_fail(err, ESP_INVALID, "value %d of graph '%s' is not a constant", value,
                        graph->body->name);
    const esp_tensor *old = graph->values[value].constant;
    char old_text[96], new_text[96];
    if (esp_tensor_dtype(old) != esp_tensor_dtype(tensor) ||
        !esp_shape_equal(esp_tensor_shape(old), esp_tensor_shape(tensor)))
        return esp_fail(err, ESP_SHAPE, "constant '%s' is %s %s, its new tensor is %s %s",
                        graph->values[value].name, esp_dtype_name(esp_tensor_dtype(old)),
                        esp_shape_format(esp_tensor_shape(old), old_text, sizeof old_text),
                        esp_dtype_name(esp_tensor_dtype(tensor)),
                        esp_shape_format(esp_tensor_shape(tensor), new_text, sizeof new_text));
    return ESP_OK;
}

esp_status esp_graph_with_constants(const esp_graph *graph, int count, const int *values,
                                    esp_tensor *const *tensors, esp_graph **out, esp_error *err)
{
    *out = NULL;
    for (int i = 0; i < count; i++) {
        esp_status status = check_constant(graph, values[i], tensors[i], err);
        if (status != ESP_OK)
            return status;
    }
    esp_graph *copy;
    esp_status status = graph_copy(graph, &copy, err);
    if (status != ESP_OK)
        return status;
    for (int i = 0; i < count; i++) {
        esp_value *value = &copy->values[values[i]];
        esp_tensor *old = (esp_tensor *)value->constant;
        value->constant = esp_tensor_ref(tensors[i]);
        esp_tensor_unref(old);
    }
    *out = copy;
    return ESP_OK;
}

esp_status esp_graph_with_metadata(const esp_graph *graph, const char *key, const char *value,
                                   esp_graph **out, esp_error *err)
{
    *out = NULL;
    if (key == NULL || key[0] == '\0')
        return esp_fail(err, ESP_INVALID, "a metadata entry of graph '%s' needs a key", graph->body->name);
    esp_graph *copy;
    esp_status status = graph_copy(graph, &copy, err);
    if (status != ESP_OK)
        return status;
    if (!esp_metadata_set(&copy->metadata, key, value)) {
        esp_graph_unref(copy);
        return esp_fail_memory(err, "metadata", strlen(key));
    }
    *out = copy;
    return ESP_OK;
}

/* ---- attributes ---- */

static const esp_attr *find_attr(const esp_attr *attrs, int count, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(attrs[i].name, name) == 0)
            return &attrs[i];
    }
    return NULL;
}

const esp_attr *esp_node_attr(const esp_node *node, const char *name)
{
    const esp_attr *attr = find_attr(node->attrs, node->attr_count, name);
    return attr != NULL ? attr : find_attr(node->defaults, node->default_count, name);
}

int64_t esp_node_int(const esp_node *node, const char *name, int64_t otherwise)
{
    const esp_attr *attr = esp_node_attr(node, name);
    return attr != NULL && attr->type == ESP_ATTR_INT ? attr->i : otherwise;
}

float esp_node_float(const esp_node *node, const char *name, float otherwise)
{
    const esp_attr *attr = esp_node_attr(node, name);
    return attr != NULL && attr->type == ESP_ATTR_FLOAT ? attr->f : otherwise;
}

const char *esp_node_string(const esp_node *node, const char *name, const char *otherwise)
{
    const esp_attr *attr = esp_node_attr(node, name);
    return attr != NULL && attr->type == ESP_ATTR_STRING ? attr->s : otherwise;
}

int esp_node_ints(const esp_node *node, const char *name, int64_t *out, int max)
{
    const esp_attr *attr = esp_node_attr(node, name);
    if (attr == NULL || attr->type != ESP_ATTR_INTS)
        return 0;
    for (int i = 0; i < attr->count && i < max; i++)
        out[i] = attr->ints[i];
    return attr->count;
}

esp_attr esp_attr_int(const char *name, int64_t value)
{
    return (esp_attr){.name = name, .type = ESP_ATTR_INT, .i = value};
}

esp_attr esp_attr_float(const char *name, float value)
{
    return (esp_attr){.name = name, .type = ESP_ATTR_FLOAT, .f = value};
}

esp_attr esp_attr_string(const char *name, const char *value)
{
    return (esp_attr){.name = name, .type = ESP_ATTR_STRING, .s = value};
}

esp_attr esp_attr_ints(const char *name, const int64_t *values, int count)
{
    return (esp_attr){.name = name, .type = ESP_ATTR_INTS, .count = count, .ints = values};
}
