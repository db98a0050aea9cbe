/* Surgery, the nodes in between: per-channel constants follow the channel lists, numbers of movement nodes
 * are rewritten by the op row's narrow callback. What is computed from shapes while the model runs comes out
 * differently in the cut model (surgery_chains.c): often as it should (a Reshape to the sizes of its own
 * input), so that nothing has to be written; where it does not, a constant takes its place, and where that
 * would fix the batch size the channels stay. */
#include <string.h>

#include "prune/surgery_internal.h"

enum { NEW_INPUTS = sizeof((esp_narrow_context){0}.new_inputs) / sizeof(esp_tensor *) };

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
        for (int k = 0; k < edit->input_count; k++)
            esp_tensor_unref(edit->inputs[k]);
        *edit = (node_edit){0};
    }
}

/* Room for replacements, at least of those a narrow callback may give: an optional input may be added. */
static esp_status edit_inputs(surgery *self, int index, esp_error *err)
{
    int count = esp_graph_node(self->graph, index)->input_count;
    node_edit *edit = &self->edits[index];
    if (edit->inputs != NULL)
        return ESP_OK;
    count = count > NEW_INPUTS ? count : NEW_INPUTS;
    edit->inputs = esp_arena_alloc(self->arena, (size_t)count, sizeof(esp_tensor *));
    if (edit->inputs == NULL)
        return esp_fail_memory(err, "surgery", (size_t)count * sizeof(esp_tensor *));
    edit->input_count = count;
    return ESP_OK;
}

static void replace_input(surgery *self, int index, int input, esp_tensor *take_tensor)
{
    esp_tensor_unref(self->edits[index].inputs[input]);
    self->edits[index].inputs[input] = take_tensor;
}

/* The axis of a constant operand that runs along the output's channels, or -1 when it is the same for all of
 * them. Parameters of rank 1 (batch-norm) are per channel; other operands align with the output from the
 * right. */
static int axis_along_channels(const surgery *self, const esp_node *node, int input)
{
    esp_value_slots output = esp_coupling_value(self->coupling, node->outputs[0]);
    const esp_shape *shape = esp_inferred_shape(self->inferred, node->inputs[input]);
    bool is_copied = node->op->rule != ESP_CHANNEL_TIE;
    if (is_copied && ((node->op->trainable | node->op->running) >> input & 1U) == 0)
        return -1;
    int axis = output.axis - esp_inferred_shape(self->inferred, node->outputs[0])->rank + shape->rank;
    if (is_copied && shape->rank == 1)
        axis = 0;
    return axis >= 0 && shape->dims[axis] == output.count ? axis : -1;
}

/* Parameters of runs of channels that are computed together: one per channel, or one per run. */
static esp_status edit_groups(surgery *self, int index, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const channel_list *list = surgery_kept(self, node->outputs[0]);
    int64_t count = esp_coupling_value(self->coupling, node->outputs[0]).count;
    int64_t groups = esp_node_int(node, "num_groups", 1), length = count / groups;
    if (list->is_identity)
        return ESP_OK;
    channel_list runs = {.count = list->count / length};
    runs.indices = esp_arena_alloc(self->arena, (size_t)runs.count + 1, sizeof *runs.indices);
    esp_attr *attr = esp_arena_alloc(self->arena, 1, sizeof *attr);
    if (runs.indices == NULL || attr == NULL)
        return esp_fail_memory(err, "surgery", (size_t)runs.count * sizeof *runs.indices);
    for (int64_t i = 0; i < runs.count; i++)
        runs.indices[i] = list->indices[i * length] / length;
    esp_status status = edit_inputs(self, index, err);
    for (int i = 1; status == ESP_OK && i < node->input_count; i++) {
        const esp_tensor *constant =
            node->inputs[i] < 0 ? NULL : esp_inferred_constant(self->inferred, node->inputs[i]);
        esp_tensor *narrowed = NULL;
        if (constant == NULL)
            continue;
        bool is_per_channel = esp_tensor_elements(constant) == count;
        status = surgery_select(constant, 0, is_per_channel ? list : &runs, &narrowed, err);
        if (status == ESP_OK)
            replace_input(self, index, i, narrowed);
    }
    *attr = esp_attr_int("num_groups", runs.count);
    self->edits[index].attrs = attr;
    self->edits[index].attr_count = 1;
    return status;
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
        esp_tensor *narrowed = NULL;
        if (axis < 0)
            continue;
        status = surgery_select(constant, axis, list, &narrowed, err);
        if (status == ESP_OK)
            replace_input(self, index, i, narrowed);
    }
    return status;
}

