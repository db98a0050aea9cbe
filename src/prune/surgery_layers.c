/* Surgery, layers in the new graph. A layer is written in parts, each an ordinary Conv, Gemm or MatMul with
 * some of its filters and channels:
 *
 *   dense      data -> layer -> output
 *   regular    data -> [Gather] -> Conv(group=g) -> [Gather] -> output
 *   diverse    data -> [Gather] -> layer/group0 --\
 *                   -> [Gather] -> layer/group1 ---> Concat -> [Gather] -> output
 *   with map   ... -> Add(map) -> output
 *
 * Gathers appear only where the order or the choice of channels asks for them. A group that reads nothing
 * reads one channel with zero weights: its filters are their bias. */
#include "prune/surgery_internal.h"

#include <stdio.h>
#include <string.h>

typedef struct layer_writing {
    surgery *self;
    graph_writer *writer;
    const esp_layer *layer;
    const esp_node *node;
    const layer_cut *cut;
    esp_layer_form form;
    const channel_list *filters;  /* the layer's output */
    const channel_list *channels; /* its input; identity when that is not followed */
    int index;
    const esp_mask *mask;
    int axis; /* channel axis of input and output */
} layer_writing;

/* ---- lists ---- */

static esp_status make_list(surgery *self, int64_t capacity, channel_list **out, esp_error *err)
{
    *out = esp_arena_alloc(self->arena, 1, sizeof **out);
    int64_t *indices = esp_arena_alloc(self->arena, (size_t)capacity + 1, sizeof *indices);
    if (*out == NULL || indices == NULL)
        return esp_fail_memory(err, "surgery", (size_t)capacity * sizeof *indices);
    (*out)->indices = indices;
    return ESP_OK;
}

static esp_status list_group_filters(const layer_writing *at, int group, channel_list **out, esp_error *err)
{
    esp_status status = make_list(at->self, at->filters->count, out, err);
    for (int64_t i = 0; status == ESP_OK && i < at->filters->count; i++) {
        if (at->cut->group_of[at->filters->indices[i]] == group)
            (*out)->indices[(*out)->count++] = at->filters->indices[i];
    }
    return status;
}

/* The group's channels, in the input's order; the first one when it reads none. */
static esp_status list_group_channels(const layer_writing *at, int group, channel_list **out, esp_error *err)
{
    esp_status status = make_list(at->self, at->channels->count, out, err);
    int64_t filter = at->cut->first_filter[group];
    for (int64_t i = 0; status == ESP_OK && i < at->channels->count; i++) {
        if (esp_mask_get(at->mask, filter, at->channels->indices[i]))
            (*out)->indices[(*out)->count++] = at->channels->indices[i];
    }
    if (status == ESP_OK && (*out)->count == 0)
        (*out)->indices[(*out)->count++] = at->channels->indices[0];
    return status;
}

/* Where the wanted old indices lie among those that are there; `is_identity` says that nothing has to move.
 */
static esp_status list_places(const layer_writing *at, const channel_list *there, const channel_list *wanted,
                              channel_list **out, esp_error *err)
{
    int64_t limit = 0;
    for (int64_t i = 0; i < there->count; i++)
        limit = there->indices[i] >= limit ? there->indices[i] + 1 : limit;
    int64_t *place_of = esp_arena_alloc(at->self->arena, (size_t)limit + 1, sizeof *place_of);
    if (place_of == NULL)
        return esp_fail_memory(err, "surgery", (size_t)limit * sizeof *place_of);
    esp_status status = make_list(at->self, wanted->count, out, err);
    if (status != ESP_OK)
        return status;
    for (int64_t i = 0; i < there->count; i++)
        place_of[there->indices[i]] = i;
    (*out)->is_identity = wanted->count == there->count;
    for (int64_t i = 0; i < wanted->count; i++) {
        (*out)->indices[i] = place_of[wanted->indices[i]];
        (*out)->is_identity = (*out)->is_identity && (*out)->indices[i] == i;
    }
    (*out)->count = wanted->count;
    return ESP_OK;
}

/* ---- tensors ---- */

static esp_status select_weight(const layer_writing *at, const channel_list *filters,
                                const channel_list *channels, esp_tensor **out, esp_error *err)
{
    esp_tensor *rows = NULL;
    esp_status status =
        surgery_select(surgery_weight(at->self, at->layer), at->layer->filter_axis, filters, &rows, err);
    if (status == ESP_OK)
        status = surgery_select(rows, at->layer->channel_axis, channels, out, err);
    esp_tensor_unref(rows);
    return status;
}

