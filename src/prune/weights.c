/* Layers whose weight is stored [filters, channels, ...] are read where they lie; others are copied in that
 * order. */
#include "prune/weights.h"

#include "base/memory.h"

esp_status esp_weight_rows_of(const esp_graph *graph, const esp_layer *layer, esp_weight_rows *out,
                              esp_error *err)
{
    const esp_tensor *weight = esp_graph_value(graph, layer->weight)->constant;
    esp_weight_rows rows = {.positions = layer->kernel_h * layer->kernel_w};
    size_t elements = (size_t)(layer->filters * layer->channels * rows.positions);

    *out = (esp_weight_rows){0};
    if (!weight || esp_tensor_dtype(weight) != ESP_F32)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "layer '%s': its weight '%s' is not stored in the model as float32", layer->name,
                        layer->weight_name);
    if (layer->filter_axis == 0 && layer->channel_axis == 1) {
        rows.data = esp_tensor_f32(weight);
    } else {
        rows.owned = esp_alloc(elements, sizeof *rows.owned);
        if (!rows.owned)
            return esp_fail_memory(err, layer->name, elements * sizeof *rows.owned);
        esp_layer_weight_canonical(layer, weight, rows.owned);
        rows.data = rows.owned;
    }
    *out = rows;
    return ESP_OK;
}

void esp_weight_rows_free(esp_weight_rows *rows)
{
    if (!rows)
        return;
    esp_free(rows->owned);
    *rows = (esp_weight_rows){0};
}
