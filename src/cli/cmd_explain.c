/* espalier explain: why one filter stays or goes under a plan. */
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/unknown.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/plan_flags.h"
#include "io/onnx.h"
#include "prune/explain.h"

typedef struct explain_request {
    esp_cli_plan_flags plan;
    int64_t threads;
    esp_option_list inputs;
    bool is_json;
    const char *model, *layer;
    int64_t channel;
} explain_request;

/* The position of a layer by node or weight name; others are refused with the nearest. */
static esp_status find_layer(const esp_layers *layers, const char *name, int *out, esp_error *err)
{
    size_t count = (size_t)layers->count;
    const char **names;
    esp_status status;
    *out = esp_layers_find(layers, name);
    if (*out >= 0) {
        return ESP_OK;
    }
    names = esp_alloc(2 * count, sizeof *names);
    if (!names) {
        return esp_fail_memory(err, "layer names", 2 * count * sizeof *names);
    }
    for (size_t l = 0; l < count; l++) {
        names[l] = layers->items[l].name;
        names[count + l] = layers->items[l].weight_name;
    }
    status = esp_fail_unknown(err, "layer", name, names, 2 * count);
    esp_free(names);
    return status;
}

static esp_status show(const explain_request *it, const esp_preview *preview, esp_error *err)
{
    json_t *told = NULL;
    esp_text text = {0};
    int layer = 0;
    esp_status status = find_layer(&preview->layers, it->layer, &layer, err);
    if (status == ESP_OK) {
        status = esp_preview_explain(preview, layer, it->channel, &told, err);
    }
    if (status == ESP_OK && it->is_json) {
        esp_cli_end_progress();
        return esp_cli_print_json(told, err);
    }
    if (status == ESP_OK) {
        status = esp_explain_print(told, &text, err);
    }
    if (status == ESP_OK) {
        esp_cli_end_progress();
        fputs(text.data, stdout);
    }
    esp_text_free(&text);
    json_decref(told);
    return status;
}

static esp_status explain(esp_cli *cli, const explain_request *it, esp_error *err)
{
    esp_plan plan = {0};
    esp_graph *graph = NULL;
    esp_grouping_cache *cache = NULL;
    esp_preview *preview = NULL;
    esp_input_shape shapes[ESP_CLI_INPUTS_MAX];
    int shape_count = 0;
    esp_status status = esp_cli_plan_make(&it->plan, true, &plan, err);
    if (status == ESP_OK) {
        status = esp_cli_start(cli, it->threads, err);
    }
    if (status == ESP_OK) {
        status = esp_onnx_load(it->model, &graph, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(&it->inputs, graph, shapes, &shape_count, err);
    }
    if (status == ESP_OK) {
        status = esp_grouping_cache_new(&cache, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_plan_calibrate(&it->plan, &plan, graph, cache, err);
    }
    if (status == ESP_OK) {
        status = esp_preview_new(&cli->compute, graph, &plan, shapes, shape_count, cache, &preview, err);
    }
    if (status == ESP_OK) {
        status = show(it, preview, err);
    }
    esp_preview_free(preview);
    esp_grouping_cache_free(cache);
    esp_graph_unref(graph);
    esp_plan_free(&plan);
    return status;
}

esp_status esp_command_explain(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    bool is_done = false;
    explain_request it = {.plan = ESP_CLI_PLAN_FLAGS_NONE};
    char data_help[128];
    const esp_option options[] = {
        ESP_CLI_PLAN_FLAGS_ROWS(&it.plan, esp_cli_data_help(data_help, sizeof data_help)),
        {"input", 0, ESP_OPTION_LIST, &it.inputs, "NAME:SHAPE", "fix sizes the file leaves open", 0, 0, 0},
        {"threads", 't', ESP_OPTION_INT, &it.threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
        {"json", 0, ESP_OPTION_FLAG, &it.is_json, NULL, "one JSON object instead of the text", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {
        "explain",
        "Why a filter stays or goes: scores, ranks, thresholds, partners, and what would have to change.",
        "MODEL.onnx LAYER CHANNEL --method M --ratio R | --plan PLAN.json [options]",
        "  espalier explain model.onnx conv1 3 --method wsp --ratio 0.4\n"
        "  espalier explain model.onnx layer2.0.conv1 7 --plan plan.json --json",
        3,
        3,
        options,
        false};
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    esp_status status = esp_cli_parse(&syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    it.model = positionals.items[0];
    it.layer = positionals.items[1];
    if (!esp_parse_i64(positionals.items[2], &it.channel)) {
        return esp_fail(err, ESP_INVALID, "CHANNEL: found '%s', expected the number of a filter, from 0",
                        positionals.items[2]);
    }
    return explain(cli, &it, err);
}
