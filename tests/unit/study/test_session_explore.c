/* Exploring in a session: explanations, scans and budgets, as readers see them. What is compared with comes
 * from the functions below the session, asked directly. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "io/dataset.h"
#include "prune/explain.h"
#include "prune/surgery.h"
#include "unit/study/tiny_study.h"

typedef struct bench {
    char *directory;
    esp_session *session;
} bench;

static bench start(bool has_study)
{
    bench b = {.directory = scratch_make()};
    char study[600];
    esp_session_options options = {.thread_count = 2, .calibration_images = 40};
    char spec[600];
    esp_error err = {0};

    tiny_study_write(b.directory);
    snprintf(study, sizeof study, "%s", scratch_path(b.directory, "study"));
    options.study_directory = has_study ? study : NULL;
    expect_ok(esp_session_new(&options, &b.session, &err), &err);
    expect_ok(esp_session_open(b.session, scratch_path(b.directory, "tiny.onnx"), &err), &err);
    tiny_study_settle(b.session, false, NULL);
    snprintf(spec, sizeof spec, "idx:%s", scratch_path(b.directory, "data"));
    expect_ok(esp_session_open_data(b.session, spec, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    return b;
}

static void end(bench *b)
{
    esp_session_free(b->session);
    scratch_remove(b->directory);
}

static void edit(bench *b, esp_plan_edit_kind kind, double amount)
{
    const esp_plan_edit change = {.kind = kind, .amount = amount};
    esp_error err = {0};

    expect_ok(esp_session_edit_plan(b->session, &change, &err), &err);
    tiny_study_settle(b->session, false, NULL);
}

/* Released by the next call of it, and by the end of the program. */
static const esp_snapshot *look(bench *b)
{
    static const esp_snapshot *held;

    esp_shared_unref(held);
    held = b ? esp_session_snapshot(b->session) : NULL;
    return held;
}

static void scan(bench *b)
{
    esp_error err = {0};

    expect_ok(esp_session_scan(b->session, &err), &err);
    tiny_study_settle(b->session, false, NULL);
}

static void solve(bench *b, const char *text)
{
    esp_error err = {0};

    expect_ok(esp_session_solve(b->session, text, &err), &err);
    tiny_study_settle(b->session, false, NULL);
}

static double share_of_macs(bench *b)
{
    const esp_preview *preview = esp_snapshot_preview(look(b));

    return (double)preview->after.macs / (double)preview->before.macs;
}

