/* The element types of ONNX in one table: how each is stored, and what it becomes in a graph. Floats of any
 * width become float32, because that is what the kernels compute in. */
#include "io/onnx_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw_data is little-endian and copied as it is");

static float float_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16 to binary32; exact, NaN payloads kept. */
static float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half >> 15) << 31;
    uint32_t exponent = (half >> 10) & 0x1f;
    uint32_t mantissa = half & 0x3ff;

    if (exponent == 0x1f)
        return float_of_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0)
        return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);

    float magnitude = (float)mantissa * 0x1p-24f; /* subnormal: a multiple of the smallest one */
    return sign ? -magnitude : magnitude;
}

static float float_of_bfloat(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

static bool decode_half(void *target, const void *source, int64_t count)
{
    float *values = target;
    const uint8_t *bytes = source;
    uint16_t half;

    for (int64_t i = 0; i < count; i++) {
        memcpy(&half, bytes + 2 * i, sizeof half);
        values[i] = float_of_half(half);
    }
    return true;
}

static bool decode_bfloat(void *target, const void *source, int64_t count)
{
    float *values = target;
    const uint8_t *bytes = source;
    uint16_t bits;

    for (int64_t i = 0; i < count; i++) {
        memcpy(&bits, bytes + 2 * i, sizeof bits);
        values[i] = float_of_bfloat(bits);
    }
    return true;
}

static bool decode_double(void *target, const void *source, int64_t count)
{
    float *values = target;
    const uint8_t *bytes = source;
    double value;

    for (int64_t i = 0; i < count; i++) {
        memcpy(&value, bytes + 8 * i, sizeof value);
        values[i] = (float)value;
    }
    return true;
}

static bool decode_bool(void *target, const void *source, int64_t count)
{
    uint8_t *values = target;
    const uint8_t *bytes = source;

    for (int64_t i = 0; i < count; i++)
        values[i] = bytes[i] != 0;
    return true;
}

static bool decode_half_field(void *target, const void *source, int64_t count)
{
    float *values = target;
    const int32_t *words = source;

    for (int64_t i = 0; i < count; i++) {
        if (words[i] < 0 || words[i] > UINT16_MAX)
            return false;
        values[i] = float_of_half((uint16_t)words[i]);
    }
    return true;
}

static bool decode_bfloat_field(void *target, const void *source, int64_t count)
{
    float *values = target;
    const int32_t *words = source;

    for (int64_t i = 0; i < count; i++) {
        if (words[i] < 0 || words[i] > UINT16_MAX)
            return false;
        values[i] = float_of_bfloat((uint16_t)words[i]);
    }
    return true;
}

/* Integers of a field whose elements are wider. */
#define DECODE_INTEGERS(name, type, wide, low, high)                                                         \
    static bool name(void *target, const void *source, int64_t count)                                        \
    {                                                                                                        \
        type *values = target;                                                                               \
        const wide *words = source;                                                                          \
                                                                                                             \
        for (int64_t i = 0; i < count; i++) {                                                                \
            if (words[i] < (low) || words[i] > (high))                                                       \
                return false;                                                                                \
            values[i] = (type)words[i];                                                                      \
        }                                                                                                    \
        return true;                                                                                         \
    }

DECODE_INTEGERS(decode_uint8_field, uint8_t, int32_t, 0, UINT8_MAX)
DECODE_INTEGERS(decode_int8_field, int8_t, int32_t, INT8_MIN, INT8_MAX)
DECODE_INTEGERS(decode_int16_field, int16_t, int32_t, INT16_MIN, INT16_MAX)
DECODE_INTEGERS(decode_uint16_field, uint16_t, int32_t, 0, UINT16_MAX)

static bool decode_uint32_field(void *target, const void *source, int64_t count)
{
    uint32_t *values = target;
    const uint64_t *words = source;

    for (int64_t i = 0; i < count; i++) {
        if (words[i] > UINT32_MAX)
            return false;
        values[i] = (uint32_t)words[i];
    }
    return true;
}

static bool decode_bool_field(void *target, const void *source, int64_t count)
{
    uint8_t *values = target;
    const int32_t *words = source;

    for (int64_t i = 0; i < count; i++)
        values[i] = words[i] != 0;
    return true;
}

#define CODE(name) ONNX__TENSOR_PROTO__DATA_TYPE__##name
#define REFUSED(code_word, text, size)                                                                       \
    {                                                                                                        \
        .code = CODE(code_word), .name = text, .bytes = size                                                 \
    }

static const esp_onnx_type types[] = {
    {CODE(FLOAT), "float32", true, true, ESP_F32, 4, ESP_ONNX_FIELD_FLOAT, NULL, NULL},
    {CODE(INT64), "int64", true, true, ESP_I64, 8, ESP_ONNX_FIELD_INT64, NULL, NULL},
    {CODE(INT32), "int32", true, true, ESP_I32, 4, ESP_ONNX_FIELD_INT32, NULL, NULL},
    {CODE(UINT8), "uint8", true, true, ESP_U8, 1, ESP_ONNX_FIELD_INT32, NULL, decode_uint8_field},
    {CODE(INT8), "int8", true, true, ESP_I8, 1, ESP_ONNX_FIELD_INT32, NULL, decode_int8_field},
    {CODE(INT16), "int16", true, true, ESP_I16, 2, ESP_ONNX_FIELD_INT32, NULL, decode_int16_field},
    {CODE(UINT16), "uint16", true, true, ESP_U16, 2, ESP_ONNX_FIELD_INT32, NULL, decode_uint16_field},
    {CODE(UINT32), "uint32", true, true, ESP_U32, 4, ESP_ONNX_FIELD_UINT64, NULL, decode_uint32_field},
    {CODE(UINT64), "uint64", true, true, ESP_U64, 8, ESP_ONNX_FIELD_UINT64, NULL, NULL},
    {CODE(BOOL), "bool", true, true, ESP_BOOL, 1, ESP_ONNX_FIELD_INT32, decode_bool, decode_bool_field},
    {CODE(FLOAT16), "float16", true, false, ESP_F32, 2, ESP_ONNX_FIELD_INT32, decode_half, decode_half_field},
    {CODE(BFLOAT16), "bfloat16", true, false, ESP_F32, 2, ESP_ONNX_FIELD_INT32, decode_bfloat,
     decode_bfloat_field},
    {CODE(DOUBLE), "double", true, false, ESP_F32, 8, ESP_ONNX_FIELD_DOUBLE, decode_double, decode_double},
    REFUSED(STRING, "string", 0),
    REFUSED(COMPLEX64, "complex64", 8),
    REFUSED(COMPLEX128, "complex128", 16),
};

const esp_onnx_type *esp_onnx_type_find(int code)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].code == code)
            return &types[i];
    return NULL;
}

const char *esp_onnx_type_name(int code, char *buffer, size_t size)
{
    const esp_onnx_type *type = esp_onnx_type_find(code);

    if (type)
        return type->name;
    snprintf(buffer, size, "type %d", code);
    return buffer;
}

int esp_onnx_type_code(esp_dtype dtype)
{
    if (dtype == ESP_F64)
        return CODE(DOUBLE); /* comes back as float32 */
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].is_written && types[i].dtype == dtype)
            return types[i].code;
    return CODE(UNDEFINED);
}
