/* Plans beside each other, one over another, and on a model that has changed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "prune/plan_diff.h"
#include "unit/base/scratch.h"
#include "unit/prune/prune_nets.h"

static esp_plan plan_of(esp_method method, double ratio)
{
    return esp_plan_make(method, ESP_MODE_SOUND, ratio);
}

static void add(esp_plan *plan, const char *pattern, double ratio, int groups, bool is_ignored)
{
    esp_error err = {0};

    expect_ok(esp_plan_add_rule(plan, pattern, ratio, groups, is_ignored, &err), &err);
}

/* ---- differences ---- */

static const esp_plan_change *change_of(const esp_plan_changes *changes, const char *where)
{
    for (int i = 0; i < changes->count; i++)
        if (strcmp(changes->items[i].where, where) == 0)
            return &changes->items[i];
    return NULL;
}

static esp_plan_changes diff_of(const esp_plan *a, const esp_plan *b)
{
    esp_plan_changes changes;
    esp_error err = {0};

    expect_ok(esp_plan_diff(a, b, &changes, &err), &err);
    return changes;
}

static void equal_plans_have_no_differences(void **state)
{
    esp_plan a = plan_of(ESP_METHOD_SG, 0.5), b;
    esp_error err = {0};
    (void)state;

    add(&a, "conv1", 0.25, 4, false);
    add(&a, "layer*", -1, 0, true);
    expect_ok(esp_plan_clone(&a, &b, &err), &err);
    esp_plan_changes changes = diff_of(&a, &b);
    assert_int_equal(changes.count, 0);
    esp_plan_free(&a);
    esp_plan_free(&b);
}

static void every_field_that_differs_is_named_with_both_values(void **state)
{
    esp_plan a = plan_of(ESP_METHOD_SG, 0.5), b = plan_of(ESP_METHOD_SG, 0.5);
    (void)state;

    b.fc_ratio = 0.25;
    b.groups = 8;
    b.seed = 7;
    add(&a, "conv1", 0.25, 4, false);
    add(&b, "conv1", 0.5, 4, true);
    add(&a, "only.a", 0.1, 0, false);
    add(&b, "only.b", -1, 0, true);
    esp_plan_changes changes = diff_of(&a, &b);
    static const struct {
        const char *where, *a, *b;
    } expected[] = {
        {"ratio.fc", "0.5", "0.25"},
        {"groups", "16", "8"},
        {"seed", "0", "7"},
        {"rule 'conv1': ratio", "0.25", "0.5"},
        {"rule 'conv1': ignore", NULL, "true"},
        {"rule 'only.a': ratio", "0.1", NULL},
        {"rule 'only.b': ignore", NULL, "true"},
    };
    assert_int_equal(changes.count, sizeof expected / sizeof *expected);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const esp_plan_change *found = change_of(&changes, expected[i].where);
        if (!found)
            fail_msg("no difference '%s'", expected[i].where);
        assert_true(expected[i].a ? found->a && strcmp(found->a, expected[i].a) == 0 : !found->a);
        assert_true(expected[i].b ? found->b && strcmp(found->b, expected[i].b) == 0 : !found->b);
    }
    esp_plan_changes_free(&changes);
    esp_plan_free(&a);
    esp_plan_free(&b);
}

static void another_order_of_the_same_rules_is_a_difference(void **state)
{
    esp_plan a = plan_of(ESP_METHOD_WSP, 0.5), b = plan_of(ESP_METHOD_WSP, 0.5);
    (void)state;

    add(&a, "layer*", 0.25, 0, false);
    add(&a, "*conv1", 0.5, 0, false);
    add(&b, "*conv1", 0.5, 0, false);
    add(&b, "layer*", 0.25, 0, false);
    esp_plan_changes changes = diff_of(&a, &b);
    assert_int_equal(changes.count, 1);
    assert_string_equal(changes.items[0].where, "order of rules");
    esp_plan_changes_free(&changes);
    esp_plan_free(&a);
    esp_plan_free(&b);
}

