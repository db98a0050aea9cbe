/* The installed tree and the source tree have the same directories, so one relative name serves both. The
 * build system defines ESP_VERSION, ESP_SOURCE_DATA_DIR and ESP_DATA_FROM_BINARY for this file only. */
#include "base/paths.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

const char *esp_version(void)
{
    return ESP_VERSION;
}

/* The installed data directory as seen from the running program; NULL when that cannot be told. */
static char *installed_directory(void)
{
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    char *directory, *resolved;

    if (length <= 0)
        return NULL;
    program[length] = '\0';
    *strrchr(program, '/') = '\0'; /* the link always holds an absolute path */
    directory = esp_path_join(program, ESP_DATA_FROM_BINARY);
    resolved = directory ? realpath(directory, NULL) : NULL;
    esp_free(directory);
    directory = esp_strdup(resolved);
    free(resolved);
    return directory;
}

esp_status esp_data_path(const char *relative, char **out, esp_error *err)
{
    char *installed = installed_directory();
    const char *places[] = {getenv("ESPALIER_DATA_DIR"), installed, ESP_SOURCE_DATA_DIR};
    esp_text looked = {0};
    esp_status status = ESP_IO;

    *out = NULL;
    for (size_t i = 0; i < sizeof places / sizeof *places && status == ESP_IO; i++) {
        char *path;

        if (!places[i] || places[i][0] == '\0')
            continue;
        path = esp_path_join(places[i], relative);
        if (!path) {
            status = esp_fail_memory(err, relative, strlen(places[i]));
        } else if (esp_file_exists(path)) {
            *out = path;
            status = ESP_OK;
        } else {
            esp_text_printf(&looked, "%s%s", looked.length > 0 ? ", " : "", places[i]);
            esp_free(path);
        }
    }
    if (status == ESP_IO) {
        esp_fail(err, ESP_IO, "%s: not found in %s", relative,
                 looked.data ? looked.data : "any data directory");
        esp_error_set_hint(err, "set ESPALIER_DATA_DIR to the directory that holds it");
    }
    esp_text_free(&looked);
    esp_free(installed);
    return status;
}
