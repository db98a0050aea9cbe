/* Silhouettes against their definition, elbows of curves drawn by hand, and the report of a preview. */
#include "prune/grouping_quality.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "prune/selfgroup.h"
#include "unit/prune/prune_nets.h"

enum { MOST_CLUSTERS = 16 };

/* ---- silhouettes ---- */

static double distance(const float *rows, int64_t columns, int64_t a, int64_t b)
{
    double sum = 0;

    for (int64_t i = 0; i < columns; i++)
        sum += pow((double)rows[a * columns + i] - (double)rows[b * columns + i], 2);
    return sqrt(sum);
}

/* Rousseeuw's definition, pair by pair. */
static double naive_silhouette(const float *rows, int64_t count, int64_t columns, const int32_t *labels,
                               int64_t k, int64_t row)
{
    double sums[MOST_CLUSTERS] = {0}, inside, outside = INFINITY;
    int64_t members[MOST_CLUSTERS] = {0};

    for (int64_t other = 0; other < count; other++) {
        members[labels[other]]++;
        if (other != row)
            sums[labels[other]] += distance(rows, columns, row, other);
    }
    if (members[labels[row]] == 1)
        return 0;
    inside = sums[labels[row]] / (double)(members[labels[row]] - 1);
    for (int64_t g = 0; g < k; g++)
        if (g != labels[row] && members[g])
            outside = fmin(outside, sums[g] / (double)members[g]);
    return fmax(inside, outside) > 0 ? (outside - inside) / fmax(inside, outside) : 0;
}

static void check_silhouettes(const float *rows, int64_t count, int64_t columns, const int32_t *labels,
                              int64_t k, double tolerance)
{
    double values[256];
    esp_error err = {0};

    assert_true(count <= 256);
    expect_ok(esp_silhouettes(NULL, rows, count, columns, labels, k, values, &err), &err);
    for (int64_t row = 0; row < count; row++) {
        double expected = naive_silhouette(rows, count, columns, labels, k, row);
        if (!(fabs(values[row] - expected) <= tolerance))
            fail_msg("row %d: %.9g, expected %.9g", (int)row, values[row], expected);
    }
}

static void fill_rows(float *rows, int64_t count, int64_t columns, int32_t *labels, int k, double apart,
                      uint64_t seed)
{
    esp_rng rng;

    esp_rng_seed(&rng, seed);
    for (int64_t row = 0; row < count; row++) {
        labels[row] = (int32_t)(row % k);
        for (int64_t i = 0; i < columns; i++)
            rows[row * columns + i] = (float)(esp_rng_normal(&rng) + (i % k == labels[row] ? apart : 0.0));
    }
}

static void silhouettes_are_those_of_the_definition(void **state)
{
    static float rows[200 * 9];
    int32_t labels[200];
    (void)state;

    fill_rows(rows, 200, 9, labels, 5, 1.5, 1);
    check_silhouettes(rows, 200, 9, labels, 5, 1e-5);
    /* a row alone in its cluster, and a cluster without rows */
    labels[3] = 6;
    check_silhouettes(rows, 200, 9, labels, 7, 1e-5);
}

static void silhouettes_of_rows_that_almost_coincide_keep_their_digits(void **state)
{
    static float rows[60 * 4];
    int32_t labels[60];
    esp_rng rng;
    (void)state;

    /* clusters of width 1/1000 a thousand apart: products in single precision alone would lose it all */
    esp_rng_seed(&rng, 2);
    for (int row = 0; row < 60; row++) {
        labels[row] = row % 3;
        for (int i = 0; i < 4; i++)
            rows[row * 4 + i] = (float)(1000 * labels[row] + esp_rng_normal(&rng) / 1000);
    }
    check_silhouettes(rows, 60, 4, labels, 3, 1e-7);
    /* two clusters that lie on each other: all that counts are small distances */
    for (int row = 0; row < 60; row++)
        labels[row] = labels[row] ? 1 + row % 2 : 0;
    check_silhouettes(rows, 60, 4, labels, 3, 1e-4);
}

static void silhouettes_of_one_cluster_are_not_a_number_and_of_equal_rows_zero(void **state)
{
    const float rows[6] = {1, 2, 1, 2, 1, 2};
    const int32_t one[3] = {0, 0, 0}, two[3] = {0, 0, 1};
    double values[3];
    esp_error err = {0};
    (void)state;

    expect_ok(esp_silhouettes(NULL, rows, 3, 2, one, 1, values, &err), &err);
    assert_true(isnan(values[0]) && isnan(values[1]) && isnan(values[2]));
    expect_ok(esp_silhouettes(NULL, rows, 3, 2, two, 2, values, &err), &err);
    assert_true(values[0] == 0 && values[1] == 0 && values[2] == 0);
}

