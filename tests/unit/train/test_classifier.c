/* A last layer for other classes: what is new, what stays, and where there is none. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/infer.h"
#include "train/classifier.h"
#include "train/trainer.h"
#include "unit/train/train_fixtures.h"

static int64_t dim_of(const esp_graph *graph, const char *name, int axis)
{
    return esp_tensor_shape(constant_of(graph, name))->dims[axis];
}

static void last_layer_is_new_and_the_rest_the_models_own(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *start = small_conv_model(8, 3, 4, true, 1), *out = NULL, *again = NULL, *other = NULL;
    esp_graph *described = NULL;
    expect_ok(esp_graph_with_metadata(start, "espalier.masks", "[\"conv2\"]", &described, &err), &err);
    expect_ok(esp_replace_classifier(described, 11, 5, &out, &err), &err);
    assert_int_equal(esp_model_classes(out), 11);
    assert_int_equal(dim_of(out, "weight", 0), 11);
    assert_int_equal(dim_of(out, "weight", 1), dim_of(start, "weight", 1));
    assert_int_equal(dim_of(out, "bias", 0), 11);
    static const char *const kept[] = {"conv1", "scale", "shift", "mean", "variance", "conv2"};
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        assert_true(esp_tensor_data(constant_of(out, kept[i])) ==
                    esp_tensor_data(constant_of(start, kept[i])));
    }
    assert_string_equal(esp_graph_metadata(out, "espalier.masks"), "[\"conv2\"]");
    expect_ok(esp_replace_classifier(described, 11, 5, &again, &err), &err);
    expect_ok(esp_replace_classifier(described, 11, 6, &other, &err), &err);
    assert_true(same_constants(out, again));
    assert_false(same_constants(out, other));
    esp_graph_unref(other);
    esp_graph_unref(again);
    esp_graph_unref(out);
    esp_graph_unref(described);
    esp_graph_unref(start);
}

static void weights_are_drawn_as_by_pytorchs_linear(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *start = random_linear_model(1, 20, 20, 3, 1), *out = NULL;
    expect_ok(esp_replace_classifier(start, 50, 1, &out, &err), &err);
    const esp_tensor *weight = constant_of(out, "weight"), *bias = constant_of(out, "bias");
    double bound = 1.0 / 20.0, sum = 0.0, square = 0.0, most = 0.0; /* 400 inputs */
    int64_t count = esp_tensor_elements(weight);
    for (int64_t i = 0; i < count; i++) {
        double value = (double)esp_tensor_f32(weight)[i];
        sum += value;
        square += value * value;
        most = fmax(most, fabs(value));
    }
    /* of 20,000 uniform numbers: mean within 4 standard errors, second moment bound^2 / 3 within 3 % */
    assert_true(most <= bound && most > 0.99 * bound);
    assert_true(fabs(sum / (double)count) < 4.0 * bound / sqrt(3.0 * (double)count));
    assert_true(fabs(square / (double)count / (bound * bound / 3.0) - 1.0) < 0.03);
    for (int64_t i = 0; i < 50; i++) {
        assert_true(fabs((double)esp_tensor_f32(bias)[i]) <= bound && esp_tensor_f32(bias)[i] != 0.0f);
    }
    esp_graph_unref(out);
    esp_graph_unref(start);
}

/* ---- other ends ---- */

typedef struct maker {
    esp_builder *builder;
    esp_error err;
} maker;

static int constant(maker *m, const char *name, int rank, const int64_t *dims)
{
    esp_shape shape = esp_shape_make(rank, dims);
    esp_tensor *tensor = NULL;
    int value = -1;
    expect_ok(esp_tensor_new(ESP_F32, &shape, &tensor, &m->err), &m->err);
    expect_ok(esp_builder_constant(m->builder, name, tensor, &value, &m->err), &m->err);
    esp_tensor_unref(tensor);
    return value;
}

static int integers(maker *m, const char *name, int64_t count, const int64_t *numbers)
{
    esp_shape shape = esp_shape_make(1, &count);
    esp_tensor *tensor = NULL;
    int value = -1;
    expect_ok(esp_tensor_from(ESP_I64, &shape, numbers, &tensor, &m->err), &m->err);
    expect_ok(esp_builder_constant(m->builder, name, tensor, &value, &m->err), &m->err);
    esp_tensor_unref(tensor);
    return value;
}

static int add(maker *m, const char *op, const char *name, const int *inputs, int count,
               const esp_attr *attrs, int attr_count)
{
    int value = -1;
    expect_ok(esp_builder_add(m->builder, op, name, inputs, count, attrs, attr_count, NULL, &value, &m->err),
              &m->err);
    return value;
}

