/* One restart on the rows themselves: Lloyd's iteration, then exchanges of single rows by Hartigan's rule.
 * For matrices of so many rows that the products of all pairs (kmeans_restart.c) would be too many. The
 * distances of a block of rows to all centroids come from one matrix product, |x - c|^2 = |x|^2 - 2 x.c +
 * |c|^2, and centroid sums are kept up to date by the rows that changed their cluster only. Sums are in
 * double: adding and taking off a row many times leaves no visible drift.
 *
 * The treatment of empty clusters follows scikit-learn's KMeans (algorithm "lloyd"). */
#include "prune/kmeans_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/blas.h"

/* The working memory of one restart. */
typedef struct direct_work {
    const float *rows;
    int64_t count, columns, k, block;
    const double *row_squares;
    float *centroids; /* [k, columns] */
    float *centroid_squares;
    float *products;   /* [block, k] -2 x.c, then |c|^2 - 2 x.c */
    double *sums;      /* [k, columns] of the members */
    int64_t *members;  /* [k] */
    double *distances; /* [count] squared, to the own centroid */
    int32_t *labels;   /* [count] */
} direct_work;

/* ---- initialisation ---- */

static void take_row(direct_work *work, int64_t cluster, int64_t row)
{
    memcpy(work->centroids + cluster * work->columns, work->rows + row * work->columns,
           (size_t)work->columns * sizeof *work->centroids);
}

/* k-means++ (Arthur and Vassilvitskii 2007): each next centre with probability proportional to its squared
 * distance. `centre` is [columns] of working memory. */
static void init_plus_plus(direct_work *work, esp_rng *rng, double *centre)
{
    int64_t row = (int64_t)esp_rng_below(rng, (uint64_t)work->count);

    for (int64_t i = 0; i < work->count; i++)
        work->distances[i] = INFINITY;
    for (int64_t g = 0; g < work->k; g++) {
        take_row(work, g, row);
        for (int64_t i = 0; i < work->columns; i++)
            centre[i] = (double)work->centroids[g * work->columns + i];
        for (int64_t i = 0; i < work->count; i++) {
            double distance = kmeans_distance(work->rows + i * work->columns, centre, work->columns);
            work->distances[i] = distance < work->distances[i] ? distance : work->distances[i];
        }
        row = kmeans_draw_weighted(work->distances, work->count, rng);
    }
}

/* ---- iteration ---- */

static void move_row(direct_work *work, int64_t row, int32_t cluster)
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

/* |c_g|^2 of every centroid, as the products below need it. */
static void measure_centroids(direct_work *work)
{
    for (int64_t g = 0; g < work->k; g++) {
        const float *centroid = work->centroids + g * work->columns;
        double square = 0;
        for (int64_t i = 0; i < work->columns; i++)
            square += (double)centroid[i] * (double)centroid[i];
        work->centroid_squares[g] = (float)square;
    }
}

/* products[row, g] = |c_g|^2 - 2 x_row.c_g of `count` rows: the squared distance without |x|^2, which is the
 * same for all g. */
static void compare_rows(direct_work *work, int64_t first, int64_t count)
{
    int64_t k = work->k;

    esp_blas_gemm(false, true, count, k, work->columns, -2, work->rows + first * work->columns, work->columns,
                  work->centroids, work->columns, 0, work->products, k);
    for (int64_t row = 0; row < count; row++)
        for (int64_t g = 0; g < k; g++)
            work->products[row * k + g] += work->centroid_squares[g];
}

/* Gives the rows of a block to their nearest centroids (ties: the lower number). Returns how many changed. */
static int64_t assign_block(direct_work *work, int64_t first, int64_t count)
{
    int64_t changed = 0;

    compare_rows(work, first, count);
    for (int64_t row = first; row < first + count; row++) {
        const float *products = work->products + (row - first) * work->k;
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

/* Squared distance of a row to the mean of a cluster as it is now. */
static double distance_to_mean(const direct_work *work, int64_t row, int64_t cluster)
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

/* Every empty cluster takes the row that is farthest from its centroid, while there is one that does not sit
 * on it and would not leave its own cluster empty. Returns how many rows moved. */
static int64_t fill_empty_clusters(direct_work *work)
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
        if (farthest < 0 || distance_to_mean(work, farthest, work->labels[farthest]) <= 0)
            return moved;
        move_row(work, farthest, g);
        work->distances[farthest] = 0;
        moved++;
    }
    return moved;
}

/* Centroids to the means of their members; an empty cluster stays where it is. */
static void update_centroids(direct_work *work)
{
    for (int64_t g = 0; g < work->k; g++) {
        float *centroid = work->centroids + g * work->columns;
        const double *sum = work->sums + g * work->columns;
        for (int64_t i = 0; work->members[g] && i < work->columns; i++)
            centroid[i] = (float)(sum[i] / (double)work->members[g]);
    }
    measure_centroids(work);
}

/* The cluster that by the products would take a row at the least cost, or -1 when none comes near what
 * leaving gains. `slack` covers the products' rounding: what they let through is decided in double. */
static int32_t find_offer(const direct_work *work, int64_t row, const float *products)
{
    const double slack = 1e-5 * work->row_squares[row];
    int32_t own = work->labels[row], best = -1;
    double cheapest = INFINITY;

    for (int32_t g = 0; g < work->k; g++) {
        double cost = (work->row_squares[row] + (double)products[g]) * kmeans_joining_share(work->members[g]);
        if (g != own && work->members[g] && cost < cheapest) {
            cheapest = cost;
            best = g;
        }
    }
    double gain = (work->row_squares[row] + (double)products[own]) * kmeans_leaving_share(work->members[own]);
    return cheapest < gain + slack ? best : -1;
}

