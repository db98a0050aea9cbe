/* Self-grouped layers: what surgery writes as several nodes becomes one step (group_layer.h).
 *
 *   x -> [Gather] -> Conv --\
 *     -> [Gather] -> Conv ---> Concat -> [Gather: the filters' order]
 *
 * Convolutions alike in all but their filters and the channels they read, of one image, whose results nothing
 * but the Concat reads; Gathers of constant channels. Also one convolution alone behind (or in front of) such
 * a Gather, and a Conv(group=g) that has no blocked form. A Conv(group=g) counts as g groups. And Gemms in
 * the place of convolutions, when they are fully connected layers as dense.h computes them. The step stands
 * where the last of the nodes stood, so all it reads exists by then. A Gather that others read, too, stays.
 *
 * This happens before layouts are chosen: at evaluation a batch-norm, an addition and a clip behind the layer
 * are taken in as behind any convolution (fuse.h). In training the step exists in dense form only, and takes
 * the nodes' place where that is cheaper (fuse_group_price.c). */
#include <string.h>

#include "graph/fuse_group.h"
#include "graph/group_layer.h"
#include "graph/ops.h"
#include "graph/program_internal.h"

typedef esp_group_branch branch;
typedef esp_group_finding finding;

static esp_step *maker(const esp_compiler *c, int value)
{
    int s = value < 0 ? -1 : c->producer[value];
    return s < 0 || c->program->steps[s].is_joined ? NULL : &c->program->steps[s];
}

static const esp_node *node_of(const esp_compiler *c, const esp_step *step)
{
    return esp_graph_node(c->graph, step->node);
}

/* Images, or the rows of a fully connected layer. */
static bool is_layer_data(const esp_view *view)
{
    bool is_rows =
        view->dtype == ESP_F32 && view->shape.rank == 2 && view->shape.dims[0] > 0 && view->shape.dims[1] > 0;
    return is_rows || esp_view_is_image(view);
}

/* ---- Gathers ---- */

static bool is_channel_gather(const esp_compiler *c, const esp_step *step)
{
    const esp_view *values = c->program->values;
    int axis;
    if (step == NULL || step->op->forward != esp_op_gather_forward || !c->is_static[step->inputs[1]])
        return false;
    const esp_view *x = &values[step->inputs[0]], *indices = &values[step->inputs[1]];
    return is_layer_data(x) && indices->data != NULL && indices->shape.rank == 1 &&
           esp_op_axis(esp_node_int(node_of(c, step), "axis", 0), x->shape.rank, &axis, NULL) == ESP_OK &&
           axis == 1;
}

/* The channels a Gather reads, counted from the front; NULL when memory is out. */
static int64_t *gathered(const esp_compiler *c, const esp_step *step)
{
    const esp_view *values = c->program->values;
    const esp_view *indices = &values[step->inputs[1]];
    int64_t count = indices->shape.dims[0], channels = values[step->inputs[0]].shape.dims[1];
    int64_t *list = esp_arena_alloc(c->arena, (size_t)count, sizeof *list);
    if (list == NULL)
        return NULL;
    esp_view_ints(indices, list, (int)count);
    for (int64_t i = 0; i < count; i++)
        list[i] += list[i] < 0 ? channels : 0;
    return list;
}

/* Whether a Gather puts all channels in another order; `order` is then where each of its input's goes. */
static bool is_permutation(const esp_compiler *c, const esp_step *step, int64_t **order)
{
    int64_t channels = c->program->values[step->inputs[0]].shape.dims[1];
    int64_t count = c->program->values[step->inputs[1]].shape.dims[0];
    int64_t *list = count == channels ? gathered(c, step) : NULL;
    *order = list == NULL ? NULL : esp_arena_alloc(c->arena, (size_t)count, sizeof **order);
    if (*order == NULL)
        return false;
    for (int64_t i = 0; i < count; i++)
        (*order)[i] = -1;
    for (int64_t i = 0; i < count; i++) {
        if ((*order)[list[i]] >= 0)
            return false;
        (*order)[list[i]] = i;
    }
    return true;
}

/* ---- recognising ---- */

/* x [rows, channels] and weight [filters, channels]. */
static esp_conv_geometry dense_geometry(const esp_view *x, const esp_view *weight)
{
    return (esp_conv_geometry){.batch = x->shape.dims[0],
                               .channels = x->shape.dims[1],
                               .height = 1,
                               .width = 1,
                               .filters = weight->shape.dims[0],
                               .group = 1,
                               .kernel_h = 1,
                               .kernel_w = 1,
                               .stride_h = 1,
                               .stride_w = 1,
                               .dilation_h = 1,
                               .dilation_w = 1,
                               .out_height = 1,
                               .out_width = 1};
}

