/* The criteria table: how much a filter of a layer matters. One row per criterion in criteria.def. */
#ifndef ESP_PRUNE_CRITERIA_H
#define ESP_PRUNE_CRITERIA_H

#include "base/compute.h"
#include "graph/layers.h"

typedef struct esp_criterion_context {
    const esp_compute *compute;
    const esp_graph *graph;
    const esp_layer *layer;
    const float *weight; /* canonical [filters, channels, kernel positions], mask applied */
    uint64_t seed;
} esp_criterion_context;

typedef struct esp_criterion {
    const char *name;   /* "l1" */
    const char *title;  /* "L1 norm of the filter" */
    const char *source; /* the paper it comes from */
    esp_status (*score)(const esp_criterion_context *context, double *scores,
                        esp_error *err); /* scores[filters] */
} esp_criterion;

int esp_criterion_count(void);
const esp_criterion *esp_criterion_at(int index);
/* Unknown names: ESP_INVALID naming the nearest. */
esp_status esp_criterion_find(const char *name, const esp_criterion **out, esp_error *err);

/* Saliency of every filter of a layer by one criterion, with the masks the model carries applied.
 * scores[filters]. `compute` may be NULL: one thread, not to be cancelled. */
esp_status esp_saliency(const esp_compute *compute, const esp_graph *graph, const esp_layer *layer,
                        const esp_criterion *criterion, uint64_t seed, double *scores, esp_error *err);

/* NumPy's linear-interpolation percentile, p in [0, 100], to the last bit; `values` is reordered in place,
 * not sorted. count >= 1. Linear time. */
double esp_percentile(double *values, int64_t count, double p);

/* The same of values that occur several times: as esp_percentile of the list in which each stands `times`
 * times. Reorders `items`; times >= 0, at least one above 0. */
typedef struct esp_repeated {
    double value;
    int64_t times;
} esp_repeated;
double esp_percentile_repeated(esp_repeated *items, int64_t count, double p);

#endif
