/* The scan against the long way round: every point's network masked by a plan of the test's own and evaluated
 * whole, image by image where intervals are concerned. */
#include "prune/sensitivity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "graph/extract.h"
#include "prune/sensitivity_internal.h"
#include "train/evaluate.h"
#include "unit/prune/prune_case.h"

enum { IMAGES = 24 };

static const double two_ratios[] = {0.3, 0.6};

/* ---- fixtures ---- */

static esp_sensitivity_options options_of(const esp_plan *plan)
{
    return (esp_sensitivity_options){
        .plan = plan, .ratios = two_ratios, .ratio_count = 2, .images = IMAGES, .seed = 3, .batch = 5};
}

static esp_sensitivity *scan(const esp_compute *compute, const esp_graph *graph, const esp_dataset *dataset,
                             const esp_sensitivity_options *options)
{
    esp_error err = {0};
    esp_sensitivity *out = NULL;
    expect_ok(esp_sensitivity_scan(compute, graph, dataset, options, &out, &err), &err);
    assert_true(out->is_complete);
    return out;
}

static esp_plan plan_of(esp_method method)
{
    esp_plan plan = esp_plan_make(method, ESP_MODE_SOUND, 0.5); /* the scan passes over the ratio */
    plan.groups = 2;
    return plan;
}

/* Evaluation knows networks with one output. */
static esp_eval_result evaluate_first(const esp_graph *graph, const esp_dataset *dataset)
{
    esp_error err = {0};
    const int output = esp_graph_output(graph, 0);
    const esp_extract extract = {.outputs = &output, .output_count = 1};
    esp_graph *part = NULL;
    esp_eval_result result;
    expect_ok(esp_graph_extract(graph, &extract, &part, &err), &err);
    expect_ok(esp_evaluate(NULL, part, dataset, NULL, &result, &err), &err);
    esp_graph_unref(part);
    return result;
}

/* Loss and accuracy of the network with the layers of a curve, and no others, at a ratio. */
static esp_eval_result long_way(const esp_graph *graph, const esp_dataset *dataset, const esp_plan *like,
                                const esp_sensitivity_curve *curve, double ratio, esp_counts *counts)
{
    esp_error err = {0};
    esp_plan plan;
    esp_preview *preview = NULL;
    esp_graph *masked = NULL;
    esp_eval_result result;
    expect_ok(esp_plan_clone(like, &plan, &err), &err);
    plan.conv_ratio = plan.fc_ratio = plan.border_ratio = 0;
    expect_ok(esp_plan_add_rule(&plan, "*", 0, 0, false, &err), &err);
    for (int l = 0; l < curve->layer_count; l++)
        expect_ok(esp_plan_add_rule(&plan, curve->layers[l], ratio, 0, false, &err), &err);
    preview = preview_of(graph, &plan, NULL);
    *counts = preview->after;
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    result = evaluate_first(masked, dataset);
    esp_graph_unref(masked);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    return result;
}

static void check_points(const esp_sensitivity *found, const esp_graph *graph, const esp_dataset *dataset,
                         const esp_plan *plan)
{
    esp_error err = {0};
    esp_dataset *subset = NULL;
    esp_eval_result whole;
    expect_ok(esp_dataset_subset(dataset, found->images, found->seed, &subset, &err), &err);
    whole = evaluate_first(graph, subset);
    assert_true(fabs(found->baseline.loss - whole.loss) <= 1e-6 * whole.loss);
    for (int c = 0; c < found->curve_count; c++) {
        const esp_sensitivity_curve *curve = &found->curves[c];
        assert_true(curve->point_count > 0 || curve->note[0] != '\0');
        for (int p = 0; p < curve->point_count; p++) {
            const esp_sensitivity_point *point = &curve->points[p];
            esp_counts counts;
            esp_eval_result result = long_way(graph, subset, plan, curve, point->ratio, &counts);
            assert_true(point->is_done);
            assert_true(fabs(point->loss - result.loss) <= 1e-6 * result.loss);
            assert_true(fabs(point->loss_change.value - (result.loss - whole.loss)) <= 2e-6 * result.loss);
            assert_true(fabs(point->top1.percent - result.top1) < 1e-9);
            assert_true(fabs(point->top1_change.value - (result.top1 - whole.top1)) < 1e-9);
            assert_true(fabs(point->top5.percent - result.top5) < 1e-9);
            assert_int_equal(point->params, counts.params);
            assert_int_equal(point->macs, counts.macs);
        }
    }
    esp_dataset_unref(subset);
}

