/* The `true` counter of a model that carries masks is what surgery would write, so that masked and cut models
 * count the same; it asks surgery. The `paper` counter adds up what the published tables add up. */
#include "prune/counts.h"

#include "base/memory.h"
#include "prune/preview_internal.h"

int64_t esp_layer_weight_elements(const esp_layer *layer)
{
    return layer->filters * layer->channels * layer->kernel_h * layer->kernel_w;
}

int64_t esp_layer_macs_per_weight(const esp_layer *layer)
{
    int64_t elements = esp_layer_weight_elements(layer);

    return elements ? layer->macs / elements : 0;
}

void esp_paper_counts(const esp_layers *layers, const esp_mask *masks, esp_counts *counts)
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

/* Takes off the weights under masks, and the MACs they cost. A weight that several layers share is one
 * tensor.
 */
static void take_zeros_off(const esp_layers *layers, const esp_mask *masks, esp_counts *counts)
{
    for (int l = 0; l < layers->count; l++) {
        const esp_layer *layer = &layers->items[l];
        int64_t zeros =
            (layer->filters * layer->channels - esp_mask_kept(&masks[l])) * layer->kernel_positions;
        bool is_counted = false;
        for (int other = 0; other < l; other++)
            is_counted = is_counted || layers->items[other].weight == layer->weight;
        counts->params -= is_counted ? 0 : zeros;
        counts->macs -= zeros * esp_layer_macs_per_weight(layer);
    }
}

static bool has_masks(const esp_layers *layers, const esp_mask *masks)
{
    for (int l = 0; l < layers->count; l++)
        if (esp_mask_kept(&masks[l]) < masks[l].filters * masks[l].channels)
            return true;
    return false;
}

esp_status esp_subject_count(const esp_compute *compute, const preview_subject *subject, esp_counts *out,
                             esp_error *err)
{
    surgery_forecast forecast;
    esp_status status;

    if (subject->is_cut || !has_masks(&subject->layers, subject->masks)) {
        status = esp_graph_count(subject->graph, subject->inferred, out, err);
        if (status != ESP_OK)
            return status;
        take_zeros_off(&subject->layers, subject->masks, out);
        esp_paper_counts(&subject->layers, subject->masks, out);
        return ESP_OK;
    }
    status = surgery_forecast_new(compute, subject, subject->masks, false, &forecast, err);
    if (status != ESP_OK)
        return status;
    *out = forecast.live;
    esp_paper_counts(&subject->layers, subject->masks, out);
    surgery_forecast_free(&forecast);
    return ESP_OK;
}

esp_status esp_model_count(const esp_graph *graph, const esp_inferred *inferred, esp_counts *out,
                           esp_error *err)
{
    preview_subject *subject = NULL;
    esp_counts counts;
    esp_status status = esp_graph_metadata(graph, ESP_MASKS_KEY)
                            ? preview_subject_borrow(graph, inferred, &subject, err)
                            : esp_graph_count(graph, inferred, out, err);

    if (status != ESP_OK || !subject)
        return status;
    status = esp_subject_count(NULL, subject, &counts, err);
    if (status == ESP_OK)
        *out = counts;
    preview_subject_unref(subject);
    return status;
}
