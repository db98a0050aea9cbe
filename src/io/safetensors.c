/* The safetensors reader. Opening reads the header only and checks all of it, so that what reading takes on
 * trust (offsets inside the file, as many bytes as the shape needs) holds for every entry. Elements are read
 * from the file into the tensor without anything in between, unless their type changes on the way.
 *
 * Entries borrow their texts from the header's JSON, which lives as long as the file. */
#include "io/safetensors_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"

enum { PIECE = 1 << 18 }; /* bytes decoded at a time; a multiple of every element's size */

struct esp_safetensors {
    char *path;
    int descriptor;
    int64_t data_start; /* bytes of the file in front of the tensors */
    int64_t data_size;
    json_t *header;
    int count;
    esp_safetensors_entry *entries;        /* by offset */
    const esp_safetensors_entry **by_name; /* the same by name */
};

#define CODE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name

static const esp_safetensors_type types[] = {
    {"F32", 4, CODE(FLOAT)},         {"F16", 2, CODE(FLOAT16)},       {"BF16", 2, CODE(BFLOAT16)},
    {"F64", 8, CODE(DOUBLE)},        {"I64", 8, CODE(INT64)},         {"I32", 4, CODE(INT32)},
    {"U8", 1, CODE(UINT8)},          {"BOOL", 1, CODE(BOOL)},         {"I8", 1, CODE(INT8)},
    {"I16", 2, CODE(INT16)},         {"U16", 2, CODE(UINT16)},        {"U32", 4, CODE(UINT32)},
    {"U64", 8, CODE(UINT64)},        {"C64", 8, CODE(COMPLEX64)},     {"F8_E4M3", 1, CODE(UNDEFINED)},
    {"F8_E5M2", 1, CODE(UNDEFINED)}, {"F8_E8M0", 1, CODE(UNDEFINED)},
};

const esp_safetensors_type *esp_safetensors_type_find(const char *word)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].word, word) == 0)
            return &types[i];
    return NULL;
}

const esp_safetensors_type *esp_safetensors_type_of(esp_dtype dtype)
{
    int code = esp_onnx_type_code(dtype);

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].onnx_code == code)
            return &types[i];
    return NULL;
}

/* ---- the file ---- */

/* All `size` bytes from `offset` on. */
static esp_status read_bytes(const esp_safetensors *file, int64_t offset, void *target, size_t size,
                             esp_error *err)
{
    char *at = target;

    while (size > 0) {
        ssize_t count = pread(file->descriptor, at, size < INT_MAX ? size : INT_MAX, offset);

        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return esp_fail(err, ESP_IO, "%s", strerror(errno));
        if (count == 0)
            return esp_fail(err, ESP_IO, "the file ends at byte %" PRId64 ", %zu bytes early", offset, size);
        at += count;
        offset += count;
        size -= (size_t)count;
    }
    return ESP_OK;
}

static esp_status open_file(esp_safetensors *file, int64_t *size, esp_error *err)
{
    struct stat info;

    file->descriptor = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
    if (file->descriptor < 0 || fstat(file->descriptor, &info) != 0)
        return esp_fail(err, ESP_IO, "%s", strerror(errno));
    if (!S_ISREG(info.st_mode))
        return esp_fail(err, ESP_IO, "%s", S_ISDIR(info.st_mode) ? strerror(EISDIR) : "not a regular file");
    *size = info.st_size;
    return ESP_OK;
}

