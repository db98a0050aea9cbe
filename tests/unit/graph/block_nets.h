/* Networks whose images fit channel blocks, and running one network under several engines. */
#ifndef ESP_TESTS_GRAPH_BLOCK_NETS_H
#define ESP_TESTS_GRAPH_BLOCK_NETS_H

#include "unit/graph/net.h"

/* Every value, node by node: what the others are held against. */
extern const esp_engine plain_images;

/* All engines this processor can run with channel blocks: instruction sets, with and without Winograd. */
int block_engines(esp_engine engines[6]);
const char *engine_text(const esp_engine *engine);

/* Small pieces. Weights are scaled so that activations keep their size. `size` is kernel and padding. */
int block_conv(net *n, int x, int channels, int filters, int kernel, int stride);
int block_norm(net *n, int x, int channels);
int block_relu(net *n, int x);
int block_concat(net *n, const int *inputs);
int block_classifier(net *n, int x, int channels);

/* Networks in the manner of: ResNet (with a strided, projected block), DenseNet (two blocks and a
 * transition), Inception (parallel branches, joined), MobileNet (depthwise, expansion, squeeze and
 * excitation), VGG (pools, fully connected). One input "x", 3 channels, ESP_DIM_BATCH; one output. `smooth`:
 * Tanh instead of Relu. */
esp_graph *residual_net(bool is_smooth);
esp_graph *dense_net(bool is_smooth);
esp_graph *inception_net(bool is_smooth);
esp_graph *mobile_net(bool is_smooth);
esp_graph *vgg_net(bool is_smooth);

typedef esp_graph *block_net_fn(bool is_smooth);
extern block_net_fn *const block_nets[];
extern const int block_net_count;

/* A random DAG of operators that can run in blocks and some that cannot. */
esp_graph *random_block_net(uint64_t seed, bool is_smooth);

/* The whole batch of outputs of a graph at evaluation; floats of output 0, then 1, ... Free with free. */
float *evaluate_under(const esp_graph *graph, const esp_engine *engine, esp_params *params, int threads,
                      int64_t *count);

/* One forward and backward run on given data; gradients are in the params, the input's in `*input_grad` (free
 * with free). Returns the outputs. */
float *train_under(const esp_graph *graph, const esp_engine *engine, esp_params *params, int threads,
                   bool freezes_norm, float **input_grad, int64_t *count);

/* |a - b| in the Euclidean norm over that of b. */
double relative_error(const float *a, const float *b, int64_t count);

#endif
