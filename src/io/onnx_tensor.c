/* TensorProto to tensor: elements in raw_data, in a typed field, or in another file. Every size is checked
 * against the dims before anything is allocated for them. */
#include "io/onnx_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#define SHAPE_TEXT      192
#define LARGEST_ELEMENT 8 /* bytes, here and in the file */

/* After this, elements times any element's size is a number that size_t and int64_t hold. */
static esp_status read_shape(const Onnx__TensorProto *proto, esp_shape *out, esp_error *err)
{
    char text[SHAPE_TEXT];

    if (proto->n_dims > ESP_MAX_RANK)
        return esp_fail(err, ESP_UNSUPPORTED, "it has %zu dims, expected at most %d", proto->n_dims,
                        ESP_MAX_RANK);
    *out = esp_shape_make((int)proto->n_dims, proto->dims);
    for (size_t i = 0; i < proto->n_dims; i++)
        if (proto->dims[i] < 0)
            return esp_fail(err, ESP_FORMAT, "dim %zu is %" PRId64 ", expected 0 or more", i, proto->dims[i]);
    int64_t elements = esp_shape_elements(out);
    if (elements < 0 || elements > INT64_MAX / LARGEST_ELEMENT)
        return esp_fail(err, ESP_FORMAT, "its shape %s has more elements than can be counted",
                        esp_shape_format(out, text, sizeof text));
    return ESP_OK;
}

static esp_status fail_size(const esp_onnx_type *type, const esp_shape *shape, const char *where,
                            size_t found, size_t expected, const char *unit, esp_error *err)
{
    char text[SHAPE_TEXT];

    return esp_fail(err, ESP_FORMAT, "%s holds %zu %s, expected %zu for shape %s of %s", where, found, unit,
                    expected, esp_shape_format(shape, text, sizeof text), type->name);
}

/* `source` holds exactly the shape's elements. */
static esp_status make_tensor(const esp_onnx_type *type, const esp_shape *shape, const void *source,
                              esp_onnx_decode_fn *decode, esp_tensor **out, esp_error *err)
{
    if (!decode)
        return esp_tensor_from(type->dtype, shape, source, out, err);

    esp_status status = esp_tensor_new(type->dtype, shape, out, err);
    if (status != ESP_OK)
        return status;
    if (decode(esp_tensor_data_mut(*out), source, esp_shape_elements(shape)))
        return ESP_OK;
    esp_tensor_unref(*out);
    *out = NULL;
    return esp_fail(err, ESP_FORMAT, "int32_data holds a number that is no %s", type->name);
}

static esp_status read_raw(const esp_onnx_type *type, const esp_shape *shape, const ProtobufCBinaryData *raw,
                           esp_tensor **out, esp_error *err)
{
    size_t expected = (size_t)esp_shape_elements(shape) * type->bytes;

    if (raw->len != expected)
        return fail_size(type, shape, "raw_data", raw->len, expected, "bytes", err);
    return make_tensor(type, shape, raw->data, type->decode_raw, out, err);
}

static esp_status read_typed(const esp_onnx_type *type, const esp_shape *shape,
                             const Onnx__TensorProto *proto, esp_tensor **out, esp_error *err)
{
    const struct {
        const char *name;
        const void *data;
        size_t count;
    } fields[] = {
        [ESP_ONNX_FIELD_FLOAT] = {"float_data", proto->float_data, proto->n_float_data},
        [ESP_ONNX_FIELD_INT32] = {"int32_data", proto->int32_data, proto->n_int32_data},
        [ESP_ONNX_FIELD_INT64] = {"int64_data", proto->int64_data, proto->n_int64_data},
        [ESP_ONNX_FIELD_DOUBLE] = {"double_data", proto->double_data, proto->n_double_data},
    };
    size_t expected = (size_t)esp_shape_elements(shape);

    if (fields[type->field].count != expected)
        return fail_size(type, shape, fields[type->field].name, fields[type->field].count, expected,
                         "elements", err);
    return make_tensor(type, shape, fields[type->field].data, type->decode_field, out, err);
}

/* ---- external data ---- */

typedef struct external {
    const char *location;
    int64_t offset, length; /* length -1: not given */
} external;