static void an_explanation_follows_the_plan(void **state)
{
    bench b = start(false);
    esp_error err = {0};
    bool was_kept = false;

    (void)state;
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_METHOD_NEXT, 0); /* filter */
    expect_ok(esp_session_explain(b.session, 0, 0, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    for (int step = 0; step < 18; step++, edit(&b, ESP_EDIT_RATIO_ADD, 0.05)) {
        const esp_snapshot *seen = look(&b);
        bool is_kept = esp_mask_filter_is_live(&esp_snapshot_preview(seen)->items[0].mask, 0);
        assert_ptr_equal(seen->explanation->box, seen->box);
        assert_memory_equal(seen->explanation->why, is_kept ? "stays" : "goes:", 5);
        was_kept |= is_kept;
    }
    assert_true(was_kept);
    expect_ok(esp_session_explain(b.session, 99, 0, &err), &err);
    tiny_study_settle(b.session, true, &err);
    assert_int_equal(err.code, ESP_INVALID);
    end(&b);
}

static void a_scan_shows_what_the_engine_measures(void **state)
{
    bench b = start(false);
    esp_sensitivity *direct = NULL;
    esp_error err = {0};
    esp_dataset *training = NULL;
    char spec[600];

    (void)state;
    scan(&b);
    const esp_snapshot *seen = look(&b);
    snprintf(spec, sizeof spec, "idx:%s", scratch_path(b.directory, "data"));
    expect_ok(esp_dataset_open(spec, ESP_SPLIT_TRAIN, &training, &err), &err);
    const esp_sensitivity_options options = {.plan = &esp_snapshot_preview(seen)->plan, .images = 40};
    expect_ok(
        esp_sensitivity_scan(NULL, esp_snapshot_preview(seen)->graph, training, &options, &direct, &err),
        &err);
    assert_non_null(seen->scan);
    assert_false(seen->scan->is_running);
    assert_int_equal(seen->scan->version, 1);
    assert_int_equal(seen->scan->curve_count, direct->curve_count);
    assert_int_equal(seen->scan->done, seen->scan->total);
    assert_true(seen->scan->total > 0);
    for (int c = 0; c < direct->curve_count; c++)
        for (int i = 0; i < direct->curves[c].point_count; i++) {
            const esp_sensitivity_point *want = &direct->curves[c].points[i];
            const esp_scan_point *have = &seen->scan->curves[c].points[i];
            assert_true(have->is_done);
            assert_true(have->ratio == want->ratio && have->top1_change == want->top1_change.value);
            assert_true(have->loss_change == want->loss_change.value);
        }
    esp_sensitivity_free(direct);
    esp_dataset_unref(training);
    end(&b);
}

static void a_study_keeps_a_scan(void **state)
{
    bench b = start(true);

    (void)state;
    scan(&b);
    assert_true(esp_file_exists(scratch_path(b.directory, "study/scan-0001-wsp-sound.jsonl")));
    scan(&b); /* reads what is there */
    assert_int_equal(look(&b)->scan->done, look(&b)->scan->total);
    end(&b);
}

static void a_budget_changes_the_plan(void **state)
{
    bench b = start(false);

    (void)state;
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    solve(&b, "macs=0.7");
    double first = share_of_macs(&b);
    assert_true(first <= 0.7 && first > 0.3);
    end(&b);
}

static void a_second_budget_forgets_the_answer_of_the_first(void **state)
{
    bench b = start(false);

    (void)state;
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    scan(&b);
    solve(&b, "macs=0.5 sensitivity");
    assert_true(share_of_macs(&b) <= 0.5);
    assert_true(esp_snapshot_preview(look(&b))->plan.rule_count > 0);
    solve(&b, "macs=0.9 sensitivity"); /* larger again: rules of the first are not wishes */
    assert_true(share_of_macs(&b) <= 0.9 && share_of_macs(&b) > 0.5);
    end(&b);
}

static void a_suggestion_of_groups_becomes_a_rule(void **state)
{
    bench b = start(false);
    esp_error err = {0};

    (void)state;
    expect_ok(esp_session_suggest_groups(b.session, 1, &err), &err);
    tiny_study_settle(b.session, true, &err); /* wsp has no groups */
    assert_int_equal(err.code, ESP_INVALID);
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_RATIO_SET, 0.5);
    expect_ok(esp_session_suggest_groups(b.session, 1, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_plan *plan = &esp_snapshot_preview(look(&b))->plan;
    assert_int_equal(plan->rule_count, 1);
    assert_true(plan->rules[0].groups >= 1 && plan->rules[0].ratio < 0);
    assert_int_equal(esp_snapshot_preview(look(&b))->items[1].grouping.k, plan->rules[0].groups);
    end(&b);
}

static void budgets_say_what_is_wrong(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {{"macs=0.5 evenly", "evenly"},
                 {"mcs=0.5", "macs"},
                 {"macs=0.5 uniform now", "expected targets"},
                 {"macs=0.5 sensitivity", "not scanned"}};
    bench b = start(false);
    esp_error err = {0};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_ok(esp_session_solve(b.session, cases[i].text, &err), &err);
        tiny_study_settle(b.session, true, &err);
        assert_non_null(strstr(err.message, cases[i].says));
        assert_false(esp_snapshot_has_cut(look(&b)));
    }
    end(&b);
}

static void a_cut_can_solve_weights_anew(void **state)
{
    bench b = start(false);
    esp_error err = {0};

    (void)state;
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_RATIO_SET, 0.5);
    expect_ok(esp_session_cut(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    esp_graph *plain = esp_graph_ref(esp_snapshot_preview(look(&b))->graph);
    expect_ok(esp_session_undo(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    expect_ok(esp_session_cut_reconstructed(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *seen = look(&b);
    assert_string_equal(esp_snapshot_current(seen)->title, "filter 0.50 cut, solved");
    double absolute = 0, relative = 0;
    expect_ok(esp_compare_outputs(NULL, plain, esp_snapshot_preview(seen)->graph, NULL, 0, 1, 1, &absolute,
                                  &relative, &err),
              &err);
    assert_true(absolute > 1e-4); /* same shapes, other weights */
    esp_graph_unref(plain);
    end(&b);
}

static void recalibrating_makes_a_version_with_other_statistics(void **state)
{
    bench b = start(false);
    esp_error err = {0};
    double absolute = 0, relative = 0;

    (void)state;
    esp_graph *before = esp_graph_ref(esp_snapshot_preview(look(&b))->graph);
    expect_ok(esp_session_recalibrate(b.session, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    const esp_snapshot *seen = look(&b);
    assert_int_equal(seen->current, 2);
    assert_int_equal(esp_snapshot_current(seen)->parent, 1);
    assert_string_equal(esp_snapshot_current(seen)->title, "recalibrated");
    expect_ok(esp_compare_outputs(NULL, before, esp_snapshot_preview(seen)->graph, NULL, 0, 1, 1, &absolute,
                                  &relative, &err),
              &err);
    assert_true(absolute > 1e-4);
    esp_graph_unref(before);
    end(&b);
}

static void criteria_that_look_at_data_use_training_images(void **state)
{
    bench b = start(false);
    bool saw_data = false;

    (void)state;
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_METHOD_NEXT, 0);
    edit(&b, ESP_EDIT_RATIO_SET, 0.5);
    for (int i = 0; i < esp_criterion_count(); i++) {
        const esp_criterion *criterion = NULL;
        esp_error err = {0};
        const esp_plan_edit next = {.kind = ESP_EDIT_CRITERION_NEXT, .amount = 1};
        expect_ok(esp_session_edit_plan(b.session, &next, &err), &err);
        tiny_study_settle(b.session, true, &err); /* some say nothing of this model */
        const esp_snapshot *seen = look(&b);
        expect_ok(esp_criterion_find(esp_snapshot_preview(seen)->plan.criterion, &criterion, &err), &err);
        if (esp_criterion_needs_data(criterion) && esp_snapshot_has_cut(seen)) {
            saw_data = true;
            assert_true(seen->data.train_count > 0);
        }
    }
    assert_true(saw_data);
    look(NULL);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_explanation_follows_the_plan),
        cmocka_unit_test(a_scan_shows_what_the_engine_measures),
        cmocka_unit_test(a_study_keeps_a_scan),
        cmocka_unit_test(a_budget_changes_the_plan),
        cmocka_unit_test(a_second_budget_forgets_the_answer_of_the_first),
        cmocka_unit_test(a_suggestion_of_groups_becomes_a_rule),
        cmocka_unit_test(budgets_say_what_is_wrong),
        cmocka_unit_test(a_cut_can_solve_weights_anew),
        cmocka_unit_test(recalibrating_makes_a_version_with_other_statistics),
        cmocka_unit_test(criteria_that_look_at_data_use_training_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
