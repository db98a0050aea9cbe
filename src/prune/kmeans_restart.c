/* One restart on the products of all pairs of rows, G[i, j] = x_i.x_j. Nothing here looks at the rows: with
 * S_g the sum of the members of cluster g and n_g their number,
 *
 *   |x_i - S_g/n_g|^2 = G[i, i] - 2 P[g, i]/n_g + Q_g/n_g^2,   P[g, i] = x_i.S_g,   Q_g = S_g.S_g
 *
 * P is the sum of the members' rows of G, so a row that changes its cluster costs two rows of additions
 * however long it is, and the distances of all rows to all means are always at hand. So Lloyd's iteration
 * only brings order into the first guess; exchanges of single rows by Hartigan's rule, which see every move
 * at once, do the rest, and reach partitions that hardly any single move improves.
 *
 * Products are float32: rows move only for more than their rounding. */
#include "prune/kmeans_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/simd.h"

/* ESP_LANES rows are looked at together; the stride of the products is a multiple of it. */
typedef int32_t lane_mask __attribute__((vector_size(ESP_LANES * sizeof(int32_t))));
typedef lane_mask lane_labels __attribute__((aligned(sizeof(int32_t)), may_alias));
#define LANE_LABELS(pointer) (*(lane_labels *)(pointer))

/* a where the mask is set, else b: 16 floats, or 16 labels */
#define SELECT(mask, a, b)        ((esp_lanes)(((mask) & (lane_mask)(a)) | (~(mask) & (lane_mask)(b))))
#define SELECT_LABELS(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))

static const float rounding = 2e-6F; /* of a squared distance, in units of the row's square */

/* Lloyd hands over to the exchanges when an iteration takes less than this share off the inertia: an
 * exchange then finds more for the same work. */
static const double lloyd_share = 1e-2;

/* What the distances to a cluster's mean are made of; kept up to date with its members. */
typedef struct cluster {
    int64_t members;
    double square; /* Q */
    float slope;   /* -2/n */
    float offset;  /* Q/n^2; infinite for an empty cluster */
    float joining, leaving;
} cluster;

typedef struct restart_work {
    const kmeans_state *state;
    int64_t count, stride, k;
    int32_t *labels;   /* [stride] -1 before the first iteration, and behind the last row */
    int32_t *nearest;  /* [stride] */
    float *squares;    /* [stride] G[i, i] */
    float *sums;       /* [k, stride] P */
    double total;      /* of the squares */
    cluster *clusters; /* [k] */
} restart_work;

static const float *row_of(const restart_work *work, int64_t row)
{
    return work->state->products.values + row * work->stride;
}

static void set_cluster(cluster *item, int64_t members, double square)
{
    item->members = members;
    item->square = square > 0 ? square : 0;
    item->slope = members ? (float)(-2 / (double)members) : 0;
    item->offset = members ? (float)(item->square / ((double)members * (double)members)) : INFINITY;
    item->joining = (float)kmeans_joining_share(members);
    item->leaving = (float)kmeans_leaving_share(members);
}

/* ---- sums ---- */

ESP_SIMD_CLONES static void move_sums(int64_t count, const float *restrict row, float *restrict from,
                                      float *restrict to)
{
    for (int64_t i = 0; i < count; i++) {
        from[i] -= row[i];
        to[i] += row[i];
    }
}

ESP_SIMD_CLONES static void add_one(int64_t count, const float *restrict row, float *restrict to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] += row[i];
}

ESP_SIMD_CLONES static void add_four(int64_t count, const float *const *rows, float *restrict to)
{
    const float *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];

    for (int64_t i = 0; i < count; i++)
        to[i] += (a[i] + b[i]) + (c[i] + d[i]);
}

static void move_row(restart_work *work, int64_t row, int32_t to)
{
    int32_t from = work->labels[row];
    double square = (double)work->squares[row];
    cluster *old = &work->clusters[from], *new = &work->clusters[to];

    set_cluster(old, old->members - 1,
                old->square - 2 * (double)work->sums[from * work->stride + row] + square);
    set_cluster(new, new->members + 1,
                new->square + 2 * (double)work->sums[to * work->stride + row] + square);
    move_sums(work->stride, row_of(work, row), work->sums + from * work->stride,
              work->sums + to * work->stride);
    work->labels[row] = to;
}