static bool read_branch(esp_compiler *c, int step_index, branch *out)
{
    esp_step *step = &c->program->steps[step_index];
    const esp_view *values = c->program->values;
    bool is_conv = step->op->forward == esp_op_conv_forward,
         is_dense = step->op->forward == esp_op_gemm_forward;
    if (step->is_joined || (!is_conv && !is_dense) || !is_layer_data(&values[step->outputs[0]]))
        return false;
    for (int i = ESP_CONV_WEIGHT; i < step->input_count; i++) {
        if (step->inputs[i] >= 0 && !esp_compiler_is_fixed(c, step->inputs[i]))
            return false;
    }
    if (esp_compiler_fill_context(c, step, NULL) != ESP_OK)
        return false;
    if (is_dense && !esp_op_gemm_is_dense(&step->context))
        return false;
    *out =
        (branch){.is_dense = is_dense, .step = step_index, .gather = -1, .source = step->inputs[ESP_CONV_X]};
    if (is_conv)
        esp_op_conv_geometry(&step->context, &out->geometry);
    else
        out->geometry = dense_geometry(&values[out->source], &values[step->inputs[ESP_CONV_WEIGHT]]);
    out->filters = out->geometry.filters;
    out->channels = out->geometry.channels;
    out->group = out->geometry.group;
    const esp_step *gather = maker(c, out->source);
    if (is_channel_gather(c, gather)) {
        out->gather = (int)(gather - c->program->steps);
        out->source = gather->inputs[0];
    }
    out->geometry.channels = values[out->source].shape.dims[1];
    out->geometry.filters = 0;
    out->geometry.group = 1;
    return true;
}

static bool reads_all(const branch *b)
{
    return b->gather < 0 && b->group == 1;
}

/* The Gather behind the layer's last value, when only it reads that. */
static int find_order(const esp_compiler *c, int value)
{
    int64_t *order;
    int reader = c->read_count[value] == 1 && !c->is_out[value] ? c->last_reader[value] : -1;
    if (reader < 0 || !is_channel_gather(c, &c->program->steps[reader]))
        return -1;
    const esp_step *step = &c->program->steps[reader];
    return step->inputs[0] == value && is_permutation(c, step, &order) ? reader : -1;
}

/* All of a Concat's inputs are branches of one layer, and not each reads all channels. */
static bool find_joined(esp_compiler *c, int s, finding *out)
{
    const esp_step *step = &c->program->steps[s];
    const esp_view *y = &c->program->values[step->outputs[0]];
    int axis;
    bool is_grouped = false;
    if (step->op->forward != esp_op_concat_forward || !is_layer_data(y) ||
        esp_op_axis(esp_node_int(node_of(c, step), "axis", 1), y->shape.rank, &axis, NULL) != ESP_OK ||
        axis != 1)
        return false;
    out->branches = esp_arena_alloc(c->arena, (size_t)step->input_count, sizeof *out->branches);
    if (out->branches == NULL)
        return false;
    for (int i = 0; i < step->input_count; i++) {
        int value = step->inputs[i];
        branch *b = &out->branches[i];
        if (c->producer[value] < 0 || c->read_count[value] != 1 || !read_branch(c, c->producer[value], b) ||
            b->source != out->branches[0].source || b->is_dense != out->branches[0].is_dense ||
            memcmp(&b->geometry, &out->branches[0].geometry, sizeof b->geometry) != 0)
            return false;
        is_grouped = is_grouped || !reads_all(b);
    }
    out->join = s;
    out->count = step->input_count;
    out->order = find_order(c, step->outputs[0]);
    return is_grouped;
}

/* A convolution alone that reads chosen channels, or is in groups that no blocked kernel takes. Depthwise
 * ones have kernels of their own. */
static bool find_single(esp_compiler *c, int s, finding *out)
{
    esp_step *step = &c->program->steps[s];
    esp_op_layouts layouts;
    out->branches = step->is_joined ? NULL : esp_arena_alloc(c->arena, 1, sizeof *out->branches);
    if (out->branches == NULL || !read_branch(c, s, out->branches))
        return false;
    const branch *b = out->branches;
    out->join = -1;
    out->count = 1;
    out->order = find_order(c, step->outputs[0]);
    if (b->is_dense)
        return false;
    bool is_depthwise = b->group > 1 && b->group == b->channels;
    if (esp_compiler_mark_wanted(c, step, NULL) != ESP_OK)
        return false;
    bool has_blocks = b->group > 1 && step->op->blocks(&step->context, &layouts);
    step->context.input_grads = NULL;
    return !is_depthwise && !has_blocks && (b->gather >= 0 || b->group > 1 || out->order >= 0);
}

