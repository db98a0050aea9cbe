/* Coupled sets, the walk: every channel of every activation gets a slot; nodes in topological order pass
 * slots on by their rule (coupling_rules.c, coupling_probe.c), tying slots that must go together. Tied slots
 * form classes (union-find); a class is what the rest of the program calls a slot. A pinned class carries the
 * first reason found.
 *
 * Invariant: a class is read only by the layers that list it in `reads`; every other way of reading pins it.
 * So whoever removes a free slot at its writers, its followers and its readers has removed it everywhere. */
#include <stdio.h>

#include "base/memory.h"
#include "prune/coupling_internal.h"

static int32_t find_root(const esp_coupling *coupling, int32_t slot)
{
    int32_t root = slot;
    while (coupling->parent[root] != root)
        root = coupling->parent[root];
    while (coupling->parent[slot] != root) {
        int32_t next = coupling->parent[slot];
        coupling->parent[slot] = root;
        slot = next;
    }
    return root;
}

/* The lower id wins, so that a class is named by its first channel in network order. */
void coupling_tie(esp_coupling *coupling, int32_t a, int32_t b)
{
    int32_t first = find_root(coupling, a), second = find_root(coupling, b);
    if (first == second)
        return;
    if (second < first) {
        int32_t swap = first;
        first = second;
        second = swap;
    }
    coupling->parent[second] = first;
    if (coupling->reason[first] == NULL)
        coupling->reason[first] = coupling->reason[second];
}

void coupling_pin(esp_coupling *coupling, int64_t count, const int32_t *slots, const char *reason)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t root = find_root(coupling, slots[i]);
        if (coupling->reason[root] == NULL)
            coupling->reason[root] = reason;
    }
}

esp_status coupling_array_new(esp_coupling *coupling, int64_t count, int32_t **out, esp_error *err)
{
    coupling_array *array = esp_arena_alloc(coupling->arena, 1, sizeof *array);
    int32_t *slots = esp_arena_alloc(coupling->arena, (size_t)count, sizeof *slots);
    if (array == NULL || slots == NULL)
        return esp_fail_memory(err, "channel slots", (size_t)count * sizeof *slots);
    *array = (coupling_array){coupling->arrays, count, slots};
    coupling->arrays = array;
    *out = slots;
    return ESP_OK;
}

static esp_status reserve_ids(esp_coupling *coupling, int64_t count, esp_error *err)
{
    if (count > INT32_MAX / 4 - coupling->raw_count)
        return esp_fail(err, ESP_UNSUPPORTED, "the model has more than %d channels", INT32_MAX / 4);
    int32_t wanted = coupling->raw_count + (int32_t)count;
    if (wanted <= coupling->raw_capacity)
        return ESP_OK;
    int32_t capacity = wanted < 512 ? 1024 : wanted * 2;
    size_t old = (size_t)coupling->raw_capacity, size = (size_t)capacity;
    int32_t *parent = esp_realloc(coupling->parent, old, size, sizeof *parent);
    if (parent == NULL)
        return esp_fail_memory(err, "channel slots", size * sizeof *parent);
    coupling->parent = parent;
    const char **reason = esp_realloc(coupling->reason, old, size, sizeof *reason);
    if (reason == NULL)
        return esp_fail_memory(err, "channel slots", size * sizeof *reason);
    coupling->reason = reason;
    coupling->raw_capacity = capacity;
    return ESP_OK;
}

esp_status coupling_fresh(esp_coupling *coupling, int64_t count, const char *reason, int32_t **out,
                          esp_error *err)
{
    int32_t *slots = NULL;
    esp_status status = reserve_ids(coupling, count, err);
    if (status == ESP_OK)
        status = coupling_array_new(coupling, count, &slots, err);
    if (status != ESP_OK)
        return status;
    for (int64_t i = 0; i < count; i++) {
        int32_t id = coupling->raw_count++;
        coupling->parent[id] = id;
        coupling->reason[id] = reason;
        slots[i] = id;
    }
    *out = slots;
    return ESP_OK;
}

const char *coupling_reason(esp_coupling *coupling, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return esp_arena_strdup(coupling->arena, text);
}

bool coupling_is_known(const esp_coupling *coupling, int value)
{
    return esp_inferred_constant(coupling->inferred, value) != NULL;
}

coupling_value *coupling_input(esp_coupling *coupling, const esp_node *node, int input)
{
    int value = input < node->input_count ? node->inputs[input] : -1;
    if (value < 0 || coupling_is_known(coupling, value) || coupling->values[value].axis < 0)
        return NULL;
    return &coupling->values[value];
}

