/* Rows from top to bottom: tabs, body (and side), plan, status, message, hints. They fill the screen without
 * overlap. */
#include "ui/layout.h"

#define ONE_STATUS_ROW_FROM 116 /* columns */

ui_layout ui_layout_make(int width, int height, bool wants_side)
{
    ui_layout layout = {.whole = {0, 0, width, height}};
    int status_rows = width >= ONE_STATUS_ROW_FROM ? 1 : 2;
    int body_rows = height - 4 - status_rows;
    int side_width = 0;

    layout.is_too_small = width < UI_LEAST_WIDTH || height < UI_LEAST_HEIGHT;
    if (layout.is_too_small)
        return layout;
    layout.has_side = wants_side && width >= UI_SIDE_FROM_WIDTH;
    if (layout.has_side)
        side_width = width * 3 / 10 > 48 ? 48 : width * 3 / 10;
    layout.tabs = (ui_rect){0, 0, width, 1};
    layout.body = (ui_rect){0, 1, width - side_width, body_rows};
    if (layout.has_side)
        layout.side = (ui_rect){width - side_width, 1, side_width, body_rows};
    layout.plan = (ui_rect){0, 1 + body_rows, width, 1};
    layout.status = (ui_rect){0, 2 + body_rows, width, status_rows};
    layout.message = (ui_rect){0, 2 + body_rows + status_rows, width, 1};
    layout.hints = (ui_rect){0, height - 1, width, 1};
    return layout;
}
