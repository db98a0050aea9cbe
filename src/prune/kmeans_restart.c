/* One restart: Lloyd's iteration, then exchanges of single rows by Hartigan's rule. The distances of all rows
 * to all centroids come from one matrix product, |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and centroid sums are
 * kept up to date by the rows that changed their cluster only. Sums are in double: adding and taking off a
 * row many times leaves no visible drift.
 *
 * Initialisation, stopping rule and the treatment of empty clusters follow scikit-learn's KMeans (algorithm
 * "lloyd"). Lloyd stops at once where clusters have one to three rows each, as a layer's filters in 16 groups
 * do; the exchanges go on from there to partitions that hardly
 * any single move improves. */
#include "prune/kmeans_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "tensor/blas.h"

/* The working memory of one restart. */
typedef struct lloyd {
    const float *rows;
    int64_t count, columns, k;
    const double *row_squares;
    float *centroids;  /* [k, columns] */
    float *products;   /* [count, k] -2 x.c, then |c|^2 - 2 x.c */
    double *sums;      /* [k, columns] of the members */
    int64_t *members;  /* [k] */
    double *distances; /* [count] squared, to the own centroid */
    int32_t *labels;   /* [count] */
} lloyd;

static double squared_distance(const float *a, const float *b, int64_t length)
{
    double sum = 0;

    for (int64_t i = 0; i < length; i++) {
        double difference = (double)a[i] - (double)b[i];
        sum += difference * difference;
    }
    return sum;
}

/* ---- initialisation ---- */

static void take_row(lloyd *work, int64_t cluster, int64_t row)
{
    memcpy(work->centroids + cluster * work->columns, work->rows + row * work->columns,
           (size_t)work->columns * sizeof *work->centroids);
}

/* k different rows: the front of a partial Fisher-Yates shuffle. `labels` serves as the deck. */
static void init_random(lloyd *work, esp_rng *rng)
{
    for (int64_t i = 0; i < work->count; i++)
        work->labels[i] = (int32_t)i;
    for (int64_t g = 0; g < work->k; g++) {
        int64_t other = g + (int64_t)esp_rng_below(rng, (uint64_t)(work->count - g));
        int32_t row = work->labels[other];
        work->labels[other] = work->labels[g];
        work->labels[g] = row;
        take_row(work, g, row);
    }
}

/* k-means++ (Arthur and Vassilvitskii 2007): each next centre with probability proportional to its squared
 * distance. */
static void init_plus_plus(lloyd *work, esp_rng *rng)
{
    int64_t row = (int64_t)esp_rng_below(rng, (uint64_t)work->count);

    for (int64_t i = 0; i < work->count; i++)
        work->distances[i] = INFINITY;
    for (int64_t g = 0; g < work->k; g++) {
        double total = 0, target;
        take_row(work, g, row);
        for (int64_t i = 0; i < work->count; i++) {
            double distance = squared_distance(work->rows + i * work->columns,
                                               work->centroids + g * work->columns, work->columns);
            work->distances[i] = distance < work->distances[i] ? distance : work->distances[i];
            total += work->distances[i];
        }
        target = esp_rng_uniform(rng) * total;
        for (row = 0; row < work->count - 1 && target >= work->distances[row]; row++)
            target -= work->distances[row];
    }
}

/* ---- iteration ---- */

static void move_row(lloyd *work, int64_t row, int32_t cluster)
{
    const float *values = work->rows + row * work->columns;
    int32_t old = work->labels[row];

    if (old >= 0) {
        double *sum = work->sums + old * work->columns;
        for (int64_t i = 0; i < work->columns; i++)
            sum[i] -= (double)values[i];
        work->members[old]--;
    }
    double *sum = work->sums + cluster * work->columns;
    for (int64_t i = 0; i < work->columns; i++)
        sum[i] += (double)values[i];
    work->members[cluster]++;
    work->labels[row] = cluster;
}

/* products[row, g] = |c_g|^2 - 2 x_row.c_g: the squared distance without |x|^2, which is the same for all g.
 */
static void compare_rows(lloyd *work)
{
    int64_t k = work->k;

    esp_blas_gemm(false, true, work->count, k, work->columns, -2, work->rows, work->columns, work->centroids,
                  work->columns, 0, work->products, k);
    for (int64_t g = 0; g < k; g++) {
        const float *centroid = work->centroids + g * work->columns;
        double square = 0;
        for (int64_t i = 0; i < work->columns; i++)
            square += (double)centroid[i] * (double)centroid[i];
        for (int64_t row = 0; row < work->count; row++)
            work->products[row * k + g] += (float)square;
    }
}

