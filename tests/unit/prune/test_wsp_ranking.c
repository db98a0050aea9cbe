/* Sound WSP with scope, floor and multiples, against percentiles computed here by sorting. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prune/surgery.h"
#include "unit/prune/prune_nets.h"

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* As numpy.percentile(values, 100 * ratio). */
static double percentile(const double *values, int count, double ratio)
{
    double sorted[64], position = ratio * (count - 1);
    int below = (int)floor(position);

    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare);
    if (below == count - 1)
        return sorted[below];
    return sorted[below] + (position - below) * (sorted[below + 1] - sorted[below]);
}

/* Conv1 (8 filters) - Conv3 (12) - Conv5 (16) - output. Every set has one writer and one reader. */
static esp_graph *net_of_three(uint64_t seed)
{
    net_tensor x;
    net n = net_start(2, 6, 6, seed, &x);

    x = net_unary(&n, "Relu", net_conv3(&n, x, 8));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 12));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 16));
    net_output(&n, net_conv3(&n, x, 3));
    return net_finish(&n);
}

static bool is_cut(const esp_preview *preview, const esp_wsp_pair *pair, int64_t channel)
{
    return !esp_mask_filter_is_live(&preview->items[pair->writer].mask, pair->filters[channel]);
}

static void global_scope_has_one_threshold_per_norm_for_all_sets_of_a_kind(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++) {
        esp_graph *graph = net_of_three(seed);
        esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.6);
        double filters[36], channels[36], filter_threshold, channel_threshold;
        int count = 0;
        plan.scope = ESP_SCOPE_GLOBAL;
        plan.floor = 0;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        const esp_wsp *wsp = &preview->wsp;
        assert_int_equal(wsp->pair_count, 3);
        for (int i = 0; i < 3; i++)
            for (int64_t c = 0; c < wsp->pairs[i].channels; c++, count++) {
                filters[count] = wsp->pairs[i].filter_l1[c];
                channels[count] = wsp->pairs[i].channel_l1[c];
            }
        assert_int_equal(count, 36);
        filter_threshold = percentile(filters, 36, 0.6);
        channel_threshold = percentile(channels, 36, 0.6);
        for (int i = 0; i < 3; i++)
            for (int64_t c = 0; c < wsp->pairs[i].channels; c++) {
                bool is_weak = wsp->pairs[i].filter_l1[c] < filter_threshold &&
                               wsp->pairs[i].channel_l1[c] < channel_threshold;
                assert_int_equal(is_cut(preview, &wsp->pairs[i], c), is_weak);
            }
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* Sets with several writers are compared by what they have per writer: a sum of two would always be strong.
 */
