/* Filter pruning against a naive ranking of its own: direct loops over the weights, sorts by selection. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "graph/op.h"
#include "prune/criteria.h"
#include "prune/surgery.h"
#include "unit/prune/prune_case.h"
#include "unit/prune/random_dag.h"

static esp_plan filter_plan(double ratio)
{
    return esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, ratio);
}

/* sum |W[f]| over a layer's weight, whatever its axes. */
static double l1_of_filter(const esp_graph *graph, const esp_layer *layer, int64_t filter)
{
    const esp_tensor *weight = esp_graph_value(graph, layer->weight)->constant;
    size_t count = (size_t)esp_tensor_elements(weight);
    float *rows = malloc(count * sizeof *rows);
    double sum = 0;

    assert_non_null(rows);
    esp_layer_weight_canonical(layer, weight, rows);
    for (size_t i = 0; i < count / (size_t)layer->filters; i++)
        sum += fabs((double)rows[(size_t)filter * (count / (size_t)layer->filters) + i]);
    free(rows);
    return sum;
}

/* Scores of filters that several layers write together, filter f with filter f. */
static void naive_scores(const esp_preview *preview, const char *const *writers, int writer_count,
                         double *scores)
{
    for (int w = 0; w < writer_count; w++) {
        const esp_layer *layer = &preview->layers.items[preview_layer(preview, writers[w])];
        double mean = 0;
        for (int64_t f = 0; f < layer->filters; f++)
            mean += l1_of_filter(preview->graph, layer, f) / (double)layer->filters;
        for (int64_t f = 0; f < layer->filters; f++)
            scores[f] += l1_of_filter(preview->graph, layer, f) / mean / writer_count;
    }
}

/* goes[f] for the `count` lowest. */
static void naive_lowest(const double *scores, int64_t filters, int64_t count, bool *goes)
{
    for (int64_t taken = 0; taken < count; taken++) {
        int64_t lowest = -1;
        for (int64_t f = 0; f < filters; f++)
            if (!goes[f] && (lowest < 0 || scores[f] < scores[lowest]))
                lowest = f;
        goes[lowest] = true;
    }
}

static void expect_filters(const esp_preview *preview, const char *node, const bool *goes)
{
    const esp_mask *mask = &preview->items[preview_layer(preview, node)].mask;

    for (int64_t f = 0; f < mask->filters; f++)
        if (esp_mask_filter_is_live(mask, f) == goes[f])
            fail_msg("%s: filter %lld should %s", node, (long long)f, goes[f] ? "go" : "stay");
}

static int64_t kept(const esp_preview *preview, const char *node)
{
    return preview->items[preview_layer(preview, node)].filters_kept;
}

static void lowest_filters_of_each_layer_go(void **state)
{
    prune_case at = prune_case_new(net_chain(NET_GEMM_PLAIN, 3), filter_plan(0.5));
    static const char *const nodes[] = {"Conv1", "Conv3", "Gemm7"};
    static const int64_t filters[] = {4, 3, 6}, going[] = {2, 1, 3};
    (void)state;

    for (int i = 0; i < 3; i++) {
        double scores[8] = {0};
        bool goes[8] = {0};
        naive_scores(at.preview, &nodes[i], 1, scores);
        naive_lowest(scores, filters[i], going[i], goes);
        expect_filters(at.preview, nodes[i], goes);
    }
    assert_int_equal(kept(at.preview, "Gemm9"), 5); /* the network's output */
    prune_case_free(&at);
}

