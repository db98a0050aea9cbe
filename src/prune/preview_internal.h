/* What the files of the preview share: the subject (facts about a model that no plan changes, shared by all
 * its previews), the cache (what was computed from its weights so far), and the preview under construction.
 */
#ifndef ESP_PRUNE_PREVIEW_INTERNAL_H
#define ESP_PRUNE_PREVIEW_INTERNAL_H

#include <stdatomic.h>

#include "prune/coupling.h"
#include "prune/criteria.h"
#include "prune/preview.h"
#include "prune/surgery_decision.h"
#include "prune/weights.h"

/* Immutable; previews on other threads may hold it, so its count is atomic. */
typedef struct preview_subject {
    atomic_int references;
    esp_graph *graph;
    esp_inferred *inferred;
    bool borrows_inferred;
    esp_layers layers;
    esp_mask *masks;        /* per layer: what the model carries */
    bool is_cut;            /* these are what surgery left */
    bool *is_stored;        /* per layer: its weight is a float constant of the graph */
    int *sharer;            /* per layer: another layer with the same weight, or -1 */
    esp_coupling *coupling; /* made by the cache for its first preview, so every finished one has it */
    int shape_count;        /* the input shapes it was inferred with */
    esp_input_shape *shapes;
    surgery_facts *facts; /* what surgery's decisions share */
} preview_subject;

esp_status preview_subject_new(const esp_graph *graph, const esp_input_shape *shapes, int shape_count,
                               preview_subject **out, esp_error *err);
/* A subject with its coupling, of a graph and its shapes at batch 1 that outlive it. */
esp_status preview_subject_borrow(const esp_graph *graph, const esp_inferred *inferred, preview_subject **out,
                                  esp_error *err);
/* Makes the coupling of a subject that has none yet. */
esp_status preview_subject_couple(preview_subject *subject, esp_error *err);
preview_subject *preview_subject_ref(preview_subject *subject);
void preview_subject_unref(preview_subject *subject);

typedef struct cached_grouping {
    int layer;
    esp_kmeans_options options;
    esp_kmeans_result result;
} cached_grouping;

/* What a criterion says of all layers. */
typedef struct cached_scores {
    char criterion[ESP_CRITERION_NAME_SIZE];
    uint64_t seed;
    double **scores; /* per layer, NULL where the criterion says nothing */
} cached_scores;

enum { PREVIEW_CACHED_SCORES = 16 };

struct esp_grouping_cache {
    preview_subject *subject; /* NULL until the first preview */
    bool has_before;
    esp_counts before;   /* of the subject under the masks it carries */
    esp_layer_l1 *norms; /* per layer; members NULL until asked for, and for weights that are not stored */
    bool has_norms;
    float **importance; /* per layer, NULL until asked for */
    int grouping_count, grouping_capacity;
    cached_grouping *groupings;

    int scores_count;
    cached_scores scores[PREVIEW_CACHED_SCORES];

    /* what criteria with data look at; of no model */
    esp_dataset *calibration;
    int64_t calibration_images;
    uint64_t calibration_seed;
    char *calibration_mean, *calibration_std; /* overrides of their normalisation, or NULL */
};

/* Points the cache at a model; forgets another one. */
esp_status preview_cache_use(esp_grouping_cache *cache, const esp_graph *graph, const esp_input_shape *shapes,
                             int shape_count, esp_error *err);
esp_status preview_cache_coupling(esp_grouping_cache *cache, const esp_coupling **out, esp_error *err);
esp_status preview_cache_before(esp_grouping_cache *cache, const esp_compute *compute, esp_counts *out,
                                esp_error *err);
esp_status preview_cache_norms(esp_grouping_cache *cache, const esp_compute *compute,
                               const esp_layer_l1 **out, esp_error *err);

/* What the plan's criterion says of every layer. */
esp_status preview_cache_scores(esp_grouping_cache *cache, const esp_compute *compute, const esp_plan *plan,
                                double *const **out, esp_error *err);

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

/* Whether something keeps a layer out, and what; `why` is untouched when nothing does. Layers of several
 * groups and shared weights take part where whole slots are chosen: the coupled sets see to it that every
 * group, and every layer with the weight, loses the same. */
bool preview_is_closed(const esp_preview *preview, int layer, esp_reason *reason, char *why, size_t size);

/* The opposite, with the reason in the layer's note. */
bool preview_may_take_part(esp_preview *preview, int layer);

/* A JSON string of a text in which names may have been cut inside a letter: bytes that are no UTF-8 become
 * '?'. NULL: no memory. */
json_t *preview_json_text(const char *text);

void preview_note(esp_preview_layer *item, const char *format, ...) ESP_PRINTF(2, 3);

/* ---- what the plan asks of coupled sets (preview_ask.c) ---- */

/* The kinds that have a ratio of their own; what scope `global` ranks together. */
enum { PREVIEW_KIND_CONV, PREVIEW_KIND_FC, PREVIEW_KIND_BORDER, PREVIEW_KINDS };

/* Of what conv or fully connected layers write, and what reads it. */
int preview_kind(bool writes_conv, bool reads_conv);
double preview_kind_ratio(const esp_plan *plan, int kind);

/* A set's readers may be of both kinds: it is a border only where no convolution reads. */
int preview_set_kind(const esp_preview *preview, const esp_coupled_set *set);

/* The ratio of a set. The smallest that a rule gives one of the writers wins over the kind's; *rule_layer is
 * that writer, -1 when no rule does. `rule_layer` may be NULL. */
double preview_set_ratio(const esp_preview *preview, const esp_coupled_set *set, int *rule_layer);

/* Whether a set is ranked in one list with all others of its kind: scope global, and no ratio of its own. */
bool preview_set_ranks_globally(const esp_preview *preview, const esp_coupled_set *set);

/* is_open[layer]: preview_may_take_part of each, with notes. Caller frees. */
esp_status preview_open_layers(esp_preview *preview, bool **out, esp_error *err);

/* Per coupled set a layer that keeps it from being cut, or -1: one that takes no part as writer or reader, or
 * one that follows (depthwise) and that the plan ignores. Caller frees. */
esp_status preview_obstacles(const esp_preview *preview, const esp_coupling *coupling, const bool *is_open,
                             int **out, esp_error *err);

/* Notes the layers that follow (depthwise), where nothing else was noted. */
void preview_note_followers(esp_preview *preview, const esp_coupling *coupling);

/* Writers take part with the ratio, readers with what they have. */
void preview_takes_part(esp_preview *preview, const esp_coupled_set *set, double ratio);

/* The methods: masks, what was asked, notes. */
esp_status preview_by_wsp(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                          esp_error *err);
esp_status preview_by_filter(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                             esp_error *err);
esp_status preview_by_sg(const esp_compute *compute, esp_grouping_cache *cache, esp_preview *preview,
                         esp_error *err);

#endif
