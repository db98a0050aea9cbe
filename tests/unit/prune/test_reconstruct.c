/* Reconstruction: networks in which what is cut can be made up for exactly, and a trained one (shared data;
 * skipped where it is absent). */
#include "prune/reconstruct.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "io/dataset.h"
#include "io/onnx.h"
#include "train/evaluate.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_case.h"

enum { RANDOM_NETS = 60 };

/* A constant of the net: normal numbers, then filter `copy` becomes `factor` times filter `of`. */
static int constant(net *n, const char *name, int rank, const int64_t *dims, int filter_axis, int64_t copy,
                    int64_t of, float factor)
{
    esp_shape shape = esp_shape_make(rank, dims);
    esp_tensor *tensor = NULL;
    esp_error err = {0};
    int64_t strides[ESP_MAX_RANK], slice = 1;
    int made = -1;

    expect_ok(esp_tensor_new(ESP_F32, &shape, &tensor, &err), &err);
    float *data = esp_tensor_f32_mut(tensor);
    for (int64_t i = 0; i < esp_tensor_elements(tensor); i++)
        data[i] = (float)esp_rng_normal(&n->rng) * 0.5f;
    esp_shape_strides(&shape, strides);
    slice = strides[filter_axis];
    for (int64_t i = 0; copy >= 0 && i < slice; i++)
        data[copy * slice + i] = factor * data[of * slice + i];
    expect_ok(esp_builder_constant(n->builder, name, tensor, &made, &err), &err);
    esp_tensor_unref(tensor);
    return made;
}

static net_tensor conv(net *n, net_tensor x, const char *weight, const char *bias, int64_t filters,
                       int64_t copy, const esp_attr *attrs, int attr_count, net_tensor shape)
{
    const int64_t dims[] = {filters, x.channels, 3, 3};
    const int inputs[] = {x.value, constant(n, weight, 4, dims, 0, copy, 0, 0.25f),
                          bias ? constant(n, bias, 1, dims, 0, copy, 0, 0.25f) : -1};

    return net_node(n, "Conv", inputs, bias ? 3 : 2, attrs, attr_count, shape);
}

/* Conv1 3x3 - Relu - Conv3 (strides, dilations, uneven pads) - Relu - Flatten - Gemm6 (transB 0, alpha,
 * beta). The last filter of either convolution is a quarter of the first: without it nothing is lost that the
 * next layer could not make up for. */
static esp_graph *redundant_net(void)
{
    static const int64_t ones[] = {1, 1, 1, 1}, strides[] = {2, 2}, dilations[] = {2, 2},
                         pads[] = {1, 2, 0, 1};
    static const int64_t weight_dims[] = {60, 3}, bias_dims[] = {3};
    const esp_attr plain[] = {esp_attr_ints("pads", ones, 4)};
    const esp_attr uneven[] = {esp_attr_ints("strides", strides, 2), esp_attr_ints("dilations", dilations, 2),
                               esp_attr_ints("pads", pads, 4)};
    const esp_attr scaled[] = {esp_attr_float("alpha", 0.5f), esp_attr_float("beta", 2.0f)};
    net_tensor x, shape = {0, 4, 9, 9};
    net n = net_start(2, 9, 9, 4, &x);

    net_tensor y = net_unary(&n, "Relu", conv(&n, x, "w1", "b1", 4, 3, plain, 1, shape));
    shape = (net_tensor){0, 5, 3, 4};
    y = net_flatten(&n, net_unary(&n, "Relu", conv(&n, y, "w3", "b3", 5, 4, uneven, 3, shape)));
    const int inputs[] = {y.value, constant(&n, "w6", 2, weight_dims, 0, -1, 0, 0),
                          constant(&n, "b6", 1, bias_dims, 0, -1, 0, 0)};
    net_output(&n, net_node(&n, "Gemm", inputs, 3, scaled, 2, (net_tensor){0, 3, 0, 0}));
    return net_finish(&n);
}

/* Conv1 - Relu - Conv3 without a bias - batch-norm - Relu - pooling - Gemm. The last filter of Conv1 gives
 * the same number everywhere: what it adds to Conv3 is a number per filter. */
