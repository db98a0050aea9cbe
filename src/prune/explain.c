/* An explanation is written as JSON once and printed from it, so that the command line, Lua and the workbench
 * cannot say different things. */
#include "prune/explain_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "graph/op.h"

/* ---- writing ---- */

void explain_set(explanation *self, const char *key, json_t *take_value)
{
    if (!take_value || json_object_set_new(self->object, key, take_value) != 0)
        self->is_broken = true;
}

void explain_text(explanation *self, const char *key, const char *format, ...)
{
    char text[320];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    explain_set(self, key, preview_json_text(text));
}

static void append(explanation *self, json_t *list, json_t *take_item)
{
    if (!take_item || json_array_append_new(list, take_item) != 0)
        self->is_broken = true;
}

static json_t *list_at(explanation *self, const char *key)
{
    if (!json_object_get(self->object, key))
        explain_set(self, key, json_array());
    return json_object_get(self->object, key);
}

void explain_score(explanation *self, const char *name, const double *scores, int64_t count, int64_t place,
                   double threshold)
{
    int64_t lower = 0;

    for (int64_t i = 0; i < count; i++)
        lower += scores[i] < scores[place];
    append(self, list_at(self, "scores"),
           json_pack("{s:s, s:f, s:o, s:I, s:I, s:f, s:b}", "name", name, "value", scores[place], "threshold",
                     isfinite(threshold) ? json_real(threshold) : json_null(), "rank", (json_int_t)lower,
                     "of", (json_int_t)count, "percentile",
                     count > 1 ? 100.0 * (double)lower / (double)(count - 1) : 0.0, "is_below",
                     (int)(scores[place] < threshold)));
}

/* Positions where `slot` stands; NULL when it stands nowhere. */
static json_t *positions_of(explanation *self, const int32_t *slots, int64_t count, int32_t slot)
{
    json_t *list = NULL;

    for (int64_t i = 0; slots && i < count; i++) {
        if (slots[i] != slot)
            continue;
        list = list ? list : json_array();
        append(self, list, json_integer(i));
    }
    return list;
}

static void add_partner(explanation *self, int layer, const char *role, json_t *take_channels)
{
    if (take_channels)
        append(self, list_at(self, "partners"),
               json_pack("{s:s, s:s, s:o}", "layer", self->preview->layers.items[layer].name, "role", role,
                         "channels", take_channels));
}

static bool holds(const esp_value_slots *value, int32_t slot)
{
    for (int64_t c = 0; value->axis >= 0 && c < value->count; c++)
        if (value->slots[c] == slot)
            return true;
    return false;
}

/* Nodes that work on several values with the slot: an addition, a product, a concatenation. */
static void add_ties(explanation *self, int32_t slot)
{
    const esp_coupling *coupling = self->preview->subject->coupling;
    char text[256];

    for (int n = 0; n < esp_graph_node_count(self->preview->graph); n++) {
        const esp_node *node = esp_graph_node(self->preview->graph, n);
        int inputs = 0;
        if (node->op->rule != ESP_CHANNEL_TIE || !esp_coupling_follows(coupling, n))
            continue;
        for (int i = 0; i < node->input_count; i++) {
            esp_value_slots value = {.axis = -1};
            if (node->inputs[i] >= 0)
                value = esp_coupling_value(coupling, node->inputs[i]);
            inputs += holds(&value, slot);
        }
        if (inputs < 2)
            continue;
        snprintf(text, sizeof text, "%s (%s)", node->name, node->op->name);
        append(self, list_at(self, "tied_by"), preview_json_text(text));
    }
}

