/* Receptive fields against published ones, and against what an impulse really reaches. */
#include "unit/graph/net.h"

#include <stdio.h>

#include "base/memory.h"
#include "graph/receptive_field.h"

/* Channels play no part: one everywhere. Weights are positive, so that nothing cancels. */
static int conv(net *n, int x, int kernel, int stride, int dilation)
{
    int pad = dilation * (kernel / 2);
    return net_add(n, "Conv", IN(x, net_positive(n, S4(1, 1, kernel, kernel))),
                   AT(INTS("pads", pad, pad, pad, pad), INTS("strides", stride, stride),
                      INTS("dilations", dilation, dilation)));
}

static int pool(net *n, const char *op, int x, int kernel, int stride)
{
    int pad = kernel > stride ? kernel / 2 : 0;
    return net_add(n, op, IN(x),
                   AT(INTS("kernel_shape", kernel, kernel), INTS("strides", stride, stride),
                      INTS("pads", pad, pad, pad, pad)));
}

/* The field of the graph's first output. */
static esp_field field_of(const esp_graph *graph)
{
    esp_error err = {0};
    esp_inferred *inferred;
    must(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    esp_field *fields = esp_alloc((size_t)esp_graph_value_count(graph), sizeof *fields);
    assert_non_null(fields);
    esp_receptive_fields(graph, inferred, fields);
    esp_field field = fields[esp_graph_output(graph, 0)];
    esp_free(fields);
    esp_inferred_free(inferred);
    return field;
}

static void assert_field(const esp_graph *graph, int size, int stride)
{
    esp_field field = field_of(graph);
    assert_int_equal(field.kind, ESP_FIELD_WINDOW);
    assert_int_equal(field.height, size);
    assert_int_equal(field.width, size);
    assert_int_equal(field.stride_y, stride);
    assert_int_equal(field.stride_x, stride);
}

static esp_graph *finish(net *n, int output)
{
    net_output(n, output);
    return net_finish(n);
}

/* Simonyan and Zisserman's configuration D up to conv5_3: 196 pixels at stride 16. */
static void vgg16_conv5_3_sees_196_pixels(void **state)
{
    static const int convs[] = {2, 2, 3, 3, 3};
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 1, 224, 224));
    for (int block = 0; block < 5; block++) {
        for (int i = 0; i < convs[block]; i++)
            x = net_add(&n, "Relu", IN(conv(&n, x, 3, 1, 1)), NULL);
        x = block < 4 ? pool(&n, "MaxPool", x, 2, 2) : x;
    }
    esp_graph *graph = finish(&n, x);
    assert_field(graph, 196, 16);
    esp_graph_unref(graph);
}

static int bottleneck(net *n, int x, int first_stride, int middle_stride, bool has_shortcut)
{
    int y = conv(n, x, 1, first_stride, 1);
    y = conv(n, y, 3, middle_stride, 1);
    y = conv(n, y, 1, 1, 1);
    int shortcut = has_shortcut ? conv(n, x, 1, first_stride * middle_stride, 1) : x;
    return net_add(n, "Add", IN(y, shortcut), NULL);
}

static esp_graph *resnet50(bool strides_first)
{
    static const int blocks[] = {3, 4, 6, 3};
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 1, 224, 224));
    x = pool(&n, "MaxPool", conv(&n, x, 7, 2, 1), 3, 2);
    for (int stage = 0; stage < 4; stage++) {
        for (int i = 0; i < blocks[stage]; i++) {
            int stride = i == 0 && stage > 0 ? 2 : 1;
            x = bottleneck(&n, x, strides_first ? stride : 1, strides_first ? 1 : stride, i == 0);
        }
    }
    return finish(&n, x);
}

/* 483 pixels with the strides in the 1x1 convolutions (He et al.; the figure of Araujo et al.), 427 with the
 * strides in the 3x3 ones. */
static void resnet50_sees_483_or_427_pixels(void **state)
{
    (void)state;
    esp_graph *first = resnet50(true), *middle = resnet50(false);
    assert_field(first, 483, 32);
    assert_field(middle, 427, 32);
    esp_graph_unref(first);
    esp_graph_unref(middle);
}

static void the_larger_branch_counts(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 1, 32, 32));
    int wide = conv(&n, conv(&n, x, 5, 1, 1), 3, 1, 2), narrow = conv(&n, x, 1, 1, 1);
    int y = net_add(&n, "Concat", IN(narrow, wide), AT(esp_attr_int("axis", 1)));
    esp_graph *graph = finish(&n, y);
    assert_field(graph, 9, 1);
    esp_graph_unref(graph);
}

static void global_pools_and_fully_connected_layers_see_everything(void **state)
{
    (void)state;
    for (int form = 0; form < 4; form++) {
        net n = net_new(13);
        int x = net_input(&n, "x", S4(1, 1, 8, 8)), y = conv(&n, x, 3, 1, 1);
        if (form == 0)
            y = net_add(&n, "GlobalAveragePool", IN(y), NULL);
        else if (form == 1)
            y = net_add(&n, "Gemm", IN(net_add(&n, "Flatten", IN(y), NULL), net_positive(&n, S2(64, 3))),
                        NULL);
        else if (form == 2)
            y = net_add(&n, "ReduceMean", IN(y), AT(INTS("axes", 2, 3), esp_attr_int("keepdims", 0)));
        else /* a gate: what it scales depends on the whole image too */
            y = net_add(&n, "Mul", IN(y, net_add(&n, "GlobalAveragePool", IN(y), NULL)), NULL);
        esp_graph *graph = finish(&n, y);
        assert_int_equal(field_of(graph).kind, ESP_FIELD_WHOLE);
        esp_graph_unref(graph);
    }
}

