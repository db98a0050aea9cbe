/* Surgery, what may be cut. A channel is constant when it does not depend on the network's input: the output
 * of a filter whose row is masked (its bias), or that reads constant channels only, and whatever is computed
 * from such channels alone. A slot may be cut when it is not pinned, all its filters are constant, and it is
 * constant wherever a layer reads it: its readers then get the constant as bias (surgery_fold.c). Channels
 * that are masked at both ends are the case where nobody needs the constant. */
#include "prune/surgery_internal.h"

#include "base/memory.h"

static bool *constants_of_input(const surgery *self, const esp_node *node, int input)
{
    int value = input < node->input_count ? node->inputs[input] : -1;
    return value >= 0 && surgery_has_channels(self, value) ? self->is_constant[value] : NULL;
}

/* `channels`: of the filter's group; NULL: nothing is known of them. */
static bool row_is_constant(const esp_mask *mask, int64_t filter, const bool *channels)
{
    for (int64_t c = 0; c < mask->channels; c++) {
        if (esp_mask_get(mask, filter, c) && (channels == NULL || !channels[c]))
            return false;
    }
    return true;
}

static void find_in_layer(surgery *self, int node_index, bool *output)
{
    int layer_index = esp_coupling_layer_at(self->coupling, node_index);
    const esp_layer *layer = &self->layers->items[layer_index];
    const esp_mask *mask = &self->preview->items[layer_index].mask;
    const bool *input = constants_of_input(self, esp_graph_node(self->graph, node_index), 0);
    int64_t filters = layer->filters / layer->group;
    for (int64_t f = 0; f < layer->filters; f++)
        output[f] = row_is_constant(mask, f, input + f / filters * layer->channels);
}

/* A node that was not followed: nothing is known, but for the filters of a layer that are free nevertheless.
 */
static void find_in_blind_layer(surgery *self, int node_index, bool *output)
{
    int layer_index = esp_coupling_layer_at(self->coupling, node_index);
    const esp_layer *layer = layer_index < 0 ? NULL : &self->layers->items[layer_index];
    for (int64_t f = 0; layer != NULL && f < layer->filters; f++) {
        int32_t slot = esp_coupling_writes(self->coupling, layer_index)[f];
        output[f] = esp_coupling_pinned_by(self->coupling, slot) == NULL &&
                    row_is_constant(&self->preview->items[layer_index].mask, f, NULL);
    }
}

static void find_in_tie(surgery *self, int node_index, int64_t count, bool *output)
{
    const esp_node *node = esp_graph_node(self->graph, node_index);
    for (int64_t c = 0; c < count; c++)
        output[c] = true;
    for (int i = 0; i < node->input_count; i++) {
        int value = node->inputs[i];
        if (value < 0 || esp_inferred_constant(self->inferred, value) != NULL)
            continue;
        const bool *input = constants_of_input(self, node, i);
        int64_t length = input == NULL ? 0 : esp_coupling_value(self->coupling, value).count;
        for (int64_t c = 0; c < count; c++)
            output[c] = output[c] && input != NULL && input[length == count ? c : 0];
    }
}

/* A moved channel is constant when all that it is made of is. */
static void find_in_move(surgery *self, int node_index, int output_index, int64_t count, bool *output)
{
    const esp_node *node = esp_graph_node(self->graph, node_index);
    const esp_channel_moves *moves = esp_coupling_moves_of(self->coupling, node_index, output_index);
    int64_t first = 0;
    for (int64_t c = 0; c < count; c++)
        output[c] = true;
    for (int i = 0; i < node->input_count; i++) {
        const bool *input = constants_of_input(self, node, i);
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

static void find_in_output(surgery *self, int index, int output_index)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    int value = node->outputs[output_index];
    if (value < 0 || !surgery_has_channels(self, value))
        return;
    int64_t count = esp_coupling_value(self->coupling, value).count;
    bool *output = self->is_constant[value];
    if (!esp_coupling_follows(self->coupling, index)) {
        find_in_blind_layer(self, index, output);
        return;
    }
    if (esp_coupling_layer_at(self->coupling, index) >= 0)
        find_in_layer(self, index, output);
    else if (node->op->rule == ESP_CHANNEL_TIE)
        find_in_tie(self, index, count, output);
    else if (node->op->rule == ESP_CHANNEL_MOVE)
        find_in_move(self, index, output_index, count, output);
    else if (node->op->rule == ESP_CHANNEL_GROUP)
        find_in_group(node, count, constants_of_input(self, node, 0), output);
    else if (node->op->rule == ESP_CHANNEL_COPY || node->op->rule == ESP_CHANNEL_APART) {
        const bool *input = constants_of_input(self, node, 0);
        for (int64_t c = 0; c < count; c++)
            output[c] = input[c];
    }
}

/* A slot is alive when one of its filters is, or when a layer reads it where something else was mixed in. */
static void find_live_slots(const surgery *self, bool *has_writer, bool *is_live)
{
    for (int i = 0; i < self->layers->count; i++) {
        const esp_layer *layer = &self->layers->items[i];
        const esp_node *node = esp_graph_node(self->graph, layer->node);
        const esp_mask *mask = &self->preview->items[i].mask;
        const int32_t *writes = esp_coupling_writes(self->coupling, i);
        const int32_t *reads = esp_coupling_reads(self->coupling, i);
        const bool *output = self->is_constant[node->outputs[0]]; /* NULL: pinned anyway */
        for (int64_t f = 0; !esp_coupling_layer_follows(self->coupling, i) && f < layer->filters; f++) {
            has_writer[writes[f]] = true;
            is_live[writes[f]] = is_live[writes[f]] || output == NULL || !output[f];
        }
        const bool *input = constants_of_input(self, node, 0);
        if (reads == NULL || !esp_coupling_follows(self->coupling, layer->node))
            continue;
        for (int64_t c = 0; c < layer->channels * layer->group; c++) {
            int64_t column = c % layer->channels;
            if (!input[c] && !is_live[reads[column]] && esp_mask_channel_is_read(mask, column))
                is_live[reads[column]] = true;
        }
    }
}

static esp_status choose_candidates(surgery *self, esp_error *err)
{
    size_t limit = (size_t)esp_coupling_slot_limit(self->coupling);
    bool *has_writer = esp_arena_alloc(self->arena, limit, sizeof *has_writer);
    bool *is_live = esp_arena_alloc(self->arena, limit, sizeof *is_live);
    if (has_writer == NULL || is_live == NULL)
        return esp_fail_memory(err, "surgery", limit);
    find_live_slots(self, has_writer, is_live);
    for (int32_t slot = 1; slot < (int32_t)limit; slot++)
        self->is_candidate[slot] =
            has_writer[slot] && !is_live[slot] && esp_coupling_pinned_by(self->coupling, slot) == NULL;
    return ESP_OK;
}

esp_status surgery_find_constants(surgery *self, esp_error *err)
{
    for (int value = 0; value < esp_graph_value_count(self->graph); value++) {
        if (!surgery_has_channels(self, value))
            continue;
        size_t count = (size_t)esp_coupling_value(self->coupling, value).count;
        self->is_constant[value] = esp_arena_alloc(self->arena, count, sizeof(bool));
        if (self->is_constant[value] == NULL)
            return esp_fail_memory(err, "surgery", count);
    }
    for (int i = 0; i < esp_graph_node_count(self->graph); i++)
        for (int k = 0; k < esp_graph_node(self->graph, i)->output_count; k++)
            find_in_output(self, i, k);
    return choose_candidates(self, err);
}
