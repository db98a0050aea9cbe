/* A session from outside: commands go in, snapshots come out. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "io/onnx.h"
#include "unit/study/tiny_study.h"

/* A session with the tiny model open, idle. */
typedef struct bench {
    char *directory;
    esp_session *session;
} bench;

static esp_session *open_session(const char *directory, const char *study, bool opens_model)
{
    esp_session_options options = {.study_directory = study, .thread_count = 2, .calibration_images = 40};
    esp_session *session = NULL;
    esp_error err = {0};

    expect_ok(esp_session_new(&options, &session, &err), &err);
    expect_ok(esp_session_open(session, opens_model ? scratch_path(directory, "tiny.onnx") : NULL, &err),
              &err);
    tiny_study_settle(session, false, NULL);
    return session;
}

static bench start(void)
{
    bench b = {.directory = scratch_make()};

    tiny_study_write(b.directory);
    b.session = open_session(b.directory, NULL, true);
    return b;
}

static void open_data(bench *b)
{
    char spec[600];
    esp_error err = {0};

    snprintf(spec, sizeof spec, "idx:%s", scratch_path(b->directory, "data"));
    expect_ok(esp_session_open_data(b->session, spec, &err), &err);
    tiny_study_settle(b->session, false, NULL);
}

static void end(bench *b)
{
    esp_session_free(b->session);
    scratch_remove(b->directory);
}

static void edit(esp_session *session, esp_plan_edit_kind kind, int layer, double amount)
{
    const esp_plan_edit change = {.kind = kind, .layer = layer, .amount = amount};
    esp_error err = {0};

    expect_ok(esp_session_edit_plan(session, &change, &err), &err);
}

static void cut_at(esp_session *session, double ratio)
{
    esp_error err = {0};

    edit(session, ESP_EDIT_RATIO_SET, 0, ratio);
    expect_ok(esp_session_cut(session, &err), &err);
    tiny_study_settle(session, false, NULL);
}

static void opening_shows_a_model_with_nothing_planned(void **state)
{
    bench b = start();
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);

    (void)state;
    assert_int_equal(snapshot->current, 1);
    assert_string_equal(esp_snapshot_current(snapshot)->title, "tiny");
    assert_int_equal(esp_snapshot_preview(snapshot)->layers.count, 3);
    assert_false(esp_snapshot_has_cut(snapshot));
    assert_int_equal(esp_snapshot_current(snapshot)->metrics.counts.params,
                     esp_snapshot_preview(snapshot)->before.params);
    assert_int_equal(snapshot->undo_to, 0);
    esp_shared_unref(snapshot);
    end(&b);
}

static void every_edit_counts_however_fast_they_come(void **state)
{
    bench b = start();

    (void)state;
    for (int i = 0; i < 10; i++)
        edit(b.session, ESP_EDIT_RATIO_ADD, 0, 0.05);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_true(esp_snapshot_preview(snapshot)->plan.conv_ratio == 0.5);
    assert_true(esp_snapshot_has_cut(snapshot));
    esp_shared_unref(snapshot);
    end(&b);
}

static void a_snapshot_that_is_held_never_changes(void **state)
{
    bench b = start();
    const esp_snapshot *before = esp_session_snapshot(b.session);
    int64_t params = esp_snapshot_preview(before)->after.params;
    uint64_t serial = before->serial;

    (void)state;
    cut_at(b.session, 0.5);
    assert_int_equal(before->current, 1);
    assert_int_equal(before->versions->count, 1);
    assert_int_equal(esp_snapshot_preview(before)->after.params, params);
    const esp_snapshot *after = esp_session_snapshot(b.session);
    assert_true(after->serial > serial);
    assert_int_equal(after->current, 2);
    assert_int_equal(after->versions->count, 2);
    esp_shared_unref(after);
    end(&b);
    assert_int_equal(esp_snapshot_preview(before)->layers.count, 3); /* outlives its session */
    esp_shared_unref(before);
}

