/* The `true` counter goes from the whole down: what masks and removed channels take away. The `paper` counter
 * adds up what the published tables add up. */
#include "prune/counts.h"

#include "base/memory.h"
#include "graph/op.h"
#include "prune/slots.h"

int64_t esp_layer_weight_elements(const esp_layer *layer)
{
    return layer->filters * layer->channels * layer->kernel_h * layer->kernel_w;
}

int64_t esp_layer_macs_per_weight(const esp_layer *layer)
{
    int64_t elements = esp_layer_weight_elements(layer);

    return elements ? layer->macs / elements : 0;
}

/* Elements of a per-channel parameter of a node that go with its removed channels. */
static int64_t removed_elements(const esp_coupling *coupling, const esp_node *node,
                                const esp_tensor *parameter, const bool *is_removable)
{
    esp_value_slots output = esp_coupling_value(coupling, node->outputs[0]);
    int64_t removed = 0, elements = esp_tensor_elements(parameter), run = 1;

    if (output.axis < 0)
        return 0;
    if (node->op->rule == ESP_CHANNEL_GROUP &&
        elements > 0) /* one for each run of channels, or for each channel */
        run = output.count / elements;
    if (run < 1 || elements * run != output.count)
        return 0;
    for (int64_t c = 0; c < output.count; c += run)
        removed += is_removable[output.slots[c]];
    return removed;
}

/* Biases and normalisation of removed channels; `is_done` marks the layers' weights, and then whatever was
 * counted. */
static int64_t removed_parameters(const esp_graph *graph, const esp_coupling *coupling,
                                  const bool *is_removable, bool *is_done)
{
    int64_t removed = 0;

    for (int n = 0; n < esp_graph_node_count(graph); n++) {
        const esp_node *node = esp_graph_node(graph, n);
        for (int i = 0; i < node->input_count && i < 32; i++) {
            int value = node->inputs[i];
            bool is_parameter = value >= 0 && (node->op->trainable >> i & 1) && !is_done[value];
            const esp_tensor *constant = is_parameter ? esp_graph_value(graph, value)->constant : NULL;
            if (!constant || esp_tensor_dtype(constant) != ESP_F32)
                continue;
            is_done[value] = true;
            removed += removed_elements(coupling, node, constant, is_removable);
        }
    }
    return removed;
}

static void count_paper(const esp_layers *layers, const esp_mask *masks, esp_counts *counts)
{
    counts->paper_params = counts->paper_macs = 0;
    for (int l = 0; l < layers->count; l++) {
        esp_layer layer = layers->items[l];
        int64_t weights = esp_mask_kept(&masks[l]) * layer.kernel_h * layer.kernel_w, live = 0;
        double params, macs;
        for (int64_t f = 0; f < layer.filters; f++)
            live += esp_mask_filter_is_live(&masks[l], f);
        esp_layer_paper(&layer, weights, live, layer.bias >= 0 ? live : 0, &params, &macs);
        counts->paper_params += params;
        counts->paper_macs += macs;
    }
}

esp_status esp_masked_counts(const esp_graph *graph, const esp_coupling *coupling, const esp_layers *layers,
                             const esp_mask *masks, const bool *is_removable, const esp_counts *whole,
                             esp_counts *out, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(graph);
    bool *is_done = esp_alloc_zero(values, sizeof *is_done);
    esp_counts counts = *whole;

    if (!is_done)
        return esp_fail_memory(err, "counts", values * sizeof *is_done);
    for (int l = 0; l < layers->count; l++) {
        const esp_layer *layer = &layers->items[l];
        int64_t masked =
            esp_layer_weight_elements(layer) - esp_mask_kept(&masks[l]) * layer->kernel_h * layer->kernel_w;
        counts.macs -= masked * esp_layer_macs_per_weight(layer);
        if (!is_done[layer->weight]) /* a weight that several layers share is one tensor */
            counts.params -= masked;
        is_done[layer->weight] = true;
    }
    counts.params -= removed_parameters(graph, coupling, is_removable, is_done);
    count_paper(layers, masks, &counts);
    esp_free(is_done);
    *out = counts;
    return ESP_OK;
}

esp_status esp_model_count_with(const esp_graph *graph, const esp_inferred *inferred,
                                const esp_layers *layers, const esp_mask *masks, esp_counts *out,
                                esp_error *err)
{
    esp_coupling *coupling = NULL;
    bool *is_removable = NULL;
    esp_counts whole = {0};
    esp_status status = esp_coupling_new(graph, inferred, layers, &coupling, err);

    if (status == ESP_OK) {
        size_t limit = (size_t)esp_coupling_slot_limit(coupling);
        is_removable = esp_alloc_zero(limit, sizeof *is_removable);
        status = is_removable ? ESP_OK : esp_fail_memory(err, "counts", limit * sizeof *is_removable);
    }
    if (status == ESP_OK)
        status = esp_slots_removable(coupling, layers, masks, is_removable, err);
    if (status == ESP_OK)
        status = esp_graph_count(graph, inferred, &whole, err);
    if (status == ESP_OK)
        status = esp_masked_counts(graph, coupling, layers, masks, is_removable, &whole, out, err);
    esp_coupling_free(coupling);
    esp_free(is_removable);
    return status;
}

esp_status esp_model_count(const esp_graph *graph, const esp_inferred *inferred, esp_counts *out,
                           esp_error *err)
{
    esp_layers layers = {0};
    esp_mask *masks = NULL;
    esp_status status = esp_layers_list(graph, inferred, &layers, err);

    if (status == ESP_OK) {
        masks = esp_alloc_zero((size_t)layers.count, sizeof *masks);
        status = masks ? ESP_OK : esp_fail_memory(err, "counts", (size_t)layers.count * sizeof *masks);
    }
    for (int l = 0; status == ESP_OK && l < layers.count; l++)
        status = esp_mask_of_layer(graph, &layers.items[l], &masks[l], err);
    if (status == ESP_OK)
        status = esp_model_count_with(graph, inferred, &layers, masks, out, err);
    for (int l = 0; masks && l < layers.count; l++)
        esp_mask_free(&masks[l]);
    esp_free(masks);
    esp_layers_free(&layers);
    return status;
}