/* Sets `header`, `data_start` and `data_size`. */
static esp_status read_header(esp_safetensors *file, int64_t size, esp_error *err)
{
    unsigned char length_bytes[ESP_SAFETENSORS_LENGTH_SIZE];
    uint64_t length = 0;

    if (size < ESP_SAFETENSORS_LENGTH_SIZE)
        return esp_fail(err, ESP_FORMAT,
                        "%" PRId64 " bytes, expected a safetensors file: its header's length in "
                        "the first %d",
                        size, ESP_SAFETENSORS_LENGTH_SIZE);
    esp_status status = read_bytes(file, 0, length_bytes, sizeof length_bytes, err);
    if (status != ESP_OK)
        return status;
    for (int i = ESP_SAFETENSORS_LENGTH_SIZE - 1; i >= 0; i--)
        length = length << 8 | length_bytes[i];
    if (length > ESP_SAFETENSORS_HEADER_MAX || (int64_t)length > size - ESP_SAFETENSORS_LENGTH_SIZE)
        return esp_fail(err, ESP_FORMAT,
                        "no safetensors file: its header's length is %" PRIu64
                        ", expected at most %d and the %" PRId64 " bytes that follow",
                        length, ESP_SAFETENSORS_HEADER_MAX, size - ESP_SAFETENSORS_LENGTH_SIZE);
    file->data_start = ESP_SAFETENSORS_LENGTH_SIZE + (int64_t)length;
    file->data_size = size - file->data_start;

    char *text = esp_alloc((size_t)length + 1, 1);
    if (!text)
        return esp_fail_memory(err, "the header", (size_t)length);
    status = read_bytes(file, ESP_SAFETENSORS_LENGTH_SIZE, text, (size_t)length, err);
    text[length] = '\0';
    if (status == ESP_OK && memchr(text, '\0', (size_t)length))
        status = esp_fail(err, ESP_FORMAT, "header: malformed JSON: a zero byte in the text");
    if (status == ESP_OK)
        status = esp_json_parse(text, "header", &file->header, err);
    esp_free(text);
    if (status == ESP_OK && !json_is_object(file->header))
        status = esp_fail(err, ESP_FORMAT, "header: expected a JSON object of tensors");
    return status;
}

/* ---- entries ---- */

static esp_status fail_json(const char *what, const char *expected, const json_t *found, esp_error *err)
{
    static const char *const kinds[] = {[JSON_OBJECT] = "an object", [JSON_ARRAY] = "a list",
                                        [JSON_STRING] = "a text",    [JSON_INTEGER] = "a whole number",
                                        [JSON_REAL] = "a number",    [JSON_TRUE] = "true",
                                        [JSON_FALSE] = "false",      [JSON_NULL] = "null"};

    return esp_fail(err, ESP_FORMAT, "%s: found %s, expected %s", what,
                    found ? kinds[json_typeof(found)] : "nothing", expected);
}

/* A list of `least` to `most` whole numbers of at least 0; more than `most` is `too_many`. */
static esp_status read_numbers(const json_t *list, const char *what, size_t least, size_t most,
                               esp_status too_many, int64_t *out, esp_error *err)
{
    size_t count = json_array_size(list);

    if (!json_is_array(list))
        return fail_json(what, "a list of numbers", list, err);
    if (count < least || count > most)
        return esp_fail(err, count > most ? too_many : ESP_FORMAT, "%s: found %zu numbers, expected %s %zu",
                        what, count, least == most ? "exactly" : "at most", most);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);

        if (!json_is_integer(item))
            return fail_json(what, "whole numbers", item, err);
        out[i] = json_integer_value(item);
        if (out[i] < 0)
            return esp_fail(err, ESP_FORMAT, "%s: found %" PRId64 ", expected 0 or more", what, out[i]);
    }
    return ESP_OK;
}

static esp_status read_type(const json_t *item, esp_safetensors_entry *out, int *element_size, esp_error *err)
{
    const json_t *word = json_object_get(item, "dtype");

    if (!json_is_string(word))
        return fail_json("dtype", "a text", word, err);
    out->type = json_string_value(word);
    const esp_safetensors_type *type = esp_safetensors_type_find(out->type);
    if (!type)
        return esp_fail(err, ESP_UNSUPPORTED, "dtype '%s' is not known", out->type);
    *element_size = type->bytes;
    return ESP_OK;
}

/* The range lies in the file and is as large as the shape and type say. */
static esp_status check_range(const esp_safetensors *file, const esp_safetensors_entry *entry,
                              int element_size, esp_error *err)
{
    char text[192];
    int64_t elements = esp_shape_elements(&entry->shape), bytes;

    esp_shape_format(&entry->shape, text, sizeof text);
    if (elements < 0 || __builtin_mul_overflow(elements, (int64_t)element_size, &bytes))
        return esp_fail(err, ESP_FORMAT, "shape %s has more elements than can be counted", text);
    if (entry->begin > entry->end || entry->end > file->data_size)
        return esp_fail(err, ESP_FORMAT,
                        "data_offsets: found %" PRId64 " to %" PRId64
                        ", expected a range of the file's %" PRId64 " bytes of data",
                        entry->begin, entry->end, file->data_size);
    if (entry->end - entry->begin != bytes)
        return esp_fail(err, ESP_FORMAT,
                        "data_offsets: found %" PRId64 " bytes, expected %" PRId64 " for shape %s of %s",
                        entry->end - entry->begin, bytes, text, entry->type);
    return ESP_OK;
}

