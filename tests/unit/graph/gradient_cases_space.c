/* Gradient cases of what works on space and moves data: convolutions and pools of any rank, resizing,
 * padding, splitting, gathering. */
#include "unit/graph/gradient_check.h"

#include <string.h>

/* ---- convolutions ---- */

static void build_conv_signal(net *n)
{
    int x = net_input(n, "x", S3(2, 4, 9));
    net_output(n, net_add(n, "Conv", IN(x, net_constant(n, S3(6, 2, 3), NULL), net_constant(n, S1(6), NULL)),
                          AT(INTS("strides", 2), INTS("pads", 1, 2), INTS("dilations", 2),
                             esp_attr_int("group", 2))));
}

static void build_conv_volume(net *n)
{
    int x = net_input(n, "x", shape_of(5, 2, 2, 3, 4, 5));
    int w = net_constant(n, shape_of(5, 4, 1, 2, 3, 2), NULL);
    net_output(n, net_add(n, "Conv", IN(x, w, net_constant(n, S1(4), NULL)),
                          AT(INTS("strides", 1, 2, 2), INTS("pads", 1, 1, 0, 0, 1, 1),
                             INTS("dilations", 2, 1, 1), esp_attr_int("group", 2))));
}

static void build_conv_transpose(net *n)
{
    int x = net_input(n, "x", S4(2, 4, 3, 4));
    int w = net_constant(n, S4(4, 3, 3, 2), NULL);
    net_output(n, net_add(n, "ConvTranspose", IN(x, w, net_constant(n, S1(6), NULL)),
                          AT(INTS("strides", 2, 1), INTS("pads", 1, 0, 0, 1), INTS("dilations", 1, 2),
                             INTS("output_padding", 1, 0), esp_attr_int("group", 2))));
}

static void build_conv_transpose_signal(net *n)
{
    int x = net_input(n, "x", S3(2, 3, 4));
    net_output(n, net_add(n, "ConvTranspose", IN(x, net_constant(n, S3(3, 2, 3), NULL)),
                          AT(INTS("strides", 2), INTS("output_shape", 8))));
}

static void build_conv_transpose_volume(net *n)
{
    int x = net_input(n, "x", shape_of(5, 1, 2, 2, 3, 2));
    int w = net_constant(n, shape_of(5, 2, 2, 2, 2, 3), NULL);
    net_output(n, net_add(n, "ConvTranspose", IN(x, w, net_constant(n, S1(2), NULL)),
                          AT(INTS("strides", 2, 1, 2), esp_attr_string("auto_pad", "SAME_UPPER"))));
}

/* ---- pools ---- */

static void build_max_pool_signal(net *n)
{
    net_output(n, net_add(n, "MaxPool", IN(net_input(n, "x", S3(2, 3, 8))),
                          AT(INTS("kernel_shape", 3), INTS("strides", 2), INTS("pads", 1, 1))));
}

static void build_max_pool_volume(net *n)
{
    net_output(n, net_add(n, "MaxPool", IN(net_input(n, "x", shape_of(5, 1, 2, 3, 4, 4))),
                          AT(INTS("kernel_shape", 2, 3, 2), INTS("strides", 1, 1, 2),
                             INTS("pads", 0, 1, 0, 0, 1, 0), esp_attr_int("ceil_mode", 1))));
}

static void build_average_pool_signal(net *n)
{
    net_output(n, net_add(n, "AveragePool", IN(net_input(n, "x", S3(2, 3, 8))),
                          AT(INTS("kernel_shape", 3), INTS("strides", 2), INTS("pads", 1, 1))));
}

static void build_average_pool_volume(net *n)
{
    net_output(n, net_add(n, "AveragePool", IN(net_input(n, "x", shape_of(5, 1, 2, 3, 4, 4))),
                          AT(INTS("kernel_shape", 2, 2, 3), INTS("strides", 2, 1, 2),
                             INTS("pads", 1, 0, 1, 1, 0, 1), esp_attr_int("count_include_pad", 1))));
}

