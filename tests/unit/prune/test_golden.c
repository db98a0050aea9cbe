/* The published rules against masks computed by NumPy and scikit-learn on a trained ResNet-20 (shared data;
 * skipped where it is absent). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "io/onnx.h"
#include "prune/preview.h"
#include "prune/selfgroup.h"
#include "unit/base/scratch.h"

typedef struct golden {
    esp_graph *graph;
    esp_grouping_cache *cache;
    json_t *wsp, *sg;
} golden;

static json_t *load_json(const char *shared, const char *name)
{
    esp_error err = {0};
    json_t *json;

    if (esp_json_load(scratch_path(shared, name), &json, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return json;
}

static int load(void **state)
{
    static golden data;
    const char *shared = shared_directory();
    esp_error err = {0};

    *state = NULL;
    if (!shared)
        return 0;
    if (esp_onnx_load(scratch_path(shared, "models/resnet20_cifar10.onnx"), &data.graph, &err) != ESP_OK)
        fail_msg("%s", err.message);
    data.wsp = load_json(shared, "golden/wsp_resnet20_cifar10.json");
    data.sg = load_json(shared, "golden/sg_resnet20_cifar10.json");
    assert_int_equal(esp_grouping_cache_new(&data.cache, &err), ESP_OK);
    *state = &data;
    return 0;
}

static int unload(void **state)
{
    golden *data = *state;

    if (data) {
        esp_grouping_cache_free(data->cache);
        esp_graph_unref(data->graph);
        json_decref(data->wsp);
        json_decref(data->sg);
    }
    return 0;
}

static golden *need(void **state)
{
    if (!*state)
        skip();
    return *state;
}

static esp_preview *make_preview(golden *data, esp_method method, double ratio)
{
    esp_plan plan = esp_plan_make(method, ESP_MODE_FAITHFUL, ratio);
    esp_preview *preview;
    esp_error err = {0};

    if (esp_preview_new(NULL, data->graph, &plan, NULL, 0, data->cache, &preview, &err) != ESP_OK)
        fail_msg("%s", err.message);
    return preview;
}

static const char *string_at(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static double number_at(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void check_close(double found, double expected, double relative)
{
    if (!(fabs(found - expected) <= relative * fabs(expected)))
        fail_msg("found %.17g, expected %.17g", found, expected);
}

static void check_pair(const esp_preview *preview, const esp_wsp_pair *pair, const json_t *expected)
{
    const json_t *weak = json_object_get(expected, "weak");

    assert_string_equal(preview->layers.items[pair->writer].weight_name, string_at(expected, "writer"));
    assert_string_equal(preview->layers.items[pair->reader].weight_name, string_at(expected, "reader"));
    /* both sides sum in double, in another order */
    check_close(pair->filter_threshold, number_at(expected, "filter_threshold"), 1e-12);
    check_close(pair->channel_threshold, number_at(expected, "channel_threshold"), 1e-12);
    assert_int_equal(pair->weak_count, json_array_size(weak));
    for (size_t i = 0; i < json_array_size(weak); i++)
        assert_int_equal(pair->weak[i], json_integer_value(json_array_get(weak, i)));
}

static void check_wsp(golden *data, const char *percent, double ratio)
{
    const json_t *expected = json_object_get(data->wsp, percent);
    const json_t *pairs = json_object_get(expected, "pairs"),
                 *surviving = json_object_get(expected, "surviving");
    esp_preview *preview = make_preview(data, ESP_METHOD_WSP, ratio);
    size_t compared = 0;

    assert_int_equal(preview->wsp.pair_count, json_array_size(pairs));
    for (int i = 0; i < preview->wsp.pair_count; i++)
        check_pair(preview, &preview->wsp.pairs[i], json_array_get(pairs, (size_t)i));
    for (int l = 0; l < preview->layers.count; l++) {
        const json_t *count = json_object_get(surviving, preview->layers.items[l].weight_name);
        if (!count)
            continue;
        compared++;
        assert_int_equal(preview->items[l].params_after, json_integer_value(count));
    }
    assert_int_equal(compared, json_object_size(surviving));
    esp_preview_free(preview);
}