static void silhouettes_are_the_same_for_any_number_of_threads(void **state)
{
    static float rows[250 * 40];
    int32_t labels[250];
    double alone[250], together[250];
    esp_pool *pool = NULL;
    esp_error err = {0};
    (void)state;

    fill_rows(rows, 250, 40, labels, 7, 1, 3);
    expect_ok(esp_pool_new(3, &pool, &err), &err);
    const esp_compute compute = {.pool = pool};
    expect_ok(esp_silhouettes(NULL, rows, 250, 40, labels, 7, alone, &err), &err);
    expect_ok(esp_silhouettes(&compute, rows, 250, 40, labels, 7, together, &err), &err);
    assert_memory_equal(alone, together, sizeof alone);
    esp_pool_free(pool);
}

static void silhouettes_stop_when_cancelled_and_survive_every_failed_allocation(void **state)
{
    static float rows[150 * 3];
    int32_t labels[150];
    double values[150];
    esp_cancel cancel = {0};
    const esp_compute compute = {.cancel = &cancel};
    esp_error err = {0};
    int failures = 0;
    (void)state;

    fill_rows(rows, 150, 3, labels, 3, 2, 4);
    size_t live = esp_memory_live();
    esp_cancel_request(&cancel);
    expect_failure(esp_silhouettes(&compute, rows, 150, 3, labels, 3, values, &err), ESP_CANCELLED, &err,
                   "cancelled");
    for (int64_t k = 1; k < 1000; k++) {
        esp_memory_fuse(k);
        esp_status status = esp_silhouettes(NULL, rows, 150, 3, labels, 3, values, &err);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
        assert_int_equal(esp_memory_live(), live);
        if (!has_burnt)
            break;
        failures++;
    }
    assert_true(failures >= 10);
}

/* ---- the elbow ---- */

static void elbow_is_the_point_farthest_below_the_chord(void **state)
{
    /* k = 1..6; scaled to [0, 1] the chord is 1 - x, and at k = 3 the curve lies 1 - 2/5 - 20/90 below it */
    const double curve[] = {100, 60, 30, 25, 18, 10};
    double bend;
    (void)state;

    assert_int_equal(esp_elbow_of(curve, 6, &bend), 3);
    assert_true(fabs(bend - (1 - 2.0 / 5 - 20.0 / 90)) < 1e-12);
}

static void elbow_of_a_straight_line_is_one_group(void **state)
{
    const double line[] = {4, 3, 2, 1}, flat[] = {5, 5, 5}, zero[] = {0, 0, 0}, two[] = {9, 1}, one[] = {3};
    double bend;
    (void)state;

    assert_int_equal(esp_elbow_of(line, 4, &bend), 1);
    assert_true(bend < 1e-12);
    assert_int_equal(esp_elbow_of(flat, 3, &bend), 1);
    assert_int_equal(esp_elbow_of(zero, 3, &bend), 1);
    assert_int_equal(esp_elbow_of(two, 2, &bend), 1);
    assert_int_equal(esp_elbow_of(one, 1, &bend), 1);
    assert_true(bend == 0);
}

static void elbow_takes_a_curve_that_rises_by_bad_luck_as_the_best_so_far(void **state)
{
    /* 4 groups found nothing better than 40; 45 is bad luck and the curve is 100 40 40 40 30 from there */
    const double curve[] = {100, 40, 41, 45, 30}, last_is_worse[] = {100, 40, 35, 30, 31};
    double bend, other;
    (void)state;

    assert_int_equal(esp_elbow_of(curve, 5, &bend), 2);
    assert_true(fabs(bend - (1 - 1.0 / 4 - 10.0 / 70)) < 1e-12);
    assert_int_equal(esp_elbow_of(last_is_worse, 5, &other), 2);
    assert_true(fabs(other - bend) < 1e-12);
}

static void elbow_of_equal_bends_is_the_smaller_one(void **state)
{
    const double curve[] = {8, 4, 2, 0, 0}; /* scaled: 1, 1/2, 1/4, 0; below the chord 1/4, 1/4, 1/4 */
    double bend;
    (void)state;

    assert_int_equal(esp_elbow_of(curve, 5, &bend), 2);
    assert_true(bend == 0.25);
}

/* ---- reports ---- */

static esp_plan sg_plan(double ratio, int groups)
{
    esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_FAITHFUL, ratio);

    plan.groups = groups;
    return plan;
}

