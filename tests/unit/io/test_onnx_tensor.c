/* TensorProto to tensor: every element type in every place it may be stored, and sizes that do not agree. */
#include "unit/base/scratch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/onnx_internal.h"

static int make_directory(void **state)
{
    *state = scratch_make();
    return *state == NULL;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

static Onnx__TensorProto proto_of(int type, size_t rank, int64_t *dims)
{
    Onnx__TensorProto proto = ONNX__TENSOR_PROTO__INIT;

    proto.has_data_type = true;
    proto.data_type = type;
    proto.n_dims = rank;
    proto.dims = dims;
    return proto;
}

static Onnx__TensorProto raw_proto(int type, size_t rank, int64_t *dims, void *data, size_t size)
{
    Onnx__TensorProto proto = proto_of(type, rank, dims);

    proto.has_raw_data = true;
    proto.raw_data = (ProtobufCBinaryData){size, data};
    return proto;
}

static esp_tensor *read_tensor(const Onnx__TensorProto *proto, const char *directory)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;

    if (esp_onnx_tensor_read(proto, directory, &tensor, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return tensor;
}

static void assert_refused(const Onnx__TensorProto *proto, const char *directory, esp_status code,
                           const char *word, const char *word2)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_status status = esp_onnx_tensor_read(proto, directory, &tensor, &err);

    if (status != code || !strstr(err.message, word) || !strstr(err.message, word2))
        fail_msg("status %s, message \"%s\", expected %s with \"%s\" and \"%s\"", esp_status_word(status),
                 err.message, esp_status_word(code), word, word2);
    assert_null(tensor);
}

static void assert_values(const Onnx__TensorProto *proto, esp_dtype dtype, int count, const double *expected)
{
    esp_tensor *tensor = read_tensor(proto, NULL);

    assert_int_equal(esp_tensor_dtype(tensor), dtype);
    assert_int_equal(esp_tensor_elements(tensor), count);
    for (int i = 0; i < count; i++)
        assert_true(esp_tensor_get_f64(tensor, i) == expected[i]);
    esp_tensor_unref(tensor);
}

#define CODE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name

static void raw_data_of_every_type(void **state)
{
    int64_t dims[] = {1, 3};
    float floats[] = {1.5f, -2.25f, 3e-20f};
    double doubles[] = {1.5, -2.25, 1e300};
    int32_t words[] = {7, -8, INT32_MIN};
    int64_t longs[] = {7, -8, INT64_C(1) << 40};
    uint8_t bytes[] = {0, 200, 255}, bools[] = {0, 1, 2};
    uint16_t bfloats[] = {0x3f80, 0xc020, 0x7f80};
    int8_t signed_bytes[] = {7, -8, INT8_MIN};
    int16_t shorts[] = {7, -8, INT16_MIN};
    uint16_t unsigned_shorts[] = {7, 256, UINT16_MAX};
    uint32_t unsigned_words[] = {7, 65536, UINT32_MAX};
    uint64_t unsigned_longs[] = {7, UINT64_C(1) << 40, UINT64_C(3) << 62};
    const struct {
        int type;
        void *data;
        size_t size;
        esp_dtype dtype;
        double expected[3];
    } cases[] = {
        {CODE(FLOAT), floats, sizeof floats, ESP_F32, {1.5, -2.25, 3e-20f}},
        {CODE(DOUBLE), doubles, sizeof doubles, ESP_F32, {1.5, -2.25, (double)INFINITY}},
        {CODE(INT32), words, sizeof words, ESP_I32, {7, -8, INT32_MIN}},
        {CODE(INT64), longs, sizeof longs, ESP_I64, {7, -8, 1099511627776.}},
        {CODE(UINT8), bytes, sizeof bytes, ESP_U8, {0, 200, 255}},
        {CODE(INT8), signed_bytes, sizeof signed_bytes, ESP_I8, {7, -8, INT8_MIN}},
        {CODE(INT16), shorts, sizeof shorts, ESP_I16, {7, -8, INT16_MIN}},
        {CODE(UINT16), unsigned_shorts, sizeof unsigned_shorts, ESP_U16, {7, 256, UINT16_MAX}},
        {CODE(UINT32), unsigned_words, sizeof unsigned_words, ESP_U32, {7, 65536, UINT32_MAX}},
        {CODE(UINT64), unsigned_longs, sizeof unsigned_longs, ESP_U64, {7, 0x1p40, 0x3p62}},
        {CODE(BOOL), bools, sizeof bools, ESP_BOOL, {0, 1, 1}},
        {CODE(BFLOAT16), bfloats, sizeof bfloats, ESP_F32, {1, -2.5, (double)INFINITY}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Onnx__TensorProto proto = raw_proto(cases[i].type, 2, dims, cases[i].data, cases[i].size);

        assert_values(&proto, cases[i].dtype, 3, cases[i].expected);
    }
}

static void typed_fields_of_every_type(void **state)
{
    int64_t dims[] = {3};
    float floats[] = {1.5f, -2.25f, 0};
    double doubles[] = {1.5, -2.25, 0.1};
    int32_t words[] = {7, -8, 9}, small[] = {0, 1, 255}, halves[] = {0x3c00, 0xc000, 0x0001};
    int32_t bfloats[] = {0x3f80, 0xc020, 0};
    int64_t longs[] = {7, -8, INT64_C(1) << 40};
    const double as_floats[] = {1.5, -2.25, 0}, as_doubles[] = {1.5, -2.25, (double)0.1f},
                 as_words[] = {7, -8, 9};
    const double as_bytes[] = {0, 1, 255}, as_bools[] = {0, 1, 1}, as_longs[] = {7, -8, 1099511627776.};
    const double as_halves[] = {1, -2, 0x1p-24}, as_bfloats[] = {1, -2.5, 0};

    (void)state;
    Onnx__TensorProto proto = proto_of(CODE(FLOAT), 1, dims);
    proto.n_float_data = 3;
    proto.float_data = floats;
    assert_values(&proto, ESP_F32, 3, as_floats);
    proto = proto_of(CODE(DOUBLE), 1, dims);
    proto.n_double_data = 3;
    proto.double_data = doubles;
    assert_values(&proto, ESP_F32, 3, as_doubles);
    proto = proto_of(CODE(INT64), 1, dims);
    proto.n_int64_data = 3;
    proto.int64_data = longs;
    assert_values(&proto, ESP_I64, 3, as_longs);
    proto = proto_of(CODE(INT32), 1, dims);
    proto.n_int32_data = 3;
    proto.int32_data = words;
    assert_values(&proto, ESP_I32, 3, as_words);
    proto.int32_data = small;
    proto.data_type = CODE(UINT8);
    assert_values(&proto, ESP_U8, 3, as_bytes);
    proto.data_type = CODE(BOOL);
    assert_values(&proto, ESP_BOOL, 3, as_bools);
    proto.int32_data = halves;
    proto.data_type = CODE(FLOAT16);
    assert_values(&proto, ESP_F32, 3, as_halves);
    proto.int32_data = bfloats;
    proto.data_type = CODE(BFLOAT16);
    assert_values(&proto, ESP_F32, 3, as_bfloats);
}

static void typed_fields_of_narrow_and_unsigned_integers(void **state)
{
    int64_t dims[] = {3};
    int32_t bytes[] = {7, INT8_MAX, INT8_MIN}, shorts[] = {7, INT16_MAX, INT16_MIN};
    int32_t unsigned_shorts[] = {7, INT16_MAX + 1, UINT16_MAX};
    uint64_t unsigned_words[] = {7, 65536, UINT32_MAX}, unsigned_longs[] = {7, 0, UINT64_C(3) << 62};

    (void)state;
    Onnx__TensorProto proto = proto_of(CODE(INT8), 1, dims);
    proto.n_int32_data = 3;
    proto.int32_data = bytes;
    assert_values(&proto, ESP_I8, 3, (double[]){7, 127, -128});
    proto.data_type = CODE(INT16);
    proto.int32_data = shorts;
    assert_values(&proto, ESP_I16, 3, (double[]){7, 32767, -32768});
    proto.data_type = CODE(UINT16);
    proto.int32_data = unsigned_shorts;
    assert_values(&proto, ESP_U16, 3, (double[]){7, 32768, 65535});
    proto = proto_of(CODE(UINT32), 1, dims);
    proto.n_uint64_data = 3;
    proto.uint64_data = unsigned_words;
    assert_values(&proto, ESP_U32, 3, (double[]){7, 65536, 4294967295.});
    proto.data_type = CODE(UINT64);
    proto.uint64_data = unsigned_longs;
    assert_values(&proto, ESP_U64, 3, (double[]){7, 0, 0x3p62});
}

/* The definition of IEEE 754 binary16, in double arithmetic. */
static double half_value(int bits)
{
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double sign = bits & 0x8000 ? -1 : 1;

    if (exponent == 31)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    return exponent ? sign * ldexp(1024 + mantissa, exponent - 25) : sign * ldexp(mantissa, -24);
}

static void all_halves_convert_exactly(void **state)
{
    static uint16_t halves[65536];
    int64_t dims[] = {65536};

    (void)state;
    for (int i = 0; i < 65536; i++)
        halves[i] = (uint16_t)i;
    Onnx__TensorProto proto = raw_proto(CODE(FLOAT16), 1, dims, halves, sizeof halves);
    esp_tensor *tensor = read_tensor(&proto, NULL);
    for (int i = 0; i < 65536; i++) {
        double expected = half_value(i), found = (double)esp_tensor_f32(tensor)[i];

        assert_true(isnan(expected) ? isnan(found)
                                    : expected == found && signbit(expected) == signbit(found));
    }
    esp_tensor_unref(tensor);
}

static void scalars_and_empty_tensors(void **state)
{
    float one = 1;
    int64_t none[] = {0, 4};

    (void)state;
    Onnx__TensorProto proto = raw_proto(CODE(FLOAT), 0, NULL, &one, sizeof one);
    esp_tensor *tensor = read_tensor(&proto, NULL);
    assert_int_equal(esp_tensor_shape(tensor)->rank, 0);
    esp_tensor_unref(tensor);
    proto = proto_of(CODE(INT64), 2, none);
    tensor = read_tensor(&proto, NULL);
    assert_int_equal(esp_tensor_elements(tensor), 0);
    assert_int_equal(esp_tensor_shape(tensor)->dims[1], 4);
    esp_tensor_unref(tensor);
}

static void sizes_that_disagree_with_the_dims(void **state)
{
    float floats[6] = {0};
    int64_t dims[] = {2, 3}, negative[] = {2, -3}, huge[] = {INT64_C(1) << 40, INT64_C(1) << 40};
    int64_t large[] = {INT64_C(1) << 61}, nine[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};

    (void)state;
    Onnx__TensorProto proto = raw_proto(CODE(FLOAT), 2, dims, floats, 20);
    assert_refused(&proto, NULL, ESP_FORMAT, "raw_data holds 20 bytes, expected 24", "2x3");
    proto = raw_proto(CODE(FLOAT16), 2, dims, floats, 24);
    assert_refused(&proto, NULL, ESP_FORMAT, "raw_data holds 24 bytes, expected 12", "float16");
    proto = proto_of(CODE(FLOAT), 2, dims);
    assert_refused(&proto, NULL, ESP_FORMAT, "float_data holds 0 elements, expected 6", "2x3");
    proto.n_float_data = 7;
    proto.float_data = floats;
    assert_refused(&proto, NULL, ESP_FORMAT, "float_data holds 7 elements, expected 6", "2x3");
    proto = raw_proto(CODE(FLOAT), 2, negative, floats, 24);
    assert_refused(&proto, NULL, ESP_FORMAT, "dim 1 is -3", "0 or more");
    proto = raw_proto(CODE(FLOAT), 2, huge, floats, 24);
    assert_refused(&proto, NULL, ESP_FORMAT, "more elements than can be counted", "");
    proto = raw_proto(CODE(DOUBLE), 1, large, floats, 24); /* 8 bytes each: wraps to 0 */
    assert_refused(&proto, NULL, ESP_FORMAT, "more elements than can be counted", "");
    proto = raw_proto(CODE(FLOAT), 9, nine, floats, 4);
    assert_refused(&proto, NULL, ESP_UNSUPPORTED, "9 dims", "at most 8");
}

static void elements_out_of_range_and_foreign_types(void **state)
{
    int64_t dims[] = {1};
    int32_t word = 256;
    uint64_t wide = UINT64_C(1) << 32;

    (void)state;
    Onnx__TensorProto proto = proto_of(CODE(UINT8), 1, dims);
    proto.n_int32_data = 1;
    proto.int32_data = &word;
    assert_refused(&proto, NULL, ESP_FORMAT, "int32_data", "uint8");
    word = -1;
    assert_refused(&proto, NULL, ESP_FORMAT, "int32_data", "uint8");
    proto.data_type = CODE(FLOAT16);
    assert_refused(&proto, NULL, ESP_FORMAT, "int32_data", "float16");
    const struct {
        int code, low, high;
        const char *name;
    } narrow[] = {{CODE(INT8), INT8_MIN - 1, INT8_MAX + 1, "int8"},
                  {CODE(INT16), INT16_MIN - 1, INT16_MAX + 1, "int16"},
                  {CODE(UINT16), -1, UINT16_MAX + 1, "uint16"}};
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
        proto.data_type = narrow[i].code;
        word = narrow[i].low;
        assert_refused(&proto, NULL, ESP_FORMAT, "int32_data", narrow[i].name);
        word = narrow[i].high;
        assert_refused(&proto, NULL, ESP_FORMAT, "int32_data", narrow[i].name);
    }
    proto.n_uint64_data = 1;
    proto.uint64_data = &wide;
    proto.data_type = CODE(UINT32);
    assert_refused(&proto, NULL, ESP_FORMAT, "uint64_data", "uint32");
    proto.data_type = CODE(COMPLEX64);
    assert_refused(&proto, NULL, ESP_UNSUPPORTED, "complex64", "expected float");
    proto.data_type = 99;
    assert_refused(&proto, NULL, ESP_UNSUPPORTED, "type 99", "expected float");
}

/* ---- external data ---- */

typedef struct external_proto {
    Onnx__StringStringEntryProto entries[3], *pointers[3];
    Onnx__TensorProto tensor;
    int64_t dims[1];
} external_proto;

static Onnx__TensorProto *external(external_proto *out, char *location, char *offset, char *length)
{
    char *keys[] = {"location", "offset", "length"}, *values[] = {location, offset, length};

    out->dims[0] = 3;
    out->tensor = proto_of(CODE(FLOAT), 1, out->dims);
    out->tensor.has_data_location = true;
    out->tensor.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
    out->tensor.external_data = out->pointers;
    for (int i = 0; i < 3; i++) {
        if (!values[i])
            continue;
        Onnx__StringStringEntryProto *entry = &out->entries[i];

        onnx__string_string_entry_proto__init(entry);
        entry->key = keys[i];
        entry->value = values[i];
        out->pointers[out->tensor.n_external_data++] = entry;
    }
    return &out->tensor;
}

static void external_data_is_read_from_its_slice(void **state)
{
    const float stored[] = {1, 2, 3, 4, 5};
    external_proto proto;

    scratch_write(scratch_path(*state, "weights.bin"), stored, sizeof stored);
    esp_tensor *tensor = read_tensor(external(&proto, "weights.bin", "4", "12"), *state);
    for (int i = 0; i < 3; i++)
        assert_true(esp_tensor_f32(tensor)[i] == stored[i + 1]);
    esp_tensor_unref(tensor);
    tensor = read_tensor(external(&proto, "./weights.bin", NULL, NULL), *state);
    assert_true(esp_tensor_f32(tensor)[2] == 3);
    esp_tensor_unref(tensor);
}

static void external_data_stays_within_file_and_directory(void **state)
{
    const float stored[] = {1, 2, 3, 4, 5};
    external_proto proto;
    const char *directory = *state;

    scratch_write(scratch_path(directory, "weights.bin"), stored, sizeof stored);
    assert_refused(external(&proto, "weights.bin", "12", NULL), directory, ESP_FORMAT,
                   "needs 12 bytes from byte 12", "the file has 20");
    assert_refused(external(&proto, "weights.bin", "9223372036854775807", NULL), directory, ESP_FORMAT,
                   "from byte 9223372036854775807", "the file has 20");
    assert_refused(external(&proto, "weights.bin", "0", "8"), directory, ESP_FORMAT,
                   "external data holds 8 bytes", "expected 12");
    assert_refused(external(&proto, "weights.bin", "-4", NULL), directory, ESP_FORMAT, "offset is '-4'", "");
    assert_refused(external(&proto, "weights.bin", "x", NULL), directory, ESP_FORMAT, "offset is 'x'", "");
    assert_refused(external(&proto, "absent.bin", NULL, NULL), directory, ESP_IO, "absent.bin",
                   "No such file");
    assert_refused(external(&proto, ".", NULL, NULL), directory, ESP_IO, "not a regular file", "");
    assert_refused(external(&proto, NULL, NULL, NULL), directory, ESP_FORMAT, "without a location", "");
    assert_refused(external(&proto, "/etc/hostname", NULL, NULL), directory, ESP_FORMAT, "/etc/hostname",
                   "relative path");
    assert_refused(external(&proto, "../weights.bin", NULL, NULL), directory, ESP_FORMAT, "../weights.bin",
                   "relative path");
    assert_refused(external(&proto, "a/..", NULL, NULL), directory, ESP_FORMAT, "a/..", "relative path");
    assert_refused(external(&proto, "weights.bin", NULL, NULL), NULL, ESP_UNSUPPORTED, "weights.bin",
                   "not read from a file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_data_of_every_type),
        cmocka_unit_test(typed_fields_of_every_type),
        cmocka_unit_test(typed_fields_of_narrow_and_unsigned_integers),
        cmocka_unit_test(all_halves_convert_exactly),
        cmocka_unit_test(scalars_and_empty_tensors),
        cmocka_unit_test(sizes_that_disagree_with_the_dims),
        cmocka_unit_test(elements_out_of_range_and_foreign_types),
        cmocka_unit_test_setup_teardown(external_data_is_read_from_its_slice, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(external_data_stays_within_file_and_directory, make_directory,
                                        remove_directory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
