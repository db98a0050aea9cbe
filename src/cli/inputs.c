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

static void add_option(esp_text *spec, char *separator, const char *name, const char *value)
{
    if (value) {
        esp_text_printf(spec, "%c%s=%s", *separator, name, value);
        *separator = ',';
    }
}

esp_status esp_cli_open_data(const char *spec, const esp_cli_images *images, esp_split split,
                             const esp_graph *graph, esp_dataset **out, esp_error *err)
{
    *out = NULL;
    esp_text full = {0};
    char separator = strchr(spec, '?') ? ',' : '?';
    esp_text_append(&full, spec);
    if (images) {
        add_option(&full, &separator, "resize", images->resize);
        add_option(&full, &separator, "crop", images->crop);
        add_option(&full, &separator, "interpolation", images->interpolation);
        if (images->skips_bad) {
            esp_text_printf(&full, "%cskip-bad", separator);
        }
    }
    char *text = esp_text_take(&full);
    if (!text) {
        return esp_fail_memory(err, "a dataset's name", strlen(spec));
    }
    esp_status status =
        graph ? esp_dataset_open_for(text, split, graph, out, err) : esp_dataset_open(text, split, out, err);
    esp_free(text);
    return status;
}

void esp_cli_explain_size(esp_status status, const esp_graph *graph, const esp_dataset *dataset,
                          esp_error *err)
{
    esp_input_shape input;
    if (status != ESP_SHAPE || err->hint[0] || !graph || !dataset || esp_graph_input_count(graph) == 0 ||
        !esp_dataset_input_shape(dataset, graph, 1, &input)) {
        return;
    }
    const int64_t *dims = input.shape.dims;
    esp_error_set_hint(err, "the model's input sizes are open: %lldx%lldx%lld is from the data",
                       (long long)dims[1], (long long)dims[2], (long long)dims[3]);
}

char *esp_cli_transform_text(const esp_dataset *dataset, char *buffer, size_t size)
{
    const esp_transform *transform = esp_dataset_transform(dataset);
    if (!transform || esp_dataset_is_float(dataset)) {
        snprintf(buffer, size, "as they are");
        return buffer;
    }
    char resize[64] = "as they are";
    if (transform->resize > 0) {
        snprintf(resize, sizeof resize, "shorter side to %d", transform->resize);
    } else if (transform->resize_height > 0) {
        snprintf(resize, sizeof resize, "resized to %dx%d", transform->resize_height,
                 transform->resize_width);
    }
    snprintf(buffer, size, "%s, centre %dx%d, %s, %s", resize, transform->height, transform->width,
             transform->interpolation == ESP_INTERPOLATION_BICUBIC ? "bicubic" : "bilinear",
             transform->channels == 1 ? "grey" : "RGB");
    return buffer;
}

json_t *esp_cli_skipped_json(const esp_dataset *dataset)
{
    json_t *list = json_array();
    char message[512];
    for (int64_t i = 0; esp_dataset_skipped_message(dataset, i, message, sizeof message); i++) {
        json_array_append_new(list, esp_cli_json_text(message));
    }
    return list;
}

void esp_cli_warn_skipped(const esp_dataset *dataset)
{
    char message[512];
    int64_t count = esp_dataset_skipped(dataset), shown = 0;
    for (; esp_dataset_skipped_message(dataset, shown, message, sizeof message); shown++) {
        fprintf(stderr, "left out: %s\n", message);
    }
    if (count > shown) {
        fprintf(stderr, "left out: %lld more\n", (long long)(count - shown));
    }
}

json_t *esp_cli_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *esp_cli_json_text(const char *text)
{
    return esp_json_text(text);
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
    return json_pack("{s:I, s:I, s:f, s:f, s:o, s:f, s:f, s:f, s:o, s:o}", "images",
                     (json_int_t)result->images, "skipped", (json_int_t)result->skipped, "top1", result->top1,
                     "top5", result->top5, "loss", esp_cli_json_real(result->loss), "top1_error",
                     result->top1_error, "seconds", result->seconds, "images_per_s", result->images_per_s,
                     "mean", mean, "std", std);
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