static void check_method(esp_graph *take_graph, const esp_dataset *dataset, esp_method method)
{
    esp_plan plan = plan_of(method);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *found = scan(NULL, take_graph, dataset, &options);
    assert_true(found->measured > 0);
    check_points(found, take_graph, dataset, &plan);
    esp_sensitivity_free(found);
    esp_plan_free(&plan);
    esp_graph_unref(take_graph);
}

/* Every number of two scans but for times, to the bit. */
static void check_same(const esp_sensitivity *a, const esp_sensitivity *b)
{
    assert_int_equal(a->curve_count, b->curve_count);
    assert_memory_equal(&a->baseline.loss, &b->baseline.loss, sizeof(double));
    for (int c = 0; c < a->curve_count; c++) {
        assert_string_equal(a->curves[c].name, b->curves[c].name);
        assert_string_equal(a->curves[c].note, b->curves[c].note);
        assert_int_equal(a->curves[c].point_count, b->curves[c].point_count);
        for (int p = 0; p < a->curves[c].point_count; p++) {
            const esp_sensitivity_point *x = &a->curves[c].points[p], *y = &b->curves[c].points[p];
            assert_int_equal(x->is_done, y->is_done);
            assert_true(x->ratio == y->ratio && x->got == y->got && x->loss == y->loss);
            assert_true(x->params == y->params && x->macs == y->macs && x->same_as == y->same_as);
            assert_true(x->top1.right == y->top1.right && x->top1.low == y->top1.low);
            assert_true(x->loss_change.value == y->loss_change.value &&
                        x->loss_change.error == y->loss_change.error &&
                        x->top1_change.value == y->top1_change.value &&
                        x->top1_change.error == y->top1_change.error);
        }
    }
}

/* ---- what points say ---- */

static void points_equal_the_masked_network_evaluated_whole(void **state)
{
    (void)state;
    esp_dataset *dataset = noise_dataset(40, 3, 8, 8, 5, 1), *gray = noise_dataset(40, 2, 4, 4, 5, 2);
    static const esp_method methods[] = {ESP_METHOD_WSP, ESP_METHOD_SG, ESP_METHOD_FILTER};
    for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
        check_method(net_residual(7), dataset, methods[m]);
        check_method(net_chain(NET_GEMM_PLAIN, 8), gray, methods[m]);
    }
    esp_dataset_unref(dataset);
    esp_dataset_unref(gray);
}

/* Concats, gates, depthwise layers, slices and pads: cuts with several values, and values that pass by. */
static void points_of_random_networks_equal_them_too(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        esp_graph *graph = net_random_classifier(seed);
        esp_dataset *dataset = noise_for(graph, 30, seed);
        check_method(graph, dataset, ESP_METHOD_FILTER);
        esp_dataset_unref(dataset);
    }
}

static void a_coupled_set_is_one_part_with_all_its_writers(void **state)
{
    (void)state;
    esp_graph *graph = net_residual(7);
    esp_dataset *dataset = noise_dataset(40, 3, 8, 8, 5, 1);
    esp_plan plan = plan_of(ESP_METHOD_FILTER);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *found = scan(NULL, graph, dataset, &options);
    int stem = esp_sensitivity_find(found, "Conv1"), end = esp_sensitivity_find(found, "Conv14");
    /* the stem and the end of the first block are added; so are the end of the second and its shortcut */
    assert_int_equal(stem, esp_sensitivity_find(found, "Conv7"));
    assert_int_equal(found->curves[stem].layer_count, 2);
    assert_int_equal(end, esp_sensitivity_find(found, "Conv16"));
    assert_int_equal(esp_sensitivity_find(found, "Conv4"), stem + 1);
    int last = esp_sensitivity_find(found, "Gemm22");
    assert_int_equal(found->curves[last].point_count, 0);
    assert_non_null(strstr(found->curves[last].note, "network output"));
    assert_int_equal(esp_sensitivity_find(found, "Conv99"), -1);
    esp_sensitivity_free(found);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

/* Two readers, each of one half of what one convolution writes: no plan cuts one half alone. */
static void sets_with_the_same_writers_are_one_part(void **state)
{
    (void)state;
    net_tensor x, a, b;
    net n = net_start(2, 6, 6, 5, &x);
    x = net_unary(&n, "Relu", net_conv3(&n, x, 8));
    a = net_conv3(&n, net_slice(&n, x, 0, 4, false), 3);
    b = net_conv3(&n, net_slice(&n, x, 4, 8, false), 3);
    x = net_unary(&n, "Relu", net_concat(&n, a, b));
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, x)), 4, NET_GEMM_TRANSPOSED));
    esp_graph *graph = net_finish(&n);
    esp_dataset *dataset = noise_dataset(40, 2, 6, 6, 4, 5);
    esp_plan plan = plan_of(ESP_METHOD_FILTER);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *found = scan(NULL, graph, dataset, &options);
    int named = 0;
    for (int c = 0; c < found->curve_count; c++)
        named += strcmp(found->curves[c].name, "Conv1") == 0;
    assert_int_equal(named, 1);
    check_points(found, graph, dataset, &plan);
    esp_sensitivity_free(found);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