/* The filters of one group among the first group's, as every group has them. */
static channel_list first_group(const layer_writing *at, const channel_list *list)
{
    channel_list first = *list;
    first.count /= at->layer->group;
    return first;
}

/* The whole weight of a layer that stays one node. A convolution's first axis runs over the filters of all
 * groups and its second over the channels of one; a transposed convolution's over the channels of all groups
 * and the filters of one. */
static esp_status select_dense_weight(const layer_writing *at, esp_tensor **out, esp_error *err)
{
    static const channel_list all = {.is_identity = true};
    const esp_layer *layer = at->layer;
    bool follows = esp_coupling_layer_follows(at->self->coupling, at->index);
    bool is_transposed = layer->filter_axis > layer->channel_axis;
    if (layer->group == 1)
        return select_weight(at, at->filters, at->channels, out, err);
    if (follows || !esp_coupling_follows(at->self->coupling, layer->node))
        return select_weight(at, is_transposed ? &all : at->filters, is_transposed ? at->channels : &all, out,
                             err);
    channel_list filters = is_transposed ? first_group(at, at->filters) : *at->filters;
    channel_list channels = is_transposed ? *at->channels : first_group(at, at->channels);
    return select_weight(at, &filters, &channels, out, err);
}

/* Conv(group=g): [filters, channels per group, kernel] from the groups' blocks, filters in group order. */
static esp_status join_group_weights(const layer_writing *at, const channel_list *filters, esp_tensor **out,
                                     esp_error *err)
{
    esp_tensor *joined = NULL;
    size_t filled = 0;
    esp_status status = ESP_OK;
    for (int g = 0; status == ESP_OK && g < at->cut->group_count; g++) {
        channel_list *members = NULL, *channels = NULL;
        esp_tensor *block = NULL;
        status = list_group_filters(at, g, &members, err);
        if (status == ESP_OK)
            status = list_group_channels(at, g, &channels, err);
        if (status == ESP_OK)
            status = select_weight(at, members, channels, &block, err);
        if (status == ESP_OK && joined == NULL) {
            esp_shape shape = *esp_tensor_shape(block);
            shape.dims[0] = filters->count;
            status = esp_tensor_new(ESP_F32, &shape, &joined, err);
        }
        if (status == ESP_OK) {
            size_t count = (size_t)esp_tensor_elements(block);
            memcpy(esp_tensor_f32_mut(joined) + filled, esp_tensor_f32(block), count * sizeof(float));
            filled += count;
        }
        esp_tensor_unref(block);
    }
    if (status == ESP_OK)
        *out = joined;
    else
        esp_tensor_unref(joined);
    return status;
}

/* The bias of some filters with what cut channels add to it; NULL when there is none. A bias that is the same
 * number for all filters stays that number unless something is added. */
static esp_status select_bias(const layer_writing *at, const channel_list *filters, esp_tensor **out,
                              esp_error *err)
{
    const esp_tensor *bias = surgery_bias(at->self, at->node);
    const float *added = at->cut->added_bias;
    int64_t old_count = at->layer->filters;
    *out = NULL;
    if (bias == NULL && added == NULL)
        return ESP_OK;
    esp_shape shape = {.rank = 1, .dims = {filters->count}};
    bool is_per_filter = false;
    if (bias != NULL) {
        const esp_shape *old_shape = esp_tensor_shape(bias);
        is_per_filter = old_shape->rank > 0 && old_shape->dims[old_shape->rank - 1] == old_count;
        if (added == NULL && !is_per_filter) {
            *out = esp_tensor_ref(bias);
            return ESP_OK;
        }
        if (added == NULL)
            return surgery_select(bias, old_shape->rank - 1, filters, out, err);
    }
    esp_tensor *sum = NULL;
    esp_status status = esp_tensor_new(ESP_F32, &shape, &sum, err);
    for (int64_t i = 0; status == ESP_OK && i < filters->count; i++) {
        int64_t f = filters->indices[i];
        float before = bias == NULL ? 0.0F : esp_tensor_f32(bias)[is_per_filter ? f : 0];
        esp_tensor_f32_mut(sum)[i] = before + added[f];
    }
    *out = sum;
    return status;
}

/* ---- nodes ---- */

