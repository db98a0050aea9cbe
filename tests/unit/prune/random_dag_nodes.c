/* Channels of a node get numbers of their own in the truth, and edges to the numbers they must go with. */
#include "unit/prune/random_dag_nodes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the truth ---- */

static void *grown(void *items, int count, int *capacity, size_t size)
{
    if (count < *capacity)
        return items;
    *capacity = *capacity == 0 ? 256 : *capacity * 2;
    items = realloc(items, (size_t)*capacity * size);
    assert_non_null(items);
    return items;
}

int truth_channels(truth *self, const char *name, int64_t channels)
{
    int base = self->id_count;
    self->values = grown(self->values, self->value_count, &self->value_capacity, sizeof *self->values);
    truth_value *value = &self->values[self->value_count++];
    snprintf(value->name, sizeof value->name, "%s", name);
    value->base = base;
    value->channels = channels;
    for (int64_t c = 0; c < channels; c++) {
        self->is_pinned = grown(self->is_pinned, self->id_count, &self->id_capacity, sizeof(bool));
        self->is_pinned[self->id_count++] = false;
    }
    return base;
}

void truth_tie(truth *self, int a, int b)
{
    self->edges = grown(self->edges, self->edge_count, &self->edge_capacity, sizeof *self->edges);
    self->edges[self->edge_count][0] = a;
    self->edges[self->edge_count++][1] = b;
}

void truth_pin(truth *self, int base, int64_t channels)
{
    for (int64_t c = 0; c < channels; c++)
        self->is_pinned[base + (int)c] = true;
}

void truth_use(truth *self, bool is_writer, const char *layer, int64_t index, int id)
{
    self->users = grown(self->users, self->user_count, &self->user_capacity, sizeof *self->users);
    truth_user *user = &self->users[self->user_count++];
    snprintf(user->layer, sizeof user->layer, "%s", layer);
    user->is_writer = is_writer;
    user->index = index;
    user->id = id;
}

/* What is alone in a value must stay. */
static void keep_one(truth *self, const truth_value *value)
{
    int class = self->class_of[value->base];
    for (int c = 1; c < (int)value->channels; c++) {
        if (self->class_of[value->base + c] != class)
            return;
    }
    for (int id = 0; id < self->id_count; id++)
        self->is_pinned[id] = self->is_pinned[id] || self->class_of[id] == class;
}

/* Classes by spreading the least number along the edges until nothing changes. */
void truth_close(truth *self)
{
    bool is_changed = true;
    self->class_of = calloc((size_t)self->id_count, sizeof *self->class_of);
    assert_non_null(self->class_of);
    for (int i = 0; i < self->id_count; i++)
        self->class_of[i] = i;
    while (is_changed) {
        is_changed = false;
        for (int e = 0; e < self->edge_count; e++) {
            int a = self->edges[e][0], b = self->edges[e][1];
            int least = self->class_of[a] < self->class_of[b] ? self->class_of[a] : self->class_of[b];
            bool pinned = self->is_pinned[a] || self->is_pinned[b];
            is_changed = is_changed || self->class_of[a] != least || self->class_of[b] != least ||
                         self->is_pinned[a] != pinned || self->is_pinned[b] != pinned;
            self->class_of[a] = self->class_of[b] = least;
            self->is_pinned[a] = self->is_pinned[b] = pinned;
        }
    }
    for (int v = 0; v < self->value_count; v++)
        keep_one(self, &self->values[v]);
}

void truth_free(truth *self)
{
    free(self->is_pinned);
    free(self->class_of);
    free(self->values);
    free(self->edges);
    free(self->users);
    *self = (truth){0};
}

/* ---- tensors and nodes ---- */

int64_t dag_pick(dag *d, int64_t low, int64_t high)
{
    return low + (int64_t)esp_rng_below(&d->n.rng, (uint64_t)(high - low + 1));
}

bool dag_coin(dag *d)
{
    return dag_pick(d, 0, 1) == 0;
}

/* One node with one output, which has channels of its own in the truth. `like` says its sizes. */
dag_tensor dag_node(dag *d, const char *op, const int *inputs, int input_count, const esp_attr *attrs,
                    int attr_count, int64_t channels, dag_tensor like)
{
    char name[64];
    net_tensor made = net_node(&d->n, op, inputs, input_count, attrs, attr_count, (net_tensor){0});
    dag_tensor y = like;
    snprintf(name, sizeof name, "%s%d_out", op, d->n.counter);
    y.value = made.value;
    y.channels = channels;
    y.base = truth_channels(d->truth, name, channels);
    return y;
}

