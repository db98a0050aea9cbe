/* Surgery, which channels remain and in which order. Every writer lists its remaining filters in their old
 * order, or by rank where a grouped layer has claimed one (surgery_groups.c); lists then run through the
 * graph by the same rules as slots did. An order that some node cannot carry (pinned channels, slices,
 * operands of an addition that disagree) makes the whole layout invalid: the caller takes the claim back.
 * Without ranks every layout is valid.
 *
 * Then every node in between gets its edit: per-channel constants follow the list, numbers of movement nodes
 * are rewritten by the op row's narrow callback. */
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
    return true;
}

static bool lay_out_move(surgery *self, const esp_node *node, const esp_channel_moves *moves, int value)
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
    channel_list *list = &self->kept[value];
    if (layer_index >= 0 && self->layers->items[layer_index].group == 1) {
        list_by_rank(self, value);
    } else if (layer_index >= 0) { /* depthwise */
        const esp_layer *layer = &self->layers->items[layer_index];
        list->count = 0;
        append_runs(list, &self->kept[node->inputs[0]], 0, layer->filters / layer->group);
    } else if (node->op->rule == ESP_CHANNEL_TIE) {
        return lay_out_tie(self, node, value);
    } else if (node->op->rule == ESP_CHANNEL_MOVE) {
        return lay_out_move(self, node, esp_coupling_moves(self->coupling, index), value);
    } else {
        const channel_list *input = &self->kept[node->inputs[0]];
        list->count = input->count;
        memcpy(list->indices, input->indices, (size_t)input->count * sizeof *list->indices);
    }
    return true;
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

/* ---- edits ---- */

esp_status surgery_select(const esp_tensor *tensor, int axis, const channel_list *list, esp_tensor **out,
                          esp_error *err)
{
    if (!list->is_identity)
        return esp_tensor_select(tensor, axis, list->indices, list->count, out, err);
    *out = esp_tensor_ref(tensor);
    return ESP_OK;
}

void surgery_release_edits(surgery *self)
{
    for (int i = 0; self->edits != NULL && i < esp_graph_node_count(self->graph); i++) {
        node_edit *edit = &self->edits[i];
        for (int k = 0; edit->inputs != NULL && k < esp_graph_node(self->graph, i)->input_count; k++)
            esp_tensor_unref(edit->inputs[k]);
        *edit = (node_edit){0};
    }
}

static esp_status edit_inputs(surgery *self, int index, esp_error *err)
{
    size_t count = (size_t)esp_graph_node(self->graph, index)->input_count;
    node_edit *edit = &self->edits[index];
    edit->inputs = esp_arena_alloc(self->arena, count, sizeof(esp_tensor *));
    return edit->inputs == NULL ? esp_fail_memory(err, "surgery", count * sizeof(esp_tensor *)) : ESP_OK;
}

/* The axis of a constant operand that runs along the output's channels, or -1 when it is the same for all of
 * them. Parameters of rank 1 (batch-norm) are per channel; other operands align with the output from the
 * right. */
static int axis_along_channels(const surgery *self, const esp_node *node, int input)
{
    esp_value_slots output = esp_coupling_value(self->coupling, node->outputs[0]);
    const esp_shape *shape = esp_inferred_shape(self->inferred, node->inputs[input]);
    bool is_copied = node->op->rule == ESP_CHANNEL_COPY;
    if (is_copied && ((node->op->trainable | node->op->running) >> input & 1U) == 0)
        return -1;
    int axis = output.axis - esp_inferred_shape(self->inferred, node->outputs[0])->rank + shape->rank;
    if (is_copied && shape->rank == 1)
        axis = 0;
    return axis >= 0 && shape->dims[axis] == output.count ? axis : -1;
}

