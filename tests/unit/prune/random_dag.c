/* Forms of coupling, and networks made of them. Sizes are tiny: what matters is the structure. */
#include <math.h>
#include <string.h>

#include "unit/prune/random_dag_nodes.h"

/* ---- forms ---- */

static dag_tensor pool(dag *d, const char *op, dag_tensor x)
{
    const int64_t kernel[3] = {2, 2, 2};
    const esp_attr attrs[2] = {esp_attr_ints("kernel_shape", kernel, x.spatial),
                               esp_attr_ints("strides", kernel, x.spatial)};
    for (int i = 0; i < x.spatial; i++)
        if (x.size[i] < 4)
            return x;
    dag_tensor y = dag_copy(d, op, x, NULL, 0, attrs, 2);
    for (int i = 0; i < x.spatial; i++)
        y.size[i] = x.size[i] / 2;
    return y;
}

static dag_tensor global(dag *d, dag_tensor x)
{
    dag_tensor y = dag_copy(d, dag_coin(d) ? "GlobalAveragePool" : "GlobalMaxPool", x, NULL, 0, NULL, 0);
    for (int i = 0; i < y.spatial; i++)
        y.size[i] = 1;
    return y;
}

/* a + pooled, [N,C,...] + [N,C,1,...] */
static dag_tensor spread(dag *d, const char *op, dag_tensor a, dag_tensor pooled)
{
    dag_tensor y = dag_coin(d) ? dag_two(d, op, a, pooled) : dag_two(d, op, pooled, a);
    memcpy(y.size, a.size, sizeof y.size);
    return y;
}

static dag_tensor over_channels(dag *d, dag_tensor x)
{
    const int64_t axes[1] = {1};
    const esp_attr attr = esp_attr_ints("axes", axes, 1);
    const int inputs[2] = {x.value, d->opset >= 18 ? dag_ints(d, axes, 1) : -1};
    dag_tensor y = dag_node(d, "ReduceMean", inputs, d->opset >= 18 ? 2 : 1, &attr, d->opset < 18, 1, x);
    truth_pin(d->truth, x.base, x.channels);
    truth_pin(d->truth, y.base, 1);
    return y;
}

static dag_tensor padded_residual(dag *d, dag_tensor x)
{
    int64_t before = dag_pick(d, 0, 2), after = dag_pick(d, 1, 2), pads[10] = {0};
    int rank = x.spatial + 2;
    pads[1] = before;
    pads[rank + 1] = after;
    const int inputs[2] = {x.value, dag_ints(d, pads, 2 * rank)};
    dag_tensor padded = dag_node(d, "Pad", inputs, 2, NULL, 0, x.channels + before + after, x);
    for (int c = 0; c < (int)x.channels; c++)
        truth_tie(d->truth, x.base + c, padded.base + (int)before + c);
    return dag_two(d, "Add", dag_conv3(d, x, padded.channels), padded);
}

static dag_tensor group_norm(dag *d, dag_tensor x, int64_t groups)
{
    int64_t count = d->opset < 21 ? groups : x.channels, length = x.channels / groups;
    const esp_attr attr = esp_attr_int("num_groups", groups);
    const int others[2] = {net_random(&d->n, "scale", 1, &count, 0.1, 1),
                           net_random(&d->n, "shift", 1, &count, 0.3, 0.1)};
    dag_tensor y = dag_copy(d, "GroupNormalization", x, others, 2, &attr, 1);
    for (int c = 0; c < (int)x.channels; c++)
        truth_tie(d->truth, x.base + c, x.base + c / (int)length * (int)length);
    return y;
}

