/* espalier eval: loss and accuracy of a model on a dataset. */
#include <stdio.h>

#include "base/text.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "io/onnx.h"

static esp_status print_result(const esp_eval_result *result, const esp_dataset *dataset, bool is_json,
                               esp_error *err)
{
    char accuracy[48], normalization[256], seconds[16], transform[160];
    esp_cli_end_progress();
    if (is_json) {
        json_t *object = esp_cli_eval_json(result);
        json_object_set_new(object, "skipped_messages", esp_cli_skipped_json(dataset));
        return esp_cli_print_json(object, err);
    }
    esp_cli_warn_skipped(dataset);
    printf("data           %s: %s\n", esp_dataset_name(dataset), esp_dataset_note(dataset));
    printf("normalisation  %s\n",
           esp_cli_normalization_text(&result->normalization, normalization, sizeof normalization));
    if (esp_dataset_is_lazy(dataset)) {
        printf("transform      %s\n", esp_cli_transform_text(dataset, transform, sizeof transform));
    }
    printf("images         %lld\n", (long long)result->images);
    if (result->skipped > 0) {
        printf("left out       %lld bad images\n", (long long)result->skipped);
    }
    printf("top-1          %s (95 %% interval)\n", esp_cli_accuracy_text(result, accuracy, sizeof accuracy));
    printf("top-5          %.2f %%\n", result->top5);
    printf("loss           %.4f\n", result->loss);
    printf("speed          %.0f images/s, %s\n", result->images_per_s,
           esp_format_duration(seconds, sizeof seconds, result->seconds));
    return ESP_OK;
}

esp_status esp_command_eval(esp_cli *cli, int argc, char **argv, esp_error *err)
{
    const char *data = NULL;
    char data_help[128];
    esp_eval_options eval = {.spends_weights = true};
    int64_t threads = 0;
    bool is_json = false, is_done = false, uses_training = false, uses_validation = false;
    esp_cli_images images = {0};
    const esp_option options[] = {
        {"data", 'd', ESP_OPTION_TEXT, &data, "SPEC", esp_cli_data_help(data_help, sizeof data_help), 0, 0,
         0},
        {"limit", 'n', ESP_OPTION_INT, &eval.limit, "N", "first N images only (default: all)", 1, 1e9, 0},
        {"batch", 'b', ESP_OPTION_INT, &eval.batch, "N", "images per run (default 100)", 1, 65536, 0},
        {"train-split", 0, ESP_OPTION_FLAG, &uses_training, NULL,
         "the training images instead of the test images", 0, 0, 0},
        {"validation-split", 0, ESP_OPTION_FLAG, &uses_validation, NULL,
         "the validation images instead of the test images", 0, 0, 0},
        ESP_CLI_IMAGES(&images),
        {"mean", 0, ESP_OPTION_TEXT, &eval.mean, "M[,M..]", "normalisation: mean of x/255 per channel", 0, 0,
         0},
        {"std", 0, ESP_OPTION_TEXT, &eval.std, "S[,S..]", "normalisation: standard deviation per channel", 0,
         0, 0},
        {"threads", 't', ESP_OPTION_INT, &threads, "N", "default: all cores", 1, 1024, 0},
        ESP_CLI_KERNELS(cli),
        {"json", 0, ESP_OPTION_FLAG, &is_json, NULL, "one JSON object instead of text", 0, 0, 0},
        {0},
    };
    const esp_command_syntax syntax = {"eval",
                                       "Loss, top-1 and top-5 accuracy and speed of a model on a dataset.",
                                       "MODEL.onnx --data SPEC [options]",
                                       "  espalier eval sample_models/lenet5.onnx --data fashion-mnist\n"
                                       "  espalier eval resnet50.onnx --data folder:photos --resize 256 "
                                       "--crop 224",
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
    if (!data) {
        return esp_fail(err, ESP_INVALID, "--data SPEC is missing (%s)", data_help);
    }
    if (uses_training && uses_validation) {
        return esp_fail(err, ESP_INVALID, "--train-split and --validation-split exclude each other");
    }
    esp_split split = uses_training     ? ESP_SPLIT_TRAIN
                      : uses_validation ? ESP_SPLIT_VALIDATION
                                        : ESP_SPLIT_TEST;
    esp_graph *graph = NULL;
    esp_dataset *dataset = NULL;
    esp_eval_result result = {0};
    status = esp_cli_start(cli, threads, err);
    if (status == ESP_OK) {
        status = esp_onnx_load(positionals.items[0], &graph, err);
    }
    if (status == ESP_OK) {
        status = esp_cli_open_data(data, &images, split, graph, &dataset, err);
    }
    if (status == ESP_OK) {
        status = esp_evaluate(&cli->compute, graph, dataset, &eval, &result, err);
    }
    if (status == ESP_OK) {
        status = print_result(&result, dataset, is_json, err);
    }
    esp_dataset_unref(dataset);
    esp_graph_unref(graph);
    return status;
}
