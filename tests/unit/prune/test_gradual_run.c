/* Runs by a pruning schedule on a small residual network: masks, training, learning rates, the state file. */
#include "prune/gradual.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "unit/prune/prune_nets.h"

/* ---- a run with everything that was seen of it ---- */

enum { MOST_EVENTS = 64 };

typedef struct seen {
    int count;
    esp_gradual_event events[MOST_EVENTS];
    esp_gradual_record records[MOST_EVENTS];
    esp_graph *graphs[MOST_EVENTS];
    int rate_count, start_count; /* epochs, and measurements of what a phase began with */
    double rates[MOST_EVENTS];
    int stop_after; /* events; 0: never */
    esp_cancel cancel;
} seen;

static esp_status on_event(void *user, const esp_gradual_report *report, esp_error *err)
{
    seen *it = user;

    (void)err;
    assert_true(it->count < MOST_EVENTS);
    it->events[it->count] = report->event;
    it->records[it->count] = *report->record;
    it->graphs[it->count++] = esp_graph_ref(report->graph);
    assert_true((report->preview == NULL) == (report->event == ESP_GRADUAL_TUNED));
    if (it->count == it->stop_after)
        esp_cancel_request(&it->cancel);
    return ESP_OK;
}

static esp_status on_epoch(void *user, const esp_epoch_report *report, esp_error *err)
{
    seen *it = user;

    (void)err;
    if (report->epoch > 0)
        it->rates[it->rate_count++] = report->lr;
    else
        it->start_count++;
    return ESP_OK;
}

static void forget(seen *it)
{
    for (int i = 0; i < it->count; i++)
        esp_graph_unref(it->graphs[i]);
    *it = (seen){0};
}

/* Files of models by a table: ONNX files are io's, which this layer does not know. */
static esp_graph *stored[8];
static char stored_paths[8][256];
static int stored_count;

static esp_status save_model(const esp_graph *graph, const char *path, esp_error *err)
{
    assert_true(stored_count < 8);
    snprintf(stored_paths[stored_count], sizeof *stored_paths, "%s", path);
    stored[stored_count++] = esp_graph_ref(graph);
    return esp_file_write(path, "model", 5, err);
}

static esp_status load_model(const char *path, esp_graph **out, esp_error *err)
{
    for (int i = stored_count - 1; i >= 0; i--)
        if (strcmp(stored_paths[i], path) == 0 && esp_file_exists(path)) {
            *out = esp_graph_ref(stored[i]);
            return ESP_OK;
        }
    return esp_fail(err, ESP_IO, "%s: no such model", path);
}

static void forget_models(void)
{
    while (stored_count > 0)
        esp_graph_unref(stored[--stored_count]);
}

typedef struct fixture {
    esp_graph *graph;
    esp_dataset *training, *validation;
    esp_plan plan;
    esp_gradual schedule;
    esp_train_options options;
    seen seen;
    const char *state_path;
    bool resumes;
} fixture;

static fixture prepare(esp_method method, esp_gradual_kind kind, double ratio)
{
    fixture it = {.graph = net_residual(5),
                  .training = noise_dataset(48, 3, 8, 8, 5, 1),
                  .validation = noise_dataset(20, 3, 8, 8, 5, 2),
                  .plan = esp_plan_make(method, ESP_MODE_SOUND, ratio),
                  .schedule = esp_gradual_defaults(kind),
                  .options = esp_train_defaults()};

    it.plan.groups = 3;
    it.plan.restarts = 2;
    it.schedule.local_epochs = 1;
    it.schedule.epochs = 2;
    it.options.batch = 16;
    it.options.schedule.kind = ESP_SCHEDULE_CONSTANT;
    it.options.schedule.lr = 0.02;
    it.options.on_epoch = on_epoch;
    it.options.seed = 3;
    return it;
}

static void clear(fixture *it)
{
    esp_graph_unref(it->graph);
    esp_dataset_unref(it->training);
    esp_dataset_unref(it->validation);
    esp_plan_free(&it->plan);
    forget(&it->seen);
}

static esp_status run(fixture *it, esp_graph **out, esp_gradual_result *result, esp_error *err)
{
    const esp_compute compute = {.cancel = &it->seen.cancel};
    it->options.epoch_user = &it->seen;
    const esp_gradual_options options = {.schedule = &it->schedule,
                                         .plan = &it->plan,
                                         .training = &it->options,
                                         .on_event = on_event,
                                         .event_user = &it->seen,
                                         .state_path = it->state_path,
                                         .resumes = it->resumes,
                                         .save = save_model,
                                         .load = load_model};

    return esp_prune_gradually(&compute, it->graph, it->training, it->validation, &options, out, result, err);
}