static void coupled_layers_lose_the_same_filters_by_the_mean_of_their_scores(void **state)
{
    esp_graph *graph = net_residual(5);
    esp_plan plan = filter_plan(0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    static const char *const stem[] = {"Conv1", "Conv7"}, *const second[] = {"Conv14", "Conv16"};
    (void)state;

    for (int i = 0; i < 2; i++) {
        const char *const *writers = i ? second : stem;
        double scores[64] = {0};
        bool goes[64] = {0};
        int64_t filters = preview->layers.items[preview_layer(preview, writers[0])].filters;
        naive_scores(preview, writers, 2, scores);
        naive_lowest(scores, filters, filters / 2, goes);
        expect_filters(preview, writers[0], goes);
        expect_filters(preview, writers[1], goes);
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void readers_lose_the_columns_of_what_was_cut(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_TRANSPOSED, 4);
    esp_plan plan = filter_plan(0.4);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    const esp_mask *conv = &preview->items[preview_layer(preview, "Conv3")].mask;
    const esp_mask *fc = &preview->items[preview_layer(preview, "Gemm7")].mask;
    (void)state;

    assert_int_equal(kept(preview, "Conv3"), 2);
    for (int64_t column = 0; column < 12; column++) /* 2x2 places per filter */
        assert_int_equal(esp_mask_channel_is_read(fc, column), esp_mask_filter_is_live(conv, column / 4));
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void ratios_of_conv_fc_and_border_are_their_own(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 6);
    esp_plan plan = filter_plan(0);
    esp_preview *preview;
    (void)state;

    plan.conv_ratio = 0.5;
    plan.border_ratio = 0.34;
    plan.fc_ratio = 0.17;
    preview = preview_of(graph, &plan, NULL);
    assert_int_equal(kept(preview, "Conv1"), 2);
    assert_int_equal(kept(preview, "Conv3"), 2);
    assert_int_equal(kept(preview, "Gemm7"), 5);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* The first writer's weights are a hundred times the second's: only a ranking in units of the layer is fair.
 */
static void global_scope_ranks_all_layers_of_a_kind_in_units_of_their_mean(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 11, &x);
    esp_plan plan = filter_plan(0.5);
    esp_preview *preview;
    esp_graph *graph;
    double scores[24] = {0};
    bool goes[24] = {0};
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 8));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 12));
    net_output(&n, net_conv3(&n, x, 3));
    graph = net_finish(&n);
    plan.scope = ESP_SCOPE_GLOBAL;
    plan.floor = 0;
    preview = preview_of(graph, &plan, NULL);
    naive_scores(preview, (const char *const[]){"Conv1"}, 1, scores);
    naive_scores(preview, (const char *const[]){"Conv3"}, 1, scores + 8);
    naive_lowest(scores, 20, 10, goes);
    expect_filters(preview, "Conv1", goes);
    expect_filters(preview, "Conv3", goes + 8);
    assert_true(kept(preview, "Conv1") != 4); /* else the layers' own rankings would do the same */
    esp_preview_free(preview);

    /* a layer with a ratio of its own is not in the list of the others */
    esp_error err = {0};
    expect_ok(esp_plan_add_rule(&plan, "Conv1", 0.25, 0, false, &err), &err);
    preview = preview_of(graph, &plan, NULL);
    assert_int_equal(kept(preview, "Conv1"), 6);
    assert_int_equal(kept(preview, "Conv3"), 6);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

/* lamp of filter f by its definition: its squares over those of all filters that have no less. */
static void naive_lamp(const esp_preview *preview, const char *node, double *scores)
{
    const esp_layer *layer = &preview->layers.items[preview_layer(preview, node)];
    const esp_tensor *weight = esp_graph_value(preview->graph, layer->weight)->constant;
    size_t length = (size_t)(esp_tensor_elements(weight) / layer->filters);
    float *rows = malloc((size_t)esp_tensor_elements(weight) * sizeof *rows);
    double squares[24] = {0};

    assert_non_null(rows);
    esp_layer_weight_canonical(layer, weight, rows);
    for (int64_t f = 0; f < layer->filters; f++)
        for (size_t i = 0; i < length; i++)
            squares[f] += pow((double)rows[(size_t)f * length + i], 2);
    for (int64_t f = 0; f < layer->filters; f++) {
        double sum = 0;
        for (int64_t g = 0; g < layer->filters; g++)
            sum += squares[g] >= squares[f] ? squares[g] : 0;
        scores[f] = squares[f] / sum;
    }
    free(rows);
}

/* Of 6 and of 18 filters: a layer's mean is about the harmonic number of its filters over them, so units of
 * it would rank the wide layer's up by half as much again. */
