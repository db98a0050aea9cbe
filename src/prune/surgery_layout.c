/* Surgery, which channels remain and in which order. Every writer lists its remaining filters in their old
 * order, or by rank where a grouped layer has claimed one (surgery_groups.c); lists then run through the
 * graph by the same rules as slots did. An order that some node cannot carry (pinned channels, slices,
 * operands of an addition that disagree) makes the whole layout invalid: the caller takes the claim back.
 * Without ranks every layout is valid.
 */
#include <stdlib.h>
#include <string.h>

#include "prune/surgery_internal.h"

bool surgery_has_channels(const surgery *self, int value)
{
    return esp_coupling_value(self->coupling, value).axis >= 0;
}

const channel_list *surgery_kept(const surgery *self, int value)
{
    return &self->kept[value];
}

int64_t surgery_old_index(const channel_list *list, int64_t index)
{
    return list->is_identity ? index : list->indices[index];
}

channel_list surgery_columns(const surgery *self, int index)
{
    const esp_layer *layer = &self->layers->items[index];
    channel_list list = {.count = layer->channels, .is_identity = true};
    if (!esp_coupling_follows(self->coupling, layer->node) ||
        esp_coupling_layer_follows(self->coupling, index))
        return list;
    list = self->kept[esp_graph_node(self->graph, layer->node)->inputs[0]];
    list.count /= layer->group; /* the first group's, as every group's */
    return list;
}

esp_shape surgery_new_shape(const surgery *self, const esp_inferred *inferred, int value)
{
    esp_shape shape = *esp_inferred_shape(inferred, value);
    esp_value_slots item = esp_coupling_value(self->coupling, value);
    if (item.axis >= 0 && item.axis < shape.rank)
        shape.dims[item.axis] = self->kept[value].count;
    return shape;
}

bool surgery_is_narrowed(const surgery *self, int value)
{
    esp_value_slots item = esp_coupling_value(self->coupling, value);
    for (int64_t i = 0; item.axis >= 0 && i < item.count; i++) {
        if (self->is_removed[item.slots[i]])
            return true;
    }
    return false;
}

void surgery_veto(surgery *self, int value)
{
    esp_value_slots item = esp_coupling_value(self->coupling, value);
    for (int64_t i = 0; item.axis >= 0 && i < item.count; i++) {
        if (self->is_removed[item.slots[i]])
            self->is_candidate[item.slots[i]] = false;
    }
}

void surgery_choose(surgery *self)
{
    int32_t limit = esp_coupling_slot_limit(self->coupling);
    memcpy(self->is_removed, self->is_candidate, (size_t)limit * sizeof *self->is_removed);
    for (int value = 0; value < esp_graph_value_count(self->graph); value++) {
        esp_value_slots item = esp_coupling_value(self->coupling, value);
        int64_t left = 0;
        for (int64_t i = 0; item.axis >= 0 && i < item.count; i++)
            left += !self->is_removed[item.slots[i]];
        if (item.axis >= 0 && item.count > 0 && left == 0)
            self->is_removed[item.slots[0]] = false;
    }
}

/* ---- lists ---- */

static void note_identity(channel_list *list, int64_t old_count)
{
    list->is_identity = list->count == old_count;
    for (int64_t i = 0; i < list->count && list->is_identity; i++)
        list->is_identity = list->indices[i] == i;
}

static bool is_ascending(const channel_list *list)
{
    for (int64_t i = 1; i < list->count; i++) {
        if (list->indices[i] <= list->indices[i - 1])
            return false;
    }
    return true;
}

static void list_in_old_order(const surgery *self, int value)
{
    esp_value_slots item = esp_coupling_value(self->coupling, value);
    channel_list *list = &self->kept[value];
    list->count = 0;
    for (int64_t i = 0; i < item.count; i++) {
        if (!self->is_removed[item.slots[i]])
            list->indices[list->count++] = i;
    }
}