/* What the cut model computes for a known value at one image (`at` 0) or at two. NULL: it cannot. */
static const esp_tensor *computed_at(surgery *self, int at, int value)
{
    const esp_inferred *inferred = at == 0 ? self->inferred : self->inferred_two;
    const esp_tensor *computed = NULL;
    if (self->chains[at] != NULL && surgery_chains_changed(self->chains[at], value, &computed))
        return computed;
    return esp_inferred_constant(inferred, value);
}

/* An input as the cut model will have it: a constant that replaces it, what it computes by itself, or, for an
 * activation, its shape. False when it cannot be computed. */
static bool view_input(surgery *self, int index, int at, int input, esp_view *view)
{
    int value = esp_graph_node(self->graph, index)->inputs[input];
    const node_edit *edit = &self->edits[index];
    const esp_inferred *inferred = at == 0 ? self->inferred : self->inferred_two;
    bool is_known = esp_inferred_constant(inferred, value) != NULL;
    const esp_tensor *tensor = input < edit->input_count ? edit->inputs[input] : NULL;
    if (tensor == NULL && is_known)
        tensor = computed_at(self, at, value);
    if (tensor != NULL)
        *view = esp_tensor_view(tensor);
    else
        view->shape = surgery_new_shape(self, inferred, value);
    return tensor != NULL || !is_known;
}

/* Whether the node makes the right shapes at one image (`at` 0) or at two, with `tensor` as one of its inputs
 * (-1: of none). */
static bool makes_right_shapes(surgery *self, int index, int at, int input, const esp_tensor *tensor)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const esp_inferred *inferred = at == 0 ? self->inferred : self->inferred_two;
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    esp_view *views = esp_arena_alloc(self->arena, inputs + outputs, sizeof *views);
    const esp_view **pointers = esp_arena_alloc(self->arena, inputs, sizeof *pointers);
    if (views == NULL || pointers == NULL)
        return false;
    esp_inferred_views(inferred, self->graph, index, views, pointers, views + inputs);
    for (int i = 0; i < node->input_count; i++) {
        if (i == input)
            views[i] = esp_tensor_view(tensor);
        else if (pointers[i] != NULL && !view_input(self, index, at, i, &views[i]))
            return false;
    }
    esp_infer_context infer = {.node = node,
                               .opset = esp_graph_opset(self->graph),
                               .input_count = node->input_count,
                               .inputs = pointers,
                               .output_count = node->output_count,
                               .outputs = views + inputs};
    esp_error ignored = {0};
    bool is_right = node->op->infer(&infer, &ignored) == ESP_OK;
    for (size_t i = 0; i < outputs && is_right; i++) {
        if (node->outputs[i] < 0)
            continue;
        esp_shape expected = surgery_new_shape(self, inferred, node->outputs[i]);
        is_right = esp_shape_equal(&views[inputs + i].shape, &expected);
    }
    return is_right;
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

/* Whether the node does what it must with what the cut model computes for its input by itself: the very
 * numbers that are wanted, or another way to say the same shape. */
static bool computes_by_itself(surgery *self, int index, int input, const esp_tensor *wanted)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    bool says_shape_only = (node->op->flags & ESP_OP_VIEW) != 0;
    for (int at = 0; at < 2 && (at == 0 || self->inferred_two != NULL); at++) {
        const esp_tensor *computed = computed_at(self, at, node->inputs[input]);
        if (computed == NULL || !makes_right_shapes(self, index, at, input, computed))
            return false;
        if (at == 0 && !says_shape_only && !esp_tensor_equal(computed, wanted))
            return false;
    }
    return true;
}

