/* Latency: runs on one fixed random input after a warm-up. The warm-up fills caches, wakes the pool
 * and tells how many repeats fit into about a second. Medians, because a busy machine only ever makes runs
 * slower. Networks that are to be compared run in turns: what slows the machine down for a while then slows
 * all of them down. A turn is many runs long, because the first run after another network's finds caches
 * full of that. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/latency.h"
#include "train/meter.h"
#include "train/runner.h"

#define WARM_UP_RUNS    3
#define WARM_UP_SECONDS 0.1
#define TARGET_SECONDS  1.0
#define LEAST_REPEATS   10
#define LEAST_STEPS     5
#define MOST_REPEATS    2000
#define TURN_SECONDS    0.1

/* Kinds of samples; parts of a step only when training. */
enum { TOTAL, FORWARD, BACKWARD, UPDATE, KIND_COUNT };

typedef struct latency_run {
    const esp_compute *compute;
    esp_runner *runner;
    bool is_training;
    int repeats, node_count; /* node_count 0: nodes are not wanted */
    int done;                /* repeats */
    double *samples;         /* [KIND_COUNT, repeats] seconds */
    double *node_s;          /* [node_count, repeats] */
} latency_run;

/* Decides `repeats` when it is still 0. */
static esp_status warm_up(latency_run *run, esp_error *err)
{
    double total = 0.0, fastest = INFINITY;
    for (int i = 0; i < WARM_UP_RUNS || total < WARM_UP_SECONDS; i++) {
        esp_run_time time;
        esp_status status = esp_runner_run(run->runner, &time, err);
        if (status != ESP_OK) {
            return status;
        }
        fastest = fmin(fastest, time.total_s);
        /* a run has a cost beside its own time, so an empty graph ends the warm-up too */
        total += time.total_s + 1e-5;
    }
    if (run->repeats == 0) {
        double fitting = TARGET_SECONDS / fmax(fastest, 1e-9);
        run->repeats = (int)fmin(fmax(fitting, run->is_training ? LEAST_STEPS : LEAST_REPEATS), MOST_REPEATS);
    }
    return ESP_OK;
}

static esp_status allocate_times(latency_run *run, esp_error *err)
{
    size_t repeats = (size_t)run->repeats, nodes = (size_t)run->node_count;
    run->samples = esp_alloc(repeats * KIND_COUNT, sizeof(double));
    run->node_s = esp_alloc(repeats, nodes * sizeof(double));
    return run->samples != NULL && run->node_s != NULL
               ? ESP_OK
               : esp_fail_memory(err, "latency samples", repeats * (nodes + KIND_COUNT) * sizeof(double));
}

/* The runs of all networks that are measured in turns. */
typedef struct latency_turns {
    latency_run *runs;
    int count;
    esp_meter meter;
    double start;
} latency_turns;

static void report(latency_turns *turns)
{
    int done = 0, total = 0;
    for (int i = 0; i < turns->count; i++) {
        done += turns->runs[i].done;
        total += turns->runs[i].repeats;
    }
    if (!esp_meter_is_due(&turns->meter, done == total)) {
        return;
    }
    double elapsed_s = esp_clock_s() - turns->start;
    double rate = elapsed_s > 0.0 ? done / elapsed_s : 0.0;
    esp_progress progress = {
        .stage = "bench",
        .done = done,
        .total = total,
        .unit = "runs",
        .rate = rate,
        .eta_s = rate > 0.0 ? (total - done) / rate : -1.0,
        .detail = "",
    };
    esp_compute_report(turns->runs[0].compute, &progress);
}

static void keep(latency_run *run, int repeat, const esp_run_time *time)
{
    const double parts[KIND_COUNT] = {time->total_s, time->forward_s, time->backward_s, time->update_s};
    const double *node_s = esp_runner_node_seconds(run->runner);
    for (int kind = 0; kind < KIND_COUNT; kind++)
        run->samples[kind * run->repeats + repeat] = parts[kind];
    for (int node = 0; node < run->node_count; node++)
        run->node_s[(int64_t)node * run->repeats + repeat] = node_s[node];
}

/* Runs for about TURN_SECONDS, the first not kept; alone, all that are left. */
static esp_status take_turn(latency_turns *turns, latency_run *run, bool is_alone, esp_error *err)
{
    double end = esp_clock_s() + TURN_SECONDS;
    esp_run_time time;
    esp_status status = is_alone ? ESP_OK : esp_runner_run(run->runner, &time, err);
    do {
        if (status == ESP_OK && esp_compute_is_cancelled(run->compute)) {
            status = esp_fail(err, ESP_CANCELLED, "latency measurement stopped");
        }
        if (status == ESP_OK) {
            status = esp_runner_run(run->runner, &time, err);
        }
        if (status != ESP_OK) {
            return status;
        }
        keep(run, run->done++, &time);
        report(turns);
    } while (run->done < run->repeats && (is_alone || esp_clock_s() < end));
    return ESP_OK;
}