static esp_status read_external_entries(const Onnx__TensorProto *proto, external *out, esp_error *err)
{
    *out = (external){NULL, 0, -1};
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

/* The file, positioned at the slice, once it is known to hold all of it. */
static esp_status open_slice(const char *path, const external *where, size_t size, FILE **out, esp_error *err)
{
    struct stat info;
    FILE *file = fopen(path, "rbe");
    esp_status status;

    *out = NULL;
    if (!file || fstat(fileno(file), &info) != 0)
        status = esp_fail(err, ESP_IO, "external data %s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = esp_fail(err, ESP_IO, "external data %s: not a regular file", path);
    else if (where->offset > info.st_size || size > (size_t)(info.st_size - where->offset))
        status = esp_fail(err, ESP_FORMAT,
                          "external data %s: needs %zu bytes from byte %" PRId64 ", the file has %lld", path,
                          size, where->offset, (long long)info.st_size);
    else if (fseeko(file, where->offset, SEEK_SET) != 0)
        status = esp_fail(err, ESP_IO, "external data %s: %s", path, strerror(errno));
    else {
        *out = file;
        return ESP_OK;
    }
    if (file)
        fclose(file);
    return status;
}

/* `*out` is a new block. */
static esp_status load_slice(const char *path, const external *where, size_t size, ProtobufCBinaryData *out,
                             esp_error *err)
{
    FILE *file;
    esp_status status = open_slice(path, where, size, &file, err);

    if (status != ESP_OK)
        return status;
    out->data = esp_alloc(size, 1);
    out->len = size;
    if (!out->data)
        status = esp_fail_memory(err, path, size);
    else if (fread(out->data, 1, size, file) != size)
        status = esp_fail(err, ESP_IO, "external data %s: cannot read %zu bytes from byte %" PRId64, path,
                          size, where->offset);
    fclose(file);
    return status;
}

static esp_status read_external(const esp_onnx_type *type, const esp_shape *shape,
                                const Onnx__TensorProto *proto, const char *directory, esp_tensor **out,
                                esp_error *err)
{
    external where;
    size_t size = (size_t)esp_shape_elements(shape) * type->bytes;
    ProtobufCBinaryData raw = {0, NULL};
    char *path = NULL;
    esp_status status = read_external_entries(proto, &where, err);

    if (status != ESP_OK)
        return status;
    if (!directory)
        return esp_fail(err, ESP_UNSUPPORTED, "external data '%s': the model was not read from a file",
                        where.location);
    if (!is_safe_location(where.location))
        return esp_fail(err, ESP_FORMAT,
                        "external data '%s': expected a relative path below the model's directory",
                        where.location);
    if (where.length >= 0 && (size_t)where.length != size)
        return fail_size(type, shape, "external data", (size_t)where.length, size, "bytes", err);

    path = esp_path_join(directory, where.location);
    if (!path)
        return esp_fail_memory(err, where.location, strlen(directory));
    status = load_slice(path, &where, size, &raw, err);
    if (status == ESP_OK)
        status = read_raw(type, shape, &raw, out, err);
    esp_free(raw.data);
    esp_free(path);
    return status;
}

esp_status esp_onnx_tensor_read(const Onnx__TensorProto *proto, const char *directory, esp_tensor **out,
                                esp_error *err)
{
    char text[32];
    esp_shape shape;
    const esp_onnx_type *type = esp_onnx_type_find(proto->data_type);

    *out = NULL;
    if (!type || !type->is_supported)
        return esp_fail(
            err, ESP_UNSUPPORTED,
            "elements of %s are not supported, expected float, double, int32, int64, uint8 or bool",
            esp_onnx_type_name(proto->data_type, text, sizeof text));
    if (proto->segment)
        return esp_fail(err, ESP_UNSUPPORTED, "tensors in segments are not supported");
    esp_status status = read_shape(proto, &shape, err);
    if (status != ESP_OK)
        return status;
    if (proto->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
        return read_external(type, &shape, proto, directory, out, err);
    if (proto->raw_data.len > 0)
        return read_raw(type, &shape, &proto->raw_data, out, err);
    return read_typed(type, &shape, proto, out, err);
}