static void undo_and_redo_move_a_pointer_and_keep_each_plan(void **state)
{
    bench b = start();
    esp_error err = {0};

    (void)state;
    cut_at(b.session, 0.5);
    expect_ok(esp_session_undo(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->current, 1);
    assert_int_equal(snapshot->redo_to, 2);
    assert_true(esp_snapshot_preview(snapshot)->plan.conv_ratio == 0.5);
    esp_shared_unref(snapshot);
    expect_ok(esp_session_redo(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->current, 2);
    assert_int_equal(snapshot->redo_to, 0);
    assert_int_equal(snapshot->undo_to, 1);
    assert_true(esp_snapshot_preview(snapshot)->plan.conv_ratio == 0.0);
    esp_shared_unref(snapshot);
    end(&b);
}

static void a_cut_after_undo_makes_a_branch(void **state)
{
    bench b = start();
    esp_error err = {0};

    (void)state;
    cut_at(b.session, 0.5);
    expect_ok(esp_session_undo(b.session, &err), &err);
    cut_at(b.session, 0.7);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->current, 3);
    assert_int_equal(esp_versions_find(snapshot->versions, 2)->parent, 1);
    assert_int_equal(esp_versions_find(snapshot->versions, 3)->parent, 1);
    assert_int_equal(snapshot->redo_to, 0);
    assert_true(esp_snapshot_current(snapshot)->metrics.counts.params <
                esp_snapshot_baseline(snapshot)->metrics.counts.params);
    esp_shared_unref(snapshot);
    end(&b);
}

static void refusals_say_why_and_change_nothing(void **state)
{
    bench b = start();
    esp_error err = {0};

    (void)state;
    expect_ok(esp_session_undo(b.session, &err), &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_STATE, &err, "nothing to undo");
    expect_ok(esp_session_cut(b.session, &err), &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_STATE, &err, "nothing to cut");
    expect_ok(esp_session_evaluate(b.session, &err), &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_STATE, &err, "no data");
    expect_ok(esp_session_select_layer(b.session, 99, 0, &err), &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_INVALID, &err, "layer 99");
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->current, 1);
    assert_int_equal(snapshot->versions->count, 1);
    esp_shared_unref(snapshot);
    end(&b);
}

