/* What the files that look for self-grouped layers share: what was found before it is made one step. */
#ifndef ESP_GRAPH_FUSE_GROUP_H
#define ESP_GRAPH_FUSE_GROUP_H

#include "graph/program_internal.h"
#include "tensor/conv.h"

/* One convolution of the layer. */
typedef struct esp_group_branch {
    bool is_dense;    /* a fully connected layer */
    int step, gather; /* gather: a step, or -1: it reads all channels */
    int source;       /* the image */
    int64_t group;
    esp_conv_geometry geometry; /* of the layer as far as this branch tells: without filters */
    int64_t filters, channels;
} esp_group_branch;

typedef struct esp_group_finding {
    int join;  /* step of the Concat, or -1 */
    int order; /* step of the Gather behind it, or -1 */
    int count;
    esp_group_branch *branches;
} esp_group_finding;

/* fuse_group_price.c: whether training runs faster with the step `made` (a dense form) in the place of the
 * nodes found; false, too, when there is no kernel for it. Depends on shapes and the engine only. */
esp_status esp_compiler_group_pays(esp_compiler *c, const esp_group_finding *found, esp_step *made,
                                   bool *pays, esp_error *err);

#endif
