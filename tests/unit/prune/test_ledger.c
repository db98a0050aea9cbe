/* The ledger: reasons add up to asked minus got, for any plan on any network, and say what they should where
 * it is known by hand. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "io/onnx.h"
#include "prune/ledger.h"
#include "unit/prune/prune_nets.h"
#include "unit/prune/random_dag.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { NETWORKS = 12 };
#else
enum { NETWORKS = 80 };
#endif

static esp_ledger ledger_of(const esp_preview *preview)
{
    esp_ledger ledger;
    esp_error err = {0};

    expect_ok(esp_ledger_new(preview, &ledger, &err), &err);
    return ledger;
}

/* Share of a layer that is gone, counted here. */
static double count_gone(const esp_mask *mask, bool counts_filters)
{
    int64_t gone = 0;

    for (int64_t f = 0; f < mask->filters; f++) {
        int64_t zeros = 0;
        for (int64_t c = 0; c < mask->channels; c++)
            zeros += !esp_mask_get(mask, f, c);
        gone += counts_filters ? zeros == mask->channels : zeros;
    }
    return (double)gone / (double)(counts_filters ? mask->filters : mask->filters * mask->channels);
}

static void expect_sums(const esp_preview *preview, const char *what)
{
    esp_ledger ledger = ledger_of(preview);

    assert_int_equal(ledger.count, preview->layers.count);
    for (int l = 0; l < ledger.count; l++) {
        const esp_ledger_layer *layer = &ledger.layers[l];
        double gone = count_gone(&preview->items[l].mask, preview->plan.method != ESP_METHOD_SG), sum = 0;
        for (int i = 0; i < layer->entry_count; i++) {
            sum += layer->entries[i].share;
            if (!layer->entries[i].text[0])
                fail_msg("%s: %s: a reason without text", what, preview->layers.items[l].name);
        }
        if (fabs(layer->got - gone) > 1e-12)
            fail_msg("%s: %s: got %g, counted %g", what, preview->layers.items[l].name, layer->got, gone);
        if (fabs(layer->asked - layer->got - sum) > 1e-9)
            fail_msg("%s: %s: asked %g, got %g, reasons for %g", what, preview->layers.items[l].name,
                     layer->asked, layer->got, sum);
    }
    esp_ledger_free(&ledger);
}

/* ---- any plan, any network ---- */

static double random_ratio(esp_rng *rng)
{
    static const double ratios[] = {0, 0.1, 0.25, 0.3, 0.5, 0.62, 0.75, 0.9, 0.97};

    return ratios[esp_rng_below(rng, sizeof ratios / sizeof *ratios)];
}

static void random_rules(esp_plan *plan, const esp_graph *graph, esp_rng *rng)
{
    esp_plan nothing = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0);
    esp_preview *preview = preview_of(graph, &nothing, NULL);
    int64_t count = (int64_t)esp_rng_below(rng, 3);
    esp_error err = {0};

    for (int64_t i = 0; i < count; i++) {
        int layer = (int)esp_rng_below(rng, (uint64_t)preview->layers.count);
        bool is_ignored = esp_rng_below(rng, 2);
        expect_ok(esp_plan_add_rule(plan, preview->layers.items[layer].name,
                                    is_ignored ? -1 : random_ratio(rng), 0, is_ignored, &err),
                  &err);
    }
    esp_preview_free(preview);
}

static esp_plan random_plan(const esp_graph *graph, esp_rng *rng)
{
    static const char *const criteria[] = {"l1", "l2", "fpgm", "random"};
    esp_plan plan = esp_plan_make((esp_method)esp_rng_below(rng, 3), (esp_mode)esp_rng_below(rng, 2), 0);

    plan.conv_ratio = random_ratio(rng);
    plan.fc_ratio = random_ratio(rng);
    plan.border_ratio = random_ratio(rng);
    plan.groups = 1 + (int)esp_rng_below(rng, 6);
    plan.restarts = 2;
    plan.cascades = esp_rng_below(rng, 2);
    snprintf(plan.criterion, sizeof plan.criterion, "%s", criteria[esp_rng_below(rng, 4)]);
    if (esp_plan_ranks_slots(&plan)) {
        plan.scope = (esp_scope)esp_rng_below(rng, 2);
        plan.floor = random_ratio(rng);
        plan.round_to = 1 << esp_rng_below(rng, 4);
    }
    random_rules(&plan, graph, rng);
    return plan;
}