static esp_status measure(latency_run *runs, int count, esp_error *err)
{
    latency_turns turns = {
        .runs = runs, .count = count, .meter = esp_meter_make(runs[0].compute), .start = esp_clock_s()};
    esp_status status = ESP_OK;
    for (bool is_done = false; status == ESP_OK && !is_done;) {
        is_done = true;
        for (int i = 0; status == ESP_OK && i < count; i++) {
            if (runs[i].done < runs[i].repeats) {
                status = take_turn(&turns, &runs[i], count == 1, err);
            }
            is_done = is_done && runs[i].done == runs[i].repeats;
        }
    }
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

double esp_quantile(const double *sorted, int count, double q)
{
    double position = q * (count - 1);
    int below = (int)position;
    int above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (position - below) * (sorted[above] - sorted[below]);
}

double esp_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(double), compare_doubles);
    return esp_quantile(values, count, 0.5);
}

static esp_status summarize_nodes(const latency_run *run, esp_latency_result *out, esp_error *err)
{
    size_t nodes = (size_t)run->node_count;
    double *node_ms = esp_alloc(nodes, sizeof(*node_ms));
    esp_exec_node_info *node_info = esp_alloc(nodes, sizeof(*node_info));
    if (node_ms == NULL || node_info == NULL) {
        esp_free(node_ms);
        esp_free(node_info);
        return esp_fail_memory(err, "times of nodes", nodes * sizeof(double));
    }
    for (int node = 0; node < run->node_count; node++) {
        node_ms[node] = 1e3 * esp_median(run->node_s + (int64_t)node * run->repeats, run->repeats);
        node_info[node] = esp_exec_node(esp_runner_exec(run->runner), node);
    }
    out->node_count = run->node_count;
    out->node_ms = node_ms;
    out->node_info = node_info;
    return ESP_OK;
}

static void summarize(latency_run *run, esp_latency_result *out)
{
    int repeats = run->repeats;
    double *totals = run->samples + (int64_t)TOTAL * repeats;
    double median = esp_median(totals, repeats);
    double quartiles = esp_quantile(totals, repeats, 0.75) - esp_quantile(totals, repeats, 0.25);
    out->repeats = repeats;
    out->median_ms = 1e3 * median;
    out->min_ms = 1e3 * totals[0];
    out->p90_ms = 1e3 * esp_quantile(totals, repeats, 0.9);
    out->spread = median > 0.0 ? quartiles / median : 0.0;
    out->forward_ms = 1e3 * esp_median(run->samples + (int64_t)FORWARD * repeats, repeats);
    out->backward_ms = 1e3 * esp_median(run->samples + (int64_t)BACKWARD * repeats, repeats);
    out->update_ms = 1e3 * esp_median(run->samples + (int64_t)UPDATE * repeats, repeats);
}

static esp_status open_run(latency_run *run, const esp_compute *compute, const esp_latency_subject *subject,
                           esp_latency_result *out, esp_error *err)
{
    const esp_latency_options *options = &subject->options;
    *run = (latency_run){
        .compute = compute,
        .is_training = options->is_training,
        .repeats = options->repeats,
        .node_count = subject->wants_nodes ? esp_graph_node_count(subject->graph) : 0,
    };
    *out = (esp_latency_result){.batch = options->batch == 0 ? 1 : options->batch,
                                .threads = esp_compute_slots(compute)};
    esp_status status =
        esp_runner_new(compute, subject->graph, options, subject->wants_nodes, &run->runner, err);
    if (status == ESP_OK) {
        status = warm_up(run, err);
    }
    if (status == ESP_OK) {
        out->memory = esp_runner_memory(run->runner);
        status = allocate_times(run, err);
    }
    return status;
}

static void close_runs(latency_run *runs, int count)
{
    for (int i = 0; i < count; i++) {
        esp_free(runs[i].samples);
        esp_free(runs[i].node_s);
        esp_runner_free(runs[i].runner);
    }
}

esp_status esp_measure_latencies(const esp_compute *compute, const esp_latency_subject *subjects, int count,
                                 esp_latency_result *out, esp_error *err)
{
    latency_run runs[ESP_LATENCY_MOST] = {0};
    esp_latency_result results[ESP_LATENCY_MOST] = {0};
    if (count < 1 || count > ESP_LATENCY_MOST) {
        return esp_fail(err, ESP_INVALID, "latency of %d networks in turns, expected 1 to %d", count,
                        ESP_LATENCY_MOST);
    }
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < count; i++) {
        status = open_run(&runs[i], compute, &subjects[i], &results[i], err);
    }
    if (status == ESP_OK) {
        status = measure(runs, count, err);
    }
    for (int i = 0; status == ESP_OK && i < count; i++) {
        summarize(&runs[i], &results[i]);
        status = subjects[i].wants_nodes ? summarize_nodes(&runs[i], &results[i], err) : ESP_OK;
    }
    close_runs(runs, count);
    for (int i = 0; i < count; i++) {
        if (status == ESP_OK) {
            out[i] = results[i];
        } else {
            esp_free(results[i].node_ms);
            esp_free(results[i].node_info);
        }
    }
    return status;
}

esp_status esp_measure_latency(const esp_compute *compute, const esp_graph *graph,
                               const esp_latency_options *options, bool wants_nodes, esp_latency_result *out,
                               esp_error *err)
{
    esp_latency_subject subject = {.graph = graph, .wants_nodes = wants_nodes};
    if (options != NULL) {
        subject.options = *options;
    }
    return esp_measure_latencies(compute, &subject, 1, out, err);
}