/* A node in a chain of shapes. */
int dag_shape_node(dag *d, const char *op, const int *inputs, int input_count, const esp_attr *attrs,
                   int attr_count)
{
    return net_node(&d->n, op, inputs, input_count, attrs, attr_count, (net_tensor){0}).value;
}

/* The name of the last node. */
const char *dag_last(dag *d, const char *op, char buffer[64])
{
    snprintf(buffer, 64, "%s%d", op, d->n.counter);
    return buffer;
}

void dag_same_channels(dag *d, dag_tensor x, dag_tensor y)
{
    for (int c = 0; c < (int)x.channels; c++)
        truth_tie(d->truth, x.base + c, y.base + c);
}

dag_tensor dag_copy(dag *d, const char *op, dag_tensor x, const int *others, int other_count,
                    const esp_attr *attrs, int attr_count)
{
    int inputs[8] = {x.value};
    for (int i = 0; i < other_count; i++)
        inputs[i + 1] = others[i];
    dag_tensor y = dag_node(d, op, inputs, other_count + 1, attrs, attr_count, x.channels, x);
    dag_same_channels(d, x, y);
    return y;
}

dag_tensor dag_unary(dag *d, const char *op, dag_tensor x)
{
    return dag_copy(d, op, x, NULL, 0, NULL, 0);
}

int dag_ints(dag *d, const int64_t *values, int count)
{
    return net_ints(&d->n, "ints", values, count);
}

dag_tensor dag_two(dag *d, const char *op, dag_tensor a, dag_tensor b)
{
    const int inputs[2] = {a.value, b.value};
    dag_tensor y = dag_node(d, op, inputs, 2, NULL, 0, a.channels, a);
    dag_same_channels(d, a, y);
    dag_same_channels(d, b, y);
    return y;
}

/* One number per channel: [C, 1, ...] with `spatial` ones. */
int dag_per_channel(dag *d, dag_tensor x, double shift)
{
    const int64_t dims[4] = {x.channels, 1, 1, 1};
    return net_random(&d->n, "line", x.spatial + 1, dims, 0.2, shift);
}

/* ---- layers ---- */

/* Groups of one channel or one filter, or more groups than either: whole groups go. Else all groups lose the
 * same. */
static void note_groups(dag *d, const char *layer, dag_tensor x, dag_tensor y, int64_t group)
{
    int channels = (int)(x.channels / group), filters = (int)(y.channels / group);
    bool is_whole = channels == 1 || filters == 1 || (group > channels && group > filters);
    for (int g = 0; g < (int)group; g++) {
        int x0 = x.base + (is_whole ? g * channels : 0), y0 = y.base + (is_whole ? g * filters : 0);
        for (int c = 0; c < channels; c++)
            truth_tie(d->truth, is_whole ? x0 : x0 + c, x.base + g * channels + c);
        for (int f = 0; f < filters; f++)
            truth_tie(d->truth, is_whole ? x0 : y0 + f, y.base + g * filters + f);
        for (int f = 0; f < filters && !is_whole; f++)
            truth_use(d->truth, true, layer, g * filters + f, y.base + g * filters + f);
    }
    for (int c = 0; c < channels && !is_whole; c++)
        truth_use(d->truth, false, layer, c, x.base + c);
}

void dag_note_layer(dag *d, const char *layer, dag_tensor x, dag_tensor y, int64_t group)
{
    if (group > 1) {
        note_groups(d, layer, x, y, group);
        return;
    }
    for (int c = 0; c < (int)x.channels; c++)
        truth_use(d->truth, false, layer, c, x.base + c);
    for (int f = 0; f < (int)y.channels; f++)
        truth_use(d->truth, true, layer, f, y.base + f);
}

