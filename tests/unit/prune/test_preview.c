/* Plans resolved against small networks: who takes part, what rules do, counts, the cache, the masked model,
 * JSON. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "prune/surgery.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

typedef struct combination {
    esp_method method;
    esp_mode mode;
} combination;
static const combination all_combinations[] = {{ESP_METHOD_WSP, ESP_MODE_FAITHFUL},
                                               {ESP_METHOD_WSP, ESP_MODE_SOUND},
                                               {ESP_METHOD_SG, ESP_MODE_FAITHFUL},
                                               {ESP_METHOD_SG, ESP_MODE_SOUND},
                                               {ESP_METHOD_FILTER, ESP_MODE_SOUND}};

static esp_plan plan_with_rule(esp_method method, esp_mode mode, double ratio, const char *pattern,
                               double rule_ratio, int groups, bool is_ignored)
{
    esp_plan plan = esp_plan_make(method, mode, ratio);
    esp_error err = {0};

    expect_ok(esp_plan_add_rule(&plan, pattern, rule_ratio, groups, is_ignored, &err), &err);
    return plan;
}

static int64_t lost(const esp_preview *preview, const char *node)
{
    const esp_mask *mask = &preview->items[preview_layer(preview, node)].mask;

    return mask->filters * mask->channels - esp_mask_kept(mask);
}

static void check_same_masks(const esp_preview *a, const esp_preview *b)
{
    for (int l = 0; l < a->layers.count; l++)
        assert_true(esp_mask_equal(&a->items[l].mask, &b->items[l].mask));
}

/* ---- who takes part ---- */

static void selfgroup_leaves_stem_and_shortcut_whole_and_says_so(void **state)
{
    esp_graph *graph = net_residual(1);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    (void)state;

    assert_int_equal(lost(preview, "Conv1"), 0);
    assert_int_equal(lost(preview, "Conv16"), 0);
    assert_false(preview->items[preview_layer(preview, "Conv1")].takes_part);
    assert_non_null(strstr(preview->items[preview_layer(preview, "Conv1")].note, "stem"));
    assert_non_null(strstr(preview->items[preview_layer(preview, "Conv16")].note, "shortcut"));
    assert_true(lost(preview, "Conv4") > 0 && lost(preview, "Conv14") > 0);
    assert_true(lost(preview, "Gemm22") > 0); /* the classifier too, up to its own ratio */
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void ratios_are_given_per_kind(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 1);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0);
    (void)state;

    plan.conv_ratio = 0.1;
    plan.border_ratio = 0.2;
    plan.fc_ratio = 0.3;
    for (int mode = 0; mode < 2; mode++) {
        plan.mode = (esp_mode)mode;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        assert_true(preview->items[preview_layer(preview, "Conv1")].asked == 0.1);
        assert_true(preview->items[preview_layer(preview, "Conv3")].asked == 0.2);
        assert_true(preview->items[preview_layer(preview, "Gemm7")].asked == 0.3);
        assert_true(preview->items[preview_layer(preview, "Gemm9")].asked == 0);
        assert_true(preview->items[preview_layer(preview, "Gemm9")].takes_part); /* it reads */
        esp_preview_free(preview);
    }
    plan.method = ESP_METHOD_SG;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    assert_true(preview->items[preview_layer(preview, "Conv3")].asked == 0.1);
    assert_true(preview->items[preview_layer(preview, "Gemm9")].asked == 0.3);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void ignored_layers_stay_as_they_are(void **state)
{
    esp_graph *graph = net_residual(2);
    (void)state;

    for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
        esp_plan plan =
            plan_with_rule(all_combinations[i].method, all_combinations[i].mode, 0.7, "Conv14", -1, 0, true);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        assert_int_equal(lost(preview, "Conv14"), 0);
        assert_string_equal(preview->items[preview_layer(preview, "Conv14")].note, "ignored by the plan");
        assert_true(lost(preview, "Conv4") > 0);
        esp_preview_free(preview);
        esp_plan_free(&plan);
    }
    esp_graph_unref(graph);
}

