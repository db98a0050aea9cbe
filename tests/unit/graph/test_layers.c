/* The list of prunable layers and both counters, on the topologies whose published figures METHODS.md states.
 */
#include "unit/graph/net.h"

#include <stdio.h>
#include <string.h>

/* Zero weights, one tensor per shape. */
typedef struct weight_pool {
    esp_tensor *tensors[256];
    int count;
} weight_pool;

typedef struct topology {
    net n;
    weight_pool pool;
} topology;

static int pooled_constant(topology *t, esp_shape shape)
{
    weight_pool *pool = &t->pool;
    for (int i = 0; i < pool->count; i++) {
        if (esp_shape_equal(esp_tensor_shape(pool->tensors[i]), &shape))
            return net_tensor(&t->n, esp_tensor_ref(pool->tensors[i]));
    }
    assert_true(pool->count < 256);
    esp_tensor *tensor = tensor_f32(shape, NULL);
    pool->tensors[pool->count++] = tensor;
    return net_tensor(&t->n, esp_tensor_ref(tensor));
}

static esp_graph *topology_finish(topology *t, int output)
{
    net_output(&t->n, output);
    esp_graph *graph = net_finish(&t->n);
    for (int i = 0; i < t->pool.count; i++)
        esp_tensor_unref(t->pool.tensors[i]);
    return graph;
}

static int conv(topology *t, int x, int filters, int channels, int kernel, int stride, bool has_bias)
{
    int pad = kernel / 2;
    int w = pooled_constant(t, S4(filters, channels, kernel, kernel));
    int b = has_bias ? pooled_constant(t, S1(filters)) : NET_NONE;
    return net_add(&t->n, "Conv", IN(x, w, b),
                   AT(INTS("pads", pad, pad, pad, pad), INTS("strides", stride, stride)));
}

static int norm(topology *t, int x, int channels)
{
    esp_shape c = S1(channels);
    return net_add(
        &t->n, "BatchNormalization",
        IN(x, pooled_constant(t, c), pooled_constant(t, c), pooled_constant(t, c), pooled_constant(t, c)),
        NULL);
}

static int relu(topology *t, int x)
{
    return net_add(&t->n, "Relu", IN(x), NULL);
}

static int fully_connected(topology *t, int x, int out, int in)
{
    return net_add(&t->n, "Gemm", IN(x, pooled_constant(t, S2(out, in)), pooled_constant(t, S1(out))),
                   AT(esp_attr_int("transB", 1)));
}

static int max_pool(topology *t, int x, int kernel, int stride, int pad)
{
    return net_add(&t->n, "MaxPool", IN(x),
                   AT(INTS("kernel_shape", kernel, kernel), INTS("strides", stride, stride),
                      INTS("pads", pad, pad, pad, pad)));
}

/* Simonyan and Zisserman 2015, configuration D. */
static esp_graph *vgg16(void)
{
    topology t = {.n = net_new(13)};
    const int widths[] = {64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0};
    int x = net_input(&t.n, "x", S4(1, 3, 224, 224)), channels = 3;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        x = widths[i] == 0 ? max_pool(&t, x, 2, 2, 0)
                           : relu(&t, conv(&t, x, widths[i], channels, 3, 1, true));
        channels = widths[i] == 0 ? channels : widths[i];
    }
    x = net_add(&t.n, "Flatten", IN(x), NULL);
    x = relu(&t, fully_connected(&t, x, 4096, 512 * 7 * 7));
    x = relu(&t, fully_connected(&t, x, 4096, 4096));
    return topology_finish(&t, fully_connected(&t, x, 1000, 4096));
}

static int bottleneck(topology *t, int x, int channels, int width, int stride, bool projects)
{
    int y = relu(t, norm(t, conv(t, x, width, channels, 1, 1, false), width));
    y = relu(t, norm(t, conv(t, y, width, width, 3, stride, false), width));
    y = norm(t, conv(t, y, 4 * width, width, 1, 1, false), 4 * width);
    int shortcut = projects ? norm(t, conv(t, x, 4 * width, channels, 1, stride, false), 4 * width) : x;
    return relu(t, net_add(&t->n, "Add", IN(y, shortcut), NULL));
}