static void build_lp_pool(net *n)
{
    net_output(n, net_add(n, "LpPool", IN(net_input(n, "x", S4(1, 2, 5, 5))),
                          AT(INTS("kernel_shape", 3, 2), INTS("strides", 2, 2), INTS("pads", 1, 0, 1, 1),
                             esp_attr_int("p", 3))));
}

static void build_global_lp_pool(net *n)
{
    net_output(n, net_add(n, "GlobalLpPool", IN(net_input(n, "x", S4(2, 3, 3, 4))), NULL));
}

/* ---- resizing ---- */

static int net_scales(net *n, float height, float width)
{
    return net_tensor(n, tensor_f32(S1(4), (const float[]){1.0f, 1.0f, height, width}));
}

static void build_upsample_7(net *n)
{
    const float scales[] = {1.0f, 1.0f, 2.0f, 3.0f};
    esp_attr attr = {.name = "scales", .type = ESP_ATTR_FLOATS, .count = 4, .floats = scales};
    net_output(n, net_add(n, "Upsample", IN(net_input(n, "x", S4(1, 2, 3, 2))), AT(attr)));
}

static void build_upsample_9(net *n)
{
    net_output(n, net_add(n, "Upsample", IN(net_input(n, "x", S4(1, 2, 3, 2)), net_scales(n, 2.0f, 2.0f)),
                          AT(esp_attr_string("mode", "linear"))));
}

static void build_resize_10(net *n)
{
    net_output(n,
               net_add(n, "Resize", IN(net_input(n, "x", S4(1, 2, 4, 3)), net_scales(n, 0.5f, 2.0f)), NULL));
}

static void build_resize_linear(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 4, 3));
    int roi = net_tensor(n, tensor_f32(S1(0), NULL));
    net_output(n, net_add(n, "Resize", IN(x, roi, net_scales(n, 0.6f, 2.5f)),
                          AT(esp_attr_string("mode", "linear"))));
}

static void build_resize_cubic(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 4, 4));
    net_output(n, net_add(n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(n, 4, 1, 2, 7, 3)),
                          AT(esp_attr_string("mode", "cubic"), esp_attr_int("exclude_outside", 1),
                             esp_attr_string("coordinate_transformation_mode", "align_corners"))));
}

static void build_resize_crop(net *n)
{
    const float roi[] = {0.0f, 0.0f, -0.2f, 0.3f, 1.0f, 1.0f, 0.8f, 1.4f};
    int x = net_input(n, "x", S4(1, 2, 4, 4)), corners = net_tensor(n, tensor_f32(S1(8), roi));
    net_output(n, net_add(n, "Resize", IN(x, corners, NET_NONE, net_ints(n, 4, 1, 2, 5, 5)),
                          AT(esp_attr_string("mode", "linear"), esp_attr_float("extrapolation_value", 3.0f),
                             esp_attr_string("coordinate_transformation_mode", "tf_crop_and_resize"))));
}

static void build_resize_antialias(net *n)
{
    int x = net_input(n, "x", S4(1, 2, 7, 6));
    net_output(
        n, net_add(n, "Resize", IN(x, NET_NONE, NET_NONE, net_ints(n, 2, 3, 2)),
                   AT(esp_attr_string("mode", "cubic"), esp_attr_int("antialias", 1), INTS("axes", 2, 3))));
}

/* ---- movement ---- */

static void build_pad_mode(net *n, const char *mode)
{
    int x = net_input(n, "x", S3(2, 4, 3));
    net_output(
        n, net_add(n, "Pad", IN(x, net_ints(n, 6, 0, 3, -1, 0, 2, 4)), AT(esp_attr_string("mode", mode))));
}

static void build_pad_reflect(net *n)
{
    build_pad_mode(n, "reflect");
}

static void build_pad_edge(net *n)
{
    build_pad_mode(n, "edge");
}

static void build_pad_wrap(net *n)
{
    build_pad_mode(n, "wrap");
}

