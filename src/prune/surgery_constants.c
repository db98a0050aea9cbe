/* Surgery, what may be cut. A channel is constant when it does not depend on the network's input: the output
 * of a filter whose row is masked (its bias), or that reads constant channels only, and whatever is computed
 * from such channels alone. A slot may be cut when it is not pinned, all its filters are constant, and it is
 * constant wherever a layer reads it: its readers then get the constant as bias (surgery_fold.c). Channels
 * that are masked at both ends are the case where nobody needs the constant.
 *
 * The same walk tells which constants are *silent*: they carry what they would carry if every filter of the
 * network were masked, which is known without a look at these masks (surgery_values.c). A filter that is
 * constant because it reads constants is silent only where these are zeros. */
#include "prune/surgery_internal.h"

#include <string.h>

#include "base/memory.h"

#define WORD_BITS 64

/* One walk over the graph: which channels it marks, and by what rule at filters. */
typedef struct walk {
    const surgery *self;
    bool **marks;                 /* per value, per channel */
    const surgery_values *silent; /* of the second walk; NULL in the first */
    uint64_t *words;              /* bits of a layer's columns, room for all groups of any layer */
} walk;

static bool *marks_of_input(const walk *at, const esp_node *node, int input)
{
    int value = input < node->input_count ? node->inputs[input] : -1;
    return value >= 0 && surgery_has_channels(at->self, value) ? at->marks[value] : NULL;
}

/* An input beside the data that is computed while the model runs: then nothing is constant. */
static bool has_runtime_operand(const surgery *self, const esp_node *node)
{
    for (int i = 1; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && esp_inferred_constant(self->inferred, node->inputs[i]) == NULL)
            return true;
    }
    return false;
}

/* Whether a filter that connects to such a channel is marked all the same. */
static bool is_harmless(const walk *at, int value, const bool *marks, int64_t channel)
{
    if (at->silent == NULL)
        return marks[channel];
    const channel_values *carried = &at->silent->items[value];
    return marks[channel] && carried->low != NULL && carried->low[channel] == 0 &&
           carried->high[channel] == 0;
}

/* Bits of the columns through which nothing comes, `row_words` per group. */
static void fill_harmless(const walk *at, int layer_index, const bool *marks)
{
    const esp_layer *layer = &at->self->layers->items[layer_index];
    int64_t row_words = at->self->masks[layer_index].row_words;
    int value = esp_graph_node(at->self->graph, layer->node)->inputs[0];
    memset(at->words, 0, (size_t)(layer->group * row_words) * sizeof *at->words);
    for (int64_t c = 0; marks != NULL && c < layer->channels * layer->group; c++) {
        int64_t column = c % layer->channels;
        if (is_harmless(at, value, marks, c))
            at->words[c / layer->channels * row_words + column / WORD_BITS] |= (uint64_t)1
                                                                               << column % WORD_BITS;
    }
}

/* A mask row connects to nothing but the columns in `words`. */
static bool row_stays_within(const esp_mask *mask, int64_t filter, const uint64_t *words)
{
    const uint64_t *row = mask->words + filter * mask->row_words;
    for (int64_t w = 0; w < mask->row_words; w++) {
        if ((row[w] & ~words[w]) != 0)
            return false;
    }
    return true;
}

/* Silent values run layers that follow (depthwise) with their whole weights. */
static bool follows_silently(const esp_layer *layer, const esp_mask *mask, int64_t filter, const bool *input)
{
    int64_t group = filter / (layer->filters / layer->group);
    bool is_silent = esp_mask_filter_kept(mask, filter) == layer->channels;
    for (int64_t c = group * layer->channels; c < (group + 1) * layer->channels && is_silent; c++)
        is_silent = input != NULL && input[c];
    return is_silent;
}

static void find_in_layer(const walk *at, int node_index, bool *output)
{
    const surgery *self = at->self;
    const esp_node *node = esp_graph_node(self->graph, node_index);
    int layer_index = esp_coupling_layer_at(self->coupling, node_index);
    const esp_layer *layer = &self->layers->items[layer_index];
    const esp_mask *mask = &self->masks[layer_index];
    const bool *input = marks_of_input(at, node, 0);
    int64_t filters = layer->filters / layer->group;
    bool follows = esp_coupling_layer_follows(self->coupling, layer_index);
    if (has_runtime_operand(self, node))
        return;
    fill_harmless(at, layer_index, input);
    for (int64_t f = 0; f < layer->filters; f++)
        output[f] = at->silent != NULL && follows
                        ? follows_silently(layer, mask, f, input)
                        : row_stays_within(mask, f, at->words + f / filters * mask->row_words);
}

