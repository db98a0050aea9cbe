/* Surgery on trained networks as exporters wrote them (../shared, not part of the project). */
#include "io/onnx.h"
#include "unit/prune/surgery_checks.h"

static esp_graph *load(const char *name)
{
    esp_error err = {0};
    esp_graph *graph = NULL;
    const char *shared = shared_directory();
    char path[1024];
    if (shared == NULL)
        skip();
    snprintf(path, sizeof path, "%s/models/%s.onnx", shared, name);
    expect_ok(esp_onnx_load(path, &graph, &err), &err);
    return graph;
}

static esp_surgery_report cut_model(const char *name, esp_method method, double ratio, esp_group_form form)
{
    esp_surgery_report report;
    esp_graph *graph = load(name);
    esp_preview *preview = check_plan(graph, method, ESP_MODE_FAITHFUL, ratio, 16);
    esp_graph *cut = check_cut(preview, form, &report);
    assert_true(report.counts.params <= preview->after.params);
    if (report.slots_removed == check_count_removable(preview)) /* nothing but what the masks say is gone */
        assert_int_equal(report.counts.params, preview->after.params);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
    return report;
}

static void cut_by_both_methods(const char *name)
{
    esp_surgery_report weak = cut_model(name, ESP_METHOD_WSP, 0.4, ESP_GROUP_FORM_GROUPED);
    assert_true(weak.slots_removed > 0 && weak.layers_narrowed > 0);
    assert_int_equal(weak.layers_grouped, 0);
    esp_surgery_report grouped = cut_model(name, ESP_METHOD_SG, 0.5, ESP_GROUP_FORM_GROUPED);
    assert_true(grouped.layers_grouped > 0);
    esp_surgery_report dense = cut_model(name, ESP_METHOD_SG, 0.5, ESP_GROUP_FORM_DENSE);
    assert_int_equal(dense.layers_grouped, 0);
    assert_true(dense.layers_with_masks > 0);
}

static void cuts_resnet20_with_convolution_shortcuts(void **state)
{
    (void)state;
    cut_by_both_methods("resnet20_cifar10");
}

static void cuts_resnet20_with_padded_shortcuts(void **state)
{
    (void)state;
    cut_by_both_methods("resnet20_cifar10_slicepad");
}

static void cuts_resnet20_with_folded_norms(void **state)
{
    (void)state;
    cut_by_both_methods("resnet20_cifar10_folded");
}

static void cuts_resnet56(void **state)
{
    (void)state;
    cut_by_both_methods("resnet56_cifar10");
}

static void cuts_squeezenet(void **state)
{
    (void)state;
    cut_model("squeezenet1.0_imagenet", ESP_METHOD_WSP, 0.4, ESP_GROUP_FORM_GROUPED);
    cut_model("squeezenet1.0_imagenet", ESP_METHOD_SG, 0.5, ESP_GROUP_FORM_GROUPED);
}

/* The plain block pairs of ResNet-20 can be cut whole: their 9 sets lose weak channels, the residual ones
 * none. */
static void residual_channels_of_resnet20_are_one_set_per_stage(void **state)
{
    (void)state;
    net_view view = net_look(load("resnet20_cifar10_slicepad"));
    int64_t written_by_several = 0, free_slots = 0;
    for (int i = 0; i < esp_coupling_set_count(view.coupling); i++) {
        const esp_coupled_set *set = esp_coupling_set(view.coupling, i);
        written_by_several += set->writer_count > 1 ? set->slot_count : 0;
        free_slots += set->pinned_by == NULL ? set->slot_count : 0;
    }
    /* the stream grows from 16 over 32 to 64 channels; padding becomes channels of the next stage */
    assert_int_equal(written_by_several, 64);
    assert_int_equal(free_slots, 64 + 3 * (16 + 32 + 64));
    net_forget(&view);
}

/* The target of its last Reshape is computed from the batch size, and its inputs have no size in the file. */
static void cuts_a_model_with_open_sizes_and_a_computed_reshape(void **state)
{
    (void)state;
    esp_error err = {0};
    esp_graph *graph = load("ppocr_cls"), *cut = NULL;
    esp_input_shape shape = {"x", {.rank = 4, .dims = {1, 3, 48, 192}}};
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = NULL;
    esp_surgery_options options = esp_surgery_defaults();
    esp_surgery_report report;
    expect_ok(esp_preview_new(NULL, graph, &plan, &shape, 1, NULL, &preview, &err), &err);
    expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
    assert_int_equal(report.layers_with_masks, 0);
    assert_int_equal(report.counts.params, preview->after.params);
    shape.shape.dims[2] = 96; /* still open: another size, and two images */
    double absolute, relative;
    esp_graph *masked = NULL;
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    shape.shape.dims[0] = ESP_DIM_BATCH;
    expect_ok(esp_compare_outputs(NULL, masked, cut, &shape, 1, 2, 9, &absolute, &relative, &err), &err);
    assert_true(relative <= 1e-4);
    esp_graph_unref(masked);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residual_channels_of_resnet20_are_one_set_per_stage),
        cmocka_unit_test(cuts_resnet20_with_convolution_shortcuts),
        cmocka_unit_test(cuts_resnet20_with_padded_shortcuts),
        cmocka_unit_test(cuts_resnet20_with_folded_norms),
        cmocka_unit_test(cuts_resnet56),
        cmocka_unit_test(cuts_squeezenet),
        cmocka_unit_test(cuts_a_model_with_open_sizes_and_a_computed_reshape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