static esp_status read_entry(const esp_safetensors *file, const json_t *item, esp_safetensors_entry *out,
                             esp_error *err)
{
    int64_t offsets[2] = {0, 0};
    int element_size = 0;

    if (!json_is_object(item))
        return fail_json("its description", "an object", item, err);
    const json_t *shape = json_object_get(item, "shape");
    esp_status status = read_type(item, out, &element_size, err);
    if (status == ESP_OK)
        status = read_numbers(shape, "shape", 0, ESP_MAX_RANK, ESP_UNSUPPORTED, out->shape.dims, err);
    if (status == ESP_OK)
        status = read_numbers(json_object_get(item, "data_offsets"), "data_offsets", 2, 2, ESP_FORMAT,
                              offsets, err);
    if (status != ESP_OK)
        return status;
    out->shape.rank = (int)json_array_size(shape);
    out->begin = offsets[0];
    out->end = offsets[1];
    return check_range(file, out, element_size, err);
}

static esp_status check_metadata(const json_t *metadata, esp_error *err)
{
    if (!json_is_object(metadata))
        return fail_json(ESP_SAFETENSORS_METADATA, "an object of texts", metadata, err);
    for (void *at = json_object_iter((json_t *)(uintptr_t)metadata); at;
         at = json_object_iter_next((json_t *)(uintptr_t)metadata, at))
        if (!json_is_string(json_object_iter_value(at)))
            return fail_json(ESP_SAFETENSORS_METADATA, "an object of texts", json_object_iter_value(at), err);
    return ESP_OK;
}

static int compare_offsets(const void *left, const void *right)
{
    const esp_safetensors_entry *a = left, *b = right;

    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) /* an empty tensor lies in front of what begins at the same place */
        return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int compare_names(const void *left, const void *right)
{
    const esp_safetensors_entry *const *a = left, *const *b = right;

    return strcmp((*a)->name, (*b)->name);
}

/* Every byte of data belongs to exactly one tensor. `entries` are in order. */
static esp_status check_cover(const esp_safetensors *file, esp_error *err)
{
    int64_t covered = 0;

    for (int i = 0; i < file->count; i++) {
        const esp_safetensors_entry *entry = &file->entries[i];

        if (entry->begin < covered)
            return esp_fail(err, ESP_FORMAT, "tensor '%s' begins at byte %" PRId64 ", inside tensor '%s'",
                            entry->name, entry->begin, file->entries[i - 1].name);
        if (entry->begin > covered)
            return esp_fail(err, ESP_FORMAT,
                            "tensor '%s' begins at byte %" PRId64 ", expected %" PRId64
                            ", where the one before ends",
                            entry->name, entry->begin, covered);
        covered = entry->end;
    }
    if (covered != file->data_size)
        return esp_fail(err, ESP_FORMAT,
                        "%" PRId64 " bytes of data, expected %" PRId64 " as the tensors have",
                        file->data_size, covered);
    return ESP_OK;
}

static esp_status read_entries(esp_safetensors *file, esp_error *err)
{
    size_t most = json_object_size(file->header);
    esp_status status = ESP_OK;

    if (most > INT_MAX / 2)
        return esp_fail(err, ESP_FORMAT, "header: %zu tensors are more than can be counted", most);
    file->entries = esp_alloc_zero(most, sizeof *file->entries);
    file->by_name = esp_alloc_zero(most, sizeof *file->by_name);
    if (!file->entries || !file->by_name)
        return esp_fail_memory(err, "the list of tensors", most * sizeof *file->entries);
    for (void *at = json_object_iter(file->header); at && status == ESP_OK;
         at = json_object_iter_next(file->header, at)) {
        const char *name = json_object_iter_key(at);
        esp_safetensors_entry *entry = &file->entries[file->count];

        if (strcmp(name, ESP_SAFETENSORS_METADATA) == 0) {
            status = check_metadata(json_object_iter_value(at), err);
            continue;
        }
        entry->name = name;
        file->count++;
        status = read_entry(file, json_object_iter_value(at), entry, err);
        if (status != ESP_OK)
            esp_error_prefix(err, "tensor '%s'", name);
    }
    if (status != ESP_OK)
        return status;
    qsort(file->entries, (size_t)file->count, sizeof *file->entries, compare_offsets);
    for (int i = 0; i < file->count; i++)
        file->by_name[i] = &file->entries[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, compare_names);
    return check_cover(file, err);
}

