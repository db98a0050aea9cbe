/* Coupling and surgery on random networks with every form of coupling, against a truth that the generator
 * writes down (random_dag.c). What may be cut is cut: of every value as many channels remain as the truth
 * says, and masked and cut network agree. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/onnx.h"
#include "onnx/checker.h"
#include "unit/prune/random_dag.h"
#include "unit/prune/surgery_checks.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { NETWORKS = 120, CHECKED = 6, SEEDS = 2 };
#else
enum { NETWORKS = 500, CHECKED = 30, SEEDS = 6 };
#endif

#define TOLERANCE 1e-4

/* What a failure is about. */
static const char *subject_form = "";
static uint64_t subject_seed;

#define FAIL(...)                                                                                            \
    do {                                                                                                     \
        print_error("%s seed %llu: ", subject_form, (unsigned long long)subject_seed);                       \
        fail_msg(__VA_ARGS__);                                                                               \
    } while (0)

/* ---- classes of the truth are slots of the coupling ---- */

static void expect_same_classes(const truth *known, const net_view *view)
{
    int32_t *slot_of = calloc((size_t)known->id_count, sizeof *slot_of);
    int *class_of = calloc((size_t)esp_coupling_slot_limit(view->coupling), sizeof *class_of);
    assert_non_null(slot_of);
    assert_non_null(class_of);
    for (int v = 0; v < known->value_count; v++) {
        const truth_value *value = &known->values[v];
        esp_value_slots found = net_slots(view, value->name);
        if (found.axis < 0 || found.count != value->channels)
            FAIL("'%s' has %lld channels, the coupling follows %lld", value->name, (long long)value->channels,
                 found.axis < 0 ? -1LL : (long long)found.count);
        for (int c = 0; c < (int)value->channels; c++) {
            int class = known->class_of[value->base + c];
            int32_t slot = found.slots[c];
            const char *reason = esp_coupling_pinned_by(view->coupling, slot);
            if ((slot_of[class] != 0 && slot_of[class] != slot) ||
                (class_of[slot] != 0 && class_of[slot] != class + 1))
                FAIL("'%s' channel %d: slot %d, class %d was slot %d, slot was of class %d", value->name, c,
                     (int)slot, class, (int)slot_of[class], class_of[slot] - 1);
            if ((reason != NULL) != known->is_pinned[value->base + c])
                FAIL("'%s' channel %d is %s, and %s", value->name, c,
                     known->is_pinned[value->base + c] ? "needed" : "free",
                     reason == NULL ? "not pinned" : reason);
            slot_of[class] = slot;
            class_of[slot] = class + 1;
        }
    }
    free(slot_of);
    free(class_of);
}

static void expect_same_users(const truth *known, const net_view *view)
{
    for (int i = 0; i < known->user_count; i++) {
        const truth_user *user = &known->users[i];
        int layer = net_layer(view, user->layer);
        const int32_t *slots = user->is_writer ? esp_coupling_writes(view->coupling, layer)
                                               : esp_coupling_reads(view->coupling, layer);
        if (slots == NULL)
            FAIL("'%s' %s nothing", user->layer, user->is_writer ? "writes" : "reads");
    }
}

/* ---- a plan on the classes ---- */

static int64_t count_left(const truth *known, const truth_value *value, const bool *is_cut)
{
    int64_t left = 0;
    for (int c = 0; c < (int)value->channels; c++)
        left += !is_cut[known->class_of[value->base + c]];
    return left;
}

static bool empties_a_value(const truth *known, const bool *is_cut)
{
    for (int v = 0; v < known->value_count; v++) {
        if (count_left(known, &known->values[v], is_cut) == 0)
            return true;
    }
    return false;
}

/* Classes that some layer writes, each with one chance in two, as long as something is left of every value.
 */
