/* Latency: forward passes on one fixed random input after a warm-up. The warm-up fills caches, wakes the pool
 * and tells how many repeats fit into about a second. Medians, because a busy machine only ever makes runs
 * slower. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "train/evaluate.h"
#include "train/meter.h"

#define WARM_UP_RUNS    3
#define WARM_UP_SECONDS 0.05
#define TARGET_SECONDS  1.0
#define LEAST_REPEATS   10
#define MOST_REPEATS    2000

typedef struct latency_run {
    const esp_compute *compute;
    esp_exec *exec;
    int input_count;
    void **inputs; /* kept copies: a forward pass may reuse the memory of its inputs */
    int repeats, node_count;
    double *run_s;       /* [repeats] */
    double *node_s;      /* [node_count, repeats], or NULL */
    double *last_node_s; /* [node_count]: what the executor writes, or NULL */
} latency_run;

static size_t view_bytes(const esp_view *view)
{
    return (size_t)esp_shape_elements(&view->shape) * esp_dtype_size(view->dtype);
}

/* Standard normal floats, which is what normalised images look like; zeros for other types, which any index
 * allows. */
static esp_status make_inputs(latency_run *run, esp_error *err)
{
    run->inputs = esp_alloc_zero((size_t)run->input_count, sizeof(*run->inputs));
    if (run->inputs == NULL) {
        return esp_fail_memory(err, "model inputs", (size_t)run->input_count * sizeof(*run->inputs));
    }
    esp_rng rng;
    esp_rng_seed(&rng, 1);
    for (int i = 0; i < run->input_count; i++) {
        const esp_view *view = esp_exec_input(run->exec, i);
        run->inputs[i] = esp_alloc_zero(view_bytes(view), 1);
        if (run->inputs[i] == NULL) {
            return esp_fail_memory(err, "a model input", view_bytes(view));
        }
        int64_t count = view->dtype == ESP_F32 ? esp_shape_elements(&view->shape) : 0;
        float *values = run->inputs[i];
        for (int64_t k = 0; k < count; k++) {
            values[k] = (float)esp_rng_normal(&rng);
        }
    }
    return ESP_OK;
}

static esp_status forward_once(latency_run *run, double *seconds, esp_error *err)
{
    for (int i = 0; i < run->input_count; i++) {
        const esp_view *view = esp_exec_input(run->exec, i);
        memcpy(view->data, run->inputs[i], view_bytes(view));
    }
    double start = esp_clock_s();
    esp_status status = esp_exec_forward(run->exec, run->compute, err);
    *seconds = esp_clock_s() - start;
    return status;
}

/* Decides `repeats` when it is still 0. */
static esp_status warm_up(latency_run *run, esp_error *err)
{
    double total = 0.0, fastest = INFINITY;
    for (int i = 0; i < WARM_UP_RUNS || total < WARM_UP_SECONDS; i++) {
        double seconds = 0.0;
        esp_status status = forward_once(run, &seconds, err);
        if (status != ESP_OK) {
            return status;
        }
        fastest = fmin(fastest, seconds);
        /* a run has a cost beside its own time, so an empty graph ends the warm-up too */
        total += seconds + 1e-5;
    }
    if (run->repeats == 0) {
        double fitting = TARGET_SECONDS / fmax(fastest, 1e-9);
        run->repeats = (int)fmin(fmax(fitting, LEAST_REPEATS), MOST_REPEATS);
    }
    return ESP_OK;
}

static esp_status allocate_times(latency_run *run, bool wants_nodes, esp_error *err)
{
    size_t repeats = (size_t)run->repeats;
    size_t nodes = wants_nodes ? (size_t)run->node_count : 0;
    run->run_s = esp_alloc(repeats, sizeof(double));
    if (wants_nodes && run->run_s != NULL) {
        run->node_s = esp_alloc(repeats, nodes * sizeof(double));
        run->last_node_s = esp_alloc_zero(nodes, sizeof(double));
    }
    bool is_short = run->run_s == NULL || (wants_nodes && (run->node_s == NULL || run->last_node_s == NULL));
    return is_short ? esp_fail_memory(err, "latency samples", repeats * (nodes + 1) * sizeof(double))
                    : ESP_OK;
}

static void report(const latency_run *run, int done, double elapsed_s)
{
    double rate = elapsed_s > 0.0 ? done / elapsed_s : 0.0;
    esp_progress progress = {
        .stage = "bench",
        .done = done,
        .total = run->repeats,
        .unit = "runs",
        .rate = rate,
        .eta_s = rate > 0.0 ? (run->repeats - done) / rate : -1.0,
        .detail = "",
    };
    esp_compute_report(run->compute, &progress);
}

