/* Measuring in turns with another program: see bench.h. What a slow minute of the machine does to one it does
 * to the other, when the turns are short. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/bench.h"
#include "cli/inputs.h"
#include "train/runner.h"

enum { MOST_RUNS = 20000, WARM_UP_RUNS = 2, LINE_MAX_BYTES = 4096 };

typedef struct turns {
    esp_runner *runner;
    const esp_bench *bench;
    int node_count;  /* 0: nodes are not wanted */
    double *samples; /* [MOST_RUNS] seconds */
    double *node_s;  /* [node_count] sums of a turn */
} turns;

/* Not getrusage: what that says begins with the peak of the process that started this one. */
size_t esp_bench_rss_peak(void)
{
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long kib = 0;

    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %llu", &kib) == 1)
            break;
    if (status)
        fclose(status);
    return (size_t)kib * 1024;
}

json_t *esp_bench_memory_json(const esp_latency_memory *memory)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "weights", (json_int_t)memory->weights, "live",
                     (json_int_t)memory->live, "planned", (json_int_t)memory->planned, "packed",
                     (json_int_t)memory->packed, "scratch", (json_int_t)memory->scratch, "peak",
                     (json_int_t)memory->peak, "rss_peak", (json_int_t)esp_bench_rss_peak());
}

static double processor_s(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) {
        return 0;
    }
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static esp_status answer(json_t *take_object, esp_error *err)
{
    char *text = take_object ? esp_json_dump(take_object, 1) : NULL;
    json_decref(take_object);
    if (!text) {
        return esp_fail_memory(err, "an answer", 0);
    }
    puts(text);
    esp_free(text);
    return esp_cli_finish_output(err);
}

static json_t *nodes_json(const turns *it, int runs)
{
    json_t *object = json_object();
    for (int node = 0; node < it->node_count; node++) {
        json_t *name = esp_cli_json_text(esp_graph_node(it->bench->graph, node)->name);
        if (name) {
            json_object_set_new(object, json_string_value(name), json_real(1e3 * it->node_s[node] / runs));
        }
        json_decref(name);
    }
    return object;
}

static esp_status run_for(turns *it, double seconds, esp_error *err)
{
    esp_run_time time, sums = {0};
    double start = esp_clock_s(), processor_start = processor_s();
    int runs = 0;
    for (int node = 0; node < it->node_count; node++) {
        it->node_s[node] = 0;
    }
    while (runs == 0 || (runs < MOST_RUNS && esp_clock_s() - start < seconds)) {
        esp_status status = esp_runner_run(it->runner, &time, err);
        if (status != ESP_OK) {
            return status;
        }
        it->samples[runs++] = time.total_s;
        sums.forward_s += time.forward_s;
        sums.backward_s += time.backward_s;
        sums.update_s += time.update_s;
        for (int node = 0; node < it->node_count; node++) {
            it->node_s[node] += esp_runner_node_seconds(it->runner)[node];
        }
    }
    double elapsed = esp_clock_s() - start, processor = processor_s() - processor_start;
    const esp_latency_memory memory = esp_runner_memory(it->runner);
    json_t *object =
        json_pack("{s:f, s:i, s:f, s:f, s:o}", "ms", 1e3 * esp_median(it->samples, runs), "runs", runs,
                  "elapsed_s", elapsed, "cpu_s", processor, "memory", esp_bench_memory_json(&memory));
    if (object && it->bench->options.is_training) {
        json_object_set_new(object, "forward_ms", json_real(1e3 * sums.forward_s / runs));
        json_object_set_new(object, "backward_ms", json_real(1e3 * sums.backward_s / runs));
        json_object_set_new(object, "update_ms", json_real(1e3 * sums.update_s / runs));
    }
    if (object && it->node_count > 0) {
        json_object_set_new(object, "nodes", nodes_json(it, runs));
    }
    return answer(object, err);
}