static void a_channel_shuffle_keeps_the_field(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 4, 8, 8));
    int y = net_add(&n, "Conv", IN(x, net_positive(&n, S4(4, 4, 3, 3))), AT(INTS("pads", 1, 1, 1, 1)));
    y = net_add(&n, "Reshape", IN(y, net_ints(&n, 5, 1, 2, 2, 8, 8)), NULL);
    y = net_add(&n, "Transpose", IN(y), AT(INTS("perm", 0, 2, 1, 3, 4)));
    y = net_add(&n, "Reshape", IN(y, net_ints(&n, 4, 1, 4, 8, 8)), NULL);
    esp_graph *graph = finish(&n, y);
    assert_field(graph, 3, 1);
    esp_graph_unref(graph);
}

static void enlarged_images_have_smaller_strides(void **state)
{
    (void)state;
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 1, 16, 16)), y = conv(&n, conv(&n, x, 3, 2, 1), 3, 2, 1);
    y = net_add(&n, "ConvTranspose", IN(y, net_positive(&n, S4(1, 1, 4, 4))),
                AT(INTS("strides", 2, 2), INTS("pads", 1, 1, 1, 1)));
    esp_graph *graph = finish(&n, y);
    /* 7 pixels at stride 4; each of the finer ones reads two of those, 4 pixels apart */
    assert_field(graph, 11, 2);
    esp_graph_unref(graph);
}

/* ---- what an impulse reaches ---- */

enum { SIDE = 48 };

static esp_graph *random_chain(uint64_t seed)
{
    esp_rng rng;
    esp_rng_seed(&rng, seed);
    net n = net_new(13);
    int x = net_input(&n, "x", S4(1, 1, SIDE, SIDE));
    for (int i = 0; i < 4; i++) {
        int kernel = 1 + 2 * (int)esp_rng_below(&rng, 2), stride = 1 + (int)esp_rng_below(&rng, 2);
        switch (esp_rng_below(&rng, 3)) {
        case 0:
            x = conv(&n, x, kernel, i < 3 ? stride : 1, 1);
            break;
        case 1:
            x = conv(&n, x, 3, 1, 1 + (int)esp_rng_below(&rng, 2));
            break;
        default:
            x = pool(&n, i % 2 == 0 ? "MaxPool" : "AveragePool", x, 2, stride);
        }
    }
    return finish(&n, x);
}

/* The first and the last column of the input that change the output at `position` of its middle row. */
static void reach_of(esp_exec *exec, int64_t position, int *first, int *last)
{
    const esp_view *input = esp_exec_input(exec, 0), *output = esp_exec_output(exec, 0);
    int64_t width = output->shape.dims[3], index = output->shape.dims[2] / 2 * width + position;
    *first = SIDE;
    *last = -1;
    for (int column = 0; column < SIDE; column++) {
        for (int i = 0; i < SIDE * SIDE; i++)
            view_data(input)[i] = i % SIDE == column ? 1.0f : 0.0f;
        run_forward(exec);
        if (view_data(output)[index] == 0.0f)
            continue;
        *first = column < *first ? column : *first;
        *last = column;
    }
}

static void fields_are_what_an_impulse_reaches(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        int first, last, next_first, next_last;
        esp_graph *graph = random_chain(seed);
        esp_field field = field_of(graph);
        esp_exec *exec = exec_new(graph, (esp_exec_options){.batch = 1});
        int64_t middle = esp_exec_output(exec, 0)->shape.dims[3] / 2;
        reach_of(exec, middle, &first, &last);
        reach_of(exec, middle + 1, &next_first, &next_last);
        assert_int_equal(field.kind, ESP_FIELD_WINDOW);
        assert_int_equal(field.width, last - first + 1);
        assert_int_equal(field.stride_x, next_first - first);
        esp_exec_free(exec);
        esp_graph_unref(graph);
    }
}

static void fields_read_well(void **state)
{
    char text[64];
    (void)state;
    esp_field window = {ESP_FIELD_WINDOW, 35, 7, 8, 4}, half = {ESP_FIELD_WINDOW, 3, 3, 0.5, 0.5};
    assert_string_equal(esp_field_format(&window, text, sizeof text), "35x7");
    assert_string_equal(esp_field_stride_format(&window, text, sizeof text), "8x4");
    assert_string_equal(esp_field_stride_format(&half, text, sizeof text), "0.5");
    assert_string_equal(esp_field_format(&(esp_field){.kind = ESP_FIELD_WHOLE}, text, sizeof text), "whole");
    assert_string_equal(esp_field_stride_format(&(esp_field){.kind = ESP_FIELD_WHOLE}, text, sizeof text),
                        "-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vgg16_conv5_3_sees_196_pixels),
        cmocka_unit_test(resnet50_sees_483_or_427_pixels),
        cmocka_unit_test(the_larger_branch_counts),
        cmocka_unit_test(global_pools_and_fully_connected_layers_see_everything),
        cmocka_unit_test(a_channel_shuffle_keeps_the_field),
        cmocka_unit_test(enlarged_images_have_smaller_strides),
        cmocka_unit_test(fields_are_what_an_impulse_reaches),
        cmocka_unit_test(fields_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