static int choose_classes(const truth *known, esp_rng *rng, bool *is_cut)
{
    bool *is_written = calloc((size_t)known->id_count, sizeof *is_written);
    int count = 0;
    assert_non_null(is_written);
    for (int i = 0; i < known->user_count; i++)
        is_written[known->class_of[known->users[i].id]] |= known->users[i].is_writer;
    for (int id = 0; id < known->id_count; id++) {
        if (known->class_of[id] != id || known->is_pinned[id] || !is_written[id] ||
            esp_rng_below(rng, 2) == 0)
            continue;
        is_cut[id] = true;
        if (empties_a_value(known, is_cut))
            is_cut[id] = false;
        count += is_cut[id];
    }
    free(is_written);
    return count;
}

static void mask_classes(const truth *known, const bool *is_cut, bool reads_too, esp_preview *preview)
{
    for (int i = 0; i < known->user_count; i++) {
        const truth_user *user = &known->users[i];
        if (!is_cut[known->class_of[user->id]])
            continue;
        if (user->is_writer)
            esp_mask_clear_filter(check_mask(preview, user->layer), user->index);
        else if (reads_too)
            esp_mask_clear_channel(check_mask(preview, user->layer), user->index);
    }
}

/* Of every value that is still there, what remains is what the truth says. */
static void expect_nothing_left_behind(const truth *known, const bool *is_cut, const esp_graph *before,
                                       const esp_graph *after)
{
    esp_error err = {0};
    esp_inferred *old_shapes, *new_shapes;
    expect_ok(esp_infer(before, 1, NULL, 0, &old_shapes, &err), &err);
    expect_ok(esp_infer(after, 1, NULL, 0, &new_shapes, &err), &err);
    for (int v = 0; v < known->value_count; v++) {
        const truth_value *value = &known->values[v];
        int old_value = esp_graph_find_value(before, value->name);
        int new_value = esp_graph_find_value(after, value->name);
        if (new_value < 0)
            FAIL("'%s' is gone", value->name);
        int64_t whole = esp_shape_elements(esp_inferred_shape(old_shapes, old_value));
        int64_t left = count_left(known, value, is_cut);
        int64_t elements = esp_shape_elements(esp_inferred_shape(new_shapes, new_value));
        if (elements * value->channels != whole * left)
            FAIL("'%s' keeps %lld of %lld elements, expected %lld of %lld channels", value->name,
                 (long long)elements, (long long)whole, (long long)left, (long long)value->channels);
    }
    esp_inferred_free(old_shapes);
    esp_inferred_free(new_shapes);
}

static esp_graph *cut(const esp_preview *preview, esp_group_form form, int64_t *removed)
{
    esp_error err = {0};
    esp_graph *masked = NULL, *result = NULL;
    esp_surgery_report report;
    esp_surgery_options options = esp_surgery_defaults();
    options.group_form = form;
    if (esp_surgery(NULL, preview, &options, &result, &report, &err) != ESP_OK)
        FAIL("%s", err.message);
    expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
    double difference = check_difference(masked, result, 3);
    if (!(difference <= TOLERANCE))
        FAIL("masked and cut model differ by %g", difference);
    if (removed != NULL)
        *removed = report.slots_removed;
    esp_graph_unref(masked);
    return result;
}

static void expect_same_after_reading(const esp_graph *graph)
{
    esp_error err = {0};
    void *data;
    size_t size;
    esp_graph *again;
    expect_ok(esp_onnx_serialize(graph, &data, &size, &err), &err);
    expect_ok(esp_onnx_parse(data, size, "net", &again, &err), &err);
    assert_true(check_difference(graph, again, 2) == 0);
    esp_graph_unref(again);
    esp_free(data);
}

/* Classes masked at both ends: all of them go. Returns the cut network. */
static esp_graph *cut_classes(const truth *known, const esp_graph *graph, esp_rng *rng)
{
    int64_t removed = 0;
    bool *is_cut = calloc((size_t)known->id_count, sizeof *is_cut);
    assert_non_null(is_cut);
    int count = choose_classes(known, rng, is_cut);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    mask_classes(known, is_cut, true, preview);
    esp_graph *result = cut(preview, ESP_GROUP_FORM_GROUPED, &removed);
    if (removed != count)
        FAIL("%lld slots were removed, expected %d", (long long)removed, count);
    expect_nothing_left_behind(known, is_cut, graph, result);
    esp_preview_free(preview);
    free(is_cut);
    return result;
}

