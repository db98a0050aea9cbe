/* A preview: a plan resolved against a model: masks, groups, counts, with what was asked and what was got. */
#ifndef ESP_PRUNE_PREVIEW_H
#define ESP_PRUNE_PREVIEW_H

#include <jansson.h>

#include "base/compute.h"
#include "graph/layers.h"
#include "prune/criteria.h"
#include "prune/mask.h"
#include "prune/plan.h"
#include "prune/wsp.h"
#include "train/data.h"

/* SG: the grouping of one layer. */
typedef struct esp_grouping {
    int64_t k;
    int32_t *labels;   /* [filters] */
    double *centroids; /* [k, channels] */
    double inertia, threshold;
    int64_t executed_groups;
} esp_grouping;

typedef struct esp_preview_layer {
    esp_role role;
    bool takes_part;
    char note[128]; /* why it takes no part, or why got differs from asked; "" when nothing is to say */
    double asked;   /* ratio asked for this layer; 0 when it takes no part */
    double got;     /* WSP, FILTER: share of its filters that is cut; SG: share of its connections */
    double pruned;  /* share of its connections that is masked */
    int64_t params_before; /* elements of the weight that the model's masks leave */
    int64_t params_after;  /* those in the file that surgery writes, without zeros that stay as masks */
    int64_t params_stored; /* ... and with these zeros */
    int64_t macs_before, macs_after;
    int64_t filters_kept, channels_kept; /* with at least one connection */
    int64_t cascaded;                    /* SG: connections that went with channels nobody reads */
    esp_mask mask;
    esp_grouping grouping; /* SG: labels NULL otherwise */
} esp_preview_layer;

/* FILTER: a coupled set that was ranked. A slot's score is the mean over the writers that the criterion
 * speaks of; of each, the sum of its filters' scores for the slot, in units of the layer's mean slot unless
 * the criterion's scores compare across layers as they are. */
typedef struct esp_filter_set {
    int set;          /* index of the coupled set */
    double ratio;     /* asked, [0, 1) */
    bool has_rule;    /* a rule of the plan says so, not its ratio for the kind */
    int kind;         /* 0 conv, 1 fc, 2 border: what scope `global` ranks together */
    double *scores;   /* [slots] */
    double threshold; /* the lowest score that the ranking keeps; infinite when it takes all */
    esp_slot_choice choice;
} esp_filter_set;

typedef struct esp_preview {
    const esp_graph *graph; /* own reference */
    esp_inferred *inferred; /* batch 1 */
    esp_plan plan;
    esp_layers layers;
    esp_preview_layer *items; /* one per layer */
    esp_wsp wsp;              /* WSP: its pairs (sound: its coupled sets); pair_count 0 otherwise */
    int filter_set_count;     /* FILTER; 0 otherwise */
    esp_filter_set *filter_sets;
    double **filter_scores; /* FILTER: per layer [filters] what the criterion says, NULL where nothing */
    esp_counts before, after;
    esp_counts stored; /* `after` with the zeros that surgery cannot take out, which any runtime computes */
    bool *is_removed;  /* per slot of the coupled sets: surgery takes it out */
    struct preview_subject *subject; /* what previews of one model share; owns graph, inferred and layers */
} esp_preview;

/* What was already computed for a model (shapes, coupled sets, norms, importance, clusterings), so that a new
 * ratio costs neither a look at the weights nor k-means. Keep one per model and pass it to every preview of
 * that model; given another model it starts afresh. One thread at a time; previews made with it are
 * independent of it. */
typedef struct esp_grouping_cache esp_grouping_cache;
esp_status esp_grouping_cache_new(esp_grouping_cache **out, esp_error *err);
void esp_grouping_cache_free(esp_grouping_cache *cache);

/* The calibration set that criteria with data look at: `images` of it (0: ESP_CALIBRATION_IMAGES), chosen by
 * `seed`. The cache keeps a reference, and forgets scores that another set gave. NULL: none; a plan whose
 * criterion needs data is then ESP_INVALID. It stays when the cache meets another model. */
esp_status esp_preview_calibrate(esp_grouping_cache *cache, const esp_dataset *calibration, int64_t images,
                                 uint64_t seed, esp_error *err);
/* The same with all that can be said of the images: `mean` and `std` are copied, `batch` is passed over. */
esp_status esp_preview_calibrate_with(esp_grouping_cache *cache, const esp_criterion_data *data,
                                      esp_error *err);

/* Input sizes the file leaves open, as in esp_infer. `cache` may be NULL. Layers are clustered in parallel
 * over the pool. A rule of the plan that matches no layer is ESP_INVALID naming the nearest layer.
 *
 * `after` and `stored` count what surgery writes, by surgery's own decision (prune/surgery_decision.h): the
 * file has `stored` parameters and MACs, of which `after` are no zeros under a mask; `after` is what every
 * surface shows of that file. The `paper` counter of `after` counts what the masks leave, as the published
 * tables do; that of `stored` stays 0. */
esp_status esp_preview_new(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                           const esp_input_shape *input_shapes, int input_shape_count,
                           esp_grouping_cache *cache, esp_preview **out, esp_error *err);
void esp_preview_free(esp_preview *preview);

/* The importance matrix of a layer, masks the model carries applied: [filters, channels]. Caller frees
 * (esp_free). */
esp_status esp_preview_importance(const esp_preview *preview, int layer, float **out, esp_error *err);

/* {"layers":[{name, weight, asked, got, pruned, params_before, params_after, macs_..., mask:[...],
 * ledger:{...} (prune/ledger.h), groups...}], with `asked` as in the ledger, also of layers that take no
 * part, "before":{...}, "after":{...}, "stored":{...}, "nothing":"why nothing at all can be cut" (only then),
 * "plan":{...}, "pairs":[...]
 * (WSP), "sets":[{set, writer, slots, asked, threshold, ranked, kept_by_floor, kept_by_multiple, carried}]
 * (FILTER)}.
 */
esp_status esp_preview_to_json(const esp_preview *preview, bool with_masks, json_t **out, esp_error *err);

/* The masked model: same shapes, masked slices zero, metadata lists the masked layers. */
esp_status esp_preview_masked_graph(const esp_preview *preview, esp_graph **out, esp_error *err);

#endif
