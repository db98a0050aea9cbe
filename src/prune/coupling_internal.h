/* What the files of the coupling share: the union-find while it is built, and the finished tables. */
#ifndef ESP_PRUNE_COUPLING_INTERNAL_H
#define ESP_PRUNE_COUPLING_INTERNAL_H

#include "base/arena.h"
#include "graph/op.h"
#include "prune/coupling.h"
#include "tensor/strides.h"

/* Every array of slot ids, registered once, so that ids can be renumbered in place at the end. */
typedef struct coupling_array {
    struct coupling_array *next;
    int64_t count;
    int32_t *slots;
} coupling_array;

typedef struct coupling_value {
    int axis; /* -1: not followed */
    int64_t count;
    int32_t *slots;
} coupling_value;

struct esp_coupling {
    const esp_graph *graph;
    const esp_inferred *inferred;
    const esp_layers *layers;
    esp_arena *arena;
    coupling_value *values;
    esp_channel_moves **moves; /* per node, per output; NULL: no followed movement */
    bool *is_followed;         /* per node */
    int *layer_of_node;        /* -1: none */
    bool *follows_input;       /* per layer: whole groups are cut */
    int32_t **writes, **reads; /* per layer */

    /* union-find over raw ids; ids 1..raw_count-1 */
    coupling_array *arrays;
    int32_t *parent;
    const char **reason; /* per raw id; of a class: at its root. NULL: free */
    int32_t raw_count, raw_capacity;

    /* finished */
    int32_t slot_limit;
    const char **slot_reason;
    int *slot_set;
    int set_count;
    esp_coupled_set *sets;
};

/* ---- union-find (coupling.c) ---- */
esp_status coupling_array_new(esp_coupling *coupling, int64_t count, int32_t **out, esp_error *err);
esp_status coupling_fresh(esp_coupling *coupling, int64_t count, const char *reason, int32_t **out,
                          esp_error *err);
void coupling_tie(esp_coupling *coupling, int32_t a, int32_t b);
void coupling_pin(esp_coupling *coupling, int64_t count, const int32_t *slots, const char *reason);

/* A reason in the coupling's memory, NULL when memory is out. */
const char *coupling_reason(esp_coupling *coupling, const char *format, ...) ESP_PRINTF(2, 3);

/* The value behind an input of a node when it has channels and is not known before run time, else NULL. */
coupling_value *coupling_input(esp_coupling *coupling, const esp_node *node, int input);
bool coupling_is_known(const esp_coupling *coupling, int value);

/* Nothing of the node's inputs can be cut, and its outputs have channels of their own that are pinned too. */
esp_status coupling_block(esp_coupling *coupling, int node, const char *reason, esp_error *err);

/* ---- rules ---- */
esp_status coupling_follow_move(esp_coupling *coupling, int node, esp_error *err);  /* coupling_move.c */
esp_status coupling_follow_apart(esp_coupling *coupling, int node, esp_error *err); /* coupling_apart.c */
esp_status coupling_follow_group(esp_coupling *coupling, int node, esp_error *err); /* coupling_rules.c */
esp_status coupling_follow_cut(esp_coupling *coupling, int node, esp_error *err);   /* coupling_rules.c */
esp_status coupling_follow_copy(esp_coupling *coupling, int node, esp_error *err);
esp_status coupling_follow_tie(esp_coupling *coupling, int node, esp_error *err);
esp_status coupling_follow_block(esp_coupling *coupling, int node, esp_error *err);

/* ---- trial runs of one node (coupling_probe.c) ---- */

/* A node laid out for runs of its kernel: inputs with channels and all outputs have memory of their own. */
typedef struct coupling_probe {
    const esp_node *node;
    esp_view *inputs, *outputs;
    const esp_view **input_pointers;
    esp_view **output_pointers;
    float **numbers; /* per input: memory of those with channels, NULL for the others */
} coupling_probe;

esp_status coupling_probe_open(esp_coupling *coupling, int node, coupling_probe *out, esp_error *err);
esp_status coupling_probe_run(esp_coupling *coupling, coupling_probe *probe, esp_error *err);
void coupling_probe_close(coupling_probe *probe);

/* Why a node cannot be tried, or NULL: every float input has channels or is known, everything else is known.
 */
const char *coupling_why_not_probed(esp_coupling *coupling, const esp_node *node);

/* ---- sets (coupling_sets.c) ---- */
esp_status coupling_make_sets(esp_coupling *coupling, esp_error *err);

#endif