/* As exporters write it: Reshape to [N, G, -1], InstanceNormalization, Reshape back, scale and shift. */
static dag_tensor group_norm_by_hand(dag *d, dag_tensor x, int64_t groups)
{
    const int64_t target[3] = {0, groups, -1}, length = x.channels / groups;
    int shape = dag_shape_node(d, "Shape", &x.value, 1, NULL, 0);
    const int inputs[3] = {dag_reshaped_value(d, x.value, dag_ints(d, target, 3)),
                           net_random(&d->n, "ones", 1, &groups, 0, 1),
                           net_random(&d->n, "zeros", 1, &groups, 0, 0)};
    int middle = dag_shape_node(d, "InstanceNormalization", inputs, 3, NULL, 0);
    const int back[2] = {middle, shape};
    dag_tensor y = dag_node(d, "Reshape", back, 2, NULL, 0, x.channels, x);
    dag_same_channels(d, x, y);
    for (int c = 0; c < (int)x.channels; c++)
        truth_tie(d->truth, x.base + c, x.base + c / (int)length * (int)length);
    int line = dag_per_channel(d, x, 1);
    y = dag_copy(d, "Mul", y, &line, 1, NULL, 0);
    line = dag_per_channel(d, x, 0);
    return dag_copy(d, "Add", y, &line, 1, NULL, 0);
}

static dag_tensor norms(dag *d, dag_tensor x)
{
    const int others[2] = {net_random(&d->n, "scale", 1, &x.channels, 0.1, 1),
                           net_random(&d->n, "shift", 1, &x.channels, 0.3, 0.1)};
    return dag_copy(d, "InstanceNormalization", dag_norm(d, x), others, 2, NULL, 0);
}

/* NHWC: arithmetic along the last axis, and a layer there. */
static dag_tensor channels_last(dag *d, dag_tensor x)
{
    const int64_t there[4] = {0, 2, 3, 1}, back[4] = {0, 3, 1, 2};
    dag_tensor y = dag_unary(d, "Relu", dag_permute(d, x, there, 4));
    int line = net_random(&d->n, "line", 1, &x.channels, 0.2, 1);
    y = dag_copy(d, "Mul", y, &line, 1, NULL, 0);
    if (dag_coin(d)) {
        char name[64];
        int64_t dims[2] = {x.channels, dag_pick(d, 3, 6)};
        const int inputs[2] = {y.value, net_random(&d->n, "weight", 2, dims, 0.4, 0)};
        dag_tensor z = dag_node(d, "MatMul", inputs, 2, NULL, 0, dims[1], x);
        dag_note_layer(d, dag_last(d, "MatMul", name), y, z, 1);
        y = z;
    }
    return dag_permute(d, y, back, 4);
}

/* NHWC, normalised over channels: those stay; the layer behind reads them all, and writes its own. */
static dag_tensor behind_a_wall(dag *d, dag_tensor x)
{
    const int64_t there[4] = {0, 2, 3, 1}, back[4] = {0, 3, 1, 2}, dims[2] = {x.channels, 5};
    const esp_attr axis = esp_attr_int("axis", 3);
    char name[64];
    dag_tensor y = dag_permute(d, x, there, 4);
    truth_pin(d->truth, y.base, y.channels);
    int wall = dag_shape_node(d, "Softmax", &y.value, 1, &axis, 1);
    const int inputs[2] = {wall, net_random(&d->n, "weight", 2, dims, 0.4, 0)};
    dag_tensor z = dag_node(d, "MatMul", inputs, 2, NULL, 0, dims[1], x);
    dag_last(d, "MatMul", name);
    for (int f = 0; f < (int)z.channels; f++)
        truth_use(d->truth, true, name, f, z.base + f);
    return dag_permute(d, dag_unary(d, "Relu", z), back, 4);
}

/* The mean over H and W of NHWC, spread over the image again. */
static dag_tensor reduced_channels_last(dag *d, dag_tensor x)
{
    const int64_t there[4] = {0, 2, 3, 1}, axes[2] = {1, 2}, target[4] = {0, -1, 1, 1};
    const esp_attr attrs[2] = {esp_attr_int("keepdims", 0), esp_attr_ints("axes", axes, 2)};
    dag_tensor y = dag_permute(d, x, there, 4);
    int line = d->opset >= 18 ? dag_ints(d, axes, 2) : -1; /* an input since 18 */
    y = dag_copy(d, dag_coin(d) ? "ReduceMean" : "ReduceMax", y, &line, d->opset >= 18, attrs,
                 d->opset >= 18 ? 1 : 2);
    line = dag_ints(d, target, 4);
    y = dag_copy(d, "Reshape", y, &line, 1, NULL, 0);
    return spread(d, "Add", x, y);
}