/* Layers with one weight stay whole, and say so; the rest is scanned. */
static void layers_that_share_a_weight_stay_whole(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(2, 6, 6, 5, &x);
    const int64_t dims[4] = {5, 5, 3, 3}, pads[4] = {1, 1, 1, 1};
    const esp_attr attr = esp_attr_ints("pads", pads, 4);
    int weight = net_random(&n, "shared", 4, dims, 0.2, 0);
    x = net_unary(&n, "Relu", net_conv3(&n, x, 5));
    x = net_unary(&n, "Relu", net_node(&n, "Conv", (int[]){x.value, weight}, 2, &attr, 1, x));
    x = net_unary(&n, "Relu", net_node(&n, "Conv", (int[]){x.value, weight}, 2, &attr, 1, x));
    x = net_unary(&n, "Relu", net_conv3(&n, net_conv3(&n, x, 6), 5));
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, x)), 4, NET_GEMM_TRANSPOSED));
    esp_graph *graph = net_finish(&n);
    esp_dataset *dataset = noise_dataset(40, 2, 6, 6, 4, 5);
    esp_plan plan = plan_of(ESP_METHOD_SG);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *found = scan(NULL, graph, dataset, &options);
    int shared = 0;
    for (int c = 0; c < found->curve_count; c++)
        shared += found->curves[c].point_count == 0 && strstr(found->curves[c].note, "shares") != NULL;
    assert_true(shared >= 1);
    check_points(found, graph, dataset, &plan);
    esp_sensitivity_free(found);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