/* Members and squares anew from the labels and sums: increments do not add up their rounding. */
static void renew_clusters(restart_work *work)
{
    for (int64_t g = 0; g < work->k; g++)
        work->clusters[g] = (cluster){0};
    for (int64_t row = 0; row < work->count; row++) {
        cluster *own = &work->clusters[work->labels[row]];
        own->members++;
        own->square += (double)work->sums[work->labels[row] * work->stride + row];
    }
    for (int64_t g = 0; g < work->k; g++)
        set_cluster(&work->clusters[g], work->clusters[g].members, work->clusters[g].square);
}

/* Sums anew from the labels, four members at a time. */
static void renew_sums(restart_work *work)
{
    for (int64_t g = 0; g < work->k; g++) {
        const float *rows[4];
        float *to = work->sums + g * work->stride;
        int waiting = 0;
        memset(to, 0, (size_t)work->stride * sizeof *to);
        for (int64_t row = 0; row < work->count; row++) {
            if (work->labels[row] != g)
                continue;
            rows[waiting++] = row_of(work, row);
            if (waiting < 4)
                continue;
            add_four(work->stride, rows, to);
            waiting = 0;
        }
        for (int i = 0; i < waiting; i++)
            add_one(work->stride, rows[i], to);
    }
}

/* sum |x|^2 - sum over clusters |S|^2 / n */
static double inertia_of(const restart_work *work)
{
    double inertia = work->total;

    for (int64_t g = 0; g < work->k; g++)
        if (work->clusters[g].members)
            inertia -= work->clusters[g].square / (double)work->clusters[g].members;
    return inertia > 0 ? inertia : 0;
}

/* ---- initialisation ---- */

static void take_seed(restart_work *work, int64_t g, int64_t row)
{
    memcpy(work->sums + g * work->stride, row_of(work, row), (size_t)work->stride * sizeof *work->sums);
    set_cluster(&work->clusters[g], 1, (double)work->squares[row]);
}

/* k-means++ (Arthur and Vassilvitskii 2007): each next centre with probability proportional to its squared
 * distance. `distances` is [count] of working memory. */
static void init_plus_plus(restart_work *work, esp_rng *rng, double *distances)
{
    int64_t seed = (int64_t)esp_rng_below(rng, (uint64_t)work->count);

    for (int64_t i = 0; i < work->count; i++)
        distances[i] = INFINITY;
    for (int64_t g = 0; g < work->k; g++) {
        const float *products = row_of(work, seed);
        take_seed(work, g, seed);
        for (int64_t i = 0; i < work->count; i++) {
            double distance =
                (double)work->squares[i] + (double)work->squares[seed] - 2 * (double)products[i];
            if (distance < (double)(rounding * work->squares[i]))
                distance = 0;
            distances[i] = distance < distances[i] ? distance : distances[i];
        }
        seed = kmeans_draw_weighted(distances, work->count, rng);
    }
}

static esp_status init(restart_work *work, int restart)
{
    const esp_kmeans_options *options = &work->state->job->options;
    size_t count = (size_t)work->count, k = (size_t)work->k;
    double *distances = esp_alloc(count, sizeof *distances);
    int64_t *seeds = esp_alloc(k, sizeof *seeds);
    esp_rng rng;
    esp_status status = distances && seeds ? ESP_OK : ESP_NO_MEMORY;

    esp_rng_seed_stream(&rng, options->seed, (uint64_t)restart);
    if (status == ESP_OK && options->init == ESP_KMEANS_PLUS_PLUS) {
        init_plus_plus(work, &rng, distances);
    } else if (status == ESP_OK) {
        kmeans_draw_rows(work->state, &rng, work->labels, seeds);
        for (int64_t g = 0; g < work->k; g++)
            take_seed(work, g, seeds[g]);
    }
    esp_free(distances);
    esp_free(seeds);
    for (int64_t row = 0; row < work->stride; row++)
        work->labels[row] = -1;
    return status;
}

/* ---- Lloyd ---- */

/* The nearest mean of the rows from `first` on, the own one unless another is nearer by more than rounding
 * (ties: the lower number). */