static void global_scope_takes_lamp_as_it_is(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 12, &x);
    esp_plan plan = filter_plan(0.5);
    double scores[24] = {0}, means[2] = {0};
    bool goes[24] = {0}, normalised[24] = {0}, differs = false;
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 6));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 18));
    net_output(&n, net_conv3(&n, x, 3));
    plan.scope = ESP_SCOPE_GLOBAL;
    plan.floor = 0;
    strcpy(plan.criterion, "lamp");
    prune_case at = prune_case_new(net_finish(&n), plan);
    naive_lamp(at.preview, "Conv1", scores);
    naive_lamp(at.preview, "Conv3", scores + 6);
    naive_lowest(scores, 24, 12, goes);
    expect_filters(at.preview, "Conv1", goes);
    expect_filters(at.preview, "Conv3", goes + 6);
    for (int f = 0; f < 24; f++)
        means[f >= 6] += scores[f] / (f < 6 ? 6 : 18);
    for (int f = 0; f < 24; f++)
        scores[f] /= means[f >= 6];
    naive_lowest(scores, 24, 12, normalised);
    for (int f = 0; f < 24; f++)
        differs = differs || goes[f] != normalised[f];
    assert_true(differs); /* else the test could not tell */
    prune_case_free(&at);
}

static int64_t staying_slots(const esp_preview *preview, double floor, int64_t *floored)
{
    int64_t whole = 0;

    for (int s = 0; s < preview->filter_set_count; s++) {
        const esp_slot_choice *choice = &preview->filter_sets[s].choice;
        int64_t staying = choice->count - (choice->ranked - choice->floored);
        assert_true((double)staying >= floor * (double)choice->count - 1e-9);
        assert_true(staying >= 1);
        whole += staying;
        *floored += choice->floored;
    }
    return whole;
}

static void floor_keeps_its_share_and_others_go_instead_in_global_scope(void **state)
{
    int64_t floored = 0;
    (void)state;

    for (uint64_t seed = 0; seed < 20; seed++) {
        esp_graph *graph = net_residual(seed);
        esp_plan plan = filter_plan(0.6);
        int64_t whole[2];
        plan.scope = ESP_SCOPE_GLOBAL;
        for (int i = 0; i < 2; i++) {
            plan.floor = i ? 0.3 : 0.0;
            esp_preview *preview = preview_of(graph, &plan, NULL);
            whole[i] = staying_slots(preview, plan.floor, &floored);
            esp_preview_free(preview);
        }
        assert_int_equal(whole[0], whole[1]); /* the asked share all the same */
        esp_graph_unref(graph);
    }
    assert_true(floored > 0);
}

/* Fresh batch-norms all have scale 1. */
static void equal_scores_are_taken_evenly_from_all_layers(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 17, &x);
    esp_plan plan = filter_plan(0.5);
    static const float ones[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    esp_graph *graph;
    (void)state;

    x = net_unary(&n, "Relu", net_norm(&n, net_conv3(&n, x, 8)));
    x = net_unary(&n, "Relu", net_norm(&n, net_conv3(&n, x, 12)));
    net_output(&n, net_conv3(&n, x, 3));
    graph = net_finish(&n);
    for (int node = 1; node <= 4; node += 3) {
        const esp_node *norm = esp_graph_node(graph, node);
        char scale[64];
        assert_string_equal(norm->op->name, "BatchNormalization");
        snprintf(scale, sizeof scale, "%s", esp_graph_value(graph, norm->inputs[1])->name);
        graph = net_with_values(graph, scale, ones);
    }
    plan.scope = ESP_SCOPE_GLOBAL;
    snprintf(plan.criterion, sizeof plan.criterion, "bn-scale");
    esp_preview *preview = preview_of(graph, &plan, NULL);
    assert_int_equal(kept(preview, "Conv1"), 4);
    assert_int_equal(kept(preview, "Conv4"), 6);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void floor_binds_in_layer_scope_too(void **state)
{
    esp_graph *graph = net_residual(8);
    esp_plan plan = filter_plan(0.9);
    (void)state;

    plan.floor = 0.5;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    for (int s = 0; s < preview->filter_set_count; s++) {
        const esp_slot_choice *choice = &preview->filter_sets[s].choice;
        assert_int_equal(choice->count - choice->ranked + choice->floored, (choice->count + 1) / 2);
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void what_stays_is_a_multiple_and_the_strongest_come_back(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 12, &x);
    esp_plan plan = filter_plan(0.45);
    esp_graph *graph;
    double scores[20] = {0};
    bool goes[20] = {0};
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 20));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 6)); /* fewer than the multiple: all stay */
    net_output(&n, net_conv3(&n, x, 3));
    graph = net_finish(&n);
    plan.round_to = 8;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    naive_scores(preview, (const char *const[]){"Conv1"}, 1, scores);
    naive_lowest(scores, 20, 4, goes); /* 11 stay by the ratio: 16 */
    expect_filters(preview, "Conv1", goes);
    assert_int_equal(kept(preview, "Conv3"), 6);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void criterion_decides_which_filters_go(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 9);
    esp_plan plan = filter_plan(0.5);
    (void)state;

    for (int c = 0; c < esp_criterion_count(); c++) {
        const esp_criterion *criterion = esp_criterion_at(c);
        if (esp_criterion_needs_data(criterion) || strcmp(criterion->name, "bn-scale") == 0)
            continue;
        snprintf(plan.criterion, sizeof plan.criterion, "%s", criterion->name);
        plan.seed = 5;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        const esp_layer *layer = &preview->layers.items[preview_layer(preview, "Gemm7")];
        double scores[8];
        bool goes[8] = {0};
        esp_error err = {0};
        expect_ok(esp_saliency(NULL, graph, layer, criterion, 5, scores, &err), &err);
        naive_lowest(scores, 6, 3, goes);
        expect_filters(preview, "Gemm7", goes);
        esp_preview_free(preview);
    }
    esp_graph_unref(graph);
}

