/* Everything is mixed in, in the graph's own order: two graphs with one fingerprint have the same numbering
 * of values too. */
#include "graph/fingerprint.h"

#include "base/hash.h"
#include "graph/op.h"

static uint64_t mix_tensor(uint64_t hash, const esp_tensor *tensor)
{
    const esp_shape *shape = esp_tensor_shape(tensor);
    esp_dtype dtype = esp_tensor_dtype(tensor);

    hash = esp_hash_word(esp_hash_word(hash, (uint64_t)dtype), (uint64_t)shape->rank);
    hash = esp_hash_bytes(hash, shape->dims, (size_t)shape->rank * sizeof *shape->dims);
    return esp_hash_bytes(hash, esp_tensor_data(tensor),
                          (size_t)esp_tensor_elements(tensor) * esp_dtype_size(dtype));
}

static uint64_t mix_attr(uint64_t hash, const esp_attr *attr)
{
    hash = esp_hash_word(esp_hash_text(hash, attr->name), (uint64_t)attr->type);
    hash = esp_hash_word(hash, (uint64_t)attr->i);
    hash = esp_hash_bytes(hash, &attr->f, sizeof attr->f);
    if (attr->s)
        hash = attr->type == ESP_ATTR_BYTES ? esp_hash_bytes(hash, attr->s, (size_t)attr->count)
                                            : esp_hash_text(hash, attr->s);
    if (attr->tensor)
        hash = mix_tensor(hash, attr->tensor);
    if (attr->ints)
        hash = esp_hash_bytes(hash, attr->ints, (size_t)attr->count * sizeof *attr->ints);
    if (attr->floats)
        hash = esp_hash_bytes(hash, attr->floats, (size_t)attr->count * sizeof *attr->floats);
    for (int i = 0; attr->strings && i < attr->count; i++)
        hash = esp_hash_text(hash, attr->strings[i]);
    return hash;
}

uint64_t esp_graph_fingerprint(const esp_graph *graph)
{
    uint64_t hash = esp_hash_word(0, (uint64_t)esp_graph_opset(graph));

    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        const esp_value *value = esp_graph_value(graph, v);
        hash = esp_hash_text(hash, value->name);
        if (value->constant)
            hash = mix_tensor(hash, value->constant);
    }
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        hash = esp_hash_text(esp_hash_text(hash, node->op->name), node->name);
        hash = esp_hash_bytes(hash, node->inputs, (size_t)node->input_count * sizeof *node->inputs);
        hash = esp_hash_bytes(hash, node->outputs, (size_t)node->output_count * sizeof *node->outputs);
        for (int i = 0; i < node->attr_count; i++)
            hash = mix_attr(hash, &node->attrs[i]);
    }
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        hash = esp_hash_word(hash, (uint64_t)esp_graph_output(graph, i));
    return hash;
}
