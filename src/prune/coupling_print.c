/* Coupled sets as text and as JSON: what can be cut and why the rest cannot; then per set its size, who
 * writes and reads it, the nodes that tie it, and which channels of which tensors it holds. */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "prune/coupling_internal.h"

static const char *layer_name(const esp_coupling *coupling, int layer)
{
    return coupling->layers->items[layer].name;
}

/* The coupling with what printing asks of it over and over: which values have channels in which set. */
typedef struct listing {
    const esp_coupling *coupling;
    size_t words;   /* per value */
    uint64_t *bits; /* [values, words] */
    bool *is_seen;  /* per slot; all false between calls */
} listing;

static esp_status listing_open(const esp_coupling *coupling, listing *out, esp_error *err)
{
    size_t values = (size_t)esp_graph_value_count(coupling->graph), limit = (size_t)coupling->slot_limit;
    listing self = {.coupling = coupling, .words = (size_t)coupling->set_count / 64 + 1};
    self.bits = esp_alloc_zero(values * self.words, sizeof *self.bits);
    self.is_seen = esp_alloc_zero(limit, sizeof *self.is_seen);
    if (self.bits == NULL || self.is_seen == NULL) {
        esp_free(self.bits);
        esp_free(self.is_seen);
        return esp_fail_memory(err, "the list of coupled sets", values * self.words * sizeof *self.bits);
    }
    for (size_t v = 0; v < values; v++) {
        const coupling_value *item = &coupling->values[v];
        for (int64_t i = 0; item->axis >= 0 && i < item->count; i++) {
            size_t set = (size_t)coupling->slot_set[item->slots[i]];
            self.bits[v * self.words + set / 64] |= (uint64_t)1 << set % 64;
        }
    }
    *out = self;
    return ESP_OK;
}

static void listing_close(listing *self)
{
    esp_free(self->bits);
    esp_free(self->is_seen);
}

static bool holds(const listing *list, int value, int set)
{
    return (list->bits[(size_t)value * list->words + (size_t)set / 64] >> set % 64 & 1) != 0;
}

/* A layer whose filters go with the set's channels, though it is no writer of them. */
static bool is_follower(const esp_coupling *coupling, int layer, int set)
{
    const int32_t *writes = coupling->writes[layer];
    for (int64_t f = 0; coupling->follows_input[layer] && f < coupling->layers->items[layer].filters; f++) {
        if (coupling->slot_set[writes[f]] == set)
            return true;
    }
    return false;
}

/* A node that is no layer of one group, and makes channels of the set from other channels of it. */
static bool is_tie(const listing *list, int index, int set)
{
    const esp_coupling *coupling = list->coupling;
    const esp_node *node = esp_graph_node(coupling->graph, index);
    int layer = coupling->layer_of_node[index];
    bool is_tying = node->op->rule == ESP_CHANNEL_TIE || node->op->rule == ESP_CHANNEL_MOVE ||
                    node->op->rule == ESP_CHANNEL_GROUP ||
                    (layer >= 0 && coupling->layers->items[layer].group > 1);
    if (!is_tying || !coupling->is_followed[index])
        return false;
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && holds(list, node->outputs[i], set))
            return true;
    }
    for (int i = 0; layer >= 0 && i < node->input_count; i++) { /* channels of its groups */
        if (node->inputs[i] >= 0 && holds(list, node->inputs[i], set))
            return true;
    }
    return false;
}

/* Channels of a value in a set, and how many different slots they are. */
static int64_t count_channels(const esp_coupling *coupling, int value, int set, bool *is_seen, int64_t *slots)
{
    const coupling_value *item = &coupling->values[value];
    int64_t channels = 0;
    *slots = 0;
    for (int64_t i = 0; i < item->count; i++) {
        if (coupling->slot_set[item->slots[i]] != set)
            continue;
        channels++;
        *slots += !is_seen[item->slots[i]];
        is_seen[item->slots[i]] = true;
    }
    for (int64_t i = 0; i < item->count; i++)
        is_seen[item->slots[i]] = false;
    return channels;
}

/* The run of channels of a value that begins at or after `first` and lies in a set; false when there is none.
 */
static bool next_run(const esp_coupling *coupling, int value, int set, int64_t *first, int64_t *last)
{
    const coupling_value *item = &coupling->values[value];
    while (*first < item->count && coupling->slot_set[item->slots[*first]] != set)
        (*first)++;
    *last = *first;
    while (*last + 1 < item->count && coupling->slot_set[item->slots[*last + 1]] == set)
        (*last)++;
    return *first < item->count;
}

/* ---- what can be cut ---- */

esp_coupling_totals esp_coupling_count(const esp_coupling *coupling)
{
    esp_coupling_totals totals = {0};
    for (int i = 0; i < coupling->set_count; i++) {
        const esp_coupled_set *set = &coupling->sets[i];
        totals.slots += set->writer_count > 0 ? set->slot_count : 0;
        totals.cuttable += set->writer_count > 0 && set->pinned_by == NULL ? set->slot_count : 0;
    }
    return totals;
}