/* By scales; to sizes of which batch and channels, or the batch alone, are taken from the shape. */
static dag_tensor resize(dag *d, dag_tensor x, dag_form form)
{
    bool by_shape = form != DAG_RESIZE;
    int taken = form == DAG_RESIZE_SAYING_CHANNELS ? 1 : 2;
    static const char *const modes[] = {"nearest", "linear"};
    const esp_attr attr = esp_attr_string("mode", modes[dag_pick(d, 0, 1)]);
    const int64_t sizes[4] = {1, x.channels, x.size[0] + 1, x.size[1] + 2};
    int others[3] = {-1, -1, -1};
    if (by_shape) {
        int shape = dag_shape_node(d, "Shape", &x.value, 1, NULL, 0);
        const int parts[2] = {dag_shape_part(d, shape, 0, taken), dag_ints(d, sizes + taken, 4 - taken)};
        others[2] = dag_chain_of(d, parts, 2);
    } else {
        const int64_t rank = 4;
        others[1] = net_random(&d->n, "scales", 1, &rank, 0, 1);
    }
    dag_tensor y = dag_copy(d, "Resize", x, others, by_shape ? 3 : 2, &attr, 1);
    if (by_shape)
        memcpy(y.size, sizes + 2, 2 * sizeof *sizes);
    return y;
}

static dag_tensor blocks(dag *d, dag_tensor x, bool is_to_space)
{
    const esp_attr attrs[2] = {esp_attr_int("blocksize", 2), esp_attr_string("mode", "CRD")};
    bool is_crd = is_to_space && dag_coin(d);
    dag_tensor like = x;
    for (int i = 0; i < 2; i++)
        like.size[i] = is_to_space ? x.size[i] * 2 : x.size[i] / 2;
    int64_t channels = is_to_space ? x.channels / 4 : x.channels * 4;
    dag_tensor y = dag_node(d, is_to_space ? "DepthToSpace" : "SpaceToDepth", &x.value, 1, attrs,
                            is_crd ? 2 : 1, channels, like);
    int few = (int)(is_to_space ? channels : x.channels), deep = is_to_space ? x.base : y.base;
    int wide = is_to_space ? y.base : x.base;
    for (int c = 0; c < 4 * few; c++)
        truth_tie(d->truth, deep + c, wide + (is_crd ? c / 4 : c % few));
    return y;
}

static dag_tensor shared(dag *d, dag_tensor x)
{
    int64_t dims[5] = {x.channels, x.channels, 3, 3, 3};
    int weight = net_random(&d->n, "shared", x.spatial + 2, dims, 1.0 / sqrt((double)x.channels * 9), 0);
    dag_tensor a = dag_unary(d, "Relu", dag_convolve(d, x, x.channels, (conv_form){.kernel = 3}, weight));
    bool is_chain = dag_coin(d);
    dag_tensor from = is_chain ? a : dag_unit(d, x, x.channels);
    dag_tensor b = dag_convolve(d, from, x.channels, (conv_form){.kernel = 3}, weight);
    dag_same_channels(d, x, from); /* columns of one weight */
    dag_same_channels(d, a, b);    /* rows of one weight */
    return dag_join(d, dag_conv1(d, a, dag_pick(d, 2, 4)), b, 1);
}

