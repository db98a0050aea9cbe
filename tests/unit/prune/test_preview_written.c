/* What a preview announces is what surgery writes, to the last parameter: announced, reported by surgery, and
 * counted in the file as it is read again. On random networks with every form of coupling, under plans of all
 * methods and under masks no method would make, and on real models. */
#include <string.h>

#include "base/memory.h"
#include "io/onnx.h"
#include "prune/counts.h"
#include "prune/preview_internal.h"
#include "unit/prune/random_dag.h"
#include "unit/prune/surgery_checks.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { NETWORKS = 40, SEEDS = 1 };
#else
enum { NETWORKS = 200, SEEDS = 3 };
#endif

/* What a failure is about. */
static char subject[128] = "";

static void expect_same(const char *what, const esp_counts *announced, const esp_counts *found)
{
    if (announced->params != found->params || announced->macs != found->macs)
        fail_msg("%s: %s has %lld parameters and %lld MACs, announced were %lld and %lld", subject, what,
                 (long long)found->params, (long long)found->macs, (long long)announced->params,
                 (long long)announced->macs);
}

static esp_graph *read_again(const esp_graph *graph)
{
    esp_error err = {0};
    void *data;
    size_t size;
    esp_graph *again;
    expect_ok(esp_onnx_serialize(graph, &data, &size, &err), &err);
    expect_ok(esp_onnx_parse(data, size, "net", &again, &err), &err);
    esp_free(data);
    return again;
}

/* Counts of a model as it stands, and without the zeros under its masks. */
static void count(const esp_graph *graph, esp_counts *live, esp_counts *stored)
{
    esp_error err = {0};
    esp_inferred *inferred;
    expect_ok(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    expect_ok(esp_model_count(graph, inferred, live, &err), &err);
    expect_ok(esp_graph_count(graph, inferred, stored, &err), &err);
    esp_inferred_free(inferred);
}

static esp_surgery_report expect_written(const esp_preview *preview, const esp_counts *live,
                                         const esp_counts *stored, esp_group_form form)
{
    esp_error err = {0};
    esp_graph *cut = NULL, *masked = NULL;
    esp_surgery_report report;
    esp_surgery_options options = esp_surgery_defaults();
    esp_counts found_live, found_stored;
    options.group_form = form;
    if (esp_surgery(NULL, preview, &options, &cut, &report, &err) != ESP_OK)
        fail_msg("%s: %s", subject, err.message);
    expect_same("what surgery reports", live, &report.counts);
    if (stored != NULL)
        expect_same("what surgery reports as stored", stored, &report.stored);
    esp_graph *again = read_again(cut);
    count(again, &found_live, &found_stored);
    expect_same("the file", live, &found_live);
    if (stored != NULL)
        expect_same("the file with its zeros", stored, &found_stored);
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    if (esp_graph_metadata(masked, ESP_MASKS_KEY) != NULL) {
        count(masked, &found_live, &found_stored);
        expect_same("the masked model", live, &found_live);
    }
    esp_graph_unref(masked);
    esp_graph_unref(again);
    esp_graph_unref(cut);
    return report;
}

/* ---- plans ---- */

typedef struct plan_kind {
    esp_method method;
    esp_mode mode;
} plan_kind;
static const plan_kind plan_kinds[] = {{ESP_METHOD_WSP, ESP_MODE_FAITHFUL},
                                       {ESP_METHOD_WSP, ESP_MODE_SOUND},
                                       {ESP_METHOD_SG, ESP_MODE_FAITHFUL},
                                       {ESP_METHOD_SG, ESP_MODE_SOUND},
                                       {ESP_METHOD_FILTER, ESP_MODE_SOUND}};
enum { PLAN_KINDS = sizeof plan_kinds / sizeof *plan_kinds };

static void expect_plan_written(const esp_graph *graph, const char *name, plan_kind kind, double ratio,
                                int groups, bool is_dense_too)
{
    esp_error err = {0};
    esp_preview *preview;
    esp_plan plan = esp_plan_make(kind.method, kind.mode, ratio);
    plan.groups = groups;
    snprintf(subject, sizeof subject, "%s, %s %s %.2f", name, esp_method_word(kind.method),
             esp_mode_word(kind.mode), ratio);
    expect_ok(esp_preview_new(NULL, graph, &plan, NULL, 0, NULL, &preview, &err), &err);
    expect_written(preview, &preview->after, &preview->stored, ESP_GROUP_FORM_GROUPED);
    if (is_dense_too && kind.method == ESP_METHOD_SG)
        expect_written(preview, &preview->after, NULL, ESP_GROUP_FORM_DENSE);
    int64_t live = 0, stored = 0;
    for (int l = 0; l < preview->layers.count; l++) {
        live += preview->items[l].macs_after;
        stored += preview->items[l].params_stored;
        assert_true(preview->items[l].params_after <= preview->items[l].params_stored);
    }
    assert_true(live <= preview->after.macs && stored > 0);
    esp_preview_free(preview);
}

static void plans_on_random_networks_announce_what_is_written(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NETWORKS; seed++) {
        truth known;
        char name[32];
        esp_graph *graph = seed % 2 == 0 ? random_dag(seed, &known) : net_random_classifier(seed);
        snprintf(name, sizeof name, "network %d", (int)seed);
        for (int k = 0; k < PLAN_KINDS; k++)
            expect_plan_written(graph, name, plan_kinds[k], 0.2 + 0.1 * (double)((seed + (uint64_t)k) % 7), 3,
                                false);
        if (seed % 2 == 0)
            truth_free(&known);
        esp_graph_unref(graph);
    }
}

