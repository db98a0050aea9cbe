/* The front door of all dataset readers: finds a spec's reader in the list of schemes, and cuts validation
 * images off where a format has none of its own. */
#include "io/dataset.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "io/dataset_internal.h"

#define SCHEME_ROW(scheme, reader, directory, options, help_text) {scheme, directory, options, help_text},
static const esp_dataset_scheme schemes[] = {ESP_DATASET_LIST(SCHEME_ROW)};

#define SCHEME_READER(scheme, reader, directory, options, help_text) reader,
static esp_dataset_reader *const readers[] = {ESP_DATASET_LIST(SCHEME_READER)};

enum { SCHEME_COUNT = sizeof schemes / sizeof schemes[0] };

const esp_dataset_scheme *esp_dataset_schemes(size_t *out_count)
{
    *out_count = SCHEME_COUNT;
    return schemes;
}

static esp_status find_directory(const char *spec, const esp_dataset_query *query, const char **out,
                                 esp_error *err)
{
    const esp_dataset_scheme *scheme = &schemes[query->scheme];
    const char *directory = query->directory ? query->directory : scheme->default_directory;

    if (!directory)
        return esp_fail(err, ESP_INVALID, "dataset '%s' names no directory, expected %s:DIR", spec,
                        scheme->name);
    if (!esp_file_is_directory(directory)) {
        esp_fail(err, ESP_IO, "dataset '%s': %s is %s, expected a directory", spec, directory,
                 esp_file_exists(directory) ? "a file" : "not there");
        if (directory == scheme->default_directory)
            esp_error_set_hint(err, "install Debian's package dataset-%s, or say %s:DIR", scheme->name,
                               scheme->name);
        return ESP_IO;
    }
    *out = directory;
    return ESP_OK;
}

/* Cuts validation images off the training images, or leaves them out. */
static esp_status cut_validation(const char *spec, esp_split split, const esp_dataset_query *query,
                                 bool has_validation, esp_dataset **set, esp_error *err)
{
    esp_dataset *rest, *held;

    if (query->validation < 0) {
        esp_status status =
            esp_fail(err, ESP_STATE, "dataset '%s' has no validation images of its own", spec);

        esp_error_set_hint(err, "hold a share of the training images out for them: ?val=0.1 after the spec");
        return status;
    }
    if (has_validation)
        return esp_fail(err, ESP_INVALID,
                        "dataset '%s' has validation images of its own, so option 'val' means nothing", spec);
    esp_status status = esp_dataset_split(*set, query->validation, query->seed, &rest, &held, err);
    if (status != ESP_OK)
        return status;
    esp_dataset_unref(*set);
    esp_dataset_unref(split == ESP_SPLIT_VALIDATION ? rest : held);
    *set = split == ESP_SPLIT_VALIDATION ? held : rest;
    return ESP_OK;
}

static bool asks_for_sizes(const esp_image_sizes *sizes)
{
    return sizes->resize > 0 || sizes->resize_height > 0 || sizes->crop_height > 0 || sizes->channels > 0;
}

esp_status esp_dataset_open(const char *spec, esp_split split, esp_dataset **out, esp_error *err)
{
    esp_dataset_query query;
    esp_dataset *set = NULL;
    bool gave_training = false, has_validation = false;
    esp_dataset_request request = {.spec = spec,
                                   .split = split,
                                   .query = &query,
                                   .gave_training = &gave_training,
                                   .has_validation = &has_validation};

    *out = NULL;
    esp_status status = esp_dataset_query_parse(spec, &query, err);
    if (status != ESP_OK)
        return status;
    status = find_directory(spec, &query, &request.directory, err);
    bool finds_validation = (schemes[query.scheme].options & ESP_DATASET_LAZY) != 0;
    if (split == ESP_SPLIT_VALIDATION && !finds_validation) {
        request.split = ESP_SPLIT_TRAIN;
        gave_training = true;
    }
    if (status == ESP_OK)
        status = readers[query.scheme](&request, &set, err);
    if (status == ESP_OK && !esp_dataset_is_lazy(set) && asks_for_sizes(&query.sizes))
        status = esp_dataset_resize(&query, &set, err);
    if (status == ESP_OK && (gave_training || (split == ESP_SPLIT_TRAIN && query.validation > 0)))
        status = cut_validation(spec, split, &query, has_validation, &set, err);
    esp_dataset_query_free(&query);
    if (status == ESP_OK)
        *out = set;
    else
        esp_dataset_unref(set);
    return status;
}

esp_status esp_dataset_open_for(const char *spec, esp_split split, const esp_graph *graph, esp_dataset **out,
                                esp_error *err)
{
    esp_dataset *set = NULL;
    esp_status status = esp_dataset_open(spec, split, &set, err);

    *out = NULL;
    if (status == ESP_OK)
        status = esp_dataset_fit(set, graph, out, err);
    esp_dataset_unref(set);
    return status;
}

esp_status esp_dataset_file_find(const char *directory, const char *name, char **out, esp_error *err)
{
    static const char *const endings[] = {"", ".gz"};
    size_t length = strlen(directory);
    const char *separator = length > 0 && directory[length - 1] == '/' ? "" : "/";

    *out = NULL;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        esp_text path = {0};

        esp_text_printf(&path, "%s%s%s%s", directory, separator, name, endings[i]);
        if (path.is_broken) {
            esp_text_free(&path);
            return esp_fail_memory(err, name, length);
        }
        if (esp_file_exists(path.data)) {
            *out = esp_text_take(&path);
            return ESP_OK;
        }
        esp_text_free(&path);
    }
    return ESP_OK;
}

esp_status esp_dataset_file_read(const char *directory, const char *name, char **out_path, char **out_data,
                                 size_t *out_size, esp_error *err)
{
    *out_data = NULL;
    esp_status status = esp_dataset_file_find(directory, name, out_path, err);

    if (status != ESP_OK)
        return status;
    if (!*out_path)
        return esp_fail(err, ESP_IO, "%s has neither %s nor %s.gz", directory, name, name);
    return esp_file_read_gz(*out_path, ESP_DATASET_FILE_LIMIT, out_data, out_size, err);
}
