/* What the files that compile a graph share (program*.c, fuse*.c): a graph while it is compiled. */
#ifndef ESP_GRAPH_PROGRAM_INTERNAL_H
#define ESP_GRAPH_PROGRAM_INTERNAL_H

#include "graph/plan.h"
#include "graph/program.h"

enum { ESP_NO_STORE = -1 };

typedef struct esp_store {
    int last_read;  /* last step that reads it forward, as far as values were added */
    bool is_pinned; /* an input or output of the graph, or shared by parts of a concatenation: never written
                       over */
} esp_store;

/* Where a value lies inside a larger one (program_concat.c). */
typedef struct esp_place {
    int root;        /* value whose memory it is a part of; -1: it has its own */
    int64_t channel; /* first channel in there */
} esp_place;

/* A view whose data is filled in when stores have got their memory. */
typedef struct esp_pending_view {
    esp_view view;
    int store;
    size_t offset;
} esp_pending_view;

typedef struct esp_compiler {
    const esp_program_request *request;
    const esp_graph *graph;
    esp_program *program;
    esp_arena *arena;
    bool uses_blocks; /* channel blocks and fusions */
    int value_count;  /* of the graph; arrays "per value" below have twice as many entries unless they say
                         otherwise */
    int store_count, store_capacity;
    bool *is_static;      /* known before run time, whatever the parameters */
    bool *is_needed;      /* per value of the graph: read by a step, or an output */
    bool *is_out;         /* an output of the program */
    bool *wants_grad;     /* it, or something it is made from, is trained or asked for */
    bool *may_want_grad;  /* the same if no parameter were frozen: what choices are made by */
    bool *has_grad;       /* backward has (will have) written its gradient */
    int *read_count;      /* inputs of steps that are this value, plus 1 for an output of the program */
    int *last_reader;     /* last step that reads it; -1 none */
    int *producer;        /* step that makes it; -1 none */
    int *value_store;     /* per value */
    size_t *value_offset; /* bytes into its store */
    esp_place *places;    /* per value */
    int *root_store;      /* per value that others lie in: its store, once there is one */
    int *grad_store;      /* per value */
    size_t *grad_offset;  /* bytes into its store */
    esp_store *stores;
    esp_plan_buffer *buffers;      /* parallel to stores */
    esp_pending_view *temporaries; /* scratch gradients and parts of gradients */
    int temporary_count;
    size_t in_place_bytes; /* of outputs written over inputs */
} esp_compiler;

static inline esp_status esp_compiler_no_memory(esp_error *err)
{
    return esp_fail_memory(err, "a compiled network", 0);
}

static inline int esp_compiler_values(const esp_compiler *c)
{
    return 2 * c->value_count;
}

/* The value in its other layout, of a value of the graph. */
static inline int esp_compiler_other(const esp_compiler *c, int value)
{
    return value + c->value_count;
}

/* The parameter a value is, or NULL. */
static inline esp_param *esp_compiler_param(const esp_compiler *c, int value)
{
    int index = c->request->params == NULL || value >= c->value_count
                    ? -1
                    : esp_params_find(c->request->params, value);
    return index < 0 ? NULL : esp_params_at(c->request->params, index);
}

/* Whether a value is known when the program is made, but for changes of parameters. */
static inline bool esp_compiler_is_fixed(const esp_compiler *c, int value)
{
    return c->is_static[value] || esp_compiler_param(c, value) != NULL;
}

/* Whether a mask of a row or a step has the bit of input `index`. The last bit stands for all inputs from
 * there on. */
static inline bool esp_bit(unsigned mask, int index)
{
    return (mask & 1u << (index < 31 ? index : 31)) != 0;
}

/* Whether a step writes this output: nobody may need the second output of a Dropout. */
static inline bool esp_compiler_writes(const esp_compiler *c, const esp_step *step, int output)
{
    int v = step->outputs[output];
    return v >= 0 && (output == 0 || c->is_needed[v] || c->request->keeps_values);
}

/* Whether output 0 is the only one the step writes. */
bool esp_compiler_has_one_output(const esp_compiler *c, const esp_step *step);

/* Whether output 0 may share the memory of input 0. */
bool esp_compiler_is_view(const esp_compiler *c, const esp_step *step);

/* Fills the step's context: views in both directions, no memory, no plan. Inputs and outputs may change
 * between calls. */
esp_status esp_compiler_fill_context(esp_compiler *c, esp_step *step, esp_error *err);

/* Where gradients will be wanted if nothing is frozen, as far as `blocks` asks (only which entries are NULL
 * counts), into the context's input_grads; NULL at evaluation. */
esp_status esp_compiler_mark_wanted(esp_compiler *c, esp_step *step, esp_error *err);

/* fuse_group.c: self-grouped layers become a step each. Counts of readers are void afterwards. */
esp_status esp_compiler_join_groups(esp_compiler *c, esp_error *err);

/* Whether the convolution of step `s` can run on plain images as a layer of one group, and that step. Nothing
 * is changed. */
esp_status esp_compiler_plain_layer(esp_compiler *c, int s, bool *is_made, esp_step *out, esp_error *err);

/* program_choice.c: in a network with self-grouped layers, which steps keep images in channel blocks. Steps
 * get `prefers_blocks`; convolutions that do better on plain images become layers of one group. */
esp_status esp_compiler_weigh_layouts(esp_compiler *c, esp_error *err);

/* program_layout.c: which steps run in channel blocks and so in which layout every value is; conversions
 * where a step needs the other one. */
esp_status esp_compiler_choose_layouts(esp_compiler *c, esp_error *err);
esp_status esp_compiler_convert(esp_compiler *c, esp_error *err);

/* fuse.c: steps that do the work of several nodes. */
esp_status esp_compiler_fuse(esp_compiler *c, esp_error *err);

/* program_concat.c: which values are written right into the concatenation they are part of. */
void esp_compiler_place_parts(esp_compiler *c);

/* program_grads.c: which values need gradients, and which step's backward writes them where. */
void esp_compiler_find_wanted(esp_compiler *c);
esp_status esp_compiler_plan_gradients(esp_compiler *c, esp_error *err);

/* program_memory.c: in which store every value lives and when it is in use. Stores for program_grads.c. */
void esp_compiler_store_values(esp_compiler *c);
int esp_compiler_new_store(esp_compiler *c, size_t bytes, int start, int end);
void esp_compiler_use_store(esp_compiler *c, int store, int moment);
size_t esp_compiler_value_bytes(const esp_compiler *c, int value);
int esp_compiler_backward_moment(const esp_compiler *c, int step);
int esp_compiler_end_of_time(const esp_compiler *c);

/* Allocates the program's memory and points all views into it. */
esp_status esp_compiler_place(esp_compiler *c, esp_error *err);

/* program_pack.c: what steps have packed and when, and memory for it. `*scratch` is raised to what packing
 * for single runs needs in front of steps' own scratch memory. */
esp_status esp_compiler_pack(esp_compiler *c, esp_error *err);

#endif