static void plans_on_every_form_of_coupling_announce_what_is_written(void **state)
{
    (void)state;
    for (int form = 0; form < DAG_FORM_COUNT; form++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            truth known;
            esp_graph *graph = dag_of_form((dag_form)form, seed, &known);
            for (int k = 0; k < PLAN_KINDS; k++)
                expect_plan_written(graph, dag_form_name((dag_form)form), plan_kinds[k], 0.6, 3, true);
            truth_free(&known);
            esp_graph_unref(graph);
        }
    }
}

/* ---- masks of no method ---- */

static void expect_masks_written(const esp_preview *preview)
{
    esp_error err = {0};
    surgery_forecast forecast;
    esp_mask *masks = esp_alloc_zero((size_t)preview->layers.count, sizeof *masks);
    for (int l = 0; l < preview->layers.count; l++)
        masks[l] = preview->items[l].mask;
    expect_ok(surgery_forecast_new(NULL, preview->subject, masks, preview->plan.method == ESP_METHOD_SG,
                                   &forecast, &err),
              &err);
    expect_written(preview, &forecast.live, &forecast.stored, ESP_GROUP_FORM_GROUPED);
    surgery_forecast_free(&forecast);
    esp_free(masks);
}

/* Writers lose filters, readers go on: constants stay behind everywhere, and are read by what is masked next.
 */
static void mask_writers(esp_preview *preview, esp_rng *rng)
{
    const esp_coupling *coupling = preview->subject->coupling;
    for (int32_t slot = 1; slot < esp_coupling_slot_limit(coupling); slot++) {
        if (esp_coupling_pinned_by(coupling, slot) != NULL || esp_rng_below(rng, 3) != 0)
            continue;
        for (int l = 0; l < preview->layers.count; l++) {
            const int32_t *writes = esp_coupling_writes(coupling, l);
            for (int64_t f = 0; writes != NULL && f < preview->layers.items[l].filters; f++) {
                if (writes[f] == slot && !esp_coupling_layer_follows(coupling, l))
                    esp_mask_clear_filter(&preview->items[l].mask, f);
            }
        }
    }
}

static bool shares_weights(const esp_graph *graph)
{
    for (int v = 0; v < esp_graph_value_count(graph); v++) {
        if (strncmp(esp_graph_value(graph, v)->name, "shared", 6) == 0)
            return true;
    }
    return false;
}

static void any_masks_come_to_what_is_written(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < NETWORKS; seed++) {
        truth known;
        esp_rng rng;
        esp_graph *graph = seed % 2 == 0 ? random_dag(seed, &known) : net_random_classifier(seed);
        esp_rng_seed_stream(&rng, seed, 5);
        for (int kind = 0; kind < 3; kind++) {
            if (kind > 0 && shares_weights(graph))
                continue; /* two masks of one weight would contradict each other */
            esp_preview *preview = check_open(graph, kind == 2 ? ESP_METHOD_SG : ESP_METHOD_WSP);
            snprintf(subject, sizeof subject, "network %d, masks %d", (int)seed, kind);
            if (kind != 1)
                mask_writers(preview, &rng);
            if (kind != 0)
                check_mask_at_random(preview, &rng);
            expect_masks_written(preview);
            esp_preview_free(preview);
        }
        if (seed % 2 == 0)
            truth_free(&known);
        esp_graph_unref(graph);
    }
}

