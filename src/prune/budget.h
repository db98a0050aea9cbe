/* Budgets: the ratios of a plan solved so that what remains of a model is at most this many MACs, parameters
 * or milliseconds, alone or together. */
#ifndef ESP_PRUNE_BUDGET_H
#define ESP_PRUNE_BUDGET_H

#include <jansson.h>

#include "prune/preview.h"
#include "prune/sensitivity.h"
#include "prune/surgery.h"
#include "train/latency_table.h"

/* One list of what can be asked for. Columns: NAME, word, unit of absolute amounts, title. Words, parser and
 * help come from it. */
#define ESP_BUDGET_LIST(X)                                                                                   \
    X(MACS, "macs", "", "multiply-accumulates of one image")                                                 \
    X(PARAMS, "params", "", "parameters")                                                                    \
    X(LATENCY, "latency", "ms", "time of one run on this machine")                                           \
    X(STORED_MACS, "stored-macs", "", "multiply-accumulates with zeros that cannot be cut out")              \
    X(STORED_PARAMS, "stored-params", "", "parameters with zeros that cannot be cut out")

typedef enum esp_budget_measure {
#define ESP_BUDGET_ENUM(name, word, unit, title) ESP_BUDGET_##name,
    ESP_BUDGET_LIST(ESP_BUDGET_ENUM)
#undef ESP_BUDGET_ENUM
        ESP_BUDGET_COUNT
} esp_budget_measure;

const char *esp_budget_word(esp_budget_measure measure);
const char *esp_budget_unit(esp_budget_measure measure); /* "", "ms" */
const char *esp_budget_title(esp_budget_measure measure);

/* How the pruning is spread over the layers. One list. Columns: NAME, word, title. `uniform`: one ratio for
 * all. `saliency`: one threshold over all layers, on scores in units of their layer's mean, so that layers
 * with much that is weak lose more. `sensitivity`: every part loses so much that it alone would cost the same
 * loss, by measured curves. */
#define ESP_DISTRIBUTION_LIST(X)                                                                             \
    X(UNIFORM, "uniform", "one ratio for all layers")                                                        \
    X(SALIENCY, "saliency", "one threshold over all layers")                                                 \
    X(SENSITIVITY, "sensitivity", "equal predicted loss in all layers, by measured curves")

typedef enum esp_distribution {
#define ESP_DISTRIBUTION_ENUM(name, word, title) ESP_DISTRIBUTION_##name,
    ESP_DISTRIBUTION_LIST(ESP_DISTRIBUTION_ENUM)
#undef ESP_DISTRIBUTION_ENUM
} esp_distribution;

const char *esp_distribution_word(esp_distribution distribution);
esp_status esp_distribution_parse(const char *word, esp_distribution *out, esp_error *err);

/* What may remain. */
typedef struct esp_budget_target {
    bool is_set;
    bool is_absolute; /* MACs, parameters, milliseconds; else a share of the unpruned model in (0, 1] */
    double value;
} esp_budget_target;

/* Reads "macs=0.5", "params=3M", "latency=3.5ms", several separated by commas, into
 * `targets[ESP_BUDGET_COUNT]`, whose other entries stay. A number up to 1 without a unit is a share; k, M and
 * G are thousands, millions, milliards (of counts; "1e7" is absolute too), and ms, us, s durations.
 * ESP_INVALID: unknown measures name the nearest; numbers out of range. */
esp_status esp_budget_targets_parse(const char *text, esp_budget_target *targets, esp_error *err);

/* One target from its measure's word and a number: share up to 1, absolute (milliseconds) above. */
esp_status esp_budget_target_set(const char *word, double value, esp_budget_target *targets, esp_error *err);

