/* Explanations: what they say of a filter is what the preview does with it, and the ratio they name as its
 * limit is where the filter's fate changes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "prune/explain.h"
#include "unit/prune/prune_nets.h"
#include "unit/prune/random_dag.h"

static json_t *explain(const esp_preview *preview, int layer, int64_t channel)
{
    json_t *told;
    esp_error err = {0};

    expect_ok(esp_preview_explain(preview, layer, channel, &told, &err), &err);
    return told;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

static bool is_live(const esp_preview *preview, int layer, int64_t channel)
{
    return esp_mask_filter_is_live(&preview->items[layer].mask, channel);
}

/* ---- decisions ---- */

/* States of a grouped filter's channels against the masks of the preview and of its model. */
static void expect_states(const esp_preview *preview, int layer, int64_t filter, const json_t *told)
{
    const json_t *channel;
    size_t index;
    esp_mask carried;
    esp_error err = {0};

    expect_ok(esp_mask_of_layer(preview->graph, &preview->layers.items[layer], &carried, &err), &err);
    json_array_foreach(json_object_get(told, "channels"), index, channel)
    {
        const char *state = text_of(channel, "state");
        bool is_kept = esp_mask_get(&preview->items[layer].mask, filter, (int64_t)index);
        bool was_kept = esp_mask_get(&carried, filter, (int64_t)index);
        if ((strcmp(state, "kept") == 0) != is_kept || (strcmp(state, "carried") == 0) != !was_kept)
            fail_msg("%s filter %lld channel %zu: told '%s'", preview->layers.items[layer].name,
                     (long long)filter, index, state);
    }
    esp_mask_free(&carried);
}

static void expect_told_as_done(const esp_preview *preview)
{
    for (int l = 0; l < preview->layers.count; l++)
        for (int64_t f = 0; f < preview->layers.items[l].filters; f++) {
            json_t *told = explain(preview, l, f);
            const char *decision = text_of(told, "decision");
            bool stays = is_live(preview, l, f);
            bool is_gone = strcmp(decision, "goes") == 0 || strcmp(decision, "carried") == 0 ||
                           strcmp(decision, "cascade") == 0;
            assert_int_equal(json_is_true(json_object_get(told, "stays")), stays);
            if (stays == is_gone || !text_of(told, "why")[0])
                fail_msg("%s %s filter %lld %s, told: %s (%s)", esp_method_word(preview->plan.method),
                         preview->layers.items[l].name, (long long)f, stays ? "stays" : "goes", decision,
                         text_of(told, "why"));
            expect_states(preview, l, f, told);
            json_decref(told);
        }
}

static void explanations_agree_with_the_preview(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        truth known;
        esp_graph *graph = random_dag(seed, &known), *masked = NULL;
        esp_plan plan = esp_plan_make((esp_method)(seed % 3), (esp_mode)(seed / 3 % 2), 0.6);
        esp_error err = {0};
        plan.groups = 3;
        if (esp_plan_ranks_slots(&plan)) {
            plan.scope = (esp_scope)(seed / 6 % 2);
            plan.round_to = 4;
            plan.floor = 0.5;
        }
        esp_preview *preview = preview_of(graph, &plan, NULL);
        expect_told_as_done(preview);
        expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
        esp_preview_free(preview);
        preview = preview_of(masked, &plan, NULL);
        expect_told_as_done(preview);
        esp_preview_free(preview);
        plan = esp_plan_make((esp_method)((seed + 1) % 3), ESP_MODE_SOUND, 0.7);
        preview = preview_of(masked, &plan, NULL);
        expect_told_as_done(preview);
        esp_preview_free(preview);
        esp_graph_unref(masked);
        esp_graph_unref(graph);
        truth_free(&known);
    }
}

/* ---- the limit ---- */

/* Whether the filter is live under a plan with this ratio everywhere. */
static bool lives_at(const esp_graph *graph, esp_plan plan, double ratio, int layer, int64_t channel)
{
    plan.conv_ratio = plan.fc_ratio = plan.border_ratio = ratio;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    bool lives = is_live(preview, layer, channel);

    esp_preview_free(preview);
    return lives;
}

/* The sentence holds with the number as it is printed, not only with the one that was rounded. */
static void expect_sentence(const esp_graph *graph, const esp_plan *plan, const char *change, int layer,
                            int64_t channel)
{
    static const struct {
        const char *format;
        double beside; /* where the sentence speaks of: the number itself, or just past it */
        bool lives;
    } forms[] = {{"stays at ratios up to %lf", 0, true},
                 {"goes at ratios above %lf", 1e-6, false},
                 {"stays at ratios below %lf", -1e-6, true},
                 {"goes at ratios of %lf", 0, false}};
    double number;
    int found = 0;

    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (sscanf(change, forms[i].format, &number) != 1)
            continue;
        found++;
        if (number < 0.9999 &&
            lives_at(graph, *plan, fmax(number + forms[i].beside, 0), layer, channel) != forms[i].lives)
            fail_msg("layer %d filter %lld: '%s' is not so", layer, (long long)channel, change);
    }
    assert_int_equal(found, 1);
}

