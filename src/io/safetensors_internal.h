/* Shared by the safetensors reader and writer: element types and the header's fixed words. */
#ifndef ESP_IO_SAFETENSORS_INTERNAL_H
#define ESP_IO_SAFETENSORS_INTERNAL_H

#include "io/onnx_internal.h"
#include "io/safetensors.h"

#define ESP_SAFETENSORS_METADATA "__metadata__"

/* Bytes of the length in front of the header. */
enum { ESP_SAFETENSORS_LENGTH_SIZE = 8 };

/* An element type of the format. What becomes of its elements is the row of `onnx_code` in the table of
 * ONNX's types, which are stored the same way. */
typedef struct esp_safetensors_type {
    const char *word;
    int bytes;
    int onnx_code;
} esp_safetensors_type;

/* NULL when there is none. */
const esp_safetensors_type *esp_safetensors_type_find(const char *word);
/* What a dtype is written as. */
const esp_safetensors_type *esp_safetensors_type_of(esp_dtype dtype);

#endif
