/* Coupled sets, the rules COPY, TIE, CUT, GROUP and BLOCK: how one node passes slots from its inputs to its
 * output.
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

/* Whether the output has the input's channels where the input has them is plain to see: operators see
 * channels at axis 1, element-wise ones anywhere. */
static bool is_plain_copy(const esp_coupling *coupling, const esp_node *node, const coupling_value *input)
{
    const esp_shape *from = esp_inferred_shape(coupling->inferred, node->inputs[0]);
    const esp_shape *to = esp_inferred_shape(coupling->inferred, node->outputs[0]);
    return from->rank == to->rank && (input->axis == 1 || (node->op->flags & ESP_OP_POINTWISE) != 0);
}

/* Why a COPY node is a wall for its input's channels, or NULL. */
static const char *why_not_copied(esp_coupling *coupling, const esp_node *node, const coupling_value *input)
{
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, node->outputs[0]);
    bool has_parameters = false, is_plain = is_plain_copy(coupling, node, input);
    for (int i = 1; i < node->input_count; i++) {
        if (node->inputs[i] < 0 || ((node->op->trainable | node->op->running) >> i & 1U) == 0)
            continue;
        has_parameters = true;
        if (!coupling_is_known(coupling, node->inputs[i]))
            return coupling_reason(coupling, "node '%s' has computed parameters", node->name);
    }
    if (is_plain && shape->dims[input->axis] != input->count)
        return coupling_reason(coupling, "reshaped by node '%s'", node->name);
    if (input->axis != 1 && has_parameters)
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
    if (!is_plain_copy(coupling, node, input)) /* which axes went, the shapes do not say */
        return coupling_follow_apart(coupling, index, err);
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

/* The axis along which constants give the output its channels while every operand has but one, or -1. Those
 * channels are nobody's: the constants can be cut. */
static int constant_axis(esp_coupling *coupling, const esp_node *node)
{
    const esp_shape *shape = esp_inferred_shape(coupling->inferred, node->outputs[0]);
    int axis = -1;
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input == NULL)
            continue;
        if (input->count != 1 || (axis >= 0 && aligned_axis(coupling, node, i) != axis))
            return -1;
        axis = aligned_axis(coupling, node, i);
    }
    bool is_given = false;
    for (int i = 0; axis >= 0 && i < node->input_count; i++) {
        if (node->inputs[i] < 0 || coupling_input(coupling, node, i) != NULL)
            continue;
        bool is_flat = is_flat_along(coupling, node, i, axis);
        if (!is_flat && !coupling_is_known(coupling, node->inputs[i]))
            return -1;
        is_given = is_given || !is_flat;
    }
    return is_given && axis > 0 && shape->dims[axis] > 1 ? axis : -1;
}

static esp_status make_constant_channels(esp_coupling *coupling, const esp_node *node, int axis,
                                         esp_error *err)
{
    const char *reason = coupling_reason(coupling, "broadcast by node '%s'", node->name);
    int64_t count = esp_inferred_shape(coupling->inferred, node->outputs[0])->dims[axis];
    int32_t *slots = NULL;
    if (reason == NULL)
        return esp_fail_memory(err, "channel slots", 0);
    for (int i = 0; i < node->input_count; i++) {
        const coupling_value *input = coupling_input(coupling, node, i);
        if (input != NULL)
            coupling_pin(coupling, input->count, input->slots, reason);
    }
    esp_status status = coupling_fresh(coupling, count, NULL, &slots, err);
    if (status == ESP_OK)
        set_output(coupling, node, axis, count, slots);
    return status;
}