ESP_SIMD_CLONES static void find_nearest(const restart_work *work, int64_t first)
{
    const lane_mask labels = LANE_LABELS(work->labels + first);
    const esp_lanes squares = ESP_LANES_FROM(work->squares + first), zero = {0};
    esp_lanes least = zero + INFINITY, own = zero + INFINITY;
    lane_mask nearest = {0};

    for (int32_t g = 0; g < work->k; g++) {
        const esp_lanes sums = ESP_LANES_FROM(work->sums + g * work->stride + first);
        esp_lanes distance = sums * work->clusters[g].slope + work->clusters[g].offset;
        lane_mask is_own = labels == g, is_less = distance < least;
        own = SELECT(is_own, distance, own);
        least = SELECT(is_less, distance, least);
        nearest = SELECT_LABELS(is_less, g, nearest);
    }
    LANE_LABELS(work->nearest + first) = SELECT_LABELS(own - least > rounding * squares, nearest, labels);
}

/* Every empty cluster takes the row that is farthest from its mean, while there is one that does not lie on
 * it and would not leave its own cluster empty. Rare, and a matter of equal or different: by the rows. */
static esp_status fill_empty_clusters(restart_work *work)
{
    const esp_kmeans_job *job = work->state->job;
    size_t entries = (size_t)(work->k * job->columns);
    double *means, *distances;
    int64_t *members;
    esp_status status = ESP_OK;
    int32_t empty = 0;

    while (empty < work->k && work->clusters[empty].members)
        empty++;
    if (empty == work->k)
        return ESP_OK;
    means = esp_alloc(entries, sizeof *means);
    distances = esp_alloc((size_t)job->count, sizeof *distances);
    members = esp_alloc((size_t)work->k, sizeof *members);
    if (!means || !distances || !members) {
        status = ESP_NO_MEMORY;
        goto done;
    }
    kmeans_means(job, work->labels, work->k, means, members);
    for (int64_t row = 0; row < job->count; row++)
        distances[row] = kmeans_distance(job->rows + row * job->columns,
                                         means + work->labels[row] * job->columns, job->columns);
    for (; empty < work->k; empty++) {
        int64_t farthest = -1;
        if (work->clusters[empty].members)
            continue;
        for (int64_t row = 0; row < job->count; row++)
            if (work->clusters[work->labels[row]].members > 1 &&
                (farthest < 0 || distances[row] > distances[farthest]))
                farthest = row;
        if (farthest < 0 || distances[farthest] <= 0)
            break;
        move_row(work, farthest, empty);
        distances[farthest] = 0;
    }

done:
    esp_free(means);
    esp_free(distances);
    esp_free(members);
    return status;
}

/* Gives every row to its nearest mean; all means follow. Returns how many rows changed their cluster. */
static int64_t assign_rows(restart_work *work)
{
    int64_t changed = 0;

    for (int64_t first = 0; first < work->stride; first += ESP_LANES)
        find_nearest(work, first);
    for (int64_t row = 0; row < work->count; row++)
        changed += work->nearest[row] != work->labels[row];
    if (changed > work->count / 2) {
        memcpy(work->labels, work->nearest, (size_t)work->count * sizeof *work->labels);
        renew_sums(work);
    } else {
        for (int64_t row = 0; row < work->count; row++)
            if (work->nearest[row] != work->labels[row])
                move_row(work, row, work->nearest[row]);
    }
    renew_clusters(work);
    return changed;
}

/* ---- exchanges ---- */

/* What ESP_LANES rows would save by moving to the cluster that takes them at the least cost. */
typedef struct offers {
    float saved[ESP_LANES];
    int32_t cluster[ESP_LANES];
} offers;

/* Empty clusters cost nothing times infinity, which is not less than anything. */
ESP_SIMD_CLONES static void find_offers(const restart_work *work, int64_t first, offers *out)
{
    const lane_mask labels = LANE_LABELS(work->labels + first);
    const esp_lanes squares = ESP_LANES_FROM(work->squares + first), zero = {0}, never = zero + INFINITY;
    esp_lanes cheapest = never, gain = zero;
    lane_mask best = {0};

    for (int32_t g = 0; g < work->k; g++) {
        const esp_lanes sums = ESP_LANES_FROM(work->sums + g * work->stride + first);
        const cluster *item = &work->clusters[g];
        esp_lanes square = squares + item->offset + sums * item->slope;
        lane_mask is_own = labels == g;
        esp_lanes cost = SELECT(is_own, never, square * item->joining);
        lane_mask is_less = cost < cheapest;
        gain = SELECT(is_own, square * item->leaving, gain);
        cheapest = SELECT(is_less, cost, cheapest);
        best = SELECT_LABELS(is_less, g, best);
    }
    ESP_LANES_AT(out->saved) = gain - cheapest - rounding * squares;
    LANE_LABELS(out->cluster) = best;
}

