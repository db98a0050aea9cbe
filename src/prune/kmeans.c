/* A job is one matrix; its restarts are tasks of one run over the pool. What a task computes depends on the
 * data, the seed and its number alone, so any number of threads gives the same result. The best restart's
 * labels are then measured anew, in double, from the rows. */
#include "prune/kmeans_internal.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/blas.h"

typedef struct batch {
    const esp_compute *compute;
    kmeans_state *states;
    int *task_job, *task_restart;
    esp_status *statuses; /* per task */
} batch;

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

static void restart_task(void *context, int64_t task, int slot)
{
    batch *all = context;

    (void)slot;
    all->statuses[task] =
        kmeans_run_restart(all->compute, &all->states[all->task_job[task]], all->task_restart[task]);
}

/* ---- a job from start to end ---- */

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
    for (int64_t i = 0; i < job->count * job->columns; i++)
        if (!isfinite(job->rows[i]))
            return esp_fail(err, ESP_INVALID, "k-means: row %lld has a value that is not finite",
                            (long long)(i / job->columns));
    return ESP_OK;
}

/* Mean over the columns of their variances; `sums` is [columns] of working memory. */
static double mean_variance(const esp_kmeans_job *job, double *sums)
{
    double square = 0;

    memset(sums, 0, (size_t)job->columns * sizeof *sums);
    for (int64_t row = 0; row < job->count; row++)
        for (int64_t i = 0; i < job->columns; i++)
            sums[i] += (double)job->rows[row * job->columns + i];
    for (int64_t row = 0; row < job->count; row++)
        for (int64_t i = 0; i < job->columns; i++) {
            double difference = (double)job->rows[row * job->columns + i] - sums[i] / (double)job->count;
            square += difference * difference;
        }
    return square / (double)(job->count * job->columns);
}

static void state_free(kmeans_state *state)
{
    esp_free(state->row_squares);
    esp_free(state->labels);
    esp_free(state->inertias);
    esp_free(state->iterations);
}

static esp_status state_new(const esp_kmeans_job *job, kmeans_state *state, esp_error *err)
{
    size_t count = (size_t)job->count, restarts;
    double *sums;
    esp_status status = check_job(job, err);

    *state = (kmeans_state){.job = job};
    if (status != ESP_OK)
        return status;
    restarts = (size_t)job->options.restarts;
    state->k = job->options.k < job->count ? job->options.k : job->count;
    state->row_squares = esp_alloc(count, sizeof *state->row_squares);
    state->labels = esp_alloc(restarts * count, sizeof *state->labels);
    state->inertias = esp_alloc_zero(restarts, sizeof *state->inertias);
    state->iterations = esp_alloc_zero(restarts, sizeof *state->iterations);
    sums = esp_alloc((size_t)job->columns, sizeof *sums);
    if (!state->row_squares || !state->labels || !state->inertias || !state->iterations || !sums) {
        esp_free(sums);
        return esp_fail_memory(err, "k-means", restarts * count * sizeof *state->labels);
    }
    state->tolerance = job->options.tolerance * mean_variance(job, sums);
    esp_free(sums);
    for (int64_t row = 0; row < job->count; row++) {
        state->row_squares[row] = 0;
        for (int64_t i = 0; i < job->columns; i++) {
            double value = (double)job->rows[row * job->columns + i];
            state->row_squares[row] += value * value;
        }
    }
    return ESP_OK;
}

/* Restarts a job runs: none when every row is its own cluster. */
static int restarts_of(const kmeans_state *state)
{
    return state->k == state->job->count ? 0 : state->job->options.restarts;
}

/* Numbers the clusters that have members without gaps; returns how many there are. */
static int64_t close_gaps(int32_t *labels, int64_t count, int32_t *renumber, int64_t k)
{
    int32_t used = 0;

    for (int64_t g = 0; g < k; g++)
        renumber[g] = -1;
    for (int64_t row = 0; row < count; row++)
        renumber[labels[row]] = 0;
    for (int64_t g = 0; g < k; g++)
        if (renumber[g] == 0)
            renumber[g] = used++;
    for (int64_t row = 0; row < count; row++)
        labels[row] = renumber[labels[row]];
    return used;
}

/* Means of the members and the exact inertia, from the labels. `members` is [k] of working memory. */
static void measure(const esp_kmeans_job *job, int64_t *members, esp_kmeans_result *result)
{
    memset(members, 0, (size_t)result->k * sizeof *members);
    for (int64_t row = 0; row < job->count; row++) {
        double *centroid = result->centroids + result->labels[row] * job->columns;
        members[result->labels[row]]++;
        for (int64_t i = 0; i < job->columns; i++)
            centroid[i] += (double)job->rows[row * job->columns + i];
    }
    for (int64_t g = 0; g < result->k; g++)
        for (int64_t i = 0; i < job->columns; i++)
            result->centroids[g * job->columns + i] /= (double)members[g];
    result->inertia = 0;
    for (int64_t row = 0; row < job->count; row++)
        for (int64_t i = 0; i < job->columns; i++) {
            double difference = (double)job->rows[row * job->columns + i] -
                                result->centroids[result->labels[row] * job->columns + i];
            result->inertia += difference * difference;
        }
}