static void patterns_choose_parts_and_unknown_ones_are_refused(void **state)
{
    (void)state;
    esp_graph *graph = net_residual(7);
    esp_dataset *dataset = noise_dataset(40, 3, 8, 8, 5, 1);
    esp_plan plan = plan_of(ESP_METHOD_FILTER);
    esp_sensitivity_options options = options_of(&plan);
    const char *one[] = {"Conv1?"}, *none[] = {"conv99"};
    options.patterns = one;
    options.pattern_count = 1;
    esp_sensitivity *found = scan(NULL, graph, dataset, &options);
    assert_int_equal(found->curve_count, 2); /* Conv11; Conv14 with Conv16 */
    esp_sensitivity_free(found);
    esp_error err = {0};
    options.patterns = none;
    expect_failure(esp_sensitivity_scan(NULL, graph, dataset, &options, &found, &err), ESP_INVALID, &err,
                   "conv99");
    assert_null(found);
    const double falling[] = {0.5, 0.2};
    options.pattern_count = 0;
    options.ratios = falling;
    expect_failure(esp_sensitivity_scan(NULL, graph, dataset, &options, &found, &err), ESP_INVALID, &err,
                   "ratio 2 is 0.2");
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

static void masks_of_another_point_are_not_measured_again(void **state)
{
    (void)state;
    static const double close[] = {0.01, 0.5, 0.501, 0.502};
    esp_graph *graph = net_residual(7);
    esp_dataset *dataset = noise_dataset(40, 3, 8, 8, 5, 1);
    esp_plan plan = plan_of(ESP_METHOD_FILTER);
    esp_sensitivity_options options = options_of(&plan);
    options.ratios = close;
    options.ratio_count = 4;
    esp_sensitivity *found = scan(NULL, graph, dataset, &options);
    const esp_sensitivity_curve *curve = &found->curves[esp_sensitivity_find(found, "Conv4")];
    assert_int_equal(curve->points[0].same_as, ESP_SENSITIVITY_WHOLE); /* of 6 filters none is 1 % */
    assert_true(curve->points[0].loss == found->baseline.loss && curve->points[0].loss_change.error == 0);
    assert_int_equal(curve->points[1].same_as, ESP_SENSITIVITY_OWN);
    assert_int_equal(curve->points[2].same_as, 1);
    assert_int_equal(curve->points[3].same_as, 1);
    assert_true(curve->points[3].loss == curve->points[1].loss);
    int64_t points = 0;
    for (int c = 0; c < found->curve_count; c++)
        points += found->curves[c].point_count;
    assert_int_equal(found->measured + found->reused, points);
    assert_true(found->reused >= 3);
    check_points(found, graph, dataset, &plan);
    esp_sensitivity_free(found);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

/* ---- how it runs ---- */

static void any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    esp_graph *graph = net_residual(9);
    esp_dataset *dataset = noise_dataset(40, 3, 8, 8, 5, 4);
    esp_plan plan = plan_of(ESP_METHOD_WSP);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *one = scan(NULL, graph, dataset, &options);
    for (int threads = 2; threads <= 3; threads++) {
        esp_error err = {0};
        esp_compute compute = {0};
        expect_ok(esp_pool_new(threads, &compute.pool, &err), &err);
        esp_sensitivity *many = scan(&compute, graph, dataset, &options);
        check_same(one, many);
        esp_sensitivity_free(many);
        esp_pool_free(compute.pool);
    }
    esp_sensitivity_free(one);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

static void too_little_memory_means_earlier_cuts_and_equal_results(void **state)
{
    (void)state;
    esp_graph *graph = net_residual(9);
    esp_dataset *dataset = noise_dataset(40, 3, 8, 8, 5, 4);
    esp_plan plan = plan_of(ESP_METHOD_SG);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *plenty = scan(NULL, graph, dataset, &options);
    assert_true(plenty->held_bytes > 0);
    for (size_t limit = 1; limit < 4 * plenty->held_bytes; limit *= 8) {
        options.memory = limit;
        esp_sensitivity *little = scan(NULL, graph, dataset, &options);
        assert_true(little->held_bytes <= limit);
        check_points(little, graph, dataset, &plan);
        esp_sensitivity_free(little);
    }
    esp_sensitivity_free(plenty);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

/* stem - two heads: the first classifies, the second is another output. */
static void the_first_of_several_outputs_classifies(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(2, 6, 6, 5, &x);
    x = net_unary(&n, "Relu", net_conv3(&n, x, 6));
    net_tensor y = net_unary(&n, "Relu", net_conv3(&n, x, 5)), z = net_conv3(&n, x, 4);
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, y)), 4, NET_GEMM_TRANSPOSED));
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, z)), 3, NET_GEMM_TRANSPOSED));
    esp_graph *graph = net_finish(&n);
    esp_dataset *dataset = noise_dataset(40, 2, 6, 6, 4, 5);
    check_method(graph, dataset, ESP_METHOD_FILTER);
    esp_dataset_unref(dataset);
}

static void sizes_the_network_leaves_open_are_those_of_the_images(void **state)
{
    (void)state;
    net_tensor x;
    net n = net_start(2, ESP_DIM_UNKNOWN, ESP_DIM_UNKNOWN, 5, &x);
    x = net_unary(&n, "Relu", net_conv3(&n, x, 6));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 5));
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, x)), 4, NET_GEMM_TRANSPOSED));
    esp_graph *graph = net_finish(&n);
    esp_dataset *dataset = noise_dataset(40, 2, 7, 5, 4, 5);
    esp_plan plan = plan_of(ESP_METHOD_FILTER);
    esp_sensitivity_options options = options_of(&plan);
    esp_sensitivity *found = scan(NULL, graph, dataset, &options);
    assert_int_equal(found->measured, 4);
    assert_true(found->held_bytes > 0);
    assert_true(found->curves[0].points[1].macs < found->baseline.macs);
    esp_sensitivity_free(found);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

/* ---- intervals ---- */