static esp_status measure(latency_run *run, esp_error *err)
{
    esp_exec_time_nodes(run->exec, run->last_node_s);
    esp_meter meter = esp_meter_make(run->compute);
    double start = esp_clock_s();
    for (int r = 0; r < run->repeats; r++) {
        if (esp_compute_is_cancelled(run->compute)) {
            return esp_fail(err, ESP_CANCELLED, "latency measurement stopped");
        }
        esp_status status = forward_once(run, &run->run_s[r], err);
        if (status != ESP_OK) {
            return status;
        }
        for (int node = 0; run->node_s != NULL && node < run->node_count; node++) {
            run->node_s[(int64_t)node * run->repeats + r] = run->last_node_s[node];
        }
        if (esp_meter_is_due(&meter, r + 1 == run->repeats)) {
            report(run, r + 1, esp_clock_s() - start);
        }
    }
    return ESP_OK;
}

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* Of a sorted list, with linear interpolation between neighbours. */
static double quantile(const double *sorted, int count, double q)
{
    double position = q * (count - 1);
    int below = (int)position;
    int above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
}

static esp_status summarize(latency_run *run, esp_latency_result *out, esp_error *err)
{
    if (run->node_s != NULL) {
        out->node_ms = esp_alloc((size_t)run->node_count, sizeof(double));
        if (out->node_ms == NULL) {
            return esp_fail_memory(err, "node times", (size_t)run->node_count * sizeof(double));
        }
        out->node_count = run->node_count;
    }
    for (int node = 0; node < out->node_count; node++) {
        double *samples = run->node_s + (int64_t)node * run->repeats;
        qsort(samples, (size_t)run->repeats, sizeof(double), compare_doubles);
        out->node_ms[node] = 1e3 * quantile(samples, run->repeats, 0.5);
    }
    qsort(run->run_s, (size_t)run->repeats, sizeof(double), compare_doubles);
    double median = quantile(run->run_s, run->repeats, 0.5);
    double quartiles = quantile(run->run_s, run->repeats, 0.75) - quantile(run->run_s, run->repeats, 0.25);
    out->repeats = run->repeats;
    out->median_ms = 1e3 * median;
    out->min_ms = 1e3 * run->run_s[0];
    out->p90_ms = 1e3 * quantile(run->run_s, run->repeats, 0.9);
    out->spread = median > 0.0 ? quartiles / median : 0.0;
    return ESP_OK;
}

static void release(latency_run *run)
{
    for (int i = 0; run->inputs != NULL && i < run->input_count; i++) {
        esp_free(run->inputs[i]);
    }
    esp_free(run->inputs);
    esp_free(run->run_s);
    esp_free(run->node_s);
    esp_free(run->last_node_s);
    esp_exec_free(run->exec);
}

esp_status esp_measure_latency(const esp_compute *compute, const esp_graph *graph,
                               const esp_latency_options *options, bool wants_nodes, esp_latency_result *out,
                               esp_error *err)
{
    esp_latency_options chosen = options == NULL ? (esp_latency_options){0} : *options;
    if (chosen.batch < 0 || chosen.repeats < 0) {
        return esp_fail(err, ESP_INVALID, "latency: batch %lld and %d repeats, expected numbers >= 0",
                        (long long)chosen.batch, chosen.repeats);
    }
    chosen.batch = chosen.batch == 0 ? 1 : chosen.batch;
    esp_exec_options exec_options = {
        .batch = chosen.batch,
        .input_shapes = chosen.input_shapes,
        .input_shape_count = chosen.input_shape_count,
        .slots = esp_compute_slots(compute),
    };
    latency_run run = {
        .compute = compute,
        .input_count = esp_graph_input_count(graph),
        .repeats = chosen.repeats,
        .node_count = esp_graph_node_count(graph),
    };
    esp_latency_result result = {.batch = chosen.batch, .threads = esp_compute_slots(compute)};
    esp_status status = esp_exec_new(graph, &exec_options, &run.exec, err);
    if (status == ESP_OK) {
        status = make_inputs(&run, err);
    }
    if (status == ESP_OK) {
        status = warm_up(&run, err);
    }
    if (status == ESP_OK) {
        status = allocate_times(&run, wants_nodes, err);
    }
    if (status == ESP_OK) {
        status = measure(&run, err);
    }
    if (status == ESP_OK) {
        status = summarize(&run, &result, err);
    }
    if (status == ESP_OK) {
        *out = result;
    }
    release(&run);
    return status;
}
