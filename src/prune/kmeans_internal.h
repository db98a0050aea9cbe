/* What the restarts of one job share: kmeans.c makes it, kmeans_restart.c runs one restart on it. */
#ifndef ESP_PRUNE_KMEANS_INTERNAL_H
#define ESP_PRUNE_KMEANS_INTERNAL_H

#include "prune/kmeans.h"

typedef struct kmeans_state {
    const esp_kmeans_job *job;
    int64_t k;
    double tolerance;    /* squared centroid movement at which iteration ends */
    double *row_squares; /* [count] |x|^2 */
    int32_t *labels;     /* [restarts, count] */
    double *inertias;    /* [restarts] */
    int *iterations;     /* [restarts] */
} kmeans_state;

/* Fills labels, inertia and iterations of one restart. ESP_CANCELLED or ESP_NO_MEMORY. */
esp_status kmeans_run_restart(const esp_compute *compute, const kmeans_state *state, int restart);

#endif