static dag_tensor gathered(dag *d, dag_tensor x)
{
    int64_t channels[16], count = x.channels;
    const esp_attr attr = esp_attr_int("axis", 1);
    for (int64_t c = 0; c < count; c++)
        channels[c] = count - 1 - c;
    channels[0] = channels[count / 2]; /* one twice, one not at all */
    const int inputs[2] = {x.value, dag_ints(d, channels, (int)count)};
    dag_tensor y = dag_node(d, "Gather", inputs, 2, &attr, 1, count, x);
    for (int c = 0; c < (int)count; c++)
        truth_tie(d->truth, x.base + (int)channels[c], y.base + c);
    return y;
}

static dag_tensor tiled(dag *d, dag_tensor x)
{
    const int64_t repeats[5] = {1, 2, 1, 1, 1};
    const int inputs[2] = {x.value, dag_ints(d, repeats, x.spatial + 2)};
    dag_tensor y = dag_node(d, "Tile", inputs, 2, NULL, 0, 2 * x.channels, x);
    for (int c = 0; c < (int)y.channels; c++)
        truth_tie(d->truth, x.base + c % (int)x.channels, y.base + c);
    return y;
}

static dag_tensor expanded(dag *d, dag_tensor x)
{
    const int64_t target[5] = {1, x.channels, x.size[0], x.size[1], x.size[2]};
    dag_tensor small = dag_conv1(d, global(d, x), x.channels);
    int shape = dag_ints(d, target, x.spatial + 2);
    dag_tensor y = dag_copy(d, "Expand", small, &shape, 1, NULL, 0);
    memcpy(y.size, x.size, sizeof y.size);
    return dag_two(d, "Mul", x, y);
}

/* x times one number per place, softmax over the places. */
static dag_tensor softmax_over_space(dag *d, dag_tensor x)
{
    const esp_attr attr = esp_attr_int("axis", 2);
    dag_tensor weights = dag_copy(d, "Softmax", dag_unit(d, x, x.channels), NULL, 0, &attr, 1);
    return dag_two(d, "Mul", x, weights);
}

/* One channel times a number per channel: constants make the channels, which go with x's. */
static dag_tensor constant_channels(dag *d, dag_tensor x)
{
    dag_tensor one = dag_conv1(d, x, 1);
    int line = dag_per_channel(d, x, 1);
    truth_pin(d->truth, one.base, 1);
    const int inputs[2] = {one.value, line};
    dag_tensor y = dag_node(d, "Mul", inputs, 2, NULL, 0, x.channels, x);
    return dag_two(d, "Add", x, y);
}

static dag_tensor constant_operands(dag *d, dag_tensor x)
{
    int64_t whole[5] = {1, x.channels, x.size[0], x.size[1], x.size[2]}, one = 1;
    int operand = dag_per_channel(d, x, 0);
    x = dag_copy(d, "Add", x, &operand, 1, NULL, 0);
    operand = net_random(&d->n, "map", x.spatial + 2, whole, 0.2, 1);
    x = dag_copy(d, "Mul", x, &operand, 1, NULL, 0);
    operand = net_random(&d->n, "number", 1, &one, 0, 0.5);
    return dag_copy(d, "Sub", x, &operand, 1, NULL, 0);
}

static dag_tensor selection(dag *d, dag_tensor x)
{
    dag_tensor other = dag_unit(d, x, x.channels);
    dag_tensor mask = dag_two(d, "Greater", x, other);
    const int inputs[3] = {mask.value, x.value, other.value};
    dag_tensor y = dag_node(d, "Where", inputs, 3, NULL, 0, x.channels, x);
    dag_same_channels(d, x, y);
    return dag_two(d, dag_coin(d) ? "Max" : "Min", y, other);
}

/* What mixes channels: they stay, in front of it and behind it. */
static dag_tensor mixed(dag *d, dag_tensor x)
{
    const esp_attr size = esp_attr_int("size", 3), axis = esp_attr_int("axis", 1);
    bool is_window = dag_coin(d);
    const char *op = is_window ? "LRN" : "Softmax";
    dag_tensor y = dag_node(d, op, &x.value, 1, is_window ? &size : &axis, 1, x.channels, x);
    truth_pin(d->truth, x.base, x.channels);
    truth_pin(d->truth, y.base, y.channels);
    return dag_unit(d, y, dag_pick(d, 3, 6));
}