/* A broadcast operand (one channel where the output has many) ties with nobody, but everybody needs it. */
esp_status coupling_follow_tie(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const char *why_not = NULL;
    int first = 0, axis = tied_axis(coupling, node, &first, &why_not);
    int made = axis < 0 ? constant_axis(coupling, node) : -1;
    if (made >= 0)
        return make_constant_channels(coupling, node, made, err);
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

/* Whole groups go when there are more of them than of what they hold (depthwise: groups of one channel). */
static bool cuts_whole_groups(const esp_layer *layer)
{
    int64_t filters = layer->filters / layer->group, channels = layer->channels;
    return filters == 1 || channels == 1 || (layer->group > filters && layer->group > channels);
}

/* A group's filters follow its channels, which go together. */
static esp_status follow_groups(esp_coupling *coupling, const esp_node *node, int layer_index,
                                const coupling_value *input, esp_error *err)
{
    const esp_layer *layer = &coupling->layers->items[layer_index];
    int64_t filters = layer->filters / layer->group;
    int32_t *slots = NULL;
    esp_status status = coupling_array_new(coupling, layer->filters, &slots, err);
    if (status != ESP_OK)
        return status;
    for (int64_t c = 0; c < input->count; c++)
        coupling_tie(coupling, input->slots[c / layer->channels * layer->channels], input->slots[c]);
    for (int64_t f = 0; f < layer->filters; f++)
        slots[f] = input->slots[f / filters * layer->channels];
    coupling->writes[layer_index] = slots;
    coupling->follows_input[layer_index] = true;
    set_output(coupling, node, 1, layer->filters, slots);
    return ESP_OK;
}

/* Every group loses the same channels, and the same filters. */
static esp_status cut_inside_groups(esp_coupling *coupling, const esp_node *node, int layer_index,
                                    const coupling_value *input, esp_error *err)
{
    const esp_layer *layer = &coupling->layers->items[layer_index];
    int64_t filters = layer->filters / layer->group;
    int32_t *fresh = NULL, *writes = NULL;
    esp_status status = coupling_fresh(coupling, filters, NULL, &fresh, err);
    if (status == ESP_OK)
        status = coupling_array_new(coupling, layer->filters, &writes, err);
    if (status != ESP_OK)
        return status;
    for (int64_t c = layer->channels; c < input->count; c++)
        coupling_tie(coupling, input->slots[c % layer->channels], input->slots[c]);
    for (int64_t f = 0; f < layer->filters; f++)
        writes[f] = fresh[f % filters];
    coupling->reads[layer_index] = input->slots;
    coupling->writes[layer_index] = writes;
    set_output(coupling, node, 1, layer->filters, writes);
    return ESP_OK;
}

esp_status coupling_follow_group(esp_coupling *coupling, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const coupling_value *input = coupling_input(coupling, node, 0);
    int64_t groups = esp_node_int(node, "num_groups", 0);
    if (input == NULL || input->axis != 1 || groups < 1 || input->count % groups != 0)
        return coupling_follow_block(coupling, index, err);
    for (int i = 1; i < node->input_count; i++) {
        if (node->inputs[i] >= 0 && !coupling_is_known(coupling, node->inputs[i]))
            return coupling_block(coupling, index,
                                  coupling_reason(coupling, "node '%s' has computed parameters", node->name),
                                  err);
    }
    int64_t length = input->count / groups;
    for (int64_t c = 0; c < input->count; c++)
        coupling_tie(coupling, input->slots[c / length * length], input->slots[c]);
    set_output(coupling, node, 1, input->count, input->slots);
    return ESP_OK;
}

/* A layer whose input's channels were not followed to where it reads them: all of the input stays, but the
 * filters are the layer's own. */
static esp_status read_blindly(esp_coupling *coupling, int index, int layer_index, int channel_axis,
                               esp_error *err)
{
    const esp_node *node = esp_graph_node(coupling->graph, index);
    const esp_layer *layer = &coupling->layers->items[layer_index];
    const coupling_value *input = coupling_input(coupling, node, 0);
    const char *reason = coupling_reason(coupling, "node '%s' reads along another axis", node->name);
    if (reason == NULL)
        return esp_fail_memory(err, "channel slots", 0);
    coupling->is_followed[index] = false;
    if (input != NULL)
        coupling_pin(coupling, input->count, input->slots, reason);
    esp_status status = coupling_fresh(coupling, layer->channels, reason, &coupling->reads[layer_index], err);
    if (status == ESP_OK)
        status = coupling_fresh(coupling, layer->filters, NULL, &coupling->writes[layer_index], err);
    if (status == ESP_OK)
        set_output(coupling, node, channel_axis, layer->filters, coupling->writes[layer_index]);
    return status;
}

/* Neither its input nor its output can be cut. */
static esp_status block_layer(esp_coupling *coupling, int index, int layer_index, const char *reason,
                              esp_error *err)
{
    const esp_layer *layer = &coupling->layers->items[layer_index];
    esp_status status = coupling_block(coupling, index, reason, err);
    if (status == ESP_OK)
        status = coupling_fresh(coupling, layer->filters, reason, &coupling->writes[layer_index], err);
    if (status == ESP_OK && layer->group == 1)
        status = coupling_fresh(coupling, layer->channels, reason, &coupling->reads[layer_index], err);
    return status;
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
    bool is_read_whole =
        input != NULL && input->axis == channel_axis && input->count == layer->channels * layer->group;
    if (rank < 0)
        return block_layer(
            coupling, index, layer_index,
            coupling_reason(coupling, "the shape of what node '%s' reads is not known", node->name), err);
    if (rank < 2)
        return block_layer(coupling, index, layer_index,
                           coupling_reason(coupling, "node '%s' gives fewer than two dimensions", node->name),
                           err);
    if (has_computed_bias(coupling, node, &form))
        return block_layer(coupling, index, layer_index,
                           coupling_reason(coupling, "node '%s' has a computed bias", node->name), err);
    bool is_even = layer->filters > 0 && layer->channels > 0 && layer->filters % layer->group == 0;
    if (layer->group > 1 && (!is_read_whole || !is_even))
        return block_layer(coupling, index, layer_index,
                           coupling_reason(coupling, "grouped convolution '%s'", node->name), err);
    if (layer->group > 1)
        return cuts_whole_groups(layer) ? follow_groups(coupling, node, layer_index, input, err)
                                        : cut_inside_groups(coupling, node, layer_index, input, err);
    if (!is_read_whole)
        return read_blindly(coupling, index, layer_index, channel_axis, err);
    esp_status status = coupling_fresh(coupling, layer->filters, NULL, &coupling->writes[layer_index], err);
    if (status != ESP_OK)
        return status;
    coupling->reads[layer_index] = input->slots;
    set_output(coupling, node, channel_axis, layer->filters, coupling->writes[layer_index]);
    return ESP_OK;
}