static void expect_limits(esp_graph *graph, esp_plan plan)
{
    plan.floor = 0;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    int found = 0;

    for (int l = 0; l < preview->layers.count; l++)
        for (int64_t f = 0; f < preview->layers.items[l].filters; f++) {
            json_t *told = explain(preview, l, f);
            const json_t *limit = json_object_get(told, "ratio_limit");
            double at = json_number_value(limit);
            if (limit && at < 0.999) {
                found++;
                expect_sentence(graph, &plan, text_of(told, "change"), l, f);
                if (!lives_at(graph, plan, fmax(at - 1e-6, 0), l, f) ||
                    lives_at(graph, plan, at + 1e-6, l, f))
                    fail_msg("%s %s filter %lld: the limit is not %g", esp_method_word(plan.method),
                             preview->layers.items[l].name, (long long)f, at);
            }
            json_decref(told);
        }
    assert_true(found >= 5);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void fate_changes_at_the_ratio_that_is_told(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        expect_limits(net_residual(seed), esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5));
        expect_limits(net_residual(seed), esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5));
        expect_limits(net_chain(NET_GEMM_PLAIN, seed), esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.5));
    }
}

/* A set with a ratio of its own stays out of the ranking over all layers: its limit is that of its ratio. */
static void a_ratio_of_its_own_is_told_under_a_global_ranking_too(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        esp_graph *graph = net_residual(1);
        esp_plan plan = esp_plan_make(m ? ESP_METHOD_FILTER : ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
        esp_error err = {0};
        int limits = 0, global = 0;
        plan.scope = ESP_SCOPE_GLOBAL;
        plan.floor = 0;
        expect_ok(esp_plan_add_rule(&plan, "Conv14", 0.4, 0, false, &err), &err);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        for (int l = 0; l < preview->layers.count; l++) {
            bool is_own = l == preview_layer(preview, "Conv14");
            json_t *told = explain(preview, l, 0);
            bool has_limit = json_object_get(told, "ratio_limit") != NULL;
            bool is_global = strstr(text_of(told, "change"), "ranking over all layers") != NULL;
            limits += is_own && !is_global && strstr(text_of(told, "change"), "ratio");
            global += is_global && !has_limit;
            json_decref(told);
        }
        assert_int_equal(limits, 1);
        assert_true(global > 0);
        esp_preview_free(preview);
        esp_plan_free(&plan);
        esp_graph_unref(graph);
    }
}

/* ---- what is told ---- */

static const json_t *partner(const json_t *told, const char *layer, const char *role)
{
    const json_t *item;
    size_t index;

    json_array_foreach(json_object_get(told, "partners"), index,
                       item) if (strcmp(text_of(item, "layer"), layer) == 0 &&
                                 strcmp(text_of(item, "role"), role) == 0) return item;
    return NULL;
}

static void partners_and_the_node_that_ties_them_are_named(void **state)
{
    esp_graph *graph = net_residual(2);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    json_t *told = explain(preview, preview_layer(preview, "Conv14"), 3);
    const json_t *ties = json_object_get(told, "tied_by"), *shortcut = partner(told, "Conv16", "writes");
    (void)state;

    assert_non_null(shortcut);
    assert_int_equal(json_array_size(json_object_get(shortcut, "channels")), 1);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(shortcut, "channels"), 0)), 3);
    assert_non_null(partner(told, "Gemm22", "reads"));
    assert_null(partner(told, "Conv1", "writes"));
    assert_int_equal(json_array_size(ties), 1);
    assert_non_null(strstr(json_string_value(json_array_get(ties, 0)), "(Add)"));
    assert_int_equal(json_array_size(json_object_get(told, "writers")), 2);
    json_decref(told);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Rank and percentile counted here. */
