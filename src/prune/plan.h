/* A plan: what to prune, by which method, how much, per layer. Pure data; no weights, no graph. */
#ifndef ESP_PRUNE_PLAN_H
#define ESP_PRUNE_PLAN_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"
#include "prune/kmeans.h"

/* One list of methods. Columns: NAME, word, title. */
#define ESP_METHOD_LIST(X)                                                                                   \
    X(WSP, "wsp", "weak sub-network pruning")                                                                \
    X(SG, "sg", "self-grouping convolution")                                                                 \
    X(FILTER, "filter", "filter pruning by a criterion")

typedef enum esp_method {
#define ESP_METHOD_ENUM(name, word, title) ESP_METHOD_##name,
    ESP_METHOD_LIST(ESP_METHOD_ENUM)
#undef ESP_METHOD_ENUM
} esp_method;

/* METHODS.md: `faithful` reproduces the published masks bit for bit; `sound` is what an engineer wants. One
 * list of modes. Columns: NAME, word. */
#define ESP_MODE_LIST(X)                                                                                     \
    X(FAITHFUL, "faithful")                                                                                  \
    X(SOUND, "sound")

typedef enum esp_mode {
#define ESP_MODE_ENUM(name, word) ESP_MODE_##name,
    ESP_MODE_LIST(ESP_MODE_ENUM)
#undef ESP_MODE_ENUM
} esp_mode;

/* What is ranked against what. `layer`: the slots of each coupled set among themselves, so that every layer
 * gives the share asked of it. `global`: all slots of all sets of a kind (conv, fc, border) in one list, by
 * scores in units of their layer's mean, or as they are where the criterion's compare across layers; a layer
 * with a ratio of its own stays out of that list. One list of scopes. Columns: NAME, word. */
#define ESP_SCOPE_LIST(X)                                                                                    \
    X(LAYER, "layer")                                                                                        \
    X(GLOBAL, "global")

typedef enum esp_scope {
#define ESP_SCOPE_ENUM(name, word) ESP_SCOPE_##name,
    ESP_SCOPE_LIST(ESP_SCOPE_ENUM)
#undef ESP_SCOPE_ENUM
} esp_scope;

#define ESP_CRITERION_NAME_SIZE 32

/* What differs for layers whose node or weight name matches `pattern` (wildcards * and ?). Later rules win:
 * the last that matches says whether a layer is ignored, the last that sets a number says the number. */
typedef struct esp_plan_rule {
    char *pattern;
    double ratio; /* negative: not set */
    int groups;   /* 0: not set */
    bool is_ignored;
} esp_plan_rule;

typedef struct esp_plan {
    esp_method method;
    esp_mode mode;
    double conv_ratio, fc_ratio, border_ratio; /* [0, 1); border: the conv -> fc pair of WSP */
    int groups;                                /* SG: k, 16 as published */
    esp_kmeans_init init;
    int restarts, max_iterations;
    uint64_t seed;
    char criterion[ESP_CRITERION_NAME_SIZE]; /* FILTER: a name of the criteria table; "l1" */
    esp_scope scope;                         /* FILTER and sound WSP */
    double floor;  /* FILTER and sound WSP: share of a coupled set's slots that always stays, [0, 1]; 0.1 */
    int round_to;  /* FILTER and sound WSP: slots that stay are a multiple of it, rounded up; 1: off */
    bool cascades; /* sound SG: filters that nobody reads go too; true */
    int rule_count;
    esp_plan_rule *rules;
} esp_plan;

/* A method with published constants, the defaults named above, and every ratio at `ratio`. */
esp_plan esp_plan_make(esp_method method, esp_mode mode, double ratio);
esp_status esp_plan_clone(const esp_plan *plan, esp_plan *out, esp_error *err);
void esp_plan_free(esp_plan *plan);

/* Adds or merges a rule; a pattern without wildcards that repeats an earlier one is merged into it. */
esp_status esp_plan_add_rule(esp_plan *plan, const char *pattern, double ratio, int groups, bool is_ignored,
                             esp_error *err);

/* What the rules make of one layer. */
typedef struct esp_layer_settings {
    bool has_ratio; /* a rule set it */
    double ratio;   /* `otherwise` when no rule did */
    int groups;
    bool is_ignored;
} esp_layer_settings;
esp_layer_settings esp_plan_resolve(const esp_plan *plan, const char *node_name, const char *weight_name,
                                    double otherwise);

/* Ranges: ratios in [0,1), groups >= 1, restarts >= 1, ... ESP_INVALID says which, found and expected; so is
 * an unknown criterion, and a scope or round_to where whole slots are not ranked (esp_plan_ranks_slots). */
esp_status esp_plan_check(const esp_plan *plan, esp_error *err);

/* Whether the plan chooses whole slots of coupled sets, by a ranking that scope, floor and round_to can
 * change: FILTER, and WSP in sound mode. Faithful WSP reproduces published masks, SG chooses connections. */
bool esp_plan_ranks_slots(const esp_plan *plan);

/* Another method or mode; scope and round_to go back to their defaults where the new one has no use for
 * them. */
void esp_plan_set_method(esp_plan *plan, esp_method method, esp_mode mode);

/* Versioned JSON, byte-stable:
 * {"version": 1, "method": "sg", "mode": "faithful", "ratio": {"conv": 0.5, "fc": 0.5, "border": 0.5},
 * "groups": 16, "init": "random", "restarts": 10, "max_iterations": 300, "seed": 0, "rules": [{"layer":
 * "layer3.*", "ratio": 0.3, "groups": 8}, {"layer": "conv1", "ignore": true}]} Read: "version" and "method"
 * must be there, what else is missing has its default (ratio 0, mode sound); "ratio" may be one number for
 * all kinds. Unknown keys are errors that name the nearest.
 *
 * Further keys: "criterion", "scope", "floor", "round_to", "cascade" (a boolean), as in the struct. FILTER
 * writes the first four and neither mode nor what k-means needs: {"version": 1, "method": "filter", "ratio":
 * {...}, "criterion": "l1", "scope": "layer", "floor": 0.1, "round_to": 1, "seed": 0, "rules": [...]}. WSP
 * and SG write those that are theirs and not at their default. */
esp_status esp_plan_to_json(const esp_plan *plan, json_t **out, esp_error *err);
esp_status esp_plan_from_json(const json_t *json, esp_plan *out, esp_error *err);
esp_status esp_plan_load(const char *path, esp_plan *out, esp_error *err);
esp_status esp_plan_save(const esp_plan *plan, const char *path, esp_error *err);

const char *esp_method_word(esp_method method);
const char *esp_method_title(esp_method method);
esp_status esp_method_parse(const char *word, esp_method *out, esp_error *err);
const char *esp_mode_word(esp_mode mode);
esp_status esp_mode_parse(const char *word, esp_mode *out, esp_error *err);
const char *esp_scope_word(esp_scope scope);
esp_status esp_scope_parse(const char *word, esp_scope *out, esp_error *err);

#endif