static void layers_the_criterion_says_nothing_of_stay_and_say_so(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 13, &x);
    esp_plan plan = filter_plan(0.5);
    esp_graph *graph;
    (void)state;

    x = net_unary(&n, "Relu", net_norm(&n, net_conv3(&n, x, 8)));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 8)); /* no batch-norm */
    net_output(&n, net_conv3(&n, x, 3));
    graph = net_finish(&n);
    snprintf(plan.criterion, sizeof plan.criterion, "bn-scale");
    esp_preview *preview = preview_of(graph, &plan, NULL);
    assert_int_equal(kept(preview, "Conv1"), 4);
    assert_int_equal(kept(preview, "Conv4"), 8);
    assert_non_null(strstr(preview->items[preview_layer(preview, "Conv4")].note, "bn-scale"));
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void criterion_with_data_wants_a_calibration_set(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 14);
    esp_plan plan = filter_plan(0.5);
    esp_preview *preview;
    esp_error err = {0};
    (void)state;

    snprintf(plan.criterion, sizeof plan.criterion, "taylor");
    assert_int_equal(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), ESP_INVALID);
    assert_null(preview);
    assert_non_null(strstr(err.message, "taylor"));
    esp_graph_unref(graph);
}

/* Scores are kept per criterion and seed. */
static void warm_cache_tells_criteria_and_seeds_apart(void **state)
{
    esp_graph *graph = net_residual(18);
    esp_grouping_cache *cache;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_grouping_cache_new(&cache, &err), &err);
    for (int i = 0; i < 6; i++) {
        esp_plan plan = filter_plan(0.5);
        snprintf(plan.criterion, sizeof plan.criterion, i < 3 ? "random" : "l2");
        plan.seed = (uint64_t)(i % 3);
        esp_preview *warm = preview_of(graph, &plan, cache), *cold = preview_of(graph, &plan, NULL);
        for (int l = 0; l < warm->layers.count; l++)
            assert_true(esp_mask_equal(&warm->items[l].mask, &cold->items[l].mask));
        esp_preview_free(warm);
        esp_preview_free(cold);
    }
    esp_grouping_cache_free(cache);
    esp_graph_unref(graph);
}

static void smallest_rule_of_a_coupled_set_wins(void **state)
{
    esp_graph *graph = net_residual(19);
    (void)state;

    for (int i = 0; i < 2; i++) {
        esp_plan plan = filter_plan(0.75);
        esp_error err = {0};
        expect_ok(esp_plan_add_rule(&plan, "Conv14", i ? 0.25 : 0.5, 0, false, &err), &err);
        expect_ok(esp_plan_add_rule(&plan, "Conv16", i ? 0.5 : 0.25, 0, false, &err), &err);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        assert_int_equal(kept(preview, "Conv14"), 6); /* of 8 */
        assert_int_equal(kept(preview, "Conv16"), 6);
        esp_preview_free(preview);
        esp_plan_free(&plan);
    }
    esp_graph_unref(graph);
}

