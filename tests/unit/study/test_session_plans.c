/* Plans of versions and files in a session: differences, and taking one over. */
/* labels: threads */
#include <stdio.h>
#include <string.h>

#include "study/plan_history.h"
#include "unit/study/tiny_study.h"

typedef struct bench {
    char *directory;
    esp_session *session;
} bench;

static bench start(void)
{
    bench b = {.directory = scratch_make()};

    tiny_study_write(b.directory);
    b.session = tiny_session(b.directory, NULL, true, false);
    return b;
}

static void end(bench *b)
{
    esp_session_free(b->session);
    scratch_remove(b->directory);
}

static void go(const bench *b, int version)
{
    esp_error err = {0};

    expect_ok(esp_session_go(b->session, version, &err), &err);
    tiny_study_settle(b->session, false, NULL);
}

/* Version 2: wsp at 0.5; version 3: sg at 0.5 with the second layer ignored; version 1 is current. */
static void make_versions(const bench *b)
{
    tiny_cut(b->session, 0.5);
    go(b, 1);
    tiny_edit(b->session, ESP_EDIT_METHOD_NEXT, 0, 0);
    tiny_edit(b->session, ESP_EDIT_LAYER_IGNORE, 0, 0);
    tiny_cut(b->session, 0.5);
    go(b, 1);
    tiny_edit(b->session, ESP_EDIT_RESET, 0, 0);
}

/* Whether a line has these cells, one after the other from the first. */
static bool has_row(const esp_findings *page, const char *first, const char *second, const char *third)
{
    const char *wanted[] = {first, second, third};

    for (int i = 0; i < page->count; i++) {
        bool is_it = true;
        for (int c = 0; c < 3 && wanted[c]; c++)
            is_it = is_it && c < page->lines[i].cell_count && strcmp(page->lines[i].cells[c], wanted[c]) == 0;
        if (is_it)
            return true;
    }
    return false;
}

static bool has_text(const esp_findings *page, const char *piece)
{
    for (int i = 0; i < page->count; i++)
        for (int c = 0; c < page->lines[i].cell_count; c++)
            if (strstr(page->lines[i].cells[c], piece))
                return true;
    return false;
}

/* Own reference; NULL when no page came since `serial`. */
static const esp_findings *page_after(const bench *b, uint64_t serial)
{
    const esp_snapshot *snapshot = esp_session_snapshot(b->session);
    const esp_findings *page = snapshot->findings_serial > serial ? esp_shared_ref(snapshot->findings) : NULL;

    esp_shared_unref(snapshot);
    return page;
}

static const esp_findings *compare(const bench *b, int first, int second)
{
    esp_error err = {0};
    const esp_findings *page;

    expect_ok(esp_session_compare(b->session, first, second, &err), &err);
    tiny_study_settle(b->session, false, NULL);
    page = page_after(b, 0);
    assert_non_null(page);
    return page;
}

static void take(const bench *b, int version, const char *path, esp_plan_side side, bool applies)
{
    esp_error err = {0};

    expect_ok(esp_session_take_plan(b->session, version, path, side, applies, &err), &err);
    tiny_study_settle(b->session, false, NULL);
}

static esp_plan plan_now(const bench *b)
{
    const esp_snapshot *snapshot = esp_session_snapshot(b->session);
    esp_plan plan;
    esp_error err = {0};

    expect_ok(esp_plan_clone(&esp_snapshot_preview(snapshot)->plan, &plan, &err), &err);
    esp_shared_unref(snapshot);
    return plan;
}

static void versions_are_compared_by_figures_settings_and_layers(void **state)
{
    bench b = start();

    (void)state;
    make_versions(&b);
    const esp_findings *page = compare(&b, 2, 3);
    assert_true(has_row(page, "method", "wsp", "sg"));
    assert_true(has_row(page, "version", "2 wsp 0.50 cut", NULL));
    assert_true(has_text(page, "the plan that cut version 3 from version 1"));
    assert_true(has_text(page, "layers come out differently"));
    assert_true(has_row(page, "e", NULL, NULL)); /* the layer whose filters both change */
    assert_int_equal(page->takes_version, 0);
    esp_shared_unref(page);
    page = compare(&b, 2, 2);
    assert_true(has_text(page, "the plans are the same"));
    assert_true(has_text(page, "0 of 3 layers"));
    esp_shared_unref(page);
    end(&b);
}

static void the_plan_on_the_screen_is_compared_too(void **state)
{
    bench b = start();

    (void)state;
    make_versions(&b);
    tiny_edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.3);
    const esp_findings *page = compare(&b, 0, 2);
    assert_true(has_row(page, "ratio.conv", "0.3", "0.5"));
    assert_true(has_text(page, "the plan on the screen"));
    esp_shared_unref(page);
    end(&b);
}