/* A node whose outputs are given, the last of them read by nobody. */
static void add_split(net *n, int x, const int *more_inputs, int more, const esp_attr *attrs, int attr_count,
                      int outputs)
{
    esp_error err = {0};
    int inputs[2] = {x, more > 0 ? more_inputs[0] : -1}, values[8];
    const char *const names[] = {"s0", "s1", "s2", "s3"};
    for (int i = 0; i < outputs; i++)
        must(esp_builder_value(n->builder, names[i], &values[i], &err), &err);
    must(esp_builder_node(n->builder, "Split", "split", inputs, 1 + more, values, outputs, attrs, attr_count,
                          &err),
         &err);
    net_output(n, net_add(n, "Tanh", IN(values[0]), NULL));
    net_output(n, net_add(n, "Tanh", IN(values[1]), NULL));
}

static void build_split_2(net *n)
{
    esp_attr attrs[] = {esp_attr_int("axis", 1), INTS("split", 2, 1, 3)};
    add_split(n, net_input(n, "x", S3(2, 6, 3)), NULL, 0, attrs, 2, 3);
}

static void build_split_13(net *n)
{
    esp_attr attrs[] = {esp_attr_int("axis", -1)};
    int x = net_input(n, "x", S3(2, 2, 5)), sizes[] = {net_ints(n, 2, 2, 3)};
    add_split(n, x, sizes, 1, attrs, 1, 2);
}

static void build_split_18(net *n)
{
    esp_attr attrs[] = {esp_attr_int("axis", 1), esp_attr_int("num_outputs", 3)};
    add_split(n, net_input(n, "x", S3(2, 7, 2)), NULL, 0, attrs, 2, 3);
}

static void build_tile(net *n)
{
    net_output(n, net_add(n, "Tile", IN(net_input(n, "x", S3(2, 1, 3)), net_ints(n, 3, 1, 3, 2)), NULL));
}

static void build_depth_to_space(net *n)
{
    net_output(n, net_add(n, "DepthToSpace", IN(net_input(n, "x", S4(1, 8, 2, 3))),
                          AT(esp_attr_int("blocksize", 2))));
}

static void build_depth_to_space_crd(net *n)
{
    net_output(n, net_add(n, "DepthToSpace", IN(net_input(n, "x", S4(1, 8, 2, 3))),
                          AT(esp_attr_int("blocksize", 2), esp_attr_string("mode", "CRD"))));
}

static void build_space_to_depth(net *n)
{
    net_output(n, net_add(n, "SpaceToDepth", IN(net_input(n, "x", S4(1, 2, 4, 6))),
                          AT(esp_attr_int("blocksize", 2))));
}

static int net_int_matrix(net *n, int rows, int columns, const int64_t *values)
{
    esp_error err = {0};
    esp_tensor *tensor;
    esp_shape shape = S2(rows, columns);
    must(esp_tensor_from(ESP_I64, &shape, values, &tensor, &err), &err);
    return net_tensor(n, tensor);
}

static void build_gather_elements(net *n)
{
    int at = net_int_matrix(n, 2, 3, (const int64_t[]){1, -1, 1, 0, 2, 0});
    net_output(n, net_add(n, "GatherElements", IN(net_input(n, "x", S2(3, 3)), at), NULL));
}

static void build_gather_nd(net *n)
{
    int at = net_int_matrix(n, 3, 2, (const int64_t[]){1, 0, 0, -1, 1, 0});
    net_output(n, net_add(n, "GatherND", IN(net_input(n, "x", S3(2, 3, 2)), at), NULL));
}

static void build_gather_nd_batch(net *n)
{
    int at = net_int_matrix(n, 2, 1, (const int64_t[]){2, 0});
    net_output(
        n, net_add(n, "GatherND", IN(net_input(n, "x", S3(2, 3, 2)), at), AT(esp_attr_int("batch_dims", 1))));
}

/* Two updates meet: the last one stands. */
static void build_scatter(net *n, const char *op, const esp_attr *attrs)
{
    int at = net_int_matrix(n, 2, 2, (const int64_t[]){1, 0, 1, -1});
    net_output(n,
               net_add(n, op, IN(net_input(n, "x", S2(3, 3)), at, net_input(n, "updates", S2(2, 2))), attrs));
}