static void wsp_faithful_reproduces_the_published_rule_at_20_percent(void **state)
{
    check_wsp(need(state), "20", 0.2);
}

static void wsp_faithful_reproduces_the_published_rule_at_40_percent(void **state)
{
    check_wsp(need(state), "40", 0.4);
}

static void wsp_faithful_reproduces_the_published_rule_at_60_percent(void **state)
{
    check_wsp(need(state), "60", 0.6);
}

static void wsp_knows_which_pairs_follow_the_data_flow(void **state)
{
    esp_preview *preview = make_preview(need(state), ESP_METHOD_WSP, 0.4);

    /* inside a block, conv1 to conv2: nine of them. All others go across a residual addition. */
    for (int i = 0; i < preview->wsp.pair_count; i++) {
        const char *writer = preview->layers.items[preview->wsp.pairs[i].writer].weight_name;
        bool is_inside = strstr(writer, ".conv1.") != NULL;
        assert_int_equal(preview->wsp.pairs[i].is_sound, is_inside);
    }
    esp_preview_free(preview);
}

/* One layer through all steps of the file, fed with the file's labels and centroids. */
static void check_steps(const json_t *steps, int64_t filters, int64_t channels, int64_t k)
{
    double *centroids = esp_alloc((size_t)(k * channels), sizeof *centroids);
    int32_t *labels = esp_alloc((size_t)filters, sizeof *labels);
    int32_t *groups = esp_alloc((size_t)filters, sizeof *groups);
    char *text = esp_alloc((size_t)channels + 1, 1);
    esp_mask mask;
    esp_error err = {0};

    assert_int_equal(esp_mask_new(filters, channels, &mask, &err), ESP_OK);
    for (size_t s = 0; s < json_array_size(steps); s++) {
        const json_t *expected = json_array_get(steps, s), *rows = json_object_get(expected, "mask");
        double threshold;
        for (int64_t i = 0; i < k * channels; i++)
            centroids[i] = json_number_value(
                json_array_get(json_array_get(json_object_get(expected, "centroids"), (size_t)(i / channels)),
                               (size_t)(i % channels)));
        for (int64_t f = 0; f < filters; f++)
            labels[f] =
                (int32_t)json_integer_value(json_array_get(json_object_get(expected, "labels"), (size_t)f));
        assert_int_equal(esp_selfgroup_step(labels, centroids, k, number_at(expected, "ratio"),
                                            ESP_MODE_FAITHFUL, &mask, &threshold, &err),
                         ESP_OK);
        check_close(threshold, number_at(expected, "threshold"),
                    1e-7); /* the file's centroids have 9 digits */
        for (int64_t f = 0; f < filters; f++)
            assert_string_equal(esp_mask_row_text(&mask, f, text),
                                json_string_value(json_array_get(rows, (size_t)f)));
        assert_int_equal(esp_mask_executed_groups(&mask, groups), number_at(expected, "executed_groups"));
        check_close(1 - (double)esp_mask_kept(&mask) / (double)(filters * channels),
                    number_at(expected, "sparsity"), 1e-12);
    }
    esp_mask_free(&mask);
    esp_free(centroids);
    esp_free(labels);
    esp_free(groups);
    esp_free(text);
}

static void selfgroup_faithful_reproduces_the_published_masks_over_six_steps(void **state)
{
    golden *data = need(state);
    const char *name;
    json_t *layer;

    json_object_foreach(data->sg, name, layer)
    {
        const json_t *shape = json_object_get(layer, "shape");
        check_steps(json_object_get(layer, "steps"), json_integer_value(json_array_get(shape, 0)),
                    json_integer_value(json_array_get(shape, 1)), (int64_t)number_at(layer, "k"));
    }
    assert_int_equal(json_object_size(data->sg), 5);
}

