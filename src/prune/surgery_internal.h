/* What the files of surgery share: one operation in progress.
 *
 * Order of work. The decision (surgery_decision.c): constants (what does not depend on the input, and so may
 * be cut) -> layout (which channels remain) -> edits (constants and numbers of the nodes in between) ->
 * folding (where constants behind cut filters go) -> forms of layers. Any step may veto slots: their channels
 * then stay, with zeros, and the steps before are repeated. A preview ends here and counts what would be
 * written (surgery_count.c). The rewrite: groups and the order of channels -> numbers of the folded constants
 * -> the new graph. It changes nothing of what was decided. */
#ifndef ESP_PRUNE_SURGERY_INTERNAL_H
#define ESP_PRUNE_SURGERY_INTERNAL_H

#include "base/arena.h"
#include "base/rng.h"
#include "graph/exec.h"
#include "graph/op.h"
#include "prune/coupling.h"
#include "prune/preview_internal.h"
#include "prune/surgery.h"
#include "prune/surgery_decision.h"
#include "prune/surgery_values.h"
#include "tensor/strides.h"

/* Channels of a value that remain: old indices in their new order. */
typedef struct channel_list {
    int64_t count;
    int64_t *indices;
    bool is_identity; /* all of them, in their old order */
} channel_list;

/* Where the constants go that a layer still reads of cut channels. */
typedef enum constant_place {
    CONSTANTS_NONE, /* there are none, or they are zero */
    CONSTANTS_BIAS,
    CONSTANTS_MAP, /* an addition behind the layer */
} constant_place;

/* What becomes of a layer. */
typedef struct layer_cut {
    constant_place place;
    bool is_grouped;         /* filters that read different channels are written group by group */
    int64_t stored, live;    /* elements of its weight in the cut model, and those that no mask clears */
    int group_count;         /* executed groups; 0: stays one dense layer. Of the rewrite */
    int32_t *group_of;       /* per old filter; -1: cut */
    int64_t *first_filter;   /* per group: a filter whose mask row is the group's */
    bool is_regular;         /* equal, disjoint groups of a convolution: Conv(group=g) */
    bool has_masks;          /* dense, and zeros remain */
    const float *added_bias; /* per old filter: what cut channels still contribute; NULL: nothing */
    esp_tensor *added_map;   /* the same as a map over the whole output at batch 1, when it differs from place
                                to place */
} layer_cut;

/* What changes in a node that is no layer. */
typedef struct node_edit {
    int input_count;     /* the node's, or more */
    esp_tensor **inputs; /* [input_count]: a replacement constant or NULL; NULL: none is replaced */
    int attr_count;
    const esp_attr *attrs; /* these replace the node's own of the same name */
    const char *dropped_attr;
} node_edit;

typedef struct surgery_chains surgery_chains;

typedef struct surgery {
    const esp_compute *compute;
    const preview_subject *subject; /* the model before the masks */
    const esp_mask *masks;          /* per layer */
    bool wants_groups;
    const esp_surgery_options *options; /* of the proof; NULL where nothing is written */
    const esp_graph *graph;             /* whose numbers are written: the masked model, or the subject's where
                                           nothing is written. Nodes and values are the same */
    const esp_inferred *inferred;       /* of that graph, batch 1 */
    const esp_inferred *inferred_two;   /* for two images, of other sizes where these are open: numbers that
                                           were computed while the model ran must not be fixed to what they were
                                           for one. NULL when it was exported for one */
    const esp_layers *layers;
    const esp_coupling *coupling;
    esp_arena *arena;
    esp_input_shape *input_shapes; /* for the inputs whose sizes the file leaves open */
    int input_shape_count;

    bool **is_constant;     /* per value, per channel: does not depend on the network's input */
    bool **is_silent;       /* the same for constants that masks have nothing to do with: what the channel
                               carries when every filter is masked. Made when asked for */
    surgery_values *values; /* of constants that are not silent; made when asked for */
    bool *is_candidate;     /* per slot: may be cut */
    bool *is_removed;       /* per slot */
    int32_t *rank;          /* per slot: place in a new order, or -1 */
    int64_t *written;       /* per slot: elements of the filters that write it; made when asked for */
    channel_list *kept;     /* per value with channels */
    int64_t *sort_buffer;   /* as long as the longest channel list */
    layer_cut *layer_cuts;
    node_edit *edits;          /* per node */
    surgery_chains *chains[2]; /* at batch 1 and 2, while nodes are edited; NULL: none */
    esp_surgery_report report;
} surgery;