/* A node that was not followed: nothing is known, but for the filters of a layer that are free nevertheless.
 */
static void find_in_blind_layer(const walk *at, int node_index, bool *output)
{
    const surgery *self = at->self;
    int layer_index = esp_coupling_layer_at(self->coupling, node_index);
    const esp_layer *layer = layer_index < 0 ? NULL : &self->layers->items[layer_index];
    if (layer == NULL || has_runtime_operand(self, esp_graph_node(self->graph, node_index)))
        return;
    for (int64_t f = 0; f < layer->filters; f++) {
        int32_t slot = esp_coupling_writes(self->coupling, layer_index)[f];
        output[f] = esp_coupling_pinned_by(self->coupling, slot) == NULL &&
                    !esp_mask_filter_is_live(&self->masks[layer_index], f);
    }
}

static void find_in_tie(const walk *at, int node_index, int64_t count, bool *output)
{
    const surgery *self = at->self;
    const esp_node *node = esp_graph_node(self->graph, node_index);
    for (int64_t c = 0; c < count; c++)
        output[c] = true;
    for (int i = 0; i < node->input_count; i++) {
        int value = node->inputs[i];
        if (value < 0 || esp_inferred_constant(self->inferred, value) != NULL)
            continue;
        const bool *input = marks_of_input(at, node, i);
        int64_t length = input == NULL ? 0 : esp_coupling_value(self->coupling, value).count;
        for (int64_t c = 0; c < count; c++)
            output[c] = output[c] && input != NULL && input[length == count ? c : 0];
    }
}

/* A moved channel is constant when all that it is made of is. */
static void find_in_move(const walk *at, int node_index, int output_index, int64_t count, bool *output)
{
    const surgery *self = at->self;
    const esp_node *node = esp_graph_node(self->graph, node_index);
    const esp_channel_moves *moves = esp_coupling_moves_of(self->coupling, node_index, output_index);
    int64_t first = 0;
    for (int64_t c = 0; c < count; c++)
        output[c] = true;
    for (int i = 0; i < node->input_count; i++) {
        const bool *input = marks_of_input(at, node, i);
        if (input == NULL)
            continue;
        int64_t length = esp_coupling_value(self->coupling, node->inputs[i]).count;
        for (int64_t c = 0; c < count; c++) {
            const int32_t *sources;
            int64_t number = esp_channel_sources(moves, c, &sources);
            for (int64_t k = 0; k < number; k++) {
                int64_t from = sources[k] - first;
                output[c] = output[c] && (from < 0 || from >= length || input[from]);
            }
        }
        first += length;
    }
}

/* Channels that are computed together are constant together. */
static void find_in_group(const esp_node *node, int64_t count, const bool *input, bool *output)
{
    int64_t length = count / esp_node_int(node, "num_groups", 1);
    for (int64_t c = 0; c < count; c++) {
        output[c] = true;
        for (int64_t k = c - c % length; k < c - c % length + length; k++)
            output[c] = output[c] && input[k];
    }
}

static void find_in_output(const walk *at, int index, int output_index)
{
    const surgery *self = at->self;
    const esp_node *node = esp_graph_node(self->graph, index);
    int value = node->outputs[output_index];
    if (value < 0 || !surgery_has_channels(self, value))
        return;
    int64_t count = esp_coupling_value(self->coupling, value).count;
    bool *output = at->marks[value];
    const bool *input = marks_of_input(at, node, 0);
    if (!esp_coupling_follows(self->coupling, index))
        find_in_blind_layer(at, index, output);
    else if (esp_coupling_layer_at(self->coupling, index) >= 0)
        find_in_layer(at, index, output);
    else if (node->op->rule == ESP_CHANNEL_TIE)
        find_in_tie(at, index, count, output);
    else if (node->op->rule == ESP_CHANNEL_MOVE)
        find_in_move(at, index, output_index, count, output);
    else if (has_runtime_operand(self, node) || input == NULL)
        return;
    else if (node->op->rule == ESP_CHANNEL_GROUP)
        find_in_group(node, count, input, output);
    else if (node->op->rule == ESP_CHANNEL_COPY || node->op->rule == ESP_CHANNEL_APART)
        memcpy(output, input, (size_t)count * sizeof *output);
}

