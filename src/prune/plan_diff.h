/* Plans beside each other and beside a model that has changed: what differs, one plan over another, and what
 * of a plan no longer fits. */
#ifndef ESP_PRUNE_PLAN_DIFF_H
#define ESP_PRUNE_PLAN_DIFF_H

#include <jansson.h>

#include "base/compute.h"
#include "graph/infer.h"
#include "graph/layers.h"
#include "prune/criteria.h"
#include "prune/plan.h"

/* ---- differences ---- */

/* One field of a plan, or of a rule. Texts are owned; NULL: the plan does not say (it has the default, or no
 * such rule). */
typedef struct esp_plan_change {
    char *where; /* "groups", "ratio.conv", "rule 'layer3.*': ratio", "order of rules" */
    char *a, *b;
    bool is_rule;
} esp_plan_change;

typedef struct esp_plan_changes {
    int count;
    esp_plan_change *items;
} esp_plan_changes;

/* Every field whose JSON form differs, general ones first, then rules by pattern; none: the plans are the
 * same. */
esp_status esp_plan_diff(const esp_plan *a, const esp_plan *b, esp_plan_changes *out, esp_error *err);
void esp_plan_changes_free(esp_plan_changes *changes);

/* What two plans make of one layer. */
typedef struct esp_plan_effect {
    char *layer;
    int64_t filters, params; /* before */
    double asked[2], got[2]; /* of plan a, b */
    int64_t filters_kept[2], params_after[2], macs_after[2];
} esp_plan_effect;

typedef struct esp_plan_effects {
    int count; /* layers with different masks */
    esp_plan_effect *items;
    int layer_count; /* of the model */
    esp_counts before, after[2];
} esp_plan_effects;

/* Previews of both plans on a model, and the layers that come out differently. */
esp_status esp_plan_compare(const esp_compute *compute, const esp_graph *graph, const esp_plan *a,
                            const esp_plan *b, const esp_input_shape *input_shapes, int input_shape_count,
                            esp_plan_effects *out, esp_error *err);
/* The same where a plan's criterion looks at data; NULL: none is given. */
esp_status esp_plan_compare_on(const esp_compute *compute, const esp_graph *graph, const esp_plan *a,
                               const esp_plan *b, const esp_input_shape *input_shapes, int input_shape_count,
                               const esp_criterion_data *data, esp_plan_effects *out, esp_error *err);
void esp_plan_effects_free(esp_plan_effects *effects);

/* {"same": false, "changes": [{"where", "a", "b"}], "layers": [...], "before", "after": [a, b]}; `effects`
 * may be NULL. */
esp_status esp_plan_diff_to_json(const esp_plan_changes *changes, const esp_plan_effects *effects,
                                 json_t **out, esp_error *err);

/* ---- merging ---- */

/* Who wins where both plans say something. */
typedef enum esp_plan_side {
    ESP_PLAN_RULES,  /* general fields of a, rules of b over those of a */
    ESP_PLAN_OURS,   /* a wins everywhere */
    ESP_PLAN_THEIRS, /* b wins everywhere */
} esp_plan_side;

/* Something both plans say, and say differently. */
typedef struct esp_plan_conflict {
    char *where; /* "groups", "rule 'conv1': ratio", with a model "layer 'conv1': ratio" */
    char *a, *b;
    bool took_b;
} esp_plan_conflict;

typedef struct esp_plan_conflicts {
    int count;
    esp_plan_conflict *items;
} esp_plan_conflicts;

/* b over a. With `layers` (may be NULL) rules conflict where they say different things of a layer, whatever
 * their patterns; without, where their patterns are equal or one is a name that the other matches. `*out` is
 * to be freed with esp_plan_free, conflicts with esp_plan_conflicts_free. */
esp_status esp_plan_merge(const esp_plan *a, const esp_plan *b, esp_plan_side side, const esp_layers *layers,
                          esp_plan *out, esp_plan_conflicts *conflicts, esp_error *err);
void esp_plan_conflicts_free(esp_plan_conflicts *conflicts);
/* {"plan": {...}, "conflicts": [{"where", "a", "b", "took"}]}. */
esp_status esp_plan_merge_to_json(const esp_plan *merged, const esp_plan_conflicts *conflicts, json_t **out,
                                  esp_error *err);

/* ---- a plan on a changed model ---- */

/* One list of what may not fit. Columns: NAME, word. */
#define ESP_MISFIT_LIST(X)                                                                                   \
    X(GONE, "gone")             /* a rule matches no layer any more */                                       \
    X(UNCUTTABLE, "uncuttable") /* a rule asks a ratio of a layer of which nothing can be cut */             \
    X(RATIO, "ratio")           /* the ratio leaves less than must stay of the layer */                      \
    X(GROUPS, "groups")         /* more groups than the layer has filters */                                 \
    X(ROUNDING, "rounding") /* the layer has another number of filters, and another share of them stays */   \
    X(NEW, "new")           /* a layer that the old model did not have, with the general ratio */

typedef enum esp_misfit_kind {
#define ESP_MISFIT_ENUM(name, word) ESP_MISFIT_##name,
    ESP_MISFIT_LIST(ESP_MISFIT_ENUM)
#undef ESP_MISFIT_ENUM
} esp_misfit_kind;
const char *esp_misfit_word(esp_misfit_kind kind);

typedef struct esp_plan_misfit {
    esp_misfit_kind kind;
    char *layer;   /* the rule's pattern, or the layer */
    char *text;    /* what does not fit */
    char *nearest; /* GONE: the layer it may be now, or NULL */
    char *repair;  /* what the repaired plan does about it, or NULL: nothing */
} esp_plan_misfit;

typedef struct esp_plan_fit {
    int count;
    esp_plan_misfit *items;
    esp_plan repaired; /* fits: esp_preview_new takes it */
} esp_plan_fit;

typedef struct esp_plan_fit_options {
    const esp_graph
        *from;    /* the model that the plan was made for, or NULL: then ROUNDING and NEW are not found */
    bool renames; /* rules of layers that are gone go to the nearest layer instead of being dropped */
    const esp_input_shape *input_shapes;
    int input_shape_count;
    const esp_criterion_data *data; /* for a criterion that looks at data, or NULL */
} esp_plan_fit_options;

/* What of a plan does not fit a model, and the plan repaired. Nothing found: `repaired` is the plan. A layer
 * that was split by surgery ("conv1" into "conv1/group0", ...) counts as gone, its parts ("conv1/" and
 * anything) as the nearest. `options` may be NULL. */
esp_status esp_plan_fit_new(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                            const esp_plan_fit_options *options, esp_plan_fit *out, esp_error *err);
void esp_plan_fit_free(esp_plan_fit *fit);
/* {"fits": true, "misfits": [{"kind", "layer", "text", "nearest", "repair"}], "plan": {...}}. */
esp_status esp_plan_fit_to_json(const esp_plan_fit *fit, json_t **out, esp_error *err);

#endif
