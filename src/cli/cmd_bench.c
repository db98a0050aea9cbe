/* espalier bench: how long a forward pass, or a training step, takes on this machine. */
#include <stdio.h>

#include "base/memory.h"
#include "base/text.h"
#include "cli/bench.h"
#include "cli/common_options.h"
#include "tensor/blas.h"

static double images_per_s(const esp_latency_result *result)
{
    return result->median_ms > 0 ? 1000.0 * (double)result->batch / result->median_ms : 0.0;
}

static esp_status print_json(const esp_bench *it, esp_error *err)
{
    const esp_latency_result *result = &it->result;
    json_t *object = json_pack(
        "{s:f, s:f, s:f, s:f, s:I, s:i, s:i, s:f, s:s, s:s, s:b, s:o}", "median_ms", result->median_ms,
        "min_ms", result->min_ms, "p90_ms", result->p90_ms, "spread", result->spread, "batch",
        (json_int_t)result->batch, "threads", result->threads, "repeats", result->repeats, "images_per_s",
        images_per_s(result), "blas_core", esp_blas_core(), "isa", esp_isa_name(esp_engine_default()->isa),
        "is_training", it->options.is_training, "memory", esp_bench_memory_json(&result->memory));
    if (object && it->options.is_training) {
        json_object_set_new(object, "forward_ms", json_real(result->forward_ms));
        json_object_set_new(object, "backward_ms", json_real(result->backward_ms));
        json_object_set_new(object, "update_ms", json_real(result->update_ms));
    }
    if (object && it->has_layers) {
        json_object_set_new(object, "peak", esp_bench_peak_json(&it->peak));
        json_object_set_new(object, "layers", esp_bench_layers_json(it));
        json_object_set_new(object, "grouped", esp_bench_groupings_json(it));
    }
    return esp_cli_print_json(object, err);
}

static void print_memory(const esp_latency_memory *memory)
{
    char peak[32], weights[32], planned[32], packed[32], scratch[32], live[32];
    printf("memory   %s at most: weights %s, packed %s, scratch %s, activations %s",
           esp_format_bytes(peak, sizeof peak, (double)memory->peak),
           esp_format_bytes(weights, sizeof weights, (double)memory->weights),
           esp_format_bytes(packed, sizeof packed, (double)memory->packed),
           esp_format_bytes(scratch, sizeof scratch, (double)memory->scratch),
           esp_format_bytes(planned, sizeof planned, (double)memory->planned));
    if (memory->live > 0) {
        printf(" (in use at once: %s)", esp_format_bytes(live, sizeof live, (double)memory->live));
    }
    putchar('\n');
}

static esp_status print_result(const esp_bench *it, esp_error *err)
{
    const esp_latency_result *result = &it->result;
    if (it->is_json) {
        return print_json(it, err);
    }
    printf("median   %.3f ms for a %sbatch of %lld on %d thread%s (%.0f images/s)\n", result->median_ms,
           it->options.is_training ? "training step on a " : "", (long long)result->batch, result->threads,
           result->threads == 1 ? "" : "s", images_per_s(result));
    printf(
        "range    %.3f ms fastest, %.3f ms at the 90th percentile of %d runs; middle half within %.0f %%\n",
        result->min_ms, result->p90_ms, result->repeats, 100.0 * result->spread);
    if (it->options.is_training) {
        printf("parts    forward %.3f ms, backward %.3f ms, update %.3f ms\n", result->forward_ms,
               result->backward_ms, result->update_ms);
    }
    print_memory(&result->memory);
    esp_status status = it->has_layers ? esp_bench_print_layers(it, err) : ESP_OK;
    return status == ESP_OK ? esp_bench_print_groupings(it, err) : status;
}

