/* What a preview takes: bits for its masks, whatever the size of the network. The networks have the layers of
 * ResNet-50 and VGG16 with the weights they have; images are small, which no mask knows. */
#include <string.h>

#include "base/memory.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

/* A convolution whose weight is not drawn number by number: 25 million of them. Layers of one shape share
 * nothing, as in the real network. */
static net_tensor cheap_conv(net *n, net_tensor x, int64_t filters, int64_t kernel, int64_t stride)
{
    const int64_t dims[4] = {filters, x.channels, kernel, kernel}, pad = kernel / 2;
    const int64_t strides[2] = {stride, stride}, kernels[2] = {kernel, kernel},
                  pads[4] = {pad, pad, pad, pad};
    const esp_attr attrs[3] = {esp_attr_ints("kernel_shape", kernels, 2),
                               esp_attr_ints("strides", strides, 2), esp_attr_ints("pads", pads, 4)};
    const esp_shape shape = esp_shape_make(4, dims);
    esp_tensor *weight = NULL;
    esp_error err = {0};
    int inputs[2] = {x.value, -1};

    expect_ok(esp_tensor_new(ESP_F32, &shape, &weight, &err), &err);
    float *values = esp_tensor_f32_mut(weight);
    for (int64_t i = 0; i < esp_tensor_elements(weight); i++)
        values[i] = (float)((i * 2654435761 >> 7) % 997 - 498) * 1e-3f;
    expect_ok(esp_builder_constant(n->builder, esp_builder_unique_name(n->builder, "weight"), weight,
                                   &inputs[1], &err),
              &err);
    esp_tensor_unref(weight);
    return net_node(n, "Conv", inputs, 2, attrs, 3,
                    (net_tensor){-1, filters, (x.height - 1) / stride + 1, (x.width - 1) / stride + 1});
}

static net_tensor bottleneck(net *n, net_tensor x, int64_t width, int64_t stride)
{
    net_tensor y = net_unary(n, "Relu", cheap_conv(n, x, width, 1, 1));

    y = net_unary(n, "Relu", cheap_conv(n, y, width, 3, stride));
    y = cheap_conv(n, y, 4 * width, 1, 1);
    if (stride > 1 || x.channels != 4 * width)
        x = cheap_conv(n, x, 4 * width, 1, stride);
    return net_unary(n, "Relu", net_binary(n, "Add", y, x));
}

/* 23.5 million weights in 53 convolutions. */
static esp_graph *resnet50(void)
{
    static const int64_t depths[4] = {3, 4, 6, 3};
    net_tensor x;
    net n = net_start(3, 32, 32, 1, &x);

    x = net_pool(&n, "MaxPool", net_unary(&n, "Relu", cheap_conv(&n, x, 64, 7, 2)), 2, 2, 0);
    for (int stage = 0; stage < 4; stage++)
        for (int64_t block = 0; block < depths[stage]; block++)
            x = bottleneck(&n, x, 64 << stage, stage > 0 && block == 0 ? 2 : 1);
    net_output(&n, cheap_conv(&n, net_global(&n, x), 10, 1, 1));
    return net_finish(&n);
}

/* 14.7 million weights in 13 convolutions. */
static esp_graph *vgg16(void)
{
    static const int64_t widths[] = {64, 64,  0,   128, 128, 0,   256, 256, 256,
                                     0,  512, 512, 512, 0,   512, 512, 512};
    net_tensor x;
    net n = net_start(3, 32, 32, 1, &x);

    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        x = widths[i] ? net_unary(&n, "Relu", cheap_conv(&n, x, widths[i], 3, 1))
                      : net_pool(&n, "MaxPool", x, 2, 2, 0);
    net_output(&n, cheap_conv(&n, net_global(&n, x), 10, 1, 1));
    return net_finish(&n);
}

/* Bytes of all masks when every row is whole words. */
static size_t mask_bytes(const esp_preview *preview)
{
    size_t bytes = 0;

    for (int l = 0; l < preview->layers.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        bytes += (size_t)layer->filters * (size_t)((layer->channels + 63) / 64) * 8;
    }
    return bytes;
}

static size_t slices_of(const esp_preview *preview)
{
    size_t slices = 0;

    for (int l = 0; l < preview->layers.count; l++)
        slices += (size_t)(preview->layers.items[l].filters * preview->layers.items[l].channels);
    return slices;
}

static void check_in_proportion(esp_graph *take_graph)
{
    esp_grouping_cache *cache = NULL;
    esp_error err = {0};

    expect_ok(esp_grouping_cache_new(&cache, &err), &err);
    for (int method = 0; method < 2; method++) {
        esp_plan plan = esp_plan_make(method ? ESP_METHOD_FILTER : ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
        esp_preview_free(preview_of(take_graph, &plan, cache)); /* warm */
        size_t before = esp_memory_live();
        esp_preview *preview = preview_of(take_graph, &plan, cache);
        size_t own = esp_memory_live() - before, masks = mask_bytes(preview), slices = slices_of(preview);
        assert_true(own >= masks); /* they are its own */
        /* What else a preview has is per filter and per layer. A byte per (filter, channel), let alone a
         * float per weight, does not fit in here. */
        assert_true(own < slices / 8 * 2 + (size_t)preview->layers.count * 32768);
        assert_true(own < slices / 2);
        esp_preview_free(preview);
        assert_int_equal(esp_memory_live(), before);
    }
    esp_grouping_cache_free(cache);
    esp_graph_unref(take_graph);
}

static void a_preview_of_resnet50_takes_bits_for_its_masks(void **state)
{
    (void)state;
    check_in_proportion(resnet50());
}

static void a_preview_of_vgg16_takes_bits_for_its_masks(void **state)
{
    (void)state;
    check_in_proportion(vgg16());
}

/* ---- the JSON form ---- */

static void masks_in_json_are_the_bits_row_by_row(void **state)
{
    esp_graph *graph = net_residual(4);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    json_t *json = NULL;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_preview_to_json(preview, true, &json, &err), &err);
    for (int l = 0; l < preview->layers.count; l++) {
        const esp_mask *mask = &preview->items[l].mask;
        const json_t *rows =
            json_object_get(json_array_get(json_object_get(json, "layers"), (size_t)l), "mask");
        assert_int_equal(json_array_size(rows), mask->filters);
        for (int64_t f = 0; f < mask->filters; f++) {
            const char *row = json_string_value(json_array_get(rows, (size_t)f));
            assert_int_equal(strlen(row), mask->channels);
            for (int64_t c = 0; c < mask->channels; c++)
                assert_int_equal(row[c], esp_mask_get(mask, f, c) ? '1' : '0');
        }
    }
    json_decref(json);
    expect_ok(esp_preview_to_json(preview, false, &json, &err), &err);
    assert_null(json_object_get(json_array_get(json_object_get(json, "layers"), 0), "mask"));
    json_decref(json);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_preview_of_resnet50_takes_bits_for_its_masks),
        cmocka_unit_test(a_preview_of_vgg16_takes_bits_for_its_masks),
        cmocka_unit_test(masks_in_json_are_the_bits_row_by_row),
    };
    return cmocka_run_group_tests_name("preview_memory", tests, NULL, NULL);
}