static void rules_set_a_layers_ratio_and_groups(void **state)
{
    esp_graph *graph = net_residual(3);
    esp_plan plan = plan_with_rule(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.25, "Conv14", 0.75, 2, false);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    (void)state;

    assert_true(preview->items[preview_layer(preview, "Conv14")].asked == 0.75);
    assert_int_equal(preview->items[preview_layer(preview, "Conv14")].grouping.k, 2);
    assert_true(preview->items[preview_layer(preview, "Conv11")].asked == 0.25);
    assert_int_equal(preview->items[preview_layer(preview, "Conv11")].grouping.k, 8); /* as many as filters */
    assert_true(preview->items[preview_layer(preview, "Conv14")].got >
                preview->items[preview_layer(preview, "Conv11")].got);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void rule_of_a_coupled_layer_holds_for_its_set(void **state)
{
    esp_graph *graph = net_residual(3);
    esp_plan plan = plan_with_rule(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.6, "Conv7", 0.1, 0, false);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    (void)state;

    assert_true(preview->items[preview_layer(preview, "Conv7")].asked == 0.1);
    assert_true(preview->items[preview_layer(preview, "Conv1")].asked == 0.1); /* writes the same channels */
    assert_true(preview->items[preview_layer(preview, "Conv4")].asked == 0.6);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void rule_that_matches_no_layer_names_the_nearest(void **state)
{
    esp_graph *graph = net_residual(4);
    esp_plan plan = plan_with_rule(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5, "Gem22", 0.1, 0, false);
    esp_preview *preview;
    esp_error err = {0};
    (void)state;

    assert_int_equal(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), ESP_INVALID);
    assert_null(preview);
    assert_non_null(strstr(err.message, "unknown layer 'Gem22', did you mean 'Gemm22'?"));
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void plans_out_of_range_are_refused(void **state)
{
    esp_graph *graph = net_residual(4);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 1);
    esp_preview *preview;
    esp_error err = {0};
    (void)state;

    assert_int_equal(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), ESP_INVALID);
    assert_null(preview);
    esp_graph_unref(graph);
}

/* Conv2 and Conv3 have the same weight. */
static esp_graph *net_sharing(void)
{
    net_tensor x, y;
    net n = net_start(4, 4, 4, 1, &x);

    y = net_conv1(&n, x, 4); /* Conv1 */
    const int64_t dims[] = {4, 4, 1, 1};
    int inputs[] = {y.value, net_random(&n, "twice", 4, dims, 1, 0)};
    y = net_node(&n, "Conv", inputs, 2, NULL, 0, y); /* Conv2 */
    inputs[0] = y.value;
    y = net_node(&n, "Conv", inputs, 2, NULL, 0, y); /* Conv3 */
    net_output(&n, net_conv1(&n, y, 2));
    return net_finish(&n);
}

static void layers_that_share_a_weight_take_no_part_unless_whole_slots_go(void **state)
{
    esp_graph *graph = net_sharing();
    (void)state;

    for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
        esp_plan plan = esp_plan_make(all_combinations[i].method, all_combinations[i].mode, 0.6);
        if (esp_plan_ranks_slots(&plan))
            continue;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        assert_int_equal(lost(preview, "Conv2") + lost(preview, "Conv3"), 0);
        assert_non_null(strstr(preview->items[preview_layer(preview, "Conv2")].note, "'Conv3'"));
        esp_preview_free(preview);
    }
    esp_graph_unref(graph);
}

