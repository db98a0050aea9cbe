/* The action table: consistent, and the only way from a key to an effect. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ui/actions.h"
#include "ui/prompt.h"
#include "unit/base/scratch.h"

static void no_key_means_two_things_in_one_view(void **state)
{
    (void)state;
    for (int view = 0; view < UI_VIEW_COUNT; view++)
        for (int a = 1; a < UI_ACTION_COUNT; a++)
            for (int b = 1; b < UI_ACTION_COUNT; b++) {
                const ui_action *x = ui_action_at((ui_action_id)a), *y = ui_action_at((ui_action_id)b);
                if (a == b || !(x->contexts & y->contexts & (1u << view)))
                    continue;
                assert_int_not_equal(x->key, y->key);
                assert_true(x->second_key == 0 || x->second_key != y->key);
                assert_true(x->second_key == 0 || x->second_key != y->second_key);
            }
}

static void every_action_is_complete_and_reachable(void **state)
{
    (void)state;
    for (int id = 1; id < UI_ACTION_COUNT; id++) {
        const ui_action *action = ui_action_at((ui_action_id)id);
        assert_int_equal(action->id, id);
        assert_true(action->key != 0 && action->contexts != 0);
        assert_true((action->contexts & ~UI_ANYWHERE) == 0);
        assert_true(strlen(action->name) > 0 && strlen(action->title) > 0 && strlen(action->help) > 0);
        assert_true(strlen(action->title) <= 17); /* the help's column */
        assert_true(strlen(ui_action_section((ui_action_id)id)) > 0);
        assert_non_null(action->enabled);
        assert_non_null(action->run);
        assert_true(!action->partner || action->hint[0]);
        for (int view = 0; view < UI_VIEW_COUNT; view++)
            if (action->contexts & (1u << view))
                assert_ptr_equal(ui_action_for_key((ui_view_id)view, action->key), action);
    }
    assert_null(ui_action_at(UI_ACTION_NONE));
    assert_null(ui_action_at(UI_ACTION_COUNT));
}

static void names_are_unique(void **state)
{
    (void)state;
    for (int a = 1; a < UI_ACTION_COUNT; a++)
        for (int b = 1; b < a; b++)
            assert_string_not_equal(ui_action_at((ui_action_id)a)->name, ui_action_at((ui_action_id)b)->name);
}

static void every_view_can_be_left_by_help_and_quit(void **state)
{
    (void)state;
    for (int view = 0; view < UI_VIEW_COUNT; view++) {
        if (view == UI_VIEW_FORM)
            continue; /* letters are typed there */
        assert_int_equal(ui_action_for_key((ui_view_id)view, '?')->id, UI_ACTION_HELP);
        assert_int_equal(ui_action_for_key((ui_view_id)view, 'q')->id, UI_ACTION_QUIT);
    }
    assert_int_equal(ui_action_for_key(UI_VIEW_FORM, UI_KEY_ESCAPE)->id, UI_ACTION_FORM_LEAVE);
}

static void a_key_that_does_nothing_says_why(void **state)
{
    ui_state ui = {0};

    (void)state;
    ui_press(&ui, '+');
    assert_string_equal(ui.message, "Ratio up: no model is open yet");
    ui_press(&ui, 'u');
    assert_non_null(strstr(ui.message, "nothing to undo"));
    ui_press(&ui, 'Y');
    assert_non_null(strstr(ui.message, "Y does nothing"));
    ui.view = UI_VIEW_HISTORY;
    ui_press(&ui, '+');
    assert_non_null(strstr(ui.message, "Ratio up is not in this view"));
}

static void views_change_by_number_and_by_tab_and_help_comes_back(void **state)
{
    ui_state ui = {0};

    (void)state;
    ui_press(&ui, '3');
    assert_int_equal(ui.view, UI_VIEW_GROUPS);
    ui_press(&ui, UI_KEY_TAB);
    assert_int_equal(ui.view, UI_VIEW_TRAIN);
    ui_press(&ui, '?');
    assert_int_equal(ui.view, UI_VIEW_HELP);
    ui_press(&ui, '?');
    assert_int_equal(ui.view, UI_VIEW_TRAIN);
    for (int i = 0; i < UI_VIEW_HELP - UI_VIEW_TRAIN; i++)
        ui_press(&ui, UI_KEY_TAB);
    assert_int_equal(ui.view, UI_VIEW_LAYERS);
}

static void a_prompt_takes_every_key_until_it_is_answered(void **state)
{
    ui_state ui = {0};

    (void)state;
    ui_prompt_open(&ui, UI_PROMPT_FILTER, "", "show");
    ui_press(&ui, 'q');
    ui_press(&ui, 0xe9);
    ui_press(&ui, 0x6a39);
    assert_false(ui.wants_quit);
    assert_string_equal(ui.prompt.text, "q\u00e9\u6a39");
    ui_press(&ui, UI_KEY_BACKSPACE);
    assert_string_equal(ui.prompt.text, "q\u00e9");
    ui_press(&ui, UI_KEY_UP); /* no text */
    assert_string_equal(ui.prompt.text, "q\u00e9");
    ui_press(&ui, UI_KEY_ENTER);
    assert_int_equal(ui.prompt.kind, UI_PROMPT_NONE);
    assert_string_equal(ui.filter, "q\u00e9");
}

static void quitting_with_a_running_job_asks(void **state)
{
    ui_state ui = {.busy = 1, .demanded = 1};

    (void)state;
    ui_press(&ui, 'q');
    assert_int_equal(ui.prompt.kind, UI_PROMPT_QUIT);
    ui_press(&ui, 'x'); /* neither yes nor no */
    assert_int_equal(ui.prompt.kind, UI_PROMPT_QUIT);
    ui_press(&ui, 'n');
    assert_false(ui.wants_quit);
    ui_press(&ui, 'q');
    ui_press(&ui, 'y');
    assert_true(ui.wants_quit);
}

static void an_estimate_nobody_asked_for_does_not_hold_anybody_back(void **state)
{
    ui_state ui = {.busy = 1, .demanded = 0};

    (void)state;
    ui_press(&ui, 'q');
    assert_true(ui.wants_quit);
}

static void the_manual_gets_a_line_per_action(void **state)
{
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    int lines = 0;

    (void)state;
    ui_actions_print(stream);
    fclose(stream);
    for (size_t i = 0; i < size; i++)
        lines += text[i] == '\n';
    assert_int_equal(lines, UI_ACTION_COUNT - 1);
    assert_non_null(strstr(text, "The plan\t+ =\tratio-up\tRatio up\t"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_key_means_two_things_in_one_view),
        cmocka_unit_test(every_action_is_complete_and_reachable),
        cmocka_unit_test(names_are_unique),
        cmocka_unit_test(every_view_can_be_left_by_help_and_quit),
        cmocka_unit_test(a_key_that_does_nothing_says_why),
        cmocka_unit_test(views_change_by_number_and_by_tab_and_help_comes_back),
        cmocka_unit_test(a_prompt_takes_every_key_until_it_is_answered),
        cmocka_unit_test(quitting_with_a_running_job_asks),
        cmocka_unit_test(an_estimate_nobody_asked_for_does_not_hold_anybody_back),
        cmocka_unit_test(the_manual_gets_a_line_per_action),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