/* The next reason, in order of first appearance, among sets that layers write; `*slots` are pinned by it. */
static const char *next_reason(const esp_coupling *coupling, int *index, int64_t *slots)
{
    for (; *index < coupling->set_count; (*index)++) {
        const esp_coupled_set *set = &coupling->sets[*index];
        bool is_new = set->pinned_by != NULL && set->writer_count > 0;
        for (int k = 0; k < *index && is_new; k++)
            is_new = coupling->sets[k].writer_count == 0 || coupling->sets[k].pinned_by == NULL ||
                     strcmp(coupling->sets[k].pinned_by, set->pinned_by) != 0;
        if (!is_new)
            continue;
        *slots = 0;
        for (int k = *index; k < coupling->set_count; k++) {
            const esp_coupled_set *other = &coupling->sets[k];
            bool is_same = other->pinned_by != NULL && strcmp(other->pinned_by, set->pinned_by) == 0;
            *slots += is_same && other->writer_count > 0 ? other->slot_count : 0;
        }
        (*index)++;
        return set->pinned_by;
    }
    return NULL;
}

/* ---- text ---- */

static void print_layers(const esp_coupling *coupling, const char *title, int count, const int *layers,
                         esp_text *out)
{
    if (count == 0)
        return;
    esp_text_printf(out, "  %s ", title);
    for (int i = 0; i < count; i++)
        esp_text_printf(out, "%s%s", i > 0 ? ", " : "", layer_name(coupling, layers[i]));
    esp_text_append(out, "\n");
}

static void print_followers(const esp_coupling *coupling, int set, esp_text *out)
{
    const char *separator = "  followed by ";
    for (int i = 0; i < coupling->layers->count; i++) {
        if (!is_follower(coupling, i, set))
            continue;
        esp_text_printf(out, "%s%s", separator, layer_name(coupling, i));
        separator = ", ";
    }
    if (separator[0] == ',')
        esp_text_append(out, "\n");
}

static void print_ties(const listing *list, int set, esp_text *out)
{
    const esp_coupling *coupling = list->coupling;
    const char *separator = "  tied by ";
    for (int i = 0; i < esp_graph_node_count(coupling->graph); i++) {
        const esp_node *node = esp_graph_node(coupling->graph, i);
        if (!is_tie(list, i, set))
            continue;
        esp_text_printf(out, "%s%s (%s)", separator, node->name, node->op->name);
        separator = ", ";
    }
    for (int i = 0; i < coupling->layers->count; i++) {
        const esp_layer *layer = &coupling->layers->items[i];
        int value = esp_graph_node(coupling->graph, layer->node)->outputs[0];
        if (esp_graph_consumer_count(coupling->graph, layer->weight) < 2 || !holds(list, value, set))
            continue;
        esp_text_printf(out, "%sweight %s of %s", separator, layer->weight_name, layer->name);
        separator = ", ";
    }
    if (separator[0] == ',')
        esp_text_append(out, "\n");
}

/* "relu1[0-15,32]", and how many channels of it are one slot. */
static void print_positions(const esp_coupling *coupling, int value, int set, bool *is_seen, esp_text *out)
{
    const char *separator = "[";
    int64_t slots, last, channels = count_channels(coupling, value, set, is_seen, &slots);
    esp_text_append(out, esp_graph_value(coupling->graph, value)->name);
    for (int64_t first = 0; next_run(coupling, value, set, &first, &last); first = last + 1) {
        esp_text_printf(out, last > first ? "%s%lld-%lld" : "%s%lld", separator, (long long)first,
                        (long long)last);
        separator = ",";
    }
    esp_text_append(out, "]");
    if (channels > slots && channels % slots == 0)
        esp_text_printf(out, " (%lld in each)", (long long)(channels / slots));
}

static void print_set(const listing *list, int index, esp_text *out)
{
    const esp_coupling *coupling = list->coupling;
    const esp_coupled_set *set = &coupling->sets[index];
    esp_text_printf(out, "set %d: %lld channels, ", index, (long long)set->slot_count);
    if (set->pinned_by != NULL)
        esp_text_printf(out, "pinned: %s\n", set->pinned_by);
    else
        esp_text_append(out, set->writer_count == 0 ? "free (written by no layer)\n" : "free\n");
    print_layers(coupling, "written by", set->writer_count, set->writers, out);
    print_layers(coupling, "read by", set->reader_count, set->readers, out);
    print_followers(coupling, index, out);
    print_ties(list, index, out);
    const char *separator = "  tensors ";
    for (int value = 0; value < esp_graph_value_count(coupling->graph); value++) {
        if (!holds(list, value, index))
            continue;
        esp_text_append(out, separator);
        print_positions(coupling, value, index, list->is_seen, out);
        separator = ", ";
    }
    if (separator[0] == ',')
        esp_text_append(out, "\n");
}

