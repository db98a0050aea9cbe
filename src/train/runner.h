/* A network made ready to run again and again on the same input: what latency is measured with. Nothing is
 * allocated during a run. */
#ifndef ESP_TRAIN_RUNNER_H
#define ESP_TRAIN_RUNNER_H

#include "train/latency.h"

typedef struct esp_runner esp_runner;

typedef struct esp_run_time {
    double total_s;
    double forward_s, backward_s, update_s; /* of a training step: forward with loss, backward, SGD */
} esp_run_time;

/* Inputs are standard normal numbers, which is what normalised images look like, and zeros for other types,
 * which any index allows. A training step is forward, softmax cross-entropy of the first output (images in
 * dim 0, the rest are classes) with random labels, backward, and SGD with momentum 0.9 and weight decay 1e-4,
 * at a learning rate so small that hundreds of steps on one batch change no speed. `graph` is referenced,
 * `compute` borrowed. With `times_nodes` the forward pass is also timed node by node. */
esp_status esp_runner_new(const esp_compute *compute, const esp_graph *graph,
                          const esp_latency_options *options, bool times_nodes, esp_runner **out,
                          esp_error *err);
void esp_runner_free(esp_runner *runner); /* NULL is allowed */

/* One run; filling the inputs is not part of the time. */
esp_status esp_runner_run(esp_runner *runner, esp_run_time *out, esp_error *err);

const esp_exec *esp_runner_exec(const esp_runner *runner);

/* What input `index` will hold in every run: to read or replace. `*bytes` is its size. */
void *esp_runner_input(esp_runner *runner, int index, size_t *bytes);

/* Graph output `index` of the last run. */
const esp_view *esp_runner_output(const esp_runner *runner, int index);

/* Seconds per node of the last forward pass; NULL without times_nodes. */
const double *esp_runner_node_seconds(const esp_runner *runner);

/* Peak: what was allocated since esp_runner_new began, by everybody, so one runner at a time gives its own.
 */
esp_latency_memory esp_runner_memory(const esp_runner *runner);

#endif
