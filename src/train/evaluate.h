/* Loss and accuracy of a model on a dataset, and latency of a model on this machine. */
#ifndef ESP_TRAIN_EVALUATE_H
#define ESP_TRAIN_EVALUATE_H

#include "base/compute.h"
#include "graph/exec.h"
#include "train/data.h"

typedef struct esp_eval_options {
    int64_t batch;          /* 0 = 100 (or what the model is fixed to) */
    int64_t limit;          /* first images only; 0 = all */
    const char *mean, *std; /* overrides of the normalisation, or NULL */
} esp_eval_options;

typedef struct esp_eval_result {
    int64_t images;
    double top1, top5; /* percent */
    double loss;       /* mean cross-entropy */
    double top1_error; /* half-width of the 95 % Wilson interval of top1, in points */
    double seconds, images_per_s;
    esp_normalization normalization; /* what was used */
} esp_eval_result;

/* Models that end in Softmax are read before it. `options` may be NULL. Reports progress, can be cancelled.
 */
esp_status esp_evaluate(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                        const esp_eval_options *options, esp_eval_result *out, esp_error *err);

typedef struct esp_latency_options {
    int64_t batch; /* 0 = 1 */
    int repeats;   /* timed runs; 0 = as many as fit in about a second, at least 10 */
    const esp_input_shape *input_shapes;
    int input_shape_count;
} esp_latency_options;

typedef struct esp_latency_result {
    int64_t batch;
    int threads, repeats;
    double median_ms, min_ms, p90_ms;
    double spread;  /* (p75 - p25) / median: how noisy this was */
    int node_count; /* node_ms: medians per node, owned by the caller (esp_free); only with wants_nodes */
    double *node_ms;
} esp_latency_result;

/* Forward passes on random input after a warm-up. `wants_nodes` also fills node_ms. */
esp_status esp_measure_latency(const esp_compute *compute, const esp_graph *graph,
                               const esp_latency_options *options, bool wants_nodes, esp_latency_result *out,
                               esp_error *err);

#endif
