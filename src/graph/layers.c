/* Prunable layers and the two counters. A layer's row in the op table says where weight and bias are and
 * which of the weight's axes are filters and channels; everything here follows from that.
 *
 * The `paper` counter gives 2 batch-norm parameters per channel to every *maskable* conv: all but the 1x1
 * convs on residual shortcuts, which the published methods leave alone. */
#include "graph/layers.h"

#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "graph/layer_roles.h"
#include "graph/op.h"

/* ---- the list ---- */

/* The bias when it is one constant per filter, else -1. */
static int bias_value(const esp_graph *graph, const esp_node *node, const esp_layer_form *form,
                      int64_t filters)
{
    int value = form->bias_input < 0 ? -1 : node->inputs[form->bias_input];
    const esp_tensor *bias = value < 0 ? NULL : esp_graph_value(graph, value)->constant;
    return bias != NULL && esp_tensor_elements(bias) == filters ? value : -1;
}

static bool is_transposed(const esp_layer_form *form)
{
    return form->is_conv && form->filter_axis > form->channel_axis;
}

static void describe_kernel(const esp_shape *weight, esp_layer *layer)
{
    layer->kernel_rank = layer->is_conv ? weight->rank - 2 : 0;
    layer->kernel_positions = 1;
    for (int i = 0; i < layer->kernel_rank; i++) {
        layer->kernel[i] = weight->dims[i + 2];
        layer->kernel_positions *= layer->kernel[i];
    }
    layer->kernel_w = layer->kernel_rank > 0 ? layer->kernel[layer->kernel_rank - 1] : 1;
    layer->kernel_h = layer->kernel_w > 0 ? layer->kernel_positions / layer->kernel_w : 0;
}

/* A weight is met once per output place; once per input place when the convolution is transposed. */
static int64_t count_positions(const esp_inferred *inferred, const esp_node *node, const esp_layer_form *form,
                               const esp_layer *layer)
{
    int value = is_transposed(form) ? node->inputs[0] : node->outputs[0];
    int64_t channels = is_transposed(form) ? layer->channels * layer->group : layer->filters;
    const esp_shape *shape = esp_inferred_shape(inferred, value);
    int64_t elements = shape->rank < 0 ? -1 : esp_shape_elements(shape);
    return channels == 0 || elements < 0 ? 0 : elements / channels;
}

static bool describe_layer(const esp_graph *graph, const esp_inferred *inferred, int n, esp_layer *out)
{
    const esp_node *node = esp_graph_node(graph, n);
    esp_layer_form form;
    if (node->op->layer == NULL || !node->op->layer(node, &form))
        return false;
    const esp_value *weight = esp_graph_value(graph, node->inputs[form.weight_input]);
    const esp_shape *shape = &weight->shape;
    if (weight->constant == NULL || (form.is_conv ? shape->rank < 3 || shape->rank > 5 : shape->rank != 2))
        return false;
    int64_t group = form.is_conv ? esp_node_int(node, "group", 1) : 1;
    if (group < 1 || shape->dims[0] % group != 0)
        return false;
    esp_layer layer = {.node = n,
                       .name = node->name,
                       .weight_name = weight->name,
                       .is_conv = form.is_conv,
                       .weight = node->inputs[form.weight_input],
                       .filters = shape->dims[form.filter_axis],
                       .channels = shape->dims[form.channel_axis],
                       .group = group,
                       .filter_axis = form.filter_axis,
                       .channel_axis = form.channel_axis};
    if (is_transposed(&form)) { /* [channels of all groups, filters of one, kernel] */
        layer.filters *= group;
        layer.channels /= group;
    }
    describe_kernel(shape, &layer);
    layer.bias = bias_value(graph, node, &form, layer.filters);
    int64_t elements = esp_tensor_elements(weight->constant);
    layer.positions = count_positions(inferred, node, &form, &layer);
    layer.params = elements + (layer.bias >= 0 ? layer.filters : 0);
    layer.macs = elements * layer.positions;
    *out = layer;
    return true;
}