/* One pass of Hartigan's rule: a row changes its cluster where that lowers the inertia once both means have
 * followed. What rows are offered is found for ESP_LANES of them at once, and again when one of them has
 * moved before the next moves. Returns whether a row did. */
static bool exchange_rows(restart_work *work)
{
    bool has_moved = false;

    for (int64_t first = 0; first < work->count; first += ESP_LANES) {
        bool is_stale = false;
        offers found;
        find_offers(work, first, &found);
        for (int64_t lane = 0; lane < ESP_LANES; lane++) {
            if (found.saved[lane] > 0 && is_stale)
                find_offers(work, first, &found);
            is_stale = is_stale && !(found.saved[lane] > 0);
            if (!(found.saved[lane] > 0))
                continue;
            move_row(work, first + lane, found.cluster[lane]);
            is_stale = true;
            has_moved = true;
        }
    }
    renew_clusters(work);
    return has_moved;
}

/* Lloyd while it gains much, then exchanges until a pass hardly lowers the inertia. */
static esp_status settle(const esp_compute *compute, restart_work *work, int *iterations)
{
    const esp_kmeans_options *options = &work->state->job->options;
    double last = INFINITY, inertia;
    esp_status status = ESP_OK;
    int done = 0;

    for (bool is_moving = true; is_moving && done < options->max_iterations; done++) {
        if (esp_compute_is_cancelled(compute))
            return ESP_CANCELLED;
        is_moving = assign_rows(work) > 0;
        status = fill_empty_clusters(work);
        if (status != ESP_OK)
            return status;
        inertia = inertia_of(work);
        is_moving = is_moving && last - inertia > lloyd_share * inertia;
        last = inertia;
    }
    for (bool is_moving = true; is_moving && done < options->max_iterations; done++) {
        if (esp_compute_is_cancelled(compute))
            return ESP_CANCELLED;
        is_moving = exchange_rows(work);
        inertia = inertia_of(work);
        is_moving = is_moving && last - inertia > options->tolerance * inertia;
        last = inertia;
    }
    *iterations = done;
    return ESP_OK;
}

/* ---- */

static void work_free(restart_work *work)
{
    esp_free(work->labels);
    esp_free(work->nearest);
    esp_free(work->squares);
    esp_free(work->sums);
    esp_free(work->clusters);
}

static esp_status work_new(const kmeans_state *state, restart_work *work)
{
    size_t stride = (size_t)state->products.stride, k = (size_t)state->k;

    *work = (restart_work){
        .state = state, .count = state->job->count, .stride = state->products.stride, .k = state->k};
    work->labels = esp_alloc(stride, sizeof *work->labels);
    work->nearest = esp_alloc(stride, sizeof *work->nearest);
    work->squares = esp_alloc_zero(stride, sizeof *work->squares);
    work->sums = esp_alloc(k * stride, sizeof *work->sums);
    work->clusters = esp_alloc(k, sizeof *work->clusters);
    if (!work->labels || !work->nearest || !work->squares || !work->sums || !work->clusters) {
        work_free(work);
        return ESP_NO_MEMORY;
    }
    for (int64_t row = 0; row < work->count; row++) {
        work->squares[row] = row_of(work, row)[row];
        work->total += (double)work->squares[row];
    }
    return ESP_OK;
}

esp_status kmeans_restart_on_products(const esp_compute *compute, const kmeans_state *state, int restart)
{
    restart_work work;
    esp_status status = work_new(state, &work);

    if (status != ESP_OK)
        return status;
    status = init(&work, restart);
    if (status == ESP_OK)
        status = settle(compute, &work, &state->iterations[restart]);
    if (status == ESP_OK) {
        memcpy(state->labels + restart * work.count, work.labels, (size_t)work.count * sizeof *work.labels);
        state->inertias[restart] = inertia_of(&work);
    }
    work_free(&work);
    return status;
}
