/* What the files of k-means share. kmeans.c runs jobs from start to end; a job's restarts work either on the
 * products of all pairs of rows (row_products.h; kmeans_restart.c) or, where there
 * are too many rows for that, on the rows themselves (kmeans_direct.c). */
#ifndef ESP_PRUNE_KMEANS_INTERNAL_H
#define ESP_PRUNE_KMEANS_INTERNAL_H

#include "base/rng.h"
#include "prune/kmeans.h"
#include "prune/row_products.h"

typedef struct kmeans_state {
    const esp_kmeans_job *job;
    esp_kmeans_result *result; /* where the job's result goes */
    int64_t k;
    int restarts; /* that run: 0 when every row is its own cluster */

    bool has_products;
    bool borrows_products;     /* of an earlier job of the wave on the same rows */
    esp_row_products products; /* of jobs with products: values until the restarts are done */

    double *row_squares; /* [count] |x|^2 of the rows as they are; NULL for jobs with products */
    int32_t *labels;     /* [restarts, count] */
    double *inertias;    /* [restarts], in units of their own: to be compared with each other */
    int *iterations;     /* [restarts] */
} kmeans_state;

/* Rows per task of what is done row by row. */
static inline int64_t kmeans_block_rows(const esp_kmeans_job *job)
{
    int64_t rows = (1 << 18) / job->columns;
    return rows < 1 ? 1 : rows;
}

/* Fill labels, inertia and iterations of one restart. ESP_CANCELLED or ESP_NO_MEMORY. */
esp_status kmeans_restart_on_products(const esp_compute *compute, const kmeans_state *state, int restart);
esp_status kmeans_restart_on_rows(const esp_compute *compute, const kmeans_state *state, int restart);

/* k different rows of the state's: the front of a partial Fisher-Yates shuffle. `deck` is [count] of working
 * memory. */
void kmeans_draw_rows(const kmeans_state *state, esp_rng *rng, int32_t *deck, int64_t *seeds);

/* A row with probability proportional to its weight. */
int64_t kmeans_draw_weighted(const double *weights, int64_t count, esp_rng *rng);

/* Means of the members [k, columns] and their number, by definition; clusters without members get 0. Both
 * are overwritten. */
void kmeans_means(const esp_kmeans_job *job, const int32_t *labels, int64_t k, double *means,
                  int64_t *members);

/* Squared distance of a row to a point. */
double kmeans_distance(const float *row, const double *point, int64_t columns);

/* Hartigan's rule: what a row adds to the inertia of a cluster of `members` it is put into, and what it takes
 * off its own cluster's when it leaves, as shares of its squared distance to the mean. A row alone in its
 * cluster takes nothing off. */
static inline double kmeans_joining_share(int64_t members)
{
    return (double)members / (double)(members + 1);
}
static inline double kmeans_leaving_share(int64_t members)
{
    return members > 1 ? (double)members / (double)(members - 1) : 0;
}

#endif
