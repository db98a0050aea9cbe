/* Where a model's bytes come from: memory, or a file that stays open until its tensors are read.
 *
 * A file is never held as a whole. Its framing is read through a window of some kilobytes, and weights go
 * from the file straight into their tensors, so that loading costs one copy, the system's own, and the memory
 * of the graph. A mapping would save that copy too, but then a file that is cut off or rewritten while the
 * graph lives would change the weights or end the program. */
#include "io/onnx_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

#define WINDOW ((size_t)64 << 10)

/* A pipe or device: all of it. */
static esp_status read_whole(const char *path, esp_onnx_source *out, esp_error *err)
{
    char *data;
    size_t size;
    esp_status status = esp_file_read(path, &data, &size, err);

    if (status != ESP_OK)
        return status;
    out->owned = data;
    out->data = (const uint8_t *)data;
    out->size = size;
    return ESP_OK;
}

esp_status esp_onnx_source_open(const char *path, esp_onnx_source *out, esp_error *err)
{
    struct stat info;

    *out = (esp_onnx_source){.descriptor = -1};
    out->descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (out->descriptor < 0 || fstat(out->descriptor, &info) != 0)
        return esp_fail(err, ESP_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) {
        close(out->descriptor);
        out->descriptor = -1;
        return read_whole(path, out, err);
    }
    out->size = (uint64_t)info.st_size;
    out->window = esp_alloc(WINDOW, 1);
    return out->window ? ESP_OK : esp_fail_memory(err, path, WINDOW);
}

void esp_onnx_source_memory(const void *data, size_t size, esp_onnx_source *out)
{
    *out = (esp_onnx_source){.descriptor = -1, .data = data, .size = size};
}

void esp_onnx_source_close(esp_onnx_source *source)
{
    if (source->descriptor >= 0)
        close(source->descriptor);
    esp_free(source->owned);
    esp_free(source->window);
    esp_free(source->cuts);
    *source = (esp_onnx_source){.descriptor = -1};
}

esp_status esp_onnx_read_at(int descriptor, uint64_t offset, void *target, size_t size, esp_error *err)
{
    uint8_t *bytes = target;
    size_t done = 0;

    while (done < size) {
        ssize_t count = pread(descriptor, bytes + done, size - done, (off_t)(offset + done));

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return esp_fail(err, ESP_IO, "cannot read: %s", strerror(errno));
        if (count == 0)
            return esp_fail(err, ESP_IO, "the file became shorter while it was read");
        done += (size_t)count;
    }
    return ESP_OK;
}

esp_status esp_onnx_source_read(const esp_onnx_source *source, uint64_t offset, void *target, size_t size,
                                esp_error *err)
{
    if (!source->data)
        return esp_onnx_read_at(source->descriptor, offset, target, size, err);
    if (size > 0)
        memcpy(target, source->data + offset, size);
    return ESP_OK;
}

esp_status esp_onnx_source_peek(esp_onnx_source *source, uint64_t offset, size_t size, const uint8_t **out,
                                esp_error *err)
{
    if (source->data) {
        *out = source->data + offset;
        return ESP_OK;
    }
    bool is_inside =
        offset >= source->window_start && offset + size <= source->window_start + source->window_size;
    if (!is_inside) {
        uint64_t left = source->size - offset;
        size_t wanted = left < WINDOW ? (size_t)left : WINDOW;
        esp_status status = esp_onnx_read_at(source->descriptor, offset, source->window, wanted, err);

        source->window_size = 0;
        if (status != ESP_OK)
            return status;
        source->window_start = offset;
        source->window_size = wanted;
    }
    *out = source->window + (offset - source->window_start);
    return ESP_OK;
}
