/* Shape inference and constant folding in one pass: at a concrete batch size every value gets its shape, and
 * every value that depends on constants and shapes only gets its contents (Shape -> Gather -> Concat ->
 * Reshape chains). */
#ifndef ESP_GRAPH_INFER_H
#define ESP_GRAPH_INFER_H

#include "base/compute.h"
#include "graph/graph.h"

/* Sizes for inputs whose dims the file leaves open: "--input name:1x3x48x192". */
typedef struct esp_input_shape {
    const char *name;
    esp_shape shape;
} esp_input_shape;

#define ESP_INPUT_SHAPES_MAX 8

/* Parses "name:1x3x48x192" items (or "1x3x48x192" for the model's first input) into `shapes`, an array of
 * ESP_INPUT_SHAPES_MAX. Names are checked against the graph and borrow from it. ESP_INVALID names the item.
 */
esp_status esp_input_shapes_parse(const char *const *items, int item_count, const esp_graph *graph,
                                  esp_input_shape *shapes, int *out_count, esp_error *err);

typedef struct esp_inferred esp_inferred;

/* `batch` >= 1 replaces every ESP_DIM_BATCH dim (and a leading 1 fixed by the exporter when `batch` > 1 and
 * inference succeeds with it; else ESP_SHAPE says that the model is fixed to its batch). `input_shapes` wins
 * over the file. Of several inputs the first tells the batch; others with a fixed leading dim keep it unless
 * it is 1 and they have as many dims as the first, which the file does not fix to this batch. Errors name the
 * node, its inputs' shapes and what does not fit. */
esp_status esp_infer(const esp_graph *graph, int64_t batch, const esp_input_shape *input_shapes,
                     int input_shape_count, esp_inferred **out, esp_error *err);

/* For looking at a model whose input sizes are open: values behind such an input have the shape that the file
 * declares for them, or none (rank -1). Nothing can be run with it. */
esp_status esp_infer_declared(const esp_graph *graph, int64_t batch, esp_inferred **out, esp_error *err);
void esp_inferred_free(esp_inferred *inferred);

const esp_shape *esp_inferred_shape(const esp_inferred *inferred, int value);
esp_dtype esp_inferred_dtype(const esp_inferred *inferred, int value);

/* Contents of a value known before run time: constants and what was folded from them; NULL otherwise. */
const esp_tensor *esp_inferred_constant(const esp_inferred *inferred, int value);

/* Fills a context for op-row functions that look at shapes (macs, scratch, layer, narrow): views into
 * `inferred`. `inputs`/`outputs` are arrays of at least the node's counts that the caller provides. */
void esp_inferred_views(const esp_inferred *inferred, const esp_graph *graph, int node, esp_view *inputs,
                        const esp_view **input_pointers, esp_view *outputs);

/* "Nx64x28x28" for people: dims that follow the batch print the batch's name. Found by inferring at two batch
 * sizes; falls back to the shape at batch 1. Returns `buffer`. `inferred_one`/`inferred_two`: at batch 1 and
 * 2; two may be NULL. */
char *esp_shape_format_batch(const esp_inferred *inferred_one, const esp_inferred *inferred_two, int value,
                             char *buffer, size_t size);

/* A graph in which everything that is constant whatever the batch is a constant: Constant nodes, folded
 * arithmetic, and nodes nobody needs are gone; initializers nobody reads too. Names of what remains are kept.
 */
esp_status esp_graph_simplify(const esp_graph *graph, esp_graph **out, esp_error *err);

#endif