/* By hand: 8 images of which 5 were right, 4 are; 2 lost, 1 won. */
static void intervals_are_those_of_paired_images(void **state)
{
    (void)state;
    double before_loss[] = {1, 1, 1, 1, 2, 2, 2, 2}, now_loss[] = {1, 2, 1, 2, 2, 3, 2, 3};
    unsigned char before[] = {1, 1, 1, 1, 1, 0, 0, 0}, now[] = {1, 1, 1, 0, 0, 1, 0, 0};
    scan_scores whole = {8, before_loss, before, before}, scores = {8, now_loss, now, now};
    esp_sensitivity_point point = {0};
    scan_summarize(&scores, &whole, &point);
    assert_int_equal(point.top1.right, 4);
    assert_true(fabs(point.loss - 2) < 1e-12);
    assert_true(fabs(point.loss_change.value - 0.5) < 1e-12);
    /* differences 0 1 0 1 0 1 0 1: variance 2/7, of the mean 2/7/8 */
    assert_true(fabs(point.loss_change.error - 1.959963984540054 * sqrt(2.0 / 56)) < 1e-12);
    assert_true(fabs(point.top1_change.value + 12.5) < 1e-12);
    /* Agresti and Min: (2.5 + 1.5 - (2.5 - 1.5)^2 / 10) / 10^2 */
    assert_true(fabs(point.top1_change.error - 195.9963984540054 * sqrt((4 - 0.1) / 100)) < 1e-9);
    /* Wilson at 4 of 8: centre 0.5; half of z / (1 + z^2/n) sqrt(1/4n + z^2/4n^2) */
    double z = 1.959963984540054, half = z / (1 + z * z / 8) * sqrt(0.25 / 8 + z * z / 256);
    assert_true(fabs(point.top1.low - 100 * (0.5 - half)) < 1e-9);
    assert_true(fabs(point.top1.high - 100 * (0.5 + half)) < 1e-9);
}

static void equal_results_still_have_an_interval(void **state)
{
    (void)state;
    double loss[] = {1, 2};
    unsigned char hits[] = {1, 0};
    scan_scores whole = {2, loss, hits, hits};
    esp_sensitivity_point point = {0};
    scan_summarize(&whole, &whole, &point);
    assert_true(point.top1_change.value == 0 && point.top1_change.error > 0);
    assert_true(point.loss_change.value == 0 && point.loss_change.error == 0);
}

/* ---- the file ---- */

typedef struct on_disk {
    char *directory;
    const char *path;
    esp_graph *graph;
    esp_dataset *dataset;
    esp_plan plan;
    esp_sensitivity_options options;
} on_disk;

static on_disk disk_open(void)
{
    on_disk it = {.directory = scratch_make(), .graph = net_residual(7)};
    it.path = scratch_path(it.directory, "scan.jsonl");
    it.dataset = noise_dataset(40, 3, 8, 8, 5, 1);
    it.plan = plan_of(ESP_METHOD_FILTER);
    return it;
}

static esp_sensitivity_options disk_options(const on_disk *it, bool resumes)
{
    esp_sensitivity_options options = options_of(&it->plan);
    options.path = it->path;
    options.resumes = resumes;
    return options;
}

static void disk_close(on_disk *it)
{
    esp_plan_free(&it->plan);
    esp_graph_unref(it->graph);
    esp_dataset_unref(it->dataset);
    scratch_remove(it->directory);
}

static void a_file_that_was_cut_off_anywhere_is_gone_on_with(void **state)
{
    (void)state;
    on_disk it = disk_open();
    esp_sensitivity_options options = disk_options(&it, false);
    esp_sensitivity *whole = scan(NULL, it.graph, it.dataset, &options), *resumed;
    size_t size;
    char *text = scratch_read(it.path, &size);
    options.resumes = true;
    for (size_t cut = 0; cut <= size; cut += cut + 97 < size || cut == size ? 97 : size - cut) {
        scratch_write(it.path, text, cut);
        resumed = scan(NULL, it.graph, it.dataset, &options);
        check_same(whole, resumed);
        assert_int_equal(resumed->resumed + resumed->measured + resumed->reused,
                         whole->measured + whole->reused);
        if (cut == size)
            assert_int_equal(resumed->measured, 0);
        esp_sensitivity_free(resumed);
        /* and what is on disk now is whole */
        esp_error err = {0};
        expect_ok(esp_sensitivity_load(it.path, &resumed, &err), &err);
        assert_true(resumed->is_complete);
        check_same(whole, resumed);
        esp_sensitivity_free(resumed);
    }
    free(text);
    esp_sensitivity_free(whole);
    disk_close(&it);
}

