/* Golden screens: the real workbench on a tiny model, keys in, screens out, compared with tests/ui/screens/.
 * A changed screen fails with the new one printed; UPDATE_SCREENS=1 rewrites the files, and a person reads
 * the difference. */
/* labels: threads */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/onnx.h"
#include "terminal.h"
#include "unit/study/tiny_study.h"

/* A file of screens, being written while it is compared. */
typedef struct album {
    terminal *t;
    char *directory;
    char name[64];
    char *text;
    size_t length;
    FILE *stream;
} album;

static const char *const down = "\033[B", *const right = "\033[C", *const enter = "\r",
                         *const escape = "\033";

/* Filled in place: its stream points into it. */
static void album_open(album *a, const char *name, const terminal_options *options)
{
    char model[512], data[512];
    ui_app_options app = {.threads = 2};

    memset(a, 0, sizeof *a);
    a->directory = scratch_make();
    tiny_study_write(a->directory);
    snprintf(model, sizeof model, "%s", scratch_path(a->directory, "tiny.onnx"));
    snprintf(data, sizeof data, "idx:%s", scratch_path(a->directory, "data"));
    app.model_path = model;
    app.data_spec = data;
    snprintf(a->name, sizeof a->name, "%s", name);
    a->stream = open_memstream(&a->text, &a->length);
    a->t = terminal_start(options, &app);
}

static void shoot(album *a, const char *title)
{
    char *screen = terminal_text(a->t);

    fprintf(a->stream, "== %s\n%s", title, screen);
    free(screen);
}

static char *stored_path(const album *a)
{
    static char path[600];

    snprintf(path, sizeof path, "%s/tests/ui/screens/%s.txt", ESP_SOURCE_DIR, a->name);
    return path;
}

/* The lines that differ, with the title of their screen. */
static void print_difference(const char *stored, const char *now)
{
    char title[128] = "";

    while (*stored || *now) {
        size_t stored_length = strcspn(stored, "\n"), now_length = strcspn(now, "\n");
        if (strncmp(now, "== ", 3) == 0)
            snprintf(title, sizeof title, "%.*s", (int)now_length, now);
        if (stored_length != now_length || strncmp(stored, now, now_length) != 0)
            printf("%s\n  stored %.*s\n  now    %.*s\n", title, (int)stored_length, stored, (int)now_length,
                   now);
        stored += stored_length + (stored[stored_length] == '\n');
        now += now_length + (now[now_length] == '\n');
    }
    fflush(stdout);
}

/* Quits, and compares everything that was shot. */
static void album_close(album *a)
{
    char *stored = NULL;
    size_t size = 0;
    int status;
    bool is_restored;
    FILE *file;

    terminal_send(a->t, "q");
    terminal_send(a->t, "y");
    status = terminal_finish(a->t);
    is_restored = terminal_is_restored(a->t);
    terminal_free(a->t);
    scratch_remove(a->directory);
    fclose(a->stream);
    if (getenv("UPDATE_SCREENS"))
        scratch_write(stored_path(a), a->text, a->length);
    file = fopen(stored_path(a), "r");
    if (file) {
        fclose(file);
        stored = scratch_read(stored_path(a), &size);
    }
    if (!stored || strcmp(stored, a->text) != 0) {
        print_difference(stored ? stored : "", a->text);
        fail_msg("the screens differ from %s; UPDATE_SCREENS=1 rewrites it", stored_path(a));
    }
    free(stored);
    free(a->text);
    assert_int_equal(status, ESP_OK);
    assert_true(is_restored);
}

