/* Self-grouped layers as surgery writes them, in few words: a Gather and a Conv or Gemm per group, a Concat.
 */
#ifndef ESP_TESTS_GRAPH_GROUP_NETS_H
#define ESP_TESTS_GRAPH_GROUP_NETS_H

#include "unit/graph/net.h"

/* What the groups of a layer have in common: the image `x` they read, and the window. */
typedef struct group_layer {
    net *n;
    int x, channels, kernel, stride;
    bool has_bias;
} group_layer;

/* Every `step`-th of the channels from `first` on, through a Gather; `*count` of them. */
int group_gather(const group_layer *at, int first, int step, int *count);

int group_convolve(const group_layer *at, int x, int channels, int filters);

/* A branch of some filters that reads every `step`-th channel. */
int group_branch(const group_layer *at, int first, int step, int filters);

/* Another order of all filters, at most 64; no multiple of 7. */
int group_reorder(const group_layer *at, int y, int filters);

/* 20 filters in uneven groups: nodes Gather Conv, Gather Conv, Gather Conv, Concat. */
int group_uneven(const group_layer *at);

/* The layer's data as rows: two nodes. */
void group_flatten(group_layer *at);

/* Filters that read every `step`-th channel; the weight is [filters, channels] when `is_usual`. */
int group_dense_branch(const group_layer *at, int first, int step, int filters, bool is_usual);

#endif