/* Filters are masked, readers go on: constants stay behind. Whatever surgery makes of it, it is right. */
static void cut_writers(const truth *known, const esp_graph *graph, esp_rng *rng)
{
    bool *is_cut = calloc((size_t)known->id_count, sizeof *is_cut);
    assert_non_null(is_cut);
    choose_classes(known, rng, is_cut);
    esp_preview *preview = check_open(graph, ESP_METHOD_WSP);
    mask_classes(known, is_cut, false, preview);
    esp_graph_unref(cut(preview, ESP_GROUP_FORM_GROUPED, NULL));
    esp_preview_free(preview);
    free(is_cut);
}

/* Masks that follow no class, in the grouped form: new orders run through the network. */
static void cut_at_random(const esp_graph *graph, esp_rng *rng)
{
    bool is_shared = false;
    for (int v = 0; v < esp_graph_value_count(graph); v++)
        is_shared = is_shared || strncmp(esp_graph_value(graph, v)->name, "shared", 6) == 0;
    if (is_shared)
        return; /* two masks of one weight would contradict each other */
    esp_preview *preview = check_open(graph, ESP_METHOD_SG);
    check_mask_at_random(preview, rng);
    esp_graph_unref(cut(preview, ESP_GROUP_FORM_GROUPED, NULL));
    esp_preview_free(preview);
}

static void examine(esp_graph *take_graph, const truth *known, uint64_t seed)
{
    esp_rng rng;
    esp_rng_seed_stream(&rng, seed, 3);
    net_view view = net_look(take_graph);
    expect_same_classes(known, &view);
    expect_same_users(known, &view);
    esp_graph *result = cut_classes(known, view.graph, &rng);
    expect_same_after_reading(result);
    esp_graph_unref(result);
    if (seed % 3 == 0)
        cut_writers(known, view.graph, &rng);
    if (seed % 3 == 1)
        cut_at_random(view.graph, &rng);
    net_forget(&view);
}

static void every_form_of_coupling_is_found_and_cut(void **state)
{
    (void)state;
    for (int form = 0; form < DAG_FORM_COUNT; form++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            truth known;
            subject_form = dag_form_name((dag_form)form);
            subject_seed = seed;
            esp_graph *graph = dag_of_form((dag_form)form, seed, &known);
            examine(graph, &known, seed);
            truth_free(&known);
        }
    }
}

static void random_networks_keep_no_channel_that_can_go(void **state)
{
    (void)state;
    subject_form = "random network";
    for (uint64_t seed = 0; seed < NETWORKS; seed++) {
        truth known;
        subject_seed = seed;
        esp_graph *graph = random_dag(seed, &known);
        examine(graph, &known, seed);
        truth_free(&known);
    }
}

/* The checker that is installed may know fewer operator sets than we do: those of opset 13 are asked about.
 */
static void cut_networks_pass_the_onnx_checker(void **state)
{
    (void)state;
    esp_error err = {0};
    char *directory = scratch_make(), name[32];
    subject_form = "checked network";
    for (uint64_t seed = 0, count = 0; count < CHECKED; seed++) {
        truth known;
        esp_rng rng;
        subject_seed = seed;
        esp_graph *graph = random_dag(seed, &known);
        if (esp_graph_opset(graph) == 13) {
            esp_rng_seed_stream(&rng, seed, 3);
            esp_graph *result = cut_classes(&known, graph, &rng);
            snprintf(name, sizeof name, "%d.onnx", (int)seed);
            expect_ok(esp_onnx_save(result, scratch_path(directory, name), &err), &err);
            esp_graph_unref(result);
            count++;
        }
        esp_graph_unref(graph);
        truth_free(&known);
    }
    bool is_installed = onnx_checker_accepts(directory);
    scratch_remove(directory);
    if (!is_installed) {
        print_message("the onnx package is not installed\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_of_coupling_is_found_and_cut),
        cmocka_unit_test(random_networks_keep_no_channel_that_can_go),
        cmocka_unit_test(cut_networks_pass_the_onnx_checker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
