/* Values that share memory form a class named by its first value, the root. A class is in use from the node
 * that makes its root to the last node that reads any of its values. */
#include "train/live_memory.h"

#include "base/memory.h"
#include "graph/op.h"

typedef struct liveness {
    const esp_graph *graph;
    const esp_inferred *inferred;
    int *root;      /* per value; -1: takes no memory (constant, folded, or not made yet) */
    int *last;      /* per root: the node that reads it last; node_count for outputs of the graph */
    int64_t *bytes; /* per root */
    int64_t
        *change; /* per node, and one more: bytes that come into use there minus those that went out of it */
} liveness;

static int64_t value_bytes(const liveness *it, int value)
{
    return esp_shape_elements(esp_inferred_shape(it->inferred, value)) *
           (int64_t)esp_dtype_size(esp_inferred_dtype(it->inferred, value));
}

static int last_reader(const esp_graph *graph, int value)
{
    if (esp_graph_is_output(graph, value))
        return esp_graph_node_count(graph);
    int count = esp_graph_consumer_count(graph, value);
    return count == 0 ? -1 : esp_graph_consumer(graph, value, count - 1);
}

static void join(liveness *it, int value, int root)
{
    int last = last_reader(it->graph, value);
    it->root[value] = root;
    it->last[root] = last > it->last[root] ? last : it->last[root];
}

static void start_class(liveness *it, int value, int node)
{
    it->bytes[value] = value_bytes(it, value);
    it->last[value] = node;
    it->change[node] += it->bytes[value];
    join(it, value, value);
}

/* The class whose memory the node's output takes, or -1. */
static int inherited_root(const liveness *it, int index)
{
    const esp_node *node = esp_graph_node(it->graph, index);
    int root = node->output_count == 1 && node->inputs[0] >= 0 ? it->root[node->inputs[0]] : -1;
    if (root < 0 || (node->op->flags & (unsigned)(ESP_OP_VIEW | ESP_OP_EVAL_VIEW)) != 0)
        return root;
    bool is_in_place = (node->op->over & 1u) != 0 && it->last[root] == index &&
                       value_bytes(it, node->outputs[0]) == it->bytes[root];
    return is_in_place ? root : -1;
}

static void add_node(liveness *it, int index)
{
    const esp_node *node = esp_graph_node(it->graph, index);
    int root = node->input_count > 0 ? inherited_root(it, index) : -1;
    for (int i = 0; i < node->output_count; i++) {
        int value = node->outputs[i];
        if (value < 0 || esp_inferred_constant(it->inferred, value) != NULL)
            continue;
        if (root >= 0)
            join(it, value, root);
        else
            start_class(it, value, index);
    }
}

static size_t most_at_once(liveness *it)
{
    const esp_graph *graph = it->graph;
    int values = esp_graph_value_count(graph), nodes = esp_graph_node_count(graph);
    for (int v = 0; v < values; v++)
        it->root[v] = -1;
    for (int i = 0; i < esp_graph_input_count(graph); i++)
        start_class(it, esp_graph_input(graph, i), 0);
    for (int n = 0; n < nodes; n++)
        add_node(it, n);
    for (int v = 0; v < values; v++) {
        if (it->root[v] == v && it->last[v] < nodes)
            it->change[it->last[v] + 1] -= it->bytes[v];
    }
    int64_t now = 0, most = 0;
    for (int n = 0; n < nodes; n++) {
        now += it->change[n];
        most = now > most ? now : most;
    }
    return (size_t)most;
}

esp_status esp_live_bytes(const esp_graph *graph, const esp_inferred *inferred, size_t *out, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(graph), nodes = (size_t)esp_graph_node_count(graph);
    liveness it = {.graph = graph, .inferred = inferred};
    it.root = esp_alloc(values, sizeof *it.root);
    it.last = esp_alloc(values, sizeof *it.last);
    it.bytes = esp_alloc(values, sizeof *it.bytes);
    it.change = esp_alloc_zero(nodes + 1, sizeof *it.change);
    bool is_made = it.root != NULL && it.last != NULL && it.bytes != NULL && it.change != NULL;
    if (is_made)
        *out = most_at_once(&it);
    esp_free(it.root);
    esp_free(it.last);
    esp_free(it.bytes);
    esp_free(it.change);
    return is_made ? ESP_OK : esp_fail_memory(err, "lifetimes of values", values * sizeof(int64_t));
}
