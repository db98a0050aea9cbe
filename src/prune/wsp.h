/* Weak sub-network pruning (Guo et al., Neural Networks 144, 2021; METHODS.md section 1). */
#ifndef ESP_PRUNE_WSP_H
#define ESP_PRUNE_WSP_H

#include "graph/layers.h"
#include "prune/coupling.h"
#include "prune/mask.h"
#include "prune/reason.h"
#include "prune/slot_choice.h"
#include "prune/weights.h"

/* What is measured against what: a writer layer and the layer that reads its channels (as published), or a
 * coupled set with all its writers and readers (sound). */
typedef struct esp_wsp_pair {
    int writer, reader; /* indices into esp_layers; of a coupled set: its first writer and reader */
    int writer_count, reader_count; /* 1, or those of the set */
    int set;                        /* index of the coupled set; -1 for a pair as published */
    int64_t channels;               /* the writer's filters, or the set's slots */
    int64_t span;                   /* reader columns per channel: 1, or H*W at the conv -> fc border */
    double ratio;                   /* asked, [0,1) */
    int32_t *filters;               /* [channels] the writer's filter of each channel */
    double
        *filter_l1; /* [channels] what is written into c; of a set: in units of each layer's mean, summed */
    double *channel_l1; /* [channels] what is read from c; of a set: likewise */
    double filter_threshold, channel_threshold;
    int64_t weak_count;
    int32_t *weak;          /* ascending indices into the channels that go */
    esp_slot_choice choice; /* what becomes of each channel, and why */
    bool is_sound;          /* the pair lies inside one data-flow path (no residual add or concat between) */
} esp_wsp_pair;

/* Filters of a layer that no pair or set selects from, and why. */
typedef struct esp_wsp_left_out {
    int writer, reader; /* reader -1 when there is none */
    esp_reason reason;
    char why[96];
} esp_wsp_left_out;

typedef struct esp_wsp {
    int pair_count;
    esp_wsp_pair *pairs;
    int left_out_count;
    esp_wsp_left_out *left_out;
} esp_wsp;

/* Pairs in the order of the layers, as published: shortcuts' 1x1 convolutions and grouped convolutions left
 * out (esp_role). Pairs whose sizes do not fit, and writers of network outputs, are listed under
 * left_out. `masks` has one mask per layer (all ones at first). Ratios are 0, nothing is selected yet. */
esp_status esp_wsp_pairs(const esp_graph *graph, const esp_layers *layers, const esp_mask *masks,
                         esp_wsp *out, esp_error *err);

/* The same from norms (one entry per layer) that are known already. */
esp_status esp_wsp_pairs_from(const esp_graph *graph, const esp_layers *layers, const esp_layer_l1 *norms,
                              esp_wsp *out, esp_error *err);

/* Sound: one entry per free coupled set that has writers and readers. Filter score of a slot = sum over the
 * writers, channel score = sum over the readers, each in units of its layer's mean. Pinned sets are listed
 * under left_out, once per writer, with what pins them. */
esp_status esp_wsp_sets(const esp_coupling *coupling, const esp_layers *layers, const esp_layer_l1 *norms,
                        esp_wsp *out, esp_error *err);
void esp_wsp_free(esp_wsp *wsp);

/* Moves pair `index` to left_out, because of what it is coupled with. */
esp_status esp_wsp_leave_out(esp_wsp *wsp, int index, const char *why, esp_error *err);

/* Thresholds and weak channels of one pair from its scores and ratio: strict '<' on both norms. */
esp_status esp_wsp_select(esp_wsp_pair *pair, esp_error *err);

/* The largest ratio, to four digits, at which at most `most` channels of a pair that is on its own are weak.
 */
esp_status esp_wsp_largest_ratio(const esp_wsp_pair *pair, int64_t most, double *out, esp_error *err);

/* Sets of one kind ranked together: thresholds at the ratio over the channels of all of them, by scores per
 * layer; every pair gets them in units of its own. */
esp_status esp_wsp_select_together(esp_wsp_pair *const *pairs, int count, double ratio, esp_error *err);

/* What floor and multiple keep of the weak channels of sets that were ranked together, or of one that was on
 * its own (esp_slot_choice_put_back): those that become weak last as the ratio grows, of equal ones those
 * with the largest sum of both scores. That order does not depend on the ratio, so a larger ratio cuts what a
 * smaller one does, and more. */
esp_status esp_wsp_put_back(esp_wsp_pair *const *pairs, int count, double floor, int round_to,
                            esp_error *err);

/* Clears the weak channels of every pair in the masks: filters of writers, columns of readers, all at once.
 * Pairs as published only. */
void esp_wsp_apply(const esp_wsp *wsp, esp_mask *masks);

/* Sets: clears every weak slot in all its writers and readers. */
esp_status esp_wsp_apply_sets(const esp_wsp *wsp, const esp_coupling *coupling, const esp_layers *layers,
                              esp_mask *masks, esp_error *err);

#endif
