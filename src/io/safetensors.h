/* safetensors files: named tensors in one file, as PyTorch's state_dicts travel.
 *
 * The format (huggingface/safetensors, "Format"): 8 bytes, the little-endian length of the header; the
 * header, a JSON object, possibly followed by spaces:
 *     {"NAME": {"dtype": "F32", "shape": [64, 3, 7, 7], "data_offsets": [BEGIN, END]}, ...,
 *      "__metadata__": {"KEY": "TEXT", ...}}
 * and the tensors' elements, row-major and little-endian. Offsets count from the end of the header; the
 * tensors cover the rest of the file without gaps and without overlap. */
#ifndef ESP_IO_SAFETENSORS_H
#define ESP_IO_SAFETENSORS_H

#include <stdint.h>

#include "base/status.h"
#include "graph/graph.h"

/* The longest header there may be, in bytes: that of the format's own reader. */
#define ESP_SAFETENSORS_HEADER_MAX 100000000

/* An open file: its header in memory, its tensors still on disk. */
typedef struct esp_safetensors esp_safetensors;

typedef struct esp_safetensors_entry {
    const char *name;
    const char *type; /* as the file has it: "F32", "BF16", ... */
    esp_shape shape;
    int64_t begin, end; /* bytes from the end of the header */
} esp_safetensors_entry;

/* Reads and checks the header. Errors name the file and the tensor: ESP_IO for a file that cannot be read,
 * ESP_FORMAT for a malformed one, ESP_UNSUPPORTED for unknown element types and more than ESP_MAX_RANK dims.
 */
esp_status esp_safetensors_open(const char *path, esp_safetensors **out, esp_error *err);
void esp_safetensors_close(esp_safetensors *file); /* NULL is allowed */

const char *esp_safetensors_path(const esp_safetensors *file);

/* The tensors in the order of their bytes. */
int esp_safetensors_count(const esp_safetensors *file);
const esp_safetensors_entry *esp_safetensors_at(const esp_safetensors *file, int index);
int esp_safetensors_find(const esp_safetensors *file, const char *name); /* -1 when there is none */

/* One tensor, read straight into its own storage. F16, BF16 and F64 become float32; F32, I64, I32, U8 and
 * BOOL stay; other types are ESP_UNSUPPORTED. */
esp_status esp_safetensors_read(const esp_safetensors *file, int index, esp_tensor **out, esp_error *err);

typedef struct esp_named_tensor {
    const char *name;
    const esp_tensor *tensor;
} esp_named_tensor;

/* Writes tensors (sorted by name here; wider elements first, so that all are aligned) with the metadata
 * {"format": "pt"} that other readers look for. Equal tensors give equal bytes; the old file stays until the
 * new one is complete. ESP_INVALID for two of one name, ESP_UNSUPPORTED for a name that is no UTF-8. */
esp_status esp_safetensors_save(const char *path, const esp_named_tensor *items, int count, esp_error *err);

#endif
