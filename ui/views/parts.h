/* Pieces that several views draw. */
#ifndef ESP_UI_VIEWS_PARTS_H
#define ESP_UI_VIEWS_PARTS_H

#include "ui/state.h"

/* Why a layer takes no part, in a word; "" when it does. */
const char *ui_layer_word(const ui_state *state, int layer);

/* What people call a layer: its weight's name without ".weight" when it has that form (module paths of
 * frameworks), else the node's. */
char *ui_layer_name(const esp_layer *layer, char *buffer, size_t size);

/* "3x3 16>32", "fc 64>10". */
char *ui_layer_shape(const ui_canvas *canvas, const esp_layer *layer, char *buffer, size_t size);

/* The side panel about the selected layer. */
void ui_draw_layer_side(ui_state *state, ui_canvas *canvas, ui_rect rect);

/* Where the value of a fact stands. */
#define UI_FACT_COLUMN 11

/* A line "label      value" at the top of `rect`, which shrinks by it. `ui_fact_at`: the value at `column`.
 */
void ui_fact(ui_canvas *canvas, ui_rect *rect, const char *label, ui_element element, const char *format, ...)
    ESP_PRINTF(5, 6);
void ui_fact_at(ui_canvas *canvas, ui_rect *rect, int column, const char *label, ui_element element,
                const char *format, ...) ESP_PRINTF(6, 7);

/* Text broken into lines at the top of `rect`, which shrinks by them. */
void ui_paragraph(ui_canvas *canvas, ui_rect *rect, const char *text, ui_element element);

/* First row to show so that `cursor` of `count` rows is among `height`. */
int ui_scroll(int top, int cursor, int count, int height);

/* In the middle of an area. */
void ui_say_empty(ui_canvas *canvas, ui_rect rect, const char *text);

/* What a filter's bar in sorted order looks like: kept, or cut by the plan. */
bool ui_filter_is_kept(const esp_preview_layer *item, int64_t filter);

/* Sorted scores of the selected layer as columns over the whole rect; returns columns used per filter times 1
 * (0 when several filters share a column). */
void ui_draw_sorted(ui_canvas *canvas, ui_rect rect, const esp_layer_detail *detail,
                    const esp_preview_layer *item);

#endif