static esp_graph *run_to_the_end(fixture *it, esp_gradual_result *result)
{
    esp_graph *out = NULL;
    esp_error err = {0};

    expect_ok(run(it, &out, result, &err), &err);
    return out;
}

/* ---- masks ---- */

static int64_t kept_in(const esp_graph *graph)
{
    esp_inferred *inferred = NULL;
    esp_layers layers = {0};
    esp_error err = {0};
    int64_t kept = 0;

    expect_ok(esp_infer(graph, 1, NULL, 0, &inferred, &err), &err);
    expect_ok(esp_layers_list(graph, inferred, &layers, &err), &err);
    for (int l = 0; l < layers.count; l++) {
        esp_mask mask;
        expect_ok(esp_mask_of_layer(graph, &layers.items[l], &mask, &err), &err);
        kept += esp_mask_kept(&mask);
        esp_mask_free(&mask);
    }
    esp_layers_free(&layers);
    esp_inferred_free(inferred);
    return kept;
}

/* Every slice that is masked in `before` is masked in `after`. */
static bool is_within(const esp_graph *after, const esp_graph *before)
{
    esp_held_masks held = {0};
    esp_error err = {0};
    bool is_so = true;

    expect_ok(esp_held_masks_of(before, &held, &err), &err);
    for (int i = 0; i < held.count; i++) {
        const esp_tensor *weight = esp_graph_value(after, held.items[i].value)->constant;
        for (int64_t e = 0; e < esp_tensor_elements(weight); e++)
            is_so = is_so && (held.items[i].keep[e] || esp_tensor_f32(weight)[e] == 0);
    }
    esp_held_masks_free(&held);
    return is_so;
}

static void masks_only_grow_whatever_the_method(void **state)
{
    static const esp_method methods[] = {ESP_METHOD_SG, ESP_METHOD_WSP, ESP_METHOD_FILTER};
    (void)state;

    for (size_t m = 0; m < 3; m++) {
        fixture it = prepare(methods[m], ESP_GRADUAL_LG, 0.6);
        esp_gradual_result result;
        it.schedule.step = 0.2;
        esp_graph *out = run_to_the_end(&it, &result);
        assert_int_equal(result.steps, 3);
        assert_int_equal(result.steps_done, 3);
        assert_int_equal(it.seen.count, 3 * 2 + 1);
        for (int i = 1; i < it.seen.count; i++) {
            assert_true(is_within(it.seen.graphs[i], it.seen.graphs[i - 1]));
            assert_true(kept_in(it.seen.graphs[i]) <= kept_in(it.seen.graphs[i - 1]));
        }
        assert_true(kept_in(out) < kept_in(it.graph));
        assert_true(is_within(out, it.seen.graphs[it.seen.count - 1]));
        esp_graph_unref(out);
        esp_gradual_result_free(&result);
        clear(&it);
    }
}

/* The same previews, one after the other by hand. */
static void g_is_the_same_steps_without_training(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_G, 0.5);
    esp_graph *expected = esp_graph_ref(it.graph);
    (void)state;

    it.plan.mode = ESP_MODE_FAITHFUL;
    it.plan.fc_ratio = 0.2;
    it.schedule.epochs = 0;
    for (int step = 1; step <= 5; step++) {
        esp_plan plan = it.plan;
        esp_graph *masked = NULL;
        esp_error err = {0};
        plan.conv_ratio = step * 0.1;
        plan.fc_ratio = step < 2 ? 0.1 : 0.2;
        esp_preview *preview = preview_of(expected, &plan, NULL);
        expect_ok(esp_preview_masked_graph(preview, &masked, &err), &err);
        esp_preview_free(preview);
        esp_graph_unref(expected);
        expected = masked;
    }
    esp_dataset_unref(it.training);
    it.training = NULL; /* nothing is trained: none is needed */
    esp_gradual_result result;
    esp_graph *out = run_to_the_end(&it, &result);
    assert_true(same_constants(out, expected));
    assert_false(same_constants(out, it.graph));
    assert_int_equal(result.record_count, 5);
    assert_int_equal(it.seen.rate_count, 0);
    assert_true(isnan(result.records[4].trained_top1) && result.records[4].cut_top1 >= 0);
    esp_graph_unref(out);
    esp_graph_unref(expected);
    esp_gradual_result_free(&result);
    clear(&it);
}