esp_status esp_safetensors_open(const char *path, esp_safetensors **out, esp_error *err)
{
    int64_t size = 0;
    esp_safetensors *file = esp_alloc_zero(1, sizeof *file);

    *out = NULL;
    if (!file)
        return esp_fail_memory(err, path, sizeof *file);
    file->descriptor = -1;
    file->path = esp_strdup(path);
    esp_status status = file->path ? open_file(file, &size, err) : esp_fail_memory(err, path, strlen(path));
    if (status == ESP_OK)
        status = read_header(file, size, err);
    if (status == ESP_OK)
        status = read_entries(file, err);
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s", path);
        esp_safetensors_close(file);
        return status;
    }
    *out = file;
    return ESP_OK;
}

void esp_safetensors_close(esp_safetensors *file)
{
    if (!file)
        return;
    if (file->descriptor >= 0)
        close(file->descriptor);
    json_decref(file->header);
    esp_free(file->by_name);
    esp_free(file->entries);
    esp_free(file->path);
    esp_free(file);
}

const char *esp_safetensors_path(const esp_safetensors *file)
{
    return file->path;
}

int esp_safetensors_count(const esp_safetensors *file)
{
    return file->count;
}

const esp_safetensors_entry *esp_safetensors_at(const esp_safetensors *file, int index)
{
    return &file->entries[index];
}

int esp_safetensors_find(const esp_safetensors *file, const char *name)
{
    const esp_safetensors_entry wanted = {.name = name}, *key = &wanted;
    const esp_safetensors_entry **found =
        bsearch(&key, file->by_name, (size_t)file->count, sizeof *file->by_name, compare_names);

    return found ? (int)(*found - file->entries) : -1;
}

/* ---- elements ---- */

/* Reads piece by piece and decodes each into the tensor's elements. */
static esp_status read_decoded(const esp_safetensors *file, const esp_safetensors_entry *entry,
                               const esp_onnx_type *type, char *target, esp_error *err)
{
    size_t size = esp_dtype_size(type->dtype);
    char *piece = esp_alloc(PIECE, 1);
    esp_status status = piece ? ESP_OK : esp_fail_memory(err, "elements to convert", PIECE);

    for (int64_t at = entry->begin; status == ESP_OK && at < entry->end; at += PIECE) {
        size_t bytes = entry->end - at < PIECE ? (size_t)(entry->end - at) : PIECE;
        size_t count = bytes / type->bytes;

        status = read_bytes(file, file->data_start + at, piece, bytes, err);
        if (status == ESP_OK && !type->decode_raw(target, piece, (int64_t)count))
            status = esp_fail(err, ESP_FORMAT, "an element is no %s", type->name);
        target += count * size;
    }
    esp_free(piece);
    return status;
}

esp_status esp_safetensors_read(const esp_safetensors *file, int index, esp_tensor **out, esp_error *err)
{
    const esp_safetensors_entry *entry = &file->entries[index];
    const esp_onnx_type *type = esp_onnx_type_find(esp_safetensors_type_find(entry->type)->onnx_code);
    esp_tensor *tensor = NULL;
    esp_status status;

    *out = NULL;
    if (!type || !type->is_supported)
        return esp_fail(err, ESP_UNSUPPORTED, "%s: tensor '%s': elements of type %s are not supported",
                        file->path, entry->name, entry->type);
    status = esp_tensor_new_unset(type->dtype, &entry->shape, &tensor, err);
    if (status == ESP_OK) {
        void *target = esp_tensor_data_mut(tensor);

        status = type->decode_raw ? read_decoded(file, entry, type, target, err)
                                  : read_bytes(file, file->data_start + entry->begin, target,
                                               (size_t)(entry->end - entry->begin), err);
    }
    if (status != ESP_OK) {
        esp_error_prefix(err, "%s: tensor '%s'", file->path, entry->name);
        esp_tensor_unref(tensor);
        return status;
    }
    *out = tensor;
    return ESP_OK;
}
