/* What commands have in common. */
#include "cli/common_options.h"

#include "io/onnx.h"

esp_status esp_cli_run(esp_cli *cli, const esp_command_syntax *syntax, int argc, char **argv,
                       esp_cli_body *body, void *context, esp_error *err)
{
    char *items[argc + 1];
    esp_positionals positionals = {0, items};
    bool is_done = false;
    esp_status status = esp_cli_parse(syntax, argc, argv, &positionals, &is_done, err);
    if (status != ESP_OK || is_done) {
        return status;
    }
    return body(cli, positionals.count, positionals.items, context, err);
}

esp_status esp_cli_model_open(esp_cli *cli, const esp_cli_common *common, const char *path,
                              esp_cli_model *out, esp_error *err)
{
    *out = (esp_cli_model){0};
    esp_status status = esp_cli_start(cli, common->threads, err);
    if (status == ESP_OK) {
        status = esp_onnx_load(path, &out->graph, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_input_shapes(&common->inputs, out->graph, out->shapes, &out->shape_count, err);
    }
    return status;
}

void esp_cli_model_close(esp_cli_model *model)
{
    esp_graph_unref(model->graph);
    *model = (esp_cli_model){0};
}
