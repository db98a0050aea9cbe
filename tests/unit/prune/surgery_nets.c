/* Value and node names come from a counter, so that tests can speak of "Conv3". Weights are scaled so that
 * activations stay near 1 through any depth: differences between models are then comparable with a fixed
 * tolerance. */
#include "unit/prune/surgery_nets.h"

#include <math.h>
#include <stdio.h>

#include "base/memory.h"

net net_start_opset(int64_t opset, int64_t channels, int64_t height, int64_t width, uint64_t seed,
                    net_tensor *x)
{
    net n = {0};
    esp_error err = {0};
    esp_shape shape = {.rank = 4, .dims = {ESP_DIM_BATCH, channels, height, width}};
    *x = (net_tensor){-1, channels, height, width};
    esp_rng_seed(&n.rng, seed);
    expect_ok(esp_builder_new("net", opset, 7, &n.builder, &err), &err);
    expect_ok(esp_builder_input(n.builder, "x", ESP_F32, &shape, "N", &x->value, &err), &err);
    return n;
}

net net_start(int64_t channels, int64_t height, int64_t width, uint64_t seed, net_tensor *x)
{
    return net_start_opset(13, channels, height, width, seed, x);
}

void net_output(net *n, net_tensor x)
{
    esp_error err = {0};
    expect_ok(esp_builder_output(n->builder, x.value, ESP_F32, NULL, &err), &err);
}

esp_graph *net_finish(net *n)
{
    esp_error err = {0};
    esp_graph *graph = NULL;
    expect_ok(esp_builder_finish(n->builder, &graph, &err), &err);
    return graph;
}

/* ---- constants ---- */

static int add_constant(net *n, const char *name, esp_tensor *take_tensor)
{
    esp_error err = {0};
    int value = -1;
    expect_ok(esp_builder_constant(n->builder, esp_builder_unique_name(n->builder, name), take_tensor, &value,
                                   &err),
              &err);
    esp_tensor_unref(take_tensor);
    return value;
}

int net_random(net *n, const char *name, int rank, const int64_t *dims, double scale, double shift)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_shape shape = esp_shape_make(rank, dims);
    expect_ok(esp_tensor_new(ESP_F32, &shape, &tensor, &err), &err);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        esp_tensor_f32_mut(tensor)[i] = (float)(scale * esp_rng_normal(&n->rng) + shift);
    return add_constant(n, name, tensor);
}

int net_ints(net *n, const char *name, const int64_t *values, int count)
{
    esp_error err = {0};
    esp_tensor *tensor = NULL;
    esp_shape shape = {.rank = 1, .dims = {count}};
    expect_ok(esp_tensor_from(ESP_I64, &shape, values, &tensor, &err), &err);
    return add_constant(n, name, tensor);
}

/* ---- nodes ---- */

net_tensor net_node(net *n, const char *op, const int *inputs, int input_count, const esp_attr *attrs,
                    int attr_count, net_tensor shape)
{
    esp_error err = {0};
    char name[64], output[80];
    snprintf(name, sizeof name, "%s%d", op, ++n->counter);
    snprintf(output, sizeof output, "%s_out", name);
    expect_ok(esp_builder_add(n->builder, op, name, inputs, input_count, attrs, attr_count, output,
                              &shape.value, &err),
              &err);
    return shape;
}

static net_tensor same(net_tensor x)
{
    return x;
}

net_tensor net_conv(net *n, net_tensor x, int64_t filters, net_conv_options options)
{
    int64_t k = options.kernel, group = options.group > 0 ? options.group : 1;
    int64_t stride = options.stride > 0 ? options.stride : 1;
    const int64_t dims[4] = {filters, x.channels / group, k, k};
    const int64_t strides[2] = {stride, stride}, kernel[2] = {k, k};
    const int64_t pads[4] = {options.pad, options.pad, options.pad, options.pad};
    const esp_attr attrs[4] = {esp_attr_ints("kernel_shape", kernel, 2), esp_attr_ints("strides", strides, 2),
                               esp_attr_ints("pads", pads, 4), esp_attr_int("group", group)};
    int inputs[3] = {x.value, net_random(n, "weight", 4, dims, 1.0 / sqrt((double)(dims[1] * k * k)), 0), -1};
    if (options.has_bias)
        inputs[2] = net_random(n, "bias", 1, &filters, 0.3, 0.1);
    return net_node(n, "Conv", inputs, options.has_bias ? 3 : 2, attrs, 4,
                    (net_tensor){-1, filters, (x.height + 2 * options.pad - k) / stride + 1,
                                 (x.width + 2 * options.pad - k) / stride + 1});
}

