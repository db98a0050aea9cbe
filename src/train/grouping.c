/* See grouping.h. The pattern is the one surgery writes (Gather -> Conv or Gemm per group -> Concat, then
 * perhaps a Gather that restores the filters' order), but any network that has it is served. */
#include "train/grouping.h"

#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "graph/ops.h"
#include "train/dense_form.h"

typedef struct finder {
    const esp_graph *graph;
    const esp_inferred *inferred;
    const double *node_ms;
} finder;

/* The node that makes a value when it is of this operator, or -1. */
static int maker(const esp_graph *graph, int value, const char *operator_name)
{
    int node = value >= 0 ? esp_graph_value(graph, value)->producer : -1;
    return node >= 0 && strcmp(esp_graph_node(graph, node)->op->name, operator_name) == 0 ? node : -1;
}

/* A Gather of constant channels, or -1. */
static int channel_gather(const esp_graph *graph, int value)
{
    int index = maker(graph, value, "Gather");
    if (index < 0)
        return -1;
    const esp_node *node = esp_graph_node(graph, index);
    bool is_of_channels = esp_node_int(node, "axis", 0) == 1 && node->input_count == 2 &&
                          esp_graph_value(graph, node->inputs[1])->constant != NULL;
    return is_of_channels ? index : -1;
}

/* One group as a layer: what it reads its channels from, its weight's shape, whether it is a convolution. */
typedef struct group {
    int node, gather; /* gather -1: reads all channels */
    int source;       /* value */
    int64_t filters, channels, kernel_h, kernel_w;
    bool is_conv;
} group;

static bool read_group(const finder *it, int value, group *out)
{
    int index = value >= 0 ? esp_graph_value(it->graph, value)->producer : -1;
    esp_layer_form form;
    if (index < 0)
        return false;
    const esp_node *node = esp_graph_node(it->graph, index);
    if (node->op->layer == NULL || !node->op->layer(node, &form) || form.weight_input != 1)
        return false;
    if (form.is_conv && form.filter_axis != 0) /* a transposed convolution has another geometry */
        return false;
    const esp_shape *weight = esp_inferred_shape(it->inferred, node->inputs[1]);
    if (esp_node_int(node, "group", 1) != 1 || weight->rank != (form.is_conv ? 4 : 2))
        return false;
    *out = (group){.node = index,
                   .gather = channel_gather(it->graph, node->inputs[0]),
                   .filters = weight->dims[form.filter_axis],
                   .channels = weight->dims[form.channel_axis],
                   .kernel_h = form.is_conv ? weight->dims[2] : 1,
                   .kernel_w = form.is_conv ? weight->dims[3] : 1,
                   .is_conv = form.is_conv};
    out->source = out->gather >= 0 ? esp_graph_node(it->graph, out->gather)->inputs[0] : node->inputs[0];
    return true;
}

/* The layer as it would be with every filter reading every channel. False when the groups differ in more than
 * their filters. */
static bool read_geometry(const finder *it, const group *first, int64_t filters, esp_conv_geometry *out)
{
    const esp_shape *x = esp_inferred_shape(it->inferred, first->source);
    const int64_t kernel[2] = {first->kernel_h, first->kernel_w};
    esp_window window = {
        .size = {1, 1}, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .out = {1, 1}};
    if (x->rank != (first->is_conv ? 4 : 2))
        return false;
    if (first->is_conv &&
        esp_op_window(esp_graph_node(it->graph, first->node), x, kernel, false, &window, NULL) != ESP_OK)
        return false;
    *out = esp_window_geometry(&window, x->dims[0], x->dims[1], filters, 1);
    return true;
}

static bool are_alike(const finder *it, const group *a, const group *b)
{
    const esp_node *left = esp_graph_node(it->graph, a->node), *right = esp_graph_node(it->graph, b->node);
    const esp_shape *x = esp_inferred_shape(it->inferred, left->outputs[0]);
    const esp_shape *y = esp_inferred_shape(it->inferred, right->outputs[0]);
    bool is_same_image = !a->is_conv || (x->dims[2] == y->dims[2] && x->dims[3] == y->dims[3]);
    return left->op == right->op && a->source == b->source && a->kernel_h == b->kernel_h &&
           a->kernel_w == b->kernel_w && is_same_image;
}

/* "layer1.0.conv1" from "layer1.0.conv1/concat". */
static char *layer_name(const char *join)
{
    const char *slash = strrchr(join, '/');
    return slash != NULL && strcmp(slash, "/concat") == 0 ? esp_strndup(join, (size_t)(slash - join))
                                                          : esp_strdup(join);
}