/* Hartigan's rule: a row changes its cluster where that lowers the inertia once both means have followed. The
 * product of the block proposes, from the means at the start of the pass; the present means decide. Returns
 * how many changed. */
static int64_t exchange_block(direct_work *work, int64_t first, int64_t count)
{
    const double least_gain = 1e-6; /* relative: rounding must not move rows to and fro */
    int64_t changed = 0;

    compare_rows(work, first, count);
    for (int64_t row = first; row < first + count; row++) {
        int32_t own = work->labels[row], best = -1;
        if (work->members[own] > 1)
            best = find_offer(work, row, work->products + (row - first) * work->k);
        if (best < 0)
            continue;
        double cost = distance_to_mean(work, row, best) * kmeans_joining_share(work->members[best]);
        double gain = distance_to_mean(work, row, own) * kmeans_leaving_share(work->members[own]);
        if (cost < gain * (1 - least_gain)) {
            move_row(work, row, best);
            changed++;
        }
    }
    return changed;
}

/* A pass over all rows, block by block; counts the rows that change their cluster. */
static esp_status pass(const esp_compute *compute, direct_work *work,
                       int64_t (*over_block)(direct_work *, int64_t, int64_t), int64_t *changed)
{
    *changed = 0;
    for (int64_t first = 0; first < work->count; first += work->block) {
        if (esp_compute_is_cancelled(compute))
            return ESP_CANCELLED;
        *changed +=
            over_block(work, first, work->count - first < work->block ? work->count - first : work->block);
    }
    return ESP_OK;
}

/* sum |x|^2 - sum over clusters |S|^2 / n: the inertia to the exact means. */
static double inertia_of_sums(const direct_work *work)
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

static void work_free(direct_work *work)
{
    esp_free(work->centroids);
    esp_free(work->centroid_squares);
    esp_free(work->products);
    esp_free(work->sums);
    esp_free(work->members);
    esp_free(work->distances);
}

static esp_status work_new(const kmeans_state *state, int restart, direct_work *work)
{
    const esp_kmeans_job *job = state->job;
    size_t count = (size_t)job->count, columns = (size_t)job->columns, k = (size_t)state->k;

    *work = (direct_work){.rows = job->rows,
                          .count = job->count,
                          .columns = job->columns,
                          .k = state->k,
                          .block = kmeans_block_rows(job),
                          .row_squares = state->row_squares,
                          .labels = state->labels + restart * job->count};
    work->centroids = esp_alloc(k * columns, sizeof *work->centroids);
    work->centroid_squares = esp_alloc(k, sizeof *work->centroid_squares);
    work->products = esp_alloc((size_t)work->block * k, sizeof *work->products);
    work->sums = esp_alloc_zero(k * columns, sizeof *work->sums);
    work->members = esp_alloc_zero(k, sizeof *work->members);
    work->distances = esp_alloc(count, sizeof *work->distances);
    if (work->centroids && work->centroid_squares && work->products && work->sums && work->members &&
        work->distances)
        return ESP_OK;
    work_free(work);
    return ESP_NO_MEMORY;
}

static esp_status init(direct_work *work, const kmeans_state *state, int restart)
{
    const esp_kmeans_options *options = &state->job->options;
    double *centre = esp_alloc((size_t)work->columns, sizeof *centre);
    int64_t *seeds = esp_alloc((size_t)work->k, sizeof *seeds);
    esp_rng rng;
    esp_status status = centre && seeds ? ESP_OK : ESP_NO_MEMORY;

    esp_rng_seed_stream(&rng, options->seed, (uint64_t)restart);
    if (status == ESP_OK && options->init == ESP_KMEANS_PLUS_PLUS) {
        init_plus_plus(work, &rng, centre);
    } else if (status == ESP_OK) {
        kmeans_draw_rows(state, &rng, work->labels, seeds);
        for (int64_t g = 0; g < work->k; g++)
            take_row(work, g, seeds[g]);
    }
    esp_free(centre);
    esp_free(seeds);
    for (int64_t row = 0; row < work->count; row++)
        work->labels[row] = -1;
    measure_centroids(work);
    return status;
}

/* Lloyd's iterations, then exchanges, each until one hardly lowers the inertia. */
static esp_status settle(const esp_compute *compute, direct_work *work, const kmeans_state *state,
                         int *iterations)
{
    const esp_kmeans_options *options = &state->job->options;
    double last = INFINITY;
    int done = 0;

    for (int phase = 0; phase < 2; phase++)
        for (bool is_moving = true; is_moving && done < options->max_iterations; done++) {
            int64_t changed;
            esp_status status = pass(compute, work, phase ? exchange_block : assign_block, &changed);
            if (status != ESP_OK)
                return status;
            if (!phase)
                changed += fill_empty_clusters(work);
            update_centroids(work);
            double inertia = inertia_of_sums(work);
            is_moving = changed > 0 && last - inertia > options->tolerance * inertia;
            last = inertia;
        }
    *iterations = done;
    return ESP_OK;
}

esp_status kmeans_restart_on_rows(const esp_compute *compute, const kmeans_state *state, int restart)
{
    direct_work work;
    esp_status status = work_new(state, restart, &work);

    if (status != ESP_OK)
        return status;
    status = init(&work, state, restart);
    if (status == ESP_OK)
        status = settle(compute, &work, state, &state->iterations[restart]);
    if (status == ESP_OK)
        state->inertias[restart] = inertia_of_sums(&work);
    work_free(&work);
    return status;
}
