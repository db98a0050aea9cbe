/* espalier bench: how long a forward pass takes on this machine. */
#include <stdio.h>

#include "base/memory.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/table.h"
#include "graph/layers.h"
#include "graph/op.h"
#include "io/onnx.h"
#include "tensor/blas.h"

typedef struct bench {
    esp_graph *graph;
    esp_inferred *inferred;
    esp_layers layers;
    esp_latency_result result;
    bool has_layers, is_json;
} bench;

/* MACs of a node per image: layers know theirs, everything else has none. */
static int64_t node_macs(const bench *it, int node)
{
    for (int i = 0; i < it->layers.count; i++) {
        if (it->layers.items[i].node == node) {
            return it->layers.items[i].macs;
        }
    }
    return 0;
}

static double gflops(const bench *it, int node)
{
    double ms = it->result.node_ms[node];
    return ms > 0 ? 2.0 * (double)node_macs(it, node) * (double)it->result.batch / (ms * 1e6) : 0.0;
}

static esp_status print_nodes(const bench *it, esp_error *err)
{
    double total = 0;
    esp_table *table = esp_table_new("llrrr");
    static const char *const headings[] = {"node", "operator", "ms", "share", "GFLOP/s"};
    for (int i = 0; i < it->result.node_count; i++) {
        total += it->result.node_ms[i];
    }
    for (size_t i = 0; i < 5; i++) {
        esp_table_cell(table, "%s", headings[i]);
    }
    for (int i = 0; i < it->result.node_count; i++) {
        const esp_node *node = esp_graph_node(it->graph, i);
        esp_table_cell(table, "%s", node->name);
        esp_table_cell(table, "%s", node->op->name);
        esp_table_cell(table, "%.3f", it->result.node_ms[i]);
        esp_table_cell(table, "%.1f %%", total > 0 ? 100.0 * it->result.node_ms[i] / total : 0.0);
        if (node_macs(it, i) > 0) {
            esp_table_cell(table, "%.1f", gflops(it, i));
        } else {
            esp_table_cell(table, "%s", "");
        }
    }
    putchar('\n');
    esp_status status = esp_table_print(table, err);
    esp_table_free(table);
    return status;
}

static json_t *nodes_json(const bench *it)
{
    json_t *list = json_array();
    for (int i = 0; i < it->result.node_count; i++) {
        const esp_node *node = esp_graph_node(it->graph, i);
        json_array_append_new(list,
                              json_pack("{s:o, s:s, s:f, s:I, s:f}", "name", esp_cli_json_text(node->name),
                                        "operator", node->op->name, "ms", it->result.node_ms[i], "macs",
                                        (json_int_t)node_macs(it, i), "gflops", gflops(it, i)));
    }
    return list;
}

static esp_status print_result(const bench *it, esp_error *err)
{
    const esp_latency_result *result = &it->result;
    double per_s = result->median_ms > 0 ? 1000.0 * (double)result->batch / result->median_ms : 0.0;
    if (it->is_json) {
        json_t *object =
            json_pack("{s:f, s:f, s:f, s:f, s:I, s:i, s:i, s:f, s:s}", "median_ms", result->median_ms,
                      "min_ms", result->min_ms, "p90_ms", result->p90_ms, "spread", result->spread, "batch",
                      (json_int_t)result->batch, "threads", result->threads, "repeats", result->repeats,
                      "images_per_s", per_s, "blas_core", esp_blas_core());
        if (object && it->has_layers) {
            json_object_set_new(object, "layers", nodes_json(it));
        }
        return esp_cli_print_json(object, err);
    }
    printf("median   %.3f ms for a batch of %lld on %d thread%s (%.0f images/s)\n", result->median_ms,
           (long long)result->batch, result->threads, result->threads == 1 ? "" : "s", per_s);
    printf(
        "range    %.3f ms fastest, %.3f ms at the 90th percentile of %d runs; middle half within %.0f %%\n",
        result->min_ms, result->p90_ms, result->repeats, 100.0 * result->spread);
    return it->has_layers ? print_nodes(it, err) : ESP_OK;
}

static esp_status measure(bench *it, esp_cli *cli, const char *path, const esp_option_list *inputs,
                          int64_t batch, int64_t repeats, esp_error *err)
{
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count = 0;
    esp_status status = esp_onnx_load(path, &it->graph, err);
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(inputs, it->graph, shapes, &shape_count, err);
    }
    if (status == ESP_OK) {
        status = esp_infer(it->graph, 1, shapes, shape_count, &it->inferred, err);
    }
    if (status == ESP_OK) {
        status = esp_layers_list(it->graph, it->inferred, &it->layers, err);
    }
    if (status == ESP_OK) {
        const esp_latency_options options = {.batch = batch,
                                             .repeats = (int)repeats,
                                             .input_shapes = shapes,
                                             .input_shape_count = shape_count};
        status = esp_measure_latency(&cli->compute, it->graph, &options, it->has_layers, &it->result, err);
    }
    return status;
}

esp_status esp_command_bench(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    int64_t threads = 0, batch = 1, repeats = 0;
    bool is_done = false;
    bench it = {0};
    esp_option_list inputs = {0};
    const esp_option options[] = {
        {"batch", 'b', ESP_OPTION_INT, &batch, "N", "images per run (default 1)", 1, 65536, 0},
        {"threads", 't', ESP_OPTION_INT, &threads, "N", "default: all cores", 1, 1024, 0},
        {"repeats", 'r', ESP_OPTION_INT, &repeats, "N", "timed runs (default: about a second's worth)", 1,
         1e6, 0},
        {"layers", 'l', ESP_OPTION_FLAG, &it.has_layers, NULL, "time of every node", 0, 0, 0},
        {"input", 0, ESP_OPTION_LIST, &inputs, "NAME:SHAPE", "fix sizes the file leaves open", 0, 0, 0},
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object instead of text", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {"bench",
                                       "Latency of a forward pass on this machine.",
                                       "MODEL.onnx [options]",
                                       "  espalier bench model.onnx --batch 8 --threads 2 --layers",
                                       1,
                                       1,
                                       options,
                                       false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    status = esp_cli_start(cli, threads, err);
    if (status == ESP_OK) {
        status = measure(&it, cli, positionals.items[0], &inputs, batch, repeats, err);
    }
    if (status == ESP_OK) {
        status = print_result(&it, err);
    }
    esp_free(it.result.node_ms);
    esp_layers_free(&it.layers);
    esp_inferred_free(it.inferred);
    esp_graph_unref(it.graph);
    return status;
}
