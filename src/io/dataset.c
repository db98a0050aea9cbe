/* The front door of all dataset readers: takes a spec apart and finds its reader in the list of schemes. */
#include "io/dataset.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/unknown.h"
#include "io/dataset_internal.h"

#define SCHEME_ROW(scheme, reader, directory, help_text) {scheme, directory, help_text},
static const esp_dataset_scheme schemes[] = {ESP_DATASET_LIST(SCHEME_ROW)};

#define SCHEME_READER(scheme, reader, directory, help_text) reader,
static esp_dataset_reader *const readers[] = {ESP_DATASET_LIST(SCHEME_READER)};

enum { SCHEME_COUNT = sizeof schemes / sizeof schemes[0] };

const esp_dataset_scheme *esp_dataset_schemes(size_t *out_count)
{
    *out_count = SCHEME_COUNT;
    return schemes;
}

const char *esp_split_name(esp_split split)
{
    return split == ESP_SPLIT_TRAIN ? "train" : "test";
}

/* Index of the scheme of this length, or -1. */
static int find_scheme(const char *spec, size_t length)
{
    for (int i = 0; i < SCHEME_COUNT; i++)
        if (strlen(schemes[i].name) == length && strncmp(schemes[i].name, spec, length) == 0)
            return i;
    return -1;
}

static esp_status fail_scheme(const char *spec, size_t length, esp_error *err)
{
    const char *names[SCHEME_COUNT];
    char *word = esp_strndup(spec, length);

    if (!word)
        return esp_fail_memory(err, "a dataset's name", length);
    for (size_t i = 0; i < SCHEME_COUNT; i++)
        names[i] = schemes[i].name;
    esp_fail_unknown(err, "dataset", word, names, SCHEME_COUNT);
    esp_free(word);
    return ESP_INVALID;
}

esp_status esp_dataset_open(const char *spec, esp_split split, esp_dataset **out, esp_error *err)
{
    size_t length = strcspn(spec, ":");
    int index = find_scheme(spec, length);

    *out = NULL;
    if (index < 0)
        return fail_scheme(spec, length, err);
    const char *directory = spec[length] == ':' ? spec + length + 1 : schemes[index].default_directory;
    if (!directory || directory[0] == '\0')
        return esp_fail(err, ESP_INVALID, "dataset '%s' names no directory, expected %s:DIR", spec,
                        schemes[index].name);
    if (!esp_file_is_directory(directory)) {
        esp_fail(err, ESP_IO, "dataset '%s': %s is %s, expected a directory", spec, directory,
                 esp_file_exists(directory) ? "a file" : "not there");
        if (directory == schemes[index].default_directory)
            esp_error_set_hint(err, "install Debian's package dataset-%s, or say %s:DIR", schemes[index].name,
                               schemes[index].name);
        return ESP_IO;
    }
    esp_dataset_request request = {spec, directory, split};
    return readers[index](&request, out, err);
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