esp_status esp_layers_list(const esp_graph *graph, const esp_inferred *inferred, esp_layers *out,
                           esp_error *err)
{
    int nodes = esp_graph_node_count(graph), candidates = 0;
    *out = (esp_layers){0};
    for (int n = 0; n < nodes; n++)
        candidates += esp_graph_node(graph, n)->op->layer != NULL;
    esp_layers layers = {.items = esp_alloc((size_t)candidates, sizeof *layers.items)};
    if (layers.items == NULL)
        return esp_fail_memory(err, "the list of layers", (size_t)candidates * sizeof *layers.items);
    for (int n = 0; n < nodes; n++)
        layers.count += describe_layer(graph, inferred, n, &layers.items[layers.count]);
    esp_status status = esp_layer_roles_find(graph, &layers, err);
    if (status == ESP_OK)
        *out = layers;
    else
        esp_layers_free(&layers);
    return status;
}

void esp_layers_free(esp_layers *layers)
{
    if (layers == NULL)
        return;
    esp_free(layers->items);
    *layers = (esp_layers){0};
}

int esp_layers_find(const esp_layers *layers, const char *node_or_weight_name)
{
    for (int i = 0; i < layers->count; i++) {
        if (strcmp(layers->items[i].name, node_or_weight_name) == 0 ||
            strcmp(layers->items[i].weight_name, node_or_weight_name) == 0)
            return i;
    }
    return -1;
}

bool esp_layer_matches(const esp_layer *layer, const char *pattern)
{
    return esp_glob_match(pattern, layer->name) || esp_glob_match(pattern, layer->weight_name);
}

esp_status esp_layers_fail_unknown(const esp_layers *layers, const char *pattern, esp_error *err)
{
    size_t count = (size_t)layers->count;
    const char **names = esp_alloc(2 * count, sizeof *names);
    esp_status status;

    if (!names)
        return esp_fail_memory(err, "layer names", 2 * count * sizeof *names);
    for (size_t l = 0; l < count; l++) {
        names[l] = layers->items[l].name;
        names[count + l] = layers->items[l].weight_name;
    }
    status = esp_fail_unknown(err, "layer", pattern, names, 2 * count);
    esp_free(names);
    return status;
}

esp_status esp_layers_require(const esp_layers *layers, const char *node_or_weight_name, int *out,
                              esp_error *err)
{
    *out = esp_layers_find(layers, node_or_weight_name);
    return *out >= 0 ? ESP_OK : esp_layers_fail_unknown(layers, node_or_weight_name, err);
}

esp_status esp_layers_choose(const esp_layers *layers, const char *pattern, bool *chosen, esp_error *err)
{
    bool is_found = false;

    for (int l = 0; l < layers->count; l++)
        if (esp_layer_matches(&layers->items[l], pattern))
            chosen[l] = is_found = true;
    return is_found ? ESP_OK : esp_layers_fail_unknown(layers, pattern, err);
}

int64_t esp_layer_slice(const esp_layer *layer, int64_t filter, int64_t channel)
{
    if (layer->filter_axis < layer->channel_axis)
        return (filter * layer->channels + channel) * layer->kernel_positions;
    int64_t filters = layer->filters / layer->group, group = filter / filters;
    int64_t row = group * layer->channels + channel;
    return (row * filters + filter % filters) * layer->kernel_positions;
}

void esp_layer_weight_canonical(const esp_layer *layer, const esp_tensor *weight, float *out)
{
    const float *data = esp_tensor_f32(weight);
    int64_t length = layer->kernel_positions;
    if (layer->filter_axis < layer->channel_axis) {
        memcpy(out, data, (size_t)(layer->filters * layer->channels * length) * sizeof *out);
        return;
    }
    for (int64_t f = 0; f < layer->filters; f++) {
        for (int64_t c = 0; c < layer->channels; c++) {
            memcpy(out, data + esp_layer_slice(layer, f, c), (size_t)length * sizeof *out);
            out += length;
        }
    }
}

/* ---- counters ---- */