static int compare_keys(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* Ranked channels, sorted by rank, fill the places that ranked channels hold in the old order. */
static void list_by_rank(surgery *self, int value)
{
    esp_value_slots item = esp_coupling_value(self->coupling, value);
    channel_list *list = &self->kept[value];
    int64_t count = 0;
    list_in_old_order(self, value);
    for (int64_t i = 0; i < list->count; i++) {
        int64_t rank = self->rank[item.slots[list->indices[i]]];
        if (rank >= 0)
            self->sort_buffer[count++] = rank << 32 | list->indices[i];
    }
    if (count == 0)
        return;
    qsort(self->sort_buffer, (size_t)count, sizeof *self->sort_buffer, compare_keys);
    for (int64_t i = 0, next = 0; i < list->count; i++) {
        if (self->rank[item.slots[list->indices[i]]] >= 0)
            list->indices[i] = self->sort_buffer[next++] & INT32_MAX;
    }
}

/* Every channel of `input` becomes `length` channels in a row, from `first` on. */
static void append_runs(channel_list *list, const channel_list *input, int64_t first, int64_t length)
{
    for (int64_t i = 0; i < input->count; i++) {
        for (int64_t j = 0; j < length; j++)
            list->indices[list->count++] = (first + input->indices[i]) * length + j;
    }
}

static bool lay_out_tie(surgery *self, const esp_node *node, int value)
{
    esp_value_slots output = esp_coupling_value(self->coupling, value);
    channel_list *list = &self->kept[value];
    bool is_first = true;
    for (int i = 0; i < node->input_count; i++) {
        int operand = node->inputs[i];
        if (operand < 0 || !surgery_has_channels(self, operand))
            continue;
        const channel_list *input = &self->kept[operand];
        if (esp_coupling_value(self->coupling, operand).count != output.count)
            continue; /* broadcast: pinned */
        if (is_first) {
            list->count = input->count;
            memcpy(list->indices, input->indices, (size_t)input->count * sizeof *list->indices);
        } else if (list->count != input->count ||
                   memcmp(list->indices, input->indices, (size_t)input->count * sizeof *list->indices) != 0) {
            return false;
        }
        is_first = false;
    }
    if (is_first) /* channels that constants make */
        list_in_old_order(self, value);
    return true;
}

static bool lay_out_output(surgery *self, const esp_node *node, const esp_channel_moves *moves, int value)
{
    channel_list *list = &self->kept[value];
    int64_t channels = 0, first = 0;
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] < 0 || !surgery_has_channels(self, node->inputs[i]))
            continue;
        channels += esp_coupling_value(self->coupling, node->inputs[i]).count;
        if (!moves->keeps_order && !is_ascending(&self->kept[node->inputs[i]]))
            return false;
    }
    if (!moves->keeps_order) {
        list_in_old_order(self, value);
        return true;
    }
    list->count = 0;
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] < 0 || !surgery_has_channels(self, node->inputs[i]))
            continue;
        append_runs(list, &self->kept[node->inputs[i]], first, moves->count / channels);
        first += esp_coupling_value(self->coupling, node->inputs[i]).count;
    }
    return true;
}

static bool lay_out_move(surgery *self, int index)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    bool is_valid = true;
    for (int i = 0; i < node->output_count && is_valid; i++) {
        const esp_channel_moves *moves = esp_coupling_moves_of(self->coupling, index, i);
        if (node->outputs[i] >= 0 && surgery_has_channels(self, node->outputs[i]))
            is_valid = lay_out_output(self, node, moves, node->outputs[i]);
    }
    return is_valid;
}

static void copy_list(surgery *self, int from, int to)
{
    const channel_list *input = &self->kept[from];
    channel_list *list = &self->kept[to];
    list->count = input->count;
    memcpy(list->indices, input->indices, (size_t)input->count * sizeof *list->indices);
}

/* Runs of `length` channels stay whole, or go. */
static bool has_whole_runs(const channel_list *list, int64_t length)
{
    if (list->count % length != 0)
        return false;
    for (int64_t i = 0; i < list->count; i++) {
        int64_t first = list->indices[i - i % length];
        if (first % length != 0 || list->indices[i] != first + i % length)
            return false;
    }
    return true;
}

/* Every one of `runs` runs of old channels keeps the same of them, in the same order. */
static bool has_equal_runs(const channel_list *list, int64_t old_count, int64_t runs)
{
    int64_t length = old_count / runs, kept = list->count / runs;
    if (list->count % runs != 0)
        return false;
    for (int64_t i = 0; i < list->count; i++) {
        if (list->indices[i] != list->indices[i % kept] + i / kept * length)
            return false;
    }
    return kept > 0 && list->indices[0] < length;
}