esp_status esp_coupling_print(const esp_coupling *coupling, esp_text *out, esp_error *err)
{
    listing list;
    esp_coupling_totals totals = esp_coupling_count(coupling);
    int64_t slots = 0;
    int next = 0;
    esp_status status = listing_open(coupling, &list, err);
    if (status != ESP_OK)
        return status;
    esp_text_printf(out, "%lld of %lld channel slots that layers write can be cut\n",
                    (long long)totals.cuttable, (long long)totals.slots);
    for (const char *reason; (reason = next_reason(coupling, &next, &slots)) != NULL;)
        esp_text_printf(out, "  %lld stay: %s\n", (long long)slots, reason);
    esp_text_append(out, "\n");
    for (int i = 0; i < coupling->set_count; i++)
        print_set(&list, i, out);
    listing_close(&list);
    return out->is_broken ? esp_fail_memory(err, "the list of coupled sets", out->length) : ESP_OK;
}

/* ---- JSON ---- */

static json_t *layers_json(const esp_coupling *coupling, int count, const int *layers)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, esp_json_text(layer_name(coupling, layers[i])));
    return list;
}

static json_t *followers_json(const esp_coupling *coupling, int set)
{
    json_t *list = json_array();
    for (int i = 0; i < coupling->layers->count; i++) {
        if (is_follower(coupling, i, set))
            json_array_append_new(list, esp_json_text(layer_name(coupling, i)));
    }
    return list;
}

static json_t *ties_json(const listing *list, int set)
{
    const esp_coupling *coupling = list->coupling;
    json_t *ties = json_array();
    for (int i = 0; i < esp_graph_node_count(coupling->graph); i++) {
        const esp_node *node = esp_graph_node(coupling->graph, i);
        if (is_tie(list, i, set))
            json_array_append_new(ties, json_pack("{s:o, s:o}", "node", esp_json_text(node->name), "operator",
                                                  esp_json_text(node->op->name)));
    }
    return ties;
}

static json_t *tensor_json(const esp_coupling *coupling, int value, int set, bool *is_seen)
{
    json_t *runs = json_array();
    int64_t slots, last, channels = count_channels(coupling, value, set, is_seen, &slots);
    for (int64_t first = 0; next_run(coupling, value, set, &first, &last); first = last + 1)
        json_array_append_new(runs, json_pack("[I,I]", (json_int_t)first, (json_int_t)last));
    return json_pack("{s:o, s:i, s:o, s:I, s:I}", "name",
                     esp_json_text(esp_graph_value(coupling->graph, value)->name), "axis",
                     coupling->values[value].axis, "runs", runs, "channels", (json_int_t)channels, "slots",
                     (json_int_t)slots);
}

static json_t *set_json(const listing *list, int index)
{
    const esp_coupling *coupling = list->coupling;
    const esp_coupled_set *set = &coupling->sets[index];
    json_t *tensors = json_array();
    for (int value = 0; value < esp_graph_value_count(coupling->graph); value++) {
        if (holds(list, value, index))
            json_array_append_new(tensors, tensor_json(coupling, value, index, list->is_seen));
    }
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "channels", (json_int_t)set->slot_count,
                     "written_by", layers_json(coupling, set->writer_count, set->writers), "read_by",
                     layers_json(coupling, set->reader_count, set->readers), "followed_by",
                     followers_json(coupling, index), "tied_by", ties_json(list, index), "tensors", tensors,
                     "pinned_by", set->pinned_by != NULL ? esp_json_text(set->pinned_by) : json_null());
}

esp_status esp_coupling_to_json(const esp_coupling *coupling, json_t **out, esp_error *err)
{
    listing list;
    esp_coupling_totals totals = esp_coupling_count(coupling);
    int64_t slots = 0;
    int next = 0;
    *out = NULL;
    esp_status status = listing_open(coupling, &list, err);
    if (status != ESP_OK)
        return status;
    json_t *sets = json_array(), *pinned = json_array();
    for (int i = 0; i < coupling->set_count; i++)
        json_array_append_new(sets, set_json(&list, i));
    for (const char *reason; (reason = next_reason(coupling, &next, &slots)) != NULL;)
        json_array_append_new(
            pinned, json_pack("{s:o, s:I}", "reason", esp_json_text(reason), "slots", (json_int_t)slots));
    listing_close(&list);
    *out = json_pack("{s:I, s:I, s:o, s:o}", "slots", (json_int_t)totals.slots, "cuttable",
                     (json_int_t)totals.cuttable, "pinned", pinned, "sets", sets);
    return *out != NULL ? ESP_OK : esp_fail_memory(err, "the list of coupled sets", 0);
}