/* Gives every row to its nearest centroid (ties: the lower number). Returns how many changed. */
static int64_t assign_rows(lloyd *work)
{
    int64_t changed = 0;

    compare_rows(work);
    for (int64_t row = 0; row < work->count; row++) {
        const float *products = work->products + row * work->k;
        int32_t nearest = 0;
        for (int32_t g = 1; g < work->k; g++)
            nearest = products[g] < products[nearest] ? g : nearest;
        work->distances[row] = work->row_squares[row] + (double)products[nearest];
        if (nearest != work->labels[row]) {
            move_row(work, row, nearest);
            changed++;
        }
    }
    return changed;
}

/* Every empty cluster takes the row that is farthest from its centroid, while there is one that does not sit
 * on it and would not leave its own cluster empty. Returns how many rows moved. */
static int64_t fill_empty_clusters(lloyd *work)
{
    int64_t moved = 0;

    for (int32_t g = 0; g < work->k; g++) {
        int64_t farthest = -1;
        if (work->members[g])
            continue;
        for (int64_t row = 0; row < work->count; row++)
            if (work->members[work->labels[row]] > 1 &&
                (farthest < 0 || work->distances[row] > work->distances[farthest]))
                farthest = row;
        if (farthest < 0 ||
            squared_distance(work->rows + farthest * work->columns,
                             work->centroids + work->labels[farthest] * work->columns, work->columns) <= 0)
            return moved;
        move_row(work, farthest, g);
        work->distances[farthest] = 0;
        moved++;
    }
    return moved;
}

/* Centroids to the means of their members; an empty cluster stays where it is. Returns the squared movement.
 */
static double update_centroids(lloyd *work)
{
    double movement = 0;

    for (int64_t g = 0; g < work->k; g++) {
        float *centroid = work->centroids + g * work->columns;
        const double *sum = work->sums + g * work->columns;
        if (!work->members[g])
            continue;
        for (int64_t i = 0; i < work->columns; i++) {
            float mean = (float)(sum[i] / (double)work->members[g]);
            double step = (double)mean - (double)centroid[i];
            movement += step * step;
            centroid[i] = mean;
        }
    }
    return movement;
}

/* Squared distance of a row to the mean of a cluster as it is now. */
static double distance_to_mean(const lloyd *work, int64_t row, int64_t cluster)
{
    const float *values = work->rows + row * work->columns;
    const double *sum = work->sums + cluster * work->columns;
    double share = 1 / (double)work->members[cluster], square = 0;

    for (int64_t i = 0; i < work->columns; i++) {
        double difference = (double)values[i] - sum[i] * share;
        square += difference * difference;
    }
    return square;
}

/* What a row adds to the inertia of a cluster it is put into: n/(n+1) of its squared distance to the mean. */
static double joining_cost(double square, int64_t members)
{
    return square * (double)members / (double)(members + 1);
}

/* What a row takes off the inertia of its cluster when it leaves: n/(n-1) of its squared distance to the
 * mean. */
static double leaving_gain(double square, int64_t members)
{
    return square * (double)members / (double)(members - 1);
}

/* The cluster that by the products would take a row at the least cost, or -1 when none comes near what
 * leaving gains. `slack` covers the products' rounding: what they let through is decided in double. */
static int32_t find_offer(const lloyd *work, int64_t row)
{
    const double slack = 1e-5 * work->row_squares[row];
    const float *products = work->products + row * work->k;
    int32_t own = work->labels[row], best = -1;
    double cheapest = INFINITY;

    for (int32_t g = 0; g < work->k; g++) {
        double cost = joining_cost(work->row_squares[row] + (double)products[g], work->members[g]);
        if (g != own && work->members[g] && cost < cheapest) {
            cheapest = cost;
            best = g;
        }
    }
    double gain = leaving_gain(work->row_squares[row] + (double)products[own], work->members[own]);
    return cheapest < gain + slack ? best : -1;
}

/* One pass of Hartigan's rule: a row changes its cluster where that lowers the inertia once both means have
 * followed. The product of the whole matrix proposes, from the means at the start of the pass; the present
 * means decide. Returns the share of the inertia that the pass took off. */