typedef struct esp_budget_options {
    esp_budget_target targets[ESP_BUDGET_COUNT]; /* one at least; all of them hold */
    esp_distribution distribution;
    bool keeps_conv, keeps_fc, keeps_border; /* that ratio of the plan stays as it is */
    const esp_sensitivity *sensitivity;      /* of this network; for ESP_DISTRIBUTION_SENSITIVITY */
    esp_sensitivity_measure cost;            /* what of it counts */
    bool measures; /* cuts for real and measures the whole network in turns with the unpruned one. With a
                      target for latency, ratios are solved again, up to ESP_BUDGET_CORRECTIONS times, while
                      it is off by more than ESP_BUDGET_ERROR */
    bool predicts; /* latency is predicted although it is no target */
    esp_group_form group_form; /* what SG will be cut to */
    const char *table_path;    /* latency table; NULL: measured afresh, kept nowhere */
    int64_t batch;             /* images per run that latency speaks of; 0: 1 */
    int repeats;               /* runs per measurement of a whole network; 0: as esp_latency_options */
    const esp_input_shape *input_shapes;
    int input_shape_count;
} esp_budget_options;

#define ESP_BUDGET_ERROR 0.05
enum { ESP_BUDGET_CORRECTIONS = 2 };

/* The largest ratio that is tried: nearer to 1 a layer's last filters go. */
#define ESP_BUDGET_MOST 0.99

/* One measure of the model: MACs, parameters (`true` counter) of the file that surgery writes, without and
 * with the zeros that stay as masks; milliseconds (predicted). */
typedef struct esp_budget_amount {
    bool is_set;   /* a target */
    bool is_known; /* always, but for latency that nobody wanted and for stored amounts that say nothing
                      new */
    double target; /* in the measure's unit, whatever way it was asked for */
    double before, after;
    double next; /* of the next larger network that was tried, which misses a target; `after` when there is
                    none */
} esp_budget_amount;

typedef struct esp_budget_report {
    esp_distribution distribution;
    esp_budget_amount amounts[ESP_BUDGET_COUNT];
    int binding;  /* the measure whose target the next larger network misses most; -1: nothing had to go */
    double level; /* uniform: the ratio; saliency: the share asked of all, or (SG, faithful WSP) the threshold
                     in units of a layer's mean; sensitivity: the cost per part */
    double tolerance;   /* of the search for it, as a share of its range */
    int previews;       /* tried, over all solves */
    double first_error; /* measured / predicted share - 1 of the first solve, before any correction */
    int corrections;    /* solves after the first */
    double exponent; /* measured shares were this power of the table's: what the last solve reckoned with */
    bool is_measured;
    double measured_before_ms, measured_ms; /* whole networks, in turns */
    int64_t table_known, table_measured;    /* times in the latency table, and those measured now */
    char machine[192];                      /* that latency speaks of; "" without latency */
    char note[192];                         /* what else is to be said; "" */
} esp_budget_report;

/* A share that the report's measurement and prediction differ by: measured / predicted - 1. 0 when either is
 * missing. */
double esp_budget_prediction_error(const esp_budget_report *report);

/* Solves the ratios of `plan` for the targets: `*out` is the plan with ratios (uniform, and saliency where
 * the method ranks slots: general ones; otherwise a rule per layer), to be freed with esp_plan_free. Rules
 * that set a layer's ratio stay as they are, and so do ignored layers, floors and round_to; all counts are
 * those of previews, so they are exact, and step by whole filters: the largest network that the search finds
 * at or below every target is taken, and the report says how large the next one was. Bisection on one number
 * ends when its range is `tolerance` wide.
 *
 * Latency is predicted layer by layer: the time a layer takes in the running network, times how the table's
 * entries at its width and at its full width compare; what is no layer scales with the channels it works on.
 *
 * ESP_INVALID: no target; a target that cannot be reached, saying the smallest that can be and which layers
 * stay; curves of another network. ESP_CANCELLED. `cache` and `report` may be NULL. */
esp_status esp_budget_solve(const esp_compute *compute, const esp_graph *graph, const esp_plan *plan,
                            const esp_budget_options *options, esp_grouping_cache *cache, esp_plan *out,
                            esp_budget_report *report, esp_error *err);

/* {"distribution", "binding", "level", "amounts": {"macs": {"target", "before", "after", "share", "next",
 * "is_target"}, ...}, "previews", "latency": {...}}. */
esp_status esp_budget_report_to_json(const esp_budget_report *report, json_t **out, esp_error *err);

#endif
