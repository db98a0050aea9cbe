/* espalier bench in parts: what was measured, its table of layers, and measuring in turns with another
 * program. */
#ifndef ESP_CLI_BENCH_H
#define ESP_CLI_BENCH_H

#include <jansson.h>

#include "cli/cli.h"
#include "graph/layers.h"
#include "tensor/peak.h"
#include "train/grouping.h"
#include "train/latency.h"

typedef struct esp_bench {
    esp_graph *graph;
    esp_inferred *inferred; /* at batch 1 */
    esp_layers layers;
    esp_latency_options options;
    esp_latency_result result;
    esp_peak peak; /* this and the next: with layers only */
    esp_grouping_gains groupings;
    bool has_layers, is_json;
} esp_bench;

/* One row per step of the forward pass: time, share of all, GFLOP/s (2 x MACs of direct convolution / time)
 * and their share of the measured peak, layout, kernel, and the nodes whose work is done in it. */
esp_status esp_bench_print_layers(const esp_bench *bench, esp_error *err);

/* The same as a list of objects, one per node; nodes that run with another one name it. */
json_t *esp_bench_layers_json(const esp_bench *bench);

/* Theory (1 / share of MACs left) beside real (time of the dense form / time) of grouped layers, and in words
 * which of them would be faster dense; nothing when there are none. */
esp_status esp_bench_print_groupings(const esp_bench *bench, esp_error *err);

/* The same: {"layers":[{"name":..,"theory":..,"real":..,..}],"theory":..,"real":..}; null when there are
 * none. */
json_t *esp_bench_groupings_json(const esp_bench *bench);

/* {"isa":..,"threads":..,"gflops":..,"gb_per_s":..} */
json_t *esp_bench_peak_json(const esp_peak *peak);

/* {"weights":..,"live":..,"planned":..,"packed":..,"scratch":..,"peak":..,"rss_peak":..}: bytes. */
json_t *esp_bench_memory_json(const esp_latency_memory *memory);

/* The most memory this process has held, in bytes, as the system counts it; 0 where it does not say. */
size_t esp_bench_rss_peak(void);

/* Takes orders from standard input, one a line, and answers each with one line of JSON on standard output, so
 * that two programs can be measured in turns. The first line comes when the network is ready and warm.
 *   run SECONDS    runs for about that long, at least once
 *   input FILE     float32 numbers, little-endian, for the first input from now on
 *   output FILE    writes the first output of one run in the same form
 * Ends with standard input. An order that cannot be followed ends it with an error. */
esp_status esp_bench_in_turns(esp_cli *cli, const esp_bench *bench, esp_error *err);

#endif
