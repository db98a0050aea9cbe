/* Small changes of a plan, as keys make them: the workbench sends what to change, never a whole plan, so that
 * no key is lost when several wait. */
#ifndef ESP_STUDY_PLAN_EDIT_H
#define ESP_STUDY_PLAN_EDIT_H

#include "graph/layers.h"
#include "prune/plan.h"

/* No ratio that stepping keys can reach removes a whole layer. */
#define ESP_EDIT_RATIO_MAX 0.95

typedef enum esp_plan_edit_kind {
    ESP_EDIT_RATIO_ADD,       /* every ratio of the plan, by `amount`; layers with their own keep them */
    ESP_EDIT_RATIO_SET,       /* every ratio of the plan, to `amount` */
    ESP_EDIT_LAYER_RATIO_ADD, /* the layer's own ratio, starting from what holds for it now */
    ESP_EDIT_LAYER_RATIO_SET, /* to `amount`, in [0, 1), as it is */
    ESP_EDIT_LAYER_IGNORE,    /* toggles */
    ESP_EDIT_LAYER_RESET,     /* drops what was said about the layer */
    ESP_EDIT_GROUPS_ADD,      /* groups of SG, by `amount` */
    ESP_EDIT_METHOD_NEXT,
    ESP_EDIT_MODE_NEXT,
    ESP_EDIT_CRITERION_NEXT, /* of FILTER; of those that need no data unless `amount` is 1 */
    ESP_EDIT_SCOPE_NEXT,     /* of plans that rank slots */
    ESP_EDIT_ROUND_NEXT,     /* 1, 8, 16, 32, likewise */
    ESP_EDIT_RESET,          /* all ratios 0, no rules */
} esp_plan_edit_kind;

typedef struct esp_plan_edit {
    esp_plan_edit_kind kind;
    int layer; /* of the LAYER kinds */
    double amount;
} esp_plan_edit;

/* Changes `plan` in place, clamping to what is allowed. On failure the plan is unchanged. */
esp_status esp_plan_apply_edit(esp_plan *plan, const esp_layers *layers, const esp_plan_edit *edit,
                               esp_error *err);

/* The rule that is about this layer alone (its weight's name as pattern), or NULL. */
const esp_plan_rule *esp_plan_layer_rule(const esp_plan *plan, const esp_layer *layer);

/* The ratio that holds for a layer now: its rules' or the plan's for its kind. */
double esp_plan_layer_ratio(const esp_plan *plan, const esp_layer *layer);
bool esp_plan_layer_is_ignored(const esp_plan *plan, const esp_layer *layer);

#endif