static const char *tell(const esp_plan *plan, uint64_t seed)
{
    static char text[200];

    snprintf(text, sizeof text, "seed %llu: %s %s, ratios %g %g %g, %s, floor %g, round_to %d, %d rules",
             (unsigned long long)seed, esp_method_word(plan->method), esp_mode_word(plan->mode),
             plan->conv_ratio, plan->fc_ratio, plan->border_ratio, esp_scope_word(plan->scope), plan->floor,
             plan->round_to, plan->rule_count);
    return text;
}

/* A plan on the graph, then another on the model it masks. */
static void try_two_plans(const esp_graph *graph, uint64_t seed, esp_rng *rng)
{
    esp_graph *masked = NULL;
    esp_error err = {0};

    for (int step = 0; step < 2; step++) {
        const esp_graph *subject = step ? masked : graph;
        esp_plan plan = random_plan(subject, rng);
        esp_preview *preview = preview_of(subject, &plan, NULL);
        expect_sums(preview, tell(&plan, seed));
        if (!step)
            expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
        esp_preview_free(preview);
        esp_plan_free(&plan);
    }
    esp_graph_unref(masked);
}

static void reasons_add_up_on_random_networks_and_plans(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NETWORKS; seed++) {
        esp_rng rng;
        esp_rng_seed_stream(&rng, seed, 77);
        truth known;
        esp_graph *graph = random_dag(seed, &known);
        for (int i = 0; i < 4; i++)
            try_two_plans(graph, seed, &rng);
        esp_graph_unref(graph);
        truth_free(&known);
    }
}

static void reasons_add_up_on_every_form_of_coupling(void **state)
{
    (void)state;
    for (int form = 0; form < DAG_FORM_COUNT; form++) {
        esp_rng rng;
        esp_rng_seed_stream(&rng, (uint64_t)form, 78);
        truth known;
        esp_graph *graph = dag_of_form((dag_form)form, (uint64_t)form, &known);
        for (int i = 0; i < 6; i++)
            try_two_plans(graph, (uint64_t)form, &rng);
        esp_graph_unref(graph);
        truth_free(&known);
    }
}

static void reasons_add_up_on_the_sample_models(void **state)
{
    static const char *const names[] = {"lenet5", "resnet20"};
    (void)state;

    for (int i = 0; i < 2; i++) {
        char path[512];
        esp_rng rng;
        esp_rng_seed_stream(&rng, (uint64_t)i, 79);
        esp_graph *graph = NULL;
        esp_error err = {0};
        snprintf(path, sizeof path, "%s/sample_models/%s.onnx", ESP_SOURCE_DIR, names[i]);
        expect_ok(esp_onnx_load(path, &graph, &err), &err);
        for (int p = 0; p < 4; p++)
            try_two_plans(graph, (uint64_t)i, &rng);
        esp_graph_unref(graph);
    }
}

/* ---- known by hand ---- */

static double amount(const esp_ledger *ledger, const esp_preview *preview, const char *node,
                     esp_reason reason)
{
    const esp_ledger_layer *layer = &ledger->layers[preview_layer(preview, node)];
    double sum = 0;

    for (int i = 0; i < layer->entry_count; i++)
        sum += layer->entries[i].reason == reason ? layer->entries[i].amount : 0;
    return sum;
}

static const char *text_of(const esp_ledger *ledger, const esp_preview *preview, const char *node,
                           esp_reason reason)
{
    const esp_ledger_layer *layer = &ledger->layers[preview_layer(preview, node)];

    for (int i = 0; i < layer->entry_count; i++)
        if (layer->entries[i].reason == reason)
            return layer->entries[i].text;
    fail_msg("%s: no reason %s", node, esp_reason_word(reason));
    return "";
}

