/* Budgets: the search against a scan of all levels, targets together, what stays as it is, and what cannot
 * be. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/budget.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

static esp_plan plan_of(esp_method method)
{
    esp_plan plan = esp_plan_make(method, ESP_MODE_SOUND, 0);

    plan.groups = 3;
    plan.restarts = 2;
    return plan;
}

/* Wider than net_residual, so that its counts have many steps. */
static esp_graph *wide_net(uint64_t seed)
{
    net_tensor x, y;
    net n = net_start(3, 8, 8, seed, &x);

    x = net_unary(&n, "Relu", net_conv3(&n, x, 16));
    y = net_unary(&n, "Relu", net_conv3(&n, x, 24));
    y = net_conv3(&n, y, 16);
    x = net_unary(&n, "Relu", net_binary(&n, "Add", x, y));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 32));
    x = net_flatten(&n, net_global(&n, x));
    x = net_unary(&n, "Relu", net_fc(&n, x, 20, NET_GEMM_TRANSPOSED));
    net_output(&n, net_fc(&n, x, 5, NET_GEMM_TRANSPOSED));
    return net_finish(&n);
}

static esp_budget_options share_of(esp_budget_measure measure, double share)
{
    esp_budget_options options = {0};

    options.targets[measure] = (esp_budget_target){.is_set = true, .value = share};
    return options;
}

static esp_plan solve(const esp_graph *graph, const esp_plan *plan, const esp_budget_options *options,
                      esp_budget_report *report)
{
    esp_error err = {0};
    esp_plan solved = {0};

    expect_ok(esp_budget_solve(NULL, graph, plan, options, NULL, &solved, report, &err), &err);
    return solved;
}

static esp_counts counts_of(const esp_graph *graph, const esp_plan *plan, esp_grouping_cache *cache)
{
    esp_preview *preview = preview_of(graph, plan, cache);
    esp_counts after = preview->after;

    esp_preview_free(preview);
    return after;
}

/* ---- the search ---- */

static void check_largest_below(esp_method method)
{
    esp_error err = {0};
    esp_graph *graph = wide_net(5);
    esp_plan plan = plan_of(method), solved;
    esp_budget_options options = share_of(ESP_BUDGET_MACS, 0.5);
    esp_budget_report report;
    esp_grouping_cache *cache = NULL;
    int64_t found, nearest = 0;

    expect_ok(esp_grouping_cache_new(&cache, &err), &err);
    solved = solve(graph, &plan, &options, &report);
    found = counts_of(graph, &solved, cache).macs;
    double target = report.amounts[ESP_BUDGET_MACS].target;
    assert_true((double)found <= target && (double)found == report.amounts[ESP_BUDGET_MACS].after);
    assert_true(report.amounts[ESP_BUDGET_MACS].next > target);
    assert_int_equal(report.binding, ESP_BUDGET_MACS);
    assert_true(target == 0.5 * (double)counts_of(graph, &plan, cache).macs);
    for (double ratio = 0; ratio < 0.985; ratio += 0.005) { /* no other ratio comes nearer from below */
        plan.conv_ratio = plan.fc_ratio = plan.border_ratio = ratio;
        int64_t macs = counts_of(graph, &plan, cache).macs;
        if ((double)macs <= target && macs > nearest)
            nearest = macs;
    }
    assert_true(nearest > 0 && found >= nearest);
    esp_grouping_cache_free(cache);
    esp_plan_free(&solved);
    esp_graph_unref(graph);
}

static void uniform_ends_at_the_largest_network_not_above_the_target(void **state)
{
    (void)state;
    check_largest_below(ESP_METHOD_WSP);
    check_largest_below(ESP_METHOD_SG);
    check_largest_below(ESP_METHOD_FILTER);
}