/* words[row_words]: the columns that any filter reads. */
static void join_rows(const esp_mask *mask, uint64_t *words)
{
    memset(words, 0, (size_t)mask->row_words * sizeof *words);
    for (int64_t f = 0; f < mask->filters; f++) {
        for (int64_t w = 0; w < mask->row_words; w++)
            words[w] |= mask->words[f * mask->row_words + w];
    }
}

/* A slot is alive when one of its filters is, or when a layer reads it where something else was mixed in. */
static void find_live_slots(const walk *at, bool *has_writer, bool *is_live)
{
    const surgery *self = at->self;
    for (int i = 0; i < self->layers->count; i++) {
        const esp_layer *layer = &self->layers->items[i];
        const esp_node *node = esp_graph_node(self->graph, layer->node);
        const int32_t *writes = esp_coupling_writes(self->coupling, i);
        const int32_t *reads = esp_coupling_reads(self->coupling, i);
        const bool *output = at->marks[node->outputs[0]]; /* NULL: pinned anyway */
        for (int64_t f = 0; !esp_coupling_layer_follows(self->coupling, i) && f < layer->filters; f++) {
            has_writer[writes[f]] = true;
            is_live[writes[f]] = is_live[writes[f]] || output == NULL || !output[f];
        }
        const bool *input = marks_of_input(at, node, 0);
        if (reads == NULL || !esp_coupling_follows(self->coupling, layer->node))
            continue;
        join_rows(&self->masks[i], at->words);
        for (int64_t c = 0; c < layer->channels * layer->group; c++) {
            int64_t column = c % layer->channels;
            if (!input[c] && (at->words[column / WORD_BITS] >> column % WORD_BITS & 1) != 0)
                is_live[reads[column]] = true;
        }
    }
}

static esp_status choose_candidates(surgery *self, const walk *at, esp_error *err)
{
    size_t limit = (size_t)esp_coupling_slot_limit(self->coupling);
    bool *has_writer = esp_arena_alloc(self->arena, limit, sizeof *has_writer);
    bool *is_live = esp_arena_alloc(self->arena, limit, sizeof *is_live);
    if (has_writer == NULL || is_live == NULL)
        return esp_fail_memory(err, "surgery", limit);
    find_live_slots(at, has_writer, is_live);
    for (int32_t slot = 1; slot < (int32_t)limit; slot++)
        self->is_candidate[slot] =
            has_writer[slot] && !is_live[slot] && esp_coupling_pinned_by(self->coupling, slot) == NULL;
    return ESP_OK;
}

/* Marks all channels, in arrays of the arena. */
static esp_status take_walk(surgery *self, walk *at, esp_error *err)
{
    size_t most = 1;
    for (int i = 0; i < self->layers->count; i++) {
        size_t words = (size_t)(self->layers->items[i].group * self->masks[i].row_words);
        most = words > most ? words : most;
    }
    at->words = esp_arena_alloc(self->arena, most, sizeof *at->words);
    if (at->words == NULL)
        return esp_fail_memory(err, "surgery", most * sizeof *at->words);
    for (int value = 0; value < esp_graph_value_count(self->graph); value++) {
        if (!surgery_has_channels(self, value))
            continue;
        size_t count = (size_t)esp_coupling_value(self->coupling, value).count;
        at->marks[value] = esp_arena_alloc(self->arena, count, sizeof(bool));
        if (at->marks[value] == NULL)
            return esp_fail_memory(err, "surgery", count);
    }
    for (int i = 0; i < esp_graph_node_count(self->graph); i++)
        for (int k = 0; k < esp_graph_node(self->graph, i)->output_count; k++)
            find_in_output(at, i, k);
    return ESP_OK;
}

esp_status surgery_find_constants(surgery *self, esp_error *err)
{
    walk at = {.self = self, .marks = self->is_constant};
    esp_status status = take_walk(self, &at, err);
    return status == ESP_OK ? choose_candidates(self, &at, err) : status;
}

esp_status surgery_find_silent(surgery *self, const surgery_values *silent, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(self->graph);
    walk at = {
        .self = self, .silent = silent, .marks = esp_arena_alloc(self->arena, values + 1, sizeof(bool *))};
    esp_status status = at.marks == NULL ? esp_fail_memory(err, "surgery", values * sizeof(bool *))
                                         : take_walk(self, &at, err);
    if (status == ESP_OK)
        self->is_silent = at.marks;
    return status;
}