static bool is_computed(const surgery *self, const esp_node *node, int input)
{
    return input < node->input_count && node->inputs[input] >= 0 &&
           esp_graph_value(self->graph, node->inputs[input])->constant == NULL &&
           esp_inferred_constant(self->inferred, node->inputs[input]) != NULL;
}

/* Entry `at` of a list of sizes, or -1. */
static int64_t entry_of(const esp_tensor *list, int64_t at)
{
    esp_view view = esp_tensor_view(list);
    return (int64_t)esp_view_get_f64(&view, at);
}

static esp_status copy_with_entry(const esp_tensor *list, int64_t at, int64_t number, esp_tensor **out,
                                  esp_error *err)
{
    esp_status status = esp_tensor_clone(list, out, err);
    if (status == ESP_OK && esp_tensor_dtype(list) == ESP_I64)
        ((int64_t *)esp_tensor_data_mut(*out))[at] = number;
    else if (status == ESP_OK)
        ((int32_t *)esp_tensor_data_mut(*out))[at] = (int32_t)number;
    return status;
}

/* The input of a joining node that entry `*at` of its output comes from, when that is a constant list of
 * integers, and the entry's place in it; -1 when it is none. */
static int part_of(const surgery *self, const esp_node *join, int64_t *at)
{
    for (int i = 0; i < join->input_count; i++) {
        const esp_value *part = join->inputs[i] < 0 ? NULL : esp_graph_value(self->graph, join->inputs[i]);
        const esp_shape *shape = part == NULL ? NULL : esp_inferred_shape(self->inferred, join->inputs[i]);
        if (shape == NULL || shape->rank != 1)
            return -1;
        if (*at < shape->dims[0])
            return part->constant != NULL && (part->dtype == ESP_I64 || part->dtype == ESP_I32) ? i : -1;
        *at -= shape->dims[0];
    }
    return -1;
}

/* Sizes that are joined from parts, of which one is the number of channels, as a constant
 * ([Shape(x)[0], 64, ...]): that constant changes, and the list stays computed. False when it is not so. */
static esp_status change_part(surgery *self, int index, int input, bool *is_done, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const esp_tensor *wanted = self->edits[index].inputs[input];
    int value = node->inputs[input], producer = esp_graph_value(self->graph, value)->producer;
    const esp_tensor *lists[2] = {computed_at(self, 0, value), computed_at(self, 1, value)};
    int64_t count = esp_tensor_elements(wanted), at = -1;
    *is_done = false;
    if (lists[0] == NULL || lists[1] == NULL || esp_tensor_elements(lists[0]) != count ||
        esp_tensor_elements(lists[1]) != count || esp_graph_consumer_count(self->graph, value) != 1)
        return ESP_OK;
    for (int64_t i = 0; i < count; i++) {
        bool is_other = entry_of(wanted, i) > 0 && entry_of(wanted, i) != entry_of(lists[0], i);
        if (is_other && at >= 0)
            return ESP_OK; /* more than the number of channels is wrong */
        at = is_other ? i : at;
    }
    int64_t place = at;
    const esp_node *join = esp_graph_node(self->graph, producer);
    int part = at < 0 || join->op->rule != ESP_CHANNEL_MOVE ? -1 : part_of(self, join, &place);
    if (part < 0 || self->edits[producer].inputs != NULL)
        return ESP_OK;
    esp_tensor *changed = NULL;
    esp_status status = ESP_OK;
    bool is_right = true;
    for (int i = 0; status == ESP_OK && i < 2 && is_right; i++) {
        esp_tensor *list = NULL;
        status = copy_with_entry(lists[i], at, entry_of(wanted, at), &list, err);
        is_right = status == ESP_OK && makes_right_shapes(self, index, i, input, list);
        esp_tensor_unref(list);
    }
    if (status == ESP_OK && is_right)
        status = copy_with_entry(esp_graph_value(self->graph, join->inputs[part])->constant, place,
                                 entry_of(wanted, at), &changed, err);
    if (status == ESP_OK && is_right)
        status = edit_inputs(self, producer, err);
    if (status != ESP_OK || !is_right) {
        esp_tensor_unref(changed);
        return status;
    }
    replace_input(self, producer, part, changed);
    replace_input(self, index, input, NULL);
    *is_done = true;
    return ESP_OK;
}

