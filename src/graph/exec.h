/* The executor: a graph compiled for one batch size. Buffers are planned by lifetime and reused; constants
 * are folded; nothing is allocated during a run. */
#ifndef ESP_GRAPH_EXEC_H
#define ESP_GRAPH_EXEC_H

#include "base/compute.h"
#include "base/rng.h"
#include "graph/graph.h"
#include "graph/infer.h"
#include "graph/params.h"
#include "tensor/engine.h"

typedef struct esp_exec esp_exec;

typedef struct esp_exec_options {
    int64_t batch;      /* >= 1 */
    bool is_training;   /* batch statistics, dropout on, activations kept, gradients available */
    esp_params *params; /* read (and trained) instead of the graph's constants; may be NULL for evaluation */
    const esp_input_shape *input_shapes;
    int input_shape_count;
    uint64_t seed;            /* dropout */
    bool keeps_values;        /* every intermediate value stays readable after a run (esp_exec_value) */
    bool stops_at_logits;     /* an output made by a Softmax is replaced by the Softmax's input */
    bool freezes_norm;        /* training with batch-norm in evaluation form */
    bool spends_weights;      /* evaluation: weights that are read in packed form only are freed as they are
                                 packed. The graph, and whatever shares tensors with it, is good for nothing
                                 else afterwards than this executor */
    int slots;                /* threads that will run it at most (esp_compute_slots); 0 = 1 */
    const esp_engine *engine; /* NULL: esp_engine_default(); copied */
} esp_exec_options;

esp_status esp_exec_new(const esp_graph *graph, const esp_exec_options *options, esp_exec **out,
                        esp_error *err);
void esp_exec_free(esp_exec *exec);
const esp_inferred *esp_exec_inferred(const esp_exec *exec);

/* Graph input / output `index` (in the graph's order): views valid until the next run or free. Fill inputs
 * before forward. */
const esp_view *esp_exec_input(esp_exec *exec, int index);
const esp_view *esp_exec_output(const esp_exec *exec, int index);

/* Any value, when keeps_values was asked; NULL data when it was never computed. */
const esp_view *esp_exec_value(const esp_exec *exec, int value);

/* ESP_CANCELLED when the token was set. Errors name the node. */
esp_status esp_exec_forward(esp_exec *exec, const esp_compute *compute, esp_error *err);

/* Training: where to put dLoss/d(output), after forward and before every esp_exec_backward; same shape as the
 * output. An output whose gradient was never asked for counts as zero. NULL when the executor is for
 * evaluation. */
const esp_view *esp_exec_output_grad(esp_exec *exec, int index);

/* Gradients of all trainable params into their `grad` (overwritten); of frozen ones see params.h. */
esp_status esp_exec_backward(esp_exec *exec, const esp_compute *compute, esp_error *err);

/* Gradient of the loss with respect to graph input `index` after backward, when asked before: tests use it.
 * Asking compiles again: views taken before are void. NULL when it was not asked for or no gradient reaches
 * the input. */
esp_status esp_exec_want_input_grad(esp_exec *exec, int index, esp_error *err);
const esp_view *esp_exec_input_grad(const esp_exec *exec, int index);

/* The random state of dropout, which every training run moves on: to be saved, and set to what was saved. */
esp_rng *esp_exec_rng(esp_exec *exec);

/* Bytes of planned activation memory, and what it would be without reuse. */
size_t esp_exec_planned_bytes(const esp_exec *exec);
size_t esp_exec_unplanned_bytes(const esp_exec *exec);

/* All memory an executor holds, in bytes. Constants are the graph's; packed forms of them that executors
 * share hang on the graph's tensors. */
typedef struct esp_exec_memory {
    size_t activations, unshared_activations; /* as planned; as it would be without reuse */
    size_t scratch, saved;                    /* for one step at a time; kept from forward to backward */
    size_t packed, shared_packed;             /* packed weights and the like: its own, and shared ones */
} esp_exec_memory;
esp_exec_memory esp_exec_memory_use(const esp_exec *exec);

/* Per-node times of the last forward in seconds, indexed by node; enabled by this call (NULL stops). A step
 * that does several nodes' work counts for its main node, a conversion of layouts for the node that asked for
 * it. */
void esp_exec_time_nodes(esp_exec *exec, double *seconds);

/* What a node's forward pass runs. */
typedef struct esp_exec_node_info {
    char method[24];   /* "winograd", "pointwise", "blocked", "plain", ...; "": nothing runs (a view, a
                          constant, a   value nobody needs) */
    esp_layout layout; /* of its first output */
    int fused_into;    /* the node whose step does this one's work too; the node itself otherwise */
} esp_exec_node_info;
esp_exec_node_info esp_exec_node(const esp_exec *exec, int node);

#endif