/* He et al. 2016, with the stride in the 3x3 conv as the common implementations have it. */
static esp_graph *resnet50(void)
{
    topology t = {.n = net_new(13)};
    const int blocks[4] = {3, 4, 6, 3};
    int x = net_input(&t.n, "x", S4(1, 3, 224, 224)), channels = 64;
    int w = pooled_constant(&t, S4(64, 3, 7, 7));
    x = net_add(&t.n, "Conv", IN(x, w), AT(INTS("pads", 3, 3, 3, 3), INTS("strides", 2, 2)));
    x = max_pool(&t, relu(&t, norm(&t, x, 64)), 3, 2, 1);
    for (int stage = 0; stage < 4; stage++) {
        int width = 64 << stage;
        for (int i = 0; i < blocks[stage]; i++) {
            x = bottleneck(&t, x, channels, width, stage > 0 && i == 0 ? 2 : 1, i == 0);
            channels = 4 * width;
        }
    }
    x = net_add(&t.n, "Flatten", IN(net_add(&t.n, "GlobalAveragePool", IN(x), NULL)), NULL);
    return topology_finish(&t, fully_connected(&t, x, 1000, 2048));
}

static esp_inferred *infer_one(const esp_graph *graph)
{
    esp_error err = {0};
    esp_inferred *inferred;
    must(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    return inferred;
}

static void list_layers(const esp_graph *graph, esp_inferred **inferred, esp_layers *layers)
{
    esp_error err = {0};
    *inferred = infer_one(graph);
    must(esp_layers_list(graph, *inferred, layers, &err), &err);
}

/* Published to three decimals of a million and of a billion. */
static void assert_published(double found, const char *expected, double unit)
{
    char text[32];
    snprintf(text, sizeof text, "%.3f", found / unit);
    assert_string_equal(text, expected);
}

static void vgg16_has_the_published_size(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = vgg16();
    esp_inferred *inferred = infer_one(graph);
    esp_counts counts;
    must(esp_graph_count(graph, inferred, &counts, &err), &err);
    assert_published(counts.paper_params, "138.366", 1e6);
    assert_published(counts.paper_macs, "15.470", 1e9);
    assert_int_equal(counts.params, 138357544); /* torchvision's vgg16 */
    assert_int_equal(counts.macs, 15470264320);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void resnet50_has_the_published_size(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = resnet50();
    esp_inferred *inferred;
    esp_layers layers;
    esp_counts counts;
    list_layers(graph, &inferred, &layers);
    must(esp_graph_count(graph, inferred, &counts, &err), &err);
    assert_published(counts.paper_params, "25.549", 1e6);
    assert_published(counts.paper_macs, "4.089", 1e9);
    assert_int_equal(counts.params, 25557032); /* torchvision's resnet50 */
    assert_int_equal(counts.macs, 4089184256);
    int shortcuts = 0;
    for (int i = 0; i < layers.count; i++) {
        const esp_layer *layer = &layers.items[i];
        shortcuts += (layer->role == ESP_ROLE_SHORTCUT);
        if ((layer->role == ESP_ROLE_SHORTCUT))
            assert_true(layer->filters == 4 * layer->channels || layer->filters == 2 * layer->channels);
    }
    assert_int_equal(layers.count, 54);
    assert_int_equal(shortcuts, 4);
    assert_false(layers.items[0].role == ESP_ROLE_SHORTCUT);
    assert_int_equal(layers.items[0].positions, 112 * 112);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

/* One 1x1 conv on either side: neither is the shorter way, so none is a shortcut. An identity shortcut has no
 * conv. */
static void equal_branches_have_no_shortcut(void **state)
{
    (void)state;
    topology t = {.n = net_new(13)};
    int x = net_input(&t.n, "x", S4(1, 4, 4, 4));
    int a = conv(&t, x, 4, 4, 1, 1, false), b = conv(&t, x, 4, 4, 1, 1, false);
    int sum = net_add(&t.n, "Add", IN(a, b), NULL);
    int c = conv(&t, relu(&t, conv(&t, sum, 4, 4, 3, 1, false)), 4, 4, 1, 1, false);
    esp_graph *graph = topology_finish(&t, net_add(&t.n, "Add", IN(c, sum), NULL));
    esp_inferred *inferred;
    esp_layers layers;
    list_layers(graph, &inferred, &layers);
    assert_int_equal(layers.count, 4);
    for (int i = 0; i < 4; i++)
        assert_false(layers.items[i].role == ESP_ROLE_SHORTCUT);
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void layers_are_described(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(ESP_DIM_BATCH, 4, 6, 6));
    int depthwise =
        net_add(&n, "Conv", IN(x, net_constant(&n, S4(4, 1, 3, 3), NULL)), AT(esp_attr_int("group", 4)));
    int flat = net_add(&n, "Flatten", IN(depthwise), NULL);
    int gemm =
        net_add(&n, "Gemm", IN(flat, net_constant(&n, S2(64, 5), NULL), net_constant(&n, S1(5), NULL)), NULL);
    int product = net_add(&n, "MatMul", IN(gemm, net_constant(&n, S2(5, 3), NULL)), NULL);
    int square = net_add(&n, "MatMul", IN(net_add(&n, "Transpose", IN(product), NULL), product), NULL);
    net_output(&n, square); /* a product of two computed values is no layer */
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred;
    esp_layers layers;
    list_layers(graph, &inferred, &layers);
    assert_int_equal(layers.count, 3);
    const esp_layer *d = &layers.items[0], *g = &layers.items[1], *m = &layers.items[2];
    assert_true(d->is_conv && d->group == 4 && d->filters == 4 && d->channels == 1 && d->bias == -1);
    assert_true(d->kernel_h == 3 && d->kernel_w == 3 && d->positions == 16 && d->params == 36 &&
                d->macs == 576);
    assert_true(!g->is_conv && g->filters == 5 && g->channels == 64 && g->filter_axis == 1 &&
                g->channel_axis == 0);
    assert_true(g->positions == 1 && g->params == 325 && g->macs == 320 && g->bias >= 0);
    assert_true(m->filters == 3 && m->channels == 5 && m->macs == 15 && m->bias == -1);
    assert_int_equal(esp_layers_find(&layers, g->name), 1);
    assert_int_equal(esp_layers_find(&layers, m->weight_name), 2);
    assert_int_equal(esp_layers_find(&layers, "nothing"), -1);
    esp_layers_free(&layers);
    esp_layers_free(NULL);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void canonical_weights_have_filters_first(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2));
    int gemm =
        net_add(&n, "Gemm", IN(x, net_constant(&n, S2(2, 3), (const float[]){1, 2, 3, 4, 5, 6})), NULL);
    int turned = net_add(&n, "Gemm", IN(gemm, net_constant(&n, S2(2, 3), (const float[]){1, 2, 3, 4, 5, 6})),
                         AT(esp_attr_int("transB", 1)));
    net_output(&n, turned);
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred;
    esp_layers layers;
    float out[6];
    list_layers(graph, &inferred, &layers);
    for (int i = 0; i < 2; i++) {
        const esp_layer *layer = &layers.items[i];
        esp_layer_weight_canonical(layer, esp_graph_value(graph, layer->weight)->constant, out);
        if (i == 0)
            assert_close(out, (const float[]){1, 4, 2, 5, 3, 6}, 6, 0);
        else
            assert_close(out, (const float[]){1, 2, 3, 4, 5, 6}, 6, 0);
    }
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

static void paper_counts_of_a_masked_layer(void **state)
{
    (void)state;
    esp_layer layer = {.is_conv = true, .positions = 100};
    double params, macs;
    esp_layer_paper(&layer, 50, 7, 3, &params, &macs);
    assert_float_equal((float)params, 50 + 2 * 7 + 3, 0);
    assert_float_equal((float)macs, 5000 + 7 + 3, 0);
    layer.role = ESP_ROLE_SHORTCUT;
    esp_layer_paper(&layer, 50, 7, 0, &params, &macs);
    assert_float_equal((float)params, 50, 0);
    assert_float_equal((float)macs, 5000, 0);
    layer = (esp_layer){.positions = 1};
    esp_layer_paper(&layer, 50, 7, 7, &params, &macs);
    assert_float_equal((float)params, 57, 0);
    assert_float_equal((float)macs, 57, 0);
}

/* A tensor that two layers share is one set of parameters, but its products are made twice. */
static void shared_weights_count_once(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 4)), w = net_constant(&n, S2(4, 4), NULL);
    net_output(&n, net_add(&n, "MatMul", IN(net_add(&n, "MatMul", IN(x, w), NULL), w), NULL));
    esp_graph *graph = net_finish(&n);
    esp_inferred *inferred = infer_one(graph);
    esp_counts counts;
    must(esp_graph_count(graph, inferred, &counts, &err), &err);
    assert_int_equal(counts.params, 16);
    assert_int_equal(counts.macs, 32);
    esp_inferred_free(inferred);
    esp_graph_unref(graph);
}

/* ---- parameters ---- */

static void params_list_what_training_changes(void **state)
{
    (void)state;
    esp_error err = {0};
    topology t = {.n = net_new(13)};
    int x = net_input(&t.n, "x", S4(1, 3, 4, 4));
    int y = relu(&t, norm(&t, conv(&t, x, 2, 3, 3, 1, true), 2));
    y = net_add(&t.n, "Mul", IN(y, net_constant(&t.n, S1(1), NULL)),
                NULL); /* a plain factor is not trained */
    esp_graph *graph = topology_finish(&t, y);
    esp_params *params;
    must(esp_params_new(graph, &params, &err), &err);
    assert_int_equal(esp_params_count(params), 6);
    const bool is_weight[] = {true, false, false, false, false, false};
    const bool is_running[] = {false, false, false, false, true, true};
    for (int i = 0; i < 6; i++) {
        const esp_param *param = esp_params_at(params, i);
        assert_int_equal(param->is_weight, is_weight[i]);
        assert_int_equal(param->is_running, is_running[i]);
        assert_int_equal(param->grad == NULL, is_running[i]);
        assert_int_equal(esp_params_find(params, param->value), i);
        assert_string_equal(param->name, esp_graph_value(graph, param->value)->name);
    }
    assert_int_equal(esp_params_at(params, 0)->elements, 54);
    assert_int_equal(esp_params_find(params, x), -1);
    esp_params_free(params);
    esp_params_free(NULL);
    esp_graph_unref(graph);
}

static void trained_params_make_a_graph_that_shares_the_rest(void **state)
{
    (void)state;
    esp_error err = {0};
    net n = net_new(13);
    int x = net_input(&n, "x", S2(1, 2)), a = net_constant(&n, S2(2, 2), NULL),
        b = net_constant(&n, S2(2, 2), NULL);
    net_output(&n, net_add(&n, "MatMul", IN(net_add(&n, "MatMul", IN(x, a), NULL), b), NULL));
    esp_graph *graph = net_finish(&n), *trained;
    esp_params *params, *copy;
    must(esp_params_new(graph, &params, &err), &err);
    must(esp_params_new(graph, &copy, &err), &err);
    esp_params_at(params, 0)->data[3] = 42;
    esp_params_copy(copy, params);
    assert_float_equal(esp_params_at(copy, 0)->data[3], 42, 0);
    esp_graph_unref(graph); /* params hold it */
    must(esp_params_to_graph(params, &trained, &err), &err);
    assert_float_equal(esp_tensor_f32(esp_graph_value(trained, a)->constant)[3], 42, 0);
    assert_ptr_equal(esp_graph_value(trained, b)->constant, esp_graph_value(graph, b)->constant);
    esp_params_at(params, 0)->data[3] = 1;
    assert_float_equal(esp_tensor_f32(esp_graph_value(trained, a)->constant)[3], 42, 0);
    esp_params_free(params);
    esp_params_free(copy);
    esp_graph_unref(trained);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vgg16_has_the_published_size),
        cmocka_unit_test(resnet50_has_the_published_size),
        cmocka_unit_test(equal_branches_have_no_shortcut),
        cmocka_unit_test(layers_are_described),
        cmocka_unit_test(canonical_weights_have_filters_first),
        cmocka_unit_test(paper_counts_of_a_masked_layer),
        cmocka_unit_test(shared_weights_count_once),
        cmocka_unit_test(params_list_what_training_changes),
        cmocka_unit_test(trained_params_make_a_graph_that_shares_the_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
