/* What the files of the budget share: spreads (a number becomes a plan) and the latency model (a preview
 * becomes milliseconds). */
#ifndef ESP_PRUNE_BUDGET_INTERNAL_H
#define ESP_PRUNE_BUDGET_INTERNAL_H

#include "prune/budget.h"
#include "prune/preview_internal.h"

/* ---- budget_spread.c: what a level between 0 (nothing) and 1 (all that may go) makes of a plan ---- */

/* Scores of what a rule's ratio chooses from, ascending, each with the share of all that lies below it. */
typedef struct budget_scores {
    int64_t count;
    double *values, *below;
} budget_scores;

/* Layers whose ratio moves together. */
typedef struct budget_unit {
    int *layers; /* indices: a rule is written for each */
    int layer_count;
    int curve;            /* of the sensitivity, or -1 */
    budget_scores scores; /* by saliency */
} budget_unit;

typedef struct budget_spread {
    const esp_plan *plan;
    const esp_budget_options *options;
    const esp_layers *layers;
    int unit_count;
    budget_unit *units; /* none for general ratios */
    double scale;       /* of the level: the largest threshold or cost */
} budget_spread;

/* `whole` is a preview at ratios 0; borrowed. */
esp_status budget_spread_new(const esp_plan *plan, const esp_budget_options *options,
                             const esp_preview *whole, budget_spread *out, esp_error *err);
void budget_spread_free(budget_spread *spread);

/* The plan at a level in [0, 1]; what the report calls the level in `*shown`. */
esp_status budget_spread_plan(const budget_spread *spread, double level, esp_plan *out, double *shown,
                              esp_error *err);

/* ---- budget_latency.c ---- */

/* A busy machine makes the runs of one network differ: measured again, so often at most, while the quartiles
 * lie further apart than this share of the median; the quietest measurement counts. */
#define BUDGET_QUIET_SPREAD 0.1
enum { BUDGET_MEASUREMENTS = 3 };

typedef struct budget_latency budget_latency;

/* Measures the unpruned network on this machine, and its layers at their full width. */
esp_status budget_latency_new(const esp_compute *compute, const esp_preview *whole,
                              const esp_budget_options *options, budget_latency **out, esp_error *err);
void budget_latency_free(budget_latency *model); /* NULL is allowed */
/* Measures the unpruned network again, after the machine has turned out to be faster or slower than it was.
 */
esp_status budget_latency_renew(budget_latency *model, const esp_compute *compute, const esp_preview *whole,
                                const esp_budget_options *options, esp_error *err);

double budget_latency_before(const budget_latency *model); /* ms of the unpruned network */
const esp_latency_table *budget_latency_table(const budget_latency *model);
esp_status budget_latency_predict(budget_latency *model, const esp_preview *preview,
                                  const esp_coupling *coupling, double *ms, esp_error *err);
esp_status budget_latency_save(budget_latency *model, esp_error *err);

#endif