static void layers_that_share_a_weight_lose_the_same_slots(void **state)
{
    esp_graph *graph = net_sharing(), *masked, *cut;
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_surgery_options options = esp_surgery_defaults();
    esp_surgery_report report;
    esp_error err = {0};
    (void)state;

    assert_int_equal(lost(preview, "Conv2"), 4 * 4 - 2 * 2);
    assert_true(esp_mask_equal(&preview->items[preview_layer(preview, "Conv2")].mask,
                               &preview->items[preview_layer(preview, "Conv3")].mask));
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
    assert_int_equal(report.counts.params, preview->after.params);
    esp_graph_unref(cut);
    esp_graph_unref(masked);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* ---- self-grouping ---- */

/* Formats allow weights of no filters: Conv2 here, whose reader by order has columns of Conv1. */
static void layers_without_weights_take_no_part(void **state)
{
    (void)state;

    for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
        net_tensor x;
        net n = net_start(2, 4, 4, 1, &x);
        net_tensor some = net_conv3(&n, x, 4), none = net_conv3(&n, x, 0);
        net_output(&n, net_fc(&n, net_flatten(&n, net_concat(&n, some, none)), 3, NET_GEMM_PLAIN));
        esp_graph *graph = net_finish(&n);
        esp_plan plan = esp_plan_make(all_combinations[i].method, all_combinations[i].mode, 0.5);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        const esp_preview_layer *item = &preview->items[preview_layer(preview, "Conv2")];
        assert_false(item->takes_part);
        assert_string_equal(item->note, "its weight is empty");
        assert_true(item->got == 0 && item->pruned == 0);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void sound_selfgroup_has_one_mask_per_group(void **state)
{
    esp_graph *graph = net_random_classifier(11);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    (void)state;

    plan.groups = 3;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    for (int l = 0; l < preview->layers.count; l++) {
        const esp_preview_layer *item = &preview->items[l];
        for (int64_t f = 0; item->grouping.labels && f < item->mask.filters; f++)
            for (int64_t g = 0; g < f; g++)
                if (item->grouping.labels[f] == item->grouping.labels[g] &&
                    esp_mask_filter_is_live(&item->mask, f) && esp_mask_filter_is_live(&item->mask, g))
                    assert_true(esp_mask_rows_equal(&item->mask, f, g));
        if (item->grouping.labels)
            assert_true(item->grouping.executed_groups <=
                        4); /* at most k, and one of filters the cascade took */
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Conv1 - Conv2 - Conv3, pointwise. Conv3's first channel is much the weakest, so every group drops it. */
static esp_graph *net_with_weak_channel(void)
{
    net_tensor x;
    net n = net_start(4, 4, 4, 5, &x);
    float values[16];

    x = net_unary(&n, "Relu", net_conv1(&n, x, 4));
    x = net_unary(&n, "Relu", net_conv1(&n, x, 4)); /* Conv3 */
    net_output(&n, net_conv1(&n, x, 4));            /* Conv5 */
    for (int i = 0; i < 16; i++)
        values[i] = i % 4 == 0 ? 0.001F : 1 + 0.01F * (float)i;
    esp_graph *graph = net_finish(&n);
    return net_with_values(graph, net_weight_name(graph, "Conv5"), values);
}

static void cascade_cuts_the_writer_of_a_channel_nobody_reads(void **state)
{
    esp_graph *graph = net_with_weak_channel();
    esp_plan plan = plan_with_rule(ESP_METHOD_SG, ESP_MODE_SOUND, 0, "Conv5", 0.25, 0, false);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    (void)state;

    assert_string_equal(mask_text(&preview->items[2].mask), "0111 0111 0111 0111");
    assert_string_equal(mask_text(&preview->items[1].mask), "0000 1111 1111 1111");
    assert_non_null(strstr(preview->items[1].note, "nobody reads"));
    /* the filter's 4 weights and its bias are gone, and the 4 weights that read it */
    assert_int_equal(preview->before.params - preview->after.params, 4 + 1 + 4);
    assert_int_equal(preview->before.macs - preview->after.macs, 16 * 8);
    esp_preview_free(preview);

    plan.mode = ESP_MODE_FAITHFUL;
    preview = preview_of(graph, &plan, NULL);
    assert_int_equal(lost(preview, "Conv3"), 0);
    assert_int_equal(preview->before.params - preview->after.params, 4);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void cascade_goes_on_until_nothing_changes(void **state)
{
    esp_graph *graph = net_with_weak_channel();
    float values[16];
    esp_plan plan = plan_with_rule(ESP_METHOD_SG, ESP_MODE_SOUND, 0, "Conv5", 0.25, 0, false);
    (void)state;

    /* Conv3's filters 1 to 3 drop channel 0 on their own, which filter 0 alone would still read; filter 0
     * goes because of Conv5, then Conv1's filter 0 because nobody reads it any more */
    for (int i = 0; i < 16; i++)
        values[i] = i % 4 == 0 && i ? 0.001F : 1 + 0.01F * (float)i;
    graph = net_with_values(graph, net_weight_name(graph, "Conv3"), values);
    esp_error err = {0};
    expect_ok(esp_plan_add_rule(&plan, "Conv3", 0.1875, 4, false, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    assert_string_equal(mask_text(&preview->items[1].mask), "0000 0111 0111 0111");
    assert_string_equal(mask_text(&preview->items[0].mask), "0000 1111 1111 1111");
    esp_preview_free(preview);

    expect_ok(esp_plan_add_rule(&plan, "Conv1", -1, 0, true, &err), &err);
    preview = preview_of(graph, &plan, NULL);
    assert_int_equal(lost(preview, "Conv1"), 0); /* ignored: it keeps even what nobody reads */
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void layers_whose_groups_all_tie_stay_whole_in_sound_mode(void **state)
{
    esp_graph *graph = net_with_weak_channel();
    float values[16];
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.3);
    (void)state;

    for (int i = 0; i < 16; i++)
        values[i] = 0.5F;
    graph = net_with_values(graph, net_weight_name(graph, "Conv3"), values);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    assert_true(esp_mask_filter_is_live(&preview->items[1].mask, 1));
    esp_preview_free(preview);
    plan.mode = ESP_MODE_FAITHFUL; /* strict '>': all entries tie with the threshold */
    preview = preview_of(graph, &plan, NULL);
    assert_int_equal(lost(preview, "Conv3"), 16);
    assert_string_equal(preview->items[1].note, "all entries are equal: the threshold takes all of them");
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* ---- what comes out ---- */

static void wsp_reports_asked_and_got(void **state)
{
    esp_graph *graph = net_residual(5);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.7);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    (void)state;

    for (int i = 0; i < preview->wsp.pair_count; i++) {
        const esp_wsp_pair *pair = &preview->wsp.pairs[i];
        const esp_preview_layer *item = &preview->items[pair->writer];
        assert_true(item->asked == 0.7);
        assert_true(fabs(item->got - (double)pair->weak_count / (double)pair->channels) < 1e-12);
        assert_int_equal(item->filters_kept, pair->channels - pair->weak_count);
        assert_true(item->got < item->asked); /* an intersection */
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void preview_counts_what_surgery_leaves(void **state)
{
    esp_graph *graph = net_residual(6);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.7);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_surgery_options options = esp_surgery_defaults();
    esp_inferred *inferred;
    esp_counts counts;
    esp_graph *cut;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_surgery(NULL, preview, &options, &cut, NULL, &err), &err);
    expect_ok(esp_infer(cut, 1, NULL, 0, &inferred, &err), &err);
    expect_ok(esp_graph_count(cut, inferred, &counts, &err), &err);
    assert_true(counts.params < preview->before.params);
    assert_int_equal(counts.params, preview->after.params);
    assert_int_equal(counts.macs, preview->after.macs);
    assert_true(counts.paper_params == preview->after.paper_params);
    assert_true(counts.paper_macs == preview->after.paper_macs);
    esp_inferred_free(inferred);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void depthwise_filters_follow_their_channels(void **state)
{
    net_tensor x;
    net n = net_start(3, 6, 6, 7, &x);
    (void)state;

    x = net_norm(&n, net_conv1(&n, x, 8));                                         /* Conv1, 2 */
    x = net_conv(&n, x, 8, (net_conv_options){.kernel = 3, .pad = 1, .group = 8}); /* Conv3 */
    net_output(&n, net_conv1(&n, net_norm(&n, x), 4));                             /* 4, Conv5 */
    esp_graph *graph = net_finish(&n);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.8);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    int64_t cut = preview->wsp.pairs[0].weak_count;
    assert_true(cut > 0);
    for (int64_t c = 0; c < 8; c++)
        assert_int_equal(esp_mask_filter_is_live(&preview->items[1].mask, c),
                         esp_mask_filter_is_live(&preview->items[0].mask, c));
    /* per channel: 3 weights and bias, two batch-norms, 9 depthwise weights, 4 that read it */
    assert_int_equal(preview->before.params - preview->after.params, cut * (3 + 1 + 2 + 9 + 2 + 4));
    assert_non_null(strstr(preview->items[1].note, "grouped"));
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void masked_model_carries_its_masks_and_they_never_grow_back(void **state)
{
    esp_graph *graph = net_residual(8);
    (void)state;

    for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
        esp_plan plan = esp_plan_make(all_combinations[i].method, all_combinations[i].mode, 0.5);
        esp_preview *first = preview_of(graph, &plan, NULL), *second;
        esp_graph *masked;
        esp_held_masks held;
        esp_error err = {0};
        expect_ok(esp_preview_masked_graph(first, &masked, &err), &err);
        expect_ok(esp_held_masks_of(masked, &held, &err), &err);
        assert_true(held.count > 0);
        esp_held_masks_free(&held);
        plan.conv_ratio = plan.fc_ratio = plan.border_ratio = 0.1;
        second = preview_of(masked, &plan, NULL);
        for (int l = 0; l < first->layers.count; l++) {
            const esp_mask *old = &first->items[l].mask, *new = &second->items[l].mask;
            assert_int_equal(second->items[l].params_before, first->items[l].params_after);
            for (int64_t f = 0; f < old->filters; f++)
                for (int64_t c = 0; c < old->channels; c++)
                    assert_false(esp_mask_get(new, f, c) && !esp_mask_get(old, f, c));
        }
        assert_int_equal(second->before.params, first->after.params);
        assert_int_equal(second->before.macs, first->after.macs);
        esp_preview_free(first);
        esp_preview_free(second);
        esp_graph_unref(masked);
    }
    esp_graph_unref(graph);
}

static void preview_that_cuts_nothing_gives_the_same_model(void **state)
{
    esp_graph *graph = net_residual(9), *masked;
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_error err = {0};
    (void)state;

    assert_int_equal(preview->before.params, preview->after.params);
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    assert_ptr_equal(masked, graph);
    esp_graph_unref(masked);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void importance_is_what_the_groups_were_made_from(void **state)
{
    esp_graph *graph = net_residual(10);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    int l = preview_layer(preview, "Conv4");
    float *importance;
    esp_error err = {0};
    (void)state;

    /* as many groups as filters: every centroid is its filter's importance vector */
    expect_ok(esp_preview_importance(preview, l, &importance, &err), &err);
    for (int64_t f = 0; f < 6; f++)
        for (int64_t c = 0; c < 6; c++)
            assert_true(preview->items[l].grouping.centroids[preview->items[l].grouping.labels[f] * 6 + c] ==
                        (double)importance[f * 6 + c]);
    esp_free(importance);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* ---- cache and threads ---- */

static void warm_cache_changes_nothing_but_the_time(void **state)
{
    esp_graph *graph = net_residual(11), *other = net_residual(12);
    esp_grouping_cache *cache;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_grouping_cache_new(&cache, &err), &err);
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
            const esp_graph *model = round == 1 ? other : graph; /* another model, and back */
            esp_plan plan =
                esp_plan_make(all_combinations[i].method, all_combinations[i].mode, 0.3 + 0.1 * round);
            plan.groups = 2 + round;
            esp_preview *cold = preview_of(model, &plan, NULL), *warm = preview_of(model, &plan, cache);
            check_same_masks(cold, warm);
            assert_int_equal(cold->after.params, warm->after.params);
            esp_preview_free(cold);
            esp_preview_free(warm);
        }
    esp_grouping_cache_free(cache);
    esp_graph_unref(graph);
    esp_graph_unref(other);
}

static void cache_keeps_groupings_of_different_plans_apart(void **state)
{
    esp_graph *graph = net_residual(12);
    esp_grouping_cache *cache;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_grouping_cache_new(&cache, &err), &err);
    for (int i = 0; i < 8; i++) {
        esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
        plan.groups = i & 1 ? 2 : 4;
        plan.seed = i & 2 ? 1 : 0;
        plan.restarts = 1;
        plan.init = i & 4 ? ESP_KMEANS_PLUS_PLUS : ESP_KMEANS_RANDOM;
        esp_preview *cold = preview_of(graph, &plan, NULL), *warm = preview_of(graph, &plan, cache);
        for (int l = 0; l < cold->layers.count; l++)
            assert_true(cold->items[l].grouping.inertia == warm->items[l].grouping.inertia);
        esp_preview_free(cold);
        esp_preview_free(warm);
    }
    esp_grouping_cache_free(cache);
    esp_graph_unref(graph);
}

static void preview_outlives_cache_and_graph(void **state)
{
    esp_graph *graph = net_residual(13);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    esp_grouping_cache *cache;
    json_t *json;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_grouping_cache_new(&cache, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, cache);
    esp_grouping_cache_free(cache);
    esp_graph_unref(graph);
    expect_ok(esp_preview_to_json(preview, true, &json, &err), &err);
    assert_int_equal(json_array_size(json_object_get(json, "layers")), 7);
    json_decref(json);
    esp_preview_free(preview);
}

static void preview_is_the_same_for_any_number_of_threads(void **state)
{
    esp_graph *graph = net_residual(14);
    esp_pool *pool;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_pool_new(3, &pool, &err), &err);
    esp_compute compute = {.pool = pool};
    for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
        esp_plan plan = esp_plan_make(all_combinations[i].method, all_combinations[i].mode, 0.5);
        plan.groups = 3;
        esp_preview *alone = preview_of(graph, &plan, NULL), *shared;
        expect_ok(esp_preview_new(&compute, graph, &plan, NULL, 0, NULL, &shared, &err), &err);
        check_same_masks(alone, shared);
        esp_preview_free(alone);
        esp_preview_free(shared);
    }
    esp_pool_free(pool);
    esp_graph_unref(graph);
}

static void preview_survives_every_failed_allocation(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 15);
    size_t live = esp_memory_live();
    (void)state;

    for (size_t i = 0; i < sizeof all_combinations / sizeof *all_combinations; i++) {
        esp_plan plan = esp_plan_make(all_combinations[i].method, all_combinations[i].mode, 0.5);
        bool has_burnt = true;
        plan.restarts = 1;
        plan.groups = 2;
        for (int64_t k = 1; has_burnt; k++) {
            esp_preview *preview;
            esp_error err = {0};
            esp_memory_fuse(k);
            esp_status status = esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err);
            has_burnt = esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
            esp_preview_free(preview);
            assert_int_equal(esp_memory_live(), live);
        }
    }
    esp_graph_unref(graph);
}

static void cancelled_preview_leaves_nothing(void **state)
{
    esp_graph *graph = net_residual(16);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    esp_cancel cancel = {false};
    esp_compute compute = {.cancel = &cancel};
    esp_preview *preview;
    esp_error err = {0};
    (void)state;

    esp_cancel_request(&cancel);
    assert_int_equal(esp_preview_new(&compute, graph, &plan, NULL, 0, NULL, &preview, &err), ESP_CANCELLED);
    assert_null(preview);
    esp_graph_unref(graph);
}

/* ---- JSON ---- */

static void json_has_what_the_command_line_promises(void **state)
{
    esp_graph *graph = net_residual(17);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    int l = preview_layer(preview, "Conv4");
    json_t *json, *layer;
    char text[64];
    esp_error err = {0};
    (void)state;

    expect_ok(esp_preview_to_json(preview, true, &json, &err), &err);
    layer = json_array_get(json_object_get(json, "layers"), (size_t)l);
    assert_string_equal(json_string_value(json_object_get(layer, "name")), "Conv4");
    assert_string_equal(json_string_value(json_object_get(layer, "weight")), net_weight_name(graph, "Conv4"));
    assert_true(json_real_value(json_object_get(layer, "asked")) == 0.5);
    assert_true(json_real_value(json_object_get(layer, "got")) == preview->items[l].got);
    assert_int_equal(json_integer_value(json_object_get(layer, "params_before")), 6 * 6 * 9);
    assert_int_equal(json_integer_value(json_object_get(layer, "params_after")),
                     esp_mask_kept(&preview->items[l].mask) * 9);
    for (int64_t f = 0; f < 6; f++)
        assert_string_equal(json_string_value(json_array_get(json_object_get(layer, "mask"), (size_t)f)),
                            esp_mask_row_text(&preview->items[l].mask, f, text));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "after"), "params")),
                     preview->after.params);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "plan"), "method")), "sg");
    json_decref(json);
    expect_ok(esp_preview_to_json(preview, false, &json, &err), &err);
    assert_null(json_object_get(json_array_get(json_object_get(json, "layers"), (size_t)l), "mask"));
    json_decref(json);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void json_lists_pairs_with_their_thresholds(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 18);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.6);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    json_t *json, *pair;
    esp_error err = {0};
    (void)state;

    expect_ok(esp_preview_to_json(preview, false, &json, &err), &err);
    assert_int_equal(json_array_size(json_object_get(json, "pairs")), 3);
    pair = json_array_get(json_object_get(json, "pairs"), 1);
    assert_string_equal(json_string_value(json_object_get(pair, "writer")), net_weight_name(graph, "Conv3"));
    assert_int_equal(json_integer_value(json_object_get(pair, "span")), 4);
    assert_true(json_real_value(json_object_get(pair, "filter_threshold")) ==
                preview->wsp.pairs[1].filter_threshold);
    assert_int_equal(json_array_size(json_object_get(pair, "weak")), preview->wsp.pairs[1].weak_count);
    json_decref(json);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* ---- weights that cannot be ranked ---- */

