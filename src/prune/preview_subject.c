/* The subject of previews: what a model is, whatever a plan makes of it. It never changes once made, but for
 * its coupling, which its first user makes, and for the facts that surgery's decisions find when they first
 * need them (under a lock of their own). */
#include "prune/preview_internal.h"

#include <string.h>

#include "base/memory.h"

preview_subject *preview_subject_ref(preview_subject *subject)
{
    atomic_fetch_add(&subject->references, 1);
    return subject;
}

void preview_subject_unref(preview_subject *subject)
{
    if (!subject || atomic_fetch_sub(&subject->references, 1) > 1)
        return;
    for (int l = 0; subject->masks && l < subject->layers.count; l++)
        esp_mask_free(&subject->masks[l]);
    for (int i = 0; i < subject->shape_count; i++)
        esp_free((char *)(uintptr_t)subject->shapes[i].name);
    esp_free(subject->shapes);
    esp_free(subject->masks);
    esp_free(subject->is_stored);
    esp_free(subject->sharer);
    surgery_facts_free(subject->facts);
    esp_coupling_free(subject->coupling);
    esp_layers_free(&subject->layers);
    if (!subject->borrows_inferred)
        esp_inferred_free(subject->inferred);
    esp_graph_unref(subject->graph);
    esp_free(subject);
}

static esp_status copy_shapes(preview_subject *subject, const esp_input_shape *shapes, int count,
                              esp_error *err)
{
    subject->shapes = esp_alloc_zero((size_t)count, sizeof *subject->shapes);
    if (!subject->shapes)
        return esp_fail_memory(err, "input shapes", (size_t)count * sizeof *subject->shapes);
    for (int i = 0; i < count; i++) {
        char *name = esp_strdup(shapes[i].name);
        if (!name)
            return esp_fail_memory(err, "input shapes", strlen(shapes[i].name) + 1);
        subject->shapes[subject->shape_count++] = (esp_input_shape){name, shapes[i].shape};
    }
    return ESP_OK;
}

static esp_status look_at_layers(preview_subject *subject, esp_error *err)
{
    const esp_layers *layers = &subject->layers;
    size_t count = (size_t)layers->count;

    subject->masks = esp_alloc_zero(count, sizeof *subject->masks);
    subject->is_stored = esp_alloc_zero(count, sizeof *subject->is_stored);
    subject->sharer = esp_alloc_zero(count, sizeof *subject->sharer);
    if (!subject->masks || !subject->is_stored || !subject->sharer)
        return esp_fail_memory(err, "layers", count * sizeof *subject->masks);
    for (int l = 0; l < layers->count; l++) {
        const esp_tensor *weight = esp_graph_value(subject->graph, layers->items[l].weight)->constant;
        subject->is_stored[l] = weight && esp_tensor_dtype(weight) == ESP_F32;
        subject->sharer[l] = -1;
        for (int other = 0; other < layers->count; other++)
            if (other != l && layers->items[other].weight == layers->items[l].weight)
                subject->sharer[l] = other;
    }
    return esp_masks_of_layers(subject->graph, layers, subject->masks, err);
}

/* What follows from graph and shapes. */
static esp_status complete(preview_subject *subject, esp_error *err)
{
    esp_status status = esp_layers_list(subject->graph, subject->inferred, &subject->layers, err);

    if (status == ESP_OK)
        status = look_at_layers(subject, err);
    if (status == ESP_OK)
        status = esp_masks_are_left_over(subject->graph, &subject->is_cut, err);
    return status == ESP_OK ? surgery_facts_new(&subject->facts, err) : status;
}

esp_status preview_subject_new(const esp_graph *graph, const esp_input_shape *shapes, int shape_count,
                               preview_subject **out, esp_error *err)
{
    preview_subject *subject = esp_alloc_zero(1, sizeof *subject);
    esp_status status = ESP_OK;

    *out = NULL;
    if (!subject)
        return esp_fail_memory(err, "a preview", sizeof *subject);
    atomic_init(&subject->references, 1);
    subject->graph = esp_graph_ref(graph);
    status = copy_shapes(subject, shapes, shape_count, err);
    if (status == ESP_OK)
        status = esp_infer(graph, 1, shapes, shape_count, &subject->inferred, err);
    if (status == ESP_OK)
        status = complete(subject, err);
    if (status == ESP_OK)
        *out = subject;
    else
        preview_subject_unref(subject);
    return status;
}

esp_status preview_subject_couple(preview_subject *subject, esp_error *err)
{
    return subject->coupling ? ESP_OK
                             : esp_coupling_new(subject->graph, subject->inferred, &subject->layers,
                                                &subject->coupling, err);
}

esp_status preview_subject_borrow(const esp_graph *graph, const esp_inferred *inferred, preview_subject **out,
                                  esp_error *err)
{
    preview_subject *subject = esp_alloc_zero(1, sizeof *subject);
    esp_status status;

    *out = NULL;
    if (!subject)
        return esp_fail_memory(err, "a preview", sizeof *subject);
    atomic_init(&subject->references, 1);
    subject->graph = esp_graph_ref(graph);
    subject->inferred = (esp_inferred *)(uintptr_t)inferred;
    subject->borrows_inferred = true;
    status = complete(subject, err);
    if (status == ESP_OK)
        status = preview_subject_couple(subject, err);
    if (status == ESP_OK)
        *out = subject;
    else
        preview_subject_unref(subject);
    return status;
}