/* Channels of its own, pinned, for a value nothing else gave channels to. */
static esp_status give_pinned_channels(esp_coupling *coupling, int value, const char *reason, esp_error *err)
{
    coupling_value *target = &coupling->values[value];
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, value);
    if (target->axis >= 0 || shape->rank < 2 || coupling_is_known(coupling, value))
        return ESP_OK;
    if (reason == NULL)
        return esp_fail_memory(err, "channel slots", 0);
    esp_status status = coupling_fresh(coupling, shape->dims[1], reason, &target->slots, err);
    if (status != ESP_OK)
        return status;
    target->axis = 1;
    target->count = shape->dims[1];
    return ESP_OK;
}

esp_status coupling_block(esp_coupling *coupling, int node_index, const char *reason, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, node_index);
    if (reason == NULL)
        return esp_fail_memory(err, "channel slots", 0);
    coupling->is_followed[node_index] = false;
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input != NULL)
            coupling_pin(coupling, input->count, input->slots, reason);
    }
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] < 0)
            continue;
        esp_status status = give_pinned_channels(coupling, node->outputs[i], reason, err);
        if (status != ESP_OK)
            return status;
    }
    return ESP_OK;
}

static bool is_used(const esp_graph *graph, int value)
{
    return value >= 0 && (esp_graph_consumer_count(graph, value) > 0 || esp_graph_is_output(graph, value));
}

/* A layer whose output is known without the network's input (made of the batch size, say) writes channels
 * that are in no activation: nobody can cut them. */
static esp_status write_known_channels(esp_coupling *coupling, int index, esp_error *err)
{
    int layer = coupling->layer_of_node[index];
    if (layer < 0)
        return ESP_OK;
    const char *reason = coupling_reason(coupling, "'%s' does not depend on the network's input",
                                         coupling->layers->items[layer].name);
    if (reason == NULL)
        return esp_fail_memory(err, "channel slots", 0);
    return coupling_fresh(coupling, coupling->layers->items[layer].filters, reason, &coupling->writes[layer],
                          err);
}

/* Rules that speak of all outputs; the others speak of the first. */
static bool speaks_of_all_outputs(const esp_node *node)
{
    return node->op->rule == ESP_CHANNEL_MOVE || node->op->rule == ESP_CHANNEL_APART;
}

/* One node by its rule. A node of whose outputs some are used that its rule does not speak of is a wall. */
static esp_status walk_node(esp_coupling *coupling, int index, esp_error *err)
{
    static esp_status (*const follow[])(esp_coupling *, int, esp_error *) = {
        [ESP_CHANNEL_COPY] = coupling_follow_copy,   [ESP_CHANNEL_TIE] = coupling_follow_tie,
        [ESP_CHANNEL_MOVE] = coupling_follow_move,   [ESP_CHANNEL_CUT] = coupling_follow_cut,
        [ESP_CHANNEL_BLOCK] = coupling_follow_block, [ESP_CHANNEL_APART] = coupling_follow_apart,
        [ESP_CHANNEL_GROUP] = coupling_follow_group,
    };
    const esp_node *node = esp_graph_node(coupling->graph, index);
    bool is_all_known = true;
    for (int i = 0; i < node->output_count; i++)
        is_all_known =
            is_all_known && (node->outputs[i] < 0 || coupling_is_known(coupling, node->outputs[i]));
    if (is_all_known)
        return write_known_channels(coupling, index, err);
    for (int i = 1; i < node->output_count && !speaks_of_all_outputs(node); i++) {
        if (is_used(coupling->graph, node->outputs[i]))
            return coupling_block(
                coupling, index, coupling_reason(coupling, "node '%s' has several outputs", node->name), err);
    }
    coupling->is_followed[index] = true;
    return follow[node->op->rule](coupling, index, err);
}

/* Another layer that does with the same weight what this one does, or -1: `*is_alike` is false when someone
 * has another use for it. */
static int find_sharer(const esp_coupling *coupling, int index, bool *is_alike)
{
    const esp_layer *layer = &coupling->layers->items[index];
    int first = -1;
    *is_alike = true;
    for (int i = 0; i < esp_graph_consumer_count(coupling->graph, layer->weight); i++) {
        int other = coupling->layer_of_node[esp_graph_consumer(coupling->graph, layer->weight, i)];
        if (other == index)
            continue;
        const esp_layer *item = other < 0 ? NULL : &coupling->layers->items[other];
        if (item == NULL || item->weight != layer->weight || item->group != layer->group ||
            item->filter_axis != layer->filter_axis || item->is_conv != layer->is_conv ||
            coupling->follows_input[other] != coupling->follows_input[index]) {
            *is_alike = false;
            continue;
        }
        if (first < 0 && other < index)
            first = other;
    }
    return first;
}

