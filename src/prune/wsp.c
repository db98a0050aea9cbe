/* Pairs as published go by the order of the layers, not by the data flow: what a pair needs is only that the
 * reader has as many channels as the writer has filters, or a whole number of columns for each where a fully
 * connected layer reads flattened maps (channel c owns columns c*span to c*span + span - 1). is_sound says
 * where order and flow agree. */
#include "prune/wsp_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/flow.h"
#include "graph/op.h"
#include "prune/criteria.h"

/* ---- the list ---- */

static void pair_free(esp_wsp_pair *pair)
{
    esp_free(pair->filters);
    esp_free(pair->filter_l1);
    esp_free(pair->channel_l1);
    esp_free(pair->weak);
    esp_slot_choice_free(&pair->choice);
}

void esp_wsp_free(esp_wsp *wsp)
{
    if (!wsp)
        return;
    for (int i = 0; i < wsp->pair_count; i++)
        pair_free(&wsp->pairs[i]);
    esp_free(wsp->pairs);
    esp_free(wsp->left_out);
    *wsp = (esp_wsp){0};
}

esp_status wsp_note_left_out(esp_wsp *wsp, int writer, int reader, esp_reason reason, const char *why,
                             esp_error *err)
{
    size_t count = (size_t)wsp->left_out_count;
    esp_wsp_left_out *items = esp_realloc(wsp->left_out, count, count + 1, sizeof *items);

    if (!items)
        return esp_fail_memory(err, "a left out pair", (count + 1) * sizeof *items);
    items[count] = (esp_wsp_left_out){.writer = writer, .reader = reader, .reason = reason};
    snprintf(items[count].why, sizeof items[count].why, "%s", why);
    wsp->left_out = items;
    wsp->left_out_count++;
    return ESP_OK;
}

esp_status esp_wsp_leave_out(esp_wsp *wsp, int index, const char *why, esp_error *err)
{
    esp_status status = wsp_note_left_out(wsp, wsp->pairs[index].writer, wsp->pairs[index].reader,
                                          ESP_REASON_COUPLING, why, err);

    if (status != ESP_OK)
        return status;
    pair_free(&wsp->pairs[index]);
    wsp->pair_count--;
    memmove(&wsp->pairs[index], &wsp->pairs[index + 1],
            (size_t)(wsp->pair_count - index) * sizeof *wsp->pairs);
    return ESP_OK;
}

esp_status wsp_append(esp_wsp *wsp, int64_t channels, esp_wsp_pair **out, esp_error *err)
{
    esp_wsp_pair pair = {.set = -1, .channels = channels, .span = 1, .writer_count = 1, .reader_count = 1};
    size_t count = (size_t)channels;
    esp_status status = esp_slot_choice_new(channels, &pair.choice, err);

    if (status != ESP_OK)
        return status;

    pair.filters = esp_alloc_zero(count, sizeof *pair.filters);
    pair.filter_l1 = esp_alloc_zero(count, sizeof *pair.filter_l1);
    pair.channel_l1 = esp_alloc_zero(count, sizeof *pair.channel_l1);
    pair.weak = esp_alloc_zero(count, sizeof *pair.weak);
    if (!pair.filters || !pair.filter_l1 || !pair.channel_l1 || !pair.weak) {
        pair_free(&pair);
        return esp_fail_memory(err, "a pair of layers", count * sizeof *pair.filter_l1);
    }
    wsp->pairs[wsp->pair_count] = pair;
    *out = &wsp->pairs[wsp->pair_count++];
    return ESP_OK;
}

/* ---- pairs as published ---- */

/* Per value: whether a channel of it is a channel of a network output, with no layer between. */
static esp_status mark_outputs(const esp_graph *graph, const esp_layers *layers, const esp_flow *flow,
                               bool **out, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(graph), nodes = (size_t)esp_graph_node_count(graph);
    bool *is_output = esp_alloc_zero(values, sizeof *is_output);
    bool *ends = esp_alloc_zero(nodes, sizeof *ends); /* layers whose filters are channels of their own */

    if (!is_output || !ends) {
        esp_free(is_output);
        esp_free(ends);
        return esp_fail_memory(err, "network outputs", values * sizeof *is_output);
    }
    for (int l = 0; l < layers->count; l++)
        ends[layers->items[l].node] = layers->items[l].group == 1;
    for (int i = 0; i < esp_graph_output_count(graph); i++)
        is_output[esp_graph_output(graph, i)] = true;
    for (int n = esp_graph_node_count(graph) - 1; n >= 0; n--) {
        const esp_node *node = esp_graph_node(graph, n);
        bool leads_out = false;
        for (int i = 0; i < node->output_count; i++)
            leads_out = leads_out || (node->outputs[i] >= 0 && is_output[node->outputs[i]]);
        for (int i = 0; leads_out && !ends[n] && esp_flow_passes(flow, node) && i < node->input_count; i++)
            if (esp_flow_is_data(flow, node->inputs[i]))
                is_output[node->inputs[i]] = true;
    }
    esp_free(ends);
    *out = is_output;
    return ESP_OK;
}

