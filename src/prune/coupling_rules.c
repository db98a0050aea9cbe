/* Coupled sets, the rules COPY, TIE, CUT and BLOCK: how one node passes slots from its inputs to its output.
 */
#include "prune/coupling_internal.h"

static void set_output(esp_coupling *coupling, const esp_node *node, int axis, int64_t count, int32_t *slots)
{
    coupling->values[node->outputs[0]] = (coupling_value){axis, count, slots};
}

esp_status coupling_follow_block(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    return coupling_block(
        coupling, index,
        coupling_reason(coupling, "node '%s' (%s) needs all channels", node->name, node->op->name), err);
}

/* Why a COPY node is a wall for its input's channels, or NULL. Operators see channels at axis 1; along
 * another axis only element-wise ones without parameters still act on each channel alone. */
static const char *why_not_copied(esp_coupling *coupling, const esp_node *node, const coupling_value *input)
{
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, node->outputs[0]);
    bool has_parameters = false;
    for (int i = 1; i < node->input_count; i++) {
        if (node->inputs[i] < 0 || ((node->op->trainable | node->op->running) >> i & 1U) == 0)
            continue;
        has_parameters = true;
        if (!coupling_is_known(coupling, node->inputs[i]))
            return coupling_reason(coupling, "node '%s' has computed parameters", node->name);
    }
    if (input->axis >= shape->rank || shape->dims[input->axis] != input->count)
        return coupling_reason(coupling, "reshaped by node '%s'", node->name);
    if (input->axis != 1 && (has_parameters || (node->op->flags & ESP_OP_POINTWISE) == 0))
        return coupling_reason(coupling, "node '%s' takes other channels than axis %d", node->name,
                               input->axis);
    return NULL;
}

esp_status coupling_follow_copy(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    coupling_value *input = coupling_input(coupling, node, 0);
    if (input == NULL)
        return coupling_follow_block(coupling, index, err);
    const char *why_not = why_not_copied(coupling, node, input);
    if (why_not != NULL)
        return coupling_block(coupling, index, why_not, err);
    for (int i = 1; i < node->input_count; i++) {
        if (coupling_input(coupling, node, i) != NULL)
            return coupling_follow_block(coupling, index, err);
    }
    bool is_same = true;
    if (esp_inferred_shape(coupling->inferred, node->outputs[0])->rank !=
        esp_inferred_shape(coupling->inferred, node->inputs[0])
            ->rank) { /* which axes went, the shapes do not say */
        esp_status status = coupling_keeps_channels(coupling, index, input->axis, &is_same, err);
        if (status != ESP_OK)
            return status;
    }
    if (!is_same)
        return coupling_block(coupling, index, coupling_reason(coupling, "reshaped by node '%s'", node->name),
                              err);
    set_output(coupling, node, input->axis, input->count, input->slots);
    return ESP_OK;
}

/* Where an operand's channel axis lies in the output; operands align from the right. */
static int aligned_axis(const esp_coupling *coupling, const esp_node *node, int input)
{
    int value = node->inputs[input];
    return coupling->values[value].axis + esp_inferred_shape(coupling->inferred, node->outputs[0])->rank -
           esp_inferred_shape(coupling->inferred, value)->rank;
}

/* An operand without channels of its own must not differ along the tied axis. */
static bool is_flat_along(const esp_coupling *coupling, const esp_node *node, int input, int axis)
{
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, node->inputs[input]);
    int own = axis - esp_inferred_shape(coupling->inferred, node->outputs[0])->rank + shape->rank;
    return own < 0 || shape->dims[own] == 1;
}

/* The axis along which the operands' channels meet, or -1 when they do not: then `*why` says so. */
static int tied_axis(esp_coupling *coupling, const esp_node *node, int *first, const char **why)
{
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, node->outputs[0]);
    int axis = -1;
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        int aligned = input == NULL ? -1 : aligned_axis(coupling, node, i);
        if (input == NULL || input->count != shape->dims[aligned])
            continue;
        if (axis >= 0 && aligned != axis) {
            *why = coupling_reason(coupling, "node '%s' combines different axes", node->name);
            return -1;
        }
        if (axis < 0)
            *first = i;
        axis = aligned;
    }
    for (int i = 0; axis >= 0 && i < node->input_count; i++) {
        int value = node->inputs[i];
        bool is_loose = value >= 0 && !coupling_is_known(coupling, value) && coupling->values[value].axis < 0;
        if (is_loose && !is_flat_along(coupling, node, i, axis))
            axis = -1;
    }
    if (axis < 0)
        *why = coupling_reason(coupling, "broadcast by node '%s'", node->name);
    return axis;
}

