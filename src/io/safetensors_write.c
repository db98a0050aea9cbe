/* The safetensors writer: the header is made as JSON with sorted names, and the elements stream from the
 * tensors into the file. */
#include "io/safetensors_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

/* Wider elements first keeps every tensor aligned to its element, as the format recommends. */
static int compare_items(const void *left, const void *right)
{
    const esp_named_tensor *a = left, *b = right;
    size_t size_a = esp_dtype_size(esp_tensor_dtype(a->tensor)),
           size_b = esp_dtype_size(esp_tensor_dtype(b->tensor));

    if (size_a != size_b)
        return size_a > size_b ? -1 : 1;
    return strcmp(a->name, b->name);
}

static size_t byte_count(const esp_tensor *tensor)
{
    return (size_t)esp_tensor_elements(tensor) * esp_dtype_size(esp_tensor_dtype(tensor));
}

/* Adds one description; `*offset` moves behind its bytes. */
static esp_status describe(json_t *header, const esp_named_tensor *item, size_t *offset, esp_error *err)
{
    const esp_shape *shape = esp_tensor_shape(item->tensor);
    size_t end = *offset + byte_count(item->tensor);
    json_t *dims = json_array();
    json_t *name = json_string(item->name); /* refuses what is no UTF-8 */
    bool is_text = name != NULL;

    json_decref(name);
    for (int i = 0; i < shape->rank; i++)
        json_array_append_new(dims, json_integer(shape->dims[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype",
                              esp_safetensors_type_of(esp_tensor_dtype(item->tensor))->word, "shape", dims,
                              "data_offsets", (json_int_t)*offset, (json_int_t)end);
    if (!is_text || json_object_get(header, item->name)) {
        json_decref(entry);
        return is_text ? esp_fail(err, ESP_INVALID, "tensor '%s' is there twice", item->name)
                       : esp_fail(err, ESP_UNSUPPORTED, "tensor '%s': its name is no UTF-8", item->name);
    }
    if (!entry || json_object_set_new(header, item->name, entry) != 0)
        return esp_fail_memory(err, "the header", 0);
    *offset = end;
    return ESP_OK;
}

/* The header's text, padded with spaces so that the data begin at a multiple of 8. */
static esp_status make_header(const esp_named_tensor *sorted, int count, char **out, size_t *out_size,
                              esp_error *err)
{
    json_t *header = json_pack("{s:{s:s}}", ESP_SAFETENSORS_METADATA, "format", "pt");
    size_t offset = 0;
    esp_status status = header ? ESP_OK : esp_fail_memory(err, "the header", 0);
    char *text = NULL;

    for (int i = 0; i < count && status == ESP_OK; i++)
        status = describe(header, &sorted[i], &offset, err);
    if (status == ESP_OK) {
        text = esp_json_dump(header, 1);
        if (!text)
            status = esp_fail_memory(err, "the header", 0);
    }
    json_decref(header);
    if (status != ESP_OK)
        return status;

    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    *out = esp_realloc(text, length, padded, 1);
    if (!*out) {
        esp_free(text);
        return esp_fail_memory(err, "the header", padded);
    }
    memset(*out + length, ' ', padded - length);
    *out_size = padded;
    return ESP_OK;
}

/* What the stream cannot write is seen when the file is committed. */
static void write_all(FILE *stream, const char *header, size_t header_size, const esp_named_tensor *sorted,
                      int count)
{
    unsigned char length[ESP_SAFETENSORS_LENGTH_SIZE];

    for (int i = 0; i < ESP_SAFETENSORS_LENGTH_SIZE; i++)
        length[i] = (unsigned char)(header_size >> 8 * i);
    fwrite(length, 1, sizeof length, stream);
    fwrite(header, 1, header_size, stream);
    for (int i = 0; i < count; i++)
        fwrite(esp_tensor_data(sorted[i].tensor), 1, byte_count(sorted[i].tensor), stream);
}

esp_status esp_safetensors_save(const char *path, const esp_named_tensor *items, int count, esp_error *err)
{
    esp_named_tensor *sorted = esp_alloc((size_t)count, sizeof *sorted);
    char *header = NULL;
    size_t header_size = 0;
    esp_file_writer *writer = NULL;

    if (!sorted)
        return esp_fail_memory(err, path, (size_t)count * sizeof *sorted);
    for (int i = 0; i < count; i++)
        sorted[i] = items[i];
    qsort(sorted, (size_t)count, sizeof *sorted, compare_items);
    esp_status status = make_header(sorted, count, &header, &header_size, err);
    if (status != ESP_OK)
        esp_error_prefix(err, "%s", path);
    else
        status = esp_file_writer_open(path, &writer, err);
    if (status == ESP_OK) {
        write_all(esp_file_writer_stream(writer), header, header_size, sorted, count);
        status = esp_file_writer_commit(writer, err);
    }
    esp_free(header);
    esp_free(sorted);
    return status;
}
