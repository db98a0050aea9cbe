/* Helpers of the graph tests: building small networks in few words, and filling and comparing arrays. */
#ifndef ESP_TESTS_GRAPH_NET_H
#define ESP_TESTS_GRAPH_NET_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "graph/exec.h"
#include "graph/graph.h"
#include "graph/infer.h"
#include "graph/layers.h"
#include "graph/op.h"
#include "graph/params.h"

/* Fails the test, printing the error, unless `status` is ESP_OK. */
void must_at(esp_status status, const esp_error *err, const char *file, int line);
#define must(status, err) must_at((status), (err), __FILE__, __LINE__)

esp_shape shape_of(int rank, ...); /* dims as int */
#define S1(a)          shape_of(1, (a))
#define S2(a, b)       shape_of(2, (a), (b))
#define S3(a, b, c)    shape_of(3, (a), (b), (c))
#define S4(a, b, c, d) shape_of(4, (a), (b), (c), (d))

/* A builder whose steps cannot fail: the test fails instead. Values are builder indices. */
typedef struct net {
    esp_builder *builder;
    esp_rng rng;
    int constants;
} net;

net net_new(int opset);
int net_input(net *n, const char *name, esp_shape shape);
int net_constant(net *n, esp_shape shape, const float *data); /* NULL: random in [-1, 1] */
int net_positive(net *n, esp_shape shape);                    /* random in [0.5, 1.5] */
int net_ints(net *n, int count, ...);                         /* 1-D int64; values as int */
int net_int(net *n, int value);                               /* scalar int64 */
int net_tensor(net *n, esp_tensor *take_tensor);

/* A node with one output. `inputs` ends with NET_END; NET_NONE is an absent input. Attributes end with a NULL
 * name; NULL stands for none. */
enum { NET_END = -100, NET_NONE = -1 };
int net_add(net *n, const char *op, const int *inputs, const esp_attr *attrs);
#define IN(...) ((const int[]){__VA_ARGS__, NET_END})
#define AT(...) ((const esp_attr[]){__VA_ARGS__, {0}})
#define INTS(name, ...)                                                                                      \
    esp_attr_ints((name), (const int64_t[]){__VA_ARGS__},                                                    \
                  (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))

void net_output(net *n, int value);
esp_graph *net_finish(net *n);

esp_tensor *tensor_f32(esp_shape shape, const float *data);
void fill_random(esp_rng *rng, float *data, int64_t count, float low, float high);
float *view_data(const esp_view *view);
int64_t view_count(const esp_view *view);

/* |a - b| <= tolerance * max(1, |b|) for all elements. */
void assert_close(const float *found, const float *expected, int64_t count, double tolerance);
void assert_shape(const esp_shape *found, esp_shape expected);
void assert_contains(const char *text, const char *piece);

/* An executor with the given options, or a failed test. */
esp_exec *exec_new(const esp_graph *graph, esp_exec_options options);
void run_forward(esp_exec *exec);

#endif