static void a_comparison_across_models_says_what_does_not_fit(void **state)
{
    bench b = start();

    (void)state;
    make_versions(&b);
    go(&b, 3); /* split into groups */
    tiny_edit(b.session, ESP_EDIT_METHOD_NEXT, 0, 0);
    tiny_edit(b.session, ESP_EDIT_LAYER_RATIO_SET, 1, 0.4);
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    char layer[128];
    snprintf(layer, sizeof layer, "%s", esp_snapshot_preview(snapshot)->layers.items[1].weight_name);
    esp_shared_unref(snapshot);
    const esp_findings *page = compare(&b, 2, 0);
    assert_true(has_text(page, "does not fit the model of plan a"));
    assert_true(has_row(page, "gone", layer, NULL));
    esp_shared_unref(page);
    end(&b);
}

static void a_plan_without_conflicts_is_taken_over_at_once(void **state)
{
    bench b = start();

    (void)state;
    make_versions(&b);
    take(&b, 3, NULL, ESP_PLAN_THEIRS, false);
    esp_plan plan = plan_now(&b);
    assert_int_equal(plan.method, ESP_METHOD_SG);
    assert_true(plan.conv_ratio == 0.5);
    assert_int_equal(plan.rule_count, 1);
    assert_true(plan.rules[0].is_ignored);
    assert_null(page_after(&b, 0));
    esp_plan_free(&plan);
    end(&b);
}

static void conflicts_are_told_before_anything_changes_and_who_wins_can_be_said(void **state)
{
    bench b = start();

    (void)state;
    make_versions(&b);
    tiny_edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.3);
    take(&b, 2, NULL, ESP_PLAN_THEIRS, false);
    const esp_findings *page = page_after(&b, 0);
    assert_non_null(page);
    assert_int_equal(page->takes_version, 2);
    assert_true(has_row(page, "ratio.conv", "0.3", "0.5"));
    esp_shared_unref(page);
    esp_plan plan = plan_now(&b);
    assert_true(plan.conv_ratio == 0.3);
    esp_plan_free(&plan);
    take(&b, 2, NULL, ESP_PLAN_OURS, true);
    plan = plan_now(&b);
    assert_true(plan.conv_ratio == 0.3);
    esp_plan_free(&plan);
    take(&b, 2, NULL, ESP_PLAN_THEIRS, true);
    plan = plan_now(&b);
    assert_true(plan.conv_ratio == 0.5);
    assert_int_equal(plan.method, ESP_METHOD_WSP);
    esp_plan_free(&plan);
    end(&b);
}

static void rules_of_layers_that_are_gone_are_told_and_moved(void **state)
{
    bench b = start();
    bool moved = false;

    (void)state;
    tiny_edit(b.session, ESP_EDIT_METHOD_NEXT, 0, 0);
    tiny_edit(b.session, ESP_EDIT_LAYER_RATIO_SET, 1, 0.5);
    tiny_cut(b.session, 0.5); /* version 2: the layer is split */
    take(&b, 2, NULL, ESP_PLAN_THEIRS, false);
    const esp_findings *page = page_after(&b, 0);
    assert_non_null(page);
    assert_true(has_text(page, "no layer has this name") || has_text(page, "the layer was split"));
    assert_true(has_text(page, "the rule goes to"));
    esp_shared_unref(page);
    esp_plan plan = plan_now(&b);
    assert_int_equal(plan.rule_count, 0);
    esp_plan_free(&plan);
    take(&b, 2, NULL, ESP_PLAN_THEIRS, true);
    plan = plan_now(&b);
    for (int i = 0; i < plan.rule_count; i++)
        moved = moved || (strchr(plan.rules[i].pattern, '/') && plan.rules[i].ratio == 0.5);
    assert_true(moved);
    esp_plan_free(&plan);
    end(&b);
}

static void a_version_that_asks_nothing_gives_nothing(void **state)
{
    bench b = start();
    esp_error err = {0};

    (void)state;
    make_versions(&b);
    go(&b, 3);
    expect_ok(esp_session_take_plan(b.session, 1, NULL, ESP_PLAN_THEIRS, true, &err), &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_STATE, &err, "version 1 was not cut");
    end(&b);
}

