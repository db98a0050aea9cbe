/* TensorProto to tensor: elements in raw_data, in a typed field, left in the model's bytes, or in another
 * file. Every size is checked against the dims before anything is allocated for them. */
#include "io/onnx_internal.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

#define SHAPE_TEXT      192
#define LARGEST_ELEMENT 8 /* bytes, here and in the file */
#define BUFFER_BYTES    65536

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

/* `source` holds exactly the shape's elements; `where` is what it is called. */
static esp_status make_tensor(const esp_onnx_type *type, const esp_shape *shape, const char *where,
                              const void *source, esp_onnx_decode_fn *decode, esp_tensor **out,
                              esp_error *err)
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
    return esp_fail(err, ESP_FORMAT, "%s holds a number that is no %s", where, type->name);
}

static esp_status read_raw(const esp_onnx_type *type, const esp_shape *shape, const ProtobufCBinaryData *raw,
                           esp_tensor **out, esp_error *err)
{
    size_t expected = (size_t)esp_shape_elements(shape) * type->bytes;

    if (raw->len != expected)
        return fail_size(type, shape, "raw_data", raw->len, expected, "bytes", err);
    return make_tensor(type, shape, "raw_data", raw->data, type->decode_raw, out, err);
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
        [ESP_ONNX_FIELD_UINT64] = {"uint64_data", proto->uint64_data, proto->n_uint64_data},
    };
    size_t expected = (size_t)esp_shape_elements(shape);

    if (fields[type->field].count != expected)
        return fail_size(type, shape, fields[type->field].name, fields[type->field].count, expected,
                         "elements", err);
    return make_tensor(type, shape, fields[type->field].name, fields[type->field].data, type->decode_field,
                       out, err);
}

/* Where `size` bytes of elements are, outside of the message. */
typedef struct place {
    const esp_onnx_source *source; /* NULL: in the file of this descriptor */
    int descriptor;
    uint64_t offset;
} place;

static esp_status read_place(const place *from, uint64_t skip, void *target, size_t size, esp_error *err)
{
    if (from->source)
        return esp_onnx_source_read(from->source, from->offset + skip, target, size, err);
    return esp_onnx_read_at(from->descriptor, from->offset + skip, target, size, err);
}

/* Elements of another type pass through a small buffer. */
static esp_status convert_place(const esp_onnx_type *type, const place *from, int64_t elements,
                                uint8_t *target, esp_error *err)
{
    uint8_t buffer[BUFFER_BYTES];
    int64_t most = (int64_t)(sizeof buffer / type->bytes);

    for (int64_t done = 0; done < elements;) {
        int64_t count = elements - done < most ? elements - done : most;
        esp_status status =
            read_place(from, (uint64_t)done * type->bytes, buffer, (size_t)count * type->bytes, err);

        if (status != ESP_OK)
            return status;
        if (!type->decode_raw(target + (size_t)done * esp_dtype_size(type->dtype), buffer, count))
            return esp_fail(err, ESP_FORMAT, "its data hold a number that is no %s", type->name);
        done += count;
    }
    return ESP_OK;
}

/* Straight into the tensor's own memory. */
static esp_status fill_tensor(const esp_onnx_type *type, const esp_shape *shape, const place *from,
                              esp_tensor **out, esp_error *err)
{
    esp_tensor *tensor;
    esp_status status = esp_tensor_new_unset(type->dtype, shape, &tensor, err);

    if (status != ESP_OK)
        return status;
    int64_t elements = esp_shape_elements(shape);
    if (type->decode_raw)
        status = convert_place(type, from, elements, esp_tensor_data_mut(tensor), err);
    else
        status = read_place(from, 0, esp_tensor_data_mut(tensor), (size_t)elements * type->bytes, err);
    if (status == ESP_OK)
        *out = tensor;
    else
        esp_tensor_unref(tensor);
    return status;
}

static esp_status read_external(const esp_onnx_type *type, const esp_shape *shape,
                                const Onnx__TensorProto *proto, const char *directory, esp_tensor **out,
                                esp_error *err)
{
    esp_onnx_external where;
    size_t size = (size_t)esp_shape_elements(shape) * type->bytes;
    int descriptor;
    esp_status status = esp_onnx_external_find(proto, directory, &where, err);

    if (status != ESP_OK)
        return status;
    if (where.length >= 0 && (size_t)where.length != size)
        return fail_size(type, shape, "external data", (size_t)where.length, size, "bytes", err);
    status = esp_onnx_external_open(&where, directory, size, &descriptor, err);
    if (status != ESP_OK)
        return status;
    status = fill_tensor(type, shape, &(place){.descriptor = descriptor, .offset = (uint64_t)where.offset},
                         out, err);
    close(descriptor);
    if (status != ESP_OK)
        esp_error_prefix(err, "external data '%.160s'", where.location);
    return status;
}

/* raw_data, or a typed field whose elements lie as they do in memory. */
static esp_status read_cut(const esp_onnx_type *type, const esp_shape *shape, const esp_onnx_cut *cut,
                           const esp_onnx_source *source, esp_tensor **out, esp_error *err)
{
    size_t expected = (size_t)esp_shape_elements(shape) * type->bytes;
    bool is_raw = cut->field == ESP_ONNX_RAW_FIELD;
    bool is_own_field = (cut->field == ESP_ONNX_FLOATS_FIELD && type->field == ESP_ONNX_FIELD_FLOAT) ||
                        (cut->field == ESP_ONNX_DOUBLES_FIELD && type->field == ESP_ONNX_FIELD_DOUBLE);

    if (!is_raw && !is_own_field)
        return esp_fail(err, ESP_FORMAT, "its elements are in the field of another type, expected %s",
                        type->name);
    if (cut->size != expected)
        return fail_size(type, shape, is_raw ? "raw_data" : "its typed field", (size_t)cut->size, expected,
                         "bytes", err);
    return fill_tensor(type, shape, &(place){.source = source, .offset = cut->offset}, out, err);
}

esp_status esp_onnx_tensor_load(const Onnx__TensorProto *proto, const esp_onnx_source *source,
                                esp_tensor **out, esp_error *err)
{
    char text[32];
    esp_shape shape;
    const esp_onnx_type *type = esp_onnx_type_find(proto->data_type);
    const esp_onnx_cut *cut = esp_onnx_tensor_cut(proto, source);

    *out = NULL;
    if (!type || !type->is_supported)
        return esp_fail(err, ESP_UNSUPPORTED,
                        "elements of %s are not supported, expected floats, integers or bool",
                        esp_onnx_type_name(proto->data_type, text, sizeof text));
    if (proto->segment)
        return esp_fail(err, ESP_UNSUPPORTED, "tensors in segments are not supported");
    esp_status status = read_shape(proto, &shape, err);
    if (status != ESP_OK)
        return status;
    if (proto->data_location == ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL)
        return read_external(type, &shape, proto, source->directory, out, err);
    if (cut)
        return read_cut(type, &shape, cut, source, out, err);
    if (proto->raw_data.len > 0)
        return read_raw(type, &shape, &proto->raw_data, out, err);
    return read_typed(type, &shape, proto, out, err);
}

esp_status esp_onnx_tensor_read(const Onnx__TensorProto *proto, const char *directory, esp_tensor **out,
                                esp_error *err)
{
    esp_onnx_source none;

    esp_onnx_source_memory(NULL, 0, &none);
    none.directory = directory;
    return esp_onnx_tensor_load(proto, &none, out, err);
}