static void the_selected_layer_is_shown_with_scores_in_order(void **state)
{
    bench b = start();
    esp_error err = {0};

    (void)state;
    expect_ok(esp_session_select_layer(b.session, 1, 0, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    const esp_layer_detail *detail = snapshot->detail;
    const esp_layer *layer = &esp_snapshot_preview(snapshot)->layers.items[1];
    assert_non_null(detail);
    assert_int_equal(detail->layer, 1);
    assert_int_equal(detail->filters, layer->filters);
    for (int64_t i = 1; i < detail->filters; i++)
        assert_true(detail->scores[detail->order[i - 1]] <= detail->scores[detail->order[i]]);
    /* l1 is the first criterion: a row of the importance matrix sums to the filter's score */
    for (int64_t f = 0; f < detail->filters; f++) {
        double sum = 0;
        for (int64_t c = 0; c < detail->channels; c++)
            sum += (double)detail->importance[f * detail->channels + c];
        assert_true(fabs(sum - detail->scores[f]) <= 1e-4 * sum); /* float32 sums in another order */
    }
    esp_shared_unref(snapshot);
    end(&b);
}

static void data_gives_estimates_without_being_asked_and_evaluate_the_whole_set(void **state)
{
    bench b = start();
    esp_error err = {0};

    (void)state;
    open_data(&b);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->data.test_count, TINY_TEST_IMAGES);
    assert_int_equal(esp_snapshot_current(snapshot)->metrics.eval_images, 40);
    assert_false(esp_snapshot_current(snapshot)->metrics.eval_is_full);
    esp_shared_unref(snapshot);
    edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.5);
    tiny_study_settle(b.session, false, NULL);
    snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->estimate.images, 40);
    esp_shared_unref(snapshot);
    expect_ok(esp_session_evaluate(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    snapshot = esp_session_snapshot(b.session);
    assert_int_equal(esp_snapshot_current(snapshot)->metrics.eval_images, TINY_TEST_IMAGES);
    assert_true(esp_snapshot_current(snapshot)->metrics.eval_is_full);
    assert_int_equal(snapshot->estimate.images, TINY_TEST_IMAGES);
    esp_shared_unref(snapshot);
    end(&b);
}

static void fine_tuning_makes_a_better_version_and_a_curve(void **state)
{
    bench b = start();
    const esp_finetune options = tiny_finetune(3, 0.05);
    esp_error err = {0};

    (void)state;
    open_data(&b);
    expect_ok(esp_session_finetune(b.session, &options, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_int_equal(snapshot->current, 2);
    assert_true(esp_snapshot_current(snapshot)->metrics.top1 > esp_snapshot_baseline(snapshot)->metrics.top1);
    assert_non_null(snapshot->training);
    assert_false(snapshot->training->is_running);
    int validated = 0;
    for (int i = 0; i < snapshot->training->count; i++)
        validated += snapshot->training->points[i].is_validated ? 1 : 0;
    assert_int_equal(validated, 4); /* before, and after each epoch */
    esp_shared_unref(snapshot);
    end(&b);
}

static void fine_tuning_takes_an_optimizer_and_a_teacher(void **state)
{
    bench b = start();
    esp_finetune options = tiny_finetune(1, 0);
    esp_error err = {0};

    (void)state;
    options.optimizer = ESP_OPTIMIZER_ADAMW;
    options.schedule = ESP_SCHEDULE_ONECYCLE;
    options.distils = true;
    open_data(&b);
    cut_at(b.session, 0.5);
    expect_ok(esp_session_finetune(b.session, &options, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    const esp_study_version *made = esp_versions_find(snapshot->versions, 3);
    if (made) { /* an epoch that was no better leaves no version */
        assert_non_null(strstr(made->how, "\"optimizer\":\"adamw\""));
        assert_non_null(strstr(made->how, "\"distilled\":true"));
    }
    assert_non_null(snapshot->training);
    esp_shared_unref(snapshot);
    end(&b);
}

static void a_cancelled_training_ends_as_cancelled_and_leaves_the_session_usable(void **state)
{
    bench b = start();
    const esp_finetune options = tiny_finetune(10000, 0.01);
    esp_error err = {0};
    esp_event event;
    bool was_cancelled = false;

    (void)state;
    open_data(&b);
    expect_ok(esp_session_finetune(b.session, &options, &err), &err);
    while (!was_cancelled)
        if (esp_session_next_event(b.session, &event) && event.kind == ESP_EVENT_PROGRESS) {
            esp_session_cancel(b.session);
            was_cancelled = true;
        }
    assert_true(tiny_study_settle(b.session, false, NULL) >= 1);
    cut_at(b.session, 0.5);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_non_null(strstr(esp_snapshot_current(snapshot)->title, "cut"));
    assert_false(snapshot->training->is_running);
    esp_shared_unref(snapshot);
    end(&b);
}

/* Theory and real of grouped layers come with the latency. */
static void measuring_a_grouped_model_says_what_grouping_brings(void **state)
{
    bench b = start();
    esp_error err = {0};
    (void)state;

    expect_ok(esp_session_measure(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_true(esp_snapshot_current(snapshot)->metrics.latency_ms > 0);
    assert_int_equal(esp_snapshot_current(snapshot)->metrics.grouped_layers, 0);
    assert_null(strstr(snapshot->message, "grouping"));
    esp_shared_unref(snapshot);

    edit(b.session, ESP_EDIT_METHOD_NEXT, 0, 1);
    cut_at(b.session, 0.5);
    expect_ok(esp_session_measure(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    snapshot = esp_session_snapshot(b.session);
    const esp_metrics *metrics = &esp_snapshot_current(snapshot)->metrics;
    assert_true(metrics->grouped_layers > 0);
    assert_true(metrics->grouping_theory > 1.0 && metrics->grouping_real > 0.0);
    assert_non_null(strstr(snapshot->message, "grouping gains"));
    esp_shared_unref(snapshot);
    end(&b);
}

static void what_is_saved_is_the_current_version(void **state)
{
    bench b = start();
    esp_graph *saved = NULL;
    esp_error err = {0};
    char path[600];

    (void)state;
    cut_at(b.session, 0.5);
    snprintf(path, sizeof path, "%s", scratch_path(b.directory, "out.onnx"));
    expect_ok(esp_session_save(b.session, path, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    expect_ok(esp_onnx_load(path, &saved, &err), &err);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_true(same_constants(saved, esp_snapshot_current(snapshot)->graph));
    assert_true(esp_snapshot_current(snapshot)->is_saved);
    esp_shared_unref(snapshot);
    esp_graph_unref(saved);
    end(&b);
}

static void a_study_is_taken_up_where_it_was_left(void **state)
{
    char *directory = scratch_make();
    char study[600];
    esp_error err = {0};

    (void)state;
    tiny_study_write(directory);
    snprintf(study, sizeof study, "%s", scratch_path(directory, "study"));
    esp_session *session = open_session(directory, study, true);
    cut_at(session, 0.5);
    esp_session_free(session);
    session = open_session(directory, study, false);
    const esp_snapshot *snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->versions->count, 2);
    assert_int_equal(snapshot->current, 2);
    assert_true(esp_snapshot_current(snapshot)->is_saved);
    esp_shared_unref(snapshot);
    expect_ok(esp_session_undo(session, &err), &err);
    tiny_study_settle(session, false, NULL);
    esp_session_free(session);
    session = open_session(directory, study, true); /* the same model again: no second root */
    snapshot = esp_session_snapshot(session);
    assert_int_equal(snapshot->versions->count, 2);
    assert_int_equal(snapshot->current, 1);
    esp_shared_unref(snapshot);
    esp_session_free(session);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_shows_a_model_with_nothing_planned),
        cmocka_unit_test(every_edit_counts_however_fast_they_come),
        cmocka_unit_test(a_snapshot_that_is_held_never_changes),
        cmocka_unit_test(undo_and_redo_move_a_pointer_and_keep_each_plan),
        cmocka_unit_test(a_cut_after_undo_makes_a_branch),
        cmocka_unit_test(refusals_say_why_and_change_nothing),
        cmocka_unit_test(the_selected_layer_is_shown_with_scores_in_order),
        cmocka_unit_test(data_gives_estimates_without_being_asked_and_evaluate_the_whole_set),
        cmocka_unit_test(fine_tuning_makes_a_better_version_and_a_curve),
        cmocka_unit_test(fine_tuning_takes_an_optimizer_and_a_teacher),
        cmocka_unit_test(a_cancelled_training_ends_as_cancelled_and_leaves_the_session_usable),
        cmocka_unit_test(measuring_a_grouped_model_says_what_grouping_brings),
        cmocka_unit_test(what_is_saved_is_the_current_version),
        cmocka_unit_test(a_study_is_taken_up_where_it_was_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
