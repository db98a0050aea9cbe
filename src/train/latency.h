/* How long a network takes on this machine, and how much memory: forward passes, or whole training steps. */
#ifndef ESP_TRAIN_LATENCY_H
#define ESP_TRAIN_LATENCY_H

#include "base/compute.h"
#include "graph/exec.h"

typedef struct esp_latency_options {
    int64_t batch; /* 0 = 1 */
    int repeats;   /* timed runs; 0 = as many as fit in about a second, at least 10 (5 steps of training) */
    const esp_input_shape *input_shapes;
    int input_shape_count;
    bool spends_weights; /* forward passes: as esp_exec_options.spends_weights */
    bool is_training;    /* steps of training instead of forward passes: see esp_runner */
} esp_latency_options;

/* Bytes. */
typedef struct esp_latency_memory {
    size_t weights; /* the network's constants */
    size_t live; /* forward: the most that values in use at the same moment take, views and what is computed
                    in place counted once; no run can do with less than about this. 0 for training */
    size_t planned; /* activations (and gradients) as the executor planned them */
    size_t packed;  /* packed forms of weights, shared ones included */
    size_t scratch; /* for one step at a time, and what training keeps from forward to backward */
    size_t peak;    /* weights, and the most that was allocated beside them while compiling and running */
} esp_latency_memory;

typedef struct esp_latency_result {
    int64_t batch;
    int threads, repeats;
    double median_ms, min_ms, p90_ms;
    double spread;                             /* (p75 - p25) / median: how noisy this was */
    double forward_ms, backward_ms, update_ms; /* medians of a step's parts; 0 for forward passes */
    esp_latency_memory memory;
    int node_count;                /* this and what follows: only with wants_nodes */
    double *node_ms;               /* medians of the forward pass; owned by the caller (esp_free) */
    esp_exec_node_info *node_info; /* how each node ran; owned by the caller (esp_free) */
} esp_latency_result;

/* Runs on random input after a warm-up. `wants_nodes` also fills node_ms: a node's share of the forward pass.
 */
esp_status esp_measure_latency(const esp_compute *compute, const esp_graph *graph,
                               const esp_latency_options *options, bool wants_nodes, esp_latency_result *out,
                               esp_error *err);

/* One of several networks to be compared. */
typedef struct esp_latency_subject {
    const esp_graph *graph;
    esp_latency_options options;
    bool wants_nodes;
} esp_latency_subject;

/* The same for several networks, which take turns of about 0.1 s. `out[count]` is set on success only; the
 * memory of the second and later ones includes what the ones before hold. */
enum { ESP_LATENCY_MOST = 8 };
esp_status esp_measure_latencies(const esp_compute *compute, const esp_latency_subject *subjects, int count,
                                 esp_latency_result *out, esp_error *err);

/* Value `q` (0 to 1) of `count` sorted numbers, linear between neighbours; count >= 1. */
double esp_quantile(const double *sorted, int count, double q);

/* Sorts `count` >= 1 numbers in place and returns their median. */
double esp_median(double *values, int count);

#endif
