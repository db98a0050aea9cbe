/* One frame: tabs, view, status, message and hints, drawn from the state into a canvas. */
#ifndef ESP_UI_FRAME_H
#define ESP_UI_FRAME_H

#include "ui/state.h"

typedef struct ui_cursor {
    int x, y; /* x below 0: hidden */
} ui_cursor;

ui_cursor ui_draw_frame(ui_state *state, ui_canvas *canvas);

#endif
