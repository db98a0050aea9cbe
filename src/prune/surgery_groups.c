/* Surgery, executed groups. The remaining filters of a layer fall into groups with equal mask rows over the
 * remaining channels (METHODS.md section 2). The grouped form writes filters group by group; so that nobody
 * has to restore the old order, the slots get ranks in that order and every writer of the coupled set
 * follows. A claim that does not fit (pinned channels, slices, another grouped layer came first) is taken
 * back: that layer then restores the order itself.
 *
 * Groups of a convolution that are equally large and read equally many channels, none of them twice, are an
 * ordinary Conv(group=g): there the input channels are ranked, too. */
#include "prune/surgery_internal.h"

#include <string.h>

#include "base/memory.h"

/* The columns of a layer that remain, as bits [row_words]. */
static void mark_columns(const channel_list *columns, const esp_mask *mask, uint64_t *words)
{
    memset(words, 0, (size_t)mask->row_words * sizeof *words);
    for (int64_t i = 0; i < columns->count; i++) {
        int64_t column = surgery_old_index(columns, i);
        words[column / 64] |= (uint64_t)1 << column % 64;
    }
}

static const uint64_t *row_of(const esp_mask *mask, int64_t filter)
{
    return mask->words + filter * mask->row_words;
}

static bool rows_agree(const esp_mask *mask, const uint64_t *columns, int64_t a, int64_t b)
{
    uint64_t differences = 0;
    for (int64_t w = 0; w < mask->row_words; w++)
        differences |= (row_of(mask, a)[w] ^ row_of(mask, b)[w]) & columns[w];
    return differences == 0;
}

static int64_t channels_read(const esp_mask *mask, const uint64_t *columns, int64_t filter)
{
    int64_t count = 0;
    for (int64_t w = 0; w < mask->row_words; w++)
        count += __builtin_popcountll(row_of(mask, filter)[w] & columns[w]);
    return count;
}

static void assign_groups(const esp_mask *mask, const channel_list *filters, const uint64_t *columns,
                          layer_cut *cut)
{
    for (int64_t f = 0; f < mask->filters; f++)
        cut->group_of[f] = -1;
    cut->group_count = 0;
    for (int64_t i = 0; i < filters->count; i++) {
        int64_t f = filters->indices[i];
        int group = 0;
        while (group < cut->group_count && !rows_agree(mask, columns, cut->first_filter[group], f))
            group++;
        if (group == cut->group_count)
            cut->first_filter[cut->group_count++] = f;
        cut->group_of[f] = group;
    }
}

/* Equal numbers of filters, equal numbers of channels, no channel in two groups. */
static bool groups_are_regular(const esp_mask *mask, const channel_list *filters,
                               const channel_list *channels, const uint64_t *columns, const layer_cut *cut)
{
    int64_t wanted = channels_read(mask, columns, cut->first_filter[0]);
    if (cut->group_count < 2 || wanted == 0 || filters->count % cut->group_count != 0)
        return false;
    for (int g = 0; g < cut->group_count; g++) {
        int64_t members = 0;
        for (int64_t i = 0; i < filters->count; i++)
            members += cut->group_of[filters->indices[i]] == g;
        if (members * cut->group_count != filters->count ||
            channels_read(mask, columns, cut->first_filter[g]) != wanted)
            return false;
    }
    for (int64_t i = 0; i < channels->count; i++) {
        int users = 0;
        for (int g = 0; g < cut->group_count; g++)
            users += esp_mask_get(mask, cut->first_filter[g], channels->indices[i]);
        if (users > 1)
            return false;
    }
    return true;
}

/* Only self-grouping asks for groups; a layer whose weight others use as well, or that was not followed,
 * stays dense. */
static bool may_be_grouped(const surgery *self, const esp_layer *layer)
{
    return self->wants_groups && layer->group == 1 &&
           !(layer->is_conv && layer->filter_axis > layer->channel_axis) && /* transposed: dense */
           esp_coupling_follows(self->coupling, layer->node) &&
           esp_graph_consumer_count(self->graph, layer->weight) == 1;
}

/* ---- dense or grouped ---- */

static void choose_form(surgery *self, int index, uint64_t *words)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_mask *mask = &self->masks[index];
    int output = esp_graph_node(self->graph, layer->node)->outputs[0];
    const channel_list *filters = surgery_kept(self, output);
    channel_list columns = surgery_columns(self, index);
    layer_cut *cut = &self->layer_cuts[index];
    int64_t count = surgery_has_channels(self, output) ? filters->count : layer->filters;
    int64_t connections = 0, grouped = 0;
    bool is_one_row = true;
    mark_columns(&columns, mask, words);
    for (int64_t i = 0; i < count; i++) {
        int64_t f = surgery_old_index(filters, i), read = channels_read(mask, words, f);
        connections += read;
        grouped += read > 0 ? read : 1; /* a group that reads nothing is given a column of zeros */
        is_one_row = is_one_row && rows_agree(mask, words, surgery_old_index(filters, 0), f);
    }
    cut->has_masks = connections < count * columns.count;
    /* where nothing is read at all a dense layer of zeros says the same as one group */
    cut->is_grouped = cut->has_masks && may_be_grouped(self, layer) && !(is_one_row && connections == 0);
    cut->has_masks = cut->has_masks && !cut->is_grouped;
    cut->live = connections * layer->kernel_positions;
    cut->stored = (cut->is_grouped ? grouped : count * columns.count) * layer->kernel_positions;
}

