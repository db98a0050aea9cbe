/* The cell buffer that views draw into: text, lines and charts as cells of a code point and a theme element.
 * Nothing here knows a terminal; screen.c puts the cells on one. */
#ifndef ESP_UI_CANVAS_H
#define ESP_UI_CANVAS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "ui/theme.h"

typedef struct ui_rect {
    int x, y, width, height;
} ui_rect;

static inline bool ui_rect_is_empty(ui_rect rect)
{
    return rect.width <= 0 || rect.height <= 0;
}

/* The rectangle without the first `left` and last `right` columns, `top` and `bottom` rows; never negative.
 */
ui_rect ui_rect_shrink(ui_rect rect, int left, int top, int right, int bottom);

typedef struct ui_cell {
    uint32_t rune;   /* Unicode code point; 0: the right half of a wide one */
    uint8_t element; /* ui_element */
    uint8_t is_selected;
} ui_cell;

/* Alphabets for charts: what a terminal can show. */
typedef enum ui_alphabet { UI_BRAILLE, UI_BLOCK, UI_ASCII } ui_alphabet;

typedef struct ui_canvas {
    int width, height;
    ui_alphabet alphabet;
    bool is_mono;   /* signs must say what colours cannot */
    ui_cell *cells; /* [height, width] */
} ui_canvas;

esp_status ui_canvas_new(int width, int height, ui_alphabet alphabet, ui_canvas *out, esp_error *err);
void ui_canvas_free(ui_canvas *canvas);
void ui_canvas_clear(ui_canvas *canvas);

/* NULL outside. */
const ui_cell *ui_canvas_at(const ui_canvas *canvas, int x, int y);

/* One cell; outside nothing happens. A wide code point takes two and becomes a blank at the right edge. */
void ui_put(ui_canvas *canvas, int x, int y, uint32_t rune, ui_element element);

/* UTF-8 text in at most `width` columns, cut with an ellipsis. Control characters and bytes that are no UTF-8
 * show as
 * '?'. Returns the columns used. */
int ui_text(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element);
int ui_textf(ui_canvas *canvas, int x, int y, int width, ui_element element, const char *format, ...)
    ESP_PRINTF(6, 7);

/* The same, ending at column x + width. */
void ui_text_right(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element);

/* As ui_text, but a text that is too long loses its middle: "layer1.…conv2". Names differ at their ends. */
int ui_text_middle(ui_canvas *canvas, int x, int y, int width, const char *text, ui_element element);

/* Columns a text takes. */
int ui_text_width(const char *text);

/* Marks a row of a rectangle as selected. */
void ui_select_row(ui_canvas *canvas, ui_rect rect, int y);

/* Lines. */
void ui_horizontal(ui_canvas *canvas, int x, int y, int width, ui_element element);
void ui_vertical(ui_canvas *canvas, int x, int y, int height, ui_element element);

/* A thin rule with a heading in it: "── Layers ─────". */
void ui_heading(ui_canvas *canvas, int x, int y, int width, const char *title);

#endif
