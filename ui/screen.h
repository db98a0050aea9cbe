/* The terminal: the only file that calls curses. Opening it changes the terminal's state; closing, a fatal
 * signal, or the end of the program by any normal path puts it back. */
#ifndef ESP_UI_SCREEN_H
#define ESP_UI_SCREEN_H

#include "ui/canvas.h"
#include "ui/keys.h"

typedef struct ui_screen ui_screen;

/* What the terminal can do, found before anything is changed. ESP_UNSUPPORTED when standard input or output
 * is no terminal, or TERM names one that cannot move its cursor; nothing was written then. `theme` may be
 * NULL (chosen), `is_ascii` forces the plainest alphabet. One screen at a time. */
esp_status ui_screen_open(const char *theme, bool is_ascii, ui_screen **out, esp_error *err);

/* Puts the terminal back; NULL is allowed. */
void ui_screen_close(ui_screen *screen);

ui_theme ui_screen_theme(const ui_screen *screen);
ui_alphabet ui_screen_alphabet(const ui_screen *screen);
void ui_screen_size(const ui_screen *screen, int *width, int *height);

/* After SIGWINCH: asks the terminal for its size and takes it over. */
void ui_screen_resize(ui_screen *screen);

/* Shows a canvas of the screen's size; `cursor_x` below 0 hides the cursor. */
void ui_screen_blit(ui_screen *screen, const ui_canvas *canvas, int cursor_x, int cursor_y);

/* The next key that is there, UI_KEY_NONE when there is none; never waits. */
ui_key ui_screen_key(ui_screen *screen);

#endif