bool surgery_fits_groups(const surgery *self, int index)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const channel_list *input = &self->kept[node->inputs[0]], *output = &self->kept[node->outputs[0]];
    if (layer->group == 1)
        return true;
    if (esp_coupling_layer_follows(self->coupling, index))
        return has_whole_runs(input, layer->channels);
    return has_equal_runs(input, layer->channels * layer->group, layer->group) &&
           has_equal_runs(output, layer->filters, layer->group);
}

static bool lay_out_layer(surgery *self, int index, int value)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    if (esp_coupling_layer_follows(self->coupling, index)) {
        const channel_list *input = &self->kept[node->inputs[0]];
        channel_list *list = &self->kept[value];
        int64_t filters = layer->filters / layer->group;
        list->count = 0;
        for (int64_t i = 0; i < input->count; i += layer->channels) {
            for (int64_t f = 0; f < filters; f++)
                list->indices[list->count++] = input->indices[i] / layer->channels * filters + f;
        }
    } else {
        list_by_rank(self, value);
    }
    return surgery_fits_groups(self, index);
}

/* A node that was not followed needs its inputs as they were, unless it looks at their shapes only. */
static bool lay_out_wall(surgery *self, const esp_node *node)
{
    if ((node->op->flags & ESP_OP_SHAPE_ONLY) != 0)
        return true;
    for (int i = 0; i < node->input_count; i++) {
        int value = node->inputs[i];
        if (value >= 0 && surgery_has_channels(self, value) && !self->kept[value].is_identity)
            return false;
    }
    return true;
}

static bool lay_out_node(surgery *self, int index)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    int value = node->outputs[0];
    if (!esp_coupling_follows(self->coupling, index)) {
        for (int i = 0; i < node->output_count; i++) {
            if (node->outputs[i] >= 0 && surgery_has_channels(self, node->outputs[i]))
                list_by_rank(self, node->outputs[i]);
        }
        return lay_out_wall(self, node);
    }
    int layer_index = esp_coupling_layer_at(self->coupling, index);
    if (layer_index >= 0)
        return lay_out_layer(self, layer_index, value);
    if (node->op->rule == ESP_CHANNEL_TIE)
        return lay_out_tie(self, node, value);
    if (node->op->rule == ESP_CHANNEL_MOVE)
        return lay_out_move(self, index);
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && surgery_has_channels(self, node->outputs[i]))
            copy_list(self, node->inputs[0], node->outputs[i]);
    }
    int64_t groups = esp_node_int(node, "num_groups", 1);
    return node->op->rule != ESP_CHANNEL_GROUP ||
           has_whole_runs(&self->kept[value], esp_coupling_value(self->coupling, value).count / groups);
}

bool surgery_lay_out(surgery *self)
{
    for (int i = 0; i < esp_graph_input_count(self->graph); i++) {
        int value = esp_graph_input(self->graph, i);
        if (!surgery_has_channels(self, value))
            continue;
        list_by_rank(self, value);
        note_identity(&self->kept[value], esp_coupling_value(self->coupling, value).count);
    }
    bool is_valid = true;
    for (int i = 0; i < esp_graph_node_count(self->graph) && is_valid; i++) {
        const esp_node *node = esp_graph_node(self->graph, i);
        is_valid = lay_out_node(self, i);
        for (int k = 0; k < node->output_count && is_valid; k++) {
            int value = node->outputs[k];
            if (value >= 0 && surgery_has_channels(self, value))
                note_identity(&self->kept[value], esp_coupling_value(self->coupling, value).count);
        }
    }
    for (int i = 0; i < esp_graph_output_count(self->graph) && is_valid; i++) {
        int value = esp_graph_output(self->graph, i);
        is_valid = !surgery_has_channels(self, value) || self->kept[value].is_identity;
    }
    for (int i = 0; i < esp_graph_input_count(self->graph) && is_valid; i++) {
        int value = esp_graph_input(self->graph, i);
        is_valid = !surgery_has_channels(self, value) || self->kept[value].is_identity;
    }
    return is_valid;
}