/* True when the model has been inferred with sizes for its open dims: maps of a fixed size cannot be written
 * into it. */
bool surgery_has_open_sizes(const surgery *self);

/* The value's list of remaining channels; a list without channels for values that have none. */
const channel_list *surgery_kept(const surgery *self, int value);

/* True when an input of a node is an activation with channels. */
bool surgery_has_channels(const surgery *self, int value);

/* The columns of a layer's weight that remain: old indices, `indices` NULL when that says nothing new. */
channel_list surgery_columns(const surgery *self, int layer);
int64_t surgery_old_index(const channel_list *list, int64_t index);

/* True when any slot of the value is cut. */
bool surgery_is_narrowed(const surgery *self, int value);

/* The cut slots of a value stay after all. */
void surgery_veto(surgery *self, int value);

/* ---- surgery_decision.c ---- */

/* `masked` is borrowed with its shapes at batch 1; NULL for a decision that nothing is written by. */
esp_status surgery_open(surgery *self, const esp_compute *compute, const preview_subject *subject,
                        const esp_mask *masks, bool wants_groups, const esp_graph *masked,
                        const esp_inferred *masked_inferred, esp_error *err);
void surgery_close(surgery *self);

/* Which channels go: as many as can, until no step objects; and in which form layers are written. */
esp_status surgery_decide(surgery *self, esp_error *err);

/* Executed groups, and an order of channels that saves restoring it; which every node in between follows. */
esp_status surgery_order(surgery *self, esp_error *err);

/* Fills inferred_two. */
esp_status surgery_infer_two(surgery *self, esp_error *err);

/* ---- surgery_constants.c ---- */

/* Fills is_constant and is_candidate. */
esp_status surgery_find_constants(surgery *self, esp_error *err);

/* Fills is_silent: constant channels that carry what the subject's silent values say. */
esp_status surgery_find_silent(surgery *self, const surgery_values *silent, esp_error *err);

/* ---- surgery_values.c ---- */

/* What the channels with `is_wanted` (all constant) of a layer's input carry. Borrowed. */
esp_status surgery_values_of(surgery *self, int value, const bool *is_wanted, const channel_values **out,
                             esp_error *err);

/* ---- surgery_fold.c ---- */

/* Where goes what cut channels contribute to their readers, into layer_cuts; vetoes slots whose constants
 * cannot be placed. */
esp_status surgery_fold_constants(surgery *self, bool *has_vetoed, esp_error *err);

/* The numbers of it, into added_bias and added_map. */
esp_status surgery_fill_constants(surgery *self, esp_error *err);

/* ---- surgery_count.c ---- */

/* What the decision comes to: what a file would store, and that less the zeros that stay as masks. */
esp_status surgery_count(const surgery *self, esp_counts *live, esp_counts *stored, esp_error *err);

/* ---- surgery_check.c ---- */

/* Noise of a normal distribution; zeros where the input is not float32. */
void surgery_fill_input(const esp_view *view, esp_rng *rng);

/* ---- surgery_layout.c ---- */

/* is_removed from is_candidate; every value keeps at least one channel. */
void surgery_choose(surgery *self);

/* Fills `kept` from is_removed and rank. False when the order that rank asks for does not fit together. */
bool surgery_lay_out(surgery *self);

/* The value's shape in the cut model, `inferred` at the same batch size. */
esp_shape surgery_new_shape(const surgery *self, const esp_inferred *inferred, int value);

