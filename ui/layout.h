/* Where things are: a pure function from the size of the terminal to rectangles. */
#ifndef ESP_UI_LAYOUT_H
#define ESP_UI_LAYOUT_H

#include "ui/canvas.h"

#define UI_LEAST_WIDTH  60
#define UI_LEAST_HEIGHT 18

/* From this width on a view has a panel beside it. */
#define UI_SIDE_FROM_WIDTH 100

typedef struct ui_layout {
    bool is_too_small; /* only `whole` is meaningful: one line says so */
    bool has_side;
    ui_rect whole;
    ui_rect tabs;    /* one row: name, views, model */
    ui_rect body;    /* the view */
    ui_rect side;    /* beside it, when has_side */
    ui_rect plan;    /* one row: a rule with the plan in it */
    ui_rect status;  /* baseline -> now: one row when wide, else two */
    ui_rect message; /* one row: what happened, progress, or a prompt */
    ui_rect hints;   /* one row: what keys do here */
} ui_layout;

/* `wants_side`: the view has something to put there. */
ui_layout ui_layout_make(int width, int height, bool wants_side);

#endif