/* Divided by the root of the number of channels, which is computed while the model runs. The masked model is
 * the truth: the number must stay what it was. */
static dag_tensor scaled_by_shape(dag *d, dag_tensor x)
{
    const esp_attr to = esp_attr_int("to", 1);
    int shape = dag_shape_node(d, "Shape", &x.value, 1, NULL, 0), part = dag_shape_part(d, shape, 1, 2);
    int number = dag_shape_node(d, "Cast", &part, 1, &to, 1);
    number = dag_shape_node(d, "Sqrt", &number, 1, NULL, 0);
    return dag_copy(d, "Div", x, &number, 1, NULL, 0);
}

static void note_output(dag *d, dag_tensor x)
{
    esp_error err = {0};
    esp_shape shape = {.rank = x.spatial + 2, .dims = {ESP_DIM_BATCH, x.channels}};
    for (int i = 0; i < x.spatial; i++)
        shape.dims[i + 2] = x.size[i];
    expect_ok(esp_builder_output(d->n.builder, x.value, ESP_F32, &shape, &err), &err);
    truth_pin(d->truth, x.base, x.channels);
}

static dag_tensor split_form(dag *d, dag_tensor x, bool is_even)
{
    dag_tensor parts[3];
    x = dag_unit(d, x, is_even ? 6 : dag_pick(d, 5, 8));
    int count = is_even ? 3 : (int)dag_pick(d, 2, 3);
    int64_t sizes[3] = {2, 2, 2};
    if (!is_even) {
        sizes[0] = dag_pick(d, 1, 2);
        sizes[1] = count == 3 ? 2 : x.channels - sizes[0];
        sizes[2] = x.channels - sizes[0] - sizes[1];
    }
    dag_split(d, x, sizes, count, !is_even, parts);
    dag_tensor y = dag_conv3(d, parts[0], 3);
    y = dag_two(d, "Add", y, dag_conv1(d, parts[1], 3));
    return count == 3 ? dag_join(d, parts[2], y, 1) : y;
}

/* Two halves, cut where the shape says: half = (C + 1) / 2; x[:half], x[half:2 * half]. */
static dag_tensor chunked(dag *d, dag_tensor x)
{
    const int64_t numbers[4] = {0, 1, 2, 1};
    int zero = dag_ints(d, numbers, 1), one = dag_ints(d, numbers + 1, 1), both = dag_ints(d, numbers + 2, 1);
    int axis = dag_ints(d, numbers + 3, 1), shape = dag_shape_node(d, "Shape", &x.value, 1, NULL, 0);
    int sum[2] = {dag_shape_part(d, shape, 1, 2), one}, quotient[2] = {-1, both}, product[2] = {-1, both};
    quotient[0] = dag_shape_node(d, "Add", sum, 2, NULL, 0);
    int half = product[0] = dag_shape_node(d, "Div", quotient, 2, NULL, 0);
    const int first[4] = {x.value, zero, half, axis};
    const int second[4] = {x.value, half, dag_shape_node(d, "Mul", product, 2, NULL, 0), axis};
    int64_t front = (x.channels + 1) / 2;
    dag_tensor a = dag_node(d, "Slice", first, 4, NULL, 0, front, x);
    dag_tensor b = dag_node(d, "Slice", second, 4, NULL, 0, x.channels - front, x);
    for (int c = 0; c < (int)x.channels; c++)
        truth_tie(d->truth, x.base + c, c < (int)front ? a.base + c : b.base + c - (int)front);
    return dag_join(d, dag_conv3(d, b, 3), a, 1);
}

