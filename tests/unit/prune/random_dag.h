/* Random networks with every form in which channels are tied to each other, and beside each network the truth
 * about its channels: which must go together, which must stay, who writes them and who reads them. The truth
 * is written down edge by edge while nodes are made, one operator at a time, and knows nothing of the
 * coupling, of its rules or of the op table. */
#ifndef ESP_TESTS_RANDOM_DAG_H
#define ESP_TESTS_RANDOM_DAG_H

#include "unit/prune/surgery_nets.h"

/* Channels of a value: `base` + c is channel c's number in the truth. */
typedef struct truth_value {
    char name[64];
    int base;
    int64_t channels;
} truth_value;

/* Filter (column) `index` of a layer writes (reads) the channel `id`. */
typedef struct truth_user {
    char layer[64];
    bool is_writer;
    int64_t index;
    int id;
} truth_user;

typedef struct truth {
    int id_count, value_count, edge_count, user_count;
    int id_capacity, value_capacity, edge_capacity, user_capacity;
    bool *is_pinned; /* per id; after truth_close: of its class */
    int *class_of;   /* per id, after truth_close */
    truth_value *values;
    int (*edges)[2];
    truth_user *users;
} truth;

/* Forms of coupling, each of which the generator uses; for tests that want one of them. */
#define DAG_FORMS(X)                                                                                         \
    X(PLAIN)                                                                                                 \
    X(RESIDUAL)                                                                                              \
    X(RESIDUAL_POOLED)                                                                                       \
    X(PADDED_RESIDUAL)                                                                                       \
    X(CONCAT)                                                                                                \
    X(CONCAT_TWICE)                                                                                          \
    X(CONCAT_OVER_SPACE)                                                                                     \
    X(DEPTHWISE)                                                                                             \
    X(GROUPED)                                                                                               \
    X(WHOLE_GROUPS)                                                                                          \
    X(NORMS)                                                                                                 \
    X(GROUP_NORM)                                                                                            \
    X(GROUP_NORM_BY_HAND)                                                                                    \
    X(P_RELU)                                                                                                \
    X(POOLS)                                                                                                 \
    X(CHANNELS_LAST)                                                                                         \
    X(RESIZE)                                                                                                \
    X(RESIZE_BY_SHAPE)                                                                                       \
    X(RESIZE_SAYING_CHANNELS)                                                                                \
    X(SPLIT)                                                                                                 \
    X(SPLIT_EVENLY)                                                                                          \
    X(CHUNK_BY_SHAPE)                                                                                        \
    X(SLICE)                                                                                                 \
    X(GATE)                                                                                                  \
    X(SHARED)                                                                                                \
    X(SHUFFLE)                                                                                               \
    X(SHUFFLE_BY_SHAPE)                                                                                      \
    X(DEPTH_TO_SPACE)                                                                                        \
    X(SPACE_TO_DEPTH)                                                                                        \
    X(TRANSPOSED)                                                                                            \
    X(TRANSPOSED_GROUPED)                                                                                    \
    X(TRANSPOSED_DEPTHWISE)                                                                                  \
    X(GATHER)                                                                                                \
    X(TILE)                                                                                                  \
    X(EXPAND)                                                                                                \
    X(SOFTMAX_OVER_SPACE)                                                                                    \
    X(CONSTANT_CHANNELS)                                                                                     \
    X(CONSTANT_OPERANDS)                                                                                     \
    X(SELECTION)                                                                                             \
    X(MIXED)                                                                                                 \
    X(SECOND_OUTPUT)                                                                                         \
    X(SCALED_BY_SHAPE)                                                                                       \
    X(REDUCED_NHWC)                                                                                          \
    X(BEHIND_A_WALL)

typedef enum dag_form {
#define DAG_FORM_ENUM(name) DAG_##name,
    DAG_FORMS(DAG_FORM_ENUM)
#undef DAG_FORM_ENUM
        DAG_FORM_COUNT
} dag_form;
const char *dag_form_name(dag_form form);

/* A network of a few forms chosen at random, images or (sometimes) signals or volumes. */
esp_graph *random_dag(uint64_t seed, truth *out);

/* conv - the form - conv - classifier. */
esp_graph *dag_of_form(dag_form form, uint64_t seed, truth *out);
void truth_free(truth *self);

#endif