static int begin(maker *m, int64_t channels, int64_t size)
{
    const int64_t dims[4] = {ESP_DIM_BATCH, channels, size, size};
    esp_shape shape = esp_shape_make(4, dims);
    int x = -1;
    expect_ok(esp_builder_new("end", 13, 7, &m->builder, &m->err), &m->err);
    expect_ok(esp_builder_input(m->builder, "x", ESP_F32, &shape, "N", &x, &m->err), &m->err);
    return x;
}

static esp_graph *end(maker *m, int value)
{
    esp_graph *graph = NULL;
    expect_ok(esp_builder_output(m->builder, value, ESP_F32, NULL, &m->err), &m->err);
    expect_ok(esp_builder_finish(m->builder, &graph, &m->err), &m->err);
    return graph;
}

static esp_graph *replaced(esp_graph *take_graph, int64_t classes)
{
    esp_error err = {0};
    esp_graph *out = NULL;
    expect_ok(esp_replace_classifier(take_graph, classes, 1, &out, &err), &err);
    assert_int_equal(esp_model_classes(out), classes);
    esp_graph_unref(take_graph);
    return out;
}

/* x -> Conv 1x1 to 6 classes -> Relu -> GlobalAveragePool -> Reshape [-1, 6] -> Softmax, as SqueezeNet ends.
 */
static void convolution_behind_pooling_reshape_and_softmax_is_found(void **state)
{
    (void)state;
    maker m = {0};
    int x = begin(&m, 3, 4);
    int conv[3] = {x, constant(&m, "weight", 4, (int64_t[]){6, 3, 1, 1}),
                   constant(&m, "bias", 1, (int64_t[]){6})};
    int value = add(&m, "Conv", "conv", conv, 3, NULL, 0);
    value = add(&m, "Relu", "relu", &value, 1, NULL, 0);
    value = add(&m, "GlobalAveragePool", "pool", &value, 1, NULL, 0);
    int reshape[2] = {value, integers(&m, "target", 2, (int64_t[]){-1, 6})};
    value = add(&m, "Reshape", "reshape", reshape, 2, NULL, 0);
    value = add(&m, "Softmax", "softmax", &value, 1, NULL, 0);
    esp_graph *out = replaced(end(&m, value), 9);
    assert_int_equal(dim_of(out, "weight", 0), 9);
    assert_int_equal(dim_of(out, "weight", 1), 3);
    assert_int_equal(dim_of(out, "bias", 0), 9);
    assert_int_equal(esp_tensor_get_i64(constant_of(out, "target"), 1), 9);
    esp_graph_unref(out);
}

static void product_with_an_added_bias_is_found(void **state)
{
    (void)state;
    maker m = {0};
    int x = begin(&m, 2, 3);
    int flat = add(&m, "Flatten", "flat", &x, 1, NULL, 0);
    int product[2] = {flat, constant(&m, "weight", 2, (int64_t[]){18, 5})};
    int value = add(&m, "MatMul", "fc", product, 2, NULL, 0);
    int sum[2] = {constant(&m, "bias", 2, (int64_t[]){1, 5}), value};
    value = add(&m, "Add", "add", sum, 2, NULL, 0);
    esp_graph *out = replaced(end(&m, value), 2);
    assert_int_equal(dim_of(out, "weight", 0), 18);
    assert_int_equal(dim_of(out, "weight", 1), 2);
    assert_int_equal(dim_of(out, "bias", 1), 2);
    esp_graph_unref(out);
}

/* Two Gemms that read some channels each, put together and into order: what surgery makes of a grouped layer.
 */
static void layer_that_was_split_into_groups_becomes_whole(void **state)
{
    (void)state;
    maker m = {0};
    const esp_attr axis = esp_attr_int("axis", 1), transposed = esp_attr_int("transB", 1);
    int x = begin(&m, 2, 2), halves[2];
    int flat = add(&m, "Flatten", "flat", &x, 1, NULL, 0);
    for (int i = 0; i < 2; i++) {
        char name[16];
        snprintf(name, sizeof(name), "channels%d", i);
        int gather[2] = {flat, integers(&m, name, 3, (int64_t[]){i, 4 + i, 6 + i})};
        int part = add(&m, "Gather", NULL, gather, 2, &axis, 1);
        snprintf(name, sizeof(name), "weight%d", i);
        int gemm[2] = {part, constant(&m, name, 2, (int64_t[]){2, 3})};
        halves[i] = add(&m, "Gemm", NULL, gemm, 2, &transposed, 1);
    }
    int joined = add(&m, "Concat", "joined", halves, 2, &axis, 1);
    int order[2] = {joined, integers(&m, "order_of", 4, (int64_t[]){2, 0, 3, 1})};
    int value = add(&m, "Gather", "order", order, 2, &axis, 1);
    esp_graph *out = replaced(end(&m, value), 7);
    assert_int_equal(esp_graph_node_count(out), 2);
    const esp_node *last = esp_graph_node(out, 1);
    const esp_shape *weight = esp_tensor_shape(esp_graph_value(out, last->inputs[1])->constant);
    assert_true(weight->dims[0] == 7 && weight->dims[1] == 8);
    esp_graph_unref(out);
}