static esp_status state_finish(const kmeans_state *state, esp_kmeans_result *out, esp_error *err)
{
    const esp_kmeans_job *job = state->job;
    size_t count = (size_t)job->count, columns = (size_t)job->columns, k = (size_t)state->k;
    esp_kmeans_result result = {0};
    int32_t *renumber = esp_alloc(k, sizeof *renumber);
    int64_t *members = esp_alloc(k, sizeof *members);
    esp_status status = ESP_OK;
    int best = 0;

    result.labels = esp_alloc(count, sizeof *result.labels);
    result.centroids = esp_alloc_zero(k * columns, sizeof *result.centroids);
    if (!renumber || !members || !result.labels || !result.centroids) {
        status = esp_fail_memory(err, "k-means", k * columns * sizeof *result.centroids);
        esp_kmeans_free(&result);
        goto done;
    }
    for (int restart = 1; restart < restarts_of(state); restart++)
        best = state->inertias[restart] < state->inertias[best] ? restart : best;
    for (int64_t row = 0; row < job->count; row++)
        result.labels[row] = restarts_of(state) ? state->labels[best * job->count + row] : (int32_t)row;
    result.iterations = state->iterations[best];
    result.k = close_gaps(result.labels, job->count, renumber, state->k);
    measure(job, members, &result);
    *out = result;

done:
    esp_free(renumber);
    esp_free(members);
    return status;
}

/* Fills task_job and task_restart; returns the number of tasks. */
static int64_t list_tasks(batch *all, int job_count)
{
    int64_t count = 0;

    for (int job = 0; job < job_count; job++)
        for (int restart = 0; restart < restarts_of(&all->states[job]); restart++) {
            if (all->task_job) {
                all->task_job[count] = job;
                all->task_restart[count] = restart;
            }
            count++;
        }
    return count;
}

static esp_status run_tasks(const esp_compute *compute, batch *all, int job_count, esp_error *err)
{
    int64_t task_count = list_tasks(all, job_count);
    size_t tasks = (size_t)task_count;
    esp_status status;

    all->statuses = esp_alloc_zero(tasks, sizeof *all->statuses);
    all->task_restart = esp_alloc(tasks, sizeof *all->task_restart);
    all->task_job = esp_alloc(tasks, sizeof *all->task_job);
    if (!all->statuses || !all->task_restart || !all->task_job)
        return esp_fail_memory(err, "k-means", tasks * sizeof *all->task_job);
    list_tasks(all, job_count);
    esp_blas_start();
    status = esp_compute_run(compute, task_count, restart_task, all);
    for (int64_t task = 0; status == ESP_OK && task < task_count; task++)
        status = all->statuses[task];
    if (status == ESP_CANCELLED)
        return esp_fail(err, ESP_CANCELLED, "k-means: cancelled");
    return status == ESP_OK ? ESP_OK : esp_fail_memory(err, "a restart of k-means", 0);
}

esp_status esp_kmeans_batch(const esp_compute *compute, const esp_kmeans_job *jobs, int job_count,
                            esp_kmeans_result *out, esp_error *err)
{
    batch all = {.compute = compute};
    esp_status status = ESP_OK;

    for (int job = 0; job < job_count; job++)
        out[job] = (esp_kmeans_result){0};
    all.states = esp_alloc_zero((size_t)job_count, sizeof *all.states);
    if (!all.states)
        return esp_fail_memory(err, "k-means", (size_t)job_count * sizeof *all.states);
    for (int job = 0; status == ESP_OK && job < job_count; job++)
        status = state_new(&jobs[job], &all.states[job], err);
    if (status == ESP_OK)
        status = run_tasks(compute, &all, job_count, err);
    for (int job = 0; status == ESP_OK && job < job_count; job++)
        status = state_finish(&all.states[job], &out[job], err);

    for (int job = 0; job < job_count; job++) {
        state_free(&all.states[job]);
        if (status != ESP_OK)
            esp_kmeans_free(&out[job]);
    }
    esp_free(all.states);
    esp_free(all.task_job);
    esp_free(all.task_restart);
    esp_free(all.statuses);
    return status;
}

esp_status esp_kmeans(const esp_compute *compute, const float *rows, int64_t count, int64_t columns,
                      const esp_kmeans_options *options, esp_kmeans_result *out, esp_error *err)
{
    esp_kmeans_job job = {rows, count, columns, *options};

    return esp_kmeans_batch(compute, &job, 1, out, err);
}
