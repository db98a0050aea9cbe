#include "unit/io/sample.h"

#include "unit/base/scratch.h"

esp_graph *sample_network(int64_t opset, int64_t ir_version)
{
    esp_builder *builder;
    esp_graph *graph = NULL;
    esp_tensor *weight = NULL, *target = NULL;
    esp_shape input = {.rank = 4, .dims = {ESP_DIM_BATCH, 2, 6, 6}},
              output = {.rank = 2, .dims = {ESP_DIM_BATCH, 48}};
    esp_shape weight_shape = {.rank = 4, .dims = {3, 2, 3, 3}}, pair = {.rank = 1, .dims = {2}};
    const int64_t reshape_to[] = {-1, 48};
    int values[3], out;

    REQUIRE(esp_tensor_new(ESP_F32, &weight_shape, &weight, err));
    for (int i = 0; i < 54; i++)
        esp_tensor_f32_mut(weight)[i] = (float)(i % 7) - 3;
    REQUIRE(esp_tensor_from(ESP_I64, &pair, reshape_to, &target, err));
    REQUIRE(esp_builder_new("network", opset, ir_version, &builder, err));
    REQUIRE(esp_builder_input(builder, "x", ESP_F32, &input, "batch", &values[0], err));
    REQUIRE(esp_builder_constant(builder, "w", weight, &values[1], err));
    REQUIRE(esp_builder_add(builder, "Conv", "conv", values, 2, NULL, 0, NULL, &out, err));
    values[0] = out;
    REQUIRE(esp_builder_add(builder, "Relu", "relu", values, 1, NULL, 0, NULL, &out, err));
    values[0] = out;
    esp_attr attr = {.name = "value", .type = ESP_ATTR_TENSOR, .tensor = target};
    REQUIRE(esp_builder_add(builder, "Constant", "shape", NULL, 0, &attr, 1, NULL, &values[1], err));
    REQUIRE(esp_builder_add(builder, "Reshape", "reshape", values, 2, NULL, 0, "y", &out, err));
    REQUIRE(esp_builder_output(builder, out, ESP_F32, &output, err));
    REQUIRE(esp_builder_finish(builder, &graph, err));
    esp_tensor_unref(weight);
    esp_tensor_unref(target);
    return graph;
}