static esp_status write_gather(const layer_writing *at, int data, const channel_list *places,
                               const char *name, int output, esp_error *err)
{
    esp_tensor *indices = NULL;
    int inputs[2] = {data, -1};
    esp_shape shape = {.rank = 1, .dims = {places->count}};
    esp_attr axis = esp_attr_int("axis", at->axis);
    esp_status status = esp_tensor_from(ESP_I64, &shape, places->indices, &indices, err);
    if (status == ESP_OK)
        status = writer_constant(at->writer, -1, name, indices, &inputs[1], err);
    if (status == ESP_OK)
        status = writer_node(at->writer, "Gather", name, inputs, 2, output, &axis, 1, err);
    esp_tensor_unref(indices);
    return status;
}

/* `data` restricted to some of its channels, in the given order; `data` itself when these are all of them. */
static esp_status write_choice(const layer_writing *at, int data, const channel_list *there,
                               const channel_list *wanted, const char *name, int *out, esp_error *err)
{
    channel_list *places = NULL;
    esp_status status = list_places(at, there, wanted, &places, err);
    *out = data;
    if (status != ESP_OK || places->is_identity)
        return status;
    status = writer_new_value(at->writer, name, out, err);
    return status == ESP_OK ? write_gather(at, data, places, name, *out, err) : status;
}

/* Puts the bias of some filters among a node's inputs: the old value when it is computed while the model
 * runs. */
static esp_status write_bias(const layer_writing *at, const char *suffix, const channel_list *filters,
                             int *inputs, int *input_count, esp_error *err)
{
    int place = surgery_bias_input(at->node);
    int old_value = place >= 0 && place < at->node->input_count ? at->node->inputs[place] : -1;
    esp_tensor *bias = NULL;
    esp_text name = {0};
    esp_status status = select_bias(at, filters, &bias, err);
    if (status != ESP_OK || place < 0)
        return status;
    if (bias == NULL && old_value >= 0)
        status = writer_value(at->writer, old_value, &inputs[place], err);
    if (bias == NULL)
        return status;
    if (old_value >= 0)
        esp_text_printf(&name, "%s%s", esp_graph_value(at->self->graph, old_value)->name, suffix);
    else
        esp_text_printf(&name, "%s%s/bias", at->node->name, suffix);
    status = name.is_broken ? esp_fail_memory(err, "surgery", 0)
                            : writer_constant(at->writer, suffix[0] == '\0' ? old_value : -1, name.data, bias,
                                              &inputs[place], err);
    *input_count = place >= *input_count ? place + 1 : *input_count;
    esp_tensor_unref(bias);
    esp_text_free(&name);
    return status;
}

/* One node of the layer. `suffix` "" keeps the layer's names. `group` 0 leaves the attribute alone. `mask`:
 * of the weight, NULL when it has none. */
static esp_status write_part(const layer_writing *at, const char *suffix, int data, const esp_tensor *weight,
                             const channel_list *filters, int64_t group, const esp_mask *mask, int output,
                             esp_error *err)
{
    int inputs[8] = {data, -1, -1};
    int input_count = at->node->input_count < 3 ? at->node->input_count : 3;
    bool is_whole = suffix[0] == '\0';
    const char *name = is_whole ? NULL : writer_name(at->writer, "%s%s", at->node->name, suffix);
    esp_text text = {0};
    esp_attr attr = esp_attr_int("group", group);
    if (!is_whole && name == NULL)
        return esp_fail_memory(err, "surgery", 0);

    esp_text_printf(&text, "%s%s", at->layer->weight_name, suffix);
    esp_status status = text.is_broken
                            ? esp_fail_memory(err, "surgery", 0)
                            : writer_constant(at->writer, is_whole ? at->layer->weight : -1, text.data,
                                              weight, &inputs[at->form.weight_input], err);
    if (status == ESP_OK && mask != NULL)
        status = writer_note_mask(at->writer, mask, err);
    if (status == ESP_OK)
        status = write_bias(at, suffix, filters, inputs, &input_count, err);
    if (status == ESP_OK)
        status = writer_old_node(at->writer, at->node, name, inputs, input_count, &output, 1, &attr,
                                 group > 0, err);
    esp_text_free(&text);
    return status;
}

/* What is left of the layer's mask. */
static esp_status select_mask(const layer_writing *at, esp_mask *out, esp_error *err)
{
    channel_list columns = surgery_columns(at->self, at->index);
    bool is_narrowed = surgery_has_channels(at->self, at->node->outputs[0]);
    int64_t filters = is_narrowed ? at->filters->count : at->layer->filters;
    esp_status status = esp_mask_new(filters, columns.count, out, err);
    for (int64_t f = 0; status == ESP_OK && f < filters; f++) {
        int64_t old_filter = surgery_old_index(at->filters, f);
        for (int64_t c = 0; c < columns.count; c++) {
            if (!esp_mask_get(at->mask, old_filter, surgery_old_index(&columns, c)))
                esp_mask_clear(out, f, c);
        }
    }
    return status;
}