/* Every view, with a plan, through a cut. */
static void tour(const char *name, const terminal_options *options)
{
    album a;

    album_open(&a, name, options);
    shoot(&a, "start");
    PRESS(a.t, "+", "+", "+", "+", "+", "+", "+", "+", "+", "+", "+", "+");
    shoot(&a, "ratio 0.60");
    PRESS(a.t, down, right, right, "i");
    shoot(&a, "the next layer ignored");
    PRESS(a.t, "R", "2");
    shoot(&a, "saliency");
    PRESS(a.t, ".", ".", ".");
    shoot(&a, "why a filter goes");
    PRESS(a.t, "\033[A", "w");
    shoot(&a, "scatter");
    PRESS(a.t, "6");
    shoot(&a, "trade-off, nothing yet");
    PRESS(a.t, "S");
    shoot(&a, "trade-off after a scan");
    PRESS(a.t, "w");
    shoot(&a, "the other half of it");
    PRESS(a.t, "w", "B");
    shoot(&a, "a budget is asked for");
    PRESS(a.t, escape, "2", "w",
          "m"); /* what a key may do depends on what is on the screen: wait for the method */
    PRESS(a.t, "(", "3", down);
    shoot(&a, "groups");
    PRESS(a.t, "4");
    shoot(&a, "train, nothing yet");
    PRESS(a.t, "x");
    PRESS(a.t, "5");
    shoot(&a, "history after a cut");
    PRESS(a.t, "u");
    PRESS(a.t, "1", "m", "x");
    PRESS(a.t, "5");
    shoot(&a, "history with a branch");
    PRESS(a.t, "\033[A", "v", down);
    PRESS(a.t, "d");
    shoot(&a, "differences of two versions");
    PRESS(a.t, escape);
    PRESS(a.t, "1", "+", "5", "\033[A", "p");
    shoot(&a, "another version's plan, and where it and this one differ");
    PRESS(a.t, "o");
    shoot(&a, "its rules only");
    PRESS(a.t, escape);
    PRESS(a.t, "1", "0");
    PRESS(a.t, "t");
    shoot(&a, "the form of a training");
    PRESS(a.t, "2", " ", "0", ".", "0", "5", " ", "a", "d", "a", "m", "\t");
    PRESS(a.t, down, down, right, "\033[F", "x");
    shoot(&a, "a wrong value in it");
    PRESS(a.t, "\033[3~", "\r");
    shoot(&a, "curves of a training");
    PRESS(a.t, "u");
    PRESS(a.t, "5");
    PRESS(a.t, "?");
    shoot(&a, "help");
    PRESS(a.t, "?", "1", ")");
    shoot(&a, "a key that does nothing here");
    PRESS(a.t, "/", "v", "2");
    shoot(&a, "filter");
    PRESS(a.t, escape, "s");
    shoot(&a, "save as");
    PRESS(a.t, escape, "q");
    shoot(&a, "unsaved versions");
    PRESS(a.t, "n");
    album_close(&a);
}

static void screens_at_80x24(void **state)
{
    (void)state;
    tour("80x24", &(terminal_options){.width = 80, .height = 24});
}

static void screens_at_120x36(void **state)
{
    (void)state;
    tour("120x36", &(terminal_options){.width = 120, .height = 36});
}

static void screens_at_60x18(void **state)
{
    (void)state;
    tour("60x18", &(terminal_options){.width = 60, .height = 18});
}

static void screens_in_ascii_without_colour(void **state)
{
    (void)state;
    tour("80x24_ascii", &(terminal_options){.width = 80, .height = 24, .locale = "C", .has_no_color = true});
}

static void a_terminal_that_shrinks_says_what_it_needs_and_recovers(void **state)
{
    album a;

    (void)state;
    album_open(&a, "resize", &(terminal_options){.width = 80, .height = 24});
    terminal_resize(a.t, 40, 10);
    shoot(&a, "40x10");
    terminal_resize(a.t, 20, 5);
    shoot(&a, "20x5");
    terminal_resize(a.t, 70, 20);
    shoot(&a, "70x20");
    album_close(&a);
}

static void typing_a_ratio_and_saving_work_by_prompt(void **state)
{
    char *directory = scratch_make();
    char model[512], target[512];
    ui_app_options app = {.threads = 1, .model_path = model};

    (void)state;
    tiny_study_write(directory);
    snprintf(model, sizeof model, "%s", scratch_path(directory, "tiny.onnx"));
    snprintf(target, sizeof target, "%s", scratch_path(directory, "o"));
    terminal *t = terminal_start(&(terminal_options){.width = 80, .height = 24}, &app);
    PRESS(t, "r", "0", ".", "6", enter);
    char *text = terminal_text(t);
    assert_non_null(strstr(text, "*0.60"));
    free(text);
    PRESS(t, "s", "\025");
    for (const char *letter = target; *letter; letter++)
        terminal_send(t, (const char[]){*letter, '\0'});
    PRESS(t, enter);
    text = terminal_text(t);
    assert_non_null(strstr(text, "saved version 1"));
    free(text);
    esp_graph *graph = NULL;
    esp_error err = {0};
    expect_ok(esp_onnx_load(target, &graph, &err), &err);
    esp_graph_unref(graph);
    terminal_send(t, "q");
    assert_int_equal(terminal_finish(t), ESP_OK);
    terminal_free(t);
    scratch_remove(directory);
}