/* Carried masks count towards the ratio, and what is masked already goes first. */
static void ratios_count_from_the_whole_model(void **state)
{
    esp_graph *graph = net_residual(15), *masked;
    esp_plan first = filter_plan(0.25), second = filter_plan(0.5);
    esp_error err = {0};
    (void)state;

    esp_preview *one = preview_of(graph, &first, NULL);
    expect_ok(esp_preview_masked_graph(one, &masked, &err), &err);
    esp_preview *direct = preview_of(graph, &second, NULL), *stepwise = preview_of(masked, &second, NULL);
    esp_preview *back = preview_of(masked, &first, NULL);
    for (int l = 0; l < direct->layers.count; l++) {
        if (direct->items[l].filters_kept < direct->layers.items[l].filters)
            assert_int_equal(stepwise->items[l].filters_kept, direct->items[l].filters_kept);
        assert_true(esp_mask_equal(&back->items[l].mask, &one->items[l].mask));
    }
    esp_preview_free(one);
    esp_preview_free(direct);
    esp_preview_free(stepwise);
    esp_preview_free(back);
    esp_graph_unref(masked);
    esp_graph_unref(graph);
}

static void ignored_depthwise_layer_keeps_the_channels_it_passes_on(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 16, &x);
    esp_plan plan = filter_plan(0.5);
    esp_graph *graph;
    esp_error err = {0};
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 8));
    x = net_conv(&n, x, 8, (net_conv_options){3, 1, 1, 8, true});
    net_output(&n, net_conv1(&n, x, 3));
    graph = net_finish(&n);
    for (int i = 0; i < 2; i++) {
        if (i)
            expect_ok(esp_plan_add_rule(&plan, "Conv3", -1, 0, true, &err), &err);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        assert_int_equal(kept(preview, "Conv1"), i ? 8 : 4);
        assert_int_equal(kept(preview, "Conv3"), i ? 8 : 4);
        esp_preview_free(preview);
    }
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

/* Sound by nature: on any network, what the preview counts is what surgery leaves, and outputs agree. */
static void cut_networks_of_every_form_agree_with_their_preview(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        truth known;
        esp_graph *graph = random_dag(seed, &known), *cut = NULL;
        esp_plan plan = filter_plan(0.5);
        esp_surgery_options options = esp_surgery_defaults();
        esp_surgery_report report;
        esp_error err = {0};
        plan.scope = seed % 2 ? ESP_SCOPE_GLOBAL : ESP_SCOPE_LAYER;
        plan.round_to = seed % 3 ? 1 : 2;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
        assert_int_equal(report.counts.params, preview->after.params);
        esp_preview_free(preview);
        esp_graph_unref(cut);
        esp_graph_unref(graph);
        truth_free(&known);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lowest_filters_of_each_layer_go),
        cmocka_unit_test(coupled_layers_lose_the_same_filters_by_the_mean_of_their_scores),
        cmocka_unit_test(readers_lose_the_columns_of_what_was_cut),
        cmocka_unit_test(ratios_of_conv_fc_and_border_are_their_own),
        cmocka_unit_test(global_scope_ranks_all_layers_of_a_kind_in_units_of_their_mean),
        cmocka_unit_test(global_scope_takes_lamp_as_it_is),
        cmocka_unit_test(floor_keeps_its_share_and_others_go_instead_in_global_scope),
        cmocka_unit_test(equal_scores_are_taken_evenly_from_all_layers),
        cmocka_unit_test(floor_binds_in_layer_scope_too),
        cmocka_unit_test(what_stays_is_a_multiple_and_the_strongest_come_back),
        cmocka_unit_test(criterion_decides_which_filters_go),
        cmocka_unit_test(layers_the_criterion_says_nothing_of_stay_and_say_so),
        cmocka_unit_test(criterion_with_data_wants_a_calibration_set),
        cmocka_unit_test(warm_cache_tells_criteria_and_seeds_apart),
        cmocka_unit_test(smallest_rule_of_a_coupled_set_wins),
        cmocka_unit_test(ratios_count_from_the_whole_model),
        cmocka_unit_test(ignored_depthwise_layer_keeps_the_channels_it_passes_on),
        cmocka_unit_test(cut_networks_of_every_form_agree_with_their_preview),
    };
    return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