/* The list of a layer's input or output must look the same in every group. */
bool surgery_fits_groups(const surgery *self, int layer);

/* ---- surgery_edits.c ---- */

/* Fills `edits`; vetoes channels whose nodes cannot be rewritten. */
esp_status surgery_edit_nodes(surgery *self, bool *has_vetoed, esp_error *err);
void surgery_release_edits(surgery *self);

/* ---- surgery_chains.c: values that are computed from shapes while the model runs ---- */

/* What is computed from shapes in the cut model at the batch size of `inferred`; borrows both. */
esp_status surgery_chains_new(surgery *self, const esp_inferred *inferred, surgery_chains **out,
                              esp_error *err);
void surgery_chains_free(surgery_chains *chains);

/* True when the cut model computes something else for a known value than the masked one does; `*out`
 * (borrowed): what, or NULL when it cannot compute it. */
bool surgery_chains_changed(const surgery_chains *chains, int value, const esp_tensor **out);

/* ---- surgery_groups.c ---- */

/* Whether each layer is written dense or grouped, and its weight's elements. */
esp_status surgery_choose_forms(surgery *self, esp_error *err);

/* Executed groups per layer, and an order of channels that saves restoring it afterwards. */
esp_status surgery_find_groups(surgery *self, esp_error *err);

/* ---- surgery_rewrite.c, surgery_layers.c ---- */

esp_status surgery_rewrite(surgery *self, esp_graph **out, esp_error *err);

/* Marks the old values that are needed in their old form. is_needed[values], all false before. */
void surgery_mark_needed(const surgery *self, bool *is_needed);
bool surgery_is_node_needed(const bool *is_needed, const esp_node *node);

/* A list of old indices applied to one axis of a tensor; the same tensor when nothing changes. New reference.
 */
esp_status surgery_select(const esp_tensor *tensor, int axis, const channel_list *list, esp_tensor **out,
                          esp_error *err);

/* The new graph while it is written. Value indices are the builder's. */
typedef struct graph_writer graph_writer;

/* A layer's weight as the masked model has it. Borrowed. */
const esp_tensor *surgery_weight(const surgery *self, const esp_layer *layer);

/* Which input of a layer's node is the bias, or would be if it had one; -1 when the operator takes none. */
int surgery_bias_input(const esp_node *node);

/* The bias of a layer's node, of any shape that broadcasts; NULL when it has none. Borrowed. */
const esp_tensor *surgery_bias(const surgery *self, const esp_node *node);

/* A name that is free in the old graph and in the new one. NULL: no memory. */
const char *writer_name(graph_writer *writer, const char *format, ...) ESP_PRINTF(2, 3);

/* A constant in the place of an old one (-1: of none): the old one itself when the tensor is the same, else
 * under the old one's name when nobody else needs that, else called like `name`. */
esp_status writer_constant(graph_writer *writer, int old_value, const char *name, const esp_tensor *tensor,
                           int *out, esp_error *err);

/* An old value. */
esp_status writer_value(graph_writer *writer, int old_value, int *out, esp_error *err);

/* A new intermediate value, to be made by some node. */
esp_status writer_new_value(graph_writer *writer, const char *name, int *out, esp_error *err);

/* A new node of an operator that ONNX has had since opset 7 or before. */
esp_status writer_node(graph_writer *writer, const char *op, const char *name, const int *inputs,
                       int input_count, int output, const esp_attr *attrs, int attr_count, esp_error *err);

/* An old node with other inputs and outputs; `attrs` replace or join its own. NULL name: its own name. */
esp_status writer_old_node(graph_writer *writer, const esp_node *node, const char *name, const int *inputs,
                           int input_count, const int *outputs, int output_count, const esp_attr *attrs,
                           int attr_count, esp_error *err);

/* Notes the mask of the constant that writer_constant gave last. */
esp_status writer_note_mask(graph_writer *writer, const esp_mask *mask, esp_error *err);

esp_status surgery_write_layer(surgery *self, graph_writer *writer, int layer, esp_error *err);

#endif