/* The one node that works on a value, shapes not counted; NULL when there are none or several. */
static const esp_node *only_consumer(const esp_graph *graph, int value)
{
    const esp_node *only = NULL;

    if (esp_graph_is_output(graph, value))
        return NULL;
    for (int i = 0; i < esp_graph_consumer_count(graph, value); i++) {
        const esp_node *node = esp_graph_node(graph, esp_graph_consumer(graph, value, i));
        if (node->op->flags & ESP_OP_SHAPE_ONLY)
            continue;
        if (only)
            return NULL;
        only = node;
    }
    return only;
}

/* Whether all that the writer writes goes to the reader alone, on one way. */
static bool is_one_path(const esp_graph *graph, const esp_flow *flow, const esp_layer *writer,
                        const esp_layer *reader)
{
    const esp_node *goal = esp_graph_node(graph, reader->node);
    int value = esp_graph_node(graph, writer->node)->outputs[0];

    for (const esp_node *node = only_consumer(graph, value); node;
         node = only_consumer(graph, node->outputs[0])) {
        if (node == goal)
            return true;
        if (node->op->rule == ESP_CHANNEL_CUT || esp_flow_input_count(flow, node) != 1 ||
            node->outputs[0] < 0)
            return false;
    }
    return false;
}

/* Reader columns per filter of the writer; 0 when the sizes do not fit, and then `why` (of `size`) says so.
 */
static int64_t find_span(const esp_layer *writer, const esp_layer *reader, char *why, size_t size)
{
    bool is_border = writer->is_conv && !reader->is_conv;

    if (writer->filters == 0)
        snprintf(why, size, "it has no filters");
    else if (!writer->is_conv && reader->is_conv)
        snprintf(why, size, "a convolution follows a fully connected layer");
    else if (reader->channels == writer->filters)
        return 1;
    else if (is_border && reader->channels % writer->filters == 0 &&
             reader->channels / writer->filters <= writer->positions)
        return reader->channels / writer->filters;
    else
        snprintf(why, size, "%lld filters, but '%.40s' reads %lld channels", (long long)writer->filters,
                 reader->name, (long long)reader->channels);
    return 0;
}

static esp_status add_pair(esp_wsp *wsp, const esp_layers *layers, const esp_layer_l1 *norms, int writer,
                           int reader, esp_error *err)
{
    const esp_layer *from = &layers->items[writer], *to = &layers->items[reader];
    esp_wsp_pair *pair;
    char why[96];
    int64_t span = find_span(from, to, why, sizeof why);
    esp_status status;

    if (!norms[writer].filters || !norms[reader].channels)
        return wsp_note_left_out(wsp, writer, reader, ESP_REASON_UNCUTTABLE,
                                 "its weight or its reader's is not stored in the model", err);
    if (!span)
        return wsp_note_left_out(wsp, writer, reader, ESP_REASON_METHOD, why, err);
    status = wsp_append(wsp, from->filters, &pair, err);
    if (status != ESP_OK)
        return status;
    pair->writer = writer;
    pair->reader = reader;
    pair->span = span;
    for (int64_t c = 0; c < pair->channels; c++) {
        pair->filters[c] = (int32_t)c;
        pair->filter_l1[c] = norms[writer].filters[c];
        for (int64_t column = c * span; column < (c + 1) * span; column++)
            pair->channel_l1[c] += norms[reader].channels[column];
    }
    return ESP_OK;
}

/* Shortcuts and grouped layers take no part. */
static bool is_paired(const esp_layer *layer)
{
    return layer->role != ESP_ROLE_SHORTCUT && layer->role != ESP_ROLE_GROUPED;
}

/* All pairs; the list has room for one per layer. */
static esp_status fill_pairs(const esp_graph *graph, const esp_layers *layers, const esp_layer_l1 *norms,
                             const esp_flow *flow, const bool *is_output, esp_wsp *wsp, esp_error *err)
{
    int writer = -1, count = 0;
    esp_status status = ESP_OK;

    for (int l = 0; status == ESP_OK && l < layers->count; l++) {
        if (!is_paired(&layers->items[l]))
            continue;
        count = wsp->pair_count;
        if (writer >= 0 && is_output[esp_graph_node(graph, layers->items[writer].node)->outputs[0]])
            status = wsp_note_left_out(wsp, writer, -1, ESP_REASON_UNCUTTABLE,
                                       "network output: its filters stay", err);
        else if (writer >= 0)
            status = add_pair(wsp, layers, norms, writer, l, err);
        if (wsp->pair_count > count)
            wsp->pairs[count].is_sound = is_one_path(graph, flow, &layers->items[writer], &layers->items[l]);
        writer = l;
    }
    if (status == ESP_OK && writer >= 0)
        status = wsp_note_left_out(wsp, writer, -1, ESP_REASON_UNCUTTABLE,
                                   is_output[esp_graph_node(graph, layers->items[writer].node)->outputs[0]]
                                       ? "network output: its filters stay"
                                       : "no layer follows",
                                   err);
    return status;
}