static void tie_all(esp_coupling *coupling, int64_t count, const int32_t *a, const int32_t *b)
{
    for (int64_t i = 0; a != NULL && b != NULL && i < count; i++)
        coupling_tie(coupling, a[i], b[i]);
}

/* Layers that share a weight share its rows and columns. Where the tensor has another job too, nothing of it
 * can be cut. */
static esp_status tie_shared_weights(esp_coupling *coupling, esp_error *err)
{
    const esp_layers *layers = coupling->layers;
    for (int i = 0; i < layers->count; i++) {
        const esp_layer *layer = &layers->items[i];
        bool is_alike;
        int sharer = find_sharer(coupling, i, &is_alike);
        if (sharer >= 0) {
            bool is_one_blind = (coupling->reads[i] == NULL) != (coupling->reads[sharer] == NULL);
            tie_all(coupling, layer->filters, coupling->writes[i], coupling->writes[sharer]);
            tie_all(coupling, layer->channels, coupling->reads[i], coupling->reads[sharer]);
            is_alike = is_alike && !is_one_blind;
        }
        if (is_alike)
            continue;
        const char *reason = coupling_reason(coupling, "weight '%s' has several uses", layer->weight_name);
        if (reason == NULL)
            return esp_fail_memory(err, "channel slots", 0);
        coupling_pin(coupling, layer->filters, coupling->writes[i], reason);
        const coupling_value *input =
            coupling_input(coupling, esp_graph_node(coupling->graph, layer->node), 0);
        if (input != NULL)
            coupling_pin(coupling, input->count, input->slots, reason);
    }
    return ESP_OK;
}

/* Every value keeps a channel: one that has only one slot keeps that. */
static esp_status pin_only_channels(esp_coupling *coupling, esp_error *err)
{
    for (int i = 0; i < esp_graph_value_count(coupling->graph); i++) {
        const coupling_value *value = &coupling->values[i];
        int32_t root = value->axis >= 0 && value->count > 0 ? find_root(coupling, value->slots[0]) : 0;
        bool is_alone = root > 0 && coupling->reason[root] == NULL;
        for (int64_t c = 1; c < value->count && is_alone; c++)
            is_alone = find_root(coupling, value->slots[c]) == root;
        if (!is_alone)
            continue;
        const char *reason =
            coupling_reason(coupling, "nothing else is in '%s'", esp_graph_value(coupling->graph, i)->name);
        if (reason == NULL)
            return esp_fail_memory(err, "channel slots", 0);
        coupling_pin(coupling, 1, value->slots, reason);
    }
    return ESP_OK;
}

static esp_status pin_ends(esp_coupling *coupling, esp_error *err)
{
    for (int i = 0; i < esp_graph_output_count(coupling->graph); i++) {
        int value = esp_graph_output(coupling->graph, i);
        const coupling_value *output = &coupling->values[value];
        const char *reason =
            coupling_reason(coupling, "network output '%s'", esp_graph_value(coupling->graph, value)->name);
        if (reason == NULL)
            return esp_fail_memory(err, "channel slots", 0);
        if (output->axis >= 0)
            coupling_pin(coupling, output->count, output->slots, reason);
    }
    esp_status status = tie_shared_weights(coupling, err);
    return status == ESP_OK ? pin_only_channels(coupling, err) : status;
}

static esp_status walk(esp_coupling *coupling, esp_error *err)
{
    const esp_graph *graph = coupling->graph;
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_input_count(graph); i++) {
        int value = esp_graph_input(graph, i);
        status = give_pinned_channels(
            coupling, value,
            coupling_reason(coupling, "network input '%s'", esp_graph_value(graph, value)->name), err);
    }
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(graph); i++) {
        status = walk_node(coupling, i, err);
        if (status == ESP_OK)
            continue;
        esp_error_prefix(err, "node '%s'", esp_graph_node(graph, i)->name);
    }
    return status == ESP_OK ? pin_ends(coupling, err) : status;
}