static dag_tensor upsampled(dag *d, dag_tensor x, dag_form form)
{
    const conv_form up = {.kernel = 2, .stride = 2, .is_transposed = true},
                    three = {.kernel = 3, .is_transposed = true};
    conv_form how = dag_coin(d) ? up : three;
    if (form == DAG_TRANSPOSED)
        return dag_unary(d, "Relu", dag_convolve(d, x, dag_pick(d, 3, 6), how, -1));
    if (form == DAG_TRANSPOSED_DEPTHWISE) {
        how.group = x.channels;
        return dag_convolve(d, x, x.channels * dag_pick(d, 1, 2), how, -1);
    }
    how.group = 2;
    return dag_convolve(d, dag_unit(d, x, 6), 2 * dag_pick(d, 2, 3), how, -1);
}

static dag_tensor image_form(dag *d, dag_tensor x, dag_form form)
{
    switch (form) {
    case DAG_CHANNELS_LAST:
        return channels_last(d, x);
    case DAG_BEHIND_A_WALL:
        return behind_a_wall(d, dag_unit(d, x, 4));
    case DAG_REDUCED_NHWC:
        return reduced_channels_last(d, x);
    case DAG_RESIZE:
    case DAG_RESIZE_BY_SHAPE:
    case DAG_RESIZE_SAYING_CHANNELS:
        return resize(d, x, form);
    case DAG_SHUFFLE:
    case DAG_SHUFFLE_BY_SHAPE:
        x = dag_unit(d, x, dag_coin(d) ? 6 : 8);
        return dag_shuffle(d, x, x.channels == 8 && dag_coin(d) ? 4 : 2, form == DAG_SHUFFLE_BY_SHAPE);
    case DAG_DEPTH_TO_SPACE:
        return blocks(d, dag_conv1(d, x, 4 * dag_pick(d, 2, 3)), true);
    case DAG_SPACE_TO_DEPTH:
        return x.size[0] % 2 == 0 && x.size[1] % 2 == 0 ? dag_unit(d, blocks(d, x, false), 5)
                                                        : dag_unit(d, x, 4);
    default:
        return dag_unit(d, x, dag_pick(d, 3, 7));
    }
}