static void build_scatter_old(net *n)
{
    build_scatter(n, "Scatter", NULL);
}

static void build_scatter_elements(net *n)
{
    build_scatter(n, "ScatterElements", NULL);
}

static void build_scatter_elements_add(net *n)
{
    build_scatter(n, "ScatterElements", AT(esp_attr_string("reduction", "add")));
}

static void build_scatter_nd(net *n)
{
    int at = net_int_matrix(n, 3, 1, (const int64_t[]){1, 0, 1});
    net_output(n, net_add(n, "ScatterND",
                          IN(net_input(n, "x", S2(3, 4)), at, net_input(n, "updates", S2(3, 4))), NULL));
}

static void build_cum_sum(net *n)
{
    net_output(n, net_add(n, "CumSum", IN(net_input(n, "x", S3(2, 4, 2)), net_int(n, 1)),
                          AT(esp_attr_int("exclusive", 1), esp_attr_int("reverse", 1))));
}

static const gradient_case cases[] = {
    {"conv of signals", 13, SIGNED, build_conv_signal, false},
    {"conv of volumes", 13, SIGNED, build_conv_volume, false},
    {"conv transpose", 13, SIGNED, build_conv_transpose, false},
    {"conv transpose of signals", 13, SIGNED, build_conv_transpose_signal, false},
    {"conv transpose of volumes", 13, SIGNED, build_conv_transpose_volume, false},
    {"max pool of signals", 13, SPACED, build_max_pool_signal, false},
    {"max pool of volumes", 13, SPACED, build_max_pool_volume, false},
    {"average pool of signals", 13, SIGNED, build_average_pool_signal, false},
    {"average pool of volumes", 13, SIGNED, build_average_pool_volume, false},
    {"Lp pool 2", 13, POSITIVE, build_lp_pool, false},
    {"Lp pool 18", 18, POSITIVE, build_lp_pool, false},
    {"global Lp pool", 13, POSITIVE, build_global_lp_pool, false},
    {"upsample 7", 7, SIGNED, build_upsample_7, false},
    {"upsample 9", 9, SIGNED, build_upsample_9, false},
    {"resize 10", 10, SIGNED, build_resize_10, false},
    {"resize 11, linear", 11, SIGNED, build_resize_linear, false},
    {"resize 13, cubic", 13, SIGNED, build_resize_cubic, false},
    {"resize 13, crop", 13, SIGNED, build_resize_crop, false},
    {"resize 18, antialiased", 18, SIGNED, build_resize_antialias, false},
    {"pad, reflected", 13, SIGNED, build_pad_reflect, false},
    {"pad, edge", 13, SIGNED, build_pad_edge, false},
    {"pad, wrapped", 19, SIGNED, build_pad_wrap, false},
    {"split 2", 9, SIGNED, build_split_2, false},
    {"split 13", 13, SIGNED, build_split_13, false},
    {"split 18", 18, SIGNED, build_split_18, false},
    {"tile", 13, SIGNED, build_tile, false},
    {"depth to space 1", 9, SIGNED, build_depth_to_space, false},
    {"depth to space 11", 13, SIGNED, build_depth_to_space_crd, false},
    {"space to depth", 13, SIGNED, build_space_to_depth, false},
    {"gather elements", 13, SIGNED, build_gather_elements, false},
    {"gather nd 11", 11, SIGNED, build_gather_nd, false},
    {"gather nd 12", 13, SIGNED, build_gather_nd_batch, false},
    {"scatter 9", 9, SIGNED, build_scatter_old, false},
    {"scatter elements 11", 13, SIGNED, build_scatter_elements, false},
    {"scatter elements 16, added", 16, SIGNED, build_scatter_elements_add, false},
    {"scatter nd 11", 13, SIGNED, build_scatter_nd, false},
    {"scatter nd 16", 16, SIGNED, build_scatter_nd, false},
    {"cumulative sum", 13, SIGNED, build_cum_sum, false},
};

const gradient_cases gradient_cases_of_space = {cases, sizeof cases / sizeof *cases};