esp_status esp_wsp_pairs_from(const esp_graph *graph, const esp_layers *layers, const esp_layer_l1 *norms,
                              esp_wsp *out, esp_error *err)
{
    esp_wsp wsp = {0};
    esp_flow flow = {0};
    bool *is_output = NULL;
    esp_status status;

    *out = (esp_wsp){0};
    status = esp_flow_new(graph, &flow, err);
    if (status == ESP_OK)
        status = mark_outputs(graph, layers, &flow, &is_output, err);
    if (status != ESP_OK)
        goto done;
    wsp.pairs = esp_alloc_zero((size_t)layers->count, sizeof *wsp.pairs);
    status = wsp.pairs ? fill_pairs(graph, layers, norms, &flow, is_output, &wsp, err)
                       : esp_fail_memory(err, "pairs of layers", (size_t)layers->count * sizeof *wsp.pairs);

done:
    esp_flow_free(&flow);
    esp_free(is_output);
    if (status == ESP_OK)
        *out = wsp;
    else
        esp_wsp_free(&wsp);
    return status;
}

esp_status esp_wsp_pairs(const esp_graph *graph, const esp_layers *layers, const esp_mask *masks,
                         esp_wsp *out, esp_error *err)
{
    size_t count = (size_t)layers->count;
    esp_layer_l1 *norms = esp_alloc_zero(count, sizeof *norms);
    bool *is_wanted = esp_alloc(count, sizeof *is_wanted);
    esp_status status = ESP_OK;

    *out = (esp_wsp){0};
    if (!norms || !is_wanted)
        status = esp_fail_memory(err, "pairs of layers", count * sizeof *norms);
    for (int l = 0; status == ESP_OK && l < layers->count; l++)
        is_wanted[l] = is_paired(&layers->items[l]);
    if (status == ESP_OK)
        status = esp_layers_l1(NULL, graph, layers, masks, is_wanted, norms, err);
    if (status == ESP_OK)
        status = esp_wsp_pairs_from(graph, layers, norms, out, err);

    for (int l = 0; norms && l < layers->count; l++)
        esp_layer_l1_free(&norms[l]);
    esp_free(norms);
    esp_free(is_wanted);
    return status;
}

/* ---- selection ---- */

/* As published: NumPy's percentile, whatever it rounds. */
static double threshold_of(const esp_wsp_pair *pair, const double *scores, double *scratch)
{
    memcpy(scratch, scores, (size_t)pair->channels * sizeof *scratch);
    return pair->set < 0 ? esp_percentile(scratch, pair->channels, esp_percent_of(pair->ratio))
                         : esp_ratio_threshold(scratch, pair->channels, pair->ratio);
}

void wsp_mark_weak(esp_wsp_pair *pair)
{
    pair->weak_count = 0;
    for (int64_t c = 0; c < pair->channels; c++) { /* strict '<': ties stay, as published */
        bool is_weak =
            pair->filter_l1[c] < pair->filter_threshold && pair->channel_l1[c] < pair->channel_threshold;
        if (pair->choice.fates)
            pair->choice.fates[c] = is_weak ? ESP_FATE_GOES : ESP_FATE_STAYS;
        if (is_weak)
            pair->weak[pair->weak_count++] = (int32_t)c;
    }
    pair->choice.ranked = pair->weak_count;
    pair->choice.floored = pair->choice.rounded = 0;
}

esp_status esp_wsp_select(esp_wsp_pair *pair, esp_error *err)
{
    double *scratch;

    if (!(pair->ratio >= 0 && pair->ratio < 1))
        return esp_fail(err, ESP_INVALID, "weak sub-network: ratio is %g, expected a number in [0, 1)",
                        pair->ratio);
    scratch = esp_alloc((size_t)pair->channels, sizeof *scratch);
    if (!scratch)
        return esp_fail_memory(err, "a pair of layers", (size_t)pair->channels * sizeof *scratch);
    pair->filter_threshold = threshold_of(pair, pair->filter_l1, scratch);
    pair->channel_threshold = threshold_of(pair, pair->channel_l1, scratch);
    esp_free(scratch);
    wsp_mark_weak(pair);
    return ESP_OK;
}

void esp_wsp_apply(const esp_wsp *wsp, esp_mask *masks)
{
    for (int i = 0; i < wsp->pair_count; i++) {
        const esp_wsp_pair *pair = &wsp->pairs[i];
        for (int64_t w = 0; pair->set < 0 && w < pair->weak_count; w++) {
            int64_t first = pair->weak[w] * pair->span;
            esp_mask_clear_filter(&masks[pair->writer], pair->weak[w]);
            for (int64_t column = first; column < first + pair->span; column++)
                esp_mask_clear_channel(&masks[pair->reader], column);
        }
    }
}