static void expect_amount(const esp_ledger *ledger, const esp_preview *preview, const char *node,
                          esp_reason reason, double expected)
{
    double found = amount(ledger, preview, node, reason);

    if (fabs(found - expected) > 1e-9)
        fail_msg("%s: %s %g, expected %g", node, esp_reason_word(reason), found, expected);
}

static void layers_left_whole_say_why(void **state)
{
    esp_graph *graph = net_residual(21);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_error err = {0};
    (void)state;

    expect_ok(esp_plan_add_rule(&plan, "Conv?", -1, 0, true, &err), &err); /* Conv1, Conv4, Conv7 */
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_ledger ledger = ledger_of(preview);
    int64_t stem = preview->layers.items[preview_layer(preview, "Conv1")].filters;
    int64_t classes = preview->layers.items[preview_layer(preview, "Gemm22")].filters;
    expect_amount(&ledger, preview, "Conv1", ESP_REASON_IGNORED, 0.5 * (double)stem);
    assert_non_null(strstr(text_of(&ledger, preview, "Conv1", ESP_REASON_IGNORED), "Conv?"));
    expect_amount(&ledger, preview, "Gemm22", ESP_REASON_UNCUTTABLE, 0.5 * (double)classes);
    assert_non_null(strstr(text_of(&ledger, preview, "Gemm22", ESP_REASON_UNCUTTABLE), "network output"));
    esp_ledger_free(&ledger);
    esp_preview_free(preview);

    /* faithful WSP leaves shortcuts out; SG the stem as well */
    esp_plan published = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.5);
    preview = preview_of(graph, &published, NULL);
    ledger = ledger_of(preview);
    assert_non_null(strstr(text_of(&ledger, preview, "Conv16", ESP_REASON_METHOD), "shortcut"));
    esp_ledger_free(&ledger);
    esp_preview_free(preview);
    published.method = ESP_METHOD_SG;
    preview = preview_of(graph, &published, NULL);
    ledger = ledger_of(preview);
    assert_non_null(strstr(text_of(&ledger, preview, "Conv1", ESP_REASON_METHOD), "stem"));
    esp_ledger_free(&ledger);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void partner_that_takes_no_part_is_named(void **state)
{
    esp_graph *graph = net_residual(22);
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.5);
    esp_error err = {0};
    (void)state;

    expect_ok(esp_plan_add_rule(&plan, "Conv14", -1, 0, true, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_ledger ledger = ledger_of(preview);
    const char *why = text_of(&ledger, preview, "Conv16", ESP_REASON_COUPLING);
    assert_non_null(strstr(why, "Conv14"));
    assert_non_null(strstr(why, "ignored by the plan"));
    esp_ledger_free(&ledger);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

static void rounding_floor_and_multiple_have_their_amounts(void **state)
{
    net_tensor x;
    net n = net_start(2, 6, 6, 23, &x);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.78);
    (void)state;

    x = net_unary(&n, "Relu", net_conv3(&n, x, 20));
    net_output(&n, net_conv3(&n, x, 3));
    esp_graph *graph = net_finish(&n);
    plan.floor = 0.3;
    plan.round_to = 8;
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_ledger ledger = ledger_of(preview);
    /* 15.6 asked, 15 whole ones, 14 above the floor of 6, 12 so that 8 stay */
    expect_amount(&ledger, preview, "Conv1", ESP_REASON_ROUNDING, 0.6);
    expect_amount(&ledger, preview, "Conv1", ESP_REASON_FLOOR, 1);
    expect_amount(&ledger, preview, "Conv1", ESP_REASON_ROUND_TO, 2);
    assert_true(fabs(ledger.layers[0].got - 12.0 / 20) < 1e-12);
    esp_ledger_free(&ledger);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void rule_of_a_partner_is_a_coupling(void **state)
{
    esp_graph *graph = net_residual(24);
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_error err = {0};
    (void)state;

    expect_ok(esp_plan_add_rule(&plan, "Conv16", 0.25, 0, false, &err), &err);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_ledger ledger = ledger_of(preview);
    double filters = (double)preview->layers.items[preview_layer(preview, "Conv14")].filters;
    expect_amount(&ledger, preview, "Conv14", ESP_REASON_COUPLING, 0.25 * filters);
    expect_amount(&ledger, preview, "Conv16", ESP_REASON_COUPLING, 0);
    assert_non_null(strstr(text_of(&ledger, preview, "Conv14", ESP_REASON_COUPLING), "Conv16"));
    esp_ledger_free(&ledger);
    esp_preview_free(preview);
    esp_plan_free(&plan);
    esp_graph_unref(graph);
}

/* x + (x with channels 0 and 1 exchanged): filters 0 and 1 are one slot, of three. */
static void slot_of_several_filters_is_a_coupling(void **state)
{
    static const int64_t exchanged[] = {1, 0, 2, 3};
    esp_plan plan = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.4);
    float weights[36];
    (void)state;

    for (int weak = 0; weak < 2; weak++) { /* the pair of filters is the weakest slot, or filter 3 is */
        net_tensor x;
        net n = net_start(1, 4, 4, 29, &x);
        char name[64];
        x = net_conv3(&n, x, 4);
        x = net_binary(&n, "Add", x, net_gather(&n, x, exchanged, 4));
        net_output(&n, net_conv3(&n, x, 2));
        esp_graph *graph = net_finish(&n);
        for (int i = 0; i < 36; i++)
            weights[i] = weak ? (i < 27 ? 5 : 1) : (i < 18 ? 1 : 5);
        snprintf(name, sizeof name, "%s", net_weight_name(graph, "Conv1"));
        graph = net_with_values(graph, name, weights);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        esp_ledger ledger = ledger_of(preview);
        /* 0.4 of 3 slots is one slot, 4/3 filters on average; it is 2 filters, or 1 */
        expect_amount(&ledger, preview, "Conv1", ESP_REASON_COUPLING, 4.0 / 3 - (weak ? 1 : 2));
        expect_amount(&ledger, preview, "Conv1", ESP_REASON_ROUNDING, (1.2 - 1) * 4 / 3);
        expect_sums(preview, "exchanged channels");
        esp_ledger_free(&ledger);
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

/* Norms 1 2 3 4 of the writer, 4 3 2 1 of the reader: at one half two are below each median, none below
 * both. */
static void intersection_is_what_one_norm_alone_finds_weak(void **state)
{
    net_tensor x;
    net n = net_start(1, 4, 4, 25, &x);
    float writer[36], reader[36];
    esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_FAITHFUL, 0.5);
    (void)state;

    for (int i = 0; i < 36; i++) {
        writer[i] = (float)(1 + i / 9);
        reader[i] = (float)(4 - i / 9);
    }
    x = net_unary(&n, "Relu", net_conv3(&n, x, 4));
    net_output(&n, net_conv3(&n, x, 1));
    esp_graph *graph = net_finish(&n);
    char name[64];
    snprintf(name, sizeof name, "%s", net_weight_name(graph, "Conv1"));
    graph = net_with_values(graph, name, writer);
    snprintf(name, sizeof name, "%s", net_weight_name(graph, "Conv3"));
    graph = net_with_values(graph, name, reader);
    for (int mode = 0; mode < 2; mode++) {
        plan.mode = mode ? ESP_MODE_SOUND : ESP_MODE_FAITHFUL;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        esp_ledger ledger = ledger_of(preview);
        expect_amount(&ledger, preview, "Conv1", ESP_REASON_INTERSECTION, 2);
        assert_int_equal(ledger.layers[0].entry_count, 1);
        esp_ledger_free(&ledger);
        esp_preview_free(preview);
    }
    /* all equal: nothing is below a threshold that everybody ties at */
    for (int i = 0; i < 36; i++)
        reader[i] = 1;
    graph = net_with_values(graph, name, reader);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_ledger ledger = ledger_of(preview);
    expect_amount(&ledger, preview, "Conv1", ESP_REASON_TIES, 2);
    esp_ledger_free(&ledger);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void cascade_of_groups_is_told_apart(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        esp_graph *graph = net_chain(NET_GEMM_PLAIN, seed);
        esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.6);
        plan.groups = 2;
        esp_preview *with = preview_of(graph, &plan, NULL);
        plan.cascades = false;
        esp_preview *without = preview_of(graph, &plan, NULL);
        esp_ledger ledger = ledger_of(with);
        for (int l = 0; l < with->layers.count; l++) {
            int64_t more = esp_mask_kept(&without->items[l].mask) - esp_mask_kept(&with->items[l].mask);
            expect_amount(&ledger, with, with->layers.items[l].name, ESP_REASON_CASCADE, -(double)more);
        }
        esp_ledger_free(&ledger);
        esp_preview_free(with);
        esp_preview_free(without);
        esp_graph_unref(graph);
    }
}

static void masks_the_model_came_with_are_told_apart(void **state)
{
    esp_graph *graph = net_residual(26), *masked;
    esp_plan half = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0.5);
    esp_plan nothing = esp_plan_make(ESP_METHOD_FILTER, ESP_MODE_SOUND, 0);
    esp_error err = {0};
    (void)state;

    esp_preview *preview = preview_of(graph, &half, NULL);
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    esp_preview_free(preview);
    for (int m = 0; m < 3; m++) {
        nothing.method = (esp_method)m;
        preview = preview_of(masked, &nothing, NULL);
        esp_ledger ledger = ledger_of(preview);
        int l = preview_layer(preview, "Conv4");
        expect_amount(&ledger, preview, "Conv4", ESP_REASON_CARRIED,
                      -ledger.layers[l].got * (double)ledger.layers[l].units);
        assert_true(ledger.layers[l].got > 0);
        esp_ledger_free(&ledger);
        esp_preview_free(preview);
    }
    esp_graph_unref(masked);
    esp_graph_unref(graph);
}