static void check_resume_refused(const on_disk *it, const esp_graph *graph, const esp_dataset *dataset,
                                 esp_sensitivity_options options, const char *part)
{
    esp_error err = {0};
    esp_sensitivity *out = NULL;
    size_t before, after;
    char *old = scratch_read(it->path, &before), *new;
    expect_failure(esp_sensitivity_scan(NULL, graph, dataset, &options, &out, &err), ESP_STATE, &err, part);
    assert_null(out);
    new = scratch_read(it->path, &after);
    assert_int_equal(before, after);
    assert_memory_equal(old, new, before);
    free(old);
    free(new);
}

static void a_file_of_something_else_is_refused_and_left_alone(void **state)
{
    (void)state;
    on_disk it = disk_open();
    esp_sensitivity_options options = disk_options(&it, false);
    esp_sensitivity_free(scan(NULL, it.graph, it.dataset, &options));
    esp_error err = {0};
    esp_sensitivity *out = NULL;
    expect_failure(esp_sensitivity_scan(NULL, it.graph, it.dataset, &options, &out, &err), ESP_INVALID, &err,
                   "exists already");
    options.resumes = true;

    esp_graph *other = net_residual(8);
    check_resume_refused(&it, other, it.dataset, options, "another model");
    esp_graph_unref(other);
    options.images = IMAGES - 1;
    check_resume_refused(&it, it.graph, it.dataset, options, "another images");
    options.images = IMAGES;
    options.seed = 4;
    check_resume_refused(&it, it.graph, it.dataset, options, "another seed");
    options.seed = 3;
    options.mean = "0.25";
    check_resume_refused(&it, it.graph, it.dataset, options, "another mean");
    options.mean = NULL;
    esp_plan plan = plan_of(ESP_METHOD_WSP);
    options.plan = &plan;
    check_resume_refused(&it, it.graph, it.dataset, options, "another plan");
    options.plan = &it.plan;
    /* images that go by the same name and are others */
    esp_dataset *noise = noise_dataset(40, 3, 8, 8, 5, 2);
    check_resume_refused(&it, it.graph, noise, options, "the data is not what it was");
    esp_dataset_unref(noise);
    esp_plan_free(&plan);
    disk_close(&it);
}

/* Ratios that were there, one in front of them, and a plan that differs in ratios only. */
static void another_grid_goes_into_the_same_file(void **state)
{
    (void)state;
    static const double close[] = {0.5, 0.501}, three[] = {0.3, 0.5, 0.501};
    on_disk it = disk_open();
    esp_sensitivity_options options = disk_options(&it, false);
    options.ratios = close;
    esp_sensitivity *first = scan(NULL, it.graph, it.dataset, &options), *second, *loaded = NULL;
    it.plan.conv_ratio = 0.7;
    options.resumes = true;
    options.ratios = three;
    options.ratio_count = 3;
    second = scan(NULL, it.graph, it.dataset, &options);
    assert_int_equal(second->resumed, first->measured + first->reused);
    check_points(second, it.graph, it.dataset, &it.plan);
    assert_int_equal(second->curves[esp_sensitivity_find(second, "Conv4")].points[2].same_as, 1);
    esp_error err = {0};
    expect_ok(esp_sensitivity_load(it.path, &loaded, &err), &err);
    check_same(second, loaded);
    esp_sensitivity_free(first);
    esp_sensitivity_free(second);
    esp_sensitivity_free(loaded);
    disk_close(&it);
}

static void lines_that_are_none_of_ours_are_named(void **state)
{
    (void)state;
    on_disk it = disk_open();
    esp_error err = {0};
    esp_sensitivity *out = NULL;
    scratch_write(it.path, "{\"a\": 1}\n", 9);
    expect_failure(esp_sensitivity_load(it.path, &out, &err), ESP_FORMAT, &err, "line 1");
    scratch_write(it.path, "", 0);
    expect_failure(esp_sensitivity_load(it.path, &out, &err), ESP_FORMAT, &err, "no whole line");
    unlink(it.path);
    esp_sensitivity_options options = disk_options(&it, false);
    esp_sensitivity_free(scan(NULL, it.graph, it.dataset, &options));
    size_t size;
    char *text = scratch_read(it.path, &size), *second = strchr(text, '\n') + 1;
    memcpy(second, "{\"b\":", 5);
    scratch_write(it.path, text, size);
    expect_failure(esp_sensitivity_load(it.path, &out, &err), ESP_FORMAT, &err, "line 2");
    assert_null(out);
    free(text);
    disk_close(&it);
}