static void targets_together_all_hold_and_the_binding_one_is_named(void **state)
{
    esp_graph *graph = wide_net(6);
    esp_plan plan = plan_of(ESP_METHOD_FILTER), both, one;
    esp_budget_options options = share_of(ESP_BUDGET_MACS, 0.8), alone = share_of(ESP_BUDGET_PARAMS, 0.4);
    esp_budget_report report, report_alone;
    (void)state;

    options.targets[ESP_BUDGET_PARAMS] = alone.targets[ESP_BUDGET_PARAMS];
    both = solve(graph, &plan, &options, &report);
    one = solve(graph, &plan, &alone, &report_alone);
    assert_int_equal(report.binding, ESP_BUDGET_PARAMS);
    for (int m = ESP_BUDGET_MACS; m <= ESP_BUDGET_PARAMS; m++)
        assert_true(report.amounts[m].is_set && report.amounts[m].after <= report.amounts[m].target);
    assert_true(both.conv_ratio == one.conv_ratio); /* the other target changes nothing */
    assert_true(report.amounts[ESP_BUDGET_PARAMS].after == report_alone.amounts[ESP_BUDGET_PARAMS].after);
    assert_false(report.amounts[ESP_BUDGET_LATENCY].is_known);
    esp_plan_free(&both);
    esp_plan_free(&one);
    esp_graph_unref(graph);
}

static void absolute_amounts_and_shares_say_the_same(void **state)
{
    esp_graph *graph = wide_net(7);
    esp_plan plan = plan_of(ESP_METHOD_WSP), first, second;
    esp_budget_options share = share_of(ESP_BUDGET_PARAMS, 0.6), amount = share;
    esp_budget_report report;
    (void)state;

    amount.targets[ESP_BUDGET_PARAMS] = (esp_budget_target){
        .is_set = true, .is_absolute = true, .value = 0.6 * (double)counts_of(graph, &plan, NULL).params};
    first = solve(graph, &plan, &share, &report);
    second = solve(graph, &plan, &amount, &report);
    assert_true(first.conv_ratio == second.conv_ratio && first.conv_ratio > 0);
    esp_plan_free(&first);
    esp_plan_free(&second);
    esp_graph_unref(graph);
}

static void a_target_that_holds_already_prunes_nothing(void **state)
{
    esp_graph *graph = wide_net(8);
    esp_plan plan = plan_of(ESP_METHOD_WSP), solved;
    esp_budget_options options = share_of(ESP_BUDGET_MACS, 1);
    esp_budget_report report;
    (void)state;

    plan.conv_ratio = 0.7; /* not what was asked for */
    solved = solve(graph, &plan, &options, &report);
    assert_true(solved.conv_ratio == 0 && solved.fc_ratio == 0 && solved.border_ratio == 0);
    assert_int_equal(report.binding, -1);
    assert_true(report.amounts[ESP_BUDGET_MACS].after == report.amounts[ESP_BUDGET_MACS].before);
    esp_plan_free(&solved);
    esp_graph_unref(graph);
}

/* ---- what is written ---- */

/* Faithful masks leave constants, which surgery folds away, and zeros in shortcuts, which it cannot. */
static void a_solved_plan_is_cut_to_the_counts_it_was_solved_with(void **state)
{
    static const esp_budget_measure measures[] = {ESP_BUDGET_MACS, ESP_BUDGET_PARAMS, ESP_BUDGET_STORED_MACS,
                                                  ESP_BUDGET_STORED_PARAMS};
    esp_graph *graph = wide_net(11);
    int with_zeros = 0;
    (void)state;

    for (size_t m = 0; m < sizeof measures / sizeof *measures; m++)
        for (int kind = 0; kind < 4; kind++) {
            esp_error err = {0};
            esp_plan plan = plan_of(kind < 2 ? ESP_METHOD_WSP : ESP_METHOD_SG), solved;
            esp_budget_options options = share_of(measures[m], 0.9);
            esp_surgery_options surgery = esp_surgery_defaults();
            esp_surgery_report cut;
            esp_budget_report report;
            esp_graph *result;
            plan.mode = kind % 2 ? ESP_MODE_SOUND : ESP_MODE_FAITHFUL;
            solved = solve(graph, &plan, &options, &report);
            esp_preview *preview = preview_of(graph, &solved, NULL);
            expect_ok(esp_surgery(NULL, preview, &surgery, &result, &cut, &err), &err);
            assert_true((double)cut.counts.macs == report.amounts[ESP_BUDGET_MACS].after);
            assert_true((double)cut.counts.params == report.amounts[ESP_BUDGET_PARAMS].after);
            assert_true((double)cut.stored.macs == report.amounts[ESP_BUDGET_STORED_MACS].after);
            assert_true((double)cut.stored.params == report.amounts[ESP_BUDGET_STORED_PARAMS].after);
            assert_true(report.amounts[measures[m]].after <= report.amounts[measures[m]].target);
            assert_true(report.amounts[ESP_BUDGET_STORED_MACS].is_known ==
                        (measures[m] == ESP_BUDGET_STORED_MACS || cut.stored.macs > cut.counts.macs));
            with_zeros += cut.stored.macs > cut.counts.macs;
            esp_graph_unref(result);
            esp_preview_free(preview);
            esp_plan_free(&solved);
        }
    assert_true(with_zeros > 0);
    esp_graph_unref(graph);
}