net_tensor net_conv3(net *n, net_tensor x, int64_t filters)
{
    return net_conv(n, x, filters, (net_conv_options){.kernel = 3, .pad = 1, .has_bias = true});
}

net_tensor net_conv1(net *n, net_tensor x, int64_t filters)
{
    return net_conv(n, x, filters, (net_conv_options){.kernel = 1, .has_bias = true});
}

net_tensor net_norm(net *n, net_tensor x)
{
    const int inputs[5] = {x.value, net_random(n, "scale", 1, &x.channels, 0.1, 1),
                           net_random(n, "shift", 1, &x.channels, 0.3, 0.1),
                           net_random(n, "mean", 1, &x.channels, 0.2, 0),
                           net_random(n, "variance", 1, &x.channels, 0.05, 1)};
    return net_node(n, "BatchNormalization", inputs, 5, NULL, 0, same(x));
}

net_tensor net_unary(net *n, const char *op, net_tensor x)
{
    return net_node(n, op, &x.value, 1, NULL, 0, same(x));
}

net_tensor net_binary(net *n, const char *op, net_tensor a, net_tensor b)
{
    const int inputs[2] = {a.value, b.value};
    return net_node(n, op, inputs, 2, NULL, 0, a.channels * a.height < b.channels * b.height ? b : a);
}

net_tensor net_concat(net *n, net_tensor a, net_tensor b)
{
    const int inputs[2] = {a.value, b.value};
    const esp_attr axis = esp_attr_int("axis", 1);
    return net_node(n, "Concat", inputs, 2, &axis, 1,
                    (net_tensor){-1, a.channels + b.channels, a.height, a.width});
}

net_tensor net_pool(net *n, const char *op, net_tensor x, int64_t kernel, int64_t stride, int64_t pad)
{
    const int64_t kernels[2] = {kernel, kernel}, strides[2] = {stride, stride},
                  pads[4] = {pad, pad, pad, pad};
    const esp_attr attrs[3] = {esp_attr_ints("kernel_shape", kernels, 2),
                               esp_attr_ints("strides", strides, 2), esp_attr_ints("pads", pads, 4)};
    return net_node(n, op, &x.value, 1, attrs, 3,
                    (net_tensor){-1, x.channels, (x.height + 2 * pad - kernel) / stride + 1,
                                 (x.width + 2 * pad - kernel) / stride + 1});
}

net_tensor net_global(net *n, net_tensor x)
{
    return net_node(n, "GlobalAveragePool", &x.value, 1, NULL, 0, (net_tensor){-1, x.channels, 1, 1});
}

net_tensor net_flatten(net *n, net_tensor x)
{
    return net_node(n, "Flatten", &x.value, 1, NULL, 0,
                    (net_tensor){-1, x.channels * x.height * x.width, 0, 0});
}

net_tensor net_fc(net *n, net_tensor x, int64_t filters, net_fc_form form)
{
    bool is_transposed = form == NET_GEMM_TRANSPOSED;
    const int64_t dims[2] = {is_transposed ? filters : x.channels, is_transposed ? x.channels : filters};
    const esp_attr attrs[3] = {esp_attr_int("transB", is_transposed), esp_attr_float("alpha", 0.5F),
                               esp_attr_float("beta", 2.0F)};
    int inputs[3] = {x.value, net_random(n, "weight", 2, dims, 1.0 / sqrt((double)x.channels), 0), -1};
    net_tensor shape = {-1, filters, 0, 0};
    if (form == NET_MATMUL)
        return net_node(n, "MatMul", inputs, 2, NULL, 0, shape);
    inputs[2] = net_random(n, "bias", 1, &filters, 0.3, 0.1);
    return net_node(n, "Gemm", inputs, 3, attrs, form == NET_GEMM_SCALED ? 3 : 1, shape);
}

net_tensor net_slice(net *n, net_tensor x, int64_t from, int64_t to, bool strided)
{
    const int64_t starts[3] = {from, 0, 0}, ends[3] = {to, x.height, x.width}, axes[3] = {1, 2, 3};
    const int64_t steps[3] = {1, strided ? 2 : 1, strided ? 2 : 1};
    const int inputs[5] = {x.value, net_ints(n, "starts", starts, 3), net_ints(n, "ends", ends, 3),
                           net_ints(n, "axes", axes, 3), net_ints(n, "steps", steps, 3)};
    return net_node(n, "Slice", inputs, 5, NULL, 0,
                    (net_tensor){-1, to - from, (x.height - 1) / steps[1] + 1, (x.width - 1) / steps[2] + 1});
}