/* What the table of layers needs beside times. */
static esp_status measure_yardsticks(esp_bench *it, esp_cli *cli, esp_error *err)
{
    const esp_latency_options *options = &it->options;
    esp_inferred *inferred = NULL;
    esp_status status = esp_peak_measure(&cli->compute, esp_engine_default(), &it->peak, err);
    if (status == ESP_OK) {
        status = esp_infer(it->graph, options->batch, options->input_shapes, options->input_shape_count,
                           &inferred, err);
    }
    if (status == ESP_OK) {
        status = esp_grouping_gains_measure(&cli->compute, it->graph, inferred, it->result.node_ms,
                                            &it->groupings, err);
    }
    esp_inferred_free(inferred);
    return status;
}

static esp_status measure(esp_bench *it, esp_cli *cli, esp_error *err)
{
    esp_status status = esp_layers_list(it->graph, it->inferred, &it->layers, err);
    if (status == ESP_OK) {
        status =
            esp_measure_latency(&cli->compute, it->graph, &it->options, it->has_layers, &it->result, err);
    }
    if (status == ESP_OK && it->has_layers) {
        status = measure_yardsticks(it, cli, err);
    }
    if (status != ESP_OK) {
        return status;
    }
    esp_cli_end_progress();
    return print_result(it, err);
}

typedef struct bench_request {
    esp_cli_common common;
    esp_bench bench;
    int64_t repeats;
    bool takes_turns;
} bench_request;

static esp_status look(esp_cli *cli, bench_request *request, const esp_cli_model *model, esp_error *err)
{
    esp_bench *it = &request->bench;
    it->graph = model->graph;
    it->is_json = request->common.is_json;
    it->options.repeats = (int)request->repeats;
    it->options.spends_weights =
        !it->options.is_training && !it->has_layers; /* groupings are read afterwards */
    it->options.input_shapes = model->shapes;
    it->options.input_shape_count = model->shape_count;
    if (request->takes_turns) {
        return esp_bench_in_turns(cli, it, err);
    }
    esp_status status = esp_infer(it->graph, 1, model->shapes, model->shape_count, &it->inferred, err);
    return status == ESP_OK ? measure(it, cli, err) : status;
}

/* MODEL.onnx */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    bench_request *request = context;
    esp_bench *it = &request->bench;
    esp_cli_model model = {0};
    esp_status status = esp_cli_model_open(cli, &request->common, items[0], &model, err);
    (void)count;
    if (status == ESP_OK) {
        status = look(cli, request, &model, err);
    }
    esp_free(it->result.node_ms);
    esp_free(it->result.node_info);
    esp_grouping_gains_free(&it->groupings);
    esp_layers_free(&it->layers);
    esp_inferred_free(it->inferred);
    esp_cli_model_close(&model);
    return status;
}

esp_status esp_command_bench(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bench_request it = {.bench.options.batch = 1};
    esp_bench *bench = &it.bench;
    const esp_option options[] = {
        {"batch", 'b', ESP_OPTION_INT, &bench->options.batch, "N", "images per run (default 1)", 1, 65536, 0},
        ESP_CLI_MACHINE(cli, &it.common),
        {"repeats", 'r', ESP_OPTION_INT, &it.repeats, "N", "timed runs (default: about a second's worth)", 1,
         1e6, 0},
        {"layers", 'l', ESP_OPTION_FLAG, &bench->has_layers, NULL,
         "time, kernel and share of the machine's peak of every step of the forward pass", 0, 0, 0},
        {"train", 0, ESP_OPTION_FLAG, &bench->options.is_training, NULL,
         "training steps on random images: forward, backward, SGD with momentum", 0, 0, 0},
        ESP_CLI_INPUT(&it.common, "fix sizes the file leaves open"),
        {"turns", 0, ESP_OPTION_FLAG, &it.takes_turns, NULL,
         "stay, and follow 'run SECONDS', 'input FILE', 'output FILE' on standard input", 0, 0, 0},
        ESP_CLI_JSON(&it.common, "one JSON object instead of text"),
        {0},
    };
    const esp_command_syntax syntax = {
        "bench",
        "Latency and memory of a forward pass, or of a training step, on this machine.",
        "MODEL.onnx [options]",
        "  espalier bench model.onnx --batch 8 --threads 2 --layers\n"
        "  espalier bench model.onnx --train --batch 128",
        1,
        1,
        options,
        false};
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