/* ---- what stays ---- */

static void rules_ignored_layers_and_kept_kinds_stay_as_they_are(void **state)
{
    esp_error err = {0};
    esp_graph *graph = wide_net(9);
    esp_budget_report report;
    (void)state;

    for (int distribution = ESP_DISTRIBUTION_UNIFORM; distribution <= ESP_DISTRIBUTION_SALIENCY;
         distribution++)
        for (int method = ESP_METHOD_WSP; method <= ESP_METHOD_SG; method++) {
            esp_plan plan = plan_of((esp_method)method), solved;
            esp_budget_options options = share_of(ESP_BUDGET_MACS, 0.85);
            options.distribution = (esp_distribution)distribution;
            options.keeps_fc = true;
            plan.fc_ratio = 0.25;
            expect_ok(esp_plan_add_rule(&plan, "Conv3", 0.125, 0, false, &err), &err);
            expect_ok(esp_plan_add_rule(&plan, "Conv1", -1, 0, true, &err), &err);
            solved = solve(graph, &plan, &options, &report);
            esp_preview *preview = preview_of(graph, &solved, NULL);
            assert_true(preview->items[preview_layer(preview, "Conv3")].asked == 0.125);
            assert_string_equal(preview->items[preview_layer(preview, "Conv1")].note, "ignored by the plan");
            assert_true(solved.fc_ratio == 0.25);
            assert_true((double)preview->after.macs <= report.amounts[ESP_BUDGET_MACS].target);
            esp_preview_free(preview);
            esp_plan_free(&plan);
            esp_plan_free(&solved);
        }
    esp_graph_unref(graph);
}

static void floors_and_rounding_hold_in_the_solved_plan(void **state)
{
    esp_graph *graph = wide_net(10);
    esp_plan plan = plan_of(ESP_METHOD_FILTER), solved;
    esp_budget_options options = share_of(ESP_BUDGET_PARAMS, 0.5);
    esp_budget_report report;
    (void)state;

    plan.round_to = 4;
    for (int distribution = ESP_DISTRIBUTION_UNIFORM; distribution <= ESP_DISTRIBUTION_SALIENCY;
         distribution++) {
        options.distribution = (esp_distribution)distribution;
        solved = solve(graph, &plan, &options, &report);
        assert_int_equal(solved.round_to, 4);
        esp_preview *preview = preview_of(graph, &solved, NULL);
        int64_t conv3 = preview->items[preview_layer(preview, "Conv3")].filters_kept;
        assert_int_equal(conv3 % 4, 0);
        assert_true(conv3 >= 3); /* a tenth of 24, rounded up */
        esp_preview_free(preview);
        esp_plan_free(&solved);
    }
    esp_graph_unref(graph);
}

/* ---- what cannot be reached ---- */

static void an_unreachable_target_says_the_smallest_and_what_stays(void **state)
{
    esp_error err = {0};
    esp_graph *graph = wide_net(11);
    esp_plan plan = plan_of(ESP_METHOD_FILTER), solved = {0};
    esp_budget_options options = share_of(ESP_BUDGET_PARAMS, 0.3);
    char smallest[64];
    (void)state;

    expect_ok(esp_plan_add_rule(&plan, "Conv8", -1, 0, true, &err), &err); /* the largest layer */
    plan.conv_ratio = plan.fc_ratio = plan.border_ratio = ESP_BUDGET_MOST;
    esp_format_count(smallest, sizeof smallest, (double)counts_of(graph, &plan, NULL).params);
    esp_status status = esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err);
    assert_int_equal(status, ESP_INVALID);
    assert_non_null(strstr(err.message, "params="));
    assert_non_null(strstr(err.message, smallest));
    assert_non_null(strstr(err.message, "Conv8"));
    assert_non_null(strstr(err.message, "ignored by the plan"));
    assert_true(solved.rule_count == 0 && solved.rules == NULL);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void a_budget_without_or_with_a_senseless_target_is_refused(void **state)
{
    esp_error err = {0};
    esp_graph *graph = wide_net(12);
    esp_plan plan = plan_of(ESP_METHOD_WSP), solved = {0};
    esp_budget_options options = {0};
    (void)state;

    expect_failure(esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err), ESP_INVALID,
                   &err, "no target");
    options = share_of(ESP_BUDGET_MACS, 1.5);
    expect_failure(esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err), ESP_INVALID,
                   &err, "(0, 1]");
    options = share_of(ESP_BUDGET_MACS, 0.5);
    options.distribution = ESP_DISTRIBUTION_SENSITIVITY;
    expect_failure(esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err), ESP_INVALID,
                   &err, "curves");
    esp_graph_unref(graph);
}