/* A broadcast operand (one channel where the output has many) ties with nobody, but everybody needs it. */
esp_status coupling_follow_tie(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const char *why_not = NULL;
    int first = 0, axis = tied_axis(coupling, node, &first, &why_not);
    if (axis < 0)
        return coupling_block(coupling, index, why_not, err);
    const coupling_value *leader = coupling_input(coupling, node, first);
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input == NULL || i == first)
            continue;
        if (aligned_axis(coupling, node, i) != axis || input->count != leader->count) {
            const char *reason = coupling_reason(coupling, "broadcast by node '%s'", node->name);
            if (reason == NULL)
                return esp_fail_memory(err, "channel slots", 0);
            coupling_pin(coupling, input->count, input->slots, reason);
            continue;
        }
        for (int64_t c = 0; c < leader->count; c++)
            coupling_tie(coupling, leader->slots[c], input->slots[c]);
    }
    set_output(coupling, node, axis, leader->count, leader->slots);
    return ESP_OK;
}

static bool has_computed_bias(const esp_coupling *coupling, const esp_node *node, const esp_layer_form *form)
{
    int input = form->bias_input;
    return input >= 0 && input < node->input_count && node->inputs[input] >= 0 &&
           !coupling_is_known(coupling, node->inputs[input]);
}

/* A depthwise layer has its own filters for each channel: they follow the channel. */
static esp_status follow_depthwise(esp_coupling *coupling, const esp_node *node, int layer_index,
                                   const coupling_value *input, esp_error *err)
{
    const esp_layer *layer = &coupling->layers->items[layer_index];
    int64_t multiplier = layer->filters / input->count;
    int32_t *slots = NULL;
    esp_status status = coupling_array_new(coupling, layer->filters, &slots, err);
    if (status != ESP_OK)
        return status;
    for (int64_t f = 0; f < layer->filters; f++)
        slots[f] = input->slots[f / multiplier];
    coupling->writes[layer_index] = slots;
    set_output(coupling, node, 1, layer->filters, slots);
    return ESP_OK;
}

esp_status coupling_follow_cut(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    int layer_index = coupling->layer_of_node[index];
    esp_layer_form form;
    if (layer_index < 0 || !node->op->layer(node, &form))
        return coupling_block(coupling, index,
                              coupling_reason(coupling, "node '%s' has computed weights", node->name), err);
    const esp_layer *layer = &coupling->layers->items[layer_index];
    const coupling_value *input = coupling_input(coupling, node, 0);
    int rank = esp_inferred_shape(coupling->inferred, node->outputs[0])->rank;
    int channel_axis = layer->is_conv ? 1 : rank - 1;
    bool is_read_whole = input != NULL && input->axis == channel_axis &&
                         input->count == layer->channels * layer->group &&
                         !has_computed_bias(coupling, node, &form);
    if (is_read_whole && layer->group > 1 && layer->channels == 1 && layer->filters % layer->group == 0)
        return follow_depthwise(coupling, node, layer_index, input, err);

    const char *reason = NULL;
    bool is_wall = !is_read_whole || layer->group > 1;
    if (is_wall) {
        reason = layer->group > 1
                     ? coupling_reason(coupling, "grouped convolution '%s'", node->name)
                     : coupling_reason(coupling, "node '%s' reads along another axis", node->name);
        esp_status blocked = coupling_block(coupling, index, reason, err);
        if (blocked != ESP_OK)
            return blocked;
    }
    int32_t *writes = NULL;
    esp_status status = coupling_fresh(coupling, layer->filters, reason, &writes, err);
    if (status == ESP_OK && !is_wall)
        coupling->reads[layer_index] = input->slots;
    else if (status == ESP_OK && layer->group == 1)
        status = coupling_fresh(coupling, layer->channels, reason, &coupling->reads[layer_index], err);
    if (status != ESP_OK)
        return status;
    coupling->writes[layer_index] = writes;
    set_output(coupling, node, channel_axis, layer->filters, writes);
    return ESP_OK;
}