net_tensor net_pad(net *n, net_tensor x, int64_t before, int64_t after, int64_t space)
{
    const int64_t pads[8] = {0, before, space, space, 0, after, space, space};
    const int inputs[2] = {x.value, net_ints(n, "pads", pads, 8)};
    return net_node(n, "Pad", inputs, 2, NULL, 0,
                    (net_tensor){-1, x.channels + before + after, x.height + 2 * space, x.width + 2 * space});
}

net_tensor net_gather(net *n, net_tensor x, const int64_t *channels, int count)
{
    const int inputs[2] = {x.value, net_ints(n, "indices", channels, count)};
    const esp_attr axis = esp_attr_int("axis", 1);
    return net_node(n, "Gather", inputs, 2, &axis, 1, (net_tensor){-1, count, x.height, x.width});
}

net_tensor net_reshape(net *n, net_tensor x, const int64_t *target, int count, net_tensor shape)
{
    const int inputs[2] = {x.value, net_ints(n, "target", target, count)};
    return net_node(n, "Reshape", inputs, 2, NULL, 0, shape);
}

net_tensor net_transpose(net *n, net_tensor x, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const int64_t perm[4] = {a, b, c, d}, dims[4] = {0, x.channels, x.height, x.width};
    const esp_attr attr = esp_attr_ints("perm", perm, 4);
    return net_node(n, "Transpose", &x.value, 1, &attr, 1, (net_tensor){-1, dims[b], dims[c], dims[d]});
}

net_tensor net_scale(net *n, net_tensor x)
{
    const int64_t dims[3] = {x.channels, 1, 1};
    const int inputs[2] = {x.value, net_random(n, "factor", 3, dims, 0.2, 1)};
    return net_node(n, "Mul", inputs, 2, NULL, 0, same(x));
}

/* ---- random networks ---- */

static int64_t pick(net *n, int64_t low, int64_t high)
{
    return low + (int64_t)esp_rng_below(&n->rng, (uint64_t)(high - low + 1));
}

static bool coin(net *n)
{
    return esp_rng_below(&n->rng, 2) == 0;
}

/* conv, perhaps batch-norm, activation */
static net_tensor random_unit(net *n, net_tensor x, int64_t filters)
{
    static const char *const activations[] = {"Relu", "Sigmoid", "Tanh"};
    bool is_pointwise = coin(n);
    net_conv_options options = {
        .kernel = is_pointwise ? 1 : 3, .pad = is_pointwise ? pick(n, 0, 4) == 0 : 1, .has_bias = coin(n)};
    if (is_pointwise && options.pad > 0)
        options.pad = 0;
    net_tensor y = net_conv(n, x, filters, options);
    if (coin(n))
        y = net_norm(n, y);
    return net_unary(n, activations[esp_rng_below(&n->rng, 3)], y);
}

static net_tensor random_residual(net *n, net_tensor x)
{
    net_tensor y = net_conv3(n, random_unit(n, x, pick(n, 3, 9)), x.channels);
    net_tensor sum = net_binary(n, "Add", coin(n) ? net_norm(n, y) : y, x);
    return coin(n) ? net_unary(n, "Relu", sum) : sum;
}

/* The parameter-free shortcut of CIFAR ResNets: every second pixel, new channels of zeros around. */
static net_tensor random_padded_residual(net *n, net_tensor x)
{
    int64_t before = pick(n, 0, 2), after = pick(n, 1, 3);
    net_tensor shortcut = net_pad(n, net_slice(n, x, 0, x.channels, true), before, after, 0);
    net_conv_options strided = {.kernel = 3, .stride = 2, .pad = 1};
    net_tensor y = net_norm(n, net_conv(n, x, x.channels + before + after, strided));
    y = net_conv3(n, net_unary(n, "Relu", y), y.channels);
    return net_unary(n, "Relu", net_binary(n, "Add", y, shortcut));
}

/* Squeeze and excitation: x times a gate per channel. */
static net_tensor random_gate(net *n, net_tensor x)
{
    net_tensor gate = net_conv1(n, net_global(n, x), pick(n, 2, 4));
    gate = net_conv1(n, net_unary(n, "Relu", gate), x.channels);
    return net_binary(n, "Mul", x, net_unary(n, "Sigmoid", gate));
}