static void effects_are_those_of_the_two_previews(void **state)
{
    esp_graph *graph = net_residual(1);
    esp_plan a = plan_of(ESP_METHOD_WSP, 0.6), b = plan_of(ESP_METHOD_WSP, 0.6);
    esp_plan_effects effects;
    esp_error err = {0};
    json_t *json = NULL;
    (void)state;

    add(&b, "Conv11", 0, 0, false); /* only the inside of the second block stays whole */
    expect_ok(esp_plan_compare(NULL, graph, &a, &b, NULL, 0, &effects, &err), &err);
    esp_preview *first = preview_of(graph, &a, NULL), *second = preview_of(graph, &b, NULL);
    assert_true(effects.after[0].params == first->after.params &&
                effects.after[1].params == second->after.params);
    assert_true(effects.after[0].params < effects.after[1].params);
    assert_int_equal(effects.layer_count, first->layers.count);
    assert_int_equal(effects.count, 2); /* it, and the layer that reads it */
    assert_string_equal(effects.items[0].layer, "Conv11");
    assert_int_equal(effects.items[0].filters_kept[1], 8);
    assert_int_equal(effects.items[0].filters_kept[0],
                     first->items[preview_layer(first, "Conv11")].filters_kept);
    assert_true(effects.items[0].filters_kept[0] < 8);
    assert_string_equal(effects.items[1].layer, "Conv14");
    esp_plan_changes changes = diff_of(&a, &b);
    expect_ok(esp_plan_diff_to_json(&changes, &effects, &json, &err), &err);
    assert_int_equal(json_array_size(json_object_get(json, "layers")), 2);
    assert_true(json_is_false(json_object_get(json, "same")));
    json_decref(json);
    esp_plan_changes_free(&changes);
    esp_plan_effects_free(&effects);
    esp_preview_free(first);
    esp_preview_free(second);
    esp_plan_free(&b);
    esp_graph_unref(graph);
}

/* ---- merging ---- */

static esp_plan merge_of(const esp_plan *a, const esp_plan *b, esp_plan_side side, const esp_layers *layers,
                         esp_plan_conflicts *conflicts)
{
    esp_plan merged;
    esp_error err = {0};

    expect_ok(esp_plan_merge(a, b, side, layers, &merged, conflicts, &err), &err);
    return merged;
}

static const esp_plan_conflict *conflict_of(const esp_plan_conflicts *conflicts, const char *where)
{
    for (int i = 0; i < conflicts->count; i++)
        if (strcmp(conflicts->items[i].where, where) == 0)
            return &conflicts->items[i];
    return NULL;
}

static void rules_of_b_go_over_those_of_a_layer_by_layer(void **state)
{
    esp_plan a = plan_of(ESP_METHOD_WSP, 0.5), b = plan_of(ESP_METHOD_WSP, 0);
    esp_plan_conflicts conflicts;
    (void)state;

    add(&a, "conv1", 0.25, 0, false);
    add(&a, "conv2", 0.3, 0, false);
    add(&b, "conv2", 0.6, 0, false);
    add(&b, "fc", -1, 0, true);
    esp_plan merged = merge_of(&a, &b, ESP_PLAN_RULES, NULL, &conflicts);
    assert_true(merged.conv_ratio == 0.5); /* general fields of a */
    assert_true(esp_plan_resolve(&merged, "conv1", "", -1).ratio == 0.25);
    assert_true(esp_plan_resolve(&merged, "conv2", "", -1).ratio == 0.6);
    assert_true(esp_plan_resolve(&merged, "fc", "", -1).is_ignored);
    assert_non_null(conflict_of(&conflicts, "ratio.conv"));
    assert_false(conflict_of(&conflicts, "ratio.conv")->took_b);
    const esp_plan_conflict *conflict = conflict_of(&conflicts, "rule 'conv2': ratio");
    assert_non_null(conflict);
    assert_true(conflict->took_b && strcmp(conflict->a, "0.3") == 0 && strcmp(conflict->b, "0.6") == 0);
    assert_int_equal(conflicts.count, 4); /* three kinds of ratio, and conv2 */
    esp_plan_conflicts_free(&conflicts);
    esp_plan_free(&merged);
    esp_plan_free(&a);
    esp_plan_free(&b);
}

