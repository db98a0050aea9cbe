#include "unit/train/calibration_net.h"

#include <math.h>

#include "unit/train/train_fixtures.h"

enum { IMAGES = 5, PIXELS = 72, CLASSES = 3 };

static esp_shape shape_of(int rank, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const int64_t dims[] = {a, b, c, d};

    return esp_shape_make(rank, dims);
}
#define S1(a)          shape_of(1, (a), 0, 0, 0)
#define S2(a, b)       shape_of(2, (a), (b), 0, 0)
#define S4(a, b, c, d) shape_of(4, (a), (b), (c), (d))

/* offset + scale * sin(0.37 i + seed) */
static int wave(esp_builder *n, const char *name, esp_shape shape, int seed, double scale, double offset)
{
    esp_tensor *tensor = NULL;
    esp_error err = {0};
    int made = -1;

    expect_ok(esp_tensor_new(ESP_F32, &shape, &tensor, &err), &err);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        esp_tensor_f32_mut(tensor)[i] = (float)(offset + scale * sin(0.37 * (double)i + (double)seed));
    expect_ok(esp_builder_constant(n, name, tensor, &made, &err), &err);
    esp_tensor_unref(tensor);
    return made;
}

static int add(esp_builder *n, const char *op, const char *name, const int *inputs, int count,
               const esp_attr *attrs, int attr_count)
{
    esp_error err = {0};
    int made = -1;

    expect_ok(esp_builder_add(n, op, name, inputs, count, attrs, attr_count, NULL, &made, &err), &err);
    return made;
}

static int norm(esp_builder *n, const char *name, const char *mean, const char *variance, int x, int channels,
                int seed)
{
    const int inputs[] = {
        x, wave(n, name[4] == '1' ? "norm1.scale" : "norm3.scale", S1(channels), seed, 0.3, 1.0),
        wave(n, name[4] == '1' ? "norm1.shift" : "norm3.shift", S1(channels), seed + 1, 0.4, 0),
        wave(n, mean, S1(channels), seed + 2, 0.3, 0), wave(n, variance, S1(channels), seed + 3, 0.5, 1.0)};

    return add(n, "BatchNormalization", name, inputs, 5, NULL, 0);
}

static int one(esp_builder *n, const char *op, const char *name, int x)
{
    return add(n, op, name, &x, 1, NULL, 0);
}

esp_graph *calibration_net(void)
{
    static const int64_t ones[] = {1, 1, 1, 1}, twos[] = {2, 2};
    const esp_attr padded[] = {esp_attr_ints("pads", ones, 4), esp_attr_ints("strides", ones, 2)};
    const esp_attr strided[] = {esp_attr_ints("pads", ones, 4), esp_attr_ints("strides", twos, 2)};
    const esp_attr transposed[] = {esp_attr_int("transB", 1)};
    const esp_shape shape = S4(ESP_DIM_BATCH, 2, 6, 6);
    esp_builder *n = NULL;
    esp_graph *graph = NULL;
    esp_error err = {0};
    int x = -1;

    expect_ok(esp_builder_new("calibration", 13, 8, &n, &err), &err);
    expect_ok(esp_builder_input(n, "x", ESP_F32, &shape, NULL, &x, &err), &err);
    const int conv1[] = {x, wave(n, "conv1.weight", S4(4, 2, 3, 3), 1, 0.5, 0)};
    int a1 = one(n, "Relu", "relu1",
                 norm(n, "norm1", "norm1.mean", "norm1.variance",
                      add(n, "Conv", "conv1", conv1, 2, padded, 2), 4, 10));
    const int conv2[] = {a1, wave(n, "conv2.weight", S4(4, 4, 3, 3), 2, 0.4, 0),
                         wave(n, "conv2.bias", S1(4), 3, 0.3, 0)};
    const int sum[] = {add(n, "Conv", "conv2", conv2, 3, padded, 2), a1};
    int r2 = one(n, "Dropout", "dropout", one(n, "Relu", "relu2", add(n, "Add", "sum", sum, 2, NULL, 0)));
    const int conv3[] = {r2, wave(n, "conv3.weight", S4(6, 4, 3, 3), 4, 0.4, 0),
                         wave(n, "conv3.bias", S1(6), 5, 0.3, 0)};
    int a3 = one(n, "Relu", "relu3",
                 norm(n, "norm3", "norm3.mean", "norm3.variance",
                      add(n, "Conv", "conv3", conv3, 3, strided, 2), 6, 20));
    const int linear[] = {one(n, "Flatten", "flatten", one(n, "GlobalAveragePool", "pool", a3)),
                          wave(n, "linear.weight", S2(CLASSES, 6), 6, 0.8, 0),
                          wave(n, "linear.bias", S1(CLASSES), 7, 0.2, 0)};
    expect_ok(esp_builder_output(n, add(n, "Gemm", "linear", linear, 3, transposed, 1), ESP_F32, NULL, &err),
              &err);
    expect_ok(esp_builder_metadata(n, ESP_NORMALIZATION_KEY,
                                   "{\"mean\":[0.4,0.5],\"scale\":255,\"std\":[0.25,0.3]}", &err),
              &err);
    expect_ok(esp_builder_finish(n, &graph, &err), &err);
    return graph;
}

esp_dataset *calibration_images(void)
{
    esp_dataset *dataset = NULL;
    esp_error err = {0};

    expect_ok(esp_dataset_new("calibration", NULL, IMAGES, 2, 6, 6, CLASSES, &dataset, &err), &err);
    for (int n = 0; n < IMAGES; n++) {
        uint8_t *pixels = esp_dataset_pixels_mut(dataset, n);
        for (int i = 0; i < PIXELS; i++)
            pixels[i] = (uint8_t)((i * 29 + n * 53 + i * i % 17 * 7) % 256);
        esp_dataset_set_label(dataset, n, n % CLASSES);
    }
    return dataset;
}

void assert_doubles(const double *found, const double *expected, int64_t count, double tolerance)
{
    double most = 0;

    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(expected[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabs(found[i] - expected[i]) <= tolerance * most))
            fail_msg("%lld: found %.9g, expected %.9g", (long long)i, found[i], expected[i]);
}
