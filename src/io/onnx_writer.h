/* A graph as a message, ready to be written: onnx_write.c makes it, onnx_save.c puts it into files. */
#ifndef ESP_IO_ONNX_WRITER_H
#define ESP_IO_ONNX_WRITER_H

#include "base/arena.h"
#include "io/onnx_internal.h"

/* Tensors of at least so many bytes go into the data file of a model that has one, each to a multiple of the
 * page size, as the ONNX specification recommends for mapping. */
enum { ESP_ONNX_DATA_LEAST = 1024, ESP_ONNX_DATA_ALIGNMENT = 4096 };

/* What goes into the data file, in order. */
typedef struct esp_onnx_placement {
    const char *location; /* the data file's name, as the model's file says it */
    int count;
    const esp_tensor **tensors;
    uint64_t *offsets;
    uint64_t size;
} esp_onnx_placement;

typedef struct esp_onnx_message {
    esp_arena *arena; /* holds all of it but the tensors, which are the graph's */
    Onnx__ModelProto *model;
    size_t size; /* packed */
    esp_onnx_placement placement;
} esp_onnx_message;

/* `location` NULL: all tensors in the message. Free whatever happens, before the graph. ESP_STATE when
 * weights were spent (tensor.h), ESP_UNSUPPORTED for nodes that cannot be written. */
esp_status esp_onnx_message_build(const esp_graph *graph, const char *location, esp_onnx_message *out,
                                  esp_error *err);
void esp_onnx_message_free(esp_onnx_message *message);

#endif