static esp_graph *constant_net(void)
{
    static const int64_t ones[] = {1, 1, 1, 1};
    const esp_attr plain[] = {esp_attr_ints("pads", ones, 4)};
    float weight[4 * 2 * 9], bias[4] = {0.3f, -0.2f, 0.1f, 0.8f};
    net_tensor x;
    net n = net_start(2, 9, 9, 5, &x);

    net_tensor y = conv(&n, x, "w1", "b1", 4, -1, plain, 1, (net_tensor){0, 4, 9, 9});
    y = conv(&n, net_unary(&n, "Relu", y), "w3", NULL, 5, -1, NULL, 0, (net_tensor){0, 5, 7, 7});
    y = net_unary(&n, "Relu", net_norm(&n, y));
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, y)), 3, NET_GEMM_TRANSPOSED));
    esp_graph *graph = net_finish(&n);
    memcpy(weight, esp_tensor_f32(constant_of(graph, "w1")), sizeof weight);
    for (int i = 3 * 18; i < 4 * 18; i++)
        weight[i] = 0;
    return net_with_values(net_with_values(graph, "w1", weight), "b1", bias);
}

/* Cuts the filters with the lowest L1 norm: one of Conv1, and one of Conv3 where its ratio says so. */
static esp_preview *preview_without_one(const esp_graph *graph, double second)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0);
    esp_error err = {0};

    expect_ok(esp_plan_add_rule(&plan, "Conv1", 0.25, 0, false, &err), &err);
    expect_ok(esp_plan_add_rule(&plan, "Conv3", second, 0, false, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_plan_free(&plan);
    assert_int_equal(preview->items[0].filters_kept, 3);
    assert_false(esp_mask_filter_is_live(&preview->items[0].mask, 3));
    return preview;
}

typedef struct results {
    esp_graph *masked, *cut, *plain;
    esp_reconstruct_report report;
} results;

static results reconstruct(const esp_compute *compute, const esp_preview *preview,
                           const esp_reconstruct_options *options)
{
    const esp_surgery_options surgery = esp_surgery_defaults();
    results it = {0};
    esp_error err = {0};

    expect_ok(esp_reconstruct(compute, preview, options, &it.masked, &it.report, &err), &err);
    expect_ok(esp_reconstruct_cut(compute, preview, it.masked, &surgery, &it.cut, NULL, &err), &err);
    expect_ok(esp_surgery(compute, preview, &surgery, &it.plain, NULL, &err), &err);
    return it;
}

static void results_free(results *it)
{
    esp_graph_unref(it->masked);
    esp_graph_unref(it->cut);
    esp_graph_unref(it->plain);
    esp_reconstruct_report_free(&it->report);
}

/* On seeded noise, which no layer was solved on. */
static double difference(const esp_graph *a, const esp_graph *b)
{
    double absolute, relative;
    esp_error err = {0};

    expect_ok(esp_compare_outputs(NULL, a, b, NULL, 0, 4, 7, &absolute, &relative, &err), &err);
    return relative;
}

static esp_reconstruct_options noise_options(const esp_dataset *images)
{
    return (esp_reconstruct_options){.dataset = images, .ridge = 1e-9, .mean = "0.5", .std = "0.25"};
}

static void what_the_next_layer_can_make_up_for_is_made_up_for(void **state)
{
    esp_graph *graph = redundant_net();
    esp_preview *preview = preview_without_one(graph, 0.2);
    esp_dataset *images = noise_dataset(200, 2, 9, 9, 3, 1);
    esp_reconstruct_options options = noise_options(images);
    results it = reconstruct(NULL, preview, &options);
    (void)state;

    assert_int_equal(preview->items[1].filters_kept, 4);
    assert_int_equal(it.report.count, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(it.report.layers[i].layer, i + 1);
        assert_true(it.report.layers[i].error_before > 1e-3);
        assert_true(it.report.layers[i].error_after < 1e-8);
    }
    assert_int_equal(it.report.layers[0].unknowns, 27);
    assert_int_equal(it.report.layers[1].unknowns, 48);
    assert_true(difference(graph, it.plain) > 0.02);
    assert_true(difference(graph, it.masked) < 1e-3); /* solved from float32 */
    assert_true(difference(graph, it.cut) < 1e-3);
    results_free(&it);
    esp_dataset_unref(images);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* The layer has no bias: what it lost goes into the mean of the batch-norm behind it. */
static void a_batch_norm_takes_the_intercept_of_a_layer_without_bias(void **state)
{
    esp_graph *graph = constant_net();
    esp_preview *preview = preview_without_one(graph, 0);
    esp_dataset *images = noise_dataset(64, 2, 9, 9, 3, 2);
    esp_reconstruct_options options = noise_options(images);
    results it = reconstruct(NULL, preview, &options);
    (void)state;

    assert_true(difference(graph, it.plain) > 0.02);
    assert_true(difference(graph, it.cut) < 1e-3);
    results_free(&it);
    esp_dataset_unref(images);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void masked_connections_stay_zero_and_other_layers_as_they_are(void **state)
{
    esp_graph *graph = redundant_net();
    esp_preview *preview = preview_without_one(graph, 0.2);
    esp_dataset *images = noise_dataset(40, 2, 9, 9, 3, 1);
    esp_reconstruct_options options = noise_options(images);
    results it = reconstruct(NULL, preview, &options);
    esp_graph *masked = NULL;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    assert_string_equal(esp_graph_metadata(it.masked, ESP_MASKS_KEY),
                        esp_graph_metadata(masked, ESP_MASKS_KEY));
    for (int l = 0; l < preview->layers.count; l++) {
        const esp_layer *layer = &preview->layers.items[l];
        const float *weight = esp_tensor_f32(constant_of(it.masked, layer->weight_name));
        for (int64_t f = 0; f < layer->filters; f++)
            for (int64_t c = 0; c < layer->channels; c++)
                for (int64_t k = 0;
                     k < layer->kernel_positions && !esp_mask_get(&preview->items[l].mask, f, c); k++)
                    assert_true(weight[esp_layer_slice(layer, f, c) + k] == 0);
    }
    assert_true(esp_tensor_equal(constant_of(it.masked, "w1"), constant_of(masked, "w1")));
    assert_true(esp_tensor_equal(constant_of(it.masked, "b1"), constant_of(masked, "b1")));
    assert_false(esp_tensor_equal(constant_of(it.masked, "w3"), constant_of(masked, "w3")));
    assert_false(esp_tensor_equal(constant_of(it.masked, "w6"), constant_of(masked, "w6")));
    esp_graph_unref(masked);
    results_free(&it);
    esp_dataset_unref(images);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Filters of one layer that read different channels are solved apart. */
static void groups_of_filters_keep_their_own_channels(void **state)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    esp_graph *graph = net_residual(3);
    esp_dataset *images = noise_dataset(80, 3, 8, 8, 5, 1);
    esp_reconstruct_options options = noise_options(images);
    (void)state;

    plan.groups = 2;
    plan.cascades = false;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    results it = reconstruct(NULL, preview, &options);
    assert_true(it.report.count > 2);
    for (int i = 0; i < it.report.count; i++)
        assert_true(it.report.layers[i].error_after <= it.report.layers[i].error_before + 1e-9);
    assert_true(difference(graph, it.cut) < difference(graph, it.plain));
    results_free(&it);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_dataset_unref(images);
    esp_graph_unref(graph);
}

static void threads_change_no_bit(void **state)
{
    esp_graph *graph = redundant_net();
    esp_preview *preview = preview_without_one(graph, 0.2);
    esp_dataset *images = noise_dataset(40, 2, 9, 9, 3, 1);
    esp_reconstruct_options options = noise_options(images);
    esp_compute compute = {0};
    esp_error err = {0};
    (void)state;

    expect_ok(esp_pool_new(3, &compute.pool, &err), &err);
    results one = reconstruct(NULL, preview, &options), three = reconstruct(&compute, preview, &options);
    assert_true(same_constants(one.masked, three.masked));
    results_free(&one);
    results_free(&three);
    esp_pool_free(compute.pool);
    esp_dataset_unref(images);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Sums, concatenations, slices, depthwise layers, gates, flatten: whatever was cut, the surgery's own check
 * holds, and no layer gets worse at the samples it was solved on. */
static void random_networks_are_solved_and_cut(void **state)
{
    static const esp_method methods[] = {ESP_METHOD_FILTER, ESP_METHOD_WSP, ESP_METHOD_SG};
    int solved = 0;
    (void)state;

    for (uint64_t seed = 0; seed < RANDOM_NETS; seed++) {
        esp_plan plan = esp_plan_make(methods[seed % 3], ESP_MODE_SOUND, 0.4);
        plan.groups = 2;
        prune_case at = prune_case_new(net_random_classifier(seed), plan);
        const esp_reconstruct_options options = {.dataset = prune_case_images(&at, 12, seed)};
        results it = reconstruct(NULL, at.preview, &options);
        for (int i = 0; i < it.report.count; i++) {
            const esp_reconstruct_layer *layer = &it.report.layers[i];
            solved += layer->samples > 0;
            assert_true(layer->samples == 0 || isnan(layer->error_after) ||
                        layer->error_after <= layer->error_before * (1 + 1e-9));
        }
        results_free(&it);
        prune_case_free(&at);
    }
    assert_true(solved > RANDOM_NETS);
}

/* The same but for what a convolution fused with its batch-norm rounds otherwise than one after the other. */
static void expect_near_constants(const esp_graph *a, const esp_graph *b)
{
    for (int v = 0; v < esp_graph_value_count(a); v++) {
        const esp_tensor *one = esp_graph_value(a, v)->constant, *other = esp_graph_value(b, v)->constant;
        double largest = 0;
        if (!one || esp_tensor_dtype(one) != ESP_F32)
            continue;
        for (int64_t i = 0; i < esp_tensor_elements(one); i++)
            largest = fmax(largest, fabs(esp_tensor_get_f64(one, i)));
        for (int64_t i = 0; i < esp_tensor_elements(one); i++)
            assert_true(fabs(esp_tensor_get_f64(one, i) - esp_tensor_get_f64(other, i)) <= 1e-4 * largest);
    }
}

/* With room for what lies in front of a layer the network is run once, in pieces; without, once for every
 * layer. What comes out is the same, and with room for some of it too. */
static void memory_decides_how_often_the_network_is_run_and_nothing_else(void **state)
{
    int several = 0;
    (void)state;

    for (uint64_t seed = 0; seed < 12; seed++) {
        prune_case at = prune_case_new(net_random_classifier(seed),
                                       esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.4));
        esp_dataset *images = prune_case_images(&at, 20, seed);
        const esp_reconstruct_options roomy = {.dataset = images}, tight = {.dataset = images, .memory = 1},
                                      some = {.dataset = images, .memory = 40000};
        results all = reconstruct(NULL, at.preview, &roomy), none = reconstruct(NULL, at.preview, &tight),
                part = reconstruct(NULL, at.preview, &some);
        int solved = 0;
        for (int i = 0; i < all.report.count; i++)
            solved += all.report.layers[i].samples > 0;
        several += solved > 1;
        assert_int_equal(all.report.passes, solved > 0);
        assert_int_equal(none.report.passes, solved);
        assert_true(part.report.passes >= all.report.passes && part.report.passes <= none.report.passes);
        expect_near_constants(all.masked, none.masked);
        expect_near_constants(all.masked, part.masked);
        results_free(&all);
        results_free(&none);
        results_free(&part);
        prune_case_free(&at);
    }
    assert_true(several > 3); /* else one pass is nothing new */
}

/* An infinite bias makes infinite activations: nothing can be solved behind it. */
static void layers_without_a_solution_are_left_as_they_are_with_the_reason(void **state)
{
    const float bias[4] = {INFINITY, 0, 0, 0};
    esp_graph *graph = net_with_values(redundant_net(), "b1", bias), *masked = NULL, *plain = NULL;
    esp_preview *preview = preview_without_one(graph, 0.2);
    esp_dataset *images = noise_dataset(40, 2, 9, 9, 3, 1);
    esp_reconstruct_options options = noise_options(images);
    esp_reconstruct_report report;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_reconstruct(NULL, preview, &options, &masked, &report, &err), &err);
    expect_ok(esp_preview_masked_graph(preview, &plain, &err), &err);
    assert_int_equal(report.count, 2);
    assert_int_equal(report.layers[0].samples, 0);
    assert_non_null(strstr(report.layers[0].reason, "no solution"));
    assert_memory_equal(esp_tensor_f32(constant_of(masked, "w3")), esp_tensor_f32(constant_of(plain, "w3")),
                        5 * 4 * 9 * sizeof(float));
    esp_reconstruct_report_free(&report);
    esp_graph_unref(masked);
    esp_graph_unref(plain);
    esp_dataset_unref(images);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void options_out_of_range_are_refused(void **state)
{
    esp_graph *graph = redundant_net(), *out = NULL;
    esp_preview *preview = preview_without_one(graph, 0.2);
    esp_dataset *images = noise_dataset(40, 2, 9, 9, 3, 1), *other = noise_dataset(4, 1, 9, 9, 3, 1);
    esp_reconstruct_options options = noise_options(NULL);
    esp_error err = {0};
    (void)state;

    expect_failure(esp_reconstruct(NULL, preview, &options, &out, NULL, &err), ESP_INVALID, &err,
                   "no data set");
    options = noise_options(images);
    options.images = -1;
    expect_failure(esp_reconstruct(NULL, preview, &options, &out, NULL, &err), ESP_INVALID, &err,
                   "images -1");
    options = noise_options(images);
    options.ridge = NAN;
    expect_failure(esp_reconstruct(NULL, preview, &options, &out, NULL, &err), ESP_INVALID, &err, "ridge");
    options = noise_options(other);
    assert_int_equal(esp_reconstruct(NULL, preview, &options, &out, NULL, &err), ESP_SHAPE);
    assert_null(out);
    esp_dataset_unref(images);
    esp_dataset_unref(other);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void every_allocation_may_fail(void **state)
{
    esp_graph *graph = redundant_net();
    esp_preview *preview = preview_without_one(graph, 0.2);
    esp_dataset *images = noise_dataset(10, 2, 9, 9, 3, 1);
    esp_reconstruct_options options = noise_options(images);
    (void)state;

    for (int64_t k = 1;; k++) {
        esp_graph *out = NULL;
        esp_reconstruct_report report = {0};
        esp_error err = {0};
        esp_memory_fuse(k);
        esp_status status = esp_reconstruct(NULL, preview, &options, &out, &report, &err);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        if (status != ESP_OK)
            assert_int_equal(status, ESP_NO_MEMORY);
        assert_int_equal(status == ESP_OK, out != NULL);
        esp_graph_unref(out);
        esp_reconstruct_report_free(&report);
        if (!has_burnt)
            break;
    }
    esp_dataset_unref(images);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static double top1(const esp_compute *compute, const esp_graph *graph, const esp_dataset *test)
{
    const esp_eval_options options = {.limit = 100};
    esp_eval_result result;
    esp_error err = {0};

    expect_ok(esp_evaluate(compute, graph, test, &options, &result, &err), &err);
    return result.top1;
}

/* 40 % weak channels of a trained ResNet-20: without it the network is broken, with it most of its accuracy
 * is back, on images that nothing was solved on. */
static void a_trained_network_is_repaired_on_images_it_was_not_solved_on(void **state)
{
    const char *shared = shared_directory();
    char spec[512];
    esp_graph *graph = NULL;
    esp_dataset *training = NULL, *test = NULL;
    esp_compute compute = {0};
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.4);
    esp_error err = {0};
    (void)state;

    if (!shared)
        skip();
    snprintf(spec, sizeof spec, "cifar10:%s", scratch_path(shared, "data/cifar10"));
    expect_ok(esp_onnx_load(scratch_path(shared, "models/resnet20_cifar10.onnx"), &graph, &err), &err);
    expect_ok(esp_dataset_open(spec, ESP_SPLIT_TRAIN, &training, &err), &err);
    expect_ok(esp_dataset_open(spec, ESP_SPLIT_TEST, &test, &err), &err);
    expect_ok(esp_pool_new(2, &compute.pool, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    const esp_reconstruct_options options = {.dataset = training, .images = 64};
    results it = reconstruct(&compute, preview, &options);
    double before = top1(&compute, it.plain, test), after = top1(&compute, it.cut, test);
    assert_true(before < 40);
    assert_true(after > before + 30);
    results_free(&it);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_dataset_unref(training);
    esp_dataset_unref(test);
    esp_graph_unref(graph);
    esp_pool_free(compute.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_next_layer_can_make_up_for_is_made_up_for),
        cmocka_unit_test(a_batch_norm_takes_the_intercept_of_a_layer_without_bias),
        cmocka_unit_test(masked_connections_stay_zero_and_other_layers_as_they_are),
        cmocka_unit_test(groups_of_filters_keep_their_own_channels),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(random_networks_are_solved_and_cut),
        cmocka_unit_test(memory_decides_how_often_the_network_is_run_and_nothing_else),
        cmocka_unit_test(layers_without_a_solution_are_left_as_they_are_with_the_reason),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(a_trained_network_is_repaired_on_images_it_was_not_solved_on),
    };
    return cmocka_run_group_tests_name("reconstruct", tests, NULL, NULL);
}