/* "same" padding for odd kernels; a transposed convolution with kernel 2 and stride 2 doubles sizes. */
dag_tensor dag_convolve(dag *d, dag_tensor x, int64_t filters, conv_form form, int weight)
{
    int64_t group = form.group > 0 ? form.group : 1, stride = form.stride > 0 ? form.stride : 1;
    int64_t pad = form.kernel % 2 == 1 ? form.kernel / 2 : 0, pads[6], strides[3], kernel[3];
    int64_t dims[5] = {form.is_transposed ? x.channels : filters,
                       form.is_transposed ? filters / group : x.channels / group};
    double fan = (double)(x.channels / group);
    dag_tensor like = x;
    char name[64];
    for (int i = 0; i < x.spatial; i++) {
        dims[i + 2] = kernel[i] = form.kernel;
        fan *= (double)form.kernel;
        strides[i] = stride;
        pads[i] = pads[i + x.spatial] = pad;
        like.size[i] = form.is_transposed ? (x.size[i] - 1) * stride + form.kernel - 2 * pads[i]
                                          : (x.size[i] + 2 * pads[i] - form.kernel) / stride + 1;
    }
    const esp_attr attrs[4] = {esp_attr_ints("kernel_shape", kernel, x.spatial),
                               esp_attr_ints("strides", strides, x.spatial),
                               esp_attr_ints("pads", pads, 2 * x.spatial), esp_attr_int("group", group)};
    bool has_bias = dag_coin(d);
    int inputs[3] = {x.value, weight, -1};
    if (weight < 0)
        inputs[1] = net_random(&d->n, "weight", x.spatial + 2, dims, 1.0 / sqrt(fan), 0);
    if (has_bias)
        inputs[2] = net_random(&d->n, "bias", 1, &filters, 0.3, 0.1);
    const char *op = form.is_transposed ? "ConvTranspose" : "Conv";
    dag_tensor y = dag_node(d, op, inputs, has_bias ? 3 : 2, attrs, 4, filters, like);
    dag_note_layer(d, dag_last(d, op, name), x, y, group);
    return y;
}

dag_tensor dag_conv3(dag *d, dag_tensor x, int64_t filters)
{
    return dag_convolve(d, x, filters, (conv_form){.kernel = 3}, -1);
}

dag_tensor dag_conv1(dag *d, dag_tensor x, int64_t filters)
{
    return dag_convolve(d, x, filters, (conv_form){.kernel = 1}, -1);
}

dag_tensor dag_norm(dag *d, dag_tensor x)
{
    const int others[4] = {net_random(&d->n, "scale", 1, &x.channels, 0.1, 1),
                           net_random(&d->n, "shift", 1, &x.channels, 0.3, 0.1),
                           net_random(&d->n, "mean", 1, &x.channels, 0.2, 0),
                           net_random(&d->n, "variance", 1, &x.channels, 0.05, 1)};
    return dag_copy(d, "BatchNormalization", x, others, 4, NULL, 0);
}

dag_tensor dag_unit(dag *d, dag_tensor x, int64_t filters)
{
    static const char *const activations[] = {"Relu", "Sigmoid", "LeakyRelu", "HardSwish"};
    dag_tensor y = dag_coin(d) ? dag_conv3(d, x, filters) : dag_conv1(d, x, filters);
    if (dag_coin(d))
        y = dag_norm(d, y);
    return dag_unary(d, d->opset >= 14 ? activations[dag_pick(d, 0, 3)] : activations[dag_pick(d, 0, 2)], y);
}

dag_tensor dag_fully_connected(dag *d, dag_tensor x, int64_t filters)
{
    char name[64];
    bool is_gemm = dag_coin(d), is_transposed = is_gemm && dag_coin(d);
    const int64_t dims[2] = {is_transposed ? filters : x.channels, is_transposed ? x.channels : filters};
    const esp_attr attr = esp_attr_int("transB", is_transposed);
    int inputs[3] = {x.value, net_random(&d->n, "weight", 2, dims, 1.0 / sqrt((double)x.channels), 0), -1};
    const char *op = is_gemm ? "Gemm" : "MatMul";
    if (is_gemm)
        inputs[2] = net_random(&d->n, "bias", 1, &filters, 0.3, 0.1);
    dag_tensor y = dag_node(d, op, inputs, is_gemm ? 3 : 2, &attr, is_gemm, filters, x);
    dag_note_layer(d, dag_last(d, op, name), x, y, 1);
    return y;
}

/* ---- movement ---- */

dag_tensor dag_join(dag *d, dag_tensor a, dag_tensor b, int axis)
{
    const int inputs[2] = {a.value, b.value};
    const esp_attr attr = esp_attr_int("axis", axis);
    dag_tensor like = a;
    if (axis > 1)
        like.size[axis - 2] += b.size[axis - 2];
    dag_tensor y =
        dag_node(d, "Concat", inputs, 2, &attr, 1, axis == 1 ? a.channels + b.channels : a.channels, like);
    for (int c = 0; c < (int)a.channels; c++)
        truth_tie(d->truth, a.base + c, y.base + c);
    for (int c = 0; c < (int)b.channels; c++)
        truth_tie(d->truth, b.base + c, y.base + c + (axis == 1 ? (int)a.channels : 0));
    return y;
}

