/* What program.c and program_memory.c share: a graph while it is compiled. */
#ifndef ESP_GRAPH_PROGRAM_INTERNAL_H
#define ESP_GRAPH_PROGRAM_INTERNAL_H

#include "graph/plan.h"
#include "graph/program.h"

enum { ESP_NO_STORE = -1 };

typedef struct esp_store {
    int last_read;  /* last step that reads it forward, as far as values were added */
    bool is_pinned; /* an input or output of the graph: never written over */
} esp_store;

typedef struct esp_compiler {
    const esp_program_request *request;
    const esp_graph *graph;
    esp_program *program;
    esp_arena *arena;
    int value_count, store_count, store_capacity;
    int *step_of_node; /* -1 when the node does not run */
    bool *is_static;   /* per value: known before run time, whatever the parameters */
    bool *is_needed;   /* per value: read by a step, or an output */
    bool *is_out;      /* per value: an output of the program */
    bool *wants_grad;  /* per value: it, or something it is made from, is trainable or asked for */
    bool *has_grad;    /* per value: backward has (will have) written its gradient */
    int *last_reader;  /* per value: last step that reads it; -1 none */
    int *value_store;  /* per value */
    int *grad_store;   /* per value */
    esp_store *stores;
    esp_plan_buffer *buffers; /* parallel to stores */
    esp_view *temporaries;    /* views of scratch gradients; their stores are in `temporary_stores` */
    int *temporary_stores;
    int temporary_count;
    size_t in_place_bytes; /* of outputs written over inputs */
} esp_compiler;

static inline esp_status esp_compiler_no_memory(esp_error *err)
{
    return esp_fail_memory(err, "a compiled network", 0);
}

/* The parameter a value is, or NULL. */
static inline esp_param *esp_compiler_param(const esp_compiler *c, int value)
{
    int index = c->request->params == NULL ? -1 : esp_params_find(c->request->params, value);
    return index < 0 ? NULL : esp_params_at(c->request->params, index);
}

/* Whether the step of a node writes this output: nobody may need the second output of a Dropout. */
static inline bool esp_compiler_writes(const esp_compiler *c, const esp_node *node, int output)
{
    int v = node->outputs[output];
    return v >= 0 && (output == 0 || c->is_needed[v] || c->request->keeps_values);
}

/* Decides in which store every value and every gradient lives and when it is in use, and which step's
 * backward writes where. */
esp_status esp_compiler_plan(esp_compiler *c, esp_error *err);

/* Allocates the program's memory and points all views into it. */
esp_status esp_compiler_place(esp_compiler *c, esp_error *err);

#endif