static esp_graph *with_one_weight(esp_graph *take_graph, const char *layer, float value)
{
    const char *name = net_weight_name(take_graph, layer);
    const esp_tensor *weight = esp_graph_value(take_graph, esp_graph_find_value(take_graph, name))->constant;
    int64_t count = esp_tensor_elements(weight);
    float *values = esp_alloc_zero((size_t)count, sizeof *values);

    assert_non_null(values);
    values[0] = value;
    esp_graph *graph = net_with_values(take_graph, name, values);
    esp_free(values);
    return graph;
}

static void weights_that_are_not_finite_are_refused_by_every_method(void **state)
{
    const esp_method methods[] = {ESP_METHOD_WSP, ESP_METHOD_SG, ESP_METHOD_FILTER};
    const float values[] = {NAN, INFINITY};
    (void)state;

    for (int i = 0; i < 6; i++) {
        esp_graph *graph = with_one_weight(net_residual(1), "Conv1", values[i % 2]);
        esp_plan plan = esp_plan_make(methods[i / 2], ESP_MODE_SOUND, 0.5);
        esp_preview *preview = NULL;
        esp_error err = {0};
        assert_int_equal(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), ESP_INVALID);
        assert_null(preview);
        assert_non_null(strstr(err.message, "filter 0 of weight"));
        assert_non_null(strstr(err.message, "not finite"));
        if (methods[i / 2] == ESP_METHOD_FILTER)
            assert_non_null(strstr(err.message, "criterion 'l1'"));
        esp_graph_unref(graph);
    }
}

