/* Surgery works on a preview, and takes weights from its model: here the same masks on the model with solved
 * weights. */
#include "base/memory.h"
#include "prune/preview_internal.h"
#include "prune/reconstruct.h"

/* What surgery reads of a preview: the plan and the masks. */
static esp_status copy_preview(const esp_preview *preview, const esp_graph *masked, esp_preview **out,
                               esp_error *err)
{
    size_t count = (size_t)preview->layers.count;
    esp_preview *copy = esp_alloc_zero(1, sizeof *copy);
    esp_status status;

    *out = copy;
    if (!copy)
        return esp_fail_memory(err, "a preview", sizeof *copy);
    status = preview_subject_new(masked, preview->subject->shapes, preview->subject->shape_count,
                                 &copy->subject, err);
    if (status != ESP_OK)
        return status;
    copy->graph = copy->subject->graph;
    copy->inferred = copy->subject->inferred;
    copy->items = esp_alloc_zero(count, sizeof *copy->items);
    if (!copy->items)
        return esp_fail_memory(err, "a preview", count * sizeof *copy->items);
    copy->layers = copy->subject->layers;
    for (size_t l = 0; status == ESP_OK && l < count; l++) {
        copy->items[l].role = preview->items[l].role;
        status = esp_mask_clone(&preview->items[l].mask, &copy->items[l].mask, err);
    }
    return status == ESP_OK ? esp_plan_clone(&preview->plan, &copy->plan, err) : status;
}

esp_status esp_reconstruct_cut(const esp_compute *compute, const esp_preview *preview,
                               const esp_graph *masked, const esp_surgery_options *options, esp_graph **out,
                               esp_surgery_report *report, esp_error *err)
{
    esp_preview *copy = NULL;
    esp_status status = copy_preview(preview, masked, &copy, err);

    *out = NULL;
    if (status == ESP_OK && copy->layers.count != preview->layers.count)
        status = esp_fail(err, ESP_INVALID, "the model has %d layers, its preview %d", copy->layers.count,
                          preview->layers.count);
    if (status == ESP_OK)
        status = esp_surgery(compute, copy, options, out, report, err);
    esp_preview_free(copy);
    return status;
}