/* Classes get ids 1, 2, ... in the order of their first channel; every array is rewritten to them. */
static esp_status renumber(esp_coupling *coupling, esp_error *err)
{
    int32_t count = 0;
    esp_status status = ESP_OK;
    int32_t *id_of_root = esp_alloc_zero((size_t)coupling->raw_count + 1, sizeof *id_of_root);
    const char **reasons = esp_arena_alloc(coupling->arena, (size_t)coupling->raw_count + 1, sizeof *reasons);
    if (id_of_root == NULL || reasons == NULL) {
        status = esp_fail_memory(err, "channel slots", (size_t)coupling->raw_count * sizeof *reasons);
        goto done;
    }
    for (int32_t raw = 1; raw < coupling->raw_count; raw++) {
        int32_t root = find_root(coupling, raw);
        if (id_of_root[root] == 0) {
            id_of_root[root] = ++count;
            reasons[count] = coupling->reason[root];
        }
    }
    for (coupling_array *array = coupling->arrays; array != NULL; array = array->next) {
        for (int64_t i = 0; i < array->count; i++)
            array->slots[i] = id_of_root[find_root(coupling, array->slots[i])];
    }
    coupling->slot_limit = count + 1;
    coupling->slot_reason = reasons;
done:
    esp_free(id_of_root);
    return status;
}

static esp_status allocate(esp_coupling *coupling, esp_error *err)
{
    size_t value_count = (size_t)esp_graph_value_count(coupling->graph);
    size_t node_count = (size_t)esp_graph_node_count(coupling->graph);
    size_t layer_count = (size_t)coupling->layers->count;
    esp_arena *arena = coupling->arena = esp_arena_new();
    if (arena != NULL) {
        coupling->values = esp_arena_alloc(arena, value_count + 1, sizeof *coupling->values);
        coupling->moves = esp_arena_alloc(arena, node_count + 1, sizeof(esp_channel_moves *));
        coupling->is_followed = esp_arena_alloc(arena, node_count + 1, sizeof *coupling->is_followed);
        coupling->layer_of_node = esp_arena_alloc(arena, node_count + 1, sizeof *coupling->layer_of_node);
        coupling->writes = esp_arena_alloc(arena, layer_count + 1, sizeof *coupling->writes);
        coupling->reads = esp_arena_alloc(arena, layer_count + 1, sizeof *coupling->reads);
        coupling->follows_input = esp_arena_alloc(arena, layer_count + 1, sizeof *coupling->follows_input);
    }
    if (arena == NULL || coupling->values == NULL || coupling->moves == NULL ||
        coupling->is_followed == NULL || coupling->layer_of_node == NULL || coupling->writes == NULL ||
        coupling->reads == NULL || coupling->follows_input == NULL)
        return esp_fail_memory(err, "coupled sets", value_count * sizeof *coupling->values);
    for (size_t i = 0; i < value_count; i++)
        coupling->values[i].axis = -1;
    for (size_t i = 0; i < node_count; i++)
        coupling->layer_of_node[i] = -1;
    for (size_t i = 0; i < layer_count; i++)
        coupling->layer_of_node[coupling->layers->items[i].node] = (int)i;
    coupling->raw_count = 1; /* id 0 is nobody's */
    return ESP_OK;
}

esp_status esp_coupling_new(const esp_graph *graph, const esp_inferred *inferred, const esp_layers *layers,
                            esp_coupling **out, esp_error *err)
{
    *out = NULL;
    esp_coupling *coupling = esp_alloc_zero(1, sizeof *coupling);
    if (coupling == NULL)
        return esp_fail_memory(err, "coupled sets", sizeof *coupling);
    coupling->graph = graph;
    coupling->inferred = inferred;
    coupling->layers = layers;

    esp_status status = allocate(coupling, err);
    if (status == ESP_OK)
        status = reserve_ids(coupling, 1, err);
    if (status == ESP_OK)
        status = walk(coupling, err);
    if (status == ESP_OK)
        status = renumber(coupling, err);
    if (status == ESP_OK)
        status = coupling_make_sets(coupling, err);
    esp_free(coupling->parent);
    esp_free(coupling->reason);
    coupling->parent = NULL;
    coupling->reason = NULL;
    if (status != ESP_OK)
        esp_coupling_free(coupling);
    else
        *out = coupling;
    return status;
}

void esp_coupling_free(esp_coupling *coupling)
{
    if (coupling == NULL)
        return;
    esp_arena_free(coupling->arena);
    esp_free(coupling->parent);
    esp_free(coupling->reason);
    esp_free(coupling);
}