static esp_status read_input(turns *it, const char *path, esp_error *err)
{
    size_t wanted = 0, found = 0;
    void *input =
        esp_graph_input_count(it->bench->graph) > 0 ? esp_runner_input(it->runner, 0, &wanted) : NULL;
    char *data = NULL;
    esp_status status = esp_file_read(path, &data, &found, err);
    if (status != ESP_OK) {
        return status;
    }
    if (found != wanted) {
        status =
            esp_fail(err, ESP_FORMAT, "%s: %zu bytes, expected %zu for the first input", path, found, wanted);
    } else if (input != NULL) {
        memcpy(input, data, found);
    }
    esp_free(data);
    return status == ESP_OK ? answer(json_pack("{s:I}", "bytes", (json_int_t)wanted), err) : status;
}

static esp_status write_output(turns *it, const char *path, esp_error *err)
{
    esp_run_time time;
    esp_status status = esp_runner_run(it->runner, &time, err);
    if (status != ESP_OK) {
        return status;
    }
    const esp_view *view = esp_runner_output(it->runner, 0);
    size_t bytes = (size_t)esp_shape_elements(&view->shape) * esp_dtype_size(view->dtype);
    status = esp_file_write(path, view->data, bytes, err);
    return status == ESP_OK ? answer(json_pack("{s:I}", "bytes", (json_int_t)bytes), err) : status;
}

static esp_status follow(turns *it, char *line, esp_error *err)
{
    line[strcspn(line, "\n")] = '\0';
    char *argument = strchr(line, ' ');
    if (argument) {
        *argument++ = '\0';
        double seconds = 0;
        if (strcmp(line, "run") == 0 && esp_parse_f64(argument, &seconds) && seconds >= 0) {
            return run_for(it, seconds, err);
        }
        if (strcmp(line, "input") == 0) {
            return read_input(it, argument, err);
        }
        if (strcmp(line, "output") == 0) {
            return write_output(it, argument, err);
        }
    }
    return esp_fail(err, ESP_FORMAT,
                    "standard input: found '%s%s%s', expected run SECONDS, input FILE or output FILE", line,
                    argument ? " " : "", argument ? argument : "");
}

static esp_status say_ready(const turns *it, const esp_cli *cli, size_t rss_before, esp_error *err)
{
    const esp_latency_memory memory = esp_runner_memory(it->runner);
    return answer(json_pack("{s:b, s:i, s:I, s:I, s:o}", "ready", 1, "threads", cli->threads, "batch",
                            (json_int_t)it->bench->options.batch, "rss_before", (json_int_t)rss_before,
                            "memory", esp_bench_memory_json(&memory)),
                  err);
}

static esp_status serve(turns *it, esp_cli *cli, size_t rss_before, esp_error *err)
{
    char line[LINE_MAX_BYTES];
    esp_run_time time;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < WARM_UP_RUNS; i++) {
        status = esp_runner_run(it->runner, &time, err);
    }
    if (status == ESP_OK) {
        status = say_ready(it, cli, rss_before, err);
    }
    while (status == ESP_OK && fgets(line, sizeof line, stdin)) {
        status = esp_compute_is_cancelled(&cli->compute) ? esp_fail(err, ESP_CANCELLED, "stopped")
                                                         : follow(it, line, err);
    }
    return status;
}

esp_status esp_bench_in_turns(esp_cli *cli, const esp_bench *bench, esp_error *err)
{
    turns it = {.bench = bench, .node_count = bench->has_layers ? esp_graph_node_count(bench->graph) : 0};
    size_t rss_before = esp_bench_rss_peak();
    it.samples = esp_alloc(MOST_RUNS, sizeof *it.samples);
    it.node_s = esp_alloc((size_t)it.node_count, sizeof *it.node_s);
    esp_status status =
        it.samples && it.node_s ? ESP_OK : esp_fail_memory(err, "times", MOST_RUNS * sizeof(double));
    if (status == ESP_OK) {
        status =
            esp_runner_new(&cli->compute, bench->graph, &bench->options, bench->has_layers, &it.runner, err);
    }
    if (status == ESP_OK) {
        status = serve(&it, cli, rss_before, err);
    }
    esp_runner_free(it.runner);
    esp_free(it.samples);
    esp_free(it.node_s);
    return status;
}