static void a_prompt_that_makes_no_sense_says_what_it_wants(void **state)
{
    char *directory = scratch_make();
    char model[512], data[600];
    ui_app_options app = {.threads = 1, .model_path = model, .data_spec = data};

    (void)state;
    tiny_study_write(directory);
    snprintf(model, sizeof model, "%s", scratch_path(directory, "tiny.onnx"));
    snprintf(data, sizeof data, "idx:%s", scratch_path(directory, "data"));
    terminal *t = terminal_start(&(terminal_options){.width = 100, .height = 24}, &app);
    PRESS(t, "t", "2", " ", "x", enter);
    char *text = terminal_text(t);
    assert_non_null(strstr(text, "'x', expected a number, an optimizer"));
    free(text);
    PRESS(t, "\025", "2", " ", "0", enter);
    text = terminal_text(t);
    assert_non_null(strstr(text, "learning rate '0', expected a number above 0"));
    free(text);
    PRESS(t, "\025", "0", enter);
    text = terminal_text(t);
    assert_non_null(strstr(text, "epochs '0', expected a number above 0"));
    free(text);
    PRESS(t, escape);
    terminal_send(t, "q");
    assert_int_equal(terminal_finish(t), ESP_OK);
    terminal_free(t);
    scratch_remove(directory);
}

static int times(const char *text, const char *part)
{
    int count = 0;

    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
        count++;
    return count;
}

static terminal *open_sample(const char *name)
{
    static char model[600];
    ui_app_options app = {.threads = 2, .model_path = model};

    snprintf(model, sizeof model, "%s/sample_models/%s", ESP_SOURCE_DIR, name);
    return terminal_start(&(terminal_options){.width = 120, .height = 36}, &app);
}

static void leave(terminal *t)
{
    terminal_send(t, "q");
    terminal_send(t, "y");
    assert_int_equal(terminal_finish(t), ESP_OK);
    terminal_free(t);
}

/* Channels that are added to others stay when the plan cuts them in one place only. */
static void zeros_that_stay_are_told_beside_what_is_cut(void **state)
{
    terminal *t = open_sample("resnet20_pruned.onnx");

    (void)state;
    PRESS(t, "M");
    PRESS(t, "+", "+", "+", "+", "+", "+", "+", "+");
    char *text = terminal_text(t);
    assert_non_null(strstr(text, " MACs with the zeros that stay, which a runtime computes"));
    assert_non_null(strstr(text, "stored     90, zeros stay")); /* all of conv1, which the plan cuts */
    free(text);
    PRESS(t, "M");
    text = terminal_text(t);
    assert_null(strstr(text, "stored")); /* in sound mode surgery takes all of them out */
    free(text);
    leave(t);
}

/* A group of a cut layer is a layer of its own: one reason holds for each of them. */
static void a_reason_is_told_once_for_all_coupled_sets(void **state)
{
    terminal *t = open_sample("resnet20_pruned.onnx");

    (void)state;
    PRESS(t, "m", "+", "+", "+", "+", "+", "+");
    PRESS(t, "x");
    PRESS(t, "m");
    PRESS(t, "m");
    PRESS(t, "+", "+", "+", "+", "+", "+");
    char *text = terminal_text(t);
    assert_int_equal(times(text, "% uncuttable"), 1);
    free(text);
    leave(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(screens_at_80x24),
        cmocka_unit_test(screens_at_120x36),
        cmocka_unit_test(screens_at_60x18),
        cmocka_unit_test(screens_in_ascii_without_colour),
        cmocka_unit_test(a_terminal_that_shrinks_says_what_it_needs_and_recovers),
        cmocka_unit_test(typing_a_ratio_and_saving_work_by_prompt),
        cmocka_unit_test(zeros_that_stay_are_told_beside_what_is_cut),
        cmocka_unit_test(a_reason_is_told_once_for_all_coupled_sets),
        cmocka_unit_test(a_prompt_that_makes_no_sense_says_what_it_wants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