static esp_status edit_constants(surgery *self, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const channel_list *list = surgery_kept(self, node->outputs[0]);
    esp_status status = ESP_OK;
    if (list->is_identity)
        return ESP_OK;
    status = edit_inputs(self, index, err);
    for (int i = 0; status == ESP_OK && i < node->input_count; i++) {
        int value = node->inputs[i];
        const esp_tensor *constant = value < 0 ? NULL : esp_inferred_constant(self->inferred, value);
        int axis = constant == NULL ? -1 : axis_along_channels(self, node, i);
        if (axis >= 0)
            status = surgery_select(constant, axis, list, &self->edits[index].inputs[i], err);
    }
    return status;
}

/* The model inferred for two images; NULL when it was exported for one. */
static const esp_inferred *inferred_at_two(surgery *self)
{
    if (!self->has_tried_two) {
        esp_error ignored = {0};
        self->has_tried_two = true;
        if (esp_infer(self->graph, 2, self->input_shapes, self->input_shape_count, &self->inferred_two,
                      &ignored) != ESP_OK)
            self->inferred_two = NULL;
    }
    return self->inferred_two;
}

/* A number that was computed from the batch size while the model ran may have been replaced by what it is for
 * one image: whether the node still makes the right shape of two. */
static bool fits_any_batch(surgery *self, int index, const esp_narrow_context *context)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const esp_inferred *two = inferred_at_two(self);
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    if (two == NULL)
        return true;
    esp_view *views = esp_arena_alloc(self->arena, inputs + outputs, sizeof *views);
    const esp_view **pointers = esp_arena_alloc(self->arena, inputs, sizeof *pointers);
    if (views == NULL || pointers == NULL)
        return false;
    esp_inferred_views(two, self->graph, index, views, pointers, views + inputs);
    esp_shape expected = views[inputs].shape;
    views[0].shape.dims[context->input_axis] = context->input_kept_count;
    expected.dims[context->output_axis] = context->output_kept_count;
    for (size_t i = 0; i < inputs && i < sizeof context->new_inputs / sizeof *context->new_inputs; i++) {
        if (context->new_inputs[i] != NULL)
            views[i] = esp_tensor_view(context->new_inputs[i]);
    }
    esp_infer_context infer = {.node = node,
                               .opset = esp_graph_opset(self->graph),
                               .input_count = node->input_count,
                               .inputs = pointers,
                               .output_count = node->output_count,
                               .outputs = views + inputs};
    esp_error ignored = {0};
    return node->op->infer(&infer, &ignored) == ESP_OK && esp_shape_equal(&views[inputs].shape, &expected);
}

/* Source positions as the narrow callback wants them: channels of input 0. */
static esp_status narrow_sources(surgery *self, const esp_channel_moves *moves, int64_t **out, esp_error *err)
{
    int64_t *sources = esp_arena_alloc(self->arena, (size_t)moves->count, sizeof *sources);
    if (sources == NULL)
        return esp_fail_memory(err, "surgery", (size_t)moves->count * sizeof *sources);
    for (int64_t i = 0; i < moves->count; i++)
        sources[i] = moves->source[i];
    *out = sources;
    return ESP_OK;
}

static esp_status take_narrowed(surgery *self, int index, esp_narrow_context *context, bool *is_possible,
                                esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    esp_status status = edit_inputs(self, index, err);
    int limit = (int)(sizeof context->new_inputs / sizeof *context->new_inputs);
    bool is_computed = false;
    for (int i = 0; i < limit && i < node->input_count; i++)
        is_computed = is_computed || (context->new_inputs[i] != NULL &&
                                      esp_graph_value(self->graph, node->inputs[i])->constant == NULL);
    *is_possible = !is_computed || fits_any_batch(self, index, context);
    for (int i = 0; i < limit; i++) {
        if (status == ESP_OK && *is_possible && i < node->input_count)
            self->edits[index].inputs[i] = context->new_inputs[i];
        else
            esp_tensor_unref(context->new_inputs[i]);
    }
    if (status != ESP_OK || !*is_possible || context->new_attr_count == 0)
        return status;
    size_t count = (size_t)context->new_attr_count;
    esp_attr *attrs = esp_arena_copy(self->arena, context->new_attrs, count * sizeof *attrs);
    if (attrs == NULL)
        return esp_fail_memory(err, "surgery", count * sizeof *attrs);
    self->edits[index].attrs = attrs;
    self->edits[index].attr_count = context->new_attr_count;
    return ESP_OK;
}

