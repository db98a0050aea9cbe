/* Coupled sets: which channel slots of which tensors must be kept or cut together, and why (METHODS.md
 * section 3). Found by union-find over channel slots, from the channel rules of the op table, on any DAG. */
#ifndef ESP_PRUNE_COUPLING_H
#define ESP_PRUNE_COUPLING_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/text.h"
#include "graph/layers.h"

typedef struct esp_coupling esp_coupling;

/* `inferred` at batch 1; the coupling borrows graph, inferred and layers. */
esp_status esp_coupling_new(const esp_graph *graph, const esp_inferred *inferred, const esp_layers *layers,
                            esp_coupling **out, esp_error *err);
void esp_coupling_free(esp_coupling *coupling);

/* Channels of a value: axis (-1 when the value has no channel axis we follow: constants, rank below 2), their
 * number, and the slot (representative id, >= 1) of each. Id 0 is nobody's. Channels that padding inserts
 * have slots of their own, which no layer writes unless an addition ties them to a layer's. */
#define ESP_SLOT_ZERO 0
typedef struct esp_value_slots {
    int axis;
    int64_t count;
    const int32_t *slots;
} esp_value_slots;
esp_value_slots esp_coupling_value(const esp_coupling *coupling, int value);

/* Coupled sets of slots that move alike (same writers, same readers): numbered. A set has `slot_count` slots;
 * each slot has its filters in each writer layer and its columns in each reader. No writers: network input or
 * padding. */
typedef struct esp_coupled_set {
    int64_t slot_count;
    const int32_t *slots; /* ascending */
    int writer_count;
    const int *writers; /* layer indices */
    int reader_count;
    const int *readers;
    const char *pinned_by; /* why nothing of it can be cut ("network output 'logits'", "reshaped by node
                              'X'"), or NULL */
} esp_coupled_set;
int esp_coupling_set_count(const esp_coupling *coupling);
const esp_coupled_set *esp_coupling_set(const esp_coupling *coupling, int index);
int esp_coupling_slot_set(const esp_coupling *coupling, int32_t slot);          /* -1 for ESP_SLOT_ZERO */
int32_t esp_coupling_slot_limit(const esp_coupling *coupling);                  /* ids are below this */
const char *esp_coupling_pinned_by(const esp_coupling *coupling, int32_t slot); /* NULL: free */

/* Slots a layer writes (per filter; pinned and in no activation when its output does not depend on the
 * network's input), and reads (per column of its weight: esp_layer.channels many; NULL for such layers, for
 * those that follow, and for grouped ones nobody can follow).
 *
 * Layers of several groups: where there are more groups than channels or filters in each (depthwise,
 * ResNeXt), or only one of these, whole groups are cut: a group's filters and channels are one slot, and the
 * layer is neither writer nor reader of it: its filters follow. Otherwise every group loses the same channels
 * and the same filters: column c reads channel c of every group, which are one slot, and so are filters f of
 * all groups. */
const int32_t *esp_coupling_writes(const esp_coupling *coupling, int layer);
const int32_t *esp_coupling_reads(const esp_coupling *coupling, int layer);
bool esp_coupling_layer_follows(const esp_coupling *coupling, int layer);

/* True when a node's channels were followed by its rule; false: its inputs are pinned. */
bool esp_coupling_follows(const esp_coupling *coupling, int node);

/* A movement node (rule MOVE) that was followed: where the channels of its output come from. */
typedef struct esp_channel_moves {
    int64_t count;         /* channels of the output; 0 when the node is no followed movement */
    const int32_t *source; /* [count]: position among the channels of the followed inputs laid end to end; -1
                              = inserted. The first one where channels were merged */
    const int64_t *begin;  /* NULL: one source at most. Else [count + 1]: the sources of channel c are */
    const int32_t *from;   /* from[begin[c]] to from[begin[c + 1] - 1] */
    int followed_inputs;   /* inputs with channels */
    bool keeps_order; /* every input channel appears, in order, as one run of equal length: another order of
                         the inputs' channels gives the same order of runs */
} esp_channel_moves;
const esp_channel_moves *esp_coupling_moves(const esp_coupling *coupling, int node); /* of output 0 */
const esp_channel_moves *esp_coupling_moves_of(const esp_coupling *coupling, int node, int output);

/* The sources of one channel; returns how many. */
int64_t esp_channel_sources(const esp_channel_moves *moves, int64_t channel, const int32_t **out);

/* Index in the layer list of the layer at a node, or -1. */
int esp_coupling_layer_at(const esp_coupling *coupling, int node);

/* Slots that layers write, and those of them that nothing pins. */
typedef struct esp_coupling_totals {
    int64_t slots, cuttable;
} esp_coupling_totals;
esp_coupling_totals esp_coupling_count(const esp_coupling *coupling);

/* The printable list: what can be cut and why the rest cannot; every set with its tensors, writers, readers,
 * layers that follow, and the nodes that tie them. */
esp_status esp_coupling_print(const esp_coupling *coupling, esp_text *out, esp_error *err);

/* {"slots":, "cuttable":, "pinned":[{"reason", "slots"}], "sets":[{"channels", "written_by":[layer],
 * "read_by":[layer], "followed_by":[layer], "tied_by":[{"node", "operator"}], "tensors":[{"name", "axis",
 * "runs":[[first, last]], "channels", "slots"}], "pinned_by"}]}. New reference. */
esp_status esp_coupling_to_json(const esp_coupling *coupling, json_t **out, esp_error *err);

#endif