static void global_scope_compares_sets_by_scores_per_layer(void **state)
{
    esp_graph *graph = net_residual(3);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.6);
    (void)state;

    plan.scope = ESP_SCOPE_GLOBAL;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    double per_writer = 0;
    for (int i = 0; i < preview->wsp.pair_count; i++) {
        const esp_wsp_pair *pair = &preview->wsp.pairs[i];
        bool is_conv = preview->layers.items[pair->reader].is_conv;
        if (!is_conv)
            continue;
        if (per_writer > 0)
            assert_true(fabs(pair->filter_threshold / pair->writer_count - per_writer) < 1e-12);
        per_writer = pair->filter_threshold / pair->writer_count;
    }
    assert_true(per_writer > 0);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void layer_with_a_ratio_of_its_own_is_not_in_the_global_ranking(void **state)
{
    esp_graph *graph = net_of_three(7);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.6);
    esp_error err = {0};
    (void)state;

    plan.scope = ESP_SCOPE_GLOBAL;
    expect_ok(esp_plan_add_rule(&plan, "Conv3", 0, 0, false, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    const esp_wsp_pair *pairs = preview->wsp.pairs;
    double filters[24];
    memcpy(filters, pairs[0].filter_l1, 8 * sizeof *filters);
    memcpy(filters + 8, pairs[2].filter_l1, 16 * sizeof *filters);
    assert_int_equal(pairs[1].weak_count, 0);
    assert_true(fabs(pairs[0].filter_threshold - percentile(filters, 24, 0.6)) < 1e-12);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

/* How many of the pair's channels have no larger score. */
static int not_above(const double *scores, int64_t count, double score)
{
    int found = 0;

    for (int64_t c = 0; c < count; c++)
        found += scores[c] <= score;
    return found;
}

/* Those that become weak last come back: no slot that goes has a larger rank, by the norm that lets it go
 * last, than one that came back; of equal ranks none has a larger sum of both scores. */
static void expect_strongest_back(const esp_wsp_pair *pair, esp_fate back)
{
    double weakest_back = INFINITY, strongest_gone = 0;

    for (int64_t c = 0; c < pair->channels; c++) {
        double sum = pair->filter_l1[c] / pair->writer_count + pair->channel_l1[c] / pair->reader_count;
        int by_filter = not_above(pair->filter_l1, pair->channels, pair->filter_l1[c]);
        int by_channel = not_above(pair->channel_l1, pair->channels, pair->channel_l1[c]);
        double strength = 1e6 * (by_filter > by_channel ? by_filter : by_channel) + sum;
        if (pair->choice.fates[c] == back)
            weakest_back = fmin(weakest_back, strength);
        if (pair->choice.fates[c] == ESP_FATE_GOES)
            strongest_gone = fmax(strongest_gone, strength);
    }
    assert_true(strongest_gone <= weakest_back);
}

static void floor_and_multiple_take_the_strongest_weak_channels_back(void **state)
{
    int floored = 0, rounded = 0;
    (void)state;

    for (uint64_t seed = 0; seed < 8; seed++) {
        esp_graph *graph = net_of_three(seed);
        esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.9);
        esp_preview *before = preview_of(graph, &plan, NULL), *after;
        plan.floor = 0.5;
        after = preview_of(graph, &plan, NULL);
        for (int i = 0; i < 3; i++) {
            const esp_wsp_pair *pair = &after->wsp.pairs[i];
            int64_t weak = before->wsp.pairs[i].choice.ranked, most = pair->channels / 2;
            assert_int_equal(pair->choice.ranked, weak);
            assert_int_equal(pair->weak_count, weak < most ? weak : most);
            expect_strongest_back(pair, ESP_FATE_FLOOR);
            floored += (int)pair->choice.floored;
        }
        esp_preview_free(after);
        plan.floor = 0;
        plan.round_to = 4;
        after = preview_of(graph, &plan, NULL);
        for (int i = 0; i < 3; i++) {
            const esp_wsp_pair *pair = &after->wsp.pairs[i];
            int64_t staying = pair->channels - pair->choice.ranked;
            assert_int_equal(pair->channels - pair->weak_count, (staying + 3) / 4 * 4);
            expect_strongest_back(pair, ESP_FATE_ROUND_TO);
            rounded += (int)pair->choice.rounded;
        }
        esp_preview_free(before);
        esp_preview_free(after);
        esp_graph_unref(graph);
    }
    assert_true(floored > 0 && rounded > 0);
}

static void ranked_previews_are_cut_as_they_count(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++) {
        esp_graph *graph = net_residual(seed), *cut;
        esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.8);
        esp_surgery_options options = esp_surgery_defaults();
        esp_surgery_report report;
        esp_error err = {0};
        plan.scope = ESP_SCOPE_GLOBAL;
        plan.round_to = 2;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
        assert_int_equal(report.counts.params, preview->after.params);
        assert_true(preview->after.params < preview->before.params);
        esp_graph_unref(cut);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* ---- ratios that grow ---- */

/* Every filter that the smaller preview cuts the larger one cuts too. */
static bool is_nested(const esp_preview *smaller, const esp_preview *larger)
{
    for (int l = 0; l < smaller->layers.count; l++)
        for (int64_t f = 0; f < smaller->layers.items[l].filters; f++)
            if (!esp_mask_filter_is_live(&smaller->items[l].mask, f) &&
                esp_mask_filter_is_live(&larger->items[l].mask, f))
                return false;
    return true;
}

static void expect_nested(const esp_graph *graph, esp_plan plan)
{
    esp_preview *last = NULL;

    for (int percent = 0; percent < 100; percent += 4) {
        double ratio = percent / 100.0;
        plan.conv_ratio = plan.fc_ratio = plan.border_ratio = ratio;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        if (last && !is_nested(last, preview))
            fail_msg("%s, scope %s, floor %g, round_to %d: ratio %g keeps what a smaller one cuts",
                     esp_method_word(plan.method), esp_scope_word(plan.scope), plan.floor, plan.round_to,
                     ratio);
        esp_preview_free(last);
        last = preview;
    }
    esp_preview_free(last);
}

static void larger_ratios_cut_what_smaller_ones_do(void **state)
{
    static const double floors[] = {0, 0.1, 0.35, 0.6};
    static const int multiples[] = {1, 3, 4};
    (void)state;

    for (uint64_t seed = 0; seed < 4; seed++) {
        esp_graph *graph = seed % 2 ? net_residual(seed) : net_of_three(seed);
        for (int i = 0; i < 2 * 2 * 4 * 3; i++) {
            esp_plan plan = esp_plan_make(i & 1 ? ESP_METHOD_WSP : ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
            plan.scope = i & 2 ? ESP_SCOPE_GLOBAL : ESP_SCOPE_LAYER;
            plan.floor = floors[i / 4 % 4];
            plan.round_to = multiples[i / 16];
            expect_nested(graph, plan);
        }
        esp_graph_unref(graph);
    }
}

/* All scores equal: the multiple must not hand back others than the ranking takes next. */
static void larger_ratios_cut_what_smaller_ones_do_among_equal_scores(void **state)
{
    float ones[12 * 8 * 9];
    esp_graph *graph = net_of_three(2);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    (void)state;

    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++)
        ones[i] = 1;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    char name[64];
    snprintf(name, sizeof name, "%s", preview->layers.items[1].weight_name);
    assert_int_equal(preview->layers.items[1].filters, 12);
    esp_preview_free(preview);
    graph = net_with_values(graph, name, ones);
    plan.round_to = 4;
    expect_nested(graph, plan);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(global_scope_has_one_threshold_per_norm_for_all_sets_of_a_kind),
        cmocka_unit_test(global_scope_compares_sets_by_scores_per_layer),
        cmocka_unit_test(layer_with_a_ratio_of_its_own_is_not_in_the_global_ranking),
        cmocka_unit_test(floor_and_multiple_take_the_strongest_weak_channels_back),
        cmocka_unit_test(ranked_previews_are_cut_as_they_count),
        cmocka_unit_test(larger_ratios_cut_what_smaller_ones_do),
        cmocka_unit_test(larger_ratios_cut_what_smaller_ones_do_among_equal_scores),
    };
    return cmocka_run_group_tests_name("wsp ranking", tests, NULL, NULL);
}