static net_tensor random_step(net *n, net_tensor x)
{
    net_tensor y;
    switch (esp_rng_below(&n->rng, 11)) {
    case 0:
        return net_concat(n, random_unit(n, x, pick(n, 2, 6)), random_unit(n, x, pick(n, 2, 6)));
    case 1:
        return net_concat(n, x, random_unit(n, x, pick(n, 2, 5)));
    case 2:
    case 3:
        return random_residual(n, x);
    case 4:
        return x.height >= 4 ? random_padded_residual(n, x) : random_unit(n, x, x.channels);
    case 5:
        y = net_conv(n, x, x.channels * pick(n, 1, 2),
                     (net_conv_options){.kernel = 3, .pad = 1, .group = x.channels, .has_bias = true});
        return net_conv1(n, net_unary(n, "Relu", y), pick(n, 3, 8));
    case 6:
        return random_gate(n, x);
    case 7:
        y = net_transpose(n, x, 0, 2, 3, 1);
        return net_transpose(n, net_unary(n, "Relu", y), 0, 3, 1, 2);
    case 8:
        y = random_unit(n, x, pick(n, 4, 8));
        return net_binary(n, "Add", net_conv3(n, net_slice(n, y, 0, 2, false), 3),
                          net_conv1(n, net_slice(n, y, 2, y.channels, false), 3));
    case 9:
        if (x.height >= 4)
            return net_pool(n, coin(n) ? "MaxPool" : "AveragePool", x, 2, 2, 0);
        return net_scale(n, x);
    default:
        return random_unit(n, net_scale(n, x), pick(n, 3, 9));
    }
}

esp_graph *net_random_classifier(uint64_t seed)
{
    net_tensor x;
    net n = net_start(3, 8, 8, seed, &x);
    x = random_unit(&n, x, pick(&n, 4, 8));
    int64_t steps = pick(&n, 2, 6);
    for (int64_t i = 0; i < steps; i++)
        x = random_step(&n, x);
    x = random_unit(&n, x, pick(&n, 4, 8)); /* so that not everything ends in one coupled set */
    if (coin(&n))
        x = net_global(&n, x);
    const int64_t target[2] = {0, x.channels * x.height * x.width};
    x = coin(&n) ? net_flatten(&n, x) : net_reshape(&n, x, target, 2, (net_tensor){-1, target[1], 0, 0});
    x = net_unary(&n, "Relu", net_fc(&n, x, pick(&n, 5, 12), (net_fc_form)pick(&n, 0, 3)));
    x = net_fc(&n, x, 5, (net_fc_form)pick(&n, 0, 3));
    net_output(&n, coin(&n) ? net_unary(&n, "Softmax", x) : x);
    return net_finish(&n);
}

/* ---- looking ---- */

net_view net_look(esp_graph *take_graph)
{
    net_view view = {.graph = take_graph, .layers = esp_alloc_zero(1, sizeof(esp_layers))};
    esp_error err = {0};
    expect_ok(esp_infer(view.graph, 1, NULL, 0, &view.inferred, &err), &err);
    expect_ok(esp_layers_list(view.graph, view.inferred, view.layers, &err), &err);
    expect_ok(esp_coupling_new(view.graph, view.inferred, view.layers, &view.coupling, &err), &err);
    return view;
}

void net_forget(net_view *view)
{
    esp_coupling_free(view->coupling);
    esp_layers_free(view->layers);
    esp_free(view->layers);
    esp_inferred_free(view->inferred);
    esp_graph_unref(view->graph);
    *view = (net_view){0};
}

int net_layer(const net_view *view, const char *name)
{
    int layer = esp_layers_find(view->layers, name);
    if (layer < 0)
        fail_msg("there is no layer '%s'", name);
    return layer;
}

esp_value_slots net_slots(const net_view *view, const char *value)
{
    int index = esp_graph_find_value(view->graph, value);
    if (index < 0)
        fail_msg("there is no value '%s'", value);
    return esp_coupling_value(view->coupling, index);
}

net_tensor net_ones(net *n, net_tensor x, int64_t channels)
{
    esp_error err = {0};
    esp_tensor *one;
    esp_shape single = esp_shape_make(1, (int64_t[]){1});
    const int64_t zero = 0;
    esp_attr axis = esp_attr_int("axis", 0), value = {.name = "value", .type = ESP_ATTR_TENSOR};

    expect_ok(esp_tensor_from(ESP_F32, &single, (float[]){1}, &one, &err), &err);
    value.tensor = one;
    net_tensor shape = net_node(n, "Shape", &x.value, 1, NULL, 0, (net_tensor){0});
    int chosen[2] = {shape.value, net_ints(n, "first", &zero, 1)};
    net_tensor batch = net_node(n, "Gather", chosen, 2, &axis, 1, (net_tensor){0});
    int joined[2] = {batch.value, net_ints(n, "width", &channels, 1)};
    net_tensor dims = net_node(n, "Concat", joined, 2, &axis, 1, (net_tensor){0});
    net_tensor ones =
        net_node(n, "ConstantOfShape", &dims.value, 1, &value, 1, (net_tensor){.channels = channels});
    esp_tensor_unref(one);
    return ones;
}
