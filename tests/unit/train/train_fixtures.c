#include "unit/train/train_fixtures.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

void expect_ok(esp_status status, const esp_error *err)
{
    if (status != ESP_OK) {
        fail_msg("%s: %s", esp_status_word(status), err->message);
    }
}

void expect_failure(esp_status status, esp_status expected, esp_error *err, const char *part)
{
    if (status != expected) {
        fail_msg("status is %s (%s), expected %s", esp_status_word(status), err->message,
                 esp_status_word(expected));
    }
    if (part != NULL && strstr(err->message, part) == NULL) {
        fail_msg("'%s' does not say '%s'", err->message, part);
    }
    *err = (esp_error){0};
}

/* ---- building graphs ---- */

typedef struct model {
    esp_builder *builder;
    esp_rng rng;
    int value; /* the newest */
} model;

static int add_constant(model *m, const char *name, int rank, const int64_t *dims, const float *data)
{
    esp_error err = {0};
    esp_shape shape = esp_shape_make(rank, dims);
    esp_tensor *tensor = NULL;
    int value = -1;
    expect_ok(esp_tensor_from(ESP_F32, &shape, data, &tensor, &err), &err);
    expect_ok(esp_builder_constant(m->builder, name, tensor, &value, &err), &err);
    esp_tensor_unref(tensor);
    return value;
}

/* Normal numbers times `scale`; the same number everywhere when `scale` is 0. */
static int add_random(model *m, const char *name, int rank, const int64_t *dims, double scale,
                      float otherwise)
{
    esp_shape shape = esp_shape_make(rank, dims);
    int64_t count = esp_shape_elements(&shape);
    float *data = esp_alloc((size_t)count, sizeof(*data));
    for (int64_t i = 0; i < count; i++) {
        data[i] = scale > 0.0 ? (float)(scale * esp_rng_normal(&m->rng)) : otherwise;
    }
    int value = add_constant(m, name, rank, dims, data);
    esp_free(data);
    return value;
}

static model start(int64_t batch, int channels, int height, int width, uint64_t seed)
{
    model m = {0};
    esp_error err = {0};
    esp_rng_seed(&m.rng, seed);
    const int64_t dims[4] = {batch > 0 ? batch : ESP_DIM_BATCH, channels, height, width};
    esp_shape shape = esp_shape_make(4, dims);
    expect_ok(esp_builder_new("test", 13, 7, &m.builder, &err), &err);
    expect_ok(esp_builder_input(m.builder, "x", ESP_F32, &shape, "N", &m.value, &err), &err);
    return m;
}

static void add(model *m, const char *op, const char *output, const int *others, int other_count,
                const esp_attr *attrs, int attr_count)
{
    esp_error err = {0};
    int inputs[8] = {m->value};
    for (int i = 0; i < other_count; i++) {
        inputs[i + 1] = others[i];
    }
    expect_ok(esp_builder_add(m->builder, op, output, inputs, other_count + 1, attrs, attr_count, output,
                              &m->value, &err),
              &err);
}

static esp_graph *finish(model *m)
{
    esp_error err = {0};
    esp_graph *graph = NULL;
    expect_ok(esp_builder_output(m->builder, m->value, ESP_F32, NULL, &err), &err);
    expect_ok(esp_builder_finish(m->builder, &graph, &err), &err);
    return graph;
}

static void add_gemm(model *m, int weight, int bias)
{
    const esp_attr transposed = esp_attr_int("transB", 1);
    add(m, "Gemm", "logits", (int[]){weight, bias}, 2, &transposed, 1);
}

esp_graph *linear_model(int64_t batch, int channels, int height, int width, int classes, const float *weights,
                        const float *bias)
{
    model m = start(batch, channels, height, width, 1);
    const int64_t dims[2] = {classes, (int64_t)channels * height * width};
    int weight = add_constant(&m, "weight", 2, dims, weights);
    int shift = add_constant(&m, "bias", 1, dims, bias);
    add(&m, "Flatten", "flat", NULL, 0, NULL, 0);
    add_gemm(&m, weight, shift);
    return finish(&m);
}

esp_graph *random_linear_model(int channels, int height, int width, int classes, uint64_t seed)
{
    model m = start(0, channels, height, width, seed);
    const int64_t dims[2] = {classes, (int64_t)channels * height * width};
    int weight = add_random(&m, "weight", 2, dims, 1.0 / sqrt((double)dims[1]), 0.0f);
    int bias = add_random(&m, "bias", 1, dims, 0.0, 0.0f);
    add(&m, "Flatten", "flat", NULL, 0, NULL, 0);
    add_gemm(&m, weight, bias);
    return finish(&m);
}

