#include "unit/graph/op_check.h"

#include <stdio.h>

static int net_pattern(net *n, esp_shape shape, int step, int period, int shift)
{
    esp_tensor *tensor = tensor_f32(shape, NULL);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        esp_tensor_f32_mut(tensor)[i] = (float)(i * step % period - shift);
    return net_tensor(n, tensor);
}

int op_ramp(net *n, esp_shape shape)
{
    return net_pattern(n, shape, 7, 11, 5);
}

int op_weights(net *n, esp_shape shape)
{
    return net_pattern(n, shape, 5, 7, 3);
}

void op_node(net *n, const char *op, const int *inputs, const esp_attr *attrs, int *outputs, int output_count)
{
    esp_error err = {0};
    int input_count = 0, attr_count = 0;
    while (inputs[input_count] != NET_END)
        input_count++;
    while (attrs != NULL && attrs[attr_count].name != NULL)
        attr_count++;
    for (int i = 0; i < output_count; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s_%d", op, i);
        must(esp_builder_value(n->builder, name, &outputs[i], &err), &err);
    }
    must(esp_builder_node(n->builder, op, NULL, inputs, input_count, outputs, output_count, attrs, attr_count,
                          &err),
         &err);
}

op_results op_run(net *n, const int *values, int count)
{
    esp_error err = {0};
    op_results results = {0};
    for (int i = 0; i < count; i++)
        net_output(n, values[i]);
    results.graph = net_finish(n);
    must(esp_infer(results.graph, 1, NULL, 0, &results.inferred, &err), &err);
    return results;
}

static const esp_tensor *result_of(const op_results *results, int output, esp_dtype dtype, esp_shape shape)
{
    const esp_tensor *tensor =
        esp_inferred_constant(results->inferred, esp_graph_output(results->graph, output));
    assert_non_null(tensor);
    assert_int_equal(esp_tensor_dtype(tensor), dtype);
    assert_shape(esp_tensor_shape(tensor), shape);
    return tensor;
}

void expect_value_f32(const op_results *results, int output, esp_shape shape, const float *expected,
                      double tolerance)
{
    const esp_tensor *tensor = result_of(results, output, ESP_F32, shape);
    assert_close(esp_tensor_f32(tensor), expected, esp_tensor_elements(tensor), tolerance);
}

void expect_value_i64(const op_results *results, int output, esp_shape shape, const int64_t *expected)
{
    const esp_tensor *tensor = result_of(results, output, ESP_I64, shape);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        assert_int_equal(esp_tensor_get_i64(tensor, i), expected[i]);
}

void op_results_free(op_results *results)
{
    esp_inferred_free(results->inferred);
    esp_graph_unref(results->graph);
}

void expect_f32(net *n, int value, esp_shape shape, const float *expected, double tolerance)
{
    op_results results = op_run(n, &value, 1);
    expect_value_f32(&results, 0, shape, expected, tolerance);
    op_results_free(&results);
}

void expect_i64(net *n, int value, esp_shape shape, const int64_t *expected)
{
    op_results results = op_run(n, &value, 1);
    expect_value_i64(&results, 0, shape, expected);
    op_results_free(&results);
}

void expect_refused(net *n, int value, esp_status status, const char *piece)
{
    esp_error err = {0};
    esp_inferred *inferred = NULL;
    net_output(n, value);
    esp_graph *graph = net_finish(n);
    assert_int_equal(esp_infer(graph, 1, NULL, 0, &inferred, &err), status);
    assert_contains(err.message, piece);
    esp_graph_unref(graph);
}