typedef struct stopper {
    esp_cancel cancel;
    int after;
} stopper;

static void stop_soon(void *user, const esp_sensitivity *so_far, int curve, int point)
{
    stopper *it = user;
    assert_true(so_far->curves[curve].points[point].is_done);
    if (--it->after == 0)
        esp_cancel_request(&it->cancel);
}

static void a_scan_that_is_stopped_keeps_what_it_has(void **state)
{
    (void)state;
    on_disk it = disk_open();
    esp_sensitivity_options options = disk_options(&it, false);
    stopper stop = {.after = 3};
    esp_compute compute = {.cancel = &stop.cancel};
    esp_error err = {0};
    esp_sensitivity *stopped = NULL, *rest;
    options.on_point = stop_soon;
    options.user = &stop;
    expect_failure(esp_sensitivity_scan(&compute, it.graph, it.dataset, &options, &stopped, &err),
                   ESP_CANCELLED, &err, NULL);
    assert_non_null(stopped);
    assert_false(stopped->is_complete);
    assert_int_equal(stopped->measured + stopped->reused, 3);
    esp_sensitivity_free(stopped);

    expect_ok(esp_sensitivity_load(it.path, &stopped, &err), &err);
    assert_false(stopped->is_complete);
    assert_int_equal(stopped->resumed, 3);
    esp_sensitivity_free(stopped);
    options.resumes = true;
    options.on_point = NULL;
    rest = scan(NULL, it.graph, it.dataset, &options);
    assert_int_equal(rest->resumed, 3);
    check_points(rest, it.graph, it.dataset, &it.plan);
    esp_sensitivity_free(rest);
    disk_close(&it);
}

/* ---- for budgets ---- */

static void the_envelope_rises_and_is_read_backwards(void **state)
{
    (void)state;
    esp_sensitivity_point points[4] = {{.is_done = true, .ratio = 0.2, .loss_change = {-0.1, 0}},
                                       {.is_done = true, .ratio = 0.4, .loss_change = {0.4, 0}},
                                       {.is_done = true, .ratio = 0.5, .loss_change = {0.2, 0}},
                                       {.is_done = true, .ratio = 0.9, .loss_change = {1.2, 0}}};
    for (int p = 0; p < 4; p++)
        points[p].top1_change.value = -10 * points[p].loss_change.value;
    esp_sensitivity_curve curve = {.point_count = 4, .points = points};
    const struct {
        double ratio, cost;
    } corners[] = {{0, 0},      {0.1, 0},   {0.2, 0},   {0.3, 0.2}, {0.4, 0.4},
                   {0.45, 0.4}, {0.5, 0.4}, {0.7, 0.8}, {0.9, 1.2}, {0.99, 1.2}};
    for (size_t i = 0; i < sizeof corners / sizeof *corners; i++)
        assert_true(fabs(esp_sensitivity_envelope(&curve, ESP_SENSITIVITY_LOSS, corners[i].ratio) -
                         corners[i].cost) < 1e-12);
    assert_true(fabs(esp_sensitivity_ratio(&curve, ESP_SENSITIVITY_LOSS, 0) - 0.2) < 1e-12);
    assert_true(fabs(esp_sensitivity_ratio(&curve, ESP_SENSITIVITY_LOSS, 0.1) - 0.25) < 1e-12);
    assert_true(fabs(esp_sensitivity_ratio(&curve, ESP_SENSITIVITY_LOSS, 0.4) - 0.5) < 1e-12);
    assert_true(fabs(esp_sensitivity_ratio(&curve, ESP_SENSITIVITY_TOP1, 8) - 0.7) < 1e-12);
    assert_true(esp_sensitivity_ratio(&curve, ESP_SENSITIVITY_LOSS, 2) == 0.9);
    points[1].is_done = false; /* passed over: straight from 0.2 to the next */
    assert_true(fabs(esp_sensitivity_envelope(&curve, ESP_SENSITIVITY_LOSS, 0.35) - 0.1) < 1e-12);
    curve.point_count = 0;
    assert_true(esp_sensitivity_ratio(&curve, ESP_SENSITIVITY_LOSS, 1) == 0);
    points[0].loss_change.value = (double)NAN;
    assert_true(isinf(esp_sensitivity_cost(&points[0], ESP_SENSITIVITY_LOSS)));
}