static const json_t *first_step(const golden *data, const char *weight)
{
    return json_array_get(json_object_get(json_object_get(data->sg, weight), "steps"), 0);
}

static void kmeans_reaches_the_stored_inertias(void **state)
{
    golden *data = need(state);
    const char *name;
    json_t *unused;

    for (uint64_t seed = 0; seed < 5; seed++) {
        esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.1);
        esp_preview *preview;
        esp_error err = {0};
        plan.seed = seed;
        assert_int_equal(esp_preview_new(NULL, data->graph, &plan, NULL, 0, data->cache, &preview, &err),
                         ESP_OK);
        json_object_foreach(data->sg, name, unused)
        {
            int l = esp_layers_find(&preview->layers, name);
            double stored = number_at(first_step(data, name), "inertia");
            assert_true(l >= 0);
            assert_true(preview->items[l].grouping.inertia <= stored * 1.01 + 1e-12);
        }
        esp_preview_free(preview);
    }
}

static void selfgroup_of_layers_with_as_many_groups_as_filters_gives_the_stored_mask(void **state)
{
    golden *data = need(state);
    esp_preview *preview = make_preview(data, ESP_METHOD_SG, 0.1);

    /* 16 filters in 16 groups, 10 in 10: the clustering is trivial, so the whole way from weights must agree
     */
    for (int i = 0; i < 2; i++) {
        const char *weight = i ? "linear.weight" : "layer1.1.conv1.weight";
        int l = esp_layers_find(&preview->layers, weight);
        const json_t *rows = json_object_get(first_step(data, weight), "mask");
        for (int64_t f = 0; f < preview->layers.items[l].filters; f++) {
            char text[128];
            assert_string_equal(esp_mask_row_text(&preview->items[l].mask, f, text),
                                json_string_value(json_array_get(rows, (size_t)f)));
        }
        check_close(preview->items[l].grouping.threshold, number_at(first_step(data, weight), "threshold"),
                    1e-6);
    }
    esp_preview_free(preview);
}

static void preview_counts_resnet20_as_published(void **state)
{
    esp_preview *preview = make_preview(need(state), ESP_METHOD_SG, 0.5);
    int stems = 0, shortcuts = 0;

    for (int l = 0; l < preview->layers.count; l++) {
        stems += preview->items[l].role == ESP_ROLE_STEM;
        shortcuts += preview->items[l].role == ESP_ROLE_SHORTCUT;
        assert_int_equal(preview->items[l].takes_part, preview->items[l].role == ESP_ROLE_BODY);
    }
    assert_int_equal(stems, 1);
    assert_int_equal(shortcuts, 2);
    /* 19 convolutions and the classifier by hand: 267696 + 650 weights and bias, 2 x 688 normalisation; and
     * 2560 weights of the two shortcuts, which have no normalisation */
    assert_int_equal(preview->before.params, 267696 + 650 + 1376 + 2560);
    assert_true(preview->before.paper_params == 267696 + 650 + 1376 + 2560);
    assert_true((double)preview->after.params < (double)preview->before.params * 0.53);
    assert_true((double)preview->after.macs < (double)preview->before.macs * 0.53);
    esp_preview_free(preview);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wsp_faithful_reproduces_the_published_rule_at_20_percent),
        cmocka_unit_test(wsp_faithful_reproduces_the_published_rule_at_40_percent),
        cmocka_unit_test(wsp_faithful_reproduces_the_published_rule_at_60_percent),
        cmocka_unit_test(wsp_knows_which_pairs_follow_the_data_flow),
        cmocka_unit_test(selfgroup_faithful_reproduces_the_published_masks_over_six_steps),
        cmocka_unit_test(kmeans_reaches_the_stored_inertias),
        cmocka_unit_test(selfgroup_of_layers_with_as_many_groups_as_filters_gives_the_stored_mask),
        cmocka_unit_test(preview_counts_resnet20_as_published),
    };
    return cmocka_run_group_tests_name("golden masks", tests, load, unload);
}
