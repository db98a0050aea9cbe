/* The nodes random networks are made of. Every function that writes one also writes down, in the truth, what
 * it does to channels. */
#ifndef ESP_TESTS_RANDOM_DAG_NODES_H
#define ESP_TESTS_RANDOM_DAG_NODES_H

#include "unit/prune/random_dag.h"

typedef struct dag {
    net n;
    truth *truth;
    int64_t opset;
} dag;

/* [N, channels, size...]; `spatial` 0: [N, channels]. */
typedef struct dag_tensor {
    int value, base;
    int64_t channels;
    int spatial;
    int64_t size[3];
} dag_tensor;

typedef struct conv_form {
    int64_t kernel, stride, group;
    bool is_transposed;
} conv_form;

/* ---- the truth ---- */

int truth_channels(truth *self, const char *name, int64_t channels);
void truth_tie(truth *self, int a, int b);
void truth_pin(truth *self, int base, int64_t channels);
void truth_use(truth *self, bool is_writer, const char *layer, int64_t index, int id);
void truth_close(truth *self);

/* ---- nodes and layers ---- */

int64_t dag_pick(dag *d, int64_t low, int64_t high);
bool dag_coin(dag *d);
dag_tensor dag_node(dag *d, const char *op, const int *inputs, int input_count, const esp_attr *attrs,
                    int attr_count, int64_t channels, dag_tensor like);
int dag_shape_node(dag *d, const char *op, const int *inputs, int input_count, const esp_attr *attrs,
                   int attr_count);
const char *dag_last(dag *d, const char *op, char buffer[64]);
void dag_same_channels(dag *d, dag_tensor x, dag_tensor y);
dag_tensor dag_copy(dag *d, const char *op, dag_tensor x, const int *others, int other_count,
                    const esp_attr *attrs, int attr_count);
dag_tensor dag_unary(dag *d, const char *op, dag_tensor x);
int dag_ints(dag *d, const int64_t *values, int count);
dag_tensor dag_two(dag *d, const char *op, dag_tensor a, dag_tensor b);
int dag_per_channel(dag *d, dag_tensor x, double shift);
dag_tensor dag_convolve(dag *d, dag_tensor x, int64_t filters, conv_form form, int weight);
dag_tensor dag_conv3(dag *d, dag_tensor x, int64_t filters);
dag_tensor dag_conv1(dag *d, dag_tensor x, int64_t filters);
dag_tensor dag_norm(dag *d, dag_tensor x);
dag_tensor dag_unit(dag *d, dag_tensor x, int64_t filters);
dag_tensor dag_fully_connected(dag *d, dag_tensor x, int64_t filters);
dag_tensor dag_join(dag *d, dag_tensor a, dag_tensor b, int axis);
dag_tensor dag_slice(dag *d, dag_tensor x, int64_t from, int64_t to);
void dag_split(dag *d, dag_tensor x, const int64_t *sizes, int count, bool is_given, dag_tensor *parts);
dag_tensor dag_permute(dag *d, dag_tensor x, const int64_t *perm, int rank);
int dag_shape_part(dag *d, int shape, int64_t from, int64_t to);
int dag_chain_of(dag *d, const int *parts, int count);
int dag_reshaped_value(dag *d, int value, int target);
dag_tensor dag_shuffle(dag *d, dag_tensor x, int64_t groups, bool by_shape);
void dag_note_layer(dag *d, const char *layer, dag_tensor x, dag_tensor y, int64_t group);

#endif