/* Filters f of a layer keep the channels c with c % 3 == f % 3. */
static void mask_by_thirds(esp_preview *preview, const char *name)
{
    esp_mask *mask = check_mask(preview, name);
    for (int64_t f = 0; f < mask->filters; f++) {
        for (int64_t c = 0; c < mask->channels; c++) {
            if (c % 3 != f % 3)
                esp_mask_clear(mask, f, c);
        }
    }
}

/* What a layer that does not see the input makes is a constant in the order of the groups it is added to: the
 * layer itself is not written. */
static void an_order_that_makes_a_layer_a_constant_is_announced(void **state)
{
    (void)state;
    esp_error err = {0};
    net_tensor x;
    net n = net_start(3, 2, 2, 37, &x);
    net_tensor blind = net_fc(&n, net_ones(&n, x, 5), 6, NET_GEMM_PLAIN); /* Gemm5 */
    net_tensor seen = net_fc(&n, net_flatten(&n, x), 6, NET_GEMM_PLAIN);  /* Gemm7 */
    net_output(&n, net_fc(&n, net_binary(&n, "Add", seen, blind), 3, NET_GEMM_PLAIN));
    esp_graph *graph = net_finish(&n), *cut;
    esp_preview *preview = check_open(graph, ESP_METHOD_SG);
    esp_surgery_options options = esp_surgery_defaults();
    esp_surgery_report report;
    surgery_forecast forecast;
    esp_mask *masks = esp_alloc_zero((size_t)preview->layers.count, sizeof *masks);
    mask_by_thirds(preview, "Gemm5");
    mask_by_thirds(preview, "Gemm7");
    for (int l = 0; l < preview->layers.count; l++)
        masks[l] = preview->items[l].mask;
    expect_ok(surgery_forecast_new(NULL, preview->subject, masks, true, &forecast, &err), &err);
    expect_ok(esp_surgery(NULL, preview, &options, &cut, &report, &err), &err);
    assert_true(esp_graph_find_node(cut, "Gemm5") < 0);
    snprintf(subject, sizeof subject, "a blind layer");
    expect_same("what surgery reports", &forecast.live, &report.counts);
    surgery_forecast_free(&forecast);
    esp_free(masks);
    esp_graph_unref(cut);
    esp_preview_free(preview);
    esp_graph_unref(graph);
}

/* ---- real models ---- */

static void expect_model_written(const char *path)
{
    esp_error err = {0};
    esp_graph *graph = NULL;
    expect_ok(esp_onnx_load(path, &graph, &err), &err);
    for (int k = 0; k < PLAN_KINDS; k++)
        expect_plan_written(graph, strrchr(path, '/') + 1, plan_kinds[k], 0.5, 8, false);
    esp_graph_unref(graph);
}

static void sample_models_announce_what_is_written(void **state)
{
    (void)state;
    expect_model_written(ESP_SOURCE_DIR "/sample_models/lenet5.onnx");
    expect_model_written(ESP_SOURCE_DIR "/sample_models/resnet20.onnx");
}

static void exported_models_announce_what_is_written(void **state)
{
    static const char *const names[] = {"resnet20_cifar10_folded", "resnet20_cifar10_slicepad",
                                        "resnet56_cifar10", "squeezenet1.0_imagenet", "mobilenetv2_imagenet"};
    const char *shared = shared_directory();
    char path[1024];
    (void)state;
    if (shared == NULL)
        skip();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/models/%s.onnx", shared, names[i]);
        expect_model_written(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_on_random_networks_announce_what_is_written),
        cmocka_unit_test(plans_on_every_form_of_coupling_announce_what_is_written),
        cmocka_unit_test(any_masks_come_to_what_is_written),
        cmocka_unit_test(an_order_that_makes_a_layer_a_constant_is_announced),
        cmocka_unit_test(sample_models_announce_what_is_written),
        cmocka_unit_test(exported_models_announce_what_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