/* ---- making the layer ---- */

/* Mixes bytes into a key: what tells layers apart that share their first weight. */
static uint64_t mix(uint64_t key, const void *data, size_t bytes)
{
    const unsigned char *from = data;
    for (; bytes > 0; bytes -= bytes < sizeof key ? bytes : sizeof key) {
        uint64_t word = 0;
        size_t count = bytes < sizeof word ? bytes : sizeof word;
        memcpy(&word, from, count);
        key = (key ^ word) * 0x9e3779b97f4a7c15u;
        key ^= key >> 32;
        from += count;
    }
    return key;
}

/* Stands for everything that is packed; 0 unless all of it is constant. */
static uint64_t key_of(const esp_compiler *c, const esp_group_layer *layer, const esp_step *step)
{
    uint64_t key = 0x73656c6667726f75u;
    for (int i = ESP_CONV_WEIGHT; i < step->input_count; i++) {
        int v = step->inputs[i];
        if (v >= 0 && !c->is_static[v])
            return 0;
        if (v < 0)
            continue;
        const esp_view *view = &c->program->values[v];
        key = mix(key, &view->shape.dims[0], sizeof view->shape.dims[0]);
        key = mix(key, view->data, (size_t)esp_view_storage(view) * sizeof(float));
    }
    for (int64_t g = 0; g < layer->count; g++) {
        const esp_filter_group *group = &layer->groups[g];
        const int64_t sizes[] = {group->filters, group->channel_count, layer->sources[g].bias_input};
        key = mix(key, sizes, sizeof sizes);
        key = mix(key, group->channels, (size_t)group->channel_count * sizeof *group->channels);
    }
    if (layer->order != NULL)
        key = mix(key, layer->order, (size_t)layer->geometry.filters * sizeof *layer->order);
    return key == 0 ? 1 : key;
}

static int64_t *all_channels(const esp_compiler *c, int64_t count)
{
    int64_t *list = esp_arena_alloc(c->arena, (size_t)count, sizeof *list);
    for (int64_t i = 0; list != NULL && i < count; i++)
        list[i] = i;
    return list;
}

/* The groups of one convolution; the weight and bias become inputs of the step. */
static bool add_branch(const esp_compiler *c, const branch *b, esp_group_layer *layer, esp_step *out)
{
    const esp_step *conv = &c->program->steps[b->step];
    const int64_t *channels =
        b->gather < 0 ? all_channels(c, b->channels) : gathered(c, &c->program->steps[b->gather]);
    int bias = ESP_CONV_BIAS < conv->input_count ? conv->inputs[ESP_CONV_BIAS] : -1;
    int weight_input = layer->count == 0 ? ESP_CONV_WEIGHT : out->input_count++;
    int bias_input = bias < 0 ? -1 : out->input_count++;
    if (channels == NULL)
        return false;
    out->inputs[weight_input] = conv->inputs[ESP_CONV_WEIGHT];
    if (bias >= 0)
        out->inputs[bias_input] = bias;
    for (int64_t g = 0; g < b->group; g++) {
        int64_t filters = b->filters / b->group, count = b->channels / b->group;
        layer->groups[layer->count] =
            (esp_filter_group){.filters = filters, .channel_count = count, .channels = channels + g * count};
        layer->sources[layer->count++] =
            (esp_group_source){.weight_input = weight_input,
                               .bias_input = bias_input,
                               .first_filter = g * filters,
                               .layer_filter = layer->geometry.filters + g * filters};
    }
    layer->geometry.filters += b->filters;
    layer->has_bias = layer->has_bias || bias >= 0;
    return true;
}

/* Of the step: whose place it takes, and whose node's work it mainly does. */
static int place_of(const finding *found)
{
    return found->join >= 0 ? found->join : found->branches[0].step;
}