static dag_tensor form_of(dag *d, dag_tensor x, dag_form form)
{
    dag_tensor y;
    switch (form) {
    case DAG_RESIDUAL:
        return dag_unary(
            d, "Relu",
            dag_two(d, "Add", x, dag_norm(d, dag_conv3(d, dag_unit(d, x, dag_pick(d, 3, 7)), x.channels))));
    case DAG_RESIDUAL_POOLED:
        return spread(d, "Add", x, dag_conv1(d, global(d, x), x.channels));
    case DAG_PADDED_RESIDUAL:
        return padded_residual(d, x);
    case DAG_CONCAT:
        return dag_join(d, dag_coin(d) ? x : dag_unit(d, x, dag_pick(d, 2, 5)),
                        dag_unit(d, x, dag_pick(d, 2, 5)), 1);
    case DAG_CONCAT_TWICE:
        return dag_join(d, x, x, 1);
    case DAG_CONCAT_OVER_SPACE:
        return dag_join(d, x, dag_unit(d, x, x.channels), 2);
    case DAG_DEPTHWISE:
        return dag_conv1(d,
                         dag_convolve(d, x, x.channels * dag_pick(d, 1, 2),
                                      (conv_form){.kernel = 3, .group = x.channels}, -1),
                         dag_pick(d, 3, 6));
    case DAG_GROUPED:
        return dag_convolve(d, dag_unit(d, x, 6), 2 * dag_pick(d, 2, 4), (conv_form){.kernel = 3, .group = 2},
                            -1);
    case DAG_WHOLE_GROUPS:
        return dag_convolve(d, dag_unit(d, x, 8), 4 * dag_pick(d, 1, 3), (conv_form){.kernel = 3, .group = 4},
                            -1);
    case DAG_NORMS:
        return norms(d, x);
    case DAG_GROUP_NORM:
        x = dag_unit(d, x, 6);
        return d->opset >= 18 ? group_norm(d, x, 3) : dag_norm(d, x);
    case DAG_GROUP_NORM_BY_HAND:
        return group_norm_by_hand(d, dag_unit(d, x, 6), dag_coin(d) ? 2 : 3);
    case DAG_P_RELU: {
        int slope = dag_per_channel(d, x, 0.2);
        return dag_copy(d, "PRelu", x, &slope, 1, NULL, 0);
    }
    case DAG_POOLS:
        return pool(d, dag_coin(d) ? "MaxPool" : "AveragePool", x);
    case DAG_SPLIT:
    case DAG_SPLIT_EVENLY:
        return split_form(d, x, form == DAG_SPLIT_EVENLY);
    case DAG_CHUNK_BY_SHAPE:
        return chunked(d, dag_unit(d, x, dag_pick(d, 5, 8)));
    case DAG_SLICE:
        y = dag_unit(d, x, dag_pick(d, 5, 8));
        return dag_two(d, "Add", dag_conv3(d, dag_slice(d, y, 0, 2), 3),
                       dag_conv1(d, dag_slice(d, y, 2, y.channels), 3));
    case DAG_GATE:
        y = dag_unary(d, "Relu", dag_conv1(d, global(d, x), dag_pick(d, 2, 3)));
        return spread(d, "Mul", x, dag_unary(d, "Sigmoid", dag_conv1(d, y, x.channels)));
    case DAG_SHARED:
        return shared(d, x);
    case DAG_TRANSPOSED:
    case DAG_TRANSPOSED_GROUPED:
    case DAG_TRANSPOSED_DEPTHWISE:
        return upsampled(d, x, form);
    case DAG_GATHER:
        return gathered(d, x);
    case DAG_TILE:
        return dag_unit(d, tiled(d, x), 5);
    case DAG_EXPAND:
        return expanded(d, x);
    case DAG_SOFTMAX_OVER_SPACE:
        return softmax_over_space(d, x);
    case DAG_CONSTANT_CHANNELS:
        return constant_channels(d, x);
    case DAG_CONSTANT_OPERANDS:
        return constant_operands(d, x);
    case DAG_SELECTION:
        return selection(d, x);
    case DAG_MIXED:
        return dag_coin(d)
                   ? mixed(d, dag_unit(d, x, 4))
                   : dag_unit(d, dag_two(d, "Mul", dag_unit(d, x, 1), over_channels(d, dag_unit(d, x, 3))),
                              4);
    case DAG_SECOND_OUTPUT:
        note_output(d, dag_conv1(d, global(d, x), 3));
        return dag_unit(d, x, dag_pick(d, 3, 6));
    case DAG_SCALED_BY_SHAPE:
        return scaled_by_shape(d, x);
    default:
        return x.spatial == 2 ? image_form(d, x, form) : dag_unit(d, x, dag_pick(d, 3, 7));
    }
}

/* ---- networks ---- */

const char *dag_form_name(dag_form form)
{
    static const char *const names[] = {
#define DAG_FORM_NAME(name) #name,
        DAG_FORMS(DAG_FORM_NAME)
#undef DAG_FORM_NAME
    };
    return names[form];
}

static dag start(uint64_t seed, int64_t opset, int spatial, truth *out, dag_tensor *x)
{
    esp_error err = {0};
    dag d = {.truth = out, .opset = opset};
    esp_shape shape = {.rank = spatial + 2, .dims = {ESP_DIM_BATCH, 3}};
    *out = (truth){0};
    *x = (dag_tensor){.channels = 3, .spatial = spatial};
    for (int i = 0; i < spatial; i++)
        shape.dims[i + 2] = x->size[i] = spatial == 1 ? 8 : spatial == 2 ? 6 : 3;
    esp_rng_seed(&d.n.rng, seed);
    expect_ok(esp_builder_new("net", opset, opset < 18 ? 8 : 10, &d.n.builder, &err), &err);
    expect_ok(esp_builder_input(d.n.builder, "x", ESP_F32, &shape, "N", &x->value, &err), &err);
    x->base = truth_channels(out, "x", 3);
    truth_pin(out, x->base, 3);
    return d;
}