static void ledger_survives_every_failed_allocation(void **state)
{
    static const esp_method methods[] = {ESP_METHOD_WSP, ESP_METHOD_SG, ESP_METHOD_FILTER};
    (void)state;

    for (int m = 0; m < 3; m++) {
        esp_graph *graph = net_residual(27);
        esp_plan plan = esp_plan_make(methods[m], ESP_MODE_SOUND, 0.55);
        plan.groups = 2;
        esp_preview *preview = preview_of(graph, &plan, NULL);
        size_t live = esp_memory_live();
        bool has_burnt = true;
        for (int64_t k = 1; has_burnt; k++) {
            esp_ledger ledger;
            esp_error err = {0};
            esp_memory_fuse(k);
            esp_status status = esp_ledger_new(preview, &ledger, &err);
            has_burnt = esp_memory_fuse_burnt();
            esp_memory_fuse(0);
            assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
            esp_ledger_free(&ledger);
            assert_int_equal(esp_memory_live(), live);
        }
        esp_preview_free(preview);
        esp_graph_unref(graph);
    }
}

static void summary_is_cut_to_its_buffer(void **state)
{
    esp_ledger_entry entries[] = {{ESP_REASON_INTERSECTION, 3, 0.3, "x"},
                                  {ESP_REASON_ROUNDING, -0.5, -0.05, "y"}};
    esp_ledger_layer layer = {.entry_count = 2, .entries = entries};
    char text[64], tiny[8];
    (void)state;

    assert_string_equal(esp_ledger_summary(&layer, text, sizeof text), "intersection 3, rounding -0.5");
    assert_string_equal(esp_ledger_summary(&layer, tiny, sizeof tiny), "interse");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasons_add_up_on_random_networks_and_plans),
        cmocka_unit_test(reasons_add_up_on_every_form_of_coupling),
        cmocka_unit_test(reasons_add_up_on_the_sample_models),
        cmocka_unit_test(layers_left_whole_say_why),
        cmocka_unit_test(partner_that_takes_no_part_is_named),
        cmocka_unit_test(rounding_floor_and_multiple_have_their_amounts),
        cmocka_unit_test(rule_of_a_partner_is_a_coupling),
        cmocka_unit_test(slot_of_several_filters_is_a_coupling),
        cmocka_unit_test(intersection_is_what_one_norm_alone_finds_weak),
        cmocka_unit_test(cascade_of_groups_is_told_apart),
        cmocka_unit_test(masks_the_model_came_with_are_told_apart),
        cmocka_unit_test(ledger_survives_every_failed_allocation),
        cmocka_unit_test(summary_is_cut_to_its_buffer),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
