/* Small networks for tests of coupling and surgery, built node by node or at random. */
#ifndef ESP_TESTS_SURGERY_NETS_H
#define ESP_TESTS_SURGERY_NETS_H

#include "base/rng.h"
#include "graph/graph.h"
#include "prune/coupling.h"
#include "unit/train/train_fixtures.h"

typedef struct net {
    esp_builder *builder;
    esp_rng rng;
    int counter; /* nodes are called by operator and number: "Conv1", "Relu2", ... */
} net;

/* An activation [N,channels,height,width]; height 0: [N,channels]. */
typedef struct net_tensor {
    int value;
    int64_t channels, height, width;
} net_tensor;

/* Opset 13 and an input "x" [N,channels,height,width]. */
net net_start(int64_t channels, int64_t height, int64_t width, uint64_t seed, net_tensor *x);
net net_start_opset(int64_t opset, int64_t channels, int64_t height, int64_t width, uint64_t seed,
                    net_tensor *x);
void net_output(net *n, net_tensor x);
esp_graph *net_finish(net *n);

/* Constants of normal numbers times `scale` plus `shift`; of given integers. */
int net_random(net *n, const char *name, int rank, const int64_t *dims, double scale, double shift);
int net_ints(net *n, const char *name, const int64_t *values, int count);

/* Any node with one output of a known shape. Its name is the operator and the net's next number. */
net_tensor net_node(net *n, const char *op, const int *inputs, int input_count, const esp_attr *attrs,
                    int attr_count, net_tensor shape);

typedef struct net_conv_options {
    int64_t kernel, stride, pad, group;
    bool has_bias;
} net_conv_options;
net_tensor net_conv(net *n, net_tensor x, int64_t filters, net_conv_options options);

/* 3x3, pad 1; 1x1. With a bias. */
net_tensor net_conv3(net *n, net_tensor x, int64_t filters);
net_tensor net_conv1(net *n, net_tensor x, int64_t filters);
net_tensor net_norm(net *n, net_tensor x);
net_tensor net_unary(net *n, const char *op, net_tensor x);
net_tensor net_binary(net *n, const char *op, net_tensor a, net_tensor b);
net_tensor net_concat(net *n, net_tensor a, net_tensor b);
net_tensor net_pool(net *n, const char *op, net_tensor x, int64_t kernel, int64_t stride, int64_t pad);
net_tensor net_global(net *n, net_tensor x);
net_tensor net_flatten(net *n, net_tensor x);

/* Fully connected in every way of writing it. */
typedef enum net_fc_form { NET_GEMM_TRANSPOSED, NET_GEMM_PLAIN, NET_GEMM_SCALED, NET_MATMUL } net_fc_form;
net_tensor net_fc(net *n, net_tensor x, int64_t filters, net_fc_form form);

/* Channels from..to of x, and every second row and column when `strided`. */
net_tensor net_slice(net *n, net_tensor x, int64_t from, int64_t to, bool strided);
net_tensor net_pad(net *n, net_tensor x, int64_t before, int64_t after, int64_t space);
net_tensor net_gather(net *n, net_tensor x, const int64_t *channels, int count);
net_tensor net_reshape(net *n, net_tensor x, const int64_t *target, int count, net_tensor shape);
net_tensor net_transpose(net *n, net_tensor x, int64_t a, int64_t b, int64_t c, int64_t d);
/* x times one number per channel. */
net_tensor net_scale(net *n, net_tensor x);
/* Ones [N,channels] that know nothing of x but its batch size. */
net_tensor net_ones(net *n, net_tensor x, int64_t channels);

/* A random classifier: residual additions, concats, slices and pads, pooling, depthwise layers, gates,
 * flatten. */
esp_graph *net_random_classifier(uint64_t seed);

/* A graph with everything known about its channels. */
typedef struct net_view {
    esp_graph *graph;
    esp_inferred *inferred;
    esp_layers *layers; /* behind a pointer: the coupling borrows it */
    esp_coupling *coupling;
} net_view;
net_view net_look(esp_graph *take_graph);
void net_forget(net_view *view);
int net_layer(const net_view *view, const char *name);
esp_value_slots net_slots(const net_view *view, const char *value);

#endif