static esp_status make_columns(const surgery *self, uint64_t **out, esp_error *err)
{
    size_t most = 1;
    for (int i = 0; i < self->layers->count; i++)
        most = (size_t)self->masks[i].row_words > most ? (size_t)self->masks[i].row_words : most;
    *out = esp_alloc_zero(most, sizeof **out);
    return *out == NULL ? esp_fail_memory(err, "surgery", most * sizeof **out) : ESP_OK;
}

esp_status surgery_choose_forms(surgery *self, esp_error *err)
{
    uint64_t *words = NULL;
    esp_status status = make_columns(self, &words, err);
    for (int i = 0; status == ESP_OK && i < self->layers->count; i++)
        choose_form(self, i, words);
    esp_free(words);
    return status;
}

/* ---- groups ---- */

static esp_status find_in_layer(surgery *self, int index, uint64_t *words, esp_error *err)
{
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    const esp_mask *mask = &self->masks[index];
    const channel_list *filters = surgery_kept(self, node->outputs[0]);
    layer_cut *cut = &self->layer_cuts[index];
    const channel_list *channels = surgery_kept(self, node->inputs[0]);
    if (!cut->is_grouped)
        return ESP_OK;
    cut->group_of = esp_arena_alloc(self->arena, (size_t)layer->filters, sizeof *cut->group_of);
    cut->first_filter = esp_arena_alloc(self->arena, (size_t)layer->filters, sizeof *cut->first_filter);
    if (cut->group_of == NULL || cut->first_filter == NULL)
        return esp_fail_memory(err, "surgery", (size_t)layer->filters * sizeof *cut->first_filter);
    mark_columns(channels, mask, words);
    assign_groups(mask, filters, words, cut);
    cut->is_regular = layer->is_conv && groups_are_regular(mask, filters, channels, words, cut);
    return ESP_OK;
}

/* Ranks `count` slots in the given order when none of them has a rank yet and the layout stays valid. */
static void claim_order(surgery *self, const int32_t *slots, int64_t count, bool is_in_order)
{
    for (int64_t i = 0; i < count; i++) {
        if (self->rank[slots[i]] >= 0 || esp_coupling_pinned_by(self->coupling, slots[i]) != NULL)
            return;
    }
    if (is_in_order)
        return;
    for (int64_t i = 0; i < count; i++) {
        if (self->rank[slots[i]] < 0)
            self->rank[slots[i]] = (int32_t)i;
    }
    if (surgery_lay_out(self))
        return;
    for (int64_t i = 0; i < count; i++)
        self->rank[slots[i]] = -1;
    surgery_lay_out(self);
}

static void claim_output_order(surgery *self, int index, int32_t *slots)
{
    const layer_cut *cut = &self->layer_cuts[index];
    const esp_node *node = esp_graph_node(self->graph, self->layers->items[index].node);
    const channel_list *filters = surgery_kept(self, node->outputs[0]);
    const int32_t *writes = esp_coupling_writes(self->coupling, index);
    int64_t count = 0;
    bool is_in_order = true;
    for (int g = 0; g < cut->group_count; g++) {
        for (int64_t i = 0; i < filters->count; i++) {
            if (cut->group_of[filters->indices[i]] != g)
                continue;
            is_in_order = is_in_order && i == count;
            slots[count++] = writes[filters->indices[i]];
        }
    }
    claim_order(self, slots, count, is_in_order);
}

static void claim_input_order(surgery *self, int index, int32_t *slots)
{
    const layer_cut *cut = &self->layer_cuts[index];
    const esp_mask *mask = &self->masks[index];
    const esp_node *node = esp_graph_node(self->graph, self->layers->items[index].node);
    const channel_list *channels = surgery_kept(self, node->inputs[0]);
    const int32_t *reads = esp_coupling_reads(self->coupling, index);
    int64_t count = 0;
    bool is_in_order = true;
    for (int g = 0; g < cut->group_count; g++) {
        for (int64_t i = 0; i < channels->count; i++) {
            if (!esp_mask_get(mask, cut->first_filter[g], channels->indices[i]))
                continue;
            is_in_order = is_in_order && i == count;
            slots[count++] = reads[channels->indices[i]];
        }
    }
    if (count == channels->count) /* channels that nobody reads must be gathered away anyway */
        claim_order(self, slots, count, is_in_order);
}

esp_status surgery_find_groups(surgery *self, esp_error *err)
{
    uint64_t *words = NULL;
    int64_t longest = 1;
    esp_status status = make_columns(self, &words, err);
    for (int i = 0; status == ESP_OK && i < self->layers->count; i++) {
        const esp_layer *layer = &self->layers->items[i];
        longest = layer->channels > longest ? layer->channels : longest;
        longest = layer->filters > longest ? layer->filters : longest;
        status = find_in_layer(self, i, words, err);
    }
    int32_t *slots = status == ESP_OK ? esp_alloc_zero((size_t)longest, sizeof *slots) : NULL;
    if (status == ESP_OK && slots == NULL)
        status = esp_fail_memory(err, "surgery", (size_t)longest * sizeof *slots);
    for (int i = 0; status == ESP_OK && i < self->layers->count; i++) {
        if (self->layer_cuts[i].is_regular)
            claim_input_order(self, i, slots);
        if (self->layer_cuts[i].group_count > 1)
            claim_output_order(self, i, slots);
    }
    esp_free(slots);
    esp_free(words);
    return status;
}
