/* ONNX files in and out (onnx.proto of ONNX 1.12 and later; IR version 3 and later, opset 1 to 21 of the
 * default domain).
 *
 * Loading keeps names, metadata and the batch dimension's name. What changes on the way in:
 * - float16, bfloat16 and double become float32 everywhere (weights, attributes, inputs, outputs, targets of
 *   Cast);
 * - what is constant is folded and what nobody needs is dropped (esp_graph_simplify). Folding adds at most 64
 * MiB and four times the bytes of the file's constants; nodes beyond that stay nodes (graph/infer.c);
 * - models of opset 1 to 6 are read as opset 7 (onnx_raise.h).
 * Operators, attributes and constants that are not understood do not stop loading: where something needs them
 * they become opaque nodes (graph/opaque.h), which are counted around, cannot run, and are written back
 * unchanged.
 *
 * Saving raises opset 7 to 12 to 13 (onnx_upgrade.c), unless the model has nodes nobody can translate; higher
 * ones stay. So loading what was saved gives an equal graph, and saving that gives the same bytes. */
#ifndef ESP_IO_ONNX_H
#define ESP_IO_ONNX_H

#include <stddef.h>

#include "base/status.h"
#include "graph/graph.h"

/* Fields of the file that describe the model as a whole appear in the graph's metadata under these keys, and
 * are written back to where they came from: producer_name, producer_version, domain, model_version,
 * doc_string and graph.doc_string, each with this prefix. */
#define ESP_ONNX_FIELD_PREFIX "onnx."

/* Reads a model. Weights may lie in other files below the model's directory (external data). Errors name the
 * file, the node or tensor, what was found and what was expected: ESP_IO for a file that cannot be read,
 * ESP_FORMAT for a malformed one, ESP_UNSUPPORTED for opsets and types of inputs outside what the program
 * does, ESP_SHAPE for shapes that do not fit. Weights go straight from the file into their tensors: the
 * memory that is needed is the graph's. */
esp_status esp_onnx_load(const char *path, esp_graph **out, esp_error *err);

/* The same from memory. `name` stands for the file in messages. External data is refused. */
esp_status esp_onnx_parse(const void *data, size_t size, const char *name, esp_graph **out, esp_error *err);

/* Writes a model: the old one stays until the new one is complete. The bytes depend on the graph only. Past 2
 * GiB, which the format cannot hold in one file, the weights go into `path`.data (or .2.data, when the model
 * that is replaced uses that name): no crash leaves a model with another's weights (onnx_save.c). */
esp_status esp_onnx_save(const esp_graph *graph, const char *path, esp_error *err);

/* The same to memory; `*out_data` belongs to the caller (esp_free). ESP_UNSUPPORTED past 2 GiB. */
esp_status esp_onnx_serialize(const esp_graph *graph, void **out_data, size_t *out_size, esp_error *err);

#endif