void explain_slot(explanation *self, int32_t slot)
{
    const esp_coupling *coupling = self->preview->subject->coupling;
    const esp_layers *layers = &self->preview->layers;
    int set = esp_coupling_slot_set(coupling, slot);

    if (set >= 0)
        explain_set(self, "set", json_integer(set));
    for (int l = 0; l < layers->count; l++) {
        const char *role = esp_coupling_layer_follows(coupling, l) ? "follows" : "writes";
        add_partner(self, l, role,
                    positions_of(self, esp_coupling_writes(coupling, l), layers->items[l].filters, slot));
        add_partner(self, l, "reads",
                    positions_of(self, esp_coupling_reads(coupling, l), layers->items[l].channels, slot));
    }
    add_ties(self, slot);
}

esp_status esp_preview_explain(const esp_preview *preview, int layer, int64_t channel, json_t **out,
                               esp_error *err)
{
    explanation self = {.preview = preview, .layer = layer, .channel = channel};
    const esp_plan *plan = &preview->plan;
    esp_status status;

    *out = NULL;
    if (layer < 0 || layer >= preview->layers.count)
        return esp_fail(err, ESP_INVALID, "explain: layer %d, expected 0 to %d", layer,
                        preview->layers.count - 1);
    const esp_layer *it = &preview->layers.items[layer];
    if (channel < 0 || channel >= it->filters)
        return esp_fail(err, ESP_INVALID, "layer '%s': channel %lld, expected 0 to %lld", it->name,
                        (long long)channel, (long long)it->filters - 1);
    self.object = json_pack("{s:s, s:s, s:I, s:I, s:s, s:b, s:[], s:[], s:[]}", "layer", it->name, "weight",
                            it->weight_name, "channel", (json_int_t)channel, "filters",
                            (json_int_t)it->filters, "method", esp_method_word(plan->method), "stays",
                            (int)esp_mask_filter_is_live(&preview->items[layer].mask, channel), "scores",
                            "partners", "tied_by");
    if (!self.object)
        return esp_fail(err, ESP_INVALID, "explain: a layer's name is not valid UTF-8");
    if (plan->method != ESP_METHOD_FILTER)
        explain_set(&self, "mode", json_string(esp_mode_word(plan->mode)));
    status = plan->method == ESP_METHOD_SG ? explain_groups(&self, err) : explain_slots(&self, err);
    if (status == ESP_OK && self.is_broken)
        status = esp_fail(err, ESP_INVALID, "explain: a name is not valid UTF-8, or no memory");
    if (status == ESP_OK)
        *out = self.object;
    else
        json_decref(self.object);
    return status;
}

/* ---- printing ---- */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* "0-3,7", at most a dozen runs. */
static void print_runs(const json_t *list, esp_text *out)
{
    size_t count = json_array_size(list), runs = 0;

    for (size_t i = 0; i < count; i++) {
        json_int_t first = json_integer_value(json_array_get(list, i)), last = first;
        while (i + 1 < count && json_integer_value(json_array_get(list, i + 1)) == last + 1) {
            last++;
            i++;
        }
        if (runs++ == 12) {
            esp_text_append(out, ",...");
            return;
        }
        esp_text_printf(out, last > first ? "%s%lld-%lld" : "%s%lld", runs > 1 ? "," : "", (long long)first,
                        (long long)last);
    }
}

static void print_scores(const json_t *object, esp_text *out)
{
    size_t index;
    const json_t *score;

    json_array_foreach(json_object_get(object, "scores"), index, score)
    {
        const json_t *threshold = json_object_get(score, "threshold");
        esp_text_printf(out, "  %-12s %.6g, ", text_of(score, "name"), number_of(score, "value"));
        if (json_is_number(threshold))
            esp_text_printf(out, "%s the threshold %.6g, ",
                            json_is_true(json_object_get(score, "is_below")) ? "below" : "not below",
                            json_number_value(threshold));
        esp_text_printf(out, "%lld of %lld are lower (percentile %.1f)\n",
                        (long long)number_of(score, "rank"), (long long)number_of(score, "of"),
                        number_of(score, "percentile"));
    }
}