/* Times of the nodes after the groups: the Concat and the Gather that puts filters back in order. */
static double tail_ms(const finder *it, int join)
{
    double ms = it->node_ms[join];
    int value = esp_graph_node(it->graph, join)->outputs[0];
    if (esp_graph_consumer_count(it->graph, value) == 1) {
        int next = esp_graph_consumer(it->graph, value, 0);
        if (channel_gather(it->graph, esp_graph_node(it->graph, next)->outputs[0]) == next)
            ms += it->node_ms[next];
    }
    return ms;
}

/* Fills `out` (but for dense_ms) and the geometry when `join` puts groups together. */
static bool read_grouping(const finder *it, int join, esp_grouping_gain *out, esp_conv_geometry *geometry)
{
    const esp_node *node = esp_graph_node(it->graph, join);
    group first, one;
    int64_t filters = 0, kernel_macs = 0;
    int last_gather = -1;
    *out = (esp_grouping_gain){.join = join, .groups = node->input_count};
    if (strcmp(node->op->name, "Concat") != 0 || esp_node_int(node, "axis", 0) != 1 ||
        node->input_count < 1 || !read_group(it, node->inputs[0], &first))
        return false;
    for (int i = 0; i < node->input_count; i++) {
        if (!read_group(it, node->inputs[i], &one) || !are_alike(it, &first, &one))
            return false;
        filters += one.filters;
        kernel_macs += one.filters * one.channels * one.kernel_h * one.kernel_w;
        out->ms += it->node_ms[one.node];
        out->ms += one.gather >= 0 && one.gather != last_gather ? it->node_ms[one.gather] : 0.0;
        last_gather = one.gather >= 0 ? one.gather : last_gather;
    }
    if (last_gather < 0 || !read_geometry(it, &first, filters, geometry))
        return false;
    int64_t positions = geometry->batch * geometry->out_height * geometry->out_width;
    out->ms += tail_ms(it, join);
    out->macs = kernel_macs * positions;
    out->dense_macs = positions * filters * geometry->channels * geometry->kernel_h * geometry->kernel_w;
    return out->macs < out->dense_macs;
}

void esp_grouping_gains_free(esp_grouping_gains *groupings)
{
    for (int i = 0; i < groupings->count; i++)
        esp_free(groupings->items[i].name);
    esp_free(groupings->items);
    *groupings = (esp_grouping_gains){0};
}

static esp_status add_grouping(const esp_compute *compute, const finder *it, int join,
                               esp_grouping_gains *list, esp_error *err)
{
    esp_grouping_gain *item = &list->items[list->count];
    esp_conv_geometry geometry;
    double seconds = 0.0;
    if (!read_grouping(it, join, item, &geometry))
        return ESP_OK;
    esp_status status = esp_dense_form_seconds(compute, &geometry, &seconds, err);
    if (status != ESP_OK)
        return status;
    item->dense_ms = 1e3 * seconds;
    item->name = layer_name(esp_graph_node(it->graph, join)->name);
    if (item->name == NULL)
        return esp_fail_memory(err, "a layer's name", 0);
    list->count++;
    return ESP_OK;
}

esp_status esp_grouping_gains_measure(const esp_compute *compute, const esp_graph *graph,
                                      const esp_inferred *inferred, const double *node_ms,
                                      esp_grouping_gains *out, esp_error *err)
{
    const finder it = {.graph = graph, .inferred = inferred, .node_ms = node_ms};
    size_t nodes = (size_t)esp_graph_node_count(graph);
    esp_grouping_gains list = {.items = esp_alloc_zero(nodes, sizeof(esp_grouping_gain))};
    esp_status status = list.items != NULL ? ESP_OK : esp_fail_memory(err, "grouped layers", nodes);
    for (int n = 0; status == ESP_OK && n < (int)nodes; n++)
        status = add_grouping(compute, &it, n, &list, err);
    if (status == ESP_OK)
        *out = list;
    else
        esp_grouping_gains_free(&list);
    return status;
}

/* ---- reading ---- */

/* Slower by less than this is the clock's noise. */
#define LEAST_LOSS 1.03

double esp_grouping_theory(const esp_grouping_gain *gain)
{
    return gain->macs > 0 ? (double)gain->dense_macs / (double)gain->macs : 0.0;
}

double esp_grouping_real(const esp_grouping_gain *gain)
{
    return gain->ms > 0 ? gain->dense_ms / gain->ms : 0.0;
}

bool esp_grouping_loses(const esp_grouping_gain *gain)
{
    return gain->ms > LEAST_LOSS * gain->dense_ms;
}

esp_grouping_gain esp_grouping_total(const esp_grouping_gains *gains)
{
    esp_grouping_gain total = {0};
    for (int i = 0; i < gains->count; i++) {
        total.macs += gains->items[i].macs;
        total.dense_macs += gains->items[i].dense_macs;
        total.ms += gains->items[i].ms;
        total.dense_ms += gains->items[i].dense_ms;
    }
    return total;
}
