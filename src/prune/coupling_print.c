/* Coupled sets as text: per set its size and why it stays, who writes and reads it, the nodes that tie it,
 * and which channels of which tensors it holds. */
#include "prune/coupling_internal.h"

static void print_layers(const esp_coupling *coupling, const char *title, int count, const int *layers,
                         esp_text *out)
{
    if (count == 0)
        return;
    esp_text_printf(out, "  %s ", title);
    for (int i = 0; i < count; i++)
        esp_text_printf(out, "%s%s", i > 0 ? ", " : "", coupling->layers->items[layers[i]].name);
    esp_text_append(out, "\n");
}

static bool holds(const esp_coupling *coupling, int value, int set)
{
    const coupling_value *item = &coupling->values[value];
    for (int64_t i = 0; item->axis >= 0 && i < item->count; i++) {
        if (coupling->slot_set[item->slots[i]] == set)
            return true;
    }
    return false;
}

/* "relu1[0-15,32]" */
static void print_positions(const esp_coupling *coupling, int value, int set, esp_text *out)
{
    const coupling_value *item = &coupling->values[value];
    const char *separator = "[";
    esp_text_append(out, esp_graph_value(coupling->graph, value)->name);
    for (int64_t i = 0; i < item->count; i++) {
        if (coupling->slot_set[item->slots[i]] != set)
            continue;
        int64_t last = i;
        while (last + 1 < item->count && coupling->slot_set[item->slots[last + 1]] == set)
            last++;
        esp_text_printf(out, last > i ? "%s%lld-%lld" : "%s%lld", separator, (long long)i, (long long)last);
        separator = ",";
        i = last;
    }
    esp_text_append(out, "]");
}

/* Nodes that are no layers but pass the set's channels on between several tensors. */
static void print_ties(const esp_coupling *coupling, int set, esp_text *out)
{
    const char *separator = "  tied by ";
    for (int i = 0; i < esp_graph_node_count(coupling->graph); i++) {
        const esp_node *node = esp_graph_node(coupling->graph, i);
        bool is_tying = node->op->rule == ESP_CHANNEL_TIE || node->op->rule == ESP_CHANNEL_MOVE ||
                        (coupling->layer_of_node[i] >= 0 &&
                         coupling->layers->items[coupling->layer_of_node[i]].group > 1);
        if (!is_tying || !coupling->is_followed[i] || !holds(coupling, node->outputs[0], set))
            continue;
        esp_text_printf(out, "%s%s (%s)", separator, node->name, node->op->name);
        separator = ", ";
    }
    if (separator[0] == ',')
        esp_text_append(out, "\n");
}

static void print_set(const esp_coupling *coupling, int index, esp_text *out)
{
    const esp_coupled_set *set = &coupling->sets[index];
    esp_text_printf(out, "set %d: %lld channels, ", index, (long long)set->slot_count);
    if (set->pinned_by != NULL)
        esp_text_printf(out, "pinned: %s\n", set->pinned_by);
    else
        esp_text_append(out, set->writer_count == 0 ? "free (written by no layer)\n" : "free\n");
    print_layers(coupling, "written by", set->writer_count, set->writers, out);
    print_layers(coupling, "read by", set->reader_count, set->readers, out);
    print_ties(coupling, index, out);
    const char *separator = "  tensors ";
    for (int value = 0; value < esp_graph_value_count(coupling->graph); value++) {
        if (!holds(coupling, value, index))
            continue;
        esp_text_append(out, separator);
        print_positions(coupling, value, index, out);
        separator = ", ";
    }
    esp_text_append(out, "\n");
}

esp_status esp_coupling_print(const esp_coupling *coupling, esp_text *out, esp_error *err)
{
    for (int i = 0; i < coupling->set_count; i++)
        print_set(coupling, i, out);
    if (out->is_broken)
        return esp_fail_memory(err, "the list of coupled sets", out->length);
    return ESP_OK;
}
