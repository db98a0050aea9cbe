/* A graph compiled for execution: what exec.c runs and program.c makes. */
#ifndef ESP_GRAPH_PROGRAM_H
#define ESP_GRAPH_PROGRAM_H

#include "base/arena.h"
#include "graph/exec.h"
#include "graph/op.h"

typedef struct esp_program_request {
    const esp_graph *graph;
    const esp_inferred *inferred; /* must outlive the program */
    esp_params *params;           /* or NULL; must outlive the program */
    bool is_training, keeps_values, stops_at_logits, freezes_norm;
    int slots;
    const bool *wants_input_grad; /* per graph input */
    esp_rng *rng;
} esp_program_request;

/* into += from, after a step's backward. */
typedef struct esp_accumulation {
    const esp_view *from, *into;
} esp_accumulation;

typedef struct esp_step {
    int node;
    bool runs_forward; /* false: the output shares the input's memory */
    bool runs_backward;
    esp_op_context context;
    int accumulation_count;
    esp_accumulation *accumulations;
} esp_step;

typedef struct esp_program {
    esp_arena *arena; /* everything but the three blocks below */
    int step_count;
    esp_step *steps;  /* in order of execution; backward runs them from the last to the first */
    esp_view *values; /* per value of the graph; data NULL when it is not computed */
    esp_view *grads;  /* per value; data NULL when there is none */
    int output_count;
    int *outputs; /* values */
    int cleared_count;
    esp_view *cleared; /* parameters' gradients that no step writes */
    void *memory, *saved, *scratch;
    size_t planned_bytes, unplanned_bytes;
} esp_program;

esp_status esp_program_new(const esp_program_request *request, esp_program **out, esp_error *err);
void esp_program_free(esp_program *program);

#endif