static void expect_none(esp_graph *take_graph, const char *part)
{
    esp_error err = {0};
    esp_graph *out = NULL;
    expect_failure(esp_replace_classifier(take_graph, 3, 1, &out, &err), ESP_UNSUPPORTED, &err, part);
    assert_null(out);
    esp_graph_unref(take_graph);
}

static void ends_without_a_classifier_are_refused(void **state)
{
    (void)state;
    maker m = {0};
    int x = begin(&m, 3, 4);
    expect_none(end(&m, add(&m, "Flatten", "flat", &x, 1, NULL, 0)), "has no layer");
    x = begin(&m, 3, 4);
    int flat = add(&m, "Flatten", "flat", &x, 1, NULL, 0);
    int gemm[2] = {flat, constant(&m, "weight", 2, (int64_t[]){48, 5})};
    int value = add(&m, "Gemm", "fc", gemm, 2, NULL, 0);
    int scaled[2] = {value, constant(&m, "scale", 1, (int64_t[]){5})};
    value = add(&m, "Mul", "mul", scaled, 2, NULL, 0);
    expect_none(end(&m, value), "'mul' (Mul) has a constant that fits the old classes");
    esp_error err = {0};
    esp_graph *start = random_linear_model(1, 2, 2, 3, 1), *out = NULL;
    expect_failure(esp_replace_classifier(start, 0, 1, &out, &err), ESP_INVALID, &err, "0 classes");
    esp_graph_unref(start);
}

static void model_with_a_new_classifier_learns_the_other_classes(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_dataset *dataset = quarters_dataset(200, 8, 5);
    esp_graph *start = small_conv_model(8, 6, 9, false, 1), *replaced_one = NULL, *out = NULL;
    expect_ok(esp_replace_classifier(start, 4, 2, &replaced_one, &err), &err);
    static const char *const frozen[] = {"conv*"};
    esp_train_options options = esp_train_defaults();
    options.epochs_limit = 4.0;
    options.batch = 16;
    options.schedule = esp_schedule_make(ESP_SCHEDULE_COSINE, 0.05);
    options.freeze = frozen;
    options.freeze_count = 1;
    esp_train_result result;
    expect_ok(esp_train(NULL, replaced_one, dataset, dataset, &options, &out, &result, &err), &err);
    assert_true(result.best.top1 > 90.0);
    assert_true(esp_tensor_equal(constant_of(out, "conv2"), constant_of(start, "conv2")));
    esp_graph_unref(out);
    esp_graph_unref(replaced_one);
    esp_graph_unref(start);
    esp_dataset_unref(dataset);
}

static void running_out_of_memory_leaks_nothing(void **state)
{
    (void)state;
    esp_graph *start = small_conv_model(8, 3, 4, true, 1);
    bool is_done = false;
    for (int64_t k = 1; !is_done; k++) {
        size_t before = esp_memory_live();
        esp_error err = {0};
        esp_graph *out = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_replace_classifier(start, 5, 1, &out, &err);
        is_done = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, is_done ? ESP_OK : ESP_NO_MEMORY);
        esp_graph_unref(out);
        assert_true(esp_memory_live() == before);
    }
    esp_graph_unref(start);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_layer_is_new_and_the_rest_the_models_own),
        cmocka_unit_test(weights_are_drawn_as_by_pytorchs_linear),
        cmocka_unit_test(convolution_behind_pooling_reshape_and_softmax_is_found),
        cmocka_unit_test(product_with_an_added_bias_is_found),
        cmocka_unit_test(layer_that_was_split_into_groups_becomes_whole),
        cmocka_unit_test(ends_without_a_classifier_are_refused),
        cmocka_unit_test(model_with_a_new_classifier_learns_the_other_classes),
        cmocka_unit_test(running_out_of_memory_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
