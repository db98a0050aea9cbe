/* The front door of all dataset readers: takes a spec apart and finds its reader in the list of schemes. */
#include "io/dataset.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"
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
    esp_text list = {0};

    for (size_t i = 0; i < SCHEME_COUNT; i++) {
        names[i] = schemes[i].name;
        esp_text_printf(&list, "%s%s%s", i > 0 ? ", " : "", names[i],
                        schemes[i].default_directory ? "" : ":DIR");
    }
    const char *nearest = word ? esp_nearest_word(word, names, SCHEME_COUNT) : NULL;
    esp_fail(err, ESP_INVALID, "unknown dataset '%s', expected one of %s", spec,
             list.data && !list.is_broken ? list.data : "the known schemes");
    if (nearest)
        esp_error_set_hint(err, "did you mean %s?", nearest);
    esp_text_free(&list);
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

static esp_status find_file(const char *directory, const char *name, char **out, esp_error *err)
{
    char *plain = esp_path_join(directory, name);
    esp_text zipped = {0};

    *out = NULL;
    if (!plain)
        return esp_fail_memory(err, name, strlen(directory));
    if (esp_file_exists(plain)) {
        *out = plain;
        return ESP_OK;
    }
    esp_text_printf(&zipped, "%s.gz", plain);
    esp_free(plain);
    if (zipped.is_broken) {
        esp_text_free(&zipped);
        return esp_fail_memory(err, name, strlen(directory));
    }
    if (!esp_file_exists(zipped.data)) {
        esp_text_free(&zipped);
        return esp_fail(err, ESP_IO, "%s has neither %s nor %s.gz", directory, name, name);
    }
    *out = esp_text_take(&zipped);
    return ESP_OK;
}

esp_status esp_dataset_file_read(const char *directory, const char *name, char **out_path, char **out_data,
                                 size_t *out_size, esp_error *err)
{
    *out_data = NULL;
    esp_status status = find_file(directory, name, out_path, err);

    if (status != ESP_OK)
        return status;
    return esp_file_read_gz(*out_path, ESP_DATASET_FILE_LIMIT, out_data, out_size, err);
}