void esp_layer_paper(const esp_layer *layer, int64_t surviving_weights, int64_t live_filters,
                     int64_t live_biases, double *params, double *macs)
{
    bool is_maskable = layer->is_conv && layer->role != ESP_ROLE_SHORTCUT;
    double norms = is_maskable ? (double)live_filters : 0.0;
    *params = (double)surviving_weights + 2.0 * norms + (double)live_biases;
    *macs = (double)surviving_weights * (double)layer->positions + norms + (double)live_biases;
}

/* Elements of all trainable tensors, each once. */
static esp_status count_trainable(const esp_graph *graph, int64_t *out, esp_error *err)
{
    int values = esp_graph_value_count(graph);
    bool *is_counted = esp_alloc_zero((size_t)values, sizeof *is_counted);
    if (is_counted == NULL)
        return esp_fail_memory(err, "a count", (size_t)values);
    int64_t total = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int i = 0; i < node->input_count && i < 32; i++) {
            int v = node->inputs[i];
            const esp_tensor *tensor = v < 0 ? NULL : esp_graph_value(graph, v)->constant;
            if (tensor == NULL || (node->op->trainable & (1u << i)) == 0 || is_counted[v] ||
                esp_tensor_dtype(tensor) != ESP_F32)
                continue;
            is_counted[v] = true;
            total += esp_tensor_elements(tensor);
        }
    }
    esp_free(is_counted);
    *out = total;
    return ESP_OK;
}

/* Behind an opaque node a shape may be unknown. */
static bool are_shapes_known(const esp_inferred *inferred, const esp_node *node)
{
    for (int i = 0; i < node->input_count + node->output_count; i++) {
        int v = i < node->input_count ? node->inputs[i] : node->outputs[i - node->input_count];
        if (v >= 0 && esp_inferred_shape(inferred, v)->rank < 0)
            return false;
    }
    return true;
}

/* MACs of all nodes at the inferred batch, as far as shapes are known. */
static esp_status count_macs(const esp_graph *graph, const esp_inferred *inferred, int64_t *out,
                             esp_error *err)
{
    int64_t total = 0;
    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        if (node->op->macs == NULL || !are_shapes_known(inferred, node))
            continue;
        size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
        esp_view *views = esp_alloc(inputs + outputs, sizeof *views);
        const esp_view **pointers = esp_alloc(inputs, sizeof *pointers);
        if (views != NULL && pointers != NULL) {
            esp_inferred_views(inferred, graph, n, views, pointers, views + inputs);
            esp_infer_context context = {.node = node,
                                         .opset = esp_graph_opset(graph),
                                         .input_count = node->input_count,
                                         .inputs = pointers,
                                         .output_count = node->output_count,
                                         .outputs = views + inputs};
            total += node->op->macs(&context);
        }
        bool has_memory = views != NULL && pointers != NULL;
        esp_free(views);
        esp_free(pointers);
        if (!has_memory)
            return esp_fail_memory(err, "a count", (inputs + outputs) * sizeof *views);
    }
    *out = total;
    return ESP_OK;
}

static void add_paper(const esp_layers *layers, esp_counts *counts)
{
    for (int i = 0; i < layers->count; i++) {
        const esp_layer *layer = &layers->items[i];
        int64_t biases = layer->bias >= 0 ? layer->filters : 0;
        double params, macs;
        esp_layer_paper(layer, layer->params - biases, layer->filters, biases, &params, &macs);
        counts->paper_params += params;
        counts->paper_macs += macs;
    }
}

esp_status esp_graph_count(const esp_graph *graph, const esp_inferred *inferred, esp_counts *out,
                           esp_error *err)
{
    esp_counts counts = {0};
    esp_layers layers = {0};
    esp_status status = count_trainable(graph, &counts.params, err);
    if (status == ESP_OK)
        status = count_macs(graph, inferred, &counts.macs, err);
    if (status == ESP_OK)
        status = esp_layers_list(graph, inferred, &layers, err);
    if (status == ESP_OK) {
        add_paper(&layers, &counts);
        *out = counts;
    }
    esp_layers_free(&layers);
    return status;
}