static void report_says_of_every_group_what_its_mask_says(void **state)
{
    esp_graph *graph = net_residual(5);
    esp_plan plan = sg_plan(0.5, 3);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_groups_options options = esp_groups_defaults();
    esp_groups_report report;
    esp_error err = {0};
    int grouped = 0;
    (void)state;

    expect_ok(esp_groups_report_new(NULL, preview, &options, &report, &err), &err);
    for (int l = 0; l < preview->layers.count; l++)
        grouped += preview->items[l].grouping.labels != NULL;
    assert_int_equal(report.count, grouped);
    assert_true(grouped >= 4);
    for (int i = 0; i < report.count; i++) {
        const esp_layer_groups *item = &report.items[i];
        const esp_mask *mask = &preview->items[item->layer].mask;
        int64_t in_clusters = 0, in_executed = 0, kept = 0;
        double silhouettes = 0;
        for (int64_t g = 0; g < item->k; g++) {
            in_clusters += item->clusters[g].filters;
            silhouettes += item->clusters[g].silhouette * (double)item->clusters[g].filters;
        }
        assert_true(fabs(silhouettes / (double)mask->filters - item->silhouette) < 1e-12);
        for (int64_t g = 0; g < item->executed_count; g++) {
            in_executed += item->executed[g].filters;
            kept += item->executed[g].filters * item->executed[g].channels_kept;
            assert_true(item->executed[g].density ==
                        (double)item->executed[g].channels_kept / (double)mask->channels);
        }
        assert_int_equal(in_clusters, mask->filters);
        assert_int_equal(in_executed, mask->filters);
        assert_int_equal(kept, esp_mask_kept(mask));
        assert_true(item->density == (double)kept / (double)(mask->filters * mask->channels));
        assert_int_equal(item->executed_count, preview->items[item->layer].grouping.executed_groups);
        assert_true(item->inertia <= item->spread && item->spread > 0);
        assert_true(item->silhouette > -1 && item->silhouette < 1);
        assert_int_equal(item->curve_count, 0);
    }
    esp_groups_report_free(&report);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* Weights of Conv3 of a chain whose filters are copies of three very different ones and a little noise. */
static esp_graph *planted(void)
{
    net_tensor x;
    net n = net_start(6, 4, 4, 1, &x);
    static float values[24 * 8];
    esp_rng rng;

    x = net_unary(&n, "Relu", net_conv1(&n, x, 8));
    x = net_unary(&n, "Relu", net_conv1(&n, x, 24));
    net_output(&n, net_fc(&n, net_flatten(&n, net_global(&n, x)), 3, NET_GEMM_TRANSPOSED));
    esp_graph *graph = net_finish(&n);
    esp_rng_seed(&rng, 8);
    for (int f = 0; f < 24; f++)
        for (int c = 0; c < 8; c++)
            values[f * 8 + c] = (float)((c % 3 == f % 3 ? 2 : 0.1) + 0.02 * esp_rng_uniform(&rng));
    return net_with_values(graph, net_weight_name(graph, "Conv3"), values);
}

static void suggestion_finds_the_groups_that_are_there(void **state)
{
    esp_graph *graph = planted();
    esp_plan plan = sg_plan(0.3, 5);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_groups_options options = esp_groups_defaults();
    esp_groups_report report;
    bool only[8] = {false};
    esp_plan better = {0};
    esp_error err = {0};
    (void)state;

    only[preview_layer(preview, "Conv3")] = true;
    options.only = only;
    options.suggests = true;
    options.most = 12;
    expect_ok(esp_groups_report_new(NULL, preview, &options, &report, &err), &err);
    assert_int_equal(report.count, 1);
    assert_int_equal(report.items[0].curve_count, 12);
    assert_int_equal(report.items[0].suggested, 3);
    assert_true(report.items[0].bend > 0.7);
    assert_true(fabs(report.items[0].curve[0] / report.items[0].spread - 1) < 1e-6);
    assert_true(report.items[0].silhouette > 0);

    expect_ok(esp_plan_clone(&plan, &better, &err), &err);
    expect_ok(esp_groups_suggest_rules(preview, &report, &better, &err), &err);
    assert_int_equal(esp_plan_resolve(&better, "Conv3", "", 0).groups, 3);
    assert_int_equal(esp_plan_resolve(&better, "Conv1", "", 0).groups, 5);
    esp_plan_free(&better);
    esp_groups_report_free(&report);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void report_as_json_has_what_the_report_has(void **state)
{
    esp_graph *graph = planted();
    esp_plan plan = sg_plan(0.3, 1);
    esp_preview *preview = preview_of(graph, &plan, NULL);
    esp_groups_options options = esp_groups_defaults();
    esp_groups_report report;
    json_t *json = NULL;
    esp_error err = {0};
    (void)state;

    options.suggests = true;
    expect_ok(esp_groups_report_new(NULL, preview, &options, &report, &err), &err);
    expect_ok(esp_groups_report_to_json(preview, &report, &json, &err), &err);
    const json_t *layers = json_object_get(json, "layers");
    assert_int_equal(json_array_size(layers), report.count);
    const json_t *first = json_array_get(layers, 0);
    assert_string_equal(json_string_value(json_object_get(first, "name")),
                        preview->layers.items[report.items[0].layer].name);
    assert_true(json_is_null(json_object_get(first, "silhouette"))); /* one group has none */
    assert_int_equal(json_array_size(json_object_get(first, "curve")), report.items[0].curve_count);
    assert_int_equal(json_array_size(json_object_get(first, "executed_groups")),
                     report.items[0].executed_count);
    assert_int_equal(json_integer_value(json_object_get(first, "suggested")), report.items[0].suggested);
    json_decref(json);
    esp_groups_report_free(&report);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

static void report_refuses_what_it_cannot_tell_of(void **state)
{
    esp_graph *graph = net_chain(NET_GEMM_TRANSPOSED, 3);
    esp_plan wsp = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, 0.3), sg = sg_plan(0.3, 2);
    esp_preview *by_wsp = preview_of(graph, &wsp, NULL), *by_sg = preview_of(graph, &sg, NULL);
    esp_groups_options options = esp_groups_defaults();
    esp_groups_report report;
    esp_error err = {0};
    (void)state;

    expect_failure(esp_groups_report_new(NULL, by_wsp, &options, &report, &err), ESP_INVALID, &err, "wsp");
    options.most = 0;
    expect_failure(esp_groups_report_new(NULL, by_sg, &options, &report, &err), ESP_INVALID, &err, "1 to");
    options = esp_groups_defaults();
    options.restarts = 0;
    expect_failure(esp_groups_report_new(NULL, by_sg, &options, &report, &err), ESP_INVALID, &err,
                   "restarts");
    esp_preview_free(by_wsp);
    esp_preview_free(by_sg);
    esp_graph_unref(graph);
}

/* The switch of the plan: without it a filter that nobody reads keeps its connections. */
static void cascade_can_be_switched_off(void **state)
{
    net_tensor x;
    net n = net_start(4, 4, 4, 1, &x);
    float reader[3 * 5];
    int64_t kept[2];
    (void)state;

    x = net_unary(&n, "Relu", net_conv1(&n, x, 4));
    x = net_unary(&n, "Relu", net_conv1(&n, x, 5));
    x = net_conv1(&n, x, 3);
    net_output(&n, net_flatten(&n, net_global(&n, x)));
    esp_graph *graph = net_finish(&n);
    for (int i = 0; i < 15; i++) /* nobody needs channel 2 */
        reader[i] = i % 5 == 2 ? 0.001F : 1 + 0.01F * (float)i;
    graph = net_with_values(graph, net_weight_name(graph, "Conv5"), reader);
    for (int cascades = 0; cascades < 2; cascades++) {
        esp_plan plan = esp_plan_make(ESP_METHOD_SG, ESP_MODE_SOUND, 0.15);
        esp_error err = {0};
        plan.cascades = cascades;
        plan.groups = 2;
        expect_ok(esp_plan_add_rule(&plan, "Conv3", 0, 0, false, &err), &err);
        esp_preview *preview = preview_of(graph, &plan, NULL);
        assert_false(esp_mask_channel_is_read(&preview->items[preview_layer(preview, "Conv5")].mask, 2));
        kept[cascades] = esp_mask_filter_kept(&preview->items[preview_layer(preview, "Conv3")].mask, 2);
        esp_preview_free(preview);
        esp_plan_free(&plan);
    }
    assert_int_equal(kept[0], 4);
    assert_int_equal(kept[1], 0);
    esp_graph_unref(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silhouettes_are_those_of_the_definition),
        cmocka_unit_test(silhouettes_of_rows_that_almost_coincide_keep_their_digits),
        cmocka_unit_test(silhouettes_of_one_cluster_are_not_a_number_and_of_equal_rows_zero),
        cmocka_unit_test(silhouettes_are_the_same_for_any_number_of_threads),
        cmocka_unit_test(silhouettes_stop_when_cancelled_and_survive_every_failed_allocation),
        cmocka_unit_test(elbow_is_the_point_farthest_below_the_chord),
        cmocka_unit_test(elbow_of_a_straight_line_is_one_group),
        cmocka_unit_test(elbow_takes_a_curve_that_rises_by_bad_luck_as_the_best_so_far),
        cmocka_unit_test(elbow_of_equal_bends_is_the_smaller_one),
        cmocka_unit_test(report_says_of_every_group_what_its_mask_says),
        cmocka_unit_test(suggestion_finds_the_groups_that_are_there),
        cmocka_unit_test(report_as_json_has_what_the_report_has),
        cmocka_unit_test(report_refuses_what_it_cannot_tell_of),
        cmocka_unit_test(cascade_can_be_switched_off),
    };
    return cmocka_run_group_tests_name("grouping quality", tests, NULL, NULL);
}
