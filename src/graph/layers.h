/* The prunable layers of a graph in network order, and the two counters (METHODS.md section 4). */
#ifndef ESP_GRAPH_LAYERS_H
#define ESP_GRAPH_LAYERS_H

#include <stdbool.h>

#include "graph/graph.h"
#include "graph/infer.h"

/* What part a layer plays in the published methods. */
typedef enum esp_role {
    ESP_ROLE_BODY,
    ESP_ROLE_STEM,     /* first convolution: reads the network's input */
    ESP_ROLE_SHORTCUT, /* 1x1 convolution beside a residual branch: its way to the Add is shorter than the
                          other's and starts from the same value */
    ESP_ROLE_GROUPED,  /* group > 1 (depthwise, ResNeXt, ...) */
} esp_role;

/* "body", "stem", "shortcut", "grouped". */
const char *esp_role_word(esp_role role);

typedef struct esp_layer {
    int node;
    const char *name;        /* the node's */
    const char *weight_name; /* the initializer's */
    bool is_conv;
    int weight, bias; /* values; bias -1 when there is none */
    int64_t filters;  /* output channels */
    int64_t channels; /* input channels the weight has per group */
    int64_t group;
    int kernel_rank;            /* axes of the window: 1 signals, 2 images, 3 volumes; 0: fully connected */
    int64_t kernel[3];          /* [kernel_rank] */
    int64_t kernel_positions;   /* their product; 1 for fully connected */
    int64_t kernel_h, kernel_w; /* of images; of others two numbers whose product is kernel_positions */
    int filter_axis, channel_axis; /* axes of the weight tensor. Filters behind channels: Gemm(transB=0),
                                      MatMul, and ConvTranspose, whose weight is [channels * group, filters /
                                      group, kernel] */
    int64_t positions;             /* how often an image meets a weight: H_out * W_out; H_in * W_in of a
                                      ConvTranspose; 1 for fully connected on [N, in] */
    int64_t params;                /* elements of weight and bias */
    int64_t macs;                  /* per image */
    esp_role role;
} esp_layer;

typedef struct esp_layers {
    int count;
    esp_layer *items;
} esp_layers;

/* `inferred` at batch 1. Strings borrow from the graph. */
esp_status esp_layers_list(const esp_graph *graph, const esp_inferred *inferred, esp_layers *out,
                           esp_error *err);
void esp_layers_free(esp_layers *layers);
int esp_layers_find(const esp_layers *layers, const char *node_or_weight_name); /* -1 when there is none */
/* The same, but a name that no layer has is ESP_INVALID (esp_layers_fail_unknown). */
esp_status esp_layers_require(const esp_layers *layers, const char *node_or_weight_name, int *out,
                              esp_error *err);
/* Sets chosen[layer] of every layer that the pattern means, and leaves the others as they are; a pattern that
 * means none is ESP_INVALID. chosen[layers->count]. */
esp_status esp_layers_choose(const esp_layers *layers, const char *pattern, bool *chosen, esp_error *err);
/* ESP_INVALID: no layer has this name or matches this pattern; the message names the nearest. */
esp_status esp_layers_fail_unknown(const esp_layers *layers, const char *pattern, esp_error *err);
/* Whether a name or pattern (wildcards * and ?) means the layer: its node's name or its weight's. */
bool esp_layer_matches(const esp_layer *layer, const char *pattern);

/* Where the slice of a filter and one of its channels begins in the weight, in elements; it has
 * kernel_positions elements in a row. */
int64_t esp_layer_slice(const esp_layer *layer, int64_t filter, int64_t channel);

/* Copies a layer's weight into [filters, channels, kernel_positions] order whatever the stored axes (Gemm
 * transB=0, MatMul, ConvTranspose): what saliency and masks are defined on. `weight` may be another tensor of
 * the layer's weight shape. */
void esp_layer_weight_canonical(const esp_layer *layer, const esp_tensor *weight, float *out);

/* Whole-network figures at batch 1. */
typedef struct esp_counts {
    int64_t params; /* `true` counter: elements of all trainable tensors */
    int64_t macs;
    double paper_params, paper_macs; /* `paper` counter */
} esp_counts;

/* A layer's share of the `paper` figures under a mask: weights that survive, filters and biases that live.
 * The batch-norm term goes to maskable convs only: all convs that are no shortcut. */
void esp_layer_paper(const esp_layer *layer, int64_t surviving_weights, int64_t live_filters,
                     int64_t live_biases, double *params, double *macs);

esp_status esp_graph_count(const esp_graph *graph, const esp_inferred *inferred, esp_counts *out,
                           esp_error *err);

#endif
