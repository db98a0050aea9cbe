/* How good the groupings of a preview by self-grouping are, and how many groups a layer asks for by itself.
 *
 * Everything is measured on the rows the filters were grouped by: importance vectors, filters x channels
 * (selfgroup.h), with the masks the model carries. */
#ifndef ESP_PRUNE_GROUPING_QUALITY_H
#define ESP_PRUNE_GROUPING_QUALITY_H

#include <jansson.h>

#include "prune/preview.h"

/* ---- figures of one clustering ---- */

/* Silhouettes (Rousseeuw 1987) of rows [count, columns] under labels in [0, k): (b - a) / max(a, b), where a
 * is a row's mean Euclidean distance to the others of its cluster and b the least mean distance to another
 * cluster's; 0 for a row alone in its cluster and where a = b = 0. All pairs of rows are looked at, none is
 * sampled: count^2 x columns multiplications in single precision over the pool, and once more in double for
 * pairs so close that digits would be lost, which leaves about five digits. `values` [count]; NaN everywhere
 * when there is one cluster only. ESP_NO_MEMORY, ESP_CANCELLED. */
esp_status esp_silhouettes(const esp_compute *compute, const float *rows, int64_t count, int64_t columns,
                           const int32_t *labels, int64_t k, double *values, esp_error *err);

/* The elbow of inertias of k = 1..count groups: the k farthest below the chord from the first to the last,
 * both axes scaled to [0, 1] (Satopaa et al. 2011, "kneedle", without smoothing). What a larger k lost by bad
 * luck counts as the best so far. `*bend` is that distance, 0 (a straight line: no k is better than another)
 * to 1. Ties go to the smaller k; 1 where nothing bends. count >= 1. */
int64_t esp_elbow_of(const double *inertias, int64_t count, double *bend);

/* ---- what is known of one layer ---- */

typedef struct esp_cluster_figures {
    int64_t filters;
    double silhouette; /* mean over its filters */
} esp_cluster_figures;

/* Filters with equal mask rows: what is executed as one group. Filters that read nothing form one, too. */
typedef struct esp_executed_figures {
    int64_t filters;
    int64_t channels_kept;
    double density;  /* share of the layer's channels */
    int32_t cluster; /* of its first filter */
} esp_executed_figures;

typedef struct esp_layer_groups {
    int layer; /* index into the preview's layers */
    int64_t k;
    double inertia, spread; /* sum of squared distances to the own centroid, and to the mean of all filters */
    double silhouette;      /* mean over the filters; NaN for one cluster */
    esp_cluster_figures *clusters; /* [k] */
    int64_t executed_count;
    esp_executed_figures *executed; /* [executed_count], by first appearance */
    double density;                 /* share of the connections kept */

    int64_t curve_count; /* 0: no suggestion was asked for */
    double *curve;       /* [curve_count]: inertia of k = 1.. */
    int64_t suggested;   /* esp_elbow_of the curve */
    double bend;
} esp_layer_groups;

typedef struct esp_groups_report {
    int count; /* layers that were grouped (and wanted) */
    esp_layer_groups *items;
} esp_groups_report;

typedef struct esp_groups_options {
    bool suggests;
    int64_t most;     /* largest k of a suggestion (and never more than the layer has filters): 32 */
    int restarts;     /* of the suggestion's k-means: 3 is enough for the shape of the curve */
    const bool *only; /* per layer of the preview, or NULL for all */
} esp_groups_options;
esp_groups_options esp_groups_defaults(void);

/* The groups of a preview by self-grouping. ESP_INVALID for a preview by another method, and for a `most` or
 * `restarts` below 1. Layer by layer, each over the pool; reports progress. */
esp_status esp_groups_report_new(const esp_compute *compute, const esp_preview *preview,
                                 const esp_groups_options *options, esp_groups_report *out, esp_error *err);
void esp_groups_report_free(esp_groups_report *report);

/* {"layers": [{name, weight, filters, channels, groups, inertia, spread, explained, silhouette, density,
 * clusters: [{filters, silhouette}], executed_groups: [{filters, channels_kept, density, cluster}], curve:
 * [...], suggested, bend}]}; the last three only when a suggestion was asked for. */
esp_status esp_groups_report_to_json(const esp_preview *preview, const esp_groups_report *report,
                                     json_t **out, esp_error *err);

/* A rule with the suggested number of groups for each layer of the report. */
esp_status esp_groups_suggest_rules(const esp_preview *preview, const esp_groups_report *report,
                                    esp_plan *plan, esp_error *err);

#endif