static double exchange_rows(lloyd *work)
{
    const double least_gain = 1e-6; /* relative: rounding must not move rows to and fro */
    double inertia = 0, saved = 0;

    compare_rows(work);
    for (int64_t row = 0; row < work->count; row++) {
        int32_t own = work->labels[row], best;
        inertia += work->row_squares[row] + (double)work->products[row * work->k + own];
        best = work->members[own] > 1 ? find_offer(work, row) : -1;
        if (best < 0)
            continue;
        double cost = joining_cost(distance_to_mean(work, row, best), work->members[best]);
        double gain = leaving_gain(distance_to_mean(work, row, own), work->members[own]);
        if (cost < gain * (1 - least_gain)) {
            move_row(work, row, best);
            saved += gain - cost;
        }
    }
    update_centroids(work);
    return inertia > 0 ? saved / inertia : 0;
}

/* sum |x|^2 - sum over clusters |S|^2 / n: the inertia to the exact means. */
static double inertia_of_sums(const lloyd *work)
{
    double inertia = 0;

    for (int64_t row = 0; row < work->count; row++)
        inertia += work->row_squares[row];
    for (int64_t g = 0; g < work->k; g++) {
        double square = 0;
        for (int64_t i = 0; i < work->columns; i++)
            square += work->sums[g * work->columns + i] * work->sums[g * work->columns + i];
        if (work->members[g])
            inertia -= square / (double)work->members[g];
    }
    return inertia > 0 ? inertia : 0;
}

static void lloyd_free(lloyd *work)
{
    esp_free(work->centroids);
    esp_free(work->products);
    esp_free(work->sums);
    esp_free(work->members);
    esp_free(work->distances);
}

static esp_status lloyd_new(const kmeans_state *state, int restart, lloyd *work)
{
    const esp_kmeans_job *job = state->job;
    size_t count = (size_t)job->count, columns = (size_t)job->columns, k = (size_t)state->k;

    *work = (lloyd){.rows = job->rows,
                    .count = job->count,
                    .columns = job->columns,
                    .k = state->k,
                    .row_squares = state->row_squares,
                    .labels = state->labels + restart * job->count};
    work->centroids = esp_alloc(k * columns, sizeof *work->centroids);
    work->products = esp_alloc(count * k, sizeof *work->products);
    work->sums = esp_alloc_zero(k * columns, sizeof *work->sums);
    work->members = esp_alloc_zero(k, sizeof *work->members);
    work->distances = esp_alloc(count, sizeof *work->distances);
    if (work->centroids && work->products && work->sums && work->members && work->distances)
        return ESP_OK;
    lloyd_free(work);
    return ESP_NO_MEMORY;
}

/* Lloyd until the centroids rest, then exchanges until a pass hardly lowers the inertia. */
static esp_status settle(const esp_compute *compute, lloyd *work, const kmeans_state *state, int *iterations)
{
    int limit = state->job->options.max_iterations, done = 0;

    for (bool is_moving = true; is_moving && done < limit; done++) {
        if (esp_compute_is_cancelled(compute))
            return ESP_CANCELLED;
        int64_t changed = assign_rows(work);
        changed += fill_empty_clusters(work);
        is_moving = changed > 0 && update_centroids(work) > state->tolerance;
    }
    update_centroids(work);
    for (bool is_moving = true; is_moving && done < limit; done++) {
        if (esp_compute_is_cancelled(compute))
            return ESP_CANCELLED;
        is_moving = exchange_rows(work) > state->job->options.tolerance;
    }
    *iterations = done;
    return ESP_OK;
}

esp_status kmeans_run_restart(const esp_compute *compute, const kmeans_state *state, int restart)
{
    const esp_kmeans_options *options = &state->job->options;
    lloyd work;
    esp_rng rng;
    esp_status status = lloyd_new(state, restart, &work);
    int iteration = 0;

    if (status != ESP_OK)
        return status;
    esp_rng_seed_stream(&rng, options->seed, (uint64_t)restart);
    if (options->init == ESP_KMEANS_PLUS_PLUS)
        init_plus_plus(&work, &rng);
    else
        init_random(&work, &rng);
    for (int64_t row = 0; row < work.count; row++)
        work.labels[row] = -1;

    status = settle(compute, &work, state, &iteration);
    if (status == ESP_OK) {
        state->inertias[restart] = inertia_of_sums(&work);
        state->iterations[restart] = iteration;
    }
    lloyd_free(&work);
    return status;
}