/* Constants in the place of computed inputs must hold for other sizes too, or be made to. */
static esp_status check_replaced(surgery *self, int index, bool *is_possible, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    const esp_inferred *two = self->inferred_two;
    esp_tensor *const *inputs = self->edits[index].inputs;
    esp_status status = ESP_OK;
    bool is_replaced = false;
    for (int i = 0; inputs != NULL && i < node->input_count && i < NEW_INPUTS; i++)
        is_replaced = is_replaced || (is_computed(self, node, i) && inputs[i] != NULL);
    if (!is_replaced || two == NULL || makes_right_shapes(self, index, 1, -1, NULL))
        return ESP_OK;
    *is_possible = false;
    for (int i = 0; status == ESP_OK && !*is_possible && i < node->input_count && i < NEW_INPUTS; i++) {
        if (is_computed(self, node, i) && inputs[i] != NULL)
            status = change_part(self, index, i, is_possible, err);
    }
    return status;
}

/* Inputs that are computed while the model runs, against what they must be: `wanted` (NULL: what they are in
 * the masked model). They are left alone when they come out right by themselves, and become constants
 * otherwise; false when those would hold for one image only. */
static esp_status settle_computed(surgery *self, int index, bool *is_possible, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < node->input_count && i < NEW_INPUTS; i++) {
        const esp_tensor *ignored = NULL;
        if (!is_computed(self, node, i))
            continue;
        bool is_changed =
            self->chains[0] != NULL && surgery_chains_changed(self->chains[0], node->inputs[i], &ignored);
        esp_tensor *wanted = self->edits[index].inputs == NULL ? NULL : self->edits[index].inputs[i];
        if (!is_changed && wanted == NULL)
            continue;
        const esp_tensor *target =
            wanted != NULL ? wanted : esp_inferred_constant(self->inferred, node->inputs[i]);
        bool is_right = computes_by_itself(self, index, i, target);
        if (is_right && wanted != NULL)
            replace_input(self, index, i, NULL);
        if (is_right || wanted != NULL)
            continue;
        status = edit_inputs(self, index, err);
        if (status == ESP_OK)
            replace_input(self, index, i, esp_tensor_ref(target));
    }
    return status == ESP_OK && *is_possible ? check_replaced(self, index, is_possible, err) : status;
}

/* What a narrow callback found, as the node's edit. */
static esp_status take_narrowed(surgery *self, int index, esp_narrow_context *context, esp_error *err)
{
    esp_status status = edit_inputs(self, index, err);
    for (int i = 0; i < NEW_INPUTS; i++) {
        if (status == ESP_OK && context->new_inputs[i] != NULL)
            replace_input(self, index, i, context->new_inputs[i]);
        else
            esp_tensor_unref(context->new_inputs[i]);
    }
    if (status != ESP_OK)
        return status;
    self->edits[index].dropped_attr = context->dropped_attr;
    if (context->new_attr_count == 0)
        return ESP_OK;
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
    bool is_untouched = has_one_source && self->kept[value].is_identity;
    for (int i = 0; i < node->output_count; i++)
        is_untouched = is_untouched && (node->outputs[i] < 0 || self->kept[node->outputs[i]].is_identity);
    if (node->op->narrow == NULL || is_untouched)
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
    int64_t *sources = NULL, *counts = esp_arena_alloc(self->arena, outputs, sizeof *counts);
    if (views == NULL || pointers == NULL || counts == NULL)
        return esp_fail_memory(err, "surgery", inputs * sizeof *views);
    esp_status status = narrow_sources(self, moves, &sources, err);
    if (status != ESP_OK)
        return status;
    esp_inferred_views(self->inferred, self->graph, index, views, pointers, views + inputs);
    for (size_t i = 0; i < outputs; i++) {
        int output = node->outputs[i];
        counts[i] = output >= 0 && surgery_has_channels(self, output) ? self->kept[output].count : 0;
    }
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
        .output_count = node->output_count,
        .output_kept_counts = counts,
        .arena = self->arena,
    };
    status = node->op->narrow(&context, err);
    if (status == ESP_OK)
        return take_narrowed(self, index, &context, err);
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
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0)
            surgery_veto(self, node->outputs[i]);
    }
}