static void a_budget_can_be_cancelled(void **state)
{
    esp_error err = {0};
    esp_graph *graph = wide_net(13);
    esp_plan plan = plan_of(ESP_METHOD_WSP), solved = {0};
    esp_budget_options options = share_of(ESP_BUDGET_MACS, 0.5);
    esp_cancel cancel = {0};
    const esp_compute compute = {.cancel = &cancel};
    (void)state;

    esp_cancel_request(&cancel);
    assert_int_equal(esp_budget_solve(&compute, graph, &plan, &options, NULL, &solved, NULL, &err),
                     ESP_CANCELLED);
    esp_graph_unref(graph);
}

/* ---- spreads ---- */

/* Two layers of independent numbers: in units of the mean, a layer with a wide spread has more below a
 * threshold. */
static void saliency_takes_more_from_layers_with_more_that_is_weak(void **state)
{
    net_tensor x;
    net n = net_start(4, 6, 6, 3, &x);
    float even[12 * 12 * 9], skewed[12 * 12 * 9];
    esp_graph *graph;
    esp_budget_report report;
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 12));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 12)); /* Conv3 */
    x = net_unary(&n, "Relu", net_conv3(&n, x, 12)); /* Conv5 */
    net_output(&n, net_conv1(&n, x, 3));
    graph = net_finish(&n);
    for (int i = 0; i < 12 * 12 * 9; i++) {
        int filter = i / (12 * 9), channel = i / 9 % 12;
        even[i] = 1 + 0.01f * (float)((filter * 5 + channel * 7) % 12);
        skewed[i] =
            0.001f *
            powf(2, (float)((filter * 5 + channel * 7) % 12)); /* another unit, which must not matter */
    }
    graph = net_with_values(graph, net_weight_name(graph, "Conv3"), even);
    graph = net_with_values(graph, net_weight_name(graph, "Conv5"), skewed);
    esp_plan plan = plan_of(ESP_METHOD_SG), solved;
    esp_budget_options options = share_of(ESP_BUDGET_MACS, 0.8);
    options.distribution = ESP_DISTRIBUTION_SALIENCY;
    plan.groups = 12;
    plan.cascades = false;
    solved = solve(graph, &plan, &options, &report);
    double even_ratio = esp_plan_resolve(&solved, "Conv3", "", -1).ratio;
    double skewed_ratio = esp_plan_resolve(&solved, "Conv5", "", -1).ratio;
    assert_true(even_ratio >= 0 && skewed_ratio > even_ratio + 0.2);
    assert_true(solved.conv_ratio == 0);
    esp_plan_free(&solved);
    esp_graph_unref(graph);
}

/* Curves as a scan would leave them: loss rises in a straight line, `slope` per ratio. */
typedef struct straight_curve {
    char *layers[1];
    esp_sensitivity_point points[9];
} straight_curve;

static void make_curve(straight_curve *store, char *layer, double slope, esp_sensitivity_curve *out)
{
    store->layers[0] = layer;
    for (int p = 0; p < 9; p++) {
        store->points[p] = (esp_sensitivity_point){.is_done = true, .ratio = 0.1 * (p + 1)};
        store->points[p].loss_change.value = slope * store->points[p].ratio;
    }
    *out = (esp_sensitivity_curve){
        .name = layer, .layer_count = 1, .layers = store->layers, .point_count = 9, .points = store->points};
}

