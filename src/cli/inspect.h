/* Shared by the files of `espalier inspect`: what is known about a model, and the forms it is printed in. */
#ifndef ESP_CLI_INSPECT_H
#define ESP_CLI_INSPECT_H

#include <jansson.h>

#include "cli/options.h"
#include "graph/graph.h"
#include "graph/infer.h"
#include "graph/layers.h"
#include "graph/receptive_field.h"
#include "prune/coupling.h"

typedef struct esp_inspection {
    const char *path;
    esp_graph *graph;
    esp_inferred *one,
        *two; /* at batch 1 and 2: dims that follow the batch print its name; two may be NULL */
    esp_layers layers;
    esp_counts counts;
    esp_field *fields;      /* per value */
    esp_coupling *coupling; /* NULL when it cannot be found; then `coupling_error` says why */
    esp_error coupling_error;
    esp_error run_error; /* why the model cannot run; code ESP_OK when it can */
    bool has_memory;     /* false: some shapes are unknown */
    double value_bytes;  /* of inputs and everything computed from them, at batch 1 */
    double live_bytes;   /* the most of it that is in use at the same moment */
} esp_inspection;

/* "Nx64x28x28", or "unknown". Returns `buffer`. */
char *esp_inspect_shape(const esp_inspection *it, int value, char *buffer, size_t size);

/* Whether a value has a shape, and its bytes at batch 1. */
bool esp_inspect_has_shape(const esp_inspection *it, int value);
double esp_inspect_bytes(const esp_inspection *it, int value);

/* The operator of a node, with its domain only when that is not ONNX's own. */
const char *esp_inspect_operator(const esp_node *node);

/* The coupled sets that the slots lie in, each once, in order of appearance; returns how many of them were
 * written to `sets`, at most `max`. */
int esp_inspect_sets(const esp_inspection *it, const int32_t *slots, int64_t count, int *sets, int max);

/* Those of a layer's filters. */
int esp_inspect_layer_sets(const esp_inspection *it, int layer, int *sets, int max);

/* ---- forms ---- */

/* At most `width` columns wide, as far as leaving out columns helps; 0: all columns. */
esp_status esp_inspect_print_table(const esp_inspection *it, size_t width, esp_error *err);
esp_status esp_inspect_print_json(const esp_inspection *it, esp_error *err);
esp_status esp_inspect_print_dot(const esp_inspection *it, esp_error *err);
esp_status esp_inspect_print_coupling(const esp_inspection *it, bool is_json, esp_error *err);

/* The op table; needs no model. */
esp_status esp_inspect_print_operators(bool is_json, esp_error *err);

#endif