static esp_status write_dense(const layer_writing *at, int data, int output, esp_error *err)
{
    esp_tensor *weight = NULL;
    esp_mask mask = {0};
    bool follows = esp_coupling_layer_follows(at->self->coupling, at->index);
    int64_t group = follows ? at->channels->count / at->layer->channels : 0; /* 0: as it is */
    esp_status status = select_dense_weight(at, &weight, err);
    if (status == ESP_OK && at->cut->has_masks)
        status = select_mask(at, &mask, err);
    if (status == ESP_OK)
        status = write_part(at, "", data, weight, at->filters, group, at->cut->has_masks ? &mask : NULL,
                            output, err);
    esp_mask_free(&mask);
    esp_tensor_unref(weight);
    return status;
}

/* Filters in the order in which the groups write them. */
static esp_status list_natural_order(const layer_writing *at, channel_list **out, esp_error *err)
{
    esp_status status = make_list(at->self, at->filters->count, out, err);
    for (int g = 0; status == ESP_OK && g < at->cut->group_count; g++) {
        for (int64_t i = 0; i < at->filters->count; i++) {
            if (at->cut->group_of[at->filters->indices[i]] == g)
                (*out)->indices[(*out)->count++] = at->filters->indices[i];
        }
    }
    return status;
}

static esp_status list_regular_channels(const layer_writing *at, channel_list **out, esp_error *err)
{
    esp_status status = make_list(at->self, at->channels->count, out, err);
    for (int g = 0; status == ESP_OK && g < at->cut->group_count; g++) {
        channel_list *own = NULL;
        status = list_group_channels(at, g, &own, err);
        for (int64_t i = 0; status == ESP_OK && i < own->count; i++)
            (*out)->indices[(*out)->count++] = own->indices[i];
    }
    return status;
}

/* One group: its channels, its filters. A single group keeps the layer's names. */
static esp_status write_group(const layer_writing *at, int group, int data, int output, esp_error *err)
{
    channel_list *filters = NULL, *channels = NULL;
    esp_tensor *weight = NULL;
    char suffix[32] = "";
    int chosen = -1;
    if (at->cut->group_count > 1)
        snprintf(suffix, sizeof suffix, "/group%d", group);
    esp_status status = list_group_filters(at, group, &filters, err);
    if (status == ESP_OK)
        status = list_group_channels(at, group, &channels, err);
    if (status != ESP_OK)
        return status;
    const char *name = writer_name(at->writer, "%s%s/channels", at->node->name, suffix);
    if (name == NULL)
        return esp_fail_memory(err, "surgery", 0);
    status = write_choice(at, data, at->channels, channels, name, &chosen, err);
    if (status == ESP_OK)
        status = select_weight(at, filters, channels, &weight, err);
    bool reads_nothing = !esp_mask_get(at->mask, filters->indices[0], channels->indices[0]);
    esp_mask nothing = {0};
    if (status == ESP_OK && reads_nothing)
        status = esp_mask_new(filters->count, channels->count, &nothing, err);
    for (int64_t f = 0; status == ESP_OK && reads_nothing && f < filters->count; f++)
        esp_mask_clear_filter(&nothing, f);
    if (status == ESP_OK)
        status =
            write_part(at, suffix, chosen, weight, filters, 0, reads_nothing ? &nothing : NULL, output, err);
    esp_mask_free(&nothing);
    esp_tensor_unref(weight);
    return status;
}

static esp_status write_diverse(const layer_writing *at, int data, int output, esp_error *err)
{
    int count = at->cut->group_count;
    int *parts = esp_arena_alloc(at->self->arena, (size_t)count, sizeof *parts);
    const char *output_name = esp_graph_value(at->self->graph, at->node->outputs[0])->name;
    esp_attr axis = esp_attr_int("axis", at->axis);
    if (parts == NULL)
        return esp_fail_memory(err, "surgery", (size_t)count * sizeof *parts);
    esp_status status = ESP_OK;
    for (int g = 0; status == ESP_OK && g < count; g++) {
        const char *name = writer_name(at->writer, "%s/group%d", output_name, g);
        status = name == NULL ? esp_fail_memory(err, "surgery", 0)
                              : writer_new_value(at->writer, name, &parts[g], err);
        if (status == ESP_OK)
            status = write_group(at, g, data, parts[g], err);
    }
    if (status != ESP_OK)
        return status;
    const char *name = writer_name(at->writer, "%s/concat", at->node->name);
    return name == NULL ? esp_fail_memory(err, "surgery", 0)
                        : writer_node(at->writer, "Concat", name, parts, count, output, &axis, 1, err);
}