static void a_plan_goes_to_a_file_and_comes_back(void **state)
{
    bench b = start();
    char path[600];
    esp_error err = {0};

    (void)state;
    snprintf(path, sizeof path, "%s", scratch_path(b.directory, "plan.json"));
    tiny_edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.4);
    tiny_edit(b.session, ESP_EDIT_LAYER_RATIO_SET, 1, 0.6);
    esp_plan written = plan_now(&b);
    expect_ok(esp_session_save_plan(b.session, path, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    tiny_edit(b.session, ESP_EDIT_RESET, 0, 0);
    take(&b, 0, path, ESP_PLAN_THEIRS, false);
    esp_plan read = plan_now(&b);
    esp_plan_changes changes;
    expect_ok(esp_plan_diff(&written, &read, &changes, &err), &err);
    assert_int_equal(changes.count, 0);
    esp_plan_changes_free(&changes);
    esp_plan_free(&read);
    esp_plan_free(&written);
    end(&b);
}

static void a_plan_file_for_another_model_says_what_does_not_fit(void **state)
{
    static const char text[] =
        "{\"version\": 1, \"method\": \"wsp\", \"ratio\": 0.5, \"rules\": [{\"layer\": \"zzzzzzz\", "
        "\"ratio\": 0.2}]}";
    bench b = start();
    char path[600];
    esp_error err = {0};

    (void)state;
    snprintf(path, sizeof path, "%s", scratch_path(b.directory, "plan.json"));
    scratch_write(path, text, strlen(text));
    take(&b, 0, path, ESP_PLAN_THEIRS, false);
    const esp_findings *page = page_after(&b, 0);
    assert_non_null(page);
    assert_true(has_row(page, "gone", "zzzzzzz", NULL));
    assert_int_equal(page->takes_version, -1);
    esp_shared_unref(page);
    esp_plan plan = plan_now(&b);
    assert_true(plan.conv_ratio == 0);
    esp_plan_free(&plan);
    take(&b, 0, path, ESP_PLAN_THEIRS, true);
    plan = plan_now(&b);
    assert_true(plan.conv_ratio == 0.5);
    assert_int_equal(plan.rule_count, 0);
    esp_plan_free(&plan);
    expect_ok(esp_session_take_plan(b.session, 0, scratch_path(b.directory, "none.json"), ESP_PLAN_THEIRS,
                                    false, &err),
              &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_IO, &err, "none.json");
    end(&b);
}

static void changes_of_the_plan_are_taken_back_one_by_one(void **state)
{
    bench b = start();
    esp_error err = {0};
    static const double back[] = {0.3, 0.2, 0.0};

    (void)state;
    tiny_edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.2);
    tiny_edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.3);
    tiny_edit(b.session, ESP_EDIT_RESET, 0, 0);
    for (int i = 0; i < 3; i++) {
        expect_ok(esp_session_step_plan(b.session, -1, &err), &err);
        tiny_study_settle(b.session, false, NULL);
        esp_plan plan = plan_now(&b);
        assert_true(plan.conv_ratio == back[i]);
        esp_plan_free(&plan);
    }
    const esp_snapshot *snapshot = esp_session_snapshot(b.session);
    assert_false(snapshot->can_take_back);
    assert_true(snapshot->can_go_forward);
    esp_shared_unref(snapshot);
    expect_ok(esp_session_step_plan(b.session, -1, &err), &err);
    tiny_study_settle(b.session, true, &err);
    expect_failure(err.code, ESP_STATE, &err, "not changed before");
    expect_ok(esp_session_step_plan(b.session, 1, &err), &err);
    tiny_study_settle(b.session, false, NULL);
    esp_plan plan = plan_now(&b);
    assert_true(plan.conv_ratio == 0.2);
    esp_plan_free(&plan);
    tiny_edit(b.session, ESP_EDIT_RATIO_SET, 0, 0.7); /* what was ahead is gone */
    snapshot = esp_session_snapshot(b.session);
    assert_false(snapshot->can_go_forward);
    esp_shared_unref(snapshot);
    end(&b);
}

static void many_changes_keep_the_latest(void **state)
{
    esp_plan_history history = {0};
    esp_error err = {0};
    int steps = 0;

    (void)state;
    for (int i = 0; i < 3 * ESP_PLAN_HISTORY_MAX; i++) {
        esp_plan plan = esp_plan_make(ESP_METHOD_WSP, ESP_MODE_SOUND, i / 1000.0);
        expect_ok(esp_plan_history_note(&history, &plan, &err), &err);
        expect_ok(esp_plan_history_note(&history, &plan, &err), &err); /* the same again */
        esp_plan_free(&plan);
    }
    while (esp_plan_history_has(&history, -1)) {
        esp_plan plan;
        expect_ok(esp_plan_history_step(&history, -1, &plan, &err), &err);
        esp_plan_free(&plan);
        steps++;
    }
    assert_int_equal(steps, ESP_PLAN_HISTORY_MAX - 1);
    esp_plan_history_free(&history);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_are_compared_by_figures_settings_and_layers),
        cmocka_unit_test(the_plan_on_the_screen_is_compared_too),
        cmocka_unit_test(a_comparison_across_models_says_what_does_not_fit),
        cmocka_unit_test(a_plan_without_conflicts_is_taken_over_at_once),
        cmocka_unit_test(conflicts_are_told_before_anything_changes_and_who_wins_can_be_said),
        cmocka_unit_test(rules_of_layers_that_are_gone_are_told_and_moved),
        cmocka_unit_test(a_version_that_asks_nothing_gives_nothing),
        cmocka_unit_test(a_plan_goes_to_a_file_and_comes_back),
        cmocka_unit_test(a_plan_file_for_another_model_says_what_does_not_fit),
        cmocka_unit_test(changes_of_the_plan_are_taken_back_one_by_one),
        cmocka_unit_test(many_changes_keep_the_latest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