static bool is_any_vetoed(const surgery *self)
{
    for (int32_t slot = 0; slot < esp_coupling_slot_limit(self->coupling); slot++) {
        if (self->is_removed[slot] && !self->is_candidate[slot])
            return true;
    }
    return false;
}

/* Sizes that a node computes from the shape of a cut value and cannot do without: that value stays. */
static void veto_shapes(surgery *self, int value)
{
    int producer = value < 0 ? -1 : esp_graph_value(self->graph, value)->producer;
    if (producer < 0 || esp_inferred_constant(self->inferred, value) == NULL)
        return;
    const esp_node *node = esp_graph_node(self->graph, producer);
    if ((node->op->flags & ESP_OP_SHAPE_ONLY) != 0) {
        surgery_veto(self, node->inputs[0]);
        return;
    }
    for (int i = 0; i < node->input_count; i++)
        veto_shapes(self, node->inputs[i]);
}

static bool is_known_node(const surgery *self, const esp_node *node)
{
    for (int i = 0; i < node->output_count; i++) {
        if (node->outputs[i] >= 0 && esp_inferred_constant(self->inferred, node->outputs[i]) == NULL)
            return false;
    }
    return true;
}

static esp_status edit_node(surgery *self, int index, bool *is_possible, esp_error *err)
{
    const esp_node *node = esp_graph_node(self->graph, index);
    if (is_known_node(self, node) || (node->op->flags & ESP_OP_SHAPE_ONLY) != 0)
        return ESP_OK;
    bool is_followed = esp_coupling_follows(self->coupling, index);
    bool is_layer = esp_coupling_layer_at(self->coupling, index) >= 0;
    esp_status status = ESP_OK;
    if (is_layer)
        return ESP_OK;
    if (is_followed && node->op->rule == ESP_CHANNEL_MOVE)
        status = edit_movement(self, index, is_possible, err);
    else if (is_followed && node->op->rule == ESP_CHANNEL_GROUP)
        status = edit_groups(self, index, err);
    else if (is_followed)
        status = edit_constants(self, index, err);
    return status == ESP_OK && *is_possible ? settle_computed(self, index, is_possible, err) : status;
}

static esp_status edit_all(surgery *self, bool *has_vetoed, esp_error *err)
{
    esp_status status = ESP_OK;
    for (int i = 0; status == ESP_OK && i < esp_graph_node_count(self->graph); i++) {
        const esp_node *node = esp_graph_node(self->graph, i);
        bool is_possible = true;
        status = edit_node(self, i, &is_possible, err);
        if (is_possible)
            continue;
        veto_node(self, node);
        for (int k = 0; k < node->input_count && !is_any_vetoed(self); k++)
            veto_shapes(self, node->inputs[k]);
        *has_vetoed = true;
    }
    return status;
}

esp_status surgery_edit_nodes(surgery *self, bool *has_vetoed, esp_error *err)
{
    surgery_release_edits(self);
    *has_vetoed = false;
    esp_status status = surgery_infer_two(self, err);
    if (status == ESP_OK)
        status = surgery_chains_new(self, self->inferred, &self->chains[0], err);
    if (status == ESP_OK && self->inferred_two != NULL)
        status = surgery_chains_new(self, self->inferred_two, &self->chains[1], err);
    if (status == ESP_OK)
        status = edit_all(self, has_vetoed, err);
    for (int i = 0; i < 2; i++) {
        surgery_chains_free(self->chains[i]);
        self->chains[i] = NULL;
    }
    return status;
}