static esp_status write_regular(const layer_writing *at, int data, const channel_list *natural, int output,
                                esp_error *err)
{
    channel_list *channels = NULL;
    esp_tensor *weight = NULL;
    int chosen = -1;
    const char *name = writer_name(at->writer, "%s/channels", at->node->name);
    esp_status status =
        name == NULL ? esp_fail_memory(err, "surgery", 0) : list_regular_channels(at, &channels, err);
    if (status == ESP_OK)
        status = write_choice(at, data, at->channels, channels, name, &chosen, err);
    if (status == ESP_OK)
        status = join_group_weights(at, natural, &weight, err);
    if (status == ESP_OK)
        status = write_part(at, "", chosen, weight, natural, at->cut->group_count, NULL, output, err);
    esp_tensor_unref(weight);
    return status;
}

static esp_status write_grouped(const layer_writing *at, int data, int output, esp_error *err)
{
    channel_list *natural = NULL, *places = NULL;
    int written = output;
    const char *name = writer_name(at->writer, "%s/order", at->node->name);
    esp_status status =
        name == NULL ? esp_fail_memory(err, "surgery", 0) : list_natural_order(at, &natural, err);
    if (status == ESP_OK)
        status = list_places(at, natural, at->filters, &places, err);
    if (status == ESP_OK && !places->is_identity)
        status = writer_new_value(at->writer, name, &written, err);
    if (status != ESP_OK)
        return status;
    if (at->cut->group_count == 1)
        status = write_group(at, 0, data, written, err);
    else if (at->cut->is_regular)
        status = write_regular(at, data, natural, written, err);
    else
        status = write_diverse(at, data, written, err);
    if (status != ESP_OK || places->is_identity)
        return status;
    return write_gather(at, written, places, name, output, err);
}

static esp_status write_map(const layer_writing *at, int data, int output, esp_error *err)
{
    esp_tensor *map = NULL;
    int inputs[2] = {data, -1};
    const char *name = writer_name(at->writer, "%s/constant", at->node->name);
    if (name == NULL)
        return esp_fail_memory(err, "surgery", 0);
    esp_status status = surgery_select(at->cut->added_map, at->axis, at->filters, &map, err);
    if (status == ESP_OK)
        status = writer_constant(at->writer, -1, name, map, &inputs[1], err);
    if (status == ESP_OK)
        status = writer_node(at->writer, "Add", name, inputs, 2, output, NULL, 0, err);
    esp_tensor_unref(map);
    return status;
}

esp_status surgery_write_layer(surgery *self, graph_writer *writer, int index, esp_error *err)
{
    static const channel_list untouched = {.is_identity = true};
    const esp_layer *layer = &self->layers->items[index];
    const esp_node *node = esp_graph_node(self->graph, layer->node);
    bool is_followed = esp_coupling_follows(self->coupling, layer->node);
    layer_writing at = {
        .self = self,
        .writer = writer,
        .layer = layer,
        .node = node,
        .cut = &self->layer_cuts[index],
        .index = index,
        .filters = surgery_kept(self, node->outputs[0]),
        .channels = is_followed ? surgery_kept(self, node->inputs[0]) : &untouched,
        .mask = &self->masks[index],
        .axis = layer->is_conv ? 1 : esp_inferred_shape(self->inferred, node->outputs[0])->rank - 1,
    };
    int data = -1, output = -1, target = -1;
    node->op->layer(node, &at.form);
    esp_status status = writer_value(writer, node->inputs[0], &data, err);
    if (status == ESP_OK)
        status = writer_value(writer, node->outputs[0], &output, err);
    target = output;
    if (status == ESP_OK && at.cut->added_map != NULL) {
        const char *name =
            writer_name(writer, "%s/cut", esp_graph_value(self->graph, node->outputs[0])->name);
        status =
            name == NULL ? esp_fail_memory(err, "surgery", 0) : writer_new_value(writer, name, &target, err);
    }
    if (status != ESP_OK)
        return status;
    status =
        at.cut->group_count > 0 ? write_grouped(&at, data, target, err) : write_dense(&at, data, target, err);
    if (status == ESP_OK && at.cut->added_map != NULL)
        status = write_map(&at, target, output, err);
    return status;
}
