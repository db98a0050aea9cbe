/* Weights for a network from a safetensors file, by name.
 *
 * A source is asked for one parameter after the other and keeps account: which the file lacks, which have
 * another shape there, and which tensors of the file nobody asked for. A builder can so fill a network while
 * it grows, with one copy of each weight in memory. */
#ifndef ESP_IO_SAFETENSORS_LOAD_H
#define ESP_IO_SAFETENSORS_LOAD_H

#include <stdbool.h>

#include "graph/graph.h"

typedef struct esp_weight_source esp_weight_source;

typedef struct esp_weight_options {
    /* Stands in front of every name in the file and not in the network ("module."). NULL: names are taken as
     * they are; where the first found needs a prefix that all names of the file share, it is the prefix of
     * all. */
    const char *prefix;
    bool is_lenient; /* the network keeps its own tensor where the file has none that fits */
} esp_weight_options;

typedef enum esp_weight_list {
    ESP_WEIGHTS_MISSING,    /* in the network, not in the file */
    ESP_WEIGHTS_UNEXPECTED, /* in the file, not in the network; PyTorch's num_batches_tracked is no weight */
    ESP_WEIGHTS_MISMATCHED, /* in both, of different shapes */
    ESP_WEIGHTS_LISTS
} esp_weight_list;

/* Errors of esp_safetensors_open. `options` may be NULL. */
esp_status esp_weight_source_open(const char *path, const esp_weight_options *options,
                                  esp_weight_source **out, esp_error *err);
void esp_weight_source_close(esp_weight_source *source); /* NULL is allowed */

/* The float tensor for a parameter, a new reference; NULL and ESP_OK when the file has none that fits, which
 * is noted. */
esp_status esp_weight_source_take(esp_weight_source *source, const char *name, const esp_shape *shape,
                                  esp_tensor **out, esp_error *err);

/* To be called when all parameters were asked for. ESP_SHAPE, with the first few of each list and how many
 * there are, when something did not fit; a lenient source only wants at least one tensor to have been taken.
 */
esp_status esp_weight_source_finish(esp_weight_source *source, esp_error *err);

/* After finish: how many tensors were taken, and the lists. */
int esp_weight_source_taken(const esp_weight_source *source);
int esp_weight_source_count(const esp_weight_source *source, esp_weight_list list);
const char *esp_weight_source_name(const esp_weight_source *source, esp_weight_list list, int index);

/* A new graph whose parameters (trainable inputs and running statistics of its nodes) come from the source.
 */
esp_status esp_graph_load_weights(const esp_graph *graph, esp_weight_source *source, esp_graph **out,
                                  esp_error *err);

/* Writes a graph's parameters to a safetensors file. */
esp_status esp_graph_save_weights(const esp_graph *graph, const char *path, esp_error *err);

#endif