static void sensitivity_makes_every_part_cost_the_same(void **state)
{
    esp_graph *graph = wide_net(14);
    esp_plan plan = plan_of(ESP_METHOD_FILTER), solved;
    esp_budget_options options = share_of(ESP_BUDGET_MACS, 0.7);
    esp_sensitivity_curve curves[3];
    straight_curve stores[3];
    char names[3][8] = {"Conv3", "Conv8", "Gemm12"};
    const double slopes[3] = {2, 0.5, 40};
    esp_sensitivity sensitivity = {.curve_count = 3, .curves = curves};
    esp_budget_report report;
    (void)state;

    for (int c = 0; c < 3; c++)
        make_curve(&stores[c], names[c], slopes[c], &curves[c]);
    options.distribution = ESP_DISTRIBUTION_SENSITIVITY;
    options.sensitivity = &sensitivity;
    solved = solve(graph, &plan, &options, &report);
    double dear = esp_plan_resolve(&solved, "Conv3", "", -1).ratio,
           cheap = esp_plan_resolve(&solved, "Conv8", "", -1).ratio;
    assert_true(dear > 0 && cheap > dear);
    /* a cost of `level` each, but for what was not measured above 0.9 */
    assert_true(fabs(2 * dear - report.level) < 1e-9);
    assert_true(fabs(0.5 * cheap - report.level) < 1e-9 || cheap >= 0.9 - 1e-9);
    assert_true(fabs(40 * esp_plan_resolve(&solved, "Gemm12", "", -1).ratio - report.level) < 1e-9);
    assert_true((double)counts_of(graph, &solved, NULL).macs <= report.amounts[ESP_BUDGET_MACS].target);
    esp_plan_free(&solved);

    esp_error err = {0};
    char other[] = "0123456789abcdef";
    sensitivity.model = other; /* layers of the same names, but not these weights */
    expect_failure(esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err), ESP_INVALID,
                   &err, "another network");
    sensitivity.model = NULL;
    names[1][4] = '9'; /* no such layer */
    expect_failure(esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err), ESP_INVALID,
                   &err, "another network");
    esp_graph_unref(graph);
}

/* ---- latency ---- */

static void latency_targets_hold_by_the_prediction_and_are_measured(void **state)
{
    net_tensor x;
    net n = net_start(16, 16, 16, 4, &x);
    esp_plan plan = plan_of(ESP_METHOD_FILTER), solved;
    esp_budget_options options = share_of(ESP_BUDGET_LATENCY, 0.9);
    esp_budget_report report;
    json_t *json = NULL;
    esp_error err = {0};
    (void)state;

    for (int i = 0; i < 3; i++)
        x = net_unary(&n, "Relu", net_conv3(&n, x, 32));
    net_output(&n, net_conv1(&n, x, 4));
    esp_graph *graph = net_finish(&n);
    options.measures = true;
    options.repeats = 3;
    solved = solve(graph, &plan, &options, &report);
    const esp_budget_amount *latency = &report.amounts[ESP_BUDGET_LATENCY];
    assert_true(latency->is_known && latency->before > 0);
    assert_true(latency->after <= latency->target && fabs(latency->target - 0.9 * latency->before) < 1e-12);
    assert_true(report.is_measured && report.measured_ms > 0 && report.measured_before_ms > 0);
    assert_true(report.corrections <= ESP_BUDGET_CORRECTIONS && report.exponent > 0);
    assert_true(report.table_measured > 0 && report.table_known == report.table_measured);
    expect_ok(esp_budget_report_to_json(&report, &json, &err), &err);
    assert_true(json_is_number(json_object_get(json_object_get(json, "latency"), "measured_share")));
    json_decref(json);
    esp_plan_free(&solved);
    esp_graph_unref(graph);
}

/* ---- targets as text ---- */