/* ---- phases ---- */

static void every_kind_has_its_own_phases(void **state)
{
    static const struct {
        esp_gradual_kind kind;
        int events, epochs;
        bool is_tuned;
    } cases[] = {{ESP_GRADUAL_ONE_SHOT, 2, 2, true}, {ESP_GRADUAL_LG, 5, 4, true},
                 {ESP_GRADUAL_G, 3, 2, true},        {ESP_GRADUAL_L, 4, 2, false},
                 {ESP_GRADUAL_LINEAR, 5, 4, true},   {ESP_GRADUAL_AGP, 5, 4, true}};
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture it = prepare(ESP_METHOD_SG, cases[i].kind, 0.4);
        esp_gradual_result result;
        it.schedule.step = 0.2;
        it.schedule.steps = 2;
        esp_graph *out = run_to_the_end(&it, &result);
        assert_int_equal(it.seen.count, cases[i].events);
        assert_int_equal(it.seen.rate_count, cases[i].epochs);
        assert_int_equal(it.seen.start_count, cases[i].is_tuned); /* only the end may keep it */
        assert_int_equal(it.seen.events[0], ESP_GRADUAL_PRUNED);
        assert_int_equal(it.seen.events[it.seen.count - 1] == ESP_GRADUAL_TUNED, cases[i].is_tuned);
        const esp_gradual_record *last = &result.records[result.record_count - 1];
        assert_int_equal(last->step == 0, cases[i].is_tuned);
        assert_true(last->ratio == 0.4 && last->pruned > 0.2 && last->trained_top1 >= 0);
        assert_true(last->executed_groups > 0 && last->layers >= 4 && last->params > 0);
        assert_true(result.last.images == 20);
        esp_graph_unref(out);
        esp_gradual_result_free(&result);
        clear(&it);
    }
}

static void local_training_has_its_own_constant_rate(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG, 0.4);
    esp_gradual_result result;
    (void)state;

    it.schedule.step = 0.2;
    it.schedule.local_lr = 0.005;
    it.options.schedule = esp_schedule_make(ESP_SCHEDULE_STEP, 0.02);
    it.options.schedule.milestone_count = 1;
    it.options.schedule.milestones[0] = 0.5;
    esp_graph *out = run_to_the_end(&it, &result);
    const double expected[] = {0.005, 0.005, 0.002, 0.002};
    assert_int_equal(it.seen.rate_count, 4);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(it.seen.rates[i] - expected[i]) < 1e-12);
    esp_graph_unref(out);
    esp_gradual_result_free(&result);
    clear(&it);
}

static void linear_and_agp_are_one_training_with_one_schedule(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_AGP, 0.4);
    esp_gradual_result result;
    (void)state;

    it.schedule.steps = 2;
    it.options.schedule = esp_schedule_make(ESP_SCHEDULE_STEP, 0.02);
    it.options.schedule.milestone_count = 2;
    it.options.schedule.milestones[0] = 1; /* the second pruning */
    it.options.schedule.milestones[1] = 3; /* the last epoch of all */
    esp_graph *out = run_to_the_end(&it, &result);
    const double expected[] = {0.02, 0.002, 0.002, 0.0002};
    assert_int_equal(it.seen.rate_count, 4);
    for (int i = 0; i < 4; i++)
        assert_true(fabs(it.seen.rates[i] - expected[i]) < 1e-12);
    esp_graph_unref(out);
    esp_gradual_result_free(&result);
    clear(&it);
}

/* Sum of norms of all (filter, channel) slices of the 3x3 convolution Conv4. */
static double norm_sum(const esp_graph *graph)
{
    const esp_tensor *weight = constant_of(graph, net_weight_name(graph, "Conv4"));
    double sum = 0;

    for (int64_t i = 0; i < esp_tensor_elements(weight) / 9; i++) {
        double square = 0;
        for (int p = 0; p < 9; p++)
            square += pow((double)esp_tensor_f32(weight)[i * 9 + p], 2);
        sum += sqrt(square);
    }
    return sum;
}