static void json_says_what_the_plan_asks_of_layers_that_take_no_part(void **state)
{
    esp_graph *graph = net_residual(1);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    json_t *object = NULL;
    esp_error err = {0};
    (void)state;

    assert_false(preview->items[0].takes_part);
    expect_ok(esp_preview_to_json(preview, false, &object, &err), &err);
    json_t *stem = json_array_get(json_object_get(object, "layers"), 0);
    assert_true(json_real_value(json_object_get(stem, "asked")) == 0.5);
    assert_true(json_real_value(json_object_get(stem, "got")) == 0);
    json_decref(object);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selfgroup_leaves_stem_and_shortcut_whole_and_says_so),
        cmocka_unit_test(ratios_are_given_per_kind),
        cmocka_unit_test(ignored_layers_stay_as_they_are),
        cmocka_unit_test(rules_set_a_layers_ratio_and_groups),
        cmocka_unit_test(rule_of_a_coupled_layer_holds_for_its_set),
        cmocka_unit_test(rule_that_matches_no_layer_names_the_nearest),
        cmocka_unit_test(plans_out_of_range_are_refused),
        cmocka_unit_test(layers_that_share_a_weight_take_no_part_unless_whole_slots_go),
        cmocka_unit_test(layers_that_share_a_weight_lose_the_same_slots),
        cmocka_unit_test(layers_without_weights_take_no_part),
        cmocka_unit_test(sound_selfgroup_has_one_mask_per_group),
        cmocka_unit_test(cascade_cuts_the_writer_of_a_channel_nobody_reads),
        cmocka_unit_test(cascade_goes_on_until_nothing_changes),
        cmocka_unit_test(layers_whose_groups_all_tie_stay_whole_in_sound_mode),
        cmocka_unit_test(wsp_reports_asked_and_got),
        cmocka_unit_test(preview_counts_what_surgery_leaves),
        cmocka_unit_test(depthwise_filters_follow_their_channels),
        cmocka_unit_test(masked_model_carries_its_masks_and_they_never_grow_back),
        cmocka_unit_test(preview_that_cuts_nothing_gives_the_same_model),
        cmocka_unit_test(importance_is_what_the_groups_were_made_from),
        cmocka_unit_test(warm_cache_changes_nothing_but_the_time),
        cmocka_unit_test(cache_keeps_groupings_of_different_plans_apart),
        cmocka_unit_test(preview_outlives_cache_and_graph),
        cmocka_unit_test(preview_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(preview_survives_every_failed_allocation),
        cmocka_unit_test(cancelled_preview_leaves_nothing),
        cmocka_unit_test(json_has_what_the_command_line_promises),
        cmocka_unit_test(json_lists_pairs_with_their_thresholds),
        cmocka_unit_test(weights_that_are_not_finite_are_refused_by_every_method),
        cmocka_unit_test(json_says_what_the_plan_asks_of_layers_that_take_no_part),
    };
    return cmocka_run_group_tests_name("preview", tests, NULL, NULL);
}
