/* What the files of the preview share: the subject (facts about a model that no plan changes, shared by all
 * its previews), the cache (what was computed from its weights so far), and the preview under construction.
 */
#ifndef ESP_PRUNE_PREVIEW_INTERNAL_H
#define ESP_PRUNE_PREVIEW_INTERNAL_H

#include <stdatomic.h>

#include "prune/coupling.h"
#include "prune/preview.h"
#include "prune/weights.h"

/* Immutable; previews on other threads may hold it, so its count is atomic. */
typedef struct preview_subject {
    atomic_int references;
    esp_graph *graph;
    esp_inferred *inferred;
    esp_layers layers;
    esp_mask *masks;  /* per layer: what the model carries */
    bool *is_stored;  /* per layer: its weight is a float constant of the graph */
    int *sharer;      /* per layer: another layer with the same weight, or -1 */
    esp_counts whole; /* without masks */
    int shape_count;  /* the input shapes it was inferred with */
    esp_input_shape *shapes;
} preview_subject;

esp_status preview_subject_new(const esp_graph *graph, const esp_input_shape *shapes, int shape_count,
                               preview_subject **out, esp_error *err);
preview_subject *preview_subject_ref(preview_subject *subject);
void preview_subject_unref(preview_subject *subject);

typedef struct cached_grouping {
    int layer;
    esp_kmeans_options options;
    esp_kmeans_result result;
} cached_grouping;

struct esp_grouping_cache {
    preview_subject *subject; /* NULL until the first preview */
    esp_coupling *coupling;   /* NULL until asked for */
    esp_layer_l1 *norms; /* per layer; members NULL until asked for, and for weights that are not stored */
    bool has_norms;
    float **importance; /* per layer, NULL until asked for */
    int grouping_count, grouping_capacity;
    cached_grouping *groupings;
};

/* Points the cache at a model; forgets another one. */
esp_status preview_cache_use(esp_grouping_cache *cache, const esp_graph *graph, const esp_input_shape *shapes,
                             int shape_count, esp_error *err);
esp_status preview_cache_coupling(esp_grouping_cache *cache, const esp_coupling **out, esp_error *err);
esp_status preview_cache_norms(esp_grouping_cache *cache, const esp_compute *compute,
                               const esp_layer_l1 **out, esp_error *err);

/* Clusterings of the layers with is_wanted, by the options given per layer; those missing are computed over
 * the pool. */
esp_status preview_cache_cluster(esp_grouping_cache *cache, const esp_compute *compute, const bool *is_wanted,
                                 const esp_kmeans_options *options, esp_error *err);
const esp_kmeans_result *preview_cache_grouping(const esp_grouping_cache *cache, int layer,
                                                const esp_kmeans_options *options);

/* importance [filters, channels] of a layer of the subject, masks it carries applied; ESP_INVALID when not
 * finite. */
esp_status preview_importance(const preview_subject *subject, int layer, float **out, esp_error *err);

/* What the rules of the plan say for a layer. */
esp_layer_settings preview_settings(const esp_preview *preview, int layer, double otherwise);

/* Reason that keeps a layer out whatever the method, in its item's note; false when there is one. */
bool preview_may_take_part(esp_preview *preview, int layer);

void preview_note(esp_preview_layer *item, const char *format, ...) ESP_PRINTF(2, 3);

/* The methods: masks, what was asked, notes. */
esp_status preview_by_wsp(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                          esp_error *err);
esp_status preview_by_sg(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                         esp_error *err);

#endif