static void group_lasso_makes_what_is_left_smaller(void **state)
{
    double sums[2];
    (void)state;

    for (int lasso = 0; lasso < 2; lasso++) {
        fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_L, 0.2);
        esp_gradual_result result;
        it.schedule.local_epochs = 4;
        it.schedule.group_lasso = lasso ? 1 : 0;
        esp_graph *out = run_to_the_end(&it, &result);
        sums[lasso] = norm_sum(out);
        esp_graph_unref(out);
        esp_gradual_result_free(&result);
        clear(&it);
    }
    assert_true(sums[1] < 0.8 * sums[0]);
}

/* ---- interrupted runs ---- */

static void interrupted_run_goes_on_to_the_same_bits(void **state)
{
    char *directory = scratch_make();
    esp_gradual_result whole, first, second;
    esp_graph *expected, *partial = NULL, *resumed;
    esp_error err = {0};
    (void)state;

    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG, 0.6);
    it.schedule.step = 0.2;
    expected = run_to_the_end(&it, &whole);
    forget(&it.seen);

    /* stops in the training of the second step: pruned, trained, pruned */
    it.state_path = scratch_path(directory, "run.json");
    it.seen.stop_after = 3;
    expect_failure(run(&it, &partial, &first, &err), ESP_CANCELLED, &err, NULL);
    assert_non_null(partial);
    assert_int_equal(first.steps_done, 1);
    assert_true(is_within(partial, it.seen.graphs[2])); /* the second step's masks, trained or not */
    assert_int_equal(scratch_count(directory), 2);      /* the state and one model */
    forget(&it.seen);
    it.resumes = true;

    resumed = run_to_the_end(&it, &second);
    assert_int_equal(second.resumed_steps, 1);
    assert_int_equal(it.seen.records[0].step, 2);
    assert_int_equal(second.steps_done, 3);
    assert_int_equal(second.record_count, whole.record_count);
    for (int i = 0; i < whole.record_count; i++) {
        assert_true(second.records[i].cut_top1 == whole.records[i].cut_top1);
        assert_true(second.records[i].trained_loss == whole.records[i].trained_loss);
        assert_int_equal(second.records[i].macs, whole.records[i].macs);
    }
    assert_true(same_constants(resumed, expected));
    assert_int_equal(scratch_count(directory), 2);
    esp_gradual_state_remove(it.state_path);
    assert_int_equal(scratch_count(directory), 0);

    esp_graph_unref(expected);
    esp_graph_unref(partial);
    esp_graph_unref(resumed);
    esp_gradual_result_free(&whole);
    esp_gradual_result_free(&first);
    esp_gradual_result_free(&second);
    clear(&it);
    forget_models();
    scratch_remove(directory);
}

static void state_of_another_run_is_refused(void **state)
{
    char *directory = scratch_make();
    esp_gradual_result result;
    esp_graph *out = NULL;
    esp_error err = {0};
    (void)state;

    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_G, 0.3);
    it.schedule.epochs = 0;
    it.state_path = scratch_path(directory, "run.json");
    esp_graph_unref(run_to_the_end(&it, &result));
    esp_gradual_result_free(&result);
    it.resumes = true;

    it.plan.groups = 2;
    expect_failure(run(&it, &out, &result, &err), ESP_MISMATCH, &err, "another plan");
    it.plan.groups = 3;
    it.schedule.step = 0.15;
    expect_failure(run(&it, &out, &result, &err), ESP_MISMATCH, &err, "another pruning schedule");
    it.schedule.step = 0.1;
    esp_graph *right = it.graph;
    it.graph = net_residual(6);
    expect_failure(run(&it, &out, &result, &err), ESP_MISMATCH, &err, "its model is");
    esp_graph_unref(it.graph);
    it.graph = right;
    scratch_write(it.state_path, "{\"version\": 1", 13);
    expect_failure(run(&it, &out, &result, &err), ESP_FORMAT, &err, "run.json");
    scratch_write(it.state_path, "{\"version\": 9}", 14);
    expect_failure(run(&it, &out, &result, &err), ESP_FORMAT, &err, "version");
    assert_null(out);
    clear(&it);
    forget_models();
    scratch_remove(directory);
}

static void run_that_trains_needs_data_and_bad_settings_are_refused(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_LG, 0.3);
    esp_graph *out = NULL;
    esp_error err = {0};
    (void)state;

    esp_dataset *training = it.training;
    it.training = NULL;
    expect_failure(run(&it, &out, NULL, &err), ESP_INVALID, &err, "no data to train on");
    it.training = training;
    it.schedule.step = -1;
    expect_failure(run(&it, &out, NULL, &err), ESP_INVALID, &err, "step is -1");
    it.schedule.step = 0.1;
    it.plan.groups = 0;
    expect_failure(run(&it, &out, NULL, &err), ESP_INVALID, &err, "groups");
    assert_null(out);
    clear(&it);
}