dag_tensor dag_slice(dag *d, dag_tensor x, int64_t from, int64_t to)
{
    const int64_t bounds[3] = {from, to, 1};
    const int inputs[4] = {x.value, dag_ints(d, bounds, 1), dag_ints(d, bounds + 1, 1),
                           dag_ints(d, bounds + 2, 1)};
    dag_tensor y = dag_node(d, "Slice", inputs, 4, NULL, 0, to - from, x);
    for (int c = 0; c < (int)y.channels; c++)
        truth_tie(d->truth, x.base + (int)from + c, y.base + c);
    return y;
}

void dag_split(dag *d, dag_tensor x, const int64_t *sizes, int count, bool is_given, dag_tensor *parts)
{
    esp_error err = {0};
    char name[64], output[80];
    int inputs[2] = {x.value, is_given ? dag_ints(d, sizes, count) : -1}, outputs[4], at = 0;
    const esp_attr attrs[2] = {esp_attr_int("axis", 1), esp_attr_int("num_outputs", count)};
    snprintf(name, sizeof name, "Split%d", ++d->n.counter);
    for (int i = 0; i < count; i++) {
        snprintf(output, sizeof output, "%s_out%d", name, i);
        expect_ok(esp_builder_value(d->n.builder, output, &outputs[i], &err), &err);
        parts[i] = x;
        parts[i].value = outputs[i];
        parts[i].channels = sizes[i];
        parts[i].base = truth_channels(d->truth, output, sizes[i]);
        for (int c = 0; c < (int)sizes[i]; c++)
            truth_tie(d->truth, x.base + at++, parts[i].base + c);
    }
    bool says_outputs = !is_given && d->opset >= 18;
    expect_ok(esp_builder_node(d->n.builder, "Split", name, inputs, is_given ? 2 : 1, outputs, count, attrs,
                               says_outputs ? 2 : 1, &err),
              &err);
}

dag_tensor dag_permute(dag *d, dag_tensor x, const int64_t *perm, int rank)
{
    const esp_attr attr = esp_attr_ints("perm", perm, rank);
    return dag_copy(d, "Transpose", x, NULL, 0, &attr, 1);
}

/* Shape(x)[from:to] */
int dag_shape_part(dag *d, int shape, int64_t from, int64_t to)
{
    const int64_t bounds[2] = {from, to};
    const int inputs[3] = {shape, dag_ints(d, bounds, 1), dag_ints(d, bounds + 1, 1)};
    return dag_shape_node(d, "Slice", inputs, 3, NULL, 0);
}

int dag_chain_of(dag *d, const int *parts, int count)
{
    const esp_attr axis = esp_attr_int("axis", 0);
    return dag_shape_node(d, "Concat", parts, count, &axis, 1);
}

int dag_reshaped_value(dag *d, int value, int target)
{
    const int inputs[2] = {value, target};
    return dag_shape_node(d, "Reshape", inputs, 2, NULL, 0);
}

/* [N, g, C/g, H, W] -> [N, C/g, g, H, W] -> [N, C, H, W]. Going together: channel j of every group when
 * groups are fewer than channels in them. */
dag_tensor dag_shuffle(dag *d, dag_tensor x, int64_t groups, bool by_shape)
{
    int64_t length = x.channels / groups, target[5] = {0, groups, length, x.size[0], x.size[1]};
    int64_t back[4] = {0, x.channels, x.size[0], x.size[1]};
    const int64_t perm[5] = {0, 2, 1, 3, 4};
    int to = -1, from = -1;
    if (by_shape) {
        int shape = dag_shape_node(d, "Shape", &x.value, 1, NULL, 0), number = dag_ints(d, &groups, 1);
        const int quotient[2] = {dag_shape_part(d, shape, 1, 2), number};
        const int parts[4] = {dag_shape_part(d, shape, 0, 1), number,
                              dag_shape_node(d, "Div", quotient, 2, NULL, 0), dag_shape_part(d, shape, 2, 4)};
        to = dag_chain_of(d, parts, 4);
        from = shape;
    } else {
        to = dag_ints(d, target, 5);
        from = dag_ints(d, back, 4);
    }
    const esp_attr attr = esp_attr_ints("perm", perm, 5);
    int parted = dag_reshaped_value(d, x.value, to);
    const int inputs[2] = {dag_shape_node(d, "Transpose", &parted, 1, &attr, 1), from};
    dag_tensor y = dag_node(d, "Reshape", inputs, 2, NULL, 0, x.channels, x);
    for (int c = 0; c < (int)x.channels; c++) {
        int group = c / (int)length, own = c % (int)length;
        truth_tie(d->truth, x.base + c, y.base + own * (int)groups + group);
        truth_tie(d->truth, x.base + c, x.base + (length > groups ? own : group * (int)length));
    }
    return y;
}
