/* However the workbench ends, the terminal is as it was before. */
/* labels: threads */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "terminal.h"
#include "unit/study/tiny_study.h"

static char *directory;
static char model[512], data[600];

static int make_files(void **state)
{
    (void)state;
    directory = scratch_make();
    tiny_study_write(directory);
    snprintf(model, sizeof model, "%s", scratch_path(directory, "tiny.onnx"));
    snprintf(data, sizeof data, "idx:%s", scratch_path(directory, "data"));
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    scratch_remove(directory);
    return 0;
}

static terminal *start_on(const char *path, const char *term)
{
    ui_app_options app = {.threads = 2, .model_path = path, .data_spec = data};

    return terminal_start(&(terminal_options){.width = 80, .height = 24, .term = term}, &app);
}

static void end_by_signal(int number, int expected)
{
    terminal *t = start_on(model, NULL);

    terminal_signal(t, number);
    assert_int_equal(terminal_finish(t), expected);
    assert_true(terminal_is_restored(t));
    terminal_free(t);
}

static void quitting_restores_the_terminal(void **state)
{
    terminal *t = start_on(model, NULL);

    (void)state;
    assert_false(terminal_is_restored(t)); /* the check can tell */
    terminal_send(t, "q");
    assert_int_equal(terminal_finish(t), ESP_OK);
    assert_true(terminal_is_restored(t));
    terminal_free(t);
}

static void signals_that_ask_to_end_restore_the_terminal(void **state)
{
    (void)state;
    end_by_signal(SIGINT, ESP_CANCELLED);
    end_by_signal(SIGTERM, ESP_CANCELLED);
    end_by_signal(SIGHUP, ESP_CANCELLED);
}

static void crashes_restore_the_terminal_and_stay_crashes(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* the sanitizer turns the signal into an exit of its own */
#endif
    end_by_signal(SIGSEGV, 1000 + SIGSEGV);
    end_by_signal(SIGABRT, 1000 + SIGABRT);
}

static void ctrl_c_ends_a_training_too(void **state)
{
    terminal *t = start_on(model, NULL);

    (void)state;
    PRESS(t, "t", "\025", "9", "9");
    terminal_send(t, "\r");
    terminal_send(t, "\003");
    assert_int_equal(terminal_finish(t), ESP_CANCELLED);
    assert_true(terminal_is_restored(t));
    terminal_free(t);
}

static void a_model_that_cannot_be_opened_ends_with_its_error(void **state)
{
    terminal *t = start_on("/nowhere/missing.onnx", NULL);

    (void)state;
    assert_int_equal(terminal_finish(t), ESP_IO);
    assert_true(terminal_is_restored(t));
    assert_non_null(strstr(terminal_bytes(t), "/nowhere/missing.onnx"));
    terminal_free(t);
}

static void a_terminal_that_can_do_nothing_is_refused_before_anything_is_drawn(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        terminal *t = start_on(model, i == 0 ? "dumb" : "no-such-terminal");
        assert_int_equal(terminal_finish(t), ESP_UNSUPPORTED);
        assert_true(terminal_is_restored(t));
        assert_null(strstr(terminal_bytes(t), "\033[?1049h"));
        assert_non_null(strstr(terminal_bytes(t), "TERM is"));
        terminal_free(t);
    }
}

static void data_that_do_not_fit_are_reported_and_the_model_stays(void **state)
{
    ui_app_options app = {.threads = 2, .model_path = model, .data_spec = "idx:/nowhere"};
    terminal *t = terminal_start(&(terminal_options){.width = 80, .height = 24}, &app);
    char *text = terminal_text(t);

    (void)state;
    assert_non_null(strstr(text, "/nowhere"));
    assert_non_null(strstr(text, "logits"));
    free(text);
    PRESS(t, "e");
    text = terminal_text(t);
    assert_non_null(strstr(text, "no data is open"));
    free(text);
    terminal_send(t, "q");
    assert_int_equal(terminal_finish(t), ESP_OK);
    terminal_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quitting_restores_the_terminal),
        cmocka_unit_test(signals_that_ask_to_end_restore_the_terminal),
        cmocka_unit_test(crashes_restore_the_terminal_and_stay_crashes),
        cmocka_unit_test(ctrl_c_ends_a_training_too),
        cmocka_unit_test(a_model_that_cannot_be_opened_ends_with_its_error),
        cmocka_unit_test(a_terminal_that_can_do_nothing_is_refused_before_anything_is_drawn),
        cmocka_unit_test(data_that_do_not_fit_are_reported_and_the_model_stays),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
