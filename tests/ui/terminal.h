/* A terminal without a screen: the real workbench runs in a pseudo-terminal, libvterm draws what it sends,
 * and tests look at the cells. Waiting is for the workbench's own word that it is idle, never for time. */
#ifndef ESP_TESTS_UI_TERMINAL_H
#define ESP_TESTS_UI_TERMINAL_H

#include <stdbool.h>

#include "ui/app.h"
#include "unit/base/scratch.h"

typedef struct terminal terminal;

typedef struct terminal_options {
    int width, height;
    const char
        *term; /* value of TERM; NULL: screen-256color (libvterm repeats letters wrongly across reads) */
    const char *locale; /* value of LC_ALL; NULL: C.UTF-8 */
    bool has_no_color;  /* sets NO_COLOR */
} terminal_options;

/* Starts ui_app_run in a child process. `app` and its strings are used by the child only. Returns when it is
 * idle, or has ended. */
terminal *terminal_start(const terminal_options *options, const ui_app_options *app);

/* Sends keys, one string per key ("+", "\033[B"), and waits until the workbench has taken all of them and is
 * idle. */
void terminal_press(terminal *t, const char *const *keys, int count);
#define PRESS(t, ...)                                                                                        \
    terminal_press((t), (const char *const[]){__VA_ARGS__},                                                  \
                   (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

/* Sends a signal; sends a key without waiting. */
void terminal_signal(terminal *t, int number);
void terminal_send(terminal *t, const char *key);

/* Changes the size and waits until something was drawn for it. */
void terminal_resize(terminal *t, int width, int height);

/* Waits for the end. Returns the exit status the child had (its esp_status), or 1000 + the signal that ended
 * it. */
int terminal_finish(terminal *t);

/* True when the line settings are what they were before, and the last bytes left full-screen mode with a
 * visible cursor. After terminal_finish. */
bool terminal_is_restored(const terminal *t);

/* The screen as text, a line per row between bars, trailing blanks kept off; rows whose first cell is
 * highlighted begin with '>'. Caller frees with free(). */
char *terminal_text(terminal *t);

/* Everything that was sent since the start, as it came. */
const char *terminal_bytes(const terminal *t);

void terminal_free(terminal *t);

#endif
