/* A job is one matrix; its restarts are tasks of one run over the pool. What a task computes depends on the
 * data, the seed and its number alone, so any number of threads gives the same result. The labels of the best
 * restarts are then measured anew, in double, from the rows.
 *
 * Jobs go in waves, the largest first: as many at a time as their products of pairs may fill memory. Jobs of
 * a wave on the same rows (one layer, several k) share their products. */
#include "prune/kmeans_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/blas.h"
#include "tensor/simd.h"

enum {
    MOST_ROWS = 8192,       /* of a job that works on the products of all pairs: 256 MB of them */
    ROWS_PER_CENTROID = 64, /* ... and rows per centroid of a restart: beyond, products cost more than they
                               save */
    WAVE_FLOATS = 6 << 20,  /* products of a wave, unless one job has more: what a cache may hold */
};

esp_kmeans_options esp_kmeans_defaults(void)
{
    return (esp_kmeans_options){
        .k = 16, .restarts = 10, .max_iterations = 300, .tolerance = 1e-4, .init = ESP_KMEANS_RANDOM};
}

void esp_kmeans_free(esp_kmeans_result *result)
{
    if (!result)
        return;
    esp_free(result->labels);
    esp_free(result->centroids);
    *result = (esp_kmeans_result){0};
}

/* ---- what the restarts share ---- */

void kmeans_draw_rows(const kmeans_state *state, esp_rng *rng, int32_t *deck, int64_t *seeds)
{
    int64_t count = state->job->count;

    for (int64_t i = 0; i < count; i++)
        deck[i] = (int32_t)i;
    for (int64_t g = 0; g < state->k; g++) {
        int64_t other = g + (int64_t)esp_rng_below(rng, (uint64_t)(count - g));
        seeds[g] = deck[other];
        deck[other] = deck[g];
    }
}

int64_t kmeans_draw_weighted(const double *weights, int64_t count, esp_rng *rng)
{
    double total = 0, target;
    int64_t drawn = 0;

    for (int64_t i = 0; i < count; i++)
        total += weights[i];
    target = esp_rng_uniform(rng) * total;
    for (; drawn < count - 1 && target >= weights[drawn]; drawn++)
        target -= weights[drawn];
    return drawn;
}

ESP_SIMD_CLONES static void add_row(int64_t columns, const float *restrict row, double *restrict sums)
{
    for (int64_t i = 0; i < columns; i++)
        sums[i] += (double)row[i];
}

void kmeans_means(const esp_kmeans_job *job, const int32_t *labels, int64_t k, double *means,
                  int64_t *members)
{
    memset(means, 0, (size_t)(k * job->columns) * sizeof *means);
    memset(members, 0, (size_t)k * sizeof *members);
    for (int64_t row = 0; row < job->count; row++) {
        add_row(job->columns, job->rows + row * job->columns, means + labels[row] * job->columns);
        members[labels[row]]++;
    }
    for (int64_t g = 0; g < k; g++)
        for (int64_t i = 0; members[g] && i < job->columns; i++)
            means[g * job->columns + i] /= (double)members[g];
}

/* Sums in 16 parts, so that the compiler may use vectors. */
ESP_SIMD_CLONES double kmeans_distance(const float *row, const double *point, int64_t columns)
{
    double parts[ESP_LANES] = {0}, square = 0;
    int64_t i = 0;

    for (; i + ESP_LANES <= columns; i += ESP_LANES)
        for (int lane = 0; lane < ESP_LANES; lane++) {
            double difference = (double)row[i + lane] - point[i + lane];
            parts[lane] += difference * difference;
        }
    for (; i < columns; i++) {
        double difference = (double)row[i] - point[i];
        square += difference * difference;
    }
    for (int lane = 0; lane < ESP_LANES; lane++)
        square += parts[lane];
    return square;
}

/* ---- a job's state ---- */