/* [N, C, ...] -> [N, columns], in the ways exporters write it. */
static dag_tensor flattened(dag *d, dag_tensor x)
{
    int64_t places = 1, axes[3] = {2, 3, 4};
    for (int i = 0; i < x.spatial; i++)
        places *= x.size[i];
    dag_tensor flat = {.spatial = 0};
    int way = (int)dag_pick(d, 0, 4);
    if (way < 2) { /* means (sums) over space */
        const esp_attr attrs[2] = {esp_attr_int("keepdims", 0), esp_attr_ints("axes", axes, x.spatial)};
        const char *op = way == 0 ? "ReduceMean" : "ReduceSum";
        bool has_input = d->opset >= 18 || way == 1;
        int line = has_input ? dag_ints(d, axes, x.spatial) : -1;
        dag_tensor y = dag_copy(d, op, x, &line, has_input, attrs, has_input ? 1 : 2);
        y.spatial = 0;
        return y;
    }
    if (places > 36) {
        x = global(d, x);
        places = 1;
    }
    int64_t target[2] = {dag_coin(d) ? 0 : -1, x.channels * places};
    if (way == 2) {
        flat = dag_node(d, "Flatten", &x.value, 1, NULL, 0, x.channels * places, flat);
    } else {
        int to = dag_ints(d, target, 2);
        if (way == 3) { /* x.view(x.size(0), -1) */
            const int64_t rest = -1;
            int shape = dag_shape_node(d, "Shape", &x.value, 1, NULL, 0);
            const int parts[2] = {dag_shape_part(d, shape, 0, 1), dag_ints(d, &rest, 1)};
            to = dag_chain_of(d, parts, 2);
        }
        const int inputs[2] = {x.value, to};
        flat = dag_node(d, "Reshape", inputs, 2, NULL, 0, x.channels * places, flat);
    }
    for (int c = 0; c < (int)flat.channels; c++)
        truth_tie(d->truth, x.base + c / (int)places, flat.base + c);
    return flat;
}

static esp_graph *finish(dag *d, dag_tensor x)
{
    x = dag_unit(d, x, dag_pick(d, 3, 6)); /* so that not everything ends in one set */
    x = dag_unary(d, "Sigmoid", dag_fully_connected(d, flattened(d, x), dag_pick(d, 4, 8)));
    x = dag_fully_connected(d, x, 3);
    note_output(d, x);
    truth_close(d->truth);
    return net_finish(&d->n);
}

esp_graph *random_dag(uint64_t seed, truth *out)
{
    static const int64_t opsets[] = {13, 13, 13, 18, 21};
    dag_tensor x;
    esp_rng rng;
    esp_rng_seed_stream(&rng, seed, 7);
    int kind = (int)esp_rng_below(&rng, 10);
    dag d = start(seed, opsets[esp_rng_below(&rng, 5)], kind == 0 ? 1 : kind == 1 ? 3 : 2, out, &x);
    x = dag_unit(&d, x, dag_pick(&d, 4, 8));
    for (int64_t steps = dag_pick(&d, 3, 9); steps > 0; steps--) {
        x = form_of(&d, x, (dag_form)dag_pick(&d, 0, DAG_FORM_COUNT - 1));
        if (x.channels > 12 || x.size[0] * x.size[1] > 100)
            x = dag_unit(&d, pool(&d, "MaxPool", x), dag_pick(&d, 3, 7));
    }
    return finish(&d, x);
}

esp_graph *dag_of_form(dag_form form, uint64_t seed, truth *out)
{
    dag_tensor x;
    dag d = start(seed, form == DAG_GROUP_NORM ? seed % 2 == 0 ? 18 : 21 : 13, 2, out, &x);
    x = form_of(&d, dag_unit(&d, x, 6), form);
    return finish(&d, x);
}