static void ours_and_theirs_say_who_wins(void **state)
{
    esp_plan a = plan_of(ESP_METHOD_WSP, 0.5), b = plan_of(ESP_METHOD_SG, 0.25);
    esp_plan_conflicts conflicts;
    (void)state;

    add(&a, "conv2", 0.3, 0, false);
    add(&b, "conv*", 0.6, 0, false);
    esp_plan ours = merge_of(&a, &b, ESP_PLAN_OURS, NULL, &conflicts);
    assert_int_equal(ours.method, ESP_METHOD_WSP);
    assert_true(ours.conv_ratio == 0.5);
    assert_true(esp_plan_resolve(&ours, "conv2", "", -1).ratio ==
                0.3); /* though b's pattern matches it too */
    assert_true(esp_plan_resolve(&ours, "conv1", "", -1).ratio == 0.6); /* a says nothing of it */
    assert_non_null(conflict_of(&conflicts, "rules 'conv2' and 'conv*': ratio"));
    esp_plan_conflicts_free(&conflicts);
    esp_plan theirs = merge_of(&a, &b, ESP_PLAN_THEIRS, NULL, &conflicts);
    assert_int_equal(theirs.method, ESP_METHOD_SG);
    assert_true(theirs.conv_ratio == 0.25);
    assert_true(esp_plan_resolve(&theirs, "conv2", "", -1).ratio == 0.6);
    for (int i = 0; i < conflicts.count; i++)
        assert_true(conflicts.items[i].took_b);
    esp_plan_conflicts_free(&conflicts);
    esp_plan_free(&ours);
    esp_plan_free(&theirs);
    esp_plan_free(&a);
    esp_plan_free(&b);
}

static void with_a_model_conflicts_are_found_by_layer(void **state)
{
    net_view view = net_look(net_residual(1));
    esp_plan a = plan_of(ESP_METHOD_WSP, 0), b = plan_of(ESP_METHOD_WSP, 0);
    esp_plan_conflicts conflicts;
    (void)state;

    add(&a, "Conv1?", 0.25, 0, false); /* Conv11, Conv14, Conv16 */
    add(&b, "C*4", 0.5, 0, false);     /* Conv4, Conv14 */
    esp_plan merged = merge_of(&a, &b, ESP_PLAN_RULES, NULL, &conflicts);
    assert_int_equal(conflicts.count, 0); /* two wildcards: nobody can tell without a model */
    esp_plan_free(&merged);
    merged = merge_of(&a, &b, ESP_PLAN_RULES, view.layers, &conflicts);
    assert_int_equal(conflicts.count, 1);
    assert_string_equal(conflicts.items[0].where, "layer 'Conv14': ratio");
    json_t *json = NULL;
    esp_error err = {0};
    expect_ok(esp_plan_merge_to_json(&merged, &conflicts, &json, &err), &err);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(json_object_get(json, "conflicts"), 0), "took")),
        "b");
    json_decref(json);
    esp_plan_conflicts_free(&conflicts);
    esp_plan_free(&merged);
    esp_plan_free(&a);
    esp_plan_free(&b);
    net_forget(&view);
}

/* ---- fitting ---- */

static esp_plan_fit fit_of(const esp_graph *graph, const esp_plan *plan, const esp_plan_fit_options *options)
{
    esp_plan_fit fit;
    esp_error err = {0};

    expect_ok(esp_plan_fit_new(NULL, graph, plan, options, &fit, &err), &err);
    esp_preview_free(
        preview_of(graph, &fit.repaired, NULL)); /* whatever was wrong, the repaired plan is taken */
    return fit;
}

static const esp_plan_misfit *misfit_of(const esp_plan_fit *fit, esp_misfit_kind kind, const char *layer)
{
    for (int i = 0; i < fit->count; i++)
        if (fit->items[i].kind == kind && strcmp(fit->items[i].layer, layer) == 0)
            return &fit->items[i];
    return NULL;
}