static void print_writers(const json_t *object, esp_text *out)
{
    size_t index;
    const json_t *writer;

    json_array_foreach(json_object_get(object, "writers"), index, writer)
    {
        const json_t *score = json_object_get(writer, "score");
        if (json_is_number(score))
            esp_text_printf(out, "  %-12s %.6g in '%s', whose mean is %.6g%s\n", text_of(object, "criterion"),
                            json_number_value(score), text_of(writer, "layer"), number_of(writer, "mean"),
                            json_is_true(json_object_get(object, "compares_layers")) ? ": compared as it is"
                                                                                     : "");
        else
            esp_text_printf(out, "  %-12s says nothing of '%s'\n", text_of(object, "criterion"),
                            text_of(writer, "layer"));
    }
}

static void print_partner(const json_t *item, esp_text *out)
{
    bool reads = strcmp(text_of(item, "role"), "reads") == 0;

    esp_text_printf(out, "  %-12s %s %s ", text_of(item, "role"), text_of(item, "layer"),
                    reads ? "columns" : "filters");
    print_runs(json_object_get(item, "channels"), out);
    esp_text_append(out, "\n");
}

static void print_partners(const json_t *object, esp_text *out)
{
    static const char *const roles[] = {"writes", "follows", "reads"};
    const json_t *ties = json_object_get(object, "tied_by"), *item;
    size_t index;

    for (size_t r = 0; r < sizeof roles / sizeof *roles; r++)
        json_array_foreach(json_object_get(object, "partners"), index,
                           item) if (strcmp(text_of(item, "role"), roles[r]) == 0) print_partner(item, out);
    json_array_foreach(ties, index, item)
        esp_text_printf(out, "%s%s", index ? ", " : "  tied by      ", json_string_value(item));
    if (json_array_size(ties))
        esp_text_append(out, "\n");
}

static void print_channels(const json_t *object, esp_text *out)
{
    const json_t *channels = json_object_get(object, "channels"), *item;
    size_t index;

    if (!channels)
        return;
    esp_text_printf(out, "  group        %lld, with %zu filters: ", (long long)number_of(object, "group"),
                    json_array_size(json_object_get(object, "members")));
    print_runs(json_object_get(object, "members"), out);
    esp_text_printf(out, "\n  threshold    %.6g, %lld of %zu channels are kept\n",
                    number_of(object, "threshold"), (long long)number_of(object, "channels_kept"),
                    json_array_size(channels));
    esp_text_append(out, "  channel     centroid   importance\n");
    json_array_foreach(channels, index, item)
        esp_text_printf(out, "  %7lld %12.6g %12.6g  %s\n", (long long)number_of(item, "channel"),
                        number_of(item, "centroid"), number_of(item, "importance"), text_of(item, "state"));
}

esp_status esp_explain_print(const json_t *told, esp_text *out, esp_error *err)
{
    const json_t *pair = json_object_get(told, "pair");
    const char *mode = text_of(told, "mode"), *change = text_of(told, "change");

    esp_text_printf(out, "%s, filter %lld of %lld: %s\n", text_of(told, "layer"),
                    (long long)number_of(told, "channel"), (long long)number_of(told, "filters"),
                    json_is_true(json_object_get(told, "stays")) ? "stays" : "goes");
    esp_text_printf(out, "  %s%s%s, asked %.4g %%\n", text_of(told, "method"), mode[0] ? " " : "", mode,
                    100 * number_of(told, "asked"));
    esp_text_printf(out, "  why          %s\n", text_of(told, "why"));
    if (change[0])
        esp_text_printf(out, "  change       %s\n", change);
    print_scores(told, out);
    print_writers(told, out);
    if (pair)
        esp_text_printf(out, "  pair         %s -> %s, in the order of the layers, as published\n",
                        text_of(pair, "writer"), text_of(pair, "reader"));
    print_partners(told, out);
    print_channels(told, out);
    return out->is_broken ? esp_fail_memory(err, "an told", out->length) : ESP_OK;
}