static esp_status check_job(const esp_kmeans_job *job, esp_error *err)
{
    const esp_kmeans_options *options = &job->options;

    if (options->k < 1)
        return esp_fail(err, ESP_INVALID, "k-means: k is %lld, expected at least 1", (long long)options->k);
    if (options->restarts < 1)
        return esp_fail(err, ESP_INVALID, "k-means: %d restarts, expected at least 1", options->restarts);
    if (options->max_iterations < 1)
        return esp_fail(err, ESP_INVALID, "k-means: at most %d iterations, expected at least 1",
                        options->max_iterations);
    if (job->count < 1 || job->columns < 1 || job->count > INT32_MAX)
        return esp_fail(err, ESP_INVALID, "k-means: %lld rows of %lld columns, expected at least 1 of each",
                        (long long)job->count, (long long)job->columns);
    return ESP_OK;
}

static esp_status state_start(const esp_kmeans_job *job, esp_kmeans_result *result, kmeans_state *state,
                              esp_error *err)
{
    const esp_kmeans_options *options = &job->options;
    esp_status status = check_job(job, err);

    if (status != ESP_OK)
        return status;
    *state = (kmeans_state){.job = job, .result = result};
    state->k = options->k < job->count ? options->k : job->count;
    state->restarts = state->k == job->count ? 0 : options->restarts;
    state->has_products = state->restarts && job->count <= MOST_ROWS &&
                          job->count / ROWS_PER_CENTROID <= state->k * state->restarts;
    state->products = (esp_row_products){.rows = job->rows,
                                         .count = job->count,
                                         .columns = job->columns,
                                         .stride = esp_row_products_stride(job->count)};
    return ESP_OK;
}

static void state_clear(kmeans_state *state)
{
    esp_free(state->row_squares);
    esp_free(state->labels);
    esp_free(state->inertias);
    esp_free(state->iterations);
    state->products.values = NULL;
    state->row_squares = NULL;
    state->labels = NULL;
    state->inertias = NULL;
    state->iterations = NULL;
}

static size_t products_size(const kmeans_state *state)
{
    return state->has_products ? (size_t)(state->job->count * state->products.stride) : 0;
}

static esp_status state_prepare(kmeans_state *state)
{
    size_t count = (size_t)state->job->count, restarts = (size_t)state->restarts;

    state->labels = esp_alloc(restarts * count, sizeof *state->labels);
    state->inertias = esp_alloc_zero(restarts, sizeof *state->inertias);
    state->iterations = esp_alloc_zero(restarts, sizeof *state->iterations);
    if (!state->has_products)
        state->row_squares = esp_alloc(count, sizeof *state->row_squares);
    return state->labels && state->inertias && state->iterations &&
                   (state->has_products || state->row_squares)
               ? ESP_OK
               : ESP_NO_MEMORY;
}

/* ---- a look at the rows ---- */

typedef struct survey {
    const esp_kmeans_job *job;
    int64_t block;
    uint32_t *largest; /* per block: the largest magnitude, as bits */
} survey;