static void a_plan_that_fits_stays_as_it_is(void **state)
{
    esp_graph *graph = net_residual(1);
    esp_plan plan = plan_of(ESP_METHOD_FILTER, 0.5);
    (void)state;

    add(&plan, "Conv4", 0.25, 0, false);
    add(&plan, "Conv1?", -1, 0, true);
    const esp_plan_fit_options options = {.from = graph};
    esp_plan_fit fit = fit_of(graph, &plan, &options);
    assert_int_equal(fit.count, 0);
    esp_plan_changes changes = diff_of(&plan, &fit.repaired);
    assert_int_equal(changes.count, 0);
    esp_plan_fit_free(&fit);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void rules_of_layers_that_are_gone_are_dropped_or_moved(void **state)
{
    esp_graph *graph = net_residual(1);
    esp_plan plan = plan_of(ESP_METHOD_WSP, 0.5);
    esp_plan_fit_options options = {0};
    esp_preview *preview = NULL;
    esp_error err = {0};
    (void)state;

    add(&plan, "Conv14x", 0.25, 0, false);
    add(&plan, "nothing.like.it", 0.25, 0, false);
    add(&plan, "Conv4", 0.125, 0, false);
    expect_failure(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), ESP_INVALID, &err,
                   "Conv14");
    esp_plan_fit fit = fit_of(graph, &plan, &options);
    assert_int_equal(fit.count, 2);
    assert_string_equal(misfit_of(&fit, ESP_MISFIT_GONE, "Conv14x")->nearest, "Conv14");
    assert_null(misfit_of(&fit, ESP_MISFIT_GONE, "nothing.like.it")->nearest);
    assert_int_equal(fit.repaired.rule_count, 1);
    assert_true(esp_plan_resolve(&fit.repaired, "Conv4", "", -1).ratio == 0.125);
    esp_plan_fit_free(&fit);
    options.renames = true;
    fit = fit_of(graph, &plan, &options);
    assert_int_equal(fit.count, 2);
    assert_int_equal(fit.repaired.rule_count, 2);
    assert_true(esp_plan_resolve(&fit.repaired, "Conv14", "", -1).ratio == 0.25);
    esp_plan_fit_free(&fit);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void ratios_and_groups_a_layer_cannot_have_become_those_it_can(void **state)
{
    esp_graph *graph = net_residual(1);
    esp_plan plan = plan_of(ESP_METHOD_FILTER, 0);
    (void)state;

    plan.floor = 0.25;
    add(&plan, "Conv11", 0.9, 0, false); /* of 8 filters 2 must stay */
    add(&plan, "Gemm22", 0.5, 0, false); /* the network's output */
    add(&plan, "Conv4", 0.5, 0, false);
    esp_plan_fit fit = fit_of(graph, &plan, NULL);
    assert_int_equal(fit.count, 2);
    assert_non_null(misfit_of(&fit, ESP_MISFIT_RATIO, "Conv11"));
    assert_non_null(misfit_of(&fit, ESP_MISFIT_UNCUTTABLE, "Gemm22"));
    assert_true(esp_plan_resolve(&fit.repaired, "Conv11", "", -1).ratio == 0.75);
    assert_true(esp_plan_resolve(&fit.repaired, "Conv4", "", -1).ratio == 0.5);
    esp_plan_fit_free(&fit);
    esp_plan_free(&plan);

    plan = plan_of(ESP_METHOD_SG, 0.5);
    add(&plan, "Conv14", -1, 12, false);
    fit = fit_of(graph, &plan, NULL);
    assert_int_equal(fit.count, 1);
    assert_non_null(misfit_of(&fit, ESP_MISFIT_GROUPS, "Conv14"));
    assert_int_equal(esp_plan_resolve(&fit.repaired, "Conv14", "", -1).groups, 8);
    esp_plan_fit_free(&fit);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

/* Conv1 - Relu - Conv3 of 4 groups - 1x1: a slot behind Conv1 is one filter for each group. */
static esp_graph *grouped_net(void)
{
    net_tensor x;
    net n = net_start(3, 5, 5, 6, &x);
    const net_conv_options grouped = {.kernel = 3, .stride = 1, .pad = 1, .group = 4, .has_bias = true};

    x = net_conv(&n, net_unary(&n, "Relu", net_conv3(&n, x, 16)), 8, grouped);
    net_output(&n, net_conv1(&n, x, 2));
    return net_finish(&n);
}

static void a_ratio_is_judged_by_slots_not_by_filters(void **state)
{
    esp_graph *graph = grouped_net();
    esp_plan plan = plan_of(ESP_METHOD_FILTER, 0);
    (void)state;

    plan.round_to = 8;
    add(&plan, "Conv1", 0.5, 0, false); /* 8 of 16 filters, but of 4 slots all must stay */
    esp_plan_fit fit = fit_of(graph, &plan, NULL);
    const esp_plan_misfit *misfit = misfit_of(&fit, ESP_MISFIT_RATIO, "Conv1");
    assert_non_null(misfit);
    assert_non_null(strstr(misfit->text, "takes 2 of 4 slots, at most 0 can go"));
    assert_true(esp_plan_resolve(&fit.repaired, "Conv1", "", -1).ratio == 0);
    esp_plan_fit_free(&fit);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

/* The choice of the set that Conv11 writes, by a plan of this ratio. */
static esp_slot_choice wsp_choice(const esp_graph *graph, const esp_plan *plan, esp_preview **preview)
{
    *preview = preview_of(graph, plan, NULL);
    for (int i = 0; i < (*preview)->wsp.pair_count; i++)
        if ((*preview)->wsp.pairs[i].writer == preview_layer(*preview, "Conv11"))
            return (*preview)->wsp.pairs[i].choice;
    fail_msg("no set of Conv11");
    return (esp_slot_choice){0};
}

/* Of a ratio WSP cuts what is weak by both norms: it is too large only when those are more than can go. */
static void a_wsp_ratio_is_judged_by_what_is_weak(void **state)
{
    int fitting = 0, too_large = 0;
    (void)state;

    for (uint64_t seed = 1; seed <= 24; seed++) {
        esp_graph *graph = net_residual(seed);
        esp_plan plan = plan_of(ESP_METHOD_WSP, 0);
        esp_preview *preview, *repaired, *beyond;
        plan.floor = 0.25;
        add(&plan, "Conv11", 0.9, 0, false); /* of 8 slots; 2 stay */
        esp_plan_fit fit = fit_of(graph, &plan, NULL);
        esp_slot_choice choice = wsp_choice(graph, &plan, &preview);
        const esp_plan_misfit *misfit = misfit_of(&fit, ESP_MISFIT_RATIO, "Conv11");
        assert_int_equal(misfit != NULL, choice.floored > 0);
        fitting += misfit == NULL;
        if (misfit) { /* the repaired ratio is the largest with which the floor has nothing to do */
            double ratio = esp_plan_resolve(&fit.repaired, "Conv11", "", -1).ratio;
            choice = wsp_choice(graph, &fit.repaired, &repaired);
            assert_int_equal(choice.floored, 0);
            assert_true(choice.ranked <= 6);
            add(&plan, "Conv11", ratio + 0.0002, 0, false);
            choice = wsp_choice(graph, &plan, &beyond);
            assert_true(choice.floored > 0);
            esp_preview_free(repaired);
            esp_preview_free(beyond);
            too_large++;
        }
        esp_preview_free(preview);
        esp_plan_fit_free(&fit);
        esp_plan_free(&plan);
        esp_graph_unref(graph);
    }
    assert_true(fitting > 0 && too_large > 0);
}

/* Conv1 - Relu - Conv3 - Relu - 1x1; with one more: ... - Relu - Relu - Conv6 - Relu - 1x1. */
static esp_graph *line_net(int64_t filters, bool has_more)
{
    net_tensor x;
    net n = net_start(3, 5, 5, 2, &x);

    x = net_unary(&n, "Relu", net_conv3(&n, x, filters));
    x = net_unary(&n, "Relu", net_conv3(&n, x, 12));
    if (has_more)
        x = net_unary(&n, "Relu", net_conv3(&n, net_unary(&n, "Relu", x), 10));
    net_output(&n, net_conv1(&n, x, 2));
    return net_finish(&n);
}

static void beside_the_old_model_rounding_and_new_layers_are_told(void **state)
{
    esp_graph *old = line_net(16, false), *changed = line_net(10, true);
    esp_plan plan = plan_of(ESP_METHOD_FILTER, 0.5);
    const esp_plan_fit_options options = {.from = old};
    json_t *json = NULL;
    esp_error err = {0};
    (void)state;

    plan.round_to = 4; /* 8 of 16 stay, 8 of 10 */
    esp_plan_fit fit = fit_of(changed, &plan, &options);
    const esp_plan_misfit *rounding = misfit_of(&fit, ESP_MISFIT_ROUNDING, "Conv1");
    assert_non_null(rounding);
    assert_non_null(strstr(rounding->text, "10 filters, not 16"));
    assert_non_null(strstr(rounding->text, "keeps 8"));
    assert_null(misfit_of(&fit, ESP_MISFIT_ROUNDING, "Conv3")); /* 12 filters as before */
    assert_non_null(misfit_of(&fit, ESP_MISFIT_NEW, "Conv6"));
    expect_ok(esp_plan_fit_to_json(&fit, &json, &err), &err);
    assert_int_equal(json_array_size(json_object_get(json, "misfits")), fit.count);
    json_decref(json);
    esp_plan_fit_free(&fit);
    esp_graph_unref(old);
    esp_graph_unref(changed);
}

static void running_out_of_memory_anywhere_is_said_and_leaves_nothing(void **state)
{
    esp_graph *graph = line_net(16, true);
    esp_plan a = plan_of(ESP_METHOD_WSP, 0.5), b = plan_of(ESP_METHOD_WSP, 0.25);
    const esp_plan_fit_options options = {.from = graph};
    bool is_over = false;
    (void)state;

    add(&a, "Conv1", 0.25, 0, false);
    add(&a, "Conv9x", 0.25, 0, false);
    add(&b, "Conv*", 0.125, 3, false);
    for (int64_t k = 1; !is_over; k += 1 + k / 20) {
        esp_error err = {0};
        esp_plan_changes changes = {0};
        esp_plan_conflicts conflicts = {0};
        esp_plan_fit fit = {0};
        esp_plan merged = {0};
        size_t before = esp_memory_live();
        esp_memory_fuse(k);
        esp_status status = esp_plan_diff(&a, &b, &changes, &err);
        if (status == ESP_OK)
            status = esp_plan_merge(&a, &b, ESP_PLAN_RULES, NULL, &merged, &conflicts, &err);
        if (status == ESP_OK)
            status = esp_plan_fit_new(NULL, graph, &a, &options, &fit, &err);
        is_over = !esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        /* the nearest name is a help that may be missing */
        assert_true(is_over ? status == ESP_OK
                            : status == ESP_NO_MEMORY || (status == ESP_OK && fit.count > 0));
        esp_plan_changes_free(&changes);
        esp_plan_conflicts_free(&conflicts);
        esp_plan_fit_free(&fit);
        esp_plan_free(&merged);
        assert_int_equal(esp_memory_live(), before);
    }
    esp_plan_free(&a);
    esp_plan_free(&b);
    esp_graph_unref(graph);
}

/* ---- many rules ---- */

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

/* Names and patterns that repeat, meet and miss each other. */
static esp_plan plan_of_many(uint32_t seed, int count)
{
    static const char *const patterns[] = {"a",  "b", "ab", "a.1", "a.2", "b.1", "c",
                                           "a*", "*", "?b", "a.?", "*.1", "b*"};
    esp_plan plan = plan_of(ESP_METHOD_SG, 0.5);

    for (int i = 0; i < count; i++) {
        double ratio = next_random(&seed) % 3 ? (double)(next_random(&seed) % 4) / 10 : -1;
        int groups = next_random(&seed) % 2 ? (int)(next_random(&seed) % 3) + 2 : 0;
        add(&plan, patterns[next_random(&seed) % (sizeof patterns / sizeof patterns[0])], ratio, groups,
            next_random(&seed) % 4 == 0);
    }
    return plan;
}

static void expect_same_rules(const esp_plan *found, const esp_plan *expected)
{
    assert_int_equal(found->rule_count, expected->rule_count);
    for (int i = 0; i < found->rule_count; i++) {
        assert_string_equal(found->rules[i].pattern, expected->rules[i].pattern);
        assert_true(fabs(found->rules[i].ratio - expected->rules[i].ratio) < 1e-12);
        assert_int_equal(found->rules[i].groups, expected->rules[i].groups);
        assert_int_equal(found->rules[i].is_ignored, expected->rules[i].is_ignored);
    }
}

/* Truth: the rules of the other said one by one, and every pair of rules looked at. */
static int count_conflicts(const esp_plan *a, const esp_plan *b)
{
    int count = 0;

    for (int i = 0; i < a->rule_count; i++)
        for (int j = 0; j < b->rule_count; j++) {
            const esp_plan_rule *left = &a->rules[i], *right = &b->rules[j];
            if (!esp_glob_match(left->pattern, right->pattern) &&
                !esp_glob_match(right->pattern, left->pattern))
                continue;
            count += left->ratio >= 0 && right->ratio >= 0 && fabs(left->ratio - right->ratio) > 1e-12;
            count += left->groups && right->groups && left->groups != right->groups;
            count += left->is_ignored != right->is_ignored;
        }
    return count;
}

static void merging_many_rules_is_saying_them_one_by_one(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 200; seed++) {
        esp_plan a = plan_of_many(2 * seed, (int)(seed % 17)),
                 b = plan_of_many(2 * seed + 1, (int)(seed % 23));
        esp_plan expected, merged;
        esp_plan_conflicts conflicts;
        esp_error err = {0};
        expect_ok(esp_plan_clone(&a, &expected, &err), &err);
        for (int i = 0; i < b.rule_count; i++)
            add(&expected, b.rules[i].pattern, b.rules[i].ratio, b.rules[i].groups, b.rules[i].is_ignored);
        expect_ok(esp_plan_merge(&a, &b, ESP_PLAN_RULES, NULL, &merged, &conflicts, &err), &err);
        expect_same_rules(&merged, &expected);
        assert_int_equal(conflicts.count, count_conflicts(&a, &b));
        esp_plan_conflicts_free(&conflicts);
        esp_plan_free(&merged);
        esp_plan_free(&expected);
        esp_plan_free(&a);
        esp_plan_free(&b);
    }
}

/* A file may repeat a name; generated plans have tens of thousands of rules, which all pairs would take
 * minutes. */
static void a_plan_with_very_many_rules_is_read_compared_and_merged(void **state)
{
    enum { RULES = 60000 };
    esp_plan plans[2], merged;
    esp_plan_conflicts conflicts;
    esp_error err = {0};
    (void)state;

    for (int p = 0; p < 2; p++) {
        json_t *json = json_pack("{s:i, s:s, s:[]}", "version", 1, "method", "filter", "rules");
        json_t *rules = json_object_get(json, "rules");
        for (int i = 0; i < RULES; i++) {
            char name[32];
            snprintf(name, sizeof name, "layer%d", p * (RULES - 1) + (i + 1) % RULES);
            json_array_append_new(rules, json_pack("{s:s, s:f}", "layer", name, "ratio", p ? 0.25 : 0.5));
        }
        json_array_append_new(rules,
                              json_pack("{s:s, s:i}", "layer", p ? "layer60001" : "layer1", "groups", 4));
        expect_ok(esp_plan_from_json(json, &plans[p], &err), &err);
        json_decref(json);
        assert_int_equal(plans[p].rule_count, RULES);
        assert_int_equal(plans[p].rules[RULES - 1].groups, 4);
        assert_true(fabs(plans[p].rules[RULES - 1].ratio - (p ? 0.25 : 0.5)) < 1e-12);
    }
    expect_ok(esp_plan_merge(&plans[0], &plans[1], ESP_PLAN_RULES, NULL, &merged, &conflicts, &err), &err);
    assert_int_equal(merged.rule_count, 2 * RULES - 1);
    assert_int_equal(conflicts.count, 1);
    assert_string_equal(conflicts.items[0].where, "rule 'layer59999': ratio");
    esp_plan_conflicts_free(&conflicts);
    esp_plan_free(&merged);
    esp_plan_free(&plans[0]);
    esp_plan_free(&plans[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_plans_have_no_differences),
        cmocka_unit_test(every_field_that_differs_is_named_with_both_values),
        cmocka_unit_test(another_order_of_the_same_rules_is_a_difference),
        cmocka_unit_test(effects_are_those_of_the_two_previews),
        cmocka_unit_test(rules_of_b_go_over_those_of_a_layer_by_layer),
        cmocka_unit_test(ours_and_theirs_say_who_wins),
        cmocka_unit_test(with_a_model_conflicts_are_found_by_layer),
        cmocka_unit_test(a_plan_that_fits_stays_as_it_is),
        cmocka_unit_test(rules_of_layers_that_are_gone_are_dropped_or_moved),
        cmocka_unit_test(ratios_and_groups_a_layer_cannot_have_become_those_it_can),
        cmocka_unit_test(a_ratio_is_judged_by_slots_not_by_filters),
        cmocka_unit_test(a_wsp_ratio_is_judged_by_what_is_weak),
        cmocka_unit_test(beside_the_old_model_rounding_and_new_layers_are_told),
        cmocka_unit_test(merging_many_rules_is_saying_them_one_by_one),
        cmocka_unit_test(a_plan_with_very_many_rules_is_read_compared_and_merged),
        cmocka_unit_test(running_out_of_memory_anywhere_is_said_and_leaves_nothing),
    };
    return cmocka_run_group_tests_name("plan_diff", tests, NULL, NULL);
}
