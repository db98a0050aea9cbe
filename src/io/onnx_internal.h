/* Shared by the ONNX reader and writer: element types, the wire check, tensors, and the model's own fields.
 */
#ifndef ESP_IO_ONNX_INTERNAL_H
#define ESP_IO_ONNX_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include <onnx.pb-c.h>

#include "io/onnx.h"

/* Text fields of ModelProto that travel as metadata under ESP_ONNX_FIELD_PREFIX. */
#define ESP_ONNX_MODEL_TEXTS(X)                                                                              \
    X(producer_name)                                                                                         \
    X(producer_version)                                                                                      \
    X(domain)                                                                                                \
    X(doc_string)
#define ESP_ONNX_MODEL_VERSION_KEY ESP_ONNX_FIELD_PREFIX "model_version"
#define ESP_ONNX_GRAPH_DOC_KEY     ESP_ONNX_FIELD_PREFIX "graph.doc_string"

/* From this IR version on constants need not be listed among the graph's inputs as well. */
#define ESP_ONNX_IR_FREE_CONSTANTS 4

/* What the batch dim is called when the file gives it no name, and what the open first dim of an output is
 * called that is not the batch: without a name it would be taken for the batch. */
#define ESP_ONNX_BATCH_NAME   "N"
#define ESP_ONNX_UNKNOWN_NAME "unk__0"

/* Where a TensorProto keeps elements when it has no raw_data. */
typedef enum esp_onnx_field {
    ESP_ONNX_FIELD_FLOAT,
    ESP_ONNX_FIELD_INT32,
    ESP_ONNX_FIELD_INT64,
    ESP_ONNX_FIELD_DOUBLE
} esp_onnx_field;

/* Turns `count` stored elements into ours; false when one of them is out of range. */
typedef bool esp_onnx_decode_fn(void *target, const void *source, int64_t count);

/* One ONNX element type. */
typedef struct esp_onnx_type {
    int code; /* TensorProto.DataType */
    const char *name;
    bool is_supported;
    bool is_written; /* the type our dtype is saved as; the others only come in */
    esp_dtype dtype; /* what it becomes in a graph */
    size_t bytes;    /* of one element in raw_data */
    esp_onnx_field field;
    esp_onnx_decode_fn *decode_raw;   /* NULL: the bytes are ours already */
    esp_onnx_decode_fn *decode_field; /* NULL: the elements are ours already */
} esp_onnx_type;

/* The row of a code, or NULL for a code no ONNX version we know has. */
const esp_onnx_type *esp_onnx_type_find(int code);

/* "float16", or "type 99" in `buffer`. */
const char *esp_onnx_type_name(int code, char *buffer, size_t size);

/* The code a dtype is saved as. */
int esp_onnx_type_code(esp_dtype dtype);

/* Checks the protobuf framing of a whole model (lengths, wire types, nesting), so that errors can say where a
 * file is damaged and no input can exhaust the stack, then decodes it. Free with esp_onnx_model_free. */
esp_status esp_onnx_model_decode(const uint8_t *data, size_t size, Onnx__ModelProto **out, esp_error *err);
void esp_onnx_model_free(Onnx__ModelProto *model);

/* A TensorProto as a tensor. `directory` is where external data is looked for; NULL refuses it. */
esp_status esp_onnx_tensor_read(const Onnx__TensorProto *proto, const char *directory, esp_tensor **out,
                                esp_error *err);

/* Frees the raw_data of a tensor in a decoded model before the model itself. */
void esp_onnx_tensor_release_raw(Onnx__TensorProto *proto);

/* The graph as the file has it: nothing folded, nothing dropped. Takes the tensors' bytes out of the message.
 */
esp_status esp_onnx_graph_read(const Onnx__ModelProto *model, const char *directory, esp_graph **out,
                               esp_error *err);

#endif