static void add_conv(model *m, const char *name, const char *output, int64_t filters, int64_t channels,
                     int64_t pad)
{
    const int64_t dims[4] = {filters, channels, 3, 3};
    const int64_t pads[4] = {pad, pad, pad, pad};
    const esp_attr attrs[2] = {esp_attr_ints("kernel_shape", dims + 2, 2), esp_attr_ints("pads", pads, 4)};
    int weight = add_random(m, name, 4, dims, sqrt(2.0 / (9.0 * (double)channels)), 0.0f);
    add(m, "Conv", output, &weight, 1, attrs, 2);
}

esp_graph *small_conv_model(int size, int filters, int classes, bool drops, uint64_t seed)
{
    model m = start(0, 1, size, size, seed);
    add_conv(&m, "conv1", "a", filters, 1, 1);
    const int64_t dims[1] = {filters};
    const int norm[4] = {
        add_random(&m, "scale", 1, dims, 0.0, 1.0f),
        add_random(&m, "shift", 1, dims, 0.0, 0.0f),
        add_random(&m, "mean", 1, dims, 0.0, 0.0f),
        add_random(&m, "variance", 1, dims, 0.0, 1.0f),
    };
    add(&m, "BatchNormalization", "b", norm, 4, NULL, 0);
    add(&m, "Relu", "c", NULL, 0, NULL, 0);
    const int64_t two[2] = {2, 2};
    const esp_attr pool[2] = {esp_attr_ints("kernel_shape", two, 2), esp_attr_ints("strides", two, 2)};
    add(&m, "MaxPool", "d", NULL, 0, pool, 2);
    add_conv(&m, "conv2", "e", filters, filters, 0);
    add(&m, "Relu", "f", NULL, 0, NULL, 0);
    add(&m, "Flatten", "g", NULL, 0, NULL, 0);
    if (drops) {
        add(&m, "Dropout", "h", NULL, 0, NULL, 0);
    }
    int64_t side = size / 2 - 2;
    const int64_t last[2] = {classes, filters * side * side};
    int weight = add_random(&m, "weight", 2, last, 1.0 / sqrt((double)last[1]), 0.0f);
    int bias = add_random(&m, "bias", 1, last, 0.0, 0.0f);
    add_gemm(&m, weight, bias);
    return finish(&m);
}

/* ---- datasets ---- */

esp_dataset *noise_dataset(int64_t count, int channels, int height, int width, int classes, uint64_t seed)
{
    esp_error err = {0};
    esp_dataset *dataset = NULL;
    expect_ok(esp_dataset_new("noise", "", count, channels, height, width, classes, &dataset, &err), &err);
    esp_rng rng;
    esp_rng_seed(&rng, seed);
    for (int64_t i = 0; i < count; i++) {
        uint8_t *pixels = esp_dataset_pixels_mut(dataset, i);
        for (int k = 0; k < channels * height * width; k++) {
            pixels[k] = (uint8_t)esp_rng_below(&rng, 256);
        }
        esp_dataset_set_label(dataset, i, (int)(i % classes));
    }
    return dataset;
}

esp_dataset *quarters_dataset(int64_t count, int size, uint64_t seed)
{
    esp_dataset *dataset = noise_dataset(count, 1, size, size, 4, seed);
    int half = size / 2;
    for (int64_t i = 0; i < count; i++) {
        uint8_t *pixels = esp_dataset_pixels_mut(dataset, i);
        int label = esp_dataset_label(dataset, i);
        for (int y = 0; y < size; y++) {
            for (int x = 0; x < size; x++) {
                bool is_bright = label == (y >= half) * 2 + (x >= half);
                pixels[y * size + x] = (uint8_t)(pixels[y * size + x] / 2 + (is_bright ? 80 : 0));
            }
        }
    }
    return dataset;
}

/* ---- looking at results ---- */

const esp_tensor *constant_of(const esp_graph *graph, const char *name)
{
    int value = esp_graph_find_value(graph, name);
    if (value < 0 || esp_graph_value(graph, value)->constant == NULL) {
        fail_msg("no constant '%s'", name);
    }
    return esp_graph_value(graph, value)->constant;
}

bool same_constants(const esp_graph *a, const esp_graph *b)
{
    for (int i = 0; i < esp_graph_value_count(a); i++) {
        const esp_value *value = esp_graph_value(a, i);
        if (value->constant != NULL && !esp_tensor_equal(value->constant, constant_of(b, value->name))) {
            return false;
        }
    }
    return true;
}