/* Magnitudes are ordered as their bits are; infinities and NaN come last. */
ESP_SIMD_CLONES static uint32_t largest_bits(int64_t count, const float *values)
{
    uint32_t largest = 0;

    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bits &= INT32_MAX;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static void survey_task(void *context, int64_t task, int slot)
{
    const survey *look = context;
    int64_t first = task * look->block, left = look->job->count - first;

    (void)slot;
    look->largest[task] = largest_bits((left < look->block ? left : look->block) * look->job->columns,
                                       look->job->rows + first * look->job->columns);
}

static esp_status refuse_value(const esp_kmeans_job *job, esp_error *err)
{
    int64_t i = 0;

    while (isfinite(job->rows[i]))
        i++;
    return esp_fail(err, ESP_INVALID, "k-means: row %lld has a value that is not finite",
                    (long long)(i / job->columns));
}

/* ESP_INVALID for a value that is not finite; finds the scale. */
static esp_status look_at_rows(const esp_compute *compute, kmeans_state *state, esp_error *err)
{
    survey look = {.job = state->job, .block = kmeans_block_rows(state->job)};
    int64_t blocks = (state->job->count + look.block - 1) / look.block;
    uint32_t largest = 0;
    float value;
    int exponent;
    esp_status status;

    look.largest = esp_alloc_zero((size_t)blocks, sizeof *look.largest);
    if (!look.largest)
        return esp_fail_memory(err, "k-means", (size_t)blocks * sizeof *look.largest);
    status = esp_compute_run(compute, blocks, survey_task, &look);
    for (int64_t block = 0; block < blocks; block++)
        largest = look.largest[block] > largest ? look.largest[block] : largest;
    esp_free(look.largest);
    if (status != ESP_OK)
        return esp_fail(err, status, "k-means: cancelled");
    memcpy(&value, &largest, sizeof value);
    if (!isfinite(value))
        return refuse_value(state->job, err);
    frexpf(value, &exponent);
    /* the smallest numbers would ask for a scale that is none */
    state->products.scale = ldexpf(1, exponent > -120 ? -exponent : 120);
    return ESP_OK;
}

/* ---- the best restart ---- */

/* Numbers clusters by their first members, so that equal partitions are equal labels; returns how many there
 * are. `number` is [k] of working memory. */
static int64_t number_clusters(const int32_t *labels, int64_t count, int64_t k, int32_t *number, int32_t *out)
{
    int32_t used = 0;

    for (int64_t g = 0; g < k; g++)
        number[g] = -1;
    for (int64_t row = 0; row < count; row++) {
        if (number[labels[row]] < 0)
            number[labels[row]] = used++;
        out[row] = number[labels[row]];
    }
    return used;
}

/* The clustering of one restart from its labels, by definition. ESP_NO_MEMORY */
static esp_status measure(const kmeans_state *state, int restart, esp_kmeans_result *out)
{
    const esp_kmeans_job *job = state->job;
    esp_kmeans_result result = {.iterations = state->iterations[restart]};
    int32_t *number = esp_alloc((size_t)state->k, sizeof *number);
    int64_t *members = esp_alloc((size_t)state->k, sizeof *members);
    esp_status status = ESP_NO_MEMORY;

    result.labels = esp_alloc((size_t)job->count, sizeof *result.labels);
    if (!number || !members || !result.labels)
        goto done;
    result.k =
        number_clusters(state->labels + restart * job->count, job->count, state->k, number, result.labels);
    result.centroids = esp_alloc((size_t)(result.k * job->columns), sizeof *result.centroids);
    if (!result.centroids)
        goto done;
    kmeans_means(job, result.labels, result.k, result.centroids, members);
    for (int64_t row = 0; row < job->count; row++)
        result.inertia += kmeans_distance(job->rows + row * job->columns,
                                          result.centroids + result.labels[row] * job->columns, job->columns);
    status = ESP_OK;

done:
    esp_free(number);
    esp_free(members);
    if (status == ESP_OK)
        *out = result;
    else
        esp_kmeans_free(&result);
    return status;
}

/* Every row its own cluster. */
static esp_status measure_single(const kmeans_state *state, esp_kmeans_result *out)
{
    size_t count = (size_t)state->job->count, entries = count * (size_t)state->job->columns;
    esp_kmeans_result result = {.k = state->k};

    result.labels = esp_alloc(count, sizeof *result.labels);
    result.centroids = esp_alloc(entries, sizeof *result.centroids);
    if (!result.labels || !result.centroids) {
        esp_kmeans_free(&result);
        return ESP_NO_MEMORY;
    }
    for (size_t row = 0; row < count; row++)
        result.labels[row] = (int32_t)row;
    for (size_t i = 0; i < entries; i++)
        result.centroids[i] = (double)state->job->rows[i];
    *out = result;
    return ESP_OK;
}

/* Restarts know their inertia up to rounding: those that come near the least are measured. */
static esp_status state_finish(const kmeans_state *state)
{
    const double near = 1 + 1e-5;
    double least = INFINITY;
    esp_status status = ESP_OK;

    if (!state->restarts)
        return measure_single(state, state->result);
    for (int restart = 0; restart < state->restarts; restart++)
        least = state->inertias[restart] < least ? state->inertias[restart] : least;
    for (int restart = 0; status == ESP_OK && restart < state->restarts; restart++) {
        esp_kmeans_result found;
        if (state->inertias[restart] > least * near)
            continue;
        status = measure(state, restart, &found);
        if (status != ESP_OK)
            break;
        if (state->result->labels && found.inertia >= state->result->inertia) {
            esp_kmeans_free(&found);
            continue;
        }
        esp_kmeans_free(state->result);
        *state->result = found;
    }
    return status;
}

/* ---- waves ---- */

/* One task per restart, or per job. */
typedef struct wave {
    const esp_compute *compute;
    kmeans_state **states;
    int count;
    int64_t *ends;   /* restarts up to and with each job */
    float *products; /* of all jobs of the wave, one after the other */
    esp_status *statuses;
} wave;

static void squares_task(void *context, int64_t task, int slot)
{
    const kmeans_state *state = context;
    const esp_kmeans_job *job = state->job;
    int64_t block = kmeans_block_rows(job), end = (task + 1) * block;

    (void)slot;
    for (int64_t row = task * block; row < end && row < job->count; row++) {
        double square = 0;
        for (int64_t i = 0; i < job->columns; i++) {
            double value = (double)job->rows[row * job->columns + i];
            square += value * value;
        }
        state->row_squares[row] = square;
    }
}

static void restart_task(void *context, int64_t task, int slot)
{
    const wave *all = context;
    int item = 0;

    (void)slot;
    while (task >= all->ends[item])
        item++;
    const kmeans_state *state = all->states[item];
    int restart = (int)(task - (item ? all->ends[item - 1] : 0));
    all->statuses[task] = state->has_products ? kmeans_restart_on_products(all->compute, state, restart)
                                              : kmeans_restart_on_rows(all->compute, state, restart);
}

static void finish_task(void *context, int64_t task, int slot)
{
    const wave *all = context;

    (void)slot;
    all->statuses[task] = state_finish(all->states[task]);
}

static esp_status run_tasks(wave *all, int64_t count, esp_task_fn *task)
{
    esp_status status = esp_compute_run(all->compute, count, task, all);

    for (int64_t i = 0; status == ESP_OK && i < count; i++)
        status = all->statuses[i];
    return status;
}

/* A job before order[job] in its wave whose products are this job's too; NULL when there is none. Products
 * depend on the rows alone. */
static const kmeans_state *find_lender(kmeans_state *const *order, int job)
{
    const esp_kmeans_job *mine = order[job]->job;

    for (int i = 0; order[job]->has_products && i < job; i++) {
        const esp_kmeans_job *other = order[i]->job;
        if (order[i]->has_products && other->rows == mine->rows && other->count == mine->count &&
            other->columns == mine->columns)
            return order[i];
    }
    return NULL;
}

static esp_status fill_products(const wave *all)
{
    esp_row_products *items = esp_alloc((size_t)all->count, sizeof *items);
    int count = 0;
    esp_status status = ESP_NO_MEMORY;

    for (int i = 0; items && i < all->count; i++)
        if (all->states[i]->has_products && !all->states[i]->borrows_products)
            items[count++] = all->states[i]->products;
    if (items)
        status = esp_row_products_fill(all->compute, items, count);
    esp_free(items);
    return status;
}

static esp_status run_wave(wave *all)
{
    int64_t restarts = 0;
    float *products = all->products;
    esp_status status = ESP_OK;

    for (int i = 0; status == ESP_OK && i < all->count; i++) {
        kmeans_state *state = all->states[i];
        int64_t block = kmeans_block_rows(state->job);
        const kmeans_state *lender = find_lender(all->states, i);
        status = state_prepare(state);
        state->borrows_products = lender != NULL;
        state->products.values = lender ? lender->products.values : products;
        products += lender ? 0 : products_size(state);
        if (status == ESP_OK && !state->has_products)
            status =
                esp_compute_run(all->compute, (state->job->count + block - 1) / block, squares_task, state);
        restarts += state->restarts;
        all->ends[i] = restarts;
    }
    if (status == ESP_OK)
        status = fill_products(all);
    if (status == ESP_OK)
        status = run_tasks(all, restarts, restart_task);
    if (status == ESP_OK)
        status = run_tasks(all, all->count, finish_task);
    for (int i = 0; i < all->count; i++)
        state_clear(all->states[i]);
    return status;
}

/* The largest first; equal ones in their order. */
static int compare_work(const void *a, const void *b)
{
    const kmeans_state *first = *(kmeans_state *const *)a, *second = *(kmeans_state *const *)b;
    double one = (double)first->job->count * (double)first->job->columns * (double)first->k;
    double other = (double)second->job->count * (double)second->job->columns * (double)second->k;

    if (one != other)
        return one < other ? 1 : -1;
    return (first > second) - (first < second);
}

/* How many of the jobs make the next wave, and the floats of their products. */
static int next_wave(kmeans_state *const *order, int count, size_t *floats)
{
    int jobs = 1;

    *floats = products_size(order[0]);
    for (; jobs < count; jobs++) {
        size_t more = find_lender(order, jobs) ? 0 : products_size(order[jobs]);
        if (*floats + more > WAVE_FLOATS)
            break;
        *floats += more;
    }
    return jobs;
}

static esp_status run_waves(const esp_compute *compute, kmeans_state **order, int count)
{
    wave all = {.compute = compute};
    size_t tasks = (size_t)count, floats, most = 0;
    esp_status status = ESP_OK;

    for (int i = 0; i < count; i++)
        tasks += (size_t)order[i]->restarts;
    for (int next = 0; next < count;) {
        next += next_wave(order + next, count - next, &floats);
        most = floats > most ? floats : most;
    }
    all.ends = esp_alloc((size_t)count, sizeof *all.ends);
    all.statuses = esp_alloc_zero(tasks, sizeof *all.statuses);
    all.products = esp_alloc(most, sizeof *all.products);
    if (!all.ends || !all.statuses || !all.products)
        status = ESP_NO_MEMORY;
    for (int next = 0; status == ESP_OK && next < count; next += all.count) {
        all.states = order + next;
        all.count = next_wave(order + next, count - next, &floats);
        status = run_wave(&all);
    }
    esp_free(all.ends);
    esp_free(all.statuses);
    esp_free(all.products);
    return status;
}

esp_status esp_kmeans_batch(const esp_compute *compute, const esp_kmeans_job *jobs, int job_count,
                            esp_kmeans_result *out, esp_error *err)
{
    kmeans_state *states = esp_alloc_zero((size_t)job_count, sizeof *states);
    kmeans_state **order = esp_alloc_zero((size_t)job_count, sizeof *order);
    esp_status status = ESP_OK;

    for (int job = 0; job < job_count; job++)
        out[job] = (esp_kmeans_result){0};
    if (!states || !order) {
        status = esp_fail_memory(err, "k-means", (size_t)job_count * sizeof *states);
        goto done;
    }
    for (int job = 0; status == ESP_OK && job < job_count; job++) {
        status = state_start(&jobs[job], &out[job], &states[job], err);
        if (status == ESP_OK)
            status = look_at_rows(compute, &states[job], err);
        order[job] = &states[job];
    }
    if (status != ESP_OK)
        goto done;
    qsort(order, (size_t)job_count, sizeof(kmeans_state *), compare_work);
    esp_blas_start();
    status = run_waves(compute, order, job_count);
    if (status == ESP_CANCELLED)
        esp_fail(err, ESP_CANCELLED, "k-means: cancelled");
    else if (status != ESP_OK)
        esp_fail_memory(err, "k-means", 0);

done:
    for (int job = 0; status != ESP_OK && job < job_count; job++)
        esp_kmeans_free(&out[job]);
    esp_free(states);
    esp_free(order);
    return status;
}

esp_status esp_kmeans(const esp_compute *compute, const float *rows, int64_t count, int64_t columns,
                      const esp_kmeans_options *options, esp_kmeans_result *out, esp_error *err)
{
    esp_kmeans_job job = {rows, count, columns, *options};

    return esp_kmeans_batch(compute, &job, 1, out, err);
}
