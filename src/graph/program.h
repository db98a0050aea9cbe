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
    bool is_training, keeps_values, stops_at_logits, freezes_norm, spends_weights;
    int slots;
    const bool *wants_input_grad; /* per graph input */
    esp_rng *rng;
    const esp_engine *engine; /* must outlive the program */
} esp_program_request;

/* into += from, after a step's backward. */
typedef struct esp_accumulation {
    const esp_view *from, *into;
} esp_accumulation;

/* When something is packed. */
typedef enum esp_pack_time {
    ESP_PACK_ONCE,    /* of constants: when the program is made */
    ESP_PACK_CHANGED, /* of parameters: when these have changed since the last forward run */
    ESP_PACK_ALWAYS,  /* of values that change with every run: just before the step, into scratch memory */
} esp_pack_time;

/* The values a step reads and writes are those of the graph, and from the graph's number of values on the
 * same values in their other layout. */
typedef struct esp_step {
    int node;         /* whose work it mainly does: times and errors name it */
    const esp_op *op; /* the node's, or that of a layout conversion */
    int input_count, output_count;
    int *inputs, *outputs; /* -1: absent */
    bool is_blocked;       /* in channel blocks, as `layouts` says */
    bool is_conversion;    /* output 0 is input 0 in its other layout */
    bool prefers_blocks;   /* while compiling: program_choice.c decided that it is */
    bool is_joined;        /* while compiling: another step does its work */
    esp_op_layouts layouts;
    esp_fused fused;
    bool runs_forward; /* false: the output shares the input's memory */
    bool runs_backward, has_targets;
    esp_op_context context;
    int accumulation_count;
    esp_accumulation *accumulations;
    esp_op_pack packs[ESP_OP_PACKS];
    esp_pack_time pack_times[ESP_OP_PACKS];
} esp_step;

typedef struct esp_program {
    esp_arena *arena; /* everything but the four blocks below */
    int step_count;
    esp_step *steps;  /* in order of execution; backward runs them from the last to the first */
    int *node_steps;  /* per node: the step that does its work, or -1 */
    esp_view *values; /* per value, in both layouts; data NULL when it is not computed */
    esp_view *grads;  /* per value; data NULL when there is none */
    int output_count;
    int *outputs; /* values */
    int cleared_count;
    esp_view *cleared; /* parameters' gradients that no step writes */
    void *memory, *saved, *scratch, *packed;
    struct esp_group_layer *group_layers; /* their plans are freed with the program */
    size_t planned_bytes, unplanned_bytes, scratch_bytes, saved_bytes, packed_bytes, shared_packed_bytes;
    uint64_t packed_generation; /* of the parameters when they were packed; 0: never */
    bool updates_params;        /* forward changes running statistics */
} esp_program;

esp_status esp_program_new(const esp_program_request *request, esp_program **out, esp_error *err);
void esp_program_free(esp_program *program);

/* Packs what is made of parameters again when these have changed. */
esp_status esp_program_refresh(esp_program *program, const esp_params *params, const esp_compute *compute,
                               esp_error *err);

/* Packs what changes with every run, for one direction of one step. */
esp_status esp_step_pack(const esp_step *step, bool is_backward);

#endif
