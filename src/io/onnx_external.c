/* External data: elements that lie in another file, named by the tensor. A model from elsewhere must not read
 * any file it likes, so only names at or below the model's own directory are taken. Links are followed: they
 * are put there by whoever owns the directory, and model caches consist of them. */
#include "io/onnx_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

static esp_status read_entries(const Onnx__TensorProto *proto, esp_onnx_external *out, esp_error *err)
{
    *out = (esp_onnx_external){NULL, 0, -1};
    for (size_t i = 0; i < proto->n_external_data; i++) {
        const char *key = proto->external_data[i]->key;
        const char *value = proto->external_data[i]->value;
        int64_t *number = NULL;

        if (!key || !value)
            continue;
        if (strcmp(key, "location") == 0)
            out->location = value;
        else if (strcmp(key, "offset") == 0)
            number = &out->offset;
        else if (strcmp(key, "length") == 0)
            number = &out->length;
        if (number && (!esp_parse_i64(value, number) || *number < 0))
            return esp_fail(err, ESP_FORMAT, "external data: %s is '%s', expected a number of bytes", key,
                            value);
    }
    if (!out->location || !out->location[0])
        return esp_fail(err, ESP_FORMAT, "external data without a location");
    return ESP_OK;
}

/* A model from elsewhere must not read any file it likes: only names at or below its own directory. */
static bool is_safe_location(const char *location)
{
    if (location[0] == '/')
        return false;
    for (const char *part = location; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

esp_status esp_onnx_external_find(const Onnx__TensorProto *proto, const char *directory,
                                  esp_onnx_external *out, esp_error *err)
{
    esp_status status = read_entries(proto, out, err);

    if (status != ESP_OK)
        return status;
    if (!directory)
        return esp_fail(err, ESP_UNSUPPORTED, "external data '%.160s': the model was not read from a file",
                        out->location);
    if (!is_safe_location(out->location))
        return esp_fail(err, ESP_FORMAT,
                        "external data '%.160s': expected a relative path below the model's directory",
                        out->location);
    return ESP_OK;
}

static esp_status check_slice(int descriptor, const char *path, const esp_onnx_external *where, size_t size,
                              esp_error *err)
{
    struct stat info;

    if (fstat(descriptor, &info) != 0)
        return esp_fail(err, ESP_IO, "external data %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return esp_fail(err, ESP_IO, "external data %s: not a regular file", path);
    if (where->offset > info.st_size || size > (size_t)(info.st_size - where->offset))
        return esp_fail(err, ESP_FORMAT,
                        "external data %s: needs %zu bytes from byte %" PRId64 ", the file has %lld", path,
                        size, where->offset, (long long)info.st_size);
    return ESP_OK;
}

esp_status esp_onnx_external_open(const esp_onnx_external *where, const char *directory, size_t size,
                                  int *out_descriptor, esp_error *err)
{
    char *path = esp_path_join(directory, where->location);
    esp_status status = ESP_OK;
    int descriptor;

    *out_descriptor = -1;
    if (!path)
        return esp_fail_memory(err, where->location, strlen(directory));
    /* A named pipe would wait for a writer. */
    descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        status = esp_fail(err, ESP_IO, "external data %s: %s", path, strerror(errno));
    else
        status = check_slice(descriptor, path, where, size, err);
    if (status == ESP_OK)
        *out_descriptor = descriptor;
    else if (descriptor >= 0)
        close(descriptor);
    esp_free(path);
    return status;
}
