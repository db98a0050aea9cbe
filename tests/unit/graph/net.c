#include "unit/graph/net.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

void must_at(esp_status status, const esp_error *err, const char *file, int line)
{
    if (status != ESP_OK)
        print_error("%s: %s\n", esp_status_word(status), err->message);
    _assert_true(status == ESP_OK, "status is ok", file, line);
}

esp_shape shape_of(int rank, ...)
{
    esp_shape shape = {.rank = rank};
    va_list dims;
    va_start(dims, rank);
    for (int i = 0; i < rank; i++)
        shape.dims[i] = va_arg(dims, int);
    va_end(dims);
    return shape;
}

net net_new(int opset)
{
    esp_error err = {0};
    net n = {0};
    esp_rng_seed(&n.rng, 17);
    must(esp_builder_new("net", opset, 8, &n.builder, &err), &err);
    return n;
}

int net_input(net *n, const char *name, esp_shape shape)
{
    esp_error err = {0};
    int value;
    must(esp_builder_input(n->builder, name, ESP_F32, &shape, NULL, &value, &err), &err);
    return value;
}

int net_tensor(net *n, esp_tensor *take_tensor)
{
    esp_error err = {0};
    char name[32];
    int value;
    snprintf(name, sizeof name, "c%d", n->constants++);
    must(esp_builder_constant(n->builder, name, take_tensor, &value, &err), &err);
    esp_tensor_unref(take_tensor);
    return value;
}

esp_tensor *tensor_f32(esp_shape shape, const float *data)
{
    esp_error err = {0};
    esp_tensor *tensor;
    must(data == NULL ? esp_tensor_new(ESP_F32, &shape, &tensor, &err)
                      : esp_tensor_from(ESP_F32, &shape, data, &tensor, &err),
         &err);
    return tensor;
}

int net_constant(net *n, esp_shape shape, const float *data)
{
    esp_tensor *tensor = tensor_f32(shape, data);
    if (data == NULL)
        fill_random(&n->rng, esp_tensor_f32_mut(tensor), esp_tensor_elements(tensor), -1.0f, 1.0f);
    return net_tensor(n, tensor);
}

int net_positive(net *n, esp_shape shape)
{
    esp_tensor *tensor = tensor_f32(shape, NULL);
    fill_random(&n->rng, esp_tensor_f32_mut(tensor), esp_tensor_elements(tensor), 0.5f, 1.5f);
    return net_tensor(n, tensor);
}

int net_ints(net *n, int count, ...)
{
    esp_error err = {0};
    esp_shape shape = S1(count);
    esp_tensor *tensor;
    must(esp_tensor_new(ESP_I64, &shape, &tensor, &err), &err);
    va_list values;
    va_start(values, count);
    for (int i = 0; i < count; i++)
        ((int64_t *)esp_tensor_data_mut(tensor))[i] = va_arg(values, int);
    va_end(values);
    return net_tensor(n, tensor);
}

int net_int(net *n, int value)
{
    esp_error err = {0};
    esp_shape shape = {0};
    esp_tensor *tensor;
    must(esp_tensor_new(ESP_I64, &shape, &tensor, &err), &err);
    *(int64_t *)esp_tensor_data_mut(tensor) = value;
    return net_tensor(n, tensor);
}

int net_add(net *n, const char *op, const int *inputs, const esp_attr *attrs)
{
    esp_error err = {0};
    int input_count = 0, attr_count = 0, value;
    while (inputs != NULL && inputs[input_count] != NET_END)
        input_count++;
    while (attrs != NULL && attrs[attr_count].name != NULL)
        attr_count++;
    must(esp_builder_add(n->builder, op, NULL, inputs, input_count, attrs, attr_count, NULL, &value, &err),
         &err);
    return value;
}

void net_output(net *n, int value)
{
    esp_error err = {0};
    must(esp_builder_output(n->builder, value, ESP_F32, NULL, &err), &err);
}

esp_graph *net_finish(net *n)
{
    esp_error err = {0};
    esp_graph *graph;
    must(esp_builder_finish(n->builder, &graph, &err), &err);
    n->builder = NULL;
    return graph;
}

void fill_random(esp_rng *rng, float *data, int64_t count, float low, float high)
{
    for (int64_t i = 0; i < count; i++)
        data[i] = low + (high - low) * (float)esp_rng_uniform(rng);
}

float *view_data(const esp_view *view)
{
    assert_non_null(view);
    assert_non_null(view->data);
    return esp_view_f32(view);
}

int64_t view_count(const esp_view *view)
{
    return esp_shape_elements(&view->shape);
}

void assert_close(const float *found, const float *expected, int64_t count, double tolerance)
{
    for (int64_t i = 0; i < count; i++) {
        double scale = fmax(1.0, fabs((double)expected[i]));
        if (fabs((double)found[i] - (double)expected[i]) <= tolerance * scale)
            continue;
        print_error("element %lld of %lld is %.9g, expected %.9g\n", (long long)i, (long long)count,
                    (double)found[i], (double)expected[i]);
        fail();
    }
}

void assert_shape(const esp_shape *found, esp_shape expected)
{
    char found_text[96], expected_text[96];
    if (!esp_shape_equal(found, &expected)) {
        print_error("shape is %s, expected %s\n", esp_shape_format(found, found_text, sizeof found_text),
                    esp_shape_format(&expected, expected_text, sizeof expected_text));
        fail();
    }
}

void assert_contains(const char *text, const char *piece)
{
    if (strstr(text, piece) == NULL) {
        print_error("'%s' does not contain '%s'\n", text, piece);
        fail();
    }
}

esp_exec *exec_new(const esp_graph *graph, esp_exec_options options)
{
    esp_error err = {0};
    esp_exec *exec;
    must(esp_exec_new(graph, &options, &exec, &err), &err);
    return exec;
}

void run_forward(esp_exec *exec)
{
    esp_error err = {0};
    must(esp_exec_forward(exec, NULL, &err), &err);
}
