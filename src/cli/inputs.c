/* Shared pieces of the subcommands. */
#include "cli/inputs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "io/dataset.h"

esp_status esp_cli_input_shapes(const esp_option_list *items, const esp_graph *graph, esp_input_shape *shapes,
                                int *count, esp_error *err)
{
    return esp_input_shapes_parse(items->items, items->count, graph, shapes, count, err);
}

char *esp_cli_data_help(char *buffer, size_t size)
{
    size_t count = 0;
    const esp_dataset_scheme *schemes = esp_dataset_schemes(&count);
    int used = snprintf(buffer, size, "dataset: ");
    for (size_t i = 0; i < count && used > 0 && (size_t)used < size; i++) {
        used += snprintf(buffer + used, size - (size_t)used, "%s%s%s", i ? ", " : "", schemes[i].name,
                         schemes[i].default_directory ? "" : ":DIR");
    }
    return buffer;
}

json_t *esp_cli_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *esp_cli_json_text(const char *text)
{
    json_t *good = json_string(text);
    char *copy = good ? NULL : esp_strdup(text);
    for (char *byte = copy; byte && *byte; byte++) {
        *byte = (unsigned char)*byte < 0x80 ? *byte : '?';
    }
    json_t *result = good ? good : json_string(copy);
    esp_free(copy);
    return result;
}

esp_status esp_cli_print_json(json_t *take_object, esp_error *err)
{
    char *text = take_object ? esp_json_dump(take_object, 0) : NULL;
    json_decref(take_object);
    if (!text) {
        return esp_fail_memory(err, "the JSON output", 0);
    }
    fputs(text, stdout);
    esp_free(text);
    return ESP_OK;
}

json_t *esp_cli_eval_json(const esp_eval_result *result)
{
    if (result->images == 0) {
        return json_null();
    }
    json_t *mean = json_array();
    json_t *std = json_array();
    for (int c = 0; c < result->normalization.channels; c++) {
        json_array_append_new(mean, json_real((double)result->normalization.mean[c]));
        json_array_append_new(std, json_real((double)result->normalization.std[c]));
    }
    return json_pack("{s:I, s:f, s:f, s:o, s:f, s:f, s:f, s:o, s:o}", "images", (json_int_t)result->images,
                     "top1", result->top1, "top5", result->top5, "loss", esp_cli_json_real(result->loss),
                     "top1_error", result->top1_error, "seconds", result->seconds, "images_per_s",
                     result->images_per_s, "mean", mean, "std", std);
}

char *esp_cli_accuracy_text(const esp_eval_result *result, char *buffer, size_t size)
{
    snprintf(buffer, size, "%.2f %% ± %.2f", result->top1, result->top1_error);
    return buffer;
}

char *esp_cli_normalization_text(const esp_normalization *normalization, char *buffer, size_t size)
{
    static const char *const origins[] = {
        [ESP_NORM_FROM_MODEL] = "from the model",
        [ESP_NORM_FROM_USER] = "as given",
        [ESP_NORM_DEFAULT] = "the default: the model carries none; set it with --mean and --std",
    };
    int used = snprintf(buffer, size, "x/255, mean");
    for (int pass = 0; pass < 2; pass++) {
        const float *values = pass ? normalization->std : normalization->mean;
        for (int c = 0; c < normalization->channels && used > 0 && (size_t)used < size; c++) {
            used += snprintf(buffer + used, size - (size_t)used, "%s%.4g",
                             c      ? "/"
                             : pass ? ", std "
                                    : " ",
                             (double)values[c]);
        }
    }
    if (used > 0 && (size_t)used < size) {
        snprintf(buffer + used, size - (size_t)used, " (%s)", origins[normalization->origin]);
    }
    return buffer;
}