static void the_fingerprint_sees_one_bit_of_one_weight(void **state)
{
    (void)state;
    char a[17], b[17];
    esp_graph *graph = net_chain(NET_MATMUL, 3), *other;
    int value = esp_graph_find_value(graph, net_weight_name(graph, "Conv1"));
    esp_tensor *tensor = NULL;
    esp_error err = {0};
    expect_ok(esp_tensor_clone(esp_graph_value(graph, value)->constant, &tensor, &err), &err);
    ((uint32_t *)esp_tensor_data_mut(tensor))[5] ^= 1;
    expect_ok(esp_graph_with_constants(graph, 1, &value, &tensor, &other, &err), &err);
    esp_sensitivity_fingerprint(graph, a, sizeof a);
    assert_string_not_equal(a, esp_sensitivity_fingerprint(other, b, sizeof b));
    esp_graph *again = net_chain(NET_MATMUL, 3);
    assert_string_equal(a, esp_sensitivity_fingerprint(again, b, sizeof b));
    esp_graph_unref(again);
    esp_graph_unref(other);
    esp_graph_unref(graph);
    esp_tensor_unref(tensor);
}

/* ---- memory ---- */

static void running_out_of_memory_is_a_status_wherever_it_happens(void **state)
{
    (void)state;
    esp_graph *graph = net_chain(NET_GEMM_TRANSPOSED, 3);
    esp_dataset *dataset = noise_dataset(8, 2, 4, 4, 5, 2);
    esp_plan plan = plan_of(ESP_METHOD_FILTER);
    esp_sensitivity_options options = options_of(&plan);
    options.ratio_count = 1;
    options.images = 4;
    options.batch = 2;
    size_t live = esp_memory_live();
    int64_t refused = 0;
    for (int64_t k = 1;; k += 1 + k / 16) {
        esp_error err = {0};
        esp_sensitivity *out = NULL;
        esp_memory_fuse(k);
        esp_status status = esp_sensitivity_scan(NULL, graph, dataset, &options, &out, &err);
        bool is_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, is_burnt && status != ESP_OK ? ESP_NO_MEMORY : ESP_OK);
        refused += status != ESP_OK;
        esp_sensitivity_free(out);
        if (!is_burnt)
            break;
    }
    assert_true(refused > 30);
    /* packed weights hang on the graph's tensors, so compare once they are there */
    esp_sensitivity_free(scan(NULL, graph, dataset, &options));
    size_t once = esp_memory_live();
    esp_sensitivity_free(scan(NULL, graph, dataset, &options));
    assert_int_equal(esp_memory_live(), once);
    assert_true(once >= live);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
    esp_dataset_unref(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_equal_the_masked_network_evaluated_whole),
        cmocka_unit_test(points_of_random_networks_equal_them_too),
        cmocka_unit_test(a_coupled_set_is_one_part_with_all_its_writers),
        cmocka_unit_test(sets_with_the_same_writers_are_one_part),
        cmocka_unit_test(layers_that_share_a_weight_stay_whole),
        cmocka_unit_test(patterns_choose_parts_and_unknown_ones_are_refused),
        cmocka_unit_test(masks_of_another_point_are_not_measured_again),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(too_little_memory_means_earlier_cuts_and_equal_results),
        cmocka_unit_test(the_first_of_several_outputs_classifies),
        cmocka_unit_test(sizes_the_network_leaves_open_are_those_of_the_images),
        cmocka_unit_test(intervals_are_those_of_paired_images),
        cmocka_unit_test(equal_results_still_have_an_interval),
        cmocka_unit_test(a_file_that_was_cut_off_anywhere_is_gone_on_with),
        cmocka_unit_test(a_file_of_something_else_is_refused_and_left_alone),
        cmocka_unit_test(another_grid_goes_into_the_same_file),
        cmocka_unit_test(lines_that_are_none_of_ours_are_named),
        cmocka_unit_test(a_scan_that_is_stopped_keeps_what_it_has),
        cmocka_unit_test(the_envelope_rises_and_is_read_backwards),
        cmocka_unit_test(the_fingerprint_sees_one_bit_of_one_weight),
        cmocka_unit_test(running_out_of_memory_is_a_status_wherever_it_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
