/* espalier explain: why one filter stays or goes under a plan. */
#include <math.h>
#include <stdio.h>

#include "cli/common_options.h"
#include "cli/plan_flags.h"
#include "prune/explain.h"

typedef struct explain_request {
    esp_cli_plan_flags plan;
    esp_cli_common common;
    const char *layer;
    int64_t channel;
} explain_request;

static esp_status show(const explain_request *it, const esp_preview *preview, esp_error *err)
{
    json_t *told = NULL;
    esp_text text = {0};
    int layer = 0;
    esp_status status = esp_layers_require(&preview->layers, it->layer, &layer, err);
    if (status == ESP_OK) {
        status = esp_preview_explain(preview, layer, it->channel, &told, err);
    }
    if (status == ESP_OK && it->common.is_json) {
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

static esp_status explain(esp_cli *cli, const explain_request *it, const char *path, esp_error *err)
{
    esp_plan plan = {0};
    esp_cli_model model = {0};
    esp_grouping_cache *cache = NULL;
    esp_preview *preview = NULL;
    esp_status status = esp_cli_plan_make(&it->plan, true, &plan, err);
    if (status == ESP_OK) {
        status = esp_cli_model_open(cli, &it->common, path, &model, err);
    }
    if (status == ESP_OK) {
        status = esp_grouping_cache_new(&cache, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_plan_calibrate(&it->plan, &plan, model.graph, cache, err);
    }
    if (status == ESP_OK) {
        status = esp_preview_new(&cli->compute, model.graph, &plan, model.shapes, model.shape_count, cache,
                                 &preview, err);
    }
    if (status == ESP_OK) {
        status = show(it, preview, err);
    }
    esp_preview_free(preview);
    esp_grouping_cache_free(cache);
    esp_cli_model_close(&model);
    esp_plan_free(&plan);
    return status;
}

/* MODEL.onnx LAYER CHANNEL */
static esp_status run(esp_cli *cli, int count, char **items, void *context, esp_error *err)
{
    explain_request *it = context;
    (void)count;
    it->layer = items[1];
    if (!esp_parse_i64(items[2], &it->channel)) {
        return esp_fail(err, ESP_INVALID, "CHANNEL: found '%s', expected the number of a filter, from 0",
                        items[2]);
    }
    return explain(cli, it, items[0], err);
}

esp_status esp_command_explain(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    explain_request it = {.plan = ESP_CLI_PLAN_FLAGS_NONE};
    char data_help[128];
    const esp_option options[] = {
        ESP_CLI_PLAN_FLAGS_ROWS(&it.plan, esp_cli_data_help(data_help, sizeof data_help)),
        ESP_CLI_MEAN(&it.plan, "normalisation of these images instead of the model's own"),
        ESP_CLI_STD(&it.plan, "likewise"),
        ESP_CLI_INPUT(&it.common, "fix sizes the file leaves open"),
        ESP_CLI_MACHINE(cli, &it.common),
        ESP_CLI_JSON(&it.common, "one JSON object instead of the text"),
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
    return esp_cli_run(cli, &syntax, argc, argv, run, &it, err);
}
