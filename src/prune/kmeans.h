/* k-means on the rows of a matrix, as SG-CNN uses it: Euclidean, best inertia of several restarts. Each
 * restart is some of Lloyd's iterations followed by exchanges of single rows (Hartigan's rule), which reach
 * inertias Lloyd alone misses by 2 to 10 % where there are few rows per cluster. */
#ifndef ESP_PRUNE_KMEANS_H
#define ESP_PRUNE_KMEANS_H

#include <stdint.h>

#include "base/compute.h"

/* One list of initialisations. Columns: NAME, word. */
#define ESP_KMEANS_INIT_LIST(X)                                                                              \
    X(RANDOM, "random")      /* k different rows, as published */                                            \
    X(PLUS_PLUS, "kmeans++") /* Arthur and Vassilvitskii 2007 */

typedef enum esp_kmeans_init {
#define ESP_KMEANS_INIT_ENUM(name, word) ESP_KMEANS_##name,
    ESP_KMEANS_INIT_LIST(ESP_KMEANS_INIT_ENUM)
#undef ESP_KMEANS_INIT_ENUM
} esp_kmeans_init;

/* Tolerance: a restart ends when a pass of exchanges over all rows takes a smaller share off the inertia. */
typedef struct esp_kmeans_options {
    int64_t k;          /* >= 1; more than there are rows means one cluster per row */
    int restarts;       /* 10 as published */
    int max_iterations; /* 300 as published */
    double tolerance;   /* 1e-4 */
    esp_kmeans_init init;
    uint64_t seed;
} esp_kmeans_options;

esp_kmeans_options esp_kmeans_defaults(void);

typedef struct esp_kmeans_result {
    int64_t
        k; /* at most options.k: fewer when there are fewer distinct rows, so every cluster has a member */
    int32_t *labels;   /* [rows], in [0, k) */
    double *centroids; /* [k, columns]: the mean of the members, of the final labels */
    double inertia;    /* sum of squared distances to the own centroid */
    int iterations;    /* of the best restart */
} esp_kmeans_result;

/* rows [count, columns], finite. Clusters that run empty take the row farthest from its mean (as
 * scikit-learn does). Clusters are numbered by their first members. Restarts run over the pool; the result
 * does not depend on the number of threads. Up to 8192 rows it needs rows^2 floats of memory, unless that is
 * more than restarts are worth. ESP_INVALID for options out of range and for rows that are not finite. */
esp_status esp_kmeans(const esp_compute *compute, const float *rows, int64_t count, int64_t columns,
                      const esp_kmeans_options *options, esp_kmeans_result *out, esp_error *err);

/* Several matrices at once: all restarts of all of them share the pool. out[job_count] as esp_kmeans would
 * give each. */
typedef struct esp_kmeans_job {
    const float *rows;
    int64_t count, columns;
    esp_kmeans_options options;
} esp_kmeans_job;
esp_status esp_kmeans_batch(const esp_compute *compute, const esp_kmeans_job *jobs, int job_count,
                            esp_kmeans_result *out, esp_error *err);

void esp_kmeans_free(esp_kmeans_result *result);

#endif
