/* One pass over a weight gives both norms: the sum of a (filter, channel) slice goes into its filter's and
 * its channel's. Slices are summed in stored order, so equal filters have equal sums to the last bit. */
#include "prune/weights.h"

#include <math.h>

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

esp_status esp_layer_l1_of(const esp_graph *graph, const esp_layer *layer, const esp_mask *mask,
                           esp_layer_l1 *out, esp_error *err)
{
    esp_layer_l1 l1 = {0};
    esp_weight_rows rows;
    esp_status status;

    *out = (esp_layer_l1){0};
    status = esp_weight_rows_of(graph, layer, &rows, err);
    if (status != ESP_OK)
        return status;
    l1.filters = esp_alloc_zero((size_t)layer->filters, sizeof *l1.filters);
    l1.channels = esp_alloc_zero((size_t)layer->channels, sizeof *l1.channels);
    if (!l1.filters || !l1.channels) {
        status =
            esp_fail_memory(err, "L1 norms", (size_t)(layer->filters + layer->channels) * sizeof(double));
        goto done;
    }
    for (int64_t f = 0; f < layer->filters; f++) {
        for (int64_t c = 0; c < layer->channels; c++) {
            const float *slice = rows.data + (f * layer->channels + c) * rows.positions;
            double sum = 0;
            if (!esp_mask_get(mask, f, c))
                continue;
            for (int64_t i = 0; i < rows.positions; i++)
                sum += fabs((double)slice[i]);
            l1.filters[f] += sum;
            l1.channels[c] += sum;
        }
        if (!isfinite(l1.filters[f])) {
            status = esp_fail(err, ESP_INVALID,
                              "layer '%s': filter %lld of weight '%s' has a value that is not finite",
                              layer->name, (long long)f, layer->weight_name);
            goto done;
        }
    }

done:
    esp_weight_rows_free(&rows);
    if (status == ESP_OK)
        *out = l1;
    else
        esp_layer_l1_free(&l1);
    return status;
}

void esp_layer_l1_free(esp_layer_l1 *l1)
{
    if (!l1)
        return;
    esp_free(l1->filters);
    esp_free(l1->channels);
    *l1 = (esp_layer_l1){0};
}