static void cut_takes_what_the_masks_allow(void **state)
{
    fixture it = prepare(ESP_METHOD_WSP, ESP_GRADUAL_ONE_SHOT, 0.6);
    esp_surgery_options options = esp_surgery_defaults();
    esp_surgery_report report;
    esp_gradual_result result;
    esp_graph *cut = NULL;
    double absolute, relative;
    esp_error err = {0};
    (void)state;

    esp_graph *masked = run_to_the_end(&it, &result);
    expect_ok(esp_gradual_cut(NULL, masked, &it.plan, NULL, &options, &cut, &report, &err), &err);
    assert_true(report.slots_removed > 0);
    assert_int_equal(report.counts.params, result.records[0].params);
    expect_ok(esp_compare_outputs(NULL, masked, cut, NULL, 0, 2, 5, &absolute, &relative, &err), &err);
    assert_true(relative < 1e-4);
    esp_graph_unref(cut);
    esp_graph_unref(masked);
    esp_gradual_result_free(&result);
    clear(&it);
}

static void criteria_with_data_look_at_the_training_images_and_cutting_needs_none(void **state)
{
    fixture it = prepare(ESP_METHOD_FILTER, ESP_GRADUAL_LINEAR, 0.5);
    esp_surgery_options options = esp_surgery_defaults();
    esp_surgery_report report;
    esp_gradual_result result;
    esp_graph *cut = NULL;
    esp_error err = {0};
    (void)state;

    it.schedule.steps = 2;
    snprintf(it.plan.criterion, sizeof it.plan.criterion, "taylor");
    esp_graph *masked = run_to_the_end(&it, &result);
    expect_ok(esp_gradual_cut(NULL, masked, &it.plan, NULL, &options, &cut, &report, &err), &err);
    assert_int_equal(report.counts.params, result.records[1].params);
    assert_true(report.counts.params < result.records[0].params);
    esp_graph_unref(cut);
    esp_graph_unref(masked);
    esp_gradual_result_free(&result);
    clear(&it);
}

static void run_survives_failed_allocations(void **state)
{
    fixture it = prepare(ESP_METHOD_SG, ESP_GRADUAL_G, 0.2);
    int failures = 0;
    (void)state;

    it.schedule.epochs = 0;
    it.plan.restarts = 1;
    esp_dataset_unref(it.validation); /* an executor does without some of what it cannot have */
    it.validation = NULL;
    size_t live = esp_memory_live();
    for (int64_t k = 1;; k += 1 + k / 40) {
        esp_graph *out = NULL;
        esp_gradual_result result = {0};
        esp_memory_fuse(k);
        esp_status status = run(&it, &out, &result, NULL);
        bool has_burnt = esp_memory_fuse_burnt();
        esp_memory_fuse(0);
        assert_int_equal(status, has_burnt ? ESP_NO_MEMORY : ESP_OK);
        assert_true((out != NULL) == (status == ESP_OK));
        esp_graph_unref(out);
        esp_gradual_result_free(&result);
        forget(&it.seen);
        assert_int_equal(esp_memory_live(), live);
        if (!has_burnt)
            break;
        failures++;
    }
    assert_true(failures > 50);
    clear(&it);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_only_grow_whatever_the_method),
        cmocka_unit_test(g_is_the_same_steps_without_training),
        cmocka_unit_test(every_kind_has_its_own_phases),
        cmocka_unit_test(local_training_has_its_own_constant_rate),
        cmocka_unit_test(linear_and_agp_are_one_training_with_one_schedule),
        cmocka_unit_test(group_lasso_makes_what_is_left_smaller),
        cmocka_unit_test(interrupted_run_goes_on_to_the_same_bits),
        cmocka_unit_test(state_of_another_run_is_refused),
        cmocka_unit_test(run_that_trains_needs_data_and_bad_settings_are_refused),
        cmocka_unit_test(cut_takes_what_the_masks_allow),
        cmocka_unit_test(criteria_with_data_look_at_the_training_images_and_cutting_needs_none),
        cmocka_unit_test(run_survives_failed_allocations),
    };
    return cmocka_run_group_tests_name("runs by a pruning schedule", tests, NULL, NULL);
}