static void scores_have_rank_and_threshold_of_both_norms(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_PLAIN, 4);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    const esp_wsp_pair *pair = &preview->wsp.pairs[2];
    (void)state;

    assert_int_equal(pair->writer, preview_layer(preview, "Gemm7"));
    for (int64_t c = 0; c < pair->channels; c++) {
        json_t *told = explain(preview, pair->writer, c);
        const json_t *scores = json_object_get(told, "scores"), *own = json_array_get(scores, 0);
        int lower = 0;
        for (int64_t i = 0; i < pair->channels; i++)
            lower += pair->filter_l1[i] < pair->filter_l1[c];
        assert_int_equal(json_array_size(scores), 2);
        assert_string_equal(text_of(own, "name"), "filter_l1");
        assert_string_equal(text_of(json_array_get(scores, 1), "name"), "channel_l1");
        assert_int_equal(json_integer_value(json_object_get(own, "rank")), lower);
        assert_true(json_real_value(json_object_get(own, "value")) == pair->filter_l1[c]);
        assert_true(json_real_value(json_object_get(own, "threshold")) == pair->filter_threshold);
        assert_true(fabs(json_real_value(json_object_get(own, "percentile")) - 100.0 * lower / 5) < 1e-9);
        json_decref(told);
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void groups_tell_members_and_every_channel(void **state)
{
    esp_graph *graph = net_residual(6);
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, 0.5);
    (void)state;

    plan.groups = 3;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    int l = preview_layer(preview, "Conv14");
    const esp_preview_layer *item = &preview->items[l];
    for (int64_t f = 0; f < item->mask.filters; f++) {
        json_t *told = explain(preview, l, f);
        const json_t *channels = json_object_get(told, "channels"), *channel;
        size_t index;
        assert_int_equal(json_integer_value(json_object_get(told, "group")), item->grouping.labels[f]);
        json_array_foreach(json_object_get(told, "members"), index, channel)
            assert_int_equal(item->grouping.labels[json_integer_value(channel)], item->grouping.labels[f]);
        assert_int_equal(json_array_size(channels), item->mask.channels);
        json_array_foreach(channels, index, channel)
        {
            double centroid = json_real_value(json_object_get(channel, "centroid"));
            bool is_kept = strcmp(text_of(channel, "state"), "kept") == 0;
            assert_int_equal(is_kept, esp_mask_get(&item->mask, f, (int64_t)index));
            assert_int_equal(is_kept, centroid > item->grouping.threshold);
        }
        json_decref(told);
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void text_says_the_decision_and_the_reason(void **state)
{
    esp_graph *graph = net_residual(7);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    json_t *told = explain(preview, preview_layer(preview, "Gemm22"), 1);
    esp_text text = {0};
    esp_error err = {0};
    (void)state;

    expect_ok(esp_explain_print(told, &text, &err), &err);
    assert_non_null(strstr(text.data, "Gemm22, filter 1 of 5: stays"));
    assert_non_null(strstr(text.data, "network output"));
    esp_text_free(&text);
    json_decref(told);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void unknown_layers_and_channels_are_refused(void **state)
{
    esp_graph *graph = net_residual(8);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    static const int64_t channels[] = {-1, 6, 0};
    static const int layers[] = {0, 0, 99};
    (void)state;

    for (int i = 0; i < 3; i++) {
        json_t *told;
        esp_error err = {0};
        assert_int_equal(esp_preview_explain(preview, layers[i], channels[i], &told, &err), ESP_INVALID);
        assert_null(told);
        assert_non_null(strstr(err.message, "expected 0 to"));
    }
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void explanation_survives_every_failed_allocation(void **state)
{
    static const esp_method methods[] = {ESP_METHOD_WSP, ESP_METHOD_SG, ESP_METHOD_FILTER};
    (void)state;

    for (int m = 0; m < 3; m++) {
        esp_graph *graph = net_residual(9);
        esp_plan plan = esp_plan_make(methods[m], ESP_MODE_SOUND, 0.5);
        plan.groups = 2;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        size_t live = esp_memory_live();
        bool has_burnt = true;
        for (int64_t k = 1; has_burnt; k++) {
            json_t *told;
            esp_text text = {0};
            esp_error err = {0};
            esp_memory_fuse(k);
            esp_status status =
                esp_preview_explain(preview, preview_layer(preview, "Conv14"), 2, &told, &err);
            if (status == ESP_OK)
                status = esp_explain_print(told, &text, &err);
            has_burnt = esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            assert_int_equal(status == ESP_OK, !has_burnt);
            json_decref(told);
            esp_text_free(&text);
            assert_int_equal(esp_memory_live(), live);
        }
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* Names are cut to fit a sentence, inside a letter if need be. */
static void notes_cut_inside_a_letter_are_told(void **state)
{
    esp_graph *graph = net_residual(10);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    json_t *json;
    esp_error err = {0};
    (void)state;

    snprintf(preview->items[0].note, sizeof preview->items[0].note, "coupled with '%.4s'", "caf\u00e9");
    expect_ok(esp_preview_to_json(preview, false, &json, &err), &err);
    assert_string_equal(text_of(json_array_get(json_object_get(json, "layers"), 0), "note"),
                        "coupled with 'caf?'");
    json_decref(json);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(explanations_agree_with_the_preview),
        cmocka_unit_test(fate_changes_at_the_ratio_that_is_told),
        cmocka_unit_test(a_ratio_of_its_own_is_told_under_a_global_ranking_too),
        cmocka_unit_test(partners_and_the_node_that_ties_them_are_named),
        cmocka_unit_test(scores_have_rank_and_threshold_of_both_norms),
        cmocka_unit_test(groups_tell_members_and_every_channel),
        cmocka_unit_test(text_says_the_decision_and_the_reason),
        cmocka_unit_test(unknown_layers_and_channels_are_refused),
        cmocka_unit_test(explanation_survives_every_failed_allocation),
        cmocka_unit_test(notes_cut_inside_a_letter_are_told),
    };
    return cmocka_run_group_tests_name("explain", tests, NULL, NULL);
}