/* The inputs of `*out` are laid out as group_layer.h says. */
static esp_status make_layer(esp_compiler *c, const finding *found, esp_step *out, esp_error *err)
{
    const esp_step *main = &c->program->steps[place_of(found)];
    const esp_step *last = found->order >= 0 ? &c->program->steps[found->order] : main;
    *out = (esp_step){.node = main->node, .output_count = last->output_count, .outputs = last->outputs};
    esp_group_layer *layer = esp_arena_alloc(c->arena, 1, sizeof *layer);
    size_t groups = 0, inputs = ESP_CONV_INPUTS + 2 * (size_t)found->count;
    for (int i = 0; i < found->count; i++)
        groups += (size_t)found->branches[i].group;
    out->inputs = esp_arena_alloc(c->arena, inputs, sizeof *out->inputs);
    if (layer == NULL || out->inputs == NULL)
        return esp_compiler_no_memory(err);
    layer->geometry = found->branches[0].geometry;
    layer->groups = esp_arena_alloc(c->arena, groups, sizeof *layer->groups);
    layer->sources = esp_arena_alloc(c->arena, groups, sizeof *layer->sources);
    bool is_whole = layer->groups != NULL && layer->sources != NULL;
    out->input_count = ESP_CONV_INPUTS;
    out->inputs[ESP_CONV_X] = found->branches[0].source;
    out->inputs[ESP_CONV_BIAS] = out->inputs[ESP_CONV_RESIDUAL] = -1;
    for (int i = 0; is_whole && i < found->count; i++)
        is_whole = add_branch(c, &found->branches[i], layer, out);
    if (is_whole && found->order >= 0)
        is_whole = is_permutation(c, &c->program->steps[found->order], &layer->order);
    if (!is_whole)
        return esp_compiler_no_memory(err);
    out->fused.group = layer;
    if (found->branches[0].is_dense || c->request->is_training) {
        out->op = found->branches[0].is_dense ? &esp_group_dense_row : &esp_group_train_row;
        return ESP_OK;
    }
    layer->key = key_of(c, layer, out);
    out->op = &esp_group_row;
    esp_status status = esp_group_layer_plan(layer, c->request->engine, err);
    if (status != ESP_OK)
        return status;
    layer->next = c->program->group_layers;
    c->program->group_layers = layer;
    return ESP_OK;
}

/* ---- putting it in place ---- */

static void take_over(esp_compiler *c, int s, int by)
{
    esp_step *step = &c->program->steps[s];
    if (s != by)
        step->is_joined = true;
    c->program->node_steps[step->node] = by;
}

static void put_layer(esp_compiler *c, const finding *found, const esp_step *made)
{
    esp_program *program = c->program;
    int join = place_of(found), at = found->order >= 0 ? found->order : join;
    for (int i = 0; i < found->count; i++) {
        const branch *b = &found->branches[i];
        take_over(c, b->step, at);
        if (b->gather >= 0 && --c->read_count[program->steps[b->gather].outputs[0]] == 0)
            take_over(c, b->gather, at);
    }
    take_over(c, join, at);
    take_over(c, at, at);
    program->steps[at] = *made;
}

/* A layer that cannot be planned (offsets beyond 32 bits; no blocked kernel for training) stays as it is. */
static esp_status try_layer(esp_compiler *c, const finding *found, esp_error *err)
{
    esp_step made;
    bool pays = true;
    esp_status status = make_layer(c, found, &made, err);
    if (status == ESP_UNSUPPORTED)
        return ESP_OK;
    if (status == ESP_OK && c->request->is_training && !found->branches[0].is_dense)
        status = esp_compiler_group_pays(c, found, &made, &pays, err);
    if (status == ESP_OK && pays)
        put_layer(c, found, &made);
    return status;
}

esp_status esp_compiler_join_groups(esp_compiler *c, esp_error *err)
{
    esp_status status = ESP_OK;
    finding found;
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        if (!c->program->steps[s].is_joined && find_joined(c, s, &found))
            status = try_layer(c, &found, err);
    }
    for (int s = 0; status == ESP_OK && s < c->program->step_count; s++) {
        if (!c->program->steps[s].is_joined && find_single(c, s, &found))
            status = try_layer(c, &found, err);
    }
    return status;
}

esp_status esp_compiler_plain_layer(esp_compiler *c, int s, bool *is_made, esp_step *out, esp_error *err)
{
    branch b;
    *is_made = false;
    if (!read_branch(c, s, &b) || b.group != 1 || b.gather >= 0)
        return ESP_OK;
    finding found = {.join = -1, .order = -1, .count = 1, .branches = &b};
    esp_step made;
    esp_status status = make_layer(c, &found, &made, err);
    *is_made = status == ESP_OK;
    *out = made;
    return status == ESP_UNSUPPORTED ? ESP_OK : status;
}
