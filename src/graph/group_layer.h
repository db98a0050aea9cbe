/* A self-grouped layer as one step (tensor/group_conv.h): found by fuse_group.c, run by ops_group.c. Its
 * inputs begin as a convolution's do (ops.h): image, the first group's weight, nothing, residual; then follow
 * the other weights and biases. On plain images it runs group by group, in channel blocks as one dense
 * convolution with zeros; program_choice.c decides. In training it is always the latter. */
#ifndef ESP_GRAPH_GROUP_LAYER_H
#define ESP_GRAPH_GROUP_LAYER_H

#include "graph/op.h"
#include "tensor/group_conv.h"

/* Where a group's weights and biases are: inputs of the step, and the first filter in there and among the
 * layer's (before `order`). */
typedef struct esp_group_source {
    int weight_input, bias_input; /* bias -1: none */
    int64_t first_filter, layer_filter;
} esp_group_source;

typedef struct esp_group_layer {
    struct esp_group_layer *next; /* of the program's */
    esp_conv_geometry geometry;   /* of the whole layer */
    int64_t count;
    esp_filter_group *groups; /* without weights and biases: those are read when packing */
    esp_group_source *sources;
    int64_t *order;       /* [filters] as esp_group_conv_plan takes it, or NULL */
    esp_group_conv *plan; /* NULL: fully connected */
    bool has_dense;       /* there is a blocked form */
    esp_blocked_conv dense;
    bool has_bias;
    uint64_t key; /* not 0: all weights are constants, and this stands for them and the grouping */
} esp_group_layer;

/* Plans both forms; geometry, groups, sources and order are set. The plan is freed with
 * esp_group_layer_release. */
esp_status esp_group_layer_plan(esp_group_layer *layer, const esp_engine *engine, esp_error *err);
void esp_group_layer_release(esp_group_layer *layer); /* but not its own memory */

/* The rows of steps whose `fused.group` is set: at evaluation; in training, where there is no plan; fully
 * connected ones in both. A fully connected layer is an image of one pixel to its geometry and has no plan:
 * it runs group by group and is always plain. */
extern const esp_op esp_group_row, esp_group_train_row, esp_group_dense_row;

/* Whether esp_group_train_row can run the layer of a step, with the gradients that are wanted there. */
bool esp_group_layer_trains(const esp_op_context *context);

/* The word for a layer in dense form whose blocked convolution has that name; names outlive the executor. */
const char *esp_group_dense_name(const char *method);

#endif