/* Runs the narrow callback of a movement node. Its refusal is no error: `*is_possible` becomes false. */
static esp_status edit_movement(surgery *self, int index, bool *is_possible, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const esp_channel_moves *moves = esp_coupling_moves(self->coupling, index);
    const channel_list *output_list = surgery_kept(self, node->outputs[0]);
    int value = node->inputs[0];
    bool has_one_source = moves->followed_inputs == 1 && value >= 0 && surgery_has_channels(self, value);
    if (node->op->narrow == NULL ||
        (has_one_source && self->kept[value].is_identity && output_list->is_identity))
        return ESP_OK;
    *is_possible = has_one_source;
    if (!has_one_source) {
        *is_possible = true;
        for (int i = 0; i < node->input_count; i++) {
            if (node->inputs[i] >= 0 && surgery_has_channels(self, node->inputs[i]))
                *is_possible = *is_possible && self->kept[node->inputs[i]].is_identity;
        }
        return ESP_OK;
    }

    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    esp_view *views = esp_arena_alloc(self->arena, inputs + outputs, sizeof *views);
    const esp_view **pointers = esp_arena_alloc(self->arena, inputs, sizeof *pointers);
    int64_t *sources = NULL;
    if (views == NULL || pointers == NULL)
        return esp_fail_memory(err, "surgery", inputs * sizeof *views);
    esp_status status = narrow_sources(self, moves, &sources, err);
    if (status != ESP_OK)
        return status;
    esp_inferred_views(self->inferred, self->graph, index, views, pointers, views + inputs);
    esp_value_slots output = esp_coupling_value(self->coupling, node->outputs[0]);
    esp_narrow_context context = {
        .node = node,
        .opset = esp_graph_opset(self->graph),
        .inputs = pointers,
        .output = &views[inputs],
        .input_axis = esp_coupling_value(self->coupling, value).axis,
        .output_axis = output.axis,
        .input_kept = self->kept[value].indices,
        .input_kept_count = self->kept[value].count,
        .output_kept = output_list->indices,
        .output_kept_count = output_list->count,
        .output_source = sources,
        .arena = self->arena,
    };
    status = node->op->narrow(&context, err);
    if (status == ESP_OK)
        return take_narrowed(self, index, &context, is_possible, err);
    for (size_t i = 0; i < sizeof context.new_inputs / sizeof *context.new_inputs; i++)
        esp_tensor_unref(context.new_inputs[i]);
    if (status != ESP_UNSUPPORTED && status != ESP_INVALID && status != ESP_SHAPE)
        return status;
    *is_possible = false;
    return ESP_OK;
}

static void veto_node(surgery *self, const esp_node *node)
{
    for (int i = 0; i < node->input_count; i++) {
        if (node->inputs[i] >= 0)
            surgery_veto(self, node->inputs[i]);
    }
    surgery_veto(self, node->outputs[0]);
}

esp_status surgery_edit_nodes(surgery *self, bool *has_vetoed, esp_error *err)
{
    esp_status status = ESP_OK;
    surgery_release_edits(self);
    *has_vetoed = false;
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(self->graph); i++) {
        const esp_node *node = esp_graph_node(self->graph, i);
        bool is_possible = true;
        if (!esp_coupling_follows(self->coupling, i) || esp_coupling_layer_at(self->coupling, i) >= 0)
            continue;
        if (node->op->rule == ESP_CHANNEL_MOVE)
            status = edit_movement(self, i, &is_possible, err);
        else
            status = edit_constants(self, i, err);
        if (is_possible)
            continue;
        veto_node(self, node);
        *has_vetoed = true;
    }
    return status;
}
