/* Charts on a canvas: bars, sorted columns, scatter and lines. One table per alphabet; chart code never knows
 * which. */
#ifndef ESP_UI_CHART_H
#define ESP_UI_CHART_H

#include <stdint.h>

#include "ui/canvas.h"

/* A horizontal bar of `share` (0..1) of `width` cells, in eighths of a cell, over a track. A share above 0
 * always shows. */
void ui_bar(ui_canvas *canvas, int x, int y, int width, double share, ui_element element);

/* A bar with two parts: `kept` of `width` in one element, the rest up to `whole` in another (what is cut
 * away). */
void ui_bar_split(ui_canvas *canvas, int x, int y, int width, double kept, double whole,
                  ui_element kept_element, ui_element cut_element);

/* A column of `height` cells growing upward from the bottom of the rect at column x, `share` 0..1. */
void ui_column(ui_canvas *canvas, int x, ui_rect rect, double share, ui_element element);

/* The same in hatched cells: what is cut, where there are no colours to say so. */
void ui_column_hatched(ui_canvas *canvas, int x, ui_rect rect, double share, ui_element element);

/* One row: a sparkline of `count` values squeezed or spread into `width` cells; scaled by `most`. */
void ui_sparkline(ui_canvas *canvas, int x, int y, int width, const double *values, int count, double most,
                  ui_element element);

/* A grid of dots finer than cells: 2x4 per cell in braille, 2x2 in blocks, 1x1 in ASCII. Dots collect and are
 * drawn together; a cell takes the element of its last dot. */
typedef struct ui_dots {
    ui_canvas *canvas;
    ui_rect rect;
    int columns, rows; /* dots across and down */
    uint8_t *bits;     /* per cell */
    uint8_t *elements; /* per cell */
} ui_dots;

esp_status ui_dots_new(ui_canvas *canvas, ui_rect rect, ui_dots *out, esp_error *err);
void ui_dots_set(ui_dots *dots, int column, int row, ui_element element);
void ui_dots_line(ui_dots *dots, int column_0, int row_0, int column_1, int row_1, ui_element element);
void ui_dots_draw(ui_dots *dots); /* draws and frees */

/* The sign for one cell of a heatmap at heat `step` of UI_HEAT_STEPS; colours carry it where there are
 * colours, the sign alone does in ASCII and mono. */
uint32_t ui_heat_rune(const ui_canvas *canvas, int step);

#endif
