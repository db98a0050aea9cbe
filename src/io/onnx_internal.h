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

/* Before a domain's name: the opset of it that the file imports. Kept while a node may need it. */
#define ESP_ONNX_OPSET_PREFIX ESP_ONNX_FIELD_PREFIX "opset."

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
    ESP_ONNX_FIELD_DOUBLE,
    ESP_ONNX_FIELD_UINT64
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
    size_t bytes;    /* of one element in raw_data; 0: never there */
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

/* ---- bytes ---- */

/* Fields of TensorProto that hold elements as they lie in memory. */
enum { ESP_ONNX_FLOATS_FIELD = 4, ESP_ONNX_RAW_FIELD = 9, ESP_ONNX_DOUBLES_FIELD = 10 };

/* Weights that were left where they lie when a model was decoded. */
typedef struct esp_onnx_cut {
    uint64_t offset, size;
    unsigned field; /* of TensorProto: raw_data, float_data or double_data */
} esp_onnx_cut;

/* A model's bytes and the cuts made in them. */
typedef struct esp_onnx_source {
    const char *directory; /* where external data is looked for; NULL refuses it. Borrowed */
    const uint8_t *data;   /* in memory, or NULL */
    void *owned;           /* data, when it is the source's own */
    int descriptor;        /* of the file, or -1 */
    uint64_t size;
    uint8_t *window; /* what of the file was looked at last */
    uint64_t window_start;
    size_t window_size;
    esp_onnx_cut *cuts;
    size_t cut_count, cut_capacity;
} esp_onnx_source;

/* Close whatever happens. */
esp_status esp_onnx_source_open(const char *path, esp_onnx_source *out, esp_error *err);
void esp_onnx_source_memory(const void *data, size_t size, esp_onnx_source *out);
void esp_onnx_source_close(esp_onnx_source *source);

/* `size` bytes from `offset`, which are known to be inside. */
esp_status esp_onnx_source_read(const esp_onnx_source *source, uint64_t offset, void *target, size_t size,
                                esp_error *err);

/* The same without a copy, for at most 4 KB; valid until the next call. */
esp_status esp_onnx_source_peek(esp_onnx_source *source, uint64_t offset, size_t size, const uint8_t **out,
                                esp_error *err);

/* The same from any file. ESP_IO when it ends before. */
esp_status esp_onnx_read_at(int descriptor, uint64_t offset, void *target, size_t size, esp_error *err);

/* ---- messages ---- */

/* Checks the protobuf framing of a whole model (lengths, wire types, nesting), so that errors can say where a
 * file is damaged and no input can exhaust the stack, then decodes it. Weights of some size stay in the
 * source: their tensors say so (esp_onnx_tensor_cut). Free with esp_onnx_model_free. */
esp_status esp_onnx_source_decode(esp_onnx_source *source, Onnx__ModelProto **out, esp_error *err);
void esp_onnx_model_free(Onnx__ModelProto *model);

/* The same from memory, with all weights in the message. */
esp_status esp_onnx_model_decode(const uint8_t *data, size_t size, Onnx__ModelProto **out, esp_error *err);

/* The cut that holds a tensor's elements, or NULL. */
const esp_onnx_cut *esp_onnx_tensor_cut(const Onnx__TensorProto *proto, const esp_onnx_source *source);

/* A TensorProto as a tensor. */
esp_status esp_onnx_tensor_load(const Onnx__TensorProto *proto, const esp_onnx_source *source,
                                esp_tensor **out, esp_error *err);

/* The same for a message that holds all its elements, or names a file below `directory` (NULL refuses it). */
esp_status esp_onnx_tensor_read(const Onnx__TensorProto *proto, const char *directory, esp_tensor **out,
                                esp_error *err);

/* Where external data is. */
typedef struct esp_onnx_external {
    const char *location;
    int64_t offset, length; /* length -1: not given */
} esp_onnx_external;

esp_status esp_onnx_external_find(const Onnx__TensorProto *proto, const char *directory,
                                  esp_onnx_external *out, esp_error *err);

/* The file, once it is known to hold `size` bytes from the offset. Close the descriptor. */
esp_status esp_onnx_external_open(const esp_onnx_external *where, const char *directory, size_t size,
                                  int *out_descriptor, esp_error *err);

/* ---- names ---- */

bool esp_onnx_is_utf8(const char *text);

/* ESP_FORMAT unless a name is UTF-8: names go to JSON, to Lua and to terminals. `what` says whose it is. */
esp_status esp_onnx_check_name(const char *what, const char *name, esp_error *err);

/* Domain "" and "ai.onnx" are the same. */
bool esp_onnx_is_default_domain(const char *domain);

/* ---- graphs ---- */

/* The graph as the file has it: nothing folded, nothing dropped. */
esp_status esp_onnx_graph_read(const Onnx__ModelProto *model, const esp_onnx_source *source, esp_graph **out,
                               esp_error *err);

/* ---- saving ---- */

/* The opset a graph is saved in: 13, or its own when that is higher, or its own when it has nodes nobody can
 * translate. */
enum { ESP_ONNX_OPSET_SAVED = 13 };

/* The graph with its nodes in the forms of opset 13; a new reference to `graph` where that is its opset, or a
 * higher one, or where nodes cannot be translated. */
esp_status esp_onnx_upgrade(const esp_graph *graph, esp_graph **out, esp_error *err);

/* esp_onnx_save with another limit than the format's. */
esp_status esp_onnx_save_limited(const esp_graph *graph, const char *path, size_t limit, esp_error *err);

#endif