static void targets_are_read_as_shares_and_amounts(void **state)
{
    static const struct {
        const char *text;
        esp_budget_measure measure;
        bool is_absolute;
        double value;
    } cases[] = {
        {"macs=0.5", ESP_BUDGET_MACS, false, 0.5},        {"macs=1", ESP_BUDGET_MACS, false, 1},
        {"macs=50%", ESP_BUDGET_MACS, false, 0.5},        {"params=3M", ESP_BUDGET_PARAMS, true, 3e6},
        {"params=0.5M", ESP_BUDGET_PARAMS, true, 5e5},    {"params=270k", ESP_BUDGET_PARAMS, true, 270e3},
        {"macs=4.1G", ESP_BUDGET_MACS, true, 4.1e9},      {"macs=20000000", ESP_BUDGET_MACS, true, 2e7},
        {"latency=0.6", ESP_BUDGET_LATENCY, false, 0.6},  {"latency=0.5ms", ESP_BUDGET_LATENCY, true, 0.5},
        {"latency=900us", ESP_BUDGET_LATENCY, true, 0.9}, {"latency=2s", ESP_BUDGET_LATENCY, true, 2000},
        {"latency=3.5", ESP_BUDGET_LATENCY, true, 3.5},
    };
    esp_error err = {0};
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        esp_budget_target targets[ESP_BUDGET_COUNT] = {0};
        expect_ok(esp_budget_targets_parse(cases[i].text, targets, &err), &err);
        for (int m = 0; m < ESP_BUDGET_COUNT; m++)
            assert_int_equal(targets[m].is_set, m == (int)cases[i].measure);
        assert_int_equal(targets[cases[i].measure].is_absolute, cases[i].is_absolute);
        assert_true(fabs(targets[cases[i].measure].value - cases[i].value) <= 1e-12 * cases[i].value);
    }
    esp_budget_target targets[ESP_BUDGET_COUNT] = {0};
    expect_ok(esp_budget_targets_parse("macs=0.5,params=3M", targets, &err), &err);
    assert_true(targets[ESP_BUDGET_MACS].value == 0.5 && targets[ESP_BUDGET_PARAMS].value == 3e6);
}

static void targets_that_make_no_sense_are_refused_and_change_nothing(void **state)
{
    static const char *const texts[] = {"macs",     "macs=",    "macs=x",     "macs=0",    "macs=-1",
                                        "macs=nan", "macs=3ms", "latency=3M", "macs=200%", "macs=0.5,",
                                        "mcas=0.5", "=1",       "",           "params=1e", "macs=0.5,params"};
    esp_error err = {0};
    (void)state;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        esp_budget_target targets[ESP_BUDGET_COUNT] = {0};
        if (esp_budget_targets_parse(texts[i], targets, &err) != ESP_INVALID)
            fail_msg("'%s' was taken", texts[i]);
        for (int m = 0; m < ESP_BUDGET_COUNT; m++)
            assert_false(targets[m].is_set);
    }
    esp_budget_target targets[ESP_BUDGET_COUNT] = {0};
    expect_failure(esp_budget_targets_parse("parms=0.5", targets, &err), ESP_INVALID, &err, "params");
}

/* ---- memory ---- */

static void running_out_of_memory_anywhere_is_said_and_leaves_nothing(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 1);
    esp_plan plan = plan_of(ESP_METHOD_SG);
    esp_budget_options options = share_of(ESP_BUDGET_PARAMS, 0.7);
    bool is_over = false;
    (void)state;

    options.distribution = ESP_DISTRIBUTION_SALIENCY;
    for (int64_t k = 1; !is_over; k += 1 + k / 9) {
        esp_plan solved = {0};
        esp_error err = {0};
        size_t before = esp_memory_live();
        esp_memory_fuse(k);
        esp_status status = esp_budget_solve(NULL, graph, &plan, &options, NULL, &solved, NULL, &err);
        is_over = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, is_over ? ESP_OK : ESP_NO_MEMORY);
        esp_plan_free(&solved);
        assert_int_equal(esp_memory_live(), before);
    }
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniform_ends_at_the_largest_network_not_above_the_target),
        cmocka_unit_test(targets_together_all_hold_and_the_binding_one_is_named),
        cmocka_unit_test(absolute_amounts_and_shares_say_the_same),
        cmocka_unit_test(a_target_that_holds_already_prunes_nothing),
        cmocka_unit_test(a_solved_plan_is_cut_to_the_counts_it_was_solved_with),
        cmocka_unit_test(rules_ignored_layers_and_kept_kinds_stay_as_they_are),
        cmocka_unit_test(floors_and_rounding_hold_in_the_solved_plan),
        cmocka_unit_test(an_unreachable_target_says_the_smallest_and_what_stays),
        cmocka_unit_test(a_budget_without_or_with_a_senseless_target_is_refused),
        cmocka_unit_test(a_budget_can_be_cancelled),
        cmocka_unit_test(saliency_takes_more_from_layers_with_more_that_is_weak),
        cmocka_unit_test(sensitivity_makes_every_part_cost_the_same),
        cmocka_unit_test(latency_targets_hold_by_the_prediction_and_are_measured),
        cmocka_unit_test(targets_are_read_as_shares_and_amounts),
        cmocka_unit_test(targets_that_make_no_sense_are_refused_and_change_nothing),
        cmocka_unit_test(running_out_of_memory_anywhere_is_said_and_leaves_nothing),
    };
    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
