/* Single operators on constants: what folding makes of them, held against values from elsewhere. */
#ifndef ESP_TESTS_GRAPH_OP_CHECK_H
#define ESP_TESTS_GRAPH_OP_CHECK_H

#include "unit/graph/net.h"

/* A constant with elements (i * 7) % 11 - 5, and one with (i * 5) % 7 - 3. */
int op_ramp(net *n, esp_shape shape);
int op_weights(net *n, esp_shape shape);

/* A node with several outputs. */
void op_node(net *n, const char *op, const int *inputs, const esp_attr *attrs, int *outputs,
             int output_count);

/* Finishes the net and compares the contents of a value that depends on constants alone. */
void expect_f32(net *n, int value, esp_shape shape, const float *expected, double tolerance);
void expect_i64(net *n, int value, esp_shape shape, const int64_t *expected);
#define F32S(...) ((const float[]){__VA_ARGS__})
#define I64S(...) ((const int64_t[]){__VA_ARGS__})

/* The same, when several values of one net are looked at: the graph must be released. */
typedef struct op_results {
    esp_graph *graph;
    esp_inferred *inferred;
} op_results;
op_results op_run(net *n, const int *values, int count);
void expect_value_f32(const op_results *results, int output, esp_shape shape, const float *expected,
                      double tolerance);
void expect_value_i64(const op_results *results, int output, esp_shape shape, const int64_t *expected);
void op_results_free(op_results *results);

/* Finishes the net, which must be refused; the message contains `piece`. */
void expect_refused(net *n, int value, esp_status status, const char *piece);

#endif
